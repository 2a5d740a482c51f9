/* SPDX-License-Identifier: Apache-2.0 */
/* Shadows begin and end: changes, durable, then in force; and the sum of what their threads have counted.
 *
 * A shadow ends by itself when its version begins to take traffic: at once for the router, and in the store by a change
 * behind the one that gave it the traffic. A crash between the two is found at the next start. What it has counted can
 * be looked at until the next one begins, or the server ends.
 *
 * Thread: control, but visit(). */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/hash.h"
#include "control/control_priv.h"

/* ---- looking ---- */

/* Why its version can not be in the shadow any more; NULL: it can. */
static const char *why_over(const struct model *m)
{
    int64_t n = m->shadow_row.version;

    return !model_version(m, n)                           ? "it is gone"
           : n == m->row.stable                           ? "it is the stable version"
           : rollout_running(m) && n == m->rollout.canary ? "it takes traffic in a rollout"
                                                          : NULL;
}

bool shadow_running(const struct model *m)
{
    return m->shadow_row.version != 0 && !why_over(m);
}

bool version_in_shadow(const struct version *v)
{
    return v->row.number == v->model->shadow_row.version && shadow_running(v->model);
}

/* ---- the change ---- */

struct shadow_change {
    struct change change;
    struct version *version;
    struct shadow_row row;
    bool itself; /* stop: nobody asked for it */
    bool claims;
    /* stop: what was compared, and by which shadow */
    char *evidence; /* JSON */
    uint64_t shadow, pairs;
    double agreement;
    char actor[64];
    void (*done)(void *ctx, const struct err *e);
    void *ctx;
};

static void finish(struct change *ch, const struct err *e)
{
    struct shadow_change *s = CONTAINER_OF(ch, struct shadow_change, change);
    struct model *m = ch->model;

    if (s->itself) {
        m->shadow_ending = false;
    }
    if (s->claims) {
        s->version->claims--;
        model_reconcile(m);
    }
    if (s->done) {
        s->done(s->ctx, e);
    }
    change_done(ch);
    free(s->evidence);
    free(s);
}

static struct shadow_change *change_new(struct model *m, struct str actor, void (*done)(void *ctx, const struct err *e),
                                        void *ctx)
{
    struct shadow_change *s = xcalloc(1, sizeof(*s));

    s->change.model = m;
    s->change.finish = finish;
    s->done = done;
    s->ctx = ctx;
    snprintf(s->actor, sizeof(s->actor), STR_FMT, STR_ARG(actor));
    return s;
}

/* ---- start ---- */

static enum err_code start_prepare(struct change *ch, struct err *e)
{
    struct shadow_change *s = CONTAINER_OF(ch, struct shadow_change, change);
    struct model *m = ch->model;
    const struct version *stable = model_version(m, m->row.stable);
    int64_t n = s->version->row.number;
    char instead[64] = "";
    uint8_t id[6];
    char hex[13];

    if (!stable) {
        return err_set(e, ERR_CONFLICT, "model '%s' has no stable version to compare with", m->row.name);
    }
    if (n == m->row.stable || (rollout_running(m) && n == m->rollout.canary)) {
        return err_set(e, ERR_CONFLICT,
                       "version %lld of '%s' takes traffic itself: a shadow is a version that takes none", (long long)n,
                       m->row.name);
    }
    if (versions_match(stable, s->version, e) != ERR_OK) {
        return e->code;
    }
    random_bytes(id, sizeof(id));
    hex_encode(hex, id, sizeof(id));
    snprintf(s->row.id, sizeof(s->row.id), "s-%s", hex);
    snprintf(s->row.model, sizeof(s->row.model), "%s", m->row.name);
    s->row.started_ms = clock_wall_ms();
    ch->shadow_row = s->row;
    ch->has_shadow = true;
    if (m->shadow_row.version != 0) {
        snprintf(instead, sizeof(instead), ", instead of the shadow of version %lld", (long long)m->shadow_row.version);
    }
    history_fill(&ch->history_row, m, n, "shadow_started", str_of(s->actor),
                 "version %lld gets copies of %.4g %% of what version %lld answers, unseen%s", (long long)n,
                 (double)s->row.share_bp / 100, (long long)m->row.stable, instead);
    return ERR_OK;
}

void shadow_take(struct model *m, const struct shadow_row *row)
{
    struct control *c = m->control;

    control_retire_shadow(c, m->shadow);
    m->shadow_row = *row;
    m->shadow = shadow_new(++c->next_series, row, c->spec.n_shards);
}

static void start_act(struct change *ch)
{
    shadow_take(ch->model, &ch->shadow_row);
    control_publish(ch->model->control);
}

static void on_loaded(void *ctx, const struct err *e)
{
    struct shadow_change *s = ctx;

    if (e->code != ERR_OK) {
        finish(&s->change, e);
    } else {
        change_submit(&s->change);
    }
}

void control_shadow_start(struct control *c, struct str model, int64_t number, uint32_t share_bp, struct str actor,
                          void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct model *m = control_model(c, model);
    struct version *v = m ? model_version(m, number) : NULL;
    struct shadow_change *s;
    struct err e;

    if (!v) {
        if (m) {
            err_set(&e, ERR_NOT_FOUND, "model '%s' has no version %lld", m->row.name, (long long)number);
        } else {
            err_set(&e, ERR_NOT_FOUND, "no model '" STR_FMT "'", STR_ARG(model));
        }
        done(ctx, &e);
        return;
    }
    s = change_new(m, actor, done, ctx);
    s->version = v;
    s->row.version = number;
    s->row.share_bp = share_bp;
    s->claims = true;
    v->claims++;
    s->change.prepare = start_prepare;
    s->change.act = start_act;
    version_load(v, true, on_loaded, s);
}

/* ---- stop ---- */

static enum err_code stop_prepare(struct change *ch, struct err *e)
{
    struct shadow_change *s = CONTAINER_OF(ch, struct shadow_change, change);
    struct model *m = ch->model;
    const char *why = why_over(m);
    int64_t was = m->shadow_row.version;
    char found[80] = "";

    if (was == 0 || (s->itself && !why)) {
        return err_set(e, ERR_CONFLICT, "'%s' has no shadow that runs: weir shadow start %s --version N begins one",
                       m->row.name, m->row.name);
    }
    if (s->pairs > 0 && m->shadow && shadow_id(m->shadow) == s->shadow) {
        snprintf(found, sizeof(found), "; of %llu pairs %.2f %% agreed", (unsigned long long)s->pairs,
                 100 * s->agreement);
    }
    snprintf(ch->shadow_row.model, sizeof(ch->shadow_row.model), "%s", m->row.name);
    ch->has_shadow = true;
    history_fill(&ch->history_row, m, was, "shadow_stopped", str_of(s->actor), "version %lld gets no more copies%s%s%s",
                 (long long)was, why ? ": " : "", why ? why : "", found);
    ch->history_row.evidence = found[0] ? TAKE(s->evidence) : NULL;
    return ERR_OK;
}

static void stop_act(struct change *ch)
{
    ch->model->shadow_row.version = 0; /* the rest of it is shown on */
    control_publish(ch->model->control);
    model_reconcile(ch->model);
}

static void on_summed(void *ctx, const struct shadow_sum *sum)
{
    struct shadow_change *s = ctx;
    const struct diff_sum *d = &sum->diff[SHADOW_CANDIDATE];
    struct buf b;

    buf_init(&b, 64 << 10);
    diff_json(&b, d, false);
    s->evidence = b.over ? NULL : xstrndup(b.p, b.n);
    buf_done(&b);
    s->shadow = shadow_id(sum->shadow);
    s->pairs = d->pairs;
    s->agreement = diff_agreement(d);
    change_submit(&s->change);
}

/* History says what it found. */
static void submit_stop(struct shadow_change *s)
{
    struct model *m = s->change.model;

    s->change.prepare = stop_prepare;
    s->change.act = stop_act;
    if (m->shadow_row.version != 0 && m->shadow) {
        control_shadow_sum(m, on_summed, s);
    } else {
        change_submit(&s->change);
    }
}

void control_shadow_stop(struct control *c, struct str model, struct str actor,
                         void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct model *m = control_model(c, model);
    struct err e;

    if (!m) {
        err_set(&e, ERR_NOT_FOUND, "no model '" STR_FMT "'", STR_ARG(model));
        done(ctx, &e);
        return;
    }
    submit_stop(change_new(m, actor, done, ctx));
}

void shadow_look(struct model *m)
{
    struct shadow_change *s;

    if (m->shadow_row.version == 0 || m->shadow_ending || m->control->stopping || !why_over(m)) {
        return;
    }
    m->shadow_ending = true;
    s = change_new(m, STR("weir"), NULL, NULL);
    s->itself = true;
    submit_stop(s);
}

/* ---- the sum ---- */

struct tour {
    struct task task;
    struct control *c;
    struct shadow *shadow;
    unsigned at;
    struct shadow_sum sum;
    void (*done)(void *ctx, const struct shadow_sum *sum);
    void *ctx;
};

static void on_home(struct task *t)
{
    struct tour *tour = CONTAINER_OF(t, struct tour, task);

    shadow_let_go(tour->shadow);
    tour->done(tour->ctx, &tour->sum);
    free(tour);
}

/* On the thread of the part that is added. */
static void visit(struct task *t)
{
    struct tour *tour = CONTAINER_OF(t, struct tour, task);
    struct control *c = tour->c;

    for (int run = 0; run < SHADOW_RUNS; run++) {
        diff_merge(&tour->sum.diff[run], shadow_diff(tour->shadow, tour->at, (enum shadow_run)run));
    }
    if (++tour->at < c->spec.n_shards) {
        loop_post(c->spec.shards[tour->at]->loop, t);
    } else {
        t->fn = on_home;
        loop_post(c->loop, t);
    }
}

void control_shadow_sum(struct model *m, void (*done)(void *ctx, const struct shadow_sum *sum), void *ctx)
{
    struct control *c = m->control;
    struct tour *tour = xcalloc(1, sizeof(*tour));

    assert(m->shadow);
    shadow_hold(m->shadow);
    tour->c = c;
    tour->shadow = m->shadow;
    tour->sum.shadow = m->shadow;
    tour->done = done;
    tour->ctx = ctx;
    tour->task.fn = visit;
    loop_post(c->spec.shards[0]->loop, &tour->task);
}
