/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the rollout's machine share: policies, places where a rollout stands, judgements, and a rollout
 * that is taken along event by event. */
#ifndef WEIR_TESTS_ROLLOUT_CASE_H
#define WEIR_TESTS_ROLLOUT_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/clock.h"
#include "control/rollout.h"

#define MINUTES(n) SECONDS(60 * (uint64_t)(n))
#define HOURS(n) MINUTES(60 * (uint64_t)(n))
#define HARM "errors are 5.4 times those of the stable version"

enum { SICK = 1, RATIO = 2, BY_LIMIT = 4 }; /* what a judgement says beside its verdict */

static inline void judged(struct judgement *j, enum verdict v, uint64_t answered, unsigned flags)
{
    *j = (struct judgement){.verdict = v, .stable_sick = flags & SICK, .ratio_broken = flags & RATIO};
    j->answered[JUDGE_STABLE] = 20 * answered;
    j->answered[JUDGE_CANARY] = answered;
    j->finding[METRIC_ERRORS].verdict = v;
    j->finding[METRIC_ERRORS].by_limit = v == VERDICT_FAIL && flags & BY_LIMIT;
    snprintf(j->text, sizeof(j->text), "%s", v == VERDICT_FAIL ? HARM : v == VERDICT_ERROR ? "counts disagree" : "");
}

#define PASS VERDICT_PASS
#define FAIL VERDICT_FAIL
#define UNCLEAR VERDICT_INCONCLUSIVE
#define NODATA VERDICT_NODATA
#define BROKEN VERDICT_ERROR

enum { PLAIN, HOLD, ABORTS, DRY, MANUAL, NO_SOAK, IMPATIENT, PATIENT };

static inline void policy_for(struct rollout_policy *p, int kind)
{
    policy_default(p, "default");
    p->on_inconclusive = kind == HOLD ? UNCLEAR_HOLD : UNCLEAR_ADVANCE;
    p->on_nodata = kind == ABORTS ? SILENCE_ABORT : SILENCE_HOLD;
    p->dry_run = kind == DRY;
    p->pause_timeout_us = kind == IMPATIENT ? HOURS(2) : 0;
    if (kind == NO_SOAK) {
        p->soak_us = 0;
    }
    if (kind == PATIENT) {
        p->nodata_timeout_us = p->step_timeout_us = 0;
    }
    if (kind == MANUAL) {
        policy_manual(p, 500);
    }
}

/* Places: step 2 of 5 at 5 %, 1,000 answers so far. */
#define IN_STEP .step = 1, .share_bp = 500, .seen = 1000
#define WARMING(spent) {IN_STEP, .phase = PHASE_WARMUP, .spent_us = (spent), .step_us = (spent), .answered = 1000}
#define BAKING(spent, got) \
    {IN_STEP, .phase = PHASE_BAKE, .spent_us = (spent), .step_us = (spent) + SECONDS(30), .answered = 1000 - (got)}
#define LAST_BAKING \
    {.step = 4, .share_bp = 5000, .seen = 1000, .phase = PHASE_BAKE, .spent_us = MINUTES(10), .answered = 760}
#define PAUSED(why)           \
    {IN_STEP,                 \
     .phase = PHASE_PAUSED,   \
     .pause = (why),          \
     .paused_in = PHASE_BAKE, \
     .spent_us = MINUTES(60), \
     .kept_us = MINUTES(4),   \
     .step_us = MINUTES(5),   \
     .answered = 950,         \
     .silent_us = HOURS(24),  \
     .failures = (why) == PAUSE_ERRORS ? 4 : 0}
#define SOAKING(spent) \
    {.step = 4, .share_bp = 10000, .phase = PHASE_SOAK, .spent_us = (spent), .seen = 1000, .answered = 1000}
#define ENDED                 \
    {                         \
        .step = 1,            \
        .share_bp = 500,      \
        .phase = PHASE_ENDED, \
        .seen = 1000,         \
    }

struct story {
    struct rollout_policy p;
    struct rollout_progress s;
    struct judgement j;
    struct rollout_step got;
};

static inline enum rollout_act ticks(struct story *t, uint64_t elapsed, enum verdict v, uint64_t answered,
                                     unsigned flags)
{
    struct rollout_event ev = {.kind = EVENT_TICK, .elapsed_us = elapsed, .judgement = &t->j};

    judged(&t->j, v, answered, flags);
    assert_int_equal(rollout_next(&t->p, &t->s, &ev, &t->got, NULL), ERR_OK);
    t->s = t->got.next;
    return t->got.act;
}

static inline enum rollout_act does(struct story *t, enum rollout_event_kind kind)
{
    struct rollout_event ev = {.kind = kind};

    assert_int_equal(rollout_next(&t->p, &t->s, &ev, &t->got, NULL), ERR_OK);
    t->s = t->got.next;
    return t->got.act;
}

static inline void begins(struct story *t, int policy)
{
    policy_for(&t->p, policy);
    rollout_begin(&t->p, &t->s);
}

static inline bool same(const struct rollout_progress *a, const struct rollout_progress *b)
{
    return a->phase == b->phase && a->step == b->step && a->share_bp == b->share_bp && a->pause == b->pause &&
           a->paused_in == b->paused_in && a->spent_us == b->spent_us && a->kept_us == b->kept_us &&
           a->step_us == b->step_us && a->silent_us == b->silent_us && a->answered == b->answered &&
           a->seen == b->seen && a->failures == b->failures && a->waived == b->waived && a->told == b->told;
}

#endif
