/* SPDX-License-Identifier: Apache-2.0 */
/* Pools against a scripted engine: loading and failing to, restarts by the supervisor's rules, every order in which a
 * close can meet a load, a death or a drain; and the same with real threads under load. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "inference/supervisor.h"
#include "support/fake_engine.h"
#include "support/infer_rig.h"

static struct infer_req q[64];

static struct pool_spec fresh(unsigned instances)
{
    struct pool_spec s = infer_spec();

    fake_reset();
    memset(q, 0, sizeof q);
    s.instances = instances;
    return s;
}

static void end(struct infer_rig *r)
{
    infer_close(r, SECONDS(20));
    assert_int_equal(fake_counts().living, 0);
}

static const char *state_of(const struct infer_rig *r, unsigned i)
{
    struct pool_instance in;

    pool_instance(r->pool, i, &in);
    return in.state;
}

static unsigned up(const struct infer_rig *r)
{
    return atomic_load(&pool_shared(r->pool)->instances_up);
}

static void nap(unsigned ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

/* ---- loading ---- */

static void life(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(3);

    (void)state;
    atomic_store(&fake.ready_us, MILLIS(20));
    infer_begin(&r, &fake_engine, &s, 2, false);
    assert_int_equal(pool_instances(r.pool), 3);
    assert_string_equal(state_of(&r, 2), "starting");
    assert_int_equal(r.ready, 0);
    INFER_UNTIL(&r, r.ready);
    assert_int_equal(up(&r), 3);
    assert_string_equal(state_of(&r, 0), "ready");
    assert_int_equal(pool_info(r.pool)->n_in, 2);
    assert_string_equal(pool_info(r.pool)->in[1].name, "b");
    assert_int_equal(pool_shared(r.pool)->credit, 16);
    assert_false(pool_productive(r.pool));
    for (unsigned i = 0; i < SUPERVISOR_PRODUCTIVE; i++) {
        assert_false(pool_productive(r.pool));
        assert_int_equal(infer_send(&r, &q[i], i % 2, (float)i, 1, 0), ERR_OK);
        INFER_UNTIL(&r, q[i].n_done);
        assert_true(q[i].right);
    }
    assert_true(pool_productive(r.pool));
    end(&r);
    assert_int_equal(r.ready, 1);
    assert_int_equal(r.failed + r.sick, 0);
    assert_int_equal(fake_counts().closes, 3);
}

static void a_load_fails(void **state)
{
    (void)state;
    for (unsigned instances = 1; instances <= 3; instances++) {
        struct infer_rig r;
        struct pool_spec s = fresh(instances);

        atomic_store(&fake.fail_load, 1);
        infer_begin(&r, &fake_engine, &s, 2, false);
        INFER_UNTIL(&r, r.closed); /* by itself */
        assert_int_equal(r.failed, 1);
        assert_int_equal(r.ready, 0);
        assert_int_equal(r.why.code, ERR_REFUSED);
        assert_string_equal(r.why.text, "the model is not to its liking");
        end(&r);
    }
}

static void it_dies_while_loading(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(2);

    (void)state;
    atomic_store(&fake.ready_us, SECONDS(5));
    infer_begin(&r, &fake_engine, &s, 1, false);
    infer_turns(&r, 10);
    fake_kill(1, true);
    INFER_UNTIL(&r, r.closed);
    assert_int_equal(r.failed, 1);
    assert_string_equal(r.why.text, "it died by itself");
    end(&r);
}

static void an_open_fails(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(2);

    (void)state;
    atomic_store(&fake.fail_open, 1);
    infer_begin(&r, &fake_engine, &s, 2, false);
    INFER_UNTIL(&r, r.closed);
    assert_int_equal(r.failed, 1);
    assert_string_equal(r.why.text, "it can not be started");
    assert_int_equal(fake_counts().opened, 0); /* the second was not even tried */
    end(&r);
}

static void an_attach_fails(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(2);

    (void)state;
    atomic_store(&fake.fail_attach, 1);
    infer_begin(&r, &fake_engine, &s, 1, false);
    INFER_UNTIL(&r, r.failed && r.closed);
    assert_non_null(strstr(r.why.text, "can not attach"));
    assert_int_equal(r.ready, 0);
    end(&r);
}

static void an_attach_fails_after_a_restart(void **state)
{
    struct pool_instance in = {0};
    struct infer_rig r;
    struct pool_spec s = fresh(1);

    (void)state;
    infer_open(&r, &fake_engine, &s, 1, false);
    atomic_store(&fake.fail_attach, 1);
    fake_kill(0, false);
    while (in.own_deaths < 1 || !in.engine || strcmp(in.state, "ready") != 0) { /* it is started once more */
        infer_turns(&r, 1);
        pool_instance(r.pool, 0, &in);
    }
    assert_int_equal(in.deaths, 2);
    assert_int_equal(infer_send(&r, &q[0], 0, 1, 1, 0), ERR_OK);
    INFER_UNTIL(&r, q[0].n_done);
    assert_true(q[0].right);
    end(&r);
}

static void a_name_too_long(void **state)
{
    struct pool_spec s = fresh(1);
    struct pool *p = NULL;
    struct pool_events none = {0};
    struct loop *loop;
    struct err e;
    char name[400];

    (void)state;
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    s.name = name;
    s.dirfd = 0;
    assert_int_equal(loop_new(&loop, &e), ERR_OK);
    assert_int_equal(pool_open(&p, &s, &fake_engine, loop, NULL, 0, &none, NULL, &e), ERR_UNAVAILABLE);
    s.name = "add/1";
    s.dirfd = -1;
    assert_int_equal(pool_open(&p, &s, &fake_engine, loop, NULL, 0, &none, NULL, &e), ERR_UNAVAILABLE);
    assert_null(p);
    loop_free(loop);
}

static void a_boast_of_batches(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(1);

    (void)state;
    atomic_store(&fake.batch_max, 0x80000000u);
    infer_open(&r, &fake_engine, &s, 1, false);
    assert_int_equal(pool_shared(r.pool)->credit, 128);
    assert_int_equal(infer_send(&r, &q[0], 0, 1, 1, SECONDS(5)), ERR_OK);
    INFER_UNTIL(&r, q[0].n_done);
    assert_true(q[0].right);
    end(&r);
}

static void on_thread_is_one_instance(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(5);

    (void)state;
    s.on_thread = true;
    infer_open(&r, &fake_engine, &s, 2, false);
    assert_int_equal(pool_instances(r.pool), 1);
    assert_int_equal(pool_shared(r.pool)->credit, 1024);
    assert_int_equal(window_fd(pool_shared(r.pool)->in), -1);
    end(&r);
}

/* ---- restarts ---- */

static void outside_deaths(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(2);
    struct pool_instance in;
    uint64_t began = clock_us();

    (void)state;
    infer_open(&r, &fake_engine, &s, 2, false);
    for (unsigned i = 0; i < 12; i++) {
        unsigned opened = fake_counts().opened;
        fake_kill(opened - 1, false);
        INFER_UNTIL(&r, fake_counts().opened == opened + 1 && up(&r) == 2);
    }
    assert_true(clock_us() - began < SECONDS(5));
    assert_int_equal(r.sick, 0);
    assert_int_equal(r.ready, 1);
    pool_instance(r.pool, 1, &in);
    assert_int_equal(in.deaths, 12);
    assert_int_equal(in.own_deaths, 0);
    end(&r);
}

static void own_deaths(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(1);
    uint64_t wait = MILLIS(100);
    struct pool_instance in;

    (void)state;
    infer_open(&r, &fake_engine, &s, 1, false);
    for (unsigned i = 0; i < 5; i++) {
        uint64_t began = clock_us();

        assert_int_equal(r.sick, 0);
        fake_kill(i, true);
        INFER_UNTIL(&r, up(&r) == 0);
        assert_string_equal(state_of(&r, 0), "restarting");
        pool_instance(r.pool, 0, &in);
        assert_null(in.engine);
        if (i == 4) {
            break;
        }
        INFER_UNTIL(&r, up(&r) == 1);
        assert_in_range(clock_us() - began, wait * 8 / 10, wait * 12 / 10 + MILLIS(200));
        wait *= 2;
    }
    INFER_UNTIL(&r, r.sick);
    assert_int_equal(r.sick, 1);
    assert_string_equal(r.why.text, "it died by itself");
    assert_int_equal(pool_shared(r.pool)->in != NULL, 1);
    pool_instance(r.pool, 0, &in);
    assert_int_equal(in.own_deaths, 5);
    INFER_UNTIL(&r, up(&r) == 1); /* restarts go on until somebody closes it */
    end(&r);
}

static void a_restart_fails(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(1);
    struct pool_instance in;

    (void)state;
    infer_open(&r, &fake_engine, &s, 1, false);
    atomic_store(&fake.fail_open, 1);
    atomic_store(&fake.fail_load, 1);
    fake_kill(0, false);
    INFER_UNTIL(&r, fake_counts().opened == 3 &&
                        up(&r) == 1); /* one that did not open, one that did not load, one that did */
    pool_instance(r.pool, 0, &in);
    assert_int_equal(in.deaths, 3);
    assert_int_equal(in.own_deaths, 2);
    assert_int_equal(r.failed, 0);
    assert_int_equal(infer_send(&r, &q[0], 0, 1, 1, SECONDS(5)), ERR_OK);
    INFER_UNTIL(&r, q[0].n_done);
    assert_true(q[0].right);
    end(&r);
}

/* What the first instance said of the model is what requests are checked and answers read by. */
static void another_model_after_a_restart(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(1);
    struct pool_instance in;

    (void)state;
    infer_open(&r, &fake_engine, &s, 2, false);
    atomic_store(&fake.narrow, true);
    fake_kill(0, false);
    INFER_UNTIL(&r, fake_counts().opened == 3);
    atomic_store(&fake.narrow, false);
    assert_int_equal(up(&r), 0); /* the second never served */
    assert_int_equal(pool_info(r.pool)->n_out, 2);
    INFER_UNTIL(&r, up(&r) == 1);
    pool_instance(r.pool, 0, &in);
    assert_true(in.own_deaths >= 1);
    assert_int_equal(infer_send(&r, &q[0], 1, 1, 1, SECONDS(5)), ERR_OK);
    INFER_UNTIL(&r, q[0].n_done);
    assert_true(q[0].right);
    end(&r);
}

/* ---- closing ---- */

static void closed_while_loading(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(2);
    uint64_t began = clock_us();

    (void)state;
    atomic_store(&fake.ready_us, SECONDS(5));
    infer_begin(&r, &fake_engine, &s, 2, false);
    infer_turns(&r, 5);
    pool_close(r.pool, SECONDS(20));
    pool_close(r.pool, SECONDS(20)); /* a second time is nothing */
    INFER_UNTIL(&r, r.closed);
    assert_true(clock_us() - began < SECONDS(3));
    assert_int_equal(r.ready + r.failed + r.sick, 0);
    end(&r);
}

static void closed_at_once(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(2);

    (void)state;
    infer_begin(&r, &fake_engine, &s, 2, false);
    pool_close(r.pool, 0);
    INFER_UNTIL(&r, r.closed);
    assert_int_equal(r.ready + r.failed + r.sick, 0);
    end(&r);
}

static void ready_comes_while_closing(void **state)
{
    (void)state;
    for (unsigned threads = 0; threads < 2; threads++) {
        struct infer_rig r;
        struct pool_spec s = fresh(2);

        atomic_store(&fake.ready_us, MILLIS(30));
        atomic_store(&fake.ready_despite_close, true);
        infer_begin(&r, &fake_engine, &s, 3, threads);
        infer_turns(&r, 5);
        pool_close(r.pool, SECONDS(20));
        INFER_UNTIL(&r, r.closed);
        assert_int_equal(r.ready, 0);
        end(&r);
    }
}

static void closed_while_attaching(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(2);

    (void)state;
    infer_begin(&r, &fake_engine, &s, 3, true);
    for (unsigned i = 0; i < 100 && !r.ready; i++) { /* somewhere between the engine's ready and the pool's */
        struct pool_instance in;
        loop_once(r.loop, 0);
        pool_instance(r.pool, 0, &in);
        if (in.engine && i > 1) {
            break;
        }
    }
    pool_close(r.pool, SECONDS(20));
    INFER_UNTIL(&r, r.closed);
    end(&r);
}

static void closed_while_restarting(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(1);

    (void)state;
    infer_open(&r, &fake_engine, &s, 2, false);
    fake_kill(0, true);
    INFER_UNTIL(&r, up(&r) == 0);
    pool_close(r.pool, SECONDS(20));
    INFER_UNTIL(&r, r.closed);
    assert_int_equal(fake_counts().opened, 1);
    end(&r);
}

static void it_dies_while_closing(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(2);

    (void)state;
    infer_open(&r, &fake_engine, &s, 2, false);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(infer_send(&r, &q[i], i % 2, (float)i, 1, 0), ERR_OK);
    }
    infer_turns(&r, 5);
    pool_close(r.pool, SECONDS(20));
    fake_kill(0, true);
    infer_turns(&r, 20); /* the other instance has all of it now */
    fake_go();
    INFER_UNTIL(&r, r.closed);
    for (unsigned i = 0; i < 6; i++) {
        assert_true(q[i].right);
    }
    assert_int_equal(fake_counts().opened, 2);
    end(&r);
}

/* A shard that does nothing else, once the version is gone from it, until told. */
struct stall {
    struct task task;
    struct shard *shard;
    unsigned slot, rounds;
    _Atomic bool over, stalled;
};

static void on_stall(struct task *t)
{
    struct stall *s = CONTAINER_OF(t, struct stall, task);

    if (s->shard->sched[s->slot] || s->rounds++ == 0) { /* a round more: what the detach left behind runs first */
        loop_post(s->shard->loop, &s->task);
        return;
    }
    atomic_store(&s->stalled, true);
    while (!atomic_load(&s->over)) {
        nap(1);
    }
}

/* The last word of the pool to a shard arrives when the pool is gone. */
static void a_late_shard(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(1);
    struct stall stall = {.task.fn = on_stall};

    (void)state;
    infer_open(&r, &fake_engine, &s, 2, true);
    stall.shard = &r.shards[1];
    stall.slot = s.slot;
    pool_close(r.pool, MILLIS(20));
    loop_post(r.shards[1].loop, &stall.task);
    while (!atomic_load(&stall.stalled)) {
        nap(1);
    }
    nap(40); /* now the drain's limit and the shards' answers come in one burst */
    INFER_UNTIL(&r, r.closed);
    atomic_store(&stall.over, true);
    end(&r);
}

/* ---- threads ---- */

static void load_and_deaths(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(3);
    static struct infer_load load[3];
    unsigned kills = 0;
    uint64_t next;

    (void)state;
    memset(load, 0, sizeof load);
    infer_open(&r, &fake_engine, &s, 3, true);
    atomic_store(&fake.run_us, 100);
    for (unsigned i = 0; i < 3; i++) {
        load[i].total = 4000;
        load[i].width = 12;
        load[i].after_us = SECONDS(20);
        infer_load(&r, &load[i], i);
    }
    next = clock_us() + MILLIS(10);
    while (atomic_load(&r.loads)) {
        loop_once(r.loop, 1);
        if (clock_us() > next && kills < 60) {
            unsigned opened = fake_counts().opened;
            fake_kill((unsigned)(random_u64() % opened), false);
            kills++;
            next = clock_us() + MILLIS(5);
        }
    }
    assert_true(kills > 5);
    for (unsigned i = 0; i < 3; i++) {
        if (atomic_load(&load[i].right) != load[i].total) {
            fail_msg("shard %u: %u of %u right, %u wrong, %u timed out", i, load[i].right, load[i].total, load[i].wrong,
                     load[i].failed[ERR_TIMEOUT]);
        }
    }
    assert_int_equal(admission_requests(&pool_shared(r.pool)->admission), 0);
    end(&r);
}

static void load_and_own_deaths(void **state)
{
    struct infer_rig r;
    struct pool_spec s = fresh(2);
    static struct infer_load load[2];

    (void)state;
    memset(load, 0, sizeof load);
    infer_open(&r, &fake_engine, &s, 2, true);
    for (unsigned i = 0; i < 2; i++) {
        load[i].total = 3000;
        load[i].width = 8;
        load[i].after_us = SECONDS(20);
        infer_load(&r, &load[i], i);
    }
    for (unsigned i = 0; i < 3; i++) { /* not five: three times in flight convict nobody */
        infer_turns(&r, 30);
        fake_kill(fake_counts().opened - 1, true);
    }
    INFER_UNTIL(&r, atomic_load(&r.loads) == 0);
    for (unsigned i = 0; i < 2; i++) {
        unsigned bad = load[i].failed[ERR_MODEL]; /* one that was alone in flight twice is a matter of luck */
        assert_int_equal(load[i].right + bad, load[i].total);
        assert_true(bad <= 1);
    }
    end(&r);
}

static void closed_under_load(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 6; round++) {
        struct infer_rig r;
        struct pool_spec s = fresh(2);
        static struct infer_load load[3];
        unsigned right = 0, moved = 0;

        memset(load, 0, sizeof load);
        infer_open(&r, &fake_engine, &s, 3, true);
        atomic_store(&fake.hold, round % 2);
        for (unsigned i = 0; i < 3; i++) {
            load[i].total = load[i].width = 40; /* all at once: nothing may be sent after the close */
            infer_load(&r, &load[i], i);
        }
        while (atomic_load(&load[0].sent) + atomic_load(&load[1].sent) + atomic_load(&load[2].sent) < 120) {
            loop_once(r.loop, 1);
        }
        pool_close(r.pool, round % 2 ? MILLIS(30) : SECONDS(20));
        if (round % 3 == 2) {
            fake_kill(0, true);
        }
        INFER_UNTIL(&r, r.closed && atomic_load(&r.loads) == 0);
        for (unsigned i = 0; i < 3; i++) {
            right += load[i].right;
            moved += load[i].moved;
        }
        assert_int_equal(right + moved, 120);
        assert_int_equal(right, round % 2 ? 0 : 120);
        end(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(life),
        cmocka_unit_test(a_load_fails),
        cmocka_unit_test(it_dies_while_loading),
        cmocka_unit_test(an_open_fails),
        cmocka_unit_test(an_attach_fails),
        cmocka_unit_test(an_attach_fails_after_a_restart),
        cmocka_unit_test(a_name_too_long),
        cmocka_unit_test(a_boast_of_batches),
        cmocka_unit_test(on_thread_is_one_instance),
        cmocka_unit_test(outside_deaths),
        cmocka_unit_test(own_deaths),
        cmocka_unit_test(a_restart_fails),
        cmocka_unit_test(another_model_after_a_restart),
        cmocka_unit_test(closed_while_loading),
        cmocka_unit_test(closed_at_once),
        cmocka_unit_test(ready_comes_while_closing),
        cmocka_unit_test(closed_while_attaching),
        cmocka_unit_test(closed_while_restarting),
        cmocka_unit_test(it_dies_while_closing),
        cmocka_unit_test(a_late_shard),
        cmocka_unit_test(load_and_deaths),
        cmocka_unit_test(load_and_own_deaths),
        cmocka_unit_test(closed_under_load),
    };

    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
