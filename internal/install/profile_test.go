package install

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gatewarden/gatewarden/oci"
)

func TestTheProfileIsWhatTheHookAndTheAnnotationAgreeOn(t *testing.T) {
	for _, c := range []struct {
		flag, annotation string
		want             string
		annotated        bool
		err              string
	}{
		{"", "", "", false, ""},
		{"", "demo", "demo", true, ""},
		{"demo", "", "demo", false, ""},
		{"demo", "demo", "demo", false, ""}, // by the administrator, whoever else
		{"demo", "other", "", false, `its annotation names profile "other", and the hook's --profile (of a device, or of its config.json) "demo"`},
		{"../demo", "", "", false, "is not a profile's name"},
		{"demo", "../other", "", false, "does not name a profile"},
	} {
		spec := &specs.Spec{}
		if c.annotation != "" {
			spec.Annotations = map[string]string{oci.GatewayAnnotation: c.annotation}
		}
		name, annotated, err := profileName(spec, Options{Profile: c.flag})
		if name != c.want || annotated != c.annotated || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("--profile %q, annotation %q: %q, %v, %v", c.flag, c.annotation, name, annotated, err)
		}
	}
}
