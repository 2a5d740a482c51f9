/* SPDX-License-Identifier: Apache-2.0 */
/* The formulas of stats.h, arranged so that large counts do not cancel each other away.
 *
 * ln G(z) = (z - 1/2) ln z - z + ln(2 pi)/2 + rest(z). In a mixture's e-value the large parts of these join to the
 * divergence between what was counted and what was expected, which is taken from their difference and not from the
 * counts. What else is left are logarithms of ratios, and the small rests.
 *
 * A tail of the beta distribution is its density times a continued fraction. An e-value on the side of the small tail
 * is then a ratio of two such fractions: the densities, which may be far below what a double can hold, are gone.
 *
 * Pure. */
#include "base/stats.h"

#include <float.h>
#include <math.h>

static const double half_ln_2pi = 0.91893853320467274178;

/* What Stirling's formula leaves of ln G(z), z > 0. */
static double rest(double z)
{
    int sign;
    if (z < 10) {
        return lgamma_r(z, &sign) - ((z - .5) * log(z) - z + half_ln_2pi);
    }
    double v = 1 / (z * z);
    return (1. / 12 - v * (1. / 360 - v * (1. / 1260 - v * (1. / 1680 - v * (1. / 1188 - v * 691. / 360360))))) / z;
}

/* A part of a whole: what it has, prior and counted; what it should have; and the difference, which has digits that
 * have - want has not. */
struct part {
    double have, want, off;
};

/* The density that a Dirichlet distribution has at the shares w: prod(w_i^have_i) / B(have), with w_i = want_i over
 * the sum of all. Its logarithm is the sum of a term for each part and one for the whole. */
static double ln_part(struct part p)
{
    double excess = fabs(p.off) < p.want / 2 ? log1p(p.off / p.want) : log(p.have / p.want);
    return .5 * log(p.have) - p.have * excess - half_ln_2pi - rest(p.have);
}

static double ln_whole(double total)
{
    return half_ln_2pi - .5 * log(total) + rest(total);
}

/* ln of I_t(p, q) B(p, q) / (t^p u^q), u = 1 - t, off = p - (p + q) t >= 0: the continued fraction of DiDonato and
 * Morris (Algorithm 708, ACM TOMS 1992, equation 9), which takes that difference as it is, by the modified Lentz
 * method. About sqrt(p + q) terms where t is near the mean, few elsewhere. */
static double ln_fraction(double p, double q, double t, double u, double off)
{
    const int most = 1000000;
    double f = p * (off + 1) / (p + 1), c = f, d = 0;
    for (int i = 1; i <= most; i++) {
        double m = i, s = p + 2 * m - 1;
        double a = (p + m - 1) / s * ((p + q + m - 1) / s) * m * (q - m) * t * t;
        double b = m + m * (q - m) * t / s + (p + m) * (off + 1 + m * (1 + u)) / (s + 2);
        d = b + a * d;
        c = b + a / c;
        d = 1 / (d != 0 ? d : DBL_MIN);
        c = c != 0 ? c : DBL_MIN;
        f *= c * d;
        if (fabs(c * d - 1) < 1e-15) {
            break;
        }
    }
    return -log(f);
}

/* stats_ln_e, with u = 1 - t as exact as t is. */
static double ln_e(double x, double n, double t, double u, enum stats_side side)
{
    if (side == STATS_ABOVE) { /* more of these is fewer of the others */
        return ln_e(n - x, n, u, t, STATS_BELOW);
    }
    double y = n - x, off = t < .5 ? fma(-n, t, x) : -fma(-n, u, y);
    double a = STATS_KAPPA * t, b = STATS_KAPPA * u, total = STATS_KAPPA + n;
    if (side == STATS_BELOW && off >= 0) {
        return ln_fraction(a + x, b + y, t, u, off) - ln_fraction(a, b, t, u, 0);
    }
    double before = ln_part((struct part){a, a, 0}) + ln_part((struct part){b, b, 0}) + ln_whole(STATS_KAPPA);
    double after = ln_part((struct part){a + x, total * t, off}) + ln_part((struct part){b + y, total * u, -off}) +
                   ln_whole(total);
    if (side == STATS_EQUAL) {
        return before - after;
    }
    double upper = after + ln_fraction(b + y, a + x, u, t, -off);
    return before - after + log1p(-exp(upper)) - (before + ln_fraction(a, b, t, u, 0));
}

double stats_ln_e(uint64_t x, uint64_t n, double t, enum stats_side side)
{
    return ln_e((double)x, (double)n, t, 1 - t, side);
}

double stats_share(double w, double risk)
{
    return w * risk / (w * risk + (1 - w));
}

static double strata_ln_e(const struct stats_stratum *s, size_t n, double risk, enum stats_side side)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double t = stats_share(s[i].w, risk), u = (1 - s[i].w) / (s[i].w * risk + (1 - s[i].w));
        sum += s[i].n ? ln_e((double)s[i].x, (double)s[i].n, t, u, side) : 0;
    }
    return sum;
}

double stats_strata_ln_e(const struct stats_stratum *s, size_t n, double margin, enum stats_side side)
{
    return strata_ln_e(s, n, 1 + margin, side);
}

/* ---- relative risk ---- */

/* ln of the smallest and largest risk that is looked at; what lies beyond counts as 0 and as infinity. */
static const double ln_risk_most = 21;

/* Where the change is between `from`, which is below the height, and `to`, which is not: bisection, to the last digit
 * that counts. */
static double crossing(const struct stats_stratum *s, size_t n, double height, double from, double to)
{
    for (int i = 0; i < 52; i++) {
        double mid = (from + to) / 2;
        if (strata_ln_e(s, n, exp(mid), STATS_EQUAL) < height) {
            from = mid;
        } else {
            to = mid;
        }
    }
    return exp(from);
}

/* ln of the root of sum(x - n share(w, risk)), which falls with the risk. */
static double ln_root(const struct stats_stratum *s, size_t n)
{
    double low = -ln_risk_most, high = ln_risk_most;
    for (int i = 0; i < 52; i++) {
        double mid = (low + high) / 2, sum = 0;
        for (size_t k = 0; k < n; k++) {
            sum += (double)s[k].x - (double)s[k].n * stats_share(s[k].w, exp(mid));
        }
        if (sum > 0) {
            low = mid;
        } else {
            high = mid;
        }
    }
    return (low + high) / 2;
}

struct stats_interval stats_risk(const struct stats_stratum *s, size_t n, double alpha)
{
    struct stats_interval out = {0, 1, INFINITY};
    uint64_t x = 0, events = 0;
    for (size_t i = 0; i < n; i++) {
        x += s[i].x;
        events += s[i].n;
    }
    if (events == 0) {
        return out;
    }
    double height = -log(alpha), mid = x == 0 ? -ln_risk_most : x == events ? ln_risk_most : ln_root(s, n);
    out.mid = x == 0 ? 0 : x == events ? INFINITY : exp(mid);
    if (!(strata_ln_e(s, n, exp(mid), STATS_EQUAL) < height)) {
        return out; /* no one risk explains all strata */
    }
    if (strata_ln_e(s, n, exp(-ln_risk_most), STATS_EQUAL) >= height) {
        out.low = crossing(s, n, height, mid, -ln_risk_most);
    }
    if (strata_ln_e(s, n, exp(ln_risk_most), STATS_EQUAL) >= height) {
        out.high = crossing(s, n, height, mid, ln_risk_most);
    }
    return out;
}

double stats_events_needed(double w, double risk, double alpha)
{
    double th = stats_share(w, risk);
    double kl = th * log(th / w) + (1 - th) * log((1 - th) / (1 - w));
    return kl > 0 ? (1 - log(alpha)) / kl : INFINITY;
}

/* ---- sample ratio ---- */

double stats_ratio_ln_e(const uint64_t *n, const double *w, size_t k)
{
    const double weight = 1000;
    double total = 0, sum = 0;
    for (size_t i = 0; i < k; i++) {
        total += (double)n[i];
    }
    for (size_t i = 0; i < k; i++) {
        double prior = weight * w[i], x = (double)n[i];
        sum += ln_part((struct part){prior, prior, 0}) -
               ln_part((struct part){prior + x, (weight + total) * w[i], fma(-total, w[i], x)});
    }
    return sum + ln_whole(weight) - ln_whole(weight + total);
}

double stats_chi2(const uint64_t *n, const double *w, size_t k, double *p)
{
    double total = 0, sum = 0;
    for (size_t i = 0; i < k; i++) {
        total += (double)n[i];
    }
    for (size_t i = 0; total > 0 && i < k; i++) {
        double off = fma(-total, w[i], (double)n[i]);
        sum += off * off / (total * w[i]);
    }
    *p = stats_chi2_p(sum, k > 1 ? (unsigned)(k - 1) : 0);
    return sum;
}

/* Q(dof/2, x) for x = chi2/2: in steps of one from Q(1/2, x) = erfc(sqrt x) or Q(0, x) = 0. */
double stats_chi2_p(double chi2, unsigned dof)
{
    if (!(chi2 > 0)) {
        return 1;
    }
    double x = chi2 / 2, q = dof % 2 ? erfc(sqrt(x)) : 0;
    for (double s = dof % 2 ? .5 : 0; s < dof / 2.; s++) {
        int sign;
        q += exp(s * log(x) - x - lgamma_r(s + 1, &sign));
    }
    return MIN(q, 1);
}

/* ---- means ---- */

void stats_moments_add(struct stats_moments *m, double value)
{
    stats_moments_merge(m, &(struct stats_moments){.n = 1, .mean = value});
}

void stats_moments_merge(struct stats_moments *into, const struct stats_moments *from)
{
    double n = into->n + from->n, delta = from->mean - into->mean;
    if (n > 0) {
        into->mean += delta * from->n / n;
        into->m2 += from->m2 + delta * delta * into->n * from->n / n;
        into->n = n;
    }
}

struct stats_moments stats_moments_of(double n, double sum, double sum_of_squares)
{
    if (!(n > 0)) {
        return (struct stats_moments){0};
    }
    double m2 = fma(-sum, sum / n, sum_of_squares);
    return (struct stats_moments){.n = n, .mean = sum / n, .m2 = MAX(m2, 0)};
}

struct stats_mean stats_grouped(const double *y, const uint64_t *n, size_t groups)
{
    double sum = 0, count = 0, squares = 0;
    for (size_t g = 0; g < groups; g++) {
        sum += y[g];
        count += (double)n[g];
    }
    if (!(count > 0) || groups < 2) {
        return (struct stats_mean){.n = count, .mean = count > 0 ? sum / count : 0, .se = INFINITY};
    }
    double r = sum / count, all = (double)groups;
    for (size_t g = 0; g < groups; g++) {
        double off = y[g] - r * (double)n[g];
        squares += off * off;
    }
    return (struct stats_mean){.n = count, .mean = r, .se = sqrt(all / (all - 1) * squares) / count};
}

struct stats_mean stats_plain(const struct stats_moments *m)
{
    double se = m->n > 1 ? sqrt(m->m2 / (m->n - 1) / m->n) : INFINITY;
    return (struct stats_mean){.n = m->n, .mean = m->mean, .se = se};
}

/* Half the width of the interval for a standard error of 1, and what its formula yields when it is asked for the alpha
 * at which the interval ends at `z` standard errors, rho being kept. */
static double half_width(double n, double alpha, double tuning, bool one_sided, double z, double *p)
{
    double rho_alpha = one_sided ? 2 * alpha : alpha;
    double rho2 = (-2 * log(rho_alpha) + log(1 - 2 * log(rho_alpha))) / tuning;
    double nr = n * rho2, root = sqrt(nr + 1);
    double height = one_sided ? log1p(root / (2 * alpha)) : log(root / alpha);
    double reached = z * z * nr / (2 * (nr + 1));
    *p = one_sided ? (z > 0 ? root / (2 * expm1(reached)) : 1) : root * exp(-reached);
    *p = MIN(*p, 1);
    return sqrt(2 * (nr + 1) / nr * height);
}

struct stats_lift stats_difference(const struct stats_mean *a, const struct stats_mean *b, bool relative,
                                   bool one_sided, double alpha, double tuning)
{
    struct stats_lift out = {.lift = b->mean - a->mean, .se = hypot(a->se, b->se)};
    if (relative) {
        out.lift /= a->mean;
        out.se = hypot(b->se / a->mean, a->se * b->mean / (a->mean * a->mean));
    }
    if (!(a->n > 0) || !(b->n > 0) || !isfinite(out.lift) || !isfinite(out.se)) {
        return (struct stats_lift){.lift = NAN, .se = INFINITY, .low = -INFINITY, .high = INFINITY, .p = 1};
    }
    double z = out.se > 0 ? out.lift / out.se : out.lift == 0 ? 0 : copysign(INFINITY, out.lift);
    double half = out.se * half_width(a->n + b->n, alpha, tuning, one_sided, z, &out.p);
    out.low = out.lift - half;
    out.high = one_sided ? INFINITY : out.lift + half;
    return out;
}

/* ---- distributions over shared bins ---- */

static double count_of(const uint64_t *bin, size_t bins)
{
    double sum = 0;
    for (size_t i = 0; i < bins; i++) {
        sum += (double)bin[i];
    }
    return sum;
}

double stats_quantile_ln_e(const uint64_t *a, const uint64_t *b, size_t bins, double q)
{
    double n_a = count_of(a, bins), n_b = count_of(b, bins), below_a = 0, below_b = 0, least = INFINITY;
    for (size_t i = 0; i < bins; i++) {
        double through_a = below_a + (double)a[i], through_b = below_b + (double)b[i];
        double x_a = MIN(MAX(q * n_a, below_a), through_a), x_b = MIN(MAX(q * n_b, below_b), through_b);
        double here = ln_e(x_a, n_a, q, 1 - q, STATS_EQUAL) + ln_e(x_b, n_b, q, 1 - q, STATS_EQUAL);
        least = MIN(least, here);
        below_a = through_a;
        below_b = through_b;
    }
    return bins > 0 ? least : 0;
}

struct stats_ranks stats_mann_whitney(const uint64_t *a, const uint64_t *b, size_t bins)
{
    double n_a = count_of(a, bins), n_b = count_of(b, bins), n = n_a + n_b;
    if (!(n_a > 0) || !(n_b > 0)) {
        return (struct stats_ranks){.chance = .5, .p = 1};
    }
    double u = 0, below = 0, ties = 0;
    for (size_t i = 0; i < bins; i++) {
        double here_a = (double)a[i], here_b = (double)b[i], t = here_a + here_b;
        u += here_b * (below + here_a / 2);
        below += here_a;
        ties += (t - 1) * t * (t + 1);
    }
    double sigma = sqrt(n_a * n_b / 12 * (n + 1 - ties / (n * (n - 1))));
    double z = sigma > 0 ? (u - n_a * n_b / 2) / sigma : 0;
    return (struct stats_ranks){.u = u, .chance = u / (n_a * n_b), .z = z, .p = erfc(fabs(z) / sqrt(2))};
}
