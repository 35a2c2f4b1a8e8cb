// Package warden supervises the gateway of one container: it is its only parent and its only authority.
//
// One goroutine, run, owns everything that is true of the gateway: it alone starts, signals, reaps and proves. Requests
// come to it over a channel and wait their turn; each carries its own way back. What others may know at any time is a
// snapshot that run publishes. So there are no locks around the truth, and no two actions at a time.
//
// The files: warden.go sets up, runs and cleans up; serve.go answers clients; act.go is one action from its preflight
// to its receipt; receipts.go writes that down; overlap.go is one whose two gateways overlap; gateway.go is the
// gateway and the standby; members.go finds the container's processes; holding.go is the sockets that are held for it; proof.go is what is proven of them; policy.go decides what
// follows an unasked exit; forward.go looks from the host at what should reach it;
// limits.go tells when the container's own limits are the reason; memo.go and adopt.go are what a
// warden leaves to a successor and takes from one; place.go keeps the run directory; status.go is what the outside sees.
package warden

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/binary"
	"github.com/gatewarden/gatewarden/internal/cgroup"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/counters"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/gatewaylog"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/held"
	"github.com/gatewarden/gatewarden/internal/idmap"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/join"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/launch"
	"github.com/gatewarden/gatewarden/internal/listener"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/posture"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

const (
	// killGrace is how long a process may take to die of SIGKILL before it counts as stuck in the kernel (state D).
	killGrace = 5 * time.Second
	// joinTimeout bounds the making of one standby, from the join to its proof.
	joinTimeout = 20 * time.Second
	// queueLength bounds the requests that wait for their turn; the next one is told "busy".
	queueLength = 16
	// tidyDelay is how long after an action its memory is given back.
	tidyDelay = time.Second
)

// logLimits bound the gateway's log on the host: at most 4 × 8 MiB per container.
var logLimits = gatewaylog.Limits{MaxBytes: 8 << 20, MaxFiles: 4}

// Warden supervises one container's gateway.
type Warden struct {
	version        string
	dir            string // the container's run directory
	rec            install.Install
	writing        sync.Mutex // guards rec.Mounts, which run changes, and its file, which the keeper of the place writes too
	container      receipt.Container
	programs       binary.Container
	maps           idmap.Maps // of the container's user namespace
	beforeWorkload bool       // Task.Start waits for the first start
	self           string
	log            *slog.Logger
	stderr         io.Writer

	init     *process.Process
	pidns    process.File // the container's PID namespace
	group    cgroup.Group // the container's
	net      *os.File     // the container's network namespace
	sockets  *listener.Table
	launcher *os.File                    // the launcher's executable
	joiner   atomic.Pointer[join.Joiner] // started ahead of the first launcher; nil: none
	out      *gatewaylog.Writer
	key      ed25519.PrivateKey // that signs receipts; nil: they are not signed
	stdout   *os.File           // the gateway's ends of its FIFOs
	stderrF  *os.File
	pumps    []*gatewaylog.Pump
	held     []*held.Socket         // owned by run, once that runs
	guards   map[uint16]*held.Guard // of their ports

	clients  *net.UnixListener // until run begins
	place    *place
	requests chan *request
	joined   chan joined
	snapshot atomic.Pointer[published]
	ended    chan struct{} // closed when run serves no request any more
	watchers watchers
	first    firstStart
	memo     *memo.Memo    // what the warden before this one left; nil: there was none
	leaving  func()        // closes left
	left     chan struct{} // closed when the warden is to leave its place to a successor

	// Owned by run.
	store      *generation.Store
	config     generation.Record // its record
	declared   *profile.Profile  // as it was last read
	alive      context.Context   // ends, with errContainerGone, when the container's init has exited
	profile    *profile.Profile  // of the running gateway, or the last that was tried
	gateway    *gateway
	other      *gateway // beside it while restarts overlap: its successor until that is proven, then the one that it has replaced
	acting     *action  // in progress
	standby    *standby
	joining    bool
	status     receipt.Status // published as a copy
	counters   counters.Counters
	recent     recentRequests
	exits      []time.Time   // unasked exits within the window
	backoff    time.Duration // before the next start; 0 after a healthy time
	worked     []int         // the workload's processes after the last action, in ascending order
	lost       *receipt.Old  // the gateway that exited unasked and has no successor yet
	lostAt     time.Time
	took       time.Duration // from the last gateway's start to its proof; zero: not known
	word       *os.File      // the memo that we stand by; nil: none
	relock     *time.Timer   // runs out when what is unlocked has to be locked
	retry      *time.Timer
	standbyTry *time.Timer
	tidy       *time.Timer // runs out some time after the last action
	standbyLag time.Duration
	adrift     bool // the FIFOs that the gateway has are not in the run directory any more
}

// firstStart tells waiters of the first start's outcome.
type firstStart struct {
	once sync.Once
	done chan struct{}
	r    *receipt.Receipt
	fail bool // the profile wants the container to fail
}

func (f *firstStart) set(r *receipt.Receipt, fail bool) {
	f.once.Do(func() {
		f.r, f.fail = r, fail && r.Outcome != receipt.Replaced
		close(f.done)
	})
}

// errContainerGone ends everything: the container's init has exited.
var errContainerGone = errors.New("the container's init has exited")

// Main is `gatewarden-hook warden [DIR]`: it supervises the gateway installed in the run directory dir until the
// container's init has exited. Before that it writes one line to the hook's pipe. A dir of "" is that of a new container, which
// the hook will tell when it knows it.
func Main(dir, version string) int {
	// It does one thing at a time, and the runtime keeps memory for each processor that it may use.
	runtime.GOMAXPROCS(1)
	slowMonitor()
	handshake := os.NewFile(install.HandshakeFD, "handshake")
	unix.CloseOnExec(install.HandshakeFD)
	unix.CloseOnExec(install.LockFD)
	// The name that ps shows; it would be "exe", of /proc/self/exe.
	os.WriteFile("/proc/self/comm", []byte("gatewarden"), 0)
	log := &boundedLog{file: os.Stderr}
	var joiner *join.Joiner
	if dir == "" {
		// The first launcher's joiner starts beside the hook's work, and beside the rest of the runtime's create. If that fails, open
		// tries again, and there is a log by then.
		joiner, _ = join.Start(install.OwnProgram, log)
		var err error
		if dir, err = install.Entrusted(); err != nil {
			joiner.Close()
			// The end of the hook's word is that of a hook that needs no warden, or failed. Anything else was not started by a hook.
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "gatewarden-hook warden: nobody has given it a container:", err)
			}
			return 1
		}
	}
	w, err := open(dir, version, log, joiner)
	if err != nil {
		joiner.Close()
		fmt.Fprintf(handshake, "%s%v\n", install.HandshakeError, err)
		return 1
	}
	fmt.Fprintln(handshake, install.HandshakeOK)
	handshake.Close()
	w.run()
	return 0
}

// open takes hold of everything that the warden needs and that exists before the container's state does. The joiner, if there is one
// already, is the first launcher's.
func open(dir, version string, stderr io.Writer, joiner *join.Joiner) (w *Warden, err error) {
	rec, err := install.Read(dir)
	if err != nil {
		return nil, err
	}
	left := make(chan struct{})
	w = &Warden{
		version: version, dir: dir, rec: rec, container: rec.Container(), self: install.OwnProgram,
		log: slog.New(slog.NewTextHandler(stderr, nil)), stderr: stderr,
		requests: make(chan *request, queueLength), joined: make(chan joined, 1),
		first: firstStart{done: make(chan struct{})}, left: left, leaving: sync.OnceFunc(func() { close(left) }), ended: make(chan struct{}),
		guards: map[uint16]*held.Guard{}, relock: stoppedTimer(), retry: stoppedTimer(), standbyTry: stoppedTimer(), tidy: stoppedTimer(),
	}
	made := w
	defer func() {
		if err != nil {
			made.close() // w is nil by then
		}
	}()
	w.readKey()
	if w.memo, err = memo.Read(dir); err != nil {
		// Another version's, or torn: without it the gateway can't be told from a leftover of its, and is replaced.
		w.log.Error("cannot read what the warden before this one left", "err", err)
	}
	if joiner == nil && w.memo == nil {
		if joiner, err = join.Start(w.self, w.stderr); err != nil {
			w.log.Error("cannot start the first joiner ahead of its time", "err", err)
		}
	}
	w.joiner.Store(joiner)
	if w.init, err = process.Open(rec.InitPID); err != nil {
		return nil, err
	}
	if w.init.Start() != rec.InitStart {
		return nil, fmt.Errorf("process %d started at %d is not the container's init, which started at %d", rec.InitPID, w.init.Start(), rec.InitStart)
	}
	if err := w.openStore(); err != nil {
		return nil, err
	}
	if w.memo != nil {
		w.profile = &w.memo.Profile
	} else {
		if w.config.Trying != 0 {
			w.forgetTried()
		}
		if w.profile, err = w.currentProfile(); err != nil {
			return nil, err
		}
	}
	w.declared = w.profile
	w.beforeWorkload = w.profile.Start.BeforeWorkload
	spec, err := oci.LoadProcess(rec.Bundle)
	if err != nil {
		return nil, err
	}
	// They are written once, before the container's init does anything (user_namespaces(7)).
	if w.maps, err = idmap.Of(w.init); err != nil {
		return nil, err
	}
	if _, err := posture.Host(w.profile, w.maps); err != nil {
		return nil, err
	}
	w.programs = binary.Container{Root: w.maps.UIDs.HostOrNone(0), RootWorkload: posture.OwnsRoot(spec, w.maps)}
	// The launchers that joiners leave behind become our children, and we their reaper.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot become a child subreaper: %w", err)
	}
	// Both are asked while it lives: of a dead init the kernel would tell the root cgroup, and no namespace at all.
	if w.pidns, err = w.init.PIDNamespace(); err != nil {
		return nil, err
	}
	members, err := w.init.Read("cgroup")
	if err != nil {
		return nil, err
	}
	if w.group, err = cgroup.Of(members); err != nil {
		return nil, err
	}
	if w.net, err = w.init.OpenNamespace("net"); err != nil {
		return nil, err
	}
	if w.sockets, err = listener.Open(w.net); err != nil {
		return nil, err
	}
	if w.launcher, err = launch.File(); err != nil {
		return nil, err
	}
	if err := w.openLogs(); err != nil {
		return nil, err
	}
	// Before the workload exists. A successor that can't have them yet goes on: it says so when it comes to need them.
	if err := w.holdSockets(w.profile); err != nil {
		if w.memo == nil {
			return nil, err
		}
		w.log.Error("cannot hold the listeners", "err", err)
	}
	if err := os.MkdirAll(rec.StateDir(), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a place for receipts: %w", err)
	}
	w.status = receipt.Status{
		Container: w.container, Gateway: rec.Profile, State: initial, Since: time.Now(),
		Warden: receipt.Warden{PID: os.Getpid(), Version: version}, Listeners: []receipt.Listener{},
	}
	if w.maps.Apart {
		w.status.UserNamespace = &receipt.UserNamespace{UIDs: rangesOf(w.maps.UIDs), GIDs: rangesOf(w.maps.GIDs)}
	}
	w.publish()
	// Clients may come as soon as the hook's handshake is done: the runtime's create ends with it.
	if w.clients, err = control.Listen(dir); err != nil {
		return nil, err
	}
	return w, nil
}

// rangesOf is how a status has a map of IDs.
func rangesOf(of idmap.Ranges) []receipt.IDRange {
	all := make([]receipt.IDRange, len(of))
	for i, r := range of {
		all[i] = receipt.IDRange(r)
	}
	return all
}

// openLogs makes the two FIFOs through which the gateway's output comes. The gateway's end is open for reading too, so
// that a write never fails because no reader is there: a gateway outlives its warden.
func (w *Warden) openLogs() (err error) {
	if w.out, err = gatewaylog.Open(filepath.Join(w.rec.LogDir(), gatewaylog.Name), logLimits); err != nil {
		return err
	}
	for _, f := range []struct {
		stream string
		end    **os.File
	}{{"stdout", &w.stdout}, {"stderr", &w.stderrF}} {
		path := filepath.Join(w.dir, f.stream+".fifo")
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot make the FIFO %s: %w", path, err)
		}
		// Two descriptions of one FIFO: ours must not block, the gateway's must.
		ours, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			ours.Close()
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		*f.end = os.NewFile(uintptr(fd), path)
		p, err := gatewaylog.Start(ours, f.stream, w.out)
		if err != nil {
			ours.Close()
			return err
		}
		w.pumps = append(w.pumps, p)
	}
	return nil
}

// run is the one goroutine that owns the truth. It returns when the container's init has exited and everything that the
// warden held is gone.
func (w *Warden) run() {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	w.alive = ctx
	go func() {
		<-w.init.Done()
		cancel(errContainerGone)
	}()
	var serving sync.WaitGroup
	defer serving.Wait()
	w.place = w.hold(w.clients)
	keeping, letGo := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { w.place.keep(keeping, &serving) })
	letGoOfPlace := func() {
		letGo()
		keeper.Wait()
	}
	defer letGoOfPlace()
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)
	w.keepUnlocked()
	if w.memo != nil {
		tell := w.lockFirst()
		failpoint.Hit(w.dir, "adopt")
		w.adopt(w.memo)
		w.memo = nil
		tell()
	} else {
		// A warden that was lost may have left a gateway and no memo that could be read: nothing tells what that process is.
		if err := w.endStrays(ctx, strangers{}); err != nil {
			w.log.Error("cannot clear up before the first start", "err", err)
		}
		w.spawnStandby(w.identityOf(w.profile))
		w.start(receipt.Start)
	}
	for ctx.Err() == nil {
		w.reapAdopted()
		select {
		case <-w.left:
			letGoOfPlace()
			w.leave()
			return
		case <-w.place.moved:
			w.adrift = true
			w.remember(w.gateway)
		case <-children: // for reapAdopted
		case <-ctx.Done():
		case r := <-w.requests:
			w.serveRequest(r)
		case <-w.gateway.done():
			w.gatewayExited()
		case <-w.relock.C:
			w.lockInTime()
		case <-w.retry.C:
			w.nextTry()
		case j := <-w.joined:
			w.standbyJoined(j)
			w.remember(w.gateway) // off every action's path, unlike within one
		case <-w.standby.done():
			w.standbyExited()
		case <-w.tidy.C:
			// A warden lives long and does little: what an action needed is not kept for the next one.
			giveBack()
		case <-w.standbyTry.C:
			w.spawnStandby(w.identityOf(w.profile))
		}
	}
	w.watchers.tellLate()
	close(w.ended)
	letGoOfPlace()
	w.cleanup()
}

// leave lets go of everything and touches nothing: the gateway goes on, and the successor finds it by the memo.
func (w *Warden) leave() {
	w.remember(w.gateway)
	w.watchers.tellLate()
	close(w.ended)
	if w.joining {
		w.standbyJoined(<-w.joined)
	}
	if len(w.held) == 0 {
		w.standby.end(w.log)
	} // else it keeps them until the successor has found them, which ends it then
	w.log.Info("left to a successor")
	w.close()
}

// reapAdopted collects what failed joins left behind: processes of runc's that became ours as the subreaper. As zombies
// in the container's PID namespace they would keep its init from exiting, and so the container for ever.
func (w *Warden) reapAdopted() {
	if w.joining {
		return // the joiner waits for its own children; they can't be told from those that we adopt
	}
	for process.ReapOther(func(pid int) bool {
		return w.gateway != nil && pid == w.gateway.proc.PID() || w.other != nil && pid == w.other.proc.PID() ||
			w.standby != nil && pid == w.standby.proc.PID()
	}) != 0 {
	}
}

// cleanup ends what is left when the container is gone. In a PID namespace of its own, the kernel has ended the gateway
// and the standby with the init; in the host's, nobody else would.
func (w *Warden) cleanup() {
	w.first.set(&receipt.Receipt{Outcome: receipt.Failed, Code: code.NotRunning, Message: w.object() + ": " + errContainerGone.Error()}, true)
	w.standby.end(w.log)
	if w.gateway != nil {
		w.gateway.asked = true
		if err := w.gateway.proc.Kill(); err != nil {
			w.log.Error("cannot end the gateway", "err", err)
		}
		if w.gateway.proc.AwaitFor(killGrace) {
			w.reaped()
		}
	}
	if w.joining {
		j := <-w.joined
		w.joining = false
		j.standby.end(w.log)
	}
	w.endStrays(context.Background(), strangers{})
	w.close()
	// The lock is ours until we exit: poststop, or the next container of that name, waits for it.
	if !w.place.locked() {
		return // it has been removed, or what is there is somebody else's
	}
	if err := install.RemoveRunDir(w.dir); err != nil {
		w.log.Error("cannot remove the run directory", "err", err)
	}
}

func (w *Warden) close() {
	w.joiner.Swap(nil).Close()
	for _, p := range w.pumps {
		p.Flush(100 * time.Millisecond)
		p.Close()
	}
	if w.out != nil {
		w.out.Close()
	}
	if w.gateway != nil {
		w.gateway.binds.Close()
	}
	for _, s := range w.held {
		s.Close()
	}
	for _, g := range w.guards {
		g.Close()
	}
	if w.sockets != nil {
		w.sockets.Close()
	}
	for _, f := range []*os.File{w.net, w.launcher, w.stdout, w.stderrF} {
		if f != nil {
			f.Close()
		}
	}
	if w.init != nil {
		w.init.Close()
	}
}

// object is how messages name what they are about.
func (w *Warden) object() string { return "gateway " + w.rec.Profile + " of " + w.container.String() }

func (w *Warden) journal() string { return filepath.Join(w.rec.StateDir(), journal.Name) }

// boundedLog is the warden's own log: it begins anew when it is full, since nobody rotates it.
type boundedLog struct {
	mu      sync.Mutex
	file    *os.File // opened with O_APPEND
	written int64
}

const maxLog = 1 << 20

func (l *boundedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.written += int64(len(p)); l.written > maxLog {
		l.written = int64(len(p))
		l.file.Truncate(0) // if that fails, the next lines are appended, which does no harm, and it is tried again
	}
	return l.file.Write(p)
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}
