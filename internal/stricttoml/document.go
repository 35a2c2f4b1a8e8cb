package stricttoml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Bounds of a document. They are far above what a settings file needs, and keep a hostile one from costing more than
// its size.
const (
	maxKeyDepth = 8   // parts of a dotted key
	maxNesting  = 8   // arrays and tables inside each other
	maxProblems = 100 // more are counted, not listed
)

// Document is a TOML file that was read, and the problems found in it so far.
type Document struct {
	file     string
	data     []byte
	lines    []int // offset of the first byte of each line
	problems []Problem
	omitted  int
	root     *Table
}

// Table is a table, inline or not. Every key that it may hold has to be asked for with Get before Close.
type Table struct {
	doc     *Document
	parent  *node
	offset  int // of its header, or of its inline value; 0 for the root
	entries map[string]*Value
	names   []string // of entries, in the file's order
	asked   []string
	opened  bool // by a [header] of its own
}

// Value is what stands behind a key, or in an array. Methods on a nil Value, which Get gives for an absent key, find
// nothing and report nothing.
type Value struct {
	doc       *Document
	node      *node
	keyOffset int
	offset    int
	kind      unstable.Kind // Array and InlineTable also for [[name]] and [name]
	text      string        // a string's characters; otherwise the source
	items     []*Value
	table     *Table
}

// node is a place in the tree. The dotted name is put together only when a message needs it: stored in each value it
// would grow with the square of the document.
type node struct {
	parent *node
	name   string
	index  int // in an array; -1: none
}

func (n *node) String() string {
	if n == nil {
		return ""
	}
	if n.index >= 0 {
		return fmt.Sprintf("%s[%d]", n.parent, n.index)
	}
	name := n.name
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return !isBare(r) }) {
		name = Quote(name)
	}
	if n.parent == nil {
		return name
	}
	return n.parent.String() + "." + name
}

func isBare(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// Parse reads data as TOML. file is the name that problems carry. A document that is not TOML has an empty root; what is
// wrong with it is among the problems, which Err gives.
func Parse(file string, data []byte) *Document {
	d := &Document{file: file, data: data, lines: []int{0}}
	for i, c := range data {
		if c == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	d.root = d.newTable(nil, 0)
	if !d.build() {
		d.root = d.newTable(nil, 0)
		return d
	}
	// The tree above keeps positions, but go-toml's decoder is the judge of what is TOML: it knows which tables may be
	// opened again, and what a number or a date may look like.
	var ignored map[string]any
	if err := toml.Unmarshal(data, &ignored); err != nil {
		var e *toml.DecodeError
		if !errors.As(err, &e) {
			d.add(Problem{Message: "not valid TOML: " + err.Error()})
			return d
		}
		line, column := e.Position()
		if !slices.ContainsFunc(d.problems, func(p Problem) bool { return p.Line == line }) {
			d.addAt(d.offsetOf(line, column), "", "not valid TOML: "+strings.TrimPrefix(e.Error(), "toml: "))
		}
	}
	return d
}

// Root is the top level of the document.
func (d *Document) Root() *Table { return d.root }

// Err gives everything reported so far as *Problems, in the file's order, or nil.
func (d *Document) Err() error {
	if len(d.problems) == 0 {
		return nil
	}
	list := slices.Clone(d.problems)
	slices.SortStableFunc(list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if d.omitted > 0 {
		list = append(list, Problem{Message: fmt.Sprintf("and %d more problems", d.omitted)})
	}
	return &Problems{File: d.file, List: list}
}

func (d *Document) add(p Problem) {
	if len(d.problems) >= maxProblems {
		d.omitted++
		return
	}
	d.problems = append(d.problems, p)
}

func (d *Document) addAt(offset int, key, message string) {
	line, column := d.position(offset)
	d.add(Problem{Line: line, Column: column, Key: key, Message: message})
}

// position gives line and column, from 1, of the byte at offset; columns count characters.
func (d *Document) position(offset int) (line, column int) {
	line = sort.SearchInts(d.lines, offset+1)
	return line, utf8.RuneCount(d.data[d.lines[line-1]:offset]) + 1
}

// offsetOf is for the positions of go-toml, whose columns count bytes.
func (d *Document) offsetOf(line, column int) int {
	if line < 1 || line > len(d.lines) {
		return len(d.data)
	}
	return min(d.lines[line-1]+max(column-1, 0), len(d.data))
}

func (d *Document) newTable(parent *node, offset int) *Table {
	return &Table{doc: d, parent: parent, offset: offset, entries: map[string]*Value{}}
}

// build makes the tree of tables and values. It is false if the document ended early.
func (d *Document) build() bool {
	var p unstable.Parser
	p.Reset(d.data)
	current := d.root
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			path, ok := d.path(e)
			if !ok {
				return false
			}
			if current = d.header(path, e.Kind == unstable.ArrayTable); current == nil {
				return false
			}
		case unstable.KeyValue:
			if !d.keyValue(current, e, 0) {
				return false
			}
		}
	}
	err := p.Error()
	if err == nil {
		return true
	}
	var pe *unstable.ParserError
	if !errors.As(err, &pe) {
		d.add(Problem{Message: "not valid TOML: " + err.Error()})
		return false
	}
	d.addAt(d.highlight(pe.Highlight), "", "not valid TOML: "+pe.Message)
	return false
}

// highlight gives the offset of a part of the document. As with unstable.Parser.Range, the capacity tells.
func (d *Document) highlight(part []byte) int {
	offset := cap(d.data) - cap(part)
	if part == nil || offset < 0 || offset > len(d.data) {
		return len(d.data)
	}
	return offset
}

type keyPart struct {
	name        string
	offset, end int
}

// path gives the parts of the key of a table header or a key-value.
func (d *Document) path(e *unstable.Node) ([]keyPart, bool) {
	var parts []keyPart
	for it := e.Key(); it.Next(); {
		k := it.Node()
		parts = append(parts, keyPart{string(k.Data), int(k.Raw.Offset), int(k.Raw.Offset + k.Raw.Length)})
		if len(parts) > maxKeyDepth {
			d.addAt(parts[0].offset, "", fmt.Sprintf("a key of more than %d parts is refused", maxKeyDepth))
			return nil, false
		}
	}
	return parts, true
}

// header gives the table that [path] or [[path]] opens; nil if something else is there already.
func (d *Document) header(path []keyPart, array bool) *Table {
	t := d.root
	for i, part := range path {
		last := i == len(path)-1
		v := t.entries[part.name]
		switch {
		case v == nil && last && array:
			v = t.set(part, part.offset, unstable.Array)
			return v.appendTable(part.offset)
		case v == nil:
			v = t.set(part, part.offset, unstable.InlineTable)
			v.table = d.newTable(v.node, part.offset)
			t = v.table
		case last && array && v.kind == unstable.Array:
			return v.appendTable(part.offset)
		case v.kind == unstable.InlineTable && !(last && array):
			t = v.table
		case v.kind == unstable.Array && !last && len(v.items) > 0 && v.items[len(v.items)-1].table != nil:
			t = v.items[len(v.items)-1].table
		default:
			d.twice(v, part.offset)
			return nil
		}
	}
	if t.opened {
		line, _ := d.position(t.offset)
		d.addAt(path[0].offset, t.parent.String(), fmt.Sprintf("this table begins twice, first in line %d; put its keys together", line))
	}
	t.opened = true
	return t
}

func (d *Document) twice(first *Value, offset int) {
	line, _ := d.position(first.keyOffset)
	d.addAt(offset, first.node.String(), fmt.Sprintf("is set twice, first in line %d", line))
}

func (t *Table) set(part keyPart, offset int, kind unstable.Kind) *Value {
	v := &Value{doc: t.doc, node: &node{t.parent, part.name, -1}, keyOffset: part.offset, offset: offset, kind: kind}
	t.entries[part.name] = v
	t.names = append(t.names, part.name)
	return v
}

func (v *Value) appendTable(offset int) *Table {
	n := &node{v.node, "", len(v.items)}
	t := v.doc.newTable(n, offset)
	t.opened = true
	v.items = append(v.items, &Value{
		doc: v.doc, node: n, keyOffset: offset, offset: offset, kind: unstable.InlineTable, table: t,
	})
	return t
}

// keyValue puts `key = value` into t. A key that is there already is a problem, but the rest of the document is still
// read.
func (d *Document) keyValue(t *Table, e *unstable.Node, depth int) bool {
	path, ok := d.path(e)
	if !ok {
		return false
	}
	for _, part := range path[:len(path)-1] {
		v := t.entries[part.name]
		if v == nil {
			v = t.set(part, part.offset, unstable.InlineTable)
			v.table = d.newTable(v.node, part.offset)
		}
		if v.table == nil {
			d.twice(v, part.offset)
			return true
		}
		t = v.table
	}
	last := path[len(path)-1]
	if first := t.entries[last.name]; first != nil {
		d.twice(first, last.offset)
		return true
	}
	v := t.set(last, d.valueOffset(last.end), e.Value().Kind)
	return d.fill(v, e.Value(), depth)
}

// valueOffset gives where the value of a key begins that ends at keyEnd: go-toml keeps no position for arrays.
func (d *Document) valueOffset(keyEnd int) int {
	for i, c := range d.data[keyEnd:] {
		if c != ' ' && c != '\t' && c != '=' {
			return keyEnd + i
		}
	}
	return keyEnd
}

// fill reads the value n into v.
func (d *Document) fill(v *Value, n *unstable.Node, depth int) bool {
	if n.Raw.Length > 0 {
		v.offset = int(n.Raw.Offset)
	}
	if depth >= maxNesting {
		d.addAt(v.offset, "", fmt.Sprintf("more than %d arrays and tables inside each other are refused", maxNesting))
		return false
	}
	switch n.Kind {
	case unstable.Array:
		for it := n.Children(); it.Next(); {
			c := it.Node()
			item := &Value{
				doc: d, node: &node{v.node, "", len(v.items)}, keyOffset: v.offset, offset: v.offset, kind: c.Kind,
			}
			v.items = append(v.items, item)
			if !d.fill(item, c, depth+1) {
				return false
			}
		}
	case unstable.InlineTable:
		v.table = d.newTable(v.node, v.offset)
		for it := n.Children(); it.Next(); {
			if !d.keyValue(v.table, it.Node(), depth+1) {
				return false
			}
		}
	default:
		v.text = string(n.Data)
	}
	return true
}
