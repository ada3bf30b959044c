package rule

import (
	"fmt"
	"iter"

	"watchfire/rule/internal/host"
)

// noRow is the row of a device that has none.
const noRow = -1

// Device is a device, within this callback. It costs nothing; what is asked of it is fetched then, and kept as long as
// the registry does not change.
type Device struct {
	handle uint32
	row    int32
}

// Handle is a small integer, good for indexing arrays: 0, 1, 2 … in the order of registration. It means nothing
// elsewhere: no handle goes into state.
func (device Device) Handle() uint32 { return device.handle }

// Name is the name by which the device is registered.
func (device Device) Name() string {
	registry.check()
	if name, known := registry.names[device.handle]; known {
		return name
	}
	name := host.Name(device.handle)
	registry.names[device.handle] = name
	return name
}

// Type is the type of the device, and empty where it has none.
func (device Device) Type() string {
	text, _ := device.Label("type").Text()
	return text
}

// Site is the site of the device, and empty where it has none.
func (device Device) Site() string {
	text, _ := device.Label("site").Text()
	return text
}

// Label is a label of the device, and the zero value where it has none.
func (device Device) Label(name string) Value {
	registry.check()
	labels := registry.labels[name]
	if labels == nil {
		labels = map[uint32]Value{}
		registry.labels[name] = labels
	}
	if value, known := labels[device.handle]; known {
		return value
	}
	// One call for all devices of the batch: the next row will ask for the next device.
	ask := []uint32{device.handle}
	for _, other := range batch.distinct() {
		if _, known := labels[other]; !known && other != device.handle {
			ask = append(ask, other)
		}
	}
	for i, value := range host.Attribute(name, ask) {
		labels[ask[i]] = Value{value}
	}
	return labels[device.handle]
}

// Trigger says that the condition of a key stands. Triggering one that stands updates it. The summary is for people;
// put numbers into details. In OnReading it carries the row by itself, and elsewhere where the device came with one.
func (device Device) Trigger(key string, severity Severity, summary string, details ...Detail) {
	if severity > Critical {
		panic(fmt.Sprintf("trigger %s: there is no severity %d", key, severity))
	}
	list := make([]host.Detail, len(details))
	for i, detail := range details {
		if detail.value.Kind == host.None {
			panic(fmt.Sprintf("trigger %s: the detail %q has no value", key, detail.name))
		}
		list[i] = host.Detail{Name: detail.name, Value: detail.value}
	}
	host.Trigger(host.Alert{
		Device:   device.handle,
		Key:      key,
		Severity: uint8(severity),
		Summary:  summary,
		Details:  list,
		Row:      device.row,
	})
}

// Clear says that the condition of a key does not stand. Clearing one that does not stand does nothing.
func (device Device) Clear(key string) { host.Clear(device.handle, key, device.row) }

// SetTimer sets a timer: OnTimer is called when the time of the log passes at. A tag is one timer; setting it again
// moves it.
func (device Device) SetTimer(tag uint32, at int64) {
	if instance != nil && instance.onTimer == nil {
		panic("SetTimer: the rule has no OnTimer")
	}
	effects.timer(host.Timer{Device: device.handle, Tag: tag, At: at}, false)
}

// CancelTimer takes a timer back.
func (device Device) CancelTimer(tag uint32) {
	effects.timer(host.Timer{Device: device.handle, Tag: tag}, true)
}

// Now is the time of the log at this callback: the only clock there is. It never goes back, and all rows of one batch have
// the same.
func Now() int64 {
	if !clock.known {
		clock.now, clock.known = host.Now(), true
	}
	return clock.now
}

var clock struct {
	now   int64
	known bool
}

// Find is the device of a name, where one of this partition has it.
func Find(name string) (Device, bool) {
	handle, there := host.Find(name)
	return Device{handle, noRow}, there
}

// page is how many devices are asked for at once.
const page = 1024

// SelectedDevices are the devices that the rule selects, in the order of their registration.
func SelectedDevices() iter.Seq[Device] {
	return func(yield func(Device) bool) {
		for handles := range selected() {
			for _, handle := range handles {
				if !yield(Device{handle, noRow}) {
					return
				}
			}
		}
	}
}

// selected gives the selected devices page by page.
func selected() iter.Seq[[]uint32] {
	return func(yield func([]uint32) bool) {
		handles := host.Selected(0, true, page)
		for len(handles) > 0 && yield(handles) && len(handles) == page {
			handles = host.Selected(handles[len(handles)-1], false, page)
		}
	}
}

// registry is what was asked of the registry of devices, as of a version of it.
var registry cachedRegistry

type cachedRegistry struct {
	// checked says that the version was asked for in this callback.
	checked bool
	version uint64
	names   map[uint32]string
	labels  map[string]map[uint32]Value
}

// check forgets everything when the registry changed.
func (cached *cachedRegistry) check() {
	if cached.checked {
		return
	}
	cached.checked = true
	if version := host.Version(); cached.names == nil || version != cached.version {
		cached.version = version
		cached.names = map[uint32]string{}
		cached.labels = map[string]map[uint32]Value{}
	}
}
