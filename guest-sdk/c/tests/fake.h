// SPDX-License-Identifier: Apache-2.0
// The host of the tests: holds what a rule may ask for, and writes down what it does, a line each.
#ifndef FAKE_H
#define FAKE_H

#include "../watchfire_rule.h"

typedef struct fake_column {
    const char *metric;
    double numbers[4];    // where NaN: none
    const char *texts[4]; // a text column where the first is not NULL; "": none
    wf_truth flags[4];
    bool is_flags;
} fake_column;

// To be changed by a test at will; fake_reset puts it back.
extern struct fake {
    uint32_t rows;
    wf_device devices[4];
    wf_time times[4];
    fake_column columns[4];
    wf_time now;
    uint64_t version;
    const char *config;
    uint32_t selected; // handles 0 ..
    size_t calls;      // of imports
} fake;

// The rule under test: `start` of the module puts it in the module's place.
extern wf_rule fake_rule;
wf_status fake_take_rule(wf_rule *rule);

// What was done since the last look, a line each.
char *fake_done(void);

// Callbacks; the text of the error, or NULL.
const char *fake_start(void);
const char *fake_batch(void);
const char *fake_timer(wf_device device, uint32_t tag, wf_time at);
const char *fake_silence(wf_device device, const wf_time *last);
const char *fake_schedule(const char *name, wf_time at);

// A blob that the host holds, in hex.
const char *fake_state(uint32_t slot, wf_device device);
void fake_put_state(uint32_t slot, wf_device device, const char *hex);
const char *fake_schema(void);
const char *fake_migrate(uint32_t old_version, uint32_t slot, const char *hex, char *migrated);

#endif
