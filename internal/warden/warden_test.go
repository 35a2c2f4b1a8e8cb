package warden

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/idmap"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestAnUnaskedExitLeadsToTheStateThatThePolicySays(t *testing.T) {
	clean, failed := process.Exit{}, process.Exit{Code: 3}
	fatal, killed := process.Exit{Code: 78}, process.Exit{Code: -1, Signal: unix.SIGKILL}
	for _, c := range []struct {
		policy profile.Policy
		exit   process.Exit
		want   receipt.State
	}{
		{profile.Always, clean, receipt.Backoff},
		{profile.Always, failed, receipt.Backoff},
		{profile.Always, killed, receipt.Backoff},
		{profile.Always, fatal, receipt.FailedSt},
		{profile.OnFailure, clean, receipt.Stopped},
		{profile.OnFailure, failed, receipt.Backoff},
		{profile.OnFailure, killed, receipt.Backoff},
		{profile.OnFailure, fatal, receipt.FailedSt},
		{profile.Never, clean, receipt.Stopped},
		{profile.Never, failed, receipt.FailedSt},
		{profile.Never, killed, receipt.FailedSt},
	} {
		if got := decide(profile.Restart{Policy: c.policy, FatalExitCodes: []int{78}}, c.exit); got != c.want {
			t.Errorf("%s after %s: %s, want %s", c.policy, c.exit, got, c.want)
		}
	}
}

func TestAPostureThatDiffersInAnyPartIsAMismatch(t *testing.T) {
	who := identity{inside: idmap.ID{UID: 1, GID: 2, Groups: []uint32{3}}, host: idmap.ID{UID: 7, GID: 8, Groups: []uint32{9, 10}}}
	good := process.Posture{UID: [4]uint32{7, 7, 7, 7}, GID: [4]uint32{8, 8, 8, 8}, Groups: []uint32{10, 9}, NoNewPrivs: true}
	if err := samePosture(good, who); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*process.Posture){
		"real UID":        func(p *process.Posture) { p.UID[0] = 0 },
		"filesystem UID":  func(p *process.Posture) { p.UID[3] = 0 },
		"saved GID":       func(p *process.Posture) { p.GID[2] = 0 },
		"a group more":    func(p *process.Posture) { p.Groups = []uint32{9, 10, 0} },
		"a group less":    func(p *process.Posture) { p.Groups = []uint32{9} },
		"effective":       func(p *process.Posture) { p.Effective = 1 << unix.CAP_DAC_OVERRIDE },
		"permitted":       func(p *process.Posture) { p.Permitted = 1 },
		"inheritable":     func(p *process.Posture) { p.Inherit = 1 },
		"bounding":        func(p *process.Posture) { p.Bounding = 1 },
		"ambient":         func(p *process.Posture) { p.Ambient = 1 },
		"no_new_privs":    func(p *process.Posture) { p.NoNewPrivs = false },
		"a lacking grant": nil,
	} {
		p, w := good, who
		if spoil != nil {
			spoil(&p)
		} else {
			w.caps = []string{"CAP_NET_BIND_SERVICE"}
		}
		if e, ok := errors.AsType[*code.Error](samePosture(p, w)); !ok || e.Code != code.PostureMismatch {
			t.Errorf("%s: not a mismatch", name)
		}
	}
}

// idle is a warden without a container, whose run is the test.
func idle() *Warden {
	w := &Warden{
		rec:     install.Install{Namespace: "default", ID: "web", Profile: "demo"},
		profile: &profile.Profile{}, requests: make(chan *request, queueLength), ended: make(chan struct{}), alive: context.Background(),
	}
	w.container = w.rec.Container()
	w.publish()
	return w
}

func TestARequestWhoseDeadlinePassesInTheQueueIsNeverCarriedOut(t *testing.T) {
	w := idle()
	m := w.queue(t.Context(), control.Request{Verb: control.Restart, Timeout: 20 * time.Millisecond}, 0, nil)
	if m.Error == nil || m.Error.Code != code.Deadline || !m.Error.Retryable {
		t.Fatalf("got %+v", m.Error)
	}
	r := <-w.requests
	w.serveRequest(r) // would act on a gateway that is not there
	select {
	case m := <-r.reply:
		t.Errorf("it was carried out: %+v", m)
	default:
	}
}

func TestARequestThatRunHasTakenUpIsAnsweredThoughItsClientLeaves(t *testing.T) {
	w := idle()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan control.Message)
	go func() { got <- w.queue(ctx, control.Request{Verb: control.Restart}, 0, nil) }()
	r := <-w.requests
	if !r.turn.CompareAndSwap(waiting, taken) {
		t.Fatal("not waiting")
	}
	cancel()
	select {
	case m := <-got:
		t.Fatalf("answered before its end: %+v", m)
	case <-time.After(20 * time.Millisecond):
	}
	r.reply <- control.Message{Done: true, Text: "done"}
	if m := <-got; m.Text != "done" {
		t.Errorf("got %+v", m)
	}
}

func TestAClientHearsOfTheStopAtOnceAndOfAFastLaunchWithItsEnd(t *testing.T) {
	for _, c := range []struct {
		name    string
		slow    bool // the launch takes longer than a client is kept waiting
		overlap bool // the old gateway is stopped after it
	}{{"fast", false, false}, {"slow", true, false}, {"overlap", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			w := idle()
			heard := make(chan code.Stage, 8)
			got := make(chan control.Message)
			go func() {
				got <- w.queue(t.Context(), control.Request{Verb: control.Restart}, 0, func(m control.Message) error {
					heard <- m.Stage
					return nil
				})
			}()
			r := <-w.requests
			r.turn.Store(taken)
			tell := func(stages ...code.Stage) {
				for _, s := range stages {
					r.notify <- control.Message{Stage: s}
				}
			}
			tell(code.StagePreflight, code.StageStop)
			if a, b := <-heard, <-heard; a != code.StagePreflight || b != code.StageStop {
				t.Fatalf("heard %s, %s", a, b)
			}
			begun := time.Now()
			tell(code.StageLaunch, code.StageListen)
			if c.slow {
				if a, b := <-heard, <-heard; a != code.StageLaunch || b != code.StageListen || time.Since(begun) < stagesLate {
					t.Errorf("heard %s, %s after %v", a, b, time.Since(begun))
				}
				tell(code.StageProbe)
				if s := <-heard; s != code.StageProbe {
					t.Errorf("heard %s", s)
				}
			} else {
				time.Sleep(stagesLate / 5)
				if n := len(heard); n != 0 && time.Since(begun) < stagesLate {
					t.Errorf("heard of %d stages while the successor starts", n)
				}
			}
			if c.overlap {
				tell(code.StageStop)
				if a, b, s := <-heard, <-heard, <-heard; a != code.StageLaunch || b != code.StageListen || s != code.StageStop || time.Since(begun) >= stagesLate {
					t.Errorf("heard %s, %s, %s after %v", a, b, s, time.Since(begun))
				}
			}
			r.reply <- control.Message{Done: true, Text: "done"}
			if m := <-got; m.Text != "done" {
				t.Errorf("got %+v", m)
			}
			var rest []code.Stage
			for len(heard) > 0 {
				rest = append(rest, <-heard)
			}
			if want := []code.Stage{code.StageLaunch, code.StageListen}; !c.slow && !c.overlap && !slices.Equal(rest, want) || (c.slow || c.overlap) && len(rest) != 0 {
				t.Errorf("heard %v with the end", rest)
			}
		})
	}
}

func TestAFullQueueSaysBusyAtOnce(t *testing.T) {
	w := idle()
	for range queueLength {
		w.requests <- &request{}
	}
	if m := w.queue(t.Context(), control.Request{Verb: control.Restart}, 0, nil); m.Error == nil || m.Error.Code != code.Busy {
		t.Errorf("got %+v", m)
	}
}

func TestRequestsThatWaitWhenTheContainerEndsAreToldSo(t *testing.T) {
	w := idle()
	got := make(chan control.Message)
	go func() { got <- w.queue(t.Context(), control.Request{Verb: control.Recover}, 0, nil) }()
	<-w.requests
	close(w.ended)
	if m := <-got; m.Error == nil || m.Error.Code != code.NotRunning {
		t.Errorf("got %+v", m)
	}
}

func TestARepeatedRequestIDFindsTheFirstReceiptAndOldOnesAreForgotten(t *testing.T) {
	var q recentRequests
	first := &receipt.Receipt{ID: "first"}
	q.add("a", first)
	q.add("", &receipt.Receipt{})
	if q.find("a") != first || q.find("") != nil || q.find("b") != nil {
		t.Error("wrong receipts")
	}
	for i := range recentLength {
		q.add(fmt.Sprint(i), &receipt.Receipt{})
	}
	if q.find("a") != nil || len(q.recs) != recentLength {
		t.Errorf("%d remembered", len(q.recs))
	}
}

func TestAWatcherThatDoesNotKeepUpLosesItsConnectionNotAnEvent(t *testing.T) {
	var w watchers
	c := w.add()
	for i := range watcherBuffer + 1 {
		w.tell(control.Event{PID: i})
	}
	n := 0
	for e := range c {
		if e.PID != n {
			t.Fatalf("event %d arrived in the place of %d", e.PID, n)
		}
		n++
	}
	if n != watcherBuffer {
		t.Errorf("%d events before the end", n)
	}
	w.remove(c)
}

func TestTheListenersOfAGatewayThatHasExitedAreNotItsOwn(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	proc, err := process.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	<-proc.Done()
	defer cmd.Wait() // until then it is a zombie
	w := &Warden{}
	_, err = w.listening(&gateway{proc: proc}, &profile.Profile{Listen: []profile.Listen{{Name: "api"}}}, code.StageProbe)
	if e, ok := errors.AsType[*code.Error](err); !ok || e.Code != code.ListenerMissing || !strings.Contains(e.Message, "has exited") {
		t.Errorf("got %v", err)
	}
}
func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
