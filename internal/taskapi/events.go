package taskapi

import (
	"context"
	"fmt"
	"sync"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// publisher stands between the task service and the shim's publisher. It puts the events of virtual execs and gateways,
// which runc's service knows nothing of, into the order that containerd asks for (docs/runtime-v2.md): nothing of
// a container before its TaskCreate, no exit after that of its init. Events of containers that are not managed pass
// straight through.
type publisher struct {
	shim.Publisher
	ctx context.Context // carries the namespace, for events of our own

	mu    sync.Mutex         // guards everything below and in the lanes
	lanes map[string][]*lane // by container id, oldest first: an id can be used again before its TaskDelete came by
	busy  int                // lanes that are being drained
	idle  chan struct{}      // closed when busy falls to 0
}

// lane is the queue of one managed container's events.
type lane struct {
	p          *publisher
	id         string
	initExited func() // called once, on its own goroutine, when the init's exit came by

	created  bool
	exited   bool   // the init's exit came by
	early    []item // our own, before TaskCreate
	queue    []item
	draining bool
	children int    // virtual execs and gateway between their start and exit events
	held     []item // the init's exit and what came after it, while there are children
}

type item struct {
	ctx   context.Context
	topic string
	event events.Event
}

func newPublisher(ctx context.Context, inner shim.Publisher) *publisher {
	return &publisher{Publisher: inner, ctx: context.WithoutCancel(ctx), lanes: map[string][]*lane{}}
}

// open makes the lane of a container that is about to be created.
func (p *publisher) open(id string, initExited func()) *lane {
	l := &lane{p: p, id: id, initExited: initExited}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lanes[id] = append(p.lanes[id], l)
	return l
}

// forget removes the lane of a container that was not created after all, or whose last event came by.
func (p *publisher) forget(l *lane) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked(l)
}

func (p *publisher) forgetLocked(l *lane) {
	left := p.lanes[l.id][:0]
	for _, other := range p.lanes[l.id] {
		if other != l {
			left = append(left, other)
		}
	}
	if len(left) == 0 {
		delete(p.lanes, l.id)
		return
	}
	p.lanes[l.id] = left
}

// Publish takes an event of runc's service.
func (p *publisher) Publish(ctx context.Context, topic string, event events.Event) error {
	if e, ok := event.(interface{ GetContainerID() string }); ok && p.take(e.GetContainerID(), item{ctx, topic, event}) {
		return nil
	}
	return p.Publisher.Publish(ctx, topic, event)
}

func (p *publisher) take(id string, it item) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lanes[id]) == 0 {
		return false
	}
	l := p.lanes[id][0]
	if _, ok := it.event.(*eventsapi.TaskCreate); ok {
		l.created = true
		l.push(it)
		for _, own := range l.early {
			l.push(own)
		}
		l.early = nil
		return true
	}
	if !l.created {
		return false // the last event of an unmanaged container that had the same id
	}
	if exit, ok := it.event.(*eventsapi.TaskExit); ok && exit.ID == id {
		l.exited = true
		go l.initExited()
		if l.children > 0 {
			l.held = append(l.held, it)
			return true
		}
	}
	if len(l.held) > 0 {
		l.held = append(l.held, it)
	} else {
		l.push(it)
	}
	if _, ok := it.event.(*eventsapi.TaskDelete); ok {
		p.forgetLocked(l)
	}
	return true
}

// added, started and ended publish events of our own. After the init's exit nothing is added or started any more.

func (l *lane) added(execID string) error {
	return l.own(&eventsapi.TaskExecAdded{ContainerID: l.id, ExecID: execID}, 0)
}

func (l *lane) started(execID string, pid uint32) error {
	return l.own(&eventsapi.TaskExecStarted{ContainerID: l.id, ExecID: execID, Pid: pid}, +1)
}

func (l *lane) ended(exit *eventsapi.TaskExit) {
	exit.ContainerID = l.id
	// Only what begins can fail.
	_ = l.own(exit, -1)
}

// recorded publishes what was written down of the gateway. It has no place among the events of processes, but for the container's
// create, and may come after the init's exit.
func (l *lane) recorded(topic string, event events.Event) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	it := item{l.p.ctx, topic, event}
	if !l.created {
		l.early = append(l.early, it)
		return
	}
	l.push(it)
}

func (l *lane) own(event events.Event, children int) error {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.exited && children >= 0 {
		return fmt.Errorf("the init process of container %s has exited: %w", l.id, errdefs.ErrFailedPrecondition)
	}
	l.children += children
	it := item{l.p.ctx, runtime.GetTopic(event), event}
	if !l.created {
		l.early = append(l.early, it)
		return nil
	}
	l.push(it)
	if l.children == 0 {
		for _, held := range l.held {
			l.push(held)
		}
		l.held = nil
	}
	return nil
}

// push is called with publisher.mu held.
func (l *lane) push(it item) {
	l.queue = append(l.queue, it)
	if l.draining {
		return
	}
	l.draining = true
	if l.p.busy == 0 {
		l.p.idle = make(chan struct{})
	}
	l.p.busy++
	go l.drain()
}

// drain publishes what is queued, one after the other: containerd can be slow to answer, or away.
func (l *lane) drain() {
	for {
		l.p.mu.Lock()
		if len(l.queue) == 0 {
			l.draining = false
			l.p.busy--
			if l.p.busy == 0 {
				close(l.p.idle)
			}
			l.p.mu.Unlock()
			return
		}
		it := l.queue[0]
		l.queue = l.queue[1:]
		l.p.mu.Unlock()
		if err := l.p.Publisher.Publish(it.ctx, it.topic, it.event); err != nil {
			log.G(it.ctx).WithError(err).WithField("id", l.id).Error("post event")
		}
	}
}

// flush waits until every event that was taken is published. The shim calls it before it exits.
func (p *publisher) flush(ctx context.Context) error {
	for {
		p.mu.Lock()
		busy, idle := p.busy, p.idle
		p.mu.Unlock()
		if busy == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
