package verb

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func status() Command {
	return Command{
		Name:    "status",
		Args:    "CONTAINER",
		Summary: "show the gateway's state, process, listeners and last action",
		Help: `Never waits for an action in progress and changes nothing. It looks at the gateway and, from the host, at each
[[forward]]: one that does not reach the gateway is told (forward_failed), and changes neither state nor exit status.
Of a gateway that is down it tells why, on one screen: its last lines, who has its addresses, what has changed since it
was last proven, and what can be done.

States: starting (launched, not yet proven), running (proven), stopping, backoff (it exited unasked, the next start is
scheduled), failed (not started again until somebody asks), stopped (it ended, and the policy says that this is right).

  --timeout D        how long to wait for the warden's answer (2s)
` + commonFlags + `
Exit status: 0 the gateway is starting, running, stopping or backing off; 1 it is failed or stopped, or its warden is
lost; 2 usage; 3 not allowed; 5 the warden did not answer in time; 6 no such container, or not managed.
`,
		Examples: `  gatewarden status web
  gatewarden status default/web --json | jq .listeners
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			timeout := timeoutFlag(fs)
			return func(ctx context.Context, in *Invocation) int { return in.status(ctx, *timeout) }
		},
	}
}

func (in *Invocation) status(ctx context.Context, timeout time.Duration) int {
	t, exit := in.target(in.Config.RunDir)
	if exit != code.ExitOK {
		return exit
	}
	st, err := in.Host().Status(ctx, t, timeout)
	lost := false
	if err != nil {
		e := code.From(err, code.StageQueue)
		if e.Code != code.WardenLost {
			return in.failOn(t, err)
		}
		st, lost = in.Host().Lost(t, e), true
	}
	if in.JSON {
		in.PrintJSON(st)
	} else {
		in.printStatus(ctx, t, st, lost)
	}
	switch {
	case lost:
		in.nextWithoutWarden(t)
	case st.State == receipt.FailedSt && st.Code == "":
		in.next("%s shows why it ended; then %s starts it again", in.hint("logs", t), in.hint("restart", t))
	case st.State == receipt.FailedSt, st.Code == code.ForwardFailed:
		in.advise(t, st.Gateway, st.Code)
	}
	if !lost && isDown(st.State) && !in.JSON {
		in.waysOut(t, st)
	}
	if st.State == receipt.FailedSt || st.State == receipt.Stopped {
		return code.ExitFailed
	}
	return code.ExitOK
}

func (in *Invocation) printStatus(ctx context.Context, t gateways.Target, st *receipt.Status, lost bool) {
	now := time.Now()
	var b block
	b.add("container", "%s  (init pid %d)", st.Container, st.Container.InitPID)
	b.add("gateway", "%s, generation %d", orDash(st.Gateway), st.Generation)
	state := string(st.State)
	if lost {
		state = "not known: the warden is lost"
	} else if st.State == receipt.Running {
		state += ", " + health(st.Healthy)
	}
	b.add("state", "%s", state)
	if st.Code != "" || st.Message != "" {
		b.add("code", "%s", orDash(string(st.Code)))
		b.add("message", "%s", in.safe(st.Message))
	}
	if !st.Since.IsZero() {
		what := "since"
		if lost {
			what = "installed"
		}
		b.add(what, "%s  (%s ago)", stamp(st.Since), age(st.Since, now))
	}
	if !lost {
		in.liveRows(&b, st)
	}
	if r := st.Last; r != nil {
		last := fmt.Sprintf("%s %s, %s ago", r.Action, r.Outcome, age(r.Time, now))
		if r.Millis.Total > 0 {
			last += ", in " + millis(r.Millis.Total)
		}
		if r.Code != "" {
			last += fmt.Sprintf("  (%s)", r.Code)
		}
		if r.Reason != "" {
			last += fmt.Sprintf("  %q", r.Reason)
		}
		b.add("last", "%s", in.safe(last))
	}
	if !lost && isDown(st.State) {
		in.why(ctx, &b, t, st)
	}
	b.print(in.Stdout)
}

// liveRows adds what only a living warden knows.
func (in *Invocation) liveRows(b *block, st *receipt.Status) {
	if st.PID != 0 {
		b.add("pid", "%d  (%d in the container)", st.PID, st.NSPID)
	} else {
		b.add("pid", "none")
	}
	var lines []string
	for _, l := range st.Listeners {
		lines = append(lines, listenerText(l))
	}
	if len(lines) > 0 {
		b.add("listen", "%s", in.safe(strings.Join(lines, "\n")))
	}
	in.addForwards(b, st.Forwards)
	if u := st.Unlocked; u != nil {
		text := fmt.Sprintf("until %s  (%s left)", stamp(u.Until), age(time.Now(), u.Until))
		if u.Reason != "" {
			text += fmt.Sprintf("  %q", u.Reason)
		}
		b.add("unlocked", "%s", in.safe(text))
	}
	if u := st.UserNamespace; u != nil {
		b.add("userns", "its own: UIDs %s; GIDs %s", mapText(u.UIDs), mapText(u.GIDs))
	}
	b.add("restarts", "%d asked, %d unasked", st.Restarts.Asked, st.Restarts.Unasked)
	if st.Standby.PID != 0 {
		b.add("standby", "pid %d", st.Standby.PID)
	} else {
		b.add("standby", "none")
	}
	b.add("warden", "pid %d, version %s", st.Warden.PID, orDash(st.Warden.Version))
}

// mapText tells which IDs of the container are which on the host.
func mapText(ranges []receipt.IDRange) string {
	var all []string
	for _, r := range ranges {
		if r.Count == 1 {
			all = append(all, fmt.Sprintf("%d is %d on the host", r.Inside, r.Host))
			continue
		}
		all = append(all, fmt.Sprintf("%d-%d are %d-%d on the host", r.Inside, r.Inside+r.Count-1, r.Host, r.Host+r.Count-1))
	}
	return strings.Join(all, ", ")
}

func listenerText(l receipt.Listener) string {
	owner := "nobody listens"
	if l.OwnerPID != 0 {
		owner = fmt.Sprintf("held by pid %d", l.OwnerPID)
	}
	return fmt.Sprintf("%s %s  (%s)", l.Name, l.Address, owner)
}

func (in *Invocation) addForwards(b *block, all []receipt.Forward) {
	var lines []string
	for _, f := range all {
		lines = append(lines, in.safe(f.String()))
	}
	if len(lines) > 0 {
		b.add("forwards", "%s", strings.Join(lines, "\n"))
	}
}

func health(h *bool) string {
	switch {
	case h == nil:
		return "health not known"
	case *h:
		return "healthy"
	}
	return "unhealthy"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
