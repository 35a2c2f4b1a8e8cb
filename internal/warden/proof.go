package warden

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/listener"
	"github.com/gatewarden/gatewarden/internal/probe"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// mismatch is a posture that the kernel reports and the profile does not ask for.
func mismatch(format string, args ...any) *code.Error {
	return code.Errorf(code.PostureMismatch, code.StageLaunch, format, args...)
}

// provePosture reads back from the kernel what the parked launcher is: our own file, with exactly the IDs, capabilities
// and namespaces that were asked for. Nothing else has run in that process since libcontainer set them.
func (w *Warden) provePosture(s *standby) (err error) {
	if s.id == (process.Identity{}) {
		err = w.proveLauncher(s)
	} else if _, err = s.proc.Prove(s.id); errors.Is(err, process.ErrChanged) {
		err = mismatch("the launcher, process %d, is not what was parked: %w", s.proc.PID(), err)
	}
	if err == nil {
		s.posture, err = s.proc.Posture()
	}
	if err == nil {
		return samePosture(s.posture, s.who)
	}
	if _, ok := errors.AsType[*code.Error](err); ok {
		return err
	}
	return code.Errorf(code.LaunchFailed, code.StageLaunch, "the standby ended: %w", err)
}

// proveLauncher proves what a process that has just been parked is, and keeps that as its identity.
func (w *Warden) proveLauncher(s *standby) error {
	var file unix.Stat_t
	if err := unix.Fstat(int(w.launcher.Fd()), &file); err != nil {
		return err
	}
	id, err := s.proc.Identify()
	if err != nil {
		return err
	}
	if id.Exe != (process.File{Dev: file.Dev, Ino: file.Ino}) {
		path, _, _ := s.proc.Exe()
		return mismatch("process %d in the container runs %s instead of the launcher: what is mounted at /proc in the container is not procfs",
			s.proc.PID(), path)
	}
	namespaces, err := w.init.Namespaces()
	if err != nil {
		return code.Errorf(code.LaunchFailed, code.StageLaunch, "cannot compare namespaces: %w", err)
	}
	if s.elsewhere {
		namespaces = namespaces.With("mnt", id.Namespaces)
	}
	if kind := id.Namespaces.Differ(namespaces); kind != "" {
		return mismatch("the launcher's %s namespace is not the container's", kind)
	}
	s.id = id
	return nil
}

func samePosture(po process.Posture, who identity) error {
	var caps uint64
	for _, c := range who.caps {
		if c == "CAP_NET_BIND_SERVICE" {
			caps |= 1 << unix.CAP_NET_BIND_SERVICE
		}
	}
	four := func(id uint32) [4]uint32 { return [4]uint32{id, id, id, id} }
	switch {
	case po.UID != four(who.host.UID):
		return mismatch("the launcher's UIDs are %v instead of %d", po.UID, who.host.UID)
	case po.GID != four(who.host.GID):
		return mismatch("the launcher's GIDs are %v instead of %d", po.GID, who.host.GID)
	case !sameSet(po.Groups, who.host.Groups):
		return mismatch("the launcher's supplementary groups are %v instead of %v", po.Groups, who.host.Groups)
	case !po.NoNewPrivs:
		return mismatch("the launcher has no_new_privs off")
	}
	for _, set := range []struct {
		name string
		got  uint64
	}{{"effective", po.Effective}, {"permitted", po.Permitted}, {"inheritable", po.Inherit}, {"bounding", po.Bounding}, {"ambient", po.Ambient}} {
		if set.got != caps {
			return mismatch("the launcher's %s capabilities are %x instead of %x", set.name, set.got, caps)
		}
	}
	return nil
}

func sameSet[T interface{ ~uint32 | ~string }](a, b []T) bool {
	return slices.Equal(slices.Compact(slices.Sorted(slices.Values(a))), slices.Compact(slices.Sorted(slices.Values(b))))
}

// describe is what the receipt says of the process that the standby, whose posture has just been proven, is about to become.
func (w *Warden) describe(s *standby, p *plan) receipt.New {
	po := s.posture
	hex := func(n uint64) string { return strconv.FormatUint(n, 16) }
	groups := make([]int, 0, len(po.Groups))
	for _, g := range po.Groups {
		groups = append(groups, int(g))
	}
	n := receipt.New{
		PID: s.proc.PID(), NSPID: po.NSPID, StartTime: s.proc.Start(),
		Exe: p.program.Path, ExeDev: p.program.Dev, ExeIno: p.program.Ino,
		UID: int(po.UID[0]), GID: int(po.GID[0]), Groups: groups,
		Capabilities: receipt.Capabilities{
			Effective: hex(po.Effective), Permitted: hex(po.Permitted), Inheritable: hex(po.Inherit),
			Bounding: hex(po.Bounding), Ambient: hex(po.Ambient),
		},
		NoNewPrivs: po.NoNewPrivs, Seccomp: po.Seccomp,
	}
	if w.maps.Apart {
		n.NSUID, n.NSGID = new(int(s.who.inside.UID)), new(int(s.who.inside.GID))
	}
	return n
}

// owners maps the socket inodes of the gateway and of what descends from it to their process's number. Descendants are
// found by the UID, as in strays.
func (w *Warden) owners(g *gateway) (map[uint64]int, error) {
	if g == nil {
		return nil, nil
	}
	own := map[uint64]int{}
	add := func(p *process.Process) error {
		inodes, err := listener.Inodes(int(p.Dir().Fd()))
		for inode := range inodes {
			own[inode] = p.PID()
		}
		return err
	}
	if err := add(g.proc); err != nil {
		if errors.Is(err, listener.ErrGone) {
			return own, nil
		}
		return nil, err
	}
	return own, nil
}

// withDescendants adds the sockets of g's descendants to own. It walks the container's processes, so it is asked for only
// when the gateway's own sockets do not explain an address. While there are two gateways, their UID does not tell whose a
// process is; then its ancestors do.
func (w *Warden) withDescendants(own map[uint64]int, g *gateway) error {
	procs, err := w.kin(strangers{})
	if err != nil {
		return err
	}
	for _, p := range procs {
		if w.other != nil && !descends(p, g.proc) {
			p.Close()
			continue
		}
		inodes, err := listener.Inodes(int(p.Dir().Fd()))
		p.Close()
		if err != nil && !errors.Is(err, listener.ErrGone) {
			return err
		}
		for inode := range inodes {
			if _, ok := own[inode]; !ok {
				own[inode] = p.PID()
			}
		}
	}
	return nil
}

// listening proves for each declared address who listens there. The error is listener_missing (not yet, perhaps) or
// listener_contested (somebody else does); the listeners are as found in either case.
func (w *Warden) listening(g *gateway, p *profile.Profile, stage code.Stage) ([]receipt.Listener, error) {
	l, err := w.lookAtListeners(g, p, stage)
	if err == nil && l.contested != nil {
		// A socket whose owner closed it between the two looks seems to be nobody's. A foreign one is still there.
		l, err = w.lookAtListeners(g, p, stage)
	}
	switch {
	case err != nil:
		return l.found, err
	case l.contested != nil:
		return l.found, code.Errorf(code.ListenerContested, stage, "%s", w.accusation(l.contested))
	case l.missing != nil:
		return l.found, code.Errorf(code.ListenerMissing, stage, "%s", strings.Join(l.missing, "; "))
	}
	return l.found, nil
}

// look is what one look at the listeners of all declared addresses found.
type look struct {
	found     []receipt.Listener
	missing   []string // what is wrong, for people
	contested []contest
}

// contest is a socket that should not be there.
type contest struct {
	listen profile.Listen
	socket listener.Socket
	own    bool // the gateway's own: one too many
}

// lookAtListeners looks at the gateway before and after, as every proof about it does: sockets of a gateway that was not
// there all the while, or that a child has inherited, prove nothing of it. Without a gateway it tells who else listens.
func (w *Warden) lookAtListeners(g *gateway, p *profile.Profile, stage code.Stage) (look, error) {
	if g == nil {
		return w.lookOnce(nil, p, stage)
	}
	if err := w.unchanged(g, stage); err != nil {
		return look{}, err
	}
	l, err := w.lookOnce(g, p, stage)
	if changed := w.unchanged(g, stage); changed != nil {
		return look{}, changed
	}
	return l, err
}

// unchanged is the bracket around a proof: the gateway is what it was when it was proven last.
func (w *Warden) unchanged(g *gateway, stage code.Stage) error {
	_, err := g.proc.Prove(g.id)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, process.ErrGone):
		return code.Errorf(code.ListenerMissing, stage, "the gateway, process %d, has exited: %w", g.info.PID, err)
	case errors.Is(err, process.ErrChanged):
		return code.Errorf(code.PostureMismatch, stage, "the gateway, process %d, is not what was proven: %w: `gatewarden restart %s` replaces it", g.info.PID, err, w.container)
	}
	return code.Errorf(code.Internal, stage, "cannot prove what the gateway, process %d, is: %w", g.info.PID, err)
}

func (w *Warden) lookOnce(g *gateway, p *profile.Profile, stage code.Stage) (look, error) {
	// The sockets first, their owners after: a socket that the gateway binds in between is not seen at all, and one that
	// was seen is in its owner's table by then. The other way round it would look like somebody else's.
	view := int(w.inside(g).Dir().Fd())
	sockets := make([][]listener.Socket, len(p.Listen))
	for i, l := range p.Listen {
		var err error
		if sockets[i], err = w.sockets.Find(l.Address, view); err != nil {
			return look{}, code.Errorf(code.Internal, stage, "cannot list the listeners of %s: %w", l.Address, err)
		}
	}
	own, err := w.owners(g)
	if err != nil {
		return look{}, code.Errorf(code.Internal, stage, "cannot read the gateway's sockets: %w", err)
	}
	l := look{found: make([]receipt.Listener, 0, len(p.Listen))}
	walked := g == nil
	for i, d := range p.Listen {
		owned := func(inode uint64) bool { return own[inode] != 0 || w.holds(inode) }
		s, verdict := listener.Judge(d.Address, sockets[i], owned)
		if (verdict == listener.Contested || verdict == listener.Owned && own[s.Inode] == 0) && !walked {
			walked = true
			if err := w.withDescendants(own, g); err != nil {
				return look{}, code.Errorf(code.Internal, stage, "cannot read the sockets of the gateway's descendants: %w", err)
			}
			s, verdict = listener.Judge(d.Address, sockets[i], owned)
		}
		entry := receipt.Listener{Name: d.Name, Address: d.Address.String(), Mode: d.Mode}
		switch verdict {
		case listener.Owned:
			entry.Inode, entry.OwnerPID = s.Inode, own[s.Inode]
			if entry.OwnerPID == 0 {
				l.missing = append(l.missing, fmt.Sprintf("the gateway has not taken the socket that is held for it on %s (%s)", d.Address, d.Name))
			}
		case listener.Missing:
			l.missing = append(l.missing, fmt.Sprintf("nobody listens on %s (%s)", d.Address, d.Name))
		case listener.Contested:
			entry.Inode = s.Inode
			l.contested = append(l.contested, contest{listen: d, socket: s, own: owned(s.Inode)})
		}
		l.found = append(l.found, entry)
	}
	return l, nil
}

// inside gives a process that sees the container's files: the gateway, or what is to become the next one. The init is the
// last resort, since the workload may be it.
func (w *Warden) inside(g *gateway) *process.Process {
	switch {
	case g != nil:
		return g.proc
	case w.standby != nil && !w.standby.proc.Exited():
		return w.standby.proc
	}
	return w.init
}

// absent proves that no declared address is held by anybody, once the old gateway and what it left are gone.
func (w *Warden) absent(p *profile.Profile) error {
	_, err := w.listening(nil, p, code.StageAbsence)
	if e, ok := errors.AsType[*code.Error](err); ok && e.Code == code.ListenerMissing {
		return nil
	}
	return err
}

// prove waits until the new gateway owns its listeners, answers its probe, and still owns them; and, after the settle
// time, once more. It gives the reason when that is not so within ready.timeout or before ctx ends.
func (w *Warden) prove(ctx context.Context, g *gateway, r *receipt.Receipt, a *action) error {
	p := g.profile
	ready, cancel := context.WithDeadline(ctx, g.since.Add(p.Ready.Timeout))
	defer cancel()
	began := time.Now()
	a.stage(code.StageListen)
	w.giveHeadStart(ready, g)
	err := w.retrying(ready, g, func() error {
		var err error
		r.Listeners, err = w.listening(g, p, code.StageListen)
		return err
	})
	r.Millis.Listen = millis(time.Since(began))
	if err != nil {
		return late(ctx, err)
	}
	began = time.Now()
	a.stage(code.StageProbe)
	failpoint.Hit(w.dir, "probe")
	w.letClientsPass(ready, g)
	err = w.retrying(ready, g, func() error { return w.probed(ready, g, r, code.StageProbe) })
	r.Millis.Probe = millis(time.Since(began))
	if err != nil || p.Ready.Settle == 0 {
		return late(ctx, err)
	}
	return late(ctx, w.settle(ctx, g, r, a))
}

const (
	// headStart bounds how long a gateway that has just been started is left alone.
	headStart = 20 * time.Millisecond
	// clientsTime bounds how long a probe waits for clients that were there before it. A gateway that is late, or that has more
	// clients than it can answer, is asked all the same.
	clientsTime = 100 * time.Millisecond
	// clientsPace is the time between two looks at them.
	clientsPace = time.Millisecond
)

// giveHeadStart waits for most of the time that the last gateway took to become ready. Who looks earlier finds nothing, and takes
// the time of the cores that the gateway starts on.
func (w *Warden) giveHeadStart(ctx context.Context, g *gateway) {
	w.pause(ctx, g, min(w.took*3/4, headStart))
}

// letClientsPass waits while connections wait to be accepted and none is. A gateway that accepts none is not there yet; and the
// first answers of one take long enough that those who have waited for it are not to wait for a probe's besides. A probe that
// makes no connection is in nobody's way.
func (w *Warden) letClientsPass(ctx context.Context, g *gateway) {
	if g.profile.Ready.Address.Network == "" {
		return
	}
	most := 0
	for end := time.Now().Add(clientsTime); time.Now().Before(end) && ctx.Err() == nil && !g.proc.Exited(); {
		waiting := 0
		for _, s := range w.held {
			n, err := s.Waiting()
			if err != nil {
				w.log.Warn("the first probe comes before the clients", "err", err)
				return
			}
			waiting += n
		}
		if waiting == 0 || waiting < most {
			return
		}
		most = waiting
		w.pause(ctx, g, clientsPace)
	}
}

// pause waits for d, unless there is something to look at before.
func (w *Warden) pause(ctx context.Context, g *gateway, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-g.binds.Taken():
	case <-g.done():
	case <-ctx.Done():
	}
}

// settle proves that what was proven still holds after the settle time: owns, healthy, owns.
func (w *Warden) settle(ctx context.Context, g *gateway, r *receipt.Receipt, a *action) error {
	a.stage(code.StageSettle)
	settled := time.NewTimer(g.profile.Ready.Settle)
	defer settled.Stop()
	select {
	case <-settled.C:
	case <-g.done():
		return w.diedEarly(g, code.StageSettle)
	case <-ctx.Done():
		return ctxError(ctx, code.StageSettle, "the settle time did not pass")
	}
	// A bound of its own: the settle time may be as long as ready.timeout. It was ready and had all the time to stay so; only
	// what cannot be told is looked at again.
	last, cancel := context.WithTimeout(ctx, settleLook)
	defer cancel()
	for {
		var err error
		if r.Listeners, err = w.listening(g, g.profile, code.StageSettle); err == nil {
			r.Probe = nil
			err = w.probed(last, g, r, code.StageSettle)
		}
		e, _ := errors.AsType[*code.Error](err)
		switch {
		case err == nil && !g.proc.Exited():
			return nil
		case g.proc.Exited():
			return w.diedEarly(g, code.StageSettle)
		case e.Code == code.ProbeFailed && r.Probe.Verdict == string(probe.Unknown) && last.Err() == nil:
		default:
			e.Message = fmt.Sprintf("it was ready and did not stay so for ready.settle (%v): %s", g.profile.Ready.Settle, e.Message)
			return e
		}
		settled.Reset(checkPace)
		select {
		case <-settled.C:
		case <-g.done():
		case <-last.Done():
		}
	}
}

// settleLook bounds the last look of settle, repetitions included.
const settleLook = checkTimeout

// late makes err the deadline's if it was the action's own deadline that ended the waiting, and not ready.timeout.
func late(ctx context.Context, err error) error {
	e, ok := errors.AsType[*code.Error](err)
	if !ok || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return err
	}
	return code.Errorf(code.Deadline, e.Stage, "the deadline passed: %w", err)
}

// probed asks the gateway once, and proves after the answer that it is still the owner: owns, healthy, owns.
func (w *Warden) probed(ctx context.Context, g *gateway, r *receipt.Receipt, stage code.Stage) error {
	res, err := w.ask(ctx, g, stage)
	if r.Probe == nil || err == nil || !tellsLess(ctx, err) {
		r.Probe = probeOf(res)
	}
	if err != nil {
		return err
	}
	r.Listeners, err = w.listening(g, g.profile, stage)
	return err
}

// tellsLess is true where err, of an attempt within ctx, tells less than that of an attempt before it: it was cut short, or
// reached the gateway that is to be replaced alone.
func tellsLess(ctx context.Context, err error) bool {
	_, elsewhere := errors.AsType[probe.ElsewhereError](err)
	return elsewhere || ctx.Err() != nil
}

// ask runs the readiness probe once.
func (w *Warden) ask(ctx context.Context, g *gateway, stage code.Stage) (probe.Result, error) {
	var res probe.Result
	switch kind := g.profile.Ready.Kind; kind {
	case "none":
		return probe.Result{Verdict: probe.Yes, Kind: kind}, nil
	case "exec":
		res = w.check(ctx, g)
	default:
		root, err := g.proc.OpenRoot()
		if err != nil {
			res = probe.Result{Verdict: probe.Unknown, Kind: kind, Detail: err.Error()}
			break
		}
		res = probe.Run(ctx, w.net, int(root.Fd()), g.profile.Ready, w.taken(g))
		root.Close()
	}
	if res.Verdict != probe.Yes {
		// Who is frozen can't answer, and that says nothing of its health.
		if err := w.notFrozen(); err != nil {
			res.Verdict = probe.Unknown
			return res, err
		}
	}
	return res, w.asked(g, res, stage)
}

// taken tells of a probe's connection to a held socket whether g has accepted it. It is nil where an answer says that already:
// from a socket that g has bound itself, or by a protocol that answers, while nobody but g accepts from the held one.
func (w *Warden) taken(g *gateway) probe.Taken {
	ready := g.profile.Ready
	held := slices.ContainsFunc(g.profile.Listen, func(l profile.Listen) bool { return l.Held() && l.Reaches(ready.Address) })
	if !held || w.other == nil && ready.Kind != "tcp" && ready.Kind != "unix" {
		return nil
	}
	return func(conn net.Conn) (probe.Taker, error) {
		inode, err := w.sockets.Peer(conn)
		if err != nil || inode == 0 {
			return probe.Nobody, err
		}
		own, err := w.owners(g)
		if err == nil && own[inode] == 0 {
			err = w.withDescendants(own, g)
		}
		switch {
		case err != nil:
			return probe.Nobody, err
		case own[inode] != 0:
			return probe.Gateway, nil
		}
		return probe.Another, nil
	}
}

// asked is the error of a probe that did not say yes: what was asked, and what came.
func (w *Warden) asked(g *gateway, res probe.Result, stage code.Stage) error {
	var what string
	switch r := g.profile.Ready; r.Kind {
	case "http":
		what = "GET http://" + r.Host + r.Path
	case "grpc":
		what = "the health service on " + r.Address.String()
	case "exec":
		what = "the command"
	default:
		what = "a connection to " + r.Address.String()
	}
	switch res.Verdict {
	case probe.Yes:
		return nil
	case probe.No:
		return code.Errorf(code.ProbeFailed, stage, "the %s probe (%s) says that it is not ready: %s", res.Kind, what, res.Detail)
	}
	detail := errors.New(res.Detail)
	if res.Elsewhere {
		detail = probe.ElsewhereError(res.Detail)
	}
	return code.Errorf(code.ProbeFailed, stage, "the %s probe (%s) cannot tell, which says nothing of the gateway: %w", res.Kind, what, detail)
}

func probeOf(res probe.Result) *receipt.Probe {
	return &receipt.Probe{Kind: res.Kind, Verdict: string(res.Verdict), Status: res.Status, Millis: millis(res.Took), Detail: res.Detail}
}

// retrying repeats check until it passes, the gateway exits, ctx ends, or somebody else holds an address, which no
// waiting changes. The waits grow from half a millisecond: most gateways need some, few need many. A check that needs a
// join is repeated less often, and one that waits for a bind which is intercepted is repeated at once when that comes.
func (w *Warden) retrying(ctx context.Context, g *gateway, check func() error) error {
	t := stoppedTimer()
	var before *code.Error
	first := 500 * time.Microsecond
	if g.binds != nil {
		first = 20 * time.Millisecond
	}
	for wait := first; ; wait = min(wait*3/2, 50*time.Millisecond) {
		err := check()
		if err == nil {
			if g.proc.Exited() {
				return w.diedEarly(g, code.StageListen)
			}
			return nil
		}
		e, _ := errors.AsType[*code.Error](err)
		if g.proc.Exited() {
			return w.diedEarly(g, e.Stage)
		}
		if e.Code == code.ListenerContested || e.Code == code.PostureMismatch || e.Code == code.Internal {
			return err
		}
		pause := wait
		if g.profile.Ready.Kind == "exec" && e.Code == code.ProbeFailed {
			pause = checkPace
		}
		if before != nil && tellsLess(ctx, err) {
			e = before
		}
		before = e
		t.Reset(pause)
		select {
		case <-t.C:
		case <-g.binds.Taken():
		case <-g.done():
			return w.diedEarly(g, e.Stage)
		case <-ctx.Done():
			if cause := context.Cause(ctx); errors.Is(cause, errContainerGone) {
				return ctxError(ctx, e.Stage, e.Message)
			}
			e.Message += fmt.Sprintf(" (%.3gs after its start)", time.Since(g.since).Seconds())
			return e
		}
	}
}

// initEnds is how long the exit of the container's init may come after that of the gateway that it took with it.
const initEnds = 50 * time.Millisecond

// diedEarly is the error for a gateway that exited before it was proven.
func (w *Warden) diedEarly(g *gateway, stage code.Stage) error {
	exit, proof, err := g.proc.Ending()
	if err != nil {
		return code.Errorf(code.Internal, stage, "the gateway exited, and its status is lost: %w", err)
	}
	w.sayExited(g, exit)
	g.exit, g.proof = &exit, proof
	if exit.Signal == unix.SIGKILL && !g.asked {
		// So the kernel ends what is in a PID namespace whose init has exited; and that exit is complete, and seen, only now
		// that the gateway is reaped.
		select {
		case <-w.alive.Done():
			return ctxError(w.alive, stage, "the gateway was killed with its container")
		case <-time.After(initEnds):
		}
	}
	if stage == code.StageSettle {
		return code.Errorf(code.LaunchFailed, stage, "the gateway was ready, and ended within ready.settle (%v): %s%s", g.profile.Ready.Settle, exit, w.whyEnded(g, exit))
	}
	return code.Errorf(code.LaunchFailed, stage, "the gateway ended before it was ready (%s%s)", exit, w.whyEnded(g, exit))
}

func millis(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}
