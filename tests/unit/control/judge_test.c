/* SPDX-License-Identifier: Apache-2.0 */
/* The judge: each verdict, what decides it and what does not, the sentences, and the evidence as JSON. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "control/judge.h"

static const struct judge_rule plain = {.alpha = .01, .min_requests = 100};
static struct judgement j;

static struct judge_counts counts_of(uint32_t share_bp, uint64_t stable, uint64_t canary)
{
    struct judge_counts c = {.n = 1, .slow_ns = {120000000, 1500000000}};
    c.stratum[0] =
        (struct judge_stratum){.share_bp = share_bp, .answered = {stable, canary}, .exposed = {stable, canary}};
    return c;
}

static void set_bad(struct judge_counts *c, size_t stratum, enum judge_metric m, uint64_t stable, uint64_t canary)
{
    struct judge_stratum *s = &c->stratum[stratum];
    s->bad[m][JUDGE_STABLE] = s->all[m][JUDGE_STABLE] = stable;
    s->bad[m][JUDGE_CANARY] = s->all[m][JUDGE_CANARY] = canary;
}

static void judged(const struct judge_rule *rule, const struct judge_counts *c, enum verdict verdict, const char *text)
{
    judge(rule, c, &j);
    assert_string_equal(j.text, text);
    assert_string_equal(verdict_names[j.verdict], verdict_names[verdict]);
}

/* ---- verdicts ---- */

static void harm_fails(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 19800, 1043);
    set_bad(&c, 0, METRIC_ERRORS, 70, 20);
    judged(&plain, &c, VERDICT_FAIL,
           "errors 5.4 times the stable's (always-valid 95 %: 2.3 to 11.1) at a share of 5 %: 20 bad answers of 1,043 "
           "against 70 of 19,800");
    const struct judge_finding *f = &j.finding[METRIC_ERRORS];
    assert_int_equal(j.worst, METRIC_ERRORS);
    assert_int_equal(f->verdict, VERDICT_FAIL);
    assert_false(f->by_limit);
    assert_true(fabs(f->ln_e - 13.956428) < 1e-6 && fabs(f->trip - log(400 / .9)) < 1e-12 && f->ln_e_limit == 0);
    assert_true(fabs(f->rate[JUDGE_CANARY] - 20. / 1043) < 1e-15);
    assert_true(f->requests_left > 0 && isfinite(f->requests_left));
    assert_int_equal(j.finding[METRIC_INVALID].verdict, VERDICT_PASS);
    assert_true(isinf(j.finding[METRIC_INVALID].requests_left));
    assert_false(j.stable_sick);
    assert_false(j.ratio_broken);
}

/* Not enough answers for a PASS are enough for a FAIL. */
static void harm_need_not_wait(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 400, 20);
    set_bad(&c, 0, METRIC_INVALID, 0, 6);
    judged(&plain, &c, VERDICT_FAIL,
           "invalid answers, and the stable has none (always-valid 95 %: at least 4.9) at a share of 5 %: 6 invalid "
           "answers of 20 against 0 of 400");
    assert_int_equal(j.worst, METRIC_INVALID);
    assert_int_equal(j.finding[METRIC_ERRORS].verdict, VERDICT_NODATA);
}

static void nothing_seen_passes(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 24000, 1240);
    set_bad(&c, 0, METRIC_ERRORS, 240, 12);
    judged(&plain, &c, VERDICT_PASS, "no harm seen in 1,240 answers");
    assert_int_equal(j.answered[JUDGE_STABLE], 24000);
    assert_int_equal(j.answered[JUDGE_CANARY], 1240);
    for (size_t m = 0; m < METRIC_COUNT; m++) { /* nobody has sent feedback: that holds nothing back */
        assert_int_equal(j.finding[m].verdict, metric_by_feedback(m) ? VERDICT_NODATA : VERDICT_PASS);
    }
    c = counts_of(500, 2356000, 124000);
    judged(&plain, &c, VERDICT_PASS, "no harm seen in 124,000 answers");
}

static void too_few_answers(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 230, 12), none = {0};
    struct judge_rule any = {.alpha = .01};
    judged(&plain, &c, VERDICT_NODATA, "12 of the 100 answers that a verdict needs");
    judged(&any, &c, VERDICT_PASS, "no harm seen in 12 answers");
    judged(&plain, &none, VERDICT_NODATA, "0 of the 100 answers that a verdict needs");
    judged(&any, &none, VERDICT_NODATA, "0 of the 1 answers that a verdict needs");
    c = counts_of(500, 0, 120);
    c.stratum[0].exposed[JUDGE_CANARY] = 0;
    judged(&plain, &c, VERDICT_NODATA, "no answer of the stable version to compare with");
    /* What is slow is not known: that is no evidence that nothing is. */
    c = counts_of(500, 2300, 120);
    c.slow_ns[0] = c.slow_ns[1] = 0;
    judged(&plain, &c, VERDICT_PASS, "no harm seen in 120 answers");
    assert_int_equal(j.finding[METRIC_SLOW95].verdict, VERDICT_NODATA);
    assert_int_equal(j.finding[METRIC_ERRORS].verdict, VERDICT_PASS);
}

static void suspicion(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 19800, 1043);
    set_bad(&c, 0, METRIC_SLOW95, 70, 4);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    bool suspected = false;
    for (uint64_t x = 4; x < 20 && j.verdict != VERDICT_FAIL; x++) {
        set_bad(&c, 0, METRIC_SLOW95, 70, x);
        judge(&plain, &c, &j);
        double ln_e = stats_ln_e(x, 70 + x, .05, STATS_ABOVE);
        assert_int_equal(j.verdict, ln_e >= log(400 / .9)      ? VERDICT_FAIL
                                    : ln_e > log(400 / .9) / 3 ? VERDICT_INCONCLUSIVE
                                                               : VERDICT_PASS);
        suspected |= j.verdict == VERDICT_INCONCLUSIVE && j.worst == METRIC_SLOW95;
    }
    assert_true(suspected);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    set_bad(&c, 0, METRIC_SLOW95, 70, 11);
    judged(&plain, &c, VERDICT_INCONCLUSIVE,
           "a suspicion, no proof yet: slow answers (beyond the stable's p95 of 120 ms) 3.0 times the stable's "
           "(always-valid 95 %: 0.9 to 7.2) at a share of 5 %: 11 slow answers of 1,043 against 70 of 19,800");
    c.stratum[0].answered[JUDGE_CANARY] = 99;
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_NODATA);
    /* With a low height a third of it is little: a suspicion is twice as likely as not. */
    struct judge_rule eager = {.alpha = .5, .dry = {false, true, true, true, true, true}};
    c = counts_of(500, 19800, 1043);
    bool between = false;
    for (uint64_t x = 0; x < 20; x++) {
        set_bad(&c, 0, METRIC_ERRORS, 70, x);
        judge(&eager, &c, &j);
        const struct judge_finding *f = &j.finding[METRIC_ERRORS];
        assert_int_equal(j.verdict, f->ln_e >= log(2) ? VERDICT_FAIL : VERDICT_PASS);
        between |= f->ln_e > f->trip / 3 && f->ln_e < f->trip;
    }
    assert_true(between);
}

static void contradictions(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(0, 100, 100);
    judged(&plain, &c, VERDICT_ERROR, "the counts contradict themselves: nothing can be compared at a share of 0 %");
    assert_int_equal(j.finding[METRIC_ERRORS].verdict, VERDICT_ERROR);
    c = counts_of(10000, 100, 100);
    judged(&plain, &c, VERDICT_ERROR, "the counts contradict themselves: nothing can be compared at a share of 100 %");
    c = counts_of(500, 2000, 100);
    set_bad(&c, 0, METRIC_SLOW99, 3, 101);
    judged(&plain, &c, VERDICT_ERROR,
           "the counts contradict themselves: at a share of 5 % the canary version gave 100 answers, of them 101 slow "
           "(slow_p99), and these to 101 users");
    c = counts_of(500, 2000, 100);
    c.stratum[0].bad[METRIC_ERRORS][JUDGE_STABLE] = 2;
    c.stratum[0].all[METRIC_ERRORS][JUDGE_STABLE] = 1;
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_ERROR);
    c = counts_of(500, 2000, 100);
    c.n = JUDGE_STRATA + 1;
    judged(&plain, &c, VERDICT_ERROR, "the counts contradict themselves: 33 shares, at most 32 can be");
}

/* ---- what the rule says ---- */

static void strata_add_up(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 9000, 500);
    c.n = 2;
    c.stratum[1] = c.stratum[0];
    c.stratum[1].share_bp = 1000;
    c.stratum[1].exposed[JUDGE_STABLE] = 4500;
    set_bad(&c, 0, METRIC_ERRORS, 51, 9);
    set_bad(&c, 1, METRIC_ERRORS, 58, 22);
    c.stratum[1].all[METRIC_ERRORS][JUDGE_CANARY] = 30;
    judged(&plain, &c, VERDICT_FAIL,
           "errors 3.4 times the stable's (always-valid 95 %: 1.5 to 6.5) at shares of 5 to 10 %: 31 bad answers of "
           "1,000 against 109 of 18,000, one a user");
    const struct judge_finding *f = &j.finding[METRIC_ERRORS];
    assert_true(fabs(f->ln_e - 11.564158) < 1e-6);
    assert_int_equal(f->bad[JUDGE_CANARY], 31);
    assert_int_equal(f->all[JUDGE_CANARY], 39);
    assert_true(fabs(f->rate[JUDGE_CANARY] - .039) < 1e-15);
    assert_true(fabs(f->risk.mid - 3.3938733) < 1e-7);
}

static void margin_is_tolerated(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(5000, 10000, 10000);
    struct judge_rule lenient = {.alpha = .01, .margin = {[METRIC_SLOW95] = .1}, .min_requests = 100};
    set_bad(&c, 0, METRIC_SLOW95, 500, 640);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    judge(&lenient, &c, &j);
    assert_int_not_equal(j.verdict, VERDICT_FAIL);
    set_bad(&c, 0, METRIC_SLOW95, 500, 720);
    judged(&lenient, &c, VERDICT_FAIL,
           "slow answers (beyond the stable's p95 of 120 ms) 1.4 times the stable's (always-valid 95 %: 1.2 to 1.7), "
           "1.1 tolerated, at a share of 50 %: 720 slow answers of 10,000 against 500 of 10,000");
}

static void dry_run_never_decides(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 19800, 1043);
    struct judge_rule dry = plain, all_dry = plain;
    dry.dry[METRIC_ERRORS] = true;
    memset(all_dry.dry, true, sizeof(all_dry.dry));
    set_bad(&c, 0, METRIC_ERRORS, 70, 20);
    set_bad(&c, 0, METRIC_INVALID, 4, 1);
    static const char text[] = "no harm seen in 1,043 answers; would fail, were it not in dry run: errors 5.4 times "
                               "the stable's (always-valid "
                               "95 %: 2.3 to 11.1) at a share of 5 %: 20 bad answers of 1,043 against 70 of 19,800";
    judged(&dry, &c, VERDICT_PASS, text);
    assert_int_equal(j.worst, METRIC_INVALID);
    assert_int_equal(j.finding[METRIC_ERRORS].verdict, VERDICT_FAIL);
    assert_true(fabs(j.finding[METRIC_ERRORS].trip - log(300 / .9)) < 1e-12); /* alpha is for the others */
    assert_true(fabs(j.finding[METRIC_WRONG].trip - log(200 / .1)) < 1e-12);
    judged(&all_dry, &c, VERDICT_PASS, text);
    assert_int_equal(j.worst, METRIC_ERRORS);
    assert_true(fabs(j.finding[METRIC_ERRORS].trip - log(100)) < 1e-12);
    c.stratum[0].answered[JUDGE_CANARY] = 50;
    judge(&all_dry, &c, &j);
    assert_int_equal(j.verdict, VERDICT_NODATA);
}

static void absolute_limit(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 20, 250);
    struct judge_rule limited = {.alpha = .01, .limit = {[METRIC_ERRORS] = .02}, .min_requests = 100};
    c.stratum[0].exposed[JUDGE_CANARY] = 1;
    set_bad(&c, 0, METRIC_ERRORS, 20, 20); /* the stable is bad too: but not by count enough to be called sick */
    c.stratum[0].answered[JUDGE_STABLE] = 4750;
    judge(&limited, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_true(j.finding[METRIC_ERRORS].by_limit && !j.stable_sick);
    assert_true(fabs(j.finding[METRIC_ERRORS].ln_e_limit - stats_ln_e(20, 250, .02, STATS_ABOVE)) < 1e-12);
    assert_non_null(
        strstr(j.text, "20 bad answers of 250 against 20 of 4,750; 8 % of its answers, above the limit of 2 %"));
    /* The limit alone: no more than the stable's. */
    set_bad(&c, 0, METRIC_ERRORS, 380, 20);
    judged(&limited, &c, VERDICT_FAIL,
           "errors 8 % of 250 answers, above the limit of 2 %; the stable version itself: errors 8 % of 4,750 answers, "
           "above the limit of 2 %");
    assert_true(j.stable_sick);
    set_bad(&c, 0, METRIC_ERRORS, 230, 12);
    judge(&limited, &c, &j);
    assert_int_equal(j.verdict, VERDICT_INCONCLUSIVE);
    assert_non_null(strstr(j.text, "errors 4.8 % of 250 answers, perhaps above the limit of 2 %"));
    assert_false(j.finding[METRIC_ERRORS].by_limit);
    limited.dry[METRIC_ERRORS] = true;
    set_bad(&c, 0, METRIC_ERRORS, 380, 20);
    judge(&limited, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    assert_false(j.stable_sick);
}

static void stable_sick_and_worse(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 19800, 1043);
    struct judge_rule limited = {.alpha = .01, .limit = {[METRIC_INVALID] = .05}, .min_requests = 100};
    set_bad(&c, 0, METRIC_ERRORS, 70, 20);
    set_bad(&c, 0, METRIC_INVALID, 1980, 62);
    judge(&limited, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_int_equal(j.worst, METRIC_ERRORS);
    assert_true(j.stable_sick);
    assert_false(j.finding[METRIC_ERRORS].by_limit);
    assert_non_null(
        strstr(j.text, "against 70 of 19,800; the stable version itself: invalid answers 10 % of 19,800 answers"));
}

static void broken_ratio(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 9400, 600);
    judged(
        &plain, &c, VERDICT_PASS,
        "no harm seen in 600 answers; and the arms are not split as ordered: the canary got 600 users, not about 500");
    assert_true(j.ratio_broken);
    assert_true(fabs(j.ratio_ln_e - 7.785948) < 1e-6 && fabs(j.ratio_p - 4.468e-6) < 1e-9);
    c = counts_of(500, 9500, 500);
    judge(&plain, &c, &j);
    assert_false(j.ratio_broken);
    assert_true(j.ratio_p > .999);
}

/* Ten of 39 slow, and all within a few seconds: a busy machine. The same again and again is the version's. */
static void slow_in_a_few_moments_is_no_proof(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(1000, 4260, 390);
    set_bad(&c, 0, METRIC_SLOW95, 90, 60);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    c.stratum[0].moments[0] = 20;
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_false(j.finding[METRIC_SLOW95].brief);
    assert_int_equal(j.finding[METRIC_SLOW95].bad[JUDGE_CANARY], 60); /* what is shown is all of it */
    c.stratum[0].moments[0] = 52;
    judged(&plain, &c, VERDICT_INCONCLUSIVE,
           "a suspicion, no proof yet: slow answers (beyond the stable's p95 of 120 ms) 6.0 times the stable's "
           "(always-valid 95 %: 3.5 to 9.9) at a share of 10 %: 60 slow answers of 390 against 90 of 4,260; in a few "
           "moments only");
    assert_int_equal(j.worst, METRIC_SLOW95);
    assert_true(j.finding[METRIC_SLOW95].brief);
    set_bad(&c, 0, METRIC_ERRORS, 0, 60);
    judge(&plain, &c, &j); /* another guardrail's proof is not held up by it */
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_int_equal(j.worst, METRIC_ERRORS);
    set_bad(&c, 0, METRIC_ERRORS, 0, 0);
    set_bad(&c, 0, METRIC_SLOW95, 400, 60);
    judge(&plain, &c, &j); /* it came to be normal */
    assert_int_equal(j.verdict, VERDICT_PASS);
    /* The limit, and the soak. */
    struct judge_rule limited = {.alpha = .01, .limit = {[METRIC_SLOW95] = .1}, .min_requests = 100};
    set_bad(&c, 0, METRIC_SLOW95, 400, 90);
    c.stratum[0].moments[0] = 10;
    judge(&limited, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    c.stratum[0].moments[0] = 80;
    judge(&limited, &c, &j);
    assert_int_equal(j.verdict, VERDICT_INCONCLUSIVE);
    double baseline[METRIC_COUNT] = {.01, .05, .01, 0, 1, 1};
    judge_soak(&plain, baseline, &c.stratum[0], &j);
    assert_int_equal(j.verdict, VERDICT_INCONCLUSIVE);
    c.stratum[0].moments[0] = 10;
    judge_soak(&plain, baseline, &c.stratum[0], &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
}

/* What is left shrinks as events come, and is nothing once a doubled rate would have been seen. */
static void requests_left(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 1900, 100);
    set_bad(&c, 0, METRIC_ERRORS, 19, 1);
    judge(&plain, &c, &j);
    double needed = stats_events_needed(.05, 2, .01 * .9 / 4);
    assert_true(fabs(j.finding[METRIC_ERRORS].requests_left - (needed - 20) / .01) <= 1);
    for (uint64_t more = 10; more <= 1000; more *= 10) {
        double before = j.finding[METRIC_ERRORS].requests_left;
        c = counts_of(500, 1900 * more, 100 * more);
        set_bad(&c, 0, METRIC_ERRORS, 19 * more, more);
        judge(&plain, &c, &j);
        assert_true(j.finding[METRIC_ERRORS].requests_left < before || before == 0);
    }
    assert_true(j.finding[METRIC_ERRORS].requests_left == 0);
}

/* ---- what feedback says ---- */

/* n labelled answers of an arm at a share of a half, so many of them wrong, from users who fall into so many groups. */
static void set_wrong(struct judge_counts *c, size_t arm, uint64_t n, uint64_t wrong, size_t groups)
{
    struct judge_values *v = &c->values[0][arm];
    struct judge_stratum *s = &c->stratum[0];
    memset(v, 0, sizeof(*v));
    for (uint64_t i = 0; i < n; i++) {
        v->n[i % groups] += 5000;
        v->y[i % groups] += i * wrong / n != (i + 1) * wrong / n ? 5000 : 0;
    }
    v->count = s->labelled[arm] = n;
    v->weight2 = n * 5000 * 5000;
    v->square = 5000. * (double)wrong;
    s->bad[METRIC_WRONG][arm] = s->all[METRIC_WRONG][arm] = wrong;
}

/* n rewards: half of them a little more than the mean, half of them less. */
static void set_reward(struct judge_counts *c, size_t arm, uint64_t n, double mean, double spread)
{
    struct judge_values *v = &c->values[1][arm];
    memset(v, 0, sizeof(*v));
    for (uint64_t i = 0; i < n; i++) {
        double reward = mean + (i / STATS_GROUPS % 2 ? spread : -spread) * (i % 2 ? 1 : -1);
        v->n[i % STATS_GROUPS] += 5000;
        v->y[i % STATS_GROUPS] += 5000 * reward;
        v->square += 5000 * reward * reward;
    }
    v->count = n;
    v->weight2 = n * 5000 * 5000;
}

static void wrong_answers_fail(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(5000, 10000, 10000);
    set_wrong(&c, JUDGE_STABLE, 1120, 134, 251);
    set_wrong(&c, JUDGE_CANARY, 1043, 323, 251);
    judge(&plain, &c, &j);
    const struct judge_finding *f = &j.finding[METRIC_WRONG];
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_int_equal(j.worst, METRIC_WRONG);
    assert_true(f->ln_e >= f->trip && fabs(f->trip - log(200 / .1)) < 1e-12 && !f->by_limit && isfinite(f->ln_e));
    assert_int_equal(f->answered[JUDGE_CANARY], 1043);
    assert_int_equal(f->bad[JUDGE_CANARY], 323);
    assert_true(fabs(f->difference.mid - (323. / 1043 - 134. / 1120)) < 1e-12);
    assert_true(f->difference.low > .1 && f->difference.high < .28);
    assert_true(fabs(f->risk.mid - 323. / 1043 / (134. / 1120)) < 1e-9 && f->risk.low > 1.5 && f->risk.high < 4);
    static const char head[] = "feedback: 31 % of labelled answers wrong, stable 12 % (difference, always-valid 95 %: ",
                      tail[] = " points) at a share of 50 %, of 1,043 answers against 1,120";
    assert_memory_equal(j.text, head, sizeof(head) - 1);
    assert_string_equal(j.text + strlen(j.text) - (sizeof(tail) - 1), tail);
    /* Fewer of them wrong is no harm, and as many neither. */
    set_wrong(&c, JUDGE_CANARY, 1043, 20, 251);
    judged(&plain, &c, VERDICT_PASS, "no harm seen in 10,000 answers");
    assert_int_equal(j.finding[METRIC_WRONG].verdict, VERDICT_PASS);
    assert_true(j.finding[METRIC_WRONG].ln_e == 0);
    set_wrong(&c, JUDGE_CANARY, 1043, 125, 251);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
}

static void feedback_needs_enough_of_it(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(5000, 10000, 10000);
    set_wrong(&c, JUDGE_STABLE, 1000, 0, 251);
    set_wrong(&c, JUDGE_CANARY, 49, 49, 49);
    judged(&plain, &c, VERDICT_PASS, "no harm seen in 10,000 answers");
    assert_int_equal(j.finding[METRIC_WRONG].verdict, VERDICT_NODATA);
    set_wrong(&c, JUDGE_CANARY, 50, 50, 50);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    /* As many of them, but of a few users. */
    set_wrong(&c, JUDGE_CANARY, 500, 500, 19);
    judge(&plain, &c, &j);
    assert_int_equal(j.finding[METRIC_WRONG].verdict, VERDICT_NODATA);
    assert_int_equal(j.verdict, VERDICT_PASS);
    set_wrong(&c, JUDGE_CANARY, 500, 500, 20);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
}

/* The stable had luck so far: 50 right answers are no proof that it has no wrong ones. */
static void who_was_never_wrong_is_not_sure(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(5000, 10000, 10000);
    set_wrong(&c, JUDGE_STABLE, 50, 0, 50);
    set_wrong(&c, JUDGE_CANARY, 2000, 60, 251);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    assert_int_equal(j.finding[METRIC_WRONG].verdict, VERDICT_PASS);
    assert_true(j.finding[METRIC_WRONG].risk.low == 0 && isinf(j.finding[METRIC_WRONG].risk.high));
}

static void wrong_within_its_margin_and_limit(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(5000, 10000, 10000);
    struct judge_rule lenient = {.alpha = .01, .margin = {[METRIC_WRONG] = 1}, .min_requests = 100};
    struct judge_rule limited = lenient;
    set_wrong(&c, JUDGE_STABLE, 2000, 200, 251);
    set_wrong(&c, JUDGE_CANARY, 2000, 380, 251);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    judge(&lenient, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    set_wrong(&c, JUDGE_CANARY, 2000, 700, 251);
    judge(&lenient, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_non_null(strstr(j.text, " points), 2 times tolerated, at a share of 50 %"));
    limited.limit[METRIC_WRONG] = .15;
    set_wrong(&c, JUDGE_CANARY, 2000, 390, 251);
    judged(&limited, &c, VERDICT_FAIL, "feedback: 20 % of 2,000 labelled answers wrong, above the limit of 15 %");
    assert_true(j.finding[METRIC_WRONG].by_limit);
    c.stratum[0].bad[METRIC_WRONG][JUDGE_CANARY] = 200; /* but of fewer users */
    judge(&limited, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    c.stratum[0].all[METRIC_WRONG][JUDGE_CANARY] = 2001;
    judged(&limited, &c, VERDICT_ERROR,
           "the counts contradict themselves: at a share of 50 % the canary version gave 2000 answers, of them 2001 "
           "wrong (wrong), and these to 200 users");
}

static void rewards(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(5000, 10000, 10000);
    struct judge_rule lenient = {.alpha = .01, .margin = {[METRIC_REWARD] = .5}, .min_requests = 100};
    set_reward(&c, JUDGE_STABLE, 2560, .62, .5);
    set_reward(&c, JUDGE_CANARY, 2560, .41, .5);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_int_equal(j.worst, METRIC_REWARD);
    const struct judge_finding *f = &j.finding[METRIC_REWARD];
    assert_int_equal(f->answered[JUDGE_STABLE], 2560);
    assert_true(fabs(f->rate[JUDGE_STABLE] - .62) < 1e-9 && fabs(f->difference.mid + .21) < 1e-9);
    static const char head[] = "feedback: mean reward 0.41, stable 0.62 (difference, always-valid 95 %: -0.";
    assert_memory_equal(j.text, head, sizeof(head) - 1);
    judge(&lenient, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    set_reward(&c, JUDGE_CANARY, 2560, .9, .5);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    assert_true(j.finding[METRIC_REWARD].ln_e == 0);
    /* Costs: less is more of them, and the margin is of their size. */
    set_reward(&c, JUDGE_STABLE, 2560, -2, .5);
    set_reward(&c, JUDGE_CANARY, 2560, -2.7, .5);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    judge(&lenient, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    set_reward(&c, JUDGE_CANARY, 2560, -3.3, .5);
    judge(&lenient, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    /* All the same, but for the version: there is no spread to doubt it by, and still a number comes out. */
    set_reward(&c, JUDGE_STABLE, 256, 0, 0);
    set_reward(&c, JUDGE_CANARY, 256, 0, 0);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    set_reward(&c, JUDGE_CANARY, 256, -1, 0);
    judge(&plain, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_true(isfinite(j.finding[METRIC_REWARD].ln_e));
}

/* ---- after the promotion ---- */

static void soaked(uint64_t answered, uint64_t errors, uint64_t slow, enum verdict verdict, const char *text)
{
    static const double baseline[METRIC_COUNT] = {.01, .05, .01, 0};
    struct judge_stratum now = {.answered = {0, answered}};
    now.bad[METRIC_ERRORS][JUDGE_CANARY] = errors;
    now.bad[METRIC_SLOW95][JUDGE_CANARY] = slow;
    judge_soak(&plain, baseline, &now, &j);
    assert_string_equal(j.text, text);
    assert_int_equal(j.verdict, verdict);
}

static void soak(void **state)
{
    (void)state;
    soaked(1000, 20, 60, VERDICT_PASS, "no harm seen in 1,000 answers");
    soaked(99, 2, 4, VERDICT_NODATA, "99 of the 100 answers that a verdict needs");
    soaked(1000, 60, 60, VERDICT_FAIL, "errors 6 % of 1,000 answers, above 2.5 % (the version before it had 1 %)");
    assert_true(j.finding[METRIC_ERRORS].by_limit);
    assert_true(fabs(j.finding[METRIC_ERRORS].ln_e_limit - stats_ln_e(60, 1000, .025, STATS_ABOVE)) < 1e-12);
    soaked(50, 20, 5, VERDICT_FAIL, "errors 40 % of 50 answers, above 2.5 % (the version before it had 1 %)");
    soaked(1000, 0, 150, VERDICT_FAIL,
           "slow answers (beyond the stable's p95) 15 % of 1,000 answers, above 10 % (the version before it had 5 %)");
    soaked(1000, 42, 60, VERDICT_INCONCLUSIVE,
           "a suspicion, no proof yet: errors 4.2 % of 1,000 answers, perhaps above 2.5 % (the version before it had 1 "
           "%)");
    soaked(100, 101, 0, VERDICT_ERROR, "the counts contradict themselves: 101 bad answers (errors) of 100");
    /* A limit that tolerates more than that is the one that counts. */
    struct judge_rule limited = {.alpha = .01, .limit = {.05, .2}, .min_requests = 100};
    const double baseline[METRIC_COUNT] = {.01, .05, .01, 0};
    struct judge_stratum now = {.answered = {0, 1000}};
    now.bad[METRIC_ERRORS][JUDGE_CANARY] = 50;
    now.bad[METRIC_SLOW95][JUDGE_CANARY] = 200;
    judge_soak(&limited, baseline, &now, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    now.bad[METRIC_ERRORS][JUDGE_CANARY] = 90;
    judge_soak(&limited, baseline, &now, &j);
    assert_string_equal(j.text, "errors 9 % of 1,000 answers, above the limit of 5 %");
}

static void soak_of_feedback(void **state)
{
    (void)state;
    double baseline[METRIC_COUNT] = {[METRIC_WRONG] = .12, [METRIC_REWARD] = 1};
    struct judge_rule limited = {.alpha = .01, .limit = {[METRIC_WRONG] = .2}, .min_requests = 100};
    struct judge_stratum now = {.answered = {0, 1000}, .labelled = {0, 400}};
    now.bad[METRIC_WRONG][JUDGE_CANARY] = 60;
    judge_soak(&plain, baseline, &now, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    assert_int_equal(j.finding[METRIC_WRONG].verdict, VERDICT_PASS);
    assert_int_equal(j.finding[METRIC_REWARD].verdict, VERDICT_NODATA);
    now.bad[METRIC_WRONG][JUDGE_CANARY] = 160;
    judge_soak(&plain, baseline, &now, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_string_equal(j.text,
                        "feedback: 40 % of 400 labelled answers wrong, above 24 % (the version before it had 12 %)");
    baseline[METRIC_WRONG] = 1; /* nobody told how the version before it did */
    judge_soak(&plain, baseline, &now, &j);
    assert_int_equal(j.verdict, VERDICT_PASS);
    assert_true(isnan(j.finding[METRIC_WRONG].rate[JUDGE_STABLE]));
    judge_soak(&limited, baseline, &now, &j);
    assert_string_equal(j.text, "feedback: 40 % of 400 labelled answers wrong, above the limit of 20 %");
    now.bad[METRIC_WRONG][JUDGE_CANARY] = 401;
    judge_soak(&plain, baseline, &now, &j);
    assert_string_equal(j.text, "the counts contradict themselves: 401 wrong answers (wrong) of 400");
}

/* ---- as JSON ---- */

static void as_json(void **state)
{
    (void)state;
    struct judge_counts c = counts_of(500, 19800, 1043);
    struct buf b;
    struct json_reader r;
    set_bad(&c, 0, METRIC_ERRORS, 70, 20);
    judge(&plain, &c, &j);
    buf_init(&b, 1 << 16);
    judgement_json(&b, &j);
    json_reader_init(&r, buf_str(&b));
    assert_int_equal(json_next(&r), JSON_OBJECT);
    assert_true(json_skip(&r));
    assert_int_equal(json_next(&r), JSON_END);
    const char *z = buf_z(&b);
    static const char head[] = "{\"verdict\":\"fail\",\"text\":\"errors 5.4 times";
    assert_memory_equal(z, head, sizeof(head) - 1);
    static const char *const parts[] = {
        "\"answered\":{\"stable\":19800,\"canary\":1043},\"ratio\":{\"ln_e\":-",
        "\"broken\":false},\"stable_sick\":false,\"findings\":[{\"metric\":\"errors\",\"verdict\":\"fail\",\"dry\":"
        "false,"
        "\"by_limit\":false,\"brief\":false,\"ln_e\":13.95642",
        "\"ln_e_limit\":0.0,\"trip\":6.09682",
        "\"stable\":{\"answered\":19800,\"bad\":70,\"all\":70,\"rate\":0.0035353",
        "\"canary\":{\"answered\":1043,\"bad\":20,\"all\":20,\"rate\":0.0191754",
        "\"risk\":{\"low\":2.28585",
        "{\"metric\":\"invalid\",\"verdict\":\"pass\"",
        "{\"metric\":\"reward\",\"verdict\":\"nodata\"",
        "\"difference\":{\"low\":null,\"mid\":null,\"high\":null},",
        "\"risk\":{\"low\":0.0,\"mid\":1.0,\"high\":null},\"requests_left\":null}]}",
    };
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        if (!strstr(z, parts[i])) {
            fail_msg("no %s in %s", parts[i], z);
        }
    }
    buf_done(&b);
}

/* The longest sentence there can be is cut, not written past its end. */
static void long_sentence(void **state)
{
    (void)state;
    const uint64_t n = 1000000000000;
    struct judge_counts c = counts_of(500, n, n);
    struct judge_rule rule = {.alpha = .01, .margin = {.123456, .123456, .123456, .123456}, .min_requests = 100};
    c.n = JUDGE_STRATA;
    for (size_t i = 0; i < c.n; i++) {
        c.stratum[i] = c.stratum[0];
        c.stratum[i].share_bp = 123 + (uint32_t)i;
        for (size_t m = 0; m < METRIC_WRONG; m++) {
            set_bad(&c, i, (enum judge_metric)m, n / 2, n / 2 + 1);
            c.stratum[i].all[m][JUDGE_CANARY] = n;
            rule.limit[m] = .0123456;
        }
    }
    rule.dry[METRIC_SLOW99] = true;
    judge(&rule, &c, &j);
    assert_int_equal(j.verdict, VERDICT_FAIL);
    assert_true(j.ratio_broken && j.stable_sick);
    assert_int_equal(strlen(j.text), sizeof(j.text) - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(harm_fails),
        cmocka_unit_test(harm_need_not_wait),
        cmocka_unit_test(nothing_seen_passes),
        cmocka_unit_test(too_few_answers),
        cmocka_unit_test(suspicion),
        cmocka_unit_test(contradictions),
        cmocka_unit_test(strata_add_up),
        cmocka_unit_test(margin_is_tolerated),
        cmocka_unit_test(dry_run_never_decides),
        cmocka_unit_test(absolute_limit),
        cmocka_unit_test(stable_sick_and_worse),
        cmocka_unit_test(broken_ratio),
        cmocka_unit_test(slow_in_a_few_moments_is_no_proof),
        cmocka_unit_test(requests_left),
        cmocka_unit_test(wrong_answers_fail),
        cmocka_unit_test(feedback_needs_enough_of_it),
        cmocka_unit_test(who_was_never_wrong_is_not_sure),
        cmocka_unit_test(wrong_within_its_margin_and_limit),
        cmocka_unit_test(rewards),
        cmocka_unit_test(soak),
        cmocka_unit_test(soak_of_feedback),
        cmocka_unit_test(as_json),
        cmocka_unit_test(long_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
