package warden

import (
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/forward"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// setState enters a state and writes it down; the error is remember's.
func (w *Warden) setState(s receipt.State) error {
	w.enter(s)
	return w.remember(w.gateway)
}

// enter enters a state and publishes it. A state that is well has no code.
func (w *Warden) enter(s receipt.State) {
	if from := w.status.State; from != s {
		if !allowed(from, s) {
			// The gateway comes first: what is true is published all the same. Tests fail on this line.
			w.log.Error(noSuchTransition, "from", from, "to", s)
		}
		w.log.Info("state", "from", from, "to", s)
		w.status.State, w.status.Since = s, time.Now()
	}
	if s == receipt.Running {
		w.status.Code, w.status.Message = "", ""
	}
	w.outage(s == receipt.FailedSt || s == receipt.Stopped)
	w.publish()
}

// noSuchTransition is a fault of the warden's, or of its table.
const noSuchTransition = "a transition that the state machine does not have"

// publish makes the present state visible to those who do not wait for run.
func (w *Warden) publish() {
	w.snapshot.Store(&published{w.present(), budget(w.profile)})
}

// present is the status as of now. What it says of health is what the last look at the running gateway found; without one
// that runs there is nothing to look at, and while one stops or starts nothing to say.
func (w *Warden) present() receipt.Status {
	s := w.status
	s.Generation, s.Rejected = w.config.Current, w.config.Rejected
	if u := w.config.Unlocked; u != nil {
		s.Unlocked = &receipt.Unlocked{Until: u.Until, Reason: u.Reason}
	}
	switch s.State {
	case receipt.Running:
		if s.Rejected != nil && s.Message == "" {
			s.Code, s.Message = code.RolledBack, rejection(s.Generation, s.Rejected)
		}
		if g := w.gateway; g != nil && !g.checked.IsZero() {
			checked := g.checked
			s.Healthy, s.Checked = g.healthy, &checked
		}
		if message := forward.Message(s.Forwards); message != "" && s.Code == "" {
			if s.Message != "" {
				message += "; " + s.Message
			}
			s.Code, s.Message = code.ForwardFailed, message
		}
	case receipt.Backoff, receipt.FailedSt, receipt.Stopped:
		s.Healthy = new(false)
	}
	if s.State != receipt.Running {
		s.Forwards = nil // there is nothing to reach
	}
	return s
}

// published is what is known outside run: never changed once it is there.
type published struct {
	receipt.Status
	budget time.Duration // of an action without a timeout of its own
}

// watchers are the clients that follow the gateway's events. A watcher that does not keep up loses its connection, not
// an event in the middle.
type watchers struct {
	mu    sync.Mutex
	set   map[chan control.Event]struct{}
	late  []control.Event // to be told soon
	timer *time.Timer     // when; nil: never set
}

const (
	watcherBuffer = 64
	// soon is how long an event waits for the next one.
	soon = 50 * time.Millisecond
)

func (w *watchers) add() chan control.Event {
	c := make(chan control.Event, watcherBuffer)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush() // a newcomer is told the present state, which is a later one
	if w.set == nil {
		w.set = map[chan control.Event]struct{}{}
	}
	w.set[c] = struct{}{}
	return c
}

func (w *watchers) remove(c chan control.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.set[c]; ok {
		delete(w.set, c)
		close(c)
	}
}

// tell gives an event to all watchers, after those that wait.
func (w *watchers) tell(e control.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
	w.send(e)
}

// tellSoon is tell, together with the next event if that comes soon. The end of a gateway whose successor is about to start
// is told so: what everybody then does about it would take the time of the cores that the successor starts on.
func (w *watchers) tellSoon(e control.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = append(w.late, e)
	if w.timer == nil {
		w.timer = time.AfterFunc(soon, w.tellLate)
	} else {
		w.timer.Reset(soon)
	}
}

// tellLate tells what waits.
func (w *watchers) tellLate() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
}

// flush is tellLate for who has the lock.
func (w *watchers) flush() {
	for _, e := range w.late {
		w.send(e)
	}
	w.late = nil
}

func (w *watchers) send(e control.Event) {
	for c := range w.set {
		select {
		case c <- e:
		default:
			delete(w.set, c)
			close(c)
		}
	}
}
