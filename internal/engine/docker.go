package engine

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Where dockerd has its configuration: dockerd(8). dockerOptions is ours: the runtime's options, which dockerd takes for
// other runtime types than runc's from a file only.
const (
	dockerFile    = "/etc/docker/daemon.json"
	dockerOptions = "/etc/docker/gatewarden-runtime.toml"
)

// dockerRuntime is ours in daemon.json. dockerd 23 and later have runtimeType, and take a path for it.
type dockerRuntime struct {
	RuntimeType string               `json:"runtimeType"`
	Options     *dockerRuntimeConfig `json:"options,omitempty"`
}

type dockerRuntimeConfig struct {
	ConfigPath string `json:"ConfigPath"`
}

// mayBeOurs tells whether a runtime of our name is one that we would write, for whatever shim.
func (r dockerRuntime) mayBeOurs() bool {
	return strings.HasPrefix(filepath.Base(r.RuntimeType), "containerd-shim-gatewarden-") && filepath.IsAbs(r.RuntimeType) &&
		(r.Options == nil || r.Options.ConfigPath == dockerOptions)
}

func (p *planner) configureDocker() error {
	path := p.file(dockerFile)
	before, err := p.readDocker(path)
	if err != nil {
		return err
	}
	doc := before
	if doc == nil {
		doc = []byte("{}\n")
	}
	runtime := dockerRuntime{RuntimeType: p.Shim}
	options, err := own(p.path(dockerOptions), "docker")
	if err != nil {
		return err
	}
	systemd, err := p.dockerUsesSystemd(path, doc)
	if err != nil {
		return err
	}
	if systemd {
		runtime.Options = &dockerRuntimeConfig{dockerOptions}
		p.change(p.path(dockerOptions), options, seal([]byte("SystemdCgroup = true\n"), "docker"))
	}
	if doc, err = setJSON(doc, runtime, "runtimes", handler); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	reload := "systemctl reload docker"
	if p.SetDefault {
		if doc, err = p.dockerDefault(path, doc); err != nil {
			return err
		}
	}
	if p.CDI {
		// From docker 28.3 on CDI is on unless somebody says no.
		if said, err := getJSON(doc, "features", "cdi"); err != nil || string(said) == "false" {
			return cmp.Or(err, fmt.Errorf("features.cdi in %s is false: somebody has switched CDI off; take that out first, or leave out --cdi", path))
		}
		if doc, err = setJSON(doc, true, "features", "cdi"); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		dirs, err := getJSON(doc, "cdi-spec-dirs")
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		var list []string
		if dirs != nil && (json.Unmarshal(dirs, &list) != nil || !slices.Contains(list, filepath.Dir(CDIFile))) {
			p.note("cdi-spec-dirs in %s does not have %s, where our specification is", path, filepath.Dir(CDIFile))
		}
		reload = "systemctl restart docker   # ends containers, unless live-restore is on"
	}
	if err := checkJSON(path+" with our members", doc); err != nil {
		return err
	}
	p.change(path, before, doc)
	if !systemd {
		p.change(p.path(dockerOptions), options, nil)
	}
	p.next("%s", reload)
	return nil
}

// readDocker reads daemon.json; nil: there is none.
func (p *planner) readDocker(path string) ([]byte, error) {
	data, err := read(path)
	if data == nil || err != nil {
		return nil, err
	}
	if err := checkJSON(path, data); err != nil {
		return nil, err
	}
	raw, err := getJSON(data, "runtimes", handler)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if raw == nil {
		return data, nil
	}
	var r dockerRuntime
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil || !r.mayBeOurs() {
		return nil, fmt.Errorf("runtimes.%s in %s is not what gatewarden writes: somebody else made or edited it; take it out first", handler, path)
	}
	return data, nil
}

// dockerDefault makes our runtime the default one. It takes no other's place, because nobody would give it back.
func (p *planner) dockerDefault(path string, doc []byte) ([]byte, error) {
	raw, err := getJSON(doc, "default-runtime")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var name string
	if raw != nil && (json.Unmarshal(raw, &name) != nil || name != "runc" && name != handler) {
		return nil, fmt.Errorf("default-runtime in %s is %s; take it out first, or leave out --set-default", path, raw)
	}
	if doc, err = setJSON(doc, handler, "default-runtime"); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return doc, nil
}

// dockerUsesSystemd tells whether dockerd gives containers cgroups of systemd's, by the rule that it has itself: what
// exec-opts say, else systemd where there is one and cgroups are version 2. To its own runc it hands this on; a shim of
// another type has to be told.
func (p *planner) dockerUsesSystemd(path string, doc []byte) (bool, error) {
	raw, err := getJSON(doc, "exec-opts")
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	var opts []string
	if raw != nil && json.Unmarshal(raw, &opts) != nil {
		return false, fmt.Errorf("%s: exec-opts is not an array of strings", path)
	}
	for _, opt := range opts {
		if driver, ok := strings.CutPrefix(opt, "native.cgroupdriver="); ok {
			return driver == "systemd", nil
		}
	}
	for _, sign := range []string{"/run/systemd/system", "/sys/fs/cgroup/cgroup.controllers"} {
		if _, err := os.Stat(p.path(sign)); errors.Is(err, fs.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}

func (p *planner) unconfigureDocker() error {
	path := p.file(dockerFile)
	before, err := p.readDocker(path)
	if err != nil {
		return err
	}
	options, err := own(p.path(dockerOptions), "docker")
	if err != nil {
		return err
	}
	p.change(p.path(dockerOptions), options, nil)
	if before == nil {
		return nil
	}
	doc := before
	raw, err := getJSON(doc, "default-runtime")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var name string
	if raw != nil && json.Unmarshal(raw, &name) == nil && name == handler {
		if doc, err = removeJSON(doc, "default-runtime"); err != nil {
			return err
		}
	}
	had := doc
	if doc, err = removeJSON(doc, "runtimes", handler); err != nil {
		return err
	}
	if rest, err := getJSON(doc, "runtimes"); err == nil && !bytes.Equal(had, doc) && emptyObject(rest) {
		if doc, err = removeJSON(doc, "runtimes"); err != nil {
			return err
		}
	}
	if p.CDI {
		p.note("features.cdi stays in %s: other devices may need it, and from docker 28.3 on it is the default", path)
	}
	// A file that has nothing more has nothing to say.
	if emptyObject(doc) && !emptyObject(before) {
		doc = nil
	}
	p.change(path, before, doc)
	p.next("systemctl reload docker")
	return nil
}

func emptyObject(raw []byte) bool {
	var v any
	return json.Unmarshal(raw, &v) == nil && reflect.DeepEqual(v, map[string]any{})
}
