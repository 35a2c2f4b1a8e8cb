package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // its constructor enters the namespaces in `init`
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// Init is the other half of libcontainer's Run: the process that is already in the container's namespaces and turns into
// the launcher. Call it from an init function of the binary when the first argument is "init", before anything else runs.
func Init() { libcontainer.Init() }

// Main is `gatewarden-hook join`. It returns the exit status.
func Main() int {
	pid, pidfd, err := run()
	a := answer{PID: pid}
	var rights []byte
	if err != nil {
		a.Error = code.From(err, code.StageLaunch)
		if a.Error.Code == code.Internal {
			a.Error.Code, a.Error.Retryable = code.LaunchFailed, true
		}
		// Escaped, a byte can take six.
		a.Error.Message = strings.ToValidUTF8(a.Error.Message[:min(len(a.Error.Message), maxAnswer/8)], "")
	} else {
		rights = unix.UnixRights(pidfd)
	}
	line, err := json.Marshal(a)
	if err == nil {
		err = unix.Sendmsg(resultFD, line, rights, nil, unix.MSG_NOSIGNAL)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gatewarden-hook join: cannot answer:", err)
		return 1
	}
	return 0
}

func run() (pid, pidfd int, err error) {
	unix.CloseOnExec(resultFD)
	req, files, err := request(resultFD)
	if err != nil {
		return 0, -1, fmt.Errorf("cannot read the request: %w", err)
	}
	// The warden ends us when its own deadline passes; this one only keeps an orphan from waiting for ever.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	state, err := awaitState(ctx, filepath.Join(req.Root, req.ID))
	if err != nil {
		return 0, -1, err
	}
	if req.OtherMounts {
		if err := offer(files.Mounts, req.InitPID); err != nil {
			return 0, -1, fmt.Errorf("cannot choose the launcher's mount namespace: %w", err)
		}
	}
	c, err := load(req, state)
	switch {
	case errors.Is(err, errForeignState) && req.Runtime != "":
		return viaRuntime(ctx, req, files)
	case errors.Is(err, errForeignState):
		return 0, -1, fmt.Errorf("cannot join container %s: %w; and which OCI runtime made it is not known, so that could not be asked to", req.ID, err)
	case err != nil:
		return 0, -1, err
	}
	nnp := true
	var groups []int
	for _, g := range req.Groups {
		groups = append(groups, int(g))
	}
	p := &libcontainer.Process{
		// The launcher is the first of ExtraFiles. The path is resolved by the kernel inside the container, where the
		// file does not exist: only the descriptor does. That it really runs is checked by the warden, by inode.
		Args:             []string{launcherPath},
		Env:              []string{},
		Cwd:              "/",
		UID:              int(req.UID),
		GID:              int(req.GID),
		AdditionalGroups: groups,
		// Explicitly nothing, or the container's own sets would be taken.
		Capabilities: &configs.Capabilities{
			Bounding: req.Capabilities, Permitted: req.Capabilities, Effective: req.Capabilities,
			Inheritable: req.Capabilities, Ambient: req.Capabilities,
		},
		NoNewPrivileges: &nnp,
		Stdout:          files.Stdout,
		Stderr:          files.Stderr,
		ExtraFiles:      append([]*os.File{files.Launcher, files.Control}, files.Held...),
	}
	if err := c.Run(p); err != nil {
		return 0, -1, fmt.Errorf("cannot start a process in container %s: %w", req.ID, err)
	}
	pid, err = p.Pid()
	if err != nil {
		return 0, -1, err
	}
	// It is our child and we do not reap it: the number is its own.
	pidfd, err = unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return 0, -1, fmt.Errorf("cannot open the launcher, process %d: %w", pid, err)
	}
	return pid, pidfd, nil
}

// request reads the request, and takes the files that come with it. The end of the file is that of a warden that needs no
// launcher any more.
func request(fd int) (Request, Files, error) {
	buf := make([]byte, maxRequest)
	oob := make([]byte, unix.CmsgSpace(4*(fixedFiles+1+maxHeld)))
	n, oobn, flags, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
	switch {
	case err != nil:
		return Request{}, Files{}, err
	case n == 0:
		return Request{}, Files{}, errors.New("the warden has closed the socket")
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return Request{}, Files{}, fmt.Errorf("it is longer than %d bytes or has more than %d sockets to hold", maxRequest, maxHeld)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return Request{}, Files{}, fmt.Errorf("it comes without its files (%d messages, %v)", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) < fixedFiles {
		return Request{}, Files{}, fmt.Errorf("it comes with %d files, not with %d or more (%v)", len(fds), fixedFiles, err)
	}
	open := func(i int, name string) *os.File { return os.NewFile(uintptr(fds[i]), name) }
	files := Files{Launcher: open(0, "launcher"), Control: open(1, "control"), Stdout: open(2, "stdout"), Stderr: open(3, "stderr")}
	req, err := strictjson.Decode[Request](buf[:n])
	if err != nil {
		return req, files, err
	}
	next := fixedFiles
	if req.OtherMounts {
		if len(fds) == next {
			return req, files, errors.New("it comes without its mount namespace")
		}
		files.Mounts = open(next, "mount namespace")
		next++
	}
	// There was room for a mount namespace, with which this one may not have come.
	if len(fds)-next > maxHeld {
		return req, files, fmt.Errorf("it has more than %d sockets to hold", maxHeld)
	}
	for ; next < len(fds); next++ {
		files.Held = append(files.Held, open(next, "held socket"))
	}
	return req, files, nil
}

// launcherPath is the launcher, the first descriptor after the standard ones.
const launcherPath = "/proc/self/fd/3"

// fixedFiles is how many files come with each request, before those that are held.
const fixedFiles = 4

// offer makes mounts what libcontainer finds as the mount namespace of the container's init. It, or any other runtime, joins what
// /proc/PID/ns names and can't be told otherwise; but this process has a mount namespace of its own (StartElsewhere), and
// only there the directory is another.
func offer(mounts *os.File, init int) error {
	dir := fmt.Sprintf("/proc/%d/ns", init)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	// Links to descriptors, which stay open for as long as this process lives. Mounts of them would do for all but the one that
	// counts: a mount namespace cannot be mounted in one that is younger (fs/namespace.c, mnt_ns_loop).
	links := map[string]string{}
	for _, e := range entries {
		fd := int(mounts.Fd())
		if e.Name() != "mnt" {
			if fd, err = unix.Open(filepath.Join(dir, e.Name()), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				return &os.PathError{Op: "open", Path: filepath.Join(dir, e.Name()), Err: err}
			}
		}
		links[e.Name()] = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	}
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64k,mode=0700"); err != nil {
		return &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// Files in a container's state directory by which its runtime is told.
const (
	runcState = "state.json" // runc's; renamed into place after the createRuntime hooks have returned
	crunState = "status"     // crun's, at the same time
)

// errForeignState says that the container's state is not in libcontainer's form.
var errForeignState = errors.New("libcontainer cannot read its state")

// load gives libcontainer's container, and insists that the state is of the container that the hook was called for: same init, same
// start time.
func load(req Request, state string) (*libcontainer.Container, error) {
	if state != runcState {
		return nil, fmt.Errorf("%w: %s has %s and no %s", errForeignState, filepath.Join(req.Root, req.ID), state, runcState)
	}
	c, err := decode(req)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot load it from %s: %w", errForeignState, req.Root, err)
	}
	st, err := c.State()
	if err != nil {
		return nil, fmt.Errorf("cannot read the state of container %s: %w", req.ID, err)
	}
	// The form is private to runc, and decoded leniently. Without these it is somebody else's.
	if st.InitProcessPid == 0 || st.InitProcessStartTime == 0 {
		return nil, fmt.Errorf("%w: its %s names no init", errForeignState, runcState)
	}
	if st.InitProcessPid != req.InitPID || st.InitProcessStartTime != req.InitStart {
		return nil, code.Errorf(code.NotRunning, code.StageLaunch,
			"container %s is not the one that the gateway was installed for: its init is process %d started at %d, not process %d started at %d",
			req.ID, st.InitProcessPid, st.InitProcessStartTime, req.InitPID, req.InitStart)
	}
	status, err := c.Status()
	if err != nil {
		return nil, fmt.Errorf("cannot read the status of container %s: %w", req.ID, err)
	}
	return c, joinable(req.ID, status.String())
}

// joinable tells whether a process can be put into a container with a status of the OCI runtime specification, or "paused", which is
// runc's and crun's.
func joinable(id, status string) error {
	switch specs.ContainerState(status) {
	case specs.StateCreating, specs.StateCreated, specs.StateRunning:
		return nil
	case "paused":
		return code.Errorf(code.Paused, code.StageLaunch, "container %s is paused: resume it first", id)
	}
	return code.Errorf(code.NotRunning, code.StageLaunch, "container %s is %s", id, status)
}

// decode is libcontainer.Load, which panics on a state that lacks what it takes for granted (1.5.2: config.cgroups).
func decode(req Request) (c *libcontainer.Container, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("libcontainer: %v", p)
		}
	}()
	return libcontainer.Load(req.Root, req.ID)
}

// awaitState waits for the runtime's state file in dir and gives its name.
func awaitState(ctx context.Context, dir string) (string, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return "", fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE|unix.IN_DELETE_SELF|unix.IN_ONLYDIR); err != nil {
		return "", code.Errorf(code.NotRunning, code.StageLaunch, "cannot watch the container's state directory %s: %w", dir, err)
	}
	if d, ok := ctx.Deadline(); ok {
		watch.SetReadDeadline(d)
	}
	buf := make([]byte, 4096)
	for {
		// Looked for after the watch began: it can't appear unnoticed.
		for _, name := range []string{runcState, crunState} {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				return name, nil
			} else if !errors.Is(err, os.ErrNotExist) {
				return "", err
			}
		}
		if _, err := os.Lstat(dir); err != nil {
			return "", code.Errorf(code.NotRunning, code.StageLaunch, "the container's state directory %s is gone: %w", dir, err)
		}
		if _, err := watch.Read(buf); err != nil {
			return "", fmt.Errorf("neither %s (runc) nor %s (crun) appeared in %s: %w", runcState, crunState, dir, err)
		}
	}
}
