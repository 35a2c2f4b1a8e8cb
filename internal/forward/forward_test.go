package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// endpoint listens on a port of loopback's and hands each connection to handle.
func endpoint(t *testing.T, handle func(net.Conn)) profile.Forward {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return at(l.Addr().String())
}

func at(address string) profile.Forward {
	return profile.Forward{Name: "web", Address: profile.Address{Network: "tcp", AddrPort: netip.MustParseAddrPort(address)}}
}

func asking(f profile.Forward) profile.Forward {
	f.Path, f.Accept = "/health", []int{200}
	return f
}

// nobody gives an endpoint where nobody listens.
func nobody(t *testing.T) profile.Forward {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return at(l.Addr().String())
}

func silent(conn net.Conn) { conn.Read(make([]byte, 1<<10)); time.Sleep(5 * time.Second) }

func says(text string) func(net.Conn) {
	return func(conn net.Conn) {
		conn.Read(make([]byte, 1<<10))
		fmt.Fprint(conn, text)
	}
}

// verdict is ok as one word.
func verdict(r receipt.Forward) string {
	if r.OK == nil {
		return "unknown"
	}
	return fmt.Sprint(*r.OK)
}

func TestAnEndpointIsAskedFromTheHost(t *testing.T) {
	v6, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer v6.Close()
	for _, c := range []struct {
		name   string
		f      profile.Forward
		ok     string
		detail string
	}{
		{"it accepts", endpoint(t, silent), "true", ""},
		{"by IPv6", at(v6.Addr().String()), "true", ""},
		{"nobody is there", nobody(t), "false", "connection refused"},
		{"it answers", asking(endpoint(t, says("HTTP/1.1 200 OK\r\n\r\n"))), "true", ""},
		{"a proxy that does not reach anything", asking(endpoint(t, func(net.Conn) {})), "false", "HTTP"},
		{"another status", asking(endpoint(t, says("HTTP/1.1 502 Bad Gateway\r\n\r\n"))), "false", "HTTP status 502; accepted is 200"},
		{"it accepts and says nothing", asking(endpoint(t, silent)), "false", "no answer within"},
		{"another host's address", at("192.0.2.1:80"), "unknown", "not an address of this host"},
	} {
		r := Look(t.Context(), c.f)
		if verdict(r) != c.ok || !strings.Contains(r.Detail, c.detail) || c.detail == "" && r.Detail != "" || r.Name != "web" || r.Address != c.f.Endpoint() {
			t.Errorf("%s: %s, %+v", c.name, verdict(r), r)
		}
		if want := code.Code(map[string]string{"false": "forward_failed"}[c.ok]); r.Code != want {
			t.Errorf("%s: code %q", c.name, r.Code)
		}
	}
}

func TestOnlyThisHostsAddressesAreConnectedTo(t *testing.T) {
	addrs := func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: net.CIDRMask(24, 32)}, &net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)}}, nil
	}
	for a, is := range map[string]bool{"192.0.2.7": true, "2001:db8::7": true, "192.0.2.8": false, "2001:db8::8": false, "127.0.0.1": true, "127.1.2.3": true, "::1": true} {
		if err := ours(netip.MustParseAddr(a), addrs); (err == nil) != is {
			t.Errorf("%s: %v", a, err)
		}
	}
	cause := errors.New("no memory")
	r := look(t.Context(), at("192.0.2.7:80"), func() ([]net.Addr, error) { return nil, cause })
	if r.OK != nil || !strings.Contains(r.Detail, "no memory") {
		t.Errorf("%+v", r)
	}
}

func TestAnEndpointThatIsLateIsWaitedFor(t *testing.T) {
	var asked atomic.Int32
	f := asking(endpoint(t, func(conn net.Conn) {
		if asked.Add(1) > 3 {
			says("HTTP/1.1 200 OK\r\n\r\n")(conn)
		}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if r := Await(ctx, f); verdict(r) != "true" || asked.Load() != 4 || r.Millis <= 0 {
		t.Errorf("asked %d times: %+v", asked.Load(), r)
	}
}

func TestTheTimeForAnEndpointIsBounded(t *testing.T) {
	for _, c := range []struct {
		name   string
		f      profile.Forward
		time   time.Duration
		cancel bool // the time ends because somebody calls it off
		ok     string
		detail string
	}{
		{"nobody is there", nobody(t), 500 * time.Millisecond, false, "false", "connection refused"},
		{"silence for long enough", asking(endpoint(t, silent)), 500 * time.Millisecond, false, "false", "no answer within"},
		{"silence, and no time to wait for an answer", asking(endpoint(t, silent)), 50 * time.Millisecond, false, "unknown", "all the time"},
		{"called off, and known by then", nobody(t), 200 * time.Millisecond, true, "false", "connection refused"},
		{"called off, and not known", asking(endpoint(t, silent)), 200 * time.Millisecond, true, "unknown", "given up"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if c.cancel {
			time.AfterFunc(c.time, cancel)
		} else {
			ctx, cancel = context.WithTimeout(ctx, c.time)
		}
		begun := time.Now()
		r := Await(ctx, c.f)
		cancel()
		if took := time.Since(begun); verdict(r) != c.ok || !strings.Contains(r.Detail, c.detail) || took > c.time+time.Second {
			t.Errorf("%s: after %v: %s, %+v", c.name, took, verdict(r), r)
		}
	}
}

func TestAFailureStaysUntilALaterLookIsGood(t *testing.T) {
	forward := func(name, ok string) receipt.Forward {
		r := receipt.Forward{Name: name, Address: "127.0.0.1:1", Detail: ok}
		switch ok {
		case "true":
			r.OK = new(true)
		case "false":
			r.OK = new(false)
		}
		return r
	}
	for _, c := range []struct{ before, now, want string }{
		{"false", "true", "true"}, {"false", "unknown", "false"}, {"true", "unknown", "unknown"}, {"true", "false", "false"}, {"unknown", "unknown", "unknown"},
	} {
		got := Merge([]receipt.Forward{forward("web", c.now)}, []receipt.Forward{forward("other", "false"), forward("web", c.before)})
		if len(got) != 1 || verdict(got[0]) != c.want || got[0].Detail != c.want {
			t.Errorf("%s after %s: %+v", c.now, c.before, got)
		}
	}
	if got := Merge(nil, []receipt.Forward{forward("web", "false")}); len(got) != 0 {
		t.Errorf("one that is not declared any more: %+v", got)
	}
}

func TestTheMessageNamesThoseThatFailed(t *testing.T) {
	all := []receipt.Forward{
		{Name: "web", Address: "127.0.0.1:80", OK: new(false), Detail: "connection refused"}, {Name: "ok", Address: "127.0.0.1:81", OK: new(true)},
		{Name: "odd", Address: "127.0.0.1:82", Detail: "no memory"}, {Name: "127.0.0.1:83", Address: "127.0.0.1:83", OK: new(false), Detail: "no answer"},
	}
	const want = "forward web (127.0.0.1:80) does not reach the gateway: connection refused; forward 127.0.0.1:83 does not reach the gateway: no answer"
	if got := Message(all); got != want {
		t.Errorf("%q", got)
	}
	if got := Message(all[1:3]); got != "" {
		t.Errorf("of none that failed: %q", got)
	}
	if got := all[2].String(); got != "cannot tell whether forward odd (127.0.0.1:82) reaches the gateway: no memory" {
		t.Errorf("%q", got)
	}
}
