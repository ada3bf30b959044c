import assert from 'node:assert/strict';
import { test } from 'node:test';
import { layout, Debounce, Ewma, Hysteresis, RateOfChange, SECOND, TumblingWindow, seconds } from '../index.js';

const made = (helper) => layout({ it: helper }).create().it;

test('ewma', () => {
  const ewma = made(Ewma);
  assert.equal(ewma.deviation(5), 0);
  ewma.update(10, 0.1);
  assert.deepEqual({ ...ewma }, { mean: 10, variance: 0, count: 1 });
  ewma.update(12, 0.1);
  assert.deepEqual({ ...ewma }, { mean: 10 + 0.1 * 2, variance: (1 - 0.1) * (0 + 0.1 * 2 * 2), count: 2 });
  assert.equal(ewma.deviation(11), (11 - ewma.mean) / Math.sqrt(ewma.variance));
});

test('rate of change', () => {
  const rate = made(RateOfChange);
  assert.equal(rate.update(0, 1), undefined);
  assert.equal(rate.update(2 * SECOND, 2), 0.5);
  assert.equal(rate.update(2 * SECOND, 9), undefined);
  assert.equal(rate.update(1 * SECOND, 9), undefined);
  assert.equal(rate.update(3 * SECOND, 0), -2);
});

test('hysteresis for high and for low values', () => {
  const high = made(Hysteresis);
  assert.deepEqual([80, 81, 90, 75, 74, 74].map((x) => high.update(x, 80, 75)), ['unchanged', 'rising', 'unchanged', 'unchanged', 'falling', 'unchanged']);
  const low = made(Hysteresis);
  assert.deepEqual([10, 9, 15, 16].map((x) => low.update(x, 10, 15)), ['unchanged', 'rising', 'unchanged', 'falling']);
});

test('debounce', () => {
  const debounce = made(Debounce);
  const at = (time, condition) => debounce.update(condition, time, 10);
  assert.deepEqual([at(0, true), at(9, true), at(10, true), at(11, false), at(12, true), at(22, true)], [false, false, true, false, false, true]);
  assert.equal(debounce.since, 12);
});

test('tumbling window, also before 1970', () => {
  const window = made(TumblingWindow);
  assert.equal(window.add(-1, 4, 10), undefined);
  assert.equal(window.index, -1);
  assert.deepEqual(window.add(3, 1, 10), { start: -10, end: 0, count: 1, sum: 4, min: 4, max: 4, mean: 4 });
  assert.equal(window.add(9, 3, 10), undefined);
  assert.equal(window.add(-5, 100, 10), undefined);
  assert.deepEqual(window.add(35, 7, 10), { start: 0, end: 10, count: 2, sum: 4, min: 1, max: 3, mean: 2 });
});

test('seconds are whole microseconds', () => {
  assert.equal(seconds(1.1), 1_100_000);
});
