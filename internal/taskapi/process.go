package taskapi

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatewarden/gatewarden/internal/virtualexec"
)

// find gives the managed container id and, if there is one, its virtual exec.
func (s *Service) find(id, execID string) (*container, *virtualexec.Process) {
	c := s.managed(id)
	if c == nil || execID == "" {
		return c, nil
	}
	return c, c.exec(execID)
}

// refused is the error of a request that makes no sense for the gateway's pseudo-process.
func refused(c *container, why string) error {
	return toGRPC(classify(errdefs.ErrFailedPrecondition, "gatewarden: the exec %q is the gateway of container %s: %s", gatewayID, c.id, why))
}

// Start starts a container or an exec.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, p := s.find(r.ID, r.ExecID)
	switch {
	case p != nil:
		if err := p.Start(ctx); err != nil {
			return nil, toGRPC(err)
		}
		return &taskapi.StartResponse{Pid: execPID()}, nil
	case c != nil && r.ExecID == gatewayID:
		return nil, refused(c, "its warden starts it")
	case c != nil && r.ExecID == "":
		return s.startInit(ctx, c, r)
	}
	return s.TTRPCTaskService.Start(ctx, r)
}

// State tells a process's state. containerd asks for it before every other request about an exec.
func (s *Service) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, p := s.find(r.ID, r.ExecID)
	switch {
	case p != nil:
		status, exit := p.Status()
		std := p.Stdio()
		resp := &taskapi.StateResponse{
			ID:         p.ID(),
			Bundle:     c.bundle,
			Status:     statuses[status],
			Stdin:      std.Stdin,
			Stdout:     std.Stdout,
			Stderr:     std.Stderr,
			Terminal:   std.Terminal,
			ExitStatus: exit.Status,
			ExitedAt:   timestamp(exit),
		}
		if status != virtualexec.Created {
			resp.Pid = execPID()
		}
		return resp, nil
	case c != nil && r.ExecID == gatewayID:
		now := c.gateway.process()
		resp := &taskapi.StateResponse{ID: gatewayID, Bundle: c.bundle, Pid: now.pid, Status: statuses[now.status]}
		if now.status == virtualexec.Stopped {
			resp.ExitStatus, resp.ExitedAt = now.exit.Status, timestamp(now.exit)
		}
		return resp, nil
	}
	return s.TTRPCTaskService.State(ctx, r)
}

var statuses = map[virtualexec.Status]task.Status{
	virtualexec.Created: task.Status_CREATED,
	virtualexec.Running: task.Status_RUNNING,
	virtualexec.Stopped: task.Status_STOPPED,
}

func timestamp(exit virtualexec.Exit) *timestamppb.Timestamp { return protobuf.ToTimestamp(exit.At) }

// Wait waits for a process's exit.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	c, p := s.find(r.ID, r.ExecID)
	var exit virtualexec.Exit
	var err error
	switch {
	case p != nil:
		exit, err = p.Wait(ctx)
	case c != nil && r.ExecID == gatewayID:
		exit, err = c.gateway.wait(ctx)
	default:
		return s.TTRPCTaskService.Wait(ctx, r)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	return &taskapi.WaitResponse{ExitStatus: exit.Status, ExitedAt: timestamp(exit)}, nil
}

// Kill signals a process. For the gateway that can mean a restart.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	c, p := s.find(r.ID, r.ExecID)
	var err error
	switch {
	case p != nil:
		err = p.Kill(unix.Signal(r.Signal))
	case c != nil && r.ExecID == gatewayID:
		err = c.gateway.kill(ctx, unix.Signal(r.Signal))
	default:
		return s.TTRPCTaskService.Kill(ctx, r)
	}
	if err != nil {
		return nil, toGRPC(err)
	}
	return &emptypb.Empty{}, nil
}

// Delete ends an exec, or a container.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, p := s.find(r.ID, r.ExecID)
	switch {
	case p != nil:
		exit, err := p.Delete()
		if err != nil {
			return nil, toGRPC(err)
		}
		c.remove(r.ExecID)
		return &taskapi.DeleteResponse{Pid: execPID(), ExitStatus: exit.Status, ExitedAt: timestamp(exit)}, nil
	case c != nil && r.ExecID == gatewayID:
		return nil, refused(c, "it goes with its container")
	case c != nil && r.ExecID == "":
		return s.deleteInit(ctx, c, r)
	}
	return s.TTRPCTaskService.Delete(ctx, r)
}

// CloseIO closes the standard input of a process. The gateway has none.
func (s *Service) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	c, p := s.find(r.ID, r.ExecID)
	switch {
	case p != nil:
		p.CloseStdin()
		return &emptypb.Empty{}, nil
	case c != nil && r.ExecID == gatewayID:
		return &emptypb.Empty{}, nil
	}
	return s.TTRPCTaskService.CloseIO(ctx, r)
}

// ResizePty tells the size of a process's terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	c, p := s.find(r.ID, r.ExecID)
	switch {
	case p != nil:
		if err := p.Resize(int(r.Width)); err != nil {
			return nil, toGRPC(err)
		}
		return &emptypb.Empty{}, nil
	case c != nil && r.ExecID == gatewayID:
		return nil, refused(c, "it has no terminal")
	}
	return s.TTRPCTaskService.ResizePty(ctx, r)
}

// Pids lists a container's processes. The gateway's is among them, since it lives in the container's cgroup; its entry
// gets the exec id.
func (s *Service) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	resp, err := s.TTRPCTaskService.Pids(ctx, r)
	c := s.managed(r.ID)
	if err != nil || c == nil {
		return resp, err
	}
	now := c.gateway.process()
	for _, info := range resp.Processes {
		if now.status != virtualexec.Running || info.Pid != now.pid || info.Info != nil {
			continue
		}
		if info.Info, err = typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: gatewayID}); err != nil {
			return nil, toGRPC(err)
		}
	}
	return resp, nil
}
