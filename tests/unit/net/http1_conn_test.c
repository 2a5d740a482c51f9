/* SPDX-License-Identifier: Apache-2.0 */
/* The life of connections: slow clients, clients that go away, large replies, limits on connections and descriptors,
 * drain. Time is what the test passes to the sweep; nothing waits. */
#define _GNU_SOURCE
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "support/http_rig.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

/* Sweeps as if so much time had passed since the last burst. */
static void later(struct rig *r, uint64_t us)
{
    http_sweep(r->h, loop_now(r->loop) + us);
    rig_spin(r);
    rig_read(r);
}

/* ---- slow clients ---- */

static const struct {
    const char *bytes;
    size_t limit; /* its offset in http_limits */
    int status;   /* 0: closed without a word */
} slow[] = {
    {"", offsetof(struct http_limits, header_us), 0},
    {"G", offsetof(struct http_limits, header_us), 408},
    {"GET / HTTP/1.1\r\nHost: a\r\nX: ", offsetof(struct http_limits, header_us), 408},
    {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", offsetof(struct http_limits, body_us), 408},
    {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", offsetof(struct http_limits, body_us),
     408},
    {GET, offsetof(struct http_limits, idle_us), 0},
};

static void slow_clients_are_ended(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    for (size_t i = 0; i < COUNT_OF(slow); i++) {
        uint64_t limit = *(uint64_t *)((char *)&r.limits + slow[i].limit);
        rig_connect(&r);
        rig_sendz(&r, slow[i].bytes);
        rig_read(&r);
        buf_clear(&r.got);
        later(&r, limit - SECONDS(1));
        assert_false(r.eof);
        later(&r, limit + SECONDS(1));
        assert_int_equal(rig_status(&r), slow[i].status);
        assert_true(r.eof);
    }
    assert_int_equal(r.gones, 2);
    rig_done(&r);
}

static void a_head_may_not_be_dripped(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, "GET / HTTP/1.1\r\nHost: a\r\n");
    h1_check(r.h->first, 0);
    r.h->first->x.t_start -= r.limits.header_us - SECONDS(1); /* it began so long ago */
    rig_sendz(&r, "X: y\r\n");
    later(&r, 0);
    assert_false(r.eof);
    later(&r, SECONDS(2)); /* bytes that came in between do not help */
    assert_int_equal(rig_status(&r), 408);
    rig_done(&r);
}

static void who_waits_for_us_is_not_slow(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.when = RIG_NEVER;
    r.pause = true;
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    later(&r, SECONDS(3600)); /* paused by the handler */
    assert_false(r.eof);
    http_body_resume(r.x);
    rig_sendz(&r, "cde");
    http_body_resume(r.x);
    rig_spin(&r);
    assert_int_equal(r.completes, 1);
    later(&r, SECONDS(3600)); /* the handler works */
    assert_false(r.eof);
    http_reply(r.x, 200, "text/plain", STR("done"));
    rig_spin(&r);
    assert_int_equal(rig_status(&r), 200);
    rig_done(&r);
}

static void who_does_not_read_is_ended(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.reply_size = 8 << 20;
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, GET);
    assert_int_equal(r.finishes, 0);
    http_sweep(r.h, loop_now(r.loop) + r.limits.write_us - SECONDS(1));
    assert_int_equal(r.finishes, 0);
    char part[65536];
    assert_true(recv(r.fd, part, sizeof part, 0) > 0); /* it took something: a new term */
    rig_spin(&r);
    http_sweep(r.h, loop_now(r.loop) + r.limits.write_us + SECONDS(1));
    assert_int_equal(r.finishes, 1);
    assert_int_equal(r.gones, 1);
    assert_int_equal(r.h->n, 0);
    rig_done(&r);
}

static void a_lingering_client_is_left_alone_only_for_a_while(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, "GET / HTTP/1.0\r\n\r\n");
    assert_int_equal(rig_status(&r), 200);
    assert_int_equal(r.h->n, 1);
    assert_int_equal(r.h->first->phase, H1_LINGER);
    rig_sendz(&r, "more");
    later(&r, SECONDS(1));
    assert_int_equal(r.h->n, 1);
    later(&r, SECONDS(3));
    assert_int_equal(r.h->n, 0);
    rig_connect(&r);
    rig_sendz(&r, "GET / HTTP/1.0\r\n\r\n");
    close(r.fd); /* the usual case: it closes, and so do we */
    r.fd = -1;
    rig_spin(&r);
    assert_int_equal(r.h->n, 0);
    rig_done(&r);
}

/* ---- clients that go away ---- */

static void a_half_closed_client_gets_its_answer(void **state)
{
    (void)state;
    for (int tcp = 0; tcp < 2; tcp++) {
        struct rig r;
        rig_init(&r);
        r.tcp = tcp;
        r.when = RIG_NEVER;
        rig_open(&r);
        rig_connect(&r);
        rig_sendz(&r, GET);
        shutdown(r.fd, SHUT_WR);
        rig_spin(&r); /* ends: the pending FIN does not spin */
        assert_non_null(r.x);
        assert_false(r.x->gone);
        http_reply(r.x, 200, "text/plain", STR("late"));
        rig_spin(&r);
        assert_int_equal(rig_status(&r), 200);
        assert_true(r.eof && !r.reset);
        assert_int_equal(r.gones, 0);
        assert_int_equal(r.h->n, 0);
        rig_done(&r);
    }
}

static void reset(struct rig *r)
{
    struct linger hard = {.l_onoff = 1};
    setsockopt(r->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(r->fd);
    r->fd = -1;
}

static void a_client_that_is_gone_ends_the_exchange(void **state)
{
    (void)state;
    for (int tcp = 0; tcp < 2; tcp++) {
        struct rig r;
        rig_init(&r);
        r.tcp = tcp;
        r.when = RIG_NEVER;
        rig_open(&r);
        rig_connect(&r);
        rig_sendz(&r, GET);
        assert_non_null(r.x);
        reset(&r);
        rig_spin(&r);
        assert_null(r.x);
        assert_int_equal(r.finishes, 1);
        assert_int_equal(r.gones, 1);
        assert_int_equal(r.h->n, 0);

        rig_connect(&r);
        rig_sendz(&r, GET);
        reset(&r); /* not noticed yet when the handler replies */
        http_reply(r.x, 200, "text/plain", STR("for nobody"));
        if (r.x->gone) {
            http_reply(r.x, 200, "text/plain", STR("twice")); /* ignored */
            buf_addz(http_reply_body(r.x), "also ignored");
        }
        assert_int_equal(r.finishes, 1);
        rig_spin(&r);
        assert_int_equal(r.finishes, 2);
        assert_int_equal(r.h->n, 0);

        rig_connect(&r);
        rig_sendz(&r, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
        reset(&r); /* within the body */
        rig_spin(&r);
        assert_int_equal(r.finishes, 3);
        assert_int_equal(r.h->n, 0);
        rig_done(&r);
    }
}

static void freeing_a_listener_ends_what_is_open(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.when = RIG_NEVER;
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, GET);
    int first = r.fd;
    r.fd = -1;
    rig_connect(&r);                                   /* a second one, idle */
    http_reply(r.x, 200, "text/plain", STR("queued")); /* and queued for the end of the burst */
    http_listener_free(r.h);
    assert_int_equal(r.finishes, 1);
    rig_open(&r); /* for rig_done */
    close(first);
    rig_done(&r);
}

/* ---- replies ---- */

static void a_large_reply_arrives_whole(void **state)
{
    (void)state;
    enum { N = 9 * 1000 * 1000 };
    for (int k = 0; k < 4; k++) {
        bool tcp = k & 1, close_after = k & 2;
        struct rig r;
        rig_init(&r);
        r.tcp = tcp;
        r.reply_size = N;
        rig_open(&r);
        rig_connect(&r);
        rig_sendz(&r, close_after ? "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" : GET GET);
        for (int i = 0; i < 100000 && r.got.n < (size_t)N * (close_after ? 1 : 2); i++) {
            rig_spin(&r);
            rig_read(&r);
        }
        rig_read(&r);
        const char *body = memmem(r.got.p, r.got.n, "\r\n\r\n", 4);
        assert_non_null(body);
        for (size_t i = 0; i < N; i++) {
            if (body[4 + i] != (char)('a' + i % 23)) {
                fail_msg("byte %zu", i);
            }
        }
        assert_true(rig_got(&r, "Content-Length: 9000000\r\n"));
        assert_int_equal(r.finishes, close_after ? 1 : 2);
        assert_int_equal(r.eof, close_after);
        rig_done(&r);
    }
}

static void reply_with_everything(struct rig *r, struct http_ex *x)
{
    (void)r;
    http_reply_begin(x, 418, "text/plain");
    http_reply_header(x, "X-Evil",
                      STR("a\r\nb\x7f"
                          "c\0d"));
    http_reply_header(x, "X-Empty", STR(""));
    buf_addz(http_reply_body(x), "tea");
    http_close_after(x);
    http_reply_end(x);
}

static void reply_no_content(struct rig *r, struct http_ex *x)
{
    (void)r;
    http_reply(x, 204, NULL, STR("dropped"));
}

static void reply_error(struct rig *r, struct http_ex *x)
{
    struct err e;
    (void)r;
    err_set(&e, ERR_UNAVAILABLE, "\"quoted\" and busy");
    http_reply_error(x, &e);
}

static void reply_twice(struct rig *r, struct http_ex *x)
{
    (void)r;
    http_reply(x, 200, "text/plain", STR("one"));
    http_reply(x, 500, "text/plain", STR("two"));
}

static void begin_twice(struct rig *r, struct http_ex *x)
{
    (void)r;
    http_reply_begin(x, 200, "text/plain");
    buf_addz(http_reply_body(x), "half a reply");
    http_reply(x, 409, "text/plain", STR("no"));
}

static void replies_as_bytes(void **state)
{
    (void)state;
    static const struct {
        void (*reply)(struct rig *r, struct http_ex *x);
        const char *request, *bytes;
    } rows[] = {
        {reply_with_everything, GET,
         "HTTP/1.1 418 Status\r\nContent-Type: text/plain\r\nX-Evil: abcd\r\nX-Empty: \r\nContent-Length: 3\r\n"
         "Connection: close\r\n\r\ntea"},
        {reply_no_content, GET, "HTTP/1.1 204 No Content\r\n\r\n"},
        {reply_error, GET,
         "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nContent-Length: "
         "31\r\n\r\n"
         "{\"error\":\"\\\"quoted\\\" and busy\"}"},
        {reply_error, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
         "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nContent-Length: "
         "31\r\n\r\n"},
        {reply_twice, GET, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\none"},
        {begin_twice, GET, "HTTP/1.1 409 Conflict\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno"},
    };
    struct rig r;
    rig_init(&r);
    r.when = RIG_NEVER;
    rig_open(&r);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        r.on_headers = rows[i].reply;
        rig_connect(&r);
        rig_sendz(&r, rows[i].request);
        rig_read(&r);
        assert_string_equal(buf_z(&r.got), rows[i].bytes);
    }
    assert_int_equal(r.completes, 0);
    rig_done(&r);
}

/* ---- limits ---- */

static int connect_to(struct rig *r)
{
    struct err e;
    int fd = -1;
    assert_int_equal(sock_connect(&fd, r->addr, SECONDS(5), &e), ERR_OK);
    rig_spin(r);
    return fd;
}

static void connections_to_the_limit(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.tcp = true;
    r.limits.connections = 3;
    rig_open(&r);
    int fds[5];
    for (unsigned i = 0; i < 5; i++) {
        fds[i] = connect_to(&r);
        assert_int_equal(http_connections(r.h), MIN(i + 1, 3u));
        assert_int_equal(send(fds[i], GET, sizeof GET - 1, 0), sizeof GET - 1);
    }
    rig_spin(&r); /* ends: two wait in the backlog, without spinning */
    assert_int_equal(r.headers, 3);
    close(fds[0]);
    rig_spin(&r);
    assert_int_equal(r.headers, 4);
    atomic_fetch_sub(&r.connections, 1); /* as if another listener of the plane had closed one: found by the sweep */
    later(&r, 0);
    assert_int_equal(r.headers, 5);
    atomic_fetch_add(&r.connections, 1);
    for (unsigned i = 1; i < 5; i++) {
        close(fds[i]);
    }
    rig_spin(&r);
    assert_int_equal(http_connections(r.h), 0);
    rig_done(&r);
}

static int highest_fd(void)
{
    int fd = dup(0);
    close(fd);
    return fd;
}

static void without_descriptors_connections_are_shed(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    r.tcp = true;
    rig_open(&r);
    struct rlimit old, tight;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    int fds[3];
    struct err e;
    for (size_t i = 0; i < 3; i++) { /* connected by the kernel, not accepted yet */
        assert_int_equal(sock_connect(&fds[i], r.addr, SECONDS(5), &e), ERR_OK);
    }
    tight = old;
    tight.rlim_cur = (rlim_t)highest_fd();
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    rig_spin(&r); /* ends: does not spin */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(http_connections(r.h), 0);
    assert_true(r.h->reserve >= 0);
    for (size_t i = 0; i < 3; i++) {
        char ch;
        assert_int_equal(recv(fds[i], &ch, 1, 0), 0); /* told at once */
        close(fds[i]);
    }
    rig_connect(&r);
    rig_sendz(&r, GET);
    assert_int_equal(rig_status(&r), 200);
    rig_done(&r);
}

static void memory_of_connections_is_used_again(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    rig_connect(&r);
    struct h1 *first = r.h->first;
    for (int i = 0; i < 100; i++) {
        rig_sendz(&r, GET);
        assert_int_equal(rig_status(&r), 200);
        rig_connect(&r);
        assert_ptr_equal(r.h->first, first);
    }
    assert_int_equal(r.h->n_pool, 0);
    rig_done(&r);
}

/* ---- drain ---- */

static void count(void *ctx)
{
    ++*(unsigned *)ctx;
}

static void drain_answers_what_is_there_and_ends(void **state)
{
    (void)state;
    struct rig r;
    unsigned drained = 0;
    rig_init(&r);
    r.tcp = true;
    r.when = RIG_NEVER;
    rig_open(&r);
    int idle = connect_to(&r), sent = connect_to(&r), queued;
    r.when = RIG_AT_COMPLETE;
    assert_int_equal(send(idle, GET, sizeof GET - 1, 0), sizeof GET - 1);
    assert_int_equal(send(sent, GET, sizeof GET - 1, 0), sizeof GET - 1);
    rig_spin(&r);
    r.when = RIG_NEVER;
    rig_connect(&r);
    rig_sendz(&r, GET); /* in flight */
    assert_int_equal(r.headers, 3);
    struct http_ex *in_flight = r.x;
    r.when = RIG_AT_COMPLETE;
    struct err e;
    assert_int_equal(sock_connect(&queued, r.addr, SECONDS(5), &e), ERR_OK); /* in the backlog, with a request */
    assert_int_equal(send(queued, GET, sizeof GET - 1, 0), sizeof GET - 1);
    assert_int_equal(send(sent, GET, sizeof GET - 1, 0), sizeof GET - 1); /* in the kernel when the drain begins */

    http_drain(r.h, count, &drained);
    rig_spin(&r);
    assert_int_equal(r.headers, 5);
    char got[512];
    assert_int_equal(recv(idle, got, sizeof got, 0) > 0 && recv(idle, got, sizeof got, 0) == 0, 1);
    int tail[2] = {sent, queued};
    for (size_t i = 0; i < 2; i++) { /* each: its answers, the last with Connection: close, then the end */
        size_t n = 0;
        ssize_t k;
        while ((k = recv(tail[i], got + n, sizeof got - 1 - n, 0)) > 0) {
            n += (size_t)k;
        }
        got[n] = '\0';
        assert_int_equal(k, 0);
        assert_non_null(strstr(got, "Connection: close\r\n"));
    }
    close(idle);
    close(sent);
    close(queued);
    rig_spin(&r);
    assert_int_equal(drained, 0);
    assert_int_equal(http_connections(r.h), 1);
    int fd;
    assert_int_not_equal(sock_connect(&fd, r.addr, SECONDS(1), &e), ERR_OK); /* nobody listens any more */
    r.x = in_flight;
    http_reply(in_flight, 200, "text/plain", STR("last"));
    rig_spin(&r);
    assert_int_equal(rig_status(&r), 200);
    assert_true(rig_got(&r, "Connection: close\r\n"));
    assert_true(r.eof);
    close(r.fd);
    r.fd = -1;
    rig_spin(&r);
    assert_int_equal(drained, 1);
    rig_done(&r);
}

static void drain_of_nothing_and_of_the_silent(void **state)
{
    (void)state;
    struct rig r;
    unsigned drained = 0;
    rig_init(&r);
    rig_open(&r);
    http_drain(r.h, count, &drained);
    rig_spin(&r);
    assert_int_equal(drained, 1);
    http_listener_free(r.h);

    rig_open(&r);
    rig_connect(&r); /* has connected and said nothing yet: gets a second */
    http_drain(r.h, count, &drained);
    rig_spin(&r);
    assert_int_equal(drained, 1);
    rig_sendz(&r, GET);
    assert_int_equal(rig_status(&r), 200);
    assert_true(rig_got(&r, "Connection: close\r\n"));
    close(r.fd);
    r.fd = -1;
    rig_spin(&r);
    assert_int_equal(drained, 2);
    http_listener_free(r.h);

    rig_open(&r);
    rig_connect(&r);
    http_drain(r.h, count, &drained);
    later(&r, SECONDS(2));
    assert_true(r.eof);
    assert_int_equal(drained, 3);
    rig_done(&r);
}

static void free_it(void *ctx)
{
    struct rig *r = ctx;
    http_listener_free(r->h);
    r->h = NULL;
}

static void drained_may_free_the_listener(void **state)
{
    (void)state;
    struct rig r;
    rig_init(&r);
    rig_open(&r);
    rig_connect(&r);
    rig_sendz(&r, GET);
    http_drain(r.h, free_it, &r);
    rig_spin(&r);
    assert_null(r.h);
    rig_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slow_clients_are_ended),
        cmocka_unit_test(a_head_may_not_be_dripped),
        cmocka_unit_test(who_waits_for_us_is_not_slow),
        cmocka_unit_test(who_does_not_read_is_ended),
        cmocka_unit_test(a_lingering_client_is_left_alone_only_for_a_while),
        cmocka_unit_test(a_half_closed_client_gets_its_answer),
        cmocka_unit_test(a_client_that_is_gone_ends_the_exchange),
        cmocka_unit_test(freeing_a_listener_ends_what_is_open),
        cmocka_unit_test(a_large_reply_arrives_whole),
        cmocka_unit_test(replies_as_bytes),
        cmocka_unit_test(connections_to_the_limit),
        cmocka_unit_test(without_descriptors_connections_are_shed),
        cmocka_unit_test(memory_of_connections_is_used_again),
        cmocka_unit_test(drain_answers_what_is_there_and_ends),
        cmocka_unit_test(drain_of_nothing_and_of_the_silent),
        cmocka_unit_test(drained_may_free_the_listener),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
