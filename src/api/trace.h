/* SPDX-License-Identifier: Apache-2.0 */
/* The trace of one inference request: whose it is, what was found out on its way, and whether its span is kept.
 *
 * traceparent and tracestate are read as base/traceparent.h says; without one the trace begins here. The request gets a
 * span of its own in it: that goes to another server that the request is handed to, and out with the reply
 * (traceparent) to a caller that sent either header: the others find it by the request's id, and pay nothing for it.
 * The caller asks for its span to be kept by the sampled flag, or by X-Weir-Trace: 1, which sets the flag for all who
 * are asked after us.
 *
 * Thread: the connection thread's. */
#ifndef WEIR_API_TRACE_H
#define WEIR_API_TRACE_H

#include "api/spans.h"
#include "inference/sched.h"
#include "net/http.h"

struct trace_rule {
    uint64_t slow_us;   /* what takes longer is slow; 0: than the p99 of what it is counted in */
    uint64_t sample_bp; /* share of the traces that are kept anyway, basis points */
};

struct trace {
    struct trace_context own;
    uint8_t parent[8];        /* all zero: none */
    bool asked, chance, told; /* told: the reply says it */
    char text[TRACEPARENT_LEN + 1];
    struct job_origin origin; /* its id is the owner's to set */
    /* filled as the request goes on */
    uint64_t headers_us, body_us; /* clock_us() */
    enum pick_why why;
    bool fixed; /* an experiment runs */
    uint32_t bucket, share_bp;
    char salt[40];
    int64_t moved_from;
    uint64_t latency_ns; /* 0: it was not counted */
    bool slow, closed;
};

/* With the request's headers. */
void trace_open(struct trace *t, struct http_ex *x, const struct trace_rule *rule);
/* A version was chosen, or another than before. */
void trace_picked(struct trace *t, const struct pick *p);
/* It is counted in this series, by this thread's part. */
void trace_counted(struct trace *t, const struct trace_rule *rule, struct series *s, unsigned part,
                   uint64_t latency_ns);

struct trace_end {
    const struct http_ex *x;
    struct str model, id;
    int64_t version;
    enum arm arm;
    enum span_key key;
    bool rollout;
    const struct err *err;          /* ERR_OK: answered */
    const struct infer_result *res; /* NULL: it came to no run */
};
/* It is over, its reply is written: the span is kept in *to, or not. Only the first call counts. */
void trace_close(struct trace *t, struct spans *to, const struct trace_end *e);

#endif
