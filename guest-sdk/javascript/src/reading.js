// The columns of the present batch, fetched when first asked for, and one row of them.

import { text } from './check.js';
import { contract } from './contract.js';
import { derived, drop, newColumn, numberOrNone } from './effects.js';

/** The code of a text column for: no text. */
export const NO_TEXT = 0xffff_ffff;
/** The entry of a column of flags for: no flag. */
export const NO_FLAG = 255;

export let rows = 0;
/** The device of each row. */
export let handles = [];
let times = null;
let numberColumns = {};
let textColumns = {};
let flagColumns = {};

/** A new batch: nothing of it is fetched but whose rows it has. */
export function openColumns() {
  rows = contract.readings.rows();
  handles = contract.readings.devices();
  times = null;
  numberColumns = Object.create(null);
  textColumns = Object.create(null);
  flagColumns = Object.create(null);
}

const fetchNumbers = (metric) => (numberColumns[text('a metric', metric)] = contract.readings.numbers(metric));
const fetchTexts = (metric) => (textColumns[text('a metric', metric)] = contract.readings.texts(metric));
const fetchFlags = (metric) => (flagColumns[text('a metric', metric)] = contract.readings.booleans(metric));

export const timesOfBatch = () => (times ??= contract.readings.times());
export const numbersOf = (metric) => numberColumns[metric] ?? fetchNumbers(metric);
export const textsOf = (metric) => textColumns[metric] ?? fetchTexts(metric);
export const flagsOf = (metric) => flagColumns[metric] ?? fetchFlags(metric);

/** The reading of a row. There is one object, which goes from row to row: it is not to be kept. */
class Reading {
  constructor() {
    /** Null outside of `onReading`. */
    this.row = null;
    Object.preventExtensions(this);
  }

  get time() {
    return (times ?? timesOfBatch())[this.row];
  }

  // Written out and not through functions: they run once or more for every row.
  number(metric) {
    const x = (numberColumns[metric] ?? fetchNumbers(metric))[this.row];
    return x === x ? x : undefined;
  }

  text(metric) {
    const column = textColumns[metric] ?? fetchTexts(metric);
    const code = column.codes[this.row];
    return code === NO_TEXT ? undefined : column.dictionary[code];
  }

  flag(metric) {
    const flag = (flagColumns[metric] ?? fetchFlags(metric))[this.row];
    return flag === NO_FLAG ? undefined : flag !== 0;
  }

  derive(metric, value) {
    const column = derived[metric] ?? newColumn(metric, rows);
    column[this.row] = typeof value === 'number' ? value : numberOrNone(metric, value);
  }

  drop() {
    drop(rows, this.row);
  }
}

export const reading = new Reading();
