package rule

import "math"

// What follows is the same in each language of Watchfire, to the last bit: IEEE 754 double precision, the operations in
// the order written. A product is converted before it is added: Go may otherwise fuse the two, with one rounding in place
// of two, where the processor can. All are plain values that can be fields of a state.

// Ewma is an exponentially weighted mean and variance.
type Ewma struct {
	Mean, Variance float64
	Count          int64
}

// Update takes a value; alpha is its weight, above 0 and at most 1.
func (ewma *Ewma) Update(x, alpha float64) {
	if ewma.Count == 0 {
		ewma.Mean, ewma.Variance = x, 0
	} else {
		delta := x - ewma.Mean
		step := float64(alpha * delta)
		ewma.Mean += step
		ewma.Variance = float64((1 - alpha) * (ewma.Variance + float64(step*delta)))
	}
	ewma.Count++
}

// Deviation is how far a value is from the mean, in standard deviations; 0 where nothing varied yet.
func (ewma *Ewma) Deviation(x float64) float64 {
	if ewma.Variance == 0 {
		return 0
	}
	return (x - ewma.Mean) / math.Sqrt(ewma.Variance)
}

// RateOfChange is the slope between two readings.
type RateOfChange struct {
	Value float64
	Time  int64
	Known bool
}

// Update takes a value and gives the change since the one before, in units per second; none for the first, and for one that
// is not later, which is passed over.
func (rate *RateOfChange) Update(time int64, x float64) (perSecond float64, ok bool) {
	if rate.Known && time <= rate.Time {
		return 0, false
	}
	if rate.Known {
		perSecond, ok = (x-rate.Value)/(float64(time-rate.Time)/1e6), true
	}
	*rate = RateOfChange{x, time, true}
	return perSecond, ok
}

// Edge is what a [Hysteresis] did.
type Edge int8

// What a [Hysteresis] does.
const (
	Falling   Edge = -1
	Unchanged Edge = 0
	Rising    Edge = 1
)

// Hysteresis is a condition with two limits.
type Hysteresis struct{ Active bool }

// Update takes a value. With on at or above off it is for high values: active above on, until below off. With on below off
// it is for low ones: active below on, until above off.
func (hysteresis *Hysteresis) Update(x, on, off float64) Edge {
	high := on >= off
	switch {
	case !hysteresis.Active && (high && x > on || !high && x < on):
		hysteresis.Active = true
		return Rising
	case hysteresis.Active && (high && x < off || !high && x > off):
		hysteresis.Active = false
		return Falling
	}
	return Unchanged
}

// Debounce is a condition that has to hold for some time.
type Debounce struct {
	Since   int64
	Pending bool
}

// Update takes whether the condition holds at a time, and says whether it has held for so many microseconds.
func (debounce *Debounce) Update(condition bool, time, hold int64) bool {
	if !condition {
		debounce.Pending = false
		return false
	}
	if !debounce.Pending {
		debounce.Pending, debounce.Since = true, time
	}
	return time-debounce.Since >= hold
}

// Window is what a window says of its values.
type Window struct {
	// Start and End are times; a value of Start is in it, one of End is not.
	Start, End int64
	// Count is how many values there are; without any, Min, Max and Mean are NaN.
	Count               int64
	Sum, Min, Max, Mean float64
}

// span is a piece of a window as it is kept.
type span struct {
	Index, Count  int64
	Sum, Min, Max float64
}

func (own *span) open(index int64, x float64) { *own = span{index, 1, x, x, x} }

func (own *span) add(x float64) {
	own.Count++
	own.Sum += x
	own.Min, own.Max = lower(own.Min, x), higher(own.Max, x)
}

// lower and higher are not the built-in min and max, which order the two zeros.
func lower(a, b float64) float64 {
	if b < a {
		return b
	}
	return a
}

func higher(a, b float64) float64 {
	if b > a {
		return b
	}
	return a
}

// floorDivide is the quotient rounded down, also before 1970.
func floorDivide(time, length int64) int64 {
	quotient := time / length
	if time%length < 0 {
		quotient--
	}
	return quotient
}

// TumblingWindow is windows one after the other, cut at multiples of their span.
type TumblingWindow struct{ span }

// Add takes a value, and gives the window that it closed: a later one began. A value of a window that is closed is
// ignored.
func (window *TumblingWindow) Add(time int64, x float64, length int64) (closed Window, ok bool) {
	if length <= 0 {
		panicf("a window of %d microseconds", length)
	}
	index := floorDivide(time, length)
	switch {
	case window.Count == 0:
		window.open(index, x)
	case index == window.Index:
		window.add(x)
	case index > window.Index:
		start := window.Index * length
		closed = Window{start, start + length, window.Count, window.Sum, window.Min, window.Max, window.Sum / float64(window.Count)}
		window.open(index, x)
		return closed, true
	}
	return Window{}, false
}

// SlidingWindow is the last so many microseconds. It is kept in pieces, each in a slot of its own, so that a value rewrites
// one of them; what slides out does so a piece at a time. It is a field of the rule, not of its state.
type SlidingWindow struct {
	length int64
	pieces []*Store[span]
}

// NewSlidingWindow makes a window of so many microseconds in so many pieces, in that many slots from the first on. To be
// called by the function given to [Register].
func NewSlidingWindow(firstSlot uint32, pieces int, length int64) *SlidingWindow {
	if pieces <= 0 || length < int64(pieces) {
		panicf("a window of %d microseconds in %d pieces", length, pieces)
	}
	window := &SlidingWindow{length: length / int64(pieces)}
	for i := range pieces {
		window.pieces = append(window.pieces, NewStore[span](firstSlot+uint32(i)))
	}
	return window
}

// piece is the store of a piece.
func (window *SlidingWindow) piece(index int64) *Store[span] {
	count := int64(len(window.pieces))
	return window.pieces[index-floorDivide(index, count)*count]
}

// Add takes a value of a device. One that is so late that its piece is used again is ignored.
func (window *SlidingWindow) Add(device Device, time int64, x float64) {
	index := floorDivide(time, window.length)
	switch own := window.piece(index).At(device); {
	case own.Count == 0 || own.Index < index:
		own.open(index, x)
	case own.Index == index:
		own.add(x)
	}
}

// Over is the window of a device that ends with the piece of a time.
func (window *SlidingWindow) Over(device Device, time int64) Window {
	last := floorDivide(time, window.length)
	first := last - int64(len(window.pieces)) + 1
	answer := Window{Start: first * window.length, End: (last + 1) * window.length}
	for index := first; index <= last; index++ {
		own := window.piece(index).At(device)
		if own.Count == 0 || own.Index != index {
			continue
		}
		if answer.Count == 0 {
			answer.Min, answer.Max = own.Min, own.Max
		}
		answer.Count += own.Count
		answer.Sum += own.Sum
		answer.Min, answer.Max = lower(answer.Min, own.Min), higher(answer.Max, own.Max)
	}
	if answer.Count == 0 {
		answer.Min, answer.Max = math.NaN(), math.NaN()
	}
	answer.Mean = answer.Sum / float64(answer.Count)
	return answer
}
