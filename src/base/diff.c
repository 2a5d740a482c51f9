/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing two answers, and adding comparisons up. diff.h has the rules; diff_json.c writes sums. */
#include "base/diff.h"

#include <math.h>
#include <stdio.h>

#include "base/hash.h"
#include "base/stats.h"

const char *const diff_kind_names[] = {"class", "numeric", "embedding", "text"};

static void mean_add(struct diff_mean *m, double v)
{
    m->least = m->n == 0 || v < m->least ? v : m->least;
    m->most = m->n == 0 || v > m->most ? v : m->most;
    m->sum += v;
    m->n++;
}

static void mean_merge(struct diff_mean *into, const struct diff_mean *from)
{
    if (from->n == 0) {
        return;
    }
    into->least = into->n == 0 || from->least < into->least ? from->least : into->least;
    into->most = into->n == 0 || from->most > into->most ? from->most : into->most;
    into->sum += from->sum;
    into->n += from->n;
}

/* As much of a text as the field takes; a character of UTF-8 is not cut in two. */
static void short_text(char *out, size_t cap, struct str s)
{
    size_t n = MIN(s.n, cap - 1);

    while (n > 0 && n < s.n && ((unsigned char)s.p[n] & 0xC0) == 0x80) {
        n--;
    }
    if (n > 0) {
        memcpy(out, s.p, n);
    }
    out[n] = '\0';
}

/* ---- the largest ---- */

static void largest_add(struct diff_sum *s, const struct diff_example *x)
{
    size_t at = s->n_largest;

    while (at > 0 && s->largest[at - 1].size < x->size) {
        at--;
    }
    if (at == DIFF_LARGEST) {
        return;
    }
    s->n_largest += s->n_largest < DIFF_LARGEST;
    memmove(&s->largest[at + 1], &s->largest[at], (s->n_largest - at - 1) * sizeof(s->largest[0]));
    s->largest[at] = *x;
}

/* True if a difference of this size would be the pair's worst so far: then its texts are worth making. */
static bool is_worst(const struct diff_pair *p, enum diff_kind kind, double size)
{
    bool class_first = kind != DIFF_CLASS && p->by_class && !p->same_class;

    return size > 0 && !class_first && (kind == DIFF_CLASS || size > p->worst.size);
}

static void put_worst(struct diff_pair *p, enum diff_kind kind, struct str output, double size, uint64_t at)
{
    p->worst.kind = kind;
    p->worst.size = size;
    p->worst.at = at;
    short_text(p->worst.output, sizeof(p->worst.output), output);
}

/* ---- classes ---- */

static void cell_count(struct diff_sum *s, struct str stable, struct str candidate, uint64_t count)
{
    char a[DIFF_CLASS_NAME], b[DIFF_CLASS_NAME];
    uint64_t hash;

    short_text(a, sizeof(a), stable);
    short_text(b, sizeof(b), candidate);
    hash = hash64_seed(b, strlen(b), hash64(a, strlen(a)));
    for (uint32_t i = 0; i < s->n_cells; i++) {
        struct diff_cell *c = &s->cell[i];

        if (c->hash == hash && strcmp(c->stable, a) == 0 && strcmp(c->candidate, b) == 0) {
            c->count += count;
            return;
        }
    }
    if (s->n_cells == DIFF_CELLS) {
        s->other_cells += count;
        return;
    }
    struct diff_cell *c = &s->cell[s->n_cells++];
    c->hash = hash;
    c->count = count;
    memcpy(c->stable, a, sizeof(a));
    memcpy(c->candidate, b, sizeof(b));
}

void diff_classes(struct diff_pair *p, struct str output, const struct str *stable, size_t n_stable,
                  const struct str *candidate, size_t n_candidate)
{
    struct diff_part *part = &p->sum->part[DIFF_CLASS];
    size_t both = MIN(n_stable, n_candidate), rows = MAX(n_stable, n_candidate), same = 0, first = both;

    for (size_t i = 0; i < both; i++) {
        bool equal = n_stable == n_candidate && str_eq(stable[i], candidate[i]);

        cell_count(p->sum, stable[i], candidate[i], 1);
        same += equal;
        first = !equal && first == both ? i : first;
    }
    p->by_class = true;
    p->same_class = same == rows;
    part->n += rows;
    part->equal += same;
    if (!p->same_class) {
        first = first == both ? 0 : first;
        put_worst(p, DIFF_CLASS, output, (double)(rows - same) / (double)rows, first);
        short_text(p->worst.stable, sizeof(p->worst.stable), stable[first]);
        short_text(p->worst.candidate, sizeof(p->worst.candidate), candidate[first]);
    }
}

/* The places of the k largest, largest first; of equal ones the first. */
static void best_of(const double *v, size_t n, size_t k, size_t *best)
{
    size_t have = 0;

    for (size_t i = 0; i < n; i++) {
        size_t at = have;

        while (at > 0 && v[best[at - 1]] < v[i]) {
            at--;
        }
        if (at < k) {
            have += have < k;
            memmove(&best[at + 1], &best[at], (have - at - 1) * sizeof(best[0]));
            best[at] = i;
        }
    }
}

void diff_scores(struct diff_pair *p, const double *stable, const double *candidate, size_t n, size_t width)
{
    size_t k = MIN(width, (size_t)DIFF_TOP), a[DIFF_TOP], b[DIFF_TOP];

    for (size_t row = 0; k > 0 && (row + 1) * width <= n; row++) {
        unsigned common = 0;

        best_of(stable + row * width, width, k, a);
        best_of(candidate + row * width, width, k, b);
        for (size_t i = 0; i < k * k; i++) {
            common += a[i / k] == b[i % k];
        }
        mean_add(&p->sum->part[DIFF_CLASS].first, (double)common / (double)k);
    }
}

/* ---- numbers ---- */

static bool numbers_equal(double y, double x)
{
    return y == x || (isnan(y) && isnan(x)) || (isfinite(y) && fabs(y - x) <= DIFF_ATOL + DIFF_RTOL * fabs(y));
}

/* 0 to 1; not finite: 1. */
static double number_size(double y, double x)
{
    double size = fabs(y - x) / (fabs(y) + fabs(x));

    return isfinite(size) ? size : 1;
}

static void compare_tensor(struct diff_pair *p, struct str output, const double *y, const double *x, size_t n)
{
    struct diff_part *part = &p->sum->part[DIFF_NUMERIC];
    double most = 0, relative = 0, size = 0;
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        double off = fabs(y[i] - x[i]), larger = fmax(fabs(y[i]), fabs(x[i]));

        if (off > most && isfinite(off)) {
            most = off;
        }
        if (off > relative * larger && isfinite(off)) {
            relative = off / larger;
        }
        if (!numbers_equal(y[i], x[i]) && number_size(y[i], x[i]) > size) {
            size = number_size(y[i], x[i]);
            at = i;
        }
    }
    part->n++;
    part->equal += size == 0;
    p->equal &= size == 0;
    mean_add(&part->first, most);
    mean_add(&part->second, relative);
    if (is_worst(p, DIFF_NUMERIC, size)) {
        put_worst(p, DIFF_NUMERIC, output, size, at);
        snprintf(p->worst.stable, sizeof(p->worst.stable), "%.9g", y[at]);
        snprintf(p->worst.candidate, sizeof(p->worst.candidate), "%.9g", x[at]);
    }
}

/* Two zero vectors point the same way; a zero and another, or what is not finite, in none. */
static double cosine(const double *y, const double *x, size_t n)
{
    double yy = 0, xx = 0, yx = 0;

    for (size_t i = 0; i < n; i++) {
        yy += y[i] * y[i];
        xx += x[i] * x[i];
        yx += y[i] * x[i];
    }
    if (yy == 0 && xx == 0) {
        return 1;
    }
    double c = yx / (sqrt(yy) * sqrt(xx));
    return isfinite(c) ? fmin(fmax(c, -1), 1) : 0;
}

static void vector_text(char *out, size_t cap, const double *v)
{
    snprintf(out, cap, "[%.4g, %.4g, %.4g, %.4g, ...]", v[0], v[1], v[2], v[3]);
}

static void compare_rows(struct diff_pair *p, struct str output, const double *y, const double *x, size_t n,
                         size_t width)
{
    struct diff_part *part = &p->sum->part[DIFF_EMBEDDING];

    for (size_t row = 0; (row + 1) * width <= n; row++) {
        const double *a = y + row * width, *b = x + row * width;
        double c = cosine(a, b, width);
        bool equal = c >= 1 - DIFF_COSINE;

        part->n++;
        part->equal += equal;
        p->equal &= equal;
        mean_add(&part->first, c);
        if (!equal && is_worst(p, DIFF_EMBEDDING, (1 - c) / 2)) {
            put_worst(p, DIFF_EMBEDDING, output, (1 - c) / 2, row);
            vector_text(p->worst.stable, sizeof(p->worst.stable), a);
            vector_text(p->worst.candidate, sizeof(p->worst.candidate), b);
        }
    }
}

void diff_numbers(struct diff_pair *p, struct str output, const double *stable, const double *candidate, size_t n,
                  size_t width, bool floats)
{
    if (floats && width >= DIFF_WIDE && n >= width) {
        compare_rows(p, output, stable, candidate, n, width);
    } else {
        compare_tensor(p, output, stable, candidate, n);
    }
}

/* ---- texts ---- */

/* The matrix of Wagner and Fischer (JACM 1974), a row at a time. */
double diff_edit(struct str a, struct str b)
{
    size_t n = MIN(a.n, (size_t)DIFF_EDIT), m = MIN(b.n, (size_t)DIFF_EDIT), longer = MAX(n, m);
    uint16_t row[DIFF_EDIT + 1];

    if (str_eq(a, b)) {
        return 0;
    }
    for (size_t j = 0; j <= m; j++) {
        row[j] = (uint16_t)j;
    }
    for (size_t i = 1; i <= n; i++) {
        uint16_t corner = row[0];

        row[0] = (uint16_t)i;
        for (size_t j = 1; j <= m; j++) {
            uint16_t above = row[j], change = (uint16_t)(corner + (a.p[i - 1] != b.p[j - 1]));

            row[j] = MIN(change, (uint16_t)(MIN(above, row[j - 1]) + 1));
            corner = above;
        }
    }
    return (double)MAX(row[m], (uint16_t)1) / (double)longer;
}

void diff_texts(struct diff_pair *p, struct str output, const struct str *stable, const struct str *candidate, size_t n)
{
    struct diff_part *part = &p->sum->part[DIFF_TEXT];
    size_t taken = 0;

    for (size_t i = 0; i < n; i++) {
        struct str y = stable[i], x = candidate[i];
        bool equal = str_eq(y, x);
        double size = equal || taken >= DIFF_EDITED ? 0 : diff_edit(y, x);

        part->n++;
        part->equal += equal;
        p->equal &= equal;
        taken += !equal;
        if (equal || size > 0) {
            mean_add(&part->first, size);
        }
        if (y.n > 0) {
            mean_add(&part->second, (double)x.n / (double)y.n);
        }
        if (is_worst(p, DIFF_TEXT, size)) {
            put_worst(p, DIFF_TEXT, output, size, i);
            short_text(p->worst.stable, sizeof(p->worst.stable), y);
            short_text(p->worst.candidate, sizeof(p->worst.candidate), x);
        }
    }
}

/* ---- a pair ---- */

void diff_begin(struct diff_pair *p, struct diff_sum *sum, struct str id)
{
    p->sum = sum;
    p->id = id;
    p->by_class = p->same_class = false;
    p->equal = true;
    p->worst.size = 0;
}

void diff_shapes(struct diff_pair *p, struct str output, enum diff_kind kind, const char *stable, const char *candidate)
{
    p->sum->part[kind].n++;
    if (kind == DIFF_CLASS) {
        p->by_class = true;
        p->same_class = false;
    } else {
        p->equal = false;
    }
    if (is_worst(p, kind, 1)) {
        put_worst(p, kind, output, 1, 0);
        short_text(p->worst.stable, sizeof(p->worst.stable), str_of(stable));
        short_text(p->worst.candidate, sizeof(p->worst.candidate), str_of(candidate));
    }
}

bool diff_end(struct diff_pair *p)
{
    struct diff_sum *s = p->sum;
    bool agrees = p->by_class ? p->same_class : p->equal;

    s->pairs++;
    s->agree += agrees;
    if (p->worst.size > 0) {
        short_text(p->worst.id, sizeof(p->worst.id), p->id);
        largest_add(s, &p->worst);
    }
    return agrees;
}

/* ---- labels ---- */

void diff_label(struct diff_sum *s, bool stable_right, bool candidate_right)
{
    uint64_t *count = stable_right && candidate_right ? &s->both_right
                      : stable_right                  ? &s->stable_right
                      : candidate_right               ? &s->candidate_right
                                                      : &s->both_wrong;

    ++*count;
}

int diff_verdict(const struct diff_sum *s, double *ln_e, double *trip)
{
    uint64_t x = s->candidate_right, n = x + s->stable_right;
    bool better = x * 2 >= n;

    *trip = log(2 / DIFF_ALPHA);
    *ln_e = n == 0 ? 0 : stats_ln_e(x, n, .5, better ? STATS_ABOVE : STATS_BELOW);
    return *ln_e < *trip ? 0 : better ? 1 : -1;
}

/* ---- sums ---- */

void diff_merge(struct diff_sum *into, const struct diff_sum *from)
{
    into->pairs += from->pairs;
    into->agree += from->agree;
    into->both_right += from->both_right;
    into->stable_right += from->stable_right;
    into->candidate_right += from->candidate_right;
    into->both_wrong += from->both_wrong;
    into->other_cells += from->other_cells;
    for (int k = 0; k < DIFF_KINDS; k++) {
        into->part[k].n += from->part[k].n;
        into->part[k].equal += from->part[k].equal;
        mean_merge(&into->part[k].first, &from->part[k].first);
        mean_merge(&into->part[k].second, &from->part[k].second);
    }
    for (uint32_t i = 0; i < from->n_cells; i++) {
        cell_count(into, str_of(from->cell[i].stable), str_of(from->cell[i].candidate), from->cell[i].count);
    }
    for (uint32_t i = 0; i < from->n_largest; i++) {
        largest_add(into, &from->largest[i]);
    }
}

double diff_agreement(const struct diff_sum *s)
{
    return s->pairs ? (double)s->agree / (double)s->pairs : (double)NAN;
}
