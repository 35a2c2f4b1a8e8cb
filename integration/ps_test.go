//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// listed gives what `gatewarden ps --json` with flags says of the container with that ID.
func listed(t *testing.T, id string, flags ...string) receipt.Status {
	t.Helper()
	r := gatewarden(t, append([]string{"ps", "--json"}, flags...)...)
	if r.Status != 0 {
		t.Fatalf("%v", r)
	}
	all := decode[[]receipt.Status](t, r.Stdout)
	i := slices.IndexFunc(all, func(s receipt.Status) bool { return s.Container.ID == id })
	if i < 0 {
		t.Fatalf("%s is not listed: %v", id, r)
	}
	return all[i]
}

// shown gives the fields of the container's line in what `gatewarden ps` with flags prints.
func shown(t *testing.T, id string, flags ...string) []string {
	t.Helper()
	r := gatewarden(t, append([]string{"ps"}, flags...)...)
	for line := range strings.Lines(r.Stdout) {
		if fields := strings.Fields(line); r.Status == 0 && len(fields) > 0 && fields[0] == host.Namespace+"/"+id {
			return fields
		}
	}
	t.Fatalf("%s is not shown: %v", id, r)
	return nil
}

// saysHealthy tells whether a status says healthy, and nothing else.
func saysHealthy(s receipt.Status) bool { return s.Healthy != nil && *s.Healthy }

// saysIll tells whether a status says not healthy.
func saysIll(s receipt.Status) bool { return s.Healthy != nil && !*s.Healthy }

func TestPsReadsWhatWardensWroteAndWakesNone(t *testing.T) {
	a, b := run(t, options{profile: &harness.Profile{}}), run(t, options{profile: &harness.Profile{}})
	a.restart("--reason", "why")
	all := []*container{a, b}
	said := make([]receipt.Status, len(all))
	for i, c := range all {
		c.parked()
		said[i] = decode[receipt.Status](t, gatewarden(t, "status", "--json", c.name()).Stdout)
	}
	// A warden tidies up a second after an action.
	time.Sleep(2500 * time.Millisecond)
	before := []int{wakeups(t, said[0].Warden.PID), wakeups(t, said[1].Warden.PID)}
	const times = 20
	for range times {
		for i, c := range all {
			if got := listed(t, c.id); !reflect.DeepEqual(got, said[i]) {
				t.Errorf("ps says\n%+v, status said\n%+v", got, said[i])
			}
		}
	}
	for i, s := range said {
		// The Go runtime's own monitor may look once.
		if woken := wakeups(t, s.Warden.PID) - before[i]; woken > 4 {
			t.Errorf("the warden of %s woke up %d times for %d times ps", all[i].id, woken, 2*times)
		}
	}
	// One that can't wake up is as good. That it is stopped is told by those who ask.
	signalProcess(t, said[0].Warden.PID, unix.SIGSTOP)
	defer signalProcess(t, said[0].Warden.PID, unix.SIGCONT)
	if got := shown(t, a.id); got[2] != "running" || got[3] != "yes" {
		t.Errorf("with a stopped warden: %q", got)
	}
	if got := shown(t, a.id, "--probe", "--timeout", "500ms"); !slices.Equal(got[2:5], []string{"no", "answer", "?"}) {
		t.Errorf("--probe of a stopped warden: %q", got)
	}
	if got := shown(t, b.id, "--probe", "--timeout", "5s"); got[2] != "running" || got[3] != "yes" {
		t.Errorf("--probe of the other: %q", got)
	}
}

func TestPsShowsHealthAsItWasLastLookedAtAndWithProbeAsItIs(t *testing.T) {
	dir := probeDir(t)
	p := runProbed(t, dir, probedProfile(dir, askHTTP))
	p.parked()
	// wanted asks until it is so: on a busy machine a gateway can take longer than status waits.
	wanted := func(what string, ok func(receipt.Status) bool, flags ...string) {
		t.Helper()
		var s receipt.Status
		eventually(t, eventTime, what, func() bool { s = listed(t, p.id, flags...); return ok(s) }, func() string { return fmt.Sprintf("%+v", s) })
		if s.Checked == nil || time.Since(*s.Checked) > time.Minute {
			t.Errorf("%s: it was checked at %v", what, s.Checked)
		}
	}
	if s := listed(t, p.id); !saysHealthy(s) || s.Checked == nil || s.Checked.Before(s.Since.Add(-time.Minute)) {
		t.Errorf("a gateway that was proven by its start: %+v", s)
	}
	p.health("503")
	if s := listed(t, p.id); !saysHealthy(s) {
		t.Errorf("nobody has looked since: %+v", s)
	}
	wanted("--probe says that it is ill", saysIll, "--probe")
	if s := listed(t, p.id); !saysIll(s) {
		t.Errorf("after --probe: %+v", s)
	}
	p.health("200")
	if s := listed(t, p.id); !saysIll(s) {
		t.Errorf("nobody has looked since: %+v", s)
	}
	p.waitFor("status says that it is healthy", saysHealthy)
	if s := listed(t, p.id); !saysHealthy(s) {
		t.Errorf("after status: %+v", s)
	}
	p.health("503")
	if r := p.exec("gatewarden", "probe"); r.Status != code.ExitFailed {
		t.Errorf("%v", r)
	}
	if s := listed(t, p.id); !saysIll(s) {
		t.Errorf("after probe: %+v", s)
	}
	p.health("200")
	wanted("--probe says that it is healthy", saysHealthy, "--probe")
	signalProcess(t, p.status().PID, unix.SIGSTOP)
	if s := listed(t, p.id, "--probe"); saysHealthy(s) {
		t.Errorf("--probe of a stopped gateway: %+v", s)
	}
	p.restart()
	if s := listed(t, p.id); !saysHealthy(s) {
		t.Errorf("after a restart: %+v", s)
	}
}

// The standby comes after the receipt, and what it is made for is written down all the same.
func TestPsKnowsTheOutcomeOfTheLastActionAndTheStandby(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Restart: "policy = \"never\""}})
	r := c.restart()
	before := c.parked()
	s := listed(t, c.id)
	if s.Last == nil || s.Last.ID != r.ID || s.PID != r.New.PID || s.Generation != r.Generation || s.Standby.PID != before.Standby.PID || s.State != receipt.Running {
		t.Errorf("after the restart %+v: %+v", r, s)
	}
	if r := c.tryRestart("--if-generation", "77"); r.Status != code.ExitRefused {
		t.Fatalf("%v", r)
	}
	if s := listed(t, c.id); s.Last == nil || s.Last.Outcome != receipt.Refused || s.State != receipt.Running || !saysHealthy(s) {
		t.Errorf("after a refusal: %+v, last: %+v", s, s.Last)
	}
	killProcess(t, before.PID)
	c.waitFor("it is failed", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
	if s := listed(t, c.id); s.State != receipt.FailedSt || !saysIll(s) || s.Checked != nil || s.PID != 0 || s.Code != code.LaunchFailed {
		t.Errorf("after its end: %+v", s)
	}
}

func TestPsShowsAContainerWhoseWardenIsGoneAsLost(t *testing.T) {
	p := plainRunc(t, nil)
	before := p.running()
	if got := shown(t, p.id); got[2] != "running" || got[3] != "yes" {
		t.Errorf("before: %q", got)
	}
	killProcess(t, before.Warden.PID)
	killProcess(t, before.PID)
	eventually(t, eventTime, "the warden is gone", func() bool { return shown(t, p.id)[2] != "running" }, func() string { return "" })
	if got := shown(t, p.id); got[2] != "lost" || got[3] != "?" || got[5] != "-" || !slices.Contains(got, string(code.WardenLost)+":") {
		t.Errorf("%q", got)
	}
	if s := listed(t, p.id); s.Code != code.WardenLost || s.PID != 0 || s.Healthy != nil || s.Checked != nil || s.State == receipt.Running {
		t.Errorf("%+v", s)
	}
	if r := gatewarden(t, "recover", host.Namespace+"/"+p.id); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	if s := listed(t, p.id); s.State != receipt.Running || !saysHealthy(s) || s.PID == before.PID || s.Warden.PID == before.Warden.PID {
		t.Errorf("after recover: %+v", s)
	}
}

func TestPsAsksTheWardenWhoseMemoIsAnotherReleases(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	before := c.parked()
	path := filepath.Join(c.runDir(), memo.Name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid := fmt.Sprintf(`"state":"running","code":"","message":"","pid":%d,`, before.PID)
	version := fmt.Sprintf(`{"version":%d,`, memo.Version)
	if !strings.Contains(string(data), pid) || !strings.HasPrefix(string(data), version) {
		t.Fatalf("the memo's form is another: %s", data)
	}
	// In its place, so that its writer still stands by it. A PID that is wrong tells which of the two sources was used.
	wrong := strings.Replace(string(data), pid, strings.Replace(pid, fmt.Sprint(before.PID), "1", 1), 1)
	writeFile(t, path, wrong, 0o600)
	if s := listed(t, c.id); s.PID != 1 {
		t.Errorf("the memo was not read: %+v", s)
	}
	writeFile(t, path, strings.Replace(wrong, version, `{"version":1,`, 1), 0o600)
	if s := listed(t, c.id); s.PID != before.PID || s.State != receipt.Running || !saysHealthy(s) {
		t.Errorf("the warden was not asked: %+v", s)
	}
	// To be asked is to look, and to look is to write it down anew.
	if s := listed(t, c.id); s.PID != before.PID {
		t.Errorf("%+v", s)
	}
	// A successor says of the gateway's health what it has found itself.
	killProcess(t, before.Warden.PID)
	c.supervised(before.Warden.PID)
	if s := listed(t, c.id); s.PID != before.PID || s.Warden.PID == before.Warden.PID || !saysHealthy(s) || !s.Checked.After(*before.Checked) {
		t.Errorf("after an adoption: %+v", s)
	}
}
