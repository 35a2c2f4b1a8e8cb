package verb

import (
	"testing"
	"time"
)

func TestAnAgeIsNeverNegative(t *testing.T) {
	now := time.Now()
	for ago, want := range map[time.Duration]string{
		-time.Nanosecond:      "0s",
		-365 * 24 * time.Hour: "0s", // the clock was stepped back since
		0:                     "0s",
		90 * time.Second:      "90s",
		72 * time.Hour:        "3d",
	} {
		if got := age(now.Round(0).Add(-ago), now); got != want {
			t.Errorf("%v ago: %q, want %q", ago, got, want)
		}
	}
}
