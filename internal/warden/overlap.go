package warden

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// overlaps tells whether a restart with p starts the successor before it ends the gateway: p wants it, the gateway was
// proven once, and every socket that the two would share is there already, as both want it. A restart that turns listeners from
// the gateway's own into held ones, or changes what is set on their sockets, is an ordinary one.
func (w *Warden) overlaps(p *profile.Profile) bool {
	if !p.Restart.Overlap || w.gateway == nil || !w.gateway.proven || w.gateway.asked {
		return false
	}
	for _, l := range p.Listen {
		// One whose file is gone is made again when no gateway has it.
		if s := w.heldOn(l.Address); s == nil || !w.reachable(s) {
			return false
		}
	}
	for _, l := range w.gateway.profile.Listen {
		another := func(of profile.Listen) bool { return of.Address == l.Address && !of.SharesWith(l) }
		if !l.Held() || slices.ContainsFunc(p.Listen, another) {
			return false
		}
	}
	return true
}

// overlap replaces the gateway without a moment in which none accepts: the successor is released beside it, proven by
// connections that it accepts itself, and only then the old one is told to end. Until that proof any failure is a refusal, and
// the old gateway has not been touched.
func (w *Warden) overlap(ctx context.Context, a *action, r *receipt.Receipt, p *plan) error {
	old := w.gateway
	a.overlap = true
	r.Outcome = receipt.Refused
	// A successor of ours that does not know that there may be two could take the wrong one for the gateway.
	if err := w.remember(old); err != nil {
		return code.Errorf(code.PreflightFailed, code.StageLaunch, "cannot record in %s that another gateway is started: %w; the directory has to be there and to have room", w.dir, err)
	}
	next, err := w.releaseBeside(ctx, a, r, p)
	if err != nil {
		w.stay(a, r, old, err)
		return err
	}
	w.other = next
	r.New = &next.info
	failpoint.Hit(w.dir, "launched")
	err = w.proveNew(ctx, next, r, a)
	if err == nil {
		err = w.accept(a)
	}
	if err != nil {
		w.dismiss(next)
		w.other = nil
		w.stay(a, r, old, err)
		return err
	}
	failpoint.Hit(w.dir, "proven")
	// From here on it is the gateway, and the other one is what it has left to end.
	w.gateway, w.other, w.profile = next, old, p.profile
	a.overlap = false
	// A warden that comes after us ends it, and can prove its death but not know its status.
	a.old = &receipt.Old{PID: old.info.PID, StartTime: old.info.StartTime, ExitCode: -1, DeathProof: process.ByPidfd}
	old.asked = true
	w.dropHeld(p.profile)
	w.status.PID, w.status.NSPID, w.status.StartTime = next.info.PID, next.info.NSPID, next.info.StartTime
	w.replaced(a, r)
	w.drain(ctx, a, r, old)
	w.other = nil
	// Containerd knows one process by the name of "gateway" at a time: the end of the one comes before the start of the next.
	w.sayRuns(next)
	r.Workload = w.untouched(a.before)
	w.forwarded(ctx, a, next, r)
	return nil
}

// releaseBeside starts the successor. Of a new configuration, which it must find, the old gateway sees the files from here on too;
// what it has read and has open is its own.
func (w *Warden) releaseBeside(ctx context.Context, a *action, r *receipt.Receipt, p *plan) (*gateway, error) {
	if err := w.showNew(p); err != nil {
		return nil, err
	}
	a.stage(code.StageLaunch)
	began := time.Now()
	defer func() { r.Millis.Launch = millis(time.Since(began)) }()
	return w.release(ctx, p)
}

// stay leaves everything to the old gateway, as it was. Why is what became of the successor.
func (w *Warden) stay(a *action, r *receipt.Receipt, old *gateway, why error) {
	w.dropHeld(old.profile)
	if a.trying == 0 {
		return
	}
	w.reject(a, r, code.From(why, code.StageLaunch))
	a.profile = old.profile
	if err := w.show(w.config.Current, old.profile); err != nil {
		w.log.Error("cannot show the current generation again", "generation", w.config.Current, "err", err)
	}
}

// drain ends the gateway that has been replaced: what it has accepted it may finish within stop.timeout. The new one serves
// already, so nothing that goes wrong here undoes the restart.
func (w *Warden) drain(ctx context.Context, a *action, r *receipt.Receipt, old *gateway) {
	a.stage(code.StageStop)
	began := time.Now()
	defer func() { r.Millis.Stop = millis(time.Since(began)) }()
	sig := old.profile.Stop.Signal
	if a.first != 0 {
		sig = a.first
	}
	failpoint.Hit(w.dir, "intent")
	if err := old.proc.Signal(sig); err != nil && !errors.Is(err, process.ErrGone) {
		w.log.Error("cannot tell the old gateway to end; it is killed", "pid", old.info.PID, "err", err)
	}
	failpoint.Hit(w.dir, "signalled")
	r.Old = &receipt.Old{PID: old.info.PID, StartTime: old.info.StartTime}
	wait, cancel := context.WithTimeout(ctx, old.profile.Stop.Timeout)
	err := old.proc.Await(wait)
	cancel()
	if err != nil {
		r.Old.Forced = true
		if err := old.proc.Kill(); err != nil {
			w.log.Error("cannot end the old gateway", "pid", old.info.PID, "err", err)
		}
	}
	if !old.proc.AwaitFor(killGrace) {
		// It holds the socket that the new one has. What connects to it by chance is lost, until somebody ends it.
		stat, _ := old.proc.Stat()
		r.Message = fmt.Sprintf("the old gateway, process %d, survives SIGKILL (state %c) and still has the sockets: the container has to be recreated if it does not end", old.info.PID, stat.State)
		w.log.Error(r.Message)
		r.Old.ExitCode = -1
		return
	}
	failpoint.Hit(w.dir, "dead")
	exit, proof, err := w.collect(old)
	if err != nil {
		w.log.Error("cannot reap the old gateway", "pid", old.info.PID, "err", err)
	}
	r.Old.ExitCode, r.Old.Signal, r.Old.DeathProof = exit.Code, exit.SignalName(), proof
	a.old = r.Old
	// What descends from the new one stays; the rest is the old one's.
	if err := w.endStrays(w.alive, strangers{}); err != nil {
		w.log.Error("cannot clear up after the old gateway", "err", err)
	}
}

// dismiss ends a successor that could not be proven, with what it has started. The old gateway, which serves, and what is
// its own are not touched.
func (w *Warden) dismiss(next *gateway) {
	next.asked = true
	if err := next.proc.Kill(); err != nil {
		w.log.Error("cannot end the unproven gateway", "pid", next.info.PID, "err", err)
	}
	if w.notFrozen() != nil || !next.proc.AwaitFor(killGrace) {
		w.log.Error("the unproven gateway survives SIGKILL", "pid", next.info.PID)
		next.binds.Close()
		next.proc.Close()
		return // it is reaped like what a failed join leaves
	}
	if _, _, err := w.collect(next); err != nil {
		w.log.Error("cannot reap the unproven gateway", "err", err)
	}
	all, err := w.strays(strangers{})
	if err != nil {
		w.log.Error("cannot clear up after the unproven gateway", "err", err)
	}
	for _, p := range all {
		// What is older is the old gateway's.
		if p.Start() >= next.info.StartTime {
			if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, process.ErrGone) {
				w.log.Error("cannot end a process that the unproven gateway left behind", "pid", p.PID(), "err", err)
			}
			p.AwaitFor(killGrace)
		}
		p.Close()
	}
}
