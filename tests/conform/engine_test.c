/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's contract (inference/engine.h), one list of cases for every place: a fake, ONNX Runtime in this process,
 * ONNX Runtime in a worker process, and another server; the two latter are killed and stopped in the middle. Each pair
 * of place and case is one test, named place:case. After them come the sandbox seen from inside, and workers that lie.
 *
 * This program is its own `weir worker`: the worker place starts /proc/self/exe. Under ThreadSanitizer only the fake
 * runs, and a far side that is a thread here, for the runtime is not built for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backends/onnx/onnx.h"
#include "backends/remote/remote.h"
#include "backends/worker/sandbox.h"
#include "backends/worker/worker.h"
#include "base/clock.h"
#include "base/log.h"
#include "support/engine_rig.h"
#include "support/fake_engine.h"
#include "support/far_server.h"
#include "support/hostile_worker.h"
#include "support/infer_rig.h"

/* Under ThreadSanitizer only the fake and a far side in this process are run. */
#ifdef __SANITIZE_THREAD__
static const bool with_threads_watched = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
static const bool with_threads_watched = true;
#else
static const bool with_threads_watched = false;
#endif
#else
static const bool with_threads_watched = false;
#endif

static const struct place places[] = {
    {.name = "fake", .ops = &fake_engine, .backend = "fake", .stub = true},
    {.name = "inline", .ops = &onnx_engine, .backend = "onnx", .on_thread = true, .real = true},
    {.name = "worker",
     .ops = &worker_engine,
     .backend = "onnx",
     .shared = true,
     .process = true,
     .stub = true,
     .real = true},
    {.name = "far", .ops = &remote_engine, .backend = "onnx", .stub = true, .real = true, .far = true},
};

/* ---- cases: life ---- */

static void opens_and_closes(const struct place *place)
{
    struct engine_rig *c = eng_open(place, "add/1", 2, false);

    assert_int_equal(c->info.n_in, 2);
    assert_int_equal(c->info.n_out, 2);
    assert_string_equal(c->info.in[0].name, "a");
    assert_string_equal(c->info.out[1].name, "d");
    assert_int_equal(c->info.in[1].dtype, DTYPE_FP32);
    assert_true(c->info.in[1].rank == 2 && c->info.in[1].dim[0] == -1 && c->info.in[1].dim[1] == 4);
    assert_int_equal(c->info.joins, !place->far); /* that is the other server's own matter */
    assert_int_equal(c->info.batch_max, 8);
    eng_turns(c, 20);
    assert_int_equal(c->gone, 0);
    eng_close(c);
}

static void closes_while_loading(const struct place *place)
{
    for (unsigned wait = 0; wait < 60; wait += 5) { /* at this moment and that */
        struct engine_rig *c = eng_begin(place, "add/1", 2, false);

        if (wait > 0) {
            eng_turns(c, wait);
        }
        if (c->ready) { /* too late to be a test of loading; a close it is all the same */
            eng_attach_all(c);
        }
        eng_close(c);
    }
}

static void load_fails(const struct place *place)
{
    struct engine_rig *c;

    if (place->real) {
        c = eng_begin(place, "custom", 2, false);
    } else {
        c = eng_begin(place, "add/1", 2, false);
        atomic_store(&fake.fail_load, 1);
    }
    UNTIL(c, c->gone);
    assert_int_equal(c->ready, 0);
    assert_int_equal(c->end.err.code, ERR_REFUSED);
    assert_true(c->end.loading && c->end.own);
    if (place->real && !strstr(c->end.err.text, place->far ? "404" : "Frobnicate")) {
        fail_msg("the reason does not say what is wrong: %s", c->end.err.text);
    }
    eng_done(c);
}

static void closes_before_ports_go(const struct place *place)
{
    struct engine_rig *c = eng_open(place, "add/1", 3, true);

    c->inside = true;
    c->g->ops->close(c->g);
    c->inside = false;
    eng_turns(c, 30);
    if (!place->stub) {
        assert_int_equal(c->gone, 0);
        eng_at(&c->seat[0], eng_detach, NULL);
        eng_turns(c, 30);
        assert_int_equal(c->gone, 0);
        eng_at(&c->seat[1], eng_detach, NULL);
        eng_at(&c->seat[2], eng_detach, NULL);
    }
    UNTIL(c, c->gone);
    assert_int_equal(c->end.err.code, ERR_OK);
    eng_done(c);
}

/* ---- cases: jobs ---- */

static void answers(const struct place *place)
{
    struct engine_rig *c = eng_open(place, "add/1", 1, false);
    struct seat *s = &c->seat[0];
    struct err e;

    for (unsigned i = 0; i < 60; i++) {
        int want = (int)(i % 3) - 1;
        assert_int_equal(eng_try(s, (float)i, 1 + i % 5, 4, want, 0, 0, &e), ERR_OK);
        if (i % 4 == 3) {
            eng_flush(s, NULL);
        }
        if (i % 8 == 7) {
            eng_all_back(c);
        }
    }
    eng_flush(s, NULL);
    eng_all_back(c);
    eng_all_right(s);
    eng_close(c);
}

static void joins_and_splits(const struct place *place)
{
    struct engine_rig *c = eng_open(place, "add/1", 1, false);
    struct seat *s = &c->seat[0];
    unsigned joined = 0;
    struct err e;

    for (unsigned round = 0; round < 20; round++) { /* of a far side the answers alone: how it joins is not told */
        for (unsigned i = 0; i < 12; i++) {
            assert_int_equal(eng_try(s, (float)(round * 12 + i), 1 + i % 3, 4, -1, i == 5 ? JOB_SOLO : 0, 0, &e),
                             ERR_OK);
        }
        eng_flush(s, NULL);
        eng_all_back(c);
    }
    eng_all_right(s);
    for (unsigned k = 0; k < s->n && !place->far; k++) {
        assert_true(s->jobs[k].joined >= 1 && s->jobs[k].joined <= 8);
        joined += s->jobs[k].joined > 1;
        assert_true(k % 12 != 5 || s->jobs[k].joined == 1);
    }
    assert_true(place->far || joined > s->n / 4);
    eng_close(c);
}

static void a_bad_input_is_its_senders(const struct place *place)
{
    struct engine_rig *c = eng_open(place, "add/1", 1, false);
    struct seat *s = &c->seat[0];
    struct err e;
    unsigned bad = 0;

    for (unsigned i = 0; i < 24; i++) {
        int64_t width = i % 6 == 2 ? 5 : 4;
        enum err_code code = eng_try(s, (float)i, 1, width, -1, 0, 0, &e);
        if (width == 5 && code != ERR_OK) { /* an engine may say so at once */
            assert_int_equal(code, ERR_INVALID);
            bad++;
        } else {
            assert_int_equal(code, ERR_OK);
        }
    }
    eng_flush(s, NULL);
    eng_all_back(c);
    for (unsigned k = 0; k < s->n; k++) {
        const struct one *j = &s->jobs[k];
        if (j->width == 5) {
            assert_true(j->err.code == ERR_INVALID || j->err.code == ERR_MODEL);
            assert_false(j->lost);
            bad++;
        } else {
            assert_true(j->right);
        }
    }
    assert_int_equal(bad, 4);
    eng_close(c);
}

static void cancelled_jobs_come_back(const struct place *place)
{
    struct engine_rig *c = eng_open(place, "add/1", 1, false);
    struct seat *s = &c->seat[0];

    for (unsigned i = 0; i < 100; i++) {
        eng_submit(s, (float)i, 1);
        if (i % 2) {
            eng_flush(s, NULL);
        }
        if (i % 3 == 0) {
            s->inside = true;
            s->port->ops->cancel(s->port, 1000 + i);
            s->port->ops->cancel(s->port, 5); /* unknown: nothing */
            s->inside = false;
        }
        if (i % 7 == 0) {
            eng_turns(c, 1);
        }
    }
    eng_flush(s, NULL);
    eng_all_back(c);
    for (unsigned k = 0; k < s->n; k++) {
        assert_true(s->jobs[k].right || (k % 3 == 0 && s->jobs[k].err.code == ERR_CANCELLED));
    }
    eng_close(c);
}

static void full_ports_say_so(const struct place *place)
{
    struct engine_rig *c = eng_open(place, "add/1", 1, false);
    struct seat *s = &c->seat[0];
    unsigned full = 0;

    for (unsigned round = 0; round < 2; round++) {
        struct err e;
        enum err_code code;

        while ((code = eng_try(s, (float)(s->n % 1000), 1, 4, -1, 0, 0, &e)) == ERR_OK) {
        }
        assert_int_equal(code, ERR_UNAVAILABLE);
        assert_true(s->n - full >= 128); /* what the scheduler counts on */
        full = s->n;
        eng_flush(s, NULL);
        eng_all_back(c);
    }
    eng_all_right(s);
    eng_close(c);
}

struct stream {
    unsigned left;
};
static void do_stream(struct seat *s, void *arg)
{
    struct stream *t = arg;

    for (unsigned i = 0; i < 16 && t->left > 0 && s->open < 32; i++) {
        eng_submit(s, (float)(s->n % 500 + 1000 * s->index), 1 + s->n % 4);
        t->left--;
    }
    eng_flush(s, NULL);
}

static void ports_on_threads(const struct place *place)
{
    struct engine_rig *c = eng_open(place, "add/1", 3, true);
    struct stream t[3] = {{600}, {600}, {600}};

    while (t[0].left + t[1].left + t[2].left > 0) {
        for (unsigned i = 0; i < 3; i++) {
            eng_at(&c->seat[i], do_stream, &t[i]);
        }
        loop_once(c->loop, 0);
    }
    eng_all_back(c);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(c->seat[i].n, 600);
        eng_all_right(&c->seat[i]);
    }
    eng_close(c);
}

/* ---- cases: behind a pool and schedulers ---- */

static struct pool_spec spec_of(const struct place *place, const char *name, unsigned instances)
{
    struct pool_spec s = infer_spec();

    fake_reset();
    s.name = name;
    s.backend = place->backend;
    s.instances = instances;
    s.on_thread = place->on_thread;
    s.far = place->far ? far_place(name) : NULL;
    if (place->real) {
        s.dirfd = open(eng_folder(name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (s.dirfd < 0) {
            fail_msg("no folder %s: `make tests` makes the models", eng_folder(name));
        }
    }
    return s;
}

static void open_pool(struct infer_rig *r, const struct place *place, const char *name, unsigned instances,
                      unsigned shards, bool threads)
{
    struct pool_spec s = spec_of(place, name, instances);

    infer_open(r, place->ops, &s, shards, threads);
    if (s.dirfd >= 0) {
        close(s.dirfd);
    }
}

static void load_is_right(const struct infer_load *l)
{
    if (atomic_load(&l->right) != l->total) {
        fail_msg("%u of %u right, %u wrong, %u timed out, %u unavailable, %u MODEL", l->right, l->total, l->wrong,
                 l->failed[ERR_TIMEOUT], l->failed[ERR_UNAVAILABLE], l->failed[ERR_MODEL]);
    }
}

static void serves(const struct place *place)
{
    struct infer_rig r;
    static struct infer_load l[3];

    memset(l, 0, sizeof l);
    open_pool(&r, place, "add/1", 2, 3, true);
    for (unsigned i = 0; i < 3; i++) {
        l[i].total = 1500;
        l[i].width = 24;
        l[i].after_us = SECONDS(30);
        infer_load(&r, &l[i], i);
    }
    INFER_UNTIL(&r, atomic_load(&r.loads) == 0);
    for (unsigned i = 0; i < 3; i++) {
        load_is_right(&l[i]);
    }
    infer_close(&r, SECONDS(20));
}

static void a_load_that_fails_says_why(const struct place *place)
{
    struct infer_rig r;
    struct pool_spec s = spec_of(place, place->real ? "custom" : "add/1", 2);

    atomic_store(&fake.fail_load, 1);
    infer_begin(&r, place->ops, &s, 2, true);
    INFER_UNTIL(&r, r.closed);
    assert_int_equal(r.failed, 1);
    assert_int_equal(r.why.code, ERR_REFUSED);
    infer_close(&r, 0);
    if (s.dirfd >= 0) {
        close(s.dirfd);
    }
}

static void closed_pools_end(const struct place *place)
{
    for (unsigned i = 0; i < 6; i++) {
        struct infer_rig r;
        struct pool_spec s = spec_of(place, "add/1", 2);

        infer_begin(&r, place->ops, &s, 2, true);
        infer_turns(&r, i * 8);
        pool_close(r.pool, SECONDS(20));
        INFER_UNTIL(&r, r.closed);
        infer_close(&r, 0);
        if (s.dirfd >= 0) {
            close(s.dirfd);
        }
    }
}

/* ---- cases: deaths ---- */

static void kill_it(struct engine_rig *c, int sig)
{
    if (c->place->process) {
        assert_int_equal(kill(worker_pid(c->g), sig), 0);
    } else if (c->place->far) {
        far_kill(sig);
    } else {
        fake_kill(0, sig != SIGKILL);
    }
}

/* A long run, some that wait behind it, some not even flushed; then the engine dies of `sig`. */
static void dies_of(const struct place *place, int sig, bool own)
{
    struct engine_rig *c = eng_open(place, "spin/1", 2, false);
    struct seat *s = &c->seat[0];
    uint64_t began;

    eng_spin(s, 1, 100);
    eng_flush(s, NULL);
    eng_all_back(c);
    eng_spin(s, 2, 10000000); /* 20 s */
    eng_flush(s, NULL);
    eng_turns(c, 100);
    for (unsigned i = 0; i < 5; i++) {
        eng_spin(s, 3, 100);
        eng_spin(&c->seat[1], 3, 100);
        if (i < 3) {
            eng_flush(s, NULL);
            eng_flush(&c->seat[1], NULL);
        }
    }
    eng_turns(c, 20);
    assert_int_equal(atomic_load(&s->n_done), 1);
    began = clock_us();
    kill_it(c, sig);
    UNTIL(c, c->gone);
    if (sig == SIGSTOP) {
        assert_in_range(clock_us() - began, SECONDS(4), SECONDS(9));
    } else {
        assert_true(clock_us() - began < SECONDS(sig == SIGSEGV ? 20 : 5));
    }
    assert_int_equal(c->end.own, own);
    assert_false(c->end.loading);
    assert_int_equal(c->end.err.code, ERR_UNAVAILABLE);
    assert_true(s->jobs[0].right && s->down && c->seat[1].down);
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned k = i == 0; k < c->seat[i].n; k++) {
            const struct one *j = &c->seat[i].jobs[k];
            if (i == 1 && !place->process && j->right) {
                continue; /* the fake's ports do not wait for each other */
            }
            assert_true(j->lost && j->n_done == 1 && j->own == own);
            if (place->far) { /* what it was running when it ended is not known */
                assert_false(j->alone);
                continue;
            }
            assert_int_equal(j->started, i == 0 && k == 1);
            assert_int_equal(j->alone, i == 0 && k == 1);
        }
    }
    eng_done(c);
}

static void killed(const struct place *place)
{
    dies_of(place, SIGKILL, false);
}
static void crashed(const struct place *place)
{
    if (place->far) {
        skip(); /* it looks like a kill from here */
    }
    dies_of(place, SIGSEGV, true);
}
static void stopped(const struct place *place)
{
    if ((!place->process && !place->far) || with_threads_watched) {
        skip();
    }
    dies_of(place, SIGSTOP, !place->far);
    if (place->far) {
        far_kill(SIGKILL);
    }
}

static void killed_while_loading(const struct place *place)
{
    for (unsigned wait = 0; wait < 40; wait += place->far ? 20 : 4) {
        struct engine_rig *c = eng_begin(place, "add/1", 2, false);

        eng_turns(c, wait);
        kill_it(c, SIGKILL);
        UNTIL(c, c->gone || c->ready);
        if (c->ready) {
            for (unsigned i = 0; i < c->ports; i++) {
                eng_attach(&c->seat[i], NULL); /* to what is dead, perhaps: it will say so */
            }
        }
        UNTIL(c, c->gone);
        assert_int_equal(c->end.loading, !c->ready);
        assert_false(c->end.own);
        eng_done(c);
    }
}

static pid_t pid_of(const struct infer_rig *r, unsigned i)
{
    struct pool_instance in;

    pool_instance(r->pool, i, &in);
    return in.engine && strcmp(in.state, "ready") == 0 ? worker_pid(in.engine) : 0;
}

static bool kill_one(const struct infer_rig *r, const struct place *place, unsigned i)
{
    if (place->far) { /* all instances at once, and it comes back */
        far_kill(SIGKILL);
        far_start();
        return true;
    }
    if (!place->process) {
        fake_kill(fake_counts().opened - 1, false);
        return true;
    }
    if (pid_of(r, i) == 0 || pid_of(r, 1 - i) == 0) { /* not both: then it would be a matter of the restart alone */
        return false;
    }
    assert_int_equal(kill(pid_of(r, i), SIGKILL), 0);
    return true;
}

static void load_both(struct infer_rig *r, struct infer_load *l)
{
    memset(l, 0, 2 * sizeof *l);
    for (unsigned i = 0; i < 2; i++) {
        l[i].total = 3000;
        l[i].width = 8;
        l[i].after_us = SECONDS(30);
        infer_load(r, &l[i], i);
    }
}

#define KILLS 8

/* Load on two threads and two instances, of which one is killed again and again. */
static void retried_elsewhere(const struct place *place)
{
    struct infer_rig r;
    static struct infer_load l[2];
    unsigned kills = 0, all = place->far ? 2 : KILLS;
    uint64_t next = 0;

    open_pool(&r, place, "add/1", 2, 2, true);
    atomic_store(&fake.run_us, 200);
    while (kills < all || atomic_load(&r.loads)) {
        if (atomic_load(&r.loads) == 0) {
            load_both(&r, l);
        }
        loop_once(r.loop, 1);
        if (clock_us() >= next && kills < all && kill_one(&r, place, kills % 2)) {
            kills++;
            next = clock_us() + (place->far ? SECONDS(4) : MILLIS(10));
        }
        if (atomic_load(&r.loads) == 0) {
            load_is_right(&l[0]);
            load_is_right(&l[1]);
        }
    }
    assert_int_equal(r.sick, 0);
    infer_close(&r, SECONDS(20));
}

/* One instance: what it had waits for the next. */
static void retried_after_the_restart(const struct place *place)
{
    struct infer_rig r;
    static struct infer_req q[12];
    unsigned deaths = 0;

    memset(q, 0, sizeof q);
    open_pool(&r, place, "spin/1", 1, 1, false);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(infer_spin(&r, &q[i], 0, (float)i, 5000, SECONDS(30)), ERR_OK); /* 10 ms each */
    }
    INFER_UNTIL(&r, q[0].n_done);
    if (place->process) {
        assert_int_equal(kill(pid_of(&r, 0), SIGKILL), 0);
    } else if (place->far) {
        far_kill(SIGKILL);
        infer_turns(&r, 3000); /* longer than a moment */
        far_start();
    } else {
        fake_kill(0, false);
    }
    for (unsigned i = 0; i < 12; i++) {
        INFER_UNTIL(&r, q[i].n_done);
        assert_true(q[i].right);
        assert_true(i == 0 || place->far || q[i].order > q[i - 1].order);
        deaths += q[i].deaths;
    }
    if (!place->far) {
        assert_in_range(deaths, 1, 2); /* one ran, one waited there */
    }
    infer_close(&r, SECONDS(20));
}

/* A run far past its deadline is a hang; the request has had its answer long before. */
static void a_run_that_never_ends(const struct place *place)
{
    struct infer_rig r;
    static struct infer_req q[2];
    struct pool_instance in;

    if (!place->process) {
        skip();
    }
    memset(q, 0, sizeof q);
    open_pool(&r, place, "spin/1", 1, 1, false);
    assert_int_equal(infer_spin(&r, &q[0], 0, 1, 1000000000, MILLIS(300)), ERR_OK);
    INFER_UNTIL(&r, q[0].n_done);
    assert_int_equal(q[0].err.code, ERR_TIMEOUT);
    assert_int_equal(infer_spin(&r, &q[1], 0, 2, 10, SECONDS(30)), ERR_OK);
    INFER_UNTIL(&r, q[1].n_done);
    assert_true(q[1].right);
    pool_instance(r.pool, 0, &in);
    assert_int_equal(in.own_deaths, 1);
    infer_close(&r, SECONDS(20));
}

/* Closed with a drain that is too short: nobody waits for a run that does not end. */
static void abandoned(const struct place *place)
{
    struct infer_rig r;
    static struct infer_req q[4];
    uint64_t began;

    memset(q, 0, sizeof q);
    open_pool(&r, place, "spin/1", 1, 1, false);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(infer_spin(&r, &q[i], 0, (float)i, 10000000, SECONDS(60)), ERR_OK);
    }
    infer_turns(&r, 50);
    began = clock_us();
    pool_close(r.pool, MILLIS(100));
    INFER_UNTIL(&r, r.closed);
    assert_true(clock_us() - began < SECONDS(5));
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(q[i].n_done, 1);
        assert_true(q[i].moved);
    }
    infer_close(&r, 0);
    if (place->far) { /* it runs them on */
        far_kill(SIGKILL);
    }
}

/* The server and its workers stop together, as by Ctrl-Z in a terminal, and go on: nobody hung. */
static void stopped_together(const struct place *place)
{
    struct engine_rig *c;
    struct timespec long_nap = {6, 0};

    if (!place->process) {
        skip();
    }
    c = eng_open(place, "add/1", 1, false);
    assert_int_equal(kill(worker_pid(c->g), SIGSTOP), 0);
    eng_turns(c, 1300);
    nanosleep(&long_nap, NULL); /* our own loop stands still, too */
    eng_turns(c, 20);           /* and is the first to wake */
    assert_int_equal(kill(worker_pid(c->g), SIGCONT), 0);
    eng_turns(c, 700);
    assert_int_equal(c->gone, 0);
    eng_submit(&c->seat[0], 1, 1);
    eng_flush(&c->seat[0], NULL);
    eng_all_back(c);
    eng_all_right(&c->seat[0]);
    eng_close(c);
}

/* X(case, only where an engine may die) */
/* clang-format off */
#define CASE_MAP(X) \
    X(opens_and_closes, 0) \
    X(closes_while_loading, 0) \
    X(load_fails, 0) \
    X(closes_before_ports_go, 0) \
    X(answers, 0) \
    X(joins_and_splits, 0) \
    X(a_bad_input_is_its_senders, 0) \
    X(cancelled_jobs_come_back, 0) \
    X(full_ports_say_so, 0) \
    X(ports_on_threads, 0) \
    X(serves, 0) \
    X(a_load_that_fails_says_why, 0) \
    X(closed_pools_end, 0) \
    X(killed, 1) \
    X(crashed, 1) \
    X(stopped, 1) \
    X(killed_while_loading, 1) \
    X(retried_elsewhere, 1) \
    X(retried_after_the_restart, 1) \
    X(a_run_that_never_ends, 1) \
    X(abandoned, 1) \
    X(stopped_together, 1)
/* clang-format on */

struct cell {
    const struct place *place;
    void (*fn)(const struct place *place);
};
static void run_cell(void **state)
{
    const struct cell *cell = *state;

    cell->fn(cell->place);
}

/* ---- the worker's batches ---- */

static const struct place worker_batches = {.name = "worker",
                                            .ops = &worker_engine,
                                            .backend = "onnx",
                                            .shared = true,
                                            .process = true,
                                            .stub = true,
                                            .real = true};

/* Three kinds of jobs that do not join with each other, in turn. The delay holds them until all are there. */
static void kinds_keep_apart(void **state)
{
    struct place place = worker_batches;
    struct engine_rig *c;
    struct err e;

    (void)state;
    place.delay_us = MILLIS(200);
    c = eng_open(&place, "add/1", 2, false);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(eng_try(&c->seat[0], (float)i, 1, 4, (int)(i % 3) - 1, 0, 0, &e), ERR_OK);
    }
    eng_flush(&c->seat[0], NULL);
    eng_all_back(c);
    eng_all_right(&c->seat[0]);
    for (unsigned k = 0; k < 12; k++) {
        assert_int_equal(c->seat[0].jobs[k].joined, 4);
    }
    /* Both ports, a batch of eight and more, and one that wants to be alone: nobody waits for the delay in vain. */
    for (unsigned i = 0; i < 9; i++) {
        assert_int_equal(eng_try(&c->seat[0], (float)i, 1, 4, -1, i == 3 ? JOB_SOLO : 0, 0, &e), ERR_OK);
        eng_submit(&c->seat[1], (float)i, 1);
    }
    eng_flush(&c->seat[0], NULL);
    eng_flush(&c->seat[1], NULL);
    eng_all_back(c);
    eng_all_right(&c->seat[0]);
    eng_all_right(&c->seat[1]);
    assert_int_equal(c->seat[0].jobs[12 + 3].joined, 1);
    eng_close(c);
}

/* Behind a long run: one whose deadline passes meanwhile, one that has none, one that has time. */
static void expired_jobs_are_not_run(void **state)
{
    struct engine_rig *c = eng_open(&worker_batches, "spin/1", 2, false);
    struct seat *s = &c->seat[0];

    (void)state;
    eng_spin(s, 1, 100000); /* 200 ms */
    eng_flush(s, NULL);
    eng_turns(c, 50);
    s->deadline_us = clock_us() + MILLIS(10);
    eng_spin(s, 2, 10000000); /* 20 s, if it were run */
    s->deadline_us = clock_us() + SECONDS(30);
    eng_spin(s, 3, 100);
    s->deadline_us = 0;
    eng_spin(s, 4, 100);
    eng_flush(s, NULL);
    eng_all_back(c);
    assert_int_equal(s->jobs[1].err.code, ERR_TIMEOUT);
    assert_non_null(strstr(s->jobs[1].err.text, "the deadline passed"));
    assert_false(s->jobs[1].lost);
    assert_true(s->jobs[0].right && s->jobs[2].right && s->jobs[3].right);
    eng_close(c);
}

/* With nothing running, those that wait for company are run in time for their deadline. */
static void company_is_not_waited_for_too_long(void **state)
{
    struct place place = worker_batches;
    struct engine_rig *c;

    (void)state;
    place.delay_us = SECONDS(3600);
    c = eng_open(&place, "add/1", 1, false);
    c->seat[0].deadline_us = clock_us() + MILLIS(500);
    eng_submit(&c->seat[0], 1, 1);
    eng_submit(&c->seat[0], 2, 2);
    eng_flush(&c->seat[0], NULL);
    eng_all_back(c);
    for (unsigned i = 0; i < 2; i++) { /* on a busy machine the executor may wake up too late: then it says so */
        const struct one *j = &c->seat[0].jobs[i];
        assert_true((j->right && j->joined == 2) || j->err.code == ERR_TIMEOUT);
    }
    eng_close(c);
}

/* A death while the backlog waits for company: what was not being run is under no suspicion. */
static void the_backlog_is_not_suspected(void **state)
{
    struct place place = worker_batches;
    struct engine_rig *c;

    (void)state;
    place.delay_us = SECONDS(3600);
    c = eng_open(&place, "add/1", 2, false);
    for (unsigned i = 0; i < 3; i++) {
        eng_submit(&c->seat[i % 2], (float)i, 1);
        eng_flush(&c->seat[i % 2], NULL);
    }
    eng_turns(c, 100);
    assert_int_equal(atomic_load(&c->seat[0].n_done) + atomic_load(&c->seat[1].n_done), 0);
    kill_it(c, SIGSEGV);
    UNTIL(c, c->gone);
    assert_true(c->end.own);
    for (unsigned i = 0; i < 3; i++) {
        const struct one *j = &c->seat[i % 2].jobs[i / 2];
        assert_true(j->lost && j->own && j->n_done == 1);
        assert_false(j->started || j->alone);
    }
    eng_done(c);
}

/* Inside the sandbox: a wider session is made, measured, and taken or not; a loop of small operations gains nothing. */
static void threads_left_open(void **state)
{
    struct place place = worker_batches;
    struct engine_rig *c;

    (void)state;
    place.threads_max = 2;
    c = eng_open(&place, "slow/1", 1, false);
    assert_int_equal(c->info.threads, 1);
    eng_close(c);
    c = eng_open(&place, "cnn/1", 1, false);
    assert_in_range(c->info.threads, 1, 2);
    assert_true(c->info.warm_ns > 0);
    eng_close(c);
}

/* ---- the sandbox, from inside ---- */

static const struct place worker_place = {.name = "worker",
                                          .ops = &worker_engine,
                                          .backend = "probe",
                                          .shared = true,
                                          .process = true,
                                          .stub = true,
                                          .real = true};

struct probed {
    bool back;
    int32_t error[2][128];
};
static void probe_done(void *ctx, uint64_t id, const struct job_result *r)
{
    struct probed *p = ctx;

    assert(id == 7 && r->err.code == ERR_OK && r->n_out == 1);
    memcpy(p->error[0], r->base + r->out[0].off, probe_count * sizeof(int32_t));
    memcpy(p->error[1], r->base + r->out[0].off + probe_count * sizeof(int32_t), probe_count * sizeof(int32_t));
    p->back = true;
}

static void the_sandbox_holds(void **state)
{
    static const struct port_events on = {.done = probe_done, .down = NULL};

    if (with_threads_watched) {
        skip(); /* a worker of a library that knows no ThreadSanitizer */
    }
    struct engine_rig *c = eng_begin_with(&worker_place, "add/1", "probe", 1, false);
    struct probed p = {0};
    struct port_host host = {.loop = c->loop, .on = &on, .ctx = &p};
    struct job j = {.id = 7, .deadline_us = UINT64_MAX};
    unsigned bad = 0;
    struct stat st;
    struct err e;

    (void)state;
    assert_true(probe_count <= COUNT_OF(p.error[0]));
    UNTIL(c, c->ready || c->gone);
    if (!c->ready) {
        fail_msg("%s", c->end.err.text);
    }
    assert_int_equal(c->g->ops->attach(c->g, &host, &c->seat[0].port, &e), ERR_OK);
    j.block = window_take(c->in, 0, 4096);
    memset(window_base(c->in) + j.block, 0, 4096);
    assert_int_equal(c->seat[0].port->ops->submit(c->seat[0].port, &j, &e), ERR_OK);
    c->seat[0].port->ops->flush(c->seat[0].port);
    UNTIL(c, p.back);
    for (size_t i = 0; i < probe_count; i++) {
        for (unsigned where = 0; where < 2; where++) {
            bool went = p.error[where][i] == 0;

            if (probes[i].landlock && sandbox_landlock_abi() == 0) {
                continue;
            }
            if (went != probes[i].allowed) {
                fprintf(stderr, "%s in %s: %s\n", probes[i].name, where ? "flush" : "open",
                        went ? "went well" : strerror(p.error[where][i]));
                bad++;
            }
        }
    }
    assert_int_equal(bad, 0);
    assert_int_not_equal(fstatat(c->dirfd, "planted", &st, 0), 0);
    assert_int_not_equal(stat("/tmp/weir-probe-was-here", &st), 0);
    window_give(c->in, 0, j.block);
    eng_close(c);
}

/* ---- workers that lie ---- */

/* A lie that hit nothing shows with the next jobs. */
static void ask_more(struct engine_rig *c)
{
    struct seat *s = &c->seat[0];
    struct err e;

    if (c->ready && !s->down && s->open == 0 && s->n < ENG_JOBS_MAX - 4 &&
        eng_try(s, 1, 1, 4, -1, 0, 0, &e) == ERR_OK) {
        eng_flush(s, NULL);
    }
}

static void lie_of(const struct lie *lie)
{
    char name[64];
    struct engine_rig *c;
    uint64_t began = clock_us();

    snprintf(name, sizeof name, "liar/%s", lie->name);
    c = eng_begin_with(
        &(struct place){.name = "liar", .ops = &worker_engine, .shared = true, .process = true, .stub = true}, name,
        "liar", 1, false);
    UNTIL(c, c->ready || c->gone);
    assert_int_equal(c->ready, lie->ready);
    if (c->ready) {
        struct seat *s = &c->seat[0];

        eng_attach(s, NULL);
        for (unsigned round = 0; round < (lie->harmless ? 40u : 1u); round++) {
            for (unsigned i = 0; i < 4; i++) {
                eng_submit(s, (float)i, 1);
            }
            eng_flush(s, NULL);
            eng_all_back(c);
        }
        if (lie->harmless) {
            for (unsigned k = 0; k < s->n; k++) {
                assert_true(s->jobs[k].right || (s->jobs[k].err.code != ERR_OK && !s->jobs[k].lost));
                assert_int_equal(s->jobs[k].right, strncmp(lie->name, "error", 5) != 0);
            }
            assert_int_equal(c->gone, 0);
            eng_close(c);
            return;
        }
    }
    UNTIL(c, c->gone || (ask_more(c), false));
    assert_true(c->end.own);
    assert_int_equal(c->end.loading, !lie->ready);
    assert_true(c->end.err.code != ERR_OK);
    assert_true(clock_us() - began < SECONDS(10));
    for (unsigned k = 0; k < c->seat[0].n; k++) {
        const struct one *j = &c->seat[0].jobs[k];
        assert_true(j->right || (j->lost && j->own));
    }
    eng_done(c);
}

static void run_lie(void **state)
{
    lie_of(*state);
}

/* ---- main ---- */

/* What only real processes and the runtime can show. Written out, for a run without them must not look for these. */
static const struct CMUnitTest with_workers[] = {
    {.name = "kinds_keep_apart", .test_func = kinds_keep_apart},
    {.name = "expired_jobs_are_not_run", .test_func = expired_jobs_are_not_run},
    {.name = "company_is_not_waited_for_too_long", .test_func = company_is_not_waited_for_too_long},
    {.name = "the_backlog_is_not_suspected", .test_func = the_backlog_is_not_suspected},
    {.name = "threads_left_open", .test_func = threads_left_open},
};

int main(int argc, char **argv)
{
    static const struct worker_backend backends[] = {{"onnx", &onnx_engine, onnx_runtime_preload},
                                                     {"probe", &probe_engine, NULL}};
    static void (*const cases[])(const struct place *) = {
#define X(fn, mortal) fn,
        CASE_MAP(X)
#undef X
    };
    static const char *const names[] = {
#define X(fn, mortal) #fn,
        CASE_MAP(X)
#undef X
    };
    static const bool mortal[] = {
#define X(fn, mortal) mortal,
        CASE_MAP(X)
#undef X
    };
    static struct cell cells[COUNT_OF(places) * COUNT_OF(cases)];
    static struct CMUnitTest tests[COUNT_OF(cells) + 64];
    static char text[COUNT_OF(tests)][64];
    size_t n = 0, n_places = COUNT_OF(places);

    if (argc > 2 && strcmp(argv[1], "worker") == 0) {
        return strncmp(argv[2], "liar/", 5) == 0 ? liar_main(argv[2]) : worker_main(backends, COUNT_OF(backends));
    }
    if (with_threads_watched) {
        n_places = 1;
        far_use_thread();
    }
    for (size_t p = 0; p < COUNT_OF(places); p++) {
        if (p >= n_places && !places[p].far) {
            continue;
        }
        for (size_t k = 0; k < COUNT_OF(cases); k++) {
            if (mortal[k] && !places[p].stub) {
                continue;
            }
            cells[n] = (struct cell){&places[p], cases[k]};
            snprintf(text[n], sizeof text[n], "%s:%s", places[p].name, names[k]);
            tests[n] = (struct CMUnitTest){.name = text[n], .test_func = run_cell, .initial_state = &cells[n]};
            n++;
        }
    }
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(the_sandbox_holds);
    if (n_places > 1) {
        for (size_t i = 0; i < COUNT_OF(with_workers); i++) {
            tests[n++] = with_workers[i];
        }
        for (size_t i = 0; i < lie_count; i++) {
            snprintf(text[n], sizeof text[n], "liar:%s", lies[i].name);
            tests[n] = (struct CMUnitTest){
                .name = text[n], .test_func = run_lie, .initial_state = (void *)(uintptr_t)&lies[i]};
            n++;
        }
    }
    return _cmocka_run_group_tests("engine", tests, n, NULL, NULL);
}
