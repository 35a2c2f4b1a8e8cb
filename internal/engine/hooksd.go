package engine

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// hooksdEngine is an engine that runs hooks by hooks.d documents.
type hooksdEngine struct {
	name   string
	dir    string   // of our documents
	files  []string // its configuration, in the order in which it is read; patterns
	dropIn string   // ours
	keys   []string // of the list of directories
}

// Its configuration's hooks_dir has only the packages' directory until somebody adds another, in podman as in CRI-O.
const packagedHooks = "/usr/share/containers/oci/hooks.d"

// containers.conf(5)
func podman() hooksdEngine {
	return hooksdEngine{
		name: "podman", dir: "/etc/containers/oci/hooks.d",
		files:  []string{"/usr/share/containers/containers.conf", "/etc/containers/containers.conf", "/etc/containers/containers.conf.d/*.conf"},
		dropIn: "/etc/containers/containers.conf.d/99-gatewarden.conf", keys: []string{"engine", "hooks_dir"},
	}
}

// crio.conf(5), crio.conf.d(5). CRI-O has a directory of its own here, so that podman on the same host can be switched on
// and off by itself. Its allowed_annotations are a list of CRI-O's own, to which ours cannot be added (CRI-O would not
// start); it hands other annotations on.
func crio() hooksdEngine {
	return hooksdEngine{
		name: "crio", dir: "/etc/crio/hooks.d",
		files:  []string{"/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*"},
		dropIn: "/etc/crio/crio.conf.d/99-gatewarden.conf", keys: []string{"crio", "runtime", "hooks_dir"},
	}
}

func (p *planner) configurePodman() error {
	p.note("podman reads its configuration at each command; restart a podman system service, if one runs")
	return p.configureHooks(podman())
}

func (p *planner) unconfigurePodman() error { return p.unconfigureHooks(podman()) }

func (p *planner) configureCRIO() error {
	p.next("systemctl restart crio   # running containers go on")
	return p.configureHooks(crio())
}

func (p *planner) unconfigureCRIO() error {
	p.next("systemctl restart crio   # running containers go on")
	return p.unconfigureHooks(crio())
}

// noDefault refuses what only an engine with handlers has.
func (p *planner) noDefault(e hooksdEngine) error {
	if p.SetDefault {
		return fmt.Errorf("%s runs hooks for every runtime, so there is no default to set; leave out --set-default", e.name)
	}
	return nil
}

func (p *planner) configureHooks(e hooksdEngine) error {
	if err := p.noDefault(e); err != nil {
		return err
	}
	if err := p.writeHooks(p.path(e.dir)); err != nil {
		return err
	}
	path := p.path(e.dropIn)
	before, err := own(path, e.name)
	if err != nil {
		return err
	}
	dirs, later, err := p.hooksDirs(e)
	if err != nil {
		return err
	}
	if later != "" {
		return fmt.Errorf("%s is read after %s and has a %s of its own; add %q to it, or rename it", later, path, strings.Join(e.keys, "."), e.dir)
	}
	if slices.Contains(dirs, e.dir) {
		p.change(path, before, nil) // somebody has said so since
		return nil
	}
	text, err := hooksDropIn(e, append(dirs, e.dir))
	if err != nil {
		return err
	}
	p.change(path, before, seal(text, e.name))
	return nil
}

// hooksDropIn gives the text of a drop-in. A list replaces that of files read before, so it has to have all of them.
func hooksDropIn(e hooksdEngine, dirs []string) ([]byte, error) {
	line, err := toml.Marshal(map[string]any{e.keys[len(e.keys)-1]: dirs})
	if err != nil {
		return nil, fmt.Errorf("cannot write the directories of hooks: %w", err)
	}
	return fmt.Appendf(nil, "[%s]\n%s", strings.Join(e.keys[:len(e.keys)-1], "."), line), nil
}

// hooksDirs gives the directories of hooks that the engine has without our drop-in, and the file read after ours that sets
// them, if there is one.
func (p *planner) hooksDirs(e hooksdEngine) (dirs []string, later string, err error) {
	dirs = []string{packagedHooks}
	ours := p.path(e.dropIn)
	for _, pattern := range e.files {
		files, err := list(p.path(pattern))
		if err != nil {
			return nil, "", err
		}
		for _, file := range files {
			if file == ours {
				continue
			}
			data, err := look(file)
			if err != nil {
				return nil, "", err
			}
			doc, err := decodeTOML(file, data)
			if err != nil {
				return nil, "", err
			}
			if at(doc, e.keys...) == nil {
				continue
			}
			set, ok := texts(doc, e.keys...)
			if !ok {
				return nil, "", fmt.Errorf("%s: %s is not an array of strings", file, strings.Join(e.keys, "."))
			}
			dirs = set
			if file > ours && filepath.Dir(file) == filepath.Dir(ours) && !slices.Contains(set, e.dir) {
				later = file
			}
		}
	}
	return dirs, later, nil
}

func (p *planner) unconfigureHooks(e hooksdEngine) error {
	if err := p.noDefault(e); err != nil {
		return err
	}
	if err := p.removeHooks(p.path(e.dir)); err != nil {
		return err
	}
	path := p.path(e.dropIn)
	before, err := own(path, e.name)
	if err != nil {
		return err
	}
	p.change(path, before, nil)
	return nil
}
