import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Debounce, Ewma, layout, numbers, slotOf } from '../index.js';

const bytes = (blob) => Buffer.from(blob).toString('hex');

test('fields are little-endian, in the order declared, without gaps', () => {
  const mixed = layout({ active: 'flag', mean: 'number', count: 'integer', last: numbers(2) });
  assert.equal(mixed.size, 1 + 8 + 8 + 16);
  const blob = mixed.write({ active: true, mean: 1.5, count: -2, last: [0.5, -1] });
  assert.equal(bytes(blob), '01' + '000000000000f83f' + 'feffffffffffffff' + '000000000000e03f' + '000000000000f0bf');
  assert.deepEqual({ ...mixed.read(blob) }, { active: true, mean: 1.5, count: -2, last: Float64Array.of(0.5, -1) });
});

test('helpers are fields, in their own order', () => {
  const both = layout({ debounce: Debounce, raised: 'flag', ewma: Ewma });
  assert.equal(both.size, 9 + 1 + 24);
  const blob = both.write({ debounce: { since: 3, pending: true }, raised: true });
  assert.equal(bytes(blob.subarray(0, 10)), '03000000000000000101');
  assert.ok(both.read(blob).ewma instanceof Ewma);
});

test('whole numbers are exact up to 2^53, on both sides of zero', () => {
  const one = layout({ n: 'integer' });
  for (const n of [1, -1, 2 ** 31, -(2 ** 31) - 1, 2 ** 32, 2 ** 53 - 1, -(2 ** 53) + 1, 1_767_225_600_000_000]) {
    const blob = one.write({ n });
    assert.equal(new DataView(blob.buffer).getBigInt64(0, true), BigInt(n));
    assert.equal(one.read(blob).n, n);
  }
});

test('nothing has no bytes, and a blob of another size is nothing', () => {
  const one = layout({ n: 'integer', on: 'flag' });
  assert.equal(one.write({}).length, 0);
  assert.deepEqual({ ...one.read(new Uint8Array(3).fill(1)) }, { n: 0, on: false });
});

test('wrong values and names are refused', () => {
  const one = layout({ n: 'integer', on: 'flag', x: 'number' });
  assert.throws(() => one.write({ n: 1.5 }), /state.n is 1.5, a whole number is needed/);
  assert.throws(() => one.write({ on: 1 }), /state.on is 1, true or false is needed/);
  assert.throws(() => one.write({ x: '5' }), /state.x is "5", a number is needed/);
  assert.throws(() => one.write({ y: 5 }), /no field "y"/);
  assert.throws(() => { one.create().typo = 1; }, TypeError);
  assert.throws(() => layout({ 'a b': 'number' }), /no name for a field/);
  assert.throws(() => layout({ a: 'float' }), /state.a is "float"/);
  assert.throws(() => layout({}), /no field/);
});

test('slots are FNV-1a of UTF-8', () => {
  assert.equal(slotOf(''), 0x811c9dc5);
  assert.equal(slotOf('a'), 0xe40c292c);
  assert.equal(slotOf('foobar'), 0xbf9cf968);
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode('Größe °C')) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  assert.equal(slotOf('Größe °C'), hash);
});
