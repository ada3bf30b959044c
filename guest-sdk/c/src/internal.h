// SPDX-License-Identifier: Apache-2.0
// What the parts of the SDK know of each other.
#ifndef WATCHFIRE_INTERNAL_H
#define WATCHFIRE_INTERNAL_H

#include "../bindings/full_rule.h"
#include "../watchfire_rule.h"

typedef full_rule_string_t wf_string;

// ---------------------------------------------------------------- the callback at hand (rule.c)

// Kept outside of any rule: there is one instance, and no threads.
extern struct wf_callback {
    bool running; // imports other than log may be called
    bool failed;
    bool in_start;
    uint32_t batch; // 0: this callback has none. Otherwise unlike that of any callback before
    int64_t row;    // of the reading at hand; -1: none
    bool now_known;
    wf_time now;
    // The devices that it is about. What one of them needs from the host is asked for all.
    const wf_device *group;
    size_t group_count;
    uint32_t group_number; // unlike that of any group before
} wf_callback;

void wf_set_group(const wf_device *devices, size_t count);

// Makes sure that the devices of a batch are its group (readings.c).
void wf_group_of_batch(void);

// A part that has something to do at the end of each callback. It lists itself when it is first used, so that a
// part which a rule does not use is not linked, and what it imports is no capability of the rule.
typedef struct wf_part {
    void (*finish)(void); // the callback succeeded: hands over what was collected. May fail yet
    void (*reset)(void);  // after that, and after a failure in its place: forgets it
    struct wf_part *next;
    bool listed;
} wf_part;

void wf_use(wf_part *part);

// Caches of state are wrong after a callback that failed; NULL: no state was used (state.c sets it).
extern void (*wf_drop_states)(void);

// Panics where no callback runs: the host would trap with less of a text.
void wf_need_callback(const char *function);

extern const wf_rule *wf_rule_at_work;

// All metrics that the rule subscribed to.
void wf_each_metric(void (*visit)(wf_metric *metric, void *context), void *context);

// ---------------------------------------------------------------- memory (memory.c)

// Makes room for `needed` items of `size` bytes each; what was there stays.
void *wf_grow(void *memory, size_t *room, size_t needed, size_t size);

void *wf_allocate(size_t bytes); // zeroed

// Memory that is given back all at once.
typedef struct wf_arena {
    struct wf_chunk *first;
    size_t used;
} wf_arena;

void *wf_arena_take(wf_arena *arena, size_t bytes);
char *wf_arena_text(wf_arena *arena, const char *text);
void wf_arena_reset(wf_arena *arena);

// For the callback at hand.
extern wf_arena wf_callback_arena;

// ---------------------------------------------------------------- texts (text.c)

// A text for an import, which borrows it. NULL or no UTF-8 makes the callback fail, and an empty text goes in its place.
wf_string wf_lend(const char *what, const char *text);

// Of a text that came from the host. It ends with a zero byte: see cabi_realloc.
static inline const char *wf_text_from_host(wf_string text)
{
    return text.len > 0 ? (const char *)text.ptr : "";
}

bool wf_is_utf8(const char *text);

// Puts '?' where a text is no UTF-8, as the host takes nothing else.
void wf_make_utf8(char *text);

// Floor, where C's division goes towards zero.
static inline int64_t wf_floor_divide(int64_t a, int64_t b)
{
    int64_t quotient = a / b;
    return a % b < 0 ? quotient - 1 : quotient;
}

// ---------------------------------------------------------------- readings.c

wf_status wf_each_reading(void);

// ---------------------------------------------------------------- state.c

struct wf_page_ {
    uint64_t loaded, touched;
    uint8_t *states;
    // What the host has, packed, in whole words: all zero is nothing.
    uint64_t *stored;
};

enum { WF_PAGE = 64 };

extern wf_slot wf_main_slot;

// The state of a device in slot 0, or NULL for a rule without.
static inline void *wf_main_state(wf_device device)
{
    const wf_layout *layout = wf_main_slot.layout;
    if (!layout)
        return NULL;
    size_t number = device / WF_PAGE;
    if (number < wf_main_slot.page_count_ && wf_main_slot.pages_[number]) {
        struct wf_page_ *page = wf_main_slot.pages_[number];
        uint64_t bit = UINT64_C(1) << (device % WF_PAGE);
        if (page->loaded & page->touched & bit)
            return page->states + device % WF_PAGE * layout->size;
    }
    return layout->slots_->fetch(&wf_main_slot, device);
}

// An answer to a migration.
struct wf_bytes_ {
    uint8_t *bytes;
    size_t count, room;
};

#endif
