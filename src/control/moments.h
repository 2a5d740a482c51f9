/* SPDX-License-Identifier: Apache-2.0 */
/* The worst moments of a candidate: slow answers that a few seconds of a busy machine explain.
 *
 * Versions that are alike are not alike for a second: a neighbour takes the processor of one worker process, a disk
 * stalls, a page of a model comes back from swap. Within such a moment all answers of one version are slow together,
 * and counted as independent events they would convict it. So of the candidate's slow answers at a share the
 * MOMENTS_WORST worst moments count for no more than the worst one behind them does: what convicts it must have
 * happened again and again, or go on. Where it always does, next to nothing is left out. Only the candidate's count
 * becomes less by that, so no false alarm can come from it.
 *
 * A moment has as many slow answers as were counted in it, or as many as are slow and still open at its end, if these
 * are more: where the candidate hangs and nobody can ask again, every moment is as bad as the first.
 *
 * Pure; the control thread. */
#ifndef WEIR_CONTROL_MOMENTS_H
#define WEIR_CONTROL_MOMENTS_H

#include "base/clock.h"
#include "control/judge.h"

#define MOMENT_US SECONDS(2) /* the least that a moment lasts; it ends at a look */
#define MOMENTS_WORST 3
#define MOMENTS_KEPT (MOMENTS_WORST + 1)

struct moments {
    uint64_t began_us; /* the moment that is going on; 0: none yet */
    struct moments_stratum {
        uint32_t share_bp;
        uint64_t before[JUDGE_SLOW];              /* the candidate's slow answers when the moment began */
        uint64_t worst[JUDGE_SLOW][MOMENTS_KEPT]; /* slow answers of each; in no order */
    } stratum[JUDGE_STRATA];
};

/* Takes over what c counts as having been before the first moment (after a restart: worst[] is as it was stored). */
void moments_resume(struct moments *m, const struct judge_counts *c);
/* At every look at the counts: says in c->stratum[].moments how many of the candidate's slow answers are left out for
 * that. The moment that is going on is one of them. */
void moments_look(struct moments *m, struct judge_counts *c, uint64_t now_us);

#endif
