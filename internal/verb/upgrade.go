package verb

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/install"
)

// handover is how long a warden may take to leave, and its successor to adopt the gateway.
const handover = 10 * time.Second

func upgradeWarden() Command {
	return Command{
		Name:    "upgrade-warden",
		Args:    "CONTAINER",
		Summary: "replace the warden by one of the installed version; the gateway goes on",
		Host:    true,
		Help: `Tells the container's warden to leave its place, starts one of the program that is installed now, and waits until it
has recognised, proven and adopted the gateway, which is not touched. The next restart is the new warden's.
` + commonFlags + exitHelp,
		Examples: `  gatewarden upgrade-warden web
`,
		New: func(*flag.FlagSet) func(context.Context, *Invocation) int {
			return func(ctx context.Context, in *Invocation) int {
				t, exit := in.target(in.Config.RunDir)
				if exit != code.ExitOK {
					return exit
				}
				ctx, cancel := context.WithTimeout(ctx, 2*handover)
				defer cancel()
				return in.upgrade(ctx, t)
			}
		},
	}
}

// upgraded is what --json prints.
type upgraded struct {
	Gateway int        `json:"gateway"` // its process's number, which has not changed
	Old     wardenInfo `json:"old"`
	New     wardenInfo `json:"new"`
}

type wardenInfo struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
}

func (in *Invocation) upgrade(ctx context.Context, t gateways.Target) int {
	before, err := in.Host().Status(ctx, t, gateways.AnswerTime)
	if err != nil {
		return in.failAction(ctx, t, "upgrade", false, code.From(err, code.StageQueue))
	}
	if _, err := control.Call(ctx, in.Host().RunDir(t), control.Request{Verb: control.Leave, Timeout: handover, Via: in.Via}, nil); err != nil {
		return in.failAction(ctx, t, "upgrade", false, code.From(err, code.StageQueue))
	}
	// The shim sees the loss too, and may be faster.
	if err := install.Revive(in.Config.Hook, in.Host().RunDir(t), handover); err != nil {
		return in.failAction(ctx, t, "upgrade", false, code.From(err, code.StageQueue))
	}
	for {
		now, err := in.Host().Status(ctx, t, gateways.AnswerTime)
		switch {
		case err == nil && now.Warden.PID != before.Warden.PID && now.Last != nil && now.State != "starting":
			u := upgraded{Gateway: now.PID, Old: wardenInfo(before.Warden), New: wardenInfo(now.Warden)}
			if before.PID != 0 && (now.PID != before.PID || now.StartTime != before.StartTime) {
				return in.failOn(t, code.Errorf(code.Internal, code.StageRunning, "the new warden of %s (pid %d) did not adopt gateway process %d; %d runs now: %s",
					t, now.Warden.PID, before.PID, now.PID, now.Last.Reason))
			}
			what := fmt.Sprintf("the gateway, pid %d, was not touched", u.Gateway)
			if before.PID == 0 {
				what = fmt.Sprintf("no gateway ran, and now it is %s", now.State)
			}
			if in.JSON {
				in.PrintJSON(u)
			} else {
				fmt.Fprintf(in.Stdout, "upgraded the warden of %s: pid %d (%s) → pid %d (%s); %s\n",
					t, u.Old.PID, u.Old.Version, u.New.PID, u.New.Version, what)
			}
			return code.ExitOK
		case ctx.Err() != nil:
			return in.failAction(ctx, t, "upgrade", false, code.Errorf(code.Deadline, code.StageQueue, "the new warden of %s has not adopted the gateway in time", t))
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
