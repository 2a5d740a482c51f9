/* SPDX-License-Identifier: Apache-2.0 */
/* Policies: defaults, what weir.yaml may say, steps, the judge's rule; and what is stored: every field there and back,
 * and nothing else taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/json.h"
#include "control/rollout.h"

#define HOURS(n) SECONDS(3600 * (uint64_t)(n))

static void same_policy(const struct rollout_policy *a, const struct rollout_policy *b)
{
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->automatic, b->automatic);
    assert_int_equal(a->n_steps, b->n_steps);
    for (uint32_t i = 0; i < a->n_steps; i++) {
        assert_int_equal(a->step[i], b->step[i]);
    }
    assert_int_equal(a->bake_us, b->bake_us);
    assert_int_equal(a->warmup_us, b->warmup_us);
    assert_int_equal(a->interval_us, b->interval_us);
    assert_int_equal(a->min_requests, b->min_requests);
    assert_int_equal(a->alpha_ppm, b->alpha_ppm);
    assert_int_equal(a->margin_bp, b->margin_bp);
    assert_int_equal(a->slow_margin_bp, b->slow_margin_bp);
    assert_int_equal(a->error_limit_bp, b->error_limit_bp);
    assert_int_equal(a->slow_limit_bp, b->slow_limit_bp);
    assert_int_equal(a->invalid_limit_bp, b->invalid_limit_bp);
    assert_int_equal(a->wrong_limit_bp, b->wrong_limit_bp);
    assert_int_equal(a->wrong_margin_bp, b->wrong_margin_bp);
    assert_int_equal(a->reward_margin_bp, b->reward_margin_bp);
    assert_int_equal(a->dry_run, b->dry_run);
    assert_int_equal(a->on_inconclusive, b->on_inconclusive);
    assert_int_equal(a->on_nodata, b->on_nodata);
    assert_int_equal(a->supersede, b->supersede);
    assert_int_equal(a->nodata_timeout_us, b->nodata_timeout_us);
    assert_int_equal(a->step_timeout_us, b->step_timeout_us);
    assert_int_equal(a->pause_timeout_us, b->pause_timeout_us);
    assert_int_equal(a->soak_us, b->soak_us);
    assert_int_equal(a->error_limit, b->error_limit);
}

static struct rollout_policy full(void)
{
    struct rollout_policy p = {
        .name = "careful-2.1_b",
        .automatic = true,
        .step = {1, 25, 1225, 9999},
        .n_steps = 4,
        .bake_us = 1,
        .warmup_us = MILLIS(1500),
        .interval_us = HOURS(1),
        .min_requests = 1000000000,
        .alpha_ppm = 1,
        .margin_bp = 10000,
        .slow_margin_bp = 5,
        .error_limit_bp = 9999,
        .slow_limit_bp = 100,
        .invalid_limit_bp = 1,
        .wrong_limit_bp = 2500,
        .wrong_margin_bp = 10000,
        .reward_margin_bp = 50,
        .dry_run = true,
        .on_inconclusive = UNCLEAR_HOLD,
        .on_nodata = SILENCE_ABORT,
        .supersede = NEWER_REFUSED,
        .nodata_timeout_us = 0,
        .step_timeout_us = SECONDS(90),
        .pause_timeout_us = HOURS(48),
        .soak_us = HOURS(24 * 365),
        .error_limit = 1000,
    };
    return p;
}

/* ---- what a policy is ---- */

static void defaults(void **state)
{
    (void)state;
    struct rollout_policy p, want = {.name = "default",
                                     .automatic = true,
                                     .step = {100, 500, 1000, 2500, 5000},
                                     .n_steps = 5,
                                     .bake_us = SECONDS(600),
                                     .warmup_us = SECONDS(30),
                                     .interval_us = SECONDS(1),
                                     .min_requests = 100,
                                     .alpha_ppm = 10000,
                                     .slow_margin_bp = 1000,
                                     .on_inconclusive = UNCLEAR_ADVANCE,
                                     .on_nodata = SILENCE_HOLD,
                                     .supersede = NEWER_REPLACES,
                                     .nodata_timeout_us = HOURS(24),
                                     .step_timeout_us = HOURS(6),
                                     .soak_us = HOURS(1),
                                     .error_limit = 4};

    memset(&p, 0xAA, sizeof(p));
    policy_default(&p, "default");
    same_policy(&p, &want);

    memset(&p, 0xAA, sizeof(p));
    policy_manual(&p, 725);
    snprintf(want.name, sizeof(want.name), "manual");
    want.automatic = false;
    want.n_steps = 1;
    want.step[0] = 725;
    want.soak_us = want.nodata_timeout_us = want.step_timeout_us = 0;
    same_policy(&p, &want);
}

static void the_judges_rule(void **state)
{
    (void)state;
    struct rollout_policy p = full();
    struct judge_rule r;

    p.alpha_ppm = 10000;
    policy_rule(&p, &r);
    assert_true(r.alpha == 0.01);
    assert_int_equal(r.min_requests, 1000000000);
    assert_true(r.margin[METRIC_ERRORS] == 1 && r.margin[METRIC_INVALID] == 1);
    assert_true(r.margin[METRIC_SLOW95] == 0.0005 && r.margin[METRIC_SLOW99] == 0.0005);
    assert_true(r.limit[METRIC_ERRORS] == 0.9999 && r.limit[METRIC_INVALID] == 0.0001);
    assert_true(r.limit[METRIC_SLOW95] == 0.01 && r.limit[METRIC_SLOW99] == 0);
    assert_true(r.limit[METRIC_WRONG] == 0.25 && r.margin[METRIC_WRONG] == 1);
    assert_true(r.limit[METRIC_REWARD] == 0 && r.margin[METRIC_REWARD] == 0.005);
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        assert_false(r.dry[m]); /* a dry run is judged like any other */
    }
}

static enum err_code from_yaml(struct rollout_policy *p, const char *text, struct err *e)
{
    static const char *const except[] = {"steps", NULL};
    AUTO(conf) c = NULL;

    policy_default(p, "yaml");
    assert_int_equal(conf_read_text(&c, "t.yaml", str_of(text), e), ERR_OK);
    return settings_read(policy_settings, n_policy_settings, c, c->root, except, p, e);
}

static void from_weir_yaml(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"bake: 10", "t.yaml:1:1: bake: '10' is not a time such as"},
        {"baek: 10m", "unknown key; did you mean 'bake'?"},
        {"min_requests: 0", "0 is below the least, 1"},
        {"interval: 1ms", "1ms is below the least, 100ms"},
        {"alpha_ppm: 0", "below the least"},
        {"max_errors: 100%", "100% is above the most, 99.99%"},
        {"max_wrong: 100%", "100% is above the most, 99.99%"},
        {"margin: 101%", "above the most"},
        {"on_inconclusive: promote", "'promote' is not advance or hold"},
        {"on_nodata: advance", "'advance' is not hold or abort"},
        {"supersede: queue", "'queue' is not replace or refuse"},
        {"error_limit: 0", "below the least"},
        {"soak: 366d", "366d is above the most, 365d"},
        {"automatic: off", "unknown key"},
    };
    struct rollout_policy p, want = full();
    struct err e = {0};

    memcpy(want.name, "yaml", 5);
    enum err_code code = from_yaml(
        &p,
        "{steps: '0.01%,0.25%,12.25%,99.99%', bake: 1us, warmup: 1500ms, interval: 1h, min_requests: 1000000000,\n"
        "alpha_ppm: 1, margin: 100%, slow_margin: 0.05%, max_errors: 99.99%, max_slow: 1%, max_invalid: 0.01%,\n"
        "dry_run: on, on_inconclusive: hold, on_nodata: abort, supersede: refuse, nodata_timeout: 0,\n"
        "step_timeout: 90s, pause_timeout: 2d, soak: 365d, error_limit: 1000,\n"
        "max_wrong: 25%, wrong_margin: 100%, reward_margin: 0.5%}",
        &e);
    if (code != ERR_OK) {
        fail_msg("%s", e.text);
    }
    assert_int_equal(policy_steps(&p, STR("0.01%,0.25%,12.25%,99.99%"), &e), ERR_OK);
    same_policy(&p, &want);
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        assert_int_equal(from_yaml(&p, bad[i].text, &e), ERR_INVALID);
        if (!strstr(e.text, bad[i].why)) {
            fail_msg("'%s' does not say '%s'", e.text, bad[i].why);
        }
    }
    for (size_t i = 0; i < n_policy_settings; i++) {
        assert_non_null(policy_settings[i].help);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(policy_settings[i].name, policy_settings[k].name);
            assert_true(policy_settings[i].offset != policy_settings[k].offset);
        }
    }
}

static void steps(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"", "'' is not a share such as 5% or 12.25%"},
        {"5", "'5' is not a share"},
        {"5%,", "'' is not a share"},
        {",5%", "'' is not a share"},
        {"5 %", "'5 %' is not a share"},
        {"5%;6%", "is not a share"},
        {"-5%", "is not a share"},
        {"5.125%", "is not a share"},
        {"99999999999999999999%", "is not a share"},
        {"0%", "0% is not above 0% and below 100%"},
        {"50%,100%", "100% is not above 0% and below 100%"},
        {"5%,5%", "5% is not more than the step before it"},
        {"10%,5%", "5% is not more than the step before it"},
        {"1%,2%,3%,4%,5%,6%,7%,8%,9%,10%,11%,12%,13%,14%,15%,16%,17%", "steps: more than 16"},
    };
    struct rollout_policy p, before;
    struct err e = {0};

    policy_default(&p, "default");
    assert_int_equal(policy_steps(&p, STR("1%, 5% ,  25%,50%"), &e), ERR_OK);
    assert_int_equal(p.n_steps, 4);
    assert_int_equal(p.step[0], 100);
    assert_int_equal(p.step[3], 5000);
    assert_int_equal(policy_steps(&p, STR("0.01%"), &e), ERR_OK);
    assert_int_equal(p.n_steps, 1);
    assert_int_equal(p.step[0], 1);
    assert_int_equal(policy_steps(&p, STR("1%,2%,3%,4%,5%,6%,7%,8%,9%,10%,11%,12%,13%,14%,15%,16%"), &e), ERR_OK);
    assert_int_equal(p.n_steps, ROLLOUT_STEPS);
    before = p;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        assert_int_equal(policy_steps(&p, str_of(bad[i].text), &e), ERR_INVALID);
        if (!strstr(e.text, bad[i].why)) {
            fail_msg("'%s': '%s' does not say '%s'", bad[i].text, e.text, bad[i].why);
        }
        same_policy(&p, &before);
    }
    assert_int_equal(policy_steps(&p, (struct str){NULL, 0}, &e), ERR_INVALID);
}

/* ---- what is stored ---- */

static void written_and_read(const struct rollout_policy *p)
{
    struct rollout_policy back;
    struct err e = {0};
    struct buf b;

    buf_init(&b, 4096);
    policy_json(&b, p);
    if (policy_read(&back, buf_str(&b), &e) != ERR_OK) {
        fail_msg("%s: %s", e.text, buf_z(&b));
    }
    same_policy(p, &back);
    buf_done(&b);
}

#define LATER "\"max_wrong\":\"0%\",\"wrong_margin\":\"0%\",\"reward_margin\":\"0%\""
static const char stored[] =
    "{\"name\":\"default\",\"steps\":\"1%,5%,10%,25%,50%\",\"automatic\":true,\"bake\":\"10m\",\"warmup\":\"30s\","
    "\"interval\":\"1s\",\"min_requests\":100,\"alpha_ppm\":10000,\"margin\":\"0%\",\"slow_margin\":\"10%\","
    "\"max_errors\":\"0%\",\"max_slow\":\"0%\",\"max_invalid\":\"0%\",\"dry_run\":false,"
    "\"on_inconclusive\":\"advance\",\"on_nodata\":\"hold\",\"nodata_timeout\":\"1d\",\"error_limit\":4,"
    "\"step_timeout\":\"6h\",\"pause_timeout\":\"0\",\"soak\":\"1h\",\"supersede\":\"replace\"," LATER "}";

static void there_and_back(void **state)
{
    (void)state;
    struct rollout_policy p;
    uint64_t chance = 7;
    struct buf b;

    policy_default(&p, "default");
    buf_init(&b, 4096);
    policy_json(&b, &p);
    assert_string_equal(buf_z(&b), stored);
    buf_done(&b);
    written_and_read(&p);
    policy_manual(&p, 1);
    written_and_read(&p);
    p = full();
    for (int i = 0; i < 300; i++) { /* times that are no whole number of any unit, too */
        written_and_read(&p);
        chance = chance * 6364136223846793005u + 1442695040888963407u;
        p.bake_us = chance % HOURS(24 * 365);
        p.soak_us = p.bake_us / SECONDS(1) * SECONDS(1);
        p.pause_timeout_us = p.bake_us / HOURS(1) * HOURS(1);
        p.margin_bp = chance % 10001;
    }
}

static void policy_refused(struct str json, const char *why)
{
    struct rollout_policy p = full(), before = full();
    struct err e = {0};

    if (policy_read(&p, json, &e) != ERR_STORAGE || e.code != ERR_STORAGE) {
        fail_msg("taken: " STR_FMT, STR_ARG(json));
    }
    if (!strstr(e.text, why)) {
        fail_msg("'%s' does not say '%s'", e.text, why);
    }
    same_policy(&p, &before);
}

/* `text` with its first `from` made `to`. */
static struct str with(char *out, size_t cap, const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);

    assert_non_null(at);
    int n = snprintf(out, cap, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    assert_true(n >= 0 && (size_t)n < cap);
    return (struct str){out, (size_t)n};
}

/* What an older release has stored: it knew nothing of feedback. */
static void of_an_older_release(void **state)
{
    (void)state;
    struct rollout_policy p, want;
    struct err e = {0};
    char text[2048];

    policy_default(&want, "default");
    assert_int_equal(policy_read(&p, with(text, sizeof(text), stored, "," LATER, ""), &e), ERR_OK);
    same_policy(&p, &want);
    assert_int_equal(policy_read(&p, with(text, sizeof(text), stored, "\"max_wrong\":\"0%\",", ""), &e), ERR_OK);
    same_policy(&p, &want);
}

struct change {
    const char *from, *to, *why;
};

static void hostile_policies(void **state)
{
    (void)state;
    static const struct change bad[] = {
        {"{", "[", "no object"},
        {"}", "}{}", "something stands behind it"},
        {"}", ",}", "no object"},
        {"\"bake\":\"10m\",", "", "a field is missing"},
        {"\"name\":\"default\",", "", "a field is missing"},
        {"\"steps\":\"1%,5%,10%,25%,50%\",", "", "a field is missing"},
        {"\"automatic\":true,", "", "a field is missing"},
        {"\"warmup\"", "\"bake\"", "twice"},
        {"\"warmup\"", "\"warm\"", "a field that it has not"},
        {"{", "{\"name\":\"x\",", "twice"},
        {"\"default\"", "\"a/b\"", "name"},
        {"\"default\"", "\"a\\u0000b\"", "name"},
        {"\"default\"", "\"\"", "name"},
        {"\"default\"", "7", "name"},
        {"\"1%,5%,10%,25%,50%\"", "\"5%,1%\"", "1% is not more than the step before it"},
        {"\"1%,5%,10%,25%,50%\"", "[100]", "steps"},
        {"\"1%,5%,10%,25%,50%\"", "\"1%\\u002c5%\"", "steps"},
        {"true", "\"on\"", "automatic"},
        {"true", "null", "automatic"},
        {"true", "1", "automatic"},
        {"\"10m\"", "600000000", "bake"},
        {"\"10m\"", "\"10 m\"", "bake"},
        {"\"10m\"", "\"366d\"", "365d"},
        {"\"10m\"", "{\"bake\":\"10m\"}", "bake"},
        {":100,", ":0,", "below the least"},
        {":100,", ":-1,", "min_requests"},
        {":100,", ":1e2,", "min_requests"},
        {":100,", ":100.0,", "min_requests"},
        {":100,", ":\"100\",", "min_requests"},
        {":100,", ":99999999999999999999999,", "min_requests"},
        {":100,", ":00000000000000000000000000000000000000000000000000000000000000000000000000001,", "min_requests"},
        {":100,", ":1000000000000000000000000000000000000000000000000000000000000000000000000000001,", "min_requests"},
        {"\"0%\"", "\"-1%\"", "margin"},
        {"\"advance\"", "\"maybe\"", "maybe"},
        {"\"advance\"", "0", "on_inconclusive"},
        {"\"replace\"", "\"replace\\u0000\"", "supersede"},
    };
    char text[2048];

    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        policy_refused(with(text, sizeof(text), stored, bad[i].from, bad[i].to), bad[i].why);
    }
    for (size_t n = 0; n < sizeof(stored) - 1; n++) {
        policy_refused((struct str){stored, n}, "a stored policy can not be read: ");
    }
    policy_refused((struct str){stored, sizeof(stored)}, ""); /* with its zero byte */
}

/* One byte of it changed: refused, or a policy that is stored and read like any other. */
static void mutants(void **state)
{
    (void)state;
    char text[sizeof(stored)];
    unsigned taken = 0, tries = 0;

    for (size_t at = 0; at < sizeof(stored) - 1; at++) {
        for (unsigned c = 0; c < 256; c += 3) {
            struct rollout_policy p;
            struct err e = {0};

            memcpy(text, stored, sizeof(stored));
            text[at] = (char)c;
            tries++;
            if (policy_read(&p, (struct str){text, sizeof(stored) - 1}, &e) == ERR_OK) {
                written_and_read(&p);
                taken++;
            } else {
                assert_int_equal(e.code, ERR_STORAGE);
            }
        }
    }
    assert_true(taken > 0 && taken < tries / 10);
}

/* ---- a rollout's progress ---- */

static const char progress[] =
    "{\"phase\":\"paused\",\"step\":15,\"share_bp\":9999,\"pause\":\"step_timeout\",\"paused_in\":\"bake\","
    "\"spent_us\":18446744073709551615,\"kept_us\":2,\"step_us\":3,\"silent_us\":4,\"answered\":5,\"seen\":6,"
    "\"failures\":7,\"waived\":12,\"told\":true}";

static void progress_there_and_back(void **state)
{
    (void)state;
    const struct rollout_progress s = {
        .phase = PHASE_PAUSED,
        .step = 15,
        .share_bp = 9999,
        .pause = PAUSE_STEP_TIMEOUT,
        .paused_in = PHASE_BAKE,
        .spent_us = UINT64_MAX,
        .kept_us = 2,
        .step_us = 3,
        .silent_us = 4,
        .answered = 5,
        .seen = 6,
        .failures = 7,
        .waived = 1u << PAUSE_RATIO | 1u << PAUSE_STABLE_SICK,
        .told = true,
    };
    struct rollout_progress back = {0};
    struct rollout_policy p;
    struct buf b;

    buf_init(&b, 4096);
    rollout_progress_json(&b, &s);
    assert_string_equal(buf_z(&b), progress);
    assert_int_equal(rollout_progress_read(&back, buf_str(&b), NULL), ERR_OK);
    buf_clear(&b);
    rollout_progress_json(&b, &back); /* read right, if it is written the same again */
    assert_string_equal(buf_z(&b), progress);
    buf_clear(&b);

    policy_manual(&p, 500);
    rollout_begin(&p, &back);
    rollout_progress_json(&b, &back);
    assert_string_equal(buf_z(&b),
                        "{\"phase\":\"warmup\",\"step\":0,\"share_bp\":500,\"pause\":\"\",\"paused_in\":\"warmup\","
                        "\"spent_us\":0,\"kept_us\":0,\"step_us\":0,\"silent_us\":0,\"answered\":0,\"seen\":0,"
                        "\"failures\":0,\"waived\":0,\"told\":false}");
    assert_int_equal(rollout_progress_read(&back, buf_str(&b), NULL), ERR_OK);
    assert_int_equal(back.share_bp, 500);
    buf_done(&b);
}

static void progress_refused(struct str json, const char *why)
{
    struct rollout_progress s = {.step = 3};
    struct err e = {0};

    if (rollout_progress_read(&s, json, &e) != ERR_STORAGE || e.code != ERR_STORAGE) {
        fail_msg("taken: " STR_FMT, STR_ARG(json));
    }
    if (!strstr(e.text, why)) {
        fail_msg("'%s' does not say '%s'", e.text, why);
    }
    assert_int_equal(s.step, 3);
}

static void hostile_progress(void **state)
{
    (void)state;
    static const struct change bad[] = {
        {"\"paused\"", "\"flying\"", "flying"},
        {"\"paused\"", "2", "phase"},
        {"\"paused\"", "\"bake\"", "its phase and its pause contradict each other"},
        {"\"step_timeout\"", "\"\"", "its phase and its pause contradict each other"},
        {"\"paused_in\":\"bake\"", "\"paused_in\":\"soak\"", "its phase and its pause contradict each other"},
        {"\"paused_in\":\"bake\"", "\"paused_in\":\"paused\"", "its phase and its pause contradict each other"},
        {":15,", ":16,", "16 is above the most, 15"},
        {":9999,", ":10001,", "above the most"},
        {"\"phase\":\"paused\",\"step\":15,\"share_bp\":9999,\"pause\":\"step_timeout\"",
         "\"phase\":\"soak\",\"step\":15,\"share_bp\":9999,\"pause\":\"\"", "share contradict"},
        {":18446744073709551615,", ":18446744073709551616,", "spent_us"},
        {":5,", ":7,", "more answers than were seen"},
        {":12,", ":256,", "above the most"},
        {"true", "1", "told"},
        {"\"kept_us\":2,", "", "a field is missing"},
        {"\"kept_us\"", "\"step_us\"", "twice"},
        {"\"kept_us\"", "\"left_us\"", "a field that it has not"},
        {"}", "}1", "something stands behind it"},
        {"{", "", "no object"},
    };
    char text[1024];

    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        progress_refused(with(text, sizeof(text), progress, bad[i].from, bad[i].to), bad[i].why);
    }
    for (size_t n = 0; n < sizeof(progress) - 1; n++) {
        progress_refused((struct str){progress, n}, "a stored rollout can not be read: ");
    }
}

static void names(void **state)
{
    (void)state;
    assert_string_equal(rollout_phase_names[PHASE_WARMUP], "warmup");
    assert_string_equal(rollout_phase_names[PHASE_ENDED], "ended");
    assert_null(rollout_phase_names[PHASE_ENDED + 1]);
    assert_string_equal(pause_reason_names[PAUSE_NONE], "");
    assert_string_equal(pause_reason_names[PAUSE_STABLE_SICK], "stable_sick");
    assert_string_equal(pause_reason_names[PAUSE_INCONCLUSIVE], "inconclusive");
    assert_string_equal(pause_reason_names[PAUSE_STEP_TIMEOUT], "step_timeout");
    assert_null(pause_reason_names[PAUSE_STEP_TIMEOUT + 1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults), cmocka_unit_test(the_judges_rule),         cmocka_unit_test(from_weir_yaml),
        cmocka_unit_test(steps),    cmocka_unit_test(there_and_back),          cmocka_unit_test(hostile_policies),
        cmocka_unit_test(mutants),  cmocka_unit_test(progress_there_and_back), cmocka_unit_test(hostile_progress),
        cmocka_unit_test(names),    cmocka_unit_test(of_an_older_release),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
