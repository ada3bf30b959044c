// SPDX-License-Identifier: Apache-2.0
// Tests of the SDK on the machine at hand: `make -C tests`. Each runs in a process of its own, as a rule does.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

// As zig does with -O3.
#define NDEBUG
#include "../assert.h"
#include "fake.h"

#define PARAMETERS(PARAMETER)                                                                                  \
    PARAMETER(number, high, .number = 0.1, .range = {-1000, INFINITY}, .unit = "°C", .description = "A \"limit\".") \
    PARAMETER(integer, count, .required = true, .range = {1, 9})                                               \
    PARAMETER(text, which, .name = "case", .text = "a\n")                                                      \
    PARAMETER(flag, on, .flag = true)                                                                          \
    PARAMETER(choice, severity, .choices = {"minor", "major"}, .text = "major")                                \
    PARAMETER(texts, names, .texts = {"x", "y"})                                                               \
    PARAMETER(numbers, limits, .numbers = {1.5, 2}, .count = 2)
WF_PARAMETERS(parameters, PARAMETERS)

#define EVERYTHING(FIELD)        \
    FIELD(flag, first)           \
    FIELD(number, second)        \
    FIELD(integer, third)        \
    FIELD(numbers, fourth, 2)    \
    FIELD(ewma, fifth)           \
    FIELD(rate_of_change, sixth) \
    FIELD(hysteresis, seventh)   \
    FIELD(debounce, eighth)      \
    FIELD(tumbling_window, ninth)
WF_STATE(everything, EVERYTHING)

#define COUNT(FIELD) FIELD(integer, count)
WF_STATE(count, COUNT)

#define OLD(FIELD) FIELD(flag, raised) FIELD(integer, count)
WF_STATE(old, OLD)

static wf_status migrate(wf_migration *migration)
{
    struct old old;
    if (migration->old_version != 1)
        return wf_fail("no version %u", (unsigned)migration->old_version);
    if (migration->slot == 7)
        wf_migrate_bytes(migration, migration->bytes, migration->length);
    else if (wf_migration_read(migration, WF_LAYOUT(old), &old))
        wf_migrate_state(migration, WF_LAYOUT(count), &(struct count){.count = old.count});
    return WF_OK;
}

const wf_rule watchfire_rule = {
    .name = "test",
    .version = "0.1.0",
    .description = "Is tested.",
    .parameters = WF_PARAMETERS_OF(parameters),
    .state_version = 2,
    .start = fake_take_rule,
    .migrate = migrate,
};

static int failures;

static void check_at(int line, const char *expected, const char *found)
{
    if (found == expected || (found && expected && strcmp(found, expected) == 0))
        return;
    failures++;
    printf("  line %d\n    expected: %s\n    found:    %s\n", line, expected ? expected : "NULL", found ? found : "NULL");
}

#define check(expected, found) check_at(__LINE__, (expected), (found))
#define check_number(expected, found) check_number_at(__LINE__, (expected), (found))

static void check_number_at(int line, double expected, double found)
{
    char left[40], right[40];
    snprintf(left, sizeof left, "%.17g", expected);
    snprintf(right, sizeof right, "%.17g", found);
    check_at(line, left, right);
}

static wf_metric t = {.name = "t"};
static wf_metric mode = {.name = "mode"};
static wf_metric on = {.name = "on"};
static wf_metric doubled = {.name = "doubled"};

// ---------------------------------------------------------------- parameters

static void test_assertions_hold_without_debugging_too(void)
{
    int looked = 0;
    assert(++looked);
    check_number(1, looked);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        assert(looked == 2);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    // The sanitiser makes an exit code of the trap.
    check_number(1, status != 0);
}

static void test_the_schema_of_parameters(void)
{
    check("{\"type\":\"object\",\"properties\":{"
          "\"high\":{\"type\":\"number\",\"default\":0.1,\"minimum\":-1000,\"unit\":\"°C\","
          "\"description\":\"A \\\"limit\\\".\"},"
          "\"count\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":9},"
          "\"case\":{\"type\":\"string\",\"default\":\"a\\u000a\"},"
          "\"on\":{\"type\":\"boolean\",\"default\":true},"
          "\"severity\":{\"type\":\"string\",\"enum\":[\"minor\",\"major\"],\"default\":\"major\"},"
          "\"names\":{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"default\":[\"x\",\"y\"]},"
          "\"limits\":{\"type\":\"array\",\"items\":{\"type\":\"number\"},\"default\":[1.5,2]}},"
          "\"required\":[\"count\"],\"additionalProperties\":false}",
          fake_schema());
}

static wf_status nothing(wf_device device, const wf_reading *reading, void *state)
{
    (void)device, (void)reading, (void)state;
    return WF_OK;
}

static void test_parameters_are_read(void)
{
    fake_rule.on_reading = nothing;
    fake.config = " {\"high\" : -1.5e2, \"other\":{\"a\":[1,{\"b\":\"]}\"}]}, \"count\":7,"
                  "\"case\":\"\\u00b0\\ud83d\\ude00\\n\\\"\", \"on\":false, \"severity\":\"minor\","
                  "\"names\":[\"a,]\",\"b\"], \"limits\":[ 1, -2.5 ,3e1]} ";
    check(NULL, fake_start());
    check_number(-150, parameters.high);
    check_number(7, (double)parameters.count);
    check("°😀\n\"", parameters.which);
    check_number(0, parameters.on);
    check_number(0, parameters.severity);
    check_number(2, (double)parameters.names.count);
    check("a,]", parameters.names.items[0]);
    check("b", parameters.names.items[1]);
    check_number(3, (double)parameters.limits.count);
    check_number(-2.5, parameters.limits.items[1]);
    check_number(30, parameters.limits.items[2]);
}

static void test_defaults_stand_where_nothing_is_given(void)
{
    fake_rule.on_reading = nothing;
    fake.config = "{\"names\":[],\"limits\":null}";
    check(NULL, fake_start());
    check_number(0.1, parameters.high);
    check("a\n", parameters.which);
    check_number(1, parameters.on);
    check_number(1, parameters.severity);
    check_number(0, (double)parameters.names.count);
    check_number(2, (double)parameters.limits.count);
}

static void test_parameters_of_another_type_are_refused(void)
{
    fake_rule.on_reading = nothing;
    fake.config = "{\"high\":\"much\"}";
    check("the parameter high is no good", fake_start());
    fake.config = "{\"severity\":\"huge\"}";
    check("the parameter severity is no good", fake_start());
    fake.config = "{\"names\":[1]}";
    check("the parameter names is no good", fake_start());
    fake.config = "[]";
    check("the parameters are no JSON object", fake_start());
}

// ---------------------------------------------------------------- subscription

static wf_status subscribe_more(wf_rule *rule)
{
    wf_subscribe(&on);
    rule->silence = WF_SECOND;
    return WF_OK;
}

static wf_status hears_silence(wf_device device, const wf_time *last, void *state)
{
    struct count *count = state;
    count->count += 1;
    if (last)
        wf_trigger(device, "silent", WF_INFO, "s", "last", *last, "count", count->count);
    else
        wf_trigger(device, "silent", WF_INFO, "s", "count", count->count);
    return WF_OK;
}

static wf_status hears_schedule(const char *name, wf_time at)
{
    wf_selection all = {0};
    size_t devices = 0;
    for (wf_device device; wf_next_selected(&all, &device); devices++) {
        struct count *state = wf_state(device);
        state->count = devices % 200 == 0;
    }
    wf_emit(name, "devices", devices, at);
    return WF_OK;
}

static void test_a_subscription(void)
{
    fake_rule = (wf_rule){
        .metrics = {&t, &mode},
        .schedules = {{"daily", "0 6 * * *", "Europe/Berlin"}, {.name = "hourly", .cron = "0 * * * *"}},
        .start = subscribe_more,
        .on_reading = nothing,
        .on_silence = hears_silence,
        .on_schedule = hears_schedule,
    };
    check(NULL, fake_start());
    check("subscribe t mode on silence 1000000 daily (0 6 * * *) Europe/Berlin hourly (0 * * * *) -\n", fake_done());
}

static void test_a_rule_without_what_it_asks_for_is_refused(void)
{
    fake_rule = (wf_rule){.metrics = {&t}};
    check("a rule has either on_reading or on_batch", fake_start());
    fake_rule.on_reading = nothing;
    fake_rule.silence = WF_SILENCE_REGISTRY;
    check("the rule asks for silence and has no on_silence", fake_start());
    fake_rule.on_silence = hears_silence;
    fake_rule.schedules[0] = (wf_schedule){.name = "daily"};
    check("the rule has schedules and no on_schedule", fake_start());
}

// ---------------------------------------------------------------- rows

static wf_status tells_rows(wf_device device, const wf_reading *reading, void *state)
{
    (void)state;
    const char *text = wf_text(reading, &mode);
    wf_trigger(device, "row", WF_INFO, "s", "time", reading->time, "t", wf_number(reading, &t), "mode",
               text ? text : "none", "on", (int)wf_flag(reading, &on));
    return WF_OK;
}

static void test_rows_without_any_metric_of_the_rule_are_passed_over(void)
{
    fake_rule = (wf_rule){.metrics = {&t, &mode}, .on_reading = tells_rows};
    fake.columns[1] = (fake_column){.metric = "mode", .texts = {"run", "", "", "stop"}};
    fake.columns[2] = (fake_column){.metric = "on", .flags = {WF_NONE, WF_TRUE, WF_TRUE, WF_FALSE}, .is_flags = true};
    check(NULL, fake_start());
    fake_done();
    check(NULL, fake_batch());
    check("trigger 3 row 0 's' row 0 time=10 t=1 mode='run' on=255\n"
          "trigger 4 row 0 's' row 1 time=20 t=2 mode='none' on=1\n"
          "trigger 3 row 0 's' row 3 time=30 t=nan mode='stop' on=0\n",
          fake_done());
    // All rows, where the rule says nothing, and by a pattern.
    fake_rule.metrics[0] = NULL;
    check(NULL, fake_start());
    fake_done();
    check(NULL, fake_batch());
    check_number(4, (double)(strlen(fake_done()) / 50));
    static wf_metric pattern = {.name = "mo*"};
    fake_rule.metrics[0] = &pattern;
    fake_rule.metrics[1] = NULL;
    check(NULL, fake_start());
    fake_done();
    check(NULL, fake_batch());
    check("trigger 3 row 0 's' row 0 time=10 t=1 mode='run' on=255\n"
          "trigger 3 row 0 's' row 3 time=30 t=nan mode='stop' on=0\n",
          fake_done());
}

static wf_status counts(wf_device device, const wf_reading *reading, void *state)
{
    (void)device;
    struct count *count = state;
    count->count += 1;
    wf_derive(reading, &doubled, 2 * wf_number(reading, &t));
    if (wf_number(reading, &t) == 2)
        wf_drop(reading);
    return WF_OK;
}

static void test_a_row_costs_no_call(void)
{
    fake_rule = (wf_rule){.metrics = {&t}, .on_reading = counts, .state = WF_LAYOUT(count)};
    check(NULL, fake_start());
    fake_batch();
    fake_done();
    fake.calls = 0;
    fake.rows = 1;
    check(NULL, fake_batch());
    size_t calls = fake.calls;
    fake.rows = 2;
    fake.calls = 0;
    check(NULL, fake_batch());
    // What is dropped in the second row makes one more.
    check_number((double)calls + 2, (double)fake.calls);
}

// ---------------------------------------------------------------- state

static wf_status writes_everything(wf_device device, const wf_reading *reading, void *state)
{
    struct everything *to = state;
    (void)reading;
    if (device != 3)
        return WF_OK;
    *to = (struct everything){
        .first = true,
        .second = 1,
        .third = 2,
        .fourth = {3, 4},
        .fifth = {5, 6, 7},
        .sixth = {8, 9, true},
        .seventh = {true},
        .eighth = {10, true},
        .ninth = {11, 12, 13, 14, 15},
    };
    return WF_OK;
}

static wf_status clears_everything(wf_device device, const wf_reading *reading, void *state)
{
    struct everything *at = state;
    (void)device, (void)reading;
    if (at->ninth.max == 15 && at->eighth.pending && at->sixth.time == 9 && at->fourth[1] == 4)
        memset(at, 0, sizeof *at);
    return WF_OK;
}

static void test_the_layout_of_state(void)
{
    const char *expected = "01"
                           "000000000000f03f"
                           "0200000000000000"
                           "00000000000008400000000000001040"
                           "000000000000144000000000000018400700000000000000"
                           "0000000000002040090000000000000001"
                           "01"
                           "0a0000000000000001"
                           "0b000000000000000c000000000000000000000000002a400000000000002c400000000000002e40";
    fake_rule = (wf_rule){.on_reading = writes_everything, .state = WF_LAYOUT(everything)};
    check(NULL, fake_start());
    fake_done();
    check(NULL, fake_batch());
    check("load 0: 3 4 5\nstore 0: 3\n", fake_done());
    check(expected, fake_state(0, 3));
    check("", fake_state(0, 4));
    // What did not change is not stored, and nothing is loaded again.
    check(NULL, fake_batch());
    check("", fake_done());
    // A struct of zeros is nothing.
    fake_rule.on_reading = clears_everything;
    check(NULL, fake_start());
    fake_done();
    check(NULL, fake_batch());
    check("store 0: 3\n", fake_done());
    check("", fake_state(0, 3));
}

static void test_state_of_another_length_counts_as_nothing(void)
{
    fake_rule = (wf_rule){.metrics = {&t}, .on_reading = counts, .state = WF_LAYOUT(count)};
    fake_put_state(0, 3, "0500000000000000");
    fake_put_state(0, 4, "05000000");
    check(NULL, fake_start());
    check(NULL, fake_batch());
    check("0600000000000000", fake_state(0, 3));
    check("0100000000000000", fake_state(0, 4));
}

static bool poisoned;

static wf_status fails_at_times(wf_device device, const wf_reading *reading, void *state)
{
    counts(device, reading, state);
    wf_emit("a", "b", 1, 2);
    wf_set_timer(device, 1, 2);
    return poisoned ? wf_fail("poison: %d", 666) : WF_OK;
}

static wf_status no_timer(wf_device device, uint32_t tag, wf_time at, void *state)
{
    struct count *count = state;
    wf_trigger(device, "timer", WF_WARNING, "s", "tag", tag, "at", at, "count", count->count);
    return WF_OK;
}

static int starts;

static wf_status counts_starts(wf_rule *rule)
{
    (void)rule;
    starts++;
    return WF_OK;
}

static void test_a_failure_leaves_nothing_behind(void)
{
    fake_rule = (wf_rule){.metrics = {&t},
                          .on_reading = fails_at_times,
                          .state = WF_LAYOUT(count),
                          .start = counts_starts,
                          .on_timer = no_timer};
    fake.rows = 1;
    poisoned = true;
    check(NULL, fake_start());
    fake_done();
    check("poison: 666", fake_batch());
    check("load 0: 3\n", fake_done());
    check_number(1, starts);
    // The rule is made anew, and state loaded again.
    poisoned = false;
    check(NULL, fake_batch());
    check_number(2, starts);
    check("0100000000000000", fake_state(0, 3));
    fake_done();
    check(NULL, fake_timer(3, 9, 77));
    check("trigger 3 timer 1 's' tag=9 at=77 count=1\n", fake_done());
}

static void test_silence(void)
{
    fake_rule = (wf_rule){
        .on_reading = nothing, .silence = 5, .on_silence = hears_silence, .state = WF_LAYOUT(count)};
    check(NULL, fake_start());
    fake_done();
    check(NULL, fake_silence(3, NULL));
    check(NULL, fake_silence(3, &(wf_time){5}));
    check("load 0: 3\ntrigger 3 silent 0 's' count=1\nstore 0: 3\n"
          "trigger 3 silent 0 's' last=5 count=2\nstore 0: 3\n",
          fake_done());
}

static void test_selected_devices_come_in_pages(void)
{
    fake_rule = (wf_rule){
        .on_reading = nothing, .on_schedule = hears_schedule, .schedules = {{"n", "c", NULL}}, .state = WF_LAYOUT(count)};
    fake.selected = 256;
    check(NULL, fake_start());
    fake_done();
    check(NULL, fake_schedule("hourly", 60));
    const char *done = fake_done();
    check("emit hourly devices=256 at 60\nstore 0: 0 200\n", strstr(done, "emit"));
    check_number(1, strstr(done + 1, "load") == NULL);
    fake.selected = 300;
    check(NULL, fake_schedule("hourly", 60));
    done = fake_done();
    check_number(0, strncmp(done, "load 0: 256 257", 15));
    check("emit hourly devices=300 at 60\n", strstr(done, "emit"));
}

static void test_slots_have_numbers_by_name(void)
{
    // Test vectors of FNV-1a, 32 bit.
    check_number(0x811c9dc5, wf_slot_of(""));
    check_number(0xe40c292c, wf_slot_of("a"));
    check_number(0xbf9cf968, wf_slot_of("foobar"));
}

static void test_migration(void)
{
    char migrated[300];
    check(NULL, fake_migrate(1, 0, "010500000000000000", migrated));
    check("0500000000000000", migrated);
    check(NULL, fake_migrate(1, 0, "010000000000000000", migrated));
    check("", migrated);
    check(NULL, fake_migrate(1, 0, "0102", migrated));
    check("", migrated);
    check(NULL, fake_migrate(1, 7, "0102", migrated));
    check("0102", migrated);
    check("no version 3", fake_migrate(3, 0, "01", migrated));
}

// ---------------------------------------------------------------- effects

static wf_status sets_timers(const wf_batch *batch)
{
    (void)batch;
    wf_set_timer(3, 1, 10);
    wf_set_timer(3, 2, 20);
    wf_cancel_timer(3, 1);
    wf_set_timer(2, 1, 30);
    wf_cancel_timer(3, 2);
    wf_set_timer(3, 2, wf_now() + 1);
    return WF_OK;
}

static void test_the_last_change_of_a_timer_counts(void)
{
    fake_rule = (wf_rule){.on_batch = sets_timers, .on_timer = no_timer};
    check(NULL, fake_start());
    fake_done();
    check(NULL, fake_batch());
    check("set 2/1@30 3/2@101\ncancel 3/1@0\n", fake_done());
}

static wf_status whole_columns(const wf_batch *batch)
{
    const double *values = wf_numbers(batch, &t);
    double result[4];
    uint8_t mask[4] = {1, 0, 7, 0};
    for (uint32_t row = 0; row < batch->rows; row++)
        result[row] = 2 * values[row];
    wf_derive_column(batch, &doubled, result);
    wf_keep_rows(batch, mask);
    wf_trigger_row(batch, 1, "k", WF_CRITICAL, "s", "flag", (bool)true);
    wf_clear_row(batch, 2, "k");
    wf_clear(3, "k");
    wf_emit("plant", "text", "x", wf_times(batch)[3]);
    return WF_OK;
}

static void test_effects_of_whole_columns(void)
{
    fake_rule = (wf_rule){.on_batch = whole_columns};
    check(NULL, fake_start());
    fake_done();
    check(NULL, fake_batch());
    check("trigger 4 k 4 's' row 1 flag=true\nclear 5 k row 2\nclear 3 k\n"
          "emit plant text='x' at 30\nkeep 1 0 1 0\nderive doubled 2 4 - -\n",
          fake_done());
}

static void test_rows_that_derive_nothing_have_no_value(void)
{
    fake_rule = (wf_rule){.metrics = {&t}, .on_reading = counts, .state = WF_LAYOUT(count)};
    check(NULL, fake_start());
    check(NULL, fake_batch());
    check("keep 1 0 1 1\nderive doubled 2 4 - -\nstore 0: 3 4\n", strstr(fake_done(), "keep"));
}

static wf_status misuse(wf_device device, const wf_reading *reading, void *state)
{
    (void)state;
    switch (reading->time) {
    case 1:
        wf_trigger(device, "k", (wf_severity)17, "s");
        break;
    case 2:
        wf_trigger(device, NULL, WF_INFO, "s");
        break;
    case 3:
        wf_trigger(device, "k", WF_INFO, "s", "text", "\xff");
        break;
    case 4:
        wf_derive(reading, &doubled, INFINITY);
        break;
    case 5:
        wf_emit("a", "b", NAN, 1);
        break;
    case 6:
        wf_set_timer(device, 1, 1);
        break;
    case 7:
        return WF_FAILED;
    }
    return WF_OK;
}

static void test_misuse_has_a_text(void)
{
    static const char *const texts[] = {
        "wf_trigger: 17 is no severity",       "wf_trigger: the key is NULL",    "wf_trigger: a detail is not UTF-8",
        "wf_derive: doubled is infinite",      "wf_emit: b is no finite number", "wf_set_timer: the rule has no on_timer",
        "the callback failed, and did not say why",
    };
    fake_rule = (wf_rule){.on_reading = misuse};
    check(NULL, fake_start());
    fake.rows = 1;
    fake_done();
    for (int i = 0; i < 7; i++) {
        fake.times[0] = i + 1;
        check(texts[i], fake_batch());
        check("", fake_done());
    }
}

static wf_status tells_devices(wf_device device, const wf_reading *reading, void *state)
{
    (void)reading, (void)state;
    wf_device other = 0;
    const char *site = wf_site(device), *line = wf_label(device, "line");
    bool found = wf_find("device-9", &other);
    wf_info("%s %s %s %d %u", wf_name(device), site ? site : "-", line ? line : "-", found, (unsigned)other);
    return WF_OK;
}

static void test_attributes_are_kept_until_the_registry_changes(void)
{
    fake_rule = (wf_rule){.on_reading = tells_devices};
    check(NULL, fake_start());
    fake_done();
    fake.calls = 0;
    check(NULL, fake_batch());
    check("log 1 device-3 - - 1 9\nlog 1 device-4 site-of-4-at-1 line-of-4-at-1 1 9\n"
          "log 1 device-5 - - 1 9\nlog 1 device-3 - - 1 9\n",
          fake_done());
    // Rows, devices, times, version; three names; two attributes; four searches.
    check_number(4 + 3 + 2 + 4, (double)fake.calls);
    fake.calls = 0;
    check(NULL, fake_batch());
    check_number(4 + 4, (double)fake.calls);
    fake_done();
    fake.version = 2;
    check(NULL, fake_batch());
    check_number(1, strstr(fake_done(), "log 1 device-4 site-of-4-at-2 line-of-4-at-2 1 9\n") != NULL);
}

static void test_texts_that_are_not_utf8_are_mended_in_the_log(void)
{
    wf_info("a\xff z\xc3\xa9 \xed\xa0\x80 \xe2\x82");
    check("log 1 a? zé ??? ??\n", fake_done());
}

// ---------------------------------------------------------------- helpers

static void test_ewma(void)
{
    wf_ewma ewma = {0};
    check_number(0, wf_ewma_deviation(&ewma, 5));
    wf_ewma_update(&ewma, 10, 0.1);
    wf_ewma_update(&ewma, 11, 0.1);
    wf_ewma_update(&ewma, 7.3, 0.1);
    check_number(9.82, ewma.mean);
    check_number(0.7866, ewma.variance);
    check_number(3, (double)ewma.count);
    check_number((12 - ewma.mean) / sqrt(ewma.variance), wf_ewma_deviation(&ewma, 12));
}

static void test_rate_of_change(void)
{
    wf_rate_of_change rate = {0};
    check_number(NAN, wf_rate_of_change_update(&rate, 5000000, 1));
    check_number(2, wf_rate_of_change_update(&rate, 7000000, 5));
    check_number(NAN, wf_rate_of_change_update(&rate, 7000000, 50));
    check_number(NAN, wf_rate_of_change_update(&rate, 6000000, 50));
    check_number(-10, wf_rate_of_change_update(&rate, 7500000, 0));
}

static void test_hysteresis(void)
{
    wf_hysteresis high = {0}, low = {0};
    static const double values[] = {80, 80.5, 90, 75, 74, 75, 81};
    static const wf_edge rises[] = {WF_UNCHANGED, WF_RISING,    WF_UNCHANGED, WF_UNCHANGED,
                                    WF_FALLING,   WF_UNCHANGED, WF_RISING};
    static const wf_edge falls[] = {WF_UNCHANGED, WF_UNCHANGED, WF_UNCHANGED, WF_UNCHANGED,
                                    WF_RISING,    WF_UNCHANGED, WF_FALLING};
    for (int i = 0; i < 7; i++) {
        check_number(rises[i], wf_hysteresis_update(&high, values[i], 80, 75));
        check_number(falls[i], wf_hysteresis_update(&low, values[i], 75, 80));
    }
}

static void test_debounce(void)
{
    wf_debounce debounce = {0};
    check_number(0, wf_debounce_update(&debounce, true, 10, 5));
    check_number(0, wf_debounce_update(&debounce, true, 14, 5));
    check_number(1, wf_debounce_update(&debounce, true, 15, 5));
    check_number(0, wf_debounce_update(&debounce, false, 16, 5));
    check_number(0, wf_debounce_update(&debounce, true, 17, 5));
    check_number(1, wf_debounce_update(&(wf_debounce){0}, true, 17, 0));
}

static void test_tumbling_window(void)
{
    wf_tumbling_window window = {0};
    wf_window closed = {0};
    check_number(0, wf_tumbling_window_add(&window, -5, 3, 10, &closed));
    check_number(0, wf_tumbling_window_add(&window, -1, 5, 10, &closed));
    check_number(0, wf_tumbling_window_add(&window, -11, 5, 10, &closed));
    check_number(1, wf_tumbling_window_add(&window, 25, 9, 10, &closed));
    check_number(-10, (double)closed.start);
    check_number(0, (double)closed.end);
    check_number(2, (double)closed.count);
    check_number(8, closed.sum);
    check_number(3, closed.min);
    check_number(5, closed.max);
    check_number(4, closed.mean);
    check_number(2, (double)window.index);
    check_number(9, window.min);
}

static wf_sliding_window window = {.name = "a", .pieces = 3, .span = 30};

static wf_status slides(wf_device device, const wf_reading *reading, void *state)
{
    (void)state;
    wf_sliding_window_add(&window, device, reading->time, wf_number(reading, &t));
    wf_window over = wf_sliding_window_over(&window, device, reading->time);
    wf_info("%lld..%lld %lld %g %g %g %g", (long long)over.start, (long long)over.end, (long long)over.count, over.sum,
            over.min, over.max, over.mean);
    return WF_OK;
}

static void test_sliding_window(void)
{
    fake_rule = (wf_rule){.on_reading = slides};
    static const wf_time times[] = {0, 9, 25, 31, 25, -1, 100};
    static const char *const expected[] = {
        "log 1 -20..10 1 1 1 1 1\n", "log 1 -20..10 2 3 1 2 1.5\n", "log 1 0..30 3 6 1 3 2\n",
        // The piece of 0..10 made place; then a reading that is late, but has its piece still; one that has not.
        "log 1 10..40 2 7 3 4 3.5\n", "log 1 0..30 2 8 3 5 4\n", "log 1 -30..0 0 0 nan nan nan\n",
        "log 1 80..110 1 7 7 7 7\n",
    };
    fake.rows = 1;
    check(NULL, fake_start());
    for (int i = 0; i < 7; i++) {
        fake.times[0] = times[i];
        fake.columns[0].numbers[0] = i + 1;
        fake_done();
        check(NULL, fake_batch());
        // Between what was loaded and what is stored.
        char *line = strstr(fake_done(), "log");
        line[strcspn(line, "\n") + 1] = 0;
        check(expected[i], line);
    }
    // A slot each, from that of the name on; the pieces lie in them by index.
    check("0a00000000000000010000000000000000000000000" "01c400000000000001c400000000000001c40",
          fake_state(wf_slot_of("a") + 1, 3));
}

// ---------------------------------------------------------------- the runner

#define TEST(name) {#name, test_##name}
static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    TEST(the_schema_of_parameters),
    TEST(parameters_are_read),
    TEST(defaults_stand_where_nothing_is_given),
    TEST(parameters_of_another_type_are_refused),
    TEST(a_subscription),
    TEST(a_rule_without_what_it_asks_for_is_refused),
    TEST(rows_without_any_metric_of_the_rule_are_passed_over),
    TEST(a_row_costs_no_call),
    TEST(the_layout_of_state),
    TEST(state_of_another_length_counts_as_nothing),
    TEST(a_failure_leaves_nothing_behind),
    TEST(silence),
    TEST(selected_devices_come_in_pages),
    TEST(slots_have_numbers_by_name),
    TEST(migration),
    TEST(the_last_change_of_a_timer_counts),
    TEST(effects_of_whole_columns),
    TEST(rows_that_derive_nothing_have_no_value),
    TEST(misuse_has_a_text),
    TEST(attributes_are_kept_until_the_registry_changes),
    TEST(texts_that_are_not_utf8_are_mended_in_the_log),
    TEST(ewma),
    TEST(rate_of_change),
    TEST(hysteresis),
    TEST(debounce),
    TEST(tumbling_window),
    TEST(sliding_window),
    TEST(assertions_hold_without_debugging_too),
};

void fake_reset(void)
{
    fake = (struct fake){
        .rows = 4,
        .devices = {3, 4, 5, 3},
        .times = {10, 20, 15, 30},
        .columns = {{.metric = "t", .numbers = {1, 2, NAN, NAN}}},
        .now = 100,
        .version = 1,
        .config = "{}",
    };
}

int main(void)
{
    int bad = 0, count = (int)(sizeof tests / sizeof *tests);
    for (int i = 0; i < count; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            fake_reset();
            tests[i].run();
            fflush(stdout);
            _exit(failures > 0);
        }
        int status;
        waitpid(child, &status, 0);
        if (status != 0)
            printf("FAILED %s%s\n", tests[i].name, WIFSIGNALED(status) ? " (ended by a signal)" : "");
        bad += status != 0;
    }
    printf("%d of %d tests passed\n", count - bad, count);
    return bad > 0;
}
