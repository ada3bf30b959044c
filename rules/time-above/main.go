// Command time-above is a rule: the time that a metric was above a limit, in all, within a window that slides, is more than
// its budget.
package main

import (
	"errors"

	"watchfire/rule"
)

// pieces is in how many parts the window slides on.
const pieces = 24

// Parameters are what can be set at a deployment.
type Parameters struct {
	Metric   string        `doc:"What is watched."`
	Limit    float64       `unit:"of the metric" doc:"Time with the metric above it counts."`
	Window   float64       `default:"86400" min:"0.024" max:"31536000" unit:"s" doc:"The time that is looked back over."`
	Budget   float64       `default:"3600" min:"0" max:"31536000" unit:"s" doc:"Alert at more time above the limit than this."`
	Deadband float64       `default:"0" min:"0" max:"31536000" unit:"s" doc:"Clear once there is less by this, or exactly so much."`
	Gap      float64       `default:"300" min:"0.001" max:"31536000" unit:"s" doc:"A reading speaks for no longer than this."`
	Severity rule.Severity `default:"warning" doc:"How bad it is."`
}

// State is what is kept for each device beside the window: the last reading, and whether the alert stands.
type State struct {
	Time   int64
	Known  bool
	Above  bool
	Raised bool
}

// TimeAbove is the rule.
type TimeAbove struct {
	Parameters
	key, summary string
	// Seconds above the limit.
	above *rule.SlidingWindow
	// Microseconds of a part of the window, and that a reading speaks for at most.
	piece, gap int64
}

// OnReading looks at one reading: what came before it held until now, or for as long as a reading speaks.
func (above *TimeAbove) OnReading(device rule.Device, reading *rule.Reading, state *State) error {
	value, ok := reading.Number(above.Metric)
	time := reading.Time()
	// A late reading, or one of the same time: what it says was counted by the one before it.
	if !ok || state.Known && time <= state.Time {
		return nil
	}
	counts := state.Known && state.Above
	if counts {
		above.add(device, state.Time, min(time, state.Time+above.gap))
	}
	state.Time, state.Known, state.Above = time, true, value > above.Limit
	if !counts && !state.Raised {
		// What slid out of the window makes it less, and nothing came in.
		return nil
	}
	total := above.above.Over(device, time).Sum
	switch {
	case total > above.Budget || state.Raised && total > above.Budget-above.Deadband:
		// Said again with each reading: it keeps the values of the alert current.
		state.Raised = true
		device.Trigger(above.key, above.Severity, above.summary, rule.Number("seconds", total),
			rule.Number("budget", above.Budget), rule.Number("value", value), rule.Number("limit", above.Limit))
	case state.Raised:
		state.Raised = false
		device.Clear(above.key)
	}
	return nil
}

// add counts a span, each part of the window what falls into it.
func (above *TimeAbove) add(device rule.Device, from, to int64) {
	for from < to {
		end := min(to, from-from%above.piece+above.piece)
		above.above.Add(device, from, float64(end-from)/float64(rule.Second))
		from = end
	}
}

func start(parameters Parameters) (rule.Rule, rule.Subscription, error) {
	span := rule.Seconds(parameters.Window)
	piece := span / pieces
	switch {
	case parameters.Metric == "":
		return rule.Rule{}, rule.Subscription{}, errors.New("metric is empty")
	case rule.Seconds(parameters.Budget) >= span-piece:
		return rule.Rule{}, rule.Subscription{}, errors.New("the budget is as long as the window: it would never be exceeded")
	case parameters.Deadband > parameters.Budget:
		return rule.Rule{}, rule.Subscription{}, errors.New("the deadband is more than the budget: an alert would never clear")
	}
	above := &TimeAbove{
		Parameters: parameters,
		key:        parameters.Metric + ".time-above",
		summary:    parameters.Metric + " was above its limit for too long in all",
		above:      rule.NewSlidingWindow(rule.SlotOf(parameters.Metric), pieces, span),
		piece:      piece,
		gap:        rule.Seconds(parameters.Gap),
	}
	return rule.PerDevice(above), rule.On(parameters.Metric), nil
}

func init() {
	rule.Register(rule.Manifest{
		Name:         "time-above",
		Version:      "0.1.0",
		Description:  "The time that a metric was above a limit, in all, within a sliding window is more than its budget.",
		StateVersion: 1,
	}, start)
}

func main() {} // never called in a component
