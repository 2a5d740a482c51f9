/* SPDX-License-Identifier: Apache-2.0 */
/* Feedback: what became of an answered request, joined to the version and the arm that answered it.
 *
 * Each connection thread remembers its newest answers in a table of fixed size. Feedback may arrive on any thread: it
 * looks at its own table, then goes round the other threads, and comes back with the result. The counting is done by
 * the thread that answered, which alone writes that part of the series. */
#include <stdlib.h>
#include <sys/mman.h>
#include <yyjson.h>

#include "api/capture.h"
#include "api/data.h"
#include "base/hash.h"
#include "base/json.h"

#define JOIN_SLOTS 65536u
#define JOIN_PROBES 8u

enum { GOT_CLASS = 1, GOT_REWARD = 2 };

struct join_entry {
    uint64_t key; /* hash of model and id; 0: empty */
    uint64_t seq;
    uint64_t series_id;
    struct series *series;
    uint64_t predicted; /* hash of the class; 0: none */
    uint64_t user;      /* hash of the user's key; 0: none */
    int64_t version;
    uint8_t arm, got;
};
struct join {
    uint64_t seq;
    struct join_entry slot[JOIN_SLOTS];
};

struct join *join_new(void)
{
    struct join *j = mmap(NULL, sizeof(*j), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return j == MAP_FAILED ? xcalloc(1, sizeof(*j)) : j;
}

void join_free(struct join *j)
{
    if (j) {
        munmap(j, sizeof(*j));
    }
}

static uint64_t key_of(struct str model, struct str id)
{
    return hash64_seed(id.p, id.n, hash64(model.p, model.n)) | 1;
}

void join_put(struct join *j, struct str model, struct str id, struct series *series, int64_t version, enum arm arm,
              uint64_t user, struct str predicted)
{
    uint64_t key = key_of(model, id);
    struct join_entry *oldest = &j->slot[key % JOIN_SLOTS];

    for (unsigned i = 0; i < JOIN_PROBES; i++) {
        struct join_entry *e = &j->slot[(key + i) % JOIN_SLOTS];

        if (e->key == key || e->key == 0) {
            oldest = e;
            break;
        }
        oldest = e->seq < oldest->seq ? e : oldest;
    }
    *oldest = (struct join_entry){.key = key,
                                  .seq = ++j->seq,
                                  .series_id = series_id(series),
                                  .series = series,
                                  .version = version,
                                  .arm = (uint8_t)arm,
                                  .user = user,
                                  .predicted = predicted.p ? hash64(predicted.p, predicted.n) | 1 : 0};
}

static struct join_entry *join_find(struct join *j, uint64_t key)
{
    for (unsigned i = 0; i < JOIN_PROBES; i++) {
        struct join_entry *e = &j->slot[(key + i) % JOIN_SLOTS];

        if (e->key == key) {
            return e;
        }
    }
    return NULL;
}

/* ---- one feedback on its way round the threads ---- */

struct feedback {
    struct task task;
    struct plane *home; /* where the request is */
    struct request *r;  /* NULL: it went away; read and written by home's thread only */
    unsigned at;        /* the shard that is asked now */
    unsigned left;
    uint64_t key, label;
    char *id, *label_text; /* heap; label_text NULL: none */
    char model[NAME_MAX_LEN + 1];
    double reward;
    bool has_label, has_correct, correct, has_reward;
    /* the result */
    bool found, counted;
    int64_t version;
    enum arm arm;
    struct err err;
};

/* The series is only touched if somebody can still find it: it may have been retired since. */
static bool series_lives(const struct plane *p, const struct feedback *f, const struct join_entry *e)
{
    const struct route *t = router_find(p->router, str_of(f->model));
    bool lives = t && (t->stable_series == e->series || t->canary_series == e->series);

    for (size_t i = 0; t && !lives && i < t->n_versions; i++) {
        lives = t->versions[i].series == e->series;
    }
    return lives && series_id(e->series) == e->series_id;
}

/* A value of a request that was joined, for the first time. */
static void tell_goal(struct plane *p, const struct feedback *f, const struct join_entry *e, enum goal_kind kind,
                      double value)
{
    goal_value(p, str_of(f->model), e->series, kind, e->user ? e->user : e->key, value);
}

static void count(struct plane *p, struct feedback *f, struct join_entry *e)
{
    unsigned part = p->shard->index;

    if (!series_lives(p, f, e)) {
        err_set(&f->err, ERR_NOT_FOUND, "the request is known, but what it was counted in has ended");
        return;
    }
    if (f->has_label && e->predicted == 0) {
        err_set(&f->err, ERR_CONFLICT,
                "no predicted class is known for that request (a batch, or an output that is no class): send "
                "\"correct\" instead of \"label\"");
        return;
    }
    f->correct = f->has_label ? f->label == e->predicted : f->correct;
    if ((f->has_label || f->has_correct) && !(e->got & GOT_CLASS)) {
        series_correct(e->series, part, f->correct);
        tell_goal(p, f, e, GOAL_ACCURACY, f->correct ? 1 : 0);
        e->got |= GOT_CLASS;
        f->counted = true;
    }
    if (f->has_reward && !(e->got & GOT_REWARD)) {
        series_reward(e->series, part, f->reward);
        tell_goal(p, f, e, GOAL_REWARD, f->reward);
        e->got |= GOT_REWARD;
        f->counted = true;
    }
}

/* For the payload log; on home's thread. */
static void capture(const struct feedback *f)
{
    const struct data_facts *facts = f->home->facts;
    const struct route *t = router_find(f->home->router, str_of(f->model));
    struct capture_said said = {.rule = t ? t->capture : NULL,
                                .model = str_of(f->model),
                                .id = str_of(f->id),
                                .label = str_of(f->label_text),
                                .version = f->version,
                                .has_correct = f->has_correct,
                                .correct = f->correct,
                                .has_reward = f->has_reward,
                                .reward = f->reward};

    capture_feedback(facts->capture, &said);
}

static void reply(struct feedback *f)
{
    struct request *r = f->r;
    struct buf b;

    if (f->counted) {
        capture(f);
    }
    if (r) {
        r->state = NULL;
        if (!f->found) {
            err_set(&f->err, ERR_NOT_FOUND, "no request with that id was answered by model '%s' of late", f->model);
        }
        if (f->err.code != ERR_OK) {
            reply_err(r, &f->err);
        } else {
            buf_init(&b, 1024);
            buf_addf(&b, "{\"model\":\"%s\",\"version\":%lld,\"arm\":\"%s\",\"counted\":%s", f->model,
                     (long long)f->version, arm_names[f->arm], f->counted ? "true" : "false");
            if (f->has_label) {
                buf_addz(&b, f->correct ? ",\"correct\":true" : ",\"correct\":false");
            }
            BUF_LIT(&b, "}");
            reply_json(r, 200, &b);
            buf_done(&b);
        }
    }
    free(f->id);
    free(f->label_text);
    free(f);
}

static void on_home(struct task *t)
{
    reply(CONTAINER_OF(t, struct feedback, task));
}

static void look(struct plane *p, struct feedback *f)
{
    const struct data_facts *facts = p->facts;
    struct join_entry *e = join_find(facts->join, f->key);

    f->left--;
    if (e) {
        f->found = true;
        f->version = e->version;
        f->arm = (enum arm)e->arm;
        count(p, f, e);
    }
}

static void on_visit(struct task *t)
{
    struct feedback *f = CONTAINER_OF(t, struct feedback, task);
    const struct data_facts *home = f->home->facts;
    struct plane *p = home->planes[f->at];

    look(p, f);
    if (f->found || f->left == 0) {
        f->task.fn = on_home;
        loop_post(f->home->shard->loop, &f->task);
    } else {
        f->at = (f->at + 1) % home->n_planes;
        loop_post(home->planes[f->at]->shard->loop, &f->task);
    }
}

/* ---- the request ---- */

static enum err_code read_body(struct feedback *f, struct request *r, struct err *e)
{
    yyjson_read_err why;
    yyjson_doc *doc = yyjson_read_opts(r->body.p, r->body.p ? r->body.n : 0, YYJSON_READ_NOFLAG, NULL, &why);
    yyjson_val *root = yyjson_doc_get_root(doc), *id = yyjson_obj_get(root, "id"),
               *label = yyjson_obj_get(root, "label"), *correct = yyjson_obj_get(root, "correct"),
               *reward = yyjson_obj_get(root, "reward");
    enum err_code rc = ERR_OK;

    if (!doc && why.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION) {
        rc = err_set(e, ERR_UNAVAILABLE, "no memory for the body of the request");
    } else if (!yyjson_is_obj(root)) {
        rc =
            err_set(e, ERR_INVALID, "feedback is a JSON object: {\"id\": …, and \"label\", \"correct\" or \"reward\"}");
    } else if (!yyjson_is_str(id) || yyjson_get_len(id) == 0) {
        rc = err_set(e, ERR_INVALID, "id is missing: it is the X-Request-Id of the reply, a string");
    } else if ((label && !yyjson_is_str(label)) || (correct && !yyjson_is_bool(correct)) ||
               (reward && !yyjson_is_num(reward))) {
        rc = err_set(e, ERR_INVALID, "label is a string, correct is true or false, reward is a number");
    } else if (!label && !correct && !reward) {
        rc = err_set(e, ERR_INVALID, "feedback says at least one of label, correct and reward");
    } else if (label && correct) {
        rc = err_set(e, ERR_INVALID, "feedback says label or correct, not both");
    } else {
        f->id = xstrndup(yyjson_get_str(id), yyjson_get_len(id));
        f->label_text = label ? xstrndup(yyjson_get_str(label), yyjson_get_len(label)) : NULL;
        f->key = key_of(r->arg[0], (struct str){yyjson_get_str(id), yyjson_get_len(id)});
        f->has_label = label != NULL;
        f->label = label ? hash64(yyjson_get_str(label), yyjson_get_len(label)) | 1 : 0;
        f->has_correct = correct != NULL;
        f->correct = yyjson_is_true(correct);
        f->has_reward = reward != NULL;
        f->reward = yyjson_get_num(reward);
    }
    yyjson_doc_free(doc);
    return rc;
}

void feedback_run(struct request *r)
{
    const struct data_facts *facts = r->plane->facts;
    struct feedback *f;
    struct err e;

    if (!router_find(r->plane->router, r->arg[0])) {
        err_set(&e, ERR_NOT_FOUND, "no model '" STR_FMT "'", STR_ARG(r->arg[0]));
        reply_err(r, &e);
        return;
    }
    f = xcalloc(1, sizeof(*f));
    if (read_body(f, r, &e) != ERR_OK) {
        free(f);
        reply_err(r, &e);
        return;
    }
    str_copy(f->model, sizeof(f->model), r->arg[0]);
    f->home = r->plane;
    f->r = r;
    f->left = facts->n_planes;
    look(r->plane, f);
    if (f->found || f->left == 0) {
        reply(f);
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
