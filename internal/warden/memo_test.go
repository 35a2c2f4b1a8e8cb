package warden

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/audit"
	"github.com/gatewarden/gatewarden/internal/counters"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/journal/journaltest"
	"github.com/gatewarden/gatewarden/internal/memo"
	"github.com/gatewarden/gatewarden/internal/notary"
	"github.com/gatewarden/gatewarden/internal/process"
	"github.com/gatewarden/gatewarden/internal/profile"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

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
			journaltest.Append(t, w.journal(), &c.journal[i])
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

// A warden that is lost between the two logs has finished its action: its successor must not make a second receipt of it.
func TestASuccessorPutsIntoTheJournalWhatOnlyTheAuditLogHas(t *testing.T) {
	w := running(t)
	journaltest.Append(t, w.journal(), &receipt.Receipt{Version: 1, ID: "1"})
	body, err := json.Marshal(&receipt.Receipt{Version: 1, ID: "2", RequestID: "two", Outcome: receipt.Replaced})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := notary.Append(audit.Log(w.rec.Config.StateDir), nil, body, notary.Patience); err != nil {
		t.Fatal(err)
	}
	if m := (&memo.Memo{Recovery: memo.Recovery{Pending: &memo.Pending{ID: "3"}}}); w.recall(m) {
		t.Error("a receipt that nobody wrote is found")
	}
	m := &memo.Memo{Recovery: memo.Recovery{Pending: &memo.Pending{ID: "2"}}}
	if !w.recall(m) || w.status.Last.ID != "2" || w.recent.find("two") == nil {
		t.Errorf("the last is %+v", w.status.Last)
	}
	for range 2 { // the second successor finds it in the journal
		all, err := journal.Read(w.journal(), 0)
		if err != nil || len(all) != 2 || all[1].ID != "2" || all[1].Outcome != receipt.Replaced {
			t.Fatalf("the journal has %+v, %v", all, err)
		}
		w.recall(m)
	}
}

func TestAReceiptThatCannotBeWrittenDownSaysWhere(t *testing.T) {
	w := running(t)
	if err := os.Mkdir(audit.Log(w.rec.Config.StateDir).Path, 0o700); err != nil {
		t.Fatal(err)
	}
	r := &receipt.Receipt{Version: 1, ID: "1", Message: "it was so"}
	w.keep(r)
	if want := "it was so; this receipt is not in the audit log: "; !strings.HasPrefix(r.Message, want) || strings.Contains(r.Message, "not in the journal") {
		t.Errorf("the message is %q", r.Message)
	}
	all, err := journal.Read(w.journal(), 0)
	if err != nil || len(all) != 1 || all[0].Message != r.Message {
		t.Errorf("the journal has %+v, %v", all, err)
	}
}

func TestAKeyThatCannotBeReadLeavesReceiptsUnsigned(t *testing.T) {
	w := running(t)
	w.rec.Config.AuditKey = "/no/such/key"
	w.readKey()
	r := &receipt.Receipt{Version: 1, ID: "1"}
	w.keep(r)
	if w.key != nil || r.Message != "" {
		t.Errorf("%x, %q", w.key, r.Message)
	}
	if rep, err := notary.Verify(journal.Log(w.journal()), notary.Options{}); err != nil || !rep.Intact || rep.Lines != 1 || rep.Signed != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestWhatIsFinishedIsCountedOnceWhoeverIsLost(t *testing.T) {
	w := running(t)
	finished := func(kind receipt.Action, o receipt.Outcome) *receipt.Receipt {
		a := &action{kind: kind}
		r := w.begin(a)
		r.Outcome = o
		w.finish(a, r)
		return r
	}
	finished(receipt.Start, receipt.Replaced)
	last := finished(receipt.Restart, receipt.Replaced)
	g, err := memo.Look(w.dir)
	if err != nil || g.Counters.Actions[receipt.Start][receipt.Replaced] != 1 || g.Counters.Actions[receipt.Restart][receipt.Replaced] != 1 {
		t.Fatalf("%v: %+v", err, g)
	}
	// A warden that is lost here has recorded one more, and not written down that it counted it.
	late := *last
	late.ID, late.Outcome = "late", receipt.Failed
	before := late
	before.ID, before.Container.InitStart = "before", 99
	m, err := memo.Read(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name             string
		journal          []receipt.Receipt // after the two that are there
		last             *receipt.Receipt  // in the memo
		replaced, failed uint64            // restarts
	}{
		{"nothing is missing", nil, last, 1, 0},
		{"one is missing", []receipt.Receipt{late}, last, 1, 1},
		{"the last one is not in the journal", []receipt.Receipt{late}, &receipt.Receipt{ID: "unknown"}, 1, 0},
		{"none was in the memo", []receipt.Receipt{before}, nil, 2, 0},
	} {
		next := running(t)
		for _, r := range append(journalOf(t, w), c.journal...) {
			journaltest.Append(t, next.journal(), &r)
		}
		next.counters = m.Counters
		if c.last == nil {
			next.counters = counters.Counters{Actions: map[receipt.Action]map[receipt.Outcome]uint64{receipt.Restart: {receipt.Replaced: 1}}}
		}
		next.recall(&memo.Memo{Status: receipt.Status{Last: c.last}})
		got := next.counters.Actions[receipt.Restart]
		if got[receipt.Replaced] != c.replaced || got[receipt.Failed] != c.failed {
			t.Errorf("%s: %v", c.name, got)
		}
		m, err = memo.Read(w.dir) // as it was
		if err != nil {
			t.Fatal(err)
		}
	}
}

func journalOf(t *testing.T, w *Warden) []receipt.Receipt {
	t.Helper()
	all, err := journal.Read(w.journal(), recentLength)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
