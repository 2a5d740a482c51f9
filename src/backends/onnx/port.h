/* SPDX-License-Identifier: Apache-2.0 */
/* A port of the engine: jobs wait in it until flush(), which runs them in as few batches as fit and gives each its
 * done().
 *
 * Thread: the port's own, for all calls. It uses one frame, and the model's `known` flags, which are atomic. */
#ifndef WEIR_BACKENDS_ONNX_PORT_H
#define WEIR_BACKENDS_ONNX_PORT_H

#include "backends/onnx/session.h"
#include "inference/engine.h"

#define ONNX_OPEN_MAX 1024u /* jobs of a port that are submitted and not done */

struct onnx_port_from {
    struct engine *engine;
    struct onnx_model *model;
    OrtSession *session;
    const struct window *in;
    void (*freed)(struct engine *g); /* called when the port is really gone */
};
enum err_code onnx_port_new(struct port **out, const struct onnx_port_from *from, const struct port_host *host,
                            struct err *e) MUST_USE;
void onnx_port_free(struct port *p); /* also from inside its last done(): then it goes when the flush ends */
enum err_code onnx_port_submit(struct port *p, const struct job *j, struct err *e) MUST_USE;
void onnx_port_flush(struct port *p);
void onnx_port_cancel(struct port *p, uint64_t id);

#endif
