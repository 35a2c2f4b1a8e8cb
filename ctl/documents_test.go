package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/completion"
	"github.com/gatewarden/gatewarden/internal/manual"
	"github.com/gatewarden/gatewarden/internal/manual/manualtest"
	"github.com/gatewarden/gatewarden/internal/verb"
)

// page is gatewarden(1), from the command's own help.
func page() manual.Page {
	overview := verb.Overview(more("", nil)...)
	usage, rest, _ := strings.Cut(strings.TrimPrefix(overview, "usage: "), "\n\n")
	summary, rest, _ := strings.Cut(rest, "\n\n")
	list, rest, _ := strings.Cut(rest, "\n\n")
	var b strings.Builder
	fmt.Fprintf(&b, "## Synopsis\n\n`%s`\n\n## Description\n\n%s\n\n| | |\n|---|---|\n", usage, summary)
	for line := range strings.Lines(list) {
		name, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, strings.TrimSpace(what))
	}
	b.WriteString("\n" + manual.FromHelp(rest) + "\n## Verbs\n\n")
	for _, c := range verb.Commands(more("", nil)...) {
		usage, text, _ := strings.Cut(strings.TrimPrefix(verb.Help(c), "usage: "), "\n")
		fmt.Fprintf(&b, "### %s\n\n%s\n", usage, manual.FromHelp(text))
	}
	b.WriteString(`## Environment

| | |
|---|---|
| ` + "`GATEWARDEN_CONFIG`" + ` | file of settings, as with ` + "`--config`" + `, gatewarden-config.toml(5) |
| ` + "`CONTAINERD_NAMESPACE`" + ` | where a container named by its ID alone is looked for first; without it ` + "`default`" + ` |
| ` + "`CONTAINERD_ADDRESS`" + ` | containerd's socket, for ` + "`doctor`" + ` |
`)
	return manual.Page{Name: "gatewarden", Section: 1, Summary: "look after the supervised gateways of this host's containers", Body: b.String(),
		SeeAlso: "gatewarden-profile(5), gatewarden-config.toml(5), gatewarden-hook(8), containerd-shim-gatewarden-v2(8)"}
}

func TestTheManualPageIsWhatTheHelpSays(t *testing.T) {
	manualtest.Page(t, "..", page())
}

func TestTheCompletionsAreThoseOfTheCommandsTables(t *testing.T) {
	for file, write := range map[string]func([]verb.Command) (string, error){
		"gatewarden.bash": completion.Bash, "_gatewarden": completion.Zsh, "gatewarden.fish": completion.Fish,
	} {
		text, err := write(verb.Commands(more("", nil)...))
		if err != nil {
			t.Fatal(err)
		}
		manualtest.File(t, "../packaging/completions/"+file, text)
	}
}
