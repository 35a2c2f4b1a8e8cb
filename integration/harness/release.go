package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
)

// Release is what of a host is not ours: its containerd with its ctr, and its runc. The zero value is the pinned ones.
type Release struct {
	Name string   // for people
	Dir  string   // of containerd and ctr
	Path []string // directories that come first in containerd's search path, and so in its shims': for another runc, or another shim
}

// Releases that `make releases` and `make compat` put into .cache.
var (
	Debian       = Release{Name: "containerd 1.6 and runc 1.1 of Debian 12", Dir: "debian/usr/bin", Path: []string{"debian/usr/sbin"}}
	Containerd17 = Release{Name: "containerd 1.7", Dir: "containerd-1.7"}
	Containerd20 = Release{Name: "containerd 2.0", Dir: "containerd-2.0"}
	Containerd22 = Release{Name: "containerd 2.2", Dir: "containerd-2.2"}
	Containerd23 = Release{Name: "containerd 2.3", Dir: "containerd-2.3"}
	Pinned       = Release{Name: "the pinned containerd and runc"}
)

// program is the path of the release's containerd or ctr.
func (h *Host) program(name string) string {
	if h.release.Dir == "" {
		return h.tool(name)
	}
	return filepath.Join(h.inCache(h.release.Dir), name)
}

// inCache is a directory of a release; one that is not absolute is in .cache.
func (h *Host) inCache(dir string) string {
	if filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(h.Repository, ".cache", dir)
}

// configVersion is the newest version of containerd's configuration that the release reads: 3 since containerd 2.0.
func (r Release) configVersion() int {
	switch r.Dir {
	case Debian.Dir, Containerd17.Dir:
		return 2
	}
	return 3
}

// Upgrade replaces the host's containerd as its package does: it is ended, which its containers outlive, and the other one is
// started on the same files.
func (h *Host) Upgrade(ctx context.Context, to Release) error {
	if err := h.stopDaemon(syscall.SIGTERM); err != nil {
		return err
	}
	h.release = to
	if err := h.writeDaemonConfig(); err != nil {
		return err
	}
	if err := h.startDaemon(ctx); err != nil {
		return fmt.Errorf("%s: %w", to.Name, err)
	}
	return nil
}
