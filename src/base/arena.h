/* SPDX-License-Identifier: Apache-2.0 */
/* A bump allocator for things that live as long as one request or one load.
 *
 * Blocks are kept and used again by arena_reset (all but the first are freed when they grew past `keep`), so that in
 * the steady state a request allocates nothing from the heap.
 *
 * Thread: one at a time. */
#ifndef WEIR_BASE_ARENA_H
#define WEIR_BASE_ARENA_H

#include "base/base.h"

struct arena_block;
struct arena {
    struct arena_block *first, *cur;
    size_t used, max; /* bytes handed out since the reset; the ceiling */
};

void arena_init(struct arena *a, size_t max);
void arena_done(struct arena *a);
void arena_reset(struct arena *a);
/* 16-byte aligned, not zeroed; NULL past the ceiling. */
void *arena_alloc(struct arena *a, size_t n) __attribute__((warn_unused_result));
void *arena_zalloc(struct arena *a, size_t n) __attribute__((warn_unused_result));
/* A terminated copy; NULL past the ceiling. */
char *arena_strndup(struct arena *a, const char *p, size_t n) __attribute__((warn_unused_result));

#endif
