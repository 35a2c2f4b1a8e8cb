//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

var stopFaults = faults{
	test:  "TestAStopEndsWithProofOrWithoutASecondGateway",
	title: "The gateway does not stop as asked",
	about: "The stop signal and then SIGKILL go through the same pidfd. No next gateway is started before the old one is proven dead and nothing of it is left.",
	rows: []fault{{
		stage: "stop", fault: "the gateway ignores SIGTERM",
		state: receipt.Running, gateway: aNewOne, note: "SIGKILL after `stop.timeout`; the receipt says `forced`",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{Args: []string{"--ignore-term"}, Stop: "timeout = \"200ms\""}})
			before := c.status()
			r := c.tryRestart()
			if got := decode[receipt.Receipt](t, r.Stdout); got.Old == nil || !got.Old.Forced || got.Old.Signal != "SIGKILL" {
				t.Errorf("the receipt does not tell of the force: %+v", got.Old)
			}
			return c, before, r
		},
	}, {
		stage: "stop", fault: "the gateway is stopped by SIGSTOP",
		state: receipt.Running, gateway: aNewOne, note: "a stopped process takes SIGKILL alone",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{Stop: "timeout = \"200ms\""}})
			before := c.status()
			signalProcess(t, before.PID, unix.SIGSTOP)
			return c, before, c.tryRestart()
		},
	}, {
		stage: "stop", fault: "the gateway is dead already, and nobody has seen it yet",
		state: receipt.Running, gateway: aNewOne, note: "ESRCH is success",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			withFailpoints(t)
			c := run(t, options{profile: &harness.Profile{}})
			before := c.status()
			reached, release := c.hold("intent")
			done := c.begin("gatewarden", "restart", "--json")
			reached()
			killProcess(t, before.PID)
			release()
			return c, before, done()
		},
	}, {
		stage: "stop", fault: "SIGKILL has no effect: the gateway is stuck in the kernel (state D)",
		exit: code.ExitFailed, code: code.StopFailed,
		message: "cannot restart gateway … of …: process … survived SIGKILL for 5s; it is in state D (D: stuck in the kernel), and no second gateway is started beside it: as soon as it ends, the next one is; process … is still there",
		state:   receipt.Stopping, gateway: theSame, note: "it is replaced as soon as it ends",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c, before, _ := stuck(t)
			return c, before, c.tryRestart()
		},
	}, {
		stage: "stop", fault: "a child that was daemonised, ignores SIGTERM and holds the listener outlives the gateway",
		state: receipt.Running, gateway: aNewOne, note: "it is found by cgroup, PID namespace and UID, and ended",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{Args: []string{"--fork-child"}}})
			before := c.status()
			// The new gateway has a child too, so that only one without is asked for the check afterwards.
			writeProfile(t, c.id, harness.Profile{}.TOML())
			return c, before, c.tryRestart()
		},
	}, {
		stage: "stop", fault: "the request's deadline passes while the gateway ends slowly",
		exit: code.ExitDeadline, code: code.Deadline,
		message: "cannot restart gateway … of …: process … got SIGTERM and did not end before the deadline; process … is still there",
		state:   receipt.Running, gateway: aNewOne, note: "nothing is signalled after the deadline; when the old one ends, it is replaced",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{Args: []string{"--slow-stop", "1500ms"}, Stop: "timeout = \"10s\""}})
			before := c.status()
			return c, before, c.tryRestart("--timeout", "500ms")
		},
	}},
}

func TestAStopEndsWithProofOrWithoutASecondGateway(t *testing.T) { stopFaults.run(t) }

// stuck makes a container whose gateway can't be ended until thaw is called: it is alone in a frozen cgroup of the v1
// freezer, whose tasks take no signal, not even SIGKILL (kernel documentation, cgroup-v1/freezer-subsystem).
func stuck(t *testing.T) (c *container, before receipt.Status, thaw func()) {
	t.Helper()
	c = run(t, options{profile: &harness.Profile{Stop: "timeout = \"200ms\""}})
	before = c.status()
	var dir string
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", before.PID))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":freezer:"); ok {
			dir = filepath.Join("/sys/fs/cgroup/freezer", path, "stuck")
		}
	}
	if dir == "" {
		t.Fatal("this test needs the freezer controller of cgroup v1: a process that SIGKILL can't end is not to be had otherwise")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(file, value string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	thaw = func() { write("freezer.state", "THAWED") }
	t.Cleanup(func() {
		thaw()
		eventually(t, eventTime, "the frozen cgroup is empty", func() bool { return unix.Rmdir(dir) == nil }, func() string { return dir })
	})
	write("cgroup.procs", fmt.Sprint(before.PID))
	write("freezer.state", "FROZEN")
	return c, before, thaw
}

func TestAGatewayThatWasStuckIsReplacedWhenItEnds(t *testing.T) {
	c, before, thaw := stuck(t)
	refused(t, c.tryRestart(), code.ExitFailed, string(code.StopFailed))
	// An operator's second try has nothing better to say, and starts no second gateway either.
	refused(t, c.tryRestart("--timeout", "8s"), code.ExitFailed, string(code.StopFailed))
	if got := c.gateways(); len(got) != 1 || got[0] != before.PID {
		t.Errorf("the gateways are %v, want %d alone", got, before.PID)
	}
	thaw()
	after := c.waitFor("the next gateway runs", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	if r := after.Last; r.Action != receipt.Restart || r.Outcome != receipt.Replaced {
		t.Errorf("the receipt %+v", r)
	}
}

func TestAClientThatIsKilledLeavesNoLockAndChangesNothing(t *testing.T) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	reached, release := c.hold("preflight")
	first := c.start(t, "restart", c.name())
	reached()
	queued := c.start(t, "restart", c.name())
	time.Sleep(200 * time.Millisecond) // for the second to come into the queue
	killProcess(t, queued.Process.Pid)
	killProcess(t, first.Process.Pid)
	_, _ = queued.Wait(), first.Wait()
	time.Sleep(100 * time.Millisecond)
	release()
	// What the first had begun is finished; the second's turn never comes.
	after := c.waitFor("the first restart is done", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	if r := c.restart(); r.Old.PID != after.PID {
		t.Errorf("process %d was replaced, not %d", r.Old.PID, after.PID)
	}
	if s := c.status(); s.Restarts.Asked != 2 {
		t.Errorf("%d restarts were carried out, want those of the first client and of this one", s.Restarts.Asked)
	}
}
