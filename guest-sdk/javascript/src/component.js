// Between a rule and the contract: the exports of the component, and the life of the rule in its instance.

import { connect, contract, u32 } from './contract.js';
import { eachReading, openBatch } from './batch.js';
import { nextCallback } from './callback.js';
import { deviceAt, devices, forgetDevices, setGroup } from './device.js';
import { commit, resetEffects } from './effects.js';
import { reading } from './reading.js';
import { textOf } from './failure.js';
import { begun, isRule } from './rule.js';
import { bytesOfStates, closeTables, forgetStates, hasMainState, mainState, openTables, saveAll } from './state.js';

/**
 * Bytes that devices and their states may take, roughly. What an instance remembers is a cache, and its memory
 * is limited, to 64 MiB where a deployment says nothing else: beyond, all are forgotten, and met again.
 */
const MOST_BYTES = 32 << 20;
const BYTES_OF_A_DEVICE = 150;

/** The exports of a component for a rule, over the interfaces of the contract. */
export function component(rule, imports) {
  if (!isRule(rule)) throw new Error('the default export of the module is no rule: export default defineRule({ ... })');
  /** What `start` gave; null before it, and after a callback that failed. */
  let running = null;

  // The host drops what a failed callback did, so that what was remembered of it is wrong: all is made anew.
  function forget() {
    running = null;
    reading.row = null;
    forgetDevices();
    openTables(rule.manifest.stateVersion);
  }

  function begin() {
    connect(imports);
    forget();
    nextCallback();
    resetEffects(false);
    const made = begun(rule, rule.start(JSON.parse(contract.config.json())));
    closeTables(made.layout);
    running = made;
  }

  /** Runs a callback of the rule, where it has one of these names. */
  function call(names, run) {
    try {
      if (running === null) begin();
      const { callbacks } = running;
      if (!names.some((name) => callbacks[name])) return;
      nextCallback();
      resetEffects(callbacks.onTimer !== undefined);
      run(callbacks);
      reading.row = null;
      saveAll();
      commit();
      setGroup([]);
      if (devices.length * (BYTES_OF_A_DEVICE + bytesOfStates()) > MOST_BYTES) {
        forgetStates();
        forgetDevices();
      }
    } catch (error) {
      forget();
      throw textOf(error, true);
    }
  }

  const stateOf = (device) => (hasMainState() ? mainState().of(device) : undefined);

  return {
    handler: {
      describe: () => ({ ...rule.manifest, stateVersion: u32(rule.manifest.stateVersion) }),
      start() {
        try {
          begin();
          return running.subscription;
        } catch (error) {
          running = null;
          throw textOf(error, false);
        }
      },
      onBatch() {
        call(['onBatch', 'onReading'], (callbacks) => {
          if (callbacks.onBatch) callbacks.onBatch(openBatch());
          else eachReading(callbacks, running.subscription.metrics);
        });
      },
    },
    timerHandler: {
      onTimers(due) {
        call(['onTimer'], (callbacks) => {
          setGroup(due.map((timer) => timer.device));
          for (const timer of due) {
            const device = deviceAt(timer.device);
            callbacks.onTimer(device, timer.tag, timer.at, stateOf(device));
          }
        });
      },
    },
    silenceHandler: {
      onSilence(silent) {
        call(['onSilence'], (callbacks) => {
          setGroup(silent.map((entry) => entry.device));
          for (const { device: handle, last } of silent) {
            const device = deviceAt(handle);
            callbacks.onSilence(device, last ?? undefined, stateOf(device));
          }
        });
      },
    },
    scheduleHandler: {
      onSchedule(name, at) {
        call(['onSchedule'], (callbacks) => callbacks.onSchedule(name, at));
      },
    },
    stateMigration: {
      migrate(oldVersion, slot, states) {
        try {
          connect(imports);
          return migrated(rule, oldVersion, slot, states);
        } catch (error) {
          throw textOf(error, false);
        }
      },
    },
  };
}

function migrated(rule, oldVersion, slot, { lengths, data }) {
  if (!rule.migrate) throw new Error(`state of version ${oldVersion} cannot be taken over`);
  const blobs = [];
  let at = 0;
  let size = 0;
  for (const length of lengths) {
    // A copy: what the rule keeps of it must not change.
    const blob = blobOf(rule, slot, rule.migrate(oldVersion, slot, data.slice(at, at + length)));
    blobs.push(blob);
    at += length;
    size += blob.length;
  }
  const joined = new Uint8Array(size);
  let to = 0;
  for (const blob of blobs) {
    joined.set(blob, to);
    to += blob.length;
  }
  return { lengths: blobs.map((blob) => blob.length), data: joined };
}

/** What `migrate` returned, as bytes. */
function blobOf(rule, slot, answer) {
  if (answer == null) return new Uint8Array(0);
  if (answer instanceof Uint8Array) return answer;
  if (slot !== 0 || !rule.layout || typeof answer !== 'object') {
    throw new Error(`migrate returned ${typeof answer} for slot ${slot}: bytes are needed, or, for slot 0, a state as declared`);
  }
  return rule.layout.write(answer);
}
