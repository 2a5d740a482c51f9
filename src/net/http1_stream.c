/* SPDX-License-Identifier: Apache-2.0 */
/* Replies in pieces over HTTP/1: each piece is a chunk behind the head, in the same two buffers that other replies use.
 *
 * A piece is only added; the connection is driven at the end of the burst and offers the kernel all of them at once.
 * What the kernel took is dropped from the buffer's front when it is half of it, so that bytes are moved once at most
 * on average and a stream holds no more than about twice what waits.
 *
 * Thread: the loop's. */
#include "net/http1_priv.h"

#include <sys/socket.h>

enum { H1_STREAM_DROP = 4 * 1024 }; /* below it nothing is moved */

/* Drops what is sent already from the buffers. */
static void forget_sent(struct h1 *c)
{
    size_t sent = c->out_at > c->head.n ? c->out_at - c->head.n : 0;
    if (sent >= H1_STREAM_DROP && sent >= c->body.n / 2) {
        buf_drop(&c->body, sent);
        c->out_at = c->head.n;
    }
}

bool h1_stream_due(const struct h1 *c)
{
    return c->reply == H1_STREAM && (c->fresh || (c->refused_piece && h1_waiting(c) == 0));
}

bool h1_stream_step(struct h1 *c, uint64_t *budget)
{
    if (c->fresh) {
        size_t before = h1_waiting(c);
        h1_send(c);
        *budget -= MIN(*budget, (uint64_t)(before - h1_waiting(c)));
        return true;
    }
    if (*budget == 0) { /* a client as fast as the handler must not keep the loop to itself */
        return false;
    }
    c->refused_piece = false;
    if (c->stream.drained != NULL) {
        c->stream.drained(&c->x);
    }
    return true;
}

void h1_stream_begin(struct http_ex *x, const struct http_stream *s)
{
    struct h1 *c = h1_of(x);
    if (h1_ignored(c)) {
        return;
    }
    assert(c->reply == H1_OPEN && c->body.n == 0);
    h1_head_end(c, true);
    if (c->head.over) {
        h1_stream_cut(x);
        return;
    }
    c->reply = H1_STREAM;
    c->stream = *s;
    c->fresh = true;
    c->refused_piece = false;
    c->out_at = 0;
    c->stamp = loop_now(x->loop);
    x->replied = true;
    if (c->no_body || (s->endless && c->h->draining)) {
        h1_stream_end(x);
    }
    h1_queue(c);
}

bool h1_stream_write(struct http_ex *x, struct str piece)
{
    struct h1 *c = h1_of(x);
    size_t waiting = h1_waiting(c);
    if (!c->live || x->gone || c->reply != H1_STREAM || piece.n == 0) {
        return true;
    }
    h1_queue(c);
    if (waiting > 0 && (waiting >= c->stream.max || piece.n > c->stream.max - waiting)) {
        c->refused_piece = true;
        return false;
    }
    if (waiting == 0) {
        c->stamp = loop_now(x->loop); /* the silence before it was ours */
    }
    forget_sent(c);
    if (c->http10) {
        buf_add(&c->body, piece.p, piece.n);
    } else {
        buf_addf(&c->body, "%zx\r\n", piece.n);
        buf_add(&c->body, piece.p, piece.n);
        BUF_LIT(&c->body, "\r\n");
    }
    c->fresh = true;
    if (c->body.over) {
        h1_stream_cut(x);
    }
    return true;
}

void h1_stream_end(struct http_ex *x)
{
    struct h1 *c = h1_of(x);
    if (!c->live || x->gone || c->reply != H1_STREAM) {
        return;
    }
    if (h1_waiting(c) == 0) {
        c->stamp = loop_now(x->loop);
    }
    if (!c->http10 && !c->no_body) {
        BUF_LIT(&c->body, "0\r\n\r\n");
    }
    if (c->body.over) {
        h1_stream_cut(x);
        return;
    }
    c->close |= c->h->draining;
    c->reply = H1_READY;
    h1_send(c);
    h1_queue(c);
}

void h1_stream_cut(struct http_ex *x)
{
    struct h1 *c = h1_of(x);
    const struct linger reset = {.l_onoff = 1};
    if (!c->live || x->gone) {
        return;
    }
    /* A reset, or the kernel would go on sending, and a client of HTTP/1.0 would take the end for the reply's. */
    setsockopt(c->w.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    c->dead = x->gone = true;
    h1_queue(c);
}
