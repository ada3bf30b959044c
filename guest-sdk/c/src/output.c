// SPDX-License-Identifier: Apache-2.0
// The output stream: derived columns, the rows that are kept, and new readings; collected, and handed over at the end.
#include <stdlib.h>

#include "internal.h"


// ---------------------------------------------------------------- derived columns

struct derived {
    const char *metric;
    double *values;
    size_t room;
};

// The memory of a column is used again by whatever comes to stand in its place.
static struct derived *derived;
static size_t derived_count, derived_room;

static void hand_over_derived(void)
{
    uint32_t rows = watchfire_rule_readings_rows();
    for (size_t i = 0; i < derived_count; i++) {
        wf_string metric = wf_lend("wf_derive: the name of the metric", derived[i].metric);
        full_rule_list_f64_t values = {derived[i].values, rows};
        if (!wf_callback.failed)
            watchfire_rule_output_derive(&metric, &values);
    }
}

static void forget_derived(void)
{
    derived_count = 0;
}

static wf_part derived_part = {.finish = hand_over_derived, .reset = forget_derived};

static double *column_for(wf_metric *metric)
{
    if (wf_callback.batch == 0) {
        wf_fail("wf_derive: there is no batch");
        return NULL;
    }
    if (!metric->name) {
        wf_fail("wf_derive: the name of the metric is NULL");
        return NULL;
    }
    wf_use(&derived_part);
    uint32_t rows = watchfire_rule_readings_rows();
    size_t number = 0;
    while (number < derived_count && strcmp(derived[number].metric, metric->name) != 0)
        number++;
    if (number == derived_count) {
        size_t before = derived_room;
        derived = wf_grow(derived, &derived_room, derived_count + 1, sizeof *derived);
        memset(derived + before, 0, (derived_room - before) * sizeof *derived);
        struct derived *column = &derived[derived_count++];
        column->metric = metric->name;
        column->values = wf_grow(column->values, &column->room, rows, sizeof *column->values);
        for (uint32_t row = 0; row < rows; row++)
            column->values[row] = NAN;
    }
    metric->derived_ = derived[number].values;
    metric->derived_of_ = wf_callback.batch;
    return metric->derived_;
}

void wf_derive(const wf_reading *reading, wf_metric *metric, double value)
{
    if (metric->derived_of_ != reading->batch_ && !column_for(metric))
        return;
    if (isinf(value))
        wf_fail("wf_derive: %s is infinite", metric->name);
    metric->derived_[reading->row] = value;
}

void wf_derive_column(const wf_batch *batch, wf_metric *metric, const double *values)
{
    double *column = column_for(metric);
    for (uint32_t row = 0; column && row < batch->rows; row++) {
        if (isinf(values[row]))
            wf_fail("wf_derive_column: %s is infinite in row %u", metric->name, (unsigned)row);
        column[row] = values[row];
    }
}

// ---------------------------------------------------------------- rows that are kept

static struct {
    uint8_t *mask;
    size_t rows, room;
    bool used;
} kept;

static void hand_over_kept(void)
{
    full_rule_list_u8_t mask = {kept.mask, kept.rows};
    if (kept.used)
        watchfire_rule_output_keep(&mask);
}

static void forget_kept(void)
{
    kept.used = false;
}

static wf_part kept_part = {.finish = hand_over_kept, .reset = forget_kept};

static uint8_t *mask_at_hand(void)
{
    if (wf_callback.batch == 0) {
        wf_fail("wf_drop: there is no batch");
        return NULL;
    }
    if (!kept.used) {
        wf_use(&kept_part);
        kept.rows = watchfire_rule_readings_rows();
        kept.mask = wf_grow(kept.mask, &kept.room, kept.rows, 1);
        memset(kept.mask, 1, kept.rows);
        kept.used = true;
    }
    return kept.mask;
}

void wf_drop(const wf_reading *reading)
{
    uint8_t *mask = mask_at_hand();
    if (mask)
        mask[reading->row] = 0;
}

void wf_keep(const wf_reading *reading)
{
    if (kept.used)
        kept.mask[reading->row] = 1;
}

void wf_keep_rows(const wf_batch *batch, const uint8_t *mask)
{
    uint8_t *own = mask_at_hand();
    for (uint32_t row = 0; own && row < batch->rows; row++)
        own[row] = mask[row] != 0;
}

// ---------------------------------------------------------------- new readings

static watchfire_rule_output_reading_t *emitted;
static size_t emitted_count, emitted_room;

static void hand_over_emitted(void)
{
    watchfire_rule_output_list_reading_t list = {emitted, emitted_count};
    if (emitted_count > 0)
        watchfire_rule_output_emit(&list);
}

static void forget_emitted(void)
{
    emitted_count = 0;
}

static wf_part emitted_part = {.finish = hand_over_emitted, .reset = forget_emitted};

// What the rule gave may be gone at the end of the callback.
static wf_string own(const char *what, const char *text)
{
    wf_string lent = wf_lend(what, text);
    lent.ptr = (uint8_t *)wf_arena_text(&wf_callback_arena, lent.len > 0 ? text : "");
    return lent;
}

void wf_emit_value(const char *device_name, const char *metric, wf_value value, wf_time time)
{
    wf_need_callback("wf_emit");
    wf_use(&emitted_part);
    watchfire_rule_output_reading_t reading = {
        .device = own("wf_emit: the name of the device", device_name),
        .time = time,
        .metric = own("wf_emit: the metric", metric),
    };
    switch (value.kind) {
    case WF_VALUE_NUMBER:
        reading.value.tag = WATCHFIRE_RULE_TYPES_VALUE_NUMBER;
        reading.value.val.number = value.as.number;
        if (!isfinite(value.as.number))
            wf_fail("wf_emit: %s is no finite number", metric ? metric : "");
        break;
    case WF_VALUE_TEXT:
        reading.value.tag = WATCHFIRE_RULE_TYPES_VALUE_TEXT;
        reading.value.val.text = own("wf_emit: the value", value.as.text);
        break;
    case WF_VALUE_FLAG:
        reading.value.tag = WATCHFIRE_RULE_TYPES_VALUE_BOOLEAN;
        reading.value.val.boolean = value.as.flag;
        break;
    default:
        wf_fail("wf_emit: %d is no kind of value", (int)value.kind);
    }
    emitted = wf_grow(emitted, &emitted_room, emitted_count + 1, sizeof *emitted);
    emitted[emitted_count++] = reading;
}
