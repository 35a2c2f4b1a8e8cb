package verb

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/control/controltest"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// host is a host's directories, with wardens that the test makes up.
type host struct {
	t   testing.TB
	env Env
	out bytes.Buffer
	err bytes.Buffer
}

func newHost(t testing.TB) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t}
	h.env = Env{
		Config: config.Config{
			ProfileDir: filepath.Join(dir, "profiles"),
			RunDir:     filepath.Join(dir, "run"),
			StateDir:   filepath.Join(dir, "state"),
			LogDir:     filepath.Join(dir, "log"),
		},
		Stdout: &h.out, Stderr: &h.err, Via: "cli",
	}
	return h
}

// run runs a command line and gives its exit status and what it printed.
func (h *host) run(args ...string) (exit int, stdout, stderr string) {
	h.t.Helper()
	return h.runContext(h.t.Context(), args...)
}

func (h *host) runContext(ctx context.Context, args ...string) (exit int, stdout, stderr string) {
	h.out.Reset()
	h.err.Reset()
	exit = Run(ctx, h.env, args)
	return exit, h.out.String(), h.err.String()
}

// inside makes the host's calls virtual execs in default/web.
func (h *host) inside() *host {
	h.env.Target, h.env.Via = &gateways.Target{Namespace: "default", ID: "web"}, "task-exec"
	return h
}

func (h *host) serve(name string, handler func(control.Request, func(control.Message))) {
	h.t.Helper()
	controltest.Serve(h.t, filepath.Join(h.env.Config.RunDir, name), handler)
}

// wrote makes a container whose warden has written st down, and stands by it until the file that it gives is closed. Nobody
// answers there.
func (h *host) wrote(name string, st *receipt.Status) *os.File {
	h.t.Helper()
	h.lose(name)
	m := memo.Memo{Status: *st, Recovery: memo.Recovery{Profile: profile.Profile{Name: "demo"}}}
	f, err := m.Write(filepath.Join(h.env.Config.RunDir, name))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { f.Close() })
	return f
}

// lose makes a container whose warden is gone.
func (h *host) lose(name string) {
	h.t.Helper()
	dir := filepath.Join(h.env.Config.RunDir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	_, id, _ := strings.Cut(name, "/")
	h.write(filepath.Join(dir, "install.json"), `{"version":1,"id":"`+id+`","init_pid":4242,"init_start":77,"profile":"demo"}`)
}

func (h *host) write(path, content string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) remove(path string) {
	h.t.Helper()
	if err := os.Remove(path); err != nil {
		h.t.Fatal(err)
	}
}

// replace changes the file in its place: whoever has it open or locked still does.
func (h *host) replace(path, what, by string) {
	h.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	if !strings.Contains(string(data), what) {
		h.t.Fatalf("no %s in %s", what, data)
	}
	h.write(path, strings.Replace(string(data), what, by, 1))
}

// statusOf is a well container's status.
func statusOf(name string) *receipt.Status {
	ns, id, _ := strings.Cut(name, "/")
	yes, checked := true, time.Now().Add(-5*time.Minute)
	return &receipt.Status{
		Container: receipt.Container{Namespace: ns, ID: id, InitPID: 800, InitStart: 5},
		Gateway:   "demo", State: receipt.Running, PID: 845, NSPID: 9,
		Since: time.Now().Add(-3 * time.Minute), Restarts: receipt.Restarts{Asked: 1}, Generation: 2,
		Listeners: []receipt.Listener{{Name: "api", Address: "tcp://127.0.0.1:18789", Mode: "gateway", Inode: 3, OwnerPID: 845}},
		Healthy:   &yes, Checked: &checked, Standby: receipt.Standby{PID: 850}, Warden: receipt.Warden{PID: 812, Version: "test"},
		Last: replaced(),
	}
}

func answerStatus(name string) func(control.Request, func(control.Message)) {
	return func(_ control.Request, send func(control.Message)) {
		send(control.Message{Status: statusOf(name), Done: true})
	}
}

func replaced() *receipt.Receipt {
	return &receipt.Receipt{
		Version: 1, ID: "r1", Container: receipt.Container{Namespace: "default", ID: "web"}, Gateway: "demo",
		Action: receipt.Restart, Outcome: receipt.Replaced, RequestedBy: receipt.RequestedBy{Via: "cli"},
		Old: &receipt.Old{PID: 812}, New: &receipt.New{PID: 845},
		Listeners: []receipt.Listener{{Name: "api", Address: "tcp://127.0.0.1:18789", OwnerPID: 845}},
		Probe:     &receipt.Probe{Kind: "http", Status: 200, Millis: 1.2},
		Workload:  receipt.Workload{Processes: 4, Unchanged: true},
		Millis:    receipt.Millis{Total: 11.2, Unavailable: 8.9},
		Time:      time.Now().Add(-time.Minute),
	}
}

// want checks an exit status, and that texts are there.
func want(t *testing.T, exit, wantExit int, text string, parts ...string) {
	t.Helper()
	if exit != wantExit {
		t.Errorf("exit status %d, want %d; output:\n%s", exit, wantExit, text)
	}
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

// oneObject decodes output that must be exactly one JSON object on one line.
func oneObject[T any](t *testing.T, out string) T {
	t.Helper()
	var v T
	if strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, "\n") {
		t.Fatalf("not one line: %q", out)
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return v
}

func TestUsageErrorsExit2AndSayWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "usage: gatewarden"},
		{[]string{"resart"}, `unknown verb "resart" (usage)`},
		{[]string{"--json", "ps"}, "the verb comes first"},
		{[]string{"restart"}, "restart needs a container"},
		{[]string{"restart", "a", "b"}, "takes one container, not 2 arguments"},
		{[]string{"restart", "--jsn", "a"}, "unknown flag --jsn"},
		{[]string{"restart", "a", "--timeout"}, "--timeout needs a value"},
		{[]string{"restart", "a", "--timeout", "10"}, `--timeout: "10": a duration is a number with its unit`},
		{[]string{"restart", "a", "--timeout=-1s"}, "a timeout lies between"},
		{[]string{"restart", "a", "--if-generation=x"}, "a generation is a whole number"},
		{[]string{"restart", "a", "--request-id="}, "an id has 1 to 128 bytes"},
		{[]string{"restart", "a", "--reason", strings.Repeat("x", 1025)}, "longer than 1024 bytes"},
		{[]string{"restart", "a", "--json=perhaps"}, "--json"},
		{[]string{"logs", "a", "-n", "-3"}, "give a whole number from 0 to 100000"},
		{[]string{"receipts", "a", "-n", "0"}, "give a whole number from 1 to 100000"},
		{[]string{"ps", "a"}, "ps lists all containers"},
		{[]string{"apply", "a", "--config="}, "the directory or file to copy"},
		{[]string{"apply", "a", "--config", "/etc/gateway="}, "the directory or file to copy"},
		{[]string{"apply", "a", "--to", "1"}, "unknown flag --to"},
		{[]string{"rollback", "a", "--to", "0"}, "a generation is a whole number"},
		{[]string{"rollback", "a", "--config", "/root/x"}, "unknown flag --config"},
		{[]string{"restart", "a", "--dry-run"}, "unknown flag --dry-run"},
		{[]string{"generations", "a", "--diff", "1,x"}, "the number of a generation, or two"},
		{[]string{"generations", "a", "--diff", "0,1"}, "the number of a generation, or two"},
		{[]string{"help", "resart"}, `no help on "resart"`},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			exit, stdout, stderr := newHost(t).run(c.args...)
			want(t, exit, code.ExitUsage, stderr, c.want)
			if stdout != "" {
				t.Errorf("stdout: %q", stdout)
			}
			if c.args != nil && !strings.HasPrefix(stderr, "gatewarden: ") {
				t.Errorf("stderr begins differently: %q", stderr)
			}
		})
	}
}

func TestQuietPrintsNothingWhateverHappens(t *testing.T) {
	h := newHost(t)
	h.serve("default/web", answerStatus("default/web"))
	h.lose("default/lost")
	for _, c := range []struct {
		args []string
		exit int
	}{
		{[]string{"status", "web", "-q"}, 0},
		{[]string{"status", "--quiet", "--json", "web"}, 0},
		{[]string{"status", "-q", "nobody"}, 6},
		{[]string{"status", "-q", "lost"}, 1},
		{[]string{"status", "--wrong", "-q"}, 2},
		{[]string{"resart", "-q"}, 2},
		{[]string{"-q"}, 2},
		{[]string{"ps", "--quiet"}, 0},
		{[]string{"help", "-q"}, 0},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			exit, stdout, stderr := h.run(c.args...)
			want(t, exit, c.exit, stdout+stderr)
			if stdout+stderr != "" {
				t.Errorf("output: %q %q", stdout, stderr)
			}
		})
	}
}

func TestFlagsStandBeforeOrAfterTheContainer(t *testing.T) {
	h := newHost(t)
	got := make(chan control.Request, 1)
	h.serve("default/web", func(req control.Request, send func(control.Message)) {
		got <- req
		send(control.Message{Receipt: replaced(), Done: true})
	})
	for _, args := range [][]string{
		{"restart", "--reason", "why", "--timeout=3s", "--if-generation", "2", "--request-id=r", "web"},
		{"restart", "web", "--reason=why", "--timeout", "3s", "-if-generation=2", "--request-id", "r"},
		{"restart", "--reason=why", "--timeout=3s", "--if-generation=2", "--request-id=r", "--", "default/web"},
	} {
		exit, stdout, stderr := h.run(args...)
		want(t, exit, code.ExitOK, stdout+stderr)
		req := <-got
		if req.Verb != control.Restart || req.Reason != "why" || req.Timeout != 3*time.Second || req.RequestID != "r" ||
			req.IfGeneration == nil || *req.IfGeneration != 2 || req.Via != "cli" || req.Version != control.Version {
			t.Errorf("%q asked %+v", args, req)
		}
	}
}

func TestAVirtualExecActsOnItsOwnContainerOnly(t *testing.T) {
	h := newHost(t).inside()
	h.serve("default/web", answerStatus("default/web"))
	h.serve("default/other", answerStatus("default/other"))
	h.env.More = []Command{{Name: "doctor", Host: true}}

	exit, stdout, stderr := h.run("status")
	want(t, exit, code.ExitOK, stdout+stderr, "default/web")
	exit, _, stderr = h.run("status", "other")
	want(t, exit, code.ExitUsage, stderr, "takes no argument such as \"other\"")
	exit, _, stderr = h.run("ps")
	want(t, exit, code.ExitUsage, stderr, "on the host")
	exit, _, stderr = h.run("doctor")
	want(t, exit, code.ExitUsage, stderr, "doctor")

	exit, stdout, _ = h.run("help")
	want(t, exit, code.ExitOK, stdout, "restart", "recover", "status", "probe", "logs", "receipts", "help")
	for _, hostOnly := range []string{"ps ", "doctor", "CONTAINER"} {
		if strings.Contains(stdout, hostOnly) {
			t.Errorf("%q in a virtual exec's help:\n%s", hostOnly, stdout)
		}
	}
}

func TestWithoutPermissionTheMessageNamesRoot(t *testing.T) {
	// Root is refused nothing by modes; a file where a directory is expected stays ENOTDIR. So the error is made here.
	h := newHost(t)
	in := Invocation{Env: h.env}
	exit := in.Fail(&os.PathError{Op: "open", Path: "/run/gatewarden", Err: os.ErrPermission})
	want(t, exit, code.ExitRefused, h.err.String(), "gatewarden: ", "run gatewarden as root")
	if strings.Count(h.err.String(), "\n") != 1 {
		t.Errorf("not one line: %q", h.err.String())
	}
}
