/* SPDX-License-Identifier: Apache-2.0 */
/* The page of an experiment. */
#include "cli/experiment_page.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "cli/compare.h"
#include "cli/rollout_page.h"
#include "cli/show.h"

#define COLUMNS 78
#define TEXT_AT 13
#define HALF 18 /* characters of the line on either side of 0 */

enum { AT_NAME = 2, AT_STABLE = 13, AT_CANARY = 31, AT_DIFFERENCE = 49 };

/* clang-format off */
enum sign { REST, LINE, FROM, TO, MIDDLE, ZERO, CROSS, SIGNS };
static const char *const signs[2][SIGNS] = {
    {".", "-", "|", "|", "o", "!", "+"},
    {"·", "─", "├", "┤", "●", "│", "┼"},
};
/* clang-format on */

struct page {
    struct buf *out;
    yyjson_val *root, *rollout, *experiment, *finding;
    const struct page_style *style;
    const char *model, *goal, *state, *outcome, *result;
    uint64_t stable, canary;
};

static bool is(const char *a, const char *b)
{
    return a && strcmp(a, b) == 0;
}

static void paint(const struct page *p, enum paint how)
{
    show_paint(p->out, p->style->colour, how);
}

static void label(const struct page *p, const char *word)
{
    size_t line = p->out->n;
    BUF_LIT(p->out, "  ");
    paint(p, PAINT_BOLD);
    buf_addz(p->out, word);
    paint(p, PAINT_PLAIN);
    show_column(p->out, line, TEXT_AT);
}

/* ---- the line ---- */

/* The next of 1, 2, 5, 10 … that is not below v. */
static double round_up(double v)
{
    double ten = pow(10, floor(log10(v)));
    double first = v / ten;
    return ten * (first <= 1 ? 1 : first <= 2 ? 2 : first <= 5 ? 5 : 10);
}

static int column_of(double v, double most)
{
    int at = (int)round(v / most * HALF) + HALF;
    return MIN(MAX(at, 0), 2 * HALF);
}

void difference_show(struct buf *out, double low, double mid, double high, double *most, const struct page_style *s)
{
    double far = fmax(fabs(low), fabs(high));
    bool known = isfinite(low) && isfinite(mid) && isfinite(high) && far > 0;
    *most = known ? round_up(far) : 1;
    int l = known ? column_of(low, *most) : -1, h = known ? column_of(high, *most) : -1;
    int m = known ? column_of(mid, *most) : -1;
    for (int i = 0; i < 2 * HALF + 1; i++) {
        enum sign sign = i == m           ? MIDDLE
                         : i == l         ? FROM
                         : i == h         ? TO
                         : i > l && i < h ? (i == HALF ? CROSS : LINE)
                         : i == HALF      ? ZERO
                                          : REST;
        buf_addz(out, signs[s->utf8][sign]);
    }
}

/* ---- the head ---- */

static void chip(const struct page *p, const char *word)
{
    paint(p, PAINT_CHIP);
    buf_addz(p->out, p->style->colour ? " " : "[");
    buf_addz(p->out, word);
    buf_addz(p->out, p->style->colour ? " " : "]");
    paint(p, PAINT_PLAIN);
}

static const char *state_word(const struct page *p)
{
    static const char *const words[][2] = {{"shipped", "SHIPPED"},
                                           {"kept", "STOPPED, KEPT"},
                                           {"harm", "STOPPED FOR HARM"},
                                           {"invalid", "INVALID"},
                                           {"expired", "EXPIRED"}};
    for (size_t i = 0; p->outcome && i < COUNT_OF(words); i++) {
        if (strcmp(words[i][0], p->outcome) == 0) {
            return is(p->state, "rolled_back") && i == 0 ? "SHIPPED, ROLLED BACK" : words[i][1];
        }
    }
    return !is(p->state, "running") ? "REPLACED" : is(p->result, "hidden") ? "INVALID" : "RUNNING";
}

static bool runs(const struct page *p)
{
    return is(p->state, "running");
}

static void header(const struct page *p)
{
    const char *started = get_text(p->rollout, "started"), *ended = get_text(p->rollout, "ended");
    const char *from = get_text(p->experiment, "ship_from"), *until = get_text(p->experiment, "expires");
    const char *reason = get_text(p->rollout, "reason");
    paint(p, PAINT_BOLD);
    show_textz(p->out, p->model);
    paint(p, PAINT_PLAIN);
    buf_addf(p->out, "  v%" PRIu64 " %s v%" PRIu64 "  ", p->stable, p->style->utf8 ? "│" : "|", p->canary);
    chip(p, state_word(p));
    if (runs(p)) {
        BUF_LIT(p->out, "  each has ");
        show_share(p->out, get_count(p->rollout, "share_bp"));
        BUF_LIT(p->out, " of the users");
    }
    BUF_LIT(p->out, "\n  goal ");
    show_textz(p->out, p->goal);
    buf_addz(p->out, get_flag(p->experiment, "lower") ? " (the lower the better)" : " (the higher the better)");
    BUF_LIT(p->out, "\n  started ");
    show_when(p->out, started);
    if (ended) {
        BUF_LIT(p->out, ", ended ");
        show_when(p->out, ended);
    } else if (until) {
        BUF_LIT(p->out, ", ends ");
        show_when(p->out, until);
    }
    if (runs(p) && from) {
        BUF_LIT(p->out, "\n  may be shipped from ");
        show_when(p->out, from);
        BUF_LIT(p->out, " on");
    }
    BUF_LIT(p->out, "\n");
    if (!runs(p) && reason && *reason) {
        BUF_LIT(p->out, "  ");
        show_wrapped(p->out, reason, 2, COLUMNS);
        BUF_LIT(p->out, "\n");
    }
    BUF_LIT(p->out, "\n");
}

/* ---- the goal ---- */

static const char *result_word(const char *result)
{
    static const char *const words[][2] = {{"few", "NO DATA"},         {"unclear", "UNCLEAR"}, {"better", "BETTER"},
                                           {"not_worse", "NOT WORSE"}, {"worse", "WORSE"},     {"hidden", "HIDDEN"}};
    for (size_t i = 0; result && i < COUNT_OF(words); i++) {
        if (strcmp(words[i][0], result) == 0) {
            return words[i][1];
        }
    }
    return "NO DATA";
}

static void arm_cell(const struct page *p, const char *arm)
{
    yyjson_val *a = yyjson_obj_get(p->finding, arm);
    double mean = get_number(a, "mean");
    if (isnan(mean)) {
        BUF_LIT(p->out, "-");
    } else if (is(p->goal, "accuracy")) {
        show_percent(p->out, mean);
    } else {
        buf_addf(p->out, "%.4g", mean);
    }
    BUF_LIT(p->out, " n ");
    show_brief(p->out, get_count(a, "n"));
}

static void difference(const struct page *p, double v)
{
    buf_addf(p->out, is(p->goal, "accuracy") ? "%+.2f" : "%+.4g", is(p->goal, "accuracy") ? 100 * v : v);
}

static void interval(const struct page *p)
{
    yyjson_val *d = yyjson_obj_get(p->finding, "difference");
    double low = get_number(d, "low"), mid = get_number(d, "mid"), high = get_number(d, "high"), most;
    size_t line;
    if (!yyjson_is_obj(d)) {
        return;
    }
    show_column(p->out, p->out->n, AT_STABLE);
    difference_show(p->out, low, mid, high, &most, p->style);
    BUF_LIT(p->out, "  ");
    difference(p, low);
    BUF_LIT(p->out, " to ");
    difference(p, high);
    BUF_LIT(p->out, "\n");
    line = p->out->n;
    paint(p, PAINT_FAINT);
    show_column(p->out, line, AT_STABLE);
    difference(p, -most);
    show_column(p->out, line, AT_STABLE + HALF);
    BUF_LIT(p->out, "0");
    show_column(p->out, line, AT_STABLE + 2 * HALF - 3);
    difference(p, most);
    buf_addf(p->out, "  always-valid %.4g %%, p %.1g\n", 100 * (1 - get_number(p->experiment, "alpha")),
             get_number(d, "p"));
    paint(p, PAINT_PLAIN);
}

static void dropped(const struct page *p)
{
    uint64_t n[] = {get_count(yyjson_obj_get(p->finding, "stable"), "dropped"),
                    get_count(yyjson_obj_get(p->finding, "canary"), "dropped")};
    if (n[0] + n[1] > 0) {
        show_column(p->out, p->out->n, AT_STABLE);
        buf_addf(p->out,
                 "not counted, as they were no numbers: %" PRIu64 " of v%" PRIu64 ", %" PRIu64 " of v%" PRIu64 "\n",
                 n[0], p->stable, n[1], p->canary);
    }
}

static void goal(const struct page *p)
{
    const char *text = get_text(p->finding, "text");
    bool good = is(p->result, "better") || is(p->result, "not_worse");
    bool bad = is(p->result, "worse") || is(p->result, "hidden");
    size_t line = p->out->n;
    BUF_LIT(p->out, "  ");
    paint(p, good ? PAINT_GOOD : bad ? PAINT_BAD : PAINT_BOLD);
    buf_addz(p->out, result_word(p->result));
    paint(p, PAINT_PLAIN);
    show_column(p->out, line, TEXT_AT);
    show_wrapped(p->out, text ? text : "not looked at yet", TEXT_AT, COLUMNS);
    BUF_LIT(p->out, "\n\n");
    if (!yyjson_is_obj(yyjson_obj_get(p->finding, "stable"))) {
        return;
    }
    line = p->out->n;
    show_column(p->out, line, AT_NAME);
    paint(p, PAINT_BOLD);
    BUF_LIT(p->out, "goal");
    show_column(p->out, line, AT_STABLE);
    buf_addf(p->out, "stable v%" PRIu64, p->stable);
    show_column(p->out, line, AT_CANARY);
    buf_addf(p->out, "canary v%" PRIu64, p->canary);
    show_column(p->out, line, AT_DIFFERENCE);
    BUF_LIT(p->out, "difference");
    paint(p, PAINT_PLAIN);
    BUF_LIT(p->out, "\n");
    line = p->out->n;
    show_column(p->out, line, AT_NAME);
    buf_addz(p->out, is(p->goal, "reward") || is(p->goal, "accuracy") ? p->goal : "output");
    show_column(p->out, line, AT_STABLE);
    arm_cell(p, "stable");
    show_column(p->out, line, AT_CANARY);
    arm_cell(p, "canary");
    show_column(p->out, line, AT_DIFFERENCE);
    if (yyjson_is_obj(yyjson_obj_get(p->finding, "difference"))) {
        difference(p, get_number(yyjson_obj_get(p->finding, "difference"), "mid"));
        buf_addz(p->out, is(p->goal, "accuracy") ? " points" : "");
    } else {
        BUF_LIT(p->out, "-");
    }
    BUF_LIT(p->out, "\n");
    interval(p);
    dropped(p);
    BUF_LIT(p->out, "\n");
}

/* ---- the rest ---- */

static void harm(const struct page *p)
{
    yyjson_val *v = yyjson_obj_get(p->rollout, "verdict");
    const char *text = get_text(v, "text");
    if (yyjson_is_obj(v)) {
        label(p, "harm");
        verdict_show(p->out, get_text(v, "verdict"), p->style);
        BUF_LIT(p->out, ": ");
        show_wrapped(p->out, text ? text : "", TEXT_AT, COLUMNS - 8);
        BUF_LIT(p->out, "\n\n");
    }
    guardrails_show(p->out, p->rollout, p->style);
}

static void may(const struct page *p, bool first, const char *what, const char *command)
{
    size_t line = p->out->n;
    if (first) {
        label(p, "you may");
    } else {
        show_column(p->out, line, TEXT_AT);
    }
    buf_addf(p->out, "%s ", command);
    show_textz(p->out, p->model);
    show_column(p->out, line, TEXT_AT + 34);
    paint(p, PAINT_FAINT);
    buf_addz(p->out, what);
    paint(p, PAINT_PLAIN);
    BUF_LIT(p->out, "\n");
}

static void hints(const struct page *p)
{
    if (runs(p)) {
        bool ships = get_flag(p->experiment, "may_ship");
        if (ships) {
            may(p, true, "it becomes the stable version", "weir experiment ship");
        }
        may(p, !ships, "end it; the stable version stays", "weir experiment stop");
    } else if (is(p->state, "soaking") || is(p->state, "promoted")) {
        may(p, true, "back to the version before, at once", "weir rollback");
    } else {
        may(p, true, "what was decided, and why", "weir history");
    }
}

void experiment_page(struct buf *out, yyjson_val *root, const struct page_style *s)
{
    yyjson_val *r = yyjson_obj_get(root, "rollout"), *x = yyjson_obj_get(r, "experiment");
    const struct page p = {.out = out,
                           .root = root,
                           .rollout = r,
                           .experiment = x,
                           .finding = yyjson_obj_get(x, "finding"),
                           .style = s,
                           .model = get_text(root, "model"),
                           .goal = get_text(x, "goal"),
                           .state = get_text(r, "state"),
                           .outcome = get_text(x, "outcome"),
                           .result = get_text(yyjson_obj_get(x, "finding"), "result"),
                           .stable = get_count(r, "stable"),
                           .canary = get_count(r, "canary")};
    header(&p);
    goal(&p);
    harm(&p);
    rollout_traffic(out, r, s);
    if (yyjson_arr_size(yyjson_obj_get(root, "arms")) > 0) {
        compare_table(out, root, false, s->colour);
        BUF_LIT(out, "\n");
    }
    hints(&p);
}
