package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"runtime"
	"sync"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/exposition"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/metrics"
	"github.com/gatewarden/gatewarden/internal/scrape"
	"github.com/gatewarden/gatewarden/internal/verb"
	"github.com/gatewarden/gatewarden/internal/version"
)

// maxListen bounds the addresses that metrics are served on.
const maxListen = 8

func metricsCommand() verb.Command {
	return verb.Command{
		Name: "metrics", Host: true,
		Summary: "print the gateways' metrics for Prometheus, or serve them",
		Help: `Prints what is written down of every container in Prometheus's text format, once: for the textfile collector of
node_exporter. With --listen it serves the same at /metrics until it is told to end. Like ps it wakes no warden.

  --listen ADDRESS     serve on unix:///PATH, tcp://127.0.0.1:PORT or tcp6://[::1]:PORT; up to 8 times. Other than
                       loopback addresses are refused. Every user of the host can connect to a port
  --socket-group GID   let that group connect to the unix sockets too, which are root's alone else (0600)
  -q, --quiet          no output, same exit status

There is no --json. Exit status: 0 printed, or served until SIGTERM or SIGINT; 1 cannot listen or serve; 2 usage;
3 not allowed.
`,
		Examples: `  gatewarden metrics | grep gatewarden_gateway_up
  gatewarden metrics --listen unix:///run/gatewarden/metrics.sock --listen tcp://127.0.0.1:9754
  curl --unix-socket /run/gatewarden/metrics.sock http://localhost/metrics
`,
		New: func(fs *flag.FlagSet) func(context.Context, *verb.Invocation) int {
			var addresses []string
			fs.Func("listen", "", func(s string) error {
				if len(addresses) == maxListen {
					return fmt.Errorf("more than %d addresses", maxListen)
				}
				addresses = append(addresses, s)
				return nil
			})
			group := -1
			fs.Func("socket-group", "", func(s string) (err error) {
				group, err = scrape.ParseGroup(s)
				return err
			})
			return func(ctx context.Context, in *verb.Invocation) int {
				switch {
				case len(in.Args) != 0:
					return in.Usage("metrics tells of all containers and takes no argument such as %q", in.Args[0])
				case in.JSON:
					return in.Usage("metrics has one form, Prometheus's text; ps --json tells the same as JSON")
				case group >= 0 && len(addresses) == 0:
					return in.Usage("--socket-group is for --listen")
				}
				if len(addresses) > 0 {
					return serveMetrics(ctx, in, addresses, group)
				}
				text, err := gather(ctx, in)
				if err != nil {
					return in.Fail(err)
				}
				if _, err := in.Stdout.Write(text); err != nil {
					return in.Fail(fmt.Errorf("cannot write the metrics: %w", err))
				}
				return code.ExitOK
			}
		},
	}
}

// gather makes the metrics of this moment.
func gather(ctx context.Context, in *verb.Invocation) ([]byte, error) {
	found, err := in.Host().Survey(ctx, gateways.AnswerTime)
	if err != nil {
		return nil, err
	}
	all := make([]metrics.Container, len(found))
	var reading sync.WaitGroup
	// The kernel walks a process's pages to add its memory up, which is most of the work: each processor gets a part.
	parts := runtime.GOMAXPROCS(0)
	for part := range parts {
		reading.Go(func() {
			for i := part; i < len(found); i += parts {
				f := found[i]
				all[i] = metrics.Container{Status: f.Status, Counters: f.Counters, Lost: f.Lost}
				if !f.Lost {
					// A warden that has just ended, and whose number is another's already, is told with that one's memory, once.
					all[i].Memory = metrics.ReadMemory(f.Status.Warden.PID)
				}
			}
		})
	}
	reading.Wait()
	return metrics.Text(version.Version, all), nil
}

// serveMetrics listens on all addresses, or on none, and serves until ctx ends.
func serveMetrics(ctx context.Context, in *verb.Invocation, addresses []string, group int) int {
	var listeners []net.Listener
	for _, a := range addresses {
		l, err := scrape.Listen(a, group)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			fmt.Fprintf(in.Stderr, "gatewarden: cannot serve metrics on %s: %v\n", a, err)
			return code.ExitFailed
		}
		listeners = append(listeners, l)
	}
	for _, a := range addresses {
		fmt.Fprintf(in.Stdout, "serving %s on %s\n", scrape.Path, a)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	document := scrape.Document{Type: exposition.ContentType, Render: func(ctx context.Context) ([]byte, error) { return gather(ctx, in) }}
	errs := make([]error, len(listeners))
	var serving sync.WaitGroup
	for i, l := range listeners {
		serving.Go(func() {
			defer cancel() // one that fails ends all: who watches this process sees it
			errs[i] = scrape.Serve(ctx, l, document)
		})
	}
	serving.Wait()
	if err := errors.Join(errs...); err != nil {
		return in.Fail(err)
	}
	return code.ExitOK
}
