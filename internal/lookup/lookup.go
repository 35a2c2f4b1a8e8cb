// Package lookup opens paths below a directory whose content belongs to somebody else and can change at any time, such as
// a container's root. The kernel does the whole walk (openat2(2), Linux 5.6), so there is no moment at which a link put in
// the way could lead out of the directory.
package lookup

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Scope says how far a walk may go.
type Scope uint64

// The scopes. None follows the magic links of /proc.
const (
	// InRoot takes the directory for "/": absolute paths, links and ".." stay below it.
	InRoot Scope = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	// InRootWithoutLinks is InRoot, and a link on the way is an error (ELOOP).
	InRootWithoutLinks Scope = InRoot | unix.RESOLVE_NO_SYMLINKS
	// BeneathWithoutLinks refuses what leads out of the directory (EXDEV), and links.
	BeneathWithoutLinks Scope = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS
)

// attempts bounds how often a walk is begun anew. The kernel gives EAGAIN when a rename anywhere on the system raced with
// the lookup of ".."; somebody who renames without pause must not hold us up.
const attempts = 128

// Open opens name below the directory dir with O_PATH and O_CLOEXEC, and flags beside them.
func Open(dir int, name string, scope Scope, flags int) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_PATH | unix.O_CLOEXEC, Resolve: uint64(scope)}
	err := error(unix.EAGAIN)
	for range attempts {
		var fd int
		if fd, err = unix.Openat2(dir, name, &how); err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.ENOSYS) {
		err = fmt.Errorf("this kernel has no openat2, which came with Linux 5.6: %w", err)
	}
	return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
}
