/* SPDX-License-Identifier: Apache-2.0 */
/* Pull, form a batch, run, complete.
 *
 * A round is what runs together: one group of batch.h, so that it is one run of the engine. The backend calls space()
 * once a job before it writes outputs: the stretch begins with the table of tensors, so that one completion slot names
 * both. When the output space is used up the executor lets the server read what is finished and waits for it to hand
 * space back.
 *
 * The backlog is two arrays in the order of the pull, of the same jobs: what batch.h reads, and the rest. Nothing is
 * allocated after the start, and the clock is read twice a round. */
#include "backends/worker/executor.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "inference/batch.h"

#define ROUND_MAX WIRE_RUNNING_MAX

struct waiting {
    uint64_t id, deadline_us, submit_us, block, pulled_us;
    unsigned port;
};

struct running {
    struct waiting w;
    uint32_t flags;
    uint8_t *at; /* its stretch of output space, or NULL */
    uint64_t off, bytes, release;
};

struct executor {
    struct engine *engine;
    struct port *port;
    struct wire_exchange *x;
    struct window *in;
    struct model_info info;
    struct batcher batcher;
    unsigned ports, turn;
    int bell;
    struct wire_worker *wire;
    struct batch_job *jobs; /* the backlog; room for WIRE_SLOTS × ports */
    struct waiting *wait;
    uint32_t *pick; /* workspace of a round: indexes of the backlog */
    size_t n;
    uint64_t soonest_us; /* no deadline in the backlog is before it */
    struct running round[ROUND_MAX];
    unsigned n_round;
    uint64_t rows, began_us; /* of the round */
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
    struct wire_worker *w = &x->wire[r->w.port];

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

static void complete(struct executor *x, struct running *r, const struct job_result *res)
{
    struct wire_done d = {.id = r->w.id,
                          .wait_ns = (x->began_us - r->w.pulled_us) * 1000 + res->wait_ns,
                          .compute_ns = res->compute_ns,
                          .stalled_us = (uint32_t)MIN(res->stalled_ns / 1000, UINT32_MAX),
                          .code = (uint32_t)res->err.code,
                          .joined = res->joined};
    const void *head = res->out;
    uint64_t head_bytes = res->n_out * sizeof(struct tensor);

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
    while (!wire_complete(&x->wire[r->w.port], &d)) {
        sched_yield(); /* can not be: the server has at most a ring's length of jobs open */
    }
}

static void on_done(void *ctx, uint64_t id, const struct job_result *res)
{
    struct executor *x = ctx;

    complete(x, &x->round[id], res);
}

static void on_down(void *ctx)
{
    (void)ctx; /* a library engine does not die by itself: the process does */
}

static const struct port_events events = {on_done, on_space, on_down};

/* ---- the backlog ---- */

static uint64_t rows_of(const struct batch_job *j)
{
    return MAX(j->block->rows, 1u);
}

/* A host that does not say when it submitted: since it was pulled, at least. */
static uint64_t submit_of(const struct waiting *w)
{
    return w->submit_us ? w->submit_us : w->pulled_us;
}

/* All that waits, one job of each port in turn, so that a busy port does not go before the others. */
static void pull(struct executor *x, uint64_t now_us)
{
    unsigned empty = 0;
    struct wire_submit m;

    while (empty < x->ports && x->n < (size_t)WIRE_SLOTS * x->ports) {
        unsigned port = x->turn++ % x->ports;
        if (!wire_take(&x->wire[port], &m)) {
            empty++;
            continue;
        }
        empty = 0;
        x->wait[x->n] = (struct waiting){.id = m.id,
                                         .deadline_us = m.deadline_us,
                                         .submit_us = m.submit_us,
                                         .block = m.block,
                                         .pulled_us = now_us,
                                         .port = port};
        x->jobs[x->n] = (struct batch_job){.block = (const void *)(window_base(x->in) + m.block), .flags = m.flags};
        batcher_came(&x->batcher, m.submit_us, rows_of(&x->jobs[x->n]));
        x->soonest_us = MIN(x->soonest_us, m.deadline_us);
        x->n++;
    }
}

/* Closes the gaps that taken jobs leave. */
static void remove_taken(struct executor *x)
{
    size_t to = 0;

    for (size_t i = 0; i < x->n; i++) {
        if (!x->jobs[i].taken) {
            if (to < i) {
                x->jobs[to] = x->jobs[i];
                x->wait[to] = x->wait[i];
            }
            to++;
        }
    }
    x->n = to;
}

/* What has expired goes; and what would end too late makes way for what would not. Where nothing would end in time the
 * prediction may be wrong: then a run will tell. */
static void drop_late(struct executor *x, uint64_t now_us)
{
    uint64_t horizon = now_us + batcher_predict_us(&x->batcher, 1), latest = 0;
    struct job_result res = {0};

    if (horizon < x->soonest_us) {
        return;
    }
    for (size_t i = 0; i < x->n; i++) {
        latest = MAX(latest, x->wait[i].deadline_us);
    }
    horizon = latest > horizon ? horizon : now_us;
    x->began_us = now_us;
    x->soonest_us = UINT64_MAX;
    for (size_t i = 0; i < x->n; i++) {
        if (x->wait[i].deadline_us <= horizon) {
            struct running r = {.w = x->wait[i]};
            if (x->wait[i].deadline_us <= now_us) {
                err_set(&res.err, ERR_TIMEOUT, "the deadline passed while it waited for its turn to be run");
            } else {
                err_set(&res.err, ERR_UNAVAILABLE, "it waited so long that its run would end after its deadline");
            }
            complete(x, &r, &res);
            x->jobs[i].taken = true;
        } else {
            x->soonest_us = MIN(x->soonest_us, x->wait[i].deadline_us);
        }
    }
    remove_taken(x);
    flush_bells(x);
}

static uint64_t rows_waiting(const struct executor *x)
{
    uint64_t rows = 0;

    for (size_t i = 0; i < x->n; i++) {
        rows += rows_of(&x->jobs[i]);
    }
    return rows;
}

/* Moves the jobs of the next round out of the backlog; false: there are none, look again at *until_us (0: when
 * something comes). */
static bool gather(struct executor *x, uint64_t now_us, uint64_t *until_us)
{
    struct batch_view v = {.deadline_us = UINT64_MAX};
    struct batch_answer a;
    size_t picked = batch_next(x->jobs, x->n, x->info.joins, x->batcher.rule.max, x->pick, &v.rows), k = 0;

    *until_us = 0;
    if (picked == 0) {
        return false;
    }
    v.rows = MAX(v.rows, 1u);
    v.first_rows = rows_of(&x->jobs[0]);
    v.submit_us = submit_of(&x->wait[0]);
    for (size_t i = 0; i < picked; i++) {
        v.deadline_us = MIN(v.deadline_us, x->wait[x->pick[i]].deadline_us);
    }
    if (x->jobs[0].flags & JOB_SOLO) { /* nobody can join it */
        a = (struct batch_answer){.rows = v.rows};
    } else {
        a = batcher_next(&x->batcher, &v, now_us);
    }
    *until_us = a.until_us;
    x->rows = 0;
    for (size_t i = 0; i < picked; i++) {
        size_t at = x->pick[i];
        if (k == i && x->rows + rows_of(&x->jobs[at]) <= a.rows) {
            x->round[k++] = (struct running){.w = x->wait[at], .flags = x->jobs[at].flags};
            x->rows += rows_of(&x->jobs[at]);
        } else {
            x->jobs[at].taken = false;
        }
    }
    x->n_round = (unsigned)k;
    remove_taken(x);
    return k > 0;
}

/* ---- the thread ---- */

static bool anything(struct executor *x)
{
    for (unsigned i = 0; i < x->ports; i++) {
        if (atomic_load_explicit(&x->wire[i].p->submit_head, memory_order_relaxed) != x->wire[i].tail) {
            return true;
        }
    }
    return false;
}

/* until_us: 0: as long as it takes. */
static void wait_for_bell(struct executor *x, uint64_t until_us, uint64_t now_us)
{
    struct pollfd p = {.fd = x->bell, .events = POLLIN};
    uint64_t us = until_us > now_us ? until_us - now_us : 0, n;
    struct timespec ts = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};

    atomic_store_explicit(&x->x->worker_sleeps, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (!anything(x) && ppoll(&p, 1, until_us ? &ts : NULL, NULL) > 0 && read(x->bell, &n, sizeof(n)) < 0 &&
        errno != EAGAIN) {
        _exit(1);
    }
    atomic_store_explicit(&x->x->worker_sleeps, 0, memory_order_relaxed);
}

/* After a round: what it took, and who came meanwhile. Before the bells, so that who comes back for his next answer
 * comes after the end. */
static void learn(struct executor *x)
{
    uint64_t ended_us = clock_us(), oldest = ended_us;

    for (unsigned i = 0; i < x->n_round; i++) {
        oldest = MIN(oldest, submit_of(&x->round[i].w));
    }
    pull(x, ended_us);
    batcher_ran(&x->batcher, x->rows, ended_us - x->began_us, ended_us - oldest, x->rows >= batcher_limit(&x->batcher));
    batcher_ended(&x->batcher, ended_us, x->rows, rows_waiting(x));
}

static void run_round(struct executor *x)
{
    struct err e;

    for (unsigned i = 0; i < x->n_round; i++) {
        x->x->running[i] = (struct wire_running){x->round[i].w.id, x->round[i].w.port};
    }
    atomic_store(&x->x->n_running, x->n_round);
    for (unsigned i = 0; i < x->n_round; i++) {
        const struct waiting *w = &x->round[i].w;
        struct job j = {.id = i,
                        .deadline_us = w->deadline_us,
                        .submit_us = w->submit_us,
                        .block = w->block,
                        .flags = x->round[i].flags};

        if (x->port->ops->submit(x->port, &j, &e) != ERR_OK) {
            struct job_result r = {.err = e, .joined = 1};
            on_done(x, i, &r);
        }
    }
    x->port->ops->flush(x->port);
    atomic_store(&x->x->n_running, 0);
    atomic_fetch_add(&x->x->progress, 1);
    learn(x);
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
        uint64_t now = clock_us(), until;

        pull(x, now);
        drop_late(x, now);
        if (gather(x, now, &until)) {
            x->began_us = now;
            run_round(x);
        } else {
            wait_for_bell(x, until, now);
        }
    }
    return NULL;
}

enum err_code executor_start(struct executor **out, struct engine *g, struct wire_exchange *ex, struct window *in,
                             unsigned ports, uint64_t out_bytes, int bell, const int *bells,
                             const struct batch_rule *rule, const struct model_info *info, struct err *e)
{
    size_t room = (size_t)WIRE_SLOTS * ports;
    struct batch_rule bounded = {MIN(info->batch_max, ROUND_MAX), rule->delay_us, rule->slo_us};
    struct executor *x = xcalloc(1, sizeof(*x));
    pthread_t thread;
    int rc;

    x->engine = g;
    x->x = ex;
    x->in = in;
    x->ports = ports;
    x->bell = bell;
    model_info_copy(&x->info, info);
    x->soonest_us = UINT64_MAX;
    x->jobs = xcalloc(room, sizeof(x->jobs[0]));
    x->wait = xcalloc(room, sizeof(x->wait[0]));
    x->pick = xcalloc(room, sizeof(x->pick[0]));
    batcher_init(&x->batcher, &bounded, info->joins, (info->warm_ns + 999) / 1000, (info->many_ns + 999) / 1000,
                 info->many_rows);
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
