//go:build packages

package packages

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bashTry completes the last of its arguments as bash would, and prints what it would offer.
const bashTry = `. "$FILE"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_gatewarden
printf '%s\n' "${COMPREPLY[@]}"`

const fishTry = `source $FILE; complete -C (string join ' ' -- $argv) | string replace -r '\t.*' ''`

// zshTry types the line into a zsh of its own, presses the tab key, and prints what that hands to compadd.
const zshTry = `zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PATH=$PATH; PS1=; fpath=(${FILE:h} \$fpath); autoload -Uz compinit; compinit -u -D; bindkey '^I' complete-word
compadd() { local -a found; builtin compadd -O found \"\$@\"; (( \$#found )) && print -l -- \$found >>$OUT; builtin compadd \"\$@\" }; print READ'Y'"
zpty -r z x '*READY*'
zpty -w -n z "$*"$'\t'
repeat 100; do sleep 0.1; [[ -s $OUT ]] && break; done
sleep 0.3
zpty -d z
cat $OUT`

func TestCompletionsOfferVerbsFlagsContainersAndFiles(t *testing.T) {
	t.Parallel()
	// Its ps is enough here.
	bin := t.TempDir()
	fake := "#!/bin/sh\necho 'CONTAINER    GATEWAY'\necho 'default/web  demo'\necho 'k8s.io/db    demo'\n"
	if err := os.WriteFile(bin+"/gatewarden", []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	root := unpacked(t, pkg(t, *dist, "_amd64.deb"))
	for shell, s := range map[string]struct{ file, script, option string }{
		"bash": {"usr/share/bash-completion/completions/gatewarden", bashTry, "--norc"},
		"fish": {"usr/share/fish/vendor_completions.d/gatewarden.fish", fishTry, "--no-config"},
		"zsh":  {"usr/share/zsh/vendor-completions/_gatewarden", zshTry, "-f"},
	} {
		for line, want := range map[string][]string{
			"gatewarden re":                     {"receipts", "recover", "restart"},
			"gatewarden restart ":               {"default/web", "k8s.io/db"},
			"gatewarden restart --tim":          {"--timeout"},
			"gatewarden restart --timeout 5s k": {"k8s.io/db"},
			"gatewarden audit ":                 {"verify"},
			"gatewarden audit verify defa":      {"default/web"},
			"gatewarden --config /x restart k":  {"k8s.io/db"},
			"gatewarden profile check proc":     {"proc"},
			"gatewarden help ap":                {"apply"},
		} {
			args := strings.Split(line, " ")
			env := []string{"FILE=" + filepath.Join(root, s.file), "PATH=" + bin + ":/usr/local/bin:/usr/bin:/bin", "OUT=" + filepath.Join(t.TempDir(), "out"), "TERM=dumb"}
			r := try(t, env, shell, append([]string{s.option, "-c", s.script}, append(map[bool][]string{true: {shell}, false: nil}[shell != "fish"], args...)...)...)
			var got []string
			for _, g := range strings.Fields(r.stdout) {
				got = append(got, strings.TrimSuffix(g, "/"))
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("%s: %q offers %q, want %q\n%v", shell, line, got, want, r.stderr)
			}
		}
	}
}
