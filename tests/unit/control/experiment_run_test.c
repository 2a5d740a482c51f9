/* SPDX-License-Identifier: Apache-2.0 */
/* An experiment under the conductor: from its start to each of its ends, with what is written of it, what a restart
 * makes of that, and what nobody may do meanwhile.
 *
 * The store is the real one, values go through the real goal and the real tally; the engines are fakes. Time is the
 * real one and what the test adds to it. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "control/router.h"
#include "support/control_rig.h"
#include "support/store_help.h"

#define DAYS(n) SECONDS(86400 * (uint64_t)(n))

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

static bool quiet(void)
{
    const struct model *m = model();

    return !m->ordered && !m->changing && !m->undo && !m->saving;
}

/* Time passes, the experiment is judged, and what follows is through. */
static void pass(uint64_t us)
{
    uint64_t now;

    atomic_fetch_add(&skipped_us, us);
    now = clock_us();
    WAIT(model()->judged_us >= now && quiet());
}

/* ---- what is done ---- */

static uint64_t next_user;

/* So many new users on each arm, with one request and one value each: alternately above and below the mean. */
static void traffic(unsigned users, double stable, double candidate, bool canary_errs)
{
    const struct route *t = router_find(control_router(rig.control), MODEL);
    uint64_t now = clock_us();

    assert_non_null(t->tally);
    assert_non_null(t->goal);
    for (unsigned i = 0; i < 2 * users; i++) {
        uint64_t user = ++next_user, key = hash64(&user, sizeof(user)) | 1;
        unsigned arm = i % 2 ? JUDGE_CANARY : JUDGE_STABLE, part = i / 2 % SHARDS;
        struct series *series = arm == JUDGE_CANARY ? t->canary_series : t->stable_series;
        bool bad = arm == JUDGE_CANARY && canary_errs;
        struct tally_mark mark;

        series_begin(series, part);
        tally_begin(t->tally, part, &mark, t->stratum, arm, key, now);
        tally_end(&mark, part, bad ? TALLY_ERROR : 0, now);
        series_end(series, part, bad ? ERR_INTERNAL : ERR_OK, 1000000, 0, 1000000);
        goal_add(t->goal, part, arm, key, (arm == JUDGE_CANARY ? candidate : stable) + (i / 2 % 2 ? .5 : -.5));
    }
}

/* Users who come to one arm only. */
static void lopsided(unsigned users)
{
    const struct route *t = router_find(control_router(rig.control), MODEL);

    for (unsigned i = 0; i < users; i++) {
        uint64_t user = ++next_user;
        struct tally_mark mark;

        tally_begin(t->tally, 0, &mark, t->stratum, JUDGE_CANARY, hash64(&user, sizeof(user)) | 1, clock_us());
        tally_end(&mark, 0, 0, clock_us());
    }
}

static struct rollout_policy *tested(const char *goal)
{
    static struct rollout_policy p;
    struct err e;

    policy_experiment(&p, 1000);
    assert_int_equal(experiment_goal_read(&p.experiment, str_of(goal), &e), ERR_OK);
    return &p;
}

static void begin(void)
{
    struct answer a;

    push_ok("one", 1);
    push_ok("two", 2);
    a = rollout_start(2, tested("reward"), false);
    assert_string_equal(a.err.text, "");
    assert_int_equal(a.err.code, ERR_OK);
}

static struct answer ship(bool force)
{
    struct answer a = {0};

    control_experiment_ship(rig.control, MODEL, force, STR("test"), answered, &a);
    WAIT(a.n && quiet());
    return a;
}

static void stop(void)
{
    struct answer a = {0};

    control_rollback(rig.control, MODEL, STR("test"), true, rolled_back, &a);
    WAIT(a.n && quiet());
    assert_int_equal(a.err.code, ERR_OK);
}

static void restart(void)
{
    close_control();
    open_control();
}

/* ---- what is looked at ---- */

static void says(const char *text, const char *what)
{
    if (!strstr(text, what)) {
        fail_msg("'%s' does not say '%s'", text, what);
    }
}

/* The newest line of history of this kind says so, and its evidence has it, too; evidence NULL: it has none. */
static void assert_history(const char *kind, const char *text, const char *evidence)
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
    says(rows[i].text, text);
    if (evidence) {
        assert_non_null(rows[i].evidence);
        says(rows[i].evidence, evidence);
    } else {
        assert_null(rows[i].evidence);
    }
    history_done(rows, n);
}

/* As memory and, after a restart, as the store has it. */
static void assert_ended(enum rollout_state state, enum experiment_outcome outcome, int64_t stable, const char *reason)
{
    for (int i = 0; i < 2; i++) {
        assert_int_equal(model()->rollout.state, state);
        assert_int_equal(model()->progress.outcome, outcome);
        assert_int_equal(model()->row.stable, stable);
        says(model()->rollout.reason, reason);
        assert_false(experiment_running(model()));
        assert_null(model()->goal);
        assert_false(router_find(control_router(rig.control), MODEL)->fixed);
        restart();
    }
}

/* ---- its ends ---- */

static void one_that_is_better_is_shipped_when_its_time_has_come(void **state)
{
    const struct route *t;
    struct answer a;

    (void)state;
    begin();
    t = router_find(control_router(rig.control), MODEL);
    assert_true(t->fixed);
    assert_int_equal(t->goal_kind, GOAL_REWARD);
    assert_int_equal(t->share_bp, 1000);
    assert_history("experiment_started",
                   "version 2 is tested at a share of 10 %, with the goal reward, beside version 1", NULL);
    a = ship(false);
    assert_int_equal(a.err.code, ERR_CONFLICT);
    says(a.err.text, "it may be shipped in 7 d");
    traffic(2000, 0, .2, false);
    pass(SECONDS(11));
    assert_int_equal(model()->judgement.verdict, VERDICT_PASS);
    assert_false(model()->judgement.ratio_broken);
    assert_int_equal(model()->counts.stratum[0].share_bp, 5000); /* in the test they are one to one */
    assert_int_equal(model()->finding.result, RESULT_BETTER);
    pass(SECONDS(11));
    pass(SECONDS(11));
    assert_history("experiment_result", "version 2 is better: reward 0.2, of version 1 0: +0.2",
                   "\"goal\":{\"result\":");
    assert_int_equal(ship(false).err.code, ERR_CONFLICT);
    pass(DAYS(7));
    a = ship(false);
    assert_string_equal(a.err.text, "");
    assert_int_equal(model()->rollout.state, ROLLOUT_SOAKING);
    assert_history("promoted", "version 2 is the stable version (before: 1): shipped: version 2 is better", "\"mean\"");
    assert_int_equal(ship(true).err.code, ERR_CONFLICT);
    restart();
    assert_int_equal(model()->rollout.state, ROLLOUT_SOAKING);
    assert_int_equal(model()->finding.result, RESULT_BETTER);
    pass(SECONDS(3600));
    assert_ended(ROLLOUT_PROMOTED, OUTCOME_SHIPPED, 2, "");
}

static void a_person_ships_it_by_force_or_stops_it(void **state)
{
    struct answer a;

    (void)state;
    begin();
    traffic(200, 0, 0, false);
    a = ship(false);
    assert_int_equal(a.err.code, ERR_CONFLICT);
    stop();
    assert_history("aborted", "the experiment was stopped by test: no difference to be seen yet: reward 0", "unclear");
    assert_ended(ROLLOUT_ABORTED, OUTCOME_KEPT, 1, "the experiment was stopped by test: no difference");
    assert_int_equal(model()->finding.result, RESULT_UNCLEAR); /* it can still be looked at */
    assert_int_equal((int)model()->finding.mean[JUDGE_CANARY].n, 200);
    assert_int_equal(model()->n_holds, 0);

    a = rollout_start(2, tested("accuracy"), false);
    assert_int_equal(a.err.code, ERR_OK);
    assert_int_equal((int)model()->finding.mean[JUDGE_CANARY].n, 0); /* nothing of the one before */
    a = ship(true);
    assert_string_equal(a.err.text, "");
    assert_int_equal(model()->row.stable, 2);
    says(model()->rollout.reason, "version 2 was shipped by test: too few values yet");
}

static void harm_stops_it(void **state)
{
    (void)state;
    begin();
    traffic(300, 0, .2, true);
    pass(SECONDS(1));
    assert_history("rolled_back", "stopped for harm: errors", "\"goal\"");
    assert_int_equal(model()->n_holds, 1);
    assert_ended(ROLLOUT_ROLLED_BACK, OUTCOME_HARM, 1, "stopped for harm");
}

static void it_ends_when_its_time_is_over(void **state)
{
    (void)state;
    begin();
    traffic(300, 0, .2, false);
    pass(DAYS(27));
    assert_true(experiment_running(model()));
    pass(DAYS(1));
    assert_history("aborted", "the experiment expired after 28 d: ", "\"goal\"");
    assert_ended(ROLLOUT_ABORTED, OUTCOME_EXPIRED, 1, "the experiment expired after 28 d: ");
}

static void a_broken_ratio_hides_what_it_found(void **state)
{
    struct answer a;

    (void)state;
    begin();
    traffic(2000, 0, .7771, false);
    pass(SECONDS(1));
    assert_int_equal(model()->finding.result, RESULT_BETTER);
    lopsided(400);
    pass(SECONDS(11));
    assert_int_equal(model()->finding.result, RESULT_HIDDEN);
    pass(SECONDS(11));
    assert_history("experiment_result", "hidden: users are not split 1:1", "\"goal\":{\"result\":\"hidden\"");
    traffic(40000, 0, .7771, false); /* drowned, but not forgotten */
    pass(DAYS(7));
    assert_false(model()->judgement.ratio_broken);
    assert_int_equal(model()->finding.result, RESULT_HIDDEN);
    restart();
    assert_int_equal(model()->finding.result, RESULT_HIDDEN);
    a = ship(true);
    assert_int_equal(a.err.code, ERR_CONFLICT);
    says(a.err.text, "the experiment is invalid and can not be shipped");
    assert_null(strstr(a.err.text, "0.777"));
    stop();
    assert_ended(ROLLOUT_ABORTED, OUTCOME_INVALID, 1, "hidden: users are not split 1:1");
    assert_null(strstr(model()->rollout.reason, "0.777"));
    assert_int_equal(model()->finding.result, RESULT_HIDDEN);
}

/* ---- meanwhile ---- */

static enum err_code event(enum rollout_event_kind kind, uint32_t share_bp)
{
    struct answer a = {0};

    control_rollout_event(rig.control, MODEL, kind, share_bp, STR("test"), answered, &a);
    WAIT(a.n);
    return a.err.code;
}

static void nothing_moves_it_and_nothing_begins_beside_it(void **state)
{
    struct answer a;

    (void)state;
    begin();
    assert_int_equal(event(EVENT_SET, 1000), ERR_CONFLICT); /* the share that it has, too */
    assert_int_equal(event(EVENT_SET, 2000), ERR_CONFLICT);
    assert_int_equal(event(EVENT_SKIP, 0), ERR_CONFLICT);
    assert_int_equal(event(EVENT_PAUSE, 0), ERR_CONFLICT);
    assert_int_equal(event(EVENT_RESUME, 0), ERR_CONFLICT);
    a = (struct answer){0};
    control_promote(rig.control, MODEL, 0, STR("test"), answered, &a);
    WAIT(a.n);
    assert_int_equal(a.err.code, ERR_CONFLICT);
    says(a.err.text, "its shares are frozen");
    push_start(&a, "three", manual(500));
    WAIT(a.n);
    assert_int_equal(a.err.code, ERR_CONFLICT);
    says(a.err.text, "an experiment with version 2 is running");
    push_ok("four", 3);
    a = rollout_start(3, tested("reward"), false);
    assert_int_equal(a.err.code, ERR_CONFLICT);
    assert_int_equal(model()->rollout.canary, 2);
    a = (struct answer){0};
    control_rollback(rig.control, MODEL, STR("test"), false, rolled_back, &a); /* and the way back is always open */
    WAIT(a.n && quiet());
    assert_int_equal(a.err.code, ERR_OK);
    assert_ended(ROLLOUT_ROLLED_BACK, OUTCOME_KEPT, 1, "the experiment was stopped by test");
}

static void a_goal_that_no_version_has_is_refused(void **state)
{
    struct answer a;

    (void)state;
    push_ok("one", 1);
    push_ok("two", 2);
    a = rollout_start(2, tested("output:e"), false);
    assert_int_equal(a.err.code, ERR_INVALID);
    assert_string_equal(a.err.text, "the stable version has no output 'e' with numbers; with numbers it has: c, d");
    assert_false(rollout_running(model()));
    a = rollout_start(2, tested("output:d:lower"), false);
    assert_int_equal(a.err.code, ERR_OK);
    assert_string_equal(router_find(control_router(rig.control), MODEL)->goal_output, "d");
    a = ship(false);
    assert_int_equal(a.err.code, ERR_CONFLICT);
}

static void a_restart_in_the_middle_goes_on(void **state)
{
    char id[40];

    (void)state;
    begin();
    snprintf(id, sizeof(id), "%s", model()->rollout.id);
    traffic(1000, 0, .2, false);
    pass(DAYS(3));
    pass(SECONDS(11)); /* written, behind what history was told */
    pass(SECONDS(11));
    restart();
    assert_string_equal(model()->rollout.id, id);
    assert_true(experiment_running(model()));
    assert_true(model()->progress.spent_us >= DAYS(3));
    assert_int_equal((int)model()->finding.mean[JUDGE_STABLE].n, 1000);
    assert_int_equal(model()->finding.result, RESULT_BETTER);
    traffic(1000, 0, .2, false);
    pass(DAYS(4));
    assert_int_equal((int)model()->finding.mean[JUDGE_CANARY].n, 2000);
    assert_true(fabs(model()->finding.lift.lift - .2) < 1e-9);
    assert_string_equal(ship(false).err.text, "");
    assert_int_equal(model()->row.stable, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_that_is_better_is_shipped_when_its_time_has_come, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_person_ships_it_by_force_or_stops_it, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(harm_stops_it, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(it_ends_when_its_time_is_over, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_broken_ratio_hides_what_it_found, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(nothing_moves_it_and_nothing_begins_beside_it, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_goal_that_no_version_has_is_refused, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(a_restart_in_the_middle_goes_on, rig_setup, rig_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
