/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions, and the frame in which one thread runs one: names and values of a run, and scratch memory for joined runs.
 *
 * A model is what all sessions of a version share: its description, and what the warm-up learned of it.
 *
 * Thread: a session may run in several frames at once; a frame belongs to one thread. */
#ifndef WEIR_BACKENDS_ONNX_SESSION_H
#define WEIR_BACKENDS_ONNX_SESSION_H

#include <stdatomic.h>

#include "backends/onnx/device.h"
#include "backends/onnx/value.h"

struct onnx_model {
    const struct onnx_runtime *rt;
    struct model_info info;
    /* Output i has the shape that the description says, with the job's rows for a free dimension 0 (which has the same
     * symbol as an input's): its memory can be found before the run. Taken back when a run proves otherwise. */
    _Atomic bool *known;
    bool elsewhere; /* on a GPU: a run's thread has nothing to do meanwhile */
};

struct onnx_source {
    const uint8_t *p; /* the model's bytes */
    size_t n;
    const char *folder; /* where its external data is; NULL if it has none */
    unsigned threads;
    bool small;
    struct device device;
    uint64_t device_memory; /* most bytes of the session's arena on the GPU; 0: no limit */
};

/* On a GPU: all nodes run there; a model for which the runtime wants some on the processor (it does for arithmetic on
 * shapes) is taken with a line in the log that counts them. ERR_UNAVAILABLE: no such GPU. ERR_REFUSED: no node of the
 * model would run on it, or where they run can not be seen. */
enum err_code onnx_session_new(OrtSession **out, const struct onnx_runtime *rt, const struct onnx_source *from,
                               struct err *e) MUST_USE;
void onnx_session_free(const struct onnx_runtime *rt, OrtSession *s);

/* Reads names, dtypes and shapes. ERR_REFUSED for what no tensor protocol can carry. */
enum err_code onnx_model_describe(struct onnx_model *m, OrtSession *s, struct err *e) MUST_USE;
void onnx_model_done(struct onnx_model *m);

struct onnx_scratch {
    uint8_t *p;
    size_t n;
};
/* At least n bytes, aligned to 64; NULL without memory. What was in it is gone. */
uint8_t *onnx_scratch_room(struct onnx_scratch *s, uint64_t n);

struct onnx_frame {
    struct onnx_model *model;
    OrtSession *session;
    OrtRunOptions *options;
    const char **in_name, **out_name;
    OrtValue **in, **out; /* of the run being made; NULL when none is */
    uint32_t n_in, n_out;
    struct onnx_scratch in_mem, out_mem;
};
enum err_code onnx_frame_init(struct onnx_frame *f, struct onnx_model *m, OrtSession *s, struct err *e) MUST_USE;
void onnx_frame_done(struct onnx_frame *f);
/* Names the next input (its value is then the caller's to put into *slot) or the next wanted output. */
OrtValue **onnx_frame_in(struct onnx_frame *f, uint32_t port);
OrtValue **onnx_frame_out(struct onnx_frame *f, uint32_t port);
/* Runs what was named. Outputs whose value was NULL are made by the runtime. */
OrtStatus *onnx_frame_run(struct onnx_frame *f);
/* Releases all values; the frame is empty. */
void onnx_frame_clear(struct onnx_frame *f);

#endif
