package virtualexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"
)

// Stdio says where the streams of an exec lead, in the words of the task API: the path of a FIFO or file, a file:// URL,
// or nothing.
type Stdio struct {
	Stdin, Stdout, Stderr string
	Terminal              bool // one output stream, Stdout, to a terminal in raw mode
}

// Streams are the program's standard streams, and what it should know about them. None is nil.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool
	Width          int // columns; 0: unknown
}

// openTimeout is how long the client's end of a FIFO may be missing; runc's shim allows the same.
const openTimeout = 30 * time.Second

// streams are open Streams.
type streams struct {
	Streams
	stdin   io.Closer // our own writing end of the FIFO behind Stdin; nil: none, or closed
	closers []io.Closer
}

func (s *streams) closeStdin() {
	if s.stdin != nil {
		s.stdin.Close()
		s.stdin = nil
	}
}

func (s *streams) close() {
	s.closeStdin()
	for _, c := range s.closers {
		c.Close()
	}
	s.closers = nil
}

// open opens the streams, or none of them.
func (std Stdio) open(ctx context.Context) (_ *streams, err error) {
	s := &streams{Streams: Streams{Terminal: std.Terminal, Stdin: bytes.NewReader(nil)}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.Stdout, err = s.openOutput(ctx, std.Stdout); err != nil {
		return nil, fmt.Errorf("cannot open the exec's standard output: %w", err)
	}
	switch {
	case std.Terminal:
		s.Stdout = lineFeeds{s.Stdout}
		s.Stderr = s.Stdout
	case std.Stderr == std.Stdout:
		s.Stderr = s.Stdout
	default:
		if s.Stderr, err = s.openOutput(ctx, std.Stderr); err != nil {
			return nil, fmt.Errorf("cannot open the exec's standard error: %w", err)
		}
	}
	if std.Stdin != "" {
		if err := s.openInput(std.Stdin); err != nil {
			return nil, fmt.Errorf("cannot open the exec's standard input: %w", err)
		}
	}
	return s, nil
}

func (s *streams) openOutput(ctx context.Context, uri string) (io.Writer, error) {
	if uri == "" {
		return io.Discard, nil
	}
	path, create, err := outputPath(uri)
	if err != nil {
		return nil, err
	}
	isFifo, err := fifo.IsFifo(path)
	if err != nil {
		return nil, err
	}
	if !isFifo {
		return s.openFile(path, create)
	}
	w, err := fifo.OpenFifo(ctx, path, unix.O_WRONLY, 0)
	if err != nil {
		if errors.Is(err, ctx.Err()) {
			return nil, fmt.Errorf("nobody opened %s for reading in time: %w", path, err)
		}
		return nil, err
	}
	s.closers = append(s.closers, w)
	// With a reading end of our own, a client that goes away gives neither EPIPE nor a lost write.
	r, err := fifo.OpenFifo(ctx, path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, r)
	return w, nil
}

// outputPath reads what the task API calls a URI. Only file:// asks for the file to be made (ctr --log-uri).
func outputPath(uri string) (path string, create bool, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", false, fmt.Errorf("%.200q is not a path or URL: %w", uri, errdefs.ErrInvalidArgument)
	}
	switch u.Scheme {
	case "":
		path = uri
	case "fifo":
		path = u.Path
	case "file":
		path, create = u.Path, true
	case "binary", "binary-v2":
		return "", false, fmt.Errorf("%.200q: gatewarden's own verbs start no logging program; use FIFOs or a file:// URL: %w", uri, errdefs.ErrInvalidArgument)
	default:
		return "", false, fmt.Errorf("%.200q: streams of the kind %q are not known here; use FIFOs or a file:// URL: %w", uri, u.Scheme, errdefs.ErrNotImplemented)
	}
	if !filepath.IsAbs(path) {
		return "", false, fmt.Errorf("%.200q is not an absolute path: %w", uri, errdefs.ErrInvalidArgument)
	}
	return path, create, nil
}

func (s *streams) openFile(path string, create bool) (io.Writer, error) {
	flags := unix.O_WRONLY | unix.O_APPEND
	if create {
		flags |= unix.O_CREAT
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, f)
	return f, nil
}

// openInput does not wait for the client, whose end appears when it appears. A writing end of our own keeps the input
// from ending before CloseIO.
func (s *streams) openInput(path string) error {
	r, err := fifo.OpenFifo(context.Background(), path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, r)
	s.Stdin = r
	w, err := fifo.OpenFifo(context.Background(), path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	s.stdin = w
	return nil
}

// lineFeeds writes line ends as a terminal in raw mode needs them: there is no line discipline here to do it.
type lineFeeds struct{ w io.Writer }

func (l lineFeeds) Write(b []byte) (int, error) {
	if _, err := l.w.Write(bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(b), nil
}
