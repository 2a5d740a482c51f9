/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of answered requests, run by a version that nobody sees, and what its answers differ in (control/shadow.h).
 *
 * When the stable version's answer is with its connection, the request's block, which is still in the stable's input
 * window, is copied into the shadow version's window on the same thread, and the answer into memory of this thread's
 * pool. The copy is admitted there as sheddable work with the model's timeout from that moment on. When it is done, the
 * two answers are compared, and everything of it is given back. The request itself is over by then: nothing here delays
 * or fails it, and a client that has left makes no difference.
 *
 * Bounds: SHADOW_COPIES copies and SHADOW_BYTES of answers a thread; the version's own admission. What has no room is
 * dropped, and counted by reason.
 *
 * Of an output at most DIFF_ELEMENTS numbers or SHADOW_TEXTS texts are compared, of the predicted classes
 * SHADOW_ROWS. Whole numbers beyond 2^53 are compared as the nearest double.
 *
 * Thread: all by the plane's own. */
#ifndef WEIR_API_SHADOW_H
#define WEIR_API_SHADOW_H

#include "api/data.h"

#define SHADOW_COPIES 16
#define SHADOW_BYTES (32u << 20)
#define SHADOW_TEXTS 4096u
#define SHADOW_ROWS 64u

struct shadow_pool *shadow_pool_new(void);
/* No thread runs any more, and no copy is under way. NULL is fine. */
void shadow_pool_free(struct shadow_pool *p);

/* A request that the stable version has answered well; all of it is the caller's. */
struct shadow_offer {
    struct plane *plane;
    struct str model, id;
    int64_t version;     /* that answered */
    struct sched *sched; /* of it */
    uint64_t block, block_bytes;
    const struct predictor *predictor; /* of it */
    const struct job_result *job;
    uint64_t compute_ns; /* of its run, as infer_result has it */
};
/* Copies it, if the model has a shadow that wants it. */
void shadow_offer(const struct shadow_offer *o);
/* The truth about an answered request (its join_key) has come: the hash of its class as join_put has it, or, with label
 * 0, whether the stable's class was right. Counted if the shadow has answered it too. */
void shadow_feedback(struct plane *p, struct str model, uint64_t key, uint64_t label, bool correct);

#endif
