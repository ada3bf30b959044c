package rule

import (
	"errors"
	"fmt"
	"iter"
	"reflect"
	"unsafe"

	"watchfire/rule/internal/host"
)

// SlotOf is the slot for what a name stands for: FNV-1a of 32 bits. A rule that keeps state by metric keeps each metric's
// in the slot of its name, so that parameters may come in another order tomorrow.
func SlotOf(name string) uint32 {
	hash := uint32(0x811c_9dc5)
	for i := range len(name) {
		hash = (hash ^ uint32(name[i])) * 0x0100_0193
	}
	return hash
}

// group is devices that are kept together: one word of bits. A rule for few devices of many pays for their groups only.
const group = 64

type states[S any] struct {
	// A bit for each device whose state is here, that was touched in this callback, that has a blob at the host.
	loaded, touched, stored uint64
	values                  [group]S
}

// Store is the state of devices in a slot: loaded once for each device that is met, and written back at the end of each
// callback, only what changed, in one call. The zero value of S is "nothing", and is not stored. A rule per device has one
// in slot 0, which is the state that its callbacks get.
type Store[S any] struct {
	slot       uint32
	generation int
	layout     *layout
	err        error
	groups     []*states[S]
	// The devices touched in this callback, and what they had before.
	touched []uint32
	before  []S
	// What is handed over; used again.
	changed []uint32
	lengths []uint32
	data    []byte
	missing []uint32
}

// keeper is a store of any state.
type keeper interface {
	save()
	problem() error
	number() uint32
}

// The stores of the rule of this instance. Those of an older generation belong to a rule that is no more.
var (
	stores     []keeper
	generation int
	starting   bool
)

// NewStore makes the store of a slot. To be called by the function given to [Register].
func NewStore[S any](slot uint32) *Store[S] {
	store := &Store[S]{slot: slot, generation: generation}
	store.layout, store.err = layoutOf(reflect.TypeFor[S]())
	for _, other := range stores {
		if other.number() == slot {
			store.err = errors.Join(store.err, fmt.Errorf("slot %d of the state is used twice", slot))
		}
	}
	switch {
	case !starting:
		store.err = errors.New("stores, windows and rules are made in the function given to rule.Register")
		store.generation = -1
	case store.layout.size > 0:
		if module.manifest.StateVersion == 0 {
			store.err = errors.Join(store.err, errors.New("a rule with state has a StateVersion, from 1, in its manifest"))
		}
		stores = append(stores, store)
	case store.err != nil:
		stores = append(stores, store)
	}
	return store
}

func (store *Store[S]) problem() error { return store.err }
func (store *Store[S]) number() uint32 { return store.slot }

// At is the state of a device, to be read and changed in place, until the callback returns.
func (store *Store[S]) At(device Device) *S {
	handle := device.handle
	if place := int(handle / group); place < len(store.groups) {
		if states := store.groups[place]; states != nil && states.touched>>(handle%group)&1 != 0 {
			return &states.values[handle%group]
		}
	}
	return store.touch(handle)
}

// touch is At for the first time in a callback.
func (store *Store[S]) touch(handle uint32) *S {
	states, bit := store.group(handle), uint64(1)<<(handle%group)
	if states.loaded&bit == 0 {
		store.check()
		// Devices of the batch come in one call: the next row will ask for the next one.
		store.load(handle, batch.distinct())
	}
	states.touched |= bit
	state := &states.values[handle%group]
	store.touched = append(store.touched, handle)
	store.before = append(store.before, *state)
	return state
}

func (store *Store[S]) check() {
	if store.generation != generation || starting {
		panic("a store is made in the function given to rule.Register, and used in callbacks")
	}
}

func (store *Store[S]) group(handle uint32) *states[S] {
	place := int(handle / group)
	if place >= len(store.groups) {
		store.groups = append(store.groups, make([]*states[S], place+1-len(store.groups))...)
	}
	if store.groups[place] == nil {
		store.groups[place] = new(states[S])
	}
	return store.groups[place]
}

// load loads what is not here of a device and others.
func (store *Store[S]) load(handle uint32, others []uint32) {
	store.missing = store.missing[:0]
	store.miss(handle)
	for _, other := range others {
		store.miss(other)
	}
	if len(store.missing) == 0 || store.layout.size == 0 {
		return
	}
	blobs := host.Load(store.slot, store.missing)
	rest := blobs.Data
	for i, length := range blobs.Lengths {
		if length == 0 {
			continue
		}
		handle := store.missing[i]
		states := store.groups[handle/group]
		states.stored |= 1 << (handle % group)
		// A blob of another size is of another layout, which migration should have taken care of.
		if int(length) == store.layout.size {
			store.layout.read(rest[:length], unsafe.Pointer(&states.values[handle%group]))
		}
		rest = rest[length:]
	}
}

func (store *Store[S]) miss(handle uint32) {
	states, bit := store.group(handle), uint64(1)<<(handle%group)
	if states.loaded&bit == 0 {
		states.loaded |= bit
		store.missing = append(store.missing, handle)
	}
}

// save stores what changed in this callback.
func (store *Store[S]) save() {
	store.changed, store.lengths, store.data = store.changed[:0], store.lengths[:0], store.data[:0]
	var size = int(unsafe.Sizeof(*new(S)))
	for i, handle := range store.touched {
		states, bit := store.groups[handle/group], uint64(1)<<(handle%group)
		states.touched &^= bit
		state := unsafe.Pointer(&states.values[handle%group])
		if string(memory(state, 0, size)) == string(memory(unsafe.Pointer(&store.before[i]), 0, size)) {
			continue
		}
		at := len(store.data)
		store.data = store.layout.write(store.data, state)
		if !allZero(store.data[at:]) {
			states.stored |= bit
		} else {
			store.data = store.data[:at]
			if states.stored&bit == 0 {
				continue
			}
			states.stored &^= bit
		}
		store.changed = append(store.changed, handle)
		store.lengths = append(store.lengths, uint32(len(store.data)-at))
	}
	store.touched, store.before = store.touched[:0], store.before[:0]
	if len(store.changed) > 0 {
		host.Store(store.slot, store.changed, host.Blobs{Lengths: store.lengths, Data: store.data})
	}
}

// Selected are the devices that the rule selects, in the order of their registration, each with its state.
func (store *Store[S]) Selected() iter.Seq2[Device, *S] {
	return func(yield func(Device, *S) bool) {
		for handles := range selected() {
			store.check()
			store.load(handles[0], handles[1:])
			for _, handle := range handles {
				device := Device{handle, noRow}
				if !yield(device, store.At(device)) {
					return
				}
			}
		}
	}
}

// States is the state that the callbacks of a rule per device get: for OnSchedule, and for devices other than the one that
// a callback is of. S is the type of that state.
func States[S any]() *Store[S] {
	if instance != nil {
		if store, ok := instance.state.(*Store[S]); ok {
			return store
		}
	}
	panicf("rule.States: %s is not the state of the rule", reflect.TypeFor[S]())
	return nil
}
