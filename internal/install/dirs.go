package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/generation"
)

// errLocked says that a live warden holds the lock.
var errLocked = errors.New("the lock is held")

// wardenLeaves is how long a new container of the same name waits for the warden of the one before.
const wardenLeaves = 2 * time.Second

// claim makes the container's run directory and takes its lock, and removes what a dead warden left there.
func (i *installation) claim() error {
	dir := i.record.RunDir()
	deadline := time.Now().Add(wardenLeaves)
	for {
		if err := makeDirs(i.record.Config.RunDir, i.record.Namespace, i.record.ID); err != nil {
			return err
		}
		lock, err := tryLock(dir, unix.O_CREAT)
		switch {
		case err == nil:
			i.lock = lock
			i.made = append(i.made, func() { RemoveRunDir(dir) })
			return removeChildren(dir, LockName)
		case errors.Is(err, errLocked) && time.Now().After(deadline):
			return fmt.Errorf("%s belongs to a warden that still runs: there is a live container of that name already, with its own gateway", dir)
		case errors.Is(err, errLocked):
			time.Sleep(lockPoll)
		case errors.Is(err, fs.ErrNotExist) && time.Now().Before(deadline):
			// The warden of the container before has just removed the directory.
			time.Sleep(lockPoll)
		default:
			return fmt.Errorf("cannot lock %s: %w", dir, err)
		}
	}
}

// Reclaim makes the run directory of a warden that still runs anew, when it was removed or moved away: the directory, the
// record, and the lock, which it gives. What lies in the place is removed, unless it belongs to a live warden.
func (i Install) Reclaim() (*os.File, error) {
	n := &installation{record: i}
	err := n.claim()
	if err == nil {
		err = i.Write()
	}
	if err != nil {
		n.unlock()
		return nil, err
	}
	return n.lock, nil
}

// lockPoll is the time between two tries: flock(2) has no timeout, and a blocked flock cannot be called off.
const lockPoll = 5 * time.Millisecond

// lockExisting takes the lock in dir if there is one, and waits for at most patience. Without directory or lock it gives
// fs.ErrNotExist, and errLocked when somebody holds it to the end.
func lockExisting(dir string, patience time.Duration) (*os.File, error) {
	deadline := time.Now().Add(patience)
	for {
		lock, err := tryLock(dir, 0)
		if !errors.Is(err, errLocked) || time.Now().After(deadline) {
			return lock, err
		}
		time.Sleep(lockPoll)
	}
}

// tryLock locks the lock file in dir, once.
func tryLock(dir string, flags int) (*os.File, error) {
	path := filepath.Join(dir, LockName)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, &os.PathError{Op: "flock", Path: path, Err: err}
	}
	// Whoever held it before may have removed the file; then this lock guards nothing, and another may be there.
	var mine, there unix.Stat_t
	if err := unix.Fstat(fd, &mine); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := unix.Lstat(path, &there); err != nil || there.Ino != mine.Ino || there.Dev != mine.Dev {
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: fs.ErrNotExist}
	}
	return f, nil
}

// makeDirs makes base and then each of names below the one before, root's alone, and checks those that exist.
func makeDirs(base string, names ...string) error {
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return err
	}
	// The end of another container removes its namespace's directory if that is empty, at any moment until we have made
	// our own in it.
	var err error
	for range 100 {
		if err = tryMakeDirs(base, names); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
}

func tryMakeDirs(path string, names []string) error {
	for {
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		st, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if err := rootsAlone(path, st); err != nil {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		path, names = filepath.Join(path, names[0]), names[1:]
	}
}

func rootsAlone(path string, st fs.FileInfo) error {
	uid := st.Sys().(*syscall.Stat_t).Uid
	switch {
	case !st.IsDir():
		return fmt.Errorf("%s is not a directory; remove it", path)
	case uid != 0:
		return fmt.Errorf("%s belongs to UID %d; it must be root's: chown root %s", path, uid, path)
	case st.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s has mode %04o and can be written by others than root: chmod go-w %s", path, st.Mode().Perm(), path)
	}
	return nil
}

// stateSource opens the host directory of the [[state]] entry with that target, and makes it if this is its first use.
// It is named after the target, so that the order of a profile's entries does not matter.
func (i *installation) stateSource(target string) (*os.File, error) {
	c := i.record
	if err := makeDirs(c.Config.StateDir, c.Namespace, c.ID, stateName); err != nil {
		return nil, err
	}
	path := filepath.Join(c.StateDir(), stateName, url.PathEscape(target[1:]))
	user, group := i.host.UID, i.host.GID
	err := os.Mkdir(path, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	isNew := err == nil
	if isNew {
		i.made = append(i.made, func() {
			os.Remove(path)
			os.Remove(filepath.Dir(path))
			removeEmpty(c.StateDir())
		})
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if isNew {
		if err := unix.Fchown(fd, int(user), int(group)); err != nil {
			f.Close()
			return nil, &os.PathError{Op: "chown", Path: path, Err: err}
		}
		return f, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Uid != user || st.Gid != group {
		f.Close()
		// Nobody but the administrator knows whose it is now, and what links are in it: it is not given away.
		return nil, fmt.Errorf("the state kept for %s in %s belongs to %d:%d and the gateway is %d:%d%s now: chown -R %d:%d %s, or remove it",
			target, path, st.Uid, st.Gid, user, group, i.mapped(), user, group, path)
	}
	return f, nil
}

// mapped says whose number the gateway's is in the container, where that is another one than here.
func (i *installation) mapped() string {
	if !i.maps.Apart {
		return ""
	}
	return fmt.Sprintf(" (%d:%d in the container, whose user namespace has the UIDs %s)", i.profile.Gateway.User, i.profile.Gateway.Group, i.maps.UIDs)
}

// stateName is the directory of the [[state]] directories in a container's state directory.
const stateName = "state"

// Write writes the record into the run directory, which the caller has locked.
func (i Install) Write() error {
	if err := i.validate(); err != nil {
		return fmt.Errorf("cannot record the installation: %w", err)
	}
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot record the installation: %w", err)
	}
	// As a whole: it is replaced when the container is shown another configuration, and readers come at any time.
	path := filepath.Join(i.RunDir(), RecordName)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot record the installation: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot record the installation: %w", err)
	}
	return nil
}

// RemoveRunDir removes a container's run directory, and its namespace's when that is empty then. The caller holds the
// lock in it. The lock goes last, so that a new container of the same name sees either a held lock or nothing.
func RemoveRunDir(dir string) error {
	if err := removeChildren(dir, LockName); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, LockName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	removeEmpty(dir)
	return nil
}

// removeLogs removes a container's log directory.
func removeLogs(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	removeEmpty(dir)
	return nil
}

// removeState removes the container's state directory but for the entries named keep, of which the generations keep only the
// configuration that cannot be made again.
func (i Install) removeState(keep []string) error {
	if err := generation.Open(i.StateDir()).Forget(); err != nil {
		return err
	}
	if err := removeChildren(i.StateDir(), keep...); err != nil {
		return err
	}
	removeEmpty(i.StateDir())
	return nil
}

// removeChildren removes what is in dir, except the entries named keep. No dir is no error.
func removeChildren(dir string, keep ...string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains(keep, e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeEmpty removes a container's directory and its namespace's, each if it is empty. Others may be making entries
// there at this moment, so rmdir(2) decides.
func removeEmpty(dir string) {
	os.Remove(dir)
	os.Remove(filepath.Dir(dir))
}
