// The readings of a callback: one by one, or as columns.

import { text } from './check.js';
import { contract } from './contract.js';
import { callback, row, setRow } from './callback.js';
import { clear, deviceAt, devices, meet, placeOf, setGroup, trigger } from './device.js';
import { derive, deriveColumn, drop, keepRows } from './effects.js';
import { hasMainState, mainState } from './state.js';

/** The code of a text column for: no text. */
export const NO_TEXT = 0xffff_ffff;
/** The entry of a column of flags for: no flag. */
export const NO_FLAG = 255;

// Columns of the present batch, fetched when first asked for.
let rows = 0;
let handles = [];
let times = null;
let numberColumns = null;
let textColumns = null;
let flagColumns = null;

function open() {
  rows = contract.readings.rows();
  handles = contract.readings.devices();
  times = null;
  numberColumns = Object.create(null);
  textColumns = Object.create(null);
  flagColumns = Object.create(null);
  setGroup(handles);
}

const timesOfBatch = () => (times ??= contract.readings.times());
const fetchNumbers = (metric) => (numberColumns[text('a metric', metric)] = contract.readings.numbers(metric));
const fetchTexts = (metric) => (textColumns[text('a metric', metric)] = contract.readings.texts(metric));
const fetchFlags = (metric) => (flagColumns[text('a metric', metric)] = contract.readings.booleans(metric));

/** The reading of the present row. There is one object: it is not to be kept. */
class Reading {
  get time() {
    return timesOfBatch()[row];
  }

  number(metric) {
    const x = (numberColumns[metric] ?? fetchNumbers(metric))[row];
    return x === x ? x : undefined;
  }

  text(metric) {
    const column = textColumns[metric] ?? fetchTexts(metric);
    const code = column.codes[row];
    return code === NO_TEXT ? undefined : column.dictionary[code];
  }

  flag(metric) {
    const flag = (flagColumns[metric] ?? fetchFlags(metric))[row];
    return flag === NO_FLAG ? undefined : flag !== 0;
  }

  derive(metric, value) {
    derive(metric, rows, row, value);
  }

  drop() {
    drop(rows, row);
  }
}

const reading = Object.freeze(new Reading());

/** Which entries of which columns say that a row has one of the metrics; null: every row does. */
function presence(metrics) {
  if (metrics.length === 0) return null;
  const present = contract.readings.columns();
  const columns = [];
  for (const pattern of metrics) {
    const prefix = pattern.endsWith('*') ? pattern.slice(0, -1) : null;
    for (const { metric, kind } of present) {
      if (prefix === null ? metric === pattern : metric.startsWith(prefix)) columns.push({ metric, kind });
    }
  }
  return columns;
}

const entriesOf = ({ metric, kind }) => {
  switch (kind) {
    case 'number': return numberColumns[metric] ?? fetchNumbers(metric);
    case 'text': return (textColumns[metric] ?? fetchTexts(metric)).codes;
    default: return flagColumns[metric] ?? fetchFlags(metric);
  }
};
const NOTHING = { number: NaN, text: NO_TEXT, boolean: NO_FLAG };

const has = (column, at) => {
  const x = entriesOf(column)[at];
  return x === x && x !== NOTHING[column.kind];
};

/** Calls `onReading` for each row that has one of the metrics, in the order of the log. */
export function eachReading(callbacks, metrics) {
  open();
  const columns = presence(metrics);
  if (columns !== null && columns.length === 0) return;
  // Most rows have the first metric, and the others need not be fetched for those.
  const first = columns === null ? handles : entriesOf(columns[0]);
  const nothing = columns === null ? undefined : NOTHING[columns[0].kind];
  const others = columns === null ? [] : columns.slice(1);
  const states = hasMainState() ? mainState() : null;
  for (let at = 0; at < rows; at++) {
    const x = first[at];
    if ((x !== x || x === nothing) && !others.some((column) => has(column, at))) continue;
    const handle = handles[at];
    const place = placeOf[handle] || meet(handle);
    setRow(at);
    if (states === null) {
      callbacks.onReading(devices[place], reading, undefined);
      continue;
    }
    // As `States.of`, without a call.
    const state = states.states[place] ?? states.load(place);
    if (states.marks[place] !== callback) {
      states.marks[place] = callback;
      states.touched.push(place);
    }
    callbacks.onReading(devices[place], reading, state);
  }
  setRow(null);
}

function checkRow(row) {
  if (!Number.isInteger(row) || row < 0 || row >= rows) throw new Error(`row ${String(row)} of a batch of ${rows} rows`);
  return row;
}

/** The readings as columns. Rows are in the order of the log; where a batch is cut is chance. */
class Batch {
  get rows() {
    return rows;
  }

  get stream() {
    return contract.readings.streamName();
  }

  get columns() {
    return contract.readings.columns();
  }

  get devices() {
    return handles;
  }

  get times() {
    return timesOfBatch();
  }

  numbers(metric) {
    return numberColumns[metric] ?? fetchNumbers(metric);
  }

  texts(metric) {
    return textColumns[metric] ?? fetchTexts(metric);
  }

  flags(metric) {
    return flagColumns[metric] ?? fetchFlags(metric);
  }

  device(row) {
    return deviceAt(handles[checkRow(row)]);
  }

  state(row) {
    return mainState().of(deviceAt(handles[checkRow(row)]));
  }

  states() {
    const table = mainState();
    const list = [];
    for (let at = 0; at < rows; at++) list.push(table.of(devices[placeOf[handles[at]] || meet(handles[at])]));
    return list;
  }

  trigger(row, key, severity, summary, details) {
    trigger(deviceAt(handles[checkRow(row)]), key, severity, summary, details, row);
  }

  clear(row, key) {
    clear(deviceAt(handles[checkRow(row)]), key, row);
  }

  derive(metric, values) {
    deriveColumn(metric, rows, values);
  }

  keep(kept) {
    keepRows(rows, kept);
  }
}

const batch = Object.freeze(new Batch());

/** The batch of this callback. */
export function openBatch() {
  open();
  return batch;
}
