/* SPDX-License-Identifier: Apache-2.0 */
/* The rings of the exchange. Publication is a release store of an index, reading it an acquire load; between "I sleep"
 * and the last look at the ring stands a full fence on both sides, so that a bell is never missed. */
#include "inference/wire.h"

#include <unistd.h>

#define PAGE 4096u
#define OUT_ALIGN 64u

uint64_t wire_size(unsigned ports, uint64_t out_bytes)
{
    return wire_out(ports, ports, out_bytes);
}

uint64_t wire_out(unsigned ports, unsigned i, uint64_t out_bytes)
{
    uint64_t head = ALIGN_UP(sizeof(struct wire_exchange) + ports * sizeof(struct wire_port), PAGE);

    return head + i * ALIGN_UP(out_bytes, PAGE);
}

static void ring_bell(int fd)
{
    uint64_t one = 1;

    /* EAGAIN means that it rings already; nothing else can happen to an eventfd that we hold. */
    if (write(fd, &one, sizeof(one)) != (ssize_t)sizeof(one)) {
        return;
    }
}

/* ---- server ---- */

void wire_server_init(struct wire_server *s, void *exchange, unsigned ports, unsigned i, uint64_t out_bytes, int bell)
{
    struct wire_exchange *x = exchange;

    *s = (struct wire_server){.x = x,
                              .p = &x->port[i],
                              .out = (const uint8_t *)exchange + wire_out(ports, i, out_bytes),
                              .out_bytes = ALIGN_UP(out_bytes, PAGE),
                              .bell = bell}; /* from zero: what stands in the exchange may be a lie already */
}

bool wire_submit(struct wire_server *s, const struct wire_submit *m)
{
    /* What is not completed is still in flight, so done_tail bounds the ring: a lying submit_tail can not make us
     * overwrite. */
    if (s->head - s->tail >= WIRE_SLOTS) {
        return false;
    }
    s->p->submit[s->head % WIRE_SLOTS] = *m;
    s->head++;
    return true;
}

void wire_publish(struct wire_server *s)
{
    atomic_store_explicit(&s->p->submit_head, s->head, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&s->x->worker_sleeps, memory_order_relaxed)) {
        atomic_store_explicit(&s->x->worker_sleeps, 0, memory_order_relaxed);
        ring_bell(s->bell);
    }
}

bool wire_next(struct wire_server *s, struct wire_done *out)
{
    if (atomic_load_explicit(&s->p->done_head, memory_order_acquire) == s->tail) {
        return false;
    }
    memcpy(out, &s->p->done[s->tail % WIRE_SLOTS], sizeof(*out));
    s->tail++;
    return true;
}

void wire_release(struct wire_server *s, const struct wire_done *d)
{
    atomic_store_explicit(&s->p->released, d->release, memory_order_release);
    atomic_store_explicit(&s->p->done_tail, s->tail, memory_order_release);
}

bool wire_server_arm(struct wire_server *s)
{
    atomic_store_explicit(&s->p->server_sleeps, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&s->p->done_head, memory_order_relaxed) == s->tail;
}

void wire_server_disarm(struct wire_server *s)
{
    atomic_store_explicit(&s->p->server_sleeps, 0, memory_order_relaxed);
}

uint64_t wire_pulled(const struct wire_server *s)
{
    uint64_t n = atomic_load_explicit(&s->p->submit_tail, memory_order_acquire);

    return n > s->head ? s->head : n;
}

/* ---- worker ---- */

void wire_worker_init(struct wire_worker *w, void *exchange, unsigned ports, unsigned i, uint64_t out_bytes, int bell)
{
    struct wire_exchange *x = exchange;

    *w = (struct wire_worker){.x = x,
                              .p = &x->port[i],
                              .out = (uint8_t *)exchange + wire_out(ports, i, out_bytes),
                              .out_bytes = ALIGN_UP(out_bytes, PAGE),
                              .bell = bell};
}

bool wire_take(struct wire_worker *w, struct wire_submit *out)
{
    if (atomic_load_explicit(&w->p->submit_head, memory_order_acquire) == w->tail) {
        return false;
    }
    memcpy(out, &w->p->submit[w->tail % WIRE_SLOTS], sizeof(*out));
    w->tail++;
    atomic_store_explicit(&w->p->submit_tail, w->tail, memory_order_release);
    return true;
}

uint64_t wire_out_most(const struct wire_worker *w)
{
    return w->out_bytes;
}

uint8_t *wire_space(struct wire_worker *w, uint64_t bytes, uint64_t *off, uint64_t *release)
{
    uint64_t free_from = atomic_load_explicit(&w->p->released, memory_order_acquire);
    uint64_t at = w->out_head, pos, need = ALIGN_UP(bytes, OUT_ALIGN);

    if (bytes > w->out_bytes) {
        return NULL;
    }
    if (free_from == at) { /* all of it is free: begin at the start again, where the cache is warm */
        pos = at % w->out_bytes;
        at += pos ? w->out_bytes - pos : 0;
        w->floor = at;
    } else {
        pos = at % w->out_bytes;
        if (pos + need > w->out_bytes) { /* does not fit before the end: go on at the start */
            at += w->out_bytes - pos;
        }
    }
    if (at + need - MAX(free_from, w->floor) > w->out_bytes) {
        return NULL;
    }
    *off = at % w->out_bytes;
    w->out_head = at + need;
    *release = w->out_head;
    return w->out + *off;
}

bool wire_complete(struct wire_worker *w, const struct wire_done *d)
{
    if (w->head - atomic_load_explicit(&w->p->done_tail, memory_order_acquire) >= WIRE_SLOTS) {
        return false;
    }
    memcpy(&w->p->done[w->head % WIRE_SLOTS], d, sizeof(*d));
    w->head++;
    atomic_store_explicit(&w->p->done_head, w->head, memory_order_release);
    return true;
}

void wire_worker_flush(struct wire_worker *w)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&w->p->server_sleeps, memory_order_relaxed)) {
        atomic_store_explicit(&w->p->server_sleeps, 0, memory_order_relaxed);
        ring_bell(w->bell);
    }
}
