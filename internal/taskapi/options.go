package taskapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxOptions bounds a file of runtime options, in bytes.
const maxOptions = 64 << 10

// runcOptions gives opts as the only type that runc's service takes. It converts any other with an unchecked type
// assertion, by which it takes the shims of the whole pod down.
//
// The other type is containerd's generic one, runtimeoptions.v1.Options: CRI sends it for every runtime_type but
// io.containerd.runc.v2, and ctr for --runtime-config-path. It holds TOML, or the path of a TOML file, with the keys
// that CRI documents for runc (BinaryName, Root, SystemdCgroup, …).
func runcOptions(opts *anypb.Any) (*anypb.Any, error) {
	switch {
	case len(opts.GetValue()) == 0:
		return nil, nil
	case typeurl.Is(opts, &runcoptions.Options{}):
		return opts, nil
	case !typeurl.Is(opts, &runtimeoptions.Options{}):
		return nil, classify(errdefs.ErrInvalidArgument, "runtime options of type %.200q are not known here; use runc's (containerd.runc.v1.Options)",
			opts.GetTypeUrl())
	}
	var generic runtimeoptions.Options
	if err := typeurl.UnmarshalTo(opts, &generic); err != nil {
		return nil, classify(errdefs.ErrInvalidArgument, "cannot decode the runtime options: %v", err)
	}
	config, source := generic.ConfigBody, "the runtime options"
	if generic.ConfigPath != "" {
		source = generic.ConfigPath
		var err error
		if config, err = readOptions(generic.ConfigPath); err != nil {
			return nil, classify(errdefs.ErrInvalidArgument, "cannot read the runtime options: %v", err)
		}
	}
	parsed, err := parseOptions(config)
	if err != nil {
		return nil, classify(errdefs.ErrInvalidArgument, "cannot use %s: %v", source, err)
	}
	if parsed == nil {
		return nil, nil
	}
	return typeurl.MarshalAnyToProto(parsed)
}

// optionKeys are the keys of runc's options in TOML, named as containerd's documentation of CRI writes them.
type optionKeys struct {
	NoPivotRoot   bool
	NoNewKeyring  bool
	ShimCgroup    string
	IoUid         uint32
	IoGid         uint32
	BinaryName    string
	Root          string
	SystemdCgroup bool
	CriuImagePath string
	CriuWorkPath  string

	TypeUrl    string // CRI repeats its own two keys in what it sends
	ConfigPath string
}

// parseOptions reads TOML; without any key the result is nil.
func parseOptions(data []byte) (*runcoptions.Options, error) {
	if len(data) > maxOptions {
		return nil, fmt.Errorf("more than %d bytes", maxOptions)
	}
	var k optionKeys
	dec := toml.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&k); err != nil {
		if unknown, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(unknown.Errors) > 0 {
			line, _ := unknown.Errors[0].Position()
			return nil, fmt.Errorf("line %d: key %.80q is not one of runc's options", line, strings.Join(unknown.Errors[0].Key(), "."))
		}
		return nil, err
	}
	k.TypeUrl, k.ConfigPath = "", ""
	if k == (optionKeys{}) {
		return nil, nil
	}
	return &runcoptions.Options{
		NoPivotRoot:   k.NoPivotRoot,
		NoNewKeyring:  k.NoNewKeyring,
		ShimCgroup:    k.ShimCgroup,
		IoUid:         k.IoUid,
		IoGid:         k.IoGid,
		BinaryName:    k.BinaryName,
		Root:          k.Root,
		SystemdCgroup: k.SystemdCgroup,
		CriuImagePath: k.CriuImagePath,
		CriuWorkPath:  k.CriuWorkPath,
	}, nil
}

func readOptions(path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%.200q is not an absolute path", path)
	}
	// O_NONBLOCK: opening a FIFO must not wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxOptions+1))
}
