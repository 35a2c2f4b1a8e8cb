package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func serverAt(t *testing.T, l net.Listener) Server {
	t.Helper()
	return Server{Address: netip.MustParseAddrPort(l.Addr().String())}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestAWatchSeesTheFirstAnswerOfAnotherInstance(t *testing.T) {
	var instance atomic.Value
	instance.Store("old")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"pid":1,"instance":%q}`, instance.Load())
	}))
	defer s.Close()
	w, err := Begin(t.Context(), serverAt(t, s.Listener))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	changed := time.Now()
	instance.Store("new")
	got, err := w.Wait()
	if err != nil || got.At.Before(changed) || got.At.Sub(changed) > time.Second || got.Refused+got.Cut != 0 {
		t.Errorf("%+v, %v after the change: %v", got, got.At.Sub(changed), err)
	}
}

func TestAWatchCountsWhatIsRefusedAndCutBeforeTheSuccessor(t *testing.T) {
	l := listen(t)
	server := serverAt(t, l)
	answer := func(c net.Conn, instance string) {
		_, _ = c.Read(make([]byte, 4096))
		body := fmt.Sprintf(`{"instance":%q}`, instance)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		c.Close()
	}
	accept := func(l net.Listener) net.Conn {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		return c
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		answer(accept(l), "old")
		accept(l).Close() // cut
		l.Close()
		time.Sleep(50 * time.Millisecond) // refused
		again, err := net.Listen("tcp", server.Address.String())
		if err != nil {
			t.Error(err)
			return
		}
		answer(accept(again), "new")
		again.Close()
	}()
	w, err := Begin(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.Wait()
	<-done
	if err != nil || got.Cut < 1 || got.Refused < 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAWatchOfASilentServerEndsWithItsContext(t *testing.T) {
	l := listen(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Begin(ctx, serverAt(t, l)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestALoadIsOfferedAtItsRateAndCounted(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	l := BeginLoad(serverAt(t, s.Listener), "/health", 500)
	time.Sleep(400 * time.Millisecond)
	c, err := l.End()
	if err != nil {
		t.Fatal(err)
	}
	if c.Offered < 150 || c.Offered > 500 || c.Answered != c.Offered || len(c.Millis) != c.Answered || c.Refused+c.Cut+c.Partial+c.Late+c.Other != 0 {
		t.Errorf("%+v", c)
	}
}

func TestALoadTellsHowRequestsFail(t *testing.T) {
	closed := listen(t)
	closed.Close()
	reset := listen(t)
	go serve(reset, func(c *net.TCPConn) { _ = c.SetLinger(0) })
	partial := listen(t)
	go serve(partial, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
		_, _ = c.Read(make([]byte, 4096))
	})
	other := listen(t)
	go serve(other, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
	})
	for _, c := range []struct {
		name string
		l    net.Listener
		of   func(Counts) int
	}{
		{"refused", closed, func(c Counts) int { return c.Refused }},
		{"cut", reset, func(c Counts) int { return c.Cut }},
		{"partial", partial, func(c Counts) int { return c.Partial }},
		{"other", other, func(c Counts) int { return c.Other }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := BeginLoad(serverAt(t, c.l), "/", 200)
			time.Sleep(100 * time.Millisecond)
			got, err := l.End()
			if err != nil || got.Offered == 0 || c.of(got) != got.Offered {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// serve does with each connection what it is told, and closes it.
func serve(l net.Listener, do func(*net.TCPConn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		do(c.(*net.TCPConn))
		c.Close()
	}
}

func TestConnectionsInTheQueueOfAListenerThatIsClosedAreCut(t *testing.T) {
	l := listen(t)
	load := BeginLoad(serverAt(t, l), "/", 200)
	time.Sleep(200 * time.Millisecond)
	l.Close()
	time.Sleep(200 * time.Millisecond)
	c, err := load.End()
	if err != nil || c.Cut == 0 || c.Refused == 0 || c.Cut+c.Refused != c.Offered {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAnAnswerIsCompleteWithItsContentLength(t *testing.T) {
	for answer, want := range map[string]bool{
		"":                        false,
		"HTTP/1.1 200 OK\r\n":     false,
		"HTTP/1.1 200 OK\r\n\r\n": false,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n":                            false,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":                        true,
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbod":                     false,
		"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\nA: b\r\n\r\nbody": true,
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nbody":                    false,
	} {
		if got := complete([]byte(answer)); got != want {
			t.Errorf("%q: %v", answer, got)
		}
	}
}

func TestAResetIsACut(t *testing.T) {
	for _, err := range []error{unix.ECONNRESET, unix.EPIPE, os.NewSyscallError("connect", unix.ECONNRESET)} {
		if !errors.Is(cut(err), errCut) {
			t.Errorf("%v is %v", err, cut(err))
		}
	}
	if err := cut(unix.EIO); !strings.Contains(err.Error(), "input/output") {
		t.Errorf("got %v", err)
	}
}
