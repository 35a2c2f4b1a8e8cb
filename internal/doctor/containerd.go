package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxEnviron bounds a process's environment as it is read.
const maxEnviron = 256 << 10

// daemon is the process that listens on containerd's socket, held by its /proc directory.
type daemon struct {
	address string
	pid     int
	dir     *os.File // its /proc directory; nil: nobody was found
	err     error    // why nobody was found
}

// Close lets go of the process.
func (d *daemon) Close() {
	if d.dir != nil {
		d.dir.Close()
	}
}

// findContainerd asks the kernel who listens at address (SO_PEERCRED, unix(7)).
func findContainerd(address string) *daemon {
	d := &daemon{address: address}
	dialer := net.Dialer{Timeout: 2 * time.Second}
	conn, err := dialer.Dial("unix", address)
	if err != nil {
		d.err = err
		return d
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		d.err = err
		return d
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		credErr = err
	}
	if credErr != nil {
		d.err = credErr
		return d
	}
	d.pid = int(cred.Pid)
	// Opened while the connection stands; the number cannot belong to somebody else as long as its owner listens.
	d.dir, d.err = os.Open("/proc/" + strconv.Itoa(d.pid))
	return d
}

// environ reads the process's environment, which is as it was at its start (proc_pid_environ(5)).
func (d *daemon) environ() (map[string]string, error) {
	if d.dir == nil {
		return nil, d.err
	}
	fd, err := unix.Openat(int(d.dir.Fd()), "environ", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "environ")
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, kv := range strings.Split(string(b), "\x00") {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	return env, nil
}

// shim is what containerd would run for this runtime: the first in its own PATH, else the one beside its own binary.
func (d *daemon) shim(path string) string {
	if file := lookPath(shimName, path); file != "" {
		return file
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(d.dir.Fd()), "exe", buf)
	if err != nil {
		return ""
	}
	return lookPath(shimName, filepath.Dir(string(buf[:n])))
}

// containerd tells what a running containerd makes of us.
func containerd(ctx context.Context, h Host, d *daemon) []Finding {
	f := Finding{Area: "containerd", Name: "socket", Level: OK}
	if d.dir == nil {
		f.Level, f.Detail = Warn, fmt.Sprintf("nobody answers at %s: %v", d.address, d.err)
		f.Remedy = "systemctl start containerd, or name its socket with --address; podman and plain runc need none"
		if errors.Is(d.err, fs.ErrPermission) {
			f.Remedy = "run gatewarden doctor as root"
		}
		return []Finding{f}
	}
	f.Detail = fmt.Sprintf("%s, process %d", d.address, d.pid)
	s := Finding{Area: "containerd", Name: "runtime", Level: OK}
	env, err := d.environ()
	if err != nil {
		s.Level, s.Detail, s.Remedy = Warn, fmt.Sprintf("cannot read the environment of process %d: %v", d.pid, err), "run gatewarden doctor as root"
		return []Finding{f, s}
	}
	file := d.shim(env["PATH"])
	if file == "" {
		s.Level, s.Detail = Fail, "containerd finds no "+shimName+" in its PATH ("+env["PATH"]+") nor beside its binary"
		s.Remedy = "install " + shimName + " into one of these directories"
		return []Finding{f, s}
	}
	s = program(ctx, s, file, h.Version, "-v")
	return []Finding{f, s, settingsOf(h, env["GATEWARDEN_CONFIG"])}
}

// settingsOf compares containerd's settings file, which its shims use, with this command's.
func settingsOf(h Host, theirs string) Finding {
	f := Finding{Area: "containerd", Name: "settings", Level: OK, Detail: "the same file for the shim and for this command"}
	if theirs != h.ConfigPath {
		f.Level = Warn
		f.Detail = fmt.Sprintf("containerd's shims use %s, this command %s", orDefault(theirs), orDefault(h.ConfigPath))
		f.Remedy = "set GATEWARDEN_CONFIG alike for containerd and for this command"
	}
	return f
}

func orDefault(path string) string {
	if path == "" {
		return "the default file"
	}
	return path
}
