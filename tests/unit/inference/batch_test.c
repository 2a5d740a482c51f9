/* SPDX-License-Identifier: Apache-2.0 */
/* Which jobs may run together: the joining rule case by case, then groups out of mixed queues, checked against what
 * must hold for every queue (each job once, order kept, the limit kept, all of a group join). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "inference/batch.h"
#include "inference/engine.h"

/* A block with inputs of shape [rows, width], n of them on ports 0 … n-1. */
static struct job_block *block(uint32_t n, uint64_t rows, int64_t width, uint32_t n_out)
{
    struct job_block *b = xcalloc(1, (job_block_bytes(n, n_out) + 7) & ~7ull);

    b->n_in = n;
    b->n_out = n_out;
    b->rows = rows;
    for (uint32_t i = 0; i < n; i++) {
        b->in[i] = (struct tensor){.port = (uint16_t)i, .dtype = DTYPE_FP32, .rank = 2, .dim = {(int64_t)rows, width}};
    }
    for (uint32_t i = 0; i < n_out; i++) {
        job_block_want(b)[i] = (uint16_t)i;
    }
    return b;
}

/* Joins a plain block with one that `change` touched; both orders must agree. */
static bool joins_after(void (*change)(struct job_block *b, uint32_t *flags))
{
    struct job_block *x = block(2, 1, 16, 2), *y = block(2, 3, 16, 2);
    struct batch_job a = {.block = x}, b = {.block = y};

    if (change) {
        change(y, &b.flags);
    }
    bool r = batch_joins(&a, &b);
    assert_int_equal(r, batch_joins(&b, &a));
    free(x);
    free(y);
    return r;
}

static void solo(struct job_block *b, uint32_t *flags)
{
    (void)b;
    *flags = JOB_SOLO;
}
static void no_rows(struct job_block *b, uint32_t *flags)
{
    (void)flags;
    b->rows = 0;
}
static void other_dtype(struct job_block *b, uint32_t *flags)
{
    (void)flags;
    b->in[1].dtype = DTYPE_INT32;
}
static void other_width(struct job_block *b, uint32_t *flags)
{
    (void)flags;
    b->in[1].dim[1] = 17;
}
static void other_rank(struct job_block *b, uint32_t *flags)
{
    (void)flags;
    b->in[1].rank = 1;
}
static void other_want(struct job_block *b, uint32_t *flags)
{
    (void)flags;
    job_block_want(b)[1] = 5;
}
static void fewer_wants(struct job_block *b, uint32_t *flags)
{
    (void)flags;
    b->n_out = 1;
}
static void other_port(struct job_block *b, uint32_t *flags)
{
    (void)flags;
    b->in[1].port = 7;
}
static void swapped(struct job_block *b, uint32_t *flags)
{
    (void)flags;
    struct tensor t = b->in[0];
    b->in[0] = b->in[1];
    b->in[1] = t;
}

static void rule(void **state)
{
    (void)state;
    assert_true(joins_after(NULL));
    assert_true(joins_after(swapped));
    assert_false(joins_after(solo));
    assert_false(joins_after(no_rows));
    assert_false(joins_after(other_dtype));
    assert_false(joins_after(other_width));
    assert_false(joins_after(other_rank));
    assert_false(joins_after(other_want));
    assert_false(joins_after(fewer_wants));
    assert_false(joins_after(other_port));
}

static void groups(void **state)
{
    struct job_block *a = block(1, 1, 16, 1), *b = block(1, 1, 8, 1), *big = block(1, 9, 16, 1);
    struct batch_job q[] = {{.block = a}, {.block = b}, {.block = a}, {.block = big}, {.block = a}, {.block = b}};
    uint32_t pick[6];
    uint64_t rows;

    (void)state;
    assert_int_equal(batch_next(q, 6, true, 4, pick, &rows), 3);
    assert_true(pick[0] == 0 && pick[1] == 2 && pick[2] == 4 && rows == 3);
    assert_int_equal(batch_next(q, 6, true, 4, pick, &rows), 2);
    assert_true(pick[0] == 1 && pick[1] == 5 && rows == 2);
    assert_int_equal(batch_next(q, 6, true, 4, pick, &rows), 1); /* above the limit, alone */
    assert_true(pick[0] == 3 && rows == 9);
    assert_int_equal(batch_next(q, 6, true, 4, pick, &rows), 0);
    assert_int_equal(batch_next(q, 0, true, 4, pick, &rows), 0);

    for (size_t i = 0; i < 6; i++) {
        q[i].taken = false;
    }
    for (uint32_t i = 0; i < 6; i++) { /* a model that does not join */
        assert_int_equal(batch_next(q, 6, false, 4, pick, &rows), 1);
        assert_int_equal(pick[0], i);
    }
    struct batch_job s[] = {{.block = a, .flags = JOB_SOLO}, {.block = a}, {.block = a}};
    assert_int_equal(batch_next(s, 3, true, 8, pick, &rows), 1);
    assert_int_equal(batch_next(s, 3, true, 8, pick, &rows), 2);
    free(a);
    free(b);
    free(big);
}

static void any_queue(void **state)
{
    enum { KINDS = 6, N = 64 };
    struct job_block *kind[KINDS];
    uint32_t seed = 20261123;

    (void)state;
    for (unsigned i = 0; i < KINDS; i++) {
        kind[i] = block(1 + i % 2, i % 4, 8 + (int64_t)(i / 3), 1);
    }
    for (unsigned round = 0; round < 2000; round++) {
        struct batch_job q[N];
        uint32_t pick[N], next = 0;
        uint64_t rows, max = 1 + round % 9;
        size_t n, seen = 0, count = round % N;
        for (size_t i = 0; i < count; i++) {
            seed = seed * 1664525u + 1013904223u;
            q[i] = (struct batch_job){.block = kind[seed >> 24 & 1 ? 1 : (seed >> 16) % KINDS],
                                      .flags = (seed >> 28) == 0 ? JOB_SOLO : 0};
        }
        while ((n = batch_next(q, count, round % 5 != 0, max, pick, &rows)) > 0) {
            uint64_t sum = 0;
            assert_true(pick[0] >= next); /* the oldest first */
            next = pick[0] + 1;
            for (size_t i = 0; i < n; i++) {
                assert_true(i == 0 || (pick[i] > pick[i - 1] && batch_joins(&q[pick[0]], &q[pick[i]])));
                sum += q[pick[i]].block->rows;
            }
            assert_true(sum == rows && (n == 1 || (rows <= max && round % 5 != 0)));
            seen += n;
        }
        assert_int_equal(seen, count);
    }
    for (unsigned i = 0; i < KINDS; i++) {
        free(kind[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rule), cmocka_unit_test(groups), cmocka_unit_test(any_queue)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
