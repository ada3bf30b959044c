// State of devices: loaded once for each device that is met, stored at the end of a callback where it changed.

import { wholeNumber } from './check.js';
import { contract, u32 } from './contract.js';
import { callback } from './callback.js';
import { deviceAt, devices, groupPlaces, registry } from './device.js';
import { Layout } from './layout.js';

/** The states of one slot, by place of the device. Plain arrays: the interpreter is slow with others. */
export class States {
  constructor(slot, layout) {
    this.slot = slot;
    this.layout = layout;
    this.view = new DataView(new ArrayBuffer(64 * layout.size));
    this.forget();
  }

  forget() {
    /** Null: not loaded. Place 0 is nobody's. */
    this.states = [null];
    /** What the host has, as numbers. */
    this.old = new Array(this.layout.width).fill(0);
    /** 1: the host has a blob. */
    this.stored = [0];
    /** The callback that asked for it last. */
    this.marks = [0];
    /** 1: it is among those that changed. */
    this.dirty = [0];
    /** Places that were asked for in this callback. */
    this.touched = [];
    /** Places whose state changed in this callback, and their handles: so many of the entries. */
    this.count = 0;
    this.changed = [];
    this.owners = [];
  }

  /** The state of a device, to be changed. */
  of(device) {
    const place = device.place;
    const state = this.states[place] ?? this.load(place);
    if (this.marks[place] !== callback) {
      this.marks[place] = callback;
      this.touched.push(place);
    }
    return state;
  }

  /** The state of a handle that may not have been met. */
  meet(handle) {
    return this.load(deviceAt(handle).place);
  }

  /** The states of the devices of a batch, each as often as it comes. */
  ofHandles(handles) {
    const { states, marks, touched } = this;
    const list = [];
    let { placeOf } = registry;
    for (let row = 0; row < handles.length; row++) {
      const handle = handles[row];
      let place = placeOf[handle];
      let state = states[place];
      if (state == null) {
        state = this.meet(handle);
        placeOf = registry.placeOf;
        place = placeOf[handle];
      }
      if (marks[place] !== callback) {
        marks[place] = callback;
        touched[touched.length] = place;
      }
      list[row] = state;
    }
    return list;
  }

  /** Loads the state of a device, and of all of its group that were not loaded. */
  load(wanted) {
    const { states, layout, old, stored, marks, dirty } = this;
    // It meets devices that were not met before.
    const group = groupPlaces();
    while (states.length < devices.length) {
      states.push(null);
      stored.push(0);
      marks.push(0);
      dirty.push(0);
      for (let i = 0; i < layout.width; i++) old.push(0);
    }
    const missing = [];
    const handles = [];
    const want = (place) => {
      if (states[place] !== null) return;
      // Loaded soon; until then it only must not be null.
      states[place] = layout.code.create();
      missing.push(place);
      handles.push(devices[place].handle);
    };
    want(wanted);
    for (let i = 0; i < group.length; i++) want(group[i]);
    const { data, lengths } = contract.state.load(u32(this.slot), handles);
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    let at = 0;
    for (let i = 0; i < missing.length; i++) {
      const length = lengths[i];
      if (length === 0) continue;
      const place = missing[i];
      stored[place] = 1;
      // A blob of another size is of another layout, which migration should have taken care of.
      if (length === layout.size) {
        layout.code.read(states[place], view, at);
        layout.code.remember(states[place], old, place * layout.width);
      }
      at += length;
    }
    return states[wanted];
  }

  /** Stores what changed in this callback. */
  save() {
    const { layout } = this;
    if (this.touched.length > 0) {
      layout.code.compare(devices, this);
      this.touched.length = 0;
    }
    if (this.count === 0) return;
    if (this.view.byteLength < this.count * layout.size) {
      this.view = new DataView(new ArrayBuffer(2 * this.count * layout.size));
    }
    const empty = [];
    const bytes = layout.code.write(this, this.view, empty);
    const { count } = this;
    this.count = 0;
    if (count === 0) return;
    const lengths = new Uint32Array(count).fill(layout.size);
    for (const n of empty) lengths[n] = 0;
    const data = new Uint8Array(this.view.buffer, 0, bytes);
    contract.state.store(u32(this.slot), this.owners.slice(0, count), { lengths, data });
  }
}

/** All states of the rule of this instance. */
let tables = [];
let main = null;
/** Whether `start` runs, and may declare some. */
let open = false;
let version = 0;

/** Before `start` of a rule with this version of state. */
export function openTables(stateVersion) {
  tables = [];
  main = null;
  open = true;
  version = stateVersion;
}

/** After it; with the layout of slot 0, where the rule has one. */
export function closeTables(layout) {
  if (layout) main = table(0, layout);
  open = false;
}

export function mainState() {
  if (main === null) throw new Error('the rule declares no state');
  return main;
}

export const hasMainState = () => main !== null;

export function saveAll() {
  for (let i = 0; i < tables.length; i++) tables[i].save();
}

/** What the states of one device take in memory, roughly. */
export function bytesOfStates() {
  let bytes = 0;
  for (let i = 0; i < tables.length; i++) bytes += 100 + 16 * tables[i].layout.width;
  return bytes;
}

export function forgetStates() {
  for (const table of tables) table.forget();
}

export function table(slot, layout) {
  if (!open) throw new Error('state is declared in start');
  if (version === 0) throw new Error('the rule keeps state: its stateVersion cannot be 0');
  if (tables.some((other) => other.slot === slot)) throw new Error(`slot ${slot} of state is declared twice`);
  const made = new States(slot, layout);
  tables.push(made);
  return made;
}

/** More state than that of slot 0. To be called in `start`. */
export function stateIn(slot, fields) {
  const made = table(wholeNumber('the slot', slot, 0xffff_ffff), fields instanceof Layout ? fields : new Layout(fields));
  return { of: (device) => made.of(device) };
}
