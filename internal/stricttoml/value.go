package stricttoml

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Get gives the value of a key, nil if the document does not set it. On a nil Table it gives nil.
func (t *Table) Get(name string) *Value {
	if t == nil {
		return nil
	}
	if !slices.Contains(t.asked, name) {
		t.asked = append(t.asked, name)
	}
	return t.entries[name]
}

// Refuse reports a key that does not belong here but is known enough to say why. It is not named among the known ones.
func (t *Table) Refuse(name, format string, args ...any) {
	if t == nil {
		return
	}
	if v := t.entries[name]; v != nil {
		t.doc.addAt(v.keyOffset, v.node.String(), fmt.Sprintf(format, args...))
		v.kind = unstable.Invalid
	}
}

// Require is Get, and reports an absent key; what says what it is for.
func (t *Table) Require(name, what string) *Value {
	v := t.Get(name)
	if v == nil && t != nil {
		t.Fail(name, "missing: %s", what)
	}
	return v
}

// Fail reports a problem of a key that is not there, or of the table itself if name is empty, at the table's place.
func (t *Table) Fail(name, format string, args ...any) {
	key := t.parent.String()
	if name != "" {
		key = (&node{t.parent, name, -1}).String()
	}
	t.doc.addAt(t.offset, key, fmt.Sprintf(format, args...))
}

// Keys gives the names and values of a table whose keys are free, in the file's order.
func (t *Table) Keys() (names []string, values []*Value) {
	if t == nil {
		return nil, nil
	}
	for _, name := range t.names {
		values = append(values, t.entries[name])
	}
	return t.names, values
}

// Close reports the keys that nobody asked for.
func (t *Table) Close() {
	if t == nil {
		return
	}
	for _, name := range t.names {
		v := t.entries[name]
		if slices.Contains(t.asked, name) || v.kind == unstable.Invalid {
			continue
		}
		message := "unknown key"
		if near := nearest(name, t.asked); near != "" {
			message += fmt.Sprintf("; did you mean %q?", near)
		} else {
			message += "; known here: " + strings.Join(t.asked, ", ")
		}
		t.doc.addAt(v.keyOffset, v.node.String(), message)
	}
}

// nearest gives the name that a mistyped one was probably meant to be, or "".
func nearest(name string, known []string) string {
	best, most := "", 1+len(name)/4
	if len(name) > 40 {
		return ""
	}
	for _, k := range known {
		if d := distance(strings.ToLower(name), k); d <= most {
			best, most = k, d-1
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements of a byte that make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Fail reports a problem of the value, at its place.
func (v *Value) Fail(format string, args ...any) {
	if v != nil {
		v.doc.addAt(v.offset, v.node.String(), fmt.Sprintf(format, args...))
	}
}

// FailKey reports a problem of the value's key, at the key's place.
func (v *Value) FailKey(format string, args ...any) {
	if v != nil {
		v.doc.addAt(v.keyOffset, v.node.String(), fmt.Sprintf(format, args...))
	}
}

// Line is the line in which the value's key stands.
func (v *Value) Line() int {
	line, _ := v.doc.position(v.keyOffset)
	return line
}

func (v *Value) is(kind unstable.Kind, want string) bool {
	if v == nil {
		return false
	}
	if v.kind != kind {
		v.Fail("must be %s, not %s", want, v.found())
		return false
	}
	return true
}

// found says what is there instead. It shows no string, which might be a secret in the wrong place.
func (v *Value) found() string {
	switch v.kind {
	case unstable.String:
		return "a string"
	case unstable.Integer:
		return "the number " + number(v.text)
	case unstable.Float:
		return "a number with a fraction"
	case unstable.Bool:
		return v.text
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	default:
		return "a date or time"
	}
}

// number shortens the source of a number, which is ASCII, for a message.
func number(source string) string {
	if len(source) > 32 {
		return source[:32] + "…"
	}
	return source
}

// Text gives a string of at most max bytes without control characters.
func (v *Value) Text(max int) (string, bool) {
	if !v.is(unstable.String, "a string in quotes") {
		return "", false
	}
	if len(v.text) > max {
		v.Fail("is %d bytes long; at most %d are allowed", len(v.text), max)
		return "", false
	}
	for i, r := range v.text {
		if unicode.IsControl(r) {
			name := fmt.Sprintf("control character %U", r)
			if r == 0 {
				name = "NUL character"
			}
			v.Fail("holds a %s (byte %d of the string); remove it", name, i+1)
			return "", false
		}
	}
	return v.text, true
}

// Integer gives a whole number from low to high.
func (v *Value) Integer(low, high int64) (int64, bool) {
	if !v.is(unstable.Integer, "a whole number without quotes") {
		return 0, false
	}
	n, err := strconv.ParseInt(v.text, 0, 64)
	if err != nil || n < low || n > high {
		v.Fail("is %s; it must be from %d to %d", number(v.text), low, high)
		return 0, false
	}
	return n, true
}

// IsZero says that the value is the whole number 0. It reports nothing.
func (v *Value) IsZero() bool {
	if v == nil || v.kind != unstable.Integer {
		return false
	}
	n, err := strconv.ParseInt(v.text, 0, 64)
	return err == nil && n == 0
}

// Boolean gives true or false; present says whether it was there and was one of them.
func (v *Value) Boolean() (value, present bool) {
	if !v.is(unstable.Bool, "true or false, without quotes") {
		return false, false
	}
	return v.text == "true", true
}

// Items gives the members of a list of at most max.
func (v *Value) Items(max int) ([]*Value, bool) {
	if !v.is(unstable.Array, "a list in [brackets]") {
		return nil, false
	}
	if len(v.items) > max {
		v.Fail("has %d members; at most %d are allowed", len(v.items), max)
		return nil, false
	}
	return v.items, true
}

// Tables gives the members of a list of tables, [[name]], of at most max. ok says that there is such a list.
func (v *Value) Tables(max int) (tables []*Table, ok bool) {
	if v != nil && v.kind == unstable.InlineTable {
		v.FailKey("must be a list of tables; write [[%s]] with two brackets", v.node)
		return nil, false
	}
	items, ok := v.Items(max)
	for _, item := range items {
		if t := item.Table(); t != nil {
			tables = append(tables, t)
		} else {
			ok = false
		}
	}
	return tables, ok
}

// Table gives a table; nil if it is absent or something else.
func (v *Value) Table() *Table {
	if v != nil && v.kind == unstable.Array && len(v.items) > 0 && v.items[0].table != nil {
		v.FailKey("must be one table; write [%s], once and with single brackets", v.node)
		return nil
	}
	if !v.is(unstable.InlineTable, "a table") {
		return nil
	}
	return v.table
}

// Duration gives a Go-style duration, "100ms" or "1m30s", from low to high.
func (v *Value) Duration(low, high time.Duration) (time.Duration, bool) {
	const want = `a duration in quotes, such as "500ms", "5s" or "1m30s"`
	if !v.is(unstable.String, want) {
		return 0, false
	}
	d, err := time.ParseDuration(v.text)
	if err != nil {
		why := "it does not parse"
		switch {
		case v.text == "":
			why = "it is empty"
		case strings.Contains(err.Error(), "missing unit"):
			why = "the unit is missing"
		case strings.Contains(err.Error(), "unknown unit"):
			why = "the unit is none of ms, s, m, h"
		}
		v.Fail("%s is not %s: %s", Quote(v.text), want, why)
		return 0, false
	}
	if d < low || d > high {
		v.Fail("is %s; it must be from %s to %s", Quote(v.text), short(low), short(high))
		return 0, false
	}
	return d, true
}

// short writes 1h0m0s as 1h.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
