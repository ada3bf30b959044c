// SPDX-License-Identifier: Apache-2.0
// Rules of Watchfire in C. README.md has a whole rule; this file says what there is.
//
// What ends in an underscore is the SDK's own. Texts are UTF-8 and end with a zero byte. A text or column that the
// SDK gives lives until the callback returns, those of the parameters as long as the rule. Times and spans are
// microseconds, times since 1970.
#ifndef WATCHFIRE_RULE_H
#define WATCHFIRE_RULE_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define WF_PRINTF_(text, first) __attribute__((format(printf, text, first)))
#else
#define WF_PRINTF_(text, first)
#endif

// ---------------------------------------------------------------- plain things

// A device of this partition: a small number, good for indexing arrays. It means nothing elsewhere: none goes into state.
typedef uint32_t wf_device;

// Microseconds since 1970, or a span of microseconds.
typedef int64_t wf_time;

#define WF_MILLISECOND INT64_C(1000)
#define WF_SECOND INT64_C(1000000)
#define WF_MINUTE INT64_C(60000000)
#define WF_HOUR INT64_C(3600000000)

// What a callback answers. After a failure its effects are dropped and the rule is made anew (`start` runs again).
typedef enum { WF_OK, WF_FAILED } wf_status;

typedef enum { WF_INFO, WF_WARNING, WF_MINOR, WF_MAJOR, WF_CRITICAL } wf_severity;

// A flag of a reading. Compare it: WF_NONE is not false.
typedef enum { WF_FALSE = 0, WF_TRUE = 1, WF_NONE = 255 } wf_truth;

// ---------------------------------------------------------------- metrics, readings, batches

struct wf_texts;

// A metric that the rule reads or derives, as a variable: `static wf_metric pressure = {.name = "pressure"};`.
// It remembers its column of the batch, so that asking for it costs no search by name.
typedef struct wf_metric {
    const char *name;
    uint32_t numbers_of_, flags_of_, texts_of_, derived_of_;
    const double *numbers_;
    const uint8_t *flags_;
    const struct wf_texts *texts_;
    double *derived_;
} wf_metric;

// A column of texts: of a row, words[codes[row]], or nothing where the code is WF_NO_TEXT. wf_text_of does it.
typedef struct wf_texts {
    const char *const *words;
    size_t count;
    const uint32_t *codes;
} wf_texts;

#define WF_NO_TEXT UINT32_C(0xffffffff)

// One row of the batch: what a device measured at a time (event time; it may go back).
typedef struct wf_reading {
    wf_device device;
    uint32_t row;
    wf_time time;
    uint32_t batch_;
} wf_reading;

// The readings of a callback, as columns of `rows` entries.
typedef struct wf_batch {
    uint32_t rows;
    uint32_t batch_;
} wf_batch;

void wf_fetch_numbers_(wf_metric *metric);
void wf_fetch_flags_(wf_metric *metric);
void wf_fetch_texts_(wf_metric *metric);

// The columns of a batch, fetched at the first question. NaN, WF_NONE and WF_NO_TEXT: no value.
static inline const double *wf_numbers(const wf_batch *batch, wf_metric *metric)
{
    if (metric->numbers_of_ != batch->batch_)
        wf_fetch_numbers_(metric);
    return metric->numbers_;
}

static inline const uint8_t *wf_flags(const wf_batch *batch, wf_metric *metric)
{
    if (metric->flags_of_ != batch->batch_)
        wf_fetch_flags_(metric);
    return metric->flags_;
}

static inline const wf_texts *wf_texts_of(const wf_batch *batch, wf_metric *metric)
{
    if (metric->texts_of_ != batch->batch_)
        wf_fetch_texts_(metric);
    return metric->texts_;
}

static inline const char *wf_text_of(const wf_texts *texts, uint32_t row)
{
    uint32_t code = texts->codes[row];
    return code < texts->count ? texts->words[code] : NULL;
}

// The device and the event time of each row.
const wf_device *wf_devices(const wf_batch *batch);
const wf_time *wf_times(const wf_batch *batch);

// The stream that the readings are of.
const char *wf_stream_name(void);

// A value of a reading. NaN, NULL and WF_NONE: it has none.
static inline double wf_number(const wf_reading *reading, wf_metric *metric)
{
    if (metric->numbers_of_ != reading->batch_)
        wf_fetch_numbers_(metric);
    return metric->numbers_[reading->row];
}

static inline wf_truth wf_flag(const wf_reading *reading, wf_metric *metric)
{
    if (metric->flags_of_ != reading->batch_)
        wf_fetch_flags_(metric);
    uint8_t flag = metric->flags_[reading->row];
    return flag == 0 ? WF_FALSE : flag == 1 ? WF_TRUE : WF_NONE;
}

static inline const char *wf_text(const wf_reading *reading, wf_metric *metric)
{
    if (metric->texts_of_ != reading->batch_)
        wf_fetch_texts_(metric);
    return wf_text_of(metric->texts_, reading->row);
}

// ---------------------------------------------------------------- devices

// Of a device; NULL: it has none. Kept until the registry changes, and asked for all devices of the callback at once.
const char *wf_name(wf_device device);
const char *wf_type(wf_device device);
const char *wf_site(wf_device device);
const char *wf_label(wf_device device, const char *name);

// The device of this partition with a name; false: there is none.
bool wf_find(const char *name, wf_device *device);

// All devices that the rule selects, in order:
// wf_selection all = {0};
// for (wf_device device; wf_next_selected(&all, &device);) ...
typedef struct wf_selection {
    uint32_t count_, at_;
    bool begun_;
    wf_device page_[256];
} wf_selection;

bool wf_next_selected(wf_selection *selection, wf_device *device);

// ---------------------------------------------------------------- values and alerts

typedef enum { WF_VALUE_NUMBER, WF_VALUE_TEXT, WF_VALUE_FLAG } wf_value_kind;

typedef struct wf_value {
    wf_value_kind kind;
    union {
        double number;
        const char *text;
        bool flag;
    } as;
} wf_value;

typedef struct wf_detail {
    const char *name;
    wf_value value;
} wf_detail;

static inline wf_value wf_value_of_number_(double number)
{
    return (wf_value){.kind = WF_VALUE_NUMBER, .as = {.number = number}};
}
static inline wf_value wf_value_of_text_(const char *text)
{
    return (wf_value){.kind = WF_VALUE_TEXT, .as = {.text = text}};
}
static inline wf_value wf_value_of_flag_(bool flag)
{
    return (wf_value){.kind = WF_VALUE_FLAG, .as = {.flag = flag}};
}
static inline wf_value wf_value_itself_(wf_value value)
{
    return value;
}

// A value of a number, a text or a bool. A comparison is an int in C and so a number: write (bool)(x > 3).
#define wf_value_of(x)                  \
    _Generic((x),                       \
        bool: wf_value_of_flag_,        \
        char *: wf_value_of_text_,      \
        const char *: wf_value_of_text_, \
        wf_value: wf_value_itself_,     \
        default: wf_value_of_number_)(x)

// Says that a condition of a device stands: the key, the severity, a sentence for people, and up to 12 details as
// name, value, name, value. In on_reading it carries the row.
//     wf_trigger(device, "hot", WF_MAJOR, "temperature over the limit", "value", x, "limit", high);
#define wf_trigger(device, key, severity, ...) \
    wf_trigger_details((device), (key), (severity), WF_ALERT_(__VA_ARGS__))

// The same in on_batch, for the device of a row and with the row.
#define wf_trigger_row(batch, row, key, severity, ...) \
    wf_trigger_row_details((batch), (row), (key), (severity), WF_ALERT_(__VA_ARGS__))

// The same with details from an array.
void wf_trigger_details(wf_device device, const char *key, wf_severity severity, const char *summary,
                        const wf_detail *details, size_t count);
void wf_trigger_row_details(const wf_batch *batch, uint32_t row, const char *key, wf_severity severity,
                            const char *summary, const wf_detail *details, size_t count);

// Says that a condition does not stand.
void wf_clear(wf_device device, const char *key);
void wf_clear_row(const wf_batch *batch, uint32_t row, const char *key);

// ---------------------------------------------------------------- timers, clock, output

// One-shot, known by device and tag; setting it again moves it. on_timer hears it.
void wf_set_timer(wf_device device, uint32_t tag, wf_time at);
void wf_cancel_timer(wf_device device, uint32_t tag);

// The time of the log at this callback: the only clock there is.
wf_time wf_now(void);

// A value of the output stream, beside the reading. NaN: none.
void wf_derive(const wf_reading *reading, wf_metric *metric, double value);

// Leaves the row out of the output stream; a row is kept unless dropped.
void wf_drop(const wf_reading *reading);
void wf_keep(const wf_reading *reading);

// The same in on_batch, whole columns of `rows` entries; a mask is 0 where the row is left out.
void wf_derive_column(const wf_batch *batch, wf_metric *metric, const double *values);
void wf_keep_rows(const wf_batch *batch, const uint8_t *mask);

// A new reading on the output stream, of any device, by name: wf_emit("plant", "total", 12.5, at).
#define wf_emit(device_name, metric, value, time) wf_emit_value((device_name), (metric), wf_value_of(value), (time))
void wf_emit_value(const char *device_name, const char *metric, wf_value value, wf_time time);

// ---------------------------------------------------------------- log and failures

// As printf. Lines longer than 1000 bytes are cut.
void wf_debug(const char *format, ...) WF_PRINTF_(1, 2);
void wf_info(const char *format, ...) WF_PRINTF_(1, 2);
void wf_warn(const char *format, ...) WF_PRINTF_(1, 2);
void wf_error(const char *format, ...) WF_PRINTF_(1, 2);

// Makes the callback fail with a text for the operator: `return wf_fail("level %g is impossible", level);`.
// The first text counts.
wf_status wf_fail(const char *format, ...) WF_PRINTF_(1, 2);

// For what cannot be: the text goes to the log with function and line, and the callback is ended on the spot.
#define wf_panic(...) wf_panic_(__func__, __LINE__, __VA_ARGS__)
_Noreturn void wf_panic_(const char *function, int line, const char *format, ...) WF_PRINTF_(3, 4);

// ---------------------------------------------------------------- helpers, each a field of state

// Exponentially weighted mean and variance.
typedef struct wf_ewma {
    double mean, variance;
    int64_t count;
} wf_ewma;

void wf_ewma_update(wf_ewma *ewma, double x, double alpha);
// Distance from the mean in standard deviations; 0 while the variance is 0.
double wf_ewma_deviation(const wf_ewma *ewma, double x);

typedef struct wf_rate_of_change {
    double value;
    wf_time time;
    bool known;
} wf_rate_of_change;

// Units per second since the value before; NaN: there was none, or the time is not later.
double wf_rate_of_change_update(wf_rate_of_change *rate, wf_time time, double x);

typedef struct wf_hysteresis {
    bool active;
} wf_hysteresis;

typedef enum { WF_UNCHANGED, WF_RISING, WF_FALLING } wf_edge;

// on >= off: active above on until below off. on < off: active below on until above off.
wf_edge wf_hysteresis_update(wf_hysteresis *hysteresis, double x, double on, double off);

typedef struct wf_debounce {
    wf_time since;
    bool pending;
} wf_debounce;

// Whether the condition has stood for `hold` without a gap.
bool wf_debounce_update(wf_debounce *debounce, bool condition, wf_time time, wf_time hold);

// What a window saw. Of an empty one (count 0) min, max and mean are NaN.
typedef struct wf_window {
    wf_time start, end;
    int64_t count;
    double sum, min, max, mean;
} wf_window;

typedef struct wf_tumbling_window {
    int64_t index, count;
    double sum, min, max;
} wf_tumbling_window;

// Windows of `span`, one after the other. True: one closed, and `closed` is it. What is too late is ignored.
bool wf_tumbling_window_add(wf_tumbling_window *window, wf_time time, double x, wf_time span, wf_window *closed);

// ---------------------------------------------------------------- state

/* A struct and its layout in state: the fields in order, little-endian, without gaps. Changing it is a new
   state_version. All zero is nothing, and is not stored.

       #define STATE(FIELD)         \
           FIELD(flag, active)      \
           FIELD(number, sum)       \
           FIELD(integer, count)    \
           FIELD(numbers, last, 8)  \
           FIELD(ewma, vibration)
       WF_STATE(state, STATE)

   makes `struct state { bool active; double sum; int64_t count; double last[8]; wf_ewma vibration; }` and
   WF_LAYOUT(state). The other helpers are fields in the same way: rate_of_change, hysteresis, debounce,
   tumbling_window. */
#define WF_STATE(tag, FIELDS)                                                       \
    struct tag {                                                                    \
        FIELDS(WF_DECLARE_)                                                         \
    };                                                                              \
    static void tag##_pack_(const void *state_, uint8_t *bytes_)                    \
    {                                                                               \
        const struct tag *from_ = state_;                                           \
        uint8_t *to_ = bytes_;                                                      \
        FIELDS(WF_PACK_)                                                            \
        (void)to_;                                                                  \
    }                                                                               \
    static void tag##_unpack_(const uint8_t *bytes_, void *state_)                  \
    {                                                                               \
        struct tag *to_ = state_;                                                   \
        const uint8_t *from_ = bytes_;                                              \
        FIELDS(WF_UNPACK_)                                                          \
        (void)from_;                                                                \
    }                                                                               \
    static const wf_layout tag##_layout_ = {sizeof(struct tag), 0 FIELDS(WF_BYTES_), \
                                            tag##_pack_, tag##_unpack_, &wf_slots_};

#define WF_LAYOUT(tag) (&tag##_layout_)

struct wf_slot;

// The part of the SDK that keeps state; a rule without layouts does not link it, and so does not import state.
extern const struct wf_slots_ {
    void *(*fetch)(struct wf_slot *slot, wf_device device);
} wf_slots_;

typedef struct wf_layout {
    size_t size, bytes;
    void (*pack_)(const void *state, uint8_t *bytes);
    void (*unpack_)(const uint8_t *bytes, void *state);
    const struct wf_slots_ *slots_;
} wf_layout;

// The state of a device in slot 0, to be read and changed: that of any device, not only of the one at hand. Loaded
// once, with that of all devices of the callback, and stored at its end where it changed. The pointer holds until then.
void *wf_state(wf_device device);

// More state under another name: `static wf_slot history = {.name = "history", .layout = WF_LAYOUT(history)};`
// Without a name, the slot of that number.
typedef struct wf_slot {
    const char *name;
    const wf_layout *layout;
    uint32_t number;
    struct wf_page_ **pages_;
    size_t page_count_;
    wf_device *touched_;
    size_t touched_count_, touched_room_;
    uint32_t group_;
    bool listed_;
    struct wf_slot *next_;
} wf_slot;

void *wf_slot_state(wf_slot *slot, wf_device device);

// The number of a slot with a name: FNV-1a, 32 bit.
uint32_t wf_slot_of(const char *name);

// What a migration gets: a blob of an older version, not empty. It answers with wf_migrate_state or wf_migrate_bytes;
// without an answer the blob is removed.
typedef struct wf_migration {
    uint32_t old_version, slot;
    const uint8_t *bytes;
    size_t length;
    struct wf_bytes_ *answer_;
} wf_migration;

// Reads the blob by a layout (declare the old one as well); false: it has another length.
bool wf_migration_read(const wf_migration *migration, const wf_layout *layout, void *state);
void wf_migrate_state(wf_migration *migration, const wf_layout *layout, const void *state);
void wf_migrate_bytes(wf_migration *migration, const uint8_t *bytes, size_t length);

// The last `span`, in `pieces` slots from that of `name` on, so that a reading rewrites one piece only:
// static wf_sliding_window flow = {.name = "flow", .pieces = 6, .span = WF_MINUTE};
typedef struct wf_sliding_window {
    const char *name;
    uint32_t pieces;
    wf_time span;
    wf_slot *slots_;
    uint32_t made_;
} wf_sliding_window;

// A reading that is older than all pieces is ignored.
void wf_sliding_window_add(wf_sliding_window *window, wf_device device, wf_time time, double x);
wf_window wf_sliding_window_over(wf_sliding_window *window, wf_device device, wf_time time);

// ---------------------------------------------------------------- parameters

typedef struct wf_number_list {
    const double *items;
    size_t count;
} wf_number_list;

typedef struct wf_text_list {
    const char *const *items;
    size_t count;
} wf_text_list;

typedef enum {
    WF_PARAMETER_number,  // double
    WF_PARAMETER_integer, // int64_t
    WF_PARAMETER_text,    // const char *
    WF_PARAMETER_flag,    // bool
    WF_PARAMETER_choice,  // unsigned: the index in .choices
    WF_PARAMETER_texts,   // wf_text_list
    WF_PARAMETER_numbers, // wf_number_list
} wf_parameter_type;

#define WF_ITEMS 16

// What can be said of a parameter. The default is that of its type, zero or empty where nothing is said.
typedef struct wf_parameter {
    const char *field_;
    wf_parameter_type type_;
    size_t offset_;
    const char *name; // where it differs from the field's
    const char *unit, *description;
    bool required;   // has no default
    double range[2]; // of numbers and integers; INFINITY: open on that side
    double number;
    int64_t integer;
    bool flag;
    const char *text;              // also of a choice; without, the first one
    const char *choices[WF_ITEMS]; // of a choice
    const char *texts[WF_ITEMS];
    double numbers[WF_ITEMS];
    size_t count; // of numbers
} wf_parameter;

/* The parameters of the rule, as a struct that is filled in before start, and as a JSON Schema in the manifest.

       #define PARAMETERS(PARAMETER)                                                                    \
           PARAMETER(number, high, .number = 80, .range = {0, 200}, .unit = "°C", .description = "...") \
           PARAMETER(choice, severity, .choices = {"minor", "major"}, .text = "major")
       WF_PARAMETERS(parameters, PARAMETERS)

   makes the variable `parameters`, here with a double `high` and an unsigned `severity`, and
   WF_PARAMETERS_OF(parameters). One such list a file. */
#define WF_PARAMETERS(variable, LIST)                 \
    static struct variable {                          \
        LIST(WF_PARAMETER_FIELD_)                     \
    } variable;                                       \
    typedef struct variable wf_struct_of_parameters_; \
    static const wf_parameter variable##_table_[] = { \
        LIST(WF_PARAMETER_ROW_)                       \
    };
#define WF_PARAMETERS_OF(variable)                                                                     \
    {&variable, sizeof variable, variable##_table_, sizeof variable##_table_ / sizeof(wf_parameter), \
     &wf_parameters_functions_}

struct wf_parameters;

// The part of the SDK that reads parameters; linked where there are any.
extern const struct wf_parameters_functions_ {
    void (*read)(const struct wf_parameters *parameters);
    char *(*schema)(const struct wf_parameters *parameters);
} wf_parameters_functions_;

typedef struct wf_parameters {
    void *values;
    size_t size;
    const wf_parameter *table;
    size_t count;
    const struct wf_parameters_functions_ *functions_;
} wf_parameters;

// All parameters as one JSON object, for a rule with a schema of its own. In start.
const char *wf_parameters_json(void);

// ---------------------------------------------------------------- the rule

// When a device counts as silent: after a span, or (WF_SILENCE_REGISTRY) after twice the interval that the registry
// expects of it. 0: never.
#define WF_SILENCE_REGISTRY INT64_C(-1)

// Five-field cron in its Unix meaning; zone: an IANA time zone, NULL: UTC.
typedef struct wf_schedule {
    const char *name, *cron, *zone;
} wf_schedule;

#define WF_METRICS 16
#define WF_SCHEDULES 8

// What the rule is. Fields that are not named are off. A rule has either on_reading or on_batch.
typedef struct wf_rule {
    const char *name;        // 1 to 64 of a-z 0-9 - _ .
    const char *version;     // of the module
    const char *description; // one or two sentences

    wf_parameters parameters; // WF_PARAMETERS_OF(...)
    const char *schema;       // a whole JSON Schema, in place of the one that the parameters make

    const wf_layout *state; // WF_LAYOUT(...): what is kept for each device, in slot 0
    uint32_t state_version; // of all layouts, from 1; 0: keeps no state

    wf_metric *metrics[WF_METRICS]; // what it is called for; none: everything. "vib*" is all that begin so
    wf_time silence;
    wf_schedule schedules[WF_SCHEDULES];

    // Once in each instance, after the parameters were read: to check them, and to change anything in this struct.
    // WF_FAILED refuses the deployment. May log, and call nothing else but wf_subscribe.
    wf_status (*start)(struct wf_rule *rule);

    // For each row that has any of the metrics, in order of the log. `state` is the struct of the layout, and is
    // stored at the end of the callback where it changed; NULL: the rule has none.
    wf_status (*on_reading)(wf_device device, const wf_reading *reading, void *state);
    wf_status (*on_batch)(const wf_batch *batch);

    wf_status (*on_timer)(wf_device device, uint32_t tag, wf_time at, void *state);
    // `last` is the event time of its last reading; NULL: there was never any.
    wf_status (*on_silence)(wf_device device, const wf_time *last, void *state);
    wf_status (*on_schedule)(const char *name, wf_time at);

    // State of an older state_version. In an instance that was not started: no parameters.
    wf_status (*migrate)(wf_migration *migration);
} wf_rule;

// Every rule defines this.
extern const wf_rule watchfire_rule;

// In start: one more metric than the struct names. The variable must outlive the rule.
void wf_subscribe(wf_metric *metric);

#include "src/macros.h"

#endif
