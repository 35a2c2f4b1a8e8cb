package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/strictjson"
)

// maxClients bounds the connections that a warden serves at a time. Only root can connect, so this protects the
// warden's memory from a client gone wild, not from an attacker.
const maxClients = 64

// requestTimeout is how long a client may take to send its request after it connected.
const requestTimeout = 5 * time.Second

// Handler carries out one request. It calls send for each message; the last one has Done set. send fails when the client
// is gone, and ctx ends then too; what a handler has begun it must finish all the same.
type Handler func(ctx context.Context, req Request, uid int, send func(Message) error)

// Listen makes the socket in dir, which must be the root-owned 0700 run directory of a container.
func Listen(dir string) (*net.UnixListener, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the run directory %s: %w", dir, err)
	}
	defer unix.Close(fd)
	// A warden that was lost leaves its socket. Nobody listens on it: the caller holds the container's lock.
	if err := unix.Unlinkat(fd, SocketName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("cannot remove the old control socket in %s: %w", dir, err)
	}
	l, err := listen("/proc/self/fd/" + strconv.Itoa(fd) + "/" + SocketName)
	if err != nil {
		return nil, fmt.Errorf("cannot make the control socket in %s: %w", dir, err)
	}
	if err := unix.Fchmodat(fd, SocketName, 0o600, 0); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot set the mode of the control socket in %s: %w", dir, err)
	}
	return l, nil
}

// backlog bounds the clients that have connected and are not served yet. The kernel does too (net.core.somaxconn).
const backlog = 4096

// listen is net.ListenUnix without the 64 KiB in which it would read net.core.somaxconn, and which each warden would keep.
// It does not remove the name in the end: the descriptor in its path is not ours any more then, and the run directory's
// owner removes it.
func listen(path string) (*net.UnixListener, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), SocketName)
	defer f.Close() // the listener has a duplicate
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// Serve answers clients until l is closed, then waits for those that it still serves.
func Serve(ctx context.Context, l *net.UnixListener, h Handler) {
	var clients sync.WaitGroup
	defer clients.Wait()
	places := make(chan struct{}, maxClients)
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// EMFILE and the like pass; a closed socket does not.
			time.Sleep(50 * time.Millisecond)
			continue
		}
		places <- struct{}{}
		clients.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			serve(ctx, conn, h)
		})
	}
}

func serve(ctx context.Context, conn *net.UnixConn, h Handler) {
	enc := json.NewEncoder(conn)
	send := func(m Message) error {
		conn.SetWriteDeadline(time.Now().Add(requestTimeout))
		return enc.Encode(m)
	}
	refuse := func(format string, args ...any) {
		send(Message{Done: true, Error: code.Errorf(code.Internal, code.StageQueue, format, args...)})
	}
	uid, err := authenticate(conn)
	if err != nil {
		refuse("request refused: %w", err)
		return
	}
	conn.SetReadDeadline(time.Now().Add(requestTimeout))
	r := bufio.NewReader(conn)
	line, err := readLine(r, MaxRequest)
	if err != nil {
		refuse("cannot read the request: %w", err)
		return
	}
	req, err := ParseRequest(line)
	if err != nil {
		refuse("cannot read the request: %w", err)
		return
	}
	conn.SetReadDeadline(time.Time{})

	// A client sends nothing after its request: the next read tells that it is gone.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		r.ReadByte()
	}()
	h(ctx, req, uid, send)
}

// authenticate lets only root of the host's own user namespace in: UID 0 as the kernel translates it for us. The socket's
// directory says the same; this holds even if somebody loosens its mode.
func authenticate(conn *net.UnixConn) (int, error) {
	cred, err := peerCred(conn)
	if err != nil {
		return 0, err
	}
	if cred.Uid != uint32(os.Geteuid()) {
		return 0, fmt.Errorf("UID %d may not control a gateway; only UID %d may", cred.Uid, os.Geteuid())
	}
	return int(cred.Uid), nil
}

// ParseRequest reads one request strictly: no unknown key, no trailing data, known version and verb, bounded strings.
func ParseRequest(line []byte) (Request, error) {
	if len(line) > MaxRequest {
		return Request{}, fmt.Errorf("%w: over %d bytes", errTooLong, MaxRequest)
	}
	req, err := strictjson.Decode[Request](line)
	if err != nil {
		return Request{}, err
	}
	if req.Version != Version {
		return Request{}, fmt.Errorf("protocol version %d is not spoken here, only %d: client and warden differ in age", req.Version, Version)
	}
	switch req.Verb {
	case Status, Restart, Recover, Apply, Rollback, Unlock, Lock, Probe, Signal, Await, Watch, Leave:
	default:
		return Request{}, fmt.Errorf("unknown verb %q", req.Verb)
	}
	switch {
	case req.Timeout < 0 || req.Timeout > 24*time.Hour:
		return Request{}, fmt.Errorf("timeout %v is not between 0 and 24h", req.Timeout)
	case len(req.Reason) > MaxReason:
		return Request{}, fmt.Errorf("reason is longer than %d bytes", MaxReason)
	case len(req.RequestID) > MaxRequestID:
		return Request{}, fmt.Errorf("request id is longer than %d bytes", MaxRequestID)
	case len(req.Via) > 32:
		return Request{}, fmt.Errorf("via is longer than 32 bytes")
	case req.Signal != "" && unix.SignalNum(req.Signal) == 0:
		return Request{}, fmt.Errorf("unknown signal %q", req.Signal)
	case req.Verb == Signal && req.Signal == "":
		return Request{}, fmt.Errorf("the verb %q needs a signal", req.Verb)
	case len(req.Config) > MaxConfigs || len(req.Config) > 0 && req.Verb != Apply:
		return Request{}, fmt.Errorf("%d configurations with the verb %q: apply takes at most %d", len(req.Config), req.Verb, MaxConfigs)
	case req.To < 0 || req.To > 0 && req.Verb != Rollback:
		return Request{}, fmt.Errorf("generation %d with the verb %q: rollback takes one", req.To, req.Verb)
	case (req.DryRun || req.SkipPreflight) && req.Verb != Apply && req.Verb != Rollback:
		return Request{}, fmt.Errorf("the verb %q has no dry run and no preflight command", req.Verb)
	}
	if (req.Verb == Unlock) != (req.For > 0) || req.For < 0 || req.For > MaxUnlock {
		return Request{}, fmt.Errorf("%v with the verb %q: unlock takes a time of at most %v", req.For, req.Verb, MaxUnlock)
	}
	for _, c := range req.Config {
		if !path.IsAbs(c.Source) || path.Clean(c.Source) != c.Source || c.Target != "" && (!path.IsAbs(c.Target) || path.Clean(c.Target) != c.Target) {
			return Request{}, fmt.Errorf("configuration %.200q for %.200q: absolute, clean paths are needed", c.Source, c.Target)
		}
	}
	return req, nil
}
