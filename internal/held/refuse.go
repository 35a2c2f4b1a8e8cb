package held

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// refusal disconnects the clients of one socket.
type refusal struct {
	file  *os.File // a descriptor of its own, for the runtime's poller
	ended chan struct{}
}

// Refuse begins or ends to disconnect every client of the socket, those that wait in its queue too, with a reset. It costs
// nothing while nobody connects. Nobody else may accept from the socket at the time.
func (s *Socket) Refuse(on bool) error {
	if on == (s.refusing != nil) {
		return nil
	}
	if !on {
		s.refusing.file.Close()
		<-s.refusing.ended
		s.refusing = nil
		return nil
	}
	fd, err := unix.FcntlInt(s.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	if err := errors.Join(unix.SetNonblock(fd, true), s.listen()); err != nil {
		unix.Close(fd)
		return err
	}
	s.refusing = &refusal{file: os.NewFile(uintptr(fd), s.file.Name()), ended: make(chan struct{})}
	go s.refusing.run()
	return nil
}

// acceptPause is how long run waits after an accept that failed for want of descriptors or memory.
const acceptPause = time.Second

func (r *refusal) run() {
	defer close(r.ended)
	raw, err := r.file.SyscallConn()
	for err == nil {
		var aerr error
		err = raw.Read(func(fd uintptr) bool {
			var client int
			if client, _, aerr = unix.Accept4(int(fd), unix.SOCK_CLOEXEC); aerr == nil {
				// Closing with a linger time of 0 sends a reset (socket(7)); on a unix socket it only closes.
				unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
				unix.Close(client)
			}
			return !errors.Is(aerr, unix.EAGAIN)
		})
		switch {
		case err != nil || aerr == nil, errors.Is(aerr, unix.ECONNABORTED), errors.Is(aerr, unix.EINTR):
		case errors.Is(aerr, unix.EINVAL):
			return // it does not listen any more: nobody can connect
		default:
			time.Sleep(acceptPause)
		}
	}
}
