/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of admission, on figures that are chosen: a run takes 10 ms, deadlines are far unless said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "inference/admission.h"

#define RUN_NS 10000000u
#define NOW SECONDS(1000)
#define TIMEOUT SECONDS(8)

static struct admission a;

static int fresh(void **state)
{
    (void)state;
    memset(&a, 0, sizeof a);
    admission_init(&a, 100, 10000, TIMEOUT, RUN_NS);
    return 0;
}

static enum admission_verdict enter_at(enum job_class class, uint64_t bytes, uint64_t deadline_us, uint64_t now,
                                       uint64_t *wait_us)
{
    return admission_enter(&a, &(struct admission_ask){bytes, deadline_us, class}, 1, now, wait_us);
}

static enum admission_verdict enter(enum job_class class, uint64_t bytes)
{
    uint64_t wait_us;

    return enter_at(class, bytes, UINT64_MAX, NOW, &wait_us);
}

static void submit(enum job_class class, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        admission_submit(&a, class, 1, NOW);
    }
}

/* Of a bound the critical may use all, the default nine tenths, the sheddable half. */
static void classes_share_the_bounds(void **state)
{
    unsigned n[CLASS_COUNT] = {0};

    (void)state;
    for (int c = CLASS_COUNT - 1; c >= 0; c--) {
        while (enter((enum job_class)c, 1) == ADMITTED) {
            n[c]++;
        }
    }
    assert_int_equal(n[CLASS_SHEDDABLE], 50);
    assert_int_equal(n[CLASS_DEFAULT], 40);
    assert_int_equal(n[CLASS_CRITICAL], 10);
    assert_int_equal(admission_requests(&a), 100);
    assert_int_equal(atomic_load(&a.bytes), 100); /* what was refused is not counted */
    admission_leave(&a, CLASS_SHEDDABLE, 1);
    assert_int_equal(enter(CLASS_SHEDDABLE, 1), REFUSED_REQUESTS);
    assert_int_equal(enter(CLASS_CRITICAL, 1), ADMITTED);
}

static void bytes_are_bounded(void **state)
{
    (void)state;
    assert_int_equal(enter(CLASS_DEFAULT, 9001), REFUSED_BYTES);
    assert_int_equal(enter(CLASS_DEFAULT, 9000), ADMITTED);
    assert_int_equal(enter(CLASS_CRITICAL, 1001), REFUSED_BYTES);
    assert_false(admission_grow(&a, CLASS_DEFAULT, 1));
    assert_true(admission_grow(&a, CLASS_CRITICAL, 1000));
    assert_int_equal(atomic_load(&a.bytes), 10000);
    assert_int_equal(atomic_load(&a.verdicts[REFUSED_BYTES]), 3);
}

/* now + ahead × cost + run: 5 before it, 10 ms each, and its own run. */
static void late_is_refused_at_once(void **state)
{
    uint64_t wait_us;

    (void)state;
    submit(CLASS_DEFAULT, 5);
    assert_int_equal(enter_at(CLASS_DEFAULT, 0, NOW + MILLIS(59), NOW, &wait_us), REFUSED_LATE);
    assert_int_equal(wait_us, MILLIS(60));
    assert_int_equal(enter_at(CLASS_DEFAULT, 0, NOW + MILLIS(60), NOW, &wait_us), ADMITTED);
    /* who goes first waits for nobody below */
    assert_int_equal(enter_at(CLASS_CRITICAL, 0, NOW + MILLIS(10), NOW, &wait_us), ADMITTED);
    assert_int_equal(enter_at(CLASS_SHEDDABLE, 0, NOW + MILLIS(59), NOW, &wait_us), REFUSED_LATE);
    for (unsigned i = 0; i < 5; i++) {
        admission_given(&a);
        admission_end(&a, CLASS_DEFAULT);
    }
    assert_int_equal(enter_at(CLASS_DEFAULT, 0, NOW + 1, NOW, &wait_us), ADMITTED); /* idle: it tries */
}

static void two_executors_wait_half(void **state)
{
    uint64_t wait_us;

    (void)state;
    submit(CLASS_DEFAULT, 6);
    admission_enter(&a, &(struct admission_ask){0, UINT64_MAX, CLASS_DEFAULT}, 2, NOW, &wait_us);
    assert_int_equal(wait_us, MILLIS(40));
}

/* A queue that stands for longer than the interval, and a wait beyond the target: both, not one of them. */
static void standing_queue(void **state)
{
    uint64_t wait_us, later = NOW + MILLIS(101);

    (void)state;
    assert_int_equal(a.target_us, TIMEOUT / 4);
    assert_int_equal(a.interval_us, MILLIS(100));
    submit(CLASS_DEFAULT, 200); /* two seconds of work */
    assert_int_equal(enter_at(CLASS_DEFAULT, 0, UINT64_MAX, NOW + MILLIS(99), &wait_us), ADMITTED);
    assert_int_equal(enter_at(CLASS_DEFAULT, 0, UINT64_MAX, later, &wait_us), REFUSED_STANDING);
    for (unsigned i = 0; i < 2; i++) { /* now the wait is below the target */
        admission_given(&a);
        admission_end(&a, CLASS_DEFAULT);
    }
    assert_int_equal(enter_at(CLASS_DEFAULT, 0, UINT64_MAX, later, &wait_us), ADMITTED);
    submit(CLASS_DEFAULT, 2);
    for (unsigned i = 0; i < 200; i++) { /* everything is given out: the queue was empty for a moment */
        admission_given(&a);
    }
    admission_back(&a, later);
    assert_int_equal(enter_at(CLASS_DEFAULT, 0, UINT64_MAX, later + MILLIS(99), &wait_us), ADMITTED);
    assert_int_equal(enter_at(CLASS_DEFAULT, 0, UINT64_MAX, later + MILLIS(101), &wait_us), REFUSED_STANDING);
}

/* Runs become twice as long; two jobs share each. */
static void it_learns(void **state)
{
    uint64_t wait_us;

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        admission_learn(&a, 2 * RUN_NS, 4, 0, 0);
    }
    assert_in_range(atomic_load(&a.run_ns.value), 2 * RUN_NS - RUN_NS / 50, 2 * RUN_NS + RUN_NS / 50);
    assert_in_range(atomic_load(&a.cost_ns.value), RUN_NS / 2 - RUN_NS / 50, RUN_NS / 2 + RUN_NS / 50);
    assert_true(admission_in_time(&a, 0, NOW + MILLIS(21), NOW));
    assert_false(admission_in_time(&a, 0, NOW + MILLIS(15), NOW));
    /* waits are in fact three times as long as predicted */
    for (unsigned i = 0; i < 100; i++) {
        admission_learn(&a, 2 * RUN_NS, 4, MILLIS(100), MILLIS(300));
    }
    submit(CLASS_DEFAULT, 16);
    enter_at(CLASS_DEFAULT, 0, UINT64_MAX, NOW, &wait_us);
    assert_in_range(wait_us, MILLIS(280), MILLIS(320)); /* 3 × (16 × 5 + 20) */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(classes_share_the_bounds, fresh), cmocka_unit_test_setup(bytes_are_bounded, fresh),
        cmocka_unit_test_setup(late_is_refused_at_once, fresh),  cmocka_unit_test_setup(two_executors_wait_half, fresh),
        cmocka_unit_test_setup(standing_queue, fresh),           cmocka_unit_test_setup(it_learns, fresh),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
