package virtualexec

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Status is a state as clients see it.
type Status int

// The states.
const (
	Created Status = iota
	Running
	Stopped
)

// state is what a Process can do now. Its methods are called with Process.mu held.
type state interface {
	status() Status
	start(p *Process, cancel context.CancelFunc) error
	kill(p *Process, sig unix.Signal) error
	resize(p *Process) error
	remove(p *Process) error
}

func refuse(p *Process, verb, state string, class error) error {
	return fmt.Errorf("cannot %s exec %s: it %s: %w", verb, p.cfg.ID, state, class)
}

// created: known, its streams not yet open.
type created struct{}

func (created) status() Status { return Created }

func (created) start(p *Process, cancel context.CancelFunc) error {
	p.state = starting{cancel: cancel}
	return nil
}

func (created) kill(p *Process, _ unix.Signal) error {
	return refuse(p, "kill", "has not started", errdefs.ErrFailedPrecondition)
}

func (created) resize(*Process) error { return nil }

func (created) remove(p *Process) error {
	p.state = deleted{}
	close(p.done)
	return nil
}

// starting: opening its streams, which can take until the client opens its ends. Clients see it as created.
type starting struct{ cancel context.CancelFunc }

func (starting) status() Status { return Created }

func (starting) start(p *Process, _ context.CancelFunc) error {
	return refuse(p, "start", "is being started", errdefs.ErrFailedPrecondition)
}

func (s starting) kill(p *Process, sig unix.Signal) error {
	if ignored(sig) {
		return nil
	}
	p.killed = sig
	s.cancel()
	return nil
}

func (starting) resize(*Process) error { return nil }

func (starting) remove(p *Process) error {
	return refuse(p, "delete", "is being started", errdefs.ErrFailedPrecondition)
}

// running: the program runs.
type running struct{ cancel context.CancelFunc }

func (running) status() Status { return Running }

func (running) start(p *Process, _ context.CancelFunc) error {
	return refuse(p, "start", "runs already", errdefs.ErrFailedPrecondition)
}

func (s running) kill(p *Process, sig unix.Signal) error {
	if ignored(sig) || p.killed != 0 {
		return nil
	}
	p.killed = sig
	s.cancel()
	time.AfterFunc(killGrace, func() { p.finish(0) })
	return nil
}

func (running) resize(*Process) error { return nil }

func (running) remove(p *Process) error {
	return refuse(p, "delete", "still runs", errdefs.ErrFailedPrecondition)
}

// stopped: ended, or failed to start.
type stopped struct{}

func (stopped) status() Status { return Stopped }

func (stopped) start(p *Process, _ context.CancelFunc) error {
	return refuse(p, "start", "has ended", errdefs.ErrFailedPrecondition)
}

func (stopped) kill(p *Process, _ unix.Signal) error {
	return refuse(p, "kill", "has ended", errdefs.ErrNotFound)
}

func (stopped) resize(p *Process) error {
	return refuse(p, "resize the terminal of", "has ended", errdefs.ErrFailedPrecondition)
}

func (stopped) remove(p *Process) error {
	p.state = deleted{}
	return nil
}

// deleted: only requests that were under way still hold it.
type deleted struct{}

func (deleted) status() Status { return Stopped }

func (deleted) start(p *Process, _ context.CancelFunc) error {
	return refuse(p, "start", "is deleted", errdefs.ErrNotFound)
}

func (deleted) kill(p *Process, _ unix.Signal) error {
	return refuse(p, "kill", "is deleted", errdefs.ErrNotFound)
}

func (deleted) resize(p *Process) error {
	return refuse(p, "resize the terminal of", "is deleted", errdefs.ErrNotFound)
}

func (deleted) remove(p *Process) error {
	return refuse(p, "delete", "is deleted", errdefs.ErrNotFound)
}
