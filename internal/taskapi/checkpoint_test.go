package taskapi

import (
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
)

func TestOnlyContainersWithoutAGatewayAreCheckpointed(t *testing.T) {
	s := newShim(t)
	s.run("web")
	_, err := s.Checkpoint(s.ctx, &taskapi.CheckpointTaskRequest{ID: "web", Path: t.TempDir()})
	if err := native(err); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "container web cannot be checkpointed") {
		t.Errorf("managed: %v", err)
	}
	if s.inner.called("checkpoint web") {
		t.Error("runc's service was asked")
	}
	s.create("plain", false)
	_, err = s.Checkpoint(s.ctx, &taskapi.CheckpointTaskRequest{ID: "plain", Path: t.TempDir()})
	s.must(err)
	if !s.inner.called("checkpoint plain") {
		t.Error("runc's service was not asked")
	}
}
