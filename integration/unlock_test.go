//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// runUnlockable is runConfigured with a profile whose file "conf" can be unlocked, and whose file "fixed" cannot.
func runUnlockable(t *testing.T) *configured {
	t.Helper()
	c := &configured{t: t, source: mountDir(t)}
	writeFile(t, filepath.Join(c.source, "conf"), goodConf, 0o644)
	writeFile(t, filepath.Join(c.source, "fixed"), "fixed\n", 0o644)
	if err := os.Mkdir(filepath.Join(c.source, "plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := configuredProfile(c.source)
	p.More += "[unlock]\npaths = [\"/etc/gateway/conf\", \"/etc/gateway/plugins\"]\nmax = \"10m\"\n"
	c.container = run(t, options{profile: p})
	return c
}

// as runs a shell command in the container under a UID.
func (c *container) as(uid int, command string) harness.Result {
	c.t.Helper()
	user := strconv.Itoa(uid)
	return c.ctr("task", "exec", "--user", user+":"+user, "--exec-id", uniqueID("e"), c.id, "/bin/sh", "-c", command)
}

func (c *configured) unlock(flags ...string) {
	c.t.Helper()
	if r := c.operator("unlock", flags...); r.Status != code.ExitOK {
		c.t.Fatalf("unlock: %v", r)
	}
}

// writes lets the gateway's UID write a configuration.
func (c *configured) writes(conf string) {
	c.t.Helper()
	if r := c.as(harness.GatewayUID, fmt.Sprintf("printf '%%b' %q >/etc/gateway/conf", conf)); r.Status != 0 {
		c.t.Fatalf("the gateway's UID cannot write: %v", r)
	}
}

func TestAnUnlockedConfigurationCanBeWrittenByTheGatewayAlone(t *testing.T) {
	c := runUnlockable(t)
	before := c.current(1, goodConf)
	if r := c.as(harness.GatewayUID, "echo x >/etc/gateway/conf"); r.Status == 0 {
		t.Fatal("it can be written while it is locked")
	}
	c.unlock("--for", "5m", "--reason", "first login")
	for name, row := range map[string]struct {
		uid     int
		command string
		may     bool
	}{
		"the gateway, what is declared":     {harness.GatewayUID, "echo '# valid, written' >/etc/gateway/conf", true},
		"the gateway, in a directory":       {harness.GatewayUID, "echo x >/etc/gateway/plugins/one", true},
		"the gateway, what is not declared": {harness.GatewayUID, "echo x >/etc/gateway/fixed", false},
		"the gateway, beside what is":       {harness.GatewayUID, "echo x >/etc/gateway/other", false},
		"the workload":                      {harness.WorkloadUID, "echo x >/etc/gateway/conf", false},
		"the workload, in a directory":      {harness.WorkloadUID, "echo x >/etc/gateway/plugins/two", false},
		"the workload cannot take it away":  {harness.WorkloadUID, "mv /etc/gateway/conf /etc/gateway/x", false},
	} {
		if r := c.as(row.uid, row.command); (r.Status == 0) != row.may {
			t.Errorf("%s: %v", name, r)
		}
	}
	s := c.status()
	if s.PID != before.PID || s.Unlocked == nil || s.Unlocked.Reason != "first login" || time.Until(s.Unlocked.Until) > 5*time.Minute {
		t.Errorf("status %+v", s)
	}
	if out := gatewarden(t, "ps").Stdout; !strings.Contains(out, "running, unlocked 4m") {
		t.Errorf("ps prints\n%s", out)
	}
	// A restart runs with what there is; a change of the configuration would lose it.
	c.restart()
	if r := c.apply(otherConf); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "lock it first") {
		t.Errorf("apply: %v", r)
	}
	restarted := c.status()
	if r := c.operator("lock"); r.Status != code.ExitOK || !strings.Contains(r.Stdout, "what the gateway wrote is generation 2") {
		t.Errorf("lock: %v", r)
	}
	if now := c.current(2, "# valid, written\n"); now.PID != restarted.PID || now.Unlocked != nil {
		t.Errorf("status %+v", now)
	}
	if r := c.as(harness.GatewayUID, "echo x >/etc/gateway/conf"); r.Status == 0 {
		t.Error("it can be written after it was locked")
	}
	if out := c.operator("generations", "--diff", "2").Stdout; !strings.Contains(out, "+# valid, written") || !strings.Contains(out, "+++ generation 2: /etc/gateway/plugins/one") {
		t.Errorf("the difference is\n%s", out)
	}
	if r := c.operator("rollback"); r.Status != code.ExitOK {
		t.Errorf("rollback: %v", r)
	}
	c.current(1, goodConf)
	// What is locked already stays so.
	if r := c.operator("lock"); r.Status != code.ExitOK || !strings.Contains(r.Stdout, "locked already") {
		t.Errorf("lock: %v", r)
	}
}

func TestWhatCannotBeUnlockedIsRefused(t *testing.T) {
	c := runUnlockable(t)
	if r := c.operator("unlock", "--for", "11m"); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "unlock.max, 10m0s") {
		t.Errorf("longer than allowed: %v", r)
	}
	if r := c.operator("unlock"); r.Status != code.ExitUsage {
		t.Errorf("without a time: %v", r)
	}
	plain := run(t, options{profile: &harness.Profile{}})
	if r := plain.operator("unlock", "--for", "1m"); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "no [unlock] paths") {
		t.Errorf("without paths: %v", r)
	}
}

// locked waits until the container's configuration is locked.
func (c *configured) locked() receipt.Status {
	c.t.Helper()
	return c.waitFor("it is locked", func(s receipt.Status) bool { return s.Unlocked == nil && s.State == receipt.Running })
}

func TestAnUnlockedConfigurationIsLockedWhenItsTimeIsOver(t *testing.T) {
	c := runUnlockable(t)
	c.unlock("--for", "2s")
	c.writes(otherConf)
	c.locked()
	c.current(2, otherConf)
	all := c.receipts()
	if last := all[len(all)-1]; last.Action != receipt.Lock || last.Outcome != receipt.Done || last.RequestedBy.Via != "warden" || last.Generation != 2 {
		t.Errorf("receipt %+v", last)
	}
}

func TestTheTimeOfWhatIsUnlockedOutlivesTheWarden(t *testing.T) {
	for name, wait := range map[string]time.Duration{"it is over when the next one comes": 0, "it is not over": time.Minute} {
		t.Run(name, func(t *testing.T) {
			c := runUnlockable(t)
			before := c.parked()
			c.unlock("--for", max(wait, 2*time.Second).String())
			c.writes(otherConf)
			killProcess(t, before.Warden.PID)
			after := c.supervised(before.Warden.PID)
			if wait > 0 {
				if after.Unlocked == nil {
					t.Errorf("status %+v", after)
				}
				c.writes("# valid, written later\n")
				if r := c.operator("lock"); r.Status != code.ExitOK {
					t.Errorf("lock: %v", r)
				}
				c.current(2, "# valid, written later\n")
				return
			}
			c.locked()
			c.current(2, otherConf)
		})
	}
}

// A warden that comes when the time is over already locks before it looks for the gateway, which goes on.
func TestAWardenThatComesTooLateLocksFirst(t *testing.T) {
	withFailpoints(t)
	c := runUnlockable(t)
	before := c.parked()
	c.unlock("--for", "3s")
	c.writes(otherConf)
	reached, _ := c.hold("adopt")
	killProcess(t, before.Warden.PID)
	reached()
	held := c.status()
	if held.Unlocked == nil {
		t.Fatalf("it was locked before its time: %+v", held)
	}
	time.Sleep(time.Until(held.Unlocked.Until))
	killProcess(t, held.Warden.PID)
	after := c.supervised(held.Warden.PID)
	if after.PID != before.PID || after.Unlocked != nil {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	c.current(2, otherConf)
	var actions []string
	for _, r := range c.receipts() {
		actions = append(actions, string(r.Action))
	}
	if got := strings.Join(actions, " "); got != "start unlock recover lock" {
		t.Errorf("the receipts are %s", got)
	}
}

func TestTheTimeOfWhatIsUnlockedOutlivesTheContainersTask(t *testing.T) {
	for name, row := range map[string]struct {
		last     string
		unlocked bool
	}{"it is over before anything else happens": {"1s", false}, "it is not over": {"1m", true}} {
		t.Run(name, func(t *testing.T) {
			c := runUnlockable(t)
			c.unlock("--for", row.last)
			c.writes(otherConf)
			c.stopTask()
			time.Sleep(time.Second)
			c.mustCtr("task", "start", "-d", c.id)
			s := c.parked()
			if (s.Unlocked != nil) != row.unlocked {
				t.Errorf("status %+v", s)
			}
			if got := c.sees(); got != otherConf {
				t.Errorf("the container sees %q", got)
			}
			if r := c.as(harness.GatewayUID, "echo '# valid' >>/etc/gateway/conf"); (r.Status == 0) != row.unlocked {
				t.Errorf("writing: %v", r)
			}
			if !row.unlocked {
				c.current(2, otherConf)
			}
		})
	}
}

// What the gateway wrote and no generation can hold keeps nobody from locking.
func TestWhatTheGatewayWroteMayBeRefusedAndIsLockedAllTheSame(t *testing.T) {
	c := runUnlockable(t)
	c.unlock("--for", "5m")
	if r := c.as(harness.GatewayUID, "ln -s /etc/shadow /etc/gateway/plugins/link"); r.Status != 0 {
		t.Fatal(r)
	}
	if r := c.operator("lock"); r.Status != code.ExitOK || !strings.Contains(r.Stdout, "plugins/link is a symbolic link") {
		t.Errorf("lock: %v", r)
	}
	c.current(1, goodConf)
	kept := filepath.Join(generation.Open(c.stateDir()).Dir(), "unlocked.refused", "mount", "0", "plugins", "link")
	if _, err := os.Lstat(kept); err != nil {
		t.Error(err)
	}
}

// Whoever has a file open when it is locked can still write to it: what came before the lock was told is not lost.
func TestWhatIsWrittenByAnOpenDescriptorWhileItIsLockedIsSeen(t *testing.T) {
	c := runUnlockable(t)
	c.unlock("--for", "5m")
	c.spawnAs(harness.GatewayUID, "/bin/sh", "-c", "exec >>/etc/gateway/conf; i=0; while [ $i -lt 100000 ]; do echo '# valid'; i=$((i+1)); done; sleep 60")
	if r := c.operator("lock"); r.Status != code.ExitOK {
		t.Errorf("lock: %v", r)
	}
	s := c.status()
	c.current(s.Generation, c.sees())
}

func TestPauseAndDeleteOfWhatIsUnlocked(t *testing.T) {
	c := runUnlockable(t)
	c.unlock("--for", "2s")
	c.writes(otherConf)
	c.pause()
	// The time passes, and is kept, while nothing in the container can run.
	eventually(t, eventTime, "it is locked", func() bool {
		r, err := generation.Open(c.stateDir()).Record()
		return err == nil && r.Unlocked == nil
	}, func() string { return "" })
	c.resume()
	c.current(2, otherConf)
	c.unlock("--for", "5m")
	c.delete()
	c.checkGone()
}
