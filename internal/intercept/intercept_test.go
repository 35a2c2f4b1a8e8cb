package intercept

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/held"
	"github.com/gatewarden/gatewarden/internal/launch"
	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/netns/netnstest"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
)

const patience = 10 * time.Second

// roleName says in a run of this test program that it is a gateway, and which.
const roleName = "GATEWARDEN_TEST_GATEWAY"

// gateways are the programs that have their binds intercepted. What they give goes to the test as JSON.
var gateways = map[string]func() any{}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleName); role != "" {
		if err := json.NewEncoder(os.Stdout).Encode(gateways[role]()); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// await is how a gateway waits for the test's word, after it has said its own.
func await(word string) {
	fmt.Println(word)
	if _, err := bufio.NewReader(os.Stdin).ReadByte(); err != nil {
		panic(err)
	}
}

// bound is what has become of a descriptor that a gateway has bound.
type bound struct {
	Errno     string `json:"errno"`
	Inode     uint64 `json:"inode"`
	Name      string `json:"name"`
	Listening bool   `json:"listening"`
	NonBlock  bool   `json:"nonblock"`
	CloExec   bool   `json:"cloexec"`
}

// errno names an error of the kernel; "": there was none.
func errno(err error) string {
	if err == nil {
		return ""
	}
	return unix.ErrnoName(err.(unix.Errno))
}

// look looks at descriptor fd, whose bind gave err.
func look(fd int, err error) bound {
	b := bound{Errno: errno(err)}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil {
		b.Inode = st.Ino
	}
	switch sa, _ := unix.Getsockname(fd); sa := sa.(type) {
	case *unix.SockaddrInet4:
		b.Name = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		b.Name = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrUnix:
		b.Name = sa.Name
	}
	accept, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	b.Listening = accept == 1
	flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	b.NonBlock = flags&unix.O_NONBLOCK != 0
	flags, _ = unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	b.CloExec = flags&unix.FD_CLOEXEC != 0
	return b
}

func socket(family, kind int) int {
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		panic(err)
	}
	return fd
}

// bind is one bind(2) of a new socket.
func bind(family, kind int, to string) bound {
	fd := socket(family, kind)
	return look(fd, unix.Bind(fd, sockaddr(to)))
}

func sockaddr(to string) unix.Sockaddr {
	ap, err := netip.ParseAddrPort(to)
	switch {
	case err != nil:
		return &unix.SockaddrUnix{Name: to}
	case ap.Addr().Is4():
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}

// raw is a bind(2) of exactly these bytes.
func raw(fd int, address []byte, length uintptr) error {
	var p unsafe.Pointer
	if len(address) > 0 {
		p = unsafe.Pointer(&address[0])
	}
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(p), length); errno != 0 {
		return errno
	}
	return nil
}

// gateway is a running one, with the filter.
type gateway struct {
	t      *testing.T
	cmd    *exec.Cmd
	proc   *process.Process
	in     io.WriteCloser
	out    *bufio.Reader
	notify *os.File // nobody answers yet
}

// run starts the gateway inside ns by a real launcher.
func run(t *testing.T, ns *os.File, role string) *gateway {
	t.Helper()
	file, err := launch.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	gate, theirs, err := launch.NewGate()
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{file, theirs}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = netns.Do(ns, cmd.Start)
	theirs.Close() // its end tells that the launcher has become the gateway
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	proc, err := process.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proc.Close)
	if err := gate.AwaitParked(ctx); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(exe, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	program := os.NewFile(uintptr(fd), exe)
	defer program.Close()
	notify, err := gate.Release(ctx, launch.Order{Exe: program, Cwd: "/", Arg: []string{"gateway"}, Env: []string{roleName + "=" + role}, Notify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notify.Close() })
	return &gateway{t, cmd, proc, in, bufio.NewReader(out), notify}
}

// said waits for a word of the gateway's.
func (g *gateway) said(word string) {
	g.t.Helper()
	if line, err := g.out.ReadString('\n'); err != nil || strings.TrimSpace(line) != word {
		g.t.Fatalf("the gateway said %q, %v; want %q", line, err, word)
	}
}

func (g *gateway) goOn() {
	g.t.Helper()
	if _, err := g.in.Write([]byte("\n")); err != nil {
		g.t.Fatal(err)
	}
}

// waits checks that a bind of the gateway's waits, and goes on to.
func (g *gateway) waits() {
	g.t.Helper()
	inBind := func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", g.proc.PID()))
		if err != nil {
			g.t.Fatal(err)
		}
		for _, task := range tasks {
			if data, err := os.ReadFile(task); err == nil && strings.HasPrefix(string(data), fmt.Sprintf("%d ", unix.SYS_BIND)) {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(patience); !inBind(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) || g.proc.Exited() {
			g.t.Fatal("no thread of it waits in a bind")
		}
	}
	if g.proc.AwaitFor(50*time.Millisecond) || !inBind() {
		g.t.Fatal("its bind does not wait any more")
	}
}

// result is what the gateway found, once it has ended.
func result[T any](g *gateway) T {
	g.t.Helper()
	type read struct {
		v   T
		err error
	}
	done := make(chan read, 1)
	go func() {
		var r read
		r.err = json.NewDecoder(g.out).Decode(&r.v)
		done <- r
	}()
	select {
	case r := <-done:
		if r.err != nil {
			g.t.Fatal(r.err)
		}
		return r.v
	case <-time.After(patience):
		g.t.Fatal("the gateway does not end")
	}
	panic("not reached")
}

func answer(t *testing.T, notify *os.File, sockets ...*held.Socket) *Interceptor {
	t.Helper()
	i, err := Start(notify, sockets, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// hold makes a held socket.
func hold(t *testing.T, ns *os.File, address string, change ...func(*profile.Listen)) *held.Socket {
	t.Helper()
	a, err := profile.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	l := profile.Listen{Name: "api", Address: a, Mode: profile.ModeTransparent, Backlog: 16, Outage: profile.OutageQueue}
	for _, f := range change {
		f(&l)
	}
	root, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s, err := held.Open(ns, root, held.Owner{}, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

type bindCase struct {
	held    []string
	family  int
	kind    int
	to      string
	taken   int    // which of held it gets; -1: none, the kernel decides
	errno   string // of the kernel
	finding string // part of what people are told; "": nothing
}

var bindCases = map[string]bindCase{
	"the declared address":                       {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:80", 0, "", ""},
	"the declared wildcard":                      {[]string{"tcp://0.0.0.0:80"}, unix.AF_INET, unix.SOCK_STREAM, "0.0.0.0:80", 0, "", ""},
	"the declared IPv6 address":                  {[]string{"tcp6://[::1]:80"}, unix.AF_INET6, unix.SOCK_STREAM, "[::1]:80", 0, "", ""},
	"the declared dual-stack wildcard":           {[]string{"tcp6://[::]:80"}, unix.AF_INET6, unix.SOCK_STREAM, "[::]:80", 0, "", ""},
	"one of several":                             {[]string{"tcp://127.0.0.1:80", "tcp6://[::1]:80", "tcp://127.0.0.1:81"}, unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:81", 2, "", ""},
	"one beside another of the port":             {[]string{"tcp://127.0.0.1:80", "tcp6://[::1]:80"}, unix.AF_INET6, unix.SOCK_STREAM, "[::1]:80", 1, "", ""},
	"another port":                               {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:81", -1, "", ""},
	"any port":                                   {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:0", -1, "", ""},
	"UDP on the same port":                       {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET, unix.SOCK_DGRAM, "127.0.0.1:80", -1, "", ""},
	"the wildcard of a declared address":         {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET, unix.SOCK_STREAM, "0.0.0.0:80", -1, "EADDRINUSE", "binds 0.0.0.0:80, and tcp://127.0.0.1:80 (api)"},
	"the IPv6 wildcard of an IPv4 address":       {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET6, unix.SOCK_STREAM, "[::]:80", -1, "EADDRINUSE", "binds [::]:80, and tcp://127.0.0.1:80 (api)"},
	"an address of the declared wildcard":        {[]string{"tcp://0.0.0.0:80"}, unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:80", -1, "EADDRINUSE", "binds 127.0.0.1:80, and tcp://0.0.0.0:80 (api)"},
	"the v4-mapped form of the declared address": {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET6, unix.SOCK_STREAM, "[::ffff:127.0.0.1]:80", -1, "EADDRINUSE", "binds [::ffff:127.0.0.1]:80, and tcp://127.0.0.1:80 (api)"},
	"another address of the port":                {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET, unix.SOCK_STREAM, "127.0.0.2:80", -1, "", "binds 127.0.0.2:80, and tcp://127.0.0.1:80 (api)"},
	"UDP on the wildcard of the port":            {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET, unix.SOCK_DGRAM, "0.0.0.0:80", -1, "", ""},
	"an address of the wrong family":             {[]string{"tcp://127.0.0.1:80"}, unix.AF_INET6, unix.SOCK_STREAM, "127.0.0.1:80", -1, "EINVAL", ""},
	"the declared abstract name":                 {[]string{"unix://@api"}, unix.AF_UNIX, unix.SOCK_STREAM, "@api", 0, "", ""},
	"another abstract name":                      {[]string{"unix://@api"}, unix.AF_UNIX, unix.SOCK_STREAM, "@ap", -1, "", ""},
	"the declared abstract name, for datagrams":  {[]string{"unix://@api"}, unix.AF_UNIX, unix.SOCK_DGRAM, "@api", -1, "", ""},
	"the declared abstract name, for packets":    {[]string{"unix://@api"}, unix.AF_UNIX, unix.SOCK_SEQPACKET, "@api", -1, "", ""},
}

func init() {
	for name, c := range bindCases {
		gateways["bind: "+name] = func() any { return bind(c.family, c.kind, c.to) }
	}
}

func TestABindToADeclaredAddressGetsTheHeldSocketAndEveryOtherIsTheKernels(t *testing.T) {
	for name, c := range bindCases {
		t.Run(name, func(t *testing.T) {
			ns := netnstest.New(t)
			var sockets []*held.Socket
			for _, a := range c.held {
				sockets = append(sockets, hold(t, ns, a))
			}
			g := run(t, ns, "bind: "+name)
			i := answer(t, g.notify, sockets...)
			got := result[bound](g)
			if got.Errno != c.errno {
				t.Errorf("errno %q, want %q", got.Errno, c.errno)
			}
			for k, s := range sockets {
				if (got.Inode == s.Inode) != (k == c.taken) {
					t.Errorf("it has the socket %d, held is %d", got.Inode, s.Inode)
				}
			}
			if c.taken >= 0 && (!got.Listening || got.Name != c.to) {
				t.Errorf("%+v", got)
			}
			if f := i.Findings(); (f != "") != (c.finding != "") || !strings.Contains(f, c.finding) {
				t.Errorf("findings %q, want %q", f, c.finding)
			}
		})
	}
}

func init() {
	gateways["twice"] = func() any {
		fd := socket(unix.AF_INET, unix.SOCK_STREAM)
		return []bound{look(fd, unix.Bind(fd, sockaddr("127.0.0.1:80"))), look(fd, unix.Bind(fd, sockaddr("127.0.0.1:80"))),
			bind(unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:80")}
	}
}

func TestBindingTwiceGivesTheSameSocket(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "twice")
	answer(t, g.notify, s)
	for _, b := range result[[]bound](g) {
		if b.Errno != "" || b.Inode != s.Inode {
			t.Errorf("%+v, want the socket %d", b, s.Inode)
		}
	}
}

func init() {
	gateways["thread"] = func() any {
		// The first thread stays where it is.
		runtime.LockOSThread()
		done := make(chan bound)
		go func() {
			runtime.LockOSThread()
			if unix.Gettid() == os.Getpid() {
				panic("not another thread")
			}
			done <- bind(unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:80")
		}()
		return <-done
	}
	gateways["child"] = func() any {
		fd := socket(unix.AF_INET, unix.SOCK_STREAM)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{roleName + "=child's child"}
		cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
		out, err := cmd.Output()
		if err != nil {
			panic(err)
		}
		return json.RawMessage(out)
	}
	gateways["child's child"] = func() any { return look(3, unix.Bind(3, sockaddr("127.0.0.1:80"))) }
}

func TestBindsOfThreadsAndChildrenAreAnsweredToo(t *testing.T) {
	for _, role := range []string{"thread", "child"} {
		t.Run(role, func(t *testing.T) {
			ns := netnstest.New(t)
			s := hold(t, ns, "tcp://127.0.0.1:80")
			g := run(t, ns, role)
			answer(t, g.notify, s)
			if b := result[bound](g); b.Errno != "" || b.Inode != s.Inode {
				t.Errorf("%+v, want the socket %d", b, s.Inode)
			}
		})
	}
}

func init() {
	for _, flags := range []int{0, unix.SOCK_NONBLOCK, unix.SOCK_CLOEXEC, unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC} {
		gateways[fmt.Sprint("flags ", flags)] = func() any { return bind(unix.AF_INET, unix.SOCK_STREAM|flags, "127.0.0.1:80") }
	}
}

func TestTheFlagsOfTheProgramsOwnSocketAreCarriedOver(t *testing.T) {
	for _, flags := range []int{0, unix.SOCK_NONBLOCK, unix.SOCK_CLOEXEC, unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC} {
		t.Run(fmt.Sprint(flags), func(t *testing.T) {
			ns := netnstest.New(t)
			s := hold(t, ns, "tcp://127.0.0.1:80")
			// What an earlier gateway had.
			if err := unix.SetNonblock(int(s.File().Fd()), flags&unix.SOCK_NONBLOCK == 0); err != nil {
				t.Fatal(err)
			}
			g := run(t, ns, fmt.Sprint("flags ", flags))
			answer(t, g.notify, s)
			b := result[bound](g)
			if b.Inode != s.Inode || b.NonBlock != (flags&unix.SOCK_NONBLOCK != 0) || b.CloExec != (flags&unix.SOCK_CLOEXEC != 0) {
				t.Errorf("%+v", b)
			}
		})
	}
}

// sockOptions are those that a program sets before bind, with a value that is not the kernel's default.
var sockOptions = []struct {
	text               string
	level, name, value int
	read               int // what the kernel makes of it
}{
	{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, 1},
	{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, 1},
	{"TCP_DEFER_ACCEPT", unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 3, 3},
	{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 7000, 7000},
	{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, 50000, 100000},
	{"SO_SNDBUF", unix.SOL_SOCKET, unix.SO_SNDBUF, 60000, 120000},
}

func init() {
	values := func(fd int) map[string]int {
		v := map[string]int{}
		for _, o := range sockOptions {
			var err error
			if v[o.text], err = unix.GetsockoptInt(fd, o.level, o.name); err != nil {
				panic(err)
			}
		}
		return v
	}
	gateways["options"] = func() any {
		fd := socket(unix.AF_INET, unix.SOCK_STREAM)
		for _, o := range sockOptions {
			if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
				panic(err)
			}
		}
		if err := unix.Bind(fd, sockaddr("127.0.0.1:80")); err != nil {
			panic(err)
		}
		return values(fd)
	}
	gateways["no options"] = func() any {
		fd := socket(unix.AF_INET, unix.SOCK_STREAM)
		if err := unix.Bind(fd, sockaddr("127.0.0.1:80")); err != nil {
			panic(err)
		}
		return values(fd)
	}
}

func TestTheOptionsOfTheProgramsOwnSocketAreCarriedOver(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "options")
	answer(t, g.notify, s)
	got := result[map[string]int](g)
	for _, o := range sockOptions {
		// Times are rounded up to what the kernel can count.
		if v := got[o.text]; v < o.read || v > o.read*5/2 {
			t.Errorf("%s is %d, want %d", o.text, v, o.read)
		}
	}
}

func TestWhatTheProgramHasNotSetStaysAsDeclared(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80", func(l *profile.Listen) {
		l.Options = profile.SocketOptions{KeepAlive: true, NoDelay: true, DeferAccept: 3 * time.Second, ReceiveBuffer: 50000, SendBuffer: 60000}
	})
	g := run(t, ns, "no options")
	answer(t, g.notify, s)
	got := result[map[string]int](g)
	for _, o := range sockOptions {
		if v := got[o.text]; o.text != "TCP_USER_TIMEOUT" && (v < o.read || v > o.read*5/2) {
			t.Errorf("%s is %d, want %d", o.text, v, o.read)
		}
	}
}

// unixAddress is a struct sockaddr_un of that length.
func unixAddress(name string, length int) []byte {
	b := make([]byte, length)
	binary.NativeEndian.PutUint16(b, unix.AF_UNIX)
	copy(b[3:], name)
	return b
}

func init() {
	gateways["abstract lengths"] = func() any {
		results := map[string]bound{}
		for name, length := range map[string]int{"exact": 3 + len("api"), "one zero more": 4 + len("api"), "the whole structure": unix.SizeofSockaddrUnix} {
			fd := socket(unix.AF_UNIX, unix.SOCK_STREAM)
			b := unixAddress("api", length)
			results[name] = look(fd, raw(fd, b, uintptr(length)))
		}
		return results
	}
}

func TestAnAbstractNameIsTheSameWithTrailingZeros(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "unix://@api")
	g := run(t, ns, "abstract lengths")
	answer(t, g.notify, s)
	got := result[map[string]bound](g)
	if len(got) != 3 {
		t.Fatal(got)
	}
	for name, b := range got {
		if b.Errno != "" || b.Inode != s.Inode {
			t.Errorf("%s: %+v, want the socket %d", name, b, s.Inode)
		}
	}
}

type badCall struct {
	name    string
	fd      int // -1: a new TCP socket
	address []byte
	length  uintptr
	want    string
}

func badCalls() []badCall {
	inet := make([]byte, unix.SizeofSockaddrInet4)
	binary.NativeEndian.PutUint16(inet, unix.AF_INET)
	binary.BigEndian.PutUint16(inet[2:], 80)
	copy(inet[4:], []byte{127, 0, 0, 1})
	family := append([]byte{0xff, 0xff}, inet[2:]...)
	return []badCall{
		{"no address", -1, nil, 16, "EFAULT"},
		{"length 0", -1, inet, 0, "EINVAL"},
		{"length 1", -1, inet, 1, "EINVAL"},
		{"too short for its family", -1, inet, 8, "EINVAL"},
		{"a negative length", -1, inet, ^uintptr(0), "EINVAL"},
		{"a length beyond any address", -1, inet, 1 << 20, "EINVAL"},
		{"an unknown family", -1, family, 16, "EAFNOSUPPORT"},
		{"a descriptor that is not open", 999, inet, 16, "EBADF"},
		{"a negative descriptor", -2, inet, 16, "EBADF"},
		{"a descriptor that is no socket", 0, inet, 16, "ENOTSOCK"},
		{"an address that has a tail", -1, append(inet, make([]byte, 32)...), 48, ""},
	}
}

func init() {
	gateways["bad calls"] = func() any {
		got := map[string]string{}
		for _, c := range badCalls() {
			fd := c.fd
			if fd == -1 {
				fd = socket(unix.AF_INET, unix.SOCK_STREAM)
			}
			got[c.name] = errno(raw(fd, c.address, c.length))
		}
		// Where nothing is mapped.
		_, _, e := unix.Syscall(unix.SYS_BIND, uintptr(socket(unix.AF_INET, unix.SOCK_STREAM)), 8, 16)
		got["a wild pointer"] = errno(e)
		// Its last bytes are on a page that is not there.
		page, err := unix.Mmap(-1, 0, 2*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			panic(err)
		}
		if err := unix.Mprotect(page[os.Getpagesize():], unix.PROT_NONE); err != nil {
			panic(err)
		}
		got["an address half outside"] = errno(raw(socket(unix.AF_INET, unix.SOCK_STREAM), page[os.Getpagesize()-8:os.Getpagesize()], 16))
		// After all that.
		got["a good call"] = bind(unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:80").Errno
		return got
	}
}

func TestABadCallGetsTheKernelsOwnError(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "bad calls")
	i := answer(t, g.notify, s)
	got := result[map[string]string](g)
	want := map[string]string{"a wild pointer": "EFAULT", "an address half outside": "EFAULT", "a good call": ""}
	for _, c := range badCalls() {
		want[c.name] = c.want
	}
	for name, w := range want {
		if e, ok := got[name]; !ok || e != w {
			t.Errorf("%s: %q, want %q", name, e, w)
		}
	}
	if f := i.Findings(); f != "" {
		t.Errorf("findings: %s", f)
	}
}

func init() {
	gateways["one bind"] = func() any { return bind(unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:80") }
	gateways["a bind when told"] = func() any {
		await("ready")
		return bind(unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:80")
	}
	gateways["a bind when told, without the descriptor"] = func() any {
		// As programs do that close what they do not know.
		if err := unix.CloseRange(3, 1<<20, 0); err != nil {
			panic(err)
		}
		await("ready")
		return bind(unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:80")
	}
}

// ended waits until the interceptor has ended by itself.
func ended(t *testing.T, i *Interceptor) {
	t.Helper()
	select {
	case <-i.ended:
	case <-time.After(patience):
		t.Error("the interceptor goes on")
	}
}

func TestAnInterceptorEndsWithTheLastProcess(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "one bind")
	i := answer(t, g.notify, s)
	result[bound](g)
	g.cmd.Wait()
	ended(t, i)
}

func TestAGatewayThatIsKilledWhileItsBindWaitsIsGoneAndDisturbsNobody(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "one bind")
	g.waits()
	if err := g.proc.Kill(); err != nil {
		t.Fatal(err)
	}
	if !g.proc.AwaitFor(patience) {
		t.Fatal("it does not end")
	}
	i := answer(t, g.notify, s)
	g.cmd.Wait()
	ended(t, i)
}

func TestABindWaitsForWhoeverComesToAnswerIt(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "one bind")
	g.waits()
	// The one who was to answer is lost, with its descriptor.
	g.notify.Close()
	g.waits()
	notify, err := g.proc.Copy("anon_inode:seccomp notify")
	if err != nil {
		t.Fatal(err)
	}
	answer(t, notify, s)
	if b := result[bound](g); b.Errno != "" || b.Inode != s.Inode {
		t.Errorf("%+v, want the socket %d", b, s.Inode)
	}
}

func TestAfterCloseASecondInterceptorGoesOn(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "a bind when told")
	first := answer(t, g.notify, s)
	g.said("ready")
	first.Close()
	g.goOn()
	g.waits()
	notify, err := g.proc.Copy("anon_inode:seccomp notify")
	if err != nil {
		t.Fatal(err)
	}
	answer(t, notify, s)
	if b := result[bound](g); b.Errno != "" || b.Inode != s.Inode {
		t.Errorf("%+v, want the socket %d", b, s.Inode)
	}
}

func TestABindFailsWhenNobodyCanEverAnswerIt(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "a bind when told, without the descriptor")
	i := answer(t, g.notify, s)
	g.said("ready")
	if _, err := g.proc.Copy("anon_inode:seccomp notify"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a copy of what it has closed: %v, want os.ErrNotExist", err)
	}
	i.Close()
	g.goOn()
	if b := result[bound](g); b.Errno != "ENOSYS" {
		t.Errorf("%+v, want ENOSYS", b)
	}
}

const stormBinds = 100

func init() {
	gateways["storm"] = func() any {
		// The handler restarts system calls, as the runtime's own does (SA_RESTART).
		var all []bound
		for range stormBinds {
			b := bind(unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:80")
			all = append(all, b)
		}
		return all
	}
}

// SIGURG is what Go's runtime preempts by, thousands of times a second if it has to.
func TestSignalsDuringABindDoNoHarm(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "storm")
	over := make(chan struct{})
	stormed := make(chan int)
	go func() {
		n := 0
		defer func() { stormed <- n }()
		for {
			select {
			case <-over:
				return
			default:
			}
			if g.proc.Signal(unix.SIGURG) == nil {
				n++
			}
		}
	}()
	time.Sleep(50 * time.Millisecond) // the first bind has nobody to answer it yet
	answer(t, g.notify, s)
	all := result[[]bound](g)
	close(over)
	if n := <-stormed; n < stormBinds {
		t.Errorf("there were %d signals only", n)
	}
	if len(all) != stormBinds {
		t.Fatalf("%d binds", len(all))
	}
	for _, b := range all {
		if b.Errno != "" || b.Inode != s.Inode {
			t.Errorf("%+v, want the socket %d", b, s.Inode)
		}
	}
}

// switches counts how often threads of this process have gone to sleep.
func switches(t *testing.T) int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	total := 0
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			var n int
			if _, err := fmt.Sscanf(line, "voluntary_ctxt_switches: %d", &n); err == nil {
				total += n
			}
		}
	}
	return total
}

func TestAnInterceptorSleepsWhileNobodyBinds(t *testing.T) {
	ns := netnstest.New(t)
	s := hold(t, ns, "tcp://127.0.0.1:80")
	g := run(t, ns, "a bind when told")
	answer(t, g.notify, s)
	g.said("ready")
	before := switches(t)
	time.Sleep(time.Second)
	// The test's own timer, and what the runtime does with an idle process, are some tens.
	if n := switches(t) - before; n > 100 {
		t.Errorf("%d times in a second a thread went to sleep: something wakes it", n)
	}
	g.goOn()
	if b := result[bound](g); b.Inode != s.Inode {
		t.Errorf("%+v", b)
	}
}

func TestNoInterceptorIsClosedAndHasFoundNothing(t *testing.T) {
	var i *Interceptor
	i.Close()
	if f := i.Findings(); f != "" {
		t.Error(f)
	}
}

func TestFindingsAreBoundedAndSaidOnce(t *testing.T) {
	i := &Interceptor{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	for n := range 3 * maxStrange {
		i.found("finding %d", n/2)
	}
	if got := strings.Split(i.Findings(), "; "); len(got) != maxStrange || got[0] != "finding 0" || got[1] != "finding 1" {
		t.Errorf("%q", got)
	}
}
