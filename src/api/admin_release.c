/* SPDX-License-Identifier: Apache-2.0 */
/* Releasing: rollouts, promotion, rollback. Each is one call of control; the reply tells how things stand afterwards.
 *
 * Thread: control's loop. */
#include <stdlib.h>

#include "api/admin_priv.h"
#include "base/json.h"

struct release {
    struct ticket ticket;
    char model[NAME_MAX_LEN + 1];
};

static struct release *release_new(struct request *r, const struct model *m)
{
    struct release *g = xcalloc(1, sizeof(*g));

    str_copy(g->model, sizeof(g->model), str_of(m->row.name));
    ticket_open(&g->ticket, r, NULL);
    return g;
}

void admin_show_rollout(struct request *r)
{
    const struct model *m = read_model(r);
    struct err e;

    if (!m) {
        return;
    }
    if (!m->rollout.id[0]) {
        err_set(&e, ERR_NOT_FOUND, "'%s' has had no rollout yet: weir push %s PATH --canary 5%%, or --rollout default",
                m->row.name, m->row.name);
        reply_err(r, &e);
        return;
    }
    json_rollout_reply(json_reply(r, 200), m);
    http_reply_end(r->x);
}

static void released(void *ctx, const struct err *e)
{
    struct release *g = ctx;
    struct request *r = ticket_close(&g->ticket);

    if (r && e->code != ERR_OK) {
        reply_err(r, e);
    } else if (r) {
        const struct model *m = control_model(r->plane->control, str_of(g->model));

        assert(m);
        json_rollout_reply(json_reply(r, 200), m);
        http_reply_end(r->x);
    }
    free(g);
}

static void aborted(void *ctx, const struct rollback_result *res, const struct err *e)
{
    (void)res;
    released(ctx, e);
}

/* ---- POST …/rollout ---- */

enum { ACTION, VERSION, SHARE, POLICY, STEPS, RETRY, MEMBERS };

struct order { /* what was asked for, checked */
    struct request *r;
    const struct model *model;
    int64_t version; /* 0: not said */
    uint32_t share_bp;
    struct rollout_policy policy;
    bool retry;
};

static void do_start(const struct order *o)
{
    control_rollout_start(o->r->plane->control, str_of(o->model->row.name), o->version, &o->policy, o->retry,
                          ADMIN_ACTOR, released, release_new(o->r, o->model));
}

static void send_event(const struct order *o, enum rollout_event_kind kind)
{
    control_rollout_event(o->r->plane->control, str_of(o->model->row.name), kind, o->share_bp, ADMIN_ACTOR, released,
                          release_new(o->r, o->model));
}

static void do_set(const struct order *o)
{
    send_event(o, EVENT_SET);
}

static void do_pause(const struct order *o)
{
    send_event(o, EVENT_PAUSE);
}

static void do_resume(const struct order *o)
{
    send_event(o, EVENT_RESUME);
}

static void do_skip(const struct order *o)
{
    send_event(o, EVENT_SKIP);
}

static void do_promote(const struct order *o)
{
    control_promote(o->r->plane->control, str_of(o->model->row.name), o->version, ADMIN_ACTOR, released,
                    release_new(o->r, o->model));
}

static void do_abort(const struct order *o)
{
    control_rollback(o->r->plane->control, str_of(o->model->row.name), ADMIN_ACTOR, true, aborted,
                     release_new(o->r, o->model));
}

/* What each action takes. */
enum need { NO, MAY, MUST };
static const struct action {
    const char *name;
    enum need need[MEMBERS];
    void (*run)(const struct order *o);
} actions[] = {
    {"start", {MUST, MUST, MAY, MAY, MAY, MAY}, do_start},
    {"set", {[ACTION] = MUST, [SHARE] = MUST}, do_set},
    {"pause", {MUST}, do_pause},
    {"resume", {MUST}, do_resume},
    {"skip", {MUST}, do_skip},
    {"promote", {[ACTION] = MUST, [VERSION] = MAY}, do_promote},
    {"abort", {MUST}, do_abort},
};

static const struct action *find_action(const struct member *m, struct err *e)
{
    for (size_t i = 0; m->given && i < COUNT_OF(actions); i++) {
        if (str_is(m->text, actions[i].name)) {
            return &actions[i];
        }
    }
    err_set(e, ERR_INVALID, "\"action\" must be start, set, pause, resume, skip, promote or abort, not '%.*s'",
            (int)MIN(m->text.n, (size_t)40), m->given ? m->text.p : "");
    return NULL;
}

static enum err_code check_needs(const struct action *a, const struct member *m, struct err *e)
{
    for (size_t i = 0; i < MEMBERS; i++) {
        if (a->need[i] == MUST && !m[i].given) {
            return err_set(e, ERR_INVALID, "the action '%s' needs \"%s\"", a->name, m[i].name);
        }
        if (a->need[i] == NO && m[i].given) {
            return err_set(e, ERR_INVALID, "the action '%s' takes no \"%s\"", a->name, m[i].name);
        }
    }
    return ERR_OK;
}

static enum err_code read_start(const struct member *m, struct order *o, struct err *e)
{
    if (!m[SHARE].given && !m[POLICY].given && !m[STEPS].given) {
        return err_set(e, ERR_INVALID,
                       "the action 'start' needs \"share\" (a person moves it on) or \"policy\" or \"steps\" (it "
                       "goes on by itself)");
    }
    return read_policy(o->r->plane->control, m[SHARE].text, m[POLICY].text, m[STEPS].text, &o->policy, e);
}

/* NULL: *e says why. */
static const struct action *read_order(const struct member *m, struct order *o, struct err *e)
{
    const struct action *a = find_action(&m[ACTION], e);

    if (!a || check_needs(a, m, e) != ERR_OK) {
        return NULL;
    }
    if (m[VERSION].given && (m[VERSION].value == 0 || m[VERSION].value > INT32_MAX)) {
        err_set(e, ERR_INVALID, "\"version\" must be a version's number, 1 or more");
        return NULL;
    }
    o->version = (int64_t)m[VERSION].value;
    o->retry = m[RETRY].value != 0;
    if (a->run == do_start) {
        return read_start(m, o, e) == ERR_OK ? a : NULL;
    }
    if (m[SHARE].given && read_share(m[SHARE].text, &o->share_bp, e) != ERR_OK) {
        return NULL;
    }
    return a;
}

void admin_change_rollout(struct request *r)
{
    struct member m[MEMBERS] = {[ACTION] = {.name = "action"}, [VERSION] = {.name = "version", .number = true},
                                [SHARE] = {.name = "share"},   [POLICY] = {.name = "policy"},
                                [STEPS] = {.name = "steps"},   [RETRY] = {.name = "retry", .flag = true}};
    struct order o = {.r = r, .model = read_model(r)};
    const struct action *a = NULL;
    yyjson_doc *doc = NULL;
    struct err e;

    if (!o.model) {
        return;
    }
    if (read_body(r, m, MEMBERS, &doc, &e) == ERR_OK) {
        a = read_order(m, &o, &e);
    }
    if (a) {
        a->run(&o);
    } else {
        reply_err(r, &e);
    }
    yyjson_doc_free(doc);
}

/* ---- POST …/rollback ---- */

static void rolled_back(void *ctx, const struct rollback_result *res, const struct err *e)
{
    struct release *g = ctx;
    struct request *r = ticket_close(&g->ticket);

    if (r && e->code != ERR_OK) {
        reply_err(r, e);
    } else if (r) {
        struct buf *b = json_reply(r, 200);

        BUF_LIT(b, "{\"model\":");
        json_strz(b, g->model);
        buf_addf(b, ",\"from\":%lld,\"to\":%lld,\"text\":", (long long)res->from, (long long)res->to);
        json_strz(b, res->text);
        buf_addf(b, ",\"durable\":%s,\"took_us\":%llu}", res->durable ? "true" : "false",
                 (unsigned long long)res->took_us);
        http_reply_end(r->x);
    }
    free(g);
}

void admin_rollback(struct request *r)
{
    const struct model *m = read_model(r);
    yyjson_doc *doc = NULL;
    struct err e;

    if (!m) {
        return;
    }
    if (read_body(r, NULL, 0, &doc, &e) != ERR_OK) {
        reply_err(r, &e);
    } else {
        control_rollback(r->plane->control, str_of(m->row.name), ADMIN_ACTOR, false, rolled_back, release_new(r, m));
    }
    yyjson_doc_free(doc);
}
