//go:build packages

package packages

import (
	"slices"
	"strings"
	"testing"
)

func TestADebianPackageIsInstalledUpgradedRemovedAndPurged(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	before, users := r.files(), r.do("cat", "/etc/passwd", "/etc/group")
	deb, newerDeb := r.put(pkg(t, *dist, "_amd64.deb")), r.put(pkg(t, *newer, "_amd64.deb"))
	const conffile = "/etc/gatewarden/config.toml"

	r.do("dpkg", "--install", deb)
	if got := strings.TrimSpace(r.do("gatewarden", "version")); !strings.Contains(got, *version) {
		t.Errorf("gatewarden version says %q, want %s", got, *version)
	}
	for path, want := range map[string]string{
		"/run/gatewarden": "700 root root", "/var/lib/gatewarden": "700 root root", "/var/log/gatewarden": "700 root root",
		"/etc/gatewarden": "755 root root", "/etc/gatewarden/gateways.d": "755 root root", conffile: "644 root root",
		"/usr/bin/gatewarden": "755 root root", "/usr/libexec/gatewarden/gatewarden-hook": "755 root root",
	} {
		if got := strings.TrimSpace(r.do("stat", "-c", "%a %U %G", path)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if got := r.do("getent", "passwd", "64990"); !strings.HasPrefix(got, "gatewarden-gateway:") {
		t.Errorf("UID 64990 is %q", got)
	}
	// The settings are those that hold without the file, and the example is a good profile that is not active.
	if got := r.do("gatewarden", "ps", "--json"); got != "[]\n" {
		t.Errorf("gatewarden ps --json says %q", got)
	}
	r.do("cp", "/etc/gatewarden/gateways.d/reference.toml.example", "/etc/gatewarden/gateways.d/reference.toml")
	r.do("gatewarden", "profile", "check", "/etc/gatewarden/gateways.d/reference.toml")
	if r.do("dpkg", "--verify", "gatewarden") != "" {
		t.Error("dpkg --verify finds differences right after the installation")
	}

	t.Log("an upgrade keeps what the administrator has written")
	r.write(conffile, "version = 1\nlog_dir = \"/var/log/elsewhere\"\n")
	r.do("dpkg", "--install", newerDeb)
	if got := r.do("cat", conffile); !strings.Contains(got, "elsewhere") {
		t.Errorf("the settings were overwritten: %s", got)
	}
	if got := r.do("gatewarden", "version"); !strings.Contains(got, *later) {
		t.Errorf("after the upgrade: %s", got)
	}

	t.Log("a removal is refused while a container has a gateway, or when that cannot be told")
	r.write("/run/gatewarden/default/web/install.json", `{"profile":"demo"}`)
	r.refused([]string{"not removed: these containers have a gateway", "default/web", "GATEWARDEN_REMOVE=force"}, "dpkg", "--remove", "gatewarden")
	r.do("gatewarden", "version")
	if got := r.do("dpkg-query", "-W", "-f", "${db:Status-Status}", "gatewarden"); got != "installed" {
		t.Errorf("after the refusal the package is %s", got)
	}
	r.write(conffile, "version = 1\nrubbish = 1\n")
	r.refused([]string{"unknown key", "cannot be told"}, "dpkg", "--remove", "gatewarden")
	r.write(conffile, "version = 1\nlog_dir = \"/var/log/elsewhere\"\n")
	const document = "/etc/containers/oci/hooks.d/90-gatewarden-createruntime.json"
	r.write(document, "{}")
	got := r.try([]string{"GATEWARDEN_REMOVE=force"}, "dpkg", "--remove", "gatewarden")
	if got.status != 0 || !strings.Contains(got.stderr, "an engine still has "+document) {
		t.Error(got)
	}
	r.do("rm", "-r", "/run/gatewarden/default", "/etc/containers")

	t.Log("removed, it leaves what an administrator and gateways have written")
	r.write("/var/lib/gatewarden/default/web/state/x/kept", "kept")
	if r.try(nil, "test", "-e", "/usr/bin/gatewarden").status == 0 {
		t.Error("the program is still there")
	}
	if got := r.do("cat", conffile); !strings.Contains(got, "elsewhere") {
		t.Errorf("the settings: %s", got)
	}
	r.do("dpkg", "--install", newerDeb)
	if got := r.do("cat", conffile, "/var/lib/gatewarden/default/web/state/x/kept"); !strings.Contains(got, "elsewhere") || !strings.Contains(got, "kept") {
		t.Errorf("after another installation: %s", got)
	}

	t.Log("purged, nothing of it is left, and nothing of others is gone")
	r.write("/srv/data/precious", "precious")
	r.do("mkdir", "-p", "/var/lib/gatewarden/default/web/state/mounted", "/var/log/gatewarden/disk")
	r.do("mount", "--bind", "/srv/data", "/var/lib/gatewarden/default/web/state/mounted")
	r.do("mount", "-t", "tmpfs", "disk", "/var/log/gatewarden/disk")
	r.write("/var/log/gatewarden/disk/precious", "precious")
	r.do("ln", "-s", "/srv/data", "/etc/gatewarden/link")
	got = r.try(nil, "dpkg", "--purge", "gatewarden")
	if got.status != 0 || !strings.Contains(got.stderr, "/var/lib/gatewarden is left") || !strings.Contains(got.stderr, "/var/log/gatewarden is left") {
		t.Error(got)
	}
	if got := r.do("cat", "/srv/data/precious", "/var/log/gatewarden/disk/precious"); got != "preciousprecious" {
		t.Errorf("what was mounted there: %q", got)
	}
	r.do("umount", "/var/lib/gatewarden/default/web/state/mounted")
	r.do("umount", "/var/log/gatewarden/disk")
	r.do("dpkg", "--install", newerDeb)
	r.do("ln", "-s", "/srv/data", "/var/lib/gatewarden/default/link")
	r.do("dpkg", "--purge", "gatewarden")
	if got := r.do("cat", "/srv/data/precious"); got != "precious" {
		t.Errorf("what a link led to: %q", got)
	}
	r.do("rm", "-r", "/srv/data")
	if after := r.files(); !slices.Equal(before, after) {
		t.Errorf("left behind: %v\ngone: %v", missing(after, before), missing(before, after))
	}
	if after := r.do("cat", "/etc/passwd", "/etc/group"); after != users {
		t.Errorf("the users were\n%s\nand are\n%s", users, after)
	}
}

// missing gives those of a that b does not have.
func missing(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// Where systemd is, its own tools read our entries.
func TestSystemdReadsTheEntriesForUsersAndDirectories(t *testing.T) {
	root := unpacked(t, pkg(t, *dist, "_amd64.deb"))
	do(t, "systemd-sysusers", "--root="+root)
	if got := do(t, "cat", root+"/etc/passwd"); !strings.Contains(got, "gatewarden-gateway:x:64990:64990:Gateways of gatewarden:/:/usr/sbin/nologin") {
		t.Errorf("systemd-sysusers makes of it:\n%s", got)
	}
	do(t, "sh", "-c", `rmdir "$1"/var/lib/gatewarden "$1"/var/log/gatewarden`, "sh", root)
	do(t, "systemd-tmpfiles", "--root="+root, "--create", root+"/usr/lib/tmpfiles.d/gatewarden.conf")
	for _, dir := range []string{"/run/gatewarden", "/var/lib/gatewarden", "/var/log/gatewarden"} {
		if got := strings.TrimSpace(do(t, "stat", "-c", "%a %u %g", root+dir)); got != "700 0 0" {
			t.Errorf("%s is %s", dir, got)
		}
	}
	r := try(t, nil, "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", "--root="+root, "gatewarden-metrics.service")
	if r.status != 0 || strings.Contains(r.stderr, "gatewarden-metrics.service:") {
		t.Error(r)
	}
}
