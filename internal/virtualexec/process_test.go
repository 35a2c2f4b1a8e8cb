package virtualexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// waitFor bounds every wait of these tests for something that must happen.
const waitFor = 10 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), waitFor)
	t.Cleanup(cancel)
	return ctx
}

// exec makes a Process whose callbacks may be left out.
func exec(cfg Config) *Process {
	cfg.ID = "x"
	if cfg.Run == nil {
		cfg.Run = func(context.Context, Streams) int { return 0 }
	}
	if cfg.Starting == nil {
		cfg.Starting = func() error { return nil }
	}
	if cfg.Exited == nil {
		cfg.Exited = func(Exit) {}
	}
	return New(cfg)
}

func start(t *testing.T, p *Process) {
	t.Helper()
	if err := p.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

func wait(t *testing.T, p *Process) uint32 {
	t.Helper()
	exit, err := p.Wait(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return exit.Status
}

// untilKilled is a program that runs until it is killed.
func untilKilled(ctx context.Context, _ Streams) int {
	<-ctx.Done()
	return 5
}

func makeFifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// readAll reads path, a FIFO, to its end in the background.
func readAll(path string) func() string {
	type result struct {
		data []byte
		err  error
	}
	c := make(chan result, 1)
	go func() {
		data, err := os.ReadFile(path)
		c <- result{data, err}
	}()
	return func() string {
		select {
		case r := <-c:
			if r.err != nil {
				return "error: " + r.err.Error()
			}
			return string(r.data)
		case <-time.After(waitFor):
			return "no end of file"
		}
	}
}

func TestAnExecWithoutStreamsRunsAndTellsItsStatus(t *testing.T) {
	var exited atomic.Int32
	p := exec(Config{
		Run: func(_ context.Context, s Streams) int {
			if n, err := s.Stdin.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("read from the null input: %d, %v", n, err)
			}
			fmt.Fprintln(s.Stdout, "out")
			fmt.Fprintln(s.Stderr, "err")
			return 3
		},
		Exited: func(e Exit) { exited.Store(int32(e.Status)) },
	})
	if status, _ := p.Status(); status != Created {
		t.Errorf("status %v before Start", status)
	}
	start(t, p)
	if got := wait(t, p); got != 3 {
		t.Errorf("exit status %d, want 3", got)
	}
	if got := exited.Load(); got != 3 {
		t.Errorf("Exited was told %d before Wait returned, want 3", got)
	}
	status, exit := p.Status()
	if status != Stopped || exit.Status != 3 || exit.At.IsZero() {
		t.Errorf("after the end: %v %+v", status, exit)
	}
	if exit, err := p.Delete(); err != nil || exit.Status != 3 {
		t.Errorf("Delete: %+v, %v", exit, err)
	}
}

func TestOutputAndErrorsReachTheirFIFOs(t *testing.T) {
	out, errs := makeFifo(t, "out"), makeFifo(t, "err")
	readOut, readErr := readAll(out), readAll(errs)
	p := exec(Config{
		Stdio: Stdio{Stdout: out, Stderr: errs},
		Run: func(_ context.Context, s Streams) int {
			fmt.Fprintln(s.Stdout, "to out")
			fmt.Fprintln(s.Stderr, "to err")
			return 0
		},
	})
	start(t, p)
	wait(t, p)
	if got := readOut(); got != "to out\n" {
		t.Errorf("standard output %q", got)
	}
	if got := readErr(); got != "to err\n" {
		t.Errorf("standard error %q", got)
	}
}

func TestAReaderThatAttachesAfterStartGetsEverything(t *testing.T) {
	// CRI has the FIFO open for reading before Start and reads it afterwards.
	out := makeFifo(t, "out")
	r, err := os.OpenFile(out, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := exec(Config{Stdio: Stdio{Stdout: out}, Run: func(_ context.Context, s Streams) int {
		fmt.Fprint(s.Stdout, "early")
		return 0
	}})
	start(t, p)
	wait(t, p)
	if data, err := io.ReadAll(r); err != nil || string(data) != "early" {
		t.Errorf("read %q, %v", data, err)
	}
}

func TestATerminalGetsOneStreamWithCarriageReturns(t *testing.T) {
	out := makeFifo(t, "tty")
	read := readAll(out)
	p := exec(Config{
		Stdio: Stdio{Stdout: out, Terminal: true},
		Run: func(_ context.Context, s Streams) int {
			fmt.Fprintf(s.Stdout, "width %d\n", s.Width)
			fmt.Fprint(s.Stderr, "a\nb\n")
			return 0
		},
	})
	if err := p.Resize(120); err != nil {
		t.Fatal(err)
	}
	start(t, p)
	wait(t, p)
	if got, want := read(), "width 120\r\na\r\nb\r\n"; got != want {
		t.Errorf("terminal got %q, want %q", got, want)
	}
	if err := p.Resize(80); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("resize after the end: %v", err)
	}
}

func TestAFileURLIsMadeAndAppendedTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "log")
	for range 2 {
		p := exec(Config{
			Stdio: Stdio{Stdout: "file://" + path, Stderr: "file://" + path},
			Run: func(_ context.Context, s Streams) int {
				fmt.Fprintln(s.Stdout, "out")
				fmt.Fprintln(s.Stderr, "err")
				return 0
			},
		})
		start(t, p)
		wait(t, p)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "out\nerr\nout\nerr\n"; string(data) != want {
		t.Errorf("file holds %q, want %q", data, want)
	}
}

func TestStreamsOfOtherKindsAreRefused(t *testing.T) {
	tests := []struct {
		stdio Stdio
		class func(error) bool
	}{
		{Stdio{Stdout: "binary:///bin/logger?x=1"}, errdefs.IsInvalidArgument},
		{Stdio{Stdout: "binary-v2:///bin/logger"}, errdefs.IsInvalidArgument},
		{Stdio{Stderr: "binary:///bin/logger"}, errdefs.IsInvalidArgument},
		{Stdio{Stdout: "ttrpc+unix:///run/x.sock?streaming_id=1"}, errdefs.IsNotImplemented},
		{Stdio{Stdout: "relative"}, errdefs.IsInvalidArgument},
		{Stdio{Stdout: "file://relative"}, errdefs.IsInvalidArgument},
		{Stdio{Stdout: "%zz"}, errdefs.IsInvalidArgument},
		{Stdio{Stdout: "/absent/fifo"}, func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
		{Stdio{Stdin: "/absent/fifo"}, func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.stdio), func(t *testing.T) {
			p := exec(Config{
				Stdio:  tt.stdio,
				Run:    func(context.Context, Streams) int { t.Error("it ran"); return 0 },
				Exited: func(Exit) { t.Error("it exited without having started") },
			})
			if err := p.Start(testContext(t)); err == nil || !tt.class(err) {
				t.Fatalf("Start: %v", err)
			}
			if got := wait(t, p); got != unknownStatus {
				t.Errorf("exit status %d after a failed Start", got)
			}
			if _, err := p.Delete(); err != nil {
				t.Errorf("Delete after a failed Start: %v", err)
			}
		})
	}
}

func TestAFIFOThatNobodyReadsBoundsStart(t *testing.T) {
	p := exec(Config{Stdio: Stdio{Stdout: makeFifo(t, "out")}})
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	err := p.Start(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "nobody opened") {
		t.Fatalf("Start: %v", err)
	}
	wait(t, p)
}

func TestStateAndKillAnswerWhileStartWaitsForTheClient(t *testing.T) {
	p := exec(Config{Stdio: Stdio{Stdout: makeFifo(t, "out")}})
	started := make(chan error, 1)
	go func() { started <- p.Start(testContext(t)) }()
	for {
		p.mu.Lock()
		_, opening := p.state.(starting)
		p.mu.Unlock()
		if opening {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if status, _ := p.Status(); status != Created {
		t.Errorf("status %v", status)
	}
	if _, err := p.Delete(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Delete while starting: %v", err)
	}
	if err := p.Kill(unix.SIGKILL); err != nil {
		t.Errorf("Kill while starting: %v", err)
	}
	if err := <-started; !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Start of a killed exec: %v", err)
	}
	if _, err := p.Delete(); err != nil {
		t.Error(err)
	}
}

func TestStandardInputEndsWithCloseIO(t *testing.T) {
	in, out := makeFifo(t, "in"), makeFifo(t, "out")
	read := readAll(out)
	p := exec(Config{Stdio: Stdio{Stdin: in, Stdout: out}, Run: func(_ context.Context, s Streams) int {
		io.Copy(s.Stdout, s.Stdin)
		return 0
	}})
	start(t, p)
	w, err := os.OpenFile(in, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "typed")
	w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("input ended before CloseIO: %v", err)
	}
	p.CloseStdin()
	p.CloseStdin()
	wait(t, p)
	if got := read(); got != "typed" {
		t.Errorf("copied %q", got)
	}
}

func TestSignals(t *testing.T) {
	t.Run("one that ends a process ends it with 128 plus its number", func(t *testing.T) {
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGKILL, unix.SIGHUP, unix.SIGUSR1} {
			p := exec(Config{Run: untilKilled})
			start(t, p)
			if err := p.Kill(sig); err != nil {
				t.Fatal(err)
			}
			if got := wait(t, p); got != 128+uint32(sig) {
				t.Errorf("exit status %d after %v", got, sig)
			}
			if err := p.Kill(sig); !errdefs.IsNotFound(err) {
				t.Errorf("Kill after the end: %v", err)
			}
		}
	})
	t.Run("one that is ignored by default does nothing", func(t *testing.T) {
		p := exec(Config{Run: untilKilled})
		start(t, p)
		for _, sig := range []unix.Signal{0, unix.SIGWINCH, unix.SIGURG, unix.SIGCHLD, unix.SIGCONT} {
			if err := p.Kill(sig); err != nil {
				t.Errorf("%v: %v", sig, err)
			}
		}
		if err := p.Kill(unix.SIGSTOP); !errdefs.IsInvalidArgument(err) {
			t.Errorf("SIGSTOP: %v", err)
		}
		if status, _ := p.Status(); status != Running {
			t.Errorf("status %v", status)
		}
		p.Kill(unix.SIGKILL)
		wait(t, p)
	})
	t.Run("the first one counts", func(t *testing.T) {
		p := exec(Config{Run: untilKilled})
		start(t, p)
		p.Kill(unix.SIGTERM)
		p.Kill(unix.SIGKILL)
		if got := wait(t, p); got != 128+uint32(unix.SIGTERM) {
			t.Errorf("exit status %d", got)
		}
	})
	t.Run("before Start there is nothing to signal", func(t *testing.T) {
		p := exec(Config{})
		if err := p.Kill(unix.SIGKILL); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Kill before Start: %v", err)
		}
	})
}

func TestAKilledProgramThatHangsInAWriteEndsAllTheSame(t *testing.T) {
	out := makeFifo(t, "out")
	r, err := os.OpenFile(out, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	returned := make(chan error, 1)
	p := exec(Config{Stdio: Stdio{Stdout: out}, Run: func(_ context.Context, s Streams) int {
		_, err := s.Stdout.Write(bytes.Repeat([]byte("x"), 1<<20)) // a pipe holds 64 KiB
		returned <- err
		return 0
	}})
	start(t, p)
	if err := p.Kill(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p); got != 128+uint32(unix.SIGKILL) {
		t.Errorf("exit status %d", got)
	}
	select {
	case err := <-returned:
		if err == nil {
			t.Error("a write to a closed stream succeeded")
		}
	case <-time.After(waitFor):
		t.Error("the write still hangs: its goroutine leaks")
	}
}

func TestAPanicIsTheExecsOwnFailure(t *testing.T) {
	out, errs := makeFifo(t, "out"), makeFifo(t, "err")
	readAll(out)
	read := readAll(errs)
	p := exec(Config{Stdio: Stdio{Stdout: out, Stderr: errs}, Run: func(context.Context, Streams) int { panic("boom") }})
	start(t, p)
	if got := wait(t, p); got != 1 {
		t.Errorf("exit status %d", got)
	}
	if got := read(); got != "gatewarden: internal error: boom (internal)\n" {
		t.Errorf("standard error %q", got)
	}
}

func TestEachStateRefusesWhatItDoesNotAllow(t *testing.T) {
	t.Run("running", func(t *testing.T) {
		p := exec(Config{Run: untilKilled})
		start(t, p)
		if err := p.Start(testContext(t)); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("second Start: %v", err)
		}
		if _, err := p.Delete(); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Delete: %v", err)
		}
		p.Kill(unix.SIGKILL)
		wait(t, p)
		if err := p.Start(testContext(t)); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Start after the end: %v", err)
		}
	})
	t.Run("deleted without having started", func(t *testing.T) {
		p := exec(Config{Exited: func(Exit) { t.Error("an exit of what never started") }})
		if _, err := p.Delete(); err != nil {
			t.Fatal(err)
		}
		if got := wait(t, p); got != 0 {
			t.Errorf("exit status %d", got)
		}
		if err := p.Start(testContext(t)); !errdefs.IsNotFound(err) {
			t.Errorf("Start: %v", err)
		}
		if err := p.Kill(unix.SIGKILL); !errdefs.IsNotFound(err) {
			t.Errorf("Kill: %v", err)
		}
		if _, err := p.Delete(); !errdefs.IsNotFound(err) {
			t.Errorf("second Delete: %v", err)
		}
	})
	t.Run("refused by Starting", func(t *testing.T) {
		p := exec(Config{
			Run:      func(context.Context, Streams) int { t.Error("it ran"); return 0 },
			Starting: func() error { return errdefs.ErrFailedPrecondition },
		})
		if err := p.Start(testContext(t)); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Start: %v", err)
		}
		wait(t, p)
	})
}

func FuzzOutputPath(f *testing.F) {
	for _, s := range []string{"/run/fifo", "file:///var/log/x", "fifo:///x", "binary:///bin/x?a=b", "file://x", "%zz", "a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		path, create, err := outputPath(uri)
		if err == nil && !filepath.IsAbs(path) {
			t.Errorf("%q leads to the relative path %q", uri, path)
		}
		if err != nil && (path != "" || create) {
			t.Errorf("%q gives a path beside an error", uri)
		}
	})
}
