/* SPDX-License-Identifier: Apache-2.0 */
/* The router's readers: find the route, choose the arm. */
#include "control/router.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/hash.h"

const char *const arm_names[] = {"stable", "canary", "direct"};
const char *const feedback_result_names[] = {"joined", "orphan", "late", "duplicate", "superseded"};

/* A key is the value of a header, and HTTP ends those here; what an upstream lets through beyond it does not count. */
enum { KEY_MOST = 32 << 10 };

uint32_t assignment_bucket(const char *salt, struct str key)
{
    char text[KEY_MOST + 128];
    size_t n = MIN(strlen(salt), sizeof(text) - KEY_MOST - 1);
    size_t m = MIN(key.n, (size_t)KEY_MOST);

    memcpy(text, salt, n);
    text[n] = ':';
    if (m > 0) {
        memcpy(text + n + 1, key.p, m);
    }
    return murmur3_32(text, n + 1 + m, 0) % 10000;
}

const struct route *router_find(const struct router *r, struct str model)
{
    return map_get(&atomic_load_explicit(&r->now, memory_order_acquire)->routes, model);
}

const struct route *router_next(const struct router *r, size_t *i)
{
    struct map_entry *e = map_next(&atomic_load_explicit(&r->now, memory_order_acquire)->routes, i);

    return e ? e->value : NULL;
}

bool router_ready(const struct router *r)
{
    return atomic_load_explicit(&r->now, memory_order_acquire)->ready;
}

static enum err_code no_model(const struct router *r, struct str model, struct err *e)
{
    char known[256];
    size_t at = 0, n = 0;

    if (atomic_load_explicit(&r->now, memory_order_acquire)->starting) {
        return err_set(e, ERR_UNAVAILABLE, "the server is still starting");
    }
    known[0] = '\0';
    for (const struct route *t; (t = router_next(r, &at)) != NULL && n + 4 < sizeof(known);) {
        int w = snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", t->name);

        n = MIN(n + (size_t)MAX(w, 0), sizeof(known) - 1);
    }
    return err_set(e, ERR_NOT_FOUND, "no model '" STR_FMT "'%s%s", STR_ARG(model),
                   n ? "; there are: " : "; none is registered: weir push NAME PATH", known);
}

static enum err_code no_version(const struct route *t, int64_t number, struct err *e)
{
    char known[128];
    size_t n = 0;

    known[0] = '\0';
    for (size_t i = 0; i < t->n_versions && n + 4 < sizeof(known); i++) {
        int w = snprintf(known + n, sizeof(known) - n, "%s%lld", n ? ", " : "", (long long)t->versions[i].number);

        n = MIN(n + (size_t)MAX(w, 0), sizeof(known) - 1);
    }
    return err_set(e, ERR_NOT_FOUND, "model '%s' has no version %lld; there are: %s", t->name, (long long)number,
                   n ? known : "none yet");
}

static enum err_code not_ready(const struct route *t, const struct route_version *v, struct err *e)
{
    if (!v) {
        return err_set(e, ERR_UNAVAILABLE, "model '%s' has no version in service yet", t->name);
    }
    if (v->why) {
        return err_set(e, ERR_UNAVAILABLE, "version %lld of model '%s' is %s: %s", (long long)v->number, t->name,
                       v->state, v->why);
    }
    return err_set(e, ERR_UNAVAILABLE, "version %lld of model '%s' is not ready (%s)", (long long)v->number, t->name,
                   v->state);
}

static void pick_arm(const struct route *t, struct str key, struct pick *p)
{
    p->why = PICK_STABLE;
    if (t->fixed && t->canary < 0) {
        p->arm = ARM_DIRECT;
        return;
    }
    p->arm = ARM_STABLE;
    if (t->canary < 0 || t->share_bp == 0) {
        return;
    }
    p->why = PICK_BUCKET;
    p->bucket = assignment_bucket(t->salt, key);
    if (p->bucket < t->share_bp) {
        p->arm = ARM_CANARY;
    } else if (t->fixed && (p->bucket < EXPERIMENT_CONTROL || p->bucket >= EXPERIMENT_CONTROL + t->share_bp)) {
        p->arm = ARM_DIRECT;
        p->why = PICK_OUTSIDE;
    }
}

enum err_code router_pick(const struct router *r, struct str model, int64_t version, struct str key, struct pick *out,
                          struct err *e)
{
    const struct route *t = router_find(r, model);
    struct pick p = {.route = t, .arm = ARM_DIRECT, .why = PICK_NAMED};
    int at = -1;

    out->cold = false;
    if (!t) {
        return no_model(r, model, e);
    }
    if (version != 0) {
        for (size_t i = 0; i < t->n_versions; i++) {
            at = t->versions[i].number == version ? (int)i : at;
        }
        if (at < 0) {
            return no_version(t, version, e);
        }
        p.series = t->versions[at].series;
    } else {
        pick_arm(t, key, &p);
        p.rollout = t->canary >= 0 && p.arm != ARM_DIRECT;
        at = p.arm == ARM_CANARY ? t->canary : t->stable;
        p.series = p.arm == ARM_CANARY ? t->canary_series : t->stable_series;
        if (p.arm == ARM_DIRECT && at >= 0) {
            p.series = t->versions[at].series;
        }
    }
    p.version = at < 0 ? NULL : &t->versions[at];
    if (!p.version || p.version->slot < 0) {
        p.cold = p.version && p.version->cold;
        *out = p;
        return not_ready(t, p.version, e);
    }
    *out = p;
    return ERR_OK;
}

/* ---- snapshots ---- */

struct snapshot *snapshot_new(void)
{
    struct snapshot *s = xcalloc(1, sizeof(*s));

    map_init(&s->routes);
    return s;
}

struct snapshot *router_swap(struct router *r, struct snapshot *s)
{
    return atomic_exchange_explicit(&r->now, s, memory_order_acq_rel);
}

void snapshot_free(struct snapshot *s)
{
    struct map_entry *e;

    if (!s) {
        return;
    }
    for (size_t i = 0; (e = map_next(&s->routes, &i)) != NULL;) {
        struct route *t = e->value;

        for (size_t k = 0; k < t->n_versions; k++) {
            free(t->versions[k].why);
        }
        free(t->versions);
        free(t);
    }
    map_done(&s->routes);
    free(s);
}
