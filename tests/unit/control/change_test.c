/* SPDX-License-Identifier: Apache-2.0 */
/* What comes in the middle of something else: a rollback while a change is being written, a change behind a rollback
 * that can not be written, an unloading while somebody waits for the load, an end of the server in each of these.
 *
 * The store is the real one, stopped where a test wants it by a job that waits; the engines are fakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>

#include "base/clock.h"
#include "control/control.h"
#include "store/store_priv.h"
#include "support/fake_engine.h"
#include "support/store_help.h"

#define SHARDS 2
#define MODEL STR("add")
#define WAIT(cond)                                                                       \
    do {                                                                                 \
        uint64_t until_ = clock_us() + SECONDS(30);                                      \
        while (!(cond)) {                                                                \
            if (clock_us() > until_) {                                                   \
                fail_msg("line %d: this did not come within 30 s: %s", __LINE__, #cond); \
            }                                                                            \
            loop_once(rig.loop, 5);                                                      \
        }                                                                                \
    } while (0)

static struct {
    char *folder;
    struct loop *loop;
    struct store *store;
    struct control *control;
    struct shard shard[SHARDS], *shards[SHARDS];
    struct family family;
    bool ready, closed;
} rig;

/* ---- the store, held ---- */

static struct gate {
    struct store_job job;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool reached, open;
} gate = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void gate_run(struct store *s, struct store_job *job)
{
    (void)s;
    (void)job;
    pthread_mutex_lock(&gate.mutex);
    gate.reached = true;
    pthread_cond_broadcast(&gate.cond);
    while (!gate.open) {
        pthread_cond_wait(&gate.cond, &gate.mutex);
    }
    pthread_mutex_unlock(&gate.mutex);
}

/* From here on nothing is written. */
static void store_hold(void)
{
    gate.reached = gate.open = false;
    gate.job.run = gate_run;
    store_post(rig.store, &gate.job);
    pthread_mutex_lock(&gate.mutex);
    while (!gate.reached) {
        pthread_cond_wait(&gate.cond, &gate.mutex);
    }
    pthread_mutex_unlock(&gate.mutex);
}

static void store_go(void)
{
    pthread_mutex_lock(&gate.mutex);
    gate.open = true;
    pthread_cond_broadcast(&gate.cond);
    pthread_mutex_unlock(&gate.mutex);
}

static enum err_code break_it(struct store *s, void *arg)
{
    (void)arg;
    store_break(s, "a test's file");
    return ERR_OK;
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

static void on_ready(void *ctx)
{
    *(bool *)ctx = true;
}

static void on_closed(void *ctx)
{
    *(bool *)ctx = true;
}

static void open_control(void)
{
    struct control_spec spec = {.loop = rig.loop,
                                .store = rig.store,
                                .shards = rig.shards,
                                .n_shards = SHARDS,
                                .families = &rig.family,
                                .n_families = 1,
                                .body_max = 1 << 16,
                                .ops = {.engine = engine_of, .pid = no_pid}};
    struct err e;

    assert_int_equal(control_new(&rig.control, &spec, &e), ERR_OK);
    rig.ready = rig.closed = false;
    control_start(rig.control, on_ready, &rig.ready);
    WAIT(rig.ready);
}

static enum err_code nothing(struct store *s, void *arg)
{
    (void)s;
    (void)arg;
    return ERR_OK;
}

static void close_control(void)
{
    control_stop(rig.control, 0, on_closed, &rig.closed);
    WAIT(rig.closed);
    do {
        store_call(rig.store, nothing, NULL); /* what was posted before it has been done, and has come home */
    } while (loop_once(rig.loop, 0));
    control_free(rig.control);
    rig.control = NULL;
}

static int setup(void **state)
{
    struct err e;

    (void)state;
    memset(&rig, 0, sizeof(rig));
    fake_reset();
    rig.folder = store_folder_new();
    assert_int_equal(loop_new(&rig.loop, &e), ERR_OK);
    assert_int_equal(store_open_in(&rig.store, rig.folder, &e), ERR_OK);
    for (unsigned i = 0; i < SHARDS; i++) {
        rig.shard[i].index = i;
        rig.shard[i].loop = rig.loop;
        rig.shards[i] = &rig.shard[i];
    }
    settings_defaults(family_settings, n_family_settings, &rig.family);
    snprintf(rig.family.name, sizeof(rig.family.name), "default");
    rig.family.queue_bytes = 1 << 20;
    rig.family.out_bytes = 1 << 20;
    open_control();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (rig.control) {
        close_control();
    }
    store_close(rig.store);
    loop_free(rig.loop);
    settings_done(family_settings, n_family_settings, &rig.family);
    store_folder_free(rig.folder);
    return 0;
}

/* ---- what is asked for ---- */

struct answer {
    unsigned n;
    struct err err;
    int64_t number;
    bool durable;
};

static void answered(void *ctx, const struct err *e)
{
    struct answer *a = ctx;

    a->n++;
    a->err = *e;
}

static void pushed(void *ctx, const struct push_result *r, const struct err *e)
{
    answered(ctx, e);
    ((struct answer *)ctx)->number = r ? r->number : 0;
}

static void rolled_back(void *ctx, const struct rollback_result *r, const struct err *e)
{
    answered(ctx, e);
    ((struct answer *)ctx)->durable = r && r->durable;
}

static void push_start(struct answer *a, const char *bytes, int64_t canary_bp)
{
    struct push_spec spec = {.model = MODEL, .canary_bp = canary_bp, .actor = STR("test"), .raw = true};
    struct push *p;
    struct err e;

    *a = (struct answer){0};
    assert_int_equal(push_begin(&p, rig.control, &spec, &e), ERR_OK);
    assert_true(push_write(p, bytes, strlen(bytes)));
    push_finish(p, NULL, pushed, a);
}

static void push_ok(const char *bytes, int64_t number)
{
    struct answer a;

    push_start(&a, bytes, -1);
    WAIT(a.n);
    assert_int_equal(a.err.code, ERR_OK);
    assert_int_equal(a.number, number);
}

static void rollout_ok(int64_t number)
{
    struct answer a = {0};
    struct version *v = model_version(control_model(rig.control, MODEL), number);

    WAIT(!v->pool || v->state == VERSION_READY); /* not just on its way out */
    control_rollout_start(rig.control, MODEL, number, 1000, STR("test"), answered, &a);
    WAIT(a.n);
    assert_string_equal(a.err.text, "");
    assert_int_equal(a.err.code, ERR_OK);
}

static void promote_ok(int64_t number)
{
    struct answer a = {0};

    control_promote(rig.control, MODEL, number, STR("test"), answered, &a);
    WAIT(a.n);
    assert_int_equal(a.err.code, ERR_OK);
}

static struct model *model(void)
{
    return control_model(rig.control, MODEL);
}

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
    control_rollout_start(rig.control, MODEL, 3, 5000, STR("test"), answered, &start);
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
            control_rollout_share(rig.control, MODEL, 10000, STR("test"), answered, &change[i]);
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
    push_start(&push, "three", 1000);
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
    push_start(&push, "three", -1);
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
    store_call(rig.store, break_it, NULL);
    store_hold();
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back[0]);
    control_rollout_share(rig.control, MODEL, 1, STR("test"), answered, &waits);
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
    control_rollout_start(rig.control, MODEL, 1, 1000, STR("test"), answered, &start);
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
    control_rollout_start(rig.control, MODEL, 1, 1000, STR("test"), answered, &start);
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
    control_rollout_start(rig.control, MODEL, 1, 1000, STR("test"), answered, &start);
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
    push_start(&push, "four", -1);
    control_rollout_start(rig.control, MODEL, 1, 1000, STR("test"), answered, &start);
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
    push_start(&push, "two", 1000);
    WAIT(fake_counts().opened == 2);
    store_hold();
    WAIT(model()->changing);
    control_rollout_share(rig.control, MODEL, 1, STR("test"), answered, &waits);
    control_stop(rig.control, 0, on_closed, &rig.closed);
    assert_int_equal(waits.err.code, ERR_UNAVAILABLE); /* it will not come to its turn */
    WAIT(rig.closed);                                  /* the new version's pool is gone, its row is not written yet */
    assert_int_equal(push.n, 0);
    store_go();
    WAIT(push.n);
    assert_int_equal(push.err.code, ERR_OK);
    do {
        store_call(rig.store, nothing, NULL);
    } while (loop_once(rig.loop, 0));
    control_free(rig.control);
    open_control();
    assert_int_equal(model()->n_versions, 2);
    assert_true(rollout_running(model()));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_start_that_is_overtaken_by_a_rollback_never_was, setup, teardown),
        cmocka_unit_test_setup_teardown(a_promotion_a_share_overtaken_by_a_rollback_never_were, setup, teardown),
        cmocka_unit_test_setup_teardown(a_version_whose_canary_is_overtaken_by_a_rollback_is_registered, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_push_without_a_canary_does_not_mind_a_rollback, setup, teardown),
        cmocka_unit_test_setup_teardown(behind_a_rollback_that_can_not_be_written_nothing_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(a_rollout_of_an_old_version_waits_for_its_load_whatever_happens_meanwhile,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_start_does_not_keep_the_version_loaded, setup, teardown),
        cmocka_unit_test_setup_teardown(a_start_whose_load_fails_says_why, setup, teardown),
        cmocka_unit_test_setup_teardown(an_end_in_the_middle_of_a_load_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(an_end_in_the_middle_of_a_write_is_survived, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
