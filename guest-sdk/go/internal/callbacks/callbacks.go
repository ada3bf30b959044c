// Package callbacks is where the exports of the component meet the rule. The generated code calls one package for
// each export; all of them call what is here, and package rule puts it there: so the exports share one rule
// without a cycle of imports.
package callbacks

import "watchfire/rule/internal/host"

// What the exports of the component do. Package rule sets them when it is initialized.
var (
	Describe   func() host.Manifest
	Start      func() (host.Subscription, error)
	OnBatch    func() error
	OnTimers   func(due []host.Timer) error
	OnSilence  func(silent []host.SilentDevice) error
	OnSchedule func(name string, at int64) error
	Migrate    func(oldVersion, slot uint32, states host.Blobs) (host.Blobs, error)
)
