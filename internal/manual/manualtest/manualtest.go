// Package manualtest compares what is made from the code with the files of the repository, for the tests of the packages that have
// the text.
package manualtest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/gatewarden/gatewarden/internal/manual"
)

var update = flag.Bool("update", false, "write the documents that are made from the code")

// Page checks that a page of the repository's at root is what it should be, or writes it with -update.
func Page(t *testing.T, root string, p manual.Page) {
	t.Helper()
	text, err := p.Roff()
	if err != nil {
		t.Fatal(err)
	}
	File(t, filepath.Join(root, "packaging", "man", fmt.Sprintf("%s.%d", p.Name, p.Section)), text)
}

// Regions checks the regions of a document, or writes them with -update.
func Regions(t *testing.T, file string, texts map[string]string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := manual.Fill(string(data), texts)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	File(t, file, want)
}

// File checks that the file holds want, or writes it with -update.
func File(t *testing.T, file, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the code says: write it anew with make docs", file)
	}
}
