package warden

import (
	"context"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/probe"
)

// recoverGrace is how long an unhealthy gateway gets to become healthy before recover replaces it.
const recoverGrace = time.Second

// recoverPause is the time between two looks of recover at a gateway.
const recoverPause = 100 * time.Millisecond

// isWell tells, for recover, whether the gateway is healthy. A no has to last through a short grace. That it cannot be
// told says nothing of the gateway, and is looked at again for as long as a start would be given to become ready.
// The report is of the last look.
func (w *Warden) isWell(ctx context.Context) (probe.Verdict, *control.Report) {
	g := w.gateway
	if g == nil || !g.proven {
		return probe.No, nil
	}
	began := time.Now()
	for {
		rep := w.report(ctx)
		waited := time.Since(began)
		verdict := probe.Unknown
		switch {
		case rep.Healthy == nil && rep.Code == code.Paused:
			return probe.No, rep // no waiting changes that; the action that follows refuses
		case rep.Healthy == nil && waited >= g.profile.Ready.Timeout:
			return probe.Unknown, rep
		case rep.Healthy == nil:
		case *rep.Healthy:
			return probe.Yes, rep
		default:
			verdict = probe.No
			if waited >= recoverGrace {
				return probe.No, rep
			}
		}
		select {
		case <-time.After(recoverPause):
		case <-g.done():
			return probe.No, rep
		case <-ctx.Done():
			return verdict, rep
		}
	}
}

// cannotTell is the refusal of a recover that could not find out whether there is anything to do: a gateway that may serve
// well is not replaced on a guess.
func (w *Warden) cannotTell(rep *control.Report) *code.Error {
	return code.Errorf(code.Deadline, code.StageProbe,
		"cannot recover %s: cannot tell whether it is healthy: %s; process %d was not touched and goes on; `gatewarden restart` replaces it all the same",
		w.object(), rep.Message, rep.PID)
}
