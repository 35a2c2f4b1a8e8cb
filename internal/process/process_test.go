package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// child starts a program whose exit status the test collects itself, by handle.
func child(t *testing.T, script string) *Process {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Process.Release()
	t.Cleanup(func() {
		p.Signal(unix.SIGKILL)
		if p.AwaitFor(5 * time.Second) {
			p.Reap()
		}
		p.Close()
	})
	return p
}

func await(t *testing.T, p *Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Await(ctx); err != nil {
		t.Fatalf("process %d: %v", p.PID(), err)
	}
}

func TestReapTellsHowAChildEnded(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   Exit
		status int
	}{
		"exit status":   {"exit 7", Exit{Code: 7}, 7},
		"clean exit":    {"exit 0", Exit{}, 0},
		"killed":        {"kill -KILL $$", Exit{Code: -1, Signal: unix.SIGKILL}, 137},
		"terminated":    {"kill -TERM $$", Exit{Code: -1, Signal: unix.SIGTERM}, 143},
		"high exit":     {"exit 255", Exit{Code: 255}, 255},
		"like a signal": {"exit 137", Exit{Code: 137}, 137},
	} {
		t.Run(name, func(t *testing.T) {
			p := child(t, c.script)
			await(t, p)
			got, err := p.Reap()
			if err != nil || got != c.want || got.Status() != c.status {
				t.Errorf("got %+v (status %d), %v; want %+v (status %d)", got, got.Status(), err, c.want, c.status)
			}
			if _, err := p.Reap(); !errors.Is(err, unix.ECHILD) {
				t.Errorf("a second reap gives %v, want ECHILD", err)
			}
		})
	}
}

func TestReapOtherLeavesTheChildrenThatAreKept(t *testing.T) {
	kept := child(t, "exit 5")
	await(t, kept)
	keep := func(pid int) bool { return pid == kept.PID() }
	if pid := ReapOther(keep); pid != 0 {
		t.Fatalf("reaped %d", pid)
	}
	if exit, err := kept.Reap(); err != nil || exit.Code != 5 {
		t.Fatalf("%v, %v", exit, err)
	}
	stray := child(t, "exit 6")
	await(t, stray)
	if pid := ReapOther(keep); pid != stray.PID() {
		t.Errorf("reaped %d, want %d", pid, stray.PID())
	}
	if _, err := Open(stray.PID()); !errors.Is(err, ErrGone) {
		t.Errorf("the stray is still there: %v", err)
	}
}

func TestAZombieIsDeadAndItsSignalSaysSo(t *testing.T) {
	p := child(t, "exit 3")
	await(t, p)
	if !p.Exited() {
		t.Error("a zombie counts as running")
	}
	st, err := p.Stat()
	if err != nil || st.State != 'Z' {
		t.Errorf("state %q, %v; want Z", st.State, err)
	}
	if _, err := p.Reap(); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, ErrGone) {
		t.Errorf("signal after the reap: %v, want ErrGone", err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("kill after the reap: %v, want success", err)
	}
	if _, err := p.Stat(); !errors.Is(err, ErrGone) {
		t.Errorf("stat after the reap: %v, want ErrGone", err)
	}
}

func TestReapDoesNotBlockOnALivingChild(t *testing.T) {
	p := child(t, "exec sleep 60")
	if _, err := p.Reap(); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("reap of a living child: %v, want EAGAIN", err)
	}
	if p.Exited() {
		t.Error("a living child counts as exited")
	}
}

func TestOpenOfANumberThatNobodyHasSaysGone(t *testing.T) {
	p := child(t, "exit 0")
	await(t, p)
	if _, err := p.Reap(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.PID()); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
}

func TestFromPidfdRefusesAnythingElse(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FromPidfd(f); err == nil || !strings.Contains(err.Error(), "not a pidfd") {
		t.Errorf("got %v", err)
	}
}

func TestPostureReadsWhatTheKernelSaysOfThisProcess(t *testing.T) {
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	po, err := p.Posture()
	if err != nil {
		t.Fatal(err)
	}
	uid := uint32(os.Getuid())
	if po.UID != [4]uint32{uid, uid, uid, uid} || po.NSPID != os.Getpid() {
		t.Errorf("got %+v", po)
	}
	path, file, err := p.Exe()
	self, _ := os.Executable()
	if err != nil || path != self || file.Ino == 0 {
		t.Errorf("exe %q %v, %v; want %q", path, file, err, self)
	}
}

func TestAProcessIsInItsPIDNamespaceAndThoseAboveAndInNoOther(t *testing.T) {
	inner := func() *Process {
		cmd := exec.Command("/bin/sleep", "60")
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
		if err := cmd.Start(); err != nil {
			t.Fatal("this test needs root: ", err)
		}
		p, err := Open(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.Signal(unix.SIGKILL)
			cmd.Wait()
			p.Close()
		})
		return p
	}
	self, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	a, b := inner(), inner()
	for _, c := range []struct {
		of, in *Process
		want   bool
	}{{a, a, true}, {a, self, true}, {self, self, true}, {self, a, false}, {a, b, false}} {
		id, err := c.in.PIDNamespace()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.of.InPIDNamespace(id); got != c.want || err != nil {
			t.Errorf("process %d in the namespace of %d: %v, %v; want %v", c.of.PID(), c.in.PID(), got, err, c.want)
		}
	}
}

func TestStatParsesACommandNameMadeToMislead(t *testing.T) {
	st, err := parseStat([]byte("12 (a) Z 1 2 3) S 7 " + strings.Repeat("0 ", 17) + "4242 0\n"))
	if err != nil || st.State != 'S' || st.PPID != 7 || st.Start != 4242 {
		t.Errorf("got %+v, %v", st, err)
	}
}

func TestStatusRefusesWhatDoesNotProve(t *testing.T) {
	whole, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "NSpid"} {
		var kept []string
		for line := range strings.Lines(string(whole)) {
			if !strings.HasPrefix(line, key+":") {
				kept = append(kept, line)
			}
		}
		if _, err := parseStatus([]byte(strings.Join(kept, ""))); err == nil {
			t.Errorf("accepted without %s", key)
		}
	}
}

func TestASignalReachesExactlyTheProcess(t *testing.T) {
	a, b := child(t, "exec sleep 60"), child(t, "exec sleep 60")
	if err := a.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, a)
	if b.Exited() {
		t.Errorf("process %d got the signal of process %d", b.PID(), a.PID())
	}
}

func TestAFileOfAProcessIsWritten(t *testing.T) {
	p := child(t, "exec sleep 60")
	if err := p.Write("coredump_filter", "1"); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Read("coredump_filter"); err != nil || strings.TrimLeft(string(got), "0") != "1\n" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := p.Write("stat", "1"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a file that is not to be written: %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, p)
	if _, err := p.Reap(); err != nil {
		t.Fatal(err)
	}
	if err := p.Write("coredump_filter", "1"); !errors.Is(err, ErrGone) {
		t.Errorf("a process that is gone: %v", err)
	}
}

func FuzzStat(f *testing.F) {
	data, _ := os.ReadFile("/proc/self/stat")
	f.Add(data)
	f.Add([]byte("1 (x) R"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if st, err := parseStat(data); err == nil && st.State == 0 {
			t.Error("accepted without a state")
		}
	})
}

func FuzzStatus(f *testing.F) {
	data, _ := os.ReadFile("/proc/self/status")
	f.Add(data)
	f.Add([]byte("Uid:\t0\t0\t0\t" + strconv.Itoa(1<<40)))
	f.Fuzz(func(t *testing.T, data []byte) { parseStatus(data) })
}

func TestACopyOfADescriptorIsTheSameOpenFile(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	theirs := os.NewFile(uintptr(pair[0]), "socket")
	defer theirs.Close()
	cmd := exec.Command("/bin/sleep", "60")
	cmd.ExtraFiles = []*os.File{theirs, theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(pair[0]))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		t.Fatal(err)
	}
	for name, get := range map[string]func() (*os.File, error){
		"Copy": func() (*os.File, error) { return p.Copy(link) }, "Descriptor": func() (*os.File, error) { return p.Descriptor(4) },
	} {
		f, err := get()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fd := int(f.Fd())
		if got, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err != nil || got != link {
			t.Errorf("%s: %s, %v; want %s", name, got, err, link)
		}
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: our children would inherit it (%#x, %v)", name, flags, err)
		}
		// The mode is the open file's: it is theirs, and stays.
		flags, err = unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("%s: their non-blocking mode is gone (%#x, %v)", name, flags, err)
		}
		if _, err := unix.Write(pair[1], []byte(name)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		if n, err := unix.Read(fd, buf); err != nil || string(buf[:n]) != name {
			t.Errorf("%s: %q, %v", name, buf[:n], err)
		}
		infos, err := os.ReadDir("/proc/self/fdinfo")
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range infos {
			data, _ := os.ReadFile("/proc/self/fdinfo/" + i.Name())
			for line := range strings.Lines(string(data)) {
				if w := strings.Fields(line); len(w) > 1 && w[0] == "tfd:" && w[1] == strconv.Itoa(fd) {
					t.Errorf("%s: its events wake us", name)
				}
			}
		}
		f.Close()
	}
}

func TestWhatAProcessDoesNotHaveOpenCannotBeCopied(t *testing.T) {
	p := child(t, "exec sleep 60")
	for _, link := range []string{"socket:[0]", "anon_inode:seccomp notify", "", strings.Repeat("x", 1000)} {
		if f, err := p.Copy(link); !errors.Is(err, os.ErrNotExist) || f != nil {
			t.Errorf("%.20q: %v, %v; want os.ErrNotExist", link, f, err)
		}
	}
	for _, n := range []int{999, -1} {
		if f, err := p.Descriptor(n); !errors.Is(err, unix.EBADF) || f != nil {
			t.Errorf("%d: %v, %v; want EBADF", n, f, err)
		}
	}
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, p)
	if f, err := p.Copy("socket:[1]"); err == nil {
		t.Errorf("%v of a zombie", f)
	}
	if f, err := p.Descriptor(0); !errors.Is(err, ErrGone) {
		t.Errorf("%v, %v of a zombie; want ErrGone", f, err)
	}
	if _, err := p.Reap(); err != nil {
		t.Fatal(err)
	}
	if f, err := p.Copy("socket:[1]"); !errors.Is(err, ErrGone) {
		t.Errorf("%v, %v of a reaped process; want ErrGone", f, err)
	}
	if after, err := os.ReadDir("/proc/self/fd"); err != nil || len(after) > len(before) {
		t.Errorf("%d descriptors before, %d after, %v", len(before), len(after), err)
	}
}

func TestTheIDOfAPidfdIsThatWhichTheProcessSeesItself(t *testing.T) {
	self, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	id, ok := self.PidfdID()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if !ok {
		t.Fatalf("this kernel (%s) has no IDs of pidfds; the tests need Linux 6.9", unix.ByteSliceToString(name.Release[:]))
	}
	if id != st.Ino || id == 0 {
		t.Errorf("%d, want %d", id, st.Ino)
	}
	a, b := child(t, "exec sleep 60"), child(t, "exec sleep 60")
	ida, _ := a.PidfdID()
	idb, _ := b.PidfdID()
	if ida == idb || ida == id || idb == id {
		t.Errorf("%d, %d and %d are three processes", id, ida, idb)
	}
}
