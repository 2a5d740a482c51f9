/* SPDX-License-Identifier: Apache-2.0 */
/* The body of an HTTP/1 request, on its way to the handler.
 *
 * A body of known length never meets the parser: what lies behind the head in the read buffer is handed on, and the
 * rest is read by the kernel straight into the handler's targets, or into the listener's scratch buffer for `body`. No
 * read passes the end of the body or the border of http_body_until, so nothing has to be put back. A chunked body goes
 * through the read buffer and llhttp; what the handler does not take at once (it paused) stays in the buffer as `held`.
 *
 * Thread: the loop's. */
#include "net/http1_priv.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- what the handler asks for ---- */

void h1_body_direct(struct http_ex *x, const struct iovec *to, size_t n)
{
    struct h1 *c = h1_of(x);
    if (c->direct_n + n > c->direct_cap) {
        size_t cap = MAX(2 * c->direct_cap, c->direct_n + n);
        struct iovec *grown = realloc(c->direct, cap * sizeof *grown);
        if (grown == NULL) { /* the handler counts on its targets: better no connection than a body elsewhere */
            c->dead = true;
            x->gone = true;
            return;
        }
        c->direct = grown;
        c->direct_cap = cap;
    }
    uint64_t total = 0;
    for (size_t i = c->direct_at; i < c->direct_n; i++) {
        total += c->direct[i].iov_len;
    }
    for (size_t i = 0; i < n; i++) {
        total += to[i].iov_len;
        if (to[i].iov_len > 0) {
            c->direct[c->direct_n++] = to[i];
        }
    }
    assert(x->length < 0 || total <= (uint64_t)x->length - x->body_seen); /* else we would read into the next request */
}

void h1_body_until(struct http_ex *x, uint64_t n)
{
    assert(n > x->body_seen);
    h1_of(x)->until = n;
}

void h1_body_pause(struct http_ex *x)
{
    h1_of(x)->paused = true;
}

void h1_body_resume(struct http_ex *x)
{
    struct h1 *c = h1_of(x);
    if (c->paused) {
        c->paused = false;
        c->stamp = loop_now(x->loop); /* the time it was held up is not the client's */
        h1_queue(c);
    }
}

/* ---- delivery ---- */

static void direct_advance(struct h1 *c, size_t n)
{
    c->x.body_seen += n;
    while (n > 0) {
        struct iovec *to = &c->direct[c->direct_at];
        size_t part = MIN(n, to->iov_len);
        to->iov_base = (char *)to->iov_base + part;
        to->iov_len -= part;
        n -= part;
        if (to->iov_len == 0) {
            c->direct_at++;
        }
    }
    if (c->direct_at == c->direct_n) {
        c->direct_at = c->direct_n = 0;
    }
}

size_t h1_deliver(struct h1 *c, const char *p, size_t n)
{
    size_t done = 0;
    while (done < n) {
        size_t part = n - done;
        if (h1_discarding(c)) {
            c->discarded += part;
            c->x.body_seen += part;
            return n;
        }
        if (c->paused || c->dead) {
            break;
        }
        if (c->direct_at < c->direct_n) {
            part = MIN(part, c->direct[c->direct_at].iov_len);
            memcpy(c->direct[c->direct_at].iov_base, p + done, part);
            direct_advance(c, part);
        } else {
            if (c->until > c->x.body_seen) {
                part = (size_t)MIN((uint64_t)part, c->until - c->x.body_seen);
            }
            c->x.body_seen += part;
            c->h->service.body(c->h->service.ctx, &c->x, p + done, part);
        }
        done += part;
    }
    return done;
}

/* ---- known length ---- */

static bool read_known(struct h1 *c, uint64_t *budget)
{
    uint64_t left = (uint64_t)c->x.length - c->x.body_seen;
    struct iovec scratch = {c->h->scratch, (size_t)MIN(left, (uint64_t)H1_SCRATCH)};
    size_t got;
    if (h1_discarding(c)) {
        got = h1_recv(c, &scratch, 1, true);
        h1_deliver(c, c->h->scratch, got);
    } else if (c->direct_at < c->direct_n) {
        got = h1_recv(c, c->direct + c->direct_at, MIN(c->direct_n - c->direct_at, (size_t)64), false);
        direct_advance(c, got);
    } else {
        if (c->until > c->x.body_seen) {
            scratch.iov_len = (size_t)MIN((uint64_t)scratch.iov_len, c->until - c->x.body_seen);
        }
        got = h1_recv(c, &scratch, 1, false);
        size_t took = h1_deliver(c, c->h->scratch, got);
        assert(took == got); /* one call of `body`: it was read up to the border at most, and there were no targets */
        (void)took;
    }
    *budget -= MIN(*budget, (uint64_t)got);
    return got > 0;
}

static bool body_known(struct h1 *c, uint64_t *budget)
{
    uint64_t left = (uint64_t)c->x.length - c->x.body_seen;
    size_t took = 0;
    if (c->in_at < c->in_n && left > 0) {
        took = h1_deliver(c, c->in + c->in_at, (size_t)MIN(left, (uint64_t)(c->in_n - c->in_at)));
        c->in_at += took;
    }
    if (c->x.body_seen == (uint64_t)c->x.length) {
        c->phase = H1_DONE;
        return true;
    }
    if (took > 0) {
        return true;
    }
    bool held_up = c->paused && !h1_discarding(c);
    return !held_up && c->readable && *budget > 0 && read_known(c, budget);
}

/* ---- chunked ---- */

static int bad(struct h1 *c, int status, const char *text)
{
    c->bad_status = status;
    snprintf(c->bad, sizeof c->bad, "%s", text);
    return HPE_USER;
}

int h1_on_body(llhttp_t *p, const char *at, size_t n)
{
    struct h1 *c = p->data;
    size_t took = h1_deliver(c, at, n);
    if (took < n) {
        c->held = (struct str){at + took, n - took};
        return HPE_PAUSED;
    }
    return 0;
}

int h1_on_chunk_header(llhttp_t *p)
{
    struct h1 *c = p->data;
    uint64_t end;
    if (p->content_length > 0 && ++c->chunks > H1_CHUNKS) {
        return bad(c, 400, "the body has more than 65536 chunks");
    }
    if (!ck_add(c->x.body_seen, p->content_length, &end) || end > c->h->limits.body) {
        char text[80];
        snprintf(text, sizeof text, "the body is larger than the limit of %llu bytes",
                 (unsigned long long)c->h->limits.body);
        return bad(c, 413, text);
    }
    return 0;
}

int h1_on_chunk_extension(llhttp_t *p, const char *at, size_t n)
{
    struct h1 *c = p->data;
    (void)at;
    c->extensions += (uint32_t)MIN(n + 1, (size_t)UINT16_MAX);
    return c->extensions > H1_EXTENSIONS ? bad(c, 400, "the chunk extensions of the body are too long") : 0;
}

int h1_on_message_complete(llhttp_t *p)
{
    ((struct h1 *)p->data)->phase = H1_DONE;
    return HPE_PAUSED;
}

/* Runs the parser over the buffer. */
static void parse_chunked(struct h1 *c)
{
    const char *from = c->in + c->in_at;
    enum llhttp_errno rc = llhttp_execute(&c->parser, from, c->in_n - c->in_at);
    size_t took = rc == HPE_OK ? c->in_n - c->in_at : (size_t)(llhttp_get_error_pos(&c->parser) - from);
    c->in_at += took;
    c->raw += took;
    if (rc != HPE_OK && rc != HPE_PAUSED) {
        char text[256];
        int status = h1_parser_problem(c, text, sizeof text);
        h1_refuse(c, status, "%s", text);
        return;
    }
    /* Sizes with endless leading zeros and the like: framing must stay small beside what it frames. */
    uint64_t framing = c->raw - c->x.body_seen - c->held.n;
    if (framing > 24 * ((uint64_t)c->chunks + 2) + H1_EXTENSIONS + c->h->limits.header_bytes) {
        h1_refuse(c, 400, "the framing of the chunked body is too large");
    }
}

static bool body_chunked(struct h1 *c, uint64_t *budget)
{
    if (c->held.n > 0) {
        size_t took = h1_deliver(c, c->held.p, c->held.n);
        c->held = (struct str){c->held.p + took, c->held.n - took};
        if (c->held.n > 0) {
            return took > 0;
        }
    }
    if (llhttp_get_errno(&c->parser) == HPE_PAUSED) {
        llhttp_resume(&c->parser);
    }
    if (c->paused && !h1_discarding(c)) {
        return false;
    }
    if (c->in_at < c->in_n) {
        parse_chunked(c);
        return true;
    }
    c->in_at = c->in_n = c->head_end;
    if (!c->readable || *budget == 0) {
        return false;
    }
    struct iovec room = {c->in + c->in_n, c->in_cap - c->in_n};
    size_t got = h1_recv(c, &room, 1, false);
    c->in_n += got;
    *budget -= MIN(*budget, (uint64_t)got);
    return got > 0;
}

bool h1_body(struct h1 *c, uint64_t *budget)
{
    return h1_chunked(c) ? body_chunked(c, budget) : body_known(c, budget);
}
