/* SPDX-License-Identifier: Apache-2.0 */
/* One HTTP/1.1 connection to a far side: a request out of the input window, a reply into a buffer.
 *
 * While it sends it listens, so that a far side which refuses early is heard. A connection is kept only when the whole
 * request was sent, the reply allowed it, and nothing came behind it; an idle one on which anything happens is closed.
 *
 * Thread: the port's loop. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/remote/remote_priv.h"
#include "base/clock.h"

#define IOV_STEP 64
#define READS 4                     /* of one event, so that one far side does not hold the loop */
#define HEAD_MAX (1u << 20)         /* a request without its tensors */
#define REPLY_MORE_BYTES (1u << 20) /* a reply without its tensors */
#define KEEP_BYTES (64u << 10)

static void on_event(struct watch *w, uint32_t events);

struct conn *conn_new(struct remote_port *p)
{
    struct conn *c = xcalloc(1, sizeof(*c));

    c->port = p;
    c->watch.fd = -1;
    c->watch.fn = on_event;
    buf_init(&c->head, HEAD_MAX);
    http_answer_init(&c->answer, p->r->out_bytes + REPLY_MORE_BYTES);
    return c;
}

void conn_free(struct conn *c)
{
    if (!c) {
        return;
    }
    conn_close(c);
    buf_done(&c->head);
    http_answer_done(&c->answer);
    free(c->iov);
    free(c);
}

bool port_holds_too_much(const struct remote_port *p)
{
    return p->held > 2 * (p->r->out_bytes + REPLY_MORE_BYTES);
}

/* Gives the reply's bytes back to the port's account, and most of the memory. */
static void forget_reply(struct conn *c)
{
    c->port->held -= c->counted;
    c->counted = 0;
    buf_clear(&c->answer.body);
    buf_trim(&c->answer.body, KEEP_BYTES);
}

static void watch_out(struct conn *c, bool on)
{
    if (c->want_out != on) {
        c->want_out = on;
        loop_mod(c->port->host.loop, &c->watch, on ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

void conn_close(struct conn *c)
{
    int fd = c->watch.fd;

    if (c->state == CONN_CLOSED) {
        return;
    }
    loop_del(c->port->host.loop, &c->watch);
    if (c->state == CONN_BUSY) { /* a reset: who merely sends no more may still want its answer */
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    }
    close(fd);
    c->watch.fd = -1;
    c->state = CONN_CLOSED;
    c->job = NULL;
    c->used = false;
    forget_reply(c);
}

enum err_code conn_open(struct conn *c, struct target_pick target, struct err *e)
{
    struct addr a;
    int fd;

    assert(c->state == CONN_CLOSED);
    if (!targets_addr(&c->port->r->side->targets, target.index, target.gen, &a)) {
        return err_set(e, ERR_UNAVAILABLE, "%s is at another address now", c->port->r->side->place);
    }
    if (sock_begin(&fd, &a, e) != ERR_OK) {
        return e->code;
    }
    if (loop_add(c->port->host.loop, &c->watch, fd, EPOLLIN | EPOLLOUT, e) != ERR_OK) {
        close(fd);
        c->watch.fd = -1;
        return ERR_UNAVAILABLE;
    }
    c->want_out = true;
    c->target = target;
    c->state = CONN_CONNECTING;
    c->used = false;
    return ERR_OK;
}

/* ---- sending ---- */

static void advance(struct conn *c, size_t n)
{
    c->sent += n;
    while (c->at_iov < c->n_iov && n >= c->iov[c->at_iov].iov_len) {
        n -= c->iov[c->at_iov++].iov_len;
    }
    if (c->at_iov < c->n_iov) {
        c->iov[c->at_iov].iov_base = (char *)c->iov[c->at_iov].iov_base + n;
        c->iov[c->at_iov].iov_len -= n;
    }
}

/* 0, or the errno that ended it. */
static int send_some(struct conn *c)
{
    while (c->at_iov < c->n_iov) {
        struct msghdr m = {.msg_iov = c->iov + c->at_iov, .msg_iovlen = MIN(c->n_iov - c->at_iov, (size_t)IOV_STEP)};
        ssize_t n = sendmsg(c->watch.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            if (errno == EAGAIN) {
                watch_out(c, true);
                return 0;
            }
            return errno;
        }
        advance(c, (size_t)n);
    }
    watch_out(c, false);
    return 0;
}

bool conn_give(struct conn *c, struct remote_job *j, uint64_t now_us)
{
    struct remote *r = c->port->r;
    const uint8_t *base = window_base(r->in);
    const struct job_block *b = (const void *)(base + j->block);
    uint64_t left = j->deadline_us == UINT64_MAX ? 0 : MAX(j->deadline_us - MIN(now_us, j->deadline_us), 1u);

    assert(c->state == CONN_CONNECTING || c->state == CONN_IDLE);
    if (c->cap_iov < b->n_in + 1u) {
        c->cap_iov = b->n_in + 1u;
        c->iov = xrealloc(c->iov, c->cap_iov * sizeof(c->iov[0]));
    }
    c->n_iov = far_request(&c->head, c->iov, &r->far, &r->info, b, base, j->origin, left);
    if (c->n_iov == 0) {
        return false;
    }
    c->at_iov = 0;
    c->sent = 0;
    c->job = j;
    c->since_us = now_us;
    reply_init(&c->reply, &c->answer, false);
    if (c->state == CONN_IDLE) {
        c->state = CONN_BUSY;
        if (send_some(c) != 0) { /* its end will be read, and whatever was said before it */
            watch_out(c, false);
        }
    }
    return true;
}

/* ---- hearing ---- */

static void broke(struct conn *c, enum target_end end, const struct err *why)
{
    if (c->state == CONN_IDLE) {
        conn_close(c);
    } else {
        port_broken(c, end, why);
    }
}

static void connected(struct conn *c)
{
    struct err e;
    int why = 0;
    socklen_t n = sizeof(why);

    getsockopt(c->watch.fd, SOL_SOCKET, SO_ERROR, &why, &n);
    if (why != 0) {
        errno = why;
        err_sys(&e, ERR_UNAVAILABLE, "%s can not be reached", c->port->r->side->place);
        broke(c, TARGET_REFUSED, &e);
        return;
    }
    c->state = CONN_BUSY;
    if (send_some(c) != 0) {
        watch_out(c, false);
    }
}

static void whole(struct conn *c)
{
    if (c->reply.keep && c->at_iov == c->n_iov) {
        c->used = true;
        c->state = CONN_IDLE;
        watch_out(c, false);
    }
    port_replied(c);
    if (c->state == CONN_IDLE) {
        forget_reply(c);
    }
}

/* Takes what came. True: something has become of the reply. */
static bool hear(struct conn *c)
{
    struct remote_port *p = c->port;
    ssize_t n = recv(c->watch.fd, p->in, sizeof(p->in), MSG_DONTWAIT);
    enum reply_state s;
    struct err e;

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n < 0) {
        err_sys(&e, ERR_UNAVAILABLE, "the connection to %s broke", p->r->side->place);
        broke(c, TARGET_BROKE, &e);
        return true;
    }
    s = n == 0 ? reply_eof(&c->reply) : reply_feed(&c->reply, p->in, (size_t)n, NULL);
    p->held += c->answer.body.n - c->counted;
    c->counted = c->answer.body.n;
    if (s == REPLY_MORE && port_holds_too_much(p)) {
        err_set(&c->reply.err, ERR_MODEL, "the replies of %s are larger than output_bytes allows", p->r->side->place);
        s = REPLY_BAD;
    }
    if (s == REPLY_DONE) {
        whole(c);
    } else if (s == REPLY_BAD) {
        err_set(&e, c->reply.err.code == ERR_UNAVAILABLE ? ERR_UNAVAILABLE : ERR_MODEL, "%s: %s", p->r->side->place,
                c->reply.err.text);
        broke(c, TARGET_BROKE, &e);
    }
    return s != REPLY_MORE;
}

static void on_event(struct watch *w, uint32_t events)
{
    struct conn *c = CONTAINER_OF(w, struct conn, watch);

    if (c->state == CONN_IDLE) { /* closed there, or bytes that nobody asked for */
        conn_close(c);
        return;
    }
    if (c->state == CONN_CONNECTING) {
        connected(c);
        return;
    }
    if ((events & EPOLLOUT) && c->want_out && send_some(c) != 0) {
        watch_out(c, false);
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        for (unsigned i = 0; i < READS && !hear(c); i++) {
        }
    }
}
