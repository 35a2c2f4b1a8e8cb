//go:build integration

package integration

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestAnAnnotatedContainerHasAGatewayThatIsRestartedWithProof(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})

	before := c.ask()
	if before.UID != harness.GatewayUID || before.GID != harness.GatewayUID || len(before.Groups) != 0 {
		t.Errorf("the gateway runs as %+v, want UID and GID %d and no groups", before, harness.GatewayUID)
	}
	s := c.status()
	if s.State != receipt.Running || s.NSPID != before.PID || s.Healthy == nil || !*s.Healthy {
		t.Errorf("the status does not show the gateway that answers (PID %d): %+v", before.PID, s)
	}
	if s.Container.ID != c.id || s.Container.Namespace != c.h.Namespace || s.Container.InitPID != c.init() {
		t.Errorf("the status names another container than %s with init %d: %+v", c.id, c.init(), s.Container)
	}
	workload := c.workload()

	got := c.restart("--reason", "first light")
	after := c.ask()
	if after.PID == before.PID {
		t.Errorf("the gateway's PID in the container is %d as before", after.PID)
	}
	checkReceipt(t, got, s, after)
	if got.Action != receipt.Restart || got.Reason != "first light" || got.RequestedBy.Via != "task-exec" {
		t.Errorf("the receipt does not say who asked for what: %+v", got)
	}
	if now := c.workload(); !slices.Equal(now, workload) {
		t.Errorf("the workload changed:\nbefore %v\nafter  %v", workload, now)
	}
	all := c.receipts()
	if len(all) != 2 || all[0].Action != receipt.Start || all[1].ID != got.ID {
		t.Errorf("the journal holds %d receipts, want the start's and %s", len(all), got.ID)
	}
}

// checkReceipt checks a receipt of a replacement against the kernel: before is the status before it, after what the new
// gateway says of itself.
func checkReceipt(t *testing.T, r receipt.Receipt, before receipt.Status, after who) {
	t.Helper()
	if r.Version != 1 || r.ID == "" || r.Outcome != receipt.Replaced || r.Code != "" {
		t.Errorf("the receipt is not of a replacement: %+v", r)
	}
	if r.Old == nil || r.Old.PID != before.PID || r.Old.StartTime != before.StartTime || r.Old.DeathProof != "waitid" {
		t.Errorf("the receipt does not prove the end of PID %d, started %d: %+v", before.PID, before.StartTime, r.Old)
	}
	if r.New == nil {
		t.Fatalf("the receipt has no new gateway: %+v", r)
	}
	if r.New.NSPID != after.PID || r.New.UID != after.UID || r.New.GID != after.GID {
		t.Errorf("the receipt's new gateway is not the one that answers, %+v: %+v", after, r.New)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", r.New.PID))
	if err != nil {
		t.Fatal(err)
	}
	if r.New.Exe != exe || r.New.ExeIno != inode(t, fmt.Sprintf("/proc/%d/exe", r.New.PID)) {
		t.Errorf("the receipt says that %s (inode %d) runs; the kernel says %s", r.New.Exe, r.New.ExeIno, exe)
	}
	if r.New.StartTime != startTime(t, r.New.PID) {
		t.Errorf("the receipt says that PID %d started at %d; the kernel says %d", r.New.PID, r.New.StartTime, startTime(t, r.New.PID))
	}
	if (r.New.Capabilities != receipt.Capabilities{Effective: "0", Permitted: "0", Inheritable: "0", Bounding: "0", Ambient: "0"}) || !r.New.NoNewPrivs {
		t.Errorf("the receipt's gateway has privileges: %+v", r.New)
	}
	if len(r.Listeners) != 1 || r.Listeners[0].OwnerPID != r.New.PID || r.Listeners[0].Address != "tcp://"+harness.GatewayAddress {
		t.Errorf("the receipt does not show that PID %d holds %s: %+v", r.New.PID, harness.GatewayAddress, r.Listeners)
	} else if !holds(t, r.New.PID, fmt.Sprintf("socket:[%d]", r.Listeners[0].Inode)) {
		t.Errorf("PID %d has no descriptor of socket %d", r.New.PID, r.Listeners[0].Inode)
	}
	if r.Probe == nil || r.Probe.Kind != "http" || r.Probe.Status != 200 {
		t.Errorf("the receipt has no proof of readiness: %+v", r.Probe)
	}
	if !r.Workload.Unchanged || r.Workload.Processes < 1 {
		t.Errorf("the receipt says that the workload changed: %+v", r.Workload)
	}
	if r.Millis.Total <= 0 || r.Millis.Unavailable <= 0 || r.Millis.Unavailable > r.Millis.Total {
		t.Errorf("the receipt's times are impossible: %+v", r.Millis)
	}
}

func TestTheReceiptTellsWhenAProcessOfTheWorkloadEndsMeanwhile(t *testing.T) {
	// Its first process does not wait for its children: the one that ends stays as a zombie, and is in nobody's way later.
	c := run(t, options{
		profile: &harness.Profile{Args: []string{"--delay-bind", "1s"}},
		command: []string{"sh", "-c", "sleep 36001 & exec sleep 36000"},
	})
	var child *process.Process
	for _, line := range c.workload() {
		if pid, _, _ := strings.Cut(line, " "); pid != strconv.Itoa(c.init()) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			if child, err = process.Open(n); err != nil {
				t.Fatal(err)
			}
			defer child.Close()
		}
	}
	if child == nil {
		t.Fatalf("the workload has no second process: %v", c.workload())
	}
	wait := c.gatewardenInBackground("restart", "--json", c.name())
	c.waitFor("the next gateway is starting", func(s receipt.Status) bool { return s.State == receipt.Starting })
	if err := child.Kill(); err != nil {
		t.Fatal(err)
	}
	if r := decode[receipt.Receipt](t, wait().Stdout); r.Outcome != receipt.Replaced || r.Workload.Unchanged || r.Workload.Processes != 1 {
		t.Errorf("the receipt of a restart in which one of two processes ended: %s, %+v", r.Outcome, r.Workload)
	}
	if r := c.restart(); !r.Workload.Unchanged || r.Workload.Processes != 1 {
		t.Errorf("the receipt of the restart after it: %+v", r.Workload)
	}
}

func TestTheWorkloadsFirstConnectSucceeds(t *testing.T) {
	c := run(t, options{
		profile: &harness.Profile{Args: []string{"--delay-bind", "300ms"}},
		command: []string{"testworkload", "talk"},
	})
	var got tally
	eventually(t, eventTime, "the workload has asked", func() bool {
		var ok bool
		got, ok = c.talk()
		return ok && got.OK > 0
	}, func() string { return fmt.Sprintf("%+v", got) })
	if got.First != "ok" || got.Refused != 0 {
		t.Errorf("the workload's first request: %s; refused: %d", got.First, got.Refused)
	}
}

func TestARestartLeavesTheWorkloadAsItIs(t *testing.T) {
	c := run(t, options{
		profile: &harness.Profile{},
		command: []string{"sh", "-c", "sleep 1000 & sleep 1001 & exec testworkload talk"},
	})
	before := c.workload()
	if len(before) != 3 {
		t.Fatalf("the workload has %d processes, want 3: %v", len(before), before)
	}
	for range 5 {
		c.restart()
	}
	if after := c.workload(); !slices.Equal(before, after) {
		t.Errorf("the workload changed:\nbefore %v\nafter  %v", before, after)
	}
	s := c.status()
	if s.Restarts.Asked != 5 || s.Restarts.Unasked != 0 {
		t.Errorf("restarts are %+v, want 5 asked for", s.Restarts)
	}
	var got tally
	eventually(t, eventTime, "the workload has met the last gateway", func() bool {
		got, _ = c.talk()
		return slices.Contains(got.PIDs, s.NSPID)
	}, func() string { return fmt.Sprintf("%+v; the gateway is %d", got, s.NSPID) })
}

func TestTaskKillOfTheGatewayRestartsIt(t *testing.T) {
	for _, signal := range []string{"TERM", "INT", "QUIT", "HUP", "KILL"} {
		t.Run(signal, func(t *testing.T) {
			c := run(t, options{profile: &harness.Profile{}})
			before := c.status()
			if r := c.ctr("task", "kill", "--exec-id", "gateway", "-s", signal, c.id); r.Status != 0 {
				t.Fatalf("%v", r)
			}
			// It returns only when the successor is proven.
			if after := c.ask(); after.PID == before.NSPID {
				t.Errorf("the old gateway, PID %d, still answers", after.PID)
			}
			all := c.receipts()
			last := all[len(all)-1]
			if last.Action != receipt.Restart || last.RequestedBy.Via != "task-kill" || last.Old == nil || last.Old.PID != before.PID {
				t.Errorf("the last receipt is not of this restart: %+v", last)
			}
			if signal == "KILL" && last.Old != nil && last.Old.Signal != "SIGKILL" {
				t.Errorf("the gateway ended by %q, want SIGKILL", last.Old.Signal)
			}
		})
	}
}

func TestTaskKillDeliversUserSignalsToTheGatewayWithoutARestart(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	for _, signal := range []string{"USR1", "USR2", "WINCH"} {
		if r := c.ctr("task", "kill", "--exec-id", "gateway", "-s", signal, c.id); r.Status != 0 {
			t.Errorf("%v", r)
		}
		var log string
		eventually(t, eventTime, "the gateway says that it got SIG"+signal, func() bool {
			log = c.mustExec("gatewarden", "logs")
			return strings.Contains(log, "got SIG"+signal)
		}, func() string { return log })
	}
	if after := c.status(); after.PID != before.PID {
		t.Errorf("the gateway is PID %d now, and was %d", after.PID, before.PID)
	}
	if r := c.ctr("task", "kill", "--exec-id", "gateway", "-s", "CONT", c.id); r.Status == 0 {
		t.Errorf("SIGCONT means nothing to a gateway, and was accepted:\n%v", r)
	}
}

func TestAGatewayThatIsKilledFromTheHostIsRespawned(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	workload := c.workload()
	killProcess(t, before.PID)
	after := c.waitFor("another gateway runs", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	if after.Restarts.Unasked != 1 || after.Restarts.Asked != 0 {
		t.Errorf("restarts are %+v, want one unasked", after.Restarts)
	}
	if got := c.ask(); got.PID != after.NSPID {
		t.Errorf("PID %d answers; the status says %d", got.PID, after.NSPID)
	}
	all := c.receipts()
	last := all[len(all)-1]
	if last.Action != receipt.Respawn || last.Old == nil || last.Old.Signal != "SIGKILL" || last.RequestedBy.Via != "warden" {
		t.Errorf("the last receipt is not of a respawn after SIGKILL: %+v", last)
	}
	if now := c.workload(); !slices.Equal(now, workload) {
		t.Errorf("the workload changed:\nbefore %v\nafter  %v", workload, now)
	}
}
