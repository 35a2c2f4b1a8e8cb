//go:build packages

package packages

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// root is a Debian of its own: its processes see nothing of the host, and end with it.
type root struct {
	t    *testing.T
	dir  string
	init string // number of its first process
}

// firstProcess collects what loses its parent, as an init has to. The root is a mount, as runc wants it to be, and not a chroot's.
const firstProcess = `mount --make-rprivate / && mount --bind "$1" "$1" && mount -t proc proc "$1/proc" && mount --rbind /sys "$1/sys" &&
mount --rbind /dev "$1/dev" && mount -t tmpfs run "$1/run" && mkdir -p "$1/opt/tools" "$1/.host" && mount --bind "$2" "$1/opt/tools" &&
cd "$1" && pivot_root . .host && cd / && umount -l /.host && rmdir /.host && echo ready && exec /bin/sh -c 'while :; do sleep 1; done'`

// unpackDebian gives the files of a Debian.
func unpackDebian(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	do(t, "tar", "-C", dir, "-xf", *debian)
	return dir
}

// newRoot starts one.
func newRoot(t *testing.T) *root {
	t.Helper()
	r := &root{t: t, dir: unpackDebian(t)}
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "sh", "-c", firstProcess, "sh", r.dir, filepath.Join(repository, ".cache/bin"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		cmd.Wait()
		// The kernel ends the others after the first: their mounts go with the last of them.
		time.Sleep(200 * time.Millisecond)
	})
	line := make([]byte, 6)
	if n, err := out.Read(line); err != nil || string(line[:n]) != "ready\n" {
		t.Fatalf("the root does not start: %q, %v", line[:n], err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	if err != nil || len(strings.Fields(string(data))) != 1 {
		t.Fatalf("the first process of the root: %q, %v", data, err)
	}
	r.init = strings.TrimSpace(string(data))
	return r
}

// command gives the arguments of nsenter for a command in the root.
func (r *root) command(args []string) []string {
	return append([]string{"--target", r.init, "--mount", "--pid", "--root", "--wd=/", "--"}, args...)
}

// try and do run a command in it.
func (r *root) try(env []string, args ...string) result {
	r.t.Helper()
	got := try(r.t, env, "nsenter", r.command(args)...)
	got.args = args
	return got
}

func (r *root) do(args ...string) string {
	r.t.Helper()
	got := r.try(nil, args...)
	if got.status != 0 {
		r.t.Fatal(got)
	}
	return got.stdout
}

// refused is do for a command that has to fail, and to say so.
func (r *root) refused(says []string, args ...string) {
	r.t.Helper()
	got := r.try(nil, args...)
	if got.status == 0 {
		r.t.Errorf("not refused: %v", got)
	}
	for _, s := range says {
		if !strings.Contains(got.stderr, s) {
			r.t.Errorf("the refusal does not say %q: %v", s, got)
		}
	}
}

// put copies a file of the host's to /tmp in it and gives its path there.
func (r *root) put(file string) string {
	r.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.write("/tmp/"+filepath.Base(file), string(data))
}

func (r *root) write(path, content string) string {
	r.t.Helper()
	cmd := exec.Command("nsenter", r.command([]string{"sh", "-c", `mkdir -p "$(dirname "$1")" && cat >"$1"`, "sh", path})...)
	cmd.Stdin = strings.NewReader(content)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v: %s", path, err, out)
	}
	return path
}

// files lists all that is in it, but for what the kernel, the tests and package managers have there.
func (r *root) files() []string {
	r.t.Helper()
	return strings.Fields(r.do("find", "/", "-xdev", "-path", "/proc", "-prune", "-o", "-path", "/sys", "-prune", "-o", "-path", "/dev", "-prune", "-o",
		"-path", "/tmp", "-prune", "-o", "-path", "/opt/tools", "-prune", "-o", "-path", "/var/lib/dpkg", "-prune", "-o", "-path", "/var/log/dpkg.log", "-prune", "-o",
		"-name", "*-", "-prune", "-o", "-print"))
}
