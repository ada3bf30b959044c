package rule

import "watchfire/rule/internal/host"

// Value is a label: a number, a text, a flag, or none, which is the zero value.
type Value struct{ value host.Value }

// IsNone says whether there is no value.
func (value Value) IsNone() bool { return value.value.Kind == host.None }

// Number is the value of a number.
func (value Value) Number() (number float64, ok bool) {
	return value.value.Number, value.value.Kind == host.Number
}

// Text is the value of a text.
func (value Value) Text() (text string, ok bool) {
	return value.value.Text, value.value.Kind == host.Text
}

// Flag is the value of a flag.
func (value Value) Flag() (flag, ok bool) {
	return value.value.Flag, value.value.Kind == host.Flag
}

// Detail is a named value of an alert.
type Detail struct {
	name  string
	value host.Value
}

// Number is a detail that is a number.
func Number[T ~float64 | ~float32 | ~int | ~int64 | ~int32 | ~uint32](name string, value T) Detail {
	return Detail{name, host.Value{Kind: host.Number, Number: float64(value)}}
}

// Text is a detail that is a text.
func Text(name, value string) Detail {
	return Detail{name, host.Value{Kind: host.Text, Text: value}}
}

// Flag is a detail that is a flag.
func Flag(name string, value bool) Detail {
	return Detail{name, host.Value{Kind: host.Flag, Flag: value}}
}

// Labelled is a detail that is a label of a device; one that the device has not is refused.
func Labelled(name string, value Value) Detail { return Detail{name, value.value} }

// Severity is how bad a condition is. A parameter of this type is a choice of their names.
type Severity uint8

// The severities, from the least.
const (
	Info Severity = iota
	Warning
	Minor
	Major
	Critical
)

var severities = [...]string{"info", "warning", "minor", "major", "critical"}

// String is the name of a severity, as in parameters and documents.
func (severity Severity) String() string {
	if severity > Critical {
		return "no severity"
	}
	return severities[severity]
}
