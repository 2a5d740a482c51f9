/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler of one version on one thread.
 *
 * Every submitted request is a `work`: it owns the block, and outlives its owner when the owner is answered (deadline)
 * or leaves (cancel) while an engine still reads the block. Works are in exactly one place: the queue, a port, or the
 * free list.
 *
 * There is no timer a request: while works exist a sweep looks at all of them every 20 ms; their number is bounded. */
#include "inference/sched.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"

#define SWEEP_US MILLIS(20)
#define GRACE_US SECONDS(1)

struct work {
    struct work *next, *prev;
    struct sched *sched;
    struct infer *owner; /* NULL: answered, cancelled */
    uint64_t block, deadline_us, submit_ns;
    uint64_t given_us;     /* to the instance; 0: it was given to none yet */
    uint64_t predicted_us; /* from submit to end, as admission saw it */
    uint64_t seq;          /* the how-manyeth of this scheduler */
    enum job_class class;
    int instance; /* -1: waiting */
    bool solo;
    uint8_t alone_deaths;
    unsigned deaths;
};

struct list {
    struct work *first, *last;
    unsigned n;
};

struct seat { /* this thread's port to one instance */
    struct sched *sched;
    struct port *port; /* NULL: down */
    unsigned index, open;
    bool dirty;
    bool full; /* it refused a job: nothing more goes there before a done() */
};

struct sched {
    struct shard *shard;
    struct sched_shared *shared;
    struct seat seat[INSTANCES_MAX];
    struct list queue[CLASS_COUNT], running;
    uint64_t seq;
    uint64_t given; /* works given to an instance: every ADMISSION_FLOOR-th is the oldest of all */
    struct work *free;
    struct hook flush;
    struct timer sweep;
    uint8_t *space; /* outputs of inline engines: lives for one flush */
    uint64_t space_used;
    uint64_t held; /* admitted on this thread and not released: they may still submit */
    bool abandoned;
    char away[TENSOR_NAME_MAX + 40]; /* who went last: another server, or the instances of the version; "": none did */
    void (*drained)(void *ctx);
    void *drained_ctx;
};

static void list_add(struct list *l, struct work *w)
{
    w->next = NULL;
    w->prev = l->last;
    *(l->last ? &l->last->next : &l->first) = w;
    l->last = w;
    l->n++;
}

/* What comes back from a dead engine goes before all that came later, in its old order. */
static void list_add_in_order(struct list *l, struct work *w)
{
    struct work *after = NULL, *before = l->first;

    while (before && before->seq < w->seq) {
        after = before;
        before = before->next;
    }
    w->prev = after;
    w->next = before;
    *(before ? &before->prev : &l->last) = w;
    *(after ? &after->next : &l->first) = w;
    l->n++;
}

static void list_del(struct list *l, struct work *w)
{
    *(w->prev ? &w->prev->next : &l->first) = w->next;
    *(w->next ? &w->next->prev : &l->last) = w->prev;
    l->n--;
}

/* ---- the queue ---- */

static unsigned executors(const struct sched_shared *sh)
{
    return sh->on_threads ? sh->on_threads : atomic_load_explicit(&sh->instances_up, memory_order_relaxed);
}

static unsigned waiting(const struct sched *s)
{
    unsigned n = 0;

    for (int c = 0; c < CLASS_COUNT; c++) {
        n += s->queue[c].n;
    }
    return n;
}

static void queue_del(struct sched *s, struct work *w)
{
    list_del(&s->queue[w->class], w);
    admission_given(&s->shared->admission);
}

static void queue_back(struct sched *s, struct work *w)
{
    list_add_in_order(&s->queue[w->class], w);
    admission_back(&s->shared->admission, clock_us());
}

/* The highest class first; for the floor, now and then the oldest of all. */
static struct work *queue_first(const struct sched *s)
{
    bool oldest = s->given % ADMISSION_FLOOR == ADMISSION_FLOOR - 1;
    struct work *best = NULL;

    for (int c = 0; c < CLASS_COUNT; c++) {
        struct work *w = s->queue[c].first;

        if (w && (!best || (oldest && w->seq < best->seq))) {
            best = w;
        }
    }
    return best;
}

/* ---- the end of a work ---- */

static void work_free(struct sched *s, struct work *w)
{
    struct sched_shared *sh = s->shared;

    admission_end(&sh->admission, w->class);
    if (sh->lane && atomic_fetch_sub_explicit(&sh->lane_queued, 1, memory_order_relaxed) == 1) {
        atomic_fetch_sub_explicit(&sh->lane->active, 1, memory_order_relaxed);
    }
    window_give(s->shared->in, s->shard->index, w->block);
    w->next = s->free;
    s->free = w;
}

static void check_drained(struct sched *s)
{
    if (s->drained && waiting(s) == 0 && s->running.n == 0 && s->held == 0) {
        void (*fn)(void *) = s->drained;

        s->drained = NULL;
        fn(s->drained_ctx);
    }
}

static void answer(struct sched *s, struct work *w, const struct job_result *job, bool moved)
{
    struct infer *owner = w->owner;
    const struct port *port = w->instance < 0 ? NULL : s->seat[w->instance].port;
    uint64_t now = clock_ns(), took = now - w->submit_ns;
    uint64_t compute_ns = job->compute_ns - MIN(job->stalled_ns, job->compute_ns);
    struct infer_result res = {.job = job,
                               .queue_ns = took > compute_ns ? took - compute_ns : 0,
                               .compute_ns = compute_ns,
                               .moved = moved,
                               .deaths = w->deaths,
                               .submit_ns = w->submit_ns,
                               .given_ns = w->given_us * 1000,
                               .done_ns = now,
                               .instance = w->instance,
                               .pid = port ? port->pid : 0,
                               .peer = port ? port->peer : NULL,
                               .place = !port                   ? NULL
                                        : s->shared->on_threads ? "inline"
                                                                : port->ops->name};

    if (!owner) {
        return;
    }
    w->owner = NULL;
    owner->work = NULL;
    owner->done(owner, &res);
}

static void answer_error(struct sched *s, struct work *w, bool moved, enum err_code code, const char *text)
{
    struct job_result r = {0};

    err_set(&r.err, code, "%s", text);
    answer(s, w, &r, moved);
}

/* ---- queries of death ---- */

static uint64_t fingerprint(const struct sched *s, uint64_t block)
{
    const uint8_t *base = window_base(s->shared->in);
    const struct job_block *b = (const void *)(base + block);
    uint64_t h = b->n_in + 1;

    for (uint32_t i = 0; i < b->n_in; i++) {
        h = hash64_seed(b->in[i].dim, sizeof(b->in[i].dim), h);
        h = hash64_seed(base + b->in[i].off, b->in[i].len, h);
    }
    return h | 1;
}

static bool convicted(const struct sched *s, uint64_t block)
{
    struct sched_shared *sh = s->shared;
    uint64_t now, h;

    if (atomic_load_explicit(&sh->n_convicts, memory_order_relaxed) == 0) {
        return false;
    }
    now = clock_us();
    h = fingerprint(s, block);
    for (size_t i = 0; i < CONVICTS_MAX; i++) {
        if (atomic_load(&sh->convict[i].fingerprint) == h && atomic_load(&sh->convict[i].until_us) > now) {
            return true;
        }
    }
    return false;
}

static void convict(struct sched *s, uint64_t block)
{
    struct sched_shared *sh = s->shared;
    size_t i = atomic_fetch_add(&sh->n_convicts, 1) % CONVICTS_MAX;

    atomic_store(&sh->convict[i].until_us, clock_us() + CONVICT_US);
    atomic_store(&sh->convict[i].fingerprint, fingerprint(s, block));
    log_warn("inference", "a request ended two workers that ran nothing else; it is refused for ten minutes version=%s",
             sh->name);
}

/* A request whose client was answered already (its deadline passed, or it left) is not tried again; that it ended a
 * worker is remembered, and when it does so a second time it is convicted. */
static void suspect(struct sched *s, uint64_t block)
{
    struct sched_shared *sh = s->shared;
    uint64_t now = clock_us(), h = fingerprint(s, block);
    size_t i;

    for (i = 0; i < SUSPECTS_MAX; i++) {
        if (atomic_load(&sh->suspect[i].fingerprint) == h && atomic_load(&sh->suspect[i].until_us) > now) {
            convict(s, block);
            return;
        }
    }
    i = atomic_fetch_add(&sh->n_suspects, 1) % SUSPECTS_MAX;
    atomic_store(&sh->suspect[i].until_us, now + CONVICT_US);
    atomic_store(&sh->suspect[i].fingerprint, h);
}

/* ---- giving out ---- */

static struct seat *pick_seat(struct sched *s)
{
    struct seat *best = NULL;
    uint32_t least = UINT32_MAX;

    for (unsigned k = 0; k < INSTANCES_MAX; k++) {
        struct seat *seat = &s->seat[(k + s->shard->index) % INSTANCES_MAX];
        uint32_t load;

        if (!seat->port || seat->full || seat->open >= s->shared->credit ||
            (s->shared->lane &&
             !lane_may(s->shared->lane, atomic_load_explicit(&s->shared->lane_open, memory_order_relaxed),
                       s->running.n))) {
            continue;
        }
        load = atomic_load_explicit(&s->shared->load[seat->index].open, memory_order_relaxed);
        if (load < least) {
            least = load;
            best = seat;
        }
    }
    return best;
}

/* Takes a waiting work out that will not be run. */
static void drop(struct sched *s, struct work *w, enum err_code code, const char *text)
{
    queue_del(s, w);
    answer_error(s, w, false, code, text);
    work_free(s, w);
}

/* Its time is over before it was given to anybody. */
static void drop_expired(struct sched *s, struct work *w)
{
    char text[sizeof(s->away) + 100] = "the deadline passed while the request waited for its turn";
    bool up = false;

    for (unsigned i = 0; i < INSTANCES_MAX; i++) {
        up |= s->seat[i].port != NULL;
    }
    if (!up && s->away[0]) {
        snprintf(text, sizeof(text), "the deadline passed while %s was away", s->away);
    }
    drop(s, w, ERR_TIMEOUT, text);
}

/* True: the work is not worth a run any more, and is gone. While nothing runs, everything is tried that may be. */
static bool too_late(struct sched *s, struct work *w, const struct seat *seat, uint64_t now)
{
    const struct sched_shared *sh = s->shared;
    uint32_t ahead =
        sh->on_threads ? seat->open : atomic_load_explicit(&sh->load[seat->index].open, memory_order_relaxed);

    if (!w->owner) { /* cancelled */
        queue_del(s, w);
        work_free(s, w);
    } else if (now >= w->deadline_us) {
        drop_expired(s, w);
    } else if (s->running.n > 0 && !admission_in_time(&sh->admission, ahead, w->deadline_us, now)) {
        drop(s, w, ERR_UNAVAILABLE, "the request waited so long that its run would end after its deadline; try later");
    } else {
        return false;
    }
    return true;
}

static void given(struct sched *s, struct work *w, struct seat *seat, uint64_t now)
{
    struct sched_shared *sh = s->shared;

    queue_del(s, w);
    list_add(&s->running, w);
    s->given++;
    w->instance = (int)seat->index;
    w->given_us = now;
    seat->open++;
    seat->dirty = true;
    atomic_fetch_add_explicit(&sh->load[seat->index].open, 1, memory_order_relaxed);
    if (sh->lane) {
        atomic_fetch_add_explicit(&sh->lane_open, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&sh->lane->open, 1, memory_order_relaxed);
    }
}

static void dispatch(struct sched *s)
{
    uint64_t now = clock_us();
    struct seat *seat;
    struct work *w;
    struct err e;

    while ((w = queue_first(s)) != NULL && (seat = pick_seat(s)) != NULL) {
        struct job j = {.id = (uint64_t)(uintptr_t)w,
                        .deadline_us = w->deadline_us,
                        .submit_us = w->submit_ns / 1000,
                        .block = w->block,
                        .flags = w->solo ? JOB_SOLO : 0,
                        .origin = w->owner ? w->owner->origin : NULL};

        if (too_late(s, w, seat, now)) {
            continue;
        }
        if (seat->port->ops->submit(seat->port, &j, &e) == ERR_OK) {
            given(s, w, seat, now);
        } else if (e.code == ERR_UNAVAILABLE) { /* full, or just dying: its done() or down() calls us again */
            seat->full = true;
        } else { /* it takes it at no time */
            drop(s, w, e.code, e.text);
        }
    }
}

static void on_flush(struct hook *h)
{
    struct sched *s = CONTAINER_OF(h, struct sched, flush);

    dispatch(s);
    for (unsigned i = 0; i < INSTANCES_MAX; i++) {
        struct seat *seat = &s->seat[i];

        if (seat->dirty && seat->port) {
            seat->dirty = false;
            s->space_used = 0;
            seat->port->ops->flush(seat->port);
        }
    }
    if (waiting(s) > 0 && pick_seat(s)) {
        loop_defer(s->shard->loop, &s->flush);
    }
    check_drained(s);
}

/* ---- coming back ---- */

/* What becomes of a job whose engine died with it. True: it waits again. */
static bool try_again(struct sched *s, struct work *w, const struct job_result *r)
{
    struct job_result out = {.err = {ERR_MODEL, ""}};

    if (!w->owner && r->own && r->started && r->alone) {
        suspect(s, w->block);
    }
    if (!w->owner || s->abandoned) {
        return false;
    }
    w->deaths++;
    if (r->own && r->started) {
        w->solo = true;
        if (r->alone && ++w->alone_deaths >= 2) {
            convict(s, w->block);
            err_set(&out.err, ERR_MODEL,
                    "this request ended two worker processes that ran nothing else; it is refused from now on (%s)",
                    r->err.text);
            answer(s, w, &out, false);
            return false;
        }
    }
    w->instance = -1;
    atomic_fetch_add_explicit(&s->shared->retried, 1, memory_order_relaxed);
    queue_back(s, w);
    return true;
}

static void on_done(void *ctx, uint64_t id, const struct job_result *r)
{
    struct seat *seat = ctx;
    struct sched *s = seat->sched;
    struct sched_shared *sh = s->shared;
    struct work *w = (struct work *)(uintptr_t)id;

    list_del(&s->running, w);
    seat->open--;
    seat->full = false;
    atomic_fetch_sub_explicit(&sh->load[seat->index].open, 1, memory_order_relaxed);
    if (sh->lane) {
        atomic_fetch_sub_explicit(&sh->lane_open, 1, memory_order_relaxed);
        atomic_fetch_sub_explicit(&sh->lane->open, 1, memory_order_relaxed);
    }
    if (!r->lost || !try_again(s, w, r)) {
        if (!r->lost) {
            atomic_fetch_add_explicit(&sh->answered, 1, memory_order_relaxed);
        }
        if (!r->lost && r->compute_ns > 0) {
            admission_learn(&sh->admission, r->compute_ns, r->joined, w->predicted_us,
                            (clock_ns() - w->submit_ns) / 1000);
        }
        answer(s, w, r, r->lost);
        work_free(s, w);
    }
    if (waiting(s) > 0 || s->drained) {
        loop_defer(s->shard->loop, &s->flush);
    }
}

/* Outputs of engines that run on this thread: an arena that lives until the next flush; pages are taken on first use.
 */
static uint8_t *on_space(void *ctx, uint64_t id, uint64_t bytes, uint64_t *off)
{
    struct sched *s = ((struct seat *)ctx)->sched;
    uint64_t at = ALIGN_UP(s->space_used, TENSOR_ALIGN);

    (void)id;
    if (!s->space || bytes > s->shared->space_bytes || at > s->shared->space_bytes - bytes) {
        return NULL;
    }
    *off = at;
    s->space_used = at + bytes;
    return s->space + at;
}

static void on_down(void *ctx)
{
    struct seat *seat = ctx;
    struct port *p = seat->port;

    snprintf(seat->sched->away, sizeof(seat->sched->away), p->peer ? "%s" : "every instance of %s",
             p->peer ? p->peer : seat->sched->shared->name);
    seat->port = NULL;
    seat->dirty = false;
    p->ops->detach(p);
    if (waiting(seat->sched) > 0 || seat->sched->drained) {
        loop_defer(seat->sched->shard->loop, &seat->sched->flush);
    }
}

static const struct port_events port_events = {on_done, on_space, on_down};

/* ---- deadlines ---- */

static void answer_overdue(struct sched *s, struct work *w)
{
    const struct port *port = s->seat[w->instance].port;
    char text[300] = "the deadline passed while the model was running";

    if (port && port->peer) {
        snprintf(text, sizeof(text), "the deadline passed while %s had the request", port->peer);
    }
    answer_error(s, w, false, ERR_TIMEOUT, text);
}

static void on_sweep(struct timer *t)
{
    struct sched *s = CONTAINER_OF(t, struct sched, sweep);
    uint64_t now = clock_us();

    for (int c = 0; c < CLASS_COUNT; c++) {
        for (struct work *w = s->queue[c].first, *next; w; w = next) {
            next = w->next;
            if (now >= w->deadline_us) {
                drop_expired(s, w);
            }
        }
    }
    for (struct work *w = s->running.first, *next; w; w = next) {
        next = w->next;
        if (now >= w->deadline_us) {
            answer_overdue(s, w);
            if (now >= w->deadline_us + GRACE_US && s->seat[w->instance].port) {
                struct port *p = s->seat[w->instance].port;
                p->ops->cancel(p, (uint64_t)(uintptr_t)w);
            }
        }
    }
    if (waiting(s) + s->running.n > 0) {
        timer_set(s->shard->loop, &s->sweep, now + SWEEP_US);
    }
    check_drained(s);
}

/* ---- for the api ---- */

static enum err_code too_many_bytes(const struct sched_shared *sh, uint64_t more, struct err *e)
{
    return err_set(e, ERR_UNAVAILABLE,
                   "%s holds %llu bytes of requests, and %llu more are above its bound of %llu: try again later",
                   sh->name, (unsigned long long)atomic_load(&sh->admission.bytes), (unsigned long long)more,
                   (unsigned long long)sh->admission.bytes_max);
}

static enum err_code late(const struct sched_shared *sh, uint64_t wait_us, struct err *e)
{
    return err_set(e, ERR_UNAVAILABLE,
                   "%s has so much to do that the answer would come in %.1f ms, after the deadline: try again later",
                   sh->name, (double)wait_us / 1000);
}

enum err_code sched_admit(struct sched *s, const struct admission_ask *ask, uint64_t *wait_us, struct err *e)
{
    struct sched_shared *sh = s->shared;

    switch (admission_enter(&sh->admission, ask, executors(sh), clock_us(), wait_us)) {
    case REFUSED_REQUESTS:
        return err_set(e, ERR_UNAVAILABLE,
                       "%s has %llu requests waiting or running, all that it may have for %s ones: try again later",
                       sh->name, (unsigned long long)admission_requests(&sh->admission), job_class_names[ask->class]);
    case REFUSED_BYTES:
        return too_many_bytes(sh, ask->bytes, e);
    case REFUSED_LATE:
        return late(sh, *wait_us, e);
    case REFUSED_STANDING:
        return err_set(
            e, ERR_UNAVAILABLE,
            "%s has had more work than it can do for a while, the request would wait %.1f ms: try again later",
            sh->name, (double)*wait_us / 1000);
    default:
        s->held++;
        return ERR_OK;
    }
}

enum err_code sched_grow(struct sched *s, enum job_class class, uint64_t bytes, struct err *e)
{
    return admission_grow(&s->shared->admission, class, bytes) ? ERR_OK : too_many_bytes(s->shared, bytes, e);
}

void sched_release(struct sched *s, enum job_class class, uint64_t bytes)
{
    admission_leave(&s->shared->admission, class, bytes);
    s->held--;
    if (s->drained) {
        loop_defer(s->shard->loop, &s->flush);
    }
}

uint64_t sched_take(struct sched *s, uint64_t bytes)
{
    return window_take(s->shared->in, s->shard->index, bytes);
}

void sched_give(struct sched *s, uint64_t block)
{
    window_give(s->shared->in, s->shard->index, block);
}

uint8_t *sched_at(struct sched *s, uint64_t block)
{
    return window_base(s->shared->in) + block;
}

const struct model_info *sched_info(const struct sched *s)
{
    return &s->shared->info;
}

/* A new work, or one that was used before; NULL without memory. */
static struct work *work_new(struct sched *s, struct infer *r)
{
    struct sched_shared *sh = s->shared;
    struct work *w = s->free;

    if (w) {
        s->free = w->next;
    } else {
        w = malloc(sizeof(*w)); /* their number is bounded: every one was admitted */
    }
    if (!w) {
        return NULL;
    }
    *w = (struct work){.sched = s,
                       .owner = r,
                       .block = r->block,
                       .deadline_us = r->deadline_us,
                       .submit_ns = clock_ns(),
                       .seq = s->seq++,
                       .class = r->class,
                       .instance = -1};
    w->predicted_us = admission_submit(&sh->admission, w->class, executors(sh), w->submit_ns / 1000);
    if (sh->lane && atomic_fetch_add_explicit(&sh->lane_queued, 1, memory_order_relaxed) == 0) {
        atomic_fetch_add_explicit(&sh->lane->active, 1, memory_order_relaxed);
    }
    return w;
}

enum err_code sched_submit(struct sched *s, struct infer *r, struct err *e)
{
    struct sched_shared *sh = s->shared;
    uint64_t wait_us;

    if (s->abandoned) {
        return err_set(e, ERR_UNAVAILABLE, "%s is out of service", sh->name);
    }
    if (convicted(s, r->block)) {
        return err_set(e, ERR_REFUSED,
                       "the same request ended two worker processes of %s a short while ago; it is refused", sh->name);
    }
    if (!admission_fits(&sh->admission, r->class, r->deadline_us, executors(sh), clock_us(), &wait_us)) {
        return late(sh, wait_us, e);
    }
    r->work = work_new(s, r);
    if (!r->work) {
        return err_set(e, ERR_UNAVAILABLE, "no memory for a request of %s", sh->name);
    }
    list_add(&s->queue[r->class], r->work);
    loop_defer(s->shard->loop, &s->flush);
    if (s->sweep.slot == 0) {
        timer_set(s->shard->loop, &s->sweep, loop_now(s->shard->loop) + SWEEP_US);
    }
    return ERR_OK;
}

void sched_cancel(struct infer *r)
{
    if (r->work) {
        struct work *w = r->work;
        struct seat *seat = w->instance < 0 ? NULL : &w->sched->seat[w->instance];

        w->owner = NULL;
        r->work = NULL;
        if (!seat) {
            w->deadline_us = 0; /* the next sweep drops it */
        } else if (seat->port) {
            seat->port->ops->cancel(seat->port, (uint64_t)(uintptr_t)w);
        }
    }
}

/* ---- for the pool ---- */

struct sched *sched_new(struct shard *shard, struct sched_shared *shared)
{
    struct sched *s = xcalloc(1, sizeof(*s));

    s->shard = shard;
    s->shared = shared;
    s->flush.fn = on_flush;
    s->sweep.fn = on_sweep;
    if (shared->space_bytes > 0) {
        s->space =
            mmap(NULL, shared->space_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        s->space = s->space == MAP_FAILED ? NULL : s->space; /* then jobs fail one by one, and say so */
    }
    for (unsigned i = 0; i < INSTANCES_MAX; i++) {
        s->seat[i].sched = s;
        s->seat[i].index = i;
    }
    return s;
}

enum err_code sched_attach(struct sched *s, unsigned instance, struct engine *g, struct err *e)
{
    struct seat *seat = &s->seat[instance];
    struct port_host host = {.loop = s->shard->loop, .on = &port_events, .ctx = seat, .index = s->shard->index};
    enum err_code rc;

    assert(!seat->port && seat->open == 0);
    seat->full = false;
    rc = g->ops->attach(g, &host, &seat->port, e);
    if (rc == ERR_OK && waiting(s) > 0) {
        loop_defer(s->shard->loop, &s->flush);
    }
    return rc;
}

void sched_drain(struct sched *s, void (*drained)(void *ctx), void *ctx)
{
    s->drained = drained;
    s->drained_ctx = ctx;
    loop_defer(s->shard->loop, &s->flush);
}

void sched_abandon(struct sched *s)
{
    s->abandoned = true;
    for (struct work *w; (w = queue_first(s)) != NULL;) {
        queue_del(s, w);
        answer_error(s, w, true, ERR_UNAVAILABLE, "the version was taken out of service while the request waited");
        work_free(s, w);
    }
    loop_defer(s->shard->loop, &s->flush);
}

void sched_free(struct sched *s)
{
    assert(waiting(s) == 0 && s->running.n == 0 && s->held == 0);
    for (unsigned i = 0; i < INSTANCES_MAX; i++) {
        if (s->seat[i].port) {
            s->seat[i].port->ops->detach(s->seat[i].port);
        }
    }
    timer_clear(s->shard->loop, &s->sweep);
    loop_undefer(s->shard->loop, &s->flush);
    for (struct work *w; (w = s->free) != NULL;) {
        s->free = w->next;
        free(w);
    }
    if (s->space) {
        munmap(s->space, s->shared->space_bytes);
    }
    free(s);
}

unsigned sched_waiting(const struct sched *s)
{
    return waiting(s);
}
