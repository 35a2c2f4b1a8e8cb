package verb

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

// FuzzArguments gives a virtual exec's arguments, which are a client's, to a container without a warden.
func FuzzArguments(f *testing.F) {
	for _, s := range []string{
		"restart --reason x --timeout 1s --if-generation 3", "logs -n 5 -t", "status --json", "-q", "help restart", "recover -- x", "receipts -n -1",
		"probe --timeout=1000h", "restart --request-id " + strings.Repeat("x", 200), "--json status", "upgrade-warden", "events --all", "audit verify",
		"apply web --config /etc/gateway=/root/new --dry-run", "rollback --to 3 --skip-preflight", "generations --diff 1,2 --json",
	} {
		f.Add(strings.ReplaceAll(s, " ", "\x00"))
	}
	dir := f.TempDir()
	settings := config.Config{RunDir: dir + "/run", StateDir: dir + "/lib", LogDir: dir + "/log", ProfileDir: dir + "/d", Hook: "/no/hook"}
	f.Fuzz(func(t *testing.T, s string) {
		args := strings.Split(s, "\x00")
		var stdout, stderr bytes.Buffer
		status := Run(t.Context(), Env{Config: settings, Target: &gateways.Target{Namespace: "default", ID: "web"}, Stdout: &stdout, Stderr: &stderr, Via: "task-exec"}, args)
		switch {
		case status < code.ExitOK || status > code.ExitNotManaged:
			t.Errorf("%q: exit status %d", args, status)
		case quiet(args) && stdout.Len()+stderr.Len() != 0:
			t.Errorf("%q: not quiet: %s%s", args, &stdout, &stderr)
		case status == code.ExitUsage && stderr.Len() == 0 && !quiet(args):
			t.Errorf("%q: refused without a word", args)
		}
	})
}
