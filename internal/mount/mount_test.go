package mount

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/process"
)

// container is a process in a mount namespace of its own, in which rootfs is a mount: what a runtime has made when it
// runs createRuntime hooks.
type container struct {
	t      *testing.T
	init   *process.Process
	rootfs string
}

// newContainer runs script (more mounts) in the namespace once rootfs, which prepare filled, is mounted.
func newContainer(t *testing.T, script string, prepare func(rootfs string)) *container {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test needs root")
	}
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	mkdir(t, rootfs)
	if prepare != nil {
		prepare(rootfs)
	}
	cmd := exec.Command("/bin/busybox", "sh", "-ec", `mount --bind "$1" "$1"; cd "$1"; `+script+`; echo ready; exec sleep 600`, "sh", rootfs)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the container said %q: %v", line, err)
	}
	init, err := process.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(init.Close)
	return &container{t, init, rootfs}
}

// path is where the test sees a path of the container.
func (c *container) path(name string) string {
	return fmt.Sprintf("/proc/%d/root%s", c.init.PID(), filepath.Join(c.rootfs, name))
}

func (c *container) root() *os.File {
	c.t.Helper()
	f, err := os.OpenFile(c.path("/"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { f.Close() })
	return f
}

func (c *container) mounts() string {
	c.t.Helper()
	return read(c.t, fmt.Sprintf("/proc/%d/mountinfo", c.init.PID()))
}

// run runs a busybox command in the container's mount namespace, with rootfs as its directory. It must not run anywhere
// else: entering a mount namespace makes its root the process's, and if that is not the test's own root (in a chroot, say),
// rootfs is not found there and the command would act on the host's "/".
func (c *container) run(args ...string) (string, error) {
	pid := fmt.Sprint(c.init.PID())
	args = append([]string{"nsenter", "-t", pid, "-m", "/bin/busybox", "sh", "-c", `cd "$1" && shift && exec /bin/busybox "$@"`, "sh", c.rootfs}, args...)
	out, err := exec.Command("/bin/busybox", args...).CombinedOutput()
	return string(out), err
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func symlink(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

// source makes a host directory with one file and opens it.
func source(t *testing.T, target string, writable bool) Source {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "from the host")
	return open(t, dir, target, writable)
}

func open(t *testing.T, path, target string, writable bool) Source {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return Source{File: f, Path: path, Target: target, Writable: writable}
}

func TestDirectoriesAndFilesArePlacedWithTheirFlagsAndVerified(t *testing.T) {
	c := newContainer(t, "true", func(rootfs string) { mkdir(t, rootfs+"/etc") })
	file := filepath.Join(t.TempDir(), "tool")
	write(t, file, "#!/bin/sh\n")
	sources := []Source{source(t, "/etc/gateway", false), open(t, file, "/opt/bin/tool", false), source(t, "/var/lib/gateway", true)}
	host := read(t, "/proc/thread-self/mountinfo")

	placed, err := Place(c.init, c.rootfs, sources, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if read(t, c.path("/etc/gateway/file")) != "from the host" || read(t, c.path("/opt/bin/tool")) != "#!/bin/sh\n" {
		t.Error("the container does not see what was placed")
	}
	if err := os.WriteFile(c.path("/etc/gateway/new"), nil, 0o644); err == nil {
		t.Error("a [[mount]] can be written")
	}
	if err := os.WriteFile(c.path("/var/lib/gateway/new"), nil, 0o644); err != nil {
		t.Errorf("a [[state]] directory cannot be written: %v", err)
	}
	for path, want := range map[string]os.FileMode{"/opt": 0o755, "/opt/bin": 0o755, "/var": 0o755, "/var/lib": 0o755} {
		if st, err := os.Stat(c.path(path)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s, which was made, has mode %v (%v), not %v", path, st.Mode(), err, want)
		}
	}
	if err := Verify(c.root(), placed); err != nil {
		t.Error(err)
	}
	if read(t, "/proc/thread-self/mountinfo") != host {
		t.Error("the host's mounts have changed")
	}
	for _, p := range placed {
		if _, err := os.Lstat(filepath.Join(c.rootfs, p.Target, "file")); err == nil {
			t.Errorf("%s shows on the host", p.Target)
		}
	}
}

func TestVerifyFindsWhatHasChanged(t *testing.T) {
	tests := map[string][]string{
		"another mount on top":    {"mount", "-t", "tmpfs", "none", "etc/gateway"},
		"the mount taken away":    {"umount", "-l", "etc/gateway"},
		"its parent renamed":      {"mv", "etc", "etc.old"},
		"a link in its way":       {"sh", "-c", "mv etc etc.old && ln -s etc.old etc"},
		"the mount made writable": {"mount", "-o", "remount,bind,rw,nosuid,nodev", "etc/gateway"},
	}
	for name, command := range tests {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "true", nil)
			placed, err := Place(c.init, c.rootfs, []Source{source(t, "/etc/gateway", false)}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if out, err := c.run(command...); err != nil {
				t.Fatalf("%v: %v\n%s", command, err, out)
			}
			if err := Verify(c.root(), placed); err == nil || !strings.Contains(err.Error(), "/etc/gateway") {
				t.Errorf("Verify says %v", err)
			}
		})
	}
}

func TestPinnedParentsCannotBeRenamed(t *testing.T) {
	c := newContainer(t, "mkdir -p var/volume; mount -t tmpfs none var/volume; echo kept >var/volume/file", func(rootfs string) {
		mkdir(t, rootfs+"/var/lib")
		write(t, rootfs+"/var/lib/other", "kept")
	})
	placed, err := Place(c.init, c.rootfs, []Source{source(t, "/var/lib/gateway", false), source(t, "/var/lib/other.d", true)}, Options{PinParents: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"var", "var/lib", "var/lib/gateway"} {
		if out, err := c.run("mv", dir, dir+".old"); err == nil || !strings.Contains(out, "busy") {
			t.Errorf("renaming %s: %v, %s", dir, err, out)
		}
	}
	if read(t, c.path("/var/lib/other")) != "kept" || read(t, c.path("/var/volume/file")) != "kept\n" {
		t.Error("what was below the parents has gone out of sight")
	}
	if err := Verify(c.root(), placed); err != nil {
		t.Error(err)
	}
}

func TestParentsOnARootThatBecomesReadOnlyAreNotPinned(t *testing.T) {
	c := newContainer(t, "mkdir run; mount -t tmpfs -o mode=755 none run; mkdir -p run/a/b", func(rootfs string) { mkdir(t, rootfs+"/var/lib/gateway") })
	before := strings.Count(c.mounts(), "\n")
	_, err := Place(c.init, c.rootfs, []Source{source(t, "/var/lib/gateway", false), source(t, "/run/a/gateway", false)}, Options{PinParents: true, ReadOnlyRoot: true})
	if err != nil {
		t.Fatal(err)
	}
	// Two mounts, and the pin of /run/a, which lies on a writable mount.
	if n := strings.Count(c.mounts(), "\n") - before; n != 3 {
		t.Errorf("%d mounts were made, not 3:\n%s", n, c.mounts())
	}
	if out, err := c.run("mv", "run/a", "run/x"); err == nil || !strings.Contains(out, "busy") {
		t.Errorf("renaming run/a: %v, %s", err, out)
	}
}

func TestMaliciousImagesAreRefusedAndNothingIsTouched(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, rootfs string)
		script  string
		target  string
		want    string
	}{
		{name: "target is a link to the root", prepare: func(t *testing.T, r string) { symlink(t, "/", r+"/gw") }, target: "/gw", want: "/gw is a symbolic link"},
		{name: "target is a link to /proc/self/root", prepare: func(t *testing.T, r string) { symlink(t, "/proc/self/root", r+"/gw") }, target: "/gw", want: "/gw is a symbolic link"},
		{name: "target is a link to ..", prepare: func(t *testing.T, r string) { symlink(t, "..", r+"/gw") }, target: "/gw", want: "/gw is a symbolic link"},
		{name: "parent is a link out", prepare: func(t *testing.T, r string) { symlink(t, "../../../..", r+"/etc") }, target: "/etc/gw", want: "/etc is a symbolic link"},
		{name: "parent is a link within", prepare: func(t *testing.T, r string) { mkdir(t, r+"/a/b"); symlink(t, "b", r+"/a/c") }, target: "/a/c/gw", want: "/a/c is a symbolic link"},
		{name: "link dangles", prepare: func(t *testing.T, r string) { symlink(t, "/nowhere", r+"/gw") }, target: "/gw", want: "/gw is a symbolic link"},
		{name: "target is the root", target: "/", want: "the root directory itself"},
		{name: "target is not clean", target: "/a/../b", want: "not an absolute path"},
		{name: "parent writable by others", prepare: func(t *testing.T, r string) { mkdir(t, r+"/tmp"); unix.Chmod(r+"/tmp", 0o1777) }, target: "/tmp/gw", want: "/tmp has mode 1777"},
		{name: "grandparent writable by a group", prepare: func(t *testing.T, r string) { mkdir(t, r+"/a/b"); os.Chmod(r+"/a", 0o775) }, target: "/a/b/gw", want: "/a has mode 0775"},
		{name: "parent not root's", prepare: func(t *testing.T, r string) { mkdir(t, r+"/home"); os.Chown(r+"/home", 1000, 0) }, target: "/home/gw", want: "/home belongs to UID 1000"},
		{name: "root not root's", prepare: func(t *testing.T, r string) { os.Chown(r, 1000, 0) }, target: "/gw", want: "/ belongs to UID 1000"},
		{name: "parent is a file", prepare: func(t *testing.T, r string) { write(t, r+"/a", "") }, target: "/a/gw", want: "/a is a regular file"},
		{name: "target is a file", prepare: func(t *testing.T, r string) { write(t, r+"/gw", "") }, target: "/gw", want: "/gw is a regular file"},
		{name: "target is a FIFO", prepare: func(t *testing.T, r string) { unix.Mkfifo(r+"/gw", 0o644) }, target: "/gw", want: "/gw is a special file"},
		{name: "target on procfs", script: "mkdir proc; mount -t proc none proc", target: "/proc/irq", want: "/proc lies on procfs"},
		{name: "target on sysfs", script: "mkdir sys; mount -t sysfs none sys", target: "/sys/kernel", want: "/sys lies on sysfs"},
		{name: "a mount at the target", script: "mkdir gw; mount -t tmpfs none gw", target: "/gw", want: "has a mount at this very place already"},
		{name: "shared propagation", script: "mkdir vol; mount -t tmpfs -o mode=755 none vol; mount --make-shared vol", target: "/vol/gw", want: "shared propagation"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			script := test.script
			if script == "" {
				script = "true"
			}
			c := newContainer(t, script, func(rootfs string) {
				if test.prepare != nil {
					test.prepare(t, rootfs)
				}
			})
			host, inside := read(t, "/proc/thread-self/mountinfo"), c.mounts()
			// The first source can be placed, and must be gone after the second is refused.
			first := source(t, "/made/by/us", true)
			if strings.Contains(test.want, "/ belongs") {
				first = source(t, test.target, false)
			}
			placed, err := Place(c.init, c.rootfs, []Source{first, source(t, test.target, false)}, Options{PinParents: true})
			if err == nil {
				t.Fatalf("placed %+v", placed)
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the refusal %q does not say %q", err, test.want)
			}
			if read(t, "/proc/thread-self/mountinfo") != host {
				t.Error("the host's mounts have changed")
			}
			if c.mounts() != inside {
				t.Errorf("the container's mounts have changed:\n%s", c.mounts())
			}
			if _, err := os.Lstat(c.path("/made")); err == nil {
				t.Error("a directory that was made has stayed")
			}
		})
	}
}

func TestASwappedParentNeverLeadsAMountOutside(t *testing.T) {
	outside := t.TempDir()
	c := newContainer(t, "true", func(rootfs string) {
		mkdir(t, rootfs+"/a/gw")
		mkdir(t, filepath.Join(outside, "gw"))
		symlink(t, outside, rootfs+"/b")
	})
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, c.path("/a"), unix.AT_FDCWD, c.path("/b"), unix.RENAME_EXCHANGE)
			}
		}
	})
	defer swapper.Wait()
	defer close(stop)
	s := source(t, "/a/gw", false)
	var refused, done int
	for range 60 {
		if _, err := Place(c.init, c.rootfs, []Source{s}, Options{}); err != nil {
			refused++
		} else {
			done++
		}
		for line := range strings.Lines(c.mounts()) {
			if f := strings.Fields(line); strings.HasPrefix(f[4], outside) {
				t.Fatalf("a mount outside: %s", line)
			}
		}
		c.run("sh", "-c", "umount -l a/gw; umount -l b/gw")
	}
	t.Logf("placed %d, refused %d", done, refused)
}

func TestAContainerInTheHostsMountNamespaceIsRefused(t *testing.T) {
	self, err := process.Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	host := read(t, "/proc/thread-self/mountinfo")
	_, err = Place(self, t.TempDir(), []Source{source(t, "/gw", false)}, Options{})
	if err == nil || !strings.Contains(err.Error(), "no mount namespace of its own") {
		t.Errorf("Place says %v", err)
	}
	if read(t, "/proc/thread-self/mountinfo") != host {
		t.Error("the host's mounts have changed")
	}
}

// idmapped makes a filesystem in memory that maps root to the host's IDs from first on, and mounts it at the container's root.
func (c *container) idmapped(first int) {
	c.t.Helper()
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 65536}}
	holder := exec.Command("/bin/busybox", "sleep", "600")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps, GidMappings: maps}
	if err := holder.Start(); err != nil {
		c.t.Fatal(err)
	}
	defer holder.Wait()
	defer holder.Process.Kill()
	userns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	defer userns.Close()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		c.t.Fatal(err)
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "mode", "0755"), unix.FsconfigCreate(fs)); err != nil {
		c.t.Fatal(err)
	}
	tree, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}); err != nil {
		c.t.Fatalf("a mount that maps IDs: %v", err)
	}
	ns, err := c.init.OpenNamespace("mnt")
	if err != nil {
		c.t.Fatal(err)
	}
	defer ns.Close()
	if err := inNamespace(ns, func(*os.File) error {
		return unix.MoveMount(tree, "", unix.AT_FDCWD, c.rootfs, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}); err != nil {
		c.t.Fatal(err)
	}
}

func TestMissingPartsOfATargetAreMadeInAnImageWhoseMountMapsIDs(t *testing.T) {
	c := newContainer(t, "true", nil)
	c.idmapped(200000)
	dir := t.TempDir()
	mkdir(t, dir)
	write(t, dir+"/file", "from the host")
	f, err := os.OpenFile(dir, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	single, err := os.OpenFile(dir+"/file", unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer single.Close()
	sources := []Source{{File: f, Path: dir, Target: "/etc/gateway"}, {File: single, Path: dir + "/file", Target: "/opt/one/file"}}
	if _, err := Place(c.init, c.rootfs, sources, Options{}); err == nil {
		t.Error("directories of somebody who is not root are trusted")
	}
	placed, err := Place(c.init, c.rootfs, sources, Options{Root: 200000, RootGroup: 200000, PinParents: true})
	if err != nil || len(placed) != 2 {
		t.Fatalf("%+v, %v", placed, err)
	}
	for _, name := range []string{"/etc/gateway/file", "/opt/one/file"} {
		if got := read(t, c.path(name)); got != "from the host" {
			t.Errorf("the container sees %q at %s", got, name)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(c.path("/etc"), &st); err != nil || st.Uid != 200000 || st.Gid != 200000 || st.Mode&0o7777 != 0o755 {
		t.Errorf("/etc belongs to %d:%d with mode %o, %v", st.Uid, st.Gid, st.Mode, err)
	}
}
