//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

var (
	wentFrom = regexp.MustCompile(`(?m) msg=state from=(\w+) to=(\w+)$`)
	wayRow   = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `(\\w+)` \\| ")
)

// went gives the changes of state that the container's wardens have logged, as "FROM TO".
func (c *container) went() []string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.logDir(), "warden.log"))
	if err != nil {
		c.t.Fatal(err)
	}
	return ways(wentFrom, string(data))
}

func ways(re *regexp.Regexp, text string) []string {
	var all []string
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1]+" "+m[2])
	}
	return all
}

// seenFromOutside checks what clients see of a container in a state that lasts.
func (c *container) seenFromOutside(state receipt.State) {
	c.t.Helper()
	want := map[receipt.State]struct {
		exit int
		exec containerd.ProcessStatus
	}{
		receipt.Running:  {code.ExitOK, containerd.Running},
		receipt.Backoff:  {code.ExitOK, containerd.Stopped},
		receipt.FailedSt: {code.ExitFailed, containerd.Stopped},
		receipt.Stopped:  {code.ExitFailed, containerd.Stopped},
	}[state]
	if r := gatewarden(c.t, "status", "--json", c.h.Namespace+"/"+c.id); r.Status != want.exit || decode[receipt.Status](c.t, r.Stdout).State != state {
		c.t.Errorf("want state %s and exit status %d:\n%v", state, want.exit, r)
	}
	ctx := host.Context(c.t.Context())
	process, err := c.task().LoadProcess(ctx, "gateway", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if s, err := process.Status(ctx); err != nil || s.Status != want.exec {
		c.t.Errorf("the exec gateway is %s (%v) in state %s, want %s", s.Status, err, state, want.exec)
	}
}

func (c *container) awaitState(want receipt.State) receipt.Status {
	c.t.Helper()
	return c.waitFor("the state is "+string(want), func(s receipt.Status) bool { return s.State == want })
}

// lives are ways of a gateway through the states. Each names the transitions that it is there for.
var lives = []struct {
	name string
	ways []string
	live func(t *testing.T) *container
}{
	{"restart and crash", []string{"starting running", "running stopping", "stopping starting", "running backoff", "backoff starting"}, func(t *testing.T) *container {
		c := run(t, options{profile: &harness.Profile{Restart: "backoff = { initial = \"500ms\", max = \"1s\" }"}})
		c.seenFromOutside(receipt.Running)
		c.restart()
		killProcess(t, c.status().PID)
		c.awaitState(receipt.Backoff)
		c.seenFromOutside(receipt.Backoff)
		c.awaitState(receipt.Running)
		return c
	}},
	{"fatal exit, and an operator's restart", []string{"running failed", "failed starting"}, func(t *testing.T) *container {
		c := run(t, options{profile: &harness.Profile{Args: []string{"--exit-after", "300ms", "--exit-code", "78"}, Restart: "fatal_exit_codes = [78]"}})
		c.awaitState(receipt.FailedSt)
		c.seenFromOutside(receipt.FailedSt)
		c.restart()
		return c
	}},
	{"clean exit, restart, and a lost warden", []string{"running stopped", "stopped starting", "starting stopped"}, func(t *testing.T) *container {
		c := run(t, options{profile: &harness.Profile{Args: []string{"--exit-after", "300ms"}, Restart: "policy = \"on-failure\""}})
		c.awaitState(receipt.Stopped)
		c.seenFromOutside(receipt.Stopped)
		c.restart()
		lost := c.awaitState(receipt.Stopped).Warden.PID
		killProcess(t, lost)
		eventually(t, eventTime, "a successor knows that it is stopped", func() bool {
			r := c.exec("gatewarden", "status", "--json")
			return r.Status == code.ExitFailed && decode[receipt.Status](t, r.Stdout).State == receipt.Stopped && decode[receipt.Status](t, r.Stdout).Warden.PID != lost
		}, func() string { return "" })
		return c
	}},
	{"starts that fail", []string{"starting backoff", "starting failed"}, func(t *testing.T) *container {
		c := run(t, options{profile: &harness.Profile{
			Args:    []string{"--status", "500"},
			Ready:   "http = \"http://" + harness.GatewayAddress + "/health\"\naccept = [200]\ntimeout = \"200ms\"",
			Restart: "backoff = { initial = \"50ms\", max = \"50ms\" }\nburst = 1",
			Start:   "on_failure = \"warn\"",
		}})
		c.awaitState(receipt.FailedSt)
		return c
	}},
	{"a stop that outlasts its deadline, of a gateway that goes on serving", []string{"stopping running", "running starting"}, func(t *testing.T) *container {
		c := run(t, options{profile: &harness.Profile{Args: []string{"--slow-stop", "1500ms"}, Stop: "timeout = \"10s\""}})
		before := c.status()
		refused(t, c.tryRestart("--timeout", "700ms"), code.ExitDeadline, string(code.Deadline))
		c.waitFor("the next one runs", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
		return c
	}},
	{"a stop that outlasts its deadline, and a program that is not trusted any more", []string{"stopping failed"}, func(t *testing.T) *container {
		c := slowAndUnhealthy(t)
		chown(t, c.shown()+"/gateway", harness.WorkloadUID)
		c.awaitState(receipt.FailedSt)
		return c
	}},
	{"a stop that outlasts its deadline, and a port that somebody else has taken", []string{"stopping backoff"}, func(t *testing.T) *container {
		c := slowAndUnhealthy(t)
		if r := c.ctr("task", "exec", "-d", "--exec-id", uniqueID("e"), c.id, "testworkload", "hold", "--address", "127.0.0.2:18789"); r.Status != 0 {
			t.Fatalf("%v", r)
		}
		c.awaitState(receipt.Backoff)
		return c
	}},
	{"a crash, and a program that is not trusted any more", []string{"backoff failed"}, func(t *testing.T) *container {
		p := mountedGateway(gatewayDir(t))
		p.Restart = "backoff = { initial = \"700ms\", max = \"1s\" }"
		c := run(t, options{profile: p})
		killProcess(t, c.status().PID)
		c.awaitState(receipt.Backoff)
		chown(t, c.shown()+"/gateway", harness.WorkloadUID)
		c.awaitState(receipt.FailedSt)
		return c
	}},
	{"a warden that is lost in the middle of a stop", []string{"starting stopping"}, func(t *testing.T) *container {
		withFailpoints(t)
		c := run(t, options{profile: &harness.Profile{}})
		before := c.status()
		c.arm("intent", "kill")
		c.tryRestart()
		c.supervised(before.Warden.PID)
		return c
	}},
}

// slowAndUnhealthy makes a gateway that has got its signal, does not serve well, and ends some time after the deadline. Its
// program is in what it is shown.
func slowAndUnhealthy(t *testing.T) *container {
	t.Helper()
	dir := gatewayDir(t)
	writeFile(t, dir+"/status", "200\n", 0o644)
	p := mountedGateway(dir)
	p.Command = append(p.Command, "--status-file", "/opt/gateway/status", "--slow-stop", "2s")
	p.Ready = "http = \"http://" + harness.GatewayAddress + "/health\"\naccept = [200]\ntimeout = \"5s\""
	p.Stop = "timeout = \"10s\""
	p.Restart = "backoff = { initial = \"2s\", max = \"2s\" }"
	c := run(t, options{profile: p})
	writeFile(t, c.shown()+"/status", "500\n", 0o644)
	refused(t, c.tryRestart("--timeout", "700ms"), code.ExitDeadline, string(code.Deadline))
	if s := c.status(); s.State != receipt.Stopping {
		t.Fatalf("%+v", s)
	}
	return c
}

func TestEveryTransitionOfTheStateMachineHappens(t *testing.T) {
	document, err := os.ReadFile("../docs/state-machine.md")
	if err != nil {
		t.Fatal(err)
	}
	machine := ways(wayRow, string(document))
	if len(machine) == 0 {
		t.Fatal("the document has no transitions")
	}
	var driven []string
	for _, l := range lives {
		t.Run(l.name, func(t *testing.T) {
			went := l.live(t).went()
			for _, w := range l.ways {
				if !slices.Contains(went, w) {
					t.Errorf("it did not go %q, but: %s", w, strings.Join(went, ", "))
				}
			}
			for _, w := range went {
				if !slices.Contains(machine, w) {
					t.Errorf("it went %q, which the document does not have", w)
				}
			}
			driven = append(driven, l.ways...)
		})
	}
	for _, w := range machine {
		if !slices.Contains(driven, w) {
			t.Errorf("nothing here drives %q", w)
		}
	}
}
