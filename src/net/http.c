/* SPDX-License-Identifier: Apache-2.0 */
/* What is the same whatever version of HTTP carries an exchange: limits, header fields, the parts of a target.
 *
 * Thread: any; these only read the exchange and allocate from its arena. */
#include "net/http.h"

#include "base/clock.h"

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
