//go:build integration

package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// sharedImage is the base image with a directory where everybody may make and remove files.
const sharedImage = "test.local/shared:latest"

func importShared(t *testing.T) {
	t.Helper()
	importImage(t, harness.Image{Name: sharedImage, Files: []harness.File{{Path: "/shared", Mode: os.ModeDir | 0o777}}})
}

// listensOn is a gateway that listens on one address, given as in a profile.
func listensOn(address string, args ...string) *harness.Profile {
	_, bare, _ := strings.Cut(address, "://")
	if strings.HasPrefix(address, "unix://") {
		bare = address
	}
	return &harness.Profile{
		Command: append([]string{"/usr/local/bin/testgateway", "--listen", bare}, args...),
		Listen:  fmt.Sprintf("[[listen]]\nname = \"api\"\naddress = %q\n", address),
		Ready:   "timeout = \"2s\"",
		Restart: "backoff = { initial = \"50ms\", max = \"200ms\" }",
	}
}

// stranger is a process that holds an address.
type stranger struct{ pid int }

// let ends it.
func (s stranger) let(t *testing.T) {
	t.Helper()
	killProcess(t, s.pid)
}

// takes makes a process of the workload hold an address, until it is ended with the container.
func (c *container) takes(address string, flags ...string) stranger {
	c.t.Helper()
	out := filepath.Join(c.t.TempDir(), "out")
	command := append([]string{"testworkload", "hold", "--address", address}, flags...)
	if r := c.ctr(append([]string{"task", "exec", "-d", "--log-uri", "file://" + out, "--exec-id", uniqueID("e"), c.id}, command...)...); r.Status != 0 {
		c.t.Fatalf("%v", r)
	}
	var said []byte
	eventually(c.t, eventTime, "the workload holds "+address, func() bool {
		said, _ = os.ReadFile(out)
		return strings.Contains(string(said), "holding")
	}, func() string { return string(said) })
	processes, err := host.Processes()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range processes {
		if strings.HasPrefix(p.Command, strings.Join(command, " ")) && slices.Contains(strings.Split(p.Cgroup, "/"), c.id) {
			return stranger{p.PID}
		}
	}
	c.t.Fatalf("no process of the workload holds %s", address)
	return stranger{}
}

// taken makes a process of the host, outside the container but in its network namespace, hold an address.
func (c *container) taken(uid uint32, address string, flags ...string) stranger {
	c.t.Helper()
	program, err := host.TestProgram("testworkload")
	if err != nil {
		c.t.Fatal(err)
	}
	path := mountDir(c.t) + "/stranger"
	writeFile(c.t, path, string(program), 0o755)
	out, err := os.Create(filepath.Join(c.t.TempDir(), "out"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(path, append([]string{"hold", "--address", address}, flags...)...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = []string{}, "/", out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := netns.Do(c.network(), cmd.Start); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	var said []byte
	eventually(c.t, eventTime, "the stranger holds "+address, func() bool {
		said, _ = os.ReadFile(out.Name())
		return strings.Contains(string(said), "holding")
	}, func() string { return string(said) })
	return stranger{cmd.Process.Pid}
}

// network opens the container's network namespace for the time of the test.
func (c *container) network() *os.File {
	c.t.Helper()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.init()))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { ns.Close() })
	return ns
}

// heldByNobody makes a listening socket in the container's network namespace that no process has open: it is on its way
// over a unix socket.
func (c *container) heldByNobody(address string) {
	c.t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		unix.Close(ends[0])
		unix.Close(ends[1])
	})
	var l net.Listener
	if err := netns.Do(c.network(), func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		c.t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		c.t.Fatal(err)
	}
	err = unix.Sendmsg(ends[0], []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0)
	f.Close()
	l.Close()
	if err != nil {
		c.t.Fatal(err)
	}
}

const (
	cannotRestart = "cannot restart gateway … of …/…: "
	untouched     = "; process … was not touched and goes on"
	giveAnother   = ": end that process, or give the gateway another address"
)

// listenerFaults are those in which somebody else is on the gateway's address.
var listenerFaults = faults{
	test:  "TestWhoElseListensIsNamed",
	title: "Somebody else listens",
	about: "A socket on the gateway's port that is not the gateway's, whatever address of the port it is bound to. Found while the gateway serves, it is a refusal: nothing is stopped. Found after, no gateway is started beside it; the policy tries again for as long as it is there, which does not count as the gateway's own ends. When it is gone the gateway comes back by itself.",
	rows:  append(append(listenerRefusals(), listenerGaps()...), listenerOwn()...),
}

func TestWhoElseListensIsNamed(t *testing.T) {
	importShared(t)
	listenerFaults.run(t)
}

// refusedFor is the row of a restart that is refused because of what disturb does while the gateway serves.
func refusedFor(what string, o func(t *testing.T) options, message, note string, disturb func(c *container)) fault {
	return fault{
		stage: string(code.StagePreflight), fault: what, exit: code.ExitRefused, code: code.ListenerContested,
		message: cannotRestart + message + untouched, state: receipt.Running, gateway: theSame, note: note,
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, o(t))
			before := c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
			disturb(c)
			return c, before, c.tryRestart()
		},
	}
}

func plain(args ...string) func(*testing.T) options {
	return func(*testing.T) options { return options{profile: &harness.Profile{Args: args}} }
}

func listenerRefusals() []fault {
	const api = "tcp://127.0.0.1:18789 (api) is held by "
	return []fault{
		refusedFor("the workload listens on another address of the port", plain(),
			api+"process … (… in the container, /usr/local/bin/testworkload, UID 1000) with 127.0.0.2:18789 (inode …, uid 1000)"+giveAnother, "",
			func(c *container) { c.takes("127.0.0.2:18789") }),
		refusedFor("the workload listens on the port in the other family", plain(),
			api+"process … (… in the container, /usr/local/bin/testworkload, UID 1000) with [::1]:18789 (inode …, uid 1000)"+giveAnother, "",
			func(c *container) { c.takes("[::1]:18789") }),
		twin(api),
		refusedFor("a process of the host in the container's network namespace listens", plain(),
			api+"process … outside the container (…/stranger, UID 0) with 127.0.0.2:18789 (inode …, uid 0)"+giveAnother, "",
			func(c *container) { c.taken(0, "127.0.0.2:18789") }),
		neighbour(api),
		refusedFor("a listening socket that no process has open", plain(),
			api+"no process that can be seen, with 127.0.0.2:18789 (inode …, uid 0): it is on its way between processes, or the kernel's; end the processes of that UID in the network namespace, or give the gateway another address",
			"a descriptor that was sent over a unix socket and not received",
			func(c *container) { c.heldByNobody("127.0.0.2:18789") }),
		refusedFor("the workload put its own socket in the place of the gateway's unix socket", sharedSocket,
			"unix:///shared/gw (local) is held by process … (… in the container, /usr/local/bin/testworkload, UID 1000) with \"/shared/gw.new\" (inode …, uid 1000)"+giveAnother,
			"in a directory where the workload may write",
			func(c *container) { c.takes("unix:///shared/gw", "--replace") }),
		refusedFor("the workload put a file in the place of the gateway's unix socket", sharedSocket,
			"unix:///shared/gw (local) does not lead to the gateway's socket but to the file \"/shared/gw\" (uid 1000), which is no listener's of this network namespace: see who may write in that directory, remove the file, and restart the gateway",
			"in a directory where the workload may write",
			func(c *container) { c.mustExec("sh", "-c", "rm -f /shared/gw && echo > /shared/gw") }),
	}
}

// twin is the row of a second socket on the very address. While it is there it gets half of the connections.
func twin(api string) fault {
	var s stranger
	f := refusedFor("a process of the gateway's UID, outside the container, listens beside it by SO_REUSEPORT", plain("--reuseport"),
		api+"process … outside the container (…/stranger, UID 64990) with 127.0.0.1:18789 (inode …, uid 64990)"+giveAnother,
		"the kernel lets no other UID bind a twin",
		func(c *container) { s = c.taken(harness.GatewayUID, harness.GatewayAddress, "--reuseport") })
	restart := f.do
	f.do = func(t *testing.T) (*container, receipt.Status, harness.Result) {
		c, before, said := restart(t)
		s.let(t)
		return c, before, said
	}
	return f
}

// neighbour is the row of two containers that share a network namespace, as those of a pod.
func neighbour(api string) fault {
	var pod *container
	return refusedFor("another container in the same network namespace listens", func(t *testing.T) options {
		pod = run(t, options{})
		return options{profile: &harness.Profile{}, flags: []string{"--with-ns", fmt.Sprintf("network:/proc/%d/ns/net", pod.init())}}
	}, api+"process … outside the container (/usr/local/bin/testworkload, UID 1000) with 127.0.0.2:18789 (inode …, uid 1000)"+giveAnother, "",
		func(c *container) {
			c.netns = harness.Netns{} // it outlives this container
			pod.takes("127.0.0.2:18789")
		})
}

func sharedSocket(*testing.T) options {
	return options{image: sharedImage, profile: &harness.Profile{
		Args: []string{"--listen", "unix:///shared/gw"},
		Listen: "[[listen]]\nname = \"api\"\naddress = \"tcp://127.0.0.1:18789\"\n" +
			"[[listen]]\nname = \"local\"\naddress = \"unix:///shared/gw\"\n",
	}}
}

// listenerGaps are the rows of addresses that the workload takes in the moment without a gateway.
func listenerGaps() []fault {
	var rows []fault
	for _, g := range []struct{ what, declared, taken, shown string }{
		{"the port", "tcp://127.0.0.1:18789", "127.0.0.1:18789", "127.0.0.1:18789"},
		{"the port by the IPv4 wildcard", "tcp://127.0.0.1:18789", "0.0.0.0:18789", "0.0.0.0:18789"},
		{"the port by the dual-stack wildcard", "tcp://127.0.0.1:18789", "[::]:18789", "[::]:18789"},
		{"one address of a declared wildcard", "tcp://0.0.0.0:18789", "127.0.0.1:18789", "127.0.0.1:18789"},
		{"the IPv6 port", "tcp6://[::1]:18789", "[::1]:18789", "[::1]:18789"},
		{"the path of the unix socket", "unix:///shared/gw", "unix:///shared/gw", `"/shared/gw"`},
		{"the abstract name", "unix://@gw", "unix://@gw", `"@gw"`},
	} {
		rows = append(rows, fault{
			stage: string(code.StageAbsence), fault: "between stop and start the workload takes " + g.what, exit: code.ExitFailed, code: code.ListenerContested,
			message: cannotRestart + g.declared + " (api) is held by process … (… in the container, /usr/local/bin/testworkload, UID 1000) with " + g.shown + " (inode …, uid 1000)" + giveAnother + "; no gateway runs now",
			state:   receipt.Backoff, gateway: none, note: "it comes back by itself once the workload lets go",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				c, before, said, _ := takenInBetween(t, listensOn(g.declared), g.taken)
				return c, before, said
			},
		})
	}
	return rows
}

// takenInBetween restarts a gateway, and lets the workload take an address after the old one is gone.
func takenInBetween(t *testing.T, p *harness.Profile, address string) (*container, receipt.Status, harness.Result, stranger) {
	t.Helper()
	withFailpoints(t)
	c := run(t, options{image: sharedImage, profile: p})
	before := c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
	reached, release := c.hold("stopped")
	said := make(chan harness.Result, 1)
	go func() { said <- c.tryRestart() }()
	reached()
	if path, ok := strings.CutPrefix(address, "unix:///"); ok {
		// A gateway that ends in good order removes it; one that was killed does not.
		c.mustExec("rm", "-f", "/"+path)
	}
	s := c.takes(address)
	release()
	return c, before, <-said, s
}

// listenerOwn are the rows in which the gateway itself is the one too many.
func listenerOwn() []fault {
	return []fault{{
		stage: string(code.StageListen), fault: "the next gateway binds its address twice by SO_REUSEPORT", exit: code.ExitFailed, code: code.ListenerContested,
		message: cannotRestart + "the gateway itself has a socket too many on tcp://127.0.0.1:18789 (api), 127.0.0.1:18789 (inode …, uid 64990), so that nobody can tell which of them answers: let it bind the address once; it wrote nothing; no gateway runs now",
		state:   receipt.FailedSt, gateway: none, note: "with the policy \"never\"; with others it counts as an end of the gateway's",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			c := run(t, options{profile: withOptions(t, harness.Profile{Restart: "policy = \"never\""}, "--reuseport")})
			before := c.status()
			c.options("--reuseport", "--listen", harness.GatewayAddress)
			return c, before, c.tryRestart()
		},
	}}
}

// Transient is not terminal: however long the workload keeps the port, its letting go is enough.
func TestAGatewayComesBackByItselfWhenTheWorkloadLetsItsAddressGo(t *testing.T) {
	importShared(t)
	for _, address := range []string{"tcp://127.0.0.1:18789", "unix:///shared/gw", "unix://@gw"} {
		t.Run(address, func(t *testing.T) {
			p := listensOn(address)
			p.Restart += "\nburst = 2"
			taken := strings.TrimPrefix(address, "tcp://")
			c, before, said, s := takenInBetween(t, p, taken)
			refused(t, said, code.ExitFailed, string(code.ListenerContested))
			// Long enough for more tries than a gateway of its own fault would get.
			c.waitFor("the policy has tried four times", func(receipt.Status) bool {
				tries := 0
				for _, r := range c.receipts() {
					if r.Action == receipt.Respawn && r.Code == code.ListenerContested {
						tries++
					}
				}
				return tries >= 4
			})
			if s := c.waitFor("the next start is planned", func(s receipt.Status) bool { return s.State == receipt.Backoff }); s.Code != code.ListenerContested ||
				!strings.Contains(s.Message, "testworkload") || !strings.Contains(s.Message, "next start in") {
				t.Errorf("the status does not say why there is no gateway: %+v", s)
			}
			s.let(t)
			if path, ok := strings.CutPrefix(address, "unix:///"); ok {
				c.mustExec("test", "-S", "/"+path) // what is left of a holder that was killed does not contest anything
			}
			after := c.waitFor("the gateway runs again", func(s receipt.Status) bool { return s.State == receipt.Running })
			if after.PID == before.PID || after.Listeners[0].OwnerPID != after.PID {
				t.Errorf("the status is %+v", after)
			}
			// And an operator need not wait for the policy.
			c.restart()
		})
	}
}

// A gateway finds its address taken in the moment between the warden's last look and its own bind. It is not its fault.
func TestAGatewayThatLosesTheRaceForItsAddressComesBackToo(t *testing.T) {
	withFailpoints(t)
	p := listensOn("tcp://127.0.0.1:18789")
	p.Restart += "\nburst = 1"
	c := run(t, options{profile: p})
	c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
	reached, release := c.hold("release")
	said := make(chan harness.Result, 1)
	go func() { said <- c.tryRestart() }()
	reached()
	s := c.takes("127.0.0.1:18789")
	release()
	if r := <-said; r.Status != code.ExitFailed {
		t.Errorf("%v", r)
	}
	c.waitFor("the next start is planned", func(s receipt.Status) bool {
		return s.State == receipt.Backoff && s.Code == code.ListenerContested && strings.Contains(s.Message, "testworkload")
	})
	time.Sleep(time.Second)
	s.let(t)
	c.waitFor("the gateway runs again", func(s receipt.Status) bool { return s.State == receipt.Running })
}

func TestAGatewayIsProvenOnEveryKindOfAddress(t *testing.T) {
	importShared(t)
	for _, test := range []struct {
		name string
		p    *harness.Profile
	}{
		{"IPv4", listensOn("tcp://127.0.0.1:18789")},
		{"IPv6", listensOn("tcp6://[::1]:18789")},
		{"IPv4 wildcard", listensOn("tcp://0.0.0.0:18789")},
		{"IPv6 wildcard, dual-stack", listensOn("tcp6://[::]:18789")},
		{"a specific address, bound by the dual-stack wildcard", &harness.Profile{
			Command: []string{"/usr/local/bin/testgateway", "--listen", "[::]:18789"},
		}},
		{"both loopbacks", &harness.Profile{
			Args:   []string{"--listen", "[::1]:18789"},
			Listen: "[[listen]]\nname = \"v4\"\naddress = \"tcp://127.0.0.1:18789\"\n[[listen]]\nname = \"v6\"\naddress = \"tcp6://[::1]:18789\"\n",
		}},
		{"a unix socket", listensOn("unix:///shared/gw")},
		{"an abstract unix socket", listensOn("unix://@gw")},
		{"an abstract unix socket, probed by name", &harness.Profile{
			Args: []string{"--listen", "unix://@gw"}, Ready: "unix = \"unix://@gw\"\ntimeout = \"2s\"",
		}},
		{"alone under SO_REUSEPORT", &harness.Profile{Args: []string{"--reuseport"}}},
		{"by a worker that inherited it", &harness.Profile{Args: []string{"--worker"}}},
		{"by a worker that inherited the unix socket", listensOn("unix:///shared/gw", "--worker")},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := run(t, options{image: sharedImage, profile: test.p})
			before := c.status()
			r := c.restart()
			if r.New == nil || r.New.PID == before.PID || len(r.Listeners) == 0 {
				t.Fatalf("the receipt is %+v", r)
			}
			owners, listeners := []int{r.New.PID}, r.Listeners
			if slices.Contains(append(slices.Clone(test.p.Args), test.p.Command...), "--worker") {
				// The gateway binds, and holds the socket until its worker has it: at the time of the receipt either may be the owner.
				eventually(t, eventTime, "the worker alone holds the listener", func() bool {
					m, err := control.Call(t.Context(), c.runDir(), control.Request{Verb: control.Probe}, nil)
					if err != nil {
						t.Fatal(err)
					}
					owners, listeners = childrenOf(t, r.New.PID), m.Report.Listeners
					return len(listeners) == 1 && slices.Equal(owners, []int{listeners[0].OwnerPID})
				}, func() string { return fmt.Sprintf("children %v, listeners %+v", owners, listeners) })
			}
			for _, l := range listeners {
				if l.Inode == 0 || !slices.Equal(owners, []int{l.OwnerPID}) {
					t.Errorf("listener %+v, want it to be of process %v", l, owners)
				}
				links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", l.OwnerPID))
				if err != nil {
					t.Fatal(err)
				}
				if !slices.ContainsFunc(links, func(link string) bool {
					to, _ := os.Readlink(link)
					return to == fmt.Sprintf("socket:[%d]", l.Inode)
				}) {
					t.Errorf("process %d does not hold inode %d", l.OwnerPID, l.Inode)
				}
			}
			if s := c.status(); s.Healthy == nil || !*s.Healthy {
				t.Errorf("the status is %+v", s)
			}
		})
	}
}

// A gateway that has gone and left its listener to a child is not owned by the child: the child ends with it.
func TestAListenerThatAForgottenChildInheritedIsNotTheGateways(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--fork-child"}}})
	before := c.status()
	children := childrenOf(t, before.PID)
	if len(children) != 1 {
		t.Fatalf("the gateway has the children %v, want one", children)
	}
	killProcess(t, before.PID)
	after := c.waitFor("the next gateway runs", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	if got := after.Listeners[0].OwnerPID; got != after.PID {
		t.Errorf("the listener is of process %d, the gateway is %d", got, after.PID)
	}
	if after.Restarts.Unasked != 1 || after.Last.Action != receipt.Respawn {
		t.Errorf("the status is %+v", after)
	}
	// The container's init has become its parent, and need not reap it.
	if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", children[0])); err == nil && !strings.Contains(string(data), "\nState:\tZ") {
		t.Errorf("the old gateway's child, PID %d, still runs", children[0])
	}
}

func TestTheKernelLetsNoOtherUIDBindATwinOfTheGateways(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--reuseport"}}})
	r := c.exec("testworkload", "hold", "--address", harness.GatewayAddress, "--reuseport", "--for", "1ms")
	if r.Status == 0 || !strings.Contains(r.Stderr, unix.EADDRINUSE.Error()) {
		t.Errorf("%v", r)
	}
	c.restart()
}

// The worker has the listeners and answers the probe; but the process that was started, and would be supervised, is gone.
func TestAGatewayThatEndsWhileItIsProvenIsNotProvenByItsWorker(t *testing.T) {
	withFailpoints(t)
	c := run(t, options{profile: &harness.Profile{Args: []string{"--worker"}}})
	before := c.waitFor("the standby is parked", func(s receipt.Status) bool { return s.Standby.PID != 0 })
	reached, release := c.hold("probe")
	said := make(chan harness.Result, 1)
	go func() { said <- c.tryRestart() }()
	reached()
	lost := c.status().PID
	workers := childrenOf(t, lost)
	if lost == before.PID || len(workers) != 1 {
		t.Fatalf("the gateway is process %d with the children %v", lost, workers)
	}
	killProcess(t, lost)
	if who := c.ask(); who.UID != harness.GatewayUID {
		t.Fatalf("the worker does not answer: %+v", who)
	}
	release()
	r := <-said
	refused(t, r, code.ExitFailed, string(code.LaunchFailed))
	after := c.waitFor("the next gateway runs", func(s receipt.Status) bool { return s.State == receipt.Running })
	if after.PID == lost || after.Listeners[0].OwnerPID == workers[0] {
		t.Errorf("the status is %+v", after)
	}
}

// A container that is paused while the next start is planned is tried again for as long as it is.
func TestAPausedContainerIsNoCrashLoop(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Restart: "backoff = { initial = \"800ms\", max = \"800ms\" }\nburst = 1"}})
	killProcess(t, c.status().PID)
	c.waitFor("the next start is planned", func(s receipt.Status) bool { return s.State == receipt.Backoff })
	if r := c.ctr("task", "pause", c.id); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	time.Sleep(2500 * time.Millisecond) // for more tries than burst has room for
	if s := c.status(); s.State != receipt.Backoff || s.Code != code.Paused {
		t.Errorf("while it is paused: %s, %s: %s", s.State, s.Code, s.Message)
	}
	if r := c.ctr("task", "resume", c.id); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	c.waitFor("the gateway runs again", func(s receipt.Status) bool { return s.State == receipt.Running })
}
