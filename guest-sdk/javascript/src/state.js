// State of devices: loaded once for each device that is met, stored at the end of a callback where it changed.

import { wholeNumber } from './check.js';
import { contract } from './contract.js';
import { callback } from './callback.js';
import { devices, groupPlaces } from './device.js';
import { Layout } from './layout.js';

/** The states of one slot, by place of the device. */
export class States {
  constructor(slot, layout) {
    this.slot = slot;
    this.layout = layout;
    /** Null: not loaded. */
    this.states = [null];
    /** What the host has, as numbers. */
    this.old = new Float64Array(64 * layout.width);
    /** 1: the host has a blob. */
    this.stored = new Uint8Array(64);
    /** The callback that met it last. */
    this.marks = new Int32Array(64);
    /** Places met in this callback. */
    this.touched = [];
    this.view = new DataView(new ArrayBuffer(64 * layout.size));
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

  /** Loads the state of a device, and of all of its group that were not loaded. */
  load(wanted) {
    const { states, layout } = this;
    // It meets devices that were not met before.
    const group = groupPlaces();
    while (states.length < devices.length) states.push(null);
    const missing = group.filter((place) => states[place] === null);
    if (!missing.includes(wanted)) missing.push(wanted);
    this.grow(devices.length);
    const blobs = contract.state.load(this.slot, missing.map((place) => devices[place].handle));
    const { data, lengths } = blobs;
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    let at = 0;
    for (let i = 0; i < missing.length; i++) {
      const place = missing[i];
      const state = layout.create();
      // A blob of another size is of another layout, which migration should have taken care of.
      if (lengths[i] === layout.size) layout.code.read(state, view, at);
      layout.code.remember(state, this.old, place * layout.width);
      this.stored[place] = lengths[i] > 0 ? 1 : 0;
      states[place] = state;
      at += lengths[i];
    }
    return states[wanted];
  }

  grow(places) {
    let length = this.stored.length;
    if (places <= length) return;
    while (length < places) length *= 2;
    const grown = (list, size) => {
      const larger = new list.constructor(size);
      larger.set(list);
      return larger;
    };
    this.old = grown(this.old, length * this.layout.width);
    this.stored = grown(this.stored, length);
    this.marks = grown(this.marks, length);
  }

  /** Stores what changed in this callback. */
  save() {
    const { touched, layout } = this;
    if (touched.length === 0) return;
    if (this.view.byteLength < touched.length * layout.size) {
      this.view = new DataView(new ArrayBuffer(2 * touched.length * layout.size));
    }
    const handles = [];
    const lengths = [];
    const bytes = layout.code.save(touched, this.states, this.old, this.stored, devices, this.view, handles, lengths);
    this.touched = [];
    if (handles.length > 0) {
      contract.state.store(this.slot, handles, { lengths, data: new Uint8Array(this.view.buffer, 0, bytes) });
    }
  }

  /** How many states are here. */
  forget() {
    this.states = [null];
    this.marks.fill(0);
    this.touched = [];
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
