package warden

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

var update = flag.Bool("update", false, "write the documents that are made from the code")

// stateFile is made by make docs.
const stateFile = "../../docs/state-machine.md"

// states are all states, in the order of the document.
var states = []receipt.State{receipt.Starting, receipt.Running, receipt.Stopping, receipt.Backoff, receipt.FailedSt, receipt.Stopped}

// seen is what a state looks like from outside. Package verb's and taskapi's tests have the exit statuses and exec states.
var seen = map[receipt.State]struct {
	meaning, gateway, exec string
	exit                   int
}{
	receipt.Starting: {"a gateway is being launched, or is not proven yet", "perhaps", "CREATED before the first proof, else STOPPED", code.ExitOK},
	receipt.Running:  {"proven: posture, listeners, probe", "yes", "RUNNING", code.ExitOK},
	receipt.Stopping: {"signalled, not proven gone yet", "perhaps", "RUNNING until its exit", code.ExitOK},
	receipt.Backoff:  {"it ended, or could not start; the next start is scheduled", "no", "STOPPED (CREATED if none was ever proven or ended)", code.ExitOK},
	receipt.FailedSt: {"no further try until `gatewarden restart` or `recover`", "no", "STOPPED (exit status 255 if it never had a process)", code.ExitFailed},
	receipt.Stopped:  {"it ended, and the restart policy says that this is right", "no", "STOPPED", code.ExitFailed},
}

func TestTheStateMachineOfTheDocumentsIsThatOfTheCode(t *testing.T) {
	want := writeStates()
	if *update {
		if err := os.WriteFile(stateFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(stateFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the code says: write it anew with make docs", stateFile)
	}
}

func writeStates() string {
	var b strings.Builder
	b.WriteString("# State machine\n\nThe states of a container's gateway, as its warden sees it. This file is written by `make docs` from the table in\n" +
		"`internal/warden/states.go`, which is the only way from one state to another; the integration tests drive every row of it.\n" +
		"Each change is a line `msg=state from=… to=…` in the container's `warden.log`.\n\n```mermaid\nstateDiagram-v2\n")
	fmt.Fprintf(&b, "    [*] --> %s: the hook, or the shim after a loss, starts a warden\n", initial)
	for _, t := range transitions {
		short, _, _ := strings.Cut(t.event, ":")
		short, _, _ = strings.Cut(short, ";")
		fmt.Fprintf(&b, "    %s --> %s: %s\n", t.from, t.to, short)
	}
	b.WriteString("```\n\nFrom every state a warden ends when the container's init exits, or when it leaves its place to a successor\n" +
		"(`gatewarden upgrade-warden`), which begins in `" + string(initial) + "` with what was recorded.\n\n## States\n\n" +
		"*Exit* is that of `gatewarden status`. *Exec* is what a client of containerd sees of the exec id `gateway`.\n\n" +
		"| state | meaning | a gateway runs | exit | exec | leads to |\n|---|---|---|---|---|---|\n")
	for _, s := range states {
		var to []string
		for _, t := range transitions {
			if t.from == s {
				to = append(to, "`"+string(t.to)+"`")
			}
		}
		o := seen[s]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %d | %s | %s |\n", s, o.meaning, o.gateway, o.exit, o.exec, strings.Join(to, ", "))
	}
	b.WriteString("\n`gatewarden ps` shows `lost` instead, when the warden is gone: whatever state was true then is not known.\n\n" +
		"## Transitions\n\n| from | to | when |\n|---|---|---|\n")
	for _, t := range transitions {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", t.from, t.to, t.event)
	}
	return b.String()
}

func TestTheStateMachineIsWhole(t *testing.T) {
	done := map[[2]receipt.State]bool{}
	into, out := map[receipt.State]bool{initial: true}, map[receipt.State]bool{}
	for _, tr := range transitions {
		edge := [2]receipt.State{tr.from, tr.to}
		switch {
		case !slices.Contains(states, tr.from) || !slices.Contains(states, tr.to):
			t.Errorf("%v: no such state", edge)
		case tr.from == tr.to || done[edge]:
			t.Errorf("%v: twice, or no change", edge)
		case tr.event == "":
			t.Errorf("%v: nothing causes it", edge)
		}
		done[edge], into[tr.to], out[tr.from] = true, true, true
	}
	for _, s := range states {
		if !into[s] || !out[s] || seen[s].meaning == "" {
			t.Errorf("%s: cannot be reached, cannot be left, or is not described", s)
		}
		// Whatever is wrong, an operator's restart leads out of it: no state without a way to starting.
		if s != receipt.Starting && !allowed(s, receipt.Starting) {
			t.Errorf("%s has no way to %s", s, receipt.Starting)
		}
	}
}

func TestAWayThatTheStateMachineDoesNotHaveIsALoudFault(t *testing.T) {
	for _, c := range []struct {
		from, to receipt.State
		loud     bool
	}{
		{receipt.Running, receipt.Stopping, false}, {receipt.Running, receipt.Running, false}, {receipt.FailedSt, receipt.Running, true},
		{receipt.Stopped, receipt.Backoff, true}, {receipt.Backoff, receipt.Running, true},
	} {
		var log bytes.Buffer
		w := idle()
		w.log, w.dir, w.status.State = slog.New(slog.NewTextHandler(&log, nil)), t.TempDir(), c.from
		w.setState(c.to)
		if loud := strings.Contains(log.String(), noSuchTransition) && strings.Contains(log.String(), "level=ERROR"); loud != c.loud || w.status.State != c.to {
			t.Errorf("%s to %s: state %s, log %s", c.from, c.to, w.status.State, &log)
		}
	}
}
