package manual

import (
	"strings"
	"testing"
)

func TestMarkdownIsSetAsRoff(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"paragraphs":              {"One\nline.\n\nTwo.", "One line.\n.PP\nTwo.\n"},
		"code in a line":          {"Use `--to N`, `it's`.", "Use \\fB\\-\\-to N\\fR, \\fBit\\(aqs\\fR.\n"},
		"bold and italic":         {"**Not `this`** but *that*", "\\fBNot this\\fR but \\fIthat\\fR\n"},
		"links":                   {"see [the `x`](a.md#b), [y](https://e.org/a-b)", "see the \\fBx\\fR, y (https://e.org/a\\-b)\n"},
		"brackets":                {"a [b] c", "a [b] c\n"},
		"what begins a request":   {".so evil", "\\&.so evil\n"},
		"what begins one in code": {"```\n.so\n'x\n```", ".RS 4\n.EX\n\\&.so\n\\(aqx\n.EE\n.RE\n"},
		"backslashes":             {"a \\fB and `\\n`", "a \\efB and \\fB\\en\\fR\n"},
		"other characters":        {"ü – → …", "\\[u00FC] \\(en \\(-> \\&...\n"},
		"a list":                  {"- one\n  more\n- two", ".IP \\(bu 2\none more\n.IP \\(bu 2\ntwo\n"},
		"numbers":                 {"1. one\n2. two", ".IP 1. 4\none\n.IP 2. 4\ntwo\n"},
		"a table":                 {"| a | b |\n|---|---|\n| `x` | y \\| z |", ".TP\n\\fBx\\fR\ny | z\n"},
		"a table of keys": {"| key | type | default | meaning |\n|---|---|---|---|\n| `x` | path | required | y |\n| `z` | list | `[]` | w |\n| `v` | path | none | u |",
			".TP\n\\fBx\\fR\nPath, required: y\n.TP\n\\fBz\\fR\nList, default \\fB[]\\fR: w\n.TP\n\\fBv\\fR\nPath: u\n"},
		"comments": {"<!-- keys -->\nx", "x\n"},
	} {
		got, err := Page{Name: "x", Section: 1, Summary: "y", Body: c.text}.Roff()
		_, body, _ := strings.Cut(got, ".SH DESCRIPTION\n")
		if err != nil || body != c.want {
			t.Errorf("%s: %v\n%q, want\n%q", name, err, body, c.want)
		}
	}
}

func TestMarkupThatIsNotKnownIsAnErrorAndNotShown(t *testing.T) {
	for _, text := range []string{"#### deep", "![picture](x.svg)", "> quote", "<b>x</b>", "a `b", "**a", "a *b", "```\nx", "| a |\n|---|", "| a | b |\n|---|---|\n| c |"} {
		if got, err := (Page{Name: "x", Section: 1, Summary: "y", Body: text}).Roff(); err == nil {
			t.Errorf("%q: no error\n%s", text, got)
		}
	}
	if _, err := (Page{Name: "x", Section: 9}).Roff(); err == nil {
		t.Error("a section of the manual without a name: no error")
	}
}

func TestHelpBecomesMarkdown(t *testing.T) {
	help := "Does it.\nTwice, with --loud.\n\n  --loud         say\n                 so\n  -q, --quiet    not\n\nExit status:\n  0  done\n  1  not\n\n  gatewarden x | y\n"
	want := "Does it.\nTwice, with `--loud`.\n\n| | |\n|---|---|\n| `--loud` | say so |\n| `-q, --quiet` | not |\n\nExit status:\n\n| | |\n|---|---|\n" +
		"| `0` | done |\n| `1` | not |\n\n```\ngatewarden x | y\n```\n"
	if got := FromHelp(help); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := Entries(help); len(got) != 4 || got[1] != (Entry{"-q, --quiet", "not"}) {
		t.Errorf("%q", got)
	}
}

func TestRegionsOfADocumentAreWrittenAndTheRestIsKept(t *testing.T) {
	const document = "a\n<!-- k: written by make docs -->\nold\n<!-- end -->\nb\n"
	got, err := Fill(document, map[string]string{"k": "new\n"})
	if want := "a\n<!-- k: written by make docs -->\n\nnew\n\n<!-- end -->\nb\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	again, err := Fill(got, map[string]string{"k": "new\n"})
	if err != nil || again != got {
		t.Errorf("written again it is %q, %v", again, err)
	}
	for name, c := range map[string]struct {
		document string
		texts    map[string]string
	}{
		"a region without a text":      {document, map[string]string{}},
		"a text without a region":      {document, map[string]string{"k": "", "l": ""}},
		"a region without an end":      {strings.Replace(document, "<!-- end -->", "", 1), map[string]string{"k": ""}},
		"a region that is there twice": {document + document, map[string]string{"k": ""}},
	} {
		if got, err := Fill(c.document, c.texts); err == nil {
			t.Errorf("%s: no error\n%s", name, got)
		}
	}
}
