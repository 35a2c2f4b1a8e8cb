// Package netns runs code, and makes connections, inside another network namespace.
//
// Only what creates a socket has to happen inside: a socket belongs for its whole life to the network namespace of the
// thread that created it (network_namespaces(7)), whoever uses it later.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Do calls fn on a thread that is inside the network namespace ns (an open /proc/PID/ns/net) and returns its error. An
// error from before fn ran says so by naming the namespace; fn has then not been called.
//
// A namespace belongs to a thread, while a goroutine may move between threads. So fn runs on a goroutine of its own that
// is locked to its thread. What fn starts with the go statement runs on other threads, outside ns: the Go runtime never
// clones a thread from a locked one.
//
// If the thread cannot be taken back to where it was, it must not serve other goroutines, whose sockets would silently
// land in the container. It is then left locked when its goroutine ends, which makes the runtime end the thread
// (runtime.LockOSThread). That costs a thread and nothing else, so what fn did stands and its result is returned
// unchanged. The same holds for a panic in fn and for runtime.Goexit.
func Do(ns *os.File, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := fmt.Errorf("cannot work in network namespace %s: the function called there did not return", ns.Name())
		defer func() { done <- err }()
		runtime.LockOSThread()
		home, herr := os.Open("/proc/thread-self/ns/net")
		if herr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("cannot open this thread's own network namespace, to come back to from %s: %w", ns.Name(), herr)
			return
		}
		defer home.Close()
		if serr := setns(ns); serr != nil {
			runtime.UnlockOSThread() // a setns that fails has changed nothing
			err = fmt.Errorf("cannot enter network namespace %s: %w", ns.Name(), serr)
			return
		}
		err = fn()
		if setns(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return <-done
}

// setns moves the calling thread. It goes through SyscallConn rather than Fd so that a concurrent Close cannot make the
// descriptor's number mean another file.
func setns(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return err
	}
	return serr
}

// Dial connects from inside ns to address, a literal "IP:port" (names are never resolved: the container's resolver is not
// authority), or "@" and the name of an abstract unix socket. Network is "tcp", "tcp4", "tcp6" or "unix". A unix socket whose
// queue is full gives EAGAIN at once (connect(2)). The thread is inside ns only while it creates the socket; the wait for
// the connection takes place outside and ends with ctx, whose error is then wrapped in the result.
func Dial(ctx context.Context, ns *os.File, network, address string) (net.Conn, error) {
	family, sockaddr, err := resolve(network, address)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s %q: %w", network, address, err)
	}
	fd := -1
	err = Do(ns, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s %s: %w", network, address, err)
	}
	f := os.NewFile(uintptr(fd), network+" "+address)
	defer f.Close() // FileConn duplicates it
	if err := connect(ctx, f, sockaddr); err != nil {
		return nil, fmt.Errorf("cannot connect to %s %s: %w", network, address, err)
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot use the connection to %s %s: %w", network, address, err)
	}
	return conn, nil
}

// resolve gives the socket family and address for address. Zones are refused: they name an interface of this namespace's
// caller, not of the container. So are the paths of unix sockets, which are no namespace's.
func resolve(network, address string) (int, unix.Sockaddr, error) {
	if network == "unix" {
		if len(address) < 2 || address[0] != '@' {
			return 0, nil, errors.New("not the name of an abstract socket")
		}
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: address}, nil
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return 0, nil, fmt.Errorf("not a literal IP:port: %w", err)
	}
	a := to.Addr()
	switch {
	case a.Zone() != "":
		return 0, nil, errors.New("an address with a zone cannot be used across network namespaces")
	case a.Is4() && (network == "tcp" || network == "tcp4"):
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: a.As4()}, nil
	case a.Is6() && (network == "tcp" || network == "tcp6"):
		return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: a.As16()}, nil
	}
	return 0, nil, errors.New("the network and the kind of address do not go together")
}

// connect waits until the non-blocking socket f is connected, refused, or ctx ends.
func connect(ctx context.Context, f *os.File, to unix.Sockaddr) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	started := false
	var cerr error
	err = raw.Write(func(fd uintptr) bool {
		// connect(2) once more tells how the first call went on: EALREADY while it is under way, EISCONN or 0 when it is
		// done, else its error. Unlike SO_ERROR it cannot take a spurious wake-up for success.
		cerr = unix.Connect(int(fd), to)
		if !started && errors.Is(cerr, unix.EINTR) {
			cerr = unix.EINPROGRESS // it goes on by itself (connect(2))
		}
		started = true
		if errors.Is(cerr, unix.EISCONN) {
			cerr = nil
		}
		return !errors.Is(cerr, unix.EINPROGRESS) && !errors.Is(cerr, unix.EALREADY)
	})
	if ctx.Err() != nil && (err != nil || cerr != nil) {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", cerr)
}
