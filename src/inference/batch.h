/* SPDX-License-Identifier: Apache-2.0 */
/* Which jobs may run together: pure rules over their blocks.
 *
 * Two jobs join when every input has the same dtype and the same shape behind dimension 0, both ask for the same
 * outputs, and neither is JOB_SOLO. Rows are summed along dimension 0, up to `max` a run. Order is kept: a group is
 * made of the oldest waiting job and whatever fits to it, in the order of arrival.
 *
 * Thread: any; no state, no I/O. */
#ifndef WEIR_INFERENCE_BATCH_H
#define WEIR_INFERENCE_BATCH_H

#include "inference/tensor.h"

struct batch_job {
    const struct job_block *block;
    uint32_t flags;
    bool taken; /* already in a group */
};

bool batch_joins(const struct batch_job *a, const struct batch_job *b);
/* Takes the next group out of jobs[0..n): marks them taken, writes their indexes to pick (room for n), returns how many
 * (0: none left), *rows their sum. max: most rows (a single job above it still runs alone). joins: false makes every
 * group one job. */
size_t batch_next(struct batch_job *jobs, size_t n, bool joins, uint64_t max, uint32_t *pick, uint64_t *rows);

#endif
