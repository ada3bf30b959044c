package main

import "watchfire/rule"

type sliding struct{ window *rule.SlidingWindow }

func startSliding(Parameters) (rule.Rule, rule.Subscription, error) {
	window := rule.NewSlidingWindow(rule.SlotOf("window"), 6, rule.Minute)
	return rule.PerDevice(sliding{window}), rule.On("flow"), nil
}

func (own sliding) OnReading(device rule.Device, reading *rule.Reading, _ *rule.NoState) error {
	x, ok := reading.Number("flow")
	if !ok {
		return nil
	}
	own.window.Add(device, reading.Time(), x)
	over := own.window.Over(device, reading.Time())
	reading.Derive("flow_mean", over.Mean)
	reading.Derive("flow_min", over.Min)
	reading.Derive("flow_max", over.Max)
	reading.Derive("flow_count", float64(over.Count))
	return nil
}

type tumbling struct{}

func (tumbling) OnReading(device rule.Device, reading *rule.Reading, state *rule.TumblingWindow) error {
	x, ok := reading.Number("flow")
	if !ok {
		return nil
	}
	if closed, ok := state.Add(reading.Time(), x, rule.Minute); ok {
		rule.Emit(device.Name(), "flow_1m", closed.Mean, closed.End)
		rule.Emit(device.Name(), "flow_1m_max", closed.Max, closed.End)
	}
	return nil
}

type rate struct{}

func (rate) OnReading(_ rule.Device, reading *rule.Reading, state *rule.RateOfChange) error {
	x, ok := reading.Number("level")
	if !ok {
		return nil
	}
	if perSecond, ok := state.Update(reading.Time(), x); ok {
		reading.Derive("level_rate", perSecond)
	}
	return nil
}
