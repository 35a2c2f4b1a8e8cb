package profile

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func shipped(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../packaging/profiles/*.toml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d profiles are shipped: %v", len(files), err)
	}
	return files
}

func TestEveryShippedProfileIsOne(t *testing.T) {
	for _, file := range shipped(t) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(strings.TrimSuffix(filepath.Base(file), ".toml"), data)
		if err != nil {
			t.Error(err)
			continue
		}
		if !p.Select.Annotation || p.Description == "" || len(p.Listen) == 0 || len(p.States) == 0 || len(p.Mounts) == 0 {
			t.Errorf("%s: got %+v", file, p)
		}
	}
}

// TestTheReferenceHasEveryKey compares it with the documents, which have a table for each part of a profile.
func TestTheReferenceHasEveryKey(t *testing.T) {
	data, err := os.ReadFile("../../packaging/profiles/reference.toml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/profile.md")
	if err != nil {
		t.Fatal(err)
	}
	words := regexp.MustCompile(`[a-z0-9_]+`).FindAllString(string(data), -1)
	keys := 0
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)`[^|]*\\|").FindAllStringSubmatch(string(doc), -1) {
		if keys++; !slices.Contains(words, row[1]) {
			t.Errorf("%s is in docs/profile.md and not in the reference", row[1])
		}
	}
	if keys < 30 {
		t.Errorf("only %d keys were found in docs/profile.md", keys)
	}
}
