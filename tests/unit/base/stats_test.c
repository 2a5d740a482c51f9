/* SPDX-License-Identifier: Apache-2.0 */
/* The statistics: published vectors to their last digit, values of 60 digits' arithmetic where counts are huge, and
 * what must hold for every input (an e-value's mean under its hypothesis, symmetry, intervals against their
 * definition). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/stats.h"

static void near_to(double value, double wanted, double tolerance, int line)
{
    if (!(fabs(value - wanted) <= tolerance)) {
        fail_msg("line %d: %.12g is not %.12g within %g", line, value, wanted, tolerance);
    }
}
#define NEAR(value, wanted, tolerance) near_to((value), (wanted), (tolerance), __LINE__)

static const double digit6 = 6e-7; /* printed with six digits behind the point */
static const double digit7 = 6e-8;

/* ---- e-values ---- */

static void mixture_vectors(void **state)
{
    (void)state;
    static const struct {
        double t;
        uint64_t x, n;
        double above, below, equal;
    } v[] = {
        {.05, 10, 90, 1.906310, -2.858531, 0.814443}, {.05, 20, 90, 13.956428, -3.803507, 12.847392},
        {.5, 30, 40, 4.069156, -2.194407, 3.377912},  {.1, 0, 50, -1.880313, 3.875791, 3.387713},
        {.05, 4, 10, 3.585280, -2.353106, 2.481585},
    };
    for (size_t i = 0; i < COUNT_OF(v); i++) {
        NEAR(stats_ln_e(v[i].x, v[i].n, v[i].t, STATS_ABOVE), v[i].above, digit6);
        NEAR(stats_ln_e(v[i].x, v[i].n, v[i].t, STATS_BELOW), v[i].below, digit6);
        NEAR(stats_ln_e(v[i].x, v[i].n, v[i].t, STATS_EQUAL), v[i].equal, digit6);
    }
    /* an absolute limit, and pairs of which one is right */
    NEAR(stats_ln_e(12, 600, .01, STATS_ABOVE), 1.133931, digit6);
    NEAR(stats_ln_e(25, 600, .01, STATS_ABOVE), 15.287310, digit6);
    NEAR(stats_ln_e(42, 60, .5, STATS_EQUAL), 3.267759, digit6);
    NEAR(stats_ln_e(42, 60, .5, STATS_ABOVE), 3.959132, digit6);
}

static void margins(void **state)
{
    (void)state;
    struct stats_stratum harm = {.05, 20, 90}, no_worse = {.5, 230, 500};
    NEAR(stats_share(.05, 1.2), .0594059, digit7);
    NEAR(stats_share(.5, 1.2), .5454545, digit7);
    NEAR(stats_strata_ln_e(&harm, 1, .2, STATS_ABOVE), 11.402655, digit6);
    NEAR(stats_strata_ln_e(&no_worse, 1, .2, STATS_BELOW), 5.896252, digit6);
    NEAR(stats_strata_ln_e(NULL, 0, .2, STATS_ABOVE), 0, 0);
}

/* The references are sums and integrals of 50 digits. */
static void huge_counts(void **state)
{
    (void)state;
    const uint64_t n = 1000000000000;
    NEAR(stats_ln_e(50020000, 1000000000, .05, STATS_EQUAL), -5.154399830914151, 1e-6);
    NEAR(stats_ln_e(50020000, 1000000000, .05, STATS_ABOVE), -4.047221, 1e-6);
    NEAR(stats_ln_e(50000000000, n, .05, STATS_ABOVE), -12.402194811976873, 1e-9);
    NEAR(stats_ln_e(50000653834, n, .05, STATS_ABOVE), -7.210433754180144, 1e-5);
    NEAR(stats_ln_e(50004358898, n, .05, STATS_ABOVE), 188.2853198531354, 1e-3);
    NEAR(stats_ln_e(49998256440, n, .05, STATS_ABOVE), -14.722483935447553, 1e-6);
    NEAR(stats_ln_e(500010000000, n, .5, STATS_ABOVE), 188.003970361675, 1e-6);
    NEAR(stats_ln_e(n - 500010000000, n, .5, STATS_BELOW), 188.003970361675, 1e-6);
    /* Tails beyond any double. */
    double all = stats_ln_e(n, n, .5, STATS_ABOVE), none = stats_ln_e(0, n, .5, STATS_ABOVE);
    NEAR(all / ((double)n * log(2)), 1, 1e-9);
    assert_true(isfinite(none) && none < -20);
    for (unsigned side = STATS_EQUAL; side <= STATS_BELOW; side++) {
        for (double t = 1e-4; t < 1; t += .0833) {
            assert_true(isfinite(stats_ln_e(0, n, t, side)));
            assert_true(isfinite(stats_ln_e(n, n, t, side)));
            assert_true(isfinite(stats_ln_e(n / 2, n, t, side)));
        }
    }
}

/* Over all outcomes of n trials at theta, the mean of e. */
static double mean_of_e(unsigned n, double t, double theta, enum stats_side side)
{
    double sum = 0;
    for (unsigned x = 0; x <= n; x++) {
        double ln_p = lgamma(n + 1.) - lgamma(x + 1.) - lgamma(n - x + 1.) + x * log(theta) + (n - x) * log1p(-theta);
        sum += exp(ln_p + stats_ln_e(x, n, t, side));
    }
    return sum;
}

static void mean_is_one(void **state)
{
    (void)state;
    static const double t[] = {1e-4, .01, .05, .3, .5, .77, .99};
    static const unsigned n[] = {0, 1, 2, 7, 60, 400};
    for (size_t i = 0; i < COUNT_OF(t); i++) {
        for (size_t k = 0; k < COUNT_OF(n); k++) {
            for (unsigned side = STATS_EQUAL; side <= STATS_BELOW; side++) {
                NEAR(mean_of_e(n[k], t[i], t[i], side), 1, 1e-9);
            }
            assert_true(mean_of_e(n[k], t[i], t[i] * .8, STATS_ABOVE) <= 1 + 1e-9);
            assert_true(mean_of_e(n[k], t[i], t[i] + (1 - t[i]) / 5, STATS_BELOW) <= 1 + 1e-9);
        }
    }
    assert_true(mean_of_e(60, .05, .1, STATS_ABOVE) > 2);
}

static void sides(void **state)
{
    (void)state;
    for (uint64_t n = 0; n < 120; n += 7) {
        double before = -INFINITY;
        for (uint64_t x = 0; x <= n; x++) {
            double above = stats_ln_e(x, n, .2, STATS_ABOVE);
            assert_true(above > before); /* one more is more evidence */
            before = above;
            NEAR(stats_ln_e(n - x, n, .8, STATS_BELOW), above, 1e-10);
            NEAR(stats_ln_e(n - x, n, .8, STATS_EQUAL), stats_ln_e(x, n, .2, STATS_EQUAL), 1e-10);
            /* At one half the two sides are halves of the mixture. */
            double halves = log((exp(stats_ln_e(x, n, .5, STATS_ABOVE)) + exp(stats_ln_e(x, n, .5, STATS_BELOW))) / 2);
            NEAR(halves, stats_ln_e(x, n, .5, STATS_EQUAL), 1e-9);
        }
    }
}

/* ---- relative risk ---- */

static void risk_vectors(void **state)
{
    (void)state;
    struct stats_stratum one = {.05, 20, 90}, two[] = {{.05, 9, 60}, {.1, 22, 80}};
    struct stats_interval r = stats_risk(&one, 1, .05);
    NEAR(r.mid, 5.428571, digit6);
    NEAR(r.low, 2.285853, digit6);
    NEAR(r.high, 11.145885, digit6);
    r = stats_risk(two, 2, .05);
    NEAR(r.mid, 3.3938733, digit7);
    NEAR(r.low, 1.5378996, digit7);
    NEAR(r.high, 6.5275442, digit7);
    NEAR(stats_strata_ln_e(two, 2, 0, STATS_ABOVE), 11.564158, digit6);
}

static void risk_without_an_end(void **state)
{
    (void)state;
    struct stats_stratum none = {.05, 0, 0}, no_canary = {.05, 0, 40}, no_stable = {.05, 9, 9}, once = {.5, 1, 4};
    struct stats_stratum torn[] = {{.01, 100, 1000}, {.5, 100, 1000}};
    struct stats_interval r = stats_risk(&none, 1, .05);
    assert_true(r.low == 0 && r.mid == 1 && r.high == INFINITY);
    r = stats_risk(NULL, 0, .05);
    assert_true(r.low == 0 && r.mid == 1 && r.high == INFINITY);
    r = stats_risk(&no_canary, 1, .05);
    assert_true(r.low == 0 && r.mid == 0 && r.high > 0 && r.high < 10);
    r = stats_risk(&no_stable, 1, .05);
    assert_true(r.low > 3 && r.low < 100 && r.mid == INFINITY && r.high == INFINITY);
    r = stats_risk(&once, 1, .05); /* one event alone never proves that there is none */
    assert_true(r.low == 0 && r.mid > 0 && r.mid < 1 && r.high > 1);
    r = stats_risk(torn, 2, .05); /* eleven times, and a ninth: no one risk */
    assert_true(r.low == 0 && r.mid > 0 && r.high == INFINITY);
}

/* Inside the interval the risk is not refused, outside it is. */
static void risk_is_its_definition(void **state)
{
    (void)state;
    struct stats_stratum s[] = {{.01, 3, 70}, {.05, 9, 60}, {.25, 40, 90}};
    for (size_t n = 1; n <= COUNT_OF(s); n++) {
        struct stats_interval r = stats_risk(s, n, .05);
        for (double risk = .01; risk < 100; risk *= 1.07) {
            double ln_e = 0, excess = 0;
            for (size_t i = 0; i < n; i++) {
                double t = stats_share(s[i].w, risk);
                ln_e += stats_ln_e(s[i].x, s[i].n, t, STATS_EQUAL);
                excess += (double)s[i].x - (double)s[i].n * t;
            }
            assert_int_equal(ln_e<log(20), risk> r.low && risk < r.high);
            assert_int_equal(excess > 0, risk < r.mid);
        }
    }
}

static void planning(void **state)
{
    (void)state;
    double th = stats_share(.05, 3), kl = th * log(th / .05) + (1 - th) * log((1 - th) / .95);
    NEAR(kl, .0545, 6e-5);
    NEAR(stats_events_needed(.05, 3, .01), 103, .5);
    for (double w = 1e-4; w < 1; w += 1.37e-3) {
        assert_true(isinf(stats_events_needed(w, 1, .01)));
        assert_true(stats_events_needed(w, 1 + 1e-12, .01) > 0);
    }
    assert_true(stats_events_needed(.05, 2, .01) > stats_events_needed(.05, 3, .01));
    assert_true(isfinite(stats_events_needed(.05, .5, .01)));
}

/* The ranks of a quantile that are not refused: q = .95 of 2,000. */
static void quantile_ranks(void **state)
{
    (void)state;
    for (uint64_t x = 0; x <= 2000; x++) {
        assert_int_equal(stats_ln_e(x, 2000, .95, STATS_EQUAL) < log(20), x >= 1865 && x <= 1931);
    }
}

/* ---- sample ratio ---- */

static void ratio_vectors(void **state)
{
    (void)state;
    double p, half[] = {.5, .5}, few[] = {.05, .95}, third[] = {1. / 3, 1. / 3, 1. / 3};
    uint64_t even[] = {4850, 5150}, uneven[] = {600, 9400}, three[] = {3300, 3300, 3600}, none[] = {0, 0, 0};
    NEAR(stats_ratio_ln_e(even, half, 2), 2.892614, digit6);
    NEAR(stats_chi2(even, half, 2, &p), 9, 1e-9);
    NEAR(p, .00269980, 6e-9);
    NEAR(stats_ratio_ln_e(uneven, few, 2), 7.785948, digit6);
    NEAR(stats_chi2(uneven, few, 2, &p), 21.052632, digit6);
    NEAR(p, 4.468e-6, 6e-10);
    NEAR(stats_ratio_ln_e(three, third, 3), 5.551313, digit6);
    NEAR(stats_chi2(three, third, 3, &p), 17.647059, digit6);
    NEAR(p, 1.4723e-4, 6e-9);
    NEAR(stats_ratio_ln_e(none, third, 3), 0, 1e-12);
    NEAR(stats_chi2(none, third, 3, &p), 0, 0);
    NEAR(p, 1, 0);
    uint64_t many[] = {50020000000, 949980000000}, ordered[] = {50000000000, 950000000000};
    assert_true(stats_ratio_ln_e(many, few, 2) > 1000); /* 92 standard deviations */
    assert_true(stats_ratio_ln_e(ordered, few, 2) < -5);
}

static void chi_square(void **state)
{
    (void)state;
    NEAR(stats_chi2_p(9.98531697, 6), .12527172, 6e-9);
    NEAR(stats_chi2_p(10.6666667, 3), .0136719, digit7);
    NEAR(stats_chi2_p(3.841458820694124, 1), .05, 1e-12);
    NEAR(stats_chi2_p(5.991464547107979, 2), .05, 1e-12);
    NEAR(stats_chi2_p(0, 4), 1, 0);
    NEAR(stats_chi2_p(1, 0), 0, 0);
    NEAR(stats_chi2_p(2000, 2000), .4957947558, 1e-9); /* exp(-1000) is no double */
    NEAR(stats_chi2_p(1e6, 3), 0, 0);
}

/* ---- means ---- */

static void moments(void **state)
{
    (void)state;
    struct stats_moments a = {0}, b = {0}, none = {0};
    for (int i = 1; i <= 4; i++) {
        stats_moments_add(&a, i);
    }
    stats_moments_add(&b, 10);
    stats_moments_add(&b, 20);
    stats_moments_merge(&a, &b);
    stats_moments_merge(&a, &none);
    NEAR(a.n, 6, 0);
    NEAR(a.mean, 6.6666667, digit7);
    NEAR(a.m2, 263.33333, 6e-6);
    struct stats_moments sums = stats_moments_of(6, 40, 530);
    NEAR(sums.mean, a.mean, 1e-12);
    NEAR(sums.m2, a.m2, 1e-9);
    struct stats_mean plain = stats_plain(&a);
    NEAR(plain.se, sqrt(263.33333 / 5 / 6), 1e-6);
    stats_moments_merge(&none, &a);
    NEAR(none.mean, a.mean, 0);
    sums = stats_moments_of(0, 0, 0);
    assert_true(sums.n == 0 && isinf(stats_plain(&sums).se));
    for (double v = .1; v < 10; v += .1) { /* seven times the same value: rounding must not make it less than nothing */
        assert_true(stats_moments_of(7, 7 * v, 7 * (v * v)).m2 >= 0);
    }
}

static void groups(void **state)
{
    (void)state;
    static const double y[] = {3, 5, 2, 6};
    static const uint64_t n[] = {10, 9, 8, 12}, none[] = {0, 0};
    struct stats_mean r = stats_grouped(y, n, 4);
    NEAR(r.mean, .41025641, 6e-9);
    NEAR(r.se, .07086780, 6e-9);
    NEAR(r.n, 39, 0);
    NEAR(sqrt(r.mean * (1 - r.mean) / r.n), .07876386, 6e-9); /* as if each request were its own */
    assert_true(isinf(stats_grouped(y, n, 1).se));
    assert_true(isinf(stats_grouped(y, none, 2).se) && stats_grouped(y, none, 2).mean == 0);
}

static struct stats_mean sample(double n, double sum, double squares)
{
    struct stats_moments m = stats_moments_of(n, sum, squares);
    return stats_plain(&m);
}

static struct stats_mean proportion(double x, double n)
{
    double p = x / n;
    return (struct stats_mean){.n = n, .mean = p, .se = sqrt(p * (1 - p) / n)};
}

/* As GrowthBook publishes them for its tests. */
static void lift_vectors(void **state)
{
    (void)state;
    struct stats_mean a = sample(3000, 1396.87, 52377.9767), b = sample(3461, 2422.7, 134698.29);
    struct stats_lift l = stats_difference(&a, &b, true, false, .05, 1000);
    NEAR(l.lift, .5033611, digit7);
    NEAR(l.se, .3334122, digit7);
    NEAR(l.low, -.5584405, digit7);
    NEAR(l.high, 1.5651627, digit7);
    NEAR(l.p, 1, 0);
    l = stats_difference(&a, &b, false, true, .05, 5000);
    NEAR(l.lift, .2343767, digit7);
    NEAR(l.se, .1298308, digit7);
    NEAR(l.low, -.1265684, digit7);
    assert_true(isinf(l.high));
    NEAR(-stats_difference(&b, &a, false, true, .05, 5000).low, .5953218, digit7); /* the other side */
    a = proportion(1396, 3000);
    b = proportion(2422, 3461);
    l = stats_difference(&a, &b, true, false, .05, 5000);
    NEAR(l.low, .4009785, digit7);
    NEAR(l.high, .6067482, digit7);
    a = proportion(120, 10000);
    b = proportion(165, 10000);
    l = stats_difference(&a, &b, false, false, .05, 5000);
    NEAR(l.lift, .0045, 1e-12);
    NEAR(l.se, .001675821, 6e-10);
    NEAR(l.low, -.000740483, 6e-10);
    NEAR(l.high, .009740482, 6e-10);
    NEAR(l.p, .1736323, digit7);
    NEAR(stats_difference(&a, &b, false, true, .05, 5000).low, -.000306583, 6e-10);
}

/* The multiplier of the standard error, as Eppo documents it. */
static void lift_multipliers(void **state)
{
    (void)state;
    static const double n[] = {1e3, 1e4, 1e5}, wanted[] = {3.8550546, 3.0352090, 3.2417231};
    for (size_t i = 0; i < COUNT_OF(n); i++) {
        struct stats_mean a = {n[i] / 2, 0, sqrt(.5)}, b = {n[i] / 2, 0, sqrt(.5)};
        NEAR(stats_difference(&a, &b, false, false, .05, 1e4).high, wanted[i], digit7);
    }
}

/* ---- beside the usual tests, which may be looked at once ---- */

static const double z95 = 1.959963984540054;

/* Wilson's interval of a share. */
static void wilson(double x, double n, double *low, double *high)
{
    double share = x / n, to = 1 + z95 * z95 / n, middle = (share + z95 * z95 / 2 / n) / to;
    double half = z95 / to * sqrt(share * (1 - share) / n + z95 * z95 / 4 / n / n);

    *low = middle - half;
    *high = middle + half;
}

/* 120 and 165 of 10,000: the pooled z test, and Newcombe's interval (1998, method 10). */
static void wider_than_a_fixed_test(void **state)
{
    struct stats_mean a = proportion(120, 10000), b = proportion(165, 10000);
    struct stats_lift l = stats_difference(&a, &b, false, false, .05, 5000);
    double pooled = 285. / 20000, z = .0045 / sqrt(pooled * (1 - pooled) * 2 / 10000), p = erfc(z / sqrt(2));
    double low_a, high_a, low_b, high_b, low, high;

    (void)state;
    NEAR(z, 2.6847676, digit7);
    NEAR(p, .00725803, 6e-9);
    wilson(120, 10000, &low_a, &high_a);
    wilson(165, 10000, &low_b, &high_b);
    low = .0045 - sqrt((.0165 - low_b) * (.0165 - low_b) + (high_a - .012) * (high_a - .012));
    high = .0045 + sqrt((high_b - .0165) * (high_b - .0165) + (.012 - low_a) * (.012 - low_a));
    NEAR(low, .00121419, 6e-9);
    NEAR(high, .00782416, 6e-9);
    assert_true(l.low < low && l.high > high && l.p > p);
}

/* The mixture sequential probability ratio test (Zhao et al., arXiv 1905.10493) of 1,000 values of either arm with a
 * variance of 1, as a multiplier of the standard error: ours is of the same size. */
static void as_wide_as_another_sequence(void **state)
{
    static const double alpha[] = {.05, .025 /* as Statsig's documentation has it */},
                        wanted[] = {3.2773010, 3.5845154};
    struct stats_mean one = {1000, 0, sqrt(.001)};
    double v = .002, tau = z95 * z95 * 2 / 2000, ours;

    (void)state;
    for (size_t i = 0; i < COUNT_OF(alpha); i++) {
        NEAR(sqrt((v + tau) / tau * (-2 * log(alpha[i]) - log(v / (v + tau)))), wanted[i], digit7);
    }
    ours = stats_difference(&one, &one, false, false, .05, 2000).high / sqrt(v);
    assert_true(ours > z95 && fabs(ours - wanted[0]) < .4);
}

/* The ranks that a 95 % interval of the quantile .95 of 2,000 lies between, from the binomial distribution. */
static void quantile_ranks_of_a_fixed_test(void **state)
{
    double sum = 0;
    int low = -1, high = -1;

    (void)state;
    for (int k = 0; k <= 2000; k++) {
        sum += exp(lgamma(2001) - lgamma(k + 1) - lgamma(2001 - k) + k * log(.95) + (2000 - k) * log(.05));
        low = low < 0 && sum > .025 ? k : low;
        high = high < 0 && sum >= .975 ? k + 1 : high;
    }
    assert_int_equal(low, 1880);
    assert_int_equal(high, 1920);
    assert_true(stats_ln_e((uint64_t)low, 2000, .95, STATS_EQUAL) < log(20));
    assert_true(stats_ln_e((uint64_t)high, 2000, .95, STATS_EQUAL) < log(20));
}

/* p is the alpha at which the interval would end at 0, with the same tuning term; it is one for what speaks against. */
static void lift_p(void **state)
{
    (void)state;
    struct stats_mean a = {5000, 1, .1}, b = {5000, 1.5, .1}, none = {0, 0, INFINITY}, zero = {5000, 0, .1};
    double one = stats_difference(&a, &b, false, true, .05, 5000).p,
           two = stats_difference(&a, &b, false, false, .05, 5000).p;
    assert_true(one > 0 && one < two && two < .05);
    NEAR(stats_difference(&b, &a, false, true, .05, 5000).p, 1, 0);
    NEAR(stats_difference(&a, &a, false, false, .05, 5000).p, 1, 0);
    /* An interval that ends at 0 has the p of its alpha. */
    struct stats_lift l = stats_difference(&a, &b, false, false, .05, 5000);
    b.mean = a.mean + (l.high - l.lift);
    NEAR(stats_difference(&a, &b, false, false, .05, 5000).p, .05, 1e-9);
    l = stats_difference(&a, &b, false, true, .05, 5000);
    b.mean = a.mean + (l.lift - l.low);
    NEAR(stats_difference(&a, &b, false, true, .05, 5000).p, .05, 1e-9);
    l = stats_difference(&none, &b, false, false, .05, 5000);
    assert_true(isinf(l.low) && isinf(l.high) && l.p == 1);
    l = stats_difference(&zero, &b, true, false, .05, 5000); /* relative to nothing */
    assert_true(isinf(l.low) && isinf(l.high) && l.p == 1);
}

/* ---- bins ---- */

static void quantile_vectors(void **state)
{
    (void)state;
    static const double q[] = {.5, .9}, from_2[] = {.299001, 7.176641}, from_3[] = {5.262545, 23.994876};
    uint64_t a[24] = {0}, b[24] = {0}, c[24] = {0}, none[24] = {0};
    for (size_t i = 0; i < 20; i++) {
        a[i] = b[i + 2] = c[i + 3] = 50;
    }
    for (size_t i = 0; i < 2; i++) {
        NEAR(stats_quantile_ln_e(a, b, 24, q[i]), from_2[i], digit6);
        NEAR(stats_quantile_ln_e(a, c, 24, q[i]), from_3[i], digit6);
        assert_true(stats_quantile_ln_e(a, a, 24, q[i]) < 0);
        assert_true(stats_quantile_ln_e(a, none, 24, q[i]) < 0);
    }
    NEAR(stats_quantile_ln_e(a, b, 0, .5), 0, 0);
}

static void rank_vectors(void **state)
{
    (void)state;
    static const uint64_t a[] = {120, 300, 250, 80, 30, 20}, b[] = {90, 260, 270, 110, 45, 25}, none[6], tied[] = {7};
    struct stats_ranks r = stats_mann_whitney(a, b, 6), back = stats_mann_whitney(b, a, 6);
    NEAR(r.u, 355025, 0);
    NEAR(r.chance, .5547266, digit7);
    NEAR(r.z, 3.9544641, digit7);
    NEAR(r.p, 7.6706e-5, 6e-10);
    NEAR(back.chance, 1 - r.chance, 1e-12);
    NEAR(back.z, -r.z, 1e-9);
    NEAR(back.p, r.p, 1e-12);
    r = stats_mann_whitney(a, none, 6);
    assert_true(r.chance == .5 && r.p == 1 && r.z == 0);
    r = stats_mann_whitney(tied, tied, 1);
    assert_true(r.chance == .5 && r.p == 1 && r.z == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixture_vectors),
        cmocka_unit_test(margins),
        cmocka_unit_test(huge_counts),
        cmocka_unit_test(mean_is_one),
        cmocka_unit_test(sides),
        cmocka_unit_test(risk_vectors),
        cmocka_unit_test(risk_without_an_end),
        cmocka_unit_test(risk_is_its_definition),
        cmocka_unit_test(planning),
        cmocka_unit_test(quantile_ranks),
        cmocka_unit_test(ratio_vectors),
        cmocka_unit_test(chi_square),
        cmocka_unit_test(moments),
        cmocka_unit_test(groups),
        cmocka_unit_test(lift_vectors),
        cmocka_unit_test(lift_multipliers),
        cmocka_unit_test(wider_than_a_fixed_test),
        cmocka_unit_test(as_wide_as_another_sequence),
        cmocka_unit_test(quantile_ranks_of_a_fixed_test),
        cmocka_unit_test(lift_p),
        cmocka_unit_test(quantile_vectors),
        cmocka_unit_test(rank_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
