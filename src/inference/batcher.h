/* SPDX-License-Identifier: Apache-2.0 */
/* The batcher: how many rows run next, and whether to wait for more. Pure over (state, what waits, now).
 *
 * A batch forms while the executor is busy; an idle executor never waits, unless the rule has a delay or company is on
 * its way (below). The size is bounded by three things.
 *
 * Max: of the rule, and of the model.
 *
 * Limit: found by AIMD (Chiu and Jain 1989; Clipper, NSDI 2017 §4.3), +1 after a batch that was full and kept the SLO,
 * ×0.9 after one that broke it by its size; without an SLO it is max. The size is at fault if two such runs last longer
 * than the SLO, for a job that just misses one waits for it and then takes part in the next. Where two would fit,
 * waiting broke the SLO, and smaller batches would make everybody wait longer.
 *
 * Slack: the most rows whose predicted run ends before the earliest deadline, at least one job's.
 *
 * Whoever waits is run in time for the earliest deadline: twice its predicted run before it, for what a prediction
 * misses.
 *
 * The predicted time of a run of n rows is base + n × row: a line through two exponentially weighted means (α = 1/8,
 * those of TCP's round-trip time), one of small runs and one of large ones; before the first runs, the warm-up's.
 *
 * Joining goes on only while it pays, by the same line: among eight a row must cost a tenth less than alone, as at the
 * warm-up, which is 8 × base ≥ row as good as exactly. Where runs show otherwise (the warm-up had a bad moment, or the
 * machine is another by now) the limit is 1 until they show that it pays again.
 *
 * Company: clients that wait for their answers fall into two groups, one being run and one waiting, and batches stay at
 * half of what they could be. So after a run of predicted time t the executor may linger until t/8 after its end, for
 * those who just had their answers to come back. With w rows waiting and c expected it pays in throughput when
 *
 *     (w + c) / (L + base + (w + c) × row) > w / (base + w × row)     ⇔     L × w < c × base
 *
 * L being what is left of the time. c is an exponentially weighted mean of what came in that time after earlier runs,
 * less the job that leads the next run: so it is 0 for a lone client, and a steady stream of arrivals, where w grows
 * with the length of a run, does not linger. It ends as soon as as many rows wait as there were running and waiting
 * when the run ended.
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
    /* Of the last run: */
    uint64_t ended_us, linger_us; /* its end, and how long after it somebody counts as come back; 0: does not pay */
    uint64_t around;              /* rows that ran or waited when it ended */
    bool led;                     /* the job that leads the next run had been submitted */
    uint64_t came, came_first;    /* rows submitted within that time; of them, those of the job that leads */
    double company;               /* mean of came less came_first, rows */
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
/* The most rows that are joined at this time; at least 1. */
uint64_t batcher_limit(const struct batcher *b);
/* A run ended. full: it had as many rows as the limit allowed. worst_us: the largest latency of its jobs. */
void batcher_ran(struct batcher *b, uint64_t rows, uint64_t run_us, uint64_t worst_us, bool full);
/* What company is judged by, for executors that can linger. Each run's end, after batcher_ran: waiting rows had been
 * submitted by then. And each job that is pulled, in the order of submit; submit_us 0 is no evidence. */
void batcher_ended(struct batcher *b, uint64_t ended_us, uint64_t rows, uint64_t waiting);
void batcher_came(struct batcher *b, uint64_t submit_us, uint64_t rows);

#endif
