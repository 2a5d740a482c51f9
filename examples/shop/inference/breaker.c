/* SPDX-License-Identifier: Apache-2.0 */
/* A circuit breaker; see breaker.h. */
#include "inference/breaker.h"

bool breaker_allows(struct breaker *b, int64_t now_ms)
{
    if (b->running >= BREAKER_TOGETHER || (b->pause_ms > 0 && (b->trying || now_ms < b->until_ms))) {
        return false;
    }
    b->trying = b->pause_ms > 0;
    b->running++;
    return true;
}

bool breaker_tell(struct breaker *b, bool good, int64_t now_ms)
{
    b->running--;
    bool was_open = b->pause_ms > 0;
    if (good) {
        *b = (struct breaker){.running = b->running};
        return was_open;
    }
    if (b->failures < BREAKER_FAILURES) {
        b->failures++;
    }
    if (was_open && !b->trying) {
        return false; /* it began before the breaker opened: nothing new */
    }
    if (b->failures < BREAKER_FAILURES) {
        return false;
    }
    b->trying = false;
    b->pause_ms = !was_open ? BREAKER_PAUSE_MS : b->pause_ms * 2;
    if (b->pause_ms > BREAKER_PAUSE_MAX_MS) {
        b->pause_ms = BREAKER_PAUSE_MAX_MS;
    }
    b->until_ms = now_ms + b->pause_ms;
    return !was_open;
}
