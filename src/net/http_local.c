/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges without a wire; see http_local.h. Nothing of an exchange ends within a call of its handler: what the
 * handler asks for is noted, and the exchange goes on when the handler has returned, or at the end of the burst. */
#include "net/http_local.h"

#include <stdlib.h>

#include "net/http_priv.h"

enum { ARENA_MAX = 1024 * 1024, HEAD_MAX = 64 * 1024 };

struct http_local_inner {
    struct http_ex x;
    struct arena arena;
    struct http_local *h;
    struct http_local_call *c;
    struct http_local_inner *prev, *next; /* under way */
    struct http_local_inner *next_ready;
    bool queued, driving;
    bool live; /* `headers` was called, `finished` not yet */
    bool paused, completed;
    bool asked;                /* `more` was called, and nothing has come since */
    bool open;                 /* a reply was begun */
    bool streaming;            /* … in pieces */
    struct iovec one;          /* what http_local_more gave */
    const struct iovec *piece; /* not yet taken: `at` bytes of the first are */
    size_t n_piece, at;
    uint64_t until;
    struct iovec *direct;
    size_t direct_at, direct_n;
};

struct http_local {
    struct loop *loop;
    struct http_service service;
    struct http_limits limits;
    struct http_local_inner *first;
    struct http_local_inner *ready, **ready_end;
    struct hook run;
    struct buf trash; /* what is replied to a client that is gone */
};

static struct http_local_inner *inner_of(struct http_ex *x)
{
    return CONTAINER_OF(x, struct http_local_inner, x);
}

static void queue(struct http_local_inner *in)
{
    struct http_local *h = in->h;

    if (in->queued || in->driving) {
        return;
    }
    in->queued = true;
    in->next_ready = NULL;
    *h->ready_end = in;
    h->ready_end = &in->next_ready;
    loop_defer(h->loop, &h->run);
}

static void unqueue(struct http_local_inner *in)
{
    struct http_local_inner **at = &in->h->ready;

    while (*at && *at != in) {
        at = &(*at)->next_ready;
    }
    if (*at) {
        *at = in->next_ready;
        in->h->ready_end = *at ? in->h->ready_end : at;
    }
    in->queued = false;
}

/* ---- what handlers ask for ---- */

static void body_direct(struct http_ex *x, const struct iovec *to, size_t n)
{
    struct http_local_inner *in = inner_of(x);
    size_t left = in->direct_n - in->direct_at;

    if (left > 0) {
        memmove(in->direct, in->direct + in->direct_at, left * sizeof(*to));
    }
    in->direct = xrealloc(in->direct, (left + n + 1) * sizeof(*to));
    in->direct_at = 0;
    in->direct_n = left;
    for (size_t i = 0; i < n; i++) {
        if (to[i].iov_len > 0) {
            in->direct[in->direct_n++] = to[i];
        }
    }
}

static void body_until(struct http_ex *x, uint64_t n)
{
    assert(n > x->body_seen);
    inner_of(x)->until = n;
}

static void body_pause(struct http_ex *x)
{
    inner_of(x)->paused = true;
}

static void body_resume(struct http_ex *x)
{
    struct http_local_inner *in = inner_of(x);

    if (in->paused) {
        in->paused = false;
        queue(in);
    }
}

static bool ignored(const struct http_local_inner *in)
{
    return in->x.gone || in->x.replied;
}

static void reply_begin(struct http_ex *x, int status, const char *content_type)
{
    struct http_local_inner *in = inner_of(x);

    if (ignored(in)) {
        buf_clear(&in->h->trash);
        return;
    }
    in->open = true;
    in->c->status = status;
    buf_clear(&in->c->head);
    buf_clear(in->c->ask.reply);
    if (content_type) {
        http_line_add(&in->c->head, "Content-Type", str_of(content_type));
    }
}

static void reply_header(struct http_ex *x, const char *name, struct str value)
{
    if (!ignored(inner_of(x))) {
        http_line_add(&inner_of(x)->c->head, name, value);
    }
}

static struct buf *reply_body(struct http_ex *x)
{
    struct http_local_inner *in = inner_of(x);

    return ignored(in) ? &in->h->trash : in->c->ask.reply;
}

/* No reply, whatever there is of one. */
static void cut(struct http_local_inner *in)
{
    in->x.gone = true;
    in->c->status = 0;
    buf_clear(in->c->ask.reply);
    queue(in);
}

static void end(struct http_local_inner *in)
{
    struct http_local_call *c = in->c;
    bool no_body = in->x.method == HTTP_HEAD || c->status == 204 || c->status == 304;

    if (c->head.over || c->ask.reply->over) {
        c->over = true;
        cut(in);
        return;
    }
    if (c->status != 204 && c->status != 304 && !in->streaming) {
        buf_addf(&c->head, "Content-Length: %zu\r\n", c->ask.reply->n);
    }
    if (no_body) {
        buf_clear(c->ask.reply);
    }
    in->streaming = false;
    in->x.replied = true;
    queue(in);
}

static void reply_end(struct http_ex *x)
{
    struct http_local_inner *in = inner_of(x);

    if (ignored(in)) {
        buf_clear(&in->h->trash);
        buf_trim(&in->h->trash, 0);
        return;
    }
    assert(in->open);
    end(in);
}

static void close_after(struct http_ex *x)
{
    (void)x; /* there is no connection */
}

static void stream_begin(struct http_ex *x, const struct http_stream *s)
{
    struct http_local_inner *in = inner_of(x);

    (void)s; /* memory takes every piece at once */
    if (ignored(in)) {
        return;
    }
    assert(in->open);
    in->streaming = true;
    if (x->method == HTTP_HEAD) {
        end(in);
    } else {
        x->replied = true; /* as over a wire: the rest of the body is not asked for */
    }
}

static bool stream_write(struct http_ex *x, struct str piece)
{
    struct http_local_inner *in = inner_of(x);

    if (x->gone || !in->streaming) {
        return true;
    }
    buf_add(in->c->ask.reply, piece.p, piece.n);
    if (in->c->ask.reply->over) {
        in->c->over = true;
        cut(in);
    }
    return true;
}

static void stream_end(struct http_ex *x)
{
    struct http_local_inner *in = inner_of(x);

    if (!x->gone && in->streaming) {
        end(in);
    }
}

static void stream_cut(struct http_ex *x)
{
    struct http_local_inner *in = inner_of(x);

    if (in->live && !x->gone) {
        cut(in);
    }
}

static const struct http_ops local_ops = {.body_direct = body_direct,
                                          .body_until = body_until,
                                          .body_pause = body_pause,
                                          .body_resume = body_resume,
                                          .reply_begin = reply_begin,
                                          .reply_header = reply_header,
                                          .reply_body = reply_body,
                                          .reply_end = reply_end,
                                          .close_after = close_after,
                                          .stream_begin = stream_begin,
                                          .stream_write = stream_write,
                                          .stream_end = stream_end,
                                          .stream_cut = stream_cut};

/* ---- the request ---- */

static void refuse(struct http_local_inner *in, enum err_code code, const char *fmt, ...) PRINTF(3, 4);
static void refuse(struct http_local_inner *in, enum err_code code, const char *fmt, ...)
{
    struct err e;
    va_list ap;

    va_start(ap, fmt);
    err_vset(&e, code, fmt, ap);
    va_end(ap);
    http_reply_error(&in->x, &e);
}

static enum http_method method_of(struct str s)
{
    static const struct {
        const char *name;
        enum http_method method;
    } table[] = {{"GET", HTTP_GET}, {"HEAD", HTTP_HEAD},     {"POST", HTTP_POST},
                 {"PUT", HTTP_PUT}, {"DELETE", HTTP_DELETE}, {"OPTIONS", HTTP_OPTIONS}};

    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (str_eq(s, str_of(table[i].name))) {
            return table[i].method;
        }
    }
    return HTTP_OTHER;
}

static bool blank(char ch)
{
    return ch == ' ' || ch == '\t';
}

/* One line without its end. False: it is none. */
static bool read_header(struct http_local_inner *in, struct str line, struct http_header *to)
{
    const char *colon = memchr(line.p, ':', line.n);
    size_t n = colon ? (size_t)(colon - line.p) : 0;
    char *name = n > 0 ? arena_strndup(&in->arena, line.p, n) : NULL;
    struct str value = name ? (struct str){colon + 1, line.n - n - 1} : STR("");

    for (size_t i = 0; name && i < n; i++) {
        if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f) {
            return false;
        }
        name[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    }
    for (; value.n > 0 && blank(value.p[0]); value.p++, value.n--) {
    }
    for (; value.n > 0 && blank(value.p[value.n - 1]); value.n--) {
    }
    for (size_t i = 0; i < value.n; i++) {
        if (value.p[i] == '\0' || value.p[i] == '\r' || value.p[i] == '\n') {
            return false;
        }
    }
    *to = (struct http_header){{name, n}, value};
    return name != NULL;
}

/* False: refused. */
static bool read_headers(struct http_local_inner *in)
{
    const struct http_limits *l = &in->h->limits;
    struct str rest = in->c->ask.headers;
    struct http_header *all;

    if (in->c->ask.target.n + rest.n > l->header_bytes) {
        refuse(in, ERR_HEADERS, "the head of the request is larger than %u bytes", l->header_bytes);
        return false;
    }
    all = arena_alloc(&in->arena, (l->header_count + 1) * sizeof(*all));
    if (!all) {
        refuse(in, ERR_UNAVAILABLE, "no memory for the request");
        return false;
    }
    in->x.headers = all;
    while (rest.n > 0) {
        const char *stop = memmem(rest.p, rest.n, "\r\n", 2);
        struct str line = {rest.p, stop ? (size_t)(stop - rest.p) : rest.n};

        if (in->x.n_headers == l->header_count) {
            refuse(in, ERR_HEADERS, "more than %u header fields", l->header_count);
            return false;
        }
        if (!stop || !read_header(in, line, &all[in->x.n_headers])) {
            refuse(in, ERR_INVALID, "malformed header fields");
            return false;
        }
        in->x.n_headers++;
        rest = (struct str){stop + 2, rest.n - line.n - 2};
    }
    return true;
}

static bool read_head(struct http_local_inner *in)
{
    const struct http_local_ask *ask = &in->c->ask;
    const char *mark = ask->target.n ? memchr(ask->target.p, '?', ask->target.n) : NULL;

    in->x.method = method_of(ask->method);
    in->x.path = mark ? (struct str){ask->target.p, (size_t)(mark - ask->target.p)} : ask->target;
    in->x.query = mark ? (struct str){mark + 1, ask->target.n - in->x.path.n - 1} : STR("");
    in->x.length = (int64_t)ask->size;
    if (in->x.path.n == 0 || in->x.path.p[0] != '/') {
        refuse(in, ERR_INVALID, "the target of the request is no path");
        return false;
    }
    if (!read_headers(in)) {
        return false;
    }
    if (ask->size > in->h->limits.body || ask->size > INT64_MAX) {
        refuse(in, ERR_TOO_LARGE, "the body has %llu bytes, the limit is %llu", (unsigned long long)ask->size,
               (unsigned long long)in->h->limits.body);
        return false;
    }
    return true;
}

/* ---- the body ---- */

/* The next bytes to hand over: of one piece, not beyond a border or the body's end. */
static struct str next_bytes(struct http_local_inner *in)
{
    uint64_t left = (uint64_t)in->x.length - in->x.body_seen;
    struct str s;

    while (in->n_piece > 0 && in->at == in->piece->iov_len) {
        in->piece++;
        in->n_piece--;
        in->at = 0;
    }
    if (in->n_piece == 0 || left == 0) {
        return (struct str){NULL, 0};
    }
    s = (struct str){(const char *)in->piece->iov_base + in->at, in->piece->iov_len - in->at};
    s.n = (size_t)MIN((uint64_t)s.n, left);
    if (in->direct_at < in->direct_n) {
        s.n = MIN(s.n, in->direct[in->direct_at].iov_len);
    } else if (in->until > in->x.body_seen) {
        s.n = (size_t)MIN((uint64_t)s.n, in->until - in->x.body_seen);
    }
    return s;
}

static void hand_over(struct http_local_inner *in, struct str s)
{
    in->at += s.n;
    in->x.body_seen += s.n;
    if (in->direct_at == in->direct_n) {
        in->h->service.body(in->h->service.ctx, &in->x, s.p, s.n);
        return;
    }
    struct iovec *to = &in->direct[in->direct_at];
    memcpy(to->iov_base, s.p, s.n);
    to->iov_base = (char *)to->iov_base + s.n;
    to->iov_len -= s.n;
    in->direct_at += to->iov_len == 0;
}

/* Hands over what there is. */
static void bring_body(struct http_local_inner *in)
{
    while (!ignored(in) && !in->paused) {
        struct str s = next_bytes(in);

        if (s.n > 0) {
            hand_over(in, s);
        } else if (in->x.body_seen == (uint64_t)in->x.length) {
            if (!in->completed) {
                in->completed = true;
                in->h->service.complete(in->h->service.ctx, &in->x);
            }
            return;
        } else if (in->c->ask.more && !in->asked) {
            in->asked = true;
            in->c->ask.more(in->c);
        } else {
            return; /* for http_local_more */
        }
    }
}

/* ---- the exchange ---- */

static bool is_over(const struct http_local_inner *in)
{
    return in->x.gone || (in->x.replied && !in->streaming);
}

static void finish(struct http_local_inner *in)
{
    struct http_local *h = in->h;
    struct http_local_call *c = in->c;

    in->driving = true; /* what `finished` asks for is nobody's any more */
    if (in->live) {
        in->live = false;
        h->service.finished(h->service.ctx, &in->x);
    }
    unqueue(in);
    *(in->prev ? &in->prev->next : &h->first) = in->next;
    if (in->next) {
        in->next->prev = in->prev;
    }
    arena_done(&in->arena);
    free(in->direct);
    free(in);
    struct buf head = c->head;
    c->in = NULL;
    c->ask.done(c);
    buf_done(&head);
}

static void drive(struct http_local_inner *in)
{
    in->driving = true;
    if (in->live) {
        bring_body(in);
    }
    in->driving = false;
    if (is_over(in)) {
        finish(in);
    }
}

static void run_ready(struct hook *hook)
{
    struct http_local *h = CONTAINER_OF(hook, struct http_local, run);
    struct http_local_inner *in;

    while ((in = h->ready) != NULL) {
        unqueue(in);
        drive(in);
    }
}

void http_local_new(struct http_local **out, struct loop *l, const struct http_service *service,
                    const struct http_limits *limits)
{
    struct http_local *h = xcalloc(1, sizeof(*h));

    h->loop = l;
    h->service = *service;
    h->limits = *limits;
    h->run.fn = run_ready;
    h->ready_end = &h->ready;
    buf_init(&h->trash, 1u << 30);
    *out = h;
}

void http_local_free(struct http_local *h)
{
    if (!h) {
        return;
    }
    while (h->first) {
        h->first->x.gone = true;
        h->first->c->status = h->first->x.replied && !h->first->streaming ? h->first->c->status : 0;
        finish(h->first);
    }
    loop_undefer(h->loop, &h->run);
    buf_done(&h->trash);
    free(h);
}

void http_local_start(struct http_local *h, struct http_local_call *c)
{
    struct http_local_inner *in = xcalloc(1, sizeof(*in));

    arena_init(&in->arena, ARENA_MAX);
    in->x = (struct http_ex){.arena = &in->arena, .loop = h->loop, .ops = &local_ops, .t_start = loop_now(h->loop)};
    in->h = h;
    in->c = c;
    in->piece = c->ask.body;
    in->n_piece = c->ask.n_body;
    in->next = h->first;
    if (h->first) {
        h->first->prev = in;
    }
    h->first = in;
    c->in = in;
    c->status = 0;
    c->over = false;
    buf_init(&c->head, HEAD_MAX);
    in->driving = true;
    if (read_head(in)) {
        in->live = true;
        h->service.headers(h->service.ctx, &in->x);
    }
    drive(in);
}

void http_local_more(struct http_local_call *c, struct iovec piece)
{
    struct http_local_inner *in = c->in;

    in->one = piece;
    in->piece = &in->one;
    in->n_piece = 1;
    in->at = 0;
    in->asked = false;
    queue(in);
}

void http_local_cancel(struct http_local_call *c)
{
    if (!is_over(c->in)) {
        cut(c->in);
    }
}
