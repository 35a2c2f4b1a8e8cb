package gateways

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

const (
	// AnswerTime is how long a warden may take over what never waits for an action (status, ps).
	AnswerTime = 2 * time.Second
	// ProbeTime covers a probe's own limit of 2 s per attempt, or 5 s if it is a command, and the answer.
	ProbeTime = 10 * time.Second
	// silence is how long a restart may say nothing before the warden is asked whether it still lives.
	silence = 5 * time.Second
	// grace is what the client waits beyond the action's own deadline, which the warden keeps, for the answer to arrive: going back
	// to the configuration before has a time of its own. A warden that hangs is told long before.
	grace = time.Minute
)

// Status asks t's warden for the status, and waits no longer than timeout for it; 0 stands for AnswerTime.
func (h Host) Status(ctx context.Context, t Target, timeout time.Duration) (*receipt.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(timeout, AnswerTime))
	defer cancel()
	m, err := control.Call(ctx, h.RunDir(t), control.Request{Verb: control.Status, Via: h.Via}, nil)
	if err != nil {
		return nil, err
	}
	if m.Status == nil {
		return nil, otherAge(t, "a status")
	}
	return m.Status, nil
}

// Probe asks t's warden to look at the gateway now, and waits no longer than timeout for it; 0 stands for ProbeTime.
func (h Host) Probe(ctx context.Context, t Target, timeout time.Duration) (*control.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(timeout, ProbeTime))
	defer cancel()
	m, err := control.Call(ctx, h.RunDir(t), control.Request{Verb: control.Probe, Timeout: timeout, Via: h.Via}, nil)
	if err != nil {
		return nil, err
	}
	if m.Report == nil {
		return nil, otherAge(t, "a report")
	}
	return m.Report, nil
}

func otherAge(t Target, what string) error {
	return code.Errorf(code.Internal, code.StageQueue, "the warden of %s answered without %s: it and this program differ in version", t, what)
}

// Act asks t's warden for an action, which may take long. on gets what it says meanwhile, and may be nil. If the warden is gone
// another one is started and asked again: the request's id, which it gets here if it has none, tells the successor what has been
// finished already. With an error there may be a receipt all the same; without one there is, or the plan of a dry run.
//
// A warden that says nothing for a while is asked for its status on the side, which it answers whatever it is doing: so the time
// that an action takes needs no limit here, and a warden that hangs is told from one that is busy.
func (h Host) Act(ctx context.Context, t Target, req control.Request, on func(control.Message)) (control.Message, error) {
	req.Via = h.Via
	if req.RequestID == "" {
		// Nobody guesses at it, it only has to be no other's: crypto/rand would cost every command at its start.
		req.RequestID = fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	}
	wait := patience{silence, grace}
	m, err := h.actWithin(ctx, t, req, wait, on)
	if e, ok := errors.AsType[*code.Error](err); ok && e.Code == code.WardenLost && ctx.Err() == nil {
		if err = h.revive(t); err == nil {
			m, err = h.actWithin(ctx, t, req, wait, on)
		}
	}
	if err == nil && m.Receipt == nil && (m.Plan == nil || !req.DryRun) {
		err = otherAge(t, "a receipt")
	}
	return m, err
}

func (h Host) revive(t Target) error {
	if h.Installed {
		if _, err := exec.LookPath(h.Config.Hook); err != nil {
			return code.Errorf(code.WardenLost, code.StageQueue, "cannot start a warden for %s: the setting \"hook\": %w", t, err)
		}
	}
	return install.Revive(h.Config.Hook, h.RunDir(t), 0)
}

// patience is how long is waited for a warden.
type patience struct{ silence, grace time.Duration }

func (h Host) actWithin(ctx context.Context, t Target, req control.Request, wait patience, on func(control.Message)) (control.Message, error) {
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.Timeout+wait.grace)
		defer cancel()
	}
	ctx, hang := context.WithCancelCause(ctx)
	defer hang(nil)
	heard := make(chan struct{}, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-heard:
			case <-time.After(wait.silence):
				if _, err := h.Status(ctx, t, wait.silence); err != nil && !over(ctx) {
					hang(code.Errorf(code.WardenLost, code.StageQueue, "the warden of %s has stopped answering: %w", t, err))
					return
				}
			}
		}
	}()
	m, err := control.Call(ctx, h.RunDir(t), req, func(m control.Message) {
		select {
		case heard <- struct{}{}:
		default:
		}
		if on != nil {
			on(m)
		}
	})
	if e, ok := errors.AsType[*code.Error](context.Cause(ctx)); ok && err != nil && e.Code == code.WardenLost {
		return m, e
	}
	return m, err
}

// over tells whether ctx has ended, or is about to: a dial's own timer can be the first to fire.
func over(ctx context.Context) bool {
	end, has := ctx.Deadline()
	return ctx.Err() != nil || has && !time.Now().Before(end)
}

// Stopped tells whether m, of an action's progress, says that the old gateway has been told to stop.
func Stopped(m control.Message) bool {
	switch m.Stage {
	case code.StageStop, code.StageAbsence, code.StageLaunch, code.StageListen, code.StageProbe, code.StageSettle, code.StageCommit, code.StageRollback:
		return true
	}
	return false
}

// LostAfterStop is the error for an action whose warden went away, for good, after the old gateway had been told to stop.
func LostAfterStop(t Target, v control.Verb, stage code.Stage) *code.Error {
	return code.Errorf(code.WardenLost, stage,
		"the warden of %s went away during the %s, after the old gateway had been told to stop; whether a gateway runs now is not known", t, v)
}

// GaveUp is the error for an action that was not waited for.
func GaveUp(t Target, v control.Verb, stage code.Stage) *code.Error {
	return code.Errorf(code.Deadline, stage, "stopped waiting for the %s of %s; the warden finishes what it has begun", v, t)
}

// maxInstall bounds install.json.
const maxInstall = 1 << 20

// Lost is what can be said about a container whose warden does not answer, for that cause: what the hook wrote down at install.
func (h Host) Lost(t Target, cause *code.Error) *receipt.Status {
	var installed struct {
		InitPID   int    `json:"init_pid"`
		InitStart uint64 `json:"init_start"`
		Profile   string `json:"profile"`
	}
	st := &receipt.Status{
		Container: receipt.Container{Namespace: t.Namespace, ID: t.ID},
		State:     receipt.FailedSt,
		Code:      cause.Code,
		Message:   cause.Message,
		Listeners: []receipt.Listener{},
	}
	f, err := os.Open(filepath.Join(h.RunDir(t), "install.json"))
	if err != nil {
		return st
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		st.Since = info.ModTime()
	}
	// What cannot be read stays unknown: the finding is that the warden is gone, and the file adds names to it.
	if err := json.NewDecoder(io.LimitReader(f, maxInstall)).Decode(&installed); err == nil {
		st.Gateway = installed.Profile
		st.Container.InitPID = installed.InitPID
		st.Container.InitStart = installed.InitStart
	}
	return st
}
