package taskapi

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/receipt"
	"github.com/gatewarden/gatewarden/oci"
)

// Create creates a container. If its annotations name a gateway, the hooks that install it are put into its bundle first.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	options, err := runcOptions(r.Options)
	if err != nil {
		return nil, toGRPC(err)
	}
	r.Options = options
	annotations, err := oci.LoadAnnotations(r.Bundle)
	if err != nil {
		return nil, toGRPC(err)
	}
	profile, err := oci.Gateway(annotations)
	if err != nil {
		return nil, toGRPC(classify(errdefs.ErrInvalidArgument, "gatewarden: %v", err))
	}
	if profile == "" {
		return s.TTRPCTaskService.Create(ctx, r)
	}
	if err := s.claim(annotations, profile); err != nil {
		return nil, toGRPC(err)
	}
	resp, err := s.createManaged(ctx, r)
	return resp, toGRPC(err)
}

// claim refuses a container of a pod whose annotation, without a container's name, has given another one the gateway before. One shim
// serves all containers of a pod, for as long as any of them lives, so it knows. What is claimed stays so when the create fails or the
// container ends: it is made anew under its name, and no other becomes the one that was meant.
func (s *Service) claim(annotations map[string]string, profile string) error {
	in, err := oci.PlaceOf(annotations)
	if err != nil || !oci.Unnamed(annotations, in) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first, taken := s.unnamed[in.SandboxID]
	if !taken {
		s.unnamed[in.SandboxID] = in.Container
		return nil
	}
	if first == in.Container {
		return nil
	}
	return classify(errdefs.ErrInvalidArgument,
		"gatewarden: annotation %s=%s reaches container %s of the pod and container %s too, and does not say which gets the gateway: write %s/%s: %s, or the other's name",
		oci.GatewayAnnotation, profile, first, in.Container, oci.GatewayAnnotation, first, profile)
}

func (s *Service) createManaged(ctx context.Context, r *taskapi.CreateTaskRequest) (_ *taskapi.CreateTaskResponse, err error) {
	if r.Checkpoint != "" {
		return nil, classify(errdefs.ErrNotImplemented, "gatewarden: container %s cannot be restored from a checkpoint: a gateway is started by its warden, not by CRIU", r.ID)
	}
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	settings, err := s.settings()
	if err != nil {
		return nil, classify(errdefs.ErrFailedPrecondition, "gatewarden: %v", err)
	}
	if err := addHooks(r.Bundle, namespace, settings); err != nil {
		return nil, classify(errdefs.ErrFailedPrecondition, "gatewarden: cannot add the hooks to container %s: %v", r.ID, err)
	}

	// The inner service's events can come before its answer: the container takes them from here on.
	c := newContainer(namespace, r.ID, r.Bundle, settings, s.publisher)
	defer func() {
		if err != nil {
			c.close()
			s.publisher.forget(c.events)
		}
	}()
	resp, err := s.TTRPCTaskService.Create(ctx, r)
	if err != nil {
		return nil, hookError(err)
	}
	s.mu.Lock()
	s.containers[r.ID] = c
	s.mu.Unlock()
	c.gateway.watch()
	return resp, nil
}

// addHooks puts createRuntime and poststop hooks into the bundle's config.json.
func addHooks(bundle, namespace string, settings settings) error {
	hook, err := install.HookPath(settings.Hook)
	if err != nil {
		return err
	}
	var args []string
	if settings.path != "" {
		args = append(args, "--config", settings.path)
	}
	args = append(args, "--namespace", namespace)
	return oci.AddHooksToBundle(bundle, hook, args)
}

// startInit starts the container's own process, once its gateway is ready if the profile asks for that.
func (s *Service) startInit(ctx context.Context, c *container, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	// The deadline is the warden's, from the profile; ctx bounds what the client is ready to wait.
	m, err := c.gateway.call(ctx, control.Request{Verb: control.Await, Via: "task-start"}, true)
	if err != nil {
		return nil, toGRPC(err)
	}
	if m.Receipt != nil && m.Receipt.Outcome == receipt.Failed {
		// start.on_failure = "warn"
		log.G(ctx).WithField("id", c.id).WithField("code", m.Receipt.Code).
			Warnf("the container starts without its gateway: %s", m.Receipt.Message)
	}
	return s.TTRPCTaskService.Start(ctx, r)
}

// deleteInit drops our state with the container's.
func (s *Service) deleteInit(ctx context.Context, c *container, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	resp, err := s.TTRPCTaskService.Delete(ctx, r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	delete(s.containers, c.id)
	s.mu.Unlock()
	c.close()
	return resp, nil
}
