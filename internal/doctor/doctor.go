// Package doctor looks at a host and says what it lacks for gatewarden, each with a remedy. Everything is found out by
// trying, as far as trying has no effect: a kernel's version says little about what a distribution's kernel can do, or
// about what a sandbox around it allows.
package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/idmap"
)

// Level is how much a finding matters.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // works, or matters only to some uses
	Fail Level = "fail" // containers with a gateway do not start here, or are not safe
)

// Finding is one thing that was looked at.
type Finding struct {
	Area   string `json:"area"` // "kernel", "cgroup", "runtime", …
	Name   string `json:"name"`
	Level  Level  `json:"level"`
	Detail string `json:"detail"` // what was found
	Remedy string `json:"remedy"` // what to do about it; empty when all is well
}

// Host says what to look at.
type Host struct {
	Config     config.Config
	ConfigPath string // as named by the user; empty: the default one
	ConfigErr  error  // why the settings could not be read; Config then holds the defaults
	Address    string // containerd's socket
	Version    string // the asking program's
	Path       string // this program's PATH, for the runtime and the shim
}

// DefaultAddress is where containerd listens unless told otherwise.
const DefaultAddress = "/run/containerd/containerd.sock"

// Examine looks at everything, in the order in which an administrator would repair it. It changes nothing.
func Examine(ctx context.Context, h Host) []Finding {
	daemon := findContainerd(h.Address)
	defer daemon.Close()
	// The shim that containerd starts looks for runc where containerd would; so does the hook's search beside the shim.
	if env, err := daemon.environ(); err == nil && env["PATH"] != "" {
		h.Path = env["PATH"] + string(filepath.ListSeparator) + h.Path
	}
	var all []Finding
	all = append(all, user(os.Geteuid()))
	all = append(all, kernel()...)
	all = append(all, cgroups("/sys/fs/cgroup")...)
	all = append(all, runtimes(ctx, h.Path)...)
	all = append(all, paths(h)...)
	all = append(all, profiles(h.Config.ProfileDir)...)
	all = append(all, hook(ctx, h))
	all = append(all, auditKey(ctx, h)...)
	all = append(all, shim(ctx, h))
	all = append(all, containerd(ctx, h, daemon)...)
	all = append(all, wardens(ctx, h)...)
	return all
}

// Failed tells whether one of the findings is a Fail.
func Failed(all []Finding) bool {
	for _, f := range all {
		if f.Level == Fail {
			return true
		}
	}
	return false
}

func user(euid int) Finding {
	f := Finding{Area: "permissions", Name: "user", Level: OK, Detail: "root"}
	if euid != 0 {
		f.Level = Fail
		f.Detail = fmt.Sprintf("UID %d; what follows is seen with its eyes, and much of it fails for that alone", euid)
		f.Remedy = "run gatewarden doctor as root"
	} else if err := idmap.Initial(); err != nil {
		f.Level = Fail
		f.Detail = fmt.Sprintf("root, but %v; gateways are not installed from there, as by rootless engines", err)
		f.Remedy = "run gatewarden doctor, and the engine, as root of the host itself"
	}
	return f
}
