/* SPDX-License-Identifier: Apache-2.0 */
/* Windows: a memfd (or private memory) and a buddy allocator a part.
 *
 * The books are outside the window, so nothing that a worker might write can confuse them. Each part keeps, for every
 * 512-byte unit, the order of the block that begins there (or NONE) and the links of its free list. The arrays are
 * mapped lazily: a part that was never busy costs a few pages. */
#include "inference/window.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define UNIT_BITS 9
#define UNIT (1ull << UNIT_BITS)
#define ORDERS 32
#define NIL UINT32_MAX
#define TAKEN 0x80u /* in order[]: the block is taken; 0 in order[]: no block begins here (orders are stored + 1) */

struct part {
    uint32_t head[ORDERS]; /* free list of each order; unit numbers */
    uint32_t *next, *prev;
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

static void list_push(struct part *p, unsigned order, uint32_t unit)
{
    p->next[unit] = p->head[order];
    p->prev[unit] = NIL;
    if (p->head[order] != NIL) {
        p->prev[p->head[order]] = unit;
    }
    p->head[order] = unit;
    p->order[unit] = (uint8_t)(order + 1);
}

static void list_remove(struct part *p, unsigned order, uint32_t unit)
{
    if (p->prev[unit] != NIL) {
        p->next[p->prev[unit]] = p->next[unit];
    } else {
        p->head[order] = p->next[unit];
    }
    if (p->next[unit] != NIL) {
        p->prev[p->next[unit]] = p->prev[unit];
    }
    p->order[unit] = 0;
}

static enum err_code books_open(struct window *w, struct err *e)
{
    uint64_t units = w->part_bytes >> UNIT_BITS;
    size_t each = (size_t)units * (4 + 4 + 1);

    w->books_size = ALIGN_UP(each, 4096) * w->parts;
    w->books = mmap(NULL, w->books_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (w->books == MAP_FAILED) {
        w->books = NULL;
        return err_sys(e, ERR_UNAVAILABLE, "can not map %zu bytes of bookkeeping for a window", w->books_size);
    }
    for (unsigned i = 0; i < w->parts; i++) {
        struct part *p = &w->part[i];
        uint8_t *at = (uint8_t *)w->books + ALIGN_UP(each, 4096) * i;

        p->next = (uint32_t *)(void *)at;
        p->prev = (uint32_t *)(void *)(at + units * 4);
        p->order = at + units * 8;
        for (unsigned o = 0; o < ORDERS; o++) {
            p->head[o] = NIL;
        }
        list_push(p, w->top, 0);
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
    unsigned want = 0, o;
    uint32_t unit;

    if (bytes > w->part_bytes) {
        return WINDOW_NONE;
    }
    while ((UNIT << want) < bytes) {
        want++;
    }
    for (o = want; o <= w->top && p->head[o] == NIL; o++) {
    }
    if (o > w->top) {
        return WINDOW_NONE;
    }
    unit = p->head[o];
    list_remove(p, o, unit);
    while (o > want) { /* keep the lower half, so that low addresses stay warm */
        o--;
        list_push(p, o, unit + (1u << o));
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
        list_remove(p, o, mate);
        unit &= ~(1u << o);
        o++;
    }
    list_push(p, o, unit);
}

uint64_t window_used(const struct window *w, unsigned part)
{
    return w->part[part].used;
}
