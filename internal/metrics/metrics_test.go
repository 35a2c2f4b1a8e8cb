package metrics

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/gatewarden/gatewarden/internal/counters"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

func parsed(t *testing.T, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return all
}

// value gives the sample with these labels, NAME=VALUE, besides those that name the container, and whether it is there.
func value(f *dto.MetricFamily, container string, labels ...string) (float64, bool) {
	for _, m := range f.GetMetric() {
		var rest []string
		of := ""
		for _, l := range m.Label {
			switch l.GetName() {
			case "namespace", "gateway":
			case "container":
				of = l.GetValue()
			default:
				rest = append(rest, l.GetName()+"="+l.GetValue())
			}
		}
		if of == container && slices.Equal(rest, labels) {
			if m.Counter != nil {
				return m.Counter.GetValue(), true
			}
			return m.GetGauge().GetValue(), true
		}
	}
	return 0, false
}

var checked = time.Date(2026, 11, 25, 12, 0, 0, 250e6, time.UTC)

// all is a container whose gateway runs, one whose gateway has failed, one whose warden is lost, and one whose counters are not
// known.
func all() []Container {
	yes, no := true, false
	status := func(id string) *receipt.Status {
		return &receipt.Status{Container: receipt.Container{Namespace: "default", ID: id}, Gateway: "demo", Warden: receipt.Warden{PID: 1, Version: "1.0"}}
	}
	well, failed, lost := status("well"), status("failed"), status("lost")
	well.State, well.Since, well.Healthy, well.Checked, well.Generation, well.Standby.PID = receipt.Running, checked.Add(-time.Hour), &yes, &checked, 7, 9
	well.Rejected, well.Unlocked = &receipt.Rejected{Generation: 8}, &receipt.Unlocked{Until: checked}
	well.Forwards = []receipt.Forward{{Name: "web", Address: "127.0.0.1:8080", OK: &yes}, {Name: "old", Address: "127.0.0.1:8081", OK: &no}, {Name: "odd", Address: "127.0.0.1:8082"}}
	failed.State, failed.Healthy = receipt.FailedSt, &no
	lost.State = receipt.FailedSt // what the command says for want of knowledge
	var sums counters.Counters
	sums.Observe(&receipt.Receipt{Action: receipt.Start, Outcome: receipt.Replaced})
	sums.Observe(&receipt.Receipt{Action: receipt.Restart, Outcome: receipt.Replaced, Old: &receipt.Old{}, New: &receipt.New{}, Millis: receipt.Millis{Unavailable: 7}})
	sums.Observe(&receipt.Receipt{Action: "reload", Outcome: "half"})
	return []Container{
		{Status: well, Counters: &sums, Memory: &Memory{Resident: 8 << 20, Proportional: 3 << 20}},
		{Status: failed, Counters: &counters.Counters{}, Memory: &Memory{Resident: 1 << 20}},
		{Status: lost, Lost: true, Counters: &sums},
		{Status: status("other")}, // its memo is another release's
	}
}

func TestEachContainerIsToldAsItIs(t *testing.T) {
	got := parsed(t, Text("1.0", all()))
	for _, c := range []struct {
		container, name string
		labels          []string
		want            float64 // -1: no sample
	}{
		{"well", "gatewarden_warden_up", nil, 1},
		{"failed", "gatewarden_warden_up", nil, 1},
		{"lost", "gatewarden_warden_up", nil, 0},
		{"well", "gatewarden_warden_info", []string{"version=1.0"}, 1},
		{"lost", "gatewarden_warden_info", []string{"version=1.0"}, -1},
		{"well", "gatewarden_warden_resident_memory_bytes", nil, 8 << 20},
		{"well", "gatewarden_warden_proportional_memory_bytes", nil, 3 << 20},
		{"failed", "gatewarden_warden_proportional_memory_bytes", nil, -1}, // it could not be read
		{"lost", "gatewarden_warden_resident_memory_bytes", nil, -1},
		{"well", "gatewarden_gateway_up", nil, 1},
		{"failed", "gatewarden_gateway_up", nil, 0},
		{"lost", "gatewarden_gateway_up", nil, -1}, // it may serve
		{"well", "gatewarden_gateway_state", []string{"state=running"}, 1},
		{"well", "gatewarden_gateway_state", []string{"state=failed"}, 0},
		{"failed", "gatewarden_gateway_state", []string{"state=failed"}, 1},
		{"lost", "gatewarden_gateway_state", []string{"state=failed"}, -1},
		{"well", "gatewarden_gateway_state_entered_timestamp_seconds", nil, float64(checked.Unix()) - 3600 + 0.25},
		{"well", "gatewarden_gateway_healthy", nil, 1},
		{"failed", "gatewarden_gateway_healthy", nil, 0},
		{"lost", "gatewarden_gateway_healthy", nil, -1},
		{"well", "gatewarden_gateway_health_checked_timestamp_seconds", nil, float64(checked.Unix()) + 0.25},
		{"failed", "gatewarden_gateway_health_checked_timestamp_seconds", nil, -1},
		{"well", "gatewarden_generation", nil, 7},
		{"well", "gatewarden_rejected_generation", nil, 8},
		{"failed", "gatewarden_rejected_generation", nil, 0},
		{"well", "gatewarden_unlocked_until_timestamp_seconds", nil, float64(checked.Unix()) + 0.25},
		{"failed", "gatewarden_unlocked_until_timestamp_seconds", nil, -1},
		{"well", "gatewarden_standby_present", nil, 1},
		{"failed", "gatewarden_standby_present", nil, 0},
		{"well", "gatewarden_forward_up", []string{"forward=web", "address=127.0.0.1:8080"}, 1},
		{"well", "gatewarden_forward_up", []string{"forward=old", "address=127.0.0.1:8081"}, 0},
		{"well", "gatewarden_forward_up", []string{"forward=odd", "address=127.0.0.1:8082"}, -1},
		{"well", "gatewarden_actions_total", []string{"action=restart", "outcome=replaced"}, 1},
		{"well", "gatewarden_actions_total", []string{"action=apply", "outcome=rolled-back"}, 0},
		{"well", "gatewarden_actions_total", []string{"action=reload", "outcome=half"}, 1}, // of another release
		{"failed", "gatewarden_actions_total", []string{"action=restart", "outcome=replaced"}, 0},
		{"other", "gatewarden_warden_up", nil, 1},
		{"other", "gatewarden_actions_total", []string{"action=restart", "outcome=replaced"}, -1},
		{"lost", "gatewarden_actions_total", []string{"action=restart", "outcome=replaced"}, 1}, // no warden takes back what was
	} {
		v, ok := value(got[c.name], c.container, c.labels...)
		if !ok {
			v = -1
		}
		if v != c.want {
			t.Errorf("%s of %s, %q: %v, want %v", c.name, c.container, c.labels, v, c.want)
		}
	}
	if n := len(got["gatewarden_unavailable_seconds"].Metric); n != 3 {
		t.Errorf("unavailable times of %d containers", n)
	}
	for i, id := range []string{"well", "failed", "lost"} {
		h := got["gatewarden_unavailable_seconds"].Metric[i].GetHistogram()
		n := map[string]uint64{"well": 1, "lost": 1}[id]
		if h.GetSampleCount() != n || h.GetSampleSum() != 0.007*float64(n) || h.Bucket[0].GetCumulativeCount() != 0 || h.Bucket[1].GetCumulativeCount() != n {
			t.Errorf("unavailable times of %s: %v", id, h)
		}
	}
	if info := got["gatewarden_build_info"].GetMetric(); len(info) != 1 || info[0].Label[0].GetValue() != "1.0" || info[0].GetGauge().GetValue() != 1 {
		t.Errorf("%v", info)
	}
}

func TestMetricsAreNamedAsPrometheusWantsIt(t *testing.T) {
	for name, f := range parsed(t, Text("1.0", all())) {
		counter := f.GetType() == dto.MetricType_COUNTER
		if !strings.HasPrefix(name, "gatewarden_") || counter != strings.HasSuffix(name, "_total") || f.GetHelp() == "" || !strings.HasSuffix(f.GetHelp(), ".") {
			t.Errorf("%s, a %v: %q", name, f.GetType(), f.GetHelp())
		}
	}
	if got := parsed(t, Text("1.0", nil)); len(got["gatewarden_build_info"].GetMetric()) != 1 {
		t.Errorf("of no container: %v", got)
	}
}

// A dashboard or an alert of a metric that does not exist shows nothing and alerts nobody.
func TestWhatIsInPackagingAndTheDocumentsNamesMetricsThatExist(t *testing.T) {
	told := map[string]bool{}
	for name, f := range parsed(t, Text("1.0", all())) {
		told[name] = true
		if f.GetType() == dto.MetricType_HISTOGRAM {
			told[name+"_bucket"], told[name+"_sum"], told[name+"_count"] = true, true, true
		}
	}
	used := map[string]bool{}
	for _, file := range []string{"packaging/grafana/gatewarden.json", "packaging/prometheus/gatewarden.rules.yml", "docs/operating.md"} {
		data, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`\bgatewarden_[a-z_]+`).FindAllString(string(data), -1)
		for _, name := range names {
			used[name] = true
			if !told[name] {
				t.Errorf("%s has %s, which is not told", file, name)
			}
		}
		if len(names) < 10 {
			t.Errorf("%s has %d metrics: are they found?", file, len(names))
		}
	}
	for _, f := range families() {
		if !used[f.name] && !used[f.name+"_bucket"] {
			t.Errorf("%s is in no document", f.name)
		}
	}
	if len(used) == 0 || len(slices.Collect(maps.Keys(told))) < 10 {
		t.Errorf("%d used, %d told", len(used), len(told))
	}
}

func TestTheMemoryOfAProcessIsReadUntilItIsGone(t *testing.T) {
	if m := ReadMemory(os.Getpid()); m == nil || m.Resident < 1<<20 || m.Proportional < 100<<10 || m.Proportional > m.Resident {
		t.Errorf("of this one: %+v", m)
	}
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	if m := ReadMemory(child.Process.Pid); m != nil {
		t.Errorf("after its end: %+v", m)
	}
}
