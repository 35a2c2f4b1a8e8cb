package manual_test

import (
	"os"
	"testing"

	"github.com/gatewarden/gatewarden/internal/manual"
	"github.com/gatewarden/gatewarden/internal/manual/manualtest"
)

const (
	root            = "../.."
	profileDocument = root + "/docs/profile.md"
)

func TestTheDocumentsHaveTheReferenceOfTheirKeys(t *testing.T) {
	manualtest.Regions(t, profileDocument, manual.ProfileTexts())
	manualtest.Regions(t, root+"/docs/operating.md", manual.SettingsTexts())
}

func TestTheManualPagesAreWhatTheDocumentsSay(t *testing.T) {
	document, err := os.ReadFile(profileDocument)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := manual.Pages(string(document))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		manualtest.Page(t, root, p)
	}
}
