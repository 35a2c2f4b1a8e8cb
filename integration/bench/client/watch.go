// Package client is the benchmarks' HTTP client: it sees when one instance of the test gateway takes over from another, and puts
// load on one. It makes its system calls itself and waits in them, on a thread of its own, so that no scheduler but the kernel's stands
// between an answer and the clock; and it can do so inside another network namespace.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/netns"
)

// Server is where a gateway answers.
type Server struct {
	Address netip.AddrPort // IPv4
	Netns   *os.File       // an open /proc/PID/ns/net; nil: this process's own
}

// inside calls fn on a thread that is in the server's network namespace.
func (s Server) inside(fn func() error) error {
	if s.Netns == nil {
		return fn()
	}
	return netns.Do(s.Netns, fn)
}

func (s Server) sockaddr() *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(s.Address.Port()), Addr: s.Address.Addr().As4()}
}

const (
	// pause is the time between two requests to the instance that is about to be replaced, so that the client leaves the machine to it.
	pause = time.Millisecond
	// retry is the time after which a connection that was refused is tried again.
	retry = 100 * time.Microsecond
	// wait is for how long one read waits; then it is looked whether the watch has been ended.
	wait = 100 * time.Millisecond
)

// Takeover is what a watch has seen.
type Takeover struct {
	At      time.Time // the first answer of another instance had arrived
	Refused int       // connections until then
	Cut     int       // connections that ended without an answer until then
}

// Watch is a client that asks again and again until another instance answers.
type Watch struct {
	done     chan struct{}
	takeover Takeover
	err      error
}

// Begin starts to watch s. It returns once the present instance has answered.
func Begin(ctx context.Context, s Server) (*Watch, error) {
	w := &Watch{done: make(chan struct{})}
	first := make(chan struct{})
	go func() {
		defer close(w.done)
		w.err = s.inside(func() error { return w.run(ctx, s, first) })
	}()
	select {
	case <-first:
		return w, nil
	case <-w.done:
		return nil, w.err
	}
}

// Wait waits until another instance has answered.
func (w *Watch) Wait() (Takeover, error) {
	<-w.done
	return w.takeover, w.err
}

func (w *Watch) run(ctx context.Context, s Server, first chan<- struct{}) error {
	old := ""
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		instance, at, err := ask(ctx, s)
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			w.takeover.Refused++
			time.Sleep(retry)
		case errors.Is(err, errCut):
			w.takeover.Cut++
		case err != nil:
			return fmt.Errorf("GET http://%v/: %w", s.Address, err)
		case old == "":
			old, w.takeover = instance, Takeover{}
			close(first)
		case instance != old:
			w.takeover.At = at
			return nil
		default:
			time.Sleep(pause)
		}
	}
}

// errCut is the end of a connection before its answer.
var errCut = errors.New("the connection ended without an answer")

// ask asks who answers, and says when the answer was there. The thread has to be in the server's network namespace.
func ask(ctx context.Context, s Server) (instance string, at time.Time, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", at, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return "", at, os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	if err := unix.Connect(fd, s.sockaddr()); err != nil {
		// A listener that is closed resets what is still on its way into its queue too.
		return "", at, cut(os.NewSyscallError("connect", err))
	}
	if _, err := unix.SendmsgN(fd, request("/"), nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return "", at, cut(err)
	}
	var answer []byte
	buf := make([]byte, 4096)
	for len(answer) < 64<<10 {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			if ctx.Err() != nil {
				return "", at, ctx.Err()
			}
			continue
		case err != nil:
			return "", at, cut(err)
		}
		at = time.Now()
		answer = append(answer, buf[:n]...)
		if complete(answer) {
			return instanceOf(answer, at)
		}
		if n == 0 {
			return "", at, errCut
		}
	}
	return "", at, errors.New("an answer without end")
}

func cut(err error) error {
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return errCut
	}
	return err
}

// instanceOf reads the answer of the test gateway's GET /.
func instanceOf(answer []byte, at time.Time) (string, time.Time, error) {
	_, body, _ := bytes.Cut(answer, headEnd)
	var who struct{ Instance string }
	if err := json.Unmarshal(body, &who); err != nil || who.Instance == "" {
		return "", at, fmt.Errorf("not the test gateway's answer: %q", answer)
	}
	return who.Instance, at, nil
}

// Answers waits until s answers.
func Answers(ctx context.Context, s Server) error {
	return s.inside(func() error {
		for {
			_, _, err := ask(ctx, s)
			if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, errCut) {
				return err
			}
			if ctx.Err() != nil {
				return fmt.Errorf("GET http://%v/: %w: %w", s.Address, ctx.Err(), err)
			}
			time.Sleep(pause)
		}
	})
}
