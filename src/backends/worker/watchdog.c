/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of hanging; see watchdog.h. */
#include "backends/worker/watchdog.h"

void watchdog_init(struct watchdog *w, uint64_t now_us)
{
    *w = (struct watchdog){.started_us = now_us, .checked_us = now_us, .pulse_us = now_us, .progress_us = now_us};
}

const char *watchdog_look(struct watchdog *w, const struct watchdog_signs *s, uint64_t now_us, bool *fresh)
{
    uint64_t late = now_us - w->checked_us;

    w->checked_us = now_us;
    if (late > 2 * WATCHDOG_CHECK_US) { /* we were stopped, and it perhaps with us */
        w->started_us += late;
        w->pulse_us += late;
        w->progress_us += late;
    }
    if (s->pulse != w->pulse || (s->pulse == 0 && now_us - w->started_us < WATCHDOG_START_US)) {
        w->pulse = s->pulse;
        w->pulse_us = now_us;
    }
    *fresh = s->progress != w->progress || !s->running;
    if (*fresh) {
        w->progress = s->progress;
        w->progress_us = now_us;
    }
    if (now_us - w->pulse_us > WATCHDOG_HANG_US) {
        return "it hung (no sign of life for 5 s)";
    }
    if (!*fresh && s->overdue && now_us - w->progress_us > MAX(WATCHDOG_HANG_US, WATCHDOG_SLOWER * s->longest_us)) {
        return "it hung (a run went on far past its deadline)";
    }
    if (!s->ready && now_us - w->started_us > WATCHDOG_LOAD_US) {
        return "it was not ready after 10 min of loading";
    }
    return NULL;
}
