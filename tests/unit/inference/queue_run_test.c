/* SPDX-License-Identifier: Apache-2.0 */
/* The queueing formula against a real run: the scheduler on the real clock, in front of an engine whose runs take their
 * time without a processor (so that a busy machine makes them hardly longer), arrivals of an open loop. Mean and p99 of
 * the answers agree within 15 %.
 *
 * A few hundred requests say little of a queue unless they are typical: the arrivals are of a seed whose mean and p99,
 * reckoned request by request, are those of very many. Where the runs themselves came out uneven the machine did too
 * much besides, and the stretch is made again. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/queue.h"
#include "support/fake_engine.h"
#include "support/infer_rig.h"

#define N 400
#define MANY 400000
#define RUN_US 15000
#define WITHIN .15
#define STRETCHES 4

static struct infer_req q[N];
static double sent[N], took[N];
static uint64_t seed;

static double uniform(void) /* xorshift64*, in (0, 1) */
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return (double)((seed * 2685821657736338717ull >> 11) + 1) / 9007199254740994.;
}

static void seed_with(uint64_t n)
{
    seed = n * 0x9e3779b97f4a7c15ull | 1;
    for (int i = 0; i < 8; i++) {
        uniform();
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

struct figures {
    double mean, p99;
};

static struct figures figures_of(double *t, size_t n)
{
    struct figures f = {0};

    qsort(t, n, sizeof(*t), ascending);
    for (size_t i = 0; i < n; i++) {
        f.mean += t[i] / (double)n;
    }
    f.p99 = t[(size_t)(.99 * (double)n)];
    return f;
}

/* n answers in run times, request by request: one server, first come first served; all that wait join if `joins`. */
static struct figures reckon(uint64_t with, size_t n, double load, bool joins)
{
    double *t = malloc(n * sizeof(*t)), *at = malloc(n * sizeof(*at)), now = 0, free_at = 0;
    struct figures f;

    seed_with(with);
    for (size_t i = 0; i < n; i++) {
        at[i] = now += -log(uniform()) / load;
    }
    for (size_t i = 0, end; i < n; i = end) {
        double begins = MAX(at[i], free_at);

        for (end = i + 1; joins && end < n && at[end] <= begins; end++) {
        }
        free_at = begins + 1;
        for (size_t k = i; k < end; k++) {
            t[k] = free_at - at[k];
        }
    }
    f = figures_of(t, n);
    free(t);
    free(at);
    return f;
}

static uint64_t typical(double load, bool joins)
{
    struct figures many = reckon(1, MANY, load, joins);

    for (uint64_t with = 2; with < 20000; with++) {
        struct figures f = reckon(with, N, load, joins);

        if (fabs(f.mean / many.mean - 1) < .015 && fabs(f.p99 / many.p99 - 1) < .02) {
            return with;
        }
    }
    fail_msg("no typical arrivals at a load of %g", load);
    return 0;
}

/* One stretch. What those took that found nobody there is the service as it was: *service its median. False: it was
 * uneven. */
static bool stretch(struct infer_rig *r, uint64_t with, double load, bool joins, double *service)
{
    double base[N], until = 0, start = (double)clock_us() + 1e5, due = start;
    size_t i = 0, n = 0;

    memset(q, 0, sizeof(q));
    seed_with(with);
    for (size_t k = 0; k < N; k++) {
        sent[k] = due += -log(uniform()) / load * RUN_US;
    }
    while (i < N || q[N - 1].n_done == 0) {
        for (; i < N && (double)clock_us() >= sent[i]; i++) {
            sent[i] = (double)clock_us();
            assert_int_equal(joins ? infer_send(r, &q[i], 0, 1, 1, 0) : infer_spin(r, &q[i], 0, 1, RUN_US / 2, 0),
                             ERR_OK);
        }
        double left = i < N ? sent[i] - (double)clock_us() : 1000;
        loop_once(r->loop, left > 1500 ? 1 : 0);
    }
    for (size_t k = 0; k < N; k++) {
        INFER_UNTIL(r, q[k].n_done == 1);
        assert_true(q[k].right);
        took[k] = (double)q[k].answered_us - sent[k];
        if (sent[k] >= until) {
            base[n++] = took[k];
        }
        until = MAX(until, (double)q[k].answered_us);
    }
    assert_true(n > N / 10);
    qsort(base, n, sizeof(base[0]), ascending);
    *service = base[n / 2];
    return base[n * 9 / 10] < base[n / 2] * 1.1;
}

static void against(const char *what, const char *name, double load, bool joins)
{
    struct infer_rig r;
    struct pool_spec spec = infer_spec();
    uint64_t with = typical(load, joins);
    bool near = false;

    fake_reset();
    atomic_store(&fake.run_us, RUN_US);
    spec.name = name;
    spec.batch.max = joins ? 64 : 1;
    infer_open(&r, &fake_engine, &spec, 1, false);
    for (int i = 0; i < STRETCHES && !near; i++) {
        double service;
        bool even = stretch(&r, with, load, joins, &service);
        struct figures f = figures_of(took, N);
        struct queue_arrivals a = {.rate = load / RUN_US * 1e6};
        struct queue_service s = {.mean = service * 1e-6};
        struct queue_batch b = {.most = joins ? 64 : 1, .more = joins ? 0 : 1};
        struct queue_answer got;

        queue_solve(&got, &a, &s, &b, 1);
        double mean = (got.wait + got.run) * 1e6, p99 = queue_quantile(&got, &s, .99) * 1e6;
        near = fabs(mean / f.mean - 1) < WITHIN && fabs(p99 / f.p99 - 1) < WITHIN;
        printf("%s at %.1f, runs of %.2f ms%s: mean %.2f ms, formula %+.1f %%; p99 %.2f ms, formula %+.1f %%\n", what,
               load, service / 1e3, even ? "" : " (uneven)", f.mean / 1e3, (mean / f.mean - 1) * 100, f.p99 / 1e3,
               (p99 / f.p99 - 1) * 100);
        if (even && !near && i > 0) {
            break; /* twice on an idle machine: it is the formula */
        }
    }
    infer_close(&r, SECONDS(20));
    assert_true(near);
}

static void one_after_the_other(void **state)
{
    (void)state;
    against("one after the other", "spin/1", .6, false);
}

static void what_waits_joins(void **state)
{
    (void)state;
    against("joined", "add/1", 1.5, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_after_the_other),
        cmocka_unit_test(what_waits_joins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
