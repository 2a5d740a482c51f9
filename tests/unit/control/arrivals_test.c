/* SPDX-License-Identifier: Apache-2.0 */
/* Arrivals: what was counted comes out, even, Poisson and in bursts; a reader that comes too late leaves a stretch out.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/base.h"
#include "base/clock.h"
#include "control/arrivals.h"

#define START 5000000ull

static uint64_t seed = 88172645463325252ull;

static double uniform(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (double)((seed >> 11) + 1) / 9007199254740994.;
}

static void near(double got, double want, double within)
{
    if (!(fabs(got - want) <= within * want)) {
        fail_msg("%g is not within %g of %g", got, within, want);
    }
}

/* Arrivals of `size` at once, by gaps of this mean; looked at every second. */
static struct arrivals *after(double seconds, double gap_us, bool even, unsigned size)
{
    struct arrivals *a = arrivals_new(2, START);
    double at = START;
    uint64_t look = START;

    while (at < START + seconds * 1e6) {
        at += even ? gap_us : -gap_us * log(uniform());
        for (unsigned i = 0; i < size; i++) {
            arrivals_add(a, i % 2, (uint64_t)at);
        }
        for (; look < (uint64_t)at; look += SECONDS(1)) {
            arrivals_look(a, look);
        }
    }
    arrivals_look(a, (uint64_t)at + SECONDS(1)); /* what is younger than a second is left for the next time */
    return a;
}

static void dispersions(void **state)
{
    static const struct {
        bool even;
        unsigned size;
        double want;
    } cases[] = {{false, 1, 1}, {false, 5, 5}, {true, 1, 0}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct arrivals *a = after(2400, 10000 * cases[i].size, cases[i].even, cases[i].size);
        struct arrivals_sum sum;

        arrivals_sum(a, &sum);
        near((double)sum.requests, 240000, .02);
        near(sum.seconds, 2400, .01);
        near(sum.busiest, 100, .15);
        assert_int_equal(sum.minutes, 40);
        for (int k = 0; k < 3; k++) { /* of ten seconds there are few */
            if (cases[i].want > 0) {
                near(sum.span[k].dispersion, cases[i].want, .12);
            } else {
                assert_true(sum.span[k].dispersion < .05);
            }
        }
        assert_true(sum.span[0].seconds < .011 && sum.span[3].seconds > 9.9 && sum.span[3].spans > 200);
        arrivals_free(a);
    }
}

/* The load doubles once an hour: that is no burst. */
static void a_slow_change_is_no_burst(void **state)
{
    struct arrivals *a = arrivals_new(1, START);
    double at = START;
    struct arrivals_sum sum;
    uint64_t look = START;

    (void)state;
    while (at < START + 7200e6) {
        at += -(at < START + 3600e6 ? 20000. : 5000.) * log(uniform());
        arrivals_add(a, 0, (uint64_t)at);
        for (; look < (uint64_t)at; look += SECONDS(1)) {
            arrivals_look(a, look);
        }
    }
    arrivals_sum(a, &sum);
    for (int k = 0; k < ARRIVALS_SPANS; k++) {
        near(sum.span[k].dispersion, 1, k < 3 ? .1 : .8); /* the plain variance says 60 at one second */
    }
    near(sum.busiest, 200, .1);
    arrivals_free(a);
}

static void too_little_says_nothing(void **state)
{
    struct arrivals *a = arrivals_new(1, START);
    struct arrivals_sum sum;

    (void)state;
    arrivals_sum(a, &sum);
    assert_true(sum.requests == 0 && isnan(sum.span[0].dispersion) && sum.mean_joined >= 1);
    arrivals_add(a, 0, START + 10);
    arrivals_look(a, START + SECONDS(20));
    arrivals_sum(a, &sum);
    assert_true(sum.requests == 1 && isnan(sum.span[0].dispersion) && sum.minutes == 0);
    arrivals_free(a);
}

/* Nobody looked for ten seconds: the ring has gone round; what is left of it is not taken for what came then. */
static void a_hole(void **state)
{
    struct arrivals *a = arrivals_new(1, START);
    struct arrivals_sum sum;

    (void)state;
    for (uint64_t at = START; at < START + SECONDS(30); at += MILLIS(10)) {
        arrivals_add(a, 0, at);
        if (at < START + SECONDS(10) || at > START + SECONDS(20)) {
            arrivals_look(a, at);
        }
    }
    arrivals_sum(a, &sum);
    assert_int_equal(sum.requests, 3000);
    assert_true(sum.span[0].dispersion < .05);
    arrivals_free(a);
}

static void what_runs_took(void **state)
{
    struct arrivals *a = arrivals_new(2, START);
    struct arrivals_sum sum;

    (void)state;
    arrivals_ran(a, 0, 3000000, 500000, 1);
    for (int i = 0; i < 4; i++) {
        arrivals_ran(a, 1, 8000000, 0, 4);
    }
    arrivals_sum(a, &sum);
    assert_int_equal(sum.ran, 5);
    near(sum.compute_s, .035, 1e-9);
    near(sum.executor_s, .011, 1e-9);
    near(sum.mean_joined, 3.4, 1e-9);
    near(sum.stalled_s, .0005, 1e-9);
    arrivals_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dispersions),
        cmocka_unit_test(a_slow_change_is_no_burst),
        cmocka_unit_test(too_little_says_nothing),
        cmocka_unit_test(a_hole),
        cmocka_unit_test(what_runs_took),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
