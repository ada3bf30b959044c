// What `cargo xtask bench guests` measures, in JavaScript; the parameter `case` says which rule it is. What each does is
// in the table of ../README.md; it is the same in every language.

import { Ewma, defineRule, withState } from 'watchfire-rule';

const METRIC = 'temperature';
const METRICS = [METRIC, 'pressure', 'vibration', 'current', 'humidity'];
const ALPHA = 0.05;
const SIGMAS = 6;
const WARM_UP = 30;

const cases = {
  'ewma-batch': () => withState({ ewma: Ewma }, {
    metrics: [METRIC],
    onBatch(batch) {
      const values = batch.numbers(METRIC);
      const states = batch.states();
      for (let row = 0; row < values.length; row++) {
        const x = values[row];
        if (x !== x) continue;
        const { ewma } = states[row];
        const z = ewma.deviation(x);
        if (ewma.count >= WARM_UP && (z > SIGMAS || z < -SIGMAS)) {
          batch.trigger(row, 'odd', 'minor', 'far from its usual values', { value: x, z });
        }
        ewma.update(x, ALPHA);
      }
    },
  }),

  'ewma-device': () => withState({ ewma: Ewma }, {
    metrics: [METRIC],
    onReading(device, reading, { ewma }) {
      const x = reading.number(METRIC);
      if (x === undefined) return;
      const z = ewma.deviation(x);
      if (ewma.count >= WARM_UP && (z > SIGMAS || z < -SIGMAS)) {
        device.trigger('odd', 'minor', 'far from its usual values', { value: x, z });
      }
      ewma.update(x, ALPHA);
    },
  }),

  'five-batch': () => withState(Object.fromEntries(METRICS.map((metric) => [metric, Ewma])), {
    metrics: METRICS,
    onBatch(batch) {
      const states = batch.states();
      for (const metric of METRICS) {
        const values = batch.numbers(metric);
        for (let row = 0; row < values.length; row++) {
          const x = values[row];
          if (x !== x) continue;
          const ewma = states[row][metric];
          const z = ewma.deviation(x);
          if (ewma.count >= WARM_UP && (z > SIGMAS || z < -SIGMAS)) {
            batch.trigger(row, metric, 'minor', 'far from its usual values', { value: x, z });
          }
          ewma.update(x, ALPHA);
        }
      }
    },
  }),

  'limit-batch': ({ high }) => ({
    metrics: [METRIC],
    onBatch(batch) {
      const values = batch.numbers(METRIC);
      for (let row = 0; row < values.length; row++) {
        if (values[row] > high) batch.trigger(row, 'limit', 'major', 'over the limit', { value: values[row] });
      }
    },
  }),

  'limit-device': ({ high }) => ({
    metrics: [METRIC],
    onReading(device, reading) {
      const x = reading.number(METRIC);
      if (x > high) device.trigger('limit', 'major', 'over the limit', { value: x });
    },
  }),
};

export default defineRule({
  name: 'guests',
  version: '0.1.0',
  description: 'What the bench of guests measures.',
  parameters: {
    case: { type: 'string', default: 'ewma-batch' },
    high: { type: 'number', default: 100, description: 'Trigger above it.' },
  },
  stateVersion: 1,

  start(parameters) {
    const start = cases[parameters.case];
    if (!start) throw new Error(`unknown case ${parameters.case}`);
    return start(parameters);
  },
});
