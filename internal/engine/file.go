package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of an engine's configuration, in bytes. containerd's whole default is 12 KiB.
const maxFile = 1 << 20

// read gives the content of a regular file that may be to be changed, and nil if there is none. A link is not followed:
// whoever made it one has its target written by something else.
func read(path string) ([]byte, error) { return open(path, unix.O_NOFOLLOW) }

// look is read for a file that is somebody else's alone.
func look(path string) ([]byte, error) { return open(path, 0) }

func open(path string, flags int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link, so something else writes it; change it there", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

// list gives the paths that match a pattern of filepath.Match, sorted.
func list(pattern string) ([]string, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("cannot list %s: %w", pattern, err)
	}
	slices.Sort(paths)
	return paths, nil
}

// Apply makes the changes of the plan, and gives those that were made, also if one fails.
func (p *Plan) Apply() (done []Change, err error) {
	for _, c := range p.Changes {
		if err := c.apply(); err != nil {
			return done, fmt.Errorf("cannot %s %s: %w", c.Action(), c.Path, err)
		}
		done = append(done, c)
	}
	return done, nil
}

func (c Change) apply() error {
	// The plan was made of what was there then.
	now, err := read(c.Path)
	if err != nil {
		return err
	}
	if (now == nil) != (c.Before == nil) || !bytes.Equal(now, c.Before) {
		return errors.New("somebody else has changed it just now; try again")
	}
	dir := filepath.Dir(c.Path)
	if c.After == nil {
		if err := os.Remove(c.Path); err != nil {
			return err
		}
		return syncDir(dir)
	}
	return Replace(c.Path, c.After)
}

// Replace puts data where path is, at once. The file keeps its owner and mode; a new one is everybody's to read, as
// engines' configurations are. Directories above it are made.
func Replace(path string, data []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	uid, gid, mode := os.Getuid(), os.Getgid(), uint32(0o644)
	var st unix.Stat_t
	switch err := unix.Lstat(path, &st); {
	case err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is there and not a regular file")
	case err == nil:
		uid, gid, mode = int(st.Uid), int(st.Gid), st.Mode&0o7777
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	// No engine reads a name that begins with a dot or ends otherwise than in .toml, .conf or .json.
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".gatewarden")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(temporary)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chown(uid, gid); err != nil {
		return err
	}
	// After chown, which clears set-ID bits.
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
