// Package virtualexec is an exec of the containerd task API that has no process: its program is a function in the shim.
// To a client it is like any other: it has standard streams, a state, an exit status and an order of events.
//
// A Process lives from the Exec request to the Delete request and is always in one of the states created, starting,
// running, stopped and deleted. Each state is a type with the methods that it allows, as in containerd's own
// cmd/containerd-shim-runc-v2/process.
package virtualexec

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// Config is what a Process is made of. All functions are set.
type Config struct {
	ID    string
	Stdio Stdio

	// Run is the program. It returns the exit status and ends soon after ctx does. A panic in it is its own failure:
	// status 1 and a line on its standard error.
	Run func(ctx context.Context, s Streams) int
	// Starting is called before Run, with the Process locked; its error makes Start fail.
	Starting func() error
	// Exited is called once after Run, if it ran, and before Wait returns.
	Exited func(Exit)
}

// Exit is how a Process ended.
type Exit struct {
	Status uint32
	At     time.Time // zero: it has not ended, or never ran
}

// killGrace is how long a killed program may take to return before its streams are closed under it and the exec counts
// as ended. A program can hang in a write to a FIFO that nobody reads.
const killGrace = 500 * time.Millisecond

// Process is one exec.
type Process struct {
	cfg  Config
	done chan struct{} // closed when there is nothing more to wait for

	mu      sync.Mutex // guards what follows; never held during I/O, so that State answers at once
	state   state
	exit    Exit
	killed  unix.Signal // 0: not killed
	width   int         // columns of the client's terminal; 0: unknown
	streams *streams    // set while running
}

// New makes a Process in the state created.
func New(cfg Config) *Process {
	return &Process{cfg: cfg, done: make(chan struct{}), state: created{}}
}

// ID is the exec's id.
func (p *Process) ID() string { return p.cfg.ID }

// Stdio is where the exec's streams lead.
func (p *Process) Stdio() Stdio { return p.cfg.Stdio }

// Status gives the state and, once stopped, how the Process ended. It never blocks.
func (p *Process) Status() (Status, Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.status(), p.exit
}

// Start opens the streams and runs the program. Opening a FIFO waits for the client's end of it, for as long as ctx
// and openTimeout allow. A Process whose Start failed is stopped.
func (p *Process) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	p.mu.Lock()
	err := p.state.start(p, cancel)
	p.mu.Unlock()
	if err != nil {
		return err
	}

	streams, err := p.cfg.Stdio.open(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed != 0 {
		err = fmt.Errorf("exec %s was killed by %s while it started: %w", p.cfg.ID, unix.SignalName(p.killed), errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		err = p.cfg.Starting()
	}
	if err != nil {
		if streams != nil {
			streams.close()
		}
		p.state = stopped{}
		p.exit = Exit{Status: unknownStatus, At: time.Now()}
		close(p.done)
		return err
	}
	streams.Width = p.width
	p.streams = streams
	// The request's context ends with the request.
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.state = running{cancel: stop}
	go func() {
		defer stop()
		p.finish(uint32(p.run(run, streams.Streams)))
	}()
	return nil
}

// unknownStatus is containerd's status of a process whose real one cannot be told.
const unknownStatus = 255

func (p *Process) run(ctx context.Context, s Streams) (status int) {
	defer func() {
		if r := recover(); r != nil {
			log.G(ctx).WithField("exec", p.cfg.ID).Errorf("panic in a virtual exec: %v\n%s", r, debug.Stack())
			fmt.Fprintf(s.Stderr, "gatewarden: internal error: %v (internal)\n", r)
			status = 1
		}
	}()
	return p.cfg.Run(ctx, s)
}

// finish ends the Process; what comes second changes nothing. The streams are closed first: clients read them to their
// end once they have the exit status.
func (p *Process) finish(status uint32) {
	p.mu.Lock()
	if _, ok := p.state.(running); !ok {
		p.mu.Unlock()
		return
	}
	if p.killed != 0 {
		status = 128 + uint32(p.killed)
	}
	p.streams.close()
	p.state = stopped{}
	p.exit = Exit{Status: status, At: time.Now()}
	exit := p.exit
	p.mu.Unlock()
	p.cfg.Exited(exit)
	close(p.done)
}

// Wait waits until the Process has ended, or cannot start any more.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.done:
		_, exit := p.Status()
		return exit, nil
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
}

// Kill does what sig does to a process without handlers: it ends it, with status 128+sig, or does nothing. Stopping it
// is not possible.
func (p *Process) Kill(sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch sig {
	case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return fmt.Errorf("exec %s cannot be stopped by %s, only ended: %w", p.cfg.ID, unix.SignalName(sig), errdefs.ErrInvalidArgument)
	}
	return p.state.kill(p, sig)
}

// ignored tells whether sig does nothing by default (signal(7)). 0 asks whether the process is there.
func ignored(sig unix.Signal) bool {
	switch sig {
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH:
		return true
	}
	return false
}

// Resize tells the width of the client's terminal, in columns. A program that runs keeps the width that it started with.
func (p *Process) Resize(width int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.state.resize(p); err != nil {
		return err
	}
	p.width = width
	return nil
}

// CloseStdin lets the program's standard input end once the client's end of it is closed too.
func (p *Process) CloseStdin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams != nil {
		p.streams.closeStdin()
	}
}

// Delete ends a Process that does not run: the last state.
func (p *Process) Delete() (Exit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.state.remove(p); err != nil {
		return Exit{}, err
	}
	return p.exit, nil
}
