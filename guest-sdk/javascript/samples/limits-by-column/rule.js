// Limits of one metric for many devices, over columns: no work but a comparison for a reading within them.

import { defineRule } from 'watchfire-rule';

export default defineRule({
  name: 'limits-by-column',
  version: '0.1.0',
  description: 'Alerts while a metric is outside of its limits.',
  parameters: {
    metric: { type: 'string', default: 'temperature', description: 'What is watched.' },
    high: { type: 'number', default: 80, unit: 'of the metric', description: 'Alert above it.' },
    low: { type: 'number', default: 0, unit: 'of the metric', description: 'Alert below it.' },
    severity: { type: 'string', default: 'major', enum: ['info', 'warning', 'minor', 'major', 'critical'] },
  },
  state: { outside: 'flag' },

  start({ metric, high, low, severity }) {
    if (!(low < high)) throw new Error('low is not below high');
    return {
      metrics: [metric],
      onBatch(batch) {
        const values = batch.numbers(metric);
        const states = batch.states();
        for (let row = 0; row < values.length; row++) {
          const x = values[row];
          if (x > high || x < low) {
            states[row].outside = true;
            batch.trigger(row, 'limits', severity, `${metric} is outside of its limits`, { value: x, low, high });
          } else if (x === x && states[row].outside) {
            states[row].outside = false;
            batch.clear(row, 'limits');
          }
        }
      },
    };
  },
});
