package warden

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/forward"
	"github.com/gatewarden/gatewarden/internal/probe"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// statusPatience is how long `status` waits for a live answer to "is it healthy" before it says that it cannot tell.
const statusPatience = 500 * time.Millisecond

// request is one client's request on its way to run and back.
type request struct {
	control.Request
	uid    int
	asof   time.Time
	ctx    context.Context // ends at the request's deadline, and when the client leaves
	notify chan control.Message
	reply  chan control.Message // buffered: run never waits for a client
	turn   atomic.Int32         // waiting, taken by run, or left by the client: whoever comes first
}

const (
	waiting = iota
	taken
	left
)

// stagesLate is how late a client may hear that the launch began, and what comes after it but for a stop. The cores are the successor's then: to
// tell the client each stage of a fast one, and for the client to make something of it, would take from that.
const stagesLate = 50 * time.Millisecond

// handle answers one client, on the client's own goroutine.
func (w *Warden) handle(ctx context.Context, req control.Request, uid int, send func(control.Message) error) {
	switch req.Verb {
	case control.Watch:
		w.watch(ctx, send)
	case control.Await:
		w.await(ctx, send)
	case control.Status:
		send(control.Message{Status: w.statusNow(ctx, req, uid), Done: true})
	default:
		send(w.queue(ctx, req, uid, send))
	}
}

// statusNow is the published status with a live answer to "is it healthy", if run has the time for one.
func (w *Warden) statusNow(ctx context.Context, req control.Request, uid int) *receipt.Status {
	s := w.snapshot.Load().Status
	if s.State != receipt.Running {
		return &s
	}
	req.Verb, req.Timeout = control.Probe, statusPatience
	if m := w.queue(ctx, req, uid, nil); m.Report != nil {
		s = w.snapshot.Load().Status
	} else {
		s.Healthy, s.Checked = nil, nil // what was found before is not what was asked for
	}
	return &s
}

// queue puts a request into the queue and waits for its answer. What run has taken up it carries out, whoever leaves;
// what it has not taken up when the deadline passes or the client leaves is never carried out.
func (w *Warden) queue(ctx context.Context, req control.Request, uid int, send func(control.Message) error) control.Message {
	if send == nil {
		send = func(control.Message) error { return nil }
	}
	if req.Timeout == 0 {
		req.Timeout = 10*time.Second + w.snapshot.Load().budget
	}
	ctx, cancel := context.WithTimeout(ctx, req.Timeout)
	defer cancel()
	r := &request{Request: req, uid: uid, asof: time.Now(), ctx: ctx, notify: make(chan control.Message, 32), reply: make(chan control.Message, 1)}
	refuse := func(c code.Code, format string, args ...any) control.Message {
		return control.Message{Done: true, Error: code.Errorf(c, code.StageQueue, "cannot "+string(req.Verb)+" "+w.object()+": "+format, args...)}
	}
	select {
	case w.requests <- r:
	default:
		return refuse(code.Busy, "%d requests wait already; nothing was done", queueLength)
	}
	leave := ctx.Done()
	var held []control.Message // not sent yet
	var late <-chan time.Time  // until when; nil: nothing is held
	tell := func() {
		for _, m := range held {
			send(m)
		}
		held, late = nil, nil
	}
	for {
		select {
		case m := <-r.notify:
			held = append(held, m)
			switch {
			case m.Stage == code.StageLaunch && late == nil:
				late = time.After(stagesLate)
			case late == nil, m.Stage == code.StageStop: // a client that loses its warden has to know of the stop; with overlap it is after the launch
				tell()
			}
		case <-late:
			tell()
		case m := <-r.reply:
			for len(r.notify) > 0 {
				held = append(held, <-r.notify)
			}
			tell()
			return m
		case <-leave:
			if r.turn.CompareAndSwap(waiting, left) {
				return refuse(code.Deadline, "another action held the place until the deadline; nothing was done")
			}
			leave = nil // run has it, and sees the same deadline
		case <-w.ended:
			select {
			case m := <-r.reply:
				return m
			default:
			}
			select {
			case <-w.left:
				return refuse(code.WardenLost, "its warden has just left its place to a successor; nothing was done")
			default:
				return refuse(code.NotRunning, "%w", errContainerGone)
			}
		}
	}
}

// serveRequest carries out one request on run's goroutine.
func (w *Warden) serveRequest(r *request) {
	if !r.turn.CompareAndSwap(waiting, taken) {
		return
	}
	switch r.Verb {
	case control.Probe:
		r.reply <- control.Message{Report: w.report(r.ctx), Done: true}
	case control.Signal:
		r.reply <- w.signal(r)
	case control.Restart, control.Recover, control.Apply, control.Rollback, control.Unlock, control.Lock:
		r.reply <- w.restart(r)
	case control.Leave:
		w.leaving()
		r.reply <- control.Message{Done: true}
	default:
		r.reply <- control.Message{Done: true, Error: code.Errorf(code.Internal, code.StageQueue, "verb %q is not carried out here", r.Verb)}
	}
}

// restart carries out what has a receipt.
func (w *Warden) restart(r *request) control.Message {
	if old := w.recent.find(r.RequestID); old != nil {
		return control.Message{Receipt: old, Done: true}
	}
	// The client's leaving does not end what has begun: only its deadline does, and the container's end.
	failpoint.Hit(w.dir, "queue")
	deadline, _ := r.ctx.Deadline()
	ctx, cancel := context.WithDeadline(w.alive, deadline)
	defer cancel()
	a := &action{
		kind: receipt.Action(r.Verb), asked: true, reason: r.Reason, request: r.RequestID, by: receipt.RequestedBy{Via: r.Via, UID: r.uid}, asof: r.asof,
		notify: func(m control.Message) {
			select {
			case r.notify <- m:
			default: // a client that does not read gets the receipt all the same
			}
		},
	}
	if r.Signal != "" {
		a.first = unix.SignalNum(r.Signal)
	}
	a.config, a.to, a.untested, a.dryRun = r.Config, r.To, r.SkipPreflight, r.DryRun
	if r.DryRun {
		p, err := w.planned(ctx, a)
		if e := code.From(err, code.StagePreflight); e != nil {
			e.Message = fmt.Sprintf("cannot %s %s: %s", r.Verb, w.object(), e.Message)
			return control.Message{Done: true, Error: e}
		}
		return control.Message{Done: true, Plan: p}
	}
	rec := w.answered(ctx, a, r)
	return control.Message{Receipt: rec, Done: true}
}

func (w *Warden) answered(ctx context.Context, a *action, r *request) *receipt.Receipt {
	if r.IfGeneration != nil && *r.IfGeneration != w.config.Current {
		return w.record(a, receipt.Refused, code.Errorf(code.PreflightFailed, code.StageQueue,
			"cannot %s %s: generation %d is current, not %d: somebody else has changed its configuration", r.Verb, w.object(), w.config.Current, *r.IfGeneration))
	}
	switch r.Verb {
	case control.Unlock:
		return w.unlock(ctx, a, r.For)
	case control.Lock:
		return w.lock(ctx, a)
	case control.Recover:
		switch verdict, rep := w.isWell(ctx); verdict {
		case probe.Yes:
			return w.record(a, receipt.AlreadyRunning, nil)
		case probe.Unknown:
			return w.record(a, receipt.Refused, w.cannotTell(rep))
		}
	}
	rec := w.act(ctx, a)
	if rec.Outcome != receipt.Refused {
		w.exits, w.backoff = nil, 0 // an operator's restart overrides whatever was before it
	}
	w.settled(rec, true)
	return rec
}

// record makes the receipt of an action that did nothing.
func (w *Warden) record(a *action, o receipt.Outcome, e *code.Error) *receipt.Receipt {
	rec := w.begin(a)
	rec.Outcome = o
	if e != nil {
		rec.Code, rec.Stage, rec.Retryable, rec.Message = e.Code, e.Stage, e.Retryable, e.Message
	}
	if w.gateway != nil && o == receipt.AlreadyRunning {
		w.unneeded(a, rec)
		rec.Forwards = w.status.Forwards
		w.reportForwards(rec)
	}
	w.finish(a, rec)
	return rec
}

// report finds out how the gateway is, without side effects on it, and writes down what it has found.
func (w *Warden) report(ctx context.Context) *control.Report {
	g := w.gateway
	forwards := w.lookAtForwards(ctx)
	rep := w.examine(ctx)
	if forwards != nil {
		rep.Forwards = <-forwards
		w.status.Forwards = forward.Merge(rep.Forwards, w.status.Forwards)
	}
	// A look that its client called off, by leaving, has found nothing.
	if g != nil && (rep.Healthy != nil || !errors.Is(ctx.Err(), context.Canceled)) {
		g.looked(rep.Healthy)
		w.publish()
		w.remember(g)
	}
	return rep
}

func (w *Warden) examine(ctx context.Context) *control.Report {
	yes, no := true, false
	rep := &control.Report{Listeners: []receipt.Listener{}}
	fail := func(err error) *control.Report {
		e := code.From(err, code.StageProbe)
		rep.Code, rep.Message = e.Code, e.Message
		return rep
	}
	g := w.gateway
	counted := w.limits()
	if g == nil || g.proc.Exited() {
		rep.Healthy, rep.Code, rep.Message = &no, w.status.Code, w.status.Message
		rep.Holders = w.holders()
		return rep
	}
	g.before = counted // while it lives: that was not about it
	rep.PID = g.info.PID
	if err := w.notFrozen(); err != nil {
		return fail(err) // it can't answer, and that says nothing of its health
	}
	listeners, err := w.listening(g, g.profile, code.StageProbe)
	if err != nil {
		if e, ok := errors.AsType[*code.Error](err); ok && e.Code != code.Internal {
			rep.Healthy = &no
		}
		return fail(err)
	}
	rep.Listeners = listeners
	res, err := w.ask(ctx, g, code.StageProbe)
	if res.Verdict == probe.No && ctx.Err() != nil {
		// The client's patience was shorter than an attempt: that the gateway has not answered yet is no "no".
		res.Verdict = probe.Unknown
		err = w.asked(g, res, code.StageProbe)
	}
	rep.Probe = probeOf(res)
	switch res.Verdict {
	case probe.Yes:
		rep.Healthy = &yes
	case probe.No:
		rep.Healthy = &no
	}
	if err != nil {
		return fail(err)
	}
	return rep
}

// holders says who listens on the gateway's addresses while no gateway runs.
func (w *Warden) holders() string {
	if w.gateway != nil || len(w.profile.Listen) == 0 {
		return ""
	}
	if err := w.absent(w.profile); err != nil {
		return code.From(err, code.StageAbsence).Message
	}
	if len(w.held) > 0 {
		return "held for it; nobody else listens there"
	}
	return "free: nobody listens there"
}

// signal delivers a signal that does not end the gateway to exactly its process.
func (w *Warden) signal(r *request) control.Message {
	if w.gateway == nil {
		return control.Message{Done: true, Error: code.Errorf(code.NotRunning, code.StageRunning, "cannot signal %s: no gateway runs; it is %s", w.object(), w.status.State)}
	}
	if err := w.notFrozen(); err != nil {
		return control.Message{Done: true, Error: code.From(err, code.StageRunning)}
	}
	if err := w.unchanged(w.gateway, code.StageRunning); err != nil && !errors.Is(err, process.ErrGone) {
		return control.Message{Done: true, Error: code.From(fmt.Errorf("cannot signal %s: %w", w.object(), err), code.StageRunning)}
	}
	switch err := w.gateway.proc.Signal(unix.SignalNum(r.Signal)); {
	case errors.Is(err, process.ErrGone):
		return control.Message{Done: true, Error: code.Errorf(code.NotRunning, code.StageRunning, "cannot signal %s: %w", w.object(), err)}
	case err != nil:
		return control.Message{Done: true, Error: code.From(err, code.StageRunning)}
	}
	return control.Message{Done: true}
}

// await answers when the first start has its outcome; at once if the workload does not wait for the gateway.
func (w *Warden) await(ctx context.Context, send func(control.Message) error) {
	if !w.beforeWorkload {
		send(control.Message{Done: true})
		return
	}
	select {
	case <-w.first.done:
	case <-ctx.Done():
		return
	}
	m := control.Message{Receipt: w.first.r, Done: true}
	if now := w.snapshot.Load(); now.State == receipt.Running && now.Last != nil {
		// The policy, or an operator, made good what failed at first: the container can be started now.
		m.Receipt = now.Last
	} else if w.first.fail {
		m.Error = &code.Error{Code: w.first.r.Code, Stage: w.first.r.Stage, Retryable: w.first.r.Retryable, Message: w.first.r.Message}
	}
	send(m)
}

// watch sends the present state and then every event.
func (w *Warden) watch(ctx context.Context, send func(control.Message) error) {
	events := w.watchers.add()
	defer w.watchers.remove(events)
	s := w.snapshot.Load().Status
	if send(control.Message{Event: &control.Event{Kind: string(s.State), PID: s.PID, Time: s.Since}}) != nil {
		return
	}
	for {
		select {
		case e, ok := <-events:
			if !ok || send(control.Message{Event: &e}) != nil {
				return
			}
		case <-w.ended:
			// What was told before the end is still sent.
			for len(events) > 0 {
				e := <-events
				send(control.Message{Event: &e})
			}
			send(control.Message{Done: true})
			return
		case <-ctx.Done():
			return
		}
	}
}

// recentRequests remembers the receipts of the last requests that had an id, so that a repeated request does nothing.
type recentRequests struct {
	ids  []string
	recs map[string]*receipt.Receipt
}

const recentLength = 128

func (q *recentRequests) find(id string) *receipt.Receipt {
	if id == "" {
		return nil
	}
	return q.recs[id]
}

func (q *recentRequests) add(id string, r *receipt.Receipt) {
	if id == "" {
		return
	}
	if q.recs == nil {
		q.recs = map[string]*receipt.Receipt{}
	}
	q.ids = append(q.ids, id)
	q.recs[id] = r
	if len(q.ids) > recentLength {
		delete(q.recs, q.ids[0])
		q.ids = q.ids[1:]
	}
}
