//go:build wasip1

package host

import (
	"strings"

	witRuntime "go.bytecodealliance.org/pkg/wit/runtime"
	wit "go.bytecodealliance.org/pkg/wit/types"

	"watchfire/rule/internal/imports/watchfire_rule_alerts"
	"watchfire/rule/internal/imports/watchfire_rule_clock"
	"watchfire/rule/internal/imports/watchfire_rule_config"
	"watchfire/rule/internal/imports/watchfire_rule_devices"
	"watchfire/rule/internal/imports/watchfire_rule_log"
	"watchfire/rule/internal/imports/watchfire_rule_output"
	"watchfire/rule/internal/imports/watchfire_rule_readings"
	"watchfire/rule/internal/imports/watchfire_rule_state"
	"watchfire/rule/internal/imports/watchfire_rule_timers"
	"watchfire/rule/internal/imports/watchfire_rule_types"
)

// Component says whether this is a component.
const Component = true

// Begin is to be called first in each callback. What the host handed over stays pinned until it is; the generated
// code does it for exports with lists or strings among their parameters only, and without it the component keeps
// every column it ever read.
func Begin() { witRuntime.Unpin() }

// text makes a text that can be handed over: one that is no UTF-8 traps at the border, without a word.
func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func value(v Value) watchfire_rule_types.Value {
	switch v.Kind {
	case Text:
		return watchfire_rule_types.MakeValueText(text(v.Text))
	case Flag:
		return watchfire_rule_types.MakeValueBoolean(v.Flag)
	default:
		return watchfire_rule_types.MakeValueNumber(v.Number)
	}
}

func row(row int32) wit.Option[uint32] {
	if row < 0 {
		return wit.None[uint32]()
	}
	return wit.Some(uint32(row))
}

// The functions of the contract.

func StreamName() string              { return watchfire_rule_readings.StreamName() }
func Rows() uint32                    { return watchfire_rule_readings.Rows() }
func Devices() []uint32               { return watchfire_rule_readings.Devices() }
func Times() []int64                  { return watchfire_rule_readings.Times() }
func Numbers(metric string) []float64 { return watchfire_rule_readings.Numbers(text(metric)) }
func Flags(metric string) []uint8     { return watchfire_rule_readings.Booleans(text(metric)) }
func Now() int64                      { return watchfire_rule_clock.Now() }
func Name(device uint32) string       { return watchfire_rule_devices.Name(device) }
func Version() uint64                 { return watchfire_rule_devices.Version() }
func Keep(mask []uint8)               { watchfire_rule_output.Keep(mask) }
func Config() string                  { return watchfire_rule_config.Json() }

func Columns() []Column {
	columns := watchfire_rule_readings.Columns()
	answer := make([]Column, len(columns))
	for i, column := range columns {
		kind := Number
		switch column.Kind {
		case watchfire_rule_readings.Kind_Text:
			kind = Text
		case watchfire_rule_readings.Kind_Boolean:
			kind = Flag
		}
		answer[i] = Column{column.Metric, kind}
	}
	return answer
}

func Texts(metric string) TextColumn {
	column := watchfire_rule_readings.Texts(text(metric))
	return TextColumn{column.Dictionary, column.Codes}
}

func Attribute(name string, devices []uint32) []Value {
	values := watchfire_rule_devices.Attribute(text(name), devices)
	answer := make([]Value, len(values))
	for i, value := range values {
		if value.IsNone() {
			continue
		}
		switch value := value.Some(); value.Tag() {
		case watchfire_rule_types.Value_Number:
			answer[i] = Value{Kind: Number, Number: value.Number()}
		case watchfire_rule_types.Value_Text:
			answer[i] = Value{Kind: Text, Text: value.Text()}
		case watchfire_rule_types.Value_Boolean:
			answer[i] = Value{Kind: Flag, Flag: value.Boolean()}
		}
	}
	return answer
}

func Find(name string) (uint32, bool) {
	device := watchfire_rule_devices.Find(text(name))
	return device.SomeOr(0), device.IsSome()
}

func Selected(after uint32, first bool, limit uint32) []uint32 {
	if first {
		return watchfire_rule_devices.Selected(wit.None[uint32](), limit)
	}
	return watchfire_rule_devices.Selected(wit.Some(after), limit)
}

func Trigger(alert Alert) {
	details := make([]watchfire_rule_types.Detail, len(alert.Details))
	for i, detail := range alert.Details {
		details[i] = watchfire_rule_types.Detail{Name: text(detail.Name), Value: value(detail.Value)}
	}
	watchfire_rule_alerts.Trigger(watchfire_rule_alerts.Alert{
		Device:   alert.Device,
		Key:      text(alert.Key),
		Severity: watchfire_rule_alerts.Severity(alert.Severity),
		Summary:  text(alert.Summary),
		Details:  details,
		Row:      row(alert.Row),
	})
}

func Clear(device uint32, key string, at int32) {
	watchfire_rule_alerts.Clear(device, text(key), row(at))
}

func Derive(metric string, values []float64) { watchfire_rule_output.Derive(text(metric), values) }

func Emit(readings []Reading) {
	list := make([]watchfire_rule_output.Reading, len(readings))
	for i, reading := range readings {
		list[i] = watchfire_rule_output.Reading{
			Device: text(reading.Device),
			Time:   reading.Time,
			Metric: text(reading.Metric),
			Value:  value(reading.Value),
		}
	}
	watchfire_rule_output.Emit(list)
}

func Load(slot uint32, devices []uint32) Blobs {
	blobs := watchfire_rule_state.Load(slot, devices)
	return Blobs{blobs.Lengths, blobs.Data}
}

func Store(slot uint32, devices []uint32, states Blobs) {
	watchfire_rule_state.Store(slot, devices, watchfire_rule_types.Blobs{Lengths: states.Lengths, Data: states.Data})
}

func timers(timers []Timer) []watchfire_rule_timers.Timer {
	list := make([]watchfire_rule_timers.Timer, len(timers))
	for i, timer := range timers {
		list[i] = watchfire_rule_timers.Timer{Device: timer.Device, Tag: timer.Tag, At: timer.At}
	}
	return list
}

func SetTimers(list []Timer)    { watchfire_rule_timers.Set(timers(list)) }
func CancelTimers(list []Timer) { watchfire_rule_timers.Cancel(timers(list)) }

func Log(level uint8, message string) {
	watchfire_rule_log.Write(watchfire_rule_log.Level(level), text(message))
}
