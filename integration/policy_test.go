//go:build integration

package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

var policyFaults = faults{
	test:  "TestAGatewayThatEndsUnaskedIsTreatedByItsPolicy",
	title: "The gateway ends, and nobody asked it to",
	about: "Code and message are those of `gatewarden status`. A restart that an operator asks for works in each of these states, and never counts as an end.",
	rows: []fault{
		unasked("killed from outside, `policy = \"always\"`", "", receipt.Running, aNewOne, "", "",
			func(t *testing.T, c *container, s receipt.Status) { killProcess(t, s.PID) }),
		unasked("exits with status 0, `policy = \"always\"`", "", receipt.Running, aNewOne, "", "", quit),
		unasked("exits with status 0, `policy = \"on-failure\"`", "policy = \"on-failure\"", receipt.Stopped, none, "", "gateway … of … exited unasked after … (exit status 0); its restart policy leaves it so", quit),
		unasked("killed from outside, `policy = \"on-failure\"`", "policy = \"on-failure\"", receipt.Running, aNewOne, "", "",
			func(t *testing.T, c *container, s receipt.Status) { killProcess(t, s.PID) }),
		unasked("killed from outside, `policy = \"never\"`", "policy = \"never\"", receipt.FailedSt, none, code.LaunchFailed,
			"gateway … of … exited unasked after … (killed by SIGKILL); its policy does not start it again: `gatewarden restart …` does",
			func(t *testing.T, c *container, s receipt.Status) { killProcess(t, s.PID) }),
		unasked("exits with one of its `fatal_exit_codes`", "fatal_exit_codes = [0]", receipt.FailedSt, none, code.LaunchFailed,
			"gateway … of … exited unasked after … (exit status 0); its policy does not start it again: `gatewarden restart …` does", quit),
		unasked("ends more than `burst` times within `window`", "burst = 1\nbackoff = { initial = \"20ms\", max = \"50ms\" }", receipt.FailedSt, none, code.CrashLoop,
			"gateway … of … exited unasked after … (killed by SIGKILL); that makes 2 ends within 1m0s: no further try is made until `gatewarden restart …`",
			func(t *testing.T, c *container, s receipt.Status) {
				killProcess(t, s.PID)
				next := c.waitFor("the next gateway runs", func(n receipt.Status) bool { return n.State == receipt.Running && n.PID != s.PID })
				killProcess(t, next.PID)
			}),
	},
}

func quit(t *testing.T, c *container, _ receipt.Status) { c.get("/exit") }

func unasked(what, restart string, state receipt.State, gateway string, cd code.Code, message string, end func(*testing.T, *container, receipt.Status)) fault {
	return fault{
		stage: "running", fault: what, exit: noClient, code: cd, message: message, state: state, gateway: gateway,
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{Restart: restart}})
			before := c.status()
			end(t, c, before)
			return c, before, harness.Result{}
		},
	}
}

func TestAGatewayThatEndsUnaskedIsTreatedByItsPolicy(t *testing.T) { policyFaults.run(t) }

func TestAnOperatorsRestartOverridesEveryPolicyAndNeverCountsAsAnEnd(t *testing.T) {
	for _, policy := range []string{"policy = \"never\"", "policy = \"on-failure\"", "burst = 1"} {
		t.Run(policy, func(t *testing.T) {
			c := run(t, options{profile: &harness.Profile{Restart: policy}})
			for range 4 {
				c.restart()
			}
			if s := c.status(); s.State != receipt.Running || s.Restarts != (receipt.Restarts{Asked: 4}) {
				t.Errorf("after four restarts: %+v", s)
			}
			for _, verb := range []string{"restart", "recover"} {
				killProcess(t, c.status().PID)
				if policy == "burst = 1" {
					c.waitFor("the first end is made good", func(s receipt.Status) bool { return s.State == receipt.Running })
					killProcess(t, c.status().PID)
				}
				if policy != "policy = \"on-failure\"" {
					c.waitFor("the state is failed", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
				}
				if r := c.exec("gatewarden", verb); r.Status != 0 {
					t.Errorf("%v", r)
				}
				if s := c.waitFor("it runs", func(s receipt.Status) bool { return s.State == receipt.Running }); s.Code != "" || s.Message != "" {
					t.Errorf("it runs, and the status still says %s: %s", s.Code, s.Message)
				}
			}
		})
	}
}

func TestTheWaitsBeforeAStartGrowAndBeginAnewAfterAHealthyTime(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Restart: "backoff = { initial = \"200ms\", max = \"600ms\" }\nburst = 20\nwindow = \"3s\""}})
	// From the warden itself: by way of a client the look alone could take as long as a healthy time.
	status := func() receipt.Status {
		m, err := control.Call(t.Context(), c.runDir(), control.Request{Verb: control.Status}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return *m.Status
	}
	crash := func() float64 {
		s := status()
		killProcess(t, s.PID)
		var after receipt.Status
		eventually(t, eventTime, "the next one runs", func() bool {
			after = status()
			return after.State == receipt.Running && after.PID != s.PID
		}, func() string { return fmt.Sprintf("%+v", after) })
		return after.Last.Millis.Unavailable
	}
	// Up to a tenth more by design; what a start takes comes on top, and nothing makes it less.
	for i, least := range []float64{200, 400, 600, 600} {
		if took := crash(); took < least || took > least*1.1+1000 {
			t.Errorf("after end %d the gateway was away for %.0f ms, want %.0f ms and what a start takes", i+1, took, least)
		}
	}
	time.Sleep(3500 * time.Millisecond)
	if took := crash(); took < 200 || took >= 600 {
		t.Errorf("after a healthy time the gateway was away for %.0f ms, want 200 ms and what a start takes", took)
	}
}

func TestAFailedGatewayIsSeenByEveryClient(t *testing.T) {
	ctx := withTime(t)
	stream, errs := subscribe(t, ctx, `topic=="/tasks/exit"`)
	c := run(t, options{profile: &harness.Profile{
		Args:    []string{"--exit-after", "400ms", "--exit-code", "3"},
		Restart: "backoff = { initial = \"20ms\", max = \"50ms\" }\nburst = 1",
	}})
	s := c.waitFor("the state is failed", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
	if s.Code != code.CrashLoop || !strings.Contains(s.Message, "gatewarden restart "+c.name()) {
		t.Errorf("status %s: %s", s.Code, s.Message)
	}
	if r := gatewarden(t, "status", c.name()); r.Status != 1 || !strings.Contains(r.Stdout, "failed") || !strings.Contains(r.Stdout, string(code.CrashLoop)) {
		t.Errorf("%v", r)
	}
	r := gatewarden(t, "ps")
	line := ""
	for l := range strings.Lines(r.Stdout) {
		if strings.HasPrefix(l, c.name()+" ") {
			line = l
		}
	}
	if !slices.Contains(strings.Fields(line), "failed") {
		t.Errorf("ps does not say so: %v", r)
	}
	process, err := c.task().LoadProcess(ctx, "gateway", nil)
	if err != nil {
		t.Fatal(err)
	}
	if st := statusOf(t, ctx, process); st.Status != containerd.Stopped || st.ExitStatus != 3 {
		t.Errorf("the State of exec gateway is %+v, want stopped with exit status 3", st)
	}
	exits := 0
	for exits < 2 {
		select {
		case e := <-stream:
			if exit := gatewayExit(t, e); exit != nil && exit.ContainerID == c.id {
				exits++
				if exit.ExitStatus != 3 {
					t.Errorf("the event says exit status %d, want 3", exit.ExitStatus)
				}
			}
		case err := <-errs:
			t.Fatalf("events: %v", err)
		case <-time.After(eventTime):
			t.Fatalf("%d exits of the gateway were told, want 2", exits)
		}
	}
}

// A gateway that could not even be started has no process and no exit; it has ended all the same.
func TestAGatewayThatCannotStartIsStoppedForTheTaskAPI(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Command: []string{"/usr/local/bin/missing"}, Start: "on_failure = \"warn\""}})
	ctx := withTime(t)
	var st containerd.Status
	eventually(t, eventTime, "the exec gateway is stopped", func() bool {
		process, err := c.task().LoadProcess(ctx, "gateway", nil)
		if err != nil {
			t.Fatal(err)
		}
		st = statusOf(t, ctx, process)
		return st.Status == containerd.Stopped && st.ExitStatus == 255
	}, func() string { return fmt.Sprintf("%+v", st) })
}

// gatewayExit is the event of a gateway's exit, or nil.
func gatewayExit(t *testing.T, e *events.Envelope) *eventsapi.TaskExit {
	t.Helper()
	v, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		t.Fatal(err)
	}
	if exit, ok := v.(*eventsapi.TaskExit); ok && exit.ID == "gateway" {
		return exit
	}
	return nil
}
