/* SPDX-License-Identifier: Apache-2.0 */
/* The warm-up: a few runs on made-up input, and what can be learned from them.
 *
 * Learned are how long a run takes, whether the outputs have the shapes that were announced, whether another session of
 * the model (of more threads) is quicker, and whether requests may be joined: every row must come out as if it had run
 * alone, and joining must save a tenth of the time or more.
 *
 * Thread: the loader's. */
#ifndef WEIR_BACKENDS_ONNX_WARM_H
#define WEIR_BACKENDS_ONNX_WARM_H

#include "backends/onnx/session.h"

struct onnx_warm {
    const char *name;          /* for notes in the log */
    uint64_t batch_max;        /* most rows that may be joined; 1: do not even look */
    const _Atomic bool *stop;  /* somebody wants it to end */
    bool arena;                /* the sessions have one */
    uint64_t free_dim;         /* what the variable dimensions behind the first were set to */
    bool works;                /* the made-up input was accepted */
    struct onnx_scratch *data; /* per input */
};

/* Fills warm_ns and known of the frame's model. A model that does not like made-up input is no failure; ERR_REFUSED
 * only for what no input can change. First of all calls. */
enum err_code onnx_warm_learn(struct onnx_warm *w, struct onnx_frame *f, struct err *e) MUST_USE;
/* The time of a run of one row in the frame's session and in another one of the model, in turn, so that a machine that
 * is busy for a while is busy for both: the least of each. False: one failed. */
bool onnx_warm_compare(struct onnx_warm *w, struct onnx_frame *f, OrtSession *other, uint64_t *its_ns,
                       uint64_t *other_ns);
/* Fills joins, batch_max, many_rows and many_ns, from the frame's session. ERR_CANCELLED alone. */
enum err_code onnx_warm_join(struct onnx_warm *w, struct onnx_frame *f, struct err *e) MUST_USE;
/* The first runs again: in another session of the model, or in the same after its memory was given back. */
void onnx_warm_repeat(struct onnx_warm *w, struct onnx_frame *f);
void onnx_warm_done(struct onnx_warm *w, const struct onnx_model *m);

#endif
