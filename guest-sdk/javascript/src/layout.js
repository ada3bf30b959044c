// The layout of state: fields of fixed size, little-endian, in the order declared, without gaps.
//
// The code for a layout is generated from it once: an interpreter that walks a list of fields for each device
// spends several times as long on the list as on the fields.

import { shown } from './check.js';

const SIZES = { number: 8, integer: 8, flag: 1 };

class Numbers {
  constructor(length) {
    if (!Number.isInteger(length) || length < 1) throw new Error(`numbers: a length of ${shown(length)}`);
    this.length = length;
  }
}

/** A field that is an array of so many numbers. */
export const numbers = (length) => new Numbers(length);

/** The slot for what a name stands for: FNV-1a (32 bit) of its UTF-8. */
export function slotOf(name) {
  let hash = 0x811c9dc5;
  // The interpreter has no TextEncoder.
  const bytes = unescape(encodeURIComponent(name));
  for (let i = 0; i < bytes.length; i++) hash = Math.imul(hash ^ bytes.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}

/** The fields as a flat list, each with the place of its bytes and of its number among the numbers. */
function flatten(fields, what, path, into) {
  if (typeof fields !== 'object' || fields === null) {
    throw new Error(`${what} is ${shown(fields)}, an object of fields is needed`);
  }
  for (const [name, kind] of Object.entries(fields)) {
    // It becomes part of code.
    if (!/^[A-Za-z_$][A-Za-z0-9_$]*$/.test(name)) throw new Error(`${what}: ${shown(name)} is no name for a field`);
    const label = `${what}.${name}`;
    const field = { label, of: `${path}.${name}`, offset: into.size, at: into.width };
    if (typeof kind === 'string' && Object.hasOwn(SIZES, kind)) {
      into.leaves.push({ ...field, kind });
      into.size += SIZES[kind];
      into.width += 1;
    } else if (kind instanceof Numbers) {
      into.leaves.push({ ...field, kind: 'numbers', length: kind.length });
      into.size += 8 * kind.length;
      into.width += kind.length;
    } else if (typeof kind === 'function' && kind.fields) {
      const variable = `s${into.objects.length}`;
      into.objects.push({ variable, of: field.of, class: kind });
      flatten(kind.fields, label, variable, into);
    } else {
      throw new Error(`${label} is ${shown(kind)}: 'number', 'integer', 'flag', numbers(LENGTH), or a class with fields`);
    }
  }
}

const ZERO = { number: '0', integer: '0', flag: 'false' };

const same = ({ kind, of, at, length }) => {
  if (kind === 'numbers') return `equal(${of}, old, b + ${at}, ${length})`;
  return kind === 'flag' ? `+${of} === old[b + ${at}]` : `${of} === old[b + ${at}]`;
};
const check = ({ kind, of, label, length }) => {
  const wrong = `refuse(${JSON.stringify(label)}, ${of}, `;
  switch (kind) {
    case 'number': return `if (typeof ${of} !== 'number') ${wrong}'a number');`;
    case 'integer': return `if (!Number.isSafeInteger(${of})) ${wrong}'a whole number');`;
    case 'flag': return `if (typeof ${of} !== 'boolean') ${wrong}'true or false');`;
    default: return `if (!listed(${of}, ${length})) ${wrong}'a list of ${length} numbers');`;
  }
};
const remember = ({ kind, of, at, length }) => {
  if (kind === 'numbers') return `for (let i = 0; i < ${length}; i++) old[b + ${at} + i] = ${of}[i];`;
  return `old[b + ${at}] = ${kind === 'flag' ? '+' : ''}${of};`;
};
const put = ({ kind, of, offset, length }) => {
  const at = `at + ${offset}`;
  switch (kind) {
    case 'number': return `view.setFloat64(${at}, ${of}, true);`;
    // Two halves: a BigInt is an allocation. Bits of the lower one wrap as they should, also below zero.
    case 'integer': return `view.setUint32(${at}, ${of} >>> 0, true); view.setInt32(${at} + 4, Math.floor(${of} / 4294967296), true);`;
    case 'flag': return `view.setUint8(${at}, +${of});`;
    default: return `for (let i = 0; i < ${length}; i++) view.setFloat64(${at} + 8 * i, ${of}[i], true);`;
  }
};
const take = ({ kind, of, offset, length }) => {
  const at = `at + ${offset}`;
  switch (kind) {
    case 'number': return `${of} = view.getFloat64(${at}, true);`;
    case 'integer': return `${of} = view.getInt32(${at} + 4, true) * 4294967296 + view.getUint32(${at}, true);`;
    case 'flag': return `${of} = view.getUint8(${at}) !== 0;`;
    default: return `for (let i = 0; i < ${length}; i++) ${of}[i] = view.getFloat64(${at} + 8 * i, true);`;
  }
};
const isZero = ({ kind, of, length }) => {
  if (kind === 'numbers') return `zero(${of}, ${length})`;
  return kind === 'flag' ? `!${of}` : `${of} === 0`;
};

function equal(list, old, from, length) {
  if (list.length !== length) return false;
  for (let i = 0; i < length; i++) if (list[i] !== old[from + i]) return false;
  return true;
}
function zero(list, length) {
  for (let i = 0; i < length; i++) if (list[i] !== 0) return false;
  return true;
}
function listed(list, length) {
  if (list?.length !== length) return false;
  for (let i = 0; i < length; i++) if (typeof list[i] !== 'number') return false;
  return true;
}
function refuse(label, value, needed) {
  throw new Error(`${label} is ${shown(value)}, ${needed} is needed`);
}

function generate({ leaves, objects, size, width }) {
  const each = (write, separator = '\n') => leaves.map(write).join(separator);
  const parts = objects.map(({ variable, of }) => `const ${variable} = ${of};`).join('\n');
  const made = objects.map(({ variable, of }, i) => `const ${variable} = ${of} = new classes[${i}]();`).join('\n');
  const initial = ({ kind, of, length }) => `${of} = ${kind === 'numbers' ? `new Float64Array(${length})` : ZERO[kind]};`;
  const sealed = ['s', ...objects.map((object) => object.variable)].map((s) => `Object.preventExtensions(${s});`).join('\n');
  const code = `'use strict';
return {
  // Nothing kept. A member that was not declared is refused, not lost.
  create() {
    const s = {};
    ${made}
    ${each(initial)}
    ${sealed}
    return s;
  },
  read(s, view, at) {
    ${parts}
    ${each(take)}
  },
  write(s, view, at) {
    ${parts}
    ${each(check)}
    ${each(put)}
  },
  isNothing(s) {
    ${parts}
    return ${each(isZero, ' && ')};
  },
  remember(s, old, b) {
    ${parts}
    ${each(remember)}
  },
  // Writes what changed of the states at these places, and says whose and how long.
  save(places, states, old, stored, devices, view, handles, lengths) {
    let at = 0;
    for (let n = 0; n < places.length; n++) {
      const place = places[n], s = states[place], b = place * ${width};
      ${parts}
      if (${each(same, ' && ')}) continue;
      ${each(check)}
      ${each(remember)}
      if (${each(isZero, ' && ')}) {
        if (stored[place] === 0) continue;
        stored[place] = 0;
        handles.push(devices[place].handle);
        lengths.push(0);
        continue;
      }
      ${each(put)}
      at += ${size};
      stored[place] = 1;
      handles.push(devices[place].handle);
      lengths.push(${size});
    }
    return at;
  },
};`;
  return new Function('classes', 'equal', 'zero', 'listed', 'refuse', code)(objects.map((o) => o.class), equal, zero, listed, refuse);
}

/** What `layout` gives: to read and write blobs, as `migrate` needs it. */
export class Layout {
  constructor(fields) {
    const flat = { leaves: [], objects: [], size: 0, width: 0 };
    flatten(fields, 'state', 's', flat);
    if (flat.size === 0) throw new Error('state: there is no field');
    /** Bytes of a blob. */
    this.size = flat.size;
    /** How many numbers, flags among them, a state has. */
    this.width = flat.width;
    this.code = generate(flat);
  }

  /** The state of nothing: all zero. */
  create() {
    return this.code.create();
  }

  /** The state in a blob; one of another size is nothing. */
  read(blob) {
    const state = this.code.create();
    if (blob.length === this.size) this.code.read(state, new DataView(blob.buffer, blob.byteOffset, blob.length), 0);
    return state;
  }

  /** The blob of a state; members that are not given are zero. The state of nothing has no bytes. */
  write(members) {
    const state = this.code.create();
    assign(state, members);
    const blob = new Uint8Array(this.size);
    this.code.write(state, new DataView(blob.buffer), 0);
    return this.code.isNothing(state) ? new Uint8Array(0) : blob;
  }
}

function assign(state, members) {
  for (const [name, value] of Object.entries(members)) {
    if (!Object.hasOwn(state, name)) throw new Error(`state has no field ${shown(name)}`);
    if (typeof state[name] === 'object' && !ArrayBuffer.isView(state[name])) assign(state[name], value);
    else state[name] = value;
  }
}

/** A layout of its own, for blobs of an older version or of other slots. */
export const layout = (fields) => new Layout(fields);
