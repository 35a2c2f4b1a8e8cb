package generation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/trusted"
)

// Source is where the content of one [[mount]] comes from.
type Source struct {
	Target string
	Path   string   // on the host, for messages
	File   *os.File // O_PATH descriptor of a directory or regular file; nil: what the generation before has there
	// Declared: File is the source that the profile names.
	Declared bool
	// Print identifies what was copied from File: Stage fills it in, and Unchanged compares it.
	Print   string
	written bool // by the gateway, while it was unlocked
}

// Plan says what a generation is made of.
type Plan struct {
	Name        string // the profile's
	Profile     []byte // its text
	Sources     []Source
	UID, GID    uint32 // the gateway's
	Parent      *Generation
	Origin      Origin
	Reason      string
	RequestedBy receipt.RequestedBy
	// Durable: it is on disk when Stage returns. What can be made again need not be.
	Durable bool
}

// Sources opens the sources that a profile's [[mount]] entries declare. The caller closes them, also after an error.
func Sources(mounts []profile.Mount) ([]Source, error) {
	var all []Source
	for _, m := range mounts {
		f, err := trusted.OpenPath(m.Source)
		if err != nil {
			return all, fmt.Errorf("cannot use %s for %s: %w", m.Source, m.Target, err)
		}
		all = append(all, Source{Target: m.Target, Path: m.Source, File: f, Declared: true})
	}
	return all, nil
}

// Close closes what Sources has opened.
func Close(sources []Source) {
	for _, s := range sources {
		if s.File != nil {
			s.File.Close()
		}
	}
}

// Look identifies what is declared now: text is the profile's, sources come from Sources.
func Look(ctx context.Context, text []byte, sources []Source, uid uint32) (Inputs, error) {
	in := Inputs{Profile: digest(text), Sources: []string{}}
	for _, s := range sources {
		p, err := printOf(ctx, s.Path, s.File, uid)
		if err != nil {
			return Inputs{}, err
		}
		in.Sources = append(in.Sources, p)
	}
	return in, nil
}

// Stage makes the next generation, by copying, and gives it. Nothing uses it yet; Discard, or the next Stage, takes it away
// again. One that holds the same as its parent is not made: then the parent is what is given.
//
// A source with a link, a special file, a file with several names, something that others may write, or more than the bounds
// allow is refused; a file that changes while it is read too (trusted.ErrChanged).
func (s *Store) Stage(ctx context.Context, p Plan) (*Generation, error) {
	n := 1
	switch r, err := s.Record(); {
	case err == nil:
		n = r.Next
	case !errors.Is(err, ErrNone):
		return nil, err
	}
	staging := filepath.Join(s.dir, stagingName)
	err := s.sweep()
	if rerr := s.remove(n); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot stage a generation: %w", err)
	}
	g, err := s.build(ctx, staging, n, p)
	if err != nil || g != nil && p.Parent != nil && g.same(p.Parent) {
		if rerr := os.RemoveAll(staging); err == nil && rerr != nil {
			err = rerr
		}
		if err != nil {
			return nil, fmt.Errorf("cannot stage generation %d: %w", n, err)
		}
		same := *p.Parent
		same.From = g.From
		return &same, nil
	}
	if err := os.Rename(staging, s.path(n)); err != nil {
		return nil, fmt.Errorf("cannot stage generation %d: %w", n, err)
	}
	if p.Durable {
		if err := syncDir(s.dir); err != nil {
			return nil, fmt.Errorf("cannot stage generation %d: %w", n, err)
		}
	}
	return g, nil
}

func (s *Store) build(ctx context.Context, staging string, n int, p Plan) (*Generation, error) {
	if err := os.MkdirAll(filepath.Join(staging, mountName), 0o700); err != nil {
		return nil, err
	}
	g := &Generation{
		Version: version, Number: n, Origin: p.Origin, Reason: p.Reason, RequestedBy: p.RequestedBy, Created: time.Now(), Name: p.Name,
		Profile: digest(p.Profile), Mounts: []Mount{}, From: Inputs{Profile: digest(p.Profile), Sources: []string{}},
	}
	if p.Parent != nil {
		g.Parent = p.Parent.Number
	}
	for i := range p.Sources {
		src := &p.Sources[i]
		files, from, err := s.fill(ctx, filepath.Join(staging, mountName, strconv.Itoa(i)), i, src, p)
		if err != nil {
			return nil, err
		}
		g.Mounts = append(g.Mounts, Mount{src.Target, files})
		g.From.Sources = append(g.From.Sources, from)
	}
	data, err := json.Marshal(g)
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxManifest:
		return nil, fmt.Errorf("the list of its files takes %d bytes, over %d", len(data), maxManifest)
	}
	if err := writeFile(filepath.Join(staging, manifestName), append(data, '\n'), 0o600, p.Durable); err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(staging, profileName), p.Profile, 0o600, p.Durable); err != nil {
		return nil, err
	}
	if p.Durable {
		return g, errors.Join(syncDir(filepath.Join(staging, mountName)), syncDir(staging))
	}
	return g, nil
}

// fill makes what one [[mount]] shows, and gives what identifies its declared source; "" if it does not come from there.
func (s *Store) fill(ctx context.Context, dst string, i int, src *Source, p Plan) (files []File, from string, err error) {
	own := owner{p.UID, p.GID}
	if src.File != nil {
		files, src.Print, err = copyTree(ctx, *src, dst, own, p.Durable)
		if src.Declared {
			from = src.Print
		}
		return files, from, err
	}
	if p.Parent == nil || i >= len(p.Parent.Mounts) || p.Parent.Mounts[i].Target != src.Target {
		return nil, "", fmt.Errorf("there is no generation before it that has %s", src.Target)
	}
	f, err := openTree(s.Tree(p.Parent.Number, i))
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	files, _, err = copyTree(ctx, Source{Path: f.Name(), File: f}, dst, own, p.Durable)
	return files, p.Parent.From.Sources[i], err
}

// Unchanged checks that what was copied from sources is still what is there.
func Unchanged(ctx context.Context, sources []Source, uid uint32) error {
	for _, s := range sources {
		if s.File == nil {
			continue
		}
		now, err := printOf(ctx, s.Path, s.File, uid)
		if err != nil {
			return err
		}
		if now != s.Print {
			return fmt.Errorf("somebody has edited %s since it was staged", s.Path)
		}
	}
	return nil
}

func openTree(name string) (*os.File, error) {
	return os.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
}

// Begin makes a staged generation the current one, for a container that is being created: nothing runs yet, so there is nothing
// to go back to. Of what can be made again nothing is written durably.
func (s *Store) Begin(g *Generation, seen Inputs) error {
	r, err := s.Record()
	if errors.Is(err, ErrNone) {
		return s.write(Record{Name: g.Name, Current: g.Number, Next: g.Number + 1, Seen: seen}, false)
	}
	if err != nil {
		return err
	}
	r.Name, r.Current, r.Trying, r.Next, r.Seen = g.Name, g.Number, 0, max(r.Next, g.Number+1), seen
	if err := s.write(r, true); err != nil {
		return err
	}
	return s.prune(r, Keep)
}

// Discard takes away a staged generation that is not going to be tried.
func (s *Store) Discard(g *Generation) error { return s.remove(g.Number) }

// Verify reads generation n again and says what is not as it was put there.
func (s *Store) Verify(ctx context.Context, n int, uid uint32) error {
	g, err := s.Get(n)
	if err != nil {
		return err
	}
	if _, err := s.Profile(g); err != nil {
		return err
	}
	for i, m := range g.Mounts {
		if err := s.verify(ctx, s.Tree(n, i), m, uid); err != nil {
			return fmt.Errorf("generation %d is not as it was staged: %w", n, err)
		}
	}
	return nil
}

func (s *Store) verify(ctx context.Context, name string, m Mount, uid uint32) error {
	files, err := contents(ctx, name, uid, false)
	if err != nil {
		return err
	}
	for i := range max(len(files), len(m.Files)) {
		switch {
		case i >= len(files):
			return fmt.Errorf("%s is gone", filepath.Join(name, m.Files[i].Path))
		case i >= len(m.Files):
			return fmt.Errorf("%s has appeared", filepath.Join(name, files[i].Path))
		case files[i] != m.Files[i]:
			return fmt.Errorf("somebody has edited %s", filepath.Join(name, min(files[i].Path, m.Files[i].Path)))
		}
	}
	return nil
}

// contents describes what is at name as a generation does, by reading it. written: the gateway wrote it.
func contents(ctx context.Context, name string, uid uint32, written bool) ([]File, error) {
	f, err := openTree(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w := walker{ctx: ctx, name: name, uid: uid, written: written, copyTo: hashed}
	err = w.walk(f)
	return w.files, err
}

// hashed reads what copyFile would copy.
func hashed(_ string, src *os.File, st *unix.Stat_t) (string, error) {
	if src == nil {
		return "", nil
	}
	data, err := io.ReadAll(io.LimitReader(src, st.Size+1))
	if err != nil {
		return "", err
	}
	return digest(data), nil
}
