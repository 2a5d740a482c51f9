/* SPDX-License-Identifier: Apache-2.0 */
/* The clocks run forward; the text of a wall time against the C library over a thousand years. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"

static void clocks(void **state)
{
    (void)state;
    uint64_t ns = clock_ns();
    uint64_t us = clock_us();
    assert_true(us >= ns / 1000 && us < ns / 1000 + 1000000);
    for (int i = 0; i < 1000; i++) {
        uint64_t next = clock_ns();
        assert_true(next >= ns);
        ns = next;
    }
    int64_t wall = clock_wall_ms();
    assert_true(wall / 1000 >= (int64_t)time(NULL) - 2 && wall / 1000 <= (int64_t)time(NULL) + 2);
    assert_int_equal(SECONDS(3), 3000000);
    assert_int_equal(MILLIS(3), 3000);
}

/* A thread that works has both; one that sleeps has neither. */
static void processor_time(void **state)
{
    uint64_t began = clock_ns(), thread = clock_thread_ns(), process = clock_process_ns(), wall;
    struct timespec nap = {0, 20000000};

    (void)state;
    while (clock_thread_ns() - thread < 5000000) {
    }
    wall = clock_ns() - began;
    assert_true(wall >= 4000000 && clock_process_ns() - process >= 4000000); /* the clocks are not read at once */
    thread = clock_thread_ns();
    nanosleep(&nap, NULL);
    assert_true(clock_thread_ns() - thread < 20000000);
}

static void one(int64_t ms, const char *want)
{
    char text[CLOCK_TEXT];
    clock_text(text, ms);
    assert_string_equal(text, want);
}

static void texts(void **state)
{
    (void)state;
    one(0, "1970-01-01T00:00:00.000Z");
    one(-1, "1969-12-31T23:59:59.999Z");
    one(951782400000, "2000-02-29T00:00:00.000Z");
    one(1795470031123, "2026-11-23T21:40:31.123Z");
    one(INT64_MAX, "9999-12-31T23:59:59.999Z");
    one(INT64_MIN, "0000-01-01T00:00:00.000Z");
    for (int64_t s = -30000000000; s < 30000000000; s += 1234567) {
        char text[CLOCK_TEXT];
        char want[CLOCK_TEXT + 64];
        time_t t = (time_t)s;
        struct tm tm;
        gmtime_r(&t, &tm);
        snprintf(want, sizeof(want), "%04d-%02d-%02dT%02d:%02d:%02d.007Z", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
                 tm.tm_hour, tm.tm_min, tm.tm_sec);
        clock_text(text, s * 1000 + 7);
        assert_string_equal(text, want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocks),
        cmocka_unit_test(processor_time),
        cmocka_unit_test(texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
