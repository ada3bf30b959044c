// Command limits-by-column is a rule that looks at whole columns: one limit for many metrics of many devices.
package main

import (
	"errors"

	"watchfire/rule"
)

// Parameters are what can be set at a deployment.
type Parameters struct {
	Metrics  []string      `default:"temperature" doc:"The metrics that have the limit."`
	High     float64       `default:"80" doc:"The highest value that is allowed."`
	Deadband float64       `default:"5" min:"0" doc:"How far below it counts as over."`
	Severity rule.Severity `default:"major" doc:"How bad it is."`
}

// State is what is kept for each device and metric.
type State struct{ Over bool }

// column is a metric with its state, in the slot of its name.
type column struct {
	metric string
	states *rule.Store[State]
}

// Limits is the rule.
type Limits struct {
	Parameters
	columns []column
}

// OnBatch looks at the columns of a batch, one after the other.
func (limits *Limits) OnBatch(batch *rule.Batch) error {
	for _, column := range limits.columns {
		for row, value := range batch.Numbers(column.metric) {
			if value != value {
				continue
			}
			device := batch.Device(row)
			state := column.states.At(device)
			switch {
			case value > limits.High:
				state.Over = true
				device.Trigger(column.metric, limits.Severity, column.metric+" is over its limit",
					rule.Number("value", value), rule.Number("limit", limits.High))
			case state.Over && value < limits.High-limits.Deadband:
				state.Over = false
				device.Clear(column.metric)
			}
		}
	}
	return nil
}

func start(parameters Parameters) (rule.Rule, rule.Subscription, error) {
	if len(parameters.Metrics) == 0 {
		return rule.Rule{}, rule.Subscription{}, errors.New("name at least one metric")
	}
	limits := &Limits{Parameters: parameters}
	for _, metric := range parameters.Metrics {
		limits.columns = append(limits.columns, column{metric, rule.NewStore[State](rule.SlotOf(metric))})
	}
	return rule.PerBatch(limits), rule.On(parameters.Metrics...), nil
}

func init() {
	rule.Register(rule.Manifest{
		Name:         "limits-by-column",
		Version:      "0.1.0",
		Description:  "One limit for several metrics.",
		StateVersion: 1,
	}, start)
}

func main() {}
