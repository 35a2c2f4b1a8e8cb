//go:build integration

package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestTheEndOfContainerdChangesNothingForTheGateway(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}, command: []string{"testworkload", "talk"}})
	before := c.status()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	if err := host.CrashDaemon(ctx); err != nil {
		t.Fatal(err)
	}
	after := c.status()
	if after.PID != before.PID || after.StartTime != before.StartTime || after.Warden.PID != before.Warden.PID || after.Generation != before.Generation {
		t.Errorf("gateway or warden changed:\nbefore %+v\nafter  %+v", before, after)
	}
	if got, ok := c.talk(); !ok || got.Refused != 0 || got.Failed != 0 {
		t.Errorf("the workload noticed: %+v", got)
	}
	c.restart()
	if r := c.ctr("task", "kill", "--exec-id", "gateway", "-s", "TERM", c.id); r.Status != 0 {
		t.Errorf("%v", r)
	}
}

func TestSeveralContainersInOneShimHaveTheirOwnGateways(t *testing.T) {
	group := uniqueID("pod")
	flags := []string{"--annotation", "io.containerd.runc.v2.group=" + group}
	// One without a gateway is the pod's first, as with Kubernetes' pause container.
	pause := run(t, options{flags: flags})
	a := run(t, options{profile: &harness.Profile{}, flags: flags})
	b := run(t, options{profile: &harness.Profile{}, flags: flags})
	processes, err := host.Processes()
	if err != nil {
		t.Fatal(err)
	}
	var shims []string
	for _, p := range processes {
		for _, c := range []*container{pause, a, b} {
			if strings.Contains(p.Command, "containerd-shim-gatewarden-v2") && strings.Contains(p.Command, "-id "+c.id+" ") {
				shims = append(shims, p.String())
			}
		}
	}
	if len(shims) != 1 {
		t.Errorf("%d shims serve the group, want 1: %v", len(shims), shims)
	}
	before := b.status()
	a.restart()
	if after := b.status(); after.PID != before.PID || after.Warden.PID == a.status().Warden.PID {
		t.Errorf("the other container's gateway is not its own: %+v", after)
	}
	a.delete()
	a.checkGone()
	b.restart()
	if s := b.status(); s.State != receipt.Running {
		t.Errorf("the end of one container ended the other's gateway: %+v", s)
	}
}

func TestALostWardenThatCannotBeReplacedIsToldAndTheContainerStillEnds(t *testing.T) {
	hook := filepath.Join(t.TempDir(), "gatewarden-hook")
	program, err := os.ReadFile(host.Bin("gatewarden-hook"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, hook, string(program), 0o755)
	useHook(t, hook)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	// Renamed over: the running warden's file is not touched.
	writeFile(t, hook+".broken", "#!/bin/sh\nexit 1\n", 0o755)
	rename(t, hook, hook+".good")
	rename(t, hook+".broken", hook)
	killProcess(t, before.Warden.PID)
	r := c.tryRestart()
	refused(t, r, code.ExitRefused, string(code.WardenLost))
	if !strings.Contains(r.Stdout+r.Stderr, hook) {
		t.Errorf("the message does not name the program:\n%v", r)
	}
	// Workload and gateway go on, and the task API does not hang.
	if r := c.get("/"); r.Status != 0 {
		t.Errorf("%v", r)
	}
	if r := c.ctr("task", "ps", c.id); r.Status != 0 {
		t.Errorf("%v", r)
	}
	rename(t, hook+".good", hook)
	if after := c.restart(); after.Old.PID != before.PID {
		t.Errorf("the restart ended process %d, not %d", after.Old.PID, before.PID)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
