package verb

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// configured makes a container default/web with three generations: the first of its install, the second applied and current, the
// third rejected.
func (h *host) configured() *generation.Store {
	h.t.Helper()
	must := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	h.lose("default/web")
	source := h.t.TempDir()
	must(os.Chmod(source, 0o755))
	store := generation.Open(filepath.Join(h.env.Config.StateDir, "default/web"))
	var parent *generation.Generation
	for i, conf := range []string{"one\n", "two\n", "three\n"} {
		must(os.WriteFile(source+"/conf", []byte(conf), 0o644))
		f, err := os.OpenFile(source, unix.O_PATH, 0)
		must(err)
		defer f.Close()
		origin, reason := generation.Applied, "ticket 4711"
		if i == 0 {
			origin, reason = generation.Install, ""
		}
		g, err := store.Stage(h.t.Context(), generation.Plan{
			Name: "demo", Profile: []byte("version = 1\n"), Sources: []generation.Source{{Target: "/etc/gateway", Path: source, File: f}},
			UID: 64990, GID: 64990, Parent: parent, Origin: origin, Reason: reason,
		})
		must(err)
		switch i {
		case 0:
			must(store.Begin(g, g.From))
		case 1:
			must(store.Try(g.Number))
			must(store.Accept(g.Number, g.From))
		case 2:
			must(store.Try(g.Number))
			must(store.Reject(receipt.Rejected{Generation: g.Number, Code: code.ProbeFailed, Message: "HTTP status \x1b[31m503", Time: time.Unix(1, 0)}, g.From))
			return store
		}
		parent = g
	}
	return store
}

func TestGenerationsAreListedWithWhatBecameOfThem(t *testing.T) {
	h := newHost(t)
	h.env.Terminal = true
	h.configured()
	exit, stdout, _ := h.run("generations", "web")
	want(t, exit, code.ExitOK, stdout, "GENERATION", "STATE", "kept", "install", "current", "apply", "rejected", "/etc/gateway/conf", "ticket 4711; HTTP status")
	if lines := strings.Count(stdout, "\n"); lines != 4 || strings.Contains(stdout, "\x1b") {
		t.Errorf("%d lines: %q", lines, stdout)
	}
	exit, stdout, _ = h.run("generations", "web", "--json")
	want(t, exit, code.ExitOK, stdout)
	var states []string
	for line := range strings.Lines(stdout) {
		var l listed
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		states = append(states, l.State)
		if (l.Rejected != nil) != (l.Number == 3) || l.Number > 1 && len(l.Changes) != 1 || l.Number == 1 && l.Changes != nil {
			t.Errorf("%+v", l)
		}
	}
	if !slices.Equal(states, []string{"kept", "current", "rejected"}) {
		t.Errorf("the states are %v", states)
	}
}

func TestTheDifferenceOfTwoGenerationsIsPrinted(t *testing.T) {
	h := newHost(t)
	h.configured()
	for _, c := range []struct{ diff, want string }{
		{"2", "-one\n+two\n"},
		{"3", "-two\n+three\n"},
		{"1,3", "-one\n+three\n"},
		{"3,1", "-three\n+one\n"},
	} {
		exit, stdout, _ := h.run("generations", "web", "--diff", c.diff)
		want(t, exit, code.ExitOK, stdout, ": /etc/gateway/conf\n", c.want)
	}
	exit, stdout, _ := h.run("generations", "web", "--diff", "2,2")
	if want(t, exit, code.ExitOK, stdout); stdout != "" {
		t.Errorf("it differs from itself: %s", stdout)
	}
	exit, stdout, _ = h.run("generations", "web", "--diff", "1,2", "--json")
	want(t, exit, code.ExitOK, stdout, `"from":1,"to":2,"changes":[{"path":"/etc/gateway/conf","change":"changed"}]`)
	for diff, says := range map[string]string{"1": "generation 1 of default/web is the first one: name the one to compare it with, --diff N,1", "7": "generation 7: there is none", "9,2": "generation 9: there is none"} {
		exit, stdout, stderr := h.run("generations", "web", "--diff", diff)
		want(t, exit, code.ExitNotManaged, stderr, says)
		if stdout != "" {
			t.Errorf("--diff %s prints %s", diff, stdout)
		}
	}
}

func TestGenerationsThatCannotBeReadAreAnError(t *testing.T) {
	h := newHost(t)
	exit, _, stderr := h.run("generations", "default/nobody")
	want(t, exit, code.ExitNotManaged, stderr, "default/nobody")
	h.lose("default/old")
	exit, _, stderr = h.run("generations", "old")
	want(t, exit, code.ExitNotManaged, stderr, "default/old has no generations")
	store := h.configured()
	h.write(filepath.Join(store.Dir(), "2/generation.json"), "{")
	exit, _, stderr = h.run("generations", "web")
	if exit == code.ExitOK || !strings.Contains(stderr, "cannot use "+store.Dir()+"/2/generation.json") {
		t.Errorf("exit status %d: %s", exit, stderr)
	}
}

func TestApplyAndRollbackAskForAConfiguration(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, c := range []struct {
		args []string
		want control.Request
	}{
		{[]string{"apply", "web"}, control.Request{Verb: control.Apply}},
		{[]string{"apply", "web", "--config", "/root/new"}, control.Request{Verb: control.Apply, Config: []control.Config{{Source: "/root/new"}}}},
		{[]string{"apply", "web", "--config", "new/../x/"}, control.Request{Verb: control.Apply, Config: []control.Config{{Source: dir + "/x"}}}},
		{[]string{"apply", "web", "--config", "a=b"}, control.Request{Verb: control.Apply, Config: []control.Config{{Source: dir + "/a=b"}}}},
		{[]string{"apply", "web", "--config", "/etc/gw=/root/a", "--config=/etc/b=/root/b=c"},
			control.Request{Verb: control.Apply, Config: []control.Config{{Target: "/etc/gw", Source: "/root/a"}, {Target: "/etc/b", Source: "/root/b=c"}}}},
		{[]string{"apply", "--skip-preflight", "web"}, control.Request{Verb: control.Apply, SkipPreflight: true}},
		{[]string{"rollback", "web"}, control.Request{Verb: control.Rollback}},
		{[]string{"rollback", "web", "--to", "3", "--dry-run"}, control.Request{Verb: control.Rollback, To: 3, DryRun: true}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			h := newHost(t)
			got := make(chan control.Request, 1)
			h.serve("default/web", func(req control.Request, send func(control.Message)) {
				got <- req
				send(control.Message{Receipt: replaced(), Done: true})
			})
			exit, stdout, stderr := h.run(c.args...)
			want(t, exit, code.ExitOK, stdout+stderr)
			req := <-got
			if req.Verb != c.want.Verb || !slices.Equal(req.Config, c.want.Config) || req.To != c.want.To || req.DryRun != c.want.DryRun || req.SkipPreflight != c.want.SkipPreflight {
				t.Errorf("asked was %+v, want %+v", req, c.want)
			}
		})
	}
}

func TestADryRunsPlanIsPrinted(t *testing.T) {
	h := newHost(t)
	h.env.Terminal = true
	plan := &control.Plan{Current: 1, Generation: 2, Changes: []generation.Change{{Path: "/etc/gateway/\x1b[2Jconf", Change: "changed"}}, Diff: "-one\n+\x1b[31mtwo\n"}
	h.serve("default/web", func(_ control.Request, send func(control.Message)) { send(control.Message{Plan: plan, Done: true}) })
	exit, stdout, _ := h.run("apply", "web", "--dry-run")
	want(t, exit, code.ExitOK, stdout, "default/web: generation 2 would take the place of 1, with a restart of the gateway\n", "  changed  /etc/gateway/", "-one\n+")
	if strings.Contains(stdout, "\x1b[2J") || strings.Contains(stdout, "\x1b[31m") {
		t.Errorf("what the configuration holds reaches the terminal: %q", stdout)
	}
	exit, stdout, _ = h.run("apply", "web", "--dry-run", "--json")
	want(t, exit, code.ExitOK, stdout)
	if got := oneObject[control.Plan](t, stdout); got.Generation != 2 || got.Diff != plan.Diff {
		t.Errorf("%+v", got)
	}
	plan.Generation = 1
	exit, stdout, _ = h.run("apply", "web", "--dry-run")
	want(t, exit, code.ExitOK, stdout, "generation 1 holds this configuration already; nothing would change")
}
