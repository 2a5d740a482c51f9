/* SPDX-License-Identifier: Apache-2.0 */
/* One inference request, from its headers to its reply.
 *
 *     headers   which model, which key: which version; may it come in at all (before a byte of the body is read)
 *     body      JSON into a pooled buffer; at the border of a binary request the block is made, and the tensors go
 * straight into it complete  the rest of the parse; submit done      the reply, the counters, the memory for feedback
 *
 * The assignment key is the user header, else the request's id; the id may stand in the JSON, so the choice made on
 * the headers is made again when the JSON is read and says otherwise.
 *
 * A version that goes away while it has the request gives it back (moved): it is then given to the version that serves
 * now. */
#include <stdio.h>
#include <stdlib.h>

#include "api/capture.h"
#include "api/data.h"
#include "api/oip.h"
#include "api/outputs.h"
#include "api/shadow.h"
#include "base/clock.h"
#include "base/conf.h"
#include "base/hash.h"
#include "base/log.h"

struct infer_state {
    struct infer infer;
    struct request *r;
    struct oip_request oip;
    struct str model, key, id;
    bool has_user;             /* the key is a user's, not a request id */
    bool id_given;             /* by a header: it stands whatever the JSON says */
    bool id_made;              /* nobody gave one */
    int64_t named;             /* version in the path; 0: none */
    uint64_t json_bytes, tail; /* of the body: UINT64_MAX while not known */
    /* the choice */
    struct sched *sched; /* admitted there; NULL: not admitted */
    struct series *series;
    int64_t version;
    enum arm arm;
    bool rollout, counted, submitted, parsed;
    bool measured; /* an output of it is an experiment's goal */
    struct predictor predictor;
    const struct capture_rule *capture;
    struct arrivals *arrivals; /* of the model, once it has been counted there */
    uint64_t admitted;         /* bytes */
    uint64_t wait_us;          /* as predicted when it was refused; 0: not known */
    uint64_t asked_us;         /* timeout that the headers ask for; 0: none */
    enum job_class class;
    bool class_given; /* by a header: it stands whatever the JSON says */
    uint64_t block, block_bytes;
    uint64_t timeout_us;
    struct parked *parked;          /* it waits for its version to be loaded; NULL: it does not */
    struct tally_mark mark;         /* for the judge; tally NULL: it takes no part */
    const struct model_info *sound; /* what its outputs are held against: the stable version's; NULL: nothing */
    bool invalid;                   /* its answer is not */
    bool shadowed;                  /* its model has a shadow */
    bool spoiled; /* its canary died with it and another version answered: an error of the canary all the same */
    struct trace trace;
};

static unsigned shard_of(const struct infer_state *s)
{
    return s->r->plane->shard->index;
}

static const struct data_facts *facts_of(const struct request *r)
{
    return r->plane->facts;
}

enum err_code version_arg(const struct request *r, int64_t *out, struct err *e)
{
    uint64_t v;

    *out = 0;
    if (!r->arg[1].p) {
        return ERR_OK;
    }
    if (!str_u64(r->arg[1], &v) || v == 0 || v > INT64_MAX) {
        return err_set(e, ERR_NOT_FOUND, "version '" STR_FMT "' is not a number from 1 on", STR_ARG(r->arg[1]));
    }
    *out = (int64_t)v;
    return ERR_OK;
}

/* ---- counting ---- */

static uint64_t elapsed_ns(const struct infer_state *s)
{
    uint64_t now = clock_us();

    return now > s->r->x->t_start ? (now - s->r->x->t_start) * 1000 : 1000;
}

/* The client's own errors, and a client that left, tell nothing about the version. Without a run it is not slow. */
static void judge_end(struct infer_state *s, enum err_code code, uint64_t compute_ns)
{
    bool error = series_is_error(code);

    if (!s->mark.tally) {
        return;
    }
    if (code == ERR_OK || error) {
        tally_end(&s->mark, shard_of(s), (error ? TALLY_ERROR : 0u) | (s->invalid ? TALLY_INVALID : 0u),
                  s->mark.start_us + compute_ns / 1000);
    } else {
        tally_drop(&s->mark, shard_of(s));
    }
}

static void count_end(struct infer_state *s, enum err_code code, uint64_t queue_ns, uint64_t compute_ns)
{
    uint64_t latency_ns = elapsed_ns(s);
    bool bad;

    if (!s->counted) {
        return;
    }
    s->counted = false;
    code = s->spoiled && code == ERR_OK ? ERR_UNAVAILABLE : code;
    bad = series_is_error(code);
    series_end(s->series, shard_of(s), code, latency_ns, queue_ns, compute_ns);
    trace_counted(&s->trace, &facts_of(s->r)->trace, s->series, shard_of(s), latency_ns);
    judge_end(s, code, compute_ns);
    bad |= s->invalid;
    if (log_wants(LOG_DEBUG)) { /* the raw events behind the counters */
        log_debug("api",
                  "answered model=" STR_FMT " version=%lld arm=%s id=\"" STR_FMT
                  "\" code=%s latency_ns=%llu queue_ns=%llu compute_ns=%llu",
                  STR_ARG(s->model), (long long)s->version, arm_names[s->arm], STR_ARG(s->id), err_name(code),
                  (unsigned long long)latency_ns, (unsigned long long)queue_ns, (unsigned long long)compute_ns);
    }
    if (s->rollout && s->arm == ARM_CANARY && (bad || code == ERR_OK)) {
        control_canary_outcome(s->r->plane->control, s->series, bad);
    }
    series_unref(s->series, shard_of(s));
}

static void trace_over(struct infer_state *s, const struct err *e, const struct infer_result *res)
{
    const struct trace_end end = {.x = s->r->x,
                                  .model = s->model,
                                  .id = s->id,
                                  .version = s->version,
                                  .arm = s->arm,
                                  .key = s->has_user  ? SPAN_KEY_USER
                                         : s->id_made ? SPAN_KEY_MADE
                                                      : SPAN_KEY_ID,
                                  .rollout = s->rollout,
                                  .err = e,
                                  .res = res};

    trace_close(&s->trace, facts_of(s->r)->spans, &end);
}

static void identify(struct infer_state *s)
{
    struct http_ex *x = s->r->x;

    http_reply_header(x, "traceparent", (struct str){s->trace.text, TRACEPARENT_LEN});
    if (s->id.n > 0) {
        http_reply_header(x, "X-Request-Id", s->id);
    }
    if (s->version > 0) {
        char v[24];
        int n = snprintf(v, sizeof(v), "%lld", (long long)s->version);
        http_reply_header(x, "X-Weir-Version", (struct str){v, (size_t)n});
    }
    if (s->rollout) {
        http_reply_header(x, "X-Weir-Arm", str_of(arm_names[s->arm]));
    }
}

/* res: NULL when it came to no run. */
static void refuse_after(struct infer_state *s, const struct err *e, const struct infer_result *res)
{
    struct http_ex *x = s->r->x;
    struct buf *b;

    if (x->replied) {
        return;
    }
    count_end(s, e->code, 0, 0);
    http_reply_begin(x, err_http(e->code), "application/json");
    identify(s);
    http_reply_header(x, "X-Weir-Error", str_of(err_name(e->code))); /* more than the status says */
    if (err_retryable(e->code)) {
        char n[24];
        uint64_t seconds = MIN(s->wait_us / SECONDS(1) + 1, 60u); /* when what is ahead of it now will be done */

        http_reply_header(x, "Retry-After",
                          (struct str){n, (size_t)snprintf(n, sizeof(n), "%llu", (unsigned long long)seconds)});
    }
    b = http_reply_body(x);
    BUF_LIT(b, "{\"error\":");
    json_strz(b, e->text);
    BUF_LIT(b, "}");
    http_reply_end(x);
    trace_over(s, e, res);
}

static void refuse(struct infer_state *s, const struct err *e)
{
    refuse_after(s, e, NULL);
}

/* ---- the choice ---- */

static void let_go(struct infer_state *s)
{
    if (s->block != WINDOW_NONE && !s->submitted) {
        sched_give(s->sched, s->block);
    }
    s->block = WINDOW_NONE;
    if (s->sched) {
        sched_release(s->sched, s->class, s->admitted);
        s->sched = NULL;
    }
}

/* When it must be answered: what it asks for, at most what the family allows. */
static uint64_t deadline_of(const struct infer_state *s)
{
    uint64_t asked = s->asked_us;

    if (s->oip.timeout_us > 0) {
        asked = asked > 0 ? MIN(asked, s->oip.timeout_us) : s->oip.timeout_us;
    }
    return s->r->x->t_start + (asked > 0 ? MIN(asked, s->timeout_us) : s->timeout_us);
}

static enum err_code admit(struct infer_state *s, struct sched *to, uint64_t bytes, struct err *e)
{
    struct admission_ask ask = {.bytes = bytes, .deadline_us = deadline_of(s), .class = s->class};

    return sched_admit(to, &ask, &s->wait_us, e);
}

/* A hash of the user's key; 0: there is none. */
static uint64_t user_of(const struct infer_state *s)
{
    return s->has_user ? hash64(s->key.p, s->key.n) | 1 : 0;
}

/* Who takes part in a rollout is counted by the judge from here on, whatever happens to it. */
static void judge_begin(struct infer_state *s, const struct pick *p)
{
    const struct route *t = p->route;
    unsigned arm = s->arm == ARM_CANARY || t->soaking ? JUDGE_CANARY : JUDGE_STABLE;

    s->sound = NULL;
    if (!t->tally || s->arm == ARM_DIRECT) {
        return;
    }
    s->sound = t->versions[t->stable].info;
    tally_begin(t->tally, shard_of(s), &s->mark, t->stratum, arm, user_of(s), s->r->x->t_start);
    judge_watch(s->r->plane);
}

/* Takes the picked version: admitted there, counted there. What was chosen before is let go. */
static enum err_code choose(struct infer_state *s, const struct pick *p, uint64_t bytes, struct err *e)
{
    struct sched *next = s->r->plane->shard->sched[p->version->slot];

    if (s->sched == next && s->series == p->series) {
        return ERR_OK;
    }
    if (s->counted) { /* the first guess does not count: nobody was assigned by it */
        s->counted = false;
        series_unbegin(s->series, shard_of(s));
        if (s->mark.tally) {
            tally_drop(&s->mark, shard_of(s));
        }
        series_unref(s->series, shard_of(s));
    }
    let_go(s);
    s->version = p->version->number;
    s->arm = p->arm;
    s->rollout = p->rollout;
    s->series = p->series;
    trace_picked(&s->trace, p);
    s->measured = p->route->goal_kind == GOAL_OUTPUT && p->arm != ARM_DIRECT;
    s->timeout_us = p->route->timeout_us;
    s->capture = p->route->capture;
    s->shadowed = p->route->shadow != NULL;
    s->predictor = (struct predictor){p->version->prediction, p->version->labels, p->version->n_labels};
    series_ref(s->series, shard_of(s));
    series_begin(s->series, shard_of(s));
    s->counted = true;
    judge_begin(s, p);
    if (!next) {
        return err_set(e, ERR_UNAVAILABLE, "version %lld of model '%s' is just going out of service; try again",
                       (long long)s->version, p->route->name);
    }
    if (admit(s, next, bytes, e) != ERR_OK) {
        return e->code;
    }
    s->sched = next;
    s->admitted = bytes;
    return ERR_OK;
}

static enum err_code no_body(struct err *e)
{
    return err_set(e, ERR_INVALID, "the request has no body; an inference request is a JSON object with \"inputs\"");
}

static enum err_code wait_for(struct infer_state *s, const struct pick *p, struct err *e);

/* It has come, whatever becomes of it. */
static void count_arrival(struct infer_state *s, const struct pick *p)
{
    if (!s->arrivals) {
        s->arrivals = p->route->arrivals;
        arrivals_add(s->arrivals, shard_of(s), s->r->x->t_start);
    }
}

/* Picks, and takes what was picked; or has the request wait for it (s->parked). */
static enum err_code pick_and_choose(struct infer_state *s, struct err *e)
{
    struct pick p;
    uint64_t bytes = s->r->x->length >= 0 ? (uint64_t)s->r->x->length : s->r->body.n; /* chunked: see on_body */

    if (router_pick(s->r->plane->router, s->model, s->named, s->key, &p, e) != ERR_OK) {
        if (p.cold && s->sched) {
            return ERR_OK; /* it is just being sent out of memory: what is in may finish there */
        }
        if (!p.cold) {
            return e->code;
        }
        count_arrival(s, &p);
        return wait_for(s, &p, e);
    }
    count_arrival(s, &p);
    return choose(s, &p, bytes, e);
}

/* ---- a version that is not in memory: the body is held up until it is ---- */

static void begin(struct infer_state *s);

static void on_parked(void *ctx, const struct err *why)
{
    struct infer_state *s = ctx;
    struct err e = *why;

    s->parked = NULL;
    if (e.code != ERR_OK || pick_and_choose(s, &e) != ERR_OK) {
        refuse(s, &e);
    } else if (!s->parked) {
        begin(s);
        http_body_resume(s->r->x);
    }
}

static enum err_code wait_for(struct infer_state *s, const struct pick *p, struct err *e)
{
    s->timeout_us = p->route->timeout_us;
    if (s->r->x->length == 0) {
        return no_body(e);
    }
    if (park(&s->parked, s->r, p, deadline_of(s), on_parked, s, e) != ERR_OK) {
        return e->code;
    }
    http_body_pause(s->r->x);
    return ERR_OK;
}

/* ---- headers ---- */

static bool printable(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < 0x20 || (unsigned char)s.p[i] == 0x7f) {
            return false;
        }
    }
    return true;
}

static enum err_code read_identity(struct infer_state *s, struct err *e)
{
    struct http_ex *x = s->r->x;
    struct str user = http_header(x, facts_of(s->r)->user_header), id = http_header(x, "x-request-id");

    if (id.p && (id.n == 0 || id.n > REQUEST_ID_MAX || !printable(id))) {
        return err_set(e, ERR_INVALID, "X-Request-Id has 1 to %d printable characters", REQUEST_ID_MAX);
    }
    if (id.p) {
        s->id = id;
        s->id_given = true;
    } else {
        char *made = arena_alloc(x->arena, 17);
        uint64_t n = random_u64();

        if (!made) {
            return err_set(e, ERR_UNAVAILABLE, "no memory for the request");
        }
        hex_encode(made, (const uint8_t *)&n, sizeof(n));
        s->id = (struct str){made, 16};
        s->id_made = true;
    }
    s->has_user = user.n > 0;
    s->key = s->has_user ? user : s->id;
    return ERR_OK;
}

/* Until when, and how important: known before the body, so that what can not be done in time is refused now. */
static enum err_code read_urgency(struct infer_state *s, struct err *e)
{
    struct str timeout = http_header(s->r->x, "x-weir-timeout"), class = http_header(s->r->x, "x-weir-priority");

    s->class = CLASS_DEFAULT;
    if (timeout.p && (!parse_duration(timeout, &s->asked_us) || s->asked_us == 0)) {
        return err_set(e, ERR_INVALID, "X-Weir-Timeout is a time like 250ms or 2s, not '" STR_FMT "'",
                       (int)MIN(timeout.n, (size_t)64), timeout.p);
    }
    if (!class.p) {
        return ERR_OK;
    }
    for (int c = 0; c < CLASS_COUNT; c++) {
        if (str_is(class, job_class_names[c])) {
            s->class = (enum job_class)c;
            s->class_given = true;
            return ERR_OK;
        }
    }
    return err_set(e, ERR_INVALID, "X-Weir-Priority is critical, default or sheddable, not '" STR_FMT "'",
                   (int)MIN(class.n, (size_t)64), class.p);
}

static enum err_code read_lengths(struct infer_state *s, struct err *e)
{
    struct http_ex *x = s->r->x;
    struct str h = http_header(x, "inference-header-content-length");
    uint64_t n;

    s->json_bytes = UINT64_MAX;
    if (http_header(x, "content-encoding").n > 0 && !str_is(http_header(x, "content-encoding"), "identity")) {
        return err_set(e, ERR_UNIMPLEMENTED, "compressed bodies (Content-Encoding) are not part of this server yet");
    }
    if (!h.p) {
        return ERR_OK;
    }
    if (http_header_count(x, "inference-header-content-length") != 1 || !str_u64(h, &n)) {
        return err_set(e, ERR_INVALID,
                       "Inference-Header-Content-Length is sent once and is a decimal number, not '" STR_FMT "'",
                       (int)MIN(h.n, (size_t)64), h.p);
    }
    if (x->length < 0) {
        return err_set(e, ERR_LENGTH, "a request with binary tensors needs a Content-Length");
    }
    if (n > (uint64_t)x->length) {
        return err_set(e, ERR_INVALID, "Inference-Header-Content-Length is %llu, but the body has only %lld bytes",
                       (unsigned long long)n, (long long)x->length);
    }
    s->json_bytes = n;
    s->tail = (uint64_t)x->length - n;
    return ERR_OK;
}

static enum err_code start_raw(struct infer_state *s, struct err *e);

/* The version is chosen: what can be done before the body comes. */
static void begin(struct infer_state *s)
{
    struct http_ex *x = s->r->x;
    struct err e;

    if (x->length == 0) {
        no_body(&e);
        refuse(s, &e);
    } else if (s->json_bytes == 0) {
        if (start_raw(s, &e) != ERR_OK) {
            refuse(s, &e);
        }
    } else if (s->json_bytes != UINT64_MAX && s->tail > 0) {
        http_body_until(x, s->json_bytes);
    }
}

/* In the inference role the gateway has decided. */
static enum err_code check_role(const struct infer_state *s, struct err *e)
{
    return facts_of(s->r)->inference_admin > 0 && s->named == 0
               ? err_set(e, ERR_CONFLICT,
                         "this server is in the inference role and does not route: name the version, "
                         "/v2/models/" STR_FMT "/versions/N/infer",
                         STR_ARG(s->model))
               : ERR_OK;
}

static void on_headers(struct request *r)
{
    struct http_ex *x = r->x;
    struct infer_state *s = arena_zalloc(x->arena, sizeof(*s));
    struct err e;

    if (!s) {
        err_set(&e, ERR_UNAVAILABLE, "no memory for the request");
        reply_err(r, &e);
        return;
    }
    r->state = s;
    s->r = r;
    s->block = WINDOW_NONE;
    s->model = r->arg[0];
    trace_open(&s->trace, x, &facts_of(r)->trace);
    if (version_arg(r, &s->named, &e) != ERR_OK || check_role(s, &e) != ERR_OK || read_identity(s, &e) != ERR_OK ||
        read_urgency(s, &e) != ERR_OK || read_lengths(s, &e) != ERR_OK || pick_and_choose(s, &e) != ERR_OK) {
        refuse(s, &e);
    } else if (!s->parked) {
        begin(s);
    }
}

/* ---- the JSON part, the block ---- */

static enum err_code make_block(struct infer_state *s, struct err *e)
{
    const struct model_info *info = sched_info(s->sched);
    struct job_block *b;

    if (oip_check(&s->oip, s->r->x->arena, info, e) != ERR_OK) {
        return e->code;
    }
    s->block_bytes = s->oip.block_bytes;
    s->block = sched_take(s->sched, s->block_bytes);
    if (s->block == WINDOW_NONE) {
        return err_set(e, ERR_UNAVAILABLE, "the input window of '" STR_FMT "' is full: %llu bytes do not fit now",
                       STR_ARG(s->model), (unsigned long long)s->block_bytes);
    }
    b = (void *)sched_at(s->sched, s->block);
    return oip_fill(&s->oip, info, b, s->block, e);
}

/* The binary tensors' bytes go straight to their places. */
static enum err_code direct_body(struct infer_state *s, struct err *e)
{
    size_t n = s->oip.n_in;
    struct iovec *to = arena_alloc(s->r->x->arena, MAX(n, (size_t)1) * sizeof(*to));

    if (!to) {
        return err_set(e, ERR_UNAVAILABLE, "no memory for the request");
    }
    n = oip_binary(&s->oip, (void *)sched_at(s->sched, s->block), s->block, to, n);
    if (n > 0) {
        http_body_direct(s->r->x, to, n);
    }
    return ERR_OK;
}

static enum err_code start_raw(struct infer_state *s, struct err *e)
{
    if (oip_read_raw(&s->oip, s->r->x->arena, s->tail, e) != ERR_OK || make_block(s, e) != ERR_OK) {
        return e->code;
    }
    s->parsed = true;
    return direct_body(s, e);
}

/* The JSON says a priority that the headers did not: it is admitted again, as what it is. 1 is the highest; what comes
 * after 2 may be shed. */
static enum err_code reclass(struct infer_state *s, struct err *e)
{
    enum job_class class = s->oip.priority == 1   ? CLASS_CRITICAL
                           : s->oip.priority == 2 ? CLASS_DEFAULT
                                                  : CLASS_SHEDDABLE;
    struct sched *sched = s->sched;

    if (class == s->class) {
        return ERR_OK;
    }
    let_go(s);
    s->class = class;
    if (admit(s, sched, s->admitted, e) != ERR_OK) {
        return e->code;
    }
    s->sched = sched;
    return ERR_OK;
}

static enum err_code parse(struct infer_state *s, struct err *e)
{
    struct str json = {s->r->body.p, s->r->body.n};

    if (oip_read(&s->oip, s->r->x->arena, json, s->tail, e) != ERR_OK) {
        return e->code;
    }
    s->parsed = true;
    if (s->oip.priority > 0 && !s->class_given && reclass(s, e) != ERR_OK) {
        return e->code;
    }
    if (s->oip.id.n > 0 && !s->id_given) {
        if (s->oip.id.n > REQUEST_ID_MAX || !printable(s->oip.id)) {
            return err_set(e, ERR_INVALID, "id has 1 to %d printable characters", REQUEST_ID_MAX);
        }
        s->id = s->oip.id;
        s->id_made = false;
        if (!s->has_user) {
            s->key = s->id;
            if (pick_and_choose(s, e) != ERR_OK) {
                return e->code;
            }
        }
    }
    return make_block(s, e);
}

static void on_body(struct request *r, const char *p, size_t n)
{
    struct infer_state *s = r->state;
    struct err e;

    if (!s || r->x->replied) {
        return;
    }
    if (r->x->length < 0) {
        if (sched_grow(s->sched, s->class, n, &e) != ERR_OK) {
            refuse(s, &e);
            return;
        }
        s->admitted += n;
    }
    buf_add(&r->body, p, n);
    if (r->body.lack) {
        err_set(&e, ERR_UNAVAILABLE, "no memory for the body of the request");
        refuse(s, &e);
    } else if (r->body.over) {
        err_set(&e, ERR_TOO_LARGE, "the JSON part of the body is larger than %llu bytes",
                (unsigned long long)r->body.max);
        refuse(s, &e);
    } else if (!s->parsed && s->tail > 0 && r->body.n == s->json_bytes) {
        if (parse(s, &e) != ERR_OK || direct_body(s, &e) != ERR_OK) {
            refuse(s, &e);
        }
    }
}

/* ---- complete, done ---- */

static void on_done(struct infer *in, const struct infer_result *res);

static enum err_code submit(struct infer_state *s, struct err *e)
{
    s->infer.block = s->block;
    s->infer.class = s->class;
    s->trace.origin.id = s->id;
    s->infer.origin = &s->trace.origin;
    s->infer.done = on_done;
    if (sched_submit(s->sched, &s->infer, e) != ERR_OK) {
        return e->code;
    }
    s->submitted = true;
    return ERR_OK;
}

static void on_complete(struct request *r)
{
    struct infer_state *s = r->state;
    struct err e;

    if (!s || r->x->replied) {
        return;
    }
    if ((!s->parsed && parse(s, &e) != ERR_OK) ||
        (s->tail > 0 && oip_binary_check(&s->oip, (void *)sched_at(s->sched, s->block), s->block, &e) != ERR_OK)) {
        refuse(s, &e);
        return;
    }
    s->trace.body_us = loop_now(r->x->loop);
    s->infer.deadline_us = deadline_of(s);
    series_key(s->series, shard_of(s), s->has_user ? hash64(s->key.p, s->key.n) | 1 : 0);
    if (submit(s, &e) != ERR_OK) {
        refuse(s, &e);
    }
}

bool same_request(const struct model_info *a, const struct model_info *b, const struct job_block *block)
{
    bool same = a->n_in == b->n_in && a->n_out == b->n_out;

    for (uint32_t i = 0; same && i < block->n_in; i++) {
        const struct tensor *t = &block->in[i];
        const struct tensor_info *x = &a->in[t->port], *y = &b->in[t->port];

        same = strcmp(x->name, y->name) == 0 && x->dtype == y->dtype && tensor_fits(y, t->dim, t->rank);
    }
    for (uint32_t i = 0; same && i < a->n_out; i++) {
        same = strcmp(a->out[i].name, b->out[i].name) == 0 && a->out[i].dtype == b->out[i].dtype;
    }
    return same;
}

void block_copy(struct sched *to, uint64_t at, struct sched *from, uint64_t was, uint64_t bytes)
{
    struct job_block *block = (void *)sched_at(to, at);

    memcpy(block, sched_at(from, was), bytes);
    for (uint32_t i = 0; i < block->n_in; i++) {
        block->in[i].off = block->in[i].off - was + at;
    }
}

/* The version went away with the request in its queue. The bytes are copied to the version that serves now. */
static enum err_code move(struct infer_state *s, struct err *e)
{
    struct pick p;
    struct sched *to;
    const struct model_info *a = sched_info(s->sched), *b;
    uint64_t at, was = s->infer.block;

    if (router_pick(s->r->plane->router, s->model, s->named, s->key, &p, e) != ERR_OK) {
        return e->code;
    }
    to = s->r->plane->shard->sched[p.version->slot];
    if (!to || to == s->sched || s->named != 0) {
        return err_set(e, ERR_UNAVAILABLE, "version %lld of '" STR_FMT "' was taken out of service",
                       (long long)s->version, STR_ARG(s->model));
    }
    b = sched_info(to);
    if (!same_request(a, b, (void *)sched_at(s->sched, was)) || admit(s, to, s->admitted, e) != ERR_OK) {
        return err_set(e, ERR_UNAVAILABLE, "version %lld of '" STR_FMT "' was taken out of service",
                       (long long)s->version, STR_ARG(s->model));
    }
    at = sched_take(to, s->block_bytes);
    if (at == WINDOW_NONE) {
        sched_release(to, s->class, s->admitted);
        return err_set(e, ERR_UNAVAILABLE, "the input window of '" STR_FMT "' is full", STR_ARG(s->model));
    }
    block_copy(to, at, s->sched, was, s->block_bytes);
    sched_release(s->sched, s->class, s->admitted);
    s->spoiled = s->arm == ARM_CANARY;
    s->trace.moved_from = s->version;
    s->sched = to;
    s->version = p.version->number;
    s->predictor = (struct predictor){p.version->prediction, p.version->labels, p.version->n_labels};
    s->block = at;
    s->submitted = false;
    return submit(s, e);
}

static void remember(struct infer_state *s, const struct job_result *job)
{
    uint64_t rows = MIN(predicted_rows(&s->predictor, job), 64u);
    struct str first = {NULL, 0};
    char small[64], other[64];

    for (uint64_t i = 0; i < rows; i++) {
        struct str c = predicted_class(&s->predictor, job, i, i == 0 ? small : other);

        if (c.p) {
            series_class(s->series, shard_of(s), c);
        }
        first = i == 0 ? c : first;
    }
    join_put(facts_of(s->r)->join, &(struct join_answer){.model = s->model,
                                                         .id = s->id,
                                                         .predicted = rows == 1 ? first : (struct str){NULL, 0},
                                                         .series = s->series,
                                                         .version = s->version,
                                                         .arm = s->arm,
                                                         .user = user_of(s),
                                                         .mark = &s->mark});
}

/* It is answered as the model gave it; the judge counts it as invalid. The first ones are told in the log. */
static void check_outputs(struct infer_state *s, const struct job_result *job)
{
    const struct job_block *block = (void *)sched_at(s->sched, s->infer.block);
    char text[160];

    if (!s->mark.tally || !s->sound) {
        return;
    }
    if (outputs_invalid(sched_info(s->sched), s->sound, job, block->rows, text, sizeof(text))) {
        s->invalid = true;
        log_debug("api", "an invalid answer model=" STR_FMT " version=%lld id=\"" STR_FMT "\" what=\"%s\"",
                  STR_ARG(s->model), (long long)s->version, STR_ARG(s->id), text);
    }
}

/* For the payload log: the client has its answer, and the tensors are still there. */
static void capture(struct infer_state *s, const struct job_result *job)
{
    struct capture_answer a = {.rule = s->capture,
                               .model = s->model,
                               .id = s->id,
                               .user = s->has_user ? s->key : (struct str){NULL, 0},
                               .version = s->version,
                               .arm = s->arm,
                               .start_us = s->r->x->t_start,
                               .predictor = &s->predictor,
                               .info = sched_info(s->sched),
                               .block = (void *)sched_at(s->sched, s->infer.block),
                               .window = sched_at(s->sched, 0),
                               .job = job};

    capture_answer(facts_of(s->r)->capture, &a);
}

/* It was answered by the stable version, and its block is still in place. */
static void offer(struct infer_state *s, const struct infer_result *res)
{
    const struct shadow_offer o = {.plane = s->r->plane,
                                   .model = s->model,
                                   .id = s->id,
                                   .version = s->version,
                                   .sched = s->sched,
                                   .block = s->infer.block,
                                   .block_bytes = s->block_bytes,
                                   .predictor = &s->predictor,
                                   .job = res->job,
                                   .compute_ns = res->compute_ns};

    if (s->shadowed && s->arm == ARM_STABLE) {
        shadow_offer(&o);
    }
}

static void answer(struct infer_state *s, const struct infer_result *res)
{
    struct http_ex *x = s->r->x;
    struct oip_reply reply = {.model = s->model,
                              .version = s->version,
                              .id = s->oip.id,
                              .info = sched_info(s->sched),
                              .labels = (const char *const *)s->predictor.labels,
                              .n_labels = s->predictor.n_labels};
    uint64_t json_bytes;
    struct err e;

    http_reply_begin(x, 200, NULL);
    if (oip_write(http_reply_body(x), &s->oip, &reply, res->job, &json_bytes, &e) != ERR_OK) {
        refuse_after(s, &e, res);
        return;
    }
    http_reply_header(x, "Content-Type", json_bytes ? STR("application/octet-stream") : STR("application/json"));
    if (json_bytes) {
        char n[24];
        http_reply_header(x, "Inference-Header-Content-Length",
                          (struct str){n, (size_t)snprintf(n, sizeof(n), "%llu", (unsigned long long)json_bytes)});
    }
    identify(s);
    if (!s->spoiled) {
        remember(s, res->job);
    }
    if (s->measured && !s->spoiled) {
        goal_output(s->r->plane, s->model, s->series, hash64(s->key.p, s->key.n), sched_info(s->sched), res->job);
    }
    check_outputs(s, res->job);
    arrivals_ran(s->arrivals, shard_of(s), res->compute_ns, res->job->stalled_ns, res->job->joined);
    count_end(s, ERR_OK, res->queue_ns, res->compute_ns);
    http_reply_end(x);
    trace_over(s, &res->job->err, res);
    capture(s, res->job);
    offer(s, res);
}

static void on_done(struct infer *in, const struct infer_result *res)
{
    struct infer_state *s = CONTAINER_OF(in, struct infer_state, infer);
    struct err e = res->job->err;

    s->block = WINDOW_NONE; /* the scheduler's, and freed when we return */
    if (res->moved && move(s, &e) == ERR_OK) {
        return;
    }
    if (res->moved || res->job->err.code != ERR_OK) {
        refuse_after(s, &e, res);
    } else {
        answer(s, res);
    }
}

void infer_finished(struct request *r)
{
    struct infer_state *s = r->state;
    struct err left;

    if (!s) {
        return;
    }
    r->state = NULL;
    unpark(s->parked);
    if (s->submitted) {
        sched_cancel(&s->infer);
    }
    count_end(s, ERR_CANCELLED, 0, 0);
    if (!r->x->replied || r->x->gone) {
        err_set(&left, ERR_CANCELLED, "the client went away before it had its answer, or what it sent broke off");
        trace_over(s, &left, NULL);
    }
    let_go(s);
}

const struct api_stages infer_stages = {on_headers, on_body, on_complete};
