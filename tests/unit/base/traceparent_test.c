/* SPDX-License-Identifier: Apache-2.0 */
/* Trace context: what is read, what is as if it were not there, and what is passed on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/traceparent.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"

/* In memory of exactly its length, so that a sanitizer sees a byte too far. */
static bool reads(const char *z, struct trace_context *out)
{
    size_t n = strlen(z);
    char *p = malloc(n + (n == 0));
    bool ok;

    memcpy(p, z, n);
    ok = traceparent_read(out, (struct str){p, n});
    free(p);
    return ok;
}

static void what_is_read_is_written_again(void **state)
{
    char text[TRACEPARENT_LEN + 1];
    struct trace_context c;

    (void)state;
    assert_true(reads("00-" TRACE "-" SPAN "-01", &c));
    assert_int_equal(c.flags, TRACE_SAMPLED);
    assert_int_equal(c.trace[0], 0x4b);
    assert_int_equal(c.trace[15], 0x36);
    assert_int_equal(c.span[7], 0xb7);
    traceparent_write(text, &c);
    assert_string_equal(text, "00-" TRACE "-" SPAN "-01");
    assert_true(reads("00-" TRACE "-" SPAN "-00", &c) && c.flags == 0);
}

static void flags_that_are_not_known_are_not_passed_on(void **state)
{
    struct trace_context c;

    (void)state;
    assert_true(reads("00-" TRACE "-" SPAN "-ff", &c));
    assert_int_equal(c.flags, TRACE_SAMPLED | TRACE_RANDOM);
    assert_true(reads("00-" TRACE "-" SPAN "-02", &c) && c.flags == TRACE_RANDOM);
    assert_true(reads("00-" TRACE "-" SPAN "-04", &c) && c.flags == 0);
}

static void a_higher_version_is_read_as_far_as_it_is_known(void **state)
{
    char text[TRACEPARENT_LEN + 1];
    struct trace_context c;

    (void)state;
    assert_true(reads("cc-" TRACE "-" SPAN "-01", &c));
    assert_true(reads("01-" TRACE "-" SPAN "-03-what-the-future-will-be-like", &c));
    assert_int_equal(c.flags, TRACE_SAMPLED); /* the other bits may mean something else there */
    traceparent_write(text, &c);
    assert_string_equal(text, "00-" TRACE "-" SPAN "-01");
    assert_true(reads("01-" TRACE "-" SPAN "-00-", &c) && c.flags == 0);
    assert_false(reads("01-" TRACE "-" SPAN "-01.what", &c));
    assert_false(reads("01-" TRACE "-" SPAN "-012", &c));
    assert_false(reads("ff-" TRACE "-" SPAN "-01", &c));
    assert_false(reads("FE-" TRACE "-" SPAN "-01", &c));
}

static void what_is_malformed_is_not_there(void **state)
{
    static const char *const bad[] = {
        "",
        "00",
        "00-" TRACE "-" SPAN,
        "00-" TRACE "-" SPAN "-",
        "00-" TRACE "-" SPAN "-0",
        "00-" TRACE "-" SPAN "-010",
        "00-" TRACE "-" SPAN "-01-",
        "00-" TRACE "-" SPAN "-01-more",
        " 00-" TRACE "-" SPAN "-01",
        "00_" TRACE "-" SPAN "-01",
        "00-" TRACE "_" SPAN "-01",
        "00-" TRACE "-" SPAN "_01",
        "0g-" TRACE "-" SPAN "-01",
        "00-" TRACE "-" SPAN "-0g",
        "00-" TRACE "-" SPAN "-0A",
        "00-00000000000000000000000000000000-" SPAN "-01",
        "00-" TRACE "-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01",
        "00-" TRACE "-00F067AA0BA902B7-01",
        "00-.bf92f3577b34da6a3ce929d0e0e4736-" SPAN "-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-" SPAN "-01a",
        "00-" TRACE "00-f067aa0ba902b7-01",
    };
    struct trace_context c = {.flags = 77};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        if (reads(bad[i], &c)) {
            fail_msg("'%s' was taken", bad[i]);
        }
    }
    assert_int_equal(c.flags, 77); /* untouched */
}

static void new_traces_and_spans_are_not_the_old_ones(void **state)
{
    struct trace_context a, b, c;
    char text[TRACEPARENT_LEN + 1];

    (void)state;
    trace_new(&a);
    trace_new(&b);
    assert_memory_not_equal(a.trace, b.trace, sizeof(a.trace));
    assert_memory_not_equal(a.span, b.span, sizeof(a.span));
    assert_int_equal(a.flags, TRACE_RANDOM);
    c = a;
    trace_new_span(&c);
    assert_memory_equal(a.trace, c.trace, sizeof(a.trace));
    assert_memory_not_equal(a.span, c.span, sizeof(a.span));
    traceparent_write(text, &a);
    assert_true(reads(text, &b));
    assert_memory_equal(&a, &b, sizeof(a));
}

/* ---- tracestate ---- */

static char joined[TRACESTATE_MAX + 1];

static const char *join(const char *a, const char *b)
{
    struct str values[2] = {str_of(a), str_of(b)};
    size_t n = tracestate_join(joined, values, b ? 2 : 1);

    assert_int_equal(n, strlen(joined));
    return joined;
}

static void members_are_passed_on_unchanged(void **state)
{
    (void)state;
    assert_string_equal(join("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", NULL),
                        "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
    assert_string_equal(join("a=1 ,\t b=two words", "c=3"), "a=1,b=two words,c=3");
    assert_string_equal(join("fw529a3039@dt=FfC;i:8,0day=x/y", NULL), "fw529a3039@dt=FfC;i:8,0day=x/y");
    assert_string_equal(join(",, a=1,,", ""), "a=1");
    assert_string_equal(join("", ""), "");
}

static void a_malformed_list_is_not_passed_on(void **state)
{
    static const char *const bad[] = {"a",      "=1",     "a=",    "A=1",  "a b=1", "a=1=2",   "a=\x01",
                                      "a=\x7f", "a=\xc3", "a=1,b", "@a=1", "-a=1",  "a=1;b=2", "a\t=1"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        if (join(bad[i], NULL)[0]) {
            fail_msg("'%s' was passed on as '%s'", bad[i], joined);
        }
        assert_string_equal(join("good=1", bad[i]), "");
    }
}

static void a_list_that_is_too_long_loses_whole_members(void **state)
{
    char text[4096] = "", want[4096], big[600];
    size_t n = 0;

    (void)state;
    for (int i = 0; i < 32; i++) {
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%sk%02d=%020d", i ? "," : "", i, i);
    }
    snprintf(want, sizeof(want), "%.*s", 20 * 25 - 1, text); /* 20 members of 24 and their commas */
    assert_string_equal(join(text, NULL), want);
    assert_string_equal(join(text, "k33=1"), ""); /* the thirty-third */

    /* The large one goes first, wherever it stands. */
    memset(big, 'x', sizeof(big));
    snprintf(text, sizeof(text), "a=1,big=%.200s,b=%.100s,c=%.100s,d=%.100s,e=5", big, big, big, big);
    snprintf(want, sizeof(want), "a=1,b=%.100s,c=%.100s,d=%.100s,e=5", big, big, big);
    assert_string_equal(join(text, NULL), want);

    /* The longest that there may be is one character too long, and one that is longer is malformed. */
    snprintf(text, sizeof(text), "%.256s=%.256s", big, big);
    assert_string_equal(join(text, NULL), "");
    snprintf(text, sizeof(text), "%.255s=%.256s", big, big);
    assert_string_equal(join(text, NULL), text);
    snprintf(text, sizeof(text), "a=%.257s", big);
    assert_string_equal(join(text, NULL), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read_is_written_again),
        cmocka_unit_test(flags_that_are_not_known_are_not_passed_on),
        cmocka_unit_test(a_higher_version_is_read_as_far_as_it_is_known),
        cmocka_unit_test(what_is_malformed_is_not_there),
        cmocka_unit_test(new_traces_and_spans_are_not_the_old_ones),
        cmocka_unit_test(members_are_passed_on_unchanged),
        cmocka_unit_test(a_malformed_list_is_not_passed_on),
        cmocka_unit_test(a_list_that_is_too_long_loses_whole_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
