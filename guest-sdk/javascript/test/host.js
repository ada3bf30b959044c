// A host in memory, in the place of the contract's imports. What it is given is checked as the bindings would.

import { component } from '../src/component.js';

// The bindings take a u32 as an i32, and its bits: what is larger than the largest i32 becomes that one.
const taken = (x) => Math.min(x, 0x7fff_ffff) >>> 0;
const u32 = (x) => Number.isInteger(x) && x >= 0 && x <= 0xffff_ffff;
function need(condition, what) {
  if (!condition) throw new Error(`the bindings would trap: ${what}`);
}
const isValue = (v) => typeof v.val === { number: 'number', text: 'string', boolean: 'boolean' }[v.tag];

/** A rule in an instance of its own; `again()` makes a fresh instance over the same state. */
export function run(rule, parameters = {}, devices = {}) {
  const host = { now: 0, calls: [], states: new Map(), devices, parameters, version: 1, rows: [], done: {} };
  const names = () => Object.keys(host.devices);
  const call = (name, f) => (...given) => {
    host.calls.push(name);
    return f(...given);
  };
  const wrap = (name, functions) => Object.fromEntries(Object.entries(functions).map(([key, f]) => [key, call(`${name}.${key}`, f)]));
  const key = (slot, device) => `${taken(slot)}/${device}`;
  const timers = (list) => list.map((timer) => ({ ...timer, tag: taken(timer.tag) }));
  const column = (metric, type, none) => host.rows.map((row) => (typeof row.values[metric] === type ? row.values[metric] : none));
  const effect = (name, value) => (host.done[name] ??= []).push(value);

  const imports = {
    readings: wrap('readings', {
      streamName: () => 'plant',
      rows: () => host.rows.length,
      columns() {
        const kinds = new Map();
        const kind = { number: 'number', string: 'text', boolean: 'boolean' };
        for (const row of host.rows) for (const [metric, x] of Object.entries(row.values)) kinds.set(`${metric} ${typeof x}`, { metric, kind: kind[typeof x] });
        return [...kinds.values()];
      },
      devices: () => host.rows.map((row) => names().indexOf(row.device)),
      times: () => host.rows.map((row) => row.time),
      numbers: (metric) => column(metric, 'number', NaN),
      texts(metric) {
        const texts = column(metric, 'string', null);
        const dictionary = [...new Set(texts.filter((text) => text !== null))];
        return { dictionary, codes: texts.map((text) => (text === null ? 0xffff_ffff : dictionary.indexOf(text))) };
      },
      booleans: (metric) => Uint8Array.from(column(metric, 'boolean', 255), Number),
    }),
    clock: wrap('clock', { now: () => host.now }),
    devices: wrap('devices', {
      name: (device) => names()[device],
      attribute(name, list) {
        need(Array.isArray(list) && list.every(u32), 'a list of devices');
        return list.map((device) => {
          const text = Object.values(host.devices)[device][name];
          return text ? { tag: 'text', val: text } : null;
        });
      },
      find: (name) => (names().includes(name) ? names().indexOf(name) : null),
      selected(after, limit) {
        need(after === null || u32(after), 'after');
        const from = after === null ? 0 : after + 1;
        return names().map((_, i) => i).slice(from, from + Math.min(limit, 2));
      },
      version: () => host.version,
    }),
    alerts: wrap('alerts', {
      trigger(alert) {
        need(alert.extra === null && Array.isArray(alert.details) && alert.details.every((d) => isValue(d.value)), 'an alert');
        need(alert.row === null || u32(alert.row), 'a row');
        const details = Object.fromEntries(alert.details.map((detail) => [detail.name, detail.value.val]));
        effect('alerts', { trigger: alert.key, device: names()[alert.device], severity: alert.severity, details, row: alert.row });
      },
      clear: (device, name, row) => effect('alerts', { clear: name, device: names()[device], row }),
    }),
    output: wrap('output', {
      keep: (mask) => effect('keep', [...mask]),
      derive(metric, values) {
        need(values instanceof Float64Array && values.length === host.rows.length, 'a column');
        effect('derive', { [metric]: [...values] });
      },
      emit(readings) {
        need(readings.every((reading) => isValue(reading.value) && Number.isSafeInteger(reading.time)), 'readings');
        for (const { device, time, metric, value } of readings) effect('emit', { device, time, metric, value: value.val });
      },
    }),
    state: wrap('state', {
      load(slot, list) {
        need(Array.isArray(list) && new Set(list).size === list.length, 'a device twice');
        const blobs = list.map((device) => host.states.get(key(slot, device)) ?? []);
        return { lengths: blobs.map((blob) => blob.length), data: Uint8Array.from(blobs.flat()) };
      },
      store(slot, list, { lengths, data }) {
        need(Array.isArray(list) && new Set(list).size === list.length && lengths.length === list.length, 'devices');
        need(data instanceof Uint8Array, 'bytes');
        let at = 0;
        list.forEach((device, i) => {
          if (lengths[i] === 0) host.states.delete(key(slot, device));
          else host.states.set(key(slot, device), [...data.subarray(at, at + lengths[i])]);
          at += lengths[i];
        });
        need(at === data.length, 'lengths that add up');
      },
    }),
    timers: wrap('timers', { set: (list) => effect('set', timers(list)), cancel: (list) => effect('cancel', timers(list)) }),
    config: wrap('config', { json: () => JSON.stringify(host.parameters) }),
    log: wrap('log', { write: (level, message) => effect('log', `${level}: ${message}`) }),
  };

  host.again = () => {
    host.exports = component(rule, imports);
    return host.exports.handler.start();
  };
  /** Runs a callback, and gives what it did. */
  const perform = (f) => {
    host.done = {};
    host.calls = [];
    f();
    return host.done;
  };
  /** A batch: rows as [device, values, time]. */
  host.batch = (...rows) => {
    host.rows = rows.map(([device, values, time = host.now]) => ({ device, values, time }));
    const done = perform(() => host.exports.handler.onBatch());
    host.rows = [];
    return done;
  };
  host.timers = (due) => perform(() => host.exports.timerHandler.onTimers(due));
  host.silence = (silent) => perform(() => host.exports.silenceHandler.onSilence(silent));
  host.schedule = (name, at) => perform(() => host.exports.scheduleHandler.onSchedule(name, at));
  host.subscription = host.again();
  return host;
}
