package verb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func restart() Command {
	return Command{
		Name:    "restart",
		Args:    "CONTAINER",
		Summary: "replace the gateway by a new one, with proof",
		Help: `Ends exactly the tracked gateway process, proves that it is gone, starts the next one, and proves its posture, its
listeners and its readiness. The workload is not touched. What can be checked is checked before the old gateway is
signalled: a refusal (exit 3) has cost nothing. Each stage is printed as it ends, and the receipt's summary at last.

  --timeout D        the whole action's deadline, waiting for its turn included (the profile's own sum)
  --reason TEXT      why, for the receipt (at most 1024 bytes)
  --request-id ID    a repeated ID does nothing and gives the first receipt, so that a script can retry
  --if-generation N  refuse unless N is the current generation of the configuration
` + commonFlags + exitHelp,
		Examples: `  gatewarden restart web
  gatewarden restart k8s.io/4f2a --reason "rotated the token" --json
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			return action(fs, &control.Request{Verb: control.Restart})
		},
	}
}

// action is what restart, recover, apply and rollback share: their flags, the request, the progress and the receipt.
func action(fs *flag.FlagSet, req *control.Request) func(context.Context, *Invocation) int {
	timeout := timeoutFlag(fs)
	fs.Func("reason", "", func(s string) error {
		if len(s) > control.MaxReason {
			return fmt.Errorf("longer than %d bytes", control.MaxReason)
		}
		req.Reason = s
		return nil
	})
	fs.Func("request-id", "", func(s string) error {
		if s == "" || len(s) > control.MaxRequestID {
			return fmt.Errorf("an id has 1 to %d bytes", control.MaxRequestID)
		}
		req.RequestID = s
		return nil
	})
	fs.Func("if-generation", "", func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return errors.New("a generation is a whole number, as status shows it")
		}
		req.IfGeneration = &n
		return nil
	})
	return func(ctx context.Context, in *Invocation) int {
		t, exit := in.target(in.Config.RunDir)
		if exit != code.ExitOK {
			return exit
		}
		req.Timeout = *timeout
		p := progress{w: in.Stdout, terminal: in.Terminal, width: in.Width, safe: in.safe}
		on := p.stage
		if in.JSON {
			on = func(m control.Message) { p.note(m) }
		}
		m, err := in.Host().Act(ctx, t, *req, on)
		if err != nil && m.Receipt == nil {
			p.end(false, 0)
			return in.failAction(ctx, t, req.Verb, p.stopped, code.From(err, code.StageQueue))
		}
		if req.DryRun && m.Plan != nil {
			p.end(true, 0)
			return in.plan(t, m.Plan)
		}
		return in.finish(t, &p, m)
	}
}

// finish prints the receipt.
func (in *Invocation) finish(t gateways.Target, p *progress, m control.Message) int {
	r := m.Receipt
	exit := r.Exit()
	if in.JSON {
		in.PrintJSON(r)
	} else {
		p.end(exit == code.ExitOK && len(receipt.FailedForwards(r.Forwards)) == 0, r.Millis.Total)
	}
	if exit == code.ExitOK {
		if !in.JSON {
			fmt.Fprintln(in.Stdout, in.safe(summary(r)))
		}
		in.complainOfForwards(t, r)
		return exit
	}
	message, c := r.Message, r.Code
	if message == "" && m.Error != nil {
		message, c = m.Error.Message, m.Error.Code
	}
	if message == "" {
		message = fmt.Sprintf("%s of gateway %s of %s: %s at stage %s", r.Action, r.Gateway, t, r.Outcome, r.Stage)
	}
	in.complain(message, c)
	in.advise(t, r.Gateway, c)
	return exit
}

// complainOfForwards says what stands in the way of the gateway's clients, though all is well with the gateway.
func (in *Invocation) complainOfForwards(t gateways.Target, r *receipt.Receipt) {
	failed := receipt.FailedForwards(r.Forwards)
	for _, f := range failed {
		in.complain(f.String(), code.ForwardFailed)
	}
	if len(failed) > 0 {
		in.advise(t, r.Gateway, code.ForwardFailed)
	}
}

// failAction reports an action that ended without a receipt. stopped: the old gateway had been signalled by then.
func (in *Invocation) failAction(ctx context.Context, t gateways.Target, v control.Verb, stopped bool, e *code.Error) int {
	switch {
	case interrupted(ctx):
		e = gateways.GaveUp(t, v, e.Stage)
	case e.Code == code.WardenLost && stopped:
		e = gateways.LostAfterStop(t, v, e.Stage)
	}
	exit := in.failOn(t, e)
	if e.Code == code.WardenLost && stopped {
		return code.ExitFailed
	}
	return exit
}

// summary is the receipt in one line.
func summary(r *receipt.Receipt) string {
	what := fmt.Sprintf("gateway %s of %s", r.Gateway, r.Container)
	if r.Outcome == receipt.Done {
		return r.Message
	}
	if r.Outcome == receipt.AlreadyRunning && r.Action == receipt.Apply {
		return fmt.Sprintf("%s runs generation %d, which holds this configuration, and is healthy: nothing to do", what, r.Generation)
	}
	if r.Outcome == receipt.AlreadyRunning {
		s := what + " is healthy"
		if r.New != nil {
			s += fmt.Sprintf(" (pid %d)", r.New.PID)
		}
		return s + ": nothing to do"
	}
	var s string
	switch {
	case r.Old != nil && r.New != nil:
		s = fmt.Sprintf("%s %s: pid %d → %d", done(r.Action), what, r.Old.PID, r.New.PID)
	case r.New != nil:
		s = fmt.Sprintf("started %s: pid %d", what, r.New.PID)
	default:
		s = fmt.Sprintf("%s %s", done(r.Action), what)
	}
	if r.Action == receipt.Apply || r.Action == receipt.Rollback {
		s += fmt.Sprintf(", generation %d", r.Generation)
	}
	s += " in " + millis(r.Millis.Total)
	if r.Old != nil {
		s += " (unavailable " + millis(r.Millis.Unavailable) + ")"
		if r.Old.Forced {
			s += ", SIGKILL was needed"
		}
	}
	for _, l := range r.Listeners {
		if l.OwnerPID != 0 {
			s += ", listener " + l.Name + " proven"
		}
	}
	if p := r.Probe; p != nil && p.Kind != "none" {
		s += ", probe " + probeText(p)
	}
	for _, f := range r.Forwards {
		if f.OK != nil && *f.OK {
			s += ", forward " + f.Name + " answers"
		}
	}
	if r.New != nil && !r.Workload.Unchanged {
		s += ", the workload changed meanwhile"
	}
	return s
}

// probeText is a probe's answer without its time: "http 200", "tcp ok", "http: connection refused", "exec cannot tell: …".
func probeText(p *receipt.Probe) string {
	s := p.Kind
	if p.Status != 0 {
		s += " " + strconv.Itoa(p.Status)
	}
	if p.Verdict == "unknown" {
		s += " cannot tell"
	}
	switch {
	case p.Detail != "":
		s += ": " + p.Detail
	case p.Status == 0:
		s += " ok"
	}
	return s
}

func done(a receipt.Action) string {
	switch a {
	case receipt.Start:
		return "started"
	case receipt.Recover:
		return "recovered"
	case receipt.Respawn:
		return "respawned"
	case receipt.Apply:
		return "applied the configuration of"
	case receipt.Rollback:
		return "rolled back"
	}
	return "restarted"
}
