// Package held makes the listening sockets that the warden keeps for its gateway. Such a socket is there before the
// workload is, and as long as anybody has it open: clients queue in it while one gateway gives way to the next, and nobody
// else can take its address.
//
// A Guard beside the sockets of a TCP port keeps it from all others, even if a gateway shuts a socket down.
//
// What the processes share is one open file description: O_NONBLOCK and the socket's options are everybody's. Ready puts
// them back to what is declared, before each gateway.
package held

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// Socket is one held socket.
type Socket struct {
	Listen profile.Listen
	Inode  uint64

	file     *os.File
	guard    *Guard // of its port; nil: none
	refusing *refusal
}

// Owner is who owns the file of a unix socket: the gateway.
type Owner struct{ UID, GID uint32 }

// Open makes the socket for l and listens. Ns is the container's network namespace (an open /proc/PID/ns/net); root is its
// root directory (O_PATH will do), below which the paths of unix sockets are resolved, links included.
//
// The address need not be assigned yet (IP_FREEBIND): some runtimes set up the network after their createRuntime hooks.
// If somebody has the address the error is EADDRINUSE; the file of a unix socket that nobody listens on is replaced. The port
// must not be guarded, or the guard has to yield.
func Open(ns *os.File, root *os.File, owner Owner, l profile.Listen) (_ *Socket, err error) {
	fail := func(err error) (*Socket, error) { return nil, fmt.Errorf("cannot listen on %s: %w", l.Address, err) }
	family, address, err := sockaddr(l.Address)
	if err != nil {
		return fail(err)
	}
	fd := -1
	err = netns.Do(ns, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return fail(err)
	}
	s := &Socket{Listen: l, file: os.NewFile(uintptr(fd), l.Address.String())}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if _, abstract := l.Address.Abstract(); family == unix.AF_UNIX && !abstract {
		err = bindPath(fd, root, owner, l)
	} else {
		err = bind(fd, family, address, l)
	}
	if err != nil {
		return fail(err)
	}
	if err := s.Ready(); err != nil {
		return nil, err
	}
	if s.Inode, err = inode(fd); err != nil {
		return fail(err)
	}
	return s, nil
}

// From gives a copy of the socket with that inode, which the process p has open, or has in the carrier that is its descriptor
// number carrier.
func From(p *process.Process, inode uint64, carrier int, l profile.Listen) (*Socket, error) {
	f, err := p.Copy(fmt.Sprintf("socket:[%d]", inode))
	if errors.Is(err, os.ErrNotExist) {
		if c, cerr := p.Descriptor(carrier); cerr == nil {
			if f = Carried(c, inode); f != nil {
				err = nil
			}
			c.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot take back the socket of %s: %w", l.Address, err)
	}
	return &Socket{Listen: l, Inode: inode, file: f}, nil
}

// GuardedBy says which guard has the socket's port.
func (s *Socket) GuardedBy(g *Guard) { s.guard = g }

// File is the socket, for others to inherit. It stays the Socket's.
func (s *Socket) File() *os.File { return s.file }

// Close lets go of the socket. Whoever has inherited it still has it.
func (s *Socket) Close() {
	s.Refuse(false)
	s.file.Close()
}

// Ready puts the socket into the state in which every gateway is to find it: with the declared options, listening, blocking or
// not as declared. Nobody but the warden may be using it. A socket that was shut down listens again.
func (s *Socket) Ready() error {
	s.Refuse(false)
	fd := int(s.file.Fd())
	for _, o := range options(s.Listen) {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("cannot set %s of the socket of %s: %w", o.text, s.Listen.Address, err)
		}
	}
	if err := unix.SetNonblock(fd, s.Listen.NonBlocking); err != nil {
		return fmt.Errorf("cannot set O_NONBLOCK of the socket of %s: %w", s.Listen.Address, err)
	}
	return s.listen()
}

func (s *Socket) listen() error {
	listen := func() error { return unix.Listen(int(s.file.Fd()), s.Listen.Backlog) }
	err := listen()
	if errors.Is(err, unix.EADDRINUSE) {
		// It was shut down, so that its address is looked at again, and the guard is in the way.
		err = s.guard.Yield(listen)
	}
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", s.Listen.Address, err)
	}
	return nil
}

// Waiting tells how many connections wait to be accepted: of a listener that is what the kernel tells as tcpi_unacked (tcp(7),
// TCP_INFO). Of unix sockets it does not tell that; they give 0.
func (s *Socket) Waiting() (int, error) {
	if s.Listen.Address.Network == "unix" {
		return 0, nil
	}
	info, err := unix.GetsockoptTCPInfo(int(s.file.Fd()), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, fmt.Errorf("cannot tell what waits on %s: %w", s.Listen.Address, os.NewSyscallError("getsockopt TCP_INFO", err))
	}
	return int(info.Unacked), nil
}

type option struct {
	level, name, value int
	text               string
}

// options are those that every held socket has, and those that l declares; what it doesn't is left as the kernel, or the gateway before, has it.
func options(l profile.Listen) []option {
	var list []option
	add := func(declared bool, level, name, value int, text string) {
		if declared {
			list = append(list, option{level, name, value, text})
		}
	}
	o := l.Options
	if l.Address.Network != "unix" {
		// The connections that it accepts have it from the listener, and must not keep it from listening again.
		add(true, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR")
		add(true, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0, "SO_REUSEPORT")
	}
	add(o.KeepAlive, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "SO_KEEPALIVE")
	add(o.NoDelay, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, "TCP_NODELAY")
	add(o.DeferAccept > 0, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, int(o.DeferAccept/time.Second), "TCP_DEFER_ACCEPT")
	add(o.ReceiveBuffer > 0, unix.SOL_SOCKET, unix.SO_RCVBUF, o.ReceiveBuffer, "SO_RCVBUF")
	add(o.SendBuffer > 0, unix.SOL_SOCKET, unix.SO_SNDBUF, o.SendBuffer, "SO_SNDBUF")
	return list
}

func sockaddr(a profile.Address) (family int, _ unix.Sockaddr, err error) {
	switch ip := a.AddrPort.Addr(); {
	case a.Network == "unix":
		// A leading "@" is an abstract name to x/sys, too.
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: a.Path}, nil
	case ip.Is4():
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.AddrPort.Port()), Addr: ip.As4()}, nil
	case ip.Is6():
		return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.AddrPort.Port()), Addr: ip.As16()}, nil
	}
	return 0, nil, errors.New("not an address to listen on")
}

func bind(fd, family int, address unix.Sockaddr, l profile.Listen) error {
	if family != unix.AF_UNIX {
		v6only := 0
		if l.Options.V6Only {
			v6only = 1
		}
		before := []option{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR"}, {unix.IPPROTO_IP, unix.IP_FREEBIND, 1, "IP_FREEBIND"}}
		if family == unix.AF_INET6 {
			before = append(before[:1], option{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1, "IPV6_FREEBIND"},
				option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6only, "IPV6_V6ONLY"})
		}
		for _, o := range before {
			if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
				return os.NewSyscallError("setsockopt "+o.text, err)
			}
		}
	}
	return os.NewSyscallError("bind", unix.Bind(fd, address))
}

// siocUnixFile opens the file that a unix socket is bound to, with O_PATH (SIOCUNIXFILE of <linux/un.h>, Linux 4.20).
const siocUnixFile = 0x89e0

// bindPath binds to a path of the container, so that the socket's name is that path.
//
// It works on a thread of its own whose root is the container's: links on the way lead where they do in the container, and
// nowhere else. The thread ends with it.
func bindPath(fd int, root *os.File, owner Owner, l profile.Listen) error {
	// The mode of the file comes from the socket's own, less the umask.
	if err := unix.Fchmod(fd, l.SocketMode); err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	err := inRoot(root, func() error {
		unix.Umask(0) // of this thread alone
		address := &unix.SockaddrUnix{Name: l.Address.Path}
		err := unix.Bind(fd, address)
		if errors.Is(err, unix.EADDRINUSE) && abandonedSocket(address) {
			if err := unix.Unlink(l.Address.Path); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("cannot remove the socket that is there and that nobody listens on: %w", err)
			}
			err = unix.Bind(fd, address)
		}
		return os.NewSyscallError("bind", err)
	})
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("the directory %s is not in the container: %w", path.Dir(l.Address.Path), err)
	}
	if err != nil {
		return err
	}
	// By the socket, not by the path, where something else may be by now.
	file, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), siocUnixFile, 0)
	if errno != 0 {
		return os.NewSyscallError("ioctl SIOCUNIXFILE", errno)
	}
	defer unix.Close(int(file))
	return os.NewSyscallError("fchownat", unix.Fchownat(int(file), "", int(owner.UID), int(owner.GID), unix.AT_EMPTY_PATH))
}

// abandonedSocket tells whether a unix socket's file is there and nobody listens on it.
func abandonedSocket(address *unix.SockaddrUnix) bool {
	var st unix.Stat_t
	if unix.Lstat(address.Name, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return false
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(s)
	return errors.Is(unix.Connect(s, address), unix.ECONNREFUSED)
}

// inRoot runs f on a thread of its own whose root and working directory are dir. The thread ends with f.
func inRoot(dir *os.File, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			// The process's first thread does not end, and its root is shown as the process's. While it waits here, another
			// thread gets the work.
			defer runtime.UnlockOSThread()
			result <- inRoot(dir, f)
			return
		}
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return os.NewSyscallError("unshare CLONE_FS", err)
			}
			if err := unix.Fchdir(int(dir.Fd())); err != nil {
				return os.NewSyscallError("fchdir to the container's root", err)
			}
			if err := unix.Chroot("."); err != nil {
				return os.NewSyscallError("chroot to the container's root", err)
			}
			return f()
		}()
	}()
	return <-result
}

func inode(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return st.Ino, nil
}

// Names gives the names of the sockets for LISTEN_FDNAMES (sd_listen_fds_with_names(3)).
func Names(sockets []*Socket) string {
	names := make([]string, len(sockets))
	for i, s := range sockets {
		names[i] = s.Listen.Name
	}
	return strings.Join(names, ":")
}
