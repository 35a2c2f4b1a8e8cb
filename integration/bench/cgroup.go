package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup holds the processes of a peer, so that each of them is found in the end, whoever has become its parent.
type cgroup struct{ dir string }

// newCgroup makes one below the namespace's, where package harness looks for processes too.
func (b *bench) newCgroup() (*cgroup, error) {
	base := "/sys/fs/cgroup/pids"
	if unified() {
		base = "/sys/fs/cgroup"
	}
	c := &cgroup{dir: filepath.Join(base, b.h.Namespace, b.id("peer"))}
	return c, os.MkdirAll(c.dir, 0o755)
}

// command is a command in it: a shell enters it and becomes the command.
func (c *cgroup) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(c.dir, "cgroup.procs")}, args...)...)
}

func (c *cgroup) pids() ([]int, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, word := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// killTime is how long the end of killed processes may take.
const killTime = 5 * time.Second

// kill ends all processes in it, by handle.
func (c *cgroup) kill() error {
	for deadline := time.Now().Add(killTime); ; time.Sleep(5 * time.Millisecond) {
		pids, err := c.pids()
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v in %s cannot be ended", pids, c.dir)
		}
		for _, pid := range pids {
			if err := c.killOne(pid); err != nil {
				return err
			}
		}
	}
}

func (c *cgroup) killOne(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	defer unix.Close(fd)
	// That the number is still of this cgroup is looked at with the pidfd open: so the pidfd is of a process that was in it.
	if pids, err := c.pids(); err != nil || !slices.Contains(pids, pid) {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %d: %w", pid, err)
	}
	return nil
}

// end kills what is in it and removes it.
func (c *cgroup) end() error {
	err := c.kill()
	for deadline := time.Now().Add(killTime); ; time.Sleep(5 * time.Millisecond) {
		rm := unix.Rmdir(c.dir)
		if rm == nil || errors.Is(rm, unix.ENOENT) {
			return err
		}
		if time.Now().After(deadline) {
			return errors.Join(err, &os.PathError{Op: "rmdir", Path: c.dir, Err: rm})
		}
	}
}

func mkfifo(path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	// The umask does not count for this.
	return os.Chmod(path, 0o666)
}
