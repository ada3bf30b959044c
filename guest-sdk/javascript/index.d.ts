// The types of what rules import.

/** Microseconds since 1970. */
export type Timestamp = number;
export type Severity = 'info' | 'warning' | 'minor' | 'major' | 'critical';
export type Value = number | string | boolean;
/** Details of an alert by name. Those that are undefined are left out. */
export type Details = Record<string, Value | undefined>;

// ------------------------------------------------------------------------------------------ parameters

interface Described<T> {
  /** Taken where a deployment gives none. Without one it must give it. */
  default?: T;
  unit?: string;
  description?: string;
}
export interface NumberParameter extends Described<number> {
  type: 'number' | 'integer';
  minimum?: number;
  maximum?: number;
}
export interface StringParameter extends Described<string> {
  type: 'string';
  /** The choice there is. */
  enum?: readonly string[];
}
export interface BooleanParameter extends Described<boolean> {
  type: 'boolean';
}
export interface NumbersParameter extends Described<readonly number[]> {
  type: 'numbers';
}
export interface StringsParameter extends Described<readonly string[]> {
  type: 'strings';
}
export type Parameter = NumberParameter | StringParameter | BooleanParameter | NumbersParameter | StringsParameter;
export type Parameters = Record<string, Parameter>;

type ParameterValue<P> =
  P extends { type: 'string'; enum: readonly (infer C)[] } ? C :
  P extends { type: 'number' | 'integer' } ? number :
  P extends { type: 'string' } ? string :
  P extends { type: 'boolean' } ? boolean :
  P extends { type: 'numbers' } ? number[] :
  P extends { type: 'strings' } ? string[] : never;
/** Parameters as `start` gets them; those of a schema given as text have no types. */
export type ParameterValues<P> = P extends string ? any : { [K in keyof P]: ParameterValue<P[K]> };

// ------------------------------------------------------------------------------------------------ state

export interface Numbers {
  readonly length: number;
}
/** A field that is an array of so many numbers. */
export function numbers(length: number): Numbers;

/** A class whose objects can be fields of state: Ewma and the like, or one of your own. */
export interface StateClass<T = object> {
  new (): T;
  readonly fields: StateFields;
}
/** Fields of fixed size. Whole numbers are exact up to 2^53. */
export type StateFields = { readonly [name: string]: 'number' | 'integer' | 'flag' | Numbers | StateClass };

type FieldValue<F> =
  F extends 'number' | 'integer' ? number :
  F extends 'flag' ? boolean :
  F extends StateClass<infer T> ? T :
  F extends Numbers ? Float64Array : never;
export type StateOf<S> = { -readonly [K in keyof S]: FieldValue<S[K]> };

type Members<T> = { [K in keyof T]?: T[K] extends number | boolean | Float64Array ? T[K] : Members<T[K]> };

/** To read and write blobs: little-endian, fields in the order declared, without gaps. */
export interface Layout<S> {
  readonly size: number;
  /** The state of nothing: all zero. */
  create(): StateOf<S>;
  /** The state in a blob; one of another size is nothing. */
  read(blob: Uint8Array): StateOf<S>;
  /** The blob of a state; members that are not given are zero. The state of nothing has no bytes. */
  write(state: Members<StateOf<S>>): Uint8Array;
}
/** A layout of its own: for blobs of an older version, or of another slot. */
export function layout<const S extends StateFields>(fields: S): Layout<S>;
/** The slot for what a name stands for: FNV-1a (32 bit) of its UTF-8. */
export function slotOf(name: string): number;
/** More state than that of slot 0. To be called in `start`. */
export function stateIn<const S extends StateFields>(slot: number, fields: S): { of(device: Device): StateOf<S> };

// ---------------------------------------------------------------------------------------------- devices

/** A device. It means nothing in another callback. */
export interface Device<State = any> {
  readonly handle: number;
  readonly name: string;
  /** Empty where it has none. */
  readonly type: string;
  /** Empty where it has none. */
  readonly site: string;
  label(name: string): string | undefined;
  /** Its state in slot 0, to be changed. */
  readonly state: State;
  /** Says that a condition stands. In `onReading` with the row that shows it. Numbers go into details. */
  trigger(key: string, severity: Severity, summary: string, details?: Details): void;
  /** Says that a condition does not stand. */
  clear(key: string): void;
  /** Sets a timer, or moves it. */
  setTimer(tag: number, at: Timestamp): void;
  cancelTimer(tag: number): void;
}
export function find(name: string): Device | undefined;
/** All devices that the rule selects. */
export function selectedDevices(): IterableIterator<Device>;

// --------------------------------------------------------------------------------------------- readings

/** The reading of a row. There is one object, which goes from row to row: it is not to be kept. */
export interface Reading {
  /** When the device says that it measured. May go back. */
  readonly time: Timestamp;
  number(metric: string): number | undefined;
  text(metric: string): string | undefined;
  flag(metric: string): boolean | undefined;
  /** A value of this row for the output stream; undefined: none. */
  derive(metric: string, value: number | undefined): void;
  /** Leaves the row out of the output stream. */
  drop(): void;
}

export interface TextColumn {
  dictionary: string[];
  /** For each row the place in the dictionary, or NO_TEXT. */
  codes: number[];
}
export const NO_TEXT: 0xffff_ffff;
export const NO_FLAG: 255;

/** Readings as columns. Rows are in the order of the log; where a batch is cut is chance. */
export interface Batch<State = any> {
  readonly rows: number;
  /** The stream that the readings are of. */
  readonly stream: string;
  /** The columns with at least one value. */
  readonly columns: { metric: string; kind: 'number' | 'text' | 'boolean' }[];
  /** The handle of the device of each row. */
  readonly devices: readonly number[];
  readonly times: readonly Timestamp[];
  /** NaN: no value. */
  numbers(metric: string): readonly number[];
  texts(metric: string): TextColumn;
  /** 0 false, 1 true, NO_FLAG no value. */
  flags(metric: string): Uint8Array;
  device(row: number): Device<State>;
  /** The state of the device of a row, to be changed. */
  state(row: number): State;
  /** The same for all rows: one object for all rows of a device. */
  states(): State[];
  trigger(row: number, key: string, severity: Severity, summary: string, details?: Details): void;
  clear(row: number, key: string): void;
  /** A column of the output stream, an entry for each row; NaN: no value. A Float64Array goes as it is. */
  derive(metric: string, values: Float64Array | readonly (number | undefined)[]): void;
  /** Which rows stay in the output stream, an entry for each. */
  keep(kept: Uint8Array | readonly boolean[]): void;
}

// -------------------------------------------------------------------------------------------- the rule

export interface Schedule {
  name: string;
  /** Five-field cron in its Unix meaning. */
  cron: string;
  /** IANA time zone; none: UTC. */
  zone?: string;
}

/** What the rule is called for, and the calls. It has onReading or onBatch. */
export interface Callbacks<State> {
  /** Metrics of the readings that it gets; none: all. A trailing '*' matches any suffix. */
  metrics?: readonly string[];
  /** When a device counts as silent: after so many microseconds, or after twice the interval of the registry. */
  silence?: { after: number } | 'registry';
  schedules?: readonly Schedule[];
  onReading?(device: Device<State>, reading: Reading, state: State): void;
  onBatch?(batch: Batch<State>): void;
  onTimer?(device: Device<State>, tag: number, at: Timestamp, state: State): void;
  /** `last`: the time of its last reading; undefined: there never was one. */
  onSilence?(device: Device<State>, last: Timestamp | undefined, state: State): void;
  onSchedule?(name: string, at: Timestamp): void;
}

declare const own: unique symbol;
interface OwnState {
  readonly [own]: true;
}
/** What `start` returns where the layout of state depends on the parameters. */
export function withState<const S extends StateFields>(fields: S, callbacks: Callbacks<StateOf<S>>): OwnState;

export interface Definition<P extends Parameters | string, S extends StateFields> {
  /** 1 to 64 characters of a-z 0-9 - _ . */
  name: string;
  version: string;
  description: string;
  /** Parameters by name; or a whole JSON Schema as text. */
  parameters?: P;
  /** What is kept for each device, in slot 0. */
  state?: S;
  /** From 1, another one for each layout; 0: keeps none. Default: 1 where there is `state`, else 0. */
  stateVersion?: number;
  /** Makes the rule of its parameters: once in each instance, and again after a callback that failed. */
  start(parameters: ParameterValues<P>): Callbacks<StateOf<S>> | OwnState;
  /** State of an older version as bytes or, in slot 0, as members; undefined: none. May call `log` only. */
  migrate?(oldVersion: number, slot: number, blob: Uint8Array): Uint8Array | Members<StateOf<S>> | undefined;
}
export interface Rule {
  readonly manifest: object;
}
/** Defines a rule; to be the default export of its module. */
export function defineRule<const P extends Parameters | string = {}, const S extends StateFields = {}>(
  definition: Definition<P, S>,
): Rule;

// ------------------------------------------------------------------------------------------------ more

/** The time of the log at this callback. */
export function now(): Timestamp;
/** A new reading, of any device by name. */
export function emit(device: string, metric: string, value: Value, time: Timestamp): void;
export const log: Record<'debug' | 'info' | 'warn' | 'error', (text: string) => void>;
export const SECOND: number;
export const MINUTE: number;
export const HOUR: number;
export const DAY: number;
/** Seconds as whole microseconds. */
export function seconds(count: number): number;

/** Exponentially weighted mean and variance. */
export class Ewma {
  static readonly fields: StateFields;
  mean: number;
  variance: number;
  count: number;
  update(x: number, alpha: number): void;
  /** How many standard deviations x is away; 0 where there is no variance. */
  deviation(x: number): number;
}
/** Change in units per second. */
export class RateOfChange {
  static readonly fields: StateFields;
  value: number;
  time: Timestamp;
  known: boolean;
  update(time: Timestamp, x: number): number | undefined;
}
/** On beyond one limit, off beyond another; for low values where `on` is below `off`. */
export class Hysteresis {
  static readonly fields: StateFields;
  active: boolean;
  update(x: number, on: number, off: number): 'rising' | 'falling' | 'unchanged';
}
/** True once a condition held for so many microseconds. */
export class Debounce {
  static readonly fields: StateFields;
  since: Timestamp;
  pending: boolean;
  update(condition: boolean | undefined, time: Timestamp, hold: number): boolean;
}
export interface Aggregate {
  count: number;
  sum: number;
  min: number;
  max: number;
  mean: number;
}
/** Windows of a fixed span, one after the other. */
export class TumblingWindow {
  static readonly fields: StateFields;
  index: number;
  count: number;
  sum: number;
  min: number;
  max: number;
  /** The window that this reading closed. */
  add(time: Timestamp, x: number, span: number): (Aggregate & { start: Timestamp; end: Timestamp }) | undefined;
}
export interface SlidingWindow {
  /** Adds a reading; one that is older than the window is ignored. */
  add(device: Device, time: Timestamp, x: number): void;
  /** What is in the window that ends at a time; count 0 and NaN where nothing is. */
  over(device: Device, time: Timestamp): Aggregate;
}
/** A sliding window in `pieces` slots of state from `slot` on. To be called in `start`. */
export function slidingWindow(options: { slot: number; pieces: number; span: number }): SlidingWindow;
