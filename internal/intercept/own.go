package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/process"
)

// ownSocket is the socket that a program made itself.
type ownSocket struct {
	file        *os.File // a copy: the same socket
	inode       uint64
	family      int
	flags       int // of the open file description: O_NONBLOCK
	closeOnExec bool
}

func (o *ownSocket) close() { o.file.Close() }

// openOwn copies descriptor number n of the process. Nil: it is no stream socket.
func openOwn(p *process.Process, n int) (_ *ownSocket, err error) {
	f, err := p.Descriptor(n)
	if errors.Is(err, unix.EBADF) {
		return nil, nil // the kernel says so too
	}
	if err != nil {
		return nil, err
	}
	o := &ownSocket{file: f}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	kind, kerr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if kerr != nil || kind != unix.SOCK_STREAM {
		f.Close()
		return nil, nil
	}
	o.inode = st.Ino
	if o.family, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return nil, os.NewSyscallError("getsockopt SO_DOMAIN", err)
	}
	if o.flags, err = unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil {
		return nil, os.NewSyscallError("fcntl F_GETFL", err)
	}
	// The flag is the descriptor's, not the socket's, and only the program's own table has it.
	info, err := p.Read("fdinfo/" + strconv.Itoa(n))
	if err != nil {
		return nil, err
	}
	flags, err := parseFdinfo(info)
	if err != nil {
		return nil, fmt.Errorf("cannot read the flags of descriptor %d of process %d: %w", n, p.PID(), err)
	}
	o.closeOnExec = flags&unix.O_CLOEXEC != 0
	return o, nil
}

// parseFdinfo reads the flags of proc_pid_fdinfo(5), an octal number.
func parseFdinfo(data []byte) (int, error) {
	for line := range bytes.Lines(data) {
		if value, ok := bytes.CutPrefix(line, []byte("flags:")); ok {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 8, 32)
			return int(n), err
		}
	}
	return 0, errors.New("no line with flags")
}

// carried are the options that accepted connections inherit and that programs set before bind. What the program has not
// set is left as the profile declares it.
var carried = [...]struct{ level, name int }{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	{unix.IPPROTO_TCP, unix.TCP_NODELAY},
	{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT},
}

// Of SO_BUF_LOCK (Linux 5.14): which buffer sizes were set by hand.
const (
	soBufLock      = 72
	sendBufferLock = 1
	recvBufferLock = 2
)

// carryOver gives the held socket what the program has set on its own.
func (o *ownSocket) carryOver(to int) error {
	flags, err := unix.FcntlInt(uintptr(to), unix.F_GETFL, 0)
	if err != nil {
		return os.NewSyscallError("fcntl F_GETFL", err)
	}
	const kept = unix.O_NONBLOCK | unix.O_ASYNC
	if want := flags&^kept | o.flags&kept; want != flags {
		if _, err := unix.FcntlInt(uintptr(to), unix.F_SETFL, want); err != nil {
			return os.NewSyscallError("fcntl F_SETFL", err)
		}
	}
	from := int(o.file.Fd())
	for _, c := range carried {
		// A protocol that has no such option has nothing to carry over.
		if v, err := unix.GetsockoptInt(from, c.level, c.name); err == nil && v != 0 {
			if err := unix.SetsockoptInt(to, c.level, c.name, v); err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
		}
	}
	locked, err := unix.GetsockoptInt(from, unix.SOL_SOCKET, soBufLock)
	if err != nil {
		return nil // an older kernel can't tell
	}
	for _, b := range []struct{ lock, name int }{{sendBufferLock, unix.SO_SNDBUF}, {recvBufferLock, unix.SO_RCVBUF}} {
		if locked&b.lock == 0 {
			continue
		}
		if v, err := unix.GetsockoptInt(from, unix.SOL_SOCKET, b.name); err == nil {
			unix.SetsockoptInt(to, unix.SOL_SOCKET, b.name, v/2) // what is read is twice what was set (socket(7))
		}
	}
	return nil
}

// threadGroup gives the process that a thread is of.
func threadGroup(tid int) (int, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if value, ok := bytes.CutPrefix(line, []byte("Tgid:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no Tgid", tid)
}
