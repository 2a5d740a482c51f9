/* SPDX-License-Identifier: Apache-2.0 */
/* What the goal of an experiment is told: rewards and right or wrong from feedback, an output's numbers when a request
 * is answered. The experiment is looked up in the router's snapshot each time: a request, and its feedback, may come
 * when it has ended.
 *
 * The numbers of an output may lie in memory that a faulty worker still writes to: each is read once. */
#include <math.h>

#include "api/data.h"
#include "api/number.h"

#define NUMBERS_MAX 65536u /* of an output that are looked at */

void goal_value(struct plane *p, const struct route *t, unsigned arm, enum goal_kind kind, uint64_t key, double value)
{
    if (t->goal && t->goal_kind == kind) {
        goal_add(t->goal, p->shard->index, arm, key, value);
    }
}

/* ---- an output's numbers ---- */

/* NaN for an output without numbers. */
static double mean_of(const struct tensor *t, const uint8_t *p)
{
    uint32_t size = dtype_size((enum dtype)t->dtype);
    uint64_t n = size > 0 ? MIN(t->len / size, (uint64_t)NUMBERS_MAX) : 0;
    double sum = 0;

    for (uint64_t i = 0; i < n; i++) {
        sum += number_at(p, t->dtype, i);
    }
    return n > 0 ? sum / (double)n : NAN;
}

void goal_output(struct plane *p, struct str model, const struct series *series, uint64_t key,
                 const struct model_info *info, const struct job_result *job)
{
    const struct route *t = router_find(p->router, model);

    if (!t || (series != t->stable_series && series != t->canary_series)) {
        return;
    }
    for (uint32_t i = 0; i < job->n_out; i++) {
        const struct tensor *out = &job->out[i];

        if (out->port < info->n_out && strcmp(info->out[out->port].name, t->goal_output) == 0) {
            goal_value(p, t, series == t->canary_series ? JUDGE_CANARY : JUDGE_STABLE, GOAL_OUTPUT, key,
                       mean_of(out, job->base + out->off));
            return;
        }
    }
}
