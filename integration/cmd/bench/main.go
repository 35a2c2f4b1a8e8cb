// Command bench measures gatewarden beside its peers and writes what it found: numbers as JSON, a page in Markdown, plots as SVG. It
// ends everything that it started, also on Ctrl-C and on failure. Run it by `make bench`, which builds what it needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench"
	"github.com/gatewarden/gatewarden/integration/bench/report"
	"github.com/gatewarden/gatewarden/integration/harness"
)

func main() {
	// A second signal, while things are being ended, ends us at once.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-ctx.Done()
		stop()
	}()
	err := run(ctx)
	stop()
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything that it started has ended")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	o := bench.Options{Log: os.Stderr}
	flag.IntVar(&o.Runs, "runs", 7, "runs of each measurement")
	flag.BoolVar(&o.Alone, "alone", false, "without the peers that have to be installed")
	flag.BoolVar(&o.Short, "short", false, "few and small things, to see whether it works")
	flag.Func("only", "measure the figures whose names match this regular expression: "+strings.Join(bench.Figures(), ", "), func(s string) (err error) {
		o.Only, err = regexp.Compile(s)
		return err
	})
	out := flag.String("out", "docs", "directory for the results")
	partial := flag.String("partial", ".cache/bench-partial", "directory for what was measured before a failure")
	merge := flag.Bool("merge", false, "keep the figures that are there already and are not measured now")
	render := flag.Bool("render", false, "measure nothing; write page and plots anew from the numbers that are there")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if o.Runs < 1 {
		return errors.New("-runs must be at least 1")
	}
	var results report.Results
	if *merge || *render {
		var err error
		if results, err = report.Read(*out); err != nil && (*render || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	if !*render {
		measured, err := measure(ctx, o)
		if err != nil {
			// What took minutes to measure is kept, where it is no whole report.
			if len(measured.Figures) > 0 {
				_, werr := measured.Write(*partial)
				err = errors.Join(fmt.Errorf("%w (what was measured until then is in %s)", err, *partial), werr)
			}
			return err
		}
		results.Merge(measured)
	}
	written, err := results.Write(*out)
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(written, "\n"))
	return nil
}

// measure runs the benchmarks on a containerd of their own.
func measure(ctx context.Context, o bench.Options) (r report.Results, err error) {
	begin := time.Now()
	h, err := harness.Start(ctx, "")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := h.RunInMemory(); err != nil {
		return r, err
	}
	if err := h.Import(ctx, harness.Image{}); err != nil {
		return r, err
	}
	r, err = bench.Run(ctx, h, o)
	if err == nil {
		fmt.Fprintf(os.Stderr, "bench: all of it took %v\n", time.Since(begin).Round(time.Second))
	}
	return r, err
}
