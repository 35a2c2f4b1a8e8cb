package verb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func generations() Command {
	return Command{
		Name:    "generations",
		Args:    "CONTAINER",
		Summary: "list the gateway's configurations, or show how two differ",
		Host:    true,
		Help: fmt.Sprintf(`Reads the container's state directory on the host, so it works without a warden and without a container. At most %d
generations are kept; the current one always is.

  --diff N     how generation N differs from the one that it was made from
  --diff N,M   how M differs from N
  --json       one JSON object per line
  -q, --quiet  no output, same exit status

Exit status: 0 printed; 2 usage; 3 cannot read them; 6 no such container, not managed, or no such generation.
`, generation.Keep),
		Examples: `  gatewarden generations web
  gatewarden generations web --diff 3,5
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			var from, to int
			fs.Func("diff", "", func(s string) error {
				first, second, two := strings.Cut(s, ",")
				n, err := strconv.Atoi(first)
				if to = n; two && err == nil {
					from = n
					to, err = strconv.Atoi(second)
				}
				if err != nil || to <= 0 || from < 0 || two && from == 0 {
					return errors.New("the number of a generation, or two with a comma between them")
				}
				return nil
			})
			return func(_ context.Context, in *Invocation) int {
				t, exit := in.target(in.Config.RunDir, in.Config.StateDir)
				if exit != code.ExitOK {
					return exit
				}
				dir := in.Host().StateDir(t)
				store := generation.Open(dir)
				r, err := store.Record()
				if errors.Is(err, generation.ErrNone) {
					if err = in.Host().Known(t, dir); err == nil {
						err = code.Errorf(code.NotManaged, code.StageQueue, "%s has no generations", t)
					}
				}
				if err != nil {
					return in.failOn(t, err)
				}
				if to > 0 {
					return in.difference(t, store, from, to)
				}
				return in.generations(t, store, r)
			}
		},
	}
}

// listed is one generation as it is listed.
type listed struct {
	generation.Generation
	State    string              `json:"state"`
	Rejected *receipt.Rejected   `json:"rejected,omitempty"`
	Changes  []generation.Change `json:"changes"` // from its parent; null if that is gone
}

func (in *Invocation) generations(t gateways.Target, store *generation.Store, r generation.Record) int {
	numbers, err := store.Numbers()
	if err != nil {
		return in.failOn(t, err)
	}
	tab := table{header: []string{"GENERATION", "STATE", "CREATED", "MADE BY", "CHANGES", "WHY"}, shrink: []column{{5, 8}}}
	for _, n := range numbers {
		g, err := store.Get(n)
		if errors.Is(err, generation.ErrNone) {
			continue // it has just been pruned
		}
		if err != nil {
			return in.failOn(t, err)
		}
		l := listed{Generation: *g, State: state(r, n)}
		if r.Rejected != nil && r.Rejected.Generation == n {
			l.Rejected = r.Rejected
		}
		if parent, err := store.Get(g.Parent); err == nil && g.Parent != 0 {
			l.Changes = parent.Changes(g)
		}
		if in.JSON {
			in.PrintJSON(l)
			continue
		}
		why := g.Reason
		if l.Rejected != nil {
			why = strings.TrimPrefix(why+"; "+l.Rejected.Message, "; ")
		}
		tab.rows = append(tab.rows, []string{
			strconv.Itoa(n), l.State, g.Created.Local().Format("2006-01-02 15:04:05"), string(g.Origin), changes(l.Changes), in.safe(orDash(oneLine(why))),
		})
	}
	if !in.JSON {
		tab.print(in.Stdout, in.Width)
	}
	return code.ExitOK
}

// state says what a generation is.
func state(r generation.Record, n int) string {
	switch {
	case n == r.Current:
		return "current"
	case n == r.Trying:
		return "trying"
	case r.Rejected != nil && r.Rejected.Generation == n:
		return "rejected"
	case n >= r.Next:
		return "staged"
	}
	return "kept"
}

// changes is a count of what changed.
func changes(all []generation.Change) string {
	switch len(all) {
	case 0:
		return "-"
	case 1:
		return all[0].Path
	}
	return fmt.Sprintf("%d files", len(all))
}

func (in *Invocation) difference(t gateways.Target, store *generation.Store, from, to int) int {
	next, err := store.Get(to)
	if err == nil && from == 0 {
		if from = next.Parent; from == 0 {
			return in.failOn(t, code.Errorf(code.NotManaged, code.StageQueue, "generation %d of %s is the first one: name the one to compare it with, --diff N,%d", to, t, to))
		}
	}
	var before *generation.Generation
	if err == nil {
		before, err = store.Get(from)
	}
	if errors.Is(err, generation.ErrNone) {
		return in.failOn(t, code.Errorf(code.NotManaged, code.StageQueue, "cannot compare generations of %s: %w", t, err))
	}
	if err != nil {
		return in.failOn(t, err)
	}
	diff, err := store.Diff(before, next)
	if err != nil {
		return in.failOn(t, err)
	}
	if in.JSON {
		in.PrintJSON(struct {
			From    int                 `json:"from"`
			To      int                 `json:"to"`
			Changes []generation.Change `json:"changes"`
			Diff    string              `json:"diff"`
		}{from, to, before.Changes(next), diff})
		return code.ExitOK
	}
	fmt.Fprint(in.Stdout, in.safe(diff))
	return code.ExitOK
}
