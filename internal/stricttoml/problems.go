// Package stricttoml reads small TOML documents whose every mistake is to be explained: it keeps where each key and
// value stands, collects all problems instead of stopping at the first, and knows which keys nobody asked for.
package stricttoml

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Problem is one thing that is wrong with a file. Line and Column count from 1, columns in characters; Line 0 means that
// the problem is the file itself (its owner, its size), Column 0 that it is the line as a whole.
type Problem struct {
	Line, Column int
	Key          string // dotted, "listen[0].address"; empty: none
	Message      string
}

// Problems is everything that is wrong with one file, in the file's order. It is never empty.
type Problems struct {
	File string
	List []Problem
}

// Error gives one line per problem: FILE:LINE:COLUMN: key: message.
func (p *Problems) Error() string {
	lines := make([]string, len(p.List))
	for i, problem := range p.List {
		lines[i] = p.line(problem)
	}
	return strings.Join(lines, "\n")
}

// OneLine gives the first problem and how many more there are, for places that have room for one line.
func (p *Problems) OneLine() string {
	s := p.line(p.List[0])
	if n := len(p.List) - 1; n == 1 {
		s += " (and 1 more problem)"
	} else if n > 1 {
		s += fmt.Sprintf(" (and %d more problems)", n)
	}
	return s
}

func (p *Problems) line(problem Problem) string {
	var b strings.Builder
	b.WriteString(p.File)
	if problem.Line > 0 {
		b.WriteString(":" + strconv.Itoa(problem.Line))
		if problem.Column > 0 {
			b.WriteString(":" + strconv.Itoa(problem.Column))
		}
	}
	b.WriteString(": ")
	if problem.Key != "" {
		b.WriteString(problem.Key + ": ")
	}
	b.WriteString(problem.Message)
	return b.String()
}

// Format writes each problem followed by the line of source that it is about, with a caret under the column.
func (p *Problems) Format(w io.Writer, source []byte) error {
	lines := bytes.Split(source, []byte("\n"))
	var b bytes.Buffer
	for _, problem := range p.List {
		b.WriteString(p.line(problem) + "\n")
		if problem.Line < 1 || problem.Line > len(lines) {
			continue
		}
		text, indent := excerpt(lines[problem.Line-1], problem.Column)
		fmt.Fprintf(&b, "%6d | %s\n", problem.Line, text)
		if problem.Column > 0 {
			fmt.Fprintf(&b, "%6s | %s^\n", "", indent)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// excerpt gives the part of line around column (counted from 1) that fits on a terminal's line, harmless to print, and
// the blanks that bring a caret under that column.
func excerpt(line []byte, column int) (text, indent string) {
	const width, before = 110, 70
	var runes []rune
	for line = bytes.TrimSuffix(line, []byte("\r")); len(line) > 0; {
		r, n := utf8.DecodeRune(line)
		line = line[n:]
		if r != '\t' && !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		runes = append(runes, r)
	}
	column = min(max(column, 1), len(runes)+1)
	start := 0
	if len(runes) > width && column > before {
		start = column - before
	}
	end := min(len(runes), start+width)
	var t, in strings.Builder
	if start > 0 {
		t.WriteString("…")
		in.WriteString(" ")
	}
	for i, r := range runes[start:end] {
		t.WriteRune(r)
		if start+i < column-1 {
			if r != '\t' {
				r = ' '
			}
			in.WriteRune(r)
		}
	}
	if end < len(runes) {
		t.WriteString("…")
	}
	return t.String(), in.String()
}

// Quote gives s in quotes, on one line, harmless to print and never long: for messages.
func Quote(s string) string {
	const most = 64
	if utf8.RuneCountInString(s) > most {
		return strconv.QuoteToGraphic(string([]rune(s)[:most])) + "…"
	}
	return strconv.QuoteToGraphic(s)
}
