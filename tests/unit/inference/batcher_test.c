/* SPDX-License-Identifier: Apache-2.0 */
/* The batcher's rules: when it waits, how many it runs, what it predicts, and whether it expects company. All times are
 * made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "inference/batcher.h"

#define NONE UINT64_MAX
#define NOW 1000000u

/* The model of these tests: a run takes 900 us, and 100 us a row more. */
static uint64_t takes(uint64_t rows)
{
    return 900 + 100 * rows;
}

static struct batcher made(uint32_t max, uint64_t delay_us, uint64_t slo_us)
{
    struct batch_rule rule = {max, delay_us, slo_us};
    struct batcher b;

    batcher_init(&b, &rule, true, takes(1), takes(8), 8);
    return b;
}

static struct batch_answer ask(const struct batcher *b, uint64_t rows, uint64_t submit_us, uint64_t deadline_us,
                               uint64_t now_us)
{
    struct batch_view v = {.rows = rows, .first_rows = 1, .submit_us = submit_us, .deadline_us = deadline_us};
    struct batch_answer a = batcher_next(b, &v, now_us);

    assert_true(a.rows <= rows && (a.rows > 0 || a.until_us > now_us)); /* it does something, now or later */
    return a;
}

static void idle_never_waits(void **state)
{
    struct batcher b = made(16, 0, 0);

    (void)state;
    for (uint64_t rows = 1; rows <= 40; rows++) {
        assert_int_equal(ask(&b, rows, NOW - 5, NONE, NOW).rows, MIN(rows, 16u));
        assert_int_equal(ask(&b, rows, 0, NOW + 1, NOW).rows, 1); /* no time for any: the oldest goes all the same */
    }
}

static void delay_waits_for_company(void **state)
{
    struct batcher b = made(16, 5000, 0);
    struct batch_answer a = ask(&b, 3, NOW - 100, NONE, NOW);

    (void)state;
    assert_int_equal(a.rows, 0);
    assert_int_equal(a.until_us, NOW + 4900); /* from the submit, not from the look */
    assert_int_equal(ask(&b, 15, NOW - 100, NONE, NOW + 4899).until_us, NOW + 4900);
    assert_int_equal(ask(&b, 3, NOW - 100, NONE, NOW + 4900).rows, 3);
    assert_int_equal(ask(&b, 16, NOW, NONE, NOW).rows, 16); /* full: nobody to wait for */
    assert_int_equal(ask(&b, 30, NOW, NONE, NOW).rows, 16);
    assert_int_equal(ask(&b, 3, 0, NONE, NOW).rows, 3); /* since when, nobody knows */
}

static void the_deadline_ends_the_delay(void **state)
{
    struct batcher b = made(16, 5000, 0);

    (void)state;
    /* 3 rows take 1,200 us; twice that is kept. */
    assert_int_equal(ask(&b, 3, NOW, NOW + 6000, NOW).until_us, NOW + 3600);
    assert_int_equal(ask(&b, 3, NOW, NOW + 2400, NOW).rows, 3);
    assert_int_equal(ask(&b, 3, NOW, NOW + 60000, NOW).until_us, NOW + 5000);
}

static void slack_closes_below_the_limit(void **state)
{
    struct batcher b = made(16, 0, 0);
    struct batch_view v = {.rows = 16, .first_rows = 6, .submit_us = NOW, .deadline_us = NOW + 1500};

    (void)state;
    assert_int_equal(ask(&b, 16, NOW, NOW + 1500, NOW).rows, 6); /* 900 + 6 × 100 */
    assert_int_equal(ask(&b, 16, NOW, NOW + 1599, NOW).rows, 6);
    assert_int_equal(ask(&b, 16, NOW, NOW + 1600, NOW).rows, 7);
    assert_int_equal(ask(&b, 16, NOW, NOW + 9000, NOW).rows, 16);
    assert_int_equal(ask(&b, 16, NOW, NOW - 1, NOW).rows, 1);
    v.deadline_us = NOW + 1200;
    assert_int_equal(batcher_next(&b, &v, NOW).rows, 6); /* one job is not cut */
}

static void no_join_is_no_join(void **state)
{
    struct batch_rule rule = {1, 5000, 0}, wide = {16, 5000, 20000};
    struct batch_view v = {.rows = 7, .first_rows = 1, .submit_us = NOW, .deadline_us = NONE};
    struct batcher b;

    (void)state;
    batcher_init(&b, &rule, true, 10, 20, 8);
    assert_int_equal(batcher_next(&b, &v, NOW).rows, 1);
    batcher_init(&b, &wide, false, 10, 0, 0); /* a model that does not join */
    assert_int_equal(batcher_next(&b, &v, NOW).rows, 1);
    for (unsigned i = 0; i < 50; i++) { /* and never will */
        batcher_ran(&b, 1, 10, 10, true);
        batcher_came(&b, NOW, 5);
        batcher_ended(&b, NOW, 1, 5);
        assert_int_equal(batcher_next(&b, &v, NOW).rows, 1);
    }
    batcher_init(&b, &(struct batch_rule){0, 0, 0}, true, 0, 0, 0);
    assert_int_equal(batcher_next(&b, &v, NOW).rows, 1);
}

static void a_single_job_is_run_whatever_its_size(void **state)
{
    struct batcher b = made(16, 5000, 3000);
    struct batch_view v = {.rows = 100, .first_rows = 100, .submit_us = NOW, .deadline_us = NONE};

    (void)state;
    assert_int_equal(batcher_next(&b, &v, NOW).rows, 100);
    v.rows = 103; /* and takes nobody with it */
    assert_int_equal(batcher_next(&b, &v, NOW).rows, 100);
}

static void aimd(void **state)
{
    struct batcher b = made(16, 0, 4000);
    uint64_t before;

    (void)state;
    assert_int_equal(batcher_limit(&b), 11); /* two runs of 2 ms within 4 */
    batcher_ran(&b, 11, takes(11), 3900, true);
    assert_int_equal(batcher_limit(&b), 12);
    batcher_ran(&b, 5, takes(5), 3000, false); /* it was not full: nothing is known of larger ones */
    assert_int_equal(batcher_limit(&b), 12);
    batcher_ran(&b, 12, takes(12), 4100, true);
    assert_true(b.limit > 10.79 && b.limit < 10.81);
    for (unsigned i = 0; i < 100; i++) {
        batcher_ran(&b, 1, 2500, 9000, true);
        assert_true(b.limit >= 1); /* the floor */
    }
    assert_int_equal(batcher_limit(&b), 1);
    assert_int_equal(ask(&b, 9, NOW, NONE, NOW).rows, 1);
    for (unsigned i = 0; i < 30; i++) {
        before = batcher_limit(&b);
        batcher_ran(&b, before, 1000, 2000, true);
        assert_int_equal(batcher_limit(&b), MIN(before + 1, 16u)); /* one at a time, and not above max */
    }
    assert_int_equal(ask(&b, 40, NOW, NONE, NOW).rows, 16);
}

/* A queue before it breaks the SLO: smaller batches would only make it longer. */
static void waiting_is_not_the_sizes_fault(void **state)
{
    struct batcher b = made(16, 0, 4000);
    uint64_t limit = batcher_limit(&b);

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        batcher_ran(&b, limit, 1900, 50000, true);
    }
    assert_int_equal(batcher_limit(&b), limit);
}

static void without_an_slo_the_limit_is_max(void **state)
{
    struct batcher b = made(16, 0, 0);

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        batcher_ran(&b, 16, 3 * takes(16), 9000000, true);
        assert_int_equal(batcher_limit(&b), 16);
    }
}

static void assert_near(uint64_t is, uint64_t should)
{
    if (is + should / 20 + 2 < should || is > should + should / 20 + 2) {
        fail_msg("%llu is not about %llu", (unsigned long long)is, (unsigned long long)should);
    }
}

static void predictions_follow(void **state)
{
    struct batcher b = made(64, 0, 0), slower;
    static const uint64_t sizes[] = {1, 3, 40, 2, 33, 64, 7, 1, 21};

    (void)state;
    for (uint64_t n = 1; n <= 64; n++) {
        assert_near(batcher_predict_us(&b, n), takes(n)); /* from the warm-up */
    }
    for (unsigned i = 0; i < 900; i++) { /* the machine is slower now: three times */
        uint64_t n = sizes[i % COUNT_OF(sizes)];
        batcher_ran(&b, n, 3 * takes(n), 0, false);
    }
    for (uint64_t n = 1; n <= 64; n++) {
        assert_near(batcher_predict_us(&b, n), 3 * takes(n));
    }
    slower = b; /* one odd run does not count for much */
    batcher_ran(&slower, 8, 30 * takes(8), 0, false);
    assert_true(batcher_predict_us(&slower, 8) < 15 * takes(8));
    for (unsigned i = 0; i < 300; i++) { /* all of one size: the line still goes through it */
        batcher_ran(&b, 20, takes(20), 0, false);
    }
    assert_near(batcher_predict_us(&b, 20), takes(20));
    for (unsigned i = 0; i < 300; i++) { /* and through sizes next to each other, whose times are noise */
        batcher_ran(&b, 20 + i % 2, takes(20) + (i % 3 ? 60 : 0), 0, false);
    }
    assert_near(batcher_predict_us(&b, 20), takes(20));
    assert_true(batcher_predict_us(&b, 64) < 10 * takes(64));
    for (uint64_t n = 1; n <= 64; n++) {
        assert_true(batcher_predict_us(&b, n) >= batcher_predict_us(&b, n - 1)); /* never falls */
    }
}

static void predictions_without_a_warm_up(void **state)
{
    struct batcher b;

    (void)state;
    batcher_init(&b, &(struct batch_rule){16, 0, 0}, true, 0, 0, 0);
    assert_int_equal(batcher_predict_us(&b, 8), 0);
    assert_int_equal(ask(&b, 20, NOW, NOW + 10, NOW).rows, 16); /* nothing is known: nothing is held back */
    batcher_ran(&b, 10, takes(10), 0, false);
    assert_near(batcher_predict_us(&b, 10), takes(10));
    batcher_ran(&b, 2, takes(2), 0, false);
    for (uint64_t n = 1; n <= 16; n++) {
        assert_near(batcher_predict_us(&b, n), takes(n));
    }
}

/* What a warm-up in a bad moment believed: the first runs show it, and it is not for ever. */
static void joining_that_does_not_pay_stops(void **state)
{
    struct batcher b;

    (void)state;
    batcher_init(&b, &(struct batch_rule){16, 5000, 0}, true, 20000, 80000, 8);
    assert_int_equal(batcher_limit(&b), 16);
    for (unsigned i = 0; i < 40; i++) { /* in truth 9 ms alone, and more than that for each of eight */
        batcher_ran(&b, 1, 9000, 0, false);
        batcher_ran(&b, 8, 90000, 0, false);
    }
    assert_int_equal(batcher_limit(&b), 1);
    assert_int_equal(ask(&b, 8, NOW, NONE, NOW).rows, 1); /* at once: there is nobody to wait for */
    for (unsigned i = 0; i < 40; i++) {
        batcher_ran(&b, 1, 40000, 0, false);
    }
    assert_int_equal(batcher_limit(&b), 16);
}

/* ---- company ---- */

/* Clients that wait for their answers and come back `think` us after them, one after the other `apart` us apart. What
 * the executor does, in made-up time. Returns the mean rows of the last half of the runs, times 100. */
static uint64_t closed_loop(struct batcher *b, unsigned clients, uint64_t think, uint64_t apart, uint64_t *idle_us)
{
    uint64_t at[64], now = NOW, rows_sum = 0, pulled[64], began = 0;
    unsigned runs = 0;

    assert_true(clients <= 64);
    for (unsigned i = 0; i < clients; i++) {
        at[i] = NOW + (i % 2 ? 0 : 1100); /* two groups */
        pulled[i] = false;
    }
    while (runs < 400) {
        uint64_t waiting = 0, oldest = NONE, next = NONE, took, left = 0;
        struct batch_answer a = {0};

        for (unsigned i = 0; i < clients; i++) {
            if (at[i] <= now) {
                if (!pulled[i]) {
                    batcher_came(b, at[i], 1);
                    pulled[i] = true;
                }
                waiting++;
                oldest = MIN(oldest, at[i]);
            } else {
                next = MIN(next, at[i]);
            }
        }
        if (waiting > 0) {
            a = ask(b, waiting, oldest, NONE, now);
        }
        if (a.rows == 0) {
            now = a.until_us ? MIN(a.until_us, next) : next;
            continue;
        }
        *idle_us += runs > 200 && began ? now - began : 0;
        took = takes(a.rows);
        now += took;
        for (unsigned i = 0, k = 0; k < a.rows; i++) { /* whoever came first, nearly: by number */
            if (pulled[i]) {
                pulled[i] = false;
                at[i] = now + think + k * apart;
                k++;
            }
        }
        for (unsigned i = 0; i < clients; i++) {
            if (at[i] <= now && !pulled[i]) {
                batcher_came(b, at[i], 1);
                pulled[i] = true;
            }
            left += pulled[i];
        }
        batcher_ran(b, a.rows, took, took, a.rows >= batcher_limit(b));
        batcher_ended(b, now, a.rows, left);
        began = now;
        runs++;
        rows_sum += runs > 200 ? a.rows : 0;
    }
    return rows_sum / 2;
}

static void groups_come_together(void **state)
{
    struct batcher b = made(16, 0, 0), alone = made(16, 0, 0), full = made(8, 0, 0);
    uint64_t idle = 0;

    (void)state;
    assert_true(closed_loop(&b, 16, 60, 8, &idle) > 1500); /* nearly all 16; without lingering 8 */
    assert_true(b.company > 4);
    assert_true(closed_loop(&full, 16, 60, 8, &idle) == 800); /* full anyway: it is not waited for */
    idle = 0;
    assert_int_equal(closed_loop(&alone, 1, 60, 8, &idle), 100);
    assert_true(alone.company == 0);
    assert_int_equal(idle, 199 * 60); /* a lone client never waits for anybody but itself */
}

static void late_company_is_not_waited_for(void **state)
{
    struct batcher b = made(16, 0, 0);
    uint64_t idle = 0;

    (void)state;
    closed_loop(&b, 16, 400, 8, &idle); /* back after a third of a run */
    assert_true(b.company < 0.1);
    for (uint64_t rows = 1; rows < 16; rows++) {
        assert_int_equal(ask(&b, rows, b.ended_us, NONE, b.ended_us).rows, rows);
    }
}

/* Arrivals that do not care for answers: what waits is what came in a whole run, more than lingering could bring. */
static void a_stream_does_not_linger(void **state)
{
    struct batcher b = made(64, 0, 0);
    uint64_t now = NOW, next = NOW, every = 150, waiting = 0;

    (void)state;
    for (unsigned runs = 0; runs < 300; runs++) {
        struct batch_answer a;
        uint64_t took;

        if (waiting == 0) {
            now = MAX(now, next);
        }
        for (; next <= now; next += every, waiting++) {
            batcher_came(&b, next, 1);
        }
        a = ask(&b, waiting, now, NONE, now);
        assert_true(a.rows > 0);
        took = takes(a.rows);
        now += took;
        waiting -= a.rows;
        for (; next <= now; next += every, waiting++) {
            batcher_came(&b, next, 1);
        }
        batcher_ran(&b, a.rows, took, took, false);
        batcher_ended(&b, now, a.rows, waiting);
    }
}

static void lingering_has_bounds(void **state)
{
    struct batcher b = made(16, 0, 0);

    (void)state;
    b.company = 12;
    batcher_ended(&b, NOW, 12, 4);
    assert_int_equal(ask(&b, 4, NOW - 10, NONE, NOW).until_us, NOW + takes(12) / 8);
    assert_int_equal(ask(&b, 15, NOW - 10, NONE, NOW + 200).until_us, NOW + takes(12) / 8);
    assert_int_equal(ask(&b, 16, NOW - 10, NONE, NOW + 200).rows, 16); /* all are back */
    assert_int_equal(ask(&b, 4, NOW - 10, NONE, NOW + takes(12) / 8).rows, 4);
    assert_int_equal(ask(&b, 4, NOW - 10, NOW + 2700, NOW).until_us, NOW + 100); /* twice 1,300 us before it */
    batcher_ended(&b, NOW, 3, 2); /* there were five, and they are back */
    assert_int_equal(ask(&b, 5, NOW - 10, NONE, NOW).rows, 5);
    b.company = 1; /* 1 × 900 us to gain, 8 × 262 us to lose */
    batcher_ended(&b, NOW, 12, 4);
    b.company = 1;
    assert_int_equal(ask(&b, 8, NOW - 10, NONE, NOW).rows, 8);
    batcher_init(&b, &(struct batch_rule){16, 0, 0}, true, 4, 6, 8); /* so quick that sleeping costs more */
    b.company = 12;
    batcher_ended(&b, NOW, 12, 4);
    assert_int_equal(ask(&b, 4, NOW, NONE, NOW).rows, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(idle_never_waits),
        cmocka_unit_test(delay_waits_for_company),
        cmocka_unit_test(the_deadline_ends_the_delay),
        cmocka_unit_test(slack_closes_below_the_limit),
        cmocka_unit_test(no_join_is_no_join),
        cmocka_unit_test(a_single_job_is_run_whatever_its_size),
        cmocka_unit_test(aimd),
        cmocka_unit_test(waiting_is_not_the_sizes_fault),
        cmocka_unit_test(without_an_slo_the_limit_is_max),
        cmocka_unit_test(predictions_follow),
        cmocka_unit_test(predictions_without_a_warm_up),
        cmocka_unit_test(joining_that_does_not_pay_stops),
        cmocka_unit_test(groups_come_together),
        cmocka_unit_test(late_company_is_not_waited_for),
        cmocka_unit_test(a_stream_does_not_linger),
        cmocka_unit_test(lingering_has_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
