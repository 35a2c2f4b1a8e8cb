package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// serveIn answers in a fresh run directory until the test ends.
func serveIn(t *testing.T, dir string, h Handler) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); Serve(t.Context(), l, h) }()
	t.Cleanup(func() { l.Close(); <-done })
}

func codeOf(err error) code.Code {
	if e, ok := errors.AsType[*code.Error](err); ok {
		return e.Code
	}
	return ""
}

func TestACallGivesEveryMessageInOrderAndTheLastOneAsItsResult(t *testing.T) {
	dir := t.TempDir()
	serveIn(t, dir, func(_ context.Context, req Request, uid int, send func(Message) error) {
		if req.Verb != Restart || req.Reason != "why" || uid != os.Getuid() {
			t.Errorf("request %+v of UID %d", req, uid)
		}
		send(Message{Stage: code.StageStop})
		send(Message{Stage: code.StageLaunch})
		send(Message{Done: true, Text: "end"})
	})
	var stages []code.Stage
	m, err := Call(t.Context(), dir, Request{Verb: Restart, Reason: "why"}, func(m Message) { stages = append(stages, m.Stage) })
	if err != nil || m.Text != "end" || fmt.Sprint(stages) != "[stop launch]" {
		t.Errorf("%+v, %v, stages %v", m, err, stages)
	}
}

func TestARunDirectoryPathLongerThanASocketAddressWorks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("n", 76), strings.Repeat("i", 64))
	serveIn(t, dir, func(_ context.Context, _ Request, _ int, send func(Message) error) { send(Message{Done: true}) })
	if _, err := Call(t.Context(), dir, Request{Verb: Status}, nil); err != nil {
		t.Error(err)
	}
}

func TestACallTellsAnAbsentGatewayFromALostWarden(t *testing.T) {
	dead := t.TempDir()
	l, err := Listen(dead)
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // the socket's file stays, as after a SIGKILL
	silent := t.TempDir()
	serveIn(t, silent, func(context.Context, Request, int, func(Message) error) {})
	for dir, want := range map[string]code.Code{
		filepath.Join(dead, "none"): code.NotManaged, t.TempDir(): code.WardenLost, dead: code.WardenLost, silent: code.WardenLost,
	} {
		if _, err := Call(t.Context(), dir, Request{Verb: Status}, nil); codeOf(err) != want {
			t.Errorf("%s: %v, want %s", dir, err, want)
		}
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	gone := make(chan struct{})
	serveIn(t, dir, func(ctx context.Context, _ Request, _ int, _ func(Message) error) { <-ctx.Done(); close(gone) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Call(ctx, dir, Request{Verb: Restart}, nil); codeOf(err) != code.Deadline {
		t.Errorf("%v, want deadline", err)
	}
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the handler was not told that its client is gone")
	}
}

func TestAClientReadsTheAnswerOfALaterWarden(t *testing.T) {
	m, err := ParseMessage([]byte(`{"status":{"state":"running","of_later":1},"of_later":{},"done":true}`))
	if err != nil || m.Status == nil || m.Status.State != receipt.Running || !m.Done {
		t.Errorf("%+v, %v", m, err)
	}
	for _, line := range []string{``, `{"done":true} {}`, `{"done":1}`, `{"text":"` + strings.Repeat("x", MaxMessage) + `"}`} {
		if m, err := ParseMessage([]byte(line)); err == nil {
			t.Errorf("%.40q is read as %+v", line, m)
		}
	}
}

func TestAnErrorOfTheWardenArrivesWithItsCode(t *testing.T) {
	dir := t.TempDir()
	serveIn(t, dir, func(_ context.Context, _ Request, _ int, send func(Message) error) {
		send(Message{Done: true, Error: code.Errorf(code.Paused, code.StagePreflight, "cannot: %w", os.ErrInvalid)})
	})
	_, err := Call(t.Context(), dir, Request{Verb: Restart}, nil)
	if e, ok := errors.AsType[*code.Error](err); !ok || e.Code != code.Paused || e.Stage != code.StagePreflight || e.Message != "cannot: invalid argument" {
		t.Errorf("got %v", err)
	}
}

func TestAMalformedRequestIsRefusedWithAReason(t *testing.T) {
	dir := t.TempDir()
	serveIn(t, dir, func(context.Context, Request, int, func(Message) error) {
		t.Error("a malformed request reached the handler")
	})
	for name, c := range map[string]struct{ line, want string }{
		"not JSON":                        {"restart", "invalid character"},
		"unknown key":                     {`{"version":1,"verb":"status","x":1}`, "unknown field"},
		"two values":                      {`{"version":1,"verb":"status"} {}`, "something follows"},
		"other version":                   {`{"version":2,"verb":"status"}`, "protocol version 2"},
		"unknown verb":                    {`{"version":1,"verb":"kill"}`, `unknown verb "kill"`},
		"bad signal":                      {`{"version":1,"verb":"signal","signal":"SIGFOO"}`, "unknown signal"},
		"no signal":                       {`{"version":1,"verb":"signal"}`, "needs a signal"},
		"negative time":                   {`{"version":1,"verb":"restart","timeout":-1}`, "timeout"},
		"reason too long":                 {`{"version":1,"verb":"restart","reason":"` + strings.Repeat("x", MaxReason+1) + `"}`, "reason is longer"},
		"a configuration for a restart":   {`{"version":1,"verb":"restart","config":[{"target":"","source":"/root/x"}]}`, "apply takes at most 64"},
		"too many configurations":         {`{"version":1,"verb":"apply","config":[` + strings.Repeat(`{"target":"/a","source":"/b"},`, MaxConfigs) + `{"target":"/a","source":"/b"}]}`, "65 configurations"},
		"a source that is not absolute":   {`{"version":1,"verb":"apply","config":[{"target":"","source":"x"}]}`, "absolute, clean paths are needed"},
		"a source that is not clean":      {`{"version":1,"verb":"apply","config":[{"target":"","source":"/root/../etc"}]}`, "absolute, clean paths are needed"},
		"no source":                       {`{"version":1,"verb":"apply","config":[{"target":"/etc/gw","source":""}]}`, "absolute, clean paths are needed"},
		"a target that is not clean":      {`{"version":1,"verb":"apply","config":[{"target":"/etc/gw/","source":"/root/x"}]}`, "absolute, clean paths are needed"},
		"a generation for apply":          {`{"version":1,"verb":"apply","to":1}`, "rollback takes one"},
		"a negative generation":           {`{"version":1,"verb":"rollback","to":-1}`, "rollback takes one"},
		"a dry run of a restart":          {`{"version":1,"verb":"restart","dry_run":true}`, "has no dry run and no preflight command"},
		"a recover without its preflight": {`{"version":1,"verb":"recover","skip_preflight":true}`, "has no dry run and no preflight command"},
		"line too long":                   {strings.Repeat("x", MaxRequest+1), "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("unix", filepath.Join(dir, SocketName))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintln(conn, c.line)
			answer := make([]byte, 4096)
			n, _ := conn.Read(answer)
			m, err := strictjson.Decode[Message](answer[:n])
			if err != nil || m.Error == nil || !strings.Contains(m.Error.Message, c.want) || !m.Done {
				t.Errorf("answer %s, want one with %q", answer[:n], c.want)
			}
		})
	}
}

func TestTheSocketIsRootsAlone(t *testing.T) {
	dir := t.TempDir()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fi, err := os.Stat(filepath.Join(dir, SocketName))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"verb":"restart","timeout":5,"reason":"x","request_id":"a","if_generation":1,"signal":"SIGTERM","via":"cli"}`))
	f.Add([]byte(`{"version":1,"verb":"signal","signal":"SIGUSR1"}`))
	f.Add([]byte(`{"version":1,"verb":"apply","config":[{"target":"/etc/gw","source":"/root/new"}],"dry_run":true,"skip_preflight":true}`))
	f.Add([]byte(`{"version":1,"verb":"rollback","to":3}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		req, err := ParseRequest(line)
		if err == nil && (len(req.Config) > MaxConfigs || req.To < 0 || req.Version != Version || req.Timeout < 0 || len(req.Reason) > MaxReason) {
			t.Errorf("accepted %+v", req)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"error":{"code":"busy","stage":"queue","retryable":true,"message":"m"},"done":true}`))
	f.Fuzz(func(t *testing.T, line []byte) { ParseMessage(line) })
}
