/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies: of known length and chunked, into `body` and into direct targets, paused, refused early, malformed. However
 * the bytes are cut on their way, the handler must end up with the same. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "support/http_rig.h"

static const size_t steps[] = {1, 3, 7, 61, 4096, 16384, SIZE_MAX};

static void send_in_steps(struct rig *r, const char *p, size_t n, size_t step)
{
    for (size_t at = 0; at < n; at += MIN(step, n - at)) {
        rig_send(r, p + at, MIN(step, n - at));
    }
}

static void fill(char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        p[i] = (char)(i * 7 + i / 251);
    }
}

/* A request with that body; chunk == 0: with a length, else in chunks of that size. */
static void request(struct buf *b, const char *body, size_t n, size_t chunk)
{
    buf_init(b, 64 << 20);
    BUF_LIT(b, "POST /b HTTP/1.1\r\nHost: a\r\n");
    if (chunk == 0) {
        buf_addf(b, "Content-Length: %zu\r\n\r\n", n);
        buf_add(b, body, n);
        return;
    }
    BUF_LIT(b, "Transfer-Encoding: chunked\r\n\r\n");
    for (size_t at = 0; at < n; at += chunk) {
        size_t part = MIN(chunk, n - at);
        buf_addf(b, "%zx\r\n", part);
        buf_add(b, body + at, part);
        BUF_LIT(b, "\r\n");
    }
    BUF_LIT(b, "0\r\n\r\n");
}

/* until bytes through `body`, then n_direct targets of the given sizes, the rest through `body` again. */
static const struct {
    size_t until, target[6];
} layouts[] = {
    {0, {0}},    {0, {2000}},  {0, {1, 2, 3, 5, 700, 1289}}, {0, {300}}, {0, {0, 300, 0, 1, 0}},
    {40, {0}},   {40, {1960}}, {40, {1, 1, 958, 1000}},      {40, {17}}, {1999, {1}},
    {2000, {0}}, {1, {1999}},
};

static void check_layout(struct rig *r, size_t layout, size_t chunk, size_t step, const char *body, size_t n)
{
    static char target[6][2048];
    struct iovec iov[6];
    struct buf b;
    size_t direct = 0;
    r->until = layouts[layout].until;
    r->n_direct = 0;
    for (size_t i = 0; i < 6; i++) {
        iov[r->n_direct++] = (struct iovec){target[i], layouts[layout].target[i]};
        direct += layouts[layout].target[i];
        memset(target[i], 0, sizeof target[i]);
    }
    r->direct = iov;
    r->n_direct = direct > 0 ? 6 : 0;
    buf_clear(&r->body);
    request(&b, body, n, chunk);
    BUF_LIT(
        &b,
        "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); /* must not be taken for a part of the body */
    rig_connect(r);
    unsigned completes = r->completes;
    send_in_steps(r, b.p, b.n, step);
    rig_read(r);
    if (r->completes != completes + 2 || !rig_got(r, "body=2000\n") || !rig_got(r, "path=/next") || !r->eof) {
        fail_msg("layout %zu chunk %zu step %zu: %s", layout, chunk, step, buf_z(&r->got));
    }
    size_t before = layouts[layout].until, at = before;
    for (size_t i = 0; i < 6 && direct > 0; i++) {
        assert_memory_equal(target[i], body + at, layouts[layout].target[i]);
        at += layouts[layout].target[i];
    }
    assert_int_equal(r->body.n, n - direct);
    assert_memory_equal(r->body.p, body, before);
    assert_memory_equal(r->body.p + before, body + at, n - at);
    buf_done(&b);
}

static void bodies_however_they_are_cut(void **state)
{
    (void)state;
    static char body[2000];
    static const size_t chunks[] = {0, 1, 13, 1000, 2000};
    fill(body, sizeof body);
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (size_t l = 0; l < COUNT_OF(layouts); l++) {
        for (size_t c = 0; c < COUNT_OF(chunks); c++) {
            for (size_t s = 0; s < COUNT_OF(steps); s++) {
                check_layout(&r, l, chunks[c], steps[s], body, sizeof body);
            }
        }
    }
    rig_done(&r);
}

static void a_large_body_goes_straight_to_its_place(void **state)
{
    (void)state;
    enum { N = 3 << 20 };
    char *body = xmalloc(N), *to = xcalloc(1, N);
    fill(body, N);
    struct iovec iov[200]; /* more than one recvmsg takes */
    for (size_t i = 0; i < 200; i++) {
        iov[i] = (struct iovec){to + i * (N / 200), i < 199 ? N / 200 : N - 199 * (N / 200)};
    }
    for (int tcp = 0; tcp < 2; tcp++) {
        struct rig r;
        struct buf b;
        rig_init(&r);
        r.tcp = tcp;
        r.direct = iov;
        r.n_direct = 200;
        rig_open(&r);
        rig_connect(&r);
        request(&b, body, N, 0);
        rig_send(&r, b.p, b.n);
        assert_int_equal(rig_status(&r), 200);
        assert_int_equal(r.bodies, 0);
        assert_memory_equal(to, body, N);
        memset(to, 0, N);
        buf_done(&b);
        rig_done(&r);
    }
    free(body);
    free(to);
}

/* The kernel collects a good piece of a large body; what comes too slowly for that is taken as it comes, and only
 * silence is too late. */
static void a_large_body_that_trickles(void **state)
{
    enum { N = 600000, FIRST = 150000 };
    static char body[N], to[N];
    struct iovec iov = {to, N};
    struct rig r;
    struct buf b;
    size_t at;
    uint64_t seen;

    (void)state;
    fill(body, N);
    rig_init(&r);
    r.tcp = true;
    r.direct = &iov;
    r.n_direct = 1;
    rig_open(&r);
    rig_connect(&r);
    request(&b, body, N, 0);
    at = b.n - N + FIRST;
    rig_send(&r, b.p, at);
    seen = r.x->body_seen;
    assert_true(seen > 0 && seen <= FIRST);
    rig_send(&r, b.p + at, 1000);
    assert_int_equal(r.x->body_seen, seen); /* nobody was woken for that */
    http_sweep(r.h, loop_now(r.loop) + r.limits.body_us + SECONDS(1));
    assert_int_equal(r.x->body_seen, FIRST + 1000);
    rig_send(&r, b.p + at + 1000, 1000);
    assert_int_equal(r.x->body_seen, FIRST + 2000);
    rig_send(&r, b.p + at + 2000, b.n - at - 2000);
    assert_int_equal(rig_status(&r), 200);
    assert_memory_equal(to, body, N);

    iov = (struct iovec){to, N}; /* the next one on the same connection: silence */
    rig_send(&r, b.p, at);
    http_sweep(r.h, loop_now(r.loop) + r.limits.body_us + SECONDS(1));
    assert_int_equal(r.x->body_seen, FIRST);
    http_sweep(r.h, loop_now(r.loop) + r.limits.body_us + SECONDS(1));
    rig_spin(&r);
    rig_read(&r);
    assert_true(rig_got(&r, " 408 "));
    buf_done(&b);
    rig_done(&r);
}

static void a_paused_body_waits(void **state)
{
    (void)state;
    static char body[200000];
    static const size_t chunks[] = {0, 1000, 50000};
    fill(body, sizeof body);
    for (size_t c = 0; c < COUNT_OF(chunks); c++) {
        struct rig r;
        struct buf b;
        rig_init(&r);
        r.pause = true;
        rig_open(&r);
        rig_connect(&r);
        request(&b, body, sizeof body, chunks[c]);
        size_t sent = 0;
        for (unsigned before = 0; r.finishes == 0; before = r.bodies) {
            ssize_t n = send(r.fd, b.p + sent, b.n - sent, MSG_NOSIGNAL);
            sent += n > 0 ? (size_t)n : 0;
            rig_spin(&r);                        /* ends, though there is input: it does not spin */
            assert_true(r.bodies <= before + 1); /* one call of `body`, then it waited */
            if (r.x != NULL) {
                before = r.bodies;
                http_body_resume(r.x);
                assert_int_equal(r.bodies, before); /* not within the call */
                rig_spin(&r);
                assert_true(r.bodies <= before + 1);
            }
        }
        assert_int_equal(rig_status(&r), 200);
        assert_int_equal(r.body.n, sizeof body);
        assert_memory_equal(r.body.p, body, sizeof body);
        buf_done(&b);
        rig_done(&r);
    }
}

/* ---- chunked: limits and errors ---- */

#define CHUNKED "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

static const struct {
    int status;
    const char *bytes;
} bad_chunks[] = {
    {400, "x\r\n"},
    {400, "-1\r\n"},
    {400, "0x1\r\n"},
    {400, " 1\r\n"},
    {400, "1 \r\nx\r\n"},
    {400, "1\nx\r\n"},
    {400, "1\rx"},
    {400, "1\r\nxx\r\n"},
    {400, "1\r\nx\n"},
    {400, "1\r\nx\rx"},
    {400, "\r\n"},
    {400, ";a\r\n"},
    {400, "1;a\x01\r\nx\r\n"},
    {400, "1;a\nx\r\n"},
    {400, "10000000000000000\r\n"},
    {413, "ffffffffffffffff\r\n"},
    {413, "7fffffffffffffff\r\n"},
    {400, "0\n\n"},
    {400, "0\r\n\rx"},
    {400, "0\r\na b\r\n\r\n"},
    {400, "0\r\na: b\r\n c\r\n\r\n"},
};

static void bad_chunk_framing(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (size_t i = 0; i < COUNT_OF(bad_chunks); i++) {
        for (size_t step = 1; step < 100; step += 98) {
            for (int behind = 0; behind < 2; behind++) { /* at once, and behind a good chunk */
                unsigned gones = r.gones, completes = r.completes;
                rig_connect(&r);
                rig_sendz(&r, CHUNKED);
                assert_non_null(r.x);
                rig_sendz(&r, behind ? "3\r\nabc\r\n" : "");
                send_in_steps(&r, bad_chunks[i].bytes, strlen(bad_chunks[i].bytes), step);
                if (rig_status(&r) != bad_chunks[i].status || !r.eof || r.gones != gones + 1 ||
                    r.completes != completes || rig_answers(&r) != 1) {
                    fail_msg("row %zu step %zu: (end %d) %s", i, step, r.eof, buf_z(&r.got));
                }
            }
        }
    }
    rig_done(&r);
}

static void chunked_body_to_the_limit(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.limits.body = 10;
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, CHUNKED "4\r\nabcd\r\n6\r\nefghij\r\n0\r\n\r\n");
    assert_int_equal(rig_status(&r), 200);
    rig_sendz(&r, CHUNKED "4\r\nabcd\r\n7\r\n"); /* refused by its announcement */
    assert_int_equal(rig_status(&r), 413);
    assert_true(rig_got(&r, "limit of 10 bytes"));
    rig_done(&r);
}

static void chunks_and_extensions_to_the_limit(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (int over = 0; over < 2; over++) {
        struct buf b;
        buf_init(&b, 1 << 20);
        BUF_LIT(&b, CHUNKED);
        for (int i = 0; i < H1_CHUNKS + over; i++) {
            BUF_LIT(&b, "1\r\nx\r\n");
        }
        BUF_LIT(&b, "0\r\n\r\n");
        rig_connect(&r);
        rig_send(&r, b.p, b.n);
        assert_int_equal(rig_status(&r), over ? 400 : 200);
        buf_clear(&b);
        BUF_LIT(&b, CHUNKED "1;");
        for (int i = 0; i < H1_EXTENSIONS - 1 + over; i++) {
            BUF_LIT(&b, "e");
        }
        BUF_LIT(&b, "\r\nx\r\n0\r\n\r\n");
        rig_connect(&r);
        rig_send(&r, b.p, b.n);
        assert_int_equal(rig_status(&r), over ? 400 : 200);
        assert_true(rig_got(&r, over ? "extensions" : "body=1\n"));
        buf_done(&b);
    }
    rig_done(&r);
}

/* Framing without end: each must be cut, with a bounded number of bytes taken. */
static void endless_framing_is_cut(void **state)
{
    (void)state;
    static const struct {
        const char *front, *again;
        int status;
    } rows[] = {
        {CHUNKED, "0000000000", 400},         {CHUNKED "1;", "a=b;", 400},        {CHUNKED "1", ";a", 400},
        {CHUNKED "1;a=\"", "xxxxxxxx", 400},  {CHUNKED "0\r\n", "t: v\r\n", 431}, {CHUNKED "0\r\nt: ", "vvvvvvvv", 431},
        {CHUNKED "0\r\nt:", "        ", 400},
    };
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char part[4096];
        size_t n = strlen(rows[i].again), sent = 0;
        for (size_t k = 0; k < sizeof part; k++) {
            part[k] = rows[i].again[k % n];
        }
        rig_connect(&r);
        rig_sendz(&r, rows[i].front);
        while (!r.eof && sent < 1 << 20) {
            rig_send(&r, part, sizeof part / n * n);
            sent += sizeof part / n * n;
            rig_read(&r);
        }
        if (rig_status(&r) != rows[i].status || sent > 64 * 1024) {
            fail_msg("row %zu: after %zu bytes: %s", i, sent, buf_z(&r.got));
        }
    }
    assert_int_equal(r.gones, COUNT_OF(rows));
    rig_done(&r);
}

static void trailers_are_read_and_dropped(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, CHUNKED "1\r\nx\r\n0\r\nContent-Length: 5\r\nHost: b\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    rig_read(&r);
    if (!rig_got(&r, "path=/next")) { /* llhttp may refuse a length among trailers: then with an answer */
        assert_int_equal(rig_status(&r), 400);
    }
    assert_false(rig_got(&r, "host=[b]"));
    rig_done(&r);
}

/* ---- early replies ---- */

static void an_early_reply_and_then_the_body(void **state)
{
    (void)state;
    enum { N = 2 << 20 };
    char *body = xmalloc(N);
    fill(body, N);
    for (int k = 0; k < 8; k++) {
        bool tcp = k & 1, chunked = k & 2, at_body = k & 4;
        struct rig r;
        struct buf b;
        rig_init(&r);
        r.tcp = tcp;
        r.when = at_body ? RIG_AT_BODY : RIG_AT_HEADERS;
        rig_open(&r);
        rig_connect(&r);
        request(&b, body, N, chunked ? 5000 : 0);
        rig_send(&r, b.p, 200); /* the reply is there before the body is */
        assert_int_equal(rig_status(&r), 200);
        assert_int_equal(r.finishes, 1);
        rig_send(&r, b.p + 200, b.n - 200);
        r.when = RIG_AT_COMPLETE;
        rig_sendz(&r, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"); /* the connection is still good */
        assert_true(rig_got(&r, "path=/next"));
        assert_int_equal(r.completes, 1);
        assert_int_equal(r.bodies, at_body ? 1 : 0);
        assert_false(r.eof);
        buf_done(&b);
        rig_done(&r);
    }
    free(body);
}

/* More body than is read away: the connection ends, but the client gets to read its answer. */
static void an_early_reply_to_an_endless_body(void **state)
{
    (void)state;
    enum { N = 4 << 20 };
    char *body = xmalloc(N);
    fill(body, N);
    for (int k = 0; k < 8; k++) {
        bool tcp = k & 1, chunked = k & 2, refused = k & 4;
        struct rig r;
        struct buf b;
        rig_init(&r);
        r.tcp = tcp;
        r.when = RIG_AT_HEADERS;
        r.limits.discard = 3 << 20;
        r.limits.body = refused ? 1000 : 64 << 20;
        rig_open(&r);
        rig_connect(&r);
        request(&b, body, N, chunked ? 60000 : 0);
        send(r.fd, b.p, b.n / 2, MSG_NOSIGNAL);
        rig_send(&r, b.p + b.n / 2, b.n / 4);
        int status = rig_status(&r);
        assert_int_equal(status, refused && !chunked ? 413 : 200);
        assert_false(r.reset);
        rig_send(&r, b.p + b.n - 1000, 1000);
        for (int i = 0; i < 5 && r.h->n > 0; i++) {
            rig_send(&r, body, N / 2);
        }
        assert_int_equal(r.h->n, 0); /* closed in the end */
        buf_done(&b);
        rig_done(&r);
    }
    free(body);
}

/* ---- Expect ---- */

#define EXPECT "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"

static void continue_is_said_when_the_body_is_wanted(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, EXPECT);
    assert_int_equal(rig_status(&r), 100);
    rig_sendz(&r, "abc");
    assert_int_equal(rig_status(&r), 200);
    buf_clear(&r.got);
    rig_sendz(&r, EXPECT "abc"); /* it did not wait */
    assert_int_equal(rig_answers(&r), 1);
    assert_int_equal(rig_status(&r), 200);
    buf_clear(&r.got);
    r.when = RIG_AT_HEADERS;
    rig_sendz(&r, EXPECT); /* not wanted: the final answer, and the end, for who knows whether the body comes */
    assert_int_equal(rig_answers(&r), 1);
    assert_int_equal(rig_status(&r), 200);
    assert_true(rig_got(&r, "Connection: close\r\n"));
    assert_true(r.eof && !r.reset);
    rig_done(&r);
}

static void a_body_that_ends_too_soon(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (int k = 0; k < 2; k++) {
        rig_connect(&r);
        rig_sendz(&r, k ? CHUNKED "5\r\nabc" : "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc");
        shutdown(r.fd, SHUT_WR);
        rig_spin(&r);
        assert_int_equal(rig_status(&r), 400);
        assert_true(rig_got(&r, "after 3 bytes of the body"));
        assert_true(r.eof);
        assert_int_equal(r.gones, k + 1);
    }
    assert_int_equal(r.completes, 0);
    rig_done(&r);
}

static void nothing_is_kept_of_a_big_exchange(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.reply_size = 1 << 20;
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for (int i = 0; i < 100; i++) {
        rig_read(&r);
        rig_spin(&r);
    }
    assert_int_equal(r.finishes, 1);
    assert_true(r.h->first->body.cap <= H1_KEEP_OUT);
    assert_int_equal(r.h->first->in_cap, H1_IN);
    rig_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bodies_however_they_are_cut),
        cmocka_unit_test(a_large_body_goes_straight_to_its_place),
        cmocka_unit_test(a_large_body_that_trickles),
        cmocka_unit_test(a_paused_body_waits),
        cmocka_unit_test(bad_chunk_framing),
        cmocka_unit_test(chunked_body_to_the_limit),
        cmocka_unit_test(chunks_and_extensions_to_the_limit),
        cmocka_unit_test(endless_framing_is_cut),
        cmocka_unit_test(trailers_are_read_and_dropped),
        cmocka_unit_test(an_early_reply_and_then_the_body),
        cmocka_unit_test(an_early_reply_to_an_endless_body),
        cmocka_unit_test(continue_is_said_when_the_body_is_wanted),
        cmocka_unit_test(a_body_that_ends_too_soon),
        cmocka_unit_test(nothing_is_kept_of_a_big_exchange),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
