/* SPDX-License-Identifier: Apache-2.0 */
/* Moments: what the counts grew by between two looks that are a moment apart, or what is open, and the largest of it.
 */
#include "control/moments.h"

#include <string.h>

static uint64_t slow_of(const struct judge_stratum *s, unsigned k)
{
    return s->bad[METRIC_SLOW95 + k][JUDGE_CANARY];
}

static void restart(struct moments_stratum *m, const struct judge_stratum *s)
{
    *m = (struct moments_stratum){.share_bp = s->share_bp};
}

static unsigned least_of(const uint64_t worst[MOMENTS_KEPT])
{
    unsigned least = 0;

    for (unsigned i = 1; i < MOMENTS_KEPT; i++) {
        least = worst[i] < worst[least] ? i : least;
    }
    return least;
}

static void keep(uint64_t worst[MOMENTS_KEPT], uint64_t here)
{
    unsigned least = least_of(worst);

    worst[least] = MAX(worst[least], here);
}

/* What the worst have more than the one behind them. */
static uint64_t left_out(const uint64_t worst[MOMENTS_KEPT], uint64_t here)
{
    uint64_t all[MOMENTS_KEPT], behind, sum = 0;

    memcpy(all, worst, sizeof(all));
    keep(all, here);
    behind = all[least_of(all)];
    for (unsigned i = 0; i < MOMENTS_KEPT; i++) {
        sum += all[i] - behind;
    }
    return sum;
}

void moments_resume(struct moments *m, const struct judge_counts *c)
{
    m->began_us = 0;
    for (size_t i = 0; i < c->n; i++) {
        m->stratum[i].share_bp = c->stratum[i].share_bp;
        for (unsigned k = 0; k < JUDGE_SLOW; k++) {
            m->stratum[i].before[k] = slow_of(&c->stratum[i], k);
        }
    }
}

void moments_look(struct moments *m, struct judge_counts *c, uint64_t now_us)
{
    bool over = m->began_us > 0 && now_us - m->began_us >= MOMENT_US;

    for (size_t i = 0; i < c->n; i++) {
        struct moments_stratum *own = &m->stratum[i];
        struct judge_stratum *s = &c->stratum[i];

        if (own->share_bp != s->share_bp || own->before[0] > slow_of(s, 0) || own->before[1] > slow_of(s, 1)) {
            restart(own, s);
        }
        for (unsigned k = 0; k < JUDGE_SLOW; k++) {
            uint64_t grown = slow_of(s, k) - own->before[k];

            uint64_t here = MAX(grown, s->open[k]);

            s->moments[k] = MIN(left_out(own->worst[k], here), slow_of(s, k));
            if (over) {
                keep(own->worst[k], here);
                own->before[k] = slow_of(s, k);
            }
        }
    }
    if (over || m->began_us == 0) {
        m->began_us = now_us;
    }
}
