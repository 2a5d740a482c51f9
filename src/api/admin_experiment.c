/* SPDX-License-Identifier: Apache-2.0 */
/* Experiments: what one is ordered with, and how it stands. It is a rollout of a special policy (control/experiment.h),
 * so a reply is a rollout's, with a member "experiment".
 *
 * Thread: control's loop. */
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/clock.h"
#include "base/json.h"

/* ---- as JSON ---- */

bool experiment_hides(const struct model *m)
{
    return policy_tests(&m->policy) && m->finding.result == RESULT_HIDDEN;
}

void series_hide_feedback(struct series_sum *s)
{
    s->feedback_n = s->feedback_correct = s->reward_n = 0;
    s->reward_sum = 0;
}

static void put_seconds(struct buf *b, const char *key, uint64_t us)
{
    json_key(b, key);
    buf_addf(b, "%.1f", (double)us / 1e6);
}

/* When so much more time will have passed, if the server runs; null: now, or never. */
static void put_when(struct buf *b, const char *key, bool live, uint64_t us, uint64_t spent)
{
    json_key(b, key);
    json_time(b, live && us > spent ? clock_wall_ms() + (int64_t)((us - spent) / 1000) : 0);
}

void json_experiment(struct buf *b, const struct model *m)
{
    const struct experiment *x = &m->policy.experiment;
    const struct rollout_progress *s = &m->progress;
    bool live = experiment_running(m);
    struct buf goal;

    buf_init(&goal, TENSOR_NAME_MAX + 32);
    experiment_goal_text(x, &goal);
    BUF_LIT(b, "{");
    json_put_text(b, "goal", buf_z(&goal));
    buf_done(&goal);
    json_key(b, "lower");
    buf_addz(b, x->lower ? "true" : "false");
    json_key(b, "alpha");
    json_f64(b, (double)x->alpha_ppm / 1e6);
    json_put_count(b, "margin_bp", x->margin_bp);
    put_seconds(b, "min_s", x->min_us);
    put_seconds(b, "for_s", x->for_us);
    put_when(b, "ship_from", live, x->min_us, s->spent_us);
    put_when(b, "expires", live, x->for_us, s->spent_us);
    json_put_text(b, "outcome", s->outcome != OUTCOME_NONE ? experiment_outcome_names[s->outcome] : NULL);
    json_key(b, "may_ship");
    buf_addz(b, live && s->spent_us >= x->min_us && experiment_good(&m->finding) && m->judgement.verdict != VERDICT_FAIL
                    ? "true"
                    : "false");
    json_key(b, "finding");
    if (m->finding.text[0]) {
        experiment_finding_json(b, x, &m->finding);
    } else {
        BUF_LIT(b, "null");
    }
    BUF_LIT(b, "}");
}

/* ---- GET …/experiment ---- */

/* The running or the last one; NULL: answered. */
static const struct model *read_experiment(struct request *r)
{
    const struct model *m = read_model(r);
    struct err e;

    if (m && (!m->rollout.id[0] || !policy_tests(&m->policy))) {
        err_set(&e, ERR_NOT_FOUND,
                m->rollout.id[0] ? "the last rollout of '%s' was no experiment: weir rollout show %s"
                                 : "'%s' has had no experiment yet: weir experiment start %s --version N --goal reward",
                m->row.name, m->row.name);
        reply_err(r, &e);
        return NULL;
    }
    return m;
}

void admin_show_experiment(struct request *r)
{
    const struct model *m = read_experiment(r);

    if (m) {
        json_rollout_reply(json_reply(r, 200), m);
        http_reply_end(r->x);
    }
}

/* ---- POST …/experiment ---- */

struct answer {
    struct ticket ticket;
    char model[NAME_MAX_LEN + 1];
};

static struct answer *answer_new(struct request *r, const struct model *m)
{
    struct answer *a = xcalloc(1, sizeof(*a));

    str_copy(a->model, sizeof(a->model), str_of(m->row.name));
    ticket_open(&a->ticket, r, NULL);
    return a;
}

static void done(void *ctx, const struct err *e)
{
    struct answer *a = ctx;
    struct request *r = ticket_close(&a->ticket);

    if (r && e->code != ERR_OK) {
        reply_err(r, e);
    } else if (r) {
        const struct model *m = control_model(r->plane->control, str_of(a->model));

        assert(m);
        json_rollout_reply(json_reply(r, 200), m);
        http_reply_end(r->x);
    }
    free(a);
}

static void stopped(void *ctx, const struct rollback_result *res, const struct err *e)
{
    (void)res;
    done(ctx, e);
}

enum { ACTION, VERSION, GOAL, SHARE, FOR, MIN_TIME, ALPHA, MARGIN, RETRY, FORCE, MEMBERS };

struct order {
    struct request *r;
    const struct model *model;
    const struct member *member;
};

static enum err_code read_span(const struct member *m, uint64_t least_us, uint64_t *us, struct err *e)
{
    uint64_t got;

    if (!m->given) {
        return ERR_OK;
    }
    if (!parse_duration(m->text, &got) || got < least_us || got > 365 * (uint64_t)86400000000u) {
        return err_set(e, ERR_INVALID, "\"%s\" is a time like 7d or 36h, %sat most 365d, not '%.*s'", m->name,
                       least_us > 0 ? "above 0 and " : "", (int)MIN(m->text.n, (size_t)40), m->text.p);
    }
    *us = got;
    return ERR_OK;
}

static enum err_code read_alpha(const struct member *m, uint64_t *ppm, struct err *e)
{
    double v;

    if (!m->given) {
        return ERR_OK;
    }
    if (!str_f64(m->text, &v) || !(v >= 0.000001 && v <= 0.5)) {
        return err_set(e, ERR_INVALID, "\"alpha\" is a number from 0.000001 to 0.5, not '%.*s'",
                       (int)MIN(m->text.n, (size_t)40), m->text.p);
    }
    *ppm = (uint64_t)(v * 1e6 + 0.5);
    return ERR_OK;
}

static enum err_code read_share_of(const struct member *m, uint32_t *bp, struct err *e)
{
    return m->given ? read_share(m->text, bp, e) : ERR_OK;
}

static enum err_code read_start(const struct member *m, struct rollout_policy *p, struct err *e)
{
    uint32_t share = EXPERIMENT_CONTROL, margin = 0;
    struct experiment *x = &p->experiment;

    if (!m[VERSION].given || m[VERSION].value == 0 || m[VERSION].value > INT32_MAX) {
        return err_set(e, ERR_INVALID, "the action 'start' needs \"version\", a version's number, 1 or more");
    }
    if (!m[GOAL].given) {
        return err_set(e, ERR_INVALID, "the action 'start' needs \"goal\": reward, accuracy or output:NAME");
    }
    if (read_share_of(&m[SHARE], &share, e) != ERR_OK) {
        return e->code;
    }
    if (share == 0 || share > EXPERIMENT_CONTROL) {
        return err_set(e, ERR_INVALID,
                       "the share of an experiment is above 0%% and at most 50%%: the stable version gets as much");
    }
    policy_experiment(p, share);
    if (experiment_goal_read(x, m[GOAL].text, e) != ERR_OK || read_span(&m[FOR], 1, &x->for_us, e) != ERR_OK ||
        read_span(&m[MIN_TIME], 0, &x->min_us, e) != ERR_OK || read_alpha(&m[ALPHA], &x->alpha_ppm, e) != ERR_OK ||
        read_share_of(&m[MARGIN], &margin, e) != ERR_OK) {
        return e->code;
    }
    x->margin_bp = margin;
    if (x->min_us > x->for_us) {
        return err_set(e, ERR_INVALID, "it would end (\"for\") before it may be shipped (\"min\")");
    }
    return ERR_OK;
}

static enum err_code do_start(const struct order *o, struct err *e)
{
    struct rollout_policy policy;

    if (read_start(o->member, &policy, e) != ERR_OK) {
        return e->code;
    }
    control_rollout_start(o->r->plane->control, str_of(o->model->row.name), (int64_t)o->member[VERSION].value, &policy,
                          o->member[RETRY].value != 0, ADMIN_ACTOR, done, answer_new(o->r, o->model));
    return ERR_OK;
}

static enum err_code do_ship(const struct order *o, struct err *e)
{
    (void)e;
    control_experiment_ship(o->r->plane->control, str_of(o->model->row.name), o->member[FORCE].value != 0, ADMIN_ACTOR,
                            done, answer_new(o->r, o->model));
    return ERR_OK;
}

static enum err_code do_stop(const struct order *o, struct err *e)
{
    const char *name = o->model->row.name;

    if (!experiment_running(o->model)) {
        return err_set(e, ERR_CONFLICT, "no experiment of '%s' is running%s%s", name,
                       rollout_soaking(o->model)   ? ": it was shipped, and weir rollback takes it back: "
                       : rollout_running(o->model) ? ": it is a rollout, which weir rollout abort ends: "
                                                   : "",
                       rollout_live(o->model) ? name : "");
    }
    control_rollback(o->r->plane->control, str_of(name), ADMIN_ACTOR, true, stopped, answer_new(o->r, o->model));
    return ERR_OK;
}

static const struct action {
    const char *name;
    enum err_code (*run)(const struct order *o, struct err *e);
    bool takes[MEMBERS];
} actions[] = {
    {"start",
     do_start,
     {[VERSION] = true,
      [GOAL] = true,
      [SHARE] = true,
      [FOR] = true,
      [MIN_TIME] = true,
      [ALPHA] = true,
      [MARGIN] = true,
      [RETRY] = true}},
    {"ship", do_ship, {[FORCE] = true}},
    {"stop", do_stop, {false}},
};

static const struct action *find_action(const struct member *m, struct err *e)
{
    for (size_t i = 0; m[ACTION].given && i < COUNT_OF(actions); i++) {
        const struct action *a = &actions[i];

        if (!str_is(m[ACTION].text, a->name)) {
            continue;
        }
        for (size_t k = ACTION + 1; k < MEMBERS; k++) {
            if (m[k].given && !a->takes[k]) {
                err_set(e, ERR_INVALID, "the action '%s' takes no \"%s\"", a->name, m[k].name);
                return NULL;
            }
        }
        return a;
    }
    err_set(e, ERR_INVALID, "\"action\" must be start, ship or stop, not '%.*s'",
            (int)MIN(m[ACTION].text.n, (size_t)40), m[ACTION].given ? m[ACTION].text.p : "");
    return NULL;
}

void admin_change_experiment(struct request *r)
{
    struct member m[MEMBERS] = {[ACTION] = {.name = "action"},
                                [VERSION] = {.name = "version", .number = true},
                                [GOAL] = {.name = "goal"},
                                [SHARE] = {.name = "share"},
                                [FOR] = {.name = "for"},
                                [MIN_TIME] = {.name = "min"},
                                [ALPHA] = {.name = "alpha"},
                                [MARGIN] = {.name = "margin"},
                                [RETRY] = {.name = "retry", .flag = true},
                                [FORCE] = {.name = "force", .flag = true}};
    struct order o = {.r = r, .model = read_model(r), .member = m};
    const struct action *a = NULL;
    yyjson_doc *doc = NULL;
    struct err e;

    if (!o.model) {
        return;
    }
    if (read_body(r, m, MEMBERS, &doc, &e) == ERR_OK) {
        a = find_action(m, &e);
    }
    if (!a || a->run(&o, &e) != ERR_OK) {
        reply_err(r, &e);
    }
    yyjson_doc_free(doc);
}
