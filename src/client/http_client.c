/* SPDX-License-Identifier: Apache-2.0 */
/* The client connection: sends with one eye on the receiving side, so that a server which refuses a big body early is
 * heard instead of being written to until it resets the connection.
 *
 * The socket is used with MSG_DONTWAIT and poll, so that one deadline covers connecting, sending and receiving. A reply
 * is read to its end in any case where one began; a connection is kept only when the whole request was sent, the reply
 * allowed it, and nothing came behind it. */
#include "client/http_client.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/reply.h"

#define IN_SIZE (64u << 10)
#define CHUNK_SIZE (64u << 10)
#define CONNECT_US SECONDS(10) /* where the call itself has no limit */
#define IOV_STEP 64            /* pieces handed to one sendmsg */

struct http_client {
    char *url;      /* as given, for messages */
    char *where;    /* for addr_parse */
    char *host;     /* the Host field */
    struct addr at; /* len > 0: instead of where */
    int fd;         /* -1: not connected */
    bool used;      /* this connection has carried a reply */
    bool unsent;    /* of the last call the server can not have seen a byte */
    struct buf head;
    struct reply reply;
    char in[IN_SIZE];
    char chunk[CHUNK_SIZE]; /* of a body that is made while it is sent */
};

/* One call's sending side: pieces that are ready, then a source that makes more. */
struct outgoing {
    struct iovec *v; /* v[0] is the head */
    int n, at;
    struct http_source source; /* a copy: size counts down */
    bool from_source;
    uint64_t sent; /* bytes the kernel took */
};

struct call {
    const char *method;
    uint64_t timeout_us;
    uint64_t deadline; /* clock_us(); 0: none */
    bool idempotent;
    struct http_answer *answer;
    http_sink_fn *sink; /* NULL: the answer keeps the body */
    void *sink_ctx;
};

void http_answer_init(struct http_answer *a, size_t body_max)
{
    a->status = 0;
    buf_init(&a->head, REPLY_HEAD_MAX);
    buf_init(&a->body, body_max);
}

void http_answer_done(struct http_answer *a)
{
    buf_done(&a->head);
    buf_done(&a->body);
}

struct str http_answer_header(const struct http_answer *a, const char *name)
{
    size_t want = strlen(name);
    const char *p = a->head.p, *end = p ? p + a->head.n : p;
    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        if (!nl) {
            break;
        }
        if ((size_t)(nl - p) > want && p[want] == ':' && memcmp(p, name, want) == 0) {
            const char *v = p + want + 1;
            return (struct str){v, (size_t)(nl - v)};
        }
        p = nl + 1;
    }
    return (struct str){NULL, 0};
}

/* ---- the address ---- */

static enum err_code bad_url(struct err *e, struct str url, const char *why)
{
    return err_set(e, ERR_INVALID, "'" STR_FMT "' is no server address: %s (http://HOST:PORT or unix:/PATH)",
                   STR_ARG(url), why);
}

/* host[:port] behind "http://"; fills where (with a port) and host (as sent). */
static enum err_code split_authority(struct http_client *c, struct str url, struct str a, struct err *e)
{
    if (a.n > 0 && a.p[a.n - 1] == '/') {
        a.n--;
    }
    if (a.n == 0) {
        return bad_url(e, url, "the host is missing");
    }
    for (size_t i = 0; i < a.n; i++) {
        unsigned char ch = (unsigned char)a.p[i];
        if (ch == '/' || ch == '?' || ch == '#') {
            return bad_url(e, url, "nothing may follow the port");
        }
        if (ch <= ' ' || ch >= 0x7f || ch == '@' || ch == '\\') {
            return bad_url(e, url, "a character that no host name has");
        }
    }
    const char *close = a.p[0] == '[' ? memchr(a.p, ']', a.n) : NULL;
    if (a.p[0] == '[' && !close) {
        return bad_url(e, url, "the ']' of the IPv6 address is missing");
    }
    const char *from = close ? close : a.p;
    const char *colon = memchr(from, ':', (size_t)(a.p + a.n - from));
    if (colon) {
        uint64_t port;
        struct str digits = {colon + 1, (size_t)(a.p + a.n - colon - 1)};
        if (!str_u64(digits, &port) || port == 0 || port > 65535) {
            return bad_url(e, url, "the port is not a number from 1 to 65535");
        }
        if (colon == a.p) {
            return bad_url(e, url, "the host is missing");
        }
        c->where = xstrndup(a.p, a.n);
    } else {
        c->where = xasprintf(STR_FMT ":80", STR_ARG(a));
    }
    c->host = xstrndup(a.p, a.n);
    return ERR_OK;
}

enum err_code http_client_new(struct http_client **out, struct str url, struct err *e)
{
    AUTO(http_client) c = xcalloc(1, sizeof *c);
    c->fd = -1;
    buf_init(&c->head, 1u << 20);
    c->url = xstrndup(url.p, url.n);
    enum err_code rc;
    if (url.n > 5 && memcmp(url.p, "unix:", 5) == 0) {
        struct addr probe;
        c->where = xstrndup(url.p, url.n);
        c->host = xstrdup("localhost");
        rc = addr_parse(&probe, url, false, e);
    } else if (url.n >= 7 && memcmp(url.p, "http://", 7) == 0) {
        rc = split_authority(c, url, (struct str){url.p + 7, url.n - 7}, e);
    } else if (url.n >= 8 && memcmp(url.p, "https://", 8) == 0) {
        rc = err_set(e, ERR_UNIMPLEMENTED, "'" STR_FMT "': this client does not speak TLS yet", STR_ARG(url));
    } else {
        rc = bad_url(e, url, "the scheme is missing");
    }
    if (rc == ERR_OK) {
        *out = TAKE(c);
    }
    return rc;
}

const char *http_client_where(const struct http_client *c)
{
    return c->where;
}

const char *http_client_host(const struct http_client *c)
{
    return c->host;
}

bool http_client_unsent(const struct http_client *c)
{
    return c->unsent;
}

static void disconnect(struct http_client *c)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    c->fd = -1;
    c->used = false;
}

void http_client_at(struct http_client *c, const struct addr *at)
{
    disconnect(c);
    c->at = *at;
}

void http_client_free(struct http_client *c)
{
    if (!c) {
        return;
    }
    disconnect(c);
    buf_done(&c->head);
    free(c->url);
    free(c->where);
    free(c->host);
    free(c);
}

/* ---- waiting ---- */

static enum err_code timed_out(const struct http_client *c, const struct call *k, struct err *e)
{
    return err_set(e, ERR_TIMEOUT, "no answer from %s within %" PRIu64 " ms", c->url, k->timeout_us / 1000);
}

static enum err_code broke(const struct http_client *c, struct err *e, const char *what, int why)
{
    return err_set(e, ERR_UNAVAILABLE, "the connection to %s broke while %s: %s", c->url, what, strerror(why));
}

/* *ready is what poll says, errors included. */
static enum err_code wait_for(struct http_client *c, const struct call *k, short events, short *ready, struct err *e)
{
    for (;;) {
        int ms = -1;
        if (k->deadline) {
            uint64_t now = clock_us();
            if (now >= k->deadline) {
                return timed_out(c, k, e);
            }
            uint64_t left = (k->deadline - now + 999) / 1000;
            ms = left > INT_MAX ? INT_MAX : (int)left;
        }
        struct pollfd p = {.fd = c->fd, .events = events};
        int n = poll(&p, 1, ms);
        if (n > 0) {
            *ready = p.revents;
            return ERR_OK;
        }
        if (n < 0 && errno != EINTR) {
            return err_sys(e, ERR_INTERNAL, "poll");
        }
    }
}

static enum err_code reconnect(struct http_client *c, const struct call *k, struct err *e)
{
    struct addr a = c->at;
    enum err_code rc = a.len > 0 ? ERR_OK : addr_parse(&a, str_of(c->where), true, e);
    if (rc != ERR_OK) {
        return rc;
    }
    uint64_t limit = CONNECT_US;
    if (k->deadline) {
        uint64_t now = clock_us();
        if (now >= k->deadline) {
            return timed_out(c, k, e);
        }
        limit = MIN(limit, k->deadline - now);
    }
    int fd = -1;
    rc = sock_connect(&fd, &a, limit, e);
    if (rc == ERR_OK) {
        c->fd = fd;
        c->used = false;
    }
    return rc;
}

/* A kept connection that the server closed, or that has bytes nobody asked for, is seen before anything is sent on it.
 */
static bool is_stale(const struct http_client *c)
{
    char byte;
    ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return !(n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
}

/* ---- sending ---- */

static bool out_left(const struct outgoing *o)
{
    return o->at < o->n || o->source.size > 0;
}

/* Makes the next piece of a body that is made while it is sent. */
static enum err_code out_refill(struct http_client *c, struct outgoing *o, struct err *e)
{
    if (o->at < o->n || o->source.size == 0) {
        return ERR_OK;
    }
    size_t want = (size_t)MIN(o->source.size, (uint64_t)CHUNK_SIZE);
    int64_t got = o->source.read(o->source.ctx, c->chunk, want, e);
    if (got < 0) {
        return e->code ? e->code : err_set(e, ERR_INTERNAL, "the body could not be read");
    }
    assert(got > 0 && (uint64_t)got <= want);
    o->source.size -= (uint64_t)got;
    o->v[0] = (struct iovec){c->chunk, (size_t)got};
    o->at = 0;
    o->n = 1;
    return ERR_OK;
}

static void out_advance(struct outgoing *o, size_t n)
{
    o->sent += n;
    while (o->at < o->n && n >= o->v[o->at].iov_len) {
        n -= o->v[o->at].iov_len;
        o->at++;
    }
    if (o->at < o->n) {
        o->v[o->at].iov_base = (char *)o->v[o->at].iov_base + n;
        o->v[o->at].iov_len -= n;
    }
}

/* Returns 0, or the errno that ended it; EAGAIN: the kernel takes no more for now. */
static int out_send(struct http_client *c, struct outgoing *o)
{
    struct msghdr m = {.msg_iov = o->v + o->at, .msg_iovlen = (size_t)MIN(o->n - o->at, IOV_STEP)};
    ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
        return errno == EINTR ? 0 : errno;
    }
    out_advance(o, (size_t)n);
    return 0;
}

/* Reads once what is there. Returns 0, or the errno; EAGAIN: nothing. End of stream goes to the parser. */
static int take_in(struct http_client *c)
{
    ssize_t n = recv(c->fd, c->in, sizeof c->in, MSG_DONTWAIT);
    if (n < 0) {
        return errno == EINTR ? EAGAIN : errno;
    }
    if (n == 0) {
        reply_eof(&c->reply);
    } else {
        reply_feed(&c->reply, c->in, (size_t)n, NULL);
    }
    return 0;
}

/* Sends until all is out, or the reply has begun, or the line broke (*broken = errno, not an error yet: a reply may lie
 * in the receive buffer). */
static enum err_code send_request(struct http_client *c, const struct call *k, struct outgoing *o, int *broken,
                                  struct err *e)
{
    bool look = false; /* the first piece goes out at once; after that, look for an early reply before each */
    while (out_left(o)) {
        enum err_code rc = out_refill(c, o, e);
        if (rc != ERR_OK) {
            return rc;
        }
        if (look) {
            short ready = 0;
            rc = wait_for(c, k, POLLIN | POLLOUT, &ready, e);
            if (rc != ERR_OK) {
                return rc;
            }
            if (ready & POLLIN) {
                int why = take_in(c);
                if (why && why != EAGAIN) {
                    *broken = why;
                    return ERR_OK;
                }
                if (c->reply.final || c->reply.state != REPLY_MORE) {
                    return ERR_OK;
                }
            }
        }
        int why = out_send(c, o);
        if (why && why != EAGAIN && why != EWOULDBLOCK) {
            *broken = why;
            return ERR_OK;
        }
        look = true;
    }
    return ERR_OK;
}

/* Gives away what has come of the body. */
static enum err_code hand_over(struct http_client *c, const struct call *k, struct err *e)
{
    struct buf *body = &k->answer->body;
    enum err_code rc = ERR_OK;
    if (k->sink && c->reply.final && k->answer->status == 200 && body->n > 0) {
        rc = k->sink(k->sink_ctx, buf_str(body), e);
        buf_clear(body);
    }
    return rc;
}

static enum err_code receive_reply(struct http_client *c, const struct call *k, int broken, struct err *e)
{
    const char *doing = broken ? "sending" : "waiting for the reply";
    while (c->reply.state == REPLY_MORE) {
        int why = take_in(c);
        if (why == EAGAIN || why == EWOULDBLOCK) {
            if (broken) {
                return broke(c, e, doing, broken);
            }
            short ready = 0;
            enum err_code rc = wait_for(c, k, POLLIN, &ready, e);
            if (rc != ERR_OK) {
                return rc;
            }
        } else if (why) {
            return broke(c, e, doing, broken ? broken : why);
        } else if (hand_over(c, k, e) != ERR_OK) {
            return e->code;
        }
    }
    if (c->reply.state == REPLY_BAD) {
        return err_set(e, c->reply.err.code, "%s: %s", c->url, c->reply.err.text);
    }
    return ERR_OK;
}

/* ---- the call ---- */

static bool is_word(const char *method, const char *const *words)
{
    for (; *words; words++) {
        if (strcmp(method, *words) == 0) {
            return true;
        }
    }
    return false;
}

enum err_code http_head(struct buf *out, const char *method, const char *path, const char *host, struct str headers,
                        uint64_t size, struct err *e)
{
    static const char *const bodiless[] = {"GET", "HEAD", "DELETE", "OPTIONS", NULL};
    for (const char *p = path; *p; p++) {
        if ((unsigned char)*p <= ' ' || (unsigned char)*p == 0x7f) {
            return err_set(e, ERR_INVALID, "the request's path holds a character that must be encoded");
        }
    }
    assert(headers.n == 0 || (headers.n > 2 && memcmp(headers.p + headers.n - 2, "\r\n", 2) == 0));
    buf_clear(out);
    buf_addf(out, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: weir/" WEIR_VERSION "\r\n", method, path, host);
    buf_add(out, headers.p, headers.n);
    if (size > 0 || !is_word(method, bodiless)) {
        buf_addf(out, "Content-Length: %" PRIu64 "\r\n", size);
    }
    BUF_LIT(out, "\r\n");
    return out->over ? err_set(e, ERR_HEADERS, "the request's header fields are larger than %zu bytes", out->max)
                     : ERR_OK;
}

/* One try on the connection at hand. *again: nothing of a reply came, and the request may be repeated. */
static enum err_code exchange(struct http_client *c, const struct call *k, struct outgoing *o, bool *again,
                              struct err *e)
{
    int broken = 0;
    reply_init(&c->reply, k->answer, strcmp(k->method, "HEAD") == 0);
    enum err_code rc = send_request(c, k, o, &broken, e);
    if (rc == ERR_OK) {
        rc = receive_reply(c, k, broken, e);
    }
    *again = rc == ERR_UNAVAILABLE && !c->reply.started && !o->from_source && (k->idempotent || o->sent == 0);
    c->unsent = rc != ERR_OK && o->sent == 0;
    if (rc != ERR_OK || !c->reply.keep || out_left(o)) {
        disconnect(c);
    } else {
        c->used = true;
    }
    return rc;
}

static enum err_code run(struct http_client *c, struct call *k, const char *path, struct str headers,
                         const struct iovec *body, int n_body, const struct http_source *src, struct err *e)
{
    static const char *const idempotent[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", NULL};
    struct err own = {0};
    e = e ? e : &own;
    e->code = ERR_OK;
    k->idempotent = is_word(k->method, idempotent);
    k->deadline = k->timeout_us ? clock_us() + k->timeout_us : 0;
    uint64_t size = src ? src->size : 0;
    for (int i = 0; i < n_body; i++) {
        size += body[i].iov_len;
    }
    c->unsent = true;
    enum err_code rc = http_head(&c->head, k->method, path, c->host, headers, size, e);
    if (rc != ERR_OK) {
        return rc;
    }
    if (c->fd >= 0 && is_stale(c)) {
        disconnect(c);
    }
    struct iovec *v = xcalloc((size_t)n_body + 1, sizeof *v);
    for (bool again = true; again;) {
        bool kept = c->fd >= 0;
        again = false;
        v[0] = (struct iovec){c->head.p, c->head.n};
        if (n_body > 0) {
            memcpy(v + 1, body, (size_t)n_body * sizeof *v);
        }
        struct outgoing o = {.v = v, .n = n_body + 1, .from_source = src != NULL};
        if (src) {
            o.source = *src;
        }
        rc = kept ? ERR_OK : reconnect(c, k, e);
        c->unsent = rc != ERR_OK;
        if (rc == ERR_OK) {
            rc = exchange(c, k, &o, &again, e);
        }
        again = again && kept; /* only a connection from before may have gone stale */
    }
    free(v);
    return rc;
}

enum err_code http_call(struct http_client *c, const char *method, const char *path, struct str headers,
                        const struct iovec *body, int n_body, uint64_t timeout_us, struct http_answer *out,
                        struct err *e)
{
    struct call k = {.method = method, .timeout_us = timeout_us, .answer = out};
    return run(c, &k, path, headers, body, body ? n_body : 0, NULL, e);
}

enum err_code http_call_stream(struct http_client *c, const char *method, const char *path, struct str headers,
                               const struct http_source *src, uint64_t timeout_us, struct http_answer *out,
                               struct err *e)
{
    struct call k = {.method = method, .timeout_us = timeout_us, .answer = out};
    return run(c, &k, path, headers, NULL, 0, src, e);
}

enum err_code http_call_sink(struct http_client *c, const char *method, const char *path, struct str headers,
                             http_sink_fn *sink, void *ctx, uint64_t timeout_us, struct http_answer *out, struct err *e)
{
    struct call k = {.method = method, .timeout_us = timeout_us, .answer = out, .sink = sink, .sink_ctx = ctx};
    return run(c, &k, path, headers, NULL, 0, NULL, e);
}
