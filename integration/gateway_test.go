//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// mountDir makes a directory on the host for a [[mount]] of a test, root's alone.
func mountDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(host.MountDir, uniqueID("m"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func mountTable(source, target string) string {
	return fmt.Sprintf("[[mount]]\nsource = %q\ntarget = %q\n", source, target)
}

// shown is where the host keeps what the container is shown by its first [[mount]]: a copy of the declared source. Nobody edits that,
// but a test can, where something changes under a gateway that runs and its configuration stays.
func (c *container) shown() string {
	c.t.Helper()
	store := generation.Open(c.stateDir())
	r, err := store.Record()
	if err != nil {
		c.t.Fatal(err)
	}
	return store.Tree(r.Current, 0)
}

// withStatusFile is a gateway whose health is the number in a file of its state directory, if there is one (health).
func withStatusFile() *harness.Profile {
	return &harness.Profile{
		Args:    []string{"--status-file", "/var/lib/gateway/status"},
		Ready:   "http = \"http://" + harness.GatewayAddress + "/health\"\naccept = [200]\ntimeout = \"800ms\"",
		Restart: "policy = \"never\"",
		More:    gatewayState,
	}
}

// health decides what a gateway made by withStatusFile answers.
func (c *container) health(status string) {
	c.t.Helper()
	writeFile(c.t, filepath.Join(c.stateDir(), "state", "var%2Flib%2Fgateway", "status"), status+"\n", 0o644)
}

// withOptions is testgateway with further arguments from a file that it is shown, so that a test can change them (options) and the
// configuration stays.
func withOptions(t *testing.T, p harness.Profile, args ...string) *harness.Profile {
	t.Helper()
	dir := mountDir(t)
	writeFile(t, dir+"/options", optionsLine(args), 0o644)
	p.Command = []string{"/bin/sh", "-c", ". /etc/gateway/options; exec /usr/local/bin/testgateway --listen " + harness.GatewayAddress + " $OPTIONS"}
	p.More += mountTable(dir, "/etc/gateway")
	return &p
}

func optionsLine(args []string) string { return fmt.Sprintf("OPTIONS=%q\n", strings.Join(args, " ")) }

// options are the further arguments of the next gateway.
func (c *container) options(args ...string) {
	c.t.Helper()
	writeFile(c.t, c.shown()+"/options", optionsLine(args), 0o644)
}

func TestAGatewayThatIgnoresTERMIsKilledThroughItsHandle(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--ignore-term"}, Stop: "timeout = \"300ms\""}})
	before := c.status()
	r := c.restart()
	if r.Old == nil || !r.Old.Forced || r.Old.Signal != "SIGKILL" || r.Old.PID != before.PID || r.Old.DeathProof != "waitid" {
		t.Errorf("the receipt does not show that PID %d was forced: %+v", before.PID, r.Old)
	}
	if r.Millis.Stop < 300 {
		t.Errorf("the gateway was given %.0f ms, want its 300 ms", r.Millis.Stop)
	}
	checkReceipt(t, r, before, c.ask())
}

func TestAGatewayWithoutATrustedBinaryDoesNotStart(t *testing.T) {
	for _, binary := range []string{
		"/usr/local/bin/missing", "/usr/local/bin/not-executable", "/usr/local/bin/not-roots", "/usr/local/bin/writable", "/usr/local/bin",
	} {
		profile := func(onFailure string) *harness.Profile {
			return &harness.Profile{Command: []string{binary}, Start: fmt.Sprintf("on_failure = %q", onFailure)}
		}
		t.Run(filepath.Base(binary)+" fails the container", func(t *testing.T) {
			_, r := tryRun(t, options{profile: profile("fail")})
			refused(t, r, 1, string(code.UntrustedBinary))
			if !strings.Contains(r.Stderr, binary) {
				t.Errorf("the message does not name %s:\n%v", binary, r)
			}
		})
		t.Run(filepath.Base(binary)+" is a warning if the profile says so", func(t *testing.T) {
			c := run(t, options{profile: profile("warn")})
			if s := c.status(); s.State != receipt.FailedSt || s.Code != code.UntrustedBinary || s.PID != 0 {
				t.Errorf("the status does not say that there is no gateway, and why: %+v", s)
			}
			refused(t, c.tryRestart(), code.ExitRefused, string(code.UntrustedBinary))
		})
	}
}

func TestAGatewayWithAWrongHealthStatusIsNotReady(t *testing.T) {
	_, r := tryRun(t, options{profile: &harness.Profile{
		Args:  []string{"--status", "503"},
		Ready: "http = \"http://" + harness.GatewayAddress + "/health\"\naccept = [200, 401]\ntimeout = \"700ms\"",
		Start: "on_failure = \"fail\"",
	}})
	refused(t, r, 1, string(code.ProbeFailed))
	if !strings.Contains(r.Stderr, "503") {
		t.Errorf("the message does not name the status 503:\n%v", r)
	}
}

func TestAContainerWhoseStartFailedCanBeStartedOnceItsGatewayRuns(t *testing.T) {
	dir := gatewayDir(t)
	writeFile(t, dir+"/status", "500\n", 0o644)
	p := mountedGateway(dir)
	p.Command = append(p.Command, "--status-file", "/opt/gateway/status")
	p.Ready = "http = \"http://127.0.0.1:18789/health\"\ntimeout = \"500ms\""
	c, r := tryRun(t, options{profile: p})
	if r.Status == 0 || !strings.Contains(r.Stderr, string(code.ProbeFailed)) {
		t.Fatalf("%v", r)
	}
	writeFile(t, c.shown()+"/status", "200\n", 0o644)
	c.waitFor("the policy's next start succeeded", func(s receipt.Status) bool { return s.State == receipt.Running })
	if err := c.task().Start(host.Context(t.Context())); err != nil {
		t.Fatal(err)
	}
	c.ask()
}

func TestAGatewayThatNeverBindsIsNotReady(t *testing.T) {
	_, r := tryRun(t, options{profile: &harness.Profile{
		Args:  []string{"--never-bind"},
		Ready: "http = \"http://" + harness.GatewayAddress + "/health\"\ntimeout = \"700ms\"",
	}})
	refused(t, r, 1, string(code.ListenerMissing))
	if !strings.Contains(r.Stderr, harness.GatewayAddress) {
		t.Errorf("the message does not name %s:\n%v", harness.GatewayAddress, r)
	}
}

func TestARestartWhoseSuccessorIsNotHealthyFailsLoudlyAndCanBeRepeated(t *testing.T) {
	c := run(t, options{profile: withStatusFile()})
	before := c.status()

	c.health("500")
	r := c.tryRestart()
	refused(t, r, code.ExitFailed, string(code.ProbeFailed))
	got := decode[receipt.Receipt](t, r.Stdout)
	if got.Outcome != receipt.Failed || got.Old == nil || got.Old.PID != before.PID || !strings.Contains(got.Message, "500") {
		t.Errorf("the receipt does not tell what happened: %+v", got)
	}
	if s := c.status(); s.State != receipt.FailedSt || s.Code != code.ProbeFailed {
		t.Errorf("the failure is not loud: %+v", s)
	}

	// No quarantine: the operator's next restart works as soon as its reason has gone.
	c.health("200")
	c.restart()
	c.ask()
}

// While the next start is only planned, a refused restart must not put it off: it would make an outage of a typing error.
func TestARefusedRestartDoesNotStopThePolicysNextStart(t *testing.T) {
	p := &harness.Profile{Restart: "backoff = { initial = \"700ms\", max = \"1s\" }"}
	c := run(t, options{profile: p})
	killProcess(t, c.status().PID)
	c.waitFor("the next start is planned", func(s receipt.Status) bool { return s.State == receipt.Backoff })
	writeProfile(t, c.id, p.TOML()+"\n[nonsense]\n")
	refused(t, c.tryRestart(), code.ExitRefused, string(code.InvalidProfile))
	c.waitFor("the policy's start came", func(s receipt.Status) bool { return s.State == receipt.Running && s.Restarts.Unasked == 1 })
}

func TestARefusedRestartCausesNoOutage(t *testing.T) {
	for _, test := range []struct {
		name string
		code code.Code
		harm func(t *testing.T, c *container, dir string)
		mend func(t *testing.T, c *container, dir string)
	}{
		{
			name: "the binary is not root's any more", code: code.UntrustedBinary,
			harm: func(t *testing.T, c *container, _ string) { chown(t, c.shown()+"/gateway", harness.WorkloadUID) },
			mend: func(t *testing.T, c *container, _ string) { chown(t, c.shown()+"/gateway", 0) },
		},
		{
			name: "the declared binary is not root's any more", code: code.PreflightFailed,
			harm: func(t *testing.T, _ *container, dir string) { chown(t, dir+"/gateway", harness.WorkloadUID) },
			mend: func(t *testing.T, _ *container, dir string) { chown(t, dir+"/gateway", 0) },
		},
		{
			name: "the profile has an unknown key", code: code.InvalidProfile,
			harm: func(t *testing.T, c *container, dir string) {
				writeProfile(t, c.id, mountedGateway(dir).TOML()+"\n[nonsense]\n")
			},
			mend: func(t *testing.T, c *container, dir string) { writeProfile(t, c.id, mountedGateway(dir).TOML()) },
		},
		{
			name: "the generation is not the one that was meant", code: code.PreflightFailed,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := gatewayDir(t)
			c := run(t, options{profile: mountedGateway(dir)})
			before := c.ask()
			var flags []string
			if test.harm != nil {
				test.harm(t, c, dir)
			} else {
				flags = []string{"--if-generation", "41"}
			}
			refused(t, c.tryRestart(flags...), code.ExitRefused, string(test.code))
			if after := c.ask(); after.PID != before.PID {
				t.Errorf("a refused restart replaced PID %d by %d", before.PID, after.PID)
			}
			if s := c.status(); s.State != receipt.Running {
				t.Errorf("a refused restart left the state %s", s.State)
			}
			if test.mend != nil {
				test.mend(t, c, dir)
			}
			c.restart()
		})
	}
}

// gatewayDir makes a directory on the host that holds testgateway as "gateway".
func gatewayDir(t *testing.T) string {
	t.Helper()
	dir := mountDir(t)
	program, err := host.TestProgram("testgateway")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/gateway", string(program), 0o755)
	return dir
}

// mountedGateway is a gateway whose binary comes from such a directory.
func mountedGateway(dir string) *harness.Profile {
	return &harness.Profile{
		Command: []string{"/opt/gateway/gateway", "--listen", harness.GatewayAddress},
		More:    mountTable(dir, "/opt/gateway"),
	}
}

func writeProfile(t *testing.T, name, toml string) {
	t.Helper()
	if err := host.WriteProfile(name, toml); err != nil {
		t.Fatal(err)
	}
}

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if err := os.Chown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
}

func TestAPortThatTheWorkloadTookBeforeTheStartIsContested(t *testing.T) {
	for _, reuse := range []bool{false, true} {
		t.Run(fmt.Sprintf("SO_REUSEPORT %v", reuse), func(t *testing.T) {
			command := []string{"testworkload", "hold", "--address", harness.GatewayAddress}
			args := []string{"--exit-after", "300ms"}
			if reuse {
				command, args = append(command, "--reuseport"), append(args, "--reuseport")
			}
			// The gateway ends by itself and is not started again, so that the port is free for the workload.
			c := run(t, options{profile: &harness.Profile{Args: args, Restart: "policy = \"on-failure\""}})
			c.waitFor("the gateway has ended", func(s receipt.Status) bool { return s.State == receipt.Stopped })
			out := filepath.Join(t.TempDir(), "out")
			flags := []string{"task", "exec", "-d", "--log-uri", "file://" + out, "--exec-id", uniqueID("e"), c.id}
			if r := c.ctr(append(flags, command...)...); r.Status != 0 {
				t.Fatalf("%v", r)
			}
			var said []byte
			eventually(t, eventTime, "the workload holds the port", func() bool {
				said, _ = os.ReadFile(out)
				return strings.Contains(string(said), "holding")
			}, func() string { return string(said) })
			r := c.tryRestart()
			refused(t, r, code.ExitRefused, string(code.ListenerContested))
			// The owner is named, so that somebody can do something about it.
			if got := decode[receipt.Receipt](t, r.Stdout); !strings.Contains(got.Message, "testworkload") {
				t.Errorf("the message does not name who holds the port: %s", got.Message)
			}
		})
	}
}

func TestALeftoverOfTheOldGatewayDoesNotKeepThePort(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--fork-child"}}})
	before := c.status()
	children := childrenOf(t, before.PID)
	if len(children) != 1 {
		t.Fatalf("the gateway has the children %v, want one", children)
	}
	r := c.restart()
	checkReceipt(t, r, before, c.ask())
	// The container's init has become its parent, and need not reap it.
	if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", children[0])); err == nil && !strings.Contains(string(data), "\nState:\tZ") {
		t.Errorf("the old gateway's child, PID %d, still runs", children[0])
	}
}

func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	processes, err := host.Processes()
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, p := range processes {
		if p.Parent == pid {
			children = append(children, p.PID)
		}
	}
	return children
}

func TestAGatewayThatKeepsCrashingEndsInALoudState(t *testing.T) {
	profile := harness.Profile{
		Args:    []string{"--exit-after", "50ms", "--exit-code", "3"},
		Restart: "backoff = { initial = \"20ms\", max = \"50ms\" }\nburst = 2\nwindow = \"60s\"",
		Start:   "on_failure = \"warn\"",
	}
	c := run(t, options{profile: &profile})
	s := c.waitFor("the state is failed", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
	if s.Code != code.CrashLoop || s.PID != 0 {
		t.Errorf("the status does not tell of a crash loop: %+v", s)
	}
	profile.Args = nil
	writeProfile(t, c.id, profile.TOML())
	c.restart()
	if s := c.status(); s.State != receipt.Running || s.Code != "" || s.Message != "" {
		t.Errorf("the operator's restart did not make it well: %+v", s)
	}
}

func TestAGatewayThatCrashesAtOnceTellsItsLastWords(t *testing.T) {
	_, r := tryRun(t, options{profile: &harness.Profile{Args: []string{"--crash"}, Ready: "http = \"http://" + harness.GatewayAddress + "/health\"\ntimeout = \"2s\""}})
	if r.Status == 0 || !strings.Contains(r.Stderr, "no database at db.example:5432") {
		t.Errorf("the message does not hold the last line of the gateway's output:\n%v", r)
	}
}

func TestAnExitStatusThatIsDeclaredFatalIsNotRetried(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{
		Args:    []string{"--exit-after", "200ms", "--exit-code", "78"},
		Restart: "fatal_exit_codes = [78]",
	}})
	s := c.waitFor("the state is failed", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
	if !strings.Contains(s.Message, "78") {
		t.Errorf("the message does not name the exit status: %s", s.Message)
	}
}

func TestTwoConcurrentRestartsAreOneAfterTheOther(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--slow-stop", "100ms"}}})
	var results [2]harness.Result
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i] = c.tryRestart() })
	}
	wg.Wait()
	replaced := 0
	for _, r := range results {
		switch r.Status {
		case code.ExitOK:
			replaced++
		case code.ExitDeadline:
			if !strings.Contains(r.Stdout+r.Stderr, string(code.Busy)) {
				t.Errorf("exit status 5 without the code busy:\n%v", r)
			}
		default:
			t.Errorf("%v", r)
		}
	}
	if replaced == 0 {
		t.Error("neither restart was carried out")
	}
	all := c.receipts()
	previous := all[0].New.PID
	for _, r := range all[1:] {
		if r.Outcome != receipt.Replaced {
			continue
		}
		replaced--
		if r.Old.PID != previous {
			t.Errorf("receipt %s ended PID %d; PID %d ran", r.ID, r.Old.PID, previous)
		}
		previous = r.New.PID
	}
	if replaced != 0 {
		t.Errorf("the journal and the exit statuses differ by %d replacements", replaced)
	}
	if s := c.status(); s.PID != previous || s.State != receipt.Running {
		t.Errorf("PID %d should run now: %+v", previous, s)
	}
}

func TestARepeatedRequestGivesTheFirstReceipt(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	first := c.restart("--request-id", "deploy-17")
	second := c.restart("--request-id", "deploy-17")
	if first.ID != second.ID {
		t.Errorf("the repeated request made the receipt %s after %s", second.ID, first.ID)
	}
	if s := c.status(); s.Restarts.Asked != 1 {
		t.Errorf("%d restarts were carried out, want 1", s.Restarts.Asked)
	}
}

func TestRecoverDoesNothingToAHealthyGatewayAndReplacesAnother(t *testing.T) {
	c := run(t, options{profile: withStatusFile()})
	before := c.status()
	got := decode[receipt.Receipt](t, c.mustExec("gatewarden", "recover", "--json"))
	if got.Outcome != receipt.AlreadyRunning || c.status().PID != before.PID {
		t.Errorf("recover did something to a healthy gateway: %+v", got)
	}
	killProcess(t, before.PID)
	c.waitFor("no gateway runs", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
	got = decode[receipt.Receipt](t, c.mustExec("gatewarden", "recover", "--json"))
	if got.Outcome != receipt.Replaced {
		t.Errorf("recover did not start a gateway: %+v", got)
	}
	c.ask()
}

func TestProbeHasNoSideEffects(t *testing.T) {
	c := run(t, options{profile: withStatusFile()})
	before := c.status()
	if r := c.exec("gatewarden", "probe"); r.Status != 0 {
		t.Errorf("%v", r)
	}
	c.health("500")
	if r := c.exec("gatewarden", "probe"); r.Status == 0 || !strings.Contains(r.Stdout+r.Stderr, "500") {
		t.Errorf("the probe does not tell that the gateway answers 500:\n%v", r)
	}
	if after := c.status(); after.PID != before.PID || after.Generation != before.Generation || len(c.receipts()) != 1 {
		t.Errorf("a probe changed something: %+v", after)
	}
}

func TestARestartOfAPausedContainerIsRefusedAtOnce(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	before := c.status()
	if r := c.ctr("task", "pause", c.id); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	r := c.tryRestart()
	refused(t, r, code.ExitRefused, string(code.Paused))
	if r.Time > 5*time.Second {
		t.Errorf("the refusal took %v", r.Time)
	}
	if r := c.ctr("task", "resume", c.id); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	if after := c.status(); after.PID != before.PID {
		t.Errorf("the gateway is PID %d now, and was %d", after.PID, before.PID)
	}
	c.restart()
}

func TestARestartOfAContainerThatIsBeingDeletedEnds(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--slow-stop", "3s"}, Stop: "timeout = \"10s\""}})
	done := make(chan harness.Result, 1)
	go func() { done <- c.tryRestart() }()
	c.waitFor("the gateway is being stopped", func(s receipt.Status) bool { return s.State == receipt.Stopping })
	c.delete()
	// The task goes while the exec runs, so ctr may report either our status or that the process is not there any more.
	if r := <-done; r.Status == 0 {
		t.Errorf("the restart of a deleted container succeeded:\n%v", r)
	} else if r.Time > commandTime/2 {
		t.Errorf("the restart ended only after %v", r.Time)
	}
	c.checkGone()
}

func TestTheWorkloadsExitDuringARestartEndsEverything(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--slow-stop", "3s"}, Stop: "timeout = \"10s\""}})
	done := make(chan harness.Result, 1)
	go func() { done <- c.tryRestart() }()
	c.waitFor("the gateway is being stopped", func(s receipt.Status) bool { return s.State == receipt.Stopping })
	begin := time.Now()
	killProcess(t, c.init())
	r := <-done
	if r.Status == 0 {
		t.Errorf("the restart succeeded without a container:\n%v", r)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the restart ended %v after its container", took)
	}
	// Before anybody deletes the task: the warden needs nobody to tell it.
	eventually(t, goneTime, "warden and gateway are gone", func() bool {
		processes, err := host.Processes()
		if err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(processes, func(p harness.Process) bool {
			return strings.Contains(p.Command, "gatewarden-hook") && strings.Contains(p.Command, c.id) ||
				strings.Contains(p.Command, "testgateway")
		})
	}, func() string { return "" })
}

func TestTheEndOfTheContainerEndsWardenAndGateway(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}, command: []string{"sleep", "1"}})
	eventually(t, eventTime, "the warden's directory is gone, before the task is deleted", func() bool {
		_, err := os.Lstat(c.runDir())
		return err != nil
	}, func() string { return c.runDir() })
	if !taskExists(t, c.id) {
		t.Error("the task of an ended container was deleted")
	}
	if r := c.exec("gatewarden", "status"); r.Status == 0 {
		t.Errorf("an ended container has a gateway:\n%v", r)
	}
}

func TestStateDirectoriesBelongToTheGatewayAlone(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{More: "[[state]]\ntarget = \"/var/lib/gateway\"\n"}})
	if r := c.exec("ls", "/var/lib/gateway"); r.Status == 0 {
		t.Errorf("the workload reads the gateway's state:\n%v", r)
	}
	if r := c.exec("touch", "/var/lib/gateway/x"); r.Status == 0 {
		t.Errorf("the workload writes the gateway's state:\n%v", r)
	}
	if got := strings.TrimSpace(c.mustExec("stat", "-c", "%u %a", "/var/lib/gateway")); got != fmt.Sprintf("%d 700", harness.GatewayUID) {
		t.Errorf("the state directory's owner and mode are %s", got)
	}
}
