package warden

import (
	"context"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/forward"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

const (
	// forwardTime bounds how long a receipt waits for the forwards, repetitions included.
	forwardTime = 2 * time.Second
	// forwardYield is how much of it they have to themselves. After that nobody is kept waiting for an endpoint that is not there.
	forwardYield = 300 * time.Millisecond
	// forwardPace is the time between two looks at whether somebody waits.
	forwardPace = 20 * time.Millisecond
)

// forwarded looks from the host at the endpoints that should reach g, which is proven and serves, and writes into the receipt and
// the status what it finds. It undoes nothing: the fault is somebody else's, and a gateway that serves is not ended for it.
func (w *Warden) forwarded(ctx context.Context, a *action, g *gateway, r *receipt.Receipt) {
	if len(g.profile.Forwards) == 0 {
		w.status.Forwards = nil
		return
	}
	a.stage(code.StageForward)
	failpoint.Hit(w.dir, "forward")
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	found := askForwards(ctx, g.profile.Forwards, forward.Await)
	look := time.NewTicker(forwardPace)
	defer look.Stop()
	for ended := g.done(); r.Forwards == nil; {
		select {
		case r.Forwards = <-found:
		case <-ended:
			cancel() // what is found now says nothing of it
			ended = nil
		case <-look.C:
			if len(w.requests) > 0 && time.Since(began) >= forwardYield {
				cancel()
			}
		}
	}
	r.Millis.Forward = millis(time.Since(began))
	w.status.Forwards = forward.Merge(r.Forwards, w.status.Forwards)
	w.reportForwards(r)
}

// reportForwards puts into the receipt's message what an operator has to know though the action succeeded.
func (w *Warden) reportForwards(r *receipt.Receipt) {
	message := forward.Message(r.Forwards)
	if message == "" {
		return
	}
	w.log.Warn("a forward does not reach the gateway", "message", message)
	if r.Message != "" {
		r.Message += "; "
	}
	r.Message += message
}

// askForwards asks all of them side by side, by ask. What is found comes at once, when the last of them has answered or was given
// up.
func askForwards(ctx context.Context, all []profile.Forward, ask func(context.Context, profile.Forward) receipt.Forward) <-chan []receipt.Forward {
	found := make(chan []receipt.Forward, 1)
	type answer struct {
		i int
		r receipt.Forward
	}
	answers := make(chan answer, len(all))
	for i, f := range all {
		go func() { answers <- answer{i, ask(ctx, f)} }()
	}
	go func() {
		out := make([]receipt.Forward, len(all))
		for range all {
			a := <-answers
			out[a.i] = a.r
		}
		found <- out
	}()
	return found
}

// lookAtForwards begins one look at the forwards of the running gateway, for a client that asks how it is. It gives nil where
// there is nothing to look at: nobody can be reached in a paused container.
func (w *Warden) lookAtForwards(ctx context.Context) <-chan []receipt.Forward {
	g := w.gateway
	if g == nil || !g.proven || g.proc.Exited() || len(g.profile.Forwards) == 0 || w.notFrozen() != nil {
		return nil
	}
	return askForwards(ctx, g.profile.Forwards, forward.Look)
}
