// Package controltest is a warden for tests: a real control socket with answers that the test makes up.
package controltest

import (
	"context"
	"os"
	"testing"

	"github.com/gatewarden/gatewarden/internal/control"
)

// Serve answers on dir's control socket until the test ends. dir is a container's run directory (control.Dir) and is
// made if it is absent. handler runs once per request, on its own goroutine; it may send any number of messages, of
// which the last has Done set. A handler that returns without it ends the connection early, as a dying warden does.
// What a client that hung up does not receive is dropped. The end of the test waits for handlers that still run: one
// that blocks is released by a t.Cleanup made after Serve.
func Serve(t testing.TB, dir string, handler func(req control.Request, send func(control.Message))) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		control.Serve(ctx, l, func(_ context.Context, req control.Request, _ int, send func(control.Message) error) {
			// A failed send means that the client is gone: the test's own call has failed already, and says why.
			handler(req, func(m control.Message) { _ = send(m) })
		})
	}()
	t.Cleanup(func() {
		cancel()
		l.Close()
		<-done
	})
}
