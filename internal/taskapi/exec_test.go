package taskapi

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// exitedEvents waits for the exit of exec execID of "web" and gives the events of that exec.
func (s *testShim) execEvents(execID string) []string {
	s.t.Helper()
	all := s.events.until(s.t, "exit web/"+execID+" ")
	return slices.DeleteFunc(all, func(e string) bool { return !strings.Contains(e, "web/"+execID) })
}

func TestTheOrderOfCallsOfCtr(t *testing.T) {
	s := newShim(t)
	s.run("web")
	out := filepath.Join(t.TempDir(), "out")
	s.must(unix.Mkfifo(out, 0o600))
	text := make(chan string, 1)
	go func() {
		data, _ := os.ReadFile(out)
		text <- string(data)
	}()

	_, err := s.Exec(s.ctx, &taskapi.ExecProcessRequest{ID: "web", ExecID: "e1", Spec: spec("gatewarden", "help"), Stdout: out, Stderr: out})
	s.must(err)
	if st := s.state("web", "e1"); st.Status != task.Status_CREATED || st.Pid != 0 || st.Stdout != out {
		t.Errorf("after Exec: %v", st)
	}
	waited := make(chan uint32, 1)
	go func() { waited <- s.wait("web", "e1") }()
	started, err := s.Start(s.ctx, &taskapi.StartRequest{ID: "web", ExecID: "e1"})
	s.must(err)
	if started.Pid == 0 || started.Pid == initPID {
		t.Errorf("a virtual exec has the PID %d", started.Pid)
	}
	if got := <-waited; got != 0 {
		t.Errorf("exit status %d", got)
	}
	if got := <-text; !strings.Contains(got, "restart") {
		t.Errorf("help printed %q", got)
	}
	if st := s.state("web", "e1"); st.Status != task.Status_STOPPED || st.Pid != started.Pid || st.ExitedAt == nil {
		t.Errorf("after the end: %v", st)
	}
	s.must(s.delete("web", "e1"))
	if _, err := s.State(s.ctx, &taskapi.StateRequest{ID: "web", ExecID: "e1"}); err == nil {
		t.Error("a deleted exec still has a state")
	}
	want := []string{"exec-added web/e1", "exec-started web/e1 shim", "exit web/e1 shim 0"}
	if got := s.execEvents("e1"); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	if s.inner.called("Exec web/e1") || s.inner.called("Start web/e1") {
		t.Error("a virtual exec reached runc's service")
	}
}

func TestTheOrderOfCallsOfCRI(t *testing.T) {
	t.Run("streams are read after Start", func(t *testing.T) {
		s := newShim(t)
		s.run("web")
		out := filepath.Join(t.TempDir(), "out")
		s.must(unix.Mkfifo(out, 0o600))
		r, err := os.OpenFile(out, os.O_RDONLY|unix.O_NONBLOCK, 0)
		s.must(err)
		defer r.Close()
		_, err = s.Exec(s.ctx, &taskapi.ExecProcessRequest{ID: "web", ExecID: "e1", Spec: spec("gatewarden", "help"), Stdout: out})
		s.must(err, s.start("web", "e1"))
		if got := s.wait("web", "e1"); got != 0 {
			t.Errorf("exit status %d", got)
		}
		if data, err := io.ReadAll(r); err != nil || len(data) == 0 {
			t.Errorf("read %q, %v", data, err)
		}
		s.must(s.delete("web", "e1"))
	})
	t.Run("a timeout kills", func(t *testing.T) {
		s := newShim(t)
		w := s.run("web")
		asked := make(chan struct{})
		w.on(control.Restart, func(control.Request, func(control.Message)) {
			close(asked)
			<-w.stop
		})
		s.must(s.exec("web", "e1", "gatewarden", "restart"), s.start("web", "e1"))
		<-asked
		if err := s.delete("web", "e1"); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Delete of a running exec: %v", err)
		}
		s.must(s.kill("web", "e1", uint32(unix.SIGKILL)))
		if got := s.wait("web", "e1"); got != 128+uint32(unix.SIGKILL) {
			t.Errorf("exit status %d", got)
		}
		if err := s.kill("web", "e1", uint32(unix.SIGKILL)); !errdefs.IsNotFound(err) {
			t.Errorf("Kill after the end: %v", err)
		}
		s.must(s.delete("web", "e1"))
		want := []string{"exec-added web/e1", "exec-started web/e1 shim", "exit web/e1 shim 137"}
		if got := s.execEvents("e1"); !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	})
	t.Run("cancelled before Start", func(t *testing.T) {
		s := newShim(t)
		s.run("web")
		s.must(s.exec("web", "e1", "gatewarden", "restart"))
		if err := s.kill("web", "e1", uint32(unix.SIGKILL)); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Kill before Start: %v", err)
		}
		s.must(s.delete("web", "e1"))
		if err := s.start("web", "e1"); err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("Start after Delete: %v", err)
		}
	})
}

func TestADetachedExecIsNeverDeletedAndGoesWithItsContainer(t *testing.T) {
	s := newShim(t)
	s.run("web")
	s.must(s.exec("web", "e1", "gatewarden", "help"), s.start("web", "e1"))
	s.wait("web", "e1")
	if st := s.state("web", "e1"); st.Status != task.Status_STOPPED {
		t.Errorf("state %v", st)
	}
	s.inner.exit("web")
	s.must(s.delete("web", ""))
	if s.managed("web") != nil {
		t.Error("the deleted container's state is still there")
	}
}

func TestARestartByExecTellsTheWardenWhoAsked(t *testing.T) {
	s := newShim(t)
	w := s.run("web")
	w.on(control.Restart, func(_ control.Request, send func(control.Message)) {
		send(control.Message{Done: true, Receipt: &receipt.Receipt{Outcome: receipt.Refused, Code: "paused"}})
	})
	s.must(s.exec("web", "e1", "gatewarden", "restart", "--reason", "why", "--quiet"), s.start("web", "e1"))
	if got := s.wait("web", "e1"); got != 3 {
		t.Errorf("exit status %d of a refused restart, want 3", got)
	}
	if req, _ := w.last(control.Restart); req.Via != "task-exec" || req.Reason != "why" {
		t.Errorf("the warden was asked %+v", req)
	}
}

func TestOnlyAnExactGatewardenInAManagedContainerIsVirtual(t *testing.T) {
	s := newShim(t)
	s.run("web")
	s.create("plain", false)
	for i, args := range [][]string{{"/bin/gatewarden", "restart"}, {"sh", "-c", "gatewarden restart"}, {"Gatewarden"}, {""}, nil} {
		id := fmt.Sprint("e", i)
		s.must(s.exec("web", id, args...), s.start("web", id))
		if !s.inner.called("Exec web/"+id) || !s.inner.called("Start web/"+id) {
			t.Errorf("%q did not reach runc's service", args)
		}
	}
	s.must(s.exec("plain", "e0", "gatewarden", "restart"), s.exec("plain", "gateway", "sh"))
	for _, call := range []string{"Exec plain/e0", "Exec plain/gateway"} {
		if !s.inner.called(call) {
			t.Errorf("no %q: an unmanaged container's exec was taken", call)
		}
	}
}

func TestRequestsForOrdinaryExecsReachTheInnerService(t *testing.T) {
	s := newShim(t)
	s.run("web")
	s.must(s.exec("web", "sh", "sh"), s.start("web", "sh"), s.kill("web", "sh", 15), s.delete("web", "sh"))
	s.state("web", "sh")
	s.wait("web", "sh")
	_, err := s.CloseIO(s.ctx, &taskapi.CloseIORequest{ID: "web", ExecID: "sh"})
	_, err2 := s.ResizePty(s.ctx, &taskapi.ResizePtyRequest{ID: "web", ExecID: "sh"})
	s.must(err, err2, s.kill("web", "", 9))
	for _, call := range []string{"Exec web/sh", "Start web/sh", "Kill web/sh 15", "Delete web/sh", "State web/sh", "Wait web/sh",
		"CloseIO web/sh", "ResizePty web/sh", "Kill web/ 9"} {
		if !s.inner.called(call) {
			t.Errorf("no %q", call)
		}
	}
}

func TestAnExecIDIsGivenOutOnce(t *testing.T) {
	s := newShim(t)
	s.run("web")
	s.must(s.exec("web", "virtual", "gatewarden", "help"), s.exec("web", "real", "sh"))
	tests := []struct {
		id   string
		args []string
	}{
		{"virtual", []string{"gatewarden", "help"}},
		{"virtual", []string{"sh"}},
		{"real", []string{"gatewarden", "help"}},
		{"real", []string{"sh"}},
		{"gateway", []string{"gatewarden", "help"}},
		{"gateway", []string{"sh"}},
	}
	for _, tt := range tests {
		if err := s.exec("web", tt.id, tt.args...); !errdefs.IsAlreadyExists(err) {
			t.Errorf("exec %s of %q: %v", tt.id, tt.args, err)
		}
	}
	if _, err := s.Exec(s.ctx, &taskapi.ExecProcessRequest{ID: "web", ExecID: "bad"}); err == nil {
		t.Error("an exec without a process was accepted")
	}
}

func TestTheInitsExitIsTheLastOfItsContainer(t *testing.T) {
	s := newShim(t)
	w := s.run("web")
	w.on(control.Restart, func(control.Request, func(control.Message)) { <-w.stop })
	s.must(s.exec("web", "e1", "gatewarden", "restart"), s.start("web", "e1"), s.exec("web", "e2", "gatewarden", "help"))
	s.inner.exit("web")
	if err := s.exec("web", "e3", "gatewarden", "help"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Exec after the init's exit: %v", err)
	}
	if err := s.start("web", "e2"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Start after the init's exit: %v", err)
	}
	w.tell(control.Event{Kind: "exited", PID: extraPID, ExitCode: 137})
	events := s.events.until(t, "exit web/web")
	want := []string{"exit web/gateway 4001 137", "exit web/e1 shim 137", "exit web/web 4000 0"}
	if got := events[len(events)-3:]; !slices.Equal(got, want) {
		t.Errorf("events end with %q, want %q", got, want)
	}
	s.must(s.delete("web", ""))
	s.events.until(t, "delete web")
}

func TestTheInitsExitDoesNotWaitForAWardenThatIsGone(t *testing.T) {
	s := newShim(t)
	w := s.run("web")
	s.must(os.RemoveAll(control.Dir(s.runDir, namespace, "web")))
	w.hangUp()
	begin := time.Now()
	s.inner.exit("web")
	events := s.events.until(t, "exit web/web")
	if took := time.Since(begin); took > exitGrace {
		t.Errorf("it took %v", took)
	}
	want := []string{"exit web/gateway 4001 137", "exit web/web 4000 0"}
	if got := events[len(events)-2:]; !slices.Equal(got, want) {
		t.Errorf("events end with %q, want %q", got, want)
	}
}

func TestADeleteDoesNotOvertakeTheExits(t *testing.T) {
	s := newShim(t)
	w := s.run("web")
	w.on(control.Restart, func(control.Request, func(control.Message)) { <-w.stop })
	s.must(s.exec("web", "e1", "gatewarden", "restart"), s.start("web", "e1"))
	s.inner.exit("web")
	s.must(s.delete("web", ""))
	events := s.events.until(t, "delete web")
	want := []string{"exit web/web 4000 0", "delete web"}
	if got := events[len(events)-2:]; !slices.Equal(got, want) {
		t.Errorf("events end with %q, want %q", got, want)
	}
	for _, e := range []string{"exit web/gateway 4001 137", "exit web/e1 shim 137"} {
		if !slices.Contains(events, e) {
			t.Errorf("no %q among %q", e, events)
		}
	}
}

func TestASlowContainerdDelaysNoRequest(t *testing.T) {
	s := newShim(t)
	s.run("web")
	s.events.block = make(chan struct{})
	begin := time.Now()
	s.must(s.exec("web", "e1", "gatewarden", "help"), s.start("web", "e1"))
	s.wait("web", "e1")
	s.must(s.delete("web", "e1"))
	if took := time.Since(begin); took > waitFor/2 {
		t.Errorf("the exec took %v", took)
	}
	flushed := make(chan error, 1)
	go func() { flushed <- s.publisher.flush(s.ctx) }()
	select {
	case <-flushed:
		t.Error("flush returned with events under way")
	case <-time.After(20 * time.Millisecond):
	}
	close(s.events.block)
	s.must(<-flushed)
	s.execEvents("e1")
}

func TestContainersOfOneShimAreApart(t *testing.T) {
	s := newShim(t)
	s.run("a")
	s.run("b")
	s.must(s.exec("a", "e", "gatewarden", "help"), s.exec("b", "e", "gatewarden", "help"))
	s.inner.exit("a")
	s.must(s.delete("a", ""))
	s.events.until(t, "delete a")
	s.must(s.start("b", "e"))
	if got := s.wait("b", "e"); got != 0 {
		t.Errorf("exit status %d", got)
	}
	if st := s.state("b", "gateway"); st.Status != task.Status_RUNNING {
		t.Errorf("the other container's gateway is %v", st.Status)
	}
}

func TestAnIDCanBeUsedAgain(t *testing.T) {
	s := newShim(t)
	w := s.run("web")
	s.inner.exit("web")
	s.must(s.delete("web", ""))
	s.events.until(t, "delete web")
	w.hangUp()
	if _, err := s.Create(s.ctx, &taskapi.CreateTaskRequest{ID: "web", Bundle: s.bundle(nil)}); err != nil {
		t.Fatal(err)
	}
	if s.managed("web") != nil {
		t.Error("the second container is managed by its predecessor's annotation")
	}
	s.inner.exit("web")
	events := s.events.until(t, "exit web/web")
	if got := events[len(events)-2:]; !slices.Equal(got, []string{"create web", "exit web/web 4000 0"}) {
		t.Errorf("events end with %q", got)
	}
}
