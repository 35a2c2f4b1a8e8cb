package generation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/receipt"
)

// ByUnlock is the origin of a generation that the gateway wrote while its configuration was unlocked.
const ByUnlock Origin = "unlock"

// workingName is the directory of the working copy, which the gateway may write while its configuration is unlocked.
const workingName = "unlocked"

// lostName is where a working copy is kept that could not become a generation.
const lostName = "unlocked.refused"

// Unlocked says that the gateway may write to its configuration, until when, and why.
type Unlocked struct {
	Since       time.Time           `json:"since"`
	Until       time.Time           `json:"until"`
	For         time.Duration       `json:"for"` // in nanoseconds; a clock that is set back does not make it longer
	Reason      string              `json:"reason"`
	RequestedBy receipt.RequestedBy `json:"requested_by"`
	UID         uint32              `json:"uid"` // the gateway's
	GID         uint32              `json:"gid"`
	Mounts      []int               `json:"mounts"` // the [[mount]] entries, by their place in the profile, that have a working copy
}

// Left gives how long it stays unlocked; zero or less: it has to be locked.
func (u *Unlocked) Left(now time.Time) time.Duration {
	return min(u.Until.Sub(now), u.For)
}

// Working is the host path of what [[mount]] entry i shows while it is unlocked.
func (s *Store) Working(i int) string {
	return filepath.Join(s.dir, workingName, mountName, strconv.Itoa(i))
}

// Unlock makes a working copy of generation g's mounts that hold paths, in which the gateway's UID owns these, and records until
// when. Paths are absolute in the container. One that is unlocked already keeps its working copy and gets another end.
func (s *Store) Unlock(ctx context.Context, g *Generation, paths []string, u Unlocked) error {
	r, err := s.Record()
	if err != nil {
		return err
	}
	if r.Unlocked != nil {
		u.Since, u.Mounts = r.Unlocked.Since, r.Unlocked.Mounts
		r.Unlocked = &u
		return s.write(r, true)
	}
	making := filepath.Join(s.dir, stagingName)
	if err := errors.Join(os.RemoveAll(making), os.RemoveAll(filepath.Join(s.dir, workingName)), os.MkdirAll(filepath.Join(making, mountName), 0o700)); err != nil {
		return err
	}
	for i, m := range g.Mounts {
		var below []string
		for _, p := range paths {
			if rel, ok := under(m.Target, p); ok {
				below = append(below, rel)
			}
		}
		if len(below) == 0 {
			continue
		}
		if err := s.copyWorking(ctx, g, i, filepath.Join(making, mountName, strconv.Itoa(i)), below, owner{u.UID, u.GID}); err != nil {
			return fmt.Errorf("cannot make a working copy of %s: %w", m.Target, err)
		}
		u.Mounts = append(u.Mounts, i)
	}
	if err := os.Rename(making, filepath.Join(s.dir, workingName)); err != nil {
		return err
	}
	r.Unlocked = &u
	return s.write(r, true)
}

// under gives p relative to target, if it is that or lies below it.
func under(target, p string) (string, bool) {
	if p == target {
		return ".", true
	}
	rel, ok := strings.CutPrefix(p, target+"/")
	return rel, ok
}

func (s *Store) copyWorking(ctx context.Context, g *Generation, i int, to string, paths []string, own owner) error {
	f, err := openTree(s.Tree(g.Number, i))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, err := copyTree(ctx, Source{Path: f.Name(), File: f}, to, own, false); err != nil {
		return err
	}
	for _, p := range paths {
		if _, err := os.Lstat(filepath.Join(to, p)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is not there, so it cannot be unlocked: apply a configuration that has it", path.Join(g.Mounts[i].Target, p))
		}
		// Nobody else has ever seen the copy: what is walked is what was just made.
		if err := filepath.WalkDir(filepath.Join(to, p), func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			return errors.Join(os.Lchown(name, int(own.uid), int(own.gid)), os.Chmod(name, info.Mode().Perm()|0o200))
		}); err != nil {
			return err
		}
	}
	return nil
}

// Lock makes what the gateway wrote the next generation, and that the current one; it gives that. If nothing was written it is
// the one that was current. What cannot be a generation (a link, a special file, more than the bounds allow) leaves the current
// one as it is: the error tells why and where the working copy is kept. In every case it is locked when Lock returns, but for
// an error that wraps ErrStillUnlocked.
//
// The files may still be written, by whoever has them open: Touched tells.
func (s *Store) Lock(ctx context.Context, reason string, by receipt.RequestedBy) (*Generation, error) {
	r, err := s.Record()
	if err != nil {
		return nil, errors.Join(ErrStillUnlocked, err)
	}
	g, err := s.Get(r.Current)
	if err != nil || r.Unlocked == nil {
		return g, err
	}
	next, serr := s.stageWorking(ctx, r, g, reason, by)
	r.Unlocked = nil
	if serr == nil && next.Number != g.Number {
		r.Current, r.Next = next.Number, next.Number+1
		r.Rejected = nil
	}
	if err := s.write(r, true); err != nil {
		return nil, errors.Join(ErrStillUnlocked, err)
	}
	if serr != nil {
		lost := filepath.Join(s.dir, lostName)
		serr = fmt.Errorf("what the gateway wrote cannot be a generation, so %d stays current: %w; it is kept in %s", r.Current, serr, lost)
		return g, errors.Join(serr, os.RemoveAll(lost), os.Rename(filepath.Join(s.dir, workingName), lost))
	}
	return next, s.prune(r, Keep)
}

// ErrStillUnlocked says that it could not be recorded that a configuration is locked.
var ErrStillUnlocked = errors.New("it is still unlocked")

func (s *Store) stageWorking(ctx context.Context, r Record, g *Generation, reason string, by receipt.RequestedBy) (*Generation, error) {
	text, err := s.Profile(g)
	if err != nil {
		return nil, err
	}
	p := Plan{Name: g.Name, Profile: text, UID: r.Unlocked.UID, GID: r.Unlocked.GID, Parent: g, Origin: ByUnlock, Reason: reason, RequestedBy: by, Durable: true}
	defer func() { Close(p.Sources) }()
	for _, m := range g.Mounts {
		p.Sources = append(p.Sources, Source{Target: m.Target})
	}
	for _, i := range r.Unlocked.Mounts {
		if i < 0 || i >= len(p.Sources) {
			return nil, fmt.Errorf("the record names a [[mount]] %d, and generation %d has %d", i, g.Number, len(g.Mounts))
		}
		f, err := openTree(s.Working(i))
		if err != nil {
			return nil, err
		}
		p.Sources[i].File, p.Sources[i].Path, p.Sources[i].written = f, s.Working(i), true
	}
	return s.Stage(ctx, p)
}

// Touched tells whether what the gateway wrote is not what generation g took of it: somebody had a file open.
func (s *Store) Touched(ctx context.Context, g *Generation, u *Unlocked) (bool, error) {
	for _, i := range u.Mounts {
		files, err := contents(ctx, s.Working(i), u.UID, true)
		if err != nil {
			return false, err
		}
		if !slices.Equal(files, g.Mounts[i].Files) {
			return true, nil
		}
	}
	return false, nil
}

// Reopen records that what was locked is unlocked still, so that Lock takes what was written since.
func (s *Store) Reopen(u Unlocked) error {
	r, err := s.Record()
	if err != nil {
		return err
	}
	r.Unlocked = &u
	return s.write(r, true)
}

// DropWorking removes the working copy of what is locked.
func (s *Store) DropWorking() error { return os.RemoveAll(filepath.Join(s.dir, workingName)) }
