// Package metrics tells Prometheus how the gateways of a host are. Names and labels are an interface: dashboards and alerting
// rules have them.
package metrics

import (
	"runtime"
	"slices"
	"time"

	"github.com/gatewarden/gatewarden/internal/counters"
	"github.com/gatewarden/gatewarden/internal/exposition"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// Container is one container as its warden wrote it down.
type Container struct {
	Status   *receipt.Status
	Counters *counters.Counters // nil: not known
	Lost     bool               // no warden answers: of Status only the names are known
	Memory   *Memory            // of the warden; nil: not known
}

// family is one metric with how it is read from a container. A sample that is not known is left out rather than made up.
type family struct {
	name, help string
	kind       exposition.Kind
	lost       bool // it is known of a container without a warden too
	write      func(t *exposition.Text, name string, c Container, of []exposition.Label)
}

// Text gives the metrics of all, in Prometheus's text format. Version is that of the program that tells them.
func Text(version string, all []Container) []byte {
	var t exposition.Text
	t.Grow(4<<10 + len(all)*6<<10) // some 5.5 kB each, with names of usual length
	t.Family("gatewarden_build_info", exposition.Gauge, "The gatewarden that tells these metrics; always 1.")
	t.Sample("gatewarden_build_info", 1, exposition.Label{Name: "version", Value: version}, exposition.Label{Name: "goversion", Value: runtime.Version()})
	for _, f := range families() {
		t.Family(f.name, f.kind, f.help)
		for _, c := range all {
			if c.Lost && !f.lost {
				continue
			}
			f.write(&t, f.name, c, []exposition.Label{
				{Name: "namespace", Value: c.Status.Container.Namespace}, {Name: "container", Value: c.Status.Container.ID},
				{Name: "gateway", Value: c.Status.Gateway},
			})
		}
	}
	return t.Bytes()
}

func families() []family {
	return []family{
		{
			name: "gatewarden_warden_up", kind: exposition.Gauge, lost: true,
			help:  "Whether the container's warden is there: 1, or 0 if it is lost; what its gateway does is not known then.",
			write: gauge(func(c Container) float64 { return truth(!c.Lost) }),
		},
		{
			name: "gatewarden_warden_info", kind: exposition.Gauge,
			help: "The version of the container's warden; always 1.",
			write: func(t *exposition.Text, name string, c Container, of []exposition.Label) {
				t.Sample(name, 1, append(of, exposition.Label{Name: "version", Value: c.Status.Warden.Version})...)
			},
		},
		{
			name: "gatewarden_warden_resident_memory_bytes", kind: exposition.Gauge,
			help:  "Resident memory of the warden's process, what it shares with other wardens included.",
			write: memory(func(m Memory) int64 { return m.Resident }),
		},
		{
			name: "gatewarden_warden_proportional_memory_bytes", kind: exposition.Gauge,
			help:  "Resident memory of the warden's process, each shared page divided by those who share it.",
			write: memory(func(m Memory) int64 { return m.Proportional }),
		},
		{
			name: "gatewarden_gateway_up", kind: exposition.Gauge,
			help:  "Whether a proven gateway runs: 1 in the state running, else 0.",
			write: gauge(func(c Container) float64 { return truth(c.Status.State == receipt.Running) }),
		},
		{
			name: "gatewarden_gateway_state", kind: exposition.Gauge,
			help:  "The gateway's state: 1 for the one that it is in, 0 for the others.",
			write: state,
		},
		{
			name: "gatewarden_gateway_state_entered_timestamp_seconds", kind: exposition.Gauge,
			help:  "When that state was entered.",
			write: moment(func(s *receipt.Status) *time.Time { return &s.Since }),
		},
		{
			name: "gatewarden_gateway_healthy", kind: exposition.Gauge,
			help: "Whether the gateway was healthy when it was last looked at: 1 or 0; left out if that could not be told.",
			write: func(t *exposition.Text, name string, c Container, of []exposition.Label) {
				if h := c.Status.Healthy; h != nil {
					t.Sample(name, truth(*h), of...)
				}
			},
		},
		{
			name: "gatewarden_gateway_health_checked_timestamp_seconds", kind: exposition.Gauge,
			help:  "When the running gateway was last looked at.",
			write: moment(func(s *receipt.Status) *time.Time { return s.Checked }),
		},
		{
			name: "gatewarden_generation", kind: exposition.Gauge,
			help:  "The generation of the configuration that is current.",
			write: gauge(func(c Container) float64 { return float64(c.Status.Generation) }),
		},
		{
			name: "gatewarden_rejected_generation", kind: exposition.Gauge,
			help: "The generation that was tried and turned down, until another change succeeds; 0: none.",
			write: gauge(func(c Container) float64 {
				if c.Status.Rejected == nil {
					return 0
				}
				return float64(c.Status.Rejected.Generation)
			}),
		},
		{
			name: "gatewarden_unlocked_until_timestamp_seconds", kind: exposition.Gauge,
			help: "When the configuration, which is unlocked, is locked again; left out while it is locked.",
			write: moment(func(s *receipt.Status) *time.Time {
				if s.Unlocked == nil {
					return nil
				}
				return &s.Unlocked.Until
			}),
		},
		{
			name: "gatewarden_standby_present", kind: exposition.Gauge,
			help:  "Whether a standby is parked in the container: 1, or 0 and the next restart has to make one first.",
			write: gauge(func(c Container) float64 { return truth(c.Status.Standby.PID != 0) }),
		},
		{
			name: "gatewarden_forward_up", kind: exposition.Gauge,
			help: "Whether the host-side endpoint reached the gateway when it was last looked at: 1 or 0; left out if that could not be told.",
			write: func(t *exposition.Text, name string, c Container, of []exposition.Label) {
				for _, f := range c.Status.Forwards {
					if f.OK != nil {
						t.Sample(name, truth(*f.OK), append(of, exposition.Label{Name: "forward", Value: f.Name}, exposition.Label{Name: "address", Value: f.Address})...)
					}
				}
			},
		},
		{
			name: "gatewarden_actions_total", kind: exposition.Counter, lost: true,
			help:  "Finished actions since the container's create, by what was done and how it ended.",
			write: counted(actions),
		},
		{
			name: "gatewarden_unavailable_seconds", kind: exposition.Histogram, lost: true,
			help: "How long clients had no gateway, of each replacement that left a gap: from the stop signal or the exit to the successor's proof.",
			write: counted(func(t *exposition.Text, name string, c Container, of []exposition.Label) {
				t.Histogram(name, counters.Bounds(), c.Counters.Unavailable.Buckets, c.Counters.Unavailable.Seconds, of...)
			}),
		},
	}
}

// counted leaves out what is not known: a 0 in its place would be a counter that began anew, and what it had before an increase
// when it is known again.
func counted(write func(*exposition.Text, string, Container, []exposition.Label)) func(*exposition.Text, string, Container, []exposition.Label) {
	return func(t *exposition.Text, name string, c Container, of []exposition.Label) {
		if c.Counters != nil {
			write(t, name, c, of)
		}
	}
}

func gauge(value func(Container) float64) func(*exposition.Text, string, Container, []exposition.Label) {
	return func(t *exposition.Text, name string, c Container, of []exposition.Label) {
		t.Sample(name, value(c), of...)
	}
}

func memory(value func(Memory) int64) func(*exposition.Text, string, Container, []exposition.Label) {
	return func(t *exposition.Text, name string, c Container, of []exposition.Label) {
		if c.Memory != nil && value(*c.Memory) > 0 {
			t.Sample(name, float64(value(*c.Memory)), of...)
		}
	}
}

// moment is a time rather than an age: an age would stand still between two writings of a file that is scraped more often.
func moment(value func(*receipt.Status) *time.Time) func(*exposition.Text, string, Container, []exposition.Label) {
	return func(t *exposition.Text, name string, c Container, of []exposition.Label) {
		if at := value(c.Status); at != nil && !at.IsZero() {
			t.Sample(name, float64(at.UnixMilli())/1000, of...)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func state(t *exposition.Text, name string, c Container, of []exposition.Label) {
	for _, s := range []receipt.State{receipt.Starting, receipt.Running, receipt.Stopping, receipt.Backoff, receipt.FailedSt, receipt.Stopped} {
		t.Sample(name, truth(c.Status.State == s), append(of, exposition.Label{Name: "state", Value: string(s)})...)
	}
}

// outcomes are the ways in which each action can end. Those that have not happened yet are there with 0: the first of them would
// be no increase otherwise, and alert nobody.
func outcomes() []struct {
	action   receipt.Action
	outcomes []receipt.Outcome
} {
	return []struct {
		action   receipt.Action
		outcomes []receipt.Outcome
	}{
		{receipt.Start, []receipt.Outcome{receipt.Replaced, receipt.Refused, receipt.Failed}},
		{receipt.Restart, []receipt.Outcome{receipt.Replaced, receipt.Refused, receipt.Failed}},
		{receipt.Recover, []receipt.Outcome{receipt.Replaced, receipt.AlreadyRunning, receipt.Refused, receipt.Failed}},
		{receipt.Respawn, []receipt.Outcome{receipt.Replaced, receipt.Refused, receipt.Failed}},
		{receipt.Apply, []receipt.Outcome{receipt.Replaced, receipt.Refused, receipt.Failed, receipt.RolledBack}},
		{receipt.Rollback, []receipt.Outcome{receipt.Replaced, receipt.Refused, receipt.Failed}},
	}
}

func actions(t *exposition.Text, name string, c Container, of []exposition.Label) {
	sample := func(a receipt.Action, o receipt.Outcome) {
		t.Sample(name, float64(c.Counters.Actions[a][o]), append(of, exposition.Label{Name: "action", Value: string(a)}, exposition.Label{Name: "outcome", Value: string(o)})...)
	}
	known := map[receipt.Action][]receipt.Outcome{}
	for _, k := range outcomes() {
		known[k.action] = k.outcomes
		for _, o := range k.outcomes {
			sample(k.action, o)
		}
	}
	// What another release counted.
	for _, a := range sorted(c.Counters.Actions) {
		for _, o := range sorted(c.Counters.Actions[a]) {
			if !slices.Contains(known[a], o) {
				sample(a, o)
			}
		}
	}
}

func sorted[K ~string, V any](m map[K]V) []K {
	var keys []K
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
