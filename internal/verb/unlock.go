package verb

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/control"
)

func unlock() Command {
	return Command{
		Name:    "unlock",
		Args:    "CONTAINER",
		Summary: "let the gateway write to its own configuration for a while",
		Host:    true,
		Help: `Makes the paths of the profile's [unlock] writable for the gateway's UID, and for no other user, without a restart. The
warden locks them again when the time is over, also if it was lost or the host was down meanwhile. What the gateway has
written is a generation of its own then, which generations lists and rollback can leave. Meanwhile apply and rollback
are refused, and restarts do not take up what is declared. What is unlocked already gets another end.

  --for D            how long, such as 10m; at most the profile's unlock.max
  --reason TEXT      why, for the receipt, the status and the generation (at most 1024 bytes)
  --timeout D        the deadline for it, waiting for its turn included
  --request-id ID    a repeated ID does nothing and gives the first receipt
  --if-generation N  refuse unless N is the current generation
` + commonFlags + exitHelp,
		Examples: `  gatewarden unlock web --for 10m --reason "first login writes a token"
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			req := &control.Request{Verb: control.Unlock}
			fs.Func("for", "", func(s string) error {
				d, err := time.ParseDuration(s)
				if err != nil || d < time.Second || d > control.MaxUnlock {
					return fmt.Errorf("a duration from 1s to %v, such as 10m", control.MaxUnlock)
				}
				req.For = d
				return nil
			})
			run := action(fs, req)
			return func(ctx context.Context, in *Invocation) int {
				if req.For == 0 {
					return in.Usage("unlock needs --for: the time after which it is locked again")
				}
				return run(ctx, in)
			}
		},
	}
}

func lock() Command {
	return Command{
		Name:    "lock",
		Args:    "CONTAINER",
		Summary: "make the gateway's configuration read-only again, before its time is over",
		Host:    true,
		Help: `What the gateway has written while its configuration was unlocked becomes a generation, and the current one, without a
restart. If it cannot (a link, a special file, more than a generation may hold), the generation before stays current,
and what was written is kept on the host for you to look at; it is locked all the same.

  --reason TEXT      why, for the receipt and the generation (at most 1024 bytes)
  --timeout D        the deadline for it, waiting for its turn included
  --request-id ID    a repeated ID does nothing and gives the first receipt
  --if-generation N  refuse unless N is the current generation
` + commonFlags + exitHelp,
		Examples: `  gatewarden lock web
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			return action(fs, &control.Request{Verb: control.Lock})
		},
	}
}
