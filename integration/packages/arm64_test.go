//go:build packages

package packages

import (
	"context"
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
	data, err := os.ReadFile(root + "/usr/share/doc/gatewarden/examples/held.toml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(good, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, append(data, "[stop]\nsignal = \"SIGSTOP\"\n"...), 0o644); err != nil {
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

func TestTheLauncherOfArm64ParksAndBecomesTheProgramUnderQEMU(t *testing.T) {
	gate, theirs, err := launch.NewGate()
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	launcher := filepath.Join(repository, "internal/launch/bin/launcher-arm64")
	file, err := os.Open(launcher)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(*qemu, launcher)
	cmd.ExtraFiles = []*os.File{file, theirs}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := gate.AwaitParked(ctx); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	fd, err := unix.Open("/bin/busybox", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	exe := os.NewFile(uintptr(fd), "busybox")
	defer exe.Close()
	if _, err := gate.Release(ctx, launch.Order{Exe: exe, Cwd: "/usr", Arg: []string{"sh", "-c", `echo "$A in $PWD"`}, Env: []string{"A=released"}}); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	if err := cmd.Wait(); err != nil || strings.TrimSpace(out.String()) != "released in /usr" {
		t.Errorf("%v: %q", err, out.String())
	}
}
