/* SPDX-License-Identifier: Apache-2.0 */
/* A listener: accepts connections, keeps their memory for the next ones, and once a second looks for those that have
 * been waiting too long.
 *
 * Deadlines are plain numbers in the connections, compared by one sweep, so that no request sets a timer; a limit is
 * therefore kept to the second. Over the limit of connections the listening socket is not watched, and clients wait in
 * its backlog; without descriptors a reserve one is given up to accept and close at once, which a client understands
 * better than silence, and which ends the readiness that would otherwise spin.
 *
 * Thread: the loop's; the counter of connections is shared by all loops (each may pass the limit by one in a race). */
#define _GNU_SOURCE
#include "net/http1_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* ---- connections ---- */

static void conn_free(struct h1 *c)
{
    if (c == NULL) {
        return;
    }
    arena_done(&c->arena);
    buf_done(&c->head);
    buf_done(&c->body);
    free(c->direct);
    free(c->hdr);
    free(c->in);
    free(c);
}

static struct h1 *conn_new(struct http_listener *h)
{
    struct h1 *c = h->pool;
    if (c != NULL) {
        h->pool = c->next;
        h->n_pool--;
        return c;
    }
    c = calloc(1, sizeof *c);
    if (c == NULL) {
        return NULL;
    }
    c->in = malloc(H1_IN);
    c->in_cap = H1_IN;
    c->hdr = calloc(h->limits.header_count + 1, sizeof *c->hdr);
    if (c->in == NULL || c->hdr == NULL) {
        conn_free(c);
        return NULL;
    }
    arena_init(&c->arena, H1_ARENA);
    buf_init(&c->head, H1_REPLY_MAX);
    buf_init(&c->body, H1_REPLY_MAX);
    c->x.loop = h->loop;
    c->x.ops = &h1_ops;
    c->x.arena = &c->arena;
    c->h = h;
    return c;
}

/* Keeps the memory of a closed connection, and nothing else of it. */
static void conn_keep(struct h1 *c)
{
    struct http_listener *h = c->h;
    if (h->n_pool >= H1_POOL || c->in_cap != H1_IN) {
        conn_free(c);
        return;
    }
    arena_reset(&c->arena);
    buf_clear(&c->head);
    buf_clear(&c->body);
    buf_trim(&c->head, H1_KEEP_OUT);
    buf_trim(&c->body, H1_KEEP_OUT);
    struct h1 bare = {.x = {.arena = &c->arena, .loop = h->loop, .ops = &h1_ops},
                      .arena = c->arena,
                      .h = h,
                      .in = c->in,
                      .in_cap = c->in_cap,
                      .hdr = c->hdr,
                      .head = c->head,
                      .body = c->body,
                      .direct = c->direct,
                      .direct_cap = c->direct_cap};
    *c = bare;
    c->next = h->pool;
    h->pool = c;
    h->n_pool++;
}

bool http_conn_open(struct http_listener *h, int fd)
{
    struct err e;
    struct h1 *c = conn_new(h);
    if (c == NULL) {
        log_warn("net", "no memory for a connection, it is refused");
        close(fd);
        return false;
    }
    c->w.fn = h1_event;
    if (loop_add(h->loop, &c->w, fd, EPOLLIN, &e) != ERR_OK) {
        log_warn("net", "a connection is refused: %s", e.text);
        conn_free(c);
        close(fd);
        return false;
    }
    c->stamp = loop_now(h->loop);
    c->due = c->stamp + h->limits.header_us;
    c->phase = H1_IDLE;
    c->x.method = HTTP_OTHER;
    c->prev = NULL;
    c->next = h->first;
    if (h->first != NULL) {
        h->first->prev = c;
    }
    h->first = c;
    h->n++;
    atomic_fetch_add_explicit(h->connections, 1, memory_order_relaxed);
    if (h->sweep.slot == 0) {
        timer_set(h->loop, &h->sweep, loop_now(h->loop) + H1_SWEEP_US);
    }
    return true;
}

static bool unqueue(struct h1 **list, struct h1 ***end, const struct h1 *c)
{
    for (struct h1 **at = list; *at != NULL; at = &(*at)->next_ready) {
        if (*at == c) {
            *at = c->next_ready;
            if (*end == &c->next_ready) {
                *end = at;
            }
            return true;
        }
    }
    return false;
}

static void accept_resume(struct http_listener *h);

void http_conn_close(struct h1 *c)
{
    struct http_listener *h = c->h;
    int fd = c->w.fd;
    assert(!c->live);
    loop_del(h->loop, &c->w);
    close(fd);
    if (c->queued && !unqueue(&h->ready, &h->ready_end, c)) {
        unqueue(&h->again, &h->again_end, c);
    }
    *(c->prev != NULL ? &c->prev->next : &h->first) = c->next;
    if (c->next != NULL) {
        c->next->prev = c->prev;
    }
    h->n--;
    atomic_fetch_sub_explicit(h->connections, 1, memory_order_relaxed);
    conn_keep(c);
    if (h->waiting) {
        accept_resume(h);
    }
    if (h->draining && h->n == 0) {
        loop_defer(h->loop, &h->run);
    }
}

/* ---- what is to be driven later ---- */

void h1_queue(struct h1 *c)
{
    if (c->driving || c->queued) {
        return;
    }
    struct http_listener *h = c->h;
    c->queued = true;
    c->next_ready = NULL;
    *h->ready_end = c;
    h->ready_end = &c->next_ready;
    loop_defer(h->loop, &h->run);
}

void h1_requeue(struct h1 *c)
{
    if (c->queued) {
        return;
    }
    struct http_listener *h = c->h;
    c->queued = true;
    c->next_ready = NULL;
    *h->again_end = c;
    h->again_end = &c->next_ready;
    timer_set(h->loop, &h->next_burst, loop_now(h->loop) + 1); /* due, but not in this burst any more */
}

static struct h1 *pop(struct h1 **list, struct h1 ***end)
{
    struct h1 *c = *list;
    if (c != NULL) {
        *list = c->next_ready;
        if (*list == NULL) {
            *end = list;
        }
        c->queued = false;
    }
    return c;
}

static void on_run(struct hook *k)
{
    struct http_listener *h = CONTAINER_OF(k, struct http_listener, run);
    struct h1 *c;
    while ((c = pop(&h->ready, &h->ready_end)) != NULL) {
        h1_drive(c);
    }
    if (h->draining && h->n == 0 && h->drained != NULL) {
        void (*drained)(void *) = h->drained;
        h->drained = NULL;
        drained(h->drained_ctx); /* may free h */
    }
}

static void on_next_burst(struct timer *t)
{
    struct http_listener *h = CONTAINER_OF(t, struct http_listener, next_burst);
    struct h1 *c;
    while ((c = pop(&h->again, &h->again_end)) != NULL) {
        h1_queue(c); /* by way of the other list: those that come back here wait for another burst */
    }
}

/* ---- accepting ---- */

static void accept_pause(struct http_listener *h)
{
    h->waiting = true;
    loop_del(h->loop, &h->w);
    if (h->sweep.slot == 0) {
        timer_set(h->loop, &h->sweep, loop_now(h->loop) + H1_SWEEP_US);
    }
}

static bool accept_full(const struct http_listener *h)
{
    return atomic_load_explicit(h->connections, memory_order_relaxed) >= h->limits.connections;
}

static void accept_resume(struct http_listener *h)
{
    if (h->draining || accept_full(h)) {
        return;
    }
    /* Deleted and added, not modified: the kernel allows no change of an exclusive watch. If it fails, the sweep tries
     * again. */
    h->waiting = loop_add(h->loop, &h->w, h->fd, EPOLLIN | EPOLLEXCLUSIVE, NULL) != ERR_OK;
}

/* Out of descriptors: takes one connection and closes it. True if there may be more; if even that was not possible, the
 * listener waits for the sweep. */
static bool shed(struct http_listener *h)
{
    uint64_t now = loop_now(h->loop);
    if (h->shed_logged == 0 || now - h->shed_logged > SECONDS(1)) {
        h->shed_logged = now;
        log_warn("net", "out of file descriptors: connections are closed at once");
    }
    if (h->reserve < 0) {
        accept_pause(h);
        return false;
    }
    close(h->reserve);
    int fd = accept4(h->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    bool none = fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK); /* the kernel looks for a descriptor first */
    if (fd >= 0) {
        close(fd);
    } else if (!none) {
        accept_pause(h);
    }
    h->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0;
}

static void accept_burst(struct http_listener *h)
{
    for (int i = 0; i < H1_BURST_ACCEPT; i++) {
        if (accept_full(h)) {
            accept_pause(h);
            return;
        }
        int fd = accept4(h->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            http_conn_open(h, fd);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (errno == EMFILE || errno == ENFILE) {
            if (!shed(h)) {
                return;
            }
        } else if (errno == ENOMEM || errno == ENOBUFS || errno == EBADF || errno == EINVAL || errno == ENOTSOCK) {
            accept_pause(h);
            return;
        } /* else that connection broke before it was taken */
    }
}

static void on_accept(struct watch *w, uint32_t events)
{
    (void)events;
    accept_burst(CONTAINER_OF(w, struct http_listener, w));
}

/* ---- the sweep ---- */

void http_sweep(struct http_listener *h, uint64_t now)
{
    struct h1 *next;
    for (struct h1 *c = h->first; c != NULL; c = next) {
        next = c->next; /* only c itself can be closed by this */
        h1_check(c, now);
    }
    if (h->reserve < 0) {
        h->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    if (h->waiting) {
        accept_resume(h);
    }
}

static void on_sweep(struct timer *t)
{
    struct http_listener *h = CONTAINER_OF(t, struct http_listener, sweep);
    http_sweep(h, loop_now(h->loop));
    if (h->n > 0 || h->waiting) {
        timer_set(h->loop, t, loop_now(h->loop) + H1_SWEEP_US);
    }
}

/* ---- life ---- */

enum err_code http_listen(struct http_listener **out, struct loop *l, int fd, const struct http_service *service,
                          const struct http_limits *limits, _Atomic uint32_t *connections, struct err *e)
{
    int family = 0;
    socklen_t len = sizeof family;
    struct http_listener *h = xcalloc(1, sizeof *h);
    h->loop = l;
    h->fd = fd;
    h->reserve = -1;
    h->service = *service;
    h->limits = *limits;
    h->connections = connections;
    h->scratch = xmalloc(H1_SCRATCH);
    h->ready_end = &h->ready;
    h->again_end = &h->again;
    h->run.fn = on_run;
    h->next_burst.fn = on_next_burst;
    h->sweep.fn = on_sweep;
    h->w.fn = on_accept;
    buf_init(&h->trash, H1_REPLY_MAX);
    h1_parsers_init(h);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len) != 0) {
        err_sys(e, ERR_INTERNAL, "descriptor %d is not a listening socket", fd);
        goto fail;
    }
    h->tcp = family == AF_INET || family == AF_INET6;
    if (h->tcp) {
        const int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted sockets inherit it */
    }
    if (loop_add(l, &h->w, fd, EPOLLIN | EPOLLEXCLUSIVE, e) != ERR_OK) {
        goto fail;
    }
    h->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    *out = h;
    return ERR_OK;
fail:
    h->fd = -1; /* the caller keeps it */
    http_listener_free(h);
    return ERR_INTERNAL;
}

void http_drain(struct http_listener *h, void (*drained)(void *ctx), void *ctx)
{
    if (!h->draining) {
        if (h->w.events != 0) {
            accept_burst(h); /* who has connected already is served */
        }
        h->draining = true;
        loop_del(h->loop, &h->w);
        close(h->fd);
        h->fd = -1;
        struct h1 *next;
        for (struct h1 *c = h->first; c != NULL; c = next) {
            next = c->next;
            h1_drain(c);
        }
    }
    h->drained = drained;
    h->drained_ctx = ctx;
    if (h->n == 0) {
        loop_defer(h->loop, &h->run);
    }
}

void http_listener_free(struct http_listener *h)
{
    if (h == NULL) {
        return;
    }
    h->draining = true; /* nothing is accepted in place of what is closed now */
    h->drained = NULL;
    while (h->first != NULL) {
        struct h1 *c = h->first;
        c->dead = true;
        h1_finish(c);
        http_conn_close(c);
    }
    while (h->pool != NULL) {
        struct h1 *c = h->pool;
        h->pool = c->next;
        conn_free(c);
    }
    loop_del(h->loop, &h->w);
    loop_undefer(h->loop, &h->run);
    timer_clear(h->loop, &h->sweep);
    timer_clear(h->loop, &h->next_burst);
    if (h->fd >= 0) {
        close(h->fd);
    }
    if (h->reserve >= 0) {
        close(h->reserve);
    }
    buf_done(&h->trash);
    free(h->scratch);
    free(h);
}

uint32_t http_connections(const struct http_listener *h)
{
    return h->n;
}
