package report

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/integration/bench/plot"
	"github.com/gatewarden/gatewarden/integration/bench/sample"
)

var update = flag.Bool("update", false, "write the golden files anew")

func number(v float64) *float64 { return &v }

// results have one of everything.
func results() Results {
	begin := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	return Results{
		Version: Version,
		Machine: Machine{CPU: "A | CPU", Cores: 2, Memory: 16 << 30, Kernel: "6.18", Cgroup: "v1", Virtual: true, System: "Debian 12", Commit: "abc",
			Programs: []Value{{Name: "runc", Text: "1.5.2"}}},
		Figures: []Figure{
			{Name: "restart", Title: "Restart asked → first answer", Unit: "ms", How: "By a client.", Plot: Dots, Axis: "milliseconds", Base: "floor",
				Runs: 5, Begin: begin, Seconds: 12.4, Load: 0.5, Commit: "abc",
				Rows: []Row{
					{Name: "floor", Kind: plot.Floor, Samples: sample.Sample{10, 11, 12}},
					{Name: "inherit", Kind: plot.Ours, Samples: sample.Sample{13, 14.3, 30}, Values: []Value{{Name: "stop", Value: 2, Unit: "ms"}}},
					{Name: "transparent", Kind: plot.Ours, Missing: "not\nsupported"},
				},
				Targets: []Target{
					{What: "inherit", Against: "floor", Bound: AtMost, Limit: 1.3, Goal: number(1.1), Unit: Times, Measured: number(1.3)},
					{What: "transparent", Against: "floor", Bound: AtMost, Limit: 1.6, Unit: Times},
					{What: "inherit", Against: "the fastest peer", Bound: Below, Limit: 1, Unit: Times, Measured: number(1)},
				}},
			{Name: "memory", Title: "Memory", Unit: "kB", How: "From smaps_rollup.", Plot: Bars, Axis: "kB per container", Runs: 1, Begin: begin, Commit: "abc",
				Rows:    []Row{{Name: "warden", Kind: plot.Ours, Values: []Value{{Name: "private", Value: 900, Unit: "kB"}, {Name: "shared", Value: 100, Unit: "kB"}, {Name: "processes", Value: 2}}}},
				Targets: []Target{{What: "warden", Bound: AtMost, Limit: 3000, Goal: number(1500), Unit: "kB", Measured: number(1000)}}},
			{Name: "fleet", Title: "Fleet", Unit: "ms", How: "Grown.", Plot: Lines, Axis: "milliseconds", X: "containers", Runs: 5, Begin: begin, Commit: "abc",
				Curves: []Curve{
					{Name: "restart", Kind: plot.Ours, Points: []Point{{1, sample.Sample{10}}, {200, sample.Sample{12}}}},
					{Name: "ps", Kind: plot.Ours, Points: []Point{{200, sample.Sample{50}}}},
				}},
		},
	}
}

func TestAReportIsWrittenAndReadBack(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, plotDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, notesFile), []byte("## Notes\n\nBy hand.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := results()
	written, err := r.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range written {
		names = append(names, strings.TrimPrefix(path, dir+"/"))
	}
	if got, want := strings.Join(names, " "), "benchmarks.json benchmarks.md benchmarks/fleet.svg benchmarks/memory.svg benchmarks/restart.svg"; got != want {
		t.Errorf("wrote %s, want %s", got, want)
	}
	back, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, r) {
		t.Errorf("read back %+v\nwant %+v", back, r)
	}
	page, err := os.ReadFile(filepath.Join(dir, pageFile))
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "page.md")
	if *update {
		if err := os.WriteFile(golden, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != string(want) {
		t.Errorf("the page differs from %s; look at it, and run go test -update if it is right:\n%s", golden, page)
	}
}

func TestATargetIsMetAtItsLimitAndAnUnmeasuredOneNever(t *testing.T) {
	for _, c := range []struct {
		name   string
		target Target
		met    bool
	}{
		{"under", Target{Bound: AtMost, Limit: 2, Measured: number(1)}, true},
		{"at", Target{Bound: AtMost, Limit: 2, Measured: number(2)}, true},
		{"over", Target{Bound: AtMost, Limit: 2, Measured: number(2.001)}, false},
		{"below, at", Target{Bound: Below, Limit: 2, Measured: number(2)}, false},
		{"zero", Target{Bound: AtMost, Limit: 0, Measured: number(0)}, true},
		{"at least, under", Target{Bound: AtLeast, Limit: 2, Measured: number(1)}, false},
		{"at least, over", Target{Bound: AtLeast, Limit: 2, Measured: number(3)}, true},
		{"no bound", Target{Limit: 2, Measured: number(1)}, false},
		{"not measured", Target{Bound: AtMost, Limit: 2}, false},
	} {
		if got := c.target.Met(); got != c.met {
			t.Errorf("%s: met is %v", c.name, got)
		}
	}
}

func TestMergeReplacesFiguresByName(t *testing.T) {
	r := results()
	r.Merge(Results{Version: Version, Machine: Machine{Commit: "new"}, Figures: []Figure{{Name: "memory", Title: "New"}, {Name: "idle"}}})
	var names []string
	for _, f := range r.Figures {
		names = append(names, f.Name+":"+f.Title)
	}
	if got, want := strings.Join(names, ", "), "restart:Restart asked → first answer, memory:New, fleet:Fleet, idle:"; got != want {
		t.Errorf("figures %s, want %s", got, want)
	}
	if r.Machine.Commit != "new" {
		t.Errorf("the machine is %+v", r.Machine)
	}
}

func TestResultsOfAnotherVersionAreRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, jsonFile), []byte(`{"version":99}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("got %v", err)
	}
}
