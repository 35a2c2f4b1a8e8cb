package sample

import (
	"math"
	"testing"
)

func TestQuantilesAreThoseOfNumPy(t *testing.T) {
	// numpy.quantile([3, 1, 4, 1, 5, 9], q)
	s := Sample{3, 1, 4, 1, 5, 9}
	for q, want := range map[float64]float64{0: 1, 0.25: 1.5, 0.5: 3.5, 0.75: 4.75, 0.9: 7, 0.99: 8.8, 1: 9, -1: 1, 2: 9} {
		if got := s.Quantile(q); math.Abs(got-want) > 1e-12 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if s[0] != 3 || s[5] != 9 {
		t.Errorf("the sample's order was changed: %v", s)
	}
}

func TestTheMedianOfAnOddSampleIsOneOfItsValues(t *testing.T) {
	if got := (Sample{7, 100, 2}).Median(); got != 7 {
		t.Errorf("median %v, want 7", got)
	}
}

func TestASampleOfOneIsThatValueAndAnEmptyOneIsZero(t *testing.T) {
	for _, c := range []struct {
		s    Sample
		want float64
	}{{Sample{5}, 5}, {nil, 0}} {
		if c.s.Min() != c.want || c.s.Median() != c.want || c.s.Max() != c.want {
			t.Errorf("%v: %v, %v, %v, want %v", c.s, c.s.Min(), c.s.Median(), c.s.Max(), c.want)
		}
	}
}

func TestARatioIsOfMediansAndNeedsBoth(t *testing.T) {
	if r, ok := (Sample{2, 6, 100}).Ratio(Sample{1, 3, 4}); !ok || r != 2 {
		t.Errorf("%v, %v", r, ok)
	}
	for _, c := range [][2]Sample{{nil, {1}}, {{1}, nil}, {{1}, {0}}} {
		if _, ok := c[0].Ratio(c[1]); ok {
			t.Errorf("%v to %v has a ratio", c[0], c[1])
		}
	}
}
