/* SPDX-License-Identifier: Apache-2.0 */
/* The sketch: published indices and quantiles, the table against the formula at every border, the promised error. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/sketch.h"

static struct sketch a, b;

static int reset(void **state)
{
    (void)state;
    memset(&a, 0, sizeof(a));
    memset(&b, 0, sizeof(b));
    return 0;
}

static void vectors(void **state)
{
    (void)state;
    assert_int_equal(sketch_index(.001), -346);
    assert_int_equal(sketch_index(.0123), -220);
    assert_int_equal(sketch_index(.5), -35);
    assert_int_equal(sketch_index(1), 0);
    assert_int_equal(sketch_index(30), 170);
    assert_int_equal(sketch_index(3600), 409);
    assert_int_equal(sketch_index(0), -691);
    assert_int_equal(sketch_index(NAN), -691);
    assert_int_equal(sketch_index(INFINITY), 409);
    assert_true(fabs(sketch_value(-35) - .5015395) < 5e-8);
    for (uint64_t i = 1; i <= 1000; i++) {
        sketch_add(&a, i * 1000000);
    }
    assert_true(fabs(sketch_quantile(&a, .5) - .5015395) < 5e-8);
    assert_true(fabs(sketch_quantile(&a, .95) - .9511803) < 5e-8);
    assert_true(fabs(sketch_quantile(&a, .99) / .99 - 1) < .01);
    assert_int_equal(counter_get(&a.count), 1000);
    assert_int_equal(counter_get(&a.sum_ns), 500500000000u);
}

static int only_bucket(uint64_t ns)
{
    memset(&b, 0, sizeof(b));
    sketch_add(&b, ns);
    for (int i = 0; i < SKETCH_BUCKETS; i++) {
        if (counter_get(&b.bucket[i])) {
            return i - 691;
        }
    }
    return 9999;
}

/* The place of every bucket's border, and the nanoseconds about it, are the formula's. */
static void borders(void **state)
{
    (void)state;
    double gamma = 1.01 / .99;
    for (int index = -690; index <= 409; index++) {
        uint64_t ns = (uint64_t)(pow(gamma, index) * 1e9);
        for (uint64_t v = ns - 3; v <= ns + 3; v++) {
            assert_int_equal(only_bucket(v), sketch_index((double)v * 1e-9));
        }
    }
    for (uint64_t ns = 0; ns < 20000; ns++) {
        assert_int_equal(only_bucket(ns), sketch_index((double)ns * 1e-9));
    }
    uint64_t x = 1;
    for (int i = 0; i < 20000; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint64_t ns = x >> (20 + i % 40);
        assert_int_equal(only_bucket(ns), sketch_index((double)ns * 1e-9));
    }
    assert_int_equal(only_bucket(UINT64_MAX), 409);
}

static int compare(const void *x, const void *y)
{
    double u = *(const double *)x;
    double v = *(const double *)y;
    return (u > v) - (u < v);
}

static void error_bound(void **state)
{
    (void)state;
    enum { N = 20000 };
    static double values[N];
    uint64_t x = 7;
    for (int i = 0; i < N; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        double u = (double)(x >> 11) / 9007199254740992.0;
        uint64_t ns = (uint64_t)(1e4 * pow(10, 6 * u));
        values[i] = (double)ns * 1e-9;
        sketch_add(i % 2 ? &a : &b, ns);
    }
    sketch_merge(&a, &b);
    assert_int_equal(counter_get(&a.count), N);
    qsort(values, N, sizeof(values[0]), compare);
    for (int p = 0; p <= 1000; p++) {
        double want = values[(size_t)floor(p / 1000.0 * (N - 1))];
        assert_true(fabs(sketch_quantile(&a, p / 1000.0) / want - 1) <= .01 + 1e-9);
    }
}

static void edges(void **state)
{
    (void)state;
    assert_true(sketch_quantile(&a, .5) == 0);
    sketch_add(&a, 1000000);
    double only = sketch_quantile(&a, 0);
    assert_true(fabs(only / .001 - 1) <= .01);
    assert_true(sketch_quantile(&a, 1) == only && sketch_quantile(&a, -3) == only && sketch_quantile(&a, 7) == only);
    assert_true(sketch_quantile(&a, NAN) == only);
    sketch_add(&a, 2000000000);
    assert_true(sketch_quantile(&a, 0) == only);
    assert_true(fabs(sketch_quantile(&a, 1) / 2 - 1) <= .01);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(vectors, reset),
        cmocka_unit_test_setup(borders, reset),
        cmocka_unit_test_setup(error_bound, reset),
        cmocka_unit_test_setup(edges, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
