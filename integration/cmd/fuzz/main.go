// Command fuzz runs every fuzz target of the module for a time, and keeps what they found.
//
//	fuzz [-time 60s] [-jobs 2] [-only REGEXP]    run the targets
//	fuzz -fold [-only REGEXP]                    take new inputs from Go's fuzz cache into testdata/fuzz
//
// It drives the compiled test binaries and ends each by an interrupt, as ^C would. `go test -fuzztime 60s` can't be used: in
// Go up to 1.26 the end of that time races with the workers, and now and then it fails with "context deadline exceeded"
// though no input failed (go.dev/issue/75804). An interrupt has no such race, so here every failure is one: the status is 1,
// and the input is below the package's testdata/fuzz.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

// driver is what the flags say, and where things are.
type driver struct {
	tags  string
	time  time.Duration
	jobs  int
	cache string // Go's fuzz cache
	work  string // for the compiled tests
	out   sync.Mutex
}

// target is one fuzz function.
type target struct {
	dir, pkg, name string
}

func (t target) String() string {
	return strings.TrimPrefix(t.pkg, "github.com/gatewarden/gatewarden/") + " " + t.name
}

// seeds is where go test looks for the target's checked in inputs, and writes those that fail.
func (t target) seeds() string { return filepath.Join(t.dir, "testdata", "fuzz", t.name) }

func run(ctx context.Context) error {
	var d driver
	flag.StringVar(&d.tags, "tags", "", "build tags")
	flag.DurationVar(&d.time, "time", time.Minute, "for each target")
	flag.IntVar(&d.jobs, "jobs", 2, "targets at a time")
	only := flag.String("only", ".", "targets whose \"PACKAGE NAME\" matches")
	fold := flag.Bool("fold", false, "take new inputs from the cache into testdata/fuzz")
	flag.Parse()
	chosen, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	cache, err := exec.CommandContext(ctx, "go", "env", "GOCACHE").Output()
	if err != nil {
		return err
	}
	d.cache = filepath.Join(strings.TrimSpace(string(cache)), "fuzz")
	if d.work, err = os.MkdirTemp("", "fuzz"); err != nil {
		return err
	}
	defer os.RemoveAll(d.work)
	targets, err := d.targets(ctx)
	if err != nil {
		return err
	}
	targets = slices.DeleteFunc(targets, func(t target) bool { return !chosen.MatchString(t.String()) })
	if len(targets) == 0 {
		return errors.New("there is no such target")
	}
	if *fold {
		return d.fold(ctx, targets)
	}
	return d.fuzz(ctx, targets)
}

var declared = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)

// targets finds the fuzz functions of the module.
func (d *driver) targets(ctx context.Context) ([]target, error) {
	list, err := exec.CommandContext(ctx, "go", "list", "-tags", d.tags, "-f",
		`{{$p := .}}{{range .TestGoFiles}}{{$p.Dir}} {{$p.ImportPath}} {{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$p.Dir}} {{$p.ImportPath}} {{.}}{{"\n"}}{{end}}`, "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var all []target
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		source, err := os.ReadFile(filepath.Join(f[0], f[2]))
		if err != nil {
			return nil, err
		}
		for _, m := range declared.FindAllSubmatch(source, -1) {
			all = append(all, target{dir: f[0], pkg: f[1], name: string(m[1])})
		}
	}
	return all, nil
}

// build compiles the tests of the targets' packages, once each. It gives the binary of each package.
func (d *driver) build(ctx context.Context, targets []target, flags ...string) (map[string]string, error) {
	built := map[string]string{}
	for _, t := range targets {
		if built[t.pkg] != "" {
			continue
		}
		binary := filepath.Join(d.work, strings.ReplaceAll(t.pkg, "/", "_"))
		args := append([]string{"test", "-c", "-tags", d.tags, "-o", binary}, flags...)
		if out, err := exec.CommandContext(ctx, "go", append(args, t.pkg)...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("cannot build the tests of %s: %w\n%s", t.pkg, err, out)
		}
		built[t.pkg] = binary
	}
	return built, nil
}

// fuzz runs the targets, some at a time.
func (d *driver) fuzz(ctx context.Context, targets []target) error {
	built, err := d.build(ctx, targets, "-fuzz", ".")
	if err != nil {
		return err
	}
	fmt.Printf("%d targets, %v each, %d at a time\n", len(targets), d.time, d.jobs)
	queue := make(chan target)
	var failed []string
	var workers sync.WaitGroup
	for range d.jobs {
		workers.Go(func() {
			for t := range queue {
				if err := d.one(ctx, t, built[t.pkg]); err != nil {
					d.out.Lock()
					fmt.Printf("FAIL  %s: %v\n", t, err)
					failed = append(failed, t.String())
					d.out.Unlock()
				}
			}
		})
	}
	for _, t := range targets {
		queue <- t
	}
	close(queue)
	workers.Wait()
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d targets failed: %s", len(failed), len(targets), strings.Join(failed, ", "))
	}
	return ctx.Err()
}

// patience is what a target may need beyond its time, to start and to end.
const patience = 30 * time.Second

// progress is the last line of what the fuzzing engine tells.
var progress = regexp.MustCompile(`execs: (\d+) .*new interesting: (\d+) \(total: (\d+)\)`)

// one runs one target, with one worker, and tells what came of it.
func (d *driver) one(ctx context.Context, t target, binary string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	before := inputs(t.seeds())
	cmd := exec.Command(binary, "-test.run=^$", "-test.fuzz=^"+t.name+"$", "-test.parallel=1", "-test.timeout=0",
		"-test.fuzzcachedir="+filepath.Join(d.cache, t.pkg))
	cmd.Dir = t.dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C is for us: we pass it on
	cmd.WaitDelay = patience
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	early := true
	select {
	case err = <-ended:
	case <-ctx.Done():
	case <-time.After(d.time):
		early = false
	}
	if !early || ctx.Err() != nil {
		if err := cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		select {
		case err = <-ended:
		case <-time.After(patience):
			cmd.Process.Kill()
			<-ended
			return fmt.Errorf("it did not end within %v of an interrupt:\n%s", patience, out.Bytes())
		}
	}
	last := progress.FindAllStringSubmatch(out.String(), -1)
	fresh := slices.DeleteFunc(inputs(t.seeds()), func(name string) bool { return slices.Contains(before, name) })
	switch {
	case err != nil || len(fresh) > 0:
		return fmt.Errorf("%v, failing inputs %q below %s:\n%s", err, fresh, t.seeds(), out.Bytes())
	case ctx.Err() != nil:
		return ctx.Err()
	case early || len(last) == 0:
		return fmt.Errorf("it ended after %v without having fuzzed:\n%s", time.Since(begin), out.Bytes())
	}
	n := last[len(last)-1]
	if execs, err := strconv.Atoi(n[1]); err != nil || execs == 0 {
		return fmt.Errorf("no input was run:\n%s", out.Bytes())
	}
	d.out.Lock()
	defer d.out.Unlock()
	fmt.Printf("ok    %-45s %5.1f s  %9s inputs, %s new (%s kept in the cache)\n", t, time.Since(begin).Seconds(), n[1], n[2], n[3])
	return nil
}

// inputs lists the files of a corpus.
func inputs(dir string) []string {
	entries, _ := os.ReadDir(dir) // that it does not exist means none
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Bounds of what is checked in.
const (
	maxInput      = 2 << 10 // bytes of one input taken from the cache
	maxInputs     = 12      // taken for one target at a time
	maxCorpus     = 32 << 10
	maxCandidates = 300 // the smallest are looked at
)

// fold takes from the cache the smallest inputs that reach code of the target's package which no checked in input of it
// reaches.
func (d *driver) fold(ctx context.Context, targets []target) error {
	built, err := d.build(ctx, targets, "-cover", "-covermode=set")
	if err != nil {
		return err
	}
	for _, t := range targets {
		taken, looked, err := d.take(ctx, t, built[t.pkg])
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		fmt.Printf("%-45s %3d inputs in the cache looked at, %d taken\n", t, looked, taken)
	}
	return nil
}

func (d *driver) take(ctx context.Context, t target, binary string) (taken, looked int, err error) {
	cached := filepath.Join(d.cache, t.pkg, t.name)
	type input struct {
		name string
		data []byte
	}
	var found []input
	for _, name := range inputs(cached) {
		data, err := os.ReadFile(filepath.Join(cached, name))
		if err != nil {
			return 0, 0, err
		}
		if len(data) <= maxInput {
			found = append(found, input{name, data})
		}
	}
	slices.SortFunc(found, func(a, b input) int {
		if n := len(a.data) - len(b.data); n != 0 {
			return n
		}
		return strings.Compare(a.name, b.name)
	})
	found = found[:min(len(found), maxCandidates)]
	total := 0
	for _, name := range inputs(t.seeds()) {
		if info, err := os.Stat(filepath.Join(t.seeds(), name)); err == nil {
			total += int(info.Size())
		}
	}
	known, err := d.reached(ctx, t, binary, "")
	if err != nil {
		return 0, 0, err
	}
	if err := os.MkdirAll(t.seeds(), 0o755); err != nil {
		return 0, 0, err
	}
	defer os.Remove(t.seeds()) // only if it is empty
	for _, in := range found {
		if taken == maxInputs || total+len(in.data) > maxCorpus {
			break
		}
		path := filepath.Join(t.seeds(), in.name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := os.WriteFile(path, in.data, 0o644); err != nil {
			return taken, looked, err
		}
		looked++
		reached, err := d.reached(ctx, t, binary, in.name)
		if err != nil {
			return taken, looked, errors.Join(err, os.Remove(path))
		}
		grown := false
		for block := range reached {
			grown = grown || !known[block]
			known[block] = true
		}
		if !grown {
			if err := os.Remove(path); err != nil {
				return taken, looked, err
			}
			continue
		}
		taken++
		total += len(in.data)
	}
	return taken, looked, nil
}

// reached gives the blocks of code that an input reaches; "": all inputs that are checked in.
func (d *driver) reached(ctx context.Context, t target, binary, input string) (map[string]bool, error) {
	profile := filepath.Join(d.work, "profile")
	which := "^" + t.name + "$"
	if input != "" {
		which += "/^" + regexp.QuoteMeta(input) + "$"
	}
	cmd := exec.CommandContext(ctx, binary, "-test.run="+which, "-test.coverprofile="+profile)
	cmd.Dir = t.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	data, err := os.ReadFile(profile)
	if err != nil {
		return nil, err
	}
	reached := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		// FILE:BLOCK STATEMENTS COUNT; the tests' own code counts neither way.
		if block, ok := strings.CutSuffix(line, " 1\n"); ok {
			reached[block] = true
		}
	}
	return reached, nil
}
