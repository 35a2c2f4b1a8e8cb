//go:build integration

package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// lastPID holds the number that the kernel gave last in the PID namespace of whoever writes it; the next process gets the
// next free one (proc_sys_kernel(5)).
const lastPID = "/proc/sys/kernel/ns_last_pid"

// reuseTries bounds the tries to have a number given again. All of the host takes numbers meanwhile.
const reuseTries = 3000

// occupant is a process that was given a number which another one had.
type occupant struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been waited for
}

// occupies starts processes until one has the number, which must be free. Prepare says what they are; in is the container in
// whose PID namespace they are born, nil for the host's.
func occupies(t *testing.T, number int, in *container, prepare func(cmd *exec.Cmd)) occupant {
	t.Helper()
	eventually(t, eventTime, fmt.Sprintf("the number %d is free", number), func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", number))
		return errors.Is(err, os.ErrNotExist)
	}, func() string { return fmt.Sprint(procStatus(t, number)) })
	var o occupant
	try := func() error {
		for range reuseTries {
			cmd := exec.Command("/bin/sleep", "600")
			cmd.Env, cmd.Dir = []string{}, "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			prepare(cmd)
			if err := os.WriteFile(lastPID, []byte(strconv.Itoa(number-1)), 0); err != nil {
				return err
			}
			if err := cmd.Start(); err != nil {
				return err
			}
			if cmd.Process.Pid == number {
				o = occupant{cmd, make(chan struct{})}
				return nil
			}
			cmd.Process.Kill()
			cmd.Wait()
		}
		return fmt.Errorf("the number %d was not given again in %d tries", number, reuseTries)
	}
	var err error
	if in == nil {
		err = try()
	} else {
		err = in.bearing(try)
	}
	if err != nil {
		t.Fatal(err)
	}
	// At once: in the PID namespace of a container it would keep the init from ending.
	go func() {
		o.cmd.Wait()
		close(o.ended)
	}()
	t.Cleanup(func() {
		o.cmd.Process.Kill()
		<-o.ended
	})
	if in != nil {
		in.admit(number)
	}
	return o
}

// bearing calls fn on a thread whose children are born in the container's PID namespace.
func (c *container) bearing(fn func() error) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", c.init()))
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		done <- func() error {
			runtime.LockOSThread() // unlocked only once all is as it was
			home, err := os.Open("/proc/thread-self/ns/pid_for_children")
			if err != nil {
				return err
			}
			defer home.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID); err != nil {
				return os.NewSyscallError("setns", err)
			}
			err = fn()
			if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWPID); back != nil {
				return errors.Join(err, os.NewSyscallError("setns", back))
			}
			runtime.UnlockOSThread()
			return err
		}()
	}()
	return <-done
}

// admit puts a process into the container's cgroups.
func (c *container) admit(pid int) {
	c.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.init()))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if !strings.Contains(parts[2], c.id) {
			continue
		}
		controller := strings.TrimPrefix(parts[1], "name=")
		if controller == "" {
			controller = "unified"
			if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
				controller = ""
			}
		}
		file := filepath.Join("/sys/fs/cgroup", controller, parts[2], "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0); err != nil {
			c.t.Fatal(err)
		}
	}
	processes, err := host.Processes()
	if err != nil {
		c.t.Fatal(err)
	}
	if !slices.ContainsFunc(processes, func(p harness.Process) bool {
		return p.PID == pid && slices.Contains(strings.Split(p.Cgroup, "/"), c.id)
	}) {
		c.t.Fatalf("process %d is not in the container's cgroup", pid)
	}
}

// untouched checks that the occupant lives on as it was.
func (o occupant) untouched(t *testing.T) {
	t.Helper()
	select {
	case <-o.ended:
		t.Errorf("the occupant of the number %d was ended: %v", o.cmd.Process.Pid, o.cmd.ProcessState)
	default:
		if s := procStatus(t, o.cmd.Process.Pid)["State"]; !strings.HasPrefix(s, "S") && !strings.HasPrefix(s, "R") {
			t.Errorf("the occupant of the number %d is in state %s", o.cmd.Process.Pid, s)
		}
	}
}

// as is a process with a user's rights.
func as(uid uint32) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid} }
}

func TestASuccessorDoesNotTakeTheNextProcessOfTheGatewaysNumberForTheGateway(t *testing.T) {
	for _, test := range []struct {
		name     string
		occupy   func(t *testing.T, c *container, number int) occupant
		imposter bool
	}{
		{"a process of the host", func(t *testing.T, _ *container, number int) occupant {
			return occupies(t, number, nil, func(*exec.Cmd) {})
		}, false},
		{"a process of the workload", func(t *testing.T, c *container, number int) occupant {
			return occupies(t, number, c, as(harness.WorkloadUID))
		}, false},
		// All but the start time fits. It runs under the gateway's UID in the container, so it is ended as a leftover.
		{"the gateway's own program under its UID", func(t *testing.T, c *container, number int) occupant {
			// By descriptor: its UID may not go by way of /proc/PID/root.
			program, err := os.Open(fmt.Sprintf("/proc/%d/root/usr/local/bin/testgateway", c.init()))
			if err != nil {
				t.Fatal(err)
			}
			defer program.Close()
			return occupies(t, number, c, func(cmd *exec.Cmd) {
				cmd.Path, cmd.Args, cmd.ExtraFiles = "/proc/self/fd/3", []string{"imposter", "--never-bind"}, []*os.File{program}
				as(harness.GatewayUID)(cmd)
			})
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			withFailpoints(t)
			c := run(t, options{profile: &harness.Profile{}})
			before := c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
			reached, release := c.hold("adopt")
			killProcess(t, before.Warden.PID)
			reached()
			killProcess(t, before.PID)
			o := test.occupy(t, c, before.PID)
			release()
			after := c.supervised(before.Warden.PID)
			if after.PID == before.PID {
				t.Errorf("process %d was adopted, and is another one", after.PID)
			}
			if last := after.Last; last.Action != receipt.Respawn || !strings.Contains(last.Reason, fmt.Sprintf("process %d is gone, and its number is another process's now", before.PID)) {
				t.Errorf("the receipt does not tell what was found: %+v", last)
			}
			if test.imposter {
				<-o.ended
				return
			}
			o.untouched(t)
			c.restart()
			o.untouched(t)
		})
	}
}

// An adopted gateway is not the warden's child: its number is free as soon as somebody else has reaped it, while the warden is
// still at work on its handle.
func TestARestartDoesNotTouchTheNextProcessOfTheGatewaysNumber(t *testing.T) {
	for _, test := range []struct {
		name, point string
		kill        bool // by us; else the warden's signal ends it
	}{
		{"before the signal", "intent", true},
		{"after the signal", "signalled", false},
		{"before it is known how it ended", "dead", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			withFailpoints(t)
			c := run(t, options{profile: &harness.Profile{}})
			first := c.status()
			killProcess(t, first.Warden.PID)
			before := c.supervised(first.Warden.PID)
			reached, release := c.hold(test.point)
			said := make(chan harness.Result, 1)
			go func() { said <- c.tryRestart() }()
			reached()
			if test.kill {
				killProcess(t, before.PID)
			}
			o := occupies(t, before.PID, c, as(harness.WorkloadUID))
			release()
			r := <-said
			if r.Status != 0 {
				t.Fatalf("%v", r)
			}
			got := decode[receipt.Receipt](t, r.Stdout)
			if got.Old == nil || got.Old.PID != before.PID || got.Old.StartTime != before.StartTime || got.Old.DeathProof != "pidfd" || got.Old.Forced {
				t.Errorf("the end of the old gateway: %+v", got.Old)
			}
			o.untouched(t)
			c.supervised(first.Warden.PID)
			o.untouched(t)
		})
	}
}

// The number that a gateway had inside its container is the workload's to take. Nothing goes by it.
func TestAWorkloadThatTakesTheGatewaysNumberInsideTheContainerIsNotTouched(t *testing.T) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
	reached, release := c.hold("stopped")
	said := make(chan harness.Result, 1)
	go func() { said <- c.tryRestart() }()
	reached()
	// A shell in the container's PID namespace, since it is the writer's that counts.
	script := fmt.Sprintf(`for i in $(seq 200); do echo %d > %s; sleep 600 & echo $!; read go; test "$go" = done && break; done; wait`, before.NSPID-1, lastPID)
	shell := exec.Command("/bin/bash", "-c", script)
	shell.Dir, shell.SysProcAttr = "/", &syscall.SysProcAttr{Setsid: true}
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.bearing(shell.Start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		shell.Process.Kill()
		<-ended
	})
	c.admit(shell.Process.Pid)
	lines := bufio.NewScanner(out)
	for lines.Scan() && strings.TrimSpace(lines.Text()) != strconv.Itoa(before.NSPID) {
		fmt.Fprintln(in, "again")
	}
	fmt.Fprintln(in, "done")
	go func() {
		shell.Wait()
		close(ended)
	}()
	number := 0
	for _, child := range childrenOf(t, shell.Process.Pid) {
		if f := strings.Fields(procStatus(t, child)["NSpid"]); f[len(f)-1] == strconv.Itoa(before.NSPID) {
			number = child
		}
	}
	if number == 0 {
		t.Fatalf("the number %d inside the container was not given again", before.NSPID)
	}
	start := startTime(t, number)
	release()
	r := <-said
	if r.Status != 0 {
		t.Fatalf("%v", r)
	}
	after := c.waitFor("the gateway runs", func(s receipt.Status) bool { return s.State == receipt.Running })
	if after.NSPID == before.NSPID || after.PID == number {
		t.Errorf("the status is %+v, and %d (%d in the container) is the workload's", after, number, before.NSPID)
	}
	c.restart()
	if startTime(t, number) != start || !strings.HasPrefix(procStatus(t, number)["State"], "S") {
		t.Errorf("process %d was touched: %v", number, procStatus(t, number)["State"])
	}
}

func TestAWardenStartedForAContainerThatIsGoneRefusesAndLeavesTheNextProcessOfItsInitsNumberAlone(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	record, err := install.Read(c.runDir())
	if err != nil {
		t.Fatal(err)
	}
	spec, err := os.ReadFile(filepath.Join(record.Bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	c.delete()
	c.checkGone()
	// The directory as it would be after a crash of everything: the record is there, and so is what it points to.
	record.Bundle = mountDir(t)
	writeFile(t, filepath.Join(record.Bundle, "config.json"), string(spec), 0o600)
	data, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.runDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(c.runDir()); err != nil {
			t.Error(err)
		}
		os.RemoveAll(c.logDir())
		for _, dir := range []string{c.runDir(), c.logDir()} {
			os.Remove(filepath.Dir(dir)) // if it is empty, as the product does
		}
	})
	writeFile(t, filepath.Join(c.runDir(), "install.json"), string(data), 0o600)
	writeFile(t, filepath.Join(c.runDir(), "lock"), "", 0o600)
	o := occupies(t, record.InitPID, nil, func(*exec.Cmd) {})
	for _, verb := range []string{"restart", "recover"} {
		refused(t, gatewarden(t, verb, "--json", c.h.Namespace+"/"+c.id), code.ExitNotManaged, string(code.NotRunning))
	}
	// And by hand, past the check that the command makes.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(filepath.Join(c.runDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	warden := exec.Command(host.Bin("gatewarden-hook"), "warden", c.runDir())
	warden.ExtraFiles = []*os.File{install.HandshakeFD - 3: w, install.LockFD - 3: lock}
	out, err := warden.CombinedOutput()
	w.Close()
	lock.Close()
	if code := warden.ProcessState.ExitCode(); code != 1 {
		t.Errorf("it ended with %d, %v: %s", code, err, out)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	r.Close()
	if want := fmt.Sprintf("process %d started at", record.InitPID); err != nil || !strings.Contains(line, want) || !strings.Contains(line, "is not the container's init") {
		t.Errorf("it said %q, %v", line, err)
	}
	o.untouched(t)
}
