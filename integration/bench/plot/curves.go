package plot

import (
	"fmt"
	"strings"

	"github.com/gatewarden/gatewarden/integration/bench/sample"
)

// Point is what was measured at X.
type Point struct {
	X      float64
	Values sample.Sample
}

// Curve is a series of points, by rising X.
type Curve struct {
	Label  string
	Points []Point
}

// Curves is a plot of medians over X, both axes logarithmic: what does not grow with X is level, and ratios are distances.
type Curves struct {
	Title  string
	X, Y   string // what is on the axes, with units
	Curves []Curve
}

// plotHeight is the height of the area with the curves, and legendRow that of a line of the legend, of which each has legendColumns.
const (
	plotHeight    = 260
	legendRow     = 20
	legendColumns = 2
	yTickSize     = 64 // room for the ticks and the title of the Y axis
)

// SVG draws it. The whiskers go from the first to the third quartile.
func (d Curves) SVG() string {
	var xs, all sample.Sample
	for _, curve := range d.Curves {
		for _, p := range curve.Points {
			if p.X > 0 && p.Values.Min() > 0 {
				xs = append(xs, p.X)
				all = append(all, p.Values.Quantile(0.25), p.Values.Quantile(0.75))
			}
		}
	}
	legend := (len(d.Curves) + legendColumns - 1) / legendColumns * legendRow
	top := float64(headSize + legend)
	bottom := top + plotHeight
	c := newCanvas(d.Title, int(bottom)+axisSize)
	if len(xs) == 0 {
		return c.svg()
	}
	for i, curve := range d.Curves {
		x := float64(margin + 8 + i%legendColumns*(width-2*margin)/legendColumns)
		y := float64(headSize+i/legendColumns*legendRow) + 4
		c.marker(i, x, y)
		c.text(x+14, y+4, "start", "label", curve.Label)
	}
	x := logarithmic(xs.Min(), xs.Max(), margin+yTickSize, width-2*margin)
	y := logarithmic(all.Min(), all.Max(), bottom, top+8)
	c.xAxis(x, top+8, bottom, d.X+" (logarithmic)")
	for _, t := range y.ticks {
		c.line(x.begin, y.place(t), x.end, y.place(t), "grid")
		c.text(x.begin-8, y.place(t)+4, "end", "soft", Number(t))
	}
	fmt.Fprintf(&c.b, `<g transform="rotate(-90 %d %s)">`, margin+4, num((top+bottom)/2))
	c.text(margin+4, (top+bottom)/2, "middle", "soft", d.Y+" (logarithmic)")
	c.b.WriteString("</g>\n")
	for i, curve := range d.Curves {
		var path strings.Builder
		for n, p := range curve.Points {
			command := "L"
			if n == 0 {
				command = "M"
			}
			fmt.Fprintf(&path, "%s%s %s ", command, num(x.place(p.X)), num(y.place(p.Values.Median())))
		}
		fmt.Fprintf(&c.b, `<path d="%s" class="c%d line" style="fill:none"/>`+"\n", strings.TrimSpace(path.String()), i%colours)
		for _, p := range curve.Points {
			c.line(x.place(p.X), y.place(p.Values.Quantile(0.25)), x.place(p.X), y.place(p.Values.Quantile(0.75)), fmt.Sprintf("c%d faint", i%colours))
			c.marker(i, x.place(p.X), y.place(p.Values.Median()))
		}
	}
	return c.svg()
}
