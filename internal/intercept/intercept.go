// Package intercept answers the bind(2) calls of a gateway that knows nothing of held sockets: a bind to a declared address
// puts the held socket in the place of the program's own, under the same number, and succeeds. Every other bind goes to the
// kernel untouched. Nothing else of the program is intercepted, so that it costs one exchange per bind and nothing after.
//
// The kernel's part is seccomp_unotify(2): the launcher installs the filter, which the gateway's children inherit, and hands
// over the descriptor that is read and answered here. SECCOMP_IOCTL_NOTIF_ADDFD came with Linux 5.9.
//
// This is no security boundary and needs none: the gateway is trusted, and what is let through is judged by the kernel
// again. Seccomp_unotify(2) warns of those who rely on more.
package intercept

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/held"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// Interceptor answers one gateway's binds.
type Interceptor struct {
	notify  *os.File
	sockets []target
	log     *slog.Logger
	ended   chan struct{}
	taken   chan struct{} // a held socket has been put in the place of another

	mu      sync.Mutex
	strange []string // what was asked for and is not what is declared; the first few
}

// target is a held socket as its listener was declared when the gateway was started.
type target struct {
	listen profile.Listen
	inode  uint64
	file   *os.File
}

// maxStrange bounds what is kept for Findings.
const maxStrange = 4

// Start answers the binds that come over notify, which is closed by Close, until the last process with the filter has
// ended. Sockets are those that take the place of others; they stay the caller's, who closes them after Close.
func Start(notify *os.File, sockets []*held.Socket, log *slog.Logger) (*Interceptor, error) {
	// A file of ours that the runtime's poller watches.
	fd, err := unix.FcntlInt(notify.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	notify.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot watch for the gateway's binds: %w", err)
	}
	i := &Interceptor{notify: os.NewFile(uintptr(fd), "seccomp notify"), log: log, ended: make(chan struct{}), taken: make(chan struct{}, 1)}
	for _, s := range sockets {
		i.sockets = append(i.sockets, target{s.Listen, s.Inode, s.File()})
	}
	go i.run()
	return i, nil
}

// Close stops answering. A bind that waits goes on waiting if somebody else has the descriptor, and fails with ENOSYS if not.
// A nil Interceptor is closed.
func (i *Interceptor) Close() {
	if i == nil {
		return
	}
	i.notify.Close()
	<-i.ended
}

// Taken gets a value when the gateway has got a held socket, so that nobody has to look again and again whether it has. A nil
// Interceptor never sends one.
func (i *Interceptor) Taken() <-chan struct{} {
	if i == nil {
		return nil
	}
	return i.taken
}

// Findings says, for people, what the gateway asked for and could not be given; empty: nothing. A nil Interceptor found nothing.
func (i *Interceptor) Findings() string {
	if i == nil {
		return ""
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return strings.Join(i.strange, "; ")
}

func (i *Interceptor) found(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	i.log.Warn("bind", "finding", text)
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, s := range i.strange {
		if s == text {
			return
		}
	}
	if len(i.strange) < maxStrange {
		i.strange = append(i.strange, text)
	}
}

// Structures of <linux/seccomp.h>.
type (
	notification struct {
		id    uint64
		pid   uint32 // the calling thread
		flags uint32
		nr    int32
		arch  uint32
		ip    uint64
		args  [6]uint64
	}
	response struct {
		id    uint64
		val   int64
		error int32
		flags uint32
	}
	addfd struct {
		id      uint64
		flags   uint32
		srcfd   uint32
		newfd   uint32
		newfdFl uint32
	}
)

// Requests that golang.org/x/sys/unix lacks: _IOW('!', 2, __u64) and _IOW('!', 3, struct seccomp_notif_addfd).
const (
	ioctlIDValid = 0x40082102
	ioctlAddFD   = 0x40182103
)

func (i *Interceptor) run() {
	defer close(i.ended)
	raw, err := i.notify.SyscallConn()
	for err == nil {
		var n notification
		var got, over bool
		err = raw.Read(func(fd uintptr) bool {
			// The request itself would wait in the kernel, out of the poller's sight.
			events, perr := poll(int(fd))
			switch {
			case perr != nil:
				over, err = true, perr
			case events&unix.POLLIN != 0:
				n = notification{}
				got = ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) == nil // ENOENT: the caller was killed
			case events&(unix.POLLHUP|unix.POLLERR) != 0:
				over = true // nobody has the filter any more
			default:
				return false
			}
			return true
		})
		if err != nil || over {
			return
		}
		if got {
			i.answer(raw, n)
		}
	}
}

func poll(fd int) (int16, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 0); !errors.Is(err, unix.EINTR) {
			return fds[0].Revents, err
		}
	}
}

func ioctl(fd uintptr, request uint, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(arg))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// control is what answer needs of the descriptor (syscall.RawConn).
type control interface {
	Control(f func(fd uintptr)) error
}

// answer decides one bind. Everything is read from the caller, which waits in the kernel; that it is still the same call is
// asked once all has been read (SECCOMP_IOCTL_NOTIF_ID_VALID), since its number could have become another process's.
func (i *Interceptor) answer(raw control, n notification) {
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	socket, own, err := i.match(n)
	if own != nil {
		defer own.close()
	}
	if err != nil {
		i.log.Warn("cannot tell what the gateway binds; the kernel decides", "thread", n.pid, "err", err)
	}
	raw.Control(func(fd uintptr) {
		if ioctl(fd, ioctlIDValid, unsafe.Pointer(&n.id)) != nil {
			return // it has been killed; nobody waits for an answer
		}
		if socket != nil && own.inode != socket.inode {
			if err := i.replace(fd, n, socket, own); errors.Is(err, unix.ENOENT) {
				return
			} else if err != nil {
				i.found("the held socket of %s could not be put in the place of the gateway's own: %v", socket.listen.Address, err)
				r = response{id: n.id, error: -int32(unix.EADDRINUSE)}
			}
		}
		if socket != nil && r.error == 0 {
			r = response{id: n.id}
		}
		if err := ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil && !errors.Is(err, unix.ENOENT) {
			i.log.Error("cannot answer the gateway's bind", "thread", n.pid, "err", err)
		}
		if socket != nil && r.error == 0 {
			select {
			case i.taken <- struct{}{}:
			default: // there is one that nobody has read yet
			}
		}
	})
}

// replace puts the held socket under the number of the program's own, as the program had set that up.
func (i *Interceptor) replace(fd uintptr, n notification, s *target, own *ownSocket) error {
	if err := own.carryOver(int(s.file.Fd())); err != nil {
		return err
	}
	a := addfd{id: n.id, flags: unix.SECCOMP_ADDFD_FLAG_SETFD, srcfd: uint32(s.file.Fd()), newfd: uint32(n.args[0])}
	if own.closeOnExec {
		a.newfdFl = unix.O_CLOEXEC
	}
	return ioctl(fd, ioctlAddFD, unsafe.Pointer(&a))
}

// match finds the held socket for a bind: nil if there is none.
func (i *Interceptor) match(n notification) (*target, *ownSocket, error) {
	length := n.args[2]
	if length < 2 || length > maxSockaddr {
		return nil, nil, nil // the kernel's own errors, or a family that is none of ours
	}
	var buf [maxSockaddr]byte
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(int(length))
	got, err := unix.ProcessVMReadv(int(n.pid), local, []unix.RemoteIovec{{Base: uintptr(n.args[1]), Len: int(length)}}, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the address: %w", os.NewSyscallError("process_vm_readv", err))
	}
	asked, ok := parseSockaddr(buf[:got])
	if !ok {
		return nil, nil, nil
	}
	var near *target
	var why string
	for k := range i.sockets {
		s := &i.sockets[k]
		switch compare(s.listen.Address, asked) {
		case same:
			own, err := i.own(n)
			if err != nil || own == nil {
				return nil, own, err
			}
			if own.inode != s.inode && own.family != asked.family {
				return nil, own, nil
			}
			return s, own, nil
		case competing:
			near, why = s, "the two can't be had at once, so make them equal"
		case beside:
			if near == nil {
				near, why = s, "the port is kept for what is declared, so declare both"
			}
		}
	}
	if near != nil {
		own, err := i.own(n)
		if err != nil || own == nil {
			return nil, own, err
		}
		own.close()
		i.found("the gateway binds %s, and %s (%s) is what the profile declares: %s",
			asked, near.listen.Address, near.listen.Name, why)
	}
	return nil, nil, nil
}

// own takes hold of the socket that the caller wants to bind. Nil: it is not one that could listen for streams.
func (i *Interceptor) own(n notification) (*ownSocket, error) {
	pid, err := threadGroup(int(n.pid))
	if err != nil {
		return nil, err
	}
	p, err := process.Open(pid)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return openOwn(p, int(int32(n.args[0])))
}
