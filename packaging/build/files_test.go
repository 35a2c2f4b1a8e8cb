package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheListOfFilesIsReadStrictly(t *testing.T) {
	for name, line := range map[string]string{
		"too little": "0644 a", "too much": "0644 a /b config more", "no mode": "rw a /b", "writable for others": "0666 a /b",
		"set-ID": "4755 a /b", "a relative target": "0644 a b", "not the shortest form": "0644 a /b/../c", "an unknown mark": "0644 a /b conf",
		"nothing": "# nothing",
	} {
		if got, err := parseList([]byte(line)); err == nil {
			t.Errorf("%s: %+v, and no error", name, got)
		}
	}
	list, err := parseList([]byte("0644 a /b\n0755 - /c\n0600 d /e config,deb\n"))
	if err != nil || len(list) != 3 || !list[0].in("rpm") || !list[2].in("deb") || list[2].in("rpm") {
		t.Errorf("%+v, %v", list, err)
	}
}

// A document, an example or a manual page that is not in the list would be missed by nobody but those who need it.
func TestEveryManualPageExampleAndCompletionIsInTheList(t *testing.T) {
	const root = "../../"
	data, err := os.ReadFile(root + listFile)
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseList(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"packaging/man", "packaging/profiles", "packaging/completions", "packaging/systemd", "packaging/sysusers.d", "packaging/tmpfiles.d"} {
		names := 0
		err := filepath.WalkDir(root+dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			names++
			found, source := false, strings.TrimPrefix(path, root)
			for _, e := range list {
				found = found || e.source == source
			}
			if !found {
				t.Errorf("%s is in no package", source)
			}
			return nil
		})
		if err != nil || names == 0 {
			t.Fatalf("%s: %d files, %v", dir, names, err)
		}
	}
	for _, e := range list {
		if e.source == "-" || strings.HasPrefix(e.source, "bin/") {
			continue
		}
		if info, err := os.Stat(root + e.source); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v", e.source, err)
		}
	}
}

func FuzzParseList(f *testing.F) {
	f.Add([]byte("0644 a /b\n0755 - /c\n# x\n0600 d /e config,deb\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseList(data)
		for _, e := range list {
			if err != nil || e.mode&0o7022 != 0 || !strings.HasPrefix(e.target, "/") {
				t.Errorf("%+v, %v", e, err)
			}
		}
	})
}
