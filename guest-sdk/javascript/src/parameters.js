// Parameters: declared once, as objects; the host sees a JSON Schema.

import { members, shown } from './check.js';

const KNOWN = ['type', 'default', 'minimum', 'maximum', 'unit', 'description', 'enum'];
const ITEMS = { numbers: 'number', strings: 'string' };
const list = (item) => (x) => Array.isArray(x) && x.every(item);
const FITS = {
  number: Number.isFinite,
  integer: Number.isSafeInteger,
  string: (x) => typeof x === 'string',
  boolean: (x) => typeof x === 'boolean',
  numbers: list(Number.isFinite),
  strings: list((x) => typeof x === 'string'),
};

/** The schema of the manifest, as text. A text is taken as the whole schema. */
export function schemaOf(parameters) {
  if (parameters === undefined) parameters = {};
  if (typeof parameters === 'string') {
    const schema = JSON.parse(parameters);
    if (typeof schema !== 'object' || schema === null) throw new Error('parameters: the schema is no object');
    return parameters;
  }
  const properties = {};
  const required = [];
  for (const [name, declared] of Object.entries(parameters)) {
    properties[name] = property(`parameter ${name}`, declared);
    if (declared.default === undefined) required.push(name);
  }
  return JSON.stringify({ type: 'object', properties, required, additionalProperties: false });
}

function property(what, declared) {
  members(what, declared, KNOWN);
  const { type, minimum, maximum, unit, description } = declared;
  const fits = Object.hasOwn(FITS, type) ? FITS[type] : undefined;
  if (!fits) throw new Error(`${what} is of type ${shown(type)}: ${Object.keys(FITS).join(', ')}`);
  if (declared.default !== undefined && !fits(declared.default)) {
    throw new Error(`${what}: the default ${shown(declared.default)} is no ${type}`);
  }
  for (const [name, bound] of Object.entries({ minimum, maximum })) {
    if (bound === undefined) continue;
    if (type !== 'number' && type !== 'integer') throw new Error(`${what}: a ${name} of a ${type}`);
    if (!Number.isFinite(bound)) throw new Error(`${what}: the ${name} ${shown(bound)} is no number`);
  }
  if (declared.default < minimum || declared.default > maximum) {
    throw new Error(`${what}: the default ${declared.default} is out of its range`);
  }
  const choice = declared.enum;
  if (choice !== undefined) {
    if (type !== 'string' || !FITS.strings(choice) || choice.length === 0) {
      throw new Error(`${what}: enum is a list of texts, of a string`);
    }
    if (declared.default !== undefined && !choice.includes(declared.default)) {
      throw new Error(`${what}: the default ${shown(declared.default)} is none of ${choice.join(', ')}`);
    }
  }
  for (const [name, said] of Object.entries({ unit, description })) {
    if (said !== undefined && typeof said !== 'string') throw new Error(`${what}: its ${name} is no text`);
  }
  const item = ITEMS[type];
  const kind = item ? { type: 'array', items: { type: item } } : { type };
  // Members that are undefined are left out.
  return { ...kind, default: declared.default, minimum, maximum, unit, description, enum: choice };
}
