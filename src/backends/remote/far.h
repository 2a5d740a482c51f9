/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs as Open Inference Protocol requests, and what comes back as tensors. Pure over bytes: no socket is known here.
 *
 * A request's tensors are sent as they lie in the input window (binary tensor extension, described by a JSON head), and
 * outputs are asked for in the same form; a server that answers with JSON arrays all the same is understood.
 *
 * What comes back is hostile: names, dtypes, shapes, lengths and the structure of BYTES are checked by the same rules
 * as what a worker writes, and the bytes are copied to aligned places in the port's output space.
 *
 * Thread: any, one at a time a buffer. */
#ifndef WEIR_BACKENDS_REMOTE_FAR_H
#define WEIR_BACKENDS_REMOTE_FAR_H

#include <sys/uio.h>

#include "base/buf.h"
#include "client/http_client.h"
#include "inference/engine.h"
#include "inference/tensor.h"

/* Which model of the far side. Names that need no escaping in a path (name_ok). */
struct far {
    const char *authority; /* for Host */
    const char *model;
    const char *version; /* "": none is named */
};

/* The path of a model, "/v2/models/NAME[/versions/V]" and tail behind it. */
void far_path(struct buf *out, const struct far *far, const char *tail);

/* What the other server is told of a job's request and its trace, as header lines; "" for nobody's. */
#define FAR_ORIGIN 800
void far_origin(char out[FAR_ORIGIN], const struct job_origin *o);

/* The request for a job: line, headers and the JSON head go to `head` (cleared first); iov[0] is that, the others are
 * the tensors' bytes in the window. Room for n_in + 1. origin: of far_origin. left_us: until the deadline; 0: none.
 * Returns the number of pieces; 0: no memory. */
size_t far_request(struct buf *head, struct iovec *iov, const struct far *far, const struct model_info *info,
                   const struct job_block *block, const uint8_t *window, const char *origin, uint64_t left_us);

/* The outputs of a reply with status 200, in the order in which the block wants them (of all, if it names none): room
 * for info->n_out. They lie in space. ERR_MODEL: the reply is no such answer, and why. */
enum err_code far_outputs(const struct http_answer *a, const struct model_info *info, const struct job_block *block,
                          uint8_t *space, uint64_t size, struct tensor *out, uint32_t *n_out, struct err *e) MUST_USE;

/* Any other reply as an error of ours: by the header X-Weir-Error where the other side is a Weir, else by its status.
 * What is between that server and us (its 401, 404, …) is ERR_UNAVAILABLE, not the client's fault. who: for the text.
 */
enum err_code far_error(const struct http_answer *a, const char *who, struct err *e);
/* The seconds of Retry-After; 0: there is none. */
unsigned far_retry_after(const struct http_answer *a);

/* A model's metadata document. ERR_REFUSED: it is none, or has what no model of ours may have. *out is filled on
 * success alone (model_info_done). */
enum err_code far_metadata(struct model_info *out, struct str json, struct err *e) MUST_USE;

#endif
