/* SPDX-License-Identifier: Apache-2.0 */
/* What comes in the middle of something else: a rollback while a change is being written, a change behind a rollback
 * that can not be written, an unloading while somebody waits for the load, an end of the server in each of these.
 *
 * The store is the real one, stopped where a test wants it by a job that waits; the engines are fakes. */
#include "support/control_rig.h"
#include "support/fake_engine.h"

/* What the store says is what the control thread thinks, and a new start thinks the same. */
static void assert_same_after_restart(void)
{
    struct model_row row;
    struct rollout_row rollout;
    size_t n = model()->n_versions;

    WAIT(!model()->undo && !model()->changing);
    row = model()->row;
    rollout = model()->rollout;
    close_control();
    open_control();
    assert_int_equal(model()->row.stable, row.stable);
    assert_int_equal(model()->row.previous, row.previous);
    assert_int_equal(model()->n_versions, n);
    assert_true(rollout_running(model()) == (rollout.id[0] && rollout.state == ROLLOUT_RUNNING));
    if (rollout_running(model())) {
        assert_string_equal(model()->rollout.id, rollout.id);
        assert_int_equal(model()->rollout.share_bp, rollout.share_bp);
    }
}

/* ---- a rollback in the middle of a change's write ---- */

static void a_start_that_is_overtaken_by_a_rollback_never_was(void **state)
{
    struct answer start = {0}, back = {0};

    (void)state;
    push_ok("one", 1);
    push_ok("two", 2);
    push_ok("three", 3);
    rollout_ok(2);
    store_hold();
    control_rollout_start(rig.control, MODEL, 3, manual(5000), false, STR("test"), answered, &start);
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back);
    assert_false(rollout_running(model())); /* in force at once */
    WAIT(back.n);
    assert_int_equal(back.err.code, ERR_OK);
    assert_false(back.durable);
    assert_int_equal(start.n, 0);
    store_go();
    WAIT(start.n);
    assert_int_equal(start.err.code, ERR_CONFLICT);
    assert_false(rollout_running(model()));
    rollout_ok(3); /* nothing runs in the store either */
    assert_same_after_restart();
    assert_int_equal(back.n, 1);
    assert_int_equal(start.n, 1);
}

static void a_promotion_a_share_overtaken_by_a_rollback_never_were(void **state)
{
    struct answer change[2] = {{0}}, back[2] = {{0}};

    (void)state;
    push_ok("one", 1);
    push_ok("two", 2);
    for (int i = 0; i < 2; i++) {
        rollout_ok(2);
        store_hold();
        if (i == 0) {
            control_promote(rig.control, MODEL, 0, STR("test"), answered, &change[i]);
        } else {
            control_rollout_event(rig.control, MODEL, EVENT_SET, 10000, STR("test"), answered, &change[i]);
        }
        control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back[i]);
        store_go();
        WAIT(change[i].n && back[i].n);
        assert_int_equal(change[i].err.code, ERR_CONFLICT);
        assert_int_equal(model()->row.stable, 1);
        assert_same_after_restart();
    }
}

static void a_version_whose_canary_is_overtaken_by_a_rollback_is_registered(void **state)
{
    struct answer push, back = {0};

    (void)state;
    push_ok("one", 1);
    push_ok("two", 2);
    promote_ok(2);
    atomic_store(&fake.ready_us, MILLIS(20));
    push_start(&push, "three", manual(1000));
    WAIT(fake_counts().opened == 3); /* it loads: all that is left to write is its row */
    store_hold();
    WAIT(model()->changing);
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back);
    assert_int_equal(model()->row.stable, 1);
    store_go();
    WAIT(push.n && back.n);
    assert_int_equal(push.err.code, ERR_CONFLICT);
    assert_non_null(model_version(model(), 3)); /* it is in the store: also here */
    assert_false(rollout_running(model()));
    push_ok("four", 4);
    rollout_ok(3);
    assert_same_after_restart();
}

static void a_push_without_a_canary_does_not_mind_a_rollback(void **state)
{
    struct answer push, back = {0};

    (void)state;
    push_ok("one", 1);
    push_ok("two", 2);
    promote_ok(2);
    atomic_store(&fake.ready_us, MILLIS(20));
    push_start(&push, "three", NULL);
    WAIT(fake_counts().opened == 3);
    store_hold();
    WAIT(model()->changing);
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back);
    store_go();
    WAIT(push.n && back.n);
    assert_int_equal(push.err.code, ERR_OK);
    assert_int_equal(push.number, 3);
    assert_same_after_restart();
}

/* ---- a store that can not write ---- */

static void behind_a_rollback_that_can_not_be_written_nothing_waits(void **state)
{
    struct answer back[2] = {{0}}, waits = {0}, later = {0};

    (void)state;
    push_ok("one", 1);
    push_ok("two", 2);
    promote_ok(2);
    push_ok("three", 3);
    rollout_ok(3);
    store_broken();
    store_hold();
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back[0]);
    control_rollout_event(rig.control, MODEL, EVENT_SET, 1, STR("test"), answered, &waits);
    assert_int_equal(waits.n, 0);
    store_go();
    WAIT(back[0].n && waits.n);
    assert_int_equal(back[0].err.code, ERR_OK);
    assert_false(back[0].durable);
    assert_int_equal(waits.err.code, ERR_STORAGE);
    control_promote(rig.control, MODEL, 3, STR("test"), answered, &later);
    assert_int_equal(later.err.code, ERR_STORAGE);
    assert_int_equal(model()->row.stable, 2);
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back[1]); /* goes on working */
    assert_int_equal(model()->row.stable, 1);
    WAIT(back[1].n);
    assert_int_equal(back[1].err.code, ERR_OK);
    assert_false(back[1].durable);
    assert_int_equal(back[0].n, 1);
}

/* ---- loads that somebody waits for ---- */

/* 3 is stable, 2 was before it, and 1 is neither of them nor the newest: it is not loaded. */
static void three_versions(void)
{
    push_ok("one", 1);
    push_ok("two", 2);
    promote_ok(2);
    push_ok("three", 3);
    promote_ok(3);
    WAIT(!model_version(model(), 1)->pool);
}

static void a_rollout_of_an_old_version_waits_for_its_load_whatever_happens_meanwhile(void **state)
{
    struct answer start = {0}, back = {0};

    (void)state;
    three_versions();
    atomic_store(&fake.ready_us, MILLIS(200));
    control_rollout_start(rig.control, MODEL, 1, manual(1000), false, STR("test"), answered, &start);
    WAIT(model_version(model(), 1)->pool);
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back); /* sorts out what is to be loaded */
    WAIT(start.n);
    assert_int_equal(start.err.code, ERR_OK);
    assert_true(rollout_running(model()) && model()->rollout.canary == 1);
    assert_int_equal(start.n, 1);
}

static void a_refused_start_does_not_keep_the_version_loaded(void **state)
{
    struct answer start = {0};

    (void)state;
    three_versions();
    atomic_store(&fake.narrow, true); /* another signature than the stable one's */
    control_rollout_start(rig.control, MODEL, 1, manual(1000), false, STR("test"), answered, &start);
    WAIT(start.n);
    assert_int_equal(start.err.code, ERR_REFUSED);
    WAIT(!model_version(model(), 1)->pool);
}

static void a_start_whose_load_fails_says_why(void **state)
{
    struct answer start = {0};

    (void)state;
    three_versions();
    atomic_store(&fake.fail_load, 1);
    control_rollout_start(rig.control, MODEL, 1, manual(1000), false, STR("test"), answered, &start);
    WAIT(start.n);
    assert_int_equal(start.err.code, ERR_REFUSED);
    WAIT(!model_version(model(), 1)->pool);
    assert_int_equal(model_version(model(), 1)->state, VERSION_FAILED);
    rollout_ok(1); /* a second try is a new load */
}

/* ---- the end of the server ---- */

static void an_end_in_the_middle_of_a_load_is_told(void **state)
{
    struct answer push, start = {0};

    (void)state;
    three_versions();
    atomic_store(&fake.ready_us, SECONDS(20));
    push_start(&push, "four", NULL);
    control_rollout_start(rig.control, MODEL, 1, manual(1000), false, STR("test"), answered, &start);
    WAIT(fake_counts().living == 4);
    close_control();
    assert_int_equal(push.n, 1);
    assert_int_equal(push.err.code, ERR_UNAVAILABLE);
    assert_int_equal(start.n, 1);
    assert_int_equal(start.err.code, ERR_UNAVAILABLE);
}

static void an_end_in_the_middle_of_a_write_is_survived(void **state)
{
    struct answer push, waits = {0};

    (void)state;
    push_ok("one", 1);
    atomic_store(&fake.ready_us, MILLIS(20));
    push_start(&push, "two", manual(1000));
    WAIT(fake_counts().opened == 2);
    store_hold();
    WAIT(model()->changing);
    control_rollout_event(rig.control, MODEL, EVENT_SET, 1, STR("test"), answered, &waits);
    control_stop(rig.control, 0, on_closed, &rig.closed);
    assert_int_equal(waits.err.code, ERR_UNAVAILABLE); /* it will not come to its turn */
    WAIT(rig.closed);                                  /* the new version's pool is gone, its row is not written yet */
    assert_int_equal(push.n, 0);
    store_go();
    WAIT(push.n);
    assert_int_equal(push.err.code, ERR_OK);
    run_dry();
    control_free(rig.control);
    open_control();
    assert_int_equal(model()->n_versions, 2);
    assert_true(rollout_running(model()));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_start_that_is_overtaken_by_a_rollback_never_was, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_promotion_a_share_overtaken_by_a_rollback_never_were, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(a_version_whose_canary_is_overtaken_by_a_rollback_is_registered, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(a_push_without_a_canary_does_not_mind_a_rollback, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(behind_a_rollback_that_can_not_be_written_nothing_waits, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(a_rollout_of_an_old_version_waits_for_its_load_whatever_happens_meanwhile,
                                        rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_refused_start_does_not_keep_the_version_loaded, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_start_whose_load_fails_says_why, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(an_end_in_the_middle_of_a_load_is_told, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(an_end_in_the_middle_of_a_write_is_survived, rig_setup, rig_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
