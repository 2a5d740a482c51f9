/* SPDX-License-Identifier: Apache-2.0 */
/* The webhook: what is sent and how it is signed, order, trying again, giving up, what does not fit, and its settings.
 * The other side is a function that answers what the test says. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>
#include <yyjson.h>

#include "api/events.h"
#include "api/webhook.h"
#include "base/clock.h"
#include "support/store_help.h"

/* ---- the other side ---- */

struct sent {
    char headers[6][200];
    size_t n_headers;
    char *body;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct sent sent[3000];
    size_t n;
    int status[3000]; /* of the nth attempt; 0: 200; -1: no answer */
    bool hold;        /* the next attempt waits for `hold` to go, or for its *stop */
    bool holding;
} side = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static int on_post(void *ctx, const struct webhook_call *call, struct err *e)
{
    assert_ptr_equal(ctx, &side);
    pthread_mutex_lock(&side.lock);
    struct sent *s = &side.sent[side.n];
    int status = side.status[side.n];
    for (s->n_headers = 0; call->headers[s->n_headers]; s->n_headers++) {
        snprintf(s->headers[s->n_headers], sizeof(s->headers[0]), "%s", call->headers[s->n_headers]);
    }
    s->body = xstrndup(call->body.p, call->body.n);
    side.n++;
    while (side.hold && !atomic_load(call->stop)) {
        struct timespec at;

        side.holding = true;
        pthread_cond_broadcast(&side.changed);
        clock_gettime(CLOCK_REALTIME, &at);
        at.tv_nsec += 5000000;
        at.tv_sec += at.tv_nsec / 1000000000;
        at.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&side.changed, &side.lock, &at);
    }
    side.holding = false;
    pthread_cond_broadcast(&side.changed);
    pthread_mutex_unlock(&side.lock);
    if (status == -1) {
        err_set(e, ERR_UNAVAILABLE, "connection refused");
        return 0;
    }
    return status ? status : 200;
}

/* Waits for n attempts in all. */
static void await(size_t n)
{
    pthread_mutex_lock(&side.lock);
    while (side.n < n) {
        pthread_cond_wait(&side.changed, &side.lock);
    }
    pthread_mutex_unlock(&side.lock);
}

static void await_holding(void)
{
    pthread_mutex_lock(&side.lock);
    while (!side.holding) {
        pthread_cond_wait(&side.changed, &side.lock);
    }
    pthread_mutex_unlock(&side.lock);
}

static void let_go(void)
{
    pthread_mutex_lock(&side.lock);
    side.hold = false;
    pthread_cond_broadcast(&side.changed);
    pthread_mutex_unlock(&side.lock);
}

static const char *header_of(const struct sent *s, const char *name)
{
    for (size_t i = 0; i < s->n_headers; i++) {
        size_t n = strlen(name);

        if (strncmp(s->headers[i], name, n) == 0 && s->headers[i][n] == ':') {
            return s->headers[i] + n + 1 + (s->headers[i][n + 1] == ' ');
        }
    }
    return NULL;
}

static int side_up(void **state)
{
    (void)state;
    side.n = 0;
    memset(side.status, 0, sizeof(side.status));
    side.hold = false;
    return 0;
}

static int side_down(void **state)
{
    (void)state;
    for (size_t i = 0; i < side.n; i++) {
        free(side.sent[i].body);
    }
    return 0;
}

static struct webhook *hook_new(uint64_t retry_us, uint64_t give_up_us, const char *secret_file)
{
    struct webhook_conf conf = {.url = "https://user:pass@hooks.example/s3cret?x=y",
                                .secret_file = (char *)(uintptr_t)secret_file};
    struct webhook_spec spec = {.conf = &conf,
                                .source = "http://127.0.0.1:8009",
                                .post = on_post,
                                .post_ctx = &side,
                                .retry_us = retry_us,
                                .give_up_us = give_up_us};
    struct webhook *w;
    struct err e;

    if (webhook_new(&w, &spec, &e) != ERR_OK) {
        fail_msg("%s", e.text);
    }
    return w;
}

static void tell(struct webhook *w, int64_t seq)
{
    struct history_row h = {
        .seq = seq, .at_ms = 1764000000123, .model = "intent", .version = 3, .kind = "rollout_step"};

    snprintf(h.text, sizeof(h.text), "line %lld", (long long)seq);
    webhook_told(w, &h);
}

/* What the deliveries say, when `delivered + given_up` are so many, or at once. */
static yyjson_doc *deliveries(struct webhook *w, unsigned over)
{
    for (;;) {
        struct buf b;

        buf_init(&b, 1u << 20);
        webhook_json(&b, w);
        yyjson_doc *doc = yyjson_read(b.p, b.n, 0);
        yyjson_val *root = yyjson_doc_get_root(doc);
        assert_non_null(root);
        buf_done(&b);
        if (yyjson_get_uint(yyjson_obj_get(root, "delivered")) + yyjson_get_uint(yyjson_obj_get(root, "given_up")) +
                (yyjson_get_bool(yyjson_obj_get(root, "stopped")) ? 1 : 0) >=
            over) {
            return doc;
        }
        yyjson_doc_free(doc);
        usleep(1000);
    }
}

static uint64_t number(yyjson_doc *doc, const char *name)
{
    return yyjson_get_uint(yyjson_obj_get(yyjson_doc_get_root(doc), name));
}

static const char *member(yyjson_val *v, const char *name)
{
    return yyjson_get_str(yyjson_obj_get(v, name));
}

/* ---- parts ---- */

static void delays(void **state)
{
    (void)state;
    for (unsigned attempt = 1; attempt < 100; attempt++) {
        uint64_t plain = MIN(SECONDS(5) << MIN(attempt - 1, 20u), SECONDS(3600));
        uint64_t least = UINT64_MAX, most = 0;

        for (uint64_t chance = 0; chance < 1000; chance++) {
            uint64_t us = webhook_delay_us(SECONDS(5), attempt, chance * 0x9e3779b97f4a7c15u);

            least = MIN(least, us);
            most = MAX(most, us);
        }
        assert_true(least >= plain / 4 * 3 && most <= SECONDS(3600) && (attempt > 9 || most <= plain / 4 * 5 + 1));
        assert_true(most > least + plain / 5); /* not all at the same moment */
    }
}

static const uint8_t key[] = {0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a, 0xab, 0x4f, 0x08, 0xd4,
                              0x3c, 0x3f, 0x08, 0x2c, 0xf6, 0x48, 0xa3, 0x62, 0xda, 0x2d, 0xa4, 0xb0};
static const char secret[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"; /* the same */

/* The example that the public libraries for it test themselves with. */
static void the_published_signature(void **state)
{
    char out[100];

    (void)state;
    webhook_sign(out, sizeof(out), (struct str){(const char *)key, sizeof(key)}, "msg_p5jXN8AQM9LWM0D4loKWxJek",
                 1614265330, STR("{\"test\": 2432232314}"));
    assert_string_equal(out, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

/* ---- sending ---- */

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void what_is_sent(void **state)
{
    char *folder = store_folder_new(), *path = store_path(folder, "secret"), want[100];

    (void)state;
    write_file(path, secret);
    struct webhook *w = hook_new(0, 0, path);
    tell(w, 57);
    yyjson_doc_free(deliveries(w, 1));
    webhook_free(w);
    const struct sent *s = &side.sent[0];
    assert_string_equal(header_of(s, "Content-Type"), "application/cloudevents+json; charset=utf-8");
    assert_string_equal(header_of(s, "webhook-id"), "57-1764000000123");
    long long stamp = strtoll(header_of(s, "webhook-timestamp"), NULL, 10);
    assert_true(llabs(stamp - clock_wall_ms() / 1000) < 100);
    webhook_sign(want, sizeof(want), (struct str){(const char *)key, sizeof(key)}, "57-1764000000123", stamp,
                 str_of(s->body));
    assert_string_equal(header_of(s, "webhook-signature"), want);
    yyjson_doc *doc = yyjson_read(s->body, strlen(s->body), 0);
    yyjson_val *root = yyjson_doc_get_root(doc), *data = yyjson_obj_get(root, "data");
    assert_string_equal(member(root, "specversion"), "1.0");
    assert_string_equal(member(root, "id"), "57-1764000000123");
    assert_string_equal(member(root, "source"), "http://127.0.0.1:8009");
    assert_string_equal(member(root, "type"), "weir.rollout.step");
    assert_string_equal(member(root, "subject"), "intent");
    assert_string_equal(member(root, "time"), "2025-11-24T16:00:00.123Z");
    assert_string_equal(member(root, "datacontenttype"), "application/json");
    assert_int_equal(yyjson_get_int(yyjson_obj_get(data, "seq")), 57);
    assert_string_equal(member(data, "text"), "line 57");
    yyjson_doc_free(doc);
    store_folder_free(folder);
    free(path);
}

static void in_order_and_again(void **state)
{
    (void)state;
    side.status[0] = 500;
    side.status[1] = -1;
    side.status[2] = 302;
    struct webhook *w = hook_new(MILLIS(1), 0, NULL);
    for (int64_t seq = 1; seq <= 20; seq++) {
        tell(w, seq);
    }
    yyjson_doc *doc = deliveries(w, 20);
    assert_int_equal(side.n, 23);
    for (size_t i = 0; i < 23; i++) {
        char id[40];

        snprintf(id, sizeof(id), "%d-1764000000123", i < 3 ? 1 : (int)i - 2);
        assert_string_equal(header_of(&side.sent[i], "webhook-id"), id);
        assert_null(header_of(&side.sent[i], "webhook-signature"));
    }
    yyjson_val *root = yyjson_doc_get_root(doc), *rows = yyjson_obj_get(root, "deliveries");
    assert_string_equal(member(root, "webhook"), "https://hooks.example");
    assert_int_equal(yyjson_arr_size(rows), 23);
    yyjson_val *last = yyjson_arr_get(rows, 22), *second = yyjson_arr_get(rows, 21);
    assert_string_equal(member(last, "event"), "1-1764000000123");
    assert_string_equal(member(last, "type"), "weir.rollout.step");
    assert_int_equal(yyjson_get_int(yyjson_obj_get(last, "status")), 500);
    assert_int_equal(yyjson_get_int(yyjson_obj_get(last, "attempt")), 1);
    assert_true(yyjson_is_null(yyjson_obj_get(last, "error")));
    assert_true(yyjson_is_null(yyjson_obj_get(second, "status")));
    assert_string_equal(member(second, "error"), "connection refused");
    assert_int_equal(number(doc, "waiting"), 0);
    yyjson_doc_free(doc);
    webhook_free(w);
}

static void gone_is_gone(void **state)
{
    (void)state;
    side.status[1] = 410;
    side.hold = true;
    struct webhook *w = hook_new(MILLIS(1), 0, NULL);
    for (int64_t seq = 1; seq <= 5; seq++) {
        tell(w, seq);
    }
    let_go();
    yyjson_doc_free(deliveries(w, 2));
    tell(w, 6);
    yyjson_doc *doc = deliveries(w, 2);
    assert_int_equal(number(doc, "waiting"), 0);
    yyjson_doc_free(doc);
    webhook_free(w);
    assert_int_equal(side.n, 2);
}

static void given_up_in_the_end(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2000; i++) {
        side.status[i] = 503;
    }
    struct webhook *w = hook_new(MILLIS(1), MILLIS(10), NULL);
    tell(w, 1);
    yyjson_doc *doc = deliveries(w, 1);
    assert_int_equal(number(doc, "given_up"), 1);
    yyjson_doc_free(doc);
    assert_true(side.n > 1);
    pthread_mutex_lock(&side.lock);
    side.status[side.n] = 204; /* and then the next one */
    pthread_mutex_unlock(&side.lock);
    tell(w, 2);
    yyjson_doc_free(deliveries(w, 2));
    webhook_free(w);
    assert_string_equal(header_of(&side.sent[side.n - 1], "webhook-id"), "2-1764000000123");
}

static void what_does_not_fit(void **state)
{
    enum { MORE = 10 };
    (void)state;
    side.hold = true;
    struct webhook *w = hook_new(0, 0, NULL);
    tell(w, 1);
    await_holding();
    for (int64_t seq = 2; seq <= 1 + WEBHOOK_SPOOL + MORE; seq++) {
        tell(w, seq);
    }
    yyjson_doc *doc = deliveries(w, 0);
    assert_int_equal(number(doc, "dropped"), MORE);
    assert_int_equal(number(doc, "waiting"), WEBHOOK_SPOOL + 1);
    yyjson_doc_free(doc);
    let_go();
    doc = deliveries(w, WEBHOOK_SPOOL + 1);
    assert_int_equal(yyjson_arr_size(yyjson_obj_get(yyjson_doc_get_root(doc), "deliveries")), WEBHOOK_LOG);
    yyjson_doc_free(doc);
    assert_string_equal(header_of(&side.sent[0], "webhook-id"), "1-1764000000123");
    assert_string_equal(header_of(&side.sent[1], "webhook-id"), "12-1764000000123"); /* the oldest were dropped */
    webhook_free(w);
}

static void bounded_in_bytes(void **state)
{
    enum { EACH = 1000000, N = 40 };
    struct history_row h = {.seq = 1, .model = "intent", .kind = "rollout_verdict"};

    (void)state;
    h.evidence = xmalloc(EACH + 1);
    memset(h.evidence, '1', EACH);
    h.evidence[EACH] = '\0';
    side.hold = true;
    struct webhook *w = hook_new(0, 0, NULL);
    webhook_told(w, &h);
    await_holding();
    for (int i = 0; i < N; i++) {
        h.seq++;
        webhook_told(w, &h);
    }
    yyjson_doc *doc = deliveries(w, 0);
    assert_int_equal(number(doc, "waiting") + number(doc, "dropped"), N + 1);
    assert_int_equal(number(doc, "waiting"), 1 + WEBHOOK_SPOOL_BYTES / EACH);
    yyjson_doc_free(doc);
    free(h.evidence);
    webhook_free(w);
}

/* Neither an attempt nor the time until the next one holds up the end. */
static void stopping_is_quick(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        uint64_t from = clock_us();
        size_t n = side.n;

        side.hold = k == 0;
        side.status[n] = 500;
        struct webhook *w = hook_new(SECONDS(3600), 0, NULL);
        tell(w, 1);
        tell(w, 2);
        if (k == 0) {
            await_holding();
        } else {
            await(n + 1);
            usleep(20000); /* nothing comes before its time */
        }
        webhook_free(w);
        assert_true(clock_us() - from < SECONDS(600));
        assert_int_equal(side.n, n + 1);
    }
}

/* ---- settings ---- */

static void settings(void **state)
{
    static const struct {
        const char *url, *secret;
        const char *words; /* of the refusal; NULL: fine */
    } cases[] = {
        {"http://localhost:9/x", NULL, NULL},
        {"https://hooks.example", "0123456789abcdef", NULL},
        {"https://hooks.example", "whsec_MDEyMzQ1Njc4OWFiY2RlZg==\n", NULL},
        {"https://hooks.example", "0123456789abcde\n0123456789", "has 15 bytes"},
        {"https://hooks.example", "whsec_MDEyMzQ1Njc4OWFiY2Rl", "has 15 bytes"},
        {"https://hooks.example", "whsec_MDEyMzQ1Njc4OWFiY2Q=", "has 14 bytes"},
        {"https://hooks.example", "whsec_MDEyMzQ1Njc4OWFiY2RlZg=", "base64 does not follow"},
        {"https://hooks.example", "whsec_MDEyMzQ1Njc4O!FiY2RlZg==", "base64 does not follow"},
        {"https://hooks.example", "whsec_", "has 0 bytes"},
        {"https://hooks.example", "", "has 0 bytes"},
        {"ftp://hooks.example", NULL, "http:// or https://"},
        {"hooks.example", NULL, "http:// or https://"},
        {"https://", NULL, "http:// or https://"},
        {"https:///x", NULL, "http:// or https://"},
        {"https://hooks.example/a b", NULL, "http:// or https://"},
        {"https://hooks.example/\r\nX: y", NULL, "http:// or https://"},
        {NULL, "0123456789abcdef", "needs events.webhook"},
    };
    char *folder = store_folder_new(), *path = store_path(folder, "secret"), *none = store_path(folder, "none");

    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct webhook_conf conf = {(char *)(uintptr_t)cases[i].url, cases[i].secret ? path : NULL};
        struct webhook_spec spec = {.conf = &conf, .source = "unix:/x", .post = on_post, .post_ctx = &side};
        struct webhook *w = NULL;
        struct err e = {0};

        write_file(path, cases[i].secret ? cases[i].secret : "");
        enum err_code rc = webhook_new(&w, &spec, &e);
        if (cases[i].words ? rc != ERR_INVALID || w || !strstr(e.text, cases[i].words) : rc != ERR_OK || !w) {
            fail_msg("case %zu: %s", i, e.text);
        }
        webhook_free(w);
    }
    struct webhook_conf conf = {"https://hooks.example", none};
    struct webhook_spec spec = {.conf = &conf, .source = "unix:/x"};
    struct webhook *w;
    struct err e;
    assert_int_equal(webhook_new(&w, &spec, &e), ERR_INVALID);
    conf = (struct webhook_conf){0};
    assert_int_equal(webhook_new(&w, &spec, &e), ERR_OK);
    assert_null(w);
    webhook_told(w, &(struct history_row){.seq = 1});
    webhook_free(w);
    store_folder_free(folder);
    free(path);
    free(none);
}

static void from_weir_yaml(void **state)
{
    static const char text[] = "webhook: https://hooks.example/x\nsecret_file: /run/secret\n";
    struct webhook_conf into;
    struct conf *c;
    struct err e;

    (void)state;
    assert_int_equal(conf_read_text(&c, "weir.yaml", STR(text), &e), ERR_OK);
    settings_defaults(webhook_settings, n_webhook_settings, &into);
    assert_true(!into.url && !into.secret_file);
    assert_int_equal(settings_read(webhook_settings, n_webhook_settings, c, c->root, NULL, &into, &e), ERR_OK);
    assert_string_equal(into.url, "https://hooks.example/x");
    assert_string_equal(into.secret_file, "/run/secret");
    settings_done(webhook_settings, n_webhook_settings, &into);
    conf_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delays),
        cmocka_unit_test(the_published_signature),
        cmocka_unit_test_setup_teardown(what_is_sent, side_up, side_down),
        cmocka_unit_test_setup_teardown(in_order_and_again, side_up, side_down),
        cmocka_unit_test_setup_teardown(gone_is_gone, side_up, side_down),
        cmocka_unit_test_setup_teardown(given_up_in_the_end, side_up, side_down),
        cmocka_unit_test_setup_teardown(what_does_not_fit, side_up, side_down),
        cmocka_unit_test_setup_teardown(bounded_in_bytes, side_up, side_down),
        cmocka_unit_test_setup_teardown(stopping_is_quick, side_up, side_down),
        cmocka_unit_test_setup_teardown(settings, side_up, side_down),
        cmocka_unit_test(from_weir_yaml),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
