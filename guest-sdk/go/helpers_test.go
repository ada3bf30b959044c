package rule

import (
	"math"
	"testing"
)

func TestEwma(t *testing.T) {
	var ewma Ewma
	check(t, ewma.Deviation(3), 0)
	ewma.Update(10, 0.1)
	check(t, ewma, Ewma{10, 0, 1})
	ewma.Update(12, 0.1)
	// Numbers of double precision; constants of Go would be exact.
	x, mean, rest, square := 11.4, 10.2, 0.9, 0.4
	check(t, ewma, Ewma{mean, rest * square, 2})
	check(t, ewma.Deviation(mean), 0)
	check(t, ewma.Deviation(x), (x-mean)/math.Sqrt(rest*square))
}

func TestRateOfChange(t *testing.T) {
	var rate RateOfChange
	step := func(time int64, x, want float64, wantOK bool) {
		t.Helper()
		got, ok := rate.Update(time, x)
		check(t, got, want)
		check(t, ok, wantOK)
	}
	step(Second, 10, 0, false)
	step(3*Second, 20, 5, true)
	step(3*Second, 90, 0, false)
	step(2*Second, 90, 0, false)
	step(4*Second, 19, -1, true)
}

func TestHysteresis(t *testing.T) {
	var high, low Hysteresis
	for _, step := range []struct {
		x         float64
		high, low Edge
	}{
		{50, Unchanged, Unchanged}, {80, Unchanged, Unchanged}, {81, Rising, Unchanged}, {75, Unchanged, Unchanged},
		{74, Falling, Unchanged}, {20, Unchanged, Unchanged}, {19, Unchanged, Rising}, {25, Unchanged, Unchanged},
		{26, Unchanged, Falling}, {math.NaN(), Unchanged, Unchanged},
	} {
		check(t, high.Update(step.x, 80, 75), step.high)
		check(t, low.Update(step.x, 20, 25), step.low)
	}
}

func TestDebounce(t *testing.T) {
	var debounce Debounce
	check(t, debounce.Update(true, 10, 5), false)
	check(t, debounce.Update(true, 14, 5), false)
	check(t, debounce.Update(true, 15, 5), true)
	check(t, debounce.Update(false, 16, 5), false)
	check(t, debounce.Update(true, 17, 5), false)
	check(t, debounce.Update(true, 17, 0), true)
}

func TestTumblingWindow(t *testing.T) {
	var window TumblingWindow
	add := func(time int64, x float64) (Window, bool) { return window.Add(time, x, 10) }
	for _, step := range []struct {
		time int64
		x    float64
	}{{-1, 4}, {-10, 8}, {-11, 100}} {
		if _, ok := add(step.time, step.x); ok {
			t.Errorf("a window closed at %d", step.time)
		}
	}
	closed, ok := add(25, 1)
	check(t, ok, true)
	check(t, closed, Window{-10, 0, 2, 12, 4, 8, 6})
	check(t, window.Index, 2)
}

type slider struct{ window *SlidingWindow }

func (own slider) OnReading(device Device, reading *Reading, _ *NoState) error {
	if value, ok := reading.Number("x"); ok {
		own.window.Add(device, reading.Time(), value)
	}
	over := own.window.Over(device, reading.Time())
	Log.Info("%d %g %g %g %g", over.Count, over.Sum, over.Min, over.Max, over.Mean)
	return nil
}

func TestSlidingWindow(t *testing.T) {
	register(Manifest{StateVersion: 1}, func(none) (Rule, Subscription, error) {
		return PerDevice(slider{NewSlidingWindow(7, 3, 30)}), On("x"), nil
	})
	fake := newHost(t, "{}")
	fake.batch(x(1, -15, 1), x(1, -9, 2), x(1, 5, 3))
	check(t, fake.took(), "log 1: 1 1 1 1 1\nlog 1: 2 3 1 2 1.5\nlog 1: 3 6 1 3 2\n"+
		"store 7 of 1: 40 bytes\nstore 8 of 1: 40 bytes\nstore 9 of 1: 40 bytes")
	check(t, fake.counted("load"), 3)
	// The next piece takes the place of the oldest, and is the only one to be stored; what is older is ignored then.
	fake.batch(x(1, 12, 4), x(1, -20, 9))
	check(t, fake.took(), "log 1: 3 9 2 4 3\nlog 1: 0 0 NaN NaN NaN\nstore 8 of 1: 40 bytes")
	check(t, fake.counted("load"), 0)
}
