package mount

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// shower is a container with a pivoted root, and what may be shown in it.
type shower struct {
	*container
	dirs []string
}

func newShower(t *testing.T, n int) *shower {
	t.Helper()
	s := &shower{}
	base := t.TempDir()
	for i := range n {
		dir := filepath.Join(base, fmt.Sprint(i))
		mkdir(t, dir)
		write(t, filepath.Join(dir, "name"), fmt.Sprint(i))
		s.dirs = append(s.dirs, dir)
	}
	script := `mkdir -p old etc/gateway bin; cp /bin/busybox bin/; mount --bind ` + s.dirs[0] + ` etc/gateway; ` +
		`mount -o remount,bind,ro,nosuid,nodev etc/gateway; pivot_root . old; cd /; /bin/busybox umount -l /old; exec /bin/busybox sh -c "echo ready; exec /bin/busybox sleep 600"`
	s.container = newContainer(t, script, nil)
	s.rootfs = "/"
	return s
}

func (s *shower) source(i int) Source {
	s.t.Helper()
	f, err := os.OpenFile(s.dirs[i], unix.O_PATH, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { f.Close() })
	return Source{File: f, Path: s.dirs[i], Target: "/etc/gateway"}
}

func (s *shower) show(i int) Placed {
	s.t.Helper()
	placed, err := Show(s.init, []Source{s.source(i)})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := Verify(s.root(), placed); err != nil {
		s.t.Fatal(err)
	}
	if n := s.stacked(); n != 1 {
		s.t.Fatalf("%d mounts lie at the target:\n%s", n, s.mounts())
	}
	return placed[0]
}

func (s *shower) stacked() int { return strings.Count(s.mounts(), " /etc/gateway ") }

func (s *shower) sees() string { return read(s.t, s.path("/etc/gateway/name")) }

func TestWhatIsShownTakesThePlaceOfWhatWasThere(t *testing.T) {
	s := newShower(t, 3)
	before, err := os.Open(s.path("/etc/gateway"))
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	for _, i := range []int{1, 2, 0, 1} {
		s.show(i)
		if got := s.sees(); got != fmt.Sprint(i) {
			t.Errorf("the container sees %q, not what was shown last: %d", got, i)
		}
	}
	if err := os.WriteFile(s.path("/etc/gateway/name"), nil, 0o644); err == nil {
		t.Error("what is shown can be written")
	}
	// Whoever had the old one open still has it.
	names, err := before.Readdirnames(-1)
	if err != nil || len(names) != 1 {
		t.Errorf("the old directory, which was open, shows %v (%v)", names, err)
	}
}

func TestWhatIsShownAlreadyStays(t *testing.T) {
	s := newShower(t, 2)
	first := s.show(1)
	if again := s.show(1); again != first {
		t.Errorf("it was mounted again: %+v, and was %+v", again, first)
	}
}

// Whoever looks sees the old one or the new one, never neither.
func TestTheChangeOfWhatIsShownIsAtomic(t *testing.T) {
	s := newShower(t, 2)
	var stop atomic.Bool
	wrong := make(chan string, 1)
	looked := make(chan int, 1)
	go func() {
		n := 0
		for ; !stop.Load(); n++ {
			if data, err := os.ReadFile(s.path("/etc/gateway/name")); err != nil || string(data) != "0" && string(data) != "1" {
				select {
				case wrong <- fmt.Sprintf("%q, %v", data, err):
				default:
				}
			}
		}
		looked <- n
	}()
	for i := range 200 {
		s.show((i + 1) % 2)
	}
	stop.Store(true)
	if n := <-looked; n < 200 {
		t.Errorf("only %d looks were taken meanwhile", n)
	}
	select {
	case w := <-wrong:
		t.Errorf("somebody saw %s", w)
	default:
	}
}

// A warden that is lost between the two steps leaves two mounts.
func TestAnInterruptedChangeIsFinishedByTheNext(t *testing.T) {
	for want, name := range map[int]string{0: "back to the old one", 1: "on to the new one", 2: "on to a third"} {
		t.Run(name, func(t *testing.T) {
			s := newShower(t, 3)
			tree, err := clone(s.source(1))
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			ns, err := s.init.OpenNamespace("mnt")
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			if err := inNamespace(ns, func(*os.File) error {
				const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | moveMountBeneath
				return unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, "/etc/gateway", flags)
			}); err != nil {
				t.Fatal(err)
			}
			if n := s.stacked(); n != 2 {
				t.Fatalf("%d mounts lie at the target, and this test needs two", n)
			}
			s.show(want)
			if got := s.sees(); got != fmt.Sprint(want) {
				t.Errorf("the container sees %q, not %d", got, want)
			}
		})
	}
}

// replaces does what exchange does on a kernel before 6.5.
func (s *shower) replaces(source Source) error {
	s.t.Helper()
	tree, err := clone(source)
	if err != nil {
		s.t.Fatal(err)
	}
	defer tree.Close()
	ns, err := s.init.OpenNamespace("mnt")
	if err != nil {
		s.t.Fatal(err)
	}
	defer ns.Close()
	return inNamespace(ns, func(self *os.File) error {
		root, err := openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer root.Close()
		p, err := newPlacer(self, root, Options{})
		if err != nil {
			return err
		}
		defer p.close()
		dir, err := openBelow(root, "etc")
		if err != nil {
			return err
		}
		defer dir.Close()
		parent, err := stat(int(dir.Fd()))
		if err != nil {
			return err
		}
		return p.replace(tree, dir, "gateway", parent.mountID)
	})
}

func TestBefore65TheOldOneIsTakenAwayAndTheNewOnePutThere(t *testing.T) {
	s := newShower(t, 2)
	before, err := os.Open(s.path("/etc/gateway"))
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	for _, i := range []int{1, 0, 1} {
		if err := s.replaces(s.source(i)); err != nil {
			t.Fatal(err)
		}
		if got := s.sees(); got != fmt.Sprint(i) {
			t.Errorf("the container sees %q, not %d", got, i)
		}
		if n := s.stacked(); n != 1 {
			t.Errorf("%d mounts lie at the target:\n%s", n, s.mounts())
		}
	}
	if err := os.WriteFile(s.path("/etc/gateway/name"), nil, 0o644); err == nil {
		t.Error("what is shown can be written")
	}
	if names, err := before.Readdirnames(-1); err != nil || len(names) != 1 {
		t.Errorf("the old directory, which was open, shows %v (%v)", names, err)
	}
	// Either way leads on from the other.
	s.show(0)
}

func TestBefore65AnInterruptedChangeLeavesNothingThere(t *testing.T) {
	s := newShower(t, 2)
	if out, err := exec.Command("nsenter", "-t", fmt.Sprint(s.init.PID()), "-m", "/bin/busybox", "umount", "/etc/gateway").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := s.replaces(s.source(1)); err == nil {
		t.Error("where nothing is, something was taken away")
	}
	if n := s.stacked(); n != 0 {
		t.Errorf("%d mounts lie at the target", n)
	}
}

func TestNothingIsShownWhereNothingWasPlaced(t *testing.T) {
	s := newShower(t, 2)
	if out, err := exec.Command("nsenter", "-t", fmt.Sprint(s.init.PID()), "-m", "/bin/busybox", "umount", "/etc/gateway").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := Show(s.init, []Source{s.source(1)}); err == nil || !strings.Contains(err.Error(), "nothing is mounted there any more") {
		t.Errorf("it was shown: %v", err)
	}
}

func TestAPreviewShowsWhatTheContainerDoesNot(t *testing.T) {
	s := newShower(t, 2)
	before := s.mounts()
	ns, err := Preview(s.init, []Source{s.source(1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	cmd := exec.Command("nsenter", "--mount=/proc/self/fd/3", "/bin/busybox", "cat", "/etc/gateway/name")
	cmd.ExtraFiles = []*os.File{ns}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "1" {
		t.Errorf("in the preview one sees %q (%v)", out, err)
	}
	if got := s.sees(); got != "0" {
		t.Errorf("the container sees %q", got)
	}
	if after := s.mounts(); after != before {
		t.Errorf("the container's mounts have changed:\n%s\nand were\n%s", after, before)
	}
}
