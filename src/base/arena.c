/* SPDX-License-Identifier: Apache-2.0 */
/* A bump allocator: a chain of blocks, the current one handed out from its front.
 *
 * Blocks behind `cur` are full or were passed over; blocks after it are left from before the last reset and are taken
 * again when they are big enough. A request that needed much gives it back at the reset (ARENA_KEEP), so that one big
 * request does not hold its memory for as long as the connection lives.
 *
 * Thread: one at a time. */
#include "base/arena.h"

#include <stdlib.h>

struct arena_block {
    struct arena_block *next;
    size_t cap, n;
    _Alignas(16) char data[];
};

enum { BLOCK_LEAST = 8 * 1024 - 64, BLOCK_MOST = 1024 * 1024, ARENA_KEEP = 256 * 1024 };

void arena_init(struct arena *a, size_t max)
{
    *a = (struct arena){.max = max};
}

static void blocks_free(struct arena_block *b)
{
    while (b) {
        struct arena_block *next = b->next;
        free(b);
        b = next;
    }
}

void arena_done(struct arena *a)
{
    if (!a) {
        return;
    }
    blocks_free(a->first);
    *a = (struct arena){.max = a->max};
}

void arena_reset(struct arena *a)
{
    size_t held = 0;
    for (struct arena_block *b = a->first; b; b = b->next) {
        held += b->cap;
        b->n = 0;
    }
    if (held > ARENA_KEEP) {
        blocks_free(a->first->next);
        a->first->next = NULL;
        if (a->first->cap > ARENA_KEEP) {
            free(a->first);
            a->first = NULL;
        }
    }
    a->cur = a->first;
    a->used = 0;
}

/* Makes a block with room for n the current one: the next of the chain that fits, or a new one after the current. */
static bool block_next(struct arena *a, size_t n)
{
    while (a->cur && a->cur->next) {
        a->cur = a->cur->next;
        if (a->cur->cap - a->cur->n >= n) {
            return true;
        }
    }
    size_t cap = a->cur ? MIN(a->cur->cap * 2, (size_t)BLOCK_MOST) : (size_t)BLOCK_LEAST;
    cap = MAX(cap, n);
    struct arena_block *b = malloc(sizeof(*b) + cap);
    if (!b) {
        return false;
    }
    *b = (struct arena_block){.cap = cap};
    if (a->cur) {
        a->cur->next = b;
    } else {
        a->first = b;
    }
    a->cur = b;
    return true;
}

void *arena_alloc(struct arena *a, size_t n)
{
    if (n > a->max || n > SIZE_MAX / 2) {
        return NULL;
    }
    size_t size = ALIGN_UP(n ? n : 1, 16);
    if (a->used > a->max || n > a->max - a->used) {
        return NULL;
    }
    if ((!a->cur || a->cur->cap - a->cur->n < size) && !block_next(a, size)) {
        return NULL;
    }
    void *p = a->cur->data + a->cur->n;
    a->cur->n += size;
    a->used += size;
    return p;
}

void *arena_zalloc(struct arena *a, size_t n)
{
    void *p = arena_alloc(a, n);
    return p ? memset(p, 0, n) : NULL;
}

char *arena_strndup(struct arena *a, const char *p, size_t n)
{
    char *copy = n < SIZE_MAX ? arena_alloc(a, n + 1) : NULL;
    if (!copy) {
        return NULL;
    }
    if (n) {
        memcpy(copy, p, n);
    }
    copy[n] = '\0';
    return copy;
}
