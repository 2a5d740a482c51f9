/* SPDX-License-Identifier: Apache-2.0 */
/* Exchanges without a wire: the order of the calls, how a body arrives, replies, refusals, and whoever leaves. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "net/http_local.h"

struct rig {
    struct loop *loop;
    struct http_local *h;
    struct buf said, reply; /* said: what was called, in order */
    struct http_local_call call;
    struct http_ex *x;
    void (*on_headers)(struct rig *r, struct http_ex *x);
    void (*on_body)(struct rig *r, struct http_ex *x);
    bool answers; /* in `complete` */
    char target[8];
    const char *next; /* piece that `more` gives; NULL: none yet */
    int done, status;
    char head[512];
};

static void on_headers(void *ctx, struct http_ex *x)
{
    struct rig *r = ctx;

    r->x = x;
    buf_addf(&r->said, "headers %d %.*s?%.*s %lld;", (int)x->method, (int)x->path.n, x->path.p, (int)x->query.n,
             x->query.p, (long long)x->length);
    if (r->on_headers) {
        r->on_headers(r, x);
    }
}

static void on_body(void *ctx, struct http_ex *x, const char *p, size_t n)
{
    struct rig *r = ctx;

    buf_addf(&r->said, "body %.*s;", (int)n, p);
    if (r->on_body) {
        r->on_body(r, x);
    }
}

static void on_complete(void *ctx, struct http_ex *x)
{
    struct rig *r = ctx;

    BUF_LIT(&r->said, "complete;");
    if (r->answers) {
        http_reply(x, 200, "text/plain", STR("well"));
        assert_int_equal(r->done, 0); /* later, not within the call */
    }
}

static void on_finished(void *ctx, struct http_ex *x)
{
    struct rig *r = ctx;

    buf_addf(&r->said, "finished%s;", x->gone ? " gone" : "");
    http_reply(x, 500, NULL, STR("too late"));
    r->x = NULL;
}

static void on_done(struct http_local_call *c)
{
    struct rig *r = c->ask.ctx;

    r->done++;
    r->status = c->status;
    snprintf(r->head, sizeof r->head, "%s", buf_z(&c->head));
}

static void on_more(struct http_local_call *c)
{
    struct rig *r = c->ask.ctx;

    BUF_LIT(&r->said, "more;");
    if (r->next) {
        http_local_more(c, (struct iovec){(void *)(uintptr_t)r->next, strlen(r->next)});
    }
}

static void rig_up(struct rig *r)
{
    struct http_limits limits;
    struct err e;

    *r = (struct rig){.answers = true};
    http_limits_default(&limits);
    limits.body = 100;
    limits.header_count = 3;
    limits.header_bytes = 300;
    assert_int_equal(loop_new(&r->loop, &e), ERR_OK);
    http_local_new(&r->h, r->loop, &(struct http_service){r, on_headers, on_body, on_complete, on_finished}, &limits);
    buf_init(&r->said, 4096);
    buf_init(&r->reply, 64);
}

static void rig_down(struct rig *r)
{
    http_local_free(r->h);
    loop_free(r->loop);
    buf_done(&r->said);
    buf_done(&r->reply);
}

static void spin(struct rig *r)
{
    while (loop_once(r->loop, 0)) {
    }
}

static void start(struct rig *r, const char *method, const char *target, const char *headers, const struct iovec *body,
                  size_t n, uint64_t size)
{
    r->done = 0;
    r->status = -1;
    buf_clear(&r->said);
    buf_clear(&r->reply);
    r->call.ask = (struct http_local_ask){.method = str_of(method),
                                          .target = str_of(target),
                                          .headers = str_of(headers),
                                          .body = body,
                                          .n_body = n,
                                          .size = size,
                                          .reply = &r->reply,
                                          .more = on_more,
                                          .done = on_done,
                                          .ctx = r};
    http_local_start(r->h, &r->call);
    spin(r);
}

static void expect(struct rig *r, const char *said, int status, const char *reply)
{
    assert_string_equal(buf_z(&r->said), said);
    assert_int_equal(r->done, 1);
    assert_int_equal(r->status, status);
    assert_string_equal(buf_z(&r->reply), reply);
}

static void header_seen(struct rig *r, struct http_ex *x)
{
    (void)r;
    assert_true(str_is(http_header(x, "x-one"), "a b"));
    assert_true(str_is(http_header(x, "x-two"), ""));
    assert_true(http_header(x, "x-three").p == NULL);
}

static void test_order(void **state)
{
    struct iovec body[] = {{"ab", 2}, {"", 0}, {"cd", 2}};
    struct rig r;

    (void)state;
    rig_up(&r);
    r.on_headers = header_seen;
    start(&r, "POST", "/p?q=1", "X-One:  a b \r\nx-two:\r\n", body, 3, 4);
    expect(&r, "headers 2 /p?q=1 4;body ab;body cd;complete;finished;", 200, "well");
    assert_string_equal(r.head, "Content-Type: text/plain\r\nContent-Length: 4\r\n");
    r.on_headers = NULL;
    start(&r, "HEAD", "/", "", NULL, 0, 0);
    expect(&r, "headers 1 /? 0;complete;finished;", 200, "");
    assert_string_equal(r.head, "Content-Type: text/plain\r\nContent-Length: 4\r\n");
    rig_down(&r);
}

static void direct(struct rig *r, struct http_ex *x)
{
    struct iovec to[] = {{r->target, 2}, {r->target + 2, 0}, {r->target + 3, 2}};

    http_body_direct(x, to, 3);
    r->on_body = NULL;
}

static void until(struct rig *r, struct http_ex *x)
{
    http_body_until(x, 3);
    r->on_body = direct;
}

static void test_direct(void **state)
{
    struct iovec body[] = {{"abcdef", 6}, {"ghi", 3}};
    struct rig r;

    (void)state;
    rig_up(&r);
    r.on_headers = until;
    start(&r, "POST", "/", "", body, 2, 9);
    expect(&r, "headers 2 /? 9;body abc;body hi;complete;finished;", 200, "well");
    assert_memory_equal(r.target, "de\0fg", 5);
    rig_down(&r);
}

static void pause_it(struct rig *r, struct http_ex *x)
{
    (void)r;
    http_body_pause(x);
}

static void test_pause_and_more(void **state)
{
    struct iovec body[] = {{"ab", 2}};
    struct rig r;

    (void)state;
    rig_up(&r);
    r.on_headers = pause_it;
    start(&r, "PUT", "/", "", body, 1, 6);
    assert_string_equal(buf_z(&r.said), "headers 3 /? 6;");
    http_body_resume(r.x);
    spin(&r);
    assert_string_equal(buf_z(&r.said), "headers 3 /? 6;body ab;more;");
    spin(&r); /* asked once only */
    http_local_more(&r.call, (struct iovec){"cd", 2});
    r.next = "ef and what is beyond the end";
    spin(&r);
    expect(&r, "headers 3 /? 6;body ab;more;body cd;more;body ef;complete;finished;", 200, "well");
    rig_down(&r);
}

static void answer(struct rig *r, struct http_ex *x)
{
    (void)r;
    http_reply_begin(x, 404, NULL);
    http_reply_header(x, "X-A", STR("b\r\nc"));
    http_reply_end(x);
}

static void test_early_reply(void **state)
{
    struct iovec body[] = {{"ab", 2}};
    struct rig r;

    (void)state;
    rig_up(&r);
    r.on_headers = answer;
    start(&r, "POST", "/", "", body, 1, 2);
    expect(&r, "headers 2 /? 2;finished;", 404, "");
    assert_string_equal(r.head, "X-A: bc\r\nContent-Length: 0\r\n");
    rig_down(&r);
}

static void stream(struct rig *r, struct http_ex *x)
{
    (void)r;
    http_reply_begin(x, 200, "text/plain");
    http_stream_begin(x, &(struct http_stream){.max = 1});
    assert_true(http_stream_write(x, STR("one ")));
}

static void test_stream(void **state)
{
    struct rig r;
    char much[64] = {0};

    (void)state;
    rig_up(&r);
    r.on_headers = stream;
    start(&r, "GET", "/", "", NULL, 0, 0);
    assert_int_equal(r.done, 0);
    assert_true(http_stream_write(r.x, STR("two")));
    http_stream_end(r.x);
    spin(&r);
    expect(&r, "headers 0 /? 0;finished;", 200, "one two");
    start(&r, "GET", "/", "", NULL, 0, 0);
    http_stream_cut(r.x);
    spin(&r);
    expect(&r, "headers 0 /? 0;finished gone;", 0, "");
    start(&r, "GET", "/", "", NULL, 0, 0);
    assert_true(http_stream_write(r.x, (struct str){much, sizeof much})); /* more than the caller wants */
    assert_true(http_stream_write(r.x, STR("more")));
    spin(&r);
    expect(&r, "headers 0 /? 0;finished gone;", 0, "");
    assert_true(r.call.over);
    rig_down(&r);
}

static void test_refused(void **state)
{
    static const struct {
        const char *target, *headers, *why;
        uint64_t size;
        int status;
    } cases[] = {
        {"x", "", "{\"error\":\"the target of the request is no path\"}", 0, 400},
        {"/", "A b: c\r\n", "{\"error\":\"malformed header fields\"}", 0, 400},
        {"/", "a: b\nc: d\r\n", "{\"error\":\"malformed header fields\"}", 0, 400},
        {"/", "a: b", "{\"error\":\"malformed header fields\"}", 0, 400},
        {"/", "a:\r\nb:\r\nc:\r\nd:\r\n", "{\"error\":\"more than 3 header fields\"}", 0, 431},
        {"/", "", "{\"error\":\"the body has 101 bytes, the limit is 100\"}", 101, 413},
    };
    struct rig r;

    (void)state;
    rig_up(&r);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        r.reply.max = 100;
        start(&r, "POST", cases[i].target, cases[i].headers, NULL, 0, cases[i].size);
        expect(&r, "", cases[i].status, cases[i].why);
    }
    char longest[400];
    memset(longest, 'a', sizeof longest - 1);
    longest[0] = '/';
    longest[sizeof longest - 1] = '\0';
    start(&r, "POST", longest, "", NULL, 0, 0);
    expect(&r, "", 431, "{\"error\":\"the head of the request is larger than 300 bytes\"}");
    rig_down(&r);
}

static void test_leaves(void **state)
{
    struct rig r;

    (void)state;
    rig_up(&r);
    r.answers = false;
    start(&r, "GET", "/", "", NULL, 0, 0);
    http_local_cancel(&r.call);
    http_local_cancel(&r.call);
    http_reply(r.x, 200, NULL, STR("nobody reads it"));
    assert_int_equal(r.done, 0);
    spin(&r);
    expect(&r, "headers 0 /? 0;complete;finished gone;", 0, "");
    start(&r, "GET", "/", "", NULL, 0, 0); /* under way when the house closes */
    http_local_free(r.h);
    r.h = NULL;
    expect(&r, "headers 0 /? 0;complete;finished gone;", 0, "");
    rig_down(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order),          cmocka_unit_test(test_direct),
                                       cmocka_unit_test(test_pause_and_more), cmocka_unit_test(test_early_reply),
                                       cmocka_unit_test(test_stream),         cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_leaves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
