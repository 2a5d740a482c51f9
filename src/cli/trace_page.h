/* SPDX-License-Identifier: Apache-2.0 */
/* The spans of a request, of all servers that were asked, joined by their parents and drawn as a waterfall.
 *
 * A server's clock says when its spans began, but two machines' clocks do not agree: a span of another server is put
 * into the middle of the time that its parent waited for that server, so what the network took is half before it and
 * half behind it.
 *
 * Thread: any; nothing here has state. The documents are the caller's and stay valid as long as the traces. */
#ifndef WEIR_CLI_TRACE_PAGE_H
#define WEIR_CLI_TRACE_PAGE_H

#include <yyjson.h>

#include "base/buf.h"

#define TRACE_DEPTH_MAX 16

struct trace_span {
    yyjson_val *span, *server;       /* as in GET /admin/traces */
    const char *trace, *id, *parent; /* parent NULL: it has none */
    int above;                       /* index of the span that asked for it; -1: none is known */
    int depth;
    double offset_ms; /* from the begin of the trace's first span */
    bool placed;      /* private */
};
struct trace_set {
    struct trace_span *list; /* trace by trace, the newest first; within one in the order to be drawn */
    size_t n;
};

/* docs: answers of GET /admin/traces; those that are none are passed over. */
void trace_set_make(struct trace_set *out, yyjson_val *const *docs, size_t n);
void trace_set_done(struct trace_set *s);
/* The end of the trace that begins at `from`. */
size_t trace_end_at(const struct trace_set *s, size_t from);

/* Draws the trace in [from, to): the waterfall, each hop with its version and why, what took the most, what failed. */
void trace_show(struct buf *out, const struct trace_set *s, size_t from, size_t to, bool colour, bool utf8);
/* The same as JSON: {"trace", "request_id", "total_ms", "slow", "failed", "spans": [{"server", "depth", "offset_ms",
 * "span": SPAN}]}; failed is null if nothing did. */
void trace_json(struct buf *out, const struct trace_set *s, size_t from, size_t to);
/* What took the most of the time, in a sentence. */
void trace_say_slow(struct buf *out, const struct trace_set *s, size_t from, size_t to);
/* Which hop failed, and how; false: none did, and nothing is said. */
bool trace_say_failed(struct buf *out, const struct trace_set *s, size_t from, size_t to);

#endif
