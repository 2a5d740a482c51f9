/* SPDX-License-Identifier: Apache-2.0 */
/* The head of an HTTP/1 request: the request line here, header fields by llhttp, what both must agree on here again.
 *
 * The request line is read by our own strict code, because a token that llhttp does not list is still a method to us,
 * and because the versions we do not speak deserve their own answer. llhttp then starts from a copy of a parser that
 * has just read a line of the same version (fresh[]), and pauses behind the empty line. No lenient flag is set.
 *
 * Fields are spans of the read buffer, which stays in place until the exchange is over; only while a head is still
 * coming in may the buffer grow, and then the spans are moved with it.
 *
 * Thread: the loop's. */
#include "net/http1_priv.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

/* ---- the request line ---- */

static bool is_tchar(char ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
           (ch != '\0' && strchr("!#$%&'*+-.^_`|~", ch) != NULL);
}

static enum http_method method_of(struct str s)
{
    static const struct {
        struct str name;
        enum http_method method;
    } table[] = {
        {STR("GET"), HTTP_GET}, {STR("POST"), HTTP_POST},     {STR("HEAD"), HTTP_HEAD},
        {STR("PUT"), HTTP_PUT}, {STR("DELETE"), HTTP_DELETE}, {STR("OPTIONS"), HTTP_OPTIONS},
    };
    for (size_t i = 0; i < COUNT_OF(table); i++) {
        if (str_eq(s, table[i].name)) {
            return table[i].method;
        }
    }
    return HTTP_OTHER;
}

/* "METHOD target HTTP/1.x", without its CRLF. */
static int parse_line(struct h1 *c, struct str line)
{
    size_t m = 0;
    while (m < line.n && is_tchar(line.p[m])) {
        m++;
    }
    if (m == 0 || m > 64 || m == line.n || line.p[m] != ' ') {
        h1_refuse(c, 400, "the request line does not begin with a method and one blank");
        return -1;
    }
    const char *target = line.p + m + 1;
    const char *end = memchr(target, ' ', line.n - m - 1);
    struct str version = end ? (struct str){end + 1, (size_t)(line.p + line.n - end - 1)} : STR("");
    if (end == NULL || end == target || version.n != 8 || memcmp(version.p, "HTTP/", 5) != 0 || version.p[5] < '0' ||
        version.p[5] > '9' || version.p[6] != '.' || version.p[7] < '0' || version.p[7] > '9') {
        h1_refuse(c, 400, "the request line is not 'METHOD target HTTP/1.1'");
        return -1;
    }
    if (version.p[5] != '1' || version.p[7] > '1') {
        h1_refuse(c, 505, STR_FMT " is not spoken here, only HTTP/1.0 and HTTP/1.1", STR_ARG(version));
        return -1;
    }
    c->http10 = version.p[7] == '0';
    c->x.method = method_of((struct str){line.p, m});
    if (m == 7 && memcmp(line.p, "CONNECT", 7) == 0) {
        h1_refuse(c, 400, "CONNECT is not possible: this is not a proxy");
        return -1;
    }
    c->target_at = m + 1;
    c->target_n = (size_t)(end - target);
    return 1;
}

/* 1: the line is complete; 0: more input is needed; -1: refused. */
static int read_line(struct h1 *c)
{
    while (c->parsed < c->in_n) {
        unsigned char before = c->parsed > c->head_at ? (unsigned char)c->in[c->parsed - 1] : 0;
        unsigned char ch = (unsigned char)c->in[c->parsed++];
        bool fits = before == '\r' ? ch == '\n' : (ch >= 0x20 && ch < 0x7f) || ch == '\r';
        if (!fits) {
            h1_refuse(c, 400, "the request line holds the byte 0x%02x%s", before == '\r' ? before : ch,
                      before == '\r' || ch == '\n' ? " that is not part of a line end" : "");
            return -1;
        }
        if (ch != '\n') {
            continue;
        }
        if (c->parsed - c->head_at ==
            2) { /* an empty line before the request: some clients end a body with one too many */
            if (++c->empty_lines > H1_EMPTY_LINES) {
                h1_refuse(c, 400, "too many empty lines before the request");
                return -1;
            }
            c->head_at = c->in_at = c->parsed;
            continue;
        }
        if (c->parsed - c->head_at > c->h->limits.header_bytes) {
            break;
        }
        return parse_line(c, (struct str){c->in + c->head_at, c->parsed - c->head_at - 2});
    }
    if (c->parsed - c->head_at >= c->h->limits.header_bytes) {
        h1_refuse(c, 431, "the request line is longer than %u bytes", c->h->limits.header_bytes);
        return -1;
    }
    return 0;
}

/* ---- what llhttp calls ---- */

static int bad(struct h1 *c, int status, const char *text)
{
    c->bad_status = status;
    snprintf(c->bad, sizeof c->bad, "%s", text);
    return HPE_USER;
}

static int on_trailer(struct h1 *c, size_t n)
{
    c->trailers += (uint32_t)MIN(n, (size_t)UINT16_MAX);
    return c->trailers > c->h->limits.header_bytes ? bad(c, 431, "the trailer fields are too large") : 0;
}

static int on_field(llhttp_t *p, const char *at, size_t n)
{
    struct h1 *c = p->data;
    if (c->phase == H1_BODY) {
        return on_trailer(c, n);
    }
    struct http_header *f = &c->hdr[c->n_hdr];
    if (!c->in_header) {
        if (c->n_hdr == c->h->limits.header_count) {
            char text[64];
            snprintf(text, sizeof text, "more than %u header fields", c->h->limits.header_count);
            return bad(c, 431, text);
        }
        c->in_header = true;
        *f = (struct http_header){.name = {at, 0}};
    }
    f->name.n += n;
    return 0;
}

static int on_field_complete(llhttp_t *p)
{
    struct h1 *c = p->data;
    if (c->phase == H1_BODY || !c->in_header) {
        return 0;
    }
    struct str name = c->hdr[c->n_hdr].name;
    char *z = c->in + (name.p - c->in); /* the same bytes; the buffer is ours to write */
    for (size_t i = 0; i < name.n; i++) {
        z[i] = (char)(z[i] + (z[i] >= 'A' && z[i] <= 'Z' ? 'a' - 'A' : 0));
    }
    return 0;
}

static int on_value(llhttp_t *p, const char *at, size_t n)
{
    struct h1 *c = p->data;
    if (c->phase == H1_BODY) {
        return on_trailer(c, n);
    }
    struct http_header *f = &c->hdr[c->n_hdr];
    if (f->value.p == NULL) {
        f->value.p = at;
    } else if (f->value.p + f->value.n != at) {
        return bad(c, 400, "a header field goes on in the next line");
    }
    f->value.n += n;
    return 0;
}

static int on_value_complete(llhttp_t *p)
{
    struct h1 *c = p->data;
    if (c->phase == H1_BODY) {
        return on_trailer(c, 4);
    }
    struct http_header *f = &c->hdr[c->n_hdr++];
    c->in_header = false;
    if (f->value.p == NULL) {
        f->value.p = f->name.p + f->name.n;
    }
    while (f->value.n > 0 && (f->value.p[f->value.n - 1] == ' ' || f->value.p[f->value.n - 1] == '\t')) {
        f->value.n--;
    }
    return 0;
}

static int on_headers_complete(llhttp_t *p)
{
    (void)p;
    return HPE_PAUSED; /* h1_head takes over; only chunked bodies come back to llhttp */
}

void h1_parsers_init(struct http_listener *h)
{
    llhttp_settings_init(&h->settings);
    h->settings.on_header_field = on_field;
    h->settings.on_header_field_complete = on_field_complete;
    h->settings.on_header_value = on_value;
    h->settings.on_header_value_complete = on_value_complete;
    h->settings.on_headers_complete = on_headers_complete;
    h->settings.on_body = h1_on_body;
    h->settings.on_chunk_header = h1_on_chunk_header;
    h->settings.on_chunk_extension_name = h1_on_chunk_extension;
    h->settings.on_chunk_extension_value = h1_on_chunk_extension;
    h->settings.on_message_complete = h1_on_message_complete;
    static const char *const line[2] = {"GET / HTTP/1.0\r\n", "GET / HTTP/1.1\r\n"};
    for (size_t i = 0; i < 2; i++) {
        llhttp_init(&h->fresh[i], HTTP_REQUEST, &h->settings);
        enum llhttp_errno rc = llhttp_execute(&h->fresh[i], line[i], strlen(line[i]));
        assert(rc == HPE_OK);
        (void)rc;
    }
}

/* What is wrong with the two lengths, where the parser stopped at one of them; NULL: something else. */
static const char *lengths_problem(const struct h1 *c, struct str name)
{
    bool length = str_eq(name, STR("content-length")), encoding = str_eq(name, STR("transfer-encoding"));
    size_t lengths = http_header_count(&c->x, "content-length") + length;
    size_t encodings = http_header_count(&c->x, "transfer-encoding") + encoding;
    if ((length || encoding) && lengths > 0 && encodings > 0) {
        return "headers 'Content-Length' and 'Transfer-Encoding' were both sent";
    }
    if (length && lengths > 1) {
        return "header 'Content-Length' was sent twice";
    }
    return encoding && encodings > 1 ? "header 'Transfer-Encoding' was sent twice" : NULL;
}

int h1_parser_problem(struct h1 *c, char *text, size_t cap)
{
    if (c->bad_status != 0) {
        snprintf(text, cap, "%s", c->bad);
        return c->bad_status;
    }
    const char *reason = llhttp_get_error_reason(&c->parser);
    reason = reason ? reason : "";
    if (c->phase == H1_BODY) {
        snprintf(text, cap, "malformed chunked body: %s", reason);
        return 400;
    }
    struct str name = c->in_header ? c->hdr[c->n_hdr].name : STR("");
    const char *lengths = lengths_problem(c, name);
    if (lengths != NULL) {
        snprintf(text, cap, "%s", lengths);
    } else if (name.n > 0) {
        snprintf(text, cap, "malformed header '%.*s': %s", (int)MIN(name.n, (size_t)64), name.p, reason);
    } else {
        snprintf(text, cap, "malformed header fields: %s", reason);
    }
    return 400;
}

/* ---- checks over the whole head ---- */

/* host[:port] as RFC 9110 has it: a name or IPv4 address, or an IPv6 address in brackets. */
static bool host_ok(struct str s)
{
    size_t i = 0;
    if (s.n > 0 && s.p[0] == '[') {
        for (i = 1; i < s.n && s.p[i] != ']'; i++) {
            if (strchr("0123456789abcdefABCDEF:.", s.p[i]) == NULL || s.p[i] == '\0') {
                return false;
            }
        }
        if (i == s.n || i == 1) {
            return false;
        }
        i++;
    } else {
        while (i < s.n && s.p[i] != ':') {
            char ch = s.p[i++];
            bool alnum = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
            if (!alnum && (ch == '\0' || strchr("-._~%!$&'()*+,;=", ch) == NULL)) {
                return false;
            }
        }
        if (i == 0) {
            return false;
        }
    }
    uint64_t port;
    struct str rest = {s.p + i, s.n - i};
    return rest.n == 0 || (rest.p[0] == ':' &&
                           (rest.n == 1 || (str_u64((struct str){rest.p + 1, rest.n - 1}, &port) && port <= 65535)));
}

static bool has_prefix(struct str s, const char *z)
{
    size_t n = strlen(z);
    return s.n >= n && str_eq_nocase((struct str){s.p, n}, (struct str){z, n});
}

/* Splits the target into path and query; its authority must be the Host. */
static int check_target(struct h1 *c, const struct str *host)
{
    struct str t = {c->in + c->head_at + c->target_at, c->target_n};
    if (memchr(t.p, '#', t.n) != NULL) {
        h1_refuse(c, 400, "the request target holds a fragment ('#')");
        return -1;
    }
    if (t.p[0] != '/') {
        size_t scheme = has_prefix(t, "http://") ? 7 : has_prefix(t, "https://") ? 8 : 0;
        if (t.n == 1 && t.p[0] == '*' && c->x.method == HTTP_OPTIONS) {
            c->x.path = t;
            return 1;
        }
        if (scheme == 0) {
            h1_refuse(c, 400, "the request target must be a path or an http URL");
            return -1;
        }
        struct str authority = {t.p + scheme, 0};
        while (scheme + authority.n < t.n && strchr("/?", authority.p[authority.n]) == NULL) {
            authority.n++;
        }
        if (!host_ok(authority) || (host != NULL && !str_eq_nocase(authority, *host))) {
            h1_refuse(c, 400, "the request target and the header 'Host' name different hosts");
            return -1;
        }
        t = (struct str){authority.p + authority.n, t.n - scheme - authority.n};
    }
    const char *mark = t.n ? memchr(t.p, '?', t.n) : NULL;
    c->x.path = mark ? (struct str){t.p, (size_t)(mark - t.p)} : t;
    if (c->x.path.n == 0) {
        c->x.path = STR("/");
    }
    c->x.query = mark ? (struct str){mark + 1, (size_t)(t.p + t.n - mark - 1)} : STR("");
    return 1;
}

/* The fields that this layer itself acts on. */
struct fields {
    const struct str *host, *length, *encoding, *expect;
};

static int find_fields(struct h1 *c, struct fields *f)
{
    const struct {
        struct str name;
        const struct str **at;
        const char *shown;
    } want[] = {
        {STR("host"), &f->host, "Host"},
        {STR("content-length"), &f->length, "Content-Length"},
        {STR("transfer-encoding"), &f->encoding, "Transfer-Encoding"},
        {STR("expect"), &f->expect, "Expect"},
    };
    for (size_t i = 0; i < c->n_hdr; i++) {
        for (size_t k = 0; k < COUNT_OF(want); k++) {
            if (c->hdr[i].name.n != want[k].name.n || !str_eq(c->hdr[i].name, want[k].name)) {
                continue;
            }
            if (*want[k].at != NULL) {
                h1_refuse(c, 400, "header '%s' was sent twice", want[k].shown);
                return -1;
            }
            *want[k].at = &c->hdr[i].value;
        }
    }
    return 1;
}

static bool names_chunked(struct str s)
{
    for (size_t i = 0; i + 7 <= s.n; i++) {
        if (str_eq_nocase((struct str){s.p + i, 7}, STR("chunked"))) {
            return true;
        }
    }
    return false;
}

/* Sets x.length. */
static int check_length(struct h1 *c, const struct fields *f)
{
    uint64_t n = 0;
    if (f->length && f->encoding) {
        h1_refuse(c, 400, "headers 'Content-Length' and 'Transfer-Encoding' were both sent");
        return -1;
    }
    if (f->encoding) {
        if (!str_eq_nocase(*f->encoding, STR("chunked")) || c->http10) {
            bool known = names_chunked(*f->encoding) || c->http10 || f->encoding->n == 0;
            h1_refuse(c, known ? 400 : 501, "header 'Transfer-Encoding' must be 'chunked' and nothing else%s",
                      c->http10 ? ", and is not part of HTTP/1.0" : "");
            return -1;
        }
        c->x.length = -1;
        return 1;
    }
    if (f->length && (!str_u64(*f->length, &n) || n > INT64_MAX)) {
        h1_refuse(c, 400, "header 'Content-Length' is not a number of bytes");
        return -1;
    }
    c->x.length = (int64_t)n;
    if (n > c->h->limits.body) {
        h1_refuse(c, 413, "the body has %llu bytes, the limit is %llu", (unsigned long long)n,
                  (unsigned long long)c->h->limits.body);
        return -1;
    }
    return 1;
}

/* The head is here: checks it and fills in x. */
static int check_head(struct h1 *c)
{
    struct fields f = {0};
    if (find_fields(c, &f) < 0) {
        return -1;
    }
    if (f.host == NULL && !c->http10) {
        h1_refuse(c, 400, "header 'Host' is missing");
        return -1;
    }
    if (f.host != NULL && !host_ok(*f.host)) {
        h1_refuse(c, 400, "header 'Host' is not a host");
        return -1;
    }
    if (check_target(c, f.host) < 0) {
        return -1;
    }
    uint16_t flags = c->parser.flags;
    c->keep_asked = (flags & F_CONNECTION_KEEP_ALIVE) != 0;
    c->close = (flags & F_CONNECTION_CLOSE) != 0 || (c->http10 && !c->keep_asked) ||
               ++c->n_requests >= c->h->limits.requests || c->h->draining;
    if (f.expect != NULL && !c->http10) {
        if (!str_eq_nocase(*f.expect, STR("100-continue"))) {
            h1_refuse(c, 417, "header 'Expect' asks for something else than '100-continue'");
            return -1;
        }
        c->expects = true;
    }
    return check_length(c, &f);
}

bool h1_in_move(struct h1 *c, size_t from, size_t cap)
{
    assert(from <= c->in_at && cap >= c->in_n - from);
    char *in = malloc(cap);
    if (in == NULL) {
        return false;
    }
    memcpy(in, c->in + from, c->in_n - from);
    size_t n = c->n_hdr + (c->in_header ? 1 : 0);
    for (size_t i = 0; i < n; i++) {
        struct http_header *f = &c->hdr[i];
        f->name.p = in + (f->name.p - (c->in + from));
        f->value.p = f->value.p ? in + (f->value.p - (c->in + from)) : NULL;
    }
    free(c->in);
    c->in = in;
    c->in_cap = cap;
    c->in_at -= from;
    c->in_n -= from;
    c->head_at -= MIN(c->head_at, from);
    c->parsed -= MIN(c->parsed, from);
    c->head_end -= MIN(c->head_end, from);
    return true;
}

int h1_head(struct h1 *c)
{
    if (!c->line_done) {
        int rc = read_line(c);
        if (rc <= 0) {
            return rc;
        }
        c->line_done = true;
        c->parser = c->h->fresh[c->http10 ? 0 : 1];
        c->parser.data = c;
    }
    size_t limit = c->head_at + c->h->limits.header_bytes, end = MIN(c->in_n, limit);
    enum llhttp_errno rc = HPE_OK;
    if (end > c->parsed) {
        rc = llhttp_execute(&c->parser, c->in + c->parsed, end - c->parsed);
    }
    c->x.headers = c->hdr;
    c->x.n_headers = c->n_hdr;
    if (rc == HPE_OK) {
        c->parsed = end;
        if (end >= limit) {
            h1_refuse(c, 431, "the head of the request is larger than %u bytes", c->h->limits.header_bytes);
            return -1;
        }
        return 0;
    }
    if (rc != HPE_PAUSED) {
        char text[256];
        int status = h1_parser_problem(c, text, sizeof text);
        h1_refuse(c, status, "%s", text);
        return -1;
    }
    c->head_end = (size_t)(llhttp_get_error_pos(&c->parser) - c->in);
    c->in_at = c->parsed = c->head_end;
    if (c->in_cap - c->head_end < H1_BODY_ROOM && (c->parser.flags & F_CHUNKED)) {
        size_t from = c->head_at;
        if (!h1_in_move(c, from, MAX(c->in_n - from, c->head_end - from + H1_BODY_ROOM))) {
            h1_refuse(c, 503, "no memory for the request");
            return -1;
        }
    }
    return check_head(c);
}
