//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// cgroupFile is a file of the container's cgroup: of that controller's hierarchy (v1), or, by its other name, of the unified one.
func (c *container) cgroupFile(controller, v1, v2 string) string {
	c.t.Helper()
	path := filepath.Join("/sys/fs/cgroup", controller, c.h.Namespace, c.id, v1)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return filepath.Join("/sys/fs/cgroup", c.h.Namespace, c.id, v2)
}

func (c *container) maxPids() string { return c.cgroupFile("pids", "pids.max", "pids.max") }
func (c *container) pids() string    { return c.cgroupFile("pids", "pids.current", "pids.current") }
func (c *container) maxMemory() string {
	return c.cgroupFile("memory", "memory.limit_in_bytes", "memory.max")
}
func (c *container) memory() string {
	return c.cgroupFile("memory", "memory.usage_in_bytes", "memory.current")
}

func number(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// limit sets a limit of the running container, as `runc update` would.
func limit(t *testing.T, path string, n int) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strconv.Itoa(n)), 0); err != nil {
		t.Fatal(err)
	}
}

// spawn starts a command in the container and waits for its first line.
func (c *container) spawn(args ...string) {
	c.t.Helper()
	log := filepath.Join(c.t.TempDir(), uniqueID("spawned"))
	c.mustCtr(append([]string{"task", "exec", "-d", "--user", strconv.Itoa(harness.WorkloadUID), "--exec-id", uniqueID("s"), "--log-uri", "file://" + log, c.id}, args...)...)
	eventually(c.t, eventTime, strings.Join(args, " ")+" has begun", func() bool {
		data, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(data), "\n")
	}, func() string { return "" })
}

// limitFaults meet the container's own limits.
var limitFaults = faults{
	test:  "TestLimitsOfTheContainer",
	title: "The container is at its own limits",
	about: "The gateway lives in the container's cgroup, within its limits. A restart needs no fork in there, because the next process is parked already; only the standby after that does. What can't be done is told with the limit's name.",
	rows: []fault{
		{
			stage: "running", fault: "the gateway grows beyond the memory limit", exit: noClient, state: receipt.Running, gateway: aNewOne,
			note: "the receipt's `old.oom` is true, and the status names it while backing off",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				c := run(t, options{profile: &harness.Profile{Restart: "backoff = { initial = \"4s\", max = \"4s\" }"}, flags: []string{"--memory-limit", "100000000"}})
				before := c.parked()
				c.get("/eat")
				c.waitFor("the kernel's kill is named", func(s receipt.Status) bool {
					return s.State == receipt.Backoff && strings.Contains(s.Message, "(killed by SIGKILL, out of memory: the kernel killed it at the container's memory limit of ")
				})
				after := c.parked()
				if old := after.Last.Old; after.Last.Action != receipt.Respawn || old == nil || !old.OOM || old.Signal != "SIGKILL" || old.PID != before.PID {
					t.Errorf("%+v", after.Last)
				}
				return c, before, harness.Result{}
			},
		},
		{
			stage: "running", fault: "the gateway is killed by root (SIGKILL)", exit: noClient, state: receipt.Running, gateway: aNewOne, note: "not called out of memory",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				c := run(t, options{profile: &harness.Profile{Restart: "backoff = { initial = \"4s\", max = \"4s\" }"}, flags: []string{"--memory-limit", "100000000"}})
				before := c.parked()
				killProcess(t, before.PID)
				s := c.waitFor("it backs off", func(s receipt.Status) bool { return s.State == receipt.Backoff })
				if strings.Contains(s.Message, "memory") {
					t.Errorf("%s", s.Message)
				}
				if after := c.parked(); after.Last.Old.OOM || after.Last.Old.Signal != "SIGKILL" {
					t.Errorf("%+v", after.Last)
				}
				return c, before, harness.Result{}
			},
		},
		{
			stage: string(code.StageListen), fault: "the next gateway grows beyond the memory limit before it is ready", exit: 1, code: code.LaunchFailed,
			message: "cannot restart gateway …: the gateway ended before it was ready (killed by SIGKILL, out of memory: the kernel killed it at the container's memory limit of … bytes)…; no gateway runs now",
			state:   receipt.FailedSt, gateway: none, note: "its policy is \"never\" here",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				p := withOptions(t, harness.Profile{Restart: "policy = \"never\""})
				c := run(t, options{profile: p, flags: []string{"--memory-limit", "100000000"}})
				before := c.parked()
				c.options("--eat")
				return c, before, c.tryRestart()
			},
		},
		{
			stage: "any", fault: "the workload has used up pids.max", exit: 0, state: receipt.Running, gateway: aNewOne,
			note: "workload unchanged; the status says that there is no standby, and why",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				c, before := full(t)
				said := c.tryRestart()
				noStandby(c)
				if r := decode[receipt.Receipt](t, said.Stdout); !r.Workload.Unchanged || r.Workload.Processes < 20 {
					t.Errorf("the workload: %+v", r.Workload)
				}
				limit(t, c.maxPids(), 200) // the check asks from inside the container
				return c, before, said
			},
		},
		{
			stage: string(code.StagePreflight), fault: "the same, and no standby", exit: 3, code: code.LaunchFailed,
			message: "cannot restart gateway …: the container has used up its process limit (pids.max …, threads included): end some of its processes or raise the limit: …; process … was not touched and goes on",
			state:   receipt.Running, gateway: aNewOne, note: "with a higher limit the standby comes by itself and the next restart works",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				c, before := full(t)
				first := c.restart()
				noStandby(c)
				said := c.tryRestart("--timeout", "10s")
				if s := c.status(); s.PID != first.New.PID {
					t.Errorf("the refused restart touched process %d: %+v", first.New.PID, s)
				}
				limit(t, c.maxPids(), 200)
				s := c.parked()
				if s.Message != "" {
					t.Errorf("the status still says %q", s.Message)
				}
				c.restart()
				return c, before, said
			},
		},
		{
			stage: "any", fault: "the workload is at the memory limit", exit: 0, state: receipt.Running, gateway: aNewOne,
			note: "workload unchanged, and no process of it killed for the next standby: the next restart is refused with the limit's name, until there is room",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				c := run(t, options{profile: &harness.Profile{}})
				before := c.parked()
				c.spawn("testworkload", "hog", "--bytes", "100000000")
				limit(t, c.maxMemory(), number(t, c.memory())+1<<20)
				workload := c.workload()
				said := c.tryRestart()
				c.waitFor("the missing standby is told", func(s receipt.Status) bool {
					return strings.HasPrefix(s.Message, "no standby, so a restart would be refused: the container has used up its memory limit (")
				})
				second := c.tryRestart()
				refused(t, second, code.ExitRefused, "the container has used up its memory limit (")
				limit(t, c.maxMemory(), 1<<30)
				if now := c.workload(); !slices.Equal(now, workload) {
					t.Errorf("the workload is %v, and was %v", now, workload)
				}
				c.restart()
				return c, before, said
			},
		},
	},
}

// full is a container whose workload has used up pids.max.
func full(t *testing.T) (*container, receipt.Status) {
	t.Helper()
	// With one processor for each gateway of Go the next one has nearly as many threads as the one before, and leaves no room for
	// a launcher to join.
	c := run(t, options{profile: &harness.Profile{Gateway: "env = { GOMAXPROCS = \"1\" }"}})
	before := c.parked()
	limit(t, c.maxPids(), 60)
	c.spawn("testworkload", "fill")
	if now := number(t, c.pids()); now < 60 {
		t.Fatalf("%d processes and threads of 60", now)
	}
	return c, before
}

// noStandby waits until no standby can be made any more, and the status says why.
func noStandby(c *container) {
	c.t.Helper()
	ended := 0
	c.waitFor("the missing standby is told", func(s receipt.Status) bool {
		if s.Standby.PID != 0 && s.Standby.PID != ended {
			// The gateway has fewer threads than the one before, and a launcher fits in. It goes, and its place alone is not enough
			// for another to join.
			ended = s.Standby.PID
			limit(c.t, c.maxPids(), number(c.t, c.pids()))
			killProcess(c.t, ended)
		}
		return s.State == receipt.Running && strings.HasPrefix(s.Message, "no standby, so a restart would be refused: the container has used up its process limit (pids.max ")
	})
}

func TestLimitsOfTheContainer(t *testing.T) { limitFaults.run(t) }

// A gateway of one thread needs nothing from the limit: the launcher's own place becomes its place. So not even a workload
// that takes every place at once when it is free can keep it from being restarted.
func TestAGatewayOfOneThreadIsRestartedInTheMidstOfAForkBomb(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{
		// It forks for each connection, the probe's too, and goes on where that fails.
		Command: []string{"/bin/busybox", "httpd", "-f", "-p", "18789", "-h", "/"},
		Listen:  "[[listen]]\nname = \"api\"\naddress = \"tcp6://[::]:18789\"\n",
		Ready:   "tcp = \"127.0.0.1:18789\"",
	}})
	before := c.parked()
	limit(t, c.maxPids(), 40)
	c.spawn("testworkload", "fill", "--on")
	r := c.restart()
	if r.Old.PID != before.PID || r.Outcome != receipt.Replaced {
		t.Errorf("%+v", r)
	}
	// Whether the next standby gets a place is between it and the bomb. Without one the restart is refused, and nothing is lost.
	again := c.tryRestart()
	running := r.New.PID
	if again.Status == code.ExitOK {
		running = decode[receipt.Receipt](t, again.Stdout).New.PID
	} else {
		refused(t, again, code.ExitRefused, "pids.max 40")
	}
	if s := c.status(); s.State != receipt.Running || s.PID != running {
		t.Errorf("process %d should run: %+v", running, s)
	}
	limit(t, c.maxPids(), 4000)
}
