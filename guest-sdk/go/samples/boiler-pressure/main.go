// Command boiler-pressure is a rule: a pressure that is too high for some time, until it is well below again.
package main

import "watchfire/rule"

// Parameters are what can be set at a deployment.
type Parameters struct {
	High     float64 `default:"12" min:"0" max:"400" unit:"bar" doc:"The highest pressure that is allowed."`
	Deadband float64 `default:"0.5" min:"0" unit:"bar" doc:"How far below it counts as over."`
	Hold     float64 `default:"10" min:"0" unit:"s" doc:"How long it may be too high."`
}

// State is what is kept for each boiler.
type State struct {
	Limit  rule.Hysteresis
	Held   rule.Debounce
	Raised bool
}

// BoilerPressure is the rule.
type BoilerPressure struct{ Parameters }

// OnReading looks at one reading of one boiler.
func (boiler *BoilerPressure) OnReading(device rule.Device, reading *rule.Reading, state *State) error {
	pressure, ok := reading.Number("pressure")
	if !ok {
		return nil
	}
	state.Limit.Update(pressure, boiler.High, boiler.High-boiler.Deadband)
	tooLong := state.Held.Update(state.Limit.Active, reading.Time(), rule.Seconds(boiler.Hold))
	switch {
	case tooLong:
		// Said again with each reading: it keeps the values of the alert current.
		state.Raised = true
		device.Trigger("pressure", rule.Critical, "the pressure is too high",
			rule.Number("pressure", pressure), rule.Number("limit", boiler.High))
	case state.Raised && !state.Limit.Active:
		state.Raised = false
		device.Clear("pressure")
	}
	return nil
}

func init() {
	rule.Register(
		rule.Manifest{
			Name:         "boiler-pressure",
			Version:      "0.1.0",
			Description:  "The pressure of a boiler was above its limit for some time.",
			StateVersion: 1,
		},
		func(parameters Parameters) (rule.Rule, rule.Subscription, error) {
			return rule.PerDevice(&BoilerPressure{parameters}), rule.On("pressure"), nil
		})
}

func main() {}
