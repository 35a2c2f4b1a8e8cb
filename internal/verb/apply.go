package verb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

func apply() Command {
	return Command{
		Name:    "apply",
		Args:    "CONTAINER",
		Summary: "change the gateway's configuration, and go back by itself if that fails",
		Host:    true,
		Help: `Copies a configuration into a new generation, lets the profile's [preflight] command judge it while the gateway serves,
shows it to the container, restarts the gateway, and proves it. If anything fails before the gateway is told to stop, it
was not touched (exit 3). If anything fails after that, the generation before is shown and started again, with the same
proofs (exit 4). A configuration that is what runs already changes nothing.

Without --config what the profile declares is taken up: its own text, and the sources of its [[mount]] entries.

  --config DIR         what the only [[mount]] is to show: a directory or file of root's, without links
  --config TARGET=DIR  the same for the [[mount]] with that target; may be repeated
  --dry-run            make all checks, print the plan and the differences, and change nothing
  --skip-preflight     without the profile's [preflight] command; a failure afterwards is rolled back all the same
  --timeout D          the deadline for proving the new one, waiting for its turn included; going back has its own time
  --reason TEXT        why, for the receipt and the generation (at most 1024 bytes)
  --request-id ID      a repeated ID does nothing and gives the first receipt, so that a script can retry
  --if-generation N    refuse unless N is the current generation
` + commonFlags + exitHelp,
		Examples: `  gatewarden apply web --config /root/nginx-new --dry-run
  gatewarden apply web --config /root/nginx-new --reason "ticket 4711"
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			c := change{Request: control.Request{Verb: control.Apply}}
			fs.Func("config", "", c.config)
			return c.flags(fs)
		},
	}
}

func rollback() Command {
	return Command{
		Name:    "rollback",
		Args:    "CONTAINER",
		Summary: "go back to a configuration that was there before",
		Host:    true,
		Help: `Shows an earlier generation to the container, restarts the gateway with it, and proves it, as apply does. A later
restart does not undo that: what is declared is taken up again when somebody edits it.

  --to N             the generation, as generations lists them (the one before the current one). The current one itself
                     is started again as it is, whatever is declared, and a rejection is taken note of
  --dry-run          make all checks, print the plan and the differences, and change nothing
  --skip-preflight   without the profile's [preflight] command
  --timeout D        the deadline for proving it, waiting for its turn included
  --reason TEXT      why, for the receipt (at most 1024 bytes)
  --request-id ID    a repeated ID does nothing and gives the first receipt
  --if-generation N  refuse unless N is the current generation
` + commonFlags + exitHelp,
		Examples: `  gatewarden rollback web
  gatewarden rollback web --to 3 --reason "4 leaks memory"
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			c := change{Request: control.Request{Verb: control.Rollback}}
			fs.Func("to", "", func(s string) error {
				n, err := strconv.Atoi(s)
				if err != nil || n <= 0 {
					return errors.New("a generation is a whole number, as generations lists them")
				}
				c.To = n
				return nil
			})
			return c.flags(fs)
		},
	}
}

// change is what apply and rollback share beyond action.
type change struct{ control.Request }

func (c *change) config(s string) error {
	target, source := "", s
	if before, after, ok := strings.Cut(s, "="); ok && strings.HasPrefix(before, "/") {
		target, source = before, after
	}
	abs, err := filepath.Abs(source)
	switch {
	case err != nil || source == "":
		return errors.New("the directory or file to copy: --config DIR or --config TARGET=DIR")
	case len(c.Config) == control.MaxConfigs:
		return fmt.Errorf("at most %d can be named", control.MaxConfigs)
	}
	c.Config = append(c.Config, control.Config{Target: target, Source: abs})
	return nil
}

func (c *change) flags(fs *flag.FlagSet) func(context.Context, *Invocation) int {
	fs.BoolVar(&c.DryRun, "dry-run", false, "")
	fs.BoolVar(&c.SkipPreflight, "skip-preflight", false, "")
	return action(fs, &c.Request)
}

// plan prints what a dry run has found.
func (in *Invocation) plan(t gateways.Target, p *control.Plan) int {
	if in.JSON {
		in.PrintJSON(p)
		return code.ExitOK
	}
	if p.Generation == p.Current {
		fmt.Fprintf(in.Stdout, "%s: generation %d holds this configuration already; nothing would change\n", t, p.Current)
		return code.ExitOK
	}
	fmt.Fprintf(in.Stdout, "%s: generation %d would take the place of %d, with a restart of the gateway\n", t, p.Generation, p.Current)
	for _, c := range p.Changes {
		fmt.Fprintf(in.Stdout, "  %-8s %s\n", c.Change, in.safe(c.Path))
	}
	if p.Diff != "" {
		fmt.Fprintf(in.Stdout, "\n%s", in.safe(p.Diff))
	}
	return code.ExitOK
}
