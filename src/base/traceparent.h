/* SPDX-License-Identifier: Apache-2.0 */
/* W3C Trace Context (levels 1 and 2): the headers traceparent and tracestate, read and written.
 *
 *     traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
 *                  version, trace id, id of the sender's span, flags
 *
 * A header that does not follow the rules is as if it were not there: a new trace is begun. Of a higher version than 00
 * what version 00 knows is taken, and version 00 is what is passed on.
 *
 * Thread: any; nothing here has state but the random numbers, which are the thread's. */
#ifndef WEIR_BASE_TRACEPARENT_H
#define WEIR_BASE_TRACEPARENT_H

#include "base/base.h"

#define TRACEPARENT_LEN 55
#define TRACESTATE_MAX 512     /* characters that are passed on */
#define TRACESTATE_MEMBERS 32u /* list members */

enum { TRACE_SAMPLED = 1, TRACE_RANDOM = 2 }; /* flags; all others are 0 */
struct trace_context {
    uint8_t trace[16]; /* never all zero, */
    uint8_t span[8];   /* nor this */
    uint8_t flags;
};

/* False: malformed; *out is untouched. */
bool traceparent_read(struct trace_context *out, struct str s);
void traceparent_write(char out[TRACEPARENT_LEN + 1], const struct trace_context *c);
/* A trace of its own, with a first span. */
void trace_new(struct trace_context *out);
void trace_new_span(struct trace_context *c); /* another span in the same trace */

/* The values of all tracestate headers of a request, in order, as one: its members unchanged, without the blanks
 * between them. What is longer than TRACESTATE_MAX loses whole members, first those of more than 128 characters, then
 * from the end, which is the oldest. Returns the length; 0: there is none, or it is malformed and not passed on. */
size_t tracestate_join(char out[TRACESTATE_MAX + 1], const struct str *values, size_t n);

#endif
