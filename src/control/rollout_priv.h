/* SPDX-License-Identifier: Apache-2.0 */
/* What the rollout's machine (rollout.c) and its words for what it waits for (rollout_wait.c) both ask. */
#ifndef WEIR_CONTROL_ROLLOUT_PRIV_H
#define WEIR_CONTROL_ROLLOUT_PRIV_H

#include "control/rollout.h"
#include "control/words.h"

static inline uint32_t steps_of(const struct rollout_policy *p)
{
    return p->automatic ? p->n_steps : 1;
}

static inline bool last_step(const struct rollout_policy *p, const struct rollout_progress *s)
{
    return s->step + 1 >= steps_of(p);
}

static inline uint64_t left(uint64_t limit, uint64_t spent)
{
    return limit > spent ? limit - spent : 0;
}

static inline uint64_t in_bake(const struct rollout_progress *s)
{
    return left(s->seen, s->answered);
}

/* A FAIL against a stable version that breaks its own limits, and no limit of the candidate's is broken. */
bool rollout_beside_sick(const struct judgement *j);

static inline const char *evidence(const struct judgement *j)
{
    return j->text[0] ? j->text : "the judge found harm";
}

static inline bool by_person_only(int pause)
{
    return pause == PAUSE_PERSON || pause == PAUSE_INCONCLUSIVE || pause == PAUSE_STEP_TIMEOUT;
}

#endif
