// What a callback does, collected and handed over at its end.

import { micros, shown, text, value } from './check.js';
import { contract } from './contract.js';

/** Values of derived columns, by metric. */
export let derived = {};
/** What is kept of the batch; null: all. */
let mask = null;
let emitted = [];
/** The last change of each timer. */
let timers = new Map();
let hearsTimers = false;

export function resetEffects(withTimers) {
  derived = Object.create(null);
  mask = null;
  if (emitted.length > 0) emitted = [];
  if (timers.size > 0) timers = new Map();
  hearsTimers = withTimers;
}

/** A new reading of any device, by name. */
export function emit(device, metric, x, time) {
  text('the device of an emitted reading', device);
  text('the metric of an emitted reading', metric);
  if (typeof x === 'number' && !Number.isFinite(x)) throw new Error(`emitted ${metric} is ${x}, a finite number is needed`);
  emitted.push({ device, time: micros(`the time of emitted ${metric}`, time), metric, value: value(`emitted ${metric}`, x) });
}

/** A derived column without values. */
export function newColumn(metric, rows) {
  return (derived[text('the name of a derived metric', metric)] = new Float64Array(rows).fill(NaN));
}

/** What is derived where it is no number: none is no value. */
export function numberOrNone(metric, x) {
  if (x == null) return NaN;
  throw new Error(`derived ${metric} is ${shown(x)}, a number is needed`);
}

/** Sets a whole derived column. */
export function deriveColumn(metric, rows, values) {
  text('the name of a derived metric', metric);
  if (values?.length !== rows) throw new Error(`derived ${metric} has ${values?.length} values, the batch has ${rows} rows`);
  if (values instanceof Float64Array) {
    derived[metric] = values;
    return;
  }
  const column = new Float64Array(rows);
  for (let i = 0; i < rows; i++) {
    const x = values[i];
    column[i] = typeof x === 'number' ? x : numberOrNone(metric, x);
  }
  derived[metric] = column;
}

/** Leaves a row out of the output stream. */
export function drop(rows, row) {
  if (mask === null) mask = new Uint8Array(rows).fill(1);
  mask[row] = 0;
}

/** Says of all rows whether they are kept. */
export function keepRows(rows, kept) {
  if (kept?.length !== rows) throw new Error(`keep has ${kept?.length} entries, the batch has ${rows} rows`);
  mask = kept instanceof Uint8Array ? kept : Uint8Array.from(kept, (keep) => (keep ? 1 : 0));
}

export function changeTimer(change, timer) {
  if (!hearsTimers) throw new Error('a timer of a rule without onTimer');
  const identity = `${timer.device} ${timer.tag}`;
  timers.delete(identity);
  timers.set(identity, { change, timer });
}

/** Hands over what was collected. */
export function commit() {
  for (const metric of Object.keys(derived)) contract.output.derive(metric, derived[metric]);
  if (mask !== null) contract.output.keep(mask);
  if (emitted.length > 0) contract.output.emit(emitted);
  if (timers.size > 0) {
    const changes = [...timers.values()];
    for (const change of ['set', 'cancel']) {
      const list = changes.filter((entry) => entry.change === change).map((entry) => entry.timer);
      if (list.length > 0) contract.timers[change](list);
    }
  }
}
