// Package engine switches gatewarden on in a container engine's own configuration, and off again.
//
// What an engine reads is changed in the engine's own convention: a file of ours where it takes drop-ins, else lines or
// members of ours in the file that it has. Everything is planned first, from bytes to bytes, and refused as a whole; only
// then is anything written. There is no record of what was written elsewhere: a file or block of ours carries a digest of
// itself, and a JSON document of ours is one that this package would write again. So what was edited since is noticed, and
// left to whoever edited it.
package engine

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
)

// handler is what gatewarden is called in engines that give their runtimes names.
const handler = "gatewarden"

// Options are what an engine is configured with.
type Options struct {
	Root string // directory that every file is looked for in, as if it were "/"; empty: "/"
	File string // the engine's main configuration (containerd, docker), if it is not where it usually is

	Hook     string   // the hook's program
	HookArgs []string // and what it is called with after the stage
	Shim     string   // our shim's program
	Devices  []string // profiles that are CDI devices; empty: no CDI specification is written

	SetDefault bool // make gatewarden the runtime of containers that ask for none
	InPlace    bool // lines may be added to containerd's own configuration file
	CDI        bool // see to it that the engine reads CDI specifications; when it is switched off, remove ours

	// Containerd gives what `containerd --version` prints. It is asked if there is no configuration to tell its format.
	Containerd func() (string, error)
}

// Names are the engines that can be configured.
func Names() []string { return []string{"containerd", "crio", "podman", "docker"} }

// Plan is what has to be done to an engine's files, and by its administrator.
type Plan struct {
	Engine  string
	Changes []Change // in the order in which they are made: what is referred to is there before and after what refers to it
	Notes   []string // what the administrator should know
	Next    []string // what the engine needs before it takes note; empty if nothing changes
}

// Change is one file. Before is nil for one that is made, After for one that is removed.
type Change struct {
	Path          string
	Before, After []byte
}

// Action says in a word what becomes of the file.
func (c Change) Action() string {
	switch {
	case c.Before == nil:
		return "create"
	case c.After == nil:
		return "remove"
	}
	return "change"
}

// Diff shows the change as a unified diff.
func (c Change) Diff() string {
	before, after := c.Path, c.Path
	if c.Before == nil {
		before = "/dev/null"
	}
	if c.After == nil {
		after = "/dev/null"
	}
	d := diff.Diff(before, c.Before, after, c.After)
	// Its first line is "diff BEFORE AFTER", which says nothing that the next two do not.
	return string(d[bytes.IndexByte(d, '\n')+1:])
}

// Configure plans what switches gatewarden on in the engine of that name. An error means that it cannot be done, or is not
// gatewarden's to do, and says what the administrator can.
func Configure(name string, o Options) (*Plan, error) { return plan(name, o, "configure") }

// Unconfigure plans what takes away exactly what Configure wrote.
func Unconfigure(name string, o Options) (*Plan, error) { return plan(name, o, "unconfigure") }

func plan(name string, o Options, verb string) (*Plan, error) {
	p := &planner{Options: o, plan: &Plan{Engine: name}}
	steps := map[string]struct{ configure, unconfigure func() error }{
		"containerd": {p.configureContainerd, p.unconfigureContainerd},
		"crio":       {p.configureCRIO, p.unconfigureCRIO},
		"podman":     {p.configurePodman, p.unconfigurePodman},
		"docker":     {p.configureDocker, p.unconfigureDocker},
	}
	step, ok := steps[name]
	if !ok {
		return nil, fmt.Errorf("%.80q is no engine that gatewarden can configure; there are %s", name, strings.Join(Names(), ", "))
	}
	do, cdi := step.configure, p.configureCDI
	if verb == "unconfigure" {
		do, cdi = step.unconfigure, p.unconfigureCDI
	}
	var err error
	if o.CDI {
		err = cdi()
	}
	if err == nil {
		err = do()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot %s %s: %w", verb, name, err)
	}
	if len(p.plan.Changes) == 0 {
		p.plan.Next = nil
	}
	if verb == "unconfigure" { // planned in the order in which they were made
		slices.Reverse(p.plan.Changes)
	}
	return p.plan, nil
}

// planner collects a plan.
type planner struct {
	Options
	plan *Plan
}

// path is where a file of the engine's is looked for.
func (p *planner) path(name string) string { return filepath.Join("/", p.Root, name) }

// file is the engine's main configuration.
func (p *planner) file(usual string) string {
	if p.File != "" {
		return p.path(p.File)
	}
	return p.path(usual)
}

// change plans that a file has after where it had before; nil: there is none.
func (p *planner) change(path string, before, after []byte) {
	if (before == nil) == (after == nil) && bytes.Equal(before, after) {
		return
	}
	p.plan.Changes = append(p.plan.Changes, Change{path, before, after})
}

func (p *planner) note(format string, args ...any) {
	p.plan.Notes = append(p.plan.Notes, fmt.Sprintf(format, args...))
}

func (p *planner) next(format string, args ...any) {
	p.plan.Next = append(p.plan.Next, fmt.Sprintf(format, args...))
}
