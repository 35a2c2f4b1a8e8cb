//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// Budgets, and what stock programs took where they were set (2026-11-23, 2 cores). A machine on which these take longer
// gets more, in proportion.
const (
	stockStart    = 112 * time.Millisecond // ctr run -d with runc's shim
	stockExec     = 57 * time.Millisecond  // ctr task exec … true
	startBudget   = 60 * time.Millisecond
	restartBudget = 50 * time.Millisecond
	memoryBudget  = 12 << 20
)

// A machine that does something else meanwhile makes a round slow, never fast: of some rounds the best counts.
const (
	rounds  = 3
	samples = 7
)

// medians measures each of kinds several times, in turn, and gives their medians.
func medians(kinds ...func() time.Duration) []time.Duration {
	all := make([][]time.Duration, len(kinds))
	for range samples {
		for i, measure := range kinds {
			all[i] = append(all[i], measure())
		}
	}
	var middle []time.Duration
	for _, a := range all {
		slices.Sort(a)
		middle = append(middle, a[len(a)/2])
	}
	return middle
}

func bestMedian(measure func() time.Duration) time.Duration {
	best := medians(measure)[0]
	for range rounds - 1 {
		best = min(best, medians(measure)[0])
	}
	return best
}

// scaled is a budget in proportion to what a peer takes now, and took where the budget was set.
func scaled(budget, peer, then time.Duration) time.Duration {
	return time.Duration(float64(budget) * float64(peer) / float64(then))
}

func inMillis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

func TestHookAndGatewayStartStayWithinTheirBudget(t *testing.T) {
	start := func(o options) time.Duration {
		c, r := tryRun(t, o)
		if r.Status != 0 {
			t.Fatalf("%v", r)
		}
		c.delete()
		return r.Time
	}
	added, budget := time.Duration(1<<63-1), startBudget
	for range rounds {
		m := medians(
			func() time.Duration { return start(options{runtime: harness.Stock}) },
			func() time.Duration { return start(options{}) },
			func() time.Duration { return start(options{profile: &harness.Profile{}}) },
		)
		stock, without, with := m[0], m[1], m[2]
		t.Logf("ctr run -d: stock shim %s; our shim without a gateway %s (%.2f times), with a gateway %s (%.2f times, %s more)",
			inMillis(stock), inMillis(without), float64(without)/float64(stock), inMillis(with), float64(with)/float64(stock), inMillis(with-stock))
		added = min(added, with-stock)
		budget = max(budget, scaled(startBudget, stock, stockStart))
	}
	if added > budget {
		t.Errorf("hook and gateway start add %s to ctr run; the budget is %s", inMillis(added), inMillis(budget))
	}
}

func TestARestartStaysWithinItsBudget(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	name := host.Namespace + "/" + c.id
	var unavailable []float64
	command := bestMedian(func() time.Duration {
		c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
		r := gatewarden(t, "restart", "--json", name)
		if r.Status != 0 {
			t.Fatalf("%v", r)
		}
		unavailable = append(unavailable, decode[receipt.Receipt](t, r.Stdout).Millis.Unavailable)
		return r.Time
	})
	slices.Sort(unavailable)
	t.Logf("gatewarden restart: %s from call to exit; the gateway was away for %.1f ms (median of %d)",
		inMillis(command), unavailable[len(unavailable)/2], len(unavailable))
	execs := bestMedian(func() time.Duration {
		r := c.tryRestart()
		if r.Status != 0 {
			t.Fatalf("%v", r)
		}
		return r.Time
	})
	plain := bestMedian(func() time.Duration { return c.exec("true").Time })
	t.Logf("ctr task exec … gatewarden restart: %s; ctr task exec … true: %s (%.2f times)", inMillis(execs), inMillis(plain), float64(execs)/float64(plain))
	if budget := max(restartBudget, scaled(restartBudget, plain, stockExec)); command > budget {
		t.Errorf("gatewarden restart takes %s; the budget is %s", inMillis(command), inMillis(budget))
	}
}

func TestAnIdleWardenIsSmallAndDoesNotWakeUp(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	s := c.restartedStatus()
	// The warden tidies up a second after an action.
	time.Sleep(2500 * time.Millisecond)
	before := wakeups(t, s.Warden.PID)
	const idle = 2 * time.Second
	time.Sleep(idle)
	woken := wakeups(t, s.Warden.PID) - before
	resident, err := strconv.ParseInt(strings.TrimSuffix(procStatus(t, s.Warden.PID)["VmRSS"], " kB"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	resident <<= 10
	t.Logf("warden: %.1f MB resident, %d wake-ups in %v; standby: %s resident",
		float64(resident)/(1<<20), woken, idle, procStatus(t, s.Standby.PID)["VmRSS"])
	if resident > memoryBudget {
		t.Errorf("the warden has %d bytes resident; the budget is %d", resident, memoryBudget)
	}
	// The Go runtime's own monitor may look once.
	if woken > 4 {
		t.Errorf("the idle warden woke up %d times in %v", woken, idle)
	}
}

// wakeups sums the voluntary context switches of a process's threads: each is a sleep that ended.
func wakeups(t *testing.T, pid int) int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads of PID %d: %v", pid, err)
	}
	sum := 0
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(data), "\nvoluntary_ctxt_switches:")
		line, _, _ := strings.Cut(rest, "\n")
		n, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
