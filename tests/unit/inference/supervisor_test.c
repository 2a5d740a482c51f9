/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of restarting as tables of deaths and times: who is restarted when, and when a version is sick. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "inference/supervisor.h"

#define MS 1000ull
#define S 1000000ull
#define START (1000 * S)

struct row {
    uint64_t at; /* microseconds from START */
    bool own;
    uint64_t wait; /* expected, without jitter */
    bool sick;
};

static void play(const struct row *rows, size_t n)
{
    struct supervisor s = {0};

    for (size_t i = 0; i < n; i++) {
        struct supervisor_answer a = supervisor_died(&s, rows[i].own, START + rows[i].at, 0.5);

        if (a.restart_at_us != START + rows[i].at + rows[i].wait || a.sick != rows[i].sick) {
            fail_msg("row %zu: restart in %lld us instead of %llu, sick %d", i,
                     (long long)(a.restart_at_us - START - rows[i].at), (unsigned long long)rows[i].wait, a.sick);
        }
    }
    assert_int_equal(s.restarts, n);
}
#define PLAY(...)                                       \
    do {                                                \
        static const struct row rows[] = {__VA_ARGS__}; \
        play(rows, COUNT_OF(rows));                     \
    } while (0)

static void outside_deaths_are_mended_at_once(void **state)
{
    (void)state;
    PLAY({0, false, 0, false}, {1 * MS, false, 0, false}, {2 * MS, false, 0, false}, {3 * MS, false, 0, false},
         {4 * MS, false, 0, false}, {5 * MS, false, 0, false}, {6 * MS, false, 0, false});
}

static void backoff_doubles(void **state)
{
    (void)state;
    /* 50 s apart: never five in 60 s, but never quiet either */
    PLAY({0, true, 100 * MS, false}, {50 * S, true, 200 * MS, false}, {100 * S, true, 400 * MS, false},
         {150 * S, true, 800 * MS, false}, {200 * S, true, 1600 * MS, false}, {250 * S, true, 3200 * MS, false},
         {300 * S, true, 6400 * MS, false}, {350 * S, true, 12800 * MS, false}, {400 * S, true, 25600 * MS, false},
         {450 * S, true, 30 * S, false}, {500 * S, true, 30 * S, false});
}

static void quiet_begins_anew(void **state)
{
    (void)state;
    PLAY({0, true, 100 * MS, false}, {1 * S, true, 200 * MS, false}, {61 * S, true, 400 * MS, false},
         {121 * S + 1, true, 100 * MS, false}, {122 * S, true, 200 * MS, false});
}

static void an_outside_death_does_not_end_the_quiet(void **state)
{
    (void)state;
    PLAY({0, true, 100 * MS, false}, {40 * S, false, 0, false}, {61 * S, true, 100 * MS, false});
}

static void five_in_a_minute_are_sick(void **state)
{
    (void)state;
    PLAY({0, true, 100 * MS, false}, {15 * S, true, 200 * MS, false}, {30 * S, true, 400 * MS, false},
         {45 * S, true, 800 * MS, false}, {60 * S, true, 1600 * MS, true}, /* exactly 60 s still counts */
         {75 * S, true, 3200 * MS, true}, {76 * S, true, 6400 * MS, true});
    PLAY({0, true, 100 * MS, false}, {15 * S, true, 200 * MS, false}, {30 * S, true, 400 * MS, false},
         {45 * S, true, 800 * MS, false}, {60 * S + 1, true, 1600 * MS, false}, {61 * S, true, 3200 * MS, true});
}

static void outside_deaths_make_nobody_sick(void **state)
{
    (void)state;
    PLAY({0, true, 100 * MS, false}, {1 * S, true, 200 * MS, false}, {2 * S, false, 0, false}, {3 * S, false, 0, false},
         {4 * S, true, 400 * MS, false}, {5 * S, true, 800 * MS, false}, {6 * S, false, 0, false},
         {7 * S, true, 1600 * MS, true});
}

static void jitter_is_a_fifth_both_ways(void **state)
{
    (void)state;
    for (unsigned i = 0; i <= 10; i++) {
        struct supervisor s = {0};
        double jitter = i / 10.0 * 0.999999;
        struct supervisor_answer a = supervisor_died(&s, true, START, jitter);

        assert_in_range(a.restart_at_us - START, 80 * MS, 120 * MS);
        if (i == 0) {
            assert_int_equal(a.restart_at_us - START, 80 * MS);
        }
        if (i == 10) {
            assert_in_range(a.restart_at_us - START, 119 * MS, 120 * MS);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outside_deaths_are_mended_at_once),
        cmocka_unit_test(backoff_doubles),
        cmocka_unit_test(quiet_begins_anew),
        cmocka_unit_test(an_outside_death_does_not_end_the_quiet),
        cmocka_unit_test(five_in_a_minute_are_sick),
        cmocka_unit_test(outside_deaths_make_nobody_sick),
        cmocka_unit_test(jitter_is_a_fifth_both_ways),
    };

    return cmocka_run_group_tests_name("supervisor", tests, NULL, NULL);
}
