/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of restarting; see supervisor.h. */
#include "inference/supervisor.h"

#define BACKOFF_LEAST_US 100000ull
#define BACKOFF_MOST_US 30000000ull

struct supervisor_answer supervisor_died(struct supervisor *s, bool own, uint64_t now_us, double jitter)
{
    struct supervisor_answer a = {.restart_at_us = now_us};
    uint64_t last = s->death_us[(s->next + SUPERVISOR_DEATHS - 1) % SUPERVISOR_DEATHS];
    uint64_t oldest, wait = BACKOFF_LEAST_US;

    s->restarts++;
    if (!own) {
        return a;
    }
    if (last == 0 || now_us - last > SUPERVISOR_WINDOW_US) {
        s->in_a_row = 0;
    }
    s->death_us[s->next] = now_us;
    s->next = (s->next + 1) % SUPERVISOR_DEATHS;
    oldest = s->death_us[s->next]; /* the fifth-last, this one included */
    a.sick = oldest != 0 && now_us - oldest <= SUPERVISOR_WINDOW_US;
    for (unsigned i = 0; i < s->in_a_row && wait < BACKOFF_MOST_US; i++) {
        wait *= 2;
    }
    s->in_a_row++;
    wait = MIN(wait, BACKOFF_MOST_US);
    a.restart_at_us = now_us + (uint64_t)((double)wait * (0.8 + 0.4 * jitter));
    return a;
}
