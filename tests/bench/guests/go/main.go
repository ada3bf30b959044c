// Command guests is what `cargo xtask bench guests` measures, in Go: the parameter says which rule it is. What each does is
// in the table of ../README.md; it is the same in every language.
package main

import (
	"errors"
	"math"

	"watchfire/rule"
)

const (
	metric = "temperature"
	alpha  = 0.05
	sigmas = 6
	warmUp = 30
)

var metrics = [...]string{metric, "pressure", "vibration", "current", "humidity"}

// Parameters are what the cases are set with.
type Parameters struct {
	Case string  `default:"ewma-batch"`
	High float64 `default:"100" doc:"Trigger above it."`
}

// judge is the same wherever there is an Ewma.
func judge(device rule.Device, key string, x float64, ewma *rule.Ewma) {
	z := ewma.Deviation(x)
	if ewma.Count >= warmUp && math.Abs(z) > sigmas {
		device.Trigger(key, rule.Minor, "far from its usual values", rule.Number("value", x), rule.Number("z", z))
	}
	ewma.Update(x, alpha)
}

type ewmaBatch struct{ states *rule.Store[rule.Ewma] }

func (own ewmaBatch) OnBatch(batch *rule.Batch) error {
	for row, x := range batch.Numbers(metric) {
		if x == x {
			device := batch.Device(row)
			judge(device, "odd", x, own.states.At(device))
		}
	}
	return nil
}

type ewmaDevice struct{}

func (ewmaDevice) OnReading(device rule.Device, reading *rule.Reading, ewma *rule.Ewma) error {
	if x, ok := reading.Number(metric); ok {
		judge(device, "odd", x, ewma)
	}
	return nil
}

// five is an Ewma of each metric.
type five struct{ Ewmas [len(metrics)]rule.Ewma }

type fiveBatch struct{ states *rule.Store[five] }

func (own fiveBatch) OnBatch(batch *rule.Batch) error {
	var columns [len(metrics)][]float64
	for i, name := range metrics {
		columns[i] = batch.Numbers(name)
	}
	for row := range batch.Rows() {
		device := batch.Device(row)
		state := own.states.At(device)
		for i, column := range columns {
			if x := column[row]; x == x {
				judge(device, metrics[i], x, &state.Ewmas[i])
			}
		}
	}
	return nil
}

type limitBatch struct{ high float64 }

func (own limitBatch) OnBatch(batch *rule.Batch) error {
	for row, x := range batch.Numbers(metric) {
		if x > own.high {
			batch.Device(row).Trigger("limit", rule.Major, "over the limit", rule.Number("value", x))
		}
	}
	return nil
}

type limitDevice struct{ high float64 }

func (own limitDevice) OnReading(device rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	if x, ok := reading.Number(metric); ok && x > own.high {
		device.Trigger("limit", rule.Major, "over the limit", rule.Number("value", x))
	}
	return nil
}

func start(parameters Parameters) (rule.Rule, rule.Subscription, error) {
	on := rule.On(metric)
	switch parameters.Case {
	case "ewma-batch":
		return rule.PerBatch(ewmaBatch{rule.NewStore[rule.Ewma](0)}), on, nil
	case "ewma-device":
		return rule.PerDevice(ewmaDevice{}), on, nil
	case "five-batch":
		return rule.PerBatch(fiveBatch{rule.NewStore[five](0)}), rule.On(metrics[:]...), nil
	case "limit-batch":
		return rule.PerBatch(limitBatch{parameters.High}), on, nil
	case "limit-device":
		return rule.PerDevice(limitDevice{parameters.High}), on, nil
	}
	return rule.Rule{}, rule.Subscription{}, errors.New("unknown case " + parameters.Case)
}

func init() {
	rule.Register(rule.Manifest{
		Name:         "guests",
		Version:      "0.1.0",
		Description:  "What the bench of guests measures.",
		StateVersion: 1,
	}, start)
}

func main() {}
