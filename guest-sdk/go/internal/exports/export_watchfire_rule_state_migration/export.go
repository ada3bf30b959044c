// Package export_watchfire_rule_state_migration is what the generated code calls for the export state-migration.
package export_watchfire_rule_state_migration

import (
	wit "go.bytecodealliance.org/pkg/wit/types"

	"watchfire/rule/internal/callbacks"
	"watchfire/rule/internal/exports"
	"watchfire/rule/internal/host"
	"watchfire/rule/internal/imports/watchfire_rule_types"
)

// Migrate is the export migrate.
func Migrate(oldVersion, slot uint32, states watchfire_rule_types.Blobs) wit.Result[watchfire_rule_types.Blobs, string] {
	host.Begin()
	blobs, err := callbacks.Migrate(oldVersion, slot, host.Blobs{Lengths: states.Lengths, Data: states.Data})
	if err != nil {
		return wit.Err[watchfire_rule_types.Blobs, string](exports.Text(err.Error()))
	}
	return wit.Ok[watchfire_rule_types.Blobs, string](watchfire_rule_types.Blobs{Lengths: blobs.Lengths, Data: blobs.Data})
}
