// SPDX-License-Identifier: Apache-2.0
// Timers: collected, and handed over at the end of the callback, those that are set and those that are cancelled.
#include <stdlib.h>

#include "internal.h"

struct change {
    watchfire_rule_timers_timer_t timer;
    bool set;
    size_t order;
};

static struct change *changes;
static size_t count, room;
static watchfire_rule_timers_timer_t *timers;
static size_t timers_room;

static int compare(const void *a, const void *b)
{
    const struct change *left = a, *right = b;
    if (left->timer.device != right->timer.device)
        return left->timer.device < right->timer.device ? -1 : 1;
    if (left->timer.tag != right->timer.tag)
        return left->timer.tag < right->timer.tag ? -1 : 1;
    return left->order < right->order ? -1 : 1;
}

static size_t collect(bool set)
{
    size_t found = 0;
    timers = wf_grow(timers, &timers_room, count, sizeof *timers);
    for (size_t i = 0; i < count; i++)
        if (changes[i].set == set)
            timers[found++] = changes[i].timer;
    return found;
}

static void hand_over(void)
{
    // The last change of each timer is the one that counts.
    qsort(changes, count, sizeof *changes, compare);
    size_t last = 0;
    for (size_t i = 1; i < count; i++) {
        bool same = changes[i].timer.device == changes[last].timer.device &&
                    changes[i].timer.tag == changes[last].timer.tag;
        changes[same ? last : ++last] = changes[i];
    }
    count = count > 0 ? last + 1 : 0;
    watchfire_rule_timers_list_timer_t list = {timers, collect(true)};
    list.ptr = timers;
    if (list.len > 0)
        watchfire_rule_timers_set(&list);
    list.len = collect(false);
    if (list.len > 0)
        watchfire_rule_timers_cancel(&list);
}

static void forget(void)
{
    count = 0;
}

static wf_part part = {.finish = hand_over, .reset = forget};

static void change(wf_device device, uint32_t tag, wf_time at, bool set)
{
    wf_need_callback("a timer");
    wf_use(&part);
    changes = wf_grow(changes, &room, count + 1, sizeof *changes);
    changes[count] = (struct change){{device, tag, at}, set, count};
    count++;
}

void wf_set_timer(wf_device device, uint32_t tag, wf_time at)
{
    if (!wf_rule_at_work->on_timer)
        wf_fail("wf_set_timer: the rule has no on_timer");
    change(device, tag, at, true);
}

void wf_cancel_timer(wf_device device, uint32_t tag)
{
    change(device, tag, 0, false);
}
