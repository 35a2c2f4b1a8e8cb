package listener

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/lookup"
)

// diagFile is a file as unix_diag tells it (struct unix_diag_vfs of <linux/unix_diag.h>): the lower half of its inode
// number, and the device of its superblock in the kernel's own form. Zero: none.
type diagFile struct{ ino, dev uint32 }

// kernelDev is a device number as the kernel holds it (MKDEV of <linux/kdev_t.h>), not as stat(2) gives it.
func kernelDev(major, minor uint32) uint32 { return major<<20 | minor }

// findPath gives the listener that a connection by path reaches, first and Exact, or what is at path instead (NoSocket),
// and listeners that were bound by that name and are not reached.
//
// The file is looked at before and after the sockets are: one that was replaced in between is nobody's.
func (t *Table) findPath(name string, procDir int, deadline time.Time) ([]Socket, error) {
	before, err := fileAt(procDir, name)
	if err != nil {
		return nil, err
	}
	defer before.close()
	var reached []Socket
	var named []Socket
	want := path.Clean(name)
	err = t.dump(unixRequest(), deadline, func(b []byte) {
		s, ok := parseUnix(b)
		switch {
		case !ok:
		case before.is(s.file):
			s.Exact = true
			reached = append(reached, s)
		case path.Clean(s.Name) == want && len(named) < maxSockets-1:
			named = append(named, s)
		}
	})
	if err != nil {
		return nil, err
	}
	after, err := fileAt(procDir, name)
	if err != nil {
		return nil, err
	}
	defer after.close()
	if after != nil && (len(reached) == 0 || !after.is(reached[0].file)) {
		reached = []Socket{{Inode: NoSocket, UID: after.stat.Uid, Name: name, Exact: true}}
	} else if after == nil {
		reached = nil
	}
	return append(reached, named...), nil
}

// pathFile is what a path in the container leads to. Nil is nothing.
type pathFile struct {
	file    *os.File // O_PATH: while it is open its inode number is not given to another file
	stat    unix.Statx_t
	procDir int
}

// fileAt looks up name below the root of a process, as that process would.
func fileAt(procDir int, name string) (*pathFile, error) {
	root, err := openat(procDir, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			err = fmt.Errorf("%w: %w", ErrGone, err)
		}
		return nil, fmt.Errorf("cannot open the root of a process of the container: %w", err)
	}
	defer unix.Close(root)
	file, err := lookup.Open(root, name, lookup.InRoot, 0)
	for _, none := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP} {
		if errors.Is(err, none) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	f := &pathFile{file: file, procDir: procDir}
	if err := unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &f.stat); err != nil {
		file.Close()
		return nil, os.NewSyscallError("statx", err)
	}
	return f, nil
}

func (f *pathFile) close() {
	if f != nil {
		f.file.Close()
	}
}

// is tells whether it is the file of a socket.
func (f *pathFile) is(d diagFile) bool {
	switch {
	case f == nil || d == (diagFile{}) || uint32(f.stat.Ino) != d.ino:
		return false
	case kernelDev(f.stat.Dev_major, f.stat.Dev_minor) == d.dev:
		return true
	}
	// Btrfs, and overlays over several filesystems, show another device to stat(2) than that of the superblock. Btrfs counts
	// its inodes anew in each subvolume, so several sockets can fit; then Judge wants all of them to be the gateway's.
	return f.superblock() == d.dev
}

// maxMountinfo bounds what is read of a mountinfo, in bytes.
const maxMountinfo = 16 << 20

// superblock gives the device of the superblock that the file is on, from the process's mountinfo, or 0.
func (f *pathFile) superblock() uint32 {
	fd, err := openat(f.procDir, "mountinfo", unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return 0
	}
	table := os.NewFile(uintptr(fd), "mountinfo")
	defer table.Close()
	mounts, err := mountinfo.GetMountsFromReader(io.LimitReader(table, maxMountinfo), func(m *mountinfo.Info) (skip, stop bool) {
		return uint64(m.ID) != f.stat.Mnt_id, false
	})
	if err != nil || len(mounts) != 1 {
		return 0
	}
	return kernelDev(uint32(mounts[0].Major), uint32(mounts[0].Minor))
}
