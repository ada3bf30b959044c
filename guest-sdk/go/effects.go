package rule

import (
	"fmt"
	"math"

	"watchfire/rule/internal/host"
)

// effects are what a callback did and has not handed over yet: that is done once, at its end.
var effects collected

type collected struct {
	derived []numbers
	spare   [][]float64
	mask    []uint8
	emitted []host.Reading
	timers  []timerChange

	// How they are handed over. Set where they are collected: a component imports what these call only if the rule uses
	// it, and its imports are what it can do.
	flushDerived func([]numbers)
	flushMask    func([]uint8)
	flushEmitted func([]host.Reading)
	flushTimers  func([]timerChange)
}

type timerChange struct {
	timer  host.Timer
	cancel bool
}

func panicf(format string, arguments ...any) { panic(fmt.Sprintf(format, arguments...)) }

func (effects *collected) reset() {
	for i := range effects.derived {
		effects.spare = append(effects.spare, effects.derived[i].values)
	}
	clear(effects.derived)
	effects.derived = effects.derived[:0]
	effects.mask = effects.mask[:0]
	effects.emitted = effects.emitted[:0]
	effects.timers = effects.timers[:0]
}

// column is a derived column, of no values at first.
func (effects *collected) column(metric string) []float64 {
	for i := range effects.derived {
		if effects.derived[i].metric == metric {
			return effects.derived[i].values
		}
	}
	if batch.rows == 0 {
		panicf("derive %s: there are no rows outside of the callbacks for readings", metric)
	}
	var values []float64
	if last := len(effects.spare) - 1; last >= 0 {
		values, effects.spare = effects.spare[last], effects.spare[:last]
	}
	if cap(values) < batch.rows {
		values = make([]float64, batch.rows)
	}
	values = values[:batch.rows]
	none := math.NaN()
	for i := range values {
		values[i] = none
	}
	effects.derived = append(effects.derived, numbers{metric, values})
	effects.flushDerived = func(columns []numbers) {
		for _, column := range columns {
			host.Derive(column.metric, column.values)
		}
	}
	return values
}

func (effects *collected) dropRow(row int) {
	if len(effects.mask) == 0 {
		for range batch.rows {
			effects.mask = append(effects.mask, 1)
		}
		effects.flushMask = host.Keep
	}
	effects.mask[row] = 0
}

func (effects *collected) timer(timer host.Timer, cancel bool) {
	effects.timers = append(effects.timers, timerChange{timer, cancel})
	effects.flushTimers = handOverTimers
}

func (effects *collected) emit(device, metric string, value host.Value, time int64) {
	effects.emitted = append(effects.emitted, host.Reading{Device: device, Time: time, Metric: metric, Value: value})
	effects.flushEmitted = host.Emit
}

func (effects *collected) flush() {
	if len(effects.derived) > 0 {
		effects.flushDerived(effects.derived)
	}
	if len(effects.mask) > 0 {
		effects.flushMask(effects.mask)
	}
	if len(effects.emitted) > 0 {
		effects.flushEmitted(effects.emitted)
	}
	if len(effects.timers) > 0 {
		effects.flushTimers(effects.timers)
	}
}

// handOverTimers makes one call for those that are set and one for those that are taken back. The contract has no
// order between the two, so what counts is the last change of each timer.
func handOverTimers(changes []timerChange) {
	type identity struct{ device, tag uint32 }
	last := make(map[identity]int, len(changes))
	for i, change := range changes {
		last[identity{change.timer.Device, change.timer.Tag}] = i
	}
	var set, cancelled []host.Timer
	for i, change := range changes {
		switch {
		case last[identity{change.timer.Device, change.timer.Tag}] != i:
		case change.cancel:
			cancelled = append(cancelled, change.timer)
		default:
			set = append(set, change.timer)
		}
	}
	if len(set) > 0 {
		host.SetTimers(set)
	}
	if len(cancelled) > 0 {
		host.CancelTimers(cancelled)
	}
}

// Emit puts a reading that belongs to no row onto the output stream: an aggregate, or what comes of a timer. It may be of
// any registered device, by its name.
func Emit(device, metric string, value float64, time int64) {
	if value-value != 0 {
		panicf("emit %s of %s: the value %v is no finite number", metric, device, value)
	}
	effects.emit(device, metric, host.Value{Kind: host.Number, Number: value}, time)
}

// EmitText is [Emit] of a text.
func EmitText(device, metric, value string, time int64) {
	effects.emit(device, metric, host.Value{Kind: host.Text, Text: value}, time)
}

// EmitFlag is [Emit] of a flag.
func EmitFlag(device, metric string, value bool, time int64) {
	effects.emit(device, metric, host.Value{Kind: host.Flag, Flag: value}, time)
}
