// Package report holds the results of the benchmarks as data, and writes them for people: a page in Markdown with plots. Whatever the
// page says of a figure, met targets included, is computed from the data.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench/plot"
	"github.com/gatewarden/gatewarden/integration/bench/sample"
)

// Version is that of the JSON.
const Version = 1

// Results are those of one or more runs of the benchmarks on one machine.
type Results struct {
	Version int      `json:"version"`
	Machine Machine  `json:"machine"`
	Figures []Figure `json:"figures"`
}

// Machine is what the figures were measured on, and with.
type Machine struct {
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"` // that may be used
	Memory   int64   `json:"memory"`
	Kernel   string  `json:"kernel"`
	Cgroup   string  `json:"cgroup"`
	Virtual  bool    `json:"virtual"` // a virtual machine, as the CPU says
	System   string  `json:"system"`
	Programs []Value `json:"programs"` // their versions
	Commit   string  `json:"commit"`
}

// Value is something with a name: a number with a unit, or a text.
type Value struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
	Text  string  `json:"text,omitempty"` // instead of the number
}

func (v Value) String() string {
	switch {
	case v.Text != "":
		return v.Text
	case v.Unit != "":
		return plot.Number(v.Value) + " " + v.Unit
	}
	return plot.Number(v.Value)
}

// Figure is one thing that was measured, of several subjects in turn.
type Figure struct {
	Name    string    `json:"name"` // a word
	Title   string    `json:"title"`
	Unit    string    `json:"unit"`
	How     string    `json:"how"` // how it was measured, in Markdown
	Plot    Plot      `json:"plot"`
	Axis    string    `json:"axis"`             // what the plot shows
	X       string    `json:"x,omitempty"`      // of curves: what varies
	Base    string    `json:"base,omitempty"`   // the row that the others are compared with
	Rows    []Row     `json:"rows,omitempty"`   // of one value per subject
	Curves  []Curve   `json:"curves,omitempty"` // of several
	Targets []Target  `json:"targets,omitempty"`
	Runs    int       `json:"runs"`
	Begin   time.Time `json:"begin"`
	Seconds float64   `json:"seconds"`
	Load    float64   `json:"load"` // the machine's load average (1 minute) when it began
	Commit  string    `json:"commit"`
}

// Plot tells how a figure is drawn.
type Plot string

// The plots.
const (
	Dots  Plot = "dots"
	Bars  Plot = "bars" // of Values whose unit is the figure's
	Lines Plot = "lines"
	None  Plot = ""
)

// Row is what was measured of one subject.
type Row struct {
	Name    string        `json:"name"`
	Kind    plot.Kind     `json:"kind"`
	Samples sample.Sample `json:"samples,omitempty"`
	Values  []Value       `json:"values,omitempty"`
	Missing string        `json:"missing,omitempty"` // why there is nothing
}

// Curve is what was measured of one subject at several places.
type Curve struct {
	Name    string    `json:"name"`
	Kind    plot.Kind `json:"kind"`
	Points  []Point   `json:"points,omitempty"`
	Missing string    `json:"missing,omitempty"`
}

// Point is one of a curve.
type Point struct {
	X       float64       `json:"x"`
	Samples sample.Sample `json:"samples"`
}

// Bound tells how a measured value is compared with a limit.
type Bound string

// The bounds.
const (
	AtMost  Bound = "≤"
	Below   Bound = "<"
	AtLeast Bound = "≥"
)

func (b Bound) holds(v, limit float64) bool {
	switch b {
	case AtMost:
		return v <= limit
	case Below:
		return v < limit
	case AtLeast:
		return v >= limit
	}
	return false
}

// Target is a bound for a measured value.
type Target struct {
	What     string   `json:"what"`
	Against  string   `json:"against,omitempty"`
	Bound    Bound    `json:"bound"`
	Limit    float64  `json:"limit"`
	Goal     *float64 `json:"goal,omitempty"` // better than the limit
	Unit     string   `json:"unit"`
	Measured *float64 `json:"measured"` // null: could not be measured
}

// Met tells whether the target is met. What was not measured is not.
func (t Target) Met() bool { return t.Measured != nil && t.Bound.holds(*t.Measured, t.Limit) }

// GoalMet tells whether the goal, if there is one, is met too.
func (t Target) GoalMet() bool {
	return t.Goal != nil && t.Measured != nil && t.Bound.holds(*t.Measured, *t.Goal)
}

// Row gives the row of that name, or nil.
func (f *Figure) Row(name string) *Row {
	for i := range f.Rows {
		if f.Rows[i].Name == name {
			return &f.Rows[i]
		}
	}
	return nil
}

// Value gives a row's value of that name.
func (r *Row) Value(name string) (float64, bool) {
	if r == nil {
		return 0, false
	}
	for _, v := range r.Values {
		if v.Name == name {
			return v.Value, true
		}
	}
	return 0, false
}

// Merge replaces the figures of r by those of other with the same names, and adds those that r has not.
func (r *Results) Merge(other Results) {
	for _, f := range other.Figures {
		at := slices.IndexFunc(r.Figures, func(old Figure) bool { return old.Name == f.Name })
		if at < 0 {
			r.Figures = append(r.Figures, f)
		} else {
			r.Figures[at] = f
		}
	}
	r.Version, r.Machine = other.Version, other.Machine
}

// The files of a report in its directory.
const (
	jsonFile = "benchmarks.json"
	pageFile = "benchmarks.md"
	plotDir  = "benchmarks"
	// notesFile is written by hand and becomes the end of the page.
	notesFile = "benchmarks/notes.md"
)

// Read reads the results that Write wrote to dir.
func Read(dir string) (Results, error) {
	path := filepath.Join(dir, jsonFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return Results{}, err
	}
	var r Results
	if err := json.Unmarshal(data, &r); err != nil {
		return Results{}, fmt.Errorf("%s: %w", path, err)
	}
	if r.Version != Version {
		return Results{}, fmt.Errorf("%s has version %d, and this program knows %d: measure anew", path, r.Version, Version)
	}
	return r, nil
}

// Write writes the JSON, the page and the plots to dir, and returns their paths.
func (r Results) Write(dir string) ([]string, error) {
	if err := os.MkdirAll(filepath.Join(dir, plotDir), 0o755); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, err
	}
	notes, err := os.ReadFile(filepath.Join(dir, notesFile))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	page, plots := r.Page(string(notes))
	files := map[string]string{jsonFile: string(data) + "\n", pageFile: page}
	for name, svg := range plots {
		files[filepath.Join(plotDir, name)] = svg
	}
	var written []string
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, err
		}
		written = append(written, path)
	}
	slices.Sort(written)
	return written, nil
}
