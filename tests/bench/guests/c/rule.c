// SPDX-License-Identifier: Apache-2.0
// What `cargo xtask bench guests` measures, in C; the parameter `case` says which rule it is. What each does is in the
// table of ../README.md; it is the same in every language.
#include "watchfire_rule.h"

#define PARAMETERS(PARAMETER)                                          \
    PARAMETER(text, which, .name = "case", .text = "ewma-batch")       \
    PARAMETER(number, high, .number = 100, .description = "Trigger above it.")
WF_PARAMETERS(parameters, PARAMETERS)

#define EWMA(FIELD) FIELD(ewma, ewma)
WF_STATE(ewma, EWMA)

static const double alpha = 0.05, sigmas = 6;
enum { WARM_UP = 30 };

static wf_metric temperature = {.name = "temperature"};

enum { METRICS = 5 };
#define FIVE(FIELD)          \
    FIELD(ewma, temperature) \
    FIELD(ewma, pressure)    \
    FIELD(ewma, vibration)   \
    FIELD(ewma, current)     \
    FIELD(ewma, humidity)
WF_STATE(five, FIVE)

static wf_metric others[METRICS - 1] = {
    {.name = "pressure"}, {.name = "vibration"}, {.name = "current"}, {.name = "humidity"}};

static wf_status ewma_batch(const wf_batch *batch)
{
    const double *values = wf_numbers(batch, &temperature);
    const wf_device *devices = wf_devices(batch);
    for (uint32_t row = 0; row < batch->rows; row++) {
        if (isnan(values[row]))
            continue;
        struct ewma *state = wf_state(devices[row]);
        double z = wf_ewma_deviation(&state->ewma, values[row]);
        if (state->ewma.count >= WARM_UP && fabs(z) > sigmas)
            wf_trigger_row(batch, row, "odd", WF_MINOR, "far from its usual values", "value", values[row], "z", z);
        wf_ewma_update(&state->ewma, values[row], alpha);
    }
    return WF_OK;
}

static wf_status ewma_device(wf_device device, const wf_reading *reading, void *memory)
{
    struct ewma *state = memory;
    double value = wf_number(reading, &temperature);
    if (isnan(value))
        return WF_OK;
    double z = wf_ewma_deviation(&state->ewma, value);
    if (state->ewma.count >= WARM_UP && fabs(z) > sigmas)
        wf_trigger(device, "odd", WF_MINOR, "far from its usual values", "value", value, "z", z);
    wf_ewma_update(&state->ewma, value, alpha);
    return WF_OK;
}

static wf_status five_batch(const wf_batch *batch)
{
    wf_metric *metrics[METRICS] = {&temperature, &others[0], &others[1], &others[2], &others[3]};
    const double *columns[METRICS];
    for (int m = 0; m < METRICS; m++)
        columns[m] = wf_numbers(batch, metrics[m]);
    const wf_device *devices = wf_devices(batch);
    for (uint32_t row = 0; row < batch->rows; row++) {
        struct five *state = wf_state(devices[row]);
        wf_ewma *ewmas[METRICS] = {&state->temperature, &state->pressure, &state->vibration, &state->current,
                                   &state->humidity};
        for (int m = 0; m < METRICS; m++) {
            double value = columns[m][row];
            if (isnan(value))
                continue;
            double z = wf_ewma_deviation(ewmas[m], value);
            if (ewmas[m]->count >= WARM_UP && fabs(z) > sigmas)
                wf_trigger_row(batch, row, metrics[m]->name, WF_MINOR, "far from its usual values", "value", value,
                               "z", z);
            wf_ewma_update(ewmas[m], value, alpha);
        }
    }
    return WF_OK;
}

static wf_status limit_batch(const wf_batch *batch)
{
    const double *values = wf_numbers(batch, &temperature);
    for (uint32_t row = 0; row < batch->rows; row++)
        if (values[row] > parameters.high)
            wf_trigger_row(batch, row, "limit", WF_MAJOR, "over the limit", "value", values[row]);
    return WF_OK;
}

static wf_status limit_device(wf_device device, const wf_reading *reading, void *memory)
{
    (void)memory;
    double value = wf_number(reading, &temperature);
    if (value > parameters.high)
        wf_trigger(device, "limit", WF_MAJOR, "over the limit", "value", value);
    return WF_OK;
}

static wf_status start(wf_rule *rule)
{
    if (strcmp(parameters.which, "ewma-batch") == 0)
        rule->on_batch = ewma_batch;
    else if (strcmp(parameters.which, "ewma-device") == 0)
        rule->on_reading = ewma_device;
    else if (strcmp(parameters.which, "five-batch") == 0)
        rule->on_batch = five_batch;
    else if (strcmp(parameters.which, "limit-batch") == 0)
        rule->on_batch = limit_batch;
    else if (strcmp(parameters.which, "limit-device") == 0)
        rule->on_reading = limit_device;
    else
        return wf_fail("unknown case %s", parameters.which);
    if (rule->on_batch == ewma_batch || rule->on_reading == ewma_device)
        rule->state = WF_LAYOUT(ewma);
    if (rule->on_batch == five_batch) {
        rule->state = WF_LAYOUT(five);
        for (int m = 0; m < METRICS - 1; m++)
            wf_subscribe(&others[m]);
    }
    return WF_OK;
}

const wf_rule watchfire_rule = {
    .name = "guests",
    .version = "0.1.0",
    .description = "What the bench of guests measures.",
    .parameters = WF_PARAMETERS_OF(parameters),
    .state_version = 1,
    .metrics = {&temperature},
    .start = start,
};
