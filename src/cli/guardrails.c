/* SPDX-License-Identifier: Apache-2.0 */
/* Drawing guardrails. Two lines each:
 *
 *   errors     0.52 % 61/11.8k   0.50 % 6/1,204    ▮▯▯▯▯▯ 0.3 of 6.0   PASS
 *              ·······├───●┼───┤···············  0.96× (0.41× to 2.1×)
 *   reward     0.624 n 1,204     0.611 n 98        ▮▯▯▯▯▯ 0.8 of 6.0   PASS
 *              difference -0.013 (-0.081 to +0.055)
 *
 * Those that are known by feedback are there once feedback is.
 */
#include "cli/guardrails.h"

#include <math.h>
#include <stdio.h>

#include "base/conf.h"
#include "cli/show.h"

#define CELLS 6   /* of a meter */
#define DECADE 12 /* characters of a bar for ten times the risk */
#define BAR (3 * DECADE + 1)

enum { AT_NAME = 2, AT_STABLE = 13, AT_CANARY = 31, AT_EVIDENCE = 49, AT_WORD = 69 };

/* clang-format off */
enum sign { FULL, EMPTY, REST, LINE, FROM, TO, LESS, MORE, MIDDLE, MARK, CROSS, SIGNS };
static const char *const signs[2][SIGNS] = {
    {"#", ".", ".", "-", "|", "|", "<", ">", "o", "!", "+"},
    {"▮", "▯", "·", "─", "├", "┤", "◄", "►", "●", "│", "┼"},
};
/* clang-format on */

const char *verdict_word(const char *verdict)
{
    static const char *const words[][2] = {
        {"pass", "PASS"}, {"fail", "FAIL"}, {"inconclusive", "UNCLEAR"}, {"nodata", "NO DATA"}, {"error", "ERROR"}};
    for (size_t i = 0; verdict && i < COUNT_OF(words); i++) {
        if (strcmp(words[i][0], verdict) == 0) {
            return words[i][1];
        }
    }
    return verdict ? verdict : "-";
}

static enum paint verdict_paint(const char *verdict)
{
    bool good = verdict && strcmp(verdict, "pass") == 0;
    bool bad = verdict && (strcmp(verdict, "fail") == 0 || strcmp(verdict, "error") == 0);
    return good ? PAINT_GOOD : bad ? PAINT_BAD : PAINT_BOLD;
}

void verdict_show(struct buf *out, const char *verdict, const struct page_style *s)
{
    show_paint(out, s->colour, verdict_paint(verdict));
    show_textz(out, verdict_word(verdict));
    show_paint(out, s->colour, PAINT_PLAIN);
}

/* ---- parts ---- */

void meter_show(struct buf *out, double evidence, double limit, const struct page_style *s)
{
    if (isnan(evidence) || isnan(limit) || limit <= 0) {
        BUF_LIT(out, "-");
        return;
    }
    double full = floor(CELLS * evidence / limit);
    for (int i = 0; i < CELLS; i++) {
        buf_addz(out, signs[s->utf8][i < full ? FULL : EMPTY]);
    }
    buf_addf(out, " %.1f of %.1f", evidence, limit);
}

static int column_of(double risk)
{
    double at = risk > 0 ? round((log10(risk) + 1) * DECADE) : -1;
    return (int)MIN(MAX(at, -1), BAR);
}

static enum sign sign_at(int i, int low, int mid, int high, int mark)
{
    if (i == MIN(MAX(mid, 0), BAR - 1)) {
        return MIDDLE;
    }
    if (i == low || i == high) {
        return i == low ? FROM : TO;
    }
    if ((i == 0 && low < 0) || (i == BAR - 1 && high >= BAR)) {
        return i == 0 ? LESS : MORE;
    }
    if (i > low && i < high) {
        return i == mark ? CROSS : LINE;
    }
    return i == mark ? MARK : REST;
}

void interval_show(struct buf *out, double low, double mid, double high, double tolerated, const struct page_style *s)
{
    int l = column_of(low), m = column_of(mid), h = column_of(high), mark = column_of(tolerated);
    for (int i = 0; i < BAR; i++) {
        buf_addz(out, signs[s->utf8][sign_at(i, l, m, h, mark)]);
    }
}

static void times(struct buf *out, double v, const struct page_style *s)
{
    buf_addf(out, v == 0 ? "%.0f" : v < 0.1 ? "%.3f" : v < 1 ? "%.2f" : v < 10 ? "%.1f" : "%.0f", v);
    buf_addz(out, s->utf8 ? "×" : "x");
}

/* ---- one guardrail ---- */

/* A number, or what stands for one that JSON has not. */
static double number_of(yyjson_val *v, double otherwise)
{
    return yyjson_is_num(v) ? yyjson_get_num(v) : otherwise;
}

static bool is_reward(const char *metric)
{
    return strcmp(metric, "reward") == 0;
}

/* Nobody has sent feedback of this kind. */
static bool is_silent(yyjson_val *finding, const char *metric)
{
    return (is_reward(metric) || strcmp(metric, "wrong") == 0) &&
           get_count(yyjson_obj_get(finding, "stable"), "answered") +
                   get_count(yyjson_obj_get(finding, "canary"), "answered") ==
               0;
}

/* 0.624 n 1,204 */
static void mean_cell(struct buf *out, yyjson_val *arm)
{
    uint64_t n = get_count(arm, "answered");
    show_ratio(out, n ? get_number(arm, "rate") : NAN);
    if (n) {
        BUF_LIT(out, " n ");
        show_brief(out, n);
    }
}

/* 0.52 % 61/11.8k; of a version that is judged by what it did before: 0.52 % */
static void arm_cell(struct buf *out, yyjson_val *arm, bool before)
{
    uint64_t n = get_count(arm, "answered");
    show_percent(out, n || before ? get_number(arm, "rate") : NAN);
    if (n) {
        BUF_LIT(out, " ");
        show_brief(out, get_count(arm, "all"));
        BUF_LIT(out, "/");
        show_brief(out, n);
    }
}

/* How many times the stable's risk is tolerated, by the policy's margins. */
static double tolerated(yyjson_val *policy, const char *metric)
{
    const char *text = get_text(policy, strncmp(metric, "slow", 4) == 0 ? "slow_margin"
                                        : strcmp(metric, "wrong") == 0  ? "wrong_margin"
                                                                        : "margin");
    uint64_t bp = 0;
    return text && parse_share(str_of(text), &bp) ? 1 + (double)bp / 10000 : 1;
}

/* 0.96× (0.41× to 2.1×); what is not bounded on one side is said so. */
static void risk_text(struct buf *out, double low, double mid, double high, const struct page_style *s)
{
    if (isinf(mid)) {
        BUF_LIT(out, "stable has none");
    } else {
        times(out, mid, s);
    }
    buf_addz(out, isinf(high) ? " (at least " : low <= 0 ? " (at most " : " (");
    if (low > 0) {
        times(out, low, s);
    }
    if (!isinf(high)) {
        buf_addz(out, low > 0 ? " to " : "");
        times(out, high, s);
    }
    BUF_LIT(out, ")");
}

static void risk_line(struct buf *out, yyjson_val *finding, double limit, const struct page_style *s)
{
    yyjson_val *risk = yyjson_obj_get(finding, "risk");
    double low = number_of(yyjson_obj_get(risk, "low"), 0), high = number_of(yyjson_obj_get(risk, "high"), INFINITY);
    double mid = number_of(yyjson_obj_get(risk, "mid"), INFINITY);
    show_column(out, out->n, AT_STABLE);
    if (low <= 0 && isinf(high)) {
        show_paint(out, s->colour, PAINT_FAINT);
        BUF_LIT(out, "nothing to tell a risk from yet");
        show_paint(out, s->colour, PAINT_PLAIN);
    } else {
        interval_show(out, low, mid, high, limit, s);
        BUF_LIT(out, "  ");
        risk_text(out, low, mid, high, s);
    }
    BUF_LIT(out, "\n");
}

static void difference_line(struct buf *out, yyjson_val *finding, const struct page_style *s)
{
    yyjson_val *d = yyjson_obj_get(finding, "difference");
    show_column(out, out->n, AT_STABLE);
    if (isnan(get_number(d, "mid"))) {
        show_paint(out, s->colour, PAINT_FAINT);
        BUF_LIT(out, "nothing to tell a difference from yet");
        show_paint(out, s->colour, PAINT_PLAIN);
    } else {
        buf_addf(out, "difference %+.3g (%+.3g to %+.3g)", get_number(d, "mid"), get_number(d, "low"),
                 get_number(d, "high"));
    }
    BUF_LIT(out, "\n");
}

static void guardrail(struct buf *out, yyjson_val *finding, yyjson_val *policy, bool soaked, const struct page_style *s)
{
    const char *metric = get_text(finding, "metric"), *name = metric ? metric : "-";
    const char *verdict = get_text(finding, "verdict");
    double evidence = get_number(finding, "ln_e"), by_limit = get_number(finding, "ln_e_limit");
    size_t line = out->n, at;
    if (is_silent(finding, name)) {
        return;
    }
    show_column(out, line, AT_NAME);
    at = out->n;
    show_textz(out, name);
    for (; at < out->n; at++) {
        out->p[at] = out->p[at] == '_' ? ' ' : out->p[at];
    }
    show_column(out, line, AT_STABLE);
    if (is_reward(name)) {
        mean_cell(out, yyjson_obj_get(finding, "stable"));
        show_column(out, line, AT_CANARY);
        mean_cell(out, yyjson_obj_get(finding, "canary"));
    } else {
        arm_cell(out, yyjson_obj_get(finding, "stable"), soaked);
        show_column(out, line, AT_CANARY);
        arm_cell(out, yyjson_obj_get(finding, "canary"), false);
    }
    show_column(out, line, AT_EVIDENCE);
    meter_show(out, by_limit > evidence ? by_limit : evidence, get_number(finding, "trip"), s);
    show_column(out, line, AT_WORD);
    verdict_show(out, verdict, s);
    buf_addz(out, get_flag(finding, "dry") ? " (dry)\n" : "\n");
    if (soaked) {
        return;
    }
    if (is_reward(name)) {
        difference_line(out, finding, s);
    } else {
        risk_line(out, finding, tolerated(policy, name), s);
    }
}

static void headings(struct buf *out, yyjson_val *rollout, bool soaked, const struct page_style *s)
{
    size_t line = out->n;
    show_column(out, line, AT_NAME);
    show_paint(out, s->colour, PAINT_BOLD);
    BUF_LIT(out, "guardrail");
    show_column(out, line, AT_STABLE);
    buf_addf(out, soaked ? "v%llu before" : "stable v%llu", (unsigned long long)get_count(rollout, "stable"));
    show_column(out, line, AT_CANARY);
    buf_addf(out, soaked ? "v%llu since" : "canary v%llu", (unsigned long long)get_count(rollout, "canary"));
    show_column(out, line, AT_EVIDENCE);
    BUF_LIT(out, "evidence of harm");
    show_paint(out, s->colour, PAINT_PLAIN);
    BUF_LIT(out, "\n");
}

/* The scale below the bars. */
static void scale(struct buf *out, const struct page_style *s)
{
    static const char *const marks[] = {"0.1", "1", "10", "100"};
    size_t line = out->n;
    for (size_t i = 0; i < COUNT_OF(marks); i++) {
        show_column(out, line, AT_STABLE + DECADE * i);
        buf_addf(out, "%s%s", marks[i], s->utf8 ? "×" : "x");
    }
    buf_addf(out, "  risk, %s tolerated\n", signs[s->utf8][MARK]);
}

static void footer(struct buf *out, yyjson_val *rollout, bool soaked, const struct page_style *s)
{
    yyjson_val *slow = yyjson_obj_get(rollout, "slow_ms");
    show_paint(out, s->colour, PAINT_FAINT);
    if (!soaked) {
        scale(out, s);
    }
    if (yyjson_is_obj(slow)) {
        show_column(out, out->n, AT_STABLE);
        BUF_LIT(out, "slow: longer than ");
        show_ms(out, get_number(slow, "p95"));
        BUF_LIT(out, " ms (p95), ");
        show_ms(out, get_number(slow, "p99"));
        BUF_LIT(out, " ms (p99)\n");
    }
    show_paint(out, s->colour, PAINT_PLAIN);
}

bool rollout_soaked(yyjson_val *rollout)
{
    const char *state = get_text(rollout, "state");
    return (state && strcmp(state, "soaking") == 0) || get_number(yyjson_obj_get(rollout, "exposed"), "ordered") >= 1;
}

void guardrails_show(struct buf *out, yyjson_val *rollout, const struct page_style *s)
{
    yyjson_val *findings = yyjson_obj_get(yyjson_obj_get(rollout, "verdict"), "findings"), *f;
    bool soaked = rollout_soaked(rollout);
    size_t i, max;
    if (yyjson_arr_size(findings) == 0) {
        return;
    }
    headings(out, rollout, soaked, s);
    yyjson_arr_foreach(findings, i, max, f)
    {
        guardrail(out, f, yyjson_obj_get(rollout, "policy"), soaked, s);
    }
    footer(out, rollout, soaked, s);
    BUF_LIT(out, "\n");
}
