/* SPDX-License-Identifier: Apache-2.0 */
/* A lane: what the versions on one device share. A GPU runs one thing at a time well; jobs that are given to it wait
 * inside it, where no deadline reaches them. So a lane has few credits, and a version may hold as many as its share:
 * credits over the versions that have work, at least one a thread.
 *
 * No thread waits for a lane: who is refused has a job of its own in it, whose end asks again.
 *
 * Thread: any; relaxed atomics. */
#ifndef WEIR_INFERENCE_LANE_H
#define WEIR_INFERENCE_LANE_H

#include <stdatomic.h>

#include "base/base.h"

struct device_lane {
    char device[16]; /* "cuda:0" */
    uint32_t credits;
    _Atomic uint32_t open;   /* jobs in it */
    _Atomic uint32_t active; /* versions with admitted requests */
};

/* mine: the version's jobs in the lane; here: those of the asking thread. */
static inline bool lane_may(const struct device_lane *l, uint32_t mine, uint32_t here)
{
    uint32_t active = atomic_load_explicit(&l->active, memory_order_relaxed);
    uint32_t open = atomic_load_explicit(&l->open, memory_order_relaxed);

    return here == 0 || (open < l->credits && mine < MAX(l->credits / MAX(active, 1u), 1u));
}

#endif
