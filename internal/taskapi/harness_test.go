package taskapi

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/control/controltest"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

// waitFor bounds every wait of these tests for something that must happen.
const waitFor = 10 * time.Second

const (
	namespace = "ns"
	initPID   = 4000
	extraPID  = 4001
)

// recorder is the shim's publisher: it writes down what reaches containerd.
type recorder struct {
	mu     sync.Mutex
	events []string
	more   chan struct{}
	block  chan struct{} // if set, Publish waits for it
}

func (r *recorder) Publish(ctx context.Context, topic string, event events.Event) error {
	if r.block != nil {
		<-r.block
	}
	if ns, ok := namespaces.Namespace(ctx); !ok || ns != namespace {
		return fmt.Errorf("event in namespace %q", ns)
	}
	_, isReceipt := event.(*eventsapi.ContainerUpdate) // containerd publishes these itself
	if isReceipt && topic != receiptTopic || !isReceipt && topic != runtime.GetTopic(event) {
		return fmt.Errorf("topic %q of a %T", topic, event)
	}
	var s string
	switch e := event.(type) {
	case *eventsapi.TaskCreate:
		s = "create " + e.ContainerID
	case *eventsapi.TaskStart:
		s = "start " + e.ContainerID
	case *eventsapi.TaskDelete:
		s = "delete " + e.ContainerID
	case *eventsapi.TaskExecAdded:
		s = "exec-added " + e.ContainerID + "/" + e.ExecID
	case *eventsapi.TaskExecStarted:
		s = fmt.Sprintf("exec-started %s/%s %d", e.ContainerID, e.ExecID, e.Pid)
	case *eventsapi.ContainerUpdate:
		s = fmt.Sprintf("receipt %s/%s seq %s %s", e.ID, e.Labels["id"], e.Labels["seq"], e.Labels["action"])
	case *eventsapi.TaskExit:
		s = fmt.Sprintf("exit %s/%s %d %d", e.ContainerID, e.ID, e.Pid, e.ExitStatus)
	default:
		s = fmt.Sprintf("%T", e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, strings.ReplaceAll(s, fmt.Sprintf(" %d", os.Getpid()), " shim"))
	close(r.more)
	r.more = make(chan struct{})
	return nil
}

func (r *recorder) Close() error { return nil }

// until waits until an event with this prefix was published, and gives all that were.
func (r *recorder) until(t *testing.T, prefix string) []string {
	t.Helper()
	timeout := time.After(waitFor)
	for {
		r.mu.Lock()
		seen, more := slices.Clone(r.events), r.more
		r.mu.Unlock()
		if slices.ContainsFunc(seen, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
			return seen
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("no event %q among %q", prefix, seen)
		}
	}
}

// inner stands for runc's task service.
type inner struct {
	taskapi.TTRPCTaskService // nil: what is not below must not be called
	events                   *publisher

	mu      sync.Mutex
	calls   []string
	execs   map[string]bool
	options *anypb.Any
	failure error // of Create
}

func (i *inner) call(format string, args ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls = append(i.calls, fmt.Sprintf(format, args...))
}

func (i *inner) called(call string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Contains(i.calls, call)
}

func (i *inner) send(event events.Event) {
	i.events.Publish(i.events.ctx, runtime.GetTopic(event), event)
}

func (i *inner) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	i.call("Create %s", r.ID)
	i.options = r.Options
	if i.failure != nil {
		return nil, i.failure
	}
	i.send(&eventsapi.TaskCreate{ContainerID: r.ID, Pid: initPID})
	return &taskapi.CreateTaskResponse{Pid: initPID}, nil
}

func (i *inner) Start(_ context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	i.call("Start %s/%s", r.ID, r.ExecID)
	if r.ExecID == "" {
		i.send(&eventsapi.TaskStart{ContainerID: r.ID, Pid: initPID})
	}
	return &taskapi.StartResponse{Pid: initPID}, nil
}

// exit is the death of the init process.
func (i *inner) exit(id string) {
	i.send(&eventsapi.TaskExit{ContainerID: id, ID: id, Pid: initPID, ExitStatus: 0})
}

func (i *inner) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	i.call("Exec %s/%s", r.ID, r.ExecID)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.execs[r.ID+"/"+r.ExecID] {
		return nil, errgrpc.ToGRPC(errdefs.ErrAlreadyExists)
	}
	i.execs[r.ID+"/"+r.ExecID] = true
	return &emptypb.Empty{}, nil
}

func (i *inner) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	i.call("State %s/%s", r.ID, r.ExecID)
	i.mu.Lock()
	defer i.mu.Unlock()
	if r.ExecID != "" && !i.execs[r.ID+"/"+r.ExecID] {
		return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
	}
	return &taskapi.StateResponse{ID: r.ID, Pid: initPID, Status: task.Status_RUNNING}, nil
}

func (i *inner) Delete(_ context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	i.call("Delete %s/%s", r.ID, r.ExecID)
	if r.ExecID == "" {
		i.send(&eventsapi.TaskDelete{ContainerID: r.ID, Pid: initPID})
	}
	return &taskapi.DeleteResponse{Pid: initPID}, nil
}

func (i *inner) Kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	i.call("Kill %s/%s %d", r.ID, r.ExecID, r.Signal)
	return &emptypb.Empty{}, nil
}

func (i *inner) Wait(_ context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	i.call("Wait %s/%s", r.ID, r.ExecID)
	return &taskapi.WaitResponse{ExitStatus: 42}, nil
}

func (i *inner) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	i.call("CloseIO %s/%s", r.ID, r.ExecID)
	return &emptypb.Empty{}, nil
}

func (i *inner) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	i.call("ResizePty %s/%s", r.ID, r.ExecID)
	return &emptypb.Empty{}, nil
}

func (i *inner) Checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	i.call("checkpoint %s", r.ID)
	return &emptypb.Empty{}, nil
}

func (i *inner) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	i.call("Pids %s", r.ID)
	return &taskapi.PidsResponse{Processes: []*task.ProcessInfo{{Pid: initPID}, {Pid: extraPID}, {Pid: extraPID + 1}}}, nil
}

// warden is a container's warden as far as the shim sees it.
type warden struct {
	t *testing.T

	mu       sync.Mutex
	requests []control.Request
	answer   map[control.Verb]func(control.Request, func(control.Message))
	present  control.Event
	streams  []chan control.Event
	stop     chan struct{}
}

// newWarden serves the container's control socket. Until told otherwise its gateway starts, and the first await is
// answered at once.
func newWarden(t *testing.T, dir string) *warden {
	w := &warden{t: t, stop: make(chan struct{}), present: control.Event{Kind: "starting"}, answer: map[control.Verb]func(control.Request, func(control.Message)){}}
	w.on(control.Await, func(_ control.Request, send func(control.Message)) {
		send(control.Message{Done: true, Receipt: &receipt.Receipt{Outcome: receipt.Replaced}})
	})
	controltest.Serve(t, dir, w.handle)
	t.Cleanup(func() { close(w.stop) })
	return w
}

func (w *warden) on(verb control.Verb, answer func(control.Request, func(control.Message))) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer[verb] = answer
}

func (w *warden) handle(req control.Request, send func(control.Message)) {
	w.mu.Lock()
	w.requests = append(w.requests, req)
	answer := w.answer[req.Verb]
	w.mu.Unlock()
	if req.Verb == control.Watch {
		w.watch(send)
		return
	}
	if answer != nil {
		answer(req, send)
	}
}

func (w *warden) watch(send func(control.Message)) {
	w.mu.Lock()
	stream := make(chan control.Event, 16)
	w.streams = append(w.streams, stream)
	first := w.present
	w.mu.Unlock()
	send(control.Message{Event: &first})
	for {
		select {
		case e, ok := <-stream:
			if !ok {
				return
			}
			send(control.Message{Event: &e})
		case <-w.stop:
			return
		}
	}
}

// tell streams an event, and is asked from now on for the state that follows from it.
func (w *warden) tell(e control.Event) {
	e.Time = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.present = e
	if e.Kind == "exited" {
		w.present = control.Event{Kind: "backoff", Time: e.Time}
	}
	for _, s := range w.streams {
		s <- e
	}
}

// hangUp ends the streams.
func (w *warden) hangUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.streams {
		close(s)
	}
	w.streams = nil
}

func (w *warden) last(verb control.Verb) (req control.Request, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.requests {
		if r.Verb == verb {
			req, ok = r, true
		}
	}
	return req, ok
}

// testShim is a Service with everything around it.
type testShim struct {
	*Service
	t      *testing.T
	ctx    context.Context
	events *recorder
	inner  *inner
	runDir string
	kept   string // the state directory
}

func newShim(t *testing.T) *testShim {
	base, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), namespace), waitFor)
	t.Cleanup(cancel)
	rec := &recorder{more: make(chan struct{})}
	p := newPublisher(base, rec)
	in := &inner{events: p, execs: map[string]bool{}}
	s := &testShim{t: t, ctx: base, events: rec, inner: in, runDir: t.TempDir(), kept: t.TempDir()}
	cfg := config.Default()
	cfg.RunDir, cfg.StateDir = s.runDir, s.kept
	cfg.Hook = filepath.Join(t.TempDir(), "gatewarden-hook")
	if err := os.WriteFile(cfg.Hook, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Service = newService(in, p, func() (settings, error) { return settings{Config: cfg, path: "/etc/other.toml"}, nil })
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.containers {
			c.close()
		}
	})
	return s
}

// bundle makes a bundle with the given annotations.
func (s *testShim) bundle(annotations map[string]string) string {
	s.t.Helper()
	dir := s.t.TempDir()
	data, err := json.Marshal(specs.Spec{Version: "1.2.0", Annotations: annotations})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// create creates a container; with a gateway its warden is there before.
func (s *testShim) create(id string, managed bool) *warden {
	s.t.Helper()
	var annotations map[string]string
	var w *warden
	if managed {
		annotations = map[string]string{oci.GatewayAnnotation: "demo"}
		w = newWarden(s.t, control.Dir(s.runDir, namespace, id))
	}
	if _, err := s.Create(s.ctx, &taskapi.CreateTaskRequest{ID: id, Bundle: s.bundle(annotations)}); err != nil {
		s.t.Fatal(err)
	}
	return w
}

// run creates and starts a managed container whose gateway runs with the PID extraPID.
func (s *testShim) run(id string) *warden {
	s.t.Helper()
	w := s.create(id, true)
	if _, err := s.Start(s.ctx, &taskapi.StartRequest{ID: id}); err != nil {
		s.t.Fatal(err)
	}
	w.tell(control.Event{Kind: "running", PID: extraPID})
	s.events.until(s.t, fmt.Sprintf("exec-started %s/gateway %d", id, extraPID))
	return w
}

// spec is the process of an exec.
func spec(args ...string) *anypb.Any {
	data, err := json.Marshal(specs.Process{Args: args})
	if err != nil {
		panic(err)
	}
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data}
}

func (s *testShim) exec(id, execID string, args ...string) error {
	_, err := s.Exec(s.ctx, &taskapi.ExecProcessRequest{ID: id, ExecID: execID, Spec: spec(args...)})
	return errgrpc.ToNative(err)
}

func (s *testShim) start(id, execID string) error {
	_, err := s.Start(s.ctx, &taskapi.StartRequest{ID: id, ExecID: execID})
	return errgrpc.ToNative(err)
}

func (s *testShim) kill(id, execID string, sig uint32) error {
	_, err := s.Kill(s.ctx, &taskapi.KillRequest{ID: id, ExecID: execID, Signal: sig})
	return errgrpc.ToNative(err)
}

func (s *testShim) delete(id, execID string) error {
	_, err := s.Delete(s.ctx, &taskapi.DeleteRequest{ID: id, ExecID: execID})
	return errgrpc.ToNative(err)
}

// must fails the test for any of errs.
func (s *testShim) must(errs ...error) {
	s.t.Helper()
	for _, err := range errs {
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *testShim) state(id, execID string) *taskapi.StateResponse {
	s.t.Helper()
	st, err := s.State(s.ctx, &taskapi.StateRequest{ID: id, ExecID: execID})
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

func (s *testShim) wait(id, execID string) uint32 {
	s.t.Helper()
	w, err := s.Wait(s.ctx, &taskapi.WaitRequest{ID: id, ExecID: execID})
	if err != nil {
		s.t.Fatal(err)
	}
	return w.ExitStatus
}
