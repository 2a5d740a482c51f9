/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper of a private server. See keeper.h.
 *
 * The server's end is seen on its pidfd. Started again it is asked whether it is ready, every PROBE_US, by a flight
 * that goes past those that are held. */
#include "client/keeper.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"

#define PROBE_US MILLIS(10)
#define PROBE_LIMIT_US SECONDS(5)
#define PAUSE_LEAST_US MILLIS(100)
#define PAUSE_MOST_US SECONDS(5)
#define SOON_US SECONDS(10) /* an end so short after the start lengthens the pause */

struct keeper {
    struct courier *c;
    struct spawn *s;
    struct watch child;
    struct timer again, probe;
    struct flight asks;
    bool asking;
    struct task begin;
    uint64_t started_us, pause_us;

    pthread_mutex_t lock;
    pthread_cond_t news;
    bool up;         /* from here on under the lock */
    uint64_t count;  /* of times that it came up */
    struct err last; /* why it is not */
};

static void watch_child(struct keeper *k);

static void say_down(struct keeper *k, const struct err *why)
{
    pthread_mutex_lock(&k->lock);
    k->up = false;
    k->last = *why;
    pthread_cond_broadcast(&k->news);
    pthread_mutex_unlock(&k->lock);
}

static void say_up(struct keeper *k)
{
    pthread_mutex_lock(&k->lock);
    k->up = true;
    k->count++;
    pthread_cond_broadcast(&k->news);
    pthread_mutex_unlock(&k->lock);
    courier_hold(k->c, false);
}

/* ---- started again ---- */

static void later(struct keeper *k)
{
    struct loop *l = courier_loop(k->c);
    bool soon = clock_us() - k->started_us < SOON_US;
    timer_set(l, &k->again, clock_us() + (soon ? k->pause_us : 0));
    k->pause_us = soon ? MIN(MAX(2 * k->pause_us, PAUSE_LEAST_US), PAUSE_MOST_US) : 0;
}

static void on_child(struct watch *w, uint32_t events)
{
    struct keeper *k = CONTAINER_OF(w, struct keeper, child);
    char how[64];
    struct err e;
    (void)events;
    if (!spawn_ended(k->s, how, sizeof how)) {
        return;
    }
    loop_del(courier_loop(k->c), w);
    close(w->fd);
    w->fd = -1;
    courier_hold(k->c, true);
    err_set(&e, ERR_UNAVAILABLE, "the private server %s; it is being started again", how);
    say_down(k, &e);
    timer_clear(courier_loop(k->c), &k->probe);
    later(k);
}

static void on_again(struct timer *t)
{
    struct keeper *k = CONTAINER_OF(t, struct keeper, again);
    struct err e = {0};
    k->started_us = clock_us();
    if (spawn_again(k->s, &e) != ERR_OK) {
        say_down(k, &e);
        later(k);
        return;
    }
    watch_child(k);
    timer_set(courier_loop(k->c), &k->probe, clock_us() + PROBE_US);
}

static void on_answer(struct flight *f)
{
    struct keeper *k = CONTAINER_OF(f, struct keeper, asks);
    bool ready = f->err.code == ERR_OK && f->answer.status == 200;
    k->asking = false;
    http_answer_done(&f->answer);
    if (k->child.fd < 0) {
        return; /* it ended meanwhile */
    }
    if (ready) {
        say_up(k);
    } else if (f->err.code != ERR_CANCELLED) {
        timer_set(courier_loop(k->c), &k->probe, clock_us() + PROBE_US);
    }
}

static void on_probe(struct timer *t)
{
    struct keeper *k = CONTAINER_OF(t, struct keeper, probe);
    if (k->asking) {
        timer_set(courier_loop(k->c), t, clock_us() + PROBE_US);
        return;
    }
    k->asking = true;
    k->asks = (struct flight){
        .call = {.side = SIDE_DATA, .method = "GET", .path = "/v2/health/ready", .timeout_us = PROBE_LIMIT_US},
        .deadline_us = clock_us() + PROBE_LIMIT_US,
        .done = on_answer};
    http_answer_init(&k->asks.answer, 64u << 10);
    courier_past(k->c, &k->asks);
}

/* ---- life ---- */

static void watch_child(struct keeper *k)
{
    struct err e = {0};
    int fd = spawn_watch(k->s);
    k->child.fn = on_child;
    k->child.fd = -1;
    if (fd < 0 || loop_add(courier_loop(k->c), &k->child, fd, EPOLLIN, &e) != ERR_OK) {
        if (fd >= 0) {
            close(fd);
        }
        err_set(&e, ERR_UNAVAILABLE, "the private server can not be watched: no descriptors");
        say_down(k, &e);
    }
}

static void on_begin(struct task *t)
{
    struct keeper *k = CONTAINER_OF(t, struct keeper, begin);
    watch_child(k);
}

struct keeper *keeper_new(struct courier *c, struct spawn *s)
{
    struct keeper *k = xcalloc(1, sizeof *k);
    pthread_condattr_t attr;
    k->c = c;
    k->s = s;
    k->up = true;
    k->count = 1;
    k->started_us = clock_us();
    k->child.fd = -1;
    k->again.fn = on_again;
    k->probe.fn = on_probe;
    k->begin.fn = on_begin;
    pthread_mutex_init(&k->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&k->news, &attr);
    pthread_condattr_destroy(&attr);
    loop_post(courier_loop(c), &k->begin);
    return k;
}

void keeper_free(struct keeper *k)
{
    if (!k) {
        return;
    }
    if (k->child.fd >= 0) {
        close(k->child.fd);
    }
    pthread_cond_destroy(&k->news);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

uint64_t keeper_count(struct keeper *k)
{
    pthread_mutex_lock(&k->lock);
    uint64_t n = k->count;
    pthread_mutex_unlock(&k->lock);
    return n;
}

enum err_code keeper_wait(struct keeper *k, uint64_t count, uint64_t notice, uint64_t until, struct err *e)
{
    enum err_code rc = ERR_OK;
    pthread_mutex_lock(&k->lock);
    while (rc == ERR_OK && (!k->up || (count != 0 && k->count == count))) {
        uint64_t limit = k->up ? MIN(notice, until) : until;
        struct timespec at = {.tv_sec = (time_t)(limit / 1000000), .tv_nsec = (long)(limit % 1000000) * 1000};
        if (clock_us() < limit) {
            pthread_cond_timedwait(&k->news, &k->lock, &at);
        } else {
            rc = k->up ? err_set(e, ERR_UNAVAILABLE, "the private server takes no connections")
                       : err_set(e, k->last.code, "%s", k->last.text);
        }
    }
    pthread_mutex_unlock(&k->lock);
    return rc;
}
