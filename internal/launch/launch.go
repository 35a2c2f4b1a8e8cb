// Package launch is the launch gate: it makes the launcher's file, speaks to a parked launcher, and gives it the order
// to become the gateway. The launcher itself is launcher/launcher.c, whose head tells what it is for.
package launch

import (
	"context"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The launcher is compiled by the Makefile before the Go build.
//
//go:embed all:bin
var built embed.FS

// Bounds of an order, the same as in launcher.c.
const (
	MaxBody    = 1 << 18 // bytes of all strings, their NULs included
	MaxStrings = 1024    // arguments, and as many environment strings
)

const magic = 0x31574c47 // "GLW1", read as a little-endian number

// Step is where a launcher is, or where it failed.
type Step uint32

// The steps of launcher.c.
const (
	Parked Step = iota
	ReadOrder
	ChangeDirectory
	CloseDescriptors
	Exec
)

var steps = [...]string{"park", "read the order", "change to the working directory", "close descriptors", "exec"}

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

// Close lets the launcher go: a parked one exits.
func (g *Gate) Close() { g.conn.Close() }

// AwaitParked waits until the launcher says that it is parked.
func (g *Gate) AwaitParked(ctx context.Context) error {
	step, errno, err := g.answer(ctx)
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
}

// Release sends the order and waits until the launcher has become the gateway. A Failure says why it could not.
func (g *Gate) Release(ctx context.Context, o Order) error {
	head, body, err := encode(o)
	if err != nil {
		return err
	}
	g.deadline(ctx)
	// Two writes: descriptors travel with the first byte of a message, and the launcher reads the header alone.
	if _, _, err := g.conn.WriteMsgUnix(head, unix.UnixRights(int(o.Exe.Fd())), nil); err != nil {
		return fmt.Errorf("cannot send the order to the launcher: %w", err)
	}
	if _, err := g.conn.Write(body); err != nil {
		return fmt.Errorf("cannot send the order to the launcher: %w", err)
	}
	step, errno, err := g.answer(ctx)
	switch {
	case errors.Is(err, ErrGone):
		// The end of the file: exec closed the launcher's end. That a launcher was killed looks the same; its pidfd tells.
		return nil
	case err != nil:
		return err
	}
	return &Failure{Step: step, Errno: errno}
}

func (g *Gate) deadline(ctx context.Context) {
	t, _ := ctx.Deadline() // the zero time means none
	g.conn.SetDeadline(t)
}

func (g *Gate) answer(ctx context.Context) (Step, unix.Errno, error) {
	g.deadline(ctx)
	stop := context.AfterFunc(ctx, func() { g.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var record [12]byte
	if _, err := io.ReadFull(g.conn, record[:]); err != nil {
		if ctx.Err() != nil {
			return 0, 0, context.Cause(ctx)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
			return 0, 0, ErrGone
		}
		return 0, 0, fmt.Errorf("cannot read the launcher's answer: %w", err)
	}
	return decode(record)
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
		return nil, nil, err
	}
	if len(body) > MaxBody {
		return nil, nil, fmt.Errorf("cannot launch: arguments and environment take %d bytes, over %d", len(body), MaxBody)
	}
	for _, n := range []uint32{magic, uint32(len(body)), uint32(len(o.Arg)), uint32(len(o.Env))} {
		head = binary.NativeEndian.AppendUint32(head, n)
	}
	return head, body, nil
}
