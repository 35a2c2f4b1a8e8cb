//go:build integration

package integration

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

var compat = flag.Bool("compat", false, "run the tests of other containerds with those of make compat too")

// others are the containerds that the shim serves beside the pinned one, which all other tests run.
func others() []harness.Release {
	releases := []harness.Release{harness.Debian, harness.Containerd17}
	if *compat {
		releases = append(releases, harness.Containerd20, harness.Containerd22, harness.Containerd23)
	}
	return releases
}

// startRelease starts a host of its own for the test. That nothing is left of it is checked at the test's end.
func startRelease(t *testing.T, release harness.Release) *harness.Host {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	h, err := harness.StartRelease(ctx, "", release)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log:\n%s", h.DaemonLog())
		}
		if err := h.Close(); err != nil {
			t.Errorf("after the test: %v", err)
		}
	})
	if err := h.Import(ctx, harness.Image{User: strconv.Itoa(harness.WorkloadUID)}); err != nil {
		t.Fatal(err)
	}
	return h
}

// serves checks all that a client can ask of a gateway's container, and gives the status at the end.
func (c *container) serves() receipt.Status {
	c.t.Helper()
	before := c.parked()
	if who := c.ask(); who.UID != harness.GatewayUID {
		c.t.Errorf("the gateway is UID %d", who.UID)
	}
	r := c.restart("--reason", "rotated the token")
	if r.Outcome != receipt.Replaced || r.Old.PID != before.PID || !r.Workload.Unchanged || r.RequestedBy.Via != "task-exec" {
		c.t.Errorf("receipt %+v", r)
	}
	c.parked()
	if r := c.ctr("task", "kill", "--exec-id", "gateway", "-s", "TERM", c.id); r.Status != 0 {
		c.t.Errorf("%v", r)
	}
	after := c.parked()
	if after.PID == r.New.PID || after.Restarts.Asked != before.Restarts.Asked+2 || after.Warden.PID != before.Warden.PID {
		c.t.Errorf("after a restart by signal:\nbefore %+v\nafter  %+v", before, after)
	}
	if r := c.exec("sh", "-c", "echo out; echo err >&2; exit 7"); r.Status != 7 || r.Stdout != "out\n" || !strings.Contains(r.Stderr, "err") {
		c.t.Errorf("an ordinary exec gives the wrong result:\n%v", r)
	}
	if r := c.ctr("task", "ps", c.id); r.Status != 0 {
		c.t.Errorf("%v", r)
	}
	return after
}

// unmoved checks that gateway, warden and workload are those of before.
func (c *container) unmoved(before receipt.Status, workload []string) {
	c.t.Helper()
	after := c.parked()
	if after.PID != before.PID || after.StartTime != before.StartTime || after.Warden.PID != before.Warden.PID || after.Generation != before.Generation {
		c.t.Errorf("gateway or warden changed:\nbefore %+v\nafter  %+v", before, after)
	}
	if now := c.workload(); !slices.Equal(now, workload) {
		c.t.Errorf("the workload changed: %q, before %q", now, workload)
	}
}

func TestEachContainerdIsServed(t *testing.T) {
	for _, release := range others() {
		t.Run(release.Name, func(t *testing.T) {
			h := startRelease(t, release)
			version, err := h.Client().Version(h.Context(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("containerd %s", version.Version)

			t.Run("a container without a gateway", func(t *testing.T) {
				c := runOn(t, h, options{user: imagesUser})
				if r := c.exec("sh", "-c", "echo out; exit 7"); r.Status != 7 || r.Stdout != "out\n" {
					t.Errorf("%v", r)
				}
				if r := c.exec("gatewarden", "status"); r.Status == 0 {
					t.Errorf("it answers gatewarden status:\n%v", r)
				}
				c.delete()
				c.checkGone()
			})
			t.Run("a gateway, and containerd killed", func(t *testing.T) {
				c := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}})
				events := c.execEvents(func() { c.mustExec("gatewarden", "probe") })
				if want := []string{"added", "started", "exited"}; !slices.Equal(events, want) {
					t.Errorf("events of an exec: %q, want %q", events, want)
				}
				before, workload := c.serves(), c.workload()
				ctx, cancel := context.WithTimeout(t.Context(), commandTime)
				defer cancel()
				if err := h.CrashDaemon(ctx); err != nil {
					t.Fatal(err)
				}
				c.unmoved(before, workload)
				c.serves()
				if r := c.ctr("task", "delete", "--force", c.id); r.Status != 0 {
					t.Errorf("%v", r)
				}
				c.delete()
				c.checkGone()
			})
			t.Run("a group of containers in one shim", func(t *testing.T) {
				group := inOneShim(t, h)
				pause := runOn(t, h, options{user: imagesUser, flags: group})
				a := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}, flags: group})
				b := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}, flags: group})
				if shims := shimsOf(t, h, pause, a, b); len(shims) != 1 {
					t.Errorf("%d shims: %v", len(shims), shims)
				}
				a.delete()
				a.checkGone()
				b.restart()
			})
			t.Run("a shim that is killed", func(t *testing.T) {
				c := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}})
				for _, p := range shimsOf(t, h, c) {
					killProcess(t, p.PID)
				}
				// containerd has the shim's program clean up after it.
				c.onlySocketLeft()
			})
			t.Run("options of the runtime in a file", func(t *testing.T) {
				root := filepath.Join(h.Dir, "runc")
				file := filepath.Join(t.TempDir(), "options.toml")
				writeFile(t, file, fmt.Sprintf("Root = %q\n", root), 0o644)
				c := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}, flags: []string{"--runtime-config-path", file}})
				if _, err := os.Stat(filepath.Join(root, h.Namespace, c.id, "state.json")); err != nil {
					t.Errorf("runc keeps its state elsewhere: %v", err)
				}
				c.restart()
			})
			t.Run("a profile that is refused", func(t *testing.T) {
				c, r := tryRunOn(t, h, options{user: imagesUser, profile: &harness.Profile{Gateway: "flavour = 1"}})
				// The hook's line, whole, and nothing of runc's around it; ctr may warn of something before.
				// Clients before 2.0 add the class of the error.
				line := strings.TrimSuffix(strings.TrimSpace(r.Stderr[max(0, strings.Index(r.Stderr, "ctr: ")):]), ": invalid argument")
				name := h.Namespace + "/" + c.id
				if r.Status == 0 || !strings.HasPrefix(line, "ctr: failed to create shim task: gatewarden: cannot install gateway \""+c.id+"\" for "+name+": ") ||
					!strings.Contains(line, "gateway.flavour: unknown key") || !strings.HasSuffix(line, "(invalid_profile)") {
					t.Errorf("%v", r)
				}
				c.checkGone()
			})
		})
	}
}

// inOneShim gives the flags of ctr run that put containers into one shim, as those of a pod are.
func inOneShim(t *testing.T, h *harness.Host) []string {
	t.Helper()
	group := uniqueID("pod")
	// Shims of containerd 2 leave a socket that is named after another id than their own, runc's too.
	t.Cleanup(func() { _ = os.Remove(h.ShimSocket(group)) })
	return []string{"--annotation", "io.containerd.runc.v2.group=" + group}
}

// shimsOf lists the shims that were started for the containers.
func shimsOf(t *testing.T, h *harness.Host, containers ...*container) []harness.Process {
	t.Helper()
	processes, err := h.Processes()
	if err != nil {
		t.Fatal(err)
	}
	var shims []harness.Process
	for _, p := range processes {
		for _, c := range containers {
			if strings.Contains(p.Command, "containerd-shim-gatewarden-v2") && strings.Contains(p.Command, "-id "+c.id+" ") {
				shims = append(shims, p)
			}
		}
	}
	return shims
}

// execEvents lists the daemon's events of the execs, but for the gateway's, that do makes in the container.
func (c *container) execEvents(do func()) []string {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.h.Context(context.Background()))
	defer cancel()
	envelopes, errs := subscribeOn(c.t, c.h, ctx, `topic~="/tasks/"`)
	do()
	var seen []string
	for timeout := time.After(eventTime); ; {
		select {
		case e := <-envelopes:
			event, err := typeurl.UnmarshalAny(e.Event)
			if err != nil {
				c.t.Fatal(err)
			}
			switch e := event.(type) {
			case *eventsapi.TaskExecAdded:
				if e.ContainerID == c.id && e.ExecID != "gateway" {
					seen = append(seen, "added")
				}
			case *eventsapi.TaskExecStarted:
				if e.ContainerID == c.id && e.ExecID != "gateway" {
					seen = append(seen, "started")
				}
			case *eventsapi.TaskExit:
				if e.ContainerID == c.id && e.ID != "gateway" {
					return append(seen, "exited")
				}
			}
		case err := <-errs:
			c.t.Fatalf("events: %v", err)
		case <-timeout:
			c.t.Fatalf("no exit among the events %q", seen)
		}
	}
}

func TestContainerdIsUpgradedUnderARunningGateway(t *testing.T) {
	for _, release := range others() {
		t.Run(release.Name, func(t *testing.T) {
			// A runc that can be replaced: the shim that runs keeps its search path.
			old := host.Runc()
			if len(release.Path) > 0 {
				old = filepath.Join(host.Repository, ".cache", release.Path[0], "runc")
			}
			runc := filepath.Join(t.TempDir(), "runc")
			replaceProgram(t, old, runc)
			release.Path = []string{filepath.Dir(runc)}
			h := startRelease(t, release)
			group := inOneShim(t, h)
			c := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}, flags: group})
			before, workload := c.parked(), c.workload()
			ctx, cancel := context.WithTimeout(t.Context(), commandTime)
			defer cancel()
			replaceProgram(t, host.Runc(), runc)
			to := harness.Pinned
			to.Path = release.Path
			if err := h.Upgrade(ctx, to); err != nil {
				t.Fatal(err)
			}
			c.unmoved(before, workload)
			c.serves()
			// What joins the pod now speaks the new protocol to the shim that the old containerd started.
			joined := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}, flags: group})
			if shims := shimsOf(t, h, c, joined); len(shims) != 1 {
				t.Errorf("%d shims: %v", len(shims), shims)
			}
			joined.serves()
			joined.delete()
			joined.checkGone()
			c.restart()
			c.delete()
			c.checkGone()
		})
	}
}

// replaceProgram puts a copy of the program from in the place of to, as a package does: by rename, so that what runs keeps its file.
func replaceProgram(t *testing.T, from, to string) {
	t.Helper()
	program, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to+".new", string(program), 0o755)
	rename(t, to+".new", to)
}

func TestTheShimIsReplacedUnderARunningPodOfContainerd(t *testing.T) {
	program := host.Bin("containerd-shim-gatewarden-v2")
	shim := filepath.Join(t.TempDir(), filepath.Base(program))
	replaceProgram(t, program, shim)
	h := startRelease(t, harness.Release{Name: "the pinned ones, with a shim of their own", Path: []string{filepath.Dir(shim)}})
	group := inOneShim(t, h)
	c := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}, flags: group})
	before, workload := c.parked(), c.workload()
	replaceProgram(t, program, shim)
	c.unmoved(before, workload)
	c.serves()
	joined := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}, flags: group})
	if shims := shimsOf(t, h, c, joined); len(shims) != 1 {
		t.Errorf("%d shims: %v", len(shims), shims)
	}
	joined.serves()
	joined.delete()
	joined.checkGone()
	alone := runOn(t, h, options{user: imagesUser, profile: &harness.Profile{}})
	if shims := shimsOf(t, h, c, alone); len(shims) != 2 {
		t.Errorf("%d shims: %v", len(shims), shims)
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	if err := h.CrashDaemon(ctx); err != nil {
		t.Fatal(err)
	}
	c.serves()
	c.delete()
	c.checkGone()
}
