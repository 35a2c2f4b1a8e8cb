//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// withFailpoints makes the containers that this test creates use a hook and wardens with failpoints.
func withFailpoints(t *testing.T) {
	t.Helper()
	useHook(t, host.FailpointsHook())
}

// useHook makes path the hook of the containers that this test creates.
func useHook(t *testing.T, path string) {
	t.Helper()
	if err := host.UseHook(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.UseHook(host.Bin("gatewarden-hook")); err != nil {
			t.Error(err)
		}
	})
}

// gateways lists the processes in the container that run the test gateway under the gateway's UID, by PID.
func (c *container) gateways() []int {
	c.t.Helper()
	processes, err := host.Processes()
	if err != nil {
		c.t.Fatal(err)
	}
	var found []int
	for _, p := range processes {
		if slices.Contains(strings.Split(p.Cgroup, "/"), c.id) && strings.Contains(p.Command, "testgateway") {
			found = append(found, p.PID)
		}
	}
	return found
}

// supervised waits until a warden other than the one before supervises a running gateway, and checks that it is the only one
// and answers.
func (c *container) supervised(warden int) receipt.Status {
	c.t.Helper()
	var s receipt.Status
	var r harness.Result
	eventually(c.t, eventTime, "a successor supervises the gateway", func() bool {
		r = c.exec("gatewarden", "status", "--json")
		if r.Status > 1 || !strings.HasPrefix(strings.TrimSpace(r.Stdout), "{") {
			return false
		}
		s = decode[receipt.Status](c.t, r.Stdout)
		return s.Warden.PID != 0 && s.Warden.PID != warden && s.State == receipt.Running && s.Standby.PID != 0
	}, func() string { return r.String() })
	if got := c.gateways(); !slices.Equal(got, []int{s.PID}) {
		c.t.Errorf("the gateways are processes %v, want %d alone", got, s.PID)
	}
	if who := c.ask(); who.PID != s.NSPID {
		c.t.Errorf("process %d answers, the status says %d", who.PID, s.NSPID)
	}
	return s
}

func TestAWardenThatIsKilledIsReplacedAndTheGatewayGoesOn(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	c.restart("--request-id", "before")
	before := c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
	killProcess(t, before.Warden.PID)
	after := c.supervised(before.Warden.PID)
	if after.PID != before.PID || after.StartTime != before.StartTime {
		t.Errorf("the gateway is process %d now, and was %d", after.PID, before.PID)
	}
	if after.Generation != before.Generation || after.Restarts != before.Restarts {
		t.Errorf("the counts are %+v of generation %d, and were %+v of %d", after.Restarts, after.Generation, before.Restarts, before.Generation)
	}
	if r := after.Last; r.Action != receipt.Recover || r.Outcome != receipt.AlreadyRunning || r.New == nil || r.New.PID != before.PID {
		t.Errorf("the receipt does not tell of the adoption: %+v", r)
	}
	if r := c.restart("--request-id", "before"); r.New.PID != before.PID {
		t.Errorf("a repeated request was carried out again by the successor: %+v", r)
	}
	// An adopted gateway is as good as any: how it ends is known, by a restart and by a crash.
	r := c.restart()
	if r.Old.PID != before.PID || r.Old.DeathProof != "pidfd" || r.Old.Signal == "" && r.Old.ExitCode != 0 {
		t.Errorf("the end of the adopted gateway: %+v", r.Old)
	}
	c.supervised(before.Warden.PID)
}

func TestAnAdoptedGatewayThatCrashesIsStartedAgain(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	killProcess(t, before.Warden.PID)
	c.supervised(before.Warden.PID)
	killProcess(t, before.PID)
	after := c.waitFor("the next gateway runs", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	if old := after.Last.Old; old == nil || old.PID != before.PID || old.Signal != "SIGKILL" || old.DeathProof != "pidfd" {
		t.Errorf("the end of the adopted gateway: %+v", old)
	}
}

func TestAGatewayThatEndedWhileItHadNoWardenIsStartedAgain(t *testing.T) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	// Both at once: which of them the kernel ends first does not matter.
	killProcess(t, before.Warden.PID)
	killProcess(t, before.PID)
	if after := c.supervised(before.Warden.PID); after.PID == before.PID {
		t.Errorf("process %d is dead", after.PID)
	}
}

// wardenFaults kill the warden at each stage of a restart that a client waits for. The client's own command finds a
// successor and ends well.
var wardenFaults = faults{
	test:  "TestAWardenThatIsKilledAtAnyStageOfARestartLeavesOneGateway",
	title: "The warden is killed",
	about: "SIGKILL at a point inside a restart. The command starts a successor, or the shim does, and repeats its request under the same id. A successor that finds the action begun finishes it and answers with its receipt; one that does not carries it out.",
	rows:  wardenRows(),
}

func wardenRows() []fault {
	var rows []fault
	begun := false
	for _, p := range restartPoints {
		begun = begun || p.point == "launched"
		message := ""
		if begun && p.point != "audited" { // the lost warden's own receipt has nothing to say
			message = "gateway … of …: process …, which the lost warden had started, was proven and adopted"
		}
		for _, client := range []string{"gatewarden", "exec"} {
			rows = append(rows, fault{
				stage: string(p.stage), fault: "warden killed: " + p.when + "; asked by " + client, message: message,
				state: receipt.Running, gateway: aNewOne, note: "workload unchanged; the next restart works",
				do: func(t *testing.T) (*container, receipt.Status, harness.Result) { return killWarden(t, p.point, client) },
			})
		}
	}
	return rows
}

func killWarden(t *testing.T, point, client string) (*container, receipt.Status, harness.Result) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.parked()
	workload := c.workload()
	c.arm(point, "kill")
	r := c.restartBy(client)()
	if _, err := os.Stat(filepath.Join(c.runDir(), failpoint.Name)); err == nil {
		t.Errorf("the point %s was not reached", point)
	}
	after := c.supervised(before.Warden.PID)
	got := decode[receipt.Receipt](t, r.Stdout)
	if got.Outcome != receipt.Replaced || got.Action != receipt.Restart || got.Old == nil || got.Old.PID != before.PID || got.New == nil || got.New.PID != after.PID {
		t.Errorf("the receipt is not that of the restart of process %d by %d: %+v", before.PID, after.PID, got)
	}
	if after.Restarts.Asked != 1 || after.Restarts.Unasked != 0 || after.Generation != before.Generation {
		t.Errorf("%+v, generation %d: one restart was asked for, and nothing was configured", after.Restarts, after.Generation)
	}
	if now := c.workload(); !slices.Equal(now, workload) {
		t.Errorf("the workload is %v, and was %v", now, workload)
	}
	c.restart()
	return c, before, r
}

func TestAWardenThatIsKilledAtAnyStageOfARestartLeavesOneGateway(t *testing.T) { wardenFaults.run(t) }

// lostFaults are losses outside a restart that somebody waits for, or more than one at once.
var lostFaults = faults{
	test:  "TestALostWardenIsReplacedWhateverItDid",
	title: "The warden is killed at other times",
	about: "The shim sees the loss and starts a successor. Without a shim the next `gatewarden restart` or `recover` does.",
	rows: append(startRows(), fault{
		stage: "idle", fault: "warden killed",
		exit: noClient, state: receipt.Running, gateway: theSame, note: "adopted; its death is proven by its pidfd later on",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{}})
			before := c.status()
			killProcess(t, before.Warden.PID)
			c.supervised(before.Warden.PID)
			return c, before, harness.Result{}
		},
	}, fault{
		stage: "idle", fault: "warden killed, and its successor while it adopts",
		exit: noClient, state: receipt.Running, gateway: theSame, note: "the third adopts it",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			withFailpoints(t)
			c := run(t, options{profile: &harness.Profile{}})
			before := c.status()
			c.arm("adopt", "kill")
			killProcess(t, before.Warden.PID)
			s := c.supervised(before.Warden.PID)
			if _, err := os.Stat(filepath.Join(c.runDir(), failpoint.Name)); err == nil {
				t.Errorf("the successor, process %d, was not killed", s.Warden.PID)
			}
			return c, before, harness.Result{}
		},
	}, fault{
		stage: "queued", fault: "warden killed while one restart is under way and another waits",
		state: receipt.Running, gateway: aNewOne, note: "both are carried out, one after the other",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			withFailpoints(t)
			c := run(t, options{profile: &harness.Profile{}})
			before := c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
			reached, _ := c.hold("preflight")
			first := c.begin("gatewarden", "restart", "--json")
			reached()
			second := c.begin("gatewarden", "restart", "--json")
			time.Sleep(200 * time.Millisecond) // for the second to come into the queue
			killProcess(t, before.Warden.PID)
			r := first()
			if r.Status == 0 {
				r = second()
			}
			c.asked(2)
			return c, before, r
		},
	}, fault{
		stage: "stop", fault: "warden and gateway killed at once, after the signal",
		state: receipt.Running, gateway: aNewOne,
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			withFailpoints(t)
			c := run(t, options{profile: &harness.Profile{Args: []string{"--slow-stop", "10s"}, Stop: "timeout = \"20s\""}})
			before := c.status()
			reached, _ := c.hold("signalled")
			restart := c.begin("gatewarden", "restart", "--json")
			reached()
			killProcess(t, before.Warden.PID)
			killProcess(t, before.PID)
			return c, before, restart()
		},
	}, fault{
		stage: "running", fault: "warden killed, and the gateway has executed another program since it was proven",
		exit: noClient, state: receipt.Running, gateway: aNewOne, note: "it is not recognised; it is ended and replaced",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{}})
			before := c.status()
			if r := c.get("/become?program=/bin/sleep&arg=1000"); r.Status == 0 {
				t.Fatalf("%v", r)
			}
			killProcess(t, before.Warden.PID)
			c.supervised(before.Warden.PID)
			return c, before, harness.Result{}
		},
	}),
}

// startRows kill the warden while the container's start waits for the gateway.
func startRows() []fault {
	var rows []fault
	first := slices.IndexFunc(restartPoints, func(p restartPoint) bool { return p.point == "release" })
	for _, p := range restartPoints[first:] {
		rows = append(rows, fault{
			stage: string(p.stage), fault: "warden killed during the first start: " + p.when + " (`ctr run`)",
			state: receipt.Running, gateway: aNewOne, note: "the workload starts when the gateway is ready",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				withFailpoints(t)
				ended := make(chan struct{})
				next := &container{t: t, h: host, id: fmt.Sprintf("c%d", lastID.Load()+1)}
				go func() {
					defer close(ended)
					// The hook writes this last, just before it starts the warden, whose first start takes a join.
					for deadline := time.Now().Add(eventTime); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
						if _, err := os.Lstat(filepath.Join(next.runDir(), "install.json")); err == nil {
							next.arm(p.point, "kill")
							return
						}
					}
				}()
				c, r := tryRun(t, options{profile: &harness.Profile{}})
				<-ended
				if c.id != next.id {
					t.Fatalf("the container is %s, not %s", c.id, next.id)
				}
				if _, err := os.Lstat(filepath.Join(c.runDir(), failpoint.Name)); err == nil {
					t.Errorf("the point %s was not reached", p.point)
				}
				return c, receipt.Status{}, r
			},
		})
	}
	return rows
}

func TestALostWardenIsReplacedWhateverItDid(t *testing.T) { lostFaults.run(t) }

// Only the gateway's own program can bring it about that it is another one, and a restart is what cures that.
func TestAGatewayThatExecutesAnotherProgramIsNotHealthyAndIsReplacedOnRequest(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	if r := c.get("/become?program=/bin/sleep&arg=1000"); r.Status == 0 {
		t.Fatalf("%v", r)
	}
	s := c.waitFor("it is not healthy", func(s receipt.Status) bool { return s.Healthy != nil && !*s.Healthy })
	if s.PID != before.PID || s.State != receipt.Running {
		t.Errorf("something was done to it: %+v", s)
	}
	r := c.exec("gatewarden", "probe")
	refused(t, r, 1, string(code.PostureMismatch))
	refused(t, c.ctr("task", "kill", "--exec-id", "gateway", "-s", "USR1", c.id), 1, "is not what was proven")
	got := c.restart()
	if got.Old.PID != before.PID || !strings.Contains(got.Message, "was not what had been proven") {
		t.Errorf("%+v: %s", got.Old, got.Message)
	}
	c.supervised(0)
}

func TestWithoutAShimTheNextCommandReplacesALostWarden(t *testing.T) {
	for _, verb := range []string{"restart", "recover"} {
		t.Run(verb, func(t *testing.T) {
			p := plainRunc(t, nil)
			before := p.running()
			killProcess(t, before.Warden.PID)
			name := host.Namespace + "/" + p.id
			if r := gatewarden(t, "status", name); r.Status != 1 || !strings.Contains(r.Stdout+r.Stderr, "gatewarden recover "+name) {
				t.Errorf("status does not name the cure: %v", r)
			}
			if r := gatewarden(t, verb, "--json", name); r.Status != 0 {
				t.Fatalf("%v", r)
			}
			after := p.running()
			if after.Warden.PID == before.Warden.PID || (after.PID == before.PID) != (verb == "recover") {
				t.Errorf("after %s: warden %d, gateway %d; before: %d, %d", verb, after.Warden.PID, after.PID, before.Warden.PID, before.PID)
			}
		})
	}
}

func TestUpgradeWardenLeavesTheGatewayAlone(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	r := gatewarden(t, "upgrade-warden", c.h.Namespace+"/"+c.id)
	if r.Status != 0 || !strings.Contains(r.Stdout, "was not touched") {
		t.Fatalf("%v", r)
	}
	if after := c.supervised(before.Warden.PID); after.PID != before.PID || after.StartTime != before.StartTime {
		t.Errorf("the gateway is process %d now, and was %d", after.PID, before.PID)
	}
	c.restart()
}

func TestAHungWardenIsToldFromALostOne(t *testing.T) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	c.arm("preflight", "stop")
	r := gatewarden(t, "restart", "--timeout", "2s", c.h.Namespace+"/"+c.id)
	if r.Status == 0 {
		t.Errorf("%v", r)
	}
	if got := c.gateways(); !slices.Equal(got, []int{before.PID}) {
		t.Errorf("the gateways are %v, want %d alone", got, before.PID)
	}
	killProcess(t, before.Warden.PID)
	c.supervised(before.Warden.PID)
}

func TestASuccessorLeavesWhatDescendsFromTheGatewayAlone(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--worker"}}})
	before := c.parked()
	worker := before.Listeners[0].OwnerPID
	if worker == before.PID || worker == 0 {
		t.Fatalf("the gateway has no worker: %+v", before.Listeners)
	}
	killProcess(t, before.Warden.PID)
	after := c.waitFor("a successor supervises the gateway", func(s receipt.Status) bool {
		return s.Warden.PID != before.Warden.PID && s.State == receipt.Running && s.Standby.PID != 0
	})
	if after.PID != before.PID || after.Listeners[0].OwnerPID != worker {
		t.Errorf("the gateway is process %d with the worker %d, and was %d with %d", after.PID, after.Listeners[0].OwnerPID, before.PID, worker)
	}
}
