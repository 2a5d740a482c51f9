/* SPDX-License-Identifier: Apache-2.0 */
/* The router: published assignment vectors, stickiness, the right arm, and errors that say what there is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "control/router.h"

static void assignment_is_murmur3_of_salt_and_key(void **state)
{
    (void)state;
    assert_int_equal(assignment_bucket("exp42", STR("user-1")), 4351);
    assert_int_equal(assignment_bucket("exp42", STR("user-2")), 9043);
    assert_int_equal(assignment_bucket("exp42", STR("user-3")), 1825);
}

static void a_long_key_is_hashed_whole(void **state)
{
    char key[2000];

    (void)state;
    memset(key, 'k', sizeof(key));
    uint32_t a = assignment_bucket("s", (struct str){key, sizeof(key)});
    key[sizeof(key) - 1] = 'x';
    assert_int_not_equal(a, assignment_bucket("s", (struct str){key, sizeof(key)}));
}

static struct route *add_route(struct snapshot *s, const char *name, size_t n)
{
    struct route *t = calloc(1, sizeof(*t));

    snprintf(t->name, sizeof(t->name), "%s", name);
    t->versions = calloc(n, sizeof(t->versions[0]));
    t->n_versions = n;
    t->stable = t->canary = -1;
    for (size_t i = 0; i < n; i++) {
        t->versions[i] = (struct route_version){.number = (int64_t)i + 1, .slot = (int)i, .state = "ready"};
    }
    map_put(&s->routes, str_of(t->name), t);
    return t;
}

/* Which of 10,000 users the canary gets at a share. */
static void canary_users(struct router *r, struct route *t, uint32_t share_bp, bool *on)
{
    struct pick p;
    struct err e;
    char key[32];

    t->share_bp = share_bp;
    for (int i = 0; i < 10000; i++) {
        int n = snprintf(key, sizeof(key), "user-%d", i);
        assert_int_equal(router_pick(r, str_of(t->name), 0, (struct str){key, (size_t)n}, &p, &e), ERR_OK);
        assert_true(p.rollout);
        assert_int_equal(p.version->number, p.arm == ARM_CANARY ? 2 : 1);
        on[i] = p.arm == ARM_CANARY;
    }
}

static void a_growing_share_moves_nobody_back(void **state)
{
    struct router r;
    struct snapshot *s = snapshot_new();
    struct route *t = add_route(s, "m", 2);
    bool small[10000], large[10000];
    int n_small = 0, n_large = 0;

    (void)state;
    t->stable = 0;
    t->canary = 1;
    snprintf(t->salt, sizeof(t->salt), "r-0123456789ab");
    atomic_init(&r.now, s);
    canary_users(&r, t, 500, small);
    canary_users(&r, t, 2500, large);
    for (int i = 0; i < 10000; i++) {
        assert_false(small[i] && !large[i]);
        n_small += small[i];
        n_large += large[i];
    }
    assert_in_range(n_small, 400, 600); /* 500 expected, sd 22 */
    assert_in_range(n_large, 2300, 2700);
    canary_users(&r, t, 0, small);
    for (int i = 0; i < 10000; i++) {
        assert_false(small[i]);
    }
    canary_users(&r, t, 10000, large);
    for (int i = 0; i < 10000; i++) {
        assert_true(large[i]);
    }
    snapshot_free(s);
}

/* Fixed ranges of one size; who is in none of them is answered by the stable version and takes no part. */
static void an_experiment_has_two_arms_of_one_size(void **state)
{
    static const uint32_t shares[] = {1000, 5000};
    struct router r;
    struct snapshot *s = snapshot_new();
    struct route *t = add_route(s, "m", 2);
    struct pick p;
    struct err e;
    char key[32];

    (void)state;
    t->stable = 0;
    t->canary = 1;
    t->fixed = true;
    t->stable_series = (struct series *)(uintptr_t)1; /* never looked into */
    t->canary_series = (struct series *)(uintptr_t)2;
    t->versions[0].series = (struct series *)(uintptr_t)3;
    snprintf(t->salt, sizeof(t->salt), "r-0123456789ab");
    atomic_init(&r.now, s);
    for (size_t k = 0; k < COUNT_OF(shares); k++) {
        unsigned n[3] = {0};

        t->share_bp = shares[k];
        for (int i = 0; i < 20000; i++) {
            struct str name = {key, (size_t)snprintf(key, sizeof(key), "user-%d", i)};
            uint32_t bucket = assignment_bucket(t->salt, name);
            enum arm want = bucket < shares[k]                            ? ARM_CANARY
                            : bucket >= 5000 && bucket < 5000 + shares[k] ? ARM_STABLE
                                                                          : ARM_DIRECT;

            assert_int_equal(router_pick(&r, STR("m"), 0, name, &p, &e), ERR_OK);
            assert_int_equal(p.arm, want);
            assert_int_equal(p.version->number, want == ARM_CANARY ? 2 : 1);
            assert_int_equal(p.rollout, want != ARM_DIRECT);
            assert_ptr_equal(p.series, want == ARM_CANARY   ? t->canary_series
                                       : want == ARM_STABLE ? t->stable_series
                                                            : t->versions[0].series);
            n[p.arm]++;
        }
        assert_in_range(n[ARM_CANARY], 2 * shares[k] - 250, 2 * shares[k] + 250); /* sd at most 71 */
        assert_in_range(n[ARM_STABLE], 2 * shares[k] - 250, 2 * shares[k] + 250);
        assert_int_equal(n[ARM_DIRECT] == 0, shares[k] == 5000);
    }
    /* Another salt is another split. */
    unsigned moved = 0;
    for (int i = 0; i < 1000; i++) {
        struct str name = {key, (size_t)snprintf(key, sizeof(key), "user-%d", i)};
        moved +=
            (assignment_bucket("r-0123456789ab", name) < 5000) != (assignment_bucket("r-0123456789ac", name) < 5000);
    }
    assert_in_range(moved, 400, 600);
    /* While the candidate is not there, nobody is taken for one of its control group. */
    t->canary = -1;
    for (int i = 0; i < 1000; i++) {
        struct str name = {key, (size_t)snprintf(key, sizeof(key), "user-%d", i)};

        assert_int_equal(router_pick(&r, STR("m"), 0, name, &p, &e), ERR_OK);
        assert_int_equal(p.arm, ARM_DIRECT);
        assert_int_equal(p.version->number, 1);
        assert_ptr_equal(p.series, t->versions[0].series);
    }
    snapshot_free(s);
}

static void a_named_version_passes_the_rollout_by(void **state)
{
    struct router r;
    struct snapshot *s = snapshot_new();
    struct route *t = add_route(s, "m", 3);
    struct pick p;
    struct err e;

    (void)state;
    t->stable = 0;
    t->canary = 1;
    t->share_bp = 10000;
    atomic_init(&r.now, s);
    assert_int_equal(router_pick(&r, STR("m"), 3, STR("u"), &p, &e), ERR_OK);
    assert_int_equal(p.version->number, 3);
    assert_int_equal(p.arm, ARM_DIRECT);
    assert_false(p.rollout);
    snapshot_free(s);
}

static void errors_say_what_there_is(void **state)
{
    struct router r;
    struct snapshot *s = snapshot_new();
    struct pick p;
    struct err e;

    (void)state;
    atomic_init(&r.now, s);
    assert_int_equal(router_pick(&r, STR("none"), 0, STR("u"), &p, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "weir push"));
    struct route *t = add_route(s, "intent", 2);
    assert_int_equal(router_pick(&r, STR("intnt"), 0, STR("u"), &p, &e), ERR_NOT_FOUND);
    assert_string_equal(e.text, "no model 'intnt'; there are: intent");
    assert_int_equal(router_pick(&r, STR("intent"), 9, STR("u"), &p, &e), ERR_NOT_FOUND);
    assert_string_equal(e.text, "model 'intent' has no version 9; there are: 1, 2");
    assert_int_equal(router_pick(&r, STR("intent"), 0, STR("u"), &p, &e), ERR_UNAVAILABLE); /* none is stable */
    t->stable = 0;
    t->versions[0].slot = -1;
    t->versions[0].state = "failed";
    t->versions[0].why = strdup("no such file");
    assert_int_equal(router_pick(&r, STR("intent"), 0, STR("u"), &p, &e), ERR_UNAVAILABLE);
    assert_string_equal(e.text, "version 1 of model 'intent' is failed: no such file");
    snapshot_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(assignment_is_murmur3_of_salt_and_key),
        cmocka_unit_test(a_long_key_is_hashed_whole),
        cmocka_unit_test(a_growing_share_moves_nobody_back),
        cmocka_unit_test(an_experiment_has_two_arms_of_one_size),
        cmocka_unit_test(a_named_version_passes_the_rollout_by),
        cmocka_unit_test(errors_say_what_there_is),
    };
    return cmocka_run_group_tests_name("router", tests, NULL, NULL);
}
