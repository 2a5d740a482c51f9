/* SPDX-License-Identifier: Apache-2.0 */
/* The ONNX header, walked before the runtime sees the file: is it a ModelProto at all, and where does it say that its
 * weights are?
 *
 * A model file is hostile input. Its tensors may name any path as the place of their data, and the runtime would open
 * it; so every name must be that of a regular file in the model's own folder, with the bytes it speaks of inside it.
 *
 * Thread: any; no state. Time is linear in the size of the file; nothing is allocated. */
#ifndef WEIR_BACKENDS_ONNX_HEADER_H
#define WEIR_BACKENDS_ONNX_HEADER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define ONNX_DEPTH_MAX 64         /* messages within messages; protobuf itself stops at 100 */
#define ONNX_EXTERNAL_MAX 100000u /* tensors with data outside */

struct onnx_header {
    int64_t ir_version;
    uint32_t nodes;    /* of all graphs, subgraphs and functions */
    uint32_t external; /* tensors whose data is in another file */
};

/* p: n bytes of the model; dirfd: its folder. ERR_REFUSED says what is wrong and where; *out untouched then. */
enum err_code onnx_header_check(struct onnx_header *out, const uint8_t *p, size_t n, int dirfd, struct err *e) MUST_USE;

#endif
