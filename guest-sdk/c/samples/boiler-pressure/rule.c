// SPDX-License-Identifier: Apache-2.0
// Alerts when the pressure of a boiler has been high for some time.
#include "watchfire_rule.h"

#define PARAMETERS(PARAMETER)                                                                      \
    PARAMETER(number, high, .number = 12, .range = {0, 400}, .unit = "bar",                        \
              .description = "The pressure is high above it.")                                     \
    PARAMETER(number, deadband, .number = 0.5, .range = {0, INFINITY}, .unit = "bar",              \
              .description = "It is high until it is lower than the limit by this much.")          \
    PARAMETER(number, hold, .number = 10, .range = {0, INFINITY}, .unit = "s",                        \
              .description = "It must have been high for this long.")
WF_PARAMETERS(parameters, PARAMETERS)

#define STATE(FIELD)         \
    FIELD(hysteresis, high)  \
    FIELD(debounce, held)    \
    FIELD(flag, raised)
WF_STATE(state, STATE)

static wf_metric pressure = {.name = "pressure"};

static wf_status on_reading(wf_device device, const wf_reading *reading, void *memory)
{
    struct state *state = memory;
    double bar = wf_number(reading, &pressure);
    // A reading whose pressure is no number says nothing.
    if (isnan(bar))
        return WF_OK;
    wf_hysteresis_update(&state->high, bar, parameters.high, parameters.high - parameters.deadband);
    bool held = wf_debounce_update(&state->held, state->high.active, reading->time,
                                   (wf_time)(parameters.hold * WF_SECOND));
    if (held) {
        state->raised = true;
        // Said again with each reading: it keeps the values of the alert current.
        wf_trigger(device, "pressure", WF_CRITICAL, "the pressure is too high", "pressure", bar, "limit",
                   parameters.high);
    } else if (state->raised && !state->high.active) {
        state->raised = false;
        wf_clear(device, "pressure");
    }
    return WF_OK;
}

const wf_rule watchfire_rule = {
    .name = "boiler-pressure",
    .version = "0.1.0",
    .description = "The pressure of a boiler was above its limit for some time.",
    .parameters = WF_PARAMETERS_OF(parameters),
    .state = WF_LAYOUT(state),
    .state_version = 1,
    .metrics = {&pressure},
    .on_reading = on_reading,
};
