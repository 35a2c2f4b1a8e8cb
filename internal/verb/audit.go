package verb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/install"
)

func auditVerb() Command {
	return Command{
		Name:    "audit",
		Args:    "verify [CONTAINER | FILE | --all]",
		Host:    true,
		Summary: "verify: check that no receipt was changed, removed or put in",
		Help: `Checks every link of the host's audit log, of a CONTAINER's journal, or of a FILE (with a / in front, or ./), together
with its rotated files, and names the first broken one: file, line, sequence number, what was expected and found, and
what can have brought it about. It wakes no warden and takes no lock.

  --all              the audit log and every container's journal
  --public-key FILE  verify signatures with this key (PEM, as openssl pkey -pubout writes it); may be given again for a
                     key that was used before. Without it the key of the settings (audit_key) is used, if there is one
  --allow-unsigned   lines without a signature after signed ones are a note, not a break
  --json             one object per log on a line: log, intact, files, lines, first_seq, last_seq, last_sha256, signed,
                     signatures_verified, notes, broken {kind, file, line, seq, expected, found, meaning} or null, error
  -q, --quiet        no output, same exit status

What it cannot see: lines taken from the end, a last line that was edited and is not signed, and a log that was replaced
as a whole by who has the key. Keep last_seq and last_sha256 elsewhere to see that.

Exit status: 0 intact; 1 broken; 2 usage; 3 a log or the key cannot be read; 6 no such container, or not managed.
`,
		Examples: `  gatewarden audit verify
  gatewarden audit verify web
  gatewarden audit verify --all --public-key /root/audit.pub
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			all := fs.Bool("all", false, "")
			lax := fs.Bool("allow-unsigned", false, "")
			var keys []string
			fs.Func("public-key", "", func(s string) error {
				path, err := filepath.Abs(s)
				if s == "" || err != nil {
					return errors.New("give a file's name")
				}
				keys = append(keys, path)
				return nil
			})
			return func(ctx context.Context, in *Invocation) int {
				if len(in.Args) == 0 || in.Args[0] != "verify" {
					return in.Usage("audit knows only: audit verify [CONTAINER | FILE | --all]")
				}
				in.Args = in.Args[1:]
				if len(in.Args) > 1 || *all && len(in.Args) > 0 {
					return in.Usage("audit verify takes --all, or one container or file, or nothing for the audit log")
				}
				logs, exit := in.chains(*all)
				if exit != code.ExitOK {
					return exit
				}
				var args []string
				if in.JSON {
					args = append(args, "--json")
				}
				if *lax {
					args = append(args, "--allow-unsigned")
				}
				for _, k := range keys {
					args = append(args, "--public-key", k)
				}
				if len(keys) == 0 && in.Config.AuditKey != "" {
					args = append(args, "--key", in.Config.AuditKey)
				}
				return in.verify(ctx, append(args, logs...))
			}
		},
	}
}

// chains gives the logs to verify as the hook's arguments.
func (in *Invocation) chains(all bool) ([]string, int) {
	host := "audit:" + audit.Log(in.Config.StateDir).Path
	journal := func(t gateways.Target) string {
		return "journal:" + in.Host().Journal(t)
	}
	switch {
	case all:
		targets, err := gateways.List(in.Config.StateDir)
		if err != nil {
			return nil, in.Fail(err)
		}
		logs := []string{host}
		for _, t := range targets {
			// Of one that was deleted [[state]] and an applied configuration can be left, and its journal is gone.
			if absent(in.Host().Journal(t)) && absent(in.Host().RunDir(t)) {
				continue
			}
			logs = append(logs, journal(t))
		}
		return logs, code.ExitOK
	case len(in.Args) == 0:
		return []string{host}, code.ExitOK
	}
	if name := in.Args[0]; strings.HasPrefix(name, "/") || strings.HasPrefix(name, ".") { // no name of a container begins so
		path, err := filepath.Abs(name)
		if err != nil {
			return nil, in.Fail(err)
		}
		if path == audit.Log(in.Config.StateDir).Path {
			return []string{host}, code.ExitOK
		}
		return []string{"file:" + path}, code.ExitOK
	}
	t, exit := in.target(in.Config.RunDir, in.Config.StateDir)
	return []string{journal(t)}, exit
}

// verify runs the hook's program, which has the cryptography: this one starts faster without it, whatever it is asked for.
func (in *Invocation) verify(ctx context.Context, args []string) int {
	hook, err := install.HookPath(in.Config.Hook)
	if err != nil {
		return in.Fail(fmt.Errorf("cannot verify: %w", err))
	}
	cmd := exec.CommandContext(ctx, hook, append([]string{"verify"}, args...)...)
	cmd.Stdout, cmd.Stderr = in.Stdout, in.Stderr
	err = cmd.Run()
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.Exited() {
		return ended.ExitCode()
	}
	if err != nil {
		return in.Fail(fmt.Errorf("cannot verify with %s: %w", hook, err))
	}
	return code.ExitOK
}

func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
