package rule

import (
	"slices"
	"strings"

	"watchfire/rule/internal/host"
)

// Batch is the readings of a callback, as columns: rows are readings in the order of the log, and where a batch was cut
// is chance. A column is fetched when it is asked for the first time, and is valid until the callback returns; it is the
// callback's own and may be changed.
type Batch struct {
	rows    int
	devices []uint32
	times   []int64
	// What is known only when it is asked for.
	hasDevices, hasTimes, hasDistinct bool
	unique                            []uint32
	seen                              []uint64

	numbers []numbers
	texts   []texts
	flags   []flags

	// What was subscribed to: names, and what precedes a '*'. No names: everything.
	names    []string
	prefixes []string
	mask     []bool
}

type numbers struct {
	metric string
	values []float64
}

type texts struct {
	metric string
	column host.TextColumn
}

type flags struct {
	metric string
	values []uint8
}

// batch is that of this callback. There is one: what it allocates is used again.
var batch Batch

// begin makes it the batch of this callback; nothing is fetched yet.
func (batch *Batch) begin() { batch.rows = int(host.Rows()) }

// end makes it the batch of no rows, which is what there is outside of OnBatch and OnReading.
func (batch *Batch) end() {
	batch.rows, batch.devices, batch.times = 0, nil, nil
	batch.hasDevices, batch.hasTimes, batch.hasDistinct = false, false, false
	clear(batch.numbers)
	clear(batch.texts)
	clear(batch.flags)
	batch.numbers, batch.texts, batch.flags = batch.numbers[:0], batch.texts[:0], batch.flags[:0]
}

func (batch *Batch) subscribe(metrics []string) {
	batch.names, batch.prefixes = nil, nil
	for _, metric := range metrics {
		if prefix, wild := strings.CutSuffix(metric, "*"); wild {
			batch.prefixes = append(batch.prefixes, prefix)
		} else {
			batch.names = append(batch.names, metric)
		}
	}
}

// Rows is how many rows there are.
func (batch *Batch) Rows() int { return batch.rows }

// Stream is the stream that the readings are of.
func (batch *Batch) Stream() string { return host.StreamName() }

// Columns are the names of the columns with at least one value in this batch.
func (batch *Batch) Columns() []string {
	columns := host.Columns()
	names := make([]string, len(columns))
	for i, column := range columns {
		names[i] = column.Metric
	}
	return names
}

// Handles are the devices of the rows, by their handles.
func (batch *Batch) Handles() []uint32 {
	if !batch.hasDevices {
		batch.hasDevices = true
		if batch.rows > 0 {
			batch.devices = host.Devices()
		}
	}
	return batch.devices
}

// Device is the device of a row, which it carries into what is triggered and cleared.
func (batch *Batch) Device(row int) Device {
	if !batch.hasDevices {
		batch.Handles()
	}
	return Device{batch.devices[row], int32(row)}
}

// Times are the event times of the rows: when the devices say they measured. They may go back.
func (batch *Batch) Times() []int64 {
	if !batch.hasTimes {
		batch.hasTimes = true
		if batch.rows > 0 {
			batch.times = host.Times()
		}
	}
	return batch.times
}

// Numbers is a column of numbers; NaN: no value. A metric that the batch lacks is a column of no values.
func (batch *Batch) Numbers(metric string) []float64 {
	for i := range batch.numbers {
		if batch.numbers[i].metric == metric {
			return batch.numbers[i].values
		}
	}
	column := numbers{metric, host.Numbers(metric)}
	batch.numbers = append(batch.numbers, column)
	return column.values
}

// NoText is the code of a row without a value in a column of texts.
const NoText uint32 = host.NoText

// NoFlag is what a row without a value has in a column of flags.
const NoFlag uint8 = host.NoFlag

// Texts is a column of texts: codes into a dictionary; [NoText]: no value.
func (batch *Batch) Texts(metric string) (dictionary []string, codes []uint32) {
	for i := range batch.texts {
		if batch.texts[i].metric == metric {
			return batch.texts[i].column.Dictionary, batch.texts[i].column.Codes
		}
	}
	column := texts{metric, host.Texts(metric)}
	batch.texts = append(batch.texts, column)
	return column.column.Dictionary, column.column.Codes
}

// Flags is a column of flags: 0 false, 1 true; [NoFlag]: no value.
func (batch *Batch) Flags(metric string) []uint8 {
	for i := range batch.flags {
		if batch.flags[i].metric == metric {
			return batch.flags[i].values
		}
	}
	column := flags{metric, host.Flags(metric)}
	batch.flags = append(batch.flags, column)
	return column.values
}

// Derive adds or replaces a column of numbers on the output stream, an entry for each row; NaN: no value.
func (batch *Batch) Derive(metric string, values []float64) {
	if len(values) != batch.rows {
		panicf("derive %s: %d values for a batch of %d rows", metric, len(values), batch.rows)
	}
	for _, value := range values {
		if value-value != 0 && value == value {
			panicf("derive %s: a value is infinite", metric)
		}
	}
	copy(effects.column(metric), values)
}

// Drop leaves a row out of the output stream.
func (batch *Batch) Drop(row int) { effects.dropRow(row) }

// distinct are the devices of the batch, each once.
func (batch *Batch) distinct() []uint32 {
	if batch.hasDistinct {
		return batch.unique
	}
	batch.hasDistinct = true
	batch.unique = batch.unique[:0]
	clear(batch.seen)
	handles := batch.Handles()
	if len(handles) == 0 {
		return batch.unique
	}
	if words := int(slices.Max(handles))/64 + 1; words > len(batch.seen) {
		batch.seen = append(batch.seen, make([]uint64, words-len(batch.seen))...)
	}
	for _, handle := range handles {
		word, bit := &batch.seen[handle/64], uint64(1)<<(handle%64)
		if *word&bit == 0 {
			*word |= bit
			batch.unique = append(batch.unique, handle)
		}
	}
	return batch.unique
}

// present says for each row whether it has a metric that was subscribed to; nil: all have.
func (batch *Batch) present() []bool {
	if len(batch.names) == 0 && len(batch.prefixes) == 0 {
		return nil
	}
	if cap(batch.mask) < batch.rows {
		batch.mask = make([]bool, batch.rows)
	}
	mask := batch.mask[:batch.rows]
	clear(mask)
	for _, column := range host.Columns() {
		if !batch.subscribed(column.Metric) {
			continue
		}
		switch column.Kind {
		case host.Number:
			for row, value := range batch.Numbers(column.Metric) {
				if value == value {
					mask[row] = true
				}
			}
		case host.Text:
			_, codes := batch.Texts(column.Metric)
			for row, code := range codes {
				if code != host.NoText {
					mask[row] = true
				}
			}
		case host.Flag:
			for row, flag := range batch.Flags(column.Metric) {
				if flag != host.NoFlag {
					mask[row] = true
				}
			}
		}
	}
	return mask
}

func (batch *Batch) subscribed(metric string) bool {
	for _, prefix := range batch.prefixes {
		if strings.HasPrefix(metric, prefix) {
			return true
		}
	}
	return slices.Contains(batch.names, metric)
}
