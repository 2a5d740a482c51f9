/* SPDX-License-Identifier: Apache-2.0 */
/* The judge on simulated traffic: how often it rolls back a version that is like the stable one, and how soon one that
 * is not. Seeded: every run is the same run. Requests go through a real tally, arms are given by the router's hash,
 * what is slow is frozen from the stable's sketch as the server does it.
 *
 * A whole judgement costs as much as some thousand requests. It is therefore left out where the verdict can not be
 * FAIL: a mixture is never more than the likelihood ratio at its peak. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/sketch.h"
#include "control/router.h"
#include "control/tally.h"

enum { POPULATION = 1 << 16, USERS = 8000, FIRST_LATENCIES = 2000 };

/* How a version behaves, as what it does beside the stable one. */
struct world {
    double error_rate;   /* of the stable version */
    bool sticky;         /* few users with many requests and many with few; errors and slowness are theirs */
    double errors;       /* the candidate's rates over the stable's */
    double class_errors; /* the same, in a tenth of all requests */
    double invalid, latency;
};
static const struct world alike = {.error_rate = .01, .errors = 1, .class_errors = 1, .invalid = 1, .latency = 1};
static const double invalid_rate = .001;
static const struct judge_rule rule = {.alpha = .01, .min_requests = 100};

static uint32_t latency_us[POPULATION]; /* lognormal about 20 ms, sigma 0.5 */
static float user_factor[POPULATION];   /* lognormal about 1, sigma 0.3 */
static struct sketch sketch;

/* ---- chance ---- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t draw(uint64_t *state)
{
    return mix(*state += 0x9e3779b97f4a7c15u);
}

static double uniform(uint64_t *state)
{
    return ((double)(draw(state) >> 11) + .5) / 9007199254740992.;
}

static double normal(uint64_t *state)
{
    double r = sqrt(-2 * log(uniform(state)));
    return r * cos(2 * M_PI * uniform(state));
}

static int populate(void **state)
{
    (void)state;
    uint64_t chance = 1;
    for (size_t i = 0; i < POPULATION; i++) {
        latency_us[i] = (uint32_t)(20e3 * exp(.5 * normal(&chance)));
        user_factor[i] = (float)exp(.3 * normal(&chance));
    }
    return 0;
}

/* Under a sanitizer everything takes several times as long. */
static unsigned few(unsigned runs)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return runs / 2;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return runs / 2;
#else
    return runs;
#endif
#else
    return runs;
#endif
}

/* ---- a run ---- */

struct run {
    const struct world *world;
    struct tally *tally;
    uint64_t chance, now_us, requests;
    char salt[40];
    uint64_t people; /* who the users are */
    uint32_t share_bp;
    unsigned stratum;
    uint64_t canary; /* answers */
};

/* One request: who asks, how long it takes for the stable version, with which chance it fails there. */
struct request {
    uint64_t user; /* 0: nobody known */
    double us, error_rate;
};

static struct request request_of(struct run *r)
{
    struct request q = {.us = latency_us[draw(&r->chance) % POPULATION], .error_rate = r->world->error_rate};
    if (r->world->sticky) {
        /* The k-th user comes in proportion to 1/k; one in twenty has all the errors. */
        uint64_t k = (uint64_t)exp(uniform(&r->chance) * log(USERS));
        q.user = mix(r->people + k) | 1;
        q.us *= user_factor[q.user >> 8 & (POPULATION - 1)];
        q.error_rate *= (q.user >> 32) % 20 == 0 ? 20 : 0;
    }
    return q;
}

static void one_request(struct run *r)
{
    const struct world *w = r->world;
    struct request q = request_of(r);
    uint64_t id = q.user ? q.user : draw(&r->chance);
    struct str key = {(const char *)&id, sizeof(id)};
    unsigned arm = assignment_bucket(r->salt, key) < r->share_bp ? JUDGE_CANARY : JUDGE_STABLE;
    double invalid = invalid_rate;
    bool in_class = uniform(&r->chance) < .1;
    if (arm == JUDGE_CANARY) {
        q.us *= w->latency;
        q.error_rate *= w->errors * (in_class ? w->class_errors : 1);
        invalid *= w->invalid;
        r->canary++;
    }
    unsigned bad = uniform(&r->chance) < q.error_rate ? TALLY_ERROR : 0;
    bad |= uniform(&r->chance) < invalid ? TALLY_INVALID : 0;
    struct tally_mark mark;
    r->now_us += 1000;
    r->requests++;
    tally_begin(r->tally, 0, &mark, r->stratum, arm, q.user, r->now_us);
    tally_end(&mark, 0, bad, r->now_us + (uint64_t)q.us);
}

static void set_share(struct run *r, uint32_t share_bp)
{
    r->share_bp = share_bp;
    r->stratum = tally_stratum(r->tally, share_bp);
}

/* Before the rollout the stable version alone answers; what is slow is known from that. */
static void begin(struct run *r, const struct world *world, uint64_t seed)
{
    *r = (struct run){.world = world, .chance = seed * 1000003, .people = mix(seed), .tally = tally_new(1, NULL)};
    assert_non_null(r->tally);
    snprintf(r->salt, sizeof(r->salt), "rollout-%llu", (unsigned long long)seed);
    memset(&sketch, 0, sizeof(sketch));
    for (size_t i = 0; i < FIRST_LATENCIES; i++) {
        sketch_add(&sketch, (uint64_t)(request_of(r).us * 1e3));
    }
    tally_freeze(r->tally, (uint64_t)(sketch_quantile(&sketch, .95) * 1e9),
                 (uint64_t)(sketch_quantile(&sketch, .99) * 1e9), 0);
}

/* ---- judging ---- */

/* Not less than stats_strata_ln_e(…, 0, STATS_ABOVE) of any metric. */
static double evidence_at_most(const struct judge_counts *c)
{
    double most = 0;
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        double sum = 0;
        for (size_t i = 0; i < c->n; i++) {
            double x = (double)c->stratum[i].bad[m][JUDGE_CANARY], y = (double)c->stratum[i].bad[m][JUDGE_STABLE];
            double w = c->stratum[i].share_bp / 1e4;
            if (x > (x + y) * w) {
                sum += x * log(x / ((x + y) * w)) + (y > 0 ? y * log(y / ((x + y) * (1 - w))) : 0);
            }
        }
        most = MAX(most, sum);
    }
    return most;
}

static void judge_now(const struct run *r, struct judgement *j)
{
    struct judge_counts counts;
    tally_sum(r->tally, &counts);
    judge(&rule, &counts, j);
    assert_false(j->ratio_broken);
    assert_int_not_equal(j->verdict, VERDICT_ERROR);
    for (size_t m = 0; m < METRIC_COUNT; m++) {
        assert_true(j->finding[m].ln_e < evidence_at_most(&counts) + 1e-9);
    }
}

static bool failed(const struct run *r)
{
    struct judge_counts counts;
    struct judgement j;
    tally_sum(r->tally, &counts);
    if (evidence_at_most(&counts) < log(METRIC_COUNT / rule.alpha)) {
        return false;
    }
    judge_now(r, &j);
    return j.verdict == VERDICT_FAIL;
}

/* So many requests at the share the run has, judged after every `pace`; true as soon as the judgement is FAIL. */
static bool go(struct run *r, uint64_t requests, uint64_t pace)
{
    for (uint64_t i = 1; i <= requests; i++) {
        one_request(r);
        if (i % pace == 0 && failed(r)) {
            return true;
        }
    }
    return false;
}

static bool five_steps(struct run *r)
{
    static const uint32_t steps[] = {100, 500, 1000, 2500, 5000};
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        set_share(r, steps[i]);
        if (go(r, 8000, 50)) {
            return true;
        }
    }
    return false;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* ---- the cases ---- */

static void like_the_stable(void **state)
{
    (void)state;
    struct world sticky = alike;
    sticky.sticky = true;
    unsigned fails[2] = {0, 0};
    unsigned runs = few(1000);
    for (uint64_t seed = 0; seed < runs; seed++) {
        struct run r;
        struct judgement j;
        begin(&r, seed % 2 ? &sticky : &alike, seed);
        if (five_steps(&r)) {
            fails[seed % 2]++;
        } else {
            judge_now(&r, &j);
            assert_int_not_equal(j.verdict, VERDICT_NODATA);
        }
        tally_free(r.tally);
    }
    print_message("# rolled back though alike: %u of %u, with users %u of %u\n", fails[0], runs / 2, fails[1],
                  runs / 2);
    assert_true(fails[0] + fails[1] <= runs / 100);
}

/* The part of so many runs that was rolled back; share_bp 0: in five steps. */
static double rolled_back(const char *what, const struct world *w, uint64_t seed, unsigned runs, uint32_t share_bp,
                          uint64_t most)
{
    static uint64_t requests[1000];
    unsigned n = 0;
    runs = few(runs);
    for (unsigned i = 0; i < runs; i++) {
        struct run r;
        bool fail;
        begin(&r, w, seed + i);
        if (share_bp > 0) {
            set_share(&r, share_bp);
            fail = go(&r, most, 50);
        } else {
            fail = five_steps(&r);
        }
        if (fail) {
            requests[n++] = r.requests;
        }
        tally_free(r.tally);
    }
    qsort(requests, n, sizeof(requests[0]), by_value);
    print_message("# %s: rolled back %u of %u, median after %llu requests\n", what, n, runs,
                  (unsigned long long)(n ? requests[n / 2] : 0));
    return (double)n / runs;
}

/* Half a percent of errors: after 40,000 requests at 5 % there are about 220 of them, which is little for evidence that
 * may be looked at at any time: the likelihood ratio that was told both rates before convicts in 91 of 100 runs. */
static void triple_errors(void **state)
{
    (void)state;
    struct world w = alike;
    w.errors = 3;
    assert_true(rolled_back("errors x3 of 1 % at 5 %", &w, 10000, 200, 500, 40000) >= .95);
    w.error_rate = .005;
    assert_true(rolled_back("errors x3 of 0.5 % at 5 %", &w, 20000, 200, 500, 40000) >= .8);
    assert_true(rolled_back("the same, of more requests", &w, 20000, 200, 500, 60000) >= .9);
    assert_true(rolled_back("errors x3 of 0.5 % at 10 %", &w, 30000, 200, 1000, 40000) >= .95);
}

static void other_harms(void **state)
{
    (void)state;
    struct world w = alike;
    w.errors = 2;
    assert_true(rolled_back("errors x2, five steps", &w, 40000, 100, 0, 0) >= .85);
    w = alike;
    w.class_errors = 10;
    assert_true(rolled_back("errors x10 in a tenth of the requests, five steps", &w, 50000, 100, 0, 0) >= .65);
    w = alike;
    w.latency = 1.5;
    assert_true(rolled_back("latency x1.5, five steps", &w, 60000, 100, 0, 0) >= .95);
    w = alike;
    w.invalid = 10;
    assert_true(rolled_back("invalid x10 of 0.1 %, five steps", &w, 70000, 100, 0, 0) >= .95);
}

/* The part of the runs that is rolled back before the candidate has given so many answers, a tenth of them errors. */
static double within(uint64_t canary_answers, uint32_t share_bp, uint64_t seed, unsigned runs)
{
    struct world w = alike;
    unsigned n = 0;
    runs = few(runs);
    w.errors = 10;
    for (unsigned i = 0; i < runs; i++) {
        struct run r;
        begin(&r, &w, seed + i);
        set_share(&r, share_bp);
        bool fail = false;
        while (!fail && r.canary < canary_answers) {
            one_request(&r);
            fail = (r.requests % 10 == 0 || r.canary == canary_answers) && failed(&r);
        }
        n += fail;
        tally_free(r.tally);
    }
    print_message("# errors x10 of 1 %% at %g %%: rolled back within %llu answers of the canary: %u of %u\n",
                  share_bp / 1e2, (unsigned long long)canary_answers, n, runs);
    return (double)n / runs;
}

/* At 50 % the stable version has given as few answers as the candidate, and about 2 of its 200 are errors: nobody can
 * know its rate well. The likelihood ratio that was told both rates before convicts in 83 of 100 runs within 200
 * answers, the best test that looks but once, at their end, in 92. */
static void tenfold_errors(void **state)
{
    (void)state;
    assert_true(within(200, 100, 80000, 500) >= .99);
    assert_true(within(200, 500, 81000, 1000) >= .99);
    assert_true(within(200, 5000, 82000, 500) >= .4);
    assert_true(within(450, 5000, 83000, 500) >= .98);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(like_the_stable),
        cmocka_unit_test(triple_errors),
        cmocka_unit_test(other_harms),
        cmocka_unit_test(tenfold_errors),
    };
    return cmocka_run_group_tests(tests, populate, NULL);
}
