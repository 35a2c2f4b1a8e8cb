package warden

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/held"
	"github.com/gatewarden/gatewarden/internal/idmap"
	"github.com/gatewarden/gatewarden/internal/intercept"
	"github.com/gatewarden/gatewarden/internal/join"
	"github.com/gatewarden/gatewarden/internal/launch"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// gateway is the supervised process.
type gateway struct {
	proc    *process.Process
	id      process.Identity // as proven; until it is proven ready, any program: interpreters execute one another
	info    receipt.New
	since   time.Time
	asked   bool // its end is asked for: recorded before the signal, never inferred from an exit status
	proven  bool
	healthy *bool         // as it was last looked at; nil: that could not be told
	checked time.Time     // when; zero: never, by this warden
	exit    *process.Exit // once it has been reaped
	proof   string        // of that exit
	profile *profile.Profile
	binds   *intercept.Interceptor // of its bind calls, if a listener is transparent
	before  limits                 // as the container had met them when it was started, or last seen alive
}

// done never fires while there is no gateway.
func (g *gateway) done() <-chan struct{} {
	if g == nil {
		return nil
	}
	return g.proc.Done()
}

// looked notes what a look at its health has found.
func (g *gateway) looked(healthy *bool) { g.healthy, g.checked = healthy, time.Now() }

// standby is a parked launcher: the next gateway.
type standby struct {
	proc    *process.Process
	id      process.Identity
	posture process.Posture // as last proven
	gate    *launch.Gate
	who     identity
	// elsewhere: it is in a mount namespace of its own, not in the container's.
	elsewhere bool
}

func (s *standby) done() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.proc.Done()
}

// end lets a parked launcher go and collects it, also one that has ended by itself. A nil standby has ended.
func (s *standby) end(log *slog.Logger) {
	if s == nil {
		return
	}
	unasked := s.proc.Exited()
	s.gate.Close()
	if err := s.proc.Kill(); err != nil {
		log.Error("cannot end the standby", "pid", s.proc.PID(), "err", err)
	}
	if s.proc.AwaitFor(killGrace) {
		exit, err := s.proc.Reap()
		switch {
		case err != nil:
			log.Error("cannot reap the standby", "pid", s.proc.PID(), "err", err)
		case unasked:
			log.Warn("the standby ended unasked", "pid", s.proc.PID(), "exit", exit.String())
		}
	}
	s.proc.Close()
}

// identity is what a standby must be, so that it can become the profile's gateway.
type identity struct {
	inside idmap.ID // in the container's user namespace
	host   idmap.ID // here, where the kernel tells it to us
	caps   []string
}

// identityOf gives the identity of p's gateway. What the container's user namespace does not map is nobody's: the first proof
// fails. Profiles are refused for that long before (posture.Host).
func (w *Warden) identityOf(p *profile.Profile) identity {
	inside := idmap.ID{UID: p.Gateway.User, GID: p.Gateway.Group, Groups: p.Gateway.Groups}
	host, _ := w.maps.Host(inside)
	return identity{inside: inside, host: host, caps: p.Gateway.Capabilities}
}

// uidOf gives the UID of p's gateway here.
func (w *Warden) uidOf(p *profile.Profile) uint32 { return w.maps.UIDs.HostOrNone(p.Gateway.User) }

// joined is the outcome of making a standby.
type joined struct {
	standby *standby
	err     error
}

// spawnStandby begins to make a standby, unless there is one or one is being made. Its outcome comes over w.joined. It
// outlives the action that asked for it, so it ends with the container and not with that action's deadline.
func (w *Warden) spawnStandby(who identity) {
	if w.joining || w.standby != nil {
		return
	}
	w.joining = true
	w.standbyTry.Stop()
	// Copies, since run may let go of a socket while this one is on its way.
	sockets, err := w.copyHeld()
	if err != nil {
		w.joined <- joined{nil, err}
		return
	}
	go func() {
		defer closeAll(sockets)
		ctx, cancel := context.WithTimeout(w.alive, joinTimeout)
		defer cancel()
		s, err := w.park(ctx, who, join.Files{Stdout: w.stdout, Stderr: w.stderrF, Held: sockets})
		w.joined <- joined{s, err}
	}()
}

// park puts a launcher into the container and proves that it is the launcher, with the posture that was asked for. Files are
// what it gets beside its own.
func (w *Warden) park(ctx context.Context, who identity, files join.Files) (_ *standby, err error) {
	if err := w.roomToJoin(); err != nil {
		return nil, err
	}
	before := w.limits()
	defer func() {
		if why := w.limitMet(before); err != nil && why != "" {
			e := code.From(err, code.StageLaunch)
			err = &code.Error{Code: e.Code, Stage: e.Stage, Retryable: e.Retryable, Message: why + ": " + e.Message, Err: e}
		}
	}()
	gate, theirs, err := launch.NewGate()
	if err != nil {
		return nil, err
	}
	files.Launcher, files.Control = w.launcher, theirs
	start := join.Start
	var joiner *join.Joiner
	if files.Mounts != nil {
		start = join.StartElsewhere
	} else {
		joiner = w.joiner.Swap(nil)
	}
	if joiner == nil {
		joiner, err = start(w.self, w.stderr)
	}
	if err == nil {
		// A program may open its standard output anew (/dev/stdout). libcontainer sees to that too, but cannot in a user namespace
		// that does not map our root, whose the files are.
		err = errors.Join(files.Stdout.Chown(int(who.host.UID), int(who.host.GID)), files.Stderr.Chown(int(who.host.UID), int(who.host.GID)))
	}
	var proc *process.Process
	if err == nil {
		proc, err = joiner.Join(ctx, join.Request{
			Root: w.rec.RuntimeRoot, Runtime: w.rec.Runtime, Bundle: w.rec.Bundle, ID: w.rec.ID, InitPID: w.rec.InitPID, InitStart: w.rec.InitStart,
			UID: who.inside.UID, GID: who.inside.GID, Groups: who.inside.Groups, Capabilities: who.caps,
		}, files)
	}
	theirs.Close()
	if err != nil {
		gate.Close()
		return nil, err
	}
	s := &standby{proc: proc, gate: gate, who: who, elsewhere: files.Mounts != nil}
	if err := gate.AwaitParked(ctx); err != nil {
		s.end(w.log)
		return nil, code.Errorf(code.LaunchFailed, code.StageLaunch, "the launcher did not come up in the container: %w", err)
	}
	if err := w.provePosture(s); err != nil {
		s.end(w.log)
		return nil, err
	}
	return s, nil
}

// noStandby begins the status's message while the gateway is well and the next one cannot be prepared.
const noStandby = "no standby, so a restart would be refused: "

// standbyJoined takes a new standby in, or plans the next try.
func (w *Warden) standbyJoined(j joined) {
	w.joining = false
	w.reapAdopted()
	if j.err != nil {
		w.retryStandby()
		w.log.Error("cannot make a standby", "err", j.err, "next_try_in", w.standbyLag)
		if w.status.State == receipt.Running {
			w.status.Message = noStandby + j.err.Error()
			w.publish()
		}
		return
	}
	if strings.HasPrefix(w.status.Message, noStandby) {
		w.status.Message = ""
	}
	w.standbyLag = 0
	w.standby = j.standby
	w.tidy.Reset(tidyDelay)
	w.status.Standby.PID = j.standby.proc.PID()
	w.publish()
}

// standbyExited replaces a standby that somebody ended.
func (w *Warden) standbyExited() {
	w.dropStandby()
	w.retryStandby()
}

// retryStandby plans the next try to make a standby, later each time until one succeeds.
func (w *Warden) retryStandby() {
	w.standbyLag = min(max(2*w.standbyLag, 100*time.Millisecond), 30*time.Second)
	w.standbyTry.Reset(w.standbyLag)
}

// dropStandby forgets the standby, which is ended if it still lives.
func (w *Warden) dropStandby() {
	w.standby.end(w.log)
	w.standby = nil
	w.status.Standby.PID = 0
	w.publish()
}

// needStandby gives a living, proven standby with that identity, and waits for one to be made if there is none.
func (w *Warden) needStandby(ctx context.Context, who identity) (*standby, error) {
	for {
		if s := w.standby; s != nil {
			if s.proc.Exited() {
				w.standbyExited()
				continue
			}
			if err := w.provePosture(s); err == nil && s.who.equal(who) {
				return s, nil
			} else if err != nil {
				w.log.Error("the standby is not what it was", "err", err)
			}
			w.dropStandby()
		}
		w.spawnStandby(who)
		select {
		case j := <-w.joined:
			w.standbyJoined(j)
			if j.err != nil {
				return nil, j.err
			}
		case <-ctx.Done():
			return nil, ctxError(ctx, code.StageLaunch, "no standby came up")
		}
	}
}

func (a identity) equal(b identity) bool {
	return a.host.UID == b.host.UID && a.host.GID == b.host.GID && sameSet(a.host.Groups, b.host.Groups) && sameSet(a.caps, b.caps)
}

// release turns the standby into the gateway. The standby is used up, whatever comes of it.
func (w *Warden) release(ctx context.Context, p *plan) (*gateway, error) {
	s, err := w.needStandby(ctx, w.identityOf(p.profile))
	if err != nil {
		return nil, err
	}
	info := w.describe(s, p)
	if w.gateway == nil {
		// Recorded before it can run: whoever comes after us has to recognise it. One that is to overlap is not the gateway yet.
		w.remember(&gateway{proc: s.proc, id: s.id, info: info, since: time.Now(), profile: p.profile})
	}
	failpoint.Hit(w.dir, "release")
	before := w.limits()
	inherited, replacing := w.heldBy(p.profile, profile.ModeInherit), w.heldBy(p.profile, profile.ModeTransparent)
	order := launch.Order{
		Exe: p.program.File, Cwd: p.profile.Gateway.Cwd, Arg: p.program.Args, Env: append(listenEnv(s.proc, info.NSPID, inherited), p.env...),
		Sockets: files(inherited), Notify: len(replacing) > 0,
	}
	if len(w.held) > 0 {
		// Nobody but us has the guards until there is a standby again, nor what it has not bound yet.
		carrier, err := held.Carry(w.allHeld())
		if err != nil {
			return nil, code.Errorf(code.LaunchFailed, code.StageLaunch, "%w", err)
		}
		defer carrier.Close()
		order.Sockets = append(order.Sockets, carrier)
	}
	entrust(&order, p.creds)
	if err := noCore(&order, s.proc, p.profile); err != nil {
		return nil, err
	}
	notify, err := s.gate.Release(ctx, order)
	s.gate.Close()
	w.standby, w.status.Standby.PID = nil, 0
	if err != nil {
		if w.notFrozen() == nil {
			s.end(w.log)
		} else {
			// Frozen, it dies with the resume, before another instruction of its, and is reaped like what a failed join left.
			s.proc.Kill()
			s.proc.Close()
		}
		if f, ok := errors.AsType[*launch.Failure](err); ok {
			return nil, code.Errorf(code.LaunchFailed, code.StageLaunch, "cannot start %s: %w%s", p.program.Path, f, hint(f))
		}
		// The socket has the same deadline as ctx, and can be the first to see it.
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, ctxError(ctx, code.StageLaunch, "the launcher did not exec")
		}
		return nil, code.Errorf(code.LaunchFailed, code.StageLaunch, "cannot exec %s: %w", p.program.Path, err)
	}
	id := s.id
	id.Exe = process.File{}
	if notify != nil {
		if po, err := s.proc.Posture(); err == nil {
			info.Seccomp = po.Seccomp // the filter has come since
		}
	}
	g := &gateway{proc: s.proc, id: id, info: info, since: time.Now(), profile: p.profile, before: before}
	w.answerBinds(g, notify, replacing)
	return g, nil
}

// hint says what an error of exec means for the operator, where its text does not.
func hint(f *launch.Failure) string {
	switch {
	case f.Step == launch.Exec && f.Errno == unix.ENOENT:
		return " (its dynamic loader or interpreter is not in the image)"
	case f.Step == launch.Exec && f.Errno == unix.ENOEXEC:
		return " (neither a program for this machine nor a script with #!)"
	case f.Step == launch.Exec && f.Errno == unix.EACCES:
		return " (its mount may be noexec, or its mode keeps the gateway's UID out)"
	case f.Step == launch.Filter && f.Errno == unix.EBUSY:
		return " (a process can have one seccomp listener, and the container's seccomp profile has its own: mode = \"inherit\" and \"gateway\" need none)"
	case f.Step == launch.Filter:
		return " (mode = \"transparent\" needs seccomp(2), which the container's seccomp profile keeps from it)"
	case f.Step == launch.LimitCore:
		return " (a gateway with secrets leaves no core file; the container's seccomp profile keeps prlimit(2) from it)"
	case f.Step == launch.ChangeDirectory:
		return " (gateway.cwd must be a directory that the gateway's UID may enter)"
	}
	return ""
}

// endStrays ends what a gateway left behind: every process in the container's cgroup and PID namespace that runs under the
// gateway's UID and is not the standby. None of the three can be shed: with no_new_privs and without capabilities there is
// no way to another UID, and the posture check keeps the workload from having it.
// Of the strangers it is known that they are none.
func (w *Warden) endStrays(ctx context.Context, known strangers) error {
	if w.joining {
		// A launcher on its way in has that UID too and is not known yet.
		select {
		case j := <-w.joined:
			w.standbyJoined(j)
		case <-ctx.Done():
			return ctxError(ctx, code.StageStop, "the next standby did not come up")
		}
	}
	for range 10 {
		strays, err := w.strays(known)
		if err != nil {
			return err
		}
		if len(strays) == 0 {
			return nil
		}
		for _, p := range strays {
			w.log.Warn("ending a process that the gateway left behind", "pid", p.PID())
			err := p.Kill()
			if err == nil {
				wait, cancel := context.WithTimeout(ctx, killGrace)
				err = p.Await(wait)
				cancel()
			}
			p.Close()
			if err != nil {
				return code.Errorf(code.StopFailed, code.StageStop, "process %d, which the old gateway left behind, does not end: %w", p.PID(), err)
			}
		}
	}
	return code.Errorf(code.StopFailed, code.StageStop, "processes that the old gateway left behind keep starting others under its UID")
}

// strays gives the processes under the gateway's UID that have no business to be there: all that do not descend from the
// gateway. Without one that is all of them.
func (w *Warden) strays(known strangers) ([]*process.Process, error) {
	all, err := w.kin(known)
	if err != nil || w.gateway == nil {
		return all, err
	}
	var out []*process.Process
	for _, p := range all {
		if descends(p, w.gateway.proc) {
			p.Close()
		} else {
			out = append(out, p)
		}
	}
	return out, nil
}

// kin gives the container's processes under the gateway's UID, but for the gateway and the standby.
func (w *Warden) kin(known strangers) ([]*process.Process, error) {
	all, err := w.membersOf(w.uidOf(w.profile), known)
	if err != nil {
		return nil, err
	}
	var out []*process.Process
	for _, p := range all {
		switch {
		case p.Exited(), w.ours(p.PID()):
			p.Close()
		default:
			out = append(out, p)
		}
	}
	return out, nil
}

// maxAncestors bounds the way up that descends goes.
const maxAncestors = 32

// descends tells whether p is a descendant of ancestor, which is held and so keeps its number. A process whose parent has
// ended is the container's init's child, and nobody's descendant any more.
func descends(p, ancestor *process.Process) bool {
	stat, err := p.Stat()
	started := p.Start()
	for range maxAncestors {
		if err != nil || stat.PPID <= 1 {
			return false
		}
		if stat.PPID == ancestor.PID() {
			return true
		}
		parent, perr := process.Open(stat.PPID)
		if perr != nil || parent.Start() > started {
			return false // its number is another's by now
		}
		started = parent.Start()
		stat, err = parent.Stat()
		parent.Close()
	}
	return false
}

// ctxError says why ctx ended: the container is gone, or the deadline passed.
func ctxError(ctx context.Context, stage code.Stage, what string) *code.Error {
	if cause := context.Cause(ctx); errors.Is(cause, errContainerGone) {
		return code.Errorf(code.NotRunning, stage, "%s: %w", what, cause)
	}
	return code.Errorf(code.Deadline, stage, "%s before the deadline", what)
}
