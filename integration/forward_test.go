//go:build integration

package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// proxy is what a host has before a container's port: it listens on the host's loopback, and connects inside the container.
type proxy struct {
	t       *testing.T
	address string
	pid     int // of the container's init

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
}

// newProxy chooses an address, where nobody listens yet.
func newProxy(t *testing.T) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, address: l.Addr().String()}
	l.Close()
	t.Cleanup(p.stop)
	return p
}

// toml declares it in the profile.
func (p *proxy) toml(more string) string {
	return fmt.Sprintf("[[forward]]\nname = \"web\"\naddress = %q\n%s\n", p.address, more)
}

// start begins to forward to the gateway of the container with that init.
func (p *proxy) start(pid int) {
	p.t.Helper()
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.listener, p.pid = l, pid
	p.mu.Unlock()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.forward(conn)
		}
	}()
}

func (p *proxy) forward(client net.Conn) {
	defer client.Close()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.pid))
	if err != nil {
		return // the container is gone
	}
	defer ns.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	gateway, err := netns.Dial(ctx, ns, "tcp", harness.GatewayAddress)
	if err != nil {
		return // nobody listens there: the client sees a connection that is closed
	}
	defer gateway.Close()
	p.mu.Lock()
	p.conns = append(p.conns, client, gateway)
	p.mu.Unlock()
	go func() {
		io.Copy(gateway, client)
		gateway.(interface{ CloseWrite() error }).CloseWrite()
	}()
	io.Copy(client, gateway)
}

// stop ends it with its connections.
func (p *proxy) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// get is a client of the host's.
func (p *proxy) get() error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + p.address + "/health")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != 200 {
		return fmt.Errorf("HTTP status %d", r.StatusCode)
	}
	return nil
}

// reached checks what is said of the only forward.
func reached(t *testing.T, what string, all []receipt.Forward, address string, ok bool) {
	t.Helper()
	if len(all) != 1 || all[0].Name != "web" || all[0].Address != address || all[0].OK == nil || *all[0].OK != ok || (all[0].Code == code.ForwardFailed) == ok ||
		(all[0].Detail == "") != ok {
		t.Errorf("%s: %+v, want ok %v", what, all, ok)
	}
}

func TestAForwardIsLookedAtAfterEachStartAndUndoesNothing(t *testing.T) {
	p := newProxy(t)
	c := run(t, options{profile: &harness.Profile{More: p.toml("http = \"/health\"")}})
	// Nobody listens on the host yet: the container starts all the same, and it is said.
	s := c.waitFor("the first receipt", func(s receipt.Status) bool { return s.Last != nil })
	reached(t, "the first start", s.Last.Forwards, p.address, false)
	if s.Last.Outcome != receipt.Replaced || s.State != receipt.Running || s.Code != code.ForwardFailed || !strings.Contains(s.Message, "forward web ("+p.address+") does not reach the gateway: ") {
		t.Errorf("%+v", s)
	}
	c.parked()
	reached(t, "ps", listed(t, c.id).Forwards, p.address, false)
	if got := shown(t, c.id); got[2] != "running" || got[3] != "yes" || !strings.HasPrefix(got[9], "forward_failed:") {
		t.Errorf("ps shows %q", got)
	}

	p.start(c.init())
	if err := p.get(); err != nil {
		t.Fatalf("the test's proxy does not work: %v", err)
	}
	if s := listed(t, c.id); s.Code != code.ForwardFailed {
		t.Errorf("nobody has looked since: %+v", s)
	}
	r := gatewarden(t, "probe", c.name())
	if r.Status != 0 || !strings.Contains(r.Stdout, "forward web ("+p.address+") answers\n") {
		t.Errorf("%v", r)
	}
	if s := listed(t, c.id); s.Code != "" || s.Message != "" {
		t.Errorf("after a probe: %+v", s)
	}

	r = gatewarden(t, "restart", c.name())
	if r.Status != 0 || !strings.Contains(r.Stdout, ", forward web answers") || strings.Contains(r.Stderr, "forward") {
		t.Errorf("%v", r)
	}
	before := c.parked()
	reached(t, "a restart", before.Last.Forwards, p.address, true)

	p.stop()
	r = gatewarden(t, "restart", "--json", c.name())
	if r.Status != 0 || !strings.Contains(r.Stderr, "connection refused (forward_failed)\n") || !strings.Contains(r.Stderr, "next: ") {
		t.Errorf("a restart without the proxy: %v", r)
	}
	rec := decode[receipt.Receipt](t, r.Stdout)
	reached(t, "a restart without the proxy", rec.Forwards, p.address, false)
	if rec.Outcome != receipt.Replaced || rec.Code != "" || !strings.Contains(rec.Message, "does not reach the gateway") || rec.New == nil || rec.New.PID == before.PID ||
		rec.Millis.Forward < 1900 || rec.Millis.Forward > 4000 || rec.Millis.Unavailable >= 1900 || rec.Millis.Total < rec.Millis.Forward {
		t.Errorf("%+v", rec)
	}
	if s := listed(t, c.id); s.State != receipt.Running || s.PID != rec.New.PID || !saysHealthy(s) || s.Code != code.ForwardFailed {
		t.Errorf("after it: %+v", s)
	}
	if who := c.ask(); who.PID != rec.New.NSPID {
		t.Errorf("process %d answers, want %d", who.PID, rec.New.NSPID)
	}
	if r := gatewarden(t, "receipts", "-n", "1", c.name()); !strings.Contains(r.Stdout, "forward_failed") {
		t.Errorf("%v", r)
	}
	// A healthy gateway is none to be recovered because of it.
	rec = decode[receipt.Receipt](t, c.mustExec("gatewarden", "recover", "--json"))
	reached(t, "recover", rec.Forwards, p.address, false)
	if rec.Outcome != receipt.AlreadyRunning {
		t.Errorf("%+v", rec)
	}

	p.start(c.init())
	if s := c.status(); s.Code != "" || s.State != receipt.Running {
		t.Errorf("after the proxy is back: %+v", s)
	}
	reached(t, "status", c.status().Forwards, p.address, true)
	killProcess(t, c.parked().PID)
	s = c.waitFor("a successor runs", func(s receipt.Status) bool { return s.Last.Action == receipt.Respawn && s.State == receipt.Running })
	reached(t, "a respawn", s.Last.Forwards, p.address, true)
	// What is between the proxy and the gateway is seen by HTTP; an accepted connection says less.
	warden := c.parked().Warden.PID
	killProcess(t, warden)
	s = c.supervised(warden)
	reached(t, "a new warden", s.Forwards, p.address, true)
}

func TestAnOverlappingRestartLooksAtItsForwards(t *testing.T) {
	p := newProxy(t)
	profile := overlapProfile("inherit")
	profile.More = p.toml("")
	c := run(t, options{profile: profile})
	p.start(c.init())
	c.parked()
	r := c.restart()
	reached(t, "with the proxy", r.Forwards, p.address, true)
	p.stop()
	c.parked()
	r = c.restart()
	reached(t, "without it", r.Forwards, p.address, false)
	if r.Outcome != receipt.Replaced || r.Millis.Unavailable != 0 || r.Old == nil || r.Old.Forced {
		t.Errorf("%+v", r)
	}
}

// The receipt waits two seconds for a forward that is not there, if nobody else waits.
func TestNobodyIsKeptWaitingForAForward(t *testing.T) {
	p := newProxy(t)
	c := run(t, options{profile: &harness.Profile{More: p.toml("")}})
	c.parked()
	var waits []func() harness.Result
	for range 4 {
		waits = append(waits, c.gatewardenInBackground("restart", "--json", c.name()))
	}
	long := 0
	for _, wait := range waits {
		r := wait()
		rec := decode[receipt.Receipt](t, r.Stdout)
		reached(t, "a restart", rec.Forwards, p.address, false)
		if r.Status != 0 || rec.Outcome != receipt.Replaced {
			t.Errorf("%v", r)
		}
		if rec.Millis.Forward > 1500 {
			long++
		}
	}
	if long > 1 {
		t.Errorf("%d of %d restarts had all the time for their forward while others waited", long, len(waits))
	}
}

// What is finished is counted once and looked at once more, whoever finishes it.
func TestAWardenThatIsLostAfterTheProofLeavesForwardsAndCountersToItsSuccessor(t *testing.T) {
	// The gap is known to the warden that made it.
	for point, gaps := range map[string]float64{"forward": 0, "receipt": 0, "recorded": 1} {
		t.Run(point, func(t *testing.T) {
			withFailpoints(t)
			p := newProxy(t)
			c := run(t, options{profile: &harness.Profile{More: p.toml("http = \"/health\"")}})
			p.start(c.init())
			before := c.parked()
			c.arm(point, "kill")
			r := c.restartBy("gatewarden")()
			after := c.supervised(before.Warden.PID)
			rec := decode[receipt.Receipt](t, r.Stdout)
			if r.Status != 0 || rec.Outcome != receipt.Replaced || rec.New == nil || rec.New.PID != after.PID || after.PID == before.PID {
				t.Errorf("%v", r)
			}
			reached(t, "the receipt", rec.Forwards, p.address, true)
			reached(t, "the status", after.Forwards, p.address, true)
			got := c.metrics()
			if n, up := got[`gatewarden_actions_total,action="restart",outcome="replaced"`], got[fmt.Sprintf(`gatewarden_forward_up,forward="web",address=%q`, p.address)]; n != 1 || up != 1 {
				t.Errorf("%v restarts are counted, and the forward is %v", n, up)
			}
			if n := got["gatewarden_unavailable_seconds_count"]; n != gaps {
				t.Errorf("%v unavailable times are counted, want %v", n, gaps)
			}
		})
	}
}
