package taskapi

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/ttrpc"

	"github.com/gatewarden/gatewarden/internal/config"
)

var (
	_ taskapi.TTRPCTaskService      = (*Service)(nil)
	_ shim.TTRPCService             = (*Service)(nil)
	_ shim.TTRPCServerUnaryOptioner = (*Service)(nil)
)

// flushTimeout is how long the shim's exit may wait for containerd to take the last events.
const flushTimeout = 3 * time.Second

// Service is the task service of one shim. Methods that it does not have are those of the service that it decorates.
type Service struct {
	taskapi.TTRPCTaskService
	publisher *publisher
	settings  func() (settings, error)

	mu         sync.Mutex
	containers map[string]*container // the managed ones, by id
	unnamed    map[string]string     // by a pod's sandbox, the container that an annotation without a container's name is for
}

// NewInner makes the service that is decorated: task.NewTaskService of containerd-shim-runc-v2.
type NewInner func(context.Context, shim.Publisher, shutdown.Service) (taskapi.TTRPCTaskService, error)

// New makes the task service of this shim. Its events, and those of the inner service, go to events. ctx carries the
// shim's containerd namespace and lives as long as the shim.
func New(ctx context.Context, events shim.Publisher, sd shutdown.Service, newInner NewInner) (*Service, error) {
	p := newPublisher(ctx, events)
	inner, err := newInner(ctx, p, sd)
	if err != nil {
		return nil, err
	}
	// Callbacks run before the inner service closes the publisher.
	sd.RegisterCallback(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, flushTimeout)
		defer cancel()
		return p.flush(ctx)
	})
	return newService(inner, p, hostSettings), nil
}

func newService(inner taskapi.TTRPCTaskService, p *publisher, settings func() (settings, error)) *Service {
	return &Service{TTRPCTaskService: inner, publisher: p, settings: settings, containers: map[string]*container{}, unnamed: map[string]string{}}
}

// RegisterTTRPC serves s in the inner service's place, for every containerd.
func (s *Service) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, s)
	registerVersion2(server, s)
	return nil
}

// UnaryServerInterceptor is the inner service's: it hands the trace context on to runc and its hooks.
func (s *Service) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	if inner, ok := s.TTRPCTaskService.(shim.TTRPCServerUnaryOptioner); ok {
		return inner.UnaryServerInterceptor()
	}
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		return method(ctx, unmarshal)
	}
}

// managed gives the managed container id, or nil.
func (s *Service) managed(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id]
}

// settings are the host's, as they hold for a container from its create on.
type settings struct {
	config.Config
	path string // of the file that they come from; empty: the default place
}

// configEnv names the settings file. containerd hands its own environment on to its shims.
const configEnv = "GATEWARDEN_CONFIG"

func hostSettings() (settings, error) {
	path := os.Getenv(configEnv)
	cfg, err := config.Load(path)
	if err != nil {
		return settings{}, fmt.Errorf("cannot use the host's settings: %w", err)
	}
	return settings{Config: cfg, path: path}, nil
}
