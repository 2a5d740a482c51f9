/* SPDX-License-Identifier: Apache-2.0 */
/* The rollout: what happens next, as a pure function of (policy, state, event).
 *
 *     WARMUP → BAKE → WARMUP (next step) → … → BAKE (last) → SOAK → ended: promoted
 *        └───────┴──→ PAUSED → back to where it was
 *     any of them → ended: rolled back (harm, breaker), aborted (a person), replaced (a newer rollout)
 *
 * A step sets the candidate's share. In its warm-up the clock of the bake does not run; guardrails are judged from the
 * first request on, in every phase. A bake ends when its time is over, the candidate has answered min_requests in it,
 * and the verdict is PASS (INCONCLUSIVE: as on_inconclusive says). After the last step the candidate becomes the stable
 * version (SOAK): the old one stays loaded and the new one is judged against the frozen baseline until the soak is
 * over.
 *
 * A manual policy (`automatic` false) has one step and no end: its guardrails and its breaker act like any other's, but
 * only a person moves it on. `weir push --canary 5%` is one.
 *
 * An experiment (experiment.h) is a rollout of a policy that declares a goal. It has one step, begins in BAKE, is never
 * paused, and its share is frozen: of a person it takes only to be shipped (promoted on the evidence of its goal), and
 * the way back. Harm ends it as any rollout; a stable version that is sick does not; a broken sample ratio makes it
 * invalid for good. When its time is over it is ended, and the stable version stays.
 *
 * Time is what passed while the server ran: `spent_us` of the phase is stored with the state, a downtime does not
 * count.
 *
 * Every transition is durable before it acts, but the way back, which acts first (control.h).
 *
 * Pure; any thread. Times in microseconds. */
#ifndef WEIR_CONTROL_ROLLOUT_H
#define WEIR_CONTROL_ROLLOUT_H

#include "base/conf.h"
#include "base/err.h"
#include "control/experiment.h"
#include "control/judge.h"

#define ROLLOUT_STEPS 16

enum rollout_unclear { UNCLEAR_ADVANCE, UNCLEAR_HOLD }; /* INCONCLUSIVE at the end of a bake */
enum rollout_silence { SILENCE_HOLD, SILENCE_ABORT };   /* no answers for nodata_timeout: paused, or ended */
enum rollout_newer { NEWER_REPLACES, NEWER_REFUSED };   /* another rollout is started meanwhile */

struct rollout_policy {
    char name[NAME_MAX_LEN + 1];
    bool automatic;
    uint32_t step[ROLLOUT_STEPS]; /* basis points, ascending, 1 … 9999 */
    uint32_t n_steps;
    uint64_t bake_us, warmup_us, interval_us; /* interval: between two judgements */
    uint64_t min_requests;                    /* answers of the candidate in a bake, and before a PASS */
    uint64_t alpha_ppm;                       /* alpha in millionths: 10000 = 0.01 */
    uint64_t margin_bp, slow_margin_bp; /* tolerated relative excess of errors and invalid; of slow: 1000 = 10 % */
    uint64_t error_limit_bp, slow_limit_bp, invalid_limit_bp;   /* absolute; slow: of slow_p95; 0: none */
    uint64_t wrong_limit_bp, wrong_margin_bp, reward_margin_bp; /* of what feedback says */
    bool dry_run;                                               /* judged and told, never rolled back by itself */
    int on_inconclusive, on_nodata, supersede;                  /* enums above */
    uint64_t nodata_timeout_us, step_timeout_us, pause_timeout_us, soak_us; /* 0: never (soak: none) */
    uint64_t error_limit;         /* failed judgements in a row, then PAUSED */
    struct experiment experiment; /* goal GOAL_NONE: it is a rollout */
};
/* The settings of a policy in weir.yaml (`rollouts: {NAME: {…}}`), but for `steps`, which policy_steps reads. Fills a
 * struct rollout_policy that policy_default has begun; its defaults are the automatic policy's. */
extern const struct setting policy_settings[];
extern const size_t n_policy_settings;
/* "1%,5%,25%,50%": ascending, above 0 and below 100 %. ERR_INVALID says what is wrong. */
enum err_code policy_steps(struct rollout_policy *p, struct str text, struct err *e) MUST_USE;
/* Automatic, with the defaults and the steps 1, 5, 10, 25, 50 %. */
void policy_default(struct rollout_policy *p, const char *name);
/* One step at this share (0 … 10000), not automatic, no soak, no timeouts; else the defaults. */
void policy_manual(struct rollout_policy *p, uint32_t share_bp);
/* One step at this share (1 … 5000), not automatic, no warm-up, no timeouts, not superseded; with experiment_default:
 * its goal is still to be set. */
void policy_experiment(struct rollout_policy *p, uint32_t share_bp);
static inline bool policy_tests(const struct rollout_policy *p) /* it is an experiment's */
{
    return p->experiment.goal != GOAL_NONE;
}
void policy_rule(const struct rollout_policy *p, struct judge_rule *out);
/* As JSON with every field under its setting's name; and back (ERR_STORAGE: it was not written by policy_json). What a
 * release before feedback was judged has written lacks its three fields: they are the defaults then. */
void policy_json(struct buf *out, const struct rollout_policy *p);
enum err_code policy_read(struct rollout_policy *p, struct str json, struct err *e) MUST_USE;

enum rollout_phase { PHASE_WARMUP, PHASE_BAKE, PHASE_PAUSED, PHASE_SOAK, PHASE_ENDED };
extern const char *const rollout_phase_names[]; /* "warmup", "bake", "paused", "soak", "ended", NULL */
enum pause_reason {
    PAUSE_NONE,
    PAUSE_PERSON,
    PAUSE_RATIO,        /* the sample ratio is broken */
    PAUSE_STABLE_SICK,  /* the stable breaks its own limits */
    PAUSE_NODATA,       /* no answers for nodata_timeout */
    PAUSE_ERRORS,       /* error_limit judgements in a row failed */
    PAUSE_INCONCLUSIVE, /* at the end of a bake, with on_inconclusive: hold */
    PAUSE_STEP_TIMEOUT, /* the step took longer than step_timeout */
};
extern const char *const pause_reason_names[]; /* "", "person", "ratio", "stable_sick", "nodata", "errors", …, NULL */
enum experiment_outcome {                      /* how an experiment ended */
                          OUTCOME_NONE,
                          OUTCOME_SHIPPED,
                          OUTCOME_KEPT,    /* a person stopped it */
                          OUTCOME_HARM,    /* a guardrail or the breaker did */
                          OUTCOME_INVALID, /* stopped or expired, and users were not split as ordered */
                          OUTCOME_EXPIRED,
};
extern const char *const experiment_outcome_names[]; /* "", "shipped", "kept", "harm", "invalid", "expired", NULL */

/* What survives a restart. */
struct rollout_progress {
    int phase;
    uint32_t step, share_bp;
    int pause;          /* enum pause_reason */
    int paused_in;      /* the phase to go back to */
    uint64_t spent_us;  /* in this phase (in PAUSED: of the pause) */
    uint64_t kept_us;   /* PAUSED: what the phase it goes back to had spent */
    uint64_t step_us;   /* since the step began, pauses not counted */
    uint64_t silent_us; /* since the candidate's last answer */
    uint64_t answered;  /* by the candidate when the bake began (warm-up: so far) */
    uint64_t seen;      /* answers of the candidate at the last tick */
    uint64_t failures;  /* failed judgements in a row */
    uint32_t waived;    /* bits 1 << pause_reason: a person went on in spite of it, until its cause is gone */
    bool told;          /* dry run: the harm was told in this step */
    bool invalid;       /* an experiment: its sample ratio is, or was, broken */
    int outcome;        /* an experiment: enum experiment_outcome */
};
void rollout_begin(const struct rollout_policy *p, struct rollout_progress *out);
void rollout_progress_json(struct buf *out, const struct rollout_progress *s);
enum err_code rollout_progress_read(struct rollout_progress *s, struct str json, struct err *e) MUST_USE;

enum rollout_event_kind {
    EVENT_TICK,  /* elapsed_us passed; judgement is of now */
    EVENT_PAUSE, /* by a person, as the following */
    EVENT_RESUME,
    EVENT_SKIP,    /* to the next step now, after the last: to the soak */
    EVENT_SET,     /* share_bp, 0 … 10000 or ERR_INVALID; a rollout that was automatic is manual from then on */
    EVENT_PROMOTE, /* to the soak now */
    EVENT_SHIP,    /* an experiment: the same, on judgement and finding; or forced */
};
struct rollout_event {
    enum rollout_event_kind kind;
    uint64_t elapsed_us;
    const struct judgement *judgement;        /* EVENT_TICK, EVENT_SHIP */
    uint32_t share_bp;                        /* EVENT_SET */
    const struct experiment_finding *finding; /* EVENT_SHIP; EVENT_TICK of an experiment; else NULL */
    bool force;                               /* EVENT_SHIP: whatever the finding is, unless it is hidden */
};
enum rollout_act {
    ACT_NONE,      /* next differs in times and counts only */
    ACT_KEEP,      /* the phase changed, the share did not: PAUSED, BAKE, resumed */
    ACT_SHARE,     /* the candidate's share changes */
    ACT_PROMOTE,   /* the candidate becomes the stable version; SOAK, or ended where there is no soak */
    ACT_COMPLETE,  /* the soak is over */
    ACT_ROLL_BACK, /* harm */
    ACT_ABORT,     /* on_nodata: abort, pause_timeout; an experiment's time is over */
};
struct rollout_step {
    enum rollout_act act;
    struct rollout_progress next;
    bool manual;    /* the policy is not automatic from now on */
    char text[400]; /* one sentence: what happened and why; ACT_NONE: "", or what is worth a line in the history */
};
/* ERR_CONFLICT: a person's event that makes no sense now (resume of what is not paused, skip in the soak, a share of an
 * experiment, to ship it without a reason); text says so. A FAIL rolls back from every phase, PAUSED too, unless
 * dry_run, or the stable is sick and only the comparison failed (then PAUSED). */
enum err_code rollout_next(const struct rollout_policy *p, const struct rollout_progress *s,
                           const struct rollout_event *ev, struct rollout_step *out, struct err *e) MUST_USE;

/* What it waits for, for a person: "5 more minutes and 40 more requests, then 25 %"; "paused by a person; weir rollout
 * resume NAME goes on". j NULL: it was not judged yet. */
void rollout_waits_for(const struct rollout_policy *p, const struct rollout_progress *s, const struct judgement *j,
                       const char *model, char *text, size_t cap);
/* Until the next transition at the earliest, 0: now or by a person only. */
uint64_t rollout_earliest_us(const struct rollout_policy *p, const struct rollout_progress *s);

#endif
