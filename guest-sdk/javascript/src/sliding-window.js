// A window that slides, in pieces: only the piece that a reading falls into is stored again.

import { shown, wholeNumber } from './check.js';
import { include, open } from './helpers.js';
import { Layout } from './layout.js';
import { table } from './state.js';

const PIECE = { index: 'integer', count: 'integer', sum: 'number', min: 'number', max: 'number' };

class SlidingWindow {
  constructor(tables, pieceLength) {
    this.tables = tables;
    this.pieceLength = pieceLength;
  }

  piece(device, index) {
    const count = this.tables.length;
    return this.tables[((index % count) + count) % count].of(device);
  }

  /** Adds a reading; one that is older than the window is ignored. */
  add(device, time, x) {
    const index = Math.floor(time / this.pieceLength);
    const piece = this.piece(device, index);
    if (piece.count === 0 || piece.index < index) open(piece, index, x);
    else if (piece.index === index) include(piece, x);
  }

  /** What is in the window that ends at a time. */
  over(device, time) {
    const last = Math.floor(time / this.pieceLength);
    let count = 0, sum = 0, min = NaN, max = NaN;
    for (let index = last - this.tables.length + 1; index <= last; index++) {
      const piece = this.piece(device, index);
      if (piece.count === 0 || piece.index !== index) continue;
      if (count === 0 || piece.min < min) min = piece.min;
      if (count === 0 || piece.max > max) max = piece.max;
      count += piece.count;
      sum += piece.sum;
    }
    return { count, sum, min, max, mean: sum / count };
  }
}

/** A sliding window in `pieces` slots of state from `slot` on. To be called in `start`. */
export function slidingWindow({ slot, pieces, span }) {
  if (!Number.isInteger(pieces) || pieces < 1) throw new Error(`a sliding window of ${shown(pieces)} pieces`);
  const pieceLength = Math.floor(span / pieces);
  if (!(pieceLength >= 1)) throw new Error(`a sliding window over ${shown(span)} microseconds`);
  wholeNumber('the slot', slot, 0xffff_ffff);
  const layout = new Layout(PIECE);
  const tables = [];
  for (let i = 0; i < pieces; i++) tables.push(table((slot + i) % 0x1_0000_0000, layout));
  return new SlidingWindow(tables, pieceLength);
}
