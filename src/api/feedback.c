/* SPDX-License-Identifier: Apache-2.0 */
/* Feedback: what became of answered requests, joined to the version and the arm that answered them.
 *
 * Each connection thread remembers its newest answers in a table of its own (join.h). Feedback may arrive on any
 * thread: it looks at that one's table, then goes round the other threads with what is not found yet, and comes back
 * with the results. The counting is done by the thread that answered, which alone writes its part of the series and of
 * the tally.
 *
 * The first value about an answer counts; a repeat changes nothing. With `supersede` it corrects the accuracy or the
 * mean that is shown, but never the judge's test: that may be looked at at any time because nothing in it is taken
 * back. */
#include <stdlib.h>

#include "api/capture.h"
#include "api/data.h"
#include "api/feedback_read.h"
#include "api/shadow.h"
#include "base/json.h"

#define ERRORS_TOLD 20

struct feedback { /* on its way round the threads */
    struct task task;
    struct plane *home; /* where the request is */
    struct request *r;  /* NULL: it went away; read and written by home's thread only */
    unsigned at;        /* the shard that is asked now */
    unsigned left;      /* threads to ask */
    size_t open;        /* items that are not found yet */
    char model[NAME_MAX_LEN + 1];
    struct feedback_items items;
};

/* ---- counting, by the thread that answered ---- */

/* What was said about an answer for the first time. */
struct first_value {
    bool has_correct, correct, has_reward;
    uint64_t label; /* join_label of the true class; 0: only whether it was right is known */
    double reward;
};

/* Everything that counts answers by what became of them, beside the series, is told here, once for each value. */
static void first_value(struct plane *p, const struct route *t, const struct join_entry *e, const struct first_value *v)
{
    if (v->has_correct) {
        shadow_feedback(p, str_of(t->name), e->key, v->label, v->correct);
    }
    if (t->tally && e->tally == tally_id(t->tally)) {
        uint64_t key = e->answer.key ? e->answer.key : e->answer.id;

        if (v->has_correct) {
            tally_label(t->tally, p->shard->index, &e->answer, !v->correct);
            goal_value(p, t, e->answer.arm, GOAL_ACCURACY, key, v->correct ? 1 : 0);
        }
        if (v->has_reward) {
            tally_reward(t->tally, p->shard->index, &e->answer, v->reward);
            goal_value(p, t, e->answer.arm, GOAL_REWARD, key, v->reward);
        }
    }
}

/* The answer's entry goes on with this series. */
static void move_to(struct join_entry *e, const struct series *s)
{
    if (e->series_id != series_id(s)) {
        e->series_id = series_id(s);
        e->got &= (uint8_t)~(JOIN_LABEL_HERE | JOIN_REWARD_HERE);
    }
}

static void count_label(struct series *s, unsigned part, struct join_entry *e, struct feedback_item *f,
                        struct first_value *v)
{
    bool first = !(e->got & JOIN_LABEL);

    if (!first && !f->supersede) {
        return;
    }
    if (e->got & JOIN_LABEL_HERE) {
        series_recorrect(s, part, e->got & JOIN_CORRECT, f->correct);
    } else {
        series_correct(s, part, f->correct);
    }
    e->got = (uint8_t)((e->got & ~JOIN_CORRECT) | JOIN_LABEL | JOIN_LABEL_HERE | (f->correct ? JOIN_CORRECT : 0));
    f->changed |= !first;
    v->has_correct = first;
    v->correct = f->correct;
    v->label = f->label;
}

static void count_reward(struct series *s, unsigned part, struct join_entry *e, struct feedback_item *f,
                         struct first_value *v)
{
    bool first = !(e->got & JOIN_REWARD);

    if (!first && !f->supersede) {
        return;
    }
    if (e->got & JOIN_REWARD_HERE) {
        series_rereward(s, part, e->reward, f->reward);
    } else {
        series_reward(s, part, f->reward);
    }
    e->got |= JOIN_REWARD | JOIN_REWARD_HERE;
    e->reward = f->reward;
    f->changed |= !first;
    v->has_reward = first;
    v->reward = f->reward;
}

static void count(struct plane *p, const struct route *t, struct join_entry *e, struct feedback_item *f)
{
    unsigned part = p->shard->index;
    struct series *s = join_series(t, e);
    struct first_value v = {0};

    f->found = true;
    f->version = e->version;
    f->arm = e->arm;
    if (!s) {
        f->result = FEEDBACK_LATE;
        return;
    }
    if (f->has_label && e->predicted == 0) {
        f->why = "no predicted class is known for that request (a batch, or an output that is no class): send "
                 "\"correct\" instead of \"label\"";
        return;
    }
    f->correct = f->has_label ? f->label == e->predicted : f->correct;
    move_to(e, s);
    if (f->has_label || f->has_correct) {
        count_label(s, part, e, f, &v);
    }
    if (f->has_reward) {
        count_reward(s, part, e, f, &v);
    }
    f->result = v.has_correct || v.has_reward ? FEEDBACK_JOINED : f->changed ? FEEDBACK_SUPERSEDED : FEEDBACK_DUPLICATE;
    if (f->result == FEEDBACK_JOINED) {
        first_value(p, t, e, &v);
    }
}

static void look(struct plane *p, struct feedback *f)
{
    const struct data_facts *facts = p->facts;
    const struct route *t = router_find(p->router, str_of(f->model));

    f->left--;
    for (size_t i = 0; t && i < f->items.n; i++) {
        struct feedback_item *item = &f->items.item[i];
        struct join_entry *e = item->why || item->found ? NULL : join_find(facts->join, item->key);

        if (e) {
            count(p, t, e, item);
            f->open--;
        }
    }
}

/* ---- the reply ---- */

static void reply_one(const struct feedback *f)
{
    const struct feedback_item *item = f->items.item;
    struct request *r = f->r;
    struct err e = {0};
    struct buf b;

    if (item->why) {
        err_set(&e, item->found ? ERR_CONFLICT : ERR_INVALID, "%s", item->why);
    } else if (!item->found) {
        err_set(&e, ERR_NOT_FOUND, "no request with that id was answered by model '%s' of late", f->model);
    } else if (item->result == FEEDBACK_LATE) {
        err_set(&e, ERR_NOT_FOUND,
                "the request is known, but what it was counted in has ended, and version %lld serves no more",
                (long long)item->version);
    }
    if (e.code != ERR_OK) {
        reply_err(r, &e);
        return;
    }
    buf_init(&b, 1024);
    buf_addf(&b, "{\"model\":\"%s\",\"version\":%lld,\"arm\":\"%s\",\"counted\":%s", f->model, (long long)item->version,
             arm_names[item->arm], item->result == FEEDBACK_JOINED ? "true" : "false");
    if (item->changed) {
        BUF_LIT(&b, ",\"superseded\":true");
    }
    if (item->has_label) {
        buf_addz(&b, item->correct ? ",\"correct\":true" : ",\"correct\":false");
    }
    BUF_LIT(&b, "}");
    reply_json(r, 200, &b);
    buf_done(&b);
}

static void reply_lines(const struct feedback *f)
{
    uint64_t n[FEEDBACK_RESULTS] = {0}, refused = 0;
    struct buf b;

    buf_init(&b, 64 << 10);
    for (size_t i = 0; i < f->items.n; i++) {
        const struct feedback_item *item = &f->items.item[i];

        refused += item->why != NULL;
        n[item->result] += item->why == NULL;
    }
    buf_addf(&b, "{\"model\":\"%s\",\"counted\":%llu,\"superseded\":%llu,\"duplicates\":%llu,\"orphans\":%llu,",
             f->model, (unsigned long long)n[FEEDBACK_JOINED], (unsigned long long)n[FEEDBACK_SUPERSEDED],
             (unsigned long long)n[FEEDBACK_DUPLICATE], (unsigned long long)n[FEEDBACK_ORPHAN]);
    buf_addf(&b, "\"late\":%llu,\"refused\":%llu,\"errors\":[", (unsigned long long)n[FEEDBACK_LATE],
             (unsigned long long)refused);
    for (size_t i = 0, told = 0; i < f->items.n && told < ERRORS_TOLD; i++) {
        const struct feedback_item *item = &f->items.item[i];

        if (item->why) {
            json_comma(&b);
            buf_addf(&b, "{\"line\":%u,\"error\":", item->line);
            json_strz(&b, item->why);
            BUF_LIT(&b, "}");
            told++;
        }
    }
    BUF_LIT(&b, "]}");
    reply_json(f->r, 200, &b);
    buf_done(&b);
}

/* For the payload log: what was counted, and what corrected it. */
static void capture(const struct feedback *f, const struct route *t, const struct feedback_item *item)
{
    const struct data_facts *facts = f->home->facts;
    struct capture_said said = {.rule = t->capture,
                                .model = str_of(f->model),
                                .id = feedback_id(&f->items, item),
                                .label = feedback_label(&f->items, item),
                                .version = item->version,
                                .has_correct = item->has_correct,
                                .correct = item->correct,
                                .has_reward = item->has_reward,
                                .reward = item->reward};

    if (item->result == FEEDBACK_JOINED || item->result == FEEDBACK_SUPERSEDED) {
        capture_feedback(facts->capture, &said);
    }
}

/* Back at home: counted by what became of them, answered if somebody still waits. */
static void finish(struct feedback *f)
{
    const struct route *t = router_find(f->home->router, str_of(f->model));

    for (size_t i = 0; t && i < f->items.n; i++) {
        const struct feedback_item *item = &f->items.item[i];

        if (!item->why) {
            atomic_fetch_add_explicit(&t->feedback[item->result], 1, memory_order_relaxed);
            capture(f, t, item);
        }
    }
    if (f->r) {
        f->r->state = NULL;
        if (f->items.lines) {
            reply_lines(f);
        } else {
            reply_one(f);
        }
    }
    feedback_items_done(&f->items);
    free(f);
}

/* ---- round the threads ---- */

static void on_home(struct task *t)
{
    finish(CONTAINER_OF(t, struct feedback, task));
}

static void on_visit(struct task *t)
{
    struct feedback *f = CONTAINER_OF(t, struct feedback, task);
    const struct data_facts *home = f->home->facts;

    look(home->planes[f->at], f);
    if (f->open == 0 || f->left == 0) {
        f->task.fn = on_home;
        loop_post(f->home->shard->loop, &f->task);
    } else {
        f->at = (f->at + 1) % home->n_planes;
        loop_post(home->planes[f->at]->shard->loop, &f->task);
    }
}

/* By what the sender says of it; a parameter may stand behind the type. */
static bool line_by_line(const struct request *r)
{
    static const struct str ndjson = {"application/x-ndjson", 20};
    struct str type = http_header(r->x, "content-type");

    return type.n >= ndjson.n && str_eq((struct str){type.p, ndjson.n}, ndjson);
}

void feedback_run(struct request *r)
{
    const struct data_facts *facts = r->plane->facts;
    struct feedback_items items;
    struct feedback *f;
    struct err e;

    if (!router_find(r->plane->router, r->arg[0])) {
        err_set(&e, ERR_NOT_FOUND, "no model '" STR_FMT "'", STR_ARG(r->arg[0]));
        reply_err(r, &e);
        return;
    }
    if (feedback_read(&items, r->arg[0], buf_str(&r->body), line_by_line(r), &e) != ERR_OK) {
        reply_err(r, &e);
        return;
    }
    f = xcalloc(1, sizeof(*f));
    f->items = items;
    str_copy(f->model, sizeof(f->model), r->arg[0]);
    f->home = r->plane;
    f->r = r;
    f->left = facts->n_planes;
    for (size_t i = 0; i < items.n; i++) {
        f->open += items.item[i].why == NULL;
    }
    if (f->open > 0) {
        look(r->plane, f);
    }
    if (f->open == 0 || f->left == 0) {
        finish(f);
        return;
    }
    r->pending = true;
    r->state = f;
    f->at = (r->plane->shard->index + 1) % facts->n_planes;
    f->task.fn = on_visit;
    loop_post(facts->planes[f->at]->shard->loop, &f->task);
}

void feedback_finished(struct request *r)
{
    struct feedback *f = r->state;

    if (f) {
        f->r = NULL;
        r->state = NULL;
    }
}
