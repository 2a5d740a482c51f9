/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing arms. Two numbers are called equal when they look equal as printed; times when they are within 2 %, which
 * is what the server's sketch can tell apart. */
#include "cli/compare.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "cli/show.h"

#define SAME_TIME 0.02
#define CLASSES 6

struct arms {
    yyjson_val *root, *rollout, *stable, *canary;
};

static struct arms arms_of(yyjson_val *root)
{
    struct arms a = {.root = root, .rollout = yyjson_obj_get(root, "rollout")};
    yyjson_val *arm;
    size_t i, max;
    yyjson_arr_foreach(yyjson_obj_get(root, "arms"), i, max, arm)
    {
        const char *name = get_text(arm, "arm");
        if (name && strcmp(name, "stable") == 0) {
            a.stable = arm;
        } else if (name && strcmp(name, "canary") == 0) {
            a.canary = arm;
        }
    }
    return a;
}

/* A number two levels down: stat(arm, "latency_ms", "p95"). NaN if it is not there. */
static double stat(yyjson_val *arm, const char *group, const char *key)
{
    return get_number(group ? yyjson_obj_get(arm, group) : arm, key);
}

static double rate(yyjson_val *arm)
{
    uint64_t n = get_count(arm, "requests");
    return n ? (double)get_count(arm, "errors") / (double)n : NAN;
}

/* ---- the table ---- */

static void count_row(struct table *t, const char *name, struct arms a, const char *key)
{
    table_put(t, name);
    show_count(&t->text, get_count(a.stable, key));
    table_cell(t);
    show_count(&t->text, get_count(a.canary, key));
    table_cell(t);
    table_cell(t);
}

static void time_row(struct table *t, const char *name, struct arms a, const char *group, const char *key)
{
    double s = stat(a.stable, group, key), c = stat(a.canary, group, key);
    table_put(t, name);
    show_ms(&t->text, s);
    table_cell(t);
    show_ms(&t->text, c);
    table_cell(t);
    if (!isnan(s) && !isnan(c) && s > 0 && c > 0) {
        buf_addc(&t->text, c < s ? '-' : '+');
        show_ms(&t->text, fabs(c - s));
        buf_addf(&t->text, " (%.2fx)", c / s);
    }
    table_cell(t);
}

static void error_cell(struct table *t, yyjson_val *arm)
{
    show_count(&t->text, get_count(arm, "errors"));
    if (get_count(arm, "requests") > 0) {
        BUF_LIT(&t->text, " (");
        show_percent(&t->text, rate(arm));
        BUF_LIT(&t->text, ")");
    }
    table_cell(t);
}

static void signed_points(struct table *t, double difference)
{
    if (!isnan(difference)) {
        buf_addf(&t->text, "%+.2f points", difference * 100);
    }
    table_cell(t);
}

static void mean_cell(struct table *t, yyjson_val *arm, const char *value, const char *n)
{
    yyjson_val *f = yyjson_obj_get(arm, "feedback");
    show_ratio(&t->text, get_number(f, value));
    if (get_count(f, n) > 0) {
        BUF_LIT(&t->text, " (n ");
        show_count(&t->text, get_count(f, n));
        BUF_LIT(&t->text, ")");
    }
    table_cell(t);
}

static void mean_row(struct table *t, const char *name, struct arms a, const char *value, const char *n)
{
    double difference = stat(a.canary, "feedback", value) - stat(a.stable, "feedback", value);
    table_put(t, name);
    mean_cell(t, a.stable, value, n);
    mean_cell(t, a.canary, value, n);
    if (!isnan(difference)) {
        buf_addf(&t->text, "%+.3f", difference);
    }
    table_cell(t);
}

static double class_share(yyjson_val *arm, const char *name)
{
    yyjson_val *c;
    size_t i, max;
    yyjson_arr_foreach(yyjson_obj_get(arm, "classes"), i, max, c)
    {
        const char *is = get_text(c, "class");
        if (is && strcmp(is, name) == 0) {
            double share = get_number(c, "share");
            return isnan(share) ? 0 : share;
        }
    }
    return 0;
}

static bool listed(yyjson_val *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(get_text(names[i], "class"), name) == 0) {
            return true;
        }
    }
    return false;
}

/* The classes that are most frequent in either arm, by turns. */
static size_t top_classes(struct arms a, yyjson_val **top)
{
    yyjson_val *lists[] = {yyjson_obj_get(a.stable, "classes"), yyjson_obj_get(a.canary, "classes")};
    size_t n = 0, longest = MAX(yyjson_arr_size(lists[0]), yyjson_arr_size(lists[1]));
    for (size_t i = 0; i < longest && n < CLASSES; i++) {
        for (size_t k = 0; k < 2 && n < CLASSES; k++) {
            yyjson_val *c = yyjson_arr_get(lists[k], i);
            const char *name = get_text(c, "class");
            if (name && !listed(top, n, name)) {
                top[n++] = c;
            }
        }
    }
    return n;
}

static void class_rows(struct table *t, struct arms a)
{
    yyjson_val *top[CLASSES];
    size_t n = top_classes(a, top);
    for (size_t i = 0; i < n; i++) {
        const char *name = get_text(top[i], "class");
        double s = class_share(a.stable, name), c = class_share(a.canary, name);
        BUF_LIT(&t->text, "class ");
        table_put(t, name);
        show_percent(&t->text, s);
        table_cell(t);
        show_percent(&t->text, c);
        table_cell(t);
        signed_points(t, c - s);
    }
}

static void head_row(struct table *t, struct arms a)
{
    table_cell(t);
    buf_addf(&t->text, "stable v%" PRIu64, get_count(a.stable, "version"));
    table_cell(t);
    buf_addf(&t->text, "canary v%" PRIu64, get_count(a.canary, "version"));
    table_cell(t);
    table_put(t, "difference");
}

static void share_row(struct table *t, struct arms a)
{
    table_put(t, "share");
    show_share(&t->text, get_count(a.stable, "share_bp"));
    table_cell(t);
    show_share(&t->text, get_count(a.canary, "share_bp"));
    table_cell(t);
    table_cell(t);
}

static void error_row(struct table *t, struct arms a)
{
    table_put(t, "errors");
    error_cell(t, a.stable);
    error_cell(t, a.canary);
    signed_points(t, rate(a.canary) - rate(a.stable));
}

void compare_table(struct buf *out, yyjson_val *root, bool whole, bool colour)
{
    struct arms a = arms_of(root);
    struct table t;
    table_init(&t, 4);
    t.right[1] = t.right[2] = t.right[3] = true;
    t.indent = true;
    head_row(&t, a);
    share_row(&t, a);
    count_row(&t, "users (about)", a, "users");
    count_row(&t, "requests", a, "requests");
    if (whole) {
        count_row(&t, "without a key", a, "keyless");
    }
    error_row(&t, a);
    time_row(&t, "p50 ms", a, "latency_ms", "p50");
    time_row(&t, "p95 ms", a, "latency_ms", "p95");
    time_row(&t, "p99 ms", a, "latency_ms", "p99");
    if (whole) {
        time_row(&t, "queue p95 ms", a, "queue_ms", "p95");
        time_row(&t, "compute p95 ms", a, "compute_ms", "p95");
    }
    mean_row(&t, "accuracy", a, "accuracy", "n");
    if (get_count(yyjson_obj_get(a.stable, "feedback"), "reward_n") +
            get_count(yyjson_obj_get(a.canary, "feedback"), "reward_n") >
        0) {
        mean_row(&t, "reward", a, "reward_mean", "reward_n");
    }
    if (whole) {
        class_rows(&t, a);
    }
    table_show(out, &t, true, colour);
    table_done(&t);
}

/* ---- the sentence ---- */

struct sentence {
    struct buf *out;
    int clauses;
    char last[256]; /* a clause is held back until it is known whether "and" belongs before it */
};

static void say_pending(struct sentence *s, bool end)
{
    if (s->clauses > 0) {
        buf_addz(s->out, s->clauses == 1 ? " " : end ? " and " : ", ");
        buf_addz(s->out, s->last);
    }
}

static void clause(struct sentence *s, const struct buf *text)
{
    say_pending(s, false);
    str_copy(s->last, sizeof s->last, buf_str(text));
    s->clauses++;
}

/* word[0] below, [1] same, [2] above */
static const char *pick(double s, double c, double same, const char *const word[3])
{
    return fabs(c - s) <= same ? word[1] : c < s ? word[0] : word[2];
}

static void accuracy_clause(struct sentence *s, struct arms a, const char *key, const char *n,
                            const char *const word[3])
{
    double before = stat(a.stable, "feedback", key), now = stat(a.canary, "feedback", key);
    struct buf b;
    if (isnan(before) || isnan(now)) {
        return;
    }
    buf_init(&b, 1024);
    buf_addf(&b, "%s (%.3f vs %.3f, n ", pick(round(before * 1000), round(now * 1000), 0, word), now, before);
    show_count(&b, get_count(yyjson_obj_get(a.canary, "feedback"), n));
    BUF_LIT(&b, " vs ");
    show_count(&b, get_count(yyjson_obj_get(a.stable, "feedback"), n));
    BUF_LIT(&b, ")");
    clause(s, &b);
    buf_done(&b);
}

static void time_clause(struct sentence *s, struct arms a)
{
    static const char *const word[] = {"faster at p95", "as fast at p95", "slower at p95"};
    double before = stat(a.stable, "latency_ms", "p95"), now = stat(a.canary, "latency_ms", "p95");
    struct buf b;
    if (isnan(before) || isnan(now) || before <= 0 || now <= 0) {
        return;
    }
    buf_init(&b, 1024);
    buf_addf(&b, "%s (", pick(before, now, before * SAME_TIME, word));
    show_ms(&b, now);
    BUF_LIT(&b, " vs ");
    show_ms(&b, before);
    BUF_LIT(&b, " ms)");
    clause(s, &b);
    buf_done(&b);
}

static void error_sentence(struct buf *out, struct arms a)
{
    static const char *const word[] = {"it has fewer errors", "it has as many errors", "it has more errors"};
    double before = rate(a.stable), now = rate(a.canary);
    if (get_count(a.stable, "errors") + get_count(a.canary, "errors") == 0) {
        BUF_LIT(out, "; neither had an error.");
        return;
    }
    buf_addf(out, "; %s (", pick(round(before * 10000), round(now * 10000), 0, word));
    show_percent(out, now);
    BUF_LIT(out, " vs ");
    show_percent(out, before);
    BUF_LIT(out, ").");
}

void compare_verdict(struct buf *out, yyjson_val *root)
{
    static const char *const accuracy[] = {"less accurate", "as accurate", "more accurate"};
    static const char *const reward[] = {"less rewarded", "as well rewarded", "better rewarded"};
    struct arms a = arms_of(root);
    uint64_t before = get_count(a.stable, "requests"), now = get_count(a.canary, "requests");
    uint64_t v = get_count(a.canary, "version");
    if (before == 0 || now == 0) {
        buf_addf(out, "v%" PRIu64 " has answered no request yet: there is nothing to compare.",
                 now == 0 ? v : get_count(a.stable, "version"));
        return;
    }
    struct sentence s = {.out = out};
    BUF_LIT(out, "In ");
    show_count(out, now);
    buf_addz(out, now == 1 ? " request against " : " requests against ");
    show_count(out, before);
    buf_addf(out, ", v%" PRIu64 " is", v);
    accuracy_clause(&s, a, "accuracy", "n", accuracy);
    accuracy_clause(&s, a, "reward_mean", "reward_n", reward);
    time_clause(&s, a);
    say_pending(&s, true);
    if (s.clauses == 0) {
        BUF_LIT(out, " not measured yet in accuracy or time");
    }
    error_sentence(out, a);
}

/* "  bake 2/4  pass": what an older server does not tell is left out. */
static void place_in_line(struct buf *out, yyjson_val *rollout)
{
    const char *phase = get_text(rollout, "phase"), *pause = get_text(rollout, "pause");
    const char *verdict = get_text(yyjson_obj_get(rollout, "verdict"), "verdict");
    if (phase) {
        BUF_LIT(out, "  ");
        show_textz(out, phase);
        if (pause) {
            BUF_LIT(out, " (");
            show_textz(out, pause);
            BUF_LIT(out, ")");
        }
        buf_addf(out, " %" PRIu64 "/%zu  ", get_count(rollout, "step"),
                 yyjson_arr_size(yyjson_obj_get(rollout, "steps")));
        show_textz(out, verdict ? verdict : "no verdict");
    }
}

void compare_line(struct buf *out, yyjson_val *root)
{
    struct arms a = arms_of(root);
    yyjson_val *arm[] = {a.stable, a.canary};
    show_textz(out, get_text(a.rollout, "state"));
    place_in_line(out, a.rollout);
    for (size_t i = 0; i < 2; i++) {
        buf_addf(out, "  v%" PRIu64 " ", get_count(arm[i], "version"));
        show_share(out, get_count(arm[i], "share_bp"));
        buf_addf(out, " requests %" PRIu64 " errors %" PRIu64 " p95 ", get_count(arm[i], "requests"),
                 get_count(arm[i], "errors"));
        show_ms(out, stat(arm[i], "latency_ms", "p95"));
        BUF_LIT(out, " ms accuracy ");
        show_ratio(out, stat(arm[i], "feedback", "accuracy"));
    }
    BUF_LIT(out, "\n");
}
