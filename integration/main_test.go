//go:build integration

package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
)

// host is the containerd that all tests share. TestMain sets it before the first.
var host *harness.Host

// closeTime is kept of go test's own timeout, which would end us with everything running.
const closeTime = 30 * time.Second

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runTests(m))
}

func runTests(m *testing.M) (status int) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	h, err := harness.Start(ctx, "")
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration tests:", err)
		return 1
	}
	host = h
	closed := make(chan error, 1)
	closeOnce := func() error {
		err := h.Close()
		closed <- err
		return err
	}
	go func() {
		timeout := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration)
		var late <-chan time.Time
		if timeout > closeTime {
			late = time.After(timeout - closeTime)
		}
		select {
		case <-closed:
			return
		case <-ctx.Done():
			fmt.Fprintln(os.Stderr, "integration tests: interrupted; stopping what they started")
		case <-late:
			fmt.Fprintln(os.Stderr, "integration tests: out of time; stopping what they started")
			// The stacks tell where they hang, as go test's own timeout would.
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		}
		if err := errors.Join(closeNodes(), h.Close()); err != nil {
			fmt.Fprintln(os.Stderr, "integration tests:", err)
		}
		os.Exit(1)
	}()
	if err := h.Import(ctx, harness.Image{}); err != nil {
		fmt.Fprintln(os.Stderr, "integration tests:", err)
		_ = closeOnce()
		return 1
	}
	status = m.Run()
	if err := closeOnce(); err != nil {
		fmt.Fprintln(os.Stderr, "integration tests: after the last test:", err)
		status = 1
	}
	return status
}
