// Devices: an object for each that was met, with what the registry says of it.

import { micros, text, value, wholeNumber } from './check.js';
import { contract, u32 } from './contract.js';
import { reading } from './reading.js';
import { callback } from './callback.js';
import { changeTimer } from './effects.js';
import { mainState } from './state.js';

const LARGEST_U32 = 0xffff_ffff;
const SEVERITIES = ['info', 'warning', 'minor', 'major', 'critical'];

/** The devices that were met, from place 1. State is kept by place too: handles may be few of very many. */
export const devices = [null];
/** The place of a handle; 0: not met. */
export const registry = { placeOf: new Int32Array(256) };

/** Devices that the callback is about. What is asked about one of them is soon asked about the others. */
let group = [];
/** The same, by place. */
let members = null;
/** By place, the group that it was counted in last. */
const countedIn = [0];
let groups = 0;

export function setGroup(handles) {
  group = handles;
  members = null;
}

/** The places of the group, each once. */
export function groupPlaces() {
  if (members === null) {
    members = [];
    groups += 1;
    for (let i = 0; i < group.length; i++) {
      const place = registry.placeOf[group[i]] || meet(group[i]);
      if (countedIn[place] === groups) continue;
      countedIn[place] = groups;
      members.push(place);
    }
  }
  return members;
}

/** Gives a device that was not met before its place. */
export function meet(handle) {
  if (handle >= registry.placeOf.length) {
    let length = registry.placeOf.length;
    while (length <= handle) length *= 2;
    const grown = new Int32Array(length);
    grown.set(registry.placeOf);
    registry.placeOf = grown;
  }
  const place = devices.length;
  registry.placeOf[handle] = place;
  devices.push(new Device(handle, place));
  countedIn.push(0);
  return place;
}

export const deviceAt = (handle) => devices[registry.placeOf[handle] || meet(handle)];

/** Forgets all devices, and so all that is kept by place. */
export function forgetDevices() {
  devices.length = 1;
  countedIn.length = 1;
  registry.placeOf.fill(0);
  setGroup([]);
  forgetRegistry();
}

// What the registry said, by place, until it changes.
let names = new Map();
let attributes = new Map();
let version = -1;
let checkedIn = 0;
let misses = 0;

function forgetRegistry() {
  names = new Map();
  attributes = new Map();
  version = -1;
  checkedIn = 0;
}

function checkVersion() {
  if (checkedIn === callback) return;
  const present = contract.devices.version();
  if (present !== version) forgetRegistry();
  version = present;
  checkedIn = callback;
  misses = 0;
}

function attribute(device, name) {
  checkVersion();
  let known = attributes.get(name);
  if (known === undefined) attributes.set(name, (known = new Map()));
  const found = known.get(device.place);
  if (found !== undefined) return found;
  // The first question of a callback is for one device: rules ask when something happens. With the second
  // one it is likely for all.
  let places = [device.place];
  if (misses++ > 0) {
    const others = groupPlaces().filter((place) => place !== device.place && !known.has(place));
    places = places.concat(others);
  }
  const answers = contract.devices.attribute(name, places.map((place) => devices[place].handle));
  for (let i = 0; i < places.length; i++) known.set(places[i], answers[i] == null ? null : answers[i].val);
  return known.get(device.place);
}

const NO_DETAILS = [];

function detailsOf(key, details) {
  if (details === undefined) return NO_DETAILS;
  if (typeof details !== 'object' || details === null || Array.isArray(details)) {
    throw new Error(`alert ${key}: details are an object of names and values`);
  }
  const list = [];
  for (const name of Object.keys(details)) {
    const detail = details[name];
    if (detail != null) list.push({ name, value: value(`alert ${key}: detail ${name}`, detail) });
  }
  return list;
}

export function trigger(device, key, severity, summary, details, ofRow) {
  text('the key of an alert', key);
  if (!SEVERITIES.includes(severity)) {
    throw new Error(`alert ${key}: the severity is ${String(severity)}: ${SEVERITIES.join(', ')}`);
  }
  text(`alert ${key}: the summary`, summary);
  const list = detailsOf(key, details);
  contract.alerts.trigger({ device: device.handle, key, severity, summary, details: list, row: ofRow, extra: null });
}

export function clear(device, key, ofRow) {
  contract.alerts.clear(device.handle, text('the key of an alert', key), ofRow);
}

export class Device {
  constructor(handle, place) {
    this.handle = handle;
    this.place = place;
  }

  get name() {
    checkVersion();
    let name = names.get(this.place);
    if (name === undefined) names.set(this.place, (name = contract.devices.name(this.handle)));
    return name;
  }

  get type() {
    return attribute(this, 'type') ?? '';
  }

  get site() {
    return attribute(this, 'site') ?? '';
  }

  label(name) {
    return attribute(this, text('the name of a label', name)) ?? undefined;
  }

  get state() {
    return mainState().of(this);
  }

  trigger(key, severity, summary, details) {
    trigger(this, key, severity, summary, details, reading.row);
  }

  clear(key) {
    clear(this, key, reading.row);
  }

  setTimer(tag, at) {
    changeTimer('set', this.#timer(tag, micros('the time of a timer', at)));
  }

  cancelTimer(tag) {
    changeTimer('cancel', this.#timer(tag, 0));
  }

  #timer(tag, at) {
    return { device: this.handle, tag: u32(wholeNumber('the tag of a timer', tag, LARGEST_U32)), at };
  }
}

/** The device of this name, where one is registered. */
export function find(name) {
  const handle = contract.devices.find(text('the name of a device', name));
  // Handle 0 is a device.
  return handle == null ? undefined : deviceAt(handle);
}

/** Devices asked for at once. */
const PAGE = 1024;

/** All devices that the rule selects. */
export function* selectedDevices() {
  for (let after = null; ;) {
    const page = contract.devices.selected(after, PAGE);
    if (page.length === 0) return;
    const before = group;
    try {
      for (const handle of page) {
        // Set anew for each: the loop that uses this may itself go through other devices.
        if (group !== page) setGroup(page);
        yield deviceAt(handle);
      }
    } finally {
      setGroup(before);
    }
    after = page[page.length - 1];
  }
}
