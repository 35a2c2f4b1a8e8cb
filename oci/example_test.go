package oci_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gatewarden/gatewarden/oci"
)

func ExampleReadState() {
	stdin := strings.NewReader(`{"ociVersion":"1.3.0","id":"web","status":"creating","pid":4711,"bundle":"/run/b","annotations":{"io.gatewarden.gateway":"demo"}}`)
	state, err := oci.ReadState(stdin, oci.CreateRuntime)
	if err != nil {
		log.Fatal(err)
	}
	gateway, err := oci.Gateway(state.Annotations)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("container %s, init %d, gateway %s\n", state.ID, state.PID, gateway)
	// Output: container web, init 4711, gateway demo
}

func ExampleAddHooks() {
	spec := &specs.Spec{Version: specs.Version}
	oci.AddHooks(spec, "/usr/libexec/gatewarden/gatewarden-hook", []string{"--config", "/etc/gatewarden/config.toml"})
	fmt.Println(strings.Join(spec.Hooks.CreateRuntime[0].Args, " "))
	fmt.Println(strings.Join(spec.Hooks.Poststop[0].Args, " "))
	// Output:
	// gatewarden-hook createRuntime --config /etc/gatewarden/config.toml
	// gatewarden-hook poststop --config /etc/gatewarden/config.toml
}

func ExampleEditBundle() {
	bundle, err := os.MkdirTemp("", "bundle")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(bundle)
	config := filepath.Join(bundle, oci.ConfigName)
	if err := os.WriteFile(config, []byte(`{"hostname": "web", "fromTheFuture": 1.50}`), 0o600); err != nil {
		log.Fatal(err)
	}
	err = oci.EditBundle(bundle, func(spec *specs.Spec) error {
		spec.Hostname = "gateway"
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	data, err := os.ReadFile(config)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(data))
	// Output: {"fromTheFuture":1.50,"hostname":"gateway"}
}
