package taskapi

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func TestTheGatewayHasAStateWithoutAskingTheWarden(t *testing.T) {
	s := newShim(t)
	w := s.create("web", true)
	if st := s.state("web", gatewayID); st.Status != task.Status_CREATED || st.Pid != 0 {
		t.Errorf("before its start: %v", st)
	}
	w.tell(control.Event{Kind: "running", PID: extraPID})
	s.events.until(t, "exec-started web/gateway")
	if st := s.state("web", gatewayID); st.Status != task.Status_RUNNING || st.Pid != extraPID || st.ID != gatewayID {
		t.Errorf("running: %v", st)
	}
	w.tell(control.Event{Kind: "exited", PID: extraPID, ExitCode: 9})
	s.events.until(t, "exit web/gateway 4001 9")
	if st := s.state("web", gatewayID); st.Status != task.Status_STOPPED || st.ExitStatus != 9 || st.ExitedAt == nil {
		t.Errorf("stopped: %v", st)
	}
	w.tell(control.Event{Kind: "running", PID: extraPID + 1})
	events := s.events.until(t, "exec-started web/gateway 4002")
	want := []string{"create web", "exec-added web/gateway", "exec-started web/gateway 4001", "exit web/gateway 4001 9", "exec-started web/gateway 4002"}
	if !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
	if _, asked := w.last(control.Status); asked {
		t.Error("State asked the warden")
	}
}

func TestAGatewayThatFailedBeforeItWasReadyIsSeenToo(t *testing.T) {
	s := newShim(t)
	w := s.create("web", true)
	s.events.until(t, "create web")
	for !watched(w) {
		time.Sleep(time.Millisecond)
	}
	w.tell(control.Event{Kind: "exited", PID: extraPID, ExitCode: 78})
	events := s.events.until(t, "exit web/gateway")
	want := []string{"create web", "exec-added web/gateway", "exec-started web/gateway 4001", "exit web/gateway 4001 78"}
	if !slices.Equal(events, want) {
		t.Errorf("events %q, want %q", events, want)
	}
}

func watched(w *warden) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.streams) > 0
}

func TestALostWatchIsTakenUpAgain(t *testing.T) {
	tests := []struct {
		name   string
		missed control.Event // the state when the watch goes on
		want   []string      // events of that
		status task.Status
	}{
		{"nothing happened", control.Event{Kind: "running", PID: extraPID}, nil, task.Status_RUNNING},
		{"it is being stopped", control.Event{Kind: "stopping", PID: extraPID}, nil, task.Status_RUNNING},
		{"a successor runs", control.Event{Kind: "running", PID: 5000},
			[]string{"exit web/gateway 4001 255", "exec-started web/gateway 5000"}, task.Status_RUNNING},
		{"a successor starts", control.Event{Kind: "starting", PID: 5000}, []string{"exit web/gateway 4001 255"}, task.Status_STOPPED},
		{"it failed", control.Event{Kind: "failed"}, []string{"exit web/gateway 4001 255"}, task.Status_STOPPED},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShim(t)
			w := s.run("web")
			before := len(s.events.until(t, "exec-started web/gateway"))
			w.mu.Lock()
			w.present = tt.missed
			w.mu.Unlock()
			w.hangUp()
			for !watched(w) {
				time.Sleep(time.Millisecond)
			}
			// An exec's event comes after all that the watch's first message caused, or the test waits for that.
			last := "exec-added web/gateway"
			if len(tt.want) > 0 {
				last = tt.want[len(tt.want)-1]
			}
			events := s.events.until(t, last)
			if got := events[before:]; !slices.Equal(got, tt.want) {
				t.Errorf("events %q, want %q", got, tt.want)
			}
			if st := s.state("web", gatewayID); st.Status != tt.status {
				t.Errorf("status %v, want %v", st.Status, tt.status)
			}
		})
	}
}

func TestStateAndPidsAnswerWithoutAWarden(t *testing.T) {
	s := newShim(t)
	if _, err := s.Create(s.ctx, &taskapi.CreateTaskRequest{ID: "web", Bundle: s.bundle(map[string]string{"io.gatewarden.gateway": "demo"})}); err != nil {
		t.Fatal(err)
	}
	s.state("web", gatewayID)
	s.state("web", "")
	if _, err := s.Pids(s.ctx, &taskapi.PidsRequest{ID: "web"}); err != nil {
		t.Error(err)
	}
	if err := s.kill("web", gatewayID, uint32(unix.SIGTERM)); !errdefs.IsNotFound(err) {
		t.Errorf("Kill: %v", err)
	}
}

func TestPidsNamesTheGatewayAndAddsNothing(t *testing.T) {
	s := newShim(t)
	s.run("web")
	resp, err := s.Pids(s.ctx, &taskapi.PidsRequest{ID: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Processes) != 3 {
		t.Errorf("%d processes, want the 3 of runc", len(resp.Processes))
	}
	for _, p := range resp.Processes {
		if p.Pid != extraPID {
			if p.Info != nil {
				t.Errorf("process %d has details", p.Pid)
			}
			continue
		}
		var d options.ProcessDetails
		if err := typeurl.UnmarshalTo(p.Info, &d); err != nil || d.ExecID != gatewayID {
			t.Errorf("the gateway's details: %v, %v", &d, err)
		}
	}
}

func TestAKillOfTheGatewayIsARestartThatBeginsWithTheSignal(t *testing.T) {
	for _, sig := range restarting {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			s := newShim(t)
			w := s.run("web")
			w.on(control.Restart, func(_ control.Request, send func(control.Message)) {
				send(control.Message{Stage: code.StageStop, Text: "stopping"})
				send(control.Message{Done: true, Receipt: &receipt.Receipt{Outcome: receipt.Replaced, New: &receipt.New{PID: 5000}}})
				// The stream may be behind.
				time.Sleep(10 * time.Millisecond)
				w.tell(control.Event{Kind: "exited", PID: extraPID, ExitCode: 143})
				w.tell(control.Event{Kind: "running", PID: 5000})
			})
			s.must(s.kill("web", gatewayID, uint32(sig)))
			if st := s.state("web", gatewayID); st.Pid != 5000 || st.Status != task.Status_RUNNING {
				t.Errorf("right after Kill: %v", st)
			}
			req, _ := w.last(control.Restart)
			if req.Signal != unix.SignalName(sig) || req.Via != "task-kill" {
				t.Errorf("the warden was asked %+v", req)
			}
			if s.inner.called("Kill web/gateway 15") {
				t.Error("the signal reached runc's service")
			}
		})
	}
}

func TestOtherSignalsToTheGateway(t *testing.T) {
	s := newShim(t)
	w := s.run("web")
	w.on(control.Signal, func(_ control.Request, send func(control.Message)) { send(control.Message{Done: true}) })
	for _, sig := range delivered {
		s.must(s.kill("web", gatewayID, uint32(sig)))
		if req, _ := w.last(control.Signal); req.Signal != unix.SignalName(sig) {
			t.Errorf("the warden was asked %+v for %v", req, sig)
		}
	}
	for _, sig := range []uint32{0, uint32(unix.SIGSTOP), uint32(unix.SIGCONT), uint32(unix.SIGSEGV), 40, 1000} {
		if err := s.kill("web", gatewayID, sig); !errdefs.IsInvalidArgument(err) {
			t.Errorf("signal %d: %v", sig, err)
		}
	}
	if _, asked := w.last(control.Restart); asked {
		t.Error("one of them was a restart")
	}
}

func TestAFailedRestartIsTheKillsError(t *testing.T) {
	tests := []struct {
		name   string
		answer control.Message
		class  func(error) bool
		text   string
	}{
		{"paused", control.Message{Error: code.Errorf(code.Paused, code.StagePreflight, "web is paused; resume it")},
			errdefs.IsFailedPrecondition, "gatewarden: web is paused; resume it (paused)"},
		{"busy", control.Message{Error: code.Errorf(code.Busy, code.StageQueue, "busy")}, errdefs.IsUnavailable, "(busy)"},
		{"failed by its receipt", control.Message{Receipt: &receipt.Receipt{Outcome: receipt.Failed, Code: code.ProbeFailed, Message: "health says 500"}},
			errdefs.IsAborted, "gatewarden: health says 500 (probe_failed)"},
		{"no receipt at all", control.Message{}, errdefs.IsInternal, "(internal)"},
		{"a code from the future", control.Message{Error: &code.Error{Code: "new", Message: "what"}}, errdefs.IsUnknown, "what (new)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShim(t)
			w := s.run("web")
			w.on(control.Restart, func(_ control.Request, send func(control.Message)) {
				tt.answer.Done = true
				send(tt.answer)
			})
			err := s.kill("web", gatewayID, uint32(unix.SIGTERM))
			if err == nil || !tt.class(err) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Kill: %v", err)
			}
		})
	}
}

func TestAWaitForTheGatewayEndsWithItsExit(t *testing.T) {
	s := newShim(t)
	w := s.run("web")
	status := make(chan uint32, 1)
	go func() { status <- s.wait("web", gatewayID) }()
	time.Sleep(5 * time.Millisecond)
	w.tell(control.Event{Kind: "exited", PID: extraPID, ExitCode: 7})
	if got := <-status; got != 7 {
		t.Errorf("exit status %d", got)
	}
	if got := s.wait("web", gatewayID); got != 7 {
		t.Errorf("a wait for a gateway that does not run gave %d", got)
	}
}

func TestAWaitForTheGatewayEndsWithItsContainer(t *testing.T) {
	s := newShim(t)
	s.run("web")
	g := s.managed("web").gateway // the request may come to it before the container's end or after
	status := make(chan uint32, 1)
	go func() {
		exit, err := g.wait(s.ctx)
		if err != nil {
			t.Error(err)
		}
		status <- exit.Status
	}()
	s.inner.exit("web")
	s.must(s.delete("web", ""))
	if got := <-status; got != statusKilled {
		t.Errorf("exit status %d", got)
	}
}

func TestWhatMakesNoSenseForTheGatewayIsRefused(t *testing.T) {
	s := newShim(t)
	s.run("web")
	_, resize := s.ResizePty(s.ctx, &taskapi.ResizePtyRequest{ID: "web", ExecID: gatewayID})
	for name, err := range map[string]error{
		"Start":     s.start("web", gatewayID),
		"Delete":    s.delete("web", gatewayID),
		"ResizePty": native(resize),
	} {
		if !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.CloseIO(s.ctx, &taskapi.CloseIORequest{ID: "web", ExecID: gatewayID}); err != nil {
		t.Errorf("CloseIO: %v", err)
	}
	s.inner.mu.Lock()
	defer s.inner.mu.Unlock()
	for _, call := range s.inner.calls {
		if strings.HasSuffix(call, "web/gateway") {
			t.Errorf("%q reached runc's service", call)
		}
	}
}

func TestAWardenThatIsGoneIsNotPolledInALoop(t *testing.T) {
	s := newShim(t)
	w := s.run("web")
	dir := control.Dir(s.runDir, namespace, "web")
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	w.hangUp()
	time.Sleep(200 * time.Millisecond)
	if st := s.state("web", gatewayID); st.Pid != extraPID {
		t.Errorf("the last known state is forgotten: %v", st)
	}
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	w.on(control.Signal, func(_ control.Request, send func(control.Message)) { send(control.Message{Done: true}) })
	w.mu.Lock()
	w.present = control.Event{Kind: "running", PID: 5000}
	w.mu.Unlock()
	// An answered request shows that the warden is there: the watch does not wait for its next attempt.
	s.must(s.kill("web", gatewayID, uint32(unix.SIGUSR1)))
	s.events.until(t, "exec-started web/gateway 5000")
}

func TestEveryCodeHasAClass(t *testing.T) {
	for _, c := range []code.Code{
		code.InvalidProfile, code.PostureRefused, code.UntrustedBinary, code.NotManaged, code.Paused, code.NotRunning, code.Busy,
		code.Deadline, code.PreflightFailed, code.StopFailed, code.LaunchFailed, code.PostureMismatch, code.ListenerMissing,
		code.ListenerContested, code.ProbeFailed, code.CrashLoop, code.RolledBack, code.WardenLost, code.Internal,
	} {
		class, ok := classes[c]
		if !ok {
			t.Errorf("%s has none", c)
			continue
		}
		err := native(toGRPC(code.Errorf(c, code.StageQueue, "text")))
		if !errors.Is(err, class) || !strings.Contains(err.Error(), "gatewarden: text ("+string(c)+")") {
			t.Errorf("%s reaches a client as %v", c, err)
		}
	}
}

func TestAGatewayThatFailedWithoutAProcessIsStopped(t *testing.T) {
	s := newShim(t)
	w := s.create("web", true)
	s.events.until(t, "create web")
	for !watched(w) {
		time.Sleep(time.Millisecond)
	}
	w.tell(control.Event{Kind: "failed", Time: time.Now()})
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		st := s.state("web", gatewayID)
		if st.Status == task.Status_STOPPED && st.ExitStatus == statusUnknown && st.ExitedAt != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("state %v", st)
		}
	}
}
