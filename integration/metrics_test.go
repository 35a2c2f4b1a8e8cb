//go:build integration

package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// told gives the samples that metrics text has of the container: by name, and labels besides those that name it.
func told(t *testing.T, text, id string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	of := fmt.Sprintf(`namespace=%q,container=%q,gateway=%q`, host.Namespace, id, id)
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), "{"+of)
		if !ok {
			continue
		}
		labels, value, ok := strings.Cut(rest, "} ")
		v, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all[name+labels] = v
	}
	return all
}

// metrics gives what `gatewarden metrics` tells of the container.
func (c *container) metrics() map[string]float64 {
	c.t.Helper()
	r := gatewarden(c.t, "metrics")
	if r.Status != 0 || r.Stderr != "" {
		c.t.Fatalf("%v", r)
	}
	return told(c.t, r.Stdout, c.id)
}

func TestMetricsCountOnThroughTheLossAndTheUpgradeOfAWarden(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Restart: "backoff = { initial = \"50ms\", max = \"1s\" }"}})
	c.parked()
	c.restart()
	c.restart()
	if r := c.tryRestart("--if-generation", "77"); r.Status == 0 {
		t.Fatalf("%v", r)
	}
	killProcess(t, c.parked().PID)
	s := c.waitFor("a successor runs", func(s receipt.Status) bool {
		return s.Last.Action == receipt.Respawn && s.State == receipt.Running && s.Standby.PID != 0
	})
	want := map[string]float64{
		`gatewarden_warden_up`: 1, `gatewarden_gateway_up`: 1, `gatewarden_gateway_healthy`: 1, `gatewarden_standby_present`: 1,
		`gatewarden_gateway_state,state="running"`: 1, `gatewarden_gateway_state,state="failed"`: 0, `gatewarden_generation`: float64(s.Generation),
		`gatewarden_actions_total,action="start",outcome="replaced"`:   1,
		`gatewarden_actions_total,action="restart",outcome="replaced"`: 2,
		`gatewarden_actions_total,action="restart",outcome="refused"`:  1,
		`gatewarden_actions_total,action="restart",outcome="failed"`:   0,
		`gatewarden_actions_total,action="respawn",outcome="replaced"`: 1,
		`gatewarden_unavailable_seconds_count`:                         3,
		`gatewarden_unavailable_seconds_bucket,le="+Inf"`:              3,
	}
	check := func(what string) map[string]float64 {
		t.Helper()
		got := c.metrics()
		for name, v := range want {
			if has, ok := got[name]; !ok || has != v {
				t.Errorf("%s: %s is %v (%v), want %v", what, name, has, ok, v)
			}
		}
		return got
	}
	got := check("at first")
	sum := 0.0
	for _, r := range c.receipts() {
		if r.Old != nil {
			sum += r.Millis.Unavailable / 1000
		}
	}
	if d := got["gatewarden_unavailable_seconds_sum"] - sum; d < -1e-9 || d > 1e-9 {
		t.Errorf("the unavailable times are %v s, by the receipts %v s", got["gatewarden_unavailable_seconds_sum"], sum)
	}
	if rss, pss := got["gatewarden_warden_resident_memory_bytes"], got["gatewarden_warden_proportional_memory_bytes"]; rss < 1<<20 || rss > 100<<20 || pss <= 0 || pss > rss+rss/4 {
		t.Errorf("the warden has %v bytes, %v of its own", rss, pss)
	}
	if at := got["gatewarden_gateway_health_checked_timestamp_seconds"]; time.Since(time.UnixMilli(int64(at*1000))).Abs() > time.Minute {
		t.Errorf("checked at %v", at)
	}

	killProcess(t, s.Warden.PID)
	s = c.supervised(s.Warden.PID)
	c.parked()
	want[`gatewarden_actions_total,action="recover",outcome="already-running"`] = 1
	check("after the loss of the warden")
	if r := gatewarden(t, "upgrade-warden", c.name()); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	c.parked()
	want[`gatewarden_actions_total,action="recover",outcome="already-running"`] = 2
	check("after its upgrade")
	c.restart()
	c.parked()
	want[`gatewarden_actions_total,action="restart",outcome="replaced"`] = 3
	want[`gatewarden_unavailable_seconds_count`], want[`gatewarden_unavailable_seconds_bucket,le="+Inf"`] = 4, 4
	check("after another restart")
}

func TestTheMetricsOfALostWardenAreWhatIsStillKnown(t *testing.T) {
	p := plainRunc(t, nil)
	before := p.running()
	read := func() map[string]float64 {
		r := gatewarden(t, "metrics")
		if r.Status != 0 {
			t.Fatalf("%v", r)
		}
		return told(t, r.Stdout, p.id)
	}
	if got := read(); got["gatewarden_warden_up"] != 1 || got["gatewarden_gateway_up"] != 1 {
		t.Errorf("before: %v", got)
	}
	killProcess(t, before.Warden.PID)
	eventually(t, eventTime, "the warden is gone", func() bool { return read()["gatewarden_warden_up"] == 0 }, func() string { return "" })
	got := read()
	if _, ok := got["gatewarden_gateway_up"]; ok || got[`gatewarden_actions_total,action="start",outcome="replaced"`] != 1 {
		t.Errorf("%v", got)
	}
	if r := gatewarden(t, "recover", host.Namespace+"/"+p.id); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	if got := read(); got["gatewarden_warden_up"] != 1 || got["gatewarden_gateway_up"] != 1 || got[`gatewarden_actions_total,action="start",outcome="replaced"`] != 1 {
		t.Errorf("after recover: %v", got)
	}
}

func TestMetricsAreServedAndWakeNoWarden(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	s := c.parked()
	socket := filepath.Join(host.Dir, uniqueID("m"))
	startServer(t, host.Command(context.Background(), host.Bin("gatewarden"), "metrics", "--listen", "unix://"+socket))
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	get := func() (map[string]float64, error) {
		r, err := client.Get("http://localhost/metrics")
		if err != nil {
			return nil, err
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != 200 {
			return nil, fmt.Errorf("HTTP status %d, %w: %s", r.StatusCode, err, text)
		}
		return told(t, string(text), c.id), nil
	}
	var err error
	eventually(t, eventTime, "it serves", func() bool { _, err = get(); return err == nil }, func() string { return fmt.Sprint(err) })
	// A warden tidies up a second after an action.
	time.Sleep(2500 * time.Millisecond)
	before := wakeups(t, s.Warden.PID)
	const times = 20
	for range times {
		got, err := get()
		if err != nil || got["gatewarden_warden_up"] != 1 || got["gatewarden_gateway_up"] != 1 {
			t.Fatalf("%v, %v", err, got)
		}
	}
	// The Go runtime's own monitor may look once.
	if woken := wakeups(t, s.Warden.PID) - before; woken > 4 {
		t.Errorf("the warden woke up %d times for %d scrapes", woken, times)
	}
	// One that cannot wake up is told of all the same.
	signalProcess(t, s.Warden.PID, unix.SIGSTOP)
	got, err := get()
	signalProcess(t, s.Warden.PID, unix.SIGCONT)
	if err != nil || got["gatewarden_gateway_up"] != 1 {
		t.Errorf("with a stopped warden: %v, %v", err, got)
	}
}

// startServer starts cmd and ends it by SIGTERM with the test; its exit status must be 0.
func startServer(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v: %s", cmd, err, said.String())
		}
	})
}
