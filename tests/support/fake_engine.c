/* SPDX-License-Identifier: Apache-2.0 */
/* The fake engine; see fake_engine.h.
 *
 * One lock guards what threads share: the table of engines, who is dead, who runs. Events are told without it. A port's
 * own lists belong to its thread. Ports and engines are freed by the last task that names them: a detached port posts
 * its own end behind whatever else was posted to its loop, and only then lets go of its engine. */
#include "support/fake_engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "inference/batch.h"

#define ENGINES 256
#define PORTS 64
#define OPEN_MAX 1024
#define LOG_MAX 4096

struct fake_engine {
    struct engine engine;
    struct engine_host host;
    unsigned nth, ports, holders, running; /* holders: the control side and every port not yet detached */
    uint32_t batch_max;
    struct window *in;
    bool spin, narrow, ready, closing, dead;
    struct engine_end end;
    struct fake_port *port[PORTS];
    bool attached[PORTS];
    struct timer ready_timer;
    struct task killed, gone;
};

struct fake_job {
    struct job job;
    bool flushed, running, cancelled;
    uint64_t at_ns;
};

struct fake_port {
    struct port port;
    struct port_host host;
    struct fake_engine *g;
    struct fake_job jobs[OPEN_MAX]; /* in order of submission */
    unsigned n;
    bool scheduled, given_up, detached;
    bool death_posted, poked; /* under the lock */
    uint64_t run_began_ns;
    struct task step_task, poke_task, death_task, free_task;
    struct timer step_timer;
};

struct fake_script fake;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct fake_engine *table[ENGINES];
static struct fake_counts counts;
static struct fake_seen seen[LOG_MAX];
static size_t n_seen;

/* ---- ends ---- */

/* Under the lock. */
static void let_go(struct fake_engine *g)
{
    assert(g->holders > 0);
    if (--g->holders == 0) {
        loop_post(g->host.loop, &g->gone);
    }
}

static void on_gone(struct task *t)
{
    struct fake_engine *g = CONTAINER_OF(t, struct fake_engine, gone);

    pthread_mutex_lock(&lock);
    table[g->nth] = NULL;
    counts.living--;
    pthread_mutex_unlock(&lock);
    g->host.on->gone(g->host.ctx, &g->engine, &g->end);
    free(g);
}

static void on_killed(struct task *t)
{
    struct fake_engine *g = CONTAINER_OF(t, struct fake_engine, killed);

    timer_clear(g->host.loop, &g->ready_timer);
    pthread_mutex_lock(&lock);
    let_go(g);
    pthread_mutex_unlock(&lock);
}

/* Under the lock. The ports hear of it by a task each. */
static void end_ports(struct fake_engine *g)
{
    g->dead = true;
    for (unsigned i = 0; i < PORTS; i++) {
        if (g->port[i] && !g->port[i]->death_posted) {
            g->port[i]->death_posted = true;
            loop_post(g->port[i]->host.loop, &g->port[i]->death_task);
        }
    }
}

/* Under the lock. */
static void die(struct fake_engine *g, bool own)
{
    if (g->dead || g->closing) {
        return;
    }
    g->end = (struct engine_end){.own = own, .loading = !g->ready};
    err_set(&g->end.err, ERR_UNAVAILABLE, own ? "it died by itself" : "it was killed from outside");
    end_ports(g);
    loop_post(g->host.loop, &g->killed);
}

/* ---- the engine ---- */

static void info_of(const struct fake_engine *g, struct model_info *m)
{
    static const struct tensor_info add[] = {{.name = "a", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}},
                                             {.name = "b", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}},
                                             {.name = "c", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}},
                                             {.name = "d", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}}};
    static const struct tensor_info spin[] = {{.name = "x", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}},
                                              {.name = "trips", .dtype = DTYPE_INT64, .rank = 0},
                                              {.name = "y", .dtype = DTYPE_FP32, .rank = 2, .dim = {-1, 4}}};
    const struct tensor_info *t = g->spin ? spin : add;
    uint32_t claimed = atomic_load(&fake.batch_max);

    *m = (struct model_info){.platform = "fake", .runtime = "fake", .n_in = 2, .n_out = g->spin || g->narrow ? 1 : 2};
    m->joins = !g->spin && g->batch_max > 1;
    m->batch_max = claimed ? claimed : m->joins ? g->batch_max : 1;
    m->in = xcalloc(m->n_in, sizeof *m->in);
    m->out = xcalloc(m->n_out, sizeof *m->out);
    memcpy(m->in, t, m->n_in * sizeof *t);
    memcpy(m->out, t + m->n_in, m->n_out * sizeof *t);
}

static void on_loaded(struct timer *t)
{
    struct fake_engine *g = CONTAINER_OF(t, struct fake_engine, ready_timer);
    struct model_info info;
    bool fails = false;

    pthread_mutex_lock(&lock);
    if (g->dead) {
        pthread_mutex_unlock(&lock);
        return;
    }
    if (!g->closing && atomic_load(&fake.fail_load) > 0) {
        atomic_fetch_sub(&fake.fail_load, 1);
        g->end = (struct engine_end){.own = true, .loading = true};
        err_set(&g->end.err, ERR_REFUSED, "the model is not to its liking");
        let_go(g);
        fails = true;
    } else {
        g->ready = true;
        g->holders += g->ports;
    }
    pthread_mutex_unlock(&lock);
    if (fails) {
        return;
    }
    info_of(g, &info);
    g->host.on->ready(g->host.ctx, &g->engine, &info);
    model_info_done(&info);
    pthread_mutex_lock(&lock);
    if (g->closing && !g->dead) { /* closed before: that end was put off until now */
        end_ports(g);
        let_go(g);
    }
    pthread_mutex_unlock(&lock);
}

static enum err_code fake_open(struct engine **out, const struct engine_spec *spec, const struct engine_host *host,
                               struct err *e)
{
    struct fake_engine *g;

    if (atomic_load(&fake.fail_open) > 0) {
        atomic_fetch_sub(&fake.fail_open, 1);
        return err_set(e, ERR_UNAVAILABLE, "it can not be started");
    }
    g = xcalloc(1, sizeof *g);
    g->engine.ops = &fake_engine;
    g->host = *host;
    g->ports = spec->ports;
    g->batch_max = spec->batch.max;
    g->in = spec->in;
    g->spin = strncmp(spec->name, "spin/", 5) == 0;
    g->narrow = atomic_load(&fake.narrow);
    g->holders = 1;
    g->ready_timer.fn = on_loaded;
    g->killed.fn = on_killed;
    g->gone.fn = on_gone;
    pthread_mutex_lock(&lock);
    g->nth = counts.opened++;
    assert(g->nth < ENGINES);
    counts.living++;
    table[g->nth] = g;
    pthread_mutex_unlock(&lock);
    timer_set(host->loop, &g->ready_timer, clock_us() + atomic_load(&fake.ready_us));
    *out = &g->engine;
    return ERR_OK;
}

static void fake_close(struct engine *engine)
{
    struct fake_engine *g = CONTAINER_OF(engine, struct fake_engine, engine);

    pthread_mutex_lock(&lock);
    assert(!g->closing);
    counts.closes++;
    g->closing = true;
    if (!g->dead && (g->ready || !atomic_load(&fake.ready_despite_close))) {
        g->end = (struct engine_end){.loading = !g->ready};
        timer_clear(g->host.loop, &g->ready_timer);
        end_ports(g);
        let_go(g);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- the port ---- */

static const struct job_block *block_of(const struct fake_port *p, const struct fake_job *j)
{
    return (const void *)(window_base(p->g->in) + j->job.block);
}

static const uint8_t *input_of(const struct fake_port *p, const struct fake_job *j, uint16_t port)
{
    const struct job_block *b = block_of(p, j);

    for (uint32_t i = 0; i < b->n_in; i++) {
        if (b->in[i].port == port) {
            return window_base(p->g->in) + b->in[i].off;
        }
    }
    return NULL;
}

static float first_value(const struct fake_port *p, const struct fake_job *j)
{
    float v = 0;

    memcpy(&v, input_of(p, j, 0), sizeof v);
    return v;
}

static void remove_job(struct fake_port *p, unsigned i)
{
    memmove(&p->jobs[i], &p->jobs[i + 1], (--p->n - i) * sizeof p->jobs[0]);
}

/* Results are written to memory of their own that is freed right after, so that a sanitizer sees who keeps them. */
static void give(struct fake_port *p, const struct fake_job *j, uint32_t joined)
{
    const struct job_block *b = block_of(p, j);
    uint32_t all = p->g->spin || p->g->narrow ? 1 : 2, n = b->n_out ? b->n_out : all;
    struct job_result r = {
        .joined = joined, .wait_ns = p->run_began_ns - j->at_ns, .compute_ns = clock_ns() - p->run_began_ns};
    const float *x = (const void *)input_of(p, j, 0), *y = (const void *)input_of(p, j, 1);
    uint64_t elements = b->in[0].len / sizeof(float), bytes = ALIGN_UP(elements * sizeof(float), TENSOR_ALIGN);
    struct tensor out[2];
    uint8_t *base = xmalloc(MAX(bytes * n, 1));

    if (b->n_in != 2 || b->in[0].rank != 2 || b->in[0].dim[1] != 4) {
        err_set(&r.err, ERR_INVALID, "inputs of [n,4] are needed");
        n = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint16_t port = b->n_out ? job_block_want(b)[i] : (uint16_t)i;
        float *to = (void *)(base + i * bytes);

        out[i] = b->in[0];
        out[i].port = port;
        out[i].off = i * bytes;
        for (uint64_t k = 0; k < elements; k++) {
            to[k] = p->g->spin ? x[k] : port == 0 ? x[k] + y[k] : x[k] - y[k];
        }
    }
    r.n_out = n;
    r.out = n ? out : NULL;
    r.base = base;
    r.size = bytes * n;
    p->host.on->done(p->host.ctx, j->job.id, &r);
    free(base);
}

static void schedule(struct fake_port *p, uint64_t after_us)
{
    if (p->scheduled) {
        return;
    }
    p->scheduled = true;
    if (after_us) {
        timer_set(p->host.loop, &p->step_timer, clock_us() + after_us);
    } else {
        loop_post(p->host.loop, &p->step_task);
    }
}

/* The running jobs come back. False: the engine died meanwhile, or it is on hold. */
static bool end_run(struct fake_port *p)
{
    struct fake_job mine[OPEN_MAX];
    unsigned k = 0;

    if (p->n == 0 || !p->jobs[0].running) {
        return true;
    }
    pthread_mutex_lock(&lock);
    if (p->g->dead || atomic_load(&fake.hold)) {
        pthread_mutex_unlock(&lock);
        return false;
    }
    for (unsigned i = 0; i < p->n;) {
        if (p->jobs[i].running) {
            mine[k++] = p->jobs[i];
            remove_job(p, i);
        } else {
            i++;
        }
    }
    p->g->running -= k;
    counts.runs++;
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < k; i++) {
        give(p, &mine[i], k);
    }
    return true;
}

static void drop_cancelled(struct fake_port *p)
{
    for (unsigned i = 0; i < p->n;) {
        if (p->jobs[i].cancelled) {
            struct job_result r = {0};
            uint64_t id = p->jobs[i].job.id;
            remove_job(p, i);
            err_set(&r.err, ERR_CANCELLED, "cancelled before it was run");
            p->host.on->done(p->host.ctx, id, &r);
        } else {
            i++;
        }
    }
}

static void begin_run(struct fake_port *p)
{
    static _Thread_local struct batch_job batch[OPEN_MAX];
    static _Thread_local uint32_t pick[OPEN_MAX];
    uint64_t rows, us = atomic_load(&fake.run_us);
    int poison = atomic_load(&fake.poison);
    size_t n = 0, k;

    while (n < p->n && p->jobs[n].flushed) {
        batch[n] = (struct batch_job){.block = block_of(p, &p->jobs[n]), .flags = p->jobs[n].job.flags};
        n++;
    }
    k = batch_next(batch, n, !p->g->spin, p->g->batch_max, pick, &rows);
    if (k == 0) {
        return;
    }
    pthread_mutex_lock(&lock);
    if (!p->g->dead) {
        p->g->running += (unsigned)k;
        for (size_t i = 0; i < k; i++) {
            p->jobs[pick[i]].running = true;
        }
        for (size_t i = 0; i < k && poison; i++) {
            if (first_value(p, &p->jobs[pick[i]]) == (float)poison) {
                die(p->g, true);
            }
        }
    }
    pthread_mutex_unlock(&lock);
    /* the running ones stand first, in their order */
    for (size_t i = 0; i < k; i++) {
        struct fake_job j = p->jobs[pick[i]];
        memmove(&p->jobs[i + 1], &p->jobs[i], (pick[i] - i) * sizeof j);
        p->jobs[i] = j;
    }
    p->run_began_ns = clock_ns();
    if (p->g->spin) {
        int64_t trips;
        memcpy(&trips, input_of(p, &p->jobs[0], 1), sizeof trips);
        us = (uint64_t)trips * 2;
    }
    schedule(p, us);
}

static void step(struct fake_port *p)
{
    p->scheduled = false;
    if (!p->given_up && end_run(p) && !p->given_up) {
        drop_cancelled(p);
        if (p->n > 0 && !p->jobs[0].running) {
            begin_run(p);
        }
    }
}

static void on_step_task(struct task *t)
{
    step(CONTAINER_OF(t, struct fake_port, step_task));
}
static void on_step_timer(struct timer *t)
{
    step(CONTAINER_OF(t, struct fake_port, step_timer));
}
static void on_poke(struct task *t)
{
    struct fake_port *p = CONTAINER_OF(t, struct fake_port, poke_task);

    pthread_mutex_lock(&lock);
    p->poked = false;
    pthread_mutex_unlock(&lock);
    if (!p->given_up && p->n > 0) {
        schedule(p, 0);
    }
}

static void on_death(struct task *t)
{
    struct fake_port *p = CONTAINER_OF(t, struct fake_port, death_task);
    unsigned running;
    bool own;

    if (p->detached) {
        return;
    }
    pthread_mutex_lock(&lock);
    running = p->g->running;
    own = p->g->end.own;
    pthread_mutex_unlock(&lock);
    p->given_up = true;
    while (p->n > 0) {
        struct fake_job j = p->jobs[0];
        struct job_result r = {.lost = true, .own = own, .started = j.running, .alone = j.running && running == 1};

        remove_job(p, 0);
        err_set(&r.err, ERR_UNAVAILABLE, "the engine died while it had this job");
        p->host.on->done(p->host.ctx, j.job.id, &r);
    }
    p->host.on->down(p->host.ctx);
}

static void on_free(struct task *t)
{
    struct fake_port *p = CONTAINER_OF(t, struct fake_port, free_task);
    struct fake_engine *g = p->g;

    free(p);
    pthread_mutex_lock(&lock);
    let_go(g);
    pthread_mutex_unlock(&lock);
}

static enum err_code fake_attach(struct engine *engine, const struct port_host *host, struct port **out, struct err *e)
{
    struct fake_engine *g = CONTAINER_OF(engine, struct fake_engine, engine);
    struct fake_port *p = NULL;

    pthread_mutex_lock(&lock);
    assert(g->ready && host->index < g->ports && !g->attached[host->index] && host->loop);
    g->attached[host->index] = true;
    if (atomic_load(&fake.fail_attach) > 0) {
        atomic_fetch_sub(&fake.fail_attach, 1);
        let_go(g);
    } else {
        p = xcalloc(1, sizeof *p);
        p->port = (struct port){.ops = &fake_engine, .engine = engine};
        p->host = *host;
        p->g = g;
        p->step_task.fn = on_step_task;
        p->poke_task.fn = on_poke;
        p->death_task.fn = on_death;
        p->free_task.fn = on_free;
        p->step_timer.fn = on_step_timer;
        g->port[host->index] = p;
        if (g->dead) {
            p->death_posted = true;
            loop_post(host->loop, &p->death_task);
        }
    }
    pthread_mutex_unlock(&lock);
    if (!p) {
        return err_set(e, ERR_INTERNAL, "this thread can not attach");
    }
    *out = &p->port;
    return ERR_OK;
}

static void fake_detach(struct port *port)
{
    struct fake_port *p = CONTAINER_OF(port, struct fake_port, port);

    assert(p->n == 0);
    pthread_mutex_lock(&lock);
    p->g->port[p->host.index] = NULL;
    pthread_mutex_unlock(&lock);
    p->given_up = true;
    timer_clear(p->host.loop, &p->step_timer);
    p->detached = true;
    loop_post(p->host.loop, &p->free_task);
}

static enum err_code fake_submit(struct port *port, const struct job *j, struct err *e)
{
    struct fake_port *p = CONTAINER_OF(port, struct fake_port, port);

    for (unsigned i = 0; i < p->n; i++) {
        assert(p->jobs[i].job.id != j->id);
    }
    if (p->given_up || p->n >= MIN(atomic_load(&fake.capacity), OPEN_MAX)) {
        return err_set(e, ERR_UNAVAILABLE, p->given_up ? "the engine is down" : "the port is full");
    }
    p->jobs[p->n++] = (struct fake_job){.job = *j, .at_ns = clock_ns()};
    pthread_mutex_lock(&lock);
    counts.submits++;
    if (n_seen < LOG_MAX) {
        struct fake_seen *f = &seen[n_seen++];

        *f = (struct fake_seen){
            .nth = p->g->nth, .port = p->host.index, .value = first_value(p, &p->jobs[p->n - 1]), .flags = j->flags};
        str_copy(f->origin, sizeof(f->origin), j->origin ? j->origin->id : (struct str){NULL, 0});
    }
    pthread_mutex_unlock(&lock);
    return ERR_OK;
}

static void fake_flush(struct port *port)
{
    struct fake_port *p = CONTAINER_OF(port, struct fake_port, port);

    for (unsigned i = 0; i < p->n; i++) {
        p->jobs[i].flushed = true;
    }
    if (p->n > 0 && !p->jobs[0].running && !p->given_up) {
        schedule(p, 0);
    }
}

static void fake_cancel(struct port *port, uint64_t id)
{
    struct fake_port *p = CONTAINER_OF(port, struct fake_port, port);

    pthread_mutex_lock(&lock);
    counts.cancels++;
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < p->n; i++) {
        if (p->jobs[i].job.id == id && !p->jobs[i].running) {
            p->jobs[i].cancelled = true;
        }
    }
}

const struct engine_ops fake_engine = {
    .version = ENGINE_VERSION,
    .name = "fake",
    .open = fake_open,
    .close = fake_close,
    .attach = fake_attach,
    .detach = fake_detach,
    .submit = fake_submit,
    .flush = fake_flush,
    .cancel = fake_cancel,
};

/* ---- commands ---- */

void fake_reset(void)
{
    pthread_mutex_lock(&lock);
    assert(counts.living == 0);
    memset(&counts, 0, sizeof counts);
    n_seen = 0;
    pthread_mutex_unlock(&lock);
    atomic_store(&fake.capacity, 256);
    atomic_store(&fake.run_us, 0);
    atomic_store(&fake.ready_us, 0);
    atomic_store(&fake.fail_open, 0);
    atomic_store(&fake.fail_load, 0);
    atomic_store(&fake.fail_attach, 0);
    atomic_store(&fake.hold, false);
    atomic_store(&fake.ready_despite_close, false);
    atomic_store(&fake.narrow, false);
    atomic_store(&fake.batch_max, 0);
    atomic_store(&fake.poison, 0);
}

void fake_kill(unsigned nth, bool own)
{
    pthread_mutex_lock(&lock);
    if (table[nth]) {
        die(table[nth], own);
    }
    pthread_mutex_unlock(&lock);
}

bool fake_alive(unsigned nth)
{
    bool alive;

    pthread_mutex_lock(&lock);
    alive = table[nth] && !table[nth]->dead;
    pthread_mutex_unlock(&lock);
    return alive;
}

void fake_go(void)
{
    pthread_mutex_lock(&lock);
    atomic_store(&fake.hold, false);
    for (unsigned i = 0; i < ENGINES; i++) {
        for (unsigned k = 0; table[i] && k < PORTS; k++) {
            struct fake_port *p = table[i]->port[k];
            if (p && !p->poked) {
                p->poked = true;
                loop_post(p->host.loop, &p->poke_task);
            }
        }
    }
    pthread_mutex_unlock(&lock);
}

struct fake_counts fake_counts(void)
{
    struct fake_counts c;

    pthread_mutex_lock(&lock);
    c = counts;
    pthread_mutex_unlock(&lock);
    return c;
}

size_t fake_log(struct fake_seen *out, size_t max)
{
    size_t n;

    pthread_mutex_lock(&lock);
    n = MIN(n_seen, max);
    memcpy(out, seen, n * sizeof *out);
    pthread_mutex_unlock(&lock);
    return n;
}

void fake_log_clear(void)
{
    pthread_mutex_lock(&lock);
    n_seen = 0;
    pthread_mutex_unlock(&lock);
}
