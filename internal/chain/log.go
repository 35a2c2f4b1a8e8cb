package chain

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Log is a chained log: the file at Path, to which lines are appended, and older ones: Path.1, which was rotated away
// last, to Path.Old.
type Log struct {
	Path    string
	MaxFile int64 // bounds each file, in bytes
	Old     int
}

// Numbered gives the path of the k-th file; 0 is the newest.
func (l Log) Numbered(k int) string {
	if k == 0 {
		return l.Path
	}
	return l.Path + "." + strconv.Itoa(k)
}

// File is one file of a log, open.
type File struct {
	*os.File
	Info fs.FileInfo
}

// Same tells whether two are the same file.
func (f File) Same(o File) bool { return os.SameFile(f.Info, o.Info) }

// Open opens a file of a log; links, and what is not a regular file, are refused. The flags are open(2)'s; a file that is
// made is root's alone.
func Open(path string, flags int) (File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return File{}, fmt.Errorf("cannot open log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (%v); remove it", path, info.Mode())
	}
	if err != nil {
		f.Close()
		return File{}, fmt.Errorf("cannot open log: %w", err)
	}
	return File{f, info}, nil
}

// OpenAll opens the files of the log for reading, newest first. A rotation may go on meanwhile: it only moves files to
// higher numbers, so none is missed, and one that comes by again is left out. No log gives no files.
func (l Log) OpenAll() ([]File, error) {
	var all []File
	for k := 0; k <= l.Old; k++ {
		f, err := Open(l.Numbered(k), os.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			CloseAll(all)
			return nil, err
		}
		if slices.ContainsFunc(all, f.Same) {
			f.Close()
			continue
		}
		all = append(all, f)
	}
	return all, nil
}

// CloseAll closes files.
func CloseAll(all []File) {
	for _, f := range all {
		f.Close()
	}
}

// Backward calls fn with what lies between the newlines in the first size bytes of f, the last first, until fn returns
// false or more than limit bytes were looked at. begin is its offset. ended tells whether a newline follows, which only the
// last one can lack; when there is nothing after the last newline, that is no piece.
func Backward(f io.ReaderAt, size, limit int64, fn func(piece []byte, begin int64, ended bool) bool) error {
	var buf []byte // of [pos, pos+len(buf)), what was read and not yet given out
	pos, ended := size, false
	for chunk := int64(8 << 10); ; chunk *= 2 {
		for {
			end := len(buf)
			if end > 0 && buf[end-1] == '\n' {
				end, ended = end-1, true
			}
			i := bytes.LastIndexByte(buf[:end], '\n')
			if i < 0 && pos > 0 {
				break // its beginning is not read yet
			}
			if len(buf) == 0 {
				return nil
			}
			if !fn(buf[i+1:end], pos+int64(i)+1, ended) {
				return nil
			}
			buf, ended = buf[:i+1], true
		}
		if size-pos >= limit {
			return nil
		}
		n := min(chunk, pos)
		more := make([]byte, n, n+int64(len(buf)))
		if _, err := f.ReadAt(more, pos-n); err != nil {
			return fmt.Errorf("cannot read log: %w", err)
		}
		buf, pos = append(more, buf...), pos-n
	}
}
