package main

import (
	"errors"
	"math"

	"watchfire/rule"
)

type active struct{ Active bool }

type threshold struct{ Parameters }

func (own threshold) OnReading(device rule.Device, reading *rule.Reading, state *active) error {
	x, ok := reading.Number("temperature")
	if ok {
		own.check(device, x, state)
	}
	return nil
}

// check is the same in both levels.
func (own threshold) check(device rule.Device, x float64, state *active) {
	switch {
	case !state.Active && x > own.High:
		state.Active = true
		device.Trigger("hot", rule.Major, "temperature over the limit",
			rule.Number("value", x), rule.Number("limit", own.High))
	case state.Active && x < own.High-own.Deadband:
		state.Active = false
		device.Clear("hot")
	}
}

type thresholdBatch struct {
	threshold
	states *rule.Store[active]
}

func startThresholdBatch(parameters Parameters) (rule.Rule, rule.Subscription, error) {
	own := thresholdBatch{threshold{parameters}, rule.NewStore[active](0)}
	return rule.PerBatch(own), rule.On("temperature"), nil
}

func (own thresholdBatch) OnBatch(batch *rule.Batch) error {
	for row, x := range batch.Numbers("temperature") {
		if x == x {
			device := batch.Device(row)
			own.check(device, x, own.states.At(device))
		}
	}
	return nil
}

type ewma struct{ Parameters }

func startEwma(parameters Parameters) (rule.Rule, rule.Subscription, error) {
	if !(parameters.Alpha > 0) {
		return rule.Rule{}, rule.Subscription{}, errors.New("alpha is not above 0")
	}
	return rule.PerDevice(ewma{parameters}), rule.On("vibration"), nil
}

func (own ewma) OnReading(device rule.Device, reading *rule.Reading, state *rule.Ewma) error {
	x, ok := reading.Number("vibration")
	if !ok {
		return nil
	}
	deviation := state.Deviation(x)
	if state.Count >= 10 && math.Abs(deviation) > 3 {
		device.Trigger("odd", rule.Minor, "vibration deviates", rule.Number("z", deviation))
	}
	state.Update(x, own.Alpha)
	reading.Derive("vibration_mean", state.Mean)
	reading.Derive("vibration_variance", state.Variance)
	return nil
}

type hysteresis struct{ Parameters }

func (own hysteresis) OnReading(device rule.Device, reading *rule.Reading, state *rule.Hysteresis) error {
	x, ok := reading.Number("level")
	if !ok {
		return nil
	}
	switch state.Update(x, own.High, own.High-own.Deadband) {
	case rule.Rising:
		device.Trigger("level", rule.Major, "level is high")
	case rule.Falling:
		device.Clear("level")
	}
	return nil
}

type debounced struct {
	Debounce rule.Debounce
	Raised   bool
}

type debounce struct{ Parameters }

func (own debounce) OnReading(device rule.Device, reading *rule.Reading, state *debounced) error {
	open, ok := reading.Flag("open")
	if !ok {
		return nil
	}
	tooLong := state.Debounce.Update(open, reading.Time(), rule.Seconds(own.Hold))
	switch {
	case tooLong && !state.Raised:
		state.Raised = true
		device.Trigger("open", rule.Warning, "open for too long", rule.Number("since", state.Debounce.Since))
	case !open && state.Raised:
		state.Raised = false
		device.Clear("open")
	}
	return nil
}

type limit struct{ Parameters }

func (own limit) OnReading(device rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	x, ok := reading.Number("temperature")
	switch {
	case ok && x > own.High:
		device.Trigger("limit", rule.Major, "temperature over the limit")
	case ok:
		device.Clear("limit")
	}
	return nil
}
