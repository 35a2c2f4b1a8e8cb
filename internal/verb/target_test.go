package verb

import (
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
)

func TestAnAmbiguousNameListsItsCandidates(t *testing.T) {
	h := newHost(t)
	h.lose("default/web-1")
	h.lose("k8s.io/web-2")
	exit, stdout, stderr := h.run("restart", "web")
	want(t, exit, code.ExitUsage, stderr, `"web" could be any of 2 containers`, "\n  default/web-1\n", "\n  k8s.io/web-2\n")
	if stdout != "" {
		t.Errorf("stdout: %q", stdout)
	}
}
