package credential

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/trusted"
)

const (
	uid    = 64990
	gid    = 64991
	secret = "hunter2-CAFEBABE"
)

// rootDir makes a directory that is root's alone up to "/", which those of t.TempDir below /tmp are not.
func rootDir(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	dir, err := os.MkdirTemp("/run", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func write(t testing.TB, path string, data []byte, mode os.FileMode) string {
	t.Helper()
	err := os.WriteFile(path, data, mode)
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// one is a list of one credential, "token".
func one(t testing.TB, data string) []profile.Credential {
	t.Helper()
	return []profile.Credential{{Name: "token", Source: write(t, filepath.Join(rootDir(t), "file"), []byte(data), 0o600)}}
}

func mountAll(t *testing.T, list []profile.Credential) *os.File {
	t.Helper()
	dir, err := Mount(list, uid, gid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

// in is a path by which this process finds a file of the directory.
func in(dir *os.File, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name) }

func TestEachCredentialIsAFileThatItsOwnerAloneMayRead(t *testing.T) {
	host := rootDir(t)
	list := []profile.Credential{
		{Name: "binary", Source: write(t, host+"/b", []byte("\x00\xff\n\x00"), 0o400)},
		{Name: "empty", Source: write(t, host+"/e", nil, 0o600)},
		{Name: "tls.key", Source: write(t, host+"/k", []byte(secret), 0o600)},
	}
	dir := mountAll(t, list)
	for name, want := range map[string]string{"binary": "\x00\xff\n\x00", "empty": "", "tls.key": secret} {
		got, err := os.ReadFile(in(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v, want %q", name, got, err, want)
		}
	}
	entries, err := os.ReadDir(in(dir, ""))
	if err != nil || len(entries) != len(list) {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
	for name, want := range map[string]uint32{"": unix.S_IFDIR | 0o500, "binary": unix.S_IFREG | 0o400, "empty": unix.S_IFREG | 0o400, "tls.key": unix.S_IFREG | 0o400} {
		var st unix.Stat_t
		if err := unix.Stat(in(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != want || st.Uid != uid || st.Gid != gid {
			t.Errorf("%q has mode %o of %d:%d, want %o of %d:%d", name, st.Mode, st.Uid, st.Gid, want, uid, gid)
		}
	}
}

func TestItIsMemoryThatIsNeverSwappedAndThatNobodyCanChange(t *testing.T) {
	dir := mountAll(t, one(t, secret))
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Type != unix.RAMFS_MAGIC {
		t.Errorf("the filesystem is of type %#x, want ramfs", st.Type)
	}
	const stNoSymFollow = 0x2000 // of <linux/statfs.h>
	if want := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | stNoSymFollow); st.Flags&want != want {
		t.Errorf("its flags are %#x, without some of %#x", st.Flags, want)
	}
	// Not even root can.
	for what, err := range map[string]error{
		"write":  os.WriteFile(in(dir, "token"), []byte("x"), 0),
		"make":   os.WriteFile(in(dir, "other"), []byte("x"), 0o600),
		"remove": os.Remove(in(dir, "token")),
		"chmod":  os.Chmod(in(dir, "token"), 0o644),
		"chown":  os.Chown(in(dir, "token"), 0, 0),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v, want EROFS", what, err)
		}
	}
}

// mountID of an open descriptor of this process.
func mountID(t *testing.T, fd uintptr) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "mnt_id:\t")
	id, _, ok := strings.Cut(rest, "\n")
	if !ok {
		t.Fatalf("no mnt_id in %q", data)
	}
	return id
}

func TestItIsInNobodysMountTable(t *testing.T) {
	dir := mountAll(t, one(t, secret))
	root, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	shown := func(id string) (n int) {
		tables, err := filepath.Glob("/proc/[0-9]*/mountinfo")
		if err != nil || len(tables) == 0 {
			t.Fatalf("no mount tables: %v", err)
		}
		for _, table := range tables {
			data, _ := os.ReadFile(table) // of a process that is gone by now: nothing
			for line := range strings.Lines(string(data)) {
				if strings.HasPrefix(line, id+" ") {
					n++
				}
			}
		}
		return n
	}
	if shown(mountID(t, root.Fd())) == 0 {
		t.Error("a mount that is there is not seen")
	}
	if n := shown(mountID(t, dir.Fd())); n != 0 {
		t.Errorf("%d mount tables show it", n)
	}
}

// run runs a shell as the gateway's user, with the directory as its descriptor 3.
func run(t *testing.T, dir *os.File, script string, user uint32) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.ExtraFiles = []*os.File{dir}
	cmd.Env = []string{"PATH=/usr/bin:/bin", Variable(3)}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out) + err.Error()
	}
	return string(out)
}

func TestAProgramReadsThemByPathAndSoDoItsChildren(t *testing.T) {
	dir := mountAll(t, one(t, secret))
	for name, script := range map[string]string{
		"itself":               `read x <$CREDENTIALS_DIRECTORY/token; echo "$x"`,
		"a child":              `cat $CREDENTIALS_DIRECTORY/token; echo`,
		"a child's child":      `sh -c 'sh -c "cat \$CREDENTIALS_DIRECTORY/token; echo"; true'; true`,
		"after an exec":        `exec cat $CREDENTIALS_DIRECTORY/token -`,
		"by working directory": `cd $CREDENTIALS_DIRECTORY && cat token`,
		"by listing":           `for f in $CREDENTIALS_DIRECTORY/*; do cat $f; done`,
	} {
		if got := strings.TrimSpace(run(t, dir, script, uid)); got != secret {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := run(t, dir, `cat $CREDENTIALS_DIRECTORY/token`, 1000); !strings.Contains(got, "Permission denied") {
		t.Errorf("another user reads %q", got)
	}
}

// withoutPtrace runs f without CAP_SYS_PTRACE, as the container's root is without it, and with all else that root has.
func withoutPtrace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		err := unix.Capget(&header, &sets[0])
		if err == nil {
			sets[0].Effective &^= 1 << unix.CAP_SYS_PTRACE
			err = unix.Capset(&header, &sets[0])
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestRootWithoutPtraceDoesNotGetThemFromTheProcessThatHasThem(t *testing.T) {
	dir := mountAll(t, one(t, secret))
	cmd := exec.Command("/bin/sh", "-c", "echo ready; read x")
	cmd.ExtraFiles = []*os.File{dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/fd/3/token", cmd.Process.Pid)
	if got, err := os.ReadFile(path); err != nil || string(got) != secret {
		t.Errorf("root of the host reads %q, %v: the look is not the right one", got, err)
	}
	withoutPtrace(t, func() {
		if got, err := os.ReadFile(path); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("without CAP_SYS_PTRACE: %q, %v", got, err)
		}
	})
}

func TestNoCredentialsAreNoDirectory(t *testing.T) {
	if dir, err := Mount(nil, uid, gid); dir != nil || err != nil {
		t.Errorf("%v, %v", dir, err)
	}
}

func TestSizesAreBounded(t *testing.T) {
	host := rootDir(t)
	big := write(t, host+"/big", bytes.Repeat([]byte("x"), MaxSize), 0o600)
	over := write(t, host+"/over", bytes.Repeat([]byte("x"), MaxSize+1), 0o600)
	small := write(t, host+"/small", []byte("x"), 0o600)
	list := func(sources ...string) (all []profile.Credential) {
		for i, s := range sources {
			all = append(all, profile.Credential{Name: "c" + strconv.Itoa(i), Source: s})
		}
		return all
	}
	for _, c := range []struct {
		name string
		list []profile.Credential
		want string
	}{
		{"the largest", list(big), ""},
		{"the most of the largest", list(big, big, big, big), ""},
		{"one byte more than one may have", list(small, over), "credential c1: " + over + " is not trusted: " + over + " is 1048577 bytes long; at most 1048576 are read"},
		{"one byte more than all may have", list(big, big, big, big, small), "credential c4: " + small + ": with it the credentials have more than 4194304 bytes together; make them smaller"},
	} {
		dir, err := Mount(c.list, uid, gid)
		if dir != nil {
			dir.Close()
		}
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestWhatIsNotRootsAloneToReadIsRefusedWithoutAWordOfIt(t *testing.T) {
	host := rootDir(t)
	good := write(t, host+"/good", []byte(secret), 0o600)
	if err := os.Symlink(good, host+"/link"); err != nil {
		t.Fatal(err)
	}
	twice := write(t, host+"/twice", []byte(secret), 0o600)
	if err := os.Link(twice, host+"/again"); err != nil {
		t.Fatal(err)
	}
	foreign := write(t, host+"/foreign", []byte(secret), 0o600)
	if err := os.Chown(foreign, 1000, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(host+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := open()
	for path, want := range map[string]string{
		host + "/absent": "does not exist",
		host + "/link":   "is a symbolic link",
		twice:            "has 2 names",
		foreign:          "belongs to UID 1000",
		host + "/fifo":   "is a FIFO",
		host:             "is a directory",
		write(t, host+"/read", []byte(secret), 0o640): "chmod 0600 " + host + "/read",
		host + "/good/below":                          "not a directory",
	} {
		dir, err := Mount([]profile.Credential{{Name: "a", Source: good}, {Name: "b", Source: path}}, uid, gid)
		if dir != nil || err == nil {
			t.Fatalf("%s: accepted", path)
		}
		text := err.Error()
		if !strings.HasPrefix(text, "credential b: ") || !strings.Contains(text, path) || !strings.Contains(text, want) || strings.Contains(text, secret) {
			t.Errorf("%s: %q, want it to say that it %s", path, text, want)
		}
		var untrusted *trusted.Error
		if !errors.As(err, &untrusted) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v is neither", path, err)
		}
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func TestTwoDirectoriesAreTwoFilesystems(t *testing.T) {
	list := one(t, "old")
	first := mountAll(t, list)
	write(t, list[0].Source, []byte("new"), 0o600)
	second := mountAll(t, list)
	for dir, want := range map[*os.File]string{first: "old", second: "new"} {
		if got, err := os.ReadFile(in(dir, "token")); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(int(first.Fd()), &a), unix.Fstat(int(second.Fd()), &b)); err != nil || a.Dev == b.Dev {
		t.Errorf("both are device %d, %v", a.Dev, err)
	}
}

// FuzzContent checks that whatever a file holds arrives as it is.
func FuzzContent(f *testing.F) {
	f.Add([]byte(secret))
	f.Add([]byte{})
	f.Add([]byte("\x00"))
	f.Add(bytes.Repeat([]byte("0123456789abcdef"), 8<<10))
	file := write(f, filepath.Join(rootDir(f), "file"), nil, 0o600)
	f.Fuzz(func(t *testing.T, data []byte) {
		write(t, file, data, 0o600)
		dir, err := Mount([]profile.Credential{{Name: "x", Source: file}}, uid, gid)
		if len(data) > MaxSize {
			if err == nil {
				dir.Close()
				t.Error("accepted")
			}
			return
		}
		if errors.Is(err, trusted.ErrChanged) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		if got, err := os.ReadFile(in(dir, "x")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes arrived, %v, of %d", len(got), err, len(data))
		}
	})
}

func BenchmarkMount(b *testing.B) {
	host := rootDir(b)
	var list []profile.Credential
	for i := range 4 {
		name := "c" + strconv.Itoa(i)
		list = append(list, profile.Credential{Name: name, Source: write(b, filepath.Join(host, name), bytes.Repeat([]byte("x"), 4<<10), 0o600)})
	}
	for b.Loop() {
		dir, err := Mount(list, uid, gid)
		if err != nil {
			b.Fatal(err)
		}
		dir.Close()
	}
}
