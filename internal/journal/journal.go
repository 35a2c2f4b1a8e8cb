// Package journal keeps a container's receipts in a file, one JSON object per line, bounded in size.
package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/receipt"
)

const (
	// maxLine bounds one receipt with its newline, in bytes.
	maxLine = 64 << 10
	// maxFile bounds one file: with path.1 the journal takes twice as much. It is some thousand receipts.
	maxFile = 4 << 20
)

// Append adds r to the journal at path, which is created if needed (mode 0600; its directory must exist). A file that is
// full is renamed to path.1 first, and the one before it goes. There must be one appender at a time: the warden.
//
// The line is written by one write(2), so that a reader sees all of it or, if the machine fails meanwhile, a torn end that
// Read leaves out and the next Append closes with a newline. There is no fdatasync: it would put a disk's latency into
// every restart. A receipt survives the death of any process, and may be lost with the machine's power.
func Append(path string, r *receipt.Receipt) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot encode receipt %s: %w", r.ID, err)
	}
	line = append(line, '\n')
	if len(line) > maxLine {
		return fmt.Errorf("cannot add receipt %s to journal %s: it is longer than %d bytes", r.ID, path, maxLine)
	}
	// A second round is needed only after a rotation.
	for range 2 {
		f, size, err := open(path, os.O_RDWR|os.O_APPEND|os.O_CREATE)
		if err != nil {
			return fmt.Errorf("cannot add receipt %s: %w", r.ID, err)
		}
		if size+int64(len(line))+1 > maxFile {
			f.Close()
			if err := os.Rename(path, path+".1"); err != nil {
				return fmt.Errorf("cannot rotate journal: %w", err)
			}
			continue
		}
		err = appendTo(f, size, line)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("cannot add receipt %s to journal %s: %w", r.ID, path, err)
		}
		return nil
	}
	return fmt.Errorf("cannot add receipt %s: journal %s is full again right after its rotation", r.ID, path)
}

func appendTo(f *os.File, size int64, line []byte) error {
	if size > 0 {
		var end [1]byte
		if _, err := f.ReadAt(end[:], size-1); err != nil {
			return err
		}
		if end[0] != '\n' { // torn
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err := f.Write(line); err != nil {
		// What a full disk took of it is no receipt. If this fails too, it is one more torn line.
		f.Truncate(size)
		return err
	}
	return nil
}

// open refuses what is not a regular file, and links.
func open(path string, flags int) (*os.File, int64, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot open journal: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (%v); remove it", path, info.Mode())
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("cannot open journal: %w", err)
	}
	return f, info.Size(), nil
}

// SkippedError says that a journal has lines that are no receipts: torn by a crash or a full disk, or written by a later
// version. The receipts that Read returns with it are good.
type SkippedError struct {
	Path  string
	Lines int
	Err   error // what is wrong with the last of them
}

func (e *SkippedError) Error() string {
	return fmt.Sprintf("journal %s: left out %d damaged line(s): %v", e.Path, e.Lines, e.Err)
}

func (e *SkippedError) Unwrap() error { return e.Err }

// Read gives the last n receipts of the journal at path, oldest first; all of them if n is not positive. A journal that
// does not exist is empty. With an error of type *SkippedError the receipts are good and some lines were left out, which
// can be older than the receipts returned; with any other error there are none.
func Read(path string, n int) ([]receipt.Receipt, error) {
	skipped := &SkippedError{Path: path}
	// The newest file first. A rotation between the two opens makes the same file appear again as path.1.
	newest, first, err := readFile(path, n, nil, skipped)
	if err != nil {
		return nil, err
	}
	all := newest
	if n <= 0 || len(newest) < n {
		older, _, err := readFile(path+".1", n, first, skipped)
		if err != nil {
			return nil, err
		}
		all = append(older, newest...)
	}
	if n > 0 && len(all) > n {
		all = all[len(all)-n:]
	}
	if skipped.Lines > 0 {
		return all, skipped
	}
	return all, nil
}

// readFile gives the last n receipts of one file, and what file it was; nothing if it is the same as not.
func readFile(path string, n int, not fs.FileInfo, skipped *SkippedError) ([]receipt.Receipt, fs.FileInfo, error) {
	f, _, err := open(path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read journal %s: %w", path, err)
	}
	if not != nil && os.SameFile(info, not) {
		return nil, info, nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read journal %s: %w", path, err)
	}
	if len(b) > maxFile {
		return nil, nil, fmt.Errorf("cannot read journal %s: it is longer than %d bytes; move it away", path, maxFile)
	}
	return parse(b, n, skipped), info, nil
}

// parse gives the last n receipts in b, oldest first, or all if n is not positive. It begins at the end, so that no more
// lines are decoded than are asked for.
func parse(b []byte, n int, skipped *SkippedError) []receipt.Receipt {
	var found []receipt.Receipt
	skip := func(err error) {
		if skipped.Lines++; skipped.Err == nil {
			skipped.Err = err
		}
	}
	if i := bytes.LastIndexByte(b, '\n'); i+1 < len(b) {
		skip(errors.New("the last line is not complete"))
		b = b[:i+1]
	}
	for len(b) > 0 && (n <= 0 || len(found) < n) {
		begin := bytes.LastIndexByte(b[:len(b)-1], '\n') + 1
		line := b[begin : len(b)-1]
		b = b[:begin]
		r, err := parseLine(line)
		if err != nil {
			skip(err)
			continue
		}
		found = append(found, r)
	}
	slices.Reverse(found)
	return found
}

// parseLine reads one receipt. Unknown fields are allowed: a later version may add some.
func parseLine(line []byte) (receipt.Receipt, error) {
	var r receipt.Receipt
	if len(line) >= maxLine {
		return r, fmt.Errorf("a line is longer than %d bytes", maxLine)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("a line is not a receipt: %w", err)
	}
	if r.Version != 1 {
		return r, fmt.Errorf("a line is a receipt of version %d; this program knows version 1", r.Version)
	}
	return r, nil
}
