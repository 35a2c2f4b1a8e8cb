package warden

import (
	"time"

	"github.com/gatewarden/gatewarden/internal/memo"
)

// takeUp gives the action that a warden before this one had begun.
func (w *Warden) resume(p *memo.Pending) *action {
	a := &action{id: p.ID, kind: p.Kind, asked: p.Asked, reason: p.Reason, request: p.Request, by: p.By, asof: time.Now(), profile: &p.Profile, old: p.Old}
	switch rejected := w.config.Rejected; {
	case p.Generation == 0:
	case w.config.Trying == p.Generation:
		a.trying, a.seen = p.Generation, p.Seen
	case rejected != nil && rejected.Generation == p.Generation && w.config.Current != p.Generation:
		// It had failed, and the one before was about to be started again.
		a.rejected = rejected
		if current, err := w.currentProfile(); err != nil {
			w.log.Error("cannot read the current generation", "err", err)
		} else {
			a.profile = current
		}
	}
	return a
}

// remember writes the memo. g is the gateway, a launcher that is about to become it, or nil.
//
// A failure is logged and, but for the recording of an operator's intent (see stop), is no more than that: the gateway's
// life does not depend on the memo. A successor will know less, and replace what it can't prove; clients that find a memo
// which nobody stands by ask us instead.
func (w *Warden) remember(g *gateway) error {
	m := memo.Memo{Status: w.present(), Counters: w.counters, Recovery: memo.Recovery{
		Exits: w.exits, Backoff: w.backoff, Profile: *w.profile, Adrift: w.adrift,
	}}
	if g != nil {
		m.Gateway, m.Identity, m.Asked, m.Proven, m.Profile = &g.info, g.id, g.asked, g.proven, *g.profile
	}
	if a := w.acting; a != nil && a.profile != nil {
		m.Pending = &memo.Pending{ID: a.id, Kind: a.kind, Asked: a.asked, Reason: a.reason, Request: a.request, By: a.by, Old: a.old, Overlap: a.overlap, Profile: *a.profile, Generation: a.trying, Seen: a.seen}
		if a.rejected != nil {
			m.Pending.Generation = a.rejected.Generation
		}
	}
	f, err := m.Write(w.dir)
	if err != nil {
		w.log.Error("cannot leave word for a successor", "err", err)
	}
	w.word.Close() // what it says is not how things stand any more
	w.word = f
	return err
}

// since gives the moment t, which another process wrote down, by this one's monotonic clock: from here on no step of the
// system's clock changes how long ago it was. What the clock has put into the future meanwhile happened now, at the latest.
func since(t, now time.Time) time.Time {
	return now.Add(-max(0, now.Sub(t)))
}

// recentExits gives those unasked exits that still count at now.
func recentExits(exits []time.Time, window time.Duration, now time.Time) []time.Time {
	var out []time.Time
	for _, t := range exits {
		if t = since(t, now); now.Sub(t) <= window {
			out = append(out, t)
		}
	}
	return out
}
