/* SPDX-License-Identifier: Apache-2.0 */
/* Experiments: what they are told, what is stored, what their goal says, and the machine: frozen, shipped on evidence
 * only, invalid for good, expired. */
#include <math.h>

#include "base/hash.h"
#include "unit/control/rollout_case.h"

#define DAYS(n) HOURS(24 * (uint64_t)(n))

static struct goal_counts counts;
static struct experiment_finding found;

/* ---- what it is told ---- */

static void goals_as_text(void **state)
{
    static const struct {
        const char *text;
        enum goal_kind kind;
        const char *output;
        bool lower;
        const char *back;
    } good[] = {
        {"reward", GOAL_REWARD, "", false, "reward"},
        {"accuracy", GOAL_ACCURACY, "", false, "accuracy"},
        {"output:score", GOAL_OUTPUT, "score", false, "output:score:higher"},
        {"output:score:higher", GOAL_OUTPUT, "score", false, "output:score:higher"},
        {"output:score:lower", GOAL_OUTPUT, "score", true, "output:score:lower"},
        {"output:dense/out:0", GOAL_OUTPUT, "dense/out:0", false, "output:dense/out:0:higher"},
        {"output:a:lower:higher", GOAL_OUTPUT, "a:lower", false, "output:a:lower:higher"},
        {"output::lower", GOAL_OUTPUT, ":lower", false, "output::lower:higher"},
    };
    static const char *const bad[] = {"", "rewards", "reward:lower", "output", "output:", "Output:a", "accuracy "};
    struct experiment x;
    struct err e;
    struct buf b;
    char longest[400];

    (void)state;
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        experiment_default(&x);
        assert_int_equal(experiment_goal_read(&x, str_of(good[i].text), &e), ERR_OK);
        assert_int_equal(x.goal, good[i].kind);
        assert_string_equal(x.output, good[i].output);
        assert_int_equal(x.lower, good[i].lower);
        assert_int_equal(x.min_us, DAYS(7));
        buf_init(&b, 1000);
        experiment_goal_text(&x, &b);
        assert_string_equal(buf_z(&b), good[i].back);
        buf_done(&b);
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        experiment_default(&x);
        assert_int_equal(experiment_goal_read(&x, str_of(bad[i]), &e), ERR_INVALID);
        assert_non_null(strstr(e.text, "is no goal: it is reward, accuracy, output:NAME"));
        assert_int_equal(x.goal, GOAL_NONE);
    }
    memset(longest, 'a', sizeof(longest));
    memcpy(longest, "output:", 7);
    assert_int_equal(experiment_goal_read(&x, (struct str){longest, 7 + TENSOR_NAME_MAX}, &e), ERR_OK);
    assert_int_equal(experiment_goal_read(&x, (struct str){longest, 8 + TENSOR_NAME_MAX}, &e), ERR_INVALID);
    assert_non_null(strstr(e.text, "more than 255 characters"));
}

static struct rollout_policy tested(const char *goal)
{
    struct rollout_policy p;
    struct err e;

    policy_experiment(&p, 2500);
    assert_int_equal(experiment_goal_read(&p.experiment, str_of(goal), &e), ERR_OK);
    return p;
}

static void a_policy_is_stored_with_its_experiment(void **state)
{
    static const char *const bad[][2] = {
        {"\"goal\":\"reward\"", "\"goal\":\"rewards\""},
        {"\"goal\":\"reward\"", "\"goal\":7"},
        {"\"min_us\":604800000000,", ""},
        {"\"min_us\":604800000000", "\"min_us\":-1"},
        {"\"for_us\":2419200000000", "\"for_us\":0"},
        {"\"alpha_ppm\":50000", "\"alpha_ppm\":500001"},
        {"\"margin_bp\":0", "\"margin_bp\":0,\"more\":1"},
        {"\"experiment\":{", "\"experiment\":[{"},
        {"\"experiment\":{", "\"experiment\":7,\"experiment\":{"},
    };
    struct rollout_policy p = tested("output:dense \"x\":lower"), back;
    struct err e = {0};
    struct buf b;

    (void)state;
    p.experiment.min_us = 0;
    p.experiment.for_us = HOURS(36) + 1;
    p.experiment.alpha_ppm = 1;
    p.experiment.margin_bp = 250;
    buf_init(&b, 8192);
    policy_json(&b, &p);
    if (policy_read(&back, buf_str(&b), &e) != ERR_OK) {
        fail_msg("%s: %s", e.text, buf_z(&b));
    }
    assert_memory_equal(&back.experiment, &p.experiment, sizeof(p.experiment));
    assert_string_equal(back.name, "experiment");
    assert_int_equal(back.supersede, NEWER_REFUSED);
    assert_false(back.automatic);

    p = tested("reward");
    buf_clear(&b);
    policy_json(&b, &p);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        const char *text = buf_z(&b), *at = strstr(text, bad[i][0]);

        assert_non_null(at);
        char *made = xasprintf("%.*s%s%s", (int)(at - text), text, bad[i][1], at + strlen(bad[i][0]));
        if (policy_read(&back, str_of(made), &e) != ERR_STORAGE) {
            fail_msg("taken: %s", made);
        }
        free(made);
    }
    buf_clear(&b); /* and a rollout has none */
    policy_manual(&p, 500);
    policy_json(&b, &p);
    assert_null(strstr(buf_z(&b), "experiment"));
    assert_int_equal(policy_read(&back, buf_str(&b), &e), ERR_OK);
    assert_false(policy_tests(&back));
    buf_done(&b);
}

static void an_outcome_is_stored_with_its_progress(void **state)
{
    struct rollout_progress s = {.phase = PHASE_ENDED, .share_bp = 5000, .outcome = OUTCOME_INVALID, .invalid = true};
    struct rollout_progress back;
    struct err e = {0};
    struct buf b;

    (void)state;
    buf_init(&b, 4096);
    rollout_progress_json(&b, &s);
    assert_int_equal(rollout_progress_read(&back, buf_str(&b), &e), ERR_OK);
    assert_int_equal(back.outcome, OUTCOME_INVALID);
    assert_true(back.invalid);
    const char *text = buf_z(&b), *at = strstr(text, ",\"invalid\":true");
    char *made = xasprintf("%.*s%s", (int)(at - text), text, at + strlen(",\"invalid\":true")); /* one of the two */
    assert_int_equal(rollout_progress_read(&back, str_of(made), &e), ERR_STORAGE);
    free(made);
    s = (struct rollout_progress){.share_bp = 5000};
    buf_clear(&b);
    rollout_progress_json(&b, &s);
    assert_null(strstr(buf_z(&b), "outcome"));
    assert_int_equal(rollout_progress_read(&back, buf_str(&b), &e), ERR_OK);
    assert_int_equal(back.outcome, OUTCOME_NONE);
    buf_done(&b);
}

static void an_output_must_be_there(void **state)
{
    struct tensor_info outs[] = {{.name = "label", .dtype = DTYPE_BYTES}, {.name = "score", .dtype = DTYPE_FP32}};
    struct model_info both = {.n_out = 2, .out = outs}, one = {.n_out = 1, .out = outs};
    struct rollout_policy p = tested("output:score");
    struct err e;

    (void)state;
    assert_int_equal(experiment_fits(&p.experiment, &both, &both, &e), ERR_OK);
    assert_int_equal(experiment_fits(&p.experiment, &both, &one, &e), ERR_INVALID);
    assert_string_equal(e.text, "the candidate version has no output 'score' with numbers; with numbers it has: none");
    p = tested("output:label");
    assert_int_equal(experiment_fits(&p.experiment, &both, &both, &e), ERR_INVALID);
    assert_string_equal(e.text, "the stable version has no output 'label' with numbers; with numbers it has: score");
    p = tested("reward");
    assert_int_equal(experiment_fits(&p.experiment, &one, &one, &e), ERR_OK);
}

/* ---- what it has found ---- */

/* So many users on each arm with one value each: about the mean, alternately so much above and below it. */
static void fill(unsigned users, double stable, double candidate, double spread)
{
    struct goal *g = goal_new(1, NULL);

    for (uint64_t i = 0; i < 2 * (uint64_t)users; i++) {
        uint64_t arm = i % 2;

        goal_add(g, 0, (unsigned)arm, hash64(&i, sizeof(i)),
                 (arm ? candidate : stable) + (i / 2 % 2 ? spread : -spread));
    }
    goal_sum(g, &counts);
    goal_free(g);
}

static enum experiment_result result(const struct experiment *x, bool invalid)
{
    experiment_judge(x, &counts, 1, 2, invalid, &found);
    return found.result;
}

static void says(const char *what)
{
    if (!strstr(found.text, what)) {
        fail_msg("'%s' does not say '%s'", found.text, what);
    }
}

static void results(void **state)
{
    struct experiment x = tested("reward").experiment, less = tested("output:cost:lower").experiment;

    (void)state;
    fill(4000, .5, .5, .5);
    assert_int_equal(result(&x, false), RESULT_UNCLEAR);
    says("no difference to be seen yet: reward 0.5, of version 1 0.5: ");
    says("always-valid 95 %: -0.0");
    fill(4000, .5, .6, .5);
    assert_int_equal(result(&x, false), RESULT_BETTER);
    says("version 2 is better: reward 0.6, of version 1 0.5: +0.1 (+20.0 %; always-valid 95 %: +0.0");
    assert_true(found.lift.low > 0 && found.lift.low < .1 && found.lift.high > .1);
    assert_true(experiment_good(&found));
    assert_int_equal(result(&less, false), RESULT_WORSE);
    says("version 2 is worse: cost 0.6");
    assert_false(experiment_good(&found));
    fill(4000, -.5, -.6, .5);
    assert_int_equal(result(&x, false), RESULT_WORSE);
    says("-0.1 (-20.0 %;");
    assert_int_equal(result(&less, false), RESULT_BETTER);

    fill(4000, .5, .49, .5); /* worse by 2 %, and an interval of about 0.034 on either side */
    x.margin_bp = 500;
    assert_int_equal(result(&x, false), RESULT_UNCLEAR);
    x.margin_bp = 2500;
    assert_int_equal(result(&x, false), RESULT_SAME);
    says("version 2 is not worse: ");
    says("a margin of 0.125 given");
    assert_true(experiment_good(&found));
    less.margin_bp = 2500;
    assert_int_equal(result(&less, false), RESULT_SAME);

    x = tested("accuracy").experiment;
    fill(4000, .8, .9, .3);
    assert_int_equal(result(&x, false), RESULT_BETTER);
    says("accuracy 90.00 %, of version 1 80.00 %: +10.00 points (always-valid 95 %: +");
}

static void an_interval_is_the_one_of_the_formula(void **state)
{
    struct experiment x = tested("reward").experiment;
    struct stats_mean a, b;
    struct stats_lift want;

    (void)state;
    fill(700, 1, 1.25, 2);
    counts.dropped[JUDGE_CANARY] = 3;
    x.alpha_ppm = 10000;
    assert_int_equal(result(&x, false), RESULT_UNCLEAR);
    says("always-valid 99 %");
    a = stats_grouped(counts.arm[JUDGE_STABLE].y, counts.arm[JUDGE_STABLE].n, STATS_GROUPS);
    b = stats_grouped(counts.arm[JUDGE_CANARY].y, counts.arm[JUDGE_CANARY].n, STATS_GROUPS);
    want = stats_difference(&a, &b, false, false, .01, 5000);
    assert_true(found.lift.low == want.low && found.lift.high == want.high && found.lift.p == want.p);
    assert_int_equal((int)found.mean[JUDGE_CANARY].n, 700);
    assert_int_equal(found.dropped[JUDGE_CANARY], 3);
}

/* Fifty values of one user are one user: with a single group there is no spread to see, and no error to be known. */
static void too_few_values_or_users_give_no_result(void **state)
{
    struct experiment x = tested("reward").experiment;
    struct goal *g = goal_new(1, NULL);

    (void)state;
    memset(&counts, 0, sizeof(counts));
    assert_int_equal(result(&x, false), RESULT_FEW);
    says("too few values yet: 0 of version 2, 0 of version 1; an interval needs 50 of each");
    fill(49, 0, 1, 0);
    assert_int_equal(result(&x, false), RESULT_FEW);
    fill(200, 0, 1, 0);
    assert_int_equal(result(&x, false), RESULT_BETTER);
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t user = i % 40;

        goal_add(g, 0, i / 40 % 2, hash64(&user, sizeof(user)), i / 40 % 2);
    }
    goal_sum(g, &counts);
    goal_free(g);
    assert_int_equal(result(&x, false), RESULT_FEW);
    says("from more users than these");
    assert_in_range(found.groups[JUDGE_STABLE], 30, 40);
}

static void an_invalid_one_tells_no_number(void **state)
{
    struct experiment x = tested("reward").experiment;
    struct buf b;

    (void)state;
    fill(4000, 123, 456, .5);
    assert_int_equal(result(&x, true), RESULT_HIDDEN);
    says("hidden: users are not split 1:1 as ordered");
    assert_null(strstr(found.text, "456"));
    buf_init(&b, 4096);
    experiment_finding_json(&b, &x, &found);
    assert_null(strstr(buf_z(&b), "123"));
    assert_null(strstr(buf_z(&b), "456"));
    assert_null(strstr(buf_z(&b), "mean"));
    assert_false(experiment_good(&found));

    result(&x, false);
    buf_clear(&b);
    experiment_finding_json(&b, &x, &found);
    yyjson_doc *doc = yyjson_read(b.p, b.n, 0);
    yyjson_val *root = yyjson_doc_get_root(doc);
    assert_string_equal(yyjson_get_str(yyjson_obj_get(root, "result")), "better");
    assert_true(fabs(yyjson_get_num(yyjson_obj_get(yyjson_obj_get(root, "canary"), "mean")) - 456) < 1e-6);
    assert_int_equal(yyjson_get_uint(yyjson_obj_get(yyjson_obj_get(root, "stable"), "n")), 4000);
    assert_true(yyjson_get_num(yyjson_obj_get(yyjson_obj_get(root, "difference"), "low")) > 300);
    yyjson_doc_free(doc);
    buf_done(&b);
}

/* ---- the machine ---- */

static struct experiment_finding of(enum experiment_result r)
{
    struct experiment_finding f = {.result = r};

    snprintf(f.text, sizeof(f.text), "the goal says %s", experiment_result_names[r]);
    return f;
}

static void begins_test(struct story *t)
{
    *t = (struct story){.p = tested("reward")};
    rollout_begin(&t->p, &t->s);
}

static enum rollout_act test_ticks(struct story *t, uint64_t elapsed, enum verdict v, unsigned flags)
{
    struct experiment_finding f = of(flags & RATIO ? RESULT_HIDDEN : RESULT_UNCLEAR);
    struct rollout_event ev = {.kind = EVENT_TICK, .elapsed_us = elapsed, .judgement = &t->j, .finding = &f};

    judged(&t->j, v, 1000, flags);
    assert_int_equal(rollout_next(&t->p, &t->s, &ev, &t->got, NULL), ERR_OK);
    t->s = t->got.next;
    return t->got.act;
}

static enum err_code ships(struct story *t, enum experiment_result r, bool force, struct err *e)
{
    struct experiment_finding f = of(r);
    struct rollout_event ev = {.kind = EVENT_SHIP, .judgement = &t->j, .finding = &f, .force = force};

    return rollout_next(&t->p, &t->s, &ev, &t->got, e);
}

static void refused(struct story *t, enum experiment_result r, bool force, const char *why)
{
    struct err e = {0};

    assert_int_equal(ships(t, r, force, &e), ERR_CONFLICT);
    if (!strstr(e.text, why)) {
        fail_msg("'%s' does not say '%s'", e.text, why);
    }
}

static void its_shares_are_frozen(void **state)
{
    static const enum rollout_event_kind kinds[] = {EVENT_PAUSE, EVENT_RESUME, EVENT_SKIP, EVENT_SET, EVENT_PROMOTE};
    struct story t;
    struct err e;

    (void)state;
    begins_test(&t);
    assert_int_equal(t.s.phase, PHASE_BAKE);
    assert_int_equal(t.s.share_bp, 2500);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        struct rollout_event ev = {.kind = kinds[i], .share_bp = 1000};

        assert_int_equal(rollout_next(&t.p, &t.s, &ev, &t.got, &e), ERR_CONFLICT);
        assert_non_null(strstr(e.text, "its shares are frozen until it ends"));
    }
    /* Nothing that pauses a rollout does anything to it. */
    assert_int_equal(test_ticks(&t, DAYS(1), NODATA, 0), ACT_NONE);
    assert_int_equal(test_ticks(&t, DAYS(1), UNCLEAR, RATIO), ACT_NONE);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(test_ticks(&t, HOURS(1), BROKEN, 0), ACT_NONE);
    }
    assert_int_equal(test_ticks(&t, HOURS(1), FAIL, SICK), ACT_NONE);
    assert_int_equal(t.s.phase, PHASE_BAKE);
}

static void it_is_shipped_on_evidence_and_in_time(void **state)
{
    struct story t;
    struct err e;

    (void)state;
    begins_test(&t);
    refused(&t, RESULT_BETTER, false, "it may be shipped in 7 d, when it has run for 7 d; --force");
    assert_int_equal(test_ticks(&t, DAYS(7) - 1, PASS, 0), ACT_NONE);
    refused(&t, RESULT_BETTER, false, "it may be shipped in 1 ms");
    assert_int_equal(test_ticks(&t, 1, PASS, 0), ACT_NONE);
    refused(&t, RESULT_FEW, false, "its goal does not speak for it: the goal says few");
    refused(&t, RESULT_UNCLEAR, false, "the goal says unclear");
    refused(&t, RESULT_WORSE, false, "the goal says worse");
    judged(&t.j, FAIL, 1000, SICK);
    refused(&t, RESULT_BETTER, false, "a guardrail failed: " HARM);
    judged(&t.j, PASS, 1000, 0);
    for (int force = 0; force < 2; force++) {
        enum experiment_result r = force ? RESULT_WORSE : RESULT_SAME;

        assert_int_equal(ships(&t, r, force, &e), ERR_OK);
        assert_int_equal(t.got.act, ACT_PROMOTE);
        assert_int_equal(t.got.next.phase, PHASE_SOAK);
        assert_int_equal(t.got.next.outcome, OUTCOME_SHIPPED);
    }
    assert_int_equal(ships(&t, RESULT_BETTER, false, &e), ERR_OK);
    assert_non_null(strstr(t.got.text, "shipped: the goal says better; the candidate becomes the stable version"));

    t.s = t.got.next; /* from here on it is a rollout that soaks */
    assert_int_equal(ships(&t, RESULT_BETTER, true, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "promoted already"));
    assert_int_equal(test_ticks(&t, HOURS(1), PASS, 0), ACT_COMPLETE);
    assert_int_equal(t.s.outcome, OUTCOME_SHIPPED);

    begins_test(&t); /* by force before its time; a rollout is none */
    assert_int_equal(ships(&t, RESULT_UNCLEAR, true, &e), ERR_OK);
    assert_non_null(strstr(t.got.text, "shipped, as a person insisted: "));
    begins(&t, MANUAL);
    refused(&t, RESULT_BETTER, true, "it is a rollout and no experiment");
}

static void a_broken_ratio_makes_it_invalid_for_good(void **state)
{
    struct story t;

    (void)state;
    begins_test(&t);
    t.p.experiment.min_us = 0;
    assert_int_equal(test_ticks(&t, HOURS(1), PASS, RATIO), ACT_NONE);
    assert_true(t.s.invalid);
    assert_int_equal(test_ticks(&t, HOURS(1), PASS, 0), ACT_NONE); /* mended: who came before came as they did */
    assert_true(t.s.invalid);
    refused(&t, RESULT_HIDDEN, false, "the experiment is invalid and can not be shipped");
    refused(&t, RESULT_BETTER, true, "the experiment is invalid and can not be shipped");
    assert_int_equal(test_ticks(&t, DAYS(28), PASS, 0), ACT_ABORT);
    assert_int_equal(t.s.outcome, OUTCOME_INVALID);

    begins_test(&t);
    refused(&t, RESULT_HIDDEN, true, "invalid"); /* seen now, and not ticked yet */
}

static void harm_and_time_end_it(void **state)
{
    struct story t;
    char text[400];

    (void)state;
    begins_test(&t);
    assert_int_equal(test_ticks(&t, HOURS(1), FAIL, 0), ACT_ROLL_BACK);
    assert_int_equal(t.s.outcome, OUTCOME_HARM);
    assert_string_equal(t.got.text, "stopped for harm: " HARM);
    begins_test(&t);
    assert_int_equal(test_ticks(&t, HOURS(1), FAIL, SICK | BY_LIMIT), ACT_ROLL_BACK);

    begins_test(&t);
    assert_int_equal(rollout_earliest_us(&t.p, &t.s), DAYS(28));
    assert_int_equal(test_ticks(&t, DAYS(28) - 1, PASS, 0), ACT_NONE);
    rollout_waits_for(&t.p, &t.s, &t.j, "m", text, sizeof(text));
    assert_non_null(strstr(text, "it ends in 1 ms at the latest, and then the stable version stays"));
    assert_non_null(strstr(text, "weir experiment status m"));
    assert_int_equal(test_ticks(&t, 1, PASS, 0), ACT_ABORT);
    assert_int_equal(t.s.outcome, OUTCOME_EXPIRED);
    assert_int_equal(t.s.phase, PHASE_ENDED);
    assert_string_equal(t.got.text, "the experiment expired after 28 d: the goal says unclear");

    begins_test(&t);
    rollout_waits_for(&t.p, &t.s, &t.j, "m", text, sizeof(text));
    assert_non_null(strstr(text, "it may be shipped in 7 d"));
    t.s.invalid = true;
    rollout_waits_for(&t.p, &t.s, &t.j, "m", text, sizeof(text));
    assert_non_null(strstr(text, "weir experiment stop m"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goals_as_text),
        cmocka_unit_test(a_policy_is_stored_with_its_experiment),
        cmocka_unit_test(an_outcome_is_stored_with_its_progress),
        cmocka_unit_test(an_output_must_be_there),
        cmocka_unit_test(results),
        cmocka_unit_test(an_interval_is_the_one_of_the_formula),
        cmocka_unit_test(too_few_values_or_users_give_no_result),
        cmocka_unit_test(an_invalid_one_tells_no_number),
        cmocka_unit_test(its_shares_are_frozen),
        cmocka_unit_test(it_is_shipped_on_evidence_and_in_time),
        cmocka_unit_test(a_broken_ratio_makes_it_invalid_for_good),
        cmocka_unit_test(harm_and_time_end_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
