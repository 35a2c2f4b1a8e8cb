package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// podmanFile is a file or directory of podman's.
func (h *Host) podmanFile(name string) string { return filepath.Join(h.Dir, "podman", name) }

// PodmanHooksDir is podman's hooks.d directory.
func (h *Host) PodmanHooksDir() string { return h.podmanFile("hooks.d") }

// The limits are within what root has who may not raise them; locks in files, since those in shared memory are one for all of a
// host's podmans.
const containersConf = `[containers]
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
hooks_dir = [%q]
tmp_dir = %q
static_dir = %q
volume_path = %q
`

const storageConf = `[storage]
driver = "vfs"
graphroot = %q
runroot = %q
`

// StartPodman makes a podman of this host's own, whose images are the base image. It has no daemon; containers are to be removed by
// whoever made them.
func (h *Host) StartPodman(ctx context.Context) error {
	if err := os.MkdirAll(h.PodmanHooksDir(), 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"containers.conf": fmt.Sprintf(containersConf, h.PodmanHooksDir(), h.podmanFile("tmp"), h.podmanFile("static"), h.podmanFile("volumes")),
		"storage.conf":    fmt.Sprintf(storageConf, h.podmanFile("graph"), h.podmanFile("run")),
	} {
		if err := os.WriteFile(h.podmanFile(name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	archive, err := h.Archive(&Image{})
	if err != nil {
		return err
	}
	tar := h.podmanFile("image.tar")
	if err := os.WriteFile(tar, archive, 0o644); err != nil {
		return err
	}
	r, err := h.Podman(ctx, "load", "--input", tar)
	if err == nil && r.Status != 0 {
		err = fmt.Errorf("podman cannot load the image: %v", r)
	}
	return err
}

// Podman runs podman as an administrator would. The error is that of Run.
func (h *Host) Podman(ctx context.Context, args ...string) (Result, error) {
	cmd, err := h.EngineCommand(ctx, "/usr/bin/podman", args...)
	if err != nil {
		return Result{}, err
	}
	return result(ctx, cmd)
}
