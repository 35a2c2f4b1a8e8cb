// Package counters adds up what the receipts of one container say, for its metrics.
//
// They are kept where the status is (package memo), and so outlive the warden that counts. They begin anew with the container's
// create, as counters may.
package counters

import (
	"fmt"
	"slices"

	"github.com/gatewarden/gatewarden/internal/receipt"
)

// Counters are the sums. The zero value has counted nothing.
type Counters struct {
	// Actions are the finished actions, by what was done and how that ended.
	Actions     map[receipt.Action]map[receipt.Outcome]uint64 `json:"actions,omitempty"`
	Unavailable Durations                                     `json:"unavailable"`
}

// Durations counts durations by their size. Its zero value has counted none.
type Durations struct {
	// Buckets has a count for each of Bounds, of what is not longer than that and longer than the one before, and one more for
	// what is longer than all.
	Buckets []uint64 `json:"buckets,omitempty"`
	Seconds float64  `json:"seconds"` // the sum
}

// Bounds are the upper bounds of the buckets, in seconds: a restart takes from milliseconds to what the profile's timeouts allow.
func Bounds() []float64 {
	return []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}
}

// Observe counts an action that is finished. How long clients had no gateway is counted of those that ended one gateway and
// proved the next, and left a gap that is known: not of two that overlapped, nor of what a lost warden's successor has finished.
func (c *Counters) Observe(r *receipt.Receipt) {
	if c.Actions == nil {
		c.Actions = map[receipt.Action]map[receipt.Outcome]uint64{}
	}
	if c.Actions[r.Action] == nil {
		c.Actions[r.Action] = map[receipt.Outcome]uint64{}
	}
	c.Actions[r.Action][r.Outcome]++
	if r.Old != nil && r.New != nil && r.Millis.Unavailable > 0 && (r.Outcome == receipt.Replaced || r.Outcome == receipt.RolledBack) {
		c.Unavailable.observe(r.Millis.Unavailable / 1000)
	}
}

func (d *Durations) observe(seconds float64) {
	bounds := Bounds()
	if d.Buckets == nil {
		d.Buckets = make([]uint64, len(bounds)+1)
	}
	i, _ := slices.BinarySearch(bounds, seconds)
	d.Buckets[i]++
	d.Seconds += seconds
}

// Check tells what is wrong with counters that were read.
func (c *Counters) Check() error {
	if n, want := len(c.Unavailable.Buckets), len(Bounds())+1; n != 0 && n != want {
		return fmt.Errorf("the unavailable times are counted in %d buckets, not %d", n, want)
	}
	if s := c.Unavailable.Seconds; s < 0 || s != s {
		return fmt.Errorf("the unavailable times add up to %v s", s)
	}
	return nil
}
