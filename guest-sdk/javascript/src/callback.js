// Which callback runs, and for which row.

/** Counts callbacks, from 1: what was done in the present one is marked with it. */
export let callback = 0;

export function nextCallback() {
  callback += 1;
}
