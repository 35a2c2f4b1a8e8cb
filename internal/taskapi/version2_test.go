package taskapi

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"testing"

	version2api "github.com/containerd/containerd/api/runtime/task/v2"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
)

// echo is a task service that keeps the request that it got last and fills every field of its answer.
type echo struct {
	method   string
	request  proto.Message
	response proto.Message
}

func answer[Response any](e *echo, method string, request proto.Message) (*Response, error) {
	response := new(Response)
	e.method, e.request, e.response = method, request, any(response).(proto.Message)
	fill(e.response.ProtoReflect())
	return response, nil
}

func (e *echo) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return answer[taskapi.StateResponse](e, "State", r)
}
func (e *echo) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	return answer[taskapi.CreateTaskResponse](e, "Create", r)
}
func (e *echo) Start(_ context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return answer[taskapi.StartResponse](e, "Start", r)
}
func (e *echo) Delete(_ context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	return answer[taskapi.DeleteResponse](e, "Delete", r)
}
func (e *echo) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	return answer[taskapi.PidsResponse](e, "Pids", r)
}
func (e *echo) Pause(_ context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return answer[emptypb.Empty](e, "Pause", r)
}
func (e *echo) Resume(_ context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return answer[emptypb.Empty](e, "Resume", r)
}
func (e *echo) Checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return answer[emptypb.Empty](e, "Checkpoint", r)
}
func (e *echo) Kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	return answer[emptypb.Empty](e, "Kill", r)
}
func (e *echo) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	return answer[emptypb.Empty](e, "Exec", r)
}
func (e *echo) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return answer[emptypb.Empty](e, "ResizePty", r)
}
func (e *echo) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	return answer[emptypb.Empty](e, "CloseIO", r)
}
func (e *echo) Update(_ context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return answer[emptypb.Empty](e, "Update", r)
}
func (e *echo) Wait(_ context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	return answer[taskapi.WaitResponse](e, "Wait", r)
}
func (e *echo) Stats(_ context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return answer[taskapi.StatsResponse](e, "Stats", r)
}
func (e *echo) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return answer[taskapi.ConnectResponse](e, "Connect", r)
}
func (e *echo) Shutdown(_ context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	return answer[emptypb.Empty](e, "Shutdown", r)
}

// fill sets every field of m, each to a value of its own.
func fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsList():
			list := m.Mutable(f).List()
			if f.Message() == nil {
				list.Append(scalar(f))
				continue
			}
			fill(list.AppendMutable().Message())
		case f.IsMap():
			key := scalar(f.MapKey()).MapKey()
			if f.MapValue().Message() == nil {
				m.Mutable(f).Map().Set(key, scalar(f.MapValue()))
				continue
			}
			fill(m.Mutable(f).Map().Mutable(key).Message())
		case f.Message() != nil:
			fill(m.Mutable(f).Message())
		default:
			m.Set(f, scalar(f))
		}
	}
}

func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := int32(f.Number())
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(n)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(n))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%s %d", f.Name(), n))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(fmt.Appendf(nil, "%s %d", f.Name(), n))
	}
	panic(fmt.Sprintf("field %s is of kind %v, which this test does not know", f.FullName(), f.Kind()))
}

func TestEveryFieldOfEveryCallOfTaskVersion2ReachesTheServiceAndComesBack(t *testing.T) {
	// The shim's interceptor is in the way, as in the shim.
	traced := 0
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(
		func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
			traced++
			return method(ctx, unmarshal)
		}))
	if err != nil {
		t.Fatal(err)
	}
	service := &echo{}
	registerVersion2(server, service)
	socket, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), socket) }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	conn, err := net.Dial("unix", socket.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	connection := ttrpc.NewClient(conn)
	t.Cleanup(func() { connection.Close() })
	client := reflect.ValueOf(version2api.NewTTRPCTaskClient(connection))
	calls := reflect.TypeFor[version2api.TTRPCTaskService]()
	for i := range calls.NumMethod() {
		name := calls.Method(i).Name
		t.Run(name, func(t *testing.T) {
			call := client.MethodByName(name)
			request := reflect.New(call.Type().In(1).Elem())
			sent := request.Interface().(proto.Message)
			fill(sent.ProtoReflect())
			out := call.Call([]reflect.Value{reflect.ValueOf(t.Context()), request})
			if err, _ := out[1].Interface().(error); err != nil {
				t.Fatal(err)
			}
			if service.method != name {
				t.Errorf("%s was called", service.method)
			}
			same(t, sent, service.request)
			same(t, service.response, out[0].Interface().(proto.Message))
		})
	}
	if traced != calls.NumMethod() {
		t.Errorf("the interceptor saw %d of %d calls", traced, calls.NumMethod())
	}
}

// same checks that two messages of the same name are filled, and have the same fields with the same values.
func same(t *testing.T, sent, got proto.Message) {
	t.Helper()
	a, b := sent.ProtoReflect(), got.ProtoReflect()
	if a.Descriptor().Name() != b.Descriptor().Name() {
		t.Errorf("a %s became a %s", a.Descriptor().FullName(), b.Descriptor().FullName())
	}
	if len(b.GetUnknown()) > 0 {
		t.Errorf("%s has fields that %s has not: %x", a.Descriptor().FullName(), b.Descriptor().FullName(), b.GetUnknown())
	}
	fields, others := a.Descriptor().Fields(), b.Descriptor().Fields()
	if fields.Len() != others.Len() {
		t.Errorf("%s has %d fields, %s has %d", a.Descriptor().FullName(), fields.Len(), b.Descriptor().FullName(), others.Len())
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		g := others.ByNumber(f.Number())
		if g == nil || f.Name() != g.Name() || !a.Has(f) || !b.Has(g) || !a.Get(f).Equal(b.Get(g)) {
			t.Errorf("field %s is %v, not %v, as field %v", f.FullName(), b.Get(g), a.Get(f), g)
		}
	}
}

func TestTheServiceIsServedUnderBothVersions(t *testing.T) {
	s := newShim(t)
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RegisterTTRPC(server); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{version2, "containerd.task.v3.Task"} {
		if !registered(server, name) {
			t.Errorf("%s is not served", name)
		}
	}
}

// registered tells whether server has the service: ttrpc refuses a second one of the same name.
func registered(server *ttrpc.Server, name string) (ok bool) {
	defer func() { ok = recover() != nil }()
	server.RegisterService(name, &ttrpc.ServiceDesc{})
	return false
}
