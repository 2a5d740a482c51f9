/* SPDX-License-Identifier: Apache-2.0 */
/* Replies over HTTP/1: a head and a body in two buffers of the connection, sent as soon as the reply is complete.
 *
 * The handler appends to a buffer that holds nothing but its body; the length is known when it ends the reply, and only
 * then the head is finished. A small body is then copied behind its head, so that one send() carries both; a large one
 * goes out beside it with sendmsg(). What the socket does not take waits for EPOLLOUT.
 *
 * Thread: the loop's. */
#include "net/http1_priv.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/json.h"

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *text;
    } table[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (table[i].status == status) {
            return table[i].text;
        }
    }
    return "Status";
}

static void begin(struct h1 *c, int status, const char *content_type)
{
    struct buf *b = &c->head;
    c->reply = H1_OPEN;
    c->bodiless = status == 204 || status == 304;
    c->no_body = c->bodiless || c->x.method == HTTP_HEAD;
    buf_clear(b);
    buf_clear(&c->body);
    if (status == 200) {
        BUF_LIT(b, "HTTP/1.1 200 OK\r\n");
    } else {
        buf_addf(b, "HTTP/1.1 %d %s\r\n", status, reason_of(status));
    }
    if (content_type != NULL) {
        BUF_LIT(b, "Content-Type: ");
        buf_addz(b, content_type);
        BUF_LIT(b, "\r\n");
    }
}

void h1_head_end(struct h1 *c, bool stream)
{
    struct buf *b = &c->head;
    uint64_t left = c->phase != H1_BODY || h1_chunked(c) ? 0 : (uint64_t)c->x.length - c->x.body_seen;
    /* A client that was not told to send its body may do so or not: only a new connection is clear again. */
    c->close |= left > c->h->limits.discard || c->expects || c->h->draining;
    if (stream && c->http10) {
        c->close = true; /* nothing else marks its end */
    } else if (stream && !c->bodiless) {
        BUF_LIT(b, "Transfer-Encoding: chunked\r\n");
    } else if (!c->bodiless) {
        BUF_LIT(b, "Content-Length: ");
        buf_addu(b, c->body.n);
        BUF_LIT(b, "\r\n");
    }
    if (c->close) {
        BUF_LIT(b, "Connection: close\r\n");
    } else if (c->http10) {
        BUF_LIT(b, "Connection: keep-alive\r\n");
    }
    BUF_LIT(b, "\r\n");
}

/* Completes the head and hands the reply to the kernel. */
static void end(struct h1 *c)
{
    struct buf *b = &c->head;
    h1_head_end(c, false);
    if (c->no_body) {
        buf_clear(&c->body);
    } else if (c->body.n <= H1_COPY) {
        buf_add(b, c->body.p, c->body.n);
        buf_clear(&c->body);
    }
    if (b->over) { /* no memory for the head: a short one, in what there is */
        buf_clear(b);
        buf_clear(&c->body);
        c->close = true;
        BUF_LIT(b, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
                   "Connection: close\r\nContent-Length: 35\r\n\r\n");
        if (!c->no_body) {
            BUF_LIT(b, "{\"error\":\"no memory for the reply\"}");
        }
    }
    if (b->over) {
        c->dead = c->x.gone = true;
        return;
    }
    c->reply = H1_READY;
    c->x.replied = true;
    c->out_at = 0;
    c->stamp = loop_now(c->h->loop);
    h1_send(c);
}

void h1_send(struct h1 *c)
{
    size_t total = c->head.n + c->body.n;
    c->fresh = false;
    if (!h1_out_pending(c)) {
        return;
    }
    if (c->out_at == total) { /* a stream that ended without a last chunk, after its last piece was sent */
        c->reply = H1_SENT;
        return;
    }
    struct iovec iov[2];
    struct msghdr m = {.msg_iov = iov};
    if (c->out_at < c->head.n) {
        iov[m.msg_iovlen++] = (struct iovec){c->head.p + c->out_at, c->head.n - c->out_at};
    }
    size_t body_at = c->out_at > c->head.n ? c->out_at - c->head.n : 0;
    if (body_at < c->body.n) {
        iov[m.msg_iovlen++] = (struct iovec){c->body.p + body_at, c->body.n - body_at};
    }
    ssize_t n;
    do {
        n = m.msg_iovlen == 1 ? send(c->w.fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                              : sendmsg(c->w.fd, &m, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            c->dead = true;
            c->x.gone = true;
        }
        return;
    }
    c->out_at += (size_t)n;
    c->stamp = loop_now(c->h->loop);
    if (c->out_at == total) {
        c->reply = c->reply == H1_READY ? H1_SENT : c->reply;
        c->out_at = 0;
        buf_clear(&c->head);
        buf_clear(&c->body);
        buf_trim(&c->head, H1_KEEP_OUT);
        buf_trim(&c->body, H1_KEEP_OUT);
    }
}

void h1_continue(struct h1 *c)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!c->expects || c->reply >= H1_STREAM || c->dead) {
        return;
    }
    c->expects = false;
    if (c->in_at < c->in_n || c->x.body_seen > 0) {
        return; /* it did not wait */
    }
    /* A socket so full of unread replies that it takes nothing: then the client goes on without it, as it must be able
     * to. */
    ssize_t n = send(c->w.fd, text, sizeof text - 1, MSG_NOSIGNAL);
    if (n > 0 && n < (ssize_t)sizeof text - 1) {
        c->dead = true;
    }
}

void h1_refuse(struct h1 *c, int status, const char *fmt, ...)
{
    c->refused = true;
    c->close = true;
    if (c->reply >= H1_STREAM) {
        c->dead |= c->reply == H1_STREAM; /* nothing else can be said within a stream */
        return;                           /* it has its answer */
    }
    if (c->live) {
        c->x.gone = true; /* for the handler; h1_drive calls finished */
    }
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    begin(c, status, "application/json");
    BUF_LIT(&c->body, "{\"error\":");
    json_strz(&c->body, text);
    BUF_LIT(&c->body, "}");
    end(c);
}

/* ---- what handlers call ---- */

static void reply_begin(struct http_ex *x, int status, const char *content_type)
{
    struct h1 *c = h1_of(x);
    if (h1_ignored(c)) {
        buf_clear(&c->h->trash);
        return;
    }
    begin(c, status, content_type);
}

static void reply_header(struct http_ex *x, const char *name, struct str value)
{
    struct h1 *c = h1_of(x);
    if (h1_ignored(c)) {
        return;
    }
    assert(c->reply == H1_OPEN);
    http_line_add(&c->head, name, value);
}

static struct buf *reply_body(struct http_ex *x)
{
    struct h1 *c = h1_of(x);
    if (h1_ignored(c)) {
        return &c->h->trash;
    }
    assert(c->reply == H1_OPEN);
    return &c->body;
}

static void reply_end(struct http_ex *x)
{
    struct h1 *c = h1_of(x);
    if (h1_ignored(c)) {
        buf_clear(&c->h->trash);
        buf_trim(&c->h->trash, H1_KEEP_OUT);
        return;
    }
    assert(c->reply == H1_OPEN);
    if (c->head.over || c->body.over) {
        buf_clear(&c->body);
        buf_trim(&c->body, H1_KEEP_OUT);
        begin(c, 500, "application/json");
        BUF_LIT(&c->body,
                "{\"error\":\"the reply is larger than this server can send, or there is no memory for it\"}");
    }
    end(c);
    h1_queue(c);
}

static void close_after(struct http_ex *x)
{
    h1_of(x)->close = true;
}

const struct http_ops h1_ops = {.body_direct = h1_body_direct,
                                .body_until = h1_body_until,
                                .body_pause = h1_body_pause,
                                .body_resume = h1_body_resume,
                                .reply_begin = reply_begin,
                                .reply_header = reply_header,
                                .reply_body = reply_body,
                                .reply_end = reply_end,
                                .close_after = close_after,
                                .stream_begin = h1_stream_begin,
                                .stream_write = h1_stream_write,
                                .stream_end = h1_stream_end,
                                .stream_cut = h1_stream_cut};
