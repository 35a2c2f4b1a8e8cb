package manual

import (
	_ "embed"
	"fmt"
)

// Markdown of the pages that are no document of their own.
var (
	//go:embed config.toml.md
	settingsText string
	//go:embed shim.md
	shimText string
)

// SettingsTexts are what the regions of a document about config.toml hold.
func SettingsTexts() map[string]string {
	return map[string]string{Settings[0].region(): Settings[0].Markdown()}
}

// Pages are the manual pages that are made here: of the profile, from the text of its document, of config.toml and of the shim.
func Pages(profileDocument string) ([]Page, error) {
	settings, err := Fill(settingsText, SettingsTexts())
	if err != nil {
		return nil, fmt.Errorf("config.toml.md: %w", err)
	}
	return []Page{
		{Name: "gatewarden-profile", Section: 5, Summary: "file that declares a supervised gateway", Body: profileDocument,
			SeeAlso: "gatewarden(1), gatewarden-config.toml(5), gatewarden-hook(8), containerd-shim-gatewarden-v2(8)"},
		{Name: "gatewarden-config.toml", Section: 5, Summary: "settings of gatewarden on this host", Body: settings,
			SeeAlso: "gatewarden(1), gatewarden-profile(5), gatewarden-hook(8), containerd-shim-gatewarden-v2(8)"},
		{Name: "containerd-shim-gatewarden-v2", Section: 8, Summary: "containerd's shim for runc, with supervised gateways", Body: shimText,
			SeeAlso: "gatewarden(1), gatewarden-profile(5), gatewarden-config.toml(5), gatewarden-hook(8)"},
	}, nil
}
