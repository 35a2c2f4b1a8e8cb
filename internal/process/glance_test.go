package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAGlanceTellsWhatTheHandleTells(t *testing.T) {
	p := child(t, "exec sleep 60")
	stat, err := StatOf(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	owner, err := OwnerOf(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	po, err := p.Posture()
	if err != nil {
		t.Fatal(err)
	}
	if stat.Start != p.Start() || owner != po.UID[1] {
		t.Errorf("start %d, UID %d; the handle tells start %d, UID %d", stat.Start, owner, p.Start(), po.UID[1])
	}
}

func TestNowIsByTheClockOfProcessesStarts(t *testing.T) {
	before := Now()
	p := child(t, "exec sleep 60")
	if after := Now(); p.Start() < before || p.Start() > after {
		t.Errorf("a process that was started between %d and %d says that it started at %d", before, after, p.Start())
	}
}

// A parked launcher is undumpable, and so is every program that its user can't read.
func TestTheOwnerOfAnUndumpableProcessIsItsUser(t *testing.T) {
	const uid = 64990
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "sleep")
	data, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o711); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := cmd.Start(); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	defer cmd.Wait()
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	defer p.Kill()
	var st unix.Stat_t
	if err := unix.Fstatat(int(p.Dir().Fd()), "stat", &st, 0); err != nil || st.Uid != 0 {
		t.Fatalf("it is not undumpable: its stat is owned by %d, %v", st.Uid, err)
	}
	if got, err := OwnerOf(p.PID()); got != uid || err != nil {
		t.Errorf("owner %d, %v; want %d", got, err, uid)
	}
}

func TestOfAProcessThatIsReapedNothingIsSeen(t *testing.T) {
	p := child(t, "exit 0")
	await(t, p)
	if _, err := p.Reap(); err != nil {
		t.Fatal(err)
	}
	if _, err := OwnerOf(p.PID()); !errors.Is(err, ErrGone) {
		t.Errorf("OwnerOf: %v", err)
	}
}
