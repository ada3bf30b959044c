// SPDX-License-Identifier: Apache-2.0
// A limit for each of some metrics. Works on whole columns.
#include "watchfire_rule.h"

#define PARAMETERS(PARAMETER)                                                                               \
    PARAMETER(texts, metrics, .texts = {"temperature"}, .description = "What is watched.")                  \
    PARAMETER(numbers, limits, .numbers = {80}, .count = 1, .description = "The limit of each of them.")    \
    PARAMETER(number, deadband, .range = {0, INFINITY}, .description = "Clears so far below the limit.")    \
    PARAMETER(choice, severity, .choices = {"info", "warning", "minor", "major", "critical"}, .text = "major")
WF_PARAMETERS(parameters, PARAMETERS)

#define STATE(FIELD) FIELD(flag, active)
WF_STATE(state, STATE)

// Each metric keeps its state in the slot of its name, so that the list may come in another order tomorrow.
enum { MOST = 32 };
static wf_metric columns[MOST];
static wf_slot slots[MOST];

static wf_status start(wf_rule *rule)
{
    (void)rule;
    if (parameters.metrics.count != parameters.limits.count)
        return wf_fail("there are %zu metrics and %zu limits", parameters.metrics.count, parameters.limits.count);
    if (parameters.metrics.count > MOST)
        return wf_fail("more than %d metrics", MOST);
    for (size_t i = 0; i < parameters.metrics.count; i++) {
        columns[i].name = slots[i].name = parameters.metrics.items[i];
        slots[i].layout = WF_LAYOUT(state);
        wf_subscribe(&columns[i]);
    }
    return WF_OK;
}

static void watch(const wf_batch *batch, size_t i)
{
    const double *values = wf_numbers(batch, &columns[i]);
    const wf_device *devices = wf_devices(batch);
    double limit = parameters.limits.items[i];
    for (uint32_t row = 0; row < batch->rows; row++) {
        if (isnan(values[row]))
            continue;
        struct state *state = wf_slot_state(&slots[i], devices[row]);
        if (values[row] > limit) {
            state->active = true;
            // The names of severities stand in the order of the enum.
            wf_trigger_row(batch, row, columns[i].name, (wf_severity)parameters.severity, "over the limit", "value",
                           values[row], "limit", limit);
        } else if (state->active && values[row] <= limit - parameters.deadband) {
            state->active = false;
            wf_clear_row(batch, row, columns[i].name);
        }
    }
}

static wf_status on_batch(const wf_batch *batch)
{
    for (size_t i = 0; i < parameters.metrics.count; i++)
        watch(batch, i);
    return WF_OK;
}

const wf_rule watchfire_rule = {
    .name = "limits-by-column",
    .version = "0.1.0",
    .description = "A limit for each of some metrics.",
    .parameters = WF_PARAMETERS_OF(parameters),
    .state_version = 1,
    .start = start,
    .on_batch = on_batch,
};
