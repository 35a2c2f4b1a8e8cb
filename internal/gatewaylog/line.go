// Package gatewaylog keeps a gateway's standard output and error in a log on the host that is bounded in size, rotated,
// and readable while it grows.
//
// The format of a line is that of the Kubernetes container runtime interface:
//
//	2026-11-23T12:00:00.123456789Z stdout F the text
//
// F ends a line, P is a part of a line that is longer than 16 KiB and goes on in the next one of the same stream. Besides
// stdout and stderr there is the stream "gatewarden", in which the log speaks about itself: what was lost, and why. A
// gateway cannot write to it.
//
// The text is kept as the gateway wrote it. Whoever shows it to a person passes it through Sanitize.
package gatewaylog

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Line is one line of the log.
type Line struct {
	Time    time.Time // when it was read from the gateway
	Stream  string    // "stdout", "stderr" or "gatewarden"
	Partial bool      // the line goes on in the next Line of this stream
	Text    string    // without the newline; any bytes but a newline
}

// The streams.
const (
	Stdout = "stdout"
	Stderr = "stderr"
	own    = "gatewarden"
)

const (
	timeForm = "2006-01-02T15:04:05.000000000Z"
	maxText  = 16 << 10 // of one Line, in bytes
	maxLine  = len(timeForm) + len(" gatewarden F ") + maxText + len("\n")
)

// appendLine appends the line's form in the file to b.
func appendLine(b []byte, at time.Time, stream string, partial bool, text []byte) []byte {
	b = at.UTC().AppendFormat(b, timeForm)
	b = append(b, ' ')
	b = append(b, stream...)
	if partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	b = append(b, text...)
	return append(b, '\n')
}

var errMalformed = errors.New("not a line of a gateway log")

// parse reads one line, without its newline.
func parse(b []byte) (Line, error) {
	if len(b) >= maxLine || len(b) < len(timeForm) {
		return Line{}, errMalformed
	}
	for i := range len(timeForm) { // time.Parse takes more than this one form: a comma, a sign in the fraction
		c, digit := b[i], '0' <= timeForm[i] && timeForm[i] <= '9'
		if digit && (c < '0' || c > '9') || !digit && c != timeForm[i] {
			return Line{}, errMalformed
		}
	}
	at, err := time.Parse(timeForm, string(b[:len(timeForm)]))
	if err != nil {
		return Line{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	l := Line{Time: at}
	rest := b[len(timeForm):]
	for _, stream := range []string{Stdout, Stderr, own} {
		if after, ok := bytes.CutPrefix(rest, []byte(" "+stream+" ")); ok {
			l.Stream, rest = stream, after
			break
		}
	}
	if l.Stream == "" || len(rest) < 2 || rest[1] != ' ' || rest[0] != 'F' && rest[0] != 'P' {
		return Line{}, errMalformed
	}
	text := rest[2:]
	if len(text) > maxText || bytes.IndexByte(text, '\n') >= 0 {
		return Line{}, errMalformed
	}
	l.Partial, l.Text = rest[0] == 'P', string(text)
	return l, nil
}

// Sanitize makes text harmless on a terminal: whatever could move the cursor, change the terminal's state or make other
// text look different from what it is (control characters and C1, invalid UTF-8, characters that set the direction of
// writing, zero-width and other invisible format characters, line separators, private use) is shown in the form \x1b or
// \u202e. Printable Unicode and tabs stay. Sanitizing twice changes nothing more.
func Sanitize(text string) string {
	clean := true
	for _, r := range text {
		if r == utf8.RuneError || !harmless(r) { // RuneError: perhaps a real U+FFFD; looked at again below
			clean = false
			break
		}
	}
	if clean {
		return text
	}
	var b strings.Builder
	b.Grow(len(text) + 16)
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && n == 1 || r < utf8.RuneSelf && !harmless(r):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case harmless(r):
			b.WriteString(text[i : i+n])
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

// harmless: unicode.IsGraphic leaves out the categories C (control, format, private use, surrogate, unassigned) and the
// separators of lines and paragraphs.
func harmless(r rune) bool { return r == '\t' || unicode.IsGraphic(r) }
