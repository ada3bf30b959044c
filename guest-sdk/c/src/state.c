// SPDX-License-Identifier: Apache-2.0
// State of devices: loaded once in an instance, with that of all devices of the callback, and written back at the end
// of each callback, in one call a slot, where it changed.
#include <stdlib.h>

#include "internal.h"

wf_slot wf_main_slot;
void (*wf_drop_states)(void);

static wf_slot *slots;

// Devices loaded at once: bounds what the host must put into one answer.
enum { AT_ONCE = 4096 };

static struct {
    wf_device *missing, *devices;
    uint32_t *lengths;
    uint8_t *data;
    size_t missing_room, devices_room, lengths_room, data_room;
} scratch;

uint32_t wf_slot_of(const char *name)
{
    uint32_t hash = UINT32_C(0x811c9dc5);
    for (const uint8_t *at = (const uint8_t *)name; *at; at++)
        hash = (hash ^ *at) * UINT32_C(0x01000193);
    return hash;
}

static size_t words_of(const wf_layout *layout)
{
    return (layout->bytes + 7) / 8;
}

static uint8_t *state_in(const wf_slot *slot, wf_device device)
{
    return slot->pages_[device / WF_PAGE]->states + device % WF_PAGE * slot->layout->size;
}

static uint64_t *stored_in(const wf_slot *slot, wf_device device)
{
    return slot->pages_[device / WF_PAGE]->stored + device % WF_PAGE * words_of(slot->layout);
}

static uint64_t word_at(const uint8_t *bytes, size_t word)
{
    uint64_t value;
    memcpy(&value, bytes + word * 8, 8);
    return value;
}

// Writes what changed of a slot, and forgets what was touched.
static void save(wf_slot *slot)
{
    const wf_layout *layout = slot->layout;
    size_t words = words_of(layout), changed = 0, at = 0;
    scratch.devices = wf_grow(scratch.devices, &scratch.devices_room, slot->touched_count_, sizeof *scratch.devices);
    scratch.lengths = wf_grow(scratch.lengths, &scratch.lengths_room, slot->touched_count_, sizeof *scratch.lengths);
    // A word more: of the last state, whole words are read.
    scratch.data = wf_grow(scratch.data, &scratch.data_room, slot->touched_count_ * layout->bytes + 8, 1);
    for (size_t i = 0; i < slot->touched_count_; i++) {
        wf_device device = slot->touched_[i];
        slot->pages_[device / WF_PAGE]->touched &= ~(UINT64_C(1) << (device % WF_PAGE));
        uint64_t *stored = stored_in(slot, device), difference = 0, any = 0;
        uint8_t *packed = scratch.data + at;
        layout->pack_(state_in(slot, device), packed);
        memset(packed + layout->bytes, 0, 8);
        for (size_t word = 0; word < words; word++) {
            difference |= word_at(packed, word) ^ stored[word];
            any |= word_at(packed, word);
        }
        if (difference == 0)
            continue;
        for (size_t word = 0; word < words; word++)
            stored[word] = word_at(packed, word);
        scratch.devices[changed] = device;
        scratch.lengths[changed++] = any ? (uint32_t)layout->bytes : 0;
        if (any)
            at += layout->bytes;
    }
    slot->touched_count_ = 0;
    if (changed == 0)
        return;
    watchfire_rule_state_list_device_t devices = {scratch.devices, changed};
    watchfire_rule_state_blobs_t blobs = {{scratch.lengths, changed}, {scratch.data, at}};
    watchfire_rule_state_store(slot->number, &devices, &blobs);
}

static void finish(void)
{
    for (wf_slot *slot = slots; slot; slot = slot->next_)
        if (slot->touched_count_ > 0)
            save(slot);
}

static void reset(void)
{
}

// After a callback that failed, nothing that is here is what the host has.
static void drop(void)
{
    for (wf_slot *slot = slots; slot; slot = slot->next_) {
        for (size_t i = 0; i < slot->page_count_; i++)
            if (slot->pages_[i])
                slot->pages_[i]->loaded = slot->pages_[i]->touched = 0;
        slot->touched_count_ = 0;
        slot->group_ = 0;
    }
}

static wf_part part = {.finish = finish, .reset = reset};

static void list(wf_slot *slot)
{
    if (!slot->layout || slot->layout->bytes == 0)
        wf_panic("a slot has no layout, or one without fields");
    if (slot->name)
        slot->number = wf_slot_of(slot->name);
    for (wf_slot *other = slots; other; other = other->next_)
        if (other->number == slot->number)
            wf_panic("two slots have the number %u", (unsigned)slot->number);
    slot->next_ = slots;
    slot->listed_ = true;
    slots = slot;
    wf_drop_states = drop;
    wf_use(&part);
}

static struct wf_page_ *page_for(wf_slot *slot, wf_device device)
{
    size_t number = device / WF_PAGE;
    if (number >= slot->page_count_) {
        size_t room = slot->page_count_;
        slot->pages_ = wf_grow(slot->pages_, &room, number + 1, sizeof *slot->pages_);
        memset(slot->pages_ + slot->page_count_, 0, (room - slot->page_count_) * sizeof *slot->pages_);
        slot->page_count_ = room;
    }
    if (!slot->pages_[number]) {
        struct wf_page_ *page = wf_allocate(sizeof *page);
        page->states = wf_allocate(WF_PAGE * slot->layout->size);
        page->stored = wf_allocate(WF_PAGE * words_of(slot->layout) * 8);
        slot->pages_[number] = page;
    }
    return slot->pages_[number];
}

static void load(wf_slot *slot, wf_device *devices, size_t count)
{
    const wf_layout *layout = slot->layout;
    watchfire_rule_state_list_device_t which = {devices, count};
    watchfire_rule_state_blobs_t blobs;
    watchfire_rule_state_load(slot->number, &which, &blobs);
    const uint8_t *blob = blobs.data.ptr;
    for (size_t i = 0; i < count; i++) {
        uint8_t *state = state_in(slot, devices[i]);
        uint64_t *stored = stored_in(slot, devices[i]);
        uint32_t length = blobs.lengths.ptr[i];
        // A blob of another length is of another layout, and counts as nothing.
        if (length == layout->bytes) {
            layout->unpack_(blob, state);
            memcpy(stored, blob, length);
        } else {
            memset(state, 0, layout->size);
            memset(stored, 0, words_of(layout) * 8);
        }
        blob += length;
    }
    watchfire_rule_types_blobs_free(&blobs);
}

static size_t miss(wf_slot *slot, wf_device device, size_t missing)
{
    struct wf_page_ *page = page_for(slot, device);
    uint64_t bit = UINT64_C(1) << (device % WF_PAGE);
    if (page->loaded & bit)
        return missing;
    page->loaded |= bit;
    scratch.missing = wf_grow(scratch.missing, &scratch.missing_room, missing + 1, sizeof *scratch.missing);
    scratch.missing[missing] = device;
    return missing + 1;
}

// The state of a device that was not touched yet in this callback.
static void *fetch(wf_slot *slot, wf_device device)
{
    wf_need_callback("wf_state");
    if (!slot->listed_)
        list(slot);
    struct wf_page_ *page = page_for(slot, device);
    uint64_t bit = UINT64_C(1) << (device % WF_PAGE);
    if (!(page->loaded & bit)) {
        size_t missing = 0;
        wf_group_of_batch();
        if (slot->group_ != wf_callback.group_number) {
            slot->group_ = wf_callback.group_number;
            for (size_t i = 0; i < wf_callback.group_count; i++)
                missing = miss(slot, wf_callback.group[i], missing);
        }
        missing = miss(slot, device, missing);
        for (size_t from = 0; from < missing; from += AT_ONCE)
            load(slot, scratch.missing + from, missing - from < AT_ONCE ? missing - from : AT_ONCE);
    }
    if (!(page->touched & bit)) {
        page->touched |= bit;
        slot->touched_ =
            wf_grow(slot->touched_, &slot->touched_room_, slot->touched_count_ + 1, sizeof *slot->touched_);
        slot->touched_[slot->touched_count_++] = device;
    }
    return page->states + device % WF_PAGE * slot->layout->size;
}

const struct wf_slots_ wf_slots_ = {fetch};

void *wf_slot_state(wf_slot *slot, wf_device device)
{
    size_t number = device / WF_PAGE;
    if (number < slot->page_count_ && slot->pages_[number]) {
        struct wf_page_ *page = slot->pages_[number];
        uint64_t bit = UINT64_C(1) << (device % WF_PAGE);
        if (page->loaded & page->touched & bit)
            return page->states + device % WF_PAGE * slot->layout->size;
    }
    return fetch(slot, device);
}

void *wf_state(wf_device device)
{
    return wf_slot_state(&wf_main_slot, device);
}

// ---------------------------------------------------------------- migration

bool wf_migration_read(const wf_migration *migration, const wf_layout *layout, void *state)
{
    if (migration->length != layout->bytes)
        return false;
    layout->unpack_(migration->bytes, state);
    return true;
}

static uint8_t *answer(wf_migration *migration, size_t length)
{
    struct wf_bytes_ *to = migration->answer_;
    to->bytes = wf_grow(to->bytes, &to->room, length, 1);
    to->count = length;
    return to->bytes;
}

void wf_migrate_bytes(wf_migration *migration, const uint8_t *bytes, size_t length)
{
    uint8_t *to = answer(migration, length);
    if (length > 0)
        memcpy(to, bytes, length);
}

void wf_migrate_state(wf_migration *migration, const wf_layout *layout, const void *state)
{
    uint8_t *to = answer(migration, layout->bytes), any = 0;
    layout->pack_(state, to);
    for (size_t i = 0; i < layout->bytes; i++)
        any |= to[i];
    if (any == 0)
        migration->answer_->count = 0;
}
