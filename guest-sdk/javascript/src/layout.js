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

/** A number of a field, in a variable of its own: reading a member costs more than a variable. */
const variable = ({ at }) => `v${at}`;
const each = (length, code) => `for (let i = 0; i < ${length}; i++) ${code}`;

// What is generated for a field, by its kind: `of` is the member (s.ewma.mean), `at` the index of its number among
// the numbers of a state, `offset` that of its bytes among the bytes.
const KINDS = {
  number: {
    initial: () => '0',
    same: ({ of, at }) => `${of} === old[b + ${at}]`,
    check: (field) => `if (${variable(field)} !== +${variable(field)}) number(${label(field)}, ${variable(field)});`,
    remember: (field) => `old[b + ${field.at}] = ${variable(field)};`,
    isZero: (field) => `${variable(field)} === 0`,
    put: (field) => `view.setFloat64(at + ${field.offset}, ${variable(field)}, true);`,
    take: ({ of, offset }) => `${of} = view.getFloat64(at + ${offset}, true);`,
  },
  integer: {
    initial: () => '0',
    same: ({ of, at }) => `${of} === old[b + ${at}]`,
    check: (field) => `if (${variable(field)} !== (${variable(field)} | 0)) whole(${label(field)}, ${variable(field)});`,
    remember: (field) => `old[b + ${field.at}] = ${variable(field)};`,
    isZero: (field) => `${variable(field)} === 0`,
    // Two halves: a BigInt is an allocation. The bits of the lower one wrap as they should, also below zero.
    put(field) {
      const v = variable(field);
      const high = `${v} === (${v} | 0) ? ${v} >> 31 : Math.floor(${v} / 4294967296)`;
      return `view.setUint32(at + ${field.offset}, ${v}, true); view.setInt32(at + ${field.offset + 4}, ${high}, true);`;
    },
    take: ({ of, offset }) =>
      `${of} = view.getInt32(at + ${offset + 4}, true) * 4294967296 + view.getUint32(at + ${offset}, true);`,
  },
  flag: {
    initial: () => 'false',
    same: ({ of, at }) => `+${of} === old[b + ${at}]`,
    check: (field) => `if (${variable(field)} !== true && ${variable(field)} !== false) flag(${label(field)}, ${variable(field)});`,
    remember: (field) => `old[b + ${field.at}] = +${variable(field)};`,
    isZero: (field) => `!${variable(field)}`,
    put: (field) => `view.setUint8(at + ${field.offset}, +${variable(field)});`,
    take: ({ of, offset }) => `${of} = view.getUint8(at + ${offset}) !== 0;`,
  },
  numbers: {
    initial: ({ length }) => `new Float64Array(${length})`,
    same: ({ of, at, length }) => `equal(${of}, old, b + ${at}, ${length})`,
    check: (field) => `list(${label(field)}, ${variable(field)}, ${field.length});`,
    remember: (field) => each(field.length, `old[b + ${field.at} + i] = ${variable(field)}[i];`),
    isZero: (field) => `zero(${variable(field)}, ${field.length})`,
    put: (field) => each(field.length, `view.setFloat64(at + ${field.offset} + 8 * i, ${variable(field)}[i], true);`),
    take: ({ of, offset, length }) => each(length, `${of}[i] = view.getFloat64(at + ${offset} + 8 * i, true);`),
  },
};
const label = (field) => JSON.stringify(field.label);

/** What generated code calls. */
const HELP = {
  equal(list, old, from, length) {
    if (list.length !== length) return false;
    for (let i = 0; i < length; i++) if (list[i] !== old[from + i]) return false;
    return true;
  },
  zero(list, length) {
    for (let i = 0; i < length; i++) if (list[i] !== 0) return false;
    return true;
  },
  // Called where a quick test fails: NaN is a number all the same, and a whole number may have more than 32 bits.
  number(label, value) {
    if (typeof value !== 'number') refuse(label, value, 'a number');
  },
  whole(label, value) {
    if (!Number.isSafeInteger(value)) refuse(label, value, 'a whole number');
  },
  flag(label, value) {
    refuse(label, value, 'true or false');
  },
  list(label, value, length) {
    if (value?.length !== length) refuse(label, value, `a list of ${length} numbers`);
    for (let i = 0; i < length; i++) if (typeof value[i] !== 'number') refuse(label, value, `a list of ${length} numbers`);
  },
};

function refuse(label, value, needed) {
  throw new Error(`${label} is ${shown(value)}, ${needed} is needed`);
}

function generate({ leaves, objects, size, width }) {
  const all = (what, separator = '\n') => leaves.map((field) => KINDS[field.kind][what](field)).join(separator);
  const parts = objects.map(({ variable, of }) => `const ${variable} = ${of};`).join('\n');
  const made = objects.map(({ variable, of }, i) => `const ${variable} = ${of} = new classes[${i}]();`).join('\n');
  const initial = leaves.map((field) => `${field.of} = ${KINDS[field.kind].initial(field)};`).join('\n');
  const values = leaves.map((field) => `const ${variable(field)} = ${field.of};`).join('\n');
  const sealed = ['s', ...objects.map((object) => object.variable)].map((s) => `Object.preventExtensions(${s});`).join('\n');
  const markChanged = (handle) => `if (dirty[place] === 0) {
        dirty[place] = 1;
        changed[count] = place;
        owners[count++] = ${handle};
      }`;
  const code = `'use strict';
const { equal, zero, number, whole, flag, list } = help;
return {
  // Nothing kept. A member that was not declared is refused, not lost.
  create() {
    const s = {};
    ${made}
    ${initial}
    ${sealed}
    return s;
  },
  read(s, view, at) {
    ${parts}
    ${all('take')}
  },
  remember(s, old, b) {
    ${parts}
    ${values}
    ${all('remember')}
  },
  // Calls onReading for rows, and notes which states changed.
  run(callbacks, reading, from, to, handles, devices, registry, table) {
    const { states, old, dirty, changed, owners } = table;
    let { count } = table;
    let { placeOf } = registry;
    for (let row = from; row < to; row++) {
      const handle = handles[row];
      let place = placeOf[handle];
      let s = states[place];
      if (s == null) {
        s = table.meet(handle);
        placeOf = registry.placeOf;
        place = placeOf[handle];
      }
      reading.row = row;
      callbacks.onReading(devices[place], reading, s);
      const b = place * ${width};
      ${parts}
      if (${all('same', ' && ')}) continue;
      ${markChanged('handle')}
    }
    table.count = count;
  },
  // Notes which states changed of those that were asked for.
  compare(devices, table) {
    const { states, old, dirty, changed, owners, touched } = table;
    let { count } = table;
    for (let n = 0; n < touched.length; n++) {
      const place = touched[n], s = states[place], b = place * ${width};
      ${parts}
      if (${all('same', ' && ')}) continue;
      ${markChanged('devices[place].handle')}
    }
    table.count = count;
  },
  // Writes the states that changed, and says how many bytes. The first 'count' owners are those whose they are,
  // and 'empty' is which of them have none any more.
  write(table, view, empty) {
    const { states, old, dirty, stored, changed, owners, count: last } = table;
    let at = 0, count = 0;
    for (let n = 0; n < last; n++) {
      const place = changed[n], s = states[place], b = place * ${width};
      ${parts}
      ${values}
      ${all('check')}
      ${all('remember')}
      dirty[place] = 0;
      if (${all('isZero', ' && ')}) {
        if (stored[place] === 0) continue;
        stored[place] = 0;
        empty[empty.length] = count;
      } else {
        ${all('put')}
        at += ${size};
        stored[place] = 1;
      }
      owners[count++] = owners[n];
    }
    table.count = count;
    return at;
  },
  // The same for one.
  put(s, view, at) {
    ${parts}
    ${values}
    ${all('check')}
    ${all('put')}
    return ${all('isZero', ' && ')};
  },
};`;
  return new Function('classes', 'help', code)(objects.map((object) => object.class), HELP);
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
    const isNothing = this.code.put(state, new DataView(blob.buffer), 0);
    return isNothing ? new Uint8Array(0) : blob;
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
