//go:build integration

package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// complaints provoke each code, as an operator meets it.
var complaints = []struct {
	code code.Code
	verb string // the command that failed
	do   func(t *testing.T) (*container, harness.Result)
}{
	{code.InvalidProfile, "restart", func(t *testing.T) (*container, harness.Result) {
		p := &harness.Profile{}
		c := run(t, options{profile: p})
		writeProfile(t, c.id, p.TOML()+"\n[nonsense]\n")
		return c, c.operator("restart")
	}},
	{code.PostureRefused, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{}})
		writeProfile(t, c.id, harness.Profile{User: harness.WorkloadUID}.TOML())
		return c, c.operator("restart")
	}},
	{code.UntrustedBinary, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: mountedGateway(gatewayDir(t))})
		chown(t, c.shown()+"/gateway", harness.WorkloadUID)
		return c, c.operator("restart")
	}},
	{code.NotManaged, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{})
		return c, c.operator("restart")
	}},
	{code.Paused, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{}})
		if r := c.ctr("task", "pause", c.id); r.Status != 0 {
			t.Fatalf("%v", r)
		}
		t.Cleanup(func() { c.ctr("task", "resume", c.id) })
		return c, c.operator("restart")
	}},
	{code.NotRunning, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{Args: []string{"--slow-stop", "3s"}, Stop: "timeout = \"10s\""}})
		done := make(chan harness.Result, 1)
		go func() { done <- c.operator("restart") }()
		c.waitFor("the gateway is being stopped", func(s receipt.Status) bool { return s.State == receipt.Stopping })
		killProcess(t, c.init())
		return c, <-done
	}},
	{code.Busy, "restart", func(t *testing.T) (*container, harness.Result) {
		withFailpoints(t)
		c := run(t, options{profile: &harness.Profile{}})
		reached, release := c.hold("queue")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var waiting sync.WaitGroup
		ask := func() {
			waiting.Go(func() {
				control.Call(ctx, c.runDir(), control.Request{Verb: control.Recover, Via: "cli"}, nil) // how it ends does not matter here
			})
		}
		ask()
		reached()
		var r harness.Result
		for range 40 { // more than the queue has places
			ask()
			time.Sleep(20 * time.Millisecond)
		}
		r = c.operator("restart")
		release()
		waiting.Wait()
		return c, r
	}},
	{code.Deadline, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{Args: []string{"--slow-stop", "1500ms"}, Stop: "timeout = \"10s\""}})
		return c, c.operator("restart", "--timeout", "700ms")
	}},
	{code.PreflightFailed, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{}})
		return c, c.operator("restart", "--if-generation", "41")
	}},
	{code.StopFailed, "restart", func(t *testing.T) (*container, harness.Result) {
		c, _, _ := stuck(t)
		return c, c.operator("restart")
	}},
	{code.LaunchFailed, "restart", func(t *testing.T) (*container, harness.Result) {
		return failingRestart(t, "--crash")
	}},
	{code.PostureMismatch, "probe", func(t *testing.T) (*container, harness.Result) {
		// The program that was proven becomes another one, and leaves the listener to a child.
		c := run(t, options{profile: &harness.Profile{Command: []string{"/bin/sh", "-c",
			"/usr/local/bin/testgateway --listen " + harness.GatewayAddress + " & sleep 1; exec /usr/local/bin/testworkload hold --address 127.0.0.1:9999"}}})
		c.waitFor("it is not healthy", func(s receipt.Status) bool { return s.Healthy != nil && !*s.Healthy })
		return c, c.operator("probe")
	}},
	{code.ListenerMissing, "restart", func(t *testing.T) (*container, harness.Result) {
		return failingRestart(t, "--never-bind")
	}},
	{code.ListenerContested, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{}})
		out := filepath.Join(t.TempDir(), "out")
		if r := c.ctr("task", "exec", "-d", "--log-uri", "file://"+out, "--exec-id", uniqueID("e"), c.id, "testworkload", "hold", "--address", "127.0.0.2:18789"); r.Status != 0 {
			t.Fatalf("%v", r)
		}
		eventually(t, eventTime, "the workload holds the port", func() bool {
			said, _ := os.ReadFile(out)
			return strings.Contains(string(said), "holding")
		}, func() string { return "" })
		return c, c.operator("restart")
	}},
	{code.ProbeFailed, "restart", func(t *testing.T) (*container, harness.Result) {
		return failingRestart(t, "--status", "500")
	}},
	{code.RolledBack, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{}})
		writeProfile(t, c.id, harness.Profile{Args: []string{"--crash"}}.TOML())
		return c, c.operator("restart")
	}},
	{code.CrashLoop, "status", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{
			Args:    []string{"--exit-after", "50ms", "--exit-code", "3"},
			Restart: "backoff = { initial = \"20ms\", max = \"50ms\" }\nburst = 2",
			Start:   "on_failure = \"warn\"",
		}})
		c.awaitState(receipt.FailedSt)
		return c, c.operator("status")
	}},
	{code.WardenLost, "status", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{}})
		// A shim that is stopped starts no successor. The command asks the warden itself.
		shim := c.shim()
		warden := c.status().Warden.PID
		signalProcess(t, shim, unix.SIGSTOP)
		defer signalProcess(t, shim, unix.SIGCONT)
		killProcess(t, warden)
		return c, c.operator("status")
	}},
	{code.ForwardFailed, "restart", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{More: newProxy(t).toml("")}})
		return c, c.operator("restart")
	}},
	{code.Internal, "status", func(t *testing.T) (*container, harness.Result) {
		c := run(t, options{profile: &harness.Profile{}})
		return c, c.asNobody("status")
	}},
}

// failingRestart restarts a gateway that fails with those arguments.
func failingRestart(t *testing.T, args ...string) (*container, harness.Result) {
	t.Helper()
	c := run(t, options{profile: withOptions(t, harness.Profile{
		Ready:   "http = \"http://" + harness.GatewayAddress + "/health\"\naccept = [200]\ntimeout = \"700ms\"",
		Restart: "policy = \"never\"",
	})})
	c.options(args...)
	return c, c.operator("restart")
}

// operator runs a verb of the operator's command on the container, as on a terminal: without --json.
func (c *container) operator(verb string, flags ...string) harness.Result {
	c.t.Helper()
	return gatewarden(c.t, append(append([]string{verb}, flags...), c.name())...)
}

// asNobody runs a verb as a user other than root.
func (c *container) asNobody(verb string) harness.Result {
	c.t.Helper()
	program, err := os.ReadFile(c.h.Bin("gatewarden"))
	if err != nil {
		c.t.Fatal(err)
	}
	// The checkout may be closed to others.
	copied := filepath.Join(c.h.Dir, uniqueID("gatewarden"))
	writeFile(c.t, copied, string(program), 0o755)
	defer os.Remove(copied)
	cmd := exec.Command(copied, verb, c.name())
	cmd.Env = []string{"GATEWARDEN_CONFIG=" + c.h.ConfigFile}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err = cmd.Run()
	if cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return harness.Result{Args: cmd.Args, Stdout: out.String(), Stderr: complaint.String(), Status: cmd.ProcessState.ExitCode()}
}

var backticked = regexp.MustCompile("`([^`]+)`")

// onlyReads are verbs that a test may run wherever a message names them.
var onlyReads = []string{"status", "ps", "logs", "receipts", "probe", "doctor", "profile", "generations"}

func TestEveryCodesMessageNamesTheContainerAndACureThatWorks(t *testing.T) {
	done := map[code.Code]bool{}
	for _, row := range complaints {
		done[row.code] = true
		t.Run(string(row.code), func(t *testing.T) {
			c, said := row.do(t)
			text := said.Stdout + said.Stderr
			t.Logf("%v", said)
			// What fails with this code is not the action.
			if (said.Status == code.ExitOK) != (row.code == code.ForwardFailed) || said.Status == code.ExitUsage {
				t.Errorf("exit status %d", said.Status)
			}
			if !strings.Contains(text, string(row.code)) {
				t.Errorf("the code is not %s", row.code)
			}
			// A user other than root can't even see which containers there are.
			if row.code != code.Internal && !strings.Contains(text, c.name()) {
				t.Errorf("it does not name %s", c.name())
			}
			if strings.Contains(text, "%!") || strings.Contains(text, "<nil>") {
				t.Error("it is not well formed")
			}
			cures := 0
			for _, m := range backticked.FindAllStringSubmatch(text, -1) {
				words := strings.Fields(m[1])
				switch words[0] {
				case "ctr":
					cures++
					if r := c.ctr(words[1:]...); r.Status != 0 {
						t.Errorf("the cure fails: %v", r)
					}
				case "gatewarden":
					cures++
					c.checkCure(row.verb, words[1:])
				}
			}
			if cures == 0 && row.code != code.Internal {
				t.Error("it says nothing to do next")
			}
			if row.code == code.Internal && !strings.Contains(text, "as root") {
				t.Error("it does not say to do it as root")
			}
		})
	}
	for _, c := range documentedCodes(t) {
		if !done[c] {
			t.Errorf("nothing here provokes %s", c)
		}
	}
}

// checkCure checks a gatewarden command that the message of a failed verb names.
func (c *container) checkCure(failed string, command []string) {
	c.t.Helper()
	verb := command[0]
	if verb == failed {
		c.t.Errorf("the cure for %s is %q again", failed, command)
	}
	if !slices.Contains(onlyReads, verb) {
		if r := gatewarden(c.t, verb, "--help"); r.Status != 0 {
			c.t.Errorf("there is no %q: %v", verb, r)
		}
		return
	}
	// What it finds is its own business; that it can be understood as it stands is ours.
	if r := gatewarden(c.t, command...); r.Status == code.ExitUsage {
		c.t.Errorf("%q is no command: %v", command, r)
	}
}

var (
	declaredCode = regexp.MustCompile(`(?m)^\t\w+\s+Code = "(\w+)"`)
	codeRow      = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (.*) \\| (.*)\\|$")
)

// documentedCodes are the codes that package code declares. Each has its row in docs/operating.md.
func documentedCodes(t *testing.T) []code.Code {
	t.Helper()
	source, err := os.ReadFile("../internal/code/code.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []code.Code
	for _, m := range declaredCode.FindAllStringSubmatch(string(source), -1) {
		all = append(all, code.Code(m[1]))
	}
	if len(all) == 0 {
		t.Fatal("no codes")
	}
	return all
}

func TestTheOperatorsManualHasACureForEachCode(t *testing.T) {
	manual, err := os.ReadFile("../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(manual), "## What to do for each code")
	table, _, _ = strings.Cut(table, "\n## ")
	if !found {
		t.Fatal("there is no such section")
	}
	rows := map[code.Code][]string{}
	for _, m := range codeRow.FindAllStringSubmatch(table, -1) {
		rows[code.Code(m[1])] = m[2:]
	}
	declared := documentedCodes(t)
	for _, c := range declared {
		switch row := rows[c]; {
		case row == nil:
			t.Errorf("there is no row for %s", c)
		case row[0] == "" || strings.TrimSpace(row[1]) == "" && c != code.RolledBack:
			t.Errorf("%s: no meaning, or nothing to do", c)
		}
	}
	for c, row := range rows {
		if !slices.Contains(declared, c) {
			t.Errorf("there is no code %s", c)
		}
		for _, m := range backticked.FindAllStringSubmatch(strings.Join(row, " "), -1) {
			if words := strings.Fields(m[1]); words[0] == "gatewarden" && len(words) > 1 {
				if r := gatewarden(t, words[1], "--help"); r.Status != 0 {
					t.Errorf("%s: there is no %q: %v", c, m[1], r)
				}
			}
		}
	}
}
