package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
)

var web = call{id: "web", namespace: "default", address: "/run/containerd/containerd.sock", binary: "/usr/bin/containerd"}

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// options are runc's, as a containerd before 2.3 hands them over.
func options(t testing.TB, o *runcoptions.Options) []byte {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(o)
	if err != nil {
		t.Fatal(err)
	}
	return encoded(t, a)
}

func TestOnlyAStartIsTakenFromTheCommandLine(t *testing.T) {
	const common = "-namespace default -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id web"
	debug := web
	debug.debug = true
	tests := []struct {
		name string
		line string
		want call
		ok   bool
	}{
		{"a start", common + " start", web, true},
		{"a start with debugging", common + " -debug start", debug, true},
		{"flags with two dashes and a sign of equality", "--id=web --namespace=default --address=/run/containerd/containerd.sock --publish-binary=/usr/bin/containerd start", web, true},
		{"a delete", common + " -bundle /b delete", call{}, false},
		{"the shim itself", "-namespace default -id web -address /a", call{}, false},
		{"the version", "-v", call{}, false},
		{"information", "-info start", call{}, false},
		{"an unknown flag", common + " -other start", call{}, false},
		{"a flag after the action", "start " + common, call{}, true},
		{"nothing", "", call{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := parseCall(strings.Fields(tt.line)); got != tt.want || ok != tt.ok {
				t.Errorf("%+v, %v, want %+v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestWhoAsksIsToldByTheIdentityInTheParameters(t *testing.T) {
	params := &bootapi.BootstrapParams{InstanceID: "web", Namespace: "default", ContainerdVersion: "v2.4.2", ContainerdGrpcAddress: web.address}
	of := func(id, namespace string) []byte {
		p := proto.CloneOf(params)
		p.InstanceID, p.Namespace = id, namespace
		return encoded(t, p)
	}
	legacy := &bootapi.BootstrapParams{InstanceID: "web", Namespace: "default", ContainerdGrpcAddress: web.address, ContainerdBinary: web.binary}
	debug, debugging := web, proto.CloneOf(legacy)
	debug.debug, debugging.LogLevel = true, bootapi.LogLevel_LOG_LEVEL_DEBUG
	tests := []struct {
		name  string
		call  call
		input []byte
		want  *bootapi.BootstrapParams // nil: input is BootstrapParams
		err   string
	}{
		{"parameters", web, encoded(t, params), nil, ""},
		{"nothing at all", web, nil, legacy, ""},
		{"nothing, with debugging", debug, nil, debugging, ""},
		{"parameters for another container", web, of("other", "default"), nil, "neither bootstrap parameters for container web in namespace default"},
		{"parameters for another namespace", web, of("web", "k8s.io"), nil, "neither"},
		{"no protobuf", web, []byte("{\"version\":3}"), nil, "neither"},
		{"an Any without a type", web, []byte{0x12, 1, 'x'}, nil, "neither"},
		{"too much", web, bytes.Repeat([]byte{0}, maxInput+1), nil, "more than 10485760 bytes"},
		{"no id", call{namespace: "default"}, nil, nil, "-id: identifier must not be empty"},
		{"an id that is a path", call{id: "../web", namespace: "default"}, nil, nil, "-id"},
		{"no namespace", call{id: "web"}, nil, nil, "-namespace: identifier must not be empty"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := legacyParams(tt.call, tt.input)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || !proto.Equal(got, tt.want) {
				t.Errorf("%v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestOptionsOfARuntimeComeAlong(t *testing.T) {
	got, err := legacyParams(web, options(t, &runcoptions.Options{ShimCgroup: "/shims", BinaryName: "crun"}))
	if err != nil {
		t.Fatal(err)
	}
	var o runcoptions.Options
	if found, err := got.FindExtension(&o); !found || err != nil || o.ShimCgroup != "/shims" || o.BinaryName != "crun" {
		t.Errorf("found %v, %v: %v", found, err, &o)
	}
}

// starter is a manager whose shims need no process.
type starter struct {
	shim.Shim
	err    error
	ctx    context.Context
	params *bootapi.BootstrapParams
}

func (s *starter) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	s.ctx, s.params = ctx, params
	return &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: "unix:///run/containerd/s/abc"}, s.err
}

func TestALegacyCallerGetsTheAddressAloneAndFindsItInTheBundle(t *testing.T) {
	bundle := t.TempDir()
	t.Chdir(bundle)
	t.Setenv(ttrpcAddress, "/run/containerd/containerd.sock.ttrpc")
	params, err := legacyParams(web, nil)
	if err != nil {
		t.Fatal(err)
	}
	var answer bytes.Buffer
	manager := &starter{}
	if err := startLegacy(t.Context(), manager, web, params, &answer); err != nil {
		t.Fatal(err)
	}
	const want = "unix:///run/containerd/s/abc"
	if answer.String() != want {
		t.Errorf("answered %q", answer.String())
	}
	if data, err := os.ReadFile(addressFile); string(data) != want || err != nil {
		t.Errorf("address file %q, %v", data, err)
	}
	if entries, err := os.ReadDir(bundle); len(entries) != 1 || err != nil {
		t.Errorf("in the bundle: %v, %v", entries, err)
	}
	if ns, _ := namespaces.Namespace(manager.ctx); ns != "default" || manager.params.ContainerdTtrpcAddress != "/run/containerd/containerd.sock.ttrpc" {
		t.Errorf("started in namespace %q with %v", ns, manager.params)
	}
}

func TestAStartThatFailsLeavesNoAddress(t *testing.T) {
	t.Chdir(t.TempDir())
	var answer bytes.Buffer
	no := errors.New("no")
	if err := startLegacy(t.Context(), &starter{err: no}, web, &bootapi.BootstrapParams{}, &answer); !errors.Is(err, no) || answer.Len() > 0 {
		t.Errorf("answered %q, %v", answer.String(), err)
	}
	if _, err := os.Lstat(addressFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("address file: %v", err)
	}
}

func TestABundleThatCannotTakeTheAddressIsNamed(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir(addressFile, 0o700); err != nil {
		t.Fatal(err)
	}
	var answer bytes.Buffer
	err := startLegacy(t.Context(), &starter{}, web, &bootapi.BootstrapParams{}, &answer)
	if err == nil || !strings.Contains(err.Error(), "into the bundle") || answer.Len() > 0 {
		t.Errorf("answered %q, %v", answer.String(), err)
	}
}

func TestInputIsHandedOnWhole(t *testing.T) {
	input := bytes.Repeat([]byte("0123456789"), 100<<10) // more than a pipe holds
	f, err := replay(input)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); !bytes.Equal(got, input) || err != nil {
		t.Errorf("%d of %d bytes, %v", len(got), len(input), err)
	}
}

func FuzzLegacyParams(f *testing.F) {
	f.Add("web", "default", []byte(nil))
	f.Add("web", "default", options(f, &runcoptions.Options{SystemdCgroup: true}))
	f.Add("web", "default", encoded(f, &bootapi.BootstrapParams{InstanceID: "web", Namespace: "default"}))
	f.Add("", "..", []byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, id, namespace string, input []byte) {
		params, err := legacyParams(call{id: id, namespace: namespace}, input)
		if err != nil {
			if params != nil {
				t.Error("parameters beside an error")
			}
			return
		}
		var given bootapi.BootstrapParams
		if params == nil && (proto.Unmarshal(input, &given) != nil || given.InstanceID != id || given.Namespace != namespace) {
			t.Error("what is not for this container is taken for bootstrap parameters")
		}
		if params != nil && (params.InstanceID != id || params.Namespace != namespace || len(params.Extensions) > 1) {
			t.Errorf("%v for %q in %q", params, id, namespace)
		}
	})
}
