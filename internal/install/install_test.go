package install

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/oci"
)

// The hook starts its own binary as the warden. In tests that is this one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "warden" {
		if err := standIn(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == "harden" {
		hardened()
		os.Exit(0)
	}
	// What the tests themselves inherited is not the warden's.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// standIn is a warden that supervises nothing. The profile's name says what it does. Without args it has begun with the hook.
func standIn(args []string) error {
	var dir string
	if len(args) > 0 {
		dir = args[0]
	} else {
		var err error
		if dir, err = Entrusted(); err != nil {
			return err
		}
	}
	record, err := Read(dir)
	if err != nil {
		return err
	}
	word := os.NewFile(HandshakeFD, "handshake")
	switch record.Profile {
	case "refuses":
		fmt.Fprintf(word, "%sno state of the container\n", HandshakeError)
		return nil
	case "dies":
		return errors.New("first line\nlast words")
	}
	if err := os.WriteFile(filepath.Join(dir, "report"), []byte(describe()), 0o600); err != nil {
		return err
	}
	init, err := process.Open(record.InitPID)
	if err != nil {
		return err
	}
	fmt.Fprintln(word, HandshakeOK)
	word.Close()
	return init.Await(context.Background())
}

// early begins a warden as hook/early.c does.
func early(t *testing.T) *Early {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "theirs")
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{"gatewarden-hook", "warden"}, Env: []string{}, Dir: "/",
		ExtraFiles: []*os.File{HandshakeFD - 3: theirs, LockFD - 3: null}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		t.Fatal(err)
	}
	e := &Early{PID: cmd.Process.Pid, Socket: os.NewFile(uintptr(pair[0]), "ours")}
	t.Cleanup(func() {
		e.Socket.Close()
		cmd.Wait() // of its own accord, at the latest with the container's init
	})
	return e
}

// describe says what a warden was started with.
func describe() string {
	cwd, _ := os.Getwd()
	sid, _ := unix.Getsid(0)
	var fds []string
	for fd := range 64 {
		to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		// The Go runtime has some of its own: its poller and its cgroup's CPU limit.
		if err == nil && !strings.HasPrefix(to, "anon_inode:") && !strings.HasPrefix(to, "/sys/fs/cgroup/") {
			kind, _, _ := strings.Cut(filepath.Base(to), ":")
			fds = append(fds, fmt.Sprintf("%d=%s", fd, kind))
		}
	}
	return fmt.Sprintf("cwd %s, env %d, leads its session %v, %s", cwd, len(os.Environ()), sid == os.Getpid(), strings.Join(fds, " "))
}

// hardened says what a process is like after Harden.
func hardened() {
	err := Harden()
	cwd, _ := os.Getwd()
	dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	flags, _ := unix.FcntlInt(3, unix.F_GETFD, 0)
	fmt.Printf("%v, cwd %s, env %d, dumpable %d, umask %03o, close-on-exec %v", err, cwd, len(os.Environ()), dumpable, unix.Umask(0), flags == unix.FD_CLOEXEC)
}

func TestHardenLeavesNothingOfWhatWasInherited(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "harden")
	cmd.Env = []string{"LD_PRELOAD=/x.so", "GODEBUG=x=1", "NOTIFY_SOCKET=/n", "LISTEN_FDS=1"}
	cmd.Dir = t.TempDir()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd.ExtraFiles = []*os.File{null}
	out, err := cmd.Output()
	if want := "<nil>, cwd /, env 0, dumpable 0, umask 077, close-on-exec true"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, not %q", out, err, want)
	}
}

// host is a scratch installation and a bundle on it.
type host struct {
	t      *testing.T
	dir    string
	cfg    config.Config
	bundle string
	spec   *specs.Spec
	init   *exec.Cmd
}

const demo = `version = 1
[gateway]
command = ["/bin/gw"]
user = 64990
group = 64991
[[listen]]
name = "api"
address = "tcp://127.0.0.1:18789"
[[mount]]
source = "DIR/shared"
target = "/etc/gateway"
[[state]]
target = "/var/lib/gateway"
[select]
annotation = true
namespaces = ["default"]
`

// newHost makes a container web whose init waits in a mount namespace of its own, as a runtime has it at createRuntime.
func newHost(t *testing.T) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test needs root")
	}
	// Below /run: what a profile names must have no parent that others than root can write.
	dir, err := os.MkdirTemp("/run", "gwi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, dir: dir, bundle: dir + "/io.containerd.runtime.v2.task/default/web", cfg: config.Config{
		ProfileDir: dir + "/profiles", RunDir: dir + "/run", StateDir: dir + "/state", LogDir: dir + "/log",
	}}
	for _, d := range []string{"profiles", "shared", "runc/default/web"} {
		h.mkdir(d)
	}
	h.write("shared/config", "from the host")
	h.mkdir("io.containerd.runtime.v2.task/default/web/rootfs/bin")
	h.write("io.containerd.runtime.v2.task/default/web/options.json", fmt.Sprintf(`{"root":%q,"binary_name":"/usr/bin/runc"}`, dir+"/runc"))
	for _, name := range []string{"demo", "refuses", "dies"} {
		h.profile(name, demo)
	}
	h.spec = &specs.Spec{
		Version: specs.Version, Annotations: map[string]string{oci.GatewayAnnotation: "demo"},
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"app"}, Cwd: "/", User: specs.User{UID: 1000, GID: 1000}, NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{Permitted: []string{"CAP_KILL"}, Bounding: []string{"CAP_KILL"}}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}},
	}
	h.startInit()
	return h
}

func (h *host) startInit() {
	h.t.Helper()
	cmd := exec.Command("/bin/busybox", "sh", "-ec", `mount --bind "$1" "$1"; echo ready; exec sleep 600`, "sh", h.bundle+"/rootfs")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		h.t.Fatal(err)
	}
	h.init = cmd
	h.t.Cleanup(h.endInit)
}

func (h *host) endInit() {
	h.init.Process.Kill()
	h.init.Wait()
}

func (h *host) mkdir(name string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Join(h.dir, name), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) write(name, content string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) profile(name, text string) {
	h.t.Helper()
	h.write("profiles/"+name+".toml", strings.ReplaceAll(text, "DIR", h.dir))
}

func (h *host) state() string {
	return fmt.Sprintf(`{"ociVersion":"1.3.0","id":"web","status":"creating","pid":%d,"bundle":%q}`, h.init.Process.Pid, h.bundle)
}

func (h *host) create(opt Options) error {
	h.t.Helper()
	data, err := json.Marshal(h.spec)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("io.containerd.runtime.v2.task/default/web/config.json", string(data))
	return CreateRuntime(strings.NewReader(h.state()), h.cfg, opt)
}

func (h *host) poststop() error {
	return Poststop(strings.NewReader(fmt.Sprintf(`{"ociVersion":"1.3.0","id":"web","status":"stopped","bundle":%q}`, h.bundle)), h.cfg, Options{})
}

// poststopInAPod is poststop of a container that containerd's CRI made.
func (h *host) poststopInAPod() error {
	return Poststop(strings.NewReader(fmt.Sprintf(`{"ociVersion":"1.3.0","id":"web","status":"stopped","bundle":%q,"annotations":{"io.kubernetes.cri.container-type":"container"}}`,
		h.bundle)), h.cfg, Options{})
}

func (h *host) runDir() string { return h.dir + "/run/default/web" }

// left lists all files and directories below the run, state and log directories.
func (h *host) left() []string {
	h.t.Helper()
	var left []string
	for _, top := range []string{"run", "state", "log"} {
		err := filepath.WalkDir(filepath.Join(h.dir, top), func(path string, _ fs.DirEntry, err error) error {
			if name, _ := filepath.Rel(h.dir, path); err == nil && name != top {
				left = append(left, name)
			}
			return nil
		})
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return left
}

func TestOfAContainerOfAPodNothingIsKept(t *testing.T) {
	h := newHost(t)
	delete(h.spec.Annotations, oci.GatewayAnnotation)
	h.spec.Annotations[oci.GatewayAnnotation+"/app"] = "demo"
	h.spec.Annotations["io.kubernetes.cri.container-type"] = "container"
	h.spec.Annotations["io.kubernetes.cri.container-name"] = "app"
	if err := h.create(Options{}); err != nil {
		t.Fatal(err)
	}
	record, err := Read(h.runDir())
	if err != nil || record.Profile != "demo" {
		t.Fatalf("record %+v, %v", record, err)
	}
	if err := os.WriteFile(record.StateDir()+"/state/var%2Flib%2Fgateway/kept", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.endInit()
	if err := h.poststopInAPod(); err != nil {
		t.Fatal(err)
	}
	if left := h.left(); len(left) != 0 {
		t.Errorf("left after poststop: %v", left)
	}
}

func TestAnInstallationIsMadeRecordedAndRemoved(t *testing.T) {
	for name, c := range map[string]struct {
		early func(*testing.T) *Early
		word  string
	}{
		"with a warden that is started for it":       {func(*testing.T) *Early { return nil }, "pipe"},
		"with a warden that has begun with the hook": {early, "socket"},
	} {
		t.Run(name, func(t *testing.T) { installed(t, newHost(t), c.early(t), c.word) })
	}
}

func installed(t *testing.T, h *host, warden *Early, word string) {
	if err := h.create(Options{Early: warden}); err != nil {
		t.Fatal(err)
	}
	record, err := Read(h.runDir())
	if err != nil {
		t.Fatal(err)
	}
	if c := record.Container(); c.String() != "default/web" || c.InitPID != h.init.Process.Pid || c.InitStart == 0 {
		t.Errorf("container %+v", c)
	}
	if record.RuntimeRoot != h.dir+"/runc/default" || record.Rootfs != h.bundle+"/rootfs" || record.Bundle != h.bundle || record.Profile != "demo" ||
		record.Config != paths(h.cfg) || record.PostureAllows == nil || len(record.PostureAllows) != 0 {
		t.Errorf("record %+v", record)
	}
	stateDir := record.StateDir() + "/state/var%2Flib%2Fgateway"
	if m := record.Mounts; len(m) != 2 || m[0].Source != h.dir+"/shared" || m[0].Writable || m[1].Source != stateDir || !m[1].Writable {
		t.Errorf("mounts %+v", m)
	}
	inside := fmt.Sprintf("/proc/%d/root%s/rootfs", h.init.Process.Pid, h.bundle)
	if data, err := os.ReadFile(inside + "/etc/gateway/config"); string(data) != "from the host" {
		t.Errorf("the container sees %q, %v", data, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(stateDir, &st); err != nil || st.Uid != 64990 || st.Gid != 64991 || st.Mode&0o777 != 0o700 {
		t.Errorf("state directory: %v, %d:%d, mode %o", err, st.Uid, st.Gid, st.Mode)
	}
	for _, dir := range []string{record.RunDir(), record.StateDir(), record.LogDir()} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, st, err)
		}
	}
	report, err := os.ReadFile(h.runDir() + "/report")
	if want := "cwd /, env 0, leads its session true, 0=null 1=null 2=warden.log 3=" + word + " 4=lock"; err != nil || string(report) != want {
		t.Errorf("the warden was started with %q, %v, not with %q", report, err, want)
	}

	// A second container of the name, and a poststop of somebody else's container of the name.
	if err := h.create(Options{}); err == nil || !strings.Contains(err.Error(), "live container of that name") {
		t.Errorf("a second create: %v", err)
	}
	if err := Poststop(strings.NewReader(`{"id":"web","bundle":"/elsewhere"}`), h.cfg, Options{Namespace: "default"}); err != nil {
		t.Error(err)
	}
	if _, err := Read(h.runDir()); err != nil {
		t.Fatalf("the first installation is gone: %v", err)
	}

	os.WriteFile(stateDir+"/kept", nil, 0o600)
	os.WriteFile(record.StateDir()+"/receipts.jsonl", nil, 0o600)
	h.endInit()
	if err := h.poststop(); err != nil {
		t.Fatal(err)
	}
	want := []string{"state/default", "state/default/web", "state/default/web/state", "state/default/web/state/var%2Flib%2Fgateway", "state/default/web/state/var%2Flib%2Fgateway/kept"}
	if left := h.left(); !slices.Equal(left, want) {
		t.Errorf("left after poststop: %v", left)
	}
	if err := h.poststop(); err != nil {
		t.Errorf("a second poststop: %v", err)
	}

	// The next container of the name finds the state again.
	h.startInit()
	if err := h.create(Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root%s/rootfs/var/lib/gateway/kept", h.init.Process.Pid, h.bundle)); err != nil {
		t.Error(err)
	}
	h.endInit()
	if err := h.poststop(); err != nil {
		t.Error(err)
	}
}

func TestAFailedInstallationSaysWhyAndLeavesNothing(t *testing.T) {
	tests := []struct {
		name string
		edit func(h *host)
		opt  Options
		want []string

		early func(*testing.T) *Early
	}{
		{name: "no such profile", edit: func(h *host) { h.spec.Annotations[oci.GatewayAnnotation] = "absent" }, want: []string{`gateway "absent" for default/web`}},
		{name: "annotation that is a path", edit: func(h *host) { h.spec.Annotations[oci.GatewayAnnotation] = "../demo" }, want: []string{"does not name a profile"}},
		{name: "broken profile", edit: func(h *host) { h.profile("demo", demo+"bogus = 1\n") }, want: []string{"bogus"}},
		{name: "profile not to be selected by annotations", edit: func(h *host) { h.profile("demo", strings.Replace(demo, "annotation = true", "annotation = false", 1)) }, want: []string{"annotation"}},
		{name: "another namespace", opt: Options{Namespace: "k8s.io"}, want: []string{"for k8s.io/web"}},
		{name: "posture", edit: func(h *host) { h.spec.Process.User.UID = 0 }, want: []string{"workload-cap-kill", "--cap-drop CAP_KILL"}},
		{name: "program with file capabilities", edit: func(h *host) {
			// Version 2, effective; permitted CAP_KILL.
			h.write("io.containerd.runtime.v2.task/default/web/rootfs/bin/real", "")
			h.mkdir("io.containerd.runtime.v2.task/default/web/rootfs/usr/bin")
			h.write("io.containerd.runtime.v2.task/default/web/rootfs/usr/bin/app", "#! /bin/link -x\n")
			os.Symlink("/bin/real", h.bundle+"/rootfs/bin/link")
			if err := unix.Setxattr(h.bundle+"/rootfs/bin/real", "security.capability", []byte{1, 0, 0, 2, 1 << 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0); err != nil {
				h.t.Fatal(err)
			}
		}, want: []string{"its program /bin/link has file capabilities that keep CAP_KILL"}},
		{name: "mount source that others can write", edit: func(h *host) { os.Chmod(h.dir+"/shared", 0o777) }, want: []string{"/shared", "go-w"}},
		{name: "malicious image", edit: func(h *host) { os.Symlink("/", h.bundle+"/rootfs/etc") }, want: []string{"cannot mount", "/etc is a symbolic link"}},
		{name: "kept state of another owner", edit: func(h *host) { h.mkdir("state/default/web/state/var%2Flib%2Fgateway") }, want: []string{"belongs to 0:0", "chown -R 64990:64991"}},
		{name: "run directory that others can write", edit: func(h *host) { h.mkdir("run"); os.Chmod(h.dir+"/run", 0o777) }, want: []string{"chmod go-w /run/"}},
		{name: "no root of the runtime", edit: func(h *host) { os.RemoveAll(h.dir + "/runc") }, want: []string{"cannot find the root directory of the OCI runtime", "--root"}},
		{name: "options.json with a relative root", edit: func(h *host) { h.write("io.containerd.runtime.v2.task/default/web/options.json", `{"root":"x"}`) }, want: []string{"not an absolute path"}},
		{name: "init is gone", edit: func(h *host) { h.endInit() }, want: []string{"the container's init"}},
		{name: "no root filesystem", edit: func(h *host) { h.spec.Root = nil }, want: []string{"no root filesystem"}},
		{name: "warden refuses", edit: func(h *host) { h.spec.Annotations[oci.GatewayAnnotation] = "refuses" }, want: []string{"the warden cannot supervise it: no state of the container"}},
		{name: "warden dies", edit: func(h *host) { h.spec.Annotations[oci.GatewayAnnotation] = "dies" }, want: []string{"ended before it was ready", "last words"}},
		{name: "posture, and a warden that has begun", edit: func(h *host) { h.spec.Process.User.UID = 0 }, want: []string{"workload-cap-kill"}, early: early},
		{name: "warden that has begun refuses", edit: func(h *host) { h.spec.Annotations[oci.GatewayAnnotation] = "refuses" }, want: []string{"the warden cannot supervise it: no state of the container"}, early: early},
		{name: "warden that has begun dies", edit: func(h *host) { h.spec.Annotations[oci.GatewayAnnotation] = "dies" }, want: []string{"ended before it was ready", "last words"}, early: early},
		{name: "warden that has begun is gone", want: []string{"the warden"}, early: func(t *testing.T) *Early {
			e := early(t)
			unix.Kill(e.PID, unix.SIGKILL) // nobody has waited for it, so the number is its own
			return e
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t)
			if test.edit != nil {
				test.edit(h)
			}
			if test.early != nil {
				test.opt.Early = test.early(t)
			}
			before := h.left()
			err := h.create(test.opt)
			if err == nil {
				t.Fatal("installed")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in: %v", want, err)
				}
			}
			if left := h.left(); !slices.Equal(left, before) {
				t.Errorf("left behind: %v", left)
			}
			h.endInit()
			if err := h.poststop(); err != nil {
				t.Errorf("poststop: %v", err)
			}
		})
	}
}

func TestTheHooksOwnProfileNeedsNoAnnotation(t *testing.T) {
	h := newHost(t)
	h.profile("demo", strings.Replace(demo, "annotation = true", "annotation = false", 1))
	delete(h.spec.Annotations, oci.GatewayAnnotation)
	if err := h.create(Options{Profile: "demo"}); err != nil {
		t.Fatal(err)
	}
	h.endInit()
	if err := h.poststop(); err != nil {
		t.Error(err)
	}
}

func TestAWardenThatIsNotNeededTouchesNothing(t *testing.T) {
	h := newHost(t)
	h.spec.Annotations = nil
	e := early(t)
	if err := h.create(Options{Early: e}); err != nil {
		t.Fatal(err)
	}
	e.Socket.Close() // the hook's end
	var status unix.WaitStatus
	if _, err := unix.Wait4(e.PID, &status, 0, nil); err != nil || status.ExitStatus() != 1 {
		t.Errorf("it ended with %v, %v", status, err)
	}
	if left := h.left(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAContainerThatAsksForNoGatewayIsLeftAlone(t *testing.T) {
	h := newHost(t)
	h.spec.Annotations = nil
	if err := h.create(Options{}); err != nil {
		t.Error(err)
	}
	if left := h.left(); left != nil {
		t.Errorf("made %v", left)
	}
}

func TestAllowedPostureIsRecorded(t *testing.T) {
	h := newHost(t)
	h.spec.Process.User.UID = 0
	h.profile("demo", demo+"[posture]\nallow = [\"workload-cap-kill\", \"workload-host-pid\"]\n")
	if err := h.create(Options{}); err != nil {
		t.Fatal(err)
	}
	record, err := Read(h.runDir())
	if err != nil || !slices.Equal(record.PostureAllows, []string{"workload-cap-kill"}) {
		t.Errorf("%v, %v", record.PostureAllows, err)
	}
	h.endInit()
	if err := h.poststop(); err != nil {
		t.Error(err)
	}
}

func TestWhatADeadWardenLeftIsCleared(t *testing.T) {
	h := newHost(t)
	h.mkdir("run/default/web/old")
	for _, name := range []string{LockName, RecordName, "control.sock", "old/file"} {
		h.write("run/default/web/"+name, "old")
	}
	if err := h.create(Options{}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(h.runDir())
	if err != nil || len(entries) != 3 {
		t.Errorf("%v, %v", entries, err)
	}
	h.endInit()
	if err := h.poststop(); err != nil {
		t.Error(err)
	}
}

func TestPoststopWaitsForTheWardenAndComplainsWhenItStays(t *testing.T) {
	h := newHost(t)
	h.mkdir("run/default/web")
	lock, err := tryLock(h.runDir(), unix.O_CREAT)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	i := Install{Namespace: "default", ID: "web", Config: paths(h.cfg)}
	if err := i.clean(h.bundle, nil, 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "warden has not ended") {
		t.Errorf("with a warden that stays: %v", err)
	}
	time.AfterFunc(30*time.Millisecond, func() { lock.Close() })
	if err := i.clean(h.bundle, nil, time.Second*5); err != nil {
		t.Error(err)
	}
	if left := h.left(); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestALockOnARemovedFileIsNone(t *testing.T) {
	h := newHost(t)
	h.mkdir("run/default/web")
	first, err := tryLock(h.runDir(), unix.O_CREAT)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(h.runDir(), 0); !errors.Is(err, errLocked) {
		t.Errorf("a second lock: %v", err)
	}
	if err := RemoveRunDir(h.runDir()); err != nil {
		t.Fatal(err)
	}
	first.Close()
	if _, err := tryLock(h.runDir(), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a lock in a removed directory: %v", err)
	}
}

func TestTheHandshakeIsBoundedInTimeAndLength(t *testing.T) {
	tests := map[string]struct{ said, want string }{
		"nothing":   {"", "not become ready within"},
		"half":      {"o", "not become ready within"},
		"something": {"hello\n", `said "hello"`},
		"too much":  {strings.Repeat("x", maxHandshake+1), "ended before it was ready"},
		"ok":        {"ok\n", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			fmt.Fprint(w, test.said)
			err = handshake(r, 20*time.Millisecond)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTheNamespaceIsLearnedFromContainerdsBundle(t *testing.T) {
	tests := []struct {
		bundle, id, option, want string
	}{
		{"/run/containerd/io.containerd.runtime.v2.task/k8s.io/web", "web", "", "k8s.io"},
		{"/run/containerd/io.containerd.runtime.v2.task/k8s.io/web", "web", "moby", "moby"},
		{"/run/containerd/io.containerd.runtime.v2.task/k8s.io/other", "web", "", "default"},
		{"/var/lib/b", "web", "", "default"},
		{"/web", "web", "", "default"},
		{"/io.containerd.runtime.v2.task/web", "web", "", "default"},
		{"/x", "web", "../x", ""},
	}
	for _, test := range tests {
		got, err := namespaceOf(oci.State{Bundle: test.bundle, ID: test.id}, Options{Namespace: test.option})
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%+v: %q, %v", test, got, err)
		}
	}
}

func TestTheRootIsReadFromARuntimesCommandLine(t *testing.T) {
	tests := map[string]string{
		"runc\x00--root\x00/r\x00create\x00": "/r",
		"runc\x00--root=/r/\x00create\x00":   "/r",
		"runc\x00-root\x00/r\x00":            "/r",
		"runc\x00--log\x00/l\x00--log-format\x00json\x00--root\x00/run/containerd/runc/default\x00create\x00--bundle\x00/b\x00web\x00": "/run/containerd/runc/default",
		"runc\x00--root\x00":          "",
		"runc\x00--root\x00r\x00":     "",
		"runc\x00--rootless=true\x00": "",
		"runc\x00create\x00":          "",
		"runc":                        "",
		"":                            "",
	}
	for cmdline, want := range tests {
		if got := rootOfCommand([]byte(cmdline)); got != want {
			t.Errorf("%q gives %q, not %q", cmdline, got, want)
		}
	}
}

func TestTheProgramIsLookedForWhereARuntimeDoes(t *testing.T) {
	tests := []struct {
		program, cwd string
		env, want    []string
	}{
		{"/bin/x", "/", nil, []string{"/bin/x"}},
		{"./x", "/srv", nil, []string{"/srv/x"}},
		{"x", "/srv", []string{"PATH=/a:b:", "HOME=/"}, []string{"/a/x", "/srv/b/x", "/srv/x"}},
		{"x", "", []string{"PATH=/a", "PATH=/b"}, []string{"/b/x"}},
	}
	for _, test := range tests {
		if got := candidates(test.program, test.cwd, test.env); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// good is a record as the hook writes it.
const good = `{"version":1,"namespace":"default","id":"web","bundle":"/b","rootfs":"/b/rootfs","init_pid":7,"init_start":9,"runtime_root":"/run/runc",
"profile":"demo","mounts":[{"source":"/s","target":"/t","writable":false,"dev":1,"ino":2,"mount_id":3}],"posture_allows":[],
"config":{"profile_dir":"/p","run_dir":"/r","state_dir":"/s","log_dir":"/l"}}`

func TestARecordIsReadStrictly(t *testing.T) {
	if _, err := parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		`"version":1`:           `"version":2`,
		`"namespace":"default"`: `"namespace":"../x"`,
		`"id":"web"`:            `"id":""`,
		`"bundle":"/b"`:         `"bundle":"b"`,
		`"init_pid":7`:          `"init_pid":0`,
		`"init_start":9`:        `"init_start":-1`,
		`"profile":"demo"`:      `"profile":"../demo"`,
		`"mount_id":3`:          `"mount_id":0`,
		`"log_dir":"/l"`:        `"log_dir":""`,
		`"posture_allows":[]`:   `"posture_allows":[],"extra":1`,
		`"log_dir":"/l"}}`:      `"log_dir":"/l"}} {}`,
	}
	for from, to := range tests {
		if _, err := parse([]byte(strings.Replace(good, from, to, 1))); err == nil {
			t.Errorf("%s was accepted", to)
		}
	}
	if _, err := Read(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a record: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"version":1,"mounts":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := parse(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(again); err != nil {
			t.Errorf("accepted %s, but not as %s: %v", data, again, err)
		}
	})
}

func FuzzOptions(f *testing.F) {
	for _, seed := range []string{`{}`, `{"root":"/r"}`, `{"root":"r"}`, `{"root":1}`, `{"binary_name":"runc","io_uid":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if root, err := rootOfOptions(data); err == nil && (!filepath.IsAbs(root) || filepath.Clean(root) != root) {
			t.Errorf("%s gives %q", data, root)
		}
	})
}

func FuzzCommandLine(f *testing.F) {
	f.Add([]byte("runc\x00--root\x00/r\x00create\x00"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		if root := rootOfCommand(data); root != "" && !filepath.IsAbs(root) {
			t.Errorf("%q gives %q", data, root)
		}
	})
}

func FuzzFileCapabilities(f *testing.F) {
	f.Add([]byte{1, 0, 0, 2, 1 << 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if parseFileCapabilities(data) != 0 && len(data) < 12 {
			t.Errorf("capabilities out of %d bytes", len(data))
		}
	})
}
