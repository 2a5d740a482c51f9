/* SPDX-License-Identifier: Apache-2.0 */
/* The courier: a pool of connections on a loop. See courier.h. */
#include "client/courier.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/reply.h"

#define IN_SIZE (64u << 10)
#define IOV_STEP 64 /* pieces handed to one sendmsg */

struct line { /* a connection */
    struct watch w;
    struct courier *c;
    struct flight *f;  /* NULL: idle */
    struct addr where; /* while it connects */
    bool connecting, used;
    struct reply reply;
    struct buf head;
    struct iovec *v; /* v[0] is the head */
    int n, at;
    uint64_t sent;
    struct line *prev, *next;
};

struct courier {
    struct http_client *as; /* what the address says */
    char *url;
    struct loop *loop;
    pthread_t thread;
    struct flight *first, **end; /* waiting, in their order */
    struct line *lines;          /* all */
    unsigned n_lines;
    bool held, closing, pumping;
    struct task close;
    char in[IN_SIZE];
};

struct order { /* to the courier's thread */
    struct task task;
    struct courier *c;
    struct flight *f;
    uint64_t id;
};

static void pump(struct courier *c);

/* ---- ends ---- */

static void land(struct courier *c, struct flight *f)
{
    timer_clear(c->loop, &f->limit);
    f->done(f);
}

static void line_close(struct line *l)
{
    struct courier *c = l->c;
    loop_del(c->loop, &l->w);
    close(l->w.fd);
    *(l->prev ? &l->prev->next : &c->lines) = l->next;
    if (l->next) {
        l->next->prev = l->prev;
    }
    c->n_lines--;
    buf_done(&l->head);
    free(l->v);
    free(l);
}

/* The flight's end is in its err or its answer. keep: the connection may carry another. */
static void line_end(struct line *l, bool keep)
{
    struct courier *c = l->c;
    struct flight *f = l->f;
    l->f = NULL;
    f->on = NULL;
    if (keep) {
        l->used = true;
        loop_mod(c->loop, &l->w, EPOLLIN); /* to see it closed */
    } else {
        line_close(l);
    }
    land(c, f);
    pump(c);
}

static void line_broke(struct line *l, const char *doing, int why)
{
    struct courier *c = l->c;
    struct flight *f = l->f;
    if (l->used && l->sent == 0 && !l->reply.started) { /* it had gone stale: nothing of this one was on it */
        f->on = NULL;
        l->f = NULL;
        line_close(l);
        f->next = c->first;
        c->end = c->first ? c->end : &f->next;
        c->first = f;
        pump(c);
        return;
    }
    err_set(&f->err, ERR_UNAVAILABLE, "the connection to %s broke while %s: %s", c->url, doing, strerror(why));
    line_end(l, false);
}

/* ---- a connection at work ---- */

static bool left(const struct line *l)
{
    return l->at < l->n;
}

static void on_reply(struct line *l)
{
    struct flight *f = l->f;
    if (l->reply.state == REPLY_BAD) {
        err_set(&f->err, l->reply.err.code, "%s: %s", l->c->url, l->reply.err.text);
        line_end(l, false);
    } else if (l->reply.state == REPLY_DONE) {
        line_end(l, l->reply.keep && !left(l));
    }
}

/* False: the line has ended. */
static bool take_in(struct line *l)
{
    struct courier *c = l->c;
    ssize_t n = recv(l->w.fd, c->in, sizeof c->in, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        return true;
    }
    if (n < 0 || (n == 0 && !l->reply.started)) {
        line_broke(l, left(l) ? "sending" : "waiting for the reply", n < 0 ? errno : ECONNRESET);
        return false;
    }
    if (n == 0) {
        reply_eof(&l->reply);
    } else {
        reply_feed(&l->reply, c->in, (size_t)n, NULL);
    }
    bool goes_on = l->reply.state == REPLY_MORE;
    on_reply(l);
    return goes_on;
}

static void send_out(struct line *l)
{
    while (left(l)) {
        struct msghdr m = {.msg_iov = l->v + l->at, .msg_iovlen = (size_t)MIN(l->n - l->at, IOV_STEP)};
        ssize_t n = sendmsg(l->w.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            break;
        }
        if (n < 0) {
            int why = errno;
            if (take_in(l)) { /* an early refusal may lie in the receive buffer */
                line_broke(l, "sending", why);
            }
            return;
        }
        size_t took = (size_t)n;
        l->sent += took;
        while (left(l) && took >= l->v[l->at].iov_len) {
            took -= l->v[l->at].iov_len;
            l->at++;
        }
        if (left(l)) {
            l->v[l->at].iov_base = (char *)l->v[l->at].iov_base + took;
            l->v[l->at].iov_len -= took;
        }
    }
    loop_mod(l->c->loop, &l->w, EPOLLIN | (left(l) ? (uint32_t)EPOLLOUT : 0));
}

static void on_line(struct watch *w, uint32_t events)
{
    struct line *l = CONTAINER_OF(w, struct line, w);
    if (!l->f) { /* closed by the server, or it says what nobody asked for */
        line_close(l);
        return;
    }
    if (l->connecting) {
        if (sock_connected(w->fd, &l->where, &l->f->err) != ERR_OK) {
            line_end(l, false);
            return;
        }
        l->connecting = false;
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !take_in(l)) {
        return;
    }
    if (events & EPOLLOUT) {
        send_out(l);
    }
}

/* ---- a flight begins ---- */

/* A kept connection that the server closed, or that has bytes nobody asked for, is seen before anything is sent on it.
 */
static bool is_stale(const struct line *l)
{
    char byte;
    ssize_t n = recv(l->w.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return !(n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
}

static struct line *line_idle(struct courier *c)
{
    struct line *next;
    for (struct line *l = c->lines; l; l = next) {
        next = l->next;
        if (!l->f && !is_stale(l)) {
            return l;
        }
        if (!l->f) {
            line_close(l);
        }
    }
    return NULL;
}

static enum err_code line_new(struct courier *c, struct line **out, struct err *e)
{
    struct addr a;
    bool pending = false;
    int fd = -1;
    if (addr_parse(&a, str_of(http_client_where(c->as)), true, e) != ERR_OK ||
        sock_connect_begin(&fd, &a, &pending, e) != ERR_OK) {
        return e->code;
    }
    struct line *l = xcalloc(1, sizeof *l);
    l->c = c;
    l->where = a;
    l->connecting = pending;
    l->w.fn = on_line;
    buf_init(&l->head, 1u << 20);
    if (loop_add(c->loop, &l->w, fd, EPOLLIN | EPOLLOUT, e) != ERR_OK) {
        close(fd);
        free(l);
        return e->code;
    }
    l->next = c->lines;
    if (l->next) {
        l->next->prev = l;
    }
    c->lines = l;
    c->n_lines++;
    *out = l;
    return ERR_OK;
}

static void fly(struct courier *c, struct flight *f)
{
    const struct place_call *q = &f->call;
    struct line *l = line_idle(c);
    if (!l && line_new(c, &l, &f->err) != ERR_OK) {
        land(c, f);
        return;
    }
    uint64_t size = 0;
    for (int i = 0; i < q->n_body; i++) {
        size += q->body[i].iov_len;
    }
    l->f = f;
    f->on = l;
    reply_init(&l->reply, &f->answer, false);
    l->sent = 0;
    if (http_head(&l->head, q->method, q->path, http_client_host(c->as), q->headers, size, &f->err) != ERR_OK) {
        line_end(l, false);
        return;
    }
    l->v = xrealloc(l->v, (size_t)(q->n_body + 1) * sizeof *l->v);
    l->v[0] = (struct iovec){l->head.p, l->head.n};
    if (q->n_body > 0) {
        memcpy(l->v + 1, q->body, (size_t)q->n_body * sizeof *l->v);
    }
    l->at = 0;
    l->n = q->n_body + 1;
    if (!l->connecting) {
        send_out(l);
    }
}

static void pump(struct courier *c)
{
    if (c->pumping) { /* what ends in here goes on out there */
        return;
    }
    c->pumping = true;
    while (c->first && !c->held && !c->closing && (c->n_lines < COURIER_CONNECTIONS || line_idle(c))) {
        struct flight *f = c->first;
        c->first = f->next;
        c->end = c->first ? c->end : &c->first;
        fly(c, f);
    }
    c->pumping = false;
}

/* Out of the line of those that wait; false: it is not there. */
static bool withdraw(struct courier *c, const struct flight *f)
{
    for (struct flight **at = &c->first; *at; at = &(*at)->next) {
        if (*at == f) {
            *at = f->next;
            c->end = c->end == &f->next ? at : c->end;
            return true;
        }
    }
    return false;
}

/* Ends it now, wherever it is; its err says why. */
static void bring_down(struct courier *c, struct flight *f)
{
    if (f->on) {
        line_end(f->on, false);
    } else if (withdraw(c, f)) {
        land(c, f);
    }
}

static void on_limit(struct timer *t)
{
    struct flight *f = CONTAINER_OF(t, struct flight, limit);
    struct courier *c = f->home;
    err_set(&f->err, ERR_TIMEOUT, "no answer from %s within %" PRIu64 " ms", c->url, f->call.timeout_us / 1000);
    bring_down(c, f);
}

static void take_off(struct courier *c, struct flight *f, bool past)
{
    f->home = c;
    f->on = NULL;
    f->next = NULL;
    f->limit = (struct timer){.fn = on_limit};
    if (c->closing) {
        err_set(&f->err, ERR_CANCELLED, "the handle is being closed");
        land(c, f);
        return;
    }
    if (f->deadline_us) {
        timer_set(c->loop, &f->limit, f->deadline_us);
    }
    if (past) {
        fly(c, f);
        return;
    }
    *c->end = f;
    c->end = &f->next;
    pump(c);
}

/* ---- orders of other threads ---- */

static void on_start(struct task *t)
{
    struct order *o = CONTAINER_OF(t, struct order, task);
    take_off(o->c, o->f, false);
    free(o);
}

static struct flight *find(const struct courier *c, uint64_t id)
{
    for (struct line *l = c->lines; l; l = l->next) {
        if (l->f && l->f->id == id) {
            return l->f;
        }
    }
    struct flight *f = c->first;
    while (f && f->id != id) {
        f = f->next;
    }
    return f;
}

static void on_cancel(struct task *t)
{
    struct order *o = CONTAINER_OF(t, struct order, task);
    struct flight *f = find(o->c, o->id);
    if (f) {
        err_set(&f->err, ERR_CANCELLED, "the call was cancelled");
        bring_down(o->c, f);
    }
    free(o);
}

static void post(struct courier *c, void (*fn)(struct task *t), struct flight *f, uint64_t id)
{
    struct order *o = xcalloc(1, sizeof *o);
    *o = (struct order){.task.fn = fn, .c = c, .f = f, .id = id};
    loop_post(c->loop, &o->task);
}

void courier_start(struct courier *c, struct flight *f)
{
    post(c, on_start, f, 0);
}

void courier_cancel(struct courier *c, uint64_t id)
{
    post(c, on_cancel, NULL, id);
}

void courier_past(struct courier *c, struct flight *f)
{
    take_off(c, f, true);
}

void courier_hold(struct courier *c, bool hold)
{
    c->held = hold;
    pump(c);
}

struct loop *courier_loop(const struct courier *c)
{
    return c->loop;
}

/* ---- life ---- */

static void *courier_main(void *arg)
{
    struct courier *c = arg;
    prctl(PR_SET_NAME, "weir-calls");
    loop_run(c->loop);
    return NULL;
}

enum err_code courier_new(struct courier **out, const char *url, struct err *e)
{
    struct courier *c = xcalloc(1, sizeof *c);
    sigset_t all, before;
    c->end = &c->first;
    c->url = xstrdup(url);
    enum err_code rc = http_client_new(&c->as, str_of(url), e);
    if (rc == ERR_OK) {
        rc = loop_new(&c->loop, e);
    }
    if (rc == ERR_OK) {
        sigfillset(&all); /* signals are the application's */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        errno = pthread_create(&c->thread, NULL, courier_main, c);
        rc = errno ? err_sys(e, ERR_UNAVAILABLE, "no thread for calls that nobody waits for") : ERR_OK;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (rc != ERR_OK) {
        http_client_free(c->as);
        loop_free(c->loop);
        free(c->url);
        free(c);
        return rc;
    }
    *out = c;
    return ERR_OK;
}

static void on_close(struct task *t)
{
    struct courier *c = CONTAINER_OF(t, struct courier, close);
    c->closing = true;
    while (c->first) {
        struct flight *f = c->first;
        err_set(&f->err, ERR_CANCELLED, "the handle was closed");
        bring_down(c, f);
    }
    while (c->lines) {
        struct line *l = c->lines;
        if (l->f) {
            err_set(&l->f->err, ERR_CANCELLED, "the handle was closed");
            line_end(l, false);
        } else {
            line_close(l);
        }
    }
    loop_stop(c->loop);
}

void courier_free(struct courier *c)
{
    if (!c) {
        return;
    }
    c->close.fn = on_close;
    loop_post(c->loop, &c->close);
    pthread_join(c->thread, NULL);
    loop_free(c->loop); /* runs what was still posted: it meets a closed house */
    http_client_free(c->as);
    free(c->url);
    free(c);
}
