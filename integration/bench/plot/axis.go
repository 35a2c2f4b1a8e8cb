package plot

import "math"

// axis maps values to places.
type axis struct {
	low, high  float64 // values at its ends
	begin, end float64 // places of these
	log        bool
	ticks      []float64
}

// place gives where v is.
func (a axis) place(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		low, high, v = math.Log10(low), math.Log10(high), math.Log10(max(v, a.low))
	}
	if high == low {
		return a.begin
	}
	return a.begin + (v-low)/(high-low)*(a.end-a.begin)
}

// steps are the mantissas of round numbers.
var steps = []float64{1, 2, 5, 10}

// linear makes an axis from 0 to the round number at or above most.
func linear(most, begin, end float64) axis {
	if most <= 0 {
		most = 1
	}
	raw := most / 5
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	step := unit * 10
	for _, s := range steps {
		if s*unit >= raw*(1-1e-9) {
			step = s * unit
			break
		}
	}
	a := axis{begin: begin, end: end}
	n := int(math.Ceil(most/step - 1e-9))
	for i := range n + 1 {
		a.ticks = append(a.ticks, round(float64(i)*step))
	}
	a.high = a.ticks[n]
	return a
}

// logarithmic makes an axis between the round numbers below least and above most, both over 0.
func logarithmic(least, most, begin, end float64) axis {
	a := axis{begin: begin, end: end, log: true}
	decade := math.Pow(10, math.Floor(math.Log10(least)))
	for a.high < most || len(a.ticks) < 2 {
		for _, s := range steps[:3] {
			v := round(s * decade)
			if next := nextStep(v); next <= least*(1+1e-9) {
				continue
			}
			a.ticks = append(a.ticks, v)
			if a.high = v; v >= most && len(a.ticks) >= 2 {
				break
			}
		}
		decade *= 10
	}
	a.low = a.ticks[0]
	return a
}

// nextStep gives the round number after the round number v.
func nextStep(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v)+1e-9))
	for _, s := range steps {
		if s*unit > v*(1+1e-9) {
			return s * unit
		}
	}
	return 2 * 10 * unit
}

// round takes away what binary fractions add to a round number.
func round(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 12-math.Ceil(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}
