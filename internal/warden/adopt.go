package warden

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/probe"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// launchPatience is how long a launcher whose warden is lost may take to end, or to become the gateway, if its order was
// complete already. It has nothing to wait for: its control socket is closed.
const launchPatience = time.Second

// adopt takes over from a warden that was lost or has left. What the memo says is looked up and proven again. A gateway
// that is proven goes on, untouched. One that cannot be recognised or proven is ended, with whatever runs under its UID,
// before the next one is started: there are never two. An action that had begun is finished and answered for here.
func (w *Warden) adopt(m *memo.Memo) {
	failpoint.Hit(w.dir, "adopt")
	w.status.Restarts, w.counters = m.Status.Restarts, m.Counters
	w.status.Forwards = m.Status.Forwards
	w.exits, w.backoff = recentExits(m.Exits, m.Profile.Restart.Window, time.Now()), m.Backoff
	answered := w.recall(m)
	a := &action{kind: receipt.Recover, by: receipt.RequestedBy{Via: "warden"}, asof: time.Now(), reason: "the warden before this one was lost"}
	begun := m.Pending != nil && !answered
	if begun {
		a = w.resume(m.Pending)
	}
	if a.trying == 0 && w.config.Trying != 0 {
		// Recorded, and then not begun.
		w.forgetTried()
	}
	w.showAgain(m, a)
	g, why := w.recognise(m)
	if g == nil {
		w.adoptNothing(m, a, begun, why)
		return
	}
	w.gateway, w.profile = g, g.profile
	w.answerBindsAgain(g)
	w.status.PID, w.status.NSPID, w.status.StartTime = g.info.PID, g.info.NSPID, g.info.StartTime
	if m.Asked {
		// The one before us had begun to stop it. Who stops it owns its relaunch, and that is us now.
		if !begun {
			a.kind, a.reason = receipt.Restart, "finishes what the lost warden had begun"
		}
		w.finishAdoption(a)
		return
	}
	if m.Proven {
		w.setState(receipt.Running) // it serves while we look
	}
	if err := w.endStrays(w.alive, strangers{}); err != nil {
		w.log.Error("cannot clear up after the lost warden", "err", err)
	}
	if begun && m.Pending.Overlap {
		// Its successor was not proven yet. That one went just now, like whatever else the lost warden had left; another is made.
		w.finishAdoption(a)
		return
	}
	r := w.begin(a)
	ctx, cancel := context.WithTimeout(w.alive, budget(g.profile))
	err := w.notFrozen()
	if err == nil {
		g.since = time.Now() // ready.timeout runs from here; what it has used of it is not known
		if err = w.prove(ctx, g, r, a); err == nil {
			g.id, err = g.proc.Prove(g.id)
		}
	}
	cancel()
	// A paused container can't answer, and one that can't be asked need not be ill: no reason to replace what was proven once.
	e, _ := errors.AsType[*code.Error](err)
	untold := e != nil && (e.Code == code.Paused || m.Proven && e.Code == code.ProbeFailed && r.Probe.Verdict == string(probe.Unknown))
	if err != nil && !untold {
		w.log.Warn("the gateway that was found cannot be proven", "pid", g.info.PID, "err", err)
		if !begun {
			a.kind, a.reason = receipt.Respawn, fmt.Sprintf("the gateway that the lost warden left is not well: %v", err)
		}
		w.finishAdoption(a)
		return
	}
	g.proven = true
	if err := w.accept(a); err != nil {
		w.log.Error("the configuration that runs cannot be made the current one", "err", err)
		w.finishAdoption(a)
		return
	}
	if untold {
		g.looked(nil)
	} else {
		g.looked(new(true))
	}
	r.New = &g.info
	if begun {
		r.Outcome, r.Old = receipt.Replaced, a.old
		if a.rejected != nil {
			w.rolledBack(a, r)
		}
		r.Message = fmt.Sprintf("%s: process %d, which the lost warden had started, was proven and adopted", w.object(), g.info.PID)
	} else {
		r.Outcome, r.Message = receipt.AlreadyRunning, fmt.Sprintf("%s: process %d was found, proven and adopted", w.object(), g.info.PID)
	}
	if untold {
		r.Message = fmt.Sprintf("%s: process %d was found and adopted; cannot tell whether it is healthy: %v", w.object(), g.info.PID, e)
	}
	if !m.Proven {
		w.count(a)
	}
	w.status.Listeners = r.Listeners
	w.setState(receipt.Running)
	if begun {
		w.forwarded(w.alive, a, g, r)
	}
	w.finish(a, r)
	w.first.set(r, false)
	w.standbyTry.Reset(firstStandbyDelay)
}

// showAgain sees to it that the container is shown the generation of the gateway that the memo names, or of the next one: a
// warden that was lost can have been about to change that, or have changed it and not written it down.
func (w *Warden) showAgain(m *memo.Memo, a *action) {
	n, p := w.config.Current, &m.Profile
	var err error
	if a.trying != 0 && m.Gateway != nil && !m.Asked && !m.Pending.Overlap {
		n = a.trying
	} else {
		p, err = w.currentProfile()
	}
	if err == nil {
		err = w.show(n, p)
	}
	if err != nil {
		w.log.Error("cannot see to what the container is shown", "generation", n, "err", err)
	}
}

// forgetTried takes back that a generation was about to be tried, of an action that nothing is known of: its client was told
// nothing, and nothing was done.
func (w *Warden) forgetTried() {
	w.log.Warn("a generation was about to be tried when the warden before this one was lost", "generation", w.config.Trying)
	err := w.store.Abandon()
	if err == nil {
		err = w.reread()
	}
	if err != nil {
		w.log.Error("cannot take back that a generation was to be tried", "err", err)
	}
}

// finishAdoption replaces the gateway that was found.
func (w *Warden) finishAdoption(a *action) {
	ctx, cancel := context.WithTimeout(w.alive, joinTimeout+budget(w.profile))
	defer cancel()
	r := w.act(ctx, a)
	w.first.set(r, w.profile.Start.FailContainer)
	w.settled(r, false)
}

// adoptNothing goes on from the recorded state when no gateway was found.
func (w *Warden) adoptNothing(m *memo.Memo, a *action, begun bool, why string) {
	if err := w.endStrays(w.alive, strangers{}); err != nil {
		w.log.Error("cannot clear up after the lost warden", "err", err)
	}
	if !begun && (m.Status.State == receipt.FailedSt || m.Status.State == receipt.Stopped) {
		w.status.Code, w.status.Message = m.Status.Code, m.Status.Message
		w.setState(m.Status.State)
		w.first.set(&receipt.Receipt{Outcome: receipt.Failed, Code: m.Status.Code, Message: m.Status.Message}, w.profile.Start.FailContainer)
		w.standbyTry.Reset(firstStandbyDelay)
		return
	}
	w.log.Warn("no gateway was found", "why", why)
	if m.Gateway != nil {
		w.lost, w.lostAt = &receipt.Old{PID: m.Gateway.PID, StartTime: m.Gateway.StartTime, ExitCode: -1, DeathProof: process.ByPidfd}, time.Now()
	}
	if m.Status.State == receipt.Running && !begun {
		// It exited while nobody looked, and nobody asked for that as far as is known.
		exit := process.Exit{Code: -1, Unknown: true}
		if decide(m.Profile.Restart, exit) == receipt.FailedSt {
			w.fail(code.LaunchFailed, fmt.Sprintf("%s ended while it had no warden (%s), and its policy does not start it again: `gatewarden restart %s` does", w.object(), why, w.container))
			w.first.set(&receipt.Receipt{Outcome: receipt.Failed, Code: w.status.Code, Message: w.status.Message}, false)
			return
		}
	}
	switch {
	case !begun:
		a.kind, a.reason = receipt.Respawn, "the warden before this one was lost: "+why
	case a.old == nil:
		a.old = w.lost // it was to be ended, and has
	}
	w.finishAdoption(a)
}

// recognise takes hold of the gateway that the memo names, if it is still that very process. The string says what was
// found instead.
func (w *Warden) recognise(m *memo.Memo) (*gateway, string) {
	if m.Gateway == nil {
		return nil, "none was running"
	}
	pid := m.Gateway.PID
	proc, err := process.Open(pid)
	if err != nil {
		return nil, fmt.Sprintf("process %d is gone", pid)
	}
	if proc.Start() != m.Identity.Start {
		// Of a process that has only got its number nothing more is read.
		proc.Close()
		return nil, fmt.Sprintf("process %d is gone, and its number is another process's now", pid)
	}
	id, err := w.isGateway(proc, m)
	switch {
	case errors.Is(err, process.ErrGone):
		proc.Close()
		return nil, fmt.Sprintf("process %d has exited", pid)
	case err != nil:
		proc.Close()
		return nil, fmt.Sprintf("process %d is not the gateway: %v", pid, err)
	}
	p := m.Profile
	if m.Adrift {
		// Nobody would read its output, and it would stand still when the pipe is full.
		proc.Close()
		return nil, fmt.Sprintf("the output of process %d cannot be taken over: the run directory was removed", pid)
	}
	return &gateway{proc: proc, id: id, info: *m.Gateway, since: since(m.Status.Since, time.Now()), asked: m.Asked, proven: m.Proven, profile: &p, before: w.limits()}, ""
}

// isGateway proves that the process is the one of the memo, and gives what it is.
func (w *Warden) isGateway(proc *process.Process, m *memo.Memo) (process.Identity, error) {
	then := m.Identity
	if !m.Proven && then.Exe != (process.File{}) {
		// A launcher ends when its control socket closes; if it had its whole order it becomes the gateway.
		for deadline := time.Now().Add(launchPatience); ; time.Sleep(2 * time.Millisecond) {
			now, err := proc.Prove(m.Identity)
			if errors.Is(err, process.ErrChanged) {
				break
			}
			if err != nil {
				return now, err
			}
			if time.Now().After(deadline) {
				return now, errors.New("it is a launcher that waits for an order")
			}
		}
		then.Exe = process.File{}
	}
	now, err := proc.Prove(then)
	if err != nil {
		return now, err
	}
	if !m.Proven {
		now.Exe = process.File{}
	}
	po, err := proc.Posture()
	if err != nil {
		return now, err
	}
	if err := samePosture(po, w.identityOf(&m.Profile)); err != nil {
		return now, err
	}
	namespaces, err := w.init.Namespaces()
	if err != nil {
		return now, err
	}
	if kind := now.Namespaces.Differ(namespaces); kind != "" {
		return now, fmt.Errorf("it is not in the container's %s namespace", kind)
	}
	return now, nil
}

// recall fills in from the journal, and from the memo if the journal could not be written, what a repeated request needs, and
// the last receipt. It tells whether the receipt of the action that is pending is there.
func (w *Warden) recall(m *memo.Memo) (answered bool) {
	all, err := journal.Read(w.journal(), recentLength)
	if err != nil {
		w.log.Warn("the journal cannot be read in full", "err", err)
	}
	w.countAgain(all, m.Status.Last)
	if last := m.Status.Last; last != nil && !slices.ContainsFunc(all, func(r receipt.Receipt) bool { return r.ID == last.ID }) {
		all = append(all, *last)
	}
	if r := w.unfinished(m, all); r != nil {
		all = append(all, *r)
	}
	for i := range all {
		w.recent.add(all[i].RequestID, &all[i])
		w.status.Last = &all[i]
		answered = answered || m.Pending != nil && m.Pending.ID == all[i].ID
	}
	return answered
}

// countAgain counts the receipts that came into the journal after last, which is in the memo: the warden that wrote them was
// lost before it wrote down that it had counted them.
func (w *Warden) countAgain(all []receipt.Receipt, last *receipt.Receipt) {
	first := 0
	if last != nil {
		first = 1 + slices.IndexFunc(all, func(r receipt.Receipt) bool { return r.ID == last.ID })
		if first == 0 {
			return // the journal could not be written then, and does not tell what came after
		}
	}
	for _, r := range all[first:] {
		if r.Container == w.container { // else it is that of a container of this name before
			w.counters.Observe(&r)
		}
	}
}
