package exposition

import (
	"bytes"
	"math"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// read is Prometheus's own parser.
func read(t testing.TB, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return all
}

func TestPrometheusReadsWhatWasWritten(t *testing.T) {
	var x Text
	x.Family("up", Gauge, "Whether it is up,\nand \\ or not.")
	x.Sample("up", 1, Label{"name", "web"}, Label{"of", "default"})
	x.Sample("up", 0)
	x.Family("things_total", Counter, "Things.")
	x.Sample("things_total", 12345678901, Label{"name", "web"})
	x.Sample("things_total", 0.25, Label{"name", "x"})
	all := read(t, x.Bytes())
	up := all["up"]
	if up.GetType() != dto.MetricType_GAUGE || up.GetHelp() != "Whether it is up,\nand \\ or not." || len(up.Metric) != 2 ||
		up.Metric[0].GetGauge().GetValue() != 1 || up.Metric[0].Label[1].GetValue() != "default" || len(up.Metric[1].Label) != 0 {
		t.Errorf("%v", up)
	}
	things := all["things_total"]
	if things.GetType() != dto.MetricType_COUNTER || things.Metric[0].GetCounter().GetValue() != 12345678901 || things.Metric[1].GetCounter().GetValue() != 0.25 {
		t.Errorf("%v", things)
	}
	if !strings.Contains(string(x.Bytes()), " 12345678901\n") {
		t.Errorf("a whole number has an exponent:\n%s", x.Bytes())
	}
}

func TestAHistogramsBucketsAddUp(t *testing.T) {
	for _, c := range []struct {
		buckets []uint64
		sum     float64
		want    []uint64 // cumulative, the last is the count
	}{
		{[]uint64{1, 0, 2, 3}, 9.5, []uint64{1, 1, 3, 6}},
		{nil, 0, []uint64{0, 0, 0, 0}},
	} {
		var x Text
		x.Family("d_seconds", Histogram, "Durations.")
		labels := append(make([]Label, 0, 8), Label{"name", "web"})
		x.Histogram("d_seconds", []float64{0.005, 1, 30}, c.buckets, c.sum, labels...)
		h := read(t, x.Bytes())["d_seconds"].Metric[0].GetHistogram()
		if h.GetSampleCount() != c.want[3] || h.GetSampleSum() != c.sum || len(h.Bucket) != 4 || h.Bucket[0].GetUpperBound() != 0.005 || !math.IsInf(h.Bucket[3].GetUpperBound(), 1) {
			t.Errorf("%v", h)
		}
		for i, b := range h.Bucket {
			if b.GetCumulativeCount() != c.want[i] {
				t.Errorf("bucket %v has %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), c.want[i])
			}
		}
	}
}

func FuzzLabel(f *testing.F) {
	for _, s := range []string{"", "web", `a"b`, "a\\nb\n", "\xff", "é\u2028", `\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var x Text
		x.Family("m", Gauge, s)
		x.Sample("m", 1, Label{"name", s}, Label{"more", "x"})
		m := read(t, x.Bytes())["m"]
		if len(m.GetMetric()) != 1 || len(m.Metric[0].Label) != 2 || m.Metric[0].Label[0].GetValue() != strings.ToValidUTF8(s, "\uFFFD") {
			t.Errorf("%q is read as %v", s, m)
		}
	})
}
