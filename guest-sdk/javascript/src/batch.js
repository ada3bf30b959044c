// The readings of a callback: one by one, or as columns.

import { contract } from './contract.js';
import { clear, deviceAt, devices, registry, setGroup, trigger } from './device.js';
import { deriveColumn, keepRows } from './effects.js';
import { NO_FLAG, NO_TEXT, flagsOf, handles, numbersOf, openColumns, reading, rows, textsOf, timesOfBatch } from './reading.js';
import { hasMainState, mainState } from './state.js';

function open() {
  openColumns();
  setGroup(handles);
}

const KINDS = {
  number: { nothing: NaN, entries: numbersOf },
  text: { nothing: NO_TEXT, entries: (metric) => textsOf(metric).codes },
  boolean: { nothing: NO_FLAG, entries: flagsOf },
};

/** The columns of the batch that have one of the metrics. */
function subscribed(metrics) {
  const present = contract.readings.columns();
  return metrics.flatMap((pattern) => {
    const prefix = pattern.endsWith('*') ? pattern.slice(0, -1) : null;
    return present.filter(({ metric }) => (prefix === null ? metric === pattern : metric.startsWith(prefix)));
  });
}

/** The rows that have one of the metrics, as pairs of a first one and one behind the last. */
function rangesOf(metrics) {
  if (metrics.length === 0) return [0, rows];
  const columns = subscribed(metrics);
  let missing = null;
  for (const { metric, kind } of columns) {
    const { nothing, entries } = KINDS[kind];
    const column = entries(metric);
    // It finds NaN too. Where all rows have the first metric, the others need not be fetched.
    if (!column.includes(nothing)) return [0, rows];
    const without = (row) => (column[row] !== column[row] || column[row] === nothing);
    missing = (missing ?? [...column.keys()]).filter(without);
    if (missing.length === 0) return [0, rows];
  }
  const ranges = [];
  let from = 0;
  for (const row of missing ?? [...handles.keys()]) {
    if (row > from) ranges.push(from, row);
    from = row + 1;
  }
  if (rows > from) ranges.push(from, rows);
  return ranges;
}

/** Calls `onReading` for each row that has one of the metrics, in the order of the log. */
export function eachReading(callbacks, metrics) {
  open();
  const ranges = rangesOf(metrics);
  for (let i = 0; i < ranges.length; i += 2) {
    if (hasMainState()) {
      const table = mainState();
      table.layout.code.run(callbacks, reading, ranges[i], ranges[i + 1], handles, devices, registry, table);
    } else {
      run(callbacks, ranges[i], ranges[i + 1]);
    }
  }
}

/** The same for a rule without state. */
function run(callbacks, from, to) {
  let { placeOf } = registry;
  const own = handles;
  for (let row = from; row < to; row++) {
    const handle = own[row];
    let device = devices[placeOf[handle]];
    if (device == null) {
      device = deviceAt(handle);
      placeOf = registry.placeOf;
    }
    reading.row = row;
    callbacks.onReading(device, reading, undefined);
  }
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
    return numbersOf(metric);
  }

  texts(metric) {
    return textsOf(metric);
  }

  flags(metric) {
    return flagsOf(metric);
  }

  device(row) {
    return deviceAt(handles[checkRow(row)]);
  }

  state(row) {
    return mainState().of(deviceAt(handles[checkRow(row)]));
  }

  states() {
    return mainState().ofHandles(handles);
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
