// SPDX-License-Identifier: Apache-2.0
// Memory: what is needed grows and is used again; an instance lives for many callbacks.
#include <stdlib.h>

#include "internal.h"

static _Noreturn void out_of_memory(size_t bytes)
{
    wf_panic("no memory for %zu bytes", bytes);
}

void *wf_allocate(size_t bytes)
{
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
    if (!memory)
        out_of_memory(bytes);
    return memory;
}

void *wf_grow(void *memory, size_t *room, size_t needed, size_t size)
{
    if (needed <= *room)
        return memory;
    size_t more = *room > 0 ? *room : 16;
    while (more < needed) {
        if (more > SIZE_MAX / 2 / size)
            out_of_memory(needed);
        more *= 2;
    }
    void *grown = realloc(memory, more * size);
    if (!grown)
        out_of_memory(more * size);
    *room = more;
    return grown;
}

// The largest chunk comes first, and it is the one that is kept.
struct wf_chunk {
    struct wf_chunk *next;
    size_t room;
    _Alignas(max_align_t) uint8_t bytes[];
};

wf_arena wf_callback_arena;

void *wf_arena_take(wf_arena *arena, size_t bytes)
{
    bytes = (bytes + 7) & ~(size_t)7;
    if (!arena->first || arena->first->room - arena->used < bytes) {
        size_t room = arena->first ? arena->first->room * 2 : 4096;
        while (room < bytes)
            room *= 2;
        struct wf_chunk *chunk = malloc(sizeof *chunk + room);
        if (!chunk)
            out_of_memory(room);
        chunk->next = arena->first;
        chunk->room = room;
        arena->first = chunk;
        arena->used = 0;
    }
    void *memory = arena->first->bytes + arena->used;
    arena->used += bytes;
    return memory;
}

char *wf_arena_text(wf_arena *arena, const char *text)
{
    size_t bytes = strlen(text) + 1;
    return memcpy(wf_arena_take(arena, bytes), text, bytes);
}

void wf_arena_reset(wf_arena *arena)
{
    arena->used = 0;
    if (!arena->first)
        return;
    for (struct wf_chunk *chunk = arena->first->next; chunk;) {
        struct wf_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
    arena->first->next = NULL;
}

#ifdef __wasm__
// Where the host puts what it hands over; in place of the one in the bindings, which is weak. A text gets one byte
// more, a zero, so that it is a text of C as it stands.
__attribute__((__export_name__("cabi_realloc"))) void *cabi_realloc(void *memory, size_t before, size_t align,
                                                                    size_t bytes)
{
    (void)before;
    if (bytes == 0)
        return (void *)align;
    uint8_t *grown = realloc(memory, bytes + (align == 1));
    if (!grown)
        out_of_memory(bytes);
    if (align == 1)
        grown[bytes] = 0;
    return grown;
}

// The bindings refer to an object file that would bring the types of the contract. The build embeds them by itself.
void __component_type_object_force_link_full_rule(void)
{
}
#endif
