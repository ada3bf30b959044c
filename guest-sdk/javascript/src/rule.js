// What a rule is: checked when the component is built, as far as it is known then.

import { members, micros, shown, text, wholeNumber } from './check.js';
import { Layout } from './layout.js';
import { schemaOf } from './parameters.js';

const DEFINITION = ['name', 'version', 'description', 'parameters', 'state', 'stateVersion', 'start', 'migrate'];
const CALLBACKS = ['onReading', 'onBatch', 'onTimer', 'onSilence', 'onSchedule'];

class Rule {
  constructor(definition) {
    members('a rule', definition, DEFINITION);
    const { name, version, description, parameters, state, stateVersion, start, migrate } = definition;
    if (!/^[a-z0-9_.-]{1,64}$/.test(name)) throw new Error(`the name ${shown(name)}: 1 to 64 characters of a-z 0-9 - _ .`);
    if (typeof start !== 'function') throw new Error(`rule ${name}: start is ${shown(start)}, a function is needed`);
    if (migrate !== undefined && typeof migrate !== 'function') throw new Error(`rule ${name}: migrate is no function`);
    this.layout = state === undefined ? null : layoutOf(state);
    const number = wholeNumber('stateVersion', stateVersion ?? (this.layout ? 1 : 0), 0xffff_ffff);
    if (this.layout && number === 0) throw new Error(`rule ${name}: it keeps state, so its stateVersion is 1 or more`);
    this.start = start;
    this.migrate = migrate;
    this.manifest = {
      name,
      version: text('the version of the rule', version),
      description: text('the description of the rule', description),
      parameters: schemaOf(parameters),
      stateVersion: number,
      extra: null,
    };
  }
}

const layoutOf = (fields) => (fields instanceof Layout ? fields : new Layout(fields));

/** Defines a rule; to be the default export of its module. */
export const defineRule = (definition) => new Rule(definition);

export const isRule = (x) => x instanceof Rule;

class WithState {
  constructor(layout, callbacks) {
    this.layout = layout;
    this.callbacks = callbacks;
  }
}

/** What `start` returns where the layout of state depends on the parameters. */
export const withState = (fields, callbacks) => new WithState(layoutOf(fields), callbacks);

/** What `start` returned, checked: the callbacks, the layout of their state, and the subscription. */
export function begun(rule, answer) {
  const layout = answer instanceof WithState ? answer.layout : rule.layout;
  const callbacks = answer instanceof WithState ? answer.callbacks : answer;
  if (typeof callbacks !== 'object' || callbacks === null) {
    throw new Error(`start returned ${shown(callbacks)}, an object with callbacks is needed`);
  }
  for (const name of CALLBACKS) {
    const callback = callbacks[name];
    if (callback !== undefined && typeof callback !== 'function') throw new Error(`${name} is no function`);
    // What comes after an `await` would come after the callback.
    if (callback?.constructor.name === 'AsyncFunction') throw new Error(`${name} cannot be async`);
  }
  if (callbacks.onReading && callbacks.onBatch) throw new Error('a rule has onReading or onBatch, not both');
  if (!CALLBACKS.some((name) => callbacks[name])) throw new Error('start returned no callback: onReading or onBatch is needed');
  return { callbacks, layout, subscription: subscription(callbacks) };
}

function subscription({ metrics = [], silence, schedules = [], onSilence, onSchedule }) {
  if (!Array.isArray(metrics)) throw new Error(`metrics is ${shown(metrics)}, a list of texts is needed`);
  for (const metric of metrics) text('a metric', metric);
  if (!Array.isArray(schedules)) throw new Error(`schedules is ${shown(schedules)}, a list is needed`);
  if (schedules.length > 0 && !onSchedule) throw new Error('there are schedules and no onSchedule');
  if (silence !== undefined && !onSilence) throw new Error('silence is asked for, and there is no onSilence');
  return { metrics: [...metrics], silence: silenceOf(silence), schedules: schedules.map(schedule), extra: null };
}

function silenceOf(silence) {
  if (silence === undefined) return { tag: 'off' };
  if (silence === 'registry') return { tag: 'registry' };
  if (typeof silence !== 'object' || silence === null) {
    throw new Error(`silence is ${shown(silence)}: 'registry' or { after: MICROSECONDS }`);
  }
  members('silence', silence, ['after']);
  const after = micros('silence.after', silence.after);
  if (after <= 0) throw new Error(`silence.after is ${after}, which is no span`);
  return { tag: 'after', val: after };
}

function schedule(entry) {
  if (typeof entry !== 'object' || entry === null) throw new Error(`a schedule is ${shown(entry)}: { name, cron, zone }`);
  members('a schedule', entry, ['name', 'cron', 'zone']);
  const { name, cron, zone } = entry;
  text('the name of a schedule', name);
  text(`schedule ${name}: cron`, cron);
  return { name, cron, zone: zone === undefined ? null : text(`schedule ${name}: zone`, zone) };
}
