/* SPDX-License-Identifier: Apache-2.0 */
/* The memory budget: who is granted, who goes and in which order, what a refusal says; and a seeded random walk that
 * holds the books against a count of its own after every step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "inference/budget.h"

#define MB (1ull << 20)
#define MOST 64

static struct budget b;
static struct budget_claim c[MOST], *out[MOST];
static size_t n;
static struct err e;

static int setup(void **state)
{
    (void)state;
    budget_init(&b, 100 * MB);
    memset(c, 0, sizeof(c));
    for (int i = 0; i < MOST; i++) {
        snprintf(c[i].name, sizeof(c[i].name), "m/%d", i);
        c[i].rank = CLAIM_SERVING;
        c[i].used_us = (uint64_t)i;
    }
    return 0;
}

static enum budget_verdict ask(int i, uint64_t bytes)
{
    c[i].bytes[BUDGET_HOST] = bytes;
    return budget_ask(&b, &c[i], true, out, MOST, &n, &e);
}

static void resident(int i, uint64_t bytes)
{
    assert_int_equal(ask(i, bytes), BUDGET_GRANTED);
    budget_settle(&b, &c[i], c[i].bytes, CLAIM_MEASURED);
}

static void assert_goes(size_t at, int i)
{
    assert_true(at < n);
    assert_string_equal(out[at]->name, c[i].name);
}

static void what_fits_is_granted(void **state)
{
    (void)state;
    assert_int_equal(ask(0, 60 * MB), BUDGET_GRANTED);
    assert_int_equal(ask(1, 40 * MB), BUDGET_GRANTED);
    assert_int_equal(b.device[BUDGET_HOST].used, 100 * MB);
    budget_gone(&b, &c[0]);
    assert_int_equal(b.device[BUDGET_HOST].used, 40 * MB);
}

static void the_least_recently_used_goes(void **state)
{
    (void)state;
    resident(0, 40 * MB);
    resident(1, 40 * MB);
    c[0].used_us = 10;
    c[1].used_us = 9;
    assert_int_equal(ask(2, 30 * MB), BUDGET_EVICT);
    assert_int_equal(n, 1);
    assert_goes(0, 1);
    budget_leave(&b, out[0]);
    assert_int_equal(b.device[BUDGET_HOST].used, 80 * MB); /* it is still there */
    assert_int_equal(ask(2, 30 * MB), BUDGET_EVICT);       /* and enough leaves already */
    assert_int_equal(n, 0);
    budget_gone(&b, &c[1]);
    assert_int_equal(ask(2, 30 * MB), BUDGET_GRANTED);
}

static void rank_goes_before_use(void **state)
{
    (void)state;
    resident(0, 30 * MB);
    resident(1, 30 * MB);
    resident(2, 30 * MB);
    c[0].rank = CLAIM_SERVING;
    c[1].rank = CLAIM_PREVIOUS;
    c[2].rank = CLAIM_UNUSED; /* used last */
    assert_int_equal(ask(3, 65 * MB), BUDGET_EVICT);
    assert_int_equal(n, 2);
    assert_goes(0, 2);
    assert_goes(1, 1);
}

static void no_more_than_needed_goes(void **state)
{
    (void)state;
    resident(0, 10 * MB); /* the oldest, and not needed once the big one goes */
    resident(1, 80 * MB);
    assert_int_equal(ask(2, 50 * MB), BUDGET_EVICT);
    assert_int_equal(n, 1);
    assert_goes(0, 1);
}

static void what_is_not_idle_stays(void **state)
{
    (void)state;
    resident(0, 25 * MB);
    resident(1, 25 * MB);
    resident(2, 25 * MB);
    assert_int_equal(ask(3, 25 * MB), BUDGET_GRANTED); /* loading */
    c[0].pinned = true;
    c[1].in_rollout = true;
    c[2].busy = true;
    assert_int_equal(ask(4, 10 * MB), BUDGET_REFUSED);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    for (int i = 0; i < 4; i++) {
        assert_non_null(strstr(e.text, c[i].name));
    }
    assert_non_null(strstr(e.text, "m/4 needs about 10.0 MiB of host memory (estimated from its files); 0 B of 100.0 "
                                   "MiB are free"));
    assert_non_null(strstr(e.text, "m/0 25.0 MiB pinned"));
    assert_non_null(strstr(e.text, "m/1 25.0 MiB in a rollout"));
    assert_non_null(strstr(e.text, "m/2 25.0 MiB busy"));
    assert_non_null(strstr(e.text, "m/3 25.0 MiB loading"));
    c[2].busy = false;
    assert_int_equal(ask(4, 10 * MB), BUDGET_EVICT);
    assert_goes(0, 2);
}

static void larger_than_the_limit_is_refused_for_good(void **state)
{
    (void)state;
    resident(0, 10 * MB);
    assert_int_equal(ask(1, 101 * MB), BUDGET_REFUSED);
    assert_int_equal(e.code, ERR_REFUSED);
    assert_non_null(strstr(e.text, "more than the whole budget of 100.0 MiB"));
    assert_int_equal(ask(1, UINT64_MAX), BUDGET_REFUSED);
    assert_int_equal(c[0].state, CLAIM_RESIDENT);
}

static void without_leave_to_evict_nobody_goes(void **state)
{
    (void)state;
    resident(0, 60 * MB);
    c[1].bytes[BUDGET_HOST] = 60 * MB;
    assert_int_equal(budget_ask(&b, &c[1], false, out, MOST, &n, &e), BUDGET_REFUSED);
    assert_int_equal(c[1].state, CLAIM_NONE);
    assert_non_null(strstr(e.text, "m/0 60.0 MiB idle"));
}

static void a_later_ask_does_not_take_what_another_waits_for(void **state)
{
    (void)state;
    resident(0, 60 * MB);
    assert_int_equal(ask(1, 70 * MB), BUDGET_EVICT);
    budget_leave(&b, out[0]);
    assert_int_equal(ask(2, 40 * MB), BUDGET_REFUSED); /* 40 are free, but 30 of them are spoken for */
    assert_int_equal(ask(2, 30 * MB), BUDGET_GRANTED);
    budget_gone(&b, &c[0]);
    assert_ptr_equal(budget_waiting(&b, 0), &c[1]);
    assert_int_equal(ask(1, 70 * MB), BUDGET_GRANTED);
    assert_null(budget_waiting(&b, 0));
}

static void a_measurement_may_exceed_and_is_seen(void **state)
{
    (void)state;
    uint64_t more[BUDGET_DEVICES] = {120 * MB};

    assert_int_equal(ask(0, 50 * MB), BUDGET_GRANTED);
    budget_settle(&b, &c[0], more, CLAIM_MEASURED);
    assert_int_equal(b.device[BUDGET_HOST].used, 120 * MB);
    c[0].pinned = true;
    assert_int_equal(ask(1, 1 * MB), BUDGET_REFUSED);
    budget_gone(&b, &c[0]);
    assert_int_equal(ask(1, 1 * MB), BUDGET_GRANTED);
}

static void each_device_for_itself(void **state)
{
    unsigned gpu = budget_device(&b, "cuda:0", 80 * MB);

    (void)state;
    assert_int_equal(budget_device(&b, "cuda:0", 1), gpu);
    assert_int_equal(budget_device(&b, "cpu", 1), BUDGET_HOST);
    c[0].bytes[gpu] = 60 * MB;
    resident(0, 10 * MB);
    resident(1, 20 * MB); /* older use does not matter: it holds nothing there */
    c[1].used_us = 0;
    c[0].used_us = 5;
    c[2].bytes[gpu] = 40 * MB;
    assert_int_equal(ask(2, 5 * MB), BUDGET_EVICT);
    assert_int_equal(n, 1);
    assert_goes(0, 0);
    c[0].busy = true;
    budget_gone(&b, &c[2]);
    assert_int_equal(ask(2, 5 * MB), BUDGET_REFUSED);
    assert_non_null(strstr(e.text, "40.0 MiB of cuda:0"));
}

/* ---- a walk ---- */

static uint64_t seed;

static uint64_t dice(uint64_t sides)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (seed >> 33) % sides;
}

static void check_books(bool over)
{
    for (unsigned d = 0; d < b.n_devices; d++) {
        uint64_t sum = 0;

        for (int i = 0; i < MOST; i++) {
            bool holds = c[i].state == CLAIM_RESERVED || c[i].state == CLAIM_RESIDENT || c[i].state == CLAIM_LEAVING;

            sum += holds ? c[i].bytes[d] : 0;
        }
        assert_int_equal(sum, b.device[d].used);
        assert_true(over || sum <= b.device[d].limit);
    }
}

static void walk_ask(int i)
{
    bool evict = dice(4) > 0;
    uint64_t freed = 0;

    if (c[i].state == CLAIM_NONE) {
        c[i].bytes[0] = dice(40) * MB;
        c[i].bytes[1] = dice(3) ? 0 : dice(40) * MB;
    }
    enum budget_verdict v = budget_ask(&b, &c[i], evict, out, MOST, &n, &e);
    assert_int_equal(c[i].state, v == BUDGET_GRANTED ? CLAIM_RESERVED : v == BUDGET_EVICT ? CLAIM_WAITING : CLAIM_NONE);
    assert_true(v == BUDGET_EVICT || n == 0);
    assert_true(evict || n == 0);
    for (size_t k = 0; k < n; k++) {
        assert_true(out[k]->state == CLAIM_RESIDENT && !out[k]->pinned && !out[k]->in_rollout && !out[k]->busy);
        freed += out[k]->bytes[0] + out[k]->bytes[1];
        budget_leave(&b, out[k]);
    }
    assert_true(n == 0 || freed > 0);
}

/* When all that leaves is gone, all that waits gets in, one after the other: nobody waits for ever. */
static void drain_all(void)
{
    for (int i = 0; i < MOST; i++) {
        if (c[i].state == CLAIM_LEAVING) {
            budget_gone(&b, &c[i]);
        }
    }
    for (uint64_t after = 0;;) {
        struct budget_claim *w = budget_waiting(&b, after);

        if (!w) {
            break;
        }
        after = w->turn;
        assert_int_equal(budget_ask(&b, w, false, out, MOST, &n, &e), BUDGET_GRANTED);
    }
}

static void a_random_walk_never_exceeds(void **state)
{
    (void)state;
    for (uint64_t walk = 1; walk <= 40; walk++) {
        unsigned granted = 0;

        setup(state);
        seed = walk;
        budget_device(&b, "cuda:0", 60 * MB);
        for (int step = 0; step < 2000; step++) {
            int i = (int)dice(MOST);

            c[i].pinned = dice(8) == 0;
            c[i].in_rollout = dice(8) == 0;
            c[i].busy = dice(4) == 0;
            c[i].rank = (enum claim_rank)dice(3);
            c[i].used_us = (uint64_t)step;
            if (c[i].state == CLAIM_NONE || c[i].state == CLAIM_WAITING) {
                walk_ask(i);
            } else if (c[i].state == CLAIM_RESERVED && dice(2)) {
                budget_settle(&b, &c[i], c[i].bytes, CLAIM_MEASURED);
                granted++;
            } else if (c[i].state == CLAIM_LEAVING || dice(6) == 0) {
                budget_gone(&b, &c[i]);
            }
            check_books(false);
        }
        assert_true(granted > 100);
        drain_all();
        check_books(false);
    }
}

static void measurements_keep_the_books_right(void **state)
{
    (void)state;
    seed = 7;
    for (int step = 0; step < 20000; step++) {
        int i = (int)dice(MOST);
        uint64_t bytes[BUDGET_DEVICES] = {dice(60) * MB};

        if (c[i].state == CLAIM_NONE) {
            walk_ask(i);
        } else if (c[i].state == CLAIM_LEAVING || dice(4) == 0) {
            budget_gone(&b, &c[i]);
        } else {
            budget_settle(&b, &c[i], bytes, CLAIM_MEASURED);
        }
        check_books(true);
    }
}

static void two_claims_may_change_places(void **state)
{
    (void)state;
    resident(0, 10 * MB);
    resident(1, 20 * MB);
    resident(2, 30 * MB);
    budget_exchange(&c[0], &c[2]);
    assert_int_equal(c[0].bytes[BUDGET_HOST], 30 * MB);
    assert_int_equal(b.device[BUDGET_HOST].used, 60 * MB);
    budget_leave(&b, &c[2]);
    budget_gone(&b, &c[2]); /* what 0 was */
    assert_int_equal(b.device[BUDGET_HOST].used, 50 * MB);
    budget_exchange(&c[1], &c[0]); /* neighbours */
    budget_gone(&b, &c[0]);
    assert_int_equal(b.device[BUDGET_HOST].used, 30 * MB);
    budget_gone(&b, &c[1]);
    assert_null(b.claims);
    assert_int_equal(b.device[BUDGET_HOST].used, 0);
}

static void bytes_are_told_shortly(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {{0, "0 B"},          {1023, "1023 B"},        {1024, "1.0 KiB"},       {1536, "1.5 KiB"},
                {MB - 1, "1.0 MiB"}, {6ull << 30, "6.0 GiB"}, {3ull << 40, "3.0 TiB"}, {UINT64_MAX, "16777216.0 TiB"}};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char text[BUDGET_TEXT];

        budget_bytes(text, rows[i].bytes);
        assert_string_equal(text, rows[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_fits_is_granted, setup),
        cmocka_unit_test_setup(the_least_recently_used_goes, setup),
        cmocka_unit_test_setup(rank_goes_before_use, setup),
        cmocka_unit_test_setup(no_more_than_needed_goes, setup),
        cmocka_unit_test_setup(what_is_not_idle_stays, setup),
        cmocka_unit_test_setup(larger_than_the_limit_is_refused_for_good, setup),
        cmocka_unit_test_setup(without_leave_to_evict_nobody_goes, setup),
        cmocka_unit_test_setup(a_later_ask_does_not_take_what_another_waits_for, setup),
        cmocka_unit_test_setup(a_measurement_may_exceed_and_is_seen, setup),
        cmocka_unit_test_setup(each_device_for_itself, setup),
        cmocka_unit_test_setup(a_random_walk_never_exceeds, setup),
        cmocka_unit_test_setup(measurements_keep_the_books_right, setup),
        cmocka_unit_test_setup(two_claims_may_change_places, setup),
        cmocka_unit_test(bytes_are_told_shortly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
