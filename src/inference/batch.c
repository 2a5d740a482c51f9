/* SPDX-License-Identifier: Apache-2.0 */
/* Which jobs may run together: the rules of batch.h, over blocks that were checked when they were made.
 *
 * Inputs are compared by the model's port and not by their place in the block, because clients name their inputs in any
 * order. A job whose row count is 0 (inputs that disagree on it, a scalar, an empty batch) runs alone: there is nothing
 * along which to join it. */
#include "inference/batch.h"

#include "inference/engine.h"

static const struct tensor *tensor_of_port(const struct job_block *b, uint16_t port, uint32_t guess)
{
    if (b->in[guess].port == port) {
        return &b->in[guess];
    }
    for (uint32_t i = 0; i < b->n_in; i++) {
        if (b->in[i].port == port) {
            return &b->in[i];
        }
    }
    return NULL;
}

bool batch_joins(const struct batch_job *a, const struct batch_job *b)
{
    const struct job_block *x = a->block, *y = b->block;

    if (((a->flags | b->flags) & JOB_SOLO) || x->rows == 0 || y->rows == 0 || x->n_in != y->n_in ||
        x->n_out != y->n_out || memcmp(job_block_want(x), job_block_want(y), x->n_out * sizeof(uint16_t)) != 0) {
        return false;
    }
    for (uint32_t i = 0; i < x->n_in; i++) {
        const struct tensor *s = &x->in[i], *t = tensor_of_port(y, s->port, i);
        if (!t || s->dtype != t->dtype || s->rank != t->rank || s->rank == 0 ||
            memcmp(&s->dim[1], &t->dim[1], (s->rank - 1u) * sizeof s->dim[0]) != 0) {
            return false;
        }
    }
    return true;
}

size_t batch_next(struct batch_job *jobs, size_t n, bool joins, uint64_t max, uint32_t *pick, uint64_t *rows)
{
    size_t first = 0, count = 0;
    uint64_t sum;

    while (first < n && jobs[first].taken) {
        first++;
    }
    if (first == n) {
        return 0;
    }
    jobs[first].taken = true;
    pick[count++] = (uint32_t)first;
    sum = jobs[first].block->rows;
    if (joins && sum > 0 && !(jobs[first].flags & JOB_SOLO)) {
        for (size_t i = first + 1; i < n && sum < max; i++) {
            if (!jobs[i].taken && jobs[i].block->rows <= max - sum && batch_joins(&jobs[first], &jobs[i])) {
                jobs[i].taken = true;
                pick[count++] = (uint32_t)i;
                sum += jobs[i].block->rows;
            }
        }
    }
    *rows = sum;
    return count;
}
