package counters

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	"github.com/gatewarden/gatewarden/internal/receipt"
)

func done(a receipt.Action, o receipt.Outcome, unavailable float64) *receipt.Receipt {
	r := &receipt.Receipt{Action: a, Outcome: o}
	if unavailable >= 0 {
		r.Old, r.New, r.Millis.Unavailable = &receipt.Old{PID: 1}, &receipt.New{PID: 2}, unavailable
	}
	return r
}

func TestActionsAreCountedByWhatWasDoneAndHowItEnded(t *testing.T) {
	var c Counters
	for _, r := range []*receipt.Receipt{
		done(receipt.Start, receipt.Replaced, -1), done(receipt.Restart, receipt.Replaced, 7), done(receipt.Restart, receipt.Replaced, 7),
		done(receipt.Restart, receipt.Refused, -1), done(receipt.Respawn, receipt.Failed, -1),
	} {
		c.Observe(r)
	}
	want := map[receipt.Action]map[receipt.Outcome]uint64{
		receipt.Start: {receipt.Replaced: 1}, receipt.Restart: {receipt.Replaced: 2, receipt.Refused: 1}, receipt.Respawn: {receipt.Failed: 1},
	}
	if !reflect.DeepEqual(c.Actions, want) {
		t.Errorf("counted %v, want %v", c.Actions, want)
	}
}

func TestTheUnavailableTimeIsThatOfReplacements(t *testing.T) {
	for _, c := range []struct {
		name   string
		r      *receipt.Receipt
		bucket int // -1: not counted
	}{
		{"a first start had nothing before it", done(receipt.Start, receipt.Replaced, -1), -1},
		{"a refusal took nothing away", done(receipt.Restart, receipt.Refused, 5), -1},
		{"a failed one has not ended it yet", done(receipt.Restart, receipt.Failed, 5), -1},
		{"an overlap had none", done(receipt.Restart, receipt.Replaced, 0), -1},
		{"a bound belongs to its bucket", done(receipt.Restart, receipt.Replaced, 5), 0},
		{"more than a bound to the next", done(receipt.Restart, receipt.Replaced, 5.01), 1},
		{"the way back counts", done(receipt.Apply, receipt.RolledBack, 700), 7},
		{"longer than all bounds", done(receipt.Respawn, receipt.Replaced, 3e6), len(Bounds())},
	} {
		var got Counters
		got.Observe(c.r)
		at := -1
		for i, n := range got.Unavailable.Buckets {
			if n == 1 && at < 0 {
				at = i
			} else if n != 0 {
				t.Errorf("%s: %d in bucket %d", c.name, n, i)
			}
		}
		sum := 0.0
		if c.bucket >= 0 {
			sum = c.r.Millis.Unavailable / 1000
		}
		if at != c.bucket || got.Unavailable.Seconds != sum {
			t.Errorf("%s: in bucket %d with the sum %v, want %d and %v", c.name, at, got.Unavailable.Seconds, c.bucket, sum)
		}
	}
}

func TestCountersGoOnAfterTheyWereWrittenDown(t *testing.T) {
	var c Counters
	c.Observe(done(receipt.Restart, receipt.Replaced, 12))
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var read Counters
	if err := json.Unmarshal(data, &read); err != nil || read.Check() != nil || !reflect.DeepEqual(read, c) {
		t.Fatalf("%s gives %+v, %v, %v", data, read, err, read.Check())
	}
	read.Observe(done(receipt.Restart, receipt.Replaced, 12))
	if read.Actions[receipt.Restart][receipt.Replaced] != 2 || read.Unavailable.Buckets[2] != 2 || read.Unavailable.Seconds != 0.024 {
		t.Errorf("%+v", read)
	}
}

func TestCountersOfAnotherFormAreNotUsed(t *testing.T) {
	for _, c := range []Counters{
		{Unavailable: Durations{Buckets: make([]uint64, 3)}}, {Unavailable: Durations{Seconds: -1}}, {Unavailable: Durations{Seconds: math.NaN()}},
	} {
		if c.Check() == nil {
			t.Errorf("accepted %+v", c)
		}
	}
}
