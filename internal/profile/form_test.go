package profile

import (
	"strings"
	"testing"
)

func TestTheFormsOfWordsInAProfile(t *testing.T) {
	for _, form := range []struct {
		name string
		is   func(string) bool
		yes  []string
		no   []string
	}{
		{
			"name", isName,
			[]string{"a", "0", "web", "a.b_c-d", "a-", "0..", strings.Repeat("x", 63)},
			[]string{"", "-a", ".a", "_a", "A", "aB", "a b", "a/b", "a\n", "ä", "a\xff", strings.Repeat("x", 64)},
		},
		{
			"SHA-256", isSHA256,
			[]string{strings.Repeat("0", 64), strings.Repeat("9f", 32)},
			[]string{"", strings.Repeat("0", 63), strings.Repeat("0", 65), strings.Repeat("F", 64), strings.Repeat("0", 63) + "g", strings.Repeat("0", 63) + "\n"},
		},
		{
			"mode", isMode,
			[]string{"000", "666", "0660", "777", "0000"},
			[]string{"", "66", "0", "00", "1666", "06660", "668", "0o60", "66\n", "-66"},
		},
		{
			"namespace", isNamespace,
			[]string{"default", "k8s.io", "a-b_c.d", "A", "0", "a1-2b"},
			[]string{"", "-a", "a-", "a--b", "a._b", ".", "a b", "a/b", "ä", "a\n"},
		},
	} {
		for _, s := range form.yes {
			if !form.is(s) {
				t.Errorf("%q should be a %s", s, form.name)
			}
		}
		for _, s := range form.no {
			if form.is(s) {
				t.Errorf("%q should not be a %s", s, form.name)
			}
		}
	}
}
