/* SPDX-License-Identifier: Apache-2.0 */
/* Spans: what one request met in this server, kept in bounded memory for who asks later (GET /admin/traces).
 *
 * A span is kept if its request failed, was slow, was to be traced, or falls into the sample; for each reason there is
 * a ring of its own, so that the many of one kind do not push the few of another out. A ring has SPANS_KEPT places, the
 * newest overwrites the oldest. A thread's rings take less than 2.5 MiB, which are not touched before they are used.
 *
 * Thread: the one that the spans are of. */
#ifndef WEIR_API_SPANS_H
#define WEIR_API_SPANS_H

#include "base/traceparent.h"
#include "control/router.h"

#define SPANS_KEPT 512u
#define REQUEST_ID_MAX 128

enum span_kept {
    SPAN_ERROR,   /* a failure that is not the client's, or one that was mended: an instance died with it */
    SPAN_REFUSED, /* the client's: malformed, no such model, it left */
    SPAN_SLOW,    /* slower than trace_slow, or than the p99 of what it was counted in */
    SPAN_ASKED,   /* its traceparent says sampled, or it came with X-Weir-Trace: 1 */
    SPAN_CHANCE, /* trace_sample of the rest, by the trace's id: servers that trace the same share keep the same ones */
    SPAN_LANES
};
extern const char *const span_kept_names[]; /* "error", "refused", "slow", "asked", "chance" */

enum span_key {
    SPAN_KEY_USER,
    SPAN_KEY_ID,
    SPAN_KEY_MADE
}; /* the key that chose: the user's, the id that came, made */

/* Nanoseconds from the request's first byte to each of these; 0: it did not come to that. */
enum span_stage {
    SPAN_HEADERS,   /* its headers are read */
    SPAN_BODY,      /* its body is there */
    SPAN_SUBMITTED, /* it is queued */
    SPAN_GIVEN,     /* an instance, or another server, got it */
    SPAN_DONE,      /* it came back from there */
    SPAN_WRITTEN,   /* the kernel has taken of the reply what it would */
    SPAN_STAGES
};
extern const char *const span_stage_names[]; /* "headers", "body", "submitted", "given", "done", "written" */

struct span {
    struct trace_context own;
    uint8_t parent[8]; /* all zero: nobody's, the trace begins here */
    enum span_kept kept;
    enum err_code code;
    uint64_t seq;      /* of its thread */
    uint64_t start_us; /* clock_us() */
    int64_t wall_us;   /* the same since 1970 */
    uint64_t total_ns;
    uint64_t stage_ns[SPAN_STAGES];
    uint64_t wait_ns, compute_ns, stalled_ns; /* in the engine: before its run, in its run, of that without processor */
    uint64_t body_bytes;
    uint32_t joined, deaths;
    /* which version, and why */
    int64_t version, moved_from; /* 0: none; the version that was taken out of service with it */
    enum pick_why why;
    enum arm arm;
    enum span_key key;
    bool rollout;
    bool fixed; /* an experiment was running: arms of fixed ranges */
    uint32_t bucket, share_bp;
    char salt[40]; /* the rollout's id, where the bucket decided */
    /* where */
    int instance, pid; /* -1, 0: none */
    const char *place; /* static; NULL: it came to none */
    char peer[128];    /* the other server that was asked; "": none */
    char model[NAME_MAX_LEN + 1], id[REQUEST_ID_MAX + 1];
    char text[256]; /* of the error */
};

struct spans;
struct spans *spans_new(void);    /* NULL: no memory; then nothing is kept and nothing is found */
void spans_free(struct spans *s); /* NULL is fine */
/* A place for a span, zeroed but for kept and seq; the caller fills it. */
struct span *spans_put(struct spans *s, enum span_kept kept);

struct span_filter {
    struct str id;      /* of a request; or 32 hexadecimal digits: of a trace too; p == NULL: any */
    struct str model;   /* p == NULL: any */
    unsigned lanes;     /* a bit for each enum span_kept; 0: all */
    enum err_code code; /* ERR_COUNT_: any */
    uint64_t slower_ns; /* total_ns is at least this */
};
/* Copies those that fit, the newest first, at most max; returns how many. */
size_t spans_find(const struct spans *s, const struct span_filter *f, struct span *out, size_t max);

#endif
