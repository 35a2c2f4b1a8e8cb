package generation

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/trusted"
)

// owner is whose a generation's files are: root's, and the gateway's group may read them.
type owner struct{ uid, gid uint32 }

// walker goes through a source by descriptors: no name is looked up twice, no link is followed, nothing is opened that could
// block. What it finds, print identifies.
type walker struct {
	ctx     context.Context
	name    string // of the source, for messages
	uid     uint32 // the gateway's, which may own files too
	written bool   // by the gateway: its modes are its own business
	dev     uint64
	entries int
	bytes   int64
	files   []File
	print   hash.Hash
	// copyTo makes the copy of a file or directory; nil: nothing is copied. Of a file it gives the digest of the content.
	copyTo func(rel string, src *os.File, st *unix.Stat_t) (string, error)
}

// walk goes through the directory or file that root, an O_PATH descriptor, is.
func (w *walker) walk(root *os.File) error {
	w.print = newHash()
	st, err := fstat(root)
	if err != nil {
		return err
	}
	w.dev = st.Dev
	// By the descriptor: what was judged is what is read.
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(root.Fd())), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", w.name, err)
	}
	defer f.Close()
	return w.visit(".", f, st, 0)
}

// visit takes up one file or directory that is open.
func (w *walker) visit(rel string, f *os.File, st *unix.Stat_t, depth int) error {
	where := path.Join(w.name, rel)
	if err := w.ctx.Err(); err != nil {
		return fmt.Errorf("cannot copy %s: %w", where, context.Cause(w.ctx))
	}
	if w.entries++; w.entries > MaxEntries {
		return fmt.Errorf("%s holds more than %d files and directories", w.name, MaxEntries)
	}
	if err := w.judge(where, st); err != nil {
		return err
	}
	fmt.Fprintf(w.print, "%q %d %d %o %d %d %d %d.%d %d.%d\n", rel, st.Dev, st.Ino, st.Mode, st.Uid, st.Gid, st.Size,
		st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return w.directory(rel, f, st, depth)
	}
	if w.bytes += st.Size; w.bytes > MaxBytes {
		return fmt.Errorf("%s holds more than %d bytes", w.name, MaxBytes)
	}
	entry := File{Path: rel, Mode: mode(st), Size: st.Size}
	if w.copyTo != nil {
		var err error
		if entry.Digest, err = w.copyTo(rel, f, st); err != nil {
			return fmt.Errorf("cannot copy %s: %w", where, err)
		}
		after, err := fstat(f)
		if err != nil {
			return err
		}
		if after.Size != st.Size || after.Mtim != st.Mtim || after.Ctim != st.Ctim {
			return fmt.Errorf("%s %w; try again", where, trusted.ErrChanged)
		}
	}
	w.files = append(w.files, entry)
	return nil
}

func (w *walker) directory(rel string, f *os.File, st *unix.Stat_t, depth int) error {
	if depth >= MaxDepth {
		return fmt.Errorf("%s has directories deeper than %d", w.name, MaxDepth)
	}
	w.files = append(w.files, File{Path: strings.TrimPrefix(rel+"/", "./"), Mode: mode(st)})
	if rel == "." {
		w.files[len(w.files)-1].Path = "./"
	}
	if w.copyTo != nil {
		if _, err := w.copyTo(rel, nil, st); err != nil {
			return fmt.Errorf("cannot copy %s: %w", path.Join(w.name, rel), err)
		}
	}
	// One more than is allowed tells that there are too many, however many there are.
	names, err := f.Readdirnames(MaxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot list %s: %w", path.Join(w.name, rel), err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.entry(rel, name, f, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(rel, name string, dir *os.File, depth int) error {
	where := path.Join(w.name, rel, name)
	if !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%q has a name that is not plain text", where)
	}
	var before unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &before, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%s cannot be looked at: %w", where, err)
	}
	// A device is not even opened.
	if err := w.judge(where, &before); err != nil {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s cannot be opened: %w", where, err)
	}
	f := os.NewFile(uintptr(fd), where)
	defer f.Close()
	st, err := fstat(f)
	if err != nil {
		return err
	}
	if st.Dev != before.Dev || st.Ino != before.Ino || st.Mode != before.Mode {
		return fmt.Errorf("%s %w; try again", where, trusted.ErrChanged)
	}
	return w.visit(path.Join(rel, name), f, st, depth+1)
}

// judge says what keeps a file or directory out of a generation.
func (w *walker) judge(where string, st *unix.Stat_t) error {
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFLNK:
		return fmt.Errorf("%s is a symbolic link; only files and directories are taken: put the file itself there", where)
	case kind != unix.S_IFREG && kind != unix.S_IFDIR:
		return fmt.Errorf("%s is neither a regular file nor a directory; remove it", where)
	case st.Dev != w.dev:
		return fmt.Errorf("another filesystem is mounted at %s; what is there has to be in the directory itself", where)
	case st.Uid != 0 && st.Uid != w.uid:
		return fmt.Errorf("%s belongs to UID %d, neither root's nor the gateway's: chown root %s", where, st.Uid, where)
	case st.Mode&0o022 != 0 && !w.written:
		return fmt.Errorf("%s has mode %04o and can be written by others than its owner: chmod go-w %s", where, st.Mode&0o7777, where)
	case kind == unix.S_IFREG && st.Nlink > 1:
		return fmt.Errorf("%s has %d names (hard links), so it can be changed from elsewhere: put a copy there", where, st.Nlink)
	case kind == unix.S_IFREG && st.Size > MaxFile:
		return fmt.Errorf("%s is %d bytes long; at most %d are taken", where, st.Size, MaxFile)
	}
	return nil
}

// mode is what a file's or directory's permissions become: its owner is root and its group the gateway's, who may read it. What
// others may is left as it is.
func mode(st *unix.Stat_t) uint32 {
	m := uint32(0o640) | st.Mode&0o004
	if st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Mode&0o111 != 0 {
		m |= 0o110 | st.Mode&0o001
	}
	return m
}

// printOf identifies what is in root at this moment.
func printOf(ctx context.Context, name string, root *os.File, uid uint32) (string, error) {
	w := walker{ctx: ctx, name: name, uid: uid}
	if err := w.walk(root); err != nil {
		return "", err
	}
	return w.sum(), nil
}

func (w *walker) sum() string { return hex.EncodeToString(w.print.Sum(nil)) }

// copyTree copies what is in src.File to the path dst, which must not exist.
func copyTree(ctx context.Context, src Source, dst string, own owner, durable bool) (files []File, print string, err error) {
	w := walker{ctx: ctx, name: src.Path, uid: own.uid, written: src.written}
	var dirs []string
	w.copyTo = func(rel string, src *os.File, st *unix.Stat_t) (string, error) {
		to := filepath.Join(dst, rel)
		if src == nil {
			dirs = append(dirs, to)
			if err := os.Mkdir(to, 0o700); err != nil {
				return "", err
			}
			return "", give(to, own.gid, mode(st))
		}
		return copyFile(src, to, own.gid, mode(st), st.Size, durable)
	}
	if err := w.walk(src.File); err != nil {
		return nil, "", err
	}
	if durable {
		for _, d := range dirs {
			if err := syncDir(d); err != nil {
				return nil, "", err
			}
		}
	}
	return w.files, w.sum(), nil
}

func copyFile(src *os.File, to string, gid, mode uint32, size int64, durable bool) (string, error) {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", err
	}
	sum := newHash()
	// One byte more than there were, so that a file that grows is seen.
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(src, size+1))
	if err == nil && n != size {
		err = trusted.ErrChanged
	}
	if err == nil {
		err = f.Chown(0, int(gid))
	}
	if err == nil {
		err = f.Chmod(os.FileMode(mode))
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func give(name string, gid, mode uint32) error {
	if err := os.Lchown(name, 0, int(gid)); err != nil {
		return err
	}
	return os.Chmod(name, os.FileMode(mode))
}

func fstat(f *os.File) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return &st, nil
}
