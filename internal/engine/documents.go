package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	cdi "tags.cncf.io/container-device-interface/specs-go"

	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/oci"
)

// CDIFile is where our CDI specification is: the directory for those that an administrator, not a boot, makes.
const CDIFile = "/etc/cdi/" + oci.CDIName

// Encode gives a hooks.d document or a CDI specification as it stands in its file.
func Encode(document any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(document); err != nil {
		return nil, fmt.Errorf("cannot encode the document: %w", err)
	}
	return b.Bytes(), nil
}

// stages of our hooks.
var stages = []oci.Stage{oci.CreateRuntime, oci.Poststop}

// writeHooks plans our hooks.d documents in dir.
func (p *planner) writeHooks(dir string) error {
	documents, err := oci.HooksDocuments(p.Hook, p.HookArgs)
	if err != nil {
		return err
	}
	for _, stage := range stages {
		path := filepath.Join(dir, oci.HooksName(stage))
		after, err := Encode(documents[oci.HooksName(stage)])
		if err != nil {
			return err
		}
		before, err := ownDocument(path, isHooks)
		if err != nil {
			return err
		}
		p.change(path, before, after)
	}
	return nil
}

// removeHooks plans that they go.
func (p *planner) removeHooks(dir string) error {
	for _, stage := range stages {
		path := filepath.Join(dir, oci.HooksName(stage))
		before, err := ownDocument(path, isHooks)
		if err != nil {
			return err
		}
		p.change(path, before, nil)
	}
	return nil
}

func (p *planner) configureCDI() error {
	spec, err := oci.CDISpec(p.Hook, p.HookArgs, p.Devices)
	if err != nil {
		return err
	}
	after, err := Encode(spec)
	if err != nil {
		return err
	}
	path := p.path(CDIFile)
	before, err := ownDocument(path, isCDI)
	if err != nil {
		return err
	}
	p.change(path, before, after)
	return nil
}

func (p *planner) unconfigureCDI() error {
	path := p.path(CDIFile)
	before, err := ownDocument(path, isCDI)
	if err != nil {
		return err
	}
	p.change(path, before, nil)
	return nil
}

// ownDocument reads a JSON document that is to be ours: nil if there is none. A document has no place for a digest; it is
// ours if it is what we would write, for whatever hook and arguments. A release that writes another form has to know this one
// still.
func ownDocument(path string, is func(name string, data []byte) bool) ([]byte, error) {
	data, err := read(path)
	if data == nil || err != nil {
		return nil, err
	}
	if !is(filepath.Base(path), data) {
		return nil, fmt.Errorf("%s is not what gatewarden writes: somebody else made or edited it; move it away first", path)
	}
	return data, nil
}

func isHooks(name string, data []byte) bool {
	d, err := strictjson.Decode[oci.HooksDocument](data)
	if err != nil || len(d.Hook.Args) < 2 {
		return false
	}
	documents, err := oci.HooksDocuments(d.Hook.Path, d.Hook.Args[2:])
	if err != nil {
		return false
	}
	again, err := Encode(documents[name])
	return err == nil && bytes.Equal(again, data)
}

func isCDI(_ string, data []byte) bool {
	s, err := strictjson.Decode[cdi.Spec](data)
	if err != nil || len(s.Devices) == 0 || len(s.Devices[0].ContainerEdits.Hooks) == 0 || s.Devices[0].ContainerEdits.Hooks[0] == nil {
		return false
	}
	hook := s.Devices[0].ContainerEdits.Hooks[0]
	var profiles []string
	for _, d := range s.Devices {
		profiles = append(profiles, d.Name)
	}
	if len(hook.Args) < 4 {
		return false
	}
	spec, err := oci.CDISpec(hook.Path, slices.Clone(hook.Args[2:len(hook.Args)-2]), profiles)
	if err != nil {
		return false
	}
	again, err := Encode(spec)
	return err == nil && bytes.Equal(again, data)
}
