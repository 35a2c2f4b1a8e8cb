// Package forward looks at the endpoints on the host that should reach a gateway, from where their clients are: the host's
// network namespace.
//
// A yes is a connection that was accepted, or with a path the HTTP answer that was asked for. Whose it is is not proven: whatever
// listens there may have given it, and a proxy accepts connections whether it reaches the gateway or not.
package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/probe"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

const (
	// patience is how long an endpoint is given at least before its silence counts as a no.
	patience = 300 * time.Millisecond
	// pace is the time between two looks at one that is waited for; doubled up to slow.
	pace = 10 * time.Millisecond
	slow = 200 * time.Millisecond
)

// Look asks the endpoint once, within ctx and at most 2 seconds.
func Look(ctx context.Context, f profile.Forward) receipt.Forward { return look(ctx, f, own) }

// Await asks the endpoint until it says yes, or ctx ends: then the last look tells, but for one that was cut short.
func Await(ctx context.Context, f profile.Forward) receipt.Forward { return await(ctx, f, own) }

func await(ctx context.Context, f profile.Forward, own func() ([]net.Addr, error)) receipt.Forward {
	begun := time.Now()
	var last receipt.Forward
	for n, wait := 0, pace; ; n, wait = n+1, min(2*wait, slow) {
		r := look(ctx, f, own)
		if n == 0 || ctx.Err() == nil || r.OK != nil && *r.OK {
			last = r
		}
		last.Millis = millis(time.Since(begun))
		if last.OK != nil && *last.OK {
			return last
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return last
		}
	}
}

func look(ctx context.Context, f profile.Forward, own func() ([]net.Addr, error)) receipt.Forward {
	r := receipt.Forward{Name: f.Name, Address: f.Endpoint()}
	begun := time.Now()
	defer func() { r.Millis = millis(time.Since(begun)) }()
	if err := ours(f.Address.AddrPort.Addr(), own); err != nil {
		r.Detail = err.Error()
		return r
	}
	res := probe.Run(ctx, nil, -1, f.Check(), nil)
	r.Detail = res.Detail
	if res.Verdict == probe.No && ctx.Err() != nil && time.Since(begun) < patience {
		res.Verdict = probe.Unknown
		r.Detail += ", which was all the time that there was"
	}
	switch res.Verdict {
	case probe.Yes:
		r.OK = new(true)
	case probe.No:
		r.OK, r.Code = new(false), code.ForwardFailed
	}
	return r
}

// ours makes sure that nobody but this host is connected to.
func ours(a netip.Addr, own func() ([]net.Addr, error)) error {
	if a.IsLoopback() {
		return nil
	}
	all, err := own()
	if err != nil {
		return fmt.Errorf("cannot list this host's addresses: %w", err)
	}
	for _, addr := range all {
		if n, ok := addr.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a {
				return nil
			}
		}
	}
	return errors.New("it is not an address of this host, so nobody was asked: correct it in the profile")
}

func own() ([]net.Addr, error) { return net.InterfaceAddrs() }

// Merge gives what is to be shown once now was found: where that could not be told, an endpoint that did not reach the gateway
// before still counts as one.
func Merge(now, before []receipt.Forward) []receipt.Forward {
	out := make([]receipt.Forward, len(now))
	for i, r := range now {
		out[i] = r
		for _, b := range before {
			if r.OK == nil && b.Failed() && b.Name == r.Name && b.Address == r.Address {
				out[i] = b
			}
		}
	}
	return out
}

// Message says which endpoints do not reach the gateway, and why; "" if there is none.
func Message(all []receipt.Forward) string {
	var parts []string
	for _, r := range receipt.FailedForwards(all) {
		parts = append(parts, r.String())
	}
	return strings.Join(parts, "; ")
}

func millis(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}
