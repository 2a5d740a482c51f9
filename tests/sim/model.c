/* SPDX-License-Identifier: Apache-2.0 */
/* The engine of model.h.
 *
 * Its executor is a loop of its own, as the worker's executor is a thread of its own: a flush rings it, a timer ends
 * its runs, and what it finished waits in the port until the port's loop comes by. */
#include "sim/model.h"

#include <stdlib.h>

#include "base/clock.h"
#include "inference/batch.h"
#include "sim/sim.h"

#define LOAD_US 200

struct sim_job {
    struct job job;
    bool flushed, pulled, running, cancelled;
    /* when it is finished */
    bool finished;
    enum err_code code;
    uint64_t wait_ns, compute_ns;
    uint32_t joined;
};

struct sim_instance;
struct sim_port {
    struct port port;
    struct sim_instance *g;
    struct port_host host;
    struct sim_job *jobs[SIM_OPEN]; /* in the order of their coming */
    unsigned n;
    struct task bell;
    bool rung, told, detached;
};

struct sim_instance {
    struct engine engine;
    struct sim_model *m;
    struct engine_host host;
    struct window *in;
    struct loop *loop; /* the executor's */
    bool ready, dead, closing, told;
    struct engine_end end;
    unsigned ports, attached, detached, turn;
    bool used[SIM_PORTS];
    struct sim_port *port[SIM_PORTS];
    struct batcher batcher;
    struct timer life, step, phase; /* on the executor's loop */
    struct task work, take_down, loaded, load, gone;
    bool called, slow, hung, unfit;
    struct sim_job *run[SIM_OPEN];
    unsigned run_port[SIM_OPEN], n_run;
    uint64_t run_began, run_rows;
    bool run_full;
};

static struct {
    struct sim_model *const *list;
    unsigned n;
} models;

void sim_models(struct sim_model *const *list, unsigned n)
{
    models.list = list;
    models.n = n;
}

static const struct job_block *block_of(const struct sim_instance *g, const struct sim_job *j)
{
    return (const void *)(window_base(g->in) + j->job.block);
}

static const struct sim_input *input_of(const struct sim_instance *g, const struct sim_job *j)
{
    return (const void *)(window_base(g->in) + block_of(g, j)->in[0].off);
}

static bool bad_luck(const struct sim_model *m, double p)
{
    return !m->spared && sim_chance(p);
}

static struct sim_instance *instance_of(struct engine *e)
{
    return CONTAINER_OF(e, struct sim_instance, engine);
}

/* ---- the end ---- */

static void ring(struct sim_port *p)
{
    if (p && !p->rung) {
        p->rung = true;
        loop_post(p->host.loop, &p->bell);
    }
}

/* It is told when nothing is attached any more; an instance that was ready waits for all its ports. */
static void check_gone(struct sim_instance *g)
{
    if (g->dead && !g->told && (!g->ready || g->detached == g->ports)) {
        g->told = true;
        loop_post(g->host.loop, &g->gone);
    }
}

static void end_instance(struct sim_instance *g, enum err_code code, bool own)
{
    if (g->dead) {
        return;
    }
    g->dead = true;
    g->end = (struct engine_end){.own = own, .loading = !g->ready};
    if (code != ERR_OK) {
        err_set(&g->end.err, code, own ? "it died by itself" : "it was killed from outside");
        g->m->died[own]++;
    }
    SIM_NOTE("instance of %llx ends: own %llu, it ran %llu jobs", (uint64_t)(unsigned char)g->m->name[0], own,
             g->n_run);
    for (unsigned i = 0; i < SIM_PORTS; i++) {
        ring(g->port[i]);
    }
    check_gone(g);
}

static void on_gone(struct task *t)
{
    struct sim_instance *g = CONTAINER_OF(t, struct sim_instance, gone);
    struct sim_model *m = g->m;

    m->living--;
    g->host.on->gone(g->host.ctx, &g->engine, &g->end);
    m->ended(m->ctx, g->end.own || g->unfit);
    loop_post(g->loop, &g->take_down);
}

/* On the executor's own loop: its timers go with it. */
static void on_take_down(struct task *t)
{
    struct sim_instance *g = CONTAINER_OF(t, struct sim_instance, take_down);

    timer_clear(g->loop, &g->life);
    timer_clear(g->loop, &g->step);
    timer_clear(g->loop, &g->phase);
    sim_bury(g->loop);
    free(g);
}

static void on_life(struct timer *t)
{
    struct sim_instance *g = CONTAINER_OF(t, struct sim_instance, life);

    if (g->hung || !g->m->spared) {
        end_instance(g, ERR_UNAVAILABLE,
                     g->hung || g->m->outside_every_us == 0 || (g->m->own_every_us > 0 && sim_chance(0.5)));
    }
}

static void on_phase(struct timer *t)
{
    struct sim_instance *g = CONTAINER_OF(t, struct sim_instance, phase);

    g->slow = !g->slow;
    timer_set(g->loop, t, clock_us() + sim_exponential((double)(g->slow ? g->m->slow_for_us : g->m->slow_every_us)));
}

/* ---- running ---- */

static void finish(struct sim_instance *g, unsigned port, struct sim_job *j, enum err_code code)
{
    SIM_CHECK(!j->finished, "a job is finished twice");
    j->finished = true;
    j->running = false;
    j->code = code;
    ring(g->port[port]);
}

static void call(struct sim_instance *g)
{
    if (!g->called && !g->dead) {
        g->called = true;
        loop_post(g->loop, &g->work);
    }
}

/* As the worker's executor: what has expired goes, and what would end too late makes way for what would not. */
static uint64_t horizon_of(const struct sim_instance *g)
{
    uint64_t now = clock_us(), horizon = now + batcher_predict_us(&g->batcher, 1);

    for (unsigned i = 0; i < SIM_PORTS; i++) {
        for (unsigned k = 0; g->port[i] && k < g->port[i]->n; k++) {
            const struct sim_job *j = g->port[i]->jobs[k];

            if (j->flushed && !j->finished && !j->running && !j->cancelled && j->job.deadline_us > horizon) {
                return horizon;
            }
        }
    }
    return now;
}

/* What waits, in turn of the ports; what is late or not wanted any more is dropped here. */
static unsigned gather(struct sim_instance *g, struct sim_job **jobs, unsigned *port)
{
    unsigned n = 0, at[SIM_PORTS] = {0};
    uint64_t now = clock_us(), horizon = horizon_of(g);

    for (bool more = true; more;) {
        more = false;
        for (unsigned k = 0; k < SIM_PORTS; k++) {
            unsigned i = (k + g->turn) % SIM_PORTS;
            struct sim_port *p = g->port[i];
            struct sim_job *j;

            if (!p || at[i] >= p->n || n >= SIM_OPEN) {
                continue;
            }
            more = true;
            j = p->jobs[at[i]++];
            if (!j->flushed || j->finished || j->running) {
                continue;
            }
            if (!j->pulled) {
                j->pulled = true;
                batcher_came(&g->batcher, j->job.submit_us, MAX(block_of(g, j)->rows, 1u));
            }
            if (j->cancelled || j->job.deadline_us <= horizon) {
                g->m->expired++;
                finish(g, i, j, now >= j->job.deadline_us ? ERR_TIMEOUT : ERR_UNAVAILABLE);
                continue;
            }
            jobs[n] = j;
            port[n++] = i;
        }
    }
    g->turn++;
    return n;
}

static void check_batch(const struct batch_job *batch, const uint32_t *pick, size_t k, uint64_t most)
{
    const struct job_block *first = batch[pick[0]].block;
    uint64_t rows = 0;

    for (size_t i = 0; i < k; i++) {
        const struct batch_job *j = &batch[pick[i]];

        rows += j->block->rows;
        SIM_CHECK(k == 1 || !(j->flags & JOB_SOLO), "a job that is to run alone runs with %zu others", k - 1);
        SIM_CHECK(j->block->in[0].dim[1] == first->in[0].dim[1], "jobs of other shapes run together");
        SIM_CHECK(i == 0 || pick[i] > pick[i - 1], "a batch is out of order");
    }
    SIM_CHECK(pick[0] == 0 && rows <= most, "a batch of %llu rows is made where %llu may be", (unsigned long long)rows,
              (unsigned long long)most);
}

/* How many of the waiting jobs run now; 0: later. */
static unsigned form(struct sim_instance *g, struct sim_job **jobs, unsigned *port, unsigned n)
{
    struct batch_job batch[SIM_OPEN];
    uint32_t pick[SIM_OPEN];
    bool joins = g->m->batch_max > 1;
    struct batch_view v = {.deadline_us = UINT64_MAX, .submit_us = jobs[0]->job.submit_us};
    struct batch_answer a;
    uint64_t rows;
    size_t k;

    for (unsigned i = 0; i < n; i++) {
        batch[i] = (struct batch_job){.block = block_of(g, jobs[i]), .flags = jobs[i]->job.flags};
    }
    k = batch_next(batch, n, joins, g->m->batch_max, pick, &rows);
    v.rows = MAX(rows, 1u);
    v.first_rows = MAX(batch[0].block->rows, 1u);
    for (size_t i = 0; i < k; i++) {
        v.deadline_us = MIN(v.deadline_us, jobs[pick[i]]->job.deadline_us);
    }
    a = batch[0].flags & JOB_SOLO ? (struct batch_answer){.rows = v.first_rows}
                                  : batcher_next(&g->batcher, &v, clock_us());
    if (a.rows == 0) {
        SIM_CHECK(a.until_us > clock_us(), "the batcher waits for a moment that has passed");
        timer_set(g->loop, &g->step, a.until_us);
        return 0;
    }
    SIM_CHECK(a.rows >= v.first_rows && (a.rows <= v.rows || a.rows == v.first_rows), "the batcher takes %llu of %llu",
              (unsigned long long)a.rows, (unsigned long long)v.rows);
    SIM_CHECK(a.rows == v.first_rows || batcher_predict_us(&g->batcher, a.rows) <= v.deadline_us - clock_us() + 1,
              "a batch of %llu rows is predicted to end after its first deadline", (unsigned long long)a.rows);
    for (unsigned i = 0; i < n; i++) {
        batch[i].taken = false;
    }
    k = batch_next(batch, n, joins, a.rows, pick, &rows);
    check_batch(batch, pick, k, MAX(a.rows, v.first_rows));
    g->run_rows = MAX(rows, 1u);
    g->run_full = g->run_rows >= batcher_limit(&g->batcher);
    for (size_t i = 0; i < k; i++) {
        g->run[i] = jobs[pick[i]];
        g->run_port[i] = port[pick[i]];
        g->run[i]->running = true;
        g->run[i]->wait_ns = 0;
    }
    return g->n_run = (unsigned)k;
}

static void begin_run(struct sim_instance *g)
{
    struct sim_job *jobs[SIM_OPEN];
    unsigned port[SIM_OPEN], n = gather(g, jobs, port);
    const struct sim_model *m = g->m;
    double us;

    if (n == 0 || form(g, jobs, port, n) == 0) {
        return;
    }
    g->run_began = clock_us();
    us = ((double)m->base_us + (double)g->run_rows * (double)m->row_us) * (1 + m->noise * (2 * sim_unit() - 1));
    us *= g->slow || (g->run_began >= m->slow_from_us && g->run_began < m->slow_to_us) ? m->slow_times : 1;
    for (unsigned i = 0; i < g->n_run; i++) {
        if (input_of(g, g->run[i])->poison == SIM_POISON) {
            SIM_NOTE("request %llu poisons a run of %llu", input_of(g, g->run[i])->id, g->n_run);
            end_instance(g, ERR_UNAVAILABLE, true);
            return;
        }
    }
    if (bad_luck(m, m->dies_in_run)) {
        end_instance(g, ERR_UNAVAILABLE, true);
        return;
    }
    if (bad_luck(m, m->hangs_in_run)) {
        g->hung = true;
        timer_set(g->loop, &g->life, clock_us() + m->hang_us);
        return;
    }
    timer_set(g->loop, &g->step, clock_us() + MAX((uint64_t)us, 1u));
}

static void end_run(struct sim_instance *g)
{
    uint64_t now = clock_us(), took = now - g->run_began, worst = 0, waiting = 0;
    struct sim_job *jobs[SIM_OPEN];
    unsigned port[SIM_OPEN];

    for (unsigned i = 0; i < g->n_run; i++) {
        struct sim_job *j = g->run[i];

        j->compute_ns = took * 1000;
        j->joined = g->n_run;
        g->m->wasted_us += now > j->job.deadline_us && !j->cancelled ? took / g->n_run : 0;
        worst = j->job.submit_us ? MAX(worst, now - j->job.submit_us) : worst;
        finish(g, g->run_port[i], j, ERR_OK);
    }
    g->m->worked_us += took;
    g->m->runs++;
    g->m->jobs += g->n_run;
    batcher_ran(&g->batcher, g->run_rows, took, worst, g->run_full);
    g->n_run = 0;
    for (unsigned i = 0, n = gather(g, jobs, port); i < n; i++) {
        waiting += MAX(block_of(g, jobs[i])->rows, 1u);
    }
    batcher_ended(&g->batcher, now, g->run_rows, waiting);
}

static void step(struct sim_instance *g)
{
    if (g->dead || g->hung) {
        return;
    }
    if (g->n_run > 0 && g->step.slot == 0) {
        end_run(g);
    }
    if (g->n_run == 0) {
        begin_run(g);
    }
}

static void on_step(struct timer *t)
{
    step(CONTAINER_OF(t, struct sim_instance, step));
}

static void on_work(struct task *t)
{
    struct sim_instance *g = CONTAINER_OF(t, struct sim_instance, work);

    g->called = false;
    if (g->n_run == 0) {
        step(g);
    }
}

/* ---- life ---- */

static void on_loaded(struct task *t)
{
    struct sim_instance *g = CONTAINER_OF(t, struct sim_instance, loaded);
    struct tensor_info x = {.name = "x", .dtype = DTYPE_UINT64, .rank = 2, .dim = {-1, -1}};
    struct tensor_info y = {.name = "y", .dtype = DTYPE_UINT64, .rank = 1, .dim = {-1}};
    struct model_info info = {.platform = "sim",
                              .runtime = "sim",
                              .n_in = 1,
                              .n_out = 1,
                              .in = &x,
                              .out = &y,
                              .joins = g->m->batch_max > 1,
                              .batch_max = g->m->batch_max,
                              .warm_ns = (g->m->base_us + g->m->row_us) * 1000};

    if (g->dead || g->closing) {
        return;
    }
    g->ready = true;
    g->host.on->ready(g->host.ctx, &g->engine, &info);
}

/* The load's end, on the executor's loop. */
static void on_load(struct timer *t)
{
    struct sim_instance *g = CONTAINER_OF(t, struct sim_instance, step);
    struct sim_model *m = g->m;
    uint64_t mean = m->own_every_us && m->outside_every_us ? MIN(m->own_every_us, m->outside_every_us)
                                                           : m->own_every_us + m->outside_every_us;

    g->step.fn = on_step;
    if (g->dead) {
        return;
    }
    if (m->first_fails ? m->opened == 1 : m->runs > 0 && bad_luck(m, m->load_fails)) {
        m->load_failed++;
        end_instance(g, ERR_MODEL, true);
        return;
    }
    loop_post(g->host.loop, &g->loaded);
    if (mean) {
        timer_set(g->loop, &g->life, clock_us() + sim_exponential((double)mean));
    }
    if (m->slow_every_us) {
        timer_set(g->loop, &g->phase, clock_us() + sim_exponential((double)m->slow_every_us));
    }
}

static void on_open(struct task *t)
{
    struct sim_instance *g = CONTAINER_OF(t, struct sim_instance, load);

    timer_set(g->loop, &g->step, clock_us() + LOAD_US + sim_exponential((double)g->m->load_us));
}

static enum err_code model_open(struct engine **out, const struct engine_spec *spec, const struct engine_host *host,
                                struct err *e)
{
    struct sim_instance *g = xcalloc(1, sizeof(*g));

    for (unsigned i = 0; i < models.n; i++) {
        if (strcmp(models.list[i]->name, spec->name) == 0) {
            g->m = models.list[i];
        }
    }
    SIM_CHECK(g->m && spec->ports <= SIM_PORTS, "an engine without a script");
    if (loop_new(&g->loop, e) != ERR_OK) {
        free(g);
        return e->code;
    }
    g->engine.ops = &sim_engine;
    g->host = *host;
    g->in = spec->in;
    g->ports = spec->ports;
    g->life.fn = on_life;
    g->step.fn = on_load;
    g->phase.fn = on_phase;
    g->work.fn = on_work;
    g->take_down.fn = on_take_down;
    g->loaded.fn = on_loaded;
    g->load.fn = on_open;
    g->gone.fn = on_gone;
    batcher_init(&g->batcher, &spec->batch, g->m->batch_max > 1, g->m->base_us + g->m->row_us,
                 g->m->base_us + g->m->batch_max * g->m->row_us, g->m->batch_max);
    g->m->opened++;
    g->m->living++;
    g->m->begun(g->m->ctx);
    *out = &g->engine;
    loop_post(g->loop, &g->load);
    return ERR_OK;
}

static void model_close(struct engine *engine)
{
    struct sim_instance *g = instance_of(engine);

    SIM_CHECK(!g->closing, "an engine is closed twice");
    g->closing = true;
    end_instance(g, ERR_OK, false);
}

/* ---- ports ---- */

static void give(struct sim_port *p, struct sim_job *j, const struct job_result *r)
{
    unsigned i = 0;

    while (p->jobs[i] != j) {
        i++;
    }
    memmove(&p->jobs[i], &p->jobs[i + 1], (p->n - i - 1) * sizeof(p->jobs[0]));
    p->n--;
    SIM_NOTE("shard %llu is given back job %llu: code %llu lost %llu", p->host.index, input_of(p->g, j)->id,
             r->err.code, r->lost);
    if (r->lost) {
        p->g->m->lost(p->g->m->ctx, input_of(p->g, j)->id, r->own && r->started, r->alone);
    }
    p->host.on->done(p->host.ctx, j->job.id, r);
    free(j);
}

static void give_finished(struct sim_port *p)
{
    for (unsigned i = 0; i < p->n;) {
        struct sim_job *j = p->jobs[i];
        uint64_t id = input_of(p->g, j)->id;
        struct tensor y = {.dtype = DTYPE_UINT64, .rank = 1, .dim = {1}, .len = sizeof(id)};
        struct job_result r = {.wait_ns = j->wait_ns, .compute_ns = j->compute_ns, .joined = j->joined};

        if (!j->finished) {
            i++;
            continue;
        }
        if (j->code == ERR_OK) {
            r.n_out = 1;
            r.out = &y;
            r.base = (const void *)&id;
            r.size = sizeof(id);
        } else {
            err_set(&r.err, j->code, "it was late before it ran");
        }
        give(p, j, &r);
        i = 0; /* done() may have submitted */
    }
}

static void on_bell(struct task *t)
{
    struct sim_port *p = CONTAINER_OF(t, struct sim_port, bell);
    struct sim_instance *g = p->g;

    p->rung = false;
    if (p->detached) {
        free(p);
        return;
    }
    give_finished(p);
    if (!g->dead || p->told) {
        return;
    }
    p->told = true;
    while (p->n > 0) {
        struct sim_job *j = p->jobs[0];
        struct job_result r = {
            .lost = true, .own = g->end.own, .started = j->running, .alone = j->running && g->n_run == 1};

        err_set(&r.err, ERR_UNAVAILABLE, "the engine died while it had this job");
        give(p, j, &r);
    }
    p->host.on->down(p->host.ctx);
}

static enum err_code model_attach(struct engine *engine, const struct port_host *host, struct port **out, struct err *e)
{
    struct sim_instance *g = instance_of(engine);
    struct sim_port *p;

    SIM_CHECK(g->ready && host->index < g->ports && !g->used[host->index], "an attach against the rules");
    g->used[host->index] = true;
    g->attached++;
    if (bad_luck(g->m, g->m->attach_fails)) {
        g->unfit = true;
        g->detached++;
        check_gone(g);
        return err_set(e, ERR_INTERNAL, "this thread can not attach");
    }
    p = xcalloc(1, sizeof(*p));
    p->port = (struct port){.ops = &sim_engine, .engine = engine};
    p->g = g;
    p->host = *host;
    p->bell.fn = on_bell;
    g->port[host->index] = p;
    *out = &p->port;
    if (g->dead) {
        ring(p);
    }
    return ERR_OK;
}

static void model_detach(struct port *port)
{
    struct sim_port *p = CONTAINER_OF(port, struct sim_port, port);
    struct sim_instance *g = p->g;

    SIM_CHECK(p->n == 0 && !p->detached, "a port with jobs is detached");
    g->port[p->host.index] = NULL;
    g->detached++;
    p->detached = true;
    if (!p->rung) {
        free(p);
    }
    check_gone(g);
}

static enum err_code model_submit(struct port *port, const struct job *job, struct err *e)
{
    struct sim_port *p = CONTAINER_OF(port, struct sim_port, port);
    struct sim_instance *g = p->g;
    struct sim_job *j;

    if (p->told || p->n >= MIN(g->m->capacity, SIM_OPEN)) {
        return err_set(e, ERR_UNAVAILABLE, "no room in the port");
    }
    SIM_CHECK(clock_us() < job->deadline_us, "a job is given out after its deadline");
    j = xcalloc(1, sizeof(*j));
    j->job = *job;
    for (unsigned i = 0; i < p->n; i++) {
        SIM_CHECK(p->jobs[i]->job.id != job->id && p->jobs[i]->job.block != job->block, "a job is given out twice");
    }
    p->jobs[p->n++] = j;
    SIM_NOTE("shard %llu gives out job %llu, solo %llu", p->host.index, input_of(g, j)->id, job->flags & JOB_SOLO);
    g->m->given(g->m->ctx, p->host.index, input_of(g, j)->id, job->flags & JOB_SOLO);
    return ERR_OK;
}

static void model_flush(struct port *port)
{
    struct sim_port *p = CONTAINER_OF(port, struct sim_port, port);

    for (unsigned i = 0; i < p->n; i++) {
        p->jobs[i]->flushed = true;
    }
    if (p->n > 0) {
        call(p->g);
    }
}

static void model_cancel(struct port *port, uint64_t id)
{
    struct sim_port *p = CONTAINER_OF(port, struct sim_port, port);

    for (unsigned i = 0; i < p->n; i++) {
        p->jobs[i]->cancelled |= p->jobs[i]->job.id == id;
    }
}

const struct engine_ops sim_engine = {
    .version = ENGINE_VERSION,
    .name = "sim",
    .open = model_open,
    .close = model_close,
    .attach = model_attach,
    .detach = model_detach,
    .submit = model_submit,
    .flush = model_flush,
    .cancel = model_cancel,
};
