/* SPDX-License-Identifier: Apache-2.0 */
/* Prepared runs: for a small model whose shapes follow from the number of rows alone, everything that a run needs is
 * made once for each number of rows (values over memory of its own, bound to their names) and used again.
 *
 * Copying a few hundred bytes in and out is cheaper than making values for them: for the tiny models this saves a tenth
 * of a run. Whatever is unusual (other outputs, other shapes, large tensors) goes the general way.
 *
 * Thread: the port's own. */
#ifndef WEIR_BACKENDS_ONNX_PREPARED_H
#define WEIR_BACKENDS_ONNX_PREPARED_H

#include "backends/onnx/session.h"

#define ONNX_PREPARED_ROWS 64

struct onnx_prepared {
    struct onnx_model *model;
    OrtSession *session;
    uint64_t rows_max;          /* 0: this model's runs are not prepared */
    uint8_t *memory;            /* of all inputs and outputs, rows_max rows each */
    uint64_t *in_off, *out_off; /* where each begins in it */
    uint64_t *in_row, *out_row; /* bytes a row */
    OrtIoBinding *run[ONNX_PREPARED_ROWS + 1];
};

/* Decides whether the model is of that kind; makes nothing yet. */
void onnx_prepared_init(struct onnx_prepared *q, struct onnx_model *m, OrtSession *s);
void onnx_prepared_done(struct onnx_prepared *q);

/* True if these inputs (in any order) are all of the model's, with its dtypes and shapes. */
bool onnx_prepared_fits(const struct onnx_prepared *q, const struct job_block *b);
/* Where the rows of an input are to be put, and those of an output are found after the run. */
static inline uint8_t *onnx_prepared_in(const struct onnx_prepared *q, uint32_t port, uint64_t row)
{
    return q->memory + q->in_off[port] + row * q->in_row[port];
}
/* Runs what was put there; false: it failed, run it the general way to hear why. */
bool onnx_prepared_run(struct onnx_prepared *q, const OrtRunOptions *options, uint64_t rows);
/* Describes the outputs of a run of that many rows; offsets count from q->memory. */
void onnx_prepared_outputs(const struct onnx_prepared *q, uint64_t rows, struct tensor *out);

#endif
