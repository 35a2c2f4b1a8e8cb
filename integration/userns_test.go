//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// mapFlags give a container a user namespace; each map is INSIDE:HOST:COUNT, for UIDs and GIDs.
func mapFlags(maps ...string) []string {
	var flags []string
	for _, m := range maps {
		flags = append(flags, "--uidmap", m, "--gidmap", m)
	}
	return flags
}

// usernsBase is the host's UID of the container's root, and so on, under usernsMap.
const (
	usernsBase = 200000
	usernsMap  = "0:200000:65536"
)

// ownedBy checks who owns what is at path.
func ownedBy(t *testing.T, path string, uid, gid int) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Errorf("stat %s: %v", path, err)
	} else if int(st.Uid) != uid || int(st.Gid) != gid {
		t.Errorf("%s belongs to %d:%d, want %d:%d", path, st.Uid, st.Gid, uid, gid)
	}
}

// checkMapped checks who a process is for the host, and that it is in the container's user namespace without any capability.
func (c *container) checkMapped(what string, pid, uid int, groups string) {
	c.t.Helper()
	got := procStatus(c.t, pid)
	four := strings.Join(slices.Repeat([]string{strconv.Itoa(uid)}, 4), "\t")
	if got["Uid"] != four || got["Gid"] != four || got["Groups"] != groups {
		c.t.Errorf("the %s has the UIDs %q, the GIDs %q and the groups %q, want %q and %q", what, got["Uid"], got["Gid"], got["Groups"], four, groups)
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if got[set] != strings.Repeat("0", 16) {
			c.t.Errorf("the %s has %s %s", what, set, got[set])
		}
	}
	user := fmt.Sprintf("/proc/%d/ns/user", pid)
	if inode(c.t, user) != inode(c.t, fmt.Sprintf("/proc/%d/ns/user", c.init())) || inode(c.t, user) == inode(c.t, "/proc/self/ns/user") {
		c.t.Errorf("the %s is not in the container's user namespace", what)
	}
}

func TestAGatewayInAUserNamespaceHasItsProfilesNumbersInside(t *testing.T) {
	const uid = usernsBase + harness.GatewayUID
	c := &configured{t: t, source: mountDir(t)}
	writeFile(t, filepath.Join(c.source, "conf"), goodConf, 0o644)
	writeFile(t, filepath.Join(c.source, "keys"), "for the gateway's group", 0o640)
	secret := putSecret(t, secretsDir(t)+"/token", "one")
	p := configuredProfile(c.source)
	p.Gateway = "groups = [5000]"
	p.Ready = "exec = [\"/bin/sh\", \"-c\", \"echo asked >/dev/stdout; test -r /etc/gateway/conf\"]\ntimeout = \"5s\""
	p.More += "[unlock]\npaths = [\"/etc/gateway/conf\"]\nmax = \"10m\"\n[[state]]\ntarget = \"/var/lib/gateway\"\n" + credentialsTable("token", secret)
	// A program that opens its standard output anew.
	p.Command[2] = "echo opened anew >/dev/stdout; " + p.Command[2]
	c.container = run(t, options{profile: p, flags: mapFlags(usernsMap)})

	s := c.parked()
	c.checkMapped("gateway", s.PID, uid, strconv.Itoa(usernsBase+5000))
	c.checkMapped("standby", s.Standby.PID, uid, strconv.Itoa(usernsBase+5000))
	want := []receipt.IDRange{{Inside: 0, Host: usernsBase, Count: 65536}}
	if u := s.UserNamespace; u == nil || !slices.Equal(u.UIDs, want) || !slices.Equal(u.GIDs, want) {
		t.Errorf("the status tells the user namespace %+v, want %v", u, want)
	}
	if out := c.operator("status").Stdout; !strings.Contains(out, "UIDs 0-65535 are 200000-265535 on the host") {
		t.Errorf("the status does not tell the user namespace:\n%s", out)
	}
	if got := c.ask(); got.UID != harness.GatewayUID || got.GID != harness.GatewayUID || !slices.Contains(got.Groups, 5000) {
		t.Errorf("the gateway sees itself as %+v", got)
	}
	if log := c.operator("logs").Stdout; !strings.Contains(log, "opened anew") {
		t.Errorf("what it wrote to /dev/stdout is not in its log:\n%s", log)
	}
	if got := c.credential("token"); got != hashOf("one") {
		t.Errorf("the credential's hash is %s", got)
	}
	// Its state is its own, on the host too.
	state := filepath.Join(c.stateDir(), "state", "var%2Flib%2Fgateway")
	ownedBy(t, state, uid, uid)
	if r := c.as(harness.GatewayUID, "echo kept >/var/lib/gateway/file"); r.Status != 0 {
		t.Errorf("the gateway's UID cannot write its state: %v", r)
	}
	ownedBy(t, state+"/file", uid, uid)
	if r := c.as(harness.WorkloadUID, "ls /var/lib/gateway"); r.Status == 0 {
		t.Error("the workload can read the gateway's state")
	}
	// Its configuration is the host's root's, who is nobody inside, and its group may read it.
	ownedBy(t, c.shown()+"/keys", 0, uid)
	if r := c.as(harness.GatewayUID, "stat -c %u:%g /etc/gateway/keys && cat /etc/gateway/keys"); r.Stdout != fmt.Sprintf("65534:%d\nfor the gateway's group", harness.GatewayUID) {
		t.Errorf("inside the configuration is %v", r)
	}
	if r := c.as(harness.WorkloadUID, "cat /etc/gateway/keys"); r.Status == 0 {
		t.Error("the workload can read the configuration")
	}

	r := c.restart()
	if r.New.UID != uid || r.New.GID != uid || r.New.NSUID == nil || *r.New.NSUID != harness.GatewayUID || r.New.NSGID == nil || *r.New.NSGID != harness.GatewayUID ||
		!slices.Equal(r.New.Groups, []int{usernsBase + 5000}) || !r.Workload.Unchanged || r.Old.DeathProof != "waitid" {
		t.Errorf("receipt %+v of %+v", r, r.New)
	}
	at := c.parked()
	if r := c.ctr("task", "kill", "--exec-id", "gateway", "-s", "TERM", c.id); r.Status != 0 {
		t.Errorf("task kill: %v", r)
	}
	at = c.waitFor("another runs", func(s receipt.Status) bool {
		return s.State == receipt.Running && s.PID != at.PID && s.Standby.PID != 0
	})
	killProcess(t, at.PID)
	at = c.waitFor("the gateway is started again", func(s receipt.Status) bool {
		return s.State == receipt.Running && s.PID != at.PID && s.Standby.PID != 0
	})
	c.checkMapped("gateway", at.PID, uid, strconv.Itoa(usernsBase+5000))
	// What it leaves behind is known by the UID that it has here.
	c.leavesBehind(harness.GatewayUID, uid)

	// The preflight command judges another configuration in a copy of the mount namespace.
	if r := c.apply(badConf); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "it has no such word") {
		t.Errorf("a configuration that is not valid: %v", r)
	}
	c.mustApply(otherConf)
	c.current(2, otherConf)
	if r := c.operator("rollback"); r.Status != code.ExitOK {
		t.Errorf("rollback: %v", r)
	}
	c.current(1, goodConf)
	c.unlock("--for", "5m")
	ownedBy(t, filepath.Join(c.stateDir(), "generations", "unlocked", "mount", "0", "conf"), uid, uid)
	c.writes("OPTIONS=\n# valid, written\n")
	if r := c.as(harness.WorkloadUID, "echo x >/etc/gateway/conf"); r.Status == 0 {
		t.Error("the workload can write the configuration")
	}
	if r := c.operator("lock"); r.Status != code.ExitOK {
		t.Errorf("lock: %v", r)
	}
	if got := c.sees(); got != "OPTIONS=\n# valid, written\n" {
		t.Errorf("the container sees %q", got)
	}
	c.restart()
	// Numbers that the user namespace does not have are refused with the gateway running.
	p.User = 70000
	writeProfile(t, c.id, p.TOML())
	before := c.parked()
	refused := c.tryRestart()
	if refused.Status != code.ExitRefused || !strings.Contains(refused.Stderr+refused.Stdout, "user (UID 70000)") {
		t.Errorf("a profile with a UID that is not mapped: %v", refused)
	}
	if after := c.status(); after.PID != before.PID || after.State != receipt.Running {
		t.Errorf("status %+v", after)
	}
}

// leavesBehind starts a process under the gateway's UID, which is hostUID here, and checks that a restart ends it.
func (c *container) leavesBehind(uid, hostUID int) {
	c.t.Helper()
	wait := c.ctrInBackground("task", "exec", "--user", fmt.Sprintf("%d:%d", uid, uid), "--exec-id", uniqueID("e"), c.id, "/bin/sleep", "300")
	left := 0
	eventually(c.t, eventTime, "there is something left behind", func() bool {
		processes, err := c.h.Processes()
		if err != nil {
			c.t.Fatal(err)
		}
		for _, p := range processes {
			if slices.Contains(strings.Split(p.Cgroup, "/"), c.id) && strings.Contains(p.Command, "sleep 300") && procStatus(c.t, p.PID)["Uid"] != "" {
				left = p.PID
			}
		}
		return left != 0
	}, func() string { return c.id })
	if got := strings.Fields(procStatus(c.t, left)["Uid"])[0]; got != strconv.Itoa(hostUID) {
		c.t.Errorf("process %d has the UID %s here, want %d", left, got, hostUID)
	}
	c.restart()
	wait()
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", left)); err == nil {
		c.t.Errorf("process %d, which was left behind, is still there", left)
	}
}

func TestHeldListenersWorkInAUserNamespace(t *testing.T) {
	// Several ranges, as a container has that maps as little as it needs.
	flags := mapFlags("0:200000:1001", fmt.Sprintf("%d:300000:1", harness.GatewayUID))
	for _, mode := range []string{"inherit", "transparent"} {
		t.Run(mode, func(t *testing.T) {
			p := overlapProfile(mode)
			p.Listen += "[[listen]]\nname = \"local\"\naddress = \"unix:///var/lib/gateway/sock\"\nmode = \"inherit\"\nsocket_mode = \"0660\"\n"
			p.More += "[[state]]\ntarget = \"/var/lib/gateway\"\n"
			if mode == "transparent" {
				p.Listen = heldListen(mode)
			}
			c := run(t, options{profile: p, flags: flags})
			s := c.parked()
			c.checkMapped("gateway", s.PID, 300000, "")
			if mode == "inherit" {
				ownedBy(t, filepath.Join(c.stateDir(), "state", "var%2Flib%2Fgateway", "sock"), 300000, 300000)
			}
			end := under(c.netnsFile(), 2)
			if r := c.restart(); r.Listeners[0].Inode != s.Listeners[0].Inode || r.Listeners[0].OwnerPID != r.New.PID {
				t.Errorf("listeners %+v, want the socket %d", r.Listeners, s.Listeners[0].Inode)
			}
			if l := end(); l.ok == 0 || len(l.refused) != 0 {
				t.Errorf("%d requests were answered, and refused were %v", l.ok, l.refused)
			}
			// A successor takes the sockets back from processes of another user namespace.
			before := c.parked()
			killProcess(t, before.Warden.PID)
			after := c.waitFor("the warden is replaced", func(s receipt.Status) bool {
				return s.Warden.PID != before.Warden.PID && s.State == receipt.Running && s.Standby.PID != 0
			})
			if after.PID != before.PID || after.Listeners[0].Inode != s.Listeners[0].Inode || after.Restarts.Unasked != 0 {
				t.Errorf("the successor has not adopted what there was: %+v", after)
			}
			if r := c.restart(); r.Listeners[0].Inode != s.Listeners[0].Inode {
				t.Errorf("listeners %+v", r.Listeners)
			}
			c.ask()
		})
	}
}

// A container of a pod with a user namespace joins that of the pod's first one, and its network namespace, which belongs to it.
func TestAContainerThatJoinsTheUserNamespaceOfItsPodHasAGateway(t *testing.T) {
	pod := run(t, options{runtime: harness.Stock, flags: mapFlags(usernsMap)})
	var flags []string
	for _, ns := range []string{"user", "network", "ipc", "uts"} {
		file := map[string]string{"network": "net"}[ns]
		if file == "" {
			file = ns
		}
		flags = append(flags, "--with-ns", fmt.Sprintf("%s:/proc/%d/ns/%s", ns, pod.init(), file))
	}
	flags = append(flags, mapFlags(usernsMap)...)
	if host.Snapshotter() == "overlayfs" {
		// Then the image's files are not given to other owners but mounted so, which is what CRI does too.
		flags = append(flags, "--remap-labels")
	}
	dir := mountDir(t)
	writeFile(t, dir+"/config", "from the host", 0o644)
	p := heldProfile("inherit")
	p.More += mountTable(dir, "/etc/made/gateway")
	c := run(t, options{profile: p, flags: flags})
	c.checkMapped("gateway", c.restart().New.PID, usernsBase+harness.GatewayUID, "")
	c.ask()
	if got := c.mustExec("/bin/cat", "/etc/made/gateway/config"); got != "from the host" {
		t.Errorf("the container sees %q", got)
	}
	c.netns = harness.Netns{} // the pod's, which goes on
}

func TestNumbersThatTheUserNamespaceDoesNotHaveAreRefused(t *testing.T) {
	for _, test := range []struct {
		name    string
		maps    []string
		gateway string
		want    []string
	}{
		{"neither UID nor GID", []string{"0:200000:60000"}, "", []string{"user (UID 64990), group (GID 64990)", "the UIDs 0-59999 (200000-259999 here)", "--uidmap 0:HOST:65536", "hostUsers"}},
		{"a supplementary group", []string{usernsMap}, "groups = [5000, 70000]", []string{"groups (GID 70000)", "0-65535"}},
		{"they are the host's root", []string{"0:200000:64990", "64990:0:1"}, "", []string{"the host's root (0)", "IDs of the host that nobody else has"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, r := tryRun(t, options{profile: &harness.Profile{Gateway: test.gateway}, flags: mapFlags(test.maps...)})
			refused(t, r, 1, string(code.PostureRefused))
			for _, want := range test.want {
				if !strings.Contains(r.Stderr, want) {
					t.Errorf("the message does not say %q:\n%v", want, r)
				}
			}
			c.checkGone()
			if _, err := os.Lstat(c.stateDir()); err == nil {
				t.Errorf("%s was left behind", c.stateDir())
			}
		})
	}
}

// initialOnly are the capabilities that count in the initial user namespace alone.
var initialOnly = []string{"CAP_MKNOD", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_BOOT", "CAP_BPF", "CAP_PERFMON"}

func TestARootWorkloadsUserNamespaceIsNoProtectionForTheGateway(t *testing.T) {
	add := func(capabilities ...string) []string {
		flags := mapFlags(usernsMap)
		for _, c := range capabilities {
			flags = append(flags, "--cap-add", c)
		}
		for _, c := range defaultCapabilities {
			if !slices.Contains(capabilities, c) { // ctr drops after it has added
				flags = append(flags, "--cap-drop", c)
			}
		}
		return flags
	}
	t.Run("what is refused without one is refused with one", func(t *testing.T) {
		_, r := tryRun(t, options{user: "0", profile: mountedGateway(gatewayDir(t)), flags: mapFlags(usernsMap)})
		refused(t, r, 1, string(code.PostureRefused))
		for _, name := range defaultCapabilities {
			if named := strings.Contains(r.Stderr, name); named == slices.Contains(initialOnly, name) {
				t.Errorf("%s is named: %v", name, named)
			}
		}
		if !strings.Contains(r.Stderr, "user namespace is no protection here") {
			t.Errorf("the message does not say what the user namespace is good for:\n%v", r)
		}
	})
	t.Run("without capabilities it cannot reach the gateway", func(t *testing.T) {
		profile := mountedGateway(gatewayDir(t))
		profile.More += "[[state]]\ntarget = \"/var/lib/gateway\"\n"
		c := run(t, options{user: "0", profile: profile, flags: add(initialOnly...)})
		before := c.status()
		for line := range strings.Lines(c.mustExec("testworkload", "attack", "--pid", strconv.Itoa(before.NSPID), "--address", harness.GatewayAddress,
			"--binary", "/opt/gateway/gateway", "--config", "/var/lib/gateway/file")) {
			if got := decode[struct{ Attack, Target, Errno string }](t, line); got.Errno == "" {
				t.Errorf("%s of %s succeeds", got.Attack, got.Target)
			}
		}
		// The capabilities that it was given are good for nothing.
		for line := range strings.Lines(c.mustExec("testworkload", "reach")) {
			if got := decode[struct{ Attack, Target, Errno string }](t, line); !slices.Contains([]string{"EPERM", "EACCES", "ENOSYS"}, got.Errno) {
				t.Errorf("%s of %s: %q", got.Attack, got.Target, got.Errno)
			}
		}
		if after := c.status(); after.PID != before.PID || after.Restarts.Unasked != 0 {
			t.Errorf("the attacks ended the gateway: %+v", after)
		}
		if got := c.restart().PostureAllows; len(got) != 0 {
			t.Errorf("the receipt's posture_allows are %v", got)
		}
	})
	t.Run("with capabilities it can", func(t *testing.T) {
		profile := mountedGateway(gatewayDir(t))
		profile.More += "[[state]]\ntarget = \"/var/lib/gateway\"\n[posture]\nallow = [\"workload-cap-kill\", \"workload-cap-sys-ptrace\", \"workload-cap-dac-override\"]\n"
		c := run(t, options{user: "0", profile: profile, flags: add("CAP_KILL", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE")})
		s := c.parked()
		for what, command := range map[string][]string{
			"its environment can be read":  {"/bin/cat", fmt.Sprintf("/proc/%d/environ", s.NSPID)},
			"its state can be changed":     {"/bin/touch", "/var/lib/gateway/file"},
			"a signal reaches the gateway": {"/bin/kill", "-0", strconv.Itoa(s.NSPID)},
		} {
			if r := c.exec(command...); r.Status != 0 {
				t.Errorf("that %s is refused for nothing: %v", what, r)
			}
		}
		// What the host's root owns is out of its reach all the same.
		if r := c.exec("/bin/sh", "-c", "echo x >/opt/gateway/gateway"); r.Status == 0 {
			t.Error("the program can be changed")
		}
		// The parked launcher's memory is that of a file of the host's root, which nobody may read.
		numbers := strings.Fields(procStatus(t, s.Standby.PID)["NSpid"])
		if r := c.exec("/bin/cat", "/proc/"+numbers[len(numbers)-1]+"/environ"); r.Status == 0 || !strings.Contains(r.Stdout+r.Stderr, "ermission denied") {
			t.Errorf("the standby's environment: %v", r)
		}
	})
}

// asRootless runs a program as a user of the host without privileges, or as root of a user namespace of that user's.
func asRootless(ctx context.Context, own bool, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if own {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: harness.WorkloadUID, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: harness.WorkloadUID, Size: 1}}
		cmd.SysProcAttr.Credential = &syscall.Credential{NoSetGroups: true}
	} else {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: harness.WorkloadUID, Gid: harness.WorkloadUID}
	}
	return cmd
}

func TestTheHookOfARootlessRuntimeSaysWhatIsMissing(t *testing.T) {
	// Below a directory that everybody may enter, as the checkout need not be.
	dir := mountDir(t)
	program, err := os.ReadFile(host.Bin("gatewarden-hook"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/hook", string(program), 0o755)
	if program, err = os.ReadFile(host.Bin("gatewarden")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/gatewarden", string(program), 0o755)
	bundle := bundle(t, uniqueID("rootless"))
	for _, at := range []string{filepath.Dir(bundle), bundle} {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(bundle+"/config.json", 0o644); err != nil {
		t.Fatal(err)
	}
	state := func(status string, pid int) string {
		return fmt.Sprintf(`{"ociVersion":"1.3.0","id":"web","status":%q,"pid":%d,"bundle":%q}`, status, pid, bundle)
	}
	// The settings are not for its eyes.
	config := filepath.Join(dir, "config.toml")
	writeFile(t, config, "version = 1\n", 0o600)
	for _, test := range []struct {
		name string
		own  bool
		want string
	}{
		{"another user", false, fmt.Sprintf("the hook runs as UID %d", harness.WorkloadUID)},
		{"root of a user namespace", true, fmt.Sprintf("the hook runs as root, but it lives in a user namespace that is not the host's (/proc/self/uid_map says \"0 %d 1\"", harness.WorkloadUID)},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), commandTime)
			defer cancel()
			call := func(state string, args ...string) (string, error) {
				cmd := asRootless(ctx, test.own, dir+"/hook", args...)
				cmd.Stdin = strings.NewReader(state)
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			out, err := call(state("creating", os.Getpid()), "createRuntime", "--config", config, "--profile", "demo")
			for _, want := range []string{"a gateway needs a runtime that is root on the host, and " + test.want, "this runtime is rootless", "sudo podman", "(posture_refused)"} {
				if err == nil || !strings.Contains(out, want) || strings.Count(out, "\n") != 1 {
					t.Errorf("the hook does not say %q in one line: %v, %q", want, err, out)
				}
			}
			// What has no gateway is left alone, and nothing was made that could be left.
			if out, err := call(state("creating", os.Getpid()), "createRuntime", "--config", config); err != nil || out != "" {
				t.Errorf("a container without a gateway: %v, %q", err, out)
			}
			if out, err := call(state("stopped", 0), "poststop", "--config", config, "--profile", "demo"); err != nil || out != "" {
				t.Errorf("poststop: %v, %q", err, out)
			}
			doctor, err := asRootless(ctx, test.own, dir+"/gatewarden", "doctor").Output()
			if want := map[bool]string{false: "run gatewarden doctor as root", true: "user namespace that is not the host's"}[test.own]; err == nil || !strings.Contains(string(doctor), want) {
				t.Errorf("doctor does not say %q: %v\n%s", want, err, doctor)
			}
		})
	}
}

func TestARootlessRuncIsToldThatItCannotHaveAGateway(t *testing.T) {
	// Everything that it needs is the user's, or for everybody to read.
	dir, err := os.MkdirTemp("/run", "gwt-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, from := range map[string]string{"hook": host.Bin("gatewarden-hook"), "runc": host.Runc(), "busybox": "/bin/busybox"} {
		program, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), string(program), 0o755)
	}
	for _, d := range []string{"root", "bundle/rootfs/bin", "bundle/rootfs/proc", "bundle/rootfs/dev", "bundle/rootfs/sys"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(dir+"/busybox", dir+"/bundle/rootfs/bin/busybox"); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{Args: []string{"/bin/busybox", "sleep", "60"}, Cwd: "/", NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		},
		Hooks: &specs.Hooks{
			CreateRuntime: []specs.Hook{{Path: dir + "/hook", Args: []string{"gatewarden-hook", "createRuntime", "--profile", "demo"}, Env: []string{"PATH=/usr/bin:/bin"}}},
			Poststop:      []specs.Hook{{Path: dir + "/hook", Args: []string{"gatewarden-hook", "poststop", "--profile", "demo"}, Env: []string{"PATH=/usr/bin:/bin"}}},
		},
		Linux: &specs.Linux{
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: harness.WorkloadUID, Size: 1}},
			GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: harness.WorkloadUID, Size: 1}},
			Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace}, {Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
		},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/bundle/config.json", string(data), 0o644)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"root", "bundle"} {
		chown(t, filepath.Join(dir, d), harness.WorkloadUID)
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	cmd := asRootless(ctx, false, dir+"/runc", "--root", dir+"/root", "create", "--bundle", dir+"/bundle", "web")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), fmt.Sprintf("and the hook runs as UID %d: this runtime is rootless", harness.WorkloadUID)) {
		t.Errorf("runc create: %v\n%s", err, out)
	}
	if left, _ := os.ReadDir(dir + "/root"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
