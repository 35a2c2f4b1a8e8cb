package warden

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/binary"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/gatewaylog"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/mount"
	"github.com/gatewarden/gatewarden/internal/probe"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// action is one start or replacement on its way from preflight to receipt.
type action struct {
	id      string // of its receipt
	kind    receipt.Action
	asked   bool // a client asked; else the warden acts by its policy
	first   unix.Signal
	reason  string
	request string // the client's own id of its request
	by      receipt.RequestedBy
	asof    time.Time // when it was asked for: the queue counts
	notify  func(control.Message)
	stopped time.Time        // when the old gateway was signalled; zero: it was not
	profile *profile.Profile // that preflight found good; before that nil
	old     *receipt.Old     // the gateway that it has ended
	overlap bool             // the old gateway serves until the new one is proven
	before  crowd            // the container's other processes when its preflight was done
	changed *code.Error      // preflight found that the gateway is not what was proven

	config   []control.Config // of an apply
	to       int              // of a rollback
	dryRun   bool
	untested bool              // without the profile's preflight command
	trying   int               // the generation that is recorded to take the current one's place; 0: none
	seen     generation.Inputs // what was declared when that was made
	rejected *receipt.Rejected // what it has tried and turned down: it goes back to the current generation
}

// stage tells the client that a stage begins.
func (a *action) stage(s code.Stage) {
	if a.notify != nil {
		a.notify(control.Message{Stage: s, Elapsed: millis(time.Since(a.asof))})
	}
}

// plan is what preflight found good: everything that the launch needs, read and checked while the old gateway serves.
type plan struct {
	*setup
	program *binary.Program
	env     []string
	creds   *os.File // the directory of the credentials; nil if there are none
}

func (p *plan) close() {
	if p == nil {
		return
	}
	p.setup.close()
	if p.program != nil {
		p.program.Close()
	}
	if p.creds != nil {
		p.creds.Close()
	}
}

// act carries out one action and returns its receipt, which is in the journal by then. ctx carries the one deadline.
//
// The order is the design's, section 9. Before stop, any error is a refusal and the old gateway has not been touched;
// after it, any error is a failure, and what follows is the policy's business (see policy.go).
func (w *Warden) act(ctx context.Context, a *action) *receipt.Receipt {
	w.acting = a
	r := w.begin(a)
	err := w.replace(ctx, a, r)
	if err != nil && a.trying != 0 {
		err = w.rollBack(a, r, w.pausedMeanwhile(r, code.From(err, code.StageLaunch)))
	}
	if err != nil {
		e := w.pausedMeanwhile(r, code.From(err, code.StageLaunch))
		r.Code, r.Stage, r.Retryable = e.Code, e.Stage, e.Retryable
		r.Message = w.explain(a, r, e)
	}
	w.finish(a, r)
	return r
}

// tellStarted tells those who wait for the first start that the gateway is proven. What comes after that is no reason to keep the
// workload waiting: the receipt is written down while the runtime starts it, and whatever is to make a forward may itself
// wait for the container's start.
func (w *Warden) tellStarted(a *action, r *receipt.Receipt) {
	if a.kind != receipt.Start {
		return
	}
	started := *r
	started.Generation, started.Millis.Total = w.config.Current, millis(time.Since(a.asof))
	w.first.set(&started, false)
	runtime.Gosched() // this process runs one goroutine at a time
}

// begin makes the receipt of an action whose turn has come. It says "failed" until something better is known.
func (w *Warden) begin(a *action) *receipt.Receipt {
	now := time.Now()
	if a.id == "" {
		a.id = rand.Text()
	}
	r := &receipt.Receipt{
		Version: 1, ID: a.id, Container: w.container, Gateway: w.rec.Profile, Action: a.kind, Reason: a.reason, RequestID: a.request, RequestedBy: a.by,
		Outcome: receipt.Failed, Listeners: []receipt.Listener{}, PostureAllows: w.rec.PostureAllows, Time: now,
	}
	r.Millis.Queue = millis(now.Sub(a.asof))
	return r
}

// finish records the receipt of an action that has ended, whatever its outcome.
func (w *Warden) finish(a *action, r *receipt.Receipt) {
	r.Generation = w.config.Current
	r.Millis.Total = millis(time.Since(a.asof))
	w.status.Last = r
	w.counters.Observe(r)
	failpoint.Hit(w.dir, "receipt")
	w.keep(r)
	failpoint.Hit(w.dir, "recorded")
	w.recent.add(a.request, r)
	w.acting = nil
	w.tidy.Reset(tidyDelay)
	w.publish()
	w.remember(w.gateway)
	w.watchers.tellSoon(control.Event{Kind: control.Recorded, Time: time.Now()})
}

func (w *Warden) replace(ctx context.Context, a *action, r *receipt.Receipt) error {
	failpoint.Hit(w.dir, "preflight")
	a.stage(code.StagePreflight)
	began := time.Now()
	p, err := w.preflight(ctx, a)
	defer p.close()
	if err == nil && w.nothingToApply(ctx, a, p) {
		w.unneeded(a, r)
		return nil
	}
	if err == nil {
		err = w.try(ctx, a, p.setup)
	}
	r.Millis.Preflight = millis(time.Since(began))
	if err != nil {
		r.Outcome = receipt.Refused
		w.dropHeld(w.profile) // what was made for the profile that was refused
		if p != nil {
			w.discard(p.setup)
		}
		return err
	}
	a.before = w.workload()
	if w.overlaps(p.profile) {
		return w.overlap(ctx, a, r, p)
	}
	if a.kind == receipt.Respawn {
		r.Old, a.stopped = w.lost, w.lostAt
	} else {
		r.Old = a.old
	}
	if w.gateway != nil {
		a.stage(code.StageStop)
		began = time.Now()
		err := w.stop(ctx, a, r)
		r.Millis.Stop = millis(time.Since(began))
		if err != nil {
			return err
		}
	}
	failpoint.Hit(w.dir, "stopped")
	// From here on no gateway runs: a failure leaves the container without one until the policy's next start, or until the
	// configuration before is started again. That the old one is to be replaced is on record; what is started is recorded
	// before it can run (see release).
	if err := w.showNew(p); err != nil {
		return err
	}
	if err := w.bring(ctx, a, r, p); err != nil {
		return err
	}
	w.replaced(a, r)
	w.sayRuns(w.gateway)
	w.tellStarted(a, r)
	r.Workload = w.untouched(a.before)
	w.forwarded(ctx, a, w.gateway, r)
	return nil
}

// bring starts what p says, and proves it. No gateway runs.
func (w *Warden) bring(ctx context.Context, a *action, r *receipt.Receipt, p *plan) error {
	w.enter(receipt.Starting)
	if err := w.absent(p.profile); err != nil {
		return err
	}
	if err := w.readyHeld(p.profile); err != nil {
		return err
	}
	a.stage(code.StageLaunch)
	began := time.Now()
	g, err := w.release(ctx, p)
	r.Millis.Launch = millis(time.Since(began))
	if err != nil {
		return err
	}
	w.gateway, w.profile = g, p.profile
	r.New = &g.info
	w.status.PID, w.status.NSPID, w.status.StartTime = g.info.PID, g.info.NSPID, g.info.StartTime
	w.publish()
	failpoint.Hit(w.dir, "launched")
	err = w.proveNew(ctx, g, r, a)
	if err == nil {
		err = w.accept(a)
	}
	if err != nil {
		w.abandon(g)
		return err
	}
	w.lost, w.lostAt = nil, time.Time{}
	if !a.stopped.IsZero() {
		r.Millis.Unavailable = millis(time.Since(a.stopped))
	}
	failpoint.Hit(w.dir, "proven")
	return nil
}

// proveNew is the whole proof of a gateway that has just been released.
func (w *Warden) proveNew(ctx context.Context, g *gateway, r *receipt.Receipt, a *action) error {
	if err := w.prove(ctx, g, r, a); err != nil {
		return g.withFindings(err)
	}
	var err error
	if g.id, err = g.proc.Prove(g.id); err != nil {
		return code.Errorf(code.LaunchFailed, code.StageProbe, "the gateway changed as soon as it was ready: %w", err)
	}
	g.proven, w.took = true, time.Since(g.since)
	g.looked(new(true))
	return nil
}

// replaced notes that the new gateway runs, proven.
func (w *Warden) replaced(a *action, r *receipt.Receipt) {
	r.Outcome = receipt.Replaced
	switch {
	case a.rejected != nil:
		w.rolledBack(a, r)
	case a.kind == receipt.Start && w.config.Rejected != nil:
		// The container before this one ended in the middle of a change: this is the receipt that tells what became of it.
		r.Rejected, r.Message = w.config.Rejected, rejection(w.config.Current, w.config.Rejected)
	}
	w.count(a)
	w.status.Listeners = r.Listeners
	w.setState(receipt.Running)
}

// count counts a replacement.
func (w *Warden) count(a *action) {
	switch {
	case a.asked:
		w.status.Restarts.Asked++
	case a.kind == receipt.Respawn:
		w.status.Restarts.Unasked++
	}
}

// preflight checks all that can be checked while the old gateway still serves.
func (w *Warden) preflight(ctx context.Context, a *action) (*plan, error) {
	if w.init.Exited() {
		return nil, code.Errorf(code.NotRunning, code.StagePreflight, "%w", errContainerGone)
	}
	if ctx.Err() != nil {
		return nil, ctxError(ctx, code.StageQueue, "the request's turn did not come")
	}
	if err := w.notFrozen(); err != nil {
		return nil, err
	}
	chosen, err := w.configure(ctx, a)
	if err != nil {
		return nil, err
	}
	p := &plan{setup: chosen}
	if err := w.prepare(ctx, p); err != nil {
		return p, err
	}
	if _, err := w.listening(w.gateway, p.profile, code.StagePreflight); err != nil {
		// A gateway that does not listen, or has changed, is what a restart cures.
		e, ok := errors.AsType[*code.Error](err)
		switch {
		case ok && e.Code == code.PostureMismatch:
			a.changed = e
		case !ok || e.Code != code.ListenerMissing:
			return p, err
		}
	}
	if err := w.keepHeld(p.profile); err != nil {
		return p, err
	}
	// An action that can't end in time would only stop the gateway.
	if deadline, ok := ctx.Deadline(); ok && w.gateway != nil && time.Until(deadline) < w.took {
		return p, code.Errorf(code.Deadline, code.StagePreflight, "%v are left until the deadline, and the gateway took %v to become ready last time: allow more with --timeout",
			time.Until(deadline).Round(time.Millisecond), w.took.Round(time.Millisecond))
	}
	if p.fresh && !a.untested && a.trying == 0 {
		if err := w.rehearse(ctx, p.setup); err != nil {
			return p, err
		}
	}
	a.profile = p.profile
	return p, nil
}

// prepare reads and opens what the launch of p's gateway needs.
func (w *Warden) prepare(ctx context.Context, p *plan) (err error) {
	if p.env, err = p.profile.Environ(); err != nil {
		return unread("cannot read the gateway's environment", err)
	}
	// The standby's view of the container is the gateway's: same root, same mounts. It is proven here, and again at its release.
	s, err := w.needStandby(ctx, w.identityOf(p.profile))
	if err != nil {
		return err
	}
	root, err := s.proc.OpenRoot()
	if err != nil {
		return code.Errorf(code.LaunchFailed, code.StagePreflight, "cannot open the container's root: %w", err)
	}
	defer root.Close()
	if err := mount.Verify(root, w.rec.Mounts); err != nil {
		return code.Errorf(code.PreflightFailed, code.StagePreflight, "%w", err)
	}
	if p.program, err = binary.Open(root, p.profile.Gateway.Command, p.profile.Gateway.SHA256, w.programs); err != nil {
		return err
	}
	if p.creds, err = w.mountCredentials(p.profile); err != nil {
		return unread("cannot prepare the gateway's credentials", err)
	}
	return w.checkable(root, p.profile)
}

// nothingToApply tells whether an apply asks for what there is already, and a gateway that is well runs with it.
func (w *Warden) nothingToApply(ctx context.Context, a *action, p *plan) bool {
	if a.kind != receipt.Apply || p.fresh || w.gateway == nil || !w.gateway.proven {
		return false
	}
	verdict, _ := w.isWell(ctx)
	return verdict == probe.Yes
}

// unneeded makes r the receipt of an action that has found everything as it is wanted.
func (w *Warden) unneeded(a *action, r *receipt.Receipt) {
	r.Outcome, r.New, r.Listeners = receipt.AlreadyRunning, &w.gateway.info, w.status.Listeners
	r.Message = w.object() + " is healthy; nothing was done"
	if a.kind == receipt.Apply {
		r.Message = fmt.Sprintf("%s runs generation %d, which holds this configuration, and is healthy; nothing was done", w.object(), w.config.Current)
	}
}

// notFrozen refuses while the container is paused: a frozen process takes no signal, and one that joins freezes too.
func (w *Warden) notFrozen() error {
	frozen, err := w.group.Frozen()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return code.Errorf(code.NotRunning, code.StagePreflight, "the container's cgroup is gone: %w", err)
	case err != nil:
		return code.Errorf(code.Internal, code.StagePreflight, "cannot tell whether the container is paused: %w", err)
	case frozen:
		return code.Errorf(code.Paused, code.StagePreflight, "the container is paused: resume it first (ctr --namespace %s task resume %s)", w.rec.Namespace, w.rec.ID)
	}
	return nil
}

// pausedMeanwhile gives the pause of the container as what failed an action that had begun, if it is paused now: nothing in
// it stops, starts or answers then.
func (w *Warden) pausedMeanwhile(r *receipt.Receipt, e *code.Error) *code.Error {
	if r.Outcome == receipt.Refused || e.Code == code.Paused {
		return e
	}
	if p := code.From(w.notFrozen(), e.Stage); p != nil && p.Code == code.Paused {
		return code.Errorf(code.Paused, e.Stage, "%s: %w", p.Message, e)
	}
	return e
}

// stop ends the running gateway and everything that it left behind, and proves it: SIGTERM through the pidfd, SIGKILL
// through the same, waitid of exactly that child, then no process under the gateway's UID but the standby.
func (w *Warden) stop(ctx context.Context, a *action, r *receipt.Receipt) error {
	g := w.gateway
	p := g.profile.Stop
	sig := p.Signal
	if a.first != 0 {
		sig = a.first
	}
	g.asked = true // before the signal: the exit that follows is ours, whatever its status
	// A successor that does not know of the intent would take the end for an unasked one, and could leave it so. Nobody needs
	// to take that risk for a restart that was asked for; what the warden replaces by itself is not served by waiting.
	if err := w.setState(receipt.Stopping); err != nil && a.asked {
		g.asked = false
		w.setState(receipt.Running)
		r.Outcome = receipt.Refused
		return code.Errorf(code.PreflightFailed, code.StageStop, "cannot record in %s that the gateway is to be stopped: %w; the directory has to be there and to have room", w.dir, err)
	}
	if a.changed != nil {
		// Its handle is what counts for the signal: it is the process that was started, whatever it has become.
		w.log.Warn("the gateway is not what was proven; it is replaced", "pid", g.info.PID, "err", a.changed.Err)
		r.Message = fmt.Sprintf("process %d was not what had been proven: %v", g.info.PID, a.changed.Err)
	}
	a.stopped = time.Now()
	failpoint.Hit(w.dir, "intent")
	if err := g.proc.Signal(sig); err != nil && !errors.Is(err, process.ErrGone) {
		g.asked = false
		w.setState(receipt.Running)
		return code.Errorf(code.StopFailed, code.StageStop, "%w", err)
	}
	failpoint.Hit(w.dir, "signalled")
	// What has to be known when it has ended, while it does.
	known := w.strangersAmong(a.before)
	r.Old = &receipt.Old{PID: g.info.PID, StartTime: g.info.StartTime}
	wait, cancel := context.WithTimeout(ctx, p.Timeout)
	err := g.proc.Await(wait)
	cancel()
	if err != nil && ctx.Err() == nil {
		r.Old.Forced = true
		if err := g.proc.Kill(); err != nil {
			return code.Errorf(code.StopFailed, code.StageStop, "%w", err)
		}
		wait, cancel := context.WithTimeout(ctx, killGrace)
		err = g.proc.Await(wait)
		cancel()
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctxError(ctx, code.StageStop, fmt.Sprintf("process %d got %s and did not end", g.info.PID, unix.SignalName(sig)))
		}
		stat, _ := g.proc.Stat()
		return code.Errorf(code.StopFailed, code.StageStop,
			"process %d survived SIGKILL for %v; it is in state %c (D: stuck in the kernel), and no second gateway is started beside it: as soon as it ends, the next one is",
			g.info.PID, killGrace, stat.State)
	}
	failpoint.Hit(w.dir, "dead")
	exit, proof, err := w.reaped()
	if err != nil {
		return code.Errorf(code.StopFailed, code.StageStop, "%w", err)
	}
	r.Old.ExitCode, r.Old.Signal, r.Old.DeathProof = exit.Code, exit.SignalName(), proof
	a.old = r.Old
	return w.endStrays(ctx, known)
}

// abandon ends a gateway that was started and could not be proven.
func (w *Warden) abandon(g *gateway) {
	g.asked = true
	if err := g.proc.Kill(); err != nil {
		w.log.Error("cannot end the unproven gateway", "pid", g.info.PID, "err", err)
	}
	// A frozen one dies with the resume; nobody is kept waiting for that.
	if w.notFrozen() != nil || !g.proc.AwaitFor(killGrace) {
		w.log.Error("the unproven gateway survives SIGKILL", "pid", g.info.PID)
		w.setState(receipt.Stopping)
		return // its exit will be seen by run
	}
	if _, _, err := w.reaped(); err != nil {
		w.log.Error("cannot reap the unproven gateway", "err", err)
	}
	if err := w.endStrays(w.alive, strangers{}); err != nil {
		w.log.Error("cannot clear up after the unproven gateway", "err", err)
	}
}

// reaped collects the exit status of the gateway, which has exited, and forgets it. It tells how the death is known.
func (w *Warden) reaped() (exit process.Exit, proof string, err error) {
	exit, proof, err = w.collect(w.gateway)
	w.gateway = nil
	w.status.PID, w.status.NSPID, w.status.StartTime = 0, 0, 0
	w.status.Listeners = []receipt.Listener{}
	return exit, proof, err
}

// collect is the end of a process that was the gateway, or was to be.
func (w *Warden) collect(g *gateway) (exit process.Exit, proof string, err error) {
	if g.exit != nil {
		exit, proof = *g.exit, g.proof
	} else if exit, proof, err = g.proc.Ending(); err == nil {
		w.sayExited(g, exit)
	}
	g.binds.Close()
	g.proc.Close()
	return exit, proof, err
}

func (w *Warden) sayRuns(g *gateway) {
	w.watchers.tell(control.Event{Kind: string(receipt.Running), PID: g.info.PID, Time: time.Now()})
}

// sayExited says nothing of a successor that ends before it replaces the gateway: nobody was told that it runs.
func (w *Warden) sayExited(g *gateway, exit process.Exit) {
	if g == w.other && w.acting.overlap {
		return
	}
	w.watchers.tellSoon(control.Event{Kind: "exited", PID: g.info.PID, ExitCode: exit.Status(), Time: time.Now()})
}

// explain is the message of an action that did not succeed: what was being done to which object, what was found, what is
// the state now, and what to do next.
func (w *Warden) explain(a *action, r *receipt.Receipt, e *code.Error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cannot %s %s: %s", a.kind, w.object(), e.Message)
	if r.Outcome == receipt.Refused {
		if r.New != nil {
			w.addOutput(&b, r)
		}
		switch {
		case w.gateway != nil && w.gateway.proc.Exited():
			fmt.Fprintf(&b, "; process %d was not touched, and has exited meanwhile", w.gateway.info.PID)
		case w.gateway != nil:
			fmt.Fprintf(&b, "; process %d was not touched and goes on", w.gateway.info.PID)
		}
		return b.String()
	}
	if w.gateway != nil {
		fmt.Fprintf(&b, "; process %d is still there", w.gateway.info.PID)
	}
	if r.New != nil {
		w.addOutput(&b, r)
	}
	if w.gateway == nil {
		b.WriteString("; no gateway runs now")
	}
	return b.String()
}

// addOutput adds what was written since the action began.
func (w *Warden) addOutput(b *strings.Builder, r *receipt.Receipt) {
	for _, p := range w.pumps {
		p.Flush(20 * time.Millisecond)
	}
	if out := gatewaylog.Excerpt(filepath.Join(w.rec.LogDir(), gatewaylog.Name), r.Time, 5); out != "" {
		fmt.Fprintf(b, "; its last output: %s", out)
	} else {
		b.WriteString("; it wrote nothing")
	}
}
