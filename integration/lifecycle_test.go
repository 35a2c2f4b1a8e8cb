//go:build integration

package integration

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestARecoverDuringARespawnWaitsForItAndDoesNothing(t *testing.T) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.parked()
	reached, release := c.hold("probe")
	killProcess(t, before.PID)
	reached()
	wait := c.gatewardenInBackground("recover", "--json", c.name())
	time.Sleep(100 * time.Millisecond) // it is in the queue by then; if not, the test is easier
	release()
	r := wait()
	rec := decode[receipt.Receipt](t, r.Stdout)
	if r.Status != 0 || rec.Outcome != receipt.AlreadyRunning {
		t.Errorf("%v", r)
	}
	after := c.parked()
	if after.Restarts.Unasked != 1 || after.Restarts.Asked != 0 || rec.New == nil || rec.New.PID != after.PID || !slices.Equal(c.gateways(), []int{after.PID}) {
		t.Errorf("the receipt %+v\nthe status %+v", rec, after)
	}
}

func TestAClientThatIsKilledLeavesNothingLocked(t *testing.T) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.parked()
	reached, release := c.hold("signalled")
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	client := host.Command(ctx, host.Bin("gatewarden"), "restart", c.name())
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	reached()
	if err := client.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := client.Wait(); err == nil {
		t.Error("the client was not killed")
	}
	release()
	after := c.waitFor("what was begun is finished", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	if r := c.restart(); r.Old.PID != after.PID || r.Millis.Queue > 1000 {
		t.Errorf("the next restart: %+v", r)
	}
}

func TestAContainerWhoseTaskIsStartedAgainHasAGatewayAgain(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	for range 2 {
		before := c.parked()
		c.restart()
		c.mustCtr("task", "kill", "-s", "KILL", c.id)
		// Removing waits for the end.
		eventually(t, eventTime, "the task is removed", func() bool { return c.ctr("task", "rm", c.id).Status == 0 }, func() string { return "" })
		c.mustCtr("task", "start", "-d", c.id)
		after := c.parked()
		if after.PID == before.PID || after.Generation != 1 || after.Container.InitPID == before.Container.InitPID || after.Last.Action != receipt.Start {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
		c.ask()
	}
}

func TestEventsOfARestartThatOutlivesContainerdReachTheNextOne(t *testing.T) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.parked()
	reached, release := c.hold("signalled")
	wait := c.restartBy("gatewarden")
	reached()
	ctx, cancel := context.WithTimeout(host.Context(context.Background()), commandTime)
	defer cancel()
	if err := host.CrashDaemon(ctx); err != nil {
		t.Fatal(err)
	}
	stream, errs := subscribe(t, ctx, `topic~="^/tasks/"`)
	release()
	r := decode[receipt.Receipt](t, wait().Stdout)
	var seen []string
	for len(seen) < 2 {
		select {
		case e := <-stream:
			v, err := typeurl.UnmarshalAny(e.Event)
			if err != nil {
				t.Fatal(err)
			}
			switch e := v.(type) {
			case *eventsapi.TaskExit:
				seen = append(seen, fmt.Sprintf("exit %s %d %d", e.ID, e.Pid, e.ExitStatus))
			case *eventsapi.TaskExecStarted:
				seen = append(seen, fmt.Sprintf("started %s %d", e.ExecID, e.Pid))
			}
		case err := <-errs:
			t.Fatalf("events: %v", err)
		case <-time.After(eventTime):
			t.Fatalf("so far %v", seen)
		}
	}
	if want := []string{fmt.Sprintf("exit gateway %d 0", before.PID), fmt.Sprintf("started gateway %d", r.New.PID)}; !slices.Equal(seen, want) {
		t.Errorf("events %q, want %q", seen, want)
	}
}
