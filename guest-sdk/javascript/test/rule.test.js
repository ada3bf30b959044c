import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  NO_TEXT, SECOND, defineRule, emit, find, log, now, selectedDevices, slidingWindow, slotOf, stateIn, withState,
} from '../index.js';
import { run } from './host.js';

const rule = (definition) => defineRule({ name: 'test', version: '0.1.0', description: '', ...definition });
const failing = (message) => (thrown) => typeof thrown === 'string' && message.test(thrown);
const PLANT = { a: { site: 'lyon', line: '3' }, b: {}, c: { type: 'press' } };

test('each reading, in order, with the row in alerts', () => {
  const host = run(rule({
    state: { count: 'integer' },
    start: () => ({
      metrics: ['x', 'on'],
      onReading(device, reading, state) {
        state.count += 1;
        if (reading.number('x') > 1) device.trigger('high', 'major', 'x is high', { x: reading.number('x'), none: undefined });
        if (reading.flag('on') === false) device.clear('high');
      },
    }),
  }), {}, PLANT);
  const done = host.batch(['a', { x: 2 }], ['b', { y: 1 }], ['a', { on: false }]);
  assert.deepEqual(done.alerts, [
    { trigger: 'high', device: 'a', severity: 'major', details: { x: 2 }, row: 0 },
    { clear: 'high', device: 'a', row: 2 },
  ]);
  // The row without a subscribed metric was passed over.
  assert.deepEqual([...host.states.keys()], ['0/0']);
  assert.equal(host.states.get('0/0')[0], 2);
});

test('few calls to the host: none for a row', () => {
  const host = run(rule({
    state: { sum: 'number' },
    start: () => ({
      metrics: ['x'],
      onReading(device, reading, state) {
        state.sum += reading.number('x');
        reading.derive('sum', state.sum);
      },
    }),
  }), {}, PLANT);
  const batch = () => host.batch(['a', { x: 1 }], ['b', { x: 0 }], ['a', { x: 2 }]);
  assert.deepEqual(batch().derive, [{ sum: [1, 0, 3] }]);
  const once = ['readings.rows', 'readings.devices', 'readings.columns', 'readings.numbers'];
  assert.deepEqual(host.calls, [...once, 'state.load', 'state.store', 'output.derive']);
  batch();
  assert.deepEqual(host.calls, [...once, 'state.store', 'output.derive']);
  // Nothing changed: nothing stored.
  host.batch(['b', { x: 0 }]);
  assert.ok(!host.calls.includes('state.store'));
});

test('state outlives an instance, and nothing is not stored', () => {
  const host = run(rule({
    state: { count: 'integer' },
    start: () => ({ onReading: (device, reading, state) => { state.count = reading.number('n') ? state.count + 1 : 0; } }),
  }), {}, PLANT);
  host.batch(['a', { n: 1 }], ['b', { n: 0 }]);
  host.again();
  host.batch(['a', { n: 1 }]);
  assert.deepEqual(host.states.get('0/0'), [2, 0, 0, 0, 0, 0, 0, 0]);
  host.batch(['a', { n: 0 }]);
  assert.equal(host.states.size, 0);
});

test('after an error all is made anew', () => {
  let starts = 0;
  const host = run(rule({
    state: { count: 'integer' },
    start() {
      starts += 1;
      let seen = 0;
      return {
        onReading(device, reading, state) {
          seen += 1;
          state.count += 1;
          if (reading.number('n') === 666) throw new Error('poison: 666');
          reading.derive('seen', seen);
          reading.derive('count', state.count);
        },
      };
    },
  }), {}, PLANT);
  host.batch(['a', { n: 1 }]);
  assert.throws(() => host.batch(['a', { n: 666 }]), failing(/^poison: 666/));
  assert.deepEqual(host.batch(['a', { n: 1 }]).derive, [{ seen: [1] }, { count: [2] }]);
  assert.equal(starts, 2);
});

test('columns', () => {
  const host = run(rule({
    state: { active: 'flag' },
    start: () => ({
      onBatch(batch) {
        const states = batch.states();
        assert.equal(states[0], states[2]);
        assert.equal(batch.state(1), states[1]);
        states[0].active = true;
        assert.deepEqual([batch.rows, batch.stream, batch.devices, batch.times], [3, 'plant', [0, 1, 0], [0, 0, 0]]);
        assert.deepEqual(batch.numbers('x'), [1, NaN, 3]);
        assert.deepEqual(batch.texts('t'), { dictionary: ['on'], codes: [NO_TEXT, 0, NO_TEXT] });
        assert.deepEqual([...batch.flags('f')], [255, 1, 255]);
        batch.trigger(2, 'k', 'info', 's');
        batch.derive('twice', batch.numbers('x').map((x) => 2 * x));
        batch.keep([true, false, true]);
        assert.throws(() => batch.trigger(3, 'k', 'info', 's'), /row 3 of a batch of 3 rows/);
        assert.throws(() => batch.derive('y', [1]), /has 1 values, the batch has 3 rows/);
        assert.throws(() => batch.derive('y', [1, '2', 3]), /derived y is "2"/);
      },
    }),
  }), {}, PLANT);
  const done = host.batch(['a', { x: 1 }], ['b', { t: 'on', f: true }], ['a', { x: 3 }]);
  assert.deepEqual(done, {
    alerts: [{ trigger: 'k', device: 'a', severity: 'info', details: {}, row: 2 }],
    derive: [{ twice: [2, NaN, 6] }],
    keep: [[1, 0, 1]],
  });
  assert.deepEqual([...host.states.keys()], ['0/0']);
});

test('what the registry says is asked once for each version', () => {
  const host = run(rule({
    start: () => ({
      onReading(device) {
        log.info([device.name, device.type, device.site, device.label('line') ?? 'none', find('b') !== undefined].join());
      },
    }),
  }), {}, PLANT);
  const rows = [['a', { x: 1 }], ['b', { x: 1 }], ['c', { x: 1 }]];
  assert.deepEqual(host.batch(...rows).log, ['info: a,,lyon,3,true', 'info: b,,,none,true', 'info: c,press,,none,true']);
  host.batch(...rows);
  assert.ok(!host.calls.includes('devices.attribute') && !host.calls.includes('devices.name'));
  host.devices = { ...PLANT, b: { site: 'paris' } };
  host.version = 2;
  assert.equal(host.batch(['b', { x: 1 }]).log[0], 'info: b,,paris,none,true');
});

test('timers, silence and schedules', () => {
  const host = run(rule({
    state: { count: 'integer' },
    start: () => ({
      silence: { after: 30 * SECOND },
      schedules: [{ name: 'hourly', cron: '0 * * * *' }],
      onReading(device, reading, state) {
        state.count += 1;
        device.setTimer(1, now() + 0.4);
        device.setTimer(2, now());
        device.cancelTimer(2);
      },
      onTimer: (device, tag, at, state) => device.trigger('late', 'info', 's', { tag, at, count: state.count }),
      onSilence: (device, last) => device.trigger('silent', 'warning', 's', { last }),
      onSchedule(name, at) {
        let total = 0;
        for (const device of selectedDevices()) {
          total += device.state.count;
          device.state.count = 0;
        }
        emit('plant', 'total', total, at);
      },
    }),
  }), {}, PLANT);
  assert.deepEqual(host.subscription.silence, { tag: 'after', val: 30_000_000 });
  assert.deepEqual(host.subscription.schedules, [{ name: 'hourly', cron: '0 * * * *', zone: null }]);
  const done = host.batch(['a', { x: 1 }], ['c', { x: 1 }]);
  assert.deepEqual(done.set, [[{ device: 0, tag: 1, at: 0 }, { device: 2, tag: 1, at: 0 }]]);
  assert.deepEqual(done.cancel, [[{ device: 0, tag: 2, at: 0 }, { device: 2, tag: 2, at: 0 }]]);
  assert.deepEqual(host.timers([{ device: 0, tag: 1, at: 7 }]).alerts, [
    { trigger: 'late', device: 'a', severity: 'info', details: { tag: 1, at: 7, count: 1 }, row: null },
  ]);
  const silent = host.silence([{ device: 0, last: 5 }, { device: 1, last: null }]);
  assert.deepEqual(silent.alerts.map((alert) => alert.details), [{ last: 5 }, {}]);
  assert.deepEqual(host.schedule('hourly', 60).emit, [{ device: 'plant', time: 60, metric: 'total', value: 2 }]);
  assert.equal(host.states.size, 0);
});

test('a sliding window rewrites one piece, and more slots keep more', () => {
  const host = run(rule({
    stateVersion: 1,
    start() {
      const window = slidingWindow({ slot: 100, pieces: 6, span: 60 });
      const peak = stateIn(slotOf('peak'), { max: 'number' });
      return {
        onReading(device, reading) {
          const x = reading.number('x');
          window.add(device, reading.time, x);
          const { count, sum, min, max } = window.over(device, reading.time);
          if (x > peak.of(device).max) peak.of(device).max = x;
          log.info([count, sum, min, max].join());
        },
      };
    },
  }), {}, PLANT);
  const at = (time, x) => host.batch(['a', { x }, time]).log[0];
  assert.equal(at(0, 1), 'info: 1,1,1,1');
  assert.equal(at(15, 5), 'info: 2,6,1,5');
  assert.deepEqual([...host.states.keys()].sort(), ['100/0', '101/0', `${slotOf('peak')}/0`].sort());
  assert.equal(at(59, 2), 'info: 3,8,1,5');
  assert.equal(at(65, 2), 'info: 3,9,2,5');
  // Too old for the piece that took its place: ignored.
  assert.equal(at(5, 9), 'info: 0,0,NaN,NaN');
});

test('slots and tags may have all 32 bits, and a fresh instance finds what was stored', () => {
  const definition = rule({
    stateVersion: 0xffff_fffe,
    start() {
      const window = slidingWindow({ slot: 0xffff_fffe, pieces: 3, span: 30 });
      const peak = stateIn(0x8000_0000, { max: 'number' });
      return {
        onReading(device, reading) {
          const x = reading.number('x');
          window.add(device, reading.time, x);
          peak.of(device).max = Math.max(peak.of(device).max, x);
          const { count, sum } = window.over(device, reading.time);
          log.info([count, sum, peak.of(device).max].join());
          device.setTimer(0xffff_ffff, 1);
          device.setTimer(0x8000_0000, 2);
        },
        onTimer() {},
      };
    },
  });
  const host = run(definition, {}, PLANT);
  const at = (time, x) => {
    host.again();
    return host.batch(['a', { x }, time]);
  };
  assert.deepEqual(at(0, 4).log, ['info: 1,4,4']);
  assert.deepEqual(at(10, 2).log, ['info: 2,6,4']);
  const done = at(20, 1);
  assert.deepEqual(done.log, ['info: 3,7,4']);
  assert.deepEqual(done.set[0].map(({ tag }) => tag), [0xffff_ffff, 0x8000_0000]);
  // Slots go on from 0 after the last one.
  assert.deepEqual([...host.states.keys()].sort(), ['0/0', '2147483648/0', '4294967294/0', '4294967295/0']);
  assert.equal(host.exports.handler.describe().stateVersion >>> 0, 0xffff_fffe);
  assert.equal(definition.manifest.stateVersion, 0xffff_fffe);
});

test('the layout of state may depend on parameters', () => {
  const host = run(rule({
    stateVersion: 1,
    parameters: { size: { type: 'integer' } },
    start: ({ size }) => withState({ first: 'number', rest: size > 1 ? 'number' : 'flag' }, { onReading: (_, __, state) => { state.first = 1; } }),
  }), { size: 2 }, PLANT);
  host.batch(['a', { x: 1 }]);
  assert.equal(host.states.get('0/0').length, 16);
});

test('migration', () => {
  const migrate = (definition, slot, ...blobs) => {
    const host = run(rule({ state: { count: 'integer', total: 'number' }, stateVersion: 2, start: () => ({ onBatch() {} }), ...definition }));
    const data = Uint8Array.from(blobs.flat());
    const { lengths, data: answer } = host.exports.stateMigration.migrate(1, slot, { lengths: blobs.map((blob) => blob.length), data });
    return [lengths, [...answer]];
  };
  const counts = { migrate: (_, slot, blob) => (slot === 0 ? { count: blob[0], total: 0 } : blob) };
  assert.deepEqual(migrate(counts, 0, [3], [0]), [[16, 0], [3, ...Array(15).fill(0)]]);
  assert.deepEqual(migrate(counts, 7, [3, 4], [5]), [[2, 1], [3, 4, 5]]);
  assert.throws(() => migrate({}, 0, [1]), failing(/^state of version 1 cannot be taken over$/));
  assert.throws(() => migrate({ migrate: () => ({ cuont: 1 }) }, 0, [1]), failing(/no field "cuont"/));
});

const readings = (onReading) => () => run(rule({ state: { n: 'number' }, start: () => ({ onReading }) }), {}, PLANT).batch(['a', { x: 1 }]);

for (const [what, onReading, message] of [
  ['an unknown severity', (device) => device.trigger('k', 'bad', 's'), /alert k: the severity is bad/],
  ['a number as severity', (device) => device.trigger('k', NaN, 's'), /the severity is NaN/],
  ['a summary that is no text', (device) => device.trigger('k', 'info', 5), /summary is 5, a text is needed/],
  ['a list of details', (device) => device.trigger('k', 'info', 's', []), /details are an object/],
  ['a detail that is a list', (device) => device.trigger('k', 'info', 's', { d: [1] }), /detail d is 1, a number, text or flag/],
  ['a key that is no text', (device) => device.clear(5), /key of an alert is 5/],
  ['a metric that is no text', (device, reading) => reading.number(undefined), /a metric is undefined/],
  ['a derived text', (device, reading) => reading.derive('y', '5'), /derived y is "5"/],
  ['an emitted NaN', () => emit('a', 'm', NaN, 0), /emitted m is NaN/],
  ['a time that is none', () => emit('a', 'm', 1, undefined), /time of emitted m is undefined/],
  ['a timer nobody hears', (device) => device.setTimer(1, 0), /a rule without onTimer/],
  ['a tag that is none', (device) => device.setTimer(-1, 0), /tag of a timer is -1/],
  ['a state of another type', (device, reading, state) => { state.n = undefined; }, /state.n is undefined, a number is needed/],
  ['a state that was not declared', (device, reading, state) => { state.m = 1; }, /^TypeError/],
  ['a thrown number', () => { throw 5; }, /^thrown: 5$/],
]) {
  test(`refused: ${what}`, () => assert.throws(readings(onReading), failing(message)));
}

for (const [what, answer, message] of [
  ['nothing', undefined, /start returned undefined/],
  ['no callback', {}, /no callback/],
  ['both levels', { onReading() {}, onBatch() {} }, /not both/],
  ['a text for a list', { metrics: 'x', onBatch() {} }, /metrics is "x", a list/],
  ['silence nobody hears', { silence: 'registry', onBatch() {} }, /no onSilence/],
  ['an unknown silence', { silence: 'off', onSilence() {} }, /silence is "off"/],
  ['a schedule nobody hears', { schedules: [{ name: 'a', cron: '* * * * *' }], onBatch() {} }, /no onSchedule/],
  ['an asynchronous callback', { async onBatch() {} }, /cannot be async/],
]) {
  test(`start refused: ${what}`, () => assert.throws(() => run(rule({ start: () => answer })), failing(message)));
}

test('definitions are checked when they are loaded', () => {
  const start = () => ({ onBatch() {} });
  assert.throws(() => rule({ name: 'No Name', start }), /1 to 64 characters/);
  assert.throws(() => rule({ start, onBatch() {} }), /has no "onBatch"/);
  assert.throws(() => rule({ start, state: { n: 'number' }, stateVersion: 0 }), /1 or more/);
  assert.throws(() => rule({ start: undefined }), /start is undefined/);
  assert.throws(() => run(rule({ start: () => { stateIn(5, { n: 'number' }); return start(); } })), failing(/stateVersion cannot be 0/));
});
