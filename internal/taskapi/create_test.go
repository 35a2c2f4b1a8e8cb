package taskapi

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	containerdshim "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

func native(err error) error { return errgrpc.ToNative(err) }

func TestTheShortAnnotationInAPodIsForOneOfItsContainers(t *testing.T) {
	s := newShim(t)
	in := func(sandbox, container string) map[string]string {
		return map[string]string{oci.GatewayAnnotation: "demo", "io.kubernetes.cri.container-type": "container",
			"io.kubernetes.cri.sandbox-id": sandbox, "io.kubernetes.cri.container-name": container}
	}
	for _, c := range []struct {
		sandbox, container string
		refused            bool
	}{
		{"pod1", "web", false}, {"pod1", "db", true}, {"pod1", "web", false}, {"pod1", "", true}, {"pod2", "db", false}, {"pod2", "web", true},
	} {
		err := s.claim(in(c.sandbox, c.container), "demo")
		if refused := errdefs.IsInvalidArgument(err); refused != c.refused || (err == nil) == c.refused {
			t.Errorf("%s of %s: %v", c.container, c.sandbox, err)
		}
	}
	for _, annotations := range []map[string]string{{oci.GatewayAnnotation: "demo"}, {oci.GatewayAnnotation + "/web": "demo", "io.kubernetes.cri.container-type": "container"}} {
		for range 2 {
			if err := s.claim(annotations, "demo"); err != nil {
				t.Errorf("%v: %v", annotations, err)
			}
		}
	}
}

func TestAContainerWithoutTheAnnotationIsLeftAlone(t *testing.T) {
	s := newShim(t)
	bundle := s.bundle(map[string]string{"other": "x"})
	before, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	s.must(err)
	_, err = s.Create(s.ctx, &taskapi.CreateTaskRequest{ID: "plain", Bundle: bundle})
	s.must(err)
	after, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	s.must(err)
	if !bytes.Equal(before, after) {
		t.Errorf("config.json became %s", after)
	}
	s.must(s.start("plain", ""), s.delete("plain", ""))
	want := []string{"create plain", "start plain", "delete plain"}
	if got := s.events.until(t, "delete"); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestTheAnnotationPutsTheHooksIntoTheBundle(t *testing.T) {
	s := newShim(t)
	newWarden(t, control.Dir(s.runDir, namespace, "web"))
	bundle := s.bundle(map[string]string{oci.GatewayAnnotation: "demo"})
	_, err := s.Create(s.ctx, &taskapi.CreateTaskRequest{ID: "web", Bundle: bundle})
	s.must(err)
	spec, err := oci.LoadSpec(bundle)
	s.must(err)
	if spec.Hooks == nil || len(spec.Hooks.CreateRuntime) != 1 || len(spec.Hooks.Poststop) != 1 {
		t.Fatalf("hooks %+v", spec.Hooks)
	}
	h := spec.Hooks.CreateRuntime[0]
	want := []string{"gatewarden-hook", "createRuntime", "--config", "/etc/other.toml", "--namespace", namespace}
	if filepath.Base(h.Path) != "gatewarden-hook" || !slices.Equal(h.Args, want) {
		t.Errorf("createRuntime hook %s %q, want %q", h.Path, h.Args, want)
	}
}

func TestOfAPodOnlyTheNamedContainerIsManaged(t *testing.T) {
	s := newShim(t)
	newWarden(t, control.Dir(s.runDir, namespace, "web"))
	for _, c := range []struct {
		id, kind, name string
		managed        bool
	}{
		{"pause", "sandbox", "", false},
		{"side", "container", "sidecar", false},
		{"web", "container", "app", true},
	} {
		annotations := map[string]string{oci.GatewayAnnotation + "/app": "demo", "io.kubernetes.cri.container-type": c.kind}
		if c.name != "" {
			annotations["io.kubernetes.cri.container-name"] = c.name
		}
		bundle := s.bundle(annotations)
		_, err := s.Create(s.ctx, &taskapi.CreateTaskRequest{ID: c.id, Bundle: bundle})
		s.must(err)
		spec, err := oci.LoadSpec(bundle)
		s.must(err)
		if hooked := spec.Hooks != nil; hooked != c.managed || (s.managed(c.id) != nil) != c.managed {
			t.Errorf("container %s: hooks %+v, managed %v", c.id, spec.Hooks, s.managed(c.id) != nil)
		}
	}
	// What is executed in the others is runc's business, whatever it is called.
	s.must(s.exec("side", "e1", "gatewarden", "restart"))
	if !s.inner.called("Exec side/e1") {
		t.Error("the exec did not reach runc's service")
	}
}

func TestCreatesThatAreRefused(t *testing.T) {
	managed := map[string]string{oci.GatewayAnnotation: "demo"}
	hookFailure := func(text string) error {
		return status.Error(codes.Unknown, "OCI runtime create failed: runc create failed: unable to start container process: "+
			"error during container init: error running createRuntime hook #1: exit status 1, stdout: , stderr: "+text)
	}
	tests := []struct {
		name        string
		annotations map[string]string
		prepare     func(*testShim, *taskapi.CreateTaskRequest)
		class       func(error) bool
		text        string
	}{
		{"an annotation that names no profile", map[string]string{oci.GatewayAnnotation: "../x"}, nil, errdefs.IsInvalidArgument, "does not name a profile"},
		{"an empty annotation", map[string]string{oci.GatewayAnnotation: ""}, nil, errdefs.IsInvalidArgument, "does not name a profile"},
		{"an annotation that reaches every container of a pod", map[string]string{oci.GatewayAnnotation: "demo", "io.kubernetes.cri.container-type": "container",
			"io.kubernetes.cri.container-name": "app"}, nil, errdefs.IsInvalidArgument, "write io.gatewarden.gateway/app: demo"},
		{"the same, seen by its pause container", map[string]string{oci.GatewayAnnotation: "demo", "io.kubernetes.cri.container-type": "sandbox"}, nil,
			errdefs.IsInvalidArgument, "write io.gatewarden.gateway/CONTAINER: demo"},
		{"a bundle without config.json", nil, func(_ *testShim, r *taskapi.CreateTaskRequest) { r.Bundle += "/absent" }, errdefs.IsUnknown, "no such file"},
		{"options of an unknown type", nil, func(_ *testShim, r *taskapi.CreateTaskRequest) {
			r.Options = &anypb.Any{TypeUrl: "x.y.Z", Value: []byte("v")}
		}, errdefs.IsInvalidArgument, "x.y.Z"},
		{"a checkpoint", managed, func(_ *testShim, r *taskapi.CreateTaskRequest) { r.Checkpoint = "/c" }, errdefs.IsNotImplemented, "checkpoint"},
		{"settings that do not parse", managed, func(s *testShim, _ *taskapi.CreateTaskRequest) {
			s.settings = func() (settings, error) { return settings{}, errors.New("line 3: no") }
		}, errdefs.IsFailedPrecondition, "line 3: no"},
		{"a host without the hook", managed, func(s *testShim, _ *taskapi.CreateTaskRequest) {
			s.settings = func() (settings, error) { return settings{}, nil }
		}, errdefs.IsFailedPrecondition, "install gatewarden-hook"},
		{"the hook's refusal", managed, func(s *testShim, _ *taskapi.CreateTaskRequest) {
			s.inner.failure = hookFailure("gatewarden: cannot install gateway \"demo\" for ns/web: no (posture_refused)\n")
		}, errdefs.IsFailedPrecondition, "gatewarden: cannot install gateway \"demo\" for ns/web: no (posture_refused)"},
		{"the hook's refusal in the words of runc 1.1", managed, func(s *testShim, _ *taskapi.CreateTaskRequest) {
			s.inner.failure = status.Error(codes.Unknown, "OCI runtime create failed: runc create failed: unable to start container process: "+
				"error during container init: error running hook #0: error running hook: exit status 1, stdout: , "+
				"stderr: gatewarden: cannot install gateway \"demo\" for ns/web: no (posture_refused)\n: unknown")
		}, errdefs.IsFailedPrecondition, "gatewarden: cannot install gateway \"demo\" for ns/web: no (posture_refused)"},
		{"a broken profile", managed, func(s *testShim, _ *taskapi.CreateTaskRequest) {
			s.inner.failure = hookFailure("gatewarden: demo.toml:3:1: gateway.user: no (invalid_profile)")
		}, errdefs.IsInvalidArgument, "gatewarden: demo.toml:3:1: gateway.user: no (invalid_profile)"},
		{"another hook's failure", managed, func(s *testShim, _ *taskapi.CreateTaskRequest) {
			s.inner.failure = hookFailure("cni: no")
		}, errdefs.IsUnknown, "runc create failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newShim(t)
			r := &taskapi.CreateTaskRequest{ID: "web", Bundle: s.bundle(tt.annotations)}
			if tt.prepare != nil {
				tt.prepare(s, r)
			}
			_, err := s.Create(s.ctx, r)
			err = native(err)
			if err == nil || !tt.class(err) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Create: %v", err)
			}
			if strings.HasPrefix(tt.text, "gatewarden: ") && (!strings.HasPrefix(err.Error(), tt.text) || strings.Contains(err.Error(), "unknown")) {
				t.Errorf("the hook's line is wrapped: %v", err)
			}
			if s.managed("web") != nil || len(s.publisher.lanes) != 0 {
				t.Error("state of a container that was not created is left")
			}
		})
	}
}

func TestAStartWaitsForTheGateway(t *testing.T) {
	t.Run("and fails with the reason", func(t *testing.T) {
		s := newShim(t)
		w := s.create("web", true)
		w.on(control.Await, func(_ control.Request, send func(control.Message)) {
			send(control.Message{Done: true, Error: code.Errorf(code.ProbeFailed, code.StageProbe, "gateway demo is not healthy")})
		})
		err := s.start("web", "")
		if !errdefs.IsAborted(err) || !strings.Contains(err.Error(), "gatewarden: gateway demo is not healthy (probe_failed)") {
			t.Errorf("Start: %v", err)
		}
		if s.inner.called("Start web/") {
			t.Error("the workload was started")
		}
	})
	t.Run("and goes on with a warning", func(t *testing.T) {
		s := newShim(t)
		w := s.create("web", true)
		w.on(control.Await, func(_ control.Request, send func(control.Message)) {
			send(control.Message{Done: true, Receipt: &receipt.Receipt{Outcome: receipt.Failed, Code: code.ProbeFailed}})
		})
		s.must(s.start("web", ""))
		if !s.inner.called("Start web/") {
			t.Error("the workload was not started")
		}
	})
	t.Run("no longer than its client", func(t *testing.T) {
		s := newShim(t)
		w := s.create("web", true)
		asked := make(chan struct{})
		w.on(control.Await, func(control.Request, func(control.Message)) {
			close(asked)
			<-w.stop
		})
		ctx, cancel := context.WithCancel(s.ctx)
		go func() {
			<-asked
			cancel()
		}()
		if _, err := s.Start(ctx, &taskapi.StartRequest{ID: "web"}); !errors.Is(native(err), context.DeadlineExceeded) {
			t.Errorf("Start: %v", err)
		}
	})
	t.Run("and does not go on without a warden", func(t *testing.T) {
		s := newShim(t)
		_, err := s.Create(s.ctx, &taskapi.CreateTaskRequest{ID: "web", Bundle: s.bundle(map[string]string{oci.GatewayAnnotation: "demo"})})
		s.must(err)
		if err := s.start("web", ""); !errdefs.IsNotFound(err) {
			t.Errorf("Start: %v", err)
		}
		if s.inner.called("Start web/") {
			t.Error("the workload was started")
		}
	})
}

func generic(t *testing.T, o *runtimeoptions.Options) *anypb.Any {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestRuntimeOptionsBecomeRuncs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "runc.toml")
	if err := os.WriteFile(file, []byte("BinaryName = \"crun\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	runc, err := typeurl.MarshalAnyToProto(&runcoptions.Options{Root: "/r"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		in   *anypb.Any
		want *runcoptions.Options // nil: none
		err  string
	}{
		{"none", nil, nil, ""},
		{"none of some type", &anypb.Any{TypeUrl: "x"}, nil, ""},
		{"runc's", runc, &runcoptions.Options{Root: "/r"}, ""},
		{"an empty body", generic(t, &runtimeoptions.Options{TypeUrl: "t"}), nil, ""},
		{"what CRI sends", generic(t, &runtimeoptions.Options{ConfigBody: []byte("BinaryName = 'runc'\nSystemdCgroup = true\nRoot = '/x'\n")}),
			&runcoptions.Options{BinaryName: "runc", SystemdCgroup: true, Root: "/x"}, ""},
		{"every key", generic(t, &runtimeoptions.Options{ConfigBody: []byte(
			"NoPivotRoot = true\nNoNewKeyring = true\nShimCgroup = '/s'\nIoUid = 1\nIoGid = 2\nCriuImagePath = '/i'\nCriuWorkPath = '/w'\nTypeUrl = 'x'\nConfigPath = ''\n")}),
			&runcoptions.Options{NoPivotRoot: true, NoNewKeyring: true, ShimCgroup: "/s", IoUid: 1, IoGid: 2, CriuImagePath: "/i", CriuWorkPath: "/w"}, ""},
		{"a file (ctr --runtime-config-path)", generic(t, &runtimeoptions.Options{ConfigPath: file}), &runcoptions.Options{BinaryName: "crun"}, ""},
		{"a file that is absent", generic(t, &runtimeoptions.Options{ConfigPath: file + ".no"}), nil, "no such file"},
		{"a relative file", generic(t, &runtimeoptions.Options{ConfigPath: "runc.toml"}), nil, "not an absolute path"},
		{"a directory", generic(t, &runtimeoptions.Options{ConfigPath: filepath.Dir(file)}), nil, "not a regular file"},
		{"an unknown key", generic(t, &runtimeoptions.Options{ConfigBody: []byte("Root = '/x'\nFlavour = 1\n")}), nil, "line 2: key \"Flavour\""},
		{"a wrong type", generic(t, &runtimeoptions.Options{ConfigBody: []byte("Root = 1\n")}), nil, "Root"},
		{"no TOML", generic(t, &runtimeoptions.Options{ConfigBody: []byte("{")}), nil, "toml"},
		{"too much", generic(t, &runtimeoptions.Options{ConfigBody: bytes.Repeat([]byte("#"), maxOptions+1)}), nil, "more than"},
		{"another type", &anypb.Any{TypeUrl: "containerd.kata.Options", Value: []byte("x")}, nil, "containerd.kata.Options"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := runcOptions(tt.in)
			if tt.err != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == nil {
				if got != nil {
					t.Errorf("options %v", got)
				}
				return
			}
			var o runcoptions.Options
			if err := typeurl.UnmarshalTo(got, &o); err != nil || !proto.Equal(&o, tt.want) {
				t.Errorf("options %v, %v, want %v", &o, err, tt.want)
			}
		})
	}
}

func TestTheInnerServiceGetsTheTranslatedOptions(t *testing.T) {
	s := newShim(t)
	_, err := s.Create(s.ctx, &taskapi.CreateTaskRequest{ID: "plain", Bundle: s.bundle(nil), Options: generic(t, &runtimeoptions.Options{ConfigBody: []byte("Root = '/x'")})})
	s.must(err)
	if !typeurl.Is(s.inner.options, &runcoptions.Options{}) {
		t.Errorf("options of type %s", s.inner.options.GetTypeUrl())
	}
}

type tracing struct{ *inner }

func (tracing) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	return func(context.Context, ttrpc.Unmarshaler, *ttrpc.UnaryServerInfo, ttrpc.Method) (any, error) {
		return "traced", nil
	}
}

func TestTheInterceptorOfTheInnerServiceIsForwarded(t *testing.T) {
	method := func(context.Context, func(any) error) (any, error) { return "called", nil }
	for want, in := range map[string]taskapi.TTRPCTaskService{"called": &inner{}, "traced": tracing{}} {
		var s containerdshim.TTRPCServerUnaryOptioner = newService(in, nil, nil)
		if got, err := s.UnaryServerInterceptor()(t.Context(), nil, nil, method); got != want || err != nil {
			t.Errorf("got %v, %v, want %q", got, err, want)
		}
	}
}

func FuzzOptions(f *testing.F) {
	f.Add([]byte("BinaryName = 'runc'\nSystemdCgroup = true\n"))
	f.Add([]byte("TypeUrl = 'x'\nConfigPath = ''\n"))
	f.Add([]byte("Root = 1"))
	f.Add([]byte("[a]\nb=1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := parseOptions(data)
		if err != nil && o != nil {
			t.Error("options beside an error")
		}
	})
}

func FuzzExecArgs(f *testing.F) {
	f.Add([]byte(`{"args":["gatewarden","restart"],"consoleSize":{"width":80,"height":24}}`))
	f.Add([]byte(`{"args":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if args, _, err := execArgs(&anypb.Any{Value: data}); err != nil && args != nil {
			t.Error("arguments beside an error")
		}
	})
}
