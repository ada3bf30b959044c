// Checks of what goes to the host: the bindings answer a wrong type with a bare `unreachable`.

/** A value as part of a message, cut where it is long. */
export function shown(value) {
  const json = typeof value === 'string' || value?.constructor === Object;
  const text = json ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

export function text(what, value) {
  if (typeof value !== 'string') throw new Error(`${what} is ${shown(value)}, a text is needed`);
  return value;
}

/** A time or a span in microseconds, rounded to whole ones. */
export function micros(what, value) {
  if (typeof value !== 'number' || !Number.isFinite(value)) {
    throw new Error(`${what} is ${shown(value)}, a number of microseconds is needed`);
  }
  const whole = Math.round(value);
  if (!Number.isSafeInteger(whole)) throw new Error(`${what} is ${shown(value)}, which is beyond any time`);
  return whole;
}

export function wholeNumber(what, value, largest) {
  if (!Number.isInteger(value) || value < 0 || value > largest) {
    throw new Error(`${what} is ${shown(value)}, a whole number from 0 to ${largest} is needed`);
  }
  return value;
}

/** A number, text or flag as the contract has it. */
export function value(what, x) {
  switch (typeof x) {
    case 'number': return { tag: 'number', val: x };
    case 'string': return { tag: 'text', val: x };
    case 'boolean': return { tag: 'boolean', val: x };
  }
  throw new Error(`${what} is ${shown(x)}, a number, text or flag is needed`);
}

/** Refuses members that an object should not have: a typo would be ignored otherwise. */
export function members(what, object, known) {
  for (const name of Object.keys(object)) {
    if (!known.includes(name)) throw new Error(`${what} has no ${shown(name)}: ${known.join(', ')}`);
  }
}
