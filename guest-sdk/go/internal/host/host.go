// Package host is the contract as plain Go: what package rule calls, and what it is called with. In a component the
// calls are the generated bindings; anywhere else they go to [Native], so that rules can be tested without
// WebAssembly.
package host

// Kind is the kind of a value.
type Kind uint8

// The kinds of values. None is no value.
const (
	None Kind = iota
	Number
	Text
	Flag
)

// Value is a value of one of the kinds.
type Value struct {
	Kind   Kind
	Flag   bool
	Number float64
	Text   string
}

// Detail is a named value.
type Detail struct {
	Name  string
	Value Value
}

// Blobs are many byte strings in two flat lists: entry i is the next Lengths[i] bytes of Data.
type Blobs struct {
	Lengths []uint32
	Data    []byte
}

// Column is the name and the kind of a column.
type Column struct {
	Metric string
	Kind   Kind
}

// NoText is the code of no value in a column of texts.
const NoText = 0xffff_ffff

// NoFlag is no value in a column of flags.
const NoFlag = 255

// TextColumn is a column of texts: codes into a dictionary.
type TextColumn struct {
	Dictionary []string
	Codes      []uint32
}

// Alert is an alert; Row below 0: none.
type Alert struct {
	Device   uint32
	Key      string
	Severity uint8
	Summary  string
	Details  []Detail
	Row      int32
}

// Reading is a reading that belongs to no row.
type Reading struct {
	Device string
	Time   int64
	Metric string
	Value  Value
}

// Timer is a timer of a device.
type Timer struct {
	Device uint32
	Tag    uint32
	At     int64
}

// SilentDevice is a device that fell silent; Heard: whether there was a last reading.
type SilentDevice struct {
	Device uint32
	Last   int64
	Heard  bool
}

// Manifest is what a module says of itself.
type Manifest struct {
	Name, Version, Description, Parameters string
	StateVersion                           uint32
}

// SilenceKind says when a device counts as silent.
type SilenceKind uint8

// When a device counts as silent.
const (
	SilenceOff SilenceKind = iota
	SilenceRegistry
	SilenceAfter
)

// Schedule is a schedule; an empty zone is UTC.
type Schedule struct {
	Name, Cron, Zone string
}

// Subscription is what a rule wants to be called for.
type Subscription struct {
	Metrics   []string
	Silence   SilenceKind
	After     uint64
	Schedules []Schedule
}
