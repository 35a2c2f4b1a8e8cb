package generation

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/receipt"
)

// unlockable is a store whose generation 1 has, at /etc/gateway, the file conf, the directory sites with a file in it, and at
// /etc/token a single file.
func unlockable(t *testing.T) *scratch {
	t.Helper()
	s := begun(t)
	mkdir(t, s.source+"/sites", 0o755)
	write(t, s.source+"/sites/x", "x\n")
	single := filepath.Join(t.TempDir(), "token")
	write(t, single, "{}")
	p := s.plan("version 2")
	p.Sources = append(p.Sources, s.open(single, "/etc/token"))
	g := s.stage(p)
	s.must(s.Try(g.Number))
	s.must(s.Accept(g.Number, g.From))
	return s
}

func (s *scratch) unlock(d time.Duration, paths ...string) error {
	s.t.Helper()
	g, err := s.Get(s.record().Current)
	s.must(err)
	now := time.Now()
	return s.Unlock(s.t.Context(), g, paths, Unlocked{Since: now, Until: now.Add(d), For: d, Reason: "why", UID: testUID, GID: testGID})
}

func (s *scratch) lock() (*Generation, error) {
	s.t.Helper()
	return s.Lock(s.t.Context(), "why not", receipt.RequestedBy{Via: "warden"})
}

// ownerOf gives UID and permissions.
func ownerOf(t *testing.T, name string) (uint32, os.FileMode) {
	t.Helper()
	st, err := os.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Uid, st.Mode().Perm()
}

func TestAWorkingCopyIsTheGatewaysWhereThatIsDeclared(t *testing.T) {
	s := unlockable(t)
	s.must(s.unlock(time.Minute, "/etc/gateway/sites", "/etc/token"))
	for name, want := range map[string]struct {
		uid  uint32
		mode os.FileMode
	}{
		s.Working(0):              {0, 0o755},
		s.Working(0) + "/conf":    {0, 0o644},
		s.Working(0) + "/sites":   {testUID, 0o755},
		s.Working(0) + "/sites/x": {testUID, 0o644},
		s.Working(1):              {testUID, 0o644},
	} {
		if uid, mode := ownerOf(t, name); uid != want.uid || mode != want.mode {
			t.Errorf("%s belongs to %d with mode %o", name, uid, mode)
		}
	}
	if r := s.record(); r.Current != 2 || r.Unlocked == nil || !slices.Equal(r.Unlocked.Mounts, []int{0, 1}) || r.Unlocked.Reason != "why" || !s.Kept(r) {
		t.Errorf("record %+v", r)
	}
	// The generation itself is as it was.
	s.must(s.Verify(t.Context(), 2, testUID))
}

func TestOnlyMountsThatHoldWhatIsDeclaredHaveAWorkingCopy(t *testing.T) {
	s := unlockable(t)
	s.must(s.unlock(time.Minute, "/etc/gateway/conf"))
	if r := s.record(); !slices.Equal(r.Unlocked.Mounts, []int{0}) {
		t.Errorf("record %+v", r)
	}
	if _, err := os.Lstat(s.Working(1)); err == nil {
		t.Error("the other mount has one too")
	}
}

func TestWhatIsNotThereCannotBeUnlocked(t *testing.T) {
	s := unlockable(t)
	if err := s.unlock(time.Minute, "/etc/gateway/nothing"); err == nil || !strings.Contains(err.Error(), "/etc/gateway/nothing is not there") {
		t.Errorf("unlocked: %v", err)
	}
	if r := s.record(); r.Unlocked != nil {
		t.Errorf("record %+v", r)
	}
}

func TestUnlockingAgainSetsAnotherEndAndKeepsWhatWasWritten(t *testing.T) {
	s := unlockable(t)
	s.must(s.unlock(time.Minute, "/etc/gateway/conf"))
	first := s.record().Unlocked
	write(t, s.Working(0)+"/conf", "written\n")
	s.must(s.unlock(time.Hour, "/etc/gateway/conf"))
	if u := s.record().Unlocked; !u.Since.Equal(first.Since) || u.For != time.Hour || read(t, s.Working(0)+"/conf") != "written\n" {
		t.Errorf("%+v, and was %+v; it holds %q", u, first, read(t, s.Working(0)+"/conf"))
	}
}

func TestTheTimeThatIsLeftIsNotMadeLongerByTheClock(t *testing.T) {
	now := time.Now()
	u := Unlocked{Since: now, Until: now.Add(time.Minute), For: time.Minute}
	for name, c := range map[string]struct {
		at, want time.Duration
	}{"half of it": {30 * time.Second, 30 * time.Second}, "all of it": {time.Minute, 0}, "long ago": {time.Hour, -59 * time.Minute}, "a clock that was set back": {-time.Hour, time.Minute}} {
		if got := u.Left(now.Add(c.at)); got != c.want {
			t.Errorf("%s: %v are left, not %v", name, got, c.want)
		}
	}
}

func TestWhatWasWrittenIsAGenerationOnceItIsLocked(t *testing.T) {
	s := unlockable(t)
	s.must(s.unlock(time.Minute, "/etc/gateway/sites"))
	write(t, s.Working(0)+"/sites/y", "y\n")
	chmod(t, s.Working(0)+"/sites/y", 0o666) // its own business; the copy's mode is ours
	if err := os.Lchown(s.Working(0)+"/sites/y", testUID, testGID); err != nil {
		t.Fatal(err)
	}
	g, err := s.lock()
	s.must(err)
	before, err := s.Get(2)
	s.must(err)
	if c := before.Changes(g); g.Number != 3 || g.Parent != 2 || g.Origin != ByUnlock || g.Reason != "why not" || len(c) != 1 || c[0] != (Change{"/etc/gateway/sites/y", "added"}) {
		t.Errorf("%+v, changes %+v", g, c)
	}
	if r := s.record(); r.Current != 3 || r.Next != 4 || r.Unlocked != nil || !s.Kept(r) {
		t.Errorf("record %+v", r)
	}
	if uid, mode := ownerOf(t, s.Tree(3, 0)+"/sites/y"); uid != 0 || mode != 0o644 {
		t.Errorf("it belongs to %d with mode %o", uid, mode)
	}
	s.must(s.Verify(t.Context(), 3, testUID))
}

func TestWithoutAWordWrittenTheGenerationStays(t *testing.T) {
	s := unlockable(t)
	s.must(s.unlock(time.Minute, "/etc/gateway/sites"))
	g, err := s.lock()
	s.must(err)
	if r := s.record(); g.Number != 2 || r.Current != 2 || r.Unlocked != nil || r.Next != 3 || !slices.Equal(s.numbers(), []int{1, 2}) {
		t.Errorf("%+v, record %+v, %v", g, r, s.numbers())
	}
	// And what is locked already is locked.
	if g, err := s.lock(); err != nil || g.Number != 2 {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestWhatCannotBeAGenerationIsKeptAsideAndLocked(t *testing.T) {
	for name, c := range map[string]struct {
		write func(dir string) error
		want  string
	}{
		"a link":        {func(dir string) error { return os.Symlink("/etc/shadow", dir+"/link") }, "link is a symbolic link"},
		"a FIFO":        {func(dir string) error { return unix.Mkfifo(dir+"/fifo", 0o600) }, "fifo is neither a regular file nor a directory"},
		"a long file":   {func(dir string) error { return os.WriteFile(dir+"/long", make([]byte, MaxFile+1), 0o600) }, "at most"},
		"a second name": {func(dir string) error { return os.Link(dir+"/x", dir+"/y") }, "has 2 names"},
		"somebody else's": {func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/z", nil, 0o600), os.Chown(dir+"/z", 1000, 1000))
		}, "belongs to UID 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			s := unlockable(t)
			s.must(s.unlock(time.Minute, "/etc/gateway/sites"))
			s.must(c.write(s.Working(0) + "/sites"))
			g, err := s.lock()
			if err == nil || errors.Is(err, ErrStillUnlocked) || !strings.Contains(err.Error(), c.want) || g == nil || g.Number != 2 {
				t.Errorf("%+v, %v", g, err)
			}
			if r := s.record(); r.Current != 2 || r.Unlocked != nil {
				t.Errorf("record %+v", r)
			}
			if _, err := os.Lstat(filepath.Join(s.Dir(), lostName, mountName, "0", "sites")); err != nil {
				t.Error(err)
			}
			// The next time begins with what is current.
			s.must(s.unlock(time.Minute, "/etc/gateway/sites"))
			if names, err := os.ReadDir(s.Working(0) + "/sites"); err != nil || len(names) != 1 {
				t.Errorf("the working copy has %v (%v)", names, err)
			}
		})
	}
}

func TestWhatIsWrittenAfterTheLockIsTold(t *testing.T) {
	s := unlockable(t)
	s.must(s.unlock(time.Minute, "/etc/gateway/sites"))
	open, err := os.OpenFile(s.Working(0)+"/sites/x", os.O_WRONLY|os.O_APPEND, 0)
	s.must(err)
	defer open.Close()
	u := s.record().Unlocked
	g, err := s.lock()
	s.must(err)
	if touched, err := s.Touched(t.Context(), g, u); touched || err != nil {
		t.Errorf("touched: %v, %v", touched, err)
	}
	if _, err := open.WriteString("late\n"); err != nil {
		t.Fatal(err)
	}
	if touched, err := s.Touched(t.Context(), g, u); !touched || err != nil {
		t.Errorf("touched: %v, %v", touched, err)
	}
	s.must(s.Reopen(*u))
	g, err = s.lock()
	s.must(err)
	if got := read(t, s.Tree(g.Number, 0)+"/sites/x"); got != "x\nlate\n" {
		t.Errorf("it holds %q", got)
	}
	s.must(s.DropWorking())
	if _, err := os.Lstat(s.Working(0)); err == nil {
		t.Error("the working copy is still there")
	}
}

func TestALockThatCannotBeRecordedSaysSo(t *testing.T) {
	s := unlockable(t)
	s.must(s.unlock(time.Minute, "/etc/gateway/sites"))
	mkdir(t, filepath.Join(s.Dir(), recordName+".new"), 0o700)
	if _, err := s.lock(); !errors.Is(err, ErrStillUnlocked) {
		t.Errorf("locked: %v", err)
	}
	if r := s.record(); r.Unlocked == nil || r.Current != 2 {
		t.Errorf("record %+v", r)
	}
}
