// Package export_watchfire_rule_silence_handler is what the generated code calls for the export silence-handler.
package export_watchfire_rule_silence_handler

import (
	wit "go.bytecodealliance.org/pkg/wit/types"

	"watchfire/rule/internal/callbacks"
	"watchfire/rule/internal/exports"
	"watchfire/rule/internal/host"
	"watchfire/rule/internal/imports/watchfire_rule_silence_handler"
)

// OnSilence is the export on-silence.
func OnSilence(devices []watchfire_rule_silence_handler.SilentDevice) wit.Result[wit.Unit, string] {
	host.Begin()
	silent := make([]host.SilentDevice, len(devices))
	for i, device := range devices {
		silent[i] = host.SilentDevice{Device: device.Device, Last: device.Last.SomeOr(0), Heard: device.Last.IsSome()}
	}
	return exports.Result(callbacks.OnSilence(silent))
}
