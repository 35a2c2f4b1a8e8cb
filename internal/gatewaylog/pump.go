package gatewaylog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Pump moves what a gateway writes to one stream into a Writer, line by line. It reads as fast as the gateway writes and
// never waits for the disk, so that a gateway is never held up by its log. It holds one buffer of 32 KiB and a goroutine
// that sleeps while nothing comes.
type Pump struct {
	r      *os.File
	stream string
	w      *Writer

	flush   sync.Mutex         // one Flush at a time
	asked   chan chan struct{} // capacity 1: close the channel when what is there now has been read
	stopped chan struct{}      // closed when the goroutine has ended
	once    sync.Once

	// The rest is the goroutine's alone.
	buf  [2 * maxText]byte
	have int // bytes in buf that belong to no complete line yet
}

// Start begins to move lines from r, the reading end of a FIFO or pipe, as stream "stdout" or "stderr". It takes r over.
//
// R must work with the runtime's poller: opened with O_NONBLOCK, or by package os. A FIFO may be open O_RDWR, so that it
// never reads as ended while no gateway runs; then only Close ends the Pump. The open file description must be the
// caller's alone: O_NONBLOCK belongs to the description, and a gateway that had it too could clear it.
func Start(r *os.File, stream string, w *Writer) (*Pump, error) {
	if stream != Stdout && stream != Stderr {
		return nil, fmt.Errorf("cannot log %s as stream %q: not stdout or stderr", r.Name(), stream)
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("cannot log %s: it cannot be read without blocking a thread; open it with O_NONBLOCK: %w", r.Name(), err)
	}
	p := &Pump{r: r, stream: stream, w: w, asked: make(chan chan struct{}, 1), stopped: make(chan struct{})}
	go p.run()
	return p, nil
}

// Flush waits until everything that is in the pipe now is in the log file, a line without a newline included, or until
// timeout. It is for the moment after a gateway's death, whose last lines it makes readable.
func (p *Pump) Flush(timeout time.Duration) error {
	p.flush.Lock()
	defer p.flush.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	done := make(chan struct{})
	select {
	case p.asked <- done:
	case <-p.stopped:
		return p.w.sync(timer.C)
	case <-timer.C:
		return fmt.Errorf("cannot drain %s of the gateway: %w", p.stream, os.ErrDeadlineExceeded)
	}
	p.r.SetReadDeadline(time.Unix(1, 0)) // wakes the goroutine from its read; fails only once r is closed
	select {
	case <-done:
	case <-p.stopped:
	case <-timer.C:
		return fmt.Errorf("cannot drain %s of the gateway: %w", p.stream, os.ErrDeadlineExceeded)
	}
	return p.w.sync(timer.C)
}

// Close ends the Pump, closes its file and returns when its goroutine has ended. What is in the pipe is dropped unless
// Flush was called before; a line without newline that was read already is logged.
func (p *Pump) Close() error {
	var err error
	p.once.Do(func() { err = p.r.Close() })
	<-p.stopped
	return err
}

func (p *Pump) run() {
	defer close(p.stopped)
	defer p.end()
	for {
		n, err := p.r.Read(p.buf[p.have:])
		if n > 0 {
			p.took(n)
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			// Flush asks. The deadline goes first: another Flush may set it again from when done is closed on.
			if err := p.r.SetReadDeadline(time.Time{}); err != nil {
				return
			}
			select {
			case done := <-p.asked:
				p.drain()
				p.end()
				close(done)
			default:
			}
		default: // io.EOF, or Close
			return
		}
	}
}

// drain reads what is in the pipe now and no more: something that writes on must not keep a Flush busy.
func (p *Pump) drain() {
	raw, err := p.r.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		left, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ) // FIONREAD by its other name
		for err == nil && left > 0 {
			var n int
			n, err = unix.Read(int(fd), p.buf[p.have:min(len(p.buf), p.have+left)])
			if errors.Is(err, unix.EINTR) {
				err = nil
				continue
			}
			if n <= 0 {
				return
			}
			p.took(n)
			left -= n
		}
	})
}

// took logs the complete lines in the buffer after n more bytes were read into it, and keeps the rest.
func (p *Pump) took(n int) {
	now := time.Now() // one for all lines of a read: it is when they came
	b := p.buf[:p.have+n]
	for from := p.have; ; from = 0 { // no newline is in what was kept
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			break
		}
		p.log(now, b[:from+i], false)
		b = b[from+i+1:]
	}
	for len(b) > maxText {
		p.log(now, b[:maxText], true)
		b = b[maxText:]
	}
	p.have = copy(p.buf[:], b)
}

// log adds one line, in several parts if it is long.
func (p *Pump) log(at time.Time, text []byte, partial bool) {
	for len(text) > maxText {
		p.w.add(at, p.stream, true, text[:maxText])
		text = text[maxText:]
	}
	p.w.add(at, p.stream, partial, text)
}

// end logs a line without newline: its writer is gone, or nobody reads on.
func (p *Pump) end() {
	if p.have > 0 {
		p.log(time.Now(), p.buf[:p.have], false)
		p.have = 0
	}
}
