package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gatewarden/gatewarden/integration/bench/plot"
)

// Page gives the page in Markdown, with notes at its end, and the plots that it shows, by file name.
func (r Results) Page(notes string) (page string, plots map[string]string) {
	var b strings.Builder
	plots = map[string]string{}
	b.WriteString("# Benchmarks\n\nWritten by `make bench`; the numbers are in [benchmarks.json](benchmarks.json). All figures are medians, and what is " +
		"compared was measured\nin turn in the same run. A figure of a machine that does something else meanwhile says little: the load when each began is told.\n\n")
	b.WriteString("## Targets\n\n")
	r.targets(&b)
	b.WriteString("\n## The machine\n\n")
	r.Machine.table(&b)
	for _, f := range r.Figures {
		if svg, ok := f.svg(); ok {
			plots[f.Name+".svg"] = svg
		}
		f.section(&b)
	}
	if notes != "" {
		b.WriteString("\n" + strings.TrimSpace(notes) + "\n")
	}
	return b.String(), plots
}

// targets writes all targets in one table.
func (r Results) targets(b *strings.Builder) {
	b.WriteString("| figure | what | against | target | measured | met? |\n|---|---|---|---|---|---|\n")
	for _, f := range r.Figures {
		for _, t := range f.Targets {
			target := string(t.Bound) + " " + withUnit(t.Limit, t.Unit)
			if t.Goal != nil {
				target += ", goal " + withUnit(*t.Goal, t.Unit)
			}
			measured, met := "not measured", "–"
			if t.Measured != nil {
				measured, met = withUnit(*t.Measured, t.Unit), "**no**"
				if t.Met() {
					met = "yes"
				}
				switch {
				case t.GoalMet():
					met += ", the goal too"
				case t.Met() && t.Goal != nil:
					met += ", not the goal"
				}
			}
			fmt.Fprintf(b, "| [%s](#%s) | %s | %s | %s | %s | %s |\n", f.Name, anchor(f.Title), cell(t.What), cell(or(t.Against, "–")), target, measured, met)
		}
	}
}

func (m Machine) table(b *strings.Builder) {
	machine := m.CPU
	if m.Virtual {
		machine += " (a virtual machine)"
	}
	rows := []Value{
		{Name: "CPU", Text: machine},
		{Name: "cores", Value: float64(m.Cores)},
		{Name: "memory", Value: float64(m.Memory) / (1 << 30), Unit: "GiB"},
		{Name: "kernel", Text: m.Kernel},
		{Name: "cgroup", Text: m.Cgroup},
		{Name: "system", Text: m.System},
		{Name: "commit", Text: m.Commit},
	}
	b.WriteString("| | |\n|---|---|\n")
	for _, v := range append(rows, m.Programs...) {
		fmt.Fprintf(b, "| %s | %s |\n", cell(v.Name), cell(v.String()))
	}
}

// section writes one figure.
func (f Figure) section(b *strings.Builder) {
	fmt.Fprintf(b, "\n## %s\n\n", f.Title)
	if f.Plot != None {
		fmt.Fprintf(b, "![%s](benchmarks/%s.svg)\n\n", f.Title, f.Name)
	}
	if len(f.Rows) > 0 {
		f.table(b)
	}
	if len(f.Curves) > 0 {
		f.curves(b)
	}
	fmt.Fprintf(b, "\n%s\n\n%s; begun %s at commit %s, took %s s, load average before it %s.\n",
		strings.TrimSpace(f.How), count(f.Runs, "run"), f.Begin.UTC().Format("2006-01-02 15:04 UTC"), f.Commit, plot.Number(float64(int(f.Seconds+0.5))), plot.Number(f.Load))
	var missing []string
	for _, r := range f.Rows {
		if r.Missing != "" {
			missing = append(missing, r.Name+": "+r.Missing)
		}
	}
	for _, c := range f.Curves {
		if c.Missing != "" {
			missing = append(missing, c.Name+": "+c.Missing)
		}
	}
	if len(missing) > 0 {
		b.WriteString("\nNot measured:\n\n")
		for _, m := range missing {
			fmt.Fprintf(b, "- %s\n", strings.Join(strings.Fields(m), " "))
		}
	}
}

// table writes the rows: first what their samples say, then their values, each under its name.
func (f Figure) table(b *strings.Builder) {
	sampled := slices.ContainsFunc(f.Rows, func(r Row) bool { return len(r.Samples) > 0 })
	var values []Value
	for _, r := range f.Rows {
		for _, v := range r.Values {
			if !slices.ContainsFunc(values, func(have Value) bool { return have.Name == v.Name }) {
				values = append(values, v)
			}
		}
	}
	head := []string{""}
	if sampled {
		head = append(head, "median, "+f.Unit, "quartiles", "least–most", "n")
		if f.Base != "" {
			head = append(head, "of "+f.Base)
		}
	}
	for _, v := range values {
		name := v.Name
		if v.Unit != "" {
			name += ", " + v.Unit
		}
		head = append(head, name)
	}
	writeRow(b, head)
	b.WriteString("|---|" + strings.Repeat("---:|", len(head)-1) + "\n")
	base := f.Row(f.Base)
	for _, r := range f.Rows {
		name := r.Name
		if r.Kind == plot.Ours {
			name = "**" + name + "**"
		}
		cells := []string{name}
		if r.Missing != "" {
			cells = append(cells, "not measured")
			writeRow(b, append(cells, make([]string, len(head)-len(cells))...))
			continue
		}
		if s := r.Samples; sampled {
			cells = append(cells, plot.Number(s.Median()), plot.Number(s.Quantile(0.25))+"–"+plot.Number(s.Quantile(0.75)),
				plot.Number(s.Min())+"–"+plot.Number(s.Max()), fmt.Sprint(len(s)))
			if f.Base != "" {
				ratio := ""
				if base != nil {
					if x, ok := s.Ratio(base.Samples); ok {
						ratio = times(x)
					}
				}
				cells = append(cells, ratio)
			}
		}
		for _, column := range values {
			text := ""
			for _, v := range r.Values {
				if v.Name == column.Name {
					text = Value{Value: v.Value, Text: v.Text}.String()
				}
			}
			cells = append(cells, text)
		}
		writeRow(b, cells)
	}
}

// curves writes the medians of all curves, a column for each.
func (f Figure) curves(b *strings.Builder) {
	var xs []float64
	head := []string{f.X}
	for _, c := range f.Curves {
		head = append(head, c.Name)
		for _, p := range c.Points {
			if !slices.Contains(xs, p.X) {
				xs = append(xs, p.X)
			}
		}
	}
	slices.Sort(xs)
	writeRow(b, head)
	b.WriteString("|---:|" + strings.Repeat("---:|", len(f.Curves)) + "\n")
	for _, x := range xs {
		cells := []string{plot.Number(x)}
		for _, c := range f.Curves {
			text := ""
			for _, p := range c.Points {
				if p.X == x {
					text = withUnit(p.Samples.Median(), f.Unit)
				}
			}
			cells = append(cells, text)
		}
		writeRow(b, cells)
	}
}

// svg draws the figure.
func (f Figure) svg() (string, bool) {
	var marks []plot.Mark
	switch f.Plot {
	case Dots:
		d := plot.Dots{Title: f.Title, Axis: f.Axis, Unit: f.Unit}
		for _, r := range f.Rows {
			d.Rows = append(d.Rows, plot.DotRow{Label: r.Name, Kind: r.Kind, Values: r.Samples})
		}
		// The strictest target against the base is drawn.
		if base := f.Row(f.Base); base != nil && len(base.Samples) > 0 {
			for _, t := range f.Targets {
				if t.Unit == Times && t.Against == f.Base {
					marks = append(marks, plot.Mark{Label: withUnit(t.Limit, t.Unit) + " " + f.Base, Value: t.Limit * base.Samples.Median()})
					break
				}
			}
		}
		d.Marks = marks
		return d.SVG(), true
	case Bars:
		d := plot.Bars{Title: f.Title, Axis: f.Axis, Unit: f.Unit}
		for _, r := range f.Rows {
			row := plot.BarRow{Label: r.Name, Kind: r.Kind}
			for _, v := range r.Values {
				if v.Unit == f.Unit {
					row.Parts = append(row.Parts, plot.Part{Label: v.Name, Value: v.Value})
				}
			}
			d.Rows = append(d.Rows, row)
		}
		for _, t := range f.Targets {
			if t.Unit == f.Unit {
				marks = append(marks, plot.Mark{Label: "target", Value: t.Limit})
				break
			}
		}
		d.Marks = marks
		return d.SVG(), true
	case Lines:
		d := plot.Curves{Title: f.Title, X: f.X, Y: f.Axis}
		for _, c := range f.Curves {
			curve := plot.Curve{Label: c.Name}
			for _, p := range c.Points {
				curve.Points = append(curve.Points, plot.Point{X: p.X, Values: p.Samples})
			}
			if len(curve.Points) > 0 {
				d.Curves = append(d.Curves, curve)
			}
		}
		return d.SVG(), true
	}
	return "", false
}

// Times is the unit of ratios.
const Times = "×"

func times(x float64) string { return fmt.Sprintf("%.2f %s", x, Times) }

func withUnit(v float64, unit string) string {
	switch unit {
	case Times:
		return times(v)
	case "":
		return plot.Number(v)
	}
	return plot.Number(v) + " " + unit
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// cell makes a text fit for a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

func writeRow(b *strings.Builder, cells []string) {
	for _, c := range cells {
		b.WriteString("| " + cell(c) + " ")
	}
	b.WriteString("|\n")
}

// anchor is the name that GitHub gives to a heading: lower case, without punctuation, spaces as hyphens.
func anchor(title string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(title) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		}
	}
	return b.String()
}
