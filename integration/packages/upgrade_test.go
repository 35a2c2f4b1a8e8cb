//go:build packages

package packages

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// daemonConfig leaves out what a host has only once.
const daemonConfig = `version = 3
disabled_plugins = [
  "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.podsandbox.controller.v1.podsandbox",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.differ.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
`

// engine is a containerd in a root, which finds what the package has installed there.
type engine struct {
	*root
	namespace string
}

func startEngine(t *testing.T, r *root) *engine {
	t.Helper()
	var id [3]byte
	rand.Read(id[:])
	e := &engine{r, "gwp-" + hex.EncodeToString(id[:])}
	r.write("/etc/containerd/config.toml", daemonConfig)
	archive, err := (&harness.Host{Repository: repository}).Archive(&harness.Image{})
	if err != nil {
		t.Fatal(err)
	}
	r.write("/tmp/image.tar", string(archive))
	daemon := exec.Command("nsenter", r.command([]string{"sh", "-c", "PATH=/usr/bin:/usr/sbin:/bin:/sbin:/opt/tools exec containerd >/tmp/containerd.log 2>&1"})...)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.try(nil, "tail", "-n", "40", "/tmp/containerd.log"))
		}
		r.try(nil, "sh", "-c", `for id in $(/opt/tools/ctr -n "$1" containers ls -q); do
			/opt/tools/ctr -n "$1" tasks kill -s KILL "$id"; sleep 1; /opt/tools/ctr -n "$1" tasks rm "$id"; /opt/tools/ctr -n "$1" containers rm "$id"; done`, "sh", e.namespace)
		daemon.Process.Kill() // nsenter; containerd itself ends with the root
		daemon.Wait()
		left, _ := filepath.Glob("/sys/fs/cgroup/*/" + e.namespace)
		for _, dir := range append(left, "/sys/fs/cgroup/"+e.namespace) {
			os.Remove(dir)
		}
	})
	e.eventually("containerd serves", func() bool { return e.ctrTry("version").status == 0 })
	e.ctr("image", "import", "--no-unpack", "/tmp/image.tar")
	return e
}

func (e *engine) eventually(what string, is func() bool) {
	e.t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			e.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func (e *engine) ctrTry(args ...string) result {
	e.t.Helper()
	return e.try(nil, append([]string{"/opt/tools/ctr", "--namespace", e.namespace}, args...)...)
}

func (e *engine) ctr(args ...string) string {
	e.t.Helper()
	r := e.ctrTry(args...)
	if r.status != 0 {
		e.t.Fatal(r)
	}
	return r.stdout
}

// start makes a container with the gateway demo.
func (e *engine) start(id string) {
	e.t.Helper()
	e.ctr("run", "-d", "--snapshotter", "native", "--runtime", "io.containerd.gatewarden.v2", "--annotation", "io.gatewarden.gateway=demo", "--user",
		strconv.Itoa(harness.WorkloadUID), harness.BaseImage, id, "sleep", "3600")
}

func (e *engine) remove(id string) {
	e.t.Helper()
	e.ctr("tasks", "kill", "--signal", "KILL", id)
	e.eventually("the task of "+id+" ends", func() bool { return e.ctrTry("tasks", "rm", id).status == 0 })
	e.ctr("containers", "rm", id)
}

func (e *engine) status(id string) receipt.Status {
	e.t.Helper()
	var s receipt.Status
	out := e.do("gatewarden", "status", "--json", e.namespace+"/"+id)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		e.t.Fatalf("%v: %s", err, out)
	}
	return s
}

// whole waits until the gateway runs and the next one is parked, and checks that it is the only one.
func (e *engine) whole(id string) receipt.Status {
	e.t.Helper()
	var s receipt.Status
	e.eventually(id+" is whole", func() bool { s = e.status(id); return s.State == receipt.Running && s.Standby.PID != 0 })
	if s.Healthy == nil || !*s.Healthy {
		e.t.Errorf("%s is not healthy: %+v", id, s)
	}
	return s
}

func TestAnUpgradeLeavesGatewaysRunningAndTheNextContainerGetsTheNewVersion(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.do("dpkg", "--install", r.put(pkg(t, *dist, "_amd64.deb")))
	r.write("/etc/gatewarden/gateways.d/demo.toml", harness.Profile{}.TOML())
	e := startEngine(t, r)
	name := func(id string) string { return e.namespace + "/" + id }

	e.start("web")
	before := e.whole("web")
	if before.Warden.Version != *version {
		t.Errorf("the warden is of version %s, want %s", before.Warden.Version, *version)
	}
	log := e.do("dpkg", "--install", r.put(pkg(t, *newer, "_amd64.deb")))
	after := e.whole("web")
	if after.PID != before.PID || after.StartTime != before.StartTime || after.Warden.PID != before.Warden.PID || after.Standby.PID != before.Standby.PID {
		t.Errorf("the upgrade has touched what runs: it was %+v and is %+v\n%s", before, after, log)
	}
	if exe := e.do("readlink", fmt.Sprintf("/proc/%d/exe", after.Warden.PID)); !strings.HasSuffix(exe, "(deleted)\n") {
		t.Errorf("the warden's program is %s: it was overwritten, and not replaced by a rename", exe)
	}

	t.Log("restarts by the old warden, from each side; the second needs a launcher that was parked after the upgrade")
	for i, restart := range [][]string{
		{"gatewarden", "restart", name("web")},
		{"/opt/tools/ctr", "--namespace", e.namespace, "task", "exec", "--exec-id", "r1", "web", "gatewarden", "restart"},
		{"gatewarden", "restart", name("web")},
	} {
		was := e.whole("web")
		e.do(restart...)
		if is := e.whole("web"); is.PID == was.PID || is.Warden.PID != was.Warden.PID || is.Restarts.Asked != i+1 {
			t.Errorf("%q: it was %+v and is %+v", restart, was, is)
		}
	}

	t.Log("a container that is created now, and a warden that is upgraded, are of the new version")
	e.start("two")
	if s := e.whole("two"); s.Warden.Version != *later {
		t.Errorf("the new container's warden is of version %s, want %s", s.Warden.Version, *later)
	}
	was := e.whole("web")
	e.do("gatewarden", "upgrade-warden", name("web"))
	if is := e.whole("web"); is.PID != was.PID || is.Warden.Version != *later {
		t.Errorf("after upgrade-warden it is %+v, and was %+v", is, was)
	}
	e.do("gatewarden", "restart", name("web"))

	t.Log("a removal is refused; forced, what runs goes on")
	r.refused([]string{name("web"), name("two"), "not removed"}, "dpkg", "--remove", "gatewarden")
	was = e.whole("two")
	if got := r.try([]string{"GATEWARDEN_REMOVE=force"}, "dpkg", "--remove", "gatewarden"); got.status != 0 {
		t.Fatal(got)
	}
	e.ctr("task", "exec", "--exec-id", "r2", "two", "gatewarden", "restart")
	out := e.ctr("task", "exec", "--exec-id", "r3", "two", "gatewarden", "status", "--json")
	var is receipt.Status
	if err := json.Unmarshal([]byte(out), &is); err != nil || is.State != receipt.Running || is.PID == was.PID {
		t.Errorf("after the removal: %v: %s", err, out)
	}
	r.refused([]string{"not purged"}, "dpkg", "--purge", "gatewarden")
	e.remove("web")
	e.remove("two")
	e.eventually("nothing of the containers is left", func() bool { return r.try(nil, "sh", "-c", "! ls -d /run/gatewarden/*/* 2>/dev/null").status == 0 })
	r.do("dpkg", "--purge", "gatewarden")
	left := strings.Fields(r.do("find", "/etc", "/usr", "/var", "/run", "-xdev", "-name", "*gatewarden*"))
	if left = slices.DeleteFunc(left, func(s string) bool {
		return strings.HasPrefix(s, "/var/lib/containerd/") || strings.HasPrefix(s, "/run/containerd/")
	}); len(left) > 0 {
		t.Errorf("purged, and left: %v", left)
	}
}
