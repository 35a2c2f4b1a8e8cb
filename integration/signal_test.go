//go:build integration

package integration

import (
	"testing"

	"golang.org/x/sys/unix"
)

// killProcess is an operator's kill -9 of a process.
func killProcess(t *testing.T, pid int) {
	t.Helper()
	signalProcess(t, pid, unix.SIGKILL)
}

// signalProcess is an operator's kill.
func signalProcess(t *testing.T, pid int, sig unix.Signal) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("pidfd of %d: %v", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		t.Fatalf("send %s to %d: %v", unix.SignalName(sig), pid, err)
	}
}
