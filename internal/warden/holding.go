package warden

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/held"
	"github.com/gatewarden/gatewarden/internal/intercept"
	"github.com/gatewarden/gatewarden/internal/launch"
	"github.com/gatewarden/gatewarden/internal/listener"
	"github.com/gatewarden/gatewarden/internal/mount"
	"github.com/gatewarden/gatewarden/internal/posture"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// holdSockets sees to it that there is a held socket for each listener of p that wants one. One that a lost warden has left open
// in the gateway, in a standby or in what descends from them is taken back; the others are made.
//
// An error wraps EADDRINUSE if somebody else has the address.
func (w *Warden) holdSockets(p *profile.Profile) error {
	for _, l := range p.Listen {
		if !l.Held() {
			continue
		}
		if s := w.heldOn(l.Address); s != nil {
			if s.Listen.Options.V6Only != l.Options.V6Only {
				return fmt.Errorf("cannot change v6only of the socket that is held on %s: recreate the container", l.Address)
			}
			if w.gateway != nil || w.reachable(s) {
				s.Listen = l
				continue
			}
			// Somebody has removed or replaced the file of a unix socket. Nobody can connect to it any more, and it cannot get
			// another file: a new one takes its place.
			w.log.Warn("the socket's file is not there any more; it is made again", "listener", l.Name)
			w.letGo(s)
		}
		s, err := w.takeBack(p, l)
		if err == nil && s == nil {
			err = w.guards[l.Address.AddrPort.Port()].Yield(func() error {
				s, err = w.makeHeld(p, l)
				return err
			})
		}
		if err != nil {
			return err
		}
		w.held = append(w.held, s)
	}
	return w.guardPorts(p)
}

// reachable tells whether clients still find a socket: the file of a unix socket can be removed or replaced.
func (w *Warden) reachable(s *held.Socket) bool {
	if _, abstract := s.Listen.Address.Abstract(); s.Listen.Address.Network != "unix" || abstract {
		return true
	}
	found, err := w.sockets.Find(s.Listen.Address, int(w.inside(nil).Dir().Fd()))
	return err != nil || slices.ContainsFunc(found, func(f listener.Socket) bool { return f.Exact && f.Inode == s.Inode })
}

func (w *Warden) letGo(s *held.Socket) {
	w.held = slices.DeleteFunc(w.held, func(h *held.Socket) bool { return h == s })
	s.Close()
}

func (w *Warden) makeHeld(p *profile.Profile, l profile.Listen) (*held.Socket, error) {
	root, err := w.root()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	host, err := posture.Host(p, w.maps)
	if err != nil {
		return nil, err
	}
	return held.Open(w.net, root, held.Owner{UID: host.UID, GID: host.GID}, l)
}

// guardPorts keeps the ports of held listeners from everybody else, but for those where the gateway binds another address
// itself: whoever can do that, others can.
func (w *Warden) guardPorts(p *profile.Profile) error {
	wanted := map[uint16]bool{}
	for _, s := range w.held {
		wanted[s.Listen.Address.AddrPort.Port()] = true
	}
	for _, l := range p.Listen {
		if !l.Held() {
			delete(wanted, l.Address.AddrPort.Port())
		}
	}
	delete(wanted, 0) // unix sockets
	for port, g := range w.guards {
		if !wanted[port] {
			delete(w.guards, port)
			g.Close()
		}
	}
	for port := range wanted {
		if w.guards[port] != nil {
			continue
		}
		g, err := held.NewGuard(w.net, port)
		if err != nil {
			return err
		}
		w.guards[port] = g
	}
	for _, s := range w.held {
		s.GuardedBy(w.guards[s.Listen.Address.AddrPort.Port()])
	}
	return nil
}

// takeBack gives the socket that listens on l's address if a process under the gateway's UID has it open, else nil. The
// kernel tells which socket that is, so nothing that was written down has to be believed.
//
// What a running gateway has made itself it has made its own way, and may end with it: the file of a unix socket, say.
func (w *Warden) takeBack(p *profile.Profile, l profile.Listen) (*held.Socket, error) {
	if g := w.gateway; g != nil && !slices.ContainsFunc(g.profile.Listen, func(of profile.Listen) bool { return of.Held() && of.Address == l.Address }) {
		return nil, nil
	}
	sockets, err := w.sockets.Find(l.Address, int(w.inside(nil).Dir().Fd()))
	if err != nil || len(sockets) == 0 {
		return nil, err
	}
	all, err := w.membersOf(w.uidOf(p), strangers{})
	if err != nil {
		return nil, err
	}
	var found *held.Socket
	for _, proc := range all {
		for _, s := range sockets {
			if found == nil && s.Exact && s.Inode != 0 {
				found, _ = held.From(proc, s.Inode, carrierOf(p), l) // one that doesn't have it is no error
			}
		}
		proc.Close()
	}
	return found, nil
}

// carrierOf is the number of the gateway's descriptor of its carrier: it comes after the sockets that it inherits.
func carrierOf(p *profile.Profile) int {
	n := launch.FirstSocket
	for _, l := range p.Listen {
		if l.Mode == profile.ModeInherit {
			n++
		}
	}
	return n
}

// root opens the container's root directory. In the createRuntime hook the init has not entered it yet.
func (w *Warden) root() (*os.File, error) {
	root, err := w.inside(nil).OpenRoot()
	if err != nil {
		return nil, err
	}
	var inits, ours unix.Stat_t
	if err := errors.Join(unix.Fstat(int(root.Fd()), &inits), unix.Stat("/", &ours)); err != nil {
		root.Close()
		return nil, fmt.Errorf("cannot tell whether the container's init is in its root already: %w", err)
	}
	if inits.Dev == ours.Dev && inits.Ino == ours.Ino {
		root.Close()
		return mount.OpenRootfs(w.init, w.rec.Rootfs)
	}
	return root, nil
}

func (w *Warden) heldOn(a profile.Address) *held.Socket {
	for _, s := range w.held {
		if s.Listen.Address == a {
			return s
		}
	}
	return nil
}

// holds tells whether a socket is one of the held ones.
func (w *Warden) holds(inode uint64) bool {
	return slices.ContainsFunc(w.held, func(s *held.Socket) bool { return s.Inode == inode })
}

// heldBy gives the sockets for p's listeners of that mode, in their order.
func (w *Warden) heldBy(p *profile.Profile, mode string) []*held.Socket {
	var list []*held.Socket
	for _, l := range p.Listen {
		if s := w.heldOn(l.Address); l.Mode == mode && s != nil {
			list = append(list, s)
		}
	}
	return list
}

// keepHeld is preflight's part: the sockets that p wants and that can be had now. An address that the old gateway has bound
// by itself comes free when it is gone.
func (w *Warden) keepHeld(p *profile.Profile) error {
	err := w.holdSockets(p)
	switch {
	case err == nil || errors.Is(err, unix.EADDRINUSE) && w.gateway != nil:
		return nil
	case errors.Is(err, unix.EADDRINUSE):
		return code.Errorf(code.ListenerContested, code.StagePreflight, "%w", err)
	}
	return code.Errorf(code.PreflightFailed, code.StagePreflight, "%w", err)
}

// readyHeld prepares p's sockets for the next gateway, once the one before is gone.
func (w *Warden) readyHeld(p *profile.Profile) error {
	w.dropHeld(p) // an address that p leaves to the gateway has to be free for it
	err := w.holdSockets(p)
	for _, s := range w.held {
		if err == nil {
			err = s.Ready()
		}
	}
	if err != nil {
		return code.Errorf(code.LaunchFailed, code.StageAbsence, "%w", err)
	}
	return nil
}

// dropHeld makes p the profile that the sockets are held for: those that it doesn't have are let go of.
func (w *Warden) dropHeld(p *profile.Profile) {
	for _, s := range slices.Clone(w.held) {
		i := slices.IndexFunc(p.Listen, func(l profile.Listen) bool { return l.Held() && l.Address == s.Listen.Address })
		if i < 0 {
			w.letGo(s)
		} else {
			s.Listen = p.Listen[i] // another may have been tried
		}
	}
	if err := w.guardPorts(p); err != nil {
		w.log.Error("cannot guard the ports", "err", err)
	}
}

// allHeld are all held sockets and their guards.
func (w *Warden) allHeld() []*os.File {
	all := files(w.held)
	for _, g := range w.guards {
		all = append(all, g.File())
	}
	return all
}

// copyHeld gives descriptors of their own of all held sockets and their guards.
func (w *Warden) copyHeld() ([]*os.File, error) {
	var list []*os.File
	for _, f := range w.allHeld() {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeAll(list)
			return nil, fmt.Errorf("cannot copy the socket of %s: %w", f.Name(), os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err))
		}
		list = append(list, os.NewFile(uintptr(fd), f.Name()))
	}
	return list, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func files(sockets []*held.Socket) []*os.File {
	var list []*os.File
	for _, s := range sockets {
		list = append(list, s.File())
	}
	return list
}

// listenEnv tells a gateway of the sockets that it inherits (sd_listen_fds(3)). NSPID is its number as it sees it.
func listenEnv(proc *process.Process, nspid int, sockets []*held.Socket) []string {
	if len(sockets) == 0 {
		return nil
	}
	env := []string{
		"LISTEN_PID=" + strconv.Itoa(nspid),
		"LISTEN_FDS=" + strconv.Itoa(len(sockets)),
		"LISTEN_FDNAMES=" + held.Names(sockets),
	}
	if id, ok := proc.PidfdID(); ok {
		env = append(env, "LISTEN_PIDFDID="+strconv.FormatUint(id, 10))
	}
	return env
}

// answerBinds begins to put held sockets in the place of the gateway's own. Notify is nil if it has none of those.
func (w *Warden) answerBinds(g *gateway, notify *os.File, sockets []*held.Socket) {
	if notify == nil {
		return
	}
	failpoint.Hit(w.dir, "bind")
	var err error
	if g.binds, err = intercept.Start(notify, sockets, w.log); err != nil {
		w.log.Error("the gateway's binds are not answered", "pid", g.info.PID, "err", err)
	}
}

// answerBindsAgain goes on where a lost warden has stopped. The gateway has kept the descriptor for it; a bind that nobody
// answered meanwhile waits still.
func (w *Warden) answerBindsAgain(g *gateway) {
	sockets := w.heldBy(g.profile, profile.ModeTransparent)
	if len(sockets) == 0 {
		return
	}
	notify, err := g.proc.Copy("anon_inode:seccomp notify")
	if err != nil {
		// A gateway that has closed what it doesn't know. What it has bound stays; another bind fails with ENOSYS.
		w.log.Warn("the gateway's further binds cannot be answered: they fail until it is restarted", "pid", g.info.PID, "err", err)
		return
	}
	w.answerBinds(g, notify, sockets)
}

// withFindings adds to why a gateway is not ready what it has asked for in vain.
func (g *gateway) withFindings(err error) error {
	found := g.binds.Findings()
	if e, ok := errors.AsType[*code.Error](err); ok && found != "" {
		return code.Errorf(e.Code, e.Stage, "%w; %s", e, found)
	}
	return err
}

// outage says what clients of held listeners get from now on: they queue, unless nothing is going to answer and the profile
// says that they are to be told.
func (w *Warden) outage(on bool) {
	for _, s := range w.held {
		var err error
		if w.gateway == nil {
			err = s.Ready() // the queue is as long as declared, whatever the last gateway has made of it
		}
		if err := errors.Join(err, s.Refuse(on && s.Listen.Outage == profile.OutageReset)); err != nil {
			w.log.Error("the clients of a gateway that does not run do not get what is declared", "listener", s.Listen.Name, "err", err)
		}
	}
}
