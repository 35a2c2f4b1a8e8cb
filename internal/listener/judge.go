package listener

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/profile"
)

// Verdict says whether an address is the gateway's.
type Verdict string

// The verdicts.
const (
	Missing   Verdict = "missing"   // nobody listens on the address
	Owned     Verdict = "owned"     // exactly one socket listens on it, and it is the gateway's
	Contested Verdict = "contested" // somebody else listens on it or beside it, or more than one socket does
)

// Judge says whose a is, given what Find found for it and who owns which socket inode. With owned always false it tells
// whether an address is free.
//
//   - Contested: a socket that is not owned listens on the port, be it a twin under SO_REUSEPORT, a wildcard, or another
//     address; or two sockets, even if both are owned, share the connections to a, so that no proof about one of them
//     says who answers next. The Socket is the one too many.
//   - Missing: no socket takes connections to a. The Socket is an owned one on another address of the port, if there is
//     any (Inode is 0 otherwise): what the gateway listens on instead.
//   - Owned: the Socket is the gateway's.
//
// The gateway may hold other addresses of the same port: programs that bind 127.0.0.1 and ::1 are common.
//
// Of a unix path the file decides, see findPath. What others have bound by the same name and nobody reaches does not count.
func Judge(a profile.Address, sockets []Socket, owned func(inode uint64) bool) (Socket, Verdict) {
	if _, abstract := a.Abstract(); a.Network == "unix" && !abstract {
		return judgePath(sockets, owned)
	}
	var owner, other Socket
	covering := 0
	for _, s := range sockets {
		switch {
		case !owned(s.Inode):
			return s, Contested
		case covers(a, s):
			covering++
			if covering > 1 {
				return s, Contested
			}
			owner = s
		default:
			other = s
		}
	}
	switch {
	case len(sockets) >= maxSockets:
		return sockets[len(sockets)-1], Contested // Find may have left out foreign ones
	case covering == 1:
		return owner, Owned
	}
	return other, Missing
}

// judgePath is Judge for a unix path.
func judgePath(sockets []Socket, owned func(inode uint64) bool) (Socket, Verdict) {
	var at, elsewhere *Socket // the one at the path, if any; an owned one that was bound by its name and is not there
	for i := range sockets {
		switch s := &sockets[i]; {
		case s.Exact && s.Inode != NoSocket && !owned(s.Inode):
			return *s, Contested
		case s.Exact:
			at = s
		case owned(s.Inode):
			elsewhere = s
		}
	}
	switch {
	case at != nil && at.Inode != NoSocket:
		return *at, Owned
	case at != nil && elsewhere != nil:
		return *at, Contested // connections go by the file, and it is not its
	case elsewhere != nil:
		return *elsewhere, Missing // its file has been removed
	}
	return Socket{}, Missing
}

// covers tells whether s takes connections to a.
func covers(a profile.Address, s Socket) bool {
	if a.Network == "unix" {
		return s.Exact
	}
	if !s.Local.IsValid() || s.Local.Port() != a.AddrPort.Port() {
		return false
	}
	want, bound := a.AddrPort.Addr().Unmap(), s.Local.Addr()
	switch {
	case bound.Unmap() == want:
		return true
	case !bound.IsUnspecified():
		return false
	case bound.Is4():
		return want.Is4()
	}
	return want.Is6() || !s.V6Only
}

// ErrGone says that a process is gone. It is wrapped in the error of Inodes.
var ErrGone = errors.New("the process is gone")

// maxDescriptors bounds the descriptors that Inodes looks at: the kernel's default of fs.nr_open.
const maxDescriptors = 1 << 20

// Inodes gives the inodes of the sockets that a process holds. ProcDir is an open descriptor of its /proc/PID directory in
// the host's procfs (O_PATH will do), so that a reused PID can never be meant.
//
// It is a snapshot without atomicity: descriptors that come and go while it is taken may or may not be in it. A dead
// process gives ErrGone; one that has ended but was not waited for holds nothing.
//
// The descriptors are those of the first thread, which all threads share in nearly every program. If that one has ended
// (pthread_exit in main), the process is no less alive, and its other threads tell.
func Inodes(procDir int) (map[uint64]struct{}, error) {
	inodes := map[uint64]struct{}{}
	seen, err := addInodes(inodes, procDir, "fd")
	if err != nil || seen > 0 {
		return inodes, err
	}
	task, err := openat(procDir, "task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, inodesError(err)
	}
	dir := os.NewFile(uintptr(task), "task")
	defer dir.Close()
	threads, err := dir.Readdirnames(maxThreads)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, inodesError(err)
	}
	for _, thread := range threads {
		if seen, err := addInodes(inodes, task, thread+"/fd"); err == nil && seen > 0 {
			break
		}
	}
	return inodes, nil
}

// maxThreads bounds the threads that Inodes looks at.
const maxThreads = 1024

// addInodes adds the inodes of the sockets in a directory of descriptors, and tells how many descriptors are in it.
func addInodes(inodes map[uint64]struct{}, at int, name string) (seen int, err error) {
	dir, err := openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return 0, inodesError(err)
	}
	defer unix.Close(dir)
	var buf [4096]byte
	var link [32]byte // longer targets are no sockets
	var names []string
	for {
		n, err := unix.Getdents(dir, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, inodesError(err)
		}
		if n == 0 {
			return seen, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		if seen += len(names); seen > maxDescriptors {
			return 0, fmt.Errorf("cannot read the sockets of a process: it holds more than %d descriptors", maxDescriptors)
		}
		for _, name := range names {
			n, err := unix.Readlinkat(dir, name, link[:])
			switch {
			case errors.Is(err, unix.ENOENT):
				continue // closed meanwhile, or the process has gone: the next getdents tells
			case err != nil:
				return 0, inodesError(err)
			}
			if inode, ok := socketInode(string(link[:n])); ok {
				inodes[inode] = struct{}{}
			}
		}
	}
}

// openat retries what a signal interrupts.
func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

func inodesError(err error) error {
	// procfs says ENOENT when a name below /proc/PID is looked up after the process has gone, and ESRCH when an open
	// file of it is used.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	return fmt.Errorf("cannot read the sockets of a process: %w", err)
}

// socketInode reads the N of "socket:[N]".
func socketInode(link string) (uint64, bool) {
	digits, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	digits, ok = strings.CutSuffix(digits, "]")
	if !ok || digits == "" || digits[0] == '+' {
		return 0, false
	}
	inode, err := strconv.ParseUint(digits, 10, 64)
	return inode, err == nil
}
