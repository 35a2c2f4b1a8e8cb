package verb

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
)

const someLog = "2026-11-23T12:00:00.123456789Z stdout F listening\n" +
	"2026-11-23T12:00:01.000000000Z stderr F warning \x1b[31mred\n" +
	"2026-11-23T12:00:02.000000000Z stdout P half a \n" +
	"2026-11-23T12:00:02.000000000Z stdout F line\n"

func TestLogsPrintEachStreamToItsOwn(t *testing.T) {
	h := newHost(t)
	h.write(filepath.Join(h.env.Config.LogDir, "default/web/gateway.log"), someLog)
	for _, args := range [][]string{{"logs", "web"}, {"logs", "-n", "3", "web"}, {"logs", "-n=0", "web"}, {"logs", "-t", "web", "--lines", "4"}} {
		exit, stdout, stderr := h.run(args...)
		wantOut, wantErr := "listening\nhalf a line\n", "warning \x1b[31mred\n"
		switch strings.Join(args, " ") {
		case "logs -n 3 web":
			wantOut = "half a line\n"
		case "logs -n=0 web":
			wantOut, wantErr = "", ""
		case "logs -t web --lines 4":
			want(t, exit, code.ExitOK, stdout, "2026-11-23T12:00:00.123456Z listening\n")
			continue
		}
		if exit != code.ExitOK || stdout != wantOut || stderr != wantErr {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, exit, stdout, stderr)
		}
	}
}

func TestLogsAreHarmlessOnATerminalAndStructuredAsJSON(t *testing.T) {
	h := newHost(t)
	h.write(filepath.Join(h.env.Config.LogDir, "default/web/gateway.log"), someLog)
	h.env.Terminal = true
	_, _, stderr := h.run("logs", "web")
	if strings.Contains(stderr, "\x1b") || !strings.Contains(stderr, "red") {
		t.Errorf("stderr %q", stderr)
	}
	_, stdout, _ := h.run("logs", "-n", "1", "--json", "web")
	if stdout != `{"time":"2026-11-23T12:00:02Z","stream":"stdout","partial":false,"text":"line"}`+"\n" {
		t.Errorf("stdout %q", stdout)
	}
}

func TestLogsWorkBeforeTheFirstLineAndAfterTheEnd(t *testing.T) {
	h := newHost(t)
	h.lose("default/early")
	exit, stdout, stderr := h.run("logs", "early")
	if exit != code.ExitOK || stdout+stderr != "" {
		t.Errorf("exit %d, %q %q", exit, stdout, stderr)
	}
	exit, _, stderr = h.run("logs", "nobody")
	want(t, exit, code.ExitNotManaged, stderr, "(not_managed)")
	exit, _, stderr = newHost(t).inside().run("logs")
	want(t, exit, code.ExitNotManaged, stderr, "default/web has no gateway")
}

func TestFollowingEndsQuietlyWhenInterrupted(t *testing.T) {
	h := newHost(t)
	path := filepath.Join(h.env.Config.LogDir, "default/web/gateway.log")
	h.write(path, someLog)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h.env.Stdout = w
	ctx, cancel := context.WithCancel(t.Context())
	exit := make(chan int, 1)
	go func() {
		exit <- Run(ctx, h.env, []string{"logs", "-f", "-n", "1", "web"})
		w.Close()
	}()
	buf := make([]byte, 100)
	n, err := r.Read(buf)
	if err != nil || string(buf[:n]) != "line\n" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	cancel()
	select {
	case got := <-exit:
		want(t, got, code.ExitOK, h.err.String())
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	if h.err.Len() != 0 {
		t.Errorf("stderr %q", h.err.String())
	}
}

func TestFollowingEndsWhenNobodyReads(t *testing.T) {
	h := newHost(t)
	h.write(filepath.Join(h.env.Config.LogDir, "default/web/gateway.log"), someLog)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	h.env.Stdout = w
	exit, _, stderr := h.run("logs", "-f", "--timeout", "20s", "web")
	want(t, exit, code.ExitRefused, stderr, "broken pipe")
}

func TestFollowingEndsWhenTheContainersLogIsRemoved(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join(h.env.Config.LogDir, "default/web")
	h.write(filepath.Join(dir, "gateway.log"), someLog)
	exit := make(chan int, 1)
	go func() { exit <- Run(t.Context(), h.env, []string{"logs", "-f", "-n", "0", "web"}) }()
	select {
	case got := <-exit:
		t.Fatalf("it ends at once, with %d", got)
	case <-time.After(100 * time.Millisecond):
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-exit:
		want(t, got, code.ExitOK, h.err.String())
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}
