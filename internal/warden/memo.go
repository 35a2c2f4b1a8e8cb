package warden

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// memo is what a warden leaves for the next one, should it be lost: which process is the gateway, and what was meant for
// it. It is written before the deed: before a launcher is released, and before the gateway is signalled. It is a hint where
// to look and never a proof: the successor proves all of it again.
//
// It lies beside the control socket, in memory (/run), so it is not synced: it has to survive the warden, not the host.
type memo struct {
	Version    int              `json:"version"`
	State      receipt.State    `json:"state"`
	Since      time.Time        `json:"since"`
	Code       code.Code        `json:"code"`
	Message    string           `json:"message"`
	Generation int              `json:"generation"`
	Restarts   receipt.Restarts `json:"restarts"`
	Exits      []time.Time      `json:"exits"`
	Backoff    time.Duration    `json:"backoff"`
	Gateway    *receipt.New     `json:"gateway"`  // the gateway, or the launcher that is about to become it
	Identity   process.Identity `json:"identity"` // of that process; of the launcher until it has been released
	Asked      bool             `json:"asked"`    // its end has been asked for
	Proven     bool             `json:"proven"`
	Adrift     bool             `json:"adrift,omitempty"` // its output goes to FIFOs that are not in the run directory any more
	Profile    profile.Profile  `json:"profile"`          // that it was started with
	Pending    *pending         `json:"pending"`          // the action in progress, past its preflight
}

// pending is an action that has begun, for a successor to finish and to answer for.
type pending struct {
	ID      string              `json:"id"` // of its receipt
	Kind    receipt.Action      `json:"kind"`
	Asked   bool                `json:"asked"`
	Reason  string              `json:"reason"`
	Request string              `json:"request"`
	By      receipt.RequestedBy `json:"by"`
	Old     *receipt.Old        `json:"old"`     // the gateway that it has ended
	Overlap bool                `json:"overlap"` // the gateway is still the old one, which serves
	Profile profile.Profile     `json:"profile"`
}

func (p *pending) action() *action {
	return &action{id: p.ID, kind: p.Kind, asked: p.Asked, reason: p.Reason, request: p.Request, by: p.By, asof: time.Now(), profile: &p.Profile, old: p.Old}
}

const (
	memoName    = "warden.json"
	memoVersion = 3
	maxMemo     = 1 << 20
)

// remember writes the memo. g is the gateway, a launcher that is about to become it, or nil.
//
// A failure is logged and, but for the recording of an operator's intent (see stop), is no more than that: the gateway's
// life does not depend on the memo. A successor will know less, and replace what it can't prove.
func (w *Warden) remember(g *gateway) error {
	m := memo{
		Version: memoVersion, State: w.status.State, Since: w.status.Since, Code: w.status.Code, Message: w.status.Message,
		Generation: w.status.Generation, Restarts: w.status.Restarts, Exits: w.exits, Backoff: w.backoff,
		Profile: *w.profile, Adrift: w.adrift,
	}
	if g != nil {
		m.Gateway, m.Identity, m.Asked, m.Proven, m.Profile = &g.info, g.id, g.asked, g.proven, *g.profile
	}
	if a := w.acting; a != nil && a.profile != nil {
		m.Pending = &pending{ID: a.id, Kind: a.kind, Asked: a.asked, Reason: a.reason, Request: a.request, By: a.by, Old: a.old, Overlap: a.overlap, Profile: *a.profile}
	}
	err := m.write(w.dir)
	if err != nil {
		w.log.Error("cannot leave word for a successor", "err", err)
	}
	return err
}

func (m memo) write(dir string) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, memoName)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// readMemo gives nil without an error where no warden has been before.
func readMemo(dir string) (*memo, error) {
	path := filepath.Join(dir, memoName)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMemo+1))
	if err != nil {
		return nil, err
	}
	m, err := parseMemo(data)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", path, err)
	}
	return m, nil
}

// parseMemo is strict, as for all records of our own.
func parseMemo(data []byte) (*memo, error) {
	if len(data) > maxMemo {
		return nil, fmt.Errorf("longer than %d bytes", maxMemo)
	}
	m, err := strictjson.Decode[memo](data)
	switch {
	case err != nil:
		return nil, err
	case m.Version != memoVersion:
		return nil, fmt.Errorf("version %d is not %d", m.Version, memoVersion)
	case m.Generation < 0 || m.Profile.Name == "":
		return nil, errors.New("it is not complete")
	case m.Gateway != nil && (m.Gateway.PID <= 0 || m.Gateway.StartTime == 0 || m.Gateway.StartTime != m.Identity.Start):
		return nil, fmt.Errorf("process %d with start time %d is not a gateway", m.Gateway.PID, m.Gateway.StartTime)
	}
	return &m, nil
}

// since gives the moment t, which another process wrote down, by this one's monotonic clock: from here on no step of the
// system's clock changes how long ago it was. What the clock has put into the future meanwhile happened now, at the latest.
func since(t, now time.Time) time.Time {
	return now.Add(-max(0, now.Sub(t)))
}

// recentExits gives those unasked exits that still count at now.
func recentExits(exits []time.Time, window time.Duration, now time.Time) []time.Time {
	var out []time.Time
	for _, t := range exits {
		if t = since(t, now); now.Sub(t) <= window {
			out = append(out, t)
		}
	}
	return out
}
