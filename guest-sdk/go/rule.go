// Package rule is what a Watchfire rule in Go is written with.
//
// A rule is one file: a struct of parameters, a struct of state, a type with OnReading, and a call of [Register]. A
// whole one:
//
//	package main
//
//	import "watchfire/rule"
//
//	type Parameters struct {
//		High float64 `default:"80" unit:"°C" doc:"Above it."`
//	}
//
//	type State struct {
//		Active bool
//	}
//
//	type Hot struct{ Parameters }
//
//	func (hot *Hot) OnReading(device rule.Device, reading *rule.Reading, state *State) error {
//		x, ok := reading.Number("temperature")
//		switch {
//		case ok && x > hot.High && !state.Active:
//			state.Active = true
//			device.Trigger("hot", rule.Major, "temperature over the limit", rule.Number("value", x))
//		case ok && x <= hot.High && state.Active:
//			state.Active = false
//			device.Clear("hot")
//		}
//		return nil
//	}
//
//	func init() {
//		rule.Register(
//			rule.Manifest{Name: "hot", Version: "0.1.0", Description: "Temperature over a limit.", StateVersion: 1},
//			func(parameters Parameters) (rule.Rule, rule.Subscription, error) {
//				return rule.PerDevice(&Hot{parameters}), rule.On("temperature"), nil
//			})
//	}
//
//	func main() {}
//
// It is registered in init, as the main of a component is never called.
//
// What a rule keeps in its fields is a cache. The host may replace the instance before any callback, and where a
// batch is cut is chance; so everything that a later verdict depends on belongs into the state. After a callback
// that failed the rule is made anew, since what it stored was dropped.
//
// Times are microseconds since 1970, spans are microseconds; see [Second].
package rule

import (
	"errors"
	"fmt"
	"reflect"

	"watchfire/rule/internal/host"
)

// Spans in microseconds.
const (
	Millisecond int64 = 1_000
	Second            = 1_000 * Millisecond
	Minute            = 60 * Second
	Hour              = 60 * Minute
	Day               = 24 * Hour
)

// Seconds is a span given in seconds, as parameters mostly are; what is finer than a microsecond is cut off.
func Seconds(seconds float64) int64 { return int64(float64(seconds * 1e6)) }

// Manifest is what a module says of itself.
type Manifest struct {
	// Name has 1 to 64 characters of a-z 0-9 - _ and '.'.
	Name string
	// Version is the version of the module.
	Version string
	// Description is one or two sentences.
	Description string
	// StateVersion is the version of the layout of the state, from 1; 0: the rule keeps none.
	StateVersion uint32
	// Schema is the JSON Schema of the parameters, for a rule whose parameters are more than tags can say. Empty: it
	// is made of the struct of parameters.
	Schema string
	// Migrate brings the state of a device in a slot from an older StateVersion to the present one; see [Decode] and
	// [Encode]. It is called in an instance that was not started: it must be a function of its arguments alone.
	// Without one, older state is refused.
	Migrate func(oldVersion, slot uint32, state []byte) ([]byte, error)
}

// DeviceRule is a rule that looks at one reading of one device at a time. Its state S is a struct of fields of fixed
// size (see [Decode] for which), or [NoState].
type DeviceRule[S any] interface {
	// OnReading is called for each reading that has one of the metrics subscribed to, in the order of the log. What it
	// leaves in state is kept. An error is a text for the operator; what the whole callback did is dropped.
	OnReading(device Device, reading *Reading, state *S) error
}

// BatchRule is a rule that looks at columns of many readings at once. It keeps state in a [Store].
type BatchRule interface {
	// OnBatch is called for readings. An error is a text for the operator; what the callback did is dropped.
	OnBatch(batch *Batch) error
}

// NoState is the state of a rule that keeps none.
type NoState struct{}

// What a rule of either level may have besides. A method of one of these names with other parameters is refused when
// the rule starts.
type (
	// TimerRule is a [DeviceRule] that sets timers.
	TimerRule[S any] interface {
		// OnTimer is called when a timer of a device is due; at is the time that it was set to.
		OnTimer(device Device, tag uint32, at int64, state *S) error
	}
	// SilenceRule is a [DeviceRule] that hears of silence.
	SilenceRule[S any] interface {
		// OnSilence is called when a device fell silent; last is the event time of its last reading, and heard is
		// false where there never was one. Its next reading ends the silence.
		OnSilence(device Device, last int64, heard bool, state *S) error
	}
	// BatchTimerRule is a [BatchRule] that sets timers.
	BatchTimerRule interface {
		OnTimer(device Device, tag uint32, at int64) error
	}
	// BatchSilenceRule is a [BatchRule] that hears of silence.
	BatchSilenceRule interface {
		OnSilence(device Device, last int64, heard bool) error
	}
	// ScheduleRule is a rule, of either level, with schedules.
	ScheduleRule interface {
		// OnSchedule is called at the times of a schedule of the subscription.
		OnSchedule(name string, at int64) error
	}
)

// Rule is what a rule is for the rest of the SDK, made by [PerDevice] or [PerBatch].
type Rule struct {
	onBatch    func(batch *Batch) error
	onTimer    func(device Device, tag uint32, at int64) error
	onSilence  func(device Device, last int64, heard bool) error
	onSchedule func(name string, at int64) error
	// state is the *Store of a rule per device.
	state any
	err   error
}

// PerDevice makes a rule of a type with OnReading. To be called by the function given to [Register].
func PerDevice[S any](rule DeviceRule[S]) Rule {
	states := NewStore[S](0)
	own := Rule{state: states}
	own.onBatch = func(batch *Batch) error { return eachReading(batch, rule, states) }
	if timers, ok := rule.(TimerRule[S]); ok {
		own.onTimer = func(device Device, tag uint32, at int64) error {
			return timers.OnTimer(device, tag, at, states.At(device))
		}
	}
	if silence, ok := rule.(SilenceRule[S]); ok {
		own.onSilence = func(device Device, last int64, heard bool) error {
			return silence.OnSilence(device, last, heard, states.At(device))
		}
	}
	own.finish(rule, fmt.Sprintf("%T", *new(S)))
	return own
}

// PerBatch makes a rule of a type with OnBatch. To be called by the function given to [Register].
func PerBatch(rule BatchRule) Rule {
	own := Rule{onBatch: rule.OnBatch}
	if timers, ok := rule.(BatchTimerRule); ok {
		own.onTimer = timers.OnTimer
	}
	if silence, ok := rule.(BatchSilenceRule); ok {
		own.onSilence = silence.OnSilence
	}
	own.finish(rule, "")
	return own
}

// finish takes the methods that both levels have, and finds those that have a name of a callback and are none: Go
// would pass over them in silence.
func (own *Rule) finish(rule any, state string) {
	if schedules, ok := rule.(ScheduleRule); ok {
		own.onSchedule = schedules.OnSchedule
	}
	last := ""
	if state != "" {
		last = ", state *" + state
	}
	of := reflect.TypeOf(rule)
	// Constant names: the linker drops all methods that are not called as long as it knows which are asked for.
	if method, there := of.MethodByName("OnTimer"); there && own.onTimer == nil {
		own.wrong(method, "device rule.Device, tag uint32, at int64"+last)
	}
	if method, there := of.MethodByName("OnSilence"); there && own.onSilence == nil {
		own.wrong(method, "device rule.Device, last int64, heard bool"+last)
	}
	if method, there := of.MethodByName("OnSchedule"); there && own.onSchedule == nil {
		own.wrong(method, "name string, at int64")
	}
}

func (own *Rule) wrong(method reflect.Method, want string) {
	own.err = fmt.Errorf("%s is not a callback: it has to be func(%s) error", method.Name, want)
}

// Subscription is what a rule wants to be called for, given its parameters.
type Subscription struct {
	// Metrics of the readings that it gets; none: all. A trailing '*' matches any suffix.
	Metrics []string
	// Silence says when a device counts as silent.
	Silence Silence
	// Schedules are times at which it is called whatever comes.
	Schedules []Schedule
}

// On is a subscription to readings with any of these metrics; without one, to all readings.
func On(metrics ...string) Subscription { return Subscription{Metrics: metrics} }

// Silence says when a device counts as silent. The zero value: never.
type Silence struct {
	kind  host.SilenceKind
	after int64
}

// SilentByRegistry is silence after twice the interval that the registry expects of the device.
var SilentByRegistry = Silence{kind: host.SilenceRegistry}

// SilentAfter is silence after a span.
func SilentAfter(span int64) Silence { return Silence{host.SilenceAfter, span} }

// Schedule is a time at which a rule is called.
type Schedule struct {
	// Name is what the rule calls it.
	Name string
	// Cron has five fields in their Unix meaning.
	Cron string
	// Zone is an IANA time zone; empty: UTC.
	Zone string
}

// module is what was registered.
var module struct {
	manifest Manifest
	schema   string
	start    func(parameters string) (Rule, Subscription, error)
	err      error
}

// Register makes a module of a rule. To be called once, in init. P is a struct whose fields are the parameters of a
// deployment (see the README for their tags), a string that gets all of them as JSON, or struct{}. start makes the rule of
// them and says what it wants to be called for: a function of the parameters alone. An error refuses the deployment. It may
// log, and must call nothing else of this package but what makes rules, stores and windows.
func Register[P any](manifest Manifest, start func(parameters P) (Rule, Subscription, error)) {
	var err error
	if module.start != nil {
		err = errors.New("a module has one rule: Register was called twice")
	}
	schema := manifest.Schema
	if schema == "" && err == nil {
		schema, err = schemaOf(reflect.TypeFor[P]())
	}
	if err != nil && !host.Component {
		// In a component the text would be lost with the standard error; describe says it there.
		panic("rule: " + err.Error())
	}
	module.manifest, module.schema, module.err = manifest, schema, err
	module.start = func(text string) (Rule, Subscription, error) {
		var parameters P
		if err := decodeParameters(text, reflect.ValueOf(&parameters).Elem()); err != nil {
			return Rule{}, Subscription{}, fmt.Errorf("parameters: %w", err)
		}
		return start(parameters)
	}
}
