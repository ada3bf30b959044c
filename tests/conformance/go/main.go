// Command conformance is the conformance suite in Go: every case is a small rule, and a parameter says which of them the
// component is. The same cases in each language have to say the same.
package main

import (
	"errors"
	"fmt"

	"watchfire/rule"
)

// Parameters are what the cases are set with.
type Parameters struct {
	Case     string  `default:"threshold"`
	High     float64 `default:"80" min:"-1000" max:"1000" unit:"°C" doc:"Above it."`
	Deadband float64 `default:"5"`
	Alpha    float64 `default:"0.1" min:"0" max:"1"`
	Hold     float64 `default:"30" unit:"s"`
	Name     string  `default:"plant"`
}

// started is what start answers with.
type started func(parameters Parameters) (rule.Rule, rule.Subscription, error)

// on is a case that looks at one reading at a time, with a subscription to metrics and nothing else.
func on[S any](make func(parameters Parameters) rule.DeviceRule[S], metrics ...string) started {
	return func(parameters Parameters) (rule.Rule, rule.Subscription, error) {
		return rule.PerDevice(make(parameters)), rule.On(metrics...), nil
	}
}

var cases = map[string]started{
	"threshold":       on(func(p Parameters) rule.DeviceRule[active] { return threshold{p} }, "temperature"),
	"threshold-batch": startThresholdBatch,
	"ewma":            startEwma,
	"sliding":         startSliding,
	"tumbling":        on(func(Parameters) rule.DeviceRule[rule.TumblingWindow] { return tumbling{} }, "flow"),
	"rate":            on(func(Parameters) rule.DeviceRule[rule.RateOfChange] { return rate{} }, "level"),
	"debounce":        on(func(p Parameters) rule.DeviceRule[debounced] { return debounce{p} }, "open"),
	"hysteresis":      on(func(p Parameters) rule.DeviceRule[rule.Hysteresis] { return hysteresis{p} }, "level"),
	"timers":          on(func(Parameters) rule.DeviceRule[rule.NoState] { return timers{} }, "start", "done"),
	"silence":         startSilence,
	"schedule":        startSchedule,
	"stream":          on(func(Parameters) rule.DeviceRule[rule.NoState] { return stream{} }, "voltage", "current"),
	"keep":            on(func(Parameters) rule.DeviceRule[rule.NoState] { return keep{} }, "changed"),
	"emit-site":       on(func(Parameters) rule.DeviceRule[rule.NoState] { return emitSite{} }, "temperature"),
	"restart":         on(func(Parameters) rule.DeviceRule[counter] { return restart{} }, "n"),
	"parameters":      on(func(p Parameters) rule.DeviceRule[rule.NoState] { return limit{p} }, "temperature"),
	"migration":       on(func(Parameters) rule.DeviceRule[totals] { return migration{} }, "n"),
	"text-flag":       on(func(Parameters) rule.DeviceRule[rule.NoState] { return textFlag{} }, "mode", "running"),
	"missing":         on(func(Parameters) rule.DeviceRule[rule.NoState] { return missing{} }, "a", "b"),
	"late":            on(func(Parameters) rule.DeviceRule[lateness] { return late{} }, "n"),
	"error":           on(func(Parameters) rule.DeviceRule[counter] { return failing{666, fail} }, "n"),
	"trap":            on(func(Parameters) rule.DeviceRule[counter] { return failing{667, trap} }, "n"),
	"math":            on(func(Parameters) rule.DeviceRule[rule.NoState] { return mathematics{} }, "x"),
	"devices":         on(func(p Parameters) rule.DeviceRule[rule.NoState] { return devices{p} }, "temperature"),
	"log":             on(func(Parameters) rule.DeviceRule[rule.NoState] { return logging{} }, "n"),
}

func start(parameters Parameters) (rule.Rule, rule.Subscription, error) {
	start, known := cases[parameters.Case]
	if !known {
		return rule.Rule{}, rule.Subscription{}, errors.New("unknown case " + parameters.Case)
	}
	return start(parameters)
}

// migrate is for the case migration.
func migrate(oldVersion, slot uint32, state []byte) ([]byte, error) {
	if oldVersion != 1 {
		return nil, fmt.Errorf("state of version %d cannot be taken over", oldVersion)
	}
	if slot != 0 {
		return nil, errors.New("no such slot")
	}
	before, ok := rule.Decode[counter](state)
	if !ok {
		return nil, nil
	}
	return rule.Encode(totals{before.Count, float64(before.Count) * 1.0}), nil
}

func init() {
	rule.Register(rule.Manifest{
		Name:         "conformance",
		Version:      "0.1.0",
		Description:  "Every case of the conformance suite.",
		StateVersion: 2,
		Migrate:      migrate,
	}, start)
}

func main() {}
