//go:build integration

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// configured is a container whose gateway reads its options from a configuration.
type configured struct {
	*container
	t      *testing.T
	source string // that the profile declares
}

// Configurations of configured: what is written to the file "conf".
const (
	goodConf   = "OPTIONS=\n# valid\n"
	otherConf  = "OPTIONS=\"--say other\"\n# valid\n"
	silentConf = "OPTIONS=\"--status 503\"\n# valid\n" // its gateway never says that it is ready
	brokenConf = "exit 3\n# valid\n"                   // its gateway ends at once
	badConf    = "OPTIONS=\n"                          // the preflight command says no
)

const preflightTable = `[preflight]
command = ["/bin/sh", "-c", "grep -q valid /etc/gateway/conf && exit 0; echo the configuration is not valid; echo it has no such word; exit 1"]
`

func configuredProfile(source string) *harness.Profile {
	return &harness.Profile{
		Command: []string{"/bin/sh", "-c", ". /etc/gateway/conf; exec /usr/local/bin/testgateway --listen " + harness.GatewayAddress + " $OPTIONS"},
		Ready:   "http = \"http://" + harness.GatewayAddress + "/health\"\ntimeout = \"1s\"",
		More:    mountTable(source, "/etc/gateway") + preflightTable,
	}
}

func runConfigured(t *testing.T, change func(*harness.Profile)) *configured {
	t.Helper()
	c := &configured{t: t, source: mountDir(t)}
	writeFile(t, filepath.Join(c.source, "conf"), goodConf, 0o644)
	p := configuredProfile(c.source)
	if change != nil {
		change(p)
	}
	c.container = run(t, options{profile: p})
	return c
}

// confDir is a directory with a configuration.
func confDir(t *testing.T, conf string) string {
	t.Helper()
	dir := mountDir(t)
	writeFile(t, filepath.Join(dir, "conf"), conf, 0o644)
	return dir
}

// apply applies a configuration.
func (c *configured) apply(conf string, flags ...string) harness.Result {
	c.t.Helper()
	return c.operator("apply", append([]string{"--config", confDir(c.t, conf)}, flags...)...)
}

func (c *configured) mustApply(conf string, flags ...string) receipt.Receipt {
	c.t.Helper()
	r := c.apply(conf, append(flags, "--json")...)
	if r.Status != code.ExitOK {
		c.t.Fatalf("apply: %v", r)
	}
	return decode[receipt.Receipt](c.t, r.Stdout)
}

// sees is what the container sees of its configuration.
func (c *configured) sees() string { return c.mustExec("/bin/cat", "/etc/gateway/conf") }

// current checks that exactly generation n is current and shown, and that a proven gateway runs with conf.
func (c *configured) current(n int, conf string) receipt.Status {
	c.t.Helper()
	store := generation.Open(c.stateDir())
	r, err := store.Record()
	if err != nil {
		c.t.Fatal(err)
	}
	s := c.status()
	if r.Current != n || r.Trying != 0 || s.Generation != n {
		c.t.Errorf("generation %d is current, %d is tried, and the status tells %d: %d alone should be there", r.Current, r.Trying, s.Generation, n)
	}
	if s.State != receipt.Running || s.Healthy == nil || !*s.Healthy {
		c.t.Errorf("the gateway is not well: %+v", s)
	}
	if got := c.sees(); got != conf {
		c.t.Errorf("the container sees %q, not %q", got, conf)
	}
	if err := store.Verify(c.t.Context(), n, harness.GatewayUID); err != nil {
		c.t.Error(err)
	}
	if n := strings.Count(c.mustExec("/bin/cat", "/proc/self/mountinfo"), " /etc/gateway "); n != 1 {
		c.t.Errorf("%d mounts lie at the target", n)
	}
	return s
}

func TestAnAppliedConfigurationIsWhatRuns(t *testing.T) {
	c := runConfigured(t, nil)
	before := c.current(1, goodConf)
	r := c.mustApply(otherConf, "--reason", "a new word")
	if r.Action != receipt.Apply || r.Outcome != receipt.Replaced || r.Generation != 2 || r.Old == nil || r.Old.PID != before.PID || r.Rejected != nil {
		t.Errorf("receipt %+v", r)
	}
	after := c.current(2, otherConf)
	if after.PID == before.PID {
		t.Errorf("process %d still runs", after.PID)
	}
	if log := c.operator("logs").Stdout; !strings.Contains(log, "other") {
		t.Errorf("the gateway wrote %q", log)
	}
	// The same again is nothing to do.
	again := c.mustApply(otherConf)
	if again.Outcome != receipt.AlreadyRunning || again.New == nil || again.New.PID != after.PID || again.Generation != 2 {
		t.Errorf("the same again: %+v", again)
	}
	// A restart does not go back to what is declared, which nobody has edited.
	c.restart()
	c.current(2, otherConf)
	if out := c.operator("generations").Stdout; !strings.Contains(out, "/etc/gateway/conf  a new word") || strings.Count(out, "\n") != 3 {
		t.Errorf("generations prints\n%s", out)
	}
	if out := c.operator("generations", "--diff", "2").Stdout; !strings.Contains(out, "-OPTIONS=\n+OPTIONS=\"--say other\"\n # valid\n") {
		t.Errorf("the difference is\n%s", out)
	}
}

func TestAConfigurationThatThePreflightCommandRefusesTouchesNothing(t *testing.T) {
	c := runConfigured(t, nil)
	before := c.current(1, goodConf)
	view := c.mustExec("/bin/cat", "/proc/self/mountinfo")
	r := c.apply(badConf)
	if r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "it said: the configuration is not valid | it has no such word") ||
		!strings.Contains(r.Stderr, fmt.Sprintf("process %d was not touched and goes on", before.PID)) {
		t.Errorf("apply: %v", r)
	}
	after := c.current(1, goodConf)
	if after.PID != before.PID || after.Rejected != nil || after.Message != "" {
		t.Errorf("status %+v", after)
	}
	if now := c.mustExec("/bin/cat", "/proc/self/mountinfo"); now != view {
		t.Errorf("the container's mounts have changed:\n%s\nand were\n%s", now, view)
	}
	if n, err := generation.Open(c.stateDir()).Numbers(); err != nil || !slices.Equal(n, []int{1}) {
		t.Errorf("the generations are %v (%v)", n, err)
	}
}

func TestAConfigurationWhoseGatewayIsNotProvenIsRolledBack(t *testing.T) {
	for name, conf := range map[string]string{"it ends at once": brokenConf, "it is never ready": silentConf, "forced past preflight": "exit 4\n"} {
		t.Run(name, func(t *testing.T) {
			c := runConfigured(t, nil)
			before := c.current(1, goodConf)
			r := c.apply(conf, "--skip-preflight", "--json")
			got := decode[receipt.Receipt](t, r.Stdout)
			if r.Status != code.ExitRolledBack || got.Outcome != receipt.RolledBack || got.Code != code.RolledBack || got.Generation != 1 ||
				got.Rejected == nil || got.Rejected.Generation != 2 || got.Old == nil || got.Old.PID != before.PID || got.New == nil {
				t.Fatalf("apply: %v", r)
			}
			after := c.current(1, goodConf)
			if after.PID != got.New.PID || after.PID == before.PID {
				t.Errorf("process %d runs, and the receipt names %d", after.PID, got.New.PID)
			}
			// Loud, until somebody acts; a restart is no such act.
			const loud = "running generation 1, 2 rejected: generation 2: "
			if after.Code != code.RolledBack || !strings.HasPrefix(after.Message, loud) || after.Rejected == nil {
				t.Errorf("status %+v", after)
			}
			c.restart()
			if out := gatewarden(t, "ps").Stdout; !strings.Contains(out, loud) {
				t.Errorf("ps prints\n%s", out)
			}
			if r := c.operator("rollback", "--to", "1"); r.Status != code.ExitOK {
				t.Errorf("rollback: %v", r)
			}
			if s := c.current(1, goodConf); s.Rejected != nil || s.Message != "" || s.Code != "" {
				t.Errorf("after somebody has acted: %+v", s)
			}
		})
	}
}

func TestARollbackGoesBackToAnEarlierGeneration(t *testing.T) {
	c := runConfigured(t, nil)
	c.mustApply(otherConf)
	c.mustApply("# valid, the third\n")
	if r := c.operator("rollback"); r.Status != code.ExitOK {
		t.Fatalf("rollback: %v", r)
	}
	c.current(2, otherConf)
	if r := c.operator("rollback", "--to", "1", "--dry-run"); r.Status != code.ExitOK || !strings.Contains(r.Stdout, "generation 1 would take the place of 2") {
		t.Errorf("dry run: %v", r)
	}
	if r := c.operator("rollback", "--to", "1"); r.Status != code.ExitOK {
		t.Fatalf("rollback: %v", r)
	}
	c.current(1, goodConf)
	if r := c.operator("rollback"); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "generation 1 is the first one") {
		t.Errorf("rollback beyond the first: %v", r)
	}
	if r := c.operator("rollback", "--to", "9"); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "there are 1 2 3") {
		t.Errorf("rollback to one that is not there: %v", r)
	}
	// Numbers are not used twice.
	c.mustApply("# valid, the fourth\n")
	c.current(4, "# valid, the fourth\n")
}

func TestADryRunPrintsThePlanAndChangesNothing(t *testing.T) {
	c := runConfigured(t, nil)
	before := c.current(1, goodConf)
	r := c.apply(otherConf, "--dry-run")
	if r.Status != code.ExitOK || !strings.Contains(r.Stdout, "generation 2 would take the place of 1, with a restart") ||
		!strings.Contains(r.Stdout, "changed  /etc/gateway/conf\n") || !strings.Contains(r.Stdout, "+OPTIONS=\"--say other\"\n") {
		t.Errorf("dry run: %v", r)
	}
	if r := c.apply(badConf, "--dry-run"); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "the configuration is not valid") {
		t.Errorf("dry run of a bad one: %v", r)
	}
	if r := c.apply(goodConf, "--dry-run"); r.Status != code.ExitOK || !strings.Contains(r.Stdout, "nothing would change") {
		t.Errorf("dry run of the same: %v", r)
	}
	if after := c.current(1, goodConf); after.PID != before.PID || len(c.receipts()) != 1 {
		t.Errorf("status %+v, receipts %+v", after, c.receipts())
	}
	if n, err := generation.Open(c.stateDir()).Numbers(); err != nil || !slices.Equal(n, []int{1}) {
		t.Errorf("the generations are %v (%v)", n, err)
	}
}

func TestWhatIsDeclaredIsTakenUpByTheNextRestart(t *testing.T) {
	c := runConfigured(t, nil)
	write := func(conf string) { writeFile(t, filepath.Join(c.source, "conf"), conf, 0o644) }
	write(otherConf)
	if got := c.sees(); got != goodConf {
		t.Errorf("an edit is seen before it is taken up: %q", got)
	}
	if r := c.restart(); r.Generation != 2 {
		t.Errorf("receipt %+v", r)
	}
	c.current(2, otherConf)
	// A broken one never brings the gateway down, and is not tried twice.
	write(brokenConf)
	before := c.current(2, otherConf)
	r := c.tryRestart("--json")
	if got := decode[receipt.Receipt](t, r.Stdout); r.Status != code.ExitRolledBack || got.Action != receipt.Restart || got.Generation != 2 || got.Rejected == nil || got.Rejected.Generation != 3 {
		t.Errorf("restart with a broken configuration: %v", r)
	}
	c.current(2, otherConf)
	if r := c.restart(); r.Outcome != receipt.Replaced || r.Generation != 2 {
		t.Errorf("the next restart: %+v", r)
	}
	if s := c.current(2, otherConf); s.PID == before.PID || s.Rejected == nil {
		t.Errorf("status %+v", s)
	}
	// What holds the same as before is no new generation.
	write(otherConf)
	if r := c.restart(); r.Generation != 2 {
		t.Errorf("receipt %+v", r)
	}
	write("# valid, at last\n")
	if r := c.restart(); r.Generation != 4 || r.Rejected != nil {
		t.Errorf("receipt %+v", r)
	}
	if s := c.current(4, "# valid, at last\n"); s.Rejected != nil || s.Code != "" {
		t.Errorf("status %+v", s)
	}
}

func TestAnEditedProfileIsAGenerationThatCanBeRolledBack(t *testing.T) {
	c := runConfigured(t, nil)
	edited := func(command ...string) *harness.Profile {
		p := configuredProfile(c.source)
		p.Command = command
		return p
	}
	c.profileIs(edited("/usr/local/bin/testgateway", "--listen", harness.GatewayAddress, "--say", "edited"))
	if r := c.restart(); r.Generation != 2 || r.Outcome != receipt.Replaced {
		t.Errorf("receipt %+v", r)
	}
	before := c.current(2, goodConf)
	c.profileIs(edited("/bin/sh", "-c", "echo this is broken; exit 3"))
	r := c.tryRestart("--json")
	got := decode[receipt.Receipt](t, r.Stdout)
	if r.Status != code.ExitRolledBack || got.Rejected == nil || got.Rejected.Generation != 3 || !strings.Contains(got.Message, "this is broken") || got.New == nil || got.New.Exe != "/usr/local/bin/testgateway" {
		t.Errorf("restart with a broken profile: %v", r)
	}
	c.current(2, goodConf)
	// One that cannot be read, or that says what is impossible, is refused at once.
	if err := c.h.WriteProfile(c.id, "version = 1\n[gateway]\ncomand = 3\n"); err != nil {
		t.Fatal(err)
	}
	now := c.status()
	if r := c.tryRestart(); r.Status != code.ExitRefused {
		t.Errorf("restart with a profile that cannot be read: %v", r)
	}
	if s := c.current(2, goodConf); s.PID != now.PID || s.PID == before.PID {
		t.Errorf("status %+v", s)
	}
	// Going back does not need what is declared to be in order.
	if r := c.operator("rollback", "--to", "1"); r.Status != code.ExitOK {
		t.Fatalf("rollback: %v", r)
	}
	c.current(1, goodConf)
}

func TestAConfigurationThatCannotBeCopiedIsRefused(t *testing.T) {
	c := runConfigured(t, nil)
	before := c.current(1, goodConf)
	for name, row := range map[string]struct {
		make func(dir string) error
		want string
	}{
		"a link":                        {func(dir string) error { return os.Symlink("/etc/shadow", filepath.Join(dir, "link")) }, "link is a symbolic link"},
		"a FIFO":                        {func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600) }, "fifo is neither a regular file nor a directory"},
		"a hard link":                   {func(dir string) error { return os.Link(filepath.Join(dir, "conf"), filepath.Join(dir, "conf2")) }, "has 2 names"},
		"a file that others may write":  {func(dir string) error { return os.Chmod(filepath.Join(dir, "conf"), 0o666) }, "can be written by others"},
		"another user's file":           {func(dir string) error { return os.Chown(filepath.Join(dir, "conf"), 1000, 0) }, "belongs to UID 1000"},
		"a file that is too long":       {func(dir string) error { return os.Truncate(filepath.Join(dir, "conf"), generation.MaxFile+1) }, "at most 16777216 are taken"},
		"a directory others may write":  {func(dir string) error { return os.Chmod(dir, 0o777) }, "is writable by"},
		"a directory that is not there": {os.RemoveAll, "does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := confDir(t, goodConf)
			if err := row.make(dir); err != nil {
				t.Fatal(err)
			}
			r := c.operator("apply", "--config", dir)
			if r.Status != code.ExitRefused || !strings.Contains(r.Stderr, row.want) {
				t.Errorf("apply: %v", r)
			}
		})
	}
	if after := c.current(1, goodConf); after.PID != before.PID {
		t.Errorf("status %+v", after)
	}
}

// A warden that is lost at any step leaves one current generation, which is the one that runs, and the receipt tells what became
// of the action.
func TestAnApplyOutlivesItsWarden(t *testing.T) {
	for _, row := range []struct {
		point, conf string
		current     int
		outcome     receipt.Outcome
	}{
		{"preflight", otherConf, 2, receipt.Replaced},
		{"trying", otherConf, 3, receipt.Replaced}, // nothing was known of it: it is asked for again, and staged again
		{"intent", otherConf, 2, receipt.Replaced},
		{"dead", otherConf, 2, receipt.Replaced},
		{"stopped", otherConf, 2, receipt.Replaced},
		{"shown", otherConf, 2, receipt.Replaced},
		{"release", otherConf, 2, receipt.Replaced},
		{"launched", otherConf, 2, receipt.Replaced},
		{"committed", otherConf, 2, receipt.Replaced},
		{"proven", otherConf, 2, receipt.Replaced},
		{"receipt", otherConf, 2, receipt.Replaced},
		{"trying", brokenConf, 1, receipt.RolledBack},
		{"shown", brokenConf, 1, receipt.RolledBack},
		{"launched", brokenConf, 1, receipt.RolledBack},
		{"rejected", brokenConf, 1, receipt.RolledBack},
		{"proven", brokenConf, 1, receipt.RolledBack},
		{"receipt", brokenConf, 1, receipt.RolledBack},
	} {
		t.Run(string(row.outcome)+", lost at "+row.point, func(t *testing.T) {
			withFailpoints(t)
			c := runConfigured(t, nil)
			before := c.parked()
			c.arm(row.point, "kill")
			r := c.apply(row.conf, "--json", "--request-id", "one")
			if _, err := os.Stat(filepath.Join(c.runDir(), failpoint.Name)); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("the point %s was not reached: %v", row.point, r)
			}
			got := decode[receipt.Receipt](t, r.Stdout)
			if got.Outcome != row.outcome || got.Generation != row.current || got.RequestID != "one" {
				t.Errorf("apply: %v", r)
			}
			conf := goodConf
			if row.outcome == receipt.Replaced {
				conf = row.conf
			}
			after := c.supervised(before.Warden.PID)
			if now := c.current(row.current, conf); now.PID != after.PID || got.New == nil || got.New.PID != now.PID {
				t.Errorf("process %d runs, and the receipt names %+v", now.PID, got.New)
			}
			if (row.outcome == receipt.RolledBack) != (after.Rejected != nil) {
				t.Errorf("status %+v", after)
			}
			// One receipt for it, in the journal too.
			n := 0
			for _, j := range c.receipts() {
				if j.RequestID == "one" {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d receipts of it are in the journal: %+v", n, c.receipts())
			}
		})
	}
}

// copyDir copies a directory as it is.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// stopTask ends the container's task, as a stop of the container does.
func (c *container) stopTask() {
	c.t.Helper()
	c.mustCtr("task", "kill", "-s", "KILL", c.id)
	// Removing waits for the end.
	eventually(c.t, eventTime, "the task is removed", func() bool { return c.ctr("task", "rm", c.id).Status == 0 }, func() string { return "" })
}

func TestAnAppliedConfigurationOutlivesTheContainersTask(t *testing.T) {
	c := runConfigured(t, nil)
	c.mustApply(otherConf)
	c.stopTask()
	c.mustCtr("task", "start", "-d", c.id)
	c.parked()
	c.current(2, otherConf)
	// An edit of what is declared is taken up by the next start.
	writeFile(t, filepath.Join(c.source, "conf"), "# valid, edited\n", 0o644)
	c.stopTask()
	c.mustCtr("task", "start", "-d", c.id)
	c.parked()
	c.current(3, "# valid, edited\n")
	// And what can be made again from what is declared is not kept.
	c.stopTask()
	if left, err := os.ReadDir(c.stateDir()); err == nil {
		t.Errorf("left in the state directory: %v", left)
	}
}

// The host goes down in the middle of a change: what is on disk then is what the next start of the container finds.
func TestAHostThatGoesDownDuringAnApplyComesUpWithTheConfigurationBefore(t *testing.T) {
	for _, row := range []struct {
		point    string
		current  int
		conf     string
		applied  string
		rejected bool
	}{
		{"preflight", 1, goodConf, otherConf, false},
		{"trying", 1, goodConf, otherConf, true},
		{"stopped", 1, goodConf, otherConf, true},
		{"shown", 1, goodConf, otherConf, true},
		{"release", 1, goodConf, otherConf, true},
		{"launched", 1, goodConf, otherConf, true},
		{"committed", 2, otherConf, otherConf, false},
		{"rejected", 1, goodConf, brokenConf, true},
	} {
		t.Run(row.point, func(t *testing.T) {
			withFailpoints(t)
			c := runConfigured(t, nil)
			before := c.parked()
			reached, _ := c.hold(row.point)
			wait := c.gatewardenInBackground("apply", "--config", confDir(t, row.applied), c.name())
			reached()
			disk := filepath.Join(t.TempDir(), "disk")
			copyDir(t, filepath.Join(c.stateDir(), generation.DirName), disk)
			killProcess(t, before.Warden.PID)
			c.stopTask()
			wait()
			if err := os.RemoveAll(c.stateDir()); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(c.stateDir(), 0o700); err != nil {
				t.Fatal(err)
			}
			copyDir(t, disk, filepath.Join(c.stateDir(), generation.DirName))
			c.mustCtr("task", "start", "-d", c.id)
			c.parked()
			s := c.current(row.current, row.conf)
			if first := s.Last; row.rejected != (s.Rejected != nil) || first.Action != receipt.Start || row.rejected != strings.Contains(first.Message, "2 rejected: ") {
				t.Errorf("status %+v, receipt %+v", s, first)
			}
			// It is not tried again by itself; what is declared is what runs, or can be applied.
			c.restart()
			c.current(row.current, row.conf)
		})
	}
}

func TestConcurrentAppliesAreOneAfterTheOther(t *testing.T) {
	c := runConfigured(t, nil)
	var waits []func() harness.Result
	for i := range 4 {
		waits = append(waits, c.gatewardenInBackground("apply", "--json", "--config", confDir(t, fmt.Sprintf("# valid %d\n", i)), c.name()))
	}
	seen := map[int]bool{}
	for _, wait := range waits {
		r := wait()
		if r.Status != code.ExitOK {
			t.Fatalf("apply: %v", r)
		}
		seen[decode[receipt.Receipt](t, r.Stdout).Generation] = true
	}
	for n := 2; n <= 5; n++ {
		if !seen[n] {
			t.Errorf("no apply made generation %d: %v", n, seen)
		}
	}
	c.current(5, c.sees())
}

func TestWhatSomebodyEditsBetweenStagingAndTheSwitchIsRefused(t *testing.T) {
	for name, edit := range map[string]func(t *testing.T, c *configured, dir string){
		"what was copied from": func(t *testing.T, _ *configured, dir string) {
			writeFile(t, filepath.Join(dir, "conf"), "# valid, edited\n", 0o644)
		},
		"the copy": func(t *testing.T, c *configured, _ string) {
			writeFile(t, filepath.Join(generation.Open(c.stateDir()).Tree(2, 0), "conf"), "# valid, edited\n", 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := runConfigured(t, func(p *harness.Profile) {
				p.More = strings.Replace(p.More, "grep -q valid", "sleep 1; grep -q valid", 1)
			})
			before := c.current(1, goodConf)
			dir := confDir(t, otherConf)
			wait := c.gatewardenInBackground("apply", "--config", dir, c.name())
			staged := filepath.Join(generation.Open(c.stateDir()).Tree(2, 0), "conf")
			for end := time.Now().Add(eventTime); ; time.Sleep(time.Millisecond) {
				if _, err := os.Stat(staged); err == nil {
					break
				}
				if time.Now().After(end) {
					t.Fatal("nothing was staged")
				}
			}
			edit(t, c, dir)
			if r := wait(); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "somebody has edited") {
				t.Errorf("apply: %v", r)
			}
			if after := c.current(1, goodConf); after.PID != before.PID {
				t.Errorf("status %+v", after)
			}
		})
	}
}

// nginx as its package installs it, whose configuration names files by absolute paths.
func TestNginxIsGivenConfigurations(t *testing.T) {
	p := programNamed(t, "nginx")
	conf := func(server string) string {
		return strings.Replace(p.config["nginx.conf"], "\tserver {", "\tinclude /etc/gateway/conf.d/*.conf;\n\tserver {", 1) + server
	}
	dir := func(extra, server string) string {
		d := mountDir(t)
		if err := os.Mkdir(filepath.Join(d, "conf.d"), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(d, "nginx.conf"), conf(server), 0o644)
		writeFile(t, filepath.Join(d, "conf.d", "extra.conf"), extra, 0o644)
		return d
	}
	made := p.profile(t, profile.ModeTransparent)
	made.More = mountTable(dir("# nothing\n", ""), "/etc/gateway") + "[[state]]\ntarget = \"/var/lib/gateway\"\n" +
		"[preflight]\ncommand = [\"" + harness.Nginx + "\", \"-t\", \"-e\", \"stderr\", \"-c\", \"/etc/gateway/nginx.conf\"]\n"
	c := &configured{t: t, container: run(t, options{profile: made, image: harness.ProgramsImage})}
	asks := func(what string, then func()) {
		t.Helper()
		stop := c.asks()
		then()
		if n, refused := stop(); n == 0 || len(refused) != 0 {
			t.Errorf("%s: of %d connections %d were refused: %v", what, n, len(refused), refused)
		}
	}
	before := c.parked()

	// Broken in a file that is included by its absolute path: nginx -t has to see the whole of the new one.
	broken := dir("no_such_directive on;\n", "")
	asks("a broken one, refused", func() {
		r := c.operator("apply", "--config", broken)
		if r.Status != code.ExitRefused || !strings.Contains(r.Stderr, `unknown directive "no_such_directive" in /etc/gateway/conf.d/extra.conf:1`) {
			t.Errorf("apply of a broken one: %v", r)
		}
	})
	if s := c.status(); s.PID != before.PID || s.Generation != 1 {
		t.Errorf("status %+v", s)
	}

	asks("a good one", func() {
		if r := c.operator("apply", "--config", dir("add_header X-Generation two;\n", "")); r.Status != code.ExitOK {
			t.Errorf("apply of a good one: %v", r)
		}
	})
	if got := c.get("/").Stdout + c.get("/").Stderr; !strings.Contains(got, "pid") {
		t.Errorf("it answers %q", got)
	}
	good := c.status()
	if good.Generation != 2 || good.PID == before.PID {
		t.Errorf("status %+v", good)
	}

	asks("a broken one, forced and rolled back", func() {
		r := c.operator("apply", "--config", broken, "--skip-preflight", "--json")
		got := decode[receipt.Receipt](t, r.Stdout)
		if r.Status != code.ExitRolledBack || got.Generation != 2 || got.Rejected == nil || !strings.Contains(got.Message, "no_such_directive") {
			t.Errorf("apply of a broken one, forced: %v", r)
		}
	})
	if s := c.status(); s.Generation != 2 || s.Healthy == nil || !*s.Healthy || s.Rejected == nil {
		t.Errorf("status %+v", s)
	}
}

// What a gateway that is down needs to be told of is on one screen.
func TestTheStatusOfAGatewayThatIsDownTellsWhy(t *testing.T) {
	c := runConfigured(t, func(p *harness.Profile) { p.Restart = "policy = \"never\"" })
	c.mustApply("OPTIONS=\"--say fine --exit-after 700ms --exit-code 9\"\n# valid\n")
	down := c.waitFor("it is down", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
	c.takes(harness.GatewayAddress)
	r := c.operator("status")
	for _, want := range []string{
		"state      failed\n", "exited unasked", "  fine\n", "addresses  ", "is held by process", "nothing of its configuration since it was last proven",
		"gatewarden rollback " + c.name(), "generations " + c.name() + " --diff 2",
	} {
		if !strings.Contains(r.Stdout+r.Stderr, want) {
			t.Errorf("the status does not say %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%+v\n%v", down, r)
	}
}

func TestThePreflightCommandRunsAsTheGatewayAndHasADeadline(t *testing.T) {
	c := runConfigured(t, func(p *harness.Profile) {
		p.More = strings.Replace(p.More, "grep -q valid", "id -u; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; . /etc/gateway/conf; grep -q valid", 1) + "timeout = \"1s\"\n"
	})
	before := c.current(1, goodConf)
	r := c.apply("# no such word\n")
	want := fmt.Sprintf("it said: %d | CapEff:\t0000000000000000 | NoNewPrivs:\t1 | the configuration is not valid", harness.GatewayUID)
	if r.Status != code.ExitRefused || !strings.Contains(r.Stderr, want) {
		t.Errorf("apply, which should say %q: %v", want, r)
	}
	if r := c.apply("sleep 77\n"); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "did not end within 1s and was killed") {
		t.Errorf("apply of one that takes long: %v", r)
	}
	if after := c.current(1, goodConf); after.PID != before.PID {
		t.Errorf("status %+v", after)
	}
	if left := c.sleepers(); len(left) != 0 {
		t.Errorf("the command left processes: %v", left)
	}
}

// What cannot be recorded as current is not: the one before runs again.
func TestAConfigurationThatCannotBeMadeCurrentIsRolledBack(t *testing.T) {
	withFailpoints(t)
	c := runConfigured(t, nil)
	c.parked()
	reached, release := c.hold("launched")
	wait := c.gatewardenInBackground("apply", "--json", "--config", confDir(t, otherConf), c.name())
	reached()
	inTheWay := filepath.Join(generation.Open(c.stateDir()).Dir(), "record.json.new")
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	release()
	r := wait()
	if got := decode[receipt.Receipt](t, r.Stdout); r.Status != code.ExitRolledBack || got.Generation != 1 || got.Stage != code.StageCommit {
		t.Errorf("apply: %v", r)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if got := c.sees(); got != goodConf {
		t.Errorf("the container sees %q", got)
	}
	// The next change finds its way.
	c.mustApply("# valid, the next\n")
	s := c.status()
	c.current(s.Generation, "# valid, the next\n")
}

func TestAClientThatIsKilledLeavesItsApplyToTheWarden(t *testing.T) {
	for _, row := range []struct {
		point, conf string
		current     int
	}{
		{"preflight", otherConf, 2},
		{"trying", otherConf, 2},
		{"stopped", otherConf, 2},
		{"shown", otherConf, 2},
		{"launched", otherConf, 2},
		{"committed", otherConf, 2},
		{"rejected", brokenConf, 1},
	} {
		t.Run(row.point, func(t *testing.T) {
			withFailpoints(t)
			c := runConfigured(t, nil)
			before := c.parked()
			reached, release := c.hold(row.point)
			ctx, cancel := context.WithTimeout(t.Context(), commandTime)
			defer cancel()
			client := host.Command(ctx, host.Bin("gatewarden"), "apply", "--config", confDir(t, row.conf), c.name())
			if err := client.Start(); err != nil {
				t.Fatal(err)
			}
			reached()
			if err := client.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := client.Wait(); err == nil {
				t.Error("the client was not killed")
			}
			release()
			c.waitFor("what was begun is finished", func(s receipt.Status) bool {
				return s.State == receipt.Running && s.PID != before.PID && s.Generation == row.current
			})
			conf := goodConf
			if row.current == 2 {
				conf = row.conf
			}
			c.current(row.current, conf)
		})
	}
}

func TestQuietChangesPrintNothing(t *testing.T) {
	c := runConfigured(t, nil)
	for name, row := range map[string]struct {
		r    harness.Result
		exit int
	}{
		"done":        {c.apply(otherConf, "--quiet"), code.ExitOK},
		"refused":     {c.apply(badConf, "--quiet"), code.ExitRefused},
		"rolled back": {c.apply(brokenConf, "--quiet"), code.ExitRolledBack},
		"dry run":     {c.apply(goodConf, "--quiet", "--dry-run"), code.ExitOK},
	} {
		if row.r.Status != row.exit || row.r.Stdout+row.r.Stderr != "" {
			t.Errorf("%s: %v", name, row.r)
		}
	}
}

// Whoever clears the state directory takes the receipts and the generations away, and not the gateway: one that needs the files is
// left alone, and one that does not is restarted.
func TestAStateDirectoryThatIsRemovedKeepsNoGatewayDown(t *testing.T) {
	c := runConfigured(t, nil)
	before := c.parked()
	remove(t, c.stateDir())
	if r := c.operator("restart"); r.Status != code.ExitRefused || !strings.Contains(r.Stderr, "what it shows has been removed on the host") {
		t.Errorf("restart without its files: %v", r)
	}
	if s := c.status(); s.PID != before.PID {
		t.Errorf("status %+v", s)
	}

	plain := run(t, options{profile: &harness.Profile{}})
	before = plain.parked()
	remove(t, plain.stateDir())
	plain.restart()
	killProcess(t, before.Warden.PID)
	after := plain.supervised(before.Warden.PID)
	if r := plain.restart(); r.Outcome != receipt.Replaced || r.Old.PID != after.PID {
		t.Errorf("restart by the successor: %+v", r)
	}
	if r := plain.operator("apply"); r.Status != code.ExitRefused {
		t.Errorf("apply: %v", r)
	}
}
