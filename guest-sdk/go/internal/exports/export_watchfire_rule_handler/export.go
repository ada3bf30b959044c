// Package export_watchfire_rule_handler is what the generated code calls for the export handler.
package export_watchfire_rule_handler

import (
	wit "go.bytecodealliance.org/pkg/wit/types"

	"watchfire/rule/internal/callbacks"
	"watchfire/rule/internal/exports"
	"watchfire/rule/internal/host"
	"watchfire/rule/internal/imports/watchfire_rule_handler"
)

// Describe is the export describe.
func Describe() watchfire_rule_handler.Manifest {
	host.Begin()
	manifest := callbacks.Describe()
	return watchfire_rule_handler.Manifest{
		Name:         exports.Text(manifest.Name),
		Version:      exports.Text(manifest.Version),
		Description:  exports.Text(manifest.Description),
		Parameters:   exports.Text(manifest.Parameters),
		StateVersion: manifest.StateVersion,
	}
}

// Start is the export start.
func Start() wit.Result[watchfire_rule_handler.Subscription, string] {
	host.Begin()
	subscription, err := callbacks.Start()
	if err != nil {
		return wit.Err[watchfire_rule_handler.Subscription, string](exports.Text(err.Error()))
	}
	answer := watchfire_rule_handler.Subscription{Silence: watchfire_rule_handler.MakeSilenceOff()}
	for _, metric := range subscription.Metrics {
		answer.Metrics = append(answer.Metrics, exports.Text(metric))
	}
	switch subscription.Silence {
	case host.SilenceRegistry:
		answer.Silence = watchfire_rule_handler.MakeSilenceRegistry()
	case host.SilenceAfter:
		answer.Silence = watchfire_rule_handler.MakeSilenceAfter(subscription.After)
	}
	for _, schedule := range subscription.Schedules {
		zone := wit.None[string]()
		if schedule.Zone != "" {
			zone = wit.Some(exports.Text(schedule.Zone))
		}
		answer.Schedules = append(answer.Schedules, watchfire_rule_handler.Schedule{
			Name: exports.Text(schedule.Name),
			Cron: exports.Text(schedule.Cron),
			Zone: zone,
		})
	}
	return wit.Ok[watchfire_rule_handler.Subscription, string](answer)
}

// OnBatch is the export on-batch.
func OnBatch() wit.Result[wit.Unit, string] {
	host.Begin()
	return exports.Result(callbacks.OnBatch())
}
