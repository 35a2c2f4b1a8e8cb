package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// The test binary is its own joiner: the container's ID says how it behaves. That libcontainer really joins is shown by
// the integration tests, with real containers.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "join" {
		os.Exit(fakeJoiner())
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func fakeJoiner() int {
	req, files, err := request(resultFD)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	say := func(a answer, rights []byte) {
		line, _ := json.Marshal(a)
		if err := unix.Sendmsg(resultFD, line, rights, nil, 0); err != nil {
			panic(err)
		}
	}
	switch req.ID {
	case "leaves":
		cmd := exec.Command("/bin/sleep", "60")
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fd, err := unix.PidfdOpen(cmd.Process.Pid, unix.PIDFD_NONBLOCK)
		if err != nil {
			panic(err)
		}
		say(answer{PID: cmd.Process.Pid}, unix.UnixRights(fd))
	case "looks":
		var names []string
		for _, f := range append([]*os.File{files.Launcher, files.Control, files.Stdout, files.Stderr}, files.Held...) {
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
			name, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
			names = append(names, fmt.Sprint(filepath.Base(name), " ", flags == unix.FD_CLOEXEC, " ", err))
		}
		say(answer{Error: code.Errorf(code.LaunchFailed, code.StageLaunch, "%s", strings.Join(names, ", "))}, nil)
	case "elsewhere":
		if err := offer(files.Mounts, req.InitPID); err != nil {
			say(answer{Error: code.Errorf(code.LaunchFailed, code.StageLaunch, "%w", err)}, nil)
			return 1
		}
		say(answer{Error: code.Errorf(code.LaunchFailed, code.StageLaunch, "%s", namespaces(req.InitPID))}, nil)
	case "refuses":
		say(answer{Error: code.Errorf(code.Paused, code.StageLaunch, "container refuses is paused")}, nil)
	case "lies":
		say(answer{PID: 1}, nil)
	case "dies":
		fmt.Fprintln(os.Stderr, "panic: no good")
		return 2
	case "babbles":
		fmt.Fprint(os.Stderr, strings.Repeat("and so on ", 10000), "until the end\n")
		return 2
	case "hangs":
		select {}
	}
	return 0
}

// namespaces tells the namespaces that one finds at a process.
func namespaces(pid int) string {
	dir := fmt.Sprintf("/proc/%d/ns", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, e := range entries {
		var st unix.Stat_t
		err := unix.Stat(filepath.Join(dir, e.Name()), &st)
		all = append(all, fmt.Sprint(e.Name(), " ", st.Ino, " ", err))
	}
	return strings.Join(all, ", ")
}

// sleeper is a process, in a mount namespace of its own if that is asked for.
func sleeper(t *testing.T, flags uintptr) int {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: flags}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

// What libcontainer finds at the container's init is what it joins.
func TestAJoinerElsewhereFindsAnotherMountNamespaceAtTheInit(t *testing.T) {
	init, other := sleeper(t, 0), sleeper(t, unix.CLONE_NEWNS)
	mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", other))
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	mine := func(pid int) string {
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", pid), &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("mnt %d <nil>", st.Ino)
	}
	before := namespaces(init)
	want := strings.Replace(before, mine(init), mine(other), 1)
	if want == before || !strings.Contains(want, "pid ") || !strings.Contains(want, "net ") {
		t.Fatalf("the init is in %s", before)
	}
	j, err := StartElsewhere("/proc/self/exe", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.Join(t.Context(), Request{ID: "elsewhere", InitPID: init}, Files{Launcher: null, Control: null, Stdout: null, Stderr: null, Mounts: mounts})
	if e, ok := errors.AsType[*code.Error](err); !ok || e.Message != want {
		t.Errorf("it found\n%v\nwant\n%s", err, want)
	}
	// Nobody else finds anything of that.
	if after := namespaces(init); after != before {
		t.Errorf("the init is in %s now, and was in %s", after, before)
	}
}

func launcher(t *testing.T, id string, timeout time.Duration) (*process.Process, error) {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return Launcher(ctx, "/proc/self/exe", io.Discard, Request{ID: id}, Files{Launcher: null, Control: null, Stdout: null, Stderr: null})
}

func TestWhatTheJoinerLeavesBehindIsAdoptedAndCanBeReaped(t *testing.T) {
	p, err := launcher(t, "leaves", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if st, err := p.Stat(); err != nil || st.PPID != os.Getpid() {
		t.Errorf("parent %d, %v; want %d", st.PPID, err, os.Getpid())
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !p.AwaitFor(5 * time.Second) {
		t.Fatal("it does not end")
	}
	if exit, err := p.Reap(); err != nil || exit.Signal != unix.SIGKILL {
		t.Errorf("%v, %v", exit, err)
	}
}

func TestAJoinerGetsItsFilesWithItsRequest(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	files := Files{Launcher: open("launcher"), Control: open("control"), Stdout: open("out"), Stderr: open("err")}
	var want []string
	for _, name := range []string{"launcher", "control", "out", "err"} {
		want = append(want, name+" true <nil>")
	}
	for i := range maxHeld {
		name := fmt.Sprint("held", i)
		files.Held = append(files.Held, open(name))
		want = append(want, name+" true <nil>")
	}
	j, err := Start("/proc/self/exe", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.Join(t.Context(), Request{ID: "looks"}, files)
	if e, ok := errors.AsType[*code.Error](err); !ok || e.Message != strings.Join(want, ", ") {
		t.Errorf("it got %v", err)
	}
	// A mount namespace comes beside all of them.
	mounts := files
	mounts.Mounts = open("mounts")
	j, err = Start("/proc/self/exe", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.Join(t.Context(), Request{ID: "looks"}, mounts)
	if e, ok := errors.AsType[*code.Error](err); !ok || e.Message != strings.Join(want, ", ") {
		t.Errorf("with a mount namespace it got %v", err)
	}
	// One more than there may be.
	files.Held = append(files.Held, open("over"))
	mounts.Held = files.Held
	if _, err := Launcher(t.Context(), "/proc/self/exe", io.Discard, Request{ID: "looks"}, mounts); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("more than %d sockets", maxHeld)) {
		t.Errorf("with too many files and a mount namespace: %v", err)
	}
	if _, err := Launcher(t.Context(), "/proc/self/exe", io.Discard, Request{ID: "looks"}, files); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("more than %d sockets", maxHeld)) {
		t.Errorf("with too many files: %v", err)
	}
}

func TestAJoinerThatIsNotNeededIsEnded(t *testing.T) {
	j, err := Start("/proc/self/exe", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	p, err := process.Open(j.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	j.Close()
	if !p.Exited() {
		t.Error("it runs on")
	}
	j.Close()
}

func TestAJoinerThatDoesNotDeliverGivesAnErrorWithItsReason(t *testing.T) {
	for id, want := range map[string]struct {
		code code.Code
		text string
	}{
		"refuses": {code.Paused, "container refuses is paused"},
		"lies":    {code.LaunchFailed, "exit status 0"},
		"dies":    {code.LaunchFailed, "panic: no good"},
		"babbles": {code.LaunchFailed, "and so on until the end"},
	} {
		t.Run(id, func(t *testing.T) {
			p, err := launcher(t, id, 10*time.Second)
			if p != nil {
				p.Close()
				t.Fatal("it gave a process")
			}
			if e, ok := errors.AsType[*code.Error](err); !ok || e.Code != want.code || !strings.Contains(e.Message, want.text) {
				t.Errorf("got %v, want %s with %q", err, want.code, want.text)
			}
		})
	}
}

func TestAJoinerThatHangsIsEndedAtTheDeadline(t *testing.T) {
	begin := time.Now()
	_, err := launcher(t, "hangs", 200*time.Millisecond)
	if e, ok := errors.AsType[*code.Error](err); !ok || e.Code != code.Deadline {
		t.Errorf("got %v, want deadline", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestTheStateFileIsWaitedForAndItsDirectorysEndIsNoticed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "web")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	await := func(dir string) {
		name, err := awaitState(t.Context(), dir)
		if err == nil && name != runcState {
			err = fmt.Errorf("it waited for %s", name)
		}
		got <- err
	}
	go await(dir)
	time.Sleep(20 * time.Millisecond)
	// As runc does: a temporary file, renamed into place.
	if err := os.WriteFile(dir+"/tmp", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-got:
		t.Fatalf("it came back before the file was there: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if err := os.Rename(dir+"/tmp", dir+"/state.json"); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}

	gone := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	go await(gone)
	time.Sleep(20 * time.Millisecond)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if e, ok := errors.AsType[*code.Error](<-got); !ok || e.Code != code.NotRunning {
		t.Errorf("got %v, want not_running", e)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := awaitState(ctx, t.TempDir()); err == nil {
		t.Error("it came back without a state file")
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"root":"/run/runc","id":"web","init_pid":1,"init_start":2,"uid":3,"gid":4,"groups":[5],"capabilities":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) { strictjson.Decode[Request](data) })
}
