package verb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gatewaylog"
	"github.com/gatewarden/gatewarden/internal/gateways"
)

const (
	defaultTail = 100
	maxTail     = 100_000
)

func logs() Command {
	return Command{
		Name:    "logs",
		Args:    "CONTAINER",
		Summary: "print what the gateway wrote to its stdout and stderr",
		Help: `Reads the log on the host, so it works without a warden and after the container's gateway has failed. What the gateway
wrote to its stderr goes to stderr. On a terminal, control characters are shown instead of obeyed.

  -n, --lines N      the last N lines (100)
  -f, --follow       go on printing as lines come, until interrupted
  -t, --timestamps   when each line was written (UTC)
  --timeout D        with -f: stop after D
  --json             one object per line: time, stream, partial (the line goes on in the next object), text
  -q, --quiet        no output, same exit status

Exit status: 0 printed, also when there is nothing yet; 2 usage; 3 cannot read the log; 6 no such container, or not
managed.
`,
		Examples: `  gatewarden logs web
  gatewarden logs -f -n 0 web
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			n := countFlag(fs, defaultTail, maxTail, 0, "n", "lines")
			var follow, stamps bool
			for _, name := range []string{"f", "follow"} {
				fs.BoolVar(&follow, name, false, "")
			}
			for _, name := range []string{"t", "timestamps"} {
				fs.BoolVar(&stamps, name, false, "")
			}
			timeout := timeoutFlag(fs)
			return func(ctx context.Context, in *Invocation) int {
				t, exit := in.target(in.Config.RunDir, in.Config.LogDir)
				if exit != code.ExitOK {
					return exit
				}
				if *timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, *timeout)
					defer cancel()
				}
				return in.logs(ctx, t, *n, follow, stamps)
			}
		},
	}
}

func (in *Invocation) logs(ctx context.Context, t gateways.Target, n int, follow, stamps bool) int {
	if err := in.Host().Known(t, in.Host().LogDir(t)); err != nil {
		return in.failOn(t, err)
	}
	path := in.Host().Log(t)
	show := func(l gatewaylog.Line) error { return in.printLine(l, stamps) }
	var err error
	if follow {
		err = gatewaylog.Follow(ctx, path, n, show)
		if ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) {
			return code.ExitOK // interrupted, --timeout, or removed with its container: that is how following ends
		}
	} else if n > 0 {
		var lines []gatewaylog.Line
		lines, err = gatewaylog.Tail(path, n)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		for i := 0; i < len(lines) && err == nil; i++ {
			err = show(lines[i])
		}
	}
	if err != nil {
		return in.failOn(t, fmt.Errorf("cannot show the log %s: %w", path, err))
	}
	return code.ExitOK
}

func (in *Invocation) printLine(l gatewaylog.Line, stamps bool) error {
	if in.JSON {
		return printJSON(in.Stdout, struct {
			Time    time.Time `json:"time"`
			Stream  string    `json:"stream"`
			Partial bool      `json:"partial"`
			Text    string    `json:"text"`
		}{l.Time, l.Stream, l.Partial, l.Text})
	}
	w := in.Stderr // also for what the log says of itself, such as a gap
	if l.Stream == "stdout" {
		w = in.Stdout
	}
	text := in.safe(l.Text)
	if stamps {
		text = l.Time.UTC().Format("2006-01-02T15:04:05.000000Z") + " " + text
	}
	if !l.Partial {
		text += "\n"
	}
	_, err := fmt.Fprint(w, text)
	return err
}

// countFlag declares a flag that takes a number from least to most, under one or more names.
func countFlag(fs *flag.FlagSet, value, most, least int, names ...string) *int {
	n := &value
	for _, name := range names {
		fs.Func(name, "", func(s string) error {
			v, err := strconv.Atoi(s)
			if err != nil || v < least || v > most {
				return fmt.Errorf("give a whole number from %d to %d", least, most)
			}
			*n = v
			return nil
		})
	}
	return n
}
