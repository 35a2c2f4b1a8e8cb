//go:build integration

package integration

import (
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// Gateways of different containers usually have the same UID. A dead init is shown in the root cgroup, with everybody: a
// warden that looked there for what its gateway left behind would end the gateways of all others.
func TestTheEndOfOneContainerDoesNotTouchTheGatewayOfAnother(t *testing.T) {
	a := run(t, options{profile: &harness.Profile{}})
	before := a.status()
	for _, end := range []func(b *container){
		func(b *container) { killProcess(t, b.init()) },
		func(b *container) { killProcess(t, b.status().PID) },
		func(b *container) { b.restart() },
	} {
		b := run(t, options{profile: &harness.Profile{}})
		end(b)
		time.Sleep(300 * time.Millisecond) // for the damage to show
		if after := a.status(); after.PID != before.PID || after.Standby.PID == 0 || after.State != receipt.Running || after.Restarts != before.Restarts {
			t.Fatalf("the neighbour changed from %+v to %+v", before, after)
		}
	}
}

// The first launcher and the standby are on their way into a container that has ended already: what a failed join leaves
// must be reaped, or its PID namespace, and so the container, never ends.
func TestAContainerThatEndsAtOnceEndsAtOnce(t *testing.T) {
	for range 5 {
		begin := time.Now()
		c, r := tryRun(t, options{profile: &harness.Profile{}, command: []string{"true"}})
		if r.Status != 0 {
			t.Fatalf("%v", r)
		}
		eventually(t, goneTime, "the warden of "+c.id+" is gone", func() bool {
			left := c.left()
			for _, l := range left {
				if l == "directory "+c.runDir() {
					return false
				}
			}
			return true
		}, func() string { return "" })
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}
