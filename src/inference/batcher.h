/* SPDX-License-Identifier: Apache-2.0 */
/* The batcher: how many rows run next, and whether to wait for more. Pure over (state, what waits, now).
 *
 * A batch forms while the executor is busy; an idle executor never waits, unless the rule has a delay. The size is
 * bounded by
 *
 *     max      of the rule, and of the model
 *     limit    found by AIMD (Chiu and Jain 1989; Clipper, NSDI 2017 §4.3): +1 after a batch that was full and kept the
 *              SLO, ×0.9 after one that broke it; without an SLO it is max
 *     slack    the most rows whose predicted run ends before the oldest job's deadline, at least one job's
 *
 * The predicted time of a run of n rows is base + n × row: a line through two exponentially weighted means (α = 1/8,
 * those of TCP's round-trip time), one of small runs and one of large ones; before the first runs, the warm-up's.
 *
 * Thread: the executor's. Time: clock_us() of the caller, microseconds. */
#ifndef WEIR_INFERENCE_BATCHER_H
#define WEIR_INFERENCE_BATCHER_H

#include "base/base.h"

struct batch_rule {
    uint32_t max;      /* most rows of a run; 1: never join */
    uint64_t delay_us; /* how long the oldest job may wait for company while the executor is idle */
    uint64_t slo_us;   /* what a job's latency, from its submit to its end, should not exceed; 0: none */
};

struct batcher {
    struct batch_rule rule;
    double limit;                    /* rows */
    double base, row;                /* predicted run: base + n × row, microseconds */
    double mean_rows[2], mean_us[2]; /* of small and of large runs; 0: none yet */
};

/* joins: the model may be joined; one_us, many_us: the warm-up's runs of 1 and of many_rows rows (0: not measured). */
void batcher_init(struct batcher *b, const struct batch_rule *rule, bool joins, uint64_t one_us, uint64_t many_us,
                  uint32_t many_rows);

struct batch_view {       /* what waits */
    uint64_t rows;        /* all that could run together; at least 1 */
    uint64_t first_rows;  /* of the oldest job */
    uint64_t submit_us;   /* of the oldest job; 0: not known */
    uint64_t deadline_us; /* the earliest; UINT64_MAX: none */
};
struct batch_answer {
    uint64_t rows;     /* run this many now (the oldest job's, at least); 0: wait */
    uint64_t until_us; /* rows == 0: look again then, or when more has come */
};
struct batch_answer batcher_next(const struct batcher *b, const struct batch_view *v, uint64_t now_us);
uint64_t batcher_predict_us(const struct batcher *b, uint64_t rows);
/* A run ended. full: it had as many rows as the limit allowed. worst_us: the largest latency of its jobs. */
void batcher_ran(struct batcher *b, uint64_t rows, uint64_t run_us, uint64_t worst_us, bool full);

#endif
