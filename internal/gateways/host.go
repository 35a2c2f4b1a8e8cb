// Package gateways is the gateways of a host as who asks about them finds them: which containers have one, what their wardens say
// and have written down, and what is kept of containers that are gone. The gatewarden command, the shim's virtual exec and the
// public package client all ask by it.
package gateways

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// Host is one host. It keeps nothing open.
type Host struct {
	Config    config.Config
	Namespace string // where a container named by its ID alone is looked for first
	Via       string // receipt's requested_by.via
	// Installed: only the settings' hook program is started as a warden, and none that lies beside the caller's own program.
	Installed bool
}

// RunDir is the container's run directory, which is there as long as the container.
func (h Host) RunDir(t Target) string { return control.Dir(h.Config.RunDir, t.Namespace, t.ID) }

// StateDir is where the container's journal, generations and state lie. It may outlive the container.
func (h Host) StateDir(t Target) string { return filepath.Join(h.Config.StateDir, t.Namespace, t.ID) }

// LogDir is where the logs of the container's gateway and warden lie.
func (h Host) LogDir(t Target) string { return filepath.Join(h.Config.LogDir, t.Namespace, t.ID) }

// Log is the log of what the container's gateway wrote, which package gatewaylog reads.
func (h Host) Log(t Target) string { return filepath.Join(h.LogDir(t), "gateway.log") }

// Journal is the container's journal, which package journal reads.
func (h Host) Journal(t Target) string { return filepath.Join(h.StateDir(t), "receipts.jsonl") }

// Known gives an error with not_managed unless t has a directory of its own at dir, or at least a run directory.
func (h Host) Known(t Target, dir string) error {
	for _, d := range []string{dir, h.RunDir(t)} {
		_, err := os.Lstat(d)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return code.Errorf(code.NotManaged, code.StageQueue, "%s has no gateway: neither %s nor %s exists", t, dir, h.RunDir(t))
}

// Receipts gives the last n receipts of t's journal, oldest first; all of them if n is not positive. With an error of type
// *journal.SkippedError the receipts are good. A container that is known and has no journal yet has none.
func (h Host) Receipts(t Target, n int) ([]receipt.Receipt, error) {
	if err := h.Known(t, h.StateDir(t)); err != nil {
		return nil, err
	}
	return journal.Read(h.Journal(t), n)
}

// Follow is audit.Follow for the containers that are wanted; no wanted means all. A since that is not in the log gives an error
// with not_managed.
func (h Host) Follow(ctx context.Context, wanted []Target, since string, event func(audit.Event) error, gap func(audit.Gap) error) error {
	set := map[Target]bool{}
	for _, t := range wanted {
		set[t] = true
	}
	err := audit.Follow(ctx, audit.Log(h.Config.StateDir), since, func(e audit.Event) error {
		if len(set) > 0 && !set[Target{e.Container.Namespace, e.Container.ID}] {
			return nil
		}
		return event(e)
	}, gap)
	if unknown, ok := errors.AsType[*audit.UnknownError](err); ok {
		return code.Errorf(code.NotManaged, code.StageQueue, "cannot begin after receipt %s: %w", since, unknown)
	}
	return err
}
