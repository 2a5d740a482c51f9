/* SPDX-License-Identifier: Apache-2.0 */
/* Pull, run, complete.
 *
 * A round is what runs together: the oldest job, and if it is no solo job and the model joins, what else waits up to
 * the batch limit. The backend calls space() once a job before it writes outputs: the stretch begins with the table of
 * tensors, so that one completion slot names both. When the output space is used up the executor lets the server read
 * what is finished and waits for it to hand space back. */
#include "backends/worker/executor.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"

#define ROUND_MAX WIRE_RUNNING_MAX

struct running {
    struct wire_submit m;
    unsigned port;
    uint64_t pulled_ns;
    uint8_t *at; /* its stretch of output space, or NULL */
    uint64_t off, bytes, release;
};

struct executor {
    struct engine *engine;
    struct port *port;
    struct wire_exchange *x;
    struct window *in;
    struct model_info info;
    unsigned ports, turn;
    int bell;
    struct wire_worker *wire;
    struct running held; /* pulled, but not of this round */
    bool has_held;
    struct running round[ROUND_MAX];
    unsigned n;
};

static uint64_t table_bytes(const struct executor *x)
{
    return ALIGN_UP(x->info.n_out * sizeof(struct tensor), TENSOR_ALIGN);
}

static void flush_bells(struct executor *x)
{
    for (unsigned i = 0; i < x->ports; i++) {
        wire_worker_flush(&x->wire[i]);
    }
}

/* Waits until the server has handed back enough; NULL if that can never be. */
static uint8_t *take_space(struct executor *x, struct running *r, uint64_t bytes)
{
    struct wire_worker *w = &x->wire[r->port];

    if (bytes > wire_out_most(w)) {
        return NULL;
    }
    while ((r->at = wire_space(w, bytes, &r->off, &r->release)) == NULL) {
        struct timespec nap = {0, 200000};

        flush_bells(x);
        nanosleep(&nap, NULL); /* rare: a slow reader of large outputs */
    }
    r->bytes = bytes;
    return r->at;
}

static uint8_t *on_space(void *ctx, uint64_t id, uint64_t bytes, uint64_t *off)
{
    struct executor *x = ctx;
    struct running *r = &x->round[id];
    uint64_t total;

    if (!ck_add(bytes, table_bytes(x), &total) || r->at || !take_space(x, r, total)) {
        return NULL;
    }
    *off = r->off + table_bytes(x);
    return r->at + table_bytes(x);
}

static void on_done(void *ctx, uint64_t id, const struct job_result *res)
{
    struct executor *x = ctx;
    struct running *r = &x->round[id];
    struct wire_done d = {.id = r->m.id,
                          .wait_ns = clock_ns() - r->pulled_ns,
                          .compute_ns = res->compute_ns,
                          .code = (uint32_t)res->err.code,
                          .joined = res->joined};
    const void *head = res->out;
    uint64_t head_bytes = res->n_out * sizeof(struct tensor);

    d.wait_ns = d.wait_ns > res->compute_ns ? d.wait_ns - res->compute_ns : 0;
    if (res->err.code != ERR_OK) {
        head = res->err.text;
        head_bytes = strlen(res->err.text);
    } else {
        d.n_out = res->n_out;
    }
    if (!r->at || r->bytes < head_bytes) { /* no outputs were written: room for the head alone */
        take_space(x, r, MAX(head_bytes, 1u));
    }
    if (head_bytes > 0) {
        memcpy(r->at, head, head_bytes);
    }
    d.off = r->off;
    d.len = res->err.code == ERR_OK ? r->bytes : head_bytes;
    d.release = r->release;
    while (!wire_complete(&x->wire[r->port], &d)) {
        sched_yield(); /* can not be: the server has at most a ring's length of jobs open */
    }
}

static void on_down(void *ctx)
{
    (void)ctx; /* a library engine does not die by itself: the process does */
}

static const struct port_events events = {on_done, on_space, on_down};

/* The next job of any port, in turn. */
static bool pull(struct executor *x, struct running *r)
{
    for (unsigned i = 0; i < x->ports; i++) {
        unsigned port = (x->turn + i) % x->ports;

        if (wire_take(&x->wire[port], &r->m)) {
            x->turn = port + 1;
            r->port = port;
            r->pulled_ns = clock_ns();
            r->at = NULL;
            return true;
        }
    }
    return false;
}

static uint64_t rows_of(const struct executor *x, const struct running *r)
{
    const struct job_block *b = (const void *)(window_base(x->in) + r->m.block);

    return MAX(b->rows, 1u);
}

static void gather(struct executor *x)
{
    uint64_t rows;

    x->n = 0;
    if (x->has_held) {
        x->round[x->n++] = x->held;
        x->has_held = false;
    } else if (pull(x, &x->round[0])) {
        x->n = 1;
    } else {
        return;
    }
    if ((x->round[0].m.flags & JOB_SOLO) || !x->info.joins) {
        return;
    }
    rows = rows_of(x, &x->round[0]);
    while (x->n < ROUND_MAX && rows < x->info.batch_max && pull(x, &x->held)) {
        rows += rows_of(x, &x->held);
        if ((x->held.m.flags & JOB_SOLO) || rows > x->info.batch_max) {
            x->has_held = true;
            return;
        }
        x->round[x->n++] = x->held;
    }
}

static bool anything(struct executor *x)
{
    for (unsigned i = 0; i < x->ports; i++) {
        if (atomic_load_explicit(&x->wire[i].p->submit_head, memory_order_relaxed) != x->wire[i].tail) {
            return true;
        }
    }
    return false;
}

static void wait_for_bell(struct executor *x)
{
    struct pollfd p = {.fd = x->bell, .events = POLLIN};
    uint64_t n;

    atomic_store_explicit(&x->x->worker_sleeps, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (!anything(x) && poll(&p, 1, -1) > 0 && read(x->bell, &n, sizeof(n)) < 0 && errno != EAGAIN) {
        _exit(1);
    }
    atomic_store_explicit(&x->x->worker_sleeps, 0, memory_order_relaxed);
}

static void run_round(struct executor *x)
{
    struct err e;

    for (unsigned i = 0; i < x->n; i++) {
        x->x->running[i] = (struct wire_running){x->round[i].m.id, x->round[i].port};
    }
    atomic_store(&x->x->n_running, x->n);
    for (unsigned i = 0; i < x->n; i++) {
        const struct wire_submit *m = &x->round[i].m;
        struct job j = {.id = i, .deadline_us = m->deadline_us, .submit_us = m->submit_us, .block = m->block, .flags = m->flags};

        if (x->port->ops->submit(x->port, &j, &e) != ERR_OK) {
            struct job_result r = {.err = e, .joined = 1};
            on_done(x, i, &r);
        }
    }
    x->port->ops->flush(x->port);
    atomic_store(&x->x->n_running, 0);
    atomic_fetch_add(&x->x->progress, 1);
    flush_bells(x);
}

static void *executor_thread(void *arg)
{
    struct executor *x = arg;
    struct port_host host = {.on = &events, .ctx = x, .index = 0};
    struct err e;

    prctl(PR_SET_NAME, "weir-executor");
    if (x->engine->ops->attach(x->engine, &host, &x->port, &e) != ERR_OK) {
        _exit(1);
    }
    for (;;) {
        gather(x);
        if (x->n == 0) {
            wait_for_bell(x);
        } else {
            run_round(x);
        }
    }
    return NULL;
}

enum err_code executor_start(struct executor **out, struct engine *g, struct wire_exchange *ex, struct window *in,
                             unsigned ports, uint64_t out_bytes, int bell, const int *bells,
                             const struct model_info *info, struct err *e)
{
    struct executor *x = xcalloc(1, sizeof(*x));
    pthread_t thread;
    int rc;

    x->engine = g;
    x->x = ex;
    x->in = in;
    x->ports = ports;
    x->bell = bell;
    model_info_copy(&x->info, info);
    x->wire = xcalloc(ports, sizeof(x->wire[0]));
    for (unsigned i = 0; i < ports; i++) {
        wire_worker_init(&x->wire[i], ex, ports, i, out_bytes, bells[i]);
    }
    *out = x;
    rc = pthread_create(&thread, NULL, executor_thread, x);
    if (rc != 0) {
        errno = rc;
        return err_sys(e, ERR_UNAVAILABLE, "can not start the executor thread");
    }
    pthread_detach(thread);
    return ERR_OK;
}
