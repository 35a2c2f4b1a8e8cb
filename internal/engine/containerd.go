package engine

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Where containerd has its configuration: containerd-config.toml(5).
const (
	containerdFile   = "/etc/containerd/config.toml"
	containerdConfD  = "/etc/containerd/conf.d"
	containerdDropIn = "99-gatewarden.toml"
)

// runcType is the runtime whose options our handler takes: with it CRI sends runc's own.
const runcType = "io.containerd.runc.v2"

// annotations gives patterns of those that CRI is to hand on to our shim. A "*" does not match a slash, behind which a pod's
// annotation names a container.
func annotations() []string { return []string{"io.gatewarden.*", "io.gatewarden.*/*"} }

// criPlugin is the plugin that has the runtimes of CRI, in each version of the configuration's format.
//
// Version 2 is that of containerd 1.x, where a drop-in that has anything of a plugin replaces everything that the main file
// has of it (mergeConfig in services/server/config): registries, CNI, the sandbox image. There our table has to be in the
// main file. From version 3 on, that of containerd 2.x, tables are merged.
func criPlugin(version int64) string {
	if version == 2 {
		return "io.containerd.grpc.v1.cri"
	}
	return "io.containerd.cri.v1.runtime"
}

// containerdVersion is the version of a configuration's format.
func containerdVersion(file string, doc map[string]any) (int64, error) {
	switch v := doc["version"].(type) {
	case nil:
	case int64:
		if v >= 2 {
			return v, nil
		}
	default:
		return 0, fmt.Errorf("%s: version is not a number", file)
	}
	return 0, fmt.Errorf("%s is of version 1, which containerd 2.2 and later do not read; have it migrated (containerd config migrate), or, if it is nearly empty, write version = 3 at its top (version = 2 for containerd 1.x), and try again", file)
}

// containerdHandler gives the tables that add our handler to a configuration that has doc. The handler is what the default
// one is, such as with runc's SystemdCgroup, but for the shim.
func containerdHandler(doc map[string]any, version int64, o Options) ([]byte, error) {
	cri := []string{"plugins", criPlugin(version), "containerd"}
	ours := map[string]any{}
	if from := likeRunc(table(doc, cri...)); from != nil {
		maps.Copy(ours, from)
		for _, gone := range []string{"runtime_engine", "runtime_root"} { // of the shim for runc before containerd 1.4
			delete(ours, gone)
		}
	}
	ours["runtime_type"] = runcType
	ours["runtime_path"] = o.Shim
	for _, key := range []string{"pod_annotations", "container_annotations"} {
		list, ok := texts(ours, key)
		if !ok {
			return nil, fmt.Errorf("%s of the default runtime is not an array of strings", key)
		}
		for _, pattern := range annotations() {
			if !slices.Contains(list, pattern) {
				list = append(list, pattern)
			}
		}
		ours[key] = list
	}
	var b strings.Builder
	if o.SetDefault && at(doc, append(slices.Clone(cri), "default_runtime_name")...) != handler {
		if err := writeTable(&b, cri, map[string]any{"default_runtime_name": handler}); err != nil {
			return nil, err
		}
	}
	if err := writeTable(&b, append(cri, "runtimes", handler), ours); err != nil {
		return nil, err
	}
	return []byte(b.String()), nil
}

// likeRunc is the default handler of CRI, or else the one called runc, if it is runc's.
func likeRunc(cri map[string]any) map[string]any {
	name, _ := cri["default_runtime_name"].(string)
	for _, name := range []string{name, "runc"} {
		r := table(cri, "runtimes", name)
		if r != nil && (r["runtime_type"] == runcType || r["runtime_type"] == nil && name == "runc") {
			return r
		}
	}
	return nil
}

// added checks that with has what without has, and what text adds, and nothing else: whatever was written was written by
// place, and TOML has ways of its own.
func added(file string, without, text, with []byte) error {
	a, err := decodeTOML(file, without)
	if err != nil {
		return err
	}
	b, err := decodeTOML("our lines", text)
	if err != nil {
		return err
	}
	c, err := decodeTOML(file+" with our lines", with)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(merged(a, b), c) {
		return fmt.Errorf("%s would not read with our lines as it should", file)
	}
	return nil
}

// containerd's own file, as it was found.
type containerdMain struct {
	path    string
	data    []byte // nil: there is none
	whole   bool   // it is ours as a whole
	rest    []byte // data without what is ours
	block   []byte // our block in it, nil: none
	was     []byte // the line that our line of imports replaced, nil: none
	doc     map[string]any
	version int64 // 0: not known
}

func (p *planner) readContainerd() (*containerdMain, error) {
	m := &containerdMain{path: p.file(containerdFile)}
	var err error
	if m.data, err = read(m.path); err != nil || m.data == nil {
		return m, err
	}
	ours, intact := sealed(m.data, "containerd")
	if ours && !intact {
		return nil, fmt.Errorf("%w; or take its first two lines out, and it is yours", edited(m.path))
	}
	m.whole, m.rest = ours, m.data
	if !ours {
		if m.rest, m.block, err = withoutBlock(m.path, m.data); err != nil {
			return nil, err
		}
		if m.rest, m.was, err = withoutImport(m.path, m.rest); err != nil {
			return nil, err
		}
	}
	if m.doc, err = decodeTOML(m.path, m.rest); err != nil {
		return nil, err
	}
	m.version, err = containerdVersion(m.path, m.doc)
	return m, err
}

func (p *planner) configureContainerd() error {
	m, err := p.readContainerd()
	if err != nil {
		return err
	}
	if m.data == nil {
		if m.version, err = p.containerdFormat(m.path); err != nil {
			return err
		}
	}
	if !m.whole && at(m.doc, "plugins", criPlugin(m.version), "containerd", "runtimes", handler) != nil {
		return fmt.Errorf("%s has a runtime called %s that gatewarden did not write; take it out first", m.path, handler)
	}
	if disabled, _ := texts(m.doc, "disabled_plugins"); slices.ContainsFunc(disabled, func(s string) bool { return s == "cri" || s == criPlugin(m.version) }) {
		p.note("CRI is switched off in %s (disabled_plugins), so this does nothing; ctr, nerdctl and docker need none of it", m.path)
	}
	p.next("systemctl restart containerd   # running containers go on")
	if m.version == 2 {
		return p.containerdInPlace(m)
	}
	return p.containerdByDropIn(m)
}

// containerdFormat is the version to write where there is no configuration yet.
func (p *planner) containerdFormat(path string) (int64, error) {
	if p.Containerd == nil {
		return 0, fmt.Errorf("there is no %s; write one with version = 3 in it (version = 2 for containerd 1.x) and try again", path)
	}
	said, err := p.Containerd()
	if err != nil {
		return 0, fmt.Errorf("there is no %s, and containerd does not tell its version (%w); write one with version = 3 in it (version = 2 for containerd 1.x) and try again", path, err)
	}
	for word := range strings.FieldsSeq(said) { // containerd github.com/containerd/containerd/v2 v2.4.2 REVISION
		switch major, _, dotted := strings.Cut(strings.TrimPrefix(word, "v"), "."); {
		case dotted && major == "1":
			return 2, nil
		case dotted && major == "2":
			return 3, nil
		}
	}
	return 0, fmt.Errorf("there is no %s, and what containerd says is its version is not known here: %.200q", path, said)
}

// containerdInPlace adds our tables to the main file.
func (p *planner) containerdInPlace(m *containerdMain) error {
	base := m.rest
	if m.whole || m.data == nil {
		base, m.doc = []byte("version = 2\n"), nil
	}
	text, err := containerdHandler(m.doc, m.version, p.Options)
	if err != nil {
		return err
	}
	if m.whole || m.data == nil {
		p.change(m.path, m.data, seal(slices.Concat(base, []byte("\n"), text), "containerd"))
		return nil
	}
	with := appendBlock(base, text)
	if err := added(m.path, base, text, with); err != nil {
		advice := "add them where they belong"
		if p.SetDefault {
			advice = "leave --set-default out and write default_runtime_name = \"" + handler + "\" in it yourself, or " + advice
		}
		return fmt.Errorf("these lines cannot stand at the end of %s (%w); %s:\n\n%s", m.path, err, advice, text)
	}
	if m.block == nil && !p.InPlace {
		return fmt.Errorf("containerd 1.x reads no drop-in beside the CRI settings of %s, which has to have these lines; add them at its end, or repeat this with --in-place:\n\n%s", m.path, text)
	}
	p.change(m.path, m.data, with)
	if p.CDI {
		p.note("containerd 1.7 reads CDI specifications only with enable_cdi = true in [plugins.%q]; 1.6 reads none", criPlugin(2))
	}
	return nil
}

// containerdByDropIn writes a file that the main one imports.
func (p *planner) containerdByDropIn(m *containerdMain) error {
	dir, main := p.dropIns(m), m.data
	pattern := filepath.Join(strings.TrimSuffix(containerdConfD, "/"), "*.toml")
	if p.File != "" {
		pattern = filepath.Join(filepath.Dir(p.File), "conf.d", "*.toml")
	}
	line := fmt.Sprintf("imports = [%q]\n", pattern)
	switch {
	case m.data == nil || m.whole:
		main = seal([]byte("version = 3\n"+line), "containerd")
		dir = filepath.Dir(p.path(pattern))
	case dir == "":
		imports, ok := texts(m.doc, "imports")
		if !ok || len(imports) > 0 {
			return fmt.Errorf("%s imports other files, but no directory of drop-ins; add %q to its imports", m.path, pattern)
		}
		var err error
		if main, err = addImport(m.rest, line); err == nil {
			err = added(m.path, withoutEmptyImports(m.rest), []byte(line), main)
		}
		if err != nil {
			return fmt.Errorf("%s imports no drop-ins, and the line that does cannot be added (%w); add it yourself, above the first table: %s", m.path, err, line)
		}
		if m.block == nil && m.was == nil && !p.InPlace {
			return fmt.Errorf("%s imports no drop-ins, so containerd would not read ours; add this line to it above the first table, or repeat this with --in-place:\n\n%s", m.path, line)
		}
		dir = filepath.Dir(p.path(pattern))
	}
	text, err := containerdHandler(m.doc, m.version, p.Options)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, containerdDropIn)
	before, err := own(path, "containerd")
	if err != nil {
		return err
	}
	if later, err := list(filepath.Join(dir, "*.toml")); err != nil {
		return err
	} else if n := len(later); p.SetDefault && n > 0 && later[n-1] > path {
		p.note("%s is read after ours; see that it has no default_runtime_name", later[n-1])
	}
	p.change(path, before, seal([]byte("version = 3\n\n"+string(text)), "containerd"))
	p.change(m.path, m.data, main)
	return nil
}

// dropIns is the directory of drop-ins that the main file imports by itself, "" if there is none.
func (p *planner) dropIns(m *containerdMain) string {
	imports, _ := texts(m.doc, "imports")
	for _, pattern := range imports {
		if filepath.Base(pattern) != "*.toml" || strings.Contains(filepath.Dir(pattern), "*") {
			continue
		}
		if !filepath.IsAbs(pattern) {
			return filepath.Join(filepath.Dir(m.path), filepath.Dir(pattern))
		}
		return p.path(filepath.Dir(pattern))
	}
	return ""
}

func (p *planner) unconfigureContainerd() error {
	m, err := p.readContainerd()
	if err != nil {
		return err
	}
	dir := p.dropIns(m)
	if dir == "" {
		dir = p.path(containerdConfD)
		if p.File != "" {
			dir = filepath.Join(filepath.Dir(m.path), "conf.d")
		}
	}
	path := filepath.Join(dir, containerdDropIn)
	dropIn, err := own(path, "containerd")
	if err != nil {
		return err
	}
	if !m.whole && at(m.doc, "plugins", criPlugin(m.version), "containerd", "default_runtime_name") == handler {
		return fmt.Errorf("%s has default_runtime_name = %q, which gatewarden did not write; containerd's CRI would not start without that handler, so change it first", m.path, handler)
	}
	p.change(path, dropIn, nil)
	others, err := list(filepath.Join(dir, "*.toml"))
	if err != nil {
		return err
	}
	others = slices.DeleteFunc(others, func(s string) bool { return s == path })
	imports := m.version != 2 && (m.whole || m.was != nil || m.block != nil)
	switch {
	case imports && len(others) > 0:
		p.note("%s still imports %s, since %s is there too", m.path, dir, others[0])
	case m.whole:
		p.change(m.path, m.data, nil)
	case m.data != nil:
		p.change(m.path, m.data, m.rest)
	}
	p.next("systemctl restart containerd   # running containers go on")
	return nil
}

// importNote follows our line of imports where it replaced an empty one.
const importNote = " # gatewarden runtime configure; was: "

// addImport adds a line of imports at the top level: as a block at the top, or, where data has an empty list already, in
// place of that line.
func addImport(data []byte, line string) ([]byte, error) {
	at, end, err := emptyImports(data)
	if err != nil {
		return nil, err
	}
	if at < 0 {
		return append(block([]byte(line)), data...), nil
	}
	replaced := strings.TrimSuffix(line, "\n") + importNote + string(data[at:end])
	return slices.Concat(data[:at], []byte(replaced), data[end:]), nil
}

// emptyImports finds a line, without its end, that is an empty list of imports before the first table; at is -1 if there is
// none. What it finds may be part of a longer string; whoever writes there checks what that made of the document.
func emptyImports(data []byte) (at, end int, err error) {
	offset := 0
	for l := range bytes.Lines(data) {
		text := bytes.TrimRight(l, "\r\n")
		trimmed := bytes.TrimSpace(text)
		if bytes.HasPrefix(trimmed, []byte("[")) {
			break
		}
		if rest, ok := bytes.CutPrefix(trimmed, []byte("imports")); ok {
			key, value, is := bytes.Cut(rest, []byte("="))
			value, _, _ = bytes.Cut(value, []byte("#"))
			if is && len(bytes.TrimSpace(key)) == 0 {
				if string(bytes.ReplaceAll(bytes.TrimSpace(value), []byte(" "), nil)) != "[]" {
					return 0, 0, errors.New("its imports are not an empty list on one line")
				}
				return offset, offset + len(text), nil
			}
		}
		offset += len(l)
	}
	return -1, 0, nil
}

// withoutEmptyImports is data without the line that emptyImports finds.
func withoutEmptyImports(data []byte) []byte {
	at, end, err := emptyImports(data)
	if err != nil || at < 0 {
		return data
	}
	return slices.Concat(data[:at], data[end:])
}

// withoutImport gives data with the line that ours replaced, and that line, nil if ours is not there.
func withoutImport(file string, data []byte) (rest, was []byte, err error) {
	i := bytes.Index(data, []byte(importNote))
	if i < 0 {
		return data, nil, nil
	}
	begin := bytes.LastIndexByte(data[:i], '\n') + 1
	end := len(data)
	if n := bytes.IndexByte(data[i:], '\n'); n >= 0 {
		end = i + n
	}
	end = begin + len(bytes.TrimRight(data[begin:end], "\r"))
	what := fmt.Sprintf("line %d of %s", 1+bytes.Count(data[:begin], []byte("\n")), file)
	was = bytes.Clone(data[i+len(importNote) : end])
	at, stop, err := emptyImports(was)
	doc, derr := decodeTOML("", data[begin:i])
	imports, ok := texts(doc, "imports")
	if err != nil || derr != nil || at != 0 || stop != len(was) || !ok || len(doc) != 1 || len(imports) != 1 ||
		string(data[begin:i]) != fmt.Sprintf("imports = [%q]", imports[0]) || filepath.Base(imports[0]) != "*.toml" ||
		bytes.Contains(data[end:], []byte(importNote)) {
		return nil, nil, edited(what)
	}
	return slices.Concat(data[:begin], was, data[end:]), was, nil
}
