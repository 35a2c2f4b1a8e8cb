package oci_test

import (
	"encoding/json"
	"errors"
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

// A container that may not have its gateway is refused, never started without one.
func ExampleGateway() {
	for _, annotations := range []map[string]string{
		{oci.GatewayAnnotation: "demo"}, {"other": "x"}, {oci.GatewayAnnotation: "../demo"},
	} {
		name, err := oci.Gateway(annotations)
		fmt.Printf("%q %v\n", name, err != nil)
	}
	// Output:
	// "demo" false
	// "" false
	// "" true
}

// What an edit would do is known before anything is written.
func ExampleEditConfig() {
	config := []byte(`{"process": {"noNewPrivileges": false, "novel": 1.0}, "root": {"path": "rootfs"}}`)
	planned, err := oci.EditConfig(config, func(spec *specs.Spec) error {
		if spec.Process == nil {
			return errors.New("there is nothing to run")
		}
		spec.Process.NoNewPrivileges = true
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(planned))
	// Output: {"process":{"noNewPrivileges":true,"novel":1.0},"root":{"path":"rootfs"}}
}

func ExampleAddHooksToBundle() {
	bundle, err := os.MkdirTemp("", "bundle")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(bundle)
	if err := os.WriteFile(filepath.Join(bundle, oci.ConfigName), []byte(`{"ociVersion": "1.3.0"}`), 0o600); err != nil {
		log.Fatal(err)
	}
	if err := oci.AddHooksToBundle(bundle, "/usr/libexec/gatewarden/gatewarden-hook", []string{"--profile", "demo"}); err != nil {
		log.Fatal(err)
	}
	spec, err := oci.LoadSpec(bundle)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.Join(spec.Hooks.CreateRuntime[0].Args, " "))
	// Output: gatewarden-hook createRuntime --profile demo
}

func ExampleHooksDocuments() {
	documents, err := oci.HooksDocuments("/usr/libexec/gatewarden/gatewarden-hook", nil)
	if err != nil {
		log.Fatal(err)
	}
	data, err := json.MarshalIndent(documents[oci.HooksName(oci.Poststop)], "", "  ")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(oci.HooksName(oci.Poststop))
	fmt.Println(string(data))
	// Output:
	// 90-gatewarden-poststop.json
	// {
	//   "version": "1.0.0",
	//   "hook": {
	//     "path": "/usr/libexec/gatewarden/gatewarden-hook",
	//     "args": [
	//       "gatewarden-hook",
	//       "poststop"
	//     ],
	//     "env": [
	//       "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	//     ],
	//     "timeout": 30
	//   },
	//   "when": {
	//     "annotations": {
	//       "^io\\.gatewarden\\.gateway(/.*)?$": ".*"
	//     }
	//   },
	//   "stages": [
	//     "poststop"
	//   ]
	// }
}

func ExampleCDISpec() {
	spec, err := oci.CDISpec("/usr/libexec/gatewarden/gatewarden-hook", nil, []string{"openclaw"})
	if err != nil {
		log.Fatal(err)
	}
	device := spec.Devices[0]
	fmt.Printf("--device %s=%s\n", spec.Kind, device.Name)
	for _, hook := range device.ContainerEdits.Hooks {
		fmt.Println(hook.HookName, hook.Args)
	}
	// Output:
	// --device gatewarden.io/gateway=openclaw
	// createRuntime [gatewarden-hook createRuntime --profile openclaw]
	// poststop [gatewarden-hook poststop --profile openclaw]
}
