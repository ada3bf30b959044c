// The cases: each is a `start` of its own.

import {
  Debounce, Ewma, Hysteresis, RateOfChange, SECOND, TumblingWindow,
  emit, find, log, now, seconds, selectedDevices, slidingWindow, slotOf, withState,
} from 'watchfire-rule';

function threshold({ high, deadband }) {
  return withState({ active: 'flag' }, {
    metrics: ['temperature'],
    onReading(device, reading, state) {
      const x = reading.number('temperature');
      if (!state.active && x > high) {
        state.active = true;
        device.trigger('hot', 'major', 'temperature over the limit', { value: x, limit: high });
      } else if (state.active && x < high - deadband) {
        state.active = false;
        device.clear('hot');
      }
    },
  });
}

function thresholdBatch({ high, deadband }) {
  return withState({ active: 'flag' }, {
    metrics: ['temperature'],
    onBatch(batch) {
      const temperatures = batch.numbers('temperature');
      const states = batch.states();
      for (let row = 0; row < temperatures.length; row++) {
        const x = temperatures[row];
        const state = states[row];
        if (!state.active && x > high) {
          state.active = true;
          batch.trigger(row, 'hot', 'major', 'temperature over the limit', { value: x, limit: high });
        } else if (state.active && x < high - deadband) {
          state.active = false;
          batch.clear(row, 'hot');
        }
      }
    },
  });
}

function ewma({ alpha }) {
  if (!(alpha > 0)) throw new Error('alpha is not above 0');
  return withState({ ewma: Ewma }, {
    metrics: ['vibration'],
    onReading(device, reading, { ewma }) {
      const x = reading.number('vibration');
      const z = ewma.deviation(x);
      if (ewma.count >= 10 && Math.abs(z) > 3) device.trigger('odd', 'minor', 'vibration deviates', { z });
      ewma.update(x, alpha);
      reading.derive('vibration_mean', ewma.mean);
      reading.derive('vibration_variance', ewma.variance);
    },
  });
}

function sliding() {
  const window = slidingWindow({ slot: slotOf('window'), pieces: 6, span: 60 * SECOND });
  return {
    metrics: ['flow'],
    onReading(device, reading) {
      window.add(device, reading.time, reading.number('flow'));
      const { mean, min, max, count } = window.over(device, reading.time);
      reading.derive('flow_mean', mean);
      reading.derive('flow_min', min);
      reading.derive('flow_max', max);
      reading.derive('flow_count', count);
    },
  };
}

function tumbling() {
  return withState({ window: TumblingWindow }, {
    metrics: ['flow'],
    onReading(device, reading, { window }) {
      const closed = window.add(reading.time, reading.number('flow'), 60 * SECOND);
      if (!closed) return;
      emit(device.name, 'flow_1m', closed.mean, closed.end);
      emit(device.name, 'flow_1m_max', closed.max, closed.end);
    },
  });
}

function rate() {
  return withState({ rate: RateOfChange }, {
    metrics: ['level'],
    onReading(device, reading, state) {
      reading.derive('level_rate', state.rate.update(reading.time, reading.number('level')));
    },
  });
}

function debounce(parameters) {
  const hold = seconds(parameters.hold);
  return withState({ debounce: Debounce, raised: 'flag' }, {
    metrics: ['open'],
    onReading(device, reading, state) {
      const open = reading.flag('open');
      const held = state.debounce.update(open, reading.time, hold);
      if (held && !state.raised) {
        state.raised = true;
        device.trigger('open', 'warning', 'open for too long', { since: state.debounce.since });
      } else if (!open && state.raised) {
        state.raised = false;
        device.clear('open');
      }
    },
  });
}

function hysteresis({ high, deadband }) {
  return withState({ level: Hysteresis }, {
    metrics: ['level'],
    onReading(device, reading, state) {
      const change = state.level.update(reading.number('level'), high, high - deadband);
      if (change === 'rising') device.trigger('level', 'major', 'level is high');
      else if (change === 'falling') device.clear('level');
    },
  });
}

function timers() {
  return {
    metrics: ['start', 'done'],
    onReading(device, reading) {
      if (reading.flag('start')) device.setTimer(1, now() + 10 * SECOND);
      if (reading.flag('done')) {
        device.cancelTimer(1);
        device.clear('overdue');
      }
    },
    onTimer(device, tag) {
      device.trigger('overdue', 'major', 'not done in time', { tag });
    },
  };
}

function silence() {
  return withState({ silent: 'flag' }, {
    metrics: ['temperature'],
    silence: { after: 30 * SECOND },
    onReading(device, reading, state) {
      if (!state.silent) return;
      state.silent = false;
      device.clear('silent');
    },
    onSilence(device, last, state) {
      state.silent = true;
      device.trigger('silent', 'warning', 'no readings', { last });
    },
  });
}

function schedule({ name }) {
  return withState({ count: 'integer' }, {
    metrics: ['temperature'],
    schedules: [{ name: 'hourly', cron: '0 * * * *' }],
    onReading(device, reading, state) {
      state.count += 1;
    },
    onSchedule(_, at) {
      let total = 0;
      let devices = 0;
      for (const device of selectedDevices()) {
        total += device.state.count;
        device.state.count = 0;
        devices += 1;
      }
      emit(name, 'readings', total, at);
      emit(name, 'devices', devices, at);
    },
  });
}

const stream = () => ({
  metrics: ['voltage', 'current'],
  onReading(device, reading) {
    const voltage = reading.number('voltage');
    const current = reading.number('current');
    if (voltage !== undefined && current !== undefined) reading.derive('power', voltage * current);
  },
});

const keep = () => ({
  metrics: ['changed'],
  onReading(device, reading) {
    if (!(reading.number('changed') > 0)) reading.drop();
  },
});

const emitSite = () => ({
  metrics: ['temperature'],
  onReading(device, reading) {
    if (device.site) emit(device.site, 'site_temperature', reading.number('temperature'), reading.time);
  },
});

function restart() {
  return withState({ count: 'integer' }, {
    metrics: ['n'],
    onReading(device, reading, state) {
      state.count += 1;
      if (state.count % 3 === 0) device.trigger('third', 'info', 'every third', { count: state.count });
    },
  });
}

const parameters = ({ high }) => ({
  metrics: ['temperature'],
  onReading(device, reading) {
    if (reading.number('temperature') > high) device.trigger('limit', 'major', 'temperature over the limit');
    else device.clear('limit');
  },
});

function migration() {
  return withState({ count: 'integer', total: 'number' }, {
    metrics: ['n'],
    onReading(device, reading, state) {
      state.count += 1;
      state.total += reading.number('n');
      device.trigger('total', 'info', 'total so far', { count: state.count, total: state.total });
    },
  });
}

const textFlag = () => ({
  metrics: ['mode', 'running'],
  onReading(device, reading) {
    const mode = reading.text('mode');
    const running = reading.flag('running');
    if (mode === 'fault' && running) device.trigger('fault', 'critical', 'fault while running', { mode, running });
    else if (mode !== undefined && mode !== 'fault') device.clear('fault');
  },
});

const missing = () => ({
  metrics: ['a', 'b'],
  onReading(device, reading) {
    if (reading.number('a') !== undefined) device.clear('a-missing');
    else if (reading.number('b') !== undefined) device.trigger('a-missing', 'major', 'a is missing');
  },
});

function late() {
  return withState({ last: 'integer', count: 'integer' }, {
    metrics: ['n'],
    onReading(device, reading, state) {
      const { time } = reading;
      if (time < state.last) {
        state.count += 1;
        device.trigger('late', 'info', 'a late reading', { by: state.last - time, count: state.count });
      } else {
        state.last = time;
      }
    },
  });
}

/** Counts, but for one value, at which it does something else. */
function poisoned(poison, fail) {
  return withState({ count: 'integer' }, {
    metrics: ['n'],
    onReading(device, reading, state) {
      if (reading.number('n') === poison) fail();
      state.count += 1;
      reading.derive('count', state.count);
    },
  });
}

const error = () => poisoned(666, () => {
  throw new Error('poison: 666');
});

// An exception is all the panic there is here.
const trap = () => poisoned(667, () => {
  throw new Error('trap: 667');
});

const math = () => ({
  metrics: ['x'],
  onReading(device, reading) {
    const x = reading.number('x');
    reading.derive('sum', x + 0.1);
    reading.derive('difference', x - 0.1);
    reading.derive('product', x * 1.1);
    reading.derive('quotient', x / 3);
    reading.derive('root', Math.sqrt(Math.abs(x)));
    reading.derive('sine', Math.sin(x));
    reading.derive('exponential', Math.exp(x / 100));
    reading.derive('logarithm', Math.log(Math.abs(x) + 1));
    reading.derive('power', Math.pow(Math.abs(x), 0.3));
    reading.derive('floor', Math.floor(x));
  },
});

const devices = ({ name }) => ({
  metrics: ['temperature'],
  onReading(device) {
    device.trigger('seen', 'info', 'device seen', {
      name: device.name,
      type: device.type,
      line: device.label('line') ?? 'none',
      found: find(name) !== undefined,
    });
  },
});

const logged = () => ({
  metrics: ['n'],
  onReading(device, reading) {
    log.info(`n is ${Math.trunc(reading.number('n'))}`);
  },
});

export const cases = {
  __proto__: null,
  threshold, 'threshold-batch': thresholdBatch, ewma, sliding, tumbling, rate, debounce, hysteresis, timers, silence,
  schedule, stream, keep, 'emit-site': emitSite, restart, parameters, migration, 'text-flag': textFlag, missing, late,
  error, trap, math, devices, log: logged,
};
