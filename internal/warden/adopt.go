package warden

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// launchPatience is how long a launcher whose warden is lost may take to end, or to become the gateway, if its order was
// complete already. It has nothing to wait for: its control socket is closed.
const launchPatience = time.Second

// adopt takes over from a warden that was lost or has left. What the memo says is looked up and proven again. A gateway
// that is proven goes on, untouched. One that cannot be recognised or proven is ended, with whatever runs under its UID,
// before the next one is started: there are never two.
func (w *Warden) adopt(m *memo) {
	w.status.Generation, w.status.Restarts = m.Generation, m.Restarts
	w.exits, w.backoff = recentExits(m.Exits, m.Profile.Restart.Window, time.Now()), m.Backoff
	w.recall()
	a := &action{kind: receipt.Recover, by: receipt.RequestedBy{Via: "warden"}, asof: time.Now(), reason: "the warden before this one was lost"}
	g, why := w.recognise(m)
	if g == nil {
		w.adoptNothing(m, a, why)
		return
	}
	w.gateway, w.profile = g, g.profile
	w.status.PID, w.status.NSPID, w.status.StartTime = g.info.PID, g.info.NSPID, g.info.StartTime
	if m.Asked {
		// The one before us had begun to stop it. Who stops it owns its relaunch, and that is us now.
		a.kind, a.reason = receipt.Restart, "finishes what the lost warden had begun"
		w.finishAdoption(a)
		return
	}
	if m.Proven {
		w.setState(receipt.Running) // it serves while we look
	}
	if err := w.endStrays(w.alive); err != nil {
		w.log.Error("cannot clear up after the lost warden", "err", err)
	}
	r := w.begin(a)
	ctx, cancel := context.WithTimeout(w.alive, budget(g.profile))
	err := w.notFrozen()
	if err == nil {
		g.since = time.Now() // ready.timeout runs from here; what it has used of it is not known
		err = w.prove(ctx, g, r, a)
	}
	cancel()
	if e, ok := errors.AsType[*code.Error](err); ok && e.Code != code.Paused {
		w.log.Warn("the gateway that was found cannot be proven", "pid", g.info.PID, "err", err)
		a.kind, a.reason = receipt.Respawn, "the gateway that the lost warden left is not well: "+e.Message
		w.finishAdoption(a)
		return
	}
	// A paused container can't answer, and is no reason to replace anything.
	g.proven = true
	r.New, r.Outcome, r.Message = &g.info, receipt.AlreadyRunning, fmt.Sprintf("%s: process %d was found, proven and adopted", w.object(), g.info.PID)
	if !m.Proven {
		w.status.Generation++
	}
	w.status.Listeners = r.Listeners
	w.setState(receipt.Running)
	w.finish(a, r)
	w.first.set(r, false)
	w.standbyTry.Reset(firstStandbyDelay)
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
func (w *Warden) adoptNothing(m *memo, a *action, why string) {
	w.profile = &m.Profile
	if err := w.endStrays(w.alive); err != nil {
		w.log.Error("cannot clear up after the lost warden", "err", err)
	}
	switch m.State {
	case receipt.FailedSt, receipt.Stopped:
		w.status.Code, w.status.Message = m.Code, m.Message
		w.setState(m.State)
		w.first.set(&receipt.Receipt{Outcome: receipt.Failed, Code: m.Code, Message: m.Message}, w.profile.Start.FailContainer)
		w.standbyTry.Reset(firstStandbyDelay)
		return
	}
	w.log.Warn("no gateway was found", "why", why)
	if m.Gateway != nil {
		w.lost, w.lostAt = &receipt.Old{PID: m.Gateway.PID, StartTime: m.Gateway.StartTime, ExitCode: -1, DeathProof: process.ByPidfd}, time.Now()
	}
	if m.State == receipt.Running {
		// It exited while nobody looked, and nobody asked for that as far as is known.
		w.profile = &m.Profile
		exit := process.Exit{Code: -1, Unknown: true}
		if decide(m.Profile.Restart, exit) == receipt.FailedSt {
			w.fail(code.LaunchFailed, fmt.Sprintf("%s ended while it had no warden (%s), and its restart policy is \"never\": `gatewarden restart` starts it again", w.object(), why))
			w.first.set(&receipt.Receipt{Outcome: receipt.Failed, Code: w.status.Code, Message: w.status.Message}, false)
			return
		}
	}
	a.kind, a.reason = receipt.Respawn, "the warden before this one was lost: "+why
	w.finishAdoption(a)
}

// recognise takes hold of the gateway that the memo names, if it is still that very process: its number and start time,
// its executable, its rights and its namespaces. The string says what was found instead.
func (w *Warden) recognise(m *memo) (*gateway, string) {
	if m.Gateway == nil {
		return nil, "none was running"
	}
	proc, err := process.Open(m.Gateway.PID)
	if err != nil {
		return nil, fmt.Sprintf("process %d is gone", m.Gateway.PID)
	}
	why := w.isGateway(proc, m)
	if why == "" && m.Adrift {
		// Nobody would read its output, and it would stand still when the pipe is full.
		why = fmt.Sprintf("the output of process %d cannot be taken over: the run directory was removed", m.Gateway.PID)
	}
	if why != "" {
		proc.Close()
		return nil, why
	}
	p := m.Profile
	return &gateway{proc: proc, info: *m.Gateway, since: since(m.Since, time.Now()), asked: m.Asked, proven: m.Proven, profile: &p, before: w.limits()}, ""
}

// isGateway gives "" or what is wrong. A different start time means that the number is somebody else's now: nothing more
// is read of such a process.
func (w *Warden) isGateway(proc *process.Process, m *memo) string {
	pid := m.Gateway.PID
	if proc.Start() != m.Gateway.StartTime {
		return fmt.Sprintf("process %d is gone, and its number is another process's now", pid)
	}
	// A launcher ends when its control socket closes; if it had its whole order it becomes the gateway.
	for deadline := time.Now().Add(launchPatience); ; time.Sleep(2 * time.Millisecond) {
		if proc.Exited() {
			return fmt.Sprintf("process %d has exited", pid)
		}
		_, dev, ino, err := proc.Exe()
		switch {
		case err != nil:
			return fmt.Sprintf("process %d has exited", pid)
		case dev == m.Gateway.ExeDev && ino == m.Gateway.ExeIno:
		case time.Now().Before(deadline):
			continue
		default:
			return fmt.Sprintf("process %d runs another program than the gateway's", pid)
		}
		break
	}
	po, err := proc.Posture()
	if err != nil {
		return fmt.Sprintf("process %d has exited", pid)
	}
	if err := samePosture(po, identityOf(&m.Profile)); err != nil {
		return fmt.Sprintf("process %d is not what it was: %v", pid, err)
	}
	if ns, err := proc.SameNamespaces(w.init); err != nil || ns != "" {
		return fmt.Sprintf("process %d is not in the container's %s namespace", pid, ns)
	}
	return ""
}

// recall fills in from the journal what a repeated request needs, and the last receipt.
func (w *Warden) recall() {
	all, err := journal.Read(w.journal(), recentLength)
	if err != nil {
		w.log.Warn("the journal cannot be read in full", "err", err)
	}
	for i := range all {
		w.recent.add(all[i].RequestID, &all[i])
		w.status.Last = &all[i]
	}
}
