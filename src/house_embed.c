/* SPDX-License-Identifier: Apache-2.0 */
/* The house inside an application's process; see house.h.
 *
 * Everything is built and taken down on the control thread, which is started with all signals blocked: the threads of
 * the house, which descend from it, inherit that, and the application's handlers run on its own threads. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "base/log.h"
#include "client/spawn.h"
#include "house.h"
#include "house_priv.h"

enum stage { BUILDING, LOADING, READY, ENDED };

struct embed {
    struct house h;
    pthread_t thread;
    pthread_mutex_t lock; /* of stage, err, unwanted, told */
    pthread_cond_t changed;
    enum stage stage;
    struct err err;
    bool unwanted; /* the opener has given up */
    bool told;     /* whoever ends it has let go of the loop */
    struct task close;
    _Atomic unsigned turn;
};

static struct embed *embed_of(struct house *h)
{
    return CONTAINER_OF(h, struct embed, h);
}

static void move_on(struct embed *m, enum stage stage)
{
    pthread_mutex_lock(&m->lock);
    m->stage = stage;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

static void on_ready(void *ctx)
{
    struct embed *m = ctx;

    if (m->stage == LOADING) { /* ENDED comes from this thread too */
        move_on(m, READY);
    }
}

static void cut_thread(struct task *task)
{
    struct conn_thread *t = CONTAINER_OF(task, struct conn_thread, cut);

    http_local_free(t->local);
    t->local = NULL;
}

static void on_close(struct task *task)
{
    struct embed *m = CONTAINER_OF(task, struct embed, close);
    struct house *h = &m->h;

    for (unsigned i = 0; i < h->conf.threads; i++) {
        h->threads[i].cut.fn = cut_thread;
        loop_post(h->threads[i].loop, &h->threads[i].cut);
    }
    http_local_free(h->admin_local);
    h->admin_local = NULL;
    control_stop(h->control, SECONDS(1), house_stop_loop, h);
}

static enum err_code build(struct house *h, struct err *e)
{
    snprintf(h->admin_facts.data_url, sizeof(h->admin_facts.data_url), "inproc:");
    snprintf(h->admin_facts.admin_url, sizeof(h->admin_facts.admin_url), "inproc:");
    if (loop_new(&h->loop, e) != ERR_OK || house_build_rooms(h, e) != ERR_OK || house_build_webhook(h, e) != ERR_OK) {
        return e->code;
    }
    for (unsigned i = 0; i < h->conf.threads; i++) {
        http_local_new(&h->threads[i].local, h->threads[i].loop, &h->threads[i].service, &h->limits);
    }
    http_local_new(&h->admin_local, h->loop, &h->admin_service, &h->admin_limits);
    return house_start_threads(h, e);
}

static void *control_main(void *arg)
{
    struct embed *m = arg;
    struct house *h = &m->h;
    struct err e;
    bool unwanted;

    prctl(PR_SET_NAME, "weir-control");
    if (build(h, &e) != ERR_OK) {
        house_take_down(h);
        pthread_mutex_lock(&m->lock);
        m->err = e;
        pthread_mutex_unlock(&m->lock);
        move_on(m, ENDED);
        return NULL;
    }
    pthread_mutex_lock(&m->lock);
    m->stage = LOADING;
    unwanted = m->unwanted; /* before there was a loop to tell it to */
    pthread_mutex_unlock(&m->lock);
    control_start(h->control, on_ready, m);
    if (unwanted) {
        loop_post(h->loop, &m->close);
    }
    loop_run(h->loop);
    pthread_mutex_lock(&m->lock);
    while (!m->told) {
        pthread_cond_wait(&m->changed, &m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    house_take_down(h);
    move_on(m, ENDED);
    return NULL;
}

/* Starts the control thread, which takes no signals. */
static int start_control(struct embed *m)
{
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&m->thread, NULL, control_main, m);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void embed_free(struct embed *m)
{
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->changed);
    free(m);
}

/* True when it is ready; else its thread will end, or has. */
static bool wait_ready(struct embed *m, uint64_t limit_us, struct err *e)
{
    uint64_t until = clock_us() + limit_us;
    struct timespec at = {.tv_sec = (time_t)(until / 1000000), .tv_nsec = (long)(until % 1000000) * 1000};
    bool ready;

    pthread_mutex_lock(&m->lock);
    while (m->stage < READY && clock_us() < until) {
        pthread_cond_clockwait(&m->changed, &m->lock, CLOCK_MONOTONIC, &at);
    }
    ready = m->stage == READY;
    if (m->stage == ENDED) {
        *e = m->err;
    } else if (!ready) {
        err_set(e, ERR_TIMEOUT, "the models were not loaded within %llu s", (unsigned long long)(limit_us / 1000000));
        m->unwanted = true;
        if (m->stage == LOADING) {
            loop_post(m->h.loop, &m->close);
        }
        m->told = true;
        pthread_cond_broadcast(&m->changed);
    }
    pthread_mutex_unlock(&m->lock);
    return ready;
}

enum err_code house_embed_open(struct house **out, const char *config, uint64_t limit_us, struct err *e)
{
    struct embed *m = xcalloc(1, sizeof(*m));
    struct err own;
    int rc;

    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    m->close.fn = on_close;
    m->h.began_us = clock_us();
    if (house_conf_file(&m->h.conf, config, &own) != ERR_OK) {
        house_conf_done(&m->h.conf);
        embed_free(m);
        return err_set(e, own.code, "%s", own.text);
    }
    log_set_level((enum log_level)m->h.conf.log_level);
    m->h.program = spawn_program();
    rc = start_control(m);
    if (rc != 0) {
        free(m->h.program);
        house_conf_done(&m->h.conf);
        embed_free(m);
        errno = rc;
        return err_sys(e, ERR_UNAVAILABLE, "can not start the control thread");
    }
    if (!wait_ready(m, limit_us, &own)) {
        pthread_join(m->thread, NULL);
        embed_free(m);
        return err_set(e, own.code, "%s", own.text);
    }
    *out = &m->h;
    return ERR_OK;
}

unsigned house_embed_doors(const struct house *h)
{
    return (unsigned)h->conf.threads;
}

struct loop *house_embed_loop(struct house *h, enum house_side side, unsigned *door)
{
    *door = side == HOUSE_ADMIN ? 0 : atomic_fetch_add(&embed_of(h)->turn, 1) % (unsigned)h->conf.threads;
    return house_embed_loop_of(h, side, *door);
}

struct loop *house_embed_loop_of(struct house *h, enum house_side side, unsigned door)
{
    return side == HOUSE_ADMIN ? h->loop : h->threads[door].loop;
}

struct http_local *house_embed_door(struct house *h, enum house_side side, unsigned door)
{
    return side == HOUSE_ADMIN ? h->admin_local : h->threads[door].local;
}

void house_embed_close(struct house *h)
{
    struct embed *m;

    if (!h) {
        return;
    }
    m = embed_of(h);
    loop_post(h->loop, &m->close);
    pthread_mutex_lock(&m->lock);
    m->told = true;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    embed_free(m);
}
