package plot

import "github.com/gatewarden/gatewarden/integration/bench/sample"

// Mark is a line across a plot, such as a target.
type Mark struct {
	Label string
	Value float64
}

// DotRow is one row of dots.
type DotRow struct {
	Label  string
	Kind   Kind
	Values sample.Sample
}

// Dots is a plot of each measurement as a dot, with a line at the median, on a logarithmic axis: so that ratios are distances.
type Dots struct {
	Title string
	Axis  string // what is measured, and its unit
	Unit  string
	Rows  []DotRow
	Marks []Mark
}

// SVG draws it. Rows without values are left out.
func (d Dots) SVG() string {
	var rows []DotRow
	var all sample.Sample
	for _, r := range d.Rows {
		if len(r.Values) > 0 && r.Values.Min() > 0 {
			rows = append(rows, r)
			all = append(all, r.Values...)
		}
	}
	bottom := float64(headSize + rowHeight*len(rows))
	c := newCanvas(d.Title, int(bottom)+axisSize)
	if len(rows) == 0 {
		return c.svg()
	}
	for _, m := range d.Marks {
		all = append(all, m.Value)
	}
	x := logarithmic(all.Min(), all.Max(), margin+labelSize, width-margin-valueSize)
	c.xAxis(x, headSize, bottom, d.Axis+" (logarithmic)")
	c.marks(x, d.Marks, bottom)
	for i, r := range rows {
		y := float64(headSize) + (float64(i)+0.5)*rowHeight
		c.text(margin, y+4, "start", "label", r.Label)
		for _, v := range r.Values {
			c.dot(x.place(v), y, 3.5, string(r.Kind)+" faint")
		}
		at := x.place(r.Values.Median())
		c.rect(at-1.5, y-9, 3, 18, string(r.Kind))
		c.text(width-margin, y+4, "end", "value", Number(r.Values.Median())+" "+d.Unit)
	}
	return c.svg()
}

// Part is one part of a stacked bar.
type Part struct {
	Label string
	Value float64
}

// BarRow is one stacked bar.
type BarRow struct {
	Label string
	Kind  Kind
	Parts []Part
}

// Bars is a plot of stacked bars on an axis that begins at 0. The first part is drawn full, the others fainter.
type Bars struct {
	Title string
	Axis  string
	Unit  string
	Rows  []BarRow
	Marks []Mark
}

// SVG draws it.
func (d Bars) SVG() string {
	bottom := float64(headSize + rowHeight*len(d.Rows))
	c := newCanvas(d.Title, int(bottom)+axisSize)
	most := 0.0
	for _, r := range d.Rows {
		sum := 0.0
		for _, p := range r.Parts {
			sum += p.Value
		}
		most = max(most, sum)
	}
	for _, m := range d.Marks {
		most = max(most, m.Value)
	}
	x := linear(most, margin+labelSize, width-margin-valueSize)
	title := d.Axis
	if len(d.Rows) > 0 && len(d.Rows[0].Parts) == 2 {
		title += "; full colour: " + d.Rows[0].Parts[0].Label + ", faint: " + d.Rows[0].Parts[1].Label
	}
	c.xAxis(x, headSize, bottom, title)
	for i, r := range d.Rows {
		y := float64(headSize) + (float64(i)+0.5)*rowHeight
		c.text(margin, y+4, "start", "label", r.Label)
		sum := 0.0
		for n, p := range r.Parts {
			class := string(r.Kind)
			if n > 0 {
				class += " faint"
			}
			c.rect(x.place(sum), y-9, x.place(sum+p.Value)-x.place(sum), 18, class)
			sum += p.Value
		}
		c.text(width-margin, y+4, "end", "value", Number(sum)+" "+d.Unit)
	}
	c.marks(x, d.Marks, bottom)
	return c.svg()
}

// xAxis draws a horizontal axis with its grid, from top to bottom.
func (c *canvas) xAxis(x axis, top, bottom float64, title string) {
	for _, t := range x.ticks {
		c.line(x.place(t), top, x.place(t), bottom, "grid")
		c.text(x.place(t), bottom+18, "middle", "soft", Number(t))
	}
	c.text((x.begin+x.end)/2, bottom+40, "middle", "soft", title)
}

func (c *canvas) marks(x axis, marks []Mark, bottom float64) {
	for _, m := range marks {
		c.line(x.place(m.Value), headSize-4, x.place(m.Value), bottom, "mark")
		c.text(x.place(m.Value), headSize-8, "middle", "marktext", m.Label)
	}
}
