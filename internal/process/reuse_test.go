package process

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideName marks a run of this test program that is the init of a PID namespace of its own, with a /proc of its own.
const insideName = "GATEWARDEN_TEST_INSIDE"

// inside runs the calling test in a PID namespace of its own, where nobody else takes numbers. It tells whether this is the
// run inside.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideName) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), insideName+"=1")
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
		out, err := cmd.CombinedOutput()
		t.Logf("inside:\n%s", out)
		if err != nil {
			t.Fatal("this test needs root: ", err)
		}
		return false
	}
	if os.Getpid() != 1 {
		t.Fatal("not in a PID namespace of its own")
	}
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("proc", "/proc", "proc", 0, "")); err != nil {
		t.Fatal(err)
	}
	return true
}

// reuse starts a process that has the number of one that is gone.
func reuse(t *testing.T, pid int) *exec.Cmd {
	t.Helper()
	for range 500 {
		// The next process of this PID namespace gets the next free number after it (proc_sys_kernel(5)).
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if cmd.Process.Pid == pid {
			t.Cleanup(func() {
				cmd.Process.Kill()
				cmd.Wait()
			})
			return cmd
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Fatalf("the number %d was not given again: the kernel, or a thread of this test, took others", pid)
	return nil
}

// lives checks that nothing has happened to the occupant of a reused number.
func lives(t *testing.T, occupant *exec.Cmd) {
	t.Helper()
	time.Sleep(20 * time.Millisecond) // for a signal to have its effect
	p, err := Open(occupant.Process.Pid)
	if err != nil {
		t.Fatalf("the occupant is gone: %v", err)
	}
	defer p.Close()
	if st, err := p.Stat(); err != nil || st.State == 'Z' || st.State == 'T' {
		t.Errorf("the occupant is in state %q, %v", st.State, err)
	}
}

// ended starts a process and gives its handle, taken while it lived, and a pidfd, once it has been killed and reaped.
func ended(t *testing.T) (*Process, *os.File) {
	t.Helper()
	p := child(t, "exec sleep 60")
	fd, err := unix.PidfdOpen(p.PID(), unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	end(t, p)
	return p, os.NewFile(uintptr(fd), "pidfd")
}

func end(t *testing.T, p *Process) {
	t.Helper()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, p)
	if _, err := p.Reap(); err != nil {
		t.Fatal(err)
	}
}

func TestAHandleNeverMeansTheNextProcessOfItsNumber(t *testing.T) {
	if !inside(t) {
		return
	}
	p, pidfd := ended(t)
	self, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	ns, err := self.PIDNamespace()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond) // more than a clock tick
	occupant := reuse(t, p.PID())
	if occupant.Process.Pid != p.PID() {
		t.Fatal("the number is not in use again")
	}
	for what, do := range map[string]func() error{
		"Signal":         func() error { return p.Signal(unix.SIGKILL) },
		"Signal 0":       func() error { return p.Signal(0) },
		"Read":           func() error { _, err := p.Read("stat"); return err },
		"Stat":           func() error { _, err := p.Stat(); return err },
		"Posture":        func() error { _, err := p.Posture(); return err },
		"Exe":            func() error { _, _, err := p.Exe(); return err },
		"OpenRoot":       func() error { _, err := p.OpenRoot(); return err },
		"OpenNamespace":  func() error { _, err := p.OpenNamespace("net"); return err },
		"PIDNamespace":   func() error { _, err := p.PIDNamespace(); return err },
		"InPIDNamespace": func() error { _, err := p.InPIDNamespace(ns); return err },
		"Namespaces":     func() error { _, err := p.Namespaces(); return err },
		"Identify":       func() error { _, err := p.Identify(); return err },
		"Prove":          func() error { _, err := p.Prove(Identity{}); return err },
		"FromPidfd":      func() error { _, err := FromPidfd(pidfd); return err },
	} {
		if err := do(); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v, want ErrGone", what, err)
		}
	}
	if err := p.Kill(); err != nil {
		t.Errorf("Kill: %v, want success: it is dead", err)
	}
	if !p.Exited() || !p.AwaitFor(time.Second) {
		t.Error("it counts as running")
	}
	if _, err := p.Reap(); !errors.Is(err, unix.ECHILD) {
		t.Errorf("Reap: %v, want ECHILD", err)
	}
	if exit, proof, err := p.Ending(); err != nil || proof != ByPidfd || !exit.Unknown && exit.Signal != unix.SIGKILL {
		t.Errorf("Ending: %v, %q, %v", exit, proof, err)
	}
	lives(t, occupant)
	// The number as such is the occupant's now, and its start time tells the two apart.
	now, err := Open(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if now.Start() <= p.Start() {
		t.Errorf("the occupant started at %d, the dead one at %d", now.Start(), p.Start())
	}
	if now.Exited() {
		t.Error("the occupant counts as dead")
	}
}

// A dead child's number goes to another child, which exits: its status is not the dead one's.
func TestTheExitOfTheNextProcessOfItsNumberIsNotTaken(t *testing.T) {
	if !inside(t) {
		return
	}
	p, pidfd := ended(t)
	defer pidfd.Close()
	occupant := reuse(t, p.PID())
	now, err := Open(occupant.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if err := now.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, now)
	if exit, err := p.Reap(); !errors.Is(err, unix.ECHILD) {
		t.Errorf("Reap: %v, %v, want ECHILD", exit, err)
	}
	if exit, err := now.Reap(); err != nil || exit.Signal != unix.SIGTERM {
		t.Errorf("the occupant's own: %v, %v", exit, err)
	}
}

// The instants inside Open cannot be hit from outside. What can happen in them is put there: the process ends, is reaped, and
// its number is given away.
func TestANumberThatChangesHandsWhileItIsOpenedIsRefused(t *testing.T) {
	if !inside(t) {
		return
	}
	for _, instant := range []string{"before the first look at the number", "before the directory", "after the directory", "before the second look at the number"} {
		t.Run(instant, func(t *testing.T) {
			victim := child(t, "exec sleep 60")
			fd, err := unix.PidfdOpen(victim.PID(), unix.PIDFD_NONBLOCK)
			if err != nil {
				t.Fatal(err)
			}
			pidfd := os.NewFile(uintptr(fd), "pidfd")
			defer pidfd.Close()
			var occupant *exec.Cmd
			at := func(now string) {
				if now == instant {
					end(t, victim)
					occupant = reuse(t, victim.PID())
				}
			}
			numbers := 0
			p, err := fromPidfd(pidfd, looks{
				number: func(pidfd *os.File) (int, error) {
					numbers++
					at(map[int]string{1: "before the first look at the number", 2: "before the second look at the number"}[numbers])
					return numberOf(pidfd)
				},
				dir: func(pid int) (*os.File, error) {
					at("before the directory")
					dir, err := openDir(pid)
					at("after the directory")
					return dir, err
				},
			})
			if occupant == nil {
				t.Fatal("the number did not change hands")
			}
			if !errors.Is(err, ErrGone) {
				t.Errorf("got %+v, %v, want ErrGone", p, err)
			}
			lives(t, occupant)
		})
	}
}
