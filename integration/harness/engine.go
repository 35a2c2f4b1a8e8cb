package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// EngineCommand is Command for an engine or an OCI runtime of Debian's. All of them share a mount namespace that is the host's but for
// two things. Its control groups are of version 1 alone: crun refuses to run where there are both and version 2 has a
// controller, even one that nobody uses. And /etc/cdi, for which these engines have no setting, is CDIDir.
func (h *Host) EngineCommand(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	if h.engines == nil {
		var err error
		if h.engines, err = h.engineMounts(); err != nil {
			return nil, fmt.Errorf("cannot make the mount namespace of engines: %w", err)
		}
	}
	in := fmt.Sprintf("--mount=/proc/%d/fd/%d", os.Getpid(), h.engines.Fd())
	cmd := h.Command(ctx, "/usr/bin/nsenter", append([]string{in, "--", name}, args...)...)
	cmd.Env = append(cmd.Env, "CONTAINERS_CONF="+h.podmanFile("containers.conf"), "CONTAINERS_STORAGE_CONF="+h.podmanFile("storage.conf"))
	return cmd, nil
}

// CDIDir is what engines find as /etc/cdi.
func (h *Host) CDIDir() string { return filepath.Join(h.Dir, "cdi") }

// cdiDir is where engines look for CDI specifications.
const cdiDir = "/etc/cdi"

func (h *Host) engineMounts() (*os.File, error) {
	if err := os.MkdirAll(h.CDIDir(), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(cdiDir, 0o755); err == nil {
		h.madeCDIDir = true
	} else if !errors.Is(err, os.ErrExist) {
		return nil, err
	}
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
			// EINVAL: not a hybrid host.
			if err = unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				err = nil
			}
		}
		if err == nil {
			err = unix.Mount(h.CDIDir(), cdiDir, "", unix.MS_BIND, "")
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

// closeEngines lets go of their namespace.
func (h *Host) closeEngines() error {
	if h.engines != nil {
		h.engines.Close()
	}
	if h.madeCDIDir {
		// Somebody else may use it meanwhile.
		if err := os.Remove(cdiDir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}
