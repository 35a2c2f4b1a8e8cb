package lookup

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNoScopeLeavesItsDirectory(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "in/sub"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "secret"), nil, 0o600))
	must(os.WriteFile(filepath.Join(dir, "in/secret"), nil, 0o600))
	for link, target := range map[string]string{"abs": "/secret", "up": "../../../../secret", "magic": "/proc/self/root", "loop": "loop", "sub/rel": "../secret"} {
		must(os.Symlink(target, filepath.Join(dir, "in", link)))
	}
	root, err := os.Open(filepath.Join(dir, "in"))
	must(err)
	defer root.Close()
	var inside unix.Stat_t
	must(unix.Stat(filepath.Join(dir, "in/secret"), &inside))

	for _, c := range []struct {
		scope Scope
		name  string
		want  error // nil: the secret inside
	}{
		{InRoot, "/secret", nil}, {InRoot, "abs", nil}, {InRoot, "up", nil}, {InRoot, "../../secret", nil}, {InRoot, "sub/rel", nil},
		{InRoot, "magic", unix.ENOENT}, {InRoot, "loop", unix.ELOOP}, {InRoot, "none", unix.ENOENT},
		{InRootWithoutLinks, "/secret", nil}, {InRootWithoutLinks, "abs", unix.ELOOP}, {InRootWithoutLinks, "sub/rel", unix.ELOOP},
		{BeneathWithoutLinks, "secret", nil}, {BeneathWithoutLinks, "/secret", unix.EXDEV}, {BeneathWithoutLinks, "../secret", unix.EXDEV},
		{BeneathWithoutLinks, "abs", unix.ELOOP},
	} {
		f, err := Open(int(root.Fd()), c.name, c.scope, 0)
		if !errors.Is(err, c.want) {
			t.Errorf("%x %s: %v, want %v", uint64(c.scope), c.name, err, c.want)
		}
		if err != nil {
			continue
		}
		var st unix.Stat_t
		must(unix.Fstat(int(f.Fd()), &st))
		if st.Ino != inside.Ino {
			t.Errorf("%x %s: opened another file", uint64(c.scope), c.name)
		}
		f.Close()
	}
}
