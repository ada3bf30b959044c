// SPDX-License-Identifier: Apache-2.0
// Between the rule and the contract: what the module exports, and what stands around each callback.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

struct wf_callback wf_callback = {.row = -1};

// The rule of this instance, as `start` left it; made anew after a callback that failed.
static wf_rule rule;
static bool made;
const wf_rule *wf_rule_at_work = &rule;

static char failure[1001];

static wf_metric **subscribed;
static size_t subscribed_count, subscribed_room;

static wf_part *parts;
static uint32_t batches, groups;

// ---------------------------------------------------------------- what parts of the SDK ask for

void wf_use(wf_part *part)
{
    if (part->listed)
        return;
    part->listed = true;
    part->next = parts;
    parts = part;
}

void wf_set_group(const wf_device *devices, size_t count)
{
    wf_callback.group = devices;
    wf_callback.group_count = count;
    wf_callback.group_number = ++groups;
}

void wf_need_callback(const char *function)
{
    if (!wf_callback.running)
        wf_panic("%s: there is no callback, the host cannot be asked", function);
}

wf_status wf_fail(const char *format, ...)
{
    if (wf_callback.failed)
        return WF_FAILED;
    wf_callback.failed = true;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure, sizeof failure, format, arguments);
    va_end(arguments);
    wf_make_utf8(failure);
    return WF_FAILED;
}

wf_time wf_now(void)
{
    wf_need_callback("wf_now");
    if (!wf_callback.now_known) {
        wf_callback.now = watchfire_rule_clock_now();
        wf_callback.now_known = true;
    }
    return wf_callback.now;
}

void wf_subscribe(wf_metric *metric)
{
    if (!wf_callback.in_start)
        wf_panic("wf_subscribe is for start");
    subscribed = wf_grow(subscribed, &subscribed_room, subscribed_count + 1, sizeof *subscribed);
    subscribed[subscribed_count++] = metric;
}

void wf_each_metric(void (*visit)(wf_metric *metric, void *context), void *context)
{
    for (size_t i = 0; i < WF_METRICS && rule.metrics[i]; i++)
        visit(rule.metrics[i], context);
    for (size_t i = 0; i < subscribed_count; i++)
        visit(subscribed[i], context);
}

// ---------------------------------------------------------------- around a callback

// Gives the text of the failure to the host, which frees it.
static bool tell(full_rule_string_t *error)
{
    full_rule_string_dup(error, wf_callback.failed ? failure : "the callback failed, and did not say why");
    return false;
}

static void check_rule(void)
{
    size_t schedules = 0;
    while (schedules < WF_SCHEDULES && rule.schedules[schedules].name)
        schedules++;
    if (!rule.on_reading == !rule.on_batch)
        wf_fail("a rule has either on_reading or on_batch");
    else if (rule.silence != 0 && !rule.on_silence)
        wf_fail("the rule asks for silence and has no on_silence");
    else if (rule.silence < 0 && rule.silence != WF_SILENCE_REGISTRY)
        wf_fail("silence after %lld microseconds", (long long)rule.silence);
    else if (schedules > 0 && !rule.on_schedule)
        wf_fail("the rule has schedules and no on_schedule");
    else if (rule.state && rule.state_version == 0)
        wf_fail("the rule has state and no state_version");
}

// Makes the rule from its parameters.
static bool make(void)
{
    rule = watchfire_rule;
    subscribed_count = 0;
    wf_callback.failed = false;
    wf_callback.in_start = true;
    if (rule.parameters.functions_)
        rule.parameters.functions_->read(&rule.parameters);
    wf_status status = WF_OK;
    if (!wf_callback.failed && rule.start)
        status = rule.start(&rule);
    if (status == WF_OK && !wf_callback.failed)
        check_rule();
    wf_callback.in_start = false;
    wf_arena_reset(&wf_callback_arena);
    made = status == WF_OK && !wf_callback.failed;
    wf_main_slot.layout = rule.state;
    return made;
}

static bool begin(void)
{
    if (!made && !make())
        return false;
    wf_callback.running = true;
    wf_callback.failed = false;
    wf_callback.now_known = false;
    wf_callback.row = -1;
    wf_callback.batch = 0;
    wf_set_group(NULL, 0);
    return true;
}

static bool end(wf_status status, full_rule_string_t *error)
{
    // What is handed over is checked as well, and may be found no good.
    for (wf_part *part = parts; part && status == WF_OK && !wf_callback.failed; part = part->next)
        part->finish();
    bool good = status == WF_OK && !wf_callback.failed;
    for (wf_part *part = parts; part; part = part->next)
        part->reset();
    wf_arena_reset(&wf_callback_arena);
    wf_callback.running = false;
    wf_callback.batch = 0;
    wf_set_group(NULL, 0);
    if (good)
        return true;
    if (wf_drop_states)
        wf_drop_states();
    made = false;
    return tell(error);
}

// ---------------------------------------------------------------- what the module exports

void exports_watchfire_rule_handler_describe(exports_watchfire_rule_handler_manifest_t *manifest)
{
    memset(manifest, 0, sizeof *manifest);
    full_rule_string_dup(&manifest->name, watchfire_rule.name ? watchfire_rule.name : "");
    full_rule_string_dup(&manifest->version, watchfire_rule.version ? watchfire_rule.version : "");
    full_rule_string_dup(&manifest->description, watchfire_rule.description ? watchfire_rule.description : "");
    char *made_of_table = NULL;
    const char *schema = watchfire_rule.schema;
    if (!schema && watchfire_rule.parameters.functions_)
        schema = made_of_table = watchfire_rule.parameters.functions_->schema(&watchfire_rule.parameters);
    full_rule_string_dup(&manifest->parameters, schema ? schema : "");
    free(made_of_table);
    manifest->state_version = watchfire_rule.state_version;
}

static void copy_metric(wf_metric *metric, void *context)
{
    exports_watchfire_rule_handler_subscription_t *to = context;
    full_rule_string_dup(&to->metrics.ptr[to->metrics.len++], metric->name ? metric->name : "");
}

static void count_metric(wf_metric *metric, void *context)
{
    if (!metric->name || !wf_is_utf8(metric->name))
        wf_fail("a metric of the rule has no name, or one that is not UTF-8");
    ++*(size_t *)context;
}

bool exports_watchfire_rule_handler_start(exports_watchfire_rule_handler_subscription_t *subscription,
                                          full_rule_string_t *error)
{
    if (!make())
        return tell(error);
    memset(subscription, 0, sizeof *subscription);
    size_t metrics = 0;
    wf_each_metric(count_metric, &metrics);
    if (wf_callback.failed)
        return tell(error);
    if (metrics > 0)
        subscription->metrics.ptr = wf_allocate(metrics * sizeof *subscription->metrics.ptr);
    wf_each_metric(copy_metric, subscription);
    subscription->silence.tag = EXPORTS_WATCHFIRE_RULE_HANDLER_SILENCE_OFF;
    if (rule.silence == WF_SILENCE_REGISTRY)
        subscription->silence.tag = EXPORTS_WATCHFIRE_RULE_HANDLER_SILENCE_REGISTRY;
    if (rule.silence > 0) {
        subscription->silence.tag = EXPORTS_WATCHFIRE_RULE_HANDLER_SILENCE_AFTER;
        subscription->silence.val.after = (uint64_t)rule.silence;
    }
    size_t schedules = 0;
    while (schedules < WF_SCHEDULES && rule.schedules[schedules].name)
        schedules++;
    if (schedules > 0)
        subscription->schedules.ptr = wf_allocate(schedules * sizeof *subscription->schedules.ptr);
    subscription->schedules.len = schedules;
    for (size_t i = 0; i < schedules; i++) {
        exports_watchfire_rule_handler_schedule_t *to = &subscription->schedules.ptr[i];
        full_rule_string_dup(&to->name, rule.schedules[i].name);
        full_rule_string_dup(&to->cron, rule.schedules[i].cron ? rule.schedules[i].cron : "");
        if (rule.schedules[i].zone) {
            to->zone.is_some = true;
            full_rule_string_dup(&to->zone.val, rule.schedules[i].zone);
        }
    }
    return true;
}

bool exports_watchfire_rule_handler_on_batch(full_rule_string_t *error)
{
    if (!begin())
        return tell(error);
    if (++batches == 0)
        batches = 1;
    wf_callback.batch = batches;
    if (rule.on_reading)
        return end(wf_each_reading(), error);
    const wf_batch batch = {watchfire_rule_readings_rows(), wf_callback.batch};
    return end(rule.on_batch(&batch), error);
}

bool exports_watchfire_rule_timer_handler_on_timers(exports_watchfire_rule_timer_handler_list_timer_t *due,
                                                    full_rule_string_t *error)
{
    if (!begin()) {
        exports_watchfire_rule_timer_handler_list_timer_free(due);
        return tell(error);
    }
    wf_device *devices = wf_arena_take(&wf_callback_arena, due->len * sizeof *devices);
    for (size_t i = 0; i < due->len; i++)
        devices[i] = due->ptr[i].device;
    wf_set_group(devices, due->len);
    wf_status status = WF_OK;
    for (size_t i = 0; rule.on_timer && i < due->len && status == WF_OK && !wf_callback.failed; i++)
        status = rule.on_timer(devices[i], due->ptr[i].tag, due->ptr[i].at, wf_main_state(devices[i]));
    exports_watchfire_rule_timer_handler_list_timer_free(due);
    return end(status, error);
}

bool exports_watchfire_rule_silence_handler_on_silence(
    exports_watchfire_rule_silence_handler_list_silent_device_t *silent, full_rule_string_t *error)
{
    if (!begin()) {
        exports_watchfire_rule_silence_handler_list_silent_device_free(silent);
        return tell(error);
    }
    wf_device *devices = wf_arena_take(&wf_callback_arena, silent->len * sizeof *devices);
    for (size_t i = 0; i < silent->len; i++)
        devices[i] = silent->ptr[i].device;
    wf_set_group(devices, silent->len);
    wf_status status = WF_OK;
    for (size_t i = 0; rule.on_silence && i < silent->len && status == WF_OK && !wf_callback.failed; i++) {
        const wf_time *last = silent->ptr[i].last.is_some ? &silent->ptr[i].last.val : NULL;
        status = rule.on_silence(devices[i], last, wf_main_state(devices[i]));
    }
    exports_watchfire_rule_silence_handler_list_silent_device_free(silent);
    return end(status, error);
}

bool exports_watchfire_rule_schedule_handler_on_schedule(full_rule_string_t *name, int64_t at,
                                                         full_rule_string_t *error)
{
    if (!begin()) {
        full_rule_string_free(name);
        return tell(error);
    }
    wf_status status = rule.on_schedule ? rule.on_schedule(wf_text_from_host(*name), at) : WF_OK;
    full_rule_string_free(name);
    return end(status, error);
}

bool exports_watchfire_rule_state_migration_migrate(uint32_t old_version, uint32_t slot,
                                                    exports_watchfire_rule_state_migration_blobs_t *states,
                                                    exports_watchfire_rule_state_migration_blobs_t *migrated,
                                                    full_rule_string_t *error)
{
    wf_callback.failed = false;
    if (!watchfire_rule.migrate) {
        watchfire_rule_types_blobs_free(states);
        wf_fail("state of version %u cannot be taken over", (unsigned)old_version);
        return tell(error);
    }
    memset(migrated, 0, sizeof *migrated);
    size_t count = states->lengths.len, room = 0;
    if (count > 0)
        migrated->lengths.ptr = wf_allocate(count * sizeof *migrated->lengths.ptr);
    migrated->lengths.len = count;
    struct wf_bytes_ answer = {0};
    const uint8_t *bytes = states->data.ptr;
    wf_status status = WF_OK;
    for (size_t i = 0; i < count && status == WF_OK && !wf_callback.failed; i++) {
        wf_migration migration = {old_version, slot, bytes, states->lengths.ptr[i], &answer};
        answer.count = 0;
        if (migration.length > 0)
            status = watchfire_rule.migrate(&migration);
        bytes += migration.length;
        migrated->lengths.ptr[i] = (uint32_t)answer.count;
        migrated->data.ptr = wf_grow(migrated->data.ptr, &room, migrated->data.len + answer.count, 1);
        if (answer.count > 0)
            memcpy(migrated->data.ptr + migrated->data.len, answer.bytes, answer.count);
        migrated->data.len += answer.count;
    }
    free(answer.bytes);
    watchfire_rule_types_blobs_free(states);
    if (status == WF_OK && !wf_callback.failed)
        return true;
    free(migrated->lengths.ptr);
    free(migrated->data.ptr);
    return tell(error);
}
