package rule

import (
	"unsafe"

	"watchfire/rule/internal/host"
)

// Reading is a row of the batch, valid until OnReading returns: what a device said at one time.
type Reading struct {
	batch *Batch
	row   int
	// next is where the column is expected that is asked for next, for numbers and for what is derived: a rule asks for
	// the same metrics in the same order at each row.
	next, nextDerived int
}

// eachReading calls a rule for the rows of a batch.
func eachReading[S any](batch *Batch, rule DeviceRule[S], states *Store[S]) error {
	reading := &Reading{batch: batch}
	mask := batch.present()
	for row, handle := range batch.Handles() {
		if mask != nil && !mask[row] {
			continue
		}
		reading.row, reading.next, reading.nextDerived = row, 0, 0
		device := Device{handle, int32(row)}
		if err := rule.OnReading(device, reading, states.At(device)); err != nil {
			return err
		}
	}
	return nil
}

// Time is when the device says it measured (event time), in microseconds since 1970. It may go back.
func (reading *Reading) Time() int64 {
	if batch := reading.batch; batch.hasTimes {
		return batch.times[reading.row]
	}
	return reading.batch.Times()[reading.row]
}

// same says whether two names are one text in one place, as a constant of the rule is each time.
func same(a, b string) bool { return unsafe.StringData(a) == unsafe.StringData(b) && len(a) == len(b) }

// Number is the value of a metric, where the reading has one that is a number.
func (reading *Reading) Number(metric string) (number float64, ok bool) {
	if columns := reading.batch.numbers; reading.next < len(columns) {
		if column := &columns[reading.next]; same(column.metric, metric) {
			reading.next++
			number = column.values[reading.row]
			return number, number == number
		}
	}
	return reading.findNumber(metric)
}

func (reading *Reading) findNumber(metric string) (float64, bool) {
	batch := reading.batch
	values := batch.Numbers(metric)
	for i := range batch.numbers {
		if column := &batch.numbers[i]; column.metric == metric {
			column.metric = metric
			reading.next = i + 1
			break
		}
	}
	number := values[reading.row]
	return number, number == number
}

// Text is the value of a metric, where the reading has one that is a text.
func (reading *Reading) Text(metric string) (text string, ok bool) {
	dictionary, codes := reading.batch.Texts(metric)
	if code := codes[reading.row]; code != host.NoText {
		return dictionary[code], true
	}
	return "", false
}

// Flag is the value of a metric, where the reading has one that is a flag.
func (reading *Reading) Flag(metric string) (flag, ok bool) {
	value := reading.batch.Flags(metric)[reading.row]
	return value == 1, value != host.NoFlag
}

// Derive adds or replaces a number of the reading on the output stream; NaN: no value.
func (reading *Reading) Derive(metric string, value float64) {
	if value-value != 0 && value == value {
		panicf("derive %s: the value is infinite", metric)
	}
	if columns := effects.derived; reading.nextDerived < len(columns) {
		if column := &columns[reading.nextDerived]; same(column.metric, metric) {
			reading.nextDerived++
			column.values[reading.row] = value
			return
		}
	}
	effects.column(metric)[reading.row] = value
	for i := range effects.derived {
		if column := &effects.derived[i]; column.metric == metric {
			column.metric = metric
			reading.nextDerived = i + 1
			break
		}
	}
}

// Drop leaves the reading out of the output stream.
func (reading *Reading) Drop() { effects.dropRow(reading.row) }
