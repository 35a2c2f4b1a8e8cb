package client

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/bench/sample"
)

// Counts are what became of the requests of a load.
type Counts struct {
	Offered  int // requests begun
	Answered int // with status 200, to the end
	Refused  int // connections
	Cut      int // connections that were made and ended without an answer
	Partial  int // answers that were cut off
	Late     int // not answered within patience
	Other    int // anything else, such as another status
	// Elapsed is the time during which requests were begun, Millis how long each answered one took, from connect to its last byte.
	Elapsed time.Duration
	Millis  sample.Sample
}

// Rate gives the answers per second.
func (c Counts) Rate() float64 { return float64(c.Answered) / c.Elapsed.Seconds() }

// Load begins requests at a fixed rate, whatever becomes of those before: each on a connection of its own, without keep-alive.
type Load struct {
	stop   atomic.Bool
	done   chan struct{}
	counts Counts
	err    error
}

const (
	// patience is how long a request may take.
	patience = 10 * time.Second
	// tick bounds the time for which the load sleeps.
	tick = time.Millisecond
	// sources is the number of addresses, 127.0.0.1 and up, from which it connects: so that local ports last. A connection that was
	// closed keeps its own for a minute.
	sources = 64
)

// conn is one request in flight.
type conn struct {
	fd     int
	begin  time.Time
	sent   bool
	answer []byte
}

// BeginLoad starts a load of rate requests per second for path of s, which has to be on loopback.
func BeginLoad(s Server, path string, rate float64) *Load {
	l := &Load{done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = s.inside(func() error { return l.run(s, request(path), rate) })
	}()
	return l
}

// End stops to begin requests, waits for those in flight, and gives the counts.
func (l *Load) End() (Counts, error) {
	l.stop.Store(true)
	<-l.done
	return l.counts, l.err
}

// run is the load's one thread.
func (l *Load) run(s Server, request []byte, rate float64) (err error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	defer unix.Close(ep)
	r := &requests{counts: &l.counts, to: s.sockaddr(), request: request, epoll: ep, inFlight: map[int32]*conn{}}
	defer r.close()
	events := make([]unix.EpollEvent, 128)
	begin := time.Now()
	for {
		now := time.Now()
		if l.stop.Load() {
			if l.counts.Elapsed == 0 {
				l.counts.Elapsed = now.Sub(begin)
			}
			if len(r.inFlight) == 0 {
				return nil
			}
		} else {
			for due := int(now.Sub(begin).Seconds() * rate); l.counts.Offered < due; {
				if err := r.begin(now); err != nil {
					return err
				}
			}
		}
		r.expire(now)
		n, err := unix.EpollWait(ep, events, int(tick.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, e := range events[:max(n, 0)] {
			if c := r.inFlight[e.Fd]; c != nil {
				r.advance(c)
			}
		}
	}
}

// requests are those in flight.
type requests struct {
	counts   *Counts
	to       *unix.SockaddrInet4
	request  []byte
	epoll    int
	inFlight map[int32]*conn
	queue    []*conn // by age; some have ended
	buf      [4096]byte
}

func (r *requests) begin(now time.Time) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	c := &conn{fd: fd, begin: now}
	r.inFlight[int32(fd)] = c
	r.queue = append(r.queue, c)
	from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + r.counts.Offered%sources)}}
	r.counts.Offered++
	// The port is chosen at connect, when the whole pair is known (ip(7)).
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return os.NewSyscallError("setsockopt IP_BIND_ADDRESS_NO_PORT", err)
	}
	if err := unix.Bind(fd, from); err != nil {
		return fmt.Errorf("bind %v: %w", from.Addr, err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(fd)}
	if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	switch err := unix.Connect(fd, r.to); {
	case err == nil:
		r.advance(c)
	case errors.Is(err, unix.EINPROGRESS):
	default:
		r.fail(c, err)
	}
	return nil
}

// advance does what can be done now.
func (r *requests) advance(c *conn) {
	if !c.sent {
		pending, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && pending != 0 {
			err = unix.Errno(pending)
		}
		if err != nil {
			r.fail(c, err)
			return
		}
		switch _, err := unix.SendmsgN(c.fd, r.request, nil, nil, unix.MSG_NOSIGNAL); {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOTCONN):
			return // not connected yet
		case err != nil:
			r.fail(c, err)
			return
		}
		c.sent = true
	}
	for {
		n, err := unix.Read(c.fd, r.buf[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			r.fail(c, err)
			return
		}
		c.answer = append(c.answer, r.buf[:n]...)
		if complete(c.answer) {
			if string(c.answer[:min(len(c.answer), len(ok))]) == ok {
				r.counts.Answered++
				r.counts.Millis = append(r.counts.Millis, float64(time.Since(c.begin))/1e6)
			} else {
				r.counts.Other++
			}
			r.end(c)
			return
		}
		if n == 0 {
			r.fail(c, unix.ECONNRESET)
			return
		}
	}
}

// ok is the beginning of the answer that is wanted.
const ok = "HTTP/1.1 200 "

// fail counts a request that got no whole answer.
func (r *requests) fail(c *conn, err error) {
	switch {
	case len(c.answer) > 0:
		r.counts.Partial++
	case errors.Is(err, unix.ECONNREFUSED):
		r.counts.Refused++
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		r.counts.Cut++
	default:
		r.counts.Other++
	}
	r.end(c)
}

func (r *requests) end(c *conn) {
	unix.Close(c.fd)
	delete(r.inFlight, int32(c.fd))
	c.fd = -1
}

// expire ends the requests that have waited for too long.
func (r *requests) expire(now time.Time) {
	for len(r.queue) > 0 {
		c := r.queue[0]
		if c.fd >= 0 {
			if now.Sub(c.begin) < patience {
				return
			}
			r.counts.Late++
			r.end(c)
		}
		r.queue = r.queue[1:]
	}
}

func (r *requests) close() {
	for _, c := range r.inFlight {
		unix.Close(c.fd)
	}
}
