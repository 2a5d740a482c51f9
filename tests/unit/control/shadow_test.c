/* SPDX-License-Identifier: Apache-2.0 */
/* A shadow's life: begun, changed and ended durably, in the router's picture while it runs, and over by itself when its
 * version takes traffic. */
#include <stdio.h>
#include <stdlib.h>

#include "support/control_rig.h"
#include "support/fake_engine.h"
#include "support/store_help.h"

static struct answer start(int64_t number, uint32_t share_bp)
{
    struct version *v = model_version(model(), number);
    struct answer a = {0};

    WAIT(!v || !v->pool || v->state == VERSION_READY); /* not just on its way out */
    control_shadow_start(rig.control, MODEL, number, share_bp, STR("test"), answered, &a);
    WAIT(a.n);
    return a;
}

static struct answer stop(void)
{
    struct answer a = {0};

    control_shadow_stop(rig.control, MODEL, STR("test"), answered, &a);
    WAIT(a.n);
    return a;
}

/* What a connection thread sees; 0: no shadow. */
static int64_t routed(void)
{
    const struct route *t = router_find(control_router(rig.control), MODEL);

    return t->shadow ? t->versions[t->shadowed].number : 0;
}

static void two_versions(void)
{
    push_ok("one", 1);
    push_ok("two", 2);
}

static void a_shadow_survives_a_restart(void **state)
{
    struct shadow_row row;

    (void)state;
    two_versions();
    push_ok("three", 3); /* the newest: version 2 is loaded for its shadow alone */
    assert_int_equal(routed(), 0);
    assert_int_equal(start(2, 2500).err.code, ERR_OK);
    assert_int_equal(routed(), 2);
    assert_true(shadow_running(model()));
    row = model()->shadow_row;
    assert_int_equal(row.share_bp, 2500);
    close_control();
    open_control();
    assert_string_equal(model()->shadow_row.id, row.id);
    assert_int_equal(model()->shadow_row.version, 2);
    assert_int_equal(model()->shadow_row.share_bp, 2500);
    WAIT(model_version(model(), 2)->state == VERSION_READY);
    assert_int_equal(routed(), 2);
    assert_int_equal(stop().err.code, ERR_OK);
    assert_int_equal(routed(), 0);
    assert_non_null(model()->shadow); /* what it has counted can still be seen */
    assert_int_equal(stop().err.code, ERR_CONFLICT);
    WAIT(model_version(model(), 2)->state == VERSION_REGISTERED);
    close_control();
    open_control();
    assert_int_equal(model()->shadow_row.version, 0);
    assert_int_equal(routed(), 0);
}

static void a_lazy_familys_shadow_is_loaded_at_the_start(void **state)
{
    (void)state;
    two_versions();
    assert_int_equal(start(2, 1000).err.code, ERR_OK);
    close_control();
    rig.family.load = LOAD_LAZY;
    open_control();
    WAIT(model_version(model(), 2)->state == VERSION_READY);
    assert_int_equal(model_version(model(), 1)->state, VERSION_COLD);
}

static void what_takes_traffic_is_no_shadow(void **state)
{
    struct answer a;

    (void)state;
    two_versions();
    assert_int_equal(start(1, 1000).err.code, ERR_CONFLICT);
    assert_int_equal(start(7, 1000).err.code, ERR_NOT_FOUND);
    rollout_ok(2);
    a = start(2, 1000);
    assert_int_equal(a.err.code, ERR_CONFLICT);
    assert_non_null(strstr(a.err.text, "takes traffic itself"));
    a.n = 0;
    control_shadow_start(rig.control, STR("nobody"), 1, 1000, STR("test"), answered, &a);
    assert_int_equal(a.err.code, ERR_NOT_FOUND);
}

static void a_version_with_other_outputs_is_refused(void **state)
{
    (void)state;
    push_ok("one", 1);
    atomic_store(&fake.narrow, true);
    push_ok("two", 2);
    assert_int_equal(start(2, 1000).err.code, ERR_REFUSED);
    assert_int_equal(routed(), 0);
}

static void another_shadow_takes_the_place_of_the_first(void **state)
{
    char id[40];

    (void)state;
    two_versions();
    push_ok("three", 3);
    assert_int_equal(start(2, 1000).err.code, ERR_OK);
    snprintf(id, sizeof(id), "%s", model()->shadow_row.id);
    assert_int_equal(start(3, 10000).err.code, ERR_OK);
    assert_int_equal(routed(), 3);
    assert_string_not_equal(model()->shadow_row.id, id); /* another purpose, another salt */
    assert_int_equal(shadow_copied(model()->shadow), 0);
}

static struct history_row last_told;
static unsigned n_stopped;

static void on_told(void *ctx, const struct history_row *row)
{
    (void)ctx;
    if (strcmp(row->kind, "shadow_stopped") == 0) {
        last_told = *row;
        n_stopped++;
    }
}

static void listen(void)
{
    n_stopped = 0;
    close_control();
    rig.told = on_told;
    open_control();
    rig.told = NULL;
}

static void it_ends_when_its_version_begins_to_take_traffic(void **state)
{
    (void)state;
    two_versions();
    listen();
    assert_int_equal(start(2, 1000).err.code, ERR_OK);
    rollout_ok(2);
    assert_int_equal(routed(), 0); /* at once */
    WAIT(n_stopped == 1);
    assert_int_equal(model()->shadow_row.version, 0);
    assert_non_null(strstr(last_told.text, "it takes traffic in a rollout"));
    assert_string_equal(last_told.actor, "weir");
    close_control();
    open_control();
    assert_int_equal(model()->shadow_row.version, 0);
}

static void it_ends_when_its_version_is_promoted_or_rolled_back_to(void **state)
{
    struct answer back = {0};

    (void)state;
    two_versions();
    listen();
    assert_int_equal(start(2, 1000).err.code, ERR_OK);
    promote_ok(2);
    assert_int_equal(routed(), 0);
    WAIT(n_stopped == 1);
    assert_int_equal(start(1, 1000).err.code, ERR_OK); /* the one before is a shadow like any other */
    assert_int_equal(routed(), 1);
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back);
    assert_int_equal(routed(), 0);
    WAIT(back.n && n_stopped == 2);
    assert_int_equal(model()->shadow_row.version, 0);
}

/* The version is stable in the store, and the shadow's end is not there: as after a crash between the two. */
static void what_a_crash_left_between_is_ended_at_the_start(void **state)
{
    struct shadow_row row = {.id = "s-0123456789ab", .model = "add", .version = 1, .share_bp = 1000, .started_ms = 42};
    struct history_row line = {.at_ms = 43, .model = "add", .kind = "shadow_started", .actor = "admin"};
    struct err e;

    (void)state;
    two_versions();
    close_control();
    assert_int_equal(on_apply(rig.store, &(struct store_change){.shadow = &row, .history = &line}, &e), ERR_OK);
    n_stopped = 0;
    rig.told = on_told;
    open_control();
    rig.told = NULL;
    assert_int_equal(routed(), 0);
    WAIT(n_stopped == 1);
    assert_int_equal(model()->shadow_row.version, 0);
}

static void a_request_is_chosen_by_its_id_and_the_shadows_own_salt(void **state)
{
    struct shadow_row row = {.id = "s-0123456789ab", .version = 2, .share_bp = 3000};
    struct shadow *s = shadow_new(1, &row, 1);
    int chosen = 0;

    (void)state;
    for (int i = 0; i < 10000; i++) {
        char id[24];
        int n = snprintf(id, sizeof(id), "%d", i);
        bool wants = shadow_wants(s, (struct str){id, (size_t)n});

        assert_true(wants == (assignment_bucket("s-0123456789ab", (struct str){id, (size_t)n}) < 3000));
        chosen += wants;
    }
    assert_in_range(chosen, 2800, 3200);
    shadow_free(s);
}

static void noise_is_made_often_at_first(void **state)
{
    struct shadow_row row = {.share_bp = 10000};
    struct shadow *s = shadow_new(1, &row, 1);
    int noise = 0;

    (void)state;
    assert_true(shadow_begin(s, 0)); /* from the first on there is some */
    for (int i = 1; i < 1000; i++) {
        noise += shadow_begin(s, 0);
    }
    assert_int_equal(noise, 99);
    for (int i = 1000; i < 11000; i++) {
        noise += shadow_begin(s, 0);
    }
    assert_int_equal(noise, 99 + 100);
    assert_int_equal(shadow_copied(s), 11000);
    shadow_free(s);
}

static struct shadow_sum *summed;

static void on_sum(void *ctx, const struct shadow_sum *sum)
{
    (void)ctx;
    summed = malloc(sizeof(*summed));
    *summed = *sum;
}

static void count_pair(unsigned part, enum shadow_run run)
{
    struct diff_pair p;
    double y = 1, x = 2;

    diff_begin(&p, shadow_diff(model()->shadow, part, run), STR("id"));
    diff_numbers(&p, STR("y"), &y, &x, 1, 1, true);
    diff_end(&p);
}

static void all_threads_are_added_up(void **state)
{
    (void)state;
    two_versions();
    assert_int_equal(start(2, 1000).err.code, ERR_OK);
    count_pair(0, SHADOW_CANDIDATE);
    count_pair(1, SHADOW_CANDIDATE);
    count_pair(1, SHADOW_NOISE);
    shadow_count(model()->shadow, 0, SHADOW_CANDIDATE, SHADOW_FULL);
    shadow_count(model()->shadow, 1, SHADOW_CANDIDATE, SHADOW_FULL);
    assert_int_equal(shadow_total(model()->shadow, SHADOW_CANDIDATE, SHADOW_FULL), 2);
    control_shadow_sum(model(), on_sum, NULL);
    assert_int_equal(start(2, 2000).err.code, ERR_OK); /* replaced while the sum is under way */
    WAIT(summed);
    assert_int_equal(summed->diff[SHADOW_CANDIDATE].pairs, 2);
    assert_int_equal(summed->diff[SHADOW_NOISE].pairs, 1);
    free(summed);
    summed = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_shadow_survives_a_restart, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_lazy_familys_shadow_is_loaded_at_the_start, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(what_takes_traffic_is_no_shadow, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_version_with_other_outputs_is_refused, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(another_shadow_takes_the_place_of_the_first, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(it_ends_when_its_version_begins_to_take_traffic, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(it_ends_when_its_version_is_promoted_or_rolled_back_to, rig_setup,
                                        rig_teardown),
        cmocka_unit_test_setup_teardown(what_a_crash_left_between_is_ended_at_the_start, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(all_threads_are_added_up, rig_setup, rig_teardown),
        cmocka_unit_test(a_request_is_chosen_by_its_id_and_the_shadows_own_salt),
        cmocka_unit_test(noise_is_made_often_at_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
