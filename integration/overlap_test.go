//go:build integration

package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/failpoint"
	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func overlapProfile(mode string, args ...string) *harness.Profile {
	p := heldProfile(mode, args...)
	p.Restart = "overlap = true"
	return p
}

func TestAnOverlappingRestartHasAServingGatewayAtEveryMoment(t *testing.T) {
	for _, mode := range []string{"inherit", "transparent"} {
		t.Run(mode, func(t *testing.T) {
			c := run(t, options{profile: overlapProfile(mode)})
			for range 3 {
				before := c.parked()
				r := c.restart()
				if r.Old == nil || r.Old.PID != before.PID || r.Old.Forced || r.Old.ExitCode != 0 || r.New.PID == before.PID || r.Millis.Unavailable != 0 ||
					r.Generation != before.Generation || r.Listeners[0].OwnerPID != r.New.PID || !r.Workload.Unchanged {
					t.Errorf("receipt %+v", r)
				}
				t.Logf("%+v", r.Millis)
				if who := c.ask(); who.PID != r.New.NSPID {
					t.Errorf("process %d answers, want %d", who.PID, r.New.NSPID)
				}
			}
		})
	}
}

// While both accept, all of a probe's connections can come to the old gateway. In the settle time that is no reason to refuse.
func TestASuccessorThatIsNotReachedByItsLastProbeIsAskedAgain(t *testing.T) {
	p := overlapProfile("inherit")
	p.Ready = "http = \"http://" + harness.GatewayAddress + "/health\"\nsettle = \"1ms\""
	c := run(t, options{profile: p})
	for range 30 {
		c.restart()
	}
}

func TestARestartThatChangesTheSharedSocketIsAnOrdinaryOne(t *testing.T) {
	p := overlapProfile("inherit")
	c := run(t, options{profile: p})
	for _, step := range []struct {
		edit    string
		overlap bool
	}{{"backlog = 17", false}, {"backlog = 17", true}, {"backlog = 17\noutage = \"reset\"", true}, {"backlog = 17\nnon_blocking = true", false}} {
		p.Listen = heldListen("inherit", step.edit)
		c.profileIs(p)
		r := c.restart()
		if overlapped := r.Millis.Unavailable == 0; overlapped != step.overlap {
			t.Errorf("%q: it overlapped: %v; receipt %+v", step.edit, overlapped, r)
		}
		s := c.parked()
		info, err := unix.GetsockoptTCPInfo(int(c.socketOf(s.PID, s.Listeners[0].Inode).Fd()), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil || info.Sacked != 17 {
			t.Errorf("%q: its backlog is %d, %v; want 17", step.edit, info.Sacked, err)
		}
	}
}

// overlapFaults go wrong while two gateways stand side by side, or are to.
var overlapFaults = faults{
	test:  "TestARestartThatOverlapsIsRefusedOrDone",
	title: "Restarts that overlap",
	about: "With `[restart] overlap = true` the successor is proven before the old gateway is told to end. Until then what fails is a refusal, and the old one serves.",
	rows: append([]fault{
		failingSuccessor("launch", "the successor ends at once", code.LaunchFailed,
			"the gateway ended before it was ready (exit status 134); its last output: …no database…", "--crash"),
		failingSuccessor("probe", "the successor's answer is 503 until ready.timeout", code.ProbeFailed,
			"the http probe (GET http://127.0.0.1:18789/health) says that it is not ready: HTTP status 503; accepted is 200 (… after its start); it wrote nothing", "--status", "503"),
		{
			stage: "listen", fault: "the successor never binds the address (transparent)", exit: code.ExitRefused, code: code.ListenerMissing,
			message: "cannot restart gateway … of …: the gateway has not taken the socket that is held for it on tcp://127.0.0.1:18789 (api) (… after its start); it wrote nothing; process … was not touched and goes on",
			state:   receipt.Running, gateway: theSame,
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				return restartWith(t, "transparent", "--never-bind")
			},
		},
		{
			stage: "stop", fault: "the old gateway ignores SIGTERM", state: receipt.Running, gateway: aNewOne, note: "it is killed after stop.timeout, and nobody is refused meanwhile",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				p := overlapProfile("inherit", "--ignore-term")
				p.Stop = "timeout = \"300ms\""
				c := run(t, options{profile: p})
				before := c.parked()
				r := c.tryRestart("--json")
				if got := decode[receipt.Receipt](t, r.Stdout); got.Old == nil || !got.Old.Forced || got.Old.Signal != "SIGKILL" || got.Millis.Stop < 300 || got.Millis.Unavailable != 0 {
					t.Errorf("receipt %+v", got)
				}
				return c, before, r
			},
		},
		{
			stage: "listen", fault: "the old gateway is killed while its successor starts", state: receipt.Running, gateway: aNewOne,
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				withFailpoints(t)
				c := run(t, options{profile: overlapProfile("inherit")})
				before := c.parked()
				reached, release := c.hold("launched")
				wait := c.begin("gatewarden", "restart", "--json")
				reached()
				killProcess(t, before.PID)
				release()
				return c, before, wait()
			},
		},
		{
			stage: "listen", fault: "the old gateway is killed, and its successor never becomes ready", exit: code.ExitRefused, code: code.ProbeFailed,
			message: "cannot restart gateway … of …: the http probe … says that it is not ready: HTTP status 503; accepted is 200 (… after its start); it wrote nothing; process … was not touched, and has exited meanwhile",
			state:   receipt.Running, gateway: aNewOne, note: "its restart policy starts it again, with the profile that worked",
			do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
				withFailpoints(t)
				c := run(t, options{profile: overlapProfile("inherit")})
				before := c.parked()
				c.profileIs(overlapProfile("inherit", "--status", "503"))
				reached, release := c.hold("launched")
				wait := c.begin("gatewarden", "restart", "--json")
				reached()
				killProcess(t, before.PID)
				release()
				return c, before, wait()
			},
		},
	}, overlapWardenRows()...),
}

func failingSuccessor(stage, what string, want code.Code, why string, args ...string) fault {
	return fault{
		stage: stage, fault: what, exit: code.ExitRefused, code: want,
		message: "cannot restart gateway … of …: " + why + "; process … was not touched and goes on",
		state:   receipt.Running, gateway: theSame, note: "nothing is left of the successor; the next restart works",
		do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
			return restartWith(t, "inherit", args...)
		},
	}
}

// restartWith restarts a gateway with further arguments, and then without.
func restartWith(t *testing.T, mode string, args ...string) (*container, receipt.Status, harness.Result) {
	p := overlapProfile(mode)
	p.Ready = "http = \"http://" + harness.GatewayAddress + "/health\"\ntimeout = \"1s\""
	c := run(t, options{profile: p})
	first := c.parked()
	bad := overlapProfile(mode, args...)
	bad.Ready = p.Ready
	c.profileIs(bad)
	if r := c.tryRestart("--json"); r.Status != code.ExitRefused {
		t.Errorf("%v", r)
	}
	if s := c.parked(); s.PID != first.PID || s.State != receipt.Running || s.Healthy == nil || !*s.Healthy {
		t.Errorf("status %+v", s)
	}
	if got := c.gateways(); !slices.Equal(got, []int{first.PID}) {
		t.Errorf("the gateways are %v, want %d alone", got, first.PID)
	}
	c.profileIs(p)
	c.restart()
	before := c.parked()
	c.profileIs(bad)
	return c, before, c.tryRestart("--json")
}

// profileIs changes the container's profile.
func (c *container) profileIs(p *harness.Profile) {
	c.t.Helper()
	if err := c.h.WriteProfile(c.id, p.TOML()); err != nil {
		c.t.Fatal(err)
	}
}

func overlapWardenRows() []fault {
	var rows []fault
	for _, p := range []restartPoint{
		{code.StageLaunch, "release", "before the go"},
		{code.StageListen, "launched", "after exec"},
		{code.StageProbe, "probe", "while probing"},
		{code.StageReceipt, "proven", "the successor is proven"},
		{code.StageStop, "intent", "the successor is the gateway, the old one not signalled"},
		{code.StageStop, "signalled", "the old one has the signal"},
		{code.StageStop, "dead", "the old one is dead and not yet reaped"},
		{code.StageReceipt, "receipt", "before the receipt is written"},
	} {
		message := ""
		if slices.Contains([]string{"intent", "signalled", "dead", "receipt"}, p.point) {
			message = "gateway … of …: process …, which the lost warden had started, was proven and adopted"
		}
		for _, mode := range []string{"inherit", "transparent"} {
			rows = append(rows, fault{
				stage: string(p.stage), fault: "warden killed: " + p.when + " (" + mode + ")", message: message,
				state: receipt.Running, gateway: aNewOne, note: "one of the two is left, with the same sockets; no connection is refused",
				do: func(t *testing.T) (*container, receipt.Status, harness.Result) {
					withFailpoints(t)
					c := run(t, options{profile: overlapProfile(mode)})
					before := c.parked()
					c.arm(p.point, "kill")
					stop := c.asks()
					r := c.restartBy("gatewarden")()
					if _, err := os.Stat(filepath.Join(c.runDir(), failpoint.Name)); err == nil {
						t.Errorf("the point %s was not reached", p.point)
					}
					after := c.supervised(before.Warden.PID)
					if n, refused := stop(); len(refused) != 0 || n == 0 {
						t.Errorf("of %d connections %d were refused: %v", n, len(refused), refused)
					}
					got := decode[receipt.Receipt](t, r.Stdout)
					if got.Outcome != receipt.Replaced || got.Old == nil || got.Old.PID != before.PID || got.New == nil || got.New.PID != after.PID ||
						after.Listeners[0].Inode != before.Listeners[0].Inode {
						t.Errorf("receipt %+v\nlisteners before %+v\nafter %+v", got, before.Listeners, after.Listeners)
					}
					return c, before, r
				},
			})
		}
	}
	return rows
}

// asks makes one connection after the other, from the host, until stop is called. It gives how many there were, and the errors
// of those that were not made. What becomes of a connection that was made is another matter.
func (c *container) asks() (stop func() (int, []error)) {
	c.t.Helper()
	var n int
	var refused []error
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-time.After(time.Millisecond):
			}
			conn, err := c.dial()
			n++
			if err != nil {
				refused = append(refused, err)
				continue
			}
			conn.Close()
		}
	}()
	return func() (int, []error) {
		close(quit)
		<-done
		return n, refused
	}
}

// dial connects to the gateway, from the host.
func (c *container) dial() (net.Conn, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.init()))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	return netns.Dial(ctx, ns, "tcp", harness.GatewayAddress)
}

func TestARestartThatOverlapsIsRefusedOrDone(t *testing.T) { overlapFaults.run(t) }

func TestWhatTheOldGatewayHasAcceptedItFinishes(t *testing.T) {
	c := run(t, options{profile: overlapProfile("inherit", "--drain")})
	before := c.parked()
	conn, err := c.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Half a request: it is accepted, and stays open while the restart goes on.
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: gateway\r\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	wait := c.begin("gatewarden", "restart", "--json")
	eventually(t, eventTime, "the successor answers", func() bool { return c.ask().PID != before.NSPID }, func() string { return "" })
	if _, err := io.WriteString(conn, "Connection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(answer), "200 OK") {
		t.Errorf("the old gateway's answer: %q, %v", answer, err)
	}
	r := decode[receipt.Receipt](t, wait().Stdout)
	if r.Outcome != receipt.Replaced || r.Old.Forced || r.Old.PID != before.PID {
		t.Errorf("receipt %+v", r)
	}
}

func TestAWorkersConnectionsProveTheGatewayThatStartedIt(t *testing.T) {
	c := run(t, options{profile: overlapProfile("inherit", "--worker")})
	for range 2 {
		before := c.parked()
		if r := c.restart(); r.Old.PID != before.PID || r.Listeners[0].Inode != before.Listeners[0].Inode || r.Listeners[0].OwnerPID == before.Listeners[0].OwnerPID || r.Listeners[0].OwnerPID == r.New.PID {
			t.Errorf("receipt %+v", r)
		}
		if got := c.gateways(); !slices.Equal(got, []int{c.status().PID}) {
			t.Errorf("the gateways are %v", got)
		}
	}
}

func TestUnderLoadARestartThatOverlapsLosesNoRequest(t *testing.T) {
	c := run(t, options{profile: overlapProfile("inherit", "--drain")})
	c.parked()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return c.dial() },
	}}
	quit, failures := make(chan struct{}), make(chan error, 4)
	count := make(chan int, 4)
	for range 4 {
		go func() {
			n := 0
			defer func() { count <- n }()
			for {
				select {
				case <-quit:
					failures <- nil
					return
				default:
				}
				r, err := client.Get("http://gateway/")
				if err != nil {
					failures <- err
					return
				}
				_, err = io.Copy(io.Discard, r.Body)
				r.Body.Close()
				if err != nil {
					failures <- err
					return
				}
				n++
			}
		}()
	}
	for range 10 {
		c.restart()
	}
	close(quit)
	total := 0
	for range 4 {
		if err := <-failures; err != nil {
			t.Errorf("a request was lost: %v", err)
		}
		total += <-count
	}
	if total < 100 {
		t.Errorf("%d requests in all", total)
	}
}
