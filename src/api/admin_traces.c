/* SPDX-License-Identifier: Apache-2.0 */
/* GET /admin/traces/{id}: the spans of a request (its X-Request-Id) or of a trace (32 hexadecimal digits). 404: none is
 * kept here. An id that is no name of a path goes into the query of the other:
 * GET /admin/traces?id=&model=&kept=&code=&slower=&limit=: the newest spans that fit all that is said. kept: error,
 * refused, slow, asked, chance (spans.h); code: as in "code"; slower: a time like 20ms; limit: 50, at most 1000.
 *
 *     {"server": {"host", "data", "admin", "version", "pid"}, "spans": [SPAN…]}       the newest first
 *     SPAN: {"trace", "span", "parent": id or null, "request_id", "sampled", "kept",
 *            "at": RFC 3339, "start_us": since 1970, of this machine's clock,
 *            "model", "version", "arm", "rollout", "why": a sentence, "key": "user" | "request_id" | "made",
 *            "bucket", "share_bp": null where no bucket decided,
 *            "code": "ok" …, "status", "error", "failed_in": "request" | "admission" | "queue" | "run" | "peer" |
 *            "client", both null of an answer,
 *            "total_ms", "headers_ms", "body_ms", "submitted_ms", "given_ms", "done_ms", "written_ms": from the
 *            request's first byte, null where it did not come to that,
 *            "wait_ms", "compute_ms", "stalled_ms": in the engine,
 *            "body_bytes", "joined": requests in its run, "deaths": instances that ended with it, "moved_from",
 *            "place", "peer", "instance", "pid"}                                        null where there is none
 *
 * Each connection thread keeps its own; a task goes round all of them and copies what fits.
 *
 * Thread: control's loop, but visit(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "api/admin_priv.h"
#include "api/data.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/json.h"

#define LIMIT 50u
#define LIMIT_MAX 1000u

struct tour {
    struct ticket ticket;
    struct task task;
    struct loop *home;
    struct plane *const *planes;
    unsigned at, n_planes;
    struct span_filter filter;
    char id[REQUEST_ID_MAX + 1], model[NAME_MAX_LEN + 1];
    bool one; /* none found is an error */
    size_t n, limit;
    struct span found[]; /* twice the limit: what there is, and what a thread adds */
};

/* ---- JSON ---- */

static void put_ms(struct buf *b, const char *key, uint64_t ns)
{
    json_key(b, key);
    json_f64(b, round((double)ns / 1000) / 1000);
}

static void put_reached(struct buf *b, const char *key, uint64_t ns)
{
    if (ns > 0) {
        put_ms(b, key, ns);
    } else {
        json_put_raw(b, key, NULL);
    }
}

static void put_hex(struct buf *b, const char *key, const uint8_t *p, size_t n)
{
    char text[2 * sizeof(((struct trace_context *)0)->trace) + 1];

    hex_encode(text, p, n);
    json_put_text(b, key, text);
}

static bool by_bucket(const struct span *p)
{
    return p->version > 0 && (p->why == PICK_BUCKET || p->why == PICK_OUTSIDE);
}

static void put_why(struct buf *b, const struct span *p)
{
    static const char *const of[] = {"the user", "the request's id", "an id that the server made"};
    char text[400];
    int n = 0;

    json_key(b, "why");
    if (p->version == 0) {
        BUF_LIT(b, "null");
        return;
    }
    if (p->why == PICK_NAMED) {
        n = snprintf(text, sizeof(text), "the request names this version");
    } else if (p->why == PICK_STABLE) {
        n = snprintf(text, sizeof(text), "no candidate takes traffic: the stable version answers all");
    } else if (p->why == PICK_OUTSIDE) {
        n = snprintf(text, sizeof(text), "bucket %u of %s is in neither arm of experiment %s", p->bucket, of[p->key],
                     p->salt);
    } else if (p->fixed) {
        n = snprintf(text, sizeof(text), "bucket %u of %s is in this arm's range of experiment %s, %.4g %% each",
                     p->bucket, of[p->key], p->salt, p->share_bp / 100.0);
    } else {
        n = snprintf(text, sizeof(text), "bucket %u of 10000 of %s is %s the canary's share of %.4g %% in rollout %s",
                     p->bucket, of[p->key], p->arm == ARM_CANARY ? "below" : "not below", p->share_bp / 100.0, p->salt);
    }
    if (p->moved_from > 0) {
        snprintf(text + n, sizeof(text) - (size_t)n, "; version %lld had it and was taken out of service",
                 (long long)p->moved_from);
    }
    json_strz(b, text);
}

/* Where it failed; NULL: it did not. */
static const char *failed_in(const struct span *p)
{
    if (p->code == ERR_OK) {
        return NULL;
    }
    if (p->code == ERR_CANCELLED) {
        return "client";
    }
    if (p->peer[0]) {
        return "peer";
    }
    if (p->stage_ns[SPAN_GIVEN] > 0) {
        return "run";
    }
    if (p->stage_ns[SPAN_SUBMITTED] > 0) {
        return "queue";
    }
    return series_is_error(p->code) ? "admission" : "request";
}

static void put_choice(struct buf *b, const struct span *p)
{
    static const char *const keys[] = {"user", "request_id", "made"};

    json_put_text(b, "model", p->model);
    json_put_version(b, "version", p->version);
    json_put_text(b, "arm", p->version > 0 ? arm_names[p->arm] : NULL);
    json_put_text(b, "rollout", p->rollout && p->salt[0] ? p->salt : NULL);
    put_why(b, p);
    json_put_text(b, "key", keys[p->key]);
    if (by_bucket(p)) {
        json_put_count(b, "bucket", p->bucket);
        json_put_count(b, "share_bp", p->share_bp);
    } else {
        json_put_raw(b, "bucket", NULL);
        json_put_raw(b, "share_bp", NULL);
    }
}

static void put_times(struct buf *b, const struct span *p)
{
    char key[24];

    put_ms(b, "total_ms", p->total_ns);
    for (int i = 0; i < SPAN_STAGES; i++) {
        snprintf(key, sizeof(key), "%s_ms", span_stage_names[i]);
        put_reached(b, key, p->stage_ns[i]);
    }
    put_ms(b, "wait_ms", p->wait_ns);
    put_ms(b, "compute_ms", p->compute_ns);
    put_ms(b, "stalled_ms", p->stalled_ns);
}

static void put_place(struct buf *b, const struct span *p)
{
    json_put_text(b, "place", p->place);
    json_put_text(b, "peer", p->peer[0] ? p->peer : NULL);
    if (p->instance >= 0) {
        json_put_count(b, "instance", (uint64_t)p->instance);
    } else {
        json_put_raw(b, "instance", NULL);
    }
    json_put_version(b, "pid", p->pid);
}

static void put_span(struct buf *b, const struct span *p)
{
    static const uint8_t none[sizeof(p->parent)];

    json_comma(b);
    BUF_LIT(b, "{");
    put_hex(b, "trace", p->own.trace, sizeof(p->own.trace));
    put_hex(b, "span", p->own.span, sizeof(p->own.span));
    if (memcmp(p->parent, none, sizeof(none)) != 0) {
        put_hex(b, "parent", p->parent, sizeof(p->parent));
    } else {
        json_put_raw(b, "parent", NULL);
    }
    json_put_text(b, "request_id", p->id[0] ? p->id : NULL);
    json_put_raw(b, "sampled", p->own.flags & TRACE_SAMPLED ? "true" : "false");
    json_put_text(b, "kept", span_kept_names[p->kept]);
    json_key(b, "at");
    json_time(b, p->wall_us / 1000);
    json_put_count(b, "start_us", (uint64_t)p->wall_us);
    put_choice(b, p);
    json_put_text(b, "code", p->code == ERR_OK ? "ok" : err_name(p->code));
    json_put_count(b, "status", (uint64_t)err_http(p->code));
    json_put_text(b, "error", p->code == ERR_OK ? NULL : p->text);
    json_put_text(b, "failed_in", failed_in(p));
    put_times(b, p);
    json_put_count(b, "body_bytes", p->body_bytes);
    json_put_count(b, "joined", p->joined);
    json_put_count(b, "deaths", p->deaths);
    json_put_version(b, "moved_from", p->moved_from);
    put_place(b, p);
    BUF_LIT(b, "}");
}

static void put_server(struct buf *b, const struct admin_facts *f)
{
    json_key(b, "server");
    BUF_LIT(b, "{");
    json_put_text(b, "host", f->host);
    json_put_text(b, "data", f->data_url);
    json_put_text(b, "admin", f->admin_url);
    json_put_text(b, "version", WEIR_VERSION);
    json_put_count(b, "pid", (uint64_t)getpid());
    BUF_LIT(b, "}");
}

/* ---- round the threads ---- */

static void answer(struct request *r, const struct tour *tour)
{
    struct buf *b;
    struct err e;

    if (tour->one && tour->n == 0) {
        err_set(&e, ERR_NOT_FOUND,
                "no span of '%s' is kept here: kept are the newest requests that failed, were slow, asked for it "
                "(traceparent with the sampled flag, or X-Weir-Trace: 1), and a share of the rest (trace_sample)",
                tour->id);
        reply_err(r, &e);
        return;
    }
    b = json_reply(r, 200);
    BUF_LIT(b, "{");
    put_server(b, admin_facts(r));
    json_key(b, "spans");
    BUF_LIT(b, "[");
    for (size_t i = 0; i < tour->n; i++) {
        put_span(b, &tour->found[i]);
    }
    BUF_LIT(b, "]}");
    http_reply_end(r->x);
}

static void on_home(struct task *t)
{
    struct tour *tour = CONTAINER_OF(t, struct tour, task);
    struct request *r = ticket_close(&tour->ticket);

    if (r) {
        answer(r, tour);
    }
    free(tour);
}

static int newer_first(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    uint64_t x_us = x->start_us + x->total_ns / 1000, y_us = y->start_us + y->total_ns / 1000;

    return (x_us < y_us) - (x_us > y_us);
}

static void visit(struct task *t)
{
    struct tour *tour = CONTAINER_OF(t, struct tour, task);
    const struct data_facts *facts = tour->planes[tour->at]->facts;

    tour->n += spans_find(facts->spans, &tour->filter, tour->found + tour->n, tour->limit);
    qsort(tour->found, tour->n, sizeof(tour->found[0]), newer_first);
    tour->n = MIN(tour->n, tour->limit);
    if (++tour->at < tour->n_planes) {
        loop_post(tour->planes[tour->at]->shard->loop, &tour->task);
    } else {
        tour->task.fn = on_home;
        loop_post(tour->home, &tour->task);
    }
}

static struct tour *tour_new(struct request *r, size_t limit)
{
    const struct admin_facts *f = admin_facts(r);
    struct tour *tour = xcalloc(1, sizeof(*tour) + 2 * limit * sizeof(struct span));

    tour->home = r->x->loop;
    tour->planes = f->planes;
    tour->n_planes = f->threads;
    tour->limit = limit;
    tour->filter.code = ERR_COUNT_;
    tour->task.fn = visit;
    return tour;
}

/* The filter's texts are copied: the request may go before the tour is over. */
static void tour_start(struct tour *tour, struct request *r, struct str id, struct str model)
{
    if (id.p) {
        str_copy(tour->id, sizeof(tour->id), id);
        tour->filter.id = str_of(tour->id);
    }
    if (model.p) {
        str_copy(tour->model, sizeof(tour->model), model);
        tour->filter.model = str_of(tour->model);
    }
    ticket_open(&tour->ticket, r, NULL);
    loop_post(tour->planes[0]->shard->loop, &tour->task);
}

void admin_show_trace(struct request *r)
{
    struct tour *tour = tour_new(r, LIMIT_MAX);

    tour->one = true;
    tour_start(tour, r, r->arg[0], (struct str){NULL, 0});
}

/* ---- the list ---- */

enum { ID, MODEL, KEPT, CODE, SLOWER, COUNT, PARAMETERS };

static enum err_code read_lane(const struct parameter *p, unsigned *lanes, struct err *e)
{
    for (unsigned i = 0; p->value.p && i < SPAN_LANES; i++) {
        if (str_is(p->value, span_kept_names[i])) {
            *lanes = 1u << i;
            return ERR_OK;
        }
    }
    return !p->value.p ? ERR_OK
                       : err_set(e, ERR_INVALID, "kept is error, refused, slow, asked or chance, not '%.*s'",
                                 (int)MIN(p->value.n, (size_t)40), p->value.p);
}

static enum err_code read_code(const struct parameter *p, enum err_code *code, struct err *e)
{
    for (int i = 0; p->value.p && i < ERR_COUNT_; i++) {
        if (str_is(p->value, err_name((enum err_code)i))) {
            *code = (enum err_code)i;
            return ERR_OK;
        }
    }
    return !p->value.p ? ERR_OK
                       : err_set(e, ERR_INVALID, "there is no code '%.*s': ok, unavailable, timeout, model and so on",
                                 (int)MIN(p->value.n, (size_t)40), p->value.p);
}

static enum err_code read_filter(const struct parameter *p, struct span_filter *f, struct err *e)
{
    uint64_t us = 0;

    if (p[ID].value.p && (p[ID].value.n == 0 || p[ID].value.n > REQUEST_ID_MAX)) {
        return err_set(e, ERR_INVALID, "an id has 1 to %d characters", REQUEST_ID_MAX);
    }
    if (p[MODEL].value.p && !name_ok(p[MODEL].value)) {
        return err_set(e, ERR_INVALID, "'%.*s' is not a model's name", (int)MIN(p[MODEL].value.n, (size_t)100),
                       p[MODEL].value.p);
    }
    if (p[SLOWER].value.p && !parse_duration(p[SLOWER].value, &us)) {
        return err_set(e, ERR_INVALID, "slower is a time like 20ms or 2s, not '%.*s'",
                       (int)MIN(p[SLOWER].value.n, (size_t)40), p[SLOWER].value.p);
    }
    f->slower_ns = us * 1000;
    return read_lane(&p[KEPT], &f->lanes, e) == ERR_OK && read_code(&p[CODE], &f->code, e) == ERR_OK ? ERR_OK : e->code;
}

void admin_list_traces(struct request *r)
{
    struct parameter p[PARAMETERS] = {
        [ID] = {.name = "id"},     [MODEL] = {.name = "model"},   [KEPT] = {.name = "kept"},
        [CODE] = {.name = "code"}, [SLOWER] = {.name = "slower"}, [COUNT] = {.name = "limit"}};
    struct span_filter filter = {.code = ERR_COUNT_};
    uint64_t limit = LIMIT;
    struct tour *tour;
    struct err e;

    if (read_query(r->x, p, PARAMETERS, &e) != ERR_OK || read_number(&p[COUNT], 1, LIMIT_MAX, &limit, &e) != ERR_OK ||
        read_filter(p, &filter, &e) != ERR_OK) {
        reply_err(r, &e);
        return;
    }
    tour = tour_new(r, p[ID].value.p && !p[COUNT].value.p ? LIMIT_MAX : limit);
    tour->filter = filter;
    tour->one = p[ID].value.p != NULL;
    tour_start(tour, r, p[ID].value, p[MODEL].value);
}
