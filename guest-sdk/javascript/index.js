// What rules import. `index.d.ts` says the same in types.

export { defineRule, withState } from './src/rule.js';
export { numbers, layout, slotOf } from './src/layout.js';
export { stateIn } from './src/state.js';
export { find, selectedDevices } from './src/device.js';
export { NO_TEXT, NO_FLAG } from './src/reading.js';
export { emit } from './src/effects.js';
export { now, log, seconds, SECOND, MINUTE, HOUR, DAY } from './src/basics.js';
export { Ewma, RateOfChange, Hysteresis, Debounce, TumblingWindow } from './src/helpers.js';
export { slidingWindow } from './src/sliding-window.js';
