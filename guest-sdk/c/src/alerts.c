// SPDX-License-Identifier: Apache-2.0
// Triggers and clears: handed over at once, as they are rare.
#include "internal.h"

static watchfire_rule_types_value_t lend_value(const char *what, wf_value value)
{
    watchfire_rule_types_value_t lent = {.tag = WATCHFIRE_RULE_TYPES_VALUE_NUMBER};
    switch (value.kind) {
    case WF_VALUE_NUMBER:
        lent.val.number = value.as.number;
        break;
    case WF_VALUE_TEXT:
        lent.tag = WATCHFIRE_RULE_TYPES_VALUE_TEXT;
        lent.val.text = wf_lend(what, value.as.text);
        break;
    case WF_VALUE_FLAG:
        lent.tag = WATCHFIRE_RULE_TYPES_VALUE_BOOLEAN;
        lent.val.boolean = value.as.flag;
        break;
    default:
        wf_fail("%s: %d is no kind of value", what, (int)value.kind);
    }
    return lent;
}

static void trigger(wf_device device, int64_t row, const char *key, wf_severity severity, const char *summary,
                    const wf_detail *details, size_t count)
{
    wf_need_callback("wf_trigger");
    if ((unsigned)severity > WF_CRITICAL)
        wf_fail("wf_trigger: %d is no severity", (int)severity);
    watchfire_rule_types_detail_t *lent = wf_arena_take(&wf_callback_arena, count * sizeof *lent);
    for (size_t i = 0; i < count; i++) {
        lent[i].name = wf_lend("wf_trigger: the name of a detail", details[i].name);
        lent[i].value = lend_value("wf_trigger: a detail", details[i].value);
    }
    watchfire_rule_alerts_alert_t alert = {
        .device = device,
        .key = wf_lend("wf_trigger: the key", key),
        .severity = (watchfire_rule_alerts_severity_t)severity,
        .summary = wf_lend("wf_trigger: the summary", summary),
        .details = {lent, count},
        .row = {row >= 0, row >= 0 ? (uint32_t)row : 0},
    };
    if (!wf_callback.failed)
        watchfire_rule_alerts_trigger(&alert);
}

static void clear(wf_device device, int64_t row, const char *key)
{
    wf_need_callback("wf_clear");
    wf_string lent = wf_lend("wf_clear: the key", key);
    uint32_t number = (uint32_t)row;
    if (!wf_callback.failed)
        watchfire_rule_alerts_clear(device, &lent, row >= 0 ? &number : NULL);
}

static bool is_row(const char *function, const wf_batch *batch, uint32_t row)
{
    if (row < batch->rows)
        return true;
    wf_fail("%s: row %u of %u", function, (unsigned)row, (unsigned)batch->rows);
    return false;
}

void wf_trigger_details(wf_device device, const char *key, wf_severity severity, const char *summary,
                        const wf_detail *details, size_t count)
{
    trigger(device, wf_callback.row, key, severity, summary, details, count);
}

void wf_trigger_row_details(const wf_batch *batch, uint32_t row, const char *key, wf_severity severity,
                            const char *summary, const wf_detail *details, size_t count)
{
    if (is_row("wf_trigger_row", batch, row))
        trigger(wf_devices(batch)[row], row, key, severity, summary, details, count);
}

void wf_clear(wf_device device, const char *key)
{
    clear(device, wf_callback.row, key);
}

void wf_clear_row(const wf_batch *batch, uint32_t row, const char *key)
{
    if (is_row("wf_clear_row", batch, row))
        clear(wf_devices(batch)[row], row, key);
}
