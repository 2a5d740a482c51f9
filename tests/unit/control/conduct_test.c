/* SPDX-License-Identifier: Apache-2.0 */
/* The conductor: rollouts from their start to their end, by themselves, by persons and by harm; what is written of
 * them, and what a restart makes of it; a store that fails or hangs in the middle.
 *
 * The store is the real one, the counts go through the real tally; the engines are fakes. Time is the real one and what
 * the test adds to it: a minute passes by pass(SECONDS(60)). */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "control/router.h"
#include "support/control_rig.h"
#include "support/fake_engine.h"
#include "support/store_help.h"

/* ---- time ---- */

static _Atomic uint64_t skipped_us;

/* In the place of the C library's, for all that is linked into this program. */
int clock_gettime(clockid_t clock, struct timespec *t)
{
    long rc = syscall(SYS_clock_gettime, clock, t);
    uint64_t us = atomic_load(&skipped_us);

    if (rc == 0 && clock == CLOCK_MONOTONIC) {
        t->tv_sec += (time_t)(us / 1000000);
        t->tv_nsec += (long)(us % 1000000) * 1000;
        t->tv_sec += t->tv_nsec / 1000000000;
        t->tv_nsec %= 1000000000;
    }
    return (int)rc;
}

static void leap(uint64_t us)
{
    atomic_fetch_add(&skipped_us, us);
}

static bool quiet(void)
{
    const struct model *m = model();

    return !m->ordered && !m->changing && !m->undo && !m->saving;
}

/* Time passes, the rollout is judged, and what follows is through. */
static void pass(uint64_t us)
{
    uint64_t now;

    leap(us);
    now = clock_us();
    WAIT(model()->judged_us >= now && quiet());
}

/* ---- what is looked at ---- */

#define TOLD_MOST 64
static struct {
    unsigned n;
    char kind[TOLD_MOST][32];
} told;

/* Verdicts come between the lines when they change, so nobody counts on them. */
static void on_told(void *ctx, const struct history_row *row)
{
    (void)ctx;
    assert_true(row->seq > 0);
    if (strcmp(row->kind, "rollout_verdict") != 0 && told.n < TOLD_MOST) {
        snprintf(told.kind[told.n++], sizeof(told.kind[0]), "%s", row->kind);
    }
}

static void assert_told(const char *const *kinds, unsigned n)
{
    for (unsigned i = 0; i < n && i < told.n; i++) {
        assert_string_equal(told.kind[i], kinds[i]);
    }
    assert_int_equal(told.n, n);
    told.n = 0;
}

static int setup(void **state)
{
    int rc = rig_setup(state);

    close_control();
    rig.told = on_told;
    told.n = 0;
    open_control();
    return rc;
}

/* The newest line of history of this kind. has: in serving, NULL: it must have none. */
static void assert_history(const char *kind, const char *actor, const char *has, bool evidence)
{
    struct history_row *rows = NULL;
    struct err e;
    size_t n = 0, i = 0;

    assert_int_equal(on_history(rig.store, "add", 0, 100, &rows, &n, &e), ERR_OK);
    while (i < n && strcmp(rows[i].kind, kind) != 0) {
        i++;
    }
    if (i == n) {
        fail_msg("no line of history of the kind %s", kind);
    }
    assert_string_equal(rows[i].actor, actor);
    assert_true((rows[i].evidence != NULL) == evidence);
    if (!has) {
        assert_null(rows[i].serving);
    } else if (!rows[i].serving || !strstr(rows[i].serving, has)) {
        fail_msg("%s: serving is %s, not %s", kind, rows[i].serving ? rows[i].serving : "NULL", has);
    }
    history_done(rows, n);
}

static unsigned history_count(const char *kind)
{
    struct history_row *rows = NULL;
    struct err e;
    size_t n = 0;
    unsigned found = 0;

    assert_int_equal(on_history(rig.store, "add", 0, 1000, &rows, &n, &e), ERR_OK);
    for (size_t i = 0; i < n; i++) {
        found += strcmp(rows[i].kind, kind) == 0;
    }
    history_done(rows, n);
    return found;
}

/* The last rollout's row says the same as memory does. */
static void assert_stored(enum rollout_state state, int phase, int64_t share_bp)
{
    struct store_state st;
    struct rollout_progress s;
    struct err e;

    assert_int_equal(on_load(rig.store, &st, &e), ERR_OK);
    assert_int_equal(st.n_rollouts, 1);
    assert_string_equal(st.rollouts[0].id, model()->rollout.id);
    assert_int_equal(st.rollouts[0].state, state);
    assert_int_equal(st.rollouts[0].share_bp, share_bp);
    assert_int_equal(st.models[0].stable, model()->row.stable);
    assert_int_equal(st.models[0].previous, model()->row.previous);
    assert_int_equal(rollout_progress_read(&s, str_of(st.rollouts[0].progress), &e), ERR_OK);
    assert_int_equal(model()->rollout.state, state);
    if (state == ROLLOUT_RUNNING || state == ROLLOUT_SOAKING) {
        assert_int_equal(s.phase, phase);
        assert_int_equal(st.rollouts[0].ended_ms, 0);
    } else {
        assert_true(st.rollouts[0].ended_ms > 0);
        assert_null(model()->tally);
    }
    assert_int_equal(model()->progress.phase, phase);
    store_state_done(&st);
}

static size_t stored_holds(void)
{
    struct store_state st;
    struct err e;
    size_t n;

    assert_int_equal(on_load(rig.store, &st, &e), ERR_OK);
    n = st.n_holds;
    store_state_done(&st);
    return n;
}

/* ---- what is done ---- */

/* n requests, of every hundred as many to the candidate as its share says; each answered in a millisecond. */
static void traffic(unsigned n, bool canary_errs)
{
    const struct route *t = router_find(control_router(rig.control), MODEL);
    uint64_t now = clock_us();

    assert_non_null(t->tally);
    for (unsigned i = 0; i < n; i++) {
        bool canary = t->soaking || i % 100 < t->share_bp / 100;
        struct series *series = canary && !t->soaking ? t->canary_series : t->stable_series;
        bool bad = canary && canary_errs;
        struct tally_mark mark;
        unsigned part = i % SHARDS;

        series_begin(series, part);
        tally_begin(t->tally, part, &mark, t->stratum, canary ? JUDGE_CANARY : JUDGE_STABLE, 0, now);
        tally_end(&mark, part, bad ? TALLY_ERROR : 0, now);
        series_end(series, part, bad ? ERR_INTERNAL : ERR_OK, 1000000, 0, 1000000);
    }
}

static const struct rollout_policy *two_steps(void)
{
    static struct rollout_policy p;
    struct err e;

    policy_default(&p, "test");
    assert_int_equal(policy_steps(&p, STR("10%,50%"), &e), ERR_OK);
    p.warmup_us = SECONDS(10);
    p.bake_us = SECONDS(60);
    p.soak_us = SECONDS(120);
    p.min_requests = 20;
    p.step_timeout_us = p.nodata_timeout_us = 0;
    return &p;
}

static struct answer start(int64_t number, bool retry)
{
    return rollout_start(number, two_steps(), retry);
}

static void start_ok(int64_t number)
{
    struct answer a = start(number, false);

    assert_string_equal(a.err.text, "");
    assert_int_equal(a.err.code, ERR_OK);
}

static enum err_code event(enum rollout_event_kind kind, uint32_t share_bp)
{
    struct answer a = {0};

    control_rollout_event(rig.control, MODEL, kind, share_bp, STR("test"), answered, &a);
    WAIT(a.n);
    return a.err.code;
}

static enum err_code rollback(bool abort_only)
{
    struct answer a = {0};

    control_rollback(rig.control, MODEL, STR("test"), abort_only, rolled_back, &a);
    WAIT(a.n && quiet());
    return a.err.code;
}

static void two_versions(void)
{
    push_ok("one", 1);
    push_ok("two", 2);
    told.n = 0;
}

/* To the soak of version 2. */
static void soak(void)
{
    two_versions();
    start_ok(2);
    traffic(400, false);
    pass(SECONDS(1));
    promote_ok(0);
    assert_int_equal(model()->row.stable, 2);
    assert_true(rollout_soaking(model()));
    told.n = 0;
}

static void restart(void)
{
    close_control();
    open_control();
}

/* ---- by itself ---- */

static void a_rollout_goes_by_itself_from_the_first_step_to_the_end(void **state)
{
    static const char *const kinds[] = {"rollout_started", "rollout_bake", "rollout_step",
                                        "rollout_bake",    "promoted",     "rollout_completed"};

    (void)state;
    two_versions();
    start_ok(2);
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 1000);
    assert_history("rollout_started", "test", "\"share_bp\":1000}]", false);
    pass(SECONDS(10));
    assert_stored(ROLLOUT_RUNNING, PHASE_BAKE, 1000);
    assert_history("rollout_bake", "weir (judge)", NULL, true);
    pass(SECONDS(60)); /* nobody came: it waits */
    assert_stored(ROLLOUT_RUNNING, PHASE_BAKE, 1000);
    traffic(400, false);
    pass(SECONDS(1));
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 5000);
    assert_int_equal(model()->progress.step, 1);
    assert_int_equal(router_find(control_router(rig.control), MODEL)->share_bp, 5000);
    assert_history("rollout_step", "weir (judge)", "\"share_bp\":5000}]", true);
    pass(SECONDS(10));
    traffic(400, false);
    pass(SECONDS(60));
    assert_stored(ROLLOUT_SOAKING, PHASE_SOAK, 5000);
    assert_int_equal(model()->row.stable, 2);
    assert_int_equal(model()->row.previous, 1);
    assert_history("promoted", "weir (judge)", "\"version\":2", true);
    assert_true(router_find(control_router(rig.control), MODEL)->soaking);
    traffic(100, false);
    pass(SECONDS(120));
    assert_stored(ROLLOUT_PROMOTED, PHASE_ENDED, 5000);
    assert_history("rollout_completed", "weir (judge)", NULL, false);
    assert_null(router_find(control_router(rig.control), MODEL)->tally);
    assert_told(kinds, COUNT_OF(kinds));
    assert_int_equal(model()->n_holds, 0);
}

static void harm_is_rolled_back_held_and_told(void **state)
{
    static const char *const kinds[] = {"rollout_started", "rolled_back"};
    struct answer again;

    (void)state;
    two_versions();
    start_ok(2);
    traffic(400, true);
    pass(SECONDS(1)); /* in the warm-up */
    assert_stored(ROLLOUT_ROLLED_BACK, PHASE_ENDED, 1000);
    assert_int_equal(model()->row.stable, 1);
    assert_int_equal(router_find(control_router(rig.control), MODEL)->canary, -1);
    assert_history("rolled_back", "weir (judge)", "\"version\":1", true);
    assert_told(kinds, COUNT_OF(kinds));
    assert_non_null(model_hold(model(), model_version(model(), 2)->row.digest));
    restart();
    assert_non_null(model_hold(model(), model_version(model(), 2)->row.digest));
    assert_stored(ROLLOUT_ROLLED_BACK, PHASE_ENDED, 1000);

    again = start(2, false);
    assert_int_equal(again.err.code, ERR_CONFLICT);
    assert_false(rollout_running(model()));
    again = start(2, true);
    assert_int_equal(again.err.code, ERR_OK);
    assert_int_equal(model()->n_holds, 0);
    assert_int_equal(stored_holds(), 0);
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 1000);
    assert_int_equal(model()->counts.n, 0); /* what the last one counted is not held against it */
    pass(SECONDS(1));
    assert_true(rollout_running(model()));
}

static void a_dry_run_tells_of_harm_in_every_step(void **state)
{
    struct rollout_policy p = *two_steps();
    struct answer a;

    (void)state;
    two_versions();
    p.dry_run = true;
    a = rollout_start(2, &p, false);
    assert_int_equal(a.err.code, ERR_OK);
    traffic(400, true);
    pass(SECONDS(1));
    assert_true(rollout_running(model()));
    assert_int_equal(history_count("rollout_verdict"), 1);
    pass(SECONDS(1));
    assert_int_equal(history_count("rollout_verdict"), 1);
    assert_int_equal(event(EVENT_SKIP, 0), ERR_OK);
    pass(SECONDS(1));
    assert_int_equal(history_count("rollout_verdict"), 2);
    assert_history("rollout_verdict", "weir (judge)", NULL, true);
}

/* ---- by a person ---- */

static void a_person_pauses_resumes_skips_and_sets(void **state)
{
    static const char *const kinds[] = {"rollout_started", "rollout_paused", "rollout_resumed", "rollout_step",
                                        "share_set",       "rollout_bake",   "aborted"};

    (void)state;
    two_versions();
    assert_int_equal(event(EVENT_PAUSE, 0), ERR_CONFLICT); /* nothing runs */
    start_ok(2);
    assert_int_equal(event(EVENT_PAUSE, 0), ERR_OK);
    assert_stored(ROLLOUT_RUNNING, PHASE_PAUSED, 1000);
    assert_history("rollout_paused", "test", NULL, false); /* before it was judged */
    assert_int_equal(event(EVENT_PAUSE, 0), ERR_CONFLICT);
    pass(SECONDS(100));
    assert_stored(ROLLOUT_RUNNING, PHASE_PAUSED, 1000);
    assert_int_equal(event(EVENT_RESUME, 0), ERR_OK);
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 1000);
    assert_int_equal(event(EVENT_RESUME, 0), ERR_CONFLICT);
    assert_int_equal(event(EVENT_SKIP, 0), ERR_OK);
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 5000);
    assert_int_equal(event(EVENT_SET, 10001), ERR_INVALID);
    assert_int_equal(event(EVENT_SET, 2000), ERR_OK);
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 2000);
    assert_false(model()->policy.automatic);
    assert_history("share_set", "test", "\"share_bp\":2000}]", true);
    assert_int_equal(event(EVENT_SET, 2000), ERR_OK); /* as it is: nothing is written */
    pass(SECONDS(10));
    traffic(1000, false);
    pass(SECONDS(1000)); /* only a person moves it now */
    assert_stored(ROLLOUT_RUNNING, PHASE_BAKE, 2000);
    restart();
    assert_false(model()->policy.automatic);
    assert_int_equal(rollback(true), ERR_OK);
    assert_stored(ROLLOUT_ABORTED, PHASE_ENDED, 2000);
    assert_int_equal(rollback(true), ERR_CONFLICT);
    assert_int_equal(model()->n_holds, 0);
    assert_told(kinds, COUNT_OF(kinds));
}

/* With nothing to compare with, nothing is judged, and nothing breaks. */
static void shares_of_nothing_and_of_all(void **state)
{
    (void)state;
    two_versions();
    start_ok(2);
    traffic(400, false);
    pass(SECONDS(1));
    assert_int_equal(event(EVENT_SET, 0), ERR_OK);
    assert_null(router_find(control_router(rig.control), MODEL)->tally);
    assert_history("share_set", "test", "\"share_bp\":10000}]", true);
    pass(SECONDS(60));
    assert_int_equal(event(EVENT_SET, 10000), ERR_OK);
    assert_null(router_find(control_router(rig.control), MODEL)->tally);
    pass(SECONDS(60));
    restart();
    assert_stored(ROLLOUT_RUNNING, PHASE_BAKE, 10000);
    assert_int_equal(event(EVENT_SET, 1000), ERR_OK);
    traffic(400, true);
    pass(SECONDS(1));
    assert_stored(ROLLOUT_ROLLED_BACK, PHASE_ENDED, 1000);
}

/* ---- the soak ---- */

static void harm_in_the_soak_goes_back_to_the_version_before(void **state)
{
    (void)state;
    soak();
    traffic(100, true);
    pass(SECONDS(1));
    assert_int_equal(model()->row.stable, 1);
    assert_int_equal(model()->row.previous, 0);
    assert_stored(ROLLOUT_ROLLED_BACK, PHASE_ENDED, 1000);
    assert_history("rolled_back", "weir (judge)", "\"version\":1", true);
    assert_non_null(model_hold(model(), model_version(model(), 2)->row.digest));
    assert_int_equal(stored_holds(), 1);
    restart();
    assert_int_equal(model()->row.stable, 1);
    assert_int_equal(rollback(false), ERR_CONFLICT);
}

static void a_person_goes_back_in_the_soak(void **state)
{
    (void)state;
    soak();
    assert_int_equal(event(EVENT_PAUSE, 0), ERR_CONFLICT);
    assert_int_equal(rollback(false), ERR_OK);
    assert_int_equal(model()->row.stable, 1);
    assert_stored(ROLLOUT_ROLLED_BACK, PHASE_ENDED, 1000);
    assert_int_equal(model()->n_holds, 0);
}

/* The soak waits for the version before to come back, and goes on. */
static void harm_in_the_soak_without_a_way_back(void **state)
{
    (void)state;
    soak();
    traffic(100, true);
    model_version(model(), 1)->state = VERSION_FAILED;
    pass(SECONDS(1));
    assert_stored(ROLLOUT_SOAKING, PHASE_SOAK, 1000);
    assert_int_equal(model()->row.stable, 2);
    assert_history("rollout_verdict", "weir (judge)", NULL, true);
    pass(SECONDS(1000));
    assert_stored(ROLLOUT_SOAKING, PHASE_SOAK, 1000);
    model_version(model(), 1)->state = VERSION_READY;
    pass(SECONDS(1));
    assert_int_equal(model()->row.stable, 1);
    assert_stored(ROLLOUT_ROLLED_BACK, PHASE_ENDED, 1000);
}

static void a_soak_ends_with_the_next_rollout_or_promotion(void **state)
{
    struct answer push;
    char id[40];

    (void)state;
    soak();
    snprintf(id, sizeof(id), "%s", model()->rollout.id);
    push_start(&push, "three", two_steps());
    WAIT(push.n);
    assert_int_equal(push.err.code, ERR_OK);
    assert_string_not_equal(model()->rollout.id, id);
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 1000);
    assert_history("rollout_started", "test", "\"version\":3", false);
    assert_int_equal(model()->rollout.stable, 2);
    promote_ok(3);
    assert_stored(ROLLOUT_SOAKING, PHASE_SOAK, 1000);
    pass(SECONDS(1));
    promote_ok(2); /* another one than the soaking */
    assert_stored(ROLLOUT_PROMOTED, PHASE_ENDED, 1000);
    assert_int_equal(model()->row.previous, 3);
    assert_int_equal(rollback(false), ERR_OK);
    assert_int_equal(model()->row.stable, 3);
    assert_history("rolled_back", "test", "\"version\":3", false); /* no rollout: no judge has seen it */
    restart();
    assert_int_equal(model()->row.stable, 3);
}

/* ---- a newer rollout ---- */

static void a_newer_rollout_replaces_or_is_refused(void **state)
{
    struct rollout_policy p = *two_steps();
    struct answer a;
    char id[40];

    (void)state;
    two_versions();
    push_ok("three", 3);
    start_ok(3);
    snprintf(id, sizeof(id), "%s", model()->rollout.id);
    traffic(400, false);
    pass(SECONDS(1));
    p.supersede = NEWER_REFUSED;
    a = rollout_start(2, &p, false);
    assert_int_equal(a.err.code, ERR_OK);
    assert_string_not_equal(model()->rollout.id, id);
    assert_int_equal(model()->rollout.canary, 2);
    assert_int_equal(model()->counts.n, 0);
    snprintf(id, sizeof(id), "%s", model()->rollout.id);
    a = start(3, false);
    assert_int_equal(a.err.code, ERR_CONFLICT);
    push_start(&a, "four", two_steps());
    WAIT(a.n);
    assert_int_equal(a.err.code, ERR_CONFLICT);
    assert_null(model_version(model(), 4));
    assert_string_equal(model()->rollout.id, id);
    promote_ok(3); /* a person who names a version wins */
    assert_stored(ROLLOUT_REPLACED, PHASE_ENDED, 1000);
    restart();
    assert_int_equal(model()->row.stable, 3);
    assert_false(rollout_running(model()));
}

/* ---- restarts ---- */

static void a_restart_goes_on_where_it_was(void **state)
{
    char id[40];
    uint64_t seen;

    (void)state;
    two_versions();
    start_ok(2);
    snprintf(id, sizeof(id), "%s", model()->rollout.id);
    pass(SECONDS(1));
    traffic(400, false);
    restart(); /* in the warm-up; what was counted in the last seconds is lost */
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 1000);
    pass(SECONDS(10));
    assert_stored(ROLLOUT_RUNNING, PHASE_BAKE, 1000);
    traffic(400, false);
    pass(SECONDS(30));
    pass(SECONDS(1)); /* written, behind the verdict */
    seen = model()->counts.stratum[0].answered[JUDGE_CANARY];
    assert_int_equal(seen, 40);
    restart(); /* in the bake */
    assert_string_equal(model()->rollout.id, id);
    assert_stored(ROLLOUT_RUNNING, PHASE_BAKE, 1000);
    assert_true(model()->progress.spent_us >= SECONDS(30));
    assert_int_equal(model()->progress.seen, seen);
    assert_true(model()->counts.slow_ns[0] > 0); /* what is slow stays what it was */
    assert_int_equal(event(EVENT_PAUSE, 0), ERR_OK);
    restart(); /* paused */
    assert_stored(ROLLOUT_RUNNING, PHASE_PAUSED, 1000);
    assert_int_equal(event(EVENT_RESUME, 0), ERR_OK);
    pass(SECONDS(30)); /* the rest of the bake: what was counted before counts */
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 5000);
    assert_int_equal(model()->counts.stratum[0].answered[JUDGE_CANARY], seen);
    promote_ok(0);
    pass(SECONDS(60));
    restart(); /* in the soak */
    assert_stored(ROLLOUT_SOAKING, PHASE_SOAK, 5000);
    assert_true(model()->progress.spent_us >= SECONDS(60));
    assert_int_equal(model()->row.stable, 2);
    traffic(30, false);
    pass(SECONDS(60));
    assert_stored(ROLLOUT_PROMOTED, PHASE_ENDED, 5000);
    restart();
    assert_stored(ROLLOUT_PROMOTED, PHASE_ENDED, 5000);
    assert_false(rollout_soaking(model()));
}

/* Feedback about n answers of an arm, so many of them wrong. */
static void labels(unsigned n, unsigned wrong, unsigned arm)
{
    const struct route *t = router_find(control_router(rig.control), MODEL);

    for (unsigned i = 0; i < n; i++) {
        struct tally_answer a = {.id = i * 7919 + arm, .stratum = t->stratum, .arm = (uint8_t)arm};

        tally_label(t->tally, i % SHARDS, &a, i < wrong);
        tally_reward(t->tally, i % SHARDS, &a, i < wrong ? 0 : 1.5);
    }
}

static void what_feedback_said_goes_on(void **state)
{
    struct judge_counts before;
    struct judge_finding wrong;

    (void)state;
    two_versions();
    start_ok(2);
    traffic(400, false);
    labels(300, 30, JUDGE_STABLE);
    labels(200, 25, JUDGE_CANARY);
    pass(SECONDS(30));
    pass(SECONDS(1)); /* written, behind the verdict */
    before = model()->counts;
    wrong = model()->judgement.finding[METRIC_WRONG];
    assert_int_equal(wrong.verdict, VERDICT_PASS);
    assert_int_equal(before.stratum[0].labelled[JUDGE_STABLE], 300);
    restart();
    pass(SECONDS(1));
    assert_memory_equal(&model()->counts.values, &before.values, sizeof(before.values));
    assert_memory_equal(model()->counts.stratum[0].labelled, before.stratum[0].labelled, 2 * sizeof(uint64_t));
    assert_int_equal(model()->counts.stratum[0].all[METRIC_WRONG][JUDGE_CANARY], 25);
    assert_true(model()->judgement.finding[METRIC_WRONG].difference.mid == wrong.difference.mid);
    promote_ok(0);
    assert_true(model()->baseline[METRIC_WRONG] == .1 && model()->baseline[METRIC_REWARD] == 1);
    assert_int_equal(model()->counts.values[0][JUDGE_STABLE].count, 0);
    restart();
    assert_true(model()->baseline[METRIC_WRONG] == .1);
}

/* As a release that knew nothing of feedback has written it. */
static void counts_of_an_older_release_are_read(void **state)
{
    static const char older[] = "{\"slow_ns\":[5000000,9000000],\"wait_ns\":7,\"baseline\":[0.5,0,0,0],\"strata\":"
                                "[[1000,360,40,360,40,1,2,3,4,5,6,7,8,11,12,13,14,15,16,17,18]]}";
    struct rollout_progress p;
    struct err e;
    struct buf b;

    (void)state;
    two_versions();
    start_ok(2);
    p = model()->progress;
    buf_init(&b, 4096);
    rollout_progress_json(&b, &p);
    assert_int_equal(on_progress(rig.store, model()->rollout.id, buf_z(&b), older, &e), ERR_OK);
    buf_done(&b);
    restart();
    const struct judge_stratum *s = &model()->counts.stratum[0];
    assert_int_equal(model()->counts.n, 1);
    assert_int_equal(s->answered[JUDGE_STABLE], 360);
    assert_int_equal(s->bad[METRIC_INVALID][JUDGE_CANARY], 8);
    assert_int_equal(s->all[METRIC_INVALID][JUDGE_CANARY], 18);
    assert_int_equal(s->labelled[JUDGE_STABLE] + s->bad[METRIC_WRONG][JUDGE_CANARY], 0);
    assert_true(model()->baseline[METRIC_ERRORS] == .5 && model()->baseline[METRIC_WRONG] == 1);
}

static void nobody_judges_while_an_arm_is_not_there(void **state)
{
    (void)state;
    two_versions();
    start_ok(2);
    traffic(400, true);
    model_version(model(), 1)->state = VERSION_LOADING;
    pass(SECONDS(10));
    assert_true(rollout_running(model()));
    assert_int_equal(model()->progress.spent_us, 0); /* and no time passes */
    model_version(model(), 1)->state = VERSION_READY;
    pass(SECONDS(1));
    assert_stored(ROLLOUT_ROLLED_BACK, PHASE_ENDED, 1000);
}

/* ---- the store ---- */

static void a_step_that_can_not_be_written_is_tried_again(void **state)
{
    struct answer a = {0};
    uint64_t share;

    (void)state;
    two_versions();
    start_ok(2);
    pass(SECONDS(10));
    traffic(400, false);
    pass(SECONDS(59));
    store_broken();
    pass(SECONDS(1));
    for (int i = 0; i < 2; i++) {
        assert_true(rollout_running(model()));
        assert_int_equal(model()->progress.phase, PHASE_BAKE);
        assert_int_equal(model()->rollout.share_bp, 1000);
        share = router_find(control_router(rig.control), MODEL)->share_bp;
        assert_int_equal(share, 1000);
        pass(SECONDS(1));
    }
    control_promote(rig.control, MODEL, 0, STR("test"), answered, &a);
    WAIT(a.n);
    assert_int_equal(a.err.code, ERR_STORAGE);
    assert_int_equal(model()->row.stable, 1);
    store_mended();
    assert_stored(ROLLOUT_RUNNING, PHASE_BAKE, 1000);
    pass(SECONDS(1));
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 5000);
}

/* The way back does not wait for a step that is being written; and the step never was. */
static void harm_is_seen_while_a_step_is_being_written(void **state)
{
    (void)state;
    two_versions();
    start_ok(2);
    traffic(400, false);
    pass(SECONDS(1));
    store_hold();
    leap(SECONDS(10));
    WAIT(model()->ordered && model()->changing);
    traffic(1000, true);
    leap(SECONDS(1));
    WAIT(!rollout_running(model()));
    assert_null(model()->tally);
    store_go();
    WAIT(quiet());
    assert_stored(ROLLOUT_ROLLED_BACK, PHASE_ENDED, 1000);
    assert_int_equal(stored_holds(), 1);
    assert_int_equal(start(2, true).err.code, ERR_OK); /* nothing is left behind */
    pass(SECONDS(10));
    assert_stored(ROLLOUT_RUNNING, PHASE_BAKE, 1000);
}

static void a_judgement_of_one_rollout_does_not_move_the_next(void **state)
{
    struct answer a = {0};

    (void)state;
    two_versions();
    push_ok("three", 3);
    start_ok(2);
    traffic(400, false);
    pass(SECONDS(1));
    store_hold();
    control_rollout_start(rig.control, MODEL, 3, two_steps(), false, STR("test"), answered, &a);
    WAIT(model()->changing);
    leap(SECONDS(3600));
    WAIT(model()->ordered); /* the first one's warm-up is over */
    store_go();
    WAIT(a.n && quiet());
    assert_int_equal(a.err.code, ERR_OK);
    assert_int_equal(model()->rollout.canary, 3);
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 1000);
}

/* What is written of a rollout now and then comes never after what ends it. */
static void progress_does_not_outlive_its_rollout(void **state)
{
    (void)state;
    two_versions();
    start_ok(2);
    traffic(400, false);
    store_hold();
    leap(SECONDS(11));
    WAIT(model()->ordered);
    store_go();
    WAIT(quiet());
    store_hold();
    leap(SECONDS(11));
    WAIT(model()->saving);
    control_rollback(rig.control, MODEL, STR("test"), true, rolled_back, &(struct answer){0});
    store_go();
    WAIT(quiet());
    assert_stored(ROLLOUT_ABORTED, PHASE_ENDED, 1000);
}

static void a_lifted_hold_stays_lifted_though_its_start_is_void(void **state)
{
    struct answer a = {0}, back = {0};

    (void)state;
    two_versions();
    push_ok("three", 3);
    start_ok(3);
    traffic(400, true);
    pass(SECONDS(1));
    assert_int_equal(stored_holds(), 1);
    start_ok(2);
    store_hold();
    control_rollout_start(rig.control, MODEL, 3, two_steps(), true, STR("test"), answered, &a);
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &back);
    store_go();
    WAIT(a.n && back.n && quiet());
    assert_int_equal(a.err.code, ERR_CONFLICT);
    assert_int_equal(stored_holds(), model()->n_holds);
}

/* ---- the end of the server ---- */

static void an_end_in_the_middle_of_a_step(void **state)
{
    (void)state;
    two_versions();
    start_ok(2);
    pass(SECONDS(1));
    store_hold();
    leap(SECONDS(10));
    WAIT(model()->ordered && model()->changing);
    control_stop(rig.control, 0, on_closed, &rig.closed);
    WAIT(rig.closed);
    store_go();
    run_dry();
    control_free(rig.control);
    open_control();
    assert_stored(ROLLOUT_RUNNING, PHASE_BAKE, 1000);
}

static void an_end_in_the_middle_of_a_start(void **state)
{
    struct answer a = {0};

    (void)state;
    two_versions();
    store_hold();
    control_rollout_start(rig.control, MODEL, 2, two_steps(), false, STR("test"), answered, &a);
    control_stop(rig.control, 0, on_closed, &rig.closed);
    WAIT(rig.closed);
    store_go();
    WAIT(a.n);
    leap(SECONDS(100)); /* the conductor has not begun again */
    run_dry();
    control_free(rig.control);
    open_control();
    assert_stored(ROLLOUT_RUNNING, PHASE_WARMUP, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_rollout_goes_by_itself_from_the_first_step_to_the_end, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(harm_is_rolled_back_held_and_told, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_dry_run_tells_of_harm_in_every_step, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_person_pauses_resumes_skips_and_sets, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(shares_of_nothing_and_of_all, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(harm_in_the_soak_goes_back_to_the_version_before, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_person_goes_back_in_the_soak, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(harm_in_the_soak_without_a_way_back, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_soak_ends_with_the_next_rollout_or_promotion, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_newer_rollout_replaces_or_is_refused, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_restart_goes_on_where_it_was, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(what_feedback_said_goes_on, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(counts_of_an_older_release_are_read, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(nobody_judges_while_an_arm_is_not_there, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_step_that_can_not_be_written_is_tried_again, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(harm_is_seen_while_a_step_is_being_written, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_judgement_of_one_rollout_does_not_move_the_next, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(progress_does_not_outlive_its_rollout, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_lifted_hold_stays_lifted_though_its_start_is_void, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(an_end_in_the_middle_of_a_step, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(an_end_in_the_middle_of_a_start, setup, rig_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
