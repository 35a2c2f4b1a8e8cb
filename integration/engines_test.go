//go:build integration

package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

// shimProgram is what engines are to run.
const shimProgram = "containerd-shim-gatewarden-v2"

// atRoot makes a directory that `gatewarden runtime --root` takes for "/", with the programs that it looks for.
func atRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(host.Dir, uniqueID("root"))
	for _, program := range []string{host.Bin(shimProgram), host.Bin("gatewarden-hook")} {
		mkdir(t, filepath.Join(root, filepath.Dir(program)))
		if err := os.Symlink(program, filepath.Join(root, program)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	return root
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// mustGatewarden runs the operator's command.
func mustGatewarden(t *testing.T, args ...string) string {
	t.Helper()
	r := gatewarden(t, args...)
	if r.Status != 0 {
		t.Fatalf("%v", r)
	}
	return r.Stdout
}

// withEtc runs a command for which what is in the directory etc is in /etc too. Nothing of it is seen elsewhere.
func withEtc(t *testing.T, etc, name string, args ...string) harness.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*commandTime)
	defer cancel()
	const script = `mount -t overlay -o lowerdir="$1":/etc overlay /etc && shift && exec "$@"`
	r, err := host.Run(ctx, "/usr/bin/unshare", append([]string{"--mount", "--", "/bin/sh", "-c", script, "sh", etc, name}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// containerdDump is the configuration that containerd makes of a file.
func containerdDump(t *testing.T, file string) map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	r, err := host.Run(ctx, host.Tool("containerd"), "--config", file, "config", "dump")
	if err != nil {
		t.Fatal(err)
	}
	var dump map[string]any
	if err := toml.Unmarshal([]byte(r.Stdout), &dump); r.Status != 0 || err != nil {
		t.Fatalf("%v\n%v", err, r)
	}
	return dump
}

// tomlAt gives what a document has at a path of keys.
func tomlAt(doc any, keys ...string) any {
	for _, k := range keys {
		m, _ := doc.(map[string]any)
		doc = m[k]
	}
	return doc
}

const criRuntime = "io.containerd.cri.v1.runtime"

func TestContainerdLoadsWhatRuntimeConfigureWrites(t *testing.T) {
	const options = `
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "native"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    SystemdCgroup = true
    BinaryName = "/opt/runc"
`
	inVersion2 := strings.ReplaceAll(options, criRuntime, "io.containerd.grpc.v1.cri")
	for name, config := range map[string]string{
		"version 3 without imports": "version = 3\n" + options, "version 3 with empty imports": "version = 3\nimports = []\n" + options,
		"version 4": "version = 4\nimports = ['conf.d/*.toml']\n" + options, "version 2": "version = 2\n" + inVersion2,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(host.Dir, uniqueID("etc"))
			mkdir(t, dir)
			defer os.RemoveAll(dir)
			file := filepath.Join(dir, "config.toml")
			writeFile(t, file, config, 0o644)
			before := containerdDump(t, file)
			configure := []string{"runtime", "configure", "containerd", "--file", file, "--in-place"}
			if name != "version 2" { // where the table of the default has to be in one place
				configure = append(configure, "--set-default")
			}
			mustGatewarden(t, configure...)
			after := containerdDump(t, file)

			runtimes := tomlAt(after, "plugins", criRuntime, "containerd", "runtimes")
			ours, runc := tomlAt(runtimes, "gatewarden").(map[string]any), tomlAt(runtimes, "runc").(map[string]any)
			if ours == nil || ours["runtime_path"] != host.Bin(shimProgram) {
				t.Fatalf("no handler of ours: %v", runtimes)
			}
			// The handler is runc's but for the shim.
			if patterns := []any{"io.gatewarden.*", "io.gatewarden.*/*"}; !reflect.DeepEqual(ours["pod_annotations"], patterns) || !reflect.DeepEqual(ours["container_annotations"], patterns) {
				t.Errorf("annotations %v and %v", ours["pod_annotations"], ours["container_annotations"])
			}
			for _, key := range []string{"runtime_type", "options", "snapshotter", "base_runtime_spec"} {
				if !reflect.DeepEqual(tomlAt(ours, key), tomlAt(runc, key)) && (key != "options" || tomlAt(ours, key, "SystemdCgroup") != true || tomlAt(ours, key, "BinaryName") != "/opt/runc") {
					t.Errorf("%s: %v, of runc %v", key, ours[key], runc[key])
				}
			}
			if got, want := tomlAt(after, "plugins", criRuntime, "containerd", "default_runtime_name"), name != "version 2"; (got == "gatewarden") != want {
				t.Errorf("the default is %v", got)
			}
			// Nothing else is different.
			for _, doc := range []map[string]any{before, after} {
				delete(doc, "imports")
				delete(tomlAt(doc, "plugins", criRuntime, "containerd").(map[string]any), "default_runtime_name")
				delete(tomlAt(doc, "plugins", criRuntime, "containerd", "runtimes").(map[string]any), "gatewarden")
			}
			if !reflect.DeepEqual(before, after) {
				t.Errorf("more than that is different:\n%v\n%v", before, after)
			}
			mustGatewarden(t, "runtime", "unconfigure", "containerd", "--file", file)
			if data, err := os.ReadFile(file); err != nil || string(data) != config {
				t.Errorf("it is not as it was: %v\n%s", err, data)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "*", "*")); err != nil || len(left) > 0 {
				t.Errorf("left: %q, %v", left, err)
			}
		})
	}
}

func TestContainerdStartsWithOurHandlerAsTheDefault(t *testing.T) {
	dir := filepath.Join(host.Dir, uniqueID("cri"))
	mkdir(t, dir)
	defer os.RemoveAll(dir)
	file, socket := filepath.Join(dir, "config.toml"), filepath.Join(dir, "s")
	writeFile(t, file, fmt.Sprintf(`version = 3
root = %q
state = %q
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins."io.containerd.cri.v1.images"]
  snapshotter = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, socket+".ttrpc", host.Snapshotter()), 0o644)
	mustGatewarden(t, "runtime", "configure", "containerd", "--file", file, "--in-place", "--set-default")

	daemon := exec.Command(host.Tool("containerd"), "--config", file)
	daemon.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	var log bytes.Buffer
	daemon.Stdout, daemon.Stderr = &log, &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	stop := func() {
		if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		select {
		case <-ended:
		case <-time.After(commandTime):
			daemon.Process.Kill()
			<-ended
			t.Error("containerd does not end")
		}
	}
	var r harness.Result
	waited := time.Now()
	for r.Status = 1; r.Status != 0 && time.Since(waited) < commandTime; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), commandTime)
		var err error
		r, err = host.Run(ctx, host.Tool("ctr"), "--address", socket, "plugins", "ls", "id==runtime")
		cancel()
		if err != nil {
			stop()
			t.Fatal(err)
		}
	}
	stop()
	// Its state is "ok", not "error": a default handler that is not there is an error.
	if !strings.Contains(r.Stdout, "io.containerd.cri.v1") || !strings.Contains(r.Stdout, " ok ") && !strings.HasSuffix(strings.TrimSpace(r.Stdout), " ok") {
		t.Errorf("%v\n%s", r, log.String())
	}
}

func TestACDIDeviceInstallsItsGatewayWithTheStockShim(t *testing.T) {
	c := &container{t: t, h: host, id: uniqueID("c")}
	c.log = filepath.Join(t.TempDir(), "log")
	if err := host.WriteProfile(c.id, (&harness.Profile{}).TOML()); err != nil {
		t.Fatal(err)
	}
	etc := filepath.Join(host.Dir, uniqueID("etc"))
	defer os.RemoveAll(etc)
	mustGatewarden(t, "cdi", "generate", "--profile", c.id, "--output", filepath.Join(etc, "cdi", oci.CDIName), "--config", host.ConfigFile)
	t.Cleanup(c.remove)
	r := withEtc(t, etc, host.Tool("ctr"), "run", "-d", "--snapshotter", host.Snapshotter(), "--runtime", harness.Stock, "--log-uri", "file://"+c.log,
		"--device", oci.CDIKind+"="+c.id, "--user", strconv.Itoa(harness.WorkloadUID), harness.BaseImage, c.id, "sleep", "3600")
	if r.Status != 0 {
		t.Fatalf("the container does not start:\n%v\ncontainerd's log:\n%s", r, host.DaemonLog())
	}
	// With the stock shim nothing waits for the gateway.
	var s receipt.Status
	eventually(t, eventTime, "the gateway runs", func() bool {
		r := gatewarden(t, "status", "--json", host.Namespace+"/"+c.id)
		if r.Status != 0 {
			return false
		}
		s = decode[receipt.Status](t, r.Stdout)
		return s.State == receipt.Running
	}, func() string { return fmt.Sprintf("%+v", s) })
	if s.Gateway != c.id || s.PID == 0 {
		t.Errorf("%+v", s)
	}
	if r := gatewarden(t, "restart", host.Namespace+"/"+c.id); r.Status != 0 {
		t.Errorf("%v", r)
	}
}

// podmanConf is what an administrator has: directories of hooks of his own, and limits that fit any machine.
const podmanConf = `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
hooks_dir = [%q]
`

func TestPodmanRunsTheHookThatRuntimeConfigureGaveIt(t *testing.T) {
	root := atRoot(t)
	etc, own, called := filepath.Join(root, "etc"), filepath.Join(root, "own-hooks.d"), filepath.Join(root, "called")
	mkdir(t, own)
	// A stand-in for the hook, that says how it was called.
	hook := filepath.Join(host.Dir, uniqueID("hook"))
	writeFile(t, hook, "#!/bin/sh\necho \"$@\" >>"+called+"\n", 0o755)
	defer os.Remove(hook)
	mkdir(t, filepath.Join(root, filepath.Dir(hook)))
	writeFile(t, filepath.Join(root, hook), "", 0o755)
	settings := filepath.Join(host.Dir, uniqueID("settings")+".toml")
	writeFile(t, settings, fmt.Sprintf("version = 1\nhook = %q\nprofile_dir = %q\n", hook, host.ProfileDir), 0o644)
	defer os.Remove(settings)
	mkdir(t, filepath.Join(root, host.ProfileDir))
	writeFile(t, filepath.Join(root, host.ProfileDir, "demo.toml"), (&harness.Profile{}).TOML(), 0o644)
	mkdir(t, filepath.Join(etc, "containers"))
	writeFile(t, filepath.Join(etc, "containers", "containers.conf"), fmt.Sprintf(podmanConf, own), 0o644)
	writeFile(t, filepath.Join(own, "x.json"), `{"version":"1.0.0","hook":{"path":"`+hook+`","args":["hook","own"]},"when":{"always":true},"stages":["createRuntime"]}`, 0o644)

	rootfs := filepath.Join(root, "rootfs")
	mkdir(t, filepath.Join(rootfs, "bin"))
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(rootfs, "bin", "true"), string(data), 0o755)
	// run runs a container and gives how the hook was called.
	run := func(flags ...string) string {
		t.Helper()
		args := []string{"--root", filepath.Join(root, "graph"), "--runroot", filepath.Join(root, "run"), "--tmpdir", filepath.Join(root, "tmp"), "--runtime", host.Runc(),
			"run", "--rm", "--network", "none"}
		r := withEtc(t, etc, "/usr/bin/podman", append(append(args, flags...), "--rootfs", rootfs, "/bin/true")...)
		if r.Status != 0 {
			t.Fatalf("%v", r)
		}
		said, err := os.ReadFile(called)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(called)
		return string(said)
	}
	annotated, device := []string{"--annotation", oci.GatewayAnnotation + "=demo"}, []string{"--device", oci.CDIKind + "=demo"}

	if said := run(annotated...); said != "own\n" {
		t.Errorf("before: %q", said)
	}
	mustGatewarden(t, "runtime", "configure", "podman", "--root", root, "--cdi", "--profile", "demo", "--config", settings)
	ours := " --config " + settings
	if said, want := run(annotated...), "createRuntime"+ours+"\nown\npoststop"+ours+"\n"; said != want {
		t.Errorf("by the annotation: %q, want %q", said, want)
	}
	if said, want := run(device...), "createRuntime"+ours+" --profile demo\nown\npoststop"+ours+" --profile demo\n"; said != want {
		t.Errorf("by the device: %q, want %q", said, want)
	}
	if said := run("--annotation", "io.gatewarden.gateways=demo"); said != "own\n" {
		t.Errorf("without either: %q", said)
	}
	mustGatewarden(t, "runtime", "unconfigure", "podman", "--root", root, "--cdi", "--config", settings)
	if said := run(annotated...); said != "own\n" {
		t.Errorf("afterwards: %q", said)
	}
}
