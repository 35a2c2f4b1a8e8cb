package listener

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
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

	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// Some tests leave a thread in another network namespace or root directory. If that were the first thread, /proc/self would
// be there too. The main goroutine keeps it; tests run on others.
func init() { runtime.LockOSThread() }

// noProc is for addresses that are not looked up in the filesystem.
const noProc = -1

func tcp(s string) profile.Address {
	ap := netip.MustParseAddrPort(s)
	network := "tcp"
	if ap.Addr().Is6() {
		network = "tcp6"
	}
	return profile.Address{Network: network, AddrPort: ap}
}

// listen makes a listening TCP socket inside ns and gives its inode. v6only applies to IPv6 addresses.
func listen(t *testing.T, ns *os.File, address string, v6only, mptcp bool) uint64 {
	t.Helper()
	fd := -1
	protocol := unix.IPPROTO_TCP
	if mptcp {
		protocol = unix.IPPROTO_MPTCP
	}
	ap := netip.MustParseAddrPort(address)
	err := netns.Do(ns, func() error {
		family, sa := unix.AF_INET, unix.Sockaddr(nil)
		if ap.Addr().Is6() {
			family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
		} else {
			sa = &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
		}
		var err error
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
		if family == unix.AF_INET6 {
			only := 0
			if v6only {
				only = 1
			}
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
				return err
			}
		}
		if err := unix.Bind(fd, sa); err != nil {
			return err
		}
		return unix.Listen(fd, 8)
	})
	if err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return inodeOf(t, fd)
}

func inodeOf(t testing.TB, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func open(t testing.TB, ns *os.File) *Table {
	t.Helper()
	table, err := Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func TestTheSetOfListenersIsJudged(t *testing.T) {
	type sock struct {
		address string
		v6only  bool
		mptcp   bool
		foreign bool
	}
	for _, tc := range []struct {
		name    string
		want    string
		sockets []sock
		verdict Verdict
		named   int // index of the socket that the verdict names; -1: none
	}{
		{"nobody listens", "127.0.0.1:80", nil, Missing, -1},
		{"another port does not matter", "127.0.0.1:80", []sock{{address: "127.0.0.1:81", foreign: true}}, Missing, -1},
		{"IPv4", "127.0.0.1:80", []sock{{address: "127.0.0.1:80"}}, Owned, 0},
		{"IPv6", "[::1]:80", []sock{{address: "[::1]:80"}}, Owned, 0},
		{"MPTCP, as Go programs listen", "127.0.0.1:80", []sock{{address: "127.0.0.1:80", mptcp: true}}, Owned, 0},
		{"foreign MPTCP", "127.0.0.1:80", []sock{{address: "127.0.0.1:80", mptcp: true, foreign: true}}, Contested, 0},
		{"an IPv4 wildcard covers", "127.0.0.1:80", []sock{{address: "0.0.0.0:80"}}, Owned, 0},
		{"an IPv6 wildcard covers", "[::1]:80", []sock{{address: "[::]:80", v6only: true}}, Owned, 0},
		{"a dual-stack wildcard covers IPv4", "127.0.0.1:80", []sock{{address: "[::]:80"}}, Owned, 0},
		{"a dual-stack wildcard covers the IPv4 wildcard", "0.0.0.0:80", []sock{{address: "[::]:80"}}, Owned, 0},
		{"an IPv4-mapped address is that IPv4 address", "127.0.0.1:80", []sock{{address: "[::ffff:127.0.0.1]:80"}}, Owned, 0},
		{"an IPv6-only wildcard does not cover IPv4", "127.0.0.1:80", []sock{{address: "[::]:80", v6only: true}}, Missing, 0},
		{"a specific address does not cover the wildcard", "0.0.0.0:80", []sock{{address: "127.0.0.1:80"}}, Missing, 0},
		{"an IPv4 wildcard does not cover IPv6", "[::1]:80", []sock{{address: "0.0.0.0:80"}}, Missing, 0},
		{"the wrong address of one's own", "127.0.0.1:80", []sock{{address: "127.0.0.2:80"}}, Missing, 0},
		{"a foreign holder", "127.0.0.1:80", []sock{{address: "127.0.0.1:80", foreign: true}}, Contested, 0},
		{"a foreign wildcard", "127.0.0.1:80", []sock{{address: "0.0.0.0:80", foreign: true}}, Contested, 0},
		{"a foreign twin under SO_REUSEPORT", "127.0.0.1:80",
			[]sock{{address: "127.0.0.1:80"}, {address: "127.0.0.1:80", foreign: true}}, Contested, 1},
		{"a twin of one's own under SO_REUSEPORT", "127.0.0.1:80",
			[]sock{{address: "127.0.0.1:80"}, {address: "127.0.0.1:80"}}, Contested, -2},
		{"a foreign listener on another address of the port", "127.0.0.1:80",
			[]sock{{address: "127.0.0.1:80"}, {address: "127.0.0.2:80", foreign: true}}, Contested, 1},
		{"a foreign listener in the other family", "127.0.0.1:80",
			[]sock{{address: "127.0.0.1:80"}, {address: "[::1]:80", foreign: true}}, Contested, 1},
		{"one's own listener in the other family", "127.0.0.1:80",
			[]sock{{address: "127.0.0.1:80"}, {address: "[::1]:80"}}, Owned, 0},
		{"one's own separate wildcards", "127.0.0.1:80",
			[]sock{{address: "0.0.0.0:80"}, {address: "[::]:80", v6only: true}}, Owned, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns := netnstest.New(t)
			table := open(t, ns)
			var inodes []uint64
			mine := map[uint64]bool{}
			for _, s := range tc.sockets {
				inode := listen(t, ns, s.address, s.v6only, s.mptcp)
				inodes = append(inodes, inode)
				mine[inode] = !s.foreign
			}
			a := tcp(tc.want)
			found, err := table.Find(a, noProc)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range found {
				i := slices.Index(inodes, s.Inode)
				if i < 0 {
					t.Fatalf("found %v, which this test did not make", s)
				}
				if want := netip.MustParseAddrPort(tc.sockets[i].address); s.Local != want {
					t.Errorf("inode %d is at %v, reported at %v", s.Inode, want, s.Local)
				}
				// The kernel itself sets the flag on a socket bound to one IPv6 address.
				if s.Local.Addr().IsUnspecified() && s.V6Only != tc.sockets[i].v6only {
					t.Errorf("%v: V6Only is %v", s, s.V6Only)
				}
				if int(s.UID) != os.Getuid() {
					t.Errorf("%v: UID is not %d", s, os.Getuid())
				}
			}
			got, verdict := Judge(a, found, func(i uint64) bool { return mine[i] })
			if verdict != tc.verdict {
				t.Fatalf("verdict is %s (%v), want %s; found %v", verdict, got, tc.verdict, found)
			}
			switch {
			case tc.named >= 0 && got.Inode != inodes[tc.named]:
				t.Errorf("the verdict names %v, not inode %d", got, inodes[tc.named])
			case tc.named == -1 && got.Inode != 0:
				t.Errorf("the verdict names %v, want none", got)
			}
			if verdict == Owned && got.Exact != (got.Local.Addr().Unmap() == a.AddrPort.Addr()) {
				t.Errorf("%v: Exact is %v", got, got.Exact)
			}
		})
	}
}

func TestSocketsThatAreNotListeningAreNotFound(t *testing.T) {
	ns := netnstest.New(t)
	table := open(t, ns)
	listen(t, ns, "127.0.0.1:80", false, false)
	c, err := netns.Dial(t.Context(), ns, "tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if found, err := table.Find(tcp(c.LocalAddr().String()), noProc); err != nil || len(found) != 0 {
		t.Errorf("the client's port: %v, %v", found, err)
	}
	if found, err := table.Find(tcp("127.0.0.1:80"), noProc); err != nil || len(found) != 1 {
		t.Errorf("the server's port: %v, %v", found, err)
	}
}

func TestOtherNetworkNamespacesAreNotSeen(t *testing.T) {
	ns, other := netnstest.New(t), netnstest.New(t)
	listen(t, other, "127.0.0.1:80", false, false)
	if found, err := open(t, ns).Find(tcp("127.0.0.1:80"), noProc); err != nil || len(found) != 0 {
		t.Errorf("found %v, %v", found, err)
	}
	path := filepath.Join(t.TempDir(), "s")
	unixListener(t, other, path, unix.SOCK_STREAM)
	found, err := open(t, ns).Find(profile.Address{Network: "unix", Path: path}, procDir(t, os.Getpid()))
	if err != nil || len(found) != 1 || found[0].Inode != NoSocket {
		t.Errorf("found %v, %v; want only the file", found, err)
	}
	name := "@" + path
	unixListener(t, other, name, unix.SOCK_STREAM)
	if found, err := open(t, ns).Find(profile.Address{Network: "unix", Path: name}, noProc); err != nil || len(found) != 0 {
		t.Errorf("found %v, %v", found, err)
	}
}

// unixListener makes a listening unix socket inside ns.
func unixListener(t testing.TB, ns *os.File, path string, kind int) uint64 {
	t.Helper()
	fd := -1
	err := netns.Do(ns, func() (err error) {
		if fd, err = unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return err
		}
		return unix.Listen(fd, 8)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return inodeOf(t, fd)
}

func TestAUnixPathIsWhoseFileIsThere(t *testing.T) {
	type world struct {
		*testing.T
		ns, other *os.File // the container's network namespace, and another one
		dir, path string
	}
	// Each makes sockets, and gives the inode of the gateway's own, 0 if there is none, and of the one that the verdict names.
	for _, tc := range []struct {
		name    string
		make    func(w world) (mine, named uint64)
		verdict Verdict
	}{
		{"nothing is there", func(w world) (uint64, uint64) {
			unixListener(w, w.ns, w.path+".other", unix.SOCK_STREAM)
			unixListener(w, w.ns, "@"+w.path, unix.SOCK_STREAM)
			return 0, 0
		}, Missing},
		{"the gateway's own", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
			return mine, mine
		}, Owned},
		{"its own, bound by another name and renamed", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.path+".new", unix.SOCK_STREAM)
			rename(w, w.path+".new", w.path)
			return mine, mine
		}, Owned},
		{"its own, by way of a link", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.dir+"/real", unix.SOCK_STREAM)
			link(w, "real", w.path)
			return mine, mine
		}, Owned},
		{"a foreign one", func(w world) (uint64, uint64) {
			return 0, unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
		}, Contested},
		{"its file was removed", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
			remove(w, w.path)
			return mine, mine
		}, Missing},
		{"a foreign one was bound in its place", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
			remove(w, w.path)
			return mine, unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
		}, Contested},
		{"a foreign one was renamed onto it", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
			foreign := unixListener(w, w.ns, w.path+".evil", unix.SOCK_STREAM)
			rename(w, w.path+".evil", w.path)
			return mine, foreign
		}, Contested},
		{"a link to a foreign one was put in its place", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
			foreign := unixListener(w, w.ns, w.dir+"/evil", unix.SOCK_STREAM)
			remove(w, w.path)
			link(w, "evil", w.path)
			return mine, foreign
		}, Contested},
		{"one of another network namespace was bound in its place", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
			remove(w, w.path)
			unixListener(w, w.other, w.path, unix.SOCK_STREAM)
			return mine, NoSocket
		}, Contested},
		{"a file was put in its place", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
			remove(w, w.path)
			if err := os.WriteFile(w.path, nil, 0o600); err != nil {
				w.Fatal(err)
			}
			return mine, NoSocket
		}, Contested},
		{"only the file of a socket that is closed", func(w world) (uint64, uint64) {
			if err := unix.Mknod(w.path, unix.S_IFSOCK|0o600, 0); err != nil {
				w.Fatal(err)
			}
			return 0, 0
		}, Missing},
		{"another root directory has the same name", func(w world) (uint64, uint64) {
			mine := unixListener(w, w.ns, w.path, unix.SOCK_STREAM)
			chrooted(w, w.ns, w.path)
			return mine, mine
		}, Owned},
		{"only another root directory has the name", func(w world) (uint64, uint64) {
			chrooted(w, w.ns, w.path)
			return 0, 0
		}, Missing},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			w := world{T: t, ns: netnstest.New(t), other: netnstest.New(t), dir: dir, path: dir + "/gw"}
			mine, named := tc.make(w)
			a := profile.Address{Network: "unix", Path: w.path}
			found, err := open(t, w.ns).Find(a, procDir(t, os.Getpid()))
			if err != nil {
				t.Fatal(err)
			}
			got, verdict := Judge(a, found, func(i uint64) bool { return i == mine && i != 0 })
			if verdict != tc.verdict || got.Inode != named {
				t.Errorf("%s: %v, want %s of inode %d; found %v", verdict, got, tc.verdict, named, found)
			}
		})
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// chrooted makes a listener that was bound by path below another root directory.
func chrooted(t testing.TB, ns *os.File, path string) {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(root+filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	made := make(chan error)
	fd := -1
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its root directory
		made <- func() (err error) {
			if err := setns(ns); err != nil {
				return err
			}
			if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Chroot(root); err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				return err
			}
			return unix.Listen(fd, 8)
		}()
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
}

func setns(ns *os.File) error { return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) }

// An overlay over two filesystems without inode mapping shows the device of the upper one to stat(2), and unix_diag that of
// its own superblock.
func TestTheFileOfAUnixSocketIsKnownWhereStatShowsAnotherDevice(t *testing.T) {
	dir := t.TempDir()
	mount := func(source, at, kind, data string) {
		t.Helper()
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(source, at, kind, 0, data); err != nil {
			t.Fatalf("this test needs root: mount %s at %s: %v", kind, at, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mount("tmpfs", dir+"/a", "tmpfs", "")
	mount("tmpfs", dir+"/b", "tmpfs", "")
	for _, d := range []string{"/a/lower", "/b/upper", "/b/work"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount("overlay", dir+"/o", "overlay", fmt.Sprintf("lowerdir=%s/a/lower,upperdir=%s/b/upper,workdir=%s/b/work,xino=off", dir, dir, dir))
	ns := netnstest.New(t)
	path := dir + "/o/gw"
	mine := unixListener(t, ns, path, unix.SOCK_STREAM)
	var st, of unix.Stat_t
	if err := errors.Join(unix.Stat(path, &st), unix.Stat(dir+"/o", &of)); err != nil {
		t.Fatal(err)
	}
	if st.Dev == of.Dev {
		t.Fatal("the overlay shows its own device: this test shows nothing")
	}
	a := profile.Address{Network: "unix", Path: path}
	found, err := open(t, ns).Find(a, procDir(t, os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if got, verdict := Judge(a, found, func(i uint64) bool { return i == mine }); verdict != Owned {
		t.Errorf("%s: %v; found %v", verdict, got, found)
	}
}

func TestAbstractListenersAreFoundByTheirWholeName(t *testing.T) {
	ns := netnstest.New(t)
	table := open(t, ns)
	dir := t.TempDir()
	t.Chdir(dir)
	// None of these is it: a longer name, a shorter one, the same with a zero byte after it, and a file of that name.
	for _, other := range []string{"@gw2", "@g", "\x00gw\x00", "./@gw"} {
		unixListener(t, ns, other, unix.SOCK_STREAM)
	}
	a, err := profile.ParseAddress("unix://@gw")
	if err != nil {
		t.Fatal(err)
	}
	found, err := table.Find(a, noProc)
	if err != nil || len(found) != 0 {
		t.Fatalf("found %v, %v", found, err)
	}
	mine := unixListener(t, ns, "@gw", unix.SOCK_STREAM)
	if found, err = table.Find(a, noProc); err != nil {
		t.Fatal(err)
	}
	got, verdict := Judge(a, found, func(i uint64) bool { return i == mine })
	if verdict != Owned || got.Inode != mine || int(got.UID) != os.Getuid() || !strings.HasPrefix(got.String(), `"@gw" (inode `) {
		t.Errorf("%s: %v, want inode %d", verdict, got, mine)
	}
	if got, verdict := Judge(a, found, func(uint64) bool { return false }); verdict != Contested || got.Inode != mine {
		t.Errorf("a foreign one: %s, %v", verdict, got)
	}
}

func TestALongDumpIsReadWhole(t *testing.T) {
	// Several times the read buffer, so that the kernel answers in several parts; and more sockets than Find returns.
	ns := netnstest.New(t)
	table := open(t, ns)
	dir := t.TempDir()
	for i := range maxSockets + 40 {
		unixListener(t, ns, fmt.Sprintf("%s/%d", dir, i), unix.SOCK_STREAM)
		listen(t, ns, fmt.Sprintf("127.0.%d.%d:80", i/200, i%200+1), false, false)
	}
	for _, i := range []int{0, maxSockets + 39} {
		found, err := table.Find(profile.Address{Network: "unix", Path: fmt.Sprintf("%s/%d", dir, i)}, procDir(t, os.Getpid()))
		if err != nil || len(found) != 1 {
			t.Errorf("unix socket %d: %v, %v", i, found, err)
		}
	}
	found, err := table.Find(tcp("127.0.0.1:80"), noProc)
	if err != nil || len(found) != maxSockets {
		t.Fatalf("%d sockets, %v", len(found), err)
	}
	if _, verdict := Judge(tcp("127.0.0.1:80"), found, func(uint64) bool { return true }); verdict != Contested {
		t.Errorf("a list that was cut short is judged %s", verdict)
	}
}

func TestAClosedTableAndAnImpossibleAddressAreErrors(t *testing.T) {
	ns := netnstest.New(t)
	table := open(t, ns)
	for _, a := range []profile.Address{{}, {Network: "udp", AddrPort: netip.MustParseAddrPort("1.2.3.4:5")}, {Network: "unix"}, {Network: "tcp"}} {
		if _, err := table.Find(a, noProc); err == nil {
			t.Errorf("%+v was looked for", a)
		}
	}
	for range 2 {
		if err := table.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := table.Find(tcp("127.0.0.1:80"), noProc); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// procDir opens /proc/PID as the warden does.
func procDir(t testing.TB, pid int) int {
	t.Helper()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestInodesAreThoseThatTheProcessHolds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := inodeOf(t, int(f.Fd()))

	// MPTCP, the default of net.Listen: the table and the descriptor must agree on the inode.
	self, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	found, err := open(t, self).Find(tcp(l.Addr().String()), noProc)
	if err != nil || len(found) != 1 || found[0].Inode != want {
		t.Errorf("the listener has inode %d; found %v, %v", want, found, err)
	}

	inodes, err := Inodes(procDir(t, os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := inodes[want]; !ok {
		t.Errorf("inode %d is not among %v", want, inodes)
	}

	// A child that inherits the socket among many other descriptors, more than one getdents buffer holds.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "echo up; read x")
	for range 300 {
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, null)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	dir := procDir(t, cmd.Process.Pid)
	inodes, err = Inodes(dir)
	if err != nil || len(inodes) != 1 {
		t.Errorf("the child holds %v, %v; want only %d", inodes, err, want)
	}
	if _, ok := inodes[want]; !ok {
		t.Errorf("inode %d is not among %v", want, inodes)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := Inodes(dir); !errors.Is(err, ErrGone) {
		t.Errorf("after its death: %v", err)
	}
}

// leaderName marks a run of this test program whose first thread ends while it listens.
const leaderName = "GATEWARDEN_TEST_LEADER"

func init() {
	if os.Getenv(leaderName) == "" {
		return
	}
	runtime.LockOSThread() // init runs on the first thread
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		panic(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		panic(err)
	}
	fmt.Println(st.Ino)
	go func() { time.Sleep(time.Minute); os.Exit(0) }()
	unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

func TestTheSocketsOfAProcessWhoseFirstThreadHasEndedAreSeen(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), leaderName+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var want uint64
	if _, err := fmt.Fscan(out, &want); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " Z") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the first thread has not ended: %s", stat)
		}
	}
	dir := procDir(t, cmd.Process.Pid)
	inodes, err := Inodes(dir)
	if _, ok := inodes[want]; !ok || err != nil {
		t.Errorf("inode %d is not among %v, %v", want, inodes, err)
	}
	cmd.Process.Kill()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", cmd.Process.Pid)); err != nil || len(threads) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not end")
		}
	}
	if inodes, err := Inodes(dir); err != nil || len(inodes) != 0 {
		t.Errorf("a zombie holds %v, %v", inodes, err)
	}
}

func TestOnlySocketLinksAreInodes(t *testing.T) {
	for link, want := range map[string]uint64{
		"socket:[7]": 7, "socket:[4294967295]": 4294967295,
		"socket:[]": 0, "socket:[-1]": 0, "socket:[+1]": 0, "socket:[1": 0, "pipe:[7]": 0, "/socket:[7]": 0, "socket:[7] (deleted)": 0,
	} {
		if got, ok := socketInode(link); got != want || ok != (want != 0) {
			t.Errorf("%q: %d, %v", link, got, ok)
		}
	}
}

func FuzzParseDump(f *testing.F) {
	message := func(kind uint16, payload []byte) []byte {
		b := make([]byte, 16)
		binary.NativeEndian.PutUint32(b, uint32(16+len(payload)))
		binary.NativeEndian.PutUint16(b[4:], kind)
		binary.NativeEndian.PutUint32(b[8:], 1)
		return append(b, payload...)
	}
	listening := make([]byte, inetMsgSize)
	listening[0], listening[1] = unix.AF_INET6, tcpListen
	named := append(make([]byte, unixMsgSize), 8, 0, 0, 0, '/', 'a', 0, 0)
	named[0], named[2] = unix.AF_UNIX, tcpListen
	f.Add(message(sockDiagByFamily, append(listening, 5, 0, inetDiagV6Only, 0, 1, 0, 0, 0)))
	f.Add(append(message(sockDiagByFamily, named), message(unix.NLMSG_DONE, make([]byte, 4))...))
	f.Add(message(unix.NLMSG_ERROR, []byte{0xfe, 0xff, 0xff, 0xff}))
	f.Add(message(unix.NLMSG_ERROR, nil)[:12])
	f.Fuzz(func(t *testing.T, b []byte) {
		parseDump(b, 1, func(m []byte) {
			if s, ok := parseTCP(m); ok && (!s.Local.IsValid() || s.Name != "") {
				t.Errorf("%+v", s)
			}
			if s, ok := parseUnix(m); ok && (s.Name == "" || strings.Contains(s.Name[1:], "\x00") && s.Name[0] != 0) {
				t.Errorf("%+v", s)
			}
		})
	})
}

func BenchmarkFindTCP(b *testing.B) {
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		b.Fatal(err)
	}
	defer ns.Close()
	table := open(b, ns)
	for b.Loop() {
		if _, err := table.Find(tcp("127.0.0.1:18789"), noProc); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFindUnix(b *testing.B) {
	ns := netnstest.New(b)
	table := open(b, ns)
	path := filepath.Join(b.TempDir(), "gw.sock")
	unixListener(b, ns, path, unix.SOCK_STREAM)
	self := procDir(b, os.Getpid())
	for b.Loop() {
		if _, err := table.Find(profile.Address{Network: "unix", Path: path}, self); err != nil {
			b.Fatal(err)
		}
	}
}
