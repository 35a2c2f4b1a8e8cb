package taskapi

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	eventsapi "github.com/containerd/containerd/api/events"

	"github.com/gatewarden/gatewarden/internal/control"
	"github.com/gatewarden/gatewarden/internal/journal"
	"github.com/gatewarden/gatewarden/internal/journal/journaltest"
	"github.com/gatewarden/gatewarden/internal/receipt"
)

// recorded puts receipts into the journal of container id.
func (s *testShim) recorded(id string, receipts ...string) {
	s.t.Helper()
	path := filepath.Join(s.kept, namespace, id, journal.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	for _, r := range receipts {
		journaltest.Append(s.t, path, &receipt.Receipt{Version: 1, ID: r, Action: receipt.Restart})
	}
}

// published gives the receipts among the events.
func published(events []string) []string {
	return slices.DeleteFunc(slices.Clone(events), func(s string) bool { return !strings.HasPrefix(s, "receipt ") })
}

func seqs(from, to int) []string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprintf("receipt web/r%d seq %d restart", i, i))
	}
	return all
}

func TestReceiptsArePublishedOnceAndInTheirOrderWhateverTheWardenTells(t *testing.T) {
	s := newShim(t)
	s.recorded("web", "r1") // of a container before it
	w := s.run("web")
	s.recorded("web", "r2")
	w.tell(control.Event{Kind: control.Recorded})
	s.events.until(t, "receipt web/r2")
	// Several at once, told of once.
	s.recorded("web", "r3", "r4")
	w.tell(control.Event{Kind: control.Recorded})
	w.tell(control.Event{Kind: control.Recorded})
	s.events.until(t, "receipt web/r4")
	// Not told of at all: the warden is lost.
	s.recorded("web", "r5")
	w.tell(control.Event{Kind: "running", PID: extraPID})
	w.hangUp()
	if got, want := published(s.events.until(t, "receipt web/r5")), seqs(2, 5); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if st := s.state("web", gatewayID); st.Pid != extraPID {
		t.Errorf("the gateway's state is %v", st)
	}
}

func TestAJournalThatBeginsAnewIsPublishedFromItsBeginning(t *testing.T) {
	s := newShim(t)
	s.recorded("web", "old1", "old2", "old3")
	w := s.run("web")
	if err := os.RemoveAll(filepath.Join(s.kept, namespace, "web")); err != nil {
		t.Fatal(err)
	}
	s.recorded("web", "r1", "r2")
	w.tell(control.Event{Kind: control.Recorded})
	if got, want := published(s.events.until(t, "receipt web/r2")), seqs(1, 2); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestASlowContainerdHoldsUpNoReceipt(t *testing.T) {
	s := newShim(t)
	w := s.run("web")
	s.events.block = make(chan struct{})
	for i := range 5 {
		s.recorded("web", fmt.Sprintf("r%d", i+1))
		w.tell(control.Event{Kind: control.Recorded})
	}
	// The watch goes on meanwhile: what it tells next is known at once.
	w.tell(control.Event{Kind: "exited", PID: extraPID, ExitCode: 3})
	if got := s.wait("web", gatewayID); got != 3 {
		t.Errorf("exit status %d", got)
	}
	close(s.events.block)
	if got, want := published(s.events.until(t, "receipt web/r5")), seqs(1, 5); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestReceiptsComeAfterTheContainersCreate(t *testing.T) {
	rec := &recorder{more: make(chan struct{})}
	s := newShim(t)
	p := newPublisher(s.ctx, rec)
	l := p.open("web", func() {})
	s.recorded("web", "r1")
	r := &receipts{path: filepath.Join(s.kept, namespace, "web", journal.Name), events: l}
	r.publish()
	if err := p.Publish(s.ctx, "/tasks/create", &eventsapi.TaskCreate{ContainerID: "web"}); err != nil {
		t.Fatal(err)
	}
	if got, want := rec.until(t, "receipt"), append([]string{"create web"}, seqs(1, 1)...); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
