/* SPDX-License-Identifier: Apache-2.0 */
/* The test bench of http_rig.h: its service writes everything it was told about a request into its reply, so that two
 * ways of sending the same request can be compared by comparing what comes back.
 *
 * Thread: one. */
#define _GNU_SOURCE
#include "http_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MUST(cond)                                                                                  \
    do {                                                                                            \
        if (!(cond)) {                                                                              \
            fprintf(stderr, "%s:%d: %s failed (%s)\n", __FILE__, __LINE__, #cond, strerror(errno)); \
            abort();                                                                                \
        }                                                                                           \
    } while (0)

static void reply(struct rig *r, struct http_ex *x)
{
    http_reply_begin(x, 200, "text/plain");
    struct buf *b = http_reply_body(x);
    if (r->reply_size > 0) {
        char *p = buf_room(b, r->reply_size);
        MUST(p != NULL);
        for (size_t i = 0; i < r->reply_size; i++) {
            p[i] = (char)('a' + i % 23);
        }
        b->n += r->reply_size;
    } else {
        buf_add(b, r->summary.p, r->summary.n);
        buf_addf(b, "body=%llu\n", (unsigned long long)x->body_seen);
    }
    http_reply_end(x);
}

static void on_headers(void *ctx, struct http_ex *x)
{
    struct rig *r = ctx;
    r->headers++;
    r->x = x;
    MUST(x->user == NULL && !x->gone && !x->replied && x->body_seen == 0);
    x->user = r;
    buf_clear(&r->summary);
    buf_addf(&r->summary, "method=%d\npath=" STR_FMT "\nquery=" STR_FMT "\nlength=%lld\n", (int)x->method,
             STR_ARG(x->path), STR_ARG(x->query), (long long)x->length);
    for (size_t i = 0; i < x->n_headers; i++) {
        buf_addf(&r->summary, STR_FMT "=[" STR_FMT "]\n", STR_ARG(x->headers[i].name), STR_ARG(x->headers[i].value));
    }
    if (r->until > 0 && x->length != 0) {
        http_body_until(x, r->until);
    } else if (r->n_direct > 0 && x->length != 0) {
        http_body_direct(x, r->direct, r->n_direct);
    }
    if (r->on_headers != NULL) {
        r->on_headers(r, x);
    }
    if (r->when == RIG_AT_HEADERS) {
        reply(r, x);
    }
}

static void on_body(void *ctx, struct http_ex *x, const char *p, size_t n)
{
    struct rig *r = ctx;
    MUST(x == r->x && n > 0);
    r->bodies++;
    buf_add(&r->body, p, n);
    if (r->until > 0 && x->body_seen == r->until && r->n_direct > 0) {
        http_body_direct(x, r->direct, r->n_direct);
    }
    MUST(r->until == 0 || x->body_seen <= r->until || x->body_seen - n >= r->until); /* no piece crosses the border */
    if (r->pause) {
        http_body_pause(x);
    }
    if (r->when == RIG_AT_BODY) {
        reply(r, x);
    }
}

static void on_complete(void *ctx, struct http_ex *x)
{
    struct rig *r = ctx;
    MUST(x == r->x);
    r->completes++;
    if (r->when == RIG_AT_COMPLETE) {
        reply(r, x);
    }
}

static void on_finished(void *ctx, struct http_ex *x)
{
    struct rig *r = ctx;
    MUST(x == r->x && x->user == r);
    r->finishes++;
    r->gones += x->gone;
    r->x = NULL;
}

void rig_init(struct rig *r)
{
    struct err e;
    memset(r, 0, sizeof *r);
    http_limits_default(&r->limits);
    r->fd = -1;
    buf_init(&r->got, 1u << 30);
    buf_init(&r->body, 1u << 30);
    buf_init(&r->summary, 1u << 20);
    MUST(loop_new(&r->loop, &e) == ERR_OK);
}

void rig_open(struct rig *r)
{
    struct http_service service = {r, on_headers, on_body, on_complete, on_finished};
    struct err e;
    int fd;
    if (r->tcp) {
        struct addr a;
        r->addr = xcalloc(1, sizeof *r->addr);
        MUST(addr_parse(&a, STR("127.0.0.1:0"), false, &e) == ERR_OK);
        MUST(sock_listen(&fd, &a, false, 128, &e) == ERR_OK);
        MUST(sock_local(r->addr, fd, &e) == ERR_OK);
    } else {
        struct sockaddr_un un = {.sun_family = AF_UNIX}; /* without a path: the kernel picks an abstract name */
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        MUST(fd >= 0 && bind(fd, (struct sockaddr *)&un, sizeof(sa_family_t)) == 0 && listen(fd, 16) == 0);
    }
    MUST(http_listen(&r->h, r->loop, fd, &service, &r->limits, &r->connections, &e) == ERR_OK);
}

void rig_connect(struct rig *r)
{
    if (r->fd >= 0) {
        close(r->fd);
        rig_spin(r);
    }
    buf_clear(&r->got);
    r->eof = r->reset = false;
    if (r->tcp) {
        struct err e;
        MUST(sock_connect(&r->fd, r->addr, SECONDS(5), &e) == ERR_OK);
        MUST(fcntl(r->fd, F_SETFL, O_NONBLOCK) == 0);
        rig_spin(r);
    } else {
        int pair[2];
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
        r->fd = pair[0];
        MUST(http_conn_open(r->h, pair[1]));
    }
}

void rig_spin(struct rig *r)
{
    /* Loopback delivers within the send call, but not always before the next instruction of the other side: one look
     * more. */
    for (int idle = 0; idle < 2;) {
        idle = loop_once(r->loop, 0) ? 0 : idle + 1;
    }
}

void rig_send(struct rig *r, const void *p, size_t n)
{
    const char *at = p;
    for (int stuck = 0; n > 0 && stuck < 3;) {
        ssize_t sent = send(r->fd, at, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            break; /* the server closed on us: what it said is still to be read */
        }
        stuck = sent > 0 ? 0 : stuck + 1;
        at += sent > 0 ? sent : 0;
        n -= sent > 0 ? (size_t)sent : 0;
        rig_spin(r);
    }
    rig_spin(r);
}

void rig_sendz(struct rig *r, const char *z)
{
    rig_send(r, z, strlen(z));
}

void rig_read(struct rig *r)
{
    for (;;) {
        char *room = buf_room(&r->got, 65536);
        MUST(room != NULL);
        ssize_t n = recv(r->fd, room, 65536, 0);
        if (n > 0) {
            r->got.n += (size_t)n;
            rig_spin(r);
            continue;
        }
        r->eof |= n == 0;
        r->reset |= n < 0 && errno == ECONNRESET;
        return;
    }
}

void rig_done(struct rig *r)
{
    if (r->fd >= 0) {
        close(r->fd);
        r->fd = -1;
        rig_spin(r);
    }
    http_listener_free(r->h);
    MUST(r->headers == r->finishes);
    MUST(atomic_load(&r->connections) == 0);
    loop_free(r->loop);
    buf_done(&r->got);
    buf_done(&r->body);
    buf_done(&r->summary);
    free(r->addr);
}

int rig_status(struct rig *r)
{
    int status = 0;
    rig_read(r);
    const char *z = buf_z(&r->got);
    for (const char *at = z; (at = strstr(at, "HTTP/1.1 ")) != NULL; at += 9) {
        status = (int)strtol(at + 9, NULL, 10);
    }
    return status;
}

bool rig_got(struct rig *r, const char *z)
{
    rig_read(r);
    return memmem(r->got.p ? r->got.p : "", r->got.n, z, strlen(z)) != NULL;
}

unsigned rig_answers(struct rig *r)
{
    unsigned n = 0;
    rig_read(r);
    for (const char *at = buf_z(&r->got); (at = strstr(at, "HTTP/1.1 ")) != NULL; at += 9) {
        n++;
    }
    return n;
}
