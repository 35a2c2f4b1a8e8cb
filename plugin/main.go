// Command containerd-shim-gatewarden-v2 is containerd's shim for runc with gatewarden's task-API plugin: it serves
// containers exactly as containerd-shim-runc-v2 does, and installs, shows and restarts the gateways of those that are
// annotated with one.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	containerd "github.com/containerd/containerd/v2/version"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/gatewarden/gatewarden/internal/bootstrap"
	"github.com/gatewarden/gatewarden/internal/taskapi"
	"github.com/gatewarden/gatewarden/internal/version"
)

func main() {
	// What -v prints. containerd's programs are linked with these set.
	containerd.Version, containerd.Revision = version.Version, ""

	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			events, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			sd, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			return taskapi.New(ic.Context, events.(shim.Publisher), sd.(shutdown.Service), task.NewTaskService)
		},
	})
	bootstrap.Run(context.Background(), taskapi.NewManager())
}
