package launch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start runs the launcher as libcontainer does: its own file is descriptor 3, its control socket 4, and what it holds follows.
func start(t *testing.T, env []string, held ...*os.File) (*Gate, *exec.Cmd, *strings.Builder) {
	t.Helper()
	file, err := File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	gate, theirs, err := NewGate()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	var out strings.Builder
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = append([]*os.File{file, theirs}, held...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		gate.Close()
		cmd.Wait()
	})
	return gate, cmd, &out
}

func ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestAReleasedLauncherBecomesTheProgramWithExactlyTheOrderedArgumentsEnvironmentAndDirectory(t *testing.T) {
	gate, cmd, out := start(t, []string{"LD_PRELOAD=/evil.so", "LEFT=over"})
	if err := gate.AwaitParked(ctx(t)); err != nil {
		t.Fatal(err)
	}
	_, err := gate.Release(ctx(t), Order{
		Exe: open(t, "/bin/sh"), Cwd: "/usr", Env: []string{"A=1", "EMPTY="},
		Arg: []string{"renamed", "-c", `echo "$0 $1 $PWD"; readlink /proc/self/cwd; tr "\0" " " </proc/$$/environ; echo; ls /proc/$$/fd | tr "\n" " "`, "zero", "one two", ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(out.String(), "\n")
	if lines[0] != "zero one two /usr" || lines[1] != "/usr" || strings.TrimSpace(lines[2]) != "A=1 EMPTY=" {
		t.Errorf("the program saw %q", lines)
	}
	if fds := strings.Fields(lines[3]); !slices.Equal(fds, []string{"0", "1", "2"}) {
		t.Errorf("the program inherited descriptors %v, want 0, 1 and 2 alone", fds)
	}
}

func TestALauncherThatCannotBecomeTheProgramSaysAtWhichStepAndWhy(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		order Order
		want  Failure
	}{
		"no such directory": {Order{Exe: open(t, "/bin/true"), Cwd: "/no/such", Arg: []string{"x"}}, Failure{ChangeDirectory, unix.ENOENT}},
		"not executable":    {Order{Exe: open(t, "/etc/passwd"), Cwd: "/", Arg: []string{"x"}}, Failure{Exec, unix.EACCES}},
		"not a program":     {Order{Exe: open(t, text), Cwd: "/", Arg: []string{"x"}}, Failure{Exec, unix.ENOEXEC}},
	} {
		t.Run(name, func(t *testing.T) {
			gate, cmd, _ := start(t, nil)
			if err := gate.AwaitParked(ctx(t)); err != nil {
				t.Fatal(err)
			}
			_, err := gate.Release(ctx(t), c.order)
			if f, ok := errors.AsType[*Failure](err); !ok || *f != c.want {
				t.Errorf("got %v, want %v", err, &c.want)
			}
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 127 {
				t.Errorf("launcher ended with %v", cmd.ProcessState)
			}
		})
	}
}

func TestAParkedLauncherLeavesWithoutAWordWhenItsWardenIsGone(t *testing.T) {
	gate, cmd, out := start(t, nil)
	if err := gate.AwaitParked(ctx(t)); err != nil {
		t.Fatal(err)
	}
	gate.Close()
	if err := cmd.Wait(); err != nil || out.Len() != 0 {
		t.Errorf("launcher ended with %v and said %q", err, out)
	}
}

// null opens /dev/null n times: n descriptors that can be told from others by their number alone.
func null(t *testing.T, n int) []*os.File {
	t.Helper()
	var files []*os.File
	for range n {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	return files
}

func TestALauncherThatHoldsSocketsOutlivesItsWarden(t *testing.T) {
	order, _, err := encode(Order{Cwd: "/", Arg: []string{"x"}, Sockets: null(t, 2)})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		held, brought int // by it from its start on; by an order that its warden's loss cut short
		want          []int
	}{
		"from its start on": {2, 0, []int{4, 5, 6}},
		"by half an order":  {0, 2, []int{3, 4, 5, 6}},
		"in both ways":      {1, 1, []int{3, 4, 5, 6}},
	} {
		t.Run(name, func(t *testing.T) {
			gate, cmd, _ := start(t, nil, null(t, c.held)...)
			if err := gate.AwaitParked(ctx(t)); err != nil {
				t.Fatal(err)
			}
			if c.brought > 0 {
				binary.NativeEndian.PutUint32(order[16:], uint32(c.brought))
				var rights []int
				for _, f := range null(t, 1+c.brought) {
					rights = append(rights, int(f.Fd()))
				}
				if _, _, err := gate.conn.WriteMsgUnix(order, unix.UnixRights(rights...), nil); err != nil {
					t.Fatal(err)
				}
			}
			gate.Close()
			pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pidfd)
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 200); err != nil || n != 0 {
				t.Errorf("it ended (%v)", err)
			}
			for _, fd := range c.want {
				if _, err := os.Stat(fmt.Sprintf("/proc/%d/fd/%d", cmd.Process.Pid, fd)); err != nil {
					t.Errorf("its descriptor %d: %v", fd, err)
				}
			}
			if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
		})
	}
}

func TestThePassedSocketsAreTheProgramsFirstDescriptorsAndNothingElseIsOpen(t *testing.T) {
	for name, c := range map[string]struct {
		held, sockets int
		notify        bool
	}{
		"none":                             {0, 0, false},
		"held ones are not passed on":      {3, 0, false},
		"one":                              {0, 1, false},
		"one of several held":              {3, 1, false},
		"many":                             {5, 40, false},
		"as many as there may be":          {MaxSockets, MaxSockets, false},
		"the notification's comes after":   {1, 2, true},
		"the notification's alone":         {0, 0, true},
		"as many as may be, and notifying": {MaxSockets, MaxSockets, true},
	} {
		t.Run(name, func(t *testing.T) {
			gate, cmd, out := start(t, nil, null(t, c.held)...)
			if err := gate.AwaitParked(ctx(t)); err != nil {
				t.Fatal(err)
			}
			var sockets []*os.File
			for range c.sockets {
				f, err := os.CreateTemp(t.TempDir(), "socket")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				sockets = append(sockets, f)
			}
			notify, err := gate.Release(ctx(t), Order{
				Exe: open(t, "/bin/sh"), Cwd: "/", Sockets: sockets, Notify: c.notify,
				Arg: []string{"sh", "-c", `exec 2>/dev/null; i=0; while test $i -lt 200; do test -e /proc/$$/fd/$i && echo "$i $(readlink /proc/$$/fd/$i)"; i=$((i+1)); done`},
			})
			if err != nil {
				t.Fatal(err)
			}
			if (notify != nil) != c.notify {
				t.Errorf("the descriptor for notifications is %v", notify)
			}
			if notify != nil {
				notify.Close()
			}
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			var want []string
			for i, s := range sockets {
				want = append(want, fmt.Sprintf("%d %s", FirstSocket+i, s.Name()))
			}
			if c.notify {
				want = append(want, fmt.Sprintf("%d anon_inode:seccomp notify", FirstSocket+c.sockets))
			}
			got := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(got) < 3 || !slices.Equal(got[3:], want) {
				t.Errorf("its descriptors are\n%s\nwant, after 0, 1 and 2,\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestALauncherThatMayNotInstallTheFilterSaysSo(t *testing.T) {
	gate, cmd, _ := start(t, nil)
	if err := gate.AwaitParked(ctx(t)); err != nil {
		t.Fatal(err)
	}
	// Neither no_new_privs nor CAP_SYS_ADMIN would be one way; a second listener, which the kernel refuses, is another. The
	// first program is a launcher again, whose control socket is the one that is passed on as its second descriptor.
	again, theirs, err := NewGate()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	file, err := File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	notify, err := gate.Release(ctx(t), Order{Exe: file, Cwd: "/", Arg: []string{"x"}, Sockets: append(null(t, 1), theirs), Notify: true})
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	if err := again.AwaitParked(ctx(t)); err != nil {
		t.Fatal(err)
	}
	_, err = again.Release(ctx(t), Order{Exe: open(t, "/bin/true"), Cwd: "/", Arg: []string{"x"}, Notify: true})
	if f, ok := errors.AsType[*Failure](err); !ok || *f != (Failure{Filter, unix.EBUSY}) {
		t.Errorf("got %v, want EBUSY at the filter", err)
	}
	cmd.Wait()
}

func TestALauncherRefusesAnOrderThatIsNotOne(t *testing.T) {
	for name, bad := range map[string][]byte{
		"wrong magic": make([]byte, 24), "too short": []byte("GLW2"),
		"no descriptor": append([]byte{0x47, 0x4c, 0x57, 0x32, 1, 0, 0, 0, 1, 0, 0, 0}, make([]byte, 12)...),
	} {
		t.Run(name, func(t *testing.T) {
			gate, cmd, _ := start(t, nil)
			if err := gate.AwaitParked(ctx(t)); err != nil {
				t.Fatal(err)
			}
			if _, err := gate.conn.Write(bad); err != nil {
				t.Fatal(err)
			}
			step, errno, _, err := gate.answer(ctx(t))
			if err != nil || step != ReadOrder || errno != unix.EPROTO {
				t.Errorf("answer: %v %v %v", step, errno, err)
			}
			if cmd.Wait(); cmd.ProcessState.ExitCode() != 127 {
				t.Errorf("launcher ended with %v", cmd.ProcessState)
			}
		})
	}
}

func TestTheLaunchersFileCannotBeWritten(t *testing.T) {
	f, err := File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0}, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write: %v, want EPERM from the seal", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncate: %v, want EPERM from the seal", err)
	}
}

func TestEncodeRefusesWhatTheLauncherWouldNotTake(t *testing.T) {
	long := strings.Repeat("x", MaxBody)
	for name, o := range map[string]Order{
		"no argument":        {Cwd: "/"},
		"too many arguments": {Cwd: "/", Arg: make([]string, MaxStrings+1)},
		"NUL":                {Cwd: "/", Arg: []string{"a\x00b"}},
		"too long":           {Cwd: "/", Arg: []string{long}},
		"too many sockets":   {Cwd: "/", Arg: []string{"x"}, Sockets: make([]*os.File, MaxSockets+1)},
	} {
		if _, _, err := encode(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestALauncherThatIsToldSoLeavesNoCore(t *testing.T) {
	for name, c := range map[string]struct {
		limit  string // ulimit of the launcher
		noCore bool
		want   string
	}{
		"not told":               {"ulimit -Sc 0", false, "0 unlimited"},
		"told":                   {"ulimit -Sc 0", true, "1 1"},
		"told, and a higher one": {"ulimit -Sc unlimited", true, "1 1"},
		"told, and it has it":    {"ulimit -Sc 0; ulimit -Hc 0", true, "0 0"},
	} {
		t.Run(name, func(t *testing.T) {
			// By a shell, which has the limit set before.
			file, err := File()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			gate, theirs, err := NewGate()
			if err != nil {
				t.Fatal(err)
			}
			defer gate.Close()
			defer theirs.Close()
			var out strings.Builder
			cmd := exec.Command("/bin/sh", "-c", c.limit+"; exec /proc/self/fd/3")
			cmd.ExtraFiles = []*os.File{file, theirs}
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			theirs.Close()
			defer cmd.Wait()
			defer gate.Close()
			if err := gate.AwaitParked(ctx(t)); err != nil {
				t.Fatal(err)
			}
			if _, err := gate.Release(ctx(t), Order{Exe: open(t, "/bin/cat"), Cwd: "/", Arg: []string{"cat", "/proc/self/limits"}, NoCore: c.noCore}); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v: %s", err, &out)
			}
			_, rest, _ := strings.Cut(out.String(), "Max core file size")
			if f := strings.Fields(rest); len(f) < 2 || f[0]+" "+f[1] != c.want {
				t.Errorf("the limit is %q, want %q", rest[:min(60, len(rest))], c.want)
			}
		})
	}
}

func TestTheLongestOrderArrivesWhole(t *testing.T) {
	gate, cmd, out := start(t, nil)
	if err := gate.AwaitParked(ctx(t)); err != nil {
		t.Fatal(err)
	}
	// One argument of 128 KiB less one byte is the kernel's own bound (execve(2), MAX_ARG_STRLEN).
	long := strings.Repeat("y", 1<<17-1)
	if _, err := gate.Release(ctx(t), Order{Exe: open(t, "/bin/sh"), Cwd: "/", Arg: []string{"sh", "-c", "echo ${#0}", long}}); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || strings.TrimSpace(out.String()) != "131071" {
		t.Errorf("%v, %q", err, out)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("GLW2\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var record [12]byte
		if _, err := io.ReadFull(strings.NewReader(string(data)), record[:]); err != nil {
			return
		}
		if step, _, err := decode(record); err == nil && step > Exec {
			t.Errorf("accepted step %d", step)
		}
	})
}

// FuzzLauncher gives a real launcher an order as it stands, right or wrong. What is not an order never reaches exec.
func FuzzLauncher(f *testing.F) {
	head, body, err := encode(Order{Cwd: "/", Arg: []string{"x", "y"}, Env: []string{"A=1"}})
	if err != nil {
		f.Fatal(err)
	}
	number := func(i int) uint32 { return binary.NativeEndian.Uint32(head[4*i:]) }
	f.Add(number(0), number(1), number(2), number(3), uint32(0), uint32(0), body, uint8(1))
	f.Add(number(0), number(1), number(2), number(3), uint32(2), uint32(flagNotify), body, uint8(3))
	f.Add(number(0), number(1), number(2), number(3), uint32(2), uint32(0), body, uint8(2))
	f.Add(number(0), number(1), number(2), number(3), uint32(0), uint32(flagNoCore), body, uint8(1))
	f.Add(number(0), number(1), number(2), number(3), uint32(0), uint32(4), body, uint8(1))
	f.Add(number(0), number(1), number(2), number(3), uint32(0), uint32(0), body, uint8(0))
	f.Add(number(0), uint32(len(body)+1), number(2), number(3), uint32(1), uint32(0), body, uint8(2))
	f.Add(number(0), uint32(MaxBody+1), uint32(1), uint32(0), uint32(0), uint32(0), body, uint8(1))
	f.Add(number(0), uint32(3), uint32(1), uint32(0), uint32(0), uint32(0), []byte("/\x00x"), uint8(1))
	// The descriptors by which go test speaks to a fuzz worker are 3, 4 and 5, and open across exec: a launcher would take
	// the last for a held socket, and wait with it where it is to leave.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, magicNumber, length, args, envs, sockets, flags uint32, body []byte, descriptors uint8) {
		descriptors %= MaxSockets + 2
		if len(body) > MaxBody+1 {
			return
		}
		gate, cmd, _ := start(t, nil)
		if err := gate.AwaitParked(ctx(t)); err != nil {
			t.Fatal(err)
		}
		// What it is to become is a launcher again: without its control socket, that one ends at once with 127.
		var rights []byte
		if descriptors > 0 {
			file, err := File()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			fds := []int{int(file.Fd())}
			for _, f := range null(t, int(descriptors)-1) {
				fds = append(fds, int(f.Fd()))
			}
			rights = unix.UnixRights(fds...)
		}
		var order []byte
		for _, n := range []uint32{magicNumber, length, args, envs, sockets, flags} {
			order = binary.NativeEndian.AppendUint32(order, n)
		}
		gate.deadline(ctx(t))
		if _, _, err := gate.conn.WriteMsgUnix(order, rights, nil); err != nil {
			t.Fatal(err)
		}
		// It may have refused already, and be gone.
		gate.conn.Write(body)
		gate.conn.CloseWrite()
		want := verdict(magicNumber, length, args, envs, sockets, flags, body, descriptors)
		if want == held {
			// That it stays is seen only by waiting; it is ended by a signal, or has ended by itself, which is told apart below.
			gate.conn.SetDeadline(time.Now().Add(20 * time.Millisecond))
			if n, err := gate.conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d bytes, %v: it did not stay in silence", n, err)
			}
			cmd.Process.Kill()
		}
		step, errno, notify, err := gate.answer(ctx(t))
		if step == Filter && errno == 0 && notify != nil {
			notify.Close()
			step, errno, _, err = gate.answer(ctx(t))
		}
		if err != nil && !errors.Is(err, ErrGone) {
			t.Fatal(err)
		}
		said := err == nil
		cmd.Wait()
		status := cmd.ProcessState.ExitCode() // -1: a signal
		refused := said && step == ReadOrder && errno == unix.EPROTO && status == 127
		silent := !said && status == 0
		switch want {
		case bad:
			if !refused {
				t.Errorf("%v, %v, %v: not refused", step, errno, cmd.ProcessState)
			}
		case short:
			if !silent {
				t.Errorf("%v, %v, %v: it did not leave in silence", step, errno, cmd.ProcessState)
			}
		case held:
			if said || status != -1 {
				t.Errorf("%v, %v, %v: it did not stay", step, errno, cmd.ProcessState)
			}
		case good:
			if status != 127 || said && (step < ChangeDirectory || errno == 0) {
				t.Errorf("%v, %v, %v: not carried out", step, errno, cmd.ProcessState)
			}
		}
	})
}

const (
	bad   = iota
	short // it ends before its length
	held  // so does this one, and the launcher keeps the sockets that it brought
	good
)

// verdict reads an order as its description in launcher.c says.
func verdict(magicNumber, length, args, envs, sockets, flags uint32, body []byte, descriptors uint8) int {
	switch {
	case magicNumber != magic || length > MaxBody || args == 0 || args > MaxStrings || envs > MaxStrings:
		return bad
	case sockets > MaxSockets || flags&^(flagNotify|flagNoCore) != 0 || uint32(descriptors) != sockets+1:
		return bad
	case int(length) > len(body) && sockets > 0:
		return held
	case int(length) > len(body):
		return short
	}
	body = body[:length]
	if bytes.Count(body, []byte{0}) != int(1+args+envs) || !bytes.HasSuffix(body, []byte{0}) {
		return bad
	}
	return good
}
