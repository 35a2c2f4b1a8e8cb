package gatewaylog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound the disk space of one log.
type Limits struct {
	MaxBytes int64 // of one file, at least 64 KiB
	MaxFiles int   // path, path.1, …, at least 2
}

const (
	minFileBytes = 64 << 10
	maxFiles     = 100

	// maxPending bounds the memory for lines that wait for the disk. When it is full, lines are dropped and counted.
	maxPending = 256 << 10
	// keepPending is how large a buffer may be to be kept while nothing is written.
	keepPending = 16 << 10
)

// Writer appends lines to a log file. Adding a line never waits for the disk: one goroutine, which sleeps while there is
// nothing to do, writes what is pending. When the disk is slower than the gateway, or refuses a write, lines are dropped;
// how many, and why, is written as one line of the stream "gatewarden" where they are missing, as soon as writing works.
//
// There is no fsync: the log outlives the warden, but its last seconds not a power failure.
type Writer struct {
	path   string
	limits Limits

	wake    chan struct{} // capacity 1: there is something to do
	stopped chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	pending []byte          // whole lines
	lines   int             // in pending
	lost    loss            // of lines that came after those in pending and found no room
	waiters []chan struct{} // closed when what is pending now has been written or lost
	closing bool

	// The rest is the goroutine's alone.
	file   *os.File // nil: could not be opened; tried again with the next write
	size   int64
	torn   bool // the file ends within a line: the write before failed half-way
	failed loss // what was lost and is not yet marked in the file
}

// loss counts lines that did not reach the file.
type loss struct {
	lines  int
	bytes  int
	reason string
}

// Open opens the log at path for appending, and creates it if it does not exist (mode 0600; its directory must exist).
// Path must not be a link nor anything else but a regular file. The Writer is for one process at a time.
func Open(path string, limits Limits) (*Writer, error) {
	if limits.MaxBytes < minFileBytes || limits.MaxFiles < 2 || limits.MaxFiles > maxFiles {
		return nil, fmt.Errorf("cannot open log %s: limits of %d bytes and %d files are not within %d bytes or more and 2 to %d files",
			path, limits.MaxBytes, limits.MaxFiles, minFileBytes, maxFiles)
	}
	w := &Writer{path: path, limits: limits, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	if err := w.open(); err != nil {
		return nil, err
	}
	go w.run()
	return w, nil
}

// Close writes what is pending and closes the file. It must not be called twice. Lines added later are dropped.
func (w *Writer) Close() error {
	w.mu.Lock()
	w.closing = true
	w.mu.Unlock()
	w.nudge()
	<-w.stopped
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

// add queues one line.
func (w *Writer) add(at time.Time, stream string, partial bool, text []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return
	}
	// Once a line is dropped so is every later one, until the goroutine takes what is pending: the lines that are missing
	// are then all at the end of it, where the marker goes.
	if w.lost.lines > 0 || len(w.pending)+len(text) > maxPending-maxLine+maxText {
		w.lost.lines++
		w.lost.bytes += len(text)
		return
	}
	w.pending = appendLine(w.pending, at, stream, partial, text)
	w.lines++
	if w.lines == 1 {
		w.nudge()
	}
}

// sync waits until everything added so far has been written, or lost.
func (w *Writer) sync(timeout <-chan time.Time) error {
	done := make(chan struct{})
	w.mu.Lock()
	w.waiters = append(w.waiters, done)
	w.mu.Unlock()
	w.nudge()
	select {
	case <-done:
		return nil
	case <-w.stopped:
		return nil
	case <-timeout:
		return fmt.Errorf("cannot complete log %s in time: the disk is slow: %w", w.path, os.ErrDeadlineExceeded)
	}
}

func (w *Writer) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run is the goroutine that owns the file.
func (w *Writer) run() {
	defer close(w.stopped)
	var spare []byte
	for range w.wake {
		w.mu.Lock()
		batch, lines, lost, waiters, closing := w.pending, w.lines, w.lost, w.waiters, w.closing
		w.pending, w.lines, w.lost, w.waiters = spare[:0], 0, loss{}, nil
		w.mu.Unlock()

		if lines > 0 || closing && w.failed.lines > 0 {
			w.write(batch, lines)
		}
		if lost.lines > 0 {
			w.failed.lines += lost.lines
			w.failed.bytes += lost.bytes
			w.failed.reason = "the disk was slower than the gateway"
			w.write(nil, 0)
		}
		for _, done := range waiters {
			close(done)
		}
		spare = batch
		w.mu.Lock()
		if w.lines == 0 { // a flood's buffers are not kept
			if cap(spare) > keepPending {
				spare = nil
			}
			if cap(w.pending) > keepPending {
				w.pending = nil
			}
		}
		w.mu.Unlock()
		if closing {
			return
		}
	}
}

// marker gives the line that stands for what was lost.
func marker(l loss) []byte {
	text := fmt.Sprintf("lost %d bytes in %d lines of output here: %s", l.bytes, l.lines, l.reason)
	return appendLine(nil, time.Now(), own, false, []byte(text))
}

// write appends whole lines, all of stdout or stderr, and before them the marker of what was lost before, rotating as
// needed. Lines is how many they are.
func (w *Writer) write(b []byte, lines int) {
	if w.failed.lines > 0 {
		if _, err := w.append(marker(w.failed)); err != nil {
			w.fail(b, lines, err)
			return
		}
		w.failed = loss{}
	}
	for len(b) > 0 {
		n, err := w.append(b)
		// What was written whole is not lost. A line that was torn is, and so is a torn marker.
		whole := bytes.LastIndexByte(b[:n], '\n') + 1
		lines -= bytes.Count(b[:whole], []byte("\n"))
		b = b[whole:]
		if err != nil {
			w.fail(b, lines, err)
			return
		}
	}
}

func (w *Writer) fail(b []byte, lines int, err error) {
	w.failed.lines += lines
	w.failed.bytes += len(b) - lines*len(timeForm+" stdout F \n")
	w.failed.reason = err.Error()
}

// append writes as many of the lines in b as fit into the present file, or into the next one if none fits, and returns how
// many bytes of b it wrote.
func (w *Writer) append(b []byte) (int, error) {
	if w.file != nil && w.room(b) == 0 {
		if err := w.rotate(); err != nil {
			return 0, err
		}
	}
	if w.file == nil {
		if err := w.open(); err != nil {
			return 0, err
		}
		if w.room(b) == 0 { // found full
			if err := w.rotate(); err != nil {
				return 0, err
			}
			if err := w.open(); err != nil {
				return 0, err
			}
		}
	}
	part := b[:w.room(b)]
	if w.torn {
		n, err := w.file.Write([]byte("\n"))
		w.size += int64(n)
		if err != nil {
			return 0, err
		}
		w.torn = false
	}
	n, err := w.file.Write(part)
	w.size += int64(n)
	if err != nil {
		w.torn = n > 0 && part[n-1] != '\n'
	}
	return n, err
}

// room gives the length of the lines at the beginning of b that fit into the file. An empty file has room for any line.
func (w *Writer) room(b []byte) int {
	free := w.limits.MaxBytes - w.size
	if w.torn {
		free--
	}
	if free >= int64(len(b)) {
		return len(b)
	}
	if free <= 0 {
		return 0
	}
	return bytes.LastIndexByte(b[:free], '\n') + 1
}

// open opens or creates the file at path.
func (w *Writer) open() error {
	f, err := os.OpenFile(w.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (%v); remove it", w.path, info.Mode())
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("cannot open log: %w", err)
	}
	w.file, w.size = f, info.Size()
	w.torn = w.size > 0 && !endsLine(w.path, w.size)
	return nil
}

// endsLine tells whether the file ends with a newline: not if a writer was killed within a write.
func endsLine(path string, size int64) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false // a needless newline makes an empty line, which readers skip
	}
	defer f.Close()
	var last [1]byte
	if _, err := f.ReadAt(last[:], size-1); err != nil && err != io.EOF {
		return false
	}
	return last[0] == '\n'
}

// rotate moves every file to the next number. The last one goes first, which makes room on a full disk.
func (w *Writer) rotate() error {
	w.file.Close() // nothing is buffered that a close could lose
	w.file, w.size, w.torn = nil, 0, false
	if err := os.Remove(numbered(w.path, w.limits.MaxFiles-1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot rotate log: %w", err)
	}
	for k := w.limits.MaxFiles - 2; k >= 0; k-- {
		err := os.Rename(numbered(w.path, k), numbered(w.path, k+1))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot rotate log: %w", err)
		}
	}
	return nil
}

// numbered gives the path of the k-th file, counted from the newest.
func numbered(path string, k int) string {
	if k == 0 {
		return path
	}
	return path + "." + strconv.Itoa(k)
}
