// Command testgrpc is a gateway of gatewarden's tests that speaks gRPC: gRPC's own server with its own health service.
//
//	testgrpc --listen HOST:PORT|unix:///PATH [--bare] [SERVICE=STATUS ...]     the server as a whole is the service ""
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testgrpc:", err)
		os.Exit(1)
	}
}

func run() error {
	address := flag.String("listen", "127.0.0.1:18789", "")
	bare := flag.Bool("bare", false, "without a health service")
	flag.Parse()
	network, at := "tcp", *address
	if path, ok := strings.CutPrefix(at, "unix://"); ok {
		network, at = "unix", path
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	l, err := net.Listen(network, at)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	if !*bare {
		h := health.NewServer()
		for _, arg := range flag.Args() {
			service, status, _ := strings.Cut(arg, "=")
			n, ok := healthpb.HealthCheckResponse_ServingStatus_value[status]
			if !ok {
				return fmt.Errorf("%q is not SERVICE=STATUS", arg)
			}
			h.SetServingStatus(service, healthpb.HealthCheckResponse_ServingStatus(n))
		}
		healthpb.RegisterHealthServer(s, h)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		s.Stop()
	}()
	return s.Serve(l)
}
