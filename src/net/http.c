/* SPDX-License-Identifier: Apache-2.0 */
/* What is the same whatever version of HTTP carries an exchange: limits, header fields, the parts of a target.
 *
 * Thread: any for what only reads the exchange and allocates from its arena; the loop's for what a handler asks for,
 * which goes to what carries the exchange. */
#include "net/http_priv.h"

#include "base/clock.h"
#include "base/json.h"

void http_limits_default(struct http_limits *l)
{
    *l = (struct http_limits){
        .body = 64u << 20,
        .header_bytes = 32u << 10,
        .header_count = 100,
        .connections = 10000,
        .header_us = SECONDS(10),
        .body_us = SECONDS(30),
        .idle_us = SECONDS(75),
        .write_us = SECONDS(30),
        .discard = 128u << 20,
        .requests = 1000000,
    };
}

struct str http_header(const struct http_ex *x, const char *name)
{
    struct str want = str_of(name);
    for (size_t i = 0; i < x->n_headers; i++) {
        if (str_eq(x->headers[i].name, want)) {
            return x->headers[i].value;
        }
    }
    return (struct str){NULL, 0};
}

size_t http_header_count(const struct http_ex *x, const char *name)
{
    struct str want = str_of(name);
    size_t n = 0;
    for (size_t i = 0; i < x->n_headers; i++) {
        n += str_eq(x->headers[i].name, want);
    }
    return n;
}

static int hex_value(char ch)
{
    return ch >= '0' && ch <= '9'   ? ch - '0'
           : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10
           : ch >= 'A' && ch <= 'F' ? ch - 'A' + 10
                                    : -1;
}

struct str http_decode(struct http_ex *x, struct str s)
{
    const struct str bad = {NULL, 0};
    char *out = arena_alloc(x->arena, s.n + 1);
    size_t n = 0;
    if (out == NULL) {
        return bad;
    }
    for (size_t i = 0; i < s.n; i++) {
        char ch = s.p[i];
        if (ch == '%') {
            int high = i + 2 < s.n ? hex_value(s.p[i + 1]) : -1;
            int low = i + 2 < s.n ? hex_value(s.p[i + 2]) : -1;
            if (high < 0 || low < 0) {
                return bad;
            }
            ch = (char)(high * 16 + low);
            i += 2;
        }
        if (ch == '\0') {
            return bad;
        }
        out[n++] = ch;
    }
    out[n] = '\0';
    return (struct str){out, n};
}

struct str http_query(struct http_ex *x, const char *name)
{
    struct str want = str_of(name);
    for (const char *p = x->query.p, *end = p + x->query.n; p != NULL && p < end;) {
        const char *amp = memchr(p, '&', (size_t)(end - p));
        const char *stop = amp != NULL ? amp : end;
        const char *eq = memchr(p, '=', (size_t)(stop - p));
        struct str key = {p, (size_t)((eq != NULL ? eq : stop) - p)};
        if (str_eq(key, want)) {
            struct str value = eq != NULL ? (struct str){eq + 1, (size_t)(stop - eq - 1)} : STR("");
            return http_decode(x, value);
        }
        p = amp != NULL ? amp + 1 : end;
    }
    return (struct str){NULL, 0};
}

/* ---- what handlers ask for ---- */

void http_body_direct(struct http_ex *x, const struct iovec *to, size_t n)
{
    x->ops->body_direct(x, to, n);
}

void http_body_until(struct http_ex *x, uint64_t n)
{
    x->ops->body_until(x, n);
}

void http_body_pause(struct http_ex *x)
{
    x->ops->body_pause(x);
}

void http_body_resume(struct http_ex *x)
{
    x->ops->body_resume(x);
}

void http_reply_begin(struct http_ex *x, int status, const char *content_type)
{
    x->ops->reply_begin(x, status, content_type);
}

void http_reply_header(struct http_ex *x, const char *name, struct str value)
{
    x->ops->reply_header(x, name, value);
}

struct buf *http_reply_body(struct http_ex *x)
{
    return x->ops->reply_body(x);
}

void http_reply_end(struct http_ex *x)
{
    x->ops->reply_end(x);
}

void http_close_after(struct http_ex *x)
{
    x->ops->close_after(x);
}

void http_stream_begin(struct http_ex *x, const struct http_stream *s)
{
    x->ops->stream_begin(x, s);
}

bool http_stream_write(struct http_ex *x, struct str piece)
{
    return x->ops->stream_write(x, piece);
}

void http_stream_end(struct http_ex *x)
{
    x->ops->stream_end(x);
}

void http_stream_cut(struct http_ex *x)
{
    x->ops->stream_cut(x);
}

void http_reply(struct http_ex *x, int status, const char *content_type, struct str body)
{
    http_reply_begin(x, status, content_type);
    buf_add(http_reply_body(x), body.p, body.n);
    http_reply_end(x);
}

void http_reply_error(struct http_ex *x, const struct err *e)
{
    http_reply_begin(x, err_http(e->code), "application/json");
    if (err_retryable(e->code)) {
        http_reply_header(x, "Retry-After", STR("1"));
    }
    struct buf *b = http_reply_body(x);
    BUF_LIT(b, "{\"error\":");
    json_strz(b, e->text);
    BUF_LIT(b, "}");
    http_reply_end(x);
}

void http_line_add(struct buf *to, const char *name, struct str value)
{
    buf_addz(to, name);
    BUF_LIT(to, ": ");
    for (size_t i = 0; i < value.n;) {
        size_t from = i;
        while (i < value.n && (unsigned char)value.p[i] >= 0x20 && value.p[i] != 0x7f) {
            i++;
        }
        buf_add(to, value.p + from, i - from);
        i += i < value.n;
    }
    BUF_LIT(to, "\r\n");
}
