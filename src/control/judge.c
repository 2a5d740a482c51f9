/* SPDX-License-Identifier: Apache-2.0 */
/* The judge: adds up the evidence of stats.h, holds it against one height, and says in a sentence what it found.
 *
 * Bad answers in both arms are the events of a comparison, those of the candidate its share of them: so a comparison
 * asks for no rate of the stable, and holds while both rates move together. What is known by feedback is a comparison
 * of means.
 *
 * Pure. */
#include "control/judge.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/json.h"

const char *const judge_metric_names[] = {
    [METRIC_ERRORS] = "errors",   [METRIC_SLOW95] = "slow_p95", [METRIC_SLOW99] = "slow_p99",
    [METRIC_INVALID] = "invalid", [METRIC_WRONG] = "wrong",     [METRIC_REWARD] = "reward"};
const char *const verdict_names[] = {[VERDICT_PASS] = "pass",
                                     [VERDICT_FAIL] = "fail",
                                     [VERDICT_INCONCLUSIVE] = "inconclusive",
                                     [VERDICT_NODATA] = "nodata",
                                     [VERDICT_ERROR] = "error"};

static const double risk_alpha = .05;             /* of the interval that is shown */
static const double ratio_trip = 6.9077552789821; /* ln 1000 */
static const double told_risk = 2;                /* requests_left: until this would be seen */
static const double feedback_part = .1;           /* of alpha: for the guardrails that are known by feedback */
static const double groups_least = 20;            /* of users, that the values of an arm are worth */
static const double values_tuning = 1000;         /* how many values the comparison of means is best at */
static const double ln_e_most = 700;              /* as much evidence as anybody needs */

static double share_of(const struct judge_stratum *s)
{
    return s->share_bp / 1e4;
}

static double rate_of(uint64_t part, uint64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

/* ---- evidence ---- */

/* The height at which a guardrail fails: alpha is split over those that can. */
static double trip_of(const struct judge_rule *rule, size_t metric)
{
    unsigned n = 0, others = 0;
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        bool beside = metric_by_feedback(m) == metric_by_feedback(metric);
        n += beside && !rule->dry[m];
        others += !beside && !rule->dry[m];
    }
    double part = others == 0 ? 1 : metric_by_feedback(metric) ? feedback_part : 1 - feedback_part;
    return log(MAX(n, 1u) / (rule->alpha * part));
}

static double limit_ln_e(double limit, uint64_t bad, uint64_t answered)
{
    return limit > 0 && limit < 1 ? stats_ln_e(bad, answered, limit, STATS_ABOVE) : 0;
}

static bool is_slow(size_t m)
{
    return m == METRIC_SLOW95 || m == METRIC_SLOW99;
}

/* The candidate's bad answers that are held against it. */
static uint64_t held_against(const struct judge_stratum *s, size_t m)
{
    uint64_t bad = s->bad[m][JUDGE_CANARY];
    return is_slow(m) ? bad - MIN(bad, s->moments[m - METRIC_SLOW95]) : bad;
}

static enum verdict verdict_of(const struct judge_finding *f, bool enough)
{
    double most = MAX(f->ln_e, f->ln_e_limit);
    if (most >= f->trip) {
        return VERDICT_FAIL;
    }
    if (!enough) {
        return VERDICT_NODATA;
    }
    return f->brief || most > MAX(log(2), f->trip / 3) ? VERDICT_INCONCLUSIVE : VERDICT_PASS;
}

/* Each event brings its part of the evidence that is needed, at the share that it falls under; what is left is to come
 * at the last share. */
static double requests_left(const struct judge_finding *f, const struct stats_stratum *s, size_t n)
{
    uint64_t answered = f->answered[JUDGE_STABLE] + f->answered[JUDGE_CANARY];
    uint64_t bad = f->bad[JUDGE_STABLE] + f->bad[JUDGE_CANARY];
    if (n == 0 || bad == 0 || answered == 0) {
        return INFINITY;
    }
    double left = 1, needed = 0;
    for (size_t i = 0; i < n; i++) {
        needed = stats_events_needed(s[i].w, told_risk, exp(-f->trip));
        left -= (double)s[i].n / needed;
    }
    return ceil(MAX(left, 0) * needed / rate_of(bad, answered));
}

/* The answers among which the bad ones of a kind are. */
static const uint64_t *whole_of(const struct judge_stratum *s, size_t m)
{
    return m == METRIC_WRONG ? s->labelled : s->answered;
}

static void add_up(const struct judge_rule *rule, const struct judge_counts *c, size_t m, struct judge_finding *f)
{
    uint64_t held = 0;
    for (size_t i = 0; i < c->n; i++) {
        const struct judge_stratum *from = &c->stratum[i];
        held += held_against(from, m);
        for (size_t arm = 0; arm < JUDGE_ARMS; arm++) {
            f->answered[arm] += whole_of(from, m)[arm];
            f->bad[arm] += from->bad[m][arm];
            f->all[arm] += from->all[m][arm];
        }
    }
    for (size_t arm = 0; arm < JUDGE_ARMS; arm++) {
        f->rate[arm] = rate_of(f->all[arm], f->answered[arm]);
    }
    f->ln_e_limit = limit_ln_e(rule->limit[m], held, f->answered[JUDGE_CANARY]);
    f->by_limit = f->ln_e_limit >= f->trip;
}

static void compare(const struct judge_rule *rule, const struct judge_counts *c, size_t m, struct judge_finding *f)
{
    struct stats_stratum s[JUDGE_STRATA], held[JUDGE_STRATA];
    for (size_t i = 0; i < c->n; i++) {
        const struct judge_stratum *from = &c->stratum[i];
        uint64_t x = from->bad[m][JUDGE_CANARY], y = from->bad[m][JUDGE_STABLE], of_x = held_against(from, m);
        s[i] = (struct stats_stratum){share_of(from), x, x + y};
        held[i] = (struct stats_stratum){share_of(from), of_x, of_x + y};
    }
    add_up(rule, c, m, f);
    f->ln_e = stats_strata_ln_e(held, c->n, rule->margin[m], STATS_ABOVE);
    f->brief = is_slow(m) && MAX(f->ln_e, f->ln_e_limit) < f->trip &&
               (stats_strata_ln_e(s, c->n, rule->margin[m], STATS_ABOVE) >= f->trip ||
                limit_ln_e(rule->limit[m], f->bad[JUDGE_CANARY], f->answered[JUDGE_CANARY]) >= f->trip);
    f->risk = stats_risk(s, c->n, risk_alpha);
    f->requests_left = requests_left(f, s, c->n);
}

/* ---- means of what feedback says ---- */

/* An arm's mean, and how many equal values, and groups of users with as many each, would tell as much. */
struct sample {
    struct stats_mean mean;
    double values, groups;
};

static struct sample sample_of(const struct judge_values *v)
{
    double sum = 0, squares = 0;
    for (size_t g = 0; g < STATS_GROUPS; g++) {
        sum += (double)v->n[g];
        squares += (double)v->n[g] * (double)v->n[g];
    }
    return (struct sample){.mean = stats_grouped(v->y, v->n, STATS_GROUPS),
                           .values = v->weight2 > 0 ? sum * sum / (double)v->weight2 : 0,
                           .groups = squares > 0 ? sum * sum / squares : 0};
}

/* The variance of one value, of both arms together. */
static double spread_of(const struct judge_values v[JUDGE_ARMS])
{
    double n = 0, y = 0, square = 0;
    for (size_t arm = 0; arm < JUDGE_ARMS; arm++) {
        square += v[arm].square;
        for (size_t g = 0; g < STATS_GROUPS; g++) {
            n += (double)v[arm].n[g];
            y += v[arm].y[g];
        }
    }
    return n > 0 ? MAX(square / n - y / n * (y / n), 0) : 0;
}

static struct stats_mean times_mean(struct stats_mean m, double factor)
{
    return (struct stats_mean){.n = m.n, .mean = m.mean * factor, .se = m.se * fabs(factor)};
}

/* What of it speaks against the candidate; and the intervals that are shown. */
static void differ(const struct judge_rule *rule, size_t m, const struct stats_mean *stable,
                   const struct stats_mean *canary, struct judge_finding *f)
{
    struct stats_lift shown = stats_difference(stable, canary, false, false, risk_alpha, values_tuning), harm;
    struct stats_mean bar;
    f->difference = (struct stats_interval){shown.low, shown.lift, shown.high};
    if (m == METRIC_WRONG) {
        bar = times_mean(*stable, 1 + rule->margin[m]);
        harm = stats_difference(&bar, canary, false, true, exp(-f->trip), values_tuning);
        shown = stats_difference(stable, canary, true, false, risk_alpha, values_tuning);
        if (isfinite(shown.lift)) { /* not where the stable has none */
            f->risk = (struct stats_interval){MAX(1 + shown.low, 0), 1 + shown.lift, 1 + shown.high};
        }
    } else {
        bar = times_mean(*stable, stable->mean > 0 ? 1 - rule->margin[m] : 1 + rule->margin[m]);
        harm = stats_difference(canary, &bar, false, true, exp(-f->trip), values_tuning);
    }
    f->ln_e = harm.p < 1 ? MIN(-log(harm.p), ln_e_most) : 0;
}

/* False: there is not enough of it to compare. */
static bool compare_values(const struct judge_rule *rule, const struct judge_counts *c, size_t m,
                           struct judge_finding *f)
{
    const struct judge_values *v = c->values[m - METRIC_WRONG];
    double spread = spread_of(v);
    struct sample s[JUDGE_ARMS];
    bool enough = true;
    if (m == METRIC_WRONG) {
        add_up(rule, c, m, f);
    }
    for (size_t arm = 0; arm < JUDGE_ARMS; arm++) {
        s[arm] = sample_of(&v[arm]);
        enough &= v[arm].count >= JUDGE_LABELS_LEAST && s[arm].groups >= groups_least;
        if (m == METRIC_REWARD) {
            f->answered[arm] = v[arm].count;
            f->rate[arm] = s[arm].mean.mean;
        }
    }
    if (!enough) {
        return false;
    }
    for (size_t arm = 0; arm < JUDGE_ARMS; arm++) {
        s[arm].mean.se = MAX(s[arm].mean.se, sqrt(spread / s[arm].values));
        s[arm].mean.n = 2 / (1 / s[JUDGE_STABLE].values + 1 / s[JUDGE_CANARY].values);
    }
    differ(rule, m, &s[JUDGE_STABLE].mean, &s[JUDGE_CANARY].mean, f);
    return true;
}

/* ---- the judgement of it all ---- */

static void ratio(const struct judge_counts *c, struct judgement *out)
{
    double chi2 = 0, p;
    unsigned dof = 0;
    for (size_t i = 0; i < c->n; i++) {
        const struct judge_stratum *s = &c->stratum[i];
        double w[JUDGE_ARMS] = {[JUDGE_STABLE] = 1 - share_of(s), [JUDGE_CANARY] = share_of(s)};
        out->ratio_ln_e += stats_ratio_ln_e(s->exposed, w, JUDGE_ARMS);
        chi2 += stats_chi2(s->exposed, w, JUDGE_ARMS, &p);
        dof += s->exposed[JUDGE_STABLE] + s->exposed[JUDGE_CANARY] > 0;
    }
    out->ratio_p = stats_chi2_p(chi2, dof);
    out->ratio_broken = out->ratio_ln_e >= ratio_trip;
}

/* The guardrail with the most evidence, of those in dry run or of the others; METRIC_COUNT: there is none. */
static size_t most_evident(const struct judgement *j, bool dry)
{
    size_t best = METRIC_COUNT;
    double most = -INFINITY;
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        const struct judge_finding *f = &j->finding[m];
        double here = f->brief ? nextafter(f->trip, 0) : MAX(f->ln_e, f->ln_e_limit);
        bool silent = metric_by_feedback(m) && f->verdict == VERDICT_NODATA;
        if (f->dry == dry && !silent && here > most) {
            best = m;
            most = here;
        }
    }
    return best;
}

/* What the findings come to. A FAIL has the most evidence, so the one with the most decides. */
static void decide(struct judgement *j, bool enough)
{
    size_t worst = most_evident(j, false);
    j->verdict = worst < METRIC_COUNT ? j->finding[worst].verdict : VERDICT_PASS;
    if (j->verdict != VERDICT_FAIL && !enough) {
        j->verdict = VERDICT_NODATA;
    }
    j->worst = (enum judge_metric)(worst < METRIC_COUNT ? worst : most_evident(j, true));
}

/* ---- the sentence ---- */

/* What a sentence needs beside the judgement. */
struct scene {
    const struct judge_rule *rule;
    const struct judge_counts *counts; /* NULL: of a soak */
    const double *baseline;            /* NULL: of a comparison */
};

static const char *const metric_words[] = {[METRIC_ERRORS] = "errors",
                                           [METRIC_SLOW95] = "slow answers (beyond the stable's p95",
                                           [METRIC_SLOW99] = "slow answers (beyond the stable's p99",
                                           [METRIC_INVALID] = "invalid answers"};
static const char *const bad_words[] = {
    [METRIC_ERRORS] = "bad",      [METRIC_SLOW95] = "slow", [METRIC_SLOW99] = "slow",
    [METRIC_INVALID] = "invalid", [METRIC_WRONG] = "wrong", [METRIC_REWARD] = "badly rewarded"};

static void add_count(struct buf *b, uint64_t v)
{
    if (v >= 1000) {
        add_count(b, v / 1000);
        buf_addf(b, ",%03u", (unsigned)(v % 1000));
    } else {
        buf_addu(b, v);
    }
}

static void add_times(struct buf *b, double v)
{
    buf_addf(b, v < .1 ? "%.2f" : v < 100 ? "%.1f" : "%.0f", v);
}

static void add_rate(struct buf *b, double share)
{
    buf_addf(b, share < .1 ? "%.2g %%" : "%.0f %%", 100 * share);
}

static void add_duration(struct buf *b, uint64_t ns)
{
    double s = (double)ns / 1e9;
    buf_addf(b, s < 1e-3 ? "%.3g us" : s < 1 ? "%.3g ms" : "%.4g s", s < 1e-3 ? s * 1e6 : s < 1 ? s * 1e3 : s);
}

static void add_metric(struct buf *b, const struct scene *scene, size_t m)
{
    buf_addz(b, metric_words[m]);
    if (is_slow(m)) {
        if (scene->counts && scene->counts->slow_ns[m - METRIC_SLOW95] > 0) {
            BUF_LIT(b, " of ");
            add_duration(b, scene->counts->slow_ns[m - METRIC_SLOW95]);
        }
        buf_addc(b, ')');
    }
}

/* " (always-valid 95 %: 2.3 to 11.1)" */
static void add_interval(struct buf *b, struct stats_interval risk)
{
    if (risk.low <= 0 && !isfinite(risk.high)) {
        return;
    }
    BUF_LIT(b, " (always-valid 95 %: ");
    if (!isfinite(risk.high)) {
        BUF_LIT(b, "at least ");
        add_times(b, risk.low);
    } else if (risk.low <= 0) {
        BUF_LIT(b, "at most ");
        add_times(b, risk.high);
    } else {
        add_times(b, risk.low);
        BUF_LIT(b, " to ");
        add_times(b, risk.high);
    }
    buf_addc(b, ')');
}

/* " at a share of 5 %", " at shares of 1 to 25 %" */
static void add_shares(struct buf *b, const struct judge_counts *c)
{
    uint32_t low = UINT32_MAX, high = 0;
    for (size_t i = 0; i < c->n; i++) {
        low = MIN(low, c->stratum[i].share_bp);
        high = MAX(high, c->stratum[i].share_bp);
    }
    if (low == high) {
        buf_addf(b, " at a share of %g %%", low / 1e2);
    } else {
        buf_addf(b, " at shares of %g to %g %%", low / 1e2, high / 1e2);
    }
}

static void add_comparison(struct buf *b, const struct scene *scene, const struct judge_finding *f, size_t m)
{
    bool repeats = f->all[JUDGE_STABLE] + f->all[JUDGE_CANARY] > f->bad[JUDGE_STABLE] + f->bad[JUDGE_CANARY];
    add_metric(b, scene, m);
    if (isfinite(f->risk.mid)) {
        buf_addc(b, ' ');
        add_times(b, f->risk.mid);
        BUF_LIT(b, " times the stable's");
    } else {
        BUF_LIT(b, ", and the stable has none");
    }
    add_interval(b, f->risk);
    if (scene->rule->margin[m] > 0) {
        buf_addf(b, ", %g tolerated,", 1 + scene->rule->margin[m]);
    }
    add_shares(b, scene->counts);
    BUF_LIT(b, ": ");
    add_count(b, f->bad[JUDGE_CANARY]);
    buf_addf(b, " %s answer%s of ", bad_words[m], f->bad[JUDGE_CANARY] == 1 ? "" : "s");
    add_count(b, f->answered[JUDGE_CANARY]);
    BUF_LIT(b, " against ");
    add_count(b, f->bad[JUDGE_STABLE]);
    BUF_LIT(b, " of ");
    add_count(b, f->answered[JUDGE_STABLE]);
    if (repeats) {
        BUF_LIT(b, ", one a user");
    }
}

/* "feedback: 31 % of labelled answers wrong, stable 12 % (difference, always-valid 95 %: 10 to 28 points) at a share of
 * 50 %, of 1,043 answers against 1,120" */
static void add_means(struct buf *b, const struct scene *scene, const struct judge_finding *f, size_t m)
{
    bool wrong = m == METRIC_WRONG;
    double unit = wrong ? 100 : 1, margin = scene->rule->margin[m];
    BUF_LIT(b, "feedback: ");
    if (wrong) {
        add_rate(b, f->rate[JUDGE_CANARY]);
        BUF_LIT(b, " of labelled answers wrong, stable ");
        add_rate(b, f->rate[JUDGE_STABLE]);
    } else {
        buf_addf(b, "mean reward %.4g, stable %.4g", f->rate[JUDGE_CANARY], f->rate[JUDGE_STABLE]);
    }
    buf_addf(b, " (difference, always-valid 95 %%: %.3g to %.3g%s)", unit * f->difference.low,
             unit * f->difference.high, wrong ? " points" : "");
    if (margin > 0) {
        buf_addf(b, wrong ? ", %g times tolerated," : ", %g times as little tolerated,",
                 wrong ? 1 + margin : 1 - margin);
    }
    add_shares(b, scene->counts);
    BUF_LIT(b, ", of ");
    add_count(b, f->answered[JUDGE_CANARY]);
    BUF_LIT(b, " answers against ");
    add_count(b, f->answered[JUDGE_STABLE]);
}

/* "above the limit of 2 %", "above 2.5 % (the version before it had 1 %)" */
static void add_limit(struct buf *b, const struct scene *scene, double limit, size_t m)
{
    if (scene->baseline && limit > scene->rule->limit[m]) {
        BUF_LIT(b, "above ");
        add_rate(b, limit);
        BUF_LIT(b, " (the version before it had ");
        add_rate(b, scene->baseline[m]);
        buf_addc(b, ')');
    } else {
        buf_addf(b, "above the limit of %g %%", 100 * limit);
    }
}

static double soak_limit(const struct judge_rule *rule, const double *baseline, size_t m)
{
    if (baseline[m] >= 1) { /* not known */
        return rule->limit[m];
    }
    double before = m == METRIC_SLOW95 ? 2 * .05 : m == METRIC_SLOW99 ? 2 * .01 : 2 * baseline[m] + .005;
    return MAX(rule->limit[m], before);
}

static void add_rate_of(struct buf *b, const struct scene *scene, const struct judge_finding *f, size_t m, size_t arm)
{
    if (m == METRIC_WRONG) {
        BUF_LIT(b, "feedback: ");
        add_rate(b, f->rate[arm]);
        BUF_LIT(b, " of ");
        add_count(b, f->answered[arm]);
        BUF_LIT(b, " labelled answers wrong");
        return;
    }
    add_metric(b, scene, m);
    buf_addc(b, ' ');
    add_rate(b, f->rate[arm]);
    BUF_LIT(b, " of ");
    add_count(b, f->answered[arm]);
    BUF_LIT(b, " answers");
}

/* What speaks against the candidate: the comparison if that decided, the limit, or both. */
static void add_finding(struct buf *b, const struct scene *scene, const struct judge_finding *f, size_t m)
{
    double limit = scene->baseline ? soak_limit(scene->rule, scene->baseline, m) : scene->rule->limit[m];
    bool compared = f->ln_e >= f->trip || f->ln_e >= f->ln_e_limit || (f->brief && limit <= 0);
    if (compared && !scene->baseline) {
        if (metric_by_feedback(m)) {
            add_means(b, scene, f, m);
        } else {
            add_comparison(b, scene, f, m);
        }
        if (f->by_limit) {
            BUF_LIT(b, "; ");
            add_rate(b, f->rate[JUDGE_CANARY]);
            BUF_LIT(b, " of its answers, ");
            add_limit(b, scene, limit, m);
        }
    } else {
        add_rate_of(b, scene, f, m, JUDGE_CANARY);
        BUF_LIT(b, ", ");
        buf_addz(b, f->by_limit ? "" : "perhaps ");
        add_limit(b, scene, limit, m);
    }
}

static void add_verdict(struct buf *b, const struct scene *scene, const struct judgement *j)
{
    const struct judge_finding *f = &j->finding[j->worst];
    switch (j->verdict) {
    case VERDICT_FAIL:
        add_finding(b, scene, f, j->worst);
        break;
    case VERDICT_INCONCLUSIVE:
        BUF_LIT(b, "a suspicion, no proof yet: ");
        add_finding(b, scene, f, j->worst);
        buf_addz(b, f->brief ? "; in a few moments only" : "");
        break;
    case VERDICT_NODATA:
        if (j->answered[JUDGE_CANARY] < MAX(scene->rule->min_requests, 1)) {
            add_count(b, j->answered[JUDGE_CANARY]);
            BUF_LIT(b, " of the ");
            add_count(b, MAX(scene->rule->min_requests, 1));
            BUF_LIT(b, " answers that a verdict needs");
        } else {
            BUF_LIT(b, "no answer of the stable version to compare with");
        }
        break;
    case VERDICT_PASS:
    case VERDICT_ERROR: /* has its own text */
        BUF_LIT(b, "no harm seen in ");
        add_count(b, j->answered[JUDGE_CANARY]);
        BUF_LIT(b, " answers");
        break;
    }
}

/* What a person must know beside the verdict. */
static void add_remarks(struct buf *b, const struct scene *scene, const struct judgement *j)
{
    size_t dry = most_evident(j, true), sick = METRIC_COUNT;
    if (dry < METRIC_COUNT && j->finding[dry].verdict == VERDICT_FAIL) {
        BUF_LIT(b, "; would fail, were it not in dry run: ");
        add_finding(b, scene, &j->finding[dry], dry);
    }
    for (size_t m = 0; j->stable_sick && m < METRIC_COUNT; m++) {
        const struct judge_finding *f = &j->finding[m];
        double evidence = limit_ln_e(scene->rule->limit[m], f->bad[JUDGE_STABLE], f->answered[JUDGE_STABLE]);
        sick = sick == METRIC_COUNT && !f->dry && evidence >= f->trip ? m : sick;
    }
    if (sick < METRIC_COUNT) {
        BUF_LIT(b, "; the stable version itself: ");
        add_rate_of(b, scene, &j->finding[sick], sick, JUDGE_STABLE);
        BUF_LIT(b, ", ");
        add_limit(b, scene, scene->rule->limit[sick], sick);
    }
    if (j->ratio_broken) {
        uint64_t canary = 0;
        double expected = 0;
        for (size_t i = 0; i < scene->counts->n; i++) {
            const struct judge_stratum *s = &scene->counts->stratum[i];
            canary += s->exposed[JUDGE_CANARY];
            expected += share_of(s) * (double)(s->exposed[JUDGE_CANARY] + s->exposed[JUDGE_STABLE]);
        }
        BUF_LIT(b, "; and the arms are not split as ordered: the canary got ");
        add_count(b, canary);
        BUF_LIT(b, " users, not about ");
        add_count(b, (uint64_t)(expected + .5));
    }
}

static void say(struct judgement *j, const struct scene *scene)
{
    struct buf b;
    buf_init(&b, 2 * sizeof(j->text));
    add_verdict(&b, scene, j);
    add_remarks(&b, scene, j);
    size_t n = MIN(b.n, sizeof(j->text) - 1);
    if (n > 0) {
        memcpy(j->text, b.p, n);
    }
    j->text[n] = 0;
    buf_done(&b);
}

/* ---- contradictions ---- */

static bool contradicts(const struct judge_stratum *s, char *text, size_t cap)
{
    static const char *const arm_words[] = {[JUDGE_STABLE] = "stable", [JUDGE_CANARY] = "canary"};
    if (s->share_bp < 1 || s->share_bp > 9999) {
        snprintf(text, cap, "the counts contradict themselves: nothing can be compared at a share of %g %%",
                 s->share_bp / 1e2);
        return true;
    }
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        for (size_t arm = 0; arm < JUDGE_ARMS; arm++) {
            uint64_t bad = s->bad[m][arm], all = s->all[m][arm], answered = whole_of(s, m)[arm];
            if (bad > all || all > answered) {
                snprintf(text, cap,
                         "the counts contradict themselves: at a share of %g %% the %s version gave %" PRIu64
                         " answers, of them %" PRIu64 " %s (%s), and these to %" PRIu64 " users",
                         s->share_bp / 1e2, arm_words[arm], answered, all, bad_words[m], judge_metric_names[m], bad);
                return true;
            }
        }
    }
    return false;
}

static bool contradiction(const struct judge_counts *c, char *text, size_t cap)
{
    if (c->n > JUDGE_STRATA) {
        snprintf(text, cap, "the counts contradict themselves: %zu shares, at most %d can be", c->n, JUDGE_STRATA);
        return true;
    }
    for (size_t i = 0; i < c->n; i++) {
        if (contradicts(&c->stratum[i], text, cap)) {
            return true;
        }
    }
    return false;
}

/* ---- judgements ---- */

static void start(const struct judge_rule *rule, struct judgement *out)
{
    *out = (struct judgement){.verdict = VERDICT_ERROR, .ratio_p = 1};
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        out->finding[m] = (struct judge_finding){.verdict = VERDICT_ERROR,
                                                 .dry = rule->dry[m],
                                                 .trip = trip_of(rule, m),
                                                 .risk = {0, 1, INFINITY},
                                                 .difference = {-INFINITY, NAN, INFINITY},
                                                 .requests_left = INFINITY};
    }
}

void judge(const struct judge_rule *rule, const struct judge_counts *counts, struct judgement *out)
{
    start(rule, out);
    if (contradiction(counts, out->text, sizeof(out->text))) {
        return;
    }
    for (size_t i = 0; i < counts->n; i++) {
        for (size_t arm = 0; arm < JUDGE_ARMS; arm++) {
            out->answered[arm] += counts->stratum[i].answered[arm];
        }
    }
    bool enough = out->answered[JUDGE_CANARY] >= MAX(rule->min_requests, 1) && out->answered[JUDGE_STABLE] > 0;
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        struct judge_finding *f = &out->finding[m];
        if (metric_by_feedback(m)) {
            f->verdict = verdict_of(f, compare_values(rule, counts, m, f));
        } else {
            compare(rule, counts, m, f);
            f->verdict = verdict_of(f, enough && (!is_slow(m) || counts->slow_ns[m - METRIC_SLOW95] > 0));
        }
        out->stable_sick |=
            !f->dry && limit_ln_e(rule->limit[m], f->bad[JUDGE_STABLE], f->answered[JUDGE_STABLE]) >= f->trip;
    }
    ratio(counts, out);
    decide(out, enough);
    say(out, &(struct scene){.rule = rule, .counts = counts});
}

void judge_soak(const struct judge_rule *rule, const double baseline[METRIC_COUNT], const struct judge_stratum *now,
                struct judgement *out)
{
    start(rule, out);
    out->answered[JUDGE_CANARY] = now->answered[JUDGE_CANARY];
    bool enough = now->answered[JUDGE_CANARY] >= MAX(rule->min_requests, 1);
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        if (now->bad[m][JUDGE_CANARY] > whole_of(now, m)[JUDGE_CANARY]) {
            snprintf(out->text, sizeof(out->text),
                     "the counts contradict themselves: %" PRIu64 " %s answers (%s) of %" PRIu64,
                     now->bad[m][JUDGE_CANARY], bad_words[m], judge_metric_names[m], whole_of(now, m)[JUDGE_CANARY]);
            return;
        }
    }
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        struct judge_finding *f = &out->finding[m];
        f->answered[JUDGE_CANARY] = m == METRIC_REWARD ? 0 : whole_of(now, m)[JUDGE_CANARY];
        f->bad[JUDGE_CANARY] = now->bad[m][JUDGE_CANARY];
        f->all[JUDGE_CANARY] = MAX(now->all[m][JUDGE_CANARY], f->bad[JUDGE_CANARY]); /* all[] need not be given */
        f->rate[JUDGE_STABLE] = baseline[m] < 1 ? baseline[m] : (double)NAN;
        f->rate[JUDGE_CANARY] = rate_of(f->all[JUDGE_CANARY], f->answered[JUDGE_CANARY]);
        double limit = soak_limit(rule, baseline, m);
        f->ln_e_limit = limit_ln_e(limit, held_against(now, m), f->answered[JUDGE_CANARY]);
        f->by_limit = f->ln_e_limit >= f->trip;
        f->brief = !f->by_limit && limit_ln_e(limit, f->bad[JUDGE_CANARY], f->answered[JUDGE_CANARY]) >= f->trip;
        f->verdict = verdict_of(f, metric_by_feedback(m) ? f->answered[JUDGE_CANARY] >= JUDGE_LABELS_LEAST : enough);
    }
    decide(out, enough);
    say(out, &(struct scene){.rule = rule, .baseline = baseline});
}

/* ---- as JSON ---- */

static void json_arm(struct buf *out, const char *key, const struct judge_finding *f, size_t arm)
{
    json_key(out, key);
    buf_addf(out, "{\"answered\":%" PRIu64 ",\"bad\":%" PRIu64 ",\"all\":%" PRIu64 ",\"rate\":", f->answered[arm],
             f->bad[arm], f->all[arm]);
    json_f64(out, f->rate[arm]);
    buf_addc(out, '}');
}

static void json_number(struct buf *out, const char *key, double v)
{
    json_key(out, key);
    json_f64(out, v); /* null where it is not finite */
}

static void json_bool(struct buf *out, const char *key, bool v)
{
    json_key(out, key);
    buf_addz(out, v ? "true" : "false");
}

static void json_interval(struct buf *out, const char *key, struct stats_interval i)
{
    json_key(out, key);
    buf_addc(out, '{');
    json_number(out, "low", i.low);
    json_number(out, "mid", i.mid);
    json_number(out, "high", i.high);
    buf_addc(out, '}');
}

static void json_finding(struct buf *out, const struct judge_finding *f, size_t m)
{
    json_comma(out);
    buf_addc(out, '{');
    json_key(out, "metric");
    json_strz(out, judge_metric_names[m]);
    json_key(out, "verdict");
    json_strz(out, verdict_names[f->verdict]);
    json_bool(out, "dry", f->dry);
    json_bool(out, "by_limit", f->by_limit);
    json_bool(out, "brief", f->brief);
    json_number(out, "ln_e", f->ln_e);
    json_number(out, "ln_e_limit", f->ln_e_limit);
    json_number(out, "trip", f->trip);
    json_arm(out, "stable", f, JUDGE_STABLE);
    json_arm(out, "canary", f, JUDGE_CANARY);
    if (metric_by_feedback(m)) {
        json_interval(out, "difference", f->difference);
    }
    json_interval(out, "risk", f->risk);
    json_number(out, "requests_left", f->requests_left);
    buf_addc(out, '}');
}

void judgement_json(struct buf *out, const struct judgement *j)
{
    buf_addc(out, '{');
    json_key(out, "verdict");
    json_strz(out, verdict_names[j->verdict]);
    json_key(out, "text");
    json_strz(out, j->text);
    json_key(out, "answered");
    buf_addf(out, "{\"stable\":%" PRIu64 ",\"canary\":%" PRIu64 "}", j->answered[JUDGE_STABLE],
             j->answered[JUDGE_CANARY]);
    json_key(out, "ratio");
    buf_addc(out, '{');
    json_number(out, "ln_e", j->ratio_ln_e);
    json_number(out, "p", j->ratio_p);
    json_bool(out, "broken", j->ratio_broken);
    buf_addc(out, '}');
    json_bool(out, "stable_sick", j->stable_sick);
    json_key(out, "findings");
    buf_addc(out, '[');
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        json_finding(out, &j->finding[m], m);
    }
    BUF_LIT(out, "]}");
}
