/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a control under test, and the plain requests to it. */
#include "support/control_rig.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/store_priv.h"
#include "support/fake_engine.h"
#include "support/store_help.h"

struct control_rig rig;

/* ---- the store, held and broken ---- */

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

void store_hold(void)
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

void store_go(void)
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

static enum err_code mend_it(struct store *s, void *arg)
{
    (void)arg;
    s->broken[0] = '\0';
    return ERR_OK;
}

void store_broken(void)
{
    store_call(rig.store, break_it, NULL);
}

void store_mended(void)
{
    store_call(rig.store, mend_it, NULL);
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

void on_closed(void *ctx)
{
    *(bool *)ctx = true;
}

void open_control(void)
{
    struct control_spec spec = {.loop = rig.loop,
                                .store = rig.store,
                                .shards = rig.shards,
                                .n_shards = SHARDS,
                                .families = &rig.family,
                                .n_families = 1,
                                .body_max = 1 << 16,
                                .ops = {.engine = engine_of, .pid = no_pid, .told = rig.told}};
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

void run_dry(void)
{
    do {
        store_call(rig.store, nothing, NULL); /* what was posted before it has been done, and has come home */
    } while (loop_once(rig.loop, 0));
}

void close_control(void)
{
    control_stop(rig.control, 0, on_closed, &rig.closed);
    WAIT(rig.closed);
    run_dry();
    control_free(rig.control);
    rig.control = NULL;
}

int rig_setup(void **state)
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

int rig_teardown(void **state)
{
    (void)state;
    store_go(); /* a test that failed may have left it held */
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

void answered(void *ctx, const struct err *e)
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

void rolled_back(void *ctx, const struct rollback_result *r, const struct err *e)
{
    answered(ctx, e);
    ((struct answer *)ctx)->durable = r && r->durable;
}

const struct rollout_policy *manual(uint32_t share_bp)
{
    static struct rollout_policy policy;

    policy_manual(&policy, share_bp);
    return &policy;
}

void push_start(struct answer *a, const char *bytes, const struct rollout_policy *policy)
{
    struct push_spec spec = {.model = MODEL, .rollout = policy, .actor = STR("test"), .raw = true};
    struct push *p;
    struct err e;

    *a = (struct answer){0};
    assert_int_equal(push_begin(&p, rig.control, &spec, &e), ERR_OK);
    assert_true(push_write(p, bytes, strlen(bytes)));
    push_finish(p, NULL, pushed, a);
}

void push_ok(const char *bytes, int64_t number)
{
    struct answer a;

    push_start(&a, bytes, NULL);
    WAIT(a.n);
    assert_int_equal(a.err.code, ERR_OK);
    assert_int_equal(a.number, number);
}

struct answer rollout_start(int64_t number, const struct rollout_policy *policy, bool retry)
{
    struct answer a = {0};
    struct version *v = model_version(control_model(rig.control, MODEL), number);

    WAIT(!v->pool || v->state == VERSION_READY); /* not just on its way out */
    control_rollout_start(rig.control, MODEL, number, policy, retry, STR("test"), answered, &a);
    WAIT(a.n);
    return a;
}

void rollout_ok(int64_t number)
{
    struct answer a = rollout_start(number, manual(1000), false);

    assert_string_equal(a.err.text, "");
    assert_int_equal(a.err.code, ERR_OK);
}

void promote_ok(int64_t number)
{
    struct answer a = {0};

    control_promote(rig.control, MODEL, number, STR("test"), answered, &a);
    WAIT(a.n);
    assert_int_equal(a.err.code, ERR_OK);
}

struct model *model(void)
{
    return control_model(rig.control, MODEL);
}
