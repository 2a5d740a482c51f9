/* SPDX-License-Identifier: Apache-2.0 */
/* Replies in pieces: what goes over the wire, back-pressure, time limits, drain, and clients that leave in between.
 * Time is what the test passes to the sweep; nothing waits. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "support/http_rig.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define GET10 "GET / HTTP/1.0\r\n\r\n"
#define HEAD_BYTES                 \
    "HTTP/1.1 200 OK\r\n"          \
    "Content-Type: text/plain\r\n" \
    "X-A: b\r\n"                   \
    "Transfer-Encoding: chunked\r\n\r\n"

static struct http_stream kind; /* of the streams that `open` begins */

static void open_stream(struct rig *r, struct http_ex *x)
{
    (void)r;
    http_reply_begin(x, 200, "text/plain");
    http_reply_header(x, "X-A", STR("b"));
    http_stream_begin(x, &kind);
}

static void on_complete_open(struct rig *r)
{
    r->when = RIG_NEVER;
    r->on_headers = open_stream;
}

static void rig_up(struct rig *r, bool tcp)
{
    rig_init(r);
    kind = (struct http_stream){.max = 1000};
    r->tcp = tcp;
    on_complete_open(r);
    rig_open(r);
    rig_connect(r);
}

static void later(struct rig *r, uint64_t us)
{
    http_sweep(r->h, loop_now(r->loop) + us);
    rig_spin(r);
    rig_read(r);
}

static void expect_got(struct rig *r, const char *want)
{
    rig_read(r);
    assert_string_equal(buf_z(&r->got), want);
    buf_clear(&r->got);
}

/* Takes the chunks behind the head apart; true if the last one is there and nothing follows it. */
static bool dechunk(struct rig *r, struct buf *out)
{
    const char *at = strstr(buf_z(&r->got), "\r\n\r\n"), *end = r->got.p + r->got.n;
    assert_non_null(at);
    for (at += 4; at < end;) {
        char *rest;
        size_t n = strtoul(at, &rest, 16);
        if (rest + 2 > end || (size_t)(end - rest) < n + 4) {
            return false;
        }
        assert_memory_equal(rest, "\r\n", 2);
        assert_memory_equal(rest + 2 + n, "\r\n", 2);
        buf_add(out, rest + 2, n);
        at = rest + 2 + n + 2;
        if (n == 0) {
            assert_ptr_equal(at, end);
            return true;
        }
    }
    return false;
}

/* ---- bytes ---- */

static void pieces_are_chunks(void **state)
{
    struct rig r;
    (void)state;
    rig_up(&r, false);
    rig_sendz(&r, GET);
    assert_true(r.x->replied);
    expect_got(&r, HEAD_BYTES); /* at once, before there is a piece */
    assert_true(http_stream_write(r.x, STR("one")));
    assert_true(http_stream_write(r.x, STR("")));
    assert_true(http_stream_write(r.x, STR("and another one!!")));
    expect_got(&r, ""); /* not before the end of the burst */
    rig_spin(&r);
    expect_got(&r, "3\r\none\r\n11\r\nand another one!!\r\n");
    http_reply(r.x, 500, "text/plain", STR("too late"));
    assert_int_equal(r.finishes, 0);
    http_stream_end(r.x);
    assert_true(http_stream_write(r.x, STR("ignored")));
    http_stream_end(r.x);
    assert_int_equal(r.finishes, 0);
    rig_spin(&r);
    assert_int_equal(r.finishes, 1);
    assert_int_equal(r.gones, 0);
    expect_got(&r, "0\r\n\r\n");
    r.on_headers = NULL; /* the connection goes on */
    r.when = RIG_AT_COMPLETE;
    rig_sendz(&r, GET);
    assert_int_equal(rig_status(&r), 200);
    assert_true(rig_got(&r, "Content-Length:"));
    rig_done(&r);
}

static void requests_behind_a_stream_wait(void **state)
{
    struct rig r;
    (void)state;
    rig_up(&r, true);
    rig_sendz(&r, GET GET);
    rig_sendz(&r, GET10); /* stays in the kernel, and does not make the loop spin */
    for (unsigned i = 1; i <= 2; i++) {
        assert_int_equal(r.headers, i);
        expect_got(&r, HEAD_BYTES);
        http_stream_write(r.x, STR("x"));
        rig_spin(&r);
        expect_got(&r, "1\r\nx\r\n");
        http_stream_end(r.x);
        rig_spin(&r);
        assert_true(rig_got(&r, "0\r\n\r\nHTTP/1.1 200 OK\r\n"));
        buf_drop(&r.got, 5);
    }
    assert_int_equal(r.headers, 3);
    rig_done(&r);
}

static void http_1_0_ends_with_the_connection(void **state)
{
    struct rig r;
    (void)state;
    for (int k = 0; k < 2; k++) {
        rig_up(&r, k);
        rig_sendz(&r, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        http_stream_write(r.x, STR("one"));
        http_stream_write(r.x, STR("two"));
        rig_spin(&r);
        expect_got(&r, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nConnection: close\r\n\r\nonetwo");
        assert_false(r.eof);
        http_stream_end(r.x);
        rig_spin(&r);
        expect_got(&r, "");
        assert_true(r.eof && !r.reset);
        assert_int_equal(r.finishes, 1);
        assert_int_equal(r.gones, 0);
        rig_done(&r);
    }
}

static void of_head_only_the_head(void **state)
{
    struct rig r;
    (void)state;
    rig_up(&r, false);
    kind.endless = true;
    rig_sendz(&r, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(r.finishes, 1);
    expect_got(&r, HEAD_BYTES);
    assert_false(r.eof);
    rig_sendz(&r, GET); /* the connection goes on */
    assert_int_equal(r.headers, 2);
    expect_got(&r, HEAD_BYTES);
    rig_done(&r);
}

static void close_and_no_content(struct rig *r, struct http_ex *x)
{
    (void)r;
    http_close_after(x);
    http_reply_begin(x, 204, NULL);
    http_stream_begin(x, &kind);
    assert_true(http_stream_write(x, STR("ignored")));
}

static void without_a_body_it_is_over(void **state)
{
    struct rig r;
    (void)state;
    rig_up(&r, false);
    r.on_headers = close_and_no_content;
    rig_sendz(&r, GET);
    expect_got(&r, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    assert_true(r.eof);
    assert_int_equal(r.finishes, 1);
    rig_done(&r);
}

/* ---- before the request is over ---- */

static void the_rest_of_a_body_is_discarded(void **state)
{
    struct rig r;
    (void)state;
    rig_up(&r, false);
    rig_sendz(&r, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab");
    http_stream_write(r.x, STR("x"));
    rig_sendz(&r, "cdef");
    assert_int_equal(r.bodies + r.completes, 0);
    http_stream_end(r.x);
    rig_sendz(&r, GET);
    assert_int_equal(r.headers, 2);
    expect_got(&r, HEAD_BYTES "1\r\nx\r\n0\r\n\r\n" HEAD_BYTES);
    rig_done(&r);
}

static void a_broken_body_cuts_the_stream(void **state)
{
    static const char *const rest[] = {"zz\r\n", NULL};
    struct rig r;
    (void)state;
    for (size_t i = 0; i < COUNT_OF(rest); i++) {
        rig_up(&r, false);
        rig_sendz(&r, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab");
        http_stream_write(r.x, STR("x"));
        if (rest[i] != NULL) {
            rig_sendz(&r, "cde\r\n");
            rig_sendz(&r, rest[i]);
        } else {
            shutdown(r.fd, SHUT_WR);
            rig_spin(&r);
        }
        assert_int_equal(r.finishes, 1);
        assert_int_equal(r.gones, 1);
        expect_got(&r, HEAD_BYTES "1\r\nx\r\n");
        rig_done(&r);
    }
}

/* ---- back-pressure ---- */

static struct {
    struct rig *r;
    unsigned drained;
    size_t next, total; /* pieces given, and to be given */
    bool end;
} source;

/* Pieces of all sizes, whose bytes tell their place. */
static struct str piece_of(size_t i)
{
    static char text[40000];
    size_t n = 1 + i * 7919 % (sizeof(text) - 1);
    for (size_t k = 0; k < n; k++) {
        text[k] = (char)('a' + (i + k) % 26);
    }
    return (struct str){text, n};
}

static void feed(struct http_ex *x)
{
    while (source.next < source.total && http_stream_write(x, piece_of(source.next))) {
        source.next++;
    }
    if (source.next == source.total && source.end) {
        http_stream_end(x);
    }
}

static void on_drained(struct http_ex *x)
{
    assert_ptr_equal(x, source.r->x);
    source.drained++;
    feed(x);
}

static void a_slow_reader_gets_everything(void **state)
{
    enum { PIECES = 400 };
    struct buf want, got;
    struct rig r;
    (void)state;
    buf_init(&want, 1u << 30);
    buf_init(&got, 1u << 30);
    for (size_t i = 0; i < PIECES; i++) {
        struct str piece = piece_of(i);
        buf_add(&want, piece.p, piece.n);
    }
    for (int tcp = 0; tcp < 2; tcp++) {
        rig_up(&r, tcp);
        kind = (struct http_stream){.max = 100000, .drained = on_drained};
        source = (typeof(source)){.r = &r, .total = PIECES, .end = true};
        rig_sendz(&r, GET);
        feed(r.x);
        assert_true(source.next > 0 && source.next < PIECES);
        assert_int_equal(source.drained, 0);
        rig_spin(&r);
        size_t before = source.next;
        rig_spin(&r);
        assert_int_equal(source.next, before); /* the kernel is full: nobody asks for more */
        assert_true(before < PIECES);
        for (int i = 0; i < 100000 && !r.eof && r.finishes == 0; i++) { /* little by little */
            char *room = buf_room(&r.got, 5000);
            ssize_t n = recv(r.fd, room, 5000, 0);
            r.got.n += n > 0 ? (size_t)n : 0;
            assert_true(r.h->first->body.n < 2 * kind.max + 100000); /* what is sent is forgotten */
            rig_spin(&r);
        }
        rig_read(&r);
        assert_int_equal(source.next, PIECES);
        assert_true(source.drained > 1);
        buf_clear(&got);
        assert_true(dechunk(&r, &got));
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.p, want.p, want.n);
        rig_done(&r);
    }
    buf_done(&want);
    buf_done(&got);
}

static void what_is_refused_is_not_sent(void **state)
{
    struct rig r;
    static char big[8 << 20];
    struct buf got;
    (void)state;
    buf_init(&got, 1u << 30);
    rig_up(&r, false);
    memset(big, 'b', sizeof(big));
    rig_sendz(&r, GET);
    assert_true(http_stream_write(r.x, (struct str){big, sizeof(big)})); /* beyond max: but nothing waits */
    assert_false(http_stream_write(r.x, STR("refused")));
    rig_spin(&r);
    assert_false(http_stream_write(r.x, STR("refused")));
    while (r.got.n < sizeof(big)) {
        rig_read(&r);
        rig_spin(&r);
    }
    rig_spin(&r); /* no drained function: fine */
    assert_true(http_stream_write(r.x, STR("taken")));
    http_stream_end(r.x);
    rig_spin(&r);
    rig_read(&r);
    assert_true(dechunk(&r, &got));
    assert_int_equal(got.n, sizeof(big) + 5);
    assert_memory_equal(got.p + sizeof(big), "taken", 5);
    buf_done(&got);
    rig_done(&r);
}

static void one_that_is_never_empty_stays_small(void **state)
{
    static char part[5000];
    struct rig r;
    (void)state;
    rig_up(&r, false);
    kind.max = 600000;
    rig_sendz(&r, GET);
    while (h1_waiting(r.h->first) < 500000) {
        http_stream_write(r.x, (struct str){part, sizeof(part)});
        rig_spin(&r);
    }
    for (int i = 0; i < 2000; i++) { /* the client reads as fast as we write */
        char *room = buf_room(&r.got, sizeof(part));
        ssize_t n = recv(r.fd, room, sizeof(part), 0);
        assert_true(n > 0);
        rig_spin(&r);
        while (h1_waiting(r.h->first) < 500000) {
            assert_true(http_stream_write(r.x, (struct str){part, sizeof(part)}));
        }
        assert_true(r.h->first->body.n < 2 * kind.max + H1_IN);
    }
    rig_done(&r);
}

/* ---- time ---- */

static void fill(struct rig *r)
{
    static char part[100000];
    memset(part, 'p', sizeof(part));
    for (int i = 0; i < 1000 && http_stream_write(r->x, (struct str){part, sizeof(part)}); i++) {
        rig_spin(r);
    }
}

static void silence_is_no_offence(void **state)
{
    struct rig r;
    (void)state;
    rig_up(&r, false);
    rig_sendz(&r, GET);
    later(&r, SECONDS(86400));
    assert_false(r.eof);
    struct h1 *c = r.h->first;
    c->stamp -= SECONDS(3600); /* nothing went for an hour */
    assert_true(http_stream_write(r.x, STR("now")));
    assert_true(c->stamp == loop_now(r.loop)); /* the term begins here, also if the kernel takes none of it */
    rig_spin(&r);
    fill(&r);
    http_sweep(r.h, loop_now(r.loop) + r.limits.write_us - SECONDS(1));
    assert_int_equal(r.finishes, 0);
    char part[65536];
    assert_true(recv(r.fd, part, sizeof part, 0) > 0); /* it took something: a new term */
    rig_spin(&r);
    http_sweep(r.h, loop_now(r.loop) + r.limits.write_us - SECONDS(1));
    assert_int_equal(r.finishes, 0);
    http_sweep(r.h, loop_now(r.loop) + r.limits.write_us + SECONDS(1));
    assert_int_equal(r.finishes, 1);
    assert_int_equal(r.gones, 1);
    assert_int_equal(r.h->n, 0);
    rig_done(&r);
}

/* ---- who leaves ---- */

static void a_half_closed_client_gets_all_of_it(void **state)
{
    (void)state;
    for (int tcp = 0; tcp < 2; tcp++) {
        struct rig r;
        rig_up(&r, tcp);
        rig_sendz(&r, GET);
        shutdown(r.fd, SHUT_WR);
        rig_spin(&r); /* ends: the pending FIN does not spin */
        http_stream_write(r.x, STR("one"));
        rig_spin(&r);
        assert_false(r.x->gone);
        http_stream_write(r.x, STR("two"));
        http_stream_end(r.x);
        rig_spin(&r);
        expect_got(&r, HEAD_BYTES "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
        assert_true(r.eof && !r.reset);
        assert_int_equal(r.gones, 0);
        assert_int_equal(r.h->n, 0);
        rig_done(&r);
    }
}

static void hang_up(struct rig *r, bool hard)
{
    struct linger reset = {.l_onoff = 1};
    if (hard) {
        setsockopt(r->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    }
    close(r->fd);
    r->fd = -1;
}

static void a_hang_up_is_seen(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        bool tcp = k & 1, early = k & 2; /* early: the next request lies in the kernel */
        struct rig r;
        rig_up(&r, tcp);
        rig_sendz(&r, early ? GET GET : GET);
        rig_read(&r);
        hang_up(&r, tcp);
        rig_spin(&r);
        assert_int_equal(r.finishes, 1);
        assert_int_equal(r.gones, 1);
        assert_int_equal(r.h->n, 0);
        rig_done(&r);
    }
}

static void a_polite_hang_up_is_seen_by_writing(void **state)
{
    struct rig r;
    (void)state;
    rig_up(&r, true);
    rig_sendz(&r, GET);
    rig_read(&r);
    hang_up(&r, false); /* only a FIN: it may have closed one side */
    rig_spin(&r);
    assert_int_equal(r.finishes, 0);
    for (int i = 0; i < 3 && r.finishes == 0; i++) {
        http_stream_write(r.x, STR("anybody?"));
        rig_spin(&r);
    }
    assert_int_equal(r.finishes, 1);
    assert_int_equal(r.gones, 1);
    rig_done(&r);
}

static void writing_to_who_has_left_is_ignored(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        struct rig r;
        rig_up(&r, how & 1);
        kind.drained = on_drained;
        source = (typeof(source)){.r = &r};
        rig_sendz(&r, GET);
        rig_read(&r);
        hang_up(&r, true);
        /* not noticed yet */
        http_stream_write(r.x, STR("for nobody"));
        if (how == 2) {
            http_stream_end(r.x);
            assert_true(r.x->gone);
            assert_true(http_stream_write(r.x, STR("ignored")));
            http_stream_end(r.x);
            http_stream_cut(r.x);
        }
        assert_int_equal(r.finishes, 0);
        rig_spin(&r);
        assert_int_equal(r.finishes, 1);
        assert_int_equal(source.drained, 0);
        rig_done(&r);
    }
}

static void the_cut_is_seen(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        bool tcp = k & 1;
        struct buf got;
        struct rig r;
        buf_init(&got, 1u << 30);
        rig_up(&r, tcp);
        rig_sendz(&r, k & 2 ? GET10 : GET);
        http_stream_write(r.x, STR("one"));
        rig_spin(&r);
        if (k == 3) { /* nothing but the reset could tell it from a whole reply */
            fill(&r);
        }
        http_stream_cut(r.x);
        http_stream_cut(r.x);
        assert_true(r.x->gone);
        assert_int_equal(r.finishes, 0);
        rig_spin(&r);
        assert_int_equal(r.finishes, 1);
        assert_int_equal(r.gones, 1);
        assert_int_equal(r.h->n, 0);
        rig_read(&r);
        assert_true(tcp ? r.reset : r.eof);
        assert_true(k & 2 || !dechunk(&r, &got));
        buf_done(&got);
        rig_done(&r);
    }
}

static void freeing_a_listener_ends_streams(void **state)
{
    struct rig r;
    (void)state;
    rig_up(&r, false);
    rig_sendz(&r, GET);
    fill(&r);
    http_stream_write(r.x, STR("x")); /* and queued for the end of the burst */
    http_listener_free(r.h);
    assert_int_equal(r.finishes, 1);
    assert_int_equal(r.gones, 1);
    rig_open(&r); /* for rig_done */
    rig_done(&r);
}

/* ---- drain ---- */

static void count(void *ctx)
{
    ++*(unsigned *)ctx;
}

static void a_drain_ends_what_is_endless(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) { /* 1: the client is slow */
        unsigned drained = 0;
        struct buf got;
        struct rig r;
        buf_init(&got, 1u << 30);
        rig_up(&r, false);
        kind.endless = true;
        rig_sendz(&r, GET);
        if (k == 1) {
            fill(&r);
        } else {
            http_stream_write(r.x, STR("one"));
        }
        http_drain(r.h, count, &drained);
        assert_int_equal(r.finishes, 0);
        rig_spin(&r);
        assert_int_equal(r.finishes, k == 0);
        for (int i = 0; i < 100 && !r.eof; i++) {
            rig_read(&r);
            rig_spin(&r);
        }
        assert_true(dechunk(&r, &got));
        assert_int_equal(r.finishes, 1);
        assert_int_equal(r.gones, 0);
        hang_up(&r, false);
        rig_spin(&r);
        assert_int_equal(drained, 1);
        buf_done(&got);
        rig_done(&r);
    }
}

static void a_drain_awaits_the_end_of_others(void **state)
{
    unsigned drained = 0;
    struct rig r;
    (void)state;
    rig_up(&r, false);
    rig_sendz(&r, GET);
    http_drain(r.h, count, &drained);
    rig_spin(&r);
    http_stream_write(r.x, STR("one"));
    later(&r, SECONDS(5));
    assert_int_equal(r.finishes, 0);
    http_stream_end(r.x);
    rig_spin(&r);
    expect_got(&r, HEAD_BYTES "3\r\none\r\n0\r\n\r\n");
    assert_true(r.eof);
    hang_up(&r, false);
    rig_spin(&r);
    assert_int_equal(drained, 1);
    rig_done(&r);
}

static void begun_in_a_drain(void **state)
{
    unsigned drained = 0;
    struct rig r;
    (void)state;
    rig_up(&r, false);
    kind.endless = true;
    r.on_headers = NULL;
    rig_sendz(&r, GET);
    http_drain(r.h, count, &drained);
    rig_spin(&r);
    open_stream(&r, r.x); /* the handler took its time */
    assert_true(http_stream_write(r.x, STR("ignored")));
    rig_spin(&r);
    expect_got(&r, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n"
                   "Connection: close\r\n\r\n0\r\n\r\n");
    assert_int_equal(r.finishes, 1);
    assert_true(r.eof);
    rig_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_chunks),
        cmocka_unit_test(requests_behind_a_stream_wait),
        cmocka_unit_test(http_1_0_ends_with_the_connection),
        cmocka_unit_test(of_head_only_the_head),
        cmocka_unit_test(without_a_body_it_is_over),
        cmocka_unit_test(the_rest_of_a_body_is_discarded),
        cmocka_unit_test(a_broken_body_cuts_the_stream),
        cmocka_unit_test(a_slow_reader_gets_everything),
        cmocka_unit_test(what_is_refused_is_not_sent),
        cmocka_unit_test(one_that_is_never_empty_stays_small),
        cmocka_unit_test(silence_is_no_offence),
        cmocka_unit_test(a_half_closed_client_gets_all_of_it),
        cmocka_unit_test(a_hang_up_is_seen),
        cmocka_unit_test(a_polite_hang_up_is_seen_by_writing),
        cmocka_unit_test(writing_to_who_has_left_is_ignored),
        cmocka_unit_test(the_cut_is_seen),
        cmocka_unit_test(freeing_a_listener_ends_streams),
        cmocka_unit_test(a_drain_ends_what_is_endless),
        cmocka_unit_test(a_drain_awaits_the_end_of_others),
        cmocka_unit_test(begun_in_a_drain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
