package held

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/netns"
)

// Guard keeps a TCP port of a network namespace from everybody else, whatever address they want to bind it with.
//
// A listener alone does not. Who has bound another address of its port under SO_REUSEPORT can bind an overlapping one next:
// the kernel compares that with the socket that it let in last, and not with the listener (sk_reuseport_match of
// net/ipv4/inet_connection_sock.c). And a listener that its gateway has shut down leaves the address to any other socket with
// SO_REUSEADDR, which it has to allow, or the connections that it has accepted would keep it from listening again.
//
// The guard is a socket that is bound to all addresses of the port, forbids both kinds of reuse, and never listens. It is not in
// the way of the sockets that were bound before it, and no connection ever sees it.
type Guard struct {
	file *os.File
}

// NewGuard takes the port in the network namespace ns. Sockets that are bound to it already stay.
func NewGuard(ns *os.File, port uint16) (_ *Guard, err error) {
	fd := -1
	err = netns.Do(ns, func() error {
		var err error
		var all unix.Sockaddr = &unix.SockaddrInet6{Port: int(port)}
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6
			all = &unix.SockaddrInet4{Port: int(port)}
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		}
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if _, v6 := all.(*unix.SockaddrInet6); v6 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
				return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
			}
		}
		// In repair mode a bind takes what it is told, whoever else has it (CAP_NET_ADMIN; SK_FORCE_REUSE). To leave that mode
		// forbids the reuse of the address.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			return os.NewSyscallError("setsockopt TCP_REPAIR", err)
		}
		if err := unix.Bind(fd, all); err != nil {
			return os.NewSyscallError("bind", err)
		}
		return os.NewSyscallError("setsockopt TCP_REPAIR", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 0))
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("cannot keep port %d for the gateway: %w", port, err)
	}
	return &Guard{file: os.NewFile(uintptr(fd), fmt.Sprintf("guard of port %d", port))}, nil
}

// File is the guard's socket: it guards for as long as anybody has it open. It stays the Guard's.
func (g *Guard) File() *os.File { return g.file }

// Close lets go of the guard.
func (g *Guard) Close() { g.file.Close() }

// Yield calls f, which may bind to the guarded port, or listen on it, with SO_REUSEADDR. So could others, but they could not
// listen later. A nil Guard is in nobody's way.
func (g *Guard) Yield(f func() error) error {
	if g == nil {
		return f()
	}
	fd := int(g.file.Fd())
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
	}
	err := f()
	return errors.Join(err, os.NewSyscallError("setsockopt SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)))
}
