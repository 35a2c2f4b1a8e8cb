package oci

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"
)

const testHook = "/usr/libexec/gatewarden/gatewarden-hook"

// asJSON is a document as it stands in its file.
func asJSON(t *testing.T, document any) string {
	t.Helper()
	data, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestHooksDocumentsMatchTheAnnotationAtBothStages(t *testing.T) {
	documents, err := HooksDocuments(testHook, []string{"--config", "/etc/gatewarden/config.toml"})
	if err != nil || len(documents) != 2 {
		t.Fatalf("%d documents, %v", len(documents), err)
	}
	for file, stage := range map[string]string{"90-gatewarden-createruntime.json": "createRuntime", "90-gatewarden-poststop.json": "poststop"} {
		want := `{
  "version": "1.0.0",
  "hook": {
    "path": "/usr/libexec/gatewarden/gatewarden-hook",
    "args": [
      "gatewarden-hook",
      "` + stage + `",
      "--config",
      "/etc/gatewarden/config.toml"
    ],
    "env": [
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ],
    "timeout": 30
  },
  "when": {
    "annotations": {
      "^io\\.gatewarden\\.gateway(/.*)?$": ".*"
    }
  },
  "stages": [
    "` + stage + `"
  ]
}`
		if got := asJSON(t, documents[file]); got != want {
			t.Errorf("%s", diff.Diff("want", []byte(want), file, []byte(got)))
		}
	}
}

func TestACDIDeviceNamesItsProfileToTheHook(t *testing.T) {
	spec, err := CDISpec(testHook, nil, []string{"web", "0api"})
	if err != nil {
		t.Fatal(err)
	}
	device := func(name string) string {
		hook := func(stage string) string {
			return `{"hookName":"` + stage + `","path":"` + testHook + `","args":["gatewarden-hook","` + stage + `","--profile","` + name +
				`"],"env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"timeout":30}`
		}
		return `{"name":"` + name + `","containerEdits":{"hooks":[` + hook("createRuntime") + `,` + hook("poststop") + `]}}`
	}
	want := `{"cdiVersion":"0.5.0","kind":"gatewarden.io/gateway","devices":[` + device("0api") + `,` + device("web") + `],"containerEdits":{}}`
	got, err := json.Marshal(spec)
	if err != nil || string(got) != want {
		t.Errorf("got  %s\nwant %s\n%v", got, want, err)
	}
}

func TestDocumentsAreNotMadeOfWhatAnEngineWouldReadOtherwise(t *testing.T) {
	many := strings.Fields(strings.Repeat("p ", MaxProfiles+1))
	for name, test := range map[string]struct {
		hook           string
		args, profiles []string
		want           string
	}{
		"relative path":     {"gatewarden-hook", nil, []string{"a"}, "not absolute"},
		"path that climbs":  {"/usr/../bin/hook", nil, []string{"a"}, "shortest form"},
		"no path":           {"", nil, []string{"a"}, "not absolute"},
		"the root":          {"/", nil, []string{"a"}, "not absolute"},
		"control character": {"/bin/h\n", nil, []string{"a"}, "without control characters"},
		"not UTF-8":         {"/bin/h\xff", nil, []string{"a"}, "of UTF-8"},
		"long path":         {"/" + strings.Repeat("a", maxHookWord), nil, []string{"a"}, "1 to 4095 bytes"},
		"many arguments":    {testHook, many[:maxHookArgs+1], []string{"a"}, "too many"},
		"empty argument":    {testHook, []string{"--config", ""}, []string{"a"}, "no path or argument"},
		"profile in args":   {testHook, []string{"--profile=x"}, []string{"a"}, "the annotation or the device says"},
		"no profile":        {testHook, nil, nil, "no profile"},
		"many profiles":     {testHook, nil, many, "too many"},
		"twice":             {testHook, nil, []string{"a", "b", "a"}, "profile a is there twice"},
		"not a profile":     {testHook, nil, []string{"../a"}, `"../a" cannot be a device`},
		"not a device":      {testHook, nil, []string{"a."}, "ends with a letter or digit"},
		"comma in a device": {testHook, nil, []string{"a,b"}, "cannot be a device"},
	} {
		t.Run(name, func(t *testing.T) {
			if spec, err := CDISpec(test.hook, test.args, test.profiles); err == nil || spec != nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 500 {
				t.Errorf("CDI: %v", err)
			}
			if test.profiles == nil || !slices.Equal(test.profiles, []string{"a"}) {
				return
			}
			if documents, err := HooksDocuments(test.hook, test.args); err == nil || documents != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("hooks.d: %v", err)
			}
		})
	}
}

// FuzzDocuments checks that whatever is accepted comes back from JSON as it went in, with the profile as the device's name and
// as the last argument of the hook.
func FuzzDocuments(f *testing.F) {
	f.Add(testHook, "--config", "web")
	f.Add("/h", "-profile=x", "a.")
	f.Add("/h\x00", "\u2028", "0")
	f.Fuzz(func(t *testing.T, hook, arg, profile string) {
		spec, err := CDISpec(hook, []string{arg}, []string{profile})
		if err == nil {
			var again struct {
				Devices []struct {
					Name           string
					ContainerEdits struct {
						Hooks []struct {
							Path string
							Args []string
						}
					}
				}
			}
			if err := json.Unmarshal([]byte(asJSON(t, spec)), &again); err != nil {
				t.Fatal(err)
			}
			d := again.Devices[0]
			for i, stage := range []string{"createRuntime", "poststop"} {
				if h := d.ContainerEdits.Hooks[i]; d.Name != profile || h.Path != hook || !slices.Equal(h.Args[1:], []string{stage, arg, "--profile", profile}) {
					t.Errorf("%q, %q, %q gives %+v", hook, arg, profile, d)
				}
			}
		}
		documents, err := HooksDocuments(hook, []string{arg})
		for _, d := range documents {
			var again HooksDocument
			if err := json.Unmarshal([]byte(asJSON(t, d)), &again); err != nil || again.Hook.Path != hook || again.Hook.Args[2] != arg {
				t.Errorf("%q, %q gives %+v, %v", hook, arg, again, err)
			}
		}
		if (err == nil) != (len(documents) == 2) {
			t.Errorf("%d documents, %v", len(documents), err)
		}
	})
}
