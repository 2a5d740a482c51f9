/* SPDX-License-Identifier: Apache-2.0 */
/* What the goal of an experiment is told: only of its arms, only of its kind; numbers of every dtype, the first of very
 * many, and none. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "api/data.h"

static struct router router;
static struct shard shard;
static struct plane plane = {.router = &router, .shard = &shard};
static struct route *route;
static struct series *stable, *canary, *other;
static struct goal_counts counts;

static int setup(void **state)
{
    struct snapshot *s = snapshot_new();

    (void)state;
    route = calloc(1, sizeof(*route));
    snprintf(route->name, sizeof(route->name), "m");
    stable = series_new(1, 1);
    canary = series_new(2, 1);
    other = series_new(3, 1);
    route->stable_series = stable;
    route->canary_series = canary;
    route->goal = goal_new(1, NULL);
    route->goal_kind = GOAL_OUTPUT;
    snprintf(route->goal_output, sizeof(route->goal_output), "y");
    map_put(&s->routes, str_of(route->name), route);
    atomic_init(&router.now, s);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    goal_free(route->goal);
    snapshot_free(atomic_load(&router.now));
    series_free(stable);
    series_free(canary);
    series_free(other);
    return 0;
}

/* What was counted since the last call: how many, and their sum. */
static uint64_t counted(unsigned arm, double *sum)
{
    uint64_t n = 0;

    goal_sum(route->goal, &counts);
    *sum = 0;
    for (unsigned i = 0; i < STATS_GROUPS; i++) {
        n += counts.arm[arm].n[i];
        *sum += counts.arm[arm].y[i];
    }
    goal_free(route->goal);
    route->goal = goal_new(1, NULL);
    return n;
}

static void only_of_its_arms_and_its_kind(void **state)
{
    double sum;

    (void)state;
    route->goal_kind = GOAL_REWARD;
    goal_value(&plane, route, JUDGE_STABLE, GOAL_REWARD, 1, .5);
    goal_value(&plane, route, JUDGE_STABLE, GOAL_ACCURACY, 1, 1);
    assert_int_equal(counted(JUDGE_STABLE, &sum), 1);
    assert_true(sum == .5);
    goal_value(&plane, route, JUDGE_CANARY, GOAL_REWARD, 1, 2);
    assert_int_equal(counted(JUDGE_CANARY, &sum), 1);
    assert_true(sum == 2);
    goal_free(route->goal); /* no experiment is running */
    route->goal = NULL;
    goal_value(&plane, route, JUDGE_CANARY, GOAL_REWARD, 1, 2);
    route->goal = goal_new(1, NULL);
}

/* One output "y" of so many bytes. */
static double output_mean(uint8_t dtype, const void *p, size_t n)
{
    struct tensor_info infos[] = {{.name = "x", .dtype = DTYPE_FP32}, {.name = "y", .dtype = dtype}};
    struct model_info info = {.n_out = 2, .out = infos};
    struct tensor outs[] = {{.port = 0, .dtype = DTYPE_FP32, .off = 0, .len = 0},
                            {.port = 1, .dtype = dtype, .off = 0, .len = n}};
    struct job_result job = {.n_out = 2, .out = outs, .base = p, .size = n};
    double sum;

    goal_output(&plane, STR("m"), canary, 7, &info, &job);
    uint64_t had = counted(JUDGE_CANARY, &sum);
    assert_int_equal(had + counts.dropped[JUDGE_CANARY], 1);
    assert_int_equal(counts.dropped[JUDGE_STABLE], 0);
    return had ? sum : NAN;
}

#define MEAN(dtype, ...) output_mean(dtype, __VA_ARGS__, sizeof(__VA_ARGS__))

static void numbers_of_every_dtype(void **state)
{
    (void)state;
    assert_true(MEAN(DTYPE_BOOL, ((uint8_t[]){0, 1, 7, 0})) == .5);
    assert_true(MEAN(DTYPE_UINT8, ((uint8_t[]){255, 1})) == 128);
    assert_true(MEAN(DTYPE_UINT16, ((uint16_t[]){65535, 1})) == 32768);
    assert_true(MEAN(DTYPE_UINT32, ((uint32_t[]){4294967295u, 1})) == 2147483648.);
    assert_true(MEAN(DTYPE_UINT64, ((uint64_t[]){1ull << 63})) == 9223372036854775808.);
    assert_true(MEAN(DTYPE_INT8, ((int8_t[]){-128, 0})) == -64);
    assert_true(MEAN(DTYPE_INT16, ((int16_t[]){-2, 0})) == -1);
    assert_true(MEAN(DTYPE_INT32, ((int32_t[]){-2, 0})) == -1);
    assert_true(MEAN(DTYPE_INT64, ((int64_t[]){-3})) == -3);
    assert_true(MEAN(DTYPE_FP16, ((uint16_t[]){0x3c00, 0x4000})) == 1.5);
    assert_true(MEAN(DTYPE_BF16, ((uint16_t[]){0x3f80, 0x4000})) == 1.5);
    assert_true(MEAN(DTYPE_FP32, ((float[]){.5f, -1.5f, 4})) == 1);
    assert_true(MEAN(DTYPE_FP64, ((double[]){1e300, -1e300, 3})) == 1);
}

static void what_is_no_number_is_dropped(void **state)
{
    (void)state;
    assert_true(isnan(MEAN(DTYPE_FP32, ((float[]){1, NAN}))));
    assert_true(isnan(MEAN(DTYPE_FP64, ((double[]){INFINITY}))));
    assert_true(isnan(output_mean(DTYPE_FP32, "", 0)));
    assert_true(isnan(output_mean(DTYPE_BYTES, "\1\0\0\0a", 5)));
}

static void of_very_many_numbers_the_first(void **state)
{
    enum { MANY = 70000 };
    uint8_t *p = malloc(MANY);

    (void)state;
    memset(p, 3, 65536);
    memset(p + 65536, 200, MANY - 65536);
    assert_true(output_mean(DTYPE_UINT8, p, MANY) == 3);
    free(p);
}

/* A reply with other outputs only says nothing of it. */
static void an_output_that_was_not_asked_for(void **state)
{
    struct tensor_info infos[] = {{.name = "x", .dtype = DTYPE_FP32}};
    struct model_info info = {.n_out = 1, .out = infos};
    float one = 1;
    struct tensor outs[] = {{.port = 0, .dtype = DTYPE_FP32, .len = 4}, {.port = 9, .dtype = DTYPE_FP32, .len = 4}};
    struct job_result job = {.n_out = 2, .out = outs, .base = (const uint8_t *)&one, .size = 4};
    double sum;

    (void)state;
    goal_output(&plane, STR("m"), stable, 7, &info, &job);
    assert_int_equal(counted(JUDGE_STABLE, &sum), 0);
    assert_int_equal(counts.dropped[JUDGE_STABLE], 0);
    snprintf(infos[0].name, sizeof(infos[0].name), "y"); /* nor does a request of no arm, or of no model */
    goal_output(&plane, STR("m"), other, 7, &info, &job);
    goal_output(&plane, STR("n"), stable, 7, &info, &job);
    assert_int_equal(counted(JUDGE_STABLE, &sum), 0);
    goal_output(&plane, STR("m"), stable, 7, &info, &job);
    assert_int_equal(counted(JUDGE_STABLE, &sum), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_of_its_arms_and_its_kind, setup, teardown),
        cmocka_unit_test_setup_teardown(numbers_of_every_dtype, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_number_is_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(of_very_many_numbers_the_first, setup, teardown),
        cmocka_unit_test_setup_teardown(an_output_that_was_not_asked_for, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
