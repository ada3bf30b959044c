// Package export_watchfire_rule_schedule_handler is what the generated code calls for the export schedule-handler.
package export_watchfire_rule_schedule_handler

import (
	wit "go.bytecodealliance.org/pkg/wit/types"

	"watchfire/rule/internal/callbacks"
	"watchfire/rule/internal/exports"
	"watchfire/rule/internal/host"
)

// OnSchedule is the export on-schedule.
func OnSchedule(name string, at int64) wit.Result[wit.Unit, string] {
	host.Begin()
	return exports.Result(callbacks.OnSchedule(name, at))
}
