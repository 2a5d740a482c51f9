/* SPDX-License-Identifier: Apache-2.0 */
/* The judge: does the candidate do harm? From counts of raw events, by evidence that may be looked at at any time.
 *
 * Four guardrails are kinds of bad answer that are seen at once: errors (the version's fault; a client's 4xx is not
 * one), slow beyond the stable's frozen p95 and p99, invalid (NaN, infinite, empty, of a wrong shape). Of a user who
 * comes often only the first bad answer of a kind in the whole rollout counts (tally.h), so that counts are of
 * independent events. Two are known by feedback only: wrong (of the answers that were labelled) and reward (its mean).
 *
 * One of the four fails when the sum over the shares of stats_ln_e(ABOVE) at share(w, 1 + margin) reaches its trip; or
 * when its absolute limit is broken: the candidate's bad answers among its requests against the limit, by
 * stats_ln_e(ABOVE) at the same height. trip = ln(m / (part alpha)): nine tenths of alpha are split over the m of the
 * four that can fail a rollout (not in dry run), a tenth over those of the two by feedback, whose test asks for more
 * evidence in any case; where one of the parties can not fail, the other has all of alpha. So it is from the first
 * request on, though nobody may ever send feedback: were alpha split anew when it comes, what was spent before would
 * come on top.
 *
 * Feedback. Who is asked for it is nobody's draw: one arm may be labelled twice as often as the other. So the
 * candidate's share of the wrong answers has no known value to be held against (and put in from the counts themselves
 * its e-value would be no martingale any more). What is compared is conditional on being labelled: the mean of the
 * labelled answers of each arm, all of them, as a thinned sample of what the arm answered. Counting only the first of
 * each user would not do here: the arm that is labelled more often would have more of the users who come seldom. Users
 * are made up for by the standard error, which is taken over STATS_GROUPS groups of them (stats_grouped), and never
 * less than what as many independent values of the spread of both arms would have: an arm that had only right answers
 * so far is not sure of itself. Each value weighs 1 - w in the candidate's arm and w in the stable's, w being the
 * candidate's share when it was assigned (overlap weights; Li, Morgan and Zaslavsky, JASA 2018): so both arms are made
 * up of the same days, whatever steps the share went through.
 * The difference is held against the margin by the one-sided confidence sequence (stats_difference) at exp(-trip); its
 * evidence is -ln of its always-valid p, so it fails at its trip like the others. N is that of a balanced
 * comparison that knows as much, 4 / (1/a + 1/b). It is asymptotic: asked for are 50 values of each arm, and that no
 * few users have most of them (20 groups' worth: (sum n)^2 / sum n^2). tests/unit/control/judge_sim_test.c shows what
 * it comes to.
 * Wrong: the candidate's share of wrong answers above 1 + margin times the stable's; its absolute limit is held against
 * the first wrong answer of each user among the labelled. Reward: the candidate's mean below the stable's by more than
 * margin times its size. Without enough of it feedback decides nothing and holds nothing back (its finding is NODATA,
 * the verdict is the others').
 *
 * Verdicts. FAIL: a guardrail failed. NODATA: too few answers of the candidate (or none of the stable). INCONCLUSIVE:
 * enough of them, but the candidate's risk has a suspicion (below). PASS: enough of them and no harm seen. ERROR: the
 * counts contradict themselves (x > n, a share of 0 or 1). NODATA, INCONCLUSIVE and ERROR never promote and never roll
 * back.
 *
 * Moments. Slow answers that a few seconds of a busy machine explain convict nobody: what the candidate's worst moments
 * at a share have more than the others is left out of the evidence (moments.h). Where it would have failed with that,
 * it is under suspicion: `brief`.
 *
 * Suspicion: the e-value of a guardrail stands above ln 2, or above a third of its limit, whichever is higher: more
 * requests will tell.
 *
 * Sample ratio: first exposures of users by arm against the shares, stats_ratio_ln_e summed, trips at ln 1000: then who
 * is on which arm is not what was ordered, and no comparison can be trusted: `ratio_broken`.
 *
 * Stable sick: the stable itself breaks an absolute limit (same test). Then a rollback on relative evidence alone would
 * go back to a version that is no better: the rollout is paused, and says so.
 *
 * Pure; any thread. Source of the formulas: stats.h. */
#ifndef WEIR_CONTROL_JUDGE_H
#define WEIR_CONTROL_JUDGE_H

#include "base/buf.h"
#include "base/stats.h"

enum judge_metric {
    METRIC_ERRORS,
    METRIC_SLOW95,
    METRIC_SLOW99,
    METRIC_INVALID,
    METRIC_WRONG, /* from here on: known by feedback */
    METRIC_REWARD,
    METRIC_COUNT
};
extern const char *const judge_metric_names[]; /* "errors", "slow_p95", "slow_p99", "invalid", "wrong", "reward" */
static inline bool metric_by_feedback(size_t m)
{
    return m >= METRIC_WRONG;
}

enum verdict { VERDICT_PASS, VERDICT_FAIL, VERDICT_INCONCLUSIVE, VERDICT_NODATA, VERDICT_ERROR };
extern const char *const verdict_names[]; /* "pass", "fail", "inconclusive", "nodata", "error" */

enum { JUDGE_STABLE, JUDGE_CANARY, JUDGE_ARMS };

struct judge_rule {
    double alpha;                /* of the rollout as a whole: the chance of a false rollback; 0.01 */
    double margin[METRIC_COUNT]; /* tolerated relative excess, of reward: loss; 0: any harm fails */
    double limit[METRIC_COUNT];  /* most tolerated share of bad answers; 0: no absolute limit; of reward: none */
    bool dry[METRIC_COUNT];      /* shown, and never a reason */
    uint64_t min_requests;       /* of the candidate, before PASS */
};

#define JUDGE_SLOW 2 /* kinds of slow: METRIC_SLOW95 and the one behind it */

/* Everything counted while the candidate had one share. */
#define JUDGE_STRATA 32
struct judge_stratum {
    uint32_t share_bp;                      /* 1 … 9999 */
    uint64_t answered[JUDGE_ARMS];          /* requests that ended, but for the client's own errors */
    uint64_t exposed[JUDGE_ARMS];           /* users (keyless requests: each), at their first request */
    uint64_t labelled[JUDGE_ARMS];          /* answers that feedback called right or wrong */
    uint64_t bad[METRIC_COUNT][JUDGE_ARMS]; /* first bad answer of that kind of each user; of reward: 0 */
    uint64_t all[METRIC_COUNT][JUDGE_ARMS]; /* all bad answers: for the rates that are shown */
    uint64_t open[JUDGE_SLOW];              /* of the candidate's bad[] those that have no answer yet, just now */
    uint64_t moments[JUDGE_SLOW];           /* of the candidate's bad[] what is left out, see Moments */
};
/* What feedback said of one arm's answers in the whole rollout: 1 or 0 (wrong or right), or rewards. A weight is in
 * basis points: 10000 - share_bp in the candidate's arm, share_bp in the stable's. */
#define JUDGE_VALUES (METRIC_COUNT - METRIC_WRONG)
struct judge_values {
    uint64_t count, weight2;  /* values; the sum of their squared weights */
    double square;            /* the sum of weight times value squared */
    uint64_t n[STATS_GROUPS]; /* sums of weights, by group of users */
    double y[STATS_GROUPS];   /* sums of weight times value */
};
struct judge_counts {
    struct judge_stratum stratum[JUDGE_STRATA];
    size_t n;
    uint64_t slow_ns[2]; /* the stable's frozen p95 and p99; 0: not known yet, then nothing is slow */
    uint64_t wait_ns;    /* see tally_freeze */
    struct judge_values values[JUDGE_VALUES][JUDGE_ARMS]; /* [m - METRIC_WRONG] */
};

struct judge_finding {
    enum verdict verdict;
    bool dry, by_limit;            /* by_limit: the absolute limit failed it */
    bool brief;                    /* it would have failed, had it not been slow in a few moments only */
    double ln_e, ln_e_limit, trip; /* of the comparison, of the absolute limit (0: none); both fail at `trip` */
    uint64_t answered[JUDGE_ARMS]; /* of wrong: labelled answers; of reward: rewards */
    uint64_t bad[JUDGE_ARMS], all[JUDGE_ARMS];
    double rate[JUDGE_ARMS];          /* all / answered; of reward: the mean */
    struct stats_interval difference; /* by feedback: the candidate's mean less the stable's, always valid at 95 % */
    struct stats_interval risk;       /* candidate's over stable's, always valid at 95 % */
    double requests_left; /* of both arms, until a doubled rate would be seen; infinity: no events to tell from */
};
struct judgement {
    enum verdict verdict;
    uint64_t answered[JUDGE_ARMS];
    struct judge_finding finding[METRIC_COUNT];
    enum judge_metric worst; /* the guardrail that decided a FAIL or an INCONCLUSIVE, else the one nearest to it */
    double ratio_ln_e, ratio_p;
    bool ratio_broken, stable_sick;
    char text[400]; /* the verdict in a sentence for a person at night */
};
void judge(const struct judge_rule *rule, const struct judge_counts *counts, struct judgement *out);

/* After the promotion there is no stable left to compare with: the new version against what the old one did before
 * (baseline, of at least min_requests answers) and against the limits. A share of bad answers is judged against
 * max(limit, 2 × baseline + 0.005), for slow_p95 and slow_p99 against 2 × 0.05 and 2 × 0.01 of the frozen times.
 * baseline: shares of bad answers, 1: it is not known, then there is only the limit; now: answered, labelled and bad[]
 * of JUDGE_CANARY in one stratum (share_bp is not looked at). Rewards are not judged any more: what they are depends on
 * the days. */
void judge_soak(const struct judge_rule *rule, const double baseline[METRIC_COUNT], const struct judge_stratum *now,
                struct judgement *out);

/* Labelled answers of an arm that its share of wrong ones is known from. */
#define JUDGE_LABELS_LEAST 50

/* The judgement as one JSON object: what is stored as evidence, and what the API shows. */
void judgement_json(struct buf *out, const struct judgement *j);

#endif
