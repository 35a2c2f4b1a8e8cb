package verb

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

const (
	// answerTime is how long a warden may take over what never waits for an action (status, ps).
	answerTime = 2 * time.Second
	// probeTime covers a probe's own limit of 2 s per attempt, or 5 s if it is a command, and the answer.
	probeTime = 10 * time.Second
	// silence is how long a restart may say nothing before the warden is asked whether it still lives.
	silence = 5 * time.Second
	// grace is what the client waits beyond the action's own deadline, which the warden keeps, for the answer to arrive: going back
	// to the configuration before has a time of its own. A warden that hangs is told long before.
	grace = time.Minute
)

// dir is the container's run directory.
func (in *Invocation) dir(t Target) string { return control.Dir(in.Config.RunDir, t.Namespace, t.ID) }

// askStatus asks t's warden for the status.
func (in *Invocation) askStatus(ctx context.Context, t Target, timeout time.Duration) (*receipt.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m, err := control.Call(ctx, in.dir(t), control.Request{Verb: control.Status, Via: in.Via}, nil)
	if err != nil {
		return nil, err
	}
	if m.Status == nil {
		return nil, code.Errorf(code.Internal, code.StageQueue, "the warden of %s answered without a status: it and this command differ in version", t)
	}
	return m.Status, nil
}

// act asks t's warden for an action that may take long. A warden that says nothing for a while is asked for its status
// on the side, which it answers whatever it is doing: so the time that an action takes needs no limit here, and a
// warden that hangs is told from one that is busy.
func (in *Invocation) act(ctx context.Context, t Target, req control.Request, on func(control.Message)) (control.Message, error) {
	return in.actWithin(ctx, t, req, patience{silence, grace}, on)
}

// patience is how long is waited for a warden.
type patience struct{ silence, grace time.Duration }

func (in *Invocation) actWithin(ctx context.Context, t Target, req control.Request, wait patience, on func(control.Message)) (control.Message, error) {
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
				if _, err := in.askStatus(ctx, t, wait.silence); err != nil && ctx.Err() == nil {
					hang(code.Errorf(code.WardenLost, code.StageQueue, "the warden of %s has stopped answering: %w", t, err))
					return
				}
			}
		}
	}()
	m, err := control.Call(ctx, in.dir(t), req, func(m control.Message) {
		select {
		case heard <- struct{}{}:
		default:
		}
		on(m)
	})
	if e, ok := errors.AsType[*code.Error](context.Cause(ctx)); ok && err != nil && e.Code == code.WardenLost {
		return m, e
	}
	return m, err
}

// maxInstall bounds install.json.
const maxInstall = 1 << 20

// lostStatus is what can be said about a container whose warden does not answer: what the hook wrote down at install.
func (in *Invocation) lostStatus(t Target, cause *code.Error) *receipt.Status {
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
	f, err := os.Open(filepath.Join(in.dir(t), "install.json"))
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
