package control

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
)

// SocketName is the name of a warden's socket in its container's run directory.
const SocketName = "control.sock"

// Dir is the run directory of a container: RUN_DIR/NAMESPACE/ID.
func Dir(runDir, namespace, id string) string {
	return filepath.Join(runDir, namespace, id)
}

// Call asks the warden whose run directory is dir and hands every message before the last to on, which may be nil. It
// returns the last message, and its Error, if it has one, as the error too.
//
// A missing directory gives not_managed. A warden that does not answer, or that goes away before its last message,
// gives warden_lost. When ctx ends first the connection is closed, which never undoes what the warden has begun.
func Call(ctx context.Context, dir string, req Request, on func(Message)) (Message, error) {
	conn, err := dial(ctx, dir)
	if err != nil {
		return Message{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	req.Version = Version
	line, err := json.Marshal(req)
	if err != nil {
		return Message{}, fmt.Errorf("cannot encode the request for %s: %w", dir, err)
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return Message{}, lost(ctx, dir, err)
	}
	r := bufio.NewReader(conn)
	for {
		line, err := readLine(r, MaxMessage)
		if err != nil {
			return Message{}, lost(ctx, dir, err)
		}
		m, err := ParseMessage(line)
		if err != nil {
			return Message{}, lost(ctx, dir, err)
		}
		if !m.Done {
			if on != nil {
				on(m)
			}
			continue
		}
		if m.Error != nil {
			return m, m.Error
		}
		return m, nil
	}
}

// ParseMessage reads one line of a warden's answer. Unknown members are allowed: the warden may be of a later version than its
// client, which adds some. What a client asks for a warden reads strictly (ParseRequest).
func ParseMessage(line []byte) (m Message, err error) {
	if len(line) > MaxMessage {
		return m, fmt.Errorf("%w: over %d bytes", errTooLong, MaxMessage)
	}
	return m, json.Unmarshal(line, &m)
}

// dial connects through a descriptor of dir, so that the length of dir does not count against the 108 bytes of a
// socket's path (unix(7)), and the directory that was checked is the one that is used.
func dial(ctx context.Context, dir string) (net.Conn, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, code.Errorf(code.NotManaged, code.StageQueue, "no gateway is managed at %s", dir)
	case err != nil:
		return nil, &fs.PathError{Op: "open the gateway's run directory", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(fd)+"/"+SocketName)
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, &fs.PathError{Op: "connect to the warden's socket in", Path: dir, Err: unix.EACCES}
	case err != nil:
		return nil, lost(ctx, dir, unreached{err})
	}
	return conn, nil
}

// unreached is a failure to connect: the request was never sent.
type unreached struct{ error }

func (e unreached) Unwrap() error { return e.error }

// Unsent tells whether an error of Call with warden_lost says that the request never reached a warden.
func Unsent(err error) bool {
	_, ok := errors.AsType[unreached](err)
	return ok
}

// Answers tells whether there is a warden in dir. To connect proves nothing: the socket of one that is being killed takes
// connections until its last file is closed.
func Answers(ctx context.Context, dir string) bool {
	_, err := Call(ctx, dir, Request{Verb: Status}, nil)
	return err == nil
}

func lost(ctx context.Context, dir string, err error) error {
	// Of a context's timer and a dial's either can be the first to fire.
	late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if cause := cmp.Or(context.Cause(ctx), err); ctx.Err() != nil || late {
		return code.Errorf(code.Deadline, code.StageQueue, "no answer from the warden at %s in time: %w", dir, cause)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		cause := op.Err // its address is a descriptor's number
		if sys, ok := errors.AsType[*os.SyscallError](cause); ok {
			cause = sys.Err
		}
		if Unsent(err) {
			cause = unreached{cause}
		}
		err = cause
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it closed the connection")
	}
	return code.Errorf(code.WardenLost, code.StageQueue, "the warden at %s does not answer: %w", dir, err)
}

// errTooLong is a line over its bound.
var errTooLong = errors.New("line too long")

// readLine reads one line of at most max bytes, the newline included and dropped.
func readLine(r *bufio.Reader, max int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > max {
			return nil, fmt.Errorf("%w: over %d bytes", errTooLong, max)
		}
		line = append(line, part...)
		if err == nil {
			return line[:len(line)-1], nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

func peerCred(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, os.NewSyscallError("getsockopt SO_PEERCRED", credErr)
}
