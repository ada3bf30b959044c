// Time and the log.

import { contract } from './contract.js';

/** Microseconds. */
export const SECOND = 1_000_000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

/** Seconds as whole microseconds: 1.1 * SECOND is a fraction more than 1 100 000. */
export const seconds = (count) => Math.round(count * SECOND);

/** The time of the log at this callback, in microseconds since 1970. */
export const now = () => contract.clock.now();

const write = (level) => (text) => contract.log.write(level, typeof text === 'string' ? text : String(text));

/** Shown by `watchfire rule tail`. */
export const log = { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') };
