package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
)

// Result is what a command said.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	Status int // exit status; 128+signal when a signal ended it
	Time   time.Duration
}

// String is the result for a test's log.
func (r Result) String() string {
	return fmt.Sprintf("$ %s\n%s%s[exit status %d after %v]", strings.Join(r.Args, " "), r.Stdout, r.Stderr, r.Status, r.Time.Round(time.Millisecond))
}

// Ctr runs ctr as a user would, against this host's containerd. The error says that it could not be run or did not end in
// time; a status other than 0 is no error.
func (h *Host) Ctr(ctx context.Context, args ...string) (Result, error) {
	return h.Run(ctx, h.program("ctr"), args...)
}

// CtrRun is ctr run -d with our snapshotter, for the container id of image.
func (h *Host) CtrRun(ctx context.Context, runtime string, flags []string, image, id string, command ...string) (Result, error) {
	args := append([]string{"run", "-d", "--snapshotter", h.snapshotter, "--runtime", runtime}, flags...)
	return h.Ctr(ctx, append(append(args, image, id), command...)...)
}

// Gatewarden runs the operator's command with this host's settings.
func (h *Host) Gatewarden(ctx context.Context, args ...string) (Result, error) {
	return h.Run(ctx, h.Bin("gatewarden"), args...)
}

// Command is a command in this host's environment, not yet started.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(h.environment(), "CONTAINERD_ADDRESS="+h.Address, "CONTAINERD_NAMESPACE="+h.Namespace,
		"CONTAINERD_SNAPSHOTTER="+h.snapshotter)
	cmd.Dir = h.Dir
	// A process that holds the output's pipe after the command's end is an error, never a test that hangs.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Run runs a command in this host's environment. The error says that it could not be run or did not end in time.
func (h *Host) Run(ctx context.Context, name string, args ...string) (Result, error) {
	return result(ctx, h.Command(ctx, name, args...))
}

// result runs a command of Command's with ctx.
func result(ctx context.Context, cmd *exec.Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	err := cmd.Run()
	r := Result{Args: cmd.Args, Stdout: stdout.String(), Stderr: stderr.String(), Time: time.Since(begin)}
	if ctx.Err() != nil {
		return r, fmt.Errorf("%s\n%w", r, ctx.Err())
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.Status = status(exit.ProcessState)
	case err != nil:
		return r, fmt.Errorf("%s\n%w", r, err)
	}
	return r, nil
}

func status(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// Remove ends the container id and removes it with its snapshot. It is no error if there is none.
func (h *Host) Remove(ctx context.Context, id string) error {
	ctx = h.Context(ctx)
	c, err := h.client.LoadContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load container %s: %w", id, err)
	}
	task, err := c.Task(ctx, nil)
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("load the task of %s: %w", id, err)
	default:
		if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete the task of %s: %w", id, err)
		}
	}
	if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	return nil
}
