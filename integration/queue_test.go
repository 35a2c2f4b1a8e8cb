//go:build integration

package integration

import (
	"bytes"
	"context"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

var queueFaults = faults{
	test:  "TestARequestThatHasToWaitHasADecidedEnd",
	title: "Somebody else is at it",
	about: "One action at a time. The deadline counts from the request on, waiting included; what has not begun by then never begins.",
	rows: []fault{{
		stage: "queue", fault: "another restart takes longer than the deadline",
		exit: code.ExitDeadline, code: code.Deadline,
		message: "cannot restart gateway … of …: another action held the place until the deadline; nothing was done",
		state:   receipt.Running, gateway: aNewOne, note: "by the first request alone",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c, before, finish := held(t)
			r := c.tryRestart("--timeout", "300ms")
			finish()
			c.asked(1)
			return c, before, r
		},
	}, {
		stage: "queue", fault: "the same request arrives again while it is carried out (same id)",
		state: receipt.Running, gateway: aNewOne, note: "both get one receipt",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c, before, finish := held(t, "--request-id", "once")
			again := c.begin("gatewarden", "restart", "--json", "--request-id", "once")
			time.Sleep(200 * time.Millisecond)
			first := finish()
			r := again()
			if a, b := decode[receipt.Receipt](t, first.Stdout), decode[receipt.Receipt](t, r.Stdout); a.ID != b.ID {
				t.Errorf("receipts %s and %s", a.ID, b.ID)
			}
			c.asked(1)
			return c, before, r
		},
	}, {
		stage: "queue", fault: "16 requests wait already",
		exit: code.ExitDeadline, code: code.Busy,
		message: "cannot restart gateway … of …: 16 requests wait already; nothing was done",
		state:   receipt.Running, gateway: aNewOne, note: "the 16 clients leave; their requests are dropped",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c, before, finish := held(t)
			ctx, leave := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() { control.Call(ctx, c.runDir(), control.Request{Verb: control.Restart, Via: "cli"}, nil) })
			}
			time.Sleep(300 * time.Millisecond)
			r := c.tryRestart()
			leave()
			wg.Wait()
			time.Sleep(100 * time.Millisecond)
			finish()
			c.asked(1)
			return c, before, r
		},
	}, {
		stage: "queue", fault: "somebody else has changed its configuration since the generation was looked up (`--if-generation`)",
		exit: code.ExitRefused, code: code.PreflightFailed,
		message: "cannot restart gateway … of …: generation 2 is current, not 1: somebody else has changed its configuration",
		state:   receipt.Running, gateway: aNewOne,
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c, before, finish := heldAfter(t, func(c *container) { writeProfile(t, c.id, "description = \"edited\"\n"+harness.Profile{}.TOML()) })
			late := c.begin("gatewarden", "restart", "--json", "--if-generation", "1")
			time.Sleep(200 * time.Millisecond)
			finish()
			r := late()
			c.asked(1)
			return c, before, r
		},
	}, {
		stage: "preflight", fault: "less time is left than the gateway took to become ready last time",
		exit: code.ExitDeadline, code: code.Deadline,
		message: "cannot restart gateway … of …: … are left until the deadline, and the gateway took … to become ready last time: allow more with --timeout; process … was not touched and goes on",
		state:   receipt.Running, gateway: theSame,
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{Args: []string{"--delay-bind", "1500ms"}}})
			before := c.status()
			return c, before, c.tryRestart("--timeout", "1s")
		},
	}},
}

func TestARequestThatHasToWaitHasADecidedEnd(t *testing.T) { queueFaults.run(t) }

// held is a container with a restart under way that waits until finish is called.
func held(t *testing.T, flags ...string) (c *container, before receipt.Status, finish func() harness.Result) {
	t.Helper()
	return heldAfter(t, func(*container) {}, flags...)
}

// heldAfter is held with something that happens before the restart.
func heldAfter(t *testing.T, first func(c *container), flags ...string) (c *container, before receipt.Status, finish func() harness.Result) {
	t.Helper()
	withFailpoints(t)
	c = run(t, options{profile: &harness.Profile{}})
	before = c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
	first(c)
	reached, release := c.hold("preflight")
	done := c.begin(append([]string{"gatewarden", "restart", "--json"}, flags...)...)
	reached()
	return c, before, func() harness.Result {
		t.Helper()
		release()
		r := done()
		if r.Status != 0 {
			t.Errorf("the restart that was held: %v", r)
		}
		return r
	}
}

// asked checks how many restarts that somebody asked for have been carried out.
func (c *container) asked(want int) {
	c.t.Helper()
	time.Sleep(200 * time.Millisecond) // for one too many to show
	if s := c.status(); s.Restarts.Asked != want {
		c.t.Errorf("%d restarts were carried out, want %d", s.Restarts.Asked, want)
	}
}

// start starts the operator's command, for a test that ends it.
func (c *container) start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	t.Cleanup(cancel)
	cmd := c.h.Command(ctx, c.h.Bin("gatewarden"), args...)
	cmd.Stdout, cmd.Stderr = &bytes.Buffer{}, &bytes.Buffer{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}
