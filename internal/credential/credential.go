// Package credential gives a gateway its credentials: files in a directory that nobody else can even name.
//
// The directory is the root of a filesystem in memory (ramfs, whose pages are never swapped; those of tmpfs are) that is
// mounted nowhere. It exists as a descriptor only (fsmount(2)), and as long as anybody has that descriptor open. No mount
// table shows it, and the way through /proc/PID/fd needs PTRACE_MODE_READ_FSCREDS (proc_pid_fd(5)): the container's root
// does not have that on a process under another UID, whatever files it may read, unless it has CAP_SYS_PTRACE.
//
// It needs Linux 5.12: fsopen(2), fsconfig(2) and fsmount(2) came with 5.2, mount_setattr(2) with 5.12.
package credential

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/mount"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/trusted"
)

// Bounds in bytes. The memory is the kernel's, and cannot be swapped.
const (
	MaxSize  = 1 << 20 // of one credential
	MaxTotal = 4 << 20 // of all together
)

// Mount makes a filesystem that holds the credentials in list, read anew from the host, and gives an O_PATH descriptor of
// its root directory; nil for an empty list. The directory has mode 0500 and each file 0400, all of them belong to uid and gid,
// and nobody can change them. The filesystem ends with the last descriptor of it.
//
// The content goes from the host's file to this one inside the kernel, and never through the memory of this process. Errors
// name the credential and the host's file: they wrap a *trusted.Error, or a system's error such as fs.ErrNotExist.
func Mount(list []profile.Credential, uid, gid uint32) (_ *os.File, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	dir, err := mount.Memory("ramfs", map[string]string{"mode": "0500"})
	if err != nil {
		return nil, fmt.Errorf("cannot make a filesystem for the credentials: %w", err)
	}
	defer func() {
		if err != nil {
			dir.Close()
		}
	}()
	left := int64(MaxTotal)
	for _, c := range list {
		n, err := add(dir, c, uid, gid, left)
		if err != nil {
			return nil, fmt.Errorf("credential %s: %w", c.Name, err)
		}
		left -= n
	}
	if err := seal(dir, uid, gid); err != nil {
		return nil, fmt.Errorf("cannot make the filesystem of the credentials read-only: %w", err)
	}
	return dir, nil
}

// add copies one credential, of which at most left bytes have room, and gives its size.
func add(dir *os.File, c profile.Credential, uid, gid uint32, left int64) (int64, error) {
	fd, err := unix.Openat(int(dir.Fd()), c.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o400)
	if err != nil {
		return 0, os.NewSyscallError("open", err)
	}
	f := os.NewFile(uintptr(fd), c.Name)
	defer f.Close()
	n, err := trusted.CopySecret(f, c.Source, MaxSize)
	if err != nil {
		return 0, err
	}
	if n > left {
		return 0, fmt.Errorf("%s: with it the credentials have more than %d bytes together; make them smaller", c.Source, MaxTotal)
	}
	if err := f.Chown(int(uid), int(gid)); err != nil {
		return 0, err
	}
	return n, nil
}

// seal gives the directory to its owner, and takes from everybody the right to change anything.
func seal(dir *os.File, uid, gid uint32) error {
	fd := int(dir.Fd())
	if err := unix.Fchownat(fd, "", int(uid), int(gid), unix.AT_EMPTY_PATH); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW}
	err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
	if errors.Is(err, unix.EINVAL) {
		// Linux before 5.14 does not know nosymfollow. There is no link in it, and nobody can make one.
		attr.Attr_set &^= unix.MOUNT_ATTR_NOSYMFOLLOW
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
	}
	return os.NewSyscallError("mount_setattr", err)
}

// Variable is what tells a gateway where its credentials are, KEY=VALUE: the directory is its descriptor number fd. It holds for
// whoever inherits that descriptor: /proc/self is whose path it is that is looked up.
func Variable(fd int) string {
	return profile.CredentialsVariable + "=/proc/self/fd/" + strconv.Itoa(fd)
}
