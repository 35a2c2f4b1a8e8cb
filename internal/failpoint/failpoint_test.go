//go:build !failpoints

package failpoint

import (
	"os"
	"path/filepath"
	"testing"
)

// A product build has no failpoints, whatever somebody writes into a run directory.
func TestAnArmedPointIsNothingToAProductBuild(t *testing.T) {
	if Enabled {
		t.Fatal("this build has failpoints")
	}
	dir := t.TempDir()
	armed := filepath.Join(dir, Name)
	if err := os.WriteFile(armed, []byte("stop kill\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	Hit(dir, "stop")
	if _, err := os.Stat(armed); err != nil {
		t.Errorf("the point went off: %v", err)
	}
}
