package scrape

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/profile"
)

// Listen listens on unix:///PATH, tcp://127.0.0.1:PORT or tcp6://[::1]:PORT. What is served names every container of the host, so
// no address that others can reach is taken.
//
// A unix socket is root's alone (0600), or with a group from 0 on its too (0660). One that is left of a server that is gone is
// replaced.
func Listen(address string, group int) (net.Listener, error) {
	a, err := profile.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	if a.Network != "unix" {
		if !a.AddrPort.Addr().IsLoopback() {
			return nil, fmt.Errorf("%s is not a loopback address: metrics name every container and are not served to other hosts; write tcp://127.0.0.1:%d, or put a proxy that asks for a password before the unix socket",
				a.AddrPort.Addr(), a.AddrPort.Port())
		}
		return net.Listen("tcp", a.AddrPort.String())
	}
	if _, abstract := a.Abstract(); abstract {
		return nil, errors.New("an abstract unix socket has no permissions, so that anybody could connect; write unix:///PATH")
	}
	if err := clear(a.Path); err != nil {
		return nil, err
	}
	// The mode is there from the bind on: nobody connects in between. This is the whole process's, which does nothing else yet.
	before := unix.Umask(0o177)
	l, err := net.Listen("unix", a.Path)
	unix.Umask(before)
	if err != nil {
		return nil, err
	}
	if group >= 0 {
		if err := errors.Join(os.Chown(a.Path, -1, group), os.Chmod(a.Path, 0o660)); err != nil {
			l.Close()
			return nil, fmt.Errorf("cannot let group %d connect to %s: %w", group, a.Path, err)
		}
	}
	return l, nil
}

// clear removes a socket that nobody listens on any more.
func clear(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there and is no socket: remove it, or choose another path", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("somebody listens on %s already", path)
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("cannot tell whether somebody listens on %s: %w", path, err)
	}
	return os.Remove(path)
}

// ParseGroup reads the GID of a group, which is never looked up by its name.
func ParseGroup(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, errors.New("a group is given by its number (GID); getent group NAME tells it")
	}
	return int(n), nil
}
