//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gatewarden/gatewarden/integration/bench"
	"github.com/gatewarden/gatewarden/integration/bench/report"
)

// testLog writes lines to a test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func TestTheBenchmarksMeasureWhatTheySayAndWriteTheirReport(t *testing.T) {
	figures := []string{"restart", "load", "start", "processes"}
	only := regexp.MustCompile("^(" + strings.Join(figures, "|") + ")$")
	r, err := bench.Run(t.Context(), host, bench.Options{Runs: 1, Short: true, Alone: true, Only: only, Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range r.Figures {
		names = append(names, f.Name)
		for _, row := range f.Rows {
			if measured := len(row.Samples) > 0 || len(row.Values) > 0; measured == (row.Missing != "") {
				t.Errorf("%s, %s: %d samples, %d values, and missing is %q", f.Name, row.Name, len(row.Samples), len(row.Values), row.Missing)
			}
			if row.Samples != nil && row.Samples.Min() <= 0 {
				t.Errorf("%s, %s took %v", f.Name, row.Name, row.Samples)
			}
		}
		for _, c := range f.Curves {
			if (len(c.Points) == 2) == (c.Missing != "") {
				t.Errorf("%s, %s: points %v, and missing is %q", f.Name, c.Name, c.Points, c.Missing)
			}
		}
	}
	if got, want := strings.Join(names, " "), strings.Join(figures, " "); got != want {
		t.Errorf("figures %s, want %s", got, want)
	}
	restart := r.Figures[0]
	floor, ours := restart.Row("floor"), restart.Row("gateway, control socket")
	if floor == nil || ours == nil || len(floor.Samples) == 0 || len(ours.Samples) == 0 {
		t.Fatalf("no floor, or no gateway: %+v", restart.Rows)
	}
	// What binds anew loses connections; that the count sees it is what the zero of the others rests on.
	lost := 0.0
	for _, count := range []string{"refused", "reset before accept"} {
		n, ok := r.Figures[1].Row("gateway, drains").Value(count)
		if !ok {
			t.Errorf("nothing counts as %s", count)
		}
		lost += n
	}
	if lost == 0 {
		t.Error("three restarts of a gateway that binds anew lost nothing")
	}

	dir := t.TempDir()
	written, err := r.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Figures {
		if !strings.Contains(string(page), "\n## "+f.Title+"\n") {
			t.Errorf("the page does not have %q", f.Title)
		}
		if svg := filepath.Join(dir, "benchmarks", f.Name+".svg"); f.Plot != report.None {
			if _, err := os.Stat(svg); err != nil {
				t.Errorf("%v; written were %v", err, written)
			}
		}
	}
}
