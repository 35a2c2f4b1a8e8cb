package gateways

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
)

func TestNamesResolveToOneContainerOrNone(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	for _, d := range []string{
		dir + "/default/web", dir + "/default/webhook", dir + "/default/db", dir + "/k8s.io/web", dir + "/k8s.io/abc123",
		dir + "/k8s.io/abd456", dir + "/moby/cafe01", dir + "/other/cafe01", state + "/default/ended", state + "/default/web",
	} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/default/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dirs := []string{dir, state, filepath.Join(dir, "absent")}
	for _, c := range []struct{ name, want string }{
		{"web", "default/web"}, // the ID wins over the prefix, the own namespace over the other
		{"k8s.io/web", "k8s.io/web"},
		{"default/webh", "default/webhook"},
		{"d", "default/db"},
		{"abc", "k8s.io/abc123"},
		{"ended", "default/ended"},
		{"ab", "ambiguous"},
		{"cafe01", "ambiguous"},
		{"moby/cafe01", "moby/cafe01"},
		{"moby/c", "moby/cafe01"},
		{"file", "none"},
		{"", "none"},
		{"k8s.io/", "none"},
		{"/web", "none"},
		{"default/../k8s.io/web", "none"},
		{"..", "none"},
		{"nobody", "none"},
	} {
		got, err := Host{Namespace: "default"}.Find(c.name, dirs...)
		text := got.String()
		if _, ok := errors.AsType[*AmbiguousError](err); ok {
			text = "ambiguous"
		} else if err != nil {
			text = "none"
			if e := code.From(err, ""); e.Code != code.NotManaged {
				t.Errorf("%q: %v", c.name, err)
			}
		}
		if text != c.want {
			t.Errorf("%q gives %s, want %s", c.name, text, c.want)
		}
	}
}

func FuzzFind(f *testing.F) {
	dir := f.TempDir()
	for _, d := range []string{"/default/web", "/k8s.io/abc", "/k8s.io/abd"} {
		if err := os.MkdirAll(dir+d, 0o700); err != nil {
			f.Fatal(err)
		}
	}
	for _, s := range []string{"web", "k8s.io/abc", "ab", "../x", "a/b/c", "", "/", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := Host{Namespace: "default"}.Find(name, dir)
		if err != nil {
			return
		}
		// Whatever the name, what it resolves to is a directory that was listed.
		switch got.String() {
		case "default/web", "k8s.io/abc", "k8s.io/abd":
		default:
			t.Errorf("%q gives %s", name, got)
		}
	})
}
