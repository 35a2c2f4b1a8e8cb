package warden

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// forwardTo declares a forward on an address.
func forwardTo(address string) []profile.Forward {
	return []profile.Forward{{Name: "web", Address: profile.Address{Network: "tcp", AddrPort: netip.MustParseAddrPort(address)}}}
}

// unheard gives an address of loopback's where nobody listens.
func unheard(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestAForwardThatFailsIsShownWhileTheGatewayRuns(t *testing.T) {
	w := running(t)
	failed := []receipt.Forward{{Name: "web", Address: "127.0.0.1:8080", OK: new(false), Code: code.ForwardFailed, Detail: "connection refused"}}
	const said = "forward web (127.0.0.1:8080) does not reach the gateway: connection refused"
	for _, c := range []struct {
		what    string
		do      func()
		code    code.Code
		message string
		known   int // forwards that are shown
	}{
		{"none is declared", func() {}, "", "", 0},
		{"it fails", func() { w.status.Forwards = failed }, code.ForwardFailed, said, 1},
		{"there is something else to say", func() { w.status.Message = noStandby + "no room" }, code.ForwardFailed, said + "; " + noStandby + "no room", 1},
		{"the standby has come", func() { w.status.Message = "" }, code.ForwardFailed, said, 1},
		{"the gateway stops", func() { w.setState(receipt.Stopping) }, "", "", 0},
		{"it has failed itself", func() { w.fail(code.CrashLoop, "again and again") }, code.CrashLoop, "again and again", 0},
		{"it runs again, and nobody has looked since", func() { w.enter(receipt.Starting); w.setState(receipt.Running) }, code.ForwardFailed, said, 1},
		{"a look is good", func() { w.status.Forwards = []receipt.Forward{{Name: "web", OK: new(true)}} }, "", "", 1},
	} {
		c.do()
		if s := w.present(); s.Code != c.code || s.Message != c.message || len(s.Forwards) != c.known {
			t.Errorf("%s: %q, %q, %+v", c.what, s.Code, s.Message, s.Forwards)
		}
	}
}

func TestAFirstStartIsToldBeforeItsForwardsAreLookedAt(t *testing.T) {
	w := running(t)
	w.first.done = make(chan struct{})
	w.gateway.profile = &profile.Profile{Name: "demo", Forwards: forwardTo(unheard(t))}
	a := &action{kind: receipt.Start, asof: time.Now()}
	r := w.begin(a)
	r.Outcome = receipt.Replaced
	g := w.gateway
	g.proc = ownProcess(t)
	begun := time.Now()
	var told time.Duration
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		<-w.first.done
		told = time.Since(begun)
	}()
	w.tellStarted(a, r)
	w.forwarded(t.Context(), a, g, r)
	<-waited
	took := time.Since(begun)
	if told > took/2 || took < forwardTime || w.first.r.Outcome != receipt.Replaced || w.first.r.Generation != w.config.Current || w.first.fail {
		t.Errorf("told after %v of %v: %+v", told, took, w.first.r)
	}
	if len(r.Forwards) != 1 || !r.Forwards[0].Failed() || !strings.Contains(r.Message, "forward web") || len(w.first.r.Forwards) != 0 || r.Outcome != receipt.Replaced || r.Code != "" {
		t.Errorf("%+v", r)
	}
}

func TestTheForwardsTimeIsTheActionsAndItsOwn(t *testing.T) {
	for _, c := range []struct {
		name        string
		deadline    time.Duration // of the action; 0: none
		waiting     bool          // another request waits
		least, most time.Duration
	}{
		{"alone", 0, false, forwardTime, 2 * forwardTime},
		{"the action's deadline is near", 200 * time.Millisecond, false, 200 * time.Millisecond, forwardTime - 100*time.Millisecond},
		{"somebody waits", 0, true, forwardYield, forwardTime - 100*time.Millisecond},
	} {
		w := running(t)
		w.gateway.profile = &profile.Profile{Name: "demo", Forwards: forwardTo(unheard(t))}
		w.gateway.proc = ownProcess(t)
		if c.waiting {
			w.requests <- &request{}
		}
		ctx := t.Context()
		if c.deadline > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.deadline)
			defer cancel()
		}
		a := &action{kind: receipt.Restart, asof: time.Now()}
		r := w.begin(a)
		begun := time.Now()
		w.forwarded(ctx, a, w.gateway, r)
		if took := time.Since(begun); took < c.least || took > c.most || len(r.Forwards) != 1 || !r.Forwards[0].Failed() || r.Millis.Forward <= 0 {
			t.Errorf("%s: after %v: %+v", c.name, took, r.Forwards)
		}
	}
}

func TestForwardsThatAreNotDeclaredAnyMoreAreForgotten(t *testing.T) {
	w := running(t)
	w.status.Forwards = []receipt.Forward{{Name: "web", OK: new(false)}}
	a := &action{kind: receipt.Restart, asof: time.Now()}
	r := w.begin(a)
	w.forwarded(t.Context(), a, w.gateway, r)
	if w.status.Forwards != nil || r.Forwards != nil || r.Message != "" {
		t.Errorf("%+v, %+v", w.status.Forwards, r)
	}
	w.setState(receipt.Running)
	if st, err := memo.Status(w.dir); err != nil || st.Code != "" {
		t.Errorf("%v: %+v", err, st)
	}
}

// ownProcess is a process that lives for as long as the test.
func ownProcess(t *testing.T) *process.Process {
	t.Helper()
	p, err := process.Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}
