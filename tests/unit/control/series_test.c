/* SPDX-License-Identifier: Apache-2.0 */
/* Series: what is counted, how parts add up, the circuit breaker's memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "control/series.h"

static uint64_t key_of(int user)
{
    return hash64(&user, sizeof(user)) | 1;
}

static void users_are_counted_within_one_percent(void **state)
{
    static const int sizes[] = {1, 100, 2000, 100000};

    (void)state;
    for (size_t k = 0; k < 4; k++) {
        struct series *s = series_new(1, 2);
        struct series_sum sum;
        int n = sizes[k];

        for (int round = 0; round < 3; round++) { /* the same users again, on both threads */
            for (int i = 0; i < n; i++) {
                series_key(s, (unsigned)(i + round) % 2, key_of(i));
            }
        }
        series_sum(s, &sum);
        assert_true(sum.users >= n * .99 && sum.users <= n * 1.01 + .01);
        assert_int_equal(sum.keyless, 0);
        series_sum_done(&sum);
        series_free(s);
    }
}

static void parts_add_up(void **state)
{
    struct series *s = series_new(7, 3);
    struct series_sum sum;

    (void)state;
    for (unsigned part = 0; part < 3; part++) {
        for (int i = 0; i < 100; i++) {
            series_begin(s, part);
            series_key(s, part, 0);
            series_end(s, part, i == 0 ? ERR_MODEL : i == 1 ? ERR_INVALID : ERR_OK, 2000000, 500000, 1000000);
            series_class(s, part, i % 2 ? STR("odd") : STR("even"));
        }
        series_begin(s, part); /* still running */
        series_correct(s, part, true);
        series_correct(s, part, false);
        series_reward(s, part, 1.5);
    }
    series_begin(s, 0);
    series_unbegin(s, 0);
    series_sum(s, &sum);
    assert_int_equal(sum.requests, 303);
    assert_int_equal(sum.ok, 294);
    assert_int_equal(sum.errors, 3);        /* the model's */
    assert_int_equal(sum.client_errors, 3); /* the clients' do not count against it */
    assert_int_equal(sum.in_flight, 3);
    assert_int_equal(sum.keyless, 300);
    assert_int_equal(sum.feedback_n, 6);
    assert_int_equal(sum.feedback_correct, 3);
    assert_int_equal(sum.reward_n, 3);
    assert_true(sum.reward_sum == 4.5);
    assert_true(sum.latency.p95 > .00198 && sum.latency.p95 < .00202);
    assert_int_equal(sum.n_classes, 2);
    assert_int_equal(counter_get(&sum.classes[0].count), 150);
    series_sum_done(&sum);
    series_free(s);
}

static void classes_beyond_the_table_are_counted_together(void **state)
{
    struct series *s = series_new(1, 1);
    struct series_sum sum;
    char name[200];

    (void)state;
    for (int i = 0; i < SERIES_CLASSES + 10; i++) {
        int n = snprintf(name, sizeof(name), "class-%d", i);
        int at = series_class(s, 0, (struct str){name, (size_t)n});
        assert_int_equal(at, i < SERIES_CLASSES ? i : -1);
    }
    memset(name, 'x', sizeof(name)); /* a long name is cut, not overrun */
    assert_int_equal(series_class(s, 0, (struct str){name, sizeof(name)}), -1);
    series_sum(s, &sum);
    assert_int_equal(sum.n_classes, SERIES_CLASSES);
    assert_int_equal(sum.classes_other, 11);
    series_sum_done(&sum);
    series_free(s);
}

static void the_breaker_trips_once_and_only_for_five_bad_first_answers(void **state)
{
    (void)state;
    for (int good = -1; good < 5; good++) { /* -1: none is good */
        struct series *s = series_new(1, 1);
        int trips = 0;

        for (int i = 0; i < 20; i++) {
            trips += series_breaker(s, i != good);
        }
        assert_int_equal(trips, good < 0);
        series_free(s);
    }
}

static void a_series_is_idle_when_nobody_holds_it(void **state)
{
    struct series *s = series_new(1, 2);

    (void)state;
    assert_true(series_idle(s));
    series_ref(s, 1);
    assert_false(series_idle(s));
    series_unref(s, 1);
    assert_true(series_idle(s));
    series_free(s);
    series_free(NULL);
}

static void what_was_told_wrong_is_corrected(void **state)
{
    struct series *s = series_new(3, 2);
    struct series_sum sum;

    (void)state;
    series_correct(s, 0, true);
    series_correct(s, 1, false);
    series_recorrect(s, 0, true, false);
    series_recorrect(s, 1, false, true);
    series_recorrect(s, 1, true, true);
    series_reward(s, 1, 2);
    series_rereward(s, 1, 2, -.5);
    series_sum(s, &sum);
    assert_int_equal(sum.feedback_n, 2);
    assert_int_equal(sum.feedback_correct, 1);
    assert_int_equal(sum.reward_n, 1);
    assert_true(sum.reward_sum == -.5);
    series_sum_done(&sum);
    series_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_told_wrong_is_corrected),
        cmocka_unit_test(users_are_counted_within_one_percent),
        cmocka_unit_test(parts_add_up),
        cmocka_unit_test(classes_beyond_the_table_are_counted_together),
        cmocka_unit_test(the_breaker_trips_once_and_only_for_five_bad_first_answers),
        cmocka_unit_test(a_series_is_idle_when_nobody_holds_it),
    };
    return cmocka_run_group_tests_name("series", tests, NULL, NULL);
}
