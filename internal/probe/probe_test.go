package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// server listens inside ns and hands every connection to handle on a goroutine of its own.
func server(t testing.TB, ns *os.File, handle func(net.Conn)) profile.Address {
	t.Helper()
	var l net.Listener
	if err := netns.Do(ns, func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	serve(t, l, handle)
	return profile.Address{Network: "tcp", AddrPort: netip.MustParseAddrPort(l.Addr().String())}
}

func serve(t testing.TB, l net.Listener, handle func(net.Conn)) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
}

// answers reads a request and writes what it is given.
func answers(text string) func(net.Conn) {
	return func(c net.Conn) {
		c.Read(make([]byte, 4096))
		c.Write([]byte(text))
	}
}

func get200(a profile.Address) profile.Ready {
	return profile.Ready{Kind: "http", Address: a, Path: "/health", Host: a.AddrPort.String(), Accept: []int{200, 401}}
}

func TestHTTPAnswersAreJudged(t *testing.T) {
	ns := netnstest.New(t)
	for _, tc := range []struct {
		name    string
		handle  func(net.Conn)
		verdict Verdict
		status  int
		detail  string
	}{
		{"an accepted status", answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Yes, 200, ""},
		{"another accepted status", answers("HTTP/1.1 401 Unauthorized\r\n\r\n"), Yes, 401, ""},
		{"HTTP/1.0 without reason", answers("HTTP/1.0 200\r\n\r\n"), Yes, 200, ""},
		{"an interim response first", answers("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), Yes, 200, ""},
		{"a status that is not accepted", answers("HTTP/1.1 503 Busy\r\n\r\n"), No, 503, "HTTP status 503; accepted is 200, 401"},
		{"a redirect", answers("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"), No, 302, "302"},
		{"switching protocols", answers("HTTP/1.1 101 Switching Protocols\r\n\r\n"), No, 0, "101"},
		{"interim responses without end", answers(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20)), No, 0, "interim"},
		{"garbage", answers("SSH-2.0-OpenSSH\r\n"), No, 0, "not HTTP"},
		{"garbage with escapes", answers("\x1b]0;x\x07\r\n"), No, 0, `\x1b]0;x\a`},
		{"HTTP/2", answers("HTTP/2 200\r\n\r\n"), No, 0, "not HTTP"},
		{"a bare LF", answers("HTTP/1.1 200 OK\n\n"), No, 0, "status line"},
		{"a header line that is none", answers("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"), No, 0, "header line"},
		{"nothing", func(c net.Conn) { c.Read(make([]byte, 4096)) }, No, 0, "without an answer"},
		{"half a header", answers("HTTP/1.1 200 OK\r\nA: b\r\n"), No, 0, "within the header"},
		{"a reset", func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }, No, 0, "reset"},
		{"an endless header", func(c net.Conn) {
			c.Write([]byte("HTTP/1.1 200 OK\r\n"))
			for {
				if _, err := c.Write([]byte("A: " + strings.Repeat("b", 1000) + "\r\n")); err != nil {
					return
				}
			}
		}, No, 0, "longer than"},
		{"an endless header line", func(c net.Conn) {
			c.Write([]byte("HTTP/1.1 200 OK\r\nA: "))
			for {
				if _, err := c.Write([]byte(strings.Repeat("b", 1000))); err != nil {
					return
				}
			}
		}, No, 0, "longer than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := Run(t.Context(), ns, -1, get200(server(t, ns, tc.handle)), nil)
			if res.Verdict != tc.verdict || res.Status != tc.status || !strings.Contains(res.Detail, tc.detail) {
				t.Errorf("%+v", res)
			}
			if res.Kind != "http" || res.Took <= 0 || res.Took > attemptTimeout || (res.Verdict == Yes) != (res.Detail == "") {
				t.Errorf("%+v", res)
			}
		})
	}
}

func TestTheRequestIsWhatServersExpect(t *testing.T) {
	ns := netnstest.New(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.RequestURI != "/health?deep=1" || r.Host != "gw.test" || !r.Close {
			w.WriteHeader(http.StatusTeapot)
		}
	})}
	var l net.Listener
	if err := netns.Do(ns, func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	r := get200(profile.Address{Network: "tcp", AddrPort: netip.MustParseAddrPort(l.Addr().String())})
	r.Path, r.Host = "/health?deep=1", "gw.test"
	if res := Run(t.Context(), ns, -1, r, nil); res.Verdict != Yes || res.Status != 200 {
		t.Errorf("%+v", res)
	}
	for _, bad := range []profile.Ready{
		{Kind: "http", Address: r.Address, Path: "/\r\nX: y", Host: "h"}, {Kind: "http", Address: r.Address, Path: "/", Host: "a b"},
		{Kind: "http", Address: r.Address, Path: "", Host: "h"}, {Kind: "grpc", Address: r.Address},
		{Kind: "exec", Exec: []string{"/bin/true"}}, {Kind: "smtp", Address: r.Address},
	} {
		if res := Run(t.Context(), ns, -1, bad, nil); res.Verdict != Unknown || res.Detail == "" {
			t.Errorf("%+v gives %+v", bad, res)
		}
	}
}

func TestOneDeadlineCoversASlowAnswer(t *testing.T) {
	ns := netnstest.New(t)
	trickle := func(c net.Conn) {
		for _, b := range []byte("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 1000)) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	done := make(chan struct{})
	defer close(done)
	hang := func(net.Conn) { <-done }
	for name, handle := range map[string]func(net.Conn){"trickle": trickle, "hang": hang} {
		t.Run(name, func(t *testing.T) {
			a := server(t, ns, handle)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			res := Run(ctx, ns, -1, get200(a), nil)
			if res.Verdict != No || !strings.HasPrefix(res.Detail, "no answer within 2") || res.Took > time.Second {
				t.Errorf("%+v", res)
			}
		})
	}
	t.Run("without a deadline of the caller's", func(t *testing.T) {
		res := Run(t.Context(), ns, -1, get200(server(t, ns, hang)), nil)
		if res.Verdict != No || res.Took < attemptTimeout || res.Took > attemptTimeout+time.Second {
			t.Errorf("%+v", res)
		}
	})
	t.Run("a caller that gives up learns nothing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		res := Run(ctx, ns, -1, get200(server(t, ns, hang)), nil)
		if res.Verdict != Unknown || res.Took > time.Second {
			t.Errorf("%+v", res)
		}
	})
}

func TestAConnectionIsEnoughForTCP(t *testing.T) {
	ns := netnstest.New(t)
	a := server(t, ns, func(net.Conn) {})
	if res := Run(t.Context(), ns, -1, profile.Ready{Kind: "tcp", Address: a}, nil); res.Verdict != Yes || res.Kind != "tcp" {
		t.Errorf("%+v", res)
	}
	// The same port in another namespace is not the gateway's.
	other := netnstest.New(t)
	if res := Run(t.Context(), other, -1, profile.Ready{Kind: "tcp", Address: a}, nil); res.Verdict != No || !strings.Contains(res.Detail, "refused") {
		t.Errorf("%+v", res)
	}
	if res := Run(t.Context(), ns, -1, profile.Ready{Kind: "none"}, nil); res.Verdict != Yes {
		t.Errorf("%+v", res)
	}
}

func TestOwnFailuresAreNotTheGateways(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a := profile.Address{Network: "tcp", AddrPort: netip.MustParseAddrPort("127.0.0.1:1")}
	if res := Run(t.Context(), null, -1, profile.Ready{Kind: "tcp", Address: a}, nil); res.Verdict != Unknown || res.Detail == "" {
		t.Errorf("%+v", res)
	}
	if res := Run(t.Context(), null, -1, profile.Ready{Kind: "unix", Address: profile.Address{Network: "unix", Path: "/x"}}, nil); res.Verdict != Unknown {
		t.Errorf("%+v", res)
	}
	for _, err := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EADDRNOTAVAIL, errors.New("other")} {
		if judge(err) != Unknown {
			t.Errorf("%v is blamed on the gateway", err)
		}
	}
}

func TestUnixSocketsAreReachedInsideTheRoot(t *testing.T) {
	ns := netnstest.New(t)
	rootPath := t.TempDir()
	root, err := unix.Open(rootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	outside := filepath.Join(t.TempDir(), "out.sock")
	deep := filepath.Join("run", strings.Repeat("d", 120)) // with it the path exceeds sun_path
	if err := os.MkdirAll(filepath.Join(rootPath, deep), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{outside, filepath.Join(rootPath, "run/gw.sock")} {
		l, err := net.Listen("unix", p)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, func(net.Conn) {})
	}
	full, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(full)
	if err := errors.Join(unix.Bind(full, &unix.SockaddrUnix{Name: filepath.Join(rootPath, "full.sock")}), unix.Listen(full, 0)); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Link(filepath.Join(rootPath, "run/gw.sock"), filepath.Join(rootPath, deep, "gw.sock")),
		os.Symlink("/run/gw.sock", filepath.Join(rootPath, "absolute")),
		os.Symlink("../../../../../../run/gw.sock", filepath.Join(rootPath, "dots")),
		os.Symlink(outside, filepath.Join(rootPath, "escape")),
		os.Symlink("loop", filepath.Join(rootPath, "loop")),
		os.WriteFile(filepath.Join(rootPath, "file"), nil, 0o600),
		unix.Mkfifo(filepath.Join(rootPath, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		path    string
		verdict Verdict
	}{
		{"/run/gw.sock", Yes}, {"/" + deep + "/gw.sock", Yes}, {"/absolute", Yes}, {"/dots", Yes},
		{"/escape", No}, {"/loop", No}, {"/file", No}, {"/fifo", No}, {"/missing", No}, {"/run", No}, {"/file/x", No},
	} {
		res := Run(t.Context(), ns, root, profile.Ready{Kind: "unix", Address: profile.Address{Network: "unix", Path: tc.path}}, nil)
		if res.Verdict != tc.verdict {
			t.Errorf("%s: %+v", tc.path, res)
		}
	}
	for i := range 4 {
		res := Run(t.Context(), ns, root, profile.Ready{Kind: "unix", Address: profile.Address{Network: "unix", Path: "/full.sock"}}, nil)
		if res.Verdict == No && strings.Contains(res.Detail, "queue") {
			break
		}
		if i == 3 {
			t.Errorf("a full queue gives %+v", res)
		}
	}
	if err := os.Remove(filepath.Join(rootPath, "full.sock")); err != nil {
		t.Fatal(err)
	}
}

func TestAnAbstractSocketIsReachedInItsNetworkNamespaceOnly(t *testing.T) {
	ns := netnstest.New(t)
	var l net.Listener
	full := -1
	err := netns.Do(ns, func() (err error) {
		if l, err = net.Listen("unix", "@gw"); err != nil {
			return err
		}
		if full, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.Bind(full, &unix.SockaddrUnix{Name: "@full"}), unix.Listen(full, 0))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(full)
	serve(t, l, func(net.Conn) {})
	ask := func(ns *os.File, name string) Result {
		return Run(t.Context(), ns, -1, profile.Ready{Kind: "unix", Address: profile.Address{Network: "unix", Path: name}}, nil)
	}
	if res := ask(ns, "@gw"); res.Verdict != Yes {
		t.Errorf("%+v", res)
	}
	if res := ask(netnstest.New(t), "@gw"); res.Verdict != No || !strings.Contains(res.Detail, "refused") {
		t.Errorf("from another namespace: %+v", res)
	}
	if res := ask(ns, "@gw2"); res.Verdict != No {
		t.Errorf("another name: %+v", res)
	}
	for i := 0; ; i++ {
		res := ask(ns, "@full")
		if res.Verdict == No && strings.Contains(res.Detail, "queue") {
			break
		}
		if i == 3 {
			t.Fatalf("a full queue gives %+v", res)
		}
	}
}

func FuzzParseResponse(f *testing.F) {
	for _, s := range []string{
		"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\nA: b\r\n\r\nbody",
		"HTTP/1.1 200 OK\r\nA b\r\n\r\n", "HTTP/1.1 999 x\r\n\r\n", "HTTP/1.1 200 \x1b\r\n\r\n", "HTTP/1.1 200\r", "HTTP/1.1 20",
		strings.Repeat("HTTP/1.1 100 \r\n\r\n", 9), "HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		status, err := parseResponse(b)
		if err == nil && (status < 200 || status > 599) || err != nil && status != 0 {
			t.Fatalf("%d, %v", status, err)
		}
		if err != nil {
			for _, r := range err.Error() {
				if r != '…' && (r < ' ' || r > '~') || len(err.Error()) > 300 {
					t.Fatalf("the message is not harmless: %q", err)
				}
			}
		}
		// What arrives in pieces is judged as if it came at once: a verdict never depends on where the reads end.
		for i := range len(b) {
			got, gerr := parseResponse(b[:i])
			if gerr == nil && (err != nil || got != status) {
				t.Fatalf("%q is %d, but the whole is %d, %v", b[:i], got, status, err)
			}
			if gerr != nil && !errors.Is(gerr, errIncomplete) && err == nil {
				t.Fatalf("%q is %v, but the whole is %d", b[:i], gerr, status)
			}
		}
	})
}

func BenchmarkHTTP(b *testing.B) {
	ns := netnstest.New(b)
	r := get200(server(b, ns, answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")))
	for b.Loop() {
		if res := Run(b.Context(), ns, -1, r, nil); res.Verdict != Yes {
			b.Fatalf("%+v", res)
		}
	}
}
