package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

// Bounds of an Action, in bytes.
const (
	MaxReason    = 1024
	MaxRequestID = 128
)

// MaxTimeout is the longest Action.Timeout.
const MaxTimeout = 24 * time.Hour

// Action says how something is to be done. The zero value does it, without a reason.
type Action struct {
	// Reason is for the receipt: at most MaxReason bytes.
	Reason string
	// RequestID makes a request safe to repeat: a repeated id does nothing and gives the first receipt. At most MaxRequestID
	// bytes; "": one that no other request has.
	RequestID string
	// IfGeneration refuses unless this is the current generation of the configuration; nil: whatever it is.
	IfGeneration *int
	// Timeout is the warden's deadline for the whole action, waiting for its turn included, at most MaxTimeout; 0: what ctx leaves,
	// less a twentieth and at most a second, so that the receipt still arrives, or the profile's sum if ctx has no deadline. To go
	// back to the configuration before has a time of its own: a ctx that ends before that is over has no receipt.
	Timeout time.Duration
	// Progress is told each stage as it begins, by the goroutine that called; it may be nil.
	Progress func(Progress)

	// Signal is for Restart: "SIGTERM", "SIGINT", "SIGQUIT" or another that the gateway is told to stop with, instead of the
	// profile's stop.signal; "": that one.
	Signal string
	// SkipPreflight is for Apply and Rollback and their plans: without the profile's [preflight] command.
	SkipPreflight bool
}

// Progress is a stage of an action that begins.
type Progress struct {
	Stage   Stage
	Text    string        // what is being done, for people
	Elapsed time.Duration // since the warden was asked
}

// Config names a directory or file of the host that a [[mount]] of the profile is to show a copy of.
type Config struct {
	Target string // of the [[mount]]; "": the only one
	Source string // absolute, in its shortest form, and root's alone
}

// Restart replaces the gateway by a new one, with proof. What can be checked is checked before the old gateway is signalled:
// with OutcomeRefused it was not touched. If the warden is lost, another one is started first.
func (c *Client) Restart(ctx context.Context, r Ref, a Action) (*Receipt, error) {
	return c.act(ctx, r, a, control.Request{Verb: control.Restart})
}

// Recover replaces the gateway only if it is not healthy; OutcomeAlreadyRunning says that it is.
func (c *Client) Recover(ctx context.Context, r Ref, a Action) (*Receipt, error) {
	return c.act(ctx, r, a, control.Request{Verb: control.Recover})
}

// Apply changes the gateway's configuration: it is copied, judged, shown, and proven by a restart. What fails before the gateway
// was told to stop costs nothing; after that the generation before is started again, which is an *Error with CodeRolledBack.
// Without a Config what the profile declares is taken up.
func (c *Client) Apply(ctx context.Context, r Ref, configs []Config, a Action) (*Receipt, error) {
	return c.act(ctx, r, a, control.Request{Verb: control.Apply, Config: requested(configs)})
}

// Rollback goes back to an earlier generation of the configuration; 0: the one before the current one.
func (c *Client) Rollback(ctx context.Context, r Ref, generation int, a Action) (*Receipt, error) {
	return c.act(ctx, r, a, control.Request{Verb: control.Rollback, To: generation})
}

// PlanApply makes all checks of Apply, changes nothing, and tells what Apply would do.
func (c *Client) PlanApply(ctx context.Context, r Ref, configs []Config, a Action) (*Plan, error) {
	return c.plan(ctx, r, a, control.Request{Verb: control.Apply, Config: requested(configs)})
}

// PlanRollback makes all checks of Rollback, changes nothing, and tells what Rollback would do.
func (c *Client) PlanRollback(ctx context.Context, r Ref, generation int, a Action) (*Plan, error) {
	return c.plan(ctx, r, a, control.Request{Verb: control.Rollback, To: generation})
}

func requested(configs []Config) []control.Config {
	var all []control.Config
	for _, c := range configs {
		all = append(all, control.Config(c))
	}
	return all
}

func (c *Client) act(ctx context.Context, r Ref, a Action, req control.Request) (*Receipt, error) {
	m, err := c.ask(ctx, r, a, req)
	if m.Receipt == nil {
		return nil, err
	}
	receipt, wrong := publicPointer[Receipt](m.Receipt)
	if wrong != nil {
		return nil, wrong
	}
	return receipt, outcome(m.Receipt, err)
}

func (c *Client) plan(ctx context.Context, r Ref, a Action, req control.Request) (*Plan, error) {
	req.DryRun = true
	m, err := c.ask(ctx, r, a, req)
	switch {
	case m.Plan != nil:
		return publicPointer[Plan](m.Plan)
	case m.Receipt != nil: // of a refusal, or the first one of a repeated id
		if wrong := outcome(m.Receipt, err); wrong != nil {
			return nil, wrong
		}
		return nil, fmt.Errorf("the request id %q is that of something that was done, which is not a plan", a.RequestID)
	}
	return nil, err
}

// ask has the container's warden act. With a receipt or a plan there may be an error too.
func (c *Client) ask(ctx context.Context, r Ref, a Action, req control.Request) (control.Message, error) {
	req.Reason, req.RequestID, req.IfGeneration, req.Timeout = a.Reason, a.RequestID, a.IfGeneration, a.Timeout
	req.Signal, req.SkipPreflight = a.Signal, a.SkipPreflight
	if left := remaining(ctx); req.Timeout == 0 && left > 0 {
		req.Timeout = min(left-min(left/20, time.Second), MaxTimeout)
	}
	if err := check(req); err != nil {
		return control.Message{}, err
	}
	t, err := target(r)
	if err != nil {
		return control.Message{}, err
	}
	stopped := false
	m, err := c.host.Act(ctx, t, req, func(m control.Message) {
		stopped = stopped || gateways.Stopped(m)
		if a.Progress != nil && (m.Stage != "" || m.Text != "") {
			a.Progress(Progress{Stage(m.Stage), m.Text, time.Duration(m.Elapsed * float64(time.Millisecond))})
		}
	})
	if err == nil || m.Receipt != nil {
		return m, err
	}
	e, ours := errors.AsType[*code.Error](err)
	switch {
	case ctx.Err() != nil:
		e = gateways.GaveUp(t, req.Verb, code.StageQueue)
		e.Err = context.Cause(ctx)
	case ours && e.Code == code.WardenLost && stopped:
		public := failure(gateways.LostAfterStop(t, req.Verb, e.Stage)).(*Error)
		public.exit = code.ExitFailed
		return m, public
	case !ours:
		return m, failure(err)
	}
	return m, failure(e)
}

// check looks at a request as the warden will: what is wrong with it is the caller's mistake.
func check(req control.Request) error {
	if req.Signal != "" && req.Verb != control.Restart {
		return fmt.Errorf("Action.Signal is %q, but only a restart takes one", req.Signal)
	}
	req.Version = control.Version
	line, err := json.Marshal(req)
	if err == nil {
		_, err = control.ParseRequest(line)
	}
	if err != nil {
		return fmt.Errorf("the request is not one: %w", err)
	}
	return nil
}
