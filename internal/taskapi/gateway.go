package taskapi

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/virtualexec"
)

// gatewayID is the exec id that stands for the gateway's process.
const gatewayID = "gateway"

// Bounds of the pauses between attempts to reach a warden that does not answer. One that answers is never polled.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// revivePause is the least time between two wardens that the watch starts: one that dies at once is not started in a loop.
const revivePause = 2 * time.Second

// settleTimeout is how long an answer of the warden may be ahead of its watch stream.
const settleTimeout = time.Second

// Exit statuses that nobody read.
const (
	statusUnknown = 255 // containerd's word for it
	statusKilled  = 128 + uint32(unix.SIGKILL)
)

// gateway is a container's gateway as its warden's watch stream tells it. What is asked of it is answered at once.
type gateway struct {
	dir    string       // the container's run directory
	revive func() error // starts a warden in the place of one that was lost
	events *lane
	ctx    context.Context // of the watch
	told   *receipts       // what its warden has recorded
	cancel context.CancelFunc
	poke   chan struct{} // ends a pause between two attempts

	mu      sync.Mutex
	now     process
	added   bool
	ending  bool // the container's init has exited
	closed  bool
	changed chan struct{} // closed, and made anew, with every change
}

// process is the last known gateway process.
type process struct {
	status virtualexec.Status
	pid    uint32
	exit   virtualexec.Exit // of this process, or of the one before while this one runs
	exits  int
}

func newGateway(dir, journal string, events *lane, revive func() error) *gateway {
	g := &gateway{dir: dir, revive: revive, events: events, told: newReceipts(journal, events), poke: make(chan struct{}, 1), changed: make(chan struct{})}
	g.ctx, g.cancel = context.WithCancel(events.p.ctx)
	return g
}

// watch follows the warden until the container ends.
func (g *gateway) watch() { go g.follow() }

func (g *gateway) follow() {
	var revived time.Time
	for retry := firstRetry; ; {
		first := true
		_, err := control.Call(g.ctx, g.dir, control.Request{Verb: control.Watch, Via: "shim"}, func(m control.Message) {
			if m.Event == nil {
				return
			}
			if first || m.Event.Kind == control.Recorded {
				g.told.publish()
			}
			if m.Event.Kind != control.Recorded {
				g.observe(*m.Event, first)
			}
			first, retry = false, firstRetry
		})
		g.told.publish() // what a warden had no time to tell of
		if g.ctx.Err() != nil {
			return
		}
		if g.isEnding() {
			g.close()
			return
		}
		log.G(g.ctx).WithField("run_dir", g.dir).WithError(err).Debug("the watch of the gateway's warden ended")
		if lost(err) && !g.isEnding() && time.Since(revived) > revivePause {
			revived = time.Now()
			if err := g.revive(); err == nil {
				log.G(g.ctx).WithField("run_dir", g.dir).Warn("the gateway's warden was lost; a new one has been started")
				continue
			}
		}
		select {
		case <-g.ctx.Done():
			return
		case <-g.poke:
		case <-time.After(retry):
		}
		retry = min(2*retry, lastRetry)
	}
}

// lost tells whether an answer says that there is no warden any more, or that it has left: nobody answers while a
// container lives means that one has to be started.
func lost(err error) bool {
	e, ok := errors.AsType[*code.Error](err)
	return ok && e.Code == code.WardenLost
}

// observe takes an event of the warden; first marks the one that tells the state at the beginning of a stream.
func (g *gateway) observe(e control.Event, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	pid := uint32(e.PID)
	exit := virtualexec.Exit{Status: uint32(e.ExitCode), At: e.Time}
	missed := virtualexec.Exit{Status: statusUnknown, At: e.Time}
	switch {
	case e.Kind == "exited" && !first:
		if g.now.status == virtualexec.Running && g.now.pid != pid {
			g.exitedLocked(missed)
		}
		if g.now.status != virtualexec.Running {
			// It never became ready, so nobody was told that it runs.
			g.startedLocked(pid)
		}
		g.exitedLocked(exit)
	case e.Kind == string(receipt.Running), first && e.Kind == string(receipt.Stopping) && pid != 0:
		if g.now.status == virtualexec.Running {
			if g.now.pid == pid {
				return
			}
			g.exitedLocked(missed)
		}
		g.startedLocked(pid)
	case first && g.now.status == virtualexec.Running && g.now.pid != pid:
		g.exitedLocked(missed)
	case e.Kind == string(receipt.FailedSt) && g.now.status == virtualexec.Created:
		// It never had a process, so there is nothing to publish, and yet it is over until somebody asks for a restart.
		g.now.status, g.now.exit = virtualexec.Stopped, missed
		g.changedLocked()
	}
}

func (g *gateway) startedLocked(pid uint32) {
	if g.closed || pid == 0 {
		return
	}
	if !g.added {
		if g.events.added(gatewayID) != nil {
			return
		}
		g.added = true
	}
	if g.events.started(gatewayID, pid) != nil {
		return
	}
	g.now.status, g.now.pid = virtualexec.Running, pid
	g.changedLocked()
}

func (g *gateway) exitedLocked(exit virtualexec.Exit) {
	if g.now.status != virtualexec.Running {
		return
	}
	g.now.status, g.now.exit = virtualexec.Stopped, exit
	g.now.exits++
	g.events.ended(&eventsapi.TaskExit{
		ID:         gatewayID,
		Pid:        g.now.pid,
		ExitStatus: exit.Status,
		ExitedAt:   protobuf.ToTimestamp(exit.At),
	})
	g.changedLocked()
}

func (g *gateway) changedLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// process gives the last known state.
func (g *gateway) process() process {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

// until waits for a state in which done, called with the gateway locked, is true, or for the end of the watch.
func (g *gateway) until(ctx context.Context, done func(process) bool) error {
	for {
		g.mu.Lock()
		ok, changed := done(g.now) || g.closed, g.changed
		g.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wait waits for the exit of the process that runs. If none runs any more it gives the last exit at once.
func (g *gateway) wait(ctx context.Context) (virtualexec.Exit, error) {
	exits := g.process().exits
	err := g.until(ctx, func(p process) bool { return p.status == virtualexec.Stopped || p.exits > exits })
	return g.process().exit, err
}

// initExited is called when the container's init has exited. The kernel ends the gateway with the PID namespace, and the
// warden tells its status if it can; when it has, or its stream ends, the watch is over.
func (g *gateway) initExited() {
	g.mu.Lock()
	g.ending = true
	g.mu.Unlock()
	g.hurry()
	ctx, cancel := context.WithTimeout(g.ctx, 2*exitGrace)
	defer cancel()
	// Either way it is over.
	_ = g.until(ctx, func(p process) bool { return p.status != virtualexec.Running })
	g.close()
}

func (g *gateway) isEnding() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ending
}

// hurry ends a pause of the watch.
func (g *gateway) hurry() {
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

// close ends the watch. A gateway of which no exit is known was killed with its container.
func (g *gateway) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	g.exitedLocked(virtualexec.Exit{Status: statusKilled, At: time.Now()})
	g.closed = true
	g.cancel()
	g.changedLocked()
}

// call asks the warden, and its successor if it is lost. With repeat the request may reach both.
func (g *gateway) call(ctx context.Context, req control.Request, repeat bool) (control.Message, error) {
	m, err := control.Call(ctx, g.dir, req, nil)
	if lost(err) && ctx.Err() == nil && (repeat || control.Unsent(err)) {
		if err := g.revive(); err != nil {
			return control.Message{}, err
		}
		m, err = control.Call(ctx, g.dir, req, nil)
	}
	if err == nil {
		g.hurry() // the warden lives
	}
	return m, err
}

// The signals that mean something to the gateway's pseudo-process.
var (
	restarting = []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGKILL}
	delivered  = []unix.Signal{unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH}
)

// kill restarts the gateway, beginning with sig, and returns when the successor is proven; or it delivers sig to exactly
// the gateway's process.
func (g *gateway) kill(ctx context.Context, sig unix.Signal) error {
	req := control.Request{Signal: unix.SignalName(sig), Via: "task-kill", RequestID: rand.Text()}
	switch {
	case slices.Contains(restarting, sig):
		req.Verb = control.Restart
	case slices.Contains(delivered, sig):
		req.Verb = control.Signal
	default:
		return classify(errdefs.ErrInvalidArgument, "gatewarden: signal %d has no meaning for a gateway: TERM, INT, QUIT, HUP and KILL restart it, USR1, USR2 and WINCH are delivered", int(sig))
	}
	// A restart's id tells a successor what it has finished already. A signal may have been delivered, and is not sent twice.
	m, err := g.call(ctx, req, req.Verb == control.Restart)
	if err != nil {
		return err
	}
	if req.Verb == control.Signal {
		return nil
	}
	if err := receiptError(m.Receipt); err != nil {
		return err
	}
	if m.Receipt.New == nil {
		return nil
	}
	// A client that asks for the state next shall see the successor.
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	_ = g.until(ctx, func(p process) bool { return p.status == virtualexec.Running && p.pid == uint32(m.Receipt.New.PID) })
	return nil
}
