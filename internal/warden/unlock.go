package warden

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/posture"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// lockTime bounds the copying of what was unlocked.
const lockTime = 30 * time.Second

// unlock lets the gateway's UID write to the paths that its profile declares, for a while. The gateway goes on.
func (w *Warden) unlock(ctx context.Context, a *action, last time.Duration) *receipt.Receipt {
	r := w.begin(a)
	if err := w.unlocked(ctx, a, r, last); err != nil {
		e := code.From(err, code.StagePreflight)
		if e.Code == code.Internal {
			e.Code = code.PreflightFailed
		}
		r.Outcome, r.Code, r.Stage, r.Retryable = receipt.Refused, e.Code, e.Stage, e.Retryable
		r.Message = fmt.Sprintf("cannot unlock the configuration of %s: %s", w.object(), e.Message)
	}
	w.finish(a, r)
	return r
}

func (w *Warden) unlocked(ctx context.Context, a *action, r *receipt.Receipt, last time.Duration) error {
	p := w.profile
	switch {
	case w.init.Exited():
		return code.Errorf(code.NotRunning, code.StagePreflight, "%w", errContainerGone)
	case ctx.Err() != nil:
		return ctxError(ctx, code.StageQueue, "the request's turn did not come")
	case len(p.Unlock.Paths) == 0:
		return errors.New("its profile has no [unlock] paths, so nothing of it can be unlocked")
	case last > p.Unlock.Max:
		return fmt.Errorf("%v is longer than the profile's unlock.max, %v", last, p.Unlock.Max)
	}
	g, err := w.store.Get(w.config.Current)
	if err != nil {
		return err
	}
	host, err := posture.Host(p, w.maps)
	if err != nil {
		return err
	}
	now := time.Now()
	u := generation.Unlocked{
		Since: now, Until: now.Add(last), For: last, Reason: a.reason, RequestedBy: a.by, UID: host.UID, GID: host.GID,
	}
	if err := w.store.Unlock(ctx, g, p.Unlock.Paths, u); err != nil {
		return err
	}
	failpoint.Hit(w.dir, "unlocked")
	err = w.reread()
	if err == nil {
		err = w.show(w.config.Current, p)
	}
	if err != nil {
		if _, lerr := w.lockNow(context.WithoutCancel(ctx), "it could not be unlocked", a.by); lerr != nil {
			w.log.Error("cannot lock again", "err", lerr)
		}
		return err
	}
	w.keepUnlocked()
	r.Outcome = receipt.Done
	r.Message = fmt.Sprintf("the configuration of %s is unlocked until %s", w.object(), u.Until.Format(time.RFC3339))
	return nil
}

// lock makes the configuration read-only again, and what the gateway wrote meanwhile a generation.
func (w *Warden) lock(ctx context.Context, a *action) *receipt.Receipt {
	r := w.begin(a)
	r.Outcome = receipt.Done
	before := w.config.Current
	if w.config.Unlocked == nil {
		r.Message = fmt.Sprintf("the configuration of %s is locked already; nothing was done", w.object())
		w.finish(a, r)
		return r
	}
	kept, err := w.lockNow(context.WithoutCancel(ctx), a.reason, a.by)
	w.tellLocked(r, before, kept, err)
	w.finish(a, r)
	return r
}

// tellLocked makes r the receipt of a lock, before which the generation of that number was current.
func (w *Warden) tellLocked(r *receipt.Receipt, before int, kept, err error) {
	r.Outcome = receipt.Done
	switch {
	case err != nil:
		r.Outcome, r.Code, r.Stage = receipt.Failed, code.Internal, code.StageCommit
		r.Message = fmt.Sprintf("cannot lock the configuration of %s: %v; it is tried again until it is locked", w.object(), err)
	case kept != nil:
		r.Code, r.Stage = code.PreflightFailed, code.StageCommit
		r.Message = fmt.Sprintf("the configuration of %s is locked; %v", w.object(), kept)
	case w.config.Current == before:
		r.Message = fmt.Sprintf("the configuration of %s is locked; the gateway had written nothing", w.object())
	default:
		r.Message = fmt.Sprintf("the configuration of %s is locked; what the gateway wrote is generation %d", w.object(), w.config.Current)
	}
}

// lockNow locks. kept says why what the gateway wrote is no generation.
func (w *Warden) lockNow(ctx context.Context, reason string, by receipt.RequestedBy) (kept, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	u := w.config.Unlocked
	// Once it is shown read-only, only who has a file open still writes to it. Who goes on doing so loses what comes later.
	for range 3 {
		var g *generation.Generation
		g, kept = w.store.Lock(ctx, reason, by)
		if errors.Is(kept, generation.ErrStillUnlocked) {
			w.relock.Reset(relockDelay)
			return nil, kept
		}
		failpoint.Hit(w.dir, "locked")
		if err := w.reread(); err != nil {
			return kept, err
		}
		if err := w.show(w.config.Current, w.profile); err != nil {
			w.relock.Reset(relockDelay)
			return kept, err
		}
		if kept != nil || u == nil {
			break
		}
		touched, terr := w.store.Touched(ctx, g, u)
		if terr != nil || !touched {
			break
		}
		if err := w.store.Reopen(*u); err != nil {
			return kept, err
		}
	}
	w.relock.Stop()
	if err := w.store.DropWorking(); err != nil {
		w.log.Error("cannot remove the working copy", "err", err)
	}
	return kept, nil
}

// relockDelay is how long after a lock that failed the next try is made.
const relockDelay = 5 * time.Second

// keepUnlocked sees to it that the time of what is unlocked does not pass unseen.
func (w *Warden) keepUnlocked() {
	if u := w.config.Unlocked; u != nil {
		w.relock.Reset(max(0, u.Left(time.Now())))
	}
}

// lockInTime locks what is unlocked and whose time is over.
func (w *Warden) lockInTime() {
	u := w.config.Unlocked
	if u == nil {
		// It is locked, and the container could not be shown that yet.
		if err := w.show(w.config.Current, w.profile); err != nil {
			w.log.Error("cannot show the locked configuration", "err", err)
			w.relock.Reset(relockDelay)
		}
		return
	}
	if u.Left(time.Now()) > 0 {
		w.keepUnlocked()
		return
	}
	w.lock(w.alive, timeIsOver())
}

// timeIsOver is the lock that nobody has to ask for.
func timeIsOver() *action {
	return &action{kind: receipt.Lock, by: receipt.RequestedBy{Via: "warden"}, asof: time.Now(), reason: "its time was over"}
}

// lockFirst locks what had to be locked while there was no warden, before anything else happens. What it gives writes the receipt,
// once it is known again which process is the gateway: until then nothing may be written down that a successor would believe.
func (w *Warden) lockFirst() (tell func()) {
	u := w.config.Unlocked
	if u == nil || u.Left(time.Now()) > 0 {
		return func() {}
	}
	a, before := timeIsOver(), w.config.Current
	kept, err := w.lockNow(w.alive, a.reason, a.by)
	return func() {
		r := w.begin(a)
		w.tellLocked(r, before, kept, err)
		w.finish(a, r)
	}
}
