/* SPDX-License-Identifier: Apache-2.0 */
/* Tallies: what counts, what counts once, what is lost when a stratum makes room, and four threads over one table. */
#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "control/tally.h"

#define MS 1000u         /* in microseconds */
#define MS_NS 1000000ull /* in nanoseconds */
#define ROOM ((1u << 20) / 8 * 7)

enum { STABLE = JUDGE_STABLE, CANARY = JUDGE_CANARY };

static uint64_t key_of(uint64_t user)
{
    return hash64_seed(&user, sizeof(user), 7) | 1;
}

/* A request of one user that takes `ms`. */
static void request(struct tally *t, unsigned part, unsigned stratum, unsigned arm, uint64_t key, unsigned bad,
                    uint64_t ms)
{
    struct tally_mark m;

    tally_begin(t, part, &m, stratum, arm, key, MS);
    tally_end(&m, part, bad, MS + ms * MS);
    assert_null(m.tally);
}

static struct judge_stratum stratum_of(const struct tally *t, uint32_t share_bp)
{
    struct judge_counts c;

    tally_sum(t, &c);
    for (size_t i = 0; i < c.n; i++) {
        if (c.stratum[i].share_bp == share_bp) {
            return c.stratum[i];
        }
    }
    fail_msg("no stratum of %u", share_bp);
    return (struct judge_stratum){0};
}

static void assert_sound(const struct judge_counts *c)
{
    for (size_t i = 0; i < c->n; i++) {
        for (unsigned a = 0; a < JUDGE_ARMS; a++) {
            for (unsigned m = 0; m < METRIC_COUNT; m++) {
                assert_true(c->stratum[i].bad[m][a] <= c->stratum[i].all[m][a]);
                assert_true(c->stratum[i].all[m][a] <=
                            (m == METRIC_WRONG ? c->stratum[i].labelled : c->stratum[i].answered)[a]);
            }
        }
    }
}

/* ---- what counts ---- */

static void strata_are_told_apart_by_their_share(void **state)
{
    struct tally *t = tally_new(2, NULL);
    unsigned one = tally_stratum(t, 100), five = tally_stratum(t, 500);
    struct judge_counts c;

    (void)state;
    assert_int_not_equal(one, five);
    assert_int_equal(tally_stratum(t, 100), one);
    for (int i = 0; i < 10; i++) {
        request(t, (unsigned)i % 2, one, i < 3 ? CANARY : STABLE, 0, i == 0 ? TALLY_ERROR : 0, 1);
        request(t, (unsigned)i % 2, five, CANARY, 0, i < 4 ? TALLY_INVALID : 0, 1);
    }
    tally_sum(t, &c);
    assert_int_equal(c.n, 2);
    assert_int_equal(c.stratum[0].share_bp, 100);
    assert_int_equal(c.stratum[0].answered[CANARY], 3);
    assert_int_equal(c.stratum[0].answered[STABLE], 7);
    assert_int_equal(c.stratum[0].bad[METRIC_ERRORS][CANARY], 1);
    assert_int_equal(c.stratum[0].bad[METRIC_INVALID][CANARY], 0);
    assert_int_equal(c.stratum[1].share_bp, 500);
    assert_int_equal(c.stratum[1].answered[CANARY], 10);
    assert_int_equal(c.stratum[1].answered[STABLE], 0);
    assert_int_equal(c.stratum[1].bad[METRIC_INVALID][CANARY], 4);
    assert_int_equal(c.stratum[1].bad[METRIC_ERRORS][CANARY], 0);
    tally_free(t);
    tally_free(NULL);
}

static void without_a_key_every_request_counts(void **state)
{
    struct tally *t = tally_new(1, NULL);
    unsigned half = tally_stratum(t, 5000);
    struct judge_stratum s;

    (void)state;
    for (int i = 0; i < 100; i++) {
        request(t, 0, half, CANARY, 0, TALLY_ERROR | TALLY_INVALID, 1);
    }
    s = stratum_of(t, 5000);
    assert_int_equal(s.exposed[CANARY], 100);
    assert_int_equal(s.bad[METRIC_ERRORS][CANARY], 100);
    assert_int_equal(s.all[METRIC_ERRORS][CANARY], 100);
    assert_int_equal(s.bad[METRIC_INVALID][CANARY], 100);
    assert_int_equal(s.answered[STABLE] + s.exposed[STABLE] + s.all[METRIC_ERRORS][STABLE], 0);
    tally_free(t);
}

static void a_user_counts_once_whoever_serves_it(void **state)
{
    struct tally *t = tally_new(3, NULL);
    unsigned one = tally_stratum(t, 100), half = tally_stratum(t, 5000);
    struct judge_stratum s;

    (void)state;
    for (uint64_t user = 0; user < 100; user++) {
        for (unsigned part = 0; part < 3; part++) {
            request(t, part, one, STABLE, key_of(user), part > 0 ? TALLY_ERROR : 0, 1);
        }
    }
    s = stratum_of(t, 100);
    assert_int_equal(s.exposed[STABLE], 100);
    assert_int_equal(s.answered[STABLE], 300);
    assert_int_equal(s.bad[METRIC_ERRORS][STABLE], 100);
    assert_int_equal(s.all[METRIC_ERRORS][STABLE], 200);

    /* In another stratum and on the other arm it is still the same user; another kind of bad is another matter. */
    request(t, 0, half, CANARY, key_of(5), TALLY_ERROR | TALLY_INVALID, 1);
    request(t, 1, half, CANARY, key_of(5), TALLY_INVALID, 1);
    s = stratum_of(t, 5000);
    assert_int_equal(s.exposed[CANARY], 0);
    assert_int_equal(s.answered[CANARY], 2);
    assert_int_equal(s.bad[METRIC_ERRORS][CANARY], 0);
    assert_int_equal(s.all[METRIC_ERRORS][CANARY], 1);
    assert_int_equal(s.bad[METRIC_INVALID][CANARY], 1);
    assert_int_equal(s.all[METRIC_INVALID][CANARY], 2);
    tally_free(t);
}

static void keys_that_are_near_each_other_are_told_apart(void **state)
{
    struct tally *t = tally_new(1, NULL);
    unsigned half = tally_stratum(t, 5000);

    (void)state;
    for (int round = 0; round < 2; round++) {
        for (uint64_t key = 1; key <= 5000; key++) {
            request(t, 0, half, STABLE, key, key % 2 ? TALLY_ERROR : 0, 1);
        }
    }
    assert_int_equal(stratum_of(t, 5000).exposed[STABLE], 5000);
    assert_int_equal(stratum_of(t, 5000).bad[METRIC_ERRORS][STABLE], 2500);
    tally_free(t);
}

static void a_dropped_request_stays_exposed_and_is_not_answered(void **state)
{
    struct tally *t = tally_new(1, NULL);
    unsigned half = tally_stratum(t, 5000);
    struct tally_mark m, none = {0};
    struct judge_stratum s;

    (void)state;
    tally_freeze(t, 10 * MS_NS, 20 * MS_NS, 0);
    tally_begin(t, 0, &m, half, CANARY, 0, MS);
    tally_drop(&m, 0);
    assert_null(m.tally);
    tally_drop(&m, 0); /* no mark any more: nothing happens */
    tally_end(&m, 0, TALLY_ERROR, MS);
    tally_end(&none, 0, TALLY_ERROR, MS);
    s = stratum_of(t, 5000);
    assert_int_equal(s.exposed[CANARY], 1);
    assert_int_equal(s.answered[CANARY], 0);
    assert_int_equal(s.all[METRIC_ERRORS][CANARY], 0);

    /* Its client lost patience: what the scan had found stays. */
    tally_begin(t, 0, &m, half, CANARY, 0, MS);
    tally_scan(t, 0, MS + 15 * MS);
    tally_drop(&m, 0);
    s = stratum_of(t, 5000);
    assert_int_equal(s.exposed[CANARY], 2);
    assert_int_equal(s.answered[CANARY], 1);
    assert_int_equal(s.bad[METRIC_SLOW95][CANARY], 1);
    tally_free(t);
}

/* ---- slow ---- */

static void nothing_is_slow_before_it_is_known_what_is(void **state)
{
    struct tally *t = tally_new(1, NULL);
    unsigned half = tally_stratum(t, 5000);
    struct judge_counts c;
    struct tally_mark m;

    (void)state;
    assert_false(tally_frozen(t));
    request(t, 0, half, STABLE, 0, 0, 100000);
    tally_begin(t, 0, &m, half, STABLE, 0, MS);
    tally_scan(t, 0, MS + 100000 * MS);
    tally_sum(t, &c);
    assert_int_equal(c.slow_ns[0] + c.slow_ns[1], 0);
    assert_int_equal(c.stratum[0].all[METRIC_SLOW95][STABLE], 0);
    assert_int_equal(c.stratum[0].answered[STABLE], 1);

    tally_freeze(t, 10 * MS_NS, 20 * MS_NS, 0);
    tally_freeze(t, 1, 2, 0); /* once */
    assert_true(tally_frozen(t));
    tally_end(&m, 0, 0, MS + 11 * MS);
    tally_sum(t, &c);
    assert_int_equal(c.slow_ns[0], 10 * MS_NS);
    assert_int_equal(c.slow_ns[1], 20 * MS_NS);
    assert_int_equal(c.stratum[0].all[METRIC_SLOW95][STABLE], 1);
    assert_int_equal(c.stratum[0].all[METRIC_SLOW99][STABLE], 0);
    tally_free(t);
}

static void slow_is_found_at_the_end(void **state)
{
    struct tally *t = tally_new(1, NULL);
    unsigned half = tally_stratum(t, 5000);
    struct tally_mark m;
    struct judge_stratum s;

    (void)state;
    tally_freeze(t, 10 * MS_NS, 20 * MS_NS, 0);
    request(t, 0, half, CANARY, 0, 0, 10); /* not beyond */
    request(t, 0, half, CANARY, 0, 0, 11);
    request(t, 0, half, CANARY, 0, TALLY_ERROR, 21);
    tally_begin(t, 0, &m, half, CANARY, 0, 5 * MS);
    tally_end(&m, 0, 0, 4 * MS); /* a start in the future took no time */
    s = stratum_of(t, 5000);
    assert_int_equal(s.answered[CANARY], 4);
    assert_int_equal(s.bad[METRIC_SLOW95][CANARY], 2);
    assert_int_equal(s.bad[METRIC_SLOW99][CANARY], 1);
    assert_int_equal(s.bad[METRIC_ERRORS][CANARY], 1);
    tally_free(t);
}

static void slow_is_found_while_open_and_counted_once(void **state)
{
    struct tally *t = tally_new(2, NULL);
    unsigned half = tally_stratum(t, 5000);
    struct tally_mark m, other, quick;
    struct judge_stratum s;

    (void)state;
    tally_freeze(t, 10 * MS_NS, 20 * MS_NS, 0);
    tally_begin(t, 0, &m, half, CANARY, key_of(1), MS);
    tally_begin(t, 1, &other, half, CANARY, key_of(2), MS); /* another part's: not looked at */
    tally_begin(t, 0, &quick, half, CANARY, key_of(3), 14 * MS);
    for (int i = 0; i < 3; i++) {
        tally_scan(t, 0, MS + 15 * MS);
    }
    s = stratum_of(t, 5000);
    assert_int_equal(s.answered[CANARY], 1);
    assert_int_equal(s.all[METRIC_SLOW95][CANARY], 1);
    assert_int_equal(s.bad[METRIC_SLOW95][CANARY], 1);
    assert_int_equal(s.all[METRIC_SLOW99][CANARY], 0);
    assert_int_equal(s.open[0], 1);
    assert_int_equal(s.open[1], 0);

    tally_scan(t, 0, MS + 21 * MS);
    s = stratum_of(t, 5000);
    assert_int_equal(s.open[0], 1);
    assert_int_equal(s.open[1], 1);
    tally_end(&m, 0, TALLY_ERROR, MS + 500 * MS);
    tally_end(&quick, 0, 0, 15 * MS);
    tally_scan(t, 0, MS + 22 * MS);
    s = stratum_of(t, 5000);
    assert_int_equal(s.open[0] + s.open[1], 0);
    assert_int_equal(s.answered[CANARY], 2);
    assert_int_equal(s.all[METRIC_SLOW95][CANARY], 1);
    assert_int_equal(s.all[METRIC_SLOW99][CANARY], 1);
    assert_int_equal(s.bad[METRIC_SLOW99][CANARY], 1);
    assert_int_equal(s.bad[METRIC_ERRORS][CANARY], 1);

    /* The same user hangs again: shown, and no new evidence. */
    request(t, 1, half, CANARY, key_of(1), 0, 500);
    tally_end(&other, 1, 0, MS + 2 * MS);
    s = stratum_of(t, 5000);
    assert_int_equal(s.answered[CANARY], 4);
    assert_int_equal(s.all[METRIC_SLOW95][CANARY], 2);
    assert_int_equal(s.bad[METRIC_SLOW95][CANARY], 1);
    tally_free(t);
}

/* ---- feedback ---- */

/* Sums over the groups of users. */
static double sum_of(const struct judge_values *v, double *y, unsigned *groups)
{
    double n = 0;

    *y = 0;
    *groups = 0;
    for (unsigned g = 0; g < STATS_GROUPS; g++) {
        n += (double)v->n[g];
        *y += v->y[g];
        *groups += v->n[g] > 0;
    }
    return n;
}

static void labels_count_all_and_the_first_wrong_of_a_user(void **state)
{
    struct tally *t = tally_new(2, NULL);
    unsigned tenth = tally_stratum(t, 1000), groups;
    struct judge_counts c;
    double y;

    (void)state;
    for (uint64_t user = 0; user < 2; user++) {
        struct tally_answer a = {.key = key_of(user), .stratum = tenth, .arm = CANARY};

        request(t, 0, tenth, CANARY, a.key, 0, 1);
        for (uint64_t i = 0; i < 10; i++) {
            a.id = key_of(100 + i);
            tally_label(t, i % 2, &a, user == 0 && i >= 5);
        }
    }
    tally_label(t, 1, &(struct tally_answer){.id = 7, .stratum = tenth, .arm = STABLE}, true);
    tally_label(t, 0, &(struct tally_answer){.id = 9, .stratum = tenth, .arm = STABLE}, true);
    tally_sum(t, &c);
    assert_int_equal(c.stratum[0].labelled[CANARY], 20);
    assert_int_equal(c.stratum[0].all[METRIC_WRONG][CANARY], 5);
    assert_int_equal(c.stratum[0].bad[METRIC_WRONG][CANARY], 1);
    assert_int_equal(c.stratum[0].bad[METRIC_WRONG][STABLE], 2); /* without a key each counts */
    assert_sound(&c);
    const struct judge_values *v = &c.values[0][CANARY];
    assert_int_equal(v->count, 20);
    assert_true(sum_of(v, &y, &groups) == 20 * 9000 && y == 5 * 9000 && groups == 2);
    assert_true(v->square == 5 * 9000. && v->weight2 == 20 * 9000ull * 9000);
    assert_true(sum_of(&c.values[0][STABLE], &y, &groups) == 2 * 1000 && y == 2 * 1000 && groups == 2);
    assert_int_equal(c.values[1][CANARY].count, 0);
    tally_free(t);
}

static void rewards_weigh_what_their_share_says(void **state)
{
    struct tally *t = tally_new(2, NULL);
    unsigned one = tally_stratum(t, 100), half = tally_stratum(t, 5000), groups;
    struct tally_answer a = {.key = key_of(1), .stratum = one, .arm = STABLE};
    struct judge_counts c;
    double y;

    (void)state;
    tally_reward(t, 0, &a, 2);
    a.stratum = half;
    tally_reward(t, 1, &a, -3);
    tally_sum(t, &c);
    const struct judge_values *v = &c.values[1][STABLE];
    assert_int_equal(v->count, 2);
    assert_true(sum_of(v, &y, &groups) == 5100 && y == 200 - 15000. && groups == 1);
    assert_true(v->square == 100 * 4 + 5000 * 9. && v->weight2 == 100 * 100 + 5000 * 5000);
    assert_int_equal(c.stratum[0].labelled[STABLE] + c.stratum[1].labelled[STABLE], 0);
    /* A soak has nothing to weigh it against; its labels are counted all the same. */
    a.stratum = tally_stratum(t, 10000);
    a.arm = CANARY;
    tally_reward(t, 0, &a, 1);
    tally_label(t, 0, &a, false);
    tally_sum(t, &c);
    assert_int_equal(c.values[1][CANARY].count + c.values[0][CANARY].count, 0);
    assert_int_equal(c.stratum[2].labelled[CANARY], 1);
    tally_free(t);
}

static void feedback_of_a_share_that_made_room_is_lost(void **state)
{
    struct tally *t = tally_new(1, NULL);
    struct tally_answer a = {.id = 3, .arm = CANARY, .stratum = tally_stratum(t, 77)};
    struct judge_counts c;

    (void)state;
    for (uint32_t i = 1; i <= JUDGE_STRATA; i++) { /* the first one, as empty as the others, goes */
        tally_stratum(t, 100 + i);
    }
    tally_label(t, 0, &a, true);
    tally_reward(t, 0, &a, 1);
    tally_sum(t, &c);
    assert_int_equal(c.values[0][CANARY].count + c.values[1][CANARY].count, 0);
    for (size_t i = 0; i < c.n; i++) {
        assert_int_equal(c.stratum[i].labelled[CANARY], 0);
    }
    tally_free(t);
}

static void feedback_goes_on_after_a_restart(void **state)
{
    struct tally *t = tally_new(1, NULL), *next;
    struct tally_answer a = {.key = key_of(1), .stratum = tally_stratum(t, 500), .arm = CANARY};
    struct judge_counts c;

    (void)state;
    tally_label(t, 0, &a, true);
    tally_reward(t, 0, &a, .5);
    tally_sum(t, &c);
    next = tally_new(1, &c);
    assert_true(tally_id(t) != 0 && tally_id(t) != tally_id(next));
    tally_free(t);
    a.stratum = tally_stratum(next, 500);
    tally_label(next, 0, &a, false);
    tally_reward(next, 0, &a, 1.5);
    tally_sum(next, &c);
    assert_int_equal(c.values[0][CANARY].count, 2);
    assert_true(c.values[1][CANARY].square == 9500 * (.25 + 2.25));
    assert_int_equal(c.stratum[0].labelled[CANARY], 2);
    assert_int_equal(c.stratum[0].all[METRIC_WRONG][CANARY], 1);
    tally_free(next);
}

/* ---- its life ---- */

static void what_was_counted_before_a_restart_is_in_the_sum(void **state)
{
    struct judge_counts base = {.n = 2, .slow_ns = {10 * MS_NS, 20 * MS_NS}}, c;
    struct tally *t;

    (void)state;
    base.stratum[0] = (struct judge_stratum){.share_bp = 100, .answered = {990, 10}, .exposed = {90, 1}};
    base.stratum[1] = (struct judge_stratum){.share_bp = 500, .answered = {95, 5}};
    base.stratum[1].bad[METRIC_INVALID][CANARY] = 2;
    base.stratum[1].all[METRIC_INVALID][CANARY] = 3;
    t = tally_new(1, &base);
    memset(&base, 0xff, sizeof(base)); /* it was copied */
    assert_true(tally_frozen(t));
    request(t, 0, tally_stratum(t, 500), CANARY, 0, TALLY_INVALID, 30);
    request(t, 0, tally_stratum(t, 900), CANARY, 0, 0, 1);
    tally_sum(t, &c);
    assert_int_equal(c.n, 3);
    assert_int_equal(c.stratum[0].share_bp, 100);
    assert_int_equal(c.stratum[0].answered[STABLE], 990);
    assert_int_equal(c.stratum[0].exposed[CANARY], 1);
    assert_int_equal(c.stratum[1].answered[CANARY], 6);
    assert_int_equal(c.stratum[1].bad[METRIC_INVALID][CANARY], 3);
    assert_int_equal(c.stratum[1].all[METRIC_INVALID][CANARY], 4);
    assert_int_equal(c.stratum[1].all[METRIC_SLOW99][CANARY], 1);
    assert_int_equal(c.stratum[2].share_bp, 900);
    assert_int_equal(c.stratum[2].answered[CANARY], 1);
    assert_int_equal(c.slow_ns[0], 10 * MS_NS);
    assert_int_equal(c.slow_ns[1], 20 * MS_NS);
    tally_free(t);
}

static void requests_end_in_any_order(void **state)
{
    struct tally *t = tally_new(2, NULL);
    unsigned half = tally_stratum(t, 5000);
    struct tally_mark m[7];

    (void)state;
    tally_freeze(t, 10 * MS_NS, 20 * MS_NS, 0);
    assert_true(tally_idle(t));
    for (unsigned i = 0; i < 7; i++) {
        tally_begin(t, i % 2, &m[i], half, STABLE, 0, MS);
    }
    tally_end(&m[2], 0, 0, MS); /* from the middle, and the newest */
    tally_drop(&m[6], 0);
    tally_scan(t, 0, MS + 15 * MS); /* 0 and 4 are left */
    assert_int_equal(stratum_of(t, 5000).all[METRIC_SLOW95][STABLE], 2);
    tally_drop(&m[0], 0);
    tally_scan(t, 0, MS + 25 * MS);
    assert_int_equal(stratum_of(t, 5000).all[METRIC_SLOW99][STABLE], 1);
    tally_drop(&m[4], 0);
    assert_false(tally_idle(t));
    tally_end(&m[1], 1, 0, MS);
    tally_end(&m[5], 1, 0, MS);
    assert_false(tally_idle(t));
    tally_end(&m[3], 1, 0, MS);
    assert_true(tally_idle(t));
    assert_int_equal(stratum_of(t, 5000).answered[STABLE], 6);
    tally_free(t);
}

static void when_the_table_is_full_no_new_user_is_admitted(void **state)
{
    struct tally *t = tally_new(2, NULL);
    unsigned half = tally_stratum(t, 5000);
    struct judge_stratum s;
    uint64_t user = 0;

    (void)state;
    while (user < ROOM) {
        struct tally_mark m;

        assert_false(tally_full(t));
        tally_begin(t, user % 2, &m, half, STABLE, key_of(user), MS);
        tally_drop(&m, user % 2);
        user++;
    }
    assert_true(tally_full(t));
    assert_int_equal(stratum_of(t, 5000).exposed[STABLE], ROOM);
    for (uint64_t i = 0; i < 1000; i++) {
        request(t, 0, half, CANARY, key_of(user + i), TALLY_ERROR, 1); /* too late */
        request(t, 1, half, STABLE, key_of(i * 701), TALLY_ERROR, 1);  /* known */
    }
    request(t, 0, half, CANARY, 0, TALLY_ERROR, 1); /* nobody in particular needs no room */
    s = stratum_of(t, 5000);
    assert_int_equal(s.exposed[STABLE], ROOM);
    assert_int_equal(s.bad[METRIC_ERRORS][STABLE], 1000);
    assert_int_equal(s.exposed[CANARY], 1);
    assert_int_equal(s.bad[METRIC_ERRORS][CANARY], 1);
    assert_int_equal(s.answered[CANARY], 1001);
    assert_int_equal(s.all[METRIC_ERRORS][CANARY], 1001);
    tally_free(t);
}

static void the_stratum_with_the_fewest_answers_makes_room(void **state)
{
    struct judge_counts base = {.n = 1}, c;
    struct tally *t;
    unsigned old, now, again;
    struct tally_mark early, late;

    (void)state;
    base.stratum[0] = (struct judge_stratum){.share_bp = 1, .answered = {100, 3}};
    t = tally_new(2, &base);
    tally_freeze(t, 10 * MS_NS, 20 * MS_NS, 0);
    for (uint32_t i = 2; i <= JUDGE_STRATA; i++) {
        for (int k = 0; k < 5; k++) {
            request(t, k % 2, tally_stratum(t, i), CANARY, 0, 0, 1);
        }
    }
    old = tally_stratum(t, 1); /* 3 answers and one more: still the fewest */
    request(t, 0, old, CANARY, 0, TALLY_ERROR, 1);
    tally_begin(t, 0, &early, old, CANARY, 0, MS);
    tally_begin(t, 1, &late, old, CANARY, 0, MS);
    now = tally_stratum(t, 7777);
    tally_sum(t, &c);
    assert_int_equal(c.n, JUDGE_STRATA);
    assert_int_equal(c.stratum[0].share_bp, 7777);
    assert_int_equal(c.stratum[0].answered[STABLE] + c.stratum[0].answered[CANARY], 0);
    assert_int_equal(c.stratum[0].exposed[CANARY] + c.stratum[0].bad[METRIC_ERRORS][CANARY], 0);
    assert_int_equal(c.stratum[1].answered[CANARY], 5);

    /* What was assigned under the old share is nobody's, whether this part knows of the new one or not yet. */
    tally_end(&early, 0, TALLY_ERROR, MS + 30 * MS);
    request(t, 0, old, CANARY, 0, TALLY_ERROR, 1);
    request(t, 0, now, CANARY, 0, TALLY_INVALID, 1);
    request(t, 1, now, STABLE, 0, 0, 1);
    request(t, 1, old, CANARY, 0, TALLY_ERROR, 1);
    tally_scan(t, 1, MS + 30 * MS);
    tally_end(&late, 1, TALLY_ERROR, MS + 30 * MS);
    tally_sum(t, &c);
    assert_int_equal(c.stratum[0].answered[CANARY], 1);
    assert_int_equal(c.stratum[0].answered[STABLE], 1);
    assert_int_equal(c.stratum[0].exposed[CANARY], 1);
    assert_int_equal(c.stratum[0].all[METRIC_INVALID][CANARY], 1);
    assert_int_equal(c.stratum[0].all[METRIC_ERRORS][CANARY], 0);
    assert_int_equal(c.stratum[0].all[METRIC_SLOW95][CANARY], 0);

    /* The share that was dropped begins anew when it comes back: as another stratum, without what it had. */
    again = tally_stratum(t, 1);
    assert_int_not_equal(again, old);
    assert_int_equal(tally_stratum(t, 1), again);
    request(t, 0, old, CANARY, 0, TALLY_ERROR, 1);
    request(t, 0, again, STABLE, 0, 0, 1);
    assert_int_equal(stratum_of(t, 1).answered[STABLE], 1);
    assert_int_equal(stratum_of(t, 1).answered[CANARY], 0);
    assert_true(tally_idle(t));
    tally_free(t);
}

/* ---- threads ---- */

#define THREADS 4
#define TURNS 20000u
#define CROWD 3000u

struct crowd {
    struct tally *t;
    _Atomic unsigned stratum;
    _Atomic unsigned at_work;
};
struct worker {
    struct crowd *crowd;
    unsigned part;
};

/* Some requests open at any time; every user comes to every thread, and each kind of bad happens to each of them. */
static void *work(void *arg)
{
    struct worker *w = arg;
    struct tally *t = w->crowd->t;
    struct tally_mark m[8] = {0};

    for (unsigned i = 0; i < TURNS; i++) {
        struct tally_mark *at = &m[i % COUNT_OF(m)];
        uint64_t user = (i * 7 + w->part * 1000) % CROWD;
        unsigned bad = i / CROWD == 1 ? TALLY_ERROR : i / CROWD == 2 ? TALLY_INVALID | TALLY_ERROR : 0;

        tally_end(at, w->part, bad, MS + (i % 3 == 0 ? 15 : 1) * MS);
        tally_begin(t, w->part, at, atomic_load(&w->crowd->stratum), user % 2 ? CANARY : STABLE, key_of(user), MS);
        if (i % 512 == 0) {
            tally_scan(t, w->part, MS + 25 * MS);
        }
    }
    for (size_t i = 0; i < COUNT_OF(m); i++) {
        tally_end(&m[i], w->part, 0, MS);
    }
    atomic_fetch_sub(&w->crowd->at_work, 1);
    return NULL;
}

/* Runs the threads; meanwhile reads, and gives a new share each time if `shares` is more than one. */
static void crowd_run(struct crowd *c, uint32_t shares)
{
    pthread_t thread[THREADS];
    struct worker w[THREADS];
    struct judge_counts sum;

    *c = (struct crowd){.t = tally_new(THREADS, NULL), .at_work = THREADS};
    tally_freeze(c->t, 10 * MS_NS, 20 * MS_NS, 0);
    atomic_store(&c->stratum, tally_stratum(c->t, 1));
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){c, i};
        assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
    }
    for (uint32_t i = 0; atomic_load(&c->at_work) > 0; i++) {
        tally_sum(c->t, &sum);
        assert_sound(&sum);
        tally_idle(c->t);
        atomic_store(&c->stratum, tally_stratum(c->t, 1 + i % shares));
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
    }
    assert_true(tally_idle(c->t));
}

static void threads_count_every_request_and_each_user_once(void **state)
{
    struct crowd c;
    struct judge_stratum s;

    (void)state;
    crowd_run(&c, 1);
    s = stratum_of(c.t, 1);
    assert_int_equal(s.answered[STABLE] + s.answered[CANARY], THREADS * TURNS);
    assert_int_equal(s.exposed[STABLE], CROWD / 2);
    assert_int_equal(s.exposed[CANARY], CROWD / 2);
    assert_int_equal(s.bad[METRIC_ERRORS][STABLE], CROWD / 2);
    assert_int_equal(s.bad[METRIC_ERRORS][CANARY], CROWD / 2);
    assert_int_equal(s.bad[METRIC_INVALID][CANARY], CROWD / 2);
    assert_int_equal(s.all[METRIC_ERRORS][STABLE] + s.all[METRIC_ERRORS][CANARY], THREADS * 2 * CROWD);
    assert_int_equal(s.all[METRIC_INVALID][STABLE] + s.all[METRIC_INVALID][CANARY], THREADS * CROWD);
    assert_true(s.all[METRIC_SLOW95][STABLE] > THREADS * TURNS / 6 - 100);
    tally_free(c.t);
}

static void strata_make_room_while_threads_count(void **state)
{
    struct crowd c;
    struct judge_counts sum;
    uint64_t answered = 0, exposed = 0;

    (void)state;
    crowd_run(&c, 3 * JUDGE_STRATA);
    tally_sum(c.t, &sum);
    assert_sound(&sum);
    for (size_t i = 0; i < sum.n; i++) {
        answered += sum.stratum[i].answered[STABLE] + sum.stratum[i].answered[CANARY];
        exposed += sum.stratum[i].exposed[STABLE] + sum.stratum[i].exposed[CANARY];
        for (size_t k = 0; k < i; k++) {
            assert_int_not_equal(sum.stratum[i].share_bp, sum.stratum[k].share_bp);
        }
    }
    assert_true(answered <= THREADS * TURNS);
    assert_true(exposed <= CROWD);
    tally_free(c.t);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_count_all_and_the_first_wrong_of_a_user),
        cmocka_unit_test(rewards_weigh_what_their_share_says),
        cmocka_unit_test(feedback_of_a_share_that_made_room_is_lost),
        cmocka_unit_test(feedback_goes_on_after_a_restart),
        cmocka_unit_test(strata_are_told_apart_by_their_share),
        cmocka_unit_test(without_a_key_every_request_counts),
        cmocka_unit_test(a_user_counts_once_whoever_serves_it),
        cmocka_unit_test(keys_that_are_near_each_other_are_told_apart),
        cmocka_unit_test(a_dropped_request_stays_exposed_and_is_not_answered),
        cmocka_unit_test(nothing_is_slow_before_it_is_known_what_is),
        cmocka_unit_test(slow_is_found_at_the_end),
        cmocka_unit_test(slow_is_found_while_open_and_counted_once),
        cmocka_unit_test(what_was_counted_before_a_restart_is_in_the_sum),
        cmocka_unit_test(requests_end_in_any_order),
        cmocka_unit_test(when_the_table_is_full_no_new_user_is_admitted),
        cmocka_unit_test(the_stratum_with_the_fewest_answers_makes_room),
        cmocka_unit_test(threads_count_every_request_and_each_user_once),
        cmocka_unit_test(strata_make_room_while_threads_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
