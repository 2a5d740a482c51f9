/* SPDX-License-Identifier: Apache-2.0 */
/* The registry's picture for the router, and the end of what nobody sees any more.
 *
 * A picture is built whole and swapped in. The one before, and series that have ended, may still be in the hands of
 * connection threads: they are freed after a grace period, when every thread has been through its loop once more, and a
 * series also not before the last request that is counted in it has ended.
 *
 * Thread: control. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "control/control_priv.h"

/* ---- grace periods ---- */

struct grace_pass {
    struct task task;
    struct grace *grace;
};
struct grace {
    struct control *c;
    void (*fn)(struct control *c, void *arg);
    void *arg;
    _Atomic unsigned left;
    struct task back;
    struct grace_pass at[];
};

static void grace_over(struct task *t)
{
    struct grace *g = CONTAINER_OF(t, struct grace, back);

    g->fn(g->c, g->arg);
    free(g);
}

static void on_pass(struct task *t)
{
    struct grace *g = CONTAINER_OF(t, struct grace_pass, task)->grace;

    if (atomic_fetch_sub(&g->left, 1) == 1) {
        loop_post(g->c->loop, &g->back);
    }
}

void control_grace(struct control *c, void (*fn)(struct control *c, void *arg), void *arg)
{
    struct grace *g = xcalloc(1, sizeof(*g) + c->spec.n_shards * sizeof(g->at[0]));

    g->c = c;
    g->fn = fn;
    g->arg = arg;
    g->back.fn = grace_over;
    atomic_store(&g->left, c->spec.n_shards);
    for (unsigned i = 0; i < c->spec.n_shards; i++) {
        g->at[i].task.fn = on_pass;
        g->at[i].grace = g;
        loop_post(c->spec.shards[i]->loop, &g->at[i].task);
    }
}

/* ---- series ---- */

struct retiree {
    struct retiree *next;
    struct series *series; /* or NULL: */
    struct tally *tally;   /* or NULL: */
    struct goal *goal;     /* or NULL: */
    struct shadow *shadow;
    struct version *version;      /* whose totals it adds to; NULL: nobody's */
    bool waits;                   /* for the next snapshot: the one in force may still name it */
    bool grace;                   /* no thread can find it any more */
    uint64_t counted[ERR_COUNT_]; /* of it, in the version's totals already */
};

struct series *control_series(struct control *c)
{
    return series_new(++c->next_series, c->spec.n_shards);
}

/* What is new since the last time goes to the version's totals: they must not fall back when the series goes. */
static void retiree_count(struct retiree *r)
{
    struct series_sum sum;

    if (!r->version) {
        return;
    }
    series_sum(r->series, &sum);
    for (int i = 0; i < ERR_COUNT_; i++) {
        r->version->retired_requests[i] += sum.by_code[i] - r->counted[i];
        r->counted[i] = sum.by_code[i];
    }
    series_sum_done(&sum);
}

static void retiree_grace(struct control *c, void *arg)
{
    (void)c;
    ((struct retiree *)arg)->grace = true;
}

void control_retire(struct control *c, struct version *v, struct series *s)
{
    struct retiree *r;

    if (!s) {
        return;
    }
    r = xcalloc(1, sizeof(*r));
    r->series = s;
    r->version = v;
    r->waits = true;
    retiree_count(r);
    r->next = c->retirees;
    c->retirees = r;
}

void control_retire_tally(struct control *c, struct tally *t)
{
    struct retiree *r;

    if (!t) {
        return;
    }
    r = xcalloc(1, sizeof(*r));
    r->tally = t;
    r->waits = true;
    r->next = c->retirees;
    c->retirees = r;
}

void control_retire_goal(struct control *c, struct goal *g)
{
    struct retiree *r;

    if (!g) {
        return;
    }
    r = xcalloc(1, sizeof(*r));
    r->goal = g;
    r->waits = true;
    r->next = c->retirees;
    c->retirees = r;
}

void control_retire_shadow(struct control *c, struct shadow *s)
{
    struct retiree *r;

    if (!s) {
        return;
    }
    r = xcalloc(1, sizeof(*r));
    r->shadow = s;
    r->waits = true;
    r->next = c->retirees;
    c->retirees = r;
}

static bool retiree_idle(const struct retiree *r)
{
    return r->series   ? series_idle(r->series)
           : r->tally  ? tally_idle(r->tally)
           : r->shadow ? shadow_idle(r->shadow)
                       : true; /* a goal is used within one call */
}

static void retiree_free(struct retiree *r)
{
    series_free(r->series);
    tally_free(r->tally);
    goal_free(r->goal);
    shadow_free(r->shadow);
    free(r);
}

void control_retirees_look(struct control *c)
{
    for (struct retiree **at = &c->retirees, *r; (r = *at) != NULL;) {
        if (r->grace && retiree_idle(r)) {
            *at = r->next;
            retiree_count(r);
            retiree_free(r);
        } else {
            at = &r->next;
        }
    }
}

void control_retirees_free(struct control *c)
{
    for (struct retiree *r; (r = c->retirees) != NULL;) {
        c->retirees = r->next;
        retiree_free(r);
    }
}

/* ---- publishing ---- */

static void route_version_fill(struct route_version *out, struct version *v)
{
    bool loaded = version_loaded(v);

    *out = (struct route_version){.number = v->row.number,
                                  .slot = loaded ? v->slot : -1,
                                  .state = version_state_names[v->state],
                                  .cold = !loaded && version_at_hand(v),
                                  .away = !loaded && place_is_far(version_place(v)) && v->why.code == ERR_UNAVAILABLE,
                                  .parked = &v->parked,
                                  .why = v->state == VERSION_FAILED ? xstrdup(v->why.text) : NULL,
                                  .info = loaded ? v->info : NULL,
                                  .series = loaded ? v->direct : NULL,
                                  .labels = v->labels,
                                  .n_labels = v->n_labels,
                                  .prediction = v->prediction};
}

/* Who is in an experiment, and what of them is its goal. */
static void route_experiment(struct route *t, const struct model *m)
{
    const struct experiment *x = &m->policy.experiment;

    if (experiment_running(m)) {
        t->fixed = true;
        t->goal = m->goal;
        t->goal_kind = (enum goal_kind)x->goal;
        snprintf(t->goal_output, sizeof(t->goal_output), "%s", x->output);
    }
}

static struct route *route_of(const struct model *m)
{
    struct route *t = xcalloc(1, sizeof(*t));

    snprintf(t->name, sizeof(t->name), "%s", m->row.name);
    t->versions = xcalloc(MAX(m->n_versions, (size_t)1), sizeof(t->versions[0]));
    t->n_versions = m->n_versions;
    t->stable = t->canary = t->shadowed = -1;
    for (size_t i = 0; i < m->n_versions; i++) {
        struct version *v = m->versions[i];

        route_version_fill(&t->versions[i], v);
        t->stable = v->row.number == m->row.stable ? (int)i : t->stable;
        t->canary = rollout_running(m) && v->row.number == m->rollout.canary ? (int)i : t->canary;
    }
    if (m->shadow && shadow_running(m)) {
        t->shadow = m->shadow;
        for (size_t i = 0; i < m->n_versions; i++) {
            t->shadowed = m->versions[i]->row.number == m->shadow_row.version ? (int)i : t->shadowed;
        }
    }
    t->stable_series = m->stable_series;
    t->canary_series = m->canary_series;
    t->timeout_us = m->family->timeout_us;
    t->queue_requests = m->family->queue_requests;
    t->capture = &m->family->capture;
    t->feedback = m->feedback;
    t->arrivals = m->arrivals;
    if (t->canary >= 0 && (t->versions[t->canary].slot < 0 || !t->canary_series)) {
        t->canary = -1; /* it is not loaded (yet, after a restart): its share waits on the stable one */
    }
    if (t->canary >= 0) {
        t->share_bp = (uint32_t)m->rollout.share_bp;
        snprintf(t->salt, sizeof(t->salt), "%s", m->rollout.id);
    }
    route_experiment(t, m);
    t->soaking = rollout_soaking(m);
    if (m->tally && (t->soaking || (t->canary >= 0 && t->share_bp > 0 && t->share_bp < 10000))) {
        t->tally = m->tally; /* with no share, or all of it, there is nothing to compare */
        t->stratum = tally_stratum(m->tally, t->soaking ? soak_share : t->fixed ? EXPERIMENT_CONTROL : t->share_bp);
    }
    return t;
}

static void free_snapshot(struct control *c, void *arg)
{
    (void)c;
    snapshot_free(arg);
}

void control_publish(struct control *c)
{
    struct snapshot *s = snapshot_new();

    s->starting = !c->started;
    s->ready = c->announced && !c->stopping;
    for (size_t i = 0; i < c->n_models; i++) {
        struct model *m = c->models[i];
        struct route *t;

        model_series(m);
        m->feedback = m->feedback ? m->feedback : xcalloc(FEEDBACK_RESULTS, sizeof(m->feedback[0]));
        m->arrivals = m->arrivals ? m->arrivals : arrivals_new(c->spec.n_shards, clock_us());
        t = route_of(m);
        map_put(&s->routes, str_of(t->name), t);
        if (m->row.stable != 0 && !control_inference(c) &&
            (t->stable < 0 ||
             (t->versions[t->stable].slot < 0 && (!t->versions[t->stable].cold || t->versions[t->stable].away)))) {
            s->ready = false;
        }
    }
    s = router_swap(&c->router, s);
    control_grace(c, free_snapshot, s);
    for (struct retiree *r = c->retirees; r; r = r->next) {
        if (r->waits) {
            r->waits = false;
            control_grace(c, retiree_grace, r);
        }
    }
}
