/* SPDX-License-Identifier: Apache-2.0 */
/* The instances of one version. Everything between threads is a message: ATTACH and DRAIN go to the shards, each is
 * acknowledged. An engine is told gone only after every port is detached, so an acknowledgement always comes before the
 * gone of the same engine. */
#include "inference/pool.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "inference/supervisor.h"

enum instance_state { INSTANCE_DOWN, INSTANCE_STARTING, INSTANCE_ATTACHING, INSTANCE_UP };

struct instance {
    struct pool *pool;
    unsigned index, acks;
    enum instance_state state;
    struct engine *engine;
    bool closed;      /* the engine was told */
    struct err unfit; /* ERR_OK, or why it must not be used: another model than the first, a thread can not attach */
    struct timer restart;
    uint64_t deaths, own_deaths;
    struct err last_end; /* why it ended last */
};

struct pool {
    struct pool_spec spec;
    char backend[16];
    char *library;
    const char *program;
    struct far_place far; /* its strings are ours; spec.far says whether there is one */
    const struct engine_ops *ops;
    struct loop *loop;
    struct shard *const *shards;
    unsigned n_shards, n_drained;
    const struct pool_events *on;
    void *ctx;
    struct sched_shared *shared;
    struct supervisor supervisor;
    bool announced, failed, closing, drained, abandoned;
    struct timer drain_limit;
    struct task closed;
    struct instance instance[INSTANCES_MAX];
};

enum message_kind {
    MESSAGE_ATTACH,
    MESSAGE_PASS, /* the engine became ready while the pool closes: its port is attached and detached, as its contract
                     wants */
    MESSAGE_DRAIN,
    MESSAGE_ABANDON
};
struct message { /* to a shard and back */
    struct task task;
    enum message_kind kind;
    struct pool *pool;
    struct shard *shard;
    unsigned slot; /* not pool->spec.slot: nobody answers ABANDON, the pool may be gone when it arrives */
    unsigned instance;
    struct engine *engine;
    struct err err;
};

static void start(struct instance *in);
static void begin_close(struct pool *p);

/* ---- where it is ---- */

static void far_copy(struct far_place *to, const struct far_place *from)
{
    to->url = xstrdup(from->url);
    to->model = xstrdup(from->model);
    to->version = xstrdup(from->version);
    to->digest = xstrdup(from->digest ? from->digest : "");
    to->token_file = from->token_file ? xstrdup(from->token_file) : NULL;
}

static void far_done(struct far_place *f)
{
    const char *const texts[] = {f->url, f->model, f->version, f->digest, f->token_file};

    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        free((char *)(uintptr_t)texts[i]);
    }
}

/* ---- the end of the pool ---- */

static void on_closed(struct task *t)
{
    struct pool *p = CONTAINER_OF(t, struct pool, closed);

    p->on->closed(p->ctx, p);
    timer_clear(p->loop, &p->drain_limit);
    for (unsigned i = 0; i < p->spec.instances; i++) {
        timer_clear(p->loop, &p->instance[i].restart);
    }
    if (p->spec.dirfd >= 0) {
        close(p->spec.dirfd);
    }
    window_free(p->shared->in);
    model_info_done(&p->shared->info);
    free(p->shared);
    free(p->library);
    far_done(&p->far);
    free(p);
}

static void check_closed(struct pool *p)
{
    if (!p->closing || !p->drained) {
        return;
    }
    for (unsigned i = 0; i < p->spec.instances; i++) {
        if (p->instance[i].engine) {
            return;
        }
    }
    p->drained = false; /* once */
    loop_post(p->loop, &p->closed);
}

/* ---- messages to shards ---- */

static void on_ack(struct task *t);

static void reply(struct message *m)
{
    m->task.fn = on_ack;
    loop_post(m->pool->loop, &m->task);
}

static void on_shard_drained(void *ctx)
{
    struct message *m = ctx;

    /* Not from inside the scheduler's own call: the acknowledgement goes round, sched_free happens on the shard by a
     * second task. */
    loop_post(m->shard->loop, &m->task);
}

static void free_sched(struct task *t)
{
    struct message *m = CONTAINER_OF(t, struct message, task);

    sched_free(m->shard->sched[m->slot]);
    m->shard->sched[m->slot] = NULL;
    reply(m);
}

static void attach_in_passing(struct message *m)
{
    struct port_host host = {.loop = m->shard->loop, .index = m->shard->index};
    struct port *port;

    if (m->engine->ops->attach(m->engine, &host, &port, &m->err) == ERR_OK) {
        m->engine->ops->detach(port);
    }
    free(m);
}

static void on_shard(struct task *t)
{
    struct message *m = CONTAINER_OF(t, struct message, task);
    struct sched **s = &m->shard->sched[m->slot];

    switch (m->kind) {
    case MESSAGE_ATTACH:
        if (!*s) {
            *s = sched_new(m->shard, m->pool->shared);
        }
        if (sched_attach(*s, m->instance, m->engine, &m->err) == ERR_OK) {
            m->err.code = ERR_OK;
        }
        reply(m);
        break;
    case MESSAGE_PASS:
        attach_in_passing(m);
        break;
    case MESSAGE_DRAIN:
        if (*s) {
            m->task.fn = free_sched;
            sched_drain(*s, on_shard_drained, m);
        } else {
            reply(m);
        }
        break;
    case MESSAGE_ABANDON:
        if (*s) {
            sched_abandon(*s);
        }
        free(m);
        break;
    }
}

static void tell(struct pool *p, enum message_kind kind, unsigned instance, struct engine *g)
{
    for (unsigned i = 0; i < p->n_shards; i++) {
        struct message *m = xcalloc(1, sizeof(*m));

        *m = (struct message){.task.fn = on_shard,
                              .kind = kind,
                              .pool = p,
                              .shard = p->shards[i],
                              .slot = p->spec.slot,
                              .instance = instance,
                              .engine = g};
        loop_post(p->shards[i]->loop, &m->task);
    }
}

static void close_engines(struct pool *p)
{
    for (unsigned i = 0; i < p->spec.instances; i++) {
        struct instance *in = &p->instance[i];

        if (in->engine && !in->closed) {
            in->closed = true;
            p->ops->close(in->engine);
        }
    }
}

/* While it closes nothing is started any more: without an instance in use, what waits has nobody to wait for. */
static void check_hopeless(struct pool *p)
{
    for (unsigned i = 0; i < p->spec.instances; i++) {
        if (p->instance[i].state == INSTANCE_ATTACHING || p->instance[i].state == INSTANCE_UP) {
            return;
        }
    }
    if (!p->abandoned) {
        p->abandoned = true;
        tell(p, MESSAGE_ABANDON, 0, NULL);
    }
}

static void announce(struct pool *p)
{
    for (unsigned i = 0; i < p->spec.instances; i++) {
        if (p->instance[i].state != INSTANCE_UP) {
            return;
        }
    }
    if (!p->announced && !p->closing && !p->failed) {
        p->announced = true;
        p->on->ready(p->ctx, p);
    }
}

/* The engine is ready, and must not be used: it ends, as by its own doing. */
static void reject(struct instance *in, const struct engine *g, const struct err *why)
{
    if (in->engine == g && !in->closed) {
        in->unfit = *why;
        in->closed = true;
        in->pool->ops->close(in->engine);
    }
}

static void on_ack(struct task *t)
{
    struct message *m = CONTAINER_OF(t, struct message, task);
    struct pool *p = m->pool;
    struct instance *in = &p->instance[m->instance];

    if (m->kind == MESSAGE_ATTACH && m->err.code != ERR_OK) { /* whoever is on that thread would wait for nothing */
        reject(in, m->engine, &m->err);
    } else if (m->kind == MESSAGE_ATTACH) {
        if (in->engine == m->engine && ++in->acks == p->n_shards && in->state == INSTANCE_ATTACHING) {
            in->state = INSTANCE_UP;
            atomic_fetch_add(&p->shared->instances_up, 1);
            announce(p);
        }
    } else if (++p->n_drained == p->n_shards) {
        p->drained = true;
        close_engines(p);
        check_closed(p);
    }
    free(m);
}

/* ---- engine events ---- */

static bool same_tensors(const struct tensor_info *a, const struct tensor_info *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(a[i].name, b[i].name) != 0 || a[i].dtype != b[i].dtype || a[i].rank != b[i].rank ||
            memcmp(a[i].dim, b[i].dim, a[i].rank * sizeof(a[i].dim[0])) != 0) {
            return false;
        }
    }
    return true;
}

/* Requests are checked and answers are read by the first instance's description: a later one must not differ. */
static bool same_model(const struct model_info *a, const struct model_info *b)
{
    return a->n_in == b->n_in && a->n_out == b->n_out && same_tensors(a->in, b->in, a->n_in) &&
           same_tensors(a->out, b->out, a->n_out);
}

static void on_ready(void *ctx, struct engine *g, const struct model_info *info)
{
    struct instance *in = ctx;
    struct pool *p = in->pool;
    struct sched_shared *sh = p->shared;
    struct err e;

    in->engine = g;
    if (p->closing) {
        tell(p, MESSAGE_PASS, in->index, g);
        return;
    }
    if (sh->info.n_in == 0 && sh->info.n_out == 0) { /* the first: from here on immutable */
        model_info_copy(&sh->info, info);
        admission_init(&sh->admission, p->spec.queue_requests, p->spec.queue_bytes, p->spec.timeout_us, info->warm_ns);
        sh->credit = p->spec.on_thread ? 1024 : 2 * MIN(MAX(info->batch_max, 1u), 64u);
    } else if (!same_model(&sh->info, info)) {
        err_set(&e, ERR_CONFLICT, "an instance of %s has other inputs or outputs than the first one had",
                p->shared->name);
        tell(p, MESSAGE_PASS, in->index, g);
        reject(in, g, &e);
        return;
    }
    in->state = INSTANCE_ATTACHING;
    in->acks = 0;
    tell(p, MESSAGE_ATTACH, in->index, g);
}

static void on_gone(void *ctx, struct engine *g, const struct engine_end *why)
{
    struct instance *in = ctx;
    struct pool *p = in->pool;
    uint64_t now = clock_us();
    struct supervisor_answer a;
    bool was_up = in->state == INSTANCE_UP;
    struct engine_end unfit = {.err = in->unfit, .own = true};

    (void)g;
    if (in->unfit.code != ERR_OK) {
        why = &unfit;
    }
    in->engine = NULL;
    in->state = INSTANCE_DOWN;
    if (was_up) {
        atomic_fetch_sub(&p->shared->instances_up, 1);
    }
    if (p->closing) {
        check_hopeless(p);
        check_closed(p);
        return;
    }
    if (!p->announced) {
        if (!p->failed) {
            p->failed = true;
            p->on->failed(p->ctx, p, &why->err);
            if (!p->closing) { /* the host may have done it already */
                begin_close(p);
            }
        }
        return;
    }
    in->deaths++;
    in->own_deaths += why->own;
    in->last_end = why->err;
    a = supervisor_died(&p->supervisor, why->own, now, (double)(random_u64() >> 11) * 0x1p-53);
    log_warn("inference",
             "an instance ended; it is started again version=%s instance=%u own=%d in_ms=%llu reason=\"%s\"",
             p->shared->name, in->index, why->own, (unsigned long long)((a.restart_at_us - now) / 1000), why->err.text);
    timer_set(p->loop, &in->restart, a.restart_at_us);
    if (a.sick) {
        p->on->sick(p->ctx, p, &why->err);
    }
}

static const struct engine_events engine_events = {on_ready, on_gone};

static void on_restart(struct timer *t)
{
    start(CONTAINER_OF(t, struct instance, restart));
}

static void start(struct instance *in)
{
    struct pool *p = in->pool;
    struct engine_host host = {.loop = p->loop, .on = &engine_events, .ctx = in};
    struct engine_spec spec = {.name = p->shared->name,
                               .backend = p->backend,
                               .dirfd = p->spec.dirfd,
                               .library = p->library,
                               .program = p->program,
                               .far = p->spec.far,
                               .ports = p->n_shards,
                               .device = p->spec.device,
                               .threads = p->spec.threads,
                               .threads_max = p->spec.threads_max,
                               .batch = p->spec.batch,
                               .memory_max = p->spec.memory_max,
                               .strict = p->spec.strict,
                               .run_max_us = p->spec.run_max_us,
                               .in = p->shared->in,
                               .out_bytes = p->spec.out_bytes};
    struct engine_end end = {.own = true, .loading = true};

    in->state = INSTANCE_STARTING;
    in->closed = false;
    in->unfit.code = ERR_OK;
    if (p->ops->open(&in->engine, &spec, &host, &end.err) != ERR_OK) {
        on_gone(in, NULL, &end);
    }
}

/* ---- public ---- */

static void on_drain_limit(struct timer *t)
{
    struct pool *p = CONTAINER_OF(t, struct pool, drain_limit);

    tell(p, MESSAGE_ABANDON, 0, NULL);
    close_engines(p);
}

static void begin_close(struct pool *p)
{
    p->closing = true;
    for (unsigned i = 0; i < p->spec.instances; i++) {
        timer_clear(p->loop, &p->instance[i].restart);
    }
    tell(p, MESSAGE_DRAIN, 0, NULL);
    check_hopeless(p);
}

void pool_close(struct pool *p, uint64_t drain_us)
{
    if (p->closing) {
        return;
    }
    begin_close(p);
    timer_set(p->loop, &p->drain_limit, clock_us() + drain_us);
}

enum err_code pool_open(struct pool **out, const struct pool_spec *spec, const struct engine_ops *ops,
                        struct loop *loop, struct shard *const *shards, unsigned n_shards, const struct pool_events *on,
                        void *ctx, struct err *e)
{
    struct pool *p = xcalloc(1, sizeof(*p));

    p->spec = *spec;
    p->spec.instances = spec->on_thread ? 1 : MIN(MAX(spec->instances, 1u), INSTANCES_MAX);
    p->spec.dirfd = fcntl(spec->dirfd, F_DUPFD_CLOEXEC, 3);
    p->library = spec->library ? xstrdup(spec->library) : NULL;
    p->program = spec->program;
    if (spec->far) {
        far_copy(&p->far, spec->far);
        p->spec.far = &p->far;
    }
    p->ops = ops;
    p->loop = loop;
    p->shards = shards;
    p->n_shards = n_shards;
    p->on = on;
    p->ctx = ctx;
    p->closed.fn = on_closed;
    p->drain_limit.fn = on_drain_limit;
    p->shared = aligned_alloc(64, ALIGN_UP(sizeof(*p->shared), 64));
    if (!p->shared) {
        err_set(e, ERR_UNAVAILABLE, "no memory for %s", spec->name);
        goto fail;
    }
    memset(p->shared, 0, sizeof(*p->shared));
    if (p->spec.dirfd < 0 || !str_copy(p->backend, sizeof(p->backend), str_of(spec->backend)) ||
        !str_copy(p->shared->name, sizeof(p->shared->name), str_of(spec->name))) {
        err_set(e, ERR_UNAVAILABLE, "no descriptor left to load %s, or a name that is too long", spec->name);
        goto fail;
    }
    admission_init(&p->shared->admission, spec->queue_requests, spec->queue_bytes, spec->timeout_us, 0);
    p->shared->lane = spec->lane;
    p->shared->on_threads = spec->on_thread ? n_shards : 0;
    p->shared->credit = 1;
    p->shared->space_bytes = spec->on_thread ? spec->out_bytes : 0;
    if (window_new(&p->shared->in, "weir-inputs", spec->part_bytes, n_shards, !spec->on_thread, e) != ERR_OK) {
        goto fail;
    }
    *out = p;
    for (unsigned i = 0; i < p->spec.instances; i++) {
        p->instance[i] = (struct instance){.pool = p, .index = i, .restart.fn = on_restart};
    }
    for (unsigned i = 0; i < p->spec.instances && !p->failed; i++) {
        start(&p->instance[i]);
    }
    return ERR_OK;
fail:
    if (p->spec.dirfd >= 0) {
        close(p->spec.dirfd);
    }
    free(p->shared);
    free(p->library);
    far_done(&p->far);
    free(p);
    return e ? e->code : ERR_UNAVAILABLE;
}

void pool_tell(struct pool *p, void *ctx)
{
    p->ctx = ctx;
}

const struct model_info *pool_info(const struct pool *p)
{
    return &p->shared->info;
}

const struct sched_shared *pool_shared(const struct pool *p)
{
    return p->shared;
}

unsigned pool_instances(const struct pool *p)
{
    return p->spec.instances;
}

void pool_instance(const struct pool *p, unsigned i, struct pool_instance *out)
{
    const struct instance *in = &p->instance[i];

    out->state = in->state == INSTANCE_UP ? "ready" : in->deaths > 0 ? "restarting" : "starting";
    out->engine = in->engine;
    out->deaths = in->deaths;
    out->own_deaths = in->own_deaths;
    out->last_end = in->deaths > 0 ? in->last_end.text : NULL;
}

bool pool_productive(const struct pool *p)
{
    return p->announced && atomic_load(&p->shared->answered) >= SUPERVISOR_PRODUCTIVE;
}
