// What JavaScript has and a rule must not have, as a replay would say something else: they say so, instead of a
// bare trap. To be imported before the rule. And `console`, which the interpreter has not.

import { log } from './basics.js';

const refused = (what, instead) => () => {
  throw new Error(`a rule has no ${what}: ${instead}`);
};
const USE_NOW = 'now() is the time of the log';

Math.random = refused('Math.random', 'a replay must say the same');
Date.now = refused('Date.now', USE_NOW);
globalThis.Date = new Proxy(Date, {
  construct(date, given, target) {
    if (given.length === 0) refused('new Date()', USE_NOW)();
    return Reflect.construct(date, given, target);
  },
  apply: refused('Date()', USE_NOW),
});
delete globalThis.performance;

const line = (write) => (...parts) => write(parts.map((part) => (typeof part === 'string' ? part : shown(part))).join(' '));
const shown = (part) => (part instanceof Error ? String(part) : JSON.stringify(part) ?? String(part));

globalThis.console = {
  debug: line(log.debug),
  log: line(log.info),
  info: line(log.info),
  warn: line(log.warn),
  error: line(log.error),
};
