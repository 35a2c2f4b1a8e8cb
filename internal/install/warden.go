package install

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Harden makes a fresh process fit to work for root with what it inherited from somebody else: no environment, working
// directory "/", descriptors beyond standard error closed on exec, no core dumps and no ptrace by others, umask 077. It
// belongs first in main.
func Harden() error {
	os.Clearenv()
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// Closed on exec instead of now: the Go runtime has descriptors of its own.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("cannot set close-on-exec on inherited descriptors (Linux 5.11 or later is needed): %w", os.NewSyscallError("close_range", err))
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_DUMPABLE", err)
	}
	unix.Umask(0o077)
	return nil
}

const (
	// handshakeTime is how long a warden may take to say that it supervises. It has nothing to wait for until then.
	handshakeTime = 10 * time.Second
	// maxHandshake bounds its line, in bytes.
	maxHandshake = 16 << 10
	// maxLog bounds what a warden that failed may have logged for the last of it to be passed on, in bytes.
	maxLog = 1 << 20
	// OwnProgram is the binary that is running now, whatever has become of its path since.
	OwnProgram = "/proc/self/exe"
)

// startWarden gives the container to its warden, which is started if none has begun with the hook, and waits for its word.
func (i *installation) startWarden(early *Early) error {
	log, err := i.openLog()
	if err != nil {
		return err
	}
	defer log.Close()
	if early == nil {
		return i.start(&exec.Cmd{Path: OwnProgram, Args: []string{"gatewarden-hook", "warden", i.record.RunDir()}}, log)
	}
	warden, err := early.entrust(i.record.RunDir(), i.lock, log)
	if err != nil {
		return err
	}
	return warden.supervises(log)
}

// start runs warden with the descriptors, session and directory that a warden has. It gets none of the hook's own descriptors: a
// daemon that holds the pipe of a hook's output keeps the runtime waiting for ever.
func (i *installation) start(warden *exec.Cmd, log *os.File) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s := &starting{word: r, pidfd: -1, wait: warden.Wait}
	warden.Dir = "/"
	warden.Env = []string{}
	warden.Stderr = log
	warden.ExtraFiles = []*os.File{HandshakeFD - 3: w, LockFD - 3: i.lock}
	warden.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &s.pidfd}
	err = warden.Start()
	w.Close()
	if err != nil {
		r.Close()
		return fmt.Errorf("cannot start the warden: %w", err)
	}
	if err := s.supervises(log); err != nil {
		return err
	}
	return warden.Process.Release()
}

// starting is a warden that has its container and has not said yet that it supervises it.
type starting struct {
	word  *os.File // what it says can be read there
	pidfd int      // -1 on Linux before 5.3
	wait  func() error
}

// supervises waits for the warden's word. One that does not give it has ended when supervises returns.
func (s *starting) supervises(log *os.File) error {
	err := handshake(s.word, handshakeTime)
	if err != nil {
		s.end()
		// Its log is about to be removed too.
		if last := lastLine(log.Name()); last != "" {
			err = fmt.Errorf("%w; it logged last: %s", err, last)
		}
		return err
	}
	s.close()
	return nil
}

// end ends it: it has to be gone before its directory is. Without a pidfd it ends with the container's init.
func (s *starting) end() {
	if s.pidfd >= 0 && unix.PidfdSendSignal(s.pidfd, unix.SIGKILL, nil, 0) == nil {
		s.wait()
	}
	s.close()
}

func (s *starting) close() {
	s.word.Close()
	if s.pidfd >= 0 {
		unix.Close(s.pidfd)
	}
}

// handshake waits for the warden's one line.
func handshake(r *os.File, patience time.Duration) error {
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(r, maxHandshake)).ReadString('\n')
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the warden has not become ready within %v", patience)
	case err != nil:
		return errors.New("the warden ended before it was ready")
	}
	line = strings.TrimSuffix(line, "\n")
	if line == HandshakeOK {
		return nil
	}
	if why, ok := strings.CutPrefix(line, HandshakeError); ok {
		return fmt.Errorf("the warden cannot supervise it: %s", why)
	}
	return fmt.Errorf("the warden said %.200q instead of %q", line, HandshakeOK)
}

// lastLine gives the last line of a warden's log, or "".
func lastLine(path string) string {
	data, err := readBounded(path, maxLog)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}

func (i *installation) openLog() (*os.File, error) {
	c := i.record
	if err := makeDirs(c.Config.LogDir, c.Namespace, c.ID); err != nil {
		return nil, err
	}
	i.made = append(i.made, func() { removeLogs(c.LogDir()) })
	path := filepath.Join(c.LogDir(), LogName)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
