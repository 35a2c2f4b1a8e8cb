//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/gatewarden/gatewarden/integration/harness"
)

func TestTheWorkloadCannotReachTheGateway(t *testing.T) {
	dir := mountDir(t)
	writeFile(t, dir+"/config", "token = secret\n", 0o644)
	c := run(t, options{profile: &harness.Profile{More: mountTable(dir, "/etc/gateway")}})
	before := c.status()
	out := c.mustExec("testworkload", "attack", "--pid", strconv.Itoa(before.NSPID), "--address", harness.GatewayAddress,
		"--config", "/etc/gateway/config")
	// What the kernel has to answer; where two answers are right, both are here.
	want := map[string][]string{
		"kill":                   {"EPERM"},
		"pidfd_send_signal":      {"EPERM"},
		"ptrace":                 {"EPERM"},
		"process_vm_readv":       {"EPERM"},
		"prlimit":                {"EPERM"},
		"open for reading":       {"EACCES"},
		"open for writing":       {"EACCES", "EROFS", "ETXTBSY"},
		"unlink":                 {"EACCES", "EROFS"},
		"bind":                   {"EADDRINUSE"},
		"bind with SO_REUSEPORT": {"EADDRINUSE"},
	}
	seen := map[string]bool{}
	for line := range strings.Lines(out) {
		got := decode[struct{ Attack, Target, Errno string }](t, line)
		seen[got.Attack] = true
		if !slices.Contains(want[got.Attack], got.Errno) {
			t.Errorf("%s of %s: %q, want %v", got.Attack, got.Target, got.Errno, want[got.Attack])
		}
	}
	if len(seen) != len(want) {
		t.Errorf("%d kinds of attack were tried, want %d:\n%s", len(seen), len(want), out)
	}
	if after := c.status(); after.PID != before.PID || after.Restarts.Unasked != 0 {
		t.Errorf("the attacks ended the gateway: %+v", after)
	}
	c.ask()
}

func TestTheGatewayHasNoPrivilegesWhateverTheContainerWasGranted(t *testing.T) {
	for _, test := range []struct {
		name string
		o    options
		more string
	}{
		{"granted SYS_ADMIN and DAC_OVERRIDE", options{flags: []string{"--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_DAC_OVERRIDE"}}, ""},
		{"with seccomp", options{flags: []string{"--seccomp", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_DAC_OVERRIDE"}}, ""},
		{
			"beside a root workload that holds them",
			options{user: "0", flags: append(dropFlags(), "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_DAC_OVERRIDE")},
			"[posture]\nallow = [\"workload-cap-sys-admin\", \"workload-cap-dac-override\"]\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			profile := mountedGateway(gatewayDir(t))
			profile.More += test.more
			test.o.profile = profile
			c := run(t, test.o)
			s := c.restartedStatus()
			for _, p := range []struct {
				what string
				pid  int
			}{{"gateway", s.PID}, {"standby", s.Standby.PID}} {
				if p.pid == 0 {
					t.Errorf("there is no %s", p.what)
					continue
				}
				checkPosture(t, p.what, p.pid, slices.Contains(test.o.flags, "--seccomp"))
			}
			// It is in the container's namespaces, all of them.
			for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
				if inode(t, fmt.Sprintf("/proc/%d/ns/%s", s.PID, ns)) != inode(t, fmt.Sprintf("/proc/%d/ns/%s", c.init(), ns)) {
					t.Errorf("the gateway's %s namespace is not the container's", ns)
				}
			}
		})
	}
}

// checkPosture reads what a process may from /proc.
func checkPosture(t *testing.T, what string, pid int, seccomp bool) {
	t.Helper()
	got := procStatus(t, pid)
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if got[set] != strings.Repeat("0", 16) {
			t.Errorf("the %s has %s %s", what, set, got[set])
		}
	}
	id := strconv.Itoa(harness.GatewayUID)
	ids := strings.Join([]string{id, id, id, id}, "\t")
	if got["Uid"] != ids || got["Gid"] != ids {
		t.Errorf("the %s has the UIDs %q and the GIDs %q, want %q", what, got["Uid"], got["Gid"], ids)
	}
	if got["Groups"] != "" {
		t.Errorf("the %s has the groups %q, want none", what, got["Groups"])
	}
	if got["NoNewPrivs"] != "1" {
		t.Errorf("the %s has NoNewPrivs %s", what, got["NoNewPrivs"])
	}
	want := "0"
	if seccomp {
		want = "2"
	}
	if got["Seccomp"] != want {
		t.Errorf("the %s has Seccomp %s, want %s as the container", what, got["Seccomp"], want)
	}
}

func TestAMaliciousMountTargetIsRefusedAndTheHostIsUntouched(t *testing.T) {
	for _, link := range []string{"/", "/proc/self/root", "/proc/1/root", "../../../../../..", "/proc/self/root/etc", "/etc"} {
		t.Run(link, func(t *testing.T) {
			name := "test.local/" + uniqueID("malicious") + ":latest"
			importImage(t, harness.Image{Name: name, Files: []harness.File{
				{Path: "/opt", Mode: os.ModeDir | 0o755},
				{Path: "/opt/gateway", Mode: os.ModeSymlink | 0o777, Content: []byte(link)},
			}})
			for _, target := range []string{"/opt/gateway", "/opt/gateway/deeper"} {
				dir := mountDir(t)
				writeFile(t, dir+"/config", "token = secret\n", 0o644)
				c, r := tryRun(t, options{image: name, profile: &harness.Profile{More: mountTable(dir, target)}})
				if r.Status != 1 || !strings.Contains(r.Stderr, target) || !strings.Contains(r.Stderr, "link") {
					t.Errorf("the target %s, where /opt/gateway is a link to %s, is not refused as a link:\n%v", target, link, r)
				}
				c.checkGone()
				if mounts := mountsOf(t, dir); len(mounts) != 0 {
					t.Errorf("%s is mounted on the host at %v", dir, mounts)
				}
				c.delete()
			}
		})
	}
}

// mountsOf lists where the directory dir is mounted in the host's mount namespace.
func mountsOf(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		// Root is the mounted directory's path within its filesystem, which may itself be mounted at one of dir's parents.
		return !strings.HasSuffix(dir, m.Root) || m.Root == "/", false
	})
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, m := range mounts {
		points = append(points, m.Mountpoint)
	}
	return points
}

func TestTheImagesPasswdAndEnvironmentAreNotAuthority(t *testing.T) {
	hostile := []string{
		"LD_PRELOAD=/tmp/evil.so", "LD_AUDIT=/tmp/evil.so", "LD_LIBRARY_PATH=/tmp", "GODEBUG=execerrdot=0,netdns=cgo", "GOGC=1",
		"GOTRACEBACK=crash", "NOTIFY_SOCKET=/tmp/notify", "LISTEN_FDS=3", "LISTEN_PID=1", "LISTEN_FDNAMES=api", "PATH=/tmp",
		"HOME=/tmp", "GATEWARDEN_CONFIG=/tmp/config.toml", "_LIBCONTAINER_INITPIPE=3", "BASH_ENV=/tmp/evil", "TMPDIR=/tmp/x",
	}
	name := "test.local/hostile:latest"
	importImage(t, harness.Image{Name: name, Env: hostile, Files: []harness.File{
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/:/bin/sh\n64990:x:0:0::/:/bin/sh\ngateway:x:0:0::/:/bin/sh\nagent:x:1000:1000::/:/bin/sh\n")},
		{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:64990,gateway\n64990:x:0:\nwheel:x:10:64990\n")},
	}})
	c := run(t, options{image: name, profile: &harness.Profile{Gateway: "env = { TOKEN_FILE = \"/run/token\" }"}})
	s := c.restartedStatus()
	checkPosture(t, "gateway", s.PID, false)
	checkPosture(t, "standby", s.Standby.PID, false)

	var env []string
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.PID))
	if err != nil {
		t.Fatal(err)
	}
	for entry := range strings.SplitSeq(strings.TrimRight(string(data), "\x00"), "\x00") {
		env = append(env, entry)
		if slices.Contains(hostile, entry) {
			t.Errorf("the gateway has the image's %s", entry)
		}
	}
	if !slices.Contains(env, "TOKEN_FILE=/run/token") {
		t.Errorf("the gateway's environment is %v, without the profile's", env)
	}
	if data, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.Warden.PID)); err != nil {
		t.Fatal(err)
	}
	if len(data) != 0 {
		t.Errorf("the warden has the environment %q, want none", data)
	}
}

func TestTheWardenHoldsNothingOfTheContainersOrTheHooks(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	pid := c.status().Warden.PID
	for link, want := range map[string]string{"cwd": "/", "root": "/"} {
		if got, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, link)); err != nil || got != want {
			t.Errorf("the warden's %s is %q (%v), want %q", link, got, err, want)
		}
	}
	for _, ns := range []string{"mnt", "net", "pid", "user", "uts", "ipc"} {
		if inode(t, fmt.Sprintf("/proc/%d/ns/%s", pid, ns)) != inode(t, "/proc/self/ns/"+ns) {
			t.Errorf("the warden's %s namespace is not the host's", ns)
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// Field 6 is the session.
	if fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); fields[3] != strconv.Itoa(pid) {
		t.Errorf("the warden, PID %d, is in session %s", pid, fields[3])
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/[012]", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "pipe:") {
			t.Errorf("the warden's descriptor %s is a %s: the hook's", filepath.Base(fd), target)
		}
	}
}
