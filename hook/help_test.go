package main

import (
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/manual"
	"github.com/gatewarden/gatewarden/internal/manual/manualtest"
)

func TestTheManualPageIsWhatTheHelpSays(t *testing.T) {
	usage, text, ok := strings.Cut(strings.TrimPrefix(helpText, "usage: "), "\n\n")
	if !ok {
		t.Fatalf("the help has no usage line:\n%s", helpText)
	}
	synopsis := "## Synopsis\n\n`" + usage + "`\n\n## Description\n\n"
	manualtest.Page(t, "..", manual.Page{Name: "gatewarden-hook", Section: 8, Summary: "OCI hook that installs a supervised gateway",
		Body: synopsis + manual.FromHelp(text), SeeAlso: "gatewarden(1), gatewarden-profile(5), gatewarden-config.toml(5), containerd-shim-gatewarden-v2(8)"})
}
