package netns

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func fileInode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestDoRunsInsideAndComesBack(t *testing.T) {
	ns := netnstest.New(t)
	want, home := fileInode(t, ns), inode(t, "/proc/thread-self/ns/net")
	for range 50 {
		var got uint64
		if err := Do(ns, func() error { got = inode(t, "/proc/thread-self/ns/net"); return nil }); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("fn ran in namespace %d, not in %d", got, want)
		}
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		var st unix.Stat_t
		if unix.Stat("/proc/self/task/"+task.Name()+"/ns/net", &st) == nil && st.Ino == want {
			t.Errorf("thread %s stayed in the container's namespace", task.Name())
		}
	}
	if got := inode(t, "/proc/thread-self/ns/net"); got != home {
		t.Errorf("the caller is in namespace %d, not at home in %d", got, home)
	}
}

func TestDoReturnsTheErrorOfTheFunction(t *testing.T) {
	want := errors.New("mine")
	if err := Do(netnstest.New(t), func() error { return want }); err != want {
		t.Fatalf("got %v", err)
	}
}

func TestDoNamesWhatIsNotANamespace(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = Do(f, func() error { t.Error("fn was called"); return nil })
	if err == nil || !strings.Contains(err.Error(), "/dev/null") || !errors.Is(err, unix.EINVAL) {
		t.Fatalf("got %v", err)
	}
}

func TestDoSurvivesAFunctionThatLeavesTheThreadElsewhere(t *testing.T) {
	// fn moves on to a third namespace: coming back still works, since home is an open file and not a memory of the way.
	ns, third := netnstest.New(t), netnstest.New(t)
	if err := Do(ns, func() error { return setns(third) }); err != nil {
		t.Fatal(err)
	}
	if err := Do(ns, func() error { runtime.Goexit(); return nil }); err == nil {
		t.Fatal("a function that ended its goroutine is reported as success")
	}
}

func TestDialReachesOnlyTheNamespace(t *testing.T) {
	ns := netnstest.New(t)
	for _, tc := range []struct{ network, listen string }{
		{"tcp", "127.0.0.1:0"}, {"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}, {"tcp", "[::1]:0"},
	} {
		var l net.Listener
		if err := Do(ns, func() (err error) { l, err = net.Listen("tcp", tc.listen); return err }); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Write([]byte("hi"))
				c.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := Dial(ctx, ns, tc.network, l.Addr().String())
		if err != nil {
			t.Fatalf("%s: %v", tc.network, err)
		}
		b := make([]byte, 2)
		if _, err := c.Read(b); err != nil || string(b) != "hi" {
			t.Errorf("%s: read %q, %v", tc.network, b, err)
		}
		c.Close()
		if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
			c.Close()
			t.Errorf("%s is reachable from the host's namespace: the test proves nothing", l.Addr())
		}
	}
}

func TestDialSaysRefused(t *testing.T) {
	_, err := Dial(t.Context(), netnstest.New(t), "tcp", "127.0.0.1:9")
	if !errors.Is(err, unix.ECONNREFUSED) || !strings.Contains(err.Error(), "127.0.0.1:9") {
		t.Fatalf("got %v", err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	// A listener with a full queue drops further SYNs: the connect hangs.
	ns := netnstest.New(t)
	s := -1
	err := Do(ns, func() (err error) {
		s, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(s, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 7000}); err != nil {
			return err
		}
		return unix.Listen(s, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	for range 4 {
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		c, err := Dial(ctx, ns, "tcp", "127.0.0.1:7000")
		cancel()
		if err == nil {
			defer c.Close()
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if d := time.Since(start); d > time.Second {
			t.Fatalf("took %v", d)
		}
		return
	}
	t.Fatal("no connect ever had to wait")
}

func TestDialRefusesWhatItCannotMean(t *testing.T) {
	ns := netnstest.New(t)
	for _, tc := range []struct{ network, address string }{
		{"tcp", "localhost:80"}, {"tcp6", "127.0.0.1:80"}, {"tcp4", "[::1]:80"}, {"udp", "127.0.0.1:80"}, {"tcp", "[fe80::1%lo]:80"}, {"tcp", ""},
		{"unix", ""}, {"unix", "@"}, {"unix", "/run/x"}, {"unix", "@" + strings.Repeat("x", 107)},
	} {
		if _, err := Dial(t.Context(), ns, tc.network, tc.address); err == nil {
			t.Errorf("Dial(%q, %q) succeeded", tc.network, tc.address)
		}
	}
}

func BenchmarkDo(b *testing.B) {
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		b.Fatal(err)
	}
	defer ns.Close()
	for b.Loop() {
		if err := Do(ns, func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
