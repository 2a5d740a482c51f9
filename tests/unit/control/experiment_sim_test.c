/* SPDX-License-Identifier: Apache-2.0 */
/* The goal of experiments on simulated users: how often versions that are alike would be shipped, or called different,
 * when somebody looks after every interval and ships at the first chance; and how soon a real difference is found.
 * Seeded: every run is the same run. Values go through a real goal, arms are given by the router's hash.
 *
 * A user's values depend on each other: each has a mean of his own, and some come much more often than others. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/experiment.h"
#include "control/router.h"

enum { VALUES = 20000, LOOK = 100 };

enum crowd {
    STRANGERS, /* each request of another user */
    REGULARS,  /* 4,000 users; how often they come is lognormal, sigma 1 */
    FANS,      /* 8,000 users; the k-th comes in proportion to 1/k: one of them has a tenth of all requests */
};
struct world {
    enum crowd crowd;
    bool heavy;  /* rewards are lognormal with sigma 1.5, else 0 or 1 */
    double lift; /* what the candidate adds to each value */
};

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

/* Under a sanitizer everything takes several times as long. */
static unsigned few(unsigned runs)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return runs / 4;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return runs / 4;
#else
    return runs;
#endif
#else
    return runs;
#endif
}

/* ---- a run ---- */

static double often[4000]; /* of regulars: up to which part of all requests are those of the first k */

static int populate(void **state)
{
    uint64_t chance = 1;
    double sum = 0;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(often); i++) {
        often[i] = sum += exp(normal(&chance));
    }
    for (size_t i = 0; i < COUNT_OF(often); i++) {
        often[i] /= sum;
    }
    return 0;
}

static uint64_t who(enum crowd crowd, uint64_t people, uint64_t *chance)
{
    size_t low = 0, high = COUNT_OF(often) - 1;
    double u = uniform(chance);

    if (crowd == STRANGERS) {
        return draw(chance) | 1;
    }
    if (crowd == FANS) {
        return mix(people + (uint64_t)exp(u * log(8000))) | 1;
    }
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (often[mid] < u) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return mix(people + low) | 1;
}

static double value_of(const struct world *w, uint64_t user, uint64_t *chance)
{
    uint64_t own = user; /* the user's own chance: the same each time */
    double mean = w->crowd == STRANGERS ? .5 : uniform(&own);

    return w->heavy ? exp(mean + 1.5 * normal(chance)) : uniform(chance) < mean ? 1 : 0;
}

struct tale {
    bool better, worse; /* at any look */
    unsigned at;        /* values when it was better first */
};

static struct tale run(const struct world *w, uint64_t seed)
{
    static struct goal_counts counts;
    struct experiment x = {.goal = GOAL_REWARD, .alpha_ppm = 50000};
    struct experiment_finding f;
    struct goal *g = goal_new(1, NULL);
    struct tale t = {0};
    uint64_t chance = seed * 1000003, people = mix(seed);
    char salt[40];

    assert_non_null(g);
    snprintf(salt, sizeof(salt), "r-%012llu", (unsigned long long)seed);
    for (unsigned i = 1; i <= VALUES && !t.better; i++) {
        uint64_t user = who(w->crowd, people, &chance);
        unsigned arm = assignment_bucket(salt, (struct str){(const char *)&user, sizeof(user)}) < EXPERIMENT_CONTROL;

        goal_add(g, 0, arm ? JUDGE_CANARY : JUDGE_STABLE, user, value_of(w, user, &chance) + (arm ? w->lift : 0));
        if (i % LOOK == 0) {
            goal_sum(g, &counts);
            experiment_judge(&x, &counts, 1, 2, false, &f);
            t.better = f.result == RESULT_BETTER;
            t.worse |= f.result == RESULT_WORSE;
            t.at = i;
        }
    }
    goal_free(g);
    return t;
}

struct rates {
    double better, worse;
};

static struct rates rates_of(const char *what, const struct world *w, uint64_t seed, unsigned runs)
{
    unsigned better = 0, worse = 0;
    uint64_t sum = 0;

    runs = few(runs);
    for (unsigned i = 0; i < runs; i++) {
        struct tale t = run(w, seed + i);
        better += t.better;
        worse += t.worse;
        sum += t.better ? t.at : 0;
    }
    print_message("# %s: better %u, worse %u of %u, after %llu values\n", what, better, worse, runs,
                  (unsigned long long)(better ? sum / better : 0));
    return (struct rates){(double)better / runs, (double)worse / runs};
}

/* ---- the cases ---- */

/* Alpha is 5 %, on both sides together. */
static void alike(void **state)
{
    static const struct {
        const char *what;
        struct world w;
    } worlds[] = {
        {"strangers", {STRANGERS, false, 0}},
        {"regulars", {REGULARS, false, 0}},
        {"fans", {FANS, false, 0}},
        {"strangers, heavy-tailed values", {STRANGERS, true, 0}},
        {"regulars, heavy-tailed values", {REGULARS, true, 0}},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(worlds); i++) {
        struct rates r = rates_of(worlds[i].what, &worlds[i].w, 1000 * (i + 1), 400);
        assert_true(r.better + r.worse <= .05);
    }
}

static void a_real_difference(void **state)
{
    struct world strangers = {STRANGERS, false, .04}, regulars = {REGULARS, false, .08};
    struct rates r;

    (void)state;
    r = rates_of("strangers, 0.54 for 0.5", &strangers, 10000, 100);
    assert_true(r.better >= .9 && r.worse == 0);
    r = rates_of("regulars, 0.58 for 0.5", &regulars, 20000, 100);
    assert_true(r.better >= .9 && r.worse == 0);
    strangers.lift = -.04;
    r = rates_of("strangers, 0.46 for 0.5", &strangers, 30000, 100);
    assert_true(r.worse >= .9 && r.better == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alike),
        cmocka_unit_test(a_real_difference),
    };

    return cmocka_run_group_tests(tests, populate, NULL);
}
