package plot

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/bench/sample"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(got)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not XML: %v\n%s", err, got)
		}
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s; look at it, and run go test -update if it is right:\n%s", path, got)
	}
}

func TestDotsAreDrawn(t *testing.T) {
	golden(t, "dots.svg", Dots{
		Title: "Restart asked → first answer <&>", Axis: "milliseconds", Unit: "ms",
		Rows: []DotRow{
			{"the floor", Floor, sample.Sample{10.1, 11, 9.5}},
			{"gatewarden, \"inherit\"", Ours, sample.Sample{12, 12.5, 30}},
			{"not measured", Ours, nil},
			{"s6-svc -r", Peer, sample.Sample{1029, 1030, 1031}},
		},
		Marks: []Mark{{"1.3 × the floor", 13.1}},
	}.SVG())
}

func TestBarsAreDrawn(t *testing.T) {
	golden(t, "bars.svg", Bars{
		Title: "Memory", Axis: "kB per container", Unit: "kB",
		Rows: []BarRow{
			{"warden and standby", Ours, []Part{{"private", 2500}, {"shared", 700}}},
			{"conmon", Peer, []Part{{"private", 300}, {"shared", 120}}},
		},
		Marks: []Mark{{"target", 3072}},
	}.SVG())
}

func TestCurvesAreDrawn(t *testing.T) {
	golden(t, "curves.svg", Curves{
		Title: "Cost of a restart", X: "containers", Y: "milliseconds",
		Curves: []Curve{
			{"restart", []Point{{1, sample.Sample{20, 21, 22}}, {10, sample.Sample{21, 22, 23}}, {200, sample.Sample{30, 40, 35}}}},
			{"start", []Point{{1, sample.Sample{120}}, {10, sample.Sample{125}}, {200, sample.Sample{160}}}},
		},
	}.SVG())
}

func TestAPlotOfNothingIsEmptyAndNoPanic(t *testing.T) {
	for _, svg := range []string{Dots{Title: "x"}.SVG(), Bars{Title: "x"}.SVG(), Curves{Title: "x"}.SVG()} {
		if !strings.HasSuffix(svg, "</svg>\n") {
			t.Errorf("not a whole plot:\n%s", svg)
		}
	}
}

func TestTicksAreRoundNumbersAroundTheValues(t *testing.T) {
	for _, c := range []struct {
		axis axis
		want []float64
	}{
		{linear(97, 0, 1), []float64{0, 20, 40, 60, 80, 100}},
		{linear(100, 0, 1), []float64{0, 20, 40, 60, 80, 100}},
		{linear(0.3, 0, 1), []float64{0, 0.1, 0.2, 0.3}},
		{linear(0, 0, 1), []float64{0, 0.2, 0.4, 0.6, 0.8, 1}},
		{logarithmic(9.5, 31, 0, 1), []float64{5, 10, 20, 50}},
		{logarithmic(10, 1000, 0, 1), []float64{10, 20, 50, 100, 200, 500, 1000}},
		{logarithmic(1, 200, 0, 1), []float64{1, 2, 5, 10, 20, 50, 100, 200}},
		{logarithmic(3, 3, 0, 1), []float64{2, 5}},
		{logarithmic(5, 5, 0, 1), []float64{5, 10}},
		{logarithmic(0.04, 0.06, 0, 1), []float64{0.02, 0.05, 0.1}},
	} {
		if !slices.Equal(c.axis.ticks, c.want) {
			t.Errorf("%v, want %v", c.axis.ticks, c.want)
		}
	}
}

func TestPlacesAreInProportion(t *testing.T) {
	if got := linear(100, 200, 300).place(50); got != 250 {
		t.Errorf("the middle of a linear axis is at %v", got)
	}
	if got := logarithmic(1, 100, 200, 300).place(10); got != 250 {
		t.Errorf("the middle of a logarithmic axis is at %v", got)
	}
	if got := linear(100, 300, 200).place(100); got != 200 {
		t.Errorf("the top of an axis that goes up is at %v", got)
	}
}

func TestNumbersAreWrittenForPeople(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1", 0.05: "0.050", 0.5: "0.50", 9.876: "9.88", 12.34: "12.3", 123.4: "123", 1234: "1,234", 1234567: "1,234,567", -1500: "-1,500", 3072: "3,072",
	} {
		if got := Number(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
}
