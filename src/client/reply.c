/* SPDX-License-Identifier: Apache-2.0 */
/* The reply parser: llhttp's callbacks write header lines and body straight into the answer's buffers.
 *
 * A callback that refuses leaves its reason in reply->err and returns HPE_USER; whatever llhttp itself refuses is
 * reported with llhttp's own words. Parsing is paused at the end of the real reply, so that bytes behind it are
 * noticed: a connection that carries bytes nobody asked for is not used again. */
#include "client/reply.h"

#include <inttypes.h>

static struct reply *reply_of(llhttp_t *p)
{
    return p->data;
}

static int refuse_head(struct reply *r)
{
    err_set(&r->err, ERR_TOO_LARGE, "the reply's header fields are larger than %u bytes", REPLY_HEAD_MAX);
    return HPE_USER;
}

static int refuse_body(struct reply *r)
{
    err_set(&r->err, ERR_TOO_LARGE, "the reply's body is larger than the limit of %zu bytes", r->out->body.max);
    return HPE_USER;
}

static void line_end(struct reply *r)
{
    struct buf *h = &r->out->head;
    while (h->n > 0 && (h->p[h->n - 1] == ' ' || h->p[h->n - 1] == '\t')) {
        h->n--;
    }
    buf_addc(h, '\n');
    r->line_open = false;
}

static int on_header_field(llhttp_t *p, const char *at, size_t n)
{
    struct reply *r = reply_of(p);
    if (r->in_trailers) {
        return 0;
    }
    if (r->line_open) {
        line_end(r);
    }
    for (size_t i = 0; i < n; i++) {
        buf_addc(&r->out->head, at[i] >= 'A' && at[i] <= 'Z' ? (char)(at[i] + 32) : at[i]);
    }
    return r->out->head.over ? refuse_head(r) : 0;
}

static int on_header_field_complete(llhttp_t *p)
{
    struct reply *r = reply_of(p);
    if (!r->in_trailers) {
        BUF_LIT(&r->out->head, ":");
        r->line_open = true;
    }
    return r->out->head.over ? refuse_head(r) : 0;
}

static int on_header_value(llhttp_t *p, const char *at, size_t n)
{
    struct reply *r = reply_of(p);
    if (!r->in_trailers) {
        buf_add(&r->out->head, at, n);
    }
    return r->out->head.over ? refuse_head(r) : 0;
}

static int on_header_value_complete(llhttp_t *p)
{
    struct reply *r = reply_of(p);
    if (!r->in_trailers && r->line_open) {
        line_end(r);
    }
    return r->out->head.over ? refuse_head(r) : 0;
}

/* 1 tells llhttp that no body follows. */
static int on_headers_complete(llhttp_t *p)
{
    struct reply *r = reply_of(p);
    int status = llhttp_get_status_code(p);
    if (r->line_open) {
        line_end(r);
    }
    if (status < 100 || status > 599 || status == 101) {
        err_set(&r->err, ERR_UNAVAILABLE, "the reply has the status %d, which nobody asked for", status);
        return HPE_USER;
    }
    if (status < 200) {
        return 1;
    }
    r->final = true;
    r->in_trailers = true; /* header fields from here on come behind the body */
    r->out->status = status;
    if (r->no_body || status == 204 || status == 304) {
        return 1;
    }
    if ((p->flags & F_CONTENT_LENGTH) && p->content_length > r->out->body.max) {
        return refuse_body(r);
    }
    return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t n)
{
    struct reply *r = reply_of(p);
    buf_add(&r->out->body, at, n);
    return r->out->body.over ? refuse_body(r) : 0;
}

static int on_message_complete(llhttp_t *p)
{
    struct reply *r = reply_of(p);
    if (!r->final) {
        if (++r->interim > REPLY_INTERIM_MAX) {
            err_set(&r->err, ERR_UNAVAILABLE, "more than %d interim replies", REPLY_INTERIM_MAX);
            return HPE_USER;
        }
        buf_clear(&r->out->head);
        return 0;
    }
    r->keep = llhttp_should_keep_alive(p) != 0;
    r->state = REPLY_DONE;
    return HPE_PAUSED;
}

static const llhttp_settings_t callbacks = {
    .on_header_field = on_header_field,
    .on_header_field_complete = on_header_field_complete,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

void reply_init(struct reply *r, struct http_answer *out, bool head_request)
{
    memset(r, 0, sizeof *r);
    r->out = out;
    r->no_body = head_request;
    out->status = 0;
    buf_clear(&out->head);
    buf_clear(&out->body);
    llhttp_init(&r->parser, HTTP_RESPONSE, &callbacks);
    r->parser.data = r;
}

static enum reply_state went_bad(struct reply *r)
{
    if (r->err.code == ERR_OK) {
        const char *why = llhttp_get_error_reason(&r->parser);
        err_set(&r->err, ERR_UNAVAILABLE, "the reply is not HTTP/1.1: %s", why && *why ? why : "malformed");
    }
    r->keep = false;
    r->state = REPLY_BAD;
    return REPLY_BAD;
}

enum reply_state reply_feed(struct reply *r, const char *p, size_t n, size_t *used)
{
    if (used) {
        *used = 0;
    }
    if (r->state != REPLY_MORE || n == 0) {
        return r->state;
    }
    r->started = true;
    llhttp_errno_t rc = llhttp_execute(&r->parser, p, n);
    if (rc == HPE_OK) {
        if (used) {
            *used = n;
        }
        return REPLY_MORE;
    }
    if (rc != HPE_PAUSED || r->state != REPLY_DONE) {
        return went_bad(r);
    }
    const char *end = llhttp_get_error_pos(&r->parser);
    size_t eaten = end ? (size_t)(end - p) : n;
    if (eaten < n) {
        r->keep = false; /* bytes that belong to no request */
    }
    if (used) {
        *used = eaten;
    }
    return REPLY_DONE;
}

enum reply_state reply_eof(struct reply *r)
{
    if (r->state != REPLY_MORE) {
        return r->state;
    }
    if (!r->started) {
        err_set(&r->err, ERR_UNAVAILABLE, "the connection was closed before a reply came");
        return went_bad(r);
    }
    /* llhttp_finish also accepts an end before any message; only `final` makes it the end of a reply. */
    llhttp_errno_t rc = r->final ? llhttp_finish(&r->parser) : HPE_INVALID_EOF_STATE;
    r->keep = false;
    if (r->state == REPLY_DONE && (rc == HPE_OK || rc == HPE_PAUSED)) {
        r->keep = false;
        return REPLY_DONE;
    }
    err_set(&r->err, ERR_UNAVAILABLE, "the connection was closed in the middle of the reply");
    return went_bad(r);
}
