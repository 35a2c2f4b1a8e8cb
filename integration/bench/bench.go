// Package bench measures gatewarden beside its peers, on a private containerd (package harness) and with the same test gateway for all.
//
// What is compared is measured in turn, round after round, so that whatever else the machine does hits all of it.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench/report"
	"github.com/gatewarden/gatewarden/integration/harness"
)

// Options tell how much is measured.
type Options struct {
	Runs  int            // of each measurement; at least 5 for figures that are to be published
	Only  *regexp.Regexp // the figures whose names match; nil: all
	Short bool           // few and small things, to see whether it works
	Alone bool           // without the peers that have to be installed
	Log   io.Writer      // what is being done, for people
}

// sizes tell how many of what.
type sizes struct {
	fast           int // restarts of what restarts fast, for each run
	loadRestarts   int // under load
	peerRestarts   int // under load, of peers that take a second for each
	rate           float64
	containers     []int // for the curves
	processes      []int
	resting        int           // containers whose memory and wake-ups are measured
	restingTime    time.Duration // for which wake-ups are counted
	settleTime     time.Duration // after which wake-ups are counted, beyond tidyTime
	sideBySide     int           // restarts
	makeSideBySide int           // containers
}

func (o Options) sizes() sizes {
	if o.Short {
		return sizes{fast: 1, loadRestarts: 3, peerRestarts: 1, rate: 300, containers: []int{1, 3}, processes: []int{1, 20}, resting: 2,
			restingTime: time.Second, sideBySide: 8, makeSideBySide: 2}
	}
	return sizes{fast: 4, loadRestarts: 200, peerRestarts: 30, rate: 2200, containers: []int{1, 10, 50, 100, 200}, processes: []int{1, 10, 100, 500, 1000},
		resting: 20, restingTime: 10 * time.Second, settleTime: 27 * time.Second, sideBySide: 8, makeSideBySide: 4}
}

// group is a set of figures that are measured together.
type group struct {
	figures []string
	measure func(*bench, context.Context) ([]report.Figure, error)
}

var groups = []group{
	{[]string{restartFigure}, (*bench).measureRestart},
	{[]string{loadFigure}, (*bench).measureLoad},
	{[]string{startFigure}, (*bench).measureStart},
	{[]string{memoryFigure, idleFigure}, (*bench).measureResting},
	{[]string{processesFigure}, (*bench).measureProcesses},
	{[]string{containersFigure, fleetFigure}, (*bench).measureContainers},
}

// Figures are the names of all figures.
func Figures() []string {
	var names []string
	for _, g := range groups {
		names = append(names, g.figures...)
	}
	return names
}

// bench is a run of the benchmarks.
type bench struct {
	h       *harness.Host
	o       Options
	n       sizes
	commit  string
	dir     string // of the peers
	gateway string // the test gateway's copy for them
	last    atomic.Int64
}

// Run measures. With an error it gives what was measured until then. Everything that it starts on h has ended when it returns.
func Run(ctx context.Context, h *harness.Host, o Options) (r report.Results, err error) {
	b := &bench{h: h, o: o, n: o.sizes(), dir: filepath.Join(h.Dir, "peers")}
	if o.Log == nil {
		b.o.Log = io.Discard
	}
	r.Version = report.Version
	if r.Machine, err = b.machine(ctx); err != nil {
		return r, err
	}
	b.commit = r.Machine.Commit
	if err := b.prepare(); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	for _, g := range groups {
		if o.Only != nil && !slices.ContainsFunc(g.figures, o.Only.MatchString) {
			continue
		}
		b.say("%s", strings.Join(g.figures, ", "))
		begin, load := time.Now(), loadAverage()
		figures, err := g.measure(b, ctx)
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", strings.Join(g.figures, ", "), err)
		}
		for _, f := range figures {
			f.Runs, f.Begin, f.Seconds, f.Load, f.Commit = o.Runs, begin, time.Since(begin).Seconds(), load, b.commit
			r.Figures = append(r.Figures, f)
		}
		b.say("%s: %.0f s", strings.Join(g.figures, ", "), time.Since(begin).Seconds())
		// The next figure is not to see what this one left.
		if err := h.CheckClean(goneTime); err != nil {
			return r, err
		}
	}
	return r, nil
}

const (
	// commandTime is how long a command may take, and an event that has to come.
	commandTime = 30 * time.Second
	// goneTime is how long it may take until nothing is left of containers that were removed.
	goneTime = 20 * time.Second
	// restTime is the time between the measurements of one subject, in which what it does afterwards ends.
	restTime = 200 * time.Millisecond
)

func (b *bench) prepare() error {
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		return err
	}
	program, err := b.h.TestProgram("testgateway")
	if err != nil {
		return err
	}
	b.gateway = filepath.Join(b.dir, "testgateway")
	return os.WriteFile(b.gateway, program, 0o755)
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.o.Log, "bench: "+format+"\n", args...) }

// id gives a name that nothing else has.
func (b *bench) id(prefix string) string { return prefix + strconv.FormatInt(b.last.Add(1), 10) }

// rest waits.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// eventually waits until ok is true or gives an error.
func eventually(ctx context.Context, what string, ok func() (bool, error)) error {
	for deadline := time.Now().Add(commandTime); ; {
		done, err := ok()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %s", commandTime, what)
		}
		if err := rest(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// millis is a duration as the figures have it.
func millis(d time.Duration) float64 { return float64(d) / 1e6 }

// inOrder gives the rows of a figure in the order of names.
func inOrder(names []string, rows ...report.Row) []report.Row {
	slices.SortStableFunc(rows, func(a, b report.Row) int { return slices.Index(names, a.Name) - slices.Index(names, b.Name) })
	return rows
}

// number gives a pointer to v.
func number(v float64) *float64 { return &v }
