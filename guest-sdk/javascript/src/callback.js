// Which callback runs, and for which row.

/** Counts callbacks, from 1: what was done in the present one is marked with it. */
export let callback = 0;

/** The row that is evaluated; null outside of `onReading`. */
export let row = null;

export function nextCallback() {
  callback += 1;
  row = null;
}

export function setRow(next) {
  row = next;
}
