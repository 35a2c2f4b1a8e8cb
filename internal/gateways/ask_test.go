package gateways

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/control/controltest"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

var web = Target{"default", "web"}

// served is a host whose container default/web has a warden that the test makes up.
func served(t *testing.T, handler func(control.Request, func(control.Message))) Host {
	t.Helper()
	h := Host{Config: config.Config{RunDir: filepath.Join(t.TempDir(), "run")}, Namespace: "default", Via: "cli"}
	controltest.Serve(t, h.RunDir(web), handler)
	return h
}

// The warden keeps the deadline itself. One that lives, and has not answered long after it, is not waited for.
func TestAWardenBusyFarBeyondTheTimeoutIsADeadline(t *testing.T) {
	release := make(chan struct{})
	h := served(t, func(req control.Request, send func(control.Message)) {
		if req.Verb == control.Status {
			send(control.Message{Status: &receipt.Status{}, Done: true})
			return
		}
		<-release
	})
	t.Cleanup(func() { close(release) })
	begun := time.Now()
	req := control.Request{Verb: control.Restart, Timeout: 10 * time.Millisecond}
	_, err := h.actWithin(t.Context(), web, req, patience{100 * time.Millisecond, 500 * time.Millisecond}, nil)
	if err == nil || time.Since(begun) < 500*time.Millisecond || code.From(err, "").Code != code.Deadline {
		t.Fatalf("after %v: %v", time.Since(begun), err)
	}
}

func TestASlowRestartOfALivingWardenIsWaitedForAndAHangingOneIsNot(t *testing.T) {
	for _, alive := range []bool{true, false} {
		release := make(chan struct{})
		done := make(chan struct{})
		h := served(t, func(req control.Request, send func(control.Message)) {
			if req.Verb == control.Status && alive {
				send(control.Message{Status: &receipt.Status{}, Done: true})
				close(done) // asked on the side: the restart may end now
				return
			}
			select {
			case <-done:
				send(control.Message{Receipt: &receipt.Receipt{}, Done: true})
			case <-release:
			}
		})
		_, err := h.actWithin(t.Context(), web, control.Request{Verb: control.Restart}, patience{100 * time.Millisecond, grace}, nil)
		close(release)
		if alive && err != nil {
			t.Errorf("a living warden: %v", err)
		}
		if !alive && (err == nil || code.From(err, "").Code != code.WardenLost) {
			t.Errorf("a hanging warden: %v", err)
		}
	}
}
