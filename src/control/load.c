/* SPDX-License-Identifier: Apache-2.0 */
/* Loading and unloading a version: verify the artifact (store thread), read model.yaml, open a pool; and what the pool
 * tells. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/control_priv.h"

#define MODEL_YAML_MAX (256u << 10)
#define LABELS_MAX 100000u

struct waiter {
    struct waiter *next;
    void (*fn)(void *ctx, const struct err *e);
    void *ctx;
};

struct load_job {
    struct store_job job;
    struct task back;
    struct control *c;
    struct version *v;
    char digest[65];
    int dirfd;
    struct buf yaml;
    struct err err;
};

bool version_loaded(const struct version *v)
{
    return v->state == VERSION_READY || v->state == VERSION_DEGRADED;
}

static void tell_waiters(struct version *v, const struct err *e)
{
    struct waiter *w = v->waiters;

    v->waiters = NULL;
    while (w) {
        struct waiter *next = w->next;

        w->fn(w->ctx, e);
        free(w);
        w = next;
    }
}

void version_close(struct version *v, uint64_t drain_us)
{
    budget_leave(&v->model->control->budget, &v->claim);
    pool_close(v->pool, drain_us);
}

static void fail(struct version *v, const struct err *e)
{
    v->state = VERSION_FAILED;
    v->why = *e;
    v->on_demand = false;
    budget_leave(&v->model->control->budget, &v->claim); /* its pool closes; without one it is gone at once */
    log_error("control", "a version can not be loaded model=%s version=%lld reason=\"%s\"", v->model->row.name,
              (long long)v->row.number, e->text);
}

/* ---- model.yaml ---- */

static enum err_code take_labels(struct version *v, const struct conf *y, const struct conf_node *list, struct err *e)
{
    size_t n = 0;

    if (list->kind != CONF_LIST) {
        return conf_error(y, list, e, "labels is a list of class names, by index");
    }
    for (const struct conf_node *i = list->child; i; i = i->next) {
        if (i->kind != CONF_SCALAR || ++n > LABELS_MAX) {
            return conf_error(y, i, e, "labels holds at most %u names", LABELS_MAX);
        }
    }
    v->labels = xcalloc(MAX(n, (size_t)1), sizeof(char *));
    for (const struct conf_node *i = list->child; i; i = i->next) {
        v->labels[v->n_labels++] = xstrdup(i->text);
    }
    return ERR_OK;
}

/* The same as a family's, for this version alone. */
static const struct setting batch_settings[] = {
    {"max", SET_U64, offsetof(struct version, batch_max), "64", 1, 256, NULL, "most rows joined into one run"},
    {"delay", SET_DURATION, offsetof(struct version, batch_delay_us), "0s", 0, 10000000, NULL, "wait for company"},
    {"slo", SET_DURATION, offsetof(struct version, batch_slo_us), "0s", 0, 3600000000ull, NULL, "latency to keep"},
};

/* Keys that are not ours (description, sample, reference, …) belong to others and are left alone. */
static enum err_code take_yaml(struct version *v, struct str text, struct err *e)
{
    AUTO(conf) y = NULL;
    const struct conf_node *n;

    for (size_t i = 0; i < v->n_labels; i++) {
        free(v->labels[i]);
    }
    free(v->labels);
    v->labels = NULL;
    v->n_labels = 0;
    v->prediction_output[0] = '\0';
    v->batch_max = v->family->batch_max;
    v->batch_delay_us = v->family->batch_delay_us;
    v->batch_slo_us = v->family->batch_slo_us;
    if (text.n == 0) {
        return upstream_read(v, NULL, e);
    }
    if (conf_read_text(&y, "model.yaml", text, e) != ERR_OK) {
        return e->code;
    }
    if (upstream_read(v, y, e) != ERR_OK) {
        return e->code;
    }
    n = conf_find(y->root, "labels");
    if (n && take_labels(v, y, n, e) != ERR_OK) {
        return e->code;
    }
    n = conf_find(y->root, "batch");
    if (n && settings_read(batch_settings, COUNT_OF(batch_settings), y, n, NULL, v, e) != ERR_OK) {
        return e->code;
    }
    n = conf_find(y->root, "prediction");
    if (n) {
        const struct conf_node *o = n->kind == CONF_MAP ? conf_find(n, "output") : NULL;

        if (!o || o->kind != CONF_SCALAR ||
            !str_copy(v->prediction_output, sizeof(v->prediction_output), str_of(o->text))) {
            return conf_error(y, n, e, "prediction wants {output: NAME OF AN OUTPUT}");
        }
    }
    return ERR_OK;
}

/* The output that says the class: as model.yaml says, else one named like a label, else the only output if it looks
 * like scores. */
static enum err_code find_prediction(struct version *v, struct err *e)
{
    const struct model_info *info = v->info;

    v->prediction = -1;
    for (uint32_t i = 0; i < info->n_out; i++) {
        const char *name = info->out[i].name;

        if (v->prediction_output[0] ? strcmp(name, v->prediction_output) == 0
                                    : strcmp(name, "label") == 0 || strcmp(name, "output_label") == 0) {
            v->prediction = (int)i;
        }
    }
    if (v->prediction < 0 && v->prediction_output[0]) {
        return err_set(e, ERR_REFUSED, "model.yaml: prediction.output is '%s', but the model has no such output",
                       v->prediction_output);
    }
    if (v->prediction < 0 && info->n_out == 1 && (v->n_labels > 0 || info->out[0].dtype == DTYPE_FP32) &&
        info->out[0].rank == 2) {
        v->prediction = 0;
    }
    return ERR_OK;
}

/* ---- the pool's events ---- */

static void on_ready(void *ctx, struct pool *p)
{
    struct version *v = ctx;
    struct control *c = v->model->control;
    struct err e = {ERR_OK, ""};

    v->info = pool_info(p);
    if (find_prediction(v, &e) != ERR_OK) {
        fail(v, &e);
        pool_close(p, 0);
    } else {
        v->state = VERSION_READY;
        v->load_ms = (double)(clock_us() - v->load_began_us) / 1000;
        v->direct = v->direct ? v->direct : control_series(c);
        memory_ready(v);
        log_info("control", "a version is ready model=%s version=%lld load_ms=%.0f", v->model->row.name,
                 (long long)v->row.number, v->load_ms);
    }
    if (!v->pushing) {
        control_publish(c); /* before those who wait look again */
    }
    tell_waiters(v, &e);
    version_follow(v);
    control_check_ready(c);
}

/* The far side does not answer: that says nothing about the version, which is loaded as soon as it does. */
static void far_away(struct version *v, const struct err *why)
{
    v->state = VERSION_COLD;
    v->why = *why;
    v->on_demand = false;
    budget_leave(&v->model->control->budget, &v->claim);
    log_warn("control", "a version's far side is away model=%s version=%lld reason=\"%s\"", v->model->row.name,
             (long long)v->row.number, why->text);
}

static void on_failed(void *ctx, struct pool *p, const struct err *why)
{
    struct version *v = ctx;
    struct control *c = v->model->control;

    (void)p;
    if (place_is_far(version_place(v)) && why->code == ERR_UNAVAILABLE && !v->pushing) {
        far_away(v, why);
    } else {
        fail(v, why);
    }
    tell_waiters(v, why);
    if (!v->pushing) {
        control_publish(c);
    }
    control_check_ready(c);
}

static void on_sick(void *ctx, struct pool *p, const struct err *last)
{
    struct version *v = ctx;
    struct model *m = v->model;
    struct err e;

    v->why = *last;
    if (!v->pushing && (rollout_running(m) || rollout_soaking(m)) && m->rollout.canary == v->row.number) {
        canary_sick(m, last);
    }
    if (!pool_productive(p)) {
        err_set(&e, ERR_UNAVAILABLE, "five of its own deaths within 60 s before it did any work; the last: %s",
                last->text);
        fail(v, &e);
        control_publish(m->control);
        version_close(v, 0);
    } else {
        log_error("control",
                  "a version keeps dying; it is restarted with growing pauses model=%s version=%lld last=\"%s\"",
                  m->row.name, (long long)v->row.number, last->text);
    }
}

static void load_begin(struct version *v, bool evict);

/* A model's deaths are told since the server started, whichever version it was. */
static void keep_deaths(struct model *m, const struct pool *p)
{
    for (unsigned i = 0; i < pool_instances(p); i++) {
        struct pool_instance one;

        pool_instance(p, i, &one);
        m->deaths += one.deaths;
        m->own_deaths += one.own_deaths;
    }
}

static void on_closed(void *ctx, struct pool *p)
{
    struct version *v = ctx;
    struct control *c = v->model->control;
    struct err e;

    keep_deaths(v->model, p);
    c->slot[v->slot] = NULL;
    c->pools--;
    v->slot = -1;
    v->pool = NULL;
    v->info = NULL;
    memory_gone(v);
    if (v->state != VERSION_FAILED && v->state != VERSION_COLD) {
        v->state = VERSION_REGISTERED;
    }
    if (v->direct) {
        control_retire(c, v->pushing ? NULL : v, v->direct);
        v->direct = NULL;
    }
    if (!c->stopping) {
        control_publish(c);
    }
    if (v->waiters && v->state == VERSION_COLD && !c->stopping) { /* wanted again while it went */
        load_begin(v, true);
    } else if (v->waiters) { /* it was unloaded before it was ready */
        err_set(&e, ERR_UNAVAILABLE, c->stopping ? "the server is stopping" : "version %lld was unloaded meanwhile",
                (long long)v->row.number);
        tell_waiters(v, &e);
    }
    if (v->refused) { /* nobody else knows it */
        version_free(v);
    } else if (!c->stopping && !v->pushing) {
        model_reconcile(v->model);
    }
    memory_retry(c);
    if (c->stopping && c->pools == 0) {
        loop_post(c->loop, &c->closed);
    }
}

static const struct pool_events pool_events = {on_ready, on_failed, on_sick, on_closed};

/* ---- loading ---- */

/* The processors, shared by all executors that are loaded: more threads than processors only get in each other's way.
 */
static unsigned threads_for(const struct control *c, const struct family *f)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t executors = f->instances;

    for (size_t i = 0; i < VERSION_SLOTS; i++) {
        if (c->slot[i] && version_place(c->slot[i]) == PLACE_WORKER) {
            executors += c->slot[i]->family->instances;
        }
    }
    return (unsigned)MAX((uint64_t)MAX(processors, 1) / executors, 1u);
}

/* The device's lane; NULL for the processor, or when there are more devices than lanes: then nothing is shared. */
static struct device_lane *lane_for(struct control *c, const char *device)
{
    for (size_t i = 0; device && strcmp(device, "cpu") != 0 && i < LANES_MAX; i++) {
        struct device_lane *l = &c->lane[i];

        if (l->device[0] == '\0') {
            str_copy(l->device, sizeof(l->device), str_of(device));
            l->credits = LANE_CREDITS;
        }
        if (strcmp(l->device, device) == 0) {
            return l;
        }
    }
    return NULL;
}

static enum err_code open_pool(struct version *v, int dirfd, struct err *e)
{
    struct model *m = v->model;
    struct control *c = m->control;
    const struct family *f = v->family;
    enum place place = version_place(v);
    const struct engine_ops *ops = c->spec.ops.engine(v->row.backend, place);
    char name[TENSOR_NAME_MAX + 1], number[24];
    struct far_place far;
    struct pool_spec spec = {.name = name,
                             .backend = v->row.backend,
                             .library = c->spec.ops.library,
                             .program = c->spec.ops.program,
                             .dirfd = dirfd,
                             .far = version_far(v, &far, number) ? &far : NULL,
                             .on_thread = place == PLACE_INLINE,
                             .instances = place_is_far(place) ? 1 : (unsigned)f->instances,
                             .threads = (unsigned)f->threads,
                             .threads_max = threads_for(c, f),
                             .batch = {(uint32_t)v->batch_max, v->batch_delay_us, v->batch_slo_us},
                             .device =
                                 place_is_far(place) ? "cpu" : f->device, /* there it is the other server's matter */
                             .lane = place_is_far(place) ? NULL : lane_for(c, f->device),
                             .memory_max = memory_left(v),
                             .strict = c->spec.strict,
                             .run_max_us = place == PLACE_INLINE ? f->inline_max_us : 0,
                             .queue_requests = f->queue_requests,
                             .queue_bytes = f->queue_bytes,
                             .timeout_us = f->timeout_us,
                             .part_bytes = MAX(2 * f->queue_bytes, 4 * c->spec.body_max),
                             .out_bytes = f->out_bytes};
    unsigned slot = 0;

    while (slot < VERSION_SLOTS && c->slot[slot]) {
        slot++;
    }
    if (slot == VERSION_SLOTS) {
        return err_set(e, ERR_UNAVAILABLE, "%d versions are loaded, as many as there may be", VERSION_SLOTS);
    }
    if (!ops) {
        return err_set(e, ERR_UNIMPLEMENTED, "models of backend '%s' are not part of this server yet", v->row.backend);
    }
    snprintf(name, sizeof(name), "%s/%lld", m->row.name, (long long)v->row.number);
    spec.slot = slot;
    c->slot[slot] = v;
    v->slot = (int)slot;
    if (pool_open(&v->pool, &spec, ops, c->loop, c->spec.shards, c->spec.n_shards, &pool_events, v, e) != ERR_OK) {
        c->slot[slot] = NULL;
        v->slot = -1;
        return e->code;
    }
    c->pools++;
    return ERR_OK;
}

static void on_artifact(struct task *t)
{
    struct load_job *j = CONTAINER_OF(t, struct load_job, back);
    struct version *v = j->v;
    struct err e = j->err;

    if (e.code == ERR_OK && j->c->stopping) {
        err_set(&e, ERR_UNAVAILABLE, "the server is stopping");
    }
    if (e.code == ERR_OK && take_yaml(v, buf_str(&j->yaml), &e) == ERR_OK && open_pool(v, j->dirfd, &e) == ERR_OK) {
        e.code = ERR_OK;
    } else {
        fail(v, &e);
        memory_gone(v);
        tell_waiters(v, &e);
        control_check_ready(j->c);
        if (v->refused) {
            version_free(v);
        } else {
            control_publish(j->c);
        }
        memory_retry(j->c);
    }
    if (j->dirfd >= 0) {
        close(j->dirfd); /* the pool has its own */
    }
    buf_done(&j->yaml);
    free(j);
}

static void open_artifact(struct store *s, struct store_job *job)
{
    struct load_job *j = CONTAINER_OF(job, struct load_job, job);
    struct manifest m = {0};

    if (artifact_open(s, j->digest, &j->dirfd, &m, &j->err) == ERR_OK) {
        j->err.code = ERR_OK;
        if (manifest_find(&m, "model.yaml") && artifact_read(s, j->digest, "model.yaml", &j->yaml, &j->err) == ERR_OK) {
            j->err.code = ERR_OK;
        }
        manifest_done(&m);
    }
    loop_post(j->c->loop, &j->back);
}

/* ---- into memory and out of it ---- */

void version_load_go(struct version *v)
{
    struct load_job *j = xcalloc(1, sizeof(*j));

    v->load_began_us = clock_us();
    j->job.run = open_artifact;
    j->back.fn = on_artifact;
    j->c = v->model->control;
    j->v = v;
    j->dirfd = -1;
    buf_init(&j->yaml, MODEL_YAML_MAX);
    memcpy(j->digest, v->row.digest, sizeof(j->digest));
    store_post(j->c->store, &j->job);
}

void version_load_refuse(struct version *v, const struct err *e)
{
    struct control *c = v->model->control;

    v->state = v->pushing ? VERSION_FAILED : VERSION_COLD;
    v->why = *e;
    v->on_demand = false;
    log_warn("control", "a version is not loaded now model=%s version=%lld reason=\"%s\"", v->model->row.name,
             (long long)v->row.number, e->text);
    if (!v->pushing) {
        control_publish(c);
    }
    tell_waiters(v, e);
    control_check_ready(c);
    if (v->refused) {
        version_free(v);
    }
}

static void load_begin(struct version *v, bool evict)
{
    struct err e;

    v->on_demand = v->state == VERSION_COLD;
    v->state = VERSION_LOADING;
    v->family = v->pushing ? v->family : v->model->family;
    v->load_began_us = clock_us();
    switch (memory_ask(v, evict, &e)) {
    case BUDGET_GRANTED:
        version_load_go(v);
        break;
    case BUDGET_EVICT:
        break; /* memory_retry goes on with it */
    case BUDGET_REFUSED:
        version_load_refuse(v, &e);
        break;
    }
}

void version_load(struct version *v, bool evict, void (*fn)(void *ctx, const struct err *e), void *ctx)
{
    struct waiter *w = xcalloc(1, sizeof(*w));

    *w = (struct waiter){v->waiters, fn, ctx};
    v->waiters = w;
    if (version_loaded(v)) {
        tell_waiters(v, &(struct err){ERR_OK, ""});
        return;
    }
    if (v->state == VERSION_LOADING || (v->state == VERSION_COLD && v->pool)) {
        return; /* on its way in, or out: then it is loaded again when it is gone */
    }
    if (v->pool) { /* it is on its way out */
        struct err e;

        err_set(&e, ERR_UNAVAILABLE, "version %lld is being unloaded; try again in a moment", (long long)v->row.number);
        tell_waiters(v, &e);
        return;
    }
    load_begin(v, evict);
}

void version_cool(struct version *v)
{
    v->state = VERSION_COLD;
    v->why.code = ERR_OK;
    v->why.text[0] = '\0';
    memory_estimate(v);
}

void version_evict(struct version *v)
{
    log_info("control", "a version leaves memory for another model=%s version=%lld", v->model->row.name,
             (long long)v->row.number);
    v->state = VERSION_COLD;
    v->why.code = ERR_OK;
    v->why.text[0] = '\0';
    control_publish(v->model->control);
    version_close(v, SECONDS(30));
}

void version_unload(struct version *v)
{
    if (v->state == VERSION_LOADING && !v->pool) {
        return; /* still with the store, or waiting for room; reconciled again when it is ready */
    }
    if (v->state != VERSION_FAILED) {
        v->state = VERSION_REGISTERED;
    }
    control_publish(v->model->control);
    version_close(v, SECONDS(30));
}

bool version_at_hand(const struct version *v)
{
    return version_loaded(v) || v->state == VERSION_COLD || (v->state == VERSION_LOADING && v->on_demand);
}

enum err_code versions_match(const struct version *stable, const struct version *canary, struct err *e)
{
    const struct model_info *a = stable->info, *b = canary->info;

    if (!a || !b) {
        return err_set(e, ERR_UNAVAILABLE, "version %lld or %lld is not ready", (long long)stable->row.number,
                       (long long)canary->row.number);
    }
    for (int side = 0; side < 2; side++) {
        const char *what = side == 0 ? "input" : "output";
        uint32_t na = side == 0 ? a->n_in : a->n_out, nb = side == 0 ? b->n_in : b->n_out;
        const struct tensor_info *ta = side == 0 ? a->in : a->out, *tb = side == 0 ? b->in : b->out;

        if (na != nb) {
            return err_set(e, ERR_REFUSED,
                           "version %lld has %u %ss and version %lld has %u: they can not share traffic",
                           (long long)stable->row.number, na, what, (long long)canary->row.number, nb);
        }
        for (uint32_t i = 0; i < na; i++) {
            if (strcmp(ta[i].name, tb[i].name) != 0 || ta[i].dtype != tb[i].dtype || ta[i].rank != tb[i].rank) {
                return err_set(
                    e, ERR_REFUSED,
                    "%s %u is '%s' %s in version %lld and '%s' %s in version %lld: they can not share traffic", what, i,
                    ta[i].name, dtype_name(ta[i].dtype), (long long)stable->row.number, tb[i].name,
                    dtype_name(tb[i].dtype), (long long)canary->row.number);
            }
        }
    }
    return ERR_OK;
}
