package gatewaylog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// maxTail bounds how far back a reader looks, in bytes of each file and of all together.
const maxTail = 16 << 20

// Tail gives up to n of the last lines of the log at path, oldest first, across its rotated files; all of them if n is
// negative. It looks at no more than the last 16 MiB. A line that is not complete yet, and what is not a line of the log
// (torn by a full disk or a crash), is left out. A log that does not exist gives an error that wraps fs.ErrNotExist.
func Tail(path string, n int) ([]Line, error) {
	files, err := openAll(path)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	if len(files) == 0 {
		return nil, fmt.Errorf("cannot read log %s: %w", path, fs.ErrNotExist)
	}
	var tail []Line
	err = last(files, n, func(_ *os.File, r *lineReader) error {
		return r.each(func(l Line) error { tail = append(tail, l); return nil })
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read log %s: %w", path, err)
	}
	return tail, nil
}

// Follow calls fn with the lines that Tail would give, and then with every further line as it is written, through
// rotations, until ctx ends (its error is returned) or fn returns an error (which is returned). It sleeps while nothing is
// written. The log's directory must exist; the log itself may appear later. When lines are rotated away before they could
// be read, one line of the stream "gatewarden" stands for them. If the directory is removed, the error wraps
// fs.ErrNotExist.
func Follow(ctx context.Context, path string, n int, fn func(Line) error) error {
	// The watch comes first: what happens after the files were read is then in its queue.
	w, err := watchDir(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("cannot follow log %s: %w", path, err)
	}
	defer w.Close()
	stop := context.AfterFunc(ctx, func() { w.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	for {
		f, r, err := begin(path, n, fn)
		if err == nil && f == nil {
			err = wait(ctx, w)
		} else if err == nil {
			err = followFrom(ctx, path, f, r, w, fn)
		}
		if err != nil {
			return err
		}
		n = -1 // what appears where nothing was is new, all of it
	}
}

// followFrom follows from f on, which it closes. It returns without an error when the whole log was removed. That f is
// then no longer open matters: an open file would keep the kernel from telling that the directory is removed as well.
func followFrom(ctx context.Context, path string, f *os.File, r *lineReader, w *os.File, fn func(Line) error) error {
	defer func() { f.Close() }()
	for {
		if err := r.each(fn); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil { // a flood must not keep Follow from seeing it
			return err
		}
		next, step, err := successor(path, f)
		if err != nil {
			return err
		}
		if step == stay {
			if err := wait(ctx, w); err != nil {
				return err
			}
			continue
		}
		// The writer closes a file before it renames it: what is in f now is all that will ever be.
		err = r.each(fn)
		if err != nil || step == removed {
			return err
		}
		f.Close()
		f, r = next, newLineReader(next)
		if step == gap {
			err = fn(Line{Time: time.Now().UTC(), Stream: own, Text: "lines were rotated away here before they could be read"})
		}
		if err != nil {
			return err
		}
	}
}

// begin calls fn with the last n lines and gives the newest file, read up to its present end; nil if there is no log.
func begin(path string, n int, fn func(Line) error) (*os.File, *lineReader, error) {
	files, err := openAll(path)
	if err != nil || len(files) == 0 {
		return nil, nil, err
	}
	var reader *lineReader
	err = last(files, n, func(f *os.File, r *lineReader) error {
		if f == files[0] {
			reader = r
		}
		return r.each(fn)
	})
	closeAll(files[1:])
	if err != nil {
		files[0].Close()
		return nil, nil, err
	}
	return files[0], reader, nil
}

// Excerpt gives up to n of the last lines written since a time, for an error's message: sanitized, joined by newlines, at
// most 2 KiB of which the end is kept. It is empty if there is nothing to quote, for whatever reason.
func Excerpt(path string, since time.Time, n int) string {
	const most, cut = 2 << 10, "…"
	tail, err := Tail(path, max(n, 0))
	if err != nil {
		return ""
	}
	var texts []string
	for _, l := range tail {
		if !l.Time.Before(since) {
			texts = append(texts, Sanitize(l.Text))
		}
	}
	s := strings.Join(texts, "\n")
	if len(s) > most {
		from := len(s) - most + len(cut)
		for !utf8.RuneStart(s[from]) {
			from++
		}
		s = cut + s[from:]
	}
	return s
}

// openAll opens the files of the log, newest first. A rotation may go on meanwhile: it moves files one by one to the next
// higher number, so that one number can be vacant for a moment, and a file that was opened can appear again.
func openAll(path string) ([]*os.File, error) {
	var files []*os.File
	var infos []fs.FileInfo
	vacant := 0
	for k := 0; k <= maxFiles && vacant < 2; k++ {
		f, info, err := openLog(numbered(path, k))
		if errors.Is(err, fs.ErrNotExist) {
			vacant++
			continue
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		vacant = 0
		if slices.ContainsFunc(infos, func(i fs.FileInfo) bool { return os.SameFile(i, info) }) {
			f.Close()
			continue
		}
		files, infos = append(files, f), append(infos, info)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func openLog(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (%v)", path, info.Mode())
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("cannot read log: %w", err)
	}
	return f, info, nil
}

// last finds where the last n lines of files (newest first) begin, and calls each with those files, oldest first, and a
// reader that begins there. The newest file is among them even when none of its lines is asked for.
func last(files []*os.File, n int, each func(*os.File, *lineReader) error) error {
	budget := int64(maxTail)
	count := 0
	for count < len(files) && (count == 0 || n != 0 && budget > 0) {
		f := files[count]
		count++
		info, err := f.Stat()
		if err != nil {
			return err
		}
		from, lines, err := findLast(f, info.Size(), n, budget)
		if err != nil {
			return err
		}
		if _, err := f.Seek(from, io.SeekStart); err != nil {
			return err
		}
		budget -= info.Size() - from
		if n > 0 {
			n -= lines
		}
		if from > 0 {
			break
		}
	}
	for _, f := range slices.Backward(files[:count]) {
		if err := each(f, newLineReader(f)); err != nil {
			return err
		}
	}
	return nil
}

// findLast gives the offset at which the last n complete lines among the first size bytes of f begin, and how many they
// are. It looks at no more than budget bytes, from the end. A negative n means as many as the budget allows.
func findLast(f *os.File, size int64, n int, budget int64) (from int64, lines int, err error) {
	var buf [8 << 10]byte
	ends := 0 // newlines seen
	begin := size
	for pos := size; pos > 0; {
		chunk := buf[:min(pos, int64(len(buf)))]
		pos -= int64(len(chunk))
		if _, err := f.ReadAt(chunk, pos); err != nil {
			return 0, 0, err
		}
		for i := len(chunk); ; {
			if i = bytes.LastIndexByte(chunk[:i], '\n'); i < 0 {
				break
			}
			begin = pos + int64(i) + 1
			if ends == n {
				return begin, ends, nil
			}
			ends++
		}
		if size-pos >= budget {
			return begin, max(ends-1, 0), nil
		}
	}
	return 0, ends, nil
}

// lineReader reads the lines of one file. At the end of the file it keeps the beginning of an incomplete line, so that it
// can go on when the file has grown.
type lineReader struct {
	r    io.Reader
	buf  []byte
	from int  // buf[from:to] is read and not yet used
	to   int  //
	skip bool // within a line that is too long to be one
}

func newLineReader(r io.Reader) *lineReader { return &lineReader{r: r, buf: make([]byte, 2*maxLine)} }

// each calls fn with every complete line up to the present end of the file. What is not a line is left out.
func (r *lineReader) each(fn func(Line) error) error {
	for {
		for {
			i := bytes.IndexByte(r.buf[r.from:r.to], '\n')
			if i < 0 {
				break
			}
			l, err := parse(r.buf[r.from : r.from+i])
			r.from += i + 1
			if r.skip {
				r.skip = false
				continue
			}
			if err == nil {
				if err := fn(l); err != nil {
					return err
				}
			}
		}
		r.to = copy(r.buf, r.buf[r.from:r.to])
		r.from = 0
		if r.to >= maxLine {
			r.skip, r.to = true, 0
		}
		n, err := r.r.Read(r.buf[r.to:])
		r.to += n
		if err == io.EOF || err == nil && n == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// step says how a log goes on after one of its files.
type step int

const (
	stay    step = iota // the file is the newest
	follow              // with the next file
	gap                 // the file was rotated away and there may have been others; with the oldest that is left
	removed             // there is no file any more
)

// successor gives the file that follows f in the log, if step is follow or gap.
func successor(path string, f *os.File) (next *os.File, how step, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, stay, fmt.Errorf("cannot follow log %s: %w", path, err)
	}
	at := func(k int) bool {
		other, err := os.Lstat(numbered(path, k))
		return err == nil && os.SameFile(info, other)
	}
	// Files only move to higher numbers, as does this search, so f cannot slip by it.
	for k := 0; k <= maxFiles; k++ {
		for at(k) {
			if k == 0 {
				return nil, stay, nil
			}
			next, _, err := openLog(numbered(path, k-1))
			if errors.Is(err, fs.ErrNotExist) {
				return nil, stay, nil // between two steps of a rotation: the watch will tell
			}
			if err != nil {
				return nil, stay, err
			}
			if at(k) { // no rotation took place between finding f and opening its neighbour
				return next, follow, nil
			}
			next.Close()
		}
	}
	files, err := openAll(path)
	if err != nil {
		return nil, stay, err
	}
	if len(files) == 0 {
		return nil, removed, nil
	}
	closeAll(files[:len(files)-1])
	return files[len(files)-1], gap, nil
}

// watchDir gives a file that becomes readable when a file in dir is written, made, renamed or removed.
func watchDir(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot watch directory %s: %w", dir, os.NewSyscallError("inotify_init1", err))
	}
	const events = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot watch directory %s: %w", dir, os.NewSyscallError("inotify_add_watch", err))
	}
	return os.NewFile(uintptr(fd), "inotify of "+dir), nil
}

// wait sleeps until something happens in the watched directory. What it was does not matter, unless it is the end of the
// directory itself.
func wait(ctx context.Context, w *os.File) error {
	var buf [4096]byte
	n, err := w.Read(buf[:])
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("cannot follow a log: %w", err)
	}
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		mask := binary.NativeEndian.Uint32(b[4:])
		if mask&(unix.IN_DELETE_SELF|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0 {
			return fmt.Errorf("cannot follow a log on: its directory was removed: %w", fs.ErrNotExist)
		}
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		b = b[min(size, len(b)):]
	}
	return nil
}
