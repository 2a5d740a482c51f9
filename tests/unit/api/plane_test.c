/* SPDX-License-Identifier: Apache-2.0 */
/* A plane on a real listener: which row a request finds, what is refused and how, and what handlers are given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "api/plane.h"
#include "support/http_rig.h"

/* ---- handlers that say what they were given ---- */

static struct {
    unsigned runs, finishes;
    bool later;              /* the next simple handler replies later */
    struct request *waiting; /* that one */
    uint64_t streamed;
} seen;

static void say(struct request *r)
{
    struct buf b;

    buf_init(&b, 1u << 20);
    buf_addf(&b, "%s %s", r->route->method, r->route->pattern);
    for (size_t i = 0; i < 2 && r->arg[i].p; i++) {
        buf_addf(&b, " [" STR_FMT "]", STR_ARG(r->arg[i]));
    }
    buf_addf(&b, " body=%zu:" STR_FMT, r->body.n, (int)MIN(r->body.n, (size_t)20), r->body.n > 0 ? r->body.p : "");
    reply_json(r, 200, &b);
    buf_done(&b);
}

static void run(struct request *r)
{
    seen.runs++;
    if (seen.later) {
        seen.later = false;
        seen.waiting = r;
        r->pending = true;
        r->state = &seen;
        return;
    }
    say(r);
}

static void stage_headers(struct request *r)
{
    struct err e;

    seen.streamed = 0;
    if (http_header(r->x, "x-refuse").p) {
        err_set(&e, ERR_UNAVAILABLE, "not today");
        reply_err(r, &e);
    }
}

static void stage_body(struct request *r, const char *p, size_t n)
{
    (void)r;
    (void)p;
    seen.streamed += n;
}

static void stage_complete(struct request *r)
{
    run(r);
}

static const struct api_stages stages = {stage_headers, stage_body, stage_complete};

static const struct api_route routes[] = {
    {"GET", "/", run, NULL, 0, "root"},
    {"GET", "/v2", run, NULL, 0, "server"},
    {"GET", "/v2/health/live", run, NULL, 0, "live"},
    {"GET", "/v2/models/{model}", run, NULL, 0, "model"},
    {"POST", "/v2/models/{model}", run, NULL, 10, "change"},
    {"POST", "/v2/models/{model}/infer", run, NULL, 0, "infer"},
    {"GET", "/v2/models/{model}/versions/{version}", run, NULL, 0, "version"},
    {"POST", "/v2/models/{model}/versions/{version}/infer", NULL, &stages, 100, "infer a version"},
    {"DELETE", "/v2/models/{model}/versions/{version}", run, NULL, 0, "forget"},
    {"GET", "/secret/{model}", run, NULL, 0, "only with a key"},
};

static enum err_code access_of(struct plane *p, const struct http_ex *x, const struct api_route *row, struct err *e)
{
    (void)p;
    if (strncmp(row->pattern, "/secret", 7) != 0 || http_header(x, "x-key").p) {
        return ERR_OK;
    }
    return http_header(x, "x-wrong").p ? err_set(e, ERR_FORBIDDEN, "the wrong key")
                                       : err_set(e, ERR_UNAUTHENTICATED, "a key, please");
}

static void finished(struct request *r)
{
    seen.finishes++;
    if (r->state) {
        seen.waiting = NULL;
    }
}

struct bed {
    struct rig rig;
    struct plane plane;
};

static int bed_up(void **state)
{
    struct bed *b = xcalloc(1, sizeof(*b));

    memset(&seen, 0, sizeof(seen));
    b->plane = (struct plane){
        .name = "data", .routes = routes, .n_routes = COUNT_OF(routes), .finished = finished, .access = access_of};
    plane_init(&b->plane);
    rig_init(&b->rig);
    b->rig.tcp = true;
    rig_open(&b->rig);
    b->rig.h->service = plane_service(&b->plane);
    rig_connect(&b->rig);
    *state = b;
    return 0;
}

static int bed_down(void **state)
{
    struct bed *b = *state;

    rig_done(&b->rig);
    plane_done(&b->plane);
    free(b);
    return 0;
}

/* Sends a request without a body and returns what came back. */
static const char *ask(struct bed *b, const char *line, const char *headers)
{
    char text[4096];

    snprintf(text, sizeof(text), "%s HTTP/1.1\r\nHost: a\r\n%s\r\n", line, headers);
    rig_connect(&b->rig);
    rig_sendz(&b->rig, text);
    rig_read(&b->rig);
    return buf_z(&b->rig.got);
}

/* ---- the match ---- */

static const struct {
    const char *line;
    int status;
    const char *want; /* part of the reply */
} matches[] = {
    {"GET /", 200, "GET / body=0"},
    {"GET /?x=/v2", 200, "GET / body=0"},
    {"GET /v2", 200, "GET /v2 body=0"},
    {"GET /v2/health/live", 200, "GET /v2/health/live body"},
    {"GET /v2/models/intent", 200, "GET /v2/models/{model} [intent] body"},
    {"GET /v2/models/v2", 200, "GET /v2/models/{model} [v2] body"},
    {"GET /v2/models/infer", 200, "[infer]"},
    {"POST /v2/models/infer/infer", 200, "POST /v2/models/{model}/infer [infer] body"},
    {"GET /v2/models/a/versions/7", 200, "GET /v2/models/{model}/versions/{version} [a] [7] body"},
    {"DELETE /v2/models/a/versions/7", 200, "DELETE /v2/models/{model}/versions/{version} [a] [7] body"},
    {"POST /v2/models/a/versions/7/infer", 200, "POST /v2/models/{model}/versions/{version}/infer [a] [7] body"},
    /* escapes: decoded once, and what comes out is a name */
    {"GET /v2/models/%61%62%2Ec", 200, "[ab.c] body"},
    {"GET /v2/models/%2561", 400, "'%61' in the path is not a name"},
    {"GET /v2/models/a%2Fb", 400, "'a/b' in the path is not a name"},
    {"GET /v2/models/a%00b", 400, "malformed escape"},
    {"GET /v2/models/a%2", 400, "malformed escape"},
    {"GET /v2/models/a%zz", 400, "malformed escape"},
    {"GET /v2/models/%2e%2e", 400, "'..' in the path is not a name"},
    {"GET /v2/models/a%20b", 400, "not a name"},
    {"GET /v2/models/a%2Fversions%2F7", 400, "not a name"},
    {"GET /v2/models/a/versions/%2e", 400, "'.' in the path is not a name"},
    {"GET /v2/models/a:b", 400, "'a:b' in the path is not a name"},
    {"GET /%76%32", 404, "no route"}, /* literals are compared as they were sent */
    /* segments that match nothing */
    {"GET //", 404, "no route '//' on the data listener"},
    {"GET /v2/", 404, "no route"},
    {"GET //v2", 404, "no route"},
    {"GET /v2//models/a", 404, "no route"},
    {"GET /v2/models/", 404, "no route"},
    {"GET /v2/models//versions/7", 404, "no route"},
    {"GET /v2/models/..", 404, "no route"},
    {"GET /v2/models/.", 404, "no route"},
    {"GET /v2/./models/a", 404, "no route"},
    {"GET /v2/models/a/../b", 404, "no route"},
    {"GET /v2/models/a/b", 404, "no route"},
    {"GET /v2/models", 404, "no route"},
    {"GET /v2/health/LIVE", 404, "no route"},
    {"GET /V2", 404, "no route"},
    {"GET /v2/health/live/1/2/3/4/5/6/7/8/9", 404, "no route"},
    {"GET "
     "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
     "aaaaaaaa/b",
     404, "no route"},
    {"OPTIONS *", 404, "no route"},
    /* another method */
    {"POST /", 405, "Allow: GET, HEAD\r\n"},
    {"PUT /v2/models/a", 405, "Allow: GET, HEAD, POST\r\n"},
    {"GET /v2/models/a/infer", 405, "Allow: POST\r\n"},
    {"HEAD /v2/models/a/infer", 405, "Allow: POST\r\n"},
    {"OPTIONS /v2/models/a/versions/7", 405, "Allow: GET, HEAD, DELETE\r\n"},
    {"BREW /v2", 405, "Allow: GET, HEAD\r\n"},
};

static void matching(void **state)
{
    struct bed *b = *state;

    for (size_t i = 0; i < COUNT_OF(matches); i++) {
        const char *got = ask(b, matches[i].line, "");

        if (rig_status(&b->rig) != matches[i].status || !strstr(got, matches[i].want)) {
            print_error("%s: %s\n", matches[i].line, got);
            fail();
        }
        assert_true(matches[i].status == 200 || strstr(got, "{\"error\":\"") ||
                    strncmp(matches[i].line, "HEAD", 4) == 0);
    }
}

static void head_is_get_without_a_body(void **state)
{
    struct bed *b = *state;
    const char *got = ask(b, "HEAD /v2/models/intent", "");

    assert_int_equal(rig_status(&b->rig), 200);
    assert_non_null(strstr(got, "Content-Length: 39\r\n"));
    assert_null(strstr(got, "[intent]"));
}

static void longest_name(void **state)
{
    struct bed *b = *state;
    char line[300] = "GET /v2/models/";
    size_t n = strlen(line);

    memset(line + n, 'm', NAME_MAX_LEN);
    ask(b, line, "");
    assert_int_equal(rig_status(&b->rig), 200);
    line[n + NAME_MAX_LEN] = 'm';
    ask(b, line, "");
    assert_int_equal(rig_status(&b->rig), 400);
}

/* ---- access ---- */

static void access_hangs_on_the_row(void **state)
{
    struct bed *b = *state;
    const char *got = ask(b, "GET /secret/a", "");

    assert_int_equal(rig_status(&b->rig), 401);
    assert_non_null(strstr(got, "WWW-Authenticate: Bearer realm=\"weir\"\r\n"));
    assert_non_null(strstr(got, "a key, please"));
    ask(b, "GET /secret/a", "X-Wrong: 1\r\n");
    assert_int_equal(rig_status(&b->rig), 403);
    ask(b, "GET /secret/a%2fb", ""); /* it is not told more than that it needs a key */
    assert_int_equal(rig_status(&b->rig), 401);
    assert_int_equal(seen.runs, 0);
    ask(b, "GET /secret/%61", "X-Key: 1\r\n");
    assert_int_equal(rig_status(&b->rig), 200);
    assert_int_equal(seen.runs, 1);
}

/* ---- bodies ---- */

static void body_is_collected(void **state)
{
    struct bed *b = *state;

    rig_sendz(&b->rig, "POST /v2/models/a/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    rig_sendz(&b->rig, "4\r\ndefg\r\n0\r\n\r\n");
    rig_sendz(&b->rig, "POST /v2/models/b/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy");
    rig_read(&b->rig);
    assert_non_null(strstr(buf_z(&b->rig.got), "[a] body=7:abcdefg"));
    assert_non_null(strstr(buf_z(&b->rig.got), "[b] body=2:xy")); /* the first one's is gone */
    assert_int_equal(seen.finishes, 2);
}

static void body_limits(void **state)
{
    struct bed *b = *state;

    rig_sendz(&b->rig, "POST /v2/models/a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789");
    rig_read(&b->rig);
    assert_int_equal(rig_status(&b->rig), 200);
    rig_connect(&b->rig);
    rig_sendz(&b->rig, "POST /v2/models/a HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
    rig_read(&b->rig);
    assert_int_equal(rig_status(&b->rig), 413); /* on its headers */
    rig_connect(&b->rig);
    rig_sendz(&b->rig, "POST /v2/models/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
                       "chunked\r\n\r\n8\r\n01234567\r\n3\r\n012\r\n0\r\n\r\n");
    rig_read(&b->rig);
    assert_int_equal(rig_status(&b->rig), 413);
    assert_int_equal(seen.runs, 1);
    rig_connect(&b->rig);
    rig_sendz(&b->rig, "POST /v2/models/a/versions/1/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n");
    rig_read(&b->rig);
    assert_int_equal(rig_status(&b->rig), 413);
    assert_non_null(strstr(buf_z(&b->rig.got), "100 bytes"));
    rig_connect(&b->rig);
    rig_sendz(&b->rig,
              "POST /v2/models/a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"); /* and the next is as if nothing
                                                                                           had been */
    rig_read(&b->rig);
    assert_non_null(strstr(buf_z(&b->rig.got), "[a] body=3:abc"));
}

static void limit_of_the_plane(void **state)
{
    struct bed *b = *state;

    b->plane.max_body = 4;
    rig_sendz(&b->rig, "POST /v2/models/a/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n01234");
    rig_read(&b->rig);
    assert_int_equal(rig_status(&b->rig), 413);
}

static void big_bodies_grow_and_go(void **state)
{
    struct bed *b = *state;
    size_t n = 3u << 20;
    char head[200], *body = xmalloc(n);

    memset(body, 'b', n);
    snprintf(head, sizeof(head), "POST /v2/models/a/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n", n);
    rig_sendz(&b->rig, head);
    rig_send(&b->rig, body, n);
    rig_read(&b->rig);
    assert_non_null(strstr(buf_z(&b->rig.got), "body=3145728:bbbb"));
    assert_non_null(b->plane.free);
    assert_true(b->plane.free->body.cap <= 65536); /* the pool does not keep it */
    free(body);
}

static void stages_get_the_pieces(void **state)
{
    struct bed *b = *state;

    rig_sendz(&b->rig, "POST /v2/models/a/versions/3/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    assert_int_equal(seen.runs, 0);
    rig_sendz(&b->rig, "def");
    rig_read(&b->rig);
    assert_int_equal(rig_status(&b->rig), 200);
    assert_int_equal(seen.streamed, 6);
    rig_connect(&b->rig);
    rig_sendz(
        &b->rig,
        "POST /v2/models/a/versions/3/infer HTTP/1.1\r\nHost: a\r\nX-Refuse: 1\r\nContent-Length: 6\r\n\r\nabcdef");
    rig_read(&b->rig);
    assert_int_equal(rig_status(&b->rig), 503);
    assert_non_null(strstr(buf_z(&b->rig.got), "Retry-After: 1\r\n"));
    assert_int_equal(seen.streamed, 0);
    assert_int_equal(seen.runs, 1);
}

/* ---- later ---- */

static void reply_later(void **state)
{
    struct bed *b = *state;

    seen.later = true;
    ask(b, "GET /v2/models/slow", "");
    assert_int_equal(rig_status(&b->rig), 0);
    assert_non_null(seen.waiting);
    seen.waiting->state = NULL;
    say(seen.waiting);
    rig_spin(&b->rig);
    rig_read(&b->rig);
    assert_int_equal(rig_status(&b->rig), 200);
    assert_int_equal(seen.finishes, 1);
}

static void client_leaves_before_the_reply(void **state)
{
    struct bed *b = *state;

    seen.later = true;
    ask(b, "GET /v2/models/slow", "");
    assert_non_null(seen.waiting);
    struct linger hard = {1, 0}; /* a reset: a mere FIN may come from a client that still reads */
    assert_int_equal(setsockopt(b->rig.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
    rig_connect(&b->rig); /* closes the one before */
    rig_spin(&b->rig);
    assert_null(seen.waiting); /* told by finished */
    assert_int_equal(seen.finishes, 1);
}

static void replies_that_do_not_fit(void **state)
{
    struct bed *b = *state;
    struct buf over;

    seen.later = true;
    ask(b, "GET /v2/models/slow", "");
    buf_init(&over, 4);
    buf_addz(&over, "12345");
    seen.waiting->state = NULL;
    reply_json(seen.waiting, 200, &over);
    rig_spin(&b->rig);
    rig_read(&b->rig);
    assert_int_equal(rig_status(&b->rig), 500);
    buf_done(&over);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(matching, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(head_is_get_without_a_body, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(longest_name, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(access_hangs_on_the_row, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(body_is_collected, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(body_limits, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(limit_of_the_plane, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(big_bodies_grow_and_go, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(stages_get_the_pieces, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(reply_later, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(client_leaves_before_the_reply, bed_up, bed_down),
        cmocka_unit_test_setup_teardown(replies_that_do_not_fit, bed_up, bed_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
