package engine

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

// onOff configures and unconfigures an engine that has that one file, and checks that everything is as it was in between and
// afterwards. was gives back content as a reader takes it.
func onOff(t *testing.T, engine, path string, data []byte, between func(t *testing.T, with []byte), same func(t *testing.T, after []byte)) {
	root := host(t, files{path: string(data)})
	o := testOptions(root)
	o.InPlace = true
	p, err := Configure(engine, o)
	if err != nil {
		return
	}
	if _, err := p.Apply(); err != nil {
		t.Fatal(err)
	}
	between(t, []byte(found(t, root)[path]))
	if p, err := Configure(engine, o); err != nil || len(p.Changes) > 0 {
		t.Fatalf("again: %v, %v", p, err)
	}
	p, err = Unconfigure(engine, o)
	if err != nil {
		t.Fatalf("%q is configured and cannot be unconfigured: %v", data, err)
	}
	if _, err := p.Apply(); err != nil {
		t.Fatal(err)
	}
	same(t, []byte(found(t, root)[path]))
}

func FuzzContainerdConfiguration(f *testing.F) {
	for _, seed := range []string{importing, importing + like, debian, "version = 3\nimports = []\n", "version = 2", "version = 3\n[a]\nimports=[]", "version = 3\nx = '''\nimports = []\n'''"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<12 || bytes.Contains(data, []byte("gatewarden")) {
			return
		}
		onOff(t, "containerd", "/etc/containerd/config.toml", data, func(t *testing.T, with []byte) {
			if _, err := decodeTOML("with", with); err != nil {
				t.Errorf("%q becomes %q: %v", data, with, err)
			}
		}, func(t *testing.T, after []byte) {
			if !bytes.Equal(after, data) {
				t.Errorf("%q is %q afterwards", data, after)
			}
		})
	})
}

func FuzzContainerdBlocks(f *testing.F) {
	f.Add([]byte(debian), []byte("a = 1\n"))
	f.Add(appendBlock([]byte("x"), []byte("y\n")), []byte("a\n"))
	f.Add([]byte("version = 3\nimports = [\"/c/*.toml\"]"+importNote+"imports = []\n"), []byte("\n"))
	f.Fuzz(func(t *testing.T, data, text []byte) {
		// Whatever is there, what is ours is found or refused, and never more than that is taken away.
		rest, found, err := withoutBlock("f", data)
		if err == nil && len(rest)+len(found) > len(data) {
			t.Errorf("%q: %q, %q", data, rest, found)
		}
		if rest, was, err := withoutImport("f", data); err == nil && was != nil && !bytes.Contains(rest, was) {
			t.Errorf("%q: %q, %q", data, rest, was)
		}
		sealed(data, "containerd")
		if bytes.Contains(data, []byte("gatewarden")) || bytes.Contains(text, []byte("gatewarden")) || len(text) == 0 || text[len(text)-1] != '\n' {
			return
		}
		rest, found, err = withoutBlock("f", appendBlock(data, text))
		if err != nil || !bytes.Equal(rest, data) || len(found) == 0 {
			t.Errorf("%q with %q: %q, %q, %v", data, text, rest, found, err)
		}
	})
}

func FuzzDockerConfiguration(f *testing.F) {
	for _, seed := range []string{`{}`, `{"runtimes": {}}`, "{\n\t\"a\": {\"b\": [1.0, 2e400]},\n\t\"runtimes\": {\n\t\t\"x\": {}\n\t}\n}\n", `{"runtimes":{"gatewarden":{"runtimeType":"/containerd-shim-gatewarden-v2"}},"default-runtime":"gatewarden"}`} {
		f.Add([]byte(seed))
	}
	members := func(t *testing.T, data []byte) map[string]json.RawMessage {
		m := map[string]json.RawMessage{}
		if len(data) > 0 {
			if err := json.Unmarshal(data, &m); err != nil {
				t.Fatalf("%q: %v", data, err)
			}
		}
		return m
	}
	f.Add([]byte(`{"a" : 1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<12 || bytes.Contains(data, []byte("gatewarden")) {
			return
		}
		others := func(t *testing.T, data []byte) map[string]json.RawMessage {
			m := members(t, data)
			delete(m, "runtimes")
			return m
		}
		onOff(t, "docker", "/etc/docker/daemon.json", data, func(t *testing.T, with []byte) {
			if !reflect.DeepEqual(others(t, data), others(t, with)) {
				t.Errorf("%q becomes %q", data, with)
			}
			was, _ := getJSON(data, "runtimes")
			now, err := getJSON(with, "runtimes")
			m := members(t, now)
			delete(m, handler)
			if err != nil || !reflect.DeepEqual(members(t, was), m) {
				t.Errorf("%q becomes %q, %v", data, with, err)
			}
		}, func(t *testing.T, after []byte) {
			was, now := members(t, data), members(t, after)
			if emptyObject(was["runtimes"]) { // may be taken for what configure made
				delete(was, "runtimes")
			}
			if !reflect.DeepEqual(was, now) {
				t.Errorf("%q is %q afterwards", data, after)
			}
		})
	})
}

func FuzzHooksConfiguration(f *testing.F) {
	f.Add([]byte("[engine]\nhooks_dir = ['/a', \"/b\\n\"]\n"))
	f.Add([]byte("engine = 1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<12 {
			return
		}
		onOff(t, "podman", "/etc/containers/containers.conf", data, func(*testing.T, []byte) {}, func(t *testing.T, after []byte) {
			if !bytes.Equal(after, data) {
				t.Errorf("%q is %q afterwards", data, after)
			}
		})
	})
}

func FuzzOwnDocuments(f *testing.F) {
	for _, content := range hooksFiles(f, "") {
		f.Add([]byte(content))
	}
	f.Add([]byte(`{"devices":[{"containerEdits":{"hooks":[null]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		isCDI("", data)
		for _, stage := range stages {
			if isHooks("90-gatewarden-"+string(stage)+".json", data) && !json.Valid(data) {
				t.Errorf("%q is not JSON", data)
			}
		}
	})
}
