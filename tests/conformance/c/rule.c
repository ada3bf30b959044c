// SPDX-License-Identifier: Apache-2.0
// Every case of the conformance suite, in one module; the parameter `case` says which.
#include "watchfire_rule.h"

#define PARAMETERS(PARAMETER)                                                                               \
    PARAMETER(text, which, .name = "case", .text = "threshold", .description = "What the module is.")       \
    PARAMETER(number, high, .number = 80, .range = {-1000, 1000}, .unit = "°C", .description = "Above it.") \
    PARAMETER(number, deadband, .number = 5)                                                                \
    PARAMETER(number, alpha, .number = 0.1, .range = {0, 1})                                                \
    PARAMETER(number, hold, .number = 30, .unit = "s")                                                      \
    PARAMETER(text, name, .text = "plant")
WF_PARAMETERS(parameters, PARAMETERS)

#define ACTIVE(FIELD) FIELD(flag, active)
WF_STATE(active, ACTIVE)

#define EWMA(FIELD) FIELD(ewma, ewma)
WF_STATE(ewma, EWMA)

#define TUMBLING(FIELD) FIELD(tumbling_window, window)
WF_STATE(tumbling, TUMBLING)

#define RATE(FIELD) FIELD(rate_of_change, rate)
WF_STATE(rate, RATE)

#define OPEN(FIELD) FIELD(debounce, debounce) FIELD(flag, raised)
WF_STATE(open, OPEN)

#define LEVEL(FIELD) FIELD(hysteresis, hysteresis)
WF_STATE(level, LEVEL)

#define SILENT(FIELD) FIELD(flag, silent)
WF_STATE(silent, SILENT)

#define COUNT(FIELD) FIELD(integer, count)
WF_STATE(count, COUNT)

#define TOTAL(FIELD) FIELD(integer, count) FIELD(number, total)
WF_STATE(total, TOTAL)

#define LATE(FIELD) FIELD(integer, last) FIELD(integer, count)
WF_STATE(late, LATE)

static wf_metric temperature = {.name = "temperature"};
static wf_metric vibration = {.name = "vibration"};
static wf_metric flow = {.name = "flow"};
static wf_metric level = {.name = "level"};
static wf_metric open_flag = {.name = "open"};
static wf_metric start_flag = {.name = "start"};
static wf_metric done = {.name = "done"};
static wf_metric voltage = {.name = "voltage"};
static wf_metric current = {.name = "current"};
static wf_metric changed = {.name = "changed"};
static wf_metric n = {.name = "n"};
static wf_metric mode = {.name = "mode"};
static wf_metric running = {.name = "running"};
static wf_metric a = {.name = "a"};
static wf_metric b = {.name = "b"};
static wf_metric x = {.name = "x"};

// ---------------------------------------------------------------- threshold

static wf_status threshold(wf_device device, const wf_reading *reading, void *memory)
{
    struct active *state = memory;
    double value = wf_number(reading, &temperature);
    if (!state->active && value > parameters.high) {
        state->active = true;
        wf_trigger(device, "hot", WF_MAJOR, "temperature over the limit", "value", value, "limit", parameters.high);
    } else if (state->active && value < parameters.high - parameters.deadband) {
        state->active = false;
        wf_clear(device, "hot");
    }
    return WF_OK;
}

static wf_status threshold_batch(const wf_batch *batch)
{
    const double *values = wf_numbers(batch, &temperature);
    const wf_device *devices = wf_devices(batch);
    for (uint32_t row = 0; row < batch->rows; row++) {
        struct active *state = wf_state(devices[row]);
        if (!state->active && values[row] > parameters.high) {
            state->active = true;
            wf_trigger_row(batch, row, "hot", WF_MAJOR, "temperature over the limit", "value", values[row], "limit",
                           parameters.high);
        } else if (state->active && values[row] < parameters.high - parameters.deadband) {
            state->active = false;
            wf_clear_row(batch, row, "hot");
        }
    }
    return WF_OK;
}

// ---------------------------------------------------------------- helpers

static wf_metric vibration_mean = {.name = "vibration_mean"};
static wf_metric vibration_variance = {.name = "vibration_variance"};

static wf_status ewma(wf_device device, const wf_reading *reading, void *memory)
{
    struct ewma *state = memory;
    double value = wf_number(reading, &vibration);
    double z = wf_ewma_deviation(&state->ewma, value);
    if (state->ewma.count >= 10 && fabs(z) > 3)
        wf_trigger(device, "odd", WF_MINOR, "vibration deviates", "z", z);
    wf_ewma_update(&state->ewma, value, parameters.alpha);
    wf_derive(reading, &vibration_mean, state->ewma.mean);
    wf_derive(reading, &vibration_variance, state->ewma.variance);
    return WF_OK;
}

static wf_sliding_window window = {.name = "window", .pieces = 6, .span = WF_MINUTE};
static wf_metric flow_mean = {.name = "flow_mean"};
static wf_metric flow_min = {.name = "flow_min"};
static wf_metric flow_max = {.name = "flow_max"};
static wf_metric flow_count = {.name = "flow_count"};

static wf_status sliding(wf_device device, const wf_reading *reading, void *memory)
{
    (void)memory;
    wf_sliding_window_add(&window, device, reading->time, wf_number(reading, &flow));
    wf_window over = wf_sliding_window_over(&window, device, reading->time);
    wf_derive(reading, &flow_mean, over.mean);
    wf_derive(reading, &flow_min, over.min);
    wf_derive(reading, &flow_max, over.max);
    wf_derive(reading, &flow_count, (double)over.count);
    return WF_OK;
}

static wf_status tumbling(wf_device device, const wf_reading *reading, void *memory)
{
    struct tumbling *state = memory;
    wf_window closed;
    if (wf_tumbling_window_add(&state->window, reading->time, wf_number(reading, &flow), WF_MINUTE, &closed)) {
        wf_emit(wf_name(device), "flow_1m", closed.mean, closed.end);
        wf_emit(wf_name(device), "flow_1m_max", closed.max, closed.end);
    }
    return WF_OK;
}

static wf_metric level_rate = {.name = "level_rate"};

static wf_status rate(wf_device device, const wf_reading *reading, void *memory)
{
    (void)device;
    struct rate *state = memory;
    wf_derive(reading, &level_rate, wf_rate_of_change_update(&state->rate, reading->time, wf_number(reading, &level)));
    return WF_OK;
}

static wf_status debounce(wf_device device, const wf_reading *reading, void *memory)
{
    struct open *state = memory;
    bool is_open = wf_flag(reading, &open_flag) == WF_TRUE;
    bool stands = wf_debounce_update(&state->debounce, is_open, reading->time, (wf_time)(parameters.hold * 1e6));
    if (stands && !state->raised) {
        state->raised = true;
        wf_trigger(device, "open", WF_WARNING, "open for too long", "since", (double)state->debounce.since);
    } else if (!is_open && state->raised) {
        state->raised = false;
        wf_clear(device, "open");
    }
    return WF_OK;
}

static wf_status hysteresis(wf_device device, const wf_reading *reading, void *memory)
{
    struct level *state = memory;
    double value = wf_number(reading, &level);
    switch (wf_hysteresis_update(&state->hysteresis, value, parameters.high, parameters.high - parameters.deadband)) {
    case WF_RISING:
        wf_trigger(device, "level", WF_MAJOR, "level is high");
        break;
    case WF_FALLING:
        wf_clear(device, "level");
        break;
    case WF_UNCHANGED:
        break;
    }
    return WF_OK;
}

// ---------------------------------------------------------------- timers, silence, schedules

enum { OVERDUE = 1 };

static wf_status timers(wf_device device, const wf_reading *reading, void *memory)
{
    (void)memory;
    if (wf_flag(reading, &start_flag) == WF_TRUE)
        wf_set_timer(device, OVERDUE, wf_now() + 10 * WF_SECOND);
    if (wf_flag(reading, &done) == WF_TRUE) {
        wf_cancel_timer(device, OVERDUE);
        wf_clear(device, "overdue");
    }
    return WF_OK;
}

static wf_status overdue(wf_device device, uint32_t tag, wf_time at, void *memory)
{
    (void)at, (void)memory;
    wf_trigger(device, "overdue", WF_MAJOR, "not done in time", "tag", tag);
    return WF_OK;
}

static wf_status fell_silent(wf_device device, const wf_time *last, void *memory)
{
    struct silent *state = memory;
    state->silent = true;
    if (last)
        wf_trigger(device, "silent", WF_WARNING, "no readings", "last", (double)*last);
    else
        wf_trigger(device, "silent", WF_WARNING, "no readings");
    return WF_OK;
}

static wf_status silence(wf_device device, const wf_reading *reading, void *memory)
{
    (void)reading;
    struct silent *state = memory;
    if (state->silent) {
        state->silent = false;
        wf_clear(device, "silent");
    }
    return WF_OK;
}

static wf_status counted(wf_device device, const wf_reading *reading, void *memory)
{
    (void)device, (void)reading;
    struct count *state = memory;
    state->count += 1;
    return WF_OK;
}

static wf_status hourly(const char *name, wf_time at)
{
    (void)name;
    int64_t readings = 0, devices = 0;
    wf_selection all = {0};
    for (wf_device device; wf_next_selected(&all, &device);) {
        struct count *state = wf_state(device);
        readings += state->count;
        devices += 1;
        state->count = 0;
    }
    wf_emit(parameters.name, "readings", (double)readings, at);
    wf_emit(parameters.name, "devices", (double)devices, at);
    return WF_OK;
}

// ---------------------------------------------------------------- output

static wf_metric power = {.name = "power"};

static wf_status stream(wf_device device, const wf_reading *reading, void *memory)
{
    (void)device, (void)memory;
    wf_derive(reading, &power, wf_number(reading, &voltage) * wf_number(reading, &current));
    return WF_OK;
}

static wf_status keep(wf_device device, const wf_reading *reading, void *memory)
{
    (void)device, (void)memory;
    if (!(wf_number(reading, &changed) > 0))
        wf_drop(reading);
    return WF_OK;
}

static wf_status emit_site(wf_device device, const wf_reading *reading, void *memory)
{
    (void)memory;
    const char *site = wf_site(device);
    if (site)
        wf_emit(site, "site_temperature", wf_number(reading, &temperature), reading->time);
    return WF_OK;
}

// ---------------------------------------------------------------- state and parameters

static wf_status restart(wf_device device, const wf_reading *reading, void *memory)
{
    (void)reading;
    struct count *state = memory;
    state->count += 1;
    if (state->count % 3 == 0)
        wf_trigger(device, "third", WF_INFO, "every third", "count", state->count);
    return WF_OK;
}

static wf_status limit(wf_device device, const wf_reading *reading, void *memory)
{
    (void)memory;
    if (wf_number(reading, &temperature) > parameters.high)
        wf_trigger(device, "limit", WF_MAJOR, "temperature over the limit");
    else
        wf_clear(device, "limit");
    return WF_OK;
}

static wf_status migration(wf_device device, const wf_reading *reading, void *memory)
{
    struct total *state = memory;
    state->count += 1;
    state->total += wf_number(reading, &n);
    wf_trigger(device, "total", WF_INFO, "total so far", "count", state->count, "total", state->total);
    return WF_OK;
}

static wf_status migrate(wf_migration *old)
{
    struct count before;
    if (old->old_version != 1)
        return wf_fail("state of version %u cannot be taken over", (unsigned)old->old_version);
    if (old->slot != 0)
        return wf_fail("no such slot");
    if (wf_migration_read(old, WF_LAYOUT(count), &before)) {
        const struct total state = {.count = before.count, .total = (double)before.count * 1.0};
        wf_migrate_state(old, WF_LAYOUT(total), &state);
    }
    return WF_OK;
}

// ---------------------------------------------------------------- values

static wf_status text_flag(wf_device device, const wf_reading *reading, void *memory)
{
    (void)memory;
    const char *text = wf_text(reading, &mode);
    bool is_running = wf_flag(reading, &running) == WF_TRUE;
    bool fault = text && strcmp(text, "fault") == 0;
    if (fault && is_running)
        wf_trigger(device, "fault", WF_CRITICAL, "fault while running", "mode", text, "running", is_running);
    else if (text && !fault)
        wf_clear(device, "fault");
    return WF_OK;
}

static wf_status missing(wf_device device, const wf_reading *reading, void *memory)
{
    (void)memory;
    if (!isnan(wf_number(reading, &a)))
        wf_clear(device, "a-missing");
    else if (!isnan(wf_number(reading, &b)))
        wf_trigger(device, "a-missing", WF_MAJOR, "a is missing");
    return WF_OK;
}

static wf_status late(wf_device device, const wf_reading *reading, void *memory)
{
    struct late *state = memory;
    if (reading->time < state->last) {
        state->count += 1;
        wf_trigger(device, "late", WF_INFO, "a late reading", "by", state->last - reading->time, "count", state->count);
    } else {
        state->last = reading->time;
    }
    return WF_OK;
}

static wf_metric sum = {.name = "sum"};
static wf_metric difference = {.name = "difference"};
static wf_metric product = {.name = "product"};
static wf_metric quotient = {.name = "quotient"};
static wf_metric root = {.name = "root"};
static wf_metric sine = {.name = "sine"};
static wf_metric exponential = {.name = "exponential"};
static wf_metric logarithm = {.name = "logarithm"};
static wf_metric floored = {.name = "floor"};

static wf_status math(wf_device device, const wf_reading *reading, void *memory)
{
    (void)device, (void)memory;
    double value = wf_number(reading, &x);
    wf_derive(reading, &sum, value + 0.1);
    wf_derive(reading, &difference, value - 0.1);
    wf_derive(reading, &product, value * 1.1);
    wf_derive(reading, &quotient, value / 3);
    wf_derive(reading, &root, sqrt(fabs(value)));
    wf_derive(reading, &sine, sin(value));
    wf_derive(reading, &exponential, exp(value / 100));
    wf_derive(reading, &logarithm, log(fabs(value) + 1));
    wf_derive(reading, &power, pow(fabs(value), 0.3));
    wf_derive(reading, &floored, floor(value));
    return WF_OK;
}

// ---------------------------------------------------------------- failures

static wf_metric count_so_far = {.name = "count"};

static void count_up(const wf_reading *reading, struct count *state)
{
    state->count += 1;
    wf_derive(reading, &count_so_far, (double)state->count);
}

static wf_status error(wf_device device, const wf_reading *reading, void *memory)
{
    (void)device;
    if (wf_number(reading, &n) == 666)
        return wf_fail("poison: 666");
    count_up(reading, memory);
    return WF_OK;
}

static wf_status trap(wf_device device, const wf_reading *reading, void *memory)
{
    (void)device;
    if (wf_number(reading, &n) == 667)
        wf_panic("trap: 667");
    count_up(reading, memory);
    return WF_OK;
}

// ---------------------------------------------------------------- devices and the log

static wf_status devices(wf_device device, const wf_reading *reading, void *memory)
{
    (void)reading, (void)memory;
    wf_device other;
    const char *line = wf_label(device, "line");
    const char *type = wf_type(device);
    bool found = wf_find(parameters.name, &other);
    wf_trigger(device, "seen", WF_INFO, "device seen", "name", wf_name(device), "type", type ? type : "", "line",
               line ? line : "none", "found", found);
    return WF_OK;
}

static wf_status logged(wf_device device, const wf_reading *reading, void *memory)
{
    (void)device, (void)memory;
    wf_info("n is %lld", (long long)wf_number(reading, &n));
    return WF_OK;
}

// ---------------------------------------------------------------- the module

typedef wf_status on_reading(wf_device device, const wf_reading *reading, void *memory);

static const struct {
    const char *name;
    wf_metric *metrics[2];
    on_reading *on_reading;
    const wf_layout *state;
} cases[] = {
    {"threshold", {&temperature}, threshold, WF_LAYOUT(active)},
    {"threshold-batch", {&temperature}, NULL, WF_LAYOUT(active)},
    {"ewma", {&vibration}, ewma, WF_LAYOUT(ewma)},
    {"sliding", {&flow}, sliding, NULL},
    {"tumbling", {&flow}, tumbling, WF_LAYOUT(tumbling)},
    {"rate", {&level}, rate, WF_LAYOUT(rate)},
    {"debounce", {&open_flag}, debounce, WF_LAYOUT(open)},
    {"hysteresis", {&level}, hysteresis, WF_LAYOUT(level)},
    {"timers", {&start_flag, &done}, timers, NULL},
    {"silence", {&temperature}, silence, WF_LAYOUT(silent)},
    {"schedule", {&temperature}, counted, WF_LAYOUT(count)},
    {"stream", {&voltage, &current}, stream, NULL},
    {"keep", {&changed}, keep, NULL},
    {"emit-site", {&temperature}, emit_site, NULL},
    {"restart", {&n}, restart, WF_LAYOUT(count)},
    {"parameters", {&temperature}, limit, NULL},
    {"migration", {&n}, migration, WF_LAYOUT(total)},
    {"text-flag", {&mode, &running}, text_flag, NULL},
    {"missing", {&a, &b}, missing, NULL},
    {"late", {&n}, late, WF_LAYOUT(late)},
    {"error", {&n}, error, WF_LAYOUT(count)},
    {"trap", {&n}, trap, WF_LAYOUT(count)},
    {"math", {&x}, math, NULL},
    {"devices", {&temperature}, devices, NULL},
    {"log", {&n}, logged, NULL},
};

static wf_status start(wf_rule *rule)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(cases[i].name, parameters.which) != 0)
            continue;
        rule->metrics[0] = cases[i].metrics[0];
        rule->metrics[1] = cases[i].metrics[1];
        rule->on_reading = cases[i].on_reading;
        rule->state = cases[i].state;
        if (!cases[i].on_reading)
            rule->on_batch = threshold_batch;
        if (cases[i].on_reading == ewma && !(parameters.alpha > 0))
            return wf_fail("alpha is not above 0");
        if (cases[i].on_reading == silence) {
            rule->silence = 30 * WF_SECOND;
            rule->on_silence = fell_silent;
        }
        if (cases[i].on_reading == counted) {
            rule->schedules[0] = (wf_schedule){.name = "hourly", .cron = "0 * * * *"};
            rule->on_schedule = hourly;
        }
        return WF_OK;
    }
    return wf_fail("unknown case %s", parameters.which);
}

const wf_rule watchfire_rule = {
    .name = "conformance",
    .version = "0.1.0",
    .description = "Every case of the conformance suite.",
    .parameters = WF_PARAMETERS_OF(parameters),
    .state_version = 2,
    .start = start,
    .on_timer = overdue,
    .migrate = migrate,
};
