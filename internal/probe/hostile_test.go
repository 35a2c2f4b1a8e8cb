package probe

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// forever writes what it is given until the other side has gone.
func forever(c net.Conn, text string, pause time.Duration) {
	for {
		if _, err := c.Write([]byte(text)); err != nil {
			return
		}
		time.Sleep(pause)
	}
}

// hostile are servers that do their worst. What they do to a probe is bounded: by time, where they are slow (at most
// the attempt's), and by length, where they are fast.
var hostile = []struct {
	name    string
	handle  func(net.Conn)
	verdict Verdict
	status  int
	detail  string
	slow    bool // the attempt lasts its full time
}{
	{name: "a redirect to elsewhere", verdict: No, status: 302, detail: "HTTP status 302",
		handle: answers("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n")},
	{name: "a redirect to itself", verdict: No, status: 308, detail: "HTTP status 308",
		handle: answers("HTTP/1.1 308 Permanent Redirect\r\nLocation: /health\r\n\r\n")},
	{name: "silence", verdict: No, detail: "no answer within 2", slow: true,
		handle: func(c net.Conn) { c.Read(make([]byte, 4096)); c.Read(make([]byte, 1)) }},
	{name: "a trickled header", verdict: No, detail: "no answer within 2", slow: true,
		handle: func(c net.Conn) { c.Write([]byte("HTTP/1.1 200 OK\r\nA: ")); forever(c, "b", 10*time.Millisecond) }},
	{name: "a trickled status line", verdict: No, detail: "no answer within 2", slow: true,
		handle: func(c net.Conn) { c.Write([]byte("HTTP/1.1 200 ")); forever(c, "b", 10*time.Millisecond) }},
	{name: "trickled interim responses", verdict: No, detail: "more than 4 interim",
		handle: func(c net.Conn) { forever(c, "HTTP/1.1 100 Continue\r\n\r\n", 10*time.Millisecond) }},
	{name: "interim responses without end", verdict: No, detail: "more than 4 interim",
		handle: func(c net.Conn) { forever(c, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000), 0) }},
	{name: "header lines without end", verdict: No, detail: "longer than 16384 bytes",
		handle: func(c net.Conn) {
			c.Write([]byte("HTTP/1.1 200 OK\r\n"))
			forever(c, strings.Repeat("A: b\r\n", 1000), 0)
		}},
	{name: "a header line without end", verdict: No, detail: "longer than 16384 bytes",
		handle: func(c net.Conn) { c.Write([]byte("HTTP/1.1 200 OK\r\nA: ")); forever(c, strings.Repeat("b", 1000), 0) }},
	{name: "a status line without end", verdict: No, detail: "longer than 16384 bytes",
		handle: func(c net.Conn) { c.Write([]byte("HTTP/1.1 200 ")); forever(c, strings.Repeat("b", 1000), 0) }},
	{name: "a body without end", verdict: Yes, status: 200,
		handle: func(c net.Conn) { c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")); forever(c, strings.Repeat("b", 1000), 0) }},
	{name: "a trickled body", verdict: Yes, status: 200,
		handle: func(c net.Conn) {
			c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"))
			forever(c, "b", 10*time.Millisecond)
		}},
	{name: "a body that never comes", verdict: Yes, status: 200,
		handle: func(c net.Conn) {
			c.Write([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
			c.Read(make([]byte, 4096))
			c.Read(make([]byte, 1))
		}},
	{name: "a connection that is kept", verdict: Yes, status: 200,
		handle: func(c net.Conn) {
			c.Read(make([]byte, 4096))
			c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"))
			c.Read(make([]byte, 1))
		}},
	{name: "an end at once", verdict: No, detail: "no HTTP answer", handle: func(c net.Conn) {}},
	{name: "an end within the header", verdict: No, detail: "no HTTP answer", handle: answers("HTTP/1.1 200 OK\r\nA: b\r\n")},
	{name: "a reset at once", verdict: No, detail: "reset", handle: func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }},
	{name: "a reset within the header", verdict: No, detail: "reset", handle: func(c net.Conn) {
		c.Read(make([]byte, 4096))
		c.Write([]byte("HTTP/1.1 200 OK\r\nA: b\r\n"))
		time.Sleep(20 * time.Millisecond)
		c.(*net.TCPConn).SetLinger(0)
	}},
	{name: "another protocol", verdict: No, detail: "not HTTP", handle: answers("220 mail.example ESMTP\r\n")},
	{name: "two answers at once", verdict: No, status: 503, detail: "503", handle: answers("HTTP/1.1 503 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")},
	{name: "an answer to nobody's question", verdict: Yes, status: 200, handle: func(c net.Conn) {
		c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		c.Read(make([]byte, 4096))
	}},
}

func TestAHostileServerIsBoundedInTimeAndLength(t *testing.T) {
	ns := netnstest.New(t)
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// The server accepts one connection: whoever follows a redirect, or asks again, finds nobody.
			l, a := listen(t, ns)
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				conn, err := l.Accept()
				l.Close()
				if err == nil {
					c.handle(conn)
					conn.Close()
				}
			}()
			res := Run(t.Context(), ns, -1, get200(a), nil)
			if res.Verdict != c.verdict || res.Status != c.status || !strings.Contains(res.Detail, c.detail) || (res.Verdict == Yes) != (res.Detail == "") {
				t.Errorf("%+v", res)
			}
			if c.slow != (res.Took >= attemptTimeout) || res.Took > attemptTimeout+500*time.Millisecond {
				t.Errorf("it took %v", res.Took)
			}
			// The server's side sees the end of the connection: nothing of the probe reads on.
			select {
			case <-closed:
			case <-time.After(5 * time.Second):
				t.Error("the probe keeps its connection after its answer")
			}
		})
	}
}

func TestAProbeLeavesNothingBehind(t *testing.T) {
	ns := netnstest.New(t)
	settings := frames(func(s *script) { s.WriteSettings() })
	var ready []profile.Ready
	for _, c := range hostile {
		ready = append(ready, get200(server(t, ns, c.handle)))
	}
	ready = append(ready,
		grpcReady(server(t, ns, func(c net.Conn) { forever(c, string(settings), 20*time.Millisecond) }), ""),
		grpcReady(server(t, ns, func(c net.Conn) { c.Read(make([]byte, 4096)); c.Read(make([]byte, 1)) }), ""),
		grpcReady(server(t, ns, answers("HTTP/1.1 400 Bad Request\r\n\r\n")), ""),
		profile.Ready{Kind: "tcp", Address: profile.Address{Network: "tcp", AddrPort: netip.MustParseAddrPort("127.0.0.1:1")}},
		// Packets to it vanish: the namespace has loopback alone, and this route leads nowhere that answers.
		profile.Ready{Kind: "tcp", Address: profile.Address{Network: "tcp", AddrPort: netip.MustParseAddrPort("192.0.2.1:80")}},
	)
	round := func() {
		for _, r := range ready {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			Run(ctx, ns, -1, r, nil)
			cancel()
		}
	}
	round() // what the runtime keeps for later (threads, its poller) is there after this
	count := func() (fds, routines int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), runtime.NumGoroutine()
	}
	// The servers' side needs a moment to see the end of its connections.
	settled := func(most func(fds, routines int) bool) (fds, routines int) {
		for range 200 {
			if fds, routines = count(); most(fds, routines) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		return fds, routines
	}
	last := -1
	fds, routines := settled(func(f, r int) bool { still := f+r == last; last = f + r; return still })
	for range 3 {
		round()
	}
	after, now := settled(func(f, r int) bool { return f <= fds && r <= routines })
	if after > fds || now > routines {
		t.Errorf("%d descriptors and %d goroutines after three rounds, %d and %d before", after, now, fds, routines)
	}
}

// A server whose queue is full, or that never accepts, is silent for HTTP; for tcp the kernel's accepting is enough, which
// is what the profile asked for.
func TestAServerThatNeverAcceptsIsNotReadyForHTTP(t *testing.T) {
	ns := netnstest.New(t)
	l, a := listen(t, ns)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if res := Run(ctx, ns, -1, get200(a), nil); res.Verdict != No || !strings.Contains(res.Detail, "no answer within") {
		t.Errorf("%+v", res)
	}
	if res := Run(t.Context(), ns, -1, profile.Ready{Kind: "tcp", Address: a}, nil); res.Verdict != Yes {
		t.Errorf("%+v", res)
	}
}

// The workload shares the namespace, and so its local ports: that they are used up says nothing of the gateway.
func TestThatNoLocalPortIsLeftSaysNothingOfTheGateway(t *testing.T) {
	ns := netnstest.New(t)
	a := server(t, ns, answers("HTTP/1.1 200 OK\r\n\r\n"))
	if err := netns.Do(ns, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("61000 61000"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	var taken net.Listener
	if err := netns.Do(ns, func() (err error) { taken, err = net.Listen("tcp", "127.0.0.1:61000"); return err }); err != nil {
		t.Fatal(err)
	}
	res := Run(t.Context(), ns, -1, get200(a), nil)
	if res.Verdict != Unknown || !strings.Contains(res.Detail, "no local port is left in the container's network") {
		t.Errorf("%+v", res)
	}
	taken.Close()
	if res := Run(t.Context(), ns, -1, get200(a), nil); res.Verdict != Yes {
		t.Errorf("%+v", res)
	}
}
