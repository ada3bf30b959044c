// SPDX-License-Identifier: Apache-2.0
// Flapping: something that is on and off, and changes too often.
#include "watchfire_rule.h"

#include <stdio.h>

// Changes that can be counted: the times of so many are kept for each device.
enum { MOST = 32 };

#define PARAMETERS(PARAMETER)                                                                                    \
    PARAMETER(text, metric, .required = true, .description = "A flag, or a number that is on above the limit.")  \
    PARAMETER(number, limit, .number = 0.5, .unit = "of the metric",                                             \
              .description = "A number above it is on.")                                                         \
    PARAMETER(number, deadband, .number = 0, .range = {0, INFINITY}, .unit = "of the metric",                    \
              .description = "A number is off again once it is so far below the limit.")                         \
    PARAMETER(integer, changes, .integer = 6, .range = {2, MOST}, .description = "Alert at so many changes ...")  \
    PARAMETER(number, window, .number = 600, .range = {0.001, 604800}, .unit = "s",                              \
              .description = "... within so long.")                                                              \
    PARAMETER(number, quiet, .number = 300, .range = {0, 604800}, .unit = "s",                                   \
              .description = "Clear after so long without a change.")                                            \
    PARAMETER(choice, severity, .choices = {"info", "warning", "minor", "major", "critical"}, .text = "warning")
WF_PARAMETERS(parameters, PARAMETERS)

// `times` is a ring of the last changes, by event time in microseconds: exact as numbers until the year 2255. `changes` is
// how many there ever were, so the next one goes to changes % MOST. All of it is written at a change only.
#define STATE(FIELD)          \
    FIELD(flag, known)        \
    FIELD(flag, on)           \
    FIELD(flag, flapping)     \
    FIELD(integer, changes)   \
    FIELD(numbers, times, MOST)
WF_STATE(state, STATE)

static wf_metric input;
static char key[160];
static char summary[192];
static wf_time window, quiet;

static wf_status start(wf_rule *rule)
{
    (void)rule;
    size_t length = strlen(parameters.metric);
    if (length == 0 || length > 128)
        return wf_fail("a metric has 1 to 128 bytes of name");
    if (strchr(parameters.metric, '*'))
        return wf_fail("metric is one metric: no *");
    window = (wf_time)(parameters.window * WF_SECOND);
    quiet = (wf_time)(parameters.quiet * WF_SECOND);
    snprintf(key, sizeof key, "%s.flapping", parameters.metric);
    snprintf(summary, sizeof summary, "%s changes too often", parameters.metric);
    input.name = parameters.metric;
    wf_subscribe(&input);
    return WF_OK;
}

// The change that was so many changes ago; 1 is the last one.
static wf_time change(const struct state *state, int64_t ago)
{
    return (wf_time)state->times[(state->changes - ago) % MOST];
}

// Whether the reading has a value at all; `state->on` is then what it says.
static bool take(struct state *state, const wf_reading *reading)
{
    wf_truth flag = wf_flag(reading, &input);
    if (flag != WF_NONE) {
        state->on = flag == WF_TRUE;
        return true;
    }
    double x = wf_number(reading, &input);
    if (isnan(x))
        return false;
    // Exactly back by the deadband is off: as a limit, it is reached.
    if (x > parameters.limit)
        state->on = true;
    else if (x <= parameters.limit - parameters.deadband)
        state->on = false;
    return true;
}

static wf_status on_reading(wf_device device, const wf_reading *reading, void *memory)
{
    struct state *state = memory;
    // From before the last change: it says nothing of how things are since.
    if (state->changes > 0 && reading->time < change(state, 1))
        return WF_OK;
    bool was = state->on;
    if (!take(state, reading))
        return WF_OK;
    if (state->known && state->on != was) {
        state->times[state->changes % MOST] = (double)reading->time;
        state->changes++;
    }
    state->known = true;
    if (state->changes == 0)
        return WF_OK;

    wf_time since = reading->time - window;
    int64_t kept = state->changes < MOST ? state->changes : MOST, within = 0;
    while (within < kept && change(state, within + 1) > since)
        within++;
    if (within >= parameters.changes || (state->flapping && reading->time - change(state, 1) < quiet)) {
        state->flapping = true;
        // Said again with each reading: it keeps the values of the alert current.
        wf_trigger(device, key, (wf_severity)parameters.severity, summary, "changes", within, "seconds",
                   parameters.window, "on", (bool)state->on);
    } else if (state->flapping) {
        state->flapping = false;
        wf_clear(device, key);
    }
    return WF_OK;
}

const wf_rule watchfire_rule = {
    .name = "flapping",
    .version = "0.1.0",
    .description = "A flag, or a number over a limit, that changes too often; clears when it is quiet.",
    .parameters = WF_PARAMETERS_OF(parameters),
    .state = WF_LAYOUT(state),
    .state_version = 1,
    .start = start,
    .on_reading = on_reading,
};
