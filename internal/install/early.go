package install

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Early is a warden that has begun together with the hook, and knows of no container yet: it starts as `gatewarden-hook warden`,
// with /dev/null for its standard files and as LockFD, and one end of a socket pair as HandshakeFD.
type Early struct {
	PID    int      // of a child that nobody has waited for
	Socket *os.File // the other end; non-blocking
}

// maxDir bounds the path of a run directory, in bytes (PATH_MAX).
const maxDir = 4096

// entrust gives the warden the container with that run directory, whose lock it is to hold, and the log for its standard error.
// From then on it is as if it had been started for that container.
func (e *Early) entrust(dir string, lock, log *os.File) (*starting, error) {
	pidfd, err := unix.PidfdOpen(e.PID, 0)
	if errors.Is(err, unix.ENOSYS) {
		pidfd, err = -1, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the warden has ended before it was needed: %w", os.NewSyscallError("pidfd_open", err))
	}
	s := &starting{word: e.Socket, pidfd: pidfd, wait: func() error {
		_, err := unix.Wait4(e.PID, nil, 0, nil)
		return err
	}}
	if err := e.send(dir+"\n", lock, log); err != nil {
		s.end()
		return nil, fmt.Errorf("cannot tell the warden its container: %w", err)
	}
	return s, nil
}

func (e *Early) send(line string, files ...*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	conn, err := e.Socket.SyscallConn()
	if err != nil {
		return err
	}
	// The socket is empty and has room for it.
	werr := conn.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte(line), unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return true
	})
	return errors.Join(werr, err)
}

// Entrusted waits until the hook has sent this process, an early warden, a container, and gives its run directory. Lock and log are in
// their places then. The error is io.EOF if the hook has ended, or found that it needs no warden.
func Entrusted() (dir string, err error) {
	buf, oob := make([]byte, maxDir+1), make([]byte, unix.CmsgSpace(2*4))
	n, oobn, flags, _, err := unix.Recvmsg(HandshakeFD, buf, oob, unix.MSG_CMSG_CLOEXEC)
	switch {
	case err != nil:
		return "", os.NewSyscallError("recvmsg", err)
	case n == 0:
		return "", io.EOF
	case flags&unix.MSG_CTRUNC != 0:
		return "", errors.New("the hook has sent more files than a lock and a log")
	}
	dir, whole := strings.CutSuffix(string(buf[:n]), "\n")
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 || !whole {
		return "", fmt.Errorf("the hook has sent %.200q and %d messages of files (%v)", buf[:n], len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 2 {
		return "", fmt.Errorf("the hook has sent %d files, not a lock and a log (%v)", len(fds), err)
	}
	for from, to := range map[int]struct{ fd, flags int }{fds[0]: {LockFD, unix.O_CLOEXEC}, fds[1]: {unix.Stderr, 0}} {
		if err := unix.Dup3(from, to.fd, to.flags); err != nil {
			return "", os.NewSyscallError("dup3", err)
		}
		unix.Close(from)
	}
	return dir, nil
}
