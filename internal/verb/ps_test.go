package verb

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestPsListsEveryContainerAlsoLostOnes(t *testing.T) {
	ill := func() *receipt.Status {
		st := statusOf("k8s.io/api")
		no := false
		st.State, st.Healthy, st.Checked, st.PID, st.Code, st.Message = receipt.Backoff, &no, nil, 0, code.ProbeFailed, "said\n500"
		return st
	}
	for _, c := range []struct {
		name string
		args []string
		make func(h *host)
	}{
		{"as written down", nil, func(h *host) {
			h.wrote("default/web", statusOf("default/web"))
			h.wrote("k8s.io/api", ill())
		}},
		{"as answered", []string{"--probe"}, func(h *host) {
			h.serve("default/web", answerStatus("default/web"))
			h.serve("k8s.io/api", answer(ill()))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			c.make(h)
			h.lose("default/lost")
			exit, stdout, stderr := h.run(append([]string{"ps"}, c.args...)...)
			want(t, exit, code.ExitOK, stdout)
			lines := strings.Split(strings.TrimSpace(stdout), "\n")
			if len(lines) != 4 || stderr != "" {
				t.Fatalf("stdout %q, stderr %q", stdout, stderr)
			}
			for i, fields := range [][]string{
				{"CONTAINER", "GATEWAY", "STATE", "HEALTHY", "CHECKED", "PID", "UP", "RESTARTS", "LISTEN", "LAST"},
				{"default/lost", "demo", "lost", "?", "-", "-", "-", "-", "-", "warden_lost:"},
				{"default/web", "demo", "running", "yes", "5m", "845", "3m", "1/0", "tcp://127.0.0.1:18789", "restart", "60s", "ago"},
				{"k8s.io/api", "demo", "backoff", "no", "-", "-", "3m", "1/0", "tcp://127.0.0.1:18789", "probe_failed:", "said", "500"},
			} {
				if got := strings.Fields(lines[i]); len(got) < len(fields) || strings.Join(got[:len(fields)], " ") != strings.Join(fields, " ") {
					t.Errorf("line %d: %q, want %q", i, got, fields)
				}
			}
			exit, stdout, _ = h.run(append([]string{"ps", "--json"}, c.args...)...)
			want(t, exit, code.ExitOK, stdout)
			var all []receipt.Status
			if err := json.Unmarshal([]byte(stdout), &all); err != nil || len(all) != 3 || all[0].Code != code.WardenLost || all[1].PID != 845 ||
				all[1].Checked == nil || all[2].Checked != nil {
				t.Errorf("%v in %s", err, stdout)
			}
		})
	}
}

func answer(st *receipt.Status) func(control.Request, func(control.Message)) {
	return func(_ control.Request, send func(control.Message)) { send(control.Message{Status: st, Done: true}) }
}

func TestPsReadsWhatWardensWroteAndAsksOnlyThoseThatItCannotRead(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		spoil func(h *host, path string, word *os.File) // of what is written down
		asked bool
	}{
		{"written down", nil, nil, false},
		{"--probe", []string{"--probe"}, nil, true},
		{"nothing is written down", nil, func(h *host, path string, _ *os.File) { h.remove(path) }, true},
		{"nobody stands by it", nil, func(_ *host, _ string, word *os.File) { word.Close() }, true},
		{"another release's", nil, func(h *host, path string, _ *os.File) {
			h.replace(path, fmt.Sprintf(`{"version":%d,`, memo.Version), `{"version":1,`)
		}, true},
		{"not readable", nil, func(h *host, path string, _ *os.File) { h.replace(path, `"version"`, `"versiom"`) }, true},
		{"another container's", nil, func(h *host, path string, _ *os.File) { h.replace(path, `"id":"web"`, `"id":"wob"`) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			word := h.wrote("default/web", statusOf("default/web"))
			var asked atomic.Bool
			h.serve("default/web", func(req control.Request, send func(control.Message)) {
				asked.Store(true)
				answerStatus("default/web")(req, send)
			})
			if c.spoil != nil {
				c.spoil(h, filepath.Join(h.env.Config.RunDir, "default/web", memo.Name), word)
			}
			exit, stdout, _ := h.run(append([]string{"ps"}, c.args...)...)
			want(t, exit, code.ExitOK, stdout, "default/web", "running", "845")
			if asked.Load() != c.asked {
				t.Errorf("the warden was asked: %v, want %v", asked.Load(), c.asked)
			}
		})
	}
}

// Its gateway may have ended since: what was written down then is nothing to go by.
func TestPsShowsAContainerAsLostWhateverItsWardenWroteDown(t *testing.T) {
	h := newHost(t)
	h.wrote("default/web", statusOf("default/web")).Close()
	exit, stdout, _ := h.run("ps")
	want(t, exit, code.ExitOK, stdout, "default/web", "lost", "warden_lost")
	if strings.Contains(stdout, "running") || strings.Contains(stdout, "yes") {
		t.Errorf("it is shown as running:\n%s", stdout)
	}
}

func TestPsOfAnEmptyHostIsAnEmptyList(t *testing.T) {
	h := newHost(t)
	exit, stdout, _ := h.run("ps", "--json")
	if exit != code.ExitOK || stdout != "[]\n" {
		t.Errorf("exit %d, %q", exit, stdout)
	}
	exit, stdout, stderr := h.run("ps")
	want(t, exit, code.ExitOK, stderr, "no container on this host has a gateway")
	if stdout != "" {
		t.Errorf("stdout %q", stdout)
	}
}

func TestPsAsksWardensSideBySide(t *testing.T) {
	h := newHost(t)
	release := make(chan struct{})
	for i := range 10 {
		h.serve(fmt.Sprintf("default/hang%d", i), func(control.Request, func(control.Message)) { <-release })
	}
	t.Cleanup(func() { close(release) })
	begun := time.Now()
	exit, stdout, _ := h.run("ps", "--probe", "--timeout", "300ms")
	want(t, exit, code.ExitOK, stdout, "hang0", "hang9", "no answer", "deadline:")
	if d := time.Since(begun); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestPsFitsTheTerminal(t *testing.T) {
	h := newHost(t)
	id := strings.Repeat("0123456789abcdef", 4)
	h.serve("k8s.io/"+id, answerStatus("k8s.io/"+id))
	h.serve("default/web", answerStatus("default/web"))
	h.lose("default/lost")
	for _, width := range []int{200, 120, 80, 40, 10} {
		h.env.Width = width
		_, stdout, _ := h.run("ps")
		for line := range strings.Lines(stdout) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("%d columns in %d: %q", n, width, line)
			}
		}
		if width >= 80 && !strings.Contains(stdout, "k8s.io/0123456789ab ") {
			t.Errorf("width %d: the shortened ID is missing:\n%s", width, stdout)
		}
	}
	h.env.Width = 0
	if _, stdout, _ := h.run("ps"); !strings.Contains(stdout, id) {
		t.Errorf("without a terminal the ID is shortened:\n%s", stdout)
	}
}

func BenchmarkPsOf200(b *testing.B) {
	h := newHost(b)
	for i := range 200 {
		name := fmt.Sprintf("default/web%d", i)
		h.wrote(name, statusOf(name))
	}
	for _, args := range [][]string{{"ps"}, {"ps", "--json"}} {
		b.Run(strings.Join(args, " "), func(b *testing.B) {
			for b.Loop() {
				if exit, stdout, _ := h.run(args...); exit != code.ExitOK || strings.Contains(stdout, "lost") {
					b.Fatalf("exit status %d:\n%s", exit, stdout)
				}
			}
		})
	}
}
