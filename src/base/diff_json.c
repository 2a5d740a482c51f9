/* SPDX-License-Identifier: Apache-2.0 */
/* A sum of differences as JSON:
 *
 *     {"pairs", "agree", "differ", "agreement",
 *      "kinds": {"class": {"n", "equal", "top": {"n", "mean", "least"}},
 *                "numeric": {"n", "equal", "atol", "rtol", "absolute": {"n", "mean", "most"}, "relative": {…}},
 *                "embedding": {"n", "equal", "cosine": {"n", "mean", "least"}},
 *                "text": {"n", "equal", "edit": {"n", "mean", "most"}, "length": {"n", "mean", "least", "most"}}},
 *      "labels": {"n", "both_right", "stable_right", "candidate_right", "both_wrong", "stable_accuracy",
 *                 "candidate_accuracy", "ln_e", "trip", "verdict"},
 *      "classes": [{"stable", "candidate", "count"}…], "classes_other",
 *      "largest": [{"id", "kind", "output", "at", "size", "stable", "candidate"}…]}
 *
 * Kinds that were not seen are left out; labels is null without one; a mean of nothing is null. */
#include <math.h>
#include <stdlib.h>

#include "base/diff.h"
#include "base/json.h"

enum { LEAST = 1, MOST = 2 };

static void put_count(struct buf *b, const char *key, uint64_t n)
{
    json_key(b, key);
    buf_addu(b, n);
}

static void put_number(struct buf *b, const char *key, double v)
{
    json_key(b, key);
    json_f64(b, v);
}

static void put_mean(struct buf *b, const char *key, const struct diff_mean *m, unsigned ends)
{
    json_key(b, key);
    BUF_LIT(b, "{");
    put_count(b, "n", m->n);
    put_number(b, "mean", m->n ? m->sum / (double)m->n : (double)NAN);
    if (ends & LEAST) {
        put_number(b, "least", m->n ? m->least : (double)NAN);
    }
    if (ends & MOST) {
        put_number(b, "most", m->n ? m->most : (double)NAN);
    }
    BUF_LIT(b, "}");
}

static void put_measures(struct buf *b, enum diff_kind kind, const struct diff_part *p)
{
    switch (kind) {
    case DIFF_CLASS:
        if (p->first.n > 0) {
            put_mean(b, "top", &p->first, LEAST);
        }
        break;
    case DIFF_NUMERIC:
        put_number(b, "atol", DIFF_ATOL);
        put_number(b, "rtol", DIFF_RTOL);
        put_mean(b, "absolute", &p->first, MOST);
        put_mean(b, "relative", &p->second, MOST);
        break;
    case DIFF_EMBEDDING:
        put_mean(b, "cosine", &p->first, LEAST);
        break;
    default:
        put_mean(b, "edit", &p->first, MOST);
        put_mean(b, "length", &p->second, LEAST | MOST);
    }
}

static void put_kinds(struct buf *b, const struct diff_sum *s)
{
    json_key(b, "kinds");
    BUF_LIT(b, "{");
    for (int k = 0; k < DIFF_KINDS; k++) {
        if (s->part[k].n > 0) {
            json_key(b, diff_kind_names[k]);
            BUF_LIT(b, "{");
            put_count(b, "n", s->part[k].n);
            put_count(b, "equal", s->part[k].equal);
            put_measures(b, (enum diff_kind)k, &s->part[k]);
            BUF_LIT(b, "}");
        }
    }
    BUF_LIT(b, "}");
}

static int by_count(const void *a, const void *b)
{
    const struct diff_cell *const *x = a, *const *y = b;

    return (*x)->count<(*y)->count ? 1 : (*x)->count>(*y)->count ? -1 : strcmp((*x)->stable, (*y)->stable);
}

static void put_classes(struct buf *b, const struct diff_sum *s)
{
    const struct diff_cell *sorted[DIFF_CELLS];

    for (uint32_t i = 0; i < s->n_cells; i++) {
        sorted[i] = &s->cell[i];
    }
    qsort(sorted, s->n_cells, sizeof(sorted[0]), by_count);
    json_key(b, "classes");
    BUF_LIT(b, "[");
    for (uint32_t i = 0; i < s->n_cells; i++) {
        json_comma(b);
        BUF_LIT(b, "{\"stable\":");
        json_strz(b, sorted[i]->stable);
        BUF_LIT(b, ",\"candidate\":");
        json_strz(b, sorted[i]->candidate);
        put_count(b, "count", sorted[i]->count);
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]");
    put_count(b, "classes_other", s->other_cells);
}

static void put_labels(struct buf *b, const struct diff_sum *s)
{
    uint64_t n = s->both_right + s->stable_right + s->candidate_right + s->both_wrong;
    double ln_e, trip;
    int verdict = diff_verdict(s, &ln_e, &trip);

    json_key(b, "labels");
    if (n == 0) {
        BUF_LIT(b, "null");
        return;
    }
    BUF_LIT(b, "{");
    put_count(b, "n", n);
    put_count(b, "both_right", s->both_right);
    put_count(b, "stable_right", s->stable_right);
    put_count(b, "candidate_right", s->candidate_right);
    put_count(b, "both_wrong", s->both_wrong);
    put_number(b, "stable_accuracy", (double)(s->both_right + s->stable_right) / (double)n);
    put_number(b, "candidate_accuracy", (double)(s->both_right + s->candidate_right) / (double)n);
    put_number(b, "ln_e", ln_e);
    put_number(b, "trip", trip);
    json_key(b, "verdict");
    json_strz(b, verdict > 0 ? "better" : verdict < 0 ? "worse" : "undecided");
    BUF_LIT(b, "}");
}

static void put_largest(struct buf *b, const struct diff_sum *s)
{
    json_key(b, "largest");
    BUF_LIT(b, "[");
    for (uint32_t i = 0; i < s->n_largest; i++) {
        const struct diff_example *x = &s->largest[i];

        json_comma(b);
        BUF_LIT(b, "{\"id\":");
        json_strz(b, x->id);
        BUF_LIT(b, ",\"kind\":");
        json_strz(b, diff_kind_names[x->kind]);
        BUF_LIT(b, ",\"output\":");
        json_strz(b, x->output);
        put_count(b, "at", x->at);
        put_number(b, "size", x->size);
        BUF_LIT(b, ",\"stable\":");
        json_strz(b, x->stable);
        BUF_LIT(b, ",\"candidate\":");
        json_strz(b, x->candidate);
        BUF_LIT(b, "}");
    }
    BUF_LIT(b, "]");
}

void diff_json(struct buf *b, const struct diff_sum *s, bool whole)
{
    BUF_LIT(b, "{");
    put_count(b, "pairs", s->pairs);
    put_count(b, "agree", s->agree);
    put_count(b, "differ", s->pairs - s->agree);
    put_number(b, "agreement", diff_agreement(s));
    put_kinds(b, s);
    put_labels(b, s);
    if (whole) {
        put_classes(b, s);
        put_largest(b, s);
    }
    BUF_LIT(b, "}");
}
