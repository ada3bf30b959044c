// The pressure of a boiler: an alert once it was above the limit for some time, until it is well below again.

import { Debounce, Hysteresis, defineRule, seconds } from 'watchfire-rule';

export default defineRule({
  name: 'boiler-pressure',
  version: '0.1.0',
  description: 'The pressure of a boiler was above its limit for some time.',
  parameters: {
    high: { type: 'number', default: 12, minimum: 0, maximum: 400, unit: 'bar', description: 'Alert above it.' },
    deadband: { type: 'number', default: 0.5, minimum: 0, unit: 'bar', description: 'How far below it clears.' },
    hold: { type: 'number', default: 10, minimum: 0, unit: 's', description: 'For how long it must be above.' },
  },
  state: { level: Hysteresis, above: Debounce, raised: 'flag' },

  start({ high, deadband, hold }) {
    const span = seconds(hold);
    return {
      metrics: ['pressure'],
      onReading(device, reading, state) {
        const pressure = reading.number('pressure');
        if (pressure === undefined) return;
        state.level.update(pressure, high, high - deadband);
        const held = state.above.update(state.level.active, reading.time, span);
        if (held) {
          // With each reading: that keeps the values of the alert current.
          state.raised = true;
          device.trigger('pressure', 'critical', 'the pressure is too high', { pressure, limit: high });
        } else if (state.raised && !state.level.active) {
          state.raised = false;
          device.clear('pressure');
        }
      },
    };
  },
});
