package generation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// goesOn checks that exactly one generation is current and whole, and that the next change works.
func (s *scratch) goesOn() {
	s.t.Helper()
	before := s.whole()
	g := s.stage(s.plan(fmt.Sprint("after all ", rand.Int())))
	if g.Number != before.Next {
		s.t.Errorf("the next one is %d; the record told %d", g.Number, before.Next)
	}
	s.must(s.Try(g.Number))
	s.must(s.Accept(g.Number, g.From))
	if r := s.whole(); r.Current != g.Number || r.Trying != 0 {
		s.t.Errorf("%+v", r)
	}
	for _, name := range s.names() {
		if strings.HasPrefix(name, stagingName) {
			s.t.Errorf("%s is left", name)
		}
	}
	another := s.stage(s.plan("to be discarded"))
	s.must(s.Discard(another))
	if slices.Contains(s.numbers(), another.Number) {
		s.t.Errorf("%d is there after it was discarded", another.Number)
	}
}

// What a writer leaves that dies after each of its steps, in their order.
func TestAWriterThatDiesBetweenTwoStepsLeavesOneCurrentGeneration(t *testing.T) {
	copyTo := func(s *scratch, from, to string) {
		s.t.Helper()
		s.must(os.CopyFS(filepath.Join(s.dir, to), os.DirFS(filepath.Join(s.dir, from))))
	}
	move := func(s *scratch, from, to string) {
		s.t.Helper()
		s.must(os.Rename(filepath.Join(s.dir, from), filepath.Join(s.dir, to)))
	}
	// next makes the record that change would, in the place where it is written first.
	next := func(s *scratch, change func() error) {
		s.t.Helper()
		path := filepath.Join(s.dir, recordName)
		before := read(s.t, path)
		s.must(change())
		move(s, recordName, recordName+".new")
		write(s.t, path, before)
	}
	for _, c := range []struct {
		name            string
		leave           func(s *scratch)
		current, trying int
	}{
		{"stage: an empty directory", func(s *scratch) { mkdir(s.t, filepath.Join(s.dir, stagingName), 0o700) }, 1, 0},
		{"stage: half of the files", func(s *scratch) {
			mkdir(s.t, filepath.Join(s.dir, stagingName, mountName, "0"), 0o700)
			write(s.t, filepath.Join(s.dir, stagingName, mountName, "0", "conf"), "o")
		}, 1, 0},
		{"stage: half of the description", func(s *scratch) {
			copyTo(s, "1", stagingName)
			s.must(os.Remove(filepath.Join(s.dir, stagingName, profileName)))
			s.must(os.Truncate(filepath.Join(s.dir, stagingName, manifestName), 20))
		}, 1, 0},
		{"stage: all but the number", func(s *scratch) { copyTo(s, "1", stagingName) }, 1, 0},
		{"stage: all", func(s *scratch) { s.stage(s.plan("version 2")) }, 1, 0},
		{"stage again: the one before is on its way", func(s *scratch) {
			s.stage(s.plan("version 2"))
			move(s, "2", stagingName+".2")
		}, 1, 0},
		{"discard: the number is gone", func(s *scratch) {
			s.stage(s.plan("version 2"))
			move(s, "2", stagingName+".2")
		}, 1, 0},
		{"discard: half of it is gone", func(s *scratch) {
			s.stage(s.plan("version 2"))
			move(s, "2", stagingName+".2")
			s.must(os.Remove(filepath.Join(s.dir, stagingName+".2", manifestName)))
		}, 1, 0},
		{"try: half of the record", func(s *scratch) {
			g := s.stage(s.plan("version 2"))
			next(s, func() error { return s.Try(g.Number) })
			s.must(os.Truncate(filepath.Join(s.dir, recordName+".new"), 30))
		}, 1, 0},
		{"try: the record is not in its place", func(s *scratch) {
			g := s.stage(s.plan("version 2"))
			next(s, func() error { return s.Try(g.Number) })
		}, 1, 0},
		{"try: all", func(s *scratch) { s.must(s.Try(s.stage(s.plan("version 2")).Number)) }, 1, 2},
		{"accept: half of the record", func(s *scratch) {
			g := s.stage(s.plan("version 2"))
			s.must(s.Try(g.Number))
			next(s, func() error { return s.Accept(g.Number, g.From) })
			s.must(os.Truncate(filepath.Join(s.dir, recordName+".new"), 30))
		}, 1, 2},
		{"accept: the record is not in its place", func(s *scratch) {
			g := s.stage(s.plan("version 2"))
			s.must(s.Try(g.Number))
			next(s, func() error { return s.Accept(g.Number, g.From) })
		}, 1, 2},
		{"accept: too many are there", func(s *scratch) {
			for i := range Keep {
				g := s.stage(s.plan(fmt.Sprint("version ", i+2)))
				s.must(s.Try(g.Number))
				r := s.record()
				r.Current, r.Trying = g.Number, 0
				s.must(s.write(r, true))
			}
		}, Keep + 1, 0},
		{"accept: half of the oldest is there", func(s *scratch) {
			s.accept("version 2")
			move(s, "1", stagingName+".1")
			s.must(os.RemoveAll(filepath.Join(s.dir, stagingName+".1", mountName)))
		}, 2, 0},
		{"reject: the record is not in its place", func(s *scratch) {
			g := s.stage(s.plan("version 2"))
			s.must(s.Try(g.Number))
			next(s, func() error { return s.Reject(rejected(g.Number), g.From) })
		}, 1, 2},
		{"reject: all", func(s *scratch) { s.reject("version 2") }, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := begun(t)
			c.leave(s)
			if r := s.whole(); r.Current != c.current || r.Trying != c.trying {
				t.Fatalf("%d is current and %d is tried", r.Current, r.Trying)
			}
			s.goesOn()
		})
	}
}

// changeForEver is a writer: it makes generations of what is in source, and accepts, rejects, abandons and discards them.
func changeForEver(stateDir, source string) error {
	s := Open(stateDir)
	f, err := os.OpenFile(source, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	ctx := context.Background()
	for i := 0; ; i++ {
		g, err := s.Stage(ctx, Plan{
			Name: "demo", Profile: fmt.Appendf(nil, "version %d of %d", i, os.Getpid()), UID: testUID, GID: testGID, Durable: true,
			Sources: []Source{{Target: "/etc/gateway", Path: source, File: f, Declared: true}}, Origin: Applied,
		})
		if err != nil {
			return err
		}
		if i%4 == 3 {
			if err := s.Discard(g); err != nil {
				return err
			}
			continue
		}
		if err := s.Try(g.Number); err != nil {
			return err
		}
		switch i % 4 {
		case 0:
			err = s.Accept(g.Number, g.From)
		case 1:
			err = s.Reject(rejected(g.Number), g.From)
		case 2:
			err = s.Abandon()
		}
		if err != nil {
			return err
		}
	}
}

func TestAWriterThatIsKilledAtAnyMomentLeavesOneCurrentGeneration(t *testing.T) {
	s := begun(t)
	for i := range 8 {
		mkdir(t, fmt.Sprintf("%s/%d", s.source, i), 0o755)
		write(t, fmt.Sprintf("%s/%d/conf", s.source, i), strings.Repeat("x", 4000))
	}
	changes := 0
	for range 12 {
		before := s.record().Next
		cmd := exec.Command("/proc/self/exe", "writer", filepath.Dir(s.dir), s.source)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.StdoutPipe()
		s.must(err)
		s.must(cmd.Start())
		_, err = bufio.NewReader(out).ReadString('\n')
		time.Sleep(time.Duration(rand.IntN(200_000)) * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		if err != nil || said.Len() > 0 {
			t.Fatalf("the writer has ended by itself: %v %s", err, said.String())
		}
		changes += s.whole().Next - before
		if rand.IntN(4) == 0 {
			s.goesOn()
		}
	}
	s.goesOn()
	if changes == 0 {
		t.Error("no writer has changed anything before it was killed")
	}
}

// A full disk ends a change at any of its steps, with an error.
func TestADiskThatIsFullAtAnyStepLeavesOneCurrentGeneration(t *testing.T) {
	for name, limit := range map[string]func(st *unix.Statfs_t, more uint64) string{
		"no inodes": func(st *unix.Statfs_t, more uint64) string {
			return fmt.Sprintf("nr_inodes=%d", st.Files-st.Ffree+more)
		},
		"no space": func(st *unix.Statfs_t, more uint64) string {
			return fmt.Sprintf("nr_blocks=%d", st.Blocks-st.Bfree+more)
		},
	} {
		t.Run(name, func(t *testing.T) {
			const roomy = "nr_inodes=1000,nr_blocks=1000"
			disk := t.TempDir()
			s := newScratch(t)
			s.must(unix.Mount("none", disk, "tmpfs", 0, roomy))
			t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
			s.Store = Open(disk)
			failed := map[string]bool{}
			for more := uint64(0); ; more++ {
				if more > 100 {
					t.Fatal("it does not fit at all")
				}
				s.must(os.RemoveAll(s.dir))
				g := s.stage(s.plan("version 1"))
				s.must(s.Begin(g, g.From))
				var st unix.Statfs_t
				s.must(unix.Statfs(disk, &st))
				s.must(unix.Mount("none", disk, "", unix.MS_REMOUNT, limit(&st, more)))
				step, err := "stage", error(nil)
				if g, err = s.Stage(t.Context(), s.plan("version 2")); err == nil {
					step, err = "try", s.Try(2)
				}
				if err == nil {
					step, err = "accept", s.Accept(2, g.From)
				}
				s.must(unix.Mount("none", disk, "", unix.MS_REMOUNT, roomy))
				if err != nil && !errors.Is(err, unix.ENOSPC) {
					t.Fatalf("%d more: %s: %v", more, step, err)
				}
				if _, serr := os.Lstat(filepath.Join(s.dir, stagingName)); step == "stage" && !errors.Is(serr, fs.ErrNotExist) {
					t.Errorf("%d more: half of a generation is left: %v", more, serr)
				}
				want := map[bool]int{true: 2, false: 1}[err == nil]
				if r := s.whole(); r.Current != want {
					t.Errorf("%d more: after %s, %v, generation %d is current", more, step, err, r.Current)
				}
				s.goesOn()
				if err == nil {
					break
				}
				failed[step] = true
			}
			if !failed["stage"] {
				t.Error("no step was without room")
			}
		})
	}
}
