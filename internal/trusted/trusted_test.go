package trusted

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rootDir makes a directory that is root's alone up to "/", which those of t.TempDir below /tmp are not.
func rootDir(t *testing.T) string {
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file, data string, mode os.FileMode) string {
	t.Helper()
	must(t, os.WriteFile(file, []byte(data), 0o600))
	must(t, os.Chmod(file, mode))
	return file
}

func TestAFileOfRootsAloneIsRead(t *testing.T) {
	file := write(t, filepath.Join(rootDir(t), "f"), "hello", 0o644)
	data, err := ReadFile(file, 5)
	if err != nil || string(data) != "hello" {
		t.Errorf("got %q, %v", data, err)
	}
	f, err := Open(file)
	must(t, err)
	defer f.Close()
	if data, err := io.ReadAll(f); err != nil || string(data) != "hello" {
		t.Errorf("got %q, %v", data, err)
	}
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the descriptor would be inherited: %x, %v", flags, err)
	}
}

func TestWhatIsNotRootsAloneIsRefusedWithOwnerModeAndCure(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir, sub, file string) // file is in sub, which is in dir
		want  func(dir, sub, file string) []string
	}{
		{"file writable by others", func(t *testing.T, _, _, file string) { must(t, os.Chmod(file, 0o602)) },
			func(_, _, file string) []string {
				return []string{file + " is writable by others (mode 0602); chmod go-w " + file}
			}},
		{"file writable by its group", func(t *testing.T, _, _, file string) {
			must(t, os.Chown(file, 0, 50))
			must(t, os.Chmod(file, 0o660))
		}, func(_, _, file string) []string { return []string{file + " is writable by group 50 (mode 0660)"} }},
		{"file of another user", func(t *testing.T, _, _, file string) { must(t, os.Chown(file, 1000, 0)) },
			func(_, _, file string) []string {
				return []string{file + " belongs to UID 1000, not to root; chown root " + file}
			}},
		{"parent writable by others", func(t *testing.T, _, sub, _ string) { must(t, os.Chmod(sub, 0o777)) },
			func(_, sub, _ string) []string {
				return []string{sub + " is writable by group 0 and others (mode 0777); chmod go-w " + sub}
			}},
		{"parent of another user", func(t *testing.T, dir, _, _ string) { must(t, os.Chown(dir, 1000, 1000)) },
			func(dir, _, _ string) []string {
				return []string{dir + " belongs to UID 1000, not to root; chown root " + dir}
			}},
		{"everything at once", func(t *testing.T, dir, sub, file string) {
			must(t, os.Chown(dir, 1000, 0))
			must(t, os.Chmod(sub, 0o775))
			must(t, os.Chmod(file, 0o666))
		}, func(dir, sub, file string) []string {
			return []string{dir + " belongs to UID 1000", "; also " + sub + " is writable by group 0 (mode 0775)", "; also " + file + " is writable"}
		}},
		{"file is a link", func(t *testing.T, dir, _, file string) {
			must(t, os.Rename(file, filepath.Join(dir, "moved")))
			must(t, os.Symlink("../moved", file))
		}, func(_, _, file string) []string {
			return []string{file + " is a symbolic link; use the path that it leads to"}
		}},
		{"parent is a link", func(t *testing.T, dir, sub, _ string) {
			must(t, os.Rename(sub, filepath.Join(dir, "moved")))
			must(t, os.Symlink("moved", sub))
		}, func(_, sub, _ string) []string { return []string{sub + " is a symbolic link"} }},
		{"parent is a file", func(t *testing.T, _, sub, file string) {
			must(t, os.Remove(file))
			must(t, os.Remove(sub))
			write(t, sub, "", 0o644)
		}, func(_, sub, _ string) []string { return []string{sub + " is a regular file, not a directory"} }},
		{"two names", func(t *testing.T, dir, _, file string) { must(t, os.Link(file, filepath.Join(dir, "other"))) },
			func(_, _, file string) []string { return []string{file + " has 2 names (hard links)"} }},
		{"too long", func(t *testing.T, _, _, file string) { write(t, file, strings.Repeat("x", 101), 0o644) },
			func(_, _, file string) []string { return []string{file + " is 101 bytes long; at most 100 are read"} }},
		{"a directory", func(t *testing.T, _, _, file string) {
			must(t, os.Remove(file))
			must(t, os.Mkdir(file, 0o755))
		}, func(_, _, file string) []string { return []string{file + " is a directory, not a regular file"} }},
		{"a FIFO", func(t *testing.T, _, _, file string) {
			must(t, os.Remove(file))
			must(t, unix.Mkfifo(file, 0o600))
		}, func(_, _, file string) []string { return []string{file + " is a FIFO, not a regular file"} }},
		{"a socket", func(t *testing.T, _, _, file string) {
			must(t, os.Remove(file))
			l, err := net.Listen("unix", file)
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}, func(_, _, file string) []string { return []string{file + " is a socket, not a regular file"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := rootDir(t)
			sub := filepath.Join(dir, "sub")
			must(t, os.Mkdir(sub, 0o755))
			file := write(t, filepath.Join(sub, "f"), "hello", 0o644)
			c.spoil(t, dir, sub, file)
			_, err := ReadFile(file, 100)
			var untrusted *Error
			if !errors.As(err, &untrusted) || untrusted.Path != file {
				t.Fatalf("got %v", err)
			}
			for _, want := range c.want(dir, sub, file) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %s", err, want)
				}
			}
		})
	}
}

func TestASecretIsRootsAloneToRead(t *testing.T) {
	dir := rootDir(t)
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o610: false, 0o666: false} {
		data, err := ReadSecret(write(t, filepath.Join(dir, "s"), "x", mode), 10)
		if ok != (err == nil) || ok != (string(data) == "x") {
			t.Errorf("%o: got %q, %v", mode, data, err)
		}
		if err != nil && strings.Count(err.Error(), "chmod") != 1 {
			t.Errorf("%o: got %v", mode, err)
		}
		to, cerr := os.Create(filepath.Join(dir, "copy"))
		must(t, cerr)
		n, cerr := CopySecret(to, filepath.Join(dir, "s"), 10)
		must(t, to.Close())
		copied, rerr := os.ReadFile(filepath.Join(dir, "copy"))
		must(t, rerr)
		if fmt.Sprint(cerr) != fmt.Sprint(err) || !bytes.Equal(copied, data) || n != int64(len(data)) {
			t.Errorf("%o: copied %q, %d, %v; read %q, %v", mode, copied, n, cerr, data, err)
		}
	}
}

func TestACopyIsWholeAndBounded(t *testing.T) {
	dir := rootDir(t)
	for _, size := range []int{0, 1, 4095, 4096, 1 << 16, 1<<20 - 1, 1 << 20, 1<<20 + 1} {
		data := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		from := write(t, filepath.Join(dir, "from"), string(data), 0o600)
		to, err := os.Create(filepath.Join(dir, "to"))
		must(t, err)
		n, err := CopySecret(to, from, 1<<20)
		must(t, to.Close())
		if size > 1<<20 {
			if err == nil || !strings.Contains(err.Error(), "at most 1048576 are read") {
				t.Errorf("%d bytes: %v", size, err)
			}
			continue
		}
		got, rerr := os.ReadFile(filepath.Join(dir, "to"))
		must(t, rerr)
		if err != nil || n != int64(size) || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: %d were copied, %v, and %d arrived", size, n, err, len(got))
		}
	}
}

func TestAPathMustBeAbsoluteAndInItsShortestForm(t *testing.T) {
	for name, want := range map[string]string{
		"": "not absolute", "etc/passwd": "not absolute", "./x": "not absolute",
		"/etc/../etc/passwd": "write /etc/passwd", "/etc//passwd": "write /etc/passwd", "/etc/": "write /etc", "/etc/\x00": "NUL",
	} {
		if _, err := ReadFile(name, 10); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", name, err, want)
		}
	}
}

func TestAnAbsentFileIsToldFromAnUntrustedOne(t *testing.T) {
	dir := rootDir(t)
	_, err := ReadFile(filepath.Join(dir, "a", "b"), 10)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), filepath.Join(dir, "a")+" does not exist") {
		t.Errorf("got %v", err)
	}
	must(t, os.Chmod(dir, 0o777))
	_, err = ReadFile(filepath.Join(dir, "a"), 10)
	var untrusted *Error
	if errors.Is(err, fs.ErrNotExist) || !errors.As(err, &untrusted) || len(untrusted.Findings) != 2 {
		t.Errorf("got %v", err)
	}
}

func TestADirectoryIsOpenedAsADirectory(t *testing.T) {
	dir := rootDir(t)
	file := write(t, filepath.Join(dir, "f"), "", 0o644)
	for _, name := range []string{dir, "/"} {
		d, err := OpenDir(name)
		must(t, err)
		if _, err := d.Readdirnames(-1); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		d.Close()
	}
	if _, err := OpenDir(file); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("got %v", err)
	}
	must(t, os.Chown(dir, 1000, 0))
	if _, err := OpenDir(dir); err == nil || !strings.Contains(err.Error(), "belongs to UID 1000") {
		t.Errorf("got %v", err)
	}
}

func TestAMountSourceIsAnOPathDescriptorOfAFileOrDirectory(t *testing.T) {
	dir := rootDir(t)
	file := write(t, filepath.Join(dir, "f"), "x", 0o644)
	must(t, os.Link(file, filepath.Join(dir, "g")))
	for _, name := range []string{file, dir} {
		f, err := OpenPath(name)
		must(t, err)
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_PATH == 0 {
			t.Errorf("%s: flags %x, %v", name, flags, err)
		}
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: the descriptor would be inherited: %x, %v", name, flags, err)
		}
		f.Close()
	}
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	if _, err := OpenPath(filepath.Join(dir, "fifo")); err == nil || !strings.Contains(err.Error(), "neither a regular file nor a directory") {
		t.Errorf("got %v", err)
	}
	must(t, os.Symlink("f", filepath.Join(dir, "link")))
	if _, err := OpenPath(filepath.Join(dir, "link")); err == nil || !strings.Contains(err.Error(), "is a symbolic link") {
		t.Errorf("got %v", err)
	}
}

func TestAFileThatIsBeingWrittenIsAnErrorThatARepeatCures(t *testing.T) {
	dir := rootDir(t)
	file := write(t, filepath.Join(dir, "f"), strings.Repeat("a", 1<<16), 0o600)
	to, err := os.Create(filepath.Join(dir, "to"))
	must(t, err)
	defer to.Close()
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for c := byte('b'); ; c++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			// In place and with another length each time, as an editor that does not rename would.
			if err := os.WriteFile(file, bytes.Repeat([]byte{'a' + c%26}, 1<<15+int(c)), 0o600); err != nil {
				stopped <- err
				return
			}
		}
	}()
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		if _, err := ReadFile(file, 1<<20); err != nil && !errors.Is(err, ErrChanged) {
			t.Error(err)
		}
		if _, err := CopySecret(to, file, 1<<20); err != nil && !errors.Is(err, ErrChanged) {
			t.Error(err)
		}
	}
	close(stop)
	must(t, <-stopped)
	if _, err := ReadFile(file, 1<<20); err != nil {
		t.Errorf("the file is at rest, and yet: %v", err)
	}
	if _, err := CopySecret(to, file, 1<<20); err != nil {
		t.Errorf("the file is at rest, and yet: %v", err)
	}
}

func TestNoDescriptorIsLeftOpen(t *testing.T) {
	dir := rootDir(t)
	write(t, filepath.Join(dir, "f"), "x", 0o644)
	write(t, filepath.Join(dir, "bad"), "x", 0o666)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	before := count()
	for range 20 {
		for _, name := range []string{"f", "bad", "absent"} {
			if _, err := ReadFile(filepath.Join(dir, name), 10); (err == nil) != (name == "f") {
				t.Fatal(err)
			}
			if f, err := OpenPath(filepath.Join(dir, name)); err == nil {
				f.Close()
			}
		}
		if f, err := OpenDir(dir); err == nil {
			f.Close()
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors were open, now %d", before, after)
	}
}

func TestAFileOfRootsBelowAStickyDirectoryIsTrusted(t *testing.T) {
	dir := t.TempDir() // below /tmp, which is sticky
	must(t, unix.Chmod(dir, 0o1777))
	file := filepath.Join(dir, "f")
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	if data, err := ReadFile(file, 10); err != nil || string(data) != "x" {
		t.Errorf("got %q, %v", data, err)
	}
	must(t, os.Chown(file, 1000, 0))
	if _, err := ReadFile(file, 10); err == nil {
		t.Error("somebody else's file in a sticky directory is trusted")
	}
}
