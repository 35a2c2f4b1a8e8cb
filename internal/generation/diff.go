package generation

import (
	"bytes"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"
)

// Bounds of Diff, in bytes: of a file that is shown, and of all that is shown.
const (
	maxDiffFile = 64 << 10
	maxDiff     = 256 << 10
)

// Diff shows the differences from g to o, unified. Of a file that is no text, or too long, only that it differs is said.
func (s *Store) Diff(g, o *Generation) (string, error) {
	var b strings.Builder
	for _, c := range g.Changes(o) {
		before, err := s.text(g, c.Path)
		if err != nil {
			return "", err
		}
		after, err := s.text(o, c.Path)
		if err != nil {
			return "", err
		}
		text := fmt.Sprintf("%s %s\n", c.Change, c.Path)
		if d := diff.Diff(fmt.Sprintf("generation %d: %s", g.Number, c.Path), before, fmt.Sprintf("generation %d: %s", o.Number, c.Path), after); before != nil && after != nil && d != nil {
			text = string(bytes.TrimPrefix(d, d[:bytes.IndexByte(d, '\n')+1]))
		}
		if b.Len()+len(text) > maxDiff {
			b.WriteString("… and more\n")
			break
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// text gives what generation g has at a Change's path: empty if nothing is there, nil if that is not to be shown.
func (s *Store) text(g *Generation, name string) ([]byte, error) {
	if name == profileChange {
		return s.Profile(g)
	}
	for i, m := range g.Mounts {
		for _, f := range m.Files {
			if path.Join(m.Target, f.Path) != name {
				continue
			}
			if f.Dir() || f.Size > maxDiffFile {
				return nil, nil
			}
			data, err := readBounded(filepath.Join(s.Tree(g.Number, i), f.Path), maxDiffFile)
			if err != nil || !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
				return nil, err
			}
			return append([]byte{}, data...), nil
		}
	}
	return []byte{}, nil
}
