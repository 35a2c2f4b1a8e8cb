package verb

import (
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestProbeExitsByTheVerdict(t *testing.T) {
	yes, no := true, false
	report := func(healthy *bool, p *receipt.Probe) control.Message {
		return control.Message{Report: &control.Report{Healthy: healthy, PID: 845, Probe: p,
			Listeners: []receipt.Listener{{Name: "api", Address: "tcp://127.0.0.1:1"}}}}
	}
	for _, c := range []struct {
		name string
		last control.Message
		exit int
		part string
	}{
		{"healthy", report(&yes, &receipt.Probe{Kind: "http", Status: 200, Millis: 1.25}), 0, "probe      http 200, 1.2 ms\n"},
		{"not healthy", report(&no, &receipt.Probe{Kind: "tcp", Detail: "connection refused"}), 1, "probe      tcp: connection refused, 0.0 ms\n"},
		{"the probe cannot tell", report(nil, &receipt.Probe{Kind: "exec", Verdict: "unknown", Detail: "cannot run /check"}), 5, "probe      exec cannot tell: cannot run /check, 0.0 ms\n"},
		{"cannot tell", report(nil, nil), 5, "verdict    cannot tell\n"},
		{"nobody listens", report(&no, nil), 1, "listen     api tcp://127.0.0.1:1  (nobody listens)\n"},
		{"paused", control.Message{Error: &code.Error{Code: code.Paused, Message: "it is paused"}}, 5, "it is paused (paused)"},
		{"init gone", control.Message{Error: &code.Error{Code: code.NotRunning, Message: "it has exited"}}, 6, "(not_running)"},
		{"no report", control.Message{}, 3, "without a report"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.serve("default/web", acts(c.last))
			exit, stdout, stderr := h.run("probe", "web")
			want(t, exit, c.exit, stdout+stderr, c.part)
			exit, stdout, _ = h.run("probe", "--json", "web")
			want(t, exit, c.exit, stdout)
			oneObject[map[string]any](t, stdout)
		})
	}
}

func TestAProbeWithoutWardenCannotTell(t *testing.T) {
	h := newHost(t)
	h.lose("default/web")
	exit, _, stderr := h.run("probe", "web")
	want(t, exit, code.ExitDeadline, stderr, "(warden_lost)", "next: ")
}
