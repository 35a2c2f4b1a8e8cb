package verb

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/notary"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// records writes receipts into the host's audit log, with the ids r1, r2, …
func (h *host) records(containers ...string) {
	h.t.Helper()
	if err := os.MkdirAll(h.env.Config.StateDir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	for i, c := range containers {
		ns, id, _ := strings.Cut(c, "/")
		body, err := json.Marshal(&receipt.Receipt{Version: 1, ID: fmt.Sprintf("r%d", i+1), Container: receipt.Container{Namespace: ns, ID: id}})
		if err == nil {
			_, err = notary.Append(audit.Log(h.env.Config.StateDir), nil, body, notary.Patience)
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// printed gives the ids of the receipts among lines of JSON.
func printed(t *testing.T, out string) string {
	t.Helper()
	var ids []string
	for line := range strings.Lines(out) {
		var r struct {
			ID  string
			Seq int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Seq == 0 {
			t.Fatalf("%q: %v", line, err)
		}
		ids = append(ids, r.ID)
	}
	return strings.Join(ids, " ")
}

func TestEventsSinceAReceiptAreThoseAfterItOfTheContainersThatAreNamed(t *testing.T) {
	t.Cleanup(func() { signal.Reset(unix.SIGPIPE) })
	h := newHost(t)
	h.lose("default/web")
	h.records("default/web", "default/db", "default/web", "k8s.io/web", "default/web")
	for args, want := range map[string]string{
		"--all --since r1":              "r2 r3 r4 r5",
		"--since r1 web":                "r3 r5",
		"--since r1 default/w":          "r3 r5",
		"--since r1 web k8s.io/web":     "r3 r4 r5",
		"--json --since r1 default/db":  "r2",
		"--all --since r5":              "",
		"--all":                         "",
		"--since r1 default/never-seen": "",
	} {
		exit, stdout, _ := h.run(append([]string{"events", "--timeout", "100ms"}, strings.Fields(args)...)...)
		if got := printed(t, stdout); exit != code.ExitOK || got != want {
			t.Errorf("%s: exit %d, %q, want %q", args, exit, got, want)
		}
	}
	exit, _, stderr := h.run("events", "--all", "--since", "r9")
	want(t, exit, code.ExitNotManaged, stderr, "cannot begin after receipt r9", `no receipt in `+h.env.Config.StateDir+`/audit.jsonl has the id "r9"`, "(not_managed)")
	exit, _, stderr = h.run("events", "nobody")
	want(t, exit, code.ExitNotManaged, stderr, "(not_managed)")
}

func TestEventsKnowTheirArguments(t *testing.T) {
	h := newHost(t)
	for _, args := range [][]string{{"events"}, {"events", "--all", "web"}, {"events", "--all", "--since", ""}, {"events", "--all", "--timeout", "x"}} {
		if exit, _, stderr := h.run(args...); exit != code.ExitUsage || !strings.Contains(stderr, "(usage)\n") {
			t.Errorf("%q: exit %d, %s", args, exit, stderr)
		}
	}
	if exit, _, stderr := newHost(t).inside().run("events"); exit != code.ExitUsage || !strings.Contains(stderr, "on the host") {
		t.Errorf("exit %d, %s", exit, stderr)
	}
}

func TestEventsEndWellWhenNobodyReadsThem(t *testing.T) {
	t.Cleanup(func() { signal.Reset(unix.SIGPIPE) })
	h := newHost(t)
	h.records("default/web", "default/web")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	h.env.Stdout = w
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if exit, _, stderr := h.runContext(ctx, "events", "--all", "--since", "r1"); exit != code.ExitOK || stderr != "" || ctx.Err() != nil {
		t.Errorf("exit %d, %s, %v", exit, stderr, ctx.Err())
	}
}
