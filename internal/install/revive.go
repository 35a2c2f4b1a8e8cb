package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
)

// startTime is how long a warden that another client has started may take until it listens.
const startTime = 5 * time.Second

// Revive starts a warden, of the hook's program (see HookPath), for a container that has lost its own; dir is the
// container's run directory. It returns when one listens; what that makes of the gateway that it finds comes after.
//
// The lock sees to it that there is never more than one. One that is held longer than patience belongs to a warden that
// was told to leave and has not, or to one that another client has started: then that one is the warden to ask.
//
// Errors are *code.Error with not_managed or not_running where there is nothing to supervise, else with warden_lost.
func Revive(configured, dir string, patience time.Duration) error {
	hook, err := HookPath(configured)
	if err != nil {
		return code.Errorf(code.WardenLost, code.StageQueue, "cannot start a warden: %w", err)
	}
	record, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return code.Errorf(code.NotManaged, code.StageQueue, "no gateway is managed at %s", dir)
	}
	if err != nil {
		return code.Errorf(code.WardenLost, code.StageQueue, "cannot start a warden: %w", err)
	}
	container := record.Container().String()
	lock, err := lockOrReach(dir, patience)
	switch {
	case errors.Is(err, errLocked):
		return code.Errorf(code.WardenLost, code.StageQueue,
			"a warden of %s holds its lock and does not answer; `gatewarden doctor` tells its process: end that one, and repeat this", container)
	case errors.Is(err, fs.ErrNotExist):
		return code.Errorf(code.NotManaged, code.StageQueue, "no gateway is managed at %s", dir)
	case err != nil:
		return code.Errorf(code.WardenLost, code.StageQueue, "cannot start a warden for %s: %w", container, err)
	case lock == nil:
		return nil
	}
	i := &installation{record: record, lock: lock}
	defer i.unlock()
	if !alive(record) {
		return code.Errorf(code.NotRunning, code.StageQueue, "cannot start a warden for %s: the container's init has exited", container)
	}
	log, err := i.openLog()
	if err == nil {
		defer log.Close()
		err = i.start(&exec.Cmd{Path: hook, Args: []string{filepath.Base(hook), "warden", dir}}, log)
	}
	if err != nil {
		return code.Errorf(code.WardenLost, code.StageQueue, "cannot start a warden for %s with %s: %w", container, hook, err)
	}
	return nil
}

// lockOrReach takes the lock in dir, or gives nil when a warden that holds it answers.
//
// Both are tried in turn. The kernel closes the files of a warden that was killed in no order that we may rely on: its
// clients can see their connections end while the lock is still held, and then there is nobody yet who will answer.
func lockOrReach(dir string, patience time.Duration) (*os.File, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience+startTime)
	defer cancel()
	for {
		lock, err := lockExisting(dir, patience)
		if !errors.Is(err, errLocked) {
			return lock, err
		}
		patience = 0
		if control.Answers(ctx, dir) {
			return nil, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		time.Sleep(lockPoll)
	}
}

// HookPath is the hook's program: where the settings say, or, in a tree that is not installed, beside the caller's own.
func HookPath(configured string) (string, error) {
	if isProgram(configured) {
		return configured, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), "gatewarden-hook")
	if isProgram(beside) {
		return beside, nil
	}
	return "", fmt.Errorf("no hook program at %s (the setting \"hook\"), nor at %s: install gatewarden-hook there", configured, beside)
}

func isProgram(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}
