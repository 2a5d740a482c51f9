/* SPDX-License-Identifier: Apache-2.0 */
/* An HTTP/1 connection: one state machine that everything which happens to it goes through.
 *
 * h1_drive takes steps until nothing can be done without the kernel, the handler or the clock; then h1_settle tells the
 * loop what to watch and the sweep when to give up. EPOLLIN stays armed while a handler works, because the next request
 * usually comes after the reply; it is taken out only when input does come early, so in the usual case there is no
 * epoll_ctl at all.
 *
 * FIN from the client means "I send no more": it may still read, and gets its answer. Only HUP, an error or a failed
 * send means that it is gone.
 *
 * Thread: the loop's. */
#define _GNU_SOURCE
#include "net/http1_priv.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"

enum next { GO, WAIT, AGAIN, END };

/* ---- input ---- */

static bool wants_input(const struct h1 *c)
{
    if (c->dead || c->eof || (c->refused && c->phase != H1_LINGER)) {
        return false;
    }
    return c->phase == H1_BODY ? !c->paused || h1_discarding(c) : c->phase != H1_DONE;
}

size_t h1_recv(struct h1 *c, const struct iovec *iov, size_t n, bool discard)
{
    struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n};
    /* TCP throws away with MSG_TRUNC without copying; unix sockets know no such thing. */
    int flags = discard && c->h->tcp ? MSG_TRUNC : 0;
    size_t asked = 0;
    ssize_t got;
    do {
        got = n == 1 ? recv(c->w.fd, iov->iov_base, iov->iov_len, flags) : recvmsg(c->w.fd, &m, flags);
    } while (got < 0 && errno == EINTR);
    for (size_t i = 0; i < n; i++) {
        asked += iov[i].iov_len;
    }
    if (got == 0) {
        c->eof = true;
    } else if (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
        c->dead = true;
        c->x.gone = true;
    } else if (got > 0) {
        c->stamp = loop_now(c->h->loop);
    }
    if (got <= 0 || (size_t)got < asked) {
        c->readable = false; /* if there is more by now, level-triggered epoll says so */
        return got > 0 ? (size_t)got : 0;
    }
    return (size_t)got;
}

/* Room for more of a head. */
static bool head_room(struct h1 *c)
{
    if (c->in_n < c->in_cap) {
        return true;
    }
    if (c->head_at > 0 && c->in_n - c->head_at < c->in_cap / 2) {
        return h1_in_move(c, c->head_at, c->in_cap);
    }
    return h1_in_move(c, c->head_at, 2 * c->in_cap); /* at most twice the limit of a head: h1_head refuses more */
}

/* ---- steps ---- */

void h1_finish(struct h1 *c)
{
    if (c->live) {
        c->live = false;
        c->x.gone |= c->dead;
        c->h->service.finished(c->h->service.ctx, &c->x);
    }
}

static enum next linger(struct h1 *c)
{
    if (c->eof) {
        return END;
    }
    /* Closing with unread input would reset the connection and could destroy the reply on its way. */
    shutdown(c->w.fd, SHUT_WR);
    c->phase = H1_LINGER;
    c->in_at = c->in_n = 0;
    c->stamp = loop_now(c->h->loop);
    c->linger_end = c->stamp + c->h->limits.body_us;
    c->discarded = 0;
    c->readable = true;
    return GO;
}

static enum next step_linger(struct h1 *c, uint64_t *budget)
{
    if (c->eof || c->discarded > c->h->limits.discard) {
        return END;
    }
    if (!c->readable || *budget == 0) {
        return WAIT;
    }
    struct iovec scratch = {c->h->scratch, H1_SCRATCH};
    size_t got = h1_recv(c, &scratch, 1, true);
    c->discarded += got;
    *budget -= MIN(*budget, (uint64_t)got);
    return GO;
}

static enum next start(struct h1 *c)
{
    struct http_service *s = &c->h->service;
    c->expects &= c->x.length != 0;
    c->phase = c->x.length == 0 ? H1_DONE : H1_BODY;
    c->live = true;
    s->headers(s->ctx, &c->x);
    if (c->phase == H1_BODY) {
        h1_continue(c);
    }
    return GO;
}

static enum next step_head(struct h1 *c)
{
    if (c->parsed < c->in_n) {
        if (c->phase == H1_IDLE) {
            c->phase = H1_HEAD;
            c->x.t_start = loop_now(c->h->loop);
        }
        int rc = h1_head(c);
        if (rc != 0) {
            return rc > 0 ? start(c) : GO;
        }
    }
    bool nothing = c->head_at == c->in_n; /* of a request */
    if (c->eof) {
        if (nothing) {
            return END;
        }
        h1_refuse(c, 400, "the connection ended within the head of the request");
        return GO;
    }
    if (!c->readable) {
        return nothing && c->h->draining && c->n_requests > 0 ? END : WAIT;
    }
    if (nothing) {
        c->head_at = c->in_at = c->in_n = c->parsed = 0;
    }
    if (!head_room(c)) {
        h1_refuse(c, 503, "no memory for the request");
        return GO;
    }
    struct iovec room = {c->in + c->in_n, c->in_cap - c->in_n};
    c->in_n += h1_recv(c, &room, 1, false);
    return GO;
}

static enum next step_body(struct h1 *c, uint64_t *budget)
{
    if (h1_body(c, budget)) {
        c->close |= c->discarded > c->h->limits.discard;
        return GO;
    }
    bool held_up = c->paused && !h1_discarding(c);
    if (c->eof && !held_up && c->phase == H1_BODY && !c->refused && !c->dead) {
        h1_refuse(c, 400, "the connection ended after %llu bytes of the body", (unsigned long long)c->x.body_seen);
        return GO;
    }
    return c->dead || c->refused ? GO : WAIT;
}

/* The exchange is over: makes the connection ready for the next one. */
static void next_request(struct h1 *c)
{
    size_t left = c->in_n - c->in_at;
    if (c->in_cap > H1_IN && left <= H1_IN) {
        c->n_hdr = 0;
        h1_in_move(c, c->in_at, H1_IN); /* without memory the big one serves on */
    } else if (c->in_at > 0) {
        memmove(c->in, c->in + c->in_at, left);
    }
    c->in_at = c->head_at = c->parsed = c->head_end = 0;
    c->in_n = left;
    c->line_done = c->in_header = c->expects = c->paused = c->completed = c->trickles = false;
    c->empty_lines = c->chunks = c->extensions = c->trailers = 0;
    c->n_hdr = c->x.n_headers = 0;
    c->bad_status = 0;
    c->until = c->discarded = c->raw = 0;
    c->direct_at = c->direct_n = 0;
    c->held = STR("");
    c->x.method = HTTP_OTHER;
    c->x.length = 0;
    c->x.body_seen = 0;
    c->x.gone = c->x.replied = false;
    c->x.user = NULL;
    arena_reset(&c->arena);
    c->phase = H1_IDLE;
    c->reply = H1_NONE;
    c->stream = (struct http_stream){0};
    c->refused_piece = false;
    c->stamp = loop_now(c->h->loop);
}

static enum next step(struct h1 *c, uint64_t *budget, unsigned *requests)
{
    if (c->dead) {
        h1_finish(c);
        return END;
    }
    if (c->live && (c->reply == H1_SENT || c->refused)) {
        h1_finish(c);
        return GO;
    }
    if (c->phase == H1_LINGER) {
        return step_linger(c, budget);
    }
    if (c->reply == H1_SENT && c->close) {
        return linger(c);
    }
    if (c->refused) {
        return WAIT; /* for the client to take the answer */
    }
    if (h1_stream_due(c)) {
        return h1_stream_step(c, budget) ? GO : AGAIN;
    }
    if (c->phase == H1_BODY) {
        return step_body(c, budget);
    }
    if (c->phase != H1_DONE) {
        return step_head(c);
    }
    if (!c->completed) {
        c->completed = true;
        if (!h1_discarding(c)) {
            c->h->service.complete(c->h->service.ctx, &c->x);
        }
        return GO;
    }
    if (c->reply != H1_SENT) {
        return WAIT;
    }
    next_request(c);
    if (--*requests == 0) {
        return c->in_n > 0 || c->eof ? AGAIN : WAIT;
    }
    return GO;
}

/* ---- between steps ---- */

static uint64_t due_at(const struct h1 *c)
{
    const struct http_limits *l = &c->h->limits;
    if (h1_out_pending(c)) {
        return c->stamp + l->write_us;
    }
    switch (c->phase) {
    case H1_IDLE:
        return c->stamp + (c->h->draining ? H1_SWEEP_US : c->n_requests > 0 ? l->idle_us : l->header_us);
    case H1_HEAD:
        return c->x.t_start + l->header_us;
    case H1_BODY:
        return c->paused && !h1_discarding(c) ? 0 : c->stamp + l->body_us;
    case H1_LINGER:
        return MIN(c->stamp + H1_LINGER_US, c->linger_end);
    case H1_DONE:
        break;
    }
    return 0; /* the handler's time is the handler's affair */
}

/* Of a large body, also of one that is thrown away, the kernel tells a good piece at a time, not each packet: a wake-up
 * less for most of them. */
static int piece_of(const struct h1 *c)
{
    uint64_t left;
    if (c->phase != H1_BODY || h1_chunked(c) || c->trickles || !c->h->tcp) {
        return 1;
    }
    left = (uint64_t)c->x.length - c->x.body_seen;
    return left >= H1_PIECE / 4 ? (int)MIN(left, (uint64_t)H1_PIECE) : 1;
}

static void want_piece(struct h1 *c)
{
    int n = piece_of(c);
    if (n != MAX(c->piece, 1) && setsockopt(c->w.fd, SOL_SOCKET, SO_RCVLOWAT, &n, sizeof n) == 0) {
        c->piece = n;
    }
}

static void settle(struct h1 *c)
{
    want_piece(c);
    uint32_t in = wants_input(c) ? (uint32_t)EPOLLIN : c->w.events & EPOLLIN;
    uint32_t out = h1_out_pending(c) ? (uint32_t)EPOLLOUT : 0;
    loop_mod(c->h->loop, &c->w, in | out);
    c->due = due_at(c);
}

void h1_drive(struct h1 *c)
{
    uint64_t budget = H1_BURST_BYTES;
    unsigned requests = H1_BURST_REQUESTS;
    enum next r;
    c->driving = true;
    do {
        r = step(c, &budget, &requests);
    } while (r == GO);
    c->driving = false;
    if (r == END) {
        http_conn_close(c);
        return;
    }
    if (r == AGAIN) {
        h1_requeue(c);
    }
    settle(c);
}

void h1_event(struct watch *w, uint32_t events)
{
    struct h1 *c = CONTAINER_OF(w, struct h1, w);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        c->readable = true;
    }
    if (!wants_input(c)) {
        if (events & (EPOLLHUP | EPOLLERR)) {
            c->dead = true;
        } else if (events & EPOLLIN) { /* pipelined, paused, or half closed: it waits in the kernel */
            loop_mod(c->h->loop, w, w->events & EPOLLOUT);
        }
    }
    if (events & EPOLLOUT) {
        h1_send(c);
    }
    h1_drive(c);
}

void h1_check(struct h1 *c, uint64_t now)
{
    if (c->due == 0 || now < c->due) {
        return;
    }
    if (c->piece > 1) { /* something may have come all the same */
        c->trickles = true;
        c->readable = true;
        h1_drive(c);
        return;
    }
    bool answerable = !h1_out_pending(c) && c->reply < H1_STREAM;
    if (answerable && c->phase == H1_HEAD) {
        h1_refuse(c, 408, "the head of the request did not come within %llu ms",
                  (unsigned long long)(c->h->limits.header_us / 1000));
    } else if (answerable && c->phase == H1_BODY) {
        h1_refuse(c, 408, "no byte of the body came within %llu ms", (unsigned long long)(c->h->limits.body_us / 1000));
    } else {
        c->dead = true;
    }
    h1_drive(c);
}

void h1_drain(struct h1 *c)
{
    if (c->reply == H1_STREAM && c->stream.endless) {
        http_stream_end(&c->x);
    } else if (c->phase == H1_IDLE) {
        c->readable = true; /* what is in the kernel already is still answered */
        h1_drive(c);
    }
}
