package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/install"
)

// The constructor is in the tests' binary too, which is so the hook that starts a warden, and the warden.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "createRuntime":
		beginsAWarden()
	case len(os.Args) == 2 && os.Args[1] == "poststop":
		fmt.Println(early() == nil)
	case len(os.Args) == 2 && os.Args[1] == "warden":
		hasBegun()
	default:
		os.Exit(m.Run())
	}
}

// beginsAWarden is a hook that gives its warden no container, but what the warden says of itself to its standard output.
func beginsAWarden() {
	e := early()
	if e == nil {
		fmt.Println("no warden")
		return
	}
	if fd := e.Socket.Fd(); fd <= install.LockFD {
		fmt.Println("its socket is descriptor", fd)
	}
	if err := unix.SetNonblock(int(e.Socket.Fd()), true); err != nil { // Fd makes it block
		fmt.Println(err)
	}
	said := make([]byte, 4096)
	n, _ := e.Socket.Read(said)
	e.Socket.Close()
	var status unix.WaitStatus
	_, err := unix.Wait4(e.PID, &status, 0, nil)
	fmt.Printf("%s; ended with %d, %v\n", said[:n], status.ExitStatus(), err)
}

// hasBegun is a warden that says what it has, and waits for a container.
func hasBegun() {
	cwd, _ := os.Getwd()
	sid, _ := unix.Getsid(0)
	var fds []string
	for fd := range 64 {
		to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		// The Go runtime has some of its own: its poller and its cgroup's CPU limit.
		if err == nil && !strings.HasPrefix(to, "anon_inode:") && !strings.HasPrefix(to, "/sys/fs/cgroup/") {
			kind, _, _ := strings.Cut(filepath.Base(to), ":")
			fds = append(fds, fmt.Sprintf("%d=%s", fd, kind))
		}
	}
	fmt.Fprintf(os.NewFile(install.HandshakeFD, "word"), "%s, cwd %s, env %d, leads its session %v, %s",
		strings.Join(os.Args, " "), cwd, len(os.Environ()), sid == os.Getpid(), strings.Join(fds, " "))
	if _, err := install.Entrusted(); errors.Is(err, io.EOF) {
		os.Exit(7)
	}
}

func TestAWardenBeginsWithTheHookThatInstallsAndHasNothingOfIt(t *testing.T) {
	for verb, want := range map[string]string{
		"createRuntime": "gatewarden-hook warden, cwd /, env 0, leads its session true, 0=null 1=null 2=null 3=socket 4=null; ended with 7, <nil>\n",
		"poststop":      "true\n",
	} {
		cmd := exec.Command("/proc/self/exe", verb)
		cmd.Env = []string{"NOTIFY_SOCKET=/n", "GODEBUG=x=1"}
		cmd.Dir = t.TempDir()
		var files []*os.File
		for range 8 { // one for each of the warden's own descriptors, and beyond
			null, err := os.Open("/dev/zero")
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			files = append(files, null)
		}
		cmd.ExtraFiles = files
		out, err := cmd.Output()
		if err != nil || string(out) != want {
			t.Errorf("%s: %v, %q, not %q", verb, err, out, want)
		}
	}
}

// Closed standard descriptors are what a runtime leaves that was itself started without them.
func TestAWardenBeginsAlsoIfStandardDescriptorsAreClosed(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/bin/sh", "-c", `exec "$0" createRuntime <&- 2>&-`, self).Output()
	if err != nil || !strings.HasPrefix(string(out), "gatewarden-hook warden, cwd ") || !strings.Contains(string(out), "0=null 1=null 2=null 3=socket 4=null; ended with 7") {
		t.Errorf("%v, %q", err, out)
	}
}
