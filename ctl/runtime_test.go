package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/oci"
)

// engineRoot makes a directory that is root's alone, as "/" is, with the programs and with profiles of these [select] tables.
func engineRoot(t *testing.T, profiles map[string]string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "gwc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, program := range []string{"/usr/libexec/gatewarden/gatewarden-hook", "/usr/bin/" + shimName} {
		write(t, filepath.Join(dir, program), "", 0o755)
	}
	for name, selected := range profiles {
		write(t, filepath.Join(dir, "/etc/gatewarden/gateways.d", name+".toml"), "version = 1\n[gateway]\ncommand = [\"/bin/gw\"]\nuser = 64990\ngroup = 64990\n[ready]\nnone = true\n"+selected, 0o644)
	}
	return dir
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func TestAnEngineIsConfiguredWithADiffAndWhatItNeeds(t *testing.T) {
	root := engineRoot(t, nil)
	path := filepath.Join(root, "/etc/docker/daemon.json")
	write(t, path, "{\n  \"debug\": true\n}\n", 0o600)
	args := []string{"runtime", "configure", "docker", "--root", root, "--shim", "/usr/bin/" + shimName}

	want := "--- " + path + "\n+++ " + path + `
@@ -1,3 +1,8 @@
 {
-  "debug": true
+  "debug": true,
+  "runtimes": {
+    "gatewarden": {
+      "runtimeType": "/usr/bin/containerd-shim-gatewarden-v2"
+    }
+  }
 }
`
	exit, stdout, stderr := command(t, append(args, "--dry-run")...)
	if exit != code.ExitOK || stderr != "" || stdout != want+"next: systemctl reload docker\n" {
		t.Errorf("exit %d, %q:\n%s", exit, stderr, stdout)
	}
	if data, _ := os.ReadFile(path); strings.Contains(string(data), "gatewarden") {
		t.Errorf("a dry run writes:\n%s", data)
	}
	exit, stdout, stderr = command(t, args...)
	if exit != code.ExitOK || stderr != "" || stdout != want+path+": changed\nnext: systemctl reload docker\n" {
		t.Errorf("exit %d, %q:\n%s", exit, stderr, stdout)
	}
	if exit, stdout, _ = command(t, args...); exit != code.ExitOK || stdout != "nothing to do for docker\n" {
		t.Errorf("exit %d:\n%s", exit, stdout)
	}
	exit, stdout, _ = command(t, "runtime", "unconfigure", "docker", "--root", root, "--json")
	var report struct {
		Engine, Action string
		DryRun         bool `json:"dry_run"`
		Changed        bool
		Files          []runtimeFile
		Notes, Next    []string
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || exit != code.ExitOK {
		t.Fatalf("exit %d, %v:\n%s", exit, err, stdout)
	}
	if report.Engine != "docker" || report.Action != "unconfigure" || report.DryRun || !report.Changed || len(report.Files) != 1 ||
		report.Files[0].Path != path || report.Files[0].Action != "change" || !strings.Contains(report.Files[0].Diff, "-    \"gatewarden\": {\n") ||
		report.Notes == nil || len(report.Next) != 1 {
		t.Errorf("%+v", report)
	}
	if data, _ := os.ReadFile(path); string(data) != "{\n  \"debug\": true\n}\n" {
		t.Errorf("left:\n%s", data)
	}
}

func TestAnEngineThatCannotBeConfiguredIsRefused(t *testing.T) {
	root := engineRoot(t, nil)
	write(t, filepath.Join(root, "/etc/docker/daemon.json"), "{\n", 0o600)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"docker", "--shim", "/usr/bin/" + shimName}, "daemon.json:2:1: not valid JSON: it ends too early"},
		{[]string{"docker", "--shim", "/opt/shim"}, "there is no " + root + "/opt/shim, which the engine would run"},
		{[]string{"podman", "--cdi", "--profile", "web"}, "profile web cannot be a device: no profile named web"},
		{[]string{"podman", "--cdi"}, "say which are devices with --profile NAME"},
	} {
		exit, stdout, stderr := command(t, append([]string{"runtime", "configure", "--root", root}, test.args...)...)
		if exit != code.ExitRefused || stdout != "" || !strings.HasPrefix(stderr, "gatewarden: cannot configure ") || !strings.Contains(stderr, test.want) {
			t.Errorf("%q: exit %d, %q, %s", test.args, exit, stdout, stderr)
		}
		exit, stdout, _ = command(t, append([]string{"runtime", "configure", "--json", "--root", root}, test.args...)...)
		var report struct{ Error struct{ Message string } }
		if err := json.Unmarshal([]byte(stdout), &report); err != nil || exit != code.ExitRefused || !strings.Contains(report.Error.Message, test.want) {
			t.Errorf("%q: exit %d, %s", test.args, exit, stdout)
		}
	}
	for _, args := range [][]string{
		{"runtime"}, {"runtime", "configure"}, {"runtime", "change", "docker"}, {"runtime", "configure", "docker", "podman"}, {"runtime", "configure", "docker", "--root", "x"}, {"runtime", "configure", "lxc"},
		{"runtime", "configure", "docker", "--profile", "web"}, {"runtime", "unconfigure", "docker", "--cdi", "--profile", "web"}, {"runtime", "configure", "docker", "--cdi", "--profile", "../x"},
		{"cdi"}, {"cdi", "make"}, {"cdi", "generate", "x"}, {"cdi", "generate", "--output", "x"},
	} {
		if exit, _, stderr := command(t, args...); exit != code.ExitUsage || !strings.Contains(stderr, "(usage)\n") {
			t.Errorf("%q: exit %d, %s", args, exit, stderr)
		}
	}
}

func TestWithoutAWordOfTheAdministratorOnlyProfilesThatAnybodyMayChooseAreDevices(t *testing.T) {
	root := engineRoot(t, map[string]string{
		"open": "[select]\nannotation = true\n", "other": "[select]\nannotation = true\nnamespaces = [\"k8s.io\"]\n", "closed": "",
		"odd.": "[select]\nannotation = true\n", "broken": "[select]\nannotaion = true\n",
	})
	names := func(stdout string) (names []string) {
		var spec struct {
			Kind    string `json:"kind"`
			Devices []struct {
				Name string `json:"name"`
			} `json:"devices"`
		}
		if err := json.Unmarshal([]byte(stdout), &spec); err != nil || spec.Kind != oci.CDIKind {
			t.Fatalf("%v: %s", err, stdout)
		}
		for _, d := range spec.Devices {
			names = append(names, d.Name)
		}
		return names
	}
	exit, stdout, stderr := command(t, "cdi", "generate", "--root", root)
	if got := names(stdout); exit != code.ExitOK || strings.Join(got, " ") != "open" {
		t.Errorf("exit %d, %q", exit, got)
	}
	if strings.Count(stderr, "note: ") != 2 || !strings.Contains(stderr, "profile broken is left out: ") || !strings.Contains(stderr, "profile odd. is left out: a device's name ends") {
		t.Errorf("%s", stderr)
	}
	exit, stdout, stderr = command(t, "cdi", "generate", "--root", root, "--profile", "closed", "--profile", "other")
	if got := names(stdout); exit != code.ExitOK || strings.Join(got, " ") != "closed other" || stderr != "" {
		t.Errorf("exit %d, %q, %s", exit, got, stderr)
	}
	for name, want := range map[string]string{"broken": "annotaion", "odd.": "ends with a letter or digit", "none": "no profile named none"} {
		exit, stdout, stderr = command(t, "cdi", "generate", "--root", root, "--profile", name)
		if exit != code.ExitRefused || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %q, %s", name, exit, stdout, stderr)
		}
	}
	exit, stdout, _ = command(t, "cdi", "generate", "--root", root, "--profile", "closed", "--output", "/etc/cdi/x.json")
	data, err := os.ReadFile(root + "/etc/cdi/x.json")
	if exit != code.ExitOK || err != nil || strings.Join(names(string(data)), " ") != "closed" || stdout != root+"/etc/cdi/x.json: written, devices: closed\n" {
		t.Errorf("exit %d, %v, %s", exit, err, stdout)
	}
}

func TestTheHookIsCalledWithTheSettingsThatTheCommandHas(t *testing.T) {
	for path, want := range map[string]string{"": "", "/etc/gatewarden/config.toml": "", "/srv/gw.toml": "--config /srv/gw.toml"} {
		if got := strings.Join(hookArgs(path), " "); got != want {
			t.Errorf("%q: %q", path, got)
		}
	}
}
