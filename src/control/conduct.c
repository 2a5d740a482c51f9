/* SPDX-License-Identifier: Apache-2.0 */
/* The conductor: judges every rollout that runs or soaks, and does what rollout_next says.
 *
 * Once every interval of its policy the counts of all threads are added up and judged (judge.h), and the machine is
 * asked what follows (rollout.h). What moves forward is a change: decided once more when its turn comes, durable, then
 * in force. Harm goes back at once (undo.c). Where the rollout is and what was counted is written every ten seconds, so
 * that a restart goes on from there; the time that the server was down does not count.
 *
 * What is slow is frozen when the rollout begins, from what the stable version did before, or once it has answered a
 * hundred requests of the rollout: the p95 and p99 of its runs, less the time that these had no processor (not of whole
 * requests: a candidate with few of them wakes more often from its sleep; who waits for a process that was killed, or
 * for others on a busy machine, tells nothing about the model), each with a slack below which nobody cares: a tenth of
 * it, at least 2 ms, but not more than three times itself (a candidate with few requests has colder caches; a tiny
 * model that takes ten times as long is still seen). A request that has no answer yet is slow when it is open for
 * longer than that plus ten times the p99 of whole requests plus a second.
 *
 * Thread: control. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "control/control_priv.h"

#define TICK_US MILLIS(250)
#define SAVE_US SECONDS(10)
#define TOLD_US SECONDS(10) /* between two lines of history about the verdict */
#define FROZEN_OF 100       /* answers of the stable one that its times are frozen from */
#define SLACK_LEAST_NS 2000000u
#define WAIT_LEAST_NS 1000000000u
#define JUDGE_ACTOR STR("weir (judge)")

const uint32_t soak_share = 10000; /* the stratum of the soak: all of the traffic */

static bool conducted(const struct model *m)
{
    return rollout_running(m) || rollout_soaking(m);
}

/* ---- counts as text ---- */

static void put_numbers(struct buf *b, const uint64_t *n, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        json_comma(b);
        buf_addu(b, n[i]);
    }
}

/* Of old, strata had the four kinds of bad answer that are known at once; what came later stands behind them. */
enum { AT_ONCE = METRIC_WRONG * JUDGE_ARMS };

static void put_values(struct buf *b, const struct judge_values *v)
{
    json_comma(b);
    buf_addf(b, "[%llu,%llu,", (unsigned long long)v->count, (unsigned long long)v->weight2);
    json_f64(b, v->square);
    put_numbers(b, v->n, STATS_GROUPS);
    for (size_t g = 0; g < STATS_GROUPS; g++) {
        json_comma(b);
        json_f64(b, v->y[g]);
    }
    BUF_LIT(b, "]");
}

/* What feedback said, by metric, an array an arm; nothing of what it said nothing of. */
static void put_feedback(struct buf *b, const struct judge_counts *c)
{
    json_key(b, "feedback");
    BUF_LIT(b, "{");
    for (size_t k = 0; k < JUDGE_VALUES; k++) {
        if (c->values[k][JUDGE_STABLE].count + c->values[k][JUDGE_CANARY].count > 0) {
            json_key(b, judge_metric_names[METRIC_WRONG + k]);
            BUF_LIT(b, "[");
            put_values(b, &c->values[k][JUDGE_STABLE]);
            put_values(b, &c->values[k][JUDGE_CANARY]);
            BUF_LIT(b, "]");
        }
    }
    BUF_LIT(b, "}");
}

char *counts_text(const struct model *m)
{
    const struct judge_counts *c = &m->counts;
    struct buf b;
    char *text;

    buf_init(&b, 256 << 10);
    BUF_LIT(&b, "{\"slow_ns\":[");
    put_numbers(&b, c->slow_ns, 2);
    buf_addf(&b, "],\"wait_ns\":%llu,\"baseline\":[", (unsigned long long)c->wait_ns);
    for (int k = 0; k < METRIC_COUNT; k++) {
        json_comma(&b);
        json_f64(&b, m->baseline[k]);
    }
    BUF_LIT(&b, "],\"strata\":[");
    for (size_t i = 0; i < c->n; i++) {
        const struct judge_stratum *s = &c->stratum[i];

        json_comma(&b);
        buf_addf(&b, "[%u", s->share_bp);
        put_numbers(&b, s->answered, JUDGE_ARMS);
        put_numbers(&b, s->exposed, JUDGE_ARMS);
        put_numbers(&b, &s->bad[0][0], AT_ONCE);
        put_numbers(&b, &s->all[0][0], AT_ONCE);
        put_numbers(&b, s->labelled, JUDGE_ARMS);
        put_numbers(&b, s->bad[METRIC_WRONG], JUDGE_ARMS);
        put_numbers(&b, s->all[METRIC_WRONG], JUDGE_ARMS);
        put_numbers(&b, &m->moments.stratum[i].worst[0][0], JUDGE_SLOW * MOMENTS_KEPT);
        BUF_LIT(&b, "]");
    }
    BUF_LIT(&b, "]");
    put_feedback(&b, c);
    if (m->values) {
        BUF_LIT(&b, ",\"goal\":");
        goal_counts_json(&b, m->values);
    }
    BUF_LIT(&b, "}");
    text = b.over || b.lack ? NULL : xstrndup(b.p, b.n);
    buf_done(&b);
    return text;
}

static bool get_numbers(yyjson_val *arr, size_t *at, uint64_t *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        yyjson_val *v = yyjson_arr_get(arr, (*at)++);

        if (!yyjson_is_uint(v)) {
            return false;
        }
        out[i] = yyjson_get_uint(v);
    }
    return true;
}

/* What older releases did not count yet may be missing at the end. */
static bool read_stratum(yyjson_val *arr, struct judge_stratum *s, struct moments_stratum *of)
{
    size_t at = 0;
    uint64_t share;

    if (!get_numbers(arr, &at, &share, 1) || share < 1 || share > 10000) {
        return false;
    }
    s->share_bp = (uint32_t)share;
    if (!get_numbers(arr, &at, s->answered, JUDGE_ARMS) || !get_numbers(arr, &at, s->exposed, JUDGE_ARMS) ||
        !get_numbers(arr, &at, &s->bad[0][0], AT_ONCE) || !get_numbers(arr, &at, &s->all[0][0], AT_ONCE)) {
        return false;
    }
    if (at < yyjson_arr_size(arr) &&
        !(get_numbers(arr, &at, s->labelled, JUDGE_ARMS) && get_numbers(arr, &at, s->bad[METRIC_WRONG], JUDGE_ARMS) &&
          get_numbers(arr, &at, s->all[METRIC_WRONG], JUDGE_ARMS))) {
        return false;
    }
    return at == yyjson_arr_size(arr) || get_numbers(arr, &at, &of->worst[0][0], JUDGE_SLOW * MOMENTS_KEPT);
}

static bool read_values(yyjson_val *arr, struct judge_values *v)
{
    size_t at = 0;
    uint64_t head[2];

    if (!get_numbers(arr, &at, head, COUNT_OF(head)) || !yyjson_is_num(yyjson_arr_get(arr, at))) {
        return false;
    }
    v->count = head[0];
    v->weight2 = head[1];
    v->square = yyjson_get_num(yyjson_arr_get(arr, at++));
    if (!get_numbers(arr, &at, v->n, STATS_GROUPS)) {
        return false;
    }
    for (size_t g = 0; g < STATS_GROUPS; g++) {
        yyjson_val *y = yyjson_arr_get(arr, at++);

        if (!yyjson_is_num(y)) {
            return false;
        }
        v->y[g] = yyjson_get_num(y);
    }
    return true;
}

static bool read_feedback(yyjson_val *feedback, struct judge_counts *c)
{
    bool ok = true;

    for (size_t k = 0; ok && k < JUDGE_VALUES; k++) {
        yyjson_val *arms = yyjson_obj_get(feedback, judge_metric_names[METRIC_WRONG + k]);

        for (size_t a = 0; ok && arms && a < JUDGE_ARMS; a++) {
            ok = read_values(yyjson_arr_get(arms, a), &c->values[k][a]);
        }
    }
    return ok;
}

/* What can not be read is as if nothing had been counted: that convicts nobody. */
static void counts_read(struct model *m, const char *text)
{
    yyjson_doc *doc = text ? yyjson_read(text, strlen(text), 0) : NULL;
    yyjson_val *root = yyjson_doc_get_root(doc), *strata = yyjson_obj_get(root, "strata");
    size_t at = 0;
    bool ok = doc && get_numbers(yyjson_obj_get(root, "slow_ns"), &at, m->counts.slow_ns, 2) &&
              yyjson_arr_size(strata) <= JUDGE_STRATA;

    m->counts.wait_ns = yyjson_get_uint(yyjson_obj_get(root, "wait_ns"));
    for (int k = 0; ok && k < METRIC_COUNT; k++) {
        yyjson_val *v = yyjson_arr_get(yyjson_obj_get(root, "baseline"), (size_t)k);

        m->baseline[k] = v ? yyjson_get_num(v) : 1; /* an older release's: not known */
    }
    for (size_t i = 0; ok && i < yyjson_arr_size(strata); i++) {
        ok = read_stratum(yyjson_arr_get(strata, i), &m->counts.stratum[i], &m->moments.stratum[i]);
        m->counts.n = i + 1;
    }
    ok = ok && read_feedback(yyjson_obj_get(root, "feedback"), &m->counts);
    if (!ok) {
        m->counts = (struct judge_counts){0};
        m->moments = (struct moments){0};
    }
    moments_resume(&m->moments, &m->counts);
    if (m->values && !goal_counts_read(m->values, yyjson_obj_get(root, "goal"))) {
        *m->values = (struct goal_counts){0};
    }
    yyjson_doc_free(doc);
}

/* ---- the goal of an experiment ---- */

bool experiment_running(const struct model *m)
{
    return rollout_running(m) && policy_tests(&m->policy);
}

/* What is counted of the goal belongs to the rollout, and stays to be looked at when it has ended. */
static void values_begin(struct model *m)
{
    free(m->values);
    m->values = policy_tests(&m->policy) ? xcalloc(1, sizeof(*m->values)) : NULL;
    m->finding = (struct experiment_finding){0};
}

static void new_goal(struct model *m)
{
    control_retire_goal(m->control, m->goal);
    m->goal = experiment_running(m) ? goal_new(m->control->spec.n_shards, m->values) : NULL;
    if (experiment_running(m) && !m->goal) {
        log_error("control", "no memory to count with: the experiment's goal is not counted model=%s", m->row.name);
    }
}

/* What the guardrails of feedback have counted would tell the goal's result. */
static void hide_feedback(struct judgement *j)
{
    for (unsigned k = METRIC_WRONG; k < METRIC_COUNT; k++) {
        struct judge_finding *f = &j->finding[k];

        *f = (struct judge_finding){.verdict = f->verdict,
                                    .dry = f->dry,
                                    .by_limit = f->by_limit,
                                    .trip = f->trip,
                                    .difference = {-INFINITY, NAN, INFINITY},
                                    .risk = {0, 1, INFINITY},
                                    .requests_left = INFINITY};
    }
    if (j->worst >= METRIC_WRONG && j->verdict == VERDICT_INCONCLUSIVE) {
        snprintf(j->text, sizeof(j->text), "a suspicion, no proof yet, by feedback that can not be compared");
    }
}

static void find_result(struct model *m)
{
    if (m->goal) {
        goal_sum(m->goal, m->values);
    }
    if (m->values) {
        experiment_judge(&m->policy.experiment, m->values, m->rollout.stable, m->rollout.canary,
                         m->progress.invalid || (experiment_running(m) && m->judgement.ratio_broken), &m->finding);
        if (m->finding.result == RESULT_HIDDEN) {
            hide_feedback(&m->judgement);
        }
    }
}

/* ---- beginning, going on, ending ---- */

static uint64_t with_slack(double seconds)
{
    uint64_t ns = (uint64_t)(seconds * 1e9);

    return ns + MAX(ns / 10, MIN((uint64_t)SLACK_LEAST_NS, 3 * ns));
}

static void freeze(struct model *m)
{
    struct series_sum sum;

    if (!m->tally || tally_frozen(m->tally) || !m->stable_series) {
        return;
    }
    series_sum(m->stable_series, &sum);
    if (sum.compute.n >= FROZEN_OF) {
        tally_freeze(m->tally, with_slack(sum.compute.p95), with_slack(sum.compute.p99),
                     WAIT_LEAST_NS + (uint64_t)(10e9 * sum.latency.p99));
    }
    series_sum_done(&sum);
}

static void start_clock(struct model *m)
{
    struct control *c = m->control;

    m->judged_us = m->saved_us = clock_us();
    m->judged = m->ordered = false;
    m->told = VERDICT_NODATA;
    m->told_result = RESULT_UNCLEAR;
    m->told_us = 0;
    m->judgement = (struct judgement){0};
    if (c->conduct.slot == 0) {
        timer_set(c->loop, &c->conduct, clock_us() + TICK_US);
    }
}

static void new_tally(struct model *m)
{
    control_retire_tally(m->control, m->tally);
    m->tally = tally_new(m->control->spec.n_shards, &m->counts);
    if (!m->tally) {
        log_error("control", "no memory to count with: the rollout is not judged model=%s", m->row.name);
    }
    new_goal(m);
    start_clock(m);
}

void conduct_begin(struct model *m)
{
    m->counts = (struct judge_counts){0};
    m->moments = (struct moments){0};
    memset(m->baseline, 0, sizeof(m->baseline));
    values_begin(m);
    new_tally(m);
    freeze(m);
}

static struct judge_stratum sum_strata(const struct judge_counts *c, int arm)
{
    struct judge_stratum sum = {0};

    for (size_t i = 0; i < c->n; i++) {
        sum.answered[arm] += c->stratum[i].answered[arm];
        sum.labelled[arm] += c->stratum[i].labelled[arm];
        for (int k = 0; k < METRIC_COUNT; k++) {
            sum.all[k][arm] += c->stratum[i].all[k][arm];
        }
    }
    return sum;
}

/* What the stable one did is the baseline; nothing is counted of the soak yet. */
static void soak_counts(struct model *m)
{
    const struct judge_stratum sum = sum_strata(&m->counts, JUDGE_STABLE);
    uint64_t answered = sum.answered[JUDGE_STABLE], labelled = sum.labelled[JUDGE_STABLE];

    for (int k = 0; k < METRIC_COUNT; k++) {
        m->baseline[k] = answered > 0 ? (double)sum.all[k][JUDGE_STABLE] / (double)answered : 0;
    }
    m->baseline[METRIC_WRONG] =
        labelled >= JUDGE_LABELS_LEAST ? (double)sum.all[METRIC_WRONG][JUDGE_STABLE] / (double)labelled : 1;
    m->baseline[METRIC_REWARD] = 1;
    m->counts.n = 0;
    m->moments = (struct moments){0};
    memset(m->counts.stratum, 0, sizeof(m->counts.stratum));
    memset(m->counts.values, 0, sizeof(m->counts.values));
}

void conduct_soak(struct model *m)
{
    soak_counts(m);
    new_tally(m);
}

void conduct_end(struct model *m)
{
    control_retire_tally(m->control, m->tally);
    control_retire_goal(m->control, m->goal);
    m->tally = NULL;
    m->goal = NULL;
    m->ordered = false;
    m->progress.phase = PHASE_ENDED;
}

void conduct_resume(struct model *m, struct rollout_row *row)
{
    struct err e;

    m->rollout = *row;
    m->evidence = TAKE(m->rollout.evidence);
    if (!row->policy || policy_read(&m->policy, str_of(row->policy), &e) != ERR_OK) {
        policy_manual(&m->policy, (uint32_t)MIN(MAX(row->share_bp, 1), 9999)); /* begun by a release before policies */
    }
    if (!row->progress || rollout_progress_read(&m->progress, str_of(row->progress), &e) != ERR_OK) {
        rollout_begin(&m->policy, &m->progress);
        m->progress.share_bp = (uint32_t)row->share_bp;
    }
    if (rollout_soaking(m) && m->progress.phase != PHASE_SOAK) { /* they contradict each other: the state counts */
        m->progress = (struct rollout_progress){.phase = PHASE_SOAK, .share_bp = soak_share};
    }
    if (!conducted(m)) {
        m->progress.phase = PHASE_ENDED;
    }
    values_begin(m);
    counts_read(m, row->counts);
    find_result(m);
    rollout_row_done(&m->rollout);
    row->evidence = row->policy = row->progress = row->counts = NULL;
    if (conducted(m)) {
        new_tally(m);
    }
}

/* ---- where it is, written now and then ---- */

struct save_job {
    struct store_job job;
    struct task back;
    struct model *model;
    struct loop *home;
    char rollout[40];
    char *progress, *counts;
    struct err err;
};

static void on_saved(struct task *t)
{
    struct save_job *j = CONTAINER_OF(t, struct save_job, back);

    j->model->saving = false;
    if (j->err.code != ERR_OK && j->err.code != ERR_NOT_FOUND) {
        log_warn("control", "where the rollout is could not be written model=%s error=\"%s\"", j->model->row.name,
                 j->err.text);
    }
    free(j->progress);
    free(j->counts);
    free(j);
}

static void write_progress(struct store *s, struct store_job *job)
{
    struct save_job *j = CONTAINER_OF(job, struct save_job, job);

    if (store_progress(s, j->rollout, j->progress, j->counts, &j->err) == ERR_OK) {
        j->err.code = ERR_OK;
    }
    loop_post(j->home, &j->back);
}

static void save(struct model *m, uint64_t now)
{
    struct rollout_row row;
    struct save_job *j;

    if (m->saving || m->ordered || m->changing || m->undo || now - m->saved_us < SAVE_US) {
        return;
    }
    row = rollout_row_of(m);
    j = xcalloc(1, sizeof(*j));
    j->job.run = write_progress;
    j->back.fn = on_saved;
    j->model = m;
    j->home = m->control->loop;
    snprintf(j->rollout, sizeof(j->rollout), "%s", row.id);
    j->progress = TAKE(row.progress);
    j->counts = TAKE(row.counts);
    rollout_row_done(&row);
    m->saved_us = now;
    m->saving = true;
    store_post(m->control->store, &j->job);
}

/* ---- orders: what moves a rollout on ---- */

struct order {
    struct change change;
    struct rollout_event ev;
    struct judgement judgement; /* EVENT_TICK: a copy */
    struct rollout_step step;
    enum rollout_phase from;
    char rollout[40]; /* which it is about */
    char actor[64];
    void (*done)(void *ctx, const struct err *e);
    void *ctx;
};

struct rollout_row rollout_row_ahead(const struct change *ch, bool soak)
{
    struct model ahead = *ch->model;

    ahead.policy = ch->policy;
    ahead.progress = ch->progress;
    if (soak) {
        soak_counts(&ahead);
    } else {
        ahead.rollout.share_bp = ch->progress.share_bp;
    }
    return rollout_row_of(&ahead);
}

struct rollout_row soak_over(const struct model *m, const char *why)
{
    struct rollout_row row = rollout_row_of(m);

    row.state = ROLLOUT_PROMOTED;
    row.ended_ms = clock_wall_ms();
    snprintf(row.reason, sizeof(row.reason), "%s", why);
    return row;
}

/* A person's share makes it manual. */
static void follow_policy(struct change *ch, const struct model *m, const struct rollout_step *step)
{
    ch->policy = m->policy;
    if (step->manual) {
        ch->policy.automatic = false;
        ch->policy.n_steps = 1;
        ch->policy.step[0] = step->next.share_bp;
    }
    ch->progress = step->next;
}

static const char *kind_of(const struct order *o)
{
    switch (o->step.act) {
    case ACT_SHARE:
        return o->ev.kind == EVENT_SET ? "share_set" : "rollout_step";
    case ACT_PROMOTE:
        return "promoted";
    case ACT_COMPLETE:
        return "rollout_completed";
    default:
        return o->step.next.phase == PHASE_PAUSED ? "rollout_paused"
               : o->from == PHASE_PAUSED          ? "rollout_resumed"
                                                  : "rollout_bake";
    }
}

static enum err_code order_rows(struct order *o, struct err *e)
{
    struct change *ch = &o->change;
    struct model *m = ch->model;

    follow_policy(ch, m, &o->step);
    if (o->step.act == ACT_PROMOTE) {
        if (promotion_fill(ch, o->step.next.phase == PHASE_SOAK, e) != ERR_OK) {
            return e->code;
        }
        if (o->ev.kind == EVENT_SHIP) {
            snprintf(ch->rollout_row.reason, sizeof(ch->rollout_row.reason), "version %lld was shipped by %s: %s",
                     (long long)m->rollout.canary, o->actor, m->finding.text);
        } else {
            snprintf(ch->rollout_row.reason, sizeof(ch->rollout_row.reason), "version %lld was promoted by %s",
                     (long long)m->rollout.canary, o->actor);
        }
    } else if (o->step.act == ACT_COMPLETE) {
        ch->rollout_row = soak_over(m, o->step.text);
        ch->has_rollout = true;
    } else {
        ch->rollout_row = rollout_row_ahead(ch, false);
        ch->has_rollout = true;
        ch->history_row.evidence = judgement_text(m);
        ch->history_row.serving =
            o->step.act == ACT_SHARE ? serving_json(m, m->row.stable, m->rollout.canary, ch->progress.share_bp) : NULL;
    }
    return ERR_OK;
}

static void tell(struct order *o)
{
    struct model *m = o->change.model;
    struct history_row h = o->change.history_row;
    char text[480];

    if (o->step.act == ACT_PROMOTE) {
        snprintf(text, sizeof(text), "version %lld is the stable version (before: %lld)%s%s",
                 (long long)m->rollout.canary, (long long)m->row.stable, o->step.text[0] ? ": " : "", o->step.text);
    } else if (o->step.act == ACT_SHARE) {
        snprintf(text, sizeof(text), "version %lld takes %.4g %% of the traffic (before: %.4g %%)%s%s",
                 (long long)m->rollout.canary, o->step.next.share_bp / 100.0, (double)m->rollout.share_bp / 100.0,
                 o->step.text[0] ? ": " : "", o->step.text);
    } else {
        snprintf(text, sizeof(text), "%s", o->step.text);
    }
    history_fill(&o->change.history_row, m, m->rollout.canary, kind_of(o), str_of(o->actor), "%s", text);
    o->change.history_row.serving = h.serving;
    o->change.history_row.evidence = h.evidence;
}

static enum err_code order_prepare(struct change *ch, struct err *e)
{
    struct order *o = CONTAINER_OF(ch, struct order, change);
    struct model *m = ch->model;

    if (!conducted(m)) {
        return err_set(e, ERR_CONFLICT, "no rollout of '%s' is running: weir rollout start %s --version N --share P%%",
                       m->row.name, m->row.name);
    }
    if (strcmp(o->rollout, m->rollout.id) != 0) {
        return err_set(e, ERR_CONFLICT, "another rollout of '%s' has begun meanwhile", m->row.name);
    }
    if (o->ev.kind == EVENT_SHIP) {
        o->ev.judgement = &m->judgement;
        o->ev.finding = &m->finding;
    }
    o->from = (enum rollout_phase)m->progress.phase;
    if (rollout_next(&m->policy, &m->progress, &o->ev, &o->step, e) != ERR_OK) {
        return e->code;
    }
    if (o->step.act == ACT_NONE || o->step.act == ACT_ROLL_BACK || o->step.act == ACT_ABORT) {
        return err_set(e, ERR_CONFLICT, "%s", o->step.text[0] ? o->step.text : "there is nothing to do");
    }
    if (order_rows(o, e) != ERR_OK) {
        return e->code;
    }
    tell(o);
    return ERR_OK;
}

static void order_act(struct change *ch)
{
    struct order *o = CONTAINER_OF(ch, struct order, change);
    struct model *m = ch->model;

    m->policy = ch->policy;
    m->progress = ch->progress;
    if (o->step.act == ACT_PROMOTE) {
        promotion_act(ch);
    } else if (o->step.act == ACT_COMPLETE) {
        m->rollout.state = ROLLOUT_PROMOTED;
        m->rollout.ended_ms = ch->rollout_row.ended_ms;
        snprintf(m->rollout.reason, sizeof(m->rollout.reason), "%s", ch->rollout_row.reason);
        conduct_end(m);
        control_publish(m->control);
        model_reconcile(m);
    } else if (o->step.act == ACT_SHARE) {
        m->rollout.share_bp = ch->progress.share_bp;
        control_publish(m->control);
    }
}

static void order_finish(struct change *ch, const struct err *e)
{
    struct order *o = CONTAINER_OF(ch, struct order, change);

    if (o->ev.kind == EVENT_TICK) {
        ch->model->ordered = false;
    }
    if (o->done) {
        o->done(o->ctx, e);
    }
    change_done(ch);
    free(o);
}

static void order_submit(struct model *m, const struct rollout_event *ev, struct str actor,
                         void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct order *o = xcalloc(1, sizeof(*o));

    o->ev = *ev;
    if (ev->judgement) {
        o->judgement = *ev->judgement;
        o->ev.judgement = &o->judgement;
    }
    snprintf(o->rollout, sizeof(o->rollout), "%s", m->rollout.id);
    o->change.model = m;
    o->change.prepare = order_prepare;
    o->change.act = order_act;
    o->change.finish = order_finish;
    o->done = done;
    o->ctx = ctx;
    snprintf(o->actor, sizeof(o->actor), STR_FMT, STR_ARG(actor));
    change_submit(&o->change);
}

void control_rollout_event(struct control *c, struct str model, enum rollout_event_kind kind, uint32_t share_bp,
                           struct str actor, void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct rollout_event ev = {.kind = kind, .share_bp = share_bp};
    struct model *m = control_model(c, model);
    struct err e;

    if (!m) {
        err_set(&e, ERR_NOT_FOUND, "no model '" STR_FMT "'", STR_ARG(model));
        done(ctx, &e);
        return;
    }
    if (kind == EVENT_SET && rollout_running(m) && m->progress.share_bp == share_bp && !m->policy.automatic &&
        !policy_tests(&m->policy)) {
        e.code = ERR_OK; /* as it is already */
        done(ctx, &e);
        return;
    }
    order_submit(m, &ev, actor, done, ctx);
}

void conduct_promote(struct model *m, struct str actor, void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct rollout_event ev = {.kind = EVENT_PROMOTE};

    order_submit(m, &ev, actor, done, ctx);
}

/* ---- judging ---- */

/* A line of history that moves nothing: the verdict when it has changed, or the result of an experiment's goal, or what
 * rollout_next found worth telling. */
struct remark {
    struct change change;
    bool result;
    char text[400]; /* "": the verdict */
};

static enum err_code remark_prepare(struct change *ch, struct err *e)
{
    const struct remark *r = CONTAINER_OF(ch, struct remark, change);
    const struct model *m = ch->model;

    if (!conducted(m) || !m->judged) {
        return err_set(e, ERR_CONFLICT, "the rollout has ended");
    }
    if (r->text[0]) {
        history_fill(&ch->history_row, m, m->rollout.canary, r->result ? "experiment_result" : "rollout_verdict",
                     JUDGE_ACTOR, "%s", r->text);
    } else {
        history_fill(&ch->history_row, m, m->rollout.canary, "rollout_verdict", JUDGE_ACTOR, "%s: %s",
                     verdict_names[m->judgement.verdict], m->judgement.text);
    }
    ch->history_row.evidence = judgement_text(m);
    return ERR_OK;
}

static void remark_act(struct change *ch)
{
    (void)ch; /* it only tells */
}

static void remark_finish(struct change *ch, const struct err *e)
{
    (void)e;
    change_done(ch);
    free(CONTAINER_OF(ch, struct remark, change));
}

/* text: worth a line in any case; "": when the verdict, or the result of a goal, is another one than history has, not
 * too often. */
static void tell_verdict(struct model *m, uint64_t now, const char *text)
{
    int result = m->goal ? (int)MAX(m->finding.result, RESULT_UNCLEAR) : m->told_result; /* few values: no news */
    bool verdict = (int)m->judgement.verdict != m->told;
    bool news = (verdict || result != m->told_result) && now - m->told_us >= TOLD_US && !m->changing && !m->undo;
    struct remark *r;

    if (!text[0] && !news) {
        return;
    }
    r = xcalloc(1, sizeof(*r));
    r->result = !text[0] && !verdict;
    if (r->result) {
        m->told_result = result;
    } else {
        m->told = (int)m->judgement.verdict;
    }
    m->told_us = now;
    snprintf(r->text, sizeof(r->text), "%s", r->result ? m->finding.text : text);
    r->change.model = m;
    r->change.prepare = remark_prepare;
    r->change.act = remark_act;
    r->change.finish = remark_finish;
    change_submit(&r->change);
}

static void judge_now(struct model *m)
{
    struct judge_rule rule;

    freeze(m);
    tally_sum(m->tally, &m->counts);
    moments_look(&m->moments, &m->counts, clock_us());
    policy_rule(&m->policy, &rule);
    if (rollout_soaking(m)) {
        struct judge_stratum soak = {0};

        for (size_t i = 0; i < m->counts.n; i++) {
            soak = m->counts.stratum[i].share_bp == soak_share ? m->counts.stratum[i] : soak;
        }
        judge_soak(&rule, m->baseline, &soak, &m->judgement);
    } else {
        judge(&rule, &m->counts, &m->judgement);
    }
    if (m->goal) {
        find_result(m);
    }
    m->judged = true;
}

/* The stable version is not there to compare with, or the candidate is just being started again after a restart of the
 * server: nothing is judged, and no time passes. */
static bool arms_there(const struct model *m)
{
    const struct version *canary = model_version(m, m->rollout.canary), *stable = model_version(m, m->row.stable);

    return canary && stable && version_loaded(canary) && version_loaded(stable);
}

/* In the soak there may be no way back: then it stands still until there is one. */
static void harm(struct model *m, const struct rollout_step *step, uint64_t now)
{
    enum rollout_state state = step->act == ACT_ABORT ? ROLLOUT_ABORTED : ROLLOUT_ROLLED_BACK;
    const struct version *back = model_version(m, m->row.previous);
    char text[400];

    if (rollout_soaking(m) && (!back || !version_at_hand(back))) {
        snprintf(text, sizeof(text), "the new stable version does harm, and there is no version to go back to: %.300s",
                 m->judgement.text);
        tell_verdict(m, now, (int)m->judgement.verdict != m->told ? text : "");
        return;
    }
    m->progress = step->next;
    roll_back(m, state, step->act == ACT_ROLL_BACK, JUDGE_ACTOR, step->text, NULL, NULL);
}

/* While what it asked for is being written, only harm counts. */
static void look(struct model *m, uint64_t now)
{
    struct rollout_event ev = {.kind = EVENT_TICK,
                               .elapsed_us = now - m->judged_us,
                               .judgement = &m->judgement,
                               .finding = m->goal ? &m->finding : NULL};
    struct rollout_step step;
    struct err e;

    if (m->undo || !m->tally || ev.elapsed_us < m->policy.interval_us) {
        return;
    }
    m->judged_us = now;
    if (!arms_there(m)) {
        return;
    }
    judge_now(m);
    if (rollout_next(&m->policy, &m->progress, &ev, &step, &e) != ERR_OK) {
        log_error("control", "the rollout can not go on model=%s error=\"%s\"", m->row.name, e.text);
    } else if (step.act == ACT_ROLL_BACK || step.act == ACT_ABORT) {
        harm(m, &step, now);
    } else if (m->ordered) {
        return;
    } else if (step.act == ACT_NONE) {
        m->saved_us = step.next.invalid && !m->progress.invalid ? 0 : m->saved_us; /* that is not to be forgotten */
        m->progress = step.next;
        tell_verdict(m, now, step.text);
        save(m, now);
    } else {
        m->ordered = true;
        m->told = (int)m->judgement.verdict;
        order_submit(m, &ev, JUDGE_ACTOR, NULL, NULL);
    }
}

void control_experiment_ship(struct control *c, struct str model, bool force, struct str actor,
                             void (*done)(void *ctx, const struct err *e), void *ctx)
{
    struct rollout_event ev = {.kind = EVENT_SHIP, .force = force};
    struct model *m = control_model(c, model);
    struct err e;

    if (!m) {
        err_set(&e, ERR_NOT_FOUND, "no model '" STR_FMT "'", STR_ARG(model));
    } else if (!experiment_running(m)) {
        err_set(&e, ERR_CONFLICT,
                "no experiment of '%s' is running: weir experiment start %s --version N --goal reward", m->row.name,
                m->row.name);
    } else {
        if (m->tally) {
            judge_now(m);
        }
        order_submit(m, &ev, actor, done, ctx);
        return;
    }
    done(ctx, &e);
}

void conduct_timer(struct timer *t)
{
    struct control *c = CONTAINER_OF(t, struct control, conduct);
    uint64_t now = clock_us();
    bool any = false;

    for (size_t i = 0; i < c->n_models; i++) {
        if (conducted(c->models[i])) {
            any = true;
            look(c->models[i], now);
        }
    }
    if (any && !c->stopping) {
        timer_set(c->loop, &c->conduct, now + TICK_US);
    }
}
