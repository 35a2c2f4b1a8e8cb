//go:build integration

package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// importPrograms imports harness.ProgramsImage once.
var importPrograms = sync.OnceValue(func() error {
	image, err := host.Programs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return host.Import(ctx, image)
})

// program is a server that knows nothing about gatewarden.
type program struct {
	name    string
	command []string          // it listens on harness.GatewayAddress by itself
	config  map[string]string // files of /etc/gateway
	serves  int               // processes that answer, where that is not the gateway itself
	silent  bool              // its answers do not tell the PID

	// How it takes a listener that it is given, for those that can.
	inherits []string // the command
	env      string
	declared string // of its listener in mode inherit
}

const nginxConf = `worker_processes 2;
pid /var/lib/gateway/nginx.pid;
error_log stderr notice;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path /var/lib/gateway/body;
	proxy_temp_path /var/lib/gateway/proxy;
	fastcgi_temp_path /var/lib/gateway/fastcgi;
	uwsgi_temp_path /var/lib/gateway/uwsgi;
	scgi_temp_path /var/lib/gateway/scgi;
	server {
		listen 127.0.0.1:18789%s;
		location / { return 200 '{"pid":$pid}'; }
	}
}
`

const haproxyConf = `global
	maxconn 200
defaults
	mode http
	timeout client 5s
	timeout server 5s
	timeout connect 5s
frontend api
	bind %s
	http-request return status 200 content-type application/json lf-string '{"pid":%%pid}'
`

const nodeServer = `require('http').createServer((request, response) => {
	response.end(JSON.stringify({pid: process.pid}));
}).listen(%s);
`

// programs are as their packages install them.
var programs = []program{
	{
		name:    "nginx",
		command: []string{harness.Nginx, "-e", "stderr", "-c", "/etc/gateway/nginx.conf", "-g", "daemon off;"},
		config:  map[string]string{"nginx.conf": fmt.Sprintf(nginxConf, "")},
		serves:  2,
		// Its own way to hand sockets to a successor: their descriptors in its environment.
		inherits: []string{harness.Nginx, "-e", "stderr", "-c", "/etc/gateway/nginx.conf", "-g", "daemon off;"},
		env:      "env = { NGINX = \"3;\" }",
		declared: "non_blocking = true",
	},
	{
		name:    "nginx, a socket for each worker",
		command: []string{harness.Nginx, "-e", "stderr", "-c", "/etc/gateway/nginx.conf", "-g", "daemon off;"},
		config:  map[string]string{"nginx.conf": fmt.Sprintf(nginxConf, " reuseport")},
		serves:  2,
	},
	{
		name:    "haproxy, two sockets",
		command: []string{harness.HAProxy, "-db", "-f", "/etc/gateway/haproxy.cfg"},
		config:  map[string]string{"haproxy.cfg": fmt.Sprintf(haproxyConf, harness.GatewayAddress+" shards 2")},
	},
	{
		name:    "haproxy",
		command: []string{harness.HAProxy, "-db", "-f", "/etc/gateway/haproxy.cfg"},
		config: map[string]string{
			"haproxy.cfg": fmt.Sprintf(haproxyConf, harness.GatewayAddress), "inherit.cfg": fmt.Sprintf(haproxyConf, "fd@3"),
		},
		inherits: []string{harness.HAProxy, "-db", "-f", "/etc/gateway/inherit.cfg"},
	},
	{
		name:    "node",
		command: []string{harness.Node, "/etc/gateway/server.js"},
		config: map[string]string{
			"server.js": fmt.Sprintf(nodeServer, "18789, '127.0.0.1'"), "inherit.js": fmt.Sprintf(nodeServer, "{fd: 3}"),
		},
		inherits: []string{harness.Node, "/etc/gateway/inherit.js"},
	},
	{
		name:    "python's http.server",
		command: []string{harness.Python, "-m", "http.server", "18789", "--bind", "127.0.0.1", "--directory", "/etc/gateway/www"},
		config:  map[string]string{"www/index.html": "{\"pid\":0}\n"},
		silent:  true,
	},
	{
		name:    "Go's net/http",
		command: []string{"/usr/local/bin/testserver", harness.GatewayAddress},
	},
	{
		name:     "the test gateway",
		command:  []string{"/usr/local/bin/testgateway", "--listen", harness.GatewayAddress},
		inherits: []string{"/usr/local/bin/testgateway", "--inherit"},
	},
	{
		name: "a shell that starts a server",
		// Without the second command the shell would become the server.
		command: []string{"/bin/sh", "-c", "/usr/local/bin/testserver " + harness.GatewayAddress + "; exit 1"},
		serves:  1,
	},
}

// programNamed finds a row of programs.
func programNamed(t *testing.T, name string) program {
	t.Helper()
	at := slices.IndexFunc(programs, func(p program) bool { return p.name == name })
	if at < 0 {
		t.Fatalf("there is no program %q", name)
	}
	return programs[at]
}

// profile is a gateway that is the program, with its listener in that mode.
func (p program) profile(t *testing.T, mode string) *harness.Profile {
	t.Helper()
	if err := importPrograms(); err != nil {
		t.Fatal(err)
	}
	dir := mountDir(t)
	for name, content := range p.config {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), content, 0o644)
	}
	made := &harness.Profile{
		Command: p.command,
		Listen:  heldListen(mode),
		Ready:   "http = \"http://" + harness.GatewayAddress + "/\"\ntimeout = \"15s\"",
		More:    mountTable(dir, "/etc/gateway") + "[[state]]\ntarget = \"/var/lib/gateway\"\n",
	}
	if mode == profile.ModeInherit {
		made.Command, made.Gateway, made.Listen = p.inherits, p.env, heldListen(mode, p.declared)
	}
	return made
}

// spawnAs starts a command in the container as that user, and gives the file with what it says.
func (c *container) spawnAs(uid int, args ...string) (log string) {
	c.t.Helper()
	log = filepath.Join(c.t.TempDir(), uniqueID("spawned"))
	c.mustCtr(append([]string{"task", "exec", "-d", "--user", strconv.Itoa(uid), "--exec-id", uniqueID("s"), "--log-uri", "file://" + log, c.id}, args...)...)
	return log
}

// lastLine decodes the last whole line of a file.
func lastLine[T any](t *testing.T, path string) (last T, ok bool) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(data), "\n")
	for _, line := range slices.Backward(lines) {
		if strings.HasSuffix(line, "\n") {
			return decode[T](t, line), true
		}
	}
	return last, false
}

// loot is what `testworkload grab` reported last.
type loot struct {
	Tries  int            `json:"tries"`
	Errnos map[string]int `json:"errnos"`
	Taken  []string       `json:"taken"`
}

// checkGrab checks that a hostile binder has tried since, and only ever heard that the address is in use.
func checkGrab(t *testing.T, who, log string, since int) int {
	t.Helper()
	var got loot
	eventually(t, eventTime, who+" has tried", func() bool {
		var ok bool
		got, ok = lastLine[loot](t, log)
		return ok && got.Tries > since
	}, func() string { return fmt.Sprintf("%+v", got) })
	if len(got.Taken) > 0 {
		t.Errorf("%s took the gateway's port: %q", who, got.Taken)
	}
	if got.Errnos["EADDRINUSE"] != got.Tries-len(got.Taken) {
		t.Errorf("%s was refused in other ways than EADDRINUSE: %+v", who, got)
	}
	return got.Tries
}

func TestAnUnmodifiedProgramServesAHeldListenerThroughRestarts(t *testing.T) {
	for _, p := range programs {
		for _, mode := range []string{profile.ModeTransparent, profile.ModeInherit} {
			if mode == profile.ModeInherit && p.inherits == nil {
				continue
			}
			t.Run(p.name+", "+mode, func(t *testing.T) { p.restarts(t, mode) })
		}
	}
}

func (p program) restarts(t *testing.T, mode string) {
	// The first thing that the workload does is to try to take the port.
	c := run(t, options{
		image: harness.ProgramsImage, profile: p.profile(t, mode), command: []string{"testworkload", "grab", "--address", harness.GatewayAddress},
	})
	users := c.spawnAs(harness.WorkloadUID, "testworkload", "talk", "--address", harness.GatewayAddress)
	roots := c.spawnAs(0, "testworkload", "grab", "--address", harness.GatewayAddress)
	before := c.parked()
	held := before.Listeners[0]
	if held.Mode != mode || held.Inode == 0 {
		t.Fatalf("the listener is %+v, want one in mode %s", held, mode)
	}
	asked, tried, rootTried := 0, 0, 0
	stillHeld := func(listeners []receipt.Listener) {
		t.Helper()
		if len(listeners) != 1 || listeners[0].Inode != held.Inode {
			t.Errorf("the listeners are %+v, want inode %d", listeners, held.Inode)
		}
		// Of two reports the second has been written since; what is answered after that is the successor's.
		for _, more := range []int{0, 0, 5} {
			eventually(t, eventTime, "the client is answered", func() bool {
				got, ok := lastLine[tally](t, users)
				if ok && got.OK > asked+more {
					asked = got.OK
					return true
				}
				return false
			}, func() string { return fmt.Sprintf("answered: %d", asked) })
		}
		tried = checkGrab(t, "the workload", c.log, tried)
		rootTried = checkGrab(t, "the container's root", roots, rootTried)
	}
	stillHeld(before.Listeners)
	for range 5 {
		r := c.restart()
		if r.Outcome != receipt.Replaced || r.Old == nil || r.New == nil || r.Old.PID == r.New.PID {
			t.Errorf("the restart's receipt is %+v", r)
		}
		if !r.Workload.Unchanged {
			t.Errorf("the workload changed: %+v", r.Workload)
		}
		stillHeld(r.Listeners)
	}
	signalProcess(t, c.status().PID, unix.SIGKILL)
	s := c.waitFor("the gateway runs again", func(s receipt.Status) bool { return s.State == receipt.Running && s.Restarts.Unasked == 1 })
	stillHeld(s.Listeners)
	if s.Restarts.Asked != 5 {
		t.Errorf("restarts are %+v, want 5 asked for", s.Restarts)
	}
	got, _ := lastLine[tally](t, users)
	// One client, one request at a time: a restart can end one that was accepted.
	if got.First != "ok" || got.Refused != 0 || got.Failed > 6 {
		t.Errorf("of %d requests %d were refused and %d failed, the first: %s", got.OK+got.Refused+got.Failed, got.Refused, got.Failed, got.First)
	}
	if !p.silent {
		p.checkWhoServes(t, got.PIDs, s.NSPID)
	}
}

// checkWhoServes checks which processes answered: the gateway, or others that it started.
func (p program) checkWhoServes(t *testing.T, pids []int, gateway int) {
	t.Helper()
	switch last := pids[len(pids)-1]; {
	case p.serves == 0 && last != gateway:
		t.Errorf("PID %d answered last, want the gateway, %d", last, gateway)
	case p.serves > 0 && slices.Contains(pids, gateway):
		t.Errorf("the gateway, PID %d, answered itself: %v", gateway, pids)
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(pids)))
	if want := 7 * max(p.serves, 1); len(distinct) > want || len(distinct) < 7 {
		t.Errorf("%d processes answered, want 7 to %d: %v", len(distinct), want, distinct)
	}
}

// TestAGatewayThatSharesItsPortDoesNotShareItWithTheWorkload has a gateway that sets SO_REUSEPORT on the socket that it was
// given, as nginx does with one that it inherits and `reuseport`. The kernel then lets sockets of the same UID in.
func TestAGatewayThatSharesItsPortDoesNotShareItWithTheWorkload(t *testing.T) {
	p := program{command: []string{"/usr/local/bin/testbind", "--share", harness.GatewayAddress}}
	c := run(t, options{
		image: harness.ProgramsImage, profile: p.profile(t, profile.ModeTransparent),
		command: []string{"testworkload", "grab", "--address", harness.GatewayAddress},
	})
	c.parked()
	roots := c.spawnAs(0, "testworkload", "grab", "--address", harness.GatewayAddress)
	tried := checkGrab(t, "the container's root", roots, 0)
	c.restart()
	checkGrab(t, "the container's root", roots, tried)
	checkGrab(t, "the workload", c.log, 0)
}

// TestAHostileBinderTakesWhatNobodyHolds shows that the binder of the other tests is one.
func TestAHostileBinderTakesWhatNobodyHolds(t *testing.T) {
	c := run(t, options{command: []string{"testworkload", "grab", "--address", harness.GatewayAddress}})
	var got loot
	eventually(t, eventTime, "the workload takes the port", func() bool {
		got, _ = lastLine[loot](t, c.log)
		return got.Tries > 0
	}, func() string { return fmt.Sprintf("%+v", got) })
	if len(got.Taken) != 16 || len(got.Errnos) != 0 {
		t.Errorf("the binder reports %+v, want that nothing failed", got)
	}
}

// TestAnUnmodifiedProgramThatDrainsOverlapsWithoutAFailedRequest has programs whose own signal for an end in good order is
// the profile's.
func TestAnUnmodifiedProgramThatDrainsOverlapsWithoutAFailedRequest(t *testing.T) {
	for _, test := range []struct {
		program string
		signal  string
	}{
		{"nginx", "SIGQUIT"},
		{"haproxy", "SIGUSR1"},
	} {
		p := programNamed(t, test.program)
		for _, mode := range []string{profile.ModeTransparent, profile.ModeInherit} {
			t.Run(p.name+", "+mode, func(t *testing.T) {
				made := p.profile(t, mode)
				made.Restart, made.Stop = "overlap = true", fmt.Sprintf("signal = %q", test.signal)
				c := run(t, options{
					image: harness.ProgramsImage, profile: made, command: []string{"testworkload", "talk", "--address", harness.GatewayAddress},
				})
				held := c.parked().Listeners[0].Inode
				for range 5 {
					if r := c.restart(); r.Outcome != receipt.Replaced || r.Old.Forced || r.Listeners[0].Inode != held {
						t.Errorf("the restart's receipt is %+v", r)
					}
				}
				got, _ := c.talk()
				if got.OK == 0 || got.Refused != 0 || got.Failed != 0 {
					t.Errorf("the client reports %+v", got)
				}
			})
		}
	}
}

func TestReloadingNginxKeepsTheHeldSocket(t *testing.T) {
	nginx := programNamed(t, "nginx")
	c := run(t, options{
		image: harness.ProgramsImage, profile: nginx.profile(t, profile.ModeTransparent),
		command: []string{"testworkload", "talk", "--address", harness.GatewayAddress},
	})
	before := c.parked()
	old := children(t, before.PID)
	if len(old) != 2 {
		t.Fatalf("nginx has the children %v, want 2 workers", old)
	}
	for range 3 {
		// What `nginx -s reload` sends.
		signalProcess(t, before.PID, unix.SIGHUP)
		var now []int
		eventually(t, eventTime, "nginx has new workers", func() bool {
			now = children(t, before.PID)
			return len(now) == 2 && !slices.Contains(now, old[0]) && !slices.Contains(now, old[1])
		}, func() string { return fmt.Sprintf("workers: %v, before: %v", now, old) })
		old = now
		s := c.status()
		if s.PID != before.PID || s.State != receipt.Running || s.Listeners[0].Inode != before.Listeners[0].Inode {
			t.Errorf("after the reload the status is %+v, before it was %+v", s, before)
		}
	}
	if r := c.restart(); r.Listeners[0].Inode != before.Listeners[0].Inode {
		t.Errorf("after the restart the listener is %+v, before %+v", r.Listeners[0], before.Listeners[0])
	}
	if got, _ := c.talk(); got.Refused != 0 || got.OK == 0 {
		t.Errorf("the client reports %+v", got)
	}
}

// descriptor is an open file of a process.
type descriptor struct {
	number int
	flags  int // of open(2), with O_CLOEXEC
}

// socketsOf lists by which descriptors a process has the socket with that inode.
func socketsOf(t *testing.T, pid int, inode uint64) []descriptor {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []descriptor
	for _, e := range entries {
		// One that was closed since is none.
		if target, _ := os.Readlink(filepath.Join(dir, e.Name())); target != fmt.Sprintf("socket:[%d]", inode) {
			continue
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		d := descriptor{}
		if d.number, err = strconv.Atoi(e.Name()); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(info)) {
			if octal, ok := strings.CutPrefix(line, "flags:"); ok {
				flags, err := strconv.ParseInt(strings.TrimSpace(octal), 8, 64)
				if err != nil {
					t.Fatal(err)
				}
				d.flags = int(flags)
			}
		}
		found = append(found, d)
	}
	return found
}

func TestTheHeldSocketIsAsTheProgramMadeItsOwn(t *testing.T) {
	for _, test := range []struct {
		name     string
		args     []string
		nonblock bool
		cloexec  bool
		at       int // descriptor; 0: any
	}{
		{name: "it blocks and stays open", args: nil},
		{name: "O_NONBLOCK", args: []string{"--nonblock"}, nonblock: true},
		{name: "close-on-exec", args: []string{"--cloexec"}, cloexec: true},
		{name: "both", args: []string{"--nonblock", "--cloexec"}, nonblock: true, cloexec: true},
		{name: "both, set after bind", args: []string{"--late", "--nonblock", "--cloexec"}, nonblock: true, cloexec: true},
		{name: "a descriptor of its choice", args: []string{"--at", "700", "--cloexec"}, cloexec: true, at: 700},
		{name: "SO_REUSEPORT", args: []string{"--reuseport"}},
		{name: "bound, closed and bound again", args: []string{"--once-unlistened", "--nonblock"}, nonblock: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := program{command: append(append([]string{"/usr/local/bin/testbind"}, test.args...), harness.GatewayAddress)}
			c := run(t, options{image: harness.ProgramsImage, profile: p.profile(t, profile.ModeTransparent)})
			s := c.parked()
			for range 2 {
				got := socketsOf(t, s.PID, s.Listeners[0].Inode)
				if len(got) != 1 {
					t.Fatalf("the gateway has the held socket by the descriptors %+v, want one", got)
				}
				if nonblock := got[0].flags&unix.O_NONBLOCK != 0; nonblock != test.nonblock {
					t.Errorf("O_NONBLOCK is %v, and the program made it %v", nonblock, test.nonblock)
				}
				if cloexec := got[0].flags&unix.O_CLOEXEC != 0; cloexec != test.cloexec {
					t.Errorf("FD_CLOEXEC is %v, and the program made it %v", cloexec, test.cloexec)
				}
				if test.at != 0 && got[0].number != test.at {
					t.Errorf("it is descriptor %d, and the program made it %d", got[0].number, test.at)
				}
				c.ask()
				s = c.restartedStatus()
			}
		})
	}
}

// TestEveryBindOfADeclaredAddressGetsTheHeldSocket is what programs need that bind once for each worker. They do so with
// SO_REUSEPORT, which the kernel no longer tells from others once the socket is one.
func TestEveryBindOfADeclaredAddressGetsTheHeldSocket(t *testing.T) {
	p := program{command: []string{"/usr/local/bin/testbind", "--twice", "--reuseport", harness.GatewayAddress}}
	c := run(t, options{image: harness.ProgramsImage, profile: p.profile(t, profile.ModeTransparent)})
	s := c.parked()
	c.ask()
	if got := socketsOf(t, s.PID, s.Listeners[0].Inode); len(got) != 2 {
		t.Errorf("the gateway has the held socket by the descriptors %+v, want two", got)
	}
}

// TestAnotherPortOfATransparentProgramIsLeftAlone has a program that listens on an address which is not declared, too.
func TestAnotherPortOfATransparentProgramIsLeftAlone(t *testing.T) {
	const other = "127.0.0.1:18790"
	p := program{command: []string{"/usr/local/bin/testserver", harness.GatewayAddress, other}}
	c := run(t, options{image: harness.ProgramsImage, profile: p.profile(t, profile.ModeTransparent)})
	held := c.parked().Listeners
	if len(held) != 1 {
		t.Fatalf("the listeners are %+v, want the declared one alone", held)
	}
	var last who
	for range 3 {
		var here, there who
		eventually(t, eventTime, other+" answers", func() bool {
			r := c.exec("testworkload", "get", "http://"+other+"/")
			if r.Status == 0 {
				there = decode[who](t, r.Stdout)
			}
			return r.Status == 0
		}, func() string { return "" })
		if here = c.ask(); here.PID != there.PID || here.PID == last.PID {
			t.Errorf("%s is answered by PID %d and %s by %d, before the restart by %d", harness.GatewayAddress, here.PID, other, there.PID, last.PID)
		}
		last = here
		if r := c.restart(); !slices.ContainsFunc(r.Listeners, func(l receipt.Listener) bool { return l.Inode == held[0].Inode }) || len(r.Listeners) != 1 {
			t.Errorf("the listeners after the restart are %+v, before %+v", r.Listeners, held)
		}
	}
}

func TestAHeldAddressIsOfAnyKindThatAProgramCanBind(t *testing.T) {
	for _, test := range []struct {
		name, address string
		command       []string
		url           string // how it is reached; empty: it is no TCP
	}{
		{"IPv6", "tcp6://[::1]:18789", []string{"/usr/local/bin/testserver", "[::1]:18789"}, "http://[::1]:18789/"},
		{"every IPv4 address", "tcp://0.0.0.0:18789", []string{"/usr/local/bin/testbind", "0.0.0.0:18789"}, "http://127.0.0.1:18789/"},
		{"every address, Go", "tcp6://[::]:18789", []string{"/usr/local/bin/testserver", ":18789"}, "http://127.0.0.1:18789/"},
		{"every address, node", "tcp6://[::]:18789", []string{harness.Node, "/etc/gateway/server.js"}, "http://127.0.0.1:18789/"},
		{"a port that takes a capability", "tcp://127.0.0.1:80", []string{"/usr/local/bin/testserver", "127.0.0.1:80"}, "http://127.0.0.1/"},
		{"an abstract name", "unix://@gateway", []string{"/usr/local/bin/testgateway", "--listen", "unix://@gateway"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := program{command: test.command, config: map[string]string{"server.js": fmt.Sprintf(nodeServer, "18789")}}
			made := p.profile(t, profile.ModeTransparent)
			made.Listen = fmt.Sprintf("[[listen]]\nname = \"api\"\naddress = %q\nmode = \"transparent\"\n", test.address)
			made.Ready = "timeout = \"15s\""
			c := run(t, options{image: harness.ProgramsImage, profile: made})
			before := c.parked().Listeners
			for range 2 {
				if r := c.restart(); len(r.Listeners) != 1 || r.Listeners[0].Inode != before[0].Inode {
					t.Errorf("the listeners after the restart are %+v, before %+v", r.Listeners, before)
				}
				if test.url != "" {
					c.mustExec("testworkload", "get", test.url)
				}
			}
		})
	}
}

func TestABindOfAnotherAddressThanDeclaredIsExplained(t *testing.T) {
	// Go's 0.0.0.0 is every address, IPv6 too.
	p := program{command: []string{"/usr/local/bin/testserver", "0.0.0.0:18789"}}
	made := p.profile(t, profile.ModeTransparent)
	made.Ready, made.Restart = "timeout = \"3s\"", "policy = \"never\""
	_, r := tryRun(t, options{image: harness.ProgramsImage, profile: made})
	if r.Status != 1 {
		t.Errorf("exit status %d, want 1", r.Status)
	}
	for _, want := range []string{"binds [::]:18789", "tcp://" + harness.GatewayAddress, "make them equal"} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("the message does not say %q:\n%v", want, r)
		}
	}
}

// TestAContainersOwnSeccompProfileMayLeaveNoRoomForTransparentListeners has profiles by which the launcher can't install
// its filter, and shows that it is only that mode which needs one.
func TestAContainersOwnSeccompProfileMayLeaveNoRoomForTransparentListeners(t *testing.T) {
	for _, test := range []struct {
		name, profile string // with the path of the listener's socket
		want          string
	}{
		{"it has a notify listener", `{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": %q,
			"syscalls": [{"names": ["fspick"], "action": "SCMP_ACT_NOTIFY"}]}`, "listener"},
		{"it forbids seccomp(2)", `{"defaultAction": "SCMP_ACT_ALLOW",
			"syscalls": [{"names": ["seccomp"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`, "seccomp"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "seccomp.json")
			content := test.profile
			if strings.Contains(content, "%q") {
				content = fmt.Sprintf(content, seccompAgent(t))
			}
			writeFile(t, file, content, 0o644)
			flags := []string{"--seccomp", "--seccomp-profile", file}
			c, r := tryRun(t, options{profile: heldProfile(profile.ModeTransparent), flags: flags})
			refused(t, r, 1, string(code.LaunchFailed))
			if !strings.Contains(r.Stderr, test.want) {
				t.Errorf("the message does not say %q", test.want)
			}
			c.delete()
			for _, mode := range []string{profile.ModeGateway, profile.ModeInherit} {
				c := run(t, options{profile: heldProfile(mode), flags: flags})
				c.ask()
				c.restart()
			}
		})
	}
}

// seccompAgent takes the notify descriptors that runc sends to a listener, and keeps them until the test ends. Nobody makes
// the calls that would have to be answered.
func seccompAgent(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(mountDir(t), "agent.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			defer conn.Close()
			var state [64 << 10]byte
			var rights [256]byte
			_, n, _, _, err := conn.ReadMsgUnix(state[:], rights[:])
			if err != nil {
				t.Errorf("the seccomp agent reads: %v", err)
				return
			}
			messages, err := unix.ParseSocketControlMessage(rights[:n])
			if err != nil {
				t.Errorf("the seccomp agent reads: %v", err)
				return
			}
			for _, m := range messages {
				fds, err := unix.ParseUnixRights(&m)
				if err != nil {
					t.Errorf("the seccomp agent reads: %v", err)
					return
				}
				for _, fd := range fds {
					defer unix.Close(fd)
				}
			}
		}
	}()
	return path
}
