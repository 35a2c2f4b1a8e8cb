package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench/plot"
	"github.com/gatewarden/gatewarden/integration/bench/report"
	"github.com/gatewarden/gatewarden/integration/bench/sample"
	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

const startFigure = "start"

const startHow = `From the start of ` + "`ctr run -d`" + ` until the container's workload, a shell, writes to a FIFO that is mounted from the host. With the annotation the
workload is started after the gateway has been proven ready. The stages are those of the receipt of the gateway's start, which begins when the warden does.
Each container is removed before the next one is made.`

// started is a kind of container.
type started struct {
	name     string
	kind     plot.Kind
	spec     spec
	millis   sample.Sample // until the workload ran
	returned sample.Sample // until ctr returned
	receipts []receipt.Receipt
}

const (
	stockName     = "io.containerd.runc.v2"
	plainName     = "gatewarden, not annotated"
	annotatedName = "gatewarden, "
)

func (b *bench) measureStart(ctx context.Context) (_ []report.Figure, err error) {
	all := []*started{
		{name: stockName, kind: plot.Peer, spec: spec{runtime: harness.Stock}},
		{name: plainName, kind: plot.Ours, spec: spec{runtime: harness.Gatewarden}},
	}
	var missing []report.Row
	for _, mode := range modes {
		if why := unsupported(mode); why != nil {
			missing = append(missing, report.Row{Name: annotatedName + mode, Kind: plot.Ours, Missing: why.Error()})
			continue
		}
		p := profileOf(mode)
		all = append(all, &started{name: annotatedName + mode, kind: plot.Ours, spec: spec{runtime: harness.Gatewarden, profile: &p}})
	}
	fifo, err := b.newFIFO()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, fifo.close()) }()
	for run := range b.o.Runs * b.n.fast {
		for i := range all {
			// Each run begins with another one.
			s := all[(i+run)%len(all)]
			if err := b.measureOneStart(ctx, s, fifo); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}

	f := report.Figure{Name: startFigure, Title: "ctr run to the workload running", Unit: "ms", How: startHow, Plot: report.Dots,
		Axis: "milliseconds from the start of ctr run to the workload's first command", Base: stockName}
	for _, s := range all {
		values := append([]report.Value{{Name: "ctr returns", Value: s.returned.Median(), Unit: "ms"}}, stages(s.receipts)...)
		f.Rows = append(f.Rows, report.Row{Name: s.name, Kind: s.kind, Samples: s.millis, Values: values})
	}
	names := []string{stockName, plainName}
	for _, mode := range modes {
		names = append(names, annotatedName+mode)
	}
	f.Rows = inOrder(names, append(f.Rows, missing...)...)
	for _, mode := range modes {
		f.Targets = append(f.Targets, ratioTarget(&f, annotatedName+mode, stockName, 1.35, nil))
	}
	f.Targets = append(f.Targets, ratioTarget(&f, plainName, stockName, 1.03, nil))
	return []report.Figure{f}, nil
}

// measureOneStart makes one container, and removes it.
func (b *bench) measureOneStart(ctx context.Context, s *started, fifo *signalled) (err error) {
	ran, returned, c, err := b.startTimed(ctx, s.spec, fifo)
	if c != nil {
		defer func() { err = errors.Join(err, c.remove()) }()
	}
	if err != nil {
		return err
	}
	s.millis = append(s.millis, millis(ran))
	s.returned = append(s.returned, millis(returned))
	if s.spec.profile != nil {
		status, err := c.status(ctx)
		if err != nil {
			return err
		}
		if status.Last != nil && status.Last.Action == receipt.Start {
			s.receipts = append(s.receipts, *status.Last)
		}
	}
	return rest(ctx, restTime)
}

// startTimed makes a container and tells when its workload ran, and when ctr returned. A container that it gives has to be removed.
func (b *bench) startTimed(ctx context.Context, sp spec, fifo *signalled) (ran, returned time.Duration, c *container, err error) {
	c = &container{b: b, id: b.id("b")}
	sp.flags = append(append([]string{}, sp.flags...), fifo.flags()...)
	flags, err := b.runFlags(c.id, sp)
	if err != nil {
		return 0, 0, c, err
	}
	type end struct {
		result harness.Result
		err    error
	}
	ended := make(chan end, 1)
	if err := fifo.fifo.SetReadDeadline(time.Now().Add(commandTime)); err != nil {
		return 0, 0, c, err
	}
	begin := time.Now()
	go func() {
		within, cancel := context.WithTimeout(ctx, commandTime)
		defer cancel()
		r, err := b.h.CtrRun(within, sp.runtime, flags, harness.BaseImage, c.id, fifo.workload("", "exec sleep 36000")...)
		if err == nil && r.Status != 0 {
			err = fmt.Errorf("the container does not start:\n%v", r)
		}
		if err != nil {
			fifo.stop()
		}
		ended <- end{r, err}
	}()
	at, err := fifo.await()
	e := <-ended
	if err := errors.Join(e.err, err); err != nil {
		return 0, 0, c, err
	}
	return at.Sub(begin), e.result.Time, c, nil
}
