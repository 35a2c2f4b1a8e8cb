package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/chain"
)

// Gap stands for lines that were rotated away before they could be read.
type Gap struct {
	From uint64 `json:"from,omitempty"` // the first of them; 0: it is not known which, because the receipt to begin after is gone
	To   uint64 `json:"to"`             // the last of them
}

// UnknownError says that no line of the log has a receipt with that id, and that none was ever rotated away.
type UnknownError struct {
	ID  string
	Log string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("no receipt in %s has the id %.80q, and nothing was rotated away yet", e.Log, e.ID)
}

// pollTime is how often the log is looked at where the kernel does not tell of changes: there is no inotify instance left, or
// the directory does not exist yet.
const pollTime = 200 * time.Millisecond

// recheck bounds the wait for the kernel's word, should that not come.
const recheck = 2 * time.Second

// Follow calls event with every line of the log that is written from now on, or with a since all that come after the line
// with that receipt id, in their order and through rotations, until ctx ends (its error is returned) or a function returns an
// error (which is returned). Where lines are missing because they were rotated away it calls gap first. A since that is not
// in the log is a gap if something was rotated away, and an *UnknownError otherwise. It takes no lock.
func Follow(ctx context.Context, log chain.Log, since string, event func(Event) error, gap func(Gap) error) error {
	w := watch(filepath.Dir(log.Path))
	defer w.close()
	f := &follower{log: log, event: event, gap: gap}
	defer f.close()
	if err := f.begin(since); err != nil {
		return err
	}
	for {
		if err := f.drain(ctx); err != nil {
			return err
		}
		if !w.wait(ctx) {
			return ctx.Err()
		}
	}
}

type follower struct {
	log   chain.Log
	event func(Event) error
	gap   func(Gap) error

	file *chain.File // that is read; nil: there was no log yet
	at   int64       // up to there
	last uint64      // sequence number of the last line; 0: there was none
}

func (f *follower) close() {
	if f.file != nil {
		f.file.Close()
	}
}

// begin finds where to begin.
func (f *follower) begin(since string) error {
	files, err := f.log.OpenAll()
	if err != nil {
		return err
	}
	defer func() {
		for _, o := range files {
			if f.file == nil || !o.Same(*f.file) {
				o.Close()
			}
		}
	}()
	if since == "" {
		if len(files) == 0 {
			return nil
		}
		f.file, f.at = &files[0], files[0].Info.Size()
		// An end that is torn, or being written, begins after the last newline.
		err := chain.Backward(files[0], f.at, f.log.MaxFile, func(text []byte, begin int64, ended bool) bool {
			e, ok := parse(text)
			if !ended && !ok {
				f.at = begin
			}
			if ok {
				f.last = e.Seq
			}
			return !ok
		})
		return err
	}
	oldest := uint64(0)
	for _, file := range files {
		f.file, f.at, f.last = &file, 0, 0
		found := false
		first := true
		err := f.read(func(e Event) error {
			if first {
				oldest, first = e.Seq, false
			}
			f.last = e.Seq
			if found = e.ID == since; found {
				return errFound
			}
			return nil
		})
		if found {
			return nil
		}
		if err != nil {
			return err
		}
	}
	if oldest <= 1 {
		f.file = nil
		return &UnknownError{since, f.log.Path}
	}
	// It may be among those that are gone; whatever it was, all that is here is given.
	f.at, f.last = 0, oldest-1
	return f.gap(Gap{To: oldest - 1})
}

var errFound = errors.New("found")

// read calls fn with the lines from f.at on, up to the present end of the file.
func (f *follower) read(fn func(Event) error) error {
	buf := make([]byte, 0, 2*chain.MaxLine)
	for {
		n, err := f.file.ReadAt(buf[len(buf):cap(buf)], f.at+int64(len(buf)))
		if err != nil && err != io.EOF {
			return fmt.Errorf("cannot read the audit log: %w", err)
		}
		buf = buf[:len(buf)+n]
		used := 0
		for {
			i := bytes.IndexByte(buf[used:], '\n')
			if i < 0 {
				break
			}
			text := buf[used : used+i]
			used += i + 1
			f.at += int64(i) + 1
			if e, ok := parse(text); ok {
				if err := fn(e); err != nil {
					return err
				}
			}
		}
		buf = buf[:copy(buf, buf[used:])]
		if n == 0 {
			return nil
		}
		if len(buf) == cap(buf) { // no line is as long
			f.at += int64(len(buf))
			buf = buf[:0]
		}
	}
}

// drain reads up to the present end of the log.
func (f *follower) drain(ctx context.Context) error {
	for {
		if f.file != nil {
			if err := f.read(f.give(ctx)); err != nil {
				return err
			}
		}
		next, err := f.successor()
		if err != nil || next == nil {
			return err
		}
		if f.file != nil {
			// Nobody writes to it any more. What is between the two looks at it is read now, and a last line without a newline.
			if err := errors.Join(f.read(f.give(ctx)), f.rest(ctx)); err != nil {
				next.Close()
				return err
			}
			f.file.Close()
		}
		f.file, f.at = next, 0
	}
}

// give hands a line on.
func (f *follower) give(ctx context.Context) func(Event) error {
	return func(e Event) error {
		switch {
		case ctx.Err() != nil: // a flood must not keep us from seeing it
			return ctx.Err()
		case e.Seq > f.last+1:
			if err := f.gap(Gap{From: f.last + 1, To: e.Seq - 1}); err != nil {
				return err
			}
		}
		f.last = e.Seq
		return f.event(e)
	}
}

// rest gives the last line of a file that lacks its newline.
func (f *follower) rest(ctx context.Context) error {
	buf := make([]byte, chain.MaxLine)
	n, err := f.file.ReadAt(buf, f.at)
	if err != nil && err != io.EOF {
		return fmt.Errorf("cannot read the audit log: %w", err)
	}
	if e, ok := parse(buf[:n]); ok {
		return f.give(ctx)(e)
	}
	return nil
}

// successor gives the file that comes after f.file, or nil if that is the newest.
func (f *follower) successor() (*chain.File, error) {
	if f.file != nil {
		if now, err := os.Lstat(f.log.Path); err == nil && os.SameFile(now, f.file.Info) {
			return nil, nil
		}
	}
	files, err := f.log.OpenAll()
	if err != nil || len(files) == 0 {
		return nil, err
	}
	i := -1
	if f.file != nil {
		i = slices.IndexFunc(files, f.file.Same)
	}
	var next *chain.File
	switch {
	case i < 0: // there was none, or it was rotated away: the oldest
		next = &files[len(files)-1]
	case i > 0:
		next = &files[i-1]
	}
	for k := range files {
		if next == nil || &files[k] != next {
			files[k].Close()
		}
	}
	return next, nil
}

// watcher waits for changes in a directory.
type watcher struct {
	dir  string
	file *os.File // an inotify instance; nil: it is polled
}

func watch(dir string) *watcher {
	w := &watcher{dir: dir}
	w.try()
	return w
}

func (w *watcher) try() {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return
	}
	if _, err := unix.InotifyAddWatch(fd, w.dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return
	}
	w.file = os.NewFile(uintptr(fd), "inotify of "+w.dir)
}

func (w *watcher) close() {
	if w.file != nil {
		w.file.Close()
	}
}

// wait sleeps until something may have changed; false: ctx has ended.
func (w *watcher) wait(ctx context.Context) bool {
	if w.file == nil {
		select {
		case <-time.After(pollTime):
			w.try()
		case <-ctx.Done():
		}
		return ctx.Err() == nil
	}
	w.file.SetReadDeadline(time.Now().Add(recheck))
	stop := context.AfterFunc(ctx, func() { w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var buf [4096]byte
	if _, err := w.file.Read(buf[:]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.file.Close()
		w.file = nil
	}
	return ctx.Err() == nil
}
