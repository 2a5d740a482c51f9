/* SPDX-License-Identifier: Apache-2.0 */
/* A version in service for tests; see infer_rig.h. */
#include "support/infer_rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"

#define SLOT 3
#define BLOCK_BYTES(rows) (1024 + (uint64_t)(rows) * 32)

static _Atomic unsigned answers;

/* ---- turning ---- */

uint64_t infer_limit(void)
{
    return clock_us() + SECONDS(30);
}

void infer_turn(struct infer_rig *r, uint64_t until, const char *what, const char *file, int line)
{
    if (clock_us() > until) {
        fprintf(stderr, "%s:%d: this did not come within 30 s: %s (ready %u failed %u sick %u closed %u: %s)\n", file,
                line, what, r->ready, r->failed, r->sick, r->closed, r->why.text);
        abort();
    }
    loop_once(r->loop, 5);
}

void infer_turns(struct infer_rig *r, unsigned ms)
{
    uint64_t until = clock_us() + MILLIS(ms);

    while (clock_us() < until) {
        loop_once(r->loop, 1);
    }
}

/* ---- life ---- */

static void on_ready(void *ctx, struct pool *p)
{
    (void)p;
    ((struct infer_rig *)ctx)->ready++;
}
static void on_failed(void *ctx, struct pool *p, const struct err *why)
{
    struct infer_rig *r = ctx;

    (void)p;
    r->failed++;
    r->why = *why;
}
static void on_sick(void *ctx, struct pool *p, const struct err *last)
{
    struct infer_rig *r = ctx;

    (void)p;
    r->sick++;
    r->why = *last;
}
static void on_closed(void *ctx, struct pool *p)
{
    struct infer_rig *r = ctx;

    assert(!r->pool || p == r->pool); /* NULL: it closes inside of pool_open */
    r->closed++;
    r->pool = NULL;
}
static const struct pool_events events = {on_ready, on_failed, on_sick, on_closed};

static void *shard_thread(void *arg)
{
    loop_run(((struct shard *)arg)->loop);
    return NULL;
}

struct pool_spec infer_spec(void)
{
    return (struct pool_spec){.name = "add/1",
                              .backend = "fake",
                              .dirfd = -1,
                              .instances = 1,
                              .threads = 1,
                              .batch.max = 8,
                              .queue_requests = 100000,
                              .timeout_us = SECONDS(30),
                              .queue_bytes = 1ull << 30,
                              .part_bytes = 1 << 22,
                              .out_bytes = 1 << 20,
                              .slot = SLOT};
}

void infer_begin(struct infer_rig *r, const struct engine_ops *ops, const struct pool_spec *spec, unsigned shards,
                 bool threads)
{
    struct pool_spec s = *spec;
    struct err e;
    int here = -1;

    assert(shards <= INFER_SHARDS);
    memset(r, 0, sizeof *r);
    r->n_shards = shards;
    r->threads = threads;
    if (loop_new(&r->loop, &e) != ERR_OK) {
        abort();
    }
    for (unsigned i = 0; i < shards; i++) {
        r->shards[i].index = i;
        r->shards[i].loop = r->loop;
        r->shard_list[i] = &r->shards[i];
        if (threads && (loop_new(&r->shards[i].loop, &e) != ERR_OK ||
                        pthread_create(&r->thread[i], NULL, shard_thread, &r->shards[i]) != 0)) {
            abort();
        }
    }
    if (s.dirfd < 0) {
        s.dirfd = here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    if (pool_open(&r->pool, &s, ops, r->loop, r->shard_list, shards, &events, r, &e) != ERR_OK) {
        fprintf(stderr, "pool_open: %s\n", e.text);
        abort();
    }
    if (here >= 0) {
        close(here);
    }
}

void infer_open(struct infer_rig *r, const struct engine_ops *ops, const struct pool_spec *spec, unsigned shards,
                bool threads)
{
    infer_begin(r, ops, spec, shards, threads);
    INFER_UNTIL(r, r->ready || r->failed);
    if (r->failed) {
        fprintf(stderr, "the pool failed: %s\n", r->why.text);
        abort();
    }
}

void infer_close(struct infer_rig *r, uint64_t drain_us)
{
    if (r->pool && !r->failed) {
        pool_close(r->pool, drain_us);
    }
    INFER_UNTIL(r, r->closed);
    for (unsigned i = 0; i < r->n_shards; i++) {
        assert(!r->shards[i].sched[SLOT]);
        if (r->threads) {
            loop_stop(r->shards[i].loop);
            pthread_join(r->thread[i], NULL);
            loop_free(r->shards[i].loop);
        }
    }
    infer_turns(r, 5);
    assert(r->closed == 1);
    loop_free(r->loop);
}

/* ---- requests ---- */

static bool outputs_right(const struct infer_req *q, const struct job_result *j)
{
    uint64_t elements = (uint64_t)q->rows * 4;

    if (j->n_out != (q->spin ? 1 : 2)) {
        return false;
    }
    for (uint32_t i = 0; i < j->n_out; i++) {
        const struct tensor *t = &j->out[i];
        const float *v = (const void *)(j->base + t->off);

        if (t->port != i || t->dtype != DTYPE_FP32 || t->rank != 2 || t->dim[0] != q->rows || t->dim[1] != 4 ||
            t->len != elements * sizeof(float) || t->off > j->size || t->len > j->size - t->off) {
            return false;
        }
        for (uint64_t k = 0; k < elements; k++) {
            float x = q->value + (float)k;
            if (v[k] != (q->spin ? x : i == 0 ? x + 1 : x - 1)) {
                return false;
            }
        }
    }
    return true;
}

static void on_done(struct infer *infer, const struct infer_result *res)
{
    struct infer_req *q = CONTAINER_OF(infer, struct infer_req, infer);

    q->n_done++;
    q->err = res->job->err;
    q->moved = res->moved;
    q->deaths = res->deaths;
    q->joined = res->job->joined;
    q->submit_ns = res->submit_ns;
    q->given_ns = res->given_ns;
    q->done_ns = res->done_ns;
    q->instance = res->instance;
    q->place = res->place;
    q->answered_us = clock_us();
    q->order = atomic_fetch_add(&answers, 1);
    q->right = q->err.code == ERR_OK && outputs_right(q, res->job);
    sched_release(q->rig->shards[q->shard].sched[SLOT], q->class, q->bytes);
    if (q->then) {
        q->then(q);
    }
}

static void fill(uint8_t *base, uint64_t block, const struct infer_req *q, int64_t trips)
{
    struct job_block *b = (void *)(base + block);
    uint64_t at = ALIGN_UP(block + job_block_bytes(2, 0), TENSOR_ALIGN), bytes = (uint64_t)q->rows * 16;
    float *x = (void *)(base + at), *y = (void *)(base + at + ALIGN_UP(bytes, TENSOR_ALIGN));

    *b = (struct job_block){.n_in = 2, .rows = q->spin ? 0 : (uint64_t)q->rows};
    for (unsigned i = 0; i < 2; i++) {
        b->in[i] =
            (struct tensor){.port = (uint16_t)i, .dtype = DTYPE_FP32, .rank = 2, .dim = {q->rows, 4}, .len = bytes};
    }
    b->in[0].off = at;
    b->in[1].off = (uint64_t)((uint8_t *)y - base);
    for (int64_t k = 0; k < q->rows * 4; k++) {
        x[k] = q->value + (float)k;
        y[k] = 1;
    }
    if (q->spin) {
        b->in[1] = (struct tensor){.port = 1, .dtype = DTYPE_INT64, .off = b->in[1].off, .len = sizeof trips};
        memcpy(y, &trips, sizeof trips);
    }
}

static enum err_code give_in(struct infer_rig *r, struct infer_req *q, unsigned shard, float value, int64_t rows,
                             int64_t trips, uint64_t after_us)
{
    struct sched *s = r->shards[shard].sched[SLOT];
    void (*then)(struct infer_req *) = q->then;
    void *ctx = q->ctx;
    enum job_class class = q->class;
    const struct job_origin *origin = q->infer.origin;
    uint64_t block;

    *q = (struct infer_req){.infer.origin = origin,
                            .rig = r,
                            .shard = shard,
                            .value = value,
                            .rows = rows,
                            .spin = trips > 0,
                            .bytes = BLOCK_BYTES(rows),
                            .class = class,
                            .then = then,
                            .ctx = ctx};
    q->infer.done = on_done;
    q->infer.deadline_us = after_us ? clock_us() + after_us : UINT64_MAX;
    q->infer.class = q->class;
    if (sched_admit(s, &(struct admission_ask){q->bytes, q->infer.deadline_us, q->class}, &q->wait_us, &q->err) !=
        ERR_OK) {
        return q->err.code;
    }
    block = sched_take(s, q->bytes);
    if (block == WINDOW_NONE) {
        sched_release(s, q->class, q->bytes);
        return err_set(&q->err, ERR_UNAVAILABLE, "the window is full");
    }
    fill(sched_at(s, 0), block, q, trips);
    q->infer.block = block;
    if (sched_submit(s, &q->infer, &q->err) != ERR_OK) {
        sched_give(s, block);
        sched_release(s, q->class, q->bytes);
        return q->err.code;
    }
    return ERR_OK;
}

enum err_code infer_send(struct infer_rig *r, struct infer_req *q, unsigned shard, float value, int64_t rows,
                         uint64_t after_us)
{
    return give_in(r, q, shard, value, rows, 0, after_us);
}

enum err_code infer_spin(struct infer_rig *r, struct infer_req *q, unsigned shard, float value, int64_t trips,
                         uint64_t after_us)
{
    return give_in(r, q, shard, value, 1, trips, after_us);
}

/* ---- load ---- */

static void next_of_load(struct infer_req *q);

static void load_send(struct infer_load *l, struct infer_req *q)
{
    unsigned n = atomic_fetch_add(&l->sent, 1);

    if (n >= l->total) {
        atomic_fetch_sub(&l->sent, 1);
        return;
    }
    q->then = next_of_load;
    q->ctx = l;
    if (infer_send(l->rig, q, l->shard, (float)(n % 1000 + 10 * l->shard), 1 + n % 3, l->after_us) != ERR_OK) {
        fprintf(stderr, "a request of a load was not taken: %s\n", q->err.text);
        abort();
    }
}

static void next_of_load(struct infer_req *q)
{
    struct infer_load *l = q->ctx;

    atomic_fetch_add(q->err.code != ERR_OK ? &l->failed[q->err.code] : q->right ? &l->right : &l->wrong, 1);
    atomic_fetch_add(&l->moved, q->moved);
    atomic_fetch_add(&l->deaths, q->deaths);
    load_send(l, q);
    if (atomic_fetch_add(&l->answered, 1) + 1 == l->total) {
        free(l->reqs); /* q is one of them: nothing after this may touch it */
        atomic_fetch_sub(&l->rig->loads, 1);
    }
}

static void on_load(struct task *t)
{
    struct infer_load *l = CONTAINER_OF(t, struct infer_load, task);

    l->reqs = xcalloc(l->width, sizeof *l->reqs);
    for (unsigned i = 0; i < l->width; i++) {
        load_send(l, &l->reqs[i]);
    }
}

void infer_load(struct infer_rig *r, struct infer_load *l, unsigned shard)
{
    l->rig = r;
    l->shard = shard;
    l->task.fn = on_load;
    atomic_fetch_add(&r->loads, 1);
    loop_post(r->shards[shard].loop, &l->task);
}
