//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/gatewaylog"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

var fullSoak = flag.Bool("soak", false, "run the soak tests with their full counts, which takes minutes")

// counts of a soak.
type counts struct{ restarts, warmRestarts, containers, crashes, warmCrashes int }

// soaked gives the counts: crashes are those of all containers together, warmCrashes those of each.
func soaked() counts {
	if *fullSoak {
		return counts{restarts: 2000, warmRestarts: 50, containers: 20, crashes: 2000, warmCrashes: 5}
	}
	return counts{restarts: 60, warmRestarts: 10, containers: 4, crashes: 60, warmCrashes: 3}
}

// What may be more at the end of a soak than after its warm-up, of one process. Descriptors and goroutines have no reason
// to. Go's runtime starts a thread when all that it has are in system calls, and never ends one.
const (
	moreThreads    = 4
	morePrivate    = 2 << 20 // bytes of memory that only this process has, written to
	restTime       = 2500 * time.Millisecond
	maxJournalFile = 4 << 20
	maxLogFile     = 8 << 20
	maxWardenLog   = 1<<20 + 64<<10 // it begins anew with the first line over 1 MiB
)

// footprint is what a process holds, as the kernel counts it.
type footprint struct {
	fds, threads int
	private      int // bytes
}

func (f footprint) String() string {
	return fmt.Sprintf("%d fds, %d threads, %.2f MiB private", f.fds, f.threads, float64(f.private)/(1<<20))
}

func footprintOf(t *testing.T, pid int) footprint {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d", pid)
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir(dir + "/task")
	if err != nil {
		t.Fatal(err)
	}
	rollup, err := os.ReadFile(dir + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^Private_Dirty:\s+(\d+) kB$`).FindSubmatch(rollup)
	if m == nil {
		t.Fatalf("no Private_Dirty in\n%s", rollup)
	}
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return footprint{fds: len(fds), threads: len(threads), private: kb << 10}
}

// checkFlat compares a process with what it was after the warm-up. A client that is just leaving still has a descriptor: what
// is too much is looked at again for a while. A leak stays.
func checkFlat(t *testing.T, who string, pid int, before footprint) footprint {
	t.Helper()
	for deadline := time.Now().Add(eventTime); ; time.Sleep(200 * time.Millisecond) {
		after := footprintOf(t, pid)
		if after.fds <= before.fds && after.threads <= before.threads+moreThreads && after.private <= before.private+morePrivate {
			return after
		}
		if time.Now().After(deadline) {
			t.Errorf("%s grew: %v, and was %v", who, after, before)
			return after
		}
	}
}

// supervisors are the processes of gatewarden's for one container, with what they held after the warm-up.
type supervisors struct {
	c                      *container
	wardenPID, shimPID     int
	warden, shim           footprint
	files                  []string // in the run directory
	shimGoroutines         int
	wardenAfter, shimAfter footprint
}

// atRest measures the wardens and shims of containers once nothing has happened to them for a while.
func atRest(all []*container) []*supervisors {
	var found []*supervisors
	for _, c := range all {
		s := c.waitFor("the gateway runs and the standby is parked", func(s receipt.Status) bool { return s.State == receipt.Running && s.Standby.PID != 0 })
		found = append(found, &supervisors{c: c, wardenPID: s.Warden.PID, shimPID: c.shim()})
	}
	time.Sleep(restTime)
	for _, s := range found {
		s.warden, s.shim = footprintOf(s.c.t, s.wardenPID), footprintOf(s.c.t, s.shimPID)
		s.files, s.shimGoroutines = names(s.c.t, s.c.runDir()), s.c.shimGoroutines()
	}
	return found
}

// checkFlat checks that warden and shim are as they were, and that the container is tidy.
func (s *supervisors) checkFlat() {
	t := s.c.t
	t.Helper()
	now := s.c.waitFor("the gateway runs and the standby is parked", func(s receipt.Status) bool { return s.State == receipt.Running && s.Standby.PID != 0 })
	if now.Warden.PID != s.wardenPID {
		t.Errorf("the warden of %s is process %d, and was %d", s.c.id, now.Warden.PID, s.wardenPID)
	}
	s.wardenAfter = checkFlat(t, "the warden of "+s.c.id, now.Warden.PID, s.warden)
	s.shimAfter = checkFlat(t, "the shim of "+s.c.id, s.shimPID, s.shim)
	s.c.checkTidy(s.files)
}

// tellFootprints logs the most of all.
func tellFootprints(t *testing.T, all []*supervisors) {
	t.Helper()
	worst := func(of func(*supervisors) footprint) footprint {
		var w footprint
		for _, s := range all {
			f := of(s)
			w = footprint{max(w.fds, f.fds), max(w.threads, f.threads), max(w.private, f.private)}
		}
		return w
	}
	t.Logf("%d warden(s), at most: %v; after the warm-up %v", len(all),
		worst(func(s *supervisors) footprint { return s.wardenAfter }), worst(func(s *supervisors) footprint { return s.warden }))
	t.Logf("%d shim(s), at most:   %v; after the warm-up %v", len(all),
		worst(func(s *supervisors) footprint { return s.shimAfter }), worst(func(s *supervisors) footprint { return s.shim }))
}

// checkGoroutines compares with the shim's own count after the warm-up, and with the warden's of a container that has had
// the warm-up alone.
func checkGoroutines(t *testing.T, all []*supervisors, fresh *container) {
	t.Helper()
	want, most, mostShim, shimBefore := fresh.goroutines(), 0, 0, 0
	for _, s := range all {
		shim, warden := s.c.shimGoroutines(), s.c.goroutines()
		most, mostShim, shimBefore = max(most, warden), max(mostShim, shim), max(shimBefore, s.shimGoroutines)
		if shim > s.shimGoroutines || warden > want {
			t.Errorf("%s: the shim has %d goroutines and had %d; the warden has %d, another after the warm-up %d", s.c.id, shim, s.shimGoroutines, warden, want)
		}
	}
	t.Logf("goroutines, at most: shim %d, after the warm-up %d; warden %d, another after the warm-up %d", mostShim, shimBefore, most, want)
}

// children lists the children of a process, zombies too.
func children(t *testing.T, pid int) []int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads of %d: %v", pid, err)
	}
	var all []int
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that has ended
		}
		for _, word := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, child)
		}
	}
	return all
}

// checkTidy checks what a soaked container has at rest: the warden has two children, there is one gateway, and the run
// directory has what it had.
func (c *container) checkTidy(runFiles []string) {
	c.t.Helper()
	s := c.status()
	got, want := children(c.t, s.Warden.PID), []int{s.PID, s.Standby.PID}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		c.t.Errorf("the warden has the children %v, want %v alone", got, want)
	}
	if got := c.gateways(); !slices.Equal(got, []int{s.PID}) {
		c.t.Errorf("the gateways are %v, want %d alone", got, s.PID)
	}
	if got := names(c.t, c.runDir()); !slices.Equal(got, runFiles) {
		c.t.Errorf("the run directory has %q, and had %q", got, runFiles)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// checkBounds checks the files of a container that grow.
func (c *container) checkBounds() {
	c.t.Helper()
	for _, b := range []struct {
		pattern string
		files   int
		size    int64
	}{
		{filepath.Join(c.stateDir(), journal.Name+"*"), 2, maxJournalFile},
		{filepath.Join(c.logDir(), gatewaylog.Name+"*"), 4, maxLogFile},
		{filepath.Join(c.logDir(), "warden.log*"), 1, maxWardenLog},
	} {
		files, err := filepath.Glob(b.pattern)
		if err != nil || len(files) == 0 || len(files) > b.files {
			c.t.Errorf("%s: %d files, want 1 to %d", b.pattern, len(files), b.files)
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				c.t.Fatal(err)
			}
			c.t.Logf("%s: %.2f MiB", filepath.Base(f), float64(info.Size())/(1<<20))
			if info.Size() > b.size {
				c.t.Errorf("%s has %d bytes, over %d", f, info.Size(), b.size)
			}
		}
	}
}

// goroutine matches the head of one in a dump, with what it waits for.
var goroutine = regexp.MustCompile(`goroutine \d+ (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[([^\]]*)\]`)

// countGoroutines counts those in a dump, without those of Go's runtime itself, which come and go with collections.
func countGoroutines(dump string) int {
	n := 0
	for _, m := range goroutine.FindAllStringSubmatch(dump, -1) {
		own := slices.ContainsFunc([]string{"GC ", "force gc", "finalizer wait", "cleanup wait", "idle"}, func(w string) bool { return strings.HasPrefix(m[1], w) })
		if !own {
			n++
		}
	}
	return n
}

// goroutines ends the container's warden with SIGQUIT, upon which Go's runtime tells all of its goroutines, and counts them.
// That a successor adopts the gateway is checked on the way.
func (c *container) goroutines() int {
	c.t.Helper()
	before := c.status()
	signalProcess(c.t, before.Warden.PID, unix.SIGQUIT)
	after := c.supervised(before.Warden.PID)
	if after.PID != before.PID {
		c.t.Errorf("process %d was the gateway of the warden that was ended, and %d is now", before.PID, after.PID)
	}
	data, err := os.ReadFile(filepath.Join(c.logDir(), "warden.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	_, dump, found := bytes.Cut(data, []byte("SIGQUIT: quit"))
	n := countGoroutines(string(dump))
	if !found || n == 0 {
		c.t.Fatalf("the warden did not tell its goroutines:\n%s", tail(data))
	}
	return n
}

// shimGoroutines makes the shim log its goroutines, as containerd's shims do on SIGUSR1, and counts them.
func (c *container) shimGoroutines() int {
	c.t.Helper()
	path := filepath.Join(host.Dir, "containerd.log")
	at, err := os.Stat(path)
	if err != nil {
		c.t.Fatal(err)
	}
	signalProcess(c.t, c.shim(), unix.SIGUSR1)
	n := 0
	var said string
	eventually(c.t, eventTime, "the shim has told its goroutines", func() bool {
		data, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		said = string(data[at.Size():])
		_, dump, found := strings.Cut(said, "BEGIN goroutine stack dump")
		dump, _, whole := strings.Cut(dump, "END goroutine stack dump")
		n = countGoroutines(dump)
		return found && whole && n > 0
	}, func() string { return said })
	return n
}

func trySignal(pid int, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return fmt.Errorf("signal %d to %d: %w", sig, pid, err)
	}
	return nil
}

// spread tells of durations: how many in a second, the median and the 99th percentile.
func spread(all []time.Duration, took time.Duration) string {
	slices.Sort(all)
	return fmt.Sprintf("%d in %v: %.1f per second, median %s, p99 %s, longest %s", len(all), took.Round(time.Millisecond),
		float64(len(all))/took.Seconds(), inMillis(all[len(all)/2]), inMillis(all[len(all)*99/100]), inMillis(all[len(all)-1]))
}

func TestSoakManyRestartsOfOneGatewayLeaveNothingBehind(t *testing.T) {
	n := soaked()
	// Each gateway writes as much as rotates the log in a full soak, and each receipt is as long as rotates the journal. The
	// requests' ids are more than a warden remembers.
	profile := harness.Profile{Args: []string{"--flood", "20000"}}
	reason := strings.Repeat("a reason of some length ", 42)
	fresh, c := run(t, options{profile: &profile}), run(t, options{profile: &profile})
	last := c.status()
	one := func(c *container, i int) receipt.Receipt {
		id := uniqueID(strings.Repeat("soak-", 20))
		switch i % 20 {
		case 5: // as operators do
			r := gatewarden(t, "restart", "--json", "--reason", reason, "--request-id", id, c.h.Namespace+"/"+c.id)
			if r.Status != 0 {
				t.Fatalf("restart %d: %v", i, r)
			}
			return decode[receipt.Receipt](t, r.Stdout)
		case 15:
			return c.restart("--reason", reason, "--request-id", id)
		}
		ctx, cancel := context.WithTimeout(t.Context(), commandTime)
		defer cancel()
		m, err := control.Call(ctx, c.runDir(), control.Request{Verb: control.Restart, Reason: reason, RequestID: id, Via: "cli"}, nil)
		if err != nil || m.Receipt == nil {
			t.Fatalf("restart %d: %v, %+v", i, err, m)
		}
		return *m.Receipt
	}
	for i := range n.warmRestarts {
		one(fresh, i)
		r := one(c, i)
		last.PID = r.New.PID
	}
	rest := atRest([]*container{c})
	var times, unavailable []time.Duration
	begin := time.Now()
	for i := range n.restarts {
		at := time.Now()
		r := one(c, i)
		times = append(times, time.Since(at))
		unavailable = append(unavailable, time.Duration(r.Millis.Unavailable*float64(time.Millisecond)))
		switch {
		case r.Outcome != receipt.Replaced || r.Old == nil || r.New == nil || !r.Workload.Unchanged:
			t.Fatalf("restart %d: %+v", i, r)
		case r.Old.PID != last.PID || r.Old.Forced || r.Generation != 1:
			t.Fatalf("restart %d ended process %d (%+v) in generation %d; process %d ran in generation 1", i, r.Old.PID, r.Old, r.Generation, last.PID)
		}
		last.PID = r.New.PID
	}
	took := time.Since(begin)
	t.Logf("restarts: %s", spread(times, took))
	t.Logf("unavailable: %s", spread(unavailable, took))
	time.Sleep(restTime)
	rest[0].checkFlat()
	tellFootprints(t, rest)
	c.checkBounds()
	all, err := journal.Read(filepath.Join(c.stateDir(), journal.Name), 0)
	if err != nil || len(all) == 0 || all[len(all)-1].Generation != 1 {
		t.Errorf("the journal has %d receipts, the last is not of generation 1: %v", len(all), err)
	}
	if *fullSoak {
		for _, path := range []string{filepath.Join(c.stateDir(), journal.Name+".1"), filepath.Join(c.logDir(), gatewaylog.Name+".3")} {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("it was not enough to rotate: %v", err)
			}
		}
	}
	checkGoroutines(t, rest, fresh)
}

func TestSoakManyCrashesAcrossContainersLeaveNothingBehind(t *testing.T) {
	n := soaked()
	// The policy never gives up: the burst is more than all crashes of a container.
	profile := harness.Profile{Restart: "backoff = { initial = \"10ms\", max = \"10ms\" }\nburst = 1000\nwindow = \"60s\""}
	all := make([]*container, n.containers)
	for i := range all {
		all[i] = run(t, options{profile: &profile})
	}
	fresh := run(t, options{profile: &profile})
	if _, err := fresh.crash(n.warmCrashes); err != nil {
		t.Fatal(err)
	}
	crashAll(t, all, n.warmCrashes)
	rest := atRest(all)
	each := n.crashes / n.containers
	begin := time.Now()
	times := crashAll(t, all, each)
	t.Logf("from SIGKILL to proven again: %s", spread(times, time.Since(begin)))
	time.Sleep(restTime)
	for _, s := range rest {
		s.checkFlat()
		if now := s.c.status(); now.Restarts.Unasked != each+n.warmCrashes || now.Generation != 1 || now.Code != "" {
			t.Errorf("%s: %d crashes, and the status is %+v", s.c.id, each+n.warmCrashes, now)
		}
	}
	tellFootprints(t, rest)
	all[0].checkBounds()
	checkGoroutines(t, rest, fresh)
}

// crashAll crashes the gateways of all containers at the same time, each n times.
func crashAll(t *testing.T, all []*container, n int) []time.Duration {
	t.Helper()
	var mu sync.Mutex
	var times []time.Duration
	var errs []error
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(func() {
			took, err := c.crash(n)
			mu.Lock()
			defer mu.Unlock()
			times, errs = append(times, took...), append(errs, err)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return times
}

// crash kills the gateway n times, each time as soon as the one before has been proven, and waits for the last successor.
// It gives the times from a SIGKILL to the next proven gateway.
func (c *container) crash(n int) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Duration(n)*eventTime)
	defer cancel()
	var times []time.Duration
	var killed time.Time
	var failed error
	_, err := control.Call(ctx, c.runDir(), control.Request{Verb: control.Watch, Via: "cli"}, func(m control.Message) {
		if m.Event == nil || m.Event.Kind != string(receipt.Running) || failed != nil {
			return
		}
		if !killed.IsZero() {
			times = append(times, time.Since(killed))
		}
		if len(times) == n {
			cancel()
			return
		}
		killed = time.Now()
		if failed = trySignal(m.Event.PID, unix.SIGKILL); failed != nil {
			cancel()
		}
	})
	if failed == nil && len(times) < n {
		failed = fmt.Errorf("%s: %d crashes of %d: %w", c.id, len(times), n, err)
	}
	return times, failed
}
