// Package journal is a container's receipts in a file, one JSON object per line, bounded in size. The lines are chained: see
// package chain for their form, and package notary for how they are written and verified. What reads the journal here does
// not check the chain.
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

	"github.com/gatewarden/gatewarden/internal/chain"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// maxFile bounds one file: with path.1 the journal takes twice as much. It is some thousand receipts.
const maxFile = 4 << 20

// Log gives the journal at path as a chained log. Its only writer is the container's warden.
func Log(path string) chain.Log { return chain.Log{Path: path, MaxFile: maxFile, Old: 1} }

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

// Newest gives the sequence number of the last line of the journal at path; 0 if there is none.
func Newest(path string) (last uint64, err error) {
	err = after(path, func(link chain.Link, _ []byte) bool {
		last = link.Seq
		return false
	})
	return last, err
}

// Line is a receipt as it stands in the journal.
type Line struct {
	Seq uint64
	receipt.Receipt
	Text []byte // the whole line, without its newline
}

// After gives the receipts that come after the line with sequence number seq, oldest first, and at most max of them: then
// the newest. It reads no more of the files than that.
func After(path string, seq uint64, max int) ([]Line, error) {
	var found []Line
	err := after(path, func(link chain.Link, text []byte) bool {
		if link.Seq <= seq || len(found) == max {
			return false
		}
		if r, err := parseLine(text); err == nil {
			found = append(found, Line{link.Seq, r, bytes.Clone(text)})
		}
		return true
	})
	slices.Reverse(found)
	return found, err
}

// after calls fn with the lines of the chain, newest first, until it returns false.
func after(path string, fn func(chain.Link, []byte) bool) error {
	files, err := Log(path).OpenAll()
	if err != nil {
		return fmt.Errorf("cannot read journal: %w", err)
	}
	defer chain.CloseAll(files)
	more := true
	for _, f := range files {
		err := chain.Backward(f, f.Info.Size(), maxFile, func(text []byte, _ int64, _ bool) bool {
			if _, link, err := chain.Split(text); err == nil {
				more = fn(link, text)
			}
			return more
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// readFile gives the last n receipts of one file, and what file it was; nothing if it is the same as not.
func readFile(path string, n int, not fs.FileInfo, skipped *SkippedError) ([]receipt.Receipt, fs.FileInfo, error) {
	f, err := chain.Open(path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info := f.Info
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
	if len(line) >= chain.MaxLine {
		return r, fmt.Errorf("a line is longer than %d bytes", chain.MaxLine)
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("a line is not a receipt: %w", err)
	}
	if r.Version != 1 {
		return r, fmt.Errorf("a line is a receipt of version %d; this program knows version 1", r.Version)
	}
	return r, nil
}
