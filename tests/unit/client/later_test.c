/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that nobody waits for, against a server of threads whose models are: echo (answers with the request's id), hang
 * (answers never, and counts who went away), drop (closes without an answer). */
#include "peer.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "weir.h"

struct far {
    char dir[64], url[128];
    int listener;
    pthread_t thread;
    atomic_int hanging, left;
};

struct guest {
    struct far *far;
    int fd;
};

static void *serve_one(void *arg)
{
    struct guest *g = arg;
    char room[8192];
    ssize_t n;
    while ((n = recv(g->fd, room, sizeof room - 1, 0)) > 0) {
        room[n] = 0;
        if (strncmp(room, "POST /v2/models/drop/", 21) == 0) {
            break;
        }
        if (strncmp(room, "POST /v2/models/hang/", 21) == 0) {
            atomic_fetch_add(&g->far->hanging, 1);
            (void)!recv(g->fd, room, 1, 0);
            atomic_fetch_add(&g->far->left, 1);
            break;
        }
        char out[512], *id = strstr(room, "\r\nX-Request-Id: ");
        int len = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nX-Request-Id: %.*s\r\nContent-Length: 14\r\n\r\n%s",
                           id ? (int)strcspn(id + 16, "\r") : 0, id ? id + 16 : "", "{\"outputs\":[]}");
        (void)!send(g->fd, out, (size_t)len, MSG_NOSIGNAL);
    }
    close(g->fd);
    free(g);
    return NULL;
}

static void *accept_all(void *arg)
{
    struct far *f = arg;
    int fd;
    while ((fd = accept(f->listener, NULL, NULL)) >= 0) {
        struct guest *g = malloc(sizeof *g);
        pthread_t t;
        *g = (struct guest){f, fd};
        pthread_create(&t, NULL, serve_one, g);
        pthread_detach(t);
    }
    return NULL;
}

static struct far far; /* static: the guests' threads may outlive a test */

static int set_up(void **state)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)state;
    snprintf(far.dir, sizeof far.dir, "/tmp/weir-test-XXXXXX");
    if (!mkdtemp(far.dir)) {
        return -1;
    }
    snprintf(a.sun_path, sizeof a.sun_path, "%s/s", far.dir);
    snprintf(far.url, sizeof far.url, "unix:%s/s", far.dir);
    atomic_store(&far.hanging, 0);
    atomic_store(&far.left, 0);
    far.listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(far.listener, (struct sockaddr *)&a, sizeof a) != 0 || listen(far.listener, 128) != 0) {
        return -1;
    }
    return pthread_create(&far.thread, NULL, accept_all, &far);
}

static int tear_down(void **state)
{
    char path[96];
    (void)state;
    shutdown(far.listener, SHUT_RDWR);
    pthread_join(far.thread, NULL);
    close(far.listener);
    snprintf(path, sizeof path, "%s/s", far.dir);
    unlink(path);
    return rmdir(far.dir);
}

static struct weir *open_far(void)
{
    struct weir *w = NULL;
    struct weir_error e = {0};
    assert_int_equal(weir_open(&w, far.url, &e), WEIR_OK);
    return w;
}

static uint64_t submit(struct weir *w, const char *model, const struct weir_call *call, void *ctx)
{
    uint64_t ticket = 0;
    struct weir_error e = {0};
    if (weir_submit(w, model, NULL, 0, call, ctx, &ticket, &e) != WEIR_OK) {
        fail_msg("%s", e.text);
    }
    assert_true(ticket != 0);
    return ticket;
}

static bool readable(int fd, int limit_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, limit_ms) == 1;
}

static void wait_for(atomic_int *n, int at_least)
{
    for (uint64_t until = clock_us() + SECONDS(30); atomic_load(n) < at_least && clock_us() < until;) {
        usleep(1000);
    }
    assert_true(atomic_load(n) >= at_least);
}

#define MANY 1000

static void many_fly_and_each_comes_home_once(void **state)
{
    (void)state;
    static uint64_t tickets[MANY];
    static int home[MANY];
    struct weir *w = open_far();
    struct weir_error e = {0};
    memset(home, 0, sizeof home);
    struct weir_done done = WEIR_DONE_INIT;
    assert_int_equal(weir_poll(w, &done), -1);
    int fd = weir_fd(w, &e);
    assert_true(fd >= 0 && !readable(fd, 0));
    for (int i = 0; i < MANY; i++) {
        char id[16];
        struct weir_call call = WEIR_CALL_INIT;
        snprintf(id, sizeof id, "r-%d", i);
        call.request_id = id;
        tickets[i] = submit(w, "echo", &call, &home[i]);
    }
    for (int n = 0; n < MANY;) {
        assert_true(readable(fd, 30000));
        while (weir_poll(w, &done) == 1) {
            int i = (int)((int *)done.ctx - home);
            char id[16];
            snprintf(id, sizeof id, "r-%d", i);
            if (done.code != WEIR_OK) {
                fail_msg("%s", done.error.text);
            }
            assert_int_equal(done.ticket, tickets[i]);
            assert_string_equal(weir_result_request_id(done.result), id);
            weir_result_free(done.result);
            home[i]++;
            n++;
        }
    }
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(home[i], 1);
    }
    assert_false(readable(fd, 0));
    assert_int_equal(weir_poll(w, &done), -1);
    assert_int_equal(weir_take(w, tickets[0], &done), -1);
    weir_close(w);
}

static void a_cancelled_call_leaves_the_server(void **state)
{
    (void)state;
    struct weir *w = open_far();
    struct weir_done done = WEIR_DONE_INIT;
    uint64_t t = submit(w, "hang", NULL, w);
    wait_for(&far.hanging, 1);
    assert_int_equal(weir_take(w, t, &done), 0);
    assert_int_equal(weir_wait(w, 0, 1000, &done), 0);
    weir_cancel(w, t + 1); /* nobody's */
    weir_cancel(w, t);
    assert_int_equal(weir_wait(w, t, UINT64_MAX, &done), 1);
    assert_int_equal(done.code, WEIR_CANCELLED);
    assert_ptr_equal(done.ctx, w);
    assert_null(done.result);
    wait_for(&far.left, 1);
    weir_cancel(w, t);
    assert_int_equal(weir_wait(w, t, UINT64_MAX, &done), -1);
    weir_close(w);
}

static void a_call_ends_at_its_limit_also_in_line(void **state)
{
    (void)state;
    struct weir *w = open_far();
    struct weir_call call = WEIR_CALL_INIT;
    struct weir_done done = WEIR_DONE_INIT;
    for (int i = 0; i < 64; i++) { /* all connections */
        submit(w, "hang", NULL, NULL);
    }
    call.timeout_us = 30000;
    uint64_t t = submit(w, "echo", &call, NULL);
    assert_int_equal(weir_wait(w, t, UINT64_MAX, &done), 1);
    assert_int_equal(done.code, WEIR_TIMEOUT);
    weir_close(w); /* with calls open */
}

static void a_broken_connection_and_no_server_are_told(void **state)
{
    (void)state;
    struct weir *w = open_far(), *nowhere = NULL;
    struct weir_error e = {0};
    struct weir_done done = WEIR_DONE_INIT;
    submit(w, "drop", NULL, NULL);
    assert_int_equal(weir_wait(w, 0, UINT64_MAX, &done), 1);
    assert_int_equal(done.code, WEIR_UNAVAILABLE);
    weir_close(w);
    assert_int_equal(weir_open(&nowhere, "unix:/nowhere/at/all", &e), WEIR_OK);
    submit(nowhere, "m", NULL, NULL);
    assert_int_equal(weir_wait(nowhere, 0, UINT64_MAX, &done), 1);
    assert_int_equal(done.code, WEIR_UNAVAILABLE);
    weir_close(nowhere);
}

static void one_more_than_may_be_open_is_refused(void **state)
{
    (void)state;
    struct weir *w = open_far();
    struct weir_error e = {0};
    struct weir_done done = WEIR_DONE_INIT;
    uint64_t ticket = 0, first = 0;
    for (int i = 0; i < WEIR_OPEN_MAX; i++) {
        ticket = submit(w, "hang", NULL, NULL);
        first = first ? first : ticket;
    }
    assert_int_equal(weir_submit(w, "echo", NULL, 0, NULL, NULL, &ticket, &e), WEIR_QUOTA);
    weir_cancel(w, first);
    assert_int_equal(weir_wait(w, first, UINT64_MAX, &done), 1);
    submit(w, "hang", NULL, NULL);
    weir_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(many_fly_and_each_comes_home_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_cancelled_call_leaves_the_server, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_call_ends_at_its_limit_also_in_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_broken_connection_and_no_server_are_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_more_than_may_be_open_is_refused, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
