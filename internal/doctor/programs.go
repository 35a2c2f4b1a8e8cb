package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/trusted"
)

const (
	hookName = "gatewarden-hook"
	shimName = "containerd-shim-gatewarden-v2"
)

// hook looks at the hook's binary: the settings', or the one beside the shim, which the shim takes if that is missing.
func hook(ctx context.Context, h Host) Finding {
	f := Finding{Area: "programs", Name: hookName, Level: OK}
	path := h.Config.Hook
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		shim := shimFor(h)
		beside := filepath.Join(filepath.Dir(shim), hookName)
		if _, err := os.Stat(beside); shim == "" || err != nil {
			f.Level, f.Detail = Fail, path+" does not exist, and there is none beside the shim"
			f.Remedy = "install " + hookName + " there, or name it as hook in the settings"
			return f
		}
		path = beside
	}
	return program(ctx, f, path, h.Version, "version")
}

// maxKey bounds the audit key's file, in bytes.
const maxKey = 16 << 10

// auditKey judges the key that is to sign receipts, if there is to be one. A container starts without it all the same, and what
// is then recorded is not signed. Whether it is a key is told by the hook's program, which has the cryptography.
func auditKey(ctx context.Context, h Host) []Finding {
	path := h.Config.AuditKey
	if path == "" {
		return nil
	}
	f := Finding{Area: "permissions", Name: "audit_key", Level: OK, Detail: path}
	const otherwise = "; then replace the wardens that have not read it: gatewarden upgrade-warden"
	if _, err := trusted.ReadSecret(path, maxKey); err != nil {
		f.Level, f.Detail = Fail, "receipts are not signed: "+oneLine(err)
		f.Remedy = cures(err, "openssl genpkey -algorithm ed25519 -out "+path+" && chmod 0600 "+path) + otherwise
		return []Finding{f}
	}
	program, err := install.HookPath(h.Config.Hook)
	if err == nil {
		_, err = output(ctx, program, "verify", "--key", path)
	}
	if err != nil {
		f.Level, f.Detail = Fail, "receipts are not signed: "+oneLine(err)
		f.Remedy = "make another: openssl genpkey -algorithm ed25519 -out " + path + " && chmod 0600 " + path + otherwise
	}
	return []Finding{f}
}

// shim looks for the shim where a user of this PATH, or this program's directory, would have it. Which one containerd
// takes is containerd's finding.
func shim(ctx context.Context, h Host) Finding {
	f := Finding{Area: "programs", Name: shimName, Level: OK}
	path := shimFor(h)
	if path == "" {
		f.Level, f.Detail = Warn, "not in PATH ("+h.Path+"), nor beside this program"
		f.Remedy = "install " + shimName + " into a directory of containerd's PATH, such as /usr/local/bin; podman and plain runc need none"
		return f
	}
	return program(ctx, f, path, h.Version, "-v")
}

func shimFor(h Host) string {
	dirs := h.Path
	if self, err := os.Executable(); err == nil {
		dirs += string(filepath.ListSeparator) + filepath.Dir(self)
	}
	return lookPath(shimName, dirs)
}

// program judges a binary that root will run: nobody else may change it, and it must be of our version.
func program(ctx context.Context, f Finding, path, version string, args ...string) Finding {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		f.Level, f.Detail, f.Remedy = Fail, err.Error(), "install "+f.Name+" as "+path
		return f
	}
	file, err := trusted.Open(real)
	if err != nil {
		f.Level, f.Detail, f.Remedy = Fail, oneLine(err), cures(err, "chown root:root "+real+" && chmod 0755 "+real)
		return f
	}
	file.Close()
	out, err := output(ctx, real, args...)
	if err != nil {
		f.Level, f.Detail, f.Remedy = Fail, err.Error(), "chmod 0755 "+real+", or install it anew for this machine's architecture"
		return f
	}
	f.Detail = path + ", version " + version
	if !slices.Contains(strings.Fields(out), version) {
		f.Level = Warn
		f.Detail = path + " says " + strings.Join(strings.Fields(out), " ") + ", this command is " + version
		f.Remedy = "install all three programs from one release"
	}
	return f
}
