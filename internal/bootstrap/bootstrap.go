// Package bootstrap starts the shim for every containerd from 1.6 on.
//
// Since containerd 2.3 a shim is asked to start by BootstrapParams on its standard input, and answers with
// BootstrapResult. containerd's own package for shims knows nothing else since 2.4: it refuses the daemons before, which
// hand over the runtime's options alone and want the address of the shim's socket.
package bootstrap

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/atomicfile"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf/proto"
	"github.com/containerd/containerd/v2/pkg/shim"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	// maxInput bounds what is read of standard input, in bytes. It is pkg/shim's.
	maxInput = 10 << 20
	// addressFile is where containerd before 2.0 looks up the socket of a shim that it finds when it starts. Later ones
	// take it over from there (restoreBootstrapParams).
	addressFile = "address"
	// ttrpcAddress is the variable with the address that events go to.
	ttrpcAddress = "TTRPC_ADDRESS"
)

// Run is shim.RunShim for containerds that know BootstrapParams and for those that do not.
func Run(ctx context.Context, manager shim.Shim) {
	if err := run(ctx, manager); err != nil {
		// As RunShim does: containerd shows this in its error.
		fmt.Fprintf(os.Stderr, "%s: %s", manager.Name(), err)
		os.Exit(1)
	}
}

func run(ctx context.Context, manager shim.Shim) error {
	c, ok := parseCall(os.Args[1:])
	if !ok {
		shim.RunShim(ctx, manager)
		return nil
	}
	input, err := io.ReadAll(io.LimitReader(os.Stdin, maxInput+1))
	if err != nil {
		return fmt.Errorf("cannot read standard input: %w", err)
	}
	params, err := legacyParams(c, input)
	if err != nil {
		return err
	}
	if params == nil {
		if os.Stdin, err = replay(input); err != nil {
			return err
		}
		shim.RunShim(ctx, manager)
		return nil
	}
	return startLegacy(ctx, manager, c, params, os.Stdout)
}

// call is what the command line of a start tells.
type call struct {
	id, namespace, address, binary string
	debug                          bool
}

// parseCall reads a command line, without the program's name; ok is false for every action but start. The flags are those of
// pkg/shim, which reads all other command lines itself and says what is wrong with them.
func parseCall(args []string) (c call, ok bool) {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.id, "id", "", "")
	flags.StringVar(&c.namespace, "namespace", "", "")
	flags.StringVar(&c.address, "address", "", "")
	flags.StringVar(&c.binary, "publish-binary", "", "")
	flags.BoolVar(&c.debug, "debug", false, "")
	var version, info bool
	for _, name := range []string{"v", "version"} {
		flags.BoolVar(&version, name, false, "")
	}
	flags.BoolVar(&info, "info", false, "")
	for _, name := range []string{"socket", "debug-socket", "bundle"} {
		flags.String(name, "", "")
	}
	if err := flags.Parse(args); err != nil || version || info || flags.Arg(0) != "start" {
		return call{}, false
	}
	return c, true
}

// legacyParams gives what a containerd before 2.3 asks for, in the words of the later ones. It is nil if input is
// BootstrapParams already. Before, input was an Any with the runtime's options, or nothing.
//
// An Any decodes as BootstrapParams too: its type URL as the container's id, its value as the namespace. So these have to
// be those of the command line, as pkg/shim itself has it.
func legacyParams(c call, input []byte) (*bootapi.BootstrapParams, error) {
	if len(input) > maxInput {
		return nil, fmt.Errorf("standard input has more than %d bytes", maxInput)
	}
	var params bootapi.BootstrapParams
	if len(input) > 0 && proto.Unmarshal(input, &params) == nil && params.InstanceID == c.id && params.Namespace == c.namespace {
		return nil, nil
	}
	if err := identifiers.Validate(c.id); err != nil {
		return nil, fmt.Errorf("-id: %w", err)
	}
	if err := identifiers.Validate(c.namespace); err != nil {
		return nil, fmt.Errorf("-namespace: %w", err)
	}
	legacy := &bootapi.BootstrapParams{
		InstanceID:            c.id,
		Namespace:             c.namespace,
		ContainerdGrpcAddress: c.address,
		ContainerdBinary:      c.binary,
	}
	if c.debug {
		legacy.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	if len(input) == 0 {
		return legacy, nil
	}
	var options anypb.Any
	if err := proto.Unmarshal(input, &options); err != nil || options.TypeUrl == "" || len(options.ProtoReflect().GetUnknown()) > 0 {
		return nil, fmt.Errorf("standard input is neither bootstrap parameters for container %s in namespace %s nor options of a runtime",
			c.id, c.namespace)
	}
	// Options that are not runc's are translated, or refused, when the container is created: of them only ShimCgroup is about the
	// shim's start.
	if err := legacy.AddExtension(&options); err != nil {
		return nil, fmt.Errorf("cannot take the runtime's options: %w", err)
	}
	return legacy, nil
}

// startLegacy starts the shim and answers as every containerd before 2.3 takes it: with the socket's address alone. It
// stands for task API version 2 over ttrpc; containerd 1.7 knows no later version, and 1.6 no other form.
func startLegacy(ctx context.Context, manager shim.Shim, c call, params *bootapi.BootstrapParams, answer io.Writer) error {
	params.ContainerdTtrpcAddress = os.Getenv(ttrpcAddress)
	ctx = namespaces.WithNamespace(ctx, c.namespace)
	ctx = context.WithValue(ctx, shim.OptsKey{}, shim.Opts{Debug: c.debug})
	result, err := manager.Start(ctx, params)
	if err != nil {
		return err
	}
	if err := writeAddress(result.Address); err != nil {
		return fmt.Errorf("cannot write the socket's address into the bundle: %w", err)
	}
	_, err = io.WriteString(answer, result.Address)
	return err
}

// writeAddress writes the file in the working directory, which is the bundle.
func writeAddress(address string) error {
	f, err := atomicfile.New(addressFile, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f, address); err != nil {
		return errors.Join(err, f.Cancel())
	}
	return f.Close()
}

// replay gives input as a file to read once.
func replay(input []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot hand on standard input: %w", err)
	}
	go func() {
		// The reader is this process: it ends before it loses interest.
		_, _ = w.Write(input)
		w.Close()
	}()
	return r, nil
}
