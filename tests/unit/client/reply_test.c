/* SPDX-License-Identifier: Apache-2.0 */
/* The reply parser by byte strings: every row is fed whole, byte by byte, and in two pieces at every border, and must
 * end the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "client/reply.h"

#define BODY_MAX 64

struct row {
    const char *what, *bytes;
    bool head, eof; /* the request was HEAD; the peer closes behind the bytes */
    enum reply_state end;
    int status;
    const char *body;
    bool keep;
    enum err_code code; /* of REPLY_BAD */
};

static const struct row rows[] = {
    {"length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, false, REPLY_DONE, 200, "hello", true, 0},
    {"no body", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, false, REPLY_DONE, 200, "", true, 0},
    {"chunks",
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n", false,
     false, REPLY_DONE, 200, "abcde", true, 0},
    {"until close", "HTTP/1.1 200 OK\r\n\r\nall of it", false, true, REPLY_DONE, 200, "all of it", false, 0},
    {"until close, not closed", "HTTP/1.1 200 OK\r\n\r\nall of it", false, false, REPLY_MORE, 200, "all of it", false,
     0},
    {"old version", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", false, false, REPLY_DONE, 200, "x", false, 0},
    {"close asked", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", false, false, REPLY_DONE, 200,
     "x", false, 0},
    {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", true, false, REPLY_DONE, 200, "", true, 0},
    {"204", "HTTP/1.1 204 No Content\r\n\r\n", false, false, REPLY_DONE, 204, "", true, 0},
    {"304 with a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", false, false, REPLY_DONE, 304, "",
     true, 0},
    {"interim", "HTTP/1.1 100 Continue\r\nX-A: 1\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok", false,
     false, REPLY_DONE, 201, "ok", true, 0},
    {"error with body", "HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}", false, false, REPLY_DONE,
     503, "{}", true, 0},
    {"cut in the head", "HTTP/1.1 200 OK\r\nContent-Le", false, true, REPLY_BAD, 0, NULL, false, ERR_UNAVAILABLE},
    {"cut in the body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", false, true, REPLY_BAD, 0, NULL, false,
     ERR_UNAVAILABLE},
    {"cut in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", false, true, REPLY_BAD, 0, NULL,
     false, ERR_UNAVAILABLE},
    {"cut after interim", "HTTP/1.1 100 Continue\r\n\r\n", false, true, REPLY_BAD, 0, NULL, false, ERR_UNAVAILABLE},
    {"nothing", "", false, true, REPLY_BAD, 0, NULL, false, ERR_UNAVAILABLE},
    {"no HTTP", "SSH-2.0-OpenSSH\r\n", false, false, REPLY_BAD, 0, NULL, false, ERR_UNAVAILABLE},
    {"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", false, false, REPLY_BAD, 0,
     NULL, false, ERR_UNAVAILABLE},
    {"both framings", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false,
     false, REPLY_BAD, 0, NULL, false, ERR_UNAVAILABLE},
    {"bad length", "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\nx", false, false, REPLY_BAD, 0, NULL, false,
     ERR_UNAVAILABLE},
    {"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", false, false, REPLY_BAD, 0, NULL,
     false, ERR_UNAVAILABLE},
    {"blank before colon", "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx", false, false, REPLY_BAD, 0, NULL, false,
     ERR_UNAVAILABLE},
    {"switch", "HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", false, false, REPLY_BAD, 0,
     NULL, false, ERR_UNAVAILABLE},
    {"strange status", "HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", false, false, REPLY_BAD, 0, NULL, false,
     ERR_UNAVAILABLE},
    {"longer than the limit", "HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n", false, false, REPLY_BAD, 0, NULL, false,
     ERR_TOO_LARGE},
    {"chunks beyond the limit",
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
     "40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n1\r\nx\r\n0\r\n\r\n",
     false, false, REPLY_BAD, 0, NULL, false, ERR_TOO_LARGE},
};

static void check(const struct row *r, size_t step, size_t first)
{
    struct http_answer a;
    struct reply p;
    size_t n = strlen(r->bytes), at = 0, used = 0;
    http_answer_init(&a, BODY_MAX);
    reply_init(&p, &a, r->head);
    enum reply_state s = REPLY_MORE;
    while (at < n && s == REPLY_MORE) {
        size_t piece = MIN(at == 0 && first ? first : step, n - at);
        s = reply_feed(&p, r->bytes + at, piece, &used);
        at += s == REPLY_MORE ? piece : used;
    }
    if (r->eof) {
        s = reply_eof(&p);
    }
    if (s != r->end) {
        fail_msg("%s (step %zu, first %zu): state %d, not %d: %s", r->what, step, first, s, r->end, p.err.text);
    }
    if (s == REPLY_BAD) {
        assert_int_equal(p.err.code, r->code);
        assert_true(p.err.text[0]);
        assert_false(p.keep);
    } else {
        assert_int_equal(a.status, r->status);
        assert_true(str_is(buf_str(&a.body), r->body));
    }
    if (s == REPLY_DONE) {
        assert_int_equal(p.keep, r->keep);
        assert_int_equal(at, n);
    }
    http_answer_done(&a);
}

static void replies_end_as_their_framing_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        size_t n = strlen(rows[i].bytes);
        check(&rows[i], MAX(n, (size_t)1), 0);
        check(&rows[i], 1, 0);
        for (size_t cut = 1; cut < n; cut++) {
            check(&rows[i], n, cut);
        }
    }
}

static void bytes_behind_a_reply_end_the_connection(void **state)
{
    (void)state;
    const char *two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n";
    struct http_answer a;
    struct reply p;
    size_t used = 0;
    http_answer_init(&a, BODY_MAX);
    reply_init(&p, &a, false);
    assert_int_equal(reply_feed(&p, two, strlen(two), &used), REPLY_DONE);
    assert_int_equal(used, strlen(two) - strlen("HTTP/1.1 200 OK\r\n"));
    assert_false(p.keep);
    assert_int_equal(reply_feed(&p, two, strlen(two), &used), REPLY_DONE); /* takes nothing more */
    assert_int_equal(used, 0);
    assert_true(str_is(buf_str(&a.body), "ok"));
    http_answer_done(&a);
}

static void header_fields_are_found_by_lower_case_names(void **state)
{
    (void)state;
    const char *text = "HTTP/1.1 100 C\r\nX-Lost: 1\r\n\r\nHTTP/1.1 200 OK\r\nX-Weir-Version:  2 \r\nEmpty:\r\n"
                       "X-Weir-Versions: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: 1\r\n\r\n";
    struct http_answer a;
    struct reply p;
    for (size_t step = 1; step < strlen(text); step += 7) {
        http_answer_init(&a, BODY_MAX);
        reply_init(&p, &a, false);
        for (size_t at = 0; at < strlen(text); at += step) {
            reply_feed(&p, text + at, MIN(step, strlen(text) - at), NULL);
        }
        assert_int_equal(p.state, REPLY_DONE);
        assert_true(str_is(http_answer_header(&a, "x-weir-version"), "2"));
        assert_true(str_is(http_answer_header(&a, "x-weir-versions"), "9"));
        assert_non_null(http_answer_header(&a, "empty").p);
        assert_int_equal(http_answer_header(&a, "empty").n, 0);
        assert_null(http_answer_header(&a, "x-weir").p);
        assert_null(http_answer_header(&a, "x-lost").p);
        assert_null(http_answer_header(&a, "x-trailer").p);
        http_answer_done(&a);
    }
}

static void endless_heads_and_interim_replies_are_refused(void **state)
{
    (void)state;
    struct http_answer a;
    struct reply p;
    char line[256];
    http_answer_init(&a, BODY_MAX);
    reply_init(&p, &a, false);
    reply_feed(&p, "HTTP/1.1 200 OK\r\n", 17, NULL);
    for (int i = 0; i < 1000 && p.state == REPLY_MORE; i++) {
        int n = snprintf(line, sizeof line, "X-Header-%d: %0200d\r\n", i, i);
        reply_feed(&p, line, (size_t)n, NULL);
    }
    assert_int_equal(p.state, REPLY_BAD);
    assert_int_equal(p.err.code, ERR_TOO_LARGE);
    reply_init(&p, &a, false);
    for (int i = 0; i < 100 && p.state == REPLY_MORE; i++) {
        reply_feed(&p, "HTTP/1.1 103 Early\r\n\r\n", 22, NULL);
    }
    assert_int_equal(p.state, REPLY_BAD);
    http_answer_done(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_end_as_their_framing_says),
        cmocka_unit_test(bytes_behind_a_reply_end_the_connection),
        cmocka_unit_test(header_fields_are_found_by_lower_case_names),
        cmocka_unit_test(endless_heads_and_interim_replies_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
