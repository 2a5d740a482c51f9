/* SPDX-License-Identifier: Apache-2.0 */
/* The admin plane without a server: who may ask, how what was sent is read, and how models, counters and rollouts are
 * written. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "api/admin_priv.h"
#include "base/clock.h"
#include "base/hash.h"

/* ---- access ---- */

static struct http_header headers[4];

static struct http_ex request_with(const char *host, const char *origin, const char *authorization)
{
    struct http_ex x = {.method = HTTP_GET, .path = STR("/admin/models"), .headers = headers};

    if (host) {
        headers[x.n_headers++] = (struct http_header){STR("host"), str_of(host)};
    }
    if (origin) {
        headers[x.n_headers++] = (struct http_header){STR("origin"), str_of(origin)};
    }
    if (authorization) {
        headers[x.n_headers++] = (struct http_header){STR("authorization"), str_of(authorization)};
    }
    return x;
}

static enum err_code access_of(const struct admin_facts *f, const struct http_ex *x)
{
    struct plane p = {.facts = f};
    struct err e = {0};
    enum err_code rc = admin_access(&p, x, &admin_routes[0], &e);

    assert_true(rc == ERR_OK || (e.code == rc && e.text[0]));
    return rc;
}

static void without_a_token(void **state)
{
    static const struct {
        const char *host, *origin;
        enum err_code want;
    } cases[] = {
        {"localhost:8009", NULL, ERR_OK},
        {"LocalHost", NULL, ERR_OK},
        {"127.0.0.1:1", NULL, ERR_OK},
        {"[::1]:8009", NULL, ERR_OK},
        {"127.0.0.9:8009", NULL, ERR_OK}, /* the listener's own */
        {"127.0.0.1:8009", "http://127.0.0.1:8009", ERR_OK},
        {"localhost:8009", "https://LOCALHOST:8009", ERR_OK},
        {NULL, NULL, ERR_FORBIDDEN},
        {"", NULL, ERR_FORBIDDEN},
        {"evil.example", NULL, ERR_FORBIDDEN},
        {"localhost.evil.example", NULL, ERR_FORBIDDEN},
        {"localhost:8009.evil.example", NULL, ERR_FORBIDDEN},
        {"localhost:", NULL, ERR_FORBIDDEN},
        {"localhost:80a", NULL, ERR_FORBIDDEN},
        {"localhost:65536", NULL, ERR_FORBIDDEN},
        {"127.0.0.9:8010", NULL, ERR_FORBIDDEN},
        {"127.0.0.1.nip.example", NULL, ERR_FORBIDDEN},
        {"evil@localhost", NULL, ERR_FORBIDDEN},
        {"[::1", NULL, ERR_FORBIDDEN},
        {"localhost:8009", "http://evil.example", ERR_FORBIDDEN},
        {"localhost:8009", "http://localhost:3000", ERR_FORBIDDEN}, /* another program of this machine */
        {"localhost:8009", "http://127.0.0.1:8009", ERR_FORBIDDEN},
        {"localhost:8009", "null", ERR_FORBIDDEN},
        {"localhost:8009", "", ERR_FORBIDDEN},
        {"localhost:8009", "http://", ERR_FORBIDDEN},
        {"localhost:8009", "ftp://localhost:8009", ERR_FORBIDDEN},
    };
    struct admin_facts f = {.admin_url = "http://127.0.0.9:8009", .host_ok = "127.0.0.9:8009"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct http_ex x = request_with(cases[i].host, cases[i].origin, NULL);

        if (access_of(&f, &x) != cases[i].want) {
            fail_msg("Host %s, Origin %s", cases[i].host, cases[i].origin);
        }
    }
    snprintf(f.admin_url, sizeof(f.admin_url), "unix:/run/weir");
    struct http_ex x = request_with(NULL, NULL, NULL);
    assert_int_equal(access_of(&f, &x), ERR_OK);
    x = request_with("evil.example", NULL, NULL);
    assert_int_equal(access_of(&f, &x), ERR_FORBIDDEN);
    x = request_with("localhost", "http://localhost", NULL);
    headers[2] = headers[1]; /* two of them */
    x.n_headers = 3;
    assert_int_equal(access_of(&f, &x), ERR_FORBIDDEN);
}

static void with_a_token(void **state)
{
    static const struct {
        const char *sent;
        enum err_code want;
    } cases[] = {
        {"Bearer s3cret", ERR_OK},
        {"bearer s3cret", ERR_OK},
        {NULL, ERR_UNAUTHENTICATED},
        {"", ERR_UNAUTHENTICATED},
        {"Bearer", ERR_UNAUTHENTICATED},
        {"Bearer ", ERR_UNAUTHENTICATED},
        {"Bearer s3cre", ERR_UNAUTHENTICATED},
        {"Bearer s3crets", ERR_UNAUTHENTICATED},
        {"Bearer s3crets3cret", ERR_UNAUTHENTICATED},
        {"Bearer S3cret", ERR_UNAUTHENTICATED},
        {"Bearer  s3cret", ERR_UNAUTHENTICATED},
        {"Basic s3cret", ERR_UNAUTHENTICATED},
        {"s3cret", ERR_UNAUTHENTICATED},
    };
    struct admin_facts f = {.admin_url = "http://0.0.0.0:8009", .token = "s3cret"};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct http_ex x = request_with("anything.example", "https://console.example", cases[i].sent);

        if (access_of(&f, &x) != cases[i].want) {
            fail_msg("Authorization: %s", cases[i].sent);
        }
    }
    struct http_ex x = request_with(NULL, NULL, "Bearer s3cret");
    headers[1] = headers[0];
    x.n_headers = 2;
    assert_int_equal(access_of(&f, &x), ERR_UNAUTHENTICATED);
}

/* ---- reading ---- */

static void shares(void **state)
{
    static const struct {
        const char *text;
        int want; /* -1: refused */
    } cases[] = {
        {"5%", 500},        {"5 %", 500},      {"0.25%", 25},    {"0.5%", 50},   {"100%", 10000},
        {"100.00%", 10000}, {"0%", 0},         {"33.33%", 3333}, {"05%", 500},   {"5", -1},
        {"", -1},           {"%", -1},         {" %", -1},       {"5%%", -1},    {"-5%", -1},
        {"+5%", -1},        {"100.01%", -1},   {"101%", -1},     {"0.125%", -1}, {".5%", -1},
        {"5.%", -1},        {"5 percent", -1}, {"1e1%", -1},     {"5  %", -1},   {"99999999999999999999%", -1},
        {"5.5.5%", -1},     {" 5%", -1},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        uint32_t bp = 77;
        struct err e = {0};
        enum err_code rc = read_share(str_of(cases[i].text), &bp, &e);

        if (cases[i].want < 0 ? rc != ERR_INVALID || bp != 77 : rc != ERR_OK || bp != (uint32_t)cases[i].want) {
            fail_msg("'%s' gives %u", cases[i].text, bp);
        }
    }
}

static void queries(void **state)
{
    struct arena a;
    struct err e;
    struct http_ex x = {.arena = &a};
    uint64_t n = 7;

    (void)state;
    arena_init(&a, 1u << 16);
    struct parameter p[] = {{.name = "version"}, {.name = "canary"}};
    x.query = STR("canary=5%25&version=3&");
    assert_int_equal(read_query(&x, p, 2, &e), ERR_OK);
    assert_true(str_is(p[0].value, "3") && str_is(p[1].value, "5%"));
    assert_int_equal(read_number(&p[0], 1, 10, &n, &e), ERR_OK);
    assert_int_equal(n, 3);
    struct parameter none[] = {{.name = "version"}, {.name = "canary"}};
    x.query = (struct str){NULL, 0};
    assert_int_equal(read_query(&x, none, 2, &e), ERR_OK);
    assert_null(none[0].value.p);
    assert_int_equal(read_number(&none[0], 1, 10, &n, &e), ERR_OK);
    assert_int_equal(n, 3);
    static const char *const bad[] = {
        "canry=5%25", "version=1&version=2",   "canary=5%", "version=%00", "canary=5%25&x",
        "=1",         "version=1=&foo=version"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct parameter q[] = {{.name = "version"}, {.name = "canary"}};

        x.query = str_of(bad[i]);
        if (read_query(&x, q, 2, &e) != ERR_INVALID) {
            fail_msg("?%s was taken", bad[i]);
        }
    }
    static const char *const numbers[] = {"0", "11", "", "-1", "1.0", "99999999999999999999999", " 1"};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        struct parameter q = {"version", str_of(numbers[i])};

        if (read_number(&q, 1, 10, &n, &e) != ERR_INVALID) {
            fail_msg("version=%s was taken", numbers[i]);
        }
    }
    arena_done(&a);
}

static void times(void **state)
{
    static const struct {
        const char *text;
        int64_t want; /* 0: refused */
    } cases[] = {
        {"1970-01-01T00:00:01Z", 1000},
        {"2026-11-23T21:40:31Z", 1795470031000},
        {"2026-11-23t21:40:31.5z", 1795470031500},
        {"2026-11-23 21:40:31.123456Z", 1795470031123},
        {"2026-11-23T22:40:31+01:00", 1795470031000},
        {"2026-11-23T16:10:31-0530", 1795470031000},
        {"2024-02-29T00:00:00Z", 1709164800000},
        {"1795470031123", 1795470031123},
        {"1", 1},
        {"", 0},
        {"0", 0},
        {"now", 0},
        {"2026-11-23", 0},
        {"2026-11-23T21:40:31", 0},
        {"2026-11-23T21:40:31.Z", 0},
        {"2026-11-23T21:40:31X", 0},
        {"2026-11-23T21:40:31Zx", 0},
        {"2026-11-23T21:40:31+1:00", 0},
        {"2026-11-23T21:40:31+24:00", 0},
        {"2026-02-29T00:00:00Z", 0},
        {"2026-13-01T00:00:00Z", 0},
        {"2026-00-10T00:00:00Z", 0},
        {"2026-11-23T24:00:00Z", 0},
        {"2026-11-23T21:60:31Z", 0},
        {"1969-12-31T23:59:59Z", 0},
        {"1970-01-01T00:30:00+01:00", 0},
        {"2026/11/23T21:40:31Z", 0},
        {"2026-11-23T21-40-31Z", 0},
        {"99999999999999999999", 0},
        {"9999999999999999999", 0},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int64_t ms = 0;
        struct err e = {0};
        enum err_code rc = read_time(str_of(cases[i].text), &ms, &e);

        if (cases[i].want ? rc != ERR_OK || ms != cases[i].want : rc != ERR_INVALID) {
            fail_msg("'%s' gives %lld", cases[i].text, (long long)ms);
        }
    }
}

/* A share is a person's rollout; it goes with nothing else. */
static void shares_are_manual_policies(void **state)
{
    const struct str none = {NULL, 0};
    struct rollout_policy p, want;
    struct err e;

    (void)state;
    policy_manual(&want, 525);
    assert_int_equal(read_policy(NULL, STR("5.25%"), none, none, &p, &e), ERR_OK);
    assert_memory_equal(&p, &want, sizeof(p));
    assert_int_equal(read_policy(NULL, STR("5"), none, none, &p, &e), ERR_INVALID);
    assert_int_equal(read_policy(NULL, STR("5%"), STR("default"), none, &p, &e), ERR_INVALID);
    assert_int_equal(read_policy(NULL, STR("5%"), none, STR("1%,5%"), &p, &e), ERR_INVALID);
}

static enum err_code body_of(const char *text, struct member *m, size_t n, yyjson_doc **doc, struct err *e)
{
    struct request r = {0};

    buf_init(&r.body, 1u << 20);
    buf_addz(&r.body, text);
    enum err_code rc = read_body(&r, m, n, doc, e);
    buf_done(&r.body);
    return rc;
}

static void bodies(void **state)
{
    static const char *const bad[] = {"[]",
                                      "1",
                                      "{",
                                      "{\"action\":1}",
                                      "{\"version\":\"1\"}",
                                      "{\"version\":-1}",
                                      "{\"version\":1.5}",
                                      "{\"versio\":1}",
                                      "{\"action\":\"a\",\"action\":\"b\"}",
                                      "{\"action\":\"a\"} x",
                                      "{\"action\":\"a\",}",
                                      "{'action':'a'}",
                                      "{\"retry\":1}",
                                      "{\"retry\":\"true\"}",
                                      "{\"action\":true}",
                                      "{\"action\":\"\xff\"}"};
    struct member m[] = {{.name = "action"}, {.name = "version", .number = true}};
    yyjson_doc *doc;
    struct err e = {0};

    (void)state;
    assert_int_equal(body_of("", m, 2, &doc, &e), ERR_OK);
    assert_true(!m[0].given && !m[1].given && doc == NULL);
    assert_int_equal(body_of(" {\"version\": 12, \"action\": \"st\\u0061rt\"}", m, 2, &doc, &e), ERR_OK);
    assert_true(m[0].given && str_is(m[0].text, "start") && m[1].given && m[1].value == 12);
    yyjson_doc_free(doc);
    struct member nulls[] = {{.name = "action"}};
    assert_int_equal(body_of("{\"action\":null}", nulls, 1, &doc, &e), ERR_OK);
    assert_false(nulls[0].given);
    yyjson_doc_free(doc);
    struct member flags[] = {{.name = "retry", .flag = true}, {.name = "again", .flag = true}};
    assert_int_equal(body_of("{\"retry\":true,\"again\":false}", flags, 2, &doc, &e), ERR_OK);
    assert_true(flags[0].given && flags[0].value == 1 && flags[1].given && flags[1].value == 0);
    yyjson_doc_free(doc);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct member k[] = {{.name = "action"}, {.name = "version", .number = true}, {.name = "retry", .flag = true}};

        doc = NULL;
        if (body_of(bad[i], k, COUNT_OF(k), &doc, &e) != ERR_INVALID || !e.text[0]) {
            fail_msg("%s was taken", bad[i]);
        }
        yyjson_doc_free(doc);
    }
}

/* ---- writing ---- */

/* A model with a rollout of version 2 beside version 1, as control holds it. */
struct world {
    struct family family;
    struct model model;
    struct version v1, v2;
    struct version *versions[2];
    struct model_info info;
    struct tensor_info in[1], out[1];
    struct admin_facts facts;
};

static int world_up(void **state)
{
    struct world *w = xcalloc(1, sizeof(*w));

    w->family = (struct family){.name = "default", .place = PLACE_INLINE, .instances = 3};
    w->model = (struct model){.row = {.name = "intent", .family = "default", .stable = 1},
                              .family = &w->family,
                              .versions = w->versions,
                              .n_versions = 2};
    w->versions[0] = &w->v1;
    w->versions[1] = &w->v2;
    w->in[0] = (struct tensor_info){.name = "te\"xt", .dtype = DTYPE_BYTES, .rank = 2, .dim = {-1, 1}};
    w->out[0] = (struct tensor_info){.name = "label", .dtype = DTYPE_INT64, .rank = 1, .dim = {-1}};
    w->info = (struct model_info){.n_in = 1, .n_out = 1, .in = w->in, .out = w->out, .joins = true, .batch_max = 16};
    w->v1 = (struct version){
        .row = {.model = "intent", .number = 1, .digest = "aa", .backend = "onnx", .bytes = 10, .created_ms = 1000},
        .model = &w->model,
        .state = VERSION_READY,
        .info = &w->info,
        .direct = series_new(1, 2)};
    w->v2 = (struct version){.row = {.model = "intent", .number = 2, .digest = "bb", .backend = "onnx"},
                             .model = &w->model,
                             .state = VERSION_FAILED};
    err_set(&w->v2.why, ERR_MODEL, "it <b>burst</b>");
    w->v1.family = w->v2.family = &w->family;
    w->model.stable_series = series_new(2, 2);
    *state = w;
    return 0;
}

static int world_down(void **state)
{
    struct world *w = *state;

    series_free(w->v1.direct);
    series_free(w->model.stable_series);
    series_free(w->model.canary_series);
    free(w->model.evidence);
    free(w);
    return 0;
}

/* n answers of the code with a latency of ms, by users user0 … */
static void answers(struct series *s, unsigned part, unsigned n, enum err_code code, double ms)
{
    for (unsigned i = 0; i < n; i++) {
        char user[32];

        snprintf(user, sizeof(user), "user%u", i);
        series_begin(s, part);
        series_key(s, part, hash64_seed(user, strlen(user), 1) | 1);
        series_end(s, part, code, (uint64_t)(ms * 1e6), (uint64_t)(ms * 1e5), (uint64_t)(ms * 8e5));
    }
}

static void start_rollout(struct world *w)
{
    w->model.rollout = (struct rollout_row){.id = "r-1",
                                            .model = "intent",
                                            .stable = 1,
                                            .canary = 2,
                                            .share_bp = 525,
                                            .state = ROLLOUT_RUNNING,
                                            .started_ms = clock_wall_ms()};
    w->model.canary_series = series_new(3, 2);
}

static yyjson_doc *parsed(struct buf *b)
{
    yyjson_doc *doc = yyjson_read(buf_z(b), b->n, 0);

    if (!doc) {
        fail_msg("not JSON: %s", buf_z(b));
    }
    return doc;
}

static yyjson_val *at(yyjson_doc *doc, const char *pointer)
{
    yyjson_val *v = yyjson_doc_ptr_get(doc, pointer);

    if (!v) {
        fail_msg("no %s", pointer);
    }
    return v;
}

static void counters_as_json(void **state)
{
    struct world *w = *state;
    struct series *s = w->model.stable_series;
    struct series_sum sum;
    struct buf b;

    buf_init(&b, 1u << 20);
    answers(s, 0, 90, ERR_OK, 10);
    answers(s, 1, 10, ERR_MODEL, 20);
    series_begin(s, 1);
    series_key(s, 1, 0);
    answers(s, 1, 4, ERR_INVALID, 1);
    for (int i = 0; i < 3; i++) {
        series_class(s, 0, STR("a\"\n"));
    }
    series_class(s, 1, STR("b"));
    for (int i = 0; i < 4; i++) {
        series_correct(s, 0, i != 0);
    }
    BUF_LIT(&b, "{");
    series_sum(s, &sum);
    json_stats(&b, &sum);
    series_sum_done(&sum);
    BUF_LIT(&b, "}");
    yyjson_doc *doc = parsed(&b);
    assert_int_equal(yyjson_get_uint(at(doc, "/requests")), 105);
    assert_int_equal(yyjson_get_uint(at(doc, "/ok")), 90);
    assert_int_equal(yyjson_get_uint(at(doc, "/errors")), 10);
    assert_int_equal(yyjson_get_uint(at(doc, "/errors_by/model")), 10);
    assert_int_equal(yyjson_obj_size(at(doc, "/errors_by")), 1);
    assert_int_equal(yyjson_get_uint(at(doc, "/client_errors")), 4);
    assert_int_equal(yyjson_get_uint(at(doc, "/in_flight")), 1);
    assert_int_equal(yyjson_get_uint(at(doc, "/keyless")), 1);
    assert_int_equal(yyjson_get_uint(at(doc, "/users")), 90);
    assert_true(fabs(yyjson_get_num(at(doc, "/error_rate")) - 10.0 / 105) < 1e-6);
    assert_true(fabs(yyjson_get_num(at(doc, "/latency_ms/p50")) - 10) < 0.2);
    assert_true(fabs(yyjson_get_num(at(doc, "/latency_ms/p99")) - 20) < 0.4);
    assert_true(fabs(yyjson_get_num(at(doc, "/compute_ms/p50")) - 8) < 0.2);
    assert_true(fabs(yyjson_get_num(at(doc, "/queue_ms/p50")) - 1) < 0.02);
    assert_true(yyjson_get_num(at(doc, "/feedback/accuracy")) == 0.75);
    assert_true(yyjson_is_null(at(doc, "/feedback/reward_mean")));
    assert_string_equal(yyjson_get_str(at(doc, "/classes/0/class")), "a\"\n");
    assert_true(yyjson_get_num(at(doc, "/classes/0/share")) == 0.75);
    assert_int_equal(yyjson_arr_size(at(doc, "/classes")), 2);
    yyjson_doc_free(doc);
    buf_done(&b);
}

static void nothing_is_null(void **state)
{
    struct series_sum sum = {0};
    struct buf b;

    (void)state;
    buf_init(&b, 1u << 20);
    BUF_LIT(&b, "{");
    json_stats(&b, &sum);
    BUF_LIT(&b, "}");
    yyjson_doc *doc = parsed(&b);
    assert_true(yyjson_is_null(at(doc, "/latency_ms/p50")) && yyjson_is_null(at(doc, "/feedback/accuracy")));
    assert_true(yyjson_get_num(at(doc, "/error_rate")) == 0);
    assert_int_equal(yyjson_arr_size(at(doc, "/classes")), 0);
    yyjson_doc_free(doc);
    buf_done(&b);
}

static void classes_beyond_the_list(void **state)
{
    struct world *w = *state;
    struct series_sum sum;
    struct buf b;
    char name[32];

    buf_init(&b, 1u << 20);
    for (int i = 0; i < SERIES_CLASSES + 10; i++) {
        snprintf(name, sizeof(name), "class%d", i);
        series_class(w->model.stable_series, 0, str_of(name));
    }
    BUF_LIT(&b, "{");
    series_sum(w->model.stable_series, &sum);
    json_stats(&b, &sum);
    series_sum_done(&sum);
    BUF_LIT(&b, "}");
    yyjson_doc *doc = parsed(&b);
    assert_int_equal(yyjson_arr_size(at(doc, "/classes")), SERIES_CLASSES + 1);
    assert_true(yyjson_is_null(at(doc, "/classes/64/class")));
    assert_int_equal(yyjson_get_uint(at(doc, "/classes/64/count")), 10);
    yyjson_doc_free(doc);
    buf_done(&b);
}

static void model_as_json(void **state)
{
    struct world *w = *state;
    struct buf b;

    buf_init(&b, 1u << 20);
    answers(w->model.stable_series, 0, 5, ERR_OK, 1);
    answers(w->v1.direct, 1, 2, ERR_OK, 1);
    json_model(&b, &w->model, &w->facts);
    yyjson_doc *doc = parsed(&b);
    assert_string_equal(yyjson_get_str(at(doc, "/place")), "inline");
    assert_int_equal(yyjson_get_uint(at(doc, "/instances")), 1);
    assert_int_equal(yyjson_get_uint(at(doc, "/stable")), 1);
    assert_true(yyjson_is_null(at(doc, "/previous")) && yyjson_is_null(at(doc, "/rollout")));
    assert_string_equal(yyjson_get_str(at(doc, "/versions/0/created")), "1970-01-01T00:00:01.000Z");
    assert_string_equal(yyjson_get_str(at(doc, "/versions/0/serving")), "stable");
    assert_true(yyjson_is_null(at(doc, "/versions/0/error")));
    assert_string_equal(yyjson_get_str(at(doc, "/versions/0/inputs/0/name")), "te\"xt");
    assert_int_equal(yyjson_get_sint(at(doc, "/versions/0/inputs/0/shape/0")), -1);
    assert_string_equal(yyjson_get_str(at(doc, "/versions/0/outputs/0/datatype")), "INT64");
    assert_int_equal(yyjson_get_uint(at(doc, "/versions/0/batch/max")), 16);
    assert_true(yyjson_is_true(at(doc, "/versions/0/batch/on")));
    assert_int_equal(yyjson_get_uint(at(doc, "/versions/0/stats/requests")), 7); /* as the stable one and by number */
    assert_string_equal(yyjson_get_str(at(doc, "/versions/1/state")), "failed");
    assert_string_equal(yyjson_get_str(at(doc, "/versions/1/error")), "it <b>burst</b>");
    assert_string_equal(yyjson_get_str(at(doc, "/versions/1/serving")), "none");
    assert_int_equal(yyjson_get_uint(at(doc, "/versions/1/stats/requests")), 0);
    yyjson_doc_free(doc);
    buf_done(&b);
}

static void rollout_as_json(void **state)
{
    struct world *w = *state;
    struct buf b;

    buf_init(&b, 1u << 20);
    json_rollout(&b, &w->model);
    assert_string_equal(buf_z(&b), "null");
    start_rollout(w);
    answers(w->model.stable_series, 0, 19, ERR_OK, 1);
    answers(w->model.canary_series, 1, 2, ERR_MODEL, 3);
    buf_clear(&b);
    json_rollout_reply(&b, &w->model);
    yyjson_doc *doc = parsed(&b);
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/state")), "running");
    assert_true(yyjson_is_null(at(doc, "/rollout/ended")));
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/counting_since")),
                        yyjson_get_str(at(doc, "/rollout/started")));
    assert_string_equal(yyjson_get_str(at(doc, "/arms/0/arm")), "stable");
    assert_int_equal(yyjson_get_uint(at(doc, "/arms/0/share_bp")), 9475);
    assert_int_equal(yyjson_get_uint(at(doc, "/arms/0/ok")), 19);
    assert_string_equal(yyjson_get_str(at(doc, "/arms/1/arm")), "canary");
    assert_int_equal(yyjson_get_uint(at(doc, "/arms/1/version")), 2);
    assert_int_equal(yyjson_get_uint(at(doc, "/arms/1/share_bp")), 525);
    assert_int_equal(yyjson_get_uint(at(doc, "/arms/1/errors")), 2);
    yyjson_doc_free(doc);

    /* It ends: what was counted is what was kept. */
    buf_clear(&b);
    admin_arms_json(&b, &w->model);
    w->model.evidence = xstrdup(buf_z(&b));
    series_free(w->model.canary_series);
    w->model.canary_series = NULL;
    w->model.rollout.state = ROLLOUT_ROLLED_BACK;
    w->model.rollout.ended_ms = clock_wall_ms();
    snprintf(w->model.rollout.reason, sizeof(w->model.rollout.reason), "it was worse");
    answers(w->model.stable_series, 0, 100, ERR_OK, 1);
    buf_clear(&b);
    json_rollout_reply(&b, &w->model);
    doc = parsed(&b);
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/state")), "rolled_back");
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/reason")), "it was worse");
    assert_true(yyjson_is_null(at(doc, "/rollout/counting_since")));
    assert_int_equal(yyjson_get_uint(at(doc, "/arms/0/ok")), 19);
    assert_int_equal(yyjson_get_uint(at(doc, "/arms/1/errors")), 2);
    yyjson_doc_free(doc);
    buf_done(&b);
}

/* The JSON of the world's rollout, parsed; the caller frees it. */
static yyjson_doc *rollout_of(const struct world *w)
{
    struct buf b;
    yyjson_doc *doc;

    buf_init(&b, 1u << 20);
    json_rollout_reply(&b, &w->model);
    doc = parsed(&b);
    buf_done(&b);
    return doc;
}

/* A careful rollout in the bake of its second step. */
static void start_careful(struct world *w)
{
    start_rollout(w);
    policy_default(&w->model.policy, "careful");
    rollout_begin(&w->model.policy, &w->model.progress);
    w->model.progress.phase = PHASE_BAKE;
    w->model.progress.step = 1;
    w->model.progress.share_bp = w->model.policy.step[1];
    w->model.progress.spent_us = SECONDS(90);
}

static void where_a_rollout_is(void **state)
{
    struct world *w = *state;

    start_careful(w);
    yyjson_doc *doc = rollout_of(w);
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/phase")), "bake");
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/policy/name")), "careful");
    assert_true(yyjson_is_true(at(doc, "/rollout/policy/automatic")));
    assert_int_equal(yyjson_get_uint(at(doc, "/rollout/step")), 2);
    assert_int_equal(yyjson_arr_size(at(doc, "/rollout/steps")), w->model.policy.n_steps);
    assert_int_equal(yyjson_get_uint(at(doc, "/rollout/steps/1")), w->model.policy.step[1]);
    assert_true(yyjson_is_null(at(doc, "/rollout/pause")));
    assert_true(yyjson_get_num(at(doc, "/rollout/spent_s")) == 90);
    assert_true(yyjson_is_num(at(doc, "/rollout/earliest_s")));
    assert_true(yyjson_get_len(at(doc, "/rollout/waits_for")) > 0);
    assert_true(yyjson_is_null(at(doc, "/rollout/verdict")) && yyjson_is_null(at(doc, "/rollout/slow_ms")));
    assert_true(yyjson_is_null(at(doc, "/rollout/exposed")) && yyjson_is_false(at(doc, "/rollout/held")));
    yyjson_doc_free(doc);

    w->model.progress.phase = PHASE_PAUSED;
    w->model.progress.paused_in = PHASE_BAKE;
    w->model.progress.pause = PAUSE_RATIO;
    doc = rollout_of(w);
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/phase")), "paused");
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/pause")), "ratio");
    assert_true(yyjson_is_null(at(doc, "/rollout/earliest_s"))); /* by a person only */
    yyjson_doc_free(doc);

    w->model.rollout.state = ROLLOUT_ABORTED;
    doc = rollout_of(w);
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/phase")), "ended");
    assert_true(yyjson_is_null(at(doc, "/rollout/pause")) && yyjson_is_null(at(doc, "/rollout/waits_for")));
    yyjson_doc_free(doc);
}

static void what_the_judge_says(void **state)
{
    struct world *w = *state;
    struct hold_row hold = {.model = "intent", .digest = "bb", .reason = "harm"};
    struct judge_counts *c = &w->model.counts;
    struct judge_rule rule;

    start_careful(w);
    w->model.holds = &hold;
    w->model.n_holds = 1;
    c->n = 2;
    c->slow_ns[0] = 12345600;
    c->slow_ns[1] = 40000000;
    c->stratum[0] = (struct judge_stratum){.share_bp = 100, .answered = {990, 10}, .exposed = {95, 5}};
    c->stratum[1] = (struct judge_stratum){.share_bp = 500, .answered = {950, 50}, .exposed = {290, 10}};
    policy_rule(&w->model.policy, &rule);
    judge(&rule, c, &w->model.judgement);
    yyjson_doc *doc = rollout_of(w);
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/verdict/verdict")), "nodata"); /* 60 of 100 answers */
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/verdict/text")), w->model.judgement.text);
    assert_true(yyjson_get_num(at(doc, "/rollout/slow_ms/p95")) == 12.3456);
    assert_true(yyjson_get_num(at(doc, "/rollout/slow_ms/p99")) == 40);
    assert_int_equal(yyjson_get_uint(at(doc, "/rollout/exposed/stable")), 385);
    assert_int_equal(yyjson_get_uint(at(doc, "/rollout/exposed/canary")), 15);
    assert_true(yyjson_get_num(at(doc, "/rollout/exposed/ordered")) == 0.04); /* (100 * 1 % + 300 * 5 %) / 400 */
    assert_true(yyjson_get_num(at(doc, "/rollout/exposed/actual")) == 0.0375);
    assert_true(yyjson_is_true(at(doc, "/rollout/held")));
    yyjson_doc_free(doc);
}

/* The candidate is the stable version now, and has all the traffic; the arm beside it is as it was kept. */
static void a_soak_is_shown_like_a_running_one(void **state)
{
    struct world *w = *state;
    struct buf b;

    start_careful(w);
    answers(w->model.stable_series, 0, 19, ERR_OK, 1);
    answers(w->model.canary_series, 1, 2, ERR_OK, 3);
    buf_init(&b, 1u << 20);
    admin_arms_json(&b, &w->model);
    w->model.evidence = xstrdup(buf_z(&b));
    series_free(w->model.stable_series);
    w->model.stable_series = w->model.canary_series;
    w->model.canary_series = NULL;
    w->model.row.stable = 2;
    w->model.row.previous = 1;
    w->model.rollout.state = ROLLOUT_SOAKING;
    w->model.progress.phase = PHASE_SOAK;
    answers(w->model.stable_series, 1, 5, ERR_OK, 3);
    for (int kept = 1; kept >= 0; kept--) {
        yyjson_doc *doc = rollout_of(w);

        assert_string_equal(yyjson_get_str(at(doc, "/rollout/state")), "soaking");
        assert_string_equal(yyjson_get_str(at(doc, "/rollout/phase")), "soak");
        assert_int_equal(yyjson_get_uint(at(doc, "/rollout/share_bp")), 10000);
        assert_true(yyjson_is_str(at(doc, "/rollout/counting_since")) && yyjson_is_num(at(doc, "/rollout/earliest_s")));
        assert_int_equal(yyjson_arr_size(at(doc, "/arms")), 2);
        assert_string_equal(yyjson_get_str(at(doc, "/arms/0/arm")), "stable");
        assert_int_equal(yyjson_get_uint(at(doc, "/arms/0/version")), 1);
        assert_int_equal(yyjson_get_uint(at(doc, "/arms/0/share_bp")), 0);
        assert_int_equal(yyjson_get_uint(at(doc, "/arms/0/ok")), kept ? 19 : 0);
        assert_string_equal(yyjson_get_str(at(doc, "/arms/1/arm")), "canary");
        assert_int_equal(yyjson_get_uint(at(doc, "/arms/1/share_bp")), 10000);
        assert_int_equal(yyjson_get_uint(at(doc, "/arms/1/ok")), 7);
        yyjson_doc_free(doc);
        free(w->model.evidence);
        w->model.evidence = NULL; /* as after a restart that has lost it */
    }
    buf_clear(&b);
    json_model(&b, &w->model, &w->facts);
    yyjson_doc *doc = parsed(&b);
    assert_string_equal(yyjson_get_str(at(doc, "/rollout/state")), "soaking");
    yyjson_doc_free(doc);
    buf_done(&b);
}

/* ---- text of others ---- */

static void labels_and_html(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 1024);
    metrics_label(&b, STR("a\"b\\c\nd\xff\xc3\xa9\xe2\x82"));
    assert_string_equal(buf_z(&b), "a\\\"b\\\\c\\nd\xEF\xBF\xBD\xc3\xa9\xEF\xBF\xBD\xEF\xBF\xBD");
    buf_clear(&b);
    metrics_label(&b, STR(""));
    assert_string_equal(buf_z(&b), "");
    buf_clear(&b);
    page_text(&b, STR("<a href=\"x\" id='y'>&amp;\n</a>"));
    assert_string_equal(buf_z(&b), "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;amp;\xEF\xBF\xBD&lt;/a&gt;");
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_token),
        cmocka_unit_test(with_a_token),
        cmocka_unit_test(shares),
        cmocka_unit_test(queries),
        cmocka_unit_test(times),
        cmocka_unit_test(shares_are_manual_policies),
        cmocka_unit_test(bodies),
        cmocka_unit_test_setup_teardown(counters_as_json, world_up, world_down),
        cmocka_unit_test(nothing_is_null),
        cmocka_unit_test_setup_teardown(classes_beyond_the_list, world_up, world_down),
        cmocka_unit_test_setup_teardown(model_as_json, world_up, world_down),
        cmocka_unit_test_setup_teardown(rollout_as_json, world_up, world_down),
        cmocka_unit_test_setup_teardown(where_a_rollout_is, world_up, world_down),
        cmocka_unit_test_setup_teardown(what_the_judge_says, world_up, world_down),
        cmocka_unit_test_setup_teardown(a_soak_is_shown_like_a_running_one, world_up, world_down),
        cmocka_unit_test(labels_and_html),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
