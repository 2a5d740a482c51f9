/* SPDX-License-Identifier: Apache-2.0 */
/* The beginning of a rollout, and promotion. What happens in between is conduct.c's, the way back is undo.c's.
 *
 * Start and promotion are changes: durable, then in force. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "control/control_priv.h"

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

void evidence_keep(struct model *m)
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

void canary_series_end(struct model *m)
{
    control_retire(m->control, model_version(m, m->rollout.canary), m->canary_series);
    m->canary_series = NULL;
}

/* ---- rows and their texts ---- */

static char *text_of(struct buf *b)
{
    char *text = b->over || b->lack ? NULL : xstrndup(b->p, b->n);

    buf_done(b);
    return text;
}

char *judgement_text(const struct model *m)
{
    struct buf b;

    if (!m->judged) {
        return NULL;
    }
    buf_init(&b, 64 << 10);
    judgement_json(&b, &m->judgement);
    if (m->values && b.n > 0) { /* and of an experiment its goal's */
        b.n--;
        json_key(&b, "goal");
        experiment_finding_json(&b, &m->policy.experiment, &m->finding);
        BUF_LIT(&b, "}");
    }
    return text_of(&b);
}

static void put_serving(struct buf *b, const struct model *m, int64_t number, int64_t share_bp)
{
    const struct version *v = model_version(m, number);

    if (number == 0 || share_bp == 0) {
        return;
    }
    json_comma(b);
    buf_addf(b, "{\"version\":%lld,\"digest\":", (long long)number);
    json_strz(b, v ? v->row.digest : NULL);
    buf_addf(b, ",\"share_bp\":%lld}", (long long)share_bp);
}

char *serving_json(const struct model *m, int64_t stable, int64_t canary, int64_t share_bp)
{
    struct buf b;

    buf_init(&b, 4096);
    BUF_LIT(&b, "[");
    put_serving(&b, m, stable, 10000 - (canary ? share_bp : 0));
    put_serving(&b, m, canary, share_bp);
    BUF_LIT(&b, "]");
    return text_of(&b);
}

static void put_policy(struct rollout_row *row, const struct rollout_policy *policy,
                       const struct rollout_progress *progress)
{
    struct buf b;

    buf_init(&b, 64 << 10);
    policy_json(&b, policy);
    row->policy = text_of(&b);
    buf_init(&b, 64 << 10);
    rollout_progress_json(&b, progress);
    row->progress = text_of(&b);
}

struct rollout_row rollout_row_of(const struct model *m)
{
    struct rollout_row row = m->rollout;

    put_policy(&row, &m->policy, &m->progress);
    row.counts = counts_text(m);
    row.evidence = m->evidence ? xstrdup(m->evidence) : NULL;
    return row;
}

void rollout_row_done(struct rollout_row *row)
{
    free(row->evidence);
    free(row->policy);
    free(row->progress);
    free(row->counts);
    row->evidence = row->policy = row->progress = row->counts = NULL;
}

void history_row_done(struct history_row *row)
{
    free(row->serving);
    free(row->evidence);
    row->serving = row->evidence = NULL;
}

/* The row without its texts: those of a rollout that is in force are structs. */
static struct rollout_row bare(const struct rollout_row *row)
{
    struct rollout_row r = *row;

    r.evidence = r.policy = r.progress = r.counts = NULL;
    return r;
}

/* ---- start ---- */

struct release {
    struct change change;
    struct control *c;
    struct version *version;
    int64_t number;
    struct rollout_policy policy;
    bool retry;
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
    change_done(ch);
    free(r);
}

/* One that is there already makes way, or does not. */
static enum err_code make_way(struct change *ch, int64_t canary, struct err *e)
{
    struct model *m = ch->model;

    if (experiment_running(m)) {
        return err_set(e, ERR_CONFLICT,
                       "an experiment with version %lld is running, and nothing else begins beside it: weir experiment "
                       "stop %s ends it",
                       (long long)m->rollout.canary, m->row.name);
    }
    if (rollout_running(m) && m->policy.supersede == NEWER_REFUSED) {
        return err_set(e, ERR_CONFLICT,
                       "a rollout of version %lld is running, and its policy refuses another one meanwhile: weir "
                       "rollout abort %s ends it",
                       (long long)m->rollout.canary, m->row.name);
    }
    if (rollout_running(m)) {
        ch->ended_row = rollout_row_of(m);
        ch->ended_row.state = ROLLOUT_REPLACED;
        ch->ended_row.ended_ms = clock_wall_ms();
        snprintf(ch->ended_row.reason, sizeof(ch->ended_row.reason), "replaced by a rollout of version %lld",
                 (long long)canary);
        ch->has_ended = true;
    } else if (rollout_soaking(m)) {
        ch->ended_row = soak_over(m, "its soak ended when the next rollout began");
        ch->has_ended = true;
    }
    return ERR_OK;
}

static enum err_code check_hold(struct change *ch, const struct version *canary, bool retry, struct err *e)
{
    const struct hold_row *hold = model_hold(ch->model, canary->row.digest);

    if (!hold) {
        return ERR_OK;
    }
    if (!retry) {
        return err_set(e, ERR_CONFLICT,
                       "version %lld is on hold, because it was rolled back (%.200s); --retry starts it all the same",
                       (long long)canary->row.number, hold->reason);
    }
    ch->lift_row = *hold;
    ch->has_lift = true;
    return ERR_OK;
}

enum err_code rollout_fill(struct change *ch, struct version *canary, const struct rollout_policy *policy, bool retry,
                           struct err *e)
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
    if (versions_match(stable, canary, e) != ERR_OK ||
        experiment_fits(&policy->experiment, stable->info, canary->info, e) != ERR_OK ||
        check_hold(ch, canary, retry, e) != ERR_OK || make_way(ch, canary->row.number, e) != ERR_OK) {
        return e->code;
    }
    ch->policy = *policy;
    rollout_begin(policy, &ch->progress);
    random_bytes(id, sizeof(id));
    hex_encode(hex, id, sizeof(id));
    *row = (struct rollout_row){.stable = m->row.stable,
                                .canary = canary->row.number,
                                .share_bp = ch->progress.share_bp,
                                .state = ROLLOUT_RUNNING,
                                .started_ms = clock_wall_ms()};
    snprintf(row->id, sizeof(row->id), "r-%s", hex);
    snprintf(row->model, sizeof(row->model), "%s", m->row.name);
    put_policy(row, policy, &ch->progress);
    ch->has_rollout = true;
    return ERR_OK;
}

void rollout_act(struct change *ch)
{
    struct model *m = ch->model;
    struct control *c = m->control;

    if (m->canary_series) {
        canary_series_end(m);
    }
    if (ch->has_lift) {
        hold_lift(m, ch->lift_row.digest);
    }
    m->rollout = bare(&ch->rollout_row);
    m->policy = ch->policy;
    m->progress = ch->progress;
    conduct_begin(m); /* looks at what the stable one has done so far */
    control_retire(c, model_version(m, m->row.stable), m->stable_series);
    m->stable_series = control_series(c); /* both arms count from the same moment */
    m->canary_series = control_series(c);
    free(m->evidence);
    m->evidence = NULL;
    model_reconcile(m);
    control_publish(c);
}

void rollout_takes(char *text, size_t cap, const struct rollout_policy *policy)
{
    struct buf goal;

    if (policy_tests(policy)) {
        buf_init(&goal, TENSOR_NAME_MAX + 32);
        experiment_goal_text(&policy->experiment, &goal);
        snprintf(text, cap, "is tested at a share of %.4g %%, with the goal %.60s,", policy->step[0] / 100.0,
                 buf_z(&goal));
        buf_done(&goal);
    } else if (policy->automatic && policy->n_steps > 1) {
        snprintf(text, cap, "takes %.4g %% of the traffic, the first of %u steps (policy %s)", policy->step[0] / 100.0,
                 policy->n_steps, policy->name);
    } else {
        snprintf(text, cap, "takes %.4g %% of the traffic", policy->step[0] / 100.0);
    }
}

static enum err_code start_prepare(struct change *ch, struct err *e)
{
    struct release *r = CONTAINER_OF(ch, struct release, change);
    int64_t stable = ch->model->row.stable, canary = r->version->row.number;
    char takes[200];

    if (rollout_fill(ch, r->version, &r->policy, r->retry, e) != ERR_OK) {
        return e->code;
    }
    rollout_takes(takes, sizeof(takes), &r->policy);
    history_fill(&ch->history_row, ch->model, canary,
                 policy_tests(&r->policy) ? "experiment_started" : "rollout_started", str_of(r->actor),
                 "version %lld %s beside version %lld", (long long)canary, takes, (long long)stable);
    ch->history_row.serving = serving_json(ch->model, stable, canary, ch->progress.share_bp);
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

void control_rollout_start(struct control *c, struct str model, int64_t number, const struct rollout_policy *policy,
                           bool retry, struct str actor, void (*done)(void *ctx, const struct err *e), void *ctx)
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
    r->policy = *policy;
    r->retry = retry;
    r->change.prepare = start_prepare;
    r->change.act = rollout_act;
    version_load(v, true, on_canary_loaded, r);
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

/* To the front of its rollout, if it has one that runs. */
enum err_code promotion_fill(struct change *ch, bool soak, struct err *e)
{
    struct model *m = ch->model;
    const struct version *v = model_version(m, m->rollout.canary);

    if (!v || !version_loaded(v)) {
        return err_set(e, ERR_CONFLICT, "version %lld is not ready (%s)", (long long)m->rollout.canary,
                       v ? version_state_names[v->state] : "gone");
    }
    ch->model_row = m->row;
    ch->model_row.previous = m->row.stable;
    ch->model_row.stable = v->row.number;
    ch->has_model = true;
    evidence_keep(m);
    ch->rollout_row = rollout_row_ahead(ch, soak);
    ch->rollout_row.state = soak ? ROLLOUT_SOAKING : ROLLOUT_PROMOTED;
    ch->rollout_row.ended_ms = soak ? 0 : clock_wall_ms();
    ch->has_rollout = true;
    ch->history_row.serving = serving_json(m, v->row.number, 0, 0);
    ch->history_row.evidence = judgement_text(m);
    return ERR_OK;
}

void promotion_act(struct change *ch)
{
    struct model *m = ch->model;
    struct control *c = m->control;

    control_retire(c, model_version(m, m->row.stable), m->stable_series);
    m->stable_series = m->canary_series; /* it goes on counting */
    m->canary_series = NULL;
    m->rollout = bare(&ch->rollout_row);
    m->row = ch->model_row;
    if (m->rollout.state == ROLLOUT_SOAKING) {
        conduct_soak(m);
    } else {
        conduct_end(m);
    }
    control_publish(c);
    model_reconcile(m);
}

/* Another version than a rollout's: what runs is replaced, what soaks is over. */
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
    if (rollout_running(m) && m->rollout.canary == v->row.number) {
        return err_set(e, ERR_CONFLICT, "a rollout of version %lld began meanwhile; promote again",
                       (long long)v->row.number);
    }
    ch->model_row = m->row;
    ch->model_row.previous = m->row.stable;
    ch->model_row.stable = v->row.number;
    ch->has_model = true;
    if (rollout_running(m)) {
        evidence_keep(m);
        ch->rollout_row = rollout_row_of(m);
        ch->rollout_row.state = ROLLOUT_REPLACED;
        ch->rollout_row.ended_ms = clock_wall_ms();
        snprintf(ch->rollout_row.reason, sizeof(ch->rollout_row.reason), "version %lld was promoted by %s",
                 (long long)v->row.number, r->actor);
        ch->has_rollout = true;
    } else if (rollout_soaking(m)) {
        ch->rollout_row = soak_over(m, "its soak ended when another version was promoted");
        ch->has_rollout = true;
    }
    history_fill(&ch->history_row, m, v->row.number, "promoted", str_of(r->actor),
                 "version %lld is the stable version (before: %lld)", (long long)v->row.number,
                 (long long)m->row.stable);
    ch->history_row.serving = serving_json(m, v->row.number, 0, 0);
    return ERR_OK;
}

static void promote_act(struct change *ch)
{
    struct model *m = ch->model;
    struct control *c = m->control;

    control_retire(c, model_version(m, m->row.stable), m->stable_series);
    m->stable_series = NULL;
    if (ch->has_rollout) {
        canary_series_end(m);
        conduct_end(m);
        m->rollout = bare(&ch->rollout_row);
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
    if (rollout_running(m) && (number == 0 || number == m->rollout.canary)) {
        conduct_promote(m, actor, done, ctx);
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
