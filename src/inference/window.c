/* SPDX-License-Identifier: Apache-2.0 */
/* Windows: a memfd (or private memory) and a buddy allocator a part.
 *
 * The books are outside the window, so nothing that a worker might write can confuse them. Each part keeps, for every
 * 512-byte unit, the order of the block that begins there, and for every order a set of the free blocks: a tree of
 * bits, whose words say which words below them are not empty. So the lowest free block is found in a few steps, however
 * many there are, and taking always the lowest keeps what was ever touched of the window close to what was in use at
 * the worst moment: the memory of a server under load does not creep up with time. The arrays are mapped lazily: a part
 * that was never busy costs a few pages. */
#include "inference/window.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define UNIT_BITS 9
#define UNIT (1ull << UNIT_BITS)
#define ORDERS 32
#define LEVELS 6    /* of 64 each: enough for 2^32 units */
#define TAKEN 0x80u /* in order[]: the block is taken; 0 in order[]: no block begins here (orders are stored + 1) */

struct set { /* of free blocks of one order, by number: the unit >> the order */
    uint64_t *level[LEVELS];
    unsigned top; /* the level that has one word */
};
struct part {
    uint32_t some; /* bit o: there are free blocks of order o */
    struct set free[ORDERS];
    uint8_t *order;
    uint64_t used;
};

struct window {
    int fd;
    uint8_t *base;
    uint64_t size, part_bytes;
    unsigned parts, top; /* top: the order of a whole part */
    void *books;
    size_t books_size;
    struct part part[];
};

/* ---- the free blocks ---- */

static uint64_t words_of(uint64_t bits)
{
    return (bits + 63) / 64;
}

/* Where the set's levels are, from `at` on; returns what is behind them. at NULL: only counts. */
static uint64_t *set_place(struct set *s, uint64_t blocks, uint64_t *at, size_t *words)
{
    unsigned l = 0;

    for (uint64_t n = words_of(blocks);; n = words_of(n), l++) {
        if (at) {
            s->level[l] = at;
            s->top = l;
            at += n;
        }
        *words += n;
        if (n == 1) {
            return at;
        }
    }
}

static void set_add(struct part *p, unsigned order, uint32_t unit)
{
    struct set *s = &p->free[order];
    uint64_t i = unit >> order, had;

    for (unsigned l = 0; l <= s->top; l++, i /= 64) {
        had = s->level[l][i / 64];
        s->level[l][i / 64] = had | 1ull << i % 64;
        if (had) {
            break; /* the words above know already */
        }
    }
    p->some |= 1u << order;
    p->order[unit] = (uint8_t)(order + 1);
}

static void set_remove(struct part *p, unsigned order, uint32_t unit)
{
    struct set *s = &p->free[order];
    uint64_t i = unit >> order;

    for (unsigned l = 0; l <= s->top; l++, i /= 64) {
        if (s->level[l][i / 64] &= ~(1ull << i % 64)) {
            break;
        }
    }
    if (s->level[s->top][0] == 0) {
        p->some &= ~(1u << order);
    }
    p->order[unit] = 0;
}

static uint32_t set_lowest(const struct set *s) /* not empty */
{
    uint64_t i = 0;

    for (unsigned l = s->top + 1; l-- > 0;) {
        i = i * 64 + (uint64_t)__builtin_ctzll(s->level[l][i]);
    }
    return (uint32_t)i;
}

/* The lowest free block of one of these orders, of which there is one. */
static uint32_t lowest(const struct part *p, uint32_t orders, unsigned *order)
{
    uint32_t best = UINT32_MAX;

    for (; orders; orders &= orders - 1) {
        unsigned o = (unsigned)__builtin_ctz(orders);
        uint32_t unit = set_lowest(&p->free[o]) << o;

        if (unit < best) {
            best = unit;
            *order = o;
        }
    }
    return best;
}

static enum err_code books_open(struct window *w, struct err *e)
{
    uint64_t units = w->part_bytes >> UNIT_BITS;
    size_t words = 0, each;

    for (unsigned o = 0; o <= w->top; o++) {
        set_place(NULL, units >> o, NULL, &words);
    }
    each = ALIGN_UP(words * 8 + units, 4096);
    w->books_size = each * w->parts;
    w->books = mmap(NULL, w->books_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (w->books == MAP_FAILED) {
        w->books = NULL;
        return err_sys(e, ERR_UNAVAILABLE, "can not map %zu bytes of bookkeeping for a window", w->books_size);
    }
    for (unsigned i = 0; i < w->parts; i++) {
        struct part *p = &w->part[i];
        uint64_t *at = (uint64_t *)(void *)((uint8_t *)w->books + each * i);
        size_t unused = 0;

        for (unsigned o = 0; o <= w->top; o++) {
            at = set_place(&p->free[o], units >> o, at, &unused);
        }
        p->order = (uint8_t *)at;
        set_add(p, w->top, 0);
    }
    return ERR_OK;
}

static enum err_code memory_open(struct window *w, const char *name, bool shared, struct err *e)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

    if (shared) {
        flags = MAP_SHARED | MAP_NORESERVE;
        w->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (w->fd < 0 || ftruncate(w->fd, (off_t)w->size) != 0) {
            return err_sys(e, ERR_UNAVAILABLE, "can not make a shared window of %llu bytes",
                           (unsigned long long)w->size);
        }
    }
    w->base = mmap(NULL, w->size, PROT_READ | PROT_WRITE, flags, w->fd, 0);
    if (w->base == MAP_FAILED) {
        w->base = NULL;
        return err_sys(e, ERR_UNAVAILABLE, "can not map a window of %llu bytes", (unsigned long long)w->size);
    }
    if (shared && fcntl(w->fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
        return err_sys(e, ERR_INTERNAL, "can not seal a shared window (Linux 5.1 or newer is needed)");
    }
    return ERR_OK;
}

enum err_code window_new(struct window **out, const char *name, uint64_t part_bytes, unsigned parts, bool shared,
                         struct err *e)
{
    struct window *w = xcalloc(1, sizeof(*w) + parts * sizeof(w->part[0]));

    w->fd = -1;
    w->parts = parts;
    w->part_bytes = UNIT;
    while (w->part_bytes < part_bytes && w->top + 1 < ORDERS) {
        w->part_bytes <<= 1;
        w->top++;
    }
    w->size = w->part_bytes * parts;
    if (memory_open(w, name, shared, e) != ERR_OK || books_open(w, e) != ERR_OK) {
        window_free(w);
        return e ? e->code : ERR_UNAVAILABLE;
    }
    *out = w;
    return ERR_OK;
}

enum err_code window_map(struct window **out, int fd, uint64_t size, struct err *e)
{
    struct window *w = xcalloc(1, sizeof(*w));

    w->fd = -1;
    w->size = size;
    w->base = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (w->base == MAP_FAILED) {
        w->base = NULL;
        window_free(w);
        return err_sys(e, ERR_INTERNAL, "can not map the input window");
    }
    *out = w;
    return ERR_OK;
}

void window_free(struct window *w)
{
    if (!w) {
        return;
    }
    if (w->books) {
        munmap(w->books, w->books_size);
    }
    if (w->base) {
        munmap(w->base, w->size);
    }
    if (w->fd >= 0) {
        close(w->fd);
    }
    free(w);
}

int window_fd(const struct window *w)
{
    return w->fd;
}

uint8_t *window_base(const struct window *w)
{
    return w->base;
}

uint64_t window_size(const struct window *w)
{
    return w->size;
}

uint64_t window_take(struct window *w, unsigned part, uint64_t bytes)
{
    struct part *p = &w->part[part];
    unsigned want = 0, o = 0;
    uint32_t unit, large;

    if (bytes > w->part_bytes) {
        return WINDOW_NONE;
    }
    while ((UNIT << want) < bytes) {
        want++;
    }
    large = p->some >> want << want;
    if (!large) {
        return WINDOW_NONE;
    }
    unit = lowest(p, large, &o);
    set_remove(p, o, unit);
    while (o > want) { /* keep the lower half */
        o--;
        set_add(p, o, unit + (1u << o));
    }
    p->order[unit] = (uint8_t)((want + 1) | TAKEN);
    p->used += UNIT << want;
    return part * w->part_bytes + ((uint64_t)unit << UNIT_BITS);
}

void window_give(struct window *w, unsigned part, uint64_t off)
{
    struct part *p = &w->part[part];
    uint64_t in = off - part * w->part_bytes;
    uint32_t unit = (uint32_t)(in >> UNIT_BITS);
    unsigned o;

    assert(in < w->part_bytes && (in & (UNIT - 1)) == 0 && (p->order[unit] & TAKEN));
    o = (p->order[unit] & ~TAKEN) - 1u;
    p->used -= UNIT << o;
    p->order[unit] = 0;
    while (o < w->top) {
        uint32_t mate = unit ^ (1u << o);

        if (p->order[mate] != o + 1) { /* taken, split, or inside something larger */
            break;
        }
        set_remove(p, o, mate);
        unit &= ~(1u << o);
        o++;
    }
    set_add(p, o, unit);
}

uint64_t window_used(const struct window *w, unsigned part)
{
    return w->part[part].used;
}
