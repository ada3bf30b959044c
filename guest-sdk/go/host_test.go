package rule

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"watchfire/rule/internal/callbacks"
	"watchfire/rule/internal/host"
)

// row is a reading of a test: what a device said of metrics at a time.
type row struct {
	device uint32
	time   int64
	values map[string]any
}

// fakeHost is the engine of a test: it keeps state, and writes down what the rule did, a line each.
type fakeHost struct {
	config    string
	rows      []row
	now       int64
	names     []string
	labels    map[string]map[uint32]host.Value
	version   uint64
	state     map[[2]uint32][]byte
	calls     []string
	said      []string
	keepMask  []uint8
	derived   map[string][]float64
	attribute int
}

func newHost(t *testing.T, config string) *fakeHost {
	fake := &fakeHost{
		config:  config,
		names:   []string{"press-0", "press-1", "press-2", "press-3"},
		labels:  map[string]map[uint32]host.Value{},
		state:   map[[2]uint32][]byte{},
		derived: map[string][]float64{},
	}
	before := host.Native
	host.Native = fake
	registry = cachedRegistry{}
	instance = nil
	t.Cleanup(func() { host.Native = before })
	return fake
}

// register makes a module of a rule; the one of another test is forgotten.
func register[P any](manifest Manifest, start func(P) (Rule, Subscription, error)) {
	module.start = nil
	Register(manifest, start)
}

// batch calls the rule for readings.
func (fake *fakeHost) batch(rows ...row) error {
	fake.rows, fake.keepMask, fake.derived = rows, nil, map[string][]float64{}
	defer func() { fake.rows = nil }()
	return callbacks.OnBatch()
}

// took is what was said since it was asked last.
func (fake *fakeHost) took() string {
	said := strings.Join(fake.said, "\n")
	fake.said = nil
	return said
}

// counted is how often a function of the contract was called since it was asked last.
func (fake *fakeHost) counted(name string) int {
	count := 0
	for _, call := range fake.calls {
		if call == name {
			count++
		}
	}
	fake.calls = nil
	return count
}

func (fake *fakeHost) call(name string) { fake.calls = append(fake.calls, name) }
func (fake *fakeHost) say(format string, arguments ...any) {
	fake.said = append(fake.said, fmt.Sprintf(format, arguments...))
}
func (fake *fakeHost) StreamName() string              { return "readings" }
func (fake *fakeHost) Rows() uint32                    { return uint32(len(fake.rows)) }
func (fake *fakeHost) Now() int64                      { fake.call("now"); return fake.now }
func (fake *fakeHost) Version() uint64                 { return fake.version }
func (fake *fakeHost) Config() string                  { return fake.config }
func (fake *fakeHost) Log(level uint8, message string) { fake.say("log %d: %s", level, message) }
func (fake *fakeHost) Name(device uint32) string       { fake.call("name"); return fake.names[device] }
func (fake *fakeHost) Clear(device uint32, key string, r int32) {
	fake.say("clear %d %s row %d", device, key, r)
}
func (fake *fakeHost) Keep(mask []uint8) { fake.keepMask = slices.Clone(mask) }

func (fake *fakeHost) Columns() []host.Column {
	kinds := map[string]host.Kind{}
	for _, row := range fake.rows {
		for metric, value := range row.values {
			switch value.(type) {
			case float64:
				kinds[metric] = host.Number
			case string:
				kinds[metric] = host.Text
			case bool:
				kinds[metric] = host.Flag
			}
		}
	}
	var columns []host.Column
	for metric, kind := range kinds {
		columns = append(columns, host.Column{Metric: metric, Kind: kind})
	}
	return columns
}

func (fake *fakeHost) Devices() []uint32 {
	var devices []uint32
	for _, row := range fake.rows {
		devices = append(devices, row.device)
	}
	return devices
}

func (fake *fakeHost) Times() []int64 {
	var times []int64
	for _, row := range fake.rows {
		times = append(times, row.time)
	}
	return times
}

func (fake *fakeHost) Numbers(metric string) []float64 {
	fake.call("numbers")
	var column []float64
	for _, row := range fake.rows {
		number, ok := row.values[metric].(float64)
		if !ok {
			number = math.NaN()
		}
		column = append(column, number)
	}
	return column
}

func (fake *fakeHost) Texts(metric string) host.TextColumn {
	var column host.TextColumn
	for _, row := range fake.rows {
		text, ok := row.values[metric].(string)
		if !ok {
			column.Codes = append(column.Codes, host.NoText)
			continue
		}
		column.Codes = append(column.Codes, uint32(len(column.Dictionary)))
		column.Dictionary = append(column.Dictionary, text)
	}
	return column
}

func (fake *fakeHost) Flags(metric string) []uint8 {
	var column []uint8
	for _, row := range fake.rows {
		switch flag, ok := row.values[metric].(bool); {
		case !ok:
			column = append(column, host.NoFlag)
		case flag:
			column = append(column, 1)
		default:
			column = append(column, 0)
		}
	}
	return column
}

func (fake *fakeHost) Attribute(name string, devices []uint32) []host.Value {
	fake.call("attribute")
	var values []host.Value
	for _, device := range devices {
		values = append(values, fake.labels[name][device])
	}
	return values
}

func (fake *fakeHost) Find(name string) (uint32, bool) {
	at := slices.Index(fake.names, name)
	return uint32(max(at, 0)), at >= 0
}

func (fake *fakeHost) Selected(after uint32, first bool, limit uint32) []uint32 {
	var devices []uint32
	for device := range uint32(len(fake.names)) {
		if (first || device > after) && uint32(len(devices)) < limit {
			devices = append(devices, device)
		}
	}
	return devices
}

func (fake *fakeHost) Trigger(alert host.Alert) {
	text := fmt.Sprintf("trigger %d %s %s row %d", alert.Device, alert.Key, Severity(alert.Severity), alert.Row)
	for _, detail := range alert.Details {
		switch detail.Value.Kind {
		case host.Number:
			text += fmt.Sprintf(" %s=%g", detail.Name, detail.Value.Number)
		case host.Text:
			text += fmt.Sprintf(" %s=%s", detail.Name, detail.Value.Text)
		case host.Flag:
			text += fmt.Sprintf(" %s=%t", detail.Name, detail.Value.Flag)
		}
	}
	fake.said = append(fake.said, text)
}

func (fake *fakeHost) Derive(metric string, values []float64) {
	fake.derived[metric] = slices.Clone(values)
}

func (fake *fakeHost) Emit(readings []host.Reading) {
	for _, reading := range readings {
		fake.say("emit %s %s at %d: %v", reading.Device, reading.Metric, reading.Time, reading.Value.Number)
	}
}

func (fake *fakeHost) Load(slot uint32, devices []uint32) host.Blobs {
	fake.call("load")
	var blobs host.Blobs
	for _, device := range devices {
		blob := fake.state[[2]uint32{slot, device}]
		blobs.Lengths = append(blobs.Lengths, uint32(len(blob)))
		blobs.Data = append(blobs.Data, blob...)
	}
	return blobs
}

func (fake *fakeHost) Store(slot uint32, devices []uint32, states host.Blobs) {
	fake.call("store")
	for i, device := range devices {
		blob := slices.Clone(states.Data[:states.Lengths[i]])
		states.Data = states.Data[states.Lengths[i]:]
		fake.say("store %d of %d: %d bytes", slot, device, len(blob))
		delete(fake.state, [2]uint32{slot, device})
		if len(blob) > 0 {
			fake.state[[2]uint32{slot, device}] = blob
		}
	}
}

func (fake *fakeHost) SetTimers(timers []host.Timer) {
	for _, timer := range timers {
		fake.say("set %d of %d at %d", timer.Tag, timer.Device, timer.At)
	}
}

func (fake *fakeHost) CancelTimers(timers []host.Timer) {
	for _, timer := range timers {
		fake.say("cancel %d of %d", timer.Tag, timer.Device)
	}
}
