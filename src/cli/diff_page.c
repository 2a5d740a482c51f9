/* SPDX-License-Identifier: Apache-2.0 */
/* Differences on a terminal. */
#include "cli/diff_page.h"

#include <inttypes.h>
#include <math.h>

#include "base/diff.h"
#include "cli/show.h"

#define CLASSES_SHOWN 10
#define LARGEST_SHOWN 10
#define SIDE_SHOWN 40

static double share_of(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : (double)NAN;
}

/* ---- the pairs ---- */

static void show_agreement(struct buf *out, yyjson_val *diff)
{
    show_count(out, get_count(diff, "pairs"));
    buf_addz(out, get_count(diff, "pairs") == 1 ? " pair, " : " pairs, ");
    show_percent(out, get_number(diff, "agreement"));
    BUF_LIT(out, " agree");
}

static void put_pairs(struct buf *out, const struct diff_view *v)
{
    BUF_LIT(out, "  compared      ");
    show_paint(out, v->colour, PAINT_BOLD);
    show_agreement(out, v->diff);
    show_paint(out, v->colour, PAINT_PLAIN);
    BUF_LIT(out, "\n");
    if (!v->noise) {
        return;
    }
    BUF_LIT(out, "  noise floor   ");
    if (get_count(v->noise, "pairs") == 0) {
        buf_addf(out, "%s was not asked twice yet\n", v->stable);
    } else {
        show_agreement(out, v->noise);
        buf_addf(out, ", %s with itself\n", v->stable);
    }
}

/* ---- by kind ---- */

static void mean_of(struct buf *out, const char *what, yyjson_val *mean, const char *end, const char *end_name)
{
    if (get_count(mean, "n") > 0) {
        buf_addf(out, "%s %.4g, %s %.4g", what, get_number(mean, "mean"), end_name, get_number(mean, end));
    }
}

static void measures(struct buf *out, const char *kind, yyjson_val *k)
{
    if (strcmp(kind, "class") == 0) {
        mean_of(out, "of the best in common", yyjson_obj_get(k, "top"), "least", "least");
    } else if (strcmp(kind, "numeric") == 0) {
        mean_of(out, "off by", yyjson_obj_get(k, "absolute"), "most", "most");
    } else if (strcmp(kind, "embedding") == 0) {
        mean_of(out, "cosine", yyjson_obj_get(k, "cosine"), "least", "least");
    } else {
        mean_of(out, "edited", yyjson_obj_get(k, "edit"), "most", "most");
    }
}

static void put_kinds(struct buf *out, const struct diff_view *v)
{
    static const char *const heads[] = {"kind", "compared", "equal", "", "noise equal"};
    yyjson_val *kinds = yyjson_obj_get(v->diff, "kinds"), *floor = yyjson_obj_get(v->noise, "kinds"), *key, *k;
    size_t i, max;
    struct table t;

    if (yyjson_obj_size(kinds) == 0) {
        return;
    }
    table_init(&t, COUNT_OF(heads));
    t.indent = t.right[1] = t.right[2] = t.right[4] = true;
    for (size_t h = 0; h < COUNT_OF(heads); h++) {
        table_put(&t, h == 4 && !v->noise ? "" : heads[h]);
    }
    yyjson_obj_foreach(kinds, i, max, key, k)
    {
        const char *name = yyjson_get_str(key);
        yyjson_val *noise = yyjson_obj_get(floor, name);

        table_put(&t, name);
        show_count(&t.text, get_count(k, "n"));
        table_cell(&t);
        show_percent(&t.text, share_of(get_count(k, "equal"), get_count(k, "n")));
        table_cell(&t);
        measures(&t.text, name, k);
        table_cell(&t);
        if (noise) {
            show_percent(&t.text, share_of(get_count(noise, "equal"), get_count(noise, "n")));
        }
        table_cell(&t);
    }
    BUF_LIT(out, "\n");
    table_show(out, &t, true, v->colour);
    table_done(&t);
}

/* ---- times ---- */

static void put_times(struct buf *out, const struct diff_view *v)
{
    static const char *const rows[] = {"p50", "p95"};
    yyjson_val *s = yyjson_obj_get(v->times, "stable"), *c = yyjson_obj_get(v->times, "candidate");
    struct table t;

    if (get_count(s, "n") == 0 && get_count(c, "n") == 0) {
        return;
    }
    table_init(&t, 3);
    t.indent = t.right[1] = t.right[2] = true;
    buf_addf(&t.text, "%s, ms", v->times_of);
    table_cell(&t);
    table_put(&t, v->stable);
    table_put(&t, v->candidate);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        table_put(&t, rows[i]);
        show_ms(&t.text, get_number(s, rows[i]));
        table_cell(&t);
        show_ms(&t.text, get_number(c, rows[i]));
        table_cell(&t);
    }
    BUF_LIT(out, "\n");
    table_show(out, &t, true, v->colour);
    table_done(&t);
}

/* ---- labels ---- */

static void put_labels(struct buf *out, const struct diff_view *v)
{
    yyjson_val *l = yyjson_obj_get(v->diff, "labels");
    const char *verdict = get_text(l, "verdict");
    bool better = verdict && strcmp(verdict, "better") == 0, worse = verdict && strcmp(verdict, "worse") == 0;

    if (!yyjson_is_obj(l)) {
        return;
    }
    BUF_LIT(out, "\n  with labels   ");
    show_count(out, get_count(l, "n"));
    BUF_LIT(out, ": both right ");
    show_count(out, get_count(l, "both_right"));
    buf_addf(out, ", only %s ", v->stable);
    show_count(out, get_count(l, "stable_right"));
    buf_addf(out, ", only %s ", v->candidate);
    show_count(out, get_count(l, "candidate_right"));
    BUF_LIT(out, ", neither ");
    show_count(out, get_count(l, "both_wrong"));
    BUF_LIT(out, "\n  accuracy      ");
    show_percent(out, get_number(l, "stable_accuracy"));
    BUF_LIT(out, " and ");
    show_percent(out, get_number(l, "candidate_accuracy"));
    BUF_LIT(out, ": ");
    show_paint(out, v->colour, better ? PAINT_GOOD : worse ? PAINT_BAD : PAINT_PLAIN);
    if (better || worse) {
        buf_addf(out, "%s is %s", v->candidate, better ? "better" : "worse");
    } else {
        BUF_LIT(out, "which is better is not known yet");
    }
    show_paint(out, v->colour, PAINT_PLAIN);
    buf_addf(out, " (evidence %.2f of %.2f)\n", get_number(l, "ln_e"), get_number(l, "trip"));
}

/* ---- what went where ---- */

static void put_classes(struct buf *out, const struct diff_view *v)
{
    yyjson_val *c;
    size_t i, max, shown = 0;
    struct table t;

    table_init(&t, 3);
    t.indent = t.right[2] = true;
    yyjson_arr_foreach(yyjson_obj_get(v->diff, "classes"), i, max, c)
    {
        const char *a = get_text(c, "stable"), *b = get_text(c, "candidate");

        if (a && b && strcmp(a, b) != 0 && ++shown <= CLASSES_SHOWN) {
            table_put(&t, a);
            BUF_LIT(&t.text, "-> ");
            table_put(&t, b);
            show_count(&t.text, get_count(c, "count"));
            table_cell(&t);
        }
    }
    if (shown > 0) {
        BUF_LIT(out, "\n  other classes\n");
        table_show(out, &t, false, v->colour);
    }
    if (shown > CLASSES_SHOWN) {
        buf_addf(out, "  and %zu pairs of classes more (--json)\n", shown - CLASSES_SHOWN);
    }
    table_done(&t);
}

static void side(struct table *t, const char *z)
{
    size_t n = z ? strlen(z) : 0;

    if (n <= SIDE_SHOWN) {
        table_put(t, z);
        return;
    }
    n = SIDE_SHOWN - 3;
    while (n > 0 && ((unsigned char)z[n] & 0xC0) == 0x80) {
        n--;
    }
    show_text(&t->text, (struct str){z, n});
    BUF_LIT(&t->text, "...");
    table_cell(t);
}

static void put_largest(struct buf *out, const struct diff_view *v)
{
    yyjson_val *all = yyjson_obj_get(v->diff, "largest"), *x;
    size_t i, max, n = yyjson_arr_size(all);
    struct table t;

    if (n == 0) {
        return;
    }
    table_init(&t, 5);
    t.indent = true;
    table_put(&t, "request");
    table_put(&t, "output");
    table_put(&t, "at");
    table_put(&t, v->stable);
    table_put(&t, v->candidate);
    yyjson_arr_foreach(all, i, max, x)
    {
        if (i < LARGEST_SHOWN) {
            table_put(&t, get_text(x, "id"));
            table_put(&t, get_text(x, "output"));
            show_count(&t.text, get_count(x, "at"));
            table_cell(&t);
            side(&t, get_text(x, "stable"));
            side(&t, get_text(x, "candidate"));
        }
    }
    BUF_LIT(out, "\n  largest differences\n");
    table_show(out, &t, true, v->colour);
    if (n > LARGEST_SHOWN) {
        buf_addf(out, "  and %zu more (--json)\n", n - LARGEST_SHOWN);
    }
    table_done(&t);
}

void diff_page(struct buf *out, const struct diff_view *v)
{
    put_pairs(out, v);
    put_kinds(out, v);
    put_times(out, v);
    put_labels(out, v);
    put_classes(out, v);
    put_largest(out, v);
}
