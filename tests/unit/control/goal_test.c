/* SPDX-License-Identifier: Apache-2.0 */
/* Goals: groups and sums, numbers that are none, threads, what a restart reads again. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "control/goal.h"

enum { STABLE = JUDGE_STABLE, CANARY = JUDGE_CANARY };

static struct goal_counts counts, before;

static uint64_t key_of(uint64_t user)
{
    return hash64(&user, sizeof(user)) | 1;
}

static double sum_of(const double *y)
{
    double sum = 0;

    for (unsigned i = 0; i < STATS_GROUPS; i++) {
        sum += y[i];
    }
    return sum;
}

static uint64_t count_of(const uint64_t *n)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < STATS_GROUPS; i++) {
        sum += n[i];
    }
    return sum;
}

/* A user's values fall into one group, whichever thread has them; users spread over all of them. */
static void values_are_summed_by_group(void **state)
{
    struct goal *g = goal_new(2, NULL);
    unsigned used = 0, fullest = 0;

    (void)state;
    for (int i = 0; i < 10; i++) {
        goal_add(g, (unsigned)i % 2, STABLE, key_of(7), i);
    }
    goal_sum(g, &counts);
    for (unsigned i = 0; i < STATS_GROUPS; i++) {
        if (counts.arm[STABLE].n[i] > 0) {
            assert_int_equal(counts.arm[STABLE].n[i], 10);
            assert_true(counts.arm[STABLE].y[i] == 45);
            used++;
        }
    }
    assert_int_equal(used, 1);
    assert_int_equal(count_of(counts.arm[CANARY].n), 0);

    for (uint64_t user = 0; user < 10000; user++) {
        goal_add(g, user % 2, CANARY, key_of(user), -0.5);
    }
    goal_sum(g, &counts);
    assert_int_equal(count_of(counts.arm[CANARY].n), 10000);
    assert_true(sum_of(counts.arm[CANARY].y) == -5000);
    for (unsigned i = 0; i < STATS_GROUPS; i++) {
        assert_true(counts.arm[CANARY].n[i] > 0);
        fullest = MAX(fullest, (unsigned)counts.arm[CANARY].n[i]);
    }
    assert_in_range(fullest, 40, 80); /* 39 expected, sd 6 */
    goal_free(g);
}

static void what_is_no_number_is_dropped(void **state)
{
    struct goal *g = goal_new(1, NULL);

    (void)state;
    goal_add(g, 0, CANARY, 1, NAN);
    goal_add(g, 0, CANARY, 1, INFINITY);
    goal_add(g, 0, CANARY, 1, -INFINITY);
    goal_add(g, 0, CANARY, 1, 2e100);
    goal_add(g, 0, CANARY, 1, -1e100);
    goal_sum(g, &counts);
    assert_int_equal(counts.dropped[CANARY], 4);
    assert_int_equal(counts.dropped[STABLE], 0);
    assert_int_equal(count_of(counts.arm[CANARY].n), 1);
    assert_true(sum_of(counts.arm[CANARY].y) == -1e100);
    goal_free(g);
    goal_free(NULL);
}

/* ---- as text ---- */

static char *text_of(const struct goal_counts *c)
{
    struct buf b;
    char *text;

    buf_init(&b, 64 << 10);
    goal_counts_json(&b, c);
    assert_false(b.over || b.lack);
    text = xstrdup(buf_z(&b));
    buf_done(&b);
    return text;
}

static bool read_back(struct goal_counts *c, const char *text)
{
    yyjson_doc *doc = yyjson_read(text, strlen(text), 0);
    bool ok = goal_counts_read(c, yyjson_doc_get_root(doc));

    yyjson_doc_free(doc);
    return ok;
}

static void a_restart_goes_on_with_what_was_counted(void **state)
{
    struct goal *g = goal_new(1, NULL);
    char *text;

    (void)state;
    for (uint64_t user = 0; user < 5000; user++) {
        goal_add(g, 0, user % 2, key_of(user), sin((double)user) * 1e9 / 3);
    }
    goal_add(g, 0, STABLE, 1, NAN);
    goal_sum(g, &before);
    goal_free(g);
    text = text_of(&before);
    memset(&counts, 0xAA, sizeof(counts));
    assert_true(read_back(&counts, text));
    assert_memory_equal(&counts, &before, sizeof(counts)); /* to the last bit */
    free(text);

    g = goal_new(3, &before);
    goal_add(g, 2, STABLE, key_of(1), 1);
    goal_add(g, 2, STABLE, 1, NAN);
    goal_sum(g, &counts);
    assert_int_equal(count_of(counts.arm[STABLE].n), count_of(before.arm[STABLE].n) + 1);
    assert_int_equal(counts.dropped[STABLE], 2);
    assert_memory_equal(&counts.arm[CANARY], &before.arm[CANARY], sizeof(counts.arm[CANARY]));
    goal_free(g);
}

static void what_was_not_written_by_us_is_not_taken(void **state)
{
    static const struct {
        const char *from, *to;
    } bad[] = {
        {"\"y\"", "\"z\""},
        {"\"n\"", "\"m\""},
        {"\"dropped\"", "\"lost\""},
        {"[0,0]", "[0]"},
        {"[0,0]", "[0,-1]"},
        {"[0,0]", "[0,null]"},
        {"[[0.0,", "[["},
        {"[[0.0,", "[[0.0,0.0,"},
        {"[[0.0,", "[[\"a\","},
        {"[[0.0,", "[[null,"},
        {"\"n\":[[0,", "\"n\":[[-1,"},
        {"\"n\":[[0,", "\"n\":[[0.5,"},
        {"\"n\":[[0,", "\"n\":[["},
    };
    char *text, *made;

    (void)state;
    memset(&before, 0, sizeof(before));
    text = text_of(&before);
    assert_true(read_back(&counts, text));
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        const char *at = strstr(text, bad[i].from);

        assert_non_null(at);
        made = xasprintf("%.*s%s%s", (int)(at - text), text, bad[i].to, at + strlen(bad[i].from));
        if (read_back(&counts, made)) {
            fail_msg("taken: '%s' for '%s'", bad[i].to, bad[i].from);
        }
        free(made);
    }
    assert_false(read_back(&counts, "[]"));
    assert_false(read_back(&counts, "nonsense"));
    free(text);
}

/* ---- threads ---- */

enum { THREADS = 4, TURNS = 50000 };
static _Atomic unsigned at_work;
struct worker {
    struct goal *g;
    unsigned part;
};

static void *work(void *arg)
{
    struct worker *w = arg;

    for (unsigned i = 0; i < TURNS; i++) {
        goal_add(w->g, w->part, i % 2, key_of(i * THREADS + w->part), i % 1000 == 999 ? NAN : 0.25);
    }
    atomic_fetch_sub(&at_work, 1);
    return NULL;
}

static void threads_count_without_a_lock(void **state)
{
    pthread_t thread[THREADS];
    struct worker w[THREADS];
    struct goal *g = goal_new(THREADS, NULL);

    (void)state;
    atomic_store(&at_work, THREADS);
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){g, i};
        assert_int_equal(pthread_create(&thread[i], NULL, work, &w[i]), 0);
    }
    while (atomic_load(&at_work) > 0) {
        goal_sum(g, &counts);
        assert_true(sum_of(counts.arm[STABLE].y) >= 0);
        assert_true(sum_of(counts.arm[CANARY].y) <= 0.25 * TURNS / 2 * THREADS);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
    }
    goal_sum(g, &counts);
    assert_int_equal(count_of(counts.arm[STABLE].n), THREADS * TURNS / 2);
    assert_int_equal(counts.dropped[CANARY], THREADS * TURNS / 1000);
    assert_int_equal(count_of(counts.arm[CANARY].n) + counts.dropped[CANARY], THREADS * TURNS / 2);
    assert_true(sum_of(counts.arm[STABLE].y) == 0.25 * TURNS / 2 * THREADS);
    goal_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_summed_by_group),
        cmocka_unit_test(what_is_no_number_is_dropped),
        cmocka_unit_test(a_restart_goes_on_with_what_was_counted),
        cmocka_unit_test(what_was_not_written_by_us_is_not_taken),
        cmocka_unit_test(threads_count_without_a_lock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
