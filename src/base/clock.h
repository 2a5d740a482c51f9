/* SPDX-License-Identifier: Apache-2.0 */
/* Time: monotonic microseconds for everything that measures or waits, wall time only to show and to store.
 *
 * Thread: any. */
#ifndef WEIR_BASE_CLOCK_H
#define WEIR_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_us(void); /* CLOCK_MONOTONIC, microseconds; never 0 */
uint64_t clock_ns(void); /* the same in nanoseconds */
/* Processor time in nanoseconds: of the calling thread, or of all threads of the process. */
uint64_t clock_thread_ns(void);
uint64_t clock_process_ns(void);
int64_t clock_wall_ms(void); /* milliseconds since 1970, UTC */
int64_t clock_wall_us(void); /* the same in microseconds */
#define CLOCK_TEXT 32
/* "2026-11-23T21:40:31.123Z" */
void clock_text(char out[CLOCK_TEXT], int64_t wall_ms);
#define SECONDS(n) ((uint64_t)(n) * 1000000u)
#define MILLIS(n) ((uint64_t)(n) * 1000u)

#endif
