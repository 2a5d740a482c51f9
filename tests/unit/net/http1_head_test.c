/* SPDX-License-Identifier: Apache-2.0 */
/* Heads of requests: what is understood, what is refused and why, and that it makes no difference how the bytes arrive.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "support/http_rig.h"

#define HOST "Host: a\r\n"

/* Requests that are answered with 200; `want` is part of what the service was told. */
static const struct {
    const char *bytes, *want;
    bool closes;
} good[] = {
    {"GET / HTTP/1.1\r\n" HOST "\r\n", "method=0\npath=/\nquery=\nlength=0\nhost=[a]\nbody=0\n", false},
    {"HEAD /x HTTP/1.1\r\n" HOST "\r\n", "Content-Length: 49\r\n\r\n", false},
    {"POST /a/b%20c?x=1&y HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello",
     "method=2\npath=/a/b%20c\nquery=x=1&y\nlength=5\nhost=[a]\ncontent-length=[5]\nbody=5\n", false},
    {"PUT / HTTP/1.1\r\n" HOST "\r\n", "method=3\n", false},
    {"DELETE / HTTP/1.1\r\n" HOST "\r\n", "method=4\n", false},
    {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", "method=5\npath=*\n", false},
    {"PATCH / HTTP/1.1\r\n" HOST "\r\n", "method=6\n", false},
    {"WHAT-EVER / HTTP/1.1\r\n" HOST "\r\n", "method=6\n", false},
    {"GET / HTTP/1.1\r\nHOST:a\r\nX-Empty:\r\nX-Blank: \t \r\nX-Two:\t a b \t\r\n\r\n",
     "host=[a]\nx-empty=[]\nx-blank=[]\nx-two=[a b]\n", false},
    {"GET / HTTP/1.1\r\n" HOST "X-Bytes: \xc3\xa9\x80!\r\n\r\n", "x-bytes=[\xc3\xa9\x80!]\n", false},
    {"\r\n\r\nGET /late HTTP/1.1\r\n" HOST "\r\n", "path=/late\n", false},
    {"GET http://a HTTP/1.1\r\n" HOST "\r\n", "path=/\nquery=\n", false},
    {"GET http://a?q=1 HTTP/1.1\r\n" HOST "\r\n", "path=/\nquery=q=1\n", false},
    {"GET HTTPS://A:80/b?c HTTP/1.1\r\nHost: a:80\r\n\r\n", "path=/b\nquery=c\n", false},
    {"GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", "host=[[::1]:8000]\n", false},
    {"GET /?? HTTP/1.1\r\n" HOST "\r\n", "path=/\nquery=?\n", false},
    {"GET // HTTP/1.1\r\n" HOST "Upgrade: websocket\r\nConnection: upgrade\r\n\r\n", "path=//\n", false},
    {"GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", "Connection: close\r\n", true},
    {"GET / HTTP/1.1\r\n" HOST "Connection: x, CLOSE\r\n\r\n", "Connection: close\r\n", true},
    {"GET / HTTP/1.0\r\n\r\n", "Connection: close\r\n", true},
    {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "Connection: keep-alive\r\n", false},
    {"POST / HTTP/1.1\r\n" HOST
     "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b;c=\"d\"\r\n world\r\n0\r\nT: v\r\n\r\n",
     "length=-1\nhost=[a]\ntransfer-encoding=[chunked]\nbody=11\n", false},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: CHUNKED\r\n\r\n00000a\r\n0123456789\r\n000\r\n\r\n", "body=10\n",
     false},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0005\r\n\r\nhello", "length=5\n", false},
    {"POST / HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", "body=1\n", false},
    {"GET / HTTP/1.0\r\nExpect: what\r\n\r\n", "method=0\n", true},
};

static void received(struct rig *r, struct buf *into)
{
    rig_read(r);
    buf_clear(into);
    buf_add(into, r->got.p, r->got.n);
}

static void good_requests(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    struct buf whole;
    buf_init(&whole, 1 << 20);
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        size_t n = strlen(good[i].bytes);
        rig_connect(&r);
        rig_sendz(&r, good[i].bytes);
        if (rig_status(&r) != 200 || !rig_got(&r, good[i].want) || r.eof != good[i].closes) {
            fail_msg("row %zu: %s\nwas answered (closed: %d): %s", i, good[i].bytes, r.eof, buf_z(&r.got));
        }
        received(&r, &whole);
        rig_connect(&r);
        for (size_t k = 0; k < n; k++) { /* one byte a burst */
            rig_send(&r, good[i].bytes + k, 1);
        }
        rig_read(&r);
        if (strstr(good[i].bytes, "Expect: 100") != NULL) {
            assert_true(rig_got(&r, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"));
            buf_drop(&r.got, strlen("HTTP/1.1 100 Continue\r\n\r\n"));
        }
        if (!str_eq(buf_str(&whole), buf_str(&r.got)) || r.eof != good[i].closes) {
            fail_msg("row %zu, byte by byte: %s\nthen: %s", i, buf_z(&whole), buf_z(&r.got));
        }
    }
    assert_int_equal(r.gones, 0);
    assert_int_equal(r.completes, 2 * COUNT_OF(good));
    buf_done(&whole);
    rig_done(&r);
}

/* Requests that are refused before the service sees them. */
static const struct {
    int status;
    const char *bytes, *names; /* the answer names what was wrong */
} refused[] = {
    /* the request line */
    {400, "\x16\x03\x01\x02", "0x16"},
    {400, "GET / HTTP/1.1\n", "0x0a"},
    {400, "GET / HTTP/1.1\rx", "0x0d"},
    {400, "GET /\x80 HTTP/1.1\r\n", "0x80"},
    {400, "GET /\t HTTP/1.1\r\n", "0x09"},
    {400, "\n", "0x0a"},
    {400, "GET  / HTTP/1.1\r\n", "request line"},
    {400, "GET /  HTTP/1.1\r\n", "request line"},
    {400, "GET / HTTP/1.1 \r\n", "request line"},
    {400, " GET / HTTP/1.1\r\n", "request line"},
    {400, "GET / http/1.1\r\n", "request line"},
    {400, "GET / HTTP/1.x\r\n", "request line"},
    {400, "GET / HTTP/11\r\n", "request line"},
    {400, "GET /\r\n", "request line"},
    {400, "GET\r\n", "request line"},
    {400, "G@T / HTTP/1.1\r\n", "method"},
    {505, "GET / HTTP/1.2\r\n", "HTTP/1.2"},
    {505, "GET / HTTP/3.0\r\n", "HTTP/3.0"},
    {505, "GET / HTTP/0.9\r\n", "HTTP/0.9"},
    {505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2.0"},
    {400, "CONNECT a:1 HTTP/1.1\r\n" HOST "\r\n", "CONNECT"},
    {400, "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", "empty lines"},
    /* the target */
    {400, "GET a HTTP/1.1\r\n" HOST "\r\n", "target"},
    {400, "GET * HTTP/1.1\r\n" HOST "\r\n", "target"},
    {400, "GET ftp://a/ HTTP/1.1\r\n" HOST "\r\n", "target"},
    {400, "GET /a#b HTTP/1.1\r\n" HOST "\r\n", "fragment"},
    {400, "GET http://b/ HTTP/1.1\r\n" HOST "\r\n", "different hosts"},
    {400, "GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", "hosts"},
    {400, "GET http:///x HTTP/1.1\r\n" HOST "\r\n", "hosts"},
    /* Host */
    {400, "GET / HTTP/1.1\r\n\r\n", "'Host' is missing"},
    {400, "GET / HTTP/1.1\r\n" HOST HOST "\r\n", "'Host' was sent twice"},
    {400, "GET / HTTP/1.0\r\n" HOST HOST "\r\n", "'Host' was sent twice"},
    {400, "GET / HTTP/1.1\r\nHost:\r\n\r\n", "Host"},
    {400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "Host"},
    {400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "Host"},
    {400, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "Host"},
    {400, "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "Host"},
    {400, "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "Host"},
    {400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "Host"},
    {400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "Host"},
    {400, "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", "Host"},
    /* fields */
    {400, "GET / HTTP/1.1\r\n" HOST "a : b\r\n\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST " a: b\r\n\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n a: b\r\n" HOST "\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST "a: b\r\n c\r\n\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST "a: b\r\n\tc\r\n\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST "a b\r\n\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST "\x61\x80: b\r\n\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST "a: b\nc: d\r\n\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST "a: b\rc: d\r\n\r\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST "a: b\x01\r\n\r\n", "'a'"},
    {400, "GET / HTTP/1.1\r\n" HOST "a: b\x7f\r\n\r\n", "'a'"},
    {400, "GET / HTTP/1.1\r\n" HOST "\n", "header"},
    {400, "GET / HTTP/1.1\r\n" HOST "\rX", "header"},
    /* lengths */
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
     "'Content-Length' was sent twice"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both sent"},
    {400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", "both sent"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: \r\n\r\n", "content-length"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: +1\r\n\r\nx", "content-length"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\nx", "content-length"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x1\r\n\r\nx", "content-length"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1 1\r\n\r\nx", "content-length"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1,1\r\n\r\nx", "content-length"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 9223372036854775808\r\n\r\nx", "Content-Length"},
    {400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551616\r\n\r\nx", "content-length"},
    {413, "POST / HTTP/1.1\r\n" HOST "Content-Length: 9223372036854775807\r\n\r\nx", "limit"},
    {501, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding"},
    {400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding"},
    {400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "Transfer-Encoding"},
    {400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding"},
    {400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", "Transfer-Encoding"},
    {400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n0\r\n\r\n", "ransfer-"},
    {400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     "Transfer-Encoding"},
    {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding"},
    {417, "POST / HTTP/1.1\r\n" HOST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx", "Expect"},
    {400, "GET / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n", "'Expect' was sent twice"},
};

static void check_refusal(struct rig *r, size_t i, int status, const char *names)
{
    unsigned before = r->headers;
    int got = rig_status(r);
    if (got != status || !rig_got(r, names) || !r->eof || r->reset || !rig_got(r, "Connection: close\r\n") ||
        !rig_got(r, "{\"error\":\"") || rig_answers(r) != 1 || r->headers != before) {
        fail_msg("row %zu: wanted %d and \"%s\" and the end, got (end: %d, reset: %d): %s", i, status, names, r->eof,
                 r->reset, buf_z(&r->got));
    }
}

static void refused_requests(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        size_t n = strlen(refused[i].bytes);
        rig_connect(&r);
        rig_send(&r, refused[i].bytes, n);
        check_refusal(&r, i, refused[i].status, refused[i].names);
        rig_connect(&r);
        for (size_t k = 0; k < n; k++) {
            rig_send(&r, refused[i].bytes + k, 1);
        }
        check_refusal(&r, i, refused[i].status, refused[i].names);
        rig_connect(&r); /* and behind a good one */
        rig_sendz(&r, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
        rig_read(&r);
        buf_clear(&r.got);
        rig_send(&r, refused[i].bytes, n);
        check_refusal(&r, i, refused[i].status, refused[i].names);
    }
    assert_int_equal(r.headers, COUNT_OF(refused));
    rig_done(&r);
}

static void nul_is_refused_everywhere(void **state)
{
    (void)state;
    static const char request[] = "GET /abc HTTP/1.1\r\nHost: abc\r\nX: yz\r\n\r\n";
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (size_t at = 0; at < sizeof request - 1; at++) { /* in place of, and before, each byte */
        char bytes[sizeof request + 1];
        memcpy(bytes, request, sizeof request);
        bytes[at] = '\0';
        rig_connect(&r);
        rig_send(&r, bytes, sizeof request - 1);
        assert_int_equal(rig_status(&r), 400);
        memcpy(bytes + at + 1, request + at, sizeof request - 1 - at);
        rig_connect(&r);
        rig_send(&r, bytes, sizeof request);
        assert_int_equal(rig_status(&r), 400);
    }
    assert_int_equal(r.headers, 0);
    rig_done(&r);
}

/* A head of exactly n bytes. */
static char *head_of(size_t n, bool in_line)
{
    char *z = xmalloc(n + 1);
    const char *front = in_line ? "GET /" : "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    const char *back = in_line ? " HTTP/1.1\r\nHost: a\r\n\r\n" : "\r\n\r\n";
    memset(z, 'x', n);
    memcpy(z, front, strlen(front));
    memcpy(z + n - strlen(back), back, strlen(back) + 1);
    return z;
}

static void head_bytes_to_the_limit(void **state)
{
    (void)state;
    static const uint32_t limits[] = {200, 16 * 1024, 32 * 1024, 40000};
    for (size_t i = 0; i < COUNT_OF(limits); i++) {
        struct rig r;
        rig_init(&r);
        r.limits.header_bytes = limits[i];
        rig_open(&r);
        for (int k = 0; k < 8; k++) {
            bool in_line = k & 1, in_bytes = k & 2, over = k & 4;
            char *z = head_of(limits[i] + over, in_line);
            rig_connect(&r);
            size_t step = in_bytes ? limits[i] > 1000 ? 997 : 1 : SIZE_MAX;
            for (size_t at = 0, n = strlen(z); at < n; at += MIN(step, n - at)) {
                rig_send(&r, z + at, MIN(step, n - at));
            }
            assert_int_equal(rig_status(&r), over ? 431 : 200);
            if (!over) { /* the same connection goes on with its big buffer given back */
                rig_sendz(&r, "GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
                assert_true(rig_got(&r, "path=/again\n"));
                assert_int_equal(r.h->first->in_cap, H1_IN);
            }
            free(z);
        }
        rig_done(&r);
    }
}

static void endless_heads_are_cut(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (int k = 0; k < 2; k++) {
        rig_connect(&r);
        rig_sendz(&r, k ? "GET /" : "GET / HTTP/1.1\r\nX: ");
        for (size_t i = 0; i < 64 && !r.eof; i++) {
            char part[1024];
            memset(part, 'x', sizeof part);
            rig_send(&r, part, sizeof part);
            rig_read(&r);
        }
        assert_int_equal(rig_status(&r), 431);
        assert_true(r.eof);
    }
    rig_done(&r);
}

static void header_count_to_the_limit(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.limits.header_count = 20;
    rig_open(&r);
    for (unsigned n = 19; n <= 21; n++) {
        struct buf b;
        buf_init(&b, 1 << 16);
        buf_addz(&b, "GET / HTTP/1.1\r\nHost: a\r\n");
        for (unsigned i = 1; i < n; i++) {
            buf_addf(&b, "H%u: v\r\n", i);
        }
        buf_addz(&b, "\r\n");
        rig_connect(&r);
        rig_send(&r, b.p, b.n);
        assert_int_equal(rig_status(&r), n > 20 ? 431 : 200);
        assert_true(rig_got(&r, n > 20 ? "more than 20 header fields" : "h18=[v]"));
        buf_done(&b);
    }
    rig_done(&r);
}

static void body_length_to_the_limit(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.limits.body = 10;
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789");
    assert_int_equal(rig_status(&r), 200);
    rig_sendz(&r, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
    assert_int_equal(rig_status(&r), 413); /* before a byte of the body was sent */
    assert_int_equal(r.headers, 1);
    rig_done(&r);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    (void)state;
    static const char three[] = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
                                "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
                                "POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n";
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (size_t step = 1; step < sizeof three; step++) {
        rig_connect(&r);
        for (size_t at = 0; at < sizeof three - 1; at += step) {
            rig_send(&r, three + at, MIN(step, sizeof three - 1 - at));
        }
        assert_int_equal(rig_answers(&r), 3);
        const char *z = buf_z(&r.got), *one = strstr(z, "path=/1"), *two = strstr(z, "path=/2"),
                   *last = strstr(z, "path=/3");
        assert_true(one != NULL && one < two && two < last);
        assert_memory_equal(r.body.p + r.body.n - 5, "abcde", 5);
        assert_false(r.eof);
    }
    rig_done(&r);
}

static void the_next_request_waits_for_the_answer(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.when = RIG_NEVER;
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_sendz(&r, "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"); /* stays in the kernel: no spinning (rig_spin would not end) */
    assert_int_equal(r.headers, 1);
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(r.headers, i);
        http_reply(r.x, 200, "text/plain", STR("later"));
        assert_int_equal(r.finishes, i - 1); /* not within the call */
        rig_spin(&r);
        assert_int_equal(r.finishes, i);
        assert_int_equal(rig_answers(&r), i);
    }
    rig_done(&r);
}

static void many_pipelined_requests_leave_room_for_others(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    rig_connect(&r);
    struct buf b;
    buf_init(&b, 1 << 20);
    for (unsigned i = 0; i < 300; i++) {
        BUF_LIT(&b, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    assert_int_equal(write(r.fd, b.p, b.n), b.n);
    loop_once(r.loop, 0);
    assert_int_equal(r.headers, H1_BURST_REQUESTS);
    loop_once(r.loop, 0);
    assert_int_equal(r.headers, 2 * H1_BURST_REQUESTS);
    rig_spin(&r);
    rig_read(&r);
    assert_int_equal(r.headers, 300);
    assert_int_equal(rig_answers(&r), 300);
    buf_done(&b);
    rig_done(&r);
}

static void a_connection_ends_after_so_many_requests(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.limits.requests = 2;
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r,
              "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(rig_answers(&r), 2);
    assert_true(r.eof && !r.reset);
    assert_true(rig_got(&r, "Connection: close\r\n"));
    assert_int_equal(r.headers, 2);
    rig_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_requests),
        cmocka_unit_test(refused_requests),
        cmocka_unit_test(nul_is_refused_everywhere),
        cmocka_unit_test(head_bytes_to_the_limit),
        cmocka_unit_test(endless_heads_are_cut),
        cmocka_unit_test(header_count_to_the_limit),
        cmocka_unit_test(body_length_to_the_limit),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(the_next_request_waits_for_the_answer),
        cmocka_unit_test(many_pipelined_requests_leave_room_for_others),
        cmocka_unit_test(a_connection_ends_after_so_many_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
