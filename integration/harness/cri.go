package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gatewarden/gatewarden/integration/kubelet"
	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
)

// cri is what a host has whose containerd serves CRI, as on a node of Kubernetes.
type cri struct {
	handlers string   // the file of runtime handlers, as users get it
	pods     bool     // pods can have networks of their own
	network  *os.File // the network namespace of the node
	config   string   // of containerd, in addition
}

// CRIOptions are how a node is made.
type CRIOptions struct {
	// Handlers is the path, in the repository or absolute, of the configuration that adds the runtime handler. It is used as it is but
	// for the path of the shim.
	Handlers string
	// NoCNI makes a node without a network for pods, on which only pods with the host's network run.
	NoCNI bool
}

// PauseImage is the image of pods' sandboxes.
const PauseImage = "test.local/pause:latest"

// kubernetes is the containerd namespace of all that CRI makes.
const kubernetes = "k8s.io"

// installedShim is where packages put the shim, and configuration for users has it.
const installedShim = "/usr/bin/containerd-shim-gatewarden-v2"

// StartCRI makes a host whose containerd serves CRI. It stands in a network namespace of its own, with a bridge for pods by
// Debian's CNI plugins, so that the machine's network is as it was, and what pods with the host's network share is not it.
func StartCRI(ctx context.Context, o CRIOptions) (*Host, error) {
	network, err := netnstest.Make()
	if err != nil {
		return nil, fmt.Errorf("make a network namespace for containerd: %w", err)
	}
	h, err := start(ctx, kubernetes, Pinned, &cri{handlers: o.Handlers, pods: !o.NoCNI, network: network})
	if err != nil {
		network.Close()
		return nil, err
	}
	// Not all of a node's images are the tests' base image: a sandbox has one program.
	pause, err := h.TestProgram("pause")
	if err == nil {
		err = h.Import(ctx, Image{Name: PauseImage, Bare: true, Command: []string{"/pause"}, Files: []File{{Path: "/pause", Mode: 0o755, Content: pause}}})
	}
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// criConfig is the daemon's configuration in addition. Everything of pods lies below the host's directory, network namespaces too.
const criConfig = `
[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.cri.v1.images"]
  snapshotter = %q
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = %q

[plugins."io.containerd.cri.v1.runtime"]
  cdi_spec_dirs = []
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true # the machine of a CI job may not let root lower it
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%q]
    conf_dir = %q
`

func (h *Host) prepareCRI() error {
	h.Cgroup = filepath.Base(h.Dir)
	net := filepath.Join(h.Dir, "net.d")
	if err := os.Mkdir(net, 0o755); err != nil {
		return err
	}
	path := h.cri.handlers
	if !filepath.IsAbs(path) {
		path = filepath.Join(h.Repository, path)
	}
	handlers, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if strings.Count(string(handlers), installedShim) != 1 {
		return fmt.Errorf("%s does not name %s once", h.cri.handlers, installedShim)
	}
	handlers = []byte(strings.ReplaceAll(string(handlers), installedShim, h.Bin("containerd-shim-gatewarden-v2")))
	if err := os.WriteFile(filepath.Join(h.Dir, "conf.d", filepath.Base(h.cri.handlers)), handlers, 0o644); err != nil {
		return err
	}
	plugins, err := h.cniPlugins()
	if err != nil {
		return err
	}
	if h.cri.pods {
		if err := h.writeNetwork(filepath.Join(net, "10-bridge.conflist")); err != nil {
			return err
		}
	}
	h.cri.config = fmt.Sprintf(criConfig, h.snapshotter, PauseImage, plugins, net)
	return nil
}

// cniPlugins is the directory of Debian's CNI plugins.
func (h *Host) cniPlugins() (string, error) {
	const dir = "/usr/lib/cni"
	for _, root := range []string{filepath.Join(h.Repository, ".cache", "programs"), "/"} {
		if at := filepath.Join(root, dir); exists(filepath.Join(at, "bridge")) {
			return at, nil
		}
	}
	return "", fmt.Errorf("there are no CNI plugins in %s: run make programs", dir)
}

// writeNetwork declares the network of pods: a bridge, in the namespace of containerd. CNI's library keeps what it did by the
// network's name in a directory that a machine has once (networkResults).
func (h *Host) writeNetwork(path string) error {
	type object = map[string]any
	data, err := json.Marshal(object{
		"cniVersion": "1.0.0",
		"name":       h.Cgroup,
		"plugins": []object{{
			"type": "bridge", "bridge": "pods", "isGateway": true,
			"ipam": object{"type": "host-local", "dataDir": filepath.Join(h.Dir, "addresses"), "ranges": [][]object{{{"subnet": "10.99.0.0/24"}}}},
		}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// networkResults is libcni's default directory.
const networkResults = "/var/lib/cni/results"

// networksLeft lists what CNI has of pods that are gone: the record of an attachment, and its address.
func (h *Host) networksLeft() []string {
	if h.cri == nil {
		return nil
	}
	results, _ := filepath.Glob(filepath.Join(networkResults, h.Cgroup+"-*"))
	// Beside the addresses lie the lock and the last one given.
	addresses, _ := filepath.Glob(filepath.Join(h.Dir, "addresses", "*", "10.*"))
	var left []string
	for _, path := range append(results, addresses...) {
		left = append(left, "network "+path)
	}
	return left
}

// closeCRI removes what a node has outside its directory.
func (h *Host) closeCRI() error {
	if h.cri == nil {
		return nil
	}
	results, _ := filepath.Glob(filepath.Join(networkResults, h.Cgroup+"-*"))
	var errs []error
	for _, path := range results {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(append(errs, h.cri.network.Close())...)
}

// Kubelet is a kubelet for a node. The caller closes it.
func (h *Host) Kubelet() (*kubelet.Node, error) {
	logs := filepath.Join(h.Dir, "pods")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	return kubelet.Connect(kubelet.Settings{Socket: h.Address, Network: h.cri.network, CgroupParent: "/" + h.Cgroup, LogDirectory: logs})
}
