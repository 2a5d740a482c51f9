/* SPDX-License-Identifier: Apache-2.0 */
/* A request's trace. What is not kept costs three lookups of headers, three random numbers. */
#include "api/trace.h"

#include "base/clock.h"
#include "base/hash.h"

#define STATES_MOST 8 /* headers named tracestate */

/* What comes of the trace's state goes on as it is. */
static struct str states(struct http_ex *x)
{
    struct str value[STATES_MOST];
    size_t n = 0;
    char *text;

    for (size_t i = 0; i < x->n_headers; i++) {
        if (str_is(x->headers[i].name, "tracestate")) {
            if (n == STATES_MOST) {
                return (struct str){NULL, 0};
            }
            value[n++] = x->headers[i].value;
        }
    }
    text = n > 0 ? arena_alloc(x->arena, TRACESTATE_MAX + 1) : NULL;
    return text ? (struct str){text, tracestate_join(text, value, n)} : (struct str){NULL, 0};
}

void trace_open(struct trace *t, struct http_ex *x, const struct trace_rule *rule)
{
    struct str sent = http_header(x, "traceparent"), wish = http_header(x, "x-weir-trace");

    t->headers_us = loop_now(x->loop);
    if (sent.p && http_header_count(x, "traceparent") == 1 && traceparent_read(&t->own, sent)) {
        memcpy(t->parent, t->own.span, sizeof(t->parent));
        t->origin.tracestate = states(x);
        trace_new_span(&t->own);
    } else {
        trace_new(&t->own);
    }
    t->asked = (t->own.flags & TRACE_SAMPLED) || str_is(wish, "1");
    t->told = sent.p || wish.p;
    t->own.flags |= t->asked ? TRACE_SAMPLED : 0;
    t->chance = murmur3_32(t->own.trace, sizeof(t->own.trace), 0) % 10000 < rule->sample_bp;
    traceparent_write(t->text, &t->own);
    t->origin.traceparent = t->text;
}

void trace_picked(struct trace *t, const struct pick *p)
{
    t->why = p->why;
    t->bucket = p->bucket;
    t->share_bp = p->route->share_bp;
    t->fixed = p->route->fixed;
    if (p->why == PICK_BUCKET || p->why == PICK_OUTSIDE) {
        memcpy(t->salt, p->route->salt, sizeof(t->salt));
    }
}

void trace_counted(struct trace *t, const struct trace_rule *rule, struct series *s, unsigned part, uint64_t latency_ns)
{
    t->latency_ns = latency_ns;
    t->slow = latency_ns > (rule->slow_us > 0 ? rule->slow_us * 1000 : series_slow_ns(s, part));
}

/* The lane to keep it in; SPAN_LANES: not at all. */
static enum span_kept lane_of(const struct trace *t, const struct trace_end *e)
{
    enum err_code code = e->err->code;

    if (series_is_error(code) || (e->res && e->res->deaths > 0) || t->moved_from > 0) {
        return SPAN_ERROR;
    }
    return code != ERR_OK ? SPAN_REFUSED
           : t->slow      ? SPAN_SLOW
           : t->asked     ? SPAN_ASKED
           : t->chance    ? SPAN_CHANCE
                          : SPAN_LANES;
}

/* Of a long text its beginning. */
static void put(char *to, size_t cap, struct str s)
{
    str_copy(to, cap, (struct str){s.p, MIN(s.n, cap - 1)});
}

/* 0 is for what it did not come to. */
static uint64_t since(uint64_t start_us, uint64_t ns)
{
    return ns == 0 ? 0 : ns > start_us * 1000 ? ns - start_us * 1000 : 1;
}

static void put_run(struct span *p, const struct infer_result *res)
{
    const struct job_result *job = res->job;

    p->stage_ns[SPAN_SUBMITTED] = since(p->start_us, res->submit_ns);
    p->stage_ns[SPAN_GIVEN] = since(p->start_us, res->given_ns);
    p->stage_ns[SPAN_DONE] = since(p->start_us, res->done_ns);
    p->wait_ns = job->wait_ns;
    p->compute_ns = job->compute_ns;
    p->stalled_ns = job->stalled_ns;
    p->joined = job->joined;
    p->deaths = res->deaths;
    p->instance = res->instance;
    p->pid = res->pid;
    p->place = res->place;
    put(p->peer, sizeof(p->peer), str_of(res->peer));
}

void trace_close(struct trace *t, struct spans *to, const struct trace_end *e)
{
    enum span_kept kept = t->closed ? SPAN_LANES : lane_of(t, e);
    uint64_t start = e->x->t_start, now;
    struct span *p;

    t->closed = true;
    if (kept == SPAN_LANES || !to) {
        return;
    }
    p = spans_put(to, kept);
    now = clock_ns();
    p->own = t->own;
    memcpy(p->parent, t->parent, sizeof(p->parent));
    p->code = e->err->code;
    p->start_us = start;
    p->wall_us = clock_wall_us() - (int64_t)(now / 1000 - start);
    p->stage_ns[SPAN_HEADERS] = since(start, t->headers_us * 1000);
    p->stage_ns[SPAN_BODY] = since(start, t->body_us * 1000);
    p->stage_ns[SPAN_WRITTEN] = p->total_ns = since(start, now);
    p->instance = -1;
    if (e->res) {
        put_run(p, e->res);
    }
    p->body_bytes = e->x->body_seen;
    p->version = e->version;
    p->moved_from = t->moved_from;
    p->why = t->why;
    p->arm = e->arm;
    p->key = e->key;
    p->rollout = e->rollout;
    p->bucket = t->bucket;
    p->share_bp = t->share_bp;
    p->fixed = t->fixed;
    memcpy(p->salt, t->salt, sizeof(p->salt));
    put(p->model, sizeof(p->model), e->model);
    put(p->id, sizeof(p->id), e->id);
    if (p->code != ERR_OK) {
        put(p->text, sizeof(p->text), str_of(e->err->text));
    }
}
