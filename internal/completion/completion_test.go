package completion

import (
	"context"
	goflag "flag"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/verb"
)

// command has the flags --size with a value and --fast without one.
func command(args, help string) verb.Command {
	return verb.Command{Name: "do", Args: args, Summary: "do it", Help: help, New: func(fs *goflag.FlagSet) func(context.Context, *verb.Invocation) int {
		fs.Int("size", 0, "")
		fs.Bool("fast", false, "")
		return nil
	}}
}

const help = "Does it.\n\n  --size N     how much\n  --fast       sooner; it's so\n"

func TestAFlagThatTheHelpDoesNotTellAsItIsIsAnError(t *testing.T) {
	for name, text := range map[string]string{
		"not there":                     "Does it.\n\n  --size N     how much\n",
		"no flag":                       help + "  --slow       later\n",
		"with a value that it has not":  strings.Replace(help, "--fast ", "--fast N ", 1),
		"without the value that it has": strings.Replace(help, "--size N", "--size", 1),
	} {
		for shell, write := range map[string]func([]verb.Command) (string, error){"bash": Bash, "zsh": Zsh, "fish": Fish} {
			if got, err := write([]verb.Command{command("", text)}); err == nil {
				t.Errorf("%s, %s: no error\n%s", name, shell, got)
			}
		}
	}
	a, err := read(command("", help))
	if err != nil || len(a.flags) != 2 || a.flags[0].names[0] != "--fast" || a.flags[0].text != "sooner" || a.flags[1].value != "N" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestTheUsageLineTellsWhatStandsAtWhichPlace(t *testing.T) {
	for usage, want := range map[string]struct {
		words    []word
		repeated bool
	}{
		"":                                      {nil, false},
		"CONTAINER":                             {[]word{{containers: true}}, false},
		"check FILE…":                           {[]word{{literals: []string{"check"}}, {files: true}}, true},
		"verify [CONTAINER | FILE | --all]":     {[]word{{literals: []string{"verify"}}, {containers: true, files: true}}, false},
		"--all | CONTAINER…":                    {[]word{{containers: true}}, true},
		"configure|unconfigure podman | docker": {[]word{{literals: []string{"configure", "unconfigure"}}, {literals: []string{"podman", "docker"}}}, false},
	} {
		words, repeated := arguments(usage)
		same := slices.EqualFunc(words, want.words, func(a, b word) bool {
			return slices.Equal(a.literals, b.literals) && a.containers == b.containers && a.files == b.files
		})
		if !same || repeated != want.repeated {
			t.Errorf("%q: %+v %v", usage, words, repeated)
		}
	}
}
