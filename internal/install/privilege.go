package install

import (
	"fmt"
	"os"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/idmap"
)

// Privileged checks that this process can install a gateway: that it is root of the host's own user namespace. The hooks of a
// rootless runtime are neither; the error says what is missing, and what to do.
//
// It is a matter of what a gateway is, not of what could be made to work: the user who runs a rootless container is, to every
// process in it and to a warden beside it, what root is to others. Nothing would be kept from that user's other processes, which
// the workload may be able to start.
func Privileged() error {
	missing := ""
	if uid := os.Geteuid(); uid != 0 {
		missing = fmt.Sprintf("the hook runs as UID %d", uid)
	} else if err := idmap.Initial(); err != nil {
		missing = fmt.Sprintf("the hook runs as root, but %v", err)
	}
	if missing == "" {
		return nil
	}
	return code.Errorf(code.PostureRefused, code.StageInstall,
		"a gateway needs a runtime that is root on the host, and %s: this runtime is rootless. Its warden could not have a UID that is the gateway's alone, "+
			"nor keep the gateway from the user who runs the container. Cure: run the container with the host's own engine, as root (sudo podman, sudo ctr, sudo nerdctl, "+
			"the system's Docker or kubelet; with --userns or --uidmap its root is still not the host's), or without a gateway: without the annotation or device that names one",
		missing)
}
