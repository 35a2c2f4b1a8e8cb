package taskapi

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/verb"
	"github.com/gatewarden/gatewarden/internal/virtualexec"
)

// program is the args[0] that makes an exec virtual.
const program = "gatewarden"

// Exec adds an exec. In a managed container one of "gatewarden …" is ours; it never enters the container.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	c := s.managed(r.ID)
	if c == nil {
		return s.TTRPCTaskService.Exec(ctx, r)
	}
	if r.ExecID == gatewayID {
		return nil, toGRPC(classify(errdefs.ErrAlreadyExists, "gatewarden: the exec id %q stands for the gateway of container %s; use another", gatewayID, c.id))
	}
	args, columns, err := execArgs(r.Spec)
	if err != nil {
		return nil, toGRPC(err)
	}
	c.adding.Lock()
	defer c.adding.Unlock()
	if len(args) == 0 || args[0] != program {
		if c.exec(r.ExecID) != nil {
			return nil, toGRPC(fmt.Errorf("exec %s: %w", r.ExecID, errdefs.ErrAlreadyExists))
		}
		return s.TTRPCTaskService.Exec(ctx, r)
	}
	if _, err := s.TTRPCTaskService.State(ctx, &taskapi.StateRequest{ID: r.ID, ExecID: r.ExecID}); err == nil {
		return nil, toGRPC(fmt.Errorf("exec %s: %w", r.ExecID, errdefs.ErrAlreadyExists))
	}
	p := c.newExec(r, args[1:])
	if columns > 0 {
		if err := p.Resize(columns); err != nil {
			return nil, toGRPC(err)
		}
	}
	if err := c.add(p); err != nil {
		return nil, toGRPC(err)
	}
	return &emptypb.Empty{}, nil
}

// execArgs reads what it needs of an exec's process. The rest, user and capabilities among it, is about a process in the
// container, and there will be none.
func execArgs(spec *anypb.Any) (args []string, columns int, err error) {
	var p struct {
		Args        []string   `json:"args"`
		ConsoleSize *specs.Box `json:"consoleSize"`
	}
	if err := json.Unmarshal(spec.GetValue(), &p); err != nil {
		return nil, 0, classify(errdefs.ErrInvalidArgument, "cannot decode the process of the exec: %v", err)
	}
	if p.ConsoleSize != nil {
		columns = int(p.ConsoleSize.Width)
	}
	return p.Args, columns, nil
}

// newExec makes the virtual exec that r asks for.
func (c *container) newExec(r *taskapi.ExecProcessRequest, args []string) *virtualexec.Process {
	target := &gateways.Target{Namespace: c.namespace, ID: c.id}
	return virtualexec.New(virtualexec.Config{
		ID:    r.ExecID,
		Stdio: virtualexec.Stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Run: func(ctx context.Context, s virtualexec.Streams) int {
			return verb.Run(ctx, verb.Env{
				Config:    c.settings.Config,
				Target:    target,
				Namespace: c.namespace,
				Stdin:     s.Stdin,
				Stdout:    s.Stdout,
				Stderr:    s.Stderr,
				Terminal:  s.Terminal,
				Width:     s.Width,
				Via:       "task-exec",
				UID:       os.Getuid(),
			}, args)
		},
		Starting: func() error { return c.events.started(r.ExecID, execPID()) },
		Exited: func(exit virtualexec.Exit) {
			c.events.ended(&eventsapi.TaskExit{
				ID:         r.ExecID,
				Pid:        execPID(),
				ExitStatus: exit.Status,
				ExitedAt:   protobuf.ToTimestamp(exit.At),
			})
		},
	})
}

// execPID is the PID that clients see of a virtual exec: the shim's own. It has to be there, since containerd takes an
// exec of PID 0 for one that never started, and it must not be the init's, since Docker would take its exit for the
// container's.
func execPID() uint32 { return uint32(os.Getpid()) }
