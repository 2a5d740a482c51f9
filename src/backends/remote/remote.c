/* SPDX-License-Identifier: Apache-2.0 */
/* The engine on the control loop: what the errand tells becomes the engine's events.
 *
 * The end: death_fd becomes readable in every loop that has a port; each gives its jobs back and is detached by its
 * host; the last one out posts `reap`.
 *
 * Thread: control, except where remote_priv.h says otherwise. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "backends/remote/remote_priv.h"
#include "base/clock.h"
#include "base/log.h"

static void remote_free(struct remote *r)
{
    side_stop(r->side);
    if (r->death_fd >= 0) {
        close(r->death_fd);
    }
    model_info_done(&r->info);
    free(r);
}

void remote_let_go(struct remote *r)
{
    if (atomic_fetch_sub(&r->n_holds, 1) == 1) {
        loop_post(r->host.loop, &r->reap);
    }
}

static void on_reap(struct task *t)
{
    struct remote *r = CONTAINER_OF(t, struct remote, reap);

    r->host.on->gone(r->host.ctx, &r->base, &r->end);
    remote_free(r);
}

/* Once. why: what the ports tell. */
static void end(struct remote *r, const struct err *why)
{
    uint64_t one = 1;

    r->ended = true;
    r->end.loading = !r->ready;
    r->why = *why;
    r->why.code = ERR_UNAVAILABLE;
    atomic_store_explicit(&r->dead, true, memory_order_release);
    if (write(r->death_fd, &one, sizeof(one)) != (ssize_t)sizeof(one)) {
        log_error("remote", "the end of an engine can not be told version=%s", r->name);
    }
    remote_let_go(r);
}

static void on_side(void *ctx, enum side_news news, const struct model_info *info, const struct err *why)
{
    struct remote *r = ctx;

    if (r->ended) {
        return;
    }
    if (news == SIDE_UP) {
        model_info_copy(&r->info, info);
        r->info.batch_max = r->batch_max;
        r->ready = true;
        atomic_fetch_add(&r->n_holds, r->ports);
        r->host.on->ready(r->host.ctx, &r->base, &r->info);
        return;
    }
    r->end.err = *why;
    r->end.own = news == SIDE_FAILED && why->code != ERR_UNAVAILABLE; /* the model's matter, not the network's */
    end(r, why);
}

static enum err_code remote_open(struct engine **out, const struct engine_spec *spec, const struct engine_host *host,
                                 struct err *e)
{
    struct remote *r = xcalloc(1, sizeof(*r));

    assert(spec->far && spec->ports >= 1);
    r->base.ops = &remote_engine;
    r->host = *host;
    r->ports = spec->ports;
    r->out_bytes = ALIGN_UP(spec->out_bytes, 4096);
    r->in = spec->in;
    r->reap.fn = on_reap;
    atomic_init(&r->n_holds, 1);
    str_copy(r->name, sizeof(r->name), str_of(spec->name));
    r->death_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->death_fd < 0) {
        err_sys(e, ERR_UNAVAILABLE, "no descriptor left for %s", spec->name);
    } else if (side_start(&r->side, spec->far, spec->dirfd, host->loop, on_side, r, e) == ERR_OK) {
        r->far = (struct far){r->side->url.authority, r->side->model, r->side->version};
        r->batch_max = spec->batch.max;
        *out = &r->base;
        return ERR_OK;
    }
    remote_free(r);
    return e ? e->code : ERR_UNAVAILABLE;
}

static void remote_close(struct engine *g)
{
    struct remote *r = CONTAINER_OF(g, struct remote, base);
    struct err why;

    if (r->ended) {
        return;
    }
    err_set(&why, ERR_UNAVAILABLE, "%s was taken out of service", r->name);
    end(r, &why);
}

bool remote_say(const struct engine *g, char *text, size_t cap)
{
    const struct remote *r = CONTAINER_OF(g, struct remote, base);
    unsigned n, up;

    if (g->ops != &remote_engine) {
        return false;
    }
    n = targets_listed(&r->side->targets, clock_us(), &up);
    snprintf(text, cap, "%s: %s%u of %u addresses up", r->side->place, r->ready ? "" : "not ready yet, ", up, n);
    return true;
}

const struct engine_ops remote_engine = {
    .version = ENGINE_VERSION,
    .name = "remote",
    .open = remote_open,
    .close = remote_close,
    .attach = remote_port_attach,
    .detach = remote_port_detach,
    .submit = remote_port_submit,
    .flush = remote_port_flush,
    .cancel = remote_port_cancel,
};
