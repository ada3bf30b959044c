// Arithmetic that rules share, as fields of state. Every language computes the same, in the order written here.

/** Exponentially weighted mean and variance. */
export class Ewma {
  static fields = { mean: 'number', variance: 'number', count: 'integer' };

  update(x, alpha) {
    if (this.count === 0) {
      this.mean = x;
      this.variance = 0;
    } else {
      const delta = x - this.mean;
      const step = alpha * delta;
      this.mean = this.mean + step;
      this.variance = (1 - alpha) * (this.variance + step * delta);
    }
    this.count += 1;
  }

  /** How many standard deviations x is away; 0 where there is no variance. */
  deviation(x) {
    return this.variance === 0 ? 0 : (x - this.mean) / Math.sqrt(this.variance);
  }
}

/** Change in units per second. */
export class RateOfChange {
  static fields = { value: 'number', time: 'integer', known: 'flag' };

  /** The rate since the reading before; undefined where there is none, or this one is no later. */
  update(time, x) {
    let rate;
    if (this.known) {
      if (time <= this.time) return undefined;
      rate = (x - this.value) / ((time - this.time) / 1e6);
    }
    this.value = x;
    this.time = time;
    this.known = true;
    return rate;
  }
}

/** On beyond one limit, off beyond another; for low values where `on` is below `off`. */
export class Hysteresis {
  static fields = { active: 'flag' };

  update(x, on, off) {
    const high = on >= off;
    if (!this.active && (high ? x > on : x < on)) {
      this.active = true;
      return 'rising';
    }
    if (this.active && (high ? x < off : x > off)) {
      this.active = false;
      return 'falling';
    }
    return 'unchanged';
  }
}

/** True once a condition held for so many microseconds. */
export class Debounce {
  static fields = { since: 'integer', pending: 'flag' };

  update(condition, time, hold) {
    if (!condition) {
      this.pending = false;
      return false;
    }
    if (!this.pending) {
      this.pending = true;
      this.since = time;
    }
    return time - this.since >= hold;
  }
}

/** Windows of a fixed span, one after the other. */
export class TumblingWindow {
  static fields = { index: 'integer', count: 'integer', sum: 'number', min: 'number', max: 'number' };

  /** The window that this reading closed; undefined where it closed none. */
  add(time, x, span) {
    const index = Math.floor(time / span);
    if (this.count === 0) {
      open(this, index, x);
      return undefined;
    }
    if (index < this.index) return undefined;
    if (index === this.index) {
      include(this, x);
      return undefined;
    }
    const start = this.index * span;
    const { count, sum, min, max } = this;
    open(this, index, x);
    return { start, end: start + span, count, sum, min, max, mean: sum / count };
  }
}

/** Begins a window with its first value. */
export function open(window, index, x) {
  window.index = index;
  window.count = 1;
  window.sum = x;
  window.min = x;
  window.max = x;
}

/** Adds a value to a window. */
export function include(window, x) {
  window.count += 1;
  window.sum += x;
  if (x < window.min) window.min = x;
  if (x > window.max) window.max = x;
}
