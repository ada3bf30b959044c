// SPDX-License-Identifier: Apache-2.0
// The batch of readings: columns, each fetched at the first question, and the walk over its rows.
#include <stdlib.h>

#include "internal.h"

static struct {
    uint32_t batch; // whose devices and times are here
    watchfire_rule_readings_list_device_t devices;
    watchfire_rule_readings_list_timestamp_t times;
    bool has_times;
} rows;

// What was fetched for the callback at hand.
static void **columns;
static watchfire_rule_readings_text_column_t *texts;
static size_t column_count, column_room, text_count, text_room;

static void finish(void)
{
}

static void reset(void)
{
    for (size_t i = 0; i < column_count; i++)
        free(columns[i]);
    for (size_t i = 0; i < text_count; i++)
        watchfire_rule_readings_text_column_free(&texts[i]);
    column_count = text_count = 0;
    if (rows.batch != 0)
        watchfire_rule_readings_list_device_free(&rows.devices);
    if (rows.has_times)
        watchfire_rule_readings_list_timestamp_free(&rows.times);
    rows.batch = 0;
    rows.has_times = false;
}

static wf_part part = {.finish = finish, .reset = reset};

static void *keep(void *column, size_t length)
{
    wf_use(&part);
    if (length == 0)
        return column;
    columns = wf_grow(columns, &column_room, column_count + 1, sizeof *columns);
    columns[column_count++] = column;
    return column;
}

void wf_fetch_numbers_(wf_metric *metric)
{
    wf_string name = wf_lend("the name of a metric", metric->name);
    full_rule_list_f64_t list;
    watchfire_rule_readings_numbers(&name, &list);
    metric->numbers_ = keep(list.ptr, list.len);
    metric->numbers_of_ = wf_callback.batch;
}

void wf_fetch_flags_(wf_metric *metric)
{
    wf_string name = wf_lend("the name of a metric", metric->name);
    full_rule_list_u8_t list;
    watchfire_rule_readings_booleans(&name, &list);
    metric->flags_ = keep(list.ptr, list.len);
    metric->flags_of_ = wf_callback.batch;
}

void wf_fetch_texts_(wf_metric *metric)
{
    wf_use(&part);
    wf_string name = wf_lend("the name of a metric", metric->name);
    texts = wf_grow(texts, &text_room, text_count + 1, sizeof *texts);
    watchfire_rule_readings_text_column_t *column = &texts[text_count++];
    watchfire_rule_readings_texts(&name, column);
    size_t count = column->dictionary.len;
    const char **words = wf_arena_take(&wf_callback_arena, count * sizeof *words);
    for (size_t i = 0; i < count; i++)
        words[i] = wf_text_from_host(column->dictionary.ptr[i]);
    wf_texts *own = wf_arena_take(&wf_callback_arena, sizeof *own);
    *own = (wf_texts){words, count, column->codes.ptr};
    metric->texts_ = own;
    metric->texts_of_ = wf_callback.batch;
}

static void fetch_devices(void)
{
    if (rows.batch == wf_callback.batch)
        return;
    wf_use(&part);
    watchfire_rule_readings_devices(&rows.devices);
    rows.batch = wf_callback.batch;
    wf_set_group(rows.devices.ptr, rows.devices.len);
}

void wf_group_of_batch(void)
{
    if (wf_callback.batch != 0)
        fetch_devices();
}

const wf_device *wf_devices(const wf_batch *batch)
{
    (void)batch;
    fetch_devices();
    return rows.devices.ptr;
}

const wf_time *wf_times(const wf_batch *batch)
{
    (void)batch;
    if (!rows.has_times) {
        wf_use(&part);
        watchfire_rule_readings_times(&rows.times);
        rows.has_times = true;
    }
    return rows.times.ptr;
}

const char *wf_stream_name(void)
{
    wf_string name;
    wf_need_callback("wf_stream_name");
    watchfire_rule_readings_stream_name(&name);
    return name.len > 0 ? keep(name.ptr, name.len) : "";
}

// ---------------------------------------------------------------- row by row

static bool matches(const char *pattern, const char *name)
{
    size_t length = strlen(pattern);
    if (length > 0 && pattern[length - 1] == '*')
        return strncmp(pattern, name, length - 1) == 0;
    return strcmp(pattern, name) == 0;
}

// Each marks the rows that have a value, and says how many have no mark yet.
static uint32_t mark_numbers(uint8_t *mask, uint32_t count, const double *numbers)
{
    uint32_t left = 0;
    for (uint32_t row = 0; row < count; row++) {
        mask[row] |= numbers[row] == numbers[row];
        left += !mask[row];
    }
    return left;
}

static uint32_t mark_flags(uint8_t *mask, uint32_t count, const uint8_t *flags)
{
    uint32_t left = 0;
    for (uint32_t row = 0; row < count; row++) {
        mask[row] |= flags[row] <= 1;
        left += !mask[row];
    }
    return left;
}

static uint32_t mark_texts(uint8_t *mask, uint32_t count, const wf_texts *column)
{
    uint32_t left = 0;
    for (uint32_t row = 0; row < count; row++) {
        mask[row] |= column->codes[row] != WF_NO_TEXT;
        left += !mask[row];
    }
    return left;
}

struct search {
    const char *name;
    wf_metric *found;
};

static void compare(wf_metric *metric, void *context)
{
    struct search *search = context;
    if (!search->found && matches(metric->name, search->name))
        search->found = metric;
}

static void count_metric(wf_metric *metric, void *context)
{
    (void)metric;
    ++*(size_t *)context;
}

// Which rows have any of the metrics that the rule asked for; NULL: all.
static const uint8_t *wanted(uint32_t count)
{
    static uint8_t *mask;
    static size_t room;
    size_t metrics = 0;
    wf_each_metric(count_metric, &metrics);
    if (metrics == 0)
        return NULL;
    mask = wf_grow(mask, &room, count, 1);
    memset(mask, 0, count);
    watchfire_rule_readings_list_column_t list;
    watchfire_rule_readings_columns(&list);
    uint32_t left = count;
    for (size_t i = 0; i < list.len && left > 0; i++) {
        struct search search = {wf_text_from_host(list.ptr[i].metric), NULL};
        wf_each_metric(compare, &search);
        if (!search.found)
            continue;
        // A pattern has no column; the one that was named is fetched into the metric of the rule, for use.
        wf_metric of_pattern = {.name = search.name};
        wf_metric *metric = strcmp(search.found->name, search.name) == 0 ? search.found : &of_pattern;
        const wf_batch batch = {count, wf_callback.batch};
        switch (list.ptr[i].kind) {
        case WATCHFIRE_RULE_READINGS_KIND_NUMBER:
            left = mark_numbers(mask, count, wf_numbers(&batch, metric));
            break;
        case WATCHFIRE_RULE_READINGS_KIND_BOOLEAN:
            left = mark_flags(mask, count, wf_flags(&batch, metric));
            break;
        default:
            left = mark_texts(mask, count, wf_texts_of(&batch, metric));
        }
    }
    watchfire_rule_readings_list_column_free(&list);
    return left == 0 ? NULL : mask;
}

wf_status wf_each_reading(void)
{
    uint32_t count = watchfire_rule_readings_rows();
    const wf_batch batch = {count, wf_callback.batch};
    const wf_device *devices = wf_devices(&batch);
    const wf_time *times = wf_times(&batch);
    const uint8_t *mask = wanted(count);
    wf_status (*on_reading)(wf_device, const wf_reading *, void *) = wf_rule_at_work->on_reading;
    wf_status status = WF_OK;
    for (uint32_t row = 0; row < count && status == WF_OK; row++) {
        if (mask && !mask[row])
            continue;
        const wf_reading reading = {devices[row], row, times[row], wf_callback.batch};
        wf_callback.row = row;
        status = on_reading(devices[row], &reading, wf_main_state(devices[row]));
        // What was given to the SDK was no good: later rows would build upon it.
        if (wf_callback.failed)
            status = WF_FAILED;
    }
    wf_callback.row = -1;
    return status;
}
