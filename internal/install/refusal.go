package install

import (
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/config"
)

// RefusalsName is the file in the log directory in which a hook notes why it failed. Crun gives a hook's output to nobody, and then
// this is the only place that tells.
const RefusalsName = "hook.log"

// maxRefusals is the size in bytes at which the file begins anew; what it had is kept as one older file.
const maxRefusals = 1 << 20

// LogRefusal notes why a hook failed. It can fail itself, and then the hook's standard error has to do.
func LogRefusal(cfg config.Config, verb string, refusal error) error {
	if err := makeDirs(cfg.LogDir); err != nil {
		return err
	}
	path := filepath.Join(cfg.LogDir, RefusalsName)
	// Two hooks that find it full at once lose the older file's lines, not these.
	if st, err := os.Lstat(path); err == nil && st.Size() > maxRefusals {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	slog.New(slog.NewTextHandler(f, nil)).Error("a hook failed", "hook", verb, "err", refusal)
	return f.Close()
}
