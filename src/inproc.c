/* SPDX-License-Identifier: Apache-2.0 */
/* libweir's place inside the application's process: a handle's requests as memory, handed to a house of its own. Like
 * house.c it knows both sides, which do not know each other: what client/place.h asks for, house_embed_… does.
 *
 * A trip is a request under way. It lives on the loop of the door that it goes in by; its owner posts it there, and
 * whatever else it wants of it. A call that waits owns its trip, and does not return before every task that it posted
 * has run; a flight's trip is freed on the loop. */
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "client/place.h"
#include "house.h"
#include "net/http_local.h"

#define OPEN_US SECONDS(60)
#define PIECE (256u << 10) /* of a body that is made while it is sent */

struct inproc {
    struct place base;
    struct house *house;
    struct trip **flights; /* by door, then the admin side's; each list is its loop's */
};

struct trip {
    struct http_local_call call; /* first: call.ask.ctx is the trip */
    struct inproc *p;
    enum house_side side;
    unsigned door;
    struct loop *loop;
    struct task go;
    bool under_way; /* the loop's, as is all below */
    bool timed_out, cancelled;
    /* a call that waits */
    struct waiter *waiter;
    /* a flight */
    struct flight *flight;
    struct trip *next, **link;
};

struct waiter {
    struct trip trip;
    struct task feed, stop;
    struct iovec piece;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    bool done, hungry;
    unsigned posted; /* tasks that have not run */
};

static struct inproc *inproc_of(struct place *p)
{
    return CONTAINER_OF(p, struct inproc, base);
}

/* ---- requests and answers ---- */

static void trip_init(struct trip *t, struct inproc *p, const struct place_call *q, struct http_answer *a)
{
    *t = (struct trip){.p = p, .side = q->side == SIDE_ADMIN ? HOUSE_ADMIN : HOUSE_DATA};
    t->loop = house_embed_loop(p->house, t->side, &t->door);
    t->call.ask = (struct http_local_ask){.method = str_of(q->method),
                                          .target = str_of(q->path),
                                          .headers = q->headers,
                                          .body = q->body,
                                          .n_body = q->source ? 0 : (size_t)q->n_body,
                                          .reply = &a->body,
                                          .ctx = t};
    for (size_t i = 0; i < t->call.ask.n_body; i++) {
        t->call.ask.size += q->body[i].iov_len;
    }
    t->call.ask.size = q->source ? q->source->size : t->call.ask.size;
    a->status = 0;
    buf_clear(&a->head);
    buf_clear(&a->body);
}

/* "Name: value\r\n" as an answer keeps it. */
static void take_head(struct buf *to, struct str head)
{
    while (head.n > 0) {
        const char *stop = memmem(head.p, head.n, "\r\n", 2);
        size_t n = stop ? (size_t)(stop - head.p) : head.n, colon = 0;

        for (; colon < n && head.p[colon] != ':'; colon++) {
            char ch = head.p[colon];

            buf_addc(to, (char)(ch >= 'A' && ch <= 'Z' ? ch + 32 : ch));
        }
        buf_addc(to, ':');
        colon += MIN(n - colon, sizeof(": ") - 1);
        buf_add(to, head.p + colon, n - colon);
        buf_addc(to, '\n');
        head = stop ? (struct str){stop + 2, head.n - n - 2} : STR("");
    }
}

/* What became of it, when it is done: on the loop. */
static enum err_code outcome(const struct trip *t, struct http_answer *a, uint64_t timeout_us, struct err *e)
{
    if (t->call.status != 0) {
        a->status = t->call.status;
        take_head(&a->head, buf_str(&t->call.head));
        return a->head.over ? err_set(e, ERR_TOO_LARGE, "the head of the answer is too large") : ERR_OK;
    }
    if (t->call.over) {
        return err_set(e, ERR_TOO_LARGE, "the answer is larger than %zu bytes", a->body.max);
    }
    if (t->timed_out) {
        return err_set(e, ERR_TIMEOUT, "no answer within %" PRIu64 " ms", timeout_us / 1000);
    }
    return t->cancelled ? err_set(e, ERR_CANCELLED, "cancelled")
                        : err_set(e, ERR_UNAVAILABLE, "the house ended before it answered");
}

/* True: it has begun, and its done may have come already. False: the house is closing. */
static bool trip_go(struct trip *t)
{
    struct http_local *door = house_embed_door(t->p->house, t->side, t->door);

    t->under_way = door != NULL;
    if (door) {
        http_local_start(door, &t->call);
    }
    return door != NULL;
}

/* ---- calls that wait ---- */

struct waited { /* what the loop found out, for the caller */
    struct waiter w;
    struct http_answer *answer;
    uint64_t timeout_us;
    enum err_code code;
    struct err err;
};

static void waiter_tell(struct waiter *w, bool done, bool hungry, bool ran)
{
    pthread_mutex_lock(&w->lock);
    w->done |= done;
    w->hungry |= hungry;
    w->posted -= ran;
    pthread_cond_signal(&w->changed); /* within: the caller may free it when it has the lock */
    pthread_mutex_unlock(&w->lock);
}

static void waited_done(struct http_local_call *c)
{
    struct trip *t = c->ask.ctx;
    struct waited *k = CONTAINER_OF(t->waiter, struct waited, w);

    t->under_way = false;
    k->code = outcome(t, k->answer, k->timeout_us, &k->err);
    waiter_tell(t->waiter, true, false, false);
}

static void waited_more(struct http_local_call *c)
{
    struct trip *t = c->ask.ctx;

    waiter_tell(t->waiter, false, true, false);
}

static void on_go(struct task *task)
{
    struct trip *t = CONTAINER_OF(task, struct trip, go);

    if (!trip_go(t)) {
        waited_done(&t->call);
    }
    waiter_tell(t->waiter, false, false, true);
}

static void on_feed(struct task *task)
{
    struct waiter *w = CONTAINER_OF(task, struct waiter, feed);

    if (w->trip.under_way) {
        http_local_more(&w->trip.call, w->piece);
    }
    waiter_tell(w, false, false, true);
}

static void on_stop(struct task *task)
{
    struct waiter *w = CONTAINER_OF(task, struct waiter, stop);

    if (w->trip.under_way) {
        w->trip.timed_out = true;
        http_local_cancel(&w->trip.call);
    }
    waiter_tell(w, false, false, true);
}

static void waiter_post(struct waiter *w, struct task *task) /* with the lock */
{
    w->posted++;
    loop_post(w->trip.loop, task);
}

/* Makes the next piece and hands it in; with the lock, which it lets go meanwhile. */
static enum err_code feed(struct waiter *w, const struct http_source *source, char *room, struct err *e)
{
    int64_t n;

    w->hungry = false;
    pthread_mutex_unlock(&w->lock);
    n = source->read(source->ctx, room, PIECE, e);
    pthread_mutex_lock(&w->lock);
    if (n <= 0) {
        return n < 0 ? e->code : err_set(e, ERR_INTERNAL, "the body ended before its announced size");
    }
    w->piece = (struct iovec){room, (size_t)n};
    waiter_post(w, &w->feed);
    return ERR_OK;
}

static void wait_change(struct waiter *w, uint64_t until)
{
    struct timespec at = {.tv_sec = (time_t)(until / 1000000), .tv_nsec = (long)(until % 1000000) * 1000};

    if (until == UINT64_MAX) {
        pthread_cond_wait(&w->changed, &w->lock);
    } else {
        pthread_cond_clockwait(&w->changed, &w->lock, CLOCK_MONOTONIC, &at);
    }
}

static enum err_code inproc_call(struct place *place, const struct place_call *q, struct http_answer *a, struct err *e)
{
    struct waited k = {.answer = a, .timeout_us = q->timeout_us};
    struct waiter *w = &k.w;
    uint64_t until = q->timeout_us ? clock_us() + q->timeout_us : UINT64_MAX;
    char *room = q->source ? xmalloc(PIECE) : NULL;
    enum err_code fed = ERR_OK;
    bool stopped = false;

    trip_init(&w->trip, inproc_of(place), q, a);
    w->trip.waiter = w;
    w->trip.call.ask.done = waited_done;
    w->trip.call.ask.more = q->source ? waited_more : NULL;
    w->trip.go.fn = on_go;
    w->feed.fn = on_feed;
    w->stop.fn = on_stop;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    pthread_mutex_lock(&w->lock);
    waiter_post(w, &w->trip.go);
    while (!w->done || w->posted > 0) {
        if (!stopped && !w->done && (fed != ERR_OK || clock_us() >= until)) {
            stopped = true;
            waiter_post(w, &w->stop);
        } else if (!stopped && !w->done && w->hungry && w->posted == 0) {
            fed = feed(w, q->source, room, e);
        } else {
            wait_change(w, stopped || w->done ? UINT64_MAX : until);
        }
    }
    pthread_mutex_unlock(&w->lock);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(room);
    if (fed != ERR_OK) {
        return fed;
    }
    return k.code == ERR_OK ? ERR_OK : err_set(e, k.code, "%s", k.err.text);
}

/* ---- flights ---- */

static void flight_end(struct trip *t)
{
    struct flight *f = t->flight;

    if (t->link) {
        *t->link = t->next;
        if (t->next) {
            t->next->link = t->link;
        }
    }
    timer_clear(t->loop, &f->limit);
    f->err.code = outcome(t, &f->answer, f->call.timeout_us, &f->err);
    free(t); /* the call's head was taken by its finish */
    f->done(f);
}

static void flight_done(struct http_local_call *c)
{
    flight_end(c->ask.ctx);
}

static void on_limit(struct timer *timer)
{
    struct flight *f = CONTAINER_OF(timer, struct flight, limit);
    struct trip *t = f->on;

    t->timed_out = true;
    http_local_cancel(&t->call);
}

static void flight_go(struct task *task)
{
    struct trip *t = CONTAINER_OF(task, struct trip, go);
    struct flight *f = t->flight;
    struct trip **first = &t->p->flights[t->side == HOUSE_ADMIN ? house_embed_doors(t->p->house) : t->door];

    t->next = *first;
    t->link = first;
    if (t->next) {
        t->next->link = &t->next;
    }
    *first = t;
    f->limit.fn = on_limit;
    if (f->deadline_us) {
        timer_set(t->loop, &f->limit, f->deadline_us);
    }
    if (!trip_go(t)) {
        flight_end(t);
    }
}

static enum err_code inproc_start(struct place *place, struct flight *f, struct err *e)
{
    struct trip *t = xcalloc(1, sizeof(*t));

    (void)e;
    trip_init(t, inproc_of(place), &f->call, &f->answer);
    t->flight = f;
    f->on = t;
    f->err = (struct err){0};
    t->call.ask.done = flight_done;
    t->go.fn = flight_go;
    loop_post(t->loop, &t->go);
    return ERR_OK;
}

struct wish { /* that the flight with this id ends: one for each loop */
    struct task task;
    struct trip **first;
    uint64_t id;
};

static void on_wish(struct task *task)
{
    struct wish *wish = CONTAINER_OF(task, struct wish, task);

    for (struct trip *t = *wish->first; t; t = t->next) {
        if (t->flight->id == wish->id) {
            t->cancelled = true;
            http_local_cancel(&t->call);
            break;
        }
    }
    free(wish);
}

static void inproc_cancel(struct place *place, uint64_t id)
{
    struct inproc *p = inproc_of(place);
    unsigned doors = house_embed_doors(p->house);

    for (unsigned i = 0; i <= doors; i++) {
        struct wish *wish = xcalloc(1, sizeof(*wish));

        *wish = (struct wish){.task.fn = on_wish, .first = &p->flights[i], .id = id};
        loop_post(house_embed_loop_of(p->house, i < doors ? HOUSE_DATA : HOUSE_ADMIN, i), &wish->task);
    }
}

/* ---- the place ---- */

static void inproc_close(struct place *place)
{
    struct inproc *p = inproc_of(place);

    house_embed_close(p->house);
    free(p->flights);
    free(p);
}

static const struct place_ops inproc_ops = {
    .call = inproc_call, .start = inproc_start, .cancel = inproc_cancel, .close = inproc_close};

enum err_code place_inproc_open(struct place **out, const char *config, struct err *e)
{
    struct inproc *p = xcalloc(1, sizeof(*p));

    p->base.ops = &inproc_ops;
    if (house_embed_open(&p->house, *config ? config : NULL, OPEN_US, e) != ERR_OK) {
        free(p);
        return e->code;
    }
    p->flights = xcalloc(house_embed_doors(p->house) + 1, sizeof(struct trip *));
    *out = &p->base;
    return ERR_OK;
}
