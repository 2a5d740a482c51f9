/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs through a port of the ONNX engine: alone and joined give the same, a bad one hurts nobody else, and every job
 * gets its one answer: late, cancelled, refused, too large, or submitted from inside another's. */
#include <setjmp.h>
#include <stdarg.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "backends/onnx/onnx.h"
#include "base/clock.h"
#include "support/onnx_rig.h"

#define FLOATS(name, rows_, width) \
    (struct onnx_rig_in){.dtype = DTYPE_FP32, .rank = 2, .dim = {rows_, width}, .p = name, .len = (rows_) * (width) * 4}

static void must_open(struct onnx_rig *r, const char *name)
{
    if (!onnx_rig_open(r, onnx_rig_model(name), NULL)) {
        fail_msg("%s: %s", name, r->end.err.text);
    }
}

static uint64_t submit(struct onnx_rig *r, struct onnx_rig_in in, uint32_t flags)
{
    struct err e = {0};
    uint64_t id = onnx_rig_submit(r, onnx_rig_block(r, &in, 1, NULL, 0), UINT64_MAX, flags, &e);

    if (!id) {
        fail_msg("submit: %s", e.text);
    }
    return id;
}

static void fill(float *x, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 16777216.0f;
    }
}

/* ---- joining ---- */

static void joined_as_alone(void **state)
{
    enum { JOBS = 21 };
    struct onnx_rig r;
    float x[JOBS][3 * 16], alone[JOBS][3 * 4];
    uint64_t id[JOBS];
    uint32_t most = 0;

    (void)state;
    must_open(&r, "mlp");
    for (unsigned i = 0; i < JOBS; i++) {
        fill(x[i], 3 * 16, i + 1);
        const struct onnx_rig_result *d = onnx_rig_run(&r, &FLOATS(x[i], 1 + i % 3, 16), 1);
        assert_int_equal(d->err.code, ERR_OK);
        assert_int_equal(d->joined, 1);
        assert_true(d->out[0].rank == 2 && d->out[0].dim[0] == 1 + i % 3 && d->out[0].dim[1] == 4);
        memcpy(alone[i], onnx_rig_data(d, 0), d->out[0].len);
    }
    onnx_rig_clear(&r);
    for (unsigned i = 0; i < JOBS; i++) {
        id[i] = submit(&r, FLOATS(x[i], 1 + i % 3, 16), 0);
    }
    assert_int_equal(r.n_done, 0); /* nothing runs before flush */
    onnx_engine.flush(r.port);
    assert_int_equal(r.n_done, JOBS);
    for (unsigned i = 0; i < JOBS; i++) {
        const struct onnx_rig_result *d = onnx_rig_find(&r, id[i]);
        const float *y = onnx_rig_data(d, 0);
        assert_int_equal(d->err.code, ERR_OK);
        assert_int_equal(d->out[0].dim[0], 1 + i % 3);
        for (unsigned k = 0; k < (1 + i % 3) * 4; k++) {
            assert_true(fabsf(y[k] - alone[i][k]) < 1e-5f);
        }
        most = MAX(most, d->joined);
    }
    assert_true(most >= 7); /* 16 rows are 8 jobs of 1, 2, 3 … */
    onnx_rig_close(&r);
}

static void those_that_do_not_join(void **state)
{
    struct onnx_rig r;
    float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};

    (void)state;
    must_open(&r, "mixing");
    uint64_t a = submit(&r, FLOATS(x, 1, 4), 0), b = submit(&r, FLOATS(x + 4, 1, 4), 0);
    onnx_engine.flush(r.port);
    for (unsigned i = 0; i < 4; i++) { /* a row less its own mean */
        assert_true(((const float *)onnx_rig_data(onnx_rig_find(&r, a), 0))[i] == 0);
        assert_true(((const float *)onnx_rig_data(onnx_rig_find(&r, b), 0))[i] == 0);
    }
    assert_int_equal(onnx_rig_find(&r, a)->joined, 1);
    onnx_rig_close(&r);

    must_open(&r, "identity_fp32");
    a = submit(&r, FLOATS(x, 1, 3), 0);
    b = submit(&r, FLOATS(x, 1, 3), JOB_SOLO);
    uint64_t c = submit(&r, FLOATS(x, 1, 3), 0);
    onnx_engine.flush(r.port);
    assert_int_equal(onnx_rig_find(&r, a)->joined, 2);
    assert_int_equal(onnx_rig_find(&r, b)->joined, 1);
    assert_int_equal(onnx_rig_find(&r, c)->joined, 2);
    onnx_rig_close(&r);
}

static void strings_joined(void **state)
{
    static const uint8_t a[] = {1, 0, 0, 0, 'a', 0, 0, 0, 0, 2, 0, 0, 0, 'b', 0};
    static const uint8_t b[] = {0, 0, 0,    0, 9, 0, 0, 0,   'l', 'o', 'n', 'g', ' ', 't', 'e', 'x', 't', 1,  0,
                                0, 0, 0xff, 1, 0, 0, 0, 'x', 1,   0,   0,   0,   'y', 1,   0,   0,   0,   'z'};
    struct onnx_rig r;
    struct onnx_rig_in in[] = {{.dtype = DTYPE_BYTES, .rank = 2, .dim = {1, 3}, .p = a, .len = sizeof a},
                               {.dtype = DTYPE_BYTES, .rank = 2, .dim = {2, 3}, .p = b, .len = sizeof b}};
    uint64_t id[2];

    (void)state;
    must_open(&r, "identity_bytes");
    for (unsigned i = 0; i < 2; i++) {
        id[i] = submit(&r, in[i], 0);
    }
    onnx_engine.flush(r.port);
    for (unsigned i = 0; i < 2; i++) {
        const struct onnx_rig_result *d = onnx_rig_find(&r, id[i]);
        assert_int_equal(d->joined, 2);
        assert_int_equal(d->out[0].len, in[i].len);
        assert_memory_equal(onnx_rig_data(d, 0), in[i].p, in[i].len);
    }
    onnx_rig_clear(&r);
    /* One of two with a length beyond its end: a client's error, and the other is answered. */
    uint8_t bad[sizeof a];
    memcpy(bad, a, sizeof a);
    bad[9] = 3;
    in[0].p = bad;
    for (unsigned i = 0; i < 2; i++) {
        id[i] = submit(&r, in[i], 0);
    }
    onnx_engine.flush(r.port);
    assert_int_equal(onnx_rig_find(&r, id[0])->err.code, ERR_INVALID);
    assert_int_equal(onnx_rig_find(&r, id[1])->err.code, ERR_OK);
    onnx_rig_close(&r);
}

static void a_bad_one_hurts_nobody_else(void **state)
{
    struct onnx_rig r;
    uint64_t id[8];
    int64_t idx[8] = {0, 9, 3, 10, 4, -11, 5, 6}; /* the table has 10 rows; -1 … -10 count from its end */

    (void)state;
    must_open(&r, "gather");
    for (unsigned i = 0; i < 8; i++) {
        id[i] =
            submit(&r, (struct onnx_rig_in){.dtype = DTYPE_INT64, .rank = 1, .dim = {1}, .p = &idx[i], .len = 8}, 0);
    }
    onnx_engine.flush(r.port);
    for (unsigned i = 0; i < 8; i++) {
        const struct onnx_rig_result *d = onnx_rig_find(&r, id[i]);
        if (i == 3 || i == 5) {
            assert_int_equal(d->err.code, ERR_INVALID); /* the model is healthy */
            assert_non_null(strstr(d->err.text, "Gather"));
            assert_null(strstr(d->err.text, "onnxruntime")); /* no source path of the runtime */
        } else {
            assert_int_equal(d->err.code, ERR_OK);
            assert_true(((const float *)onnx_rig_data(d, 0))[0] == (float)(idx[i] * 4));
        }
    }
    onnx_rig_close(&r);
}

/* ---- inputs and outputs ---- */

static void wanted_outputs(void **state)
{
    float a[4] = {1, 2, 3, 4}, b[4] = {10, 20, 30, 40};
    struct onnx_rig r;
    struct onnx_rig_in in[2] = {FLOATS(b, 1, 4), FLOATS(a, 1, 4)};
    struct err e;
    uint64_t id[3];

    (void)state;
    must_open(&r, "add"); /* c = a + b, d = a - b */
    in[0].port = 1;       /* in an order of the client's own */
    id[0] = onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, (uint16_t[]){1}, 1), UINT64_MAX, 0, &e);
    id[1] = onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, (uint16_t[]){1, 0}, 2), UINT64_MAX, 0, &e);
    id[2] = onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, NULL, 0), UINT64_MAX, 0, &e);
    onnx_engine.flush(r.port);
    const struct onnx_rig_result *d = onnx_rig_find(&r, id[0]);
    assert_true(d->err.code == ERR_OK && d->n_out == 1 && d->out[0].port == 1);
    assert_true(((const float *)onnx_rig_data(d, 0))[3] == -36);
    d = onnx_rig_find(&r, id[1]);
    assert_true(d->n_out == 2 && d->out[0].port == 1 && d->out[1].port == 0);
    assert_true(((const float *)onnx_rig_data(d, 0))[3] == -36 && ((const float *)onnx_rig_data(d, 1))[3] == 44);
    d = onnx_rig_find(&r, id[2]);
    assert_true(d->n_out == 2 && d->out[0].port == 0 && ((const float *)onnx_rig_data(d, 0))[0] == 11);
    onnx_rig_close(&r);
}

static void refused_at_submit(void **state)
{
    float x[16] = {0};
    struct onnx_rig r;
    struct onnx_rig_in in[2] = {FLOATS(x, 1, 4), FLOATS(x, 1, 4)};
    struct err e;

    (void)state;
    must_open(&r, "add");
    in[1].port = 1;
    assert_int_equal(onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, (uint16_t[]){2}, 1), UINT64_MAX, 0, &e), 0);
    assert_int_equal(onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, (uint16_t[]){1, 1}, 2), UINT64_MAX, 0, &e), 0);
    in[1].port = 0;
    assert_int_equal(onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, NULL, 0), UINT64_MAX, 0, &e), 0); /* twice */
    in[1].port = 2;
    assert_int_equal(onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, NULL, 0), UINT64_MAX, 0, &e), 0);
    in[1].port = 1;
    in[1].dim[1] = 5;
    assert_int_equal(onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, NULL, 0), UINT64_MAX, 0, &e),
                     0); /* more than its bytes */
    assert_int_equal(e.code, ERR_INVALID);
    assert_int_equal(onnx_rig_submit(&r, window_size(r.in) - 8, UINT64_MAX, 0, &e), 0);
    assert_int_equal(onnx_rig_submit(&r, UINT64_MAX - 7, UINT64_MAX, 0, &e), 0);
    onnx_engine.flush(r.port);
    assert_int_equal(r.n_done, 0);
    onnx_rig_close(&r);
}

static void refused_by_the_model(void **state)
{
    float x[64] = {0};
    struct onnx_rig r;
    struct onnx_rig_in in = FLOATS(x, 1, 16);

    (void)state;
    must_open(&r, "mlp");
    in.dim[1] = 15;
    in.len = 60;
    assert_int_equal(onnx_rig_run(&r, &in, 1)->err.code, ERR_INVALID); /* a wrong width */
    in = FLOATS(x, 1, 16);
    in.dtype = DTYPE_INT32;
    assert_int_equal(onnx_rig_run(&r, &in, 1)->err.code, ERR_INVALID); /* a wrong dtype */
    in = FLOATS(x, 1, 16);
    in.rank = 3;
    in.dim[2] = 1;
    assert_int_equal(onnx_rig_run(&r, &in, 1)->err.code, ERR_INVALID);
    assert_int_equal(onnx_rig_run(&r, &in, 0)->err.code, ERR_INVALID); /* no input at all */
    in = FLOATS(x, 0, 16);
    assert_int_equal(onnx_rig_run(&r, &in, 1)->err.code, ERR_OK); /* no rows are fine */
    in = FLOATS(x, 1, 16);
    assert_int_equal(onnx_rig_run(&r, &in, 1)->err.code, ERR_OK);
    onnx_rig_close(&r);
}

static void shapes_of_all_kinds(void **state)
{
    struct onnx_rig r;
    int64_t n = 1000000, z = 0, huge = 1ll << 40;
    float one = 1, sparse[8] = {0, 1, 0, 0, 2, 0, 0, 0}, mixed[4] = {.1f, .9f, .8f, .2f};
    const struct onnx_rig_result *d;

    (void)state;
    must_open(&r, "grow");
    struct onnx_rig_in in = {.dtype = DTYPE_INT64, .rank = 1, .dim = {1}, .p = &n, .len = 8};
    d = onnx_rig_run(&r, &in, 1);
    assert_true(d->err.code == ERR_OK && d->out[0].dim[0] == n && d->out[0].len == 4000000);
    in.p = &z;
    d = onnx_rig_run(&r, &in, 1);
    assert_true(d->err.code == ERR_OK && d->out[0].dim[0] == 0 && d->out[0].len == 0);
    n = 20000000; /* 80 MB: more than the host has room for */
    in.p = &n;
    d = onnx_rig_run(&r, &in, 1);
    assert_int_equal(d->err.code, ERR_MODEL);
    in.p = &huge; /* 4 TB: the runtime has no memory (a sanitizer's allocator ends the program instead) */
    if (!onnx_rig_sanitized()) {
        assert_int_equal(onnx_rig_run(&r, &in, 1)->err.code, ERR_MODEL);
    }
    onnx_rig_close(&r);

    must_open(&r, "nonzero");
    d = onnx_rig_run(&r, &FLOATS(sparse, 2, 4), 1);
    assert_true(d->err.code == ERR_OK && d->out[0].dim[0] == 2 && d->out[0].dim[1] == 2);
    assert_true(((const int64_t *)onnx_rig_data(d, 0))[3] == 0 && ((const int64_t *)onnx_rig_data(d, 0))[2] == 1);
    onnx_rig_close(&r);

    must_open(&r, "compress");
    in = (struct onnx_rig_in){.dtype = DTYPE_FP32, .rank = 1, .dim = {4}, .p = mixed, .len = 16};
    d = onnx_rig_run(&r, &in, 1);
    assert_true(d->err.code == ERR_OK && d->out[0].dim[0] == 2 && ((const float *)onnx_rig_data(d, 0))[1] == .8f);
    onnx_rig_close(&r);

    must_open(&r, "scalar");
    in = (struct onnx_rig_in){.dtype = DTYPE_FP32, .p = &one, .len = 4};
    d = onnx_rig_run(&r, &in, 1);
    assert_true(d->err.code == ERR_OK && d->out[0].rank == 0 && ((const float *)onnx_rig_data(d, 0))[0] == 2);
    onnx_rig_close(&r);

    must_open(&r, "constant");
    d = onnx_rig_run(&r, &in, 0);
    assert_true(d->err.code == ERR_OK && ((const float *)onnx_rig_data(d, 0))[2] == 3);
    onnx_rig_close(&r);

    must_open(&r, "external");
    d = onnx_rig_run(&r, &FLOATS(mixed, 1, 4), 1);
    assert_true(d->err.code == ERR_OK && fabsf(((const float *)onnx_rig_data(d, 0))[3] - 4.2f) < 1e-6f);
    onnx_rig_close(&r);
}

/* ---- every job gets its answer ---- */

static void late_and_cancelled(void **state)
{
    float x[16] = {0};
    struct onnx_rig r;
    struct err e;
    uint64_t id[4];

    (void)state;
    must_open(&r, "mlp");
    for (unsigned i = 0; i < 4; i++) {
        id[i] = onnx_rig_submit(&r, onnx_rig_block(&r, &FLOATS(x, 1, 16), 1, NULL, 0),
                                i == 1 ? clock_us() - 1 : UINT64_MAX, 0, &e);
    }
    onnx_engine.cancel(r.port, id[2]);
    onnx_engine.cancel(r.port, 4711);
    assert_int_equal(r.n_done, 0);
    onnx_engine.flush(r.port);
    assert_int_equal(r.n_done, 4);
    assert_int_equal(onnx_rig_find(&r, id[0])->err.code, ERR_OK);
    assert_int_equal(onnx_rig_find(&r, id[1])->err.code, ERR_TIMEOUT);
    assert_int_equal(onnx_rig_find(&r, id[2])->err.code, ERR_CANCELLED);
    assert_int_equal(onnx_rig_find(&r, id[3])->err.code, ERR_OK);
    assert_int_equal(onnx_rig_find(&r, id[0])->joined, 2);
    onnx_rig_close(&r);
}

static void late_behind_a_slow_one(void **state)
{
    float x[4] = {1, 2, 3, 4};
    int64_t trips = 20000; /* some 40 ms */
    struct onnx_rig r;
    struct onnx_rig_in in[2] = {FLOATS(x, 1, 4), {.port = 1, .dtype = DTYPE_INT64, .p = &trips, .len = 8}};
    struct err e;
    uint64_t id[2];

    (void)state;
    must_open(&r, "spin");
    id[0] = onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, NULL, 0), UINT64_MAX, 0, &e);
    id[1] = onnx_rig_submit(&r, onnx_rig_block(&r, in, 2, NULL, 0), clock_us() + 5000, 0, &e);
    onnx_engine.flush(r.port);
    assert_int_equal(onnx_rig_find(&r, id[0])->err.code, ERR_OK);
    assert_true(onnx_rig_find(&r, id[0])->compute_ns > 5000000);
    assert_int_equal(onnx_rig_find(&r, id[1])->err.code, ERR_TIMEOUT);
    assert_int_equal(onnx_rig_find(&r, id[1])->compute_ns, 0);
    onnx_rig_close(&r);
}

static void bounded(void **state)
{
    float x[16] = {0};
    struct onnx_rig r;
    struct err e = {0};
    uint64_t block;

    (void)state;
    must_open(&r, "mlp");
    block = onnx_rig_block(&r, &FLOATS(x, 1, 16), 1, NULL, 0);
    for (unsigned i = 0; i < 1024; i++) {
        assert_int_not_equal(onnx_rig_submit(&r, block, UINT64_MAX, 0, &e), 0);
    }
    assert_int_equal(onnx_rig_submit(&r, block, UINT64_MAX, 0, &e), 0);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    onnx_engine.flush(r.port);
    assert_int_equal(r.n_done, 1024);
    for (unsigned i = 0; i < 1024; i++) {
        assert_true(r.done[i].err.code == ERR_OK && r.done[i].joined == 16);
    }
    assert_int_not_equal(onnx_rig_submit(&r, block, UINT64_MAX, 0, &e), 0);
    onnx_engine.flush(r.port);
    onnx_rig_close(&r);
}

struct chain {
    uint64_t block, cancel;
    unsigned left;
    bool flush, detach;
};

static void from_inside(struct onnx_rig *r, const struct onnx_rig_result *d)
{
    struct chain *c = r->ctx;
    struct err e;

    assert_true(d->err.code == ERR_OK || d->err.code == ERR_CANCELLED);
    if (c->left > 0) {
        uint64_t id;
        c->left--;
        id = onnx_rig_submit(r, c->block, UINT64_MAX, 0, &e);
        assert_int_not_equal(id, 0);
        if (c->left == 10) {
            onnx_engine.cancel(r->port, id);
        }
        if (c->flush) {
            onnx_engine.flush(r->port);
        }
    } else if (c->detach && r->port) {
        onnx_engine.detach(r->port);
        r->port = NULL;
    }
}

static void work_from_inside_done(void **state)
{
    float x[16] = {0};
    struct onnx_rig r;
    struct chain c = {.left = 1000, .flush = true};
    struct err e;

    (void)state;
    must_open(&r, "mlp");
    r.on_done = from_inside;
    r.ctx = &c;
    c.block = onnx_rig_block(&r, &FLOATS(x, 1, 16), 1, NULL, 0);
    onnx_rig_submit(&r, c.block, UINT64_MAX, 0, &e);
    onnx_engine.flush(r.port);
    assert_int_equal(r.n_done, 1001); /* one after the other, on a flat stack */
    assert_int_equal(onnx_rig_find(&r, 991)->err.code, ERR_CANCELLED);

    c = (struct chain){.block = c.block, .left = 1};
    onnx_rig_submit(&r, c.block, UINT64_MAX, 0, &e);
    onnx_engine.flush(r.port);
    assert_int_equal(r.n_done, 1002); /* submitted, not flushed: it waits */
    c.detach = true;
    onnx_engine.flush(r.port); /* … and the last done() detaches */
    assert_int_equal(r.n_done, 1003);
    assert_null(r.port);
    onnx_rig_close(&r);
}

/* ---- how long it took ---- */

static atomic_bool hog_over;

static void *hog(void *arg)
{
    (void)arg;
    while (!atomic_load(&hog_over)) {
    }
    return NULL;
}

/* Two that want one processor: each waits half the time, and what a run waited is told apart from what it computed. */
static void what_others_took_is_told_apart(void **state)
{
    enum { RUNS = 60 };
    struct onnx_rig r;
    float x[4] = {1, 2, 3, 4};
    uint64_t compute = 0, stalled = 0;
    cpu_set_t all, one;
    pthread_t other;

    (void)state;
    must_open(&r, "harm_good");
    assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
    CPU_ZERO(&one);
    for (int i = 0; CPU_COUNT(&one) == 0; i++) {
        if (CPU_ISSET(i, &all)) {
            CPU_SET(i, &one);
        }
    }
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(pthread_create(&other, NULL, hog, NULL), 0);
    for (int i = 0; i < RUNS; i++) {
        const struct onnx_rig_result *d = onnx_rig_run(&r, &FLOATS(x, 1, 4), 1);

        assert_int_equal(d->err.code, ERR_OK);
        assert_true(d->stalled_ns <= d->compute_ns);
        compute += d->compute_ns;
        stalled += d->stalled_ns;
    }
    atomic_store(&hog_over, true);
    pthread_join(other, NULL);
    assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
    assert_true(stalled > compute / 5 && stalled < compute / 10 * 9);
    onnx_rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(joined_as_alone),
        cmocka_unit_test(those_that_do_not_join),
        cmocka_unit_test(strings_joined),
        cmocka_unit_test(a_bad_one_hurts_nobody_else),
        cmocka_unit_test(wanted_outputs),
        cmocka_unit_test(refused_at_submit),
        cmocka_unit_test(refused_by_the_model),
        cmocka_unit_test(shapes_of_all_kinds),
        cmocka_unit_test(late_and_cancelled),
        cmocka_unit_test(late_behind_a_slow_one),
        cmocka_unit_test(bounded),
        cmocka_unit_test(work_from_inside_done),
        cmocka_unit_test(what_others_took_is_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
