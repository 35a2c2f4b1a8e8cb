// Package config reads the host's settings (design, end of section 5).
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"

	"github.com/gatewarden/gatewarden/internal/stricttoml"
	"github.com/gatewarden/gatewarden/internal/trusted"
)

// Config is where gatewarden keeps its things on this host. All are absolute paths in their shortest form.
type Config struct {
	ProfileDir string // profiles, NAME.toml
	RunDir     string // sockets and live state, NAMESPACE/ID
	StateDir   string // the audit log; journals and [[state]] directories, NAMESPACE/ID
	LogDir     string // gateway logs, NAMESPACE/ID
	Hook       string // the hook's binary, which the plugin puts into the bundle; if absent there, it is beside the shim
	AuditKey   string // private key that signs receipts; "": they are not signed
}

// DefaultPath is where Load looks when it is given no path.
const DefaultPath = "/etc/gatewarden/config.toml"

// MaxSize is the size in bytes up to which a config file is read.
const MaxSize = 64 << 10

// Default gives the settings of a host without a config file.
func Default() Config {
	return Config{
		ProfileDir: "/etc/gatewarden/gateways.d",
		RunDir:     "/run/gatewarden",
		StateDir:   "/var/lib/gatewarden",
		LogDir:     "/var/log/gatewarden",
		Hook:       "/usr/libexec/gatewarden/gatewarden-hook",
	}
}

// Load reads the settings at path, which must be root's alone. Without a path it reads DefaultPath, and gives Default if
// that does not exist; a path that was named must exist. The error is a *stricttoml.Problems, a *trusted.Error, or wraps
// the system's.
func Load(path string) (Config, error) {
	named := path != ""
	if !named {
		path = DefaultPath
	}
	data, err := trusted.ReadFile(path, MaxSize)
	if !named && errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("settings: %w", err)
	}
	return Parse(path, data)
}

// Parse reads settings from data; file is the name that problems carry. The error is a *stricttoml.Problems.
func Parse(file string, data []byte) (Config, error) {
	if len(data) > MaxSize {
		why := fmt.Sprintf("is %d bytes long; at most %d are read", len(data), MaxSize)
		return Config{}, &stricttoml.Problems{File: file, List: []stricttoml.Problem{{Message: why}}}
	}
	doc := stricttoml.Parse(file, data)
	if err := doc.Err(); err != nil {
		return Config{}, err
	}
	c, root := Default(), doc.Root()
	version := root.Require("version", "write version = 1 at the top")
	if n, ok := version.Integer(0, math.MaxInt64); ok && n != 1 {
		version.Fail("is %d; this gatewarden reads version 1", n)
	}
	readPath(root.Get("profile_dir"), &c.ProfileDir)
	readPath(root.Get("run_dir"), &c.RunDir)
	readPath(root.Get("state_dir"), &c.StateDir)
	readPath(root.Get("log_dir"), &c.LogDir)
	readPath(root.Get("hook"), &c.Hook)
	readPath(root.Get("audit_key"), &c.AuditKey)
	// The run directory's entries are removed with the container; nothing that is to last may be there.
	run, state, log := root.Get("run_dir"), root.Get("state_dir"), root.Get("log_dir")
	if c.StateDir == c.RunDir {
		cmp.Or(state, run).Fail("run_dir and state_dir are both %s; choose two places", stricttoml.Quote(c.RunDir))
	}
	if c.LogDir == c.RunDir {
		cmp.Or(log, run).Fail("run_dir and log_dir are both %s; choose two places", stricttoml.Quote(c.RunDir))
	}
	root.Close()
	if err := doc.Err(); err != nil {
		return Config{}, err
	}
	return c, nil
}

func readPath(v *stricttoml.Value, to *string) {
	s, ok := v.Text(4095) // PATH_MAX without the closing NUL
	switch {
	case !ok:
	case s == "":
		v.Fail("is empty; an absolute path is needed")
	case !path.IsAbs(s):
		v.Fail("%s is not absolute; write the path from / on", stricttoml.Quote(s))
	case path.Clean(s) != s:
		v.Fail("%s is not in its shortest form; write %s", stricttoml.Quote(s), stricttoml.Quote(path.Clean(s)))
	case s == "/":
		v.Fail("must not be the root directory")
	default:
		*to = s
	}
}
