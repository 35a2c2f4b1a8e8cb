//go:build failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Enabled tells whether this binary has failpoints.
const Enabled = true

// Hit carries out what the file in dir asks for at the point name.
func Hit(dir, name string) {
	path := filepath.Join(dir, Name)
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(data)) {
		point, action, _ := strings.Cut(strings.TrimSpace(line), " ")
		if point != name {
			continue
		}
		os.Remove(path)
		switch verb, arg, _ := strings.Cut(action, " "); verb {
		case "kill":
			end(unix.SIGKILL)
		case "stop":
			end(unix.SIGSTOP)
		case "sleep":
			d, err := time.ParseDuration(arg)
			if err != nil {
				panic("failpoint " + name + ": " + err.Error())
			}
			time.Sleep(d)
		case "hold":
			hold(filepath.Join(dir, Held))
		default:
			panic("failpoint " + name + ": unknown action " + action)
		}
	}
}

// maxHold bounds a hold whose test has ended.
const maxHold = 30 * time.Second

// hold waits until the file, which it makes, is gone.
func hold(path string) {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		panic(err)
	}
	for deadline := time.Now().Add(maxHold); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Lstat(path); err != nil {
			return
		}
	}
}

// end signals the own process, which has no handle but its number, and can't be anybody else's.
func end(sig unix.Signal) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		panic(err)
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		panic(err)
	}
	unix.Close(fd)
	time.Sleep(time.Second) // nothing after the point runs before the signal has its effect
}
