package verb

import (
	"context"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func ps() Command {
	return Command{
		Name:    "ps",
		Host:    true,
		Summary: "list the containers that have a gateway",
		Help: `One line per container, in every namespace. RESTARTS counts those that were asked for, a slash, and those that were not.
UP is how long the state has lasted. A container whose warden is gone is listed as lost, never left out.
On a terminal, IDs and addresses are shortened to fit; a shortened ID, without its dots, can be used as a name.

It shows what each warden wrote down last, and wakes none. A state is written down when it changes. HEALTHY is what the
last look at the gateway found, at its start or by status, probe or recover; CHECKED is how long ago that was. A gateway
that has become ill since, and a warden that hangs or is stopped, is seen with --probe, and by status.

  --probe            ask every warden to look at its gateway now, side by side
  --timeout D        how long to wait for each warden that is asked (2s): with --probe all of them, else those of which
                     nothing is written down that can be used, such as another release's
  --json             a list of what status --json prints, [] when there is none
  -q, --quiet        no output, same exit status

Exit status: 0 listed; 2 usage; 3 not allowed.
`,
		Examples: `  gatewarden ps
  gatewarden ps --json | jq -r '.[] | select(.healthy != true) | .container.id'
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			timeout := timeoutFlag(fs)
			probe := fs.Bool("probe", false, "")
			return func(ctx context.Context, in *Invocation) int {
				if len(in.Args) != 0 {
					return in.Usage("ps lists all containers and takes no argument such as %q; status shows one", in.Args[0])
				}
				if *probe {
					return in.ps(in.Host().Poll(ctx, *timeout))
				}
				return in.ps(in.Host().Survey(ctx, *timeout))
			}
		},
	}
}

// ps prints what was found.
func (in *Invocation) ps(found []gateways.Found, err error) int {
	if err != nil {
		return in.Fail(err)
	}
	switch {
	case in.JSON:
		statuses := []*receipt.Status{}
		for _, f := range found {
			statuses = append(statuses, f.Status)
		}
		in.PrintJSON(statuses)
	case len(found) == 0:
		fmt.Fprintln(in.Stderr, "no container on this host has a gateway")
	default:
		in.printRows(found)
	}
	return code.ExitOK
}

func (in *Invocation) printRows(rows []gateways.Found) {
	now := time.Now()
	tab := table{
		header: []string{"CONTAINER", "GATEWAY", "STATE", "HEALTHY", "CHECKED", "PID", "UP", "RESTARTS", "LISTEN", "LAST"},
		shrink: []column{{8, 12}, {9, 10}, {0, 24}, {1, 8}},
	}
	for _, r := range rows {
		st := r.Status
		name := st.Container.String()
		if in.Width > 0 {
			name = shortName(st.Container)
		}
		if r.Lost {
			state := "lost"
			if st.Code != code.WardenLost {
				state = "no answer"
			}
			tab.rows = append(tab.rows, []string{name, orDash(st.Gateway), state, "?", "-", "-", "-", "-", "-", in.safe(lastText(st, now))})
			continue
		}
		pid, checked := "-", "-"
		if st.PID != 0 {
			pid = strconv.Itoa(st.PID)
		}
		if st.Checked != nil {
			checked = age(*st.Checked, now)
		}
		tab.rows = append(tab.rows, []string{
			in.safe(name), in.safe(orDash(st.Gateway)), stateText(st, now), yesNo(st.Healthy), checked, pid, age(st.Since, now),
			fmt.Sprintf("%d/%d", st.Restarts.Asked, st.Restarts.Unasked),
			in.safe(orDash(addresses(st.Listeners))), in.safe(lastText(st, now)),
		})
	}
	tab.print(in.Stdout, in.Width)
}

// lastText is what is wrong, or else the last action.
func lastText(st *receipt.Status, now time.Time) string {
	if st.Code != "" {
		return oneLine(fmt.Sprintf("%s: %s", st.Code, st.Message))
	}
	if st.Last == nil {
		return "-"
	}
	return fmt.Sprintf("%s %s ago", st.Last.Action, age(st.Last.Time, now))
}

func addresses(ls []receipt.Listener) string {
	var all []string
	for _, l := range ls {
		all = append(all, l.Address)
	}
	return strings.Join(all, ",")
}

func yesNo(h *bool) string {
	switch {
	case h == nil:
		return "?"
	case *h:
		return "yes"
	}
	return "no"
}

// shortName shows the first 12 digits of an ID that is a long hash, as container tools do; a prefix names it too.
func shortName(c receipt.Container) string {
	if len(c.ID) >= 32 && strings.Trim(c.ID, "0123456789abcdef") == "" {
		return c.Namespace + "/" + c.ID[:12]
	}
	return c.String()
}

// oneLine folds white space, so that text fits into a table.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// stateText is the state, and how long the configuration stays unlocked.
func stateText(st *receipt.Status, now time.Time) string {
	if st.Unlocked == nil {
		return string(st.State)
	}
	return fmt.Sprintf("%s, unlocked %s", st.State, age(now, st.Unlocked.Until))
}
