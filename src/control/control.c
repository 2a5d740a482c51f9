/* SPDX-License-Identifier: Apache-2.0 */
/* The registry in memory: models, versions, what of them is loaded, start and stop. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/control_priv.h"

#define FAR_AGAIN_US SECONDS(15)

const char *const version_state_names[] = {"registered", "loading", "ready", "degraded", "failed", "cold"};

static const char *const load_words[] = {"eager", "lazy", NULL};
const struct setting family_settings[] = {
    {"place", SET_STRING, offsetof(struct family, place_text), "worker", 1, 300, NULL,
     "where its models run: worker (a sandboxed process), inline (trusted tiny models), http://HOST:PORT (a server of "
     "the Open Inference Protocol), weir://HOST:PORT (a Weir in the inference role)"},
    {"token_file", SET_STRING, offsetof(struct family, token_file), NULL, 1, 1000, NULL,
     "weir://: file with the far side's admin token"},
    {"instances", SET_U64, offsetof(struct family, instances), "1", 1, INSTANCES_MAX, NULL,
     "processes of each version"},
    {"threads", SET_U64, offsetof(struct family, threads), "0", 0, 256, NULL,
     "threads within one run; 0: measured at the load"},
    {"batch.max", SET_U64, offsetof(struct family, batch_max), "64", 1, 256, NULL,
     "most rows joined into one run; 1 switches joining off"},
    {"batch.delay", SET_DURATION, offsetof(struct family, batch_delay_us), "0s", 0, 10000000, NULL,
     "how long a request may wait for company while nothing runs"},
    {"batch.slo", SET_DURATION, offsetof(struct family, batch_slo_us), "0s", 0, 3600000000ull, NULL,
     "latency that batches are sized for; 0: none"},
    {"device", SET_STRING, offsetof(struct family, device), "cpu", 3, 15, NULL, "cpu, or cuda:N"},
    {"memory", SET_BYTES, offsetof(struct family, memory), "0", 0, 1ull << 44, NULL,
     "most memory of one instance; 0: what the budget has left"},
    {"load", SET_ENUM, offsetof(struct family, load), "eager", 0, 0, load_words,
     "eager: at the start; lazy: on first use"},
    {"pin", SET_BOOL, offsetof(struct family, pin), "off", 0, 0, NULL, "its versions are never evicted for room"},
    {"queue_requests", SET_U64, offsetof(struct family, queue_requests), "1024", 1, 100000, NULL,
     "requests of one version waiting or running, then 503"},
    {"queue_bytes", SET_BYTES, offsetof(struct family, queue_bytes), "256MiB", 1 << 20, 1ull << 36, NULL,
     "bytes of those requests, then 503"},
    {"inline_max", SET_DURATION, offsetof(struct family, inline_max_us), "2ms", 1, 1000000, NULL,
     "slowest warm run that place: inline accepts"},
    {"timeout", SET_DURATION, offsetof(struct family, timeout_us), "30s", 1000, 3600000000ull, NULL,
     "deadline of a request that names none"},
    {"output_bytes", SET_BYTES, offsetof(struct family, out_bytes), "64MiB", 1 << 20, 1ull << 32, NULL,
     "room for the outputs of one thread's requests at one instance"},
};
const size_t n_family_settings = COUNT_OF(family_settings);

/* ---- lookups ---- */

size_t control_models(const struct control *c, struct model *const **out)
{
    *out = c->models;
    return c->n_models;
}

struct model *control_model(const struct control *c, struct str name)
{
    for (size_t i = 0; i < c->n_models; i++) {
        if (str_is(name, c->models[i]->row.name)) {
            return c->models[i];
        }
    }
    return NULL;
}

struct version *model_version(const struct model *m, int64_t number)
{
    for (size_t i = 0; i < m->n_versions; i++) {
        if (m->versions[i]->row.number == number) {
            return m->versions[i];
        }
    }
    return NULL;
}

struct version *model_newest(const struct model *m)
{
    return m->n_versions ? m->versions[m->n_versions - 1] : NULL;
}

bool rollout_running(const struct model *m)
{
    return m->rollout.id[0] && m->rollout.state == ROLLOUT_RUNNING;
}

bool rollout_soaking(const struct model *m)
{
    return m->rollout.id[0] && m->rollout.state == ROLLOUT_SOAKING;
}

size_t control_policies(const struct control *c, const struct rollout_policy **out)
{
    *out = c->policies;
    return c->spec.n_policies;
}

const struct rollout_policy *control_policy(const struct control *c, struct str name, struct err *e)
{
    char known[200];
    size_t n = 0;

    known[0] = '\0';
    for (size_t i = 0; i < c->spec.n_policies; i++) {
        int w;

        if (str_is(name, c->policies[i].name)) {
            return &c->policies[i];
        }
        w = snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", c->policies[i].name);
        n = MIN(n + (size_t)MAX(w, 0), sizeof(known) - 1);
    }
    err_set(e, ERR_NOT_FOUND, "no rollout policy '" STR_FMT "' in the configuration; there are: %s", STR_ARG(name),
            known);
    return NULL;
}

const char *version_serving(const struct version *v)
{
    const struct model *m = v->model;
    int64_t n = v->row.number;

    return m->row.stable == n                             ? "stable"
           : rollout_running(m) && m->rollout.canary == n ? "canary"
           : m->row.previous == n                         ? "previous"
                                                          : "none";
}

struct router *control_router(struct control *c)
{
    return &c->router;
}

struct loop *control_loop(struct control *c)
{
    return c->loop;
}

struct store *control_store(struct control *c)
{
    return c->store;
}

const struct budget *control_budget(const struct control *c)
{
    return &c->budget;
}

const char *control_import_root(const struct control *c)
{
    return c->spec.import_root;
}

const struct family *family_for(const struct control *c, struct str named, struct str model, struct err *e)
{
    const struct family *preset = NULL;

    for (size_t i = 0; i < c->n_families; i++) {
        const struct family *f = c->families[i];

        if (str_is(named.p ? named : model, f->name)) {
            return f;
        }
        preset = strcmp(f->name, "default") == 0 ? f : preset;
    }
    if (named.p) {
        err_set(e, ERR_NOT_FOUND, "no family '" STR_FMT "' in the configuration", STR_ARG(named));
        return NULL;
    }
    return preset;
}

/* "default" is what a model got that had no family of its own; it may have one by now. */
const struct family *family_of(const struct control *c, const struct model_row *row)
{
    struct str named = strcmp(row->family, "default") == 0 ? (struct str){NULL, 0} : str_of(row->family);
    struct err e;
    const struct family *f = family_for(c, named, str_of(row->name), &e);

    if (!f) {
        f = family_for(c, (struct str){NULL, 0}, STR("default"), &e);
        log_warn("control", "the family is not in the configuration any more; default is used model=%s family=%s",
                 row->name, row->family);
    }
    return f;
}

/* ---- models and versions ---- */

struct model *model_add(struct control *c, const struct model_row *row)
{
    struct model *m = xcalloc(1, sizeof(*m));

    m->row = *row;
    m->control = c;
    m->family = family_of(c, row);
    c->models = xrealloc(c->models, (c->n_models + 1) * sizeof(struct model *));
    c->models[c->n_models++] = m;
    return m;
}

struct version *version_new(struct control *c, struct model *m, const struct version_row *row)
{
    struct version *v = xcalloc(1, sizeof(*v));

    (void)c;
    v->row = *row;
    v->model = m;
    v->family = m->family;
    v->slot = -1;
    v->prediction = -1;
    return v;
}

void version_free(struct version *v)
{
    if (!v) {
        return;
    }
    budget_gone(&v->model->control->budget, &v->claim);
    upstream_done(v);
    for (size_t i = 0; i < v->n_labels; i++) {
        free(v->labels[i]);
    }
    free(v->labels);
    series_free(v->direct);
    if (v->own_model) {
        free(v->model);
    }
    free(v);
}

void model_insert(struct model *m, struct version *v)
{
    size_t i = m->n_versions;

    m->versions = xrealloc(m->versions, (m->n_versions + 1) * sizeof(struct version *));
    while (i > 0 && m->versions[i - 1]->row.number > v->row.number) {
        m->versions[i] = m->versions[i - 1];
        i--;
    }
    m->versions[i] = v;
    m->n_versions++;
}

/* ---- what is loaded ---- */

static bool is_wanted(const struct version *v)
{
    const struct model *m = v->model;
    int64_t n = v->row.number;

    if (control_inference(m->control)) {
        return version_held(v);
    }
    return n == m->row.stable || n == m->row.previous || (rollout_running(m) && n == m->rollout.canary) ||
           v == model_newest(m) || v->claims > 0 || version_in_shadow(v);
}

bool version_in_rollout(const struct version *v)
{
    const struct model *m = v->model;

    return v->claims > 0 ||
           (rollout_running(m) && (v->row.number == m->rollout.canary || v->row.number == m->row.stable)) ||
           (rollout_soaking(m) && (v->row.number == m->row.previous || v->row.number == m->row.stable));
}

static void ignore(void *ctx, const struct err *e)
{
    (void)ctx;
    (void)e;
}

static void version_reconcile(struct version *v)
{
    bool wanted = is_wanted(v),
         lazy = v->model->family->load == LOAD_LAZY && !version_in_rollout(v) && !version_in_shadow(v);

    if (v->model->control->stopping) {
        return;
    }
    if (wanted && v->state == VERSION_REGISTERED && !v->pool) {
        if (lazy) {
            version_cool(v);
        } else {
            version_load(v, false, ignore, NULL);
        }
    } else if (wanted && v->state == VERSION_COLD && !v->pool && version_in_rollout(v) && v->claims == 0) {
        version_load(v, true, ignore, NULL); /* an arm is not left out for want of somebody who asks */
    } else if (!wanted && v->state == VERSION_COLD && !v->pool) {
        v->state = VERSION_REGISTERED;
    } else if (!wanted && v->pool && v->state != VERSION_FAILED) { /* that one closes by itself */
        version_unload(v);
    }
}

void model_reconcile(struct model *m)
{
    shadow_look(m);
    for (size_t i = 0; i < m->n_versions; i++) {
        version_reconcile(m->versions[i]);
    }
}

/* What serves comes first: where the budget does not hold all of them, the others are the cold ones. */
static void reconcile_all(struct control *c)
{
    for (size_t i = 0; i < c->n_models; i++) {
        struct model *m = c->models[i];
        struct version *stable = model_version(m, m->row.stable), *canary = model_version(m, m->rollout.canary);

        if (stable) {
            version_reconcile(stable);
        }
        if (canary && rollout_running(m)) {
            version_reconcile(canary);
        }
    }
    for (size_t i = 0; i < c->n_models; i++) {
        model_reconcile(c->models[i]);
    }
}

/* ---- the tick ---- */

static void version_look(struct version *v, bool *changed)
{
    const struct sched_shared *sh;
    enum version_state state;

    if (!v->pool || !version_loaded(v)) {
        return;
    }
    sh = pool_shared(v->pool);
    state = atomic_load(&sh->instances_up) == pool_instances(v->pool) ? VERSION_READY : VERSION_DEGRADED;
    if (state != v->state) {
        v->state = state;
        *changed = true;
    }
}

/* A version whose far side was away is tried again now and then, wanted by somebody or not. */
static void far_sides_try(struct control *c, uint64_t now)
{
    for (size_t i = 0; i < c->n_models; i++) {
        for (size_t k = 0; k < c->models[i]->n_versions; k++) {
            struct version *v = c->models[i]->versions[k];

            if (v->state == VERSION_COLD && !v->pool && v->why.code == ERR_UNAVAILABLE &&
                place_is_far(version_place(v)) && is_wanted(v) && now > v->load_began_us + FAR_AGAIN_US &&
                !c->stopping) {
                version_load(v, false, ignore, NULL);
            }
        }
    }
}

static void on_tick(struct timer *t)
{
    struct control *c = CONTAINER_OF(t, struct control, tick);
    uint64_t now = clock_us();
    bool changed = false;

    for (size_t i = 0; i < c->n_models; i++) {
        for (size_t k = 0; k < c->models[i]->n_versions; k++) {
            version_look(c->models[i]->versions[k], &changed);
            memory_look(c->models[i]->versions[k], now);
        }
    }
    if (changed) {
        control_publish(c);
    }
    far_sides_try(c, now);
    holds_look(c);
    control_retirees_look(c);
    timer_set(c->loop, &c->tick, now + SECONDS(1));
}

/* ---- start and stop ---- */

/* A name that was mistyped in the configuration, or a model that has gone: nobody would notice otherwise. */
static void warn_of_unused_families(const struct control *c)
{
    for (size_t i = 0; c->n_models > 0 && i < c->n_families; i++) {
        const struct family *f = c->families[i];
        bool used = strcmp(f->name, "default") == 0;

        for (size_t k = 0; k < c->n_models; k++) {
            used |= c->models[k]->family == f;
        }
        if (!used) {
            log_warn("control", "no model is of this family; a model is of the family that has its name family=%s",
                     f->name);
        }
    }
}

void control_check_ready(struct control *c)
{
    if (c->announced || !c->started || c->stopping) {
        return;
    }
    for (size_t i = 0; i < c->n_models; i++) {
        for (size_t k = 0; k < c->models[i]->n_versions; k++) {
            if (c->models[i]->versions[k]->state == VERSION_LOADING) {
                return;
            }
        }
    }
    c->announced = true;
    control_publish(c);
    warn_of_unused_families(c);
    c->on_ready(c->on_ready_ctx);
}

struct start_job {
    struct store_job job;
    struct task back;
    struct control *c;
    struct store_state state;
    struct err err;
};

static void take_state(struct control *c, struct store_state *st)
{
    for (size_t i = 0; i < st->n_models; i++) {
        model_add(c, &st->models[i]);
    }
    for (size_t i = 0; i < st->n_versions; i++) {
        struct model *m = control_model(c, str_of(st->versions[i].model));

        if (m) {
            model_insert(m, version_new(c, m, &st->versions[i]));
        }
    }
    for (size_t i = 0; i < st->n_rollouts; i++) {
        struct model *m = control_model(c, str_of(st->rollouts[i].model));

        if (m) {
            conduct_resume(m, &st->rollouts[i]);
        }
    }
    for (size_t i = 0; i < st->n_holds; i++) {
        struct model *m = control_model(c, str_of(st->holds[i].model));

        if (m) {
            hold_add(m, &st->holds[i]);
        }
    }
    for (size_t i = 0; i < st->n_shadows; i++) {
        struct model *m = control_model(c, str_of(st->shadows[i].model));

        if (m) {
            shadow_take(m, &st->shadows[i]);
        }
    }
}

static void on_state(struct task *t)
{
    struct start_job *j = CONTAINER_OF(t, struct start_job, back);
    struct control *c = j->c;

    if (j->err.code != ERR_OK) {
        log_error("control", "the store can not be read; no model is served error=\"%s\"", j->err.text);
    } else {
        memory_take_costs(c, &j->state);
        places_take(c, &j->state);
        take_state(c, &j->state);
        store_state_done(&j->state);
    }
    free(j);
    reconcile_all(c);
    c->started = true;
    control_publish(c);
    control_check_ready(c);
}

static void read_state(struct store *s, struct store_job *job)
{
    struct start_job *j = CONTAINER_OF(job, struct start_job, job);

    if (store_load(s, &j->state, &j->err) == ERR_OK) {
        j->err.code = ERR_OK;
    }
    loop_post(j->c->loop, &j->back);
}

void control_start(struct control *c, void (*ready)(void *ctx), void *ctx)
{
    struct start_job *j = xcalloc(1, sizeof(*j));

    c->on_ready = ready;
    c->on_ready_ctx = ctx;
    j->c = c;
    j->job.run = read_state;
    j->back.fn = on_state;
    timer_set(c->loop, &c->tick, clock_us() + SECONDS(1));
    store_post(c->store, &j->job);
}

enum err_code control_new(struct control **out, const struct control_spec *spec, struct err *e)
{
    struct control *c = xcalloc(1, sizeof(*c));
    struct snapshot *nothing = snapshot_new();

    (void)e;
    c->spec = *spec;
    c->families = xmalloc(spec->n_families * sizeof(c->families[0]));
    for (size_t i = 0; i < spec->n_families; i++) {
        c->families[i] = xmalloc(sizeof(struct family));
        *c->families[i] = spec->families[i];
    }
    c->n_families = spec->n_families;
    c->loop = spec->loop;
    c->store = spec->store;
    c->policies = xmalloc(MAX(spec->n_policies, (size_t)1) * sizeof(c->policies[0]));
    if (spec->n_policies > 0) {
        memcpy(c->policies, spec->policies, spec->n_policies * sizeof(c->policies[0]));
    }
    c->tick.fn = on_tick;
    c->conduct.fn = conduct_timer;
    nothing->starting = true;
    atomic_store(&c->router.now, nothing);
    memory_init(c);
    *out = c;
    return ERR_OK;
}

static void on_all_closed(struct task *t)
{
    struct control *c = CONTAINER_OF(t, struct control, closed);

    c->on_closed(c->on_closed_ctx);
}

void control_stop(struct control *c, uint64_t drain_us, void (*closed)(void *ctx), void *ctx)
{
    struct err e;

    c->stopping = true;
    c->on_closed = closed;
    c->on_closed_ctx = ctx;
    c->closed.fn = on_all_closed;
    timer_clear(c->loop, &c->tick);
    timer_clear(c->loop, &c->conduct);
    control_publish(c);
    err_set(&e, ERR_UNAVAILABLE, "the server is stopping");
    for (size_t i = 0; i < c->n_models; i++) {
        changes_refuse(c->models[i], &e);
    }
    for (size_t i = 0; i < VERSION_SLOTS; i++) {
        if (c->slot[i] && c->slot[i]->pool) {
            version_close(c->slot[i], drain_us);
        }
    }
    memory_retry(c);
    if (c->pools == 0) {
        loop_post(c->loop, &c->closed);
    }
}

void control_free(struct control *c)
{
    if (!c) {
        return;
    }
    timer_clear(c->loop, &c->tick);
    timer_clear(c->loop, &c->conduct);
    for (size_t i = 0; i < c->n_models; i++) {
        struct model *m = c->models[i];

        for (size_t k = 0; k < m->n_versions; k++) {
            version_free(m->versions[k]);
        }
        undo_free(m->undo);
        series_free(m->stable_series);
        series_free(m->canary_series);
        tally_free(m->tally);
        goal_free(m->goal);
        free(m->values);
        shadow_free(m->shadow);
        free(m->evidence);
        free(m->holds);
        free(m->feedback);
        free(m->versions);
        free(m);
    }
    control_retirees_free(c);
    memory_done(c);
    snapshot_free(atomic_load(&c->router.now));
    free(c->models);
    for (size_t i = 0; i < c->n_families; i++) {
        free(c->families[i]);
    }
    for (size_t i = 0; i < c->n_former; i++) {
        free(c->former[i]);
    }
    free(c->families);
    free(c->former);
    free(c->policies);
    free(c);
}
