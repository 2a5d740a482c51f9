/* SPDX-License-Identifier: Apache-2.0 */
/* The client connection against a scripted peer: what is sent, when it is repeated, what ends it. */
#include "peer.h"

#include "base/clock.h"
#include "client/http_client.h"

#define OK "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#define BIG (8u << 20)

static struct http_client *client(const char *url)
{
    struct http_client *c = NULL;
    struct err e = {0};
    assert_int_equal(http_client_new(&c, str_of(url), &e), ERR_OK);
    return c;
}

static enum err_code get(struct http_client *c, struct http_answer *a, struct err *e)
{
    return http_call(c, "GET", "/x", STR(""), NULL, 0, SECONDS(5), a, e);
}

static enum err_code post(struct http_client *c, const char *body, size_t n, struct http_answer *a, struct err *e)
{
    struct iovec v = {(void *)(uintptr_t)body, n};
    return http_call(c, "POST", "/x", STR("X-A: 1\r\n"), &v, 1, SECONDS(5), a, e);
}

static void addresses_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *url;
        enum err_code code;
    } rows[] = {
        {"http://127.0.0.1:8000", ERR_OK},
        {"http://localhost", ERR_OK},
        {"http://[::1]:80", ERR_OK},
        {"http://host.name:1/", ERR_OK},
        {"unix:/tmp/a.sock", ERR_OK},
        {"", ERR_INVALID},
        {"http://", ERR_INVALID},
        {"http://:80", ERR_INVALID},
        {"http://h:0", ERR_INVALID},
        {"http://h:65536", ERR_INVALID},
        {"http://h:8x", ERR_INVALID},
        {"http://h:1/path", ERR_INVALID},
        {"http://u@h:1", ERR_INVALID},
        {"http://h h", ERR_INVALID},
        {"http://[::1", ERR_INVALID},
        {"http://h\r\nX: y", ERR_INVALID},
        {"https://h", ERR_UNIMPLEMENTED},
        {"h:80", ERR_INVALID},
        {"unix:", ERR_INVALID},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct http_client *c = NULL;
        struct err e = {0};
        enum err_code rc = http_client_new(&c, str_of(rows[i].url), &e);
        if (rc != rows[i].code) {
            fail_msg("%s: %d, not %d: %s", rows[i].url, rc, rows[i].code, e.text);
        }
        assert_int_equal(c != NULL, rc == ERR_OK);
        http_client_free(c);
    }
}

static void a_kept_connection_is_used_again(void **state)
{
    (void)state;
    static const struct peer_step steps[] = {{.act = PEER_ACCEPT},
                                             {.act = PEER_READ},
                                             {.act = PEER_SEND, .bytes = OK},
                                             {.act = PEER_READ},
                                             {.act = PEER_SEND, .bytes = OK},
                                             {.act = PEER_END}};
    struct peer p;
    struct http_answer a;
    struct err e;
    peer_start(&p, steps);
    struct http_client *c = client(p.url);
    http_answer_init(&a, 1000);
    assert_int_equal(get(c, &a, &e), ERR_OK);
    assert_int_equal(a.status, 200);
    assert_true(str_is(buf_str(&a.body), "ok"));
    assert_int_equal(post(c, "body", 4, &a, &e), ERR_OK);
    peer_wait(&p);
    assert_int_equal(p.accepted, 1);
    assert_int_equal(p.requests, 2);
    const char *sent = buf_z(&p.request);
    assert_int_equal(strncmp(sent, "POST /x HTTP/1.1\r\nHost: localhost\r\n", 35), 0);
    assert_non_null(strstr(sent, "\r\nX-A: 1\r\n"));
    assert_non_null(strstr(sent, "\r\nContent-Length: 4\r\n"));
    assert_string_equal(strstr(sent, "\r\n\r\n"), "\r\n\r\nbody");
    http_client_free(c);
    http_answer_done(&a);
    peer_stop(&p);
}

/* The server closed between two calls: even a POST is sent on a new connection, because nothing was sent on the old. */
static void a_stale_connection_is_replaced(void **state)
{
    (void)state;
    static const struct peer_step steps[] = {
        {.act = PEER_ACCEPT}, {.act = PEER_READ}, {.act = PEER_SEND, .bytes = OK}, {.act = PEER_CLOSE},
        {.act = PEER_ACCEPT}, {.act = PEER_READ}, {.act = PEER_SEND, .bytes = OK}, {.act = PEER_END}};
    struct peer p;
    struct http_answer a;
    struct err e;
    peer_start(&p, steps);
    struct http_client *c = client(p.url);
    http_answer_init(&a, 1000);
    assert_int_equal(post(c, "1", 1, &a, &e), ERR_OK);
    usleep(20000);
    assert_int_equal(post(c, "2", 1, &a, &e), ERR_OK);
    http_client_free(c);
    peer_stop(&p);
    assert_int_equal(p.accepted, 2);
    assert_int_equal(p.requests, 2);
    http_answer_done(&a);
}

/* The server takes the second request and closes without a word: a GET is repeated once, a POST is not. */
static void only_idempotent_requests_are_repeated(void **state)
{
    (void)state;
    static const struct peer_step steps[] = {{.act = PEER_ACCEPT},
                                             {.act = PEER_READ},
                                             {.act = PEER_SEND, .bytes = OK},
                                             {.act = PEER_READ},
                                             {.act = PEER_CLOSE},
                                             {.act = PEER_ACCEPT},
                                             {.act = PEER_READ},
                                             {.act = PEER_SEND, .bytes = OK},
                                             {.act = PEER_READ},
                                             {.act = PEER_CLOSE},
                                             {.act = PEER_END}};
    struct peer p;
    struct http_answer a;
    struct err e;
    peer_start(&p, steps);
    struct http_client *c = client(p.url);
    http_answer_init(&a, 1000);
    assert_int_equal(get(c, &a, &e), ERR_OK);
    assert_int_equal(get(c, &a, &e), ERR_OK); /* on the second connection */
    assert_int_equal(post(c, "2", 1, &a, &e), ERR_UNAVAILABLE);
    assert_non_null(strstr(e.text, "closed before a reply"));
    http_client_free(c);
    peer_stop(&p);
    assert_int_equal(p.accepted, 2);
    assert_int_equal(p.requests, 4);
    http_answer_done(&a);
}

/* A refusal that comes while a big body is on its way is read, not drowned; the connection is not used again. */
static void an_early_reply_is_heard(void **state)
{
    (void)state;
    static const struct peer_step steps[] = {
        {.act = PEER_ACCEPT},
        {.act = PEER_HEAD},
        {.act = PEER_SEND, .bytes = "HTTP/1.1 413 Too Large\r\nContent-Length: 15\r\n\r\n{\"error\":\"big\"}"},
        {.act = PEER_LEFT},
        {.act = PEER_ACCEPT},
        {.act = PEER_READ},
        {.act = PEER_SEND, .bytes = OK},
        {.act = PEER_END}};
    struct peer p;
    struct http_answer a;
    struct err e;
    char *body = calloc(1, BIG);
    peer_start(&p, steps);
    struct http_client *c = client(p.url);
    http_answer_init(&a, 1000);
    assert_int_equal(post(c, body, BIG, &a, &e), ERR_OK);
    assert_int_equal(a.status, 413);
    assert_true(str_is(buf_str(&a.body), "{\"error\":\"big\"}"));
    assert_int_equal(get(c, &a, &e), ERR_OK);
    assert_int_equal(a.status, 200);
    http_client_free(c);
    peer_stop(&p);
    assert_int_equal(p.accepted, 2);
    http_answer_done(&a);
    free(body);
}

/* The same from a server that closes at once: what it said before is still found. */
static void a_reply_before_a_reset_is_found(void **state)
{
    (void)state;
    static const struct peer_step steps[] = {
        {.act = PEER_ACCEPT},
        {.act = PEER_HEAD},
        {.act = PEER_SEND, .bytes = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"},
        {.act = PEER_CLOSE},
        {.act = PEER_END}};
    struct peer p;
    struct http_answer a;
    struct err e = {0};
    char *body = calloc(1, BIG);
    peer_start(&p, steps);
    struct http_client *c = client(p.url);
    http_answer_init(&a, 1000);
    assert_int_equal(post(c, body, BIG, &a, &e), ERR_OK);
    assert_int_equal(a.status, 503);
    http_client_free(c);
    peer_stop(&p);
    http_answer_done(&a);
    free(body);
}

static void silence_ends_at_the_limit(void **state)
{
    (void)state;
    static const struct peer_step steps[] = {{.act = PEER_ACCEPT}, {.act = PEER_DRAIN}, {.act = PEER_END}};
    struct peer p;
    struct http_answer a;
    struct err e;
    peer_start(&p, steps);
    struct http_client *c = client(p.url);
    http_answer_init(&a, 1000);
    uint64_t start = clock_us();
    assert_int_equal(http_call(c, "GET", "/x", STR(""), NULL, 0, MILLIS(80), &a, &e), ERR_TIMEOUT);
    assert_true(clock_us() - start >= MILLIS(80));
    assert_true(clock_us() - start < SECONDS(4));
    http_client_free(c);
    peer_stop(&p);
    http_answer_done(&a);
}

static void nobody_listens(void **state)
{
    (void)state;
    struct http_answer a;
    struct err e = {0};
    struct http_client *c = client("unix:/tmp/weir-test-nobody.sock");
    http_answer_init(&a, 1000);
    assert_int_equal(get(c, &a, &e), ERR_UNAVAILABLE);
    assert_true(e.text[0]);
    assert_int_equal(http_call(c, "GET", "/a b", STR(""), NULL, 0, 0, &a, &e), ERR_INVALID);
    http_client_free(c);
    http_answer_done(&a);
}

struct made {
    uint64_t left;
    bool fails;
};

static int64_t make(void *ctx, char *p, size_t cap, struct err *e)
{
    struct made *m = ctx;
    if (m->fails && m->left < BIG / 2) {
        err_set(e, ERR_CONFLICT, "the file changed");
        return -1;
    }
    size_t n = (size_t)MIN((uint64_t)MIN(cap, (size_t)1000), m->left);
    memset(p, 'm', n);
    m->left -= n;
    return (int64_t)n;
}

static void a_made_body_is_sent_whole(void **state)
{
    (void)state;
    static const struct peer_step steps[] = {
        {.act = PEER_ACCEPT}, {.act = PEER_READ}, {.act = PEER_SEND, .bytes = OK}, {.act = PEER_END}};
    struct peer p;
    struct http_answer a;
    struct err e;
    struct made m = {.left = BIG};
    struct http_source src = {.size = BIG, .read = make, .ctx = &m};
    peer_start(&p, steps);
    struct http_client *c = client(p.url);
    http_answer_init(&a, 1000);
    assert_int_equal(http_call_stream(c, "POST", "/x", STR(""), &src, SECONDS(20), &a, &e), ERR_OK);
    peer_wait(&p);
    assert_int_equal(p.requests, 1);
    const char *body = strstr(buf_z(&p.request), "\r\n\r\n") + 4;
    assert_int_equal(p.request.n - (size_t)(body - p.request.p), BIG);
    assert_null(memchr(body, 'x', BIG));
    http_client_free(c);
    http_answer_done(&a);
    peer_stop(&p);
}

static void a_source_that_fails_ends_the_call_with_its_reason(void **state)
{
    (void)state;
    static const struct peer_step steps[] = {{.act = PEER_ACCEPT}, {.act = PEER_DRAIN}, {.act = PEER_END}};
    struct peer p;
    struct http_answer a;
    struct err e;
    struct made m = {.left = BIG, .fails = true};
    struct http_source src = {.size = BIG, .read = make, .ctx = &m};
    peer_start(&p, steps);
    struct http_client *c = client(p.url);
    http_answer_init(&a, 1000);
    assert_int_equal(http_call_stream(c, "POST", "/x", STR(""), &src, SECONDS(20), &a, &e), ERR_CONFLICT);
    assert_string_equal(e.text, "the file changed");
    http_client_free(c);
    peer_stop(&p);
    http_answer_done(&a);
}

struct sunk {
    char got[64];
    size_t n, most; /* most: then it has enough */
};

static enum err_code sink(void *ctx, struct str piece, struct err *e)
{
    struct sunk *s = ctx;
    assert_true(piece.n > 0 && s->n + piece.n < sizeof s->got);
    memcpy(s->got + s->n, piece.p, piece.n);
    s->n += piece.n;
    s->got[s->n] = 0;
    return s->n > s->most ? err_set(e, ERR_STORAGE, "enough") : ERR_OK;
}

/* Of a reply that is as it should be nothing is kept; a body that says what is wrong is. */
static void a_long_reply_goes_to_a_sink(void **state)
{
    (void)state;
    static const struct peer_step steps[] = {
        {.act = PEER_ACCEPT},
        {.act = PEER_READ},
        {.act = PEER_SEND, .bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n"},
        {.act = PEER_SEND, .bytes = "8\r\nabcdefgh\r\n0\r\n\r\n"},
        {.act = PEER_READ},
        {.act = PEER_SEND, .bytes = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"},
        {.act = PEER_READ},
        {.act = PEER_SEND, .bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n"},
        {.act = PEER_END}};
    struct peer p;
    struct http_answer a;
    struct err e;
    struct sunk s = {.most = 63};
    peer_start(&p, steps);
    struct http_client *c = client(p.url);
    http_answer_init(&a, 1000);
    assert_int_equal(http_call_sink(c, "GET", "/x", STR(""), sink, &s, SECONDS(5), &a, &e), ERR_OK);
    assert_true(a.status == 200 && a.body.n == 0);
    assert_string_equal(s.got, "12345678abcdefgh");
    assert_int_equal(http_call_sink(c, "GET", "/x", STR(""), sink, &s, SECONDS(5), &a, &e), ERR_OK);
    assert_true(a.status == 404 && str_is(buf_str(&a.body), "none"));
    assert_string_equal(s.got, "12345678abcdefgh");
    s.most = 16;
    assert_int_equal(http_call_sink(c, "GET", "/x", STR(""), sink, &s, SECONDS(5), &a, &e), ERR_STORAGE);
    assert_string_equal(e.text, "enough");
    http_client_free(c);
    peer_stop(&p);
    http_answer_done(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_checked),
        cmocka_unit_test(a_kept_connection_is_used_again),
        cmocka_unit_test(a_stale_connection_is_replaced),
        cmocka_unit_test(only_idempotent_requests_are_repeated),
        cmocka_unit_test(an_early_reply_is_heard),
        cmocka_unit_test(a_reply_before_a_reset_is_found),
        cmocka_unit_test(silence_ends_at_the_limit),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(a_made_body_is_sent_whole),
        cmocka_unit_test(a_source_that_fails_ends_the_call_with_its_reason),
        cmocka_unit_test(a_long_reply_goes_to_a_sink),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
