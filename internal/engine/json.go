package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// member is one of a JSON object's. Its offsets are in the text of the whole document.
type member struct {
	name            string
	key, value, end int // where the key begins, and the value, and where that ends
}

// object is a JSON object in a document.
type object struct {
	begin, end int // of "{" and behind "}"
	members    []member
}

// parseObject reads the JSON object at the place begin of doc, behind white space, whose members it does not read. Names that
// differ in nothing or in case alone are refused: what reads them takes one or the other.
func parseObject(doc []byte, begin int) (object, error) {
	d := json.NewDecoder(bytes.NewReader(doc[begin:]))
	here := func() int { return begin + int(d.InputOffset()) }
	token, err := d.Token()
	if err != nil {
		return object{}, err
	}
	if token != json.Delim('{') {
		return object{}, errors.New("it is not an object")
	}
	o := object{begin: here() - 1}
	for d.More() {
		from := here()
		token, err := d.Token()
		if err != nil {
			return object{}, err
		}
		name := token.(string) // the decoder takes nothing else there
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return object{}, err
		}
		if slices.ContainsFunc(o.members, func(m member) bool { return strings.EqualFold(m.name, name) }) {
			return object{}, fmt.Errorf("it has the member %.80q twice", name)
		}
		key := from + bytes.IndexByte(doc[from:], '"')
		o.members = append(o.members, member{name, key, here() - len(value), here()})
	}
	if _, err := d.Token(); err != nil {
		return object{}, err
	}
	o.end = here()
	return o, nil
}

// checkJSON sees to it that doc is one JSON object; file is the name that an error carries, with line and column.
func checkJSON(file string, doc []byte) error {
	d := json.NewDecoder(bytes.NewReader(doc))
	var v map[string]json.RawMessage
	err := d.Decode(&v)
	where := d.InputOffset()
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		} else if v == nil {
			err = errors.New("it is null, not an object")
		}
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		where = e.Offset
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err, where = errors.New("it ends too early"), int64(len(doc))+1
	}
	if err != nil {
		before := doc[:min(int(max(where-1, 0)), len(doc))]
		line := 1 + bytes.Count(before, []byte("\n"))
		column := len(before) - bytes.LastIndexByte(before, '\n')
		return fmt.Errorf("%s:%d:%d: not valid JSON: %w", file, line, column, err)
	}
	return nil
}

// find gives the objects on the way to the member at path, and that member, nil if it or one on the way is not there.
func find(doc []byte, path []string) (on []object, found *member, err error) {
	begin := 0
	for i, name := range path {
		o, err := parseObject(doc, begin)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", strings.Join(append([]string{"the document"}, path[:i]...), "."), err)
		}
		on = append(on, o)
		n := slices.IndexFunc(o.members, func(m member) bool { return strings.EqualFold(m.name, name) })
		switch {
		case n < 0:
			return on, nil, nil
		case o.members[n].name != name:
			return nil, nil, fmt.Errorf("it has %.80q; write it %q", o.members[n].name, name)
		case i == len(path)-1:
			return on, &o.members[n], nil
		}
		begin = o.members[n].value
	}
	return on, nil, nil
}

// getJSON gives the value at path, nil if it is not there.
func getJSON(doc []byte, path ...string) (json.RawMessage, error) {
	_, m, err := find(doc, path)
	if err != nil || m == nil {
		return nil, err
	}
	return json.RawMessage(doc[m.value:m.end]), nil
}

// setJSON gives doc with value at path, in the manner in which doc is written: everything else keeps its place and form. A new
// member comes last.
func setJSON(doc []byte, value any, path ...string) ([]byte, error) {
	on, m, err := find(doc, path)
	if err != nil {
		return nil, err
	}
	if m != nil {
		var was any
		raw, err := plainJSON(value)
		if err != nil || json.Unmarshal(doc[m.value:m.end], &was) == nil && reflect.DeepEqual(was, raw) {
			return doc, err
		}
		text, err := indented(doc, on, value)
		if err != nil {
			return nil, err
		}
		return slices.Concat(doc[:m.value], text, doc[m.end:]), nil
	}
	missing := path[len(on)-1:]
	for _, name := range slices.Backward(missing[1:]) {
		value = map[string]any{name: value}
	}
	o := on[len(on)-1]
	text, err := indented(doc, on, value)
	if err != nil {
		return nil, err
	}
	key, err := json.Marshal(missing[0])
	if err != nil {
		return nil, err
	}
	before, after := gap(doc, on)
	colon := ":"
	if before != "" {
		colon = ": "
	}
	if n := len(o.members); n > 0 {
		// As the member before has it; where that is alone on its line, the comma too.
		m := o.members[n-1]
		colon = string(doc[m.key+1+bytes.LastIndexByte(doc[m.key:m.value], '"') : m.value])
		if before == "" {
			_, before, _ = strings.Cut(colon, ":")
		}
	}
	entry := slices.Concat([]byte(before), key, []byte(colon), text)
	if len(o.members) == 0 {
		return slices.Concat(doc[:o.begin+1], entry, []byte(after), doc[o.end-1:]), nil
	}
	last := o.members[len(o.members)-1].end
	return slices.Concat(doc[:last], []byte(","), entry, doc[last:]), nil
}

// removeJSON gives doc without the member at path.
func removeJSON(doc []byte, path ...string) ([]byte, error) {
	on, m, err := find(doc, path)
	if err != nil || m == nil {
		return doc, err
	}
	o := on[len(on)-1]
	i := slices.IndexFunc(o.members, func(n member) bool { return n.key == m.key })
	from, to := o.begin+1, o.end-1
	switch {
	case i > 0:
		from, to = o.members[i-1].end, m.end
	case len(o.members) > 1:
		from, to = m.key, o.members[1].key
	}
	return slices.Concat(doc[:from], doc[to:]), nil
}

// gap is the white space that comes before a new member of the last of the objects on, and behind the last one in an object
// that was empty.
func gap(doc []byte, on []object) (before, after string) {
	unit := "  "
	for depth, o := range on {
		if len(o.members) == 0 && unit == "" {
			return "", ""
		}
		if len(o.members) == 0 {
			return "\n" + strings.Repeat(unit, depth+1), "\n" + strings.Repeat(unit, depth)
		}
		last := o.members[len(o.members)-1]
		start := o.begin + 1
		if len(o.members) > 1 {
			start = o.members[len(o.members)-2].end
			start += bytes.IndexByte(doc[start:], ',') + 1
		}
		before = string(doc[start:last.key])
		if newline := strings.LastIndexByte(before, '\n'); newline >= 0 {
			if width := len(before) - newline - 1; width > 0 && width%(depth+1) == 0 {
				unit = before[newline+1 : newline+1+width/(depth+1)]
			}
		} else if depth == 0 {
			unit = ""
		}
	}
	return before, ""
}

// indented gives value as the member of the last of the objects on, in as many lines as doc would.
func indented(doc []byte, on []object, value any) ([]byte, error) {
	before, _ := gap(doc, on)
	newline := strings.LastIndexByte(before, '\n')
	if newline < 0 {
		return json.Marshal(value)
	}
	prefix := before[newline+1:]
	unit := "  "
	if n := len(prefix); n%len(on) == 0 && n > 0 {
		unit = prefix[:n/len(on)]
	}
	return json.MarshalIndent(value, prefix, unit)
}

// plainJSON is value as a decoder gives it.
func plainJSON(value any) (plain any, err error) {
	data, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(data, &plain)
	}
	return plain, err
}
