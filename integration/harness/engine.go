package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// EngineCommand is Command for an engine or an OCI runtime of Debian's: in a mount namespace in which the host has version 1
// control groups and nothing else. Crun refuses to run where there are both and version 2 has a controller, even one that it
// does not use; a host has either. All of them share one namespace, as they do on a host.
func (h *Host) EngineCommand(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	if h.engines == nil {
		hybrid, err := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers")
		if errors.Is(err, os.ErrNotExist) || err == nil && len(strings.TrimSpace(string(hybrid))) == 0 {
			return h.Command(ctx, name, args...), nil
		}
		if err != nil {
			return nil, err
		}
		if h.engines, err = withoutUnified(); err != nil {
			return nil, fmt.Errorf("cannot make a mount namespace without version 2 control groups: %w", err)
		}
	}
	in := fmt.Sprintf("--mount=/proc/%d/fd/%d", os.Getpid(), h.engines.Fd())
	return h.Command(ctx, "/usr/bin/nsenter", append([]string{in, "--", name}, args...)...), nil
}

// withoutUnified makes a mount namespace that is the host's but for /sys/fs/cgroup/unified.
func withoutUnified() (*os.File, error) {
	type result struct {
		namespace *os.File
		err       error
	}
	done := make(chan result)
	go func() {
		// Never unlocked, so that the thread ends with the goroutine: it is of no use to another.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
		}
		if err == nil {
			err = unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH)
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/mnt")
		done <- result{f, err}
	}()
	r := <-done
	return r.namespace, r.err
}
