package verb

import (
	"context"
	"flag"

	"github.com/gatewarden/gatewarden/internal/control"
)

func recoverVerb() Command {
	return Command{
		Name:    "recover",
		Args:    "CONTAINER",
		Summary: "replace the gateway only if it is not healthy",
		Help: `Probes the gateway first. A healthy one is left alone, and recover says so and exits 0. So is one of which nothing can
be told (its probe cannot be made): that is tried again for as long as ready.timeout, and then refused with exit
status 5. Any other state (unhealthy, backing off, failed, stopped) is followed by a replacement as with restart.

  --timeout D        the whole action's deadline, waiting for its turn included (the profile's own sum)
  --reason TEXT      why, for the receipt (at most 1024 bytes)
  --request-id ID    a repeated ID does nothing and gives the first receipt, so that a script can retry
  --if-generation N  refuse unless N is the current generation of the configuration
` + commonFlags + exitHelp,
		Examples: `  gatewarden recover web
  gatewarden recover web --quiet || alert "gateway of web"
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			return action(fs, &control.Request{Verb: control.Recover})
		},
	}
}
