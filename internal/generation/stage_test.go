package generation

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/trusted"
)

func TestAGenerationIsACopyOfWhatIsDeclared(t *testing.T) {
	s := begun(t)
	mkdir(t, s.source+"/sites/a", 0o755)
	write(t, s.source+"/sites/a/x", "")
	write(t, s.source+"/sites.conf", "more\n")
	single := filepath.Join(t.TempDir(), "token.json")
	write(t, single, "{}")
	p := s.plan("version 2")
	p.Sources = append(p.Sources, s.open(single, "/etc/token"))
	first, err := s.Get(1)
	s.must(err)
	p.Parent, p.Durable = first, true
	g := s.stage(p)

	want := &Generation{
		Version: 1, Number: 2, Parent: 1, Origin: Applied, Reason: "why", RequestedBy: receipt.RequestedBy{Via: "cli", UID: 3},
		Created: g.Created, Name: "demo", Profile: digest([]byte("version 2")),
		Mounts: []Mount{
			{"/etc/gateway", []File{
				{"./", 0o755, 0, ""}, {"conf", 0o644, 4, digest([]byte("one\n"))}, {"sites/", 0o755, 0, ""}, {"sites/a/", 0o755, 0, ""},
				{"sites/a/x", 0o644, 0, digest(nil)}, {"sites.conf", 0o644, 5, digest([]byte("more\n"))},
			}},
			{"/etc/token", []File{{".", 0o644, 2, digest([]byte("{}"))}}},
		},
		From: g.From,
	}
	if fmt.Sprintf("%+v", g) != fmt.Sprintf("%+v", want) {
		t.Errorf("got\n%+v\nwant\n%+v", g, want)
	}
	if now, err := Look(t.Context(), p.Profile, p.Sources, testUID); err != nil || !g.From.Equal(now) || len(now.Sources) != 2 {
		t.Errorf("it is from %+v; what is declared is %+v (%v)", g.From, now, err)
	}
	stored, err := s.Get(2)
	s.must(err)
	if stored.Created = g.Created; !stored.same(g) || fmt.Sprintf("%+v", stored) != fmt.Sprintf("%+v", g) {
		t.Errorf("what is stored is %+v", stored)
	}
	if text, err := s.Profile(g); err != nil || string(text) != "version 2" {
		t.Errorf("the profile is %q, %v", text, err)
	}
	for name, content := range map[string]string{
		s.Tree(2, 0) + "/conf": "one\n", s.Tree(2, 0) + "/sites.conf": "more\n", s.Tree(2, 0) + "/sites/a/x": "", s.Tree(2, 1): "{}",
	} {
		if got := read(t, name); got != content {
			t.Errorf("%s holds %q", name, got)
		}
	}
	s.must(s.Verify(t.Context(), 2, testUID))
	// It is a copy: an edit of the source is not seen.
	write(t, single, "edited")
	s.must(s.Verify(t.Context(), 2, testUID))
	if names := s.names(); !slices.Equal(names, []string{"1", "2", recordName}) {
		t.Errorf("there is %v", names)
	}
}

// The gateway may read, nobody but root may write, and what others may stays.
func TestModesAndOwnersAreNormalised(t *testing.T) {
	for _, c := range []struct {
		mode os.FileMode
		uid  int
		dir  bool
		want uint32
	}{
		{mode: 0o644, want: 0o644},
		{mode: 0o600, want: 0o640},
		{mode: 0o400, want: 0o640},
		{mode: 0o444, want: 0o644},
		{mode: 0o755, want: 0o755},
		{mode: 0o700, want: 0o750},
		{mode: 0o500, want: 0o750},
		{mode: 0o711, want: 0o751},
		{mode: 0o755 | os.ModeSetuid | os.ModeSetgid, want: 0o755},
		{mode: 0o600, uid: testUID, want: 0o640},
		{mode: 0o755, dir: true, want: 0o755},
		{mode: 0o700, dir: true, want: 0o750},
		{mode: 0o711, dir: true, want: 0o751},
		{mode: 0o755 | os.ModeSticky | os.ModeSetgid, dir: true, want: 0o755},
		{mode: 0o750, dir: true, uid: testUID, want: 0o750},
	} {
		t.Run(fmt.Sprintf("%v of UID %d, directory %v", c.mode, c.uid, c.dir), func(t *testing.T) {
			s := newScratch(t)
			name := s.source + "/x"
			if c.dir {
				mkdir(t, name, 0o755)
			} else {
				write(t, name, "x")
			}
			s.must(os.Chown(name, c.uid, 4711))
			chmod(t, name, c.mode)
			old := unix.Umask(0o777)
			g := s.stage(s.plan("version 1"))
			unix.Umask(old)
			var st unix.Stat_t
			s.must(unix.Lstat(s.Tree(1, 0)+"/x", &st))
			if st.Uid != 0 || st.Gid != testGID || st.Mode&0o7777 != c.want {
				t.Errorf("the copy is %d:%d's, mode %04o; want 0:%d, %04o", st.Uid, st.Gid, st.Mode&0o7777, testGID, c.want)
			}
			if files := g.Mounts[0].Files; files[2].Mode != c.want {
				t.Errorf("recorded is %+v", files[2])
			}
			s.must(s.Verify(t.Context(), 1, testUID))
		})
	}
}

func TestWhatIsNoPlainFileOfTheAdministratorIsRefused(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		want    string
	}{
		{"a link to a file", func(t *testing.T, dir string) { must(t, os.Symlink("/etc/shadow", dir+"/x")) }, "/x is a symbolic link; only files and directories are taken"},
		{"a link to a directory", func(t *testing.T, dir string) { must(t, os.Symlink("/etc", dir+"/x")) }, "/x is a symbolic link"},
		{"a link that leads nowhere", func(t *testing.T, dir string) { must(t, os.Symlink("nowhere", dir+"/x")) }, "/x is a symbolic link"},
		{"a FIFO", func(t *testing.T, dir string) { must(t, unix.Mkfifo(dir+"/x", 0o644)) }, "/x is neither a regular file nor a directory; remove it"},
		{"a socket", func(t *testing.T, dir string) {
			t.Chdir(dir) // its path has to be short
			l, err := net.Listen("unix", "x")
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}, "/x is neither a regular file nor a directory"},
		{"a character device", func(t *testing.T, dir string) {
			must(t, unix.Mknod(dir+"/x", unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))))
		}, "/x is neither a regular file nor a directory"},
		{"a block device", func(t *testing.T, dir string) {
			must(t, unix.Mknod(dir+"/x", unix.S_IFBLK|0o644, int(unix.Mkdev(7, 99))))
		}, "/x is neither a regular file nor a directory"},
		{"a hard link", func(t *testing.T, dir string) { must(t, os.Link(dir+"/conf", dir+"/x")) }, "/conf has 2 names (hard links), so it can be changed from elsewhere"},
		{"a file of somebody else", func(t *testing.T, dir string) { must(t, os.Chown(dir+"/conf", 1000, 0)) }, "/conf belongs to UID 1000, neither root's nor the gateway's: chown root "},
		{"a directory of somebody else", func(t *testing.T, dir string) {
			mkdir(t, dir+"/x", 0o755)
			must(t, os.Chown(dir+"/x", 1000, 0))
		}, "/x belongs to UID 1000"},
		{"the directory itself is somebody else's", func(t *testing.T, dir string) { must(t, os.Chown(dir, 1000, 0)) }, " belongs to UID 1000"},
		{"a file that its group may write", func(t *testing.T, dir string) { chmod(t, dir+"/conf", 0o664) }, "/conf has mode 0664 and can be written by others than its owner: chmod go-w "},
		{"a file that everybody may write", func(t *testing.T, dir string) { chmod(t, dir+"/conf", 0o602) }, "/conf has mode 0602"},
		{"a directory that everybody may write", func(t *testing.T, dir string) { mkdir(t, dir+"/x", 0o777|os.ModeSticky) }, "/x has mode 1777"},
		{"the directory itself can be written", func(t *testing.T, dir string) { chmod(t, dir, 0o775) }, " has mode 0775"},
		{"too long a file", func(t *testing.T, dir string) { must(t, os.Truncate(dir+"/conf", MaxFile+1)) }, "/conf is 16777217 bytes long; at most 16777216 are taken"},
		{"too many bytes", func(t *testing.T, dir string) {
			for i := range MaxBytes/MaxFile + 1 {
				write(t, fmt.Sprint(dir, "/", i), "")
				must(t, os.Truncate(fmt.Sprint(dir, "/", i), MaxFile))
			}
		}, "holds more than 67108864 bytes"},
		{"too many files", func(t *testing.T, dir string) {
			for i := range MaxEntries - 1 {
				write(t, fmt.Sprint(dir, "/", i), "")
			}
		}, "holds more than 4096 files and directories"},
		{"too deep", func(t *testing.T, dir string) { mkdir(t, dir+strings.Repeat("/d", MaxDepth), 0o755) }, "has directories deeper than 32"},
		{"a name with a newline", func(t *testing.T, dir string) { write(t, dir+"/a\nb", "") }, `a\nb" has a name that is not plain text`},
		{"a name with an escape", func(t *testing.T, dir string) { write(t, dir+"/a\x1b[2J", "") }, `a\x1b[2J" has a name that is not plain text`},
		{"a name that is not UTF-8", func(t *testing.T, dir string) { write(t, dir+"/\xff", "") }, `\xff" has a name that is not plain text`},
		{"another filesystem below", func(t *testing.T, dir string) {
			mkdir(t, dir+"/x", 0o755)
			must(t, unix.Mount("none", dir+"/x", "tmpfs", 0, "size=64k,mode=0755"))
			t.Cleanup(func() { must(t, unix.Unmount(dir+"/x", unix.MNT_DETACH)) })
		}, "another filesystem is mounted at "},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := begun(t)
			before := s.record()
			c.prepare(t, s.source)
			p := s.plan("version 2")
			g, err := s.Stage(t.Context(), p)
			if err == nil || g != nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), s.source) || strings.Contains(err.Error(), "\n") {
				t.Errorf("staging gave %+v, %v; want %q", g, err, c.want)
			}
			if in, err := Look(t.Context(), p.Profile, p.Sources, testUID); err == nil || !strings.Contains(err.Error(), c.want) || in.Profile != "" {
				t.Errorf("a look gave %+v, %v; want %q", in, err, c.want)
			}
			if names := s.names(); !slices.Equal(names, []string{"1", recordName}) {
				t.Errorf("it has left %v", names)
			}
			if r := s.whole(); r.Next != before.Next || r.Current != 1 {
				t.Errorf("the record is %+v", r)
			}
		})
	}
}

func TestWhatIsJustWithinTheBoundsIsTaken(t *testing.T) {
	s := newScratch(t)
	s.must(os.Truncate(s.source+"/conf", MaxFile))
	mkdir(t, s.source+strings.Repeat("/d", MaxDepth-1), 0o755)
	for i := range MaxEntries - 1 - 1 - (MaxDepth - 1) {
		write(t, fmt.Sprintf("%s/d/%d ü", s.source, i), "")
	}
	if g := s.stage(s.plan("version 1")); len(g.Mounts[0].Files) != MaxEntries {
		t.Errorf("it has %d files and directories", len(g.Mounts[0].Files))
	}
	s.must(s.Verify(t.Context(), 1, testUID))
}

func TestAListOfFilesThatIsTooLongIsRefused(t *testing.T) {
	s := begun(t)
	// "<" takes six bytes in JSON.
	for i := range 3000 {
		write(t, fmt.Sprint(s.source, "/", strings.Repeat("<", 240), i), "")
	}
	p := s.plan("version 2")
	if g, err := s.Stage(t.Context(), p); err == nil || !strings.Contains(err.Error(), "the list of its files takes ") {
		t.Errorf("it gave %v, %v", g != nil, err)
	}
	if names := s.names(); !slices.Equal(names, []string{"1", recordName}) {
		t.Errorf("it has left %v", names)
	}
}

func TestAFileThatChangesWhileItIsReadIsRefused(t *testing.T) {
	t.Run("its length", func(t *testing.T) {
		for name, was := range map[string]int64{"it has grown": 3, "it has shrunk": 5} {
			path := filepath.Join(t.TempDir(), "x")
			write(t, path, "1234")
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := copyFile(f, path+".copy", 0, 0o644, was, false); !errors.Is(err, trusted.ErrChanged) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	for name, edit := range map[string]func(path string) error{
		"it is written":       func(path string) error { return os.WriteFile(path, []byte("two\n"), 0o644) },
		"it is made shorter":  func(path string) error { return os.Truncate(path, 1) },
		"its mode is changed": func(path string) error { return os.Chmod(path, 0o600) },
		"another takes its place": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("two\n"), 0o644), os.Rename(path+".new", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScratch(t)
			path := s.source + "/conf"
			src := s.open(s.source, "/etc/gateway")
			w := walker{ctx: t.Context(), name: s.source, uid: testUID}
			w.copyTo = func(rel string, f *os.File, st *unix.Stat_t) (string, error) {
				if f == nil {
					return "", nil
				}
				return hashedAnd(f, st, func() error { return edit(path) })
			}
			if err := w.walk(src.File); !errors.Is(err, trusted.ErrChanged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "try again") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// hashedAnd reads a file, and lets something happen before the walker looks at it again.
func hashedAnd(f *os.File, st *unix.Stat_t, then func() error) (string, error) {
	sum, err := hashed("", f, st)
	return sum, errors.Join(err, then())
}

func TestWhatHoldsTheSameAsItsParentIsNoGeneration(t *testing.T) {
	s := begun(t)
	parent, err := s.Get(1)
	s.must(err)
	p := s.plan("version 1")
	p.Parent = parent
	// Written again with the same content, so that its source is another to look at.
	write(t, s.source+"/conf.new", "one\n")
	s.must(os.Rename(s.source+"/conf.new", s.source+"/conf"))
	g := s.stage(p)
	if g.Number != 1 || g.From.Equal(parent.From) || !g.same(parent) {
		t.Errorf("got generation %d from %+v; the parent is from %+v", g.Number, g.From, parent.From)
	}
	if names := s.names(); !slices.Equal(names, []string{"1", recordName}) {
		t.Errorf("there is %v", names)
	}
	for name, edit := range map[string]func(){
		"another mode":      func() { chmod(t, s.source+"/conf", 0o600) },
		"another content":   func() { chmod(t, s.source+"/conf", 0o644); write(t, s.source+"/conf", "two\n") },
		"one file more":     func() { write(t, s.source+"/conf", "one\n"); write(t, s.source+"/more", "") },
		"a directory more":  func() { os.Remove(s.source + "/more"); mkdir(t, s.source+"/more", 0o755) },
		"another profile":   func() { os.Remove(s.source + "/more"); p.Profile = []byte("version 2") },
		"one without files": func() { p.Profile = []byte("version 1"); os.Remove(s.source + "/conf") },
		"another mount":     func() { write(t, s.source+"/conf", "one\n"); p.Sources[0].Target = "/etc/other" },
	} {
		// Each from the same beginning.
		os.RemoveAll(s.source + "/more")
		write(t, s.source+"/conf", "one\n")
		p.Profile, p.Sources[0].Target = []byte("version 1"), "/etc/gateway"
		edit()
		if g := s.stage(p); g.Number != 2 || g.Parent != 1 {
			t.Errorf("%s: it is generation %d of parent %d", name, g.Number, g.Parent)
		}
	}
}

func TestAMountWithoutASourceKeepsWhatTheParentHasThere(t *testing.T) {
	s := newScratch(t)
	other := filepath.Join(t.TempDir(), "other")
	mkdir(t, other, 0o755)
	write(t, other+"/x", "of the other")
	p := s.plan("version 1")
	p.Sources = append(p.Sources, s.open(other, "/etc/other"))
	parent := s.stage(p)
	s.must(s.Begin(parent, parent.From))
	// Both sources are edited, and one is looked at.
	write(t, s.source+"/conf", "two\n")
	write(t, other+"/x", "edited")
	p.Parent, p.Sources[0].File = parent, nil
	g := s.stage(p)
	s.must(s.Verify(t.Context(), g.Number, testUID))
	if conf, x := read(t, s.Tree(2, 0)+"/conf"), read(t, s.Tree(2, 1)+"/x"); conf != "one\n" || x != "edited" {
		t.Errorf("it holds %q and %q", conf, x)
	}
	if g.From.Sources[0] != parent.From.Sources[0] || g.From.Sources[1] == parent.From.Sources[1] {
		t.Errorf("it is from %+v, and its parent from %+v", g.From, parent.From)
	}

	// What is not what the profile names comes from nowhere that is declared.
	p.Sources[1].Declared = false
	write(t, other+"/x", "applied")
	if g := s.stage(p); g.From.Sources[1] != "" || p.Sources[1].Print == "" {
		t.Errorf("it is from %+v", g.From)
	}
	for name, spoil := range map[string]func(p *Plan){
		"without a parent":          func(p *Plan) { p.Parent = nil },
		"a parent with less mounts": func(p *Plan) { p.Sources = append(p.Sources, Source{Target: "/etc/third"}) },
		"another target":            func(p *Plan) { p.Sources[0].Target = "/etc/moved" },
	} {
		q := p
		q.Sources = slices.Clone(p.Sources)
		spoil(&q)
		if g, err := s.Stage(t.Context(), q); err == nil || !strings.Contains(err.Error(), "there is no generation before it that has /etc/") {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
}

func TestWhatHasChangedSinceItWasStagedIsNoticed(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(s *scratch) error
		ok   bool
	}{
		{"nothing", func(*scratch) error { return nil }, true},
		{"it was read", func(s *scratch) error { _, err := os.ReadFile(s.source + "/conf"); return err }, true},
		{"a file was written", func(s *scratch) error { return os.WriteFile(s.source+"/conf", []byte("two\n"), 0o644) }, false},
		{"a file was replaced by its like", func(s *scratch) error {
			return errors.Join(os.WriteFile(s.source+"/x", []byte("one\n"), 0o644), os.Rename(s.source+"/x", s.source+"/conf"))
		}, false},
		{"a file was added", func(s *scratch) error { return os.WriteFile(s.source+"/x", nil, 0o644) }, false},
		{"a file was removed", func(s *scratch) error { return os.Remove(s.source + "/conf") }, false},
		{"a mode was changed", func(s *scratch) error { return os.Chmod(s.source+"/conf", 0o600) }, false},
		{"an owner was changed", func(s *scratch) error { return os.Chown(s.source+"/conf", testUID, 0) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScratch(t)
			p := s.plan("version 1")
			p.Sources = append(p.Sources, Source{Target: "/etc/other"}) // of the parent
			p.Parent = &Generation{Mounts: []Mount{{}, {"/etc/other", nil}}}
			p.Sources = p.Sources[:1]
			s.stage(p)
			s.must(c.edit(s))
			err := Unchanged(t.Context(), append(p.Sources, Source{Target: "/etc/other"}), testUID)
			if c.ok && err != nil || !c.ok && (err == nil || !strings.Contains(err.Error(), "somebody has edited "+s.source+" since it was staged")) {
				t.Errorf("got %v", err)
			}
		})
	}
	s := newScratch(t)
	p := s.plan("version 1")
	s.stage(p)
	chmod(t, s.source+"/conf", 0o666)
	if err := Unchanged(t.Context(), p.Sources, testUID); err == nil || !strings.Contains(err.Error(), "/conf has mode 0666") {
		t.Errorf("what would be refused now: %v", err)
	}
}

func TestSourcesAreTheAdministratorsAlone(t *testing.T) {
	dir, err := os.MkdirTemp("/run", "gwg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	mkdir(t, dir+"/good", 0o755)
	mkdir(t, dir+"/bad", 0o777)
	all, err := Sources([]profile.Mount{{Source: dir + "/good", Target: "/a"}})
	if err != nil || len(all) != 1 || all[0].Target != "/a" || all[0].Path != dir+"/good" || !all[0].Declared || all[0].File == nil {
		t.Fatalf("got %+v, %v", all, err)
	}
	Close(append(all, Source{}))
	if _, err := all[0].File.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("it is open still: %v", err)
	}
	for source, want := range map[string]string{dir + "/bad": "is not trusted", dir + "/none": "does not exist"} {
		all, err := Sources([]profile.Mount{{Source: dir + "/good", Target: "/a"}, {Source: source, Target: "/b"}})
		Close(all)
		if err == nil || len(all) != 1 || !strings.Contains(err.Error(), "cannot use "+source+" for /b: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %d, %v; want %q", len(all), err, want)
		}
	}
}

func TestAnEditedGenerationIsNamed(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(tree string) error
		want string // "" stands for nothing
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"written again", func(tree string) error { return os.WriteFile(tree+"/conf", []byte("one\n"), 0o644) }, ""},
		{"edited", func(tree string) error { return os.WriteFile(tree+"/conf", []byte("two\n"), 0o644) }, "somebody has edited TREE/conf"},
		{"longer", func(tree string) error { return os.WriteFile(tree+"/conf", []byte("one\nmore\n"), 0o644) }, "somebody has edited TREE/conf"},
		{"removed", func(tree string) error { return os.Remove(tree + "/d/last") }, "TREE/d/last is gone"},
		{"removed from the middle", func(tree string) error { return os.Remove(tree + "/conf") }, "somebody has edited TREE/conf"},
		{"added at the end", func(tree string) error { return os.WriteFile(tree+"/d/zzz", nil, 0o644) }, "TREE/d/zzz has appeared"},
		{"added at the beginning", func(tree string) error { return os.WriteFile(tree+"/aaa", nil, 0o644) }, "somebody has edited TREE/aaa"},
		{"a directory added", func(tree string) error { return os.Mkdir(tree+"/e", 0o750) }, "TREE/e has appeared"},
		{"renamed", func(tree string) error { return os.Rename(tree+"/conf", tree+"/conf2") }, "somebody has edited TREE/conf"},
		{"made executable", func(tree string) error { return os.Chmod(tree+"/conf", 0o755) }, "somebody has edited TREE/conf"},
		{"hidden from others", func(tree string) error { return os.Chmod(tree+"/conf", 0o640) }, "somebody has edited TREE/conf"},
		{"writable by others", func(tree string) error { return os.Chmod(tree+"/conf", 0o666) }, "TREE/conf has mode 0666"},
		{"a link in its place", func(tree string) error {
			return errors.Join(os.Remove(tree+"/conf"), os.Symlink("/etc/shadow", tree+"/conf"))
		}, "TREE/conf is a symbolic link"},
		{"a directory in its place", func(tree string) error {
			return errors.Join(os.Remove(tree+"/conf"), os.Mkdir(tree+"/conf", 0o755))
		}, "somebody has edited TREE/conf"},
		{"the tree is gone", func(tree string) error { return os.RemoveAll(tree) }, "TREE: no such file or directory"},
		{"the profile", func(tree string) error {
			return os.WriteFile(filepath.Join(tree, "../..", profileName), []byte("version X"), 0o600)
		}, "the profile of generation 1 is not the one that was put there: somebody has edited STORE/1/profile.toml"},
		{"the profile is gone", func(tree string) error {
			return os.Remove(filepath.Join(tree, "../..", profileName))
		}, "profile.toml: no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScratch(t)
			mkdir(t, s.source+"/d", 0o755)
			write(t, s.source+"/d/last", "last\n")
			s.stage(s.plan("version 1"))
			s.must(c.edit(s.Tree(1, 0)))
			err := s.Verify(t.Context(), 1, testUID)
			want := strings.NewReplacer("TREE", s.Tree(1, 0), "STORE", s.dir).Replace(c.want)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}
