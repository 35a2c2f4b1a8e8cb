package verb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

func events() Command {
	return Command{
		Name:    "events",
		Args:    "--all | CONTAINER…",
		Host:    true,
		Summary: "print receipts as they are recorded, without a gap from a given one on",
		Help: `Follows the host's audit log and prints each receipt as one line of JSON, as it stands there, until interrupted. It
wakes no warden and takes no lock. A CONTAINER that is gone is named NAMESPACE/ID.

  --all              receipts of every container
  --since ID         first all that come after the receipt with this id, then what is new; without it only what is new
  --timeout D        stop after D
  --json             accepted; it is always JSON
  -q, --quiet        no output, same exit status

Where receipts were rotated away before they could be printed, a line {"gap": {"from": SEQ, "to": SEQ}} stands for
them; its from is left out if the receipt that --since names is itself gone. A reader that was interrupted goes on with
--since and the id of the last receipt that it has dealt with.

Exit status: 0 interrupted, --timeout, or nobody reads any more; 2 usage; 3 cannot read the audit log; 6 no such
container, or no receipt with that id.
`,
		Examples: `  gatewarden events --all
  gatewarden events --since 4K7J3QPWV2N6C5XFZB7RTLM2AD default/web | jq .outcome
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			all := fs.Bool("all", false, "")
			since := fs.String("since", "", "")
			timeout := timeoutFlag(fs)
			return func(ctx context.Context, in *Invocation) int {
				switch {
				case *all && len(in.Args) > 0:
					return in.Usage("events takes --all or containers such as %q, not both", in.Args[0])
				case !*all && len(in.Args) == 0:
					return in.Usage("events needs a container, or --all; gatewarden ps lists them")
				case *since == "" && isSet(fs, "since"):
					return in.Usage("--since needs the id of a receipt")
				}
				var wanted []gateways.Target
				for _, name := range in.Args {
					t, exit := in.past(name)
					if exit != code.ExitOK {
						return exit
					}
					wanted = append(wanted, t)
				}
				if *timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, *timeout)
					defer cancel()
				}
				return in.events(ctx, wanted, *since)
			}
		},
	}
}

// isSet tells whether a flag was given.
func isSet(fs *flag.FlagSet, name string) bool {
	set := false
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// past is find for a container that may be gone: a full name is taken as it is.
func (in *Invocation) past(name string) (gateways.Target, int) {
	t, err := in.Host().Find(name, in.Config.RunDir, in.Config.StateDir)
	if err == nil {
		return t, code.ExitOK
	}
	if e, ok := errors.AsType[*gateways.AmbiguousError](err); ok {
		fmt.Fprintf(in.Stderr, "gatewarden: %s\n", e)
		return gateways.Target{}, code.ExitUsage
	}
	if ns, id, ok := strings.Cut(name, "/"); ok && ns != "" && id != "" && code.From(err, code.StageQueue).Code == code.NotManaged {
		fmt.Fprintf(in.Stderr, "gatewarden: no container with a gateway is called %s now; what the audit log has of it is shown\n", in.safe(name))
		return gateways.Target{Namespace: ns, ID: id}, code.ExitOK
	}
	return gateways.Target{}, in.Fail(err)
}

// events follows the audit log; no wanted means all.
func (in *Invocation) events(ctx context.Context, wanted []gateways.Target, since string) int {
	// A reader that has had enough is no failure: the write tells.
	signal.Ignore(unix.SIGPIPE)
	err := in.Host().Follow(ctx, wanted, since, func(e audit.Event) error {
		text := string(e.Text)
		if in.Terminal {
			text = escapeControls(text) // the same JSON
		}
		return written(io.WriteString(in.Stdout, text+"\n"))
	}, func(g audit.Gap) error {
		from := fmt.Sprintf("receipts %d to %d", g.From, g.To)
		if g.From == 0 {
			from = fmt.Sprintf("receipt %s is not in %s any more: receipts up to %d", since, audit.Log(in.Config.StateDir).Path, g.To)
		}
		fmt.Fprintf(in.Stderr, "gatewarden: %s were rotated away and are left out\n", in.safe(from))
		return written(0, printJSON(in.Stdout, map[string]audit.Gap{"gap": g}))
	})
	switch {
	case ctx.Err() != nil || errors.Is(err, errNoReader):
		return code.ExitOK
	}
	return in.Fail(fmt.Errorf("cannot follow the audit log: %w", err))
}

// errNoReader ends a stream that nobody reads any more.
var errNoReader = errors.New("nobody reads")

func written(_ int, err error) error {
	if errors.Is(err, unix.EPIPE) {
		return errNoReader
	}
	return err
}
