// The rate of a counter, which starts again at 0 when a device restarts, and wraps where it has few bits.

import { defineRule, seconds, type Device } from 'watchfire-rule';
import { schema, type Parameters } from './parameters';

/** The reading that the next one is compared with, and which alerts stand. */
const fields = { value: 'number', time: 'integer', known: 'flag', high: 'flag', low: 'flag' } as const;

export default defineRule({
  name: 'counter-rate',
  version: '0.1.0',
  description: 'The rate of a counter that may be reset and may wrap, as a metric, and its limits.',
  parameters: schema,
  state: fields,

  start({ metric, per, high, low, deadband, modulus, fastest, over, severity }: Parameters) {
    if (high !== undefined && low !== undefined && low >= high) throw new Error('the low limit is not below the high one');
    const name = `${metric}_rate`;
    const least = seconds(over);

    /** By how much the counter grew, in which time in units of `per`; undefined: nobody can say. */
    function increase(before: number, value: number, time: number): number | undefined {
      let grown = value - before;
      if (grown < 0) {
        if (modulus === undefined) return undefined;
        grown += modulus;
        // Without another bound: a counter that fell by less than half of its modulus did not go round.
        if (grown < 0 || (fastest === undefined && grown > modulus / 2)) return undefined;
      }
      return fastest !== undefined && grown > fastest * time ? undefined : grown;
    }

    /** Says whether one side stands; distances are positive beyond the limit. */
    function side(device: Device, key: string, stood: boolean, distance: number, rate: number, limit: number): boolean {
      const stands = distance > 0 || (stood && distance > -deadband);
      if (stands) {
        // Said again with each rate: it keeps the alert's values current.
        const word = key === 'high' ? 'above' : 'below';
        device.trigger(`${name}.${key}`, severity, `the rate of ${metric} is ${word} its limit`, { rate, limit });
      } else if (stood) {
        device.clear(`${name}.${key}`);
      }
      return stands;
    }

    return {
      metrics: [metric],
      onReading(device, reading, state) {
        const value = reading.number(metric);
        if (value === undefined) return;
        const span = reading.time - state.time;
        // A late reading, or one too close to the last: it says nothing of the rate now.
        if (state.known && (span <= 0 || span < least)) return;
        const time = span / 1e6 / per;
        const grown = state.known ? increase(state.value, value, time) : undefined;
        state.value = value;
        state.time = reading.time;
        state.known = true;
        if (grown === undefined) return;
        const rate = grown / time;
        reading.derive(name, rate);
        if (high !== undefined) state.high = side(device, 'high', state.high, rate - high, rate, high);
        if (low !== undefined) state.low = side(device, 'low', state.low, low - rate, rate, low);
      },
    };
  },
});
