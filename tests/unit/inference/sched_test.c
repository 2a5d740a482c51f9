/* SPDX-License-Identifier: Apache-2.0 */
/* The scheduler against a scripted engine: who runs where and when, what deadlines and cancels do, and what becomes of
 * requests whose engine dies. One loop for everything, so that each step is the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/clock.h"
#include "support/fake_engine.h"
#include "support/infer_rig.h"

#define N 64

static struct infer_req q[N];

static void open_rig(struct infer_rig *r, unsigned instances, unsigned batch_max)
{
    struct pool_spec s = infer_spec();

    fake_reset();
    memset(q, 0, sizeof q);
    s.instances = instances;
    s.batch.max = batch_max;
    infer_open(r, &fake_engine, &s, 1, false);
}

static void close_rig(struct infer_rig *r)
{
    const struct sched_shared *sh = pool_shared(r->pool);

    INFER_UNTIL(r, window_used(sh->in, 0) == 0);
    assert_int_equal(admission_requests(&sh->admission), 0);
    assert_int_equal(atomic_load(&sh->admission.bytes), 0);
    for (unsigned i = 0; i < INSTANCES_MAX; i++) {
        assert_int_equal(atomic_load(&sh->load[i].open), 0);
    }
    infer_close(r, SECONDS(20));
    assert_int_equal(fake_counts().living, 0);
}

static void send(struct infer_rig *r, unsigned i, float value, uint64_t after_us)
{
    assert_int_equal(infer_send(r, &q[i], 0, value, 1 + i % 3, after_us), ERR_OK);
}

static bool all_done(unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        if (q[i].n_done == 0) {
            return false;
        }
    }
    return true;
}

static void all_right(unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        if (q[i].n_done != 1 || !q[i].right || q[i].moved) {
            fail_msg("request %u: %u done, right %d, moved %d: %s", i, q[i].n_done, q[i].right, q[i].moved,
                     q[i].err.text);
        }
    }
}

/* ---- the plain way ---- */

static void answers(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 8);
    for (unsigned i = 0; i < 20; i++) {
        send(&r, i, (float)i, 0);
        assert_int_equal(q[i].n_done, 0); /* never from inside */
    }
    INFER_UNTIL(&r, all_done(0, 20));
    all_right(0, 20);
    assert_int_equal(atomic_load(&pool_shared(r.pool)->answered), 20);
    close_rig(&r);
}

/* What a trace is told: whose the job is, and when and where it was what; also of one that came to nobody's hands. */
static void a_result_says_when_and_where(void **state)
{
    struct infer_rig r;
    struct fake_seen seen[N];
    const struct job_origin origin = {.id = STR("order-17"), .traceparent = "00-1-2-01"};

    (void)state;
    open_rig(&r, 1, 8);
    q[0].infer.origin = &origin;
    send(&r, 0, 1, 0);
    send(&r, 1, 2, 0);
    INFER_UNTIL(&r, all_done(0, 2));
    assert_int_equal(fake_log(seen, N), 2);
    assert_string_equal(seen[0].origin, "order-17");
    assert_string_equal(seen[1].origin, "");
    for (unsigned i = 0; i < 2; i++) {
        assert_true(q[i].submit_ns > 0 && q[i].given_ns + 1000 > q[i].submit_ns); /* one is in microseconds */
        assert_true(q[i].done_ns >= q[i].given_ns);
        assert_int_equal(q[i].instance, 0);
        assert_string_equal(q[i].place, fake_engine.name);
    }
    atomic_store(&fake.capacity, 0);
    send(&r, 2, 3, MILLIS(30));
    INFER_UNTIL(&r, all_done(2, 3));
    assert_int_equal(q[2].err.code, ERR_TIMEOUT);
    assert_true(q[2].given_ns == 0 && q[2].done_ns > q[2].submit_ns && q[2].instance == -1 && !q[2].place);
    close_rig(&r);
}

static void a_burst_goes_together(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 8);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(infer_send(&r, &q[i], 0, (float)i, 2, 0), ERR_OK);
    }
    INFER_UNTIL(&r, all_done(0, 4));
    all_right(0, 4);
    assert_int_equal(fake_counts().runs, 1);
    assert_int_equal(q[0].joined, 4);
    close_rig(&r);
}

static void credit_bounds_what_is_out(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 2);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(infer_send(&r, &q[i], 0, (float)i, 1, 0), ERR_OK);
    }
    infer_turns(&r, 30);
    assert_int_equal(fake_counts().submits, 4); /* one batch runs, one waits there */
    assert_int_equal(sched_waiting(r.shards[0].sched[infer_spec().slot]), 8);
    fake_go();
    INFER_UNTIL(&r, all_done(0, 12));
    all_right(0, 12);
    for (unsigned i = 1; i < 12; i++) {
        assert_true(q[i].order > q[i - 1].order);
    }
    close_rig(&r);
}

static void least_loaded_first(void **state)
{
    struct infer_rig r;
    struct fake_seen seen[N];
    unsigned at[3] = {0};

    (void)state;
    open_rig(&r, 3, 4);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 12; i++) {
        send(&r, i, (float)i, 0);
        infer_turns(&r, 2);
    }
    assert_int_equal(fake_log(seen, N), 12);
    for (unsigned i = 0; i < 12; i++) {
        at[seen[i].nth]++;
        if (i % 3 == 2) {
            assert_true(at[0] == at[1] && at[1] == at[2]);
        }
    }
    fake_go();
    INFER_UNTIL(&r, all_done(0, 12));
    all_right(0, 12);
    close_rig(&r);
}

/* A port may take less than its credit: then it waits for a done(), and so does nobody else. */
static void a_full_port_is_waited_for(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 8);
    atomic_store(&fake.capacity, 3);
    for (unsigned i = 0; i < 40; i++) {
        send(&r, i, (float)i, 0);
    }
    INFER_UNTIL(&r, all_done(0, 40));
    all_right(0, 40);
    close_rig(&r);
}

static void a_full_port_does_not_block_another(void **state)
{
    struct infer_rig r;
    struct fake_seen seen[N];
    unsigned at[2] = {0};

    (void)state;
    open_rig(&r, 2, 8);
    atomic_store(&fake.hold, true);
    atomic_store(&fake.capacity, 3);
    for (unsigned i = 0; i < 8; i++) {
        send(&r, i, (float)i, 0);
    }
    infer_turns(&r, 20);
    assert_int_equal(fake_log(seen, N), 6);
    for (unsigned i = 0; i < 6; i++) {
        at[seen[i].nth]++;
    }
    assert_int_equal(at[0], 3);
    assert_int_equal(at[1], 3);
    fake_go();
    INFER_UNTIL(&r, all_done(0, 8));
    all_right(0, 8);
    close_rig(&r);
}

/* ---- bounds ---- */

static enum err_code admit(struct sched *s, uint64_t bytes, struct err *e)
{
    struct admission_ask ask = {.bytes = bytes, .deadline_us = UINT64_MAX, .class = CLASS_CRITICAL};
    uint64_t wait_us;

    return sched_admit(s, &ask, &wait_us, e);
}

static void admission(void **state)
{
    struct infer_rig r;
    struct pool_spec s = infer_spec();
    struct sched *sched;
    struct err e;

    (void)state;
    fake_reset();
    s.queue_requests = 3;
    s.queue_bytes = 1000;
    infer_open(&r, &fake_engine, &s, 1, false);
    sched = r.shards[0].sched[s.slot];
    assert_int_equal(admit(sched, 400, &e), ERR_OK);
    assert_int_equal(admit(sched, 601, &e), ERR_UNAVAILABLE);
    assert_non_null(strstr(e.text, "1000"));
    assert_int_equal(admit(sched, 600, &e), ERR_OK);
    assert_int_equal(admit(sched, 0, &e), ERR_OK);
    assert_int_equal(admit(sched, 0, &e), ERR_UNAVAILABLE);
    assert_non_null(strstr(e.text, "3 requests"));
    sched_release(sched, CLASS_CRITICAL, 600);
    assert_int_equal(admit(sched, 600, &e), ERR_OK);
    sched_release(sched, CLASS_CRITICAL, 600);
    sched_release(sched, CLASS_CRITICAL, 400);
    sched_release(sched, CLASS_CRITICAL, 0);
    close_rig(&r);
}

/* Higher classes first, in their order; every ADMISSION_FLOOR-th is the oldest of all. */
static void classes(void **state)
{
    enum { ALL = 40 };
    struct infer_rig r;
    unsigned first_critical = UINT32_MAX, last_critical = 0, sheddable_before = 0;

    (void)state;
    open_rig(&r, 1, 1);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < ALL; i++) { /* the first two go to the engine at once */
        q[i].class = i < 12 ? CLASS_SHEDDABLE : CLASS_CRITICAL;
        send(&r, i, (float)i, 0);
        if (i == 1) {
            infer_turns(&r, 5);
        }
    }
    atomic_store(&fake.hold, false);
    fake_go();
    for (unsigned i = 0; i < ALL; i++) {
        INFER_UNTIL(&r, q[i].n_done == 1);
        assert_int_equal(q[i].err.code, ERR_OK);
    }
    for (unsigned i = 12; i < ALL; i++) {
        first_critical = MIN(first_critical, q[i].order);
        last_critical = MAX(last_critical, q[i].order);
        assert_true(i == 12 || q[i].order > q[i - 1].order);
    }
    for (unsigned i = 2; i < 12; i++) {
        sheddable_before += q[i].order < last_critical;
        assert_true(i == 2 || q[i].order > q[i - 1].order);
    }
    assert_true(first_critical < q[2].order);
    assert_in_range(sheddable_before, 1, ALL / ADMISSION_FLOOR); /* the floor, and no more than it */
    close_rig(&r);
}

/* Alone on its device it may have all credits; beside another that has work, its share, and never less than one. */
static void a_lane(void **state)
{
    static struct device_lane lane;
    struct pool_spec s = infer_spec();
    struct infer_rig r;

    (void)state;
    fake_reset();
    lane = (struct device_lane){.device = "cuda:0", .credits = 4};
    s.lane = &lane;
    infer_open(&r, &fake_engine, &s, 1, false);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 12; i++) {
        send(&r, i, (float)i, 0);
    }
    infer_turns(&r, 5);
    assert_int_equal(fake_counts().submits, 4);
    assert_int_equal(atomic_load(&lane.open), 4);
    assert_int_equal(atomic_load(&lane.active), 1);
    assert_false(lane_may(&lane, 4, 4));
    atomic_store(&lane.open, 3);
    assert_true(lane_may(&lane, 1, 1)); /* it is not the lane that is full ... */
    atomic_fetch_add(&lane.active, 1);
    assert_false(lane_may(&lane, 2, 2)); /* ... but its half of it */
    assert_true(lane_may(&lane, 2, 0));  /* a thread that has none may always have one, or nothing would ask again */
    atomic_fetch_sub(&lane.active, 1);
    atomic_store(&lane.open, 4);
    atomic_store(&fake.hold, false);
    fake_go();
    for (unsigned i = 0; i < 12; i++) {
        INFER_UNTIL(&r, q[i].n_done == 1);
        assert_true(q[i].right);
    }
    INFER_UNTIL(&r, atomic_load(&lane.active) == 0 && atomic_load(&lane.open) == 0);
    close_rig(&r);
}

/* What can not be done in time is refused at once, and is not run. */
static void predicted_too_late(void **state)
{
    enum { AHEAD = 8 };
    struct infer_rig r;
    unsigned submits;

    (void)state;
    open_rig(&r, 1, 1);
    atomic_store(&fake.run_us, MILLIS(10));
    for (unsigned i = 0; i < 3; i++) { /* it learns how long a run takes */
        assert_int_equal(infer_send(&r, &q[i], 0, 1, 1, 0), ERR_OK);
        INFER_UNTIL(&r, q[i].n_done == 1);
    }
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < AHEAD; i++) {
        assert_int_equal(infer_send(&r, &q[i], 0, 1, 1, 0), ERR_OK);
    }
    infer_turns(&r, 5);
    submits = fake_counts().submits;
    assert_int_equal(infer_send(&r, &q[AHEAD], 0, 1, 1, MILLIS(1)), ERR_UNAVAILABLE);
    assert_non_null(strstr(q[AHEAD].err.text, "deadline"));
    assert_true(q[AHEAD].wait_us > MILLIS(1));
    assert_int_equal(infer_send(&r, &q[AHEAD], 0, 1, 1, SECONDS(60)), ERR_OK);
    assert_int_equal(fake_counts().submits, submits);
    atomic_store(&fake.hold, false);
    fake_go();
    for (unsigned i = 0; i <= AHEAD; i++) {
        INFER_UNTIL(&r, q[i].n_done == 1);
        assert_int_equal(q[i].err.code, ERR_OK);
    }
    close_rig(&r);
}

static void a_full_window(void **state)
{
    struct infer_rig r;
    struct sched *sched;
    uint64_t a, b;

    (void)state;
    open_rig(&r, 1, 8);
    sched = r.shards[0].sched[infer_spec().slot];
    a = sched_take(sched, infer_spec().part_bytes / 2);
    b = sched_take(sched, infer_spec().part_bytes / 2);
    assert_true(a != WINDOW_NONE && b != WINDOW_NONE);
    assert_int_equal(sched_take(sched, 1), WINDOW_NONE);
    sched_give(sched, a);
    assert_int_equal(sched_take(sched, 1), a);
    sched_give(sched, a);
    sched_give(sched, b);
    close_rig(&r);
}

/* ---- deadlines and cancels ---- */

static void deadline_while_waiting(void **state)
{
    struct infer_rig r;
    uint64_t began;

    (void)state;
    open_rig(&r, 1, 1); /* credit 2 */
    atomic_store(&fake.hold, true);
    send(&r, 0, 0, 0);
    send(&r, 1, 1, 0);
    began = clock_us();
    send(&r, 2, 2, MILLIS(60));
    send(&r, 3, 3, SECONDS(10));
    INFER_UNTIL(&r, q[2].n_done);
    assert_int_equal(q[2].err.code, ERR_TIMEOUT);
    assert_in_range(q[2].answered_us - began, MILLIS(60), MILLIS(400));
    assert_true(!q[0].n_done && !q[1].n_done && !q[3].n_done);
    fake_go();
    INFER_UNTIL(&r, all_done(0, 4));
    assert_int_equal(fake_counts().submits, 3); /* it never reached the engine */
    assert_true(q[0].right && q[1].right && q[3].right);
    assert_int_equal(q[2].n_done, 1);
    close_rig(&r);
}

static void deadline_while_running(void **state)
{
    struct infer_rig r;
    const struct sched_shared *sh;
    uint64_t began;

    (void)state;
    open_rig(&r, 1, 1);
    sh = pool_shared(r.pool);
    atomic_store(&fake.hold, true);
    began = clock_us();
    send(&r, 0, 0, MILLIS(60));
    INFER_UNTIL(&r, q[0].n_done);
    assert_int_equal(q[0].err.code, ERR_TIMEOUT);
    assert_in_range(q[0].answered_us - began, MILLIS(60), MILLIS(400));
    assert_true(window_used(sh->in, 0) > 0); /* the engine still reads it */
    assert_int_equal(atomic_load(&sh->load[0].open), 1);
    assert_int_equal(fake_counts().cancels, 0);
    INFER_UNTIL(&r, fake_counts().cancels > 0);
    assert_true(clock_us() - began > MILLIS(1000)); /* a hang is not called so before a second over the deadline */
    fake_go();
    INFER_UNTIL(&r, window_used(sh->in, 0) == 0);
    assert_int_equal(q[0].n_done, 1);
    close_rig(&r);
}

static void cancelled_while_waiting(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 1);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 4; i++) {
        send(&r, i, (float)i, 0);
    }
    infer_turns(&r, 5);
    assert_int_equal(fake_counts().submits, 2);
    sched_cancel(&q[2].infer);
    fake_go(); /* at once, so that its turn comes before any sweep */
    INFER_UNTIL(&r, q[3].n_done);
    assert_int_equal(fake_counts().submits, 3); /* nobody computes for one who left */
    INFER_UNTIL(&r, window_used(pool_shared(r.pool)->in, 0) == 0);
    assert_int_equal(q[2].n_done, 0);
    sched_release(r.shards[0].sched[infer_spec().slot], q[2].class, q[2].bytes);
    close_rig(&r);
}

static void cancelled_while_running(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 1);
    atomic_store(&fake.hold, true);
    send(&r, 0, 0, 0);
    infer_turns(&r, 5);
    sched_cancel(&q[0].infer);
    sched_cancel(&q[0].infer); /* a second time is nothing */
    assert_true(window_used(pool_shared(r.pool)->in, 0) > 0);
    fake_go();
    INFER_UNTIL(&r, window_used(pool_shared(r.pool)->in, 0) == 0);
    assert_int_equal(q[0].n_done, 0);
    sched_release(r.shards[0].sched[infer_spec().slot], q[0].class, q[0].bytes);
    close_rig(&r);
}

/* Owners that act inside done(): the first to time out cancels the second and sends a new one. */
static void cancel_the_next(struct infer_req *me)
{
    struct infer_req *other = me->ctx;

    sched_cancel(&other->infer);
    sched_release(me->rig->shards[0].sched[infer_spec().slot], other->class, other->bytes);
    assert_int_equal(infer_send(me->rig, &q[10], 0, 10, 1, 0), ERR_OK);
}

static void owners_act_inside_done(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 1);
    atomic_store(&fake.hold, true);
    q[2].then = cancel_the_next;
    q[2].ctx = &q[3];
    send(&r, 0, 0, 0);
    send(&r, 1, 1, 0);
    send(&r, 2, 2, MILLIS(50));
    send(&r, 3, 3, MILLIS(50));
    INFER_UNTIL(&r, q[2].n_done);
    infer_turns(&r, 60);
    fake_go();
    INFER_UNTIL(&r, q[0].n_done && q[1].n_done && q[10].n_done);
    assert_int_equal(q[3].n_done, 0);
    assert_true(q[10].right);
    close_rig(&r);
}

/* ---- deaths ---- */

static void retried_in_order(void **state)
{
    struct infer_rig r;
    struct fake_seen seen[N];

    (void)state;
    open_rig(&r, 1, 8);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 24; i++) { /* credit 16: some are out, some wait here */
        send(&r, i, (float)i, SECONDS(20));
    }
    infer_turns(&r, 10);
    assert_int_equal(fake_counts().submits, 16);
    fake_log_clear();
    fake_kill(0, false);
    INFER_UNTIL(&r, fake_counts().opened == 2 && fake_counts().submits == 32);
    assert_int_equal(fake_log(seen, N), 16);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(seen[i].nth, 1);
        assert_int_equal(seen[i].flags, 0); /* nobody is suspected */
        assert_true(seen[i].value == (float)i);
    }
    fake_go();
    INFER_UNTIL(&r, all_done(0, 24));
    all_right(0, 24);
    for (unsigned i = 0; i < 24; i++) {
        assert_int_equal(q[i].deaths, i < 16);
    }
    assert_int_equal(atomic_load(&pool_shared(r.pool)->retried), 16);
    assert_int_equal(atomic_load(&pool_shared(r.pool)->answered), 24);
    close_rig(&r);
}

static void suspects_run_alone(void **state)
{
    struct infer_rig r;
    struct fake_seen seen[N];

    (void)state;
    open_rig(&r, 1, 4);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(infer_send(&r, &q[i], 0, (float)i, 1, 0), ERR_OK);
    }
    infer_turns(&r, 10);
    fake_log_clear();
    fake_kill(0, true); /* 0-3 were running, 4-7 waiting */
    INFER_UNTIL(&r, fake_counts().submits == 16);
    assert_int_equal(fake_log(seen, N), 8);
    for (unsigned i = 0; i < 8; i++) {
        assert_true(seen[i].value == (float)i);
        assert_int_equal(seen[i].flags, i < 4 ? JOB_SOLO : 0);
    }
    fake_go();
    INFER_UNTIL(&r, all_done(0, 8));
    all_right(0, 8);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(q[i].joined, i < 4 ? 1 : 4);
    }
    close_rig(&r);
}

static void another_instance_takes_over(void **state)
{
    struct infer_rig r;
    uint64_t began;

    (void)state;
    open_rig(&r, 2, 8);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 10; i++) {
        send(&r, i, (float)i, 0);
    }
    infer_turns(&r, 10);
    atomic_store(&fake.ready_us, SECONDS(5)); /* the restart takes long */
    atomic_store(&fake.hold, false);
    began = clock_us();
    fake_kill(0, true);
    fake_go();
    INFER_UNTIL(&r, all_done(0, 10));
    assert_true(clock_us() - began < SECONDS(2));
    all_right(0, 10);
    assert_int_equal(atomic_load(&pool_shared(r.pool)->instances_up), 1);
    close_rig(&r);
}

static void waits_for_the_restart(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 8);
    atomic_store(&fake.ready_us, MILLIS(150));
    fake_kill(0, false);
    INFER_UNTIL(&r, atomic_load(&pool_shared(r.pool)->instances_up) == 0);
    send(&r, 0, 0, MILLIS(50)); /* has not the time */
    send(&r, 1, 1, SECONDS(10));
    INFER_UNTIL(&r, all_done(0, 2));
    assert_int_equal(q[0].err.code, ERR_TIMEOUT);
    assert_string_equal(q[0].err.text, "the deadline passed while every instance of add/1 was away");
    all_right(1, 2);
    close_rig(&r);
}

static void query_of_death(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 8);
    atomic_store(&fake.poison, 666);
    send(&r, 0, 666, 0);
    INFER_UNTIL(&r, q[0].n_done);
    assert_int_equal(q[0].err.code, ERR_MODEL);
    assert_int_equal(q[0].deaths, 2);
    assert_false(q[0].moved);
    assert_int_equal(fake_counts().opened >= 2, 1);
    /* the same bytes are refused now, others are not */
    assert_int_equal(infer_send(&r, &q[0], 0, 666, 1, 0), ERR_REFUSED);
    assert_non_null(strstr(q[0].err.text, "add/1"));
    assert_int_equal(infer_send(&r, &q[1], 0, 667, 1, 0), ERR_OK);
    assert_int_equal(infer_send(&r, &q[2], 0, 665, 2, 0), ERR_OK);
    INFER_UNTIL(&r, all_done(1, 3));
    all_right(1, 3);
    close_rig(&r);
}

static void poison_does_not_convict_its_neighbours(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 8);
    atomic_store(&fake.poison, 666);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(infer_send(&r, &q[i], 0, i == 3 ? 666 : (float)i, 1, SECONDS(20)), ERR_OK);
    }
    INFER_UNTIL(&r, all_done(0, 8));
    assert_int_equal(q[3].err.code, ERR_MODEL);
    assert_int_equal(q[3].deaths, 3); /* once together, twice alone */
    all_right(0, 3);
    all_right(4, 8);
    assert_int_equal(r.sick, 0);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(infer_send(&r, &q[i], 0, i == 3 ? 666 : (float)i, 1, 0), i == 3 ? ERR_REFUSED : ERR_OK);
    }
    INFER_UNTIL(&r, all_done(0, 3) && all_done(4, 8));
    close_rig(&r);
}

static void outside_deaths_convict_nobody(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 8);
    atomic_store(&fake.hold, true);
    send(&r, 0, 5, 0);
    for (unsigned i = 0; i < 5; i++) {
        INFER_UNTIL(&r, fake_counts().submits == i + 1);
        infer_turns(&r, 5);
        fake_kill(i, false);
    }
    fake_go();
    INFER_UNTIL(&r, q[0].n_done);
    all_right(0, 1);
    assert_int_equal(q[0].deaths, 5);
    close_rig(&r);
}

static void who_only_waited_is_not_convicted(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 1); /* credit 2, one runs */
    atomic_store(&fake.hold, true);
    send(&r, 0, 5, MILLIS(20)); /* times out, and its run goes on */
    send(&r, 1, 6, 0);
    for (unsigned i = 0; i < 3; i++) {
        INFER_UNTIL(&r, i > 0 || q[0].n_done);
        fake_kill(i, true);
        INFER_UNTIL(&r, fake_counts().opened == i + 2 && atomic_load(&pool_shared(r.pool)->instances_up) == 1);
        INFER_UNTIL(&r, atomic_load(&pool_shared(r.pool)->load[0].open) == 1 || q[1].n_done);
        infer_turns(&r, 10);
        if (i == 0) {
            assert_int_equal(q[1].n_done, 0);
            assert_int_equal(q[1].infer.work != NULL, 1);
        }
        if (i == 1) { /* it ran alone for the first time at death 1 */
            assert_int_equal(q[1].n_done, 0);
        }
        if (i == 2) {
            break;
        }
    }
    /* death 0: waiting. deaths 1 and 2: alone. Then it is convicted, and not before. */
    INFER_UNTIL(&r, q[1].n_done);
    assert_int_equal(q[1].err.code, ERR_MODEL);
    assert_int_equal(q[1].deaths, 3);
    fake_go();
    close_rig(&r);
}

/* Its client has its answer, and its run then ends the worker: twice, and it is refused like any other. */
static void who_was_answered_before_is_convicted(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 8);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(infer_send(&r, &q[i], 0, 5, 1, MILLIS(20)), ERR_OK);
        INFER_UNTIL(&r, q[i].n_done);
        assert_int_equal(q[i].err.code, ERR_TIMEOUT);
        fake_kill(i, true);
        INFER_UNTIL(&r, fake_counts().opened == i + 2 && atomic_load(&pool_shared(r.pool)->instances_up) == 1);
    }
    assert_int_equal(infer_send(&r, &q[2], 0, 5, 1, 0), ERR_REFUSED);
    fake_go();
    assert_int_equal(infer_send(&r, &q[3], 0, 6, 1, 0), ERR_OK);
    INFER_UNTIL(&r, all_done(3, 4));
    all_right(3, 4);
    close_rig(&r);
}

/* ---- the end ---- */

static void drains(void **state)
{
    struct infer_rig r;

    (void)state;
    open_rig(&r, 1, 2);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < 10; i++) {
        send(&r, i, (float)i, 0);
    }
    infer_turns(&r, 5);
    pool_close(r.pool, SECONDS(20));
    infer_turns(&r, 50);
    assert_int_equal(r.closed, 0);
    fake_go();
    INFER_UNTIL(&r, r.closed);
    all_right(0, 10);
    infer_close(&r, 0);
}

static void sched_of(struct infer_rig *r, unsigned n, unsigned instances, unsigned batch_max)
{
    open_rig(r, instances, batch_max);
    atomic_store(&fake.hold, true);
    for (unsigned i = 0; i < n; i++) {
        send(r, i, (float)i, 0);
    }
    infer_turns(r, 5);
}

static void all_moved(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(q[i].n_done, 1);
        assert_int_equal(q[i].err.code, ERR_UNAVAILABLE);
        assert_true(q[i].moved);
    }
}

static void abandons(void **state)
{
    struct infer_rig r;

    (void)state;
    sched_of(&r, 10, 1, 2);
    pool_close(r.pool, MILLIS(50));
    INFER_UNTIL(&r, r.closed);
    all_moved(10); /* the running ones, too: their engine was closed */
    assert_int_equal(fake_counts().closes, 1);
    infer_close(&r, 0);
}

/* Nothing will ever run what waits: it is moved at once, not at the end of the drain. */
static void nobody_left_to_drain_into(void **state)
{
    struct infer_rig r;
    uint64_t began = clock_us();

    (void)state;
    sched_of(&r, 10, 2, 2);
    pool_close(r.pool, SECONDS(25));
    infer_turns(&r, 5);
    fake_kill(0, false);
    infer_turns(&r, 20);
    assert_int_equal(r.closed, 0); /* the other one may still do it */
    fake_kill(1, false);
    INFER_UNTIL(&r, r.closed);
    assert_true(clock_us() - began < SECONDS(10));
    all_moved(10);
    infer_close(&r, 0);
}

static void closed_while_down(void **state)
{
    struct infer_rig r;
    uint64_t began = clock_us();

    (void)state;
    sched_of(&r, 3, 1, 2);
    atomic_store(&fake.ready_us, SECONDS(5));
    fake_kill(0, false);
    INFER_UNTIL(&r, fake_counts().opened == 2);
    pool_close(r.pool, SECONDS(25));
    INFER_UNTIL(&r, r.closed);
    assert_true(clock_us() - began < SECONDS(4));
    all_moved(3);
    infer_close(&r, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers),
        cmocka_unit_test(a_result_says_when_and_where),
        cmocka_unit_test(a_burst_goes_together),
        cmocka_unit_test(credit_bounds_what_is_out),
        cmocka_unit_test(least_loaded_first),
        cmocka_unit_test(admission),
        cmocka_unit_test(classes),
        cmocka_unit_test(a_lane),
        cmocka_unit_test(predicted_too_late),
        cmocka_unit_test(a_full_window),
        cmocka_unit_test(deadline_while_waiting),
        cmocka_unit_test(deadline_while_running),
        cmocka_unit_test(cancelled_while_waiting),
        cmocka_unit_test(cancelled_while_running),
        cmocka_unit_test(owners_act_inside_done),
        cmocka_unit_test(retried_in_order),
        cmocka_unit_test(suspects_run_alone),
        cmocka_unit_test(another_instance_takes_over),
        cmocka_unit_test(waits_for_the_restart),
        cmocka_unit_test(query_of_death),
        cmocka_unit_test(poison_does_not_convict_its_neighbours),
        cmocka_unit_test(outside_deaths_convict_nobody),
        cmocka_unit_test(who_only_waited_is_not_convicted),
        cmocka_unit_test(who_was_answered_before_is_convicted),
        cmocka_unit_test(drains),
        cmocka_unit_test(abandons),
        cmocka_unit_test(nobody_left_to_drain_into),
        cmocka_unit_test(closed_while_down),
        cmocka_unit_test(a_full_port_is_waited_for),
        cmocka_unit_test(a_full_port_does_not_block_another),
    };

    return cmocka_run_group_tests_name("sched", tests, NULL, NULL);
}
