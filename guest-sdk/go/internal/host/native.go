//go:build !wasip1

package host

// Contract is the host, as tests stand in for it.
type Contract interface {
	StreamName() string
	Rows() uint32
	Columns() []Column
	Devices() []uint32
	Times() []int64
	Numbers(metric string) []float64
	Texts(metric string) TextColumn
	Flags(metric string) []uint8
	Now() int64
	Name(device uint32) string
	Attribute(name string, devices []uint32) []Value
	Find(name string) (uint32, bool)
	Selected(after uint32, first bool, limit uint32) []uint32
	Version() uint64
	Trigger(alert Alert)
	Clear(device uint32, key string, row int32)
	Keep(mask []uint8)
	Derive(metric string, values []float64)
	Emit(readings []Reading)
	Load(slot uint32, devices []uint32) Blobs
	Store(slot uint32, devices []uint32, states Blobs)
	SetTimers(timers []Timer)
	CancelTimers(timers []Timer)
	Config() string
	Log(level uint8, message string)
}

// Native is the host outside of a component.
var Native Contract

// Component says whether this is a component.
const Component = false

// Begin is to be called first in each callback.
func Begin() {}

// The functions of the contract.

func StreamName() string                              { return Native.StreamName() }
func Rows() uint32                                    { return Native.Rows() }
func Columns() []Column                               { return Native.Columns() }
func Devices() []uint32                               { return Native.Devices() }
func Times() []int64                                  { return Native.Times() }
func Numbers(metric string) []float64                 { return Native.Numbers(metric) }
func Texts(metric string) TextColumn                  { return Native.Texts(metric) }
func Flags(metric string) []uint8                     { return Native.Flags(metric) }
func Now() int64                                      { return Native.Now() }
func Name(device uint32) string                       { return Native.Name(device) }
func Attribute(name string, devices []uint32) []Value { return Native.Attribute(name, devices) }
func Find(name string) (uint32, bool)                 { return Native.Find(name) }
func Version() uint64                                 { return Native.Version() }
func Trigger(alert Alert)                             { Native.Trigger(alert) }
func Clear(device uint32, key string, row int32)      { Native.Clear(device, key, row) }
func Keep(mask []uint8)                               { Native.Keep(mask) }
func Derive(metric string, values []float64)          { Native.Derive(metric, values) }
func Emit(readings []Reading)                         { Native.Emit(readings) }
func Load(slot uint32, devices []uint32) Blobs        { return Native.Load(slot, devices) }
func SetTimers(timers []Timer)                        { Native.SetTimers(timers) }
func CancelTimers(timers []Timer)                     { Native.CancelTimers(timers) }
func Config() string                                  { return Native.Config() }
func Log(level uint8, message string)                 { Native.Log(level, message) }

func Selected(after uint32, first bool, limit uint32) []uint32 {
	return Native.Selected(after, first, limit)
}

func Store(slot uint32, devices []uint32, states Blobs) { Native.Store(slot, devices, states) }
