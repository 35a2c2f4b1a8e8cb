package manual

import (
	"fmt"
	"strings"
)

// Table is one table of a file's format, as the reference lists it.
type Table struct {
	Name string // "gateway", "listen.options"; "" is the top level
	Keys []Key
}

// Key is one key of a Table.
type Key struct {
	Name     string
	Type     string // "string", "path", "integer", "boolean", "duration", "size", "list", "table"
	Required bool
	Default  string // as it would be written in the file; "": see Absent
	Absent   string // what is done without the key, where no value says it; "": nothing
	// The first and the last value that is taken, as they would be written; "": Meaning says it.
	Low, High string
	Meaning   string // Markdown
}

// Markdown gives the table of the reference.
func (t Table) Markdown() string {
	var b strings.Builder
	b.WriteString("| key | type | default | meaning and bounds |\n|---|---|---|---|\n")
	for _, k := range t.Keys {
		value := k.Absent
		switch {
		case k.Required:
			value = "required"
		case k.Default != "":
			value = "`" + k.Default + "`"
		case value == "":
			value = "none"
		}
		meaning := k.Meaning
		if k.Low != "" {
			bounds := fmt.Sprintf("From %s to %s", bare(k.Low), bare(k.High))
			if k.Low == k.High {
				bounds = "Only `" + k.Low + "`"
			}
			meaning = strings.TrimSuffix(meaning, ".") + ". " + bounds
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Name, k.Type, value, meaning)
	}
	return b.String()
}

// bare writes a value without its quotes.
func bare(s string) string { return strings.Trim(s, `"`) }

// Fill puts texts into the regions of a document, which begin with a line <!-- NAME: written by make docs --> and end with
// <!-- end -->. Each text has to have its region, and each region its text.
func Fill(document string, texts map[string]string) (string, error) {
	const begin, mark, end = "<!-- ", ": written by make docs -->", "<!-- end -->"
	var b strings.Builder
	used := map[string]bool{}
	lines := strings.SplitAfter(document, "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimRight(lines[i], "\n")
		b.WriteString(lines[i])
		name, isBegin := strings.CutSuffix(strings.TrimPrefix(line, begin), mark)
		if !isBegin || !strings.HasPrefix(line, begin) {
			continue
		}
		text, known := texts[name]
		switch {
		case !known:
			return "", fmt.Errorf("nothing is written into the region %q", name)
		case used[name]:
			return "", fmt.Errorf("the region %q is there twice", name)
		}
		used[name] = true
		for i++; i < len(lines) && strings.TrimRight(lines[i], "\n") != end; i++ {
		}
		if i == len(lines) {
			return "", fmt.Errorf("the region %q does not end: %s is missing", name, end)
		}
		b.WriteString("\n" + strings.TrimRight(text, "\n") + "\n\n" + lines[i])
	}
	for name := range texts {
		if !used[name] {
			return "", fmt.Errorf("the document has no region %q", name)
		}
	}
	return b.String(), nil
}
