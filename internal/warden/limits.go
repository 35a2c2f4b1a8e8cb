package warden

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/process"
)

// limits counts how often the container has met its own limits. The kernel's counters tell what an errno or a SIGKILL alone
// can't: whose limit it was.
type limits struct {
	forks int // processes and threads that were refused (pids.max)
	kills int // processes that were killed for want of memory
}

func (w *Warden) limits() limits {
	return limits{forks: w.group.ForksRefused(), kills: w.group.OOMKills()}
}

// joinMemory is what a container's memory limit has to have left for a launcher to join it, in bytes: runc's init needs up to
// 2.6 MB for some milliseconds (measured with runc 1.5.2). With less the kernel would end a process of the container, and
// not necessarily that one.
const joinMemory = 4 << 20

// roomToJoin refuses to put a launcher into a container whose memory is used up.
func (w *Warden) roomToJoin() error {
	if left := w.group.MemoryLeft(); left < joinMemory {
		return code.Errorf(code.LaunchFailed, code.StageLaunch,
			"the container has used up its memory limit (%s bytes; %d are left, and %d are needed to join it): free some or raise the limit", w.group.MaxMemory(), max(0, left), joinMemory)
	}
	return nil
}

// limitMet says which limit the container has met since before, and what to do about it; "" if none.
func (w *Warden) limitMet(before limits) string {
	now := w.limits()
	switch {
	case now.forks > before.forks:
		return fmt.Sprintf("the container has used up its process limit (pids.max %s, threads included): end some of its processes or raise the limit", w.group.MaxPids())
	case now.kills > before.kills:
		return fmt.Sprintf("the container has used up its memory limit (%s bytes), and the kernel killed a process of it: free some or raise the limit", w.group.MaxMemory())
	}
	return ""
}

// outOfMemory tells whether the kernel's out-of-memory killer ended the gateway: it got a SIGKILL that nobody here sent, and
// the container's count of such kills has risen since it was last seen alive. Of two kills close together, one of each kind,
// the kernel does not tell which was whose.
func (w *Warden) outOfMemory(g *gateway, exit process.Exit) bool {
	return !g.asked && exit.Signal == unix.SIGKILL && w.group.OOMKills() > g.before.kills
}

// whyEnded names the container's limit as what ended the gateway, where the kernel's counters say so; with a comma before it.
func (w *Warden) whyEnded(g *gateway, exit process.Exit) string {
	switch {
	case w.outOfMemory(g, exit):
		return fmt.Sprintf(", out of memory: the kernel killed it at the container's memory limit of %s bytes", w.group.MaxMemory())
	case !g.proven && exit.Signal == 0 && exit.Code != 0 && w.group.ForksRefused() > g.before.forks:
		return fmt.Sprintf("; meanwhile the container was at its process limit, pids.max %s, threads included", w.group.MaxPids())
	}
	return ""
}
