// Package join puts a parked launcher into a container, through libcontainer, or through the OCI runtime's own `exec` where
// libcontainer cannot read the container's state.
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
	Root         string   `json:"root"`    // the runtime's state directory, which has one named ID for the container
	Runtime      string   `json:"runtime"` // its program; "": not known, so that libcontainer is the only way
	Bundle       string   `json:"bundle"`
	ID           string   `json:"id"`
	InitPID      int      `json:"init_pid"` // a state file counts only if it names this init
	InitStart    uint64   `json:"init_start"`
	UID          uint32   `json:"uid"`
	GID          uint32   `json:"gid"`
	Groups       []uint32 `json:"groups"`
	Capabilities []string `json:"capabilities"`
	// OtherMounts: it comes with a mount namespace, which the launcher is put into instead of the container's.
	OtherMounts bool `json:"other_mounts"`
}

// Files are what the launcher inherits.
type Files struct {
	Launcher *os.File // its executable
	Control  *os.File // its end of the gate
	Stdout   *os.File
	Stderr   *os.File
	Held     []*os.File // sockets that it keeps open while it is parked
	Mounts   *os.File   // the mount namespace that it is put into (mount.Preview); nil: the container's
}

// resultFD is the child's only descriptor beside the standard ones: a socket, over which the request comes with the files, and
// the answer goes.
const resultFD = 3

// maxHeld bounds the sockets that a launcher holds: those of a profile, and the guards of their ports.
const maxHeld = 128

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

// Joiner is a child that has been started and waits for its request.
type Joiner struct {
	cmd   *exec.Cmd
	pidfd int
	ours  int // our end of its socket
	said  *tail
}

// Start starts the child. It can be long before anything else is known: half of a join's time is the start of the program that
// has libcontainer in it.
func Start(self string, log io.Writer) (*Joiner, error) { return start(self, log, 0) }

// StartElsewhere is Start for a launcher that is put into a mount namespace of its own (Files.Mounts). The child has one for
// itself, in which it can arrange what libcontainer finds.
func StartElsewhere(self string, log io.Writer) (*Joiner, error) {
	return start(self, log, unix.CLONE_NEWNS)
}

func start(self string, log io.Writer, unshare uintptr) (*Joiner, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fail("cannot make the joiner's socket: %w", err)
	}
	j := &Joiner{pidfd: -1, ours: fds[0], said: &tail{log: log}}
	theirs := os.NewFile(uintptr(fds[1]), "joiner")
	defer theirs.Close()
	j.cmd = &exec.Cmd{
		Path: self, Args: []string{"gatewarden-hook", "join"}, Env: []string{"GOMAXPROCS=1"}, Dir: "/", Stderr: j.said,
		ExtraFiles: []*os.File{theirs}, SysProcAttr: &unix.SysProcAttr{PidFD: &j.pidfd, Unshareflags: unshare},
	}
	if err := j.cmd.Start(); err != nil {
		unix.Close(j.ours)
		return nil, fail("cannot start the joiner: %w", err)
	}
	return j, nil
}

// Close ends a child that is not needed. After Join it does nothing.
func (j *Joiner) Close() {
	if j == nil || j.cmd == nil {
		return
	}
	unix.Close(j.ours)
	unix.PidfdSendSignal(j.pidfd, unix.SIGKILL, nil, 0)
	j.cmd.Wait()
	unix.Close(j.pidfd)
	j.cmd = nil
}

// Launcher is Start and Join.
func Launcher(ctx context.Context, self string, log io.Writer, req Request, files Files) (*process.Process, error) {
	j, err := Start(self, log)
	if err != nil {
		return nil, err
	}
	return j.Join(ctx, req, files)
}

// Join gives the child its request, and gives the launcher that it left in the container. The container's state file may not
// exist yet (during createRuntime it does not); the child waits for it until ctx ends. The child is used up.
//
// Errors are *code.Error with launch_failed, paused, not_running or deadline.
func (j *Joiner) Join(ctx context.Context, req Request, files Files) (*process.Process, error) {
	defer j.Close()
	rights := []int{int(files.Launcher.Fd()), int(files.Control.Fd()), int(files.Stdout.Fd()), int(files.Stderr.Fd())}
	if req.OtherMounts = files.Mounts != nil; req.OtherMounts {
		rights = append(rights, int(files.Mounts.Fd()))
	}
	for _, f := range files.Held {
		rights = append(rights, int(f.Fd()))
	}
	line, err := json.Marshal(req)
	if err != nil || len(line) > maxRequest {
		return nil, fail("cannot encode the joiner's request of %d bytes: %w", len(line), err)
	}
	if err := unix.Sendmsg(j.ours, line, unix.UnixRights(rights...), nil, unix.MSG_NOSIGNAL); err != nil {
		return nil, fail("cannot send the joiner's request: %w: %s", err, j.said)
	}
	stop := context.AfterFunc(ctx, func() { unix.PidfdSendSignal(j.pidfd, unix.SIGKILL, nil, 0) })
	// The launcher becomes our child when the joiner has exited, so its exit comes before its answer.
	werr := j.cmd.Wait()
	stop()
	a, launcher, err := receive(j.ours)
	unix.Close(j.ours)
	unix.Close(j.pidfd)
	state := j.cmd.ProcessState
	j.cmd = nil
	switch {
	case ctx.Err() != nil:
		discard(launcher)
		return nil, code.Errorf(code.Deadline, code.StageLaunch, "cannot join the container in time: %w", context.Cause(ctx))
	case err != nil:
		return nil, fail("the joiner ended with %v and no answer (%v): %s", state, err, j.said)
	case a.Error != nil:
		discard(launcher)
		return nil, a.Error
	case werr != nil || launcher < 0:
		discard(launcher)
		return nil, fail("the joiner ended with %v: %s", state, j.said)
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
