package held

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/listener"
	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// Some tests leave a thread in another root directory. If that were the first thread, /proc/self would be there too. The main
// goroutine keeps it; tests run on others.
func init() { runtime.LockOSThread() }

const patience = 10 * time.Second

// listen is a declared listener, as the parser of profiles gives it.
func listen(t testing.TB, address string, change ...func(*profile.Listen)) profile.Listen {
	t.Helper()
	a, err := profile.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	l := profile.Listen{Name: "api", Address: a, Mode: profile.ModeInherit, Backlog: 128, Outage: profile.OutageQueue}
	if a.Network == "unix" {
		l.SocketMode = 0o666
	}
	for _, f := range change {
		f(&l)
	}
	return l
}

func v6only(l *profile.Listen) { l.Options.V6Only = true }

// root opens a directory to be the container's root.
func root(t testing.TB, dir string) *os.File {
	t.Helper()
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func open(t testing.TB, ns *os.File, dir string, l profile.Listen) *Socket {
	t.Helper()
	s, err := Open(ns, root(t, dir), Owner{UID: 64990, GID: 64991}, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// guard guards the port of the sockets.
func guard(t testing.TB, ns *os.File, sockets ...*Socket) *Guard {
	t.Helper()
	g, err := NewGuard(ns, sockets[0].Listen.Address.AddrPort.Port())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	for _, s := range sockets {
		s.GuardedBy(g)
	}
	return g
}

func value(t testing.TB, s *Socket, level, name int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(int(s.File().Fd()), level, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// listening tells whether the socket listens, is in blocking mode, and what its backlog is.
func listening(t testing.TB, s *Socket) (is, blocking bool, backlog int) {
	t.Helper()
	flags, err := unix.FcntlInt(s.File().Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if s.Listen.Address.Network != "unix" {
		info, err := unix.GetsockoptTCPInfo(int(s.File().Fd()), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		backlog = int(info.Sacked) // of a listening socket: tcp_get_info, net/ipv4/tcp.c
	}
	return value(t, s, unix.SOL_SOCKET, unix.SO_ACCEPTCONN) == 1, flags&unix.O_NONBLOCK == 0, backlog
}

func dial(ns *os.File, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	network := "tcp"
	if strings.HasPrefix(address, "@") {
		network = "unix"
	}
	return netns.Dial(ctx, ns, network, address)
}

func mustDial(t testing.TB, ns *os.File, address string) net.Conn {
	t.Helper()
	c, err := dial(ns, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// accept takes one client, as a gateway would.
func accept(t testing.TB, s *Socket) net.Conn {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(s.File().Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(patience.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 {
			t.Fatalf("nobody waits in the queue: %v", err)
		}
		break
	}
	fd, _, err := unix.Accept4(int(s.File().Fd()), unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "accepted")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestASocketListensWithWhatIsDeclared(t *testing.T) {
	ns := netnstest.New(t)
	declared := profile.SocketOptions{KeepAlive: true, NoDelay: true, DeferAccept: 3 * time.Second, ReceiveBuffer: 50000, SendBuffer: 60000}
	for name, address := range map[string]string{
		"IPv4": "tcp://127.0.0.1:80", "IPv4 wildcard": "tcp://0.0.0.0:81", "IPv6": "tcp6://[::1]:82", "IPv6 wildcard": "tcp6://[::]:83",
		"not assigned yet": "tcp://192.0.2.7:84", "not assigned yet, IPv6": "tcp6://[2001:db8::7]:85",
	} {
		t.Run(name, func(t *testing.T) {
			plain := open(t, ns, "/", listen(t, address))
			for _, o := range []struct {
				level, name int
				text        string
			}{
				{unix.SOL_SOCKET, unix.SO_KEEPALIVE, "SO_KEEPALIVE"}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, "TCP_NODELAY"},
				{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"},
				{unix.SOL_SOCKET, unix.SO_REUSEPORT, "SO_REUSEPORT"},
			} {
				if v := value(t, plain, o.level, o.name); v != 0 {
					t.Errorf("%s is %d, and was not declared", o.text, v)
				}
			}
			plain.Close()
			s := open(t, ns, "/", listen(t, address, func(l *profile.Listen) { l.Options, l.Backlog = declared, 77 }))
			if is, blocking, backlog := listening(t, s); !is || !blocking || backlog != 77 {
				t.Errorf("listening %v, blocking %v, backlog %d", is, blocking, backlog)
			}
			s.Listen.NonBlocking = true
			if err := s.Ready(); err != nil {
				t.Fatal(err)
			}
			if is, blocking, backlog := listening(t, s); !is || blocking || backlog != 77 {
				t.Errorf("declared as not blocking: listening %v, blocking %v, backlog %d", is, blocking, backlog)
			}
			for _, o := range []struct {
				level, name int
				text        string
				least, most int
			}{
				{unix.SOL_SOCKET, unix.SO_KEEPALIVE, "SO_KEEPALIVE", 1, 1},
				{unix.IPPROTO_TCP, unix.TCP_NODELAY, "TCP_NODELAY", 1, 1},
				{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT", 3, 7}, // rounded up to the next retransmission (tcp(7))
				{unix.SOL_SOCKET, unix.SO_RCVBUF, "SO_RCVBUF", 100000, 100000},
				{unix.SOL_SOCKET, unix.SO_SNDBUF, "SO_SNDBUF", 120000, 120000},
			} {
				if v := value(t, s, o.level, o.name); v < o.least || v > o.most {
					t.Errorf("%s is %d, want %d to %d", o.text, v, o.least, o.most)
				}
			}
			table, err := listener.Open(ns)
			if err != nil {
				t.Fatal(err)
			}
			defer table.Close()
			found, err := table.Find(s.Listen.Address, -1)
			if err != nil || len(found) != 1 || found[0].Inode != s.Inode || !found[0].Exact {
				t.Errorf("the kernel's table has %v, %v; want the socket %d", found, err, s.Inode)
			}
		})
	}
}

func TestClientsQueueFromTheBeginning(t *testing.T) {
	ns := netnstest.New(t)
	for _, address := range []string{"tcp://127.0.0.1:80", "tcp6://[::1]:80", "unix://@api"} {
		t.Run(address, func(t *testing.T) {
			l := listen(t, address)
			s := open(t, ns, "/", l)
			to := l.Address.Path
			if to == "" {
				to = l.Address.AddrPort.String()
			}
			client := mustDial(t, ns, to)
			if _, err := io.WriteString(client, "hello"); err != nil {
				t.Fatal(err)
			}
			var b [5]byte
			if _, err := io.ReadFull(accept(t, s), b[:]); err != nil || string(b[:]) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

func TestItIsKnownHowManyClientsWait(t *testing.T) {
	ns := netnstest.New(t)
	for address, known := range map[string]bool{"tcp://127.0.0.1:80": true, "tcp6://[::]:81": true, "unix://@api": false} {
		t.Run(address, func(t *testing.T) {
			l := listen(t, address)
			s := open(t, ns, "/", l)
			check := func(want int) {
				t.Helper()
				if !known {
					want = 0
				}
				if n, err := s.Waiting(); n != want || err != nil {
					t.Errorf("%d clients, %v; want %d", n, err, want)
				}
			}
			check(0)
			to := l.Address.Path
			if to == "" {
				to = strings.Replace(l.Address.AddrPort.String(), "[::]", "127.0.0.1", 1)
			}
			for n := range 3 {
				mustDial(t, ns, to)
				check(n + 1)
			}
			accept(t, s)
			check(2)
		})
	}
}

// A dual-stack socket is IPv4's too; v6only leaves IPv4 alone.
func TestAnIPv6WildcardTakesIPv4ToUnlessItIsDeclaredOtherwise(t *testing.T) {
	ns := netnstest.New(t)
	both := open(t, ns, "/", listen(t, "tcp6://[::]:80"))
	mustDial(t, ns, "127.0.0.1:80")
	accept(t, both)
	one := open(t, ns, "/", listen(t, "tcp6://[::]:81", v6only))
	if _, err := dial(ns, "127.0.0.1:81"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("IPv4: %v, want ECONNREFUSED", err)
	}
	mustDial(t, ns, "[::1]:81")
	accept(t, one)
	open(t, ns, "/", listen(t, "tcp://127.0.0.1:81"))
}

// rival is somebody else who wants an address, by every way that bind(2) has.
type rival struct {
	uid                              int
	address                          netip.AddrPort
	reuseAddr, reusePort, v6only, fb bool
}

func rivals(port uint16) []rival {
	var all []rival
	for _, ip := range []string{"127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"} {
		for i := range 32 {
			r := rival{uid: i & 1 * 1000, address: netip.AddrPortFrom(netip.MustParseAddr(ip), port),
				reuseAddr: i&2 != 0, reusePort: i&4 != 0, v6only: i&8 != 0, fb: i&16 != 0}
			if r.v6only && (r.address.Addr().Is4() || r.address.Addr().Is4In6()) {
				continue
			}
			all = append(all, r)
		}
	}
	return all
}

// bind gives the error of the bind, or of the listen.
func (r rival) bind(ns *os.File) error {
	return netns.Do(ns, func() error {
		// SO_REUSEPORT asks whose sockets they are: the filesystem UID of the thread that makes one (socket(7)).
		unix.SetfsuidRetUid(r.uid)
		defer unix.SetfsuidRetUid(0)
		family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(r.address.Port()), Addr: r.address.Addr().As16()})
		if r.address.Addr().Is4() {
			family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(r.address.Port()), Addr: r.address.Addr().As4()}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		set := func(on bool, level, name int) {
			if on && err == nil {
				err = unix.SetsockoptInt(fd, level, name, 1)
			}
		}
		set(r.reuseAddr, unix.SOL_SOCKET, unix.SO_REUSEADDR)
		set(r.reusePort, unix.SOL_SOCKET, unix.SO_REUSEPORT)
		set(r.v6only, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		set(r.fb, unix.IPPROTO_IP, unix.IP_FREEBIND)
		if err != nil {
			return fmt.Errorf("setsockopt: %v", err)
		}
		if err := unix.Bind(fd, sa); err != nil {
			return err
		}
		// One that is only bound would be in the way of nobody, and could listen later.
		return unix.Listen(fd, 1)
	})
}

// nobody checks that no rival gets the port.
func nobody(t *testing.T, ns *os.File, port uint16, when string) {
	t.Helper()
	for _, r := range rivals(port) {
		if err := r.bind(ns); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s, %+v: %v, want EADDRINUSE", when, r, err)
		}
	}
}

func TestNobodyElseCanTakeAGuardedPort(t *testing.T) {
	for name, addresses := range map[string][]string{
		"IPv4": {"tcp://127.0.0.1:80"}, "IPv4 wildcard": {"tcp://0.0.0.0:80"}, "IPv6": {"tcp6://[::1]:80"}, "dual stack": {"tcp6://[::]:80"},
		"both": {"tcp://127.0.0.1:80", "tcp6://[::1]:80"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := netnstest.New(t)
			var sockets []*Socket
			for _, a := range addresses {
				sockets = append(sockets, open(t, ns, "/", listen(t, a)))
			}
			g := guard(t, ns, sockets...)
			nobody(t, ns, 80, "listening")
			each := func(f func(fd int) error) {
				t.Helper()
				for _, s := range sockets {
					if err := f(int(s.File().Fd())); err != nil {
						t.Fatal(err)
					}
				}
			}
			// What a gateway can do with it, by intent or not.
			each(func(fd int) error { return unix.Listen(fd, 3) })
			nobody(t, ns, 80, "with another backlog")
			each(func(fd int) error {
				return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
			})
			nobody(t, ns, 80, "with the reuse of addresses and ports")
			each(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) })
			nobody(t, ns, 80, "shut down")
			for _, s := range sockets {
				if err := s.Ready(); err != nil {
					t.Fatal(err)
				}
				if v := value(t, s, unix.SOL_SOCKET, unix.SO_REUSEPORT); v != 0 {
					t.Error("the reuse of the port is still allowed")
				}
			}
			nobody(t, ns, 80, "ready again")
			// A successor of whoever has guarded it guards it too, while the listeners are there.
			again := guard(t, ns, sockets...)
			g.Close()
			nobody(t, ns, 80, "guarded by another")
			for _, s := range sockets {
				s.Close()
			}
			nobody(t, ns, 80, "closed, and guarded")
			again.Close()
			for _, r := range rivals(80) {
				if err := r.bind(ns); err != nil {
					t.Errorf("closed, %+v: %v", r, err)
				}
			}
		})
	}
}

// Why there are guards: each of these is let in beside a listener that allows no reuse at all.
func TestAListenerAloneDoesNotKeepItsPort(t *testing.T) {
	ns := netnstest.New(t)
	s := open(t, ns, "/", listen(t, "tcp://0.0.0.0:80"))
	if err := unix.SetsockoptInt(int(s.File().Fd()), unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
		t.Fatal(err)
	}
	all := netip.AddrPortFrom(netip.IPv6Unspecified(), 80)
	dual := rival{uid: 1000, address: all, reusePort: true}
	if err := dual.bind(ns); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("%v", err)
	}
	if err := (rival{uid: 1000, address: all, reusePort: true, v6only: true}).bind(ns); err != nil {
		t.Fatal(err)
	}
	if err := dual.bind(ns); err != nil {
		t.Errorf("this kernel compares with every listener (%v): guards may be needed no more", err)
	}
}

func TestAGuardYieldsToFurtherSocketsOfItsPort(t *testing.T) {
	ns := netnstest.New(t)
	first := open(t, ns, "/", listen(t, "tcp://127.0.0.1:80"))
	g := guard(t, ns, first)
	second := listen(t, "tcp6://[::1]:80")
	if s, err := Open(ns, root(t, "/"), Owner{}, second); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("%v, %v", s, err)
	}
	if err := g.Yield(func() error {
		s, err := Open(ns, root(t, "/"), Owner{}, second)
		if err == nil {
			t.Cleanup(s.Close)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	mustDial(t, ns, "[::1]:80")
	nobody(t, ns, 80, "after it")
}

func TestReadyPutsBackWhatAGatewayHasChanged(t *testing.T) {
	ns := netnstest.New(t)
	for _, address := range []string{"tcp://127.0.0.1:80", "tcp6://[::1]:80", "unix://@api"} {
		t.Run(address, func(t *testing.T) {
			s := open(t, ns, "/", listen(t, address, func(l *profile.Listen) {
				if l.Address.Network != "unix" {
					l.Options = profile.SocketOptions{KeepAlive: true, NoDelay: true}
				}
			}))
			fd := int(s.File().Fd())
			if err := errors.Join(unix.Listen(fd, 3), unix.SetNonblock(fd, true)); err != nil {
				t.Fatal(err)
			}
			if s.Listen.Address.Network != "unix" {
				if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0),
					unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 0)); err != nil {
					t.Fatal(err)
				}
			}
			to := s.Listen.Address.Path
			if to == "" {
				to = s.Listen.Address.AddrPort.String()
			}
			queued := mustDial(t, ns, to)
			if err := s.Ready(); err != nil {
				t.Fatal(err)
			}
			is, blocking, backlog := listening(t, s)
			if !is || !blocking || s.Listen.Address.Network != "unix" && backlog != 128 {
				t.Errorf("listening %v, blocking %v, backlog %d", is, blocking, backlog)
			}
			if s.Listen.Address.Network != "unix" && (value(t, s, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 1 || value(t, s, unix.IPPROTO_TCP, unix.TCP_NODELAY) != 1) {
				t.Error("the declared options are not set")
			}
			// Who has waited through all that is served.
			if _, err := io.WriteString(accept(t, s), "hello"); err != nil {
				t.Fatal(err)
			}
			var b [5]byte
			if _, err := io.ReadFull(queued, b[:]); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestASocketThatAGatewayHasShutDownListensAgain(t *testing.T) {
	ns := netnstest.New(t)
	for _, address := range []string{"tcp://127.0.0.1:80", "tcp6://[::]:81"} {
		for name, before := range map[string]func(t *testing.T, s *Socket, to string){
			"without clients": func(*testing.T, *Socket, string) {},
			"with a client": func(t *testing.T, s *Socket, to string) {
				mustDial(t, ns, to)
				accept(t, s)
			},
			"with a client that the gateway has closed": func(t *testing.T, s *Socket, to string) {
				c := mustDial(t, ns, to)
				accept(t, s).Close()
				if _, err := io.ReadAll(c); err != nil {
					t.Fatal(err)
				}
				c.Close() // the gateway's end is in TIME_WAIT
			},
		} {
			t.Run(address+" "+name, func(t *testing.T) {
				s := open(t, ns, "/", listen(t, address))
				g := guard(t, ns, s)
				defer g.Close()
				defer s.Close()
				to := s.Listen.Address.AddrPort.String()
				before(t, s, to)
				if err := unix.Shutdown(int(s.File().Fd()), unix.SHUT_RDWR); err != nil {
					t.Fatal(err)
				}
				if _, err := dial(ns, to); !errors.Is(err, unix.ECONNREFUSED) {
					t.Fatalf("%v: it was to be shut down", err)
				}
				if err := s.Ready(); err != nil {
					t.Fatal(err)
				}
				mustDial(t, ns, to)
				accept(t, s)
				if err := unix.Shutdown(int(s.File().Fd()), unix.SHUT_RDWR); err != nil {
					t.Fatal(err)
				}
				nobody(t, ns, s.Listen.Address.AddrPort.Port(), "shut down again")
			})
		}
	}
}

func TestAnAddressThatSomebodyHasIsInUse(t *testing.T) {
	ns := netnstest.New(t)
	dir := t.TempDir()
	for _, address := range []string{"tcp://127.0.0.1:80", "tcp6://[::1]:80", "unix://@api", "unix:///api.sock"} {
		t.Run(address, func(t *testing.T) {
			first := open(t, ns, dir, listen(t, address))
			s, err := Open(ns, root(t, dir), Owner{}, listen(t, address))
			if !errors.Is(err, unix.EADDRINUSE) || s != nil || !strings.Contains(err.Error(), address) {
				t.Errorf("%v, %v; want EADDRINUSE", s, err)
			}
			if is, _, _ := listening(t, first); !is {
				t.Error("the first one was disturbed")
			}
		})
	}
}

func TestTheFileOfAUnixSocketIsTheGatewaysAndHasTheDeclaredMode(t *testing.T) {
	ns := netnstest.New(t)
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/run/api", 0o755); err != nil {
		t.Fatal(err)
	}
	umask := unix.Umask(0o077)
	defer unix.Umask(umask)
	for i, mode := range []uint32{0o666, 0o600, 0o660, 0} {
		path := fmt.Sprintf("/run/api/%d.sock", i)
		s := open(t, ns, dir, listen(t, "unix://"+path, func(l *profile.Listen) { l.SocketMode = mode }))
		var st unix.Stat_t
		if err := unix.Lstat(dir+path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != unix.S_IFSOCK|mode || st.Uid != 64990 || st.Gid != 64991 {
			t.Errorf("mode %#o, owner %d:%d; want a socket with mode %#o of 64990:64991", st.Mode, st.Uid, st.Gid, mode)
		}
		// Its name is the container's, as getsockname(2) gives it to the gateway.
		name, err := unix.Getsockname(int(s.File().Fd()))
		if u, ok := name.(*unix.SockaddrUnix); err != nil || !ok || u.Name != path {
			t.Errorf("its name is %+v, %v; want %s", name, err, path)
		}
		c, err := net.Dial("unix", dir+path)
		if err != nil {
			t.Fatal(err)
		}
		accept(t, s)
		c.Close()
	}
	if now := unix.Umask(0o077); now != 0o077 {
		t.Errorf("the process's umask has become %#o", now)
	}
}

func TestWhatIsAtThePathOfAUnixSocketIsReplacedOnlyIfItIsASocketThatNobodyListensOn(t *testing.T) {
	ns, other := netnstest.New(t), netnstest.New(t)
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		ok   bool
	}{
		"nothing": {func(*testing.T, string) {}, true},
		"a socket that its owner has left": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			l.Close()
		}, true},
		"a listener": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, false},
		"a listener of another network namespace": {func(t *testing.T, path string) {
			open(t, other, filepath.Dir(path), listen(t, "unix:///"+filepath.Base(path)))
		}, false},
		"a socket that is bound and will listen": {func(t *testing.T, path string) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				t.Fatal(err)
			}
		}, false},
		"a file": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, false},
		"a directory": {func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}, false},
		"a link to a socket that its owner has left": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path+"2")
			if err != nil {
				t.Fatal(err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			l.Close()
			if err := os.Symlink(filepath.Base(path)+"2", path); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "s")
			c.make(t, path)
			before, berr := os.Lstat(path)
			s, err := Open(ns, root(t, dir), Owner{}, listen(t, "unix:///s"))
			if c.ok {
				if err != nil {
					t.Fatal(err)
				}
				s.Close()
				return
			}
			if !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("%v, want EADDRINUSE", err)
			}
			after, aerr := os.Lstat(path)
			if berr != nil || aerr != nil || !os.SameFile(before, after) {
				t.Errorf("what was there is not: %v, %v", berr, aerr)
			}
		})
	}
}

func TestThePathOfAUnixSocketIsResolvedInsideTheContainer(t *testing.T) {
	ns := netnstest.New(t)
	outside := t.TempDir()
	for name, c := range map[string]struct {
		link, to string // made in the container's root
		path     string
		at       string // where the socket is to be, below the root; empty: the path can't be had
	}{
		"a link inside":                          {"run", "var/run", "/run/s", "/var/run/s"},
		"an absolute link":                       {"run", "/var/run", "/run/s", "/var/run/s"},
		"a link out by its absolute path":        {"run", outside, "/run/s", ""},
		"a link up and out":                      {"run", "../../../../../../../../" + outside, "/run/s", ""},
		"a link up and back in":                  {"run", "../../../../../../../../var/run", "/run/s", "/var/run/s"},
		"a link to the root of another process":  {"run", "/proc/self/root" + outside, "/run/s", ""},
		"a link in the place of the socket":      {"run/s", outside + "/s", "/run/s", ""},
		"a link to nowhere":                      {"run", "/nowhere", "/run/s", ""},
		"a path whose directory is not there":    {"x", "y", "/no/such/s", ""},
		"a link that leads to itself":            {"run", "run", "/run/s", ""},
		"a path whose directory is not one":      {"file/x", "", "/file/s", ""},
		"a path with a component that is a link": {"a", "var", "/a/run/s", "/var/run/s"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(dir+"/var/run", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(dir+"/"+c.link), 0o755); err != nil {
				t.Fatal(err)
			}
			switch {
			case c.to == "":
				if err := os.Remove(dir + "/file"); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
					t.Fatal(err)
				}
			default:
				if err := os.Symlink(c.to, dir+"/"+c.link); err != nil {
					t.Fatal(err)
				}
			}
			s, err := Open(ns, root(t, dir), Owner{UID: 1, GID: 1}, listen(t, "unix://"+c.path))
			if err == nil {
				defer s.Close()
			}
			if (err == nil) != (c.at != "") {
				t.Errorf("%v", err)
			}
			if c.at != "" {
				if st, err := os.Lstat(dir + c.at); err != nil || st.Mode()&os.ModeSocket == 0 {
					t.Errorf("%s: %v, %v", c.at, st, err)
				}
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
				t.Errorf("outside of the container's root: %v, %v", left, err)
			}
		})
	}
}

func TestTheProcessStaysInItsOwnRootDirectory(t *testing.T) {
	ns := netnstest.New(t)
	dir := t.TempDir()
	for i := range 20 {
		open(t, ns, dir, listen(t, fmt.Sprintf("unix:///%d", i)))
	}
	var all []string
	tasks, err := filepath.Glob("/proc/self/task/*/root")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		all = nil
		for _, link := range tasks {
			if to, err := os.Readlink(link); err == nil && to != "/" {
				all = append(all, link+" -> "+to)
			}
		}
		// A thread that has done its work ends some moments after.
		if len(all) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(all) != 0 {
		t.Errorf("threads are elsewhere: %v", all)
	}
}

func TestAnAbstractSocketIsInTheContainersNetworkNamespaceAlone(t *testing.T) {
	ns, other := netnstest.New(t), netnstest.New(t)
	s := open(t, ns, "/", listen(t, "unix://@api"))
	mustDial(t, ns, "@api")
	accept(t, s)
	if _, err := dial(other, "@api"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("from another network namespace: %v, want ECONNREFUSED", err)
	}
	open(t, other, "/", listen(t, "unix://@api"))
}

// disconnected checks that a client's connection ends, as is right for its kind.
func disconnected(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	_, err := c.Read(make([]byte, 1))
	if c.LocalAddr().Network() == "tcp" && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client sees %v, want ECONNRESET", err)
	}
	if c.LocalAddr().Network() == "unix" && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client sees %v, want the end", err)
	}
}

func TestRefuseDisconnectsThoseWhoWaitAndThoseWhoCome(t *testing.T) {
	ns := netnstest.New(t)
	for _, address := range []string{"tcp://127.0.0.1:80", "tcp6://[::1]:80", "unix://@api"} {
		t.Run(address, func(t *testing.T) {
			s := open(t, ns, "/", listen(t, address))
			to := s.Listen.Address.Path
			if to == "" {
				to = s.Listen.Address.AddrPort.String()
			}
			var waiting []net.Conn
			for range 5 {
				waiting = append(waiting, mustDial(t, ns, to))
			}
			if _, err := io.WriteString(waiting[0], "a request"); err != nil {
				t.Fatal(err)
			}
			for range 2 { // a second time changes nothing
				if err := s.Refuse(true); err != nil {
					t.Fatal(err)
				}
			}
			for _, c := range waiting {
				disconnected(t, c)
			}
			for range 20 {
				// A reset can come as early as in connect(2).
				if c, err := dial(ns, to); err == nil {
					disconnected(t, c)
					c.Close()
				} else if !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("a new client: %v", err)
				}
			}
			for range 2 {
				if err := s.Refuse(false); err != nil {
					t.Fatal(err)
				}
			}
			c := mustDial(t, ns, to)
			c.SetDeadline(time.Now().Add(50 * time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a client that was to queue: %v", err)
			}
			if err := s.Ready(); err != nil {
				t.Fatal(err)
			}
			accept(t, s)
		})
	}
}

func TestReadyAndCloseEndARefusal(t *testing.T) {
	ns := netnstest.New(t)
	s := open(t, ns, "/", listen(t, "tcp://127.0.0.1:80"))
	if err := s.Refuse(true); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(); err != nil {
		t.Fatal(err)
	}
	mustDial(t, ns, "127.0.0.1:80")
	accept(t, s)
	if _, blocking, _ := listening(t, s); !blocking {
		t.Error("it is left in non-blocking mode")
	}
	if err := s.Refuse(true); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := dial(ns, "127.0.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after Close: %v, want ECONNREFUSED", err)
	}
}

func TestASocketThatWasShutDownRefusesToo(t *testing.T) {
	ns := netnstest.New(t)
	s := open(t, ns, "/", listen(t, "tcp://127.0.0.1:80"))
	if err := unix.Shutdown(int(s.File().Fd()), unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	if err := s.Refuse(true); err != nil {
		t.Fatal(err)
	}
	if c, err := dial(ns, "127.0.0.1:80"); err == nil {
		disconnected(t, c)
	} else if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%v", err)
	}
}

// holder is another process that has the socket open, as descriptor 3.
func holder(t *testing.T, s *Socket) *process.Process {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "60")
	cmd.ExtraFiles = []*os.File{s.File()}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p, err := process.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestASocketIsTakenBackFromAnotherProcess(t *testing.T) {
	ns := netnstest.New(t)
	for _, address := range []string{"tcp://127.0.0.1:80", "unix://@api"} {
		t.Run(address, func(t *testing.T) {
			l := listen(t, address)
			lost := open(t, ns, "/", l)
			p := holder(t, lost)
			to := l.Address.Path
			if to == "" {
				to = l.Address.AddrPort.String()
			}
			queued := mustDial(t, ns, to)
			// As a gateway that is served by epoll has it.
			if err := unix.SetNonblock(int(lost.File().Fd()), true); err != nil {
				t.Fatal(err)
			}
			inode := lost.Inode
			lost.Close()
			s, err := From(p, inode, 3, l)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.Inode != inode || s.Listen.Address != l.Address {
				t.Errorf("%+v", s)
			}
			if _, blocking, _ := listening(t, s); blocking {
				t.Error("taking it back has changed the mode that the gateway relies on")
			}
			if watched := watchedBy(t, "self", int(s.File().Fd())); len(watched) != 0 {
				t.Errorf("each client wakes us: %v", watched)
			}
			if err := s.Ready(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(accept(t, s), "hello"); err != nil {
				t.Fatal(err)
			}
			var b [5]byte
			if _, err := io.ReadFull(queued, b[:]); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestASocketIsTakenBackFromTheCarrierOfAnotherProcess(t *testing.T) {
	ns := netnstest.New(t)
	other := open(t, ns, "/", listen(t, "tcp://127.0.0.1:81"))
	s := open(t, ns, "/", listen(t, "tcp://127.0.0.1:80"))
	carrier, err := Carry([]*os.File{other.File(), s.File()})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sleep", "60")
	cmd.ExtraFiles = []*os.File{carrier}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	carrier.Close()
	queued := mustDial(t, ns, "127.0.0.1:80")
	inode := s.Inode
	s.Close()
	other.Close()
	p, err := process.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	own, err := listener.Inodes(int(p.Dir().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if _, has := own[inode]; has {
		t.Errorf("it seems to have the socket itself: %v", own)
	}
	for range 2 { // the carrier keeps it
		again, err := From(p, inode, 3, s.Listen)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if err := again.Ready(); err != nil {
			t.Fatal(err)
		}
	}
	again, err := From(p, inode, 3, s.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := io.WriteString(accept(t, again), "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(queued, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	if _, err := From(p, inode+1000, 3, s.Listen); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want os.ErrNotExist", err)
	}
}

// watchedBy lists the epoll instances of a process that watch its descriptor fd (proc_pid_fdinfo(5)).
func watchedBy(t *testing.T, pid string, fd int) []string {
	t.Helper()
	infos, err := filepath.Glob("/proc/" + pid + "/fdinfo/*")
	if err != nil || len(infos) == 0 {
		t.Fatal(infos, err)
	}
	var found []string
	for _, path := range infos {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "tfd:" && f[1] == fmt.Sprint(fd) {
				found = append(found, path)
			}
		}
	}
	return found
}

func TestNobodyIsWokenByTheClientsOfAHeldSocket(t *testing.T) {
	ns := netnstest.New(t)
	s := open(t, ns, "/", listen(t, "tcp://127.0.0.1:80"))
	if watched := watchedBy(t, "self", int(s.File().Fd())); len(watched) != 0 {
		t.Errorf("each client wakes us: %v", watched)
	}
	if err := s.Refuse(true); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(); err != nil {
		t.Fatal(err)
	}
	if watched := watchedBy(t, "self", int(s.File().Fd())); len(watched) != 0 {
		t.Errorf("after a refusal each client wakes us: %v", watched)
	}
}

func TestASocketThatTheProcessDoesNotHaveCannotBeTakenBack(t *testing.T) {
	ns := netnstest.New(t)
	s := open(t, ns, "/", listen(t, "tcp://127.0.0.1:80"))
	other := open(t, ns, "/", listen(t, "tcp://127.0.0.1:81"))
	p := holder(t, other)
	if got, err := From(p, s.Inode, 3, s.Listen); !errors.Is(err, os.ErrNotExist) || got != nil {
		t.Errorf("%v, %v; want os.ErrNotExist", got, err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if !p.AwaitFor(patience) {
		t.Fatal("it does not end")
	}
	if got, err := From(p, other.Inode, 3, other.Listen); err == nil {
		t.Errorf("%v of a dead process", got)
	}
}

// leaked compares this process's descriptors before and after.
func TestAnOpenThatFailsLeavesNothingOpen(t *testing.T) {
	ns := netnstest.New(t)
	dir := root(t, t.TempDir())
	open(t, ns, "/", listen(t, "tcp://127.0.0.1:80"))
	descriptors := func() []string {
		all, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := descriptors()
	for _, address := range []string{"tcp://127.0.0.1:80", "unix:///no/such/s"} {
		if _, err := Open(ns, dir, Owner{}, listen(t, address)); err == nil {
			t.Errorf("%s was opened", address)
		}
	}
	if after := descriptors(); !slices.Equal(before, after) {
		t.Errorf("descriptors before %v, after %v", before, after)
	}
}

func TestNamesAreThoseOfTheListenersInTheirOrder(t *testing.T) {
	if got := Names(nil); got != "" {
		t.Errorf("%q", got)
	}
	sockets := []*Socket{{Listen: profile.Listen{Name: "api"}}, {Listen: profile.Listen{Name: "metrics"}}}
	if got := Names(sockets); got != "api:metrics" {
		t.Errorf("%q", got)
	}
}
