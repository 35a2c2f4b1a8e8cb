package taskapi

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Checkpoint checkpoints a container by CRIU, unless it has a gateway: CRIU would take the gateway and the standby into the
// image, and nothing that it restores could be theirs, since a gateway is its warden's child and proven at its start.
func (s *Service) Checkpoint(ctx context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	if c := s.managed(r.ID); c != nil {
		return nil, toGRPC(classify(errdefs.ErrNotImplemented,
			"gatewarden: container %s cannot be checkpointed: its gateway is started and proven by its warden, and cannot be restored by CRIU; stop the container and create it anew instead (what the gateway has to keep belongs into its [[state]])", c.id))
	}
	return s.TTRPCTaskService.Checkpoint(ctx, r)
}
