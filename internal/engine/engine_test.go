package engine

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/sys/unix"
)

// files of a host, by their paths.
type files map[string]string

// host makes a directory with those files.
func host(t testing.TB, f files) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range f {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// found is every file below root.
func found(t testing.TB, root string) files {
	t.Helper()
	f := files{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		f[strings.TrimPrefix(path, root)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const (
	testShim = "/usr/bin/containerd-shim-gatewarden-v2"
	testHook = "/usr/libexec/gatewarden/gatewarden-hook"
)

func testOptions(root string) Options {
	return Options{Root: root, Shim: testShim, Hook: testHook}
}

// apply plans and does it.
func apply(t testing.TB, plan func(string, Options) (*Plan, error), name string, o Options) *Plan {
	t.Helper()
	p, err := plan(name, o)
	if err != nil {
		t.Fatal(err)
	}
	if done, err := p.Apply(); err != nil || len(done) != len(p.Changes) {
		t.Fatalf("%d of %d changes: %v", len(done), len(p.Changes), err)
	}
	return p
}

func differ(want, got files) string {
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(merge(want, got))) {
		b.Write(diff.Diff("want "+path, []byte(want[path]), "got "+path, []byte(got[path])))
	}
	return b.String()
}

func merge(a, b files) files {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

const importing = `version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
`

// debian is what Debian 12's containerd 1.6 comes with.
const debian = `version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd"
`

const like = `
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "crun"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun]
  runtime_type = "io.containerd.runc.v2"
  container_annotations = ["x.example/*"]
  cgroup_writable = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun.options]
    BinaryName = "/usr/bin/crun" # "quoted"
    SystemdCgroup = true
`

func sealedFile(engine, text string) string { return string(seal([]byte(text), engine)) }

// handlerV3 is the handler in a drop-in of version 3, without options.
const handlerV3 = `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.gatewarden]
container_annotations = ['io.gatewarden.*', 'io.gatewarden.*/*']
pod_annotations = ['io.gatewarden.*', 'io.gatewarden.*/*']
runtime_path = '/usr/bin/containerd-shim-gatewarden-v2'
runtime_type = 'io.containerd.runc.v2'
`

const handlerV2 = `[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gatewarden]
container_annotations = ['io.gatewarden.*', 'io.gatewarden.*/*']
pod_annotations = ['io.gatewarden.*', 'io.gatewarden.*/*']
runtime_path = '/usr/bin/containerd-shim-gatewarden-v2'
runtime_type = 'io.containerd.runc.v2'
`

const hooksConf = "hooks_dir = ['/usr/share/containers/oci/hooks.d', '/etc/containers/oci/hooks.d']\n"

func hooksFiles(t testing.TB, dir string) files {
	t.Helper()
	f := files{}
	for _, stage := range []string{"createRuntime", "poststop"} {
		f[dir+"/90-gatewarden-"+strings.ToLower(stage)+".json"] = `{
  "version": "1.0.0",
  "hook": {
    "path": "/usr/libexec/gatewarden/gatewarden-hook",
    "args": [
      "gatewarden-hook",
      "` + stage + `"
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
}
`
	}
	return f
}

func TestAnEngineIsSwitchedOnOnceAndOffWithoutATrace(t *testing.T) {
	const dropIn = "/etc/containerd/conf.d/99-gatewarden.toml"
	tests := []struct {
		name    string
		engine  string
		options func(*Options)
		before  files
		want    files // beside and instead of before
	}{
		{"containerd that imports drop-ins", "containerd", nil,
			files{"/etc/containerd/config.toml": importing},
			files{dropIn: sealedFile("containerd", "version = 3\n\n"+handlerV3)}},
		{"containerd that imports another directory", "containerd", nil,
			files{"/etc/containerd/config.toml": "version = 4\nimports = [\"/etc/one.toml\", \"more.d/*.toml\"]\n"},
			files{"/etc/containerd/more.d/99-gatewarden.toml": sealedFile("containerd", "version = 3\n\n"+handlerV3)}},
		{"containerd with a default handler of its own", "containerd", func(o *Options) { o.SetDefault = true },
			files{"/etc/containerd/config.toml": importing + like},
			files{dropIn: sealedFile("containerd", `version = 3

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = 'gatewarden'

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.gatewarden]
cgroup_writable = true
container_annotations = ['x.example/*', 'io.gatewarden.*', 'io.gatewarden.*/*']
pod_annotations = ['io.gatewarden.*', 'io.gatewarden.*/*']
runtime_path = '/usr/bin/containerd-shim-gatewarden-v2'
runtime_type = 'io.containerd.runc.v2'

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.gatewarden.options]
BinaryName = '/usr/bin/crun'
SystemdCgroup = true
`)}},
		{"containerd with an empty list of imports", "containerd", func(o *Options) { o.InPlace = true },
			files{"/etc/containerd/config.toml": "version = 3\r\n imports=[ ]  # none\r\nroot = '/x'"},
			files{"/etc/containerd/config.toml": "version = 3\r\nimports = [\"/etc/containerd/conf.d/*.toml\"] # gatewarden runtime configure; was:  imports=[ ]  # none\r\nroot = '/x'",
				dropIn: sealedFile("containerd", "version = 3\n\n"+handlerV3)}},
		{"containerd without imports", "containerd", func(o *Options) { o.InPlace = true },
			files{"/etc/containerd/config.toml": "version = 3\n[debug]\nlevel = \"info\""},
			files{"/etc/containerd/config.toml": string(block([]byte("imports = [\"/etc/containerd/conf.d/*.toml\"]\n"))) + "version = 3\n[debug]\nlevel = \"info\"",
				dropIn: sealedFile("containerd", "version = 3\n\n"+handlerV3)}},
		{"containerd 2 without a configuration", "containerd", func(o *Options) {
			o.Containerd = func() (string, error) {
				return "containerd github.com/containerd/containerd/v2 v2.4.2 deadbeef.m\n", nil
			}
		}, files{},
			files{"/etc/containerd/config.toml": sealedFile("containerd", importing), dropIn: sealedFile("containerd", "version = 3\n\n"+handlerV3)}},
		{"containerd 1 without a configuration", "containerd", func(o *Options) {
			o.Containerd = func() (string, error) {
				return "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3\n", nil
			}
		}, files{},
			files{"/etc/containerd/config.toml": sealedFile("containerd", "version = 2\n\n"+handlerV2)}},
		{"containerd 1 with Debian's configuration", "containerd", func(o *Options) { o.InPlace = true; o.SetDefault = true },
			files{"/etc/containerd/config.toml": debian},
			files{"/etc/containerd/config.toml": debian + string(block([]byte("[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = 'gatewarden'\n\n"+handlerV2)))}},
		{"containerd 1 with a last line that has no end", "containerd", func(o *Options) { o.InPlace = true },
			files{"/etc/containerd/config.toml": "version = 2"},
			files{"/etc/containerd/config.toml": "version = 2\n" + strings.Replace(string(block([]byte(handlerV2))), "\n", ", joined\n", 1)}},
		{"containerd elsewhere", "containerd", func(o *Options) { o.File = "/srv/containerd/config.toml"; o.InPlace = true },
			files{"/srv/containerd/config.toml": "version = 3\n"},
			files{"/srv/containerd/config.toml": string(block([]byte("imports = [\"/srv/containerd/conf.d/*.toml\"]\n"))) + "version = 3\n",
				"/srv/containerd/conf.d/99-gatewarden.toml": sealedFile("containerd", "version = 3\n\n"+handlerV3)}},
		{"podman", "podman", nil, files{},
			merge(hooksFiles(t, "/etc/containers/oci/hooks.d"), files{"/etc/containers/containers.conf.d/99-gatewarden.conf": sealedFile("podman", "[engine]\n"+hooksConf)})},
		{"podman that reads the administrator's hooks already", "podman", nil,
			files{"/etc/containers/containers.conf": "[engine]\n" + hooksConf}, hooksFiles(t, "/etc/containers/oci/hooks.d")},
		{"podman with directories of its own", "podman", nil,
			files{"/usr/share/containers/containers.conf": "[engine]\nhooks_dir = ['/a']\n", "/etc/containers/containers.conf.d/50-x.conf": "[engine]\nhooks_dir = ['/b', '/c']\n"},
			merge(hooksFiles(t, "/etc/containers/oci/hooks.d"), files{"/etc/containers/containers.conf.d/99-gatewarden.conf": sealedFile("podman", "[engine]\nhooks_dir = ['/b', '/c', '/etc/containers/oci/hooks.d']\n")})},
		{"CRI-O", "crio", nil, files{"/etc/crio/crio.conf": "[crio.runtime]\ndefault_runtime = \"crun\"\n"},
			merge(hooksFiles(t, "/etc/crio/hooks.d"), files{"/etc/crio/crio.conf.d/99-gatewarden.conf": sealedFile("crio", "[crio.runtime]\nhooks_dir = ['/usr/share/containers/oci/hooks.d', '/etc/crio/hooks.d']\n")})},
		{"docker without a configuration", "docker", func(o *Options) { o.SetDefault = true }, files{},
			files{"/etc/docker/daemon.json": `{
  "runtimes": {
    "gatewarden": {
      "runtimeType": "/usr/bin/containerd-shim-gatewarden-v2"
    }
  },
  "default-runtime": "gatewarden"
}
`}},
		{"docker in a hand of its own", "docker", func(o *Options) { o.SetDefault = true },
			files{"/etc/docker/daemon.json": "{\n\t\"z\": 1.50,\n\n\t\"runtimes\": {\n\t\t\"kata\": {\"path\": \"/k\"}\n\t},\n\t\"a\": [\"<>\"]\n}"},
			files{"/etc/docker/daemon.json": "{\n\t\"z\": 1.50,\n\n\t\"runtimes\": {\n\t\t\"kata\": {\"path\": \"/k\"},\n\t\t\"gatewarden\": {\n\t\t\t\"runtimeType\": \"/usr/bin/containerd-shim-gatewarden-v2\"\n\t\t}\n\t},\n\t\"a\": [\"<>\"],\n\t\"default-runtime\": \"gatewarden\"\n}"}},
		{"docker on one line", "docker", nil,
			files{"/etc/docker/daemon.json": `{"debug":true}`},
			files{"/etc/docker/daemon.json": `{"debug":true,"runtimes":{"gatewarden":{"runtimeType":"/usr/bin/containerd-shim-gatewarden-v2"}}}`}},
		{"docker on one line with spaces", "docker", nil,
			files{"/etc/docker/daemon.json": `{ "debug" : true, "runtimes" : {"x": {}} }`},
			files{"/etc/docker/daemon.json": `{ "debug" : true, "runtimes" : {"x": {}, "gatewarden": {"runtimeType":"/usr/bin/containerd-shim-gatewarden-v2"}} }`}},
		{"docker whose cgroups are systemd's", "docker", nil,
			files{"/etc/docker/daemon.json": `{"debug":true}`, "/run/systemd/system/x": "", "/sys/fs/cgroup/cgroup.controllers": ""},
			files{"/etc/docker/daemon.json": `{"debug":true,"runtimes":{"gatewarden":{"runtimeType":"/usr/bin/containerd-shim-gatewarden-v2","options":{"ConfigPath":"/etc/docker/gatewarden-runtime.toml"}}}}`,
				"/etc/docker/gatewarden-runtime.toml": sealedFile("docker", "SystemdCgroup = true\n")}},
		{"docker whose cgroups are not systemd's by its own word", "docker", nil,
			files{"/etc/docker/daemon.json": `{"exec-opts":["native.cgroupdriver=cgroupfs"]}`, "/run/systemd/system/x": "", "/sys/fs/cgroup/cgroup.controllers": ""},
			files{"/etc/docker/daemon.json": `{"exec-opts":["native.cgroupdriver=cgroupfs"],"runtimes":{"gatewarden":{"runtimeType":"/usr/bin/containerd-shim-gatewarden-v2"}}}`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := host(t, test.before)
			o := testOptions(root)
			if test.options != nil {
				test.options(&o)
			}
			apply(t, Configure, test.engine, o)
			if d := differ(merge(test.before, test.want), found(t, root)); d != "" {
				t.Errorf("configured:\n%s", d)
			}
			o.InPlace = false
			if p := apply(t, Configure, test.engine, o); len(p.Changes) > 0 || len(p.Next) > 0 {
				t.Errorf("the second time it does something: %+v", p)
			}
			if test.engine == "podman" || test.engine == "crio" {
				o.SetDefault = false
			}
			apply(t, Unconfigure, test.engine, o)
			if d := differ(test.before, found(t, root)); d != "" {
				t.Errorf("switched off:\n%s", d)
			}
			if p := apply(t, Unconfigure, test.engine, o); len(p.Changes) > 0 {
				t.Errorf("the second time it switches something off: %+v", p)
			}
		})
	}
}

func TestADifferentWishChangesWhatIsOurs(t *testing.T) {
	for engine, before := range map[string]files{
		"containerd": {"/etc/containerd/config.toml": debian}, "docker": {"/etc/docker/daemon.json": "{\"debug\": true}\n"}, "podman": {}, "crio": {},
	} {
		root := host(t, before)
		o := testOptions(root)
		o.InPlace = true
		apply(t, Configure, engine, o)
		o.Shim, o.Hook, o.HookArgs, o.InPlace = "/opt/containerd-shim-gatewarden-v2", "/opt/gatewarden-hook", []string{"--config", "/srv/c.toml"}, false
		if p := apply(t, Configure, engine, o); len(p.Changes) == 0 {
			t.Errorf("%s: nothing changes", engine)
		}
		for path, content := range found(t, root) {
			if strings.Contains(content, testShim) || strings.Contains(content, testHook) {
				t.Errorf("%s: %s still has the old program:\n%s", engine, path, content)
			}
		}
		apply(t, Unconfigure, engine, o)
		if d := differ(before, found(t, root)); d != "" {
			t.Errorf("%s:\n%s", engine, d)
		}
	}
}

func TestCDISpecificationsComeAndGoWithAnyEngine(t *testing.T) {
	for _, engine := range Names() {
		root := host(t, files{"/etc/containerd/config.toml": importing, "/etc/docker/daemon.json": "{\"features\": {\"buildkit\": true}}"})
		o := testOptions(root)
		o.CDI, o.Devices = true, []string{"web", "api"}
		apply(t, Configure, engine, o)
		f := found(t, root)
		if spec := f[CDIFile]; !strings.Contains(spec, `"kind": "gatewarden.io/gateway"`) || !strings.Contains(spec, `"name": "web"`) {
			t.Errorf("%s: %s", engine, spec)
		}
		if engine == "docker" && !strings.Contains(f["/etc/docker/daemon.json"], `"cdi": true`) {
			t.Errorf("docker does not look at CDI: %s", f["/etc/docker/daemon.json"])
		}
		o.CDI = false
		apply(t, Unconfigure, engine, o)
		if found(t, root)[CDIFile] == "" {
			t.Errorf("%s: the specification, which other engines read too, goes unasked", engine)
		}
		o.CDI = true
		apply(t, Unconfigure, engine, o)
		if found(t, root)[CDIFile] != "" {
			t.Errorf("%s: the specification is left", engine)
		}
	}
}

func TestImportsStayForOthersThatNeedThem(t *testing.T) {
	for _, before := range []files{{"/etc/containerd/config.toml": "version = 3\nimports = []\n"}, {"/etc/containerd/config.toml": "version = 3\n"}, {}} {
		root := host(t, before)
		o := testOptions(root)
		o.InPlace, o.Containerd = true, func() (string, error) { return "containerd v2.0.0", nil }
		apply(t, Configure, "containerd", o)
		main := found(t, root)["/etc/containerd/config.toml"]
		if err := os.WriteFile(filepath.Join(root, "/etc/containerd/conf.d/50-nvidia.toml"), []byte("version = 3\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		p := apply(t, Unconfigure, "containerd", o)
		f := found(t, root)
		if f["/etc/containerd/config.toml"] != main || f["/etc/containerd/conf.d/99-gatewarden.toml"] != "" || len(p.Notes) != 1 {
			t.Errorf("%v\n%+v", f, p.Notes)
		}
	}
}

// edit changes a file of root.
func edit(t *testing.T, root, path, old, new string) {
	t.Helper()
	path = filepath.Join(root, path)
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), old) {
		t.Fatalf("%v, no %q in:\n%s", err, old, data)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasEditedSinceIsLeftToItsEditor(t *testing.T) {
	for _, test := range []struct{ engine, path, old, new, want string }{
		{"containerd", "/etc/containerd/conf.d/99-gatewarden.toml", "io.gatewarden.*", "*", "was edited since"},
		{"containerd", "/etc/containerd/conf.d/99-gatewarden.toml", "# Written by gatewarden", "#", "gatewarden did not write it"},
		{"containerd", "/etc/containerd/config.toml", `conf.d/*.toml"]`, `x.d/*.toml", "y"]`, "line 2 of "},
		{"containerd", "/etc/containerd/config.toml", "was: imports = []", "was: imports = [1]", "line 2 of "},
		{"podman", "/etc/containers/oci/hooks.d/90-gatewarden-poststop.json", `"timeout": 30`, `"timeout": 3`, "is not what gatewarden writes"},
		{"podman", "/etc/containers/oci/hooks.d/90-gatewarden-createruntime.json", `"hook"`, `"x": 1, "hook"`, "is not what gatewarden writes"},
		{"crio", "/etc/crio/crio.conf.d/99-gatewarden.conf", "hooks_dir", "# hooks_dir", "was edited since"},
		{"docker", "/etc/docker/daemon.json", "/usr/bin/containerd-shim-gatewarden-v2", "/usr/bin/containerd-shim-other", "is not what gatewarden writes"},
		{"docker", "/etc/docker/daemon.json", `"runtimeType"`, `"runtimeArgs": [], "runtimeType"`, "is not what gatewarden writes"},
	} {
		root := host(t, files{"/etc/containerd/config.toml": "version = 3\nimports = []\n", "/etc/docker/daemon.json": "{}"})
		o := testOptions(root)
		o.InPlace = true
		apply(t, Configure, test.engine, o)
		edit(t, root, test.path, test.old, test.new)
		before := found(t, root)
		for name, plan := range map[string]func(string, Options) (*Plan, error){"configure": Configure, "unconfigure": Unconfigure} {
			p, err := plan(test.engine, o)
			if err == nil || p != nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), filepath.Join(root, test.path)) {
				t.Errorf("%s, %s, %q → %q: %v", name, test.path, test.old, test.new, err)
			}
		}
		if d := differ(before, found(t, root)); d != "" {
			t.Errorf("it was written nevertheless:\n%s", d)
		}
	}
	root := host(t, files{"/etc/containerd/config.toml": debian})
	o := testOptions(root)
	o.InPlace = true
	apply(t, Configure, "containerd", o)
	for _, e := range [][2]string{{"io.gatewarden.*", "*"}, {"# BEGIN", "#BEGIN"}, {"# END gatewarden", "#"}} {
		again := host(t, found(t, root))
		edit(t, again, "/etc/containerd/config.toml", e[0], e[1])
		if _, err := Unconfigure("containerd", testOptions(again)); err == nil || !strings.Contains(err.Error(), "was edited since") {
			t.Errorf("%q: %v", e, err)
		}
	}
}

func TestWhatCannotBeDoneIsRefusedWithWhatToDo(t *testing.T) {
	const main, daemon = "/etc/containerd/config.toml", "/etc/docker/daemon.json"
	ours := func(o *Options) { o.InPlace = true; o.SetDefault = true }
	for _, test := range []struct {
		engine  string
		options func(*Options)
		before  files
		want    string
	}{
		{"lxc", nil, files{}, "no engine that gatewarden can configure; there are containerd, crio, podman, docker"},
		{"containerd", nil, files{main: "version = 3\n"}, "repeat this with --in-place:\n\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n"},
		{"containerd", nil, files{main: debian}, "repeat this with --in-place:\n\n" + handlerV2},
		{"containerd", ours, files{main: "version = 3\nimports = [\"/etc/one.toml\"]\n"}, `add "/etc/containerd/conf.d/*.toml" to its imports`},
		{"containerd", ours, files{main: "version = 3\nimports = [\n]\n"}, "add it yourself, above the first table: imports = "},
		{"containerd", ours, files{main: "version = 3\nimports = 1\n"}, "to its imports"},
		{"containerd", ours, files{main: "disabled_plugins = [\"cri\"]\n"}, "is of version 1"},
		{"containerd", ours, files{main: "version = \"3\"\n"}, "version is not a number"},
		{"containerd", ours, files{main: "version = 3\nroot == 1\n"}, "config.toml:2:"},
		{"containerd", ours, files{main: debian + "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n"}, "leave --set-default out"},
		{"containerd", ours, files{main: debian + "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.gatewarden]\nruntime_type = \"x\"\n"}, "gatewarden did not write"},
		{"containerd", ours, files{main: "version = 2\nplugins = {}\n"}, "cannot stand at the end"},
		{"containerd", ours, files{}, "write one with version = 3 in it"},
		{"containerd", func(o *Options) { o.Containerd = func() (string, error) { return "", errors.New("not found") } }, files{}, "does not tell its version (not found)"},
		{"containerd", func(o *Options) { o.Containerd = func() (string, error) { return "containerd v9.9", nil } }, files{}, `"containerd v9.9"`},
		{"podman", ours, files{}, "leave out --set-default"},
		{"crio", nil, files{"/etc/crio/crio.conf.d/zz.conf": "[crio.runtime]\nhooks_dir = []\n"}, `zz.conf is read after `},
		{"crio", nil, files{"/etc/crio/crio.conf": "[crio.runtime]\nhooks_dir = \"x\"\n"}, "crio.runtime.hooks_dir is not an array of strings"},
		{"podman", nil, files{"/etc/containers/containers.conf": "[engine\n"}, "containers.conf:1:"},
		{"docker", nil, files{daemon: "{\n  \"a\": 1,\n}"}, "daemon.json:3:1: not valid JSON"},
		{"docker", nil, files{daemon: "{\"a\": 1"}, "daemon.json:1:8: not valid JSON: it ends too early"},
		{"docker", nil, files{daemon: ""}, "daemon.json:1:1: not valid JSON: it ends too early"},
		{"docker", nil, files{daemon: "[]"}, "not valid JSON"},
		{"docker", nil, files{daemon: "null"}, "null"},
		{"docker", nil, files{daemon: "{} {}"}, "something follows"},
		{"docker", nil, files{daemon: `{"runtimes": {}, "Runtimes": {}}`}, `"Runtimes" twice`},
		{"docker", nil, files{daemon: `{"Runtimes": {}}`}, `write it "runtimes"`},
		{"docker", nil, files{daemon: `{"runtimes": []}`}, "runtimes: it is not an object"},
		{"docker", ours, files{daemon: `{"default-runtime": "kata"}`}, `default-runtime in`},
		{"docker", func(o *Options) { o.CDI, o.Devices = true, []string{"a"} }, files{daemon: `{"features": {"cdi": false}}`}, "somebody has switched CDI off"},
		{"docker", nil, files{daemon: `{"exec-opts": "x"}`}, "exec-opts is not an array"},
	} {
		root := host(t, test.before)
		o := testOptions(root)
		if test.options != nil {
			test.options(&o)
		}
		p, err := Configure(test.engine, o)
		if err == nil || p != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s with %v: %v", test.engine, test.before, err)
		}
	}
	root := host(t, files{main: importing + "[plugins.\"io.containerd.cri.v1.runtime\".containerd]\ndefault_runtime_name = \"gatewarden\"\n"})
	if _, err := Unconfigure("containerd", testOptions(root)); err == nil || !strings.Contains(err.Error(), "change it first") {
		t.Errorf("the default handler would be one that is not there: %v", err)
	}
}

func TestOnlyRegularFilesAreReplaced(t *testing.T) {
	root := host(t, files{"/elsewhere": importing})
	path := filepath.Join(root, "/etc/containerd/config.toml")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(root, "elsewhere"), path); err != nil {
		t.Fatal(err)
	}
	if _, err := Configure("containerd", testOptions(root)); err == nil || !strings.Contains(err.Error(), "is a symbolic link") {
		t.Errorf("a link: %v", err)
	}
	if err := Replace(path, nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a link: %v", err)
	}
	os.Remove(path)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Configure("containerd", testOptions(root)); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a FIFO: %v", err)
	}
	os.Remove(path)
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Configure("containerd", testOptions(root)); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("a long file: %v", err)
	}
}

func TestAFileKeepsItsOwnerAndMode(t *testing.T) {
	root := host(t, files{"/etc/docker/daemon.json": "{}"})
	path := filepath.Join(root, "/etc/docker/daemon.json")
	if err := errors.Join(os.Chown(path, 7, 8), os.Chmod(path, 0o640)); err != nil {
		t.Fatal(err)
	}
	apply(t, Configure, "docker", testOptions(root))
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Uid != 7 || st.Gid != 8 || st.Mode&0o7777 != 0o640 {
		t.Errorf("%d:%d, mode %o, %v", st.Uid, st.Gid, st.Mode, err)
	}
	if f := found(t, root); len(f) != 1 {
		t.Errorf("more than the file is there: %v", f)
	}
}

func TestAFileThatChangesMeanwhileIsNotOverwritten(t *testing.T) {
	root := host(t, files{"/etc/docker/daemon.json": "{}"})
	p, err := Configure("docker", testOptions(root))
	if err != nil {
		t.Fatal(err)
	}
	edit(t, root, "/etc/docker/daemon.json", "{}", `{"debug": true}`)
	if done, err := p.Apply(); err == nil || len(done) != 0 || !strings.Contains(err.Error(), "try again") {
		t.Errorf("%v, %v", done, err)
	}
	if f := found(t, root); f["/etc/docker/daemon.json"] != `{"debug": true}` {
		t.Errorf("%v", f)
	}
}

func TestAFailureSaysWhatWasDoneBefore(t *testing.T) {
	root := host(t, files{})
	p, err := Configure("crio", testOptions(root))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "/etc/crio"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "/etc/crio/crio.conf.d"), nil, 0o644); err != nil { // where a directory has to be
		t.Fatal(err)
	}
	done, err := p.Apply()
	if err == nil || len(done) != 2 || !strings.Contains(err.Error(), "cannot create "+filepath.Join(root, "/etc/crio/crio.conf.d/99-gatewarden.conf")) {
		t.Errorf("%v, %v", done, err)
	}
}
