package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/engine"
	"github.com/gatewarden/gatewarden/internal/verb"
	"github.com/gatewarden/gatewarden/oci"
)

// cdiCommand makes CDI specifications; path is that of gatewarden's own settings, "" for the usual ones.
func cdiCommand(path string) verb.Command {
	return verb.Command{
		Name: "cdi", Args: "generate", Host: true,
		Summary: "generate: write a CDI specification, whose devices are profiles",
		Help: `Writes a specification of the Container Device Interface, with which every engine that knows it gives a container the
gateway of a profile: --device ` + oci.CDIKind + `=NAME.

Whoever may start containers may ask for any device. [select] of a profile does not count for them, nor do its
namespaces. So without --profile the devices are the profiles that anybody may choose anyway: those with
[select] annotation = true and without namespaces.

  --profile NAME     a profile that is a device, whatever its [select] says; up to 1024 times
  --output FILE      write it there, at once, and tell so; ` + engine.CDIFile + ` is what
                     gatewarden runtime configure --cdi writes. Else it goes to standard output
  --root DIR         look for the profiles, and for FILE, below DIR
  -q, --quiet        no output, same exit status

It is JSON with and without --json. Exit status: 0 written; 1 FILE cannot be written; 2 usage; 3 refused.
`,
		Examples: "  gatewarden cdi generate --output " + engine.CDIFile + "\n  podman run --device " + oci.CDIKind + "=openclaw …\n",
		New: func(fs *flag.FlagSet) func(context.Context, *verb.Invocation) int {
			names := profileFlag(fs)
			output := fs.String("output", "", "")
			root := fs.String("root", "", "")
			return func(_ context.Context, in *verb.Invocation) int {
				switch {
				case len(in.Args) != 1 || in.Args[0] != "generate":
					return in.Usage("cdi knows only: cdi generate")
				case *output != "" && !filepath.IsAbs(*output), *root != "" && !filepath.IsAbs(*root):
					return in.Usage("--output and --root need absolute paths")
				}
				r := &runtimeRun{in: in}
				list, omitted, err := devices(in.Config, *root, *names)
				for _, o := range omitted {
					fmt.Fprintln(in.Stderr, "note:", o)
				}
				if err != nil {
					return r.refuse(fmt.Errorf("cannot make a CDI specification: %w", err))
				}
				spec, err := oci.CDISpec(in.Config.Hook, hookArgs(path), list)
				if err != nil {
					return r.refuse(err)
				}
				data, err := engine.Encode(spec)
				if err != nil {
					return r.refuse(err)
				}
				if *output == "" {
					if _, err := in.Stdout.Write(data); err != nil {
						return in.Fail(fmt.Errorf("cannot write the specification: %w", err))
					}
					return code.ExitOK
				}
				file := filepath.Join("/", *root, *output)
				if err := engine.Replace(file, data); err != nil {
					fmt.Fprintf(in.Stderr, "gatewarden: cannot write %s: %v\n", file, err)
					return code.ExitFailed
				}
				fmt.Fprintf(in.Stdout, "%s: written, devices: %s\n", file, strings.Join(list, ", "))
				return code.ExitOK
			}
		},
	}
}
