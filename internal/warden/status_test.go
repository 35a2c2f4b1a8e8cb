package warden

import (
	"slices"
	"testing"
	"time"

	"github.com/gatewarden/gatewarden/internal/control"
)

// told gives the kinds of the events that c has got by now.
func told(c chan control.Event) []string {
	var kinds []string
	for len(c) > 0 {
		kinds = append(kinds, (<-c).Kind)
	}
	return kinds
}

func TestAnEventThatIsToldSoonIsToldBeforeTheNextOne(t *testing.T) {
	var w watchers
	c := w.add()
	w.tellSoon(control.Event{Kind: "exited"})
	if got := told(c); got != nil {
		t.Errorf("told at once: %v", got)
	}
	w.tell(control.Event{Kind: "running"})
	if got := told(c); !slices.Equal(got, []string{"exited", "running"}) {
		t.Errorf("told %v", got)
	}
	time.Sleep(2 * soon)
	if got := told(c); got != nil {
		t.Errorf("told again: %v", got)
	}
}

func TestAnEventThatIsToldSoonWaitsForNoOther(t *testing.T) {
	var w watchers
	c := w.add()
	for range 2 { // the timer is used again
		w.tellSoon(control.Event{Kind: "exited"})
		select {
		case e := <-c:
			if e.Kind != "exited" {
				t.Errorf("told %v", e)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("never told")
		}
	}
}

func TestAWatcherIsNotToldWhatWasBeforeIt(t *testing.T) {
	var w watchers
	first := w.add()
	w.tellSoon(control.Event{Kind: "exited"})
	second := w.add()
	w.tell(control.Event{Kind: "running"})
	if got := told(first); !slices.Equal(got, []string{"exited", "running"}) {
		t.Errorf("the first was told %v", got)
	}
	if got := told(second); !slices.Equal(got, []string{"running"}) {
		t.Errorf("the second was told %v", got)
	}
}
