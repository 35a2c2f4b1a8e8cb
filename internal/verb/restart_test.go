package verb

import (
	"context"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// acts answers with the stages of a restart and then with last.
func acts(last control.Message, stages ...code.Stage) func(control.Request, func(control.Message)) {
	last.Done = true
	return func(_ control.Request, send func(control.Message)) {
		for i, s := range stages {
			send(control.Message{Stage: s, Text: "doing " + string(s), Elapsed: 1.5 * float64(i+1)})
		}
		send(last)
	}
}

func TestRestartPrintsEachStageAndTheSummary(t *testing.T) {
	h := newHost(t)
	h.serve("default/web", acts(control.Message{Receipt: replaced()}, code.StagePreflight, code.StageStop, code.StageLaunch))
	exit, stdout, stderr := h.run("restart", "web")
	want(t, exit, code.ExitOK, stdout, "  preflight  ok ", "  stop       ok ", "  launch     ok ", "1.5 ms  doing stop\n",
		"\nrestarted gateway demo of default/web: pid 812 → 845 in 11.2 ms (unavailable 8.9 ms), listener api proven, probe http 200\n")
	if stderr != "" || strings.Count(stdout, "\n") != 4 {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
}

func TestRestartAsJSONPrintsTheReceiptAlone(t *testing.T) {
	h := newHost(t)
	h.serve("default/web", acts(control.Message{Receipt: replaced()}, code.StagePreflight, code.StageStop))
	exit, stdout, stderr := h.run("restart", "--json", "web")
	want(t, exit, code.ExitOK, stderr)
	if r := oneObject[receipt.Receipt](t, stdout); r.ID != "r1" || r.New.PID != 845 {
		t.Errorf("receipt %+v", r)
	}
}

func TestAnActionsOutcomeIsItsExitStatus(t *testing.T) {
	with := func(o receipt.Outcome, c code.Code, message string) *receipt.Receipt {
		r := replaced()
		r.Outcome, r.Code, r.Message, r.Stage = o, c, message, code.StageProbe
		return r
	}
	for _, c := range []struct {
		name  string
		last  control.Message
		exit  int
		parts []string
	}{
		{"failed", control.Message{Receipt: with(receipt.Failed, code.ProbeFailed, "the probe said 500; nothing runs now")}, 1,
			[]string{"gatewarden: the probe said 500; nothing runs now (probe_failed)\n"}},
		{"failed with the error beside the receipt", control.Message{Receipt: with(receipt.Failed, "", ""),
			Error: &code.Error{Code: code.StopFailed, Message: "it does not die"}}, 1, []string{"it does not die (stop_failed)"}},
		{"refused", control.Message{Receipt: with(receipt.Refused, code.PreflightFailed, "port taken")}, 3, []string{"(preflight_failed)"}},
		{"paused without a receipt", control.Message{Error: &code.Error{Code: code.Paused, Message: "default/web is paused; resume it"}}, 3,
			[]string{"gatewarden: default/web is paused; resume it (paused)\n"}},
		{"rolled back", control.Message{Receipt: with(receipt.RolledBack, code.RolledBack, "the previous one runs")}, 4, []string{"(rolled_back)"}},
		{"busy", control.Message{Error: &code.Error{Code: code.Busy, Message: "queue full"}}, 5, []string{"(busy)"}},
		{"deadline", control.Message{Receipt: with(receipt.Refused, code.Deadline, "too late")}, 5, []string{"(deadline)"}},
		{"init gone", control.Message{Error: &code.Error{Code: code.NotRunning, Message: "it has exited"}}, 6, []string{"(not_running)"}},
		{"no receipt at all", control.Message{}, 3, []string{"without a receipt", "(internal)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.serve("default/web", acts(c.last, code.StagePreflight))
			exit, stdout, stderr := h.run("restart", "web")
			want(t, exit, c.exit, stderr, c.parts...)
			want(t, exit, c.exit, stdout, "  preflight  failed ")
			if strings.Contains(stderr, "gatewarden restart") {
				t.Errorf("the command that failed is named as its remedy: %q", stderr)
			}
			exit, stdout, _ = h.run("restart", "--json", "web")
			want(t, exit, c.exit, stdout)
			got := oneObject[struct {
				Outcome receipt.Outcome
				Error   *code.Error
			}](t, stdout)
			if (got.Outcome != "") == (got.Error != nil) {
				t.Errorf("neither a receipt nor an error: %s", stdout)
			}
		})
	}
}

func TestAWardenThatDiesBeforeTheStopHasCostNothing(t *testing.T) {
	h := newHost(t)
	h.serve("default/web", func(_ control.Request, send func(control.Message)) {
		send(control.Message{Stage: code.StagePreflight})
	})
	exit, _, stderr := h.run("restart", "web")
	want(t, exit, code.ExitRefused, stderr, "(warden_lost)", "next: ", "warden.log")
}

func TestAWardenThatDiesAfterTheStopIsNoRefusal(t *testing.T) {
	h := newHost(t)
	h.serve("default/web", func(_ control.Request, send func(control.Message)) {
		send(control.Message{Stage: code.StagePreflight})
		send(control.Message{Stage: code.StageStop})
	})
	for _, args := range [][]string{{"restart", "web"}, {"restart", "--json", "web"}} {
		exit, _, stderr := h.run(args...)
		want(t, exit, code.ExitFailed, stderr, "whether a gateway runs now is not known (warden_lost)", "next: ")
	}
}

func TestAContainerWithoutWardenRefusesARestart(t *testing.T) {
	h := newHost(t)
	h.lose("default/web")
	exit, stdout, stderr := h.run("restart", "--json", "web")
	want(t, exit, code.ExitRefused, stderr, "(warden_lost)", "no hook program at", "next: `gatewarden doctor`")
	if e := oneObject[struct{ Error *code.Error }](t, stdout).Error; e == nil || e.Code != code.WardenLost {
		t.Errorf("error %+v", e)
	}
}

func TestAnInterruptedRestartSaysThatItGoesOn(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	h.serve("default/web", func(_ control.Request, send func(control.Message)) {
		send(control.Message{Stage: code.StageStop})
		cancel()
		<-release
	})
	t.Cleanup(func() { close(release) }) // runs before the server's own, which waits for its handlers
	exit, _, stderr := h.runContext(ctx, "restart", "web")
	want(t, exit, code.ExitDeadline, stderr, "stopped waiting for the restart of default/web; the warden finishes", "gatewarden status default/web")
}

func TestOnATerminalOneLineIsRewrittenAndGone(t *testing.T) {
	h := newHost(t)
	h.env.Terminal, h.env.Width = true, 30
	h.serve("default/web", acts(control.Message{Receipt: replaced()}, code.StagePreflight, code.StageStop))
	exit, stdout, _ := h.run("restart", "web")
	want(t, exit, code.ExitOK, stdout, "\r  preflight  doing preflight", "\r\x1b[Krestarted gateway demo")
	if strings.Count(stdout, "\n") != 1 {
		t.Errorf("more than the summary stays: %q", stdout)
	}
}

func TestTextFromTheContainersSideIsHarmlessOnATerminal(t *testing.T) {
	h := newHost(t)
	h.env.Terminal = true
	r := replaced()
	r.Outcome, r.Code, r.Message = receipt.Failed, code.CrashLoop, "it said:\n\x1b]0;owned\x07\n\u009b2J"
	h.serve("default/web", acts(control.Message{Receipt: r}))
	exit, stdout, stderr := h.run("restart", "web")
	want(t, exit, code.ExitFailed, stderr, "it said: (crash_loop)\n")
	for _, bad := range []string{"\x1b]", "\x07", "\u009b"} {
		if strings.Contains(stdout+stderr, bad) {
			t.Errorf("%q reaches the terminal: %q %q", bad, stdout, stderr)
		}
	}
	_, stdout, _ = h.run("restart", "web", "--json")
	for _, bad := range []string{"\x1b", "\x07", "\u009b"} {
		if strings.Contains(stdout, bad) {
			t.Errorf("%q reaches the terminal in JSON: %q", bad, stdout)
		}
	}
	if got := oneObject[receipt.Receipt](t, stdout); got.Message != r.Message {
		t.Errorf("the escaped message reads back as %q", got.Message)
	}
}

// What the gateway's clients on the host meet is no failure of the restart, and not to be overlooked either.
func TestAForwardThatFailsIsToldLoudlyBesideASuccess(t *testing.T) {
	forwards := []receipt.Forward{
		{Name: "web", Address: "127.0.0.1:8080", OK: new(false), Code: code.ForwardFailed, Detail: "connection refused"},
		{Name: "api", Address: "127.0.0.1:8081", OK: new(true)}, {Name: "odd", Address: "127.0.0.1:8082", Detail: "no memory"},
	}
	const said = "forward web (127.0.0.1:8080) does not reach the gateway: connection refused"
	h := newHost(t)
	h.serve("default/web", func(req control.Request, send func(control.Message)) {
		r, st := replaced(), statusOf("default/web")
		r.Forwards, st.Forwards, st.Code, st.Message = forwards, forwards, code.ForwardFailed, said
		switch req.Verb {
		case control.Status:
			send(control.Message{Status: st, Done: true})
		case control.Probe:
			send(control.Message{Report: &control.Report{Healthy: new(true), PID: 845, Forwards: forwards}, Done: true})
		default:
			send(control.Message{Stage: code.StageProbe})
			send(control.Message{Stage: code.StageForward})
			send(control.Message{Receipt: r, Done: true})
		}
	})
	exit, stdout, stderr := h.run("restart", "web")
	want(t, exit, code.ExitOK, stdout, "  probe      ok", "  forward    failed", "pid 812 → 845", ", forward api answers")
	want(t, exit, code.ExitOK, stderr, "gatewarden: "+said+" (forward_failed)\n", "next: ", "`gatewarden probe default/web`")
	if strings.Contains(stderr, "api") || strings.Contains(stderr, "odd") {
		t.Errorf("of the others: %s", stderr)
	}
	exit, stdout, stderr = h.run("restart", "--json", "web")
	want(t, exit, code.ExitOK, stderr, said+" (forward_failed)\n")
	if r := oneObject[receipt.Receipt](t, stdout); r.Outcome != receipt.Replaced || len(r.Forwards) != 3 || r.Forwards[2].OK != nil {
		t.Errorf("%+v", r)
	}
	exit, stdout, stderr = h.run("status", "web")
	want(t, exit, code.ExitOK, stdout, "state      running, healthy\n", "code       forward_failed\n", "message    "+said+"\n",
		"forwards   "+said+"\n           forward api (127.0.0.1:8081) answers\n           cannot tell whether forward odd (127.0.0.1:8082) reaches the gateway: no memory\n")
	want(t, exit, code.ExitOK, stderr, "next: ", "`gatewarden probe default/web`")
	exit, stdout, stderr = h.run("probe", "web")
	want(t, exit, code.ExitOK, stdout, "verdict    healthy\n", "forwards   "+said+"\n")
	want(t, exit, code.ExitOK, stderr, "next: ")
}
