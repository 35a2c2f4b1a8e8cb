package warden

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/mount"
	"github.com/gatewarden/gatewarden/internal/posture"
	"github.com/gatewarden/gatewarden/internal/probe"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/trusted"
	"github.com/gatewarden/gatewarden/oci"
)

// setup is the configuration that an action starts a gateway with.
type setup struct {
	profile *profile.Profile
	number  int // its generation
	// fresh: it is not the current generation, and becomes that if its gateway is proven.
	fresh bool
	made  *generation.Generation // by this action; nil: it was there before
	seen  generation.Inputs
	// sources are what was copied from, open until the action is over. What stays open of them is closed with it.
	sources []generation.Source
}

// configure chooses the configuration of an action, and makes its generation if it is a new one.
func (w *Warden) configure(ctx context.Context, a *action) (*setup, error) {
	switch {
	case a.profile != nil: // a warden before this one found it good
		s := &setup{profile: a.profile, number: w.config.Current, seen: a.seen}
		if a.trying != 0 {
			s.number, s.fresh = a.trying, true
		}
		return s, nil
	case !a.asked:
		return &setup{profile: w.profile, number: w.config.Current}, nil
	case w.config.Unlocked != nil && (a.kind == receipt.Apply || a.kind == receipt.Rollback):
		return nil, code.Errorf(code.PreflightFailed, code.StagePreflight, "its configuration is unlocked until %s, and what the gateway writes would be lost: lock it first (gatewarden lock %s)",
			w.config.Unlocked.Until.Format(time.RFC3339), w.container)
	case w.config.Unlocked != nil:
		// What is declared waits until it is locked.
		return &setup{profile: w.profile, number: w.config.Current}, nil
	case a.kind == receipt.Rollback:
		return w.goBack(ctx, a)
	}
	return w.takeUp(ctx, a)
}

// takeUp makes a generation of what is declared, where that has changed since it was last looked at, and of what an apply names.
func (w *Warden) takeUp(ctx context.Context, a *action) (s *setup, err error) {
	declared, err := w.declared.Reload(w.rec.Config.ProfileDir)
	if err != nil {
		return nil, code.Errorf(code.InvalidProfile, code.StagePreflight, "%w", err)
	}
	w.declared = declared
	s = &setup{profile: w.profile, number: w.config.Current}
	defer func() {
		if err != nil {
			w.discard(s)
			s.close()
			s = nil
			err = code.From(err, code.StagePreflight)
			if e := err.(*code.Error); e.Code == code.Internal {
				e.Code, e.Retryable = code.PreflightFailed, errors.Is(err, trusted.ErrChanged)
			}
		}
	}()
	if err := w.mountsAs(declared); err != nil {
		return s, err
	}
	if s.sources, err = generation.Sources(declared.Mounts); err != nil {
		return s, err
	}
	host, err := posture.Host(declared, w.maps)
	if err != nil {
		return s, err
	}
	if s.seen, err = generation.Look(ctx, declared.Text(), s.sources, host.UID); err != nil {
		return s, err
	}
	all := a.kind == receipt.Apply && len(a.config) == 0
	if s.seen.Equal(w.config.Seen) && a.kind != receipt.Apply {
		return s, nil
	}
	current, err := w.store.Get(w.config.Current)
	if err != nil && a.kind != receipt.Apply {
		// Somebody has removed or damaged it. That keeps nobody from starting what runs.
		w.log.Error("what is declared is not taken up: the current generation cannot be read", "generation", w.config.Current, "err", err)
		return s, nil
	}
	if err != nil {
		return s, err
	}
	text := declared.Text()
	if !all && s.seen.Profile == w.config.Seen.Profile {
		// Nobody has edited it since another was put in its place.
		if text, err = w.store.Profile(current); err != nil {
			return s, err
		}
	} else {
		s.profile = declared
	}
	if !all {
		opened := s.sources
		s.sources = s.seen.Changed(w.config.Seen, opened)
		for i := range opened {
			if s.sources[i].File == nil {
				opened[i].File.Close()
			}
		}
	}
	if err := replaceSources(s.sources, a.config); err != nil {
		return s, err
	}
	origin := generation.Declared
	if a.kind == receipt.Apply {
		origin = generation.Applied
	}
	if host, err = posture.Host(s.profile, w.maps); err != nil {
		return s, err
	}
	g, err := w.store.Stage(ctx, generation.Plan{
		Name: s.profile.Name, Profile: text, Sources: s.sources, UID: host.UID, GID: host.GID,
		Parent: current, Origin: origin, Reason: a.reason, RequestedBy: a.by, Durable: true,
	})
	if err != nil {
		return s, err
	}
	if g.Number == current.Number {
		// What has been edited holds the same as before.
		s.profile = w.profile
		if a.dryRun {
			return s, nil
		}
		if err := w.store.See(s.seen); err != nil {
			return s, err
		}
		return s, w.reread()
	}
	s.number, s.fresh, s.made = g.Number, true, g
	return s, w.permitted(s.profile)
}

// replaceSources puts what an apply names in the place of declared sources.
func replaceSources(sources []generation.Source, config []control.Config) error {
	for _, c := range config {
		at := -1
		for i, s := range sources {
			if s.Target == c.Target || c.Target == "" && len(sources) == 1 {
				at = i
			}
		}
		switch {
		case at < 0 && c.Target == "":
			return fmt.Errorf("the profile has %d [[mount]] entries: name the one that is to show %s, as TARGET=%s", len(sources), c.Source, c.Source)
		case at < 0:
			return fmt.Errorf("the profile has no [[mount]] whose target is %s", c.Target)
		}
		f, err := trusted.OpenPath(c.Source)
		if err != nil {
			return err
		}
		if sources[at].File != nil {
			sources[at].File.Close()
		}
		sources[at].Path, sources[at].File, sources[at].Declared = c.Source, f, false
	}
	return nil
}

// goBack finds a generation that was there before.
func (w *Warden) goBack(ctx context.Context, a *action) (*setup, error) {
	refuse := func(err error) error { return code.Errorf(code.PreflightFailed, code.StagePreflight, "%w", err) }
	current, err := w.store.Get(w.config.Current)
	if err != nil {
		return nil, refuse(err)
	}
	n := a.to
	if n == 0 {
		n = current.Parent
	}
	if n == 0 {
		return nil, refuse(fmt.Errorf("generation %d is the first one: there is none before it", w.config.Current))
	}
	g, err := w.store.Get(n)
	if errors.Is(err, generation.ErrNone) {
		all, _ := w.store.Numbers()
		return nil, refuse(fmt.Errorf("generation %d is not there any more, or never was; there are %s", n, strings.Trim(fmt.Sprint(all), "[]")))
	}
	if err != nil {
		return nil, refuse(err)
	}
	text, err := w.store.Profile(g)
	if err != nil {
		return nil, refuse(err)
	}
	p, err := profile.Parse(w.rec.Profile, text)
	if err != nil {
		return nil, code.Errorf(code.InvalidProfile, code.StagePreflight, "generation %d: %w", n, err)
	}
	s := &setup{profile: p, number: n, fresh: n != w.config.Current || w.config.Rejected != nil, seen: w.look(ctx)}
	if err := w.mountsAs(p); err != nil {
		return nil, err
	}
	return s, w.permitted(p)
}

// look identifies what is declared now, so that going back is not undone by the next restart. What cannot be looked at is taken
// up again once it can.
func (w *Warden) look(ctx context.Context) generation.Inputs {
	p, err := profile.Load(w.rec.Config.ProfileDir, w.rec.Profile)
	if err != nil {
		return w.config.Seen
	}
	sources, err := generation.Sources(p.Mounts)
	defer generation.Close(sources)
	if err != nil {
		return w.config.Seen
	}
	seen, err := generation.Look(ctx, p.Text(), sources, w.uidOf(p))
	if err != nil {
		return w.config.Seen
	}
	return seen
}

// permitted judges a profile that is not the one that runs. What only a new container can change is refused rather than ignored.
func (w *Warden) permitted(p *profile.Profile) error {
	spec, err := oci.LoadProcess(w.rec.Bundle)
	if err != nil {
		return code.Errorf(code.PreflightFailed, code.StagePreflight, "cannot read the container's specification again: %w", err)
	}
	if _, err := posture.Host(p, w.maps); err != nil {
		return err
	}
	return posture.Check(spec, p, w.maps.Apart).Err()
}

// mountsAs checks that a profile has the [[mount]] and [[state]] targets that the container was created with.
func (w *Warden) mountsAs(p *profile.Profile) error {
	want := len(p.Mounts) + len(p.States)
	same := want == len(w.rec.Mounts)
	for i := 0; same && i < want; i++ {
		if i < len(p.Mounts) {
			same = p.Mounts[i].Target == w.rec.Mounts[i].Target && !w.rec.Mounts[i].Writable
		} else {
			same = p.States[i-len(p.Mounts)].Target == w.rec.Mounts[i].Target && w.rec.Mounts[i].Writable
		}
	}
	if !same {
		return code.Errorf(code.PreflightFailed, code.StagePreflight,
			"the profile's [[mount]] or [[state]] entries are not those that this container was created with: recreate the container to change them")
	}
	return nil
}

func (s *setup) close() {
	if s != nil {
		generation.Close(s.sources)
	}
}

// discard takes a generation away that its action has made and is not going to try.
func (w *Warden) discard(s *setup) {
	if s == nil || s.made == nil {
		return
	}
	if err := w.store.Discard(s.made); err != nil {
		w.log.Error("cannot remove a generation that was refused", "generation", s.number, "err", err)
	}
}

// rehearse lets the profile's preflight command judge a configuration: it runs as the gateway would, in a mount namespace in which
// the configuration is shown already. The container, and the gateway that serves in it, see nothing of that.
func (w *Warden) rehearse(ctx context.Context, s *setup) error {
	f := s.profile.Preflight
	if len(f.Command) == 0 {
		return nil
	}
	failed := func(format string, args ...any) error {
		return code.Errorf(code.PreflightFailed, code.StagePreflight, format, args...)
	}
	sources, err := install.MountSources(w.store, s.number, s.profile, nil)
	defer mount.Close(sources)
	if err != nil {
		return failed("%w", err)
	}
	preview, err := mount.Preview(w.init, sources)
	if err != nil {
		return failed("cannot prepare a view of generation %d for the preflight command: %w", s.number, err)
	}
	defer preview.Close()
	limit, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	out, err := newCheckOutput()
	if err != nil {
		return failed("%w", err)
	}
	verdict, err := w.runCommand(limit, command{profile: s.profile, arg: f.Command, namespace: preview, out: out})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctxError(ctx, code.StagePreflight, "the preflight command did not end")
	case verdict == probe.No && limit.Err() != nil:
		return failed("generation %d: the preflight command %s did not end within %v and was killed%s", s.number, f.Command[0], f.Timeout, out.all())
	case verdict == probe.No:
		return failed("generation %d: the preflight command %s says no (%w)%s", s.number, f.Command[0], err, out.all())
	}
	return failed("generation %d: cannot run the preflight command %s: %w", s.number, f.Command[0], err)
}

// try records that a generation is about to take the place of the current one. It is checked once more: whoever edits what was
// staged, or what it was staged from, would have something else started than what was judged.
func (w *Warden) try(ctx context.Context, a *action, s *setup) error {
	if !s.fresh || a.trying == s.number {
		return nil
	}
	err := generation.Unchanged(ctx, s.sources, w.uidOf(s.profile))
	if err == nil {
		err = w.store.Verify(ctx, s.number, w.uidOf(s.profile))
	}
	if err != nil {
		return code.Errorf(code.PreflightFailed, code.StagePreflight, "%w; nothing was changed: do it again", err)
	}
	if err := w.store.Try(s.number); err != nil {
		return code.Errorf(code.PreflightFailed, code.StagePreflight, "%w", err)
	}
	a.trying, a.seen = s.number, s.seen
	failpoint.Hit(w.dir, "trying")
	return w.reread()
}

// reread makes the record that is on disk the one that is known.
func (w *Warden) reread() (err error) {
	w.config, err = w.store.Record()
	return err
}

// show sees to it that the container sees generation n, whose profile is p.
func (w *Warden) show(n int, p *profile.Profile) error {
	sources, err := install.MountSources(w.store, n, p, w.config.Unlocked)
	defer mount.Close(sources)
	if err != nil || len(sources) == 0 {
		return err
	}
	placed, err := mount.Show(w.init, sources)
	if err != nil {
		return err
	}
	failpoint.Hit(w.dir, "shown")
	w.writing.Lock()
	defer w.writing.Unlock()
	copy(w.rec.Mounts, placed)
	return w.rec.Write()
}

// showNew is show for a plan that starts a gateway with another generation than the current one; else the container sees it already.
func (w *Warden) showNew(p *plan) error {
	if !p.fresh {
		return nil
	}
	if err := w.show(p.number, p.profile); err != nil {
		return code.Errorf(code.LaunchFailed, code.StageLaunch, "cannot show generation %d: %w", p.number, err)
	}
	return nil
}

// accept makes the generation that an action has tried the current one. Its gateway is proven.
func (w *Warden) accept(a *action) error {
	if a.trying == 0 {
		return nil
	}
	a.stage(code.StageCommit)
	if err := w.store.Accept(a.trying, a.seen); err != nil {
		return code.Errorf(code.Internal, code.StageCommit, "%w", err)
	}
	a.trying = 0
	if err := w.reread(); err != nil {
		return code.Errorf(code.Internal, code.StageCommit, "%w", err)
	}
	failpoint.Hit(w.dir, "committed")
	return nil
}

// reject records that the generation that an action has tried is not going to be the current one.
func (w *Warden) reject(a *action, r *receipt.Receipt, why *code.Error) {
	a.rejected = &receipt.Rejected{Generation: a.trying, Code: why.Code, Message: why.Message, Time: time.Now()}
	r.Rejected = a.rejected
	if err := w.store.Reject(*a.rejected, a.seen); err != nil {
		w.log.Error("cannot record that a generation was turned down", "generation", a.trying, "err", err)
	}
	a.trying = 0
	if err := w.reread(); err != nil {
		w.log.Error("cannot read which generation is current", "err", err)
	}
	failpoint.Hit(w.dir, "rejected")
}

// rollBack starts the current generation again after another, which was tried in its place, has failed. Cause is why.
func (w *Warden) rollBack(a *action, r *receipt.Receipt, cause *code.Error) error {
	tried := a.trying
	what := fmt.Sprintf("generation %d: %s", tried, cause.Message)
	if r.New != nil {
		var b strings.Builder
		w.addOutput(&b, r)
		what += b.String()
	}
	failed := &code.Error{Code: cause.Code, Stage: cause.Stage, Retryable: cause.Retryable, Message: what, Err: cause}
	w.reject(a, r, failed)
	p, err := w.currentProfile()
	if err != nil {
		return code.Errorf(code.Internal, code.StageRollback, "%s; and generation %d cannot be read: %w", what, w.config.Current, err)
	}
	if w.gateway != nil {
		// Of the two whichever does not end. Nothing is started beside it; when it ends, the current generation is.
		w.profile = p
		if err := w.show(w.config.Current, p); err != nil {
			w.log.Error("cannot show the current generation", "err", err)
		}
		return failed
	}
	a.stage(code.StageRollback)
	a.profile, w.profile = p, p
	ctx, cancel := context.WithTimeout(w.alive, joinTimeout+budget(p))
	defer cancel()
	if err := w.startAgain(ctx, a, r, p); err != nil {
		e := w.pausedMeanwhile(r, code.From(err, code.StageRollback))
		return &code.Error{Code: e.Code, Stage: e.Stage, Retryable: e.Retryable, Err: e,
			Message: fmt.Sprintf("%s; then generation %d, to go back to, could not be started either: %s", what, w.config.Current, e.Message)}
	}
	w.replaced(a, r)
	w.sayRuns(w.gateway)
	r.Workload = w.untouched(a.before)
	w.forwarded(ctx, a, w.gateway, r)
	r.Stage = cause.Stage
	r.Message = fmt.Sprintf("cannot %s %s: %s; rolled back: generation %d runs again, as process %d", a.kind, w.object(), what, w.config.Current, r.New.PID)
	return nil
}

// startAgain starts the current generation, whose profile is p.
func (w *Warden) startAgain(ctx context.Context, a *action, r *receipt.Receipt, p *profile.Profile) error {
	if err := w.show(w.config.Current, p); err != nil {
		return code.Errorf(code.LaunchFailed, code.StageRollback, "%w", err)
	}
	next := &plan{setup: &setup{profile: p, number: w.config.Current}}
	defer next.close()
	if err := w.prepare(ctx, next); err != nil {
		return err
	}
	return w.bring(ctx, a, r, next)
}

// rolledBack makes r the receipt of an action whose generation was turned down, and which has started the current one again.
func (w *Warden) rolledBack(a *action, r *receipt.Receipt) {
	r.Outcome, r.Code, r.Rejected, r.Retryable = receipt.RolledBack, code.RolledBack, a.rejected, false
}

// currentProfile gives the profile of the current generation.
func (w *Warden) currentProfile() (*profile.Profile, error) {
	g, err := w.store.Get(w.config.Current)
	if err != nil {
		return nil, err
	}
	text, err := w.store.Profile(g)
	if err != nil {
		return nil, err
	}
	return profile.Parse(w.rec.Profile, text)
}

// rejection says what everybody should see while an earlier generation runs than was wanted.
func rejection(current int, r *receipt.Rejected) string {
	return fmt.Sprintf("running generation %d, %d rejected: %s", current, r.Generation, r.Message)
}

// planned is a dry run: all checks that an action makes before it touches anything, and what it would change.
func (w *Warden) planned(ctx context.Context, a *action) (*control.Plan, error) {
	p, err := w.preflight(ctx, a)
	defer p.close()
	if p != nil {
		defer w.discard(p.setup)
	}
	w.dropHeld(w.profile)
	if err != nil {
		return nil, err
	}
	current, err := w.store.Get(w.config.Current)
	if err != nil {
		return nil, err
	}
	next, err := w.store.Get(p.number)
	if err != nil {
		return nil, err
	}
	diff, err := w.store.Diff(current, next)
	if err != nil {
		return nil, err
	}
	return &control.Plan{Current: current.Number, Generation: next.Number, Changes: current.Changes(next), Diff: diff}, nil
}

// openStore reads which generation is current. A successor goes on without that: it has the profile from the warden before it, and
// a gateway to look after.
func (w *Warden) openStore() error {
	w.store = generation.Open(w.rec.StateDir())
	err := w.reread()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("cannot tell which configuration is current: %w", err)
	if w.memo == nil {
		return err
	}
	w.log.Error("the configuration cannot be changed", "err", err)
	w.config = generation.Record{Name: w.rec.Profile, Current: w.memo.Status.Generation}
	return nil
}
