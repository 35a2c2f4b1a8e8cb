package taskapi

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/install"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/virtualexec"
)

// container is what the shim knows of one managed container, from Create to Delete.
type container struct {
	namespace string
	id        string
	bundle    string
	settings  settings
	events    *lane
	gateway   *gateway

	// adding is held while an exec of either kind is added, so that an id is given out once, by us or by the inner
	// service.
	adding sync.Mutex

	mu    sync.Mutex
	execs map[string]*virtualexec.Process // by exec id
}

// exitGrace is how long a virtual exec may go on after its container's init has exited: the warden tells it what became
// of its request in that time.
const exitGrace = time.Second

func newContainer(namespace, id, bundle string, settings settings, events *publisher) *container {
	c := &container{namespace: namespace, id: id, bundle: bundle, settings: settings, execs: map[string]*virtualexec.Process{}}
	c.events = events.open(id, c.initExited)
	c.gateway = newGateway(c.runDir(), filepath.Join(settings.StateDir, namespace, id, journal.Name), c.events, func() error { return install.Revive(settings.Hook, c.runDir(), 0) })
	return c
}

// runDir is where the container's warden listens.
func (c *container) runDir() string { return control.Dir(c.settings.RunDir, c.namespace, c.id) }

// exec gives the virtual exec id, or nil.
func (c *container) exec(id string) *virtualexec.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.execs[id]
}

// add enters p. container.adding is held.
func (c *container) add(p *virtualexec.Process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[p.ID()] != nil {
		return fmt.Errorf("exec %s: %w", p.ID(), errdefs.ErrAlreadyExists)
	}
	if err := c.events.added(p.ID()); err != nil {
		return err
	}
	c.execs[p.ID()] = p
	return nil
}

func (c *container) remove(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, id)
}

// initExited ends what the container's init does not outlive. The event of its exit waits for it.
func (c *container) initExited() {
	go c.gateway.initExited()
	time.AfterFunc(exitGrace, c.killExecs)
}

func (c *container) killExecs() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.execs {
		// Those that do not run refuse, which is as good.
		_ = p.Kill(unix.SIGKILL)
	}
}

// close drops the state of a container that is deleted, or was never created.
func (c *container) close() {
	c.gateway.close()
	c.killExecs()
}
