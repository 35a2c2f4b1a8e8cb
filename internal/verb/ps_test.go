package verb

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestPsListsEveryContainerAlsoLostOnes(t *testing.T) {
	h := newHost(t)
	h.serve("default/web", answerStatus("default/web"))
	h.serve("k8s.io/api", func(_ control.Request, send func(control.Message)) {
		st := statusOf("k8s.io/api")
		no := false
		st.State, st.Healthy, st.PID, st.Code, st.Message = receipt.Backoff, &no, 0, code.ProbeFailed, "said\n500"
		send(control.Message{Status: st, Done: true})
	})
	h.lose("default/lost")
	exit, stdout, stderr := h.run("ps")
	want(t, exit, code.ExitOK, stdout)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 4 || stderr != "" {
		t.Fatalf("stdout %q, stderr %q", stdout, stderr)
	}
	for i, fields := range [][]string{
		{"CONTAINER", "GATEWAY", "STATE", "HEALTHY", "PID", "UP", "RESTARTS", "LISTEN", "LAST"},
		{"default/lost", "demo", "lost", "?", "-", "-", "-", "-", "warden_lost:"},
		{"default/web", "demo", "running", "yes", "845", "3m", "1/0", "tcp://127.0.0.1:18789", "restart", "60s", "ago"},
		{"k8s.io/api", "demo", "backoff", "no", "-", "3m", "1/0", "tcp://127.0.0.1:18789", "probe_failed:", "said", "500"},
	} {
		if got := strings.Fields(lines[i]); len(got) < len(fields) || strings.Join(got[:len(fields)], " ") != strings.Join(fields, " ") {
			t.Errorf("line %d: %q, want %q", i, got, fields)
		}
	}
	exit, stdout, _ = h.run("ps", "--json")
	want(t, exit, code.ExitOK, stdout)
	var all []receipt.Status
	if err := json.Unmarshal([]byte(stdout), &all); err != nil || len(all) != 3 || all[0].Code != code.WardenLost || all[1].PID != 845 {
		t.Errorf("%v in %s", err, stdout)
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
	exit, stdout, _ := h.run("ps", "--timeout", "300ms")
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
