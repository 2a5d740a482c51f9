/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics to judge and compare by: evidence that may be looked at after every request, and intervals that stay true
 * however often they are looked at. Natural logarithms; B is the beta function, I the regularised incomplete beta.
 *
 * An e-value measures evidence against a hypothesis: while that is true, its mean stays 1 at every moment, so it ever
 * exceeds 1/alpha with a probability of at most alpha (Ville's inequality). E-values of parts that follow each other
 * multiply: their logarithms are added.
 *
 * Pure; any thread. */
#ifndef WEIR_BASE_STATS_H
#define WEIR_BASE_STATS_H

#include "base/base.h"

#define STATS_KAPPA 10.0 /* weight of the mixture's prior, in events */

/* The hypothesis that is argued against: theta is exactly t; at most t; at least t. */
enum stats_side { STATS_EQUAL, STATS_ABOVE, STATS_BELOW };

/* ln of the beta-binomial mixture e-value of x events among n, each with probability theta (Lindon and Malek:
 * Anytime-Valid Inference for Multinomial Count Data, 2022):
 *
 *     a = kappa t, b = kappa (1 - t), y = n - x
 *     EQUAL: ln B(a+x, b+y) - ln B(a, b) - x ln t - y ln(1-t)
 *     ABOVE (theta > t would explain it): + ln(1 - I_t(a+x, b+y)) - ln(1 - I_t(a, b))
 *     BELOW: with I_t instead of 1 - I_t
 *
 * The tails are taken in log space: no underflow however far they are. 0 < t < 1, x <= n; n up to 1e12. */
double stats_ln_e(uint64_t x, uint64_t n, double t, enum stats_side side);

/* The share of all events that the candidate has when its risk is `risk` times the stable's and it gets the share w of
 * the requests: w risk / (w risk + 1 - w). With risk = 1 + margin: the t of a harm test with a margin. */
double stats_share(double w, double risk);

/* Two arms over several shares: of n events x were the candidate's while it had the share w. */
struct stats_stratum {
    double w;
    uint64_t x, n;
};
/* Sum over the strata of stats_ln_e at stats_share(w, 1 + margin). */
double stats_strata_ln_e(const struct stats_stratum *s, size_t n, double margin, enum stats_side side);
/* The relative risk: the root of sum(x - n share(w, risk)), and all risks with sum of ln_e(EQUAL) < ln(1/alpha).
 * Without an event: low 0, risk 1, high infinity. Not bounded above (below): high infinity (low 0). */
struct stats_interval {
    double low, mid, high;
};
struct stats_interval stats_risk(const struct stats_stratum *s, size_t n, double alpha);

/* Sample ratio, k arms that should have the shares w (they sum to 1): Dirichlet-multinomial with K = 1000:
 * ln G(K) - ln G(K+n) + sum(ln G(K w_i + n_i) - ln G(K w_i) - n_i ln w_i). */
double stats_ratio_ln_e(const uint64_t *n, const double *w, size_t k);
/* The chi-square statistic of the same, and its p with k - 1 degrees of freedom (not valid when looked at often). */
double stats_chi2(const uint64_t *n, const double *w, size_t k, double *p);
double stats_chi2_p(double chi2, unsigned dof); /* upper tail */

/* Events to a decision when the risk is really `risk`: (ln(1/alpha) + 1) / KL, th = share(w, risk),
 * KL = th ln(th/w) + (1-th) ln((1-th)/(1-w)). Requests: that over the rate of events. Infinity for risk 1. */
double stats_events_needed(double w, double risk, double alpha);

/* ---- means ---- */

/* A sample's moments; merged by delta = mB - mA, mean = mA + delta nB/n, M2 = M2A + M2B + delta^2 nA nB/n (Chan, Golub,
 * LeVeque 1979). */
struct stats_moments {
    double n, mean, m2; /* m2: sum of squared deviations; the variance is m2 / (n - 1) */
};
void stats_moments_add(struct stats_moments *m, double value);
void stats_moments_merge(struct stats_moments *into, const struct stats_moments *from);
struct stats_moments stats_moments_of(double n, double sum, double sum_of_squares);

/* Users that come more than once make requests depend on each other. So each key falls into one of STATS_GROUPS groups
 * of its arm, and the error of the ratio r = sum(y)/sum(n) is taken over the groups:
 * var = G/(G-1) sum (y_g - r n_g)^2 / (sum n)^2. */
#define STATS_GROUPS 256
struct stats_mean {
    double n, mean, se;
};
struct stats_mean stats_grouped(const double *y, const uint64_t *n, size_t groups);
struct stats_mean stats_plain(const struct stats_moments *m); /* every request on its own */

/* The asymptotic confidence sequence for B - A, or for (B - A)/A (Waudby-Smith et al., arXiv 2103.06476, eq. 9; as in
 * GrowthBook): N = nA + nB, rho = sqrt((-2 ln alpha + ln(1 - 2 ln alpha)) / tuning),
 * half-width = se sqrt(N) sqrt(2 (N rho^2 + 1)/(N rho)^2 ln(sqrt(N rho^2 + 1)/alpha)).
 * tuning: the N at which it is tightest (5000 if nothing is known). one_sided: rho with 2 alpha, and
 * ln(1 + sqrt(N rho^2 + 1)/(2 alpha)); low is then the bound, high infinity. Ask for at least 50 of each. */
struct stats_lift {
    double lift, se, low, high, p; /* p: always-valid, of no difference */
};
struct stats_lift stats_difference(const struct stats_mean *a, const struct stats_mean *b, bool relative,
                                   bool one_sided, double alpha, double tuning);

/* ---- distributions over shared bins ---- */

/* Quantile q of two samples differs (Howard and Ramdas 2022): min over bins of ln_e(EQUAL) of each sample at q, x being
 * q n clamped to what lies below and through the bin. */
double stats_quantile_ln_e(const uint64_t *a, const uint64_t *b, size_t bins, double q);
/* Mann-Whitney: U of B over A, the chance that one of B is larger than one of A (ties half), z, two-sided p. For show.
 */
struct stats_ranks {
    double u, chance, z, p;
};
struct stats_ranks stats_mann_whitney(const uint64_t *a, const uint64_t *b, size_t bins);

#endif
