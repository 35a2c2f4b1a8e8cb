//go:build integration && docker

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

// dockerd is a docker daemon of a test's own, with a containerd of its own.
type dockerd struct {
	t      *testing.T
	dir    string
	client http.Client
}

// startDockerd starts dockerd with a configuration, and ends it with the test.
func startDockerd(t *testing.T, config string) *dockerd {
	t.Helper()
	dir := filepath.Dir(config)
	d := &dockerd{t: t, dir: dir}
	socket := filepath.Join(dir, "s")
	d.client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	flags := []string{"--config-file", config, "--userland-proxy=false"}
	r, err := host.Run(t.Context(), host.Tool("dockerd"), append([]string{"--validate"}, flags...)...)
	if err != nil || r.Status != 0 {
		t.Fatalf("dockerd does not take what was written: %v\n%v", err, r)
	}
	cmd := exec.Command(host.Tool("dockerd"), append(flags, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+socket, "--bridge", "none", "--iptables=false", "--ip6tables=false")...)
	cmd.Env = host.Command(t.Context(), "dockerd").Env
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		select {
		case <-ended:
		case <-time.After(commandTime):
			cmd.Process.Kill()
			<-ended
			t.Error("dockerd does not end")
		}
		if t.Failed() {
			t.Logf("dockerd's log:\n%s", tail(log.Bytes()))
		}
	})
	eventually(t, commandTime, "dockerd serves", func() bool {
		r, err := d.client.Get("http://docker/_ping")
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	}, func() string { return "" })
	return d
}

// ask is one request of docker's API. It gives the answer, which has to have that status.
func (d *dockerd) ask(want int, method, path, kind string, body io.Reader) []byte {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, "http://docker"+path, body)
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	a, err := d.client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer a.Body.Close()
	data, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode != want {
		d.t.Fatalf("%s %s: %s %s %v", method, path, a.Status, data, err)
	}
	return data
}

// run makes and starts a container, and gives its ID. It is removed with the test.
func (d *dockerd) run(hostConfig map[string]any) string {
	d.t.Helper()
	hostConfig["NetworkMode"], hostConfig["SecurityOpt"] = "none", []string{"no-new-privileges"}
	body, err := json.Marshal(map[string]any{"Image": harness.BaseImage, "Cmd": []string{"sleep", "3600"}, "User": strconv.Itoa(harness.WorkloadUID), "HostConfig": hostConfig})
	if err != nil {
		d.t.Fatal(err)
	}
	var made struct{ ID string }
	if err := json.Unmarshal(d.ask(http.StatusCreated, "POST", "/containers/create", "application/json", bytes.NewReader(body)), &made); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		r, err := http.NewRequest("DELETE", "http://docker/containers/"+made.ID+"?force=true", nil)
		if err != nil {
			d.t.Fatal(err)
		}
		if a, err := d.client.Do(r); err != nil {
			d.t.Error(err)
		} else {
			a.Body.Close()
		}
	})
	d.ask(http.StatusNoContent, "POST", "/containers/"+made.ID+"/start", "", nil)
	return made.ID
}

func TestDockerRunsGatewaysByOurRuntimeAndByDevice(t *testing.T) {
	name := uniqueID("p")
	if err := host.WriteProfile(name, (&harness.Profile{}).TOML()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(host.Dir, uniqueID("docker"))
	mkdir(t, filepath.Join(dir, "cdi"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "daemon.json")
	const own = "{\n    \"debug\": true,\n    \"cdi-spec-dirs\": [%q],\n    \"runtimes\": {\n        \"other\": {\"path\": \"/usr/bin/other\"}\n    }\n}\n"
	before := fmt.Sprintf(own, filepath.Join(dir, "cdi"))
	writeFile(t, config, before, 0o600)
	mustGatewarden(t, "runtime", "configure", "docker", "--file", config)
	mustGatewarden(t, "cdi", "generate", "--profile", name, "--output", filepath.Join(dir, "cdi", oci.CDIName))

	d := startDockerd(t, config)
	var info struct{ Runtimes map[string]any }
	if err := json.Unmarshal(d.ask(http.StatusOK, "GET", "/info", "", nil), &info); err != nil || info.Runtimes["gatewarden"] == nil || info.Runtimes["other"] == nil {
		t.Errorf("runtimes %v, %v", info.Runtimes, err)
	}
	image := filepath.Join(dir, "image.tar")
	r, err := host.Ctr(t.Context(), "images", "export", image, harness.BaseImage)
	if err != nil || r.Status != 0 {
		t.Fatalf("%v\n%v", err, r)
	}
	archive, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	d.ask(http.StatusOK, "POST", "/images/load", "application/x-tar", archive)

	for way, hostConfig := range map[string]map[string]any{
		"our runtime and the annotation": {"Runtime": "gatewarden", "Annotations": map[string]string{oci.GatewayAnnotation: name}},
		"docker's runtime and a device":  {"DeviceRequests": []map[string]any{{"Driver": "cdi", "DeviceIDs": []string{oci.CDIKind + "=" + name}}}},
	} {
		t.Run(way, func(t *testing.T) {
			d := &dockerd{t, d.dir, d.client}
			id := "moby/" + d.run(hostConfig)
			var s receipt.Status
			eventually(t, eventTime, "the gateway runs", func() bool {
				r := gatewarden(t, "status", "--json", id)
				if r.Status == 0 {
					s = decode[receipt.Status](t, r.Stdout)
				}
				return s.State == receipt.Running
			}, func() string { return fmt.Sprintf("%+v", s) })
			if r := gatewarden(t, "restart", id); r.Status != 0 || s.Gateway != name {
				t.Errorf("gateway %s, %v", s.Gateway, r)
			}
		})
	}
	d.run(map[string]any{"Runtime": "gatewarden"}) // without a gateway
	if ps := mustGatewarden(t, "ps"); strings.Contains(ps, "moby/") {
		t.Errorf("gateways are left, or one that nobody asked for:\n%s", ps)
	}
	mustGatewarden(t, "runtime", "unconfigure", "docker", "--file", config)
	if data, err := os.ReadFile(config); err != nil || string(data) != before {
		t.Errorf("it is not as it was: %v\n%s", err, data)
	}
}
