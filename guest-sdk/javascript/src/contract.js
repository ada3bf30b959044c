// The imports of the contract. Everything else reaches them through here, so that tests can put a host of
// their own in their place.

/** What is there until `connect`: top-level code runs while the component is built, where there is no host. */
const nowhere = new Proxy({}, {
  get(_, name) {
    return () => {
      throw new Error(`${String(name)} was called while the module was loaded; it can be in callbacks only`);
    };
  },
});

/**
 * The interfaces of `wit/rule.wit`, by name; functions and fields in camel case. As the bindings have it:
 * lists are arrays (lists of bytes Uint8Array), none is null, variants are `{ tag, val }`, enums are strings,
 * 64-bit integers are numbers. A u32 that goes out and may have all 32 bits goes through `u32`.
 */
export const contract = {
  alerts: nowhere, clock: nowhere, config: nowhere, devices: nowhere, log: nowhere,
  output: nowhere, readings: nowhere, state: nowhere, timers: nowhere,
};

/**
 * A u32 for the bindings. They take it as an integer of 32 bits with a sign: a number beyond the largest
 * of those would become the largest, so that half of all slots were one and the same.
 */
export const u32 = (x) => x | 0;

/** Puts a host in place. */
export function connect(imports) {
  Object.assign(contract, imports);
}
