/* SPDX-License-Identifier: Apache-2.0 */
/* A connection thread's port to a far side: which job goes where and when, and what becomes of it.
 *
 * Jobs wait in order, and are sent at the end of the loop's burst, each on a connection of its own, as many at a time
 * as the far side takes: one less in eight after a 503 from there, one more for as many answers as are out (AIMD). What
 * a port may hold shrinks with it, so that the scheduler's queue grows instead, and admission refuses early.
 *
 * A job is sent again when nothing of an answer had come: for nothing when nobody listened, or when a kept connection
 * was found closed; else from the budget, at most SENT_MOST times in all, elsewhere if there is an elsewhere.
 *
 * No event comes from inside submit, flush or cancel: what ends there ends in the `work` hook of the same burst.
 *
 * Thread: the port's loop. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backends/remote/remote_priv.h"
#include "base/clock.h"
#include "base/hash.h"

#define TICK_US MILLIS(20)
#define PAUSE_US MILLIS(100)      /* before the same address is tried again */
#define CONNECT_US SECONDS(1)     /* to get a connection */
#define IDLE_US SECONDS(60)       /* a connection without a request */
#define SHRINK_US MILLIS(100)     /* one 503 in that time counts */
#define RETRY_AFTER_US SECONDS(1) /* who is told to wait longer hears of it at once */
#define SENT_MOST 3
#define LIMIT_MOST (PORT_CONNS * 100u)

static unsigned n_open(const struct remote_port *p)
{
    return PORT_JOBS - p->n_free;
}

/* Jobs that the port takes: four times what it may send. */
static unsigned capacity(const struct remote_port *p)
{
    return MIN(MAX(p->limit / 100, 1u) * (PORT_JOBS / PORT_CONNS), (unsigned)PORT_JOBS);
}

/* ---- the end of a job ---- */

static void job_free(struct remote_port *p, struct remote_job *j)
{
    j->state = JOB_FREE;
    j->conn = NULL;
    p->free[p->n_free++] = (uint16_t)(j - p->job);
    if (n_open(p) == 0) {
        timer_clear(p->host.loop, &p->tick);
    }
}

/* Takes it off its connection. */
static void job_unsend(struct remote_port *p, struct remote_job *j)
{
    if (j->state == JOB_SENT) {
        p->n_out--;
        atomic_fetch_sub_explicit(&p->r->out, 1, memory_order_relaxed);
        j->conn->job = NULL;
        j->conn = NULL;
    } else if (j->state == JOB_WAITING) {
        TAILQ_REMOVE(&p->waiting, j, next);
    }
}

static void job_done(struct remote_port *p, struct remote_job *j, struct job_result *res)
{
    uint64_t id = j->id;

    job_free(p, j);
    p->host.on->done(p->host.ctx, id, res);
}

/* It ends with an error; told in the work hook. */
static void job_over(struct remote_port *p, struct remote_job *j, enum err_code code, const char *text)
{
    job_unsend(p, j);
    j->state = JOB_OVER;
    err_set(&j->why, code, "%s", text);
    TAILQ_INSERT_TAIL(&p->over, j, next);
    loop_defer(p->host.loop, &p->work);
}

static void job_again(struct remote_port *p, struct remote_job *j, uint64_t retry_us)
{
    job_unsend(p, j);
    j->state = JOB_WAITING;
    j->retry_us = retry_us;
    TAILQ_INSERT_HEAD(&p->waiting, j, next);
    loop_defer(p->host.loop, &p->work);
}

/* Closes the connection under a job that is not waited for any more. */
static void job_cut(struct remote_port *p, struct remote_job *j, enum err_code code, const char *text)
{
    struct conn *c = j->conn;

    if (c) {
        target_end(&p->r->side->targets, c->target, TARGET_LEFT, 0, 0);
    }
    job_over(p, j, code, text);
    if (c) {
        conn_close(c);
    }
}

/* ---- sending ---- */

/* One on that address that waits for work; else a place for a new one; else any that waits for work. NULL: all are
 * busy. */
static struct conn *find_conn(struct remote_port *p, const struct target_pick *t)
{
    struct conn *other = NULL, *none = NULL;
    unsigned empty = PORT_CONNS;

    for (unsigned i = 0; i < PORT_CONNS; i++) {
        struct conn *c = p->conn[i];

        if (!c) {
            empty = MIN(empty, i);
        } else if (c->state == CONN_CLOSED) {
            none = c;
        } else if (c->state == CONN_IDLE && c->target.index == t->index && c->target.gen == t->gen) {
            return c;
        } else if (c->state == CONN_IDLE) {
            other = c;
        }
    }
    if (!none && empty < PORT_CONNS) {
        none = p->conn[empty] = conn_new(p);
    }
    if (!none && other) { /* of an address that is less wanted now */
        conn_close(other);
        none = other;
    }
    return none;
}

/* Sends a waiting job. False: not now, nor any behind it. */
static bool send_job(struct remote_port *p, struct remote_job *j, uint64_t now)
{
    struct targets *t = &p->r->side->targets;
    struct target_pick pick;
    struct conn *c;
    struct err e;
    bool up;

    if (p->n_out >= MAX(p->limit / 100, 1u) || atomic_load(&p->r->side->away) ||
        !targets_pick(t, j->avoid, now, random_u64(), &pick, &up)) {
        return false;
    }
    c = find_conn(p, &pick);
    if (!c) {
        return false;
    }
    if (c->state == CONN_CLOSED && conn_open(c, pick, &e) != ERR_OK) {
        target_begin(t, pick);
        target_end(t, pick, TARGET_REFUSED, 0, now);
        side_alarm(p->r->side);
        j->avoid = pick.index;
        j->retry_us = now + PAUSE_US;
        return true;
    }
    TAILQ_REMOVE(&p->waiting, j, next);
    j->state = JOB_SENT;
    j->conn = c;
    p->n_out++;
    atomic_fetch_add_explicit(&p->r->out, 1, memory_order_relaxed);
    target_begin(t, c->target);
    if (!conn_give(c, j, now)) {
        job_cut(p, j, ERR_UNAVAILABLE, "no memory for a request to another server");
    }
    return true;
}

static void pump(struct remote_port *p)
{
    uint64_t now = clock_us();
    struct remote_job *j, *next;

    for (j = TAILQ_FIRST(&p->waiting); j && !p->dead; j = next) {
        next = TAILQ_NEXT(j, next);
        if (j->retry_us <= now && !send_job(p, j, now)) {
            break;
        }
    }
}

static void on_work(struct hook *h)
{
    struct remote_port *p = CONTAINER_OF(h, struct remote_port, work);
    struct remote_job *j;

    while ((j = TAILQ_FIRST(&p->over)) != NULL) {
        struct job_result res = {.err = j->why};

        TAILQ_REMOVE(&p->over, j, next);
        job_done(p, j, &res);
    }
    pump(p);
}

/* ---- what comes of it ---- */

/* Less at a time. */
static void shrink(struct remote_port *p, uint64_t now)
{
    if (now > p->shrunk_us + SHRINK_US) {
        p->shrunk_us = now;
        p->limit = MAX(MIN(p->limit, p->n_out * 100) - MIN(p->limit, p->n_out * 100) / 8, 100u);
    }
}

static void grow(struct remote_port *p)
{
    p->limit = MIN(p->limit + 100 / MAX(p->limit / 100, 1u), LIMIT_MOST);
}

static bool may_retry(struct remote_port *p, const struct remote_job *j)
{
    return j->tries < SENT_MOST && retry_budget_take(&p->budget);
}

/* Another address than this one that is up. */
static bool elsewhere(const struct remote_port *p, unsigned index, uint64_t now)
{
    struct targets *t = &p->r->side->targets;
    struct target_pick pick;
    bool up;

    return targets_pick(t, index, now, random_u64(), &pick, &up) && up && pick.index != index;
}

/* An answer other than 200. */
static void refused(struct remote_port *p, struct conn *c, struct remote_job *j, uint64_t now)
{
    struct err e;

    far_error(&c->answer, p->r->side->place, &e);
    if (c->answer.status == 503 || c->answer.status == 404) { /* is the model still there? */
        side_alarm(p->r->side);
    }
    if (c->answer.status == 503) {
        unsigned after = far_retry_after(&c->answer);
        bool other = elsewhere(p, c->target.index, now);
        uint64_t pause = other ? 0 : after ? SECONDS(after) : PAUSE_US;

        shrink(p, now);
        if (pause <= RETRY_AFTER_US && now + pause < j->deadline_us && may_retry(p, j)) {
            j->avoid = c->target.index;
            job_again(p, j, now + pause);
            return;
        }
    }
    job_over(p, j, e.code, e.text);
}

static void answered(struct remote_port *p, struct conn *c, struct remote_job *j, uint64_t now)
{
    const struct job_block *b = (const void *)(window_base(p->r->in) + j->block);
    struct job_result res = {.out = p->out, .base = p->space, .size = p->r->out_bytes};
    uint32_t out = atomic_load_explicit(&p->r->out, memory_order_relaxed);

    if (far_outputs(&c->answer, &p->r->info, b, p->space, p->r->out_bytes, p->out, &res.n_out, &res.err) != ERR_OK) {
        char text[sizeof(res.err.text)];

        memcpy(text, res.err.text, sizeof(text));
        err_set(&res.err, res.err.code, "%s: %s", p->r->side->place, text);
        job_over(p, j, res.err.code, res.err.text);
        return;
    }
    res.wait_ns = (c->since_us - MIN(j->queued_us, c->since_us)) * 1000;
    res.compute_ns = MAX(now - c->since_us, 1u) * 1000;
    res.joined = MAX(out, 1u);
    grow(p);
    job_unsend(p, j);
    job_done(p, j, &res);
}

void port_replied(struct conn *c)
{
    struct remote_port *p = c->port;
    struct remote_job *j = c->job;
    uint64_t now = clock_us();
    int status = c->answer.status;
    bool ill = status == 502 || status == 503 || status == 504;

    target_end(&p->r->side->targets, c->target, ill ? TARGET_BROKE : TARGET_ANSWERED, now - c->since_us, now);
    if (status < 500 && status != 404) {
        atomic_store_explicit(&p->r->side->answered_us, now, memory_order_relaxed);
    }
    j->tries++;
    if (status == 200) {
        answered(p, c, j, now);
    } else {
        refused(p, c, j, now);
    }
    if (c->state == CONN_BUSY) {
        conn_close(c);
    } else if (c->state == CONN_IDLE) {
        c->since_us = now;
    }
    loop_defer(p->host.loop, &p->work);
}

void port_broken(struct conn *c, enum target_end end, const struct err *why)
{
    struct remote_port *p = c->port;
    struct remote_job *j = c->job;
    uint64_t now = clock_us();
    bool begun = c->reply.started, connecting = c->state == CONN_CONNECTING;
    bool stale = !connecting && c->used && !begun && !j->stale;
    unsigned index = c->target.index;
    uint64_t at;

    target_end(&p->r->side->targets, c->target, stale ? TARGET_LEFT : end, 0, now);
    if (!stale) {
        side_alarm(p->r->side);
        j->avoid = index;
    }
    at = elsewhere(p, index, now) || stale ? 0 : now + PAUSE_US;
    j->stale |= stale;
    if (!connecting && !stale) {
        j->tries++;
    }
    if (!begun && (connecting || stale || may_retry(p, j))) {
        job_again(p, j, at);
    } else {
        job_over(p, j, why->code, why->text);
    }
    conn_close(c);
}

/* ---- time ---- */

static void look_at_job(struct remote_port *p, struct remote_job *j, uint64_t now)
{
    struct err e;

    if (now >= j->deadline_us) {
        job_cut(p, j, ERR_TIMEOUT,
                j->state == JOB_SENT ? "the deadline passed while another server had the request"
                                     : "the deadline passed before another server could be given the request");
    } else if (j->state == JOB_SENT && j->conn->state == CONN_CONNECTING && now > j->conn->since_us + CONNECT_US) {
        err_set(&e, ERR_UNAVAILABLE, "%s can not be reached: no connection within a second", p->r->side->place);
        port_broken(j->conn, TARGET_REFUSED, &e);
    }
}

static void on_tick(struct timer *t)
{
    struct remote_port *p = CONTAINER_OF(t, struct remote_port, tick);
    uint64_t now = clock_us();

    for (unsigned i = 0; i < PORT_JOBS; i++) {
        if (p->job[i].state == JOB_WAITING || p->job[i].state == JOB_SENT) {
            look_at_job(p, &p->job[i], now);
        }
    }
    for (unsigned i = 0; i < PORT_CONNS; i++) {
        if (p->conn[i] && p->conn[i]->state == CONN_IDLE && now > p->conn[i]->since_us + IDLE_US) {
            conn_close(p->conn[i]);
        }
    }
    pump(p); /* those that paused */
    if (n_open(p) > 0) {
        timer_set(p->host.loop, &p->tick, now + TICK_US);
    }
}

/* ---- the end ---- */

static void on_down(struct hook *h)
{
    struct remote_port *p = CONTAINER_OF(h, struct remote_port, down);

    p->host.on->down(p->host.ctx);
}

/* Every job comes back: those that ended as they ended, the others lost. */
static void on_death(struct watch *w, uint32_t events)
{
    struct remote_port *p = CONTAINER_OF(w, struct remote_port, death);

    (void)events;
    if (!atomic_load_explicit(&p->r->dead, memory_order_acquire)) {
        return; /* what the descriptor says comes after that */
    }
    loop_del(p->host.loop, &p->death);
    p->dead = true;
    loop_undefer(p->host.loop, &p->work);
    timer_clear(p->host.loop, &p->tick);
    for (unsigned i = 0; i < PORT_JOBS; i++) {
        struct remote_job *j = &p->job[i];
        struct job_result res = {.err = p->r->why, .lost = true, .started = j->tries > 0 || j->state == JOB_SENT};
        struct conn *c = j->conn;

        if (j->state == JOB_FREE) {
            continue;
        }
        if (j->state == JOB_OVER) {
            res = (struct job_result){.err = j->why};
            TAILQ_REMOVE(&p->over, j, next);
        } else if (c) {
            target_end(&p->r->side->targets, c->target, TARGET_LEFT, 0, 0);
        }
        job_unsend(p, j);
        if (c) {
            conn_close(c);
        }
        job_done(p, j, &res);
    }
    loop_defer(p->host.loop, &p->down); /* not from here: down() may free the port */
}

/* ---- the engine's calls ---- */

enum err_code remote_port_attach(struct engine *g, const struct port_host *host, struct port **out, struct err *e)
{
    struct remote *r = CONTAINER_OF(g, struct remote, base);
    struct remote_port *p = xcalloc(1, sizeof(*p));

    p->base = (struct port){.ops = &remote_engine, .engine = g, .peer = r->side->url.authority};
    p->r = r;
    p->host = *host;
    p->death.fd = -1;
    p->death.fn = on_death;
    p->work.fn = on_work;
    p->down.fn = on_down;
    p->tick.fn = on_tick;
    p->limit = LIMIT_MOST;
    retry_budget_init(&p->budget);
    TAILQ_INIT(&p->waiting);
    TAILQ_INIT(&p->over);
    for (unsigned i = 0; i < PORT_JOBS; i++) {
        p->free[i] = (uint16_t)(PORT_JOBS - 1 - i);
    }
    p->n_free = PORT_JOBS;
    p->out = xcalloc(MAX(r->info.n_out, 1u), sizeof(p->out[0]));
    p->space = mmap(NULL, r->out_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    p->death_fd = fcntl(r->death_fd, F_DUPFD_CLOEXEC, 0);
    if (p->space == MAP_FAILED || p->death_fd < 0) {
        p->space = p->space == MAP_FAILED ? NULL : p->space;
        err_sys(e, ERR_UNAVAILABLE, "no room left to speak to %s", r->side->place);
        remote_port_detach(&p->base);
        return ERR_UNAVAILABLE;
    }
    if (loop_add(host->loop, &p->death, p->death_fd, EPOLLIN, e) != ERR_OK) {
        remote_port_detach(&p->base);
        return e ? e->code : ERR_INTERNAL;
    }
    *out = &p->base;
    return ERR_OK;
}

void remote_port_detach(struct port *base)
{
    struct remote_port *p = CONTAINER_OF(base, struct remote_port, base);
    struct remote *r = p->r;

    assert(n_open(p) == 0);
    for (unsigned i = 0; i < PORT_CONNS; i++) {
        conn_free(p->conn[i]);
    }
    loop_del(p->host.loop, &p->death);
    loop_undefer(p->host.loop, &p->work);
    loop_undefer(p->host.loop, &p->down);
    timer_clear(p->host.loop, &p->tick);
    if (p->death_fd >= 0) {
        close(p->death_fd);
    }
    if (p->space) {
        munmap(p->space, r->out_bytes);
    }
    free(p->out);
    free(p);
    remote_let_go(r);
}

enum err_code remote_port_submit(struct port *base, const struct job *job, struct err *e)
{
    struct remote_port *p = CONTAINER_OF(base, struct remote_port, base);
    struct remote_job *j;

    if (p->dead || n_open(p) >= capacity(p)) {
        return err_set(e, ERR_UNAVAILABLE, p->dead ? "%s is away" : "%s has all it can hold", p->r->side->place);
    }
    j = &p->job[p->free[--p->n_free]];
    *j = (struct remote_job){.state = JOB_WAITING,
                             .id = job->id,
                             .deadline_us = job->deadline_us,
                             .block = job->block,
                             .queued_us = clock_us(),
                             .avoid = UINT_MAX};
    far_origin(j->origin, job->origin);
    retry_budget_earn(&p->budget);
    TAILQ_INSERT_TAIL(&p->waiting, j, next);
    if (n_open(p) == 1) {
        timer_set(p->host.loop, &p->tick, j->queued_us + TICK_US);
    }
    return ERR_OK;
}

void remote_port_flush(struct port *base)
{
    struct remote_port *p = CONTAINER_OF(base, struct remote_port, base);

    loop_defer(p->host.loop, &p->work);
}

void remote_port_cancel(struct port *base, uint64_t id)
{
    struct remote_port *p = CONTAINER_OF(base, struct remote_port, base);

    for (unsigned i = 0; i < PORT_JOBS; i++) {
        struct remote_job *j = &p->job[i];
        bool nearly = j->state == JOB_SENT && j->conn->reply.started; /* the answer is coming: let it */

        if (j->id == id && (j->state == JOB_WAITING || j->state == JOB_SENT) && !nearly) {
            job_cut(p, j, ERR_CANCELLED, "cancelled");
        }
    }
}
