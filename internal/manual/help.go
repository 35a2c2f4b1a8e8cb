package manual

import (
	"fmt"
	"regexp"
	"strings"
)

// Entry is one line of a list in a program's help, with its continuations: a flag, a verb or an exit status.
type Entry struct {
	Names string // "-q, --quiet", "--timeout D", "3"
	Text  string
}

// entry matches the first line of an Entry: a flag, or a number, and what it means two columns further.
var entry = regexp.MustCompile(`^  (-\S*(?:, -\S*)*(?: \S+)?|[0-9])  +(\S.*)$`)

// FromHelp gives help as Markdown: paragraphs stay what they are, lists of flags and exit statuses become tables, and what is
// indented otherwise is code.
func FromHelp(help string) string {
	var b strings.Builder
	for _, block := range strings.Split(strings.Trim(help, "\n"), "\n\n") {
		lines := strings.Split(block, "\n")
		for len(lines) > 0 {
			switch {
			case entry.MatchString(lines[0]):
				var entries []Entry
				entries, lines = takeEntries(lines)
				b.WriteString("\n| | |\n|---|---|\n")
				for _, e := range entries {
					fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(e.Names, "|", `\|`), strings.ReplaceAll(e.Text, "|", `\|`))
				}
			case strings.HasPrefix(lines[0], "  "):
				b.WriteString("\n```\n")
				for len(lines) > 0 && strings.HasPrefix(lines[0], "  ") {
					b.WriteString(lines[0][2:] + "\n")
					lines = lines[1:]
				}
				b.WriteString("```\n")
			default:
				b.WriteString("\n")
				for len(lines) > 0 && !strings.HasPrefix(lines[0], "  ") {
					b.WriteString(escape(lines[0]) + "\n")
					lines = lines[1:]
				}
			}
		}
	}
	return strings.TrimLeft(b.String(), "\n")
}

// Entries gives the flags and exit statuses that help lists.
func Entries(help string) []Entry {
	var all []Entry
	lines := strings.Split(help, "\n")
	for len(lines) > 0 {
		if !entry.MatchString(lines[0]) {
			lines = lines[1:]
			continue
		}
		var more []Entry
		more, lines = takeEntries(lines)
		all = append(all, more...)
	}
	return all
}

// takeEntries takes the list that lines begin with.
func takeEntries(lines []string) (entries []Entry, rest []string) {
	for len(lines) > 0 {
		m := entry.FindStringSubmatch(lines[0])
		switch {
		case m != nil:
			entries = append(entries, Entry{m[1], escape(m[2])})
		case len(entries) > 0 && strings.HasPrefix(lines[0], "     "):
			entries[len(entries)-1].Text += " " + escape(strings.TrimSpace(lines[0]))
		default:
			return entries, lines
		}
		lines = lines[1:]
	}
	return entries, nil
}

// mention matches what help names as it is typed: a flag, or a table of the profile.
var mention = regexp.MustCompile(`\[{1,2}[a-z_]+\]{1,2}|(^|[ (])(--?[a-z][a-z-]*)`)

// escape keeps what Markdown would take for markup: help is plain text.
func escape(line string) string {
	return mention.ReplaceAllStringFunc(strings.ReplaceAll(line, "`", ""), func(s string) string {
		if s[0] == '[' {
			return "`" + s + "`"
		}
		at := strings.IndexByte(s, '-')
		return s[:at] + "`" + s[at:] + "`"
	})
}
