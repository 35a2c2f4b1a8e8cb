// Package launch is the launch gate: it makes the launcher's file, speaks to a parked launcher, and gives it the order
// to become the gateway. The launcher itself is launcher/launcher.c, whose head tells what it is for.
package launch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of an order, the same as in launcher.c.
const (
	MaxBody    = 1 << 18 // bytes of all strings, their NULs included
	MaxStrings = 1024    // arguments, and as many environment strings
	MaxSockets = 66      // descriptors that are passed on: 64 listeners, their carrier, and the credentials
)

// FirstSocket is the gateway's descriptor of the first socket that is passed on (SD_LISTEN_FDS_START of sd_listen_fds(3)).
const FirstSocket = 3

const (
	magic      = 0x32574c47 // "GLW2", read as a little-endian number
	flagNotify = 1
	flagNoCore = 2
)

// Step is where a launcher is, or where it failed.
type Step uint32

// The steps of launcher.c.
const (
	Parked Step = iota
	ReadOrder
	ChangeDirectory
	PassSockets
	Filter
	CloseDescriptors
	LimitCore
	Exec
)

var steps = [...]string{"park", "read the order", "change to the working directory", "put the held sockets in their places",
	"install the filter for bind(2)", "close descriptors", "set the limit of core files", "exec"}

func (s Step) String() string {
	if int(s) < len(steps) {
		return steps[s]
	}
	return fmt.Sprintf("step %d", uint32(s))
}

// Failure is what a launcher says before it exits instead of becoming the gateway.
type Failure struct {
	Step  Step
	Errno unix.Errno
}

func (f *Failure) Error() string { return fmt.Sprintf("cannot %s: %v", f.Step, f.Errno) }

// Unwrap gives the error number.
func (f *Failure) Unwrap() error { return f.Errno }

// ErrGone says that the launcher has ended without an answer.
var ErrGone = errors.New("launcher is gone")

// File gives the launcher's executable as a sealed memfd: nobody can write to it any more, whoever opens it through
// /proc/PID/exe (CVE-2019-5736). Its mode lets the gateway's UID execute but not read it, which makes a parked launcher
// undumpable to other processes of that UID (ptrace(2), PTRACE_MODE_READ).
func File() (*os.File, error) {
	image, err := built.ReadFile("bin/launcher-" + runtime.GOARCH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this binary was built without the launcher for %s: build it with make", runtime.GOARCH)
	}
	if err != nil {
		return nil, err
	}
	fd, err := memfd()
	if err != nil {
		return nil, fmt.Errorf("cannot make a memfd for the launcher: %w", err)
	}
	f := os.NewFile(uintptr(fd), "launcher")
	err = func() error {
		if _, err := f.Write(image); err != nil {
			return err
		}
		if err := f.Chmod(0o511); err != nil {
			return err
		}
		_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
		return err
	}()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot prepare the launcher's memfd: %w", err)
	}
	return f, nil
}

// memfd asks for an executable memfd where the kernel knows the flag (Linux 6.3, where vm.memfd_noexec may require it).
func memfd() (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("gatewarden-launcher", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		return unix.MemfdCreate("gatewarden-launcher", flags)
	}
	return fd, err
}

// Gate is the warden's end of a launcher's control socket.
type Gate struct {
	conn *net.UnixConn
}

// NewGate makes the socket pair. The other end is for the launcher, as its descriptor 4; close it once it has it.
func NewGate() (*Gate, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a launcher's control socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "gate"), os.NewFile(uintptr(fds[1]), "launcher")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("cannot use a launcher's control socket: %w", err)
	}
	return &Gate{conn: conn.(*net.UnixConn)}, theirs, nil
}

// Close lets the launcher go: a parked one exits, unless it holds sockets.
func (g *Gate) Close() { g.conn.Close() }

// AwaitParked waits until the launcher says that it is parked.
func (g *Gate) AwaitParked(ctx context.Context) error {
	step, errno, _, err := g.answer(ctx)
	if err != nil {
		return err
	}
	if step != Parked || errno != 0 {
		return &Failure{Step: step, Errno: errno}
	}
	return nil
}

// Order says what a launcher becomes.
type Order struct {
	Exe *os.File // the gateway's binary, opened in the container's mount namespace
	Cwd string
	Arg []string // Arg[0] too
	Env []string
	// Sockets become the gateway's descriptors from FirstSocket on. What comes after the inherited ones need not be a socket.
	Sockets []*os.File
	// NoCore makes the gateway's RLIMIT_CORE 1, soft and hard: it leaves no core file. A hard limit of 0 stays.
	NoCore bool
	// Notify gives the gateway a seccomp filter that hands its bind(2) calls to the warden.
	Notify bool
}

// Release sends the order and waits until the launcher has become the gateway. A Failure says why it could not. With
// Order.Notify it gives the descriptor that answers the gateway's binds (seccomp_unotify(2)), which is the caller's to close.
func (g *Gate) Release(ctx context.Context, o Order) (notify *os.File, err error) {
	head, body, err := encode(o)
	if err != nil {
		return nil, err
	}
	defer clear(body) // the environment has secrets in it
	descriptors := []int{int(o.Exe.Fd())}
	for _, s := range o.Sockets {
		descriptors = append(descriptors, int(s.Fd()))
	}
	g.deadline(ctx)
	// Two writes: descriptors travel with the first byte of a message, and the launcher reads the header alone.
	if _, _, err := g.conn.WriteMsgUnix(head, unix.UnixRights(descriptors...), nil); err != nil {
		return nil, fmt.Errorf("cannot send the order to the launcher: %w", err)
	}
	if _, err := g.conn.Write(body); err != nil {
		return nil, fmt.Errorf("cannot send the order to the launcher: %w", err)
	}
	defer func() {
		if err != nil && notify != nil {
			notify.Close()
			notify = nil
		}
	}()
	for {
		step, errno, received, err := g.answer(ctx)
		switch {
		case errors.Is(err, ErrGone):
			// The end of the file: exec closed the launcher's end. That a launcher was killed looks the same; its pidfd tells.
			if o.Notify && notify == nil {
				return nil, errors.New("the launcher handed over no descriptor to answer the gateway's binds by")
			}
			return notify, nil
		case err != nil:
			return notify, err
		case step == Filter && errno == 0 && o.Notify && notify == nil && received != nil:
			notify = received
		default:
			if received != nil {
				received.Close()
			}
			return notify, &Failure{Step: step, Errno: errno}
		}
	}
}

func (g *Gate) deadline(ctx context.Context) {
	t, _ := ctx.Deadline() // the zero time means none
	g.conn.SetDeadline(t)
}

// answer reads one record, and the descriptor that came with it, if any.
func (g *Gate) answer(ctx context.Context) (step Step, errno unix.Errno, received *os.File, err error) {
	g.deadline(ctx)
	stop := context.AfterFunc(ctx, func() { g.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	defer func() {
		if err != nil && received != nil {
			received.Close()
			received = nil
		}
	}()
	var record [12]byte
	for have := 0; have < len(record); {
		var oob [64]byte
		n, oobn, _, _, err := g.conn.ReadMsgUnix(record[have:], oob[:])
		if f := descriptor(oob[:oobn]); f != nil {
			if received != nil {
				received.Close()
			}
			received = f
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		have += n
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return 0, 0, received, context.Cause(ctx)
		case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET):
			return 0, 0, received, ErrGone
		default:
			return 0, 0, received, fmt.Errorf("cannot read the launcher's answer: %w", err)
		}
	}
	step, errno, err = decode(record)
	return step, errno, received, err
}

// descriptor gives the one descriptor in the ancillary data, or nil. Of several, which no launcher sends, none is kept.
func descriptor(oob []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err == nil {
			fds = append(fds, got...)
		}
	}
	if len(fds) == 1 {
		return os.NewFile(uintptr(fds[0]), "seccomp notify")
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return nil
}

func decode(record [12]byte) (Step, unix.Errno, error) {
	n := func(i int) uint32 { return binary.NativeEndian.Uint32(record[4*i:]) }
	if n(0) != magic || n(1) > uint32(Exec) {
		return 0, 0, errors.New("what runs in the launcher's place does not speak as the launcher does")
	}
	return Step(n(1)), unix.Errno(n(2)), nil
}

func encode(o Order) (head, body []byte, err error) {
	if len(o.Arg) == 0 || len(o.Arg) > MaxStrings || len(o.Env) > MaxStrings {
		return nil, nil, fmt.Errorf("cannot launch with %d arguments and %d environment strings: at least 1 and at most %d of each",
			len(o.Arg), len(o.Env), MaxStrings)
	}
	if len(o.Sockets) > MaxSockets {
		return nil, nil, fmt.Errorf("cannot launch with %d sockets: at most %d", len(o.Sockets), MaxSockets)
	}
	size := len(o.Cwd) + 1
	for _, s := range slices.Concat(o.Arg, o.Env) {
		size += len(s) + 1
	}
	body = make([]byte, 0, size) // whole, so that no copy of a secret stays behind in a buffer that was outgrown
	add := func(s string) {
		for i := range len(s) {
			if s[i] == 0 && err == nil {
				// The text itself may be a secret.
				err = errors.New("cannot launch: an argument, the working directory or an environment string holds a NUL byte")
			}
		}
		body = append(append(body, s...), 0)
	}
	add(o.Cwd)
	for _, s := range o.Arg {
		add(s)
	}
	for _, s := range o.Env {
		add(s)
	}
	if err != nil {
		clear(body)
		return nil, nil, err
	}
	if len(body) > MaxBody {
		clear(body)
		return nil, nil, fmt.Errorf("cannot launch: arguments and environment take %d bytes, over %d", len(body), MaxBody)
	}
	var flags uint32
	if o.Notify {
		flags |= flagNotify
	}
	if o.NoCore {
		flags |= flagNoCore
	}
	for _, n := range []uint32{magic, uint32(len(body)), uint32(len(o.Arg)), uint32(len(o.Env)), uint32(len(o.Sockets)), flags} {
		head = binary.NativeEndian.AppendUint32(head, n)
	}
	return head, body, nil
}
