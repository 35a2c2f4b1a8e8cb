package config

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/stricttoml"
	"github.com/gatewarden/gatewarden/internal/trusted"
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

func TestWhatTheFileDoesNotSayHasTheDefault(t *testing.T) {
	want := Default()
	if c, err := Parse("c", []byte("version = 1\n")); err != nil || c != want {
		t.Errorf("got %+v, %v", c, err)
	}
	want = Config{ProfileDir: "/a", RunDir: "/b", StateDir: "/c", LogDir: "/d", Hook: "/e/f", AuditKey: "/g"}
	c, err := Parse("c", []byte(`version = 1
profile_dir = "/a"
run_dir = "/b"
state_dir = "/c"
log_dir = "/d"
hook = "/e/f"
audit_key = "/g"
`))
	if err != nil || c != want {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestBadSettingsAreExplainedAllAtOnce(t *testing.T) {
	_, err := Parse("config.toml", []byte(`version = "1"
profile_dir = "etc"
run_dir = "/run/"
state_dir = "/"
log_dir = ""
hooks = "/x"
hook = 7
[gateway]
`))
	want := `config.toml:1:11: version: must be a whole number without quotes, not a string
config.toml:2:15: profile_dir: "etc" is not absolute; write the path from / on
config.toml:3:11: run_dir: "/run/" is not in its shortest form; write "/run"
config.toml:4:13: state_dir: must not be the root directory
config.toml:5:11: log_dir: is empty; an absolute path is needed
config.toml:6:1: hooks: unknown key; did you mean "hook"?
config.toml:7:8: hook: must be a string in quotes, not the number 7
config.toml:8:2: gateway: unknown key; known here: version, profile_dir, run_dir, state_dir, log_dir, hook, audit_key`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestWhatIsRemovedWithTheContainerIsAPlaceOfItsOwn(t *testing.T) {
	for _, toml := range []string{"run_dir = '/a'\nstate_dir = '/a'", "run_dir = '/var/lib/gatewarden'", "log_dir = '/run/gatewarden'"} {
		if _, err := Parse("c", []byte("version = 1\n"+toml)); err == nil || !strings.Contains(err.Error(), "choose two places") {
			t.Errorf("%s: got %v", toml, err)
		}
	}
}

func TestANamedFileMustExistAndBeRootsAlone(t *testing.T) {
	dir := rootDir(t)
	file := filepath.Join(dir, "config.toml")
	if _, err := Load(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(file, []byte("version = 1\nrun_dir = '/run/x'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.RunDir = "/run/x"
	if c, err := Load(file); err != nil || c != want {
		t.Errorf("got %+v, %v", c, err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	var untrusted *trusted.Error
	if _, err := Load(file); !errors.As(err, &untrusted) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "version = 1", "version = 1\nrun_dir = '/a'\nhook = '/b'", "version = 1\nversion = 1", "run_dir = []", "[version]", "a"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("c", data)
		if err != nil {
			if problems, ok := err.(*stricttoml.Problems); !ok || len(problems.List) == 0 || c != (Config{}) {
				t.Errorf("got %+v, %v", c, err)
			}
			return
		}
		for _, p := range []string{c.ProfileDir, c.RunDir, c.StateDir, c.LogDir, c.Hook} {
			if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
				t.Errorf("accepted %q", p)
			}
		}
	})
}
