// Package manual writes the manual pages: it turns the Markdown of the documents, and the help of the programs, into roff for
// man(1). Nothing of it is linked into a program: the tests of the packages that have the text write the pages when they are
// told to (make docs), and fail when a page is not what the text says.
//
// The Markdown is what our documents use and no more; anything else is an error, so that no page shows markup. Tables become
// tagged paragraphs, one for each row, which go-md2man would set as tables that no terminal is wide enough for.
package manual

import (
	"fmt"
	"regexp"
	"strings"
)

// Page is one manual page.
type Page struct {
	Name    string // "gatewarden"
	Section int    // of the manual: 1 commands, 5 files, 8 what the system runs
	Summary string // after the name in the section NAME, without a full stop
	Body    string // Markdown; what stands before its first "## " is the section DESCRIPTION, and a title "# " is left out
	SeeAlso string // "gatewarden(1), gatewarden-hook(8)"
}

// sections are the names of the manual's sections, as man(1) lists them.
var sections = map[int]string{1: "User Commands", 5: "File Formats", 8: "System Administration"}

// Roff gives the page. Its date and version are the marks @DATE@ and @VERSION@, which an installation fills in.
func (p Page) Roff() (string, error) {
	section, ok := sections[p.Section]
	if !ok {
		return "", fmt.Errorf("manual page %s: section %d of the manual has no name here", p.Name, p.Section)
	}
	w := &writer{}
	fmt.Fprintf(&w.out, ".\\\" Written by make docs; edits are lost.\n.TH %s %d @DATE@ \"gatewarden @VERSION@\" \"%s\"\n.nh\n.ad l\n", strings.ToUpper(p.Name), p.Section, section)
	fmt.Fprintf(&w.out, ".SH NAME\n%s \\- %s\n", plain(p.Name), plain(p.Summary))
	body := strings.TrimSpace(p.Body)
	if title, rest, ok := strings.Cut(body, "\n"); ok && strings.HasPrefix(title, "# ") {
		body = strings.TrimSpace(rest)
	}
	if !strings.HasPrefix(body, "## ") {
		body = "## Description\n\n" + body
	}
	if err := w.blocks(body); err != nil {
		return "", fmt.Errorf("manual page %s(%d): %w", p.Name, p.Section, err)
	}
	if p.SeeAlso != "" {
		if err := w.blocks("## See also\n\n" + p.SeeAlso); err != nil {
			return "", fmt.Errorf("manual page %s(%d): %w", p.Name, p.Section, err)
		}
	}
	return w.out.String(), nil
}

type writer struct {
	out   strings.Builder
	fresh bool // a heading or a tag has just been written: a paragraph needs no mark of its own
}

var (
	numbered  = regexp.MustCompile(`^[0-9]+\. `)
	separator = regexp.MustCompile(`^\|[-|: ]+\|$`)
)

// blocks writes Markdown block by block.
func (w *writer) blocks(text string) error {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i < len(lines); {
		line := lines[i]
		next := func(is func(string) bool) []string {
			from := i
			for i++; i < len(lines) && is(lines[i]); i++ {
			}
			return lines[from:i]
		}
		var err error
		switch {
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "<!--") && strings.HasSuffix(line, "-->"):
			i++
		case strings.HasPrefix(line, "## "):
			err = w.heading(".SH", strings.ToUpper(line[3:]))
			i++
		case strings.HasPrefix(line, "### "):
			err = w.heading(".SS", line[4:])
			i++
		case strings.HasPrefix(line, "```"):
			code := next(func(l string) bool { return !strings.HasPrefix(l, "```") })
			if i == len(lines) {
				return fmt.Errorf("the block that begins with %q does not end", line)
			}
			i++
			w.code(code[1:])
		case strings.HasPrefix(line, "|"):
			err = w.table(next(func(l string) bool { return strings.HasPrefix(l, "|") }))
		case strings.HasPrefix(line, "- ") || numbered.MatchString(line):
			mark, _, _ := strings.Cut(line, " ")
			item := next(func(l string) bool { return strings.HasPrefix(l, "  ") })
			err = w.item(mark, strings.TrimPrefix(strings.Join(trimmed(item), " "), mark+" "))
		case strings.HasPrefix(line, "#") || strings.HasPrefix(line, "!") || strings.HasPrefix(line, ">") || strings.HasPrefix(line, "<"):
			return fmt.Errorf("the markup of %q is not known here", line)
		default:
			paragraph := next(func(l string) bool {
				return strings.TrimSpace(l) != "" && !strings.HasPrefix(l, "|") && !strings.HasPrefix(l, "```") &&
					!strings.HasPrefix(l, "- ") && !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, "<!--")
			})
			err = w.paragraph(strings.Join(trimmed(paragraph), " "))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func trimmed(lines []string) []string {
	all := make([]string, len(lines))
	for i, l := range lines {
		all[i] = strings.TrimSpace(l)
	}
	return all
}

func (w *writer) heading(macro, text string) error {
	set, err := inline(text, false)
	fmt.Fprintf(&w.out, "%s %s\n", macro, set)
	w.fresh = true
	return err
}

func (w *writer) paragraph(text string) error {
	set, err := inline(text, true)
	if !w.fresh {
		w.out.WriteString(".PP\n")
	}
	w.text(set)
	return err
}

// text writes set text as lines of input. A sentence that ends a line would be spaced by roff as ours are not.
func (w *writer) text(set string) {
	w.out.WriteString(guard(set) + "\n")
	w.fresh = false
}

// guard keeps a line from being read as a request.
func guard(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

func (w *writer) code(lines []string) {
	if !w.fresh {
		w.out.WriteString(".PP\n")
	}
	w.out.WriteString(".RS 4\n.EX\n")
	for _, l := range lines {
		w.out.WriteString(guard(verbatim(l)) + "\n")
	}
	w.out.WriteString(".EE\n.RE\n")
	w.fresh = false
}

func (w *writer) item(mark, text string) error {
	set, err := inline(text, true)
	if mark == "-" {
		w.out.WriteString(".IP \\(bu 2\n")
	} else {
		fmt.Fprintf(&w.out, ".IP %s 4\n", mark)
	}
	w.text(set)
	return err
}

// tagged writes a tagged paragraph. The tag is set as it is.
func (w *writer) tagged(tag, text string) {
	fmt.Fprintf(&w.out, ".TP\n%s\n", guard(tag))
	w.text(text)
}

// table writes each row as a paragraph whose tag is the first cell.
func (w *writer) table(rows []string) error {
	if len(rows) < 3 || !separator.MatchString(rows[1]) {
		return fmt.Errorf("the table that begins with %q has no rows, or no line below its head", rows[0])
	}
	head := cells(rows[0])
	for _, row := range rows[2:] {
		cell := cells(row)
		if len(cell) != len(head) {
			return fmt.Errorf("the row %q has %d cells, and the head of its table %d", row, len(cell), len(head))
		}
		tag, err := inline(cell[0], true)
		if err != nil {
			return err
		}
		said := []string{}
		for i := 1; i < len(cell); i++ {
			text := cell[i]
			switch head[i] {
			case "type": // goes with the default
				continue
			case "default":
				kind := ""
				if head[i-1] == "type" {
					kind = cell[i-1]
				}
				if text = byDefault(kind, text); text == "" {
					continue
				}
			default:
				if text == "" {
					continue
				}
				if len(head) > 2 && i < len(head)-1 {
					text = head[i] + ": " + strings.TrimSuffix(text, ".") + "."
				}
			}
			said = append(said, text)
		}
		text, err := inline(strings.Join(said, " "), true)
		if err != nil {
			return err
		}
		w.tagged(tag, text)
	}
	return nil
}

// byDefault says what is taken without a key, and of which type it is.
func byDefault(kind, value string) string {
	switch value {
	case "required":
	case "", "–", "none":
		value = ""
	default:
		value = "default " + value
	}
	said := strings.TrimPrefix(strings.TrimSuffix(kind+", "+value, ", "), ", ")
	if said == "" {
		return ""
	}
	return strings.ToUpper(said[:1]) + said[1:] + ":"
}

// cells splits a row of a table. A bar that belongs to a cell is written \|.
func cells(row string) []string {
	const bar = "\x00"
	row = strings.ReplaceAll(row, `\|`, bar)
	row = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(row), "|"), "|")
	all := strings.Split(row, "|")
	for i, c := range all {
		all[i] = strings.TrimSpace(strings.ReplaceAll(c, bar, "|"))
	}
	return all
}

var link = regexp.MustCompile(`^\[([^\]]*)\]\(([^)]*)\)`)

// inline sets a line of Markdown. code says whether `code` changes the font, which it does not in headings.
func inline(text string, code bool) (string, error) {
	var b strings.Builder
	for len(text) > 0 {
		switch {
		case text[0] == '`':
			inside, rest, ok := strings.Cut(text[1:], "`")
			if !ok {
				return "", fmt.Errorf("a ` is not closed in %q", text)
			}
			if code {
				b.WriteString(`\fB` + verbatim(inside) + `\fR`)
			} else {
				b.WriteString(verbatim(inside))
			}
			text = rest
		case strings.HasPrefix(text, "**"):
			inside, rest, ok := strings.Cut(text[2:], "**")
			if !ok {
				return "", fmt.Errorf("** is not closed in %q", text)
			}
			set, err := inline(inside, false)
			if err != nil {
				return "", err
			}
			b.WriteString(`\fB` + set + `\fR`)
			text = rest
		case text[0] == '*' && len(text) > 1 && text[1] != ' ':
			inside, rest, ok := strings.Cut(text[1:], "*")
			if !ok {
				return "", fmt.Errorf("* is not closed in %q", text)
			}
			b.WriteString(`\fI` + plain(inside) + `\fR`)
			text = rest
		case text[0] == '[':
			m := link.FindStringSubmatch(text)
			if m == nil {
				b.WriteByte('[')
				text = text[1:]
				continue
			}
			set, err := inline(m[1], code)
			if err != nil {
				return "", err
			}
			b.WriteString(set)
			if strings.HasPrefix(m[2], "https://") {
				b.WriteString(" (" + verbatim(m[2]) + ")")
			}
			text = text[len(m[0]):]
		default:
			end := strings.IndexAny(text[1:], "`*[")
			if end < 0 {
				end = len(text) - 1
			}
			b.WriteString(plain(text[:end+1]))
			text = text[end+1:]
		}
	}
	return b.String(), nil
}

// signs are what roff has names for, and what it would take for its own.
var signs = []string{`\`, `\e`, "–", `\(en`, "—", `\(em`, "→", `\(->`, "×", `\(mu`, "…", `\&...`}

var (
	prose = strings.NewReplacer(signs...)
	typed = strings.NewReplacer(append(signs, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)...)
)

// plain sets text.
func plain(text string) string { return ascii(prose.Replace(text)) }

// verbatim sets text that can be typed or copied: a minus is one, and quotes and accents stay what they are.
func verbatim(text string) string { return ascii(typed.Replace(text)) }

// ascii writes other characters by their numbers.
func ascii(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\[u%04X]`, r)
		}
	}
	return b.String()
}
