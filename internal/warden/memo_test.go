package warden

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
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

// running is a warden whose gateway runs, without a container: what it writes down lies in a directory of the test's own.
func running(t *testing.T) *Warden {
	w := idle()
	w.log, w.dir = discardLog(), t.TempDir()
	w.rec.Config.StateDir = t.TempDir()
	if err := os.MkdirAll(w.rec.StateDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	w.profile = &profile.Profile{Name: "demo"}
	w.retry, w.tidy = stoppedTimer(), stoppedTimer()
	w.status = receipt.Status{Container: w.container, Gateway: "demo", State: receipt.Running, Generation: 1, Listeners: []receipt.Listener{}}
	w.gateway = &gateway{info: receipt.New{PID: 1, StartTime: 2}, id: process.Identity{Start: 2}, profile: w.profile}
	return w
}

func TestHealthIsSaidOfARunningGatewayAsItWasLastLookedAt(t *testing.T) {
	yes, no := true, false
	w := running(t)
	for _, c := range []struct {
		what    string
		do      func()
		healthy *bool
		checked bool
	}{
		{"adopted, and not looked at yet", func() {}, nil, false},
		{"found healthy", func() { w.gateway.looked(&yes) }, &yes, true},
		{"found ill", func() { w.gateway.looked(&no) }, &no, true},
		{"could not be asked", func() { w.gateway.looked(nil) }, nil, true},
		{"found healthy again", func() { w.gateway.looked(&yes) }, &yes, true},
		{"stopping", func() { w.setState(receipt.Stopping) }, nil, false},
		{"it goes on", func() { w.setState(receipt.Running) }, &yes, true},
		{"it ended", func() { w.gateway = nil; w.setState(receipt.Backoff) }, &no, false},
		{"starting", func() { w.setState(receipt.Starting) }, nil, false},
		{"failed", func() { w.setState(receipt.FailedSt) }, &no, false},
	} {
		c.do()
		w.publish()
		w.remember(w.gateway)
		written, err := memo.Status(w.dir)
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		published := w.snapshot.Load().Status
		for name, s := range map[string]*receipt.Status{"published": &published, "written down": written} {
			switch {
			case (s.Healthy == nil) != (c.healthy == nil) || s.Healthy != nil && *s.Healthy != *c.healthy:
				t.Errorf("%s: healthy as %s is not as wanted: %+v", c.what, name, s)
			case (s.Checked != nil) != c.checked || s.Checked != nil && time.Since(*s.Checked) > time.Minute:
				t.Errorf("%s: checked as %s is %v", c.what, name, s.Checked)
			}
		}
	}
}

func TestAnActionsReceiptIsWrittenDownWhenItIsFinished(t *testing.T) {
	w := running(t)
	a := &action{kind: receipt.Restart, profile: w.profile, request: "q"}
	w.acting = a
	r := w.begin(a)
	w.setState(receipt.Running)
	if m, err := memo.Read(w.dir); err != nil || m.Pending == nil || m.Status.Last != nil {
		t.Errorf("in the middle: %v, %+v", err, m)
	}
	w.finish(a, r)
	if m, err := memo.Read(w.dir); err != nil || m.Pending != nil || m.Status.Last == nil || m.Status.Last.ID != r.ID {
		t.Errorf("in the end: %v, %+v", err, m)
	}
}

// Clients must not be shown what was written down last: it is not true any more.
func TestNobodyStandsByAMemoThatCouldNotBeReplaced(t *testing.T) {
	w := running(t)
	w.setState(receipt.Running)
	if _, err := memo.Status(w.dir); err != nil {
		t.Fatal(err)
	}
	// A directory where the next memo would be made.
	if err := os.Mkdir(filepath.Join(w.dir, memo.Name+".new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.setState(receipt.Backoff); err == nil {
		t.Error("it could be written")
	}
	if st, err := memo.Status(w.dir); !errors.Is(err, memo.ErrUnsigned) {
		t.Errorf("a client reads %+v, %v", st, err)
	}
	if m, err := memo.Read(w.dir); err != nil || m.Status.State != receipt.Running {
		t.Errorf("a successor does not find what was written down last: %+v, %v", m, err)
	}
}

func TestASuccessorKnowsAReceiptThatTheJournalHadNoRoomFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		journal []receipt.Receipt
		last    *receipt.Receipt // in the memo
		want    string
	}{
		{"in both", []receipt.Receipt{{Version: 1, ID: "1", RequestID: "one"}, {Version: 1, ID: "2", RequestID: "two"}}, &receipt.Receipt{Version: 1, ID: "2", RequestID: "two"}, "2"},
		{"in the memo alone", []receipt.Receipt{{Version: 1, ID: "1", RequestID: "one"}}, &receipt.Receipt{Version: 1, ID: "2", RequestID: "two"}, "2"},
		{"in the journal alone", []receipt.Receipt{{Version: 1, ID: "1", RequestID: "one"}, {Version: 1, ID: "2", RequestID: "two"}}, nil, "2"},
		{"the memo is older", []receipt.Receipt{{Version: 1, ID: "1", RequestID: "one"}, {Version: 1, ID: "2", RequestID: "two"}}, &receipt.Receipt{Version: 1, ID: "1", RequestID: "one"}, "2"},
	} {
		w := running(t)
		for i := range c.journal {
			if err := journal.Append(w.journal(), &c.journal[i]); err != nil {
				t.Fatal(err)
			}
		}
		m := &memo.Memo{Status: receipt.Status{Last: c.last}, Recovery: memo.Recovery{Pending: &memo.Pending{ID: "2"}}}
		if answered := w.recall(m); !answered || w.status.Last == nil || w.status.Last.ID != c.want {
			t.Errorf("%s: answered: %v, last: %+v", c.name, answered, w.status.Last)
		}
		for id, request := range map[string]string{"1": "one", "2": "two"} {
			if r := w.recent.find(request); r == nil || r.ID != id {
				t.Errorf("%s: request %s finds %+v", c.name, request, r)
			}
		}
	}
}
