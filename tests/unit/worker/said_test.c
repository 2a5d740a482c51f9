/* SPDX-License-Identifier: Apache-2.0 */
/* The pipe of a worker's standard error: what is kept and shown of what was written, and that its bounds hold. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "backends/worker/said.h"
#include "base/clock.h"
#include "base/log.h"

struct rig {
    struct loop *loop;
    struct said s;
    int child;
};

static struct rig begin(void)
{
    struct rig r;
    struct err e;

    assert_int_equal(loop_new(&r.loop, &e), ERR_OK);
    return r;
}
#define BEGIN(r)                                                                          \
    struct rig r = begin();                                                               \
    said_init(&r.s);                                                                      \
    assert_int_equal(said_open(&r.s, r.loop, "m/1", &r.child, &(struct err){0}), ERR_OK); \
    said_begin(&r.s, 1234)

static void end(struct rig *r)
{
    said_close(&r->s);
    loop_free(r->loop);
}

static void write_all(struct rig *r, const char *text)
{
    assert_int_equal(write(r->child, text, strlen(text)), strlen(text));
}

static void expect_last(struct rig *r, size_t cap, const char *want)
{
    char got[SAID_KEPT];

    assert_int_equal(said_last(&r->s, got, cap), strlen(want));
    assert_string_equal(got, want);
}

static void last_lines(void **state)
{
    (void)state;
    BEGIN(r);
    expect_last(&r, 100, "");
    write_all(&r, "one\n\nINFO  a model was measured\ntwo\r\nthr");
    loop_once(r.loop, 1000);
    expect_last(&r, 100, "one | two");
    write_all(&r, "ee\nfour\nfive\tand\x1b[2J\x7f\n\"six\\");
    close(r.child);
    said_drain(&r.s); /* the last line has no end */
    expect_last(&r, 100, "three | four | five and?[2J? | \"six\\");
    expect_last(&r, 37, "three | four | five and?[2J? | \"six\\");
    expect_last(&r, 36, "four | five and?[2J? | \"six\\");
    expect_last(&r, 6, "\"six\\");
    expect_last(&r, 4, "\"si");
    said_drain(&r.s);
    expect_last(&r, 6, "\"six\\");
    end(&r);
}

/* A thousand lines of every length, one longer than a line may be: never more than the bound, and always whole lines.
 */
static void kept_is_bounded(void **state)
{
    char text[SAID_LINE + 102], got[SAID_KEPT], want[SAID_KEPT];

    (void)state;
    BEGIN(r);
    for (unsigned i = 0; i < 1000; i++) {
        int n = snprintf(text, sizeof text, "%u ", i);

        memset(text + n, 'x', sizeof text - (size_t)n);
        text[MAX((unsigned)n, i % (SAID_LINE + 100))] = '\n';
        text[MAX((unsigned)n, i % (SAID_LINE + 100)) + 1] = '\0';
        write_all(&r, text);
        said_drain(&r.s);
        text[MIN((size_t)SAID_LINE, strlen(text) - 1)] = '\0';
        assert_true(r.s.n_kept <= SAID_KEPT && r.s.kept[r.s.n_kept - 1] == '\n');
        assert_true(r.s.kept[0] >= '0' && r.s.kept[0] <= '9');
        snprintf(want, sizeof want, "%s", text);
        said_last(&r.s, got, strlen(want) + 1);
        assert_string_equal(got, want);
    }
    assert_true(r.s.n_kept > SAID_KEPT - SAID_LINE - 1);
    assert_true(r.s.dropped > 0); /* nobody writes 1,000 lines a second into our log */
    close(r.child);
    end(&r);
}

/* Who writes without end is read a burst, and then not until the tenth of a second is over: the loop stays free. */
static void who_shouts_is_slowed_down(void **state)
{
    char block[4096];
    size_t taken = 0;
    uint64_t began;

    (void)state;
    BEGIN(r);
    memset(block, 'y', sizeof block);
    block[sizeof block - 1] = '\n';
    assert_int_equal(fcntl(r.child, F_SETFL, O_NONBLOCK), 0);
    began = clock_us();
    for (unsigned i = 0; i < 1000; i++) {
        ssize_t n = write(r.child, block, sizeof block);

        taken += n > 0 ? (size_t)n : 0;
        loop_once(r.loop, 0);
    }
    /* what the pipe holds, and a burst for each tenth of a second that it took */
    assert_true(taken <= (1u << 16) + (SAID_BURST + sizeof block) * (2 + (clock_us() - began) / MILLIS(100)));
    assert_true(taken >= SAID_BURST);
    while (write(r.child, "last\n", 5) < 5) {
        loop_once(r.loop, 200); /* it goes on when the time is over */
    }
    close(r.child);
    said_drain(&r.s);
    expect_last(&r, 5, "last");
    end(&r);
}

static void the_end_of_the_pipe(void **state)
{
    (void)state;
    BEGIN(r);
    write_all(&r, "bye\n");
    close(r.child);
    for (unsigned i = 0; i < 5; i++) {
        loop_once(r.loop, 10);
    }
    expect_last(&r, 10, "bye");
    end(&r);
}

static void *look(void *arg)
{
    struct rig *r = arg;
    char got[200];

    for (unsigned i = 0; i < 300; i++) {
        said_drain(&r->s);
        said_last(&r->s, got, sizeof got);
    }
    return NULL;
}

/* Connection threads read the end of a worker while the control thread still does. */
static void by_many_threads(void **state)
{
    pthread_t t[3];
    char got[16];

    (void)state;
    BEGIN(r);
    for (size_t i = 0; i < COUNT_OF(t); i++) {
        assert_int_equal(pthread_create(&t[i], NULL, look, &r), 0);
    }
    for (unsigned i = 0; i < 300; i++) {
        write_all(&r, "a line\n");
        loop_once(r.loop, 0);
    }
    for (size_t i = 0; i < COUNT_OF(t); i++) {
        pthread_join(t[i], NULL);
    }
    close(r.child);
    said_drain(&r.s);
    said_last(&r.s, got, 7);
    assert_string_equal(got, "a line");
    end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_lines),
        cmocka_unit_test(kept_is_bounded),
        cmocka_unit_test(who_shouts_is_slowed_down),
        cmocka_unit_test(the_end_of_the_pipe),
        cmocka_unit_test(by_many_threads),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
