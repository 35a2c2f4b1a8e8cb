package verb

import (
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
)

func TestEveryVerbHasCompleteHelp(t *testing.T) {
	for _, c := range commands(Env{}) {
		var texts []string
		for _, args := range [][]string{{"help", c.Name}, {c.Name, "-h"}, {c.Name, "x", "--help"}} {
			exit, stdout, stderr := newHost(t).run(args...)
			want(t, exit, code.ExitOK, stdout, "usage: gatewarden "+c.Name, "--json", "--quiet", "Exit status:", "Examples:\n")
			if stderr != "" {
				t.Errorf("%q: stderr %q", args, stderr)
			}
			texts = append(texts, stdout)
			for line := range strings.Lines(stdout) {
				if len(line) > 121 {
					t.Errorf("%s: a line of %d bytes: %q", c.Name, len(line), line)
				}
			}
		}
		if texts[0] != texts[1] || texts[1] != texts[2] {
			t.Errorf("%s: three kinds of help differ", c.Name)
		}
		if _, stdout, _ := newHost(t).run("--help"); !strings.Contains(stdout, "  "+c.Name+" ") {
			t.Errorf("%s is not in the list", c.Name)
		}
	}
}

func TestHelpInAVirtualExecNamesNoContainer(t *testing.T) {
	exit, stdout, _ := newHost(t).inside().run("restart", "--help")
	want(t, exit, code.ExitOK, stdout, "usage: gatewarden restart [flags]\n")
	if strings.Contains(stdout, "CONTAINER") || strings.Contains(stdout, "Examples") {
		t.Errorf("help:\n%s", stdout)
	}
}
