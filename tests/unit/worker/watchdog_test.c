/* SPDX-License-Identifier: Apache-2.0 */
/* Hung is not slow: the watchdog looks twice a second at what a worker shows, over a clock of the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "backends/worker/watchdog.h"

#define S 1000000ull
#define BEGAN (1000 * S)

struct day {
    struct watchdog w;
    struct watchdog_signs s;
    uint64_t now;
    bool pulses;
};

static struct day ready_one(void)
{
    struct day d = {.now = BEGAN, .s = {.pulse = 1, .ready = true}, .pulses = true};

    watchdog_init(&d.w, d.now);
    return d;
}

/* Goes on for so long; what the watchdog said, and when it said it. */
static const char *go_on(struct day *d, uint64_t us)
{
    const char *why = NULL;
    bool fresh;

    for (uint64_t until = d->now + us; !why && d->now < until;) {
        d->now += WATCHDOG_CHECK_US;
        d->s.pulse += d->pulses;
        why = watchdog_look(&d->w, &d->s, d->now, &fresh);
        if (fresh) {
            d->s.overdue = false;
        }
    }
    return why;
}

static void idle_is_well(void **state)
{
    struct day d = ready_one();

    (void)state;
    assert_null(go_on(&d, 3600 * S));
}

static void silence_is_a_hang(void **state)
{
    struct day d = ready_one();

    (void)state;
    assert_null(go_on(&d, 60 * S));
    d.pulses = false;
    assert_null(go_on(&d, 5 * S));
    assert_non_null(strstr(go_on(&d, S), "no sign of life"));
}

static void a_slow_run_is_none(void **state)
{
    struct day d = ready_one();

    (void)state;
    d.s.running = true; /* nobody's deadline has passed */
    assert_null(go_on(&d, 3600 * S));
    d = ready_one();
    d.s.longest_us = 3 * S;
    for (unsigned i = 0; i < 20; i++) { /* ten times as slow as ever before, every deadline missed */
        d.s.running = d.s.overdue = true;
        assert_null(go_on(&d, 30 * S));
        d.s.progress++;
        assert_null(go_on(&d, WATCHDOG_CHECK_US));
    }
}

static void a_run_without_end_is_one(void **state)
{
    struct day d = ready_one();

    (void)state;
    assert_null(go_on(&d, 60 * S));
    d.s.running = d.s.overdue = true;
    assert_null(go_on(&d, 5 * S));
    assert_non_null(strstr(go_on(&d, S), "far past its deadline"));
    d = ready_one();
    d.s.longest_us = 2 * S;
    d.s.running = d.s.overdue = true;
    assert_null(go_on(&d, 60 * S));
    assert_non_null(strstr(go_on(&d, S), "far past its deadline"));
}

static void loading_has_an_end(void **state)
{
    struct day d = ready_one();

    (void)state;
    d.s.ready = false;
    assert_null(go_on(&d, WATCHDOG_LOAD_US));
    assert_non_null(strstr(go_on(&d, S), "10 min"));
    d = ready_one();
    d.s.ready = d.pulses = false; /* it never came as far as its first pulse */
    d.s.pulse = 0;
    assert_null(go_on(&d, 60 * S));
    assert_non_null(strstr(go_on(&d, 6 * S), "no sign of life"));
}

static void our_own_stop_does_not_count(void **state)
{
    struct day d = ready_one();

    (void)state;
    d.s.running = d.s.overdue = true;
    d.pulses = false;
    assert_null(go_on(&d, 4 * S));
    d.now += 3600 * S;
    assert_null(go_on(&d, WATCHDOG_CHECK_US));
    d.pulses = true;
    assert_null(go_on(&d, S));
    assert_non_null(go_on(&d, S)); /* and what was before it does */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(idle_is_well),       cmocka_unit_test(silence_is_a_hang),
        cmocka_unit_test(a_slow_run_is_none), cmocka_unit_test(a_run_without_end_is_one),
        cmocka_unit_test(loading_has_an_end), cmocka_unit_test(our_own_stop_does_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
