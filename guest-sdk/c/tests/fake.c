// SPDX-License-Identifier: Apache-2.0
#include "fake.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "../bindings/full_rule.h"

typedef full_rule_string_t text;

struct fake fake;
wf_rule fake_rule;

wf_status fake_take_rule(wf_rule *rule)
{
    wf_parameters parameters = rule->parameters;
    *rule = fake_rule;
    rule->parameters = parameters;
    rule->state_version = watchfire_rule.state_version;
    return fake_rule.start ? fake_rule.start(rule) : WF_OK;
}

// ---------------------------------------------------------------- memory and notes

static char done[8192];
static size_t done_length;

static void note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    done_length += (size_t)vsnprintf(done + done_length, sizeof done - done_length, format, arguments);
    va_end(arguments);
    if (done_length >= sizeof done)
        abort();
}

char *fake_done(void)
{
    static char copy[sizeof done];
    strcpy(copy, done);
    done_length = 0;
    done[0] = 0;
    return copy;
}

// As the host's: with a zero byte behind.
static text give(const char *from)
{
    text to = {NULL, strlen(from)};
    to.ptr = calloc(1, to.len + 1);
    memcpy(to.ptr, from, to.len);
    return to;
}

static const char *show(text from)
{
    static char shown[4][256];
    static int turn;
    char *to = shown[turn++ % 4];
    snprintf(to, sizeof shown[0], "%.*s", (int)from.len, (const char *)from.ptr);
    return to;
}

void full_rule_string_dup(text *to, const char *from)
{
    *to = give(from);
}

void full_rule_string_free(text *t)
{
    free(t->ptr);
    *t = (text){0};
}

// ---------------------------------------------------------------- readings

static const fake_column *column_of(text *metric)
{
    fake.calls++;
    for (int i = 0; i < 4; i++)
        if (fake.columns[i].metric && strcmp(fake.columns[i].metric, show(*metric)) == 0)
            return &fake.columns[i];
    return NULL;
}

void watchfire_rule_readings_stream_name(text *name)
{
    *name = give("readings");
}

uint32_t watchfire_rule_readings_rows(void)
{
    fake.calls++;
    return fake.rows;
}

void watchfire_rule_readings_columns(watchfire_rule_readings_list_column_t *list)
{
    fake.calls++;
    list->ptr = calloc(4, sizeof *list->ptr);
    list->len = 0;
    for (int i = 0; i < 4 && fake.columns[i].metric; i++) {
        list->ptr[i].metric = give(fake.columns[i].metric);
        list->ptr[i].kind = fake.columns[i].texts[0]   ? WATCHFIRE_RULE_READINGS_KIND_TEXT
                            : fake.columns[i].is_flags ? WATCHFIRE_RULE_READINGS_KIND_BOOLEAN
                                                       : WATCHFIRE_RULE_READINGS_KIND_NUMBER;
        list->len++;
    }
}

void watchfire_rule_readings_devices(watchfire_rule_readings_list_device_t *list)
{
    fake.calls++;
    list->ptr = malloc(sizeof fake.devices);
    list->len = fake.rows;
    memcpy(list->ptr, fake.devices, sizeof fake.devices);
}

void watchfire_rule_readings_times(watchfire_rule_readings_list_timestamp_t *list)
{
    fake.calls++;
    list->ptr = malloc(sizeof fake.times);
    list->len = fake.rows;
    memcpy(list->ptr, fake.times, sizeof fake.times);
}

void watchfire_rule_readings_numbers(text *metric, full_rule_list_f64_t *list)
{
    const fake_column *column = column_of(metric);
    bool none = !column || column->is_flags || column->texts[0];
    list->ptr = malloc(4 * sizeof *list->ptr);
    list->len = fake.rows;
    for (int i = 0; i < 4; i++)
        list->ptr[i] = none ? NAN : column->numbers[i];
}

void watchfire_rule_readings_booleans(text *metric, full_rule_list_u8_t *list)
{
    const fake_column *column = column_of(metric);
    list->ptr = malloc(4);
    list->len = fake.rows;
    for (int i = 0; i < 4; i++)
        list->ptr[i] = column && column->is_flags ? (uint8_t)column->flags[i] : 255;
}

void watchfire_rule_readings_texts(text *metric, watchfire_rule_readings_text_column_t *to)
{
    const fake_column *column = column_of(metric);
    *to = (watchfire_rule_readings_text_column_t){0};
    to->codes.ptr = malloc(4 * sizeof *to->codes.ptr);
    to->codes.len = fake.rows;
    to->dictionary.ptr = calloc(4, sizeof *to->dictionary.ptr);
    for (int i = 0; i < 4; i++) {
        to->codes.ptr[i] = UINT32_MAX;
        if (!column || !column->texts[0] || !column->texts[i] || !*column->texts[i])
            continue;
        to->dictionary.ptr[to->dictionary.len] = give(column->texts[i]);
        to->codes.ptr[i] = (uint32_t)to->dictionary.len++;
    }
}

void watchfire_rule_readings_text_column_free(watchfire_rule_readings_text_column_t *column)
{
    for (size_t i = 0; i < column->dictionary.len; i++)
        free(column->dictionary.ptr[i].ptr);
    free(column->dictionary.ptr);
    free(column->codes.ptr);
}

void watchfire_rule_readings_list_column_free(watchfire_rule_readings_list_column_t *list)
{
    for (size_t i = 0; i < list->len; i++)
        free(list->ptr[i].metric.ptr);
    free(list->ptr);
}

void watchfire_rule_readings_list_device_free(watchfire_rule_readings_list_device_t *list)
{
    free(list->ptr);
}

void watchfire_rule_readings_list_timestamp_free(watchfire_rule_readings_list_timestamp_t *list)
{
    free(list->ptr);
}

// ---------------------------------------------------------------- clock, configuration, log

int64_t watchfire_rule_clock_now(void)
{
    fake.calls++;
    return fake.now;
}

void watchfire_rule_config_json(text *json)
{
    *json = give(fake.config);
}

void watchfire_rule_log_write(watchfire_rule_log_level_t level, text *message)
{
    note("log %d %s\n", (int)level, show(*message));
}

// ---------------------------------------------------------------- devices

void watchfire_rule_devices_name(uint32_t device, text *name)
{
    char own[32];
    fake.calls++;
    snprintf(own, sizeof own, "device-%u", (unsigned)device);
    *name = give(own);
}

void watchfire_rule_devices_attribute(text *name, watchfire_rule_devices_list_device_t *devices,
                                      watchfire_rule_devices_list_option_value_t *values)
{
    fake.calls++;
    values->ptr = calloc(devices->len + 1, sizeof *values->ptr);
    values->len = devices->len;
    // Devices with an even handle have it.
    for (size_t i = 0; i < devices->len; i++) {
        char own[64];
        if (devices->ptr[i] % 2 != 0)
            continue;
        snprintf(own, sizeof own, "%s-of-%u-at-%u", show(*name), (unsigned)devices->ptr[i], (unsigned)fake.version);
        values->ptr[i].is_some = true;
        values->ptr[i].val.tag = WATCHFIRE_RULE_TYPES_VALUE_TEXT;
        values->ptr[i].val.val.text = give(own);
    }
}

void watchfire_rule_devices_list_option_value_free(watchfire_rule_devices_list_option_value_t *values)
{
    for (size_t i = 0; i < values->len; i++)
        if (values->ptr[i].is_some)
            free(values->ptr[i].val.val.text.ptr);
    free(values->ptr);
}

bool watchfire_rule_devices_find(text *name, uint32_t *device)
{
    unsigned handle;
    fake.calls++;
    if (sscanf(show(*name), "device-%u", &handle) != 1)
        return false;
    *device = handle;
    return true;
}

void watchfire_rule_devices_selected(uint32_t *after, uint32_t limit, watchfire_rule_devices_list_device_t *page)
{
    fake.calls++;
    page->ptr = malloc((limit + 1) * sizeof *page->ptr);
    page->len = 0;
    for (uint32_t device = after ? *after + 1 : 0; device < fake.selected && page->len < limit; device++)
        page->ptr[page->len++] = device;
}

void watchfire_rule_devices_list_device_free(watchfire_rule_devices_list_device_t *list)
{
    free(list->ptr);
}

uint64_t watchfire_rule_devices_version(void)
{
    fake.calls++;
    return fake.version;
}

// ---------------------------------------------------------------- effects

static void note_value(watchfire_rule_types_value_t value)
{
    if (value.tag == WATCHFIRE_RULE_TYPES_VALUE_NUMBER)
        note("%g", value.val.number);
    else if (value.tag == WATCHFIRE_RULE_TYPES_VALUE_TEXT)
        note("'%s'", show(value.val.text));
    else
        note(value.val.boolean ? "true" : "false");
}

void watchfire_rule_alerts_trigger(watchfire_rule_alerts_alert_t *alert)
{
    fake.calls++;
    note("trigger %u %s %d '%s'", (unsigned)alert->device, show(alert->key), (int)alert->severity,
         show(alert->summary));
    if (alert->row.is_some)
        note(" row %u", (unsigned)alert->row.val);
    for (size_t i = 0; i < alert->details.len; i++) {
        note(" %s=", show(alert->details.ptr[i].name));
        note_value(alert->details.ptr[i].value);
    }
    note("\n");
}

void watchfire_rule_alerts_clear(uint32_t device, text *key, uint32_t *row)
{
    fake.calls++;
    note("clear %u %s", (unsigned)device, show(*key));
    note(row ? " row %u\n" : "\n", row ? (unsigned)*row : 0);
}

void watchfire_rule_output_keep(full_rule_list_u8_t *mask)
{
    fake.calls++;
    note("keep");
    for (size_t i = 0; i < mask->len; i++)
        note(" %d", mask->ptr[i]);
    note("\n");
}

void watchfire_rule_output_derive(text *metric, full_rule_list_f64_t *values)
{
    fake.calls++;
    note("derive %s", show(*metric));
    for (size_t i = 0; i < values->len; i++)
        isnan(values->ptr[i]) ? note(" -") : note(" %g", values->ptr[i]);
    note("\n");
}

void watchfire_rule_output_emit(watchfire_rule_output_list_reading_t *list)
{
    fake.calls++;
    for (size_t i = 0; i < list->len; i++) {
        note("emit %s %s=", show(list->ptr[i].device), show(list->ptr[i].metric));
        note_value(list->ptr[i].value);
        note(" at %lld\n", (long long)list->ptr[i].time);
    }
}

static void note_timers(const char *what, watchfire_rule_timers_list_timer_t *list)
{
    fake.calls++;
    note("%s", what);
    for (size_t i = 0; i < list->len; i++)
        note(" %u/%u@%lld", (unsigned)list->ptr[i].device, (unsigned)list->ptr[i].tag, (long long)list->ptr[i].at);
    note("\n");
}

void watchfire_rule_timers_set(watchfire_rule_timers_list_timer_t *list)
{
    note_timers("set", list);
}

void watchfire_rule_timers_cancel(watchfire_rule_timers_list_timer_t *list)
{
    note_timers("cancel", list);
}

// ---------------------------------------------------------------- state

static struct {
    uint32_t slot, device;
    uint8_t bytes[128];
    uint32_t length;
} blobs[512];
static size_t blob_count;

static size_t blob_of(uint32_t slot, uint32_t device)
{
    for (size_t i = 0; i < blob_count; i++)
        if (blobs[i].slot == slot && blobs[i].device == device)
            return i;
    if (blob_count == sizeof blobs / sizeof *blobs)
        abort();
    blobs[blob_count].slot = slot;
    blobs[blob_count].device = device;
    blobs[blob_count].length = 0;
    return blob_count++;
}

void watchfire_rule_state_load(uint32_t slot, watchfire_rule_state_list_device_t *devices,
                               watchfire_rule_state_blobs_t *to)
{
    fake.calls++;
    note("load %u:", (unsigned)slot);
    to->lengths.ptr = malloc(devices->len * sizeof *to->lengths.ptr);
    to->lengths.len = devices->len;
    to->data.ptr = malloc(devices->len * sizeof blobs[0].bytes);
    to->data.len = 0;
    for (size_t i = 0; i < devices->len; i++) {
        size_t own = blob_of(slot, devices->ptr[i]);
        to->lengths.ptr[i] = blobs[own].length;
        memcpy(to->data.ptr + to->data.len, blobs[own].bytes, blobs[own].length);
        to->data.len += blobs[own].length;
        note(" %u", (unsigned)devices->ptr[i]);
    }
    note("\n");
}

void watchfire_rule_state_store(uint32_t slot, watchfire_rule_state_list_device_t *devices,
                                watchfire_rule_state_blobs_t *states)
{
    size_t at = 0;
    fake.calls++;
    note("store %u:", (unsigned)slot);
    for (size_t i = 0; i < devices->len; i++) {
        size_t own = blob_of(slot, devices->ptr[i]);
        blobs[own].length = states->lengths.ptr[i];
        memcpy(blobs[own].bytes, states->data.ptr + at, blobs[own].length);
        at += blobs[own].length;
        note(" %u", (unsigned)devices->ptr[i]);
    }
    note("\n");
}

void watchfire_rule_types_blobs_free(watchfire_rule_types_blobs_t *list)
{
    free(list->lengths.ptr);
    free(list->data.ptr);
}

static const char *hex_of(const uint8_t *bytes, size_t length)
{
    static char hex[300];
    hex[0] = 0;
    for (size_t i = 0; i < length; i++)
        sprintf(hex + 2 * i, "%02x", bytes[i]);
    return hex;
}

static size_t from_hex(const char *hex, uint8_t *bytes)
{
    size_t length = strlen(hex) / 2;
    for (size_t i = 0; i < length; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        bytes[i] = (uint8_t)byte;
    }
    return length;
}

const char *fake_state(uint32_t slot, wf_device device)
{
    size_t own = blob_of(slot, device);
    return hex_of(blobs[own].bytes, blobs[own].length);
}

void fake_put_state(uint32_t slot, wf_device device, const char *hex)
{
    size_t own = blob_of(slot, device);
    blobs[own].length = (uint32_t)from_hex(hex, blobs[own].bytes);
}

// ---------------------------------------------------------------- callbacks

static char failure[1100];

static const char *told(bool good, text *error)
{
    if (good)
        return NULL;
    snprintf(failure, sizeof failure, "%.*s", (int)error->len, (const char *)error->ptr);
    full_rule_string_free(error);
    return failure;
}

const char *fake_start(void)
{
    text error = {0};
    exports_watchfire_rule_handler_subscription_t to;
    if (!exports_watchfire_rule_handler_start(&to, &error))
        return told(false, &error);
    note("subscribe");
    for (size_t i = 0; i < to.metrics.len; i++) {
        note(" %s", show(to.metrics.ptr[i]));
        free(to.metrics.ptr[i].ptr);
    }
    if (to.silence.tag == EXPORTS_WATCHFIRE_RULE_HANDLER_SILENCE_REGISTRY)
        note(" silence registry");
    if (to.silence.tag == EXPORTS_WATCHFIRE_RULE_HANDLER_SILENCE_AFTER)
        note(" silence %llu", (unsigned long long)to.silence.val.after);
    for (size_t i = 0; i < to.schedules.len; i++) {
        note(" %s (%s) %s", show(to.schedules.ptr[i].name), show(to.schedules.ptr[i].cron),
             to.schedules.ptr[i].zone.is_some ? show(to.schedules.ptr[i].zone.val) : "-");
        free(to.schedules.ptr[i].name.ptr);
        free(to.schedules.ptr[i].cron.ptr);
        if (to.schedules.ptr[i].zone.is_some)
            free(to.schedules.ptr[i].zone.val.ptr);
    }
    free(to.schedules.ptr);
    free(to.metrics.ptr);
    note("\n");
    return NULL;
}

const char *fake_batch(void)
{
    text error = {0};
    return told(exports_watchfire_rule_handler_on_batch(&error), &error);
}

const char *fake_timer(wf_device device, uint32_t tag, wf_time at)
{
    text error = {0};
    exports_watchfire_rule_timer_handler_list_timer_t due = {malloc(sizeof *due.ptr), 1};
    *due.ptr = (watchfire_rule_timers_timer_t){device, tag, at};
    return told(exports_watchfire_rule_timer_handler_on_timers(&due, &error), &error);
}

void exports_watchfire_rule_timer_handler_list_timer_free(exports_watchfire_rule_timer_handler_list_timer_t *list)
{
    free(list->ptr);
}

const char *fake_silence(wf_device device, const wf_time *last)
{
    text error = {0};
    exports_watchfire_rule_silence_handler_list_silent_device_t silent = {calloc(1, sizeof *silent.ptr), 1};
    silent.ptr->device = device;
    silent.ptr->last.is_some = last != NULL;
    if (last)
        silent.ptr->last.val = *last;
    return told(exports_watchfire_rule_silence_handler_on_silence(&silent, &error), &error);
}

void exports_watchfire_rule_silence_handler_list_silent_device_free(
    exports_watchfire_rule_silence_handler_list_silent_device_t *list)
{
    free(list->ptr);
}

const char *fake_schedule(const char *name, wf_time at)
{
    text error = {0}, own = give(name);
    return told(exports_watchfire_rule_schedule_handler_on_schedule(&own, at, &error), &error);
}

const char *fake_schema(void)
{
    static char schema[4096];
    exports_watchfire_rule_handler_manifest_t manifest;
    exports_watchfire_rule_handler_describe(&manifest);
    snprintf(schema, sizeof schema, "%.*s", (int)manifest.parameters.len, (const char *)manifest.parameters.ptr);
    full_rule_string_free(&manifest.name);
    full_rule_string_free(&manifest.version);
    full_rule_string_free(&manifest.description);
    full_rule_string_free(&manifest.parameters);
    return schema;
}

const char *fake_migrate(uint32_t old_version, uint32_t slot, const char *hex, char *migrated)
{
    text error = {0};
    exports_watchfire_rule_state_migration_blobs_t from, to;
    from.lengths.ptr = malloc(sizeof *from.lengths.ptr);
    from.lengths.len = 1;
    from.data.ptr = malloc(128);
    from.data.len = from_hex(hex, from.data.ptr);
    from.lengths.ptr[0] = (uint32_t)from.data.len;
    if (!exports_watchfire_rule_state_migration_migrate(old_version, slot, &from, &to, &error))
        return told(false, &error);
    strcpy(migrated, hex_of(to.data.ptr, to.data.len));
    free(to.lengths.ptr);
    free(to.data.ptr);
    return NULL;
}
