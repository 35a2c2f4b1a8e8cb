package probe

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// healthServer serves gRPC's own health service on l.
func healthServer(t testing.TB, l net.Listener) *health.Server {
	t.Helper()
	s, h := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(s, h)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return h
}

func listen(t testing.TB, ns *os.File) (net.Listener, profile.Address) {
	t.Helper()
	var l net.Listener
	if err := netns.Do(ns, func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	a, err := profile.ParseAddress("tcp://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return l, a
}

func grpcReady(a profile.Address, service string) profile.Ready {
	r := profile.Ready{Kind: "grpc", Address: a, Host: "localhost", Service: service}
	if a.Network != "unix" {
		r.Host = a.AddrPort.String()
	}
	return r
}

func TestTheHealthServiceOfGRPCIsAsked(t *testing.T) {
	ns := netnstest.New(t)
	l, a := listen(t, ns)
	h := healthServer(t, l)
	h.SetServingStatus("web", healthpb.HealthCheckResponse_NOT_SERVING)
	h.SetServingStatus("slow", healthpb.HealthCheckResponse_UNKNOWN)
	h.SetServingStatus("a.b/C é", healthpb.HealthCheckResponse_SERVING)
	h.SetServingStatus(strings.Repeat("s", 256), healthpb.HealthCheckResponse_SERVING)
	for _, c := range []struct {
		service string
		verdict Verdict
		detail  string
	}{
		{"", Yes, ""}, {"a.b/C é", Yes, ""}, {strings.Repeat("s", 256), Yes, ""},
		{"web", No, `service "web" is NOT_SERVING`}, {"slow", No, `service "slow" is UNKNOWN`},
		{"other", No, `does not know service "other" (gRPC status NOT_FOUND): compare ready.service`},
	} {
		res := Run(t.Context(), ns, -1, grpcReady(a, c.service), nil)
		if res.Verdict != c.verdict || !strings.Contains(res.Detail, c.detail) || res.Kind != "grpc" || (res.Verdict == Yes) != (res.Detail == "") {
			t.Errorf("service %q: %+v", c.service, res)
		}
	}
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	if res := Run(t.Context(), ns, -1, grpcReady(a, ""), nil); res.Verdict != No || !strings.Contains(res.Detail, "the server is NOT_SERVING") {
		t.Errorf("%+v", res)
	}
}

func TestTheHealthServiceIsAskedOverAUnixSocketToo(t *testing.T) {
	ns := netnstest.New(t)
	dir := t.TempDir()
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	l, err := net.Listen("unix", filepath.Join(dir, "gw.sock"))
	if err != nil {
		t.Fatal(err)
	}
	healthServer(t, l)
	if res := Run(t.Context(), ns, root, grpcReady(profile.Address{Network: "unix", Path: "/gw.sock"}, ""), nil); res.Verdict != Yes {
		t.Errorf("%+v", res)
	}
	if res := Run(t.Context(), ns, root, grpcReady(profile.Address{Network: "unix", Path: "/none"}, ""), nil); res.Verdict != No {
		t.Errorf("%+v", res)
	}
}

func TestAServerWithoutHealthServiceIsNotReady(t *testing.T) {
	ns := netnstest.New(t)
	l, a := listen(t, ns)
	s := grpc.NewServer()
	go s.Serve(l)
	defer s.Stop()
	if res := Run(t.Context(), ns, -1, grpcReady(a, ""), nil); res.Verdict != No || !strings.Contains(res.Detail, "UNIMPLEMENTED") {
		t.Errorf("%+v", res)
	}
}

// script writes frames by hand, as a server that does not keep the rules would.
type script struct {
	*http2.Framer
	out bytes.Buffer
}

func frames(write func(*script)) []byte {
	s := &script{}
	s.Framer = http2.NewFramer(&s.out, nil)
	s.AllowIllegalWrites = true
	write(s)
	return s.out.Bytes()
}

func (s *script) header(stream uint32, end bool, fields ...string) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}

var (
	okHeader = []string{":status", "200", "content-type", "application/grpc"}
	serving  = []byte{0, 0, 0, 0, 2, 8, 1}
)

func TestGRPCAnswersAreJudged(t *testing.T) {
	ns := netnstest.New(t)
	good := frames(func(s *script) {
		s.WriteSettings()
		s.header(1, false, okHeader...)
		s.WriteData(1, false, serving)
		s.header(1, true, "grpc-status", "0")
	})
	flood := func(begin []byte, more func(*script)) func(net.Conn) {
		return func(c net.Conn) {
			c.Write(begin)
			chunk := frames(func(s *script) {
				for range 100 {
					more(s)
				}
			})
			for {
				if _, err := c.Write(chunk); err != nil {
					return
				}
			}
		}
	}
	settings := frames(func(s *script) { s.WriteSettings() })
	started := frames(func(s *script) { s.WriteSettings(); s.header(1, false, okHeader...) })
	said := func(data []byte) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 4096))
			c.Write(data)
			c.(*net.TCPConn).CloseWrite() // and not Close, whose reset may overtake what was sent
			time.Sleep(100 * time.Millisecond)
		}
	}
	whole := func(write func(*script)) func(net.Conn) {
		return said(frames(func(s *script) { s.WriteSettings(); write(s) }))
	}
	trailer := func(body []byte, trailer ...string) func(net.Conn) {
		return whole(func(s *script) {
			s.header(1, false, okHeader...)
			s.WriteData(1, false, body)
			s.header(1, true, trailer...)
		})
	}
	for _, c := range []struct {
		name    string
		handle  func(net.Conn)
		verdict Verdict
		detail  string
	}{
		{"by hand", said(good), Yes, ""},
		{"one byte at a time", func(c net.Conn) {
			for i := range good {
				c.Write(good[i : i+1])
			}
			time.Sleep(100 * time.Millisecond)
		}, Yes, ""},
		{"with pings, early hints, a window update and a field that is not known", whole(func(s *script) {
			s.WritePing(false, [8]byte{1})
			s.WriteWindowUpdate(0, 1000)
			s.header(1, false, ":status", "103")
			s.header(1, false, ":status", "200", "content-type", "application/grpc+proto", "x", "y")
			s.WriteData(1, false, []byte{0, 0, 0, 0, 5, 0x12, 1, 'x', 8, 1})
			s.WriteRawFrame(0xfa, 0, 0, []byte("grease"))
			s.header(1, true, "grpc-status", "0")
		}), Yes, ""},
		{"with padding, priority and a header in parts", whole(func(s *script) {
			var block bytes.Buffer
			e := hpack.NewEncoder(&block)
			e.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			e.WriteField(hpack.HeaderField{Name: "content-type", Value: "application/grpc"})
			half := block.Len() / 2
			s.WriteHeaders(http2.HeadersFrameParam{
				StreamID: 1, BlockFragment: block.Bytes()[:half], PadLength: 9, Priority: http2.PriorityParam{Weight: 3},
			})
			s.WriteContinuation(1, false, nil)
			s.WriteContinuation(1, true, block.Bytes()[half:])
			s.WriteDataPadded(1, false, serving, make([]byte, 200))
			s.header(1, true, "grpc-status", "0")
		}), Yes, ""},
		{"a continuation of nothing", whole(func(s *script) { s.WriteContinuation(1, true, nil) }), No, "a continuation of nothing"},
		{"a header that is interrupted", whole(func(s *script) {
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}})
			s.WritePing(false, [8]byte{})
		}), No, "a header without its end"},
		{"a header that another stream continues", whole(func(s *script) {
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}})
			s.WriteContinuation(3, true, nil)
		}), No, "a header without its end"},
		{"a ping of a wrong size", whole(func(s *script) { s.WriteRawFrame(http2.FramePing, 0, 0, []byte("abc")) }), No, "wrong size"},
		{"an error without its number", whole(func(s *script) { s.WriteRawFrame(http2.FrameRSTStream, 0, 1, nil) }), No, "wrong size"},
		{"settings in part", whole(func(s *script) { s.WriteRawFrame(http2.FrameSettings, 0, 0, []byte("abc")) }), No, "wrong size"},
		{"nothing but padding", whole(func(s *script) {
			s.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, 1, []byte{200, 0x88})
		}), No, "nothing but padding"},
		{"a header too short for its priority", whole(func(s *script) {
			s.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersPriority|http2.FlagHeadersEndHeaders, 1, []byte{0x88})
		}), No, "too short"},
		{"a header that is not compressed as it should be", whole(func(s *script) {
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true})
		}), No, "cannot be decoded"},
		{"a header in upper case", whole(func(s *script) { s.header(1, false, append(okHeader, "X-Y", "z")...) }), No, "malformed"},
		{"two statuses", whole(func(s *script) { s.header(1, false, append([]string{":status", "503"}, okHeader...)...) }), No, "malformed"},
		{"a status after the rest", whole(func(s *script) { s.header(1, false, "content-type", "application/grpc", ":status", "200") }), No, "malformed"},
		{"an error without a name", whole(func(s *script) { s.WriteRSTStream(1, 0xbeef) }), No, "error 0xbeef"},
		{"HTTP/1", answers("HTTP/1.1 400 Bad Request\r\n\r\n"), No, "the answer is HTTP/1, and gRPC needs HTTP/2"},
		{"garbage", answers("SSH-2.0-OpenSSH\r\n"), No, `begins with "SSH-2.0`},
		{"garbage with escapes", answers("\x00\x00\x00\x1b]0;x\x07\r\n"), No, `not HTTP/2: it begins with "\x00\x00\x00\x1b]0;x\a`},
		{"nothing", func(c net.Conn) { c.Read(make([]byte, 4096)) }, No, "without an answer"},
		{"an end within the answer", said(good[:len(good)-3]), No, "closed within the answer"},
		{"a reset", func(c net.Conn) {
			c.(*net.TCPConn).SetLinger(0)
		}, No, "reset"},
		{"settings without end", flood(settings, func(s *script) { s.WriteSettings() }), No, "more than 256 frames"},
		{"pings without end", flood(settings, func(s *script) { s.WritePing(false, [8]byte{}) }), No, "more than 256 frames"},
		{"frames that are not known, without end", flood(settings, func(s *script) { s.WriteRawFrame(0xfa, 0, 0, make([]byte, 16<<10)) }), No, "longer than 65536"},
		{"data without end", flood(started, func(s *script) { s.WriteData(1, false, make([]byte, 1000)) }), No, "longer than 4096"},
		{"empty data without end", flood(started, func(s *script) { s.WriteData(1, false, nil) }), No, "more than 256 frames"},
		{"interim responses without end", flood(settings, func(s *script) { s.header(1, false, ":status", "100") }), No, "more than 4 interim"},
		{"a header without end", flood(frames(func(s *script) {
			s.WriteSettings()
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}})
		}), func(s *script) { s.WriteContinuation(1, false, []byte("\x00\x01x\x01y")) }), No, ""},
		{"a compression bomb", whole(func(s *script) {
			block := append([]byte{0x40, 1, 'x', 0x7f, 0xa1, 0x1e}, make([]byte, 4000)...) // an entry of 4000 bytes in the table
			block = append(block, bytes.Repeat([]byte{0xbe}, 8000)...)                     // and 8000 times that
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
		}), No, ""},
		{"a frame that is too long", said(append(bytes.Clone(settings), 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1)), No, "too large"},
		{"no settings first", said(frames(func(s *script) { s.WritePing(false, [8]byte{}) })), No, "not HTTP/2"},
		{"go away", whole(func(s *script) { s.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil) }), No, "GOAWAY (ENHANCE_YOUR_CALM)"},
		{"a refused call", whole(func(s *script) { s.WriteRSTStream(1, http2.ErrCodeRefusedStream) }), No, "REFUSED_STREAM"},
		{"a push", whole(func(s *script) {
			s.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: []byte{0x88}, EndHeaders: true})
		}), No, "pushes"},
		{"an HTTP error", whole(func(s *script) { s.header(1, true, ":status", "503") }), No, `HTTP status "503"`},
		{"a web page", whole(func(s *script) { s.header(1, false, ":status", "200", "content-type", "text/html") }), No, `content type is "text/html"`},
		{"a call that fails", whole(func(s *script) {
			s.header(1, true, append(okHeader, "grpc-status", "14", "grpc-message", "no database")...)
		}), No, `UNAVAILABLE: "no database"`},
		{"a status that is none", trailer(serving, "grpc-status", "x\"y"), No, `gRPC status "x\"y"`},
		{"no status", trailer(serving), No, "without a gRPC status"},
		{"data at the end", whole(func(s *script) { s.header(1, false, okHeader...); s.WriteData(1, true, serving) }), No, "without a gRPC status"},
		{"no message", whole(func(s *script) { s.header(1, true, append(okHeader, "grpc-status", "0")...) }), No, "without a message"},
		{"an empty message", trailer([]byte{0, 0, 0, 0, 0}, "grpc-status", "0"), No, "is UNKNOWN"},
		{"a compressed message", trailer([]byte{1, 0, 0, 0, 2, 8, 1}, "grpc-status", "0"), No, "compressed"},
		{"a message that is cut off", trailer([]byte{0, 0, 0, 0, 9, 8, 1}, "grpc-status", "0"), No, "cannot be read"},
		{"two messages", trailer(append(bytes.Clone(serving), serving...), "grpc-status", "0"), No, "cannot be read"},
		{"a message that is none", trailer([]byte{0, 0, 0, 0, 2, 8, 0xff}, "grpc-status", "0"), No, "cannot be read"},
		{"a status from the future", trailer([]byte{0, 0, 0, 0, 2, 8, 9}, "grpc-status", "0"), No, "is 9"},
		{"data before the header", whole(func(s *script) { s.WriteData(1, false, serving) }), No, "belongs to no answer"},
		{"another stream's header", whole(func(s *script) { s.header(3, true, okHeader...) }), No, "belongs to no answer"},
		{"two headers", whole(func(s *script) { s.header(1, false, okHeader...); s.header(1, false, "a", "b") }), No, "second header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := Run(t.Context(), ns, -1, grpcReady(server(t, ns, c.handle), ""), nil)
			if res.Verdict != c.verdict || !strings.Contains(res.Detail, c.detail) || (res.Verdict == Yes) != (res.Detail == "") {
				t.Errorf("%+v", res)
			}
			if res.Took > attemptTimeout/2 || len(res.Detail) > 400 {
				t.Errorf("%+v", res)
			}
		})
	}
}

func FuzzGRPCAnswer(f *testing.F) {
	f.Add(frames(func(s *script) {
		s.WriteSettings()
		s.header(1, false, okHeader...)
		s.WriteData(1, false, serving)
		s.header(1, true, "grpc-status", "0")
	}))
	f.Add(frames(func(s *script) {
		s.WriteSettings()
		s.WritePing(false, [8]byte{})
		s.header(1, true, append(okHeader, "grpc-status", "12", "grpc-message", "\x1b[31m")...)
	}))
	f.Add(frames(func(s *script) { s.WriteSettings(); s.WriteGoAway(0, 0, nil); s.WriteRSTStream(1, 1) }))
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := readAnswer(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(data), io.Discard}, "web")
		if err == nil {
			if !bytes.Contains(data, []byte{8}) {
				t.Fatalf("yes without a message: %s", hex.EncodeToString(data))
			}
			return
		}
		if _, ok := errors.AsType[answerError](err); !ok && !errors.Is(err, io.EOF) {
			t.Fatalf("the gateway's doing is taken for ours: %v", err)
		}
		for _, r := range err.Error() {
			if r != '…' && (r < ' ' || r > '~') || len(err.Error()) > 400 {
				t.Fatalf("the message is not harmless: %q", err)
			}
		}
	})
}

func FuzzParseCheck(f *testing.F) {
	f.Add(serving)
	f.Add([]byte{0, 0, 0, 0, 5, 0x12, 1, 'x', 8, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := parseCheck(body)
		if err != nil && n != 0 {
			t.Fatalf("%d, %v", n, err)
		}
	})
}
