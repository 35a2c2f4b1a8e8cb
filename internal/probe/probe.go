// Package probe asks a gateway whether it is ready, from the host, by a connection made inside the container's network
// namespace. The answer is yes, no or cannot tell.
//
// What the gateway's side sends is read within fixed bounds of length and time, and never interpreted beyond the status
// of one HTTP response, or of one call of gRPC's health service.
//
// A probe that is a command (exec) runs in the container; package warden makes it, as it makes the gateway itself.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/lookup"
	"github.com/gatewarden/gatewarden/internal/netns"
	"github.com/gatewarden/gatewarden/internal/profile"
)

// Verdict is a probe's answer.
type Verdict string

// The verdicts.
//
// No is what the gateway's side did: it refused, reset or closed the connection, was not there, answered something else
// than asked for, or did not answer in time: a gateway that takes longer than the attempt lasts does not serve now, and
// the next attempt may say otherwise.
//
// Unknown is what happened on our side: no descriptors, no memory, no local port to connect from, a namespace that
// cannot be entered, a caller that gave up; and with Taken, connections that only others have accepted. It says nothing about
// the gateway.
const (
	Yes     Verdict = "yes"
	No      Verdict = "no"
	Unknown Verdict = "unknown"
)

// Result is one attempt's outcome.
type Result struct {
	Verdict Verdict
	Kind    string // of the profile's ready: "http", "grpc", "tcp", "unix", "exec", "none"
	Status  int    // HTTP status; 0 for other kinds and when no complete response came
	Took    time.Duration
	Detail  string // why it is not a yes; printable and short, whatever the gateway sent
	// Elsewhere: with Taken, others have accepted every connection, so the gateway was not asked at all.
	Elsewhere bool
}

// attemptTimeout bounds one attempt over connecting, writing and reading.
const attemptTimeout = 2 * time.Second

// Run makes one attempt, within ctx and at most 2 seconds. Ns is the container's network namespace (an open
// /proc/PID/ns/net), or nil for this process's own, where TCP alone is asked; root is a descriptor of its root directory (O_PATH will do), used for the paths of unix sockets only.
//
// With taken, only a connection counts that the gateway has accepted, see Taken.
func Run(ctx context.Context, ns *os.File, root int, r profile.Ready, taken Taken) Result {
	start := time.Now()
	res := Result{Kind: r.Kind}
	attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	status, err := ask(attempt, ns, root, r, taken)
	res.Status, res.Took = status, time.Since(start)
	switch {
	case err == nil:
		res.Verdict = Yes
	case ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded):
		res.Verdict, res.Detail = Unknown, "the attempt was given up: "+ctx.Err().Error()
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		res.Verdict, res.Detail = No, fmt.Sprintf("no answer within %v", res.Took.Round(time.Millisecond))
	default:
		_, res.Elsewhere = errors.AsType[ElsewhereError](err)
		res.Verdict, res.Detail = judge(err), err.Error()
	}
	switch {
	case !errors.Is(err, unix.EADDRNOTAVAIL):
	case ns == nil:
		res.Detail += " (no local port is left on the host: it has too many connections to that address)"
	default:
		res.Detail += " (no local port is left in the container's network: its processes hold too many connections to that address)"
	}
	return res
}

// answerError is an answer that is not the one asked for.
type answerError string

func (e answerError) Error() string { return string(e) }

// ElsewhereError is the Detail of a Result that is Elsewhere.
type ElsewhereError string

func (e ElsewhereError) Error() string { return string(e) }

// judge tells the gateway's errors from our own. The list is of what can only come from the other side, or from how the
// container is set up; everything else says nothing about the gateway.
func judge(err error) Verdict {
	if _, ok := errors.AsType[answerError](err); ok {
		return No
	}
	for _, e := range []error{
		unix.ECONNREFUSED, unix.ECONNRESET, unix.ECONNABORTED, unix.EPIPE, io.EOF, // nobody there, or it hung up
		unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ETIMEDOUT, // no way to it inside the container
		unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EPROTOTYPE, // unix: not there, or not a stream socket
	} {
		if errors.Is(err, e) {
			return No
		}
	}
	return Unknown
}

// ask makes the attempt; no error means yes.
func ask(ctx context.Context, ns *os.File, root int, r profile.Ready, taken Taken) (status int, err error) {
	switch r.Kind {
	case "none":
		return 0, nil
	case "http", "grpc", "tcp", "unix":
	default:
		return 0, fmt.Errorf("the kind of probe %q is not known", r.Kind)
	}
	conn, err := connect(ctx, ns, root, r.Address, taken)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	switch r.Kind {
	case "tcp", "unix":
		return 0, nil
	case "grpc":
		if err := check(conn, r.Host, r.Service); err != nil {
			return 0, fmt.Errorf("no gRPC health from %s: %w", r.Address, err)
		}
		return 0, nil
	}
	status, err = get(conn, r.Host, r.Path)
	if err != nil {
		return 0, fmt.Errorf("no HTTP answer from %s: %w", r.Address.AddrPort, err)
	}
	if !slices.Contains(r.Accept, status) {
		return status, answerError(fmt.Sprintf("HTTP status %d; accepted is %s", status, list(r.Accept)))
	}
	return status, nil
}

func list(statuses []int) string {
	s := make([]string, len(statuses))
	for i, n := range statuses {
		s[i] = fmt.Sprint(n)
	}
	return strings.Join(s, ", ")
}

func dial(ctx context.Context, ns *os.File, root int, a profile.Address) (net.Conn, error) {
	if ns == nil {
		if a.Network == "unix" {
			return nil, fmt.Errorf("cannot connect to %s: unix sockets are asked in a container alone", a)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", a.AddrPort.String())
	}
	if a.Network != "unix" {
		return netns.Dial(ctx, ns, a.Network, a.AddrPort.String())
	}
	var conn net.Conn
	var err error
	if _, abstract := a.Abstract(); abstract {
		conn, err = netns.Dial(ctx, ns, a.Network, a.Path)
	} else {
		conn, err = dialUnix(ns, root, a.Path)
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok && e.Syscall == "connect" && errors.Is(e, unix.EAGAIN) {
		return nil, answerError(fmt.Sprintf("the queue of unix socket %q is full: its owner accepts no connections", a.Path))
	}
	return conn, err
}

// dialUnix connects to the stream socket at path below root.
//
// The path is resolved as the container would (its links count from root), but never out of root and never over the links
// of a /proc that the container has mounted. What it leads to is held by an O_PATH descriptor, and the connect goes
// through /proc/self/fd to exactly that, so that nothing can be put in its place between, and so that the path may be
// longer than the 107 bytes of a sockaddr_un. The connection needs no namespace, path sockets are reached by their inode; it is
// made inside ns for its other end to be found there (listener.Table.Peer).
//
// A non-blocking connect to a unix socket never waits: it succeeds or, with a full queue, fails with EAGAIN (unix(7)).
func dialUnix(ns *os.File, root int, path string) (net.Conn, error) {
	node, err := lookup.Open(root, path, lookup.InRoot, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot look up unix socket %q in the container: %w", path, err)
	}
	defer node.Close()
	var s int
	err = netns.Do(ns, func() (err error) {
		s, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot connect to unix socket %q: %w", path, err)
	}
	f := os.NewFile(uintptr(s), path)
	defer f.Close() // FileConn duplicates it
	err = unix.Connect(s, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", node.Fd())})
	if err != nil {
		return nil, fmt.Errorf("cannot connect to unix socket %q: %w", path, os.NewSyscallError("connect", err))
	}
	return net.FileConn(f)
}
