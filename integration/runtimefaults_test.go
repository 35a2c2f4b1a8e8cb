//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// restartBy starts a restart with one of the clients that there are.
func (c *container) restartBy(client string, flags ...string) (wait func() harness.Result) {
	c.t.Helper()
	switch client {
	case "gatewarden":
		return c.gatewardenInBackground(append([]string{"restart", "--json", c.name()}, flags...)...)
	case "exec":
		return c.begin(append([]string{"gatewarden", "restart", "--json"}, flags...)...)
	case "kill":
		return c.ctrInBackground("task", "kill", "--exec-id", "gateway", "-s", "TERM", c.id)
	}
	c.t.Fatalf("no client %q", client)
	return nil
}

// daemonFaults kill containerd inside a restart.
var daemonFaults = faults{
	test:  "TestARestartOutlivesContainerd",
	title: "containerd is killed and started again",
	about: "SIGKILL of containerd at a point inside a restart. `gatewarden` does not need containerd. `ctr` loses its connection and says so; the restart is carried out all the same, and `status` and `receipts` tell it.",
	rows:  daemonRows(),
}

func daemonRows() []fault {
	var rows []fault
	for _, p := range restartPoints {
		clients := []string{"exec"}
		if p.point == "signalled" || p.point == "probe" {
			clients = []string{"exec", "gatewarden", "kill"}
		}
		for _, client := range clients {
			row := fault{
				stage: string(p.stage), fault: "containerd killed: " + p.when + "; asked by " + client,
				state: receipt.Running, gateway: aNewOne, note: "workload unchanged; one receipt; the next restart by exec works",
				do: func(t *testing.T) (*container, receipt.Status, harness.Result) { return killDaemon(t, p.point, client) },
			}
			if client != "gatewarden" {
				row.exit = 1
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func killDaemon(t *testing.T, point, client string) (*container, receipt.Status, harness.Result) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{}})
	before := c.parked()
	workload := c.workload()
	reached, release := c.hold(point)
	wait := c.restartBy(client)
	reached()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	if err := host.CrashDaemon(ctx); err != nil {
		t.Fatal(err)
	}
	release()
	said := wait()
	after := c.waitFor("the restart is finished", func(s receipt.Status) bool {
		return s.State == receipt.Running && s.PID != before.PID && s.Standby.PID != 0
	})
	if after.Warden.PID != before.Warden.PID || after.Restarts.Asked != before.Restarts.Asked+1 || after.Generation != before.Generation {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	if now := c.workload(); !slices.Equal(now, workload) {
		t.Errorf("the workload is %v, and was %v", now, workload)
	}
	var restarts []receipt.Receipt
	for _, r := range c.receipts() {
		if r.Action == receipt.Restart {
			restarts = append(restarts, r)
		}
	}
	if len(restarts) != 1 || restarts[0].Outcome != receipt.Replaced || restarts[0].Old.PID != before.PID || restarts[0].New.PID != after.PID {
		t.Errorf("the receipts of the restart: %+v", restarts)
	}
	// The state that containerd knows is right again: it asks the shim.
	s := statusOf(t, withTime(t), c.gatewayProcess())
	if s.Status != containerd.Running {
		t.Errorf("containerd says that the gateway is %s", s.Status)
	}
	c.restart()
	return c, before, said
}

// gatewayProcess is the exec that stands for the gateway, as clients of containerd load it.
func (c *container) gatewayProcess() containerd.Process {
	c.t.Helper()
	p, err := c.task().LoadProcess(withTime(c.t), "gateway", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

func TestARestartOutlivesContainerd(t *testing.T) { daemonFaults.run(t) }

// shim is the PID of the container's shim.
func (c *container) shim() int {
	c.t.Helper()
	processes, err := c.h.Processes()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range processes {
		if strings.Contains(p.Command, "containerd-shim-gatewarden-v2") && strings.Contains(p.Command, "-id "+c.id+" ") {
			return p.PID
		}
	}
	c.t.Fatalf("container %s has no shim", c.id)
	return 0
}

// shimFaults kill the shim: containerd then ends the container, as with runc's own.
var shimFaults = faults{
	test:  "TestNothingIsLeftOfAContainerWhoseShimIsKilled",
	title: "The shim is killed",
	about: "SIGKILL of the shim. containerd deletes the container of a dead shim, whatever its runtime; nothing of the gateway may be left: no process, mount, cgroup, namespace, socket or file. (The dead shim's own socket is left by containerd, with its stock shim too.)",
	rows: []fault{
		{
			stage: "idle", fault: "shim killed", exit: noClient, gateway: none, note: "nothing is left",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				c := run(t, options{profile: &harness.Profile{}})
				before := c.parked()
				killProcess(t, c.shim())
				c.onlySocketLeft()
				return c, before, harness.Result{}
			},
		},
		{
			stage: "idle", fault: "shim and warden killed together", exit: noClient, gateway: none, note: "nothing is left",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				c := run(t, options{profile: &harness.Profile{}})
				before, shim := c.parked(), c.shim()
				killProcess(t, before.Warden.PID)
				killProcess(t, shim)
				c.onlySocketLeft()
				return c, before, harness.Result{}
			},
		},
		shimRow(code.StageStop, "signalled", "the signal is sent"),
		shimRow(code.StageAbsence, "stopped", "between stop and launch"),
		shimRow(code.StageProbe, "probe", "while probing"),
	},
}

func shimRow(stage code.Stage, point, when string) fault {
	return fault{
		stage: string(stage), fault: "shim killed: " + when + "; asked by gatewarden", exit: 1, code: code.NotRunning, message: "cannot restart gateway …",
		gateway: none, note: "nothing is left",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			withFailpoints(t)
			c := run(t, options{profile: &harness.Profile{}})
			before := c.parked()
			reached, release := c.hold(point)
			wait := c.restartBy("gatewarden")
			reached()
			init := c.init()
			killProcess(t, c.shim())
			// It has no memory any more once it is ending. It can't end while the warden is held, which reaps nothing then.
			eventually(t, eventTime, "the container's init is ending", func() bool {
				cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", init))
				return err != nil || len(cmdline) == 0
			}, c.h.DaemonLog)
			release()
			said := wait()
			c.onlySocketLeft()
			return c, before, said
		},
	}
}

// onlySocketLeft waits until nothing is left but the dead shim's socket, which containerd leaves (see the test of the stock
// shim), and removes that.
func (c *container) onlySocketLeft() {
	c.t.Helper()
	socket := c.h.ShimSocket(c.id)
	var left []string
	eventually(c.t, eventTime, "containerd has cleaned up", func() bool {
		left = c.left()
		return slices.Equal(left, []string{socket})
	}, func() string { return strings.Join(left, "\n") + "\n" + c.h.DaemonLog() })
	remove(c.t, socket)
}

func TestContainerdLeavesTheSocketOfADeadShimOfTheStockKindToo(t *testing.T) {
	c := run(t, options{runtime: harness.Stock})
	processes, err := host.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if strings.Contains(p.Command, "containerd-shim-runc-v2") && strings.Contains(p.Command, "-id "+c.id+" ") {
			killProcess(t, p.PID)
		}
	}
	c.onlySocketLeft()
}

func TestNothingIsLeftOfAContainerWhoseShimIsKilled(t *testing.T) { shimFaults.run(t) }

func (c *container) pause()  { c.t.Helper(); c.mustCtr("task", "pause", c.id) }
func (c *container) resume() { c.t.Helper(); c.mustCtr("task", "resume", c.id) }

func (c *container) mustCtr(args ...string) {
	c.t.Helper()
	if r := c.ctr(args...); r.Status != 0 {
		c.t.Fatalf("%v", r)
	}
}

const isPaused = "the container is paused: resume it first (ctr --namespace … task resume …)"

// pauseFaults pause the container before and inside an action.
var pauseFaults = faults{
	test:  "TestAPausedContainer",
	title: "The container is paused",
	about: "By `ctr task pause`, and resumed after the command has answered. A frozen process takes no signal and answers nothing, so an action is refused at once, and one that the pause overtakes fails at its own deadline; it is never the reason for a second gateway, nor counted as a crash.",
	rows: []fault{
		pauseRow("restart", 3, func(c *container) harness.Result { return c.tryRestart() }, "cannot restart gateway …: "+isPaused+"; process … was not touched and goes on"),
		pauseRow("recover", 3, func(c *container) harness.Result { return c.exec("gatewarden", "recover", "--json") },
			"cannot recover gateway …: "+isPaused+"; process … was not touched and goes on"),
		pauseRow("probe", 5, func(c *container) harness.Result { return c.exec("gatewarden", "probe", "--json") }, isPaused),
		pauseRow("task kill -s TERM", 1, func(c *container) harness.Result { return c.restartBy("kill")() },
			"gatewarden: cannot restart gateway …: "+isPaused+"; process … was not touched and goes on"),
		pauseRow("task kill -s USR1", 1, func(c *container) harness.Result {
			return c.ctr("task", "kill", "--exec-id", "gateway", "-s", "USR1", c.id)
		}, "gatewarden: "+isPaused),
		pausedInside(code.StageStop, "intent", "before the signal", isPaused+": process … survived SIGKILL for 5s; it is in state …"),
		pausedInside(code.StageLaunch, "release", "before the go", isPaused+": the launcher did not exec before the deadline"),
		pausedInside(code.StageListen, "launched", "after exec", isPaused+" (…s after its start); process … is still there"),
		pausedInside(code.StageProbe, "probe", "while probing", isPaused+" (…s after its start); process … is still there"),
	},
}

func pauseRow(what string, exit int, command func(*container) harness.Result, message string) fault {
	return fault{
		stage: "idle", fault: "container paused; asked for: " + what, exit: exit, code: code.Paused, message: message,
		state: receipt.Running, gateway: theSame, note: "answered within 2 s",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: &harness.Profile{}})
			before := c.parked()
			c.pause()
			began := time.Now()
			said := command(c)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("answered after %v", took)
			}
			if s := c.status(); s.State != receipt.Running || s.PID != before.PID || s.Healthy != nil {
				t.Errorf("while it is paused the status is %+v", s)
			}
			c.resume()
			return c, before, said
		},
	}
}

func pausedInside(stage code.Stage, point, when, message string) fault {
	return fault{
		stage: string(stage), fault: "container paused: " + when, exit: 1, code: code.Paused, message: "cannot restart gateway …: " + message + "…",
		state: receipt.Running, gateway: aNewOne, note: "resumed after 3 s more: not counted as a crash (`restart.burst` is 1); workload unchanged",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			withFailpoints(t)
			c := run(t, options{profile: &harness.Profile{
				Stop: "timeout = \"500ms\"", Restart: "burst = 1", Ready: "http = \"http://" + harness.GatewayAddress + "/health\"\ntimeout = \"1s\"",
			}})
			before := c.parked()
			workload := c.workload()
			reached, release := c.hold(point)
			wait := c.restartBy("gatewarden", "--timeout", "8s")
			reached()
			c.pause()
			release()
			said := wait()
			time.Sleep(3 * time.Second)
			if s := c.status(); s.Code != code.Paused {
				t.Errorf("the status does not tell of the pause: %+v", s)
			}
			if got := c.gateways(); len(got) > 1 {
				t.Errorf("processes %v run the gateway's program", got)
			}
			c.resume()
			c.parked()
			if now := c.workload(); !slices.Equal(now, workload) {
				t.Errorf("the workload is %v, and was %v", now, workload)
			}
			c.restart()
			return c, before, said
		},
	}
}

func TestAPausedContainer(t *testing.T) { pauseFaults.run(t) }

func TestAGatewayThatIsKilledWhilePausedIsStartedAgainOnceResumed(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Restart: "burst = 1"}})
	before := c.parked()
	c.pause()
	killProcess(t, before.PID)
	// On a v1 freezer the end comes with the resume, on v2 at once. Either is longer than what the backoff would allow.
	time.Sleep(2 * time.Second)
	if s := c.status(); s.State != receipt.Running && s.Code != code.Paused {
		t.Errorf("while it is paused the status is %+v", s)
	}
	c.resume()
	after := c.waitFor("the next gateway runs", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	if old := after.Last.Old; after.Restarts.Unasked != 1 || old == nil || old.PID != before.PID || old.Signal != "SIGKILL" || old.OOM {
		t.Errorf("%+v", after.Last)
	}
	if got := c.gateways(); !slices.Equal(got, []int{after.PID}) {
		t.Errorf("the gateways are %v, want %d alone", got, after.PID)
	}
}

func TestACheckpointOfAContainerWithAGatewayIsRefused(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	before := c.parked()
	ctx := withTime(t)
	_, err := c.task().Checkpoint(ctx, containerd.WithCheckpointImagePath(filepath.Join(t.TempDir(), "image")))
	if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "container "+c.id+" cannot be checkpointed") || !strings.Contains(err.Error(), "create it anew") {
		t.Errorf("the checkpoint: %v", err)
	}
	// The client has paused and resumed it.
	if after := c.parked(); after.PID != before.PID {
		t.Errorf("the gateway is process %d now, and was %d", after.PID, before.PID)
	}
	c.restart()

	plain := run(t, options{})
	if _, err := plain.task().Checkpoint(ctx, containerd.WithCheckpointImagePath(filepath.Join(t.TempDir(), "image"))); err == nil || strings.Contains(err.Error(), "gatewarden") {
		t.Errorf("a container without a gateway is runc's business: %v", err)
	}
}
