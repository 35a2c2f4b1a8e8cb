package verb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatewarden/gatewarden/internal/code"
	"github.com/gatewarden/gatewarden/internal/gatewaylog"
	"github.com/gatewarden/gatewarden/internal/gateways"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// Fail reports err, in the form that --json asks for, and returns the exit status for it.
func (in *Invocation) Fail(err error) int {
	if errors.Is(err, fs.ErrPermission) {
		err = code.Errorf(code.Internal, code.StageQueue, "%w: only root may ask a warden or read what it keeps; run gatewarden as root", err)
	}
	e := code.From(err, code.StageQueue)
	if in.JSON {
		in.PrintJSON(map[string]any{"error": e})
	}
	in.complain(e.Message, e.Code)
	return receipt.RefusedExit(e.Code)
}

// complain prints one error on stderr: its first line ends with the code.
func (in *Invocation) complain(message string, c code.Code) {
	first, rest, more := strings.Cut(strings.TrimRight(message, "\n"), "\n")
	fmt.Fprintf(in.Stderr, "gatewarden: %s (%s)\n", in.safe(first), c)
	if more {
		fmt.Fprintln(in.Stderr, in.safe(rest))
	}
}

// next tells on stderr what to do after an error whose message cannot know, because it was made on this side of the
// socket.
func (in *Invocation) next(format string, args ...any) {
	fmt.Fprintf(in.Stderr, "next: %s\n", fmt.Sprintf(format, args...))
}

// hint gives the line to type for another verb on t.
func (in *Invocation) hint(verb string, t gateways.Target) string {
	if in.Target != nil {
		return "`gatewarden " + verb + "`"
	}
	return "`gatewarden " + verb + " " + t.String() + "`"
}

// safe makes text from the container's side harmless on a terminal, line by line.
func (in *Invocation) safe(text string) string {
	if !in.Terminal {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = gatewaylog.Sanitize(l)
	}
	return strings.Join(lines, "\n")
}

// PrintJSON prints v on one line, so that the output of several calls is JSON lines.
func (in *Invocation) PrintJSON(v any) { printJSON(in.Stdout, v) }

func printJSON(w io.Writer, v any) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, escapeControls(b.String()))
	return err
}

// escapeControls writes the control characters that encoding/json leaves alone (DEL, C1) and those that reorder or hide
// text as \uXXXX. Outside of JSON strings there are none.
func escapeControls(s string) string {
	if strings.IndexFunc(s, hidden) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if hidden(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func hidden(r rune) bool {
	switch {
	case r >= 0x7f && r <= 0x9f, r >= 0x200b && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2060 && r <= 0x2069, r == 0xfeff, r == 0x061c:
		return true
	}
	return false
}

// millis prints a duration given in milliseconds, as receipts keep it.
func millis(ms float64) string {
	switch {
	case ms < 9_950:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 600_000:
		return fmt.Sprintf("%.1f s", ms/1000)
	}
	return (time.Duration(ms) * time.Millisecond).Round(time.Second).String()
}

// age prints how long ago t was, in the largest unit that says enough.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t)
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// stamp prints a moment for people: the host's local time, with its zone.
func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// interrupted tells whether the caller gave up, rather than a deadline.
func interrupted(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

// block prints aligned "name  value" lines; further lines of a value are aligned with its first.
type block struct {
	rows [][2]string
}

func (b *block) add(name, format string, args ...any) {
	b.rows = append(b.rows, [2]string{name, fmt.Sprintf(format, args...)})
}

func (b *block) print(w io.Writer) {
	width := 0
	for _, r := range b.rows {
		width = max(width, len(r[0]))
	}
	for _, r := range b.rows {
		for i, line := range strings.Split(strings.TrimRight(r[1], "\n"), "\n") {
			name := r[0]
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(w, "%-*s  %s\n", width, name, line)
		}
	}
}

// table prints rows under a header, columns two spaces apart. Where width is known and too small, the columns in shrink
// give way, in that order, down to their least width; what still does not fit is cut at the edge.
type table struct {
	header []string
	rows   [][]string
	shrink []column
}

type column struct{ index, least int }

func (t *table) print(w io.Writer, width int) {
	all := append([][]string{t.header}, t.rows...)
	widths := make([]int, len(t.header))
	for _, r := range all {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	if width > 0 {
		total := 2 * (len(widths) - 1)
		for _, n := range widths {
			total += n
		}
		for _, c := range t.shrink {
			give := min(total-width, widths[c.index]-c.least)
			if give > 0 {
				widths[c.index] -= give
				total -= give
			}
		}
	}
	for _, r := range all {
		var b strings.Builder
		for i, cell := range r {
			cell = cut(cell, widths[i])
			b.WriteString(cell)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		line := strings.TrimRight(b.String(), " ")
		if width > 0 {
			line = cut(line, width)
		}
		fmt.Fprintln(w, line)
	}
}

// cut shortens s to n characters, the last of which then shows that something is missing.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	if n <= 0 {
		return ""
	}
	return string([]rune(s)[:n-1]) + "…"
}
