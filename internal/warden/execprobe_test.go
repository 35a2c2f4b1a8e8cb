package warden

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/cgroup"
)

func TestTheLastLineOfACheckIsShownAndHarmless(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, c := range []struct{ name, wrote, want string }{
		{"nothing", "", ""},
		{"blank lines", "\n \r\n\n", ""},
		{"one line", "no database\n", "; it said: no database"},
		{"a line without end", "first\nno database", "; it said: no database"},
		{"lines of Windows", "first\r\nsecond\r\n\r\n", "; it said: second"},
		{"a terminal's codes", "\x1b[31mred\x1b[0m \u202egnp", `; it said: \x1b[31mred\x1b[0m \u202egnp`},
		{"a long line", "a\n" + long, "; it said: …" + long[:maxSaid]},
		{"much", strings.Repeat(long+"\n", 150) + "end\n", "; it said: end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := newCheckOutput()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.theirs.WriteString(c.wrote); err != nil {
				t.Fatal(err)
			}
			o.close()
			if got := o.said(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestACheckThatWritesTooMuchIsLeftWaiting(t *testing.T) {
	o, err := newCheckOutput()
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan int, 1)
	cmd := exec.Command("/bin/sh", "-c", "while :; do echo 0123456789abcdef0123456789abcdef; done")
	cmd.Stdout = o.theirs
	var pidfd int
	cmd.SysProcAttr = &unix.SysProcAttr{PidFD: &pidfd}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	o.started()
	go func() { cmd.Wait(); wrote <- cmd.ProcessState.ExitCode() }()
	select {
	case <-o.done:
	case <-time.After(20 * time.Second):
		t.Fatal("its output is read on and on")
	}
	select {
	case <-wrote:
		t.Error("it ended")
	case <-time.After(50 * time.Millisecond):
	}
	if len(o.last) > 8<<10 {
		t.Errorf("%d bytes are kept", len(o.last))
	}
	unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	<-wrote
	o.close()
}

// newCgroup is a new cgroup of the hierarchy that containers' are found in.
func newCgroup(t *testing.T) cgroup.Group {
	t.Helper()
	base := "/sys/fs/cgroup"
	if _, err := os.Stat(base + "/freezer"); err == nil {
		base += "/freezer"
	}
	dir, err := os.MkdirTemp(base, "gwt-")
	if err != nil {
		t.Fatal("this test needs root and a cgroup to write in: ", err)
	}
	cmd := exec.Command("/bin/cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	pid := strconv.Itoa(cmd.Process.Pid)
	if err := os.WriteFile(dir+"/cgroup.procs", []byte(pid), 0); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	g, err := cgroup.Of(data)
	if err != nil {
		t.Fatal(err)
	}
	if g.Dir() != dir {
		t.Fatalf("cgroup is %s, want %s", g.Dir(), dir)
	}
	return g
}

// Whatever a check forks is in its cgroup: a new session, and a parent that has ended, do not hide it.
func TestWhatACheckForksIsEndedWithIt(t *testing.T) {
	parent := newCgroup(t)
	group, err := parent.Child(checkGroup)
	if err != nil {
		t.Fatal("this test needs root and a cgroup to write in: ", err)
	}
	again, err := parent.Child(checkGroup)
	if err != nil || again != group {
		t.Errorf("one that is there is not taken: %v, %v", again, err)
	}
	defer group.Remove()
	cmd := exec.Command("/bin/sh", "-c", "read go; for i in 1 2 3; do (setsid sleep 60 & setsid sh -c 'sleep 60 & sleep 60' &) ; done; echo forked; exec sleep 60")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := group.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if held, err := members(group); err != nil || len(held) < 7 {
		t.Errorf("%d processes are known, %v; want at least 7", len(held), err)
	} else {
		for _, p := range held {
			p.Close()
		}
	}
	if err := endMembers(group); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if held, err := members(group); err != nil || len(held) != 0 {
		t.Errorf("%d processes are left, %v", len(held), err)
	}
	if err := group.Remove(); err != nil {
		t.Error(err)
	}
	if held, err := members(group); err != nil || held != nil {
		t.Errorf("without a cgroup: %v, %v", held, err)
	}
}
