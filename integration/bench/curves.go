package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench/plot"
	"github.com/gatewarden/gatewarden/integration/bench/report"
	"github.com/gatewarden/gatewarden/integration/bench/sample"
	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

const (
	processesFigure  = "processes"
	containersFigure = "containers"
	fleetFigure      = "fleet"
)

// flatLimit is what counts as flat: at the right end of a curve at most so many times as much as at its left end.
const flatLimit = 1.25

const flatHow = " Flat means here: at the right end at most 1.25 times what it is at the left end."

const processesHow = `Containers whose workloads have that many processes, the first one included. Restarts of them in turn, through the control socket, until the
successor's first answer as above, each beside one of the floor. Then starts of another container, until its workload runs, beside the stock
shim's, while one with that many processes is there.` + flatHow

const containersHow = `That many containers with a gateway on one host. Restarts of one of them through the control socket until the successor's first answer,
each beside one of the floor; starts of one more, until its workload runs, beside the stock shim's; ` + "`gatewarden ps`" + ` from its start to its exit.` + flatHow

const fleetHow = `%d containers with a gateway. ` + "`gatewarden ps`" + ` from its start to its exit: it reads what the wardens wrote
down; ` + "`gatewarden ps --probe`" + ` asks each of them to look at its gateway. Then ` + "`gatewarden restart`" + ` of each, %d at a time; the time of each
command. At last all are removed, and it is looked for what they left: processes, mounts, files, cgroups.`

// curve is a curve that is being measured.
type curve struct {
	name    string
	kind    plot.Kind
	points  []report.Point
	missing string
}

func (c *curve) add(x int, s sample.Sample) {
	c.points = append(c.points, report.Point{X: float64(x), Samples: s})
}

func curvesOf(all []*curve) []report.Curve {
	var curves []report.Curve
	for _, c := range all {
		curves = append(curves, report.Curve{Name: c.name, Kind: c.kind, Points: c.points, Missing: c.missing})
	}
	return curves
}

// flat wants a curve to be flat.
func (c *curve) flat() report.Target {
	t := report.Target{What: c.name, Against: "itself at the left end", Bound: report.AtMost, Limit: flatLimit, Unit: report.Times}
	if n := len(c.points); n > 1 {
		if x, ok := c.points[n-1].Samples.Ratio(c.points[0].Samples); ok {
			t.Measured = &x
		}
	}
	return t
}

// sampled measures n times each of subjects, in turn, and gives their times.
func sampled(ctx context.Context, n int, subjects ...*subject) error {
	for _, s := range subjects {
		s.samples = nil
	}
	for range n {
		for _, s := range subjects {
			if err := s.measure(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// parkedSubject makes a subject of a container, asked by its control socket.
func (c *container) subject(name string) *subject {
	return &subject{name: name, kind: plot.Ours, server: c.server(), restart: c.restart, stop: c.remove, ready: func(ctx context.Context) error {
		_, err := c.parked(ctx)
		return err
	}}
}

// measureProcesses measures restarts beside many processes of the workload.
func (b *bench) measureProcesses(ctx context.Context) (_ []report.Figure, err error) {
	first, err := supported()
	if err != nil {
		return nil, err
	}
	floor, err := b.floor(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, floor.stop()) }()
	fifo, err := b.newFIFO()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, fifo.close()) }()
	floorCurve := &curve{name: floorName, kind: plot.Floor}
	var ours []*curve
	for _, mode := range modes {
		c := &curve{name: "restart, " + mode, kind: plot.Ours}
		if why := unsupported(mode); why != nil {
			c.missing = why.Error()
		}
		ours = append(ours, c)
	}
	started, stock := &curve{name: "start of another one, " + first, kind: plot.Ours}, &curve{name: "start, " + stockName, kind: plot.Peer}
	beside := make([]sample.Sample, len(b.n.processes)) // the floor's
	for i, mode := range modes {
		if ours[i].missing == "" {
			if err := b.restartsInCrowds(ctx, mode, fifo, floor, ours[i], beside); err != nil {
				return nil, err
			}
		}
	}
	for k, n := range b.n.processes {
		floorCurve.add(n, beside[k])
		s, err := b.crowded(ctx, first, n, fifo)
		if err != nil {
			return nil, fmt.Errorf("%d processes: %w", n, err)
		}
		if err := errors.Join(b.starts(ctx, n, first, fifo, started, stock), s.stop()); err != nil {
			return nil, fmt.Errorf("%d processes: %w", n, err)
		}
	}
	f := report.Figure{Name: processesFigure, Title: "A restart beside many processes", Unit: "ms", How: processesHow, Plot: report.Lines,
		Axis: "milliseconds to the first answer", X: "processes of the workload", Curves: curvesOf(append(ours, floorCurve, started, stock))}
	for _, c := range append(ours, started) {
		f.Targets = append(f.Targets, c.flat())
	}
	return []report.Figure{f}, nil
}

// restartsInCrowds measures restarts of one container for each number of processes, in turn, so that all of them see the same
// machine, and adds them to the curve. What the floor took at the same times is added to beside.
func (b *bench) restartsInCrowds(ctx context.Context, mode string, fifo *signalled, floor *subject, ours *curve, beside []sample.Sample) (err error) {
	var crowds []*subject
	defer func() {
		for _, s := range crowds {
			err = errors.Join(err, s.stop())
		}
	}()
	for _, n := range b.n.processes {
		s, err := b.crowded(ctx, mode, n, fifo)
		if err != nil {
			return fmt.Errorf("%d processes: %w", n, err)
		}
		crowds = append(crowds, s)
	}
	for range b.o.Runs * b.n.fast {
		for k, s := range crowds {
			floor.samples = nil
			if err := errors.Join(floor.measure(ctx), s.measure(ctx)); err != nil {
				return fmt.Errorf("%d processes: %w", b.n.processes[k], err)
			}
			beside[k] = append(beside[k], floor.samples...)
		}
	}
	for k, s := range crowds {
		ours.add(b.n.processes[k], s.samples)
	}
	return nil
}

// starts measures starts in a mode, and with the stock shim, in turn, and adds them to the curves at x.
func (b *bench) starts(ctx context.Context, x int, mode string, fifo *signalled, ours, stock *curve) error {
	p := profileOf(mode)
	one := &started{spec: spec{runtime: harness.Gatewarden, profile: &p}}
	other := &started{spec: spec{runtime: harness.Stock}}
	for range b.o.Runs {
		for _, s := range []*started{one, other} {
			if err := b.measureOneStart(ctx, s, fifo); err != nil {
				return err
			}
		}
	}
	ours.add(x, one.millis)
	stock.add(x, other.millis)
	return nil
}

// crowdTime is how long a shell may take to start the most processes, on a machine that does much else.
const crowdTime = 3 * time.Minute

// crowded starts a container whose workload has n processes.
func (b *bench) crowded(ctx context.Context, mode string, n int, fifo *signalled) (*subject, error) {
	p := profileOf(mode)
	before := "i=1; while [ $i -lt " + strconv.Itoa(n) + " ]; do sleep 36000 & i=$((i+1)); done;"
	c, err := b.run(ctx, spec{runtime: harness.Gatewarden, profile: &p, flags: fifo.flags(), command: fifo.workload(before, "exec sleep 36000")})
	if err != nil {
		return nil, err
	}
	if err := fifo.fifo.SetReadDeadline(time.Now().Add(crowdTime)); err != nil {
		return nil, errors.Join(err, c.remove())
	}
	if _, err := fifo.await(); err != nil {
		return nil, errors.Join(fmt.Errorf("the workload's processes: %w", err), c.remove())
	}
	return c.subject(mode), nil
}

// measureContainers measures with more and more containers, and at last all of them at once.
func (b *bench) measureContainers(ctx context.Context) (_ []report.Figure, err error) {
	mode, err := supported()
	if err != nil {
		return nil, err
	}
	floor, err := b.floor(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if floor != nil {
			err = errors.Join(err, floor.stop())
		}
	}()
	fifo, err := b.newFIFO()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, fifo.close()) }()
	p := profileOf(mode)
	annotated := spec{runtime: harness.Gatewarden, profile: &p}
	var all []*container
	defer func() { err = errors.Join(err, b.removeMany(all)) }()

	restart := &curve{name: "restart, " + mode, kind: plot.Ours}
	floorCurve := &curve{name: floorName, kind: plot.Floor}
	start := &curve{name: "start, " + mode, kind: plot.Ours}
	stock := &curve{name: "start, " + stockName, kind: plot.Peer}
	ps := &curve{name: "gatewarden ps", kind: plot.Ours}
	for _, n := range b.n.containers {
		more, err := b.runMany(ctx, n-len(all), annotated)
		all = append(all, more...)
		if err != nil {
			return nil, err
		}
		b.say("%d containers", len(all))
		s := all[0].subject(mode)
		if err := sampled(ctx, b.o.Runs*2, floor, s); err != nil {
			return nil, fmt.Errorf("%d containers: %w", n, err)
		}
		restart.add(n, s.samples)
		floorCurve.add(n, floor.samples)
		if err := b.starts(ctx, n, mode, fifo, start, stock); err != nil {
			return nil, fmt.Errorf("%d containers: %w", n, err)
		}
		var asked sample.Sample
		for range b.o.Runs {
			r, err := b.command(ctx, "ps", "--json")
			if err != nil {
				return nil, err
			}
			asked = append(asked, millis(r.Time))
		}
		ps.add(n, asked)
	}
	curves := report.Figure{Name: containersFigure, Title: "With many containers on the host", Unit: "ms", How: containersHow, Plot: report.Lines,
		Axis: "milliseconds", X: "containers with a gateway", Curves: curvesOf([]*curve{restart, floorCurve, start, stock, ps}),
		Targets: []report.Target{restart.flat(), start.flat()}}

	fleet, err := b.fleet(ctx, all)
	if err != nil {
		return nil, err
	}
	// All that is looked for is ours.
	err = errors.Join(floor.stop(), b.removeMany(all))
	floor, all = nil, nil
	if err != nil {
		return nil, err
	}
	left := 0.0
	if err := b.h.CheckClean(goneTime); err != nil {
		b.say("%v", err)
		left = 1
	}
	last := &fleet.Targets[len(fleet.Targets)-1]
	last.Measured = &left
	return []report.Figure{curves, fleet}, nil
}

// fleet asks all containers, and restarts all. The last of its targets is left to be measured: what they leave.
func (b *bench) fleet(ctx context.Context, all []*container) (report.Figure, error) {
	n := len(all)
	f := report.Figure{Name: fleetFigure, Title: "A fleet", Unit: "ms", How: fmt.Sprintf(fleetHow, n, b.n.sideBySide), Plot: report.Dots,
		Axis: "milliseconds from the start of the command to its exit"}
	listed := report.Row{Name: "gatewarden ps", Kind: plot.Ours}
	for range b.o.Runs * b.n.fast {
		r, err := b.command(ctx, "ps")
		if err != nil {
			return f, err
		}
		listed.Samples = append(listed.Samples, millis(r.Time))
	}
	probed := report.Row{Name: "gatewarden ps --probe", Kind: plot.Ours}
	for range b.o.Runs {
		r, err := b.command(ctx, "ps", "--probe")
		if err != nil {
			return f, err
		}
		probed.Samples = append(probed.Samples, millis(r.Time))
	}
	before := make([]int, n)
	for i, c := range all {
		s, err := c.parked(ctx)
		if err != nil {
			return f, err
		}
		before[i] = s.PID
	}
	type outcome struct {
		result harness.Result
		err    error
	}
	outcomes := make([]outcome, n)
	begin := time.Now()
	sideBySide(b.n.sideBySide, n, func(i int) {
		outcomes[i].result, outcomes[i].err = b.command(ctx, "restart", "--quiet", all[i].name())
	})
	took := time.Since(begin)
	restarted, failed := report.Row{Name: fmt.Sprintf("gatewarden restart, %d at a time", b.n.sideBySide), Kind: plot.Ours}, 0
	for i, o := range outcomes {
		restarted.Samples = append(restarted.Samples, millis(o.result.Time))
		s, err := all[i].status(ctx)
		switch {
		case ctx.Err() != nil:
			return f, ctx.Err()
		case o.err == nil && err == nil && s.State == receipt.Running && s.PID != before[i]:
		default:
			failed++
			b.say("restart of %s: %v, %v, %+v", all[i].id, o.err, err, s)
		}
	}
	restarted.Values = []report.Value{{Name: "all of them", Value: took.Seconds(), Unit: "s"}, {Name: "failed", Value: float64(failed)}}
	f.Rows = []report.Row{listed, probed, restarted}
	f.Targets = []report.Target{
		{What: fmt.Sprintf("gatewarden ps of %d containers", n), Bound: report.AtMost, Limit: 100, Unit: "ms", Measured: number(listed.Samples.Median())},
		{What: fmt.Sprintf("restarts of %d containers that failed", n), Bound: report.AtMost, Limit: 0, Measured: number(float64(failed))},
		{What: "anything left behind by them", Bound: report.AtMost, Limit: 0},
	}
	return f, nil
}
