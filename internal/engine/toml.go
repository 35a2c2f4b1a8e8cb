package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// decodeTOML reads an engine's file; file is the name that an error carries, with line and column.
func decodeTOML(file string, data []byte) (map[string]any, error) {
	doc := map[string]any{}
	err := toml.Unmarshal(data, &doc)
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, column := e.Position()
		return nil, fmt.Errorf("%s:%d:%d: not valid TOML: %s", file, line, column, strings.TrimPrefix(e.Error(), "toml: "))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: not valid TOML: %w", file, err)
	}
	return doc, nil
}

// at gives what doc has at a path of keys, or nil.
func at(doc map[string]any, keys ...string) any {
	var v any = doc
	for _, k := range keys {
		t, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = t[k]
	}
	return v
}

// table is at for a table.
func table(doc map[string]any, keys ...string) map[string]any {
	t, _ := at(doc, keys...).(map[string]any)
	return t
}

// texts is at for an array of strings. ok is false if it is something else; what is not there is an empty one.
func texts(doc map[string]any, keys ...string) (list []string, ok bool) {
	v := at(doc, keys...)
	if v == nil {
		return nil, true
	}
	items, ok := v.([]any)
	for _, item := range items {
		s, is := item.(string)
		list, ok = append(list, s), ok && is
	}
	return list, ok
}

// writeTable appends a table with its header, and its tables after it, each with the whole path in its header: so that it
// can be added to a document that has the tables above.
func writeTable(b *strings.Builder, path []string, t map[string]any) error {
	header := make([]string, len(path))
	for i, k := range path {
		header[i] = quoteKey(k)
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "[%s]\n", strings.Join(header, "."))
	var tables []string
	for _, k := range slices.Sorted(maps.Keys(t)) {
		if _, ok := t[k].(map[string]any); ok {
			tables = append(tables, k)
			continue
		}
		line, err := toml.Marshal(map[string]any{k: t[k]})
		if err != nil {
			return fmt.Errorf("cannot write the key %.80q: %w", k, err)
		}
		b.Write(line)
	}
	for _, k := range tables {
		if err := writeTable(b, append(slices.Clone(path), k), t[k].(map[string]any)); err != nil {
			return err
		}
	}
	return nil
}

// quoteKey gives a key as it is written in a header.
func quoteKey(k string) string {
	bare := k != "" && !strings.ContainsFunc(k, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
	if bare {
		return k
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range k {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// merged gives a with what b has added. Tables are merged, everything else is b's.
func merged(a, b map[string]any) map[string]any {
	m := maps.Clone(a)
	for k, v := range b {
		t, is := v.(map[string]any)
		old, was := m[k].(map[string]any)
		if is && was {
			m[k] = merged(old, t)
		} else {
			m[k] = v
		}
	}
	return m
}
