/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that wait for their feedback: what is kept of them, what gives way, and what they are counted in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "api/join.h"

#define MODEL STR("intent")
#define SLOTS 65536

static const struct tally_mark no_mark;

static struct str id_of(char out[32], unsigned i)
{
    return (struct str){out, (size_t)snprintf(out, 32, "request-%u", i)};
}

static void an_answer_is_found_by_its_model_and_id(void **state)
{
    struct tally *t = tally_new(1, NULL);
    struct tally_mark mark;
    struct series *s = series_new(77, 1);
    struct join *j = join_new();
    struct join_entry *e;

    (void)state;
    tally_begin(t, 0, &mark, tally_stratum(t, 500), JUDGE_CANARY, 5, 1);
    join_put(j, &(struct join_answer){.model = MODEL,
                                      .id = STR("a"),
                                      .predicted = STR("mug"),
                                      .series = s,
                                      .version = 2,
                                      .arm = ARM_CANARY,
                                      .user = 5,
                                      .mark = &mark});
    join_put(j, &(struct join_answer){.model = MODEL, .id = STR("b"), .series = s, .version = 1, .mark = &no_mark});
    e = join_find(j, join_key(MODEL, STR("a")));
    assert_non_null(e);
    assert_int_equal(e->series_id, 77);
    assert_int_equal(e->version, 2);
    assert_int_equal(e->arm, ARM_CANARY);
    assert_int_equal(e->got, 0);
    assert_true(e->predicted == join_label(STR("mug")) && e->predicted != join_label(STR("cup")));
    assert_true(e->tally == tally_id(t));
    assert_int_equal(e->answer.key, 5);
    assert_int_equal(e->answer.stratum, tally_stratum(t, 500));
    assert_int_equal(e->answer.arm, JUDGE_CANARY);
    e = join_find(j, join_key(MODEL, STR("b")));
    assert_non_null(e);
    assert_true(e->tally == 0 && e->predicted == 0 && e->answer.key == 0 && e->answer.id == e->key);
    assert_null(join_find(j, join_key(MODEL, STR("c"))));
    assert_null(join_find(j, join_key(STR("other"), STR("a"))));
    /* The same id again is another answer. */
    join_find(j, join_key(MODEL, STR("a")))->got = JOIN_LABEL;
    join_put(j, &(struct join_answer){.model = MODEL, .id = STR("a"), .series = s, .version = 3, .mark = &no_mark});
    e = join_find(j, join_key(MODEL, STR("a")));
    assert_true(e->version == 3 && e->got == 0 && e->tally == 0);
    tally_drop(&mark, 0);
    tally_free(t);
    series_free(s);
    join_free(j);
    join_free(NULL);
}

/* Twice as many as there is room for: the newest are there, but for a few whose places fell together. */
static void the_oldest_give_way(void **state)
{
    struct series *s = series_new(1, 1);
    struct join *j = join_new();
    unsigned newest = 0, old = 0;
    char id[32];

    (void)state;
    for (unsigned i = 0; i < 4 * SLOTS; i++) {
        join_put(j, &(struct join_answer){
                        .model = MODEL, .id = id_of(id, i), .series = s, .version = (int64_t)i, .mark = &no_mark});
    }
    for (unsigned i = 0; i < SLOTS / 2; i++) {
        struct join_entry *e = join_find(j, join_key(MODEL, id_of(id, 4 * SLOTS - 1 - i)));

        newest += e && e->version == (int64_t)(4 * SLOTS - 1 - i);
        old += join_find(j, join_key(MODEL, id_of(id, i))) != NULL;
    }
    assert_true(newest > SLOTS / 2 / 100 * 99);
    assert_true(old < SLOTS / 2 / 100);
    join_free(j);
    series_free(s);
}

static void what_an_answer_is_counted_in(void **state)
{
    struct series *stable = series_new(1, 1), *canary = series_new(2, 1), *direct[2] = {series_new(3, 1), NULL};
    struct route_version v[2] = {{.number = 1, .series = direct[0]}, {.number = 2, .series = direct[1]}};
    struct route t = {.versions = v, .n_versions = 2, .stable = 0, .canary = 1};
    struct join_entry e = {.series_id = 2, .version = 2, .arm = ARM_CANARY};

    (void)state;
    t.stable_series = stable;
    t.canary_series = canary;
    assert_ptr_equal(join_series(&t, &e), canary);
    /* Promoted: the series goes on as the stable one's. */
    t.stable = 1;
    t.canary = -1;
    t.stable_series = canary;
    t.canary_series = NULL;
    assert_ptr_equal(join_series(&t, &e), canary);
    /* The next rollout began: its series has ended, its version serves. */
    t.stable_series = stable;
    assert_ptr_equal(join_series(&t, &e), stable);
    /* It was rolled back: it does not serve, though it is there. */
    t.stable = 0;
    v[1].series = canary;
    e.series_id = 9;
    assert_null(join_series(&t, &e));
    /* A version that was asked for by name is counted apart. */
    e = (struct join_entry){.series_id = 9, .version = 1, .arm = ARM_DIRECT};
    assert_ptr_equal(join_series(&t, &e), direct[0]);
    e.series_id = 3;
    e.arm = ARM_STABLE;
    assert_ptr_equal(join_series(&t, &e), direct[0]);
    e = (struct join_entry){.series_id = 9, .version = 7, .arm = ARM_DIRECT};
    assert_null(join_series(&t, &e));
    t.stable = -1; /* none serves */
    e = (struct join_entry){.series_id = 9, .version = 0, .arm = ARM_STABLE};
    t.stable_series = NULL;
    assert_null(join_series(&t, &e));
    series_free(stable);
    series_free(canary);
    series_free(direct[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_is_found_by_its_model_and_id),
        cmocka_unit_test(the_oldest_give_way),
        cmocka_unit_test(what_an_answer_is_counted_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
