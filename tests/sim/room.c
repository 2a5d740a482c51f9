/* SPDX-License-Identifier: Apache-2.0 */
/* The clients and the checks of room.h. */
#include "sim/room.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "sim/sim.h"

#define SWEEP_US MILLIS(20)
#define ANSWER_LATE_US (SWEEP_US + 8 * SIM_STALL_US) /* a sweep, by a thread that stalls */
#define LATE_US (4 * SIM_STALL_US)
#define SETTLE_US SECONDS(3000)

enum state { COMING, WAITING, GIVEN, ANSWERED, LEFT };

struct request {
    struct request *next, *prev; /* of its line: what waits on its thread, in the order of its coming */
    struct infer infer;
    struct line *line;
    uint64_t id, seq, bytes, body, asked_us;
    uint32_t rows, columns;
    enum state state;
    unsigned alone_deaths; /* own deaths with nothing else in the run */
    bool poisoned, suspect, held, hangs_up;
    struct timer later; /* the next piece of its body, the hang-up, the release */
};

struct line { /* one version's requests on one thread */
    struct play *play;
    struct room_version *v;
    unsigned shard, slot, index;
    struct request *first, *last; /* what was submitted and is not given out */
    unsigned passed;              /* given out since the oldest was */
    uint64_t open, seq;           /* requests that still live; that were submitted */
    struct timer arrival;
    uint64_t arrival_us;
    bool closed; /* no more clients */
};

struct play {
    struct room *room;
    struct loop *control;
    struct shard shard[SIM_PORTS];
    struct shard *shards[SIM_PORTS];
    struct line line[ROOM_VERSIONS][SIM_PORTS];
    struct pool *pool[ROOM_VERSIONS];
    struct timer open[ROOM_VERSIONS], close[ROOM_VERSIONS];
    struct device_lane lane;
    struct sim_model *models[ROOM_VERSIONS];
    uint64_t start_us, n_requests, n_request_slots;
    struct request **request; /* by id */
    int dirfd;
};

static struct play *now_playing;

/* ---- lines: what waits ---- */

static void line_add(struct line *l, struct request *q)
{
    q->next = NULL;
    q->prev = l->last;
    *(l->last ? &l->last->next : &l->first) = q;
    l->last = q;
}

/* What comes back from a dead engine stands where it stood. */
static void line_back(struct line *l, struct request *q)
{
    struct request *after = l->last;

    while (after && after->seq > q->seq) {
        after = after->prev;
    }
    q->prev = after;
    q->next = after ? after->next : l->first;
    *(q->next ? &q->next->prev : &l->last) = q;
    *(after ? &after->next : &l->first) = q;
}

static void line_del(struct line *l, struct request *q)
{
    if (l->first == q) {
        l->passed = 0;
    }
    *(q->prev ? &q->prev->next : &l->first) = q->next;
    *(q->next ? &q->next->prev : &l->last) = q->prev;
}

static const struct request *oldest_of(const struct line *l, enum job_class class)
{
    const struct request *q = l->first;

    while (q && q->infer.class != class) {
        q = q->next;
    }
    return q;
}

static struct request *request_of(uint64_t id)
{
    struct request *q = id < now_playing->n_requests ? now_playing->request[id] : NULL;

    SIM_CHECK(q, "an engine has the job of a request that is gone");
    return q;
}

/* Called by the engine for every job that a thread gives it. */
static void on_given(void *ctx, unsigned shard, uint64_t id, bool solo)
{
    struct request *q = request_of(id);
    struct line *l = q->line;
    const struct request *best;
    unsigned long long n = id;

    SIM_CHECK(ctx == l->v && shard == l->shard, "request %llu is given out by another thread or version", n);
    SIM_CHECK(q->state == WAITING, "request %llu is given out in state %d", n, q->state);
    SIM_CHECK(solo == q->suspect, "request %llu is given out %s", n, solo ? "alone" : "to run with others");
    SIM_CHECK(q->alone_deaths < 2, "request %llu is tried again after it ended two instances", n);
    best = oldest_of(l, q->infer.class);
    SIM_CHECK(q == best, "request %llu is given out before %llu of its class", n, (unsigned long long)best->id);
    for (int c = 0; c < (int)q->infer.class && q != l->first; c++) {
        SIM_CHECK(!oldest_of(l, (enum job_class)c), "request %llu of class %d goes before %llu of class %d", n,
                  q->infer.class, (unsigned long long)oldest_of(l, (enum job_class)c)->id, c);
    }
    if (q != l->first) {
        SIM_CHECK(++l->passed < ADMISSION_FLOOR, "%u were given out while request %llu waited, the oldest", l->passed,
                  (unsigned long long)l->first->id);
    }
    line_del(l, q);
    q->state = GIVEN;
}

/* Called by the engine when a job comes back lost. */
static void on_lost(void *ctx, uint64_t id, bool suspect, bool alone)
{
    struct request *q = now_playing->request[id];

    (void)ctx;
    if (q && q->state == GIVEN) {
        q->state = WAITING;
        q->suspect |= suspect;
        q->alone_deaths += suspect && alone;
        line_back(q->line, q);
    }
}

/* ---- requests ---- */

static void done_with(struct request *q)
{
    struct line *l = q->line;
    struct shard *sh = &l->play->shard[l->shard];

    timer_clear(sh->loop, &q->later);
    if (q->held) {
        sched_release(sh->sched[l->slot], q->infer.class, q->bytes);
    }
    l->play->request[q->id] = NULL;
    l->open--;
    free(q);
}

static void on_release(struct timer *t)
{
    done_with(CONTAINER_OF(t, struct request, later));
}

static bool only_poison_kills(const struct room_version *v)
{
    return v->model.own_every_us == 0 && v->model.dies_in_run == 0 && v->model.hangs_in_run == 0;
}

static void check_answer(const struct request *q, const struct infer_result *res)
{
    const struct job_result *job = res->job;
    unsigned long long n = q->id, late;
    uint64_t id, now = clock_us();

    if (job->err.code == ERR_OK) {
        SIM_CHECK(job->n_out == 1 && job->out->len == sizeof(id), "request %llu got no output", n);
        memcpy(&id, job->base + job->out->off, sizeof(id));
        SIM_CHECK(id == q->id, "request %llu got the answer of %llu", n, (unsigned long long)id);
        SIM_CHECK(!q->poisoned, "request %llu is poison, and was answered well", n);
    }
    late = now > q->infer.deadline_us ? now - q->infer.deadline_us : 0;
    SIM_CHECK(late <= ANSWER_LATE_US, "request %llu was answered %llu us after its deadline", n, late);
    SIM_CHECK(job->err.code != ERR_MODEL || q->poisoned || !only_poison_kills(q->line->v),
              "request %llu is convicted, and is no poison", n);
    SIM_CHECK((job->err.code == ERR_MODEL) == (q->alone_deaths == 2),
              "request %llu is answered %d after %u deaths alone", n, job->err.code, q->alone_deaths);
    SIM_CHECK(job->err.code != ERR_TIMEOUT || now >= q->infer.deadline_us, "request %llu: timeout before its time", n);
}

static void on_done(struct infer *infer, const struct infer_result *res)
{
    struct request *q = CONTAINER_OF(infer, struct request, infer);
    struct line *l = q->line;
    struct room_version *v = l->v;
    uint64_t since = clock_us() - l->play->start_us;

    SIM_NOTE("request %llu is answered: code %llu moved %llu deaths %llu", q->id, res->job->err.code, res->moved,
             res->deaths);
    SIM_CHECK(q->state == WAITING || q->state == GIVEN, "request %llu is answered in state %d",
              (unsigned long long)q->id, q->state);
    if (q->state == WAITING) {
        line_del(l, q);
    }
    q->state = ANSWERED;
    check_answer(q, res);
    v->answered[res->job->err.code]++;
    v->moved += res->moved;
    if (res->job->err.code == ERR_OK && clock_us() <= q->infer.deadline_us && since >= l->play->room->count_from_us &&
        since <= l->play->room->run_us) {
        v->good++;
    }
    if (sim_chance(0.5)) {
        done_with(q);
    } else { /* the reply is still being sent */
        q->later.fn = on_release;
        timer_set(l->play->shard[l->shard].loop, &q->later, clock_us() + sim_between(1, 300));
    }
}

static void on_hang_up(struct timer *t)
{
    struct request *q = CONTAINER_OF(t, struct request, later);
    struct line *l = q->line;

    SIM_NOTE("request %llu hangs up in state %llu", q->id, q->state);
    if (q->state == WAITING || q->state == GIVEN) {
        sched_cancel(&q->infer);
        l->v->cancelled++;
    }
    if (q->state == WAITING) {
        line_del(l, q);
    }
    q->state = LEFT;
    done_with(q);
}

static void fill(struct sched *s, const struct request *q)
{
    struct job_block *b = (void *)sched_at(s, q->infer.block);
    uint64_t off = ALIGN_UP(q->infer.block + job_block_bytes(1, 0), TENSOR_ALIGN);
    struct sim_input *in = (void *)sched_at(s, off);

    *b = (struct job_block){.n_in = 1, .rows = q->rows};
    b->in[0] = (struct tensor){.dtype = DTYPE_UINT64, .rank = 2, .dim = {q->rows, q->columns}, .off = off};
    b->in[0].len = (uint64_t)q->rows * q->columns * 8;
    *in = (struct sim_input){q->id, q->poisoned ? SIM_POISON : 0};
}

static void submit(struct request *q)
{
    struct line *l = q->line;
    struct shard *sh = &l->play->shard[l->shard];
    struct sched *s = sh->sched[l->slot];
    struct err e;

    q->infer.block = sched_take(s, q->bytes);
    if (q->infer.block == WINDOW_NONE) {
        l->v->refused++;
        q->state = LEFT;
        done_with(q);
        return;
    }
    fill(s, q);
    if (sched_submit(s, &q->infer, &e) != ERR_OK) {
        SIM_NOTE("request %llu is not taken: code %llu", q->id, e.code);
        sched_give(s, q->infer.block);
        l->v->refused++;
        q->state = LEFT;
        done_with(q);
        return;
    }
    SIM_NOTE("request %llu of class %llu waits on shard %llu, %llu rows", q->id, q->infer.class, l->shard, q->rows);
    l->v->submitted++;
    l->v->poisoned += q->poisoned;
    q->state = WAITING;
    q->seq = l->seq++;
    line_add(l, q);
    if (q->hangs_up) {
        q->later.fn = on_hang_up;
        timer_set(sh->loop, &q->later, clock_us() + sim_exponential(2e4));
    }
}

static void on_piece(struct timer *t)
{
    struct request *q = CONTAINER_OF(t, struct request, later);
    struct line *l = q->line;
    struct shard *sh = &l->play->shard[l->shard];
    uint64_t more = sim_between(1, q->body - q->bytes);
    struct err e;

    if (q->hangs_up && sim_chance(0.5)) {
        q->state = LEFT;
        done_with(q);
        return;
    }
    if (sched_grow(sh->sched[l->slot], q->infer.class, more, &e) != ERR_OK) {
        l->v->refused++;
        q->state = LEFT;
        done_with(q);
        return;
    }
    q->bytes += more;
    if (q->bytes < q->body) {
        timer_set(sh->loop, &q->later, clock_us() + sim_exponential(1000));
    } else {
        submit(q);
    }
}

static enum job_class draw_class(const struct clients *c)
{
    double x = sim_unit();
    int class = 0;

    while (class + 1 < CLASS_COUNT && x >= c->class_share[class]) {
        x -= c->class_share[class ++];
    }
    return (enum job_class) class;
}

static struct request *new_request(struct line *l)
{
    const struct clients *c = &l->v->clients;
    struct play *p = l->play;
    struct request *q = xcalloc(1, sizeof(*q));

    if (p->n_requests == p->n_request_slots) {
        p->n_request_slots = MAX(2 * p->n_request_slots, 1024u);
        p->request = xrealloc(p->request, p->n_request_slots * sizeof(p->request[0]));
    }
    q->id = p->n_requests;
    p->request[p->n_requests++] = q;
    q->line = l;
    q->asked_us = clock_us();
    q->rows = (uint32_t)sim_between(1, c->rows_most);
    q->columns = (uint32_t)sim_between(2, c->columns_most);
    q->poisoned = sim_chance(c->poisoned);
    q->hangs_up = sim_chance(c->hangs_up);
    q->infer.class = draw_class(c);
    q->infer.done = on_done;
    q->infer.deadline_us =
        sim_chance(c->endless) ? UINT64_MAX : q->asked_us + sim_between(c->timeout_least_us, c->timeout_most_us);
    q->body = job_block_bytes(1, 0) + TENSOR_ALIGN + (uint64_t)q->rows * q->columns * 8;
    l->open++;
    return q;
}

static void ask(struct line *l)
{
    struct shard *sh = &l->play->shard[l->shard];
    struct sched *s = sh->sched[l->slot];
    struct request *q;
    uint64_t wait_us = 0;
    struct err e;

    if (!s || !l->v->ready) { /* the router knows it from then on */
        return;
    }
    q = new_request(l);
    q->bytes = sim_chance(l->v->clients.slow_body) ? 0 : q->body;
    l->v->asked++;
    l->v->counted += q->asked_us >= l->play->start_us + l->play->room->count_from_us;
    if (sched_admit(
            s, &(struct admission_ask){.bytes = q->bytes, .deadline_us = q->infer.deadline_us, .class = q->infer.class},
            &wait_us, &e) != ERR_OK) {
        SIM_NOTE("request %llu of class %llu is refused: predicted %llu us", q->id, q->infer.class, wait_us);
        SIM_CHECK(e.code == ERR_UNAVAILABLE, "a request is refused with code %d", e.code);
        l->v->refused++;
        q->state = LEFT;
        done_with(q);
        return;
    }
    q->held = true;
    if (q->bytes == q->body) {
        submit(q);
    } else {
        q->later.fn = on_piece;
        timer_set(sh->loop, &q->later, clock_us() + sim_exponential(1000));
    }
}

/* When the next client comes, after the last one: a thread that was late finds several. */
static uint64_t next_arrival(const struct line *l, uint64_t last_us)
{
    const struct clients *c = &l->v->clients;
    const struct play *p = l->play;
    double rate = c->rate / p->room->threads;

    if (c->surge > 0 && (last_us - p->start_us) / c->surge_us % 2 == 1) {
        rate *= c->surge;
    }
    return last_us + sim_exponential(1e6 / rate);
}

static void on_arrival(struct timer *t)
{
    struct line *l = CONTAINER_OF(t, struct line, arrival);
    uint64_t now = clock_us(), at = l->arrival_us;

    for (; at <= now; at = next_arrival(l, at)) {
        if (!l->closed) {
            ask(l);
        }
    }
    l->arrival_us = at;
    if (!l->closed && at < l->play->start_us + l->play->room->run_us) {
        timer_set(l->play->shard[l->shard].loop, t, at);
    }
}

/* ---- pools ---- */

static struct room_version *version_of(void *ctx)
{
    return ctx;
}

static void on_pool_ready(void *ctx, struct pool *p)
{
    (void)p;
    SIM_CHECK(version_of(ctx)->ready++ == 0, "a pool is ready twice");
}

static void on_pool_failed(void *ctx, struct pool *p, const struct err *why)
{
    (void)p, (void)why;
    SIM_CHECK(version_of(ctx)->failed++ == 0 && version_of(ctx)->ready == 0,
              "a pool fails twice, or after it was ready");
}

static void on_pool_sick(void *ctx, struct pool *p, const struct err *last)
{
    (void)p, (void)last;
    version_of(ctx)->sick++;
}

/* The rules of supervisor.h, said once more: what this death must lead to. */
static void on_ended(void *ctx, bool own)
{
    struct room_version *v = ctx;
    uint64_t now = clock_us(), last, wait = MILLIS(100);
    bool sick = false;

    if (!v->ready || v->closing) {
        return;
    }
    SIM_CHECK(v->n_restarts < COUNT_OF(v->restart), "more instances ended than there are");
    if (own) {
        last = v->own_us[(v->n_own + SUPERVISOR_DEATHS - 1) % SUPERVISOR_DEATHS];
        v->in_a_row = v->n_own == 0 || now - last > SECONDS(60) ? 0 : v->in_a_row + 1;
        v->own_us[v->n_own++ % SUPERVISOR_DEATHS] = now;
        sick = v->n_own >= SUPERVISOR_DEATHS && now - v->own_us[v->n_own % SUPERVISOR_DEATHS] <= SECONDS(60);
        wait = MIN(wait << MIN(v->in_a_row, 20u), SECONDS(30));
        v->restart[v->n_restarts].from_us = now + wait * 8 / 10;
        v->restart[v->n_restarts++].to_us = now + wait * 12 / 10 + LATE_US;
    } else {
        v->restart[v->n_restarts].from_us = now;
        v->restart[v->n_restarts++].to_us = now + LATE_US;
    }
    SIM_CHECK(v->sick == v->sick_seen + sick, "after own death %llu the version is%s called sick",
              (unsigned long long)v->n_own, sick ? " not" : "");
    v->sick_seen = v->sick;
}

static void on_begun(void *ctx)
{
    struct room_version *v = ctx;
    uint64_t now = clock_us();
    int best = -1;

    if (!v->ready) {
        return;
    }
    for (int i = 0; i < (int)v->n_restarts; i++) {
        SIM_CHECK(now <= v->restart[i].to_us, "an instance was to be started again, and was not");
        if (now >= v->restart[i].from_us && (best < 0 || v->restart[i].to_us < v->restart[best].to_us)) {
            best = i;
        }
    }
    SIM_CHECK(!v->closing && best >= 0, "an instance is started before its time");
    v->restart[best] = v->restart[--v->n_restarts];
}

static void on_pool_closed(void *ctx, struct pool *p)
{
    struct room_version *v = ctx;

    SIM_CHECK(v->closed++ == 0, "a pool is closed twice");
    SIM_CHECK(v->close_until_us == 0 || clock_us() <= v->close_until_us, "a pool is not closed in its time");
    SIM_CHECK(v->model.living == 0, "a pool is closed and %u instances live", v->model.living);
    for (unsigned i = 0; i < ROOM_VERSIONS; i++) {
        if (now_playing->pool[i] == p) {
            now_playing->pool[i] = NULL;
        }
    }
}

static const struct pool_events pool_events = {on_pool_ready, on_pool_failed, on_pool_sick, on_pool_closed};

static void on_open(struct timer *t)
{
    struct play *p = now_playing;
    unsigned i = (unsigned)(t - p->open);
    struct room_version *v = &p->room->version[i];
    struct err e;

    v->spec.name = v->model.name;
    v->spec.dirfd = p->dirfd;
    v->spec.slot = i;
    v->spec.lane = p->room->lane_credits ? &p->lane : NULL;
    if (pool_open(&p->pool[i], &v->spec, &sim_engine, p->control, p->shards, p->room->threads, &pool_events, v, &e) !=
        ERR_OK) {
        sim_fail("a pool can not be opened: %s", e.text);
    }
}

/* The router has forgotten the version: no thread asks it any more. */
static void stop_asking(struct play *p, unsigned i)
{
    for (unsigned k = 0; k < p->room->threads; k++) {
        p->line[i][k].closed = true;
    }
}

static void on_close(struct timer *t)
{
    struct play *p = now_playing;
    unsigned i = (unsigned)(t - p->close);
    struct room_version *v = &p->room->version[i];

    stop_asking(p, i);
    if (p->pool[i] && !v->failed && !v->closing) {
        SIM_NOTE("version %llu is closed", i);
        pool_close(p->pool[i], v->drain_us);
        v->close_until_us = clock_us() + v->drain_us + SECONDS(1);
    }
    v->closing = true;
}

/* ---- the play ---- */

static void begin(struct play *p, struct room *r)
{
    struct err e;

    p->room = r;
    p->start_us = clock_us();
    p->lane = (struct device_lane){.device = "sim:0", .credits = r->lane_credits};
    p->dirfd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (loop_new(&p->control, &e) != ERR_OK) {
        abort();
    }
    for (unsigned k = 0; k < r->threads; k++) {
        p->shard[k].index = k;
        p->shards[k] = &p->shard[k];
        if (loop_new(&p->shard[k].loop, &e) != ERR_OK) {
            abort();
        }
    }
    for (unsigned i = 0; i < r->versions; i++) {
        struct room_version *v = &r->version[i];

        v->model.ctx = v;
        v->model.given = on_given;
        v->model.lost = on_lost;
        v->model.begun = on_begun;
        v->model.ended = on_ended;
        p->models[i] = &v->model;
        p->open[i].fn = on_open;
        p->close[i].fn = on_close;
        timer_set(p->control, &p->open[i], p->start_us + v->open_at_us);
        if (v->close_at_us) {
            timer_set(p->control, &p->close[i], p->start_us + v->close_at_us);
        }
        for (unsigned k = 0; k < r->threads; k++) {
            struct line *l = &p->line[i][k];

            *l = (struct line){.play = p, .v = v, .shard = k, .slot = i, .arrival.fn = on_arrival};
            if (v->clients.rate > 0) {
                l->arrival_us = next_arrival(l, p->start_us);
                timer_set(p->shard[k].loop, &l->arrival, l->arrival_us);
            }
        }
    }
    sim_models(p->models, r->versions);
    now_playing = p;
}

static uint64_t still_open(const struct play *p, unsigned i)
{
    uint64_t n = 0;

    for (unsigned k = 0; k < p->room->threads; k++) {
        n += p->line[i][k].open;
    }
    return n;
}

static bool all_back(const struct play *p, unsigned i)
{
    const struct sched_shared *sh = pool_shared(p->pool[i]);
    uint64_t n = admission_requests(&sh->admission) + atomic_load(&sh->admission.bytes) +
                 atomic_load(&sh->admission.waiting) + atomic_load(&sh->lane_open) + atomic_load(&sh->lane_queued);

    for (int c = 0; c < CLASS_COUNT; c++) {
        n += atomic_load(&sh->admission.queued[c]);
    }
    for (unsigned k = 0; k < INSTANCES_MAX; k++) {
        n += atomic_load(&sh->load[k].open);
    }
    for (unsigned k = 0; k < p->room->threads; k++) {
        n += window_used(sh->in, k);
    }
    return n == 0;
}

static uint64_t answers_of(const struct room_version *v)
{
    uint64_t n = 0;

    for (unsigned c = 0; c < ERR_COUNT_; c++) {
        n += v->answered[c];
    }
    return n;
}

/* No answer for somebody who has a deadline: silence. */
static void check_silence(const struct play *p)
{
    for (uint64_t id = 0; id < p->n_requests; id++) {
        const struct request *q = p->request[id];

        SIM_CHECK(!q || q->infer.deadline_us == UINT64_MAX || clock_us() < q->infer.deadline_us + ANSWER_LATE_US ||
                      (q->state != WAITING && q->state != GIVEN),
                  "request %llu got no answer", (unsigned long long)id);
    }
}

/* The clients come no more, and instances end no more: whoever has a deadline is answered, and in a while everything is
 * back. */
static void settle(struct play *p, unsigned i)
{
    const struct room_version *v = &p->room->version[i];
    uint64_t until = clock_us() + SETTLE_US;

    sim_until(clock_us() + v->clients.timeout_most_us + ANSWER_LATE_US);
    check_silence(p);
    while (clock_us() < until && p->pool[i] && v->ready && !v->closing && (still_open(p, i) > 0 || !all_back(p, i))) {
        sim_until(clock_us() + MILLIS(50));
    }
    if (p->pool[i] && v->ready && !v->closing) {
        SIM_CHECK(still_open(p, i) == 0, "%llu requests are open long after the last fault",
                  (unsigned long long)still_open(p, i));
        SIM_CHECK(still_open(p, i) > 0 || all_back(p, i),
                  "all is answered, and not everything is back: %llu requests, %llu bytes, %llu of the window",
                  (unsigned long long)admission_requests(&pool_shared(p->pool[i])->admission),
                  (unsigned long long)atomic_load(&pool_shared(p->pool[i])->admission.bytes),
                  (unsigned long long)window_used(pool_shared(p->pool[i])->in, 0));
    }
}

static void finish(struct play *p)
{
    struct room *r = p->room;

    for (unsigned i = 0; i < r->versions; i++) {
        if (!r->version[i].closing && !r->version[i].failed) {
            stop_asking(p, i);
            timer_set(p->control, &p->close[i], clock_us());
        }
    }
    for (uint64_t until = clock_us() + SETTLE_US; clock_us() < until && sim_step();) {
    }
    SIM_CHECK(!sim_step(), "everything is closed, and something still happens");
    for (unsigned i = 0; i < r->versions; i++) {
        SIM_CHECK(r->version[i].closed == 1 && still_open(p, i) == 0,
                  "version %u is closed %u times, %llu requests left", i, r->version[i].closed,
                  (unsigned long long)still_open(p, i));
        SIM_CHECK(r->version[i].submitted == answers_of(&r->version[i]) + r->version[i].cancelled,
                  "version %u: %llu requests were submitted, %llu answered", i,
                  (unsigned long long)r->version[i].submitted, (unsigned long long)answers_of(&r->version[i]));
    }
    SIM_CHECK(atomic_load(&p->lane.open) == 0 && atomic_load(&p->lane.active) == 0, "the lane keeps %u jobs of %u",
              atomic_load(&p->lane.open), atomic_load(&p->lane.active));
    for (unsigned k = 0; k < r->threads; k++) {
        for (unsigned i = 0; i < r->versions; i++) {
            SIM_CHECK(!p->shard[k].sched[i], "a thread keeps the scheduler of a version that is closed");
        }
        loop_free(p->shard[k].loop);
    }
    loop_free(p->control);
    close(p->dirfd);
}

void room_play(struct room *r)
{
    struct play *p = xcalloc(1, sizeof(*p));

    begin(p, r);
    sim_until(p->start_us + r->run_us);
    for (unsigned i = 0; i < r->versions; i++) {
        r->version[i].model.spared = true;
    }
    for (unsigned i = 0; i < r->versions; i++) {
        settle(p, i);
    }
    finish(p);
    now_playing = NULL;
    free(p->request);
    free(p);
}

double room_capacity(const struct room_version *v)
{
    const struct sim_model *m = &v->model;

    return 1e6 * v->spec.instances * m->batch_max / ((double)m->base_us + (double)m->row_us * m->batch_max);
}

void room_plain(struct room *r)
{
    *r = (struct room){.threads = 1, .versions = 1, .run_us = SECONDS(1)};
    for (unsigned i = 0; i < ROOM_VERSIONS; i++) {
        static const char *const names[ROOM_VERSIONS] = {"a/1", "b/1", "c/1", "d/1"};

        r->version[i] = (struct room_version){.model = {.name = names[i],
                                                        .load_us = 5000,
                                                        .base_us = 1000,
                                                        .batch_max = 1,
                                                        .capacity = SIM_OPEN,
                                                        .hang_us = SECONDS(5)},
                                              .spec = {.backend = "sim",
                                                       .instances = 1,
                                                       .threads = 1,
                                                       .batch.max = 1,
                                                       .queue_requests = 4096,
                                                       .queue_bytes = 1 << 24,
                                                       .timeout_us = SECONDS(10),
                                                       .part_bytes = 1 << 24,
                                                       .out_bytes = 1 << 16},
                                              .clients = {.timeout_least_us = SECONDS(1),
                                                          .timeout_most_us = SECONDS(1),
                                                          .class_share = {0, 1, 0},
                                                          .rows_most = 1,
                                                          .columns_most = 2},
                                              .drain_us = SECONDS(5)};
    }
}
