// Package join puts a parked launcher into a container, through libcontainer.
//
// libcontainer runs in a short-lived child of the warden, `gatewarden-hook join`, not in the warden itself: the warden
// stays small, and nothing that libcontainer does to its process (descriptors, threads, waiting for children) can touch
// the warden. The launcher that the child leaves behind is adopted by the warden, which is a child subreaper
// (PR_SET_CHILD_SUBREAPER(2const)); so the warden is its parent, and waitid proves its death.
package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// Request says which container to join, and as whom.
type Request struct {
	Root         string   `json:"root"` // the runtime's state directory, which holds ID/state.json
	ID           string   `json:"id"`
	InitPID      int      `json:"init_pid"` // a state file counts only if it names this init
	InitStart    uint64   `json:"init_start"`
	UID          uint32   `json:"uid"`
	GID          uint32   `json:"gid"`
	Groups       []uint32 `json:"groups"`
	Capabilities []string `json:"capabilities"`
	Held         int      `json:"held"` // number of sockets that the launcher holds; set by Launcher
}

// Files are what the launcher inherits.
type Files struct {
	Launcher *os.File // its executable
	Control  *os.File // its end of the gate
	Stdout   *os.File
	Stderr   *os.File
	Held     []*os.File // sockets that it keeps open while it is parked
}

// Descriptors of the child.
const (
	resultFD   = 3
	launcherFD = 4
	controlFD  = 5
	stdoutFD   = 6
	stderrFD   = 7
	heldFD     = 8 // the first
)

// maxHeld bounds the sockets that a launcher holds.
const maxHeld = 64

// Bounds of the request and of the answer between warden and child, in bytes. The answer is two numbers, or a line of
// text, and the warden has to keep memory for it.
const (
	maxRequest = 64 << 10
	maxAnswer  = 8 << 10
)

// answer is the child's one message. On success the launcher's pidfd travels with it.
type answer struct {
	PID   int         `json:"pid,omitempty"`
	Error *code.Error `json:"error,omitempty"`
}

// Launcher starts the child and gives the launcher that it left in the container. The container's state file may not
// exist yet (during createRuntime it does not); the child waits for it until ctx ends.
//
// Errors are *code.Error with launch_failed, paused, not_running or deadline.
func Launcher(ctx context.Context, self string, log io.Writer, req Request, files Files) (*process.Process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fail("cannot make the joiner's socket: %w", err)
	}
	ours, theirs := fds[0], os.NewFile(uintptr(fds[1]), "joiner")
	defer unix.Close(ours)

	req.Held = len(files.Held)
	line, err := json.Marshal(req)
	if err != nil || len(line) > maxRequest {
		theirs.Close()
		return nil, fail("cannot encode the joiner's request of %d bytes: %w", len(line), err)
	}
	if err := unix.Sendto(ours, line, unix.MSG_NOSIGNAL, nil); err != nil {
		theirs.Close()
		return nil, fail("cannot send the joiner's request: %w", err)
	}

	said := &tail{log: log}
	var pidfd int
	cmd := exec.CommandContext(ctx, self, "join")
	cmd.Args[0] = "gatewarden-hook"
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stderr = said
	cmd.ExtraFiles = append([]*os.File{theirs, files.Launcher, files.Control, files.Stdout, files.Stderr}, files.Held...)
	cmd.SysProcAttr = &unix.SysProcAttr{PidFD: &pidfd, Pdeathsig: 0}
	cmd.Cancel = func() error {
		err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		if errors.Is(err, unix.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, fail("cannot start the joiner: %w", err)
	}
	defer unix.Close(pidfd)
	// The launcher becomes our child when the joiner has exited, so its exit comes before its answer.
	werr := cmd.Wait()
	a, launcher, err := receive(ours)
	switch {
	case ctx.Err() != nil:
		discard(launcher)
		return nil, code.Errorf(code.Deadline, code.StageLaunch, "cannot join the container in time: %w", context.Cause(ctx))
	case err != nil:
		return nil, fail("the joiner ended with %v and no answer (%v): %s", cmd.ProcessState, err, said.String())
	case a.Error != nil:
		discard(launcher)
		return nil, a.Error
	case werr != nil || launcher < 0:
		discard(launcher)
		return nil, fail("the joiner ended with %v: %s", cmd.ProcessState, said.String())
	}
	p, err := process.FromPidfd(os.NewFile(uintptr(launcher), "pidfd"))
	if err != nil {
		return nil, fail("cannot hold the launcher: %w", err)
	}
	stat, err := p.Stat()
	if err == nil && stat.PPID != os.Getpid() {
		err = fmt.Errorf("its parent is process %d, not the warden", stat.PPID)
	}
	if err != nil {
		p.Close()
		return nil, fail("cannot adopt the launcher: %w", err)
	}
	return p, nil
}

func fail(format string, args ...any) *code.Error {
	return code.Errorf(code.LaunchFailed, code.StageLaunch, format, args...)
}

// discard lets go of a launcher that nobody will use. It ends by itself when the warden's end of its gate is closed; what
// is not proven to be ours gets no signal.
func discard(pidfd int) {
	if pidfd >= 0 {
		unix.Close(pidfd)
	}
}

// receive reads the answer that the child left in the socket. The descriptor is -1 if none came with it.
func receive(fd int) (answer, int, error) {
	buf := make([]byte, maxAnswer)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return answer{}, -1, err
	}
	pidfd := -1
	if cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(cmsgs) == 1 {
		if fds, err := unix.ParseUnixRights(&cmsgs[0]); err == nil && len(fds) == 1 {
			pidfd = fds[0]
		}
	}
	if n == 0 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		discard(pidfd)
		return answer{}, -1, errors.New("no whole message")
	}
	a, err := strictjson.Decode[answer](buf[:n])
	if err != nil {
		discard(pidfd)
		return answer{}, -1, err
	}
	return a, pidfd, nil
}

// tail passes on what the child says, and keeps the end of it for a message.
type tail struct {
	log  io.Writer
	said []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const keep = 1 << 10
	t.said = append(t.said, p...)
	if over := len(t.said) - keep; over > 0 {
		t.said = append(t.said[:0], t.said[over:]...)
	}
	return t.log.Write(p)
}

// ReadFrom is for package exec, which would take 32 KiB for what is nearly always nothing.
func (t *tail) ReadFrom(r io.Reader) (n int64, err error) {
	var buf [512]byte
	for {
		m, err := r.Read(buf[:])
		n += int64(m)
		t.Write(buf[:m])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
	}
}

func (t *tail) String() string { return string(t.said) }
