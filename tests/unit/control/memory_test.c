/* SPDX-License-Identifier: Apache-2.0 */
/* Versions under a memory budget: who is loaded, who goes, first use from another thread, and the end of the server in
 * the middle of it. After every step of the loop the budget is held against its limit.
 *
 * The store is the real one; the engines are fakes that claim what their family says; one connection thread runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>

#include "base/clock.h"
#include "control/control.h"
#include "support/fake_engine.h"
#include "support/store_help.h"

#define MB (1ull << 20)
#define WAIT(cond)                                                                       \
    do {                                                                                 \
        uint64_t until_ = clock_us() + SECONDS(60);                                      \
        while (!(cond)) {                                                                \
            if (clock_us() > until_) {                                                   \
                fail_msg("line %d: this did not come within 60 s: %s", __LINE__, #cond); \
            }                                                                            \
            step(5);                                                                     \
        }                                                                                \
    } while (0)

static struct {
    char *folder;
    struct loop *loop, *conn;
    struct store *store;
    struct control *control;
    struct shard shard, *shards[1];
    pthread_t thread;
    struct family family;
    uint64_t memory;
    bool ready, closed;
} rig;

static bool step(int timeout_ms)
{
    bool some = loop_once(rig.loop, timeout_ms);

    if (rig.control) {
        const struct budget_device *host = &control_budget(rig.control)->device[BUDGET_HOST];

        assert_true(host->used <= host->limit);
    }
    return some;
}

/* ---- life ---- */

static const struct engine_ops *engine_of(const char *backend, enum place place)
{
    (void)place;
    return strcmp(backend, "onnx") == 0 ? &fake_engine : NULL;
}

static int no_pid(const struct engine *g)
{
    (void)g;
    return 0;
}

static void set(void *ctx)
{
    *(bool *)ctx = true;
}

static void open_control(void)
{
    struct control_spec spec = {.loop = rig.loop,
                                .store = rig.store,
                                .shards = rig.shards,
                                .n_shards = 1,
                                .families = &rig.family,
                                .n_families = 1,
                                .body_max = 1 << 16,
                                .ops = {.engine = engine_of, .pid = no_pid},
                                .memory = rig.memory};
    struct err e;

    assert_int_equal(control_new(&rig.control, &spec, &e), ERR_OK);
    rig.ready = rig.closed = false;
    control_start(rig.control, set, &rig.ready);
    WAIT(rig.ready);
}

static enum err_code nothing(struct store *s, void *arg)
{
    (void)s;
    (void)arg;
    return ERR_OK;
}

struct passing {
    struct task task;
    _Atomic bool passed;
};

static void on_passing(struct task *t)
{
    atomic_store(&CONTAINER_OF(t, struct passing, task)->passed, true);
}

/* What was posted to the connection thread and to the store before has been done, and has come home. */
static void run_dry(void)
{
    do {
        struct passing p = {.task.fn = on_passing};

        loop_post(rig.conn, &p.task);
        WAIT(atomic_load(&p.passed));
        store_call(rig.store, nothing, NULL);
    } while (step(0));
}

static void close_control(void)
{
    control_stop(rig.control, 0, set, &rig.closed);
    WAIT(rig.closed);
    run_dry();
    control_free(rig.control);
    rig.control = NULL;
}

static void *run_conn(void *arg)
{
    loop_run(arg);
    return NULL;
}

static int setup(void **state)
{
    struct err e;

    (void)state;
    memset(&rig, 0, sizeof(rig));
    fake_reset();
    rig.folder = store_folder_new();
    assert_int_equal(loop_new(&rig.loop, &e), ERR_OK);
    assert_int_equal(loop_new(&rig.conn, &e), ERR_OK);
    assert_int_equal(store_open_in(&rig.store, rig.folder, &e), ERR_OK);
    rig.shard.loop = rig.conn;
    rig.shards[0] = &rig.shard;
    assert_int_equal(pthread_create(&rig.thread, NULL, run_conn, rig.conn), 0);
    settings_defaults(family_settings, n_family_settings, &rig.family);
    snprintf(rig.family.name, sizeof(rig.family.name), "default");
    rig.family.queue_bytes = 1 << 20;
    rig.family.out_bytes = 1 << 20;
    rig.family.memory = 10 * MB;
    rig.memory = 25 * MB;
    open_control();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (rig.control) {
        close_control();
    }
    loop_stop(rig.conn);
    pthread_join(rig.thread, NULL);
    store_close(rig.store);
    loop_free(rig.conn);
    loop_free(rig.loop);
    settings_done(family_settings, n_family_settings, &rig.family);
    store_folder_free(rig.folder);
    return 0;
}

/* ---- what is asked for ---- */

struct answer {
    unsigned n;
    struct err err;
};

static void answered(void *ctx, const struct err *e)
{
    struct answer *a = ctx;

    a->n++;
    a->err = *e;
}

static void pushed(void *ctx, const struct push_result *r, const struct err *e)
{
    (void)r;
    answered(ctx, e);
}

static struct answer push(const char *model, const char *bytes, int64_t canary_bp)
{
    struct rollout_policy policy;
    struct push_spec spec = {.model = str_of(model), .actor = STR("test"), .raw = true};
    struct answer a = {0};
    struct push *p;
    struct err e;

    if (canary_bp >= 0) {
        policy_manual(&policy, (uint32_t)canary_bp);
        spec.rollout = &policy;
    }
    assert_int_equal(push_begin(&p, rig.control, &spec, &e), ERR_OK);
    assert_true(push_write(p, bytes, strlen(bytes)));
    push_finish(p, NULL, pushed, &a);
    WAIT(a.n);
    run_dry();
    return a;
}

static void push_ok(const char *model, const char *bytes)
{
    struct answer a = push(model, bytes, -1);

    assert_string_equal(a.err.text, "");
    assert_int_equal(a.err.code, ERR_OK);
}

static struct version *version(const char *model, int64_t number)
{
    return model_version(control_model(rig.control, str_of(model)), number);
}

static void assert_state(const char *model, int64_t number, enum version_state state)
{
    const struct version *v = version(model, number);

    assert_string_equal(version_state_names[v->state], version_state_names[state]);
    assert_true((v->pool != NULL) == (state == VERSION_READY));
}

/* ---- first use ---- */

#define WAKES_MAX 64
static struct caller {
    struct wake wake;
    _Atomic unsigned n;
    bool at_home, picked; /* read after n */
} callers[WAKES_MAX];

static void on_woken(struct wake *w)
{
    struct caller *k = CONTAINER_OF(w, struct caller, wake);
    struct pick p;
    struct err e;

    k->at_home = pthread_equal(pthread_self(), rig.thread);
    k->picked = router_pick(control_router(rig.control), str_of(w->model), w->version, STR("u"), &p, &e) == ERR_OK;
    atomic_fetch_add(&k->n, 1);
}

static void wake(unsigned i, const char *model, int64_t number)
{
    struct caller *k = &callers[i];

    *k = (struct caller){.wake = {.c = rig.control, .home = rig.conn, .version = number, .done = on_woken}};
    snprintf(k->wake.model, sizeof(k->wake.model), "%s", model);
    control_wake(&k->wake);
}

static void assert_woken(unsigned i, enum err_code code)
{
    WAIT(atomic_load(&callers[i].n) > 0);
    assert_int_equal(callers[i].wake.err.code, code);
    assert_true(callers[i].at_home);
    assert_true(callers[i].picked == (code == ERR_OK));
}

static void many_callers_share_one_load(void **state)
{
    (void)state;
    rig.family.load = LOAD_LAZY;
    push_ok("a", "one");
    close_control();
    open_control();
    assert_state("a", 1, VERSION_COLD);
    assert_true(router_ready(control_router(rig.control)));
    unsigned before = fake_counts().opened;
    atomic_store(&fake.ready_us, MILLIS(20));
    for (unsigned i = 0; i < WAKES_MAX; i++) {
        wake(i, "a", 1);
    }
    for (unsigned i = 0; i < WAKES_MAX; i++) {
        assert_woken(i, ERR_OK);
    }
    run_dry();
    for (unsigned i = 0; i < WAKES_MAX; i++) {
        assert_int_equal(atomic_load(&callers[i].n), 1);
    }
    assert_int_equal(fake_counts().opened, before + 1);
    assert_int_equal(control_budget(rig.control)->device[BUDGET_HOST].used, 10 * MB);
}

static void a_load_that_fails_is_told_to_all_and_can_be_tried_again(void **state)
{
    (void)state;
    rig.family.load = LOAD_LAZY;
    push_ok("a", "one");
    close_control();
    open_control();
    atomic_store(&fake.ready_us, MILLIS(20));
    atomic_store(&fake.fail_load, 1);
    wake(0, "a", 1);
    wake(1, "a", 1);
    assert_woken(0, ERR_REFUSED);
    assert_woken(1, ERR_REFUSED);
    WAIT(!version("a", 1)->pool);
    assert_int_equal(control_budget(rig.control)->device[BUDGET_HOST].used, 0);
    wake(2, "a", 1); /* failed: the pick says it, nothing is loaded behind its back */
    WAIT(atomic_load(&callers[2].n));
    assert_false(callers[2].picked);
    push_ok("a", "one"); /* again: a new try */
    assert_state("a", 1, VERSION_READY);
}

/* ---- who goes ---- */

static void what_serves_nobody_goes_first_then_the_one_before(void **state)
{
    struct answer a = {0};

    (void)state;
    push_ok("a", "one");
    push_ok("a", "two"); /* serves nobody, and is the younger */
    push_ok("b", "one");
    assert_state("a", 1, VERSION_READY);
    assert_state("a", 2, VERSION_COLD);
    assert_state("b", 1, VERSION_READY);
    control_promote(rig.control, STR("a"), 2, STR("test"), answered, &a); /* loaded before it serves */
    WAIT(a.n);
    run_dry();
    assert_int_equal(a.err.code, ERR_OK);
    assert_state("a", 1, VERSION_COLD);
    assert_state("a", 2, VERSION_READY);
    wake(0, "a", 1);
    assert_woken(0, ERR_OK);
    run_dry();
    assert_state("b", 1, VERSION_COLD); /* the older of those that serve */
    version("a", 1)->claim.used_us = clock_us();
    push_ok("b", "one");
    assert_state("a", 1, VERSION_COLD); /* the younger, but only the one before */
    assert_state("a", 2, VERSION_READY);
    assert_state("b", 1, VERSION_READY);
}

static void arms_of_a_rollout_and_pinned_ones_stay(void **state)
{
    (void)state;
    push_ok("a", "one");
    assert_int_equal(push("a", "two", 1000).err.code, ERR_OK);
    struct answer a = push("b", "one", -1);
    assert_int_equal(a.err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(a.err.text, "a/1 10.0 MiB in a rollout"));
    assert_non_null(strstr(a.err.text, "a/2 10.0 MiB in a rollout"));
    assert_non_null(strstr(a.err.text, "5.0 MiB of 25.0 MiB are free"));
    assert_null(control_model(rig.control, STR("b")));
    assert_state("a", 1, VERSION_READY);
    assert_state("a", 2, VERSION_READY);
    close_control();
    rig.family.pin = true;
    open_control();
    control_rollback(rig.control, STR("a"), STR("test"), true, NULL, NULL);
    run_dry();
    a = push("b", "one", -1);
    assert_int_equal(a.err.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(a.err.text, "a/1 10.0 MiB pinned"));
}

static void what_is_larger_than_the_budget_starts_nothing(void **state)
{
    unsigned before = fake_counts().opened;

    (void)state;
    push_ok("a", "one");
    close_control();
    rig.family.memory = 26 * MB;
    open_control();
    assert_state("a", 1, VERSION_COLD);
    wake(0, "a", 1);
    assert_woken(0, ERR_REFUSED);
    assert_int_equal(push("b", "one", -1).err.code, ERR_REFUSED);
    assert_int_equal(fake_counts().opened, before + 1);
}

static void a_canary_beside_a_cold_stable_loads_both(void **state)
{
    (void)state;
    push_ok("a", "one");
    push_ok("b", "one");
    push_ok("c", "one");
    assert_state("a", 1, VERSION_COLD);
    assert_int_equal(push("a", "two", 500).err.code, ERR_OK);
    assert_state("a", 1, VERSION_READY);
    assert_state("a", 2, VERSION_READY);
    assert_true(rollout_running(control_model(rig.control, STR("a"))));
    assert_state("b", 1, VERSION_COLD);
    assert_state("c", 1, VERSION_COLD);
}

/* ---- turns, and the end ---- */

static void wanted_again_while_it_goes_each_is_answered_once(void **state)
{
    static const char *const names[] = {"a", "b", "c"};
    unsigned ok = 0;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        push_ok(names[i], "one");
    }
    for (unsigned round = 0; round < 30; round++) {
        for (unsigned i = 0; i < 8; i++) {
            wake(i, names[(round + i) % 3], 1);
        }
        for (unsigned i = 0; i < 8; i++) {
            WAIT(atomic_load(&callers[i].n));
            ok += callers[i].wake.err.code == ERR_OK;
            assert_true(callers[i].wake.err.code == ERR_OK || callers[i].wake.err.code == ERR_UNAVAILABLE);
        }
    }
    run_dry();
    assert_true(ok >= 60); /* in every round two of the three have room */
}

static void an_end_while_some_wait_for_room_is_told(void **state)
{
    (void)state;
    rig.family.load = LOAD_LAZY;
    push_ok("a", "one");
    push_ok("b", "one");
    push_ok("c", "one");
    assert_state("a", 1, VERSION_COLD);
    atomic_store(&fake.ready_us, SECONDS(20));
    wake(0, "a", 1); /* waits for b to be gone, or loads */
    wake(1, "a", 1);
    step(5);
    close_control();
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(atomic_load(&callers[i].n), 1);
        assert_int_equal(callers[i].wake.err.code, ERR_UNAVAILABLE);
    }
    atomic_store(&fake.ready_us, 0);
    open_control();
    assert_state("a", 1, VERSION_COLD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(many_callers_share_one_load, setup, teardown),
        cmocka_unit_test_setup_teardown(a_load_that_fails_is_told_to_all_and_can_be_tried_again, setup, teardown),
        cmocka_unit_test_setup_teardown(what_serves_nobody_goes_first_then_the_one_before, setup, teardown),
        cmocka_unit_test_setup_teardown(arms_of_a_rollout_and_pinned_ones_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_larger_than_the_budget_starts_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_canary_beside_a_cold_stable_loads_both, setup, teardown),
        cmocka_unit_test_setup_teardown(wanted_again_while_it_goes_each_is_answered_once, setup, teardown),
        cmocka_unit_test_setup_teardown(an_end_while_some_wait_for_room_is_told, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
