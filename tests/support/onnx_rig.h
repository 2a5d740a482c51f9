/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of the ONNX engine: opens one of the models that make_models.py made (or any folder), with a loop, a window
 * and one port on the test's own thread, and keeps what comes back.
 *
 * Thread: the test's. */
#ifndef WEIR_TESTS_SUPPORT_ONNX_RIG_H
#define WEIR_TESTS_SUPPORT_ONNX_RIG_H

#include "inference/engine.h"

#define RIG_DONE_MAX 4096
#define RIG_OUT_MAX 8

struct onnx_rig_result {
    uint64_t id;
    struct err err;
    uint32_t n_out, joined;
    uint64_t compute_ns, stalled_ns;
    struct tensor out[RIG_OUT_MAX];
    const uint8_t *base;
};
struct onnx_rig {
    struct loop *loop;
    struct window *in;
    struct engine *engine;
    struct port *port;
    struct model_info info; /* a copy */
    bool ready, gone;
    struct engine_end end;
    uint8_t *space; /* the outputs of all jobs since onnx_rig_clear */
    uint64_t space_size, space_used;
    struct onnx_rig_result *done;
    uint32_t n_done;
    uint64_t taken[RIG_DONE_MAX]; /* blocks */
    uint32_t n_taken;
    uint64_t next_id;
    void (*on_done)(struct onnx_rig *r, const struct onnx_rig_result *d); /* called from inside done(); may be NULL */
    void *ctx;
};

bool onnx_rig_sanitized(void); /* built with AddressSanitizer or ThreadSanitizer */
/* "build/models/mlp" for "mlp" */
const char *onnx_rig_model(const char *name);
/* Only opens; nothing has been heard of the engine yet. */
void onnx_rig_begin(struct onnx_rig *r, const char *folder, void (*more)(struct engine_spec *spec));
enum err_code onnx_rig_attach(struct onnx_rig *r, unsigned index, struct port **out, struct err *e);
/* Opens and waits until it is ready or gone. True: ready, and the port is attached. more: changes the spec before. */
bool onnx_rig_open(struct onnx_rig *r, const char *folder, void (*more)(struct engine_spec *spec));
void onnx_rig_wait(struct onnx_rig *r);  /* until ready or gone */
void onnx_rig_close(struct onnx_rig *r); /* from any state; waits for gone() and frees all */

struct onnx_rig_in {
    uint16_t port;
    enum dtype dtype;
    unsigned rank;
    int64_t dim[TENSOR_RANK_MAX];
    const void *p;
    uint64_t len;
};
/* Puts a block into the window; its offset. want: NULL for all outputs. */
uint64_t onnx_rig_block(struct onnx_rig *r, const struct onnx_rig_in *in, uint32_t n_in, const uint16_t *want,
                        uint32_t n_want);
/* Submits; the job's id, 0 if it was refused (then *e says why). */
uint64_t onnx_rig_submit(struct onnx_rig *r, uint64_t block, uint64_t deadline_us, uint32_t flags, struct err *e);
/* Block, submit and flush of one job; its result. */
const struct onnx_rig_result *onnx_rig_run(struct onnx_rig *r, const struct onnx_rig_in *in, uint32_t n_in);
const struct onnx_rig_result *onnx_rig_find(const struct onnx_rig *r, uint64_t id);
void onnx_rig_clear(struct onnx_rig *r); /* forgets results, blocks and outputs */
static inline const void *onnx_rig_data(const struct onnx_rig_result *d, uint32_t i)
{
    return d->base + d->out[i].off;
}

#endif
