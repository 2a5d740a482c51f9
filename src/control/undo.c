/* SPDX-License-Identifier: Apache-2.0 */
/* The way back: the router forgets the version at once, then the rows are written, again and again until they are.
 *
 * It is the same way for a person, for the judge and for the circuit breaker. What the latter two find harmful is put
 * on hold: no rollout of it begins again unless a person insists. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/control_priv.h"
#include "control/words.h"

#define UNDO_PATIENCE_US MILLIS(50) /* then the caller hears "not yet durable" */
#define UNDO_RETRY_US SECONDS(1)
#define BREAKER_ACTOR STR("weir (circuit breaker)")

/* ---- holds ---- */

void hold_lift(struct model *m, const char *digest)
{
    size_t to = 0;

    for (size_t i = 0; i < m->n_holds; i++) {
        if (strcmp(m->holds[i].digest, digest) != 0) {
            m->holds[to++] = m->holds[i];
        }
    }
    m->n_holds = to;
}

void hold_add(struct model *m, const struct hold_row *row)
{
    hold_lift(m, row->digest);
    m->holds = xrealloc(m->holds, (m->n_holds + 1) * sizeof(m->holds[0]));
    m->holds[m->n_holds++] = *row;
}

const struct hold_row *model_hold(const struct model *m, const char *digest)
{
    for (size_t i = 0; i < m->n_holds; i++) {
        if (strcmp(m->holds[i].digest, digest) == 0) {
            return &m->holds[i];
        }
    }
    return NULL;
}

/* ---- the way back ---- */

/* One a model at a time: a second rollback while the first is being written adds to it. */
struct undo_rows { /* texts of rollout and history are heap, and its own */
    struct model_row model;
    struct rollout_row rollout;
    struct history_row history;
    struct hold_row hold;
    struct rollout_row voided; /* one that a change had begun in the store only */
    bool has_rollout, has_hold, has_voided;
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
    history_told(u->c, &u->written.history);
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
                              .hold = w->has_hold ? &w->hold : NULL,
                              .history = &u->written.history};

    if (store_apply(s, &sc, &u->err) == ERR_OK) {
        u->err.code = ERR_OK;
    }
    loop_post(u->c->loop, &u->back);
}

static char *copy_text(const char *text)
{
    return text ? xstrdup(text) : NULL;
}

static void undo_rows_done(struct undo_rows *r)
{
    rollout_row_done(&r->rollout);
    history_row_done(&r->history);
}

/* What the store thread reads must not change while it does. */
static void undo_copy(struct undo_rows *to, const struct undo_rows *from)
{
    undo_rows_done(to);
    *to = *from;
    to->rollout.evidence = copy_text(from->rollout.evidence);
    to->rollout.policy = copy_text(from->rollout.policy);
    to->rollout.progress = copy_text(from->rollout.progress);
    to->rollout.counts = copy_text(from->rollout.counts);
    to->history.serving = copy_text(from->history.serving);
    to->history.evidence = copy_text(from->history.evidence);
}

void undo_go_on(struct model *m)
{
    struct undo *u = m->undo;

    if (!u->writing && !m->changing) { /* a change that is being written must be in the store before what voids it */
        u->writing = true;
        undo_copy(&u->written, &u->rows);
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
        undo_rows_done(&u->rows);
        undo_rows_done(&u->written);
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
        row->evidence = row->policy = row->progress = row->counts = NULL; /* the change's, which ends now */
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

/* Its artifact does not come again by itself. */
static void hold(struct undo *u, const struct version *v, const char *reason)
{
    struct hold_row *row = &u->rows.hold;

    if (!v) {
        return;
    }
    *row = (struct hold_row){.since_ms = clock_wall_ms()};
    snprintf(row->model, sizeof(row->model), "%s", u->model->row.name);
    snprintf(row->digest, sizeof(row->digest), "%s", v->row.digest);
    snprintf(row->reason, sizeof(row->reason), "%s", reason);
    u->rows.has_hold = true;
    hold_add(u->model, row);
}

static void end_rollout(struct undo *u, enum rollout_state state, const char *reason)
{
    struct model *m = u->model;

    m->rollout.state = state;
    m->rollout.ended_ms = clock_wall_ms();
    snprintf(m->rollout.reason, sizeof(m->rollout.reason), "%s", reason);
    rollout_row_done(&u->rows.rollout);
    u->rows.rollout = rollout_row_of(m);
    u->rows.has_rollout = true;
}

/* Of an experiment: how it ended, unless the machine has said so. */
static void close_experiment(struct model *m, bool harm)
{
    struct rollout_progress *s = &m->progress;

    if (!experiment_running(m)) {
        return;
    }
    s->invalid |= m->finding.result == RESULT_HIDDEN; /* perhaps since the last judgement */
    if (s->outcome == OUTCOME_NONE) {
        s->outcome = harm ? OUTCOME_HARM : s->invalid ? OUTCOME_INVALID : OUTCOME_KEPT;
    }
}

static void undo_canary(struct undo *u, enum rollout_state state, struct str actor, const char *reason)
{
    struct model *m = u->model;

    evidence_keep(m);
    u->result.from = m->rollout.canary;
    u->result.to = m->row.stable;
    end_rollout(u, state, reason);
    canary_series_end(m);
    conduct_end(m);
    control_publish(u->c);
    snprintf(u->result.text, sizeof(u->result.text),
             "version %lld takes no traffic any more; version %lld has all of it: %s", (long long)u->result.from,
             (long long)u->result.to, reason);
    u->rows.model = m->row; /* also voids what a change in progress has written */
    history_row_done(&u->rows.history);
    history_fill(&u->rows.history, m, u->result.from, rollout_state_names[state], actor, "%s", u->result.text);
}

static void undo_promotion(struct undo *u, enum rollout_state state, struct str actor, const char *reason)
{
    struct model *m = u->model;

    u->result.from = m->row.stable;
    u->result.to = m->row.previous;
    if (rollout_soaking(m)) {
        end_rollout(u, state, reason);
    }
    control_retire(u->c, model_version(m, m->row.stable), m->stable_series);
    m->stable_series = NULL;
    m->row.stable = u->result.to;
    m->row.previous = 0;
    conduct_end(m);
    control_publish(u->c);
    snprintf(u->result.text, sizeof(u->result.text),
             "version %lld is stable again; version %lld takes no traffic any more: %s", (long long)u->result.to,
             (long long)u->result.from, reason);
    u->rows.model = m->row;
    history_row_done(&u->rows.history);
    history_fill(&u->rows.history, m, u->result.from, "rolled_back", actor, "%s", u->result.text);
}

static enum err_code undo_possible(const struct model *m, bool abort_only, struct err *e)
{
    const struct version *back = model_version(m, m->row.previous);

    if (rollout_running(m)) {
        return ERR_OK;
    }
    if (abort_only && !rollout_soaking(m)) {
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

void roll_back(struct model *m, enum rollout_state state, bool harm, struct str actor, const char *reason,
               void (*done)(void *ctx, const struct rollback_result *r, const struct err *e), void *ctx)
{
    struct undo *u = m->undo;
    uint64_t t0 = clock_us();
    char *evidence;

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
    evidence = rollout_running(m) || rollout_soaking(m) ? judgement_text(m) : NULL; /* else no judge has seen it */
    if (rollout_running(m)) {
        close_experiment(m, harm);
        undo_canary(u, state, actor, reason);
    } else {
        undo_promotion(u, state, actor, reason);
    }
    if (harm) {
        hold(u, model_version(m, u->result.from), reason);
    }
    u->rows.history.serving = serving_json(m, m->row.stable, 0, 0);
    u->rows.history.evidence = evidence;
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
    struct model *m = control_model(c, model);
    char reason[480] = "";
    struct line l = {reason, sizeof(reason), 0};

    if (!m) {
        err_set(&e, ERR_NOT_FOUND, "no model '" STR_FMT "'", STR_ARG(model));
    }
    if (!m || undo_possible(m, abort_only, &e) != ERR_OK) {
        done(ctx, NULL, &e);
        return;
    }
    if (experiment_running(m)) {
        words_add(&l, "the experiment was stopped by " STR_FMT "%s%s", STR_ARG(actor), m->finding.text[0] ? ": " : "",
                  m->finding.text);
    } else {
        words_add(&l, "%s by " STR_FMT, abort_only ? "aborted" : "rolled back", STR_ARG(actor));
    }
    roll_back(m, abort_only ? ROLLOUT_ABORTED : ROLLOUT_ROLLED_BACK, false, actor, reason, done, ctx);
}

/* ---- the circuit breaker ---- */

void canary_sick(struct model *m, const struct err *why)
{
    const struct version *back = model_version(m, m->row.previous);
    char reason[400];

    if (rollout_running(m) || (back && version_at_hand(back))) {
        snprintf(reason, sizeof(reason), "its process died five times within 60 s (the last: %.300s)", why->text);
        roll_back(m, ROLLOUT_ROLLED_BACK, true, BREAKER_ACTOR, reason, NULL, NULL);
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
            roll_back(m, ROLLOUT_ROLLED_BACK, true, BREAKER_ACTOR, "its first five answers were all errors or invalid",
                      NULL, NULL);
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
