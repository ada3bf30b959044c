// Package export_watchfire_rule_timer_handler is what the generated code calls for the export timer-handler.
package export_watchfire_rule_timer_handler

import (
	wit "go.bytecodealliance.org/pkg/wit/types"

	"watchfire/rule/internal/callbacks"
	"watchfire/rule/internal/exports"
	"watchfire/rule/internal/host"
	"watchfire/rule/internal/imports/watchfire_rule_timers"
)

// OnTimers is the export on-timers.
func OnTimers(due []watchfire_rule_timers.Timer) wit.Result[wit.Unit, string] {
	host.Begin()
	timers := make([]host.Timer, len(due))
	for i, timer := range due {
		timers[i] = host.Timer{Device: timer.Device, Tag: timer.Tag, At: timer.At}
	}
	return exports.Result(callbacks.OnTimers(timers))
}
