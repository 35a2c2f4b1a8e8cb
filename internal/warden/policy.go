package warden

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// start is a start that nobody asked for: the first one, or the policy's next try.
func (w *Warden) start(kind receipt.Action) {
	p := w.profile
	ctx, cancel := context.WithTimeout(w.alive, joinTimeout+budget(p))
	defer cancel()
	r := w.act(ctx, &action{kind: kind, by: receipt.RequestedBy{Via: "warden"}, asof: time.Now()})
	w.first.set(r, p.Start.FailContainer)
	w.settled(r, false)
}

// firstStandbyDelay keeps the making of the second launcher out of the way of the workload's own start.
const firstStandbyDelay = 100 * time.Millisecond

// settled decides what follows an action: nothing after a success, else the policy's next try or the state "failed".
// It is also the moment to make the next standby, off every action's path.
func (w *Warden) settled(r *receipt.Receipt, asked bool) {
	defer func() {
		switch {
		case w.alive.Err() != nil:
		case r.Action == receipt.Start:
			w.standbyTry.Reset(firstStandbyDelay)
		default:
			w.spawnStandby(w.identityOf(w.profile))
		}
	}()
	switch {
	case r.Outcome == receipt.Replaced || r.Outcome == receipt.RolledBack || w.alive.Err() != nil:
		w.retry.Stop()
		return
	case asked && r.Outcome == receipt.Refused:
		// Nothing was touched: what was planned still is, and it uses the profile that worked.
		return
	case w.gateway != nil:
		// Refused with the old one serving; or the old one does not end, and nothing is done to it after the deadline. It
		// may serve on, and when it does end, its relaunch is ours (see gatewayExited).
		if w.gateway.asked {
			ctx, cancel := context.WithTimeout(w.alive, time.Second)
			defer cancel()
			if h := w.report(ctx).Healthy; h != nil && *h {
				w.setState(receipt.Running)
			} else {
				w.status.Code, w.status.Message = r.Code, r.Message
				w.setState(w.status.State)
			}
		}
		return
	case r.Code == code.Paused:
		w.awaitResume(r.Message)
		return
	case r.Outcome == receipt.Refused && !r.Retryable && r.Code != code.ListenerContested:
		// No start can succeed until somebody changes something. An operator's restart looks again.
		w.fail(r.Code, r.Message)
		return
	}
	if c, message := w.hindered(r); c != "" {
		w.again(c, message)
		return
	}
	w.unasked(r.Code, r.Message)
}

// hindered tells, of a start that did not succeed, whether that is no gateway's doing: the container is paused, or somebody
// else holds its address. It does not count towards "failed": it is tried again for as long as that lasts.
func (w *Warden) hindered(r *receipt.Receipt) (code.Code, string) {
	if r.New == nil && (r.Code == code.Paused || r.Code == code.ListenerContested) {
		return r.Code, r.Message
	}
	// One that ended because its address was taken is no different.
	if e, ok := errors.AsType[*code.Error](w.absent(w.profile)); ok && e.Code == code.ListenerContested {
		return e.Code, r.Message + "; " + e.Message
	}
	return "", ""
}

// gatewayExited is called when the gateway has exited while no action was in progress.
func (w *Warden) gatewayExited() {
	g := w.gateway
	exit, proof, err := w.reaped()
	if err != nil {
		w.log.Error("cannot reap the gateway", "pid", g.info.PID, "err", err)
	}
	w.lost, w.lostAt = &receipt.Old{PID: g.info.PID, StartTime: g.info.StartTime, ExitCode: exit.Code, Signal: exit.SignalName(), DeathProof: proof}, time.Now()
	if err := w.endStrays(w.alive, strangers{}); err != nil && w.alive.Err() == nil {
		w.log.Error("cannot clear up after the gateway", "err", err)
	}
	if w.alive.Err() != nil {
		return
	}
	if g.asked {
		// An action signalled it and its deadline passed before the end came. Who stops it owns its relaunch.
		w.start(receipt.Restart)
		return
	}
	w.log.Warn("the gateway exited unasked", "pid", g.info.PID, "exit", exit.String())
	message := fmt.Sprintf("%s exited unasked after %v (%s%s)", w.object(), time.Since(g.since).Round(time.Millisecond), exit, w.whyEnded(g, exit))
	w.lost.OOM = w.outOfMemory(g, exit)
	if time.Since(g.since) >= g.profile.Restart.Window {
		w.backoff, w.exits = 0, nil
	}
	switch next := decide(g.profile.Restart, exit); next {
	case receipt.Stopped:
		w.status.Code, w.status.Message = "", message+"; its restart policy leaves it so"
		w.setState(receipt.Stopped)
	case receipt.FailedSt:
		w.fail(code.LaunchFailed, fmt.Sprintf("%s; its policy does not start it again: `gatewarden restart %s` does", message, w.container))
	default:
		w.unasked("", message)
	}
}

// decide gives the state that an unasked exit leads to.
func decide(p profile.Restart, exit process.Exit) receipt.State {
	clean := exit.Signal == 0 && exit.Code == 0 // one that is not known is not clean
	switch {
	case exit.Signal == 0 && !exit.Unknown && slices.Contains(p.FatalExitCodes, exit.Code):
		return receipt.FailedSt
	case p.Policy == profile.Always:
		return receipt.Backoff
	case clean:
		return receipt.Stopped
	case p.Policy == profile.OnFailure:
		return receipt.Backoff
	}
	return receipt.FailedSt
}

// unasked counts an exit that nobody asked for, or a start that did not succeed, and plans the next start.
func (w *Warden) unasked(c code.Code, message string) {
	p := w.profile.Restart
	now := time.Now()
	w.exits = append(recentExits(w.exits, p.Window, now), now)
	if p.Policy != profile.Never && len(w.exits) > p.Burst {
		w.fail(code.CrashLoop, fmt.Sprintf("%s; that makes %d ends within %v: no further try is made until `gatewarden restart %s`", message, len(w.exits), p.Window, w.container))
		return
	}
	w.again(c, message)
}

// again plans the next start.
func (w *Warden) again(c code.Code, message string) {
	p := w.profile.Restart
	if p.Policy == profile.Never {
		w.fail(c, message)
		return
	}
	w.backoff = min(max(2*w.backoff, p.BackoffInitial), p.BackoffMax)
	// Up to a tenth more, so that gateways that fell together do not rise together.
	delay := w.backoff + rand.N(w.backoff/10+1)
	w.retry.Reset(delay)
	w.status.Code, w.status.Message = c, fmt.Sprintf("%s; next start in %v", message, delay.Round(time.Millisecond))
	w.setState(receipt.Backoff)
}

// pausedRetry is how often a container whose pause keeps the next start from being made is looked at. Each look reads one
// file; there is nothing to wait for on a v1 freezer.
const pausedRetry = 500 * time.Millisecond

// nextTry makes the start that was planned, unless the container is paused now.
func (w *Warden) nextTry() {
	if e := code.From(w.notFrozen(), code.StagePreflight); e != nil && e.Code == code.Paused {
		w.awaitResume(fmt.Sprintf("cannot start %s: %s", w.object(), e.Message))
		return
	}
	w.start(receipt.Respawn)
}

// awaitResume plans the next start for when the container is resumed. A pause says nothing about the gateway, so it is not
// counted as an end.
func (w *Warden) awaitResume(message string) {
	w.retry.Reset(pausedRetry)
	if w.status.Code != code.Paused {
		w.status.Code, w.status.Message = code.Paused, message+"; no gateway runs until then"
		w.setState(receipt.Backoff)
	}
}

// fail is the loud state that only an operator's restart or recover leaves.
func (w *Warden) fail(c code.Code, message string) {
	w.log.Error("no gateway runs", "code", c, "message", message)
	w.retry.Stop()
	w.status.Code, w.status.Message = c, message
	w.setState(receipt.FailedSt)
	w.watchers.tell(control.Event{Kind: string(receipt.FailedSt), Time: time.Now()})
}

// budget is the longest time that an action with p takes when all goes its slowest.
func budget(p *profile.Profile) time.Duration {
	return p.Preflight.Timeout + p.Stop.Timeout + killGrace + p.Ready.Timeout + p.Ready.Settle + 5*time.Second
}
