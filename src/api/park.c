/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that wait for a version to come into memory.
 *
 * A parked request is in two hands: the handler's (until it is answered, or the client leaves) and control's (until the
 * load has ended). What is in control's hand comes home in any case, and is freed there.
 *
 * Thread: the listener's loop. */
#include <stdlib.h>

#include "api/data.h"

struct parked {
    struct wake wake;
    struct loop *loop;
    struct timer deadline;
    _Atomic uint32_t *count;
    void (*done)(void *ctx, const struct err *e); /* NULL: nobody waits any more */
    void *ctx;
};

static void tell(struct parked *p, const struct err *e)
{
    void (*done)(void *ctx, const struct err *e) = p->done;

    timer_clear(p->loop, &p->deadline);
    p->done = NULL;
    if (done) {
        done(p->ctx, e);
    }
}

static void on_home(struct wake *w)
{
    struct parked *p = CONTAINER_OF(w, struct parked, wake);

    if (w->err.code != ERR_OK) {
        w->err.code = ERR_UNAVAILABLE; /* whatever it is: not this request's fault */
    }
    tell(p, &w->err);
    atomic_fetch_sub_explicit(p->count, 1, memory_order_relaxed); /* not before it is admitted: the version stays */
    free(p);
}

static void on_deadline(struct timer *t)
{
    struct parked *p = CONTAINER_OF(t, struct parked, deadline);
    struct err e;

    err_set(&e, ERR_TIMEOUT, "version %lld of model '%s' was not loaded before the deadline",
            (long long)p->wake.version, p->wake.model);
    tell(p, &e);
}

enum err_code park(struct parked **out, struct request *r, const struct pick *pick, uint64_t deadline_us,
                   void (*done)(void *ctx, const struct err *e), void *ctx, struct err *e)
{
    _Atomic uint32_t *count = pick->version->parked;
    bool full = atomic_fetch_add_explicit(count, 1, memory_order_relaxed) >= pick->route->queue_requests;
    struct parked *p = full ? NULL : malloc(sizeof(*p));

    if (!p) {
        atomic_fetch_sub_explicit(count, 1, memory_order_relaxed);
        return full ? err_set(e, ERR_UNAVAILABLE,
                              "version %lld of model '%s' is being loaded, and %llu requests wait for it already",
                              (long long)pick->version->number, pick->route->name,
                              (unsigned long long)pick->route->queue_requests)
                    : err_set(e, ERR_UNAVAILABLE, "no memory for the request");
    }
    *p = (struct parked){
        .wake = {.c = r->plane->control, .home = r->x->loop, .version = pick->version->number, .done = on_home},
        .loop = r->x->loop,
        .deadline.fn = on_deadline,
        .count = count,
        .done = done,
        .ctx = ctx};
    str_copy(p->wake.model, sizeof(p->wake.model), str_of(pick->route->name));
    timer_set(p->loop, &p->deadline, deadline_us);
    control_wake(&p->wake);
    *out = p;
    return ERR_OK;
}

void unpark(struct parked *p)
{
    if (p) {
        timer_clear(p->loop, &p->deadline);
        p->done = NULL;
    }
}
