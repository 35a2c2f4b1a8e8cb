//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
)

func TestAContainerWithoutAnnotationBehavesAsWithTheStockShim(t *testing.T) {
	for _, runtime := range []string{harness.Stock, harness.Gatewarden} {
		t.Run(runtime, func(t *testing.T) {
			c := run(t, options{runtime: runtime})
			if got := strings.TrimSpace(c.mustExec("id", "-u")); got != "1000" {
				t.Errorf("the workload's UID is %s, want 1000", got)
			}
			if r := c.exec("sh", "-c", "echo out; echo err >&2; exit 7"); r.Status != 7 || r.Stdout != "out\n" || !strings.Contains(r.Stderr, "err") {
				t.Errorf("exec gives the wrong result:\n%v", r)
			}
			// No gateway means no hook, no warden, and "gatewarden" is a command like any other.
			if _, err := os.Lstat(c.runDir()); err == nil {
				t.Errorf("%s exists", c.runDir())
			}
			if r := c.exec("gatewarden", "status"); r.Status == 0 {
				t.Errorf("a container without a gateway answers gatewarden status:\n%v", r)
			}
			hooks, _ := filepath.Glob(filepath.Join(c.h.Dir, "state", "io.containerd.runtime.v2.task", c.h.Namespace, c.id, "config.json"))
			if len(hooks) != 1 {
				t.Fatalf("%d config.json in the bundle, want 1", len(hooks))
			}
			config, err := os.ReadFile(hooks[0])
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(config), "gatewarden-hook") {
				t.Error("config.json names the hook")
			}
			if r := c.ctr("task", "kill", "-s", "KILL", c.id); r.Status != 0 {
				t.Errorf("%v", r)
			}
		})
	}
}

func TestTheHostIsLeftCleanByAContainerThatIsDeleted(t *testing.T) {
	c := run(t, options{runtime: harness.Stock})
	c.delete()
	c.checkGone()
}
