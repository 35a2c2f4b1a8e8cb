package binary

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/idmap"
)

// container is a directory that is the root of a process in a mount namespace of its own, as a container's is, and that
// root as seen from outside.
func container(t *testing.T) (string, *os.File) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test needs root: it makes mount namespaces and files of several owners")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal("this test needs busybox-static: ", err)
	}
	put(t, dir+"/bin/busybox", string(busybox), 0o755)
	if err := os.MkdirAll(dir+"/old", 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "mount --make-rprivate / && mount --bind "+dir+" "+dir+" && cd "+dir+" && "+
		"pivot_root . old && exec /bin/busybox sh -c '/bin/busybox umount -l /old && echo ok && exec /bin/busybox sleep 600'")
	var pidfd int
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, PidFD: &pidfd}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		cmd.Wait()
		unix.Close(pidfd)
	})
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenFile("/proc/"+strconv.Itoa(cmd.Process.Pid)+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return dir, root
}

func put(t *testing.T, path, content string, mode uint32) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAProgramIsFoundByDescriptorWithItsPathInTheContainer(t *testing.T) {
	dir, root := container(t)
	put(t, dir+"/opt/real/gw", "\x7fELF", 0o755)
	must(t, os.Symlink("/opt/real", dir+"/link"))
	p, err := Open(root, []string{"/link/gw", "run"}, "", Container{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var st unix.Stat_t
	must(t, unix.Stat(dir+"/opt/real/gw", &st))
	if p.Path != "/opt/real/gw" || p.Ino != st.Ino || !slices.Equal(p.Args, []string{"/link/gw", "run"}) {
		t.Errorf("got %+v", p)
	}
}

func TestAProgramOfTheContainersRootIsTrustedWhereThatIsAnotherUIDHere(t *testing.T) {
	dir, root := container(t)
	put(t, dir+"/app/gw", "\x7fELF", 0o755)
	must(t, os.Chown(dir+"/app", 200000, 200000))
	must(t, os.Chown(dir+"/app/gw", 200000, 200000))
	p, err := Open(root, []string{"/app/gw"}, "", Container{Root: 200000})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	for _, other := range []uint32{0, 200001, idmap.None} {
		if _, err := Open(root, []string{"/app/gw"}, "", Container{Root: other}); err == nil || !strings.Contains(err.Error(), "owned by UID 200000") {
			t.Errorf("root is %d: %v", other, err)
		}
	}
	// The container's root owns it, whoever that is here.
	if _, err := Open(root, []string{"/app/gw"}, "", Container{Root: 200000, RootWorkload: true}); err == nil || !strings.Contains(err.Error(), "read-only mount") {
		t.Errorf("beside a root workload: %v", err)
	}
}

func TestAScriptIsRunByItsCheckedInterpreterUnderItsOwnName(t *testing.T) {
	dir, root := container(t)
	put(t, dir+"/app/gw", "#!/bin/busybox  sh -e \nexit\n", 0o755)
	p, err := Open(root, []string{"/app/gw", "a", "b"}, "", Container{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Path != "/bin/busybox" || !slices.Equal(p.Args, []string{"/bin/busybox", "sh -e", "/app/gw", "a", "b"}) {
		t.Errorf("got %q %q", p.Path, p.Args)
	}
}

func TestAProgramThatIsNotRootsAloneIsRefused(t *testing.T) {
	dir, root := container(t)
	for name, c := range map[string]struct {
		prepare func(path string)
		want    string
	}{
		"missing":            {func(string) {}, "no such file"},
		"a directory":        {func(p string) { must(t, os.Mkdir(p, 0o755)) }, "not a regular file"},
		"a FIFO":             {func(p string) { must(t, unix.Mkfifo(p, 0o755)) }, "not a regular file"},
		"not executable":     {func(p string) { put(t, p, "x", 0o644) }, "lets nobody execute it"},
		"group-writable":     {func(p string) { put(t, p, "x", 0o775) }, "mode 0775 lets others write"},
		"world-writable":     {func(p string) { put(t, p, "x", 0o757) }, "mode 0757 lets others write"},
		"set-user-ID":        {func(p string) { put(t, p, "x", 0o4755) }, "set-ID bit"},
		"somebody else's":    {func(p string) { put(t, p, "x", 0o755); must(t, os.Chown(p, 1000, 0)) }, "owned by UID 1000"},
		"script of nothing":  {func(p string) { put(t, p, "#!/no/such\n", 0o755) }, "no such file"},
		"relative #!":        {func(p string) { put(t, p, "#!sh\n", 0o755) }, "not an absolute path"},
		"script of a script": {func(p string) { put(t, dir+"/in", "#!/bin/busybox\n", 0o755); put(t, p, "#!/in\n", 0o755) }, "is a script itself"},
		"magic link":         {func(p string) { must(t, os.Symlink("/proc/self/exe", p)) }, "no such file"},
		"link out":           {func(p string) { must(t, os.Symlink("../../../../../../etc/passwd", p)) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "t", strings.ReplaceAll(name, " ", "_"))
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			c.prepare(path)
			p, err := Open(root, []string{strings.TrimPrefix(path, dir)}, "", Container{})
			if err == nil {
				p.Close()
				t.Fatal("accepted")
			}
			if e, ok := errors.AsType[*code.Error](err); !ok || e.Code != code.UntrustedBinary || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestADirectoryAboveThatOthersCanChangeIsRefused(t *testing.T) {
	dir, root := container(t)
	put(t, dir+"/home/u/bin/gw", "x", 0o755)
	must(t, os.Chown(dir+"/home/u", 1000, 1000))
	put(t, dir+"/tmp/gw", "x", 0o755)
	must(t, unix.Chmod(dir+"/tmp", 0o1777))
	must(t, os.Symlink("/home/u/bin", dir+"/sbin"))
	for name, want := range map[string]string{
		"/home/u/bin/gw": "/home/u above it is owned by UID 1000", "/tmp/gw": "/tmp above it has mode 1777", "/sbin/gw": "/home/u above it",
	} {
		if _, err := Open(root, []string{name}, "", Container{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want one with %q", name, err, want)
		}
	}
}

func TestAPinnedProgramMustHaveThatContent(t *testing.T) {
	dir, root := container(t)
	put(t, dir+"/gw", "content", 0o755)
	sum := sha256.Sum256([]byte("content"))
	p, err := Open(root, []string{"/gw"}, hex.EncodeToString(sum[:]), Container{})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if _, err := Open(root, []string{"/gw"}, strings.Repeat("0", 64), Container{}); err == nil || !strings.Contains(err.Error(), "its SHA-256 is "+hex.EncodeToString(sum[:])) {
		t.Errorf("got %v", err)
	}
}

func TestARootWorkloadsProgramMustLieOnAReadOnlyMount(t *testing.T) {
	dir, root := container(t)
	put(t, dir+"/gw", "x", 0o755)
	if _, err := Open(root, []string{"/gw"}, "", Container{RootWorkload: true}); err == nil || !strings.Contains(err.Error(), "read-only mount") {
		t.Errorf("got %v", err)
	}
}

func FuzzShebang(f *testing.F) {
	f.Add([]byte("#!/bin/sh -e\n"))
	f.Add([]byte("#! /usr/bin/env node"))
	f.Fuzz(func(t *testing.T, head []byte) {
		name, arg, err := parseShebang(head)
		if err == nil && name != "" && (!filepath.IsAbs(name) || strings.ContainsRune(name, 0) || len(arg) > 1) {
			t.Errorf("accepted %q %q", name, arg)
		}
	})
}
