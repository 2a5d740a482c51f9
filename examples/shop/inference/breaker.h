/* SPDX-License-Identifier: Apache-2.0 */
/* A circuit breaker: leaves alone for a while what has failed several times in a row.
 *
 * Pure: the time is an argument, in milliseconds of any clock that only goes forward. Thread: one at a time. */
#ifndef SHOP_INFERENCE_BREAKER_H
#define SHOP_INFERENCE_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

#define BREAKER_FAILURES 3
#define BREAKER_PAUSE_MS 1000
#define BREAKER_PAUSE_MAX_MS 8000
#define BREAKER_TOGETHER 16 /* calls at the same time */

/* All zero: closed. */
struct breaker {
    int failures; /* in a row */
    int running;
    int64_t pause_ms; /* 0: closed */
    int64_t until_ms; /* nobody is let through before */
    bool trying;      /* the one call that tries it out is under way */
};

/* May a call be made now? After true, breaker_tell must follow. */
bool breaker_allows(struct breaker *b, int64_t now_ms);
/* How the call ended. True: the breaker opened or closed by it, which is worth a line in the log. */
bool breaker_tell(struct breaker *b, bool good, int64_t now_ms);

#endif
