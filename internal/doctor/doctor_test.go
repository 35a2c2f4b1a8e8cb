package doctor

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/control/controltest"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// trustedDir is a directory that only root can change, parents included, which /tmp is not.
func trustedDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	dir, err := os.MkdirTemp("/run", "gwd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// check compares a finding, and that whoever is told of a fault is told of a remedy too.
func check(t *testing.T, f Finding, level Level, parts ...string) {
	t.Helper()
	if f.Level != level {
		t.Errorf("%+v: want %s", f, level)
	}
	if (f.Remedy == "") != (f.Level == OK) {
		t.Errorf("%+v: a remedy belongs to what is not ok, and only there", f)
	}
	for _, p := range parts {
		if !strings.Contains(f.Detail+" | "+f.Remedy, p) {
			t.Errorf("%q is missing in %+v", p, f)
		}
	}
}

func TestThisKernelHasWhatTheTestsNeed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	for _, f := range kernel() {
		check(t, f, OK)
	}
}

func TestAMissingCallIsNotTakenForAPresentOne(t *testing.T) {
	if err := exists(unix.ENOSYS, unix.EBADF); err != unix.ENOSYS {
		t.Errorf("ENOSYS gives %v", err)
	}
	if err := exists(nil, unix.ECHILD); err != nil {
		t.Errorf("success gives %v", err)
	}
	for err, want := range map[unix.Errno]string{unix.ENOSYS: "Linux 5.6", unix.EPERM: "as root", unix.EINVAL: "Linux 5.6"} {
		if got := kernelRemedy("openat2", "5.6", err); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
	}
	if got := kernelRemedy("sock_diag unix", "3.3", unix.ENOENT); !strings.Contains(got, "modprobe unix_diag") {
		t.Error(got)
	}
}

func TestSockDiagAnswersAreReadStrictly(t *testing.T) {
	for _, c := range []struct {
		answer string
		ok     bool
	}{
		{"", false},
		{"\x10\x00\x00\x00\x14\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", true},                  // a socket
		{"\x10\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", true},                  // the end
		{"\x10\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", false},                 // an error, torn
		{"\x14\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff", false}, // ENOENT
		{"\x10\x00\x00\x00\x63\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", false},                 // something else
	} {
		if err := diagAnswer([]byte(c.answer)); (err == nil) != c.ok {
			t.Errorf("%q: %v", c.answer, err)
		}
	}
	if err := diagAnswer([]byte("\x14\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("ENOENT reads as %v", err)
	}
}

func FuzzDiagAnswer(f *testing.F) {
	f.Add([]byte("\x14\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff"))
	f.Add([]byte(""))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = diagAnswer(b) })
}

func TestCgroupsOfThisHostAreFoundAndOfAnEmptyDirectoryMissed(t *testing.T) {
	if all := cgroups("/sys/fs/cgroup"); len(all) != 4 || all[0].Level != OK {
		t.Errorf("%+v", all)
	}
	all := cgroups(t.TempDir())
	if len(all) != 1 {
		t.Fatalf("%+v", all)
	}
	check(t, all[0], Fail, "no cgroups are mounted")
}

func TestRuncIsJudgedByWhatItPrints(t *testing.T) {
	const tail = "\ncommit: v1\nspec: 1.2.1\ngo: go1.26\nlibseccomp: 2.5.4\n"
	for _, c := range []struct {
		out    string
		levels []Level
	}{
		{"runc version 1.5.2" + tail, []Level{OK, OK}},
		{"runc version 1.1.0-rc.1+dev" + tail, []Level{OK, OK}},
		{"runc version 1.0.3" + tail, []Level{Fail, OK}},
		{"runc version 2.0.0\nspec: 1.0\n", []Level{OK, Warn}},
		{"crun version 1.8", []Level{Fail}},
		{"", []Level{Fail}},
		{"runc version v1.2.0" + tail, []Level{OK, OK}},
		{"WARN: a line before\nrunc version 1.1.12" + tail, []Level{OK, OK}},
		{"runc version 0.1", []Level{Fail, Warn}},
		{"runc version 99999999999999999999.1", []Level{Fail}},
		{"runc version ", []Level{Fail}},
		{"runc version 1", []Level{Fail}},
		{"runc version 1.x", []Level{Fail}},
		{"runc version -1.2", []Level{Fail}},
		{"runc version\n1.2.0", []Level{Fail}},
		{"not runc version 1.2.0", []Level{Fail}},
		{"runc version 1.2." + strings.Repeat("0", maxVersion), []Level{Fail}},
	} {
		got := runcFindings("/usr/bin/runc", c.out)
		if len(got) != len(c.levels) {
			t.Errorf("%q: %+v", c.out, got)
			continue
		}
		for i := range got {
			check(t, got[i], c.levels[i])
		}
	}
}

func FuzzRunc(f *testing.F) {
	f.Add("runc version 1.5.2\nlibseccomp: 2.5.4\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, out string) {
		for _, finding := range runcFindings("/usr/bin/runc", out) {
			if (finding.Remedy == "") != (finding.Level == OK) {
				t.Errorf("%+v", finding)
			}
		}
	})
}

func TestWithoutRuncTheRemedyInstallsIt(t *testing.T) {
	dir := t.TempDir()
	check(t, runtimes(t.Context(), dir)[0], Fail, "not in PATH", "apt-get install runc")
	write(t, dir+"/crun", "#!/bin/sh\n", 0o755)
	check(t, runtimes(t.Context(), dir)[0], Warn, dir+"/crun")
	write(t, dir+"/runc", "#!/bin/sh\necho broken >&2\nexit 3\n", 0o755)
	check(t, runtimes(t.Context(), dir)[0], Fail, "exit status 3", "broken")
	write(t, dir+"/runc", "#!/bin/sh\necho runc version 1.3.0\necho libseccomp: 2.5.4\n", 0o755)
	for _, f := range runtimes(t.Context(), dir) {
		check(t, f, OK)
	}
}

func TestAProgramThatFloodsIsReadToABound(t *testing.T) {
	file := filepath.Join(t.TempDir(), "flood")
	write(t, file, "#!/bin/sh\nhead -c 1000000 /dev/zero\n", 0o755)
	out, err := output(t.Context(), file)
	if err != nil || len(out) != maxOutput {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestDirectoriesAreJudgedWithTheirParents(t *testing.T) {
	dir := trustedDir(t)
	check(t, directory("run_dir", dir, false), OK, dir)
	check(t, directory("run_dir", dir+"/a/b", false), OK, "does not exist yet")
	check(t, directory("profile_dir", dir+"/a/b", true), Warn, "install -d -o root -g root -m 0755 "+dir+"/a/b")
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	check(t, directory("run_dir", dir+"/a/b", false), Fail, dir, "chmod")
	write(t, dir+"/file", "", 0o644)
	check(t, directory("run_dir", dir+"/file", false), Fail)
}

func TestEachProfileIsChecked(t *testing.T) {
	dir := trustedDir(t)
	all := profiles(dir)
	check(t, all[0], Warn, "there is none")
	write(t, dir+"/bad.toml", "version = 7\n", 0o644)
	write(t, dir+"/good.toml", "version = 1\n[gateway]\ncommand = [\"/bin/gw\"]\nuser = 64990\ngroup = 64990\n[ready]\nnone = true\n", 0o644)
	write(t, dir+"/README", "not a profile", 0o644)
	all = profiles(dir)
	if len(all) != 2 {
		t.Fatalf("%+v", all)
	}
	check(t, all[0], Fail, "bad.toml:", "gatewarden profile check "+dir+"/bad.toml")
	check(t, all[1], OK, "runs /bin/gw as 64990:64990")
}

func TestProgramsMustBeRootsAndOfOneVersion(t *testing.T) {
	dir := trustedDir(t)
	path := dir + "/" + hookName
	h := Host{Config: config.Config{Hook: path}, Version: "1.2.3", Path: dir}
	check(t, hook(t.Context(), h), Fail, path+" does not exist", "install gatewarden-hook there")
	check(t, shim(t.Context(), h), Warn, "not in PATH")

	write(t, path, "#!/bin/sh\n[ \"$1\" = version ] && echo gatewarden-hook 1.2.3\n", 0o755)
	check(t, hook(t.Context(), h), OK, "version 1.2.3")
	h.Version = "1.2.4"
	check(t, hook(t.Context(), h), Warn, "says gatewarden-hook 1.2.3, this command is 1.2.4", "one release")
	write(t, path, "#!/bin/sh\nexit 1\n", 0o755)
	check(t, hook(t.Context(), h), Fail, "exit status 1")
	write(t, path, "#!/bin/sh\n", 0o644)
	check(t, hook(t.Context(), h), Fail, "permission denied", "chmod 0755")
	write(t, path, "#!/bin/sh\n", 0o777)
	check(t, hook(t.Context(), h), Fail, path, "chmod")

	// Absent where the settings say, the one beside the shim counts, as for the shim itself.
	h.Config.Hook = dir + "/elsewhere/" + hookName
	write(t, path, "#!/bin/sh\necho gatewarden-hook 1.2.4\n", 0o755)
	write(t, dir+"/"+shimName, "#!/bin/sh\nprintf '%s:\\n  Version:  1.2.4\\n' containerd-shim\n", 0o755)
	check(t, hook(t.Context(), h), OK, path)
	check(t, shim(t.Context(), h), OK, dir+"/"+shimName)
}

func TestTheAuditKeyIsJudgedWhenThereIsToBeOne(t *testing.T) {
	dir := trustedDir(t)
	h := Host{Config: config.Default()}
	if got := auditKey(t.Context(), h); got != nil {
		t.Errorf("%+v", got)
	}
	h.Config.Hook = filepath.Join(dir, "hook")
	// It says what the hook's program says of a key.
	write(t, h.Config.Hook, "#!/bin/sh\ntest \"$1 $2\" = 'verify --key' || exit 2\ngrep -q good \"$3\" || { echo 'no key' >&2; exit 3; }\n", 0o755)
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		level   Level
		part    string
	}{
		"good": {"good", 0o600, OK, dir + "/good"}, "open": {"good", 0o640, Fail, "chmod 0600 " + dir + "/open"}, "bad": {"x", 0o600, Fail, "no key"},
	} {
		h.Config.AuditKey = filepath.Join(dir, name)
		write(t, h.Config.AuditKey, c.content, c.mode)
		check(t, auditKey(t.Context(), h)[0], c.level, c.part)
	}
	h.Config.AuditKey = filepath.Join(dir, "absent")
	check(t, auditKey(t.Context(), h)[0], Fail, "openssl genpkey -algorithm ed25519 -out "+h.Config.AuditKey)
}

func TestContainerdIsFoundByItsSocketAndJudgedByItsOwnPath(t *testing.T) {
	dir := trustedDir(t)
	h := Host{Version: "1.2.3", Address: dir + "/c.sock"}
	d := findContainerd(h.Address)
	check(t, containerd(t.Context(), h, d)[0], Warn, "nobody answers at "+h.Address, "--address")
	d.Close()

	// A process of its own listens, so that its environment is not ours.
	cmd := exec.Command(os.Args[0], "-test.run=TestHelperListens")
	cmd.Env = []string{"HELPER_SOCKET=" + h.Address, "PATH=" + dir + "/bin", "GATEWARDEN_CONFIG=/x.toml"}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		stdin.Close()
		cmd.Wait()
	}()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if d = findContainerd(h.Address); d.dir != nil {
			break
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatal(d.err)
		}
	}
	defer d.Close()
	if d.pid != cmd.Process.Pid {
		t.Errorf("pid %d, want %d", d.pid, cmd.Process.Pid)
	}
	all := containerd(t.Context(), h, d)
	check(t, all[0], OK, h.Address)
	check(t, all[1], Fail, "finds no "+shimName, dir+"/bin")

	write(t, dir+"/bin/"+shimName, "#!/bin/sh\necho Version: 1.2.3\n", 0o755)
	all = containerd(t.Context(), h, d)
	check(t, all[1], OK, dir+"/bin/"+shimName)
	check(t, all[2], Warn, "shims use /x.toml, this command the default file")
	h.ConfigPath = "/x.toml"
	check(t, containerd(t.Context(), h, d)[2], OK)
}

// TestHelperListens is not a test: it is the other process of the one above.
func TestHelperListens(t *testing.T) {
	path := os.Getenv("HELPER_SOCKET")
	if path == "" {
		return
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	os.Stdin.Read(make([]byte, 1))
}

func TestWardensThatDoNotAnswerAreReportedWithWhatToDo(t *testing.T) {
	run := t.TempDir()
	h := Host{Config: config.Config{RunDir: run}, Version: "1.2.3"}
	if all := wardens(t.Context(), h); len(all) != 1 || all[0].Detail != "0 of 0" {
		t.Errorf("%+v", all)
	}
	for id, version := range map[string]string{"new": "1.2.3", "old": "1.2.2"} {
		controltest.Serve(t, control.Dir(run, "default", id), func(_ control.Request, send func(control.Message)) {
			send(control.Message{Status: &receipt.Status{Warden: receipt.Warden{PID: 1, Version: version}}, Done: true})
		})
	}
	// A container whose init is this process's own number with another start time: gone.
	const record = `{"version":1,"namespace":"default","id":"ID","bundle":"/b","rootfs":"/b/rootfs","init_pid":1,"init_start":1,` +
		`"runtime_root":"","profile":"demo","mounts":[],"posture_allows":[],"config":{"profile_dir":"/p","run_dir":"/r","state_dir":"/s","log_dir":"/l"}}`
	write(t, run+"/default/left/install.json", strings.ReplaceAll(record, "ID", "left"), 0o600)
	write(t, run+"/default/torn/install.json", "{", 0o600)
	all := wardens(t.Context(), h)
	if len(all) != 4 {
		t.Fatalf("%+v", all)
	}
	check(t, all[0], Warn, "left over", "rm -r "+run+"/default/left")
	check(t, all[1], Warn, "version 1.2.2, this command of 1.2.3")
	check(t, all[2], Warn, "no readable record", "look again")
	check(t, all[3], OK, "1 of 4")
}

func TestExamineLooksAtEverythingAndChangesNothing(t *testing.T) {
	dir := trustedDir(t)
	h := Host{Config: config.Config{ProfileDir: dir + "/p", RunDir: dir + "/r", StateDir: dir + "/s", LogDir: dir + "/l", Hook: dir + "/h"},
		ConfigErr: errors.New("line 1: odd"), ConfigPath: dir + "/config.toml", Address: dir + "/none.sock", Version: "1.2.3", Path: dir}
	all := Examine(t.Context(), h)
	areas := map[string]bool{}
	for _, f := range all {
		areas[f.Area] = true
		if (f.Remedy == "") != (f.Level == OK) || f.Name == "" || f.Detail == "" {
			t.Errorf("incomplete: %+v", f)
		}
	}
	for _, a := range []string{"permissions", "kernel", "cgroup", "runtime", "profiles", "programs", "containerd", "wardens"} {
		if !areas[a] {
			t.Errorf("nothing about %s", a)
		}
	}
	if !Failed(all) {
		t.Error("no runc, no hook, broken settings: and nothing fails")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
}
