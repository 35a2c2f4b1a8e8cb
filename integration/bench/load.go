package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/gatewarden/gatewarden/integration/bench/client"
	"github.com/gatewarden/gatewarden/integration/bench/plot"
	"github.com/gatewarden/gatewarden/integration/bench/report"
	"github.com/gatewarden/gatewarden/integration/harness"
)

const loadFigure = "load"

const loadHow = `Requests are begun at a fixed rate, each on a connection of its own without keep-alive, whatever becomes of those before, by one thread that
waits in epoll. Meanwhile the gateway is restarted again and again: ours through the control socket as soon as the next standby is parked, s6 and runit
1.2 s after the restart before, since they demand a second between two starts.

A gateway that *drains* ends after SIGTERM when it has answered all that it had accepted: of such a gateway a connection that was made and then ended
without an answer was never accepted. That is *reset before accept*. A gateway that *exits at once* on SIGTERM takes with it what it had accepted: that is
what *accepted, then lost* counts, of the modes whose listener is never closed, where nothing else can be lost. *Otherwise* are answers that were cut off or
came after 10 s, and other errors. The times are those of the answered requests, from connect to the last byte.`

// loaded is one subject under load.
type loaded struct {
	*subject
	say      func(format string, args ...any)
	drains   bool
	restarts int
	failed   int // restarts
	counts   client.Counts
}

// Names of what is counted.
const (
	refusedCount = "refused"
	resetCount   = "reset before accept"
	lostCount    = "accepted, then lost"
	rateCount    = "answered"
	failedCount  = "failed"
)

// measureLoad counts what clients lose in restarts under load.
func (b *bench) measureLoad(ctx context.Context) (_ []report.Figure, err error) {
	var all []*loaded
	defer func() {
		for _, l := range all {
			err = errors.Join(err, l.stop())
		}
	}()
	var missing []report.Row
	add := func(s *subject, drains bool, restarts int) {
		all = append(all, &loaded{subject: s, say: b.say, drains: drains, restarts: restarts})
	}
	for _, mode := range modes {
		for _, drains := range []bool{true, false} {
			if !drains && mode == "gateway" {
				continue // what its queue loses and what it had accepted could not be told apart
			}
			if why := unsupported(mode); why != nil {
				missing = append(missing, report.Row{Name: loadedName(mode, drains), Kind: plot.Ours, Missing: why.Error()})
				continue
			}
			s, err := b.oursLoaded(ctx, mode, drains)
			if err != nil {
				return nil, err
			}
			add(s, drains, b.n.loadRestarts)
		}
	}
	peers := []func(context.Context, ...string) (*subject, error){b.s6, b.runit}
	if b.o.Alone {
		peers = nil
	}
	for _, start := range peers {
		s, err := start(ctx, "--drain")
		if err != nil {
			return nil, err
		}
		s.name = loadedName(s.name, true)
		add(s, true, b.n.peerRestarts)
	}
	for run := range b.o.Runs {
		for _, l := range all {
			n := l.restarts*(run+1)/b.o.Runs - l.restarts*run/b.o.Runs
			if err := l.run(ctx, n, b.n.rate); err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
		}
	}

	f := report.Figure{Name: loadFigure, Title: "Connections lost in restarts under load", Unit: "requests", How: loadHow}
	for _, l := range all {
		f.Rows = append(f.Rows, l.row(b.n.rate))
	}
	var names []string
	for _, mode := range modes {
		names = append(names, loadedName(mode, true), loadedName(mode, false))
	}
	f.Rows = inOrder(append(names, loadedName(runitName, true), loadedName(s6Name, true)), append(f.Rows, missing...)...)
	for _, mode := range []string{"inherit", "transparent"} {
		row := f.Row(loadedName(mode, true))
		lost := report.Target{What: mode + ": refused, or reset before accept", Bound: report.AtMost, Unit: "requests"}
		rate := report.Target{What: mode + ": answered under that load", Bound: report.AtLeast, Limit: 2000, Unit: "requests/s"}
		if refused, ok := row.Value(refusedCount); ok {
			reset, _ := row.Value(resetCount)
			lost.Measured = number(refused + reset)
		}
		if answered, ok := row.Value(rateCount); ok {
			rate.Measured = &answered
		}
		failed := report.Target{What: mode + ": restarts that failed under it", Bound: report.AtMost}
		if n, ok := row.Value(failedCount); ok {
			failed.Measured = &n
		}
		f.Targets = append(f.Targets, lost, rate, failed)
	}
	return []report.Figure{f}, nil
}

func loadedName(name string, drains bool) string {
	if drains {
		return name + ", drains"
	}
	return name + ", exits at once"
}

// oursLoaded is a container for the load.
func (b *bench) oursLoaded(ctx context.Context, mode string, drains bool) (*subject, error) {
	var args []string
	if drains {
		args = append(args, "--drain")
	}
	p := profileOf(mode, args...)
	p.Ready = "http = \"http://" + harness.GatewayAddress + "/health\"\ntimeout = \"30s\""
	c, err := b.run(ctx, spec{runtime: harness.Gatewarden, profile: &p})
	if err != nil {
		return nil, err
	}
	ready := func(ctx context.Context) error {
		_, err := c.parked(ctx)
		return err
	}
	return &subject{name: loadedName(mode, drains), kind: plot.Ours, server: c.server(), ready: ready, restart: c.restart, stop: c.remove}, nil
}

// run restarts it n times under load.
func (l *loaded) run(ctx context.Context, n int, rate float64) (err error) {
	if err := answers(ctx, l.server); err != nil {
		return err
	}
	load := client.BeginLoad(l.server, "/health", rate)
	defer func() {
		counts, lerr := load.End()
		l.count(counts)
		err = errors.Join(err, lerr)
	}()
	if err := rest(ctx, restTime); err != nil {
		return err
	}
	for range n {
		if l.ready != nil {
			if err := l.ready(ctx); err != nil {
				return err
			}
		}
		if err := rest(ctx, l.settle); err != nil {
			return err
		}
		if _, err := l.restart(ctx); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			// A figure too: on a machine that cannot bear the load a probe waits behind all that is queued.
			l.failed++
			l.say("%s: %v", l.name, err)
		}
		// A tool that does not wait for the successor would ask for the next restart of nothing.
		if err := answers(ctx, l.server); err != nil {
			return err
		}
	}
	return rest(ctx, restTime)
}

// count adds the counts of one run.
func (l *loaded) count(c client.Counts) {
	t := &l.counts
	t.Offered += c.Offered
	t.Answered += c.Answered
	t.Refused += c.Refused
	t.Cut += c.Cut
	t.Partial += c.Partial
	t.Late += c.Late
	t.Other += c.Other
	t.Elapsed += c.Elapsed
	t.Millis = append(t.Millis, c.Millis...)
}

func (l *loaded) row(rate float64) report.Row {
	c := l.counts
	r := report.Row{Name: l.name, Kind: l.kind}
	add := func(name string, v float64, unit string) {
		r.Values = append(r.Values, report.Value{Name: name, Value: v, Unit: unit})
	}
	add("restarts", float64(l.restarts), "")
	add(failedCount, float64(l.failed), "")
	add("requests", float64(c.Offered), "")
	add("offered", float64(c.Offered)/c.Elapsed.Seconds(), "/s")
	add(rateCount, c.Rate(), "/s")
	add(refusedCount, float64(c.Refused), "")
	if l.drains {
		add(resetCount, float64(c.Cut), "")
	} else {
		add(lostCount, float64(c.Cut), "")
	}
	add("otherwise", float64(c.Partial+c.Late+c.Other), "")
	add("median time", c.Millis.Median(), "ms")
	add("99 %", c.Millis.Quantile(0.99), "ms")
	add("longest", c.Millis.Max(), "ms")
	return r
}
