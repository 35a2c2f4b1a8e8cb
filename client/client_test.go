package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/control/controltest"
	"github.com/gatewarden/gatewarden/internal/notary"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// fixture is a host's directories, with wardens that the test makes up.
type fixture struct {
	*Client
	t   *testing.T
	dir string
}

var web = Ref{"default", "web"}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	// The settings have to be root's in every component, which /tmp is not.
	dir, err := os.MkdirTemp("/var/lib", "gwt-client-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	settings := fmt.Sprintf("version = 1\nrun_dir = %q\nstate_dir = %q\nlog_dir = %q\nhook = %q\n", dir+"/run", dir+"/state", dir+"/log", dir+"/hook")
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{ConfigFile: file})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{c, t, dir}
}

func (f *fixture) serve(r Ref, handler func(control.Request, func(control.Message))) {
	f.t.Helper()
	controltest.Serve(f.t, filepath.Join(f.dir, "run", r.Namespace, r.ID), handler)
}

// write makes a file below the fixture's directory.
func (f *fixture) write(name, content string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// last answers everything with that message.
func last(m control.Message) func(control.Request, func(control.Message)) {
	m.Done = true
	return func(_ control.Request, send func(control.Message)) { send(m) }
}

func asError(t *testing.T, err error) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v (%T) is not an *Error", err, err)
	}
	return e
}

func TestAnActionAsksForWhatItSays(t *testing.T) {
	f := newFixture(t)
	var got control.Request
	f.serve(web, func(req control.Request, send func(control.Message)) {
		got = req
		send(control.Message{Stage: code.StageStop, Text: "stopping", Elapsed: 1.5})
		send(control.Message{Receipt: &receipt.Receipt{ID: "r1", Outcome: receipt.Replaced}, Done: true})
	})
	two := 2
	var progress []Progress
	a := Action{Reason: "why", RequestID: "id", IfGeneration: &two, Timeout: time.Minute, Signal: "SIGQUIT",
		Progress: func(p Progress) { progress = append(progress, p) }}
	r, err := f.Restart(t.Context(), web, a)
	if err != nil || r.ID != "r1" || r.Outcome != OutcomeReplaced {
		t.Fatalf("%+v, %v", r, err)
	}
	if got.Verb != control.Restart || got.Reason != "why" || got.RequestID != "id" || *got.IfGeneration != 2 || got.Timeout != time.Minute ||
		got.Signal != "SIGQUIT" || got.Via != "client" {
		t.Errorf("asked for %+v", got)
	}
	if !slices.Equal(progress, []Progress{{StageStop, "stopping", 1500 * time.Microsecond}}) {
		t.Errorf("progress %+v", progress)
	}
	if _, err := f.Apply(t.Context(), web, []Config{{"/etc/gw", "/root/new"}}, Action{SkipPreflight: true}); err != nil {
		t.Fatal(err)
	}
	if got.Verb != control.Apply || !slices.Equal(got.Config, []control.Config{{Target: "/etc/gw", Source: "/root/new"}}) || !got.SkipPreflight || got.DryRun || got.RequestID == "" {
		t.Errorf("asked for %+v", got)
	}
	if _, err := f.Rollback(t.Context(), web, 3, Action{}); err != nil || got.Verb != control.Rollback || got.To != 3 {
		t.Errorf("asked for %+v, %v", got, err)
	}
	if _, err := f.Recover(t.Context(), web, Action{}); err != nil || got.Verb != control.Recover || got.Timeout != 0 {
		t.Errorf("asked for %+v, %v", got, err)
	}
}

// The warden gives up before its caller does, so that the caller learns how it ended.
func TestAContextsDeadlineIsTheWardensToo(t *testing.T) {
	f := newFixture(t)
	var got control.Request
	f.serve(web, func(req control.Request, send func(control.Message)) {
		got = req
		send(control.Message{Receipt: &receipt.Receipt{Outcome: receipt.Replaced}, Done: true})
	})
	for _, c := range []struct{ left, least, most time.Duration }{
		{10 * time.Second, 9 * time.Second, 9500 * time.Millisecond},
		{10 * time.Minute, 10*time.Minute - 2*time.Second, 10*time.Minute - time.Second},
		{48 * time.Hour, MaxTimeout, MaxTimeout},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), c.left)
		_, err := f.Restart(ctx, web, Action{})
		cancel()
		if err != nil || got.Timeout < c.least || got.Timeout > c.most {
			t.Errorf("of %v the warden gets %v: %v", c.left, got.Timeout, err)
		}
	}
}

func TestARequestThatIsNotOneIsTheCallersMistake(t *testing.T) {
	f := newFixture(t)
	f.serve(web, func(req control.Request, _ func(control.Message)) { t.Errorf("the warden was asked for %+v", req) })
	actions := map[string]func() (*Receipt, error){
		"a reason too long": func() (*Receipt, error) {
			return f.Restart(t.Context(), web, Action{Reason: strings.Repeat("x", MaxReason+1)})
		},
		"no such signal":                          func() (*Receipt, error) { return f.Restart(t.Context(), web, Action{Signal: "SIGFOO"}) },
		"a signal for recover":                    func() (*Receipt, error) { return f.Recover(t.Context(), web, Action{Signal: "SIGTERM"}) },
		"a restart without its preflight command": func() (*Receipt, error) { return f.Restart(t.Context(), web, Action{SkipPreflight: true}) },
		"a source that is not absolute":           func() (*Receipt, error) { return f.Apply(t.Context(), web, []Config{{"", "new"}}, Action{}) },
		"a negative generation":                   func() (*Receipt, error) { return f.Rollback(t.Context(), web, -1, Action{}) },
	}
	for name, act := range actions {
		r, err := act()
		if _, is := errors.AsType[*Error](err); r != nil || err == nil || is {
			t.Errorf("%s: %+v, %v (%T)", name, r, err, err)
		}
	}
}

func TestAnOutcomeIsAReceiptAndAnErrorWithTheCommandsExitStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		last control.Message
		want Error
		exit int
	}{
		{"failed", control.Message{Receipt: &receipt.Receipt{Outcome: receipt.Failed, Code: code.ProbeFailed, Stage: code.StageProbe, Retryable: true, Message: "it said 500"}},
			Error{Code: CodeProbeFailed, Stage: StageProbe, Retryable: true, Message: "it said 500"}, 1},
		{"failed, with the error beside it", control.Message{Receipt: &receipt.Receipt{Outcome: receipt.Failed}, Error: code.Errorf(code.StopFailed, code.StageStop, "it does not die")},
			Error{Code: CodeStopFailed, Stage: StageStop, Message: "it does not die"}, 1},
		{"refused", control.Message{Receipt: &receipt.Receipt{Outcome: receipt.Refused, Code: code.PreflightFailed, Message: "port taken"}},
			Error{Code: CodePreflightFailed, Message: "port taken"}, 3},
		{"rolled back", control.Message{Receipt: &receipt.Receipt{Outcome: receipt.RolledBack, Code: code.RolledBack, Message: "the previous one runs"}},
			Error{Code: CodeRolledBack, Message: "the previous one runs"}, 4},
		{"deadline", control.Message{Receipt: &receipt.Receipt{Outcome: receipt.Refused, Code: code.Deadline, Message: "late"}},
			Error{Code: CodeDeadline, Message: "late"}, 5},
		{"busy, without a receipt", control.Message{Error: code.Errorf(code.Busy, code.StageQueue, "queue full")},
			Error{Code: CodeBusy, Stage: StageQueue, Retryable: true, Message: "queue full"}, 5},
		{"without anything", control.Message{}, Error{Code: CodeInternal, Stage: StageQueue}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			f.serve(web, last(c.last))
			r, err := f.Restart(t.Context(), web, Action{})
			e := asError(t, err)
			if (r == nil) != (c.last.Receipt == nil) {
				t.Errorf("the receipt is %+v", r)
			}
			if e.Code != c.want.Code || e.Stage != c.want.Stage || e.Retryable != c.want.Retryable || !strings.Contains(e.Message, c.want.Message) || e.Message == "" || e.ExitStatus() != c.exit {
				t.Errorf("%+v, exit status %d", e, e.ExitStatus())
			}
		})
	}
}

func TestALostWardenIsToldFromAnAbsentGateway(t *testing.T) {
	f := newFixture(t)
	f.write("run/default/web/install.json", `{"version":1,"id":"web","init_pid":4242,"init_start":77,"profile":"demo"}`)
	if _, err := f.Status(t.Context(), web); asError(t, err).Code != CodeWardenLost {
		t.Error(err)
	}
	// No warden can be started: the settings' hook is not there, and what lies beside this program is not looked at.
	if _, err := f.Restart(t.Context(), web, Action{}); asError(t, err).Code != CodeWardenLost || !strings.Contains(err.Error(), f.dir+"/hook") || asError(t, err).ExitStatus() != 3 {
		t.Error(err)
	}
	all, err := f.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Container.Ref() != web || all[0].Code != CodeWardenLost || all[0].Gateway != "demo" {
		t.Errorf("%+v, %v", all, err)
	}
	for _, r := range []Ref{{"default", "db"}, {"", "web"}, {"default", ""}, {"..", "run/default"}, {"default", ".."}, {"default/web", "."}} {
		if _, err := f.Status(t.Context(), r); asError(t, err).Code != CodeNotManaged || asError(t, err).ExitStatus() != 6 {
			t.Errorf("%q: %v", r, err)
		}
		if _, err := f.Restart(t.Context(), r, Action{}); asError(t, err).Code != CodeNotManaged {
			t.Errorf("%q: %v", r, err)
		}
		if _, err := f.Receipts(t.Context(), r, 1); asError(t, err).Code != CodeNotManaged {
			t.Errorf("%q: %v", r, err)
		}
		for _, err := range f.Logs(t.Context(), r, 1, false) {
			if asError(t, err).Code != CodeNotManaged {
				t.Errorf("%q: %v", r, err)
			}
		}
	}
}

func TestAWardenThatGoesAwayAfterTheStopIsNoRefusal(t *testing.T) {
	f := newFixture(t)
	f.serve(web, func(_ control.Request, send func(control.Message)) { send(control.Message{Stage: code.StageStop}) })
	_, err := f.Restart(t.Context(), web, Action{})
	if e := asError(t, err); e.Code != CodeWardenLost || e.ExitStatus() != 1 || !strings.Contains(e.Message, "whether a gateway runs now is not known") {
		t.Errorf("%+v, exit status %d", e, e.ExitStatus())
	}
}

func TestWhoStopsWaitingIsToldThatItGoesOn(t *testing.T) {
	f := newFixture(t)
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	f.serve(web, func(_ control.Request, send func(control.Message)) {
		send(control.Message{Stage: code.StageStop})
		cancel()
		<-release
	})
	t.Cleanup(func() { close(release) })
	_, err := f.Restart(ctx, web, Action{})
	if e := asError(t, err); e.Code != CodeDeadline || !e.Retryable || e.ExitStatus() != 5 || !errors.Is(err, context.Canceled) || !strings.Contains(e.Message, "finishes what it has begun") {
		t.Errorf("%+v, exit status %d", e, e.ExitStatus())
	}
}

func TestAPlanIsNoReceipt(t *testing.T) {
	f := newFixture(t)
	f.serve(web, func(req control.Request, send func(control.Message)) {
		switch {
		case !req.DryRun:
			t.Errorf("asked for %+v", req)
		case req.Verb == control.Apply:
			send(control.Message{Plan: &control.Plan{Current: 1, Generation: 2, Diff: "-a\n+b\n"}, Done: true})
		default:
			send(control.Message{Receipt: &receipt.Receipt{Outcome: receipt.Refused, Code: code.PreflightFailed, Message: "no"}, Done: true})
		}
	})
	if p, err := f.PlanApply(t.Context(), web, nil, Action{}); err != nil || p.Generation != 2 || p.Diff != "-a\n+b\n" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := f.PlanRollback(t.Context(), web, 0, Action{}); p != nil || asError(t, err).Code != CodePreflightFailed {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestANameOfSeveralContainersIsOfNone(t *testing.T) {
	f := newFixture(t)
	f.write("run/default/web-1/x", "")
	f.write("run/k8s.io/web-2/x", "")
	_, err := f.Find("web")
	a, ok := errors.AsType[*AmbiguousError](err)
	if !ok || !slices.Equal(a.Candidates, []Ref{{"default", "web-1"}, {"k8s.io", "web-2"}}) || !strings.Contains(err.Error(), "default/web-1, k8s.io/web-2") {
		t.Errorf("%v", err)
	}
	if r, err := f.Find("web-2"); err != nil || r != (Ref{"k8s.io", "web-2"}) {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := f.Find("db"); asError(t, err).Code != CodeNotManaged {
		t.Error(err)
	}
}

// record writes receipts into the host's audit log, with the ids r1, r2, …
func (f *fixture) record(from int, containers ...Ref) {
	f.t.Helper()
	if err := os.MkdirAll(f.dir+"/state", 0o700); err != nil {
		f.t.Fatal(err)
	}
	for i, c := range containers {
		body, err := json.Marshal(&receipt.Receipt{Version: 1, ID: fmt.Sprintf("r%d", from+i), Container: receipt.Container{Namespace: c.Namespace, ID: c.ID}})
		if err == nil {
			_, err = notary.Append(audit.Log(f.dir+"/state"), nil, body, notary.Patience)
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

func TestEventsAreResumedAfterTheLastThatWasDealtWith(t *testing.T) {
	f := newFixture(t)
	db := Ref{"default", "db"}
	f.record(1, web, db, web)
	var got []string
	for e, err := range f.Events(t.Context(), "r1", web, Ref{"default", "other"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d", e.Receipt.ID, e.Seq))
		if len(got) == 2 {
			break
		}
		f.record(4, db, web)
	}
	if want := []string{"r3 3", "r5 5"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	for _, err := range f.Events(t.Context(), "r9") {
		if asError(t, err).Code != CodeNotManaged {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ends := 0
	for _, err := range f.Events(ctx, "") {
		if ends++; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	}
	if ends != 1 {
		t.Errorf("%d steps, want the end alone", ends)
	}
}

func TestLogsEndWithTheirReaderOrTheContext(t *testing.T) {
	f := newFixture(t)
	const line = "2026-11-23T12:00:00.123456789Z stdout F line %d\n"
	f.write("log/default/web/gateway.log", fmt.Sprintf(line+line+line, 1, 2, 3))
	read := func(ctx context.Context, n, enough int, follow bool) (texts []string, last error) {
		for l, err := range f.Logs(ctx, web, n, follow) {
			if err != nil {
				return texts, err
			}
			if texts = append(texts, l.Text); len(texts) == enough {
				break
			}
		}
		return texts, nil
	}
	for _, c := range []struct{ n, enough, want int }{{2, 9, 2}, {-1, 9, 3}, {0, 9, 0}, {3, 1, 1}} {
		if got, err := read(t.Context(), c.n, c.enough, false); err != nil || len(got) != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got, err := read(ctx, 1, 9, true); !slices.Equal(got, []string{"line 3"}) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := read(t.Context(), 3, 2, true); len(got) != 2 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSettingsThatCannotBeReadAreAnError(t *testing.T) {
	if _, err := New(Options{ConfigFile: filepath.Join(t.TempDir(), "absent.toml")}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := New(Options{Via: strings.Repeat("x", MaxVia+1)}); err == nil {
		t.Error("a via that no warden takes is accepted")
	}
}
