package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/generation"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

func (h *host) store() *generation.Store { return generation.Open(h.dir + "/state/default/web") }

// sees is what the container sees of its configuration.
func (h *host) sees() string {
	h.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s/rootfs/etc/gateway/config", h.init.Process.Pid, h.bundle))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(data)
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// staged makes a generation with that configuration, as a warden does that applies it, and gives what was seen before.
func (h *host) staged(config string) (*generation.Generation, generation.Inputs) {
	h.t.Helper()
	r, err := h.store().Record()
	h.must(err)
	parent, err := h.store().Get(r.Current)
	h.must(err)
	text, err := h.store().Profile(parent)
	h.must(err)
	h.mkdir("applied")
	h.write("applied/config", config)
	f, err := os.OpenFile(h.dir+"/applied", unix.O_PATH, 0)
	h.must(err)
	defer f.Close()
	g, err := h.store().Stage(h.t.Context(), generation.Plan{
		Name: "demo", Profile: text, Sources: []generation.Source{{Target: "/etc/gateway", Path: f.Name(), File: f}},
		UID: 64990, GID: 64991, Parent: parent, Origin: generation.Applied,
	})
	h.must(err)
	h.must(h.store().Try(g.Number))
	return g, r.Seen
}

func (h *host) apply(config string) {
	h.t.Helper()
	g, seen := h.staged(config)
	h.must(h.store().Accept(g.Number, seen))
}

// turnedDown is a change of what is declared that is not taken up.
func (h *host) turnedDown(config string) {
	h.t.Helper()
	h.write("shared/config", config)
	g, seen := h.staged(config)
	f, err := os.OpenFile(h.dir+"/shared", unix.O_PATH, 0)
	h.must(err)
	defer f.Close()
	now, err := generation.Look(h.t.Context(), nil, []generation.Source{{Path: f.Name(), File: f}}, 64990)
	h.must(err)
	seen.Sources = now.Sources
	h.must(h.store().Reject(receipt.Rejected{Generation: g.Number, Code: code.ProbeFailed, Time: time.Unix(1, 0)}, seen))
}

// What a container is created with whose name had one before.
func TestAContainerIsCreatedWithWhatIsDeclaredOrWhatCannotBeMadeAgain(t *testing.T) {
	for _, c := range []struct {
		name    string
		running func(h *host) // while the first one runs
		down    bool          // it ends with the host, so nobody cleans up
		ended   func(h *host) // after that
		sees    string
		current int
		damaged bool // a store was set aside
		check   func(t *testing.T, r generation.Record)
	}{
		{name: "nothing has changed", sees: "from the host", current: 1},
		{name: "what is declared was edited", ended: func(h *host) { h.write("shared/config", "edited") }, sees: "edited", current: 1},
		{name: "one was applied", running: func(h *host) { h.apply("applied") }, sees: "applied", current: 2},
		{
			name: "one was applied, and the source was edited since", running: func(h *host) { h.apply("applied") },
			ended: func(h *host) { h.write("shared/config", "edited since") }, sees: "edited since", current: 3,
		},
		{
			name: "one was applied, and the profile was edited since", running: func(h *host) { h.apply("applied") },
			ended: func(h *host) { h.profile("demo", "description = \"edited\"\n"+demo) }, sees: "applied", current: 3,
		},
		{
			name: "what is declared was turned down", running: func(h *host) { h.turnedDown("bad") }, sees: "from the host", current: 1,
			check: func(t *testing.T, r generation.Record) {
				if r.Rejected == nil || r.Rejected.Generation != 2 || r.Rejected.Code != code.ProbeFailed {
					t.Errorf("rejected is %+v", r.Rejected)
				}
			},
		},
		{
			name: "what is declared was turned down, and put right", running: func(h *host) { h.turnedDown("bad") },
			ended: func(h *host) { h.write("shared/config", "put right") }, sees: "put right", current: 3,
		},
		{
			name: "the host went down", down: true, sees: "from the host", current: 1,
		},
		{
			name: "the host went down while one was tried", running: func(h *host) { h.staged("tried") }, down: true, sees: "from the host", current: 1,
			check: func(t *testing.T, r generation.Record) {
				if r.Trying != 0 || r.Rejected == nil || r.Rejected.Generation != 2 || r.Rejected.Code != code.NotRunning {
					t.Errorf("%+v, rejected %+v", r, r.Rejected)
				}
			},
		},
		{
			name: "the host went down with the record torn", down: true,
			ended: func(h *host) { h.must(os.Truncate(h.store().Dir()+"/record.json", 10)) }, sees: "from the host", current: 1, damaged: true,
		},
		{
			name: "the host went down with the description torn", down: true,
			ended: func(h *host) { h.must(os.Truncate(h.store().Dir()+"/1/generation.json", 0)) }, sees: "from the host", current: 1, damaged: true,
		},
		{
			name: "the host went down with a file torn", down: true,
			ended: func(h *host) { h.must(os.Truncate(h.store().Tree(1, 0)+"/config", 3)) }, sees: "from the host", current: 1, damaged: true,
		},
		{
			name: "the host went down with the profile torn", down: true,
			ended: func(h *host) { h.must(os.Truncate(h.store().Dir()+"/1/profile.toml", 20)) }, sees: "from the host", current: 1, damaged: true,
		},
		{
			name: "the host went down, and there is another [[mount]] now", down: true,
			ended: func(h *host) {
				h.profile("demo", strings.Replace(demo, "[[state]]", "[[mount]]\nsource = \"DIR/shared\"\ntarget = \"/etc/other\"\n[[state]]", 1))
			},
			sees: "from the host", current: 1, damaged: true,
		},
		{
			name: "it has another profile now", running: func(h *host) { h.apply("applied") },
			ended: func(h *host) {
				h.profile("other", demo)
				h.spec.Annotations[oci.GatewayAnnotation] = "other"
			},
			sees: "from the host", current: 1, damaged: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.must(h.create(Options{}))
			if r, err := h.store().Record(); err != nil || r.Current != 1 || r.Trying != 0 || r.Name != "demo" || h.sees() != "from the host" {
				t.Fatalf("it begins with %+v, %v", r, err)
			}
			if c.running != nil {
				c.running(h)
			}
			h.endInit()
			if c.down {
				h.must(os.RemoveAll(h.dir + "/run"))
			} else {
				h.must(h.poststop())
			}
			if c.ended != nil {
				c.ended(h)
			}
			h.startInit()
			h.must(h.create(Options{}))
			r, err := h.store().Record()
			h.must(err)
			if r.Current != c.current || r.Trying != 0 || r.Name != h.spec.Annotations[oci.GatewayAnnotation] {
				t.Errorf("the record is %+v; generation %d should be current", r, c.current)
			}
			if got := h.sees(); got != c.sees {
				t.Errorf("the container sees %q, not %q", got, c.sees)
			}
			if err := h.store().Verify(t.Context(), r.Current, 64990); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(h.store().Dir() + ".damaged"); (err == nil) != c.damaged || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a store was set aside: %v", err)
			}
			if c.check != nil {
				c.check(t, r)
			}
		})
	}
}

func TestWhatOutlivesTheTaskIsTheCurrentConfigurationAlone(t *testing.T) {
	h := newHost(t)
	h.must(h.create(Options{}))
	h.apply("applied")
	h.apply("applied again")
	h.endInit()
	h.must(h.poststop())
	if all, err := h.store().Numbers(); err != nil || !slices.Equal(all, []int{3}) {
		t.Errorf("%v are left, %v", all, err)
	}
	// What is declared again is no reason to keep anything.
	h.write("shared/config", "edited")
	h.startInit()
	h.must(h.create(Options{}))
	h.endInit()
	h.must(h.poststop())
	if left := h.left(); slices.ContainsFunc(left, func(name string) bool { return strings.Contains(name, generation.DirName) }) {
		t.Errorf("left are %v", left)
	}
}

// What was applied is not made again from what is declared behind the administrator's back.
func TestAnAppliedConfigurationThatSomebodyHasEditedFailsTheCreate(t *testing.T) {
	for name, path := range map[string]func(h *host) string{
		"a file":      func(h *host) string { return h.store().Tree(2, 0) + "/config" },
		"the profile": func(h *host) string { return filepath.Join(h.store().Dir(), "2/profile.toml") },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.must(h.create(Options{}))
			h.apply("applied")
			h.endInit()
			h.must(h.poststop())
			good, err := os.ReadFile(path(h))
			h.must(err)
			h.must(os.WriteFile(path(h), append(good, "# edited\n"...), 0o644))
			h.startInit()
			err = h.create(Options{})
			if err == nil || !strings.Contains(err.Error(), "somebody has edited "+path(h)) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the create: %v", err)
			}
			if !strings.Contains(err.Error(), "it was applied and cannot be made again: put it right, or remove "+h.store().Dir()+" to begin with what is declared") {
				t.Errorf("it does not tell what to do: %v", err)
			}
			h.must(os.WriteFile(path(h), good, 0o644))
			h.must(h.create(Options{}))
			if got := h.sees(); got != "applied" {
				t.Errorf("put right, the container sees %q", got)
			}
		})
	}
}

func TestASourceThatCannotBeCopiedFailsTheCreateAndNothingIsLeft(t *testing.T) {
	h := newHost(t)
	h.must(os.Symlink("/etc/shadow", h.dir+"/shared/link"))
	if err := h.create(Options{}); err == nil || !strings.Contains(err.Error(), "/shared/link is a symbolic link") {
		t.Errorf("the create: %v", err)
	}
	if left := h.left(); len(left) != 0 {
		t.Errorf("left are %v", left)
	}
}
