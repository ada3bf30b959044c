import assert from 'node:assert/strict';
import { test } from 'node:test';
import { schemaOf } from '../src/parameters.js';

test('the schema of the manifest', () => {
  const schema = schemaOf({
    high: { type: 'number', default: 80, minimum: -1000, maximum: 1000, unit: '°C', description: 'Above it.' },
    level: { type: 'string', enum: ['a', 'b'], default: 'a' },
    lines: { type: 'strings' },
    steps: { type: 'numbers', default: [1] },
  });
  assert.deepEqual(JSON.parse(schema), {
    type: 'object',
    properties: {
      high: { type: 'number', default: 80, minimum: -1000, maximum: 1000, unit: '°C', description: 'Above it.' },
      level: { type: 'string', default: 'a', enum: ['a', 'b'] },
      lines: { type: 'array', items: { type: 'string' } },
      steps: { type: 'array', items: { type: 'number' }, default: [1] },
    },
    required: ['lines'],
    additionalProperties: false,
  });
});

test('a schema as text is taken as it is', () => {
  assert.equal(schemaOf('{"type":"object"}'), '{"type":"object"}');
  assert.throws(() => schemaOf('{'), SyntaxError);
});

for (const [what, declared, message] of [
  ['an unknown type', { type: 'float' }, /of type "float"/],
  ['an unknown member', { type: 'number', min: 1 }, /has no "min"/],
  ['a default of another type', { type: 'integer', default: 1.5 }, /default 1.5 is no integer/],
  ['a default out of range', { type: 'number', default: 5, maximum: 4 }, /out of its range/],
  ['a default that is no choice', { type: 'string', enum: ['a'], default: 'b' }, /none of a/],
  ['a range of a text', { type: 'string', minimum: 1 }, /a minimum of a string/],
]) {
  test(`refused: ${what}`, () => assert.throws(() => schemaOf({ x: declared }), message));
}
