package process

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func self(t *testing.T) *Process {
	t.Helper()
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func identityOf(t *testing.T, p *Process) Identity {
	t.Helper()
	id, err := p.Identify()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAProcessThatGoesOnIsProvenToBeTheSame(t *testing.T) {
	p := self(t)
	id := identityOf(t, p)
	if now, err := p.Prove(id); err != nil || now != id {
		t.Errorf("%+v, %v; want %+v", now, err, id)
	}
	id.Exe = File{}
	if now, err := p.Prove(id); err != nil || now.Exe == (File{}) {
		t.Errorf("with any program: %+v, %v", now, err)
	}
}

func TestAProcessThatExecutesAnotherProgramHasChanged(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "read line; exec sleep 60")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	q, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	defer q.Kill()
	before := identityOf(t, q)
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := q.Prove(before)
		if errors.Is(err, ErrChanged) {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("it executed another program, and the proof says %v", err)
		}
	}
	before.Exe = File{}
	if _, err := q.Prove(before); err != nil {
		t.Errorf("its program does not count, and the proof says %v", err)
	}
}

func TestAProcessThatIsDeadIsGoneAndNotChanged(t *testing.T) {
	p := child(t, "exec sleep 60")
	id := identityOf(t, p)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, p)
	if _, err := p.Prove(id); !errors.Is(err, ErrGone) {
		t.Errorf("of a zombie: %v", err)
	}
	if _, err := p.Reap(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Prove(id); !errors.Is(err, ErrGone) {
		t.Errorf("of a reaped process: %v", err)
	}
}

func TestAnotherNamespaceIsNamed(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS}
	if err := cmd.Start(); err != nil {
		t.Fatal("this test needs root: ", err)
	}
	defer cmd.Wait()
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	defer p.Kill()
	theirs, err := p.Namespaces()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := self(t).Namespaces()
	if err != nil {
		t.Fatal(err)
	}
	if kind := theirs.Differ(ours); kind != "uts" {
		t.Errorf("they differ in %q, want uts", kind)
	}
}

// What a process can't be brought to do at the right instant, a reader that makes it up shows.
func TestOnlyAReadingThatContradictsItselfIsRepeated(t *testing.T) {
	then := Identity{Start: 7, UID: [4]uint32{1, 1, 1, 1}, Exe: File{1, 2}}
	other := then
	other.UID[1] = 0
	torn := errors.New("torn")
	for name, c := range map[string]struct {
		says  []error
		last  Identity
		want  error
		looks int
	}{
		"the same at once":          {nil, then, nil, 1},
		"the same after torn reads": {[]error{torn, torn}, then, nil, 3},
		"another, final at once":    {nil, other, ErrChanged, 1},
		"another after a torn read": {[]error{torn}, other, ErrChanged, 2},
		"gone, final at once":       {[]error{ErrGone}, then, ErrGone, 1},
		"gone after a torn read":    {[]error{torn, ErrGone}, then, ErrGone, 2},
	} {
		looks := 0
		_, err := prove(then, func() (Identity, error) {
			looks++
			if looks <= len(c.says) {
				return Identity{}, c.says[looks-1]
			}
			return c.last, nil
		}, time.Now().Add(time.Minute))
		if !errors.Is(err, c.want) || looks != c.looks {
			t.Errorf("%s: %v after %d looks; want %v after %d", name, err, looks, c.want, c.looks)
		}
	}
	began, looks := time.Now(), 0
	if _, err := prove(then, func() (Identity, error) { looks++; return Identity{}, torn }, began.Add(30*time.Millisecond)); err != torn || looks < 2 {
		t.Errorf("without an end: %v after %d looks", err, looks)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it was looked at for %v", took)
	}
}

func TestEachPartOfAnIdentityCounts(t *testing.T) {
	then := Identity{Start: 7, UID: [4]uint32{1, 1, 1, 1}, GID: [4]uint32{2, 2, 2, 2}, Exe: File{1, 2}}
	for name, spoil := range map[string]func(*Identity){
		"start":     func(i *Identity) { i.Start++ },
		"UID":       func(i *Identity) { i.UID[3] = 0 },
		"GID":       func(i *Identity) { i.GID[0] = 0 },
		"namespace": func(i *Identity) { i.Namespaces[len(kinds)-1].Ino++ },
		"device":    func(i *Identity) { i.Exe.Dev++ },
		"inode":     func(i *Identity) { i.Exe.Ino++ },
	} {
		now := then
		spoil(&now)
		if err := now.is(then); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// EPERM is an error and never taken for "gone": the process lives, and somebody has to know.
func TestASignalThatIsNotAllowedIsAnErrorAndNotAnEnd(t *testing.T) {
	if os.Getenv("GATEWARDEN_TEST_SIGNAL") != "" {
		p, err := Open(os.Getppid())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Signal(unix.SIGURG); !errors.Is(err, unix.EPERM) || errors.Is(err, ErrGone) {
			t.Fatalf("got %v, want EPERM", err)
		}
		if err := p.Kill(); !errors.Is(err, unix.EPERM) {
			t.Fatalf("kill: got %v, want EPERM", err)
		}
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "GATEWARDEN_TEST_SIGNAL=1")
	cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A Go program whose main goroutine is locked to the first thread ends that thread alone by a bare exit(2).
func TestAProcessWhoseFirstThreadHasEndedIsStillTheSame(t *testing.T) {
	if os.Getenv("GATEWARDEN_TEST_THREAD") != "" {
		return // see init
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "GATEWARDEN_TEST_THREAD=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	defer p.Kill()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := p.Stat()
		if err == nil && stat.State == 'Z' {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("its first thread does not end: %+v, %v", stat, err)
		}
	}
	if p.Exited() {
		t.Fatal("the whole process has exited")
	}
	mine := identityOf(t, self(t))
	got, err := p.Identify()
	if err != nil || got.Exe != mine.Exe || got.UID != mine.UID || got.Namespaces != mine.Namespaces || got.Start != p.Start() {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := p.Prove(got); err != nil {
		t.Error(err)
	}
	// It can't shed its PID namespace that way: what a gateway leaves behind is found by it.
	ns, err := self(t).PIDNamespace()
	if err != nil {
		t.Fatal(err)
	}
	if in, err := p.InPIDNamespace(ns); err != nil || !in {
		t.Errorf("it is in this PID namespace: %v, %v", in, err)
	}
}

func init() {
	// In init the main goroutine runs on the first thread.
	if os.Getenv("GATEWARDEN_TEST_THREAD") != "" {
		go func() { time.Sleep(time.Minute); os.Exit(0) }()
		time.Sleep(50 * time.Millisecond) // for the other goroutine to have a thread
		runtime.LockOSThread()
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
}
