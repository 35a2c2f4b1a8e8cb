package verb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/gatewaylog"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

const (
	// whyLines is how many of the gateway's last lines are shown of one that is down, and whyChanges how many changes.
	whyLines   = 8
	whyChanges = 8
	// whyReceipts is how far back the last start that was proven is looked for.
	whyReceipts = 1000
)

// isDown tells whether no gateway runs, and none is about to.
func isDown(s receipt.State) bool {
	return s == receipt.FailedSt || s == receipt.Stopped || s == receipt.Backoff
}

// why adds, of a gateway that is down, what tells why: its last lines, who has its addresses, and what has changed since it was
// last proven. What cannot be found out is left out, or said: it must not hide the rest.
func (in *Invocation) why(ctx context.Context, b *block, t gateways.Target, st *receipt.Status) {
	if lines, err := gatewaylog.Tail(in.Host().Log(t), whyLines); err == nil && len(lines) > 0 {
		text := make([]string, len(lines))
		for i, l := range lines {
			text[i] = l.Time.Local().Format("15:04:05") + "  " + gatewaylog.Sanitize(l.Text)
		}
		b.add("output", "%s", strings.Join(text, "\n"))
	} else {
		b.add("output", "none")
	}
	ctx, cancel := context.WithTimeout(ctx, gateways.AnswerTime)
	defer cancel()
	if m, err := control.Call(ctx, in.Host().RunDir(t), control.Request{Verb: control.Probe, Via: in.Via, Timeout: gateways.AnswerTime}, nil); err == nil && m.Report != nil && m.Report.Holders != "" {
		b.add("addresses", "%s", in.safe(m.Report.Holders))
	}
	b.add("changed", "%s", in.safe(in.changed(t, st)))
}

// changed tells what is different from when the gateway was last proven.
func (in *Invocation) changed(t gateways.Target, st *receipt.Status) string {
	dir := in.Host().StateDir(t)
	all, err := journal.Read(in.Host().Journal(t), whyReceipts)
	if _, torn := errors.AsType[*journal.SkippedError](err); err != nil && !torn {
		return "not known: " + err.Error()
	}
	proven := -1
	for i, r := range all {
		if r.New != nil && (r.Outcome == receipt.Replaced || r.Outcome == receipt.RolledBack || r.Outcome == receipt.AlreadyRunning) {
			proven = i
		}
	}
	if proven < 0 {
		return "it was never proven in this container"
	}
	good := all[proven]
	when := fmt.Sprintf("since it was last proven, %s ago", age(good.Time, time.Now()))
	if good.Generation == st.Generation {
		return fmt.Sprintf("nothing of its configuration %s: generation %d ran then too", when, st.Generation)
	}
	store := generation.Open(dir)
	before, err := store.Get(good.Generation)
	now, nerr := store.Get(st.Generation)
	if err = errors.Join(err, nerr); err != nil {
		return fmt.Sprintf("%s generation %d ran, and it is %d now; how they differ is not known: %v", when, good.Generation, st.Generation, err)
	}
	text := fmt.Sprintf("generation %d has taken the place of %d %s:", now.Number, before.Number, when)
	changes := before.Changes(now)
	for _, c := range changes[:min(len(changes), whyChanges)] {
		text += fmt.Sprintf("\n%s %s", c.Change, c.Path)
	}
	if more := len(changes) - whyChanges; more > 0 {
		text += fmt.Sprintf("\nand %d more", more)
	}
	return text
}

// waysOut prints the commands that can help a gateway that is down.
func (in *Invocation) waysOut(t gateways.Target, st *receipt.Status) {
	store := generation.Open(in.Host().StateDir(t))
	g, err := store.Get(st.Generation)
	if err != nil || g.Parent == 0 {
		return
	}
	if _, err := store.Get(g.Parent); err == nil {
		in.next("%s shows how its configuration differs from the one before; %s goes back to that",
			in.onHost(fmt.Sprintf("gatewarden generations %s --diff %d", t, st.Generation)), in.onHost("gatewarden rollback "+t.String()))
	}
}
