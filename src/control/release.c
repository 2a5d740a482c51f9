/* SPDX-License-Identifier: Apache-2.0 */
/* Rollouts of this house: one manual step at a share, a circuit breaker, promotion, and the way back.
 *
 * Start, share and promotion are changes: durable, then in force. The way back is the other way round: the router
 * forgets the version at once, then the rows are written, again and again until they are. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "control/control_priv.h"

#define UNDO_PATIENCE_US MILLIS(50) /* then the caller hears "not yet durable" */
#define UNDO_RETRY_US SECONDS(1)
#define BREAKER_ACTOR STR("weir (circuit breaker)")

/* ---- series ---- */

void model_series(struct model *m)
{
    if (m->row.stable != 0 && !m->stable_series) {
        m->stable_series = control_series(m->control);
    }
    if (rollout_running(m) && !m->canary_series) { /* after a restart */
        m->canary_series = control_series(m->control);
    }
}

static void keep_evidence(struct model *m)
{
    struct buf b;

    if (!m->control->spec.ops.evidence) {
        return;
    }
    buf_init(&b, 1 << 20);
    m->control->spec.ops.evidence(&b, m);
    free(m->evidence);
    m->evidence = b.over || b.n == 0 ? NULL : xstrndup(b.p, b.n);
    buf_done(&b);
}

static void end_canary_series(struct model *m, struct version *canary)
{
    control_retire(m->control, canary, m->canary_series);
    m->canary_series = NULL;
}

/* ---- start ---- */

struct release {
    struct change change;
    struct control *c;
    struct version *version;
    int64_t number;
    uint32_t share_bp;
    char actor[64];
    bool claims;            /* the version, until the end */
    struct version *beside; /* claimed too: the stable one */
    void (*done)(void *ctx, const struct err *e);
    void *ctx;
};

static void release_finish(struct change *ch, const struct err *e)
{
    struct release *r = CONTAINER_OF(ch, struct release, change);

    if (r->beside) {
        r->beside->claims--;
    }
    if (r->claims) {
        r->version->claims--;
        model_reconcile(ch->model);
    }
    r->done(r->ctx, e);
    free(ch->rollout_row.evidence);
    free(r);
}

enum err_code rollout_fill(struct change *ch, struct version *canary, uint32_t share_bp, struct err *e)
{
    struct model *m = ch->model;
    struct version *stable = model_version(m, m->row.stable);
    struct rollout_row *row = &ch->rollout_row;
    uint8_t id[6];
    char hex[13];

    if (!stable) {
        return err_set(e, ERR_CONFLICT, "model '%s' has no stable version to compare with", m->row.name);
    }
    if (canary->row.number == m->row.stable) {
        return err_set(e, ERR_CONFLICT, "version %lld is the stable version of '%s' already",
                       (long long)canary->row.number, m->row.name);
    }
    if (versions_match(stable, canary, e) != ERR_OK) {
        return e->code;
    }
    if (rollout_running(m)) {
        ch->ended_row = m->rollout;
        ch->ended_row.state = ROLLOUT_REPLACED;
        ch->ended_row.ended_ms = clock_wall_ms();
        snprintf(ch->ended_row.reason, sizeof(ch->ended_row.reason), "replaced by a rollout of version %lld",
                 (long long)canary->row.number);
        ch->has_ended = true;
    }
    random_bytes(id, sizeof(id));
    hex_encode(hex, id, sizeof(id));
    *row = (struct rollout_row){.stable = m->row.stable,
                                .canary = canary->row.number,
                                .share_bp = share_bp,
                                .state = ROLLOUT_RUNNING,
                                .started_ms = clock_wall_ms()};
    snprintf(row->id, sizeof(row->id), "r-%s", hex);
    snprintf(row->model, sizeof(row->model), "%s", m->row.name);
    ch->has_rollout = true;
    return ERR_OK;
}

void rollout_act(struct change *ch)
{
    struct model *m = ch->model;
    struct control *c = m->control;

    if (m->canary_series) {
        end_canary_series(m, model_version(m, m->rollout.canary));
    }
    control_retire(c, model_version(m, m->row.stable), m->stable_series);
    m->stable_series = control_series(c); /* both arms count from the same moment */
    m->canary_series = control_series(c);
    free(m->evidence);
    m->evidence = NULL;
    m->rollout = ch->rollout_row;
    m->rollout.evidence = NULL;
    model_reconcile(m);
    control_publish(c);
}

static enum err_code start_prepare(struct change *ch, struct err *e)
{
    struct release *r = CONTAINER_OF(ch, struct release, change);

    if (rollout_fill(ch, r->version, r->share_bp, e) != ERR_OK) {
        return e->code;
    }
    history_fill(&ch->history_row, ch->model, r->version->row.number, "rollout_started", str_of(r->actor),
                 "version %lld takes %.4g %% of the traffic beside version %lld", (long long)r->version->row.number,
                 r->share_bp / 100.0, (long long)ch->model->row.stable);
    return ERR_OK;
}

static struct release *release_new(struct control *c, struct model *m, struct str actor,
                                   void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct release *r = xcalloc(1, sizeof(*r));

    r->c = c;
    r->change.model = m;
    r->change.finish = release_finish;
    r->done = done;
    r->ctx = ctx;
    snprintf(r->actor, sizeof(r->actor), STR_FMT, STR_ARG(actor));
    return r;
}

static void on_loaded(void *ctx, const struct err *e)
{
    struct release *r = ctx;

    if (e->code != ERR_OK) {
        release_finish(&r->change, e);
    } else {
        change_submit(&r->change);
    }
}

/* Both arms must be there. */
static void on_canary_loaded(void *ctx, const struct err *e)
{
    struct release *r = ctx;
    struct version *stable = model_version(r->change.model, r->change.model->row.stable);

    if (e->code == ERR_OK && stable && !version_loaded(stable)) {
        r->beside = stable;
        stable->claims++;
        version_load(stable, true, on_loaded, r);
    } else {
        on_loaded(r, e);
    }
}

static struct model *find(struct control *c, struct str name, struct err *e)
{
    struct model *m = control_model(c, name);

    if (!m) {
        err_set(e, ERR_NOT_FOUND, "no model '" STR_FMT "'", STR_ARG(name));
    }
    return m;
}

void control_rollout_start(struct control *c, struct str model, int64_t number, uint32_t share_bp, struct str actor,
                           void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct err e;
    struct model *m = find(c, model, &e);
    struct version *v = m ? model_version(m, number) : NULL;
    struct release *r;

    if (!v) {
        if (m) {
            err_set(&e, ERR_NOT_FOUND, "model '%s' has no version %lld", m->row.name, (long long)number);
        }
        done(ctx, &e);
        return;
    }
    r = release_new(c, m, actor, done, ctx);
    r->version = v;
    r->claims = true;
    v->claims++;
    r->share_bp = share_bp;
    r->change.prepare = start_prepare;
    r->change.act = rollout_act;
    version_load(v, true, on_canary_loaded, r);
}

/* ---- share ---- */

static enum err_code share_prepare(struct change *ch, struct err *e)
{
    struct release *r = CONTAINER_OF(ch, struct release, change);
    struct model *m = ch->model;

    if (!rollout_running(m)) {
        return err_set(e, ERR_CONFLICT, "no rollout of '%s' is running: weir rollout start %s --version N --share P%%",
                       m->row.name, m->row.name);
    }
    ch->rollout_row = m->rollout;
    ch->rollout_row.share_bp = r->share_bp;
    ch->has_rollout = true;
    history_fill(&ch->history_row, m, m->rollout.canary, "share_set", str_of(r->actor),
                 "version %lld takes %.4g %% of the traffic (before: %.4g %%)", (long long)m->rollout.canary,
                 r->share_bp / 100.0, (double)m->rollout.share_bp / 100.0);
    return ERR_OK;
}

static void share_act(struct change *ch)
{
    ch->model->rollout = ch->rollout_row;
    control_publish(ch->model->control);
}

void control_rollout_share(struct control *c, struct str model, uint32_t share_bp, struct str actor,
                           void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct err e;
    struct model *m = find(c, model, &e);
    struct release *r;

    if (!m) {
        done(ctx, &e);
        return;
    }
    r = release_new(c, m, actor, done, ctx);
    r->share_bp = share_bp;
    r->change.prepare = share_prepare;
    r->change.act = share_act;
    change_submit(&r->change);
}

/* ---- promotion ---- */

static struct version *to_promote(const struct model *m, int64_t number, struct err *e)
{
    struct version *v = NULL;

    if (number != 0) {
        v = model_version(m, number);
        if (!v) {
            err_set(e, ERR_NOT_FOUND, "model '%s' has no version %lld", m->row.name, (long long)number);
        }
        return v;
    }
    if (rollout_running(m)) {
        return model_version(m, m->rollout.canary);
    }
    for (size_t i = 0; i < m->n_versions; i++) {
        if (m->versions[i]->row.number > m->row.stable && version_at_hand(m->versions[i])) {
            v = m->versions[i];
        }
    }
    if (!v) {
        err_set(e, ERR_CONFLICT,
                "nothing to promote: no rollout of '%s' is running, and no ready version is newer than the stable one "
                "(%lld)",
                m->row.name, (long long)m->row.stable);
    }
    return v;
}

static enum err_code promote_prepare(struct change *ch, struct err *e)
{
    struct release *r = CONTAINER_OF(ch, struct release, change);
    struct model *m = ch->model;
    struct version *v = to_promote(m, r->number, e);

    if (!v) {
        return e->code;
    }
    if (v->row.number == m->row.stable) {
        return err_set(e, ERR_CONFLICT, "version %lld is the stable version of '%s' already", (long long)v->row.number,
                       m->row.name);
    }
    if (!version_loaded(v)) {
        return err_set(e, ERR_CONFLICT, "version %lld is not ready (%s); push it again or start a rollout of it",
                       (long long)v->row.number, version_state_names[v->state]);
    }
    if (!r->claims) { /* else it is the one that was loaded for it */
        r->version = v;
    }
    ch->model_row = m->row;
    ch->model_row.previous = m->row.stable;
    ch->model_row.stable = v->row.number;
    ch->has_model = true;
    if (rollout_running(m)) {
        bool it = m->rollout.canary == v->row.number;

        keep_evidence(m);
        ch->rollout_row = m->rollout;
        ch->rollout_row.state = it ? ROLLOUT_PROMOTED : ROLLOUT_REPLACED;
        ch->rollout_row.ended_ms = clock_wall_ms();
        ch->rollout_row.evidence = m->evidence ? xstrdup(m->evidence) : NULL;
        snprintf(ch->rollout_row.reason, sizeof(ch->rollout_row.reason), "version %lld was promoted by %s",
                 (long long)v->row.number, r->actor);
        ch->has_rollout = true;
    }
    history_fill(&ch->history_row, m, v->row.number, "promoted", str_of(r->actor),
                 "version %lld is the stable version (before: %lld)", (long long)v->row.number,
                 (long long)m->row.stable);
    return ERR_OK;
}

static void promote_act(struct change *ch)
{
    struct model *m = ch->model;
    struct control *c = m->control;

    control_retire(c, model_version(m, m->row.stable), m->stable_series);
    m->stable_series = NULL;
    if (ch->has_rollout) {
        if (ch->rollout_row.state == ROLLOUT_PROMOTED) {
            m->stable_series = m->canary_series; /* it goes on counting */
            m->canary_series = NULL;
        } else {
            end_canary_series(m, model_version(m, m->rollout.canary));
        }
        m->rollout = ch->rollout_row;
        m->rollout.evidence = NULL;
    }
    m->row = ch->model_row;
    control_publish(c);
    model_reconcile(m);
}

void control_promote(struct control *c, struct str model, int64_t number, struct str actor,
                     void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct err e;
    struct model *m = find(c, model, &e);
    struct version *v;
    struct release *r;

    if (!m) {
        done(ctx, &e);
        return;
    }
    r = release_new(c, m, actor, done, ctx);
    r->number = number;
    r->change.prepare = promote_prepare;
    r->change.act = promote_act;
    v = to_promote(m, number, &e);
    if (v && !version_loaded(v) && version_at_hand(v)) { /* it must be seen to load before it serves */
        r->version = v;
        r->claims = true;
        v->claims++;
        version_load(v, true, on_loaded, r);
    } else {
        change_submit(&r->change);
    }
}

/* ---- the way back ---- */

/* One a model at a time: a second rollback while the first is being written adds to it. */
struct undo_rows {
    struct model_row model;
    struct rollout_row rollout; /* evidence is heap */
    struct history_row history;
    struct rollout_row voided; /* one that a change had begun in the store only */
    bool has_rollout, has_voided;
};
struct undo {
    struct model *model;
    struct control *c;
    struct rollback_result result;
    struct undo_rows rows, written; /* what is to be written; what the store thread is writing */
    bool writing, answered;
    bool again;         /* the rows changed while they were being written */
    struct timer timer; /* patience, then the next try */
    struct store_job job;
    struct task back;
    struct err err;   /* the store thread's while it writes */
    struct err stuck; /* why the last try failed */
    void (*done)(void *ctx, const struct rollback_result *r, const struct err *e);
    void *ctx;
};

static void undo_answer(struct undo *u, bool durable)
{
    if (!u->answered) {
        u->answered = true;
        u->result.durable = durable;
        if (u->done) {
            u->done(u->ctx, &u->result, &(struct err){ERR_OK, ""});
        }
    }
}

static void undo_written(struct task *t)
{
    struct undo *u = CONTAINER_OF(t, struct undo, back);
    struct model *m = u->model;

    u->writing = false;
    if (!u->rows.rollout.evidence) { /* the row may be written once more */
        u->rows.rollout.evidence = TAKE(u->written.rollout.evidence);
    }
    if (u->err.code != ERR_OK) {
        u->again = false;
        log_error("control", "rolled back, but the store can not write it; trying again model=%s error=\"%s\"",
                  m->row.name, u->err.text);
        undo_answer(u, false);
        timer_set(u->c->loop, &u->timer, clock_us() + UNDO_RETRY_US);
        err_set(&u->stuck, u->err.code, "a rollback is in force, but can not be written, nor can anything after it: %s",
                u->err.text);
        changes_refuse(m, &u->stuck);
        return;
    }
    u->stuck.code = ERR_OK;
    if (u->again) {
        u->again = false;
        undo_go_on(m);
        return;
    }
    undo_answer(u, true);
    m->undo = NULL;
    undo_free(u);
    change_next(m);
}

static void undo_write(struct store *s, struct store_job *job)
{
    struct undo *u = CONTAINER_OF(job, struct undo, job);
    const struct undo_rows *w = &u->written;
    struct store_change sc = {.model = &w->model,
                              .rollout = w->has_rollout ? &w->rollout : NULL,
                              .rollout_ended = w->has_voided ? &w->voided : NULL,
                              .history = &w->history};

    if (store_apply(s, &sc, &u->err) == ERR_OK) {
        u->err.code = ERR_OK;
    }
    loop_post(u->c->loop, &u->back);
}

void undo_go_on(struct model *m)
{
    struct undo *u = m->undo;

    if (!u->writing && !m->changing) { /* a change that is being written must be in the store before what voids it */
        u->writing = true;
        free(u->written.rollout.evidence);
        u->written = u->rows;
        u->rows.rollout.evidence = NULL;
        store_post(u->c->store, &u->job);
    }
}

bool undo_stuck(const struct model *m, struct err *why)
{
    if (!m->undo || m->undo->stuck.code == ERR_OK) {
        return false;
    }
    *why = m->undo->stuck;
    return true;
}

void undo_free(struct undo *u)
{
    if (u) {
        timer_clear(u->c->loop, &u->timer);
        free(u->rows.rollout.evidence);
        free(u->written.rollout.evidence);
        free(u);
    }
}

/* Nothing is being written of the undo: it waits for this change. */
void undo_void(struct change *ch)
{
    struct undo *u = ch->model->undo;
    struct rollout_row *row = &u->rows.voided;

    assert(u && !u->writing);
    if (ch->has_rollout && ch->rollout_row.state == ROLLOUT_RUNNING &&
        strcmp(ch->rollout_row.id, ch->model->rollout.id) != 0) {
        *row = ch->rollout_row;
        row->evidence = NULL;
        row->state = ROLLOUT_ABORTED;
        row->ended_ms = clock_wall_ms();
        snprintf(row->reason, sizeof(row->reason), "a rollback came before it began");
        u->rows.has_voided = true;
    }
}

static void undo_timer(struct timer *t)
{
    struct undo *u = CONTAINER_OF(t, struct undo, timer);

    undo_answer(u, false);
    undo_go_on(u->model);
}

static void undo_canary(struct undo *u, enum rollout_state state, struct str actor, const char *reason)
{
    struct model *m = u->model;
    struct control *c = u->c;
    struct version *canary = model_version(m, m->rollout.canary);

    keep_evidence(m);
    m->rollout.state = state;
    m->rollout.ended_ms = clock_wall_ms();
    snprintf(m->rollout.reason, sizeof(m->rollout.reason), "%s", reason);
    u->result.from = m->rollout.canary;
    u->result.to = m->row.stable;
    end_canary_series(m, canary);
    control_publish(c);
    snprintf(u->result.text, sizeof(u->result.text),
             "version %lld takes no traffic any more; version %lld has all of it: %s", (long long)u->result.from,
             (long long)u->result.to, reason);
    free(u->rows.rollout.evidence);
    u->rows.rollout = m->rollout;
    u->rows.rollout.evidence = m->evidence ? xstrdup(m->evidence) : NULL;
    u->rows.has_rollout = true;
    u->rows.model = m->row; /* also voids what a change in progress has written */
    history_fill(&u->rows.history, m, u->result.from, rollout_state_names[state], actor, "%s", u->result.text);
}

static void undo_promotion(struct undo *u, struct str actor, const char *reason)
{
    struct model *m = u->model;

    u->result.from = m->row.stable;
    u->result.to = m->row.previous;
    control_retire(u->c, model_version(m, m->row.stable), m->stable_series);
    m->stable_series = NULL;
    m->row.stable = u->result.to;
    m->row.previous = 0;
    control_publish(u->c);
    snprintf(u->result.text, sizeof(u->result.text),
             "version %lld is stable again; version %lld takes no traffic any more: %s", (long long)u->result.to,
             (long long)u->result.from, reason);
    u->rows.model = m->row;
    history_fill(&u->rows.history, m, u->result.from, "rolled_back", actor, "%s", u->result.text);
}

static enum err_code undo_possible(const struct model *m, bool abort_only, struct err *e)
{
    const struct version *back = model_version(m, m->row.previous);

    if (rollout_running(m)) {
        return ERR_OK;
    }
    if (abort_only) {
        return err_set(e, ERR_CONFLICT, "no rollout of '%s' is running", m->row.name);
    }
    if (!back) {
        return err_set(e, ERR_CONFLICT,
                       "nothing to roll back: no rollout of '%s' is running, and there is no promotion to take back",
                       m->row.name);
    }
    if (!version_at_hand(back)) {
        return err_set(e, ERR_CONFLICT, "version %lld, the one before, is not ready (%s%s%s); version %lld stays",
                       (long long)back->row.number, version_state_names[back->state],
                       back->state == VERSION_FAILED ? ": " : "", back->state == VERSION_FAILED ? back->why.text : "",
                       (long long)m->row.stable);
    }
    return ERR_OK;
}

static void ignore(void *ctx, const struct err *e)
{
    (void)ctx;
    (void)e;
}

/* The version that serves now may have been sent out of memory: its callers wait, so it comes back at once. */
static void stable_warm(struct model *m)
{
    struct version *v = model_version(m, m->row.stable);

    if (v && v->state == VERSION_COLD && !m->control->stopping) {
        version_load(v, true, ignore, NULL);
    }
}

static void roll_back(struct model *m, enum rollout_state state, struct str actor, const char *reason,
                      void (*done)(void *ctx, const struct rollback_result *r, const struct err *e), void *ctx)
{
    struct undo *u = m->undo;
    uint64_t t0 = clock_us();

    if (u) { /* the one before is in force and still being written: its caller need not wait for both */
        undo_answer(u, false);
        u->answered = false;
        u->again = u->writing;
    }
    if (!u) {
        u = xcalloc(1, sizeof(*u));
        u->model = m;
        u->c = m->control;
        u->job.run = undo_write;
        u->job.urgent = true;
        u->back.fn = undo_written;
        u->timer.fn = undo_timer;
        m->undo = u;
    }
    u->done = done;
    u->ctx = ctx;
    m->epoch++;
    if (rollout_running(m)) {
        undo_canary(u, state, actor, reason);
    } else {
        undo_promotion(u, actor, reason);
    }
    u->result.took_us = clock_us() - t0;
    timer_set(u->c->loop, &u->timer, clock_us() + UNDO_PATIENCE_US);
    undo_go_on(m);
    model_reconcile(m);
    stable_warm(m);
}

void control_rollback(struct control *c, struct str model, struct str actor, bool abort_only,
                      void (*done)(void *ctx, const struct rollback_result *r, const struct err *e), void *ctx)
{
    struct err e;
    struct model *m = find(c, model, &e);
    char reason[128];

    if (!m || undo_possible(m, abort_only, &e) != ERR_OK) {
        done(ctx, NULL, &e);
        return;
    }
    snprintf(reason, sizeof(reason), "%s by " STR_FMT, abort_only ? "aborted" : "rolled back", STR_ARG(actor));
    roll_back(m, abort_only ? ROLLOUT_ABORTED : ROLLOUT_ROLLED_BACK, actor, reason, done, ctx);
}

/* ---- the circuit breaker ---- */

void canary_sick(struct model *m, const struct err *why)
{
    char reason[400];

    if (rollout_running(m)) {
        snprintf(reason, sizeof(reason), "its process died five times within 60 s (the last: %.300s)", why->text);
        roll_back(m, ROLLOUT_ROLLED_BACK, BREAKER_ACTOR, reason, NULL, NULL);
    }
}

struct trip {
    struct task task;
    struct control *c;
    uint64_t series;
};

static void on_trip(struct task *t)
{
    struct trip *trip = CONTAINER_OF(t, struct trip, task);
    struct control *c = trip->c;

    for (size_t i = 0; i < c->n_models; i++) {
        struct model *m = c->models[i];

        if (rollout_running(m) && m->canary_series && series_id(m->canary_series) == trip->series) {
            roll_back(m, ROLLOUT_ROLLED_BACK, BREAKER_ACTOR, "its first five answers were all errors", NULL, NULL);
        }
    }
    free(trip);
}

void control_canary_outcome(struct control *c, struct series *canary, bool error)
{
    struct trip *trip;

    if (!series_breaker(canary, error)) {
        return;
    }
    trip = xcalloc(1, sizeof(*trip));
    trip->task.fn = on_trip;
    trip->c = c;
    trip->series = series_id(canary);
    loop_post(c->loop, &trip->task);
}
