package kubelet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/gatewarden/gatewarden/internal/netns"
)

// Output is what a command in a container said.
type Output struct {
	Stdout string
	Stderr string
	Status int
}

// ExecSync executes a command as a probe does. A timeout of 0 is none; seconds are counted.
func (r *Running) ExecSync(ctx context.Context, name string, timeout time.Duration, command ...string) (Output, error) {
	resp, err := r.node.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: r.ids[name], Cmd: command, Timeout: int64(timeout / time.Second)})
	if err != nil {
		return Output{}, err
	}
	return Output{string(resp.Stdout), string(resp.Stderr), int(resp.ExitCode)}, nil
}

// Probe runs the readiness probe of a container once and gives its exit status.
func (r *Running) Probe(ctx context.Context, name string) (int, error) {
	c, err := r.pod.container(name)
	if err != nil {
		return 0, err
	}
	if c.ReadinessProbe == nil {
		return 0, fmt.Errorf("container %s has no readiness probe", name)
	}
	out, err := r.ExecSync(ctx, name, time.Duration(c.ReadinessProbe.TimeoutSeconds)*time.Second, c.ReadinessProbe.Exec.Command...)
	return out.Status, err
}

// The streaming protocol of exec over SPDY, version 4 (k8s.io/cri-streaming/pkg/streaming/remotecommand).
const (
	streamType      = "streamType"
	streamProtocol  = "v4.channel.k8s.io"
	maxOutput       = 1 << 20
	reasonExitCode  = "NonZeroExitCode"
	causeOfExitCode = "ExitCode"
)

// Exec executes a command as `kubectl exec` does: it asks for a URL, and has the streams of the command there. With tty, the
// command has a terminal and all output is on Stdout. What stdin has is sent; nil: the command has none.
func (r *Running) Exec(ctx context.Context, name string, tty bool, stdin io.Reader, command ...string) (Output, error) {
	resp, err := r.node.Runtime.Exec(ctx, &cri.ExecRequest{
		ContainerId: r.ids[name], Cmd: command, Tty: tty, Stdin: stdin != nil, Stdout: true, Stderr: !tty,
	})
	if err != nil {
		return Output{}, err
	}
	conn, err := r.node.dial(ctx, resp.Url)
	if err != nil {
		return Output{}, fmt.Errorf("connect to %s: %w", resp.Url, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	open := func(kind string) (httpstream.Stream, error) {
		return conn.CreateStream(http.Header{streamType: []string{kind}})
	}
	failure, err := open("error")
	if err != nil {
		return Output{}, err
	}
	failure.Close() // nothing is sent on it
	var readers sync.WaitGroup
	var stdout, stderr bytes.Buffer
	for kind, to := range map[string]*bytes.Buffer{"stdout": &stdout, "stderr": &stderr} {
		if tty && kind == "stderr" {
			continue
		}
		s, err := open(kind)
		if err != nil {
			return Output{}, err
		}
		readers.Go(func() { io.Copy(to, io.LimitReader(s, maxOutput)) })
	}
	if stdin != nil {
		s, err := open("stdin")
		if err != nil {
			return Output{}, err
		}
		go func() {
			io.Copy(s, stdin)
			s.Close()
		}()
	}
	if tty {
		s, err := open("resize")
		if err != nil {
			return Output{}, err
		}
		defer s.Close()
		if err := json.NewEncoder(s).Encode(map[string]int{"Width": 100, "Height": 30}); err != nil {
			return Output{}, err
		}
	}
	end, err := io.ReadAll(io.LimitReader(failure, maxOutput))
	if err != nil {
		return Output{}, err
	}
	readers.Wait()
	if ctx.Err() != nil {
		return Output{}, ctx.Err()
	}
	status, err := exitStatus(end)
	return Output{stdout.String(), stderr.String(), status}, err
}

// dial opens a connection for streams, from inside the network namespace in which the implementation listens.
func (n *Node) dial(ctx context.Context, address string) (httpstream.Connection, error) {
	direct := func(*http.Request) (*url.URL, error) { return nil, nil }
	tripper, err := spdy.NewRoundTripperWithProxy(nil, direct)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, streamProtocol)
	var resp *http.Response
	if err := netns.Do(n.settings.Network, func() (err error) {
		resp, err = tripper.RoundTrip(req)
		return err
	}); err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	conn, err := tripper.NewConnection(resp)
	if err != nil {
		return nil, err
	}
	if got := resp.Header.Get(httpstream.HeaderProtocolVersion); got != streamProtocol {
		conn.Close()
		return nil, fmt.Errorf("it speaks protocol %q", got)
	}
	return conn, nil
}

// exitStatus reads the metav1.Status that ends an exec.
func exitStatus(data []byte) (int, error) {
	var s struct {
		Status  string
		Message string
		Reason  string
		Details struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return 0, fmt.Errorf("the exec ended with %q: %w", data, err)
	}
	if s.Status == "Success" {
		return 0, nil
	}
	if s.Reason == reasonExitCode {
		for _, c := range s.Details.Causes {
			if c.Reason == causeOfExitCode {
				return strconv.Atoi(c.Message)
			}
		}
	}
	return 0, errors.New(s.Message)
}
