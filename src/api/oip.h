/* SPDX-License-Identifier: Apache-2.0 */
/* The codec of the Open Inference Protocol v2 (REST): request bytes to a job's block, a job's result to reply bytes.
 *
 * In three steps, because the version is chosen by what the request says (its id may be the assignment key):
 *
 *     oip_read    the structure: names, dtypes, shapes, parameters, where each tensor's data stands in the text or
 * behind it oip_check   against the chosen version's inputs and outputs; how many bytes the block needs oip_fill    the
 * JSON data, scanned straight into the block; binary data goes there by the caller's hand (oip_binary)
 *
 * Errors name the tensor, what came and what was expected. Nothing is allocated but from the request's arena.
 *
 * Thread: any, one at a time a request. */
#ifndef WEIR_API_OIP_H
#define WEIR_API_OIP_H

#include <sys/uio.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/json.h"
#include "inference/engine.h"
#include "inference/tensor.h"

struct oip_input {
    struct str name; /* decoded */
    enum dtype dtype;
    uint8_t rank;
    int64_t dim[TENSOR_RANK_MAX];
    uint64_t elements;
    struct str data; /* the JSON value's text (an array), p == NULL if binary */
    uint64_t binary; /* binary_data_size */
    bool is_binary;
    uint16_t port;  /* set by oip_check */
    uint64_t bytes; /* of the tensor in the block; set by oip_check */
};
struct oip_output {
    struct str name;
    int8_t binary;    /* 1, 0; -1: not said */
    uint32_t classes; /* classification: N; 0: not asked */
    uint16_t port;
};
struct oip_request {
    struct str id;       /* decoded; n == 0: none */
    uint64_t timeout_us; /* parameters.timeout; 0: none */
    uint64_t priority;   /* parameters.priority: 1 is the highest; 0: none */
    bool binary_output;  /* parameters.binary_data_output */
    bool raw;            /* Inference-Header-Content-Length: 0 */
    struct oip_input *in;
    uint32_t n_in;
    struct oip_output *out; /* as requested; n_out == 0: all of the model's */
    uint32_t n_out;
    uint64_t binary_bytes; /* sum of the inputs' binary sizes */
    uint64_t block_bytes;  /* what the block needs; set by oip_check */
    uint64_t rows;         /* common dim 0, or 0; set by oip_check */
};

/* json: the body, or its JSON part; tail: how many bytes of binary data follow it. Strings and `data` point into json,
 * which stays valid until oip_fill is done. Unknown members are ignored as the protocol wants; sequence and shared
 * memory parameters give ERR_UNIMPLEMENTED; duplicates of a tensor's name ERR_INVALID. Limits: TENSORS_MAX,
 * TENSOR_RANK_MAX, JSON_DEPTH_MAX, id <= 256 bytes, binary sizes must add up to tail exactly. */
enum err_code oip_read(struct oip_request *r, struct arena *a, struct str json, uint64_t tail, struct err *e) MUST_USE;
/* The raw binary request: one input, all bytes are its data; shape from the model (at most one variable dimension;
 * BYTES: shape [1], one element without length prefix). */
enum err_code oip_read_raw(struct oip_request *r, struct arena *a, uint64_t bytes, struct err *e) MUST_USE;
/* Names, dtypes, shapes, counts, byte lengths against the model; fills port, bytes, block_bytes, rows; missing inputs
 * are named. For raw requests it makes the input from info. */
enum err_code oip_check(struct oip_request *r, struct arena *a, const struct model_info *info, struct err *e) MUST_USE;
/* Writes header, tensors and wants at `block` (inside the window at offset `off`, block_bytes long) and the JSON data
 * in place. Tensor starts are aligned to TENSOR_ALIGN within the window; off is a multiple of it. */
enum err_code oip_fill(const struct oip_request *r, const struct model_info *info, struct job_block *block,
                       uint64_t off, struct err *e) MUST_USE;
/* Where the binary inputs' bytes belong, in the order they come on the wire; returns how many (<= cap). After oip_fill.
 */
size_t oip_binary(const struct oip_request *r, struct job_block *block, uint64_t off, struct iovec *to, size_t cap);
/* After the binary bytes are in place: checks BYTES tensors' lengths and BOOL values' range; raw BYTES gets its prefix.
 */
enum err_code oip_binary_check(const struct oip_request *r, const struct job_block *block, uint64_t off,
                               struct err *e) MUST_USE;

/* What a reply needs beside the tensors. */
struct oip_reply {
    struct str model;
    int64_t version;
    struct str id;
    const struct model_info *info;
    const char *const *labels; /* of the model, for classification; NULL if none */
    size_t n_labels;
};
/* Appends the reply's body. *json_bytes: length of the JSON part if any tensor is binary (then
 * Inference-Header-Content-Length and application/octet-stream go out), else 0. The tensors are hostile memory of a
 * worker that may change while it is read: every length is read once and checked. ERR_MODEL names an output that is
 * broken. */
enum err_code oip_write(struct buf *out, const struct oip_request *r, const struct oip_reply *reply,
                        const struct job_result *res, uint64_t *json_bytes, struct err *e) MUST_USE;
/* Appends elements of a number type (not BYTES) as JSON, with commas between. */
void oip_numbers_json(struct buf *out, enum dtype t, const uint8_t *p, uint64_t elements);

/* Metadata documents. */
void oip_server_metadata(struct buf *out, const char *version);
void oip_model_metadata(struct buf *out, struct str model, const int64_t *versions, size_t n,
                        const struct model_info *info);

/* Half-precision, both directions, round to nearest even. */
float fp16_to_f32(uint16_t h);
uint16_t fp16_from_f32(float f);
float bf16_to_f32(uint16_t h);
uint16_t bf16_from_f32(float f);

#endif
