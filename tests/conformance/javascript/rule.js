// Every case of the conformance suite, by the parameter `case`: the same in each language.

import { cases } from './cases.js';
import { defineRule, layout } from 'watchfire-rule';

const VERSION_1 = layout({ count: 'integer' });
const VERSION_2 = layout({ count: 'integer', total: 'number' });

export default defineRule({
  name: 'conformance',
  version: '0.1.0',
  description: 'Every case of the conformance suite.',
  parameters: {
    case: { type: 'string', default: 'threshold' },
    high: { type: 'number', default: 80, minimum: -1000, maximum: 1000, unit: '°C', description: 'Above it.' },
    deadband: { type: 'number', default: 5 },
    alpha: { type: 'number', default: 0.1, minimum: 0, maximum: 1 },
    hold: { type: 'number', default: 30, unit: 's' },
    name: { type: 'string', default: 'plant' },
  },
  stateVersion: 2,

  start(parameters) {
    const start = cases[parameters.case];
    if (!start) throw new Error(`unknown case ${parameters.case}`);
    return start(parameters);
  },

  migrate(oldVersion, slot, blob) {
    if (oldVersion !== 1) throw new Error(`state of version ${oldVersion} cannot be taken over`);
    if (slot !== 0) throw new Error('no such slot');
    const { count } = VERSION_1.read(blob);
    return VERSION_2.write({ count, total: count });
  },
});
