package verb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

const (
	defaultReceipts = 20
	maxReceipts     = 100_000
)

func receipts() Command {
	return Command{
		Name:    "receipts",
		Args:    "CONTAINER",
		Summary: "list what was done to the gateway, oldest first",
		Help: `Reads the container's journal on the host, so it works without a warden.

  -n, --lines N      the last N receipts (20)
  --json             the receipts themselves, one JSON object per line
  -q, --quiet        no output, same exit status

Exit status: 0 printed, also when there are none yet; 2 usage; 3 cannot read the journal; 6 no such container, or not
managed.
`,
		Examples: `  gatewarden receipts web
  gatewarden receipts -n 1 --json web | jq .millis
`,
		New: func(fs *flag.FlagSet) func(context.Context, *Invocation) int {
			n := countFlag(fs, defaultReceipts, maxReceipts, 1, "n", "lines")
			return func(_ context.Context, in *Invocation) int {
				t, exit := in.target(in.Config.RunDir, in.Config.StateDir)
				if exit != code.ExitOK {
					return exit
				}
				return in.receipts(t, *n)
			}
		},
	}
}

func (in *Invocation) receipts(t gateways.Target, n int) int {
	all, err := in.Host().Receipts(t, n)
	skipped, torn := errors.AsType[*journal.SkippedError](err)
	if err != nil && !torn {
		return in.failOn(t, err)
	}
	if in.JSON {
		for i := range all {
			in.PrintJSON(&all[i])
		}
	} else if len(all) > 0 {
		in.printReceipts(all)
	}
	if torn {
		// The rest is good. A line that a power cut tore is worth a word, not a failure.
		fmt.Fprintf(in.Stderr, "gatewarden: %s\n", in.safe(skipped.Error()))
	}
	return code.ExitOK
}

func (in *Invocation) printReceipts(all []receipt.Receipt) {
	tab := table{header: []string{"TIME", "ACTION", "OUTCOME", "PID", "TOOK", "UNAVAILABLE", "BY", "WHY"}, shrink: []column{{7, 8}}}
	for _, r := range all {
		tab.rows = append(tab.rows, []string{
			r.Time.Local().Format("2006-01-02 15:04:05"),
			string(r.Action), string(r.Outcome), pids(&r),
			millis(r.Millis.Total), unavailable(&r), in.safe(orDash(r.RequestedBy.Via)), in.safe(why(&r)),
		})
	}
	tab.print(in.Stdout, in.Width)
}

func pids(r *receipt.Receipt) string {
	from, to := "-", "-"
	if r.Old != nil {
		from = strconv.Itoa(r.Old.PID)
	}
	if r.New != nil {
		to = strconv.Itoa(r.New.PID)
	}
	if r.Old == nil {
		return to
	}
	return from + " → " + to
}

func unavailable(r *receipt.Receipt) string {
	if r.Old == nil || r.New == nil {
		return "-"
	}
	return millis(r.Millis.Unavailable)
}

// why is the code and the reason, on one line.
func why(r *receipt.Receipt) string {
	c := r.Code
	if c == "" && len(receipt.FailedForwards(r.Forwards)) > 0 {
		c = code.ForwardFailed
	}
	switch {
	case c != "" && r.Reason != "":
		return fmt.Sprintf("%s; %s", c, oneLine(r.Reason))
	case c != "":
		return string(c)
	}
	return oneLine(r.Reason)
}
