/* SPDX-License-Identifier: Apache-2.0 */
/* libweir against a scripted peer, and a spawned server whose part this same program plays: started as "weir serve …"
 * it listens, answers that it is ready, and leaves when its parent's pipe ends. */
#include "peer.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "weir.h"

static char own_path[4096];

/* ---- requests and results ---- */

/* A whole reply in out: JSON head, then the binary tail. */
static struct peer_step reply(char *out, size_t cap, const char *headers, const char *json, const char *tail, size_t n)
{
    size_t at = (size_t)snprintf(
        out, cap, "HTTP/1.1 200 OK\r\n%sInference-Header-Content-Length: %zu\r\nContent-Length: %zu\r\n\r\n%s", headers,
        strlen(json), strlen(json) + n, json);
    assert_true(at + n < cap);
    memcpy(out + at, tail, n);
    return (struct peer_step){.act = PEER_SEND, .bytes = out, .n = at + n};
}

static enum weir_code ask(struct peer *p, struct peer_step answer, const struct weir_tensor *in, size_t n,
                          const struct weir_call *call, struct weir_result **r, struct weir_error *e)
{
    const struct peer_step steps[] = {{.act = PEER_ACCEPT}, {.act = PEER_READ}, answer, {.act = PEER_END}};
    struct weir *w = NULL;
    peer_start(p, steps);
    assert_int_equal(weir_open(&w, p->url, e), WEIR_OK);
    enum weir_code rc = weir_infer(w, "in tent", in, n, call, r, e);
    weir_close(w);
    peer_wait(p);
    return rc;
}

static const char two_outputs[] =
    "{\"model_name\":\"m\",\"outputs\":[{\"name\":\"l\",\"datatype\":\"BYTES\",\"shape\":[2],\"parameters\":"
    "{\"binary_data_size\":11}},{\"name\":\"p\",\"datatype\":\"FP32\",\"shape\":[1,2],\"parameters\":"
    "{\"binary_data_size\":8}}]}";
static const char two_tails[] = "\2\0\0\0ab\1\0\0\0c\0\0\200\77\0\0\0\100"; /* "ab" "c", 1.0 2.0 */

static void a_request_is_a_head_and_the_tensors_bytes(void **state)
{
    (void)state;
    struct peer p;
    char room[4096];
    float numbers[] = {1.5f, -2};
    int64_t shape_a[] = {1, 2}, shape_b[] = {2};
    struct weir_string texts[] = {{"hello", 5}, {"", 0}};
    const struct weir_tensor in[] = {
        {.name = "a", .dtype = WEIR_FP32, .rank = 2, .shape = shape_a, .data = numbers, .bytes = sizeof numbers},
        {.name = "b\"", .dtype = WEIR_BYTES, .rank = 1, .shape = shape_b, .strings = texts},
    };
    const char *wanted[] = {"p"};
    struct weir_call call = WEIR_CALL_INIT;
    call.version = 3;
    call.request_id = "r-1";
    call.user = "u 7";
    call.timeout_us = 9000000;
    call.outputs = wanted;
    call.n_outputs = 1;
    call.traceparent = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later\r\nX-Weir-User: another";
    struct weir_result *r = NULL;
    struct weir_error e = {0};
    struct peer_step answer =
        reply(room, sizeof room, "X-Request-Id: r-1\r\nX-Weir-Version: 3\r\nX-Weir-Arm: canary\r\n", two_outputs,
              two_tails, sizeof two_tails - 1);
    assert_int_equal(ask(&p, answer, in, 2, &call, &r, &e), WEIR_OK);
    const char *q = buf_z(&p.request), *json = strstr(q, "\r\n\r\n") + 4;
    assert_int_equal(strncmp(q, "POST /v2/models/in%20tent/versions/3/infer HTTP/1.1\r\n", 52), 0);
    assert_non_null(strstr(q, "\r\nX-Request-Id: r-1\r\n"));
    assert_non_null(strstr(q, "\r\nX-Weir-User: u 7\r\n"));
    assert_non_null(strstr(q, "\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"));
    assert_null(strstr(q, "another"));
    const char *want =
        "{\"id\":\"r-1\",\"parameters\":{\"binary_data_output\":true,\"timeout\":9000000},\"inputs\":["
        "{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[1,2],\"parameters\":{\"binary_data_size\":8}},"
        "{\"name\":\"b\\\"\",\"datatype\":\"BYTES\",\"shape\":[2],\"parameters\":{\"binary_data_size\":13}}],"
        "\"outputs\":[{\"name\":\"p\",\"parameters\":{\"binary_data\":true}}]}";
    char length[64];
    snprintf(length, sizeof length, "\r\nInference-Header-Content-Length: %zu\r\n", strlen(want));
    assert_non_null(strstr(q, length));
    assert_int_equal(strncmp(json, want, strlen(want)), 0);
    const char *tail = json + strlen(want);
    assert_memory_equal(tail, numbers, 8);
    assert_memory_equal(tail + 8, "\5\0\0\0hello\0\0\0\0", 13);
    assert_int_equal(p.request.n, (size_t)(tail + 21 - q));
    peer_stop(&p);

    assert_int_equal(weir_result_count(r), 2);
    assert_string_equal(weir_result_request_id(r), "r-1");
    assert_string_equal(weir_result_version(r), "3");
    assert_string_equal(weir_result_arm(r), "canary");
    const struct weir_tensor *l = weir_result_find(r, "l"), *f = weir_result_output(r, 1);
    assert_int_equal(l->dtype, WEIR_BYTES);
    assert_int_equal(l->strings[0].n, 2);
    assert_memory_equal(l->strings[0].p, "ab", 2);
    assert_int_equal(l->strings[1].n, 1);
    assert_int_equal(f->bytes, 8);
    assert_int_equal((uintptr_t)f->data % 64, 0);
    assert_true(((const float *)f->data)[1] == 2.0f);
    assert_null(weir_result_find(r, "x"));
    assert_null(weir_result_output(r, 2));
    weir_result_free(r);
}

/* A caller that was built before the trace's context was there, and one whose context is malformed. */
static void without_a_trace_none_is_sent(void **state)
{
    (void)state;
    struct peer p;
    char room[4096];
    struct weir_call call = WEIR_CALL_INIT;
    for (int old = 0; old < 2; old++) {
        struct weir_result *r = NULL;
        struct weir_error e = {0};
        struct peer_step answer = reply(room, sizeof room, "", two_outputs, two_tails, sizeof two_tails - 1);
        call.size = old ? offsetof(struct weir_call, traceparent) : sizeof call;
        call.traceparent = old ? "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
                               : "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
        assert_int_equal(ask(&p, answer, NULL, 0, &call, &r, &e), WEIR_OK);
        assert_null(strstr(buf_z(&p.request), "traceparent"));
        peer_stop(&p);
        weir_result_free(r);
    }
}

static void what_no_server_would_take_is_not_sent(void **state)
{
    (void)state;
    int64_t two[] = {2}, negative[] = {-1}, many[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    float data[2] = {0};
    const struct weir_tensor rows[] = {
        {.name = "a", .dtype = WEIR_FP32, .rank = 1, .shape = two, .data = data, .bytes = 4},
        {.name = "a", .dtype = WEIR_FP32, .rank = 1, .shape = negative, .data = data, .bytes = 4},
        {.name = "a", .dtype = WEIR_FP32, .rank = 9, .shape = many, .data = data, .bytes = 4},
        {.name = "a", .dtype = (enum weir_dtype)0, .rank = 1, .shape = two, .data = data, .bytes = 8},
        {.name = "a", .dtype = WEIR_FP32, .rank = 1, .shape = two, .data = NULL, .bytes = 8},
        {.name = "a", .dtype = WEIR_BYTES, .rank = 1, .shape = two, .data = "\1\0\0\0x", .bytes = 5},
        {.name = NULL, .dtype = WEIR_FP32, .rank = 1, .shape = two, .data = data, .bytes = 8},
        {.name = "a", .dtype = WEIR_FP32, .rank = 1, .shape = NULL, .data = data, .bytes = 8},
    };
    struct weir *w = NULL;
    struct weir_result *r = NULL;
    struct weir_error e;
    assert_int_equal(weir_open(&w, "unix:/tmp/weir-test-nobody.sock", &e), WEIR_OK);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        assert_int_equal(weir_infer(w, "m", &rows[i], 1, NULL, &r, &e), WEIR_INVALID);
        assert_true(e.text[0]);
    }
    static const char *const keys[] = {"", "a\r\nX: y", " a", "a\n"};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        struct weir_call call = WEIR_CALL_INIT;
        call.user = keys[i];
        assert_int_equal(weir_infer(w, "m", NULL, 0, &call, &r, &e), WEIR_INVALID);
    }
    assert_int_equal(weir_infer(w, "", NULL, 0, NULL, &r, &e), WEIR_INVALID);
    assert_int_equal(weir_infer(w, "m", NULL, 0, NULL, &r, NULL), WEIR_UNAVAILABLE);
    assert_null(r);
    weir_close(w);
}

static void replies_that_lie_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        size_t tail;
        enum weir_code code;
    } rows[] = {
        {"{}", 0, WEIR_INTERNAL},
        {"not json", 0, WEIR_INTERNAL},
        {"{\"outputs\":[{\"name\":\"p\",\"datatype\":\"FP32\",\"shape\":[2],\"parameters\":{\"binary_data_size\":4}}]}",
         4, WEIR_INTERNAL},
        {"{\"outputs\":[{\"name\":\"p\",\"datatype\":\"FP32\",\"shape\":[2],\"parameters\":{\"binary_data_size\":8}}]}",
         4, WEIR_INTERNAL},
        {"{\"outputs\":[{\"name\":\"p\",\"datatype\":\"FP32\",\"shape\":[1],\"parameters\":{\"binary_data_size\":4}}]}",
         8, WEIR_INTERNAL},
        {"{\"outputs\":[{\"name\":\"p\",\"datatype\":\"FP32\",\"shape\":[-1],\"parameters\":{\"binary_data_size\":4}}]"
         "}",
         4, WEIR_INTERNAL},
        {"{\"outputs\":[{\"name\":\"p\",\"datatype\":\"BYTES\",\"shape\":[900000000],\"parameters\":{\"binary_data_"
         "size\":4}}]}",
         4, WEIR_INTERNAL},
        {"{\"outputs\":[{\"name\":\"p\",\"datatype\":\"BYTES\",\"shape\":[1],\"parameters\":{\"binary_data_size\":8}}]"
         "}",
         8, WEIR_INTERNAL},
        {"{\"outputs\":[{\"datatype\":\"FP32\",\"shape\":[1],\"parameters\":{\"binary_data_size\":4}}]}", 4,
         WEIR_INTERNAL},
        {"{\"outputs\":[{\"name\":\"p\",\"datatype\":\"FP99\",\"shape\":[1],\"parameters\":{\"binary_data_size\":4}}]}",
         4, WEIR_INTERNAL},
        {"{\"outputs\":[{\"name\":\"p\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[1]}]}", 0, WEIR_UNIMPLEMENTED},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct peer p;
        struct weir_result *r = NULL;
        struct weir_error e = {0};
        char room[4096];
        struct peer_step answer =
            reply(room, sizeof room, "", rows[i].json, "\377\377\377\377\377\377\377\377", rows[i].tail);
        enum weir_code rc = ask(&p, answer, NULL, 0, NULL, &r, &e);
        peer_stop(&p);
        if (rc != rows[i].code) {
            fail_msg("%s: %d, not %d: %s", rows[i].json, rc, rows[i].code, e.text);
        }
        assert_null(r);
    }
}

static void a_refusal_brings_the_servers_code_and_words(void **state)
{
    (void)state;
    static const struct {
        const char *reply;
        enum weir_code code;
        const char *says;
    } rows[] = {
        {"HTTP/1.1 404 X\r\nContent-Length: 25\r\n\r\n{\"error\":\"no model 'm'!\"}", WEIR_NOT_FOUND, "no model 'm'!"},
        {"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", WEIR_UNAVAILABLE, "503"},
        {"HTTP/1.1 429 X\r\nContent-Length: 2\r\n\r\n{}", WEIR_QUOTA, "429"},
        {"HTTP/1.1 302 X\r\nContent-Length: 0\r\n\r\n", WEIR_INTERNAL, "302"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct peer p;
        struct weir_result *r = NULL;
        struct weir_error e = {0};
        struct peer_step answer = {.act = PEER_SEND, .bytes = rows[i].reply};
        assert_int_equal(ask(&p, answer, NULL, 0, NULL, &r, &e), rows[i].code);
        assert_int_equal(e.code, rows[i].code);
        assert_non_null(strstr(e.text, rows[i].says));
        peer_stop(&p);
    }
}

/* One exchange about feedback; the request stays in p until peer_stop. */
static enum weir_code tell(struct peer *p, const char *answer, const char *id, const struct weir_feedback *f,
                           struct weir_error *e)
{
    const struct peer_step steps[] = {
        {.act = PEER_ACCEPT}, {.act = PEER_READ}, {.act = PEER_SEND, .bytes = answer}, {.act = PEER_END}};
    struct weir *w = NULL;
    peer_start(p, steps);
    assert_int_equal(weir_open(&w, p->url, e), WEIR_OK);
    enum weir_code rc = weir_feedback(w, "in tent", id, f, e);
    weir_close(w);
    peer_wait(p);
    return rc;
}

static void feedback_says_what_is_known(void **state)
{
    (void)state;
    static const char good[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    struct weir_feedback plain = WEIR_FEEDBACK_INIT, full = WEIR_FEEDBACK_INIT, wrong = WEIR_FEEDBACK_INIT;
    full.label = "a\"b";
    full.reward = -0.25;
    full.supersede = 1;
    wrong.correct = 0;
    const struct {
        const struct weir_feedback *f;
        const char *json;
    } rows[] = {
        {&plain, "\r\n\r\n{\"id\":\"r\"}"},
        {&full, "\r\n\r\n{\"id\":\"r\",\"label\":\"a\\\"b\",\"reward\":-0.25,\"supersede\":true}"},
        {&wrong, "\r\n\r\n{\"id\":\"r\",\"correct\":false}"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct peer p;
        struct weir_error e = {0};
        assert_int_equal(tell(&p, good, "r", rows[i].f, &e), WEIR_OK);
        assert_int_equal(strncmp(buf_z(&p.request), "POST /v2/models/in%20tent/feedback HTTP/1.1\r\n", 45), 0);
        assert_string_equal(strstr(buf_z(&p.request), "\r\n\r\n"), rows[i].json);
        peer_stop(&p);
    }
    struct peer p;
    struct weir_error e = {0};
    const char *refusal = "HTTP/1.1 404 X\r\nContent-Length: 23\r\n\r\n{\"error\":\"no answer r\"}";
    assert_int_equal(tell(&p, refusal, "r", &wrong, &e), WEIR_NOT_FOUND);
    assert_string_equal(e.text, "no answer r");
    peer_stop(&p);
}

static void feedback_that_says_nonsense_is_not_sent(void **state)
{
    (void)state;
    struct weir *w = NULL;
    struct weir_error e = {0};
    struct weir_feedback f = WEIR_FEEDBACK_INIT;
    assert_int_equal(weir_open(&w, "unix:/nowhere/at/all", &e), WEIR_OK);
    assert_int_equal(weir_feedback(w, NULL, "r", &f, &e), WEIR_INVALID);
    assert_int_equal(weir_feedback(w, "m", "", &f, &e), WEIR_INVALID);
    assert_int_equal(weir_feedback(w, "m", NULL, &f, &e), WEIR_INVALID);
    f.correct = 2;
    assert_int_equal(weir_feedback(w, "m", "r", &f, &e), WEIR_INVALID);
    f.correct = -1;
    f.reward = INFINITY;
    assert_int_equal(weir_feedback(w, "m", "r", &f, &e), WEIR_INVALID);
    f.reward = NAN;
    f.size = 0;
    assert_int_equal(weir_feedback(w, "m", "r", &f, &e), WEIR_INVALID);
    f.size = sizeof f;
    assert_int_equal(weir_feedback(w, "m", "r", &f, &e), WEIR_UNAVAILABLE);
    weir_close(w);
}

static void places_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *where;
        enum weir_code code;
    } rows[] = {
        {"inproc:/nowhere/weir.yaml", WEIR_NOT_FOUND},
        {"weir://host", WEIR_OK},
        {"weir://[::1]:9000", WEIR_OK},
        {"weir://", WEIR_INVALID},
        {"https://h", WEIR_UNIMPLEMENTED},
        {"ftp://h", WEIR_INVALID},
        {"", WEIR_INVALID},
        {NULL, WEIR_INVALID},
        {"http://127.0.0.1:1", WEIR_OK},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct weir *w = NULL;
        struct weir_error e = {0};
        assert_int_equal(weir_open(&w, rows[i].where, &e), rows[i].code);
        assert_int_equal(w != NULL, rows[i].code == WEIR_OK);
        assert_int_equal(e.text[0] != 0, rows[i].code != WEIR_OK);
        weir_close(w);
    }
    assert_string_equal(weir_code_name(WEIR_NOT_FOUND), "not_found");
    assert_string_equal(weir_code_name((enum weir_code)99), "?");
    assert_string_equal(weir_dtype_name(WEIR_BF16), "BF16");
}

/* ---- a spawned server ---- */

static const char *after(int argc, char **argv, const char *option)
{
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], option) == 0) {
            return argv[i + 1];
        }
    }
    return NULL;
}

static void *say_ready(void *arg)
{
    char ready[256], room[4096];
    snprintf(ready, sizeof ready,
             "HTTP/1.1 200 OK\r\nX-Request-Id: %d\r\nConnection: close\r\nContent-Length: 14\r\n\r\n{\"outputs\":[]}",
             (int)getpid());
    for (;;) {
        int c = accept(*(int *)arg, NULL, NULL);
        ssize_t n = recv(c, room, sizeof room, 0);
        if (n > 20 && memcmp(room, "POST /v2/models/die/", 20) == 0) {
            _exit(7);
        }
        (void)!send(c, ready, strlen(ready), MSG_NOSIGNAL);
        close(c);
    }
    return NULL;
}

/* This program as the server. The configuration's name says how it behaves. */
static int play_server(int argc, char **argv)
{
    const char *config = after(argc, argv, "-c"), *listen_at = after(argc, argv, "--listen");
    const char *fd = after(argc, argv, "--parent-fd");
    if (!listen_at || !after(argc, argv, "--admin") || !fd || strncmp(listen_at, "unix:", 5) != 0) {
        return 99;
    }
    if (config && strcmp(config, "broken.yaml") == 0) {
        return 3;
    }
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", listen_at + 5);
    static int s; /* the thread looks at it until the process is gone */
    s = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(a.sun_path); /* of one that died */
    if (bind(s, (struct sockaddr *)&a, sizeof a) != 0 || listen(s, 8) != 0) {
        return 98;
    }
    if (config && strcmp(config, "stubborn.yaml") == 0) {
        signal(SIGTERM, SIG_IGN);
    }
    pthread_t thread;
    pthread_create(&thread, NULL, say_ready, &s);
    char byte;
    while (read((int)strtol(fd, NULL, 10), &byte, 1) > 0) {
    }
    return 0;
}

static int count_folders(void)
{
    int n = 0;
    DIR *d = opendir(getenv("TMPDIR"));
    for (struct dirent *e; d && (e = readdir(d));) {
        n += strncmp(e->d_name, "weir-", 5) == 0;
    }
    closedir(d);
    return n;
}

static int spawn_set_up(void **state)
{
    static char dir[64];
    snprintf(dir, sizeof dir, "/tmp/weir-test-XXXXXX");
    *state = mkdtemp(dir);
    setenv("TMPDIR", dir, 1);
    setenv("WEIR_BINARY", own_path, 1);
    return *state ? 0 : -1;
}

static int spawn_tear_down(void **state)
{
    rmdir(*state);
    unsetenv("TMPDIR");
    unsetenv("WEIR_BINARY");
    return 0;
}

static void a_spawned_server_starts_and_ends(void **state)
{
    (void)state;
    struct weir *w = NULL;
    struct weir_error e = {0};
    if (weir_open(&w, "spawn:", &e) != WEIR_OK) {
        fail_msg("%s", e.text);
    }
    assert_int_equal(count_folders(), 1);
    weir_close(w);
    assert_int_equal(count_folders(), 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
    assert_int_equal(errno, ECHILD);
}

/* Waiting calls and the others alike find the next one. */
static void a_server_that_died_alone_is_started_again(void **state)
{
    (void)state;
    struct weir *w = NULL;
    struct weir_error e = {0};
    char last[64] = "";
    if (weir_open(&w, "spawn:", &e) != WEIR_OK) {
        fail_msg("%s", e.text);
    }
    for (int i = 0; i < 3; i++) {
        struct weir_result *r = NULL;
        uint64_t ticket = 0;
        struct weir_done done = WEIR_DONE_INIT;
        assert_int_equal(weir_infer(w, "die", NULL, 0, NULL, &r, &e), WEIR_UNAVAILABLE);
        assert_int_equal(weir_submit(w, "m", NULL, 0, NULL, NULL, &ticket, &e), WEIR_OK);
        enum weir_code rc = WEIR_UNAVAILABLE;
        for (int tries = 0; rc == WEIR_UNAVAILABLE && tries < 1000; tries++) { /* some may meet the dying one */
            rc = weir_infer(w, "m", NULL, 0, NULL, &r, &e);
        }
        if (rc != WEIR_OK) {
            fail_msg("%s", e.text);
        }
        assert_string_not_equal(weir_result_request_id(r), last);
        snprintf(last, sizeof last, "%s", weir_result_request_id(r));
        weir_result_free(r);
        assert_int_equal(weir_wait(w, ticket, UINT64_MAX, &done), 1);
        assert_true(done.code == WEIR_OK || done.code == WEIR_UNAVAILABLE); /* as above */
        weir_result_free(done.result);
    }
    weir_close(w);
    assert_int_equal(count_folders(), 0);
}

static void a_server_that_can_not_start_says_so(void **state)
{
    (void)state;
    struct weir *w = NULL;
    struct weir_error e = {0};
    assert_int_equal(weir_open(&w, "spawn:broken.yaml", &e), WEIR_UNAVAILABLE);
    assert_non_null(strstr(e.text, "status 3"));
    setenv("WEIR_BINARY", "/nowhere/weir", 1);
    assert_int_equal(weir_open(&w, "spawn:weir.yaml", &e), WEIR_NOT_FOUND);
    assert_non_null(strstr(e.text, "/nowhere/weir"));
    setenv("WEIR_BINARY", own_path, 1);
    assert_int_equal(count_folders(), 0);
}

/* The application is killed: the server notices by its pipe, whatever thread had started it. */
static void a_server_dies_with_its_application(void **state)
{
    (void)state;
    int pipe_fd[2];
    assert_int_equal(pipe(pipe_fd), 0);
    pid_t app = fork();
    if (app == 0) {
        struct weir *w = NULL;
        struct weir_error e;
        enum weir_code rc = weir_open(&w, "spawn:stubborn.yaml", &e);
        (void)!write(pipe_fd[1], &rc, sizeof rc);
        pause();
        _exit(0);
    }
    enum weir_code rc = WEIR_INTERNAL;
    assert_int_equal(read(pipe_fd[0], &rc, sizeof rc), sizeof rc);
    assert_int_equal(rc, WEIR_OK);
    char command[256];
    snprintf(command, sizeof command, "ls -d %s/weir-*/data.sock", getenv("TMPDIR"));
    FILE *ls = popen(command, "r");
    char path[108] = "";
    assert_non_null(fgets(path, sizeof path, ls));
    pclose(ls);
    path[strcspn(path, "\n")] = 0;
    kill(app, SIGKILL);
    waitpid(app, NULL, 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    bool gone = false;
    for (uint64_t until = clock_us() + SECONDS(5); !gone && clock_us() < until; usleep(5000)) {
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        gone = connect(s, (struct sockaddr *)&a, sizeof a) != 0 && errno == ECONNREFUSED;
        close(s);
    }
    assert_true(gone);
    unlink(path);
    *strrchr(path, '/') = 0;
    rmdir(path);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "serve") == 0) {
        return play_server(argc, argv);
    }
    if (!realpath("/proc/self/exe", own_path)) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_a_head_and_the_tensors_bytes),
        cmocka_unit_test(without_a_trace_none_is_sent),
        cmocka_unit_test(what_no_server_would_take_is_not_sent),
        cmocka_unit_test(replies_that_lie_are_refused),
        cmocka_unit_test(a_refusal_brings_the_servers_code_and_words),
        cmocka_unit_test(feedback_says_what_is_known),
        cmocka_unit_test(feedback_that_says_nonsense_is_not_sent),
        cmocka_unit_test(places_are_told_apart),
        cmocka_unit_test_setup_teardown(a_spawned_server_starts_and_ends, spawn_set_up, spawn_tear_down),
        cmocka_unit_test_setup_teardown(a_server_that_died_alone_is_started_again, spawn_set_up, spawn_tear_down),
        cmocka_unit_test_setup_teardown(a_server_that_can_not_start_says_so, spawn_set_up, spawn_tear_down),
        cmocka_unit_test_setup_teardown(a_server_dies_with_its_application, spawn_set_up, spawn_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
