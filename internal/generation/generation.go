// Package generation keeps a container's configurations: each is a generation, a numbered directory that holds the profile's
// text and a copy of what the profile's [[mount]] entries name. A generation never changes once it has its number, and exactly
// one is current. What the administrator declares (the profile and the mounts' sources) is copied into a generation of its
// own when it is taken up, so an edit that is half done, or wrong, is not what a gateway is started with by chance.
//
// A container's store has one writer at a time: the hook before it starts the warden, and then the warden. Readers take no
// lock: a record is replaced as a whole, and a generation is there as a whole or not at all.
package generation

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// DirName is the store's name in the container's state directory.
const DirName = "generations"

// Files of a store and of a generation, N being its number.
const (
	recordName   = "record.json"     // a Record
	manifestName = "generation.json" // N/generation.json, a Generation
	profileName  = "profile.toml"    // N/profile.toml, its text
	mountName    = "mount"           // N/mount/I is what [[mount]] entry I shows
	stagingName  = ".staging"        // what is being made
)

// version is that of Record's and Generation's forms.
const version = 1

// Bounds of what a generation holds. They are far above what configurations are, and keep a mistyped source, such as "/var",
// from filling the disk.
const (
	MaxFile    = 16 << 20 // bytes of one file
	MaxBytes   = 64 << 20 // of all files of one [[mount]]
	MaxEntries = 4096     // files and directories of one [[mount]]
	MaxDepth   = 32       // directories below one another
)

// maxManifest bounds record.json and generation.json, in bytes: 64 [[mount]] entries could list more than that, which is then
// refused when the generation is made.
const maxManifest = 4 << 20

// Keep is how many generations a container has at most. The oldest go first, the current one never.
const Keep = 10

// Origin says what made a generation.
type Origin string

// The origins.
const (
	Install  Origin = "install"  // the container's create
	Declared Origin = "declared" // a restart that found the profile or a source changed
	Applied  Origin = "apply"    // gatewarden apply
)

// Generation describes one configuration.
type Generation struct {
	Version     int                 `json:"version"`
	Number      int                 `json:"number"`
	Parent      int                 `json:"parent"` // the one that was current when it was made; 0: none
	Origin      Origin              `json:"origin"`
	Reason      string              `json:"reason"`
	RequestedBy receipt.RequestedBy `json:"requested_by"`
	Created     time.Time           `json:"created"`
	Name        string              `json:"name"`    // the profile's
	Profile     string              `json:"profile"` // digest of its text, as File's
	Mounts      []Mount             `json:"mounts"`  // in the profile's order
	From        Inputs              `json:"from"`
}

// Mount is what one [[mount]] entry shows.
type Mount struct {
	Target string `json:"target"`
	Files  []File `json:"files"` // sorted by path, directories before what they hold
}

// File is a regular file or a directory below a [[mount]]'s target.
type File struct {
	Path   string `json:"path"` // relative; "." is the target itself; a directory's ends in "/"
	Mode   uint32 `json:"mode"` // permission bits
	Size   int64  `json:"size"`
	Digest string `json:"digest,omitempty"` // of a file's content: BLAKE2b-256, as `b2sum -l 256` prints it
}

// Dir says that f is a directory.
func (f File) Dir() bool { return strings.HasSuffix(f.Path, "/") }

// Inputs identifies what a generation was made from, or what has been looked at: the profile by the digest of its text, and
// each [[mount]]'s source by a digest of what stat(2) tells of everything in it. Empty: not from the declared source.
type Inputs struct {
	Profile string   `json:"profile"`
	Sources []string `json:"sources"`
}

// Equal tells whether both are the same.
func (a Inputs) Equal(b Inputs) bool {
	return a.Profile == b.Profile && slices.Equal(a.Sources, b.Sources)
}

// Over gives a with what it does not tell taken from b.
func (a Inputs) Over(b Inputs) Inputs {
	out := Inputs{a.Profile, slices.Clone(a.Sources)}
	for i := range out.Sources {
		if out.Sources[i] == "" && i < len(b.Sources) {
			out.Sources[i] = b.Sources[i]
		}
	}
	return out
}

// Changed gives sources as a Plan takes them whose parent had seen before: with their files where a source has changed since,
// and without where the parent's content stays.
func (a Inputs) Changed(before Inputs, sources []Source) []Source {
	out := slices.Clone(sources)
	for i := range out {
		if i < len(before.Sources) && i < len(a.Sources) && a.Sources[i] == before.Sources[i] {
			out[i].File = nil
		}
	}
	return out
}

// Record says how things stand. It is the journal of a change: Trying is written before the change and gone after it.
type Record struct {
	Version  int               `json:"version"`
	Name     string            `json:"name"` // the profile's
	Current  int               `json:"current"`
	Trying   int               `json:"trying"` // the one that is being tried in the place of Current; 0: none
	Next     int               `json:"next"`   // the number of the next one to be tried
	Seen     Inputs            `json:"seen"`   // what was declared when that was last taken up, or turned down
	Rejected *receipt.Rejected `json:"rejected"`
	Unlocked *Unlocked         `json:"unlocked"`
}

// same tells whether two generations hold the same configuration.
func (g *Generation) same(o *Generation) bool {
	return g.Profile == o.Profile && slices.EqualFunc(g.Mounts, o.Mounts, func(a, b Mount) bool {
		return a.Target == b.Target && slices.Equal(a.Files, b.Files)
	})
}

// Change is one difference between two generations.
type Change struct {
	Path   string `json:"path"`   // in the container, or "profile"
	Change string `json:"change"` // "added", "removed", "changed", "mode"
}

// Changes gives the differences from g to o, sorted by path.
func (g *Generation) Changes(o *Generation) []Change {
	all := []Change{}
	if g.Profile != o.Profile {
		all = append(all, Change{profileChange, "changed"})
	}
	before, after := g.byPath(), o.byPath()
	for p, f := range after {
		switch old, ok := before[p]; {
		case !ok:
			all = append(all, Change{p, "added"})
		case old.Digest != f.Digest || old.Dir() != f.Dir():
			all = append(all, Change{p, "changed"})
		case old.Mode != f.Mode:
			all = append(all, Change{p, "mode"})
		}
	}
	for p := range before {
		if _, ok := after[p]; !ok {
			all = append(all, Change{p, "removed"})
		}
	}
	slices.SortFunc(all, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return all
}

// profileChange is the path of a Change of the profile: no path in a container, since those are absolute.
const profileChange = "profile"

func (g *Generation) byPath() map[string]File {
	all := map[string]File{}
	for _, m := range g.Mounts {
		for _, f := range m.Files {
			all[path.Join(m.Target, f.Path)] = f
		}
	}
	return all
}

// Store is a container's generations. Its zero value is of no use; see Open.
type Store struct {
	dir string
}

// Open gives the store in a container's state directory. It need not exist yet.
func Open(stateDir string) *Store { return &Store{filepath.Join(stateDir, DirName)} }

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// Tree is the host path of what [[mount]] entry i of generation n shows.
func (s *Store) Tree(n, i int) string {
	return filepath.Join(s.path(n), mountName, strconv.Itoa(i))
}

func (s *Store) path(n int) string { return filepath.Join(s.dir, strconv.Itoa(n)) }

// ErrNone is wrapped by errors about a generation, or a record, that is not there.
var ErrNone = errors.New("there is none")

// Record reads the record. Without one the error wraps ErrNone.
func (s *Store) Record() (Record, error) {
	name := filepath.Join(s.dir, recordName)
	data, err := readOurs(name)
	if err != nil {
		return Record{}, err
	}
	r, err := parseRecord(data)
	if err != nil {
		return Record{}, fmt.Errorf("cannot use %s: %w", name, err)
	}
	return r, nil
}

func parseRecord(data []byte) (Record, error) {
	r, err := strictjson.Decode[Record](data)
	if err == nil && (r.Version != version || r.Current <= 0 || r.Next <= r.Current || r.Trying < 0 || r.Trying >= r.Next) {
		err = fmt.Errorf("version %d, current %d, trying %d and next %d do not fit together", r.Version, r.Current, r.Trying, r.Next)
	}
	return r, err
}

// Get describes generation n. Without it the error wraps ErrNone.
func (s *Store) Get(n int) (*Generation, error) {
	name := filepath.Join(s.path(n), manifestName)
	data, err := readOurs(name)
	if errors.Is(err, ErrNone) {
		return nil, fmt.Errorf("generation %d: %w", n, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	g, err := parseGeneration(data)
	if err == nil && g.Number != n {
		err = fmt.Errorf("it describes generation %d", g.Number)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", name, err)
	}
	return g, nil
}

func parseGeneration(data []byte) (*Generation, error) {
	g, err := strictjson.Decode[Generation](data)
	switch {
	case err != nil:
		return nil, err
	case g.Version != version || g.Number <= 0 || g.Parent < 0 || g.Parent >= g.Number:
		return nil, fmt.Errorf("generation %d with the parent %d in version %d is none", g.Number, g.Parent, g.Version)
	case len(g.From.Sources) != len(g.Mounts):
		return nil, fmt.Errorf("it has %d mounts from %d sources", len(g.Mounts), len(g.From.Sources))
	}
	for _, m := range g.Mounts {
		for _, f := range m.Files {
			if !filepath.IsLocal(f.Path) {
				return nil, fmt.Errorf("%q does not lie in a mount", f.Path)
			}
		}
	}
	return &g, nil
}

// Profile gives the text of generation g's profile, which is the one that its digest tells.
func (s *Store) Profile(g *Generation) ([]byte, error) {
	text, err := readBounded(filepath.Join(s.path(g.Number), profileName), maxManifest)
	if err == nil && digest(text) != g.Profile {
		err = fmt.Errorf("the profile of generation %d is not the one that was put there: somebody has edited %s",
			g.Number, filepath.Join(s.path(g.Number), profileName))
	}
	return text, err
}

// Numbers lists the generations that there are, in order.
func (s *Store) Numbers() ([]int, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list generations: %w", err)
	}
	var all []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 && strconv.Itoa(n) == e.Name() {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// Kept tells whether the current generation of r cannot be made again from what is declared: it was applied or rolled back to,
// or what is declared was turned down. Such a one outlives the container's task, as a [[state]] directory does.
func (s *Store) Kept(r Record) bool {
	g, err := s.Get(r.Current)
	return err == nil && (r.Trying != 0 || r.Rejected != nil || r.Unlocked != nil || !g.From.Equal(r.Seen))
}

// Forget removes what does not outlive the container's task: everything, unless the current generation is Kept, and then all
// but that one.
func (s *Store) Forget() error {
	if r, err := s.Record(); err == nil && s.Kept(r) {
		return s.prune(r, 1)
	}
	return os.RemoveAll(s.dir)
}

// SetAside takes a store away that cannot be used, so that nothing of it is lost: it is DirName.damaged then, in the place of
// one that was there before.
func (s *Store) SetAside() error {
	aside := s.dir + ".damaged"
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	return os.Rename(s.dir, aside)
}

// Try records that generation n is about to take the place of the current one. It is on disk when Try returns.
func (s *Store) Try(n int) error {
	r, err := s.Record()
	if err != nil {
		return err
	}
	r.Trying, r.Next = n, max(r.Next, n+1)
	return s.write(r, true)
}

// Accept makes n the current generation: it is proven. seen is what was declared when it was made.
func (s *Store) Accept(n int, seen Inputs) error {
	r, err := s.Record()
	if err != nil {
		return err
	}
	r.Current, r.Trying, r.Next, r.Seen, r.Rejected = n, 0, max(r.Next, n+1), seen, nil
	if err := s.write(r, true); err != nil {
		return err
	}
	return s.prune(r, Keep)
}

// Reject records that the current generation stays, and why the one that was tried does not take its place. seen is what was
// declared when that was made; it is not tried again until it changes.
func (s *Store) Reject(why receipt.Rejected, seen Inputs) error {
	r, err := s.Record()
	if err != nil {
		return err
	}
	r.Trying, r.Seen, r.Rejected = 0, seen, &why
	if err := s.write(r, true); err != nil {
		return err
	}
	return s.prune(r, Keep)
}

// Abandon takes back Try: what was to be tried has not been. It stays, for the same to be tried again.
func (s *Store) Abandon() error {
	r, err := s.Record()
	if err != nil {
		return err
	}
	r.Trying = 0
	return s.write(r, true)
}

// See records that what is declared was looked at and is what the current generation holds.
func (s *Store) See(seen Inputs) error {
	r, err := s.Record()
	if err != nil || r.Seen.Equal(seen) {
		return err
	}
	r.Seen = seen
	return s.write(r, true)
}

// prune removes the oldest generations beyond keep, and whatever else has no business to be there. The current one, the one
// that is tried and the one that was rejected last are not removed.
func (s *Store) prune(r Record, keep int) error {
	all, err := s.Numbers()
	if err != nil {
		return err
	}
	needed := func(n int) bool {
		return n == r.Current || n == r.Trying || keep > 1 && r.Rejected != nil && n == r.Rejected.Generation
	}
	staged, _ := slices.BinarySearch(all, r.Next)
	extra := staged - keep
	for i, n := range all {
		switch {
		case i >= staged: // and never tried
			err = errors.Join(err, s.remove(n))
		case extra > 0 && !needed(n):
			extra--
			err = errors.Join(err, s.remove(n))
		}
	}
	return errors.Join(err, s.sweep())
}

// Give makes gid the group that may read what generation n shows: the gateway's, which is another one here when a container comes
// up with another user namespace than the one before it. The copies are our own, and nobody else can reach them.
func (s *Store) Give(n int, gid uint32) error {
	trees, err := os.ReadDir(filepath.Join(s.path(n), mountName))
	if err != nil {
		return fmt.Errorf("cannot give generation %d to group %d: %w", n, gid, err)
	}
	for _, t := range trees {
		if err := regroup(filepath.Join(s.path(n), mountName, t.Name()), gid); err != nil {
			return fmt.Errorf("cannot give generation %d to group %d: %w", n, gid, err)
		}
	}
	return nil
}

// regroup gives a tree to a group, its root last: that tells whether all of it is.
func regroup(tree string, gid uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(tree, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: tree, Err: err}
	}
	if st.Gid == gid {
		return nil
	}
	var names []string
	if err := filepath.WalkDir(tree, func(name string, _ fs.DirEntry, err error) error {
		names = append(names, name)
		return err
	}); err != nil {
		return err
	}
	for _, name := range slices.Backward(names) {
		if err := os.Lchown(name, -1, int(gid)); err != nil {
			return err
		}
	}
	return nil
}

// remove takes the number away first, so that no reader finds half of a generation.
func (s *Store) remove(n int) error {
	gone := filepath.Join(s.dir, stagingName+"."+strconv.Itoa(n))
	// There is one if that was interrupted the last time.
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(s.path(n), gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// sweep removes what Stage and remove leave if they are interrupted.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stagingName) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
	}
	return err
}

// write replaces the record. durable: it is on disk when write returns.
func (s *Store) write(r Record, durable bool) error {
	r.Version = version
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = writeFile(filepath.Join(s.dir, recordName+".new"), append(data, '\n'), 0o600, durable)
	}
	if err == nil {
		err = os.Rename(filepath.Join(s.dir, recordName+".new"), filepath.Join(s.dir, recordName))
	}
	if err == nil && durable {
		err = syncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("cannot record which generation is current: %w", err)
	}
	return nil
}

func writeFile(name string, data []byte, mode os.FileMode, durable bool) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readOurs reads a file of the store. Without it the error wraps ErrNone.
func readOurs(name string) ([]byte, error) {
	data, err := readBounded(name, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, ErrNone)
	}
	return data, err
}

func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > most {
		return nil, fmt.Errorf("cannot use %s: it is not a regular file of at most %d bytes", name, most)
	}
	data := make([]byte, st.Size())
	n, err := f.ReadAt(data, 0)
	if err != nil && n < len(data) {
		return nil, err
	}
	return data, nil
}

// newHash gives the hash of all digests: BLAKE2b-256 (RFC 7693). SHA-256 would do as well, but linking the standard library's
// costs every start of the operator's command 0.8 ms.
func newHash() hash.Hash {
	h, err := blake2b.New256(nil)
	if err != nil {
		panic(err) // it has no key that could be too long
	}
	return h
}

func digest(data []byte) string {
	sum := blake2b.Sum256(data)
	return hex.EncodeToString(sum[:])
}
