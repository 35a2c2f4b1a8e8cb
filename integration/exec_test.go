//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/gatewarden/gatewarden/integration/harness"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// withTime is a context of the host's namespace for one call order.
func withTime(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(host.Context(context.Background()), commandTime)
	t.Cleanup(cancel)
	return ctx
}

func processOf(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", NoNewPrivileges: true, User: specs.User{UID: harness.WorkloadUID, GID: harness.WorkloadUID}}
}

// newExec adds an exec with its standard output to out.
func newExec(t *testing.T, ctx context.Context, c *container, out io.Writer, args ...string) containerd.Process {
	t.Helper()
	p, err := c.task().Exec(ctx, uniqueID("x"), processOf(args...), cio.NewCreator(cio.WithStreams(nil, out, io.Discard)))
	if err != nil {
		t.Fatalf("exec %v: %v", args, err)
	}
	return p
}

func statusOf(t *testing.T, ctx context.Context, p containerd.Process) containerd.Status {
	t.Helper()
	s, err := p.Status(ctx)
	if err != nil {
		t.Fatalf("status of exec %s: %v", p.ID(), err)
	}
	return s
}

func exitOf(t *testing.T, exits <-chan containerd.ExitStatus) uint32 {
	t.Helper()
	select {
	case e := <-exits:
		if e.Error() != nil {
			t.Fatalf("wait: %v", e.Error())
		}
		return e.ExitCode()
	case <-time.After(commandTime):
		t.Fatal("the exec does not end")
		return 0
	}
}

func TestAVirtualExecTakesTheCallsInTheOrderOfCtrAndCRI(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	ctx := withTime(t)
	var out bytes.Buffer
	p := newExec(t, ctx, c, &out, "gatewarden", "restart", "--json")
	if s := statusOf(t, ctx, p); s.Status != containerd.Created {
		t.Errorf("before its start the exec is %s", s.Status)
	}
	exits, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if pid := p.Pid(); pid == 0 || int(pid) == c.init() {
		t.Errorf("the exec's PID is %d; the container's init is %d", pid, c.init())
	}
	if got := exitOf(t, exits); got != 0 {
		t.Errorf("exit status %d", got)
	}
	if s := statusOf(t, ctx, p); s.Status != containerd.Stopped || s.ExitStatus != 0 {
		t.Errorf("after its end the exec is %+v", s)
	}
	p.IO().Wait()
	if got := decode[receipt.Receipt](t, out.String()); got.Outcome != receipt.Replaced {
		t.Errorf("outcome %s", got.Outcome)
	}
	if _, err := p.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Status(ctx); !errdefs.IsNotFound(err) {
		t.Errorf("a deleted exec has a status: %v", err)
	}
}

func TestAVirtualExecThatNobodyWaitsForEndsAndCanBeDeleted(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	if r := c.ctr("task", "exec", "-d", "--exec-id", uniqueID("e"), c.id, "gatewarden", "restart"); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	c.waitFor("the restart is done", func(s receipt.Status) bool { return s.State == receipt.Running && s.Restarts.Asked == 1 })

	ctx := withTime(t)
	p, err := c.task().Exec(ctx, uniqueID("x"), processOf("gatewarden", "status"), cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	var s containerd.Status
	eventually(t, eventTime, "the exec has ended", func() bool {
		s = statusOf(t, ctx, p)
		return s.Status == containerd.Stopped
	}, func() string { return fmt.Sprintf("%+v", s) })
	// A late Wait gets the exit status too.
	exits, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := exitOf(t, exits); got != 0 {
		t.Errorf("exit status %d", got)
	}
	if _, err := p.Delete(ctx); err != nil {
		t.Error(err)
	}
}

func TestAVirtualExecThatWasNeverStartedCanBeDeleted(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	ctx := withTime(t)
	p, err := c.task().Exec(ctx, "never", processOf("gatewarden", "restart"), cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.task().Exec(ctx, "never", processOf("gatewarden", "status"), cio.NullIO); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second exec of the same id: %v", err)
	}
	if _, err := p.Delete(ctx); err != nil {
		t.Error(err)
	}
	if s := c.status(); s.Restarts.Asked != 0 {
		t.Error("an exec that was never started restarted the gateway")
	}
}

func TestAVirtualExecThatIsKilledLeavesTheRestartToTheWarden(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--ignore-term"}, Stop: "timeout = \"1s\""}})
	before := c.status()
	ctx := withTime(t)
	p := newExec(t, ctx, c, io.Discard, "gatewarden", "restart")
	exits, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	c.waitFor("the gateway is being stopped", func(s receipt.Status) bool { return s.State == receipt.Stopping })
	if err := p.Kill(ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := exitOf(t, exits); got != 128+9 {
		t.Errorf("exit status %d, want 137", got)
	}
	if err := p.Kill(ctx, syscall.SIGKILL); err == nil {
		t.Error("an exec that has ended was killed again")
	}
	if _, err := p.Delete(ctx); err != nil {
		t.Error(err)
	}
	// What the warden has begun it finishes.
	after := c.waitFor("the restart is done", func(s receipt.Status) bool { return s.State == receipt.Running && s.PID != before.PID })
	if after.Restarts.Asked != 1 || after.Restarts.Unasked != 0 {
		t.Errorf("restarts are %+v", after.Restarts)
	}
}

// TestAVirtualExecThatTimesOutIsKilledAsCRIDoesIt is ExecSync with a timeout: the kill comes from a context of its own.
func TestAVirtualExecThatTimesOutIsKilledAsCRIDoesIt(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--ignore-term"}, Stop: "timeout = \"1s\""}})
	ctx := withTime(t)
	p := newExec(t, ctx, c, io.Discard, "gatewarden", "restart")
	exits, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-exits:
		t.Fatalf("the restart ended before its time: %v", e)
	case <-time.After(200 * time.Millisecond):
	}
	if err := p.Kill(ctx, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	exitOf(t, exits)
	if _, err := p.Delete(ctx, containerd.WithProcessKill); err != nil {
		t.Error(err)
	}
	c.waitFor("the restart is done", func(s receipt.Status) bool { return s.State == receipt.Running && s.Restarts.Asked == 1 })
}

func TestARestartWithItsOwnTimeoutEndsWithTheDeadlinesStatus(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--ignore-term"}, Stop: "timeout = \"2s\""}})
	begin := time.Now()
	r := c.tryRestart("--timeout", "300ms")
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the answer came after %v", took)
	}
	if r.Status != code.ExitDeadline || !strings.Contains(r.Stdout+r.Stderr, string(code.Deadline)) {
		t.Errorf("the passed deadline is not told:\n%v", r)
	}
	c.waitFor("a gateway runs again", func(s receipt.Status) bool { return s.State == receipt.Running })
}

func TestAVirtualExecWorksWithAnyStdio(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	start := func(t *testing.T, r *tasks.ExecProcessRequest) {
		t.Helper()
		ctx := withTime(t)
		spec, err := typeurl.MarshalAnyToProto(processOf("gatewarden", "status"))
		if err != nil {
			t.Fatal(err)
		}
		r.ContainerID, r.ExecID, r.Spec = c.id, uniqueID("x"), spec
		service := host.Client().TaskService()
		if _, err := service.Exec(ctx, r); err != nil {
			t.Fatalf("exec: %v", errgrpc.ToNative(err))
		}
		if _, err := service.Start(ctx, &tasks.StartRequest{ContainerID: c.id, ExecID: r.ExecID}); err != nil {
			t.Fatalf("start: %v", errgrpc.ToNative(err))
		}
		w, err := service.Wait(ctx, &tasks.WaitRequest{ContainerID: c.id, ExecID: r.ExecID})
		if err != nil {
			t.Fatalf("wait: %v", errgrpc.ToNative(err))
		}
		if w.ExitStatus != 0 {
			t.Errorf("exit status %d", w.ExitStatus)
		}
		if _, err := service.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: c.id, ExecID: r.ExecID}); err != nil {
			t.Errorf("delete: %v", errgrpc.ToNative(err))
		}
	}
	fifo := func(t *testing.T) (path string, read func() string) {
		t.Helper()
		path = filepath.Join(t.TempDir(), "fifo")
		mkfifo(t, path)
		data := make(chan string, 1)
		go func() {
			f, err := os.Open(path)
			if err != nil {
				data <- err.Error()
				return
			}
			defer f.Close()
			all, err := io.ReadAll(f)
			if err != nil {
				all = append(all, err.Error()...)
			}
			data <- string(all)
		}()
		return path, func() string {
			select {
			case s := <-data:
				return s
			case <-time.After(eventTime):
				return "nothing: the FIFO does not end"
			}
		}
	}
	t.Run("closed", func(t *testing.T) { start(t, &tasks.ExecProcessRequest{}) })
	t.Run("null", func(t *testing.T) {
		start(t, &tasks.ExecProcessRequest{Stdin: os.DevNull, Stdout: os.DevNull, Stderr: os.DevNull})
	})
	t.Run("FIFO", func(t *testing.T) {
		out, read := fifo(t)
		start(t, &tasks.ExecProcessRequest{Stdout: out})
		if got := read(); !strings.Contains(got, "running") {
			t.Errorf("the FIFO gave %q", got)
		}
	})
	t.Run("FIFO whose reader goes away", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "fifo")
		mkfifo(t, out)
		go func() {
			if f, err := os.Open(out); err == nil {
				f.Close()
			}
		}()
		start(t, &tasks.ExecProcessRequest{Stdout: out})
	})
	t.Run("file", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		start(t, &tasks.ExecProcessRequest{Stdout: "file://" + out})
		if got, err := os.ReadFile(out); err != nil || !strings.Contains(string(got), "running") {
			t.Errorf("the file holds %q (%v)", got, err)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		out, read := fifo(t)
		start(t, &tasks.ExecProcessRequest{Stdout: out, Terminal: true})
		got := read()
		if !strings.Contains(got, "running") {
			t.Errorf("the terminal got %q", got)
		}
		if strings.Contains(strings.ReplaceAll(got, "\r\n", ""), "\n") {
			t.Errorf("a line feed without carriage return for a raw terminal: %q", got)
		}
	})
}

func TestTheExecIDGatewayShowsTheGatewayProcess(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	ctx := withTime(t)
	s := c.status()
	gateway, err := c.task().LoadProcess(ctx, "gateway", nil)
	if err != nil {
		t.Fatal(err)
	}
	// The client's Process has no PID unless it started it.
	got, err := host.Client().TaskService().Get(ctx, &tasks.GetRequest{ContainerID: c.id, ExecID: "gateway"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Process.Status != tasktypes.Status_RUNNING || int(got.Process.Pid) != s.PID {
		t.Errorf("exec gateway is %v, want PID %d running", got.Process, s.PID)
	}
	pids, err := c.task().Pids(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(pids, func(p containerd.ProcessInfo) bool { return int(p.Pid) == s.PID }) {
		t.Errorf("the task's PIDs %v lack the gateway's %d", pids, s.PID)
	}
	exits, err := gateway.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.restart()
	if got := exitOf(t, exits); got != 0 {
		t.Errorf("the gateway's exit status was %d, want 0", got)
	}
	if _, err := c.task().Exec(ctx, "gateway", processOf("true"), cio.NullIO); err == nil {
		t.Error("an ordinary exec took the id \"gateway\"")
	}
}

func TestEventsComeInTheOrderThatContainerdDemands(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	ctx, cancel := context.WithCancel(host.Context(context.Background()))
	defer cancel()
	stream, errs := subscribe(t, ctx, `topic~="^/tasks/"`)
	old := c.status()
	x := uniqueID("x")
	if r := c.ctr("task", "exec", "--exec-id", x, c.id, "gatewarden", "restart"); r.Status != 0 {
		t.Fatalf("%v", r)
	}
	current := c.status()
	killProcess(t, c.init())

	var seen []string
	note := func(e *events.Envelope) (last bool) {
		v, err := typeurl.UnmarshalAny(e.Event)
		if err != nil {
			t.Fatal(err)
		}
		switch e := v.(type) {
		case *eventsapi.TaskExecAdded:
			seen = append(seen, "added "+e.ExecID)
		case *eventsapi.TaskExecStarted:
			seen = append(seen, fmt.Sprintf("started %s", e.ExecID))
			if e.ExecID == "gateway" && int(e.Pid) != current.PID {
				t.Errorf("the gateway that started is PID %d, want %d", e.Pid, current.PID)
			}
		case *eventsapi.TaskExit:
			if e.ContainerID != c.id {
				return false
			}
			seen = append(seen, "exit "+e.ID)
			if e.ID == "gateway" && !slices.Contains([]int{old.PID, current.PID}, int(e.Pid)) {
				t.Errorf("the gateway that exited is PID %d, want %d or %d", e.Pid, old.PID, current.PID)
			}
			return e.ID == c.id
		}
		return false
	}
	for last := false; !last; {
		select {
		case e := <-stream:
			last = note(e)
		case err := <-errs:
			t.Fatalf("events: %v", err)
		case <-time.After(eventTime):
			t.Fatalf("the container's exit event does not come; so far %v", seen)
		}
	}
	position := func(event string) int {
		i := slices.Index(seen, event)
		if i < 0 {
			t.Errorf("no event %q in %v", event, seen)
		}
		return i
	}
	// Each exec's own events are in order, and the init's exit is the last of all. Between two execs nothing is demanded.
	for _, order := range [][]string{
		{"added " + x, "started " + x, "exit " + x, "exit " + c.id},
		{"exit gateway", "started gateway", "exit " + c.id},
	} {
		for i := range len(order) - 1 {
			if position(order[i]) > position(order[i+1]) {
				t.Errorf("%q came after %q: %v", order[i], order[i+1], seen)
			}
		}
	}
	exits := 0
	for _, e := range seen {
		if e == "exit gateway" {
			exits++
		}
	}
	if exits != 2 {
		t.Errorf("%d exits of the gateway were told, want 2: %v", exits, seen)
	}
}

func TestVirtualExecsOfEachVerbAnswer(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{Args: []string{"--say", "hello from the gateway"}}})
	for _, test := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"status"}, 0, "running"},
		{[]string{"status", "--json"}, 0, `"state":"running"`},
		{[]string{"restart", "--reason", "test"}, 0, c.id},
		{[]string{"recover"}, 0, ""},
		{[]string{"probe"}, 0, "200"},
		{[]string{"logs"}, 0, "hello from the gateway"},
		{[]string{"receipts"}, 0, "restart"},
		{[]string{"help"}, 0, "restart"},
		{[]string{}, code.ExitUsage, "usage"},
		{[]string{"frobnicate"}, code.ExitUsage, "frobnicate"},
		{[]string{"restart", "--timeout", "-1s"}, code.ExitUsage, "timeout"},
		{[]string{"ps"}, code.ExitUsage, "ps"},
		{[]string{"status", "--quiet"}, 0, ""},
	} {
		r := c.exec(append([]string{"gatewarden"}, test.args...)...)
		if r.Status != test.status || !strings.Contains(r.Stdout+r.Stderr, test.want) {
			t.Errorf("gatewarden %s: want exit status %d and %q:\n%v", strings.Join(test.args, " "), test.status, test.want, r)
		}
	}
	// Its arguments only: no shell, no path, no other name.
	for _, args := range [][]string{{"/gatewarden", "status"}, {"sh", "-c", "gatewarden status"}} {
		if r := c.exec(args...); r.Status == 0 {
			t.Errorf("%v was taken for a virtual exec:\n%v", args, r)
		}
	}
}

func TestAnErrorOfTaskKillCarriesItsCode(t *testing.T) {
	c := run(t, options{profile: &harness.Profile{}})
	writeProfile(t, c.id, "version = 1\nnonsense = true\n")
	r := c.ctr("task", "kill", "--exec-id", "gateway", "-s", "TERM", c.id)
	if r.Status == 0 || !strings.Contains(r.Stderr, string(code.InvalidProfile)) || !strings.Contains(r.Stderr, "nonsense") {
		t.Errorf("the error does not tell what is wrong:\n%v", r)
	}
	if _, err := json.Marshal(c.status()); err != nil {
		t.Error(err)
	}
}
