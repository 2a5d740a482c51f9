/* SPDX-License-Identifier: Apache-2.0 */
/* Every record is preceded by its length, eight bytes, and begins at a multiple of eight. SKIP in the length's place
 * says that the next record begins at the ring's front. Head and tail count all bytes that ever went by, so that full
 * and empty differ. */
#include "api/capture_ring.h"

#include <sys/mman.h>

#define SKIP UINT64_MAX
#define LENGTH 8u

enum err_code capture_ring_init(struct capture_ring *r, uint64_t size, struct err *e)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert(size >= 4096 && (size & (size - 1)) == 0);
    memset(r, 0, sizeof(*r));
    if (p == MAP_FAILED) {
        return err_sys(e, ERR_UNAVAILABLE, "no memory for a ring of captured requests");
    }
    r->base = p;
    r->size = size;
    return ERR_OK;
}

void capture_ring_done(struct capture_ring *r)
{
    if (r->base) {
        munmap(r->base, r->size);
        r->base = NULL;
    }
}

static uint8_t *at(const struct capture_ring *r, uint64_t position)
{
    return r->base + (position & (r->size - 1));
}

/* From the position to the ring's end: at least eight bytes. */
static uint64_t until_end(const struct capture_ring *r, uint64_t position)
{
    return r->size - (position & (r->size - 1));
}

uint8_t *capture_ring_reserve(struct capture_ring *r, uint64_t n)
{
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed), need = LENGTH + ALIGN_UP(n, LENGTH);
    uint64_t skip = need > until_end(r, head) ? until_end(r, head) : 0;

    assert(n > 0 && n <= capture_ring_most(r));
    if (head + skip + need - r->tail_seen > r->size) {
        r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
        if (head + skip + need - r->tail_seen > r->size) {
            return NULL;
        }
    }
    if (skip > 0) {
        const uint64_t mark = SKIP;

        memcpy(at(r, head), &mark, sizeof(mark));
    }
    r->reserved = head + skip;
    return at(r, r->reserved) + LENGTH;
}

void capture_ring_commit(struct capture_ring *r, uint64_t n)
{
    assert(n > 0);
    memcpy(at(r, r->reserved), &n, sizeof(n));
    atomic_store_explicit(&r->head, r->reserved + LENGTH + ALIGN_UP(n, LENGTH), memory_order_release);
}

const uint8_t *capture_ring_peek(struct capture_ring *r, uint64_t *n)
{
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

    if (atomic_load_explicit(&r->head, memory_order_acquire) == tail) {
        return NULL;
    }
    memcpy(n, at(r, tail), sizeof(*n));
    if (*n == SKIP) { /* it is always followed by a record */
        tail += until_end(r, tail);
        atomic_store_explicit(&r->tail, tail, memory_order_release);
        memcpy(n, at(r, tail), sizeof(*n));
    }
    return at(r, tail) + LENGTH;
}

void capture_ring_pop(struct capture_ring *r)
{
    uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed), n;

    memcpy(&n, at(r, tail), sizeof(n));
    atomic_store_explicit(&r->tail, tail + LENGTH + ALIGN_UP(n, LENGTH), memory_order_release);
}
