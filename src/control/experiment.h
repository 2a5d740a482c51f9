/* SPDX-License-Identifier: Apache-2.0 */
/* An experiment (A/B test): a rollout of a special policy. Row, state machine, guardrails, breaker, way back, history
 * and events are a rollout's; what is special is here:
 *
 * - Its arms are fixed: of the 10,000 buckets the candidate has [0, share), the stable version as its control
 *   [5000, 5000 + share); the other buckets are served by the stable version and are no part of the test, neither for
 *   the guardrails nor for the goal. So the arms are of one size, and the judge sees a share of 50 %.
 * - Its shares are frozen until it ends.
 * - One goal is declared before it starts: the reward or the accuracy that feedback tells, or the mean of an output's
 *   numbers. The difference of the arms' means has an always-valid interval (stats_difference, two-sided, absolute,
 *   tuned to 5,000 values), with the error of the means taken over groups of users (goal.h). It is asymptotic: below
 *   EXPERIMENT_LEAST values, or groups of users that have any, in either arm there is none.
 * - Once users are not split 1:1 as ordered (judge.h: ratio_broken) its result is hidden for good, and it is invalid:
 *   who is on which arm can not be trusted, nor can what they did.
 * - A person ships it or stops it. By itself it ends for harm, as any rollout, and when its time (`for`) is over: then
 *   the stable version stays.
 *
 * Pure; any thread. Times in microseconds of running, as a rollout's. */
#ifndef WEIR_CONTROL_EXPERIMENT_H
#define WEIR_CONTROL_EXPERIMENT_H

#include "control/goal.h"
#include "inference/tensor.h"

#define EXPERIMENT_LEAST 50
#define EXPERIMENT_CONTROL 5000 /* the first bucket of the stable version's arm, and the largest share */

struct experiment {
    int goal;                         /* enum goal_kind; GOAL_NONE: it is no experiment */
    char output[TENSOR_NAME_MAX + 1]; /* of GOAL_OUTPUT */
    bool lower;                       /* the less of it the better */
    uint64_t min_us;                  /* before it may be shipped: a week has its days */
    uint64_t for_us;                  /* it ends by itself then */
    uint64_t alpha_ppm;               /* 1 - the level of the interval, in millionths */
    uint64_t margin_bp; /* it may also be shipped when it is worse by no more than this share of the stable's mean */
};
/* No goal yet; seven days, 28 days, 5 %, no margin. */
void experiment_default(struct experiment *x);
/* "reward", "accuracy", "output:NAME", "output:NAME:lower" (or ":higher"). ERR_INVALID. */
enum err_code experiment_goal_read(struct experiment *x, struct str text, struct err *e) MUST_USE;
void experiment_goal_text(const struct experiment *x, struct buf *out); /* the same text */
/* As it is stored with its policy, and back (ERR_STORAGE: it was not written by experiment_json). */
void experiment_json(struct buf *out, const struct experiment *x);
enum err_code experiment_read(struct experiment *x, struct str json, struct err *e) MUST_USE;
/* ERR_INVALID: the goal is an output that a version has not, or that holds no numbers; *e names what there is. */
enum err_code experiment_fits(const struct experiment *x, const struct model_info *stable,
                              const struct model_info *candidate, struct err *e) MUST_USE;

/* ---- its result ---- */
enum experiment_result {
    RESULT_FEW,     /* too few values, or of too few users */
    RESULT_UNCLEAR, /* the interval holds 0 */
    RESULT_BETTER,  /* the candidate is */
    RESULT_SAME,    /* it may be worse, but by no more than the margin */
    RESULT_WORSE,
    RESULT_HIDDEN, /* the experiment is invalid */
};
extern const char *const experiment_result_names[]; /* "few", "unclear", "better", "not_worse", "worse", "hidden" */
struct experiment_finding {
    enum experiment_result result;
    struct stats_mean mean[JUDGE_ARMS];
    uint64_t groups[JUDGE_ARMS];  /* of users, that have a value */
    uint64_t dropped[JUDGE_ARMS]; /* values that were no numbers */
    struct stats_lift lift;       /* candidate - stable */
    double tolerated;             /* how much worse it may be, in the goal's unit */
    char text[400];               /* in a sentence */
};
/* invalid: the ratio is, or was, broken; then the finding holds no number. */
void experiment_judge(const struct experiment *x, const struct goal_counts *counts, int64_t stable, int64_t candidate,
                      bool invalid, struct experiment_finding *out);
/* What the interval allows: RESULT_BETTER, RESULT_SAME. */
bool experiment_good(const struct experiment_finding *f);
void experiment_finding_json(struct buf *out, const struct experiment *x, const struct experiment_finding *f);

#endif
