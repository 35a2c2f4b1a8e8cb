//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

// startPodman makes the host's podman once.
var startPodman = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*commandTime)
	defer cancel()
	return host.StartPodman(ctx)
})

// podman runs podman.
func podman(t *testing.T, args ...string) harness.Result {
	t.Helper()
	if err := startPodman(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*commandTime)
	defer cancel()
	r, err := host.Podman(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustPodman(t *testing.T, args ...string) string {
	t.Helper()
	r := podman(t, args...)
	if r.Status != 0 {
		t.Fatalf("%v\nthe hooks noted: %s", r, host.HookLog())
	}
	return strings.TrimSpace(r.Stdout)
}

// podmanKnows gives podman the documents by which a user chooses the profile: a hooks.d document or a CDI device. It gives the
// flags by which to choose it.
func podmanKnows(t *testing.T, way, profile string) []string {
	t.Helper()
	args := []string{"--config", host.ConfigFile, "--namespace", host.Namespace}
	hook := host.Bin("gatewarden-hook")
	document := func(path string, content any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, string(data), 0o644)
	}
	if way == "CDI device" {
		spec, err := oci.CDISpec(hook, args, []string{profile})
		document(filepath.Join(host.CDIDir(), oci.CDIName), spec, err)
		return []string{"--device", oci.CDIKind + "=" + profile}
	}
	documents, err := oci.HooksDocuments(hook, args)
	for name, d := range documents {
		document(filepath.Join(host.PodmanHooksDir(), name), d, err)
	}
	return []string{"--annotation", oci.GatewayAnnotation + "=" + profile}
}

func TestPodmanInstallsAGatewayAndTheCommandRestartsItInPlace(t *testing.T) {
	if err := startPodman(); err != nil {
		t.Fatal(err)
	}
	for runtime, program := range map[string]string{"crun": "/usr/bin/crun", "runc": "/usr/sbin/runc"} {
		for _, way := range []string{"annotation", "CDI device"} {
			t.Run(runtime+", "+way, func(t *testing.T) {
				profile := harness.Profile{}
				if way == "CDI device" {
					// The administrator's document names the profile, which no annotation may.
					profile.Select = "annotation = false"
				}
				name := uniqueID("podman")
				writeProfile(t, name, profile.TOML())
				flags := append([]string{"--runtime", program, "run", "-d", "--name", name}, podmanKnows(t, way, name)...)
				t.Cleanup(func() {
					mustPodman(t, "rm", "--force", "--time", "0", name)
					if err := host.CheckClean(goneTime); err != nil {
						t.Error(err)
					}
				})
				create := append(flags, "--user", "1000", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
					"--cgroup-parent", "/"+host.Namespace, harness.BaseImage, "/bin/sleep", "1000")
				p := bareContainer{t: t, id: mustPodman(t, create...)}
				if len(p.id) != 64 {
					t.Fatalf("podman run prints %q", p.id)
				}
				s := p.running()
				// Podman's containers have a seccomp profile, and what joins them gets it.
				checkPosture(t, "gateway", s.PID, true)
				fetched := func() string {
					t.Helper()
					return mustPodman(t, "exec", name, "/usr/local/bin/testworkload", "get", "http://"+harness.GatewayAddress+"/")
				}
				if who := decode[who](t, fetched()); who.UID != harness.GatewayUID {
					t.Errorf("the workload's gateway is %+v", who)
				}
				for range 2 {
					r := gatewarden(t, "restart", "--json", p.name())
					if r.Status != code.ExitOK {
						t.Fatal(r)
					}
					if got := decode[receipt.Receipt](t, r.Stdout); got.Outcome != receipt.Replaced || got.Old.PID != s.PID || !got.Workload.Unchanged {
						t.Errorf("%+v", got)
					}
					s = p.until("a standby is there", func(s receipt.Status) bool { return s.Standby.PID != 0 })
					checkPosture(t, "successor", s.PID, true)
				}
				fetched()

				mustPodman(t, "pause", name)
				refused(t, gatewarden(t, "restart", p.name()), code.ExitRefused, "paused")
				mustPodman(t, "unpause", name)
				if r := gatewarden(t, "restart", p.name()); r.Status != code.ExitOK {
					t.Error(r)
				}

				// The container under the same name, and another init.
				before := p.running().Warden.PID
				mustPodman(t, "restart", "--time", "0", name)
				p.until("its gateway is there again", func(s receipt.Status) bool { return s.State == receipt.Running && s.Warden.PID != before })
				fetched()
				mustPodman(t, "stop", "--time", "0", name)
				refused(t, gatewarden(t, "restart", p.name()), code.ExitNotManaged, "not_managed")
			})
		}
	}
}

// Crun gives nobody what a hook says, and so podman cannot tell why the container was not made.
func TestWhyPodmansContainerIsRefusedIsNotedOnTheHost(t *testing.T) {
	if err := startPodman(); err != nil {
		t.Fatal(err)
	}
	for runtime, program := range map[string]string{"crun": "/usr/bin/crun", "runc": "/usr/sbin/runc"} {
		t.Run(runtime, func(t *testing.T) {
			name := uniqueID("podman")
			writeProfile(t, name, harness.Profile{}.TOML())
			t.Cleanup(func() { mustPodman(t, "rm", "--force", "--ignore", name) })
			args := append([]string{"--runtime", program, "run", "-d", "--name", name}, podmanKnows(t, "annotation", name)...)
			r := podman(t, append(args, harness.BaseImage, "/bin/sleep", "1000")...)
			if r.Status == 0 {
				t.Errorf("a workload that is root with CAP_KILL runs beside its gateway: %v", r)
			}
			const why = "workload-cap-kill: the workload runs as root and holds CAP_KILL"
			if said := strings.Contains(r.Stderr, why); said != (runtime == "runc") {
				t.Errorf("the user is told: %v: %v", said, r)
			}
			noted := host.HookLog()
			if !strings.Contains(noted, why) || !strings.Contains(noted, "--cap-drop") || !strings.Contains(noted, "hook=createRuntime") {
				t.Errorf("it is noted: %s", noted)
			}
			if err := host.CheckClean(goneTime); err != nil {
				t.Error(err)
			}
		})
	}
}
