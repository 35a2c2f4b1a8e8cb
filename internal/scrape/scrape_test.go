package scrape

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var document = Document{Type: "text/plain; version=0.0.4", Render: func(context.Context) ([]byte, error) { return []byte("up 1\n"), nil }}

// serve serves d on a unix socket until the test ends, and gives its path.
func serve(t *testing.T, d Document) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "m.sock")
	l, err := Listen("unix://"+path, -1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, d) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving ended with %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	return path
}

// send sends a request as it stands and gives all of the answer.
func send(t *testing.T, path, request string) string {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("%v after %q", err, answer)
	}
	return string(answer)
}

// Go's client stands for the scrapers: Prometheus's is the same.
func TestAnHTTPClientIsAnswered(t *testing.T) {
	path := serve(t, document)
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	for i, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/metrics", 200, "up 1\n"}, {"GET", "/metrics?collect=all", 200, "up 1\n"}, {"HEAD", "/metrics", 200, ""},
		{"GET", "/", 404, "there is only /metrics\n"}, {"DELETE", "/metrics", 405, "only GET and HEAD are answered\n"},
		{"GET", "/metrics", 200, "up 1\n"},
	} {
		req, err := http.NewRequest(c.method, "http://gatewarden"+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || string(body) != c.body {
			t.Errorf("%s %s: %v, %d, %q", c.method, c.path, err, resp.StatusCode, body)
		}
		if c.status == 200 && (resp.Header.Get("Content-Type") != document.Type || resp.ContentLength != 5) {
			t.Errorf("%s %s: %v", c.method, c.path, resp.Header)
		}
	}
}

func TestRequestsAreReadStrictlyAndWithinBounds(t *testing.T) {
	path := serve(t, document)
	for _, c := range []struct {
		name, request, status string
	}{
		{"1.0 without a Host", "GET /metrics HTTP/1.0\r\n\r\n", "200 OK"},
		{"1.1 without a Host", "GET /metrics HTTP/1.1\r\n\r\n", "400 Bad Request"},
		{"two Hosts", "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 Bad Request"},
		{"an absolute target", "GET http://a/metrics HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"},
		{"a method in lower case", "get /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"},
		{"two blanks", "GET  /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"},
		{"a control character", "GET /met\x01rics HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"},
		{"another path", "GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n", "404 Not Found"},
		{"a body", "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "400 Bad Request"},
		{"a chunked body", "GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 Bad Request"},
		{"no body, and says so", "GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "200 OK"},
		{"a line that is no field", "GET /metrics HTTP/1.1\r\nHost a\r\n\r\n", "400 Bad Request"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\n", "400 Bad Request"},
		{"a later version", "GET /metrics HTTP/3.0\r\n\r\n", "505 HTTP Version Not Supported"},
		{"too long a target", "GET /" + strings.Repeat("a", maxRequest), "431 Request Header Fields Too Large"},
		{"too many fields", "GET /metrics HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", maxRequest/6), "431 Request Header Fields Too Large"},
		{"two requests", "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK"},
	} {
		answer := send(t, path, c.request)
		if !strings.HasPrefix(answer, "HTTP/1.1 "+c.status+"\r\n") || !strings.Contains(answer, "\r\nConnection: close\r\n") || strings.Count(answer, "HTTP/1.1 ") != 1 && c.name != "a later version" {
			t.Errorf("%s: %q", c.name, answer)
		}
	}
}

func TestAFailureToTellIsAnswered(t *testing.T) {
	path := serve(t, Document{Render: func(context.Context) ([]byte, error) { return nil, errors.New("no right to read") }})
	if answer := send(t, path, "GET /metrics HTTP/1.0\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 500 ") || !strings.HasSuffix(answer, "\r\n\r\nno right to read\n") {
		t.Errorf("%q", answer)
	}
}

// Who connects and says nothing takes a place for some seconds, and no more than there are; then others are served.
func TestSilentClientsKeepNobodyOutForLong(t *testing.T) {
	path := serve(t, document)
	for range maxConnections {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	begun := time.Now()
	answer := send(t, path, "GET /metrics HTTP/1.0\r\n\r\n")
	if took := time.Since(begun); !strings.HasSuffix(answer, "\r\n\r\nup 1\n") || took < requestTime/2 || took > 2*requestTime {
		t.Errorf("after %v: %q", took, answer)
	}
}

func TestAConnectionIsNotServedLongerThanTheServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var rendered atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, Document{Render: func(ctx context.Context) ([]byte, error) { rendered.Store(true); return nil, ctx.Err() }})
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /metrics")
	time.Sleep(50 * time.Millisecond)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	conn.SetDeadline(time.Now().Add(requestTime / 2))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) || rendered.Load() {
		t.Errorf("%d, %v; rendered: %v", n, err, rendered.Load())
	}
}

func TestAUnixSocketIsRootsAloneOrAGroupsToo(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m")
	for _, c := range []struct {
		group int
		mode  os.FileMode
	}{{-1, 0o600}, {12345, 0o660}} {
		l, err := Listen("unix://"+path, c.group)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != c.mode {
			t.Errorf("group %d: %v, %v", c.group, info.Mode(), err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Uid != uint32(os.Getuid()) || c.group >= 0 && st.Gid != uint32(c.group) {
			t.Errorf("group %d: %d:%d, %v", c.group, st.Uid, st.Gid, err)
		}
		l.Close()
	}
}

func TestOnlyWhatNobodyUsesIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m")
	first, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := Listen("unix://"+path, -1); err == nil || !strings.Contains(err.Error(), "somebody listens") {
		t.Errorf("a live one: %v, %v", l, err)
	}
	first.SetUnlinkOnClose(false)
	first.Close()
	l, err := Listen("unix://"+path, -1)
	if err != nil {
		t.Fatalf("one that is left: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen("unix://"+path, -1); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v, %v", l, err)
	}
	if data, _ := os.ReadFile(path); string(data) != "mine" {
		t.Errorf("the file was changed: %q", data)
	}
}

func TestAddressesThatOthersReachAreRefused(t *testing.T) {
	for address, why := range map[string]string{
		"tcp://0.0.0.0:9754": "not a loopback address", "tcp6://[::]:9754": "not a loopback address", "tcp://192.0.2.1:9754": "not a loopback address",
		"unix://@metrics": "no permissions", "tcp://localhost:9754": "not looked up", "tcp://127.0.0.1:0": "port 0", ":9754": "not an address",
		"unix://metrics.sock": "not absolute", "tcp://127.0.0.1": "no port",
	} {
		if l, err := Listen(address, -1); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, %v", address, l, err)
		}
	}
}

func TestAGroupIsANumber(t *testing.T) {
	for s, want := range map[string]int{"0": 0, "65534": 65534, "": -1, "nogroup": -1, "-1": -1, "4294967295": -1, "1e3": -1} {
		n, err := ParseGroup(s)
		if (err != nil) != (want < 0) || err == nil && n != want {
			t.Errorf("%q: %d, %v", s, n, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /metrics?x HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n",
		"GET /metrics HTTP/1.1\nHost: a\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		head, err := readRequest(bytes.NewReader(data))
		if err != nil {
			if fail, ok := errors.AsType[failure](err); ok && (reason(fail.status) == "" || strings.ContainsAny(fail.why, "\r\n")) {
				t.Errorf("%q: %d %q", data, fail.status, fail.why)
			}
			return
		}
		// What is taken for a request for the document, the standard library takes for one too.
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			return // it is stricter about what a Host may be, which matters to nobody here
		}
		if req.URL.Path != Path || (req.Method == "HEAD") != head || req.ContentLength != 0 {
			t.Errorf("%q: %s %s, %d", data, req.Method, req.URL, req.ContentLength)
		}
	})
}
