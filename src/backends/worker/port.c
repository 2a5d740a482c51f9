/* SPDX-License-Identifier: Apache-2.0 */
/* A connection thread's port to a worker process.
 *
 * Jobs travel under a ticket (slot and generation), not under the host's id, so that whatever a worker writes back is
 * either a ticket that is open or a breach of the protocol, for which it is killed. Everything read from the exchange
 * is copied first and checked then.
 *
 * While jobs are open the port looks at its ring before the loop sleeps, and arms the bell only when there is nothing.
 *
 * Thread: the port's loop. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "backends/worker/worker_priv.h"
#include "base/clock.h"

#define TICKETS WIRE_SLOTS

struct ticket {
    uint64_t id;  /* the host's */
    uint64_t seq; /* the how-manyeth submit of this port */
    uint64_t deadline_us;
    uint32_t gen;
    bool open;
};

struct worker_port {
    struct port base;
    struct worker *w;
    struct port_host host;
    struct wire_server wire;
    struct watch bell, death;
    int pidfd; /* our own copy: a loop takes a descriptor once, and ports may share one */
    struct sleeper sleeper;
    struct hook down;
    struct ticket tickets[TICKETS];
    uint16_t free[TICKETS];
    unsigned n_free;
    uint64_t seq;
    bool dead, unpublished;
    struct tensor *out; /* room for the copies of one completion */
};

static bool still_open(const struct worker_port *p)
{
    return p->n_free < TICKETS;
}

static void ticket_close(struct worker_port *p, unsigned slot)
{
    p->tickets[slot].open = false;
    p->free[p->n_free++] = (uint16_t)slot;
    if (!still_open(p)) {
        sleeper_del(p->host.loop, &p->sleeper);
        wire_server_disarm(&p->wire);
    }
}

/* Copies the completion's tensors and checks them; false: the worker lies. */
static bool read_tensors(struct worker_port *p, const struct wire_done *d)
{
    const struct model_info *info = &p->w->info;
    uint64_t table = (uint64_t)d->n_out * sizeof(struct tensor);

    if (d->n_out > info->n_out || d->off > p->wire.out_bytes || d->len > p->wire.out_bytes - d->off || table > d->len) {
        return false;
    }
    memcpy(p->out, p->wire.out + d->off, table);
    for (uint32_t i = 0; i < d->n_out; i++) {
        const struct tensor *t = &p->out[i];
        uint64_t n, bytes;

        if (t->port >= info->n_out || t->dtype != info->out[t->port].dtype || t->rank > TENSOR_RANK_MAX ||
            !tensor_elements(t->dim, t->rank, &n) || t->off % MAX(dtype_size(t->dtype), 1u) != 0 ||
            t->off < d->off + table || t->off > d->off + d->len || t->len > d->off + d->len - t->off) {
            return false;
        }
        if (dtype_size(t->dtype) != 0 && (!ck_mul(n, dtype_size(t->dtype), &bytes) || bytes != t->len)) {
            return false;
        }
    }
    return true;
}

static void give_back(struct worker_port *p, unsigned slot, const struct wire_done *d)
{
    uint64_t id = p->tickets[slot].id;
    struct job_result r = {.wait_ns = d->wait_ns,
                           .compute_ns = d->compute_ns,
                           .stalled_ns = MIN(d->stalled_us * UINT64_C(1000), d->compute_ns),
                           .joined = d->joined};

    if (d->compute_ns > atomic_load_explicit(&p->w->longest_run, memory_order_relaxed)) {
        atomic_store_explicit(&p->w->longest_run, d->compute_ns, memory_order_relaxed);
    }
    if (d->code == ERR_OK) {
        r.n_out = d->n_out;
        r.out = p->out;
        r.base = p->wire.out;
        r.size = p->wire.out_bytes;
    } else {
        char text[sizeof(r.err.text)];
        size_t n = MIN(d->len, sizeof(text) - 1);

        if (d->off > p->wire.out_bytes || n > p->wire.out_bytes - d->off) {
            n = 0;
        }
        memcpy(text, p->wire.out + d->off, n);
        text[n] = '\0';
        err_set(&r.err, d->code < ERR_COUNT_ ? (enum err_code)d->code : ERR_INTERNAL, "%s",
                text[0] ? text : "the worker gave no reason");
        worker_mention_limit(p->w, &r.err);
    }
    ticket_close(p, slot);
    p->host.on->done(p->host.ctx, id, &r);
}

static bool collect(struct worker_port *p)
{
    struct wire_done d;
    bool any = false;

    /* At most one round of the ring, so that a lying done_head can not hold the loop. */
    for (unsigned i = 0; i < WIRE_SLOTS && still_open(p) && wire_next(&p->wire, &d); i++) {
        unsigned slot = (unsigned)(d.id % TICKETS);

        if (!p->tickets[slot].open || p->tickets[slot].gen != (uint32_t)(d.id / TICKETS) ||
            (d.code == ERR_OK && !read_tensors(p, &d))) {
            worker_condemn(p->w, "it broke the protocol (completion)");
            break;
        }
        give_back(p, slot, &d);
        wire_release(&p->wire, &d);
        any = true;
    }
    return any;
}

static bool on_sleep(struct sleeper *s, bool asleep)
{
    struct worker_port *p = CONTAINER_OF(s, struct worker_port, sleeper);

    if (!asleep) {
        wire_server_disarm(&p->wire);
        return !collect(p);
    }
    if (p->unpublished) {
        worker_port_flush(&p->base);
    }
    if (collect(p)) {
        return false;
    }
    return !still_open(p) || wire_server_arm(&p->wire);
}

static void on_bell(struct watch *watch, uint32_t events)
{
    struct worker_port *p = CONTAINER_OF(watch, struct worker_port, bell);
    uint64_t n;

    (void)events;
    if (read(p->bell.fd, &n, sizeof(n)) < 0 && errno != EAGAIN) {
        return;
    }
    collect(p);
}

/* Everything that was finished is out; the rest is given back, each job with what is known of its part in the death. */
static void give_up(struct worker_port *p)
{
    const struct wire_exchange *x = p->w->x;
    uint32_t n_running = MIN(atomic_load(&x->n_running), WIRE_RUNNING_MAX);
    uint64_t pulled = wire_pulled(&p->wire);
    bool own = worker_died_alone(p->w);
    struct err why = {ERR_UNAVAILABLE, ""};

    if (still_open(p)) {
        worker_describe_end(p->w, &why);
    }
    for (unsigned slot = 0; slot < TICKETS; slot++) {
        struct ticket *t = &p->tickets[slot];
        struct job_result r = {.err = why, .lost = true, .own = own};

        if (!t->open) {
            continue;
        }
        for (uint32_t i = 0; i < n_running; i++) {
            if (x->running[i].port == p->host.index && x->running[i].id == (uint64_t)t->gen * TICKETS + slot) {
                r.started = t->seq < pulled;
                r.alone = n_running == 1;
            }
        }
        ticket_close(p, slot);
        p->host.on->done(p->host.ctx, t->id, &r);
    }
}

static void on_down(struct hook *h)
{
    struct worker_port *p = CONTAINER_OF(h, struct worker_port, down);

    p->host.on->down(p->host.ctx);
}

static void on_death(struct watch *watch, uint32_t events)
{
    struct worker_port *p = CONTAINER_OF(watch, struct worker_port, death);

    (void)events;
    loop_del(p->host.loop, &p->death);
    collect(p);
    p->dead = true;
    give_up(p);
    loop_defer(p->host.loop, &p->down); /* not from here: down() may free the port */
}

enum err_code worker_port_attach(struct engine *g, const struct port_host *host, struct port **out, struct err *e)
{
    struct worker *w = CONTAINER_OF(g, struct worker, base);
    struct worker_port *p = xcalloc(1, sizeof(*p));

    assert(host->index < w->ports);
    p->base = (struct port){.ops = &worker_engine, .engine = g, .pid = (int)w->pid};
    p->w = w;
    p->host = *host;
    p->bell.fn = on_bell;
    p->death.fn = on_death;
    p->sleeper.fn = on_sleep;
    p->down.fn = on_down;
    wire_server_init(&p->wire, w->x, w->ports, host->index, w->out_bytes, w->exec_bell);
    for (unsigned i = 0; i < TICKETS; i++) {
        p->free[i] = (uint16_t)(TICKETS - 1 - i);
    }
    p->n_free = TICKETS;
    p->seq = p->wire.head;
    p->out = xcalloc(MAX(w->info.n_out, 1u), sizeof(p->out[0]));
    p->pidfd = fcntl(w->pidfd, F_DUPFD_CLOEXEC, 0);
    if (p->pidfd < 0) {
        err_sys(e, ERR_UNAVAILABLE, "no descriptor left to watch a worker");
        worker_port_detach(&p->base);
        return ERR_UNAVAILABLE;
    }
    if (loop_add(host->loop, &p->bell, w->bells[host->index], EPOLLIN, e) != ERR_OK ||
        loop_add(host->loop, &p->death, p->pidfd, EPOLLIN, e) != ERR_OK) {
        worker_port_detach(&p->base);
        return e ? e->code : ERR_INTERNAL;
    }
    *out = &p->base;
    return ERR_OK;
}

void worker_port_detach(struct port *base)
{
    struct worker_port *p = CONTAINER_OF(base, struct worker_port, base);
    struct worker *w = p->w;

    assert(!still_open(p));
    loop_del(p->host.loop, &p->bell);
    loop_del(p->host.loop, &p->death);
    sleeper_del(p->host.loop, &p->sleeper);
    loop_undefer(p->host.loop, &p->down);
    if (p->pidfd >= 0) {
        close(p->pidfd);
    }
    free(p->out);
    free(p);
    worker_let_go(w);
}

enum err_code worker_port_submit(struct port *base, const struct job *j, struct err *e)
{
    struct worker_port *p = CONTAINER_OF(base, struct worker_port, base);
    struct ticket *t;
    unsigned slot;

    if (p->dead || p->n_free == 0) {
        return err_set(e, ERR_UNAVAILABLE,
                       p->dead ? "the worker of %s is down" : "the worker of %s has all it can hold", p->w->name);
    }
    slot = p->free[p->n_free - 1];
    t = &p->tickets[slot];
    struct wire_submit m = {.id = (uint64_t)(t->gen + 1) * TICKETS + slot,
                            .deadline_us = j->deadline_us,
                            .submit_us = j->submit_us,
                            .block = j->block,
                            .flags = j->flags};
    if (!wire_submit(&p->wire, &m)) {
        return err_set(e, ERR_UNAVAILABLE, "the worker of %s has all it can hold", p->w->name);
    }
    p->n_free--;
    *t = (struct ticket){.id = j->id, .seq = p->seq++, .deadline_us = j->deadline_us, .gen = t->gen + 1, .open = true};
    p->unpublished = true;
    sleeper_add(p->host.loop, &p->sleeper);
    return ERR_OK;
}

void worker_port_flush(struct port *base)
{
    struct worker_port *p = CONTAINER_OF(base, struct worker_port, base);

    p->unpublished = false;
    wire_publish(&p->wire);
}

void worker_port_cancel(struct port *base, uint64_t id)
{
    struct worker_port *p = CONTAINER_OF(base, struct worker_port, base);

    /* A run can not be stopped half way; a client's leaving is not worth a message. What matters is a run that does not
     * end. */
    for (unsigned i = 0; i < TICKETS; i++) {
        if (p->tickets[i].open && p->tickets[i].id == id && clock_us() > p->tickets[i].deadline_us) {
            atomic_store(&p->w->overdue, true);
        }
    }
}
