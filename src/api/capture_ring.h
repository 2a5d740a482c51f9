/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded ring of byte records between one writer and one reader, without a lock: a record is there as a whole or
 * not at all, and what does not fit is the writer's to count. The memory is taken from the machine page by page, as it
 * is first used.
 *
 * A record lies in one piece. Where it does not fit before the ring's end, it begins at the front, and the rest of the
 * end is left out; so every record up to a quarter of the ring fits into an empty one.
 *
 * Thread: each call by its side, as said. */
#ifndef WEIR_API_CAPTURE_RING_H
#define WEIR_API_CAPTURE_RING_H

#include <stdatomic.h>

#include "base/base.h"
#include "base/err.h"

struct capture_ring {
    uint8_t *base;
    uint64_t size; /* a power of two */
    /* the writer's */
    _Alignas(64) _Atomic uint64_t head; /* bytes ever written; below it records are whole */
    uint64_t reserved;                  /* where the reserved record begins */
    uint64_t tail_seen;                 /* the tail as it was last looked at */
    /* the reader's */
    _Alignas(64) _Atomic uint64_t tail; /* bytes ever read */
};

/* size: a power of two, at least 4 KiB. ERR_UNAVAILABLE: no memory. */
enum err_code capture_ring_init(struct capture_ring *r, uint64_t size, struct err *e) MUST_USE;
void capture_ring_done(struct capture_ring *r); /* both sides have gone; fine if it was never made */
static inline uint64_t capture_ring_most(const struct capture_ring *r)
{
    return r->size / 4; /* bytes of one record */
}

/* ---- the writer ---- */
/* n bytes to be filled, n >= 1, at most capture_ring_most; NULL: too full. Until capture_ring_commit nobody sees them,
 * and another reservation takes their place. */
uint8_t *capture_ring_reserve(struct capture_ring *r, uint64_t n);
/* The reserved record, of n bytes (at most those reserved), is there. */
void capture_ring_commit(struct capture_ring *r, uint64_t n);

/* ---- the reader ---- */
/* The oldest record, valid until capture_ring_pop; NULL: there is none. */
const uint8_t *capture_ring_peek(struct capture_ring *r, uint64_t *n);
void capture_ring_pop(struct capture_ring *r); /* after a peek that found one */

/* Bytes taken, about; any thread. */
static inline uint64_t capture_ring_used(const struct capture_ring *r)
{
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);

    return head > tail ? head - tail : 0;
}

#endif
