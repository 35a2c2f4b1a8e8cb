package profile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/trusted"
)

func TestLoadReadsAProfileByItsName(t *testing.T) {
	dir := rootDir(t)
	write(t, filepath.Join(dir, "web.1.toml"), base+listenTCP, 0o644)
	p, err := Load(dir, "web.1")
	if err != nil || p.Name != "web.1" {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := Load(dir, "other"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no profile named other") {
		t.Errorf("got %v", err)
	}
	write(t, filepath.Join(dir, "bad.toml"), base, 0o644)
	_, err = Load(dir, "bad")
	var problems *Problems
	if !errors.As(err, &problems) || problems.File != filepath.Join(dir, "bad.toml") {
		t.Errorf("got %v", err)
	}
}

func TestANameNeverLeadsOutOfTheProfileDirectory(t *testing.T) {
	dir := rootDir(t)
	sub := filepath.Join(dir, "gateways.d")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "web.toml"), base+listenTCP, 0o644)
	for _, name := range []string{"", ".", "..", "../web", "/web", "a/b", "Web", "-web", "_web", ".web", "web\n", "web\x00", "é", strings.Repeat("a", 64)} {
		if p, err := Load(sub, name); err == nil || !strings.Contains(err.Error(), "is not a profile name") {
			t.Errorf("%q: got %v, %v", name, p, err)
		}
	}
	if err := os.Symlink("../web.toml", filepath.Join(sub, "link.toml")); err != nil {
		t.Fatal(err)
	}
	var untrusted *trusted.Error
	if _, err := Load(sub, "link"); !errors.As(err, &untrusted) || !strings.Contains(err.Error(), "is a symbolic link") {
		t.Errorf("got %v", err)
	}
}

func TestCheckExplainsTheFileAndWhatIsInIt(t *testing.T) {
	dir := rootDir(t)
	file := write(t, filepath.Join(dir, "Web.conf"), "version = 1\nx = 1\n", 0o666)
	p, data, err := Check(file)
	problems, ok := err.(*Problems)
	if !ok || p != nil || string(data) != "version = 1\nx = 1\n" {
		t.Fatalf("got %v, %q, %v", p, data, err)
	}
	text := err.Error()
	for _, want := range []string{
		"is writable by group 0 and others (mode 0666); chmod go-w " + file,
		"does not end in .toml",
		`"Web.conf" is not a profile name`,
		file + ":1:1: gateway: missing",
		file + ":2:1: x: unknown key",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	var shown bytes.Buffer
	if err := problems.Format(&shown, data); err != nil || !strings.Contains(shown.String(), "     2 | x = 1\n       | ^\n") {
		t.Errorf("got %s, %v", shown.String(), err)
	}
}

func TestCheckOfWhatIsNoFile(t *testing.T) {
	dir := rootDir(t)
	if _, _, err := Check(filepath.Join(dir, "absent.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	fifo := filepath.Join(dir, "fifo.toml")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Check(fifo); err == nil || !strings.Contains(err.Error(), "is a FIFO, not a regular file") {
		t.Errorf("got %v", err)
	}
	if _, _, err := Check(dir); err == nil || !strings.Contains(err.Error(), "is a directory, not a regular file") {
		t.Errorf("got %v", err)
	}
	big := write(t, filepath.Join(dir, "big.toml"), strings.Repeat("#", MaxSize+1), 0o600)
	if _, _, err := Check(big); err == nil || !strings.Contains(err.Error(), "at most 65536 are read") {
		t.Errorf("got %v", err)
	}
}

func TestCheckTakesARelativePath(t *testing.T) {
	dir := rootDir(t)
	write(t, filepath.Join(dir, "web.toml"), base+listenTCP, 0o644)
	t.Chdir(dir)
	p, data, err := Check("web.toml")
	if err != nil || p.Name != "web" || string(data) != base+listenTCP {
		t.Errorf("got %v, %q, %v", p, data, err)
	}
}
