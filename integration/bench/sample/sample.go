// Package sample describes a set of measurements in a few numbers.
package sample

import "slices"

// Sample holds measurements of one thing, all in the same unit, in the order in which they were taken.
type Sample []float64

// Quantile gives the value below which the part q of the sample lies (0 to 1), interpolated between neighbours as R's type 7 and
// NumPy do by default. An empty sample gives 0.
func (s Sample) Quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	at := min(max(q, 0), 1) * float64(len(sorted)-1)
	low := int(at)
	if low == len(sorted)-1 {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// Median gives the value in the middle, or the mean of the two in the middle.
func (s Sample) Median() float64 { return s.Quantile(0.5) }

// Min gives the least value, 0 of an empty sample.
func (s Sample) Min() float64 { return s.Quantile(0) }

// Max gives the greatest value, 0 of an empty sample.
func (s Sample) Max() float64 { return s.Quantile(1) }

// Ratio gives how many times the median of s is that of other. It is false if one of them is empty or other's median is 0.
func (s Sample) Ratio(other Sample) (float64, bool) {
	if len(s) == 0 || len(other) == 0 || other.Median() == 0 {
		return 0, false
	}
	return s.Median() / other.Median(), true
}
