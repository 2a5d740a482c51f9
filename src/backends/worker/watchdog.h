/* SPDX-License-Identifier: Apache-2.0 */
/* When a worker process counts as hung: alive is who pulses, at work is who finishes runs, and slow is no hang. Pure
 * over (state, signs, now); worker.c kills.
 *
 *     no sign of life         no pulse for 5 s (60 s for the first one: libraries load before it)
 *     a run that never ends   its client's deadline has passed, and no run has ended for max(5 s, 30 x the longest run
 *                             yet): a model ten times as slow as ever before is left alone
 *     a load that never ends  not ready after 10 min, though it pulses
 *
 * Time in which we ourselves were stopped does not count.
 *
 * Thread: control. */
#ifndef WEIR_BACKENDS_WORKER_WATCHDOG_H
#define WEIR_BACKENDS_WORKER_WATCHDOG_H

#include "base/base.h"

#define WATCHDOG_CHECK_US 500000ull /* how often to look */
#define WATCHDOG_HANG_US 5000000ull
#define WATCHDOG_START_US 60000000ull
#define WATCHDOG_LOAD_US 600000000ull
#define WATCHDOG_SLOWER 30

struct watchdog {
    uint64_t started_us, checked_us;
    uint64_t pulse, pulse_us;       /* the last, and when it was new */
    uint64_t progress, progress_us; /* the same of finished runs; also new while nothing runs */
};
struct watchdog_signs {
    uint64_t pulse, progress; /* counters of the exchange; the worker may write anything there */
    uint64_t longest_us;      /* of all runs */
    bool running;
    bool overdue; /* a run's deadline has passed */
    bool ready;
};

void watchdog_init(struct watchdog *w, uint64_t now_us);
/* NULL: let it be; else why it is to be killed. *fresh: a run has ended since the last look, or none is going on. */
const char *watchdog_look(struct watchdog *w, const struct watchdog_signs *s, uint64_t now_us, bool *fresh);

#endif
