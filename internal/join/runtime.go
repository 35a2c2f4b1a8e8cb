package join

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/mount"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/trusted"
	"github.com/gatewarden/gatewarden/oci"
)

// Bounds of what is read from a runtime, in bytes.
const (
	maxStateOutput = 1 << 20
	maxPIDFile     = 32
	maxRuntimeLog  = 64 << 10
)

// stateRetry is how long to wait before a runtime is asked again for a container whose state it is writing.
const stateRetry = 20 * time.Millisecond

// viaRuntime puts the launcher into the container by the command `exec` of the OCI runtime that made it. It serves the containers
// whose state libcontainer cannot read: crun's, and those of a runc with another form of it.
//
// `exec` is no command of the OCI runtime specification; runc's and crun's have these flags in common. The process is as the
// container's own in what is not given: resource limits, security labels, scheduling.
func viaRuntime(ctx context.Context, req Request, files Files) (pid, pidfd int, err error) {
	// It runs as root, again and again. What was trusted when the gateway was installed may have been replaced.
	program, err := trusted.OpenPath(req.Runtime)
	if err != nil {
		return 0, -1, fmt.Errorf("cannot run the OCI runtime: %w", err)
	}
	program.Close()
	r := cli{path: req.Runtime, root: req.Root}
	if r.dir, err = mount.Memory("tmpfs", map[string]string{"mode": "0700", "size": "1m"}); err != nil {
		return 0, -1, fmt.Errorf("cannot make a directory for the OCI runtime's files: %w", err)
	}
	defer r.dir.Close()
	spec, err := execProcess(req)
	if err != nil {
		return 0, -1, err
	}
	if err := os.WriteFile(r.file("process.json"), spec, 0o600); err != nil {
		return 0, -1, err
	}
	if err := r.awaitContainer(ctx, req); err != nil {
		return 0, -1, err
	}

	// The launcher is the child of a process of the runtime's that ends at once. From there it comes to us, the nearest
	// subreaper, so its number stays its own until we reap it; and when we end, to the warden, which is the next one.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, -1, os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", err)
	}
	inherited := append([]*os.File{files.Launcher, files.Control}, files.Held...)
	cmd := r.command(ctx, "exec", "--detach", "--process", r.file("process.json"), "--pid-file", r.file("pid"),
		"--preserve-fds", strconv.Itoa(len(inherited)), req.ID)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = files.Stdout, files.Stderr, inherited
	if err := cmd.Run(); err != nil {
		return 0, -1, fmt.Errorf("cannot start a process in container %s: %s exec: %w%s", req.ID, req.Runtime, err, r.complaint())
	}
	number, err := readFile(r.file("pid"), maxPIDFile)
	if err != nil {
		return 0, -1, fmt.Errorf("cannot learn from %s exec what it started in container %s: %w", req.Runtime, req.ID, err)
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(number))); err != nil || pid <= 0 {
		return 0, -1, fmt.Errorf("%s exec says that it started process %.40q in container %s", req.Runtime, number, req.ID)
	}
	if pidfd, err = unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK); err != nil {
		return 0, -1, fmt.Errorf("cannot open the launcher, process %d: %w", pid, err)
	}
	if err := ours(pid); err != nil {
		unix.Close(pidfd)
		return 0, -1, err
	}
	return pid, pidfd, nil
}

// ours insists that a process is a child of this one: only then its number is certainly still its own.
func ours(pid int) error {
	p, err := process.Open(pid)
	if err != nil {
		return err
	}
	defer p.Close()
	stat, err := p.Stat()
	if err == nil && stat.PPID != os.Getpid() {
		err = fmt.Errorf("process %d has another parent, process %d", pid, stat.PPID)
	}
	if err != nil {
		return fmt.Errorf("the OCI runtime did not leave the launcher to us: %w", err)
	}
	return nil
}

// execProcess is the process that is to be started, in the form of a config.json's process.
func execProcess(req Request) ([]byte, error) {
	spec, err := oci.LoadProcess(req.Bundle)
	if err != nil {
		return nil, fmt.Errorf("cannot read how the processes of container %s are started: %w", req.ID, err)
	}
	p := specs.Process{}
	if own := spec.Process; own != nil {
		p.Rlimits, p.ApparmorProfile, p.SelinuxLabel = own.Rlimits, own.ApparmorProfile, own.SelinuxLabel
		p.Scheduler, p.IOPriority, p.ExecCPUAffinity = own.Scheduler, own.IOPriority, own.ExecCPUAffinity
	}
	p.User = specs.User{UID: req.UID, GID: req.GID, AdditionalGids: req.Groups}
	// The launcher is the first of the files that are kept; see run.
	p.Args, p.Env, p.Cwd = []string{launcherPath}, []string{}, "/"
	p.NoNewPrivileges = true
	// Not nil, even if empty, or the container's own sets would be taken.
	caps := req.Capabilities
	p.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps, Ambient: caps}
	data, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the launcher's process: %w", err)
	}
	return data, nil
}

// cli is the command line of an OCI runtime.
type cli struct {
	path string
	root string
	dir  *os.File // for files that are given to it, and that it writes
}

// file is how another process of the host finds a file in dir.
func (r cli) file(name string) string {
	return fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), r.dir.Fd(), name)
}

// command is one call of the runtime, which is not to outlive this process. It dies with the thread that starts it, so the calling
// goroutine keeps to its own from here on (prctl(2), PR_SET_PDEATHSIG).
func (r cli) command(ctx context.Context, args ...string) *exec.Cmd {
	goruntime.LockOSThread()
	cmd := exec.CommandContext(ctx, r.path, append([]string{"--root", r.root, "--log", r.file("log"), "--log-format", "json"}, args...)...)
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// complaint is the last that the runtime logged, for the end of a message; "" if there is nothing.
func (r cli) complaint() string {
	data, err := readFile(r.file("log"), maxRuntimeLog)
	if err != nil {
		return ""
	}
	var last string
	for line := range bytes.Lines(data) {
		var entry struct {
			Message string `json:"msg"`
		}
		if json.Unmarshal(line, &entry) == nil && entry.Message != "" {
			last = entry.Message
		}
	}
	if last == "" {
		return ""
	}
	return fmt.Sprintf(": %.500s", last)
}

// awaitContainer waits until the runtime knows the container, and insists that it is the one that the gateway was installed for.
func (r cli) awaitContainer(ctx context.Context, req Request) error {
	for {
		state, err := r.state(ctx, req.ID)
		if err == nil {
			return r.checkState(state, req)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not know container %s of %s: %w", r.path, req.ID, r.root, err)
		case <-time.After(stateRetry):
			// The file that it reads may be half written: crun writes it in place.
		}
		// A container that was deleted meanwhile stays unknown.
		if _, gone := os.Lstat(filepath.Join(r.root, req.ID)); errors.Is(gone, os.ErrNotExist) {
			return code.Errorf(code.NotRunning, code.StageLaunch, "the container's state directory %s is gone", filepath.Join(r.root, req.ID))
		}
	}
}

// state is the OCI runtime specification's operation of that name (runtime.md, "Query State").
func (r cli) state(ctx context.Context, id string) (specs.State, error) {
	cmd := r.command(ctx, "state", id)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return specs.State{}, err
	}
	data, rerr := io.ReadAll(io.LimitReader(out, maxStateOutput+1))
	out.Close()
	if err := cmd.Wait(); err != nil {
		return specs.State{}, fmt.Errorf("%s state: %w%s", r.path, err, r.complaint())
	}
	if rerr == nil && len(data) > maxStateOutput {
		rerr = fmt.Errorf("it is longer than %d bytes", maxStateOutput)
	}
	if rerr != nil {
		return specs.State{}, fmt.Errorf("cannot read the output of %s state: %w", r.path, rerr)
	}
	return parseState(data)
}

// parseState reads a state as an OCI runtime prints it. What the specification does not know is the runtime's own affair.
func parseState(data []byte) (s specs.State, err error) {
	if err := json.Unmarshal(data, &s); err != nil {
		return s, err
	}
	if s.ID == "" || s.Status == "" || s.Pid < 0 {
		return s, fmt.Errorf("it has id %.80q, status %.80q and pid %d", s.ID, s.Status, s.Pid)
	}
	return s, nil
}

func (r cli) checkState(s specs.State, req Request) error {
	// No start time is in it. The warden holds the init by a pidfd and ends with it, so while we are asked the number is the init's.
	if s.ID != req.ID || s.Pid != req.InitPID {
		return code.Errorf(code.NotRunning, code.StageLaunch,
			"container %s is not the one that the gateway was installed for: to %s its init is process %d, not process %d", req.ID, r.path, s.Pid, req.InitPID)
	}
	return joinable(req.ID, string(s.Status))
}

// readFile reads a file of at most max bytes.
func readFile(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("%s is longer than %d bytes", path, max)
	}
	return data, err
}
