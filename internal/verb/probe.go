package verb

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func probe() Command {
	return Command{
		Name:    "probe",
		Args:    "CONTAINER",
		Summary: "ask the gateway now whether it is ready, and the kernel who listens",
		Help: `Runs the profile's readiness probe once from inside the container and reads the owner of each declared listener. It has
no side effects but those of a command that the profile names as its probe: no state changes, whatever it finds. It also
looks from the host at each [[forward]]: one that does not reach the gateway is told (forward_failed), but the exit
status is about the gateway alone.

  --timeout D        how long to wait for the answer (10s)
` + commonFlags + `
Exit status: 0 healthy; 1 not healthy; 2 usage; 3 not allowed; 5 cannot tell (paused, no answer, warden lost);
6 no such container, or not managed.
`,
		Examples: `  gatewarden probe web
  until gatewarden probe -q web; do sleep 1; done
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			timeout := timeoutFlag(fs)
			return func(ctx context.Context, in *Invocation) int {
				t, exit := in.target(in.Config.RunDir)
				if exit != code.ExitOK {
					return exit
				}
				report, err := in.Host().Probe(ctx, t, *timeout)
				if err != nil {
					return in.failProbe(t, err)
				}
				return in.printReport(t, report)
			}
		},
	}
}

// failProbe reports a probe that could not be made. Where that says nothing about the gateway, it is "cannot tell".
func (in *Invocation) failProbe(t gateways.Target, err error) int {
	exit := in.failOn(t, err)
	switch code.From(err, code.StageProbe).Code {
	case code.WardenLost, code.Paused:
		return code.ExitDeadline
	}
	return exit
}

func (in *Invocation) printReport(t gateways.Target, r *control.Report) int {
	exit, verdict := code.ExitDeadline, "cannot tell"
	if r.Healthy != nil {
		exit, verdict = code.ExitFailed, "not healthy"
		if *r.Healthy {
			exit, verdict = code.ExitOK, "healthy"
		}
	}
	if in.JSON {
		in.PrintJSON(r)
		return exit
	}
	var b block
	b.add("container", "%s", t)
	b.add("verdict", "%s", verdict)
	if r.PID != 0 {
		b.add("pid", "%d", r.PID)
	} else {
		b.add("pid", "none")
	}
	var lines []string
	for _, l := range r.Listeners {
		lines = append(lines, listenerText(l))
	}
	if len(lines) > 0 {
		b.add("listen", "%s", in.safe(strings.Join(lines, "\n")))
	}
	if p := r.Probe; p != nil {
		b.add("probe", "%s", in.safe(fmt.Sprintf("%s, %s", probeText(p), millis(p.Millis))))
	}
	in.addForwards(&b, r.Forwards)
	if r.Code != "" || r.Message != "" {
		b.add("code", "%s", orDash(string(r.Code)))
		b.add("message", "%s", in.safe(r.Message))
	}
	b.print(in.Stdout)
	switch {
	case exit != code.ExitOK:
		in.advise(t, "", r.Code)
	case len(receipt.FailedForwards(r.Forwards)) > 0:
		in.advise(t, "", code.ForwardFailed)
	}
	return exit
}
