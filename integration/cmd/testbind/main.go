// Command testbind is a server by bare system calls, which does around bind(2) what programs do there. It answers
// {"pid":…} to whoever connects.
//
//	testbind [flags] HOST:PORT
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testbind:", err)
		os.Exit(1)
	}
}

func run() error {
	nonblock := flag.Bool("nonblock", false, "the socket has O_NONBLOCK")
	cloexec := flag.Bool("cloexec", false, "the socket has FD_CLOEXEC")
	late := flag.Bool("late", false, "both are set after bind, by fcntl")
	at := flag.Int("at", 0, "the socket is moved to this descriptor before bind")
	reuse := flag.Bool("reuseport", false, "the socket has SO_REUSEPORT")
	share := flag.Bool("share", false, "the socket gets SO_REUSEPORT after bind")
	unlistened := flag.Bool("once-unlistened", false, "a first socket is bound to the address and closed before")
	twice := flag.Bool("twice", false, "a second socket is bound to the address, and listens")
	flag.Parse()
	if flag.NArg() != 1 {
		return errors.New("usage: testbind [flags] HOST:PORT")
	}
	address, err := netip.ParseAddrPort(flag.Arg(0))
	if err != nil {
		return err
	}
	flags := 0
	if *nonblock && !*late {
		flags |= unix.SOCK_NONBLOCK
	}
	if *cloexec && !*late {
		flags |= unix.SOCK_CLOEXEC
	}
	if *unlistened {
		fd, err := bind(address, flags, 0, *reuse)
		if err != nil {
			return fmt.Errorf("the first bind: %w", err)
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	fd, err := bind(address, flags, *at, *reuse)
	if err != nil {
		return err
	}
	if *late {
		if err := unix.SetNonblock(fd, *nonblock); err != nil {
			return err
		}
		if *cloexec {
			unix.CloseOnExec(fd)
		}
	}
	if *share {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("SO_REUSEPORT: %w", err)
		}
	}
	if err := unix.Listen(fd, 128); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if *twice {
		second, err := bind(address, 0, 0, *reuse)
		if err != nil {
			return fmt.Errorf("the second bind: %w", err)
		}
		if err := unix.Listen(second, 128); err != nil {
			return fmt.Errorf("the second listen: %w", err)
		}
	}
	return serve(fd)
}

// bind makes a socket with these flags of socket(2), at a descriptor if it is not 0, and binds it.
func bind(address netip.AddrPort, flags, at int, reuse bool) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|flags, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if at != 0 {
		old := fd
		if err := unix.Dup3(old, at, flags&unix.SOCK_CLOEXEC); err != nil {
			return -1, fmt.Errorf("dup3 to %d: %w", at, err)
		}
		unix.Close(old)
		fd = at
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	if reuse {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return -1, fmt.Errorf("SO_REUSEPORT: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", address, err)
	}
	return fd, nil
}

// serve answers one connection after the other, whether the socket blocks or not.
func serve(fd int) error {
	body := fmt.Sprintf("{\"pid\":%d}\n", os.Getpid())
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	for {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go reply(conn, answer)
	}
}

// reply reads what a client asks, and says always the same.
func reply(conn int, answer []byte) {
	defer unix.Close(conn)
	patience := unix.NsecToTimeval(int64(2 * time.Second))
	if err := unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return
	}
	var request [4096]byte
	// With a timeout a read is not restarted after a signal (signal(7)), and the Go runtime sends some to its own threads.
	n, err := unix.Read(conn, request[:])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(conn, request[:])
	}
	if n <= 0 || err != nil {
		return
	}
	// A client that is gone is no error of ours.
	_, _ = unix.Write(conn, answer)
}
