/* SPDX-License-Identifier: Apache-2.0 */
/* Moments: what is left out of a candidate's slow answers, when, and what a restart or a new share makes of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/moments.h"

static struct moments m;
static struct judge_counts c;
static uint64_t now;

static void begin(void)
{
    m = (struct moments){0};
    c = (struct judge_counts){.n = 1, .stratum = {{.share_bp = 500}}};
    now = SECONDS(1000);
    moments_look(&m, &c, now);
}

/* So many more slow answers beyond p95 in the first stratum, then `us` pass and the counts are looked at. */
static uint64_t slow(uint64_t more, uint64_t us)
{
    c.stratum[0].bad[METRIC_SLOW95][JUDGE_CANARY] += more;
    now += us;
    moments_look(&m, &c, now);
    assert_int_equal(c.stratum[0].moments[1], 0);
    return c.stratum[0].moments[0];
}

static void one_burst_is_left_out_whole(void **state)
{
    (void)state;
    begin();
    for (int i = 1; i <= 10; i++) {
        assert_int_equal(slow(10, MILLIS(250)), 10 * (uint64_t)i); /* while it goes on, too */
    }
    assert_int_equal(slow(0, SECONDS(60)), 100);
    assert_int_equal(slow(3, SECONDS(2)), 103);
    assert_int_equal(slow(2, SECONDS(2)), 105 - 4 * 2); /* the fourth: so many of each count */
    assert_int_equal(slow(1, SECONDS(2)), 105 - 4 * 2);
}

static void what_happens_again_and_again_is_not(void **state)
{
    (void)state;
    begin();
    for (uint64_t i = 1; i <= 20; i++) {
        assert_int_equal(slow(7, SECONDS(2)), i <= MOMENTS_WORST ? 7 * i : 0);
    }
    assert_int_equal(slow(30, SECONDS(2)), 23);
    assert_int_equal(slow(1, SECONDS(2)), 23);
    assert_int_equal(slow(8, SECONDS(2)), 24);
}

/* All clients wait for the candidate; nobody asks it any more. */
static void a_hang_is_as_bad_in_every_moment(void **state)
{
    (void)state;
    begin();
    c.stratum[0].open[0] = 12;
    assert_int_equal(slow(12, SECONDS(2)), 12);
    assert_int_equal(slow(0, SECONDS(2)), 12);
    c.stratum[0].open[0] = 11;
    assert_int_equal(slow(0, SECONDS(2)), 12);
    assert_int_equal(slow(0, SECONDS(2)), 2);
    assert_int_equal(slow(0, SECONDS(60)), 2);
    /* Five seconds only. */
    begin();
    c.stratum[0].open[0] = 12;
    slow(12, SECONDS(2));
    slow(0, SECONDS(3));
    c.stratum[0].open[0] = 0;
    slow(0, SECONDS(2));
    assert_int_equal(slow(0, SECONDS(60)), 12);
}

static void a_moment_lasts_until_a_look_after_its_time(void **state)
{
    (void)state;
    begin();
    slow(1, MOMENT_US - 1);
    slow(1, 1);
    assert_int_equal(m.stratum[0].worst[0][0], 2);
    slow(4, SECONDS(30)); /* nobody looked: one moment */
    slow(1, MOMENT_US);
    assert_int_equal(slow(1, MOMENT_US), 4 + 2 + 1 - 3 * 1);
}

static void kinds_and_shares_are_apart(void **state)
{
    (void)state;
    begin();
    c.n = 2;
    c.stratum[1] = (struct judge_stratum){.share_bp = 1000};
    c.stratum[0].bad[METRIC_SLOW99][JUDGE_CANARY] = 5;
    c.stratum[0].bad[METRIC_SLOW99][JUDGE_STABLE] = 50;
    c.stratum[0].bad[METRIC_ERRORS][JUDGE_CANARY] = 50;
    c.stratum[1].bad[METRIC_SLOW95][JUDGE_CANARY] = 6;
    moments_look(&m, &c, now + MOMENT_US);
    assert_int_equal(c.stratum[0].moments[0], 0);
    assert_int_equal(c.stratum[0].moments[1], 5);
    assert_int_equal(c.stratum[1].moments[0], 6);
    assert_int_equal(c.stratum[1].moments[1], 0);
}

/* A stratum that made room for another share, or counts that begin anew at the same share. */
static void another_share_begins_anew(void **state)
{
    (void)state;
    begin();
    slow(9, MOMENT_US);
    c.stratum[0] = (struct judge_stratum){.share_bp = 700};
    assert_int_equal(slow(2, MOMENT_US), 2);
    c.stratum[0].bad[METRIC_SLOW95][JUDGE_CANARY] = 0;
    assert_int_equal(slow(1, MOMENT_US), 1);
}

/* What was counted before the restart is no moment; the worst moments of then are as they were stored. */
static void after_a_restart(void **state)
{
    struct moments stored;

    (void)state;
    begin();
    for (int i = 0; i < 5; i++) {
        slow(8, MOMENT_US);
    }
    slow(18, MOMENT_US);
    stored = m;
    m = (struct moments){0};
    memcpy(m.stratum[0].worst, stored.stratum[0].worst, sizeof(m.stratum[0].worst));
    moments_resume(&m, &c);
    assert_int_equal(slow(0, SECONDS(1)), 10);
    assert_int_equal(slow(2, MOMENT_US), 10);
    /* Stored by a release that knew no moments: all of before is held against it. */
    m = (struct moments){0};
    moments_resume(&m, &c);
    assert_int_equal(slow(0, SECONDS(1)), 0);
    assert_int_equal(slow(2, MOMENT_US), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_burst_is_left_out_whole),
        cmocka_unit_test(what_happens_again_and_again_is_not),
        cmocka_unit_test(a_hang_is_as_bad_in_every_moment),
        cmocka_unit_test(a_moment_lasts_until_a_look_after_its_time),
        cmocka_unit_test(kinds_and_shares_are_apart),
        cmocka_unit_test(another_share_begins_anew),
        cmocka_unit_test(after_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
