package main

import (
	"context"
	"flag"
	"fmt"
	"runtime"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/verb"
	"github.com/gatewarden/gatewarden/internal/version"
)

func versionCommand() verb.Command {
	return verb.Command{
		Name: "version", Host: true,
		Summary: "print this command's version",
		Help: `The wardens' versions are shown by status, and compared with this one by doctor.

  --json             {"version": …, "go": …, "arch": …}
`,
		New: func(*flag.FlagSet) func(context.Context, *verb.Invocation) int {
			return func(_ context.Context, in *verb.Invocation) int {
				if len(in.Args) != 0 {
					return in.Usage("version takes no argument such as %q", in.Args[0])
				}
				if in.JSON {
					in.PrintJSON(map[string]string{"version": version.Version, "go": runtime.Version(), "arch": runtime.GOARCH})
				} else {
					fmt.Fprintf(in.Stdout, "gatewarden %s\n", version.Version)
				}
				return code.ExitOK
			}
		},
	}
}
