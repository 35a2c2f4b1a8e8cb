//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/listener"
	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// heldListen declares the usual address as a held listener.
func heldListen(mode string, more ...string) string {
	s := "[[listen]]\nname = \"api\"\naddress = \"tcp://" + harness.GatewayAddress + "\"\nmode = \"" + mode + "\"\n"
	for _, m := range more {
		s += m + "\n"
	}
	return s
}

// heldProfile is a profile of the test gateway with a held listener.
func heldProfile(mode string, args ...string) *harness.Profile {
	p := &harness.Profile{Listen: heldListen(mode), Args: args}
	if mode == "inherit" {
		p.Command = append([]string{"/usr/local/bin/testgateway", "--inherit"}, args...)
	}
	return p
}

func TestAHeldListenerIsTheSameSocketThroughRestartsAndCrashes(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		t.Run(mode, func(t *testing.T) {
			c := run(t, options{profile: heldProfile(mode)})
			s := c.parked()
			if len(s.Listeners) != 1 || s.Listeners[0].Inode == 0 || s.Listeners[0].Mode != mode || s.Listeners[0].OwnerPID != s.PID {
				t.Fatalf("listeners %+v", s.Listeners)
			}
			for range 3 {
				if r := c.restart(); r.Listeners[0].Inode != s.Listeners[0].Inode || r.Listeners[0].OwnerPID != r.New.PID {
					t.Errorf("listeners %+v, want the socket %d", r.Listeners, s.Listeners[0].Inode)
				} else {
					t.Logf("%+v", r.Millis)
				}
				c.ask()
			}
		})
	}
}

// netnsFile is the container's network namespace.
func (c *container) netnsFile() *os.File {
	c.t.Helper()
	return openNetns(c.t, c.init())
}

func openNetns(t *testing.T, pid int) *os.File {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// clients are HTTP clients inside a network namespace; each request is a connection of its own.
func clients(ns *os.File, network, address string) *http.Client {
	return &http.Client{Timeout: eventTime, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return netns.Dial(ctx, ns, network, address)
	}}}
}

func fetch(client *http.Client, path string) (string, error) {
	resp, err := client.Get("http://gateway" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// load is what clients have met.
type load struct {
	mu              sync.Mutex
	ok              int
	refused, failed []string
}

// under keeps clients busy until the function that it gives is called.
func under(ns *os.File, n int) (end func() *load) {
	var l load
	var all sync.WaitGroup
	over := make(chan struct{})
	for range n {
		all.Go(func() {
			client := clients(ns, "tcp", harness.GatewayAddress)
			for {
				select {
				case <-over:
					return
				default:
				}
				_, err := fetch(client, "/health")
				l.mu.Lock()
				switch {
				case err == nil:
					l.ok++
				case errors.Is(err, unix.ECONNREFUSED):
					l.refused = append(l.refused, err.Error())
				default:
					l.failed = append(l.failed, err.Error())
				}
				l.mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return func() *load {
		close(over)
		all.Wait()
		return &l
	}
}

func TestAGatewayIsToldOfTheSocketsThatItInherits(t *testing.T) {
	c := run(t, options{profile: heldProfile("inherit")})
	client := clients(c.netnsFile(), "tcp", harness.GatewayAddress)
	for range 2 {
		s := c.parked()
		body, err := fetch(client, "/env")
		if err != nil {
			t.Fatal(err)
		}
		pidfd, err := fetch(client, "/pidfd")
		if err != nil {
			t.Fatal(err)
		}
		env := decode[[]string](t, body)
		for _, want := range []string{fmt.Sprintf("LISTEN_PID=%d", s.NSPID), "LISTEN_FDS=1", "LISTEN_FDNAMES=api", "LISTEN_PIDFDID=" + pidfd} {
			if !slices.Contains(env, want) {
				t.Errorf("the environment is %q, without %s", env, want)
			}
		}
		c.restart()
	}
}

// socketOf gives a copy of the socket with that inode, which the gateway has open.
func (c *container) socketOf(pid int, inode uint64) *os.File {
	c.t.Helper()
	p, err := process.Open(pid)
	if err != nil {
		c.t.Fatal(err)
	}
	defer p.Close()
	f, err := p.Copy(fmt.Sprintf("socket:[%d]", inode))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { f.Close() })
	return f
}

func TestListenersOfEveryKindAreHeldTogetherAndAsDeclared(t *testing.T) {
	const path = "/var/lib/gateway/api.sock"
	p := heldProfile("inherit")
	p.Listen = heldListen("inherit", "backlog = 17", "options = { keep_alive = true, no_delay = true }") + `
[[listen]]
name = "six"
address = "tcp6://[::1]:18789"
mode = "inherit"
[[listen]]
name = "path"
address = "unix://` + path + `"
mode = "inherit"
socket_mode = "0660"
[[listen]]
name = "abstract"
address = "unix://@api"
mode = "inherit"
`
	p.More = "[[state]]\ntarget = \"/var/lib/gateway\"\n"
	c := run(t, options{profile: p})
	ns := c.netnsFile()
	before := c.parked()
	check := func() {
		t.Helper()
		s := c.parked()
		var names []string
		for i, l := range s.Listeners {
			names = append(names, l.Name)
			if l.Inode != before.Listeners[i].Inode || l.OwnerPID != s.PID {
				t.Errorf("listener %+v, and it was %+v", l, before.Listeners[i])
			}
		}
		if !slices.Equal(names, []string{"api", "six", "path", "abstract"}) {
			t.Errorf("listeners %v", names)
		}
		for _, at := range []struct{ network, address string }{{"tcp", harness.GatewayAddress}, {"tcp", "[::1]:18789"}, {"unix", "@api"}} {
			if body, err := fetch(clients(ns, at.network, at.address), "/"); err != nil || decode[who](t, body).PID != s.NSPID {
				t.Errorf("%s: %q, %v", at.address, body, err)
			}
		}
		file := fmt.Sprintf("/proc/%d/root%s", s.PID, path)
		client := &http.Client{Timeout: eventTime, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", file)
		}}}
		if body, err := fetch(client, "/"); err != nil || decode[who](t, body).PID != s.NSPID {
			t.Errorf("%s: %q, %v", path, body, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(file, &st); err != nil || st.Mode != unix.S_IFSOCK|0o660 || st.Uid != harness.GatewayUID || st.Gid != harness.GatewayUID {
			t.Errorf("%s: %v, mode %#o, owner %d:%d", path, err, st.Mode, st.Uid, st.Gid)
		}
		fd := int(c.socketOf(s.PID, s.Listeners[0].Inode).Fd())
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.Sacked != 17 {
			t.Errorf("its backlog is %d, %v; want 17", info.Sacked, err)
		}
		for _, o := range []struct{ level, name int }{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_NODELAY}} {
			if v, err := unix.GetsockoptInt(fd, o.level, o.name); err != nil || v != 1 {
				t.Errorf("option %v is %d, %v", o, v, err)
			}
		}
	}
	check()
	c.restart()
	check()
	// Somebody removes the file: nobody can connect, until the operator restarts the gateway.
	if err := os.Remove(fmt.Sprintf("/proc/%d/root%s", c.status().PID, path)); err != nil {
		t.Fatal(err)
	}
	before.Listeners[2].Inode = c.restart().Listeners[2].Inode
	check()
}

func TestClientsThatConnectBeforeTheContainerStartsAreServed(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		t.Run(mode, func(t *testing.T) {
			declared := heldProfile(mode, "--delay-bind", "300ms")
			declared.Select = "annotation = false"
			p := plainRuncOf(t, *declared, nil)
			state, err := p.oci("state", p.id).Output()
			if err != nil {
				t.Fatal(err)
			}
			created := decode[struct {
				PID    int    `json:"pid"`
				Status string `json:"status"`
			}](t, string(state))
			if created.Status != "created" {
				t.Fatalf("%+v", created)
			}
			ns := openNetns(t, created.PID)
			served := make(chan error, 20)
			for range cap(served) {
				go func() {
					_, err := fetch(clients(ns, "tcp", harness.GatewayAddress), "/")
					served <- err
				}()
			}
			for range cap(served) {
				if err := <-served; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// grabbed is what the workload, `testworkload grab`, reported last.
func (c *container) grabbed() loot {
	c.t.Helper()
	var l loot
	eventually(c.t, eventTime, "the workload has tried", func() (ok bool) {
		l, ok = lastLine[loot](c.t, c.log)
		return ok
	}, func() string { return "" })
	return l
}

// grabber is a workload that wants the gateway's port.
var grabber = []string{"testworkload", "grab", "--address", harness.GatewayAddress}

func TestTheWorkloadNeverGetsTheHeldPort(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		for _, user := range []string{"0", "1000"} {
			t.Run(mode+", workload of UID "+user, func(t *testing.T) {
				p := heldProfile(mode, "--exit-code", "78")
				p.Restart = "fatal_exit_codes = [78]\nbackoff = { initial = \"50ms\", max = \"100ms\" }"
				o := options{profile: p, user: user, command: grabber}
				if user == "0" {
					o.flags = append(dropFlags(), "--read-only") // it would own the program
				}
				c := run(t, o)
				none := func(when string) {
					t.Helper()
					before := c.grabbed().Tries
					eventually(t, eventTime, "it goes on trying", func() bool { return c.grabbed().Tries > before }, func() string { return "" })
					if l := c.grabbed(); len(l.Taken) != 0 {
						t.Fatalf("%s: the workload has got the port in %d tries: %q", when, l.Tries, l.Taken)
					}
				}
				none("after the start")
				inode := c.parked().Listeners[0].Inode
				for range 20 {
					if r := c.restart(); r.Listeners[0].Inode != inode {
						t.Errorf("%+v, want the socket %d", r.Listeners, inode)
					}
				}
				none("through restarts")
				s := c.parked()
				killProcess(t, s.PID)
				c.waitFor("the next gateway runs", func(n receipt.Status) bool { return n.State == receipt.Running && n.PID != s.PID })
				none("through a crash")
				s = c.parked()
				killProcess(t, s.Warden.PID)
				if after := c.supervised(s.Warden.PID); after.Listeners[0].Inode != inode {
					t.Errorf("after the warden's loss: %+v, want the socket %d", after.Listeners, inode)
				}
				none("through the loss of the warden")
				c.get("/exit")
				c.waitFor("it has failed", func(s receipt.Status) bool { return s.State == receipt.FailedSt })
				none("while it has failed")
				if r := c.restart(); r.Listeners[0].Inode != inode {
					t.Errorf("%+v, want the socket %d", r.Listeners, inode)
				}
				none("in the end")
			})
		}
	}
}

func TestNoClientIsRefusedDuringRestarts(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		t.Run(mode, func(t *testing.T) {
			c := run(t, options{profile: heldProfile(mode, "--drain")})
			end := under(c.netnsFile(), 4)
			for range 30 {
				c.restart()
			}
			l := end()
			t.Logf("%d requests", l.ok)
			if len(l.refused) != 0 || len(l.failed) != 0 || l.ok < 100 {
				t.Errorf("%d requests were answered, refused were %v, failed %v", l.ok, l.refused, l.failed)
			}
		})
	}
}

func TestClientsThatQueueWhenTheGatewayCrashesAreServedByTheNext(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		t.Run(mode, func(t *testing.T) {
			p := heldProfile(mode)
			p.Restart = "backoff = { initial = \"300ms\", max = \"300ms\" }"
			c := run(t, options{profile: p})
			ns := c.netnsFile()
			s := c.parked()
			signalProcess(t, s.PID, unix.SIGSTOP) // so that it accepts none of them
			eventually(t, eventTime, "it stands still", func() bool {
				return strings.HasPrefix(procStatus(t, s.PID)["State"], "T")
			}, func() string { return "" })
			served := make(chan error, 20)
			ask := func() {
				body, err := fetch(clients(ns, "tcp", harness.GatewayAddress), "/")
				if err == nil && strings.Contains(body, fmt.Sprintf(`"pid":%d,`, s.NSPID)) {
					err = errors.New("the one that was stopped has answered")
				}
				served <- err
			}
			for range cap(served) / 2 {
				go ask()
			}
			time.Sleep(100 * time.Millisecond) // for them to be in the queue
			killProcess(t, s.PID)
			for range cap(served) / 2 {
				go ask()
			}
			for range cap(served) {
				if err := <-served; err != nil {
					t.Error(err)
				}
			}
			if after := c.parked(); after.PID == s.PID || after.Listeners[0].Inode != s.Listeners[0].Inode {
				t.Errorf("%+v after %+v", after.Listeners, s.Listeners)
			}
		})
	}
}

func TestAnOutageIsWhatTheProfileDeclares(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		for _, outage := range []string{"queue", "reset"} {
			for state, restart := range map[receipt.State]string{receipt.FailedSt: "fatal_exit_codes = [0]", receipt.Stopped: "policy = \"on-failure\""} {
				t.Run(fmt.Sprintf("%s, %s, %s", mode, outage, state), func(t *testing.T) {
					p := heldProfile(mode)
					p.Listen = heldListen(mode, "outage = \""+outage+"\"")
					p.Restart = restart
					c := run(t, options{profile: p})
					ns := c.netnsFile()
					c.get("/exit")
					c.waitFor("it is "+string(state), func(s receipt.Status) bool { return s.State == state })
					conn, err := netns.Dial(t.Context(), ns, "tcp", harness.GatewayAddress)
					if err == nil {
						defer conn.Close()
						wait := 200 * time.Millisecond
						if outage == "reset" {
							wait = eventTime
						}
						conn.SetDeadline(time.Now().Add(wait))
						_, err = conn.Read(make([]byte, 1))
					}
					if want := map[string]error{"queue": os.ErrDeadlineExceeded, "reset": unix.ECONNRESET}[outage]; !errors.Is(err, want) {
						t.Errorf("a client sees %v, want %v", err, want)
					}
					// One that a lost warden leaves in that state, its successor keeps so.
					before := c.status()
					killProcess(t, before.Warden.PID)
					c.waitFor("a successor is there", func(s receipt.Status) bool {
						return s.Warden.PID != 0 && s.Warden.PID != before.Warden.PID && s.State == state && s.Standby.PID != 0
					})
					c.restart()
					if outage == "queue" {
						// Who has waited through all that is served.
						conn.SetDeadline(time.Now().Add(eventTime))
						if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
							t.Fatal(err)
						}
						if b, err := io.ReadAll(conn); err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.0 200 OK")) {
							t.Errorf("%q, %v", b, err)
						}
					}
					for range 5 {
						if _, err := fetch(clients(ns, "tcp", harness.GatewayAddress), "/"); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
	}
}

// listeners gives the inodes of what listens on a TCP port in the container.
func (c *container) listeners(address string) []uint64 {
	c.t.Helper()
	table, err := listener.Open(c.netnsFile())
	if err != nil {
		c.t.Fatal(err)
	}
	defer table.Close()
	a, err := profile.ParseAddress(address)
	if err != nil {
		c.t.Fatal(err)
	}
	found, err := table.Find(a, -1)
	if err != nil {
		c.t.Fatal(err)
	}
	var inodes []uint64
	for _, s := range found {
		inodes = append(inodes, s.Inode)
	}
	return inodes
}

func TestAnEditedProfileChangesWhatIsHeldAtTheNextRestart(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	const second = "tcp://127.0.0.1:18790"
	more := "[[listen]]\nname = \"more\"\naddress = \"" + second + "\"\nmode = \"%s\"\n"
	edit := func(p *harness.Profile) {
		t.Helper()
		if err := host.WriteProfile(c.id, p.TOML()); err != nil {
			t.Fatal(err)
		}
	}
	one := func(mode string) *harness.Profile {
		if mode == "gateway" {
			return &harness.Profile{}
		}
		return heldProfile(mode)
	}
	two := func(mode string) *harness.Profile {
		p := heldProfile(mode)
		p.Listen += fmt.Sprintf(more, mode)
		if mode == "transparent" {
			p.Args = []string{"--listen", "127.0.0.1:18790"}
		}
		return p
	}
	for i, step := range []struct {
		p     *harness.Profile
		mode  string
		count int
	}{
		{one("inherit"), "inherit", 1}, {one("transparent"), "transparent", 1}, {one("inherit"), "inherit", 1}, {one("gateway"), "gateway", 1},
		{one("transparent"), "transparent", 1}, {two("transparent"), "transparent", 2}, {two("inherit"), "inherit", 2},
		{one("inherit"), "inherit", 1}, {one("gateway"), "gateway", 1}, {two("inherit"), "inherit", 2},
	} {
		edit(step.p)
		r := c.restart()
		s := c.parked()
		if len(r.Listeners) != step.count || r.Listeners[0].Mode != step.mode || r.Listeners[0].OwnerPID != s.PID {
			t.Errorf("step %d: listeners %+v", i, r.Listeners)
		}
		if who := c.ask(); who.PID != s.NSPID {
			t.Errorf("step %d: process %d answers, not %d", i, who.PID, s.NSPID)
		}
		if n := len(c.listeners(second)); n != step.count-1 {
			t.Errorf("step %d: %d sockets listen on %s", i, n, second)
		}
		if n := len(c.listeners("tcp://" + harness.GatewayAddress)); n != 1 {
			t.Errorf("step %d: %d sockets listen on %s", i, n, harness.GatewayAddress)
		}
	}
}

func TestARefusedProfileChangesNothingOfWhatIsHeld(t *testing.T) {
	const second = "tcp://127.0.0.1:18790"
	for _, from := range []string{"gateway", "inherit", "transparent"} {
		t.Run(from, func(t *testing.T) {
			p := &harness.Profile{}
			if from != "gateway" {
				p = heldProfile(from)
			}
			p.Args = append(p.Args, "--exit-code", "0")
			p.Restart = "policy = \"on-failure\""
			c := run(t, options{profile: p})
			before := c.parked()
			// The workload has the second address: the first is made, the second can't be.
			holding := c.begin("testworkload", "hold", "--address", "127.0.0.1:18791")
			defer func() {
				c.delete()
				holding()
			}()
			eventually(t, eventTime, "the workload listens", func() bool { return len(c.listeners("tcp://127.0.0.1:18791")) == 1 }, func() string { return "" })
			edited := heldProfile("inherit")
			edited.Restart = p.Restart
			edited.Listen = heldListen("inherit", "outage = \"reset\"", "backlog = 3") + "[[listen]]\nname = \"two\"\naddress = \"" + second + "\"\nmode = \"inherit\"\n" +
				"[[listen]]\nname = \"three\"\naddress = \"tcp://127.0.0.1:18791\"\nmode = \"inherit\"\n"
			if err := host.WriteProfile(c.id, edited.TOML()); err != nil {
				t.Fatal(err)
			}
			refused(t, c.tryRestart(), 3, string(code.ListenerContested))
			if after := c.status(); after.PID != before.PID || after.Listeners[0] != before.Listeners[0] {
				t.Errorf("%+v, and it was %+v", after.Listeners, before.Listeners)
			}
			if n := c.listeners(second); len(n) != 0 {
				t.Errorf("sockets %v are left listening", n)
			}
			c.ask()
			if from == "gateway" {
				return
			}
			// What it says of an outage does not hold either.
			c.get("/exit")
			c.waitFor("it is stopped", func(s receipt.Status) bool { return s.State == receipt.Stopped })
			conn, err := netns.Dial(t.Context(), c.netnsFile(), "tcp", harness.GatewayAddress)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a client sees %v, and was to queue", err)
			}
		})
	}
}

func TestAProgramThatBindsAnotherAddressThanDeclaredIsToldSo(t *testing.T) {
	for listen, want := range map[string]string{
		// Go takes the IPv4 wildcard for that of both.
		"0.0.0.0:18789":   "binds [::]:18789, and tcp://127.0.0.1:18789 (api)",
		"[::1]:18789":     "binds [::1]:18789, and tcp://127.0.0.1:18789 (api)",
		"127.0.0.2:18789": "binds 127.0.0.2:18789, and tcp://127.0.0.1:18789 (api)",
	} {
		t.Run(listen, func(t *testing.T) {
			p := heldProfile("transparent")
			p.Command = []string{"/usr/local/bin/testgateway", "--listen", listen}
			p.Restart = "policy = \"never\""
			_, r := tryRun(t, options{profile: p})
			if r.Status == 0 || !strings.Contains(r.Stderr, want) {
				t.Errorf("want %q in\n%v", want, r)
			}
		})
	}
}

// bindWaits waits until a thread of the container's gateway waits in bind(2).
func (c *container) bindWaits(pid int) {
	c.t.Helper()
	eventually(c.t, eventTime, "a bind waits", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		return slices.ContainsFunc(tasks, func(task string) bool {
			data, err := os.ReadFile(task)
			return err == nil && strings.HasPrefix(string(data), fmt.Sprintf("%d ", unix.SYS_BIND))
		})
	}, func() string { return "" })
}

func TestABindThatWaitsWhenTheWardenIsLostIsAnsweredByTheNext(t *testing.T) {
	withFailpoints(t)
	c := run(t, options{profile: heldProfile("transparent"), command: grabber})
	before := c.parked()
	ns := c.netnsFile()
	end := under(ns, 2)
	reached, _ := c.hold("bind")
	restart := c.begin("gatewarden", "restart", "--json")
	reached()
	var pid int
	eventually(t, eventTime, "the next gateway is there", func() bool {
		g := c.gateways()
		if len(g) == 1 && g[0] != before.PID {
			pid = g[0]
		}
		return pid != 0
	}, func() string { return fmt.Sprint(c.gateways()) })
	c.bindWaits(pid)
	killProcess(t, before.Warden.PID)
	if err := os.Remove(filepath.Join(c.runDir(), failpoint.Held)); err != nil {
		t.Fatal(err)
	}
	r := restart()
	if r.Status != 0 {
		t.Fatalf("%v", r)
	}
	got := decode[receipt.Receipt](t, r.Stdout)
	after := c.supervised(before.Warden.PID)
	if got.Outcome != receipt.Replaced || got.New.PID != pid || after.PID != pid || after.Listeners[0].Inode != before.Listeners[0].Inode {
		t.Errorf("%+v\n%+v, want process %d with the socket %d", got, after.Listeners, pid, before.Listeners[0].Inode)
	}
	n := 0
	for _, r := range c.receipts() {
		if r.Action == receipt.Restart {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d receipts of one restart", n)
	}
	if l := c.grabbed(); len(l.Taken) != 0 {
		t.Errorf("the workload has got the port: %+v", l)
	}
	if l := end(); len(l.refused) != 0 || l.ok == 0 {
		t.Errorf("%d requests were answered, refused were %v", l.ok, l.refused)
	}
	c.restart()
}

func TestUpgradeWardenKeepsWhatIsHeld(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		t.Run(mode+", while the gateway runs", func(t *testing.T) {
			c := run(t, options{profile: heldProfile(mode), command: grabber})
			before := c.parked()
			end := under(c.netnsFile(), 2)
			if r := gatewarden(t, "upgrade-warden", c.name()); r.Status != 0 {
				t.Fatalf("%v", r)
			}
			after := c.supervised(before.Warden.PID)
			if after.PID != before.PID || after.Listeners[0] != before.Listeners[0] {
				t.Errorf("%+v, and it was %+v", after.Listeners, before.Listeners)
			}
			if l := end(); len(l.refused) != 0 || len(l.failed) != 0 || l.ok == 0 {
				t.Errorf("%d requests were answered, refused were %v, failed %v", l.ok, l.refused, l.failed)
			}
			if r := c.restart(); r.Listeners[0].Inode != before.Listeners[0].Inode {
				t.Errorf("%+v, want the socket %d", r.Listeners, before.Listeners[0].Inode)
			}
			if l := c.grabbed(); len(l.Taken) != 0 {
				t.Errorf("the workload has got the port: %+v", l)
			}
		})
		t.Run(mode+", in backoff", func(t *testing.T) {
			p := heldProfile(mode)
			p.Restart = "backoff = { initial = \"3s\", max = \"3s\" }"
			c := run(t, options{profile: p, command: grabber})
			ns := c.netnsFile()
			before := c.parked()
			killProcess(t, before.PID)
			c.waitFor("it is in backoff", func(s receipt.Status) bool { return s.State == receipt.Backoff })
			served := make(chan error, 1)
			go func() {
				_, err := fetch(clients(ns, "tcp", harness.GatewayAddress), "/")
				served <- err
			}()
			if r := gatewarden(t, "upgrade-warden", c.name()); r.Status != 0 {
				t.Fatalf("%v", r)
			}
			if err := <-served; err != nil {
				t.Errorf("a client that waited: %v", err)
			}
			if after := c.supervised(before.Warden.PID); after.Listeners[0].Inode != before.Listeners[0].Inode {
				t.Errorf("%+v, want the socket %d", after.Listeners, before.Listeners[0].Inode)
			}
			if l := c.grabbed(); len(l.Taken) != 0 {
				t.Errorf("the workload has got the port: %+v", l)
			}
		})
	}
}

func TestNothingHeldOutlivesTheContainer(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		t.Run(mode, func(t *testing.T) {
			declared := heldProfile(mode)
			declared.Select = "annotation = false"
			p := plainRuncOf(t, *declared, nil)
			s := p.running()
			ns, err := harness.NetnsAt(fmt.Sprintf("/proc/%d/ns/net", s.Container.InitPID))
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, eventTime, "the standby is parked", func() bool { return p.running().Standby.PID != 0 }, func() string { return "" })
			// Nobody sees the loss, and no successor comes.
			s = p.running()
			killProcess(t, s.Warden.PID)
			killProcess(t, s.PID)
			if holders := harness.HoldersOf(ns); len(holders) == 0 {
				t.Fatal("nobody holds the network namespace already")
			}
			if out, err := p.oci("delete", "--force", p.id).CombinedOutput(); err != nil {
				t.Fatalf("runc delete: %v\n%s", err, out)
			}
			var holders []string
			eventually(t, goneTime, "the network namespace is gone", func() bool {
				holders = harness.HoldersOf(ns)
				return len(holders) == 0
			}, func() string { return fmt.Sprint(holders) })
			if err := host.CheckClean(goneTime); err != nil {
				t.Error(err)
			}
		})
	}
}

// heldFaults kill the warden at each stage of a restart while clients connect and the workload wants the port.
var heldFaults = faults{
	test:  "TestAWardenThatIsKilledKeepsWhatIsHeld",
	title: "The warden is killed, with held listeners",
	about: "SIGKILL at a point inside a restart, with a listener in each held mode. The socket lives on in the gateway or in a parked launcher, and the successor takes it back. Meanwhile clients connect all the time, and the workload, as root, tries all the time to get the port, by every address and with every way of reuse.",
	rows:  heldRows(),
}

func heldRows() []fault {
	var rows []fault
	for _, mode := range []string{"inherit", "transparent"} {
		begun := false
		points := restartPoints
		if mode == "transparent" {
			points = slices.Insert(slices.Clone(points), 7, restartPoint{code.StageLaunch, "bind", "nobody answers the binds yet"})
		}
		for _, p := range points {
			begun = begun || p.point == "launched" || p.point == "bind"
			message := ""
			if begun && p.point != "audited" { // the lost warden's own receipt has nothing to say
				message = "gateway … of …: process …, which the lost warden had started, was proven and adopted"
			}
			rows = append(rows, fault{
				stage: string(p.stage), fault: "mode " + mode + ", warden killed: " + p.when, message: message,
				state: receipt.Running, gateway: aNewOne, note: "the same socket; no client is refused; the workload never gets the port",
				do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
					return killHoldingWarden(t, mode, p.point)
				},
			})
		}
	}
	return rows
}

func killHoldingWarden(t *testing.T, mode, point string) (*container, receipt.Status, harness.Result) {
	withFailpoints(t)
	// Between its start and its bind a transparent gateway has no descriptor of the socket.
	c := run(t, options{profile: heldProfile(mode, "--delay-bind", "100ms"), user: "0", flags: append(dropFlags(), "--read-only"), command: grabber})
	before := c.parked()
	end := under(c.netnsFile(), 2)
	c.arm(point, "kill")
	r := c.restartBy("gatewarden")()
	if _, err := os.Stat(filepath.Join(c.runDir(), failpoint.Name)); err == nil {
		t.Errorf("the point %s was not reached", point)
	}
	after := c.supervised(before.Warden.PID)
	if after.Listeners[0].Inode != before.Listeners[0].Inode {
		t.Errorf("the socket is %d now, and was %d", after.Listeners[0].Inode, before.Listeners[0].Inode)
	}
	if l := end(); len(l.refused) != 0 || l.ok == 0 {
		t.Errorf("%d requests were answered, refused were %v", l.ok, l.refused)
	}
	if l := c.grabbed(); len(l.Taken) != 0 || l.Tries == 0 {
		t.Errorf("the workload has got the port: %+v", l)
	}
	return c, before, r
}

func TestAWardenThatIsKilledKeepsWhatIsHeld(t *testing.T) { heldFaults.run(t) }
