//go:build packages

package packages

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The root is Debian's, for its shell and tools: rpm itself needs nothing of what is in it.
func TestAnRPMIsCheckedInstalledUpgradedAndErased(t *testing.T) {
	t.Parallel()
	rpm, newerRPM := pkg(t, *dist, ".x86_64.rpm"), pkg(t, *newer, ".x86_64.rpm")
	for _, file := range []string{rpm, newerRPM, pkg(t, *dist, ".aarch64.rpm")} {
		if r := try(t, nil, "rpm", "-K", "-v", file); r.status != 0 || strings.Count(r.stdout, ": OK") < 2 || strings.Contains(r.stdout, "BAD") {
			t.Error(r)
		}
	}
	root := unpackDebian(t)
	in := func(args ...string) string { t.Helper(); return do(t, "chroot", append([]string{root}, args...)...) }
	do(t, "rpm", "--root", root, "--initdb")
	// These belong to other packages of an rpm distribution, whose directories they are.
	in("mkdir", "-p", "/usr/lib/sysusers.d", "/usr/share/zsh/site-functions", "/usr/share/fish/vendor_completions.d")
	before := tree(t, root+"/usr")
	do(t, "rpm", "--root", root, "--nodeps", "--install", rpm)
	if got := do(t, "rpm", "--root", root, "--verify", "--nodeps", "gatewarden"); got != "" {
		t.Errorf("rpm --verify right after the installation:\n%s", got)
	}
	if got := in("gatewarden", "version"); !strings.Contains(got, *version) {
		t.Errorf("gatewarden version: %s", got)
	}
	if got := in("stat", "-c", "%a", "/run/gatewarden", "/var/lib/gatewarden", "/var/log/gatewarden"); got != "700\n700\n700\n" {
		t.Errorf("the directories have the modes %q", got)
	}
	if got := in("getent", "passwd", "64990"); !strings.HasPrefix(got, "gatewarden-gateway:") {
		t.Errorf("UID 64990 is %q", got)
	}
	const edited = "version = 1\n# edited\n"
	if err := os.WriteFile(root+"/etc/gatewarden/config.toml", []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	do(t, "rpm", "--root", root, "--nodeps", "--upgrade", newerRPM)
	if got := in("gatewarden", "version"); !strings.Contains(got, *later) {
		t.Errorf("after the upgrade: %s", got)
	}
	if got := in("cat", "/etc/gatewarden/config.toml"); got != edited {
		t.Errorf("the settings were overwritten: %s", got)
	}
	if got := do(t, "rpm", "--root", root, "-q", "--configfiles", "gatewarden"); !strings.Contains(got, "/etc/gatewarden/config.toml\n") {
		t.Errorf("configuration files: %s", got)
	}
	container := root + "/run/gatewarden/default/web"
	if err := os.MkdirAll(container, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(container+"/install.json", []byte(`{"profile":"demo"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := try(t, nil, "rpm", "--root", root, "--nodeps", "--erase", "gatewarden")
	if r.status == 0 || !strings.Contains(r.stderr, "not removed: these containers have a gateway") || !strings.Contains(r.stderr, "default/web") {
		t.Error(r)
	}
	if got := in("gatewarden", "version"); !strings.Contains(got, *later) {
		t.Errorf("after the refusal: %s", got)
	}
	if r := try(t, []string{"GATEWARDEN_REMOVE=force"}, "rpm", "--root", root, "--nodeps", "--erase", "gatewarden"); r.status != 0 {
		t.Error(r)
	}
	if after := tree(t, root+"/usr"); len(before) != len(after) {
		var a, b []string
		for name := range before {
			a = append(a, name)
		}
		for name := range after {
			b = append(b, name)
		}
		slices.Sort(b)
		t.Errorf("left behind: %v\ngone: %v", missing(b, a), missing(a, b))
	}
	if got := in("cat", "/etc/gatewarden/config.toml.rpmsave"); got != edited {
		t.Errorf("the settings that were kept: %s", got)
	}
}
