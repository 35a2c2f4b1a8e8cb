package verb

import (
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestRecoverOfAHealthyGatewayDoesNothingAndSaysSo(t *testing.T) {
	h := newHost(t).inside()
	got := make(chan control.Request, 1)
	h.serve("default/web", func(req control.Request, send func(control.Message)) {
		got <- req
		r := replaced()
		r.Action, r.Outcome, r.Old = receipt.Recover, receipt.AlreadyRunning, nil
		send(control.Message{Receipt: r, Done: true})
	})
	exit, stdout, stderr := h.run("recover")
	want(t, exit, code.ExitOK, stdout, "gateway demo of default/web is healthy (pid 845): nothing to do\n")
	if req := <-got; req.Verb != control.Recover || req.Via != "task-exec" || stderr != "" {
		t.Errorf("asked %+v, stderr %q", req, stderr)
	}
}

func TestSummariesTellWhatWasSpecial(t *testing.T) {
	r := replaced()
	r.Action, r.Old, r.Probe, r.Workload.Unchanged = receipt.Recover, nil, nil, false
	if got, want := summary(r), "started gateway demo of default/web: pid 845 in 11.2 ms, listener api proven, the workload changed meanwhile"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r = replaced()
	r.Action, r.Old.Forced, r.Listeners, r.Probe, r.Millis = receipt.Recover, true, nil, &receipt.Probe{Kind: "none"}, receipt.Millis{Total: 12_340, Unavailable: 12_000}
	if got, want := summary(r), "recovered gateway demo of default/web: pid 812 → 845 in 12.3 s (unavailable 12.0 s), SIGKILL was needed"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
