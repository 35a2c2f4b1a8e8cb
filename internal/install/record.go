// Package install is the hook's work: at createRuntime it puts a gateway beside a container's workload, by checking the
// container's posture, placing the profile's mounts, and starting the warden; at poststop it clears up.
//
// It runs as root on the host, started by an OCI runtime, with a bundle that a client of that runtime wrote. Whatever
// it made, it removes again if a later step fails, and then the container's creation fails with one line.
package install

import (
	"fmt"
	"path/filepath"

	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/mount"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/strictjson"
	"github.com/gatewarden/gatewarden/oci"
)

// Files of a container's run directory, RUN_DIR/NAMESPACE/ID, that this package makes.
const (
	RecordName = "install.json" // an Install
	LockName   = "lock"         // flock(2)ed by the warden for its whole life; its content means nothing
)

// LogName is the warden's own log in the container's log directory, LOG_DIR/NAMESPACE/ID.
const LogName = "warden.log"

// Descriptors that the warden (`gatewarden-hook warden DIR`) inherits from the hook, beside standard input and output,
// which are /dev/null, and standard error, which is LogName.
const (
	HandshakeFD = 3 // the write end of a pipe: the warden writes "ok\n", or "error: WHY\n", once, and closes it
	LockFD      = 4 // LockName, open and locked; to be kept open and never unlocked by hand
)

// HandshakeOK is the warden's line that it supervises the container from now on. Anything else is an error's text.
const HandshakeOK = "ok"

// HandshakeError precedes the warden's reason when it cannot.
const HandshakeError = "error: "

// recordVersion is the version of Install's form. A hook and the warden that it starts are the same binary, so there is
// one version at a time; other readers refuse what they do not know.
const recordVersion = 1

// maxRecord bounds install.json, in bytes. A record holds some paths and one entry per mount, of which a profile has at
// most 64.
const maxRecord = 1 << 20

// Install records one gateway's installation. The hook writes it once, for the warden and for `gatewarden status`.
type Install struct {
	Version       int            `json:"version"`
	Namespace     string         `json:"namespace"`
	ID            string         `json:"id"`
	Bundle        string         `json:"bundle"`
	Rootfs        string         `json:"rootfs"` // host path of the root filesystem, absolute
	InitPID       int            `json:"init_pid"`
	InitStart     uint64         `json:"init_start"`        // clock ticks since boot, proc_pid_stat(5) field 22
	RuntimeRoot   string         `json:"runtime_root"`      // directory that holds the runtime's own ID directory; "" if unknown
	Runtime       string         `json:"runtime,omitempty"` // the runtime's program; "" if it is not known, and then libcontainer joins or nobody
	Profile       string         `json:"profile"`           // its name
	Mounts        []mount.Placed `json:"mounts"`            // [[mount]] entries first, then [[state]] entries, each in the profile's order
	PostureAllows []string       `json:"posture_allows"`
	Config        Paths          `json:"config"`
}

// Paths are the host's settings at install time. The warden uses these, not a config file that may have changed since.
type Paths struct {
	ProfileDir string `json:"profile_dir"`
	RunDir     string `json:"run_dir"`
	StateDir   string `json:"state_dir"`
	LogDir     string `json:"log_dir"`
	AuditKey   string `json:"audit_key,omitempty"` // "": receipts are not signed
}

// Container names the container instance.
func (i Install) Container() receipt.Container {
	return receipt.Container{Namespace: i.Namespace, ID: i.ID, InitPID: i.InitPID, InitStart: i.InitStart}
}

// RunDir is the container's directory for sockets and live state.
func (i Install) RunDir() string { return filepath.Join(i.Config.RunDir, i.Namespace, i.ID) }

// StateDir is the container's directory for its journal and [[state]] directories.
func (i Install) StateDir() string { return filepath.Join(i.Config.StateDir, i.Namespace, i.ID) }

// LogDir is the container's directory for logs.
func (i Install) LogDir() string { return filepath.Join(i.Config.LogDir, i.Namespace, i.ID) }

// Read reads the record in the run directory dir. It fails with fs.ErrNotExist where there is none.
func Read(dir string) (Install, error) {
	path := filepath.Join(dir, RecordName)
	data, err := readBounded(path, maxRecord)
	if err != nil {
		return Install{}, err
	}
	i, err := parse(data)
	if err != nil {
		return Install{}, fmt.Errorf("cannot use %s: %w", path, err)
	}
	return i, nil
}

// parse is strict: the record is gatewarden's own, so anything unknown or missing means that it is not what it seems.
func parse(data []byte) (Install, error) {
	i, err := strictjson.Decode[Install](data)
	if err != nil {
		return Install{}, err
	}
	return i, i.validate()
}

func (i Install) validate() error {
	if i.Version != recordVersion {
		return fmt.Errorf("version %d is not %d, which this binary writes", i.Version, recordVersion)
	}
	for name, v := range map[string]string{"namespace": i.Namespace, "id": i.ID} {
		if !oci.ValidID(v) {
			return fmt.Errorf("%s %.80q is not a name", name, v)
		}
	}
	if !oci.ValidProfileName(i.Profile) {
		return fmt.Errorf("profile %.80q is not a profile's name", i.Profile)
	}
	if i.InitPID <= 0 || i.InitStart == 0 {
		return fmt.Errorf("init_pid %d with init_start %d is not a process", i.InitPID, i.InitStart)
	}
	paths := map[string]string{
		"bundle": i.Bundle, "rootfs": i.Rootfs, "config.profile_dir": i.Config.ProfileDir, "config.run_dir": i.Config.RunDir,
		"config.state_dir": i.Config.StateDir, "config.log_dir": i.Config.LogDir,
	}
	if i.RuntimeRoot != "" {
		paths["runtime_root"] = i.RuntimeRoot
	}
	if i.Runtime != "" {
		paths["runtime"] = i.Runtime
	}
	if i.Config.AuditKey != "" {
		paths["config.audit_key"] = i.Config.AuditKey
	}
	for name, p := range paths {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("%s %.200q is not an absolute path", name, p)
		}
	}
	for n, m := range i.Mounts {
		if !filepath.IsAbs(m.Source) || !filepath.IsAbs(m.Target) || m.MountID == 0 {
			return fmt.Errorf("mounts[%d] is not complete", n)
		}
	}
	return nil
}

func paths(c config.Config) Paths {
	return Paths{ProfileDir: c.ProfileDir, RunDir: c.RunDir, StateDir: c.StateDir, LogDir: c.LogDir, AuditKey: c.AuditKey}
}
