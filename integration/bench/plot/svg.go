// Package plot draws measurements as SVG: dots on a line per row, stacked bars, and curves. A plot brings its own background, so
// it can be read on light and on dark pages, and follows the reader's colour scheme.
package plot

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// Kind tells in which colour something is drawn.
type Kind string

// The kinds.
const (
	Floor Kind = "floor" // the least that it can cost
	Ours  Kind = "ours"
	Peer  Kind = "peer"
)

// Sizes in pixels.
const (
	width     = 860
	margin    = 16
	titleSize = 15
	rowHeight = 28
	labelSize = 290 // room for the labels of rows
	valueSize = 110 // room for the values at the end of rows
	axisSize  = 56  // room for ticks and the axis's title
	headSize  = 58  // room for the title and the labels of marks
)

// style has the colours for light pages, then those for dark ones. Text keeps a contrast of at least 4.5 to the background.
const style = `<style>
text{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:600}.soft{fill:#59636e;font-size:12px}
.bg{fill:#fff;stroke:#d0d7de}.grid{stroke:#d8dee4}.mark{stroke:#cf222e;stroke-dasharray:4 3}.marktext{fill:#cf222e;font-size:12px}
.floor{fill:#57606a;stroke:#57606a}.ours{fill:#0969da;stroke:#0969da}.peer{fill:#bc4c00;stroke:#bc4c00}.faint{opacity:.45}
.c0{fill:#0969da;stroke:#0969da}.c1{fill:#bc4c00;stroke:#bc4c00}.c2{fill:#1a7f37;stroke:#1a7f37}.c3{fill:#8250df;stroke:#8250df}
.c4{fill:#57606a;stroke:#57606a}.c5{fill:#bf3989;stroke:#bf3989}.line{fill:none;stroke-width:2}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9198a1}.bg{fill:#0d1117;stroke:#3d444d}.grid{stroke:#2a313c}
.mark{stroke:#ff7b72}.marktext{fill:#ff7b72}.floor{fill:#9198a1;stroke:#9198a1}.ours{fill:#58a6ff;stroke:#58a6ff}
.peer{fill:#f0883e;stroke:#f0883e}.c0{fill:#58a6ff;stroke:#58a6ff}.c1{fill:#f0883e;stroke:#f0883e}.c2{fill:#3fb950;stroke:#3fb950}
.c3{fill:#bc8cff;stroke:#bc8cff}.c4{fill:#9198a1;stroke:#9198a1}.c5{fill:#f778ba;stroke:#f778ba}.line{fill:none}}
</style>
`

// canvas collects the elements of one plot.
type canvas struct {
	b      strings.Builder
	height int
}

// newCanvas begins a plot with its title, which is its description for those who can't see it too.
func newCanvas(title string, height int) *canvas {
	c := &canvas{height: height}
	fmt.Fprintf(&c.b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n",
		width, height, width, height, html.EscapeString(title))
	c.b.WriteString(style)
	fmt.Fprintf(&c.b, `<rect class="bg" x="0.5" y="0.5" width="%d" height="%d" rx="6"/>`+"\n", width-1, height-1)
	c.text(margin, margin+titleSize, "start", "title", title)
	return c
}

func (c *canvas) text(x, y float64, anchor, class, s string) {
	fmt.Fprintf(&c.b, `<text x="%s" y="%s" text-anchor="%s" class="%s">%s</text>`+"\n", num(x), num(y), anchor, class, html.EscapeString(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&c.b, `<line x1="%s" y1="%s" x2="%s" y2="%s" class="%s"/>`+"\n", num(x1), num(y1), num(x2), num(y2), class)
}

func (c *canvas) dot(x, y, r float64, class string) {
	fmt.Fprintf(&c.b, `<circle cx="%s" cy="%s" r="%s" class="%s"/>`+"\n", num(x), num(y), num(r), class)
}

func (c *canvas) rect(x, y, w, h float64, class string) {
	fmt.Fprintf(&c.b, `<rect x="%s" y="%s" width="%s" height="%s" class="%s"/>`+"\n", num(x), num(y), num(w), num(h), class)
}

// marker draws the shape of a series, so that curves can be told apart without their colours.
func (c *canvas) marker(series int, x, y float64) {
	class := fmt.Sprintf("c%d", series%colours)
	switch series % 4 {
	case 0:
		c.dot(x, y, 4, class)
	case 1:
		c.rect(x-4, y-4, 8, 8, class)
	case 2:
		fmt.Fprintf(&c.b, `<path d="M%s %s l5 9 h-10 z" class="%s"/>`+"\n", num(x), num(y-5), class)
	case 3:
		fmt.Fprintf(&c.b, `<path d="M%s %s l5 5 l-5 5 l-5 -5 z" class="%s"/>`+"\n", num(x), num(y-5), class)
	}
}

// colours is how many classes of series there are.
const colours = 6

func (c *canvas) svg() string { return c.b.String() + "</svg>\n" }

// num writes a coordinate: a tenth of a pixel is enough.
func num(f float64) string {
	return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64)
}

// Number writes a value for people: three significant digits at least, no exponent, thousands set apart.
func Number(v float64) string {
	digits := 0
	switch a := math.Abs(v); {
	case a == 0 || a >= 100 || a == math.Trunc(a):
	case a >= 10:
		digits = 1
	case a >= 0.1:
		digits = 2
	default:
		digits = 3
	}
	s := strconv.FormatFloat(v, 'f', digits, 64)
	whole, fraction, _ := strings.Cut(s, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for at := len(whole) - 3; at > 0; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	return sign + whole
}
