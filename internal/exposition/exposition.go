// Package exposition writes metrics in Prometheus's text format, version 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats/).
package exposition

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ContentType is the format's media type.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Kind is a metric's TYPE.
type Kind string

// The kinds that are used here.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// Label is one name and value of a sample.
type Label struct{ Name, Value string }

// Text is metrics as they are written. The zero value is empty.
type Text struct{ b bytes.Buffer }

// Grow makes room for n more bytes.
func (t *Text) Grow(n int) { t.b.Grow(n) }

// Bytes gives what was written so far.
func (t *Text) Bytes() []byte { return t.b.Bytes() }

// Family begins a metric. All of its samples have to follow before the next one begins.
func (t *Text) Family(name string, k Kind, help string) {
	t.b.WriteString("# HELP " + name + " " + strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(help) + "\n# TYPE " + name + " " + string(k) + "\n")
}

// Sample writes one value of the metric that was begun last.
func (t *Text) Sample(name string, value float64, labels ...Label) {
	t.b.WriteString(name)
	for i, l := range labels {
		if i == 0 {
			t.b.WriteByte('{')
		} else {
			t.b.WriteByte(',')
		}
		t.b.WriteString(l.Name + `="`)
		t.escape(l.Value)
		t.b.WriteByte('"')
	}
	if len(labels) > 0 {
		t.b.WriteByte('}')
	}
	t.b.WriteByte(' ')
	t.b.WriteString(number(value))
	t.b.WriteByte('\n')
}

// Histogram writes the samples of one histogram. Buckets has a count for each of bounds, and one more for what is above them
// all; a count is of what is in no bucket before.
func (t *Text) Histogram(name string, bounds []float64, buckets []uint64, sum float64, labels ...Label) {
	all := append(labels[:len(labels):len(labels)], Label{Name: "le"})
	total := uint64(0)
	for i := range len(bounds) + 1 {
		if i < len(buckets) {
			total += buckets[i]
		}
		all[len(labels)].Value = "+Inf"
		if i < len(bounds) {
			all[len(labels)].Value = number(bounds[i])
		}
		t.Sample(name+"_bucket", float64(total), all...)
	}
	t.Sample(name+"_sum", sum, labels...)
	t.Sample(name+"_count", float64(total), labels...)
}

// escape writes a label's value: what is not UTF-8 would make the whole text invalid.
func (t *Text) escape(s string) {
	if !strings.ContainsAny(s, "\\\"\n") && utf8.ValidString(s) {
		t.b.WriteString(s)
		return
	}
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch r {
		case '\\':
			t.b.WriteString(`\\`)
		case '"':
			t.b.WriteString(`\"`)
		case '\n':
			t.b.WriteString(`\n`)
		default:
			t.b.WriteRune(r)
		}
	}
}

// number writes whole numbers without an exponent, which PIDs and times would have else.
func number(v float64) string {
	if v == float64(int64(v)) {
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
