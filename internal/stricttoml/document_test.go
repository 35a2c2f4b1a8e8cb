package stricttoml

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

func TestPositionsCountCharactersAndCaretsStandUnderThem(t *testing.T) {
	const source = "\ta = 1\n\t\"é\" = \"\u00fc\"; # no\n"
	doc := Parse("f", []byte("\ta = 1\n\t\"é\" = 7\nb = [1,\n  2, [3]]\n"))
	root := doc.Root()
	root.Get("a").Fail("one")
	root.Get("é").Fail("two")
	items, _ := root.Get("b").Items(10)
	items[1].Fail("three")
	root.Get("b").FailKey("four")
	got := doc.Err().Error()
	want := "f:1:6: a: one\nf:2:8: \"é\": two\nf:3:1: b: four\nf:4:3: b[1]: three"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var p *Problems
	if !errors.As(doc.Err(), &p) {
		t.Fatal("not *Problems")
	}
	var shown bytes.Buffer
	if err := p.Format(&shown, []byte("\ta = 1\n\t\"é\" = 7\nb = [1,\n  2, [3]]\n")); err != nil {
		t.Fatal(err)
	}
	if want := "     2 | \t\"é\" = 7\n       | \t      ^\n"; !strings.Contains(shown.String(), want) {
		t.Errorf("got\n%s", shown.String())
	}
	if err := Parse("f", []byte(source)).Err(); err == nil || !strings.HasPrefix(err.Error(), "f:2:11: not valid TOML: ") {
		t.Errorf("got %v", err)
	}
}

func TestAShownLineIsHarmlessOnATerminal(t *testing.T) {
	p := &Problems{File: "f", List: []Problem{{Line: 1, Column: 2, Message: "m"}, {Line: 9, Column: 1, Message: "beyond"}}}
	var shown bytes.Buffer
	if err := p.Format(&shown, []byte("a\x1b[2Jb\u202e\xffc\r\n")); err != nil {
		t.Fatal(err)
	}
	if got, want := shown.String(), "f:1:2: m\n     1 | a\ufffd[2Jb\ufffd\ufffdc\n       |  ^\nf:9:1: beyond\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestALongLineIsShownAroundTheColumn(t *testing.T) {
	p := &Problems{File: "f", List: []Problem{{Line: 1, Column: 5001, Message: "m"}}}
	var shown bytes.Buffer
	if err := p.Format(&shown, []byte(strings.Repeat("x", 5000)+"y"+strings.Repeat("z", 5000))); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(shown.String(), "\n")
	if len(lines[1]) > 140 || strings.IndexRune(strings.ReplaceAll(lines[1], "…", "."), 'y') != strings.IndexRune(lines[2], '^') {
		t.Errorf("got\n%s", shown.String())
	}
}

func TestADocumentThatTOMLForbidsIsRefused(t *testing.T) {
	for _, source := range []string{
		"a = 1\na = 2", "[a]\n[a]", "[a]\nb = 1\n[a.b]", "a = {b = 1}\n[a.c]", "[[a]]\n[a]", "a = []\n[[a]]", "a.b = 1\n[a]", "a = 1\na.b = 2",
		"[a]\n[[a]]", "[[a.b]]\n[a]\nb = 1", "a = 01", "a = 99999999999999999999", "a = 2026-13-01", "a = \"\xff\"", "a = \"\n\"", "= 1", "a", "[a", "a = 'x",
		"a = {b = 1, b = 2}", "a = \x00",
	} {
		if err := Parse("f", []byte(source)).Err(); err == nil || !strings.HasPrefix(err.Error(), "f:") {
			t.Errorf("%q: got %v", source, err)
		}
	}
}

func TestNumbersAreReadInEveryFormOfTOML(t *testing.T) {
	for source, want := range map[string]int64{"0": 0, "+7": 7, "-7": -7, "0x1F": 31, "0o17": 15, "0b11": 3, "1_000": 1000} {
		doc := Parse("f", []byte("a = "+source))
		if got, ok := doc.Root().Get("a").Integer(-10, 1000); !ok || got != want || doc.Err() != nil {
			t.Errorf("%s: got %d, %v", source, got, doc.Err())
		}
	}
}

// FuzzParse checks that whatever go-toml refuses is refused, with a place inside the document, and nothing else but what
// is nested too deeply.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a = 1", "[a.b]\nc = [1, {d = 2}]", "[[a]]\n[a.b]\n[[a]]", "a = 1\na = 2", "a = '''\n'''", "a.b.c = 1979-05-27", "[a]\n[a]", "x = [[[[[[[[[[1]]]]]]]]]]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<12 {
			return
		}
		doc := Parse("f", data)
		doc.Root().Close()
		var any map[string]any
		refused := toml.Unmarshal(data, &any)
		err := doc.Err()
		if err == nil {
			if refused != nil || len(any) > 0 {
				t.Errorf("accepted %q, though %v and %v", data, refused, any)
			}
			return
		}
		for _, p := range err.(*Problems).List {
			if p.Line < 0 || p.Line > bytes.Count(data, []byte("\n"))+1 || p.Line > 0 && p.Column < 1 {
				t.Errorf("%q: the place of %+v", data, p)
			}
			if refused == nil && !strings.Contains(p.Message, "unknown key") && !strings.Contains(p.Message, "refused") && !strings.Contains(p.Message, "more problems") {
				t.Errorf("%q: %+v, though it is TOML", data, p)
			}
		}
	})
}
