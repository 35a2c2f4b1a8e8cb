package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench/client"
	"github.com/gatewarden/gatewarden/integration/bench/plot"
	"github.com/gatewarden/gatewarden/integration/bench/report"
	"github.com/gatewarden/gatewarden/integration/bench/sample"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

const restartFigure = "restart"

const restartHow = `A client connects, asks ` + "`GET /`" + ` and connects again, from some milliseconds before the restart is asked for; it pauses for 1 ms after
each answer of the old instance and for 0.1 ms after a connection that is refused. Each instance of the test gateway makes up a name of its own and
tells it in its answer: the first answer of another instance than before is the successor's. The time runs from the call, or from the start of the
command, to the arrival of that answer. It does not contain the proofs that follow the start.

The floor is a small C program on the host that holds the listening socket and does nothing but SIGTERM, wait, fork and exec for each line on its
standard input. s6, runit and supervisor run the same gateway on the host, where it binds anew, under a plain service with their defaults; before each
restart it has run for 1.2 s, more than the second that s6 and runit demand between two starts. ` + "`ctr task rm -f`" + ` and ` + "`ctr task start`" + ` recreate the task of a
container whose first process is the gateway, in the host's network. The starter of ` + "`runc exec`" + ` is a shell in a plain container that ends the gateway
before, waits for its end and becomes the next one. Ours are one container for each mode. The stages are those of the receipts.`

// measureRestart measures the time from the request to the successor's first answer.
func (b *bench) measureRestart(ctx context.Context) (_ []report.Figure, err error) {
	var all []*subject
	defer func() { err = errors.Join(err, stopAll(all)) }()
	var missing []report.Row
	s, err := b.floor(ctx)
	if err != nil {
		return nil, err
	}
	all = append(all, s)
	for _, mode := range modes {
		if why := unsupported(mode); why != nil {
			for _, name := range []string{socketName(mode), commandName(mode), execName(mode)} {
				missing = append(missing, report.Row{Name: name, Kind: plot.Ours, Missing: why.Error()})
			}
			continue
		}
		ours, err := b.ours(ctx, mode)
		if err != nil {
			return nil, err
		}
		all = append(all, ours...)
	}
	peers := []func(context.Context) (*subject, error){b.recreate, b.runcExec}
	if !b.o.Alone {
		peers = append(peers, b.supervisor,
			func(ctx context.Context) (*subject, error) { return b.s6(ctx) },
			func(ctx context.Context) (*subject, error) { return b.runit(ctx) })
	}
	for _, start := range peers {
		s, err := start(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	for run := range b.o.Runs {
		for round := range b.n.fast {
			for _, s := range all {
				if s.slow && round > 0 {
					continue
				}
				if err := s.measure(ctx); err != nil {
					return nil, fmt.Errorf("run %d: %w", run+1, err)
				}
			}
		}
	}

	f := report.Figure{Name: restartFigure, Title: "Restart asked to the successor's first answer", Unit: "ms", How: restartHow, Plot: report.Dots,
		Axis: "milliseconds from the request to the first answer of the successor", Base: floorName}
	for _, s := range all {
		f.Rows = append(f.Rows, report.Row{Name: s.name, Kind: s.kind, Samples: s.samples, Values: stages(s.receipts)})
	}
	names := []string{floorName}
	for _, mode := range modes {
		names = append(names, socketName(mode), commandName(mode), execName(mode))
	}
	f.Rows = inOrder(append(names, runitName, runcExecName, supervisorName, recreateName, s6Name), append(f.Rows, missing...)...)
	f.Targets = []report.Target{
		ratioTarget(&f, socketName("inherit"), floorName, 1.3, number(1.1)),
		ratioTarget(&f, socketName("transparent"), floorName, 1.6, nil),
		fastestTarget(&f, socketName("inherit")),
		fastestTarget(&f, socketName("transparent")),
		fastestTarget(&f, commandName("inherit")),
		fastestTarget(&f, commandName("transparent")),
	}
	return []report.Figure{f}, nil
}

// measure does one restart and keeps its time.
func (s *subject) measure(ctx context.Context) error {
	took, r, err := s.timed(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.samples = append(s.samples, millis(took))
	if r != nil {
		s.receipts = append(s.receipts, *r)
	}
	return nil
}

// head is how long the client asks the old instance before the restart is asked for.
const head = 5 * time.Millisecond

func (s *subject) timed(ctx context.Context) (time.Duration, *receipt.Receipt, error) {
	if s.ready != nil {
		if err := s.ready(ctx); err != nil {
			return 0, nil, err
		}
	}
	if err := rest(ctx, max(s.settle, restTime)); err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	w, err := client.Begin(ctx, s.server)
	if err != nil {
		return 0, nil, err
	}
	err = rest(ctx, head)
	asked := time.Now()
	var r *receipt.Receipt
	if err == nil {
		r, err = s.restart(ctx)
	}
	if err != nil {
		cancel() // the successor that the client waits for will not come
	}
	seen, werr := w.Wait()
	return seen.At.Sub(asked), r, errors.Join(err, werr)
}

// stages gives the medians of what receipts tell.
func stages(receipts []receipt.Receipt) []report.Value {
	if len(receipts) == 0 {
		return nil
	}
	var values []report.Value
	for _, stage := range []struct {
		name string
		of   func(receipt.Millis) float64
	}{
		{"preflight", func(m receipt.Millis) float64 { return m.Preflight }},
		{"stop", func(m receipt.Millis) float64 { return m.Stop }},
		{"launch", func(m receipt.Millis) float64 { return m.Launch }},
		{"listen", func(m receipt.Millis) float64 { return m.Listen }},
		{"probe", func(m receipt.Millis) float64 { return m.Probe }},
		{"total", func(m receipt.Millis) float64 { return m.Total }},
	} {
		var s sample.Sample
		for _, r := range receipts {
			s = append(s, stage.of(r.Millis))
		}
		values = append(values, report.Value{Name: stage.name, Value: s.Median(), Unit: "ms"})
	}
	return values
}

// ratioTarget bounds a row's median by that of another.
func ratioTarget(f *report.Figure, row, against string, limit float64, goal *float64) report.Target {
	t := report.Target{What: row, Against: against, Bound: report.AtMost, Limit: limit, Goal: goal, Unit: report.Times}
	a, b := f.Row(row), f.Row(against)
	if a != nil && b != nil {
		if x, ok := a.Samples.Ratio(b.Samples); ok {
			t.Measured = &x
		}
	}
	return t
}

// fastestTarget wants a row to be faster than every peer.
func fastestTarget(f *report.Figure, row string) report.Target {
	var fastest *report.Row
	for i, r := range f.Rows {
		if r.Kind == plot.Peer && len(r.Samples) > 0 && (fastest == nil || r.Samples.Median() < fastest.Samples.Median()) {
			fastest = &f.Rows[i]
		}
	}
	if fastest == nil {
		return report.Target{What: row, Against: "the fastest peer", Bound: report.Below, Limit: 1, Unit: report.Times}
	}
	t := ratioTarget(f, row, fastest.Name, 1, nil)
	t.Against, t.Bound = "the fastest peer ("+fastest.Name+")", report.Below
	return t
}
