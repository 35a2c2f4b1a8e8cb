package notary

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/chain"
)

// Patience is how long an append waits for others that append to the same log. Each holds it for some 100 µs; one that was
// stopped meanwhile must not hold up everybody else.
const Patience = 250 * time.Millisecond

// Bounds of the pauses between two looks at a log that is locked.
const (
	firstLook = 100 * time.Microsecond
	lastLook  = 5 * time.Millisecond
)

// Append adds body, a JSON object, to a log as its next line, signed if there is a key. A log that does not exist is made
// (mode 0600; its directory must exist). A file that is full is rotated away first, and the oldest goes.
//
// Appenders exclude each other by flock(2), for at most patience. Nothing is kept in memory between two appends: the line
// before is read from the file, so a writer that dies leaves nothing to be repaired.
//
// The line is written by one write(2), so that a reader sees all of it or, if the machine fails meanwhile, a torn end. The
// next append closes that with a newline and tells of it in its own link. There is no fdatasync: it would put a disk's
// latency into every restart. A line survives the death of any process, and may be lost with the machine's power.
func Append(log chain.Log, key ed25519.PrivateKey, body []byte, patience time.Duration) (chain.Link, error) {
	deadline := time.Now().Add(patience)
	// Further rounds are needed after a rotation, our own or another's.
	for {
		link, err := appendOnce(log, key, body, deadline)
		if !errors.Is(err, errRotated) {
			return link, err
		}
		if time.Now().After(deadline) {
			return chain.Link{}, fmt.Errorf("cannot append to %s: it was rotated again and again for %v", log.Path, patience)
		}
	}
}

// errRotated says that the file which was opened is not the newest of its log any more.
var errRotated = errors.New("rotated")

func appendOnce(log chain.Log, key ed25519.PrivateKey, body []byte, deadline time.Time) (chain.Link, error) {
	f, err := chain.Open(log.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return chain.Link{}, err
	}
	defer f.Close()
	if err := lock(f, deadline); err != nil {
		return chain.Link{}, err
	}
	now, err := os.Lstat(log.Path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, f.Info) {
		return chain.Link{}, errRotated
	}
	if err != nil {
		return chain.Link{}, fmt.Errorf("cannot append to %s: %w", log.Path, err)
	}
	size := now.Size()
	e, err := endOf(log, f, size)
	if err != nil {
		return chain.Link{}, err
	}
	line, err := seal(body, e.link, key)
	if err != nil {
		return chain.Link{}, fmt.Errorf("cannot append to %s: %w", log.Path, err)
	}
	if len(line) >= chain.MaxLine {
		return chain.Link{}, fmt.Errorf("cannot append to %s: the line is longer than %d bytes", log.Path, chain.MaxLine-1)
	}
	line = append(line, '\n')
	if e.open {
		line = append([]byte{'\n'}, line...)
	}
	if size > 0 && size+int64(len(line)) > log.MaxFile {
		if err := rotate(log); err != nil {
			return chain.Link{}, fmt.Errorf("cannot rotate log: %w", err)
		}
		return chain.Link{}, errRotated
	}
	if _, err := f.Write(line); err != nil {
		// What a full disk took of it is no line. If this fails too, it is one more that is torn.
		f.Truncate(size)
		return chain.Link{}, fmt.Errorf("cannot append to %s: %w", log.Path, err)
	}
	return e.link, nil
}

func lock(f chain.File, deadline time.Time) error {
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || err != unix.EWOULDBLOCK && err != unix.EINTR {
			return os.NewSyscallError("flock "+f.Name(), err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot append to %s: another process has kept it locked", f.Name())
		}
		time.Sleep(pause)
	}
}

// seal gives the line that is made of body and link, with its signature.
func seal(body []byte, link chain.Link, key ed25519.PrivateKey) ([]byte, error) {
	line, err := chain.Join(body, link)
	if err != nil || key == nil {
		return line, err
	}
	link.Sig = ed25519.Sign(key, line)
	return chain.Join(body, link)
}

// rotate moves the files of the log, which is locked, to higher numbers up to the first that is vacant; without one the
// oldest goes. The newest is moved last: until then it is the one that everybody locks.
func rotate(log chain.Log) error {
	vacant := 1
	for ; vacant < log.Old; vacant++ {
		if _, err := os.Lstat(log.Numbered(vacant)); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	for k := vacant; k > 0; k-- {
		if err := os.Rename(log.Numbered(k-1), log.Numbered(k)); err != nil {
			return err
		}
	}
	return nil
}

// end is how a log ends.
type end struct {
	link chain.Link // of the line to come
	open bool       // a newline has to be written before it
}

// endOf looks for the last line of the log whose newest file f has size bytes.
func endOf(log chain.Log, f chain.File, size int64) (end, error) {
	t, err := tailOf(f, size, log.MaxFile)
	if err != nil {
		return end{}, err
	}
	gap, number := t.gap, uint64(0)
	e := end{open: t.open}
	if t.line == nil {
		number = 1
		older, err := chain.Open(log.Numbered(1), os.O_RDONLY)
		if err == nil {
			defer older.Close()
			if t, err = tailOf(older, older.Info.Size(), log.MaxFile); err != nil {
				return end{}, err
			}
			gap = append(t.gap, gap...)
			number = fileNumber(older) + 1
		} else if !errors.Is(err, fs.ErrNotExist) {
			return end{}, err
		}
	}
	e.link = t.next(gap, number)
	return e, nil
}

// next gives the link of the line that follows t's and the gap after that. number is that of the file that it begins, or 0.
func (t tail) next(gap []byte, number uint64) chain.Link {
	link := chain.Link{Seq: 1, Prev: chain.Start, File: number}
	if t.line != nil {
		link.Seq, link.Prev = t.link.Seq+1, hash(t.line)
	}
	if len(gap) > 0 {
		link.Torn = &chain.Torn{Bytes: int64(len(gap)), SHA256: hash(gap)}
	}
	return link
}

// tail is how a file ends.
type tail struct {
	line []byte // its last whole line, without a newline; nil: there is none
	link chain.Link
	gap  []byte // what comes after that: torn
	open bool   // the file does not end with a newline
}

// tailOf looks at no more than limit bytes, or little more.
func tailOf(f io.ReaderAt, size, limit int64) (tail, error) {
	var t tail
	from := size // where the gap begins
	first := true
	err := chain.Backward(f, size, limit, func(piece []byte, begin int64, ended bool) bool {
		if first {
			t.open, first = !ended, false
		}
		_, link, err := chain.Split(piece)
		if err != nil {
			from = begin
			return true
		}
		// A line that lacks only its newline is whole.
		t.line, t.link = bytes.Clone(piece), link
		return false
	})
	if err != nil || from == size {
		return t, err
	}
	t.gap = make([]byte, size-from)
	if _, err := f.ReadAt(t.gap, from); err != nil {
		return t, fmt.Errorf("cannot read log: %w", err)
	}
	return t, nil
}

// fileNumber is what the first line of f says; 0 if it says nothing, which verification will find.
func fileNumber(f chain.File) uint64 {
	buf := make([]byte, chain.MaxLine)
	n, _ := f.ReadAt(buf, 0)
	for line := range bytes.Lines(buf[:n]) {
		if _, link, err := chain.Split(bytes.TrimSuffix(line, []byte{'\n'})); err == nil {
			return link.File
		}
	}
	return 0
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
