/* SPDX-License-Identifier: Apache-2.0 */
/* Time: the monotonic clock for measuring, the wall clock for people.
 *
 * The text of a wall time is made with the civil-calendar arithmetic of the proleptic Gregorian calendar (days since 1
 * March, in eras of 400 years), without the C library's time zone machinery and its locks.
 *
 * Thread: any. */
#include "base/clock.h"

#include <time.h>

static uint64_t read_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_ns(void)
{
    uint64_t ns = read_ns(CLOCK_MONOTONIC);
    return ns ? ns : 1;
}

uint64_t clock_thread_ns(void)
{
    return read_ns(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t clock_process_ns(void)
{
    return read_ns(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t clock_us(void)
{
    uint64_t us = clock_ns() / 1000;
    return us ? us : 1;
}

int64_t clock_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t clock_wall_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void put(char *at, int digits, unsigned v)
{
    while (digits-- > 0) {
        at[digits] = (char)('0' + v % 10);
        v /= 10;
    }
}

void clock_text(char out[CLOCK_TEXT], int64_t wall_ms)
{
    /* The text has four digits for the year: years 0 to 9999. */
    const int64_t least = -62167219200000;
    const int64_t most = 253402300799999;
    wall_ms = wall_ms < least ? least : wall_ms > most ? most : wall_ms;
    int64_t ms = (wall_ms - least) % 86400000; /* counted from year 0, so that nothing is negative */
    int64_t day = (wall_ms - least) / 86400000;
    /* From here on the year begins on 1 March: leap days come last and months have a regular pattern. */
    int64_t shifted = day + 146097 - 60; /* days since 1 March of the year -400 */
    int64_t era = shifted / 146097;
    unsigned in_era = (unsigned)(shifted % 146097);
    unsigned year = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    unsigned in_year = in_era - (365 * year + year / 4 - year / 100);
    unsigned m = (5 * in_year + 2) / 153;
    unsigned month = m < 10 ? m + 3 : m - 9;
    int64_t civil = (int64_t)year + era * 400 - 400 + (month <= 2);
    static const char form[] = "0000-00-00T00:00:00.000Z";
    for (unsigned i = 0; i < sizeof(form); i++) {
        out[i] = form[i];
    }
    put(out, 4, (unsigned)civil);
    put(out + 5, 2, month);
    put(out + 8, 2, in_year - (153 * m + 2) / 5 + 1);
    put(out + 11, 2, (unsigned)(ms / 3600000));
    put(out + 14, 2, (unsigned)(ms / 60000 % 60));
    put(out + 17, 2, (unsigned)(ms / 1000 % 60));
    put(out + 20, 3, (unsigned)(ms % 1000));
}
