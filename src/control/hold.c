/* SPDX-License-Identifier: Apache-2.0 */
/* The inference role: what gateways hold is loaded, and nothing else is. */
#include <stdlib.h>

#include "base/clock.h"
#include "control/control_priv.h"

struct holding {
    struct control *c;
    char model[NAME_MAX_LEN + 1];
    int64_t number;
    void (*done)(void *ctx, int64_t number, const struct err *e);
    void *ctx;
};

bool control_inference(const struct control *c)
{
    return c->spec.hold_us > 0;
}

uint64_t control_hold_us(const struct control *c)
{
    return c->spec.hold_us;
}

bool version_held(const struct version *v)
{
    return v->held_until_us > clock_us();
}

void version_hold(struct version *v)
{
    v->held_until_us = clock_us() + v->model->control->spec.hold_us;
}

static void on_loaded(void *ctx, const struct err *e)
{
    struct holding *h = ctx;
    struct model *m = control_model(h->c, str_of(h->model));
    struct version *v = m ? model_version(m, h->number) : NULL;

    if (v) { /* a load may take its time */
        version_hold(v);
    }
    h->done(h->ctx, h->number, e);
    free(h);
}

void control_hold(struct control *c, struct str model, struct str digest,
                  void (*done)(void *ctx, int64_t number, const struct err *e), void *ctx)
{
    struct model *m = control_model(c, model);
    struct version *v = NULL;
    struct holding *h;
    struct err e;

    for (size_t i = 0; m && i < m->n_versions; i++) {
        v = str_is(digest, m->versions[i]->row.digest) ? m->versions[i] : v;
    }
    if (!control_inference(c)) {
        err_set(&e, ERR_CONFLICT, "this server is not in the inference role: weir serve --role inference");
    } else if (!v) {
        err_set(&e, ERR_NOT_FOUND, "no version of '" STR_FMT "' has the digest " STR_FMT, STR_ARG(model),
                STR_ARG(digest));
    } else {
        h = xcalloc(1, sizeof(*h));
        *h = (struct holding){.c = c, .number = v->row.number, .done = done, .ctx = ctx};
        str_copy(h->model, sizeof(h->model), model);
        version_hold(v);
        version_load(v, true, on_loaded, h);
        return;
    }
    done(ctx, 0, &e);
}

/* Those that nobody has held for a while leave memory. */
void holds_look(struct control *c)
{
    for (size_t i = 0; control_inference(c) && i < c->n_models; i++) {
        for (size_t k = 0; k < c->models[i]->n_versions; k++) {
            struct version *v = c->models[i]->versions[k];

            if (!version_held(v) && (v->pool || v->state == VERSION_COLD)) {
                model_reconcile(c->models[i]);
                break;
            }
        }
    }
}
