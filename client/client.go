package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/gatewaylog"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/journal"
)

// MaxVia is the longest Options.Via, in bytes.
const MaxVia = 32

// Options say where the host's settings are, and who asks. The zero value is the host's own installation.
type Options struct {
	ConfigFile string // gatewarden's settings; "": /etc/gatewarden/config.toml, or the defaults if that does not exist
	Namespace  string // where Find looks first for an ID alone; "": "default"
	Via        string // for receipts' RequestedBy.Via, at most MaxVia bytes; "": "client"
}

// Client asks the wardens of this host. It keeps nothing open, and can be used by several goroutines at once.
type Client struct{ host gateways.Host }

// New reads the settings. It asks no warden.
func New(o Options) (*Client, error) {
	settings, err := config.Load(o.ConfigFile)
	if err != nil {
		return nil, fmt.Errorf("cannot use gatewarden's settings: %w", err)
	}
	h := gateways.Host{Config: settings, Namespace: o.Namespace, Via: o.Via, Installed: true}
	if h.Namespace == "" {
		h.Namespace = "default"
	}
	if h.Via == "" {
		h.Via = "client"
	}
	if len(h.Via) > MaxVia {
		return nil, fmt.Errorf("Options.Via is longer than %d bytes: %.40q", MaxVia, h.Via)
	}
	return &Client{h}, nil
}

// Find resolves what a person typed: ID, NAMESPACE/ID, or a unique prefix of either, as the gatewarden command does. A program
// that knows its container makes a Ref instead: a prefix of one that is gone can be another's. The error is an *AmbiguousError, or
// an *Error with CodeNotManaged.
func (c *Client) Find(name string) (Ref, error) {
	t, err := c.host.Find(name, c.host.Config.RunDir)
	return Ref(t), failure(err)
}

// List tells of every container of the host that has a gateway, in all namespaces, sorted. It gives what each warden wrote down
// last, and wakes none: Healthy is as of Checked. A container whose warden is lost is among them, with CodeWardenLost.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	found, err := c.host.Survey(ctx, 0)
	if err != nil {
		return nil, failure(err)
	}
	all := make([]Status, len(found))
	for i, f := range found {
		if all[i], err = public[Status](f.Status); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Status asks the container's warden how the gateway is, which has it looked at. It never waits for an action in progress and
// changes nothing.
func (c *Client) Status(ctx context.Context, r Ref) (*Status, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	st, err := c.host.Status(ctx, t, remaining(ctx))
	if err != nil {
		return nil, failure(err)
	}
	return publicPointer[Status](st)
}

// Probe runs the profile's readiness probe once and reads who listens. No state changes, whatever it finds. Not to be healthy
// is no error.
func (c *Client) Probe(ctx context.Context, r Ref) (*Report, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	report, err := c.host.Probe(ctx, t, remaining(ctx))
	if err != nil {
		return nil, failure(err)
	}
	return publicPointer[Report](report)
}

// Receipts gives the last n receipts of the container's journal, oldest first; all that are kept if n is not positive. It needs no
// warden, and works for a container that has ended. Lines that a power cut has torn are left out.
func (c *Client) Receipts(ctx context.Context, r Ref, n int) ([]Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	found, err := c.host.Receipts(t, n)
	if _, torn := errors.AsType[*journal.SkippedError](err); err != nil && !torn {
		return nil, failure(err)
	}
	all := make([]Receipt, len(found))
	for i := range found {
		if all[i], err = public[Receipt](&found[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// LogLine is a line of what a gateway wrote.
type LogLine struct {
	Time    time.Time // when it was read from the gateway
	Stream  string    // "stdout", "stderr", or "gatewarden": the log speaks of itself, such as of a gap
	Partial bool      // the line goes on in the next one of this stream
	Text    string    // without the newline
}

// Logs gives the last n lines that the gateway wrote, all that are kept if n is negative; with follow also those to come, until
// ctx ends, whose error is the last that is given, or the container is deleted. An error ends it. It needs no warden.
func (c *Client) Logs(ctx context.Context, r Ref, n int, follow bool) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		t, err := target(r)
		if err == nil {
			err = c.host.Known(t, c.host.LogDir(t))
		}
		give := func(l gatewaylog.Line) error {
			if !yield(LogLine(l), nil) {
				return errEnough
			}
			return nil
		}
		var lines []gatewaylog.Line
		switch {
		case err != nil:
		case follow:
			err = gatewaylog.Follow(ctx, c.host.Log(t), n, give)
		case n != 0:
			lines, err = gatewaylog.Tail(c.host.Log(t), n)
			for i := 0; i < len(lines) && err == nil; i++ {
				if err = give(lines[i]); err == nil {
					err = ctx.Err()
				}
			}
		}
		if err != nil && !errors.Is(err, errEnough) && !errors.Is(err, fs.ErrNotExist) {
			yield(LogLine{}, failure(err))
		}
	}
}

// errEnough ends a stream whose reader has had enough.
var errEnough = errors.New("the reader has had enough")

// Event is one receipt that was recorded, or a gap.
type Event struct {
	Seq     uint64   // of the receipt in the host's audit log: one more than that of the receipt before
	Receipt *Receipt // nil: Gap
	Gap     *Gap
}

// Gap stands for receipts that were rotated away before they could be read.
type Gap struct {
	From uint64 // sequence number of the first; 0: not known, because the receipt to begin after is gone itself
	To   uint64 // of the last
}

// Events gives the receipts of these containers, of all if none is named, as they are recorded: all that come after the
// receipt with the id since, and then what is new; with an empty since only what is recorded from the first step of the loop on.
// It reads the host's audit log and wakes no warden. A reader that was interrupted goes on with the id of the last receipt that
// it has dealt with, and misses none: what was rotated away meanwhile is told as a Gap.
//
// It ends with an error: ctx's, or one with CodeNotManaged if no receipt has the id since.
func (c *Client) Events(ctx context.Context, since string, of ...Ref) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		wanted := make([]gateways.Target, len(of))
		for i, r := range of {
			wanted[i] = gateways.Target(r)
		}
		give := func(e Event) error {
			if !yield(e, nil) {
				return errEnough
			}
			return nil
		}
		err := c.host.Follow(ctx, wanted, since, func(e audit.Event) error {
			r := new(Receipt)
			if err := json.Unmarshal(e.Text, r); err != nil {
				return fmt.Errorf("receipt %s of the audit log: %w", e.ID, err)
			}
			return give(Event{Seq: e.Seq, Receipt: r})
		}, func(g audit.Gap) error {
			return give(Event{Gap: &Gap{From: g.From, To: g.To}})
		})
		if !errors.Is(err, errEnough) {
			yield(Event{}, failure(err))
		}
	}
}

// target gives r, which has to be a name that a container can have.
func target(r Ref) (gateways.Target, error) {
	for _, part := range []string{r.Namespace, r.ID} {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00") {
			return gateways.Target{}, failure(code.Errorf(code.NotManaged, code.StageQueue, "no container is called %q in namespace %q", r.ID, r.Namespace))
		}
	}
	return gateways.Target(r), nil
}

// remaining is the time that ctx leaves; 0: it has no deadline.
func remaining(ctx context.Context) time.Duration {
	end, has := ctx.Deadline()
	if !has {
		return 0
	}
	return max(time.Until(end), 1)
}

// public gives v in its public form. Both have the same JSON form, which is the contract; a test compares them.
func public[T any](v any) (p T, err error) {
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return p, fmt.Errorf("cannot read the warden's answer: %w", err)
	}
	return p, nil
}

func publicPointer[T any](v any) (*T, error) {
	p, err := public[T](v)
	if err != nil {
		return nil, err
	}
	return &p, nil
}
