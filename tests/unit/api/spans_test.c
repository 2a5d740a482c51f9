/* SPDX-License-Identifier: Apache-2.0 */
/* Spans: which requests are kept, what gives way, and how they are found again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "api/trace.h"
#include "base/clock.h"

static struct span found[SPANS_KEPT * SPAN_LANES];

static void put(struct spans *s, enum span_kept kept, const char *model, unsigned i)
{
    struct span *p = spans_put(s, kept);

    assert_int_equal(p->kept, kept);
    assert_int_equal(p->id[0], 0); /* nothing of what was there before */
    snprintf(p->id, sizeof(p->id), "request-%u", i);
    snprintf(p->model, sizeof(p->model), "%s", model);
    p->code = kept == SPAN_ERROR ? ERR_UNAVAILABLE : ERR_OK;
    p->total_ns = i * 1000ull;
}

static size_t find(const struct spans *s, struct span_filter f)
{
    return spans_find(s, &f, found, COUNT_OF(found));
}

static void the_newest_of_each_kind_are_kept(void **state)
{
    struct spans *s = spans_new();

    (void)state;
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_}), 0);
    put(s, SPAN_ERROR, "a", 1);
    for (unsigned i = 0; i < 3 * SPANS_KEPT; i++) {
        put(s, SPAN_ASKED, "a", 100 + i);
    }
    /* The many that were asked for did not push the error out, and only so many of them are there, newest first. */
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_}), SPANS_KEPT + 1);
    for (unsigned i = 0; i < SPANS_KEPT; i++) {
        assert_int_equal(found[i].total_ns, (100 + 3 * SPANS_KEPT - 1 - i) * 1000ull);
    }
    assert_string_equal(found[SPANS_KEPT].id, "request-1");
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_, .lanes = 1u << SPAN_ERROR}), 1);
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_, .lanes = 1u << SPAN_SLOW}), 0);
    spans_free(s);
    spans_free(NULL);
}

static void lanes_are_one_list_by_time(void **state)
{
    struct spans *s = spans_new();

    (void)state;
    for (unsigned i = 0; i < 50; i++) {
        put(s, (enum span_kept)(i % SPAN_LANES), i % 2 ? "a" : "b", i);
    }
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_}), 50);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(found[i].total_ns, (49 - i) * 1000);
    }
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_, .model = STR("a")}), 25);
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_, .model = STR("aa")}), 0);
    assert_int_equal(find(s, (struct span_filter){.code = ERR_UNAVAILABLE}), 10);
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_, .slower_ns = 45000}), 5);
    assert_int_equal(spans_find(s, &(struct span_filter){.code = ERR_COUNT_}, found, 7), 7);
    assert_string_equal(found[6].id, "request-43");
    spans_free(s);
}

static void a_span_is_found_by_its_request_and_by_its_trace(void **state)
{
    struct spans *s = spans_new();
    struct span *p;

    (void)state;
    put(s, SPAN_SLOW, "a", 7);
    p = spans_put(s, SPAN_CHANCE);
    memset(p->own.trace, 0xab, sizeof(p->own.trace));
    snprintf(p->id, sizeof(p->id), "mine");
    p = spans_put(s, SPAN_ASKED); /* its id looks like the other's trace */
    snprintf(p->id, sizeof(p->id), "abababababababababababababababab");
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_, .id = STR("mine")}), 1);
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_, .id = STR("request-7")}), 1);
    assert_int_equal(found[0].kept, SPAN_SLOW);
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_, .id = STR("abababababababababababababababab")}),
                     2);
    assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_, .id = STR("ab")}), 0);
    spans_free(s);
}

/* ---- what is kept ---- */

static struct trace_rule rule;

/* Ends a request of 2 ms with this trace and result; the reason it is kept for, or -1. */
static int kept_as(struct trace *t, enum err_code code, unsigned deaths)
{
    struct spans *s = spans_new();
    struct job_result job = {.err = {code, "why"}, .joined = 3};
    struct infer_result res = {.job = &job, .deaths = deaths, .instance = 1, .peer = "vision:8000"};
    struct http_ex x = {.t_start = clock_us() - 2000};
    struct trace_end end = {.x = &x, .model = STR("m"), .id = STR("i"), .err = &job.err, .res = &res};
    int kept = -1;

    trace_close(t, s, &end);
    trace_close(t, s, &end); /* once is enough */
    if (find(s, (struct span_filter){.code = ERR_COUNT_}) > 0) {
        assert_int_equal(find(s, (struct span_filter){.code = ERR_COUNT_}), 1);
        kept = (int)found[0].kept;
        assert_int_equal(found[0].code, code);
        assert_string_equal(found[0].text, code == ERR_OK ? "" : "why");
        assert_string_equal(found[0].peer, "vision:8000");
        assert_true(found[0].total_ns >= 2000000);
        assert_int_equal(found[0].joined, 3);
    }
    spans_free(s);
    return kept;
}

static void who_fails_is_kept_and_who_is_only_well_is_not(void **state)
{
    (void)state;
    assert_int_equal(kept_as(&(struct trace){0}, ERR_OK, 0), -1);
    assert_int_equal(kept_as(&(struct trace){0}, ERR_UNAVAILABLE, 0), SPAN_ERROR);
    assert_int_equal(kept_as(&(struct trace){.slow = true, .asked = true, .chance = true}, ERR_TIMEOUT, 0), SPAN_ERROR);
    assert_int_equal(kept_as(&(struct trace){0}, ERR_INVALID, 0), SPAN_REFUSED);
    assert_int_equal(kept_as(&(struct trace){0}, ERR_CANCELLED, 0), SPAN_REFUSED);
    assert_int_equal(kept_as(&(struct trace){0}, ERR_OK, 1), SPAN_ERROR); /* mended */
    assert_int_equal(kept_as(&(struct trace){.moved_from = 2}, ERR_OK, 0), SPAN_ERROR);
    assert_int_equal(kept_as(&(struct trace){.slow = true, .asked = true}, ERR_OK, 0), SPAN_SLOW);
    assert_int_equal(kept_as(&(struct trace){.asked = true, .chance = true}, ERR_OK, 0), SPAN_ASKED);
    assert_int_equal(kept_as(&(struct trace){.chance = true}, ERR_OK, 0), SPAN_CHANCE);
}

static void slow_is_what_the_setting_says_or_the_p99(void **state)
{
    struct series *s = series_new(1, 1);
    struct trace t = {0};

    (void)state;
    rule = (struct trace_rule){.slow_us = 5000};
    trace_counted(&t, &rule, s, 0, 5000000);
    assert_false(t.slow);
    trace_counted(&t, &rule, s, 0, 5000001);
    assert_true(t.slow);
    rule.slow_us = 0;
    for (unsigned i = 0; i < 99; i++) { /* of few nobody can say */
        series_end(s, 0, ERR_OK, 1000000, 0, 0);
        trace_counted(&t, &rule, s, 0, 1000000000);
        assert_false(t.slow);
    }
    series_end(s, 0, ERR_OK, 1000000, 0, 0);
    trace_counted(&t, &rule, s, 0, 900000);
    assert_false(t.slow);
    trace_counted(&t, &rule, s, 0, 1100000);
    assert_true(t.slow);
    for (unsigned i = 0; i < 1000; i++) { /* it follows when everything becomes slower */
        series_end(s, 0, ERR_OK, 50000000, 0, 0);
    }
    trace_counted(&t, &rule, s, 0, 40000000);
    assert_false(t.slow);
    trace_counted(&t, &rule, s, 0, 60000000);
    assert_true(t.slow);
    series_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_of_each_kind_are_kept),
        cmocka_unit_test(lanes_are_one_list_by_time),
        cmocka_unit_test(a_span_is_found_by_its_request_and_by_its_trace),
        cmocka_unit_test(who_fails_is_kept_and_who_is_only_well_is_not),
        cmocka_unit_test(slow_is_what_the_setting_says_or_the_p99),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
