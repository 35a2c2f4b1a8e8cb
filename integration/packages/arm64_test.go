//go:build packages

package packages

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/launch"
)

// What qemu can show of arm64: it translates the programs' instructions and their system calls, and has no namespaces, pidfds or
// ptrace of arm64. Containers on arm64 are not tested.
func TestProgramsOfArm64RunUnderQEMU(t *testing.T) {
	root := unpacked(t, pkg(t, *dist, "_arm64.deb"))
	emulated := func(args ...string) result { return try(t, nil, *qemu, args...) }
	for _, program := range []string{"/usr/bin/gatewarden", "/usr/bin/containerd-shim-gatewarden-v2", "/usr/libexec/gatewarden/gatewarden-hook"} {
		if about := do(t, "file", "-b", root+program); !strings.Contains(about, "ARM aarch64") || !strings.Contains(about, "statically linked") {
			t.Errorf("%s: %s", program, about)
		}
	}
	if r := emulated(root+"/usr/bin/gatewarden", "version"); r.status != 0 || !strings.Contains(r.stdout, *version) {
		t.Error(r)
	}
	if r := emulated(root+"/usr/libexec/gatewarden/gatewarden-hook", "version"); r.status != 0 || strings.TrimSpace(r.stdout) != "gatewarden-hook "+*version {
		t.Error(r)
	}
	if r := emulated(root+"/usr/bin/containerd-shim-gatewarden-v2", "-v"); r.status != 0 || !strings.Contains(r.stdout, *version) {
		t.Error(r)
	}
	// A profile has to be root's in every component.
	dir, err := os.MkdirTemp("/var/lib", "gwt-packages-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	good, bad := filepath.Join(dir, "good.toml"), filepath.Join(dir, "bad.toml")
	data, err := os.ReadFile(root + "/usr/share/doc/gatewarden/examples/profiles/hermes.toml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(good, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, bytes.Replace(data, []byte(`"SIGTERM"`), []byte(`"SIGSTOP"`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := emulated(root+"/usr/bin/gatewarden", "profile", "check", good); r.status != 0 {
		t.Error(r)
	}
	if r := emulated(root+"/usr/bin/gatewarden", "profile", "check", bad); r.status != 3 || !strings.Contains(r.stderr+r.stdout, "SIGSTOP does not ask a program to end") {
		t.Error(r)
	}
	// libseccomp and libcontainer are in there; how far it comes without a container tells that they start.
	if r := emulated(root+"/usr/libexec/gatewarden/gatewarden-hook", "createRuntime", "--profile", "NO"); r.status != 1 || !strings.HasPrefix(r.stderr, "gatewarden: ") {
		t.Error(r)
	}
}

// launcher starts the launcher of arm64, parked.
func launcher(t *testing.T) (context.Context, *launch.Gate, *exec.Cmd, *strings.Builder) {
	t.Helper()
	gate, theirs, err := launch.NewGate()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(repository, "internal/launch/bin/launcher-arm64")
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(*qemu, path)
	cmd.ExtraFiles = []*os.File{file, theirs}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() {
		gate.Close()
		cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	if err := gate.AwaitParked(ctx); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	return ctx, gate, cmd, &out
}

// QEMU's user mode of Debian 12 (7.2) has no execveat(2) yet, which later ones have: the launcher is followed up to that call.
func TestTheLauncherOfArm64ParksAndCarriesOutItsOrderUnderQEMU(t *testing.T) {
	fd, err := unix.Open("/bin/busybox", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	exe := os.NewFile(uintptr(fd), "busybox")
	defer exe.Close()

	ctx, gate, _, _ := launcher(t)
	_, err = gate.Release(ctx, launch.Order{Exe: exe, Cwd: "/no/such", Arg: []string{"sh"}})
	if f, ok := errors.AsType[*launch.Failure](err); !ok || *f != (launch.Failure{Step: launch.ChangeDirectory, Errno: unix.ENOENT}) {
		t.Errorf("a directory that is not there: %v", err)
	}

	ctx, gate, cmd, out := launcher(t)
	_, err = gate.Release(ctx, launch.Order{Exe: exe, Cwd: "/usr", Arg: []string{"sh", "-c", `echo "$A in $PWD"`}, Env: []string{"A=released"}})
	if f, ok := errors.AsType[*launch.Failure](err); ok && *f == (launch.Failure{Step: launch.Exec, Errno: unix.ENOSYS}) {
		t.Log("this QEMU has no execveat: seen up to there")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || strings.TrimSpace(out.String()) != "released in /usr" {
		t.Errorf("%v: %q", err, out.String())
	}
}
