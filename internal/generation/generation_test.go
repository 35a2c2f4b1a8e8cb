package generation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// The test binary is also a writer of a store, which is killed (TestAWriterThatIsKilledAtAnyMomentLeavesOneCurrentGeneration).
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "writer" {
		fmt.Fprintln(os.Stderr, changeForEver(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	// A fuzz target mounts nothing, and is ended by an interrupt, which has to reach it.
	fuzzing := slices.ContainsFunc(os.Args[1:], func(a string) bool { return strings.HasPrefix(a, "-test.fuzz=") })
	if os.Getenv(inside) != "" || fuzzing {
		os.Exit(m.Run())
	}
	if err := reenter(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "these tests need root, for owners and mounts:", err)
		os.Exit(1)
	}
}

// inside is set in the environment of the process that runs the tests.
const inside = "GENERATION_TEST_INSIDE"

// reenter runs the tests in a mount namespace of their own, where temporary files lie in memory: what they mount is seen by no other
// package's tests, which run at the same time, and thousands of files cost little.
func reenter() error {
	// It would end with the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir, err := os.MkdirTemp("", "generation")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	script := `mount -t tmpfs -o mode=0755 none "$0" && exec "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, dir, self}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), inside+"=1", "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// The gateway of these tests.
const (
	testUID = 64990
	testGID = 64991
)

// scratch is a store and a source that it is filled from.
type scratch struct {
	t *testing.T
	*Store
	source string
}

func newScratch(t *testing.T) *scratch {
	t.Helper()
	s := &scratch{t, Open(t.TempDir()), filepath.Join(t.TempDir(), "source")}
	mkdir(t, s.source, 0o755)
	write(t, filepath.Join(s.source, "conf"), "one\n")
	return s
}

// begun is a scratch whose first generation is the current one.
func begun(t *testing.T) *scratch {
	t.Helper()
	s := newScratch(t)
	g := s.stage(s.plan("version 1"))
	if err := s.Begin(g, g.From); err != nil {
		t.Fatal(err)
	}
	return s
}

// plan copies the source for the profile text.
func (s *scratch) plan(text string) Plan {
	s.t.Helper()
	return Plan{
		Name: "demo", Profile: []byte(text), Sources: []Source{s.open(s.source, "/etc/gateway")}, UID: testUID, GID: testGID,
		Origin: Applied, Reason: "why", RequestedBy: receipt.RequestedBy{Via: "cli", UID: 3},
	}
}

func (s *scratch) open(path, target string) Source {
	s.t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { f.Close() })
	return Source{Target: target, Path: path, File: f, Declared: true}
}

func (s *scratch) stage(p Plan) *Generation {
	s.t.Helper()
	g, err := s.Stage(s.t.Context(), p)
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

func (s *scratch) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// accept makes the next generation, with that profile text, the current one.
func (s *scratch) accept(text string) *Generation {
	s.t.Helper()
	g := s.stage(s.plan(text))
	s.must(s.Try(g.Number))
	s.must(s.Accept(g.Number, g.From))
	return g
}

// reject makes the next generation, and turns it down.
func (s *scratch) reject(text string) *Generation {
	s.t.Helper()
	g := s.stage(s.plan(text))
	s.must(s.Try(g.Number))
	s.must(s.Reject(rejected(g.Number), g.From))
	return g
}

func rejected(n int) receipt.Rejected {
	return receipt.Rejected{Generation: n, Code: code.ProbeFailed, Message: "no answer", Time: time.Unix(1, 0).UTC()}
}

func (s *scratch) record() Record {
	s.t.Helper()
	r, err := s.Record()
	s.must(err)
	return r
}

func (s *scratch) numbers() []int {
	s.t.Helper()
	all, err := s.Numbers()
	s.must(err)
	return all
}

// whole checks that exactly one generation is current and that all that have a number are as they were made, and gives the record.
func (s *scratch) whole() Record {
	s.t.Helper()
	r := s.record()
	all := s.numbers()
	if !slices.Contains(all, r.Current) || r.Trying != 0 && !slices.Contains(all, r.Trying) {
		s.t.Fatalf("of %d, which is current, and %d, which is tried, there are %v", r.Current, r.Trying, all)
	}
	for _, n := range all {
		if err := s.Verify(s.t.Context(), n, testUID); err != nil {
			s.t.Fatal(err)
		}
	}
	return r
}

// names lists what is in the store's directory.
func (s *scratch) names() []string {
	s.t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func mkdir(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, mode)
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, 0o644)
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWithoutAStoreThereIsNoRecordAndNoGeneration(t *testing.T) {
	s := newScratch(t)
	if r, err := s.Record(); !errors.Is(err, ErrNone) || r.Current != 0 {
		t.Errorf("the record is %+v, %v", r, err)
	}
	if g, err := s.Get(1); !errors.Is(err, ErrNone) || g != nil || !strings.Contains(err.Error(), "generation 1: there is none") {
		t.Errorf("generation 1 is %+v, %v", g, err)
	}
	if all, err := s.Numbers(); err != nil || len(all) != 0 {
		t.Errorf("there are %v, %v", all, err)
	}
	for name, change := range map[string]func() error{
		"Try":     func() error { return s.Try(1) },
		"Accept":  func() error { return s.Accept(1, Inputs{}) },
		"Reject":  func() error { return s.Reject(rejected(1), Inputs{}) },
		"Abandon": s.Abandon,
		"See":     func() error { return s.See(Inputs{}) },
		"Verify":  func() error { return s.Verify(t.Context(), 1, testUID) },
	} {
		if err := change(); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Forget(); err != nil {
		t.Error(err)
	}
	if names := s.names(); names != nil {
		t.Errorf("a store was made: %v", names)
	}
}

func TestAChangeIsTriedAndThenAcceptedRejectedOrAbandoned(t *testing.T) {
	seen := Inputs{Profile: "p", Sources: []string{"s"}}
	for _, c := range []struct {
		name                  string
		end                   func(s *scratch) error
		current, trying, next int
		seen                  bool
		rejected              bool
	}{
		{"tried", func(*scratch) error { return nil }, 1, 2, 3, false, false},
		{"accepted", func(s *scratch) error { return s.Accept(2, seen) }, 2, 0, 3, true, false},
		{"rejected", func(s *scratch) error { return s.Reject(rejected(2), seen) }, 1, 0, 3, true, true},
		{"abandoned", func(s *scratch) error { return s.Abandon() }, 1, 0, 3, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := begun(t)
			before := s.record()
			if before.Version != 1 || before.Name != "demo" || before.Current != 1 || before.Trying != 0 || before.Next != 2 || before.Rejected != nil {
				t.Fatalf("it begins with %+v", before)
			}
			s.must(s.Try(s.stage(s.plan("version 2")).Number))
			s.must(c.end(s))
			r := s.whole()
			if r.Name != "demo" || r.Current != c.current || r.Trying != c.trying || r.Next != c.next {
				t.Errorf("the record is %+v", r)
			}
			if want := map[bool]Inputs{true: seen, false: before.Seen}[c.seen]; !r.Seen.Equal(want) {
				t.Errorf("seen is %+v, not %+v", r.Seen, want)
			}
			if (r.Rejected != nil) != c.rejected || c.rejected && *r.Rejected != rejected(2) {
				t.Errorf("rejected is %+v", r.Rejected)
			}
			// Whatever became of it, it can be looked at.
			if all := s.numbers(); !slices.Equal(all, []int{1, 2}) {
				t.Errorf("there are %v", all)
			}
		})
	}
}

func TestAnAcceptedGenerationEndsARejection(t *testing.T) {
	s := begun(t)
	s.reject("version 2")
	s.must(s.See(s.record().Seen))
	if s.record().Rejected == nil {
		t.Error("a look at what is declared has ended it")
	}
	s.accept("version 3")
	if r := s.whole(); r.Rejected != nil || r.Current != 3 {
		t.Errorf("%+v", r)
	}
}

func TestWhatWasSeenIsRecorded(t *testing.T) {
	s := begun(t)
	seen := Inputs{Profile: "other", Sources: []string{"x"}}
	s.must(s.See(seen))
	if r := s.whole(); !r.Seen.Equal(seen) || r.Current != 1 || r.Next != 2 {
		t.Errorf("%+v", r)
	}
}

func TestANumberThatWasTriedIsNeverUsedAgain(t *testing.T) {
	s := begun(t)
	next := func() int {
		t.Helper()
		return s.stage(s.plan(fmt.Sprint("version ", rand.Int()))).Number
	}
	if a, b := next(), next(); a != 2 || b != 2 {
		t.Errorf("numbers %d and %d of what was never tried, not 2 and 2", a, b)
	}
	g, err := s.Get(2)
	s.must(err)
	s.must(s.Discard(g))
	if n := next(); n != 2 {
		t.Errorf("number %d after one that was never tried was discarded", n)
	}
	s.must(s.Try(2))
	s.must(s.Abandon())
	if n := next(); n != 3 {
		t.Errorf("number %d after 2 was tried and abandoned", n)
	}
	s.must(s.Try(3))
	s.must(s.Reject(rejected(3), Inputs{}))
	if n := next(); n != 4 {
		t.Errorf("number %d after 3 was rejected", n)
	}
	s.must(s.Try(4))
	s.must(s.Accept(4, Inputs{}))
	// Back to an old one.
	s.must(s.Try(1))
	s.must(s.Accept(1, Inputs{}))
	if n := next(); n != 5 {
		t.Errorf("number %d after going back from 4 to 1", n)
	}
}

func TestAtMostTenAreKeptAndAmongThemThoseThatAreNeeded(t *testing.T) {
	upTo := func(from, to int) (all []int) {
		for n := from; n <= to; n++ {
			all = append(all, n)
		}
		return all
	}
	for _, c := range []struct {
		name string
		do   func(s *scratch)
		want []int
	}{
		{"the oldest go", func(s *scratch) {
			for n := range Keep + 2 {
				s.accept(fmt.Sprint("version ", n+2))
			}
		}, upTo(4, 13)},
		{"the current one stays, however old", func(s *scratch) {
			for n := range Keep + 2 {
				s.reject(fmt.Sprint("version ", n+2))
			}
		}, append([]int{1}, upTo(5, 13)...)},
		{"the rejected one stays until the next change", func(s *scratch) {
			s.reject("version 2")
			for n := range Keep + 2 {
				s.must(s.Try(s.stage(s.plan(fmt.Sprint("version ", n+3))).Number))
				s.must(s.Abandon())
			}
			s.must(s.Reject(rejected(2), Inputs{}))
		}, append([]int{1, 2}, upTo(7, 14)...)},
		{"what was staged and never tried goes, and counts for nothing", func(s *scratch) {
			for n := range Keep - 1 {
				s.accept(fmt.Sprint("version ", n+2))
			}
			s.stage(s.plan("version 11"))
			s.must(s.Try(9))
			s.must(s.Accept(9, Inputs{}))
		}, upTo(1, 10)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := begun(t)
			c.do(s)
			s.whole()
			if all := s.numbers(); !slices.Equal(all, c.want) {
				t.Errorf("there are %v, not %v", all, c.want)
			}
		})
	}
}

func TestOnlyNumbersAreGenerations(t *testing.T) {
	s := begun(t)
	for _, name := range []string{"0", "-1", "01", "+2", "2 ", "x", "99999999999999999999", stagingName, stagingName + ".7"} {
		mkdir(t, filepath.Join(s.dir, name), 0o755)
	}
	if all := s.numbers(); !slices.Equal(all, []int{1}) {
		t.Errorf("there are %v", all)
	}
}

func TestWhatCannotBeMadeAgainOutlivesTheTask(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(s *scratch)
		want []int // left after Forget
	}{
		{"what is declared", func(*scratch) {}, nil},
		{"what is declared, and was taken up", func(s *scratch) { s.accept("version 2") }, nil},
		{"applied", func(s *scratch) {
			g := s.stage(s.plan("version 2"))
			s.must(s.Try(g.Number))
			s.must(s.Accept(g.Number, s.record().Seen))
		}, []int{2}},
		{"rolled back to", func(s *scratch) {
			seen := s.accept("version 2").From
			s.must(s.Try(1))
			s.must(s.Accept(1, seen))
		}, []int{1}},
		{"what is declared was rejected", func(s *scratch) { s.reject("version 2") }, []int{1}},
		{"something is tried", func(s *scratch) {
			s.must(s.Try(s.stage(s.plan("version 2")).Number))
		}, []int{1, 2}},
		{"its description is damaged", func(s *scratch) {
			s.reject("version 2")
			write(s.t, filepath.Join(s.path(1), manifestName), "{")
		}, nil},
		{"the record is damaged", func(s *scratch) {
			s.reject("version 2")
			write(s.t, filepath.Join(s.dir, recordName), "{")
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := begun(t)
			c.do(s)
			r, err := s.Record()
			if kept := err == nil && s.Kept(r); kept != (c.want != nil) {
				t.Errorf("it is kept: %v", kept)
			}
			s.must(s.Forget())
			if all := s.numbers(); !slices.Equal(all, c.want) {
				t.Errorf("%v are left, not %v", all, c.want)
			}
			if c.want == nil {
				if _, err := os.Lstat(s.dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("something is left: %v", s.names())
				}
				return
			}
			s.whole()
		})
	}
}

func TestAStoreThatIsSetAsideLosesNothingOfTheLastOne(t *testing.T) {
	s := begun(t)
	s.must(s.SetAside())
	if _, err := s.Record(); !errors.Is(err, ErrNone) {
		t.Errorf("it is there: %v", err)
	}
	write(t, s.dir+".damaged/mark", "first")
	again := s.stage(s.plan("version 7"))
	s.must(s.Begin(again, again.From))
	if s.record().Current != 1 {
		t.Errorf("%+v", s.record())
	}
	s.must(s.SetAside())
	if got := read(t, s.dir+".damaged/1/"+profileName); got != "version 7" {
		t.Errorf("aside lies %q", got)
	}
	if _, err := os.Lstat(s.dir + ".damaged/mark"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("and what was there before: %v", err)
	}
	if err := s.SetAside(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a store: %v", err)
	}
}

func TestBeginMakesAStagedGenerationTheCurrentOneWhateverWasBefore(t *testing.T) {
	s := begun(t)
	s.reject("version 2")
	s.must(s.Try(s.stage(s.plan("version 3")).Number))
	p := s.plan("version 4")
	p.Name = "other"
	g := s.stage(p)
	seen := Inputs{Profile: "x", Sources: []string{}}
	s.must(s.Begin(g, seen))
	if r := s.whole(); r.Name != "other" || r.Current != 4 || r.Trying != 0 || r.Next != 5 || !r.Seen.Equal(seen) {
		t.Errorf("%+v", r)
	}
}

// What can be read of a record or a manifest that is not as it was written is a clear error, which names the file.
func TestADamagedRecordOrManifestIsAClearError(t *testing.T) {
	s := begun(t)
	s.accept("version 2")
	for _, file := range []struct {
		name string
		read func() error
		bad  map[string][2]string // what is replaced by what
	}{
		{recordName, func() error { _, err := s.Record(); return err }, map[string][2]string{
			"another version":     {`"version": 1`, `"version": 2`},
			"no version":          {`"version": 1,`, ``},
			"an unknown member":   {`{`, `{"more": 1,`},
			"another kind":        {`"current": 2`, `"current": "2"`},
			"no current one":      {`"current": 2`, `"current": 0`},
			"a negative one":      {`"current": 2`, `"current": -2`},
			"next is current":     {`"next": 3`, `"next": 2`},
			"trying what is next": {`"trying": 0`, `"trying": 3`},
			"trying nothing":      {`"trying": 0`, `"trying": -1`},
			"a fraction":          {`"next": 3`, `"next": 3.5`},
		}},
		{"2/" + manifestName, func() error { _, err := s.Get(2); return err }, map[string][2]string{
			"another version":                   {`"version":1`, `"version":2`},
			"another's":                         {`"number":2`, `"number":3`},
			"an unknown member":                 {`{`, `{"more":1,`},
			"another kind":                      {`"number":2`, `"number":"2"`},
			"a parent that came later":          {`"parent":0`, `"parent":2`},
			"a negative parent":                 {`"parent":0`, `"parent":-1`},
			"a file outside":                    {`"path":"conf"`, `"path":"../../conf"`},
			"an absolute file":                  {`"path":"conf"`, `"path":"/etc/shadow"`},
			"no file":                           {`"path":"conf"`, `"path":""`},
			"a source too few for its mounts":   {`"sources":["`, `"sources":[],"sources_":["`},
			"mounts that do not fit to sources": {`"mounts":[`, `"mounts":[{"target":"/x","files":[]},`},
		}},
	} {
		path := filepath.Join(s.dir, file.name)
		good := read(t, path)
		contents := map[string]string{
			"empty": "", "torn": good[:len(good)/2], "without its end": strings.TrimRight(good, "}\n"), "two of them": good + good,
			"null": "null", "a list": "[]", "zeros": strings.Repeat("\x00", len(good)), "nonsense": "\xff\xfe nonsense",
			"too long": good + strings.Repeat(" ", maxManifest),
		}
		for name, r := range file.bad {
			contents[name] = strings.Replace(good, r[0], r[1], 1)
		}
		for name, content := range contents {
			t.Run(file.name+" "+name, func(t *testing.T) {
				if content == good {
					t.Fatal("nothing was changed")
				}
				write(t, path, content)
				defer write(t, path, good)
				err := file.read()
				if err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "cannot use "+path) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v", err)
				}
			})
		}
		for name, put := range map[string]func() error{
			"a link":      func() error { return os.Symlink(path+".good", path) },
			"a FIFO":      func() error { return unix.Mkfifo(path, 0o600) },
			"a directory": func() error { return os.Mkdir(path, 0o700) },
		} {
			t.Run(file.name+" "+name, func(t *testing.T) {
				s.must(os.Rename(path, path+".good"))
				defer func() { s.must(errors.Join(os.Remove(path), os.Rename(path+".good", path))) }()
				s.must(put())
				if err := file.read(); err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), path) {
					t.Errorf("got %v", err)
				}
			})
		}
		if err := file.read(); err != nil {
			t.Errorf("as it was: %v", err)
		}
	}
}

// A store whose record cannot be read is not written over.
func TestNothingIsChangedWhereTheRecordIsDamaged(t *testing.T) {
	s := begun(t)
	g := s.stage(s.plan("version 2"))
	path := filepath.Join(s.dir, recordName)
	write(t, path, "{")
	p := s.plan("version 3")
	for name, change := range map[string]func() error{
		"Stage":   func() error { _, err := s.Stage(t.Context(), p); return err },
		"Begin":   func() error { return s.Begin(g, g.From) },
		"Try":     func() error { return s.Try(2) },
		"Accept":  func() error { return s.Accept(2, Inputs{}) },
		"Reject":  func() error { return s.Reject(rejected(2), Inputs{}) },
		"Abandon": s.Abandon,
		"See":     func() error { return s.See(Inputs{}) },
	} {
		if err := change(); err == nil || !strings.Contains(err.Error(), "cannot use "+path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := read(t, path); got != "{" {
		t.Errorf("the record is %q", got)
	}
	if got := read(t, filepath.Join(s.path(2), profileName)); got != "version 2" {
		t.Errorf("generation 2 has the profile %q", got)
	}
}

func TestInputs(t *testing.T) {
	in := func(profile string, sources ...string) Inputs { return Inputs{profile, sources} }
	t.Run("are equal if all of them are", func(t *testing.T) {
		for _, c := range []struct {
			a, b Inputs
			want bool
		}{
			{in("p"), Inputs{"p", []string{}}, true},
			{in("p", "a", "b"), in("p", "a", "b"), true},
			{in("p", "a"), in("q", "a"), false},
			{in("p", "a", "b"), in("p", "b", "a"), false},
			{in("p", "a"), in("p", "a", "b"), false},
		} {
			if got := c.a.Equal(c.b); got != c.want {
				t.Errorf("%+v and %+v: %v", c.a, c.b, got)
			}
		}
	})
	t.Run("take what they do not tell from others", func(t *testing.T) {
		for _, c := range []struct{ a, b, want Inputs }{
			{in("p", "", "b"), in("q", "x", "y"), in("p", "x", "b")},
			{in("p", "", ""), in("q", "x"), in("p", "x", "")},
			{in("p", "a"), in("q", "x", "y"), in("p", "a")},
			{in("p"), in("q", "x"), in("p")},
		} {
			before := slices.Clone(c.a.Sources)
			if got := c.a.Over(c.b); !got.Equal(c.want) {
				t.Errorf("%+v over %+v is %+v", c.a, c.b, got)
			}
			if !slices.Equal(c.a.Sources, before) {
				t.Errorf("it was changed: %+v", c.a)
			}
		}
	})
	t.Run("tell which sources have changed", func(t *testing.T) {
		sources := []Source{{Target: "/a", File: os.Stdin}, {Target: "/b", File: os.Stdin}, {Target: "/c", File: os.Stdin}}
		for _, c := range []struct {
			now, before Inputs
			want        []bool
		}{
			{in("p", "a", "b", "c"), in("p", "a", "b", "c"), []bool{false, false, false}},
			{in("p", "a", "B", "c"), in("q", "a", "b", "c"), []bool{false, true, false}},
			{in("p", "a", "b", "c"), in("p", "a"), []bool{false, true, true}},
			{in("p", "a", "b", "c"), in("p", "", "", ""), []bool{true, true, true}},
		} {
			got := c.now.Changed(c.before, sources)
			for i, changed := range c.want {
				if (got[i].File != nil) != changed || got[i].Target != sources[i].Target {
					t.Errorf("%+v after %+v: %+v", c.now, c.before, got[i])
				}
				if sources[i].File == nil {
					t.Fatal("the sources themselves were changed")
				}
			}
		}
	})
}

func TestACancelledCopyLeavesNothing(t *testing.T) {
	s := begun(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the deadline has passed")
	cancel(why)
	if g, err := s.Stage(ctx, s.plan("version 2")); !errors.Is(err, why) || g != nil {
		t.Errorf("it gave %+v, %v", g, err)
	}
	if names := s.names(); !slices.Equal(names, []string{"1", recordName}) {
		t.Errorf("there is %v", names)
	}
}

func TestAGenerationIsGivenToAnotherGroupAsAWhole(t *testing.T) {
	s := begun(t)
	g, err := s.Get(1)
	s.must(err)
	groups := func() (all []uint32) {
		if err := filepath.WalkDir(s.Tree(g.Number, 0), func(name string, _ os.DirEntry, err error) error {
			var st unix.Stat_t
			if err == nil {
				err = unix.Lstat(name, &st)
			}
			if st.Uid != 0 {
				t.Errorf("%s belongs to UID %d", name, st.Uid)
			}
			all = append(all, st.Gid)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	if got := groups(); !slices.Equal(got, []uint32{testGID}) {
		t.Fatalf("the files are of the groups %v", got)
	}
	for range 2 { // the second time there is nothing to do
		if err := s.Give(g.Number, 364991); err != nil {
			t.Fatal(err)
		}
		if got := groups(); !slices.Equal(got, []uint32{364991}) {
			t.Errorf("the files are of the groups %v", got)
		}
	}
	if err := s.Verify(t.Context(), g.Number, 364990); err != nil {
		t.Error(err)
	}
}
