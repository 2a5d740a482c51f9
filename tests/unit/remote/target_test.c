/* SPDX-License-Identifier: Apache-2.0 */
/* Which address gets a request, what ejects one and for how long, and what may be sent again. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "backends/remote/target.h"
#include "base/clock.h"
#include "base/hash.h"

static struct addr addr_of(unsigned n)
{
    struct addr a;
    struct err e;
    char text[32];

    snprintf(text, sizeof text, "127.0.0.%u:8000", n);
    assert_int_equal(addr_parse(&a, str_of(text), false, &e), ERR_OK);
    return a;
}

static void set(struct targets *t, unsigned from, unsigned n)
{
    struct addr a[2 * TARGETS_MAX];

    for (unsigned i = 0; i < n; i++) {
        a[i] = addr_of(from + i);
    }
    targets_set(t, a, n);
}

/* One request: *text is where it went. */
static bool one(struct targets *t, uint64_t now, enum target_end end, uint64_t took, unsigned not, char text[128])
{
    struct target_pick p;
    struct addr a;
    bool up;

    assert_true(targets_pick(t, not, now, random_u64(), &p, &up));
    assert_true(targets_addr(t, p.index, p.gen, &a));
    memcpy(text, a.text, sizeof a.text);
    target_begin(t, p);
    target_end(t, p, end, took, now);
    return up;
}

static void both_get_their_share_and_the_faster_more(void **state)
{
    struct targets t;
    unsigned first = 0;

    (void)state;
    targets_init(&t);
    set(&t, 1, 2);
    for (unsigned i = 0; i < 1000; i++) {
        struct target_pick p;
        bool up;

        assert_true(targets_pick(&t, UINT_MAX, SECONDS(1), random_u64(), &p, &up) && up);
        target_begin(&t, p);
        target_end(&t, p, TARGET_ANSWERED, p.index == 0 ? 1000 : 5000, SECONDS(1));
        first += p.index == 0;
    }
    assert_in_range(first, 650, 850); /* three of the four draws of two */
    targets_done(&t);
}

static void the_one_with_fewer_open_is_taken(void **state)
{
    struct target_pick p, busy = {0, 1};
    struct targets t;
    unsigned second = 0;
    bool up;

    (void)state;
    targets_init(&t);
    set(&t, 1, 2);
    target_begin(&t, busy);
    target_begin(&t, busy);
    for (unsigned i = 0; i < 1000; i++) {
        assert_true(targets_pick(&t, UINT_MAX, SECONDS(1), random_u64(), &p, &up));
        second += p.index == 1;
    }
    assert_in_range(second, 650, 850);
    targets_done(&t);
}

static void a_refusal_ejects_and_time_brings_back(void **state)
{
    uint64_t now = SECONDS(100), out = 1;
    struct targets t;
    char text[128];
    unsigned up;

    (void)state;
    targets_init(&t);
    set(&t, 1, 1);
    for (unsigned i = 0; i < 8; i++) { /* 1, 2, 4, … 30, 30 s */
        assert_true(one(&t, now, TARGET_REFUSED, 0, UINT_MAX, text));
        assert_int_equal(targets_listed(&t, now, &up), 1);
        assert_int_equal(up, 0);
        assert_false(one(&t, now + SECONDS(out) - 1, TARGET_LEFT, 0, UINT_MAX, text)); /* tried all the same */
        now += SECONDS(out);
        targets_listed(&t, now, &up);
        assert_int_equal(up, 1);
        out = MIN(out * 2, 30u);
    }
    assert_true(one(&t, now, TARGET_ANSWERED, 10, UINT_MAX, text)); /* and all is forgotten */
    assert_true(one(&t, now, TARGET_REFUSED, 0, UINT_MAX, text));
    targets_listed(&t, now + SECONDS(1), &up);
    assert_int_equal(up, 1);
    targets_done(&t);
}

static void three_breaks_in_a_row(void **state)
{
    struct targets t;
    char text[128];
    unsigned up;

    (void)state;
    targets_init(&t);
    set(&t, 1, 1);
    for (unsigned i = 0; i < 10; i++) {
        one(&t, SECONDS(1), i % 3 == 2 ? TARGET_ANSWERED : TARGET_BROKE, 10, UINT_MAX, text);
        targets_listed(&t, SECONDS(1), &up);
        assert_int_equal(up, 1);
    }
    one(&t, SECONDS(1), TARGET_BROKE, 0, UINT_MAX, text);
    one(&t, SECONDS(1), TARGET_BROKE, 0, UINT_MAX, text);
    targets_listed(&t, SECONDS(1), &up);
    assert_int_equal(up, 0);
    targets_done(&t);
}

static void a_retry_goes_elsewhere_if_there_is_an_elsewhere(void **state)
{
    struct targets t;
    char text[128];

    (void)state;
    targets_init(&t);
    set(&t, 1, 2);
    for (unsigned i = 0; i < 50; i++) {
        one(&t, SECONDS(1), TARGET_ANSWERED, 10, 0, text);
        assert_string_equal(text, "127.0.0.2:8000");
    }
    set(&t, 1, 1);
    assert_true(one(&t, SECONDS(1), TARGET_ANSWERED, 10, 0, text));
    assert_string_equal(text, "127.0.0.1:8000");
    targets_done(&t);
}

static void addresses_that_change(void **state)
{
    struct target_pick p;
    struct targets t;
    struct addr a;
    char text[128];
    unsigned up;
    bool is_up;

    (void)state;
    targets_init(&t);
    assert_false(targets_pick(&t, UINT_MAX, 1, 0, &p, &is_up));
    set(&t, 1, 1);
    assert_true(targets_pick(&t, UINT_MAX, 1, 0, &p, &is_up));
    target_begin(&t, p);
    set(&t, 2, 1); /* it has a request: its place is not given away */
    assert_true(targets_addr(&t, p.index, p.gen, &a));
    for (unsigned i = 0; i < 20; i++) {
        one(&t, 1, TARGET_ANSWERED, 10, UINT_MAX, text);
        assert_string_equal(text, "127.0.0.2:8000");
    }
    target_end(&t, p, TARGET_ANSWERED, 10, 1);
    for (unsigned i = 3; i < 200; i++) { /* for ever */
        set(&t, i, 1);
        one(&t, 1, TARGET_ANSWERED, 10, UINT_MAX, text);
        assert_int_equal(targets_listed(&t, 1, &up), 1);
    }
    assert_false(targets_addr(&t, p.index, p.gen, &a));
    target_begin(&t, p); /* of the address that was */
    target_end(&t, p, TARGET_REFUSED, 0, SECONDS(5));
    targets_listed(&t, SECONDS(5), &up);
    assert_int_equal(up, 1);
    set(&t, 1, 2 * TARGETS_MAX);
    assert_int_equal(targets_listed(&t, 1, &up), TARGETS_MAX);
    targets_done(&t);
}

static void the_budget_of_retries(void **state)
{
    struct retry_budget b;
    unsigned n = 0;

    (void)state;
    retry_budget_init(&b);
    while (retry_budget_take(&b)) {
        n++;
    }
    assert_int_equal(n, 100);
    for (unsigned i = 0; i < 1000; i++) {
        retry_budget_earn(&b);
        n += retry_budget_take(&b);
    }
    assert_int_equal(n, 300);
    for (unsigned i = 0; i < 10000; i++) {
        retry_budget_earn(&b);
    }
    for (n = 0; retry_budget_take(&b); n++) {
    }
    assert_int_equal(n, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_get_their_share_and_the_faster_more),
        cmocka_unit_test(the_one_with_fewer_open_is_taken),
        cmocka_unit_test(a_refusal_ejects_and_time_brings_back),
        cmocka_unit_test(three_breaks_in_a_row),
        cmocka_unit_test(a_retry_goes_elsewhere_if_there_is_an_elsewhere),
        cmocka_unit_test(addresses_that_change),
        cmocka_unit_test(the_budget_of_retries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
