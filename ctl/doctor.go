package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/config"
	"github.com/gatewarden/gatewarden/internal/doctor"
	"github.com/gatewarden/gatewarden/internal/verb"
	"github.com/gatewarden/gatewarden/internal/version"
)

// doctorCommand reports on the host; configErr is why the settings at path could not be read, if they could not.
func doctorCommand(path string, configErr error) verb.Command {
	return verb.Command{
		Name: "doctor", Host: true,
		Summary: "say what this host lacks, each with its remedy",
		Help: `Looks at the kernel (by trying the calls), cgroups, runc, the settings, directories and profiles, the programs'
versions, what containerd would run, and wardens that do not answer. It changes nothing.

  --address SOCKET   containerd's socket (CONTAINERD_ADDRESS, or ` + doctor.DefaultAddress + `)
  --json             {"ok": …, "findings": [{area, name, level, detail, remedy}]}; level is ok, warn or fail
  -q, --quiet        no output, same exit status

Exit status: 0 nothing fails, there may be warnings; 1 something fails; 2 usage.
`,
		New: func(fs *flag.FlagSet) func(context.Context, *verb.Invocation) int {
			address := fs.String("address", cmp.Or(os.Getenv("CONTAINERD_ADDRESS"), doctor.DefaultAddress), "")
			return func(ctx context.Context, in *verb.Invocation) int {
				if len(in.Args) != 0 {
					return in.Usage("doctor takes no argument such as %q", in.Args[0])
				}
				h := doctor.Host{Config: in.Config, ConfigPath: path, ConfigErr: configErr, Address: *address,
					Version: version.Version, Path: os.Getenv("PATH")}
				if configErr != nil {
					h.Config = config.Default()
				}
				all := doctor.Examine(ctx, h)
				if in.JSON {
					in.PrintJSON(map[string]any{"ok": !doctor.Failed(all), "findings": all})
				} else {
					printFindings(in, all)
				}
				if doctor.Failed(all) {
					return code.ExitFailed
				}
				return code.ExitOK
			}
		},
	}
}

func printFindings(in *verb.Invocation, all []doctor.Finding) {
	width, count := 0, map[doctor.Level]int{}
	for _, f := range all {
		width = max(width, len(f.Area)+1+len(f.Name))
		count[f.Level]++
	}
	for _, f := range all {
		fmt.Fprintf(in.Stdout, "%-4s  %-*s  %s\n", f.Level, width, f.Area+" "+f.Name, f.Detail)
		if f.Remedy != "" {
			fmt.Fprintf(in.Stdout, "%-4s  %-*s  → %s\n", "", width, "", f.Remedy)
		}
	}
	fmt.Fprintf(in.Stdout, "\n%d ok, %d warn, %d fail\n", count[doctor.OK], count[doctor.Warn], count[doctor.Fail])
}
