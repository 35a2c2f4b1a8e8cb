package taskapi

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/pkg/protobuf/proto"
	"github.com/containerd/containerd/v2/pkg/shim"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/gatewarden/gatewarden/internal/version"
)

// Name is the runtime's name. containerd resolves it, and io.containerd.runc.gatewarden.v2 as well, to the program
// containerd-shim-gatewarden-v2.
const Name = "io.containerd.gatewarden.v2"

// Manager starts, describes and cleans up after shims, as runc's own does.
type Manager struct {
	shim.Shim
}

// NewManager makes the manager of this program.
func NewManager() Manager { return Manager{manager.NewShimManager(Name)} }

// maxInfo bounds the options on standard input of -info, in bytes.
const maxInfo = 1 << 20

// Info describes the runtime. options are the runtime options as the client has them, of any type that Create takes.
func (m Manager) Info(ctx context.Context, options io.Reader) (*types.RuntimeInfo, error) {
	data, err := io.ReadAll(io.LimitReader(options, maxInfo+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the runtime options: %w", err)
	}
	if len(data) > maxInfo {
		return nil, fmt.Errorf("the runtime options are longer than %d bytes", maxInfo)
	}
	if len(data) > 0 {
		if data, err = translate(data); err != nil {
			return nil, err
		}
	}
	info, err := m.Shim.Info(ctx, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	info.Version = &types.RuntimeVersion{Version: version.Version}
	return info, nil
}

func translate(data []byte) ([]byte, error) {
	var given anypb.Any
	if err := proto.Unmarshal(data, &given); err != nil {
		return nil, fmt.Errorf("cannot decode the runtime options: %w", err)
	}
	options, err := runcOptions(&given)
	if err != nil || options == nil {
		return nil, err
	}
	return proto.Marshal(options)
}
