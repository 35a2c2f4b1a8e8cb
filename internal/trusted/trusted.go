// Package trusted opens files that must be the administrator's alone: profiles, settings, secrets, mount sources.
//
// A path counts as trusted if whoever is not root can neither change what it names nor replace any part of it. It is
// walked from "/" by descriptor, one component at a time and without following links, so that what was checked is what
// is opened. Every component must belong to UID 0 and be writable by its owner alone. A sticky directory such as /tmp may
// be above others: nobody but root can rename or remove root's names in it (unlink(2), EPERM), and that the next
// component is root's is checked. POSIX ACLs need no look of their own, since the group bits
// of a file with an ACL show the ACL's mask (acl(5)): an entry that grants writing shows up as group-writable.
package trusted

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Finding is one reason not to trust a path.
type Finding struct {
	Component string // the file or directory that is wrong, which may be a parent of the path
	Found     string // what it is: owner, mode, kind
	Cure      string // what an administrator can do about it; empty: nothing in general
}

func (f Finding) String() string {
	s := f.Component + " " + f.Found
	if f.Cure != "" {
		s += "; " + f.Cure
	}
	return s
}

// Error says why a path is not trusted: everything that was found, from "/" downwards.
type Error struct {
	Path     string
	Findings []Finding
}

func (e *Error) Error() string {
	all := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		all[i] = f.String()
	}
	return fmt.Sprintf("%s is not trusted: %s", e.Path, strings.Join(all, "; also "))
}

// ErrChanged is wrapped by the errors of ReadFile, ReadSecret and CopySecret for a file that was being written meanwhile. A repeat
// can help.
var ErrChanged = errors.New("changed while it was being read")

// want is what the last component of a path must be.
type want int

const (
	file   want = iota // a regular file with one name
	secret             // and without any access for group and others
	dir
	source // a regular file or a directory
)

// Open opens a regular file for reading. Its error is an *Error if the file is there but not trusted; otherwise it wraps
// the system's, so that errors.Is with fs.ErrNotExist works.
func Open(path string) (*os.File, error) { return open(path, file) }

// OpenDir opens a directory for reading, with errors like Open's.
func OpenDir(path string) (*os.File, error) { return open(path, dir) }

// OpenPath gives an O_PATH descriptor of a regular file or directory, as the source of a mount, with errors like Open's.
// The file may have several names, as all files have on some image-based systems: what it holds is root's alone anyway.
func OpenPath(path string) (*os.File, error) { return open(path, source) }

// ReadFile reads a regular file of at most max bytes, with errors like Open's.
func ReadFile(path string, max int64) ([]byte, error) { return read(path, max, file) }

// ReadSecret is ReadFile for a file that nobody but root may even read. What it gives is the only copy in this process's
// memory, for the caller to clear.
func ReadSecret(path string, max int64) ([]byte, error) { return read(path, max, secret) }

// CopySecret writes the content of a file that nobody but root may read, of at most max bytes, to the regular file to, and
// gives its length in bytes. The kernel copies: nothing of it comes into this process's memory (sendfile(2)). Errors are
// Open's.
func CopySecret(to *os.File, path string, max int64) (int64, error) {
	return take(path, max, secret, func(from *os.File, size int64) (int64, error) {
		var copied int64
		for copied <= size {
			// One byte more than the size, so that a file that has grown is seen.
			n, err := unix.Sendfile(int(to.Fd()), int(from.Fd()), nil, int(size+1-copied))
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return copied, os.NewSyscallError("sendfile", err)
			}
			if n == 0 {
				break
			}
			copied += int64(n)
		}
		return copied, nil
	})
}

func read(name string, max int64, w want) (data []byte, err error) {
	_, err = take(name, max, w, func(f *os.File, size int64) (int64, error) {
		// At once, so that no copy stays behind in a buffer that was outgrown. One byte more than the size, so that a file that has grown is seen.
		data = make([]byte, size+1)
		n, err := io.ReadFull(f, data)
		data = data[:n]
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
		return int64(n), err
	})
	if err != nil {
		clear(data)
		return nil, err
	}
	return data, nil
}

// take opens a file and has f take its content, which has size bytes, and sees to it that what f took was whole. F gives how many bytes there were.
func take(name string, max int64, w want, f func(file *os.File, size int64) (int64, error)) (int64, error) {
	file, err := open(name, w)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	var before, after unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &before); err != nil {
		return 0, fmt.Errorf("stat %s: %w", name, err)
	}
	if before.Size > max {
		return 0, &Error{name, []Finding{{
			name, fmt.Sprintf("is %d bytes long; at most %d are read", before.Size, max), "",
		}}}
	}
	n, err := f(file, before.Size)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	if err := unix.Fstat(int(file.Fd()), &after); err != nil {
		return 0, fmt.Errorf("stat %s: %w", name, err)
	}
	// Not ctime: a rename over the file, as editors do it, changes that too (the link count drops), but not what was
	// read. Before Linux 6.13 mtime moves only with the timer tick, so a rewrite in place of the same length within a few
	// milliseconds can go unseen; renaming a finished file into place is always safe.
	if n != before.Size || after.Size != before.Size || after.Mtim != before.Mtim ||
		after.Mode != before.Mode || after.Uid != before.Uid {
		return 0, fmt.Errorf("read %s: the file %w; try again", name, ErrChanged)
	}
	return n, nil
}

func open(name string, w want) (*os.File, error) {
	switch {
	case strings.ContainsRune(name, 0):
		return nil, fmt.Errorf("open %q: the path holds a NUL character", name)
	case !path.IsAbs(name):
		return nil, fmt.Errorf("open %q: the path is not absolute; write it from / on", name)
	case path.Clean(name) != name:
		return nil, fmt.Errorf("open %s: the path is not in its shortest form; write %s", name, path.Clean(name))
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /: %w", err)
	}
	parent := -1
	defer func() {
		unix.Close(fd)
		if parent >= 0 {
			unix.Close(parent)
		}
	}()
	var found []Finding
	at, rest, last := "/", strings.TrimPrefix(name, "/"), ""
	for {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, fmt.Errorf("stat %s: %w", at, err)
		}
		findings, passable := judge(at, &st, rest != "", w)
		found = append(found, findings...)
		if !passable {
			return nil, &Error{name, found}
		}
		if rest == "" {
			if len(found) > 0 {
				return nil, &Error{name, found}
			}
			return final(name, parent, fd, last, &st, w)
		}
		last, rest, _ = strings.Cut(rest, "/")
		at = path.Join(at, last)
		next, err := openat(fd, last, unix.O_PATH|unix.O_NOFOLLOW)
		if errors.Is(err, fs.ErrNotExist) && len(found) > 0 {
			// Somebody may have removed it: not the same as a file that its administrator never made.
			return nil, &Error{name, append(found, Finding{at, "does not exist", ""})}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open %s: %s does not exist (%w)", name, at, err)
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: at %s: %w", name, at, err)
		}
		if parent >= 0 {
			unix.Close(parent)
		}
		parent, fd = fd, next
	}
}

// final gives the file behind the checked O_PATH descriptor fd. What is to be read must be opened once more by its name,
// without blocking in case of a FIFO; the two must be the same.
func final(name string, parent, fd int, last string, st *unix.Stat_t, w want) (*os.File, error) {
	if w == source {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", name, err)
		}
		return os.NewFile(uintptr(dup), name), nil
	}
	if parent < 0 { // "/" itself
		parent, last = fd, "."
	}
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
	if w == dir {
		flags |= unix.O_DIRECTORY
	}
	opened, err := openat(parent, last, flags)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	var again unix.Stat_t
	err = unix.Fstat(opened, &again)
	if err == nil && (again.Dev != st.Dev || again.Ino != st.Ino) {
		err = fmt.Errorf("the file %w; try again", ErrChanged)
	}
	if err != nil {
		unix.Close(opened)
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(opened), name), nil
}

func openat(at int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// judge gives what is wrong with one component. passable says whether the walk can go on to find more.
func judge(at string, st *unix.Stat_t, inner bool, w want) (found []Finding, passable bool) {
	kind := st.Mode & unix.S_IFMT
	isDir, isFile := kind == unix.S_IFDIR, kind == unix.S_IFREG
	switch {
	case kind == unix.S_IFLNK:
		return []Finding{{at, "is a symbolic link", "use the path that it leads to"}}, false
	case inner && !isDir:
		return []Finding{{at, "is " + kindName(kind) + ", not a directory", ""}}, false
	case !inner && w == dir && !isDir:
		return []Finding{{at, "is " + kindName(kind) + ", not a directory", ""}}, false
	case !inner && (w == file || w == secret) && !isFile:
		return []Finding{{at, "is " + kindName(kind) + ", not a regular file", ""}}, false
	case !inner && w == source && !isFile && !isDir:
		return []Finding{{at, "is " + kindName(kind) + ", neither a regular file nor a directory", ""}}, false
	}
	mode := st.Mode & 0o7777
	if st.Uid != 0 {
		found = append(found, Finding{at, fmt.Sprintf("belongs to UID %d, not to root", st.Uid), "chown root " + quote(at)})
	}
	private := !inner && w == secret // judged more strictly below
	sticky := inner && mode&unix.S_ISVTX != 0
	if mode&0o022 != 0 && !private && !sticky {
		who := "others"
		switch mode & 0o022 {
		case 0o020:
			who = fmt.Sprintf("group %d", st.Gid)
		case 0o022:
			who = fmt.Sprintf("group %d and others", st.Gid)
		}
		cure := "chmod go-w " + quote(at)
		found = append(found, Finding{at, fmt.Sprintf("is writable by %s (mode %04o)", who, mode), cure})
	}
	if private && mode&0o077 != 0 {
		found = append(found, Finding{
			at, fmt.Sprintf("holds secrets, and group or others have access to it (mode %04o)", mode),
			"chmod 0600 " + quote(at),
		})
	}
	if !inner && (w == file || w == secret) && st.Nlink > 1 {
		found = append(found, Finding{
			at, fmt.Sprintf("has %d names (hard links); a file of one name is needed", st.Nlink),
			"find the others with: find / -xdev -samefile " + quote(at),
		})
	}
	return found, true
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFBLK:
		return "a block device"
	case unix.S_IFCHR:
		return "a character device"
	default:
		return "of an unknown kind"
	}
}

// quote makes a path fit for a shell's command line, for the cures.
func quote(p string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%,", r)
	}
	if !strings.ContainsFunc(p, func(r rune) bool { return !plain(r) }) {
		return p
	}
	return "'" + strings.ReplaceAll(p, "'", `'\''`) + "'"
}
