/* SPDX-License-Identifier: Apache-2.0 */
/* /admin/models/{model}/shadow: begin, end, and look at what the shadow answers otherwise than the stable version.
 *
 *     {"model", "stable",
 *      "shadow": {"id", "version", "share_bp", "state", "started", "counting_since", "loaded"},
 *      "copied", "under_way", "errors", "dropped": {"full", "refused", "deadline", "gone", "unfit"},
 *      "compute_ms": {"stable": {"n", "p50", "p95"}, "candidate": {…}},
 *      "diff": DIFF, "noise": DIFF, "noise_errors", "noise_dropped"}       DIFF: base/diff_json.c
 *
 * state: "running", or "stopped": the last one since the server's start, with what it has counted.
 *
 * Thread: control's loop. */
#include <math.h>
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/json.h"

struct shadow_call {
    struct ticket ticket;
    char model[NAME_MAX_LEN + 1];
};

static struct shadow_call *call_new(struct request *r, const struct model *m)
{
    struct shadow_call *g = xcalloc(1, sizeof(*g));

    str_copy(g->model, sizeof(g->model), str_of(m->row.name));
    ticket_open(&g->ticket, r, NULL);
    return g;
}

/* ---- the page ---- */

static void put_shadow(struct buf *b, const struct model *m, const struct shadow *s)
{
    const struct shadow_row *row = shadow_row(s);
    const struct version *v = model_version(m, row->version);

    json_key(b, "shadow");
    BUF_LIT(b, "{");
    json_put_text(b, "id", row->id);
    json_put_version(b, "version", row->version);
    json_put_count(b, "share_bp", (uint64_t)row->share_bp);
    json_put_text(b, "state", m->shadow == s && shadow_running(m) ? "running" : "stopped");
    json_key(b, "started");
    json_time(b, row->started_ms);
    json_key(b, "counting_since");
    json_time(b, shadow_since_ms(s));
    json_key(b, "loaded");
    buf_addz(b, v && v->info ? "true" : "false");
    BUF_LIT(b, "}");
}

static void put_times(struct buf *b, const char *key, const struct sketch *k)
{
    static const double at[] = {.5, .95};
    static const char *const names[] = {"p50", "p95"};
    uint64_t n = counter_get(&k->count);

    json_key(b, key);
    BUF_LIT(b, "{");
    json_put_count(b, "n", n);
    for (size_t i = 0; i < COUNT_OF(at); i++) {
        json_key(b, names[i]);
        json_f64(b, n ? round(sketch_quantile(k, at[i]) * 1e7) / 1e4 : (double)NAN);
    }
    BUF_LIT(b, "}");
}

static uint64_t results(const struct shadow *s, enum shadow_run run, int from, int to)
{
    uint64_t n = 0;

    for (int k = from; k < to; k++) {
        n += shadow_total(s, run, (enum shadow_result)k);
    }
    return n;
}

static void put_fates(struct buf *b, const struct shadow *s)
{
    uint64_t ended = results(s, SHADOW_CANDIDATE, 0, SHADOW_RESULTS), copied = shadow_copied(s);

    json_put_count(b, "copied", copied);
    json_put_count(b, "under_way", copied - MIN(copied, ended));
    json_put_count(b, "errors", shadow_total(s, SHADOW_CANDIDATE, SHADOW_ERROR));
    json_key(b, "dropped");
    BUF_LIT(b, "{");
    for (int k = SHADOW_FIRST_DROP; k < SHADOW_RESULTS; k++) {
        json_put_count(b, shadow_result_names[k], shadow_total(s, SHADOW_CANDIDATE, (enum shadow_result)k));
    }
    BUF_LIT(b, "}");
}

static void put_sum(struct buf *b, const struct model *m, const struct shadow_sum *sum)
{
    const struct shadow *s = sum->shadow;
    struct sketch *times = xcalloc(2, sizeof(*times));

    shadow_sketch(s, &times[0], &times[1]);
    BUF_LIT(b, "{");
    json_put_text(b, "model", m->row.name);
    json_put_version(b, "stable", m->row.stable);
    put_shadow(b, m, s);
    put_fates(b, s);
    json_key(b, "compute_ms");
    BUF_LIT(b, "{");
    put_times(b, "stable", &times[0]);
    put_times(b, "candidate", &times[1]);
    BUF_LIT(b, "}");
    json_key(b, "diff");
    diff_json(b, &sum->diff[SHADOW_CANDIDATE], true);
    json_key(b, "noise");
    diff_json(b, &sum->diff[SHADOW_NOISE], true);
    json_put_count(b, "noise_errors", shadow_total(s, SHADOW_NOISE, SHADOW_ERROR));
    json_put_count(b, "noise_dropped", results(s, SHADOW_NOISE, SHADOW_FIRST_DROP, SHADOW_RESULTS));
    BUF_LIT(b, "}");
    free(times);
}

static void summed(void *ctx, const struct shadow_sum *sum)
{
    struct shadow_call *g = ctx;
    struct request *r = ticket_close(&g->ticket);

    if (r) {
        put_sum(json_reply(r, 200), control_model(r->plane->control, str_of(g->model)), sum);
        http_reply_end(r->x);
    }
    free(g);
}

void admin_show_shadow(struct request *r)
{
    struct model *m = read_model(r);
    struct err e;

    if (!m) {
        return;
    }
    if (!m->shadow) {
        err_set(&e, ERR_NOT_FOUND, "'%s' has had no shadow since the server began: weir shadow start %s --version N",
                m->row.name, m->row.name);
        reply_err(r, &e);
        return;
    }
    control_shadow_sum(m, summed, call_new(r, m));
}

/* ---- POST ---- */

static void changed(void *ctx, const struct err *e)
{
    struct shadow_call *g = ctx;
    struct request *r = g->ticket.r;
    struct model *m = r ? control_model(r->plane->control, str_of(g->model)) : NULL;
    struct err none;

    if (m && m->shadow && e->code == ERR_OK) {
        control_shadow_sum(m, summed, g);
        return;
    }
    r = ticket_close(&g->ticket);
    if (r && e->code == ERR_OK) {
        err_set(&none, ERR_UNAVAILABLE, "no memory to count a shadow of '%s' with: nothing is copied", g->model);
        e = &none;
    }
    if (r) {
        reply_err(r, e);
    }
    free(g);
}

enum { ACTION, VERSION, SHARE, MEMBERS };

static enum err_code read_start(const struct member *m, uint32_t *share_bp, struct err *e)
{
    if (!m[VERSION].given || m[VERSION].value == 0 || m[VERSION].value > INT32_MAX) {
        return err_set(e, ERR_INVALID, "the action 'start' needs \"version\", a version's number, 1 or more");
    }
    *share_bp = 1000;
    if (m[SHARE].given && read_share(m[SHARE].text, share_bp, e) != ERR_OK) {
        return e->code;
    }
    return *share_bp > 0 ? ERR_OK : err_set(e, ERR_INVALID, "\"share\" must be above 0%%: 'stop' ends a shadow");
}

static enum err_code order(struct request *r, const struct model *model, const struct member *m, struct err *e)
{
    struct control *c = r->plane->control;
    struct str name = str_of(model->row.name);
    uint32_t share_bp;

    if (m[ACTION].given && str_is(m[ACTION].text, "stop")) {
        if (m[VERSION].given || m[SHARE].given) {
            return err_set(e, ERR_INVALID, "the action 'stop' takes no \"version\" and no \"share\"");
        }
        control_shadow_stop(c, name, ADMIN_ACTOR, changed, call_new(r, model));
        return ERR_OK;
    }
    if (!m[ACTION].given || !str_is(m[ACTION].text, "start")) {
        return err_set(e, ERR_INVALID, "\"action\" must be start or stop, not '%.*s'",
                       (int)MIN(m[ACTION].text.n, (size_t)40), m[ACTION].given ? m[ACTION].text.p : "");
    }
    if (read_start(m, &share_bp, e) == ERR_OK) {
        control_shadow_start(c, name, (int64_t)m[VERSION].value, share_bp, ADMIN_ACTOR, changed, call_new(r, model));
        return ERR_OK;
    }
    return e->code;
}

void admin_change_shadow(struct request *r)
{
    struct member m[MEMBERS] = {
        [ACTION] = {.name = "action"}, [VERSION] = {.name = "version", .number = true}, [SHARE] = {.name = "share"}};
    const struct model *model = read_model(r);
    yyjson_doc *doc = NULL;
    struct err e;

    if (!model) {
        return;
    }
    if (read_body(r, m, MEMBERS, &doc, &e) != ERR_OK || order(r, model, m, &e) != ERR_OK) {
        reply_err(r, &e);
    }
    yyjson_doc_free(doc);
}
