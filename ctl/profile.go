package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/verb"
)

func profileCommand() verb.Command {
	return verb.Command{
		Name: "profile", Args: "check FILE…", Host: true,
		Summary: "check FILE: explain every problem of a profile, or what it means",
		Help: `Reads each FILE as the hook would: owner, mode and every parent directory, then every key. All problems are shown, with
line and column where they have one. What depends on the container (its posture, the binary) is checked at its create.

  --json             one object per file on a line: file, ok, problems [{line, column, key, message}]
  -q, --quiet        no output, same exit status

Exit status: 0 all good; 2 usage; 3 a problem was found.
`,
		Examples: "  gatewarden profile check /etc/gatewarden/gateways.d/openclaw.toml\n",
		New: func(*flag.FlagSet) func(context.Context, *verb.Invocation) int {
			return func(_ context.Context, in *verb.Invocation) int {
				if len(in.Args) == 0 || in.Args[0] != "check" {
					return in.Usage("profile knows only: profile check FILE…")
				}
				if len(in.Args) == 1 {
					return in.Usage("profile check needs a file")
				}
				exit := code.ExitOK
				for _, path := range in.Args[1:] {
					if !checkProfile(in, path) {
						exit = code.ExitRefused
					}
				}
				return exit
			}
		},
	}
}

// problem is one finding of `profile check --json`.
type problem struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Key     string `json:"key"`
	Message string `json:"message"`
}

// checkProfile reports on one file, and whether it is good.
func checkProfile(in *verb.Invocation, path string) bool {
	var p *profile.Profile
	var source []byte
	full, err := filepath.Abs(path)
	if err == nil {
		p, source, err = profile.Check(full)
	}
	if in.JSON {
		problems := []problem{}
		if list, ok := errors.AsType[*profile.Problems](err); ok {
			for _, f := range list.List {
				problems = append(problems, problem{f.Line, f.Column, f.Key, f.Message})
			}
		} else if err != nil {
			problems = append(problems, problem{Message: err.Error()})
		}
		in.PrintJSON(struct {
			File     string    `json:"file"`
			OK       bool      `json:"ok"`
			Problems []problem `json:"problems"`
		}{path, err == nil, problems})
		return err == nil
	}
	if err == nil {
		explain(in.Stdout, p)
		return true
	}
	list, ok := errors.AsType[*profile.Problems](err)
	if !ok {
		fmt.Fprintf(in.Stderr, "gatewarden: cannot check %s: %v (%s)\n", path, err, code.InvalidProfile)
		if errors.Is(err, os.ErrPermission) {
			fmt.Fprintln(in.Stderr, "next: profiles are root's; run gatewarden as root")
		}
		return false
	}
	// Nothing can be done about a stderr that does not take it; the exit status says the same.
	_ = list.Format(in.Stderr, source)
	n := "1 problem"
	if len(list.List) != 1 {
		n = strconv.Itoa(len(list.List)) + " problems"
	}
	fmt.Fprintf(in.Stderr, "gatewarden: %s has %s (%s)\n", path, n, code.InvalidProfile)
	return false
}

// explain says in words what p means.
func explain(w io.Writer, p *profile.Profile) {
	fmt.Fprintf(w, "ok: gateway %q runs %s as %d:%d%s\n", p.Name, strings.Join(p.Gateway.Command, " "), p.Gateway.User, p.Gateway.Group, capabilities(p))
	for _, l := range p.Listen {
		fmt.Fprintf(w, "  listens on %s (%s)\n", l.Address, l.Name)
	}
	fmt.Fprintf(w, "  %s\n", ready(p.Ready))
	for _, f := range p.Forwards {
		what := "a connection is accepted"
		if check := f.Check(); check.Kind == "http" {
			what = fmt.Sprintf("GET %s gets %s", check.Path, statuses(check.Accept))
		}
		fmt.Fprintf(w, "  is reached from the host at %s (%s) if %s there\n", f.Endpoint(), f.Name, what)
	}
	fmt.Fprintf(w, "  is stopped by %s, and by SIGKILL after %s\n", unix.SignalName(p.Stop.Signal), p.Stop.Timeout)
	fmt.Fprintf(w, "  %s\n", policy(p.Restart))
	if p.Gateway.EnvFile != "" {
		fmt.Fprintf(w, "  has in its environment what is in the host's %s\n", p.Gateway.EnvFile)
	}
	for _, c := range p.Credentials {
		fmt.Fprintf(w, "  finds the credential %s, which is the host's %s\n", c.Name, c.Source)
	}
	for _, m := range p.Mounts {
		fmt.Fprintf(w, "  finds the host's %s at %s, read-only\n", m.Source, m.Target)
	}
	for _, s := range p.States {
		fmt.Fprintf(w, "  may write to %s, which is kept on the host\n", s.Target)
	}
	fmt.Fprintf(w, "  %s; %s\n", start(p.Start), selection(p.Select))
	if len(p.Posture.Allow) > 0 {
		fmt.Fprintf(w, "  the workload may keep: %s\n", strings.Join(p.Posture.Allow, ", "))
	}
}

func capabilities(p *profile.Profile) string {
	if len(p.Gateway.Capabilities) == 0 {
		return " without capabilities"
	}
	return " with " + strings.Join(p.Gateway.Capabilities, ", ")
}

func ready(r profile.Ready) string {
	var s string
	switch r.Kind {
	case "none":
		return "counts as ready once it runs"
	case "http":
		s = fmt.Sprintf("is ready when %s answers GET %s with %s", r.Address, r.Path, statuses(r.Accept))
	case "grpc":
		s = fmt.Sprintf("is ready when the gRPC health service on %s says SERVING", r.Address)
		if r.Service != "" {
			s = fmt.Sprintf("is ready when the gRPC health service on %s says SERVING of %q", r.Address, r.Service)
		}
	case "exec":
		s = fmt.Sprintf("is ready when the command %s, run as the gateway, exits with status 0", strings.Join(r.Exec, " "))
	default:
		s = fmt.Sprintf("is ready when %s accepts a connection", r.Address)
	}
	s += fmt.Sprintf(" within %s", r.Timeout)
	if r.Settle > 0 {
		s += fmt.Sprintf(", and still does after %s", r.Settle)
	}
	return s
}

func statuses(accept []int) string {
	var s []string
	for _, a := range accept {
		s = append(s, strconv.Itoa(a))
	}
	return strings.Join(s, " or ")
}

func policy(r profile.Restart) string {
	switch r.Policy {
	case profile.Never:
		return "is not started again when it exits by itself"
	case profile.OnFailure:
		return fmt.Sprintf("is started again after a failure, %s to %s later, at most %d times in %s", r.BackoffInitial, r.BackoffMax, r.Burst, r.Window)
	}
	return fmt.Sprintf("is started again whenever it exits, %s to %s later, at most %d times in %s", r.BackoffInitial, r.BackoffMax, r.Burst, r.Window)
}

func start(s profile.Start) string {
	when := "starts beside the workload"
	if s.BeforeWorkload {
		when = "is ready before the workload starts"
	}
	if s.FailContainer {
		return when + ", or the container does not start"
	}
	return when + "; if that fails, the container starts all the same"
}

func selection(s profile.Select) string {
	switch {
	case !s.Annotation:
		return "no annotation may name it"
	case len(s.Namespaces) == 0:
		return "an annotation may name it in any namespace"
	}
	return "an annotation may name it in " + strings.Join(s.Namespaces, ", ")
}
