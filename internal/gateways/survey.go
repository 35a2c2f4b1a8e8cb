package gateways

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/counters"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// clients bounds the wardens that are asked at a time.
const clients = 32

// Found is one container of the host.
type Found struct {
	Status   *receipt.Status
	Counters *counters.Counters // as written down; nil: not known
	Lost     bool               // its warden is gone, or does not answer: of Status only what the hook wrote down, and Code, is known
}

// Survey tells of all containers what their wardens wrote down last, sorted. It wakes only those of which nothing can be used
// that is written down, and waits no longer than timeout for each; 0 stands for AnswerTime.
func (h Host) Survey(ctx context.Context, timeout time.Duration) ([]Found, error) {
	return h.survey(ctx, timeout, h.read)
}

// Poll is Survey by asking every warden.
func (h Host) Poll(ctx context.Context, timeout time.Duration) ([]Found, error) {
	return h.survey(ctx, timeout, h.ask)
}

// survey finds out about each container by look, some at a time. A container that look gives nothing of has vanished meanwhile.
func (h Host) survey(ctx context.Context, timeout time.Duration, look func(context.Context, Target, time.Duration) (*Found, error)) ([]Found, error) {
	targets, err := List(h.Config.RunDir)
	if err != nil {
		return nil, err
	}
	rows, errs := make([]*Found, len(targets)), make([]error, len(targets))
	places := make(chan struct{}, clients)
	var asking sync.WaitGroup
	for i, t := range targets {
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			rows[i], errs[i] = look(ctx, t, timeout)
		})
	}
	asking.Wait()
	var found []Found
	for i, r := range rows {
		switch {
		case errs[i] != nil:
			return nil, errs[i]
		case r != nil:
			found = append(found, *r)
		}
	}
	return found, nil
}

// read takes what t's warden has written down. If nobody stands by that, because the warden is gone, another one is about to
// take over, or it could not write, or if another release has written it, the socket tells: a warden that is gone is not there
// to be woken.
func (h Host) read(ctx context.Context, t Target, timeout time.Duration) (*Found, error) {
	g, err := memo.Look(h.RunDir(t))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, err
	case err != nil || g.Status.Container.Namespace != t.Namespace || g.Status.Container.ID != t.ID:
		return h.ask(ctx, t, timeout)
	}
	f := &Found{Status: &g.Status}
	if !g.Signed {
		if f, err = h.ask(ctx, t, timeout); f == nil {
			return nil, err
		}
	}
	f.Counters = &g.Counters
	return f, nil
}

func (h Host) ask(ctx context.Context, t Target, timeout time.Duration) (*Found, error) {
	st, err := h.Status(ctx, t, timeout)
	if err == nil {
		return &Found{Status: st}, nil
	}
	e := code.From(err, code.StageQueue)
	switch {
	case e.Code == code.NotManaged:
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, err
	}
	return &Found{Status: h.Lost(t, e), Lost: true}, nil
}
