package bench

import (
	"slices"
	"testing"

	"github.com/gatewarden/gatewarden/integration/bench/plot"
	"github.com/gatewarden/gatewarden/integration/bench/report"
	"github.com/gatewarden/gatewarden/integration/bench/sample"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// figure has ours, missing ours, and two peers.
func figure() report.Figure {
	return report.Figure{Rows: []report.Row{
		{Name: "floor", Kind: plot.Floor, Samples: sample.Sample{10}},
		{Name: "ours", Kind: plot.Ours, Samples: sample.Sample{12, 13, 14}},
		{Name: "not built", Kind: plot.Ours, Missing: "not supported"},
		{Name: "slow", Kind: plot.Peer, Samples: sample.Sample{100}},
		{Name: "fast", Kind: plot.Peer, Samples: sample.Sample{26}},
		{Name: "absent", Kind: plot.Peer},
	}}
}

func TestARatioTargetComparesMedians(t *testing.T) {
	f := figure()
	if got := ratioTarget(&f, "ours", "floor", 1.3, number(1.1)); got.Measured == nil || *got.Measured != 1.3 || !got.Met() || got.GoalMet() {
		t.Errorf("%+v", got)
	}
	for _, names := range [][2]string{{"not built", "floor"}, {"ours", "absent"}, {"nobody", "floor"}} {
		if got := ratioTarget(&f, names[0], names[1], 1.3, nil); got.Measured != nil || got.Met() {
			t.Errorf("%v: %+v", names, got)
		}
	}
}

func TestTheFastestPeerIsTheOneToBeat(t *testing.T) {
	f := figure()
	got := fastestTarget(&f, "ours")
	if got.Against != "the fastest peer (fast)" || got.Measured == nil || *got.Measured != 0.5 || !got.Met() {
		t.Errorf("%+v", got)
	}
	f.Row("fast").Samples = sample.Sample{13}
	if got := fastestTarget(&f, "ours"); got.Met() {
		t.Errorf("as fast as a peer is faster: %+v", got)
	}
	f.Rows = f.Rows[:3]
	if got := fastestTarget(&f, "ours"); got.Measured != nil || got.Met() {
		t.Errorf("without peers: %+v", got)
	}
}

func TestACurveIsFlatByItsEnds(t *testing.T) {
	c := curve{}
	if got := c.flat(); got.Met() {
		t.Errorf("a curve without points: %+v", got)
	}
	c.add(1, sample.Sample{10})
	if got := c.flat(); got.Met() {
		t.Errorf("a curve of one point: %+v", got)
	}
	c.add(10, sample.Sample{40})
	c.add(200, sample.Sample{12})
	if got := c.flat(); got.Measured == nil || *got.Measured != 1.2 || !got.Met() {
		t.Errorf("%+v", got)
	}
	c.add(1000, sample.Sample{13})
	if got := c.flat(); got.Met() {
		t.Errorf("%+v", got)
	}
}

func TestStagesAreMediansOfReceipts(t *testing.T) {
	if got := stages(nil); got != nil {
		t.Errorf("of nothing: %v", got)
	}
	var receipts []receipt.Receipt
	for _, ms := range []float64{3, 1, 2} {
		receipts = append(receipts, receipt.Receipt{Millis: receipt.Millis{Stop: ms, Total: 10 * ms}})
	}
	row := report.Row{Values: stages(receipts)}
	for name, want := range map[string]float64{"stop": 2, "total": 20, "probe": 0} {
		if got, ok := row.Value(name); !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestRowsAreInTheOrderOfNames(t *testing.T) {
	f := figure()
	var got []string
	for _, r := range inOrder([]string{"fast", "slow", "absent", "not built", "ours", "floor"}, f.Rows...) {
		got = append(got, r.Name)
	}
	if want := []string{"fast", "slow", "absent", "not built", "ours", "floor"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestEveryModeCanBeMeasured(t *testing.T) {
	for _, mode := range modes {
		if err := unsupported(mode); err != nil {
			t.Error(err)
		}
	}
}

func TestAFieldIsFoundByItsWholeName(t *testing.T) {
	text := "Pss:   10 kB\nPss_Dirty:  3 kB\nnonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t5\n"
	for name, want := range map[string]string{"Pss": "10 kB", "Pss_Dirty": "3 kB", "voluntary_ctxt_switches": "5", "none": ""} {
		if got := field(text, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
