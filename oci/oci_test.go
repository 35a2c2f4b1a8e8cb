package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	runcState = `{"ociVersion":"1.3.0","id":"web","status":"creating","pid":4711,"bundle":"/run/containerd/io.containerd.runtime.v2.task/default/web","annotations":{"io.gatewarden.gateway":"demo"}}`
	crunState = `{"ociVersion":"1.0","id":"web","pid":4711,"root":"/var/lib/x/merged","bundle":"/var/lib/x","status":"created","annotations":{}}`
	stopState = `{"ociVersion":"1.3.0","id":"web","status":"stopped","bundle":"/b"}`
)

func TestTheStateOfBothRuntimesIsRead(t *testing.T) {
	tests := []struct {
		name  string
		input string
		stage Stage
		want  State
	}{
		{"runc", runcState, CreateRuntime, State{
			Version: "1.3.0", ID: "web", Status: "creating", PID: 4711, Bundle: "/run/containerd/io.containerd.runtime.v2.task/default/web",
			Annotations: map[string]string{GatewayAnnotation: "demo"},
		}},
		{"crun", crunState, CreateRuntime, State{
			Version: "1.0", ID: "web", Status: "created", PID: 4711, Bundle: "/var/lib/x", Root: "/var/lib/x/merged", Annotations: map[string]string{},
		}},
		{"poststop has no pid", stopState, Poststop, State{Version: "1.3.0", ID: "web", Status: "stopped", Bundle: "/b"}},
		{"null annotations, unknown members, an unclean bundle", `{"id":"a","pid":1,"bundle":"/b//c/","annotations":null,"new":[{}]}`, CreateRuntime,
			State{ID: "a", PID: 1, Bundle: "/b/c"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ReadState(strings.NewReader(test.input), test.stage)
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestABadStateIsRefusedWithItsReason(t *testing.T) {
	tests := map[string]struct{ input, want string }{
		"nothing":         {"", "it is empty"},
		"not JSON":        {"web", "invalid character"},
		"a list":          {"[]", "cannot unmarshal array"},
		"more after it":   {runcState + "{}", "after top-level value"},
		"no id":           {`{"pid":1,"bundle":"/b"}`, `id "" is not`},
		"id that climbs":  {`{"id":"..","pid":1,"bundle":"/b"}`, `id ".." is not`},
		"id with a slash": {`{"id":"a/b","pid":1,"bundle":"/b"}`, `id "a/b" is not`},
		"id with escapes": {`{"id":"a\u001b[2J","pid":1,"bundle":"/b"}`, "is not a container's name"},
		"no bundle":       {`{"id":"a","pid":1}`, "no bundle"},
		"relative bundle": {`{"id":"a","pid":1,"bundle":"b"}`, "not an absolute path"},
		"no pid":          {`{"id":"a","bundle":"/b"}`, "needs the container's init"},
		"negative pid":    {`{"id":"a","pid":-1,"bundle":"/b"}`, "pid -1"},
		"huge pid":        {`{"id":"a","pid":99999999999999999999,"bundle":"/b"}`, "cannot unmarshal number"},
		"too long":        {`{"id":"` + strings.Repeat("a", MaxState) + `"}`, "longer than"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ReadState(strings.NewReader(test.input), CreateRuntime)
			if err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 1000 {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAnAnnotationOnlyNamesAProfile(t *testing.T) {
	if name, err := Gateway(map[string]string{"other": "x"}); name != "" || err != nil {
		t.Errorf("without the annotation: %q, %v", name, err)
	}
	for _, good := range []string{"demo", "0", "a.b-c_d", strings.Repeat("a", 63)} {
		if name, err := Gateway(map[string]string{GatewayAnnotation: good}); name != good || err != nil {
			t.Errorf("%q: %q, %v", good, name, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "../x", "a/b", "A", "-a", "a b", "a\n", "a\x00", strings.Repeat("a", 64), "/etc/passwd", "é"} {
		if name, err := Gateway(map[string]string{GatewayAnnotation: bad}); name != "" || err == nil {
			t.Errorf("%q: %q, %v", bad, name, err)
		}
	}
}

func TestHooksAreAddedAfterOthersAndOnce(t *testing.T) {
	cni := specs.Hook{Path: "/usr/bin/nerdctl", Args: []string{"nerdctl", "internal", "oci-hook", "createRuntime"}}
	spec := &specs.Spec{Hooks: &specs.Hooks{CreateRuntime: []specs.Hook{cni}}}
	AddHooks(spec, "/opt/gatewarden-hook", []string{"--config", "/c.toml"})
	AddHooks(spec, "/opt/gatewarden-hook", []string{"--config", "/other.toml"})

	timeout := HookTimeout
	hook := func(stage string) specs.Hook {
		return specs.Hook{
			Path: "/opt/gatewarden-hook", Args: []string{"gatewarden-hook", stage, "--config", "/c.toml"},
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Timeout: &timeout,
		}
	}
	want := &specs.Hooks{CreateRuntime: []specs.Hook{cni, hook("createRuntime")}, Poststop: []specs.Hook{hook("poststop")}}
	if !reflect.DeepEqual(spec.Hooks, want) {
		t.Errorf("got %+v", spec.Hooks)
	}
}

// bundle makes a bundle with that config.json.
func bundle(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ConfigName), []byte(config), 0o640); err != nil {
		t.Fatal(err)
	}
	return dir
}

func addHooks(spec *specs.Spec) error {
	AddHooks(spec, "/opt/gatewarden-hook", nil)
	return nil
}

func TestAnEditKeepsWhatItDoesNotKnow(t *testing.T) {
	dir := bundle(t, `{
		"ociVersion": "9.9.9", "unknown": {"x": 1.10, "big": 123456789012345678901234567890},
		"process": {"args": ["a<b>&c"], "user": {"uid": 1000, "novel": true}, "cwd": "/", "later": [1e400]},
		"hooks": {"createRuntime": [{"path": "/first", "shiny": "yes"}], "beyond": [{"path": "/x"}]},
		"linux": {"resources": {"memory": {"limit": 9007199254740993}}}
	}`)
	if err := os.Chown(filepath.Join(dir, ConfigName), 1, 2); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	err := EditBundle(dir, func(spec *specs.Spec) error {
		spec.Process.Cwd = "/srv"
		return addHooks(spec)
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{
		`"unknown":{"x":1.10,"big":123456789012345678901234567890}`, `"novel":true`, `"later":[1e400]`, `"shiny":"yes"`, `"beyond":[{"path":"/x"}]`,
		`"limit":9007199254740993`, `"ociVersion":"9.9.9"`, `"cwd":"/srv"`,
	} {
		if !bytes.Contains(data, []byte(kept)) {
			t.Errorf("%s is not in %s", kept, data)
		}
	}
	spec, err := LoadSpec(dir)
	if err != nil {
		t.Fatal(err)
	}
	if h := spec.Hooks.CreateRuntime; len(h) != 2 || h[0].Path != "/first" || h[1].Path != "/opt/gatewarden-hook" || len(spec.Hooks.Poststop) != 1 || spec.Process.Args[0] != "a<b>&c" {
		t.Errorf("hooks are %+v", spec.Hooks)
	}
	st, err := os.Stat(filepath.Join(dir, ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	if sys := st.Sys().(*syscall.Stat_t); st.Mode() != 0o640 || sys.Uid != 1 || sys.Gid != 2 {
		t.Errorf("mode %v, owner %d:%d", st.Mode(), sys.Uid, sys.Gid)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestAddingHooksToABundleIsTheSameEdit(t *testing.T) {
	for _, config := range []string{
		`{}`, `{"hooks":null}`, `{"hooks":{}}`,
		`{"ociVersion":"1.3.0","process":{"cwd":"/","user":{"uid":1,"novel":2}},"hooks":{"createRuntime":[{"path":"/first","shiny":"yes"}],"beyond":[]},"linux":{"n":1.0}}`,
		`{"hooks":{"createRuntime":[{"path":"/opt/gatewarden-hook","args":["mine"]}]}}`,
	} {
		whole, part := bundle(t, config), bundle(t, config)
		if err := EditBundle(whole, addHooks); err != nil {
			t.Fatal(err)
		}
		if err := AddHooksToBundle(part, "/opt/gatewarden-hook", nil); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(whole, ConfigName))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(part, ConfigName)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s gives\n%s, %v, not\n%s", config, got, err, want)
		}
	}
	for _, config := range []string{
		`{"process":{"cwd":"/a"},"process":{"user":{"uid":1}}}`, `{"process":{},"Process":{}}`, `{"hooks":{},"Hooks":{}}`, `{"x":1,"x":1}`,
	} {
		dir := bundle(t, config)
		if err := AddHooksToBundle(dir, "/opt/gatewarden-hook", nil); err == nil || !strings.Contains(err.Error(), "ambiguous members") {
			t.Errorf("%s: got %v", config, err)
		}
	}
}

func TestPartsOfASpecificationReadAsTheWholeDoes(t *testing.T) {
	dir := bundle(t, `{"ociVersion":"1.3.0","process":{"args":["a"],"user":{"uid":7,"gid":8,"additionalGids":[9]},"noNewPrivileges":true,
		"capabilities":{"bounding":["CAP_KILL"]},"env":["A=b"],"cwd":"/w"},"root":{"path":"rootfs","readonly":true},
		"annotations":{"k":"v"},"linux":{"namespaces":[{"type":"pid","path":"/p"},{"type":"mount"}],"resources":{"pids":{"limit":3}}}}`)
	whole, err := LoadSpec(dir)
	if err != nil {
		t.Fatal(err)
	}
	part, err := LoadProcess(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(part.Process, whole.Process) || !reflect.DeepEqual(part.Root, whole.Root) ||
		!reflect.DeepEqual(part.Annotations, whole.Annotations) || !reflect.DeepEqual(part.Linux.Namespaces, whole.Linux.Namespaces) {
		t.Errorf("the parts read as %+v, the whole as %+v", part, whole)
	}
	annotations, err := LoadAnnotations(dir)
	if err != nil || !reflect.DeepEqual(annotations, whole.Annotations) {
		t.Errorf("the annotations read as %v, %v", annotations, err)
	}
	if spec, err := LoadProcess(bundle(t, `{}`)); err != nil || !reflect.DeepEqual(spec, &specs.Spec{}) {
		t.Errorf("an empty specification reads as %+v, %v", spec, err)
	}
}

func TestAnEditThatChangesNothingOrFailsLeavesTheFileAlone(t *testing.T) {
	const config = `{ "ociVersion" : "1.0.0" }`
	refused := errors.New("refused")
	for name, edit := range map[string]func(*specs.Spec) error{
		"nothing": func(*specs.Spec) error { return nil },
		"fails":   func(spec *specs.Spec) error { addHooks(spec); return refused },
	} {
		t.Run(name, func(t *testing.T) {
			dir := bundle(t, config)
			if err := EditBundle(dir, edit); err != nil && !errors.Is(err, refused) {
				t.Error(err)
			}
			if data, _ := os.ReadFile(filepath.Join(dir, ConfigName)); string(data) != config {
				t.Errorf("now %s", data)
			}
		})
	}
}

func TestAConfigThatIsNoPlainFileIsRefused(t *testing.T) {
	tests := map[string]func(path string) error{
		"is a symbolic link":    func(path string) error { return os.Symlink("/etc/hostname", path) },
		"is not a regular file": func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"no such file":          func(path string) error { return nil },
		"cannot parse":          func(path string) error { return os.WriteFile(path, []byte(`{"process":[]}`), 0o600) },
		"is larger than": func(path string) error {
			return os.WriteFile(path, append([]byte("{}"), bytes.Repeat([]byte(" "), MaxConfig)...), 0o600)
		},
		"ambiguous members": func(path string) error {
			return os.WriteFile(path, []byte(`{"process":{"cwd":"/a"},"process":{"user":{"uid":1}}}`), 0o600)
		},
	}
	for want, make := range tests {
		t.Run(want, func(t *testing.T) {
			dir := t.TempDir()
			if err := make(filepath.Join(dir, ConfigName)); err != nil {
				t.Fatal(err)
			}
			if err := EditBundle(dir, addHooks); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzState(f *testing.F) {
	for _, seed := range []string{runcState, crunState, stopState, "", "{}", `{"id":"a","pid":1,"bundle":"/b"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ReadState(bytes.NewReader(data), CreateRuntime)
		if err != nil {
			return
		}
		if !ValidID(s.ID) || strings.ContainsAny(s.ID, "/\x00\n\x1b") || s.PID <= 0 || !filepath.IsAbs(s.Bundle) || filepath.Clean(s.Bundle) != s.Bundle {
			t.Errorf("accepted %+v", s)
		}
	})
}

func FuzzEditSpec(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"hooks":null}`, `{"hooks":{"createRuntime":[{"path":"/a","x":1}]},"y":[1.0]}`, `{"Hooks":{},"hooks":{}}`, `{"process":{"user":{"uid":1}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		edited, err := editSpec("/b", data, addHooks)
		if err != nil {
			return
		}
		if edited == nil {
			edited = data
		}
		var before, after map[string]json.RawMessage
		if json.Unmarshal(data, &before) == nil && json.Unmarshal(edited, &after) == nil {
			for key, value := range before {
				if !strings.EqualFold(key, "hooks") && len(after[key]) == 0 {
					t.Errorf("%q: %s is lost in %s", key, value, edited)
				}
			}
		}
		spec, err := parse[specs.Spec]("/b", edited)
		if err != nil {
			t.Fatalf("%v in %s", err, edited)
		}
		again, err := editSpec("/b", edited, addHooks)
		if err != nil || again != nil {
			t.Errorf("a second edit gives %s, %v", again, err)
		}
		if h := spec.Hooks.CreateRuntime; h[len(h)-1].Path != "/opt/gatewarden-hook" && !strings.Contains(string(data), "gatewarden-hook") {
			t.Errorf("the hook is not last in %+v", h)
		}
	})
}

func TestAnEditOfTextIsThatOfABundle(t *testing.T) {
	const config = `{"ociVersion": "9.9.9", "unknown": [1.10], "hooks": {"beyond": [{"path": "/x"}]}}`
	dir := bundle(t, config)
	if err := EditBundle(dir, addHooks); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(dir, ConfigName))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := EditConfig([]byte(config), addHooks); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s, %v\nof the bundle: %s", got, err, want)
	}
	if got, err := EditConfig([]byte(config), func(*specs.Spec) error { return nil }); err != nil || string(got) != config {
		t.Errorf("an edit that changes nothing gives %s, %v", got, err)
	}
	for _, bad := range []string{"", "[]", `{"hooks": {}, "Hooks": {}}`, strings.Repeat(" ", MaxConfig) + "{}"} {
		if got, err := EditConfig([]byte(bad), addHooks); err == nil || got != nil || !strings.Contains(err.Error(), ConfigName) {
			t.Errorf("%.40q gives %.40q, %v", bad, got, err)
		}
	}
}
