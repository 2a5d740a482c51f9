/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of the engine's contract, which checks what it is told; see engine_rig.h. */
#include "support/engine_rig.h"

#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "support/fake_engine.h"
#include "support/far_server.h"

#define give_up(...)                  \
    do {                              \
        fprintf(stderr, __VA_ARGS__); \
        fputc('\n', stderr);          \
        abort();                      \
    } while (0)

const char *eng_folder(const char *name)
{
    static char path[1024];
    const char *build = getenv("WEIR_BUILD");

    snprintf(path, sizeof path, "%s/models/%.*s", build ? build : "build", (int)strcspn(name, "/"), name);
    return path;
}

uint64_t eng_limit(void)
{
    return clock_us() + SECONDS(40);
}

void eng_turn(struct engine_rig *c, uint64_t until, const char *what, int line)
{
    if (clock_us() > until) {
        fprintf(stderr, "engine_test.c:%d: at %s this did not come within 40 s: %s (ready %u gone %u: %s)\n", line,
                c->place->name, what, c->ready, c->gone, c->end.err.text);
        abort();
    }
    loop_once(c->loop, 2);
}

void eng_turns(struct engine_rig *c, unsigned ms)
{
    for (uint64_t until = clock_us() + MILLIS(ms); clock_us() < until;) {
        loop_once(c->loop, 1);
    }
}

static void on_ready(void *ctx, struct engine *g, const struct model_info *info)
{
    struct engine_rig *c = ctx;

    assert(g == c->g && !c->inside && c->ready == 0 && c->gone == 0);
    c->ready++;
    model_info_copy(&c->info, info);
}
static void on_gone(void *ctx, struct engine *g, const struct engine_end *why)
{
    struct engine_rig *c = ctx;

    assert(g == c->g && !c->inside && c->gone == 0);
    for (unsigned i = 0; i < c->ports && c->ready; i++) {
        assert(c->seat[i].detached); /* the last event of all */
    }
    assert(why->err.code == ERR_OK || why->err.text[0]);
    c->gone++;
    c->end = *why;
}
static const struct engine_events engine_events = {on_ready, on_gone};

static bool outputs_right(const struct one *j, const struct job_result *r)
{
    uint64_t elements = (uint64_t)(j->rows * j->width);
    uint32_t n = j->spin || j->want >= 0 ? 1 : 2;

    if (r->n_out != n) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct tensor *t = &r->out[i];
        const float *v = (const void *)(r->base + t->off);
        int port = j->spin ? 0 : j->want >= 0 ? j->want : (int)i;

        if (t->off > r->size || t->len > r->size - t->off || t->port != port || t->dtype != DTYPE_FP32 ||
            t->rank != 2 || t->dim[0] != j->rows || t->dim[1] != j->width || t->len != elements * sizeof(float)) {
            return false;
        }
        for (uint64_t k = 0; k < elements; k++) {
            float x = j->value + (float)k;
            if (v[k] != (j->spin ? x : port == 0 ? x + 1 : x - 1)) {
                return false;
            }
        }
    }
    return true;
}

static void on_done(void *ctx, uint64_t id, const struct job_result *r)
{
    struct seat *s = ctx;
    struct one *j = &s->jobs[id - 1000];

    assert(id >= 1000 && id < 1000 + s->n && !s->inside && !s->down && loop_is_mine(s->loop));
    j->n_done++;
    j->err = r->err;
    j->lost = r->lost;
    j->own = r->own;
    j->alone = r->alone;
    j->started = r->started;
    j->joined = r->joined;
    assert(!r->lost || r->err.code == ERR_UNAVAILABLE);
    assert(r->err.code == ERR_OK || (r->n_out == 0 && r->err.text[0]));
    j->right = r->err.code == ERR_OK && outputs_right(j, r);
    window_give(s->c->in, s->index, j->block);
    s->open--;
    atomic_fetch_add(&s->n_done, 1);
}
static uint8_t *on_space(void *ctx, uint64_t id, uint64_t bytes, uint64_t *off)
{
    struct seat *s = ctx;
    uint64_t at = s->space_used;

    (void)id;
    assert(s->c->place->on_thread);
    if (bytes > ENG_OUT_BYTES || at > ENG_OUT_BYTES - bytes) {
        return NULL;
    }
    *off = at;
    s->space_used = ALIGN_UP(at + bytes, TENSOR_ALIGN);
    return s->space + at;
}
static void on_down(void *ctx)
{
    struct seat *s = ctx;

    assert(!s->down && !s->inside && s->open == 0 && s->c->place->stub);
    s->down = true;
    atomic_store(&s->detached, true); /* before: gone() may come from then on */
    s->port->ops->detach(s->port);
}
static const struct port_events port_events = {on_done, on_space, on_down};

/* ---- acting on a port's own thread ---- */

struct act {
    struct task task;
    struct seat *s;
    void (*fn)(struct seat *s, void *arg);
    void *arg;
    sem_t over;
};
static void on_act(struct task *t)
{
    struct act *a = CONTAINER_OF(t, struct act, task);

    a->fn(a->s, a->arg);
    sem_post(&a->over);
}
void eng_at(struct seat *s, void (*fn)(struct seat *s, void *arg), void *arg)
{
    struct act a = {.task.fn = on_act, .s = s, .fn = fn, .arg = arg};

    if (!s->c->threads) {
        fn(s, arg);
        return;
    }
    sem_init(&a.over, 0, 0);
    loop_post(s->loop, &a.task);
    while (sem_wait(&a.over) != 0) {
    }
    sem_destroy(&a.over);
}

void eng_attach(struct seat *s, void *arg)
{
    struct port_host host = {.loop = s->loop, .on = &port_events, .ctx = s, .index = s->index};
    struct err e;

    (void)arg;
    s->inside = true;
    if (s->c->g->ops->attach(s->c->g, &host, &s->port, &e) != ERR_OK) {
        fprintf(stderr, "attach: %s\n", e.text);
        abort();
    }
    s->inside = false;
}
void eng_detach(struct seat *s, void *arg)
{
    (void)arg;
    if (!s->detached) {
        s->inside = true;
        s->detached = true;
        s->port->ops->detach(s->port);
        s->inside = false;
    }
}
void eng_flush(struct seat *s, void *arg)
{
    (void)arg;
    s->space_used = 0;
    s->port->ops->flush(s->port);
}

/* ---- life ---- */

static void *seat_thread(void *arg)
{
    loop_run(((struct seat *)arg)->loop);
    return NULL;
}

struct engine_rig *eng_begin_with(const struct place *place, const char *name, const char *backend, unsigned ports,
                                  bool threads)
{
    struct engine_rig *c = xcalloc(1, sizeof *c);
    struct engine_host host = {.on = &engine_events, .ctx = c};
    struct engine_spec spec = {.name = name,
                               .backend = backend,
                               .ports = ports,
                               .threads = place->threads_max ? 0 : 1,
                               .threads_max = place->threads_max,
                               .far = place->far ? far_place(name) : NULL,
                               .batch = {8, place->delay_us, 0},
                               .out_bytes = ENG_OUT_BYTES};
    struct err e;

    fake_reset();
    c->place = place;
    c->ports = ports;
    c->threads = threads;
    c->dirfd = open(place->real ? eng_folder(name) : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->dirfd < 0) {
        give_up("no folder %s: `make tests` makes the models", eng_folder(name));
    }
    if (loop_new(&c->loop, &e) != ERR_OK ||
        window_new(&c->in, "conform", ENG_PART, ports, place->shared, &e) != ERR_OK) {
        give_up("%s", e.text);
    }
    for (unsigned i = 0; i < ports; i++) {
        struct seat *s = &c->seat[i];

        s->c = c;
        s->index = i;
        s->loop = c->loop;
        s->space = xmalloc(ENG_OUT_BYTES);
        if (threads && (loop_new(&s->loop, &e) != ERR_OK || pthread_create(&s->thread, NULL, seat_thread, s) != 0)) {
            abort();
        }
    }
    host.loop = c->loop;
    spec.dirfd = c->dirfd;
    spec.in = c->in;
    c->inside = true;
    if (place->ops->open(&c->g, &spec, &host, &e) != ERR_OK) {
        give_up("open: %s", e.text);
    }
    c->inside = false;
    return c;
}

struct engine_rig *eng_begin(const struct place *place, const char *name, unsigned ports, bool threads)
{
    return eng_begin_with(place, name, place->backend, ports, threads);
}

void eng_attach_all(struct engine_rig *c)
{
    UNTIL(c, c->ready || c->gone);
    if (!c->ready) {
        give_up("%s: %s", c->place->name, c->end.err.text);
    }
    for (unsigned i = 0; i < c->ports; i++) {
        eng_at(&c->seat[i], eng_attach, NULL);
    }
}

struct engine_rig *eng_open(const struct place *place, const char *name, unsigned ports, bool threads)
{
    struct engine_rig *c = eng_begin(place, name, ports, threads);

    eng_attach_all(c);
    return c;
}

/* Everything is over: checks that each job came back once, and frees. */
void eng_done(struct engine_rig *c)
{
    UNTIL(c, c->gone);
    eng_turns(c, 2);
    for (unsigned i = 0; i < c->ports; i++) {
        struct seat *s = &c->seat[i];

        if (c->threads) {
            loop_stop(s->loop);
            pthread_join(s->thread, NULL);
            loop_free(s->loop);
        }
        for (unsigned k = 0; k < s->n; k++) {
            if (s->jobs[k].n_done != 1) {
                give_up("job %u of port %u came back %u times", k, i, s->jobs[k].n_done);
            }
        }
        assert(window_used(c->in, i) == 0);
        free(s->space);
    }
    loop_free(c->loop);
    window_free(c->in);
    model_info_done(&c->info);
    close(c->dirfd);
    free(c);
}

void eng_close(struct engine_rig *c)
{
    for (unsigned i = 0; i < c->ports && c->ready; i++) {
        eng_at(&c->seat[i], eng_detach, NULL);
    }
    c->inside = true;
    c->g->ops->close(c->g);
    c->inside = false;
    UNTIL(c, c->gone);
    if (c->end.err.code != ERR_OK) {
        give_up("closed on request, and it says: %s", c->end.err.text);
    }
    assert(!c->end.own);
    eng_done(c);
}

/* ---- jobs ---- */

static void fill(struct seat *s, struct one *j, int64_t trips)
{
    uint8_t *base = window_base(s->c->in);
    struct job_block *b = (void *)(base + j->block);
    uint64_t bytes = (uint64_t)(j->rows * j->width) * sizeof(float);
    uint64_t at = ALIGN_UP(j->block + job_block_bytes(2, 1), TENSOR_ALIGN), next = at + ALIGN_UP(bytes, TENSOR_ALIGN);

    *b = (struct job_block){.n_in = 2, .n_out = j->want >= 0, .rows = j->spin ? 0 : (uint64_t)j->rows};
    for (unsigned i = 0; i < 2; i++) {
        b->in[i] = (struct tensor){.port = (uint16_t)i,
                                   .dtype = DTYPE_FP32,
                                   .rank = 2,
                                   .dim = {j->rows, j->width},
                                   .off = i ? next : at,
                                   .len = bytes};
    }
    for (int64_t k = 0; k < j->rows * j->width; k++) {
        ((float *)(void *)(base + at))[k] = j->value + (float)k;
        ((float *)(void *)(base + next))[k] = 1;
    }
    if (j->spin) {
        b->in[1] = (struct tensor){.port = 1, .dtype = DTYPE_INT64, .off = next, .len = sizeof trips};
        memcpy(base + next, &trips, sizeof trips);
    }
    if (j->want >= 0) {
        *job_block_want(b) = (uint16_t)j->want;
    }
}

enum err_code eng_try(struct seat *s, float value, int64_t rows, int64_t width, int want, uint32_t flags, int64_t trips,
                      struct err *e)
{
    struct one *j = &s->jobs[s->n];
    struct job job = {.id = 1000 + s->n,
                      .deadline_us = s->deadline_us ? s->deadline_us : UINT64_MAX,
                      .submit_us = clock_us(),
                      .flags = flags};
    enum err_code code;

    assert(s->n < ENG_JOBS_MAX);
    *j = (struct one){.value = value, .rows = rows, .width = width, .want = want, .spin = trips > 0};
    j->block = job.block = window_take(s->c->in, s->index, 1024 + (uint64_t)(rows * width) * 8);
    assert(j->block != WINDOW_NONE);
    fill(s, j, trips);
    s->n++;
    s->open++;
    s->inside = true;
    code = s->port->ops->submit(s->port, &job, e);
    s->inside = false;
    if (code != ERR_OK) {
        s->n--;
        s->open--;
        window_give(s->c->in, s->index, j->block);
    }
    return code;
}

void eng_submit(struct seat *s, float value, int64_t rows)
{
    struct err e;

    if (eng_try(s, value, rows, 4, -1, 0, 0, &e) != ERR_OK) {
        fprintf(stderr, "submit: %s\n", e.text);
        abort();
    }
}
void eng_spin(struct seat *s, float value, int64_t trips)
{
    struct err e;

    if (eng_try(s, value, 1, 4, -1, 0, trips, &e) != ERR_OK) {
        fprintf(stderr, "submit: %s\n", e.text);
        abort();
    }
}

void eng_all_back(struct engine_rig *c)
{
    for (unsigned i = 0; i < c->ports; i++) {
        UNTIL(c, atomic_load(&c->seat[i].n_done) == c->seat[i].n);
    }
}

void eng_all_right(const struct seat *s)
{
    for (unsigned k = 0; k < s->n; k++) {
        if (!s->jobs[k].right) {
            give_up("at %s job %u is not right: %s", s->c->place->name, k, s->jobs[k].err.text);
        }
    }
}
