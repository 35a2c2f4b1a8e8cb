package warden

import (
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/profile"
)

// What a warden wrote down before the system's clock was stepped is read by its successor after it.
func TestTimesWrittenDownBeforeAStepOfTheClockDoNoHarm(t *testing.T) {
	const window = time.Minute
	now := time.Now()
	at := func(ago ...time.Duration) []time.Time {
		var all []time.Time
		for _, d := range ago {
			all = append(all, now.Round(0).Add(-d)) // as JSON gives them: by the wall clock alone
		}
		return all
	}
	for _, c := range []struct {
		name  string
		exits []time.Time
		want  []time.Duration // how long ago they count as
	}{
		{"no step", at(50*time.Second, time.Second), []time.Duration{50 * time.Second, time.Second}},
		{"too old", at(2*time.Minute, time.Second), []time.Duration{time.Second}},
		{"stepped back by a day: they are in the future", at(-24*time.Hour, -24*time.Hour-time.Second), []time.Duration{0, 0}},
		{"stepped on by a day", at(24*time.Hour, 24*time.Hour+time.Second), nil},
		{"the year 1", []time.Time{{}}, nil},
		{"none", nil, nil},
	} {
		got := recentExits(c.exits, window, now)
		if len(got) != len(c.want) {
			t.Errorf("%s: %v count", c.name, got)
			continue
		}
		for i, exit := range got {
			if d := now.Sub(exit); d != c.want[i] {
				t.Errorf("%s: exit %d counts as %v ago, want %v", c.name, i, d, c.want[i])
			}
			// From here on they are told by the monotonic clock, which no step touches.
			if !strings.Contains(exit.String(), " m=") {
				t.Errorf("%s: exit %d (%v) has no monotonic time", c.name, i, exit)
			}
		}
	}
}

func TestAGatewayIsNeverYoungerThanNow(t *testing.T) {
	now := time.Now()
	for written, want := range map[time.Duration]time.Duration{
		time.Hour:            time.Hour,
		0:                    0,
		-time.Hour:           0, // stepped back since
		-1000000 * time.Hour: 0,
	} {
		got := since(now.Round(0).Add(-written), now)
		if age := now.Sub(got); age != want {
			t.Errorf("written %v ago by the clock: %v old, want %v", written, age, want)
		}
		if !strings.Contains(got.String(), " m=") {
			t.Errorf("%v has no monotonic time", got)
		}
	}
}

// Exits in the future, as after a step backwards while the warden runs, do not stay in the window for ever: they are told by
// the monotonic clock.
func TestExitsLeaveTheWindow(t *testing.T) {
	w := idle()
	w.log = discardLog()
	w.dir = t.TempDir()
	w.retry = stoppedTimer()
	w.profile = &profile.Profile{Name: "demo", Restart: profile.Restart{Policy: profile.Always, Burst: 1, Window: 30 * time.Millisecond, BackoffMax: time.Second}}
	w.exits = recentExits([]time.Time{time.Now().Round(0).Add(time.Hour)}, w.profile.Restart.Window, time.Now())
	time.Sleep(40 * time.Millisecond)
	w.unasked("", "the gateway ended")
	if w.status.State != "backoff" || len(w.exits) != 1 {
		t.Errorf("%s with %d exits: %s", w.status.State, len(w.exits), w.status.Message)
	}
}
