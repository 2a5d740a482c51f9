/* SPDX-License-Identifier: Apache-2.0 */
/* GET /: one plain page for people. It is written here in whole, from page.html and what control knows at this moment;
 * it needs no script, fetches nothing but its style, and can change nothing. Whatever did not come from this file is
 * escaped.
 *
 * A difference between two arms is coloured only when both have enough samples to look at; it is a reading, not a
 * verdict.
 *
 * Thread: control's loop. */
#include <math.h>
#include <stdio.h>

#include "api/admin_priv.h"
#include "base/clock.h"

extern const char embed_api_page_html[];
extern const size_t embed_api_page_html_size;
extern const char embed_api_style_css[];
extern const size_t embed_api_style_css_size;

#define ENOUGH 100     /* requests, or judged answers, in each arm */
#define SAME_TIME 0.05 /* what a sketch and chance can tell apart */
#define SAME_RATE 0.001
#define CLASSES_SHOWN 8

/* ---- text ---- */

void page_text(struct buf *b, struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];

        switch (c) {
        case '&':
            BUF_LIT(b, "&amp;");
            break;
        case '<':
            BUF_LIT(b, "&lt;");
            break;
        case '>':
            BUF_LIT(b, "&gt;");
            break;
        case '"':
            BUF_LIT(b, "&quot;");
            break;
        case '\'':
            BUF_LIT(b, "&#39;");
            break;
        default:
            if (c < 0x20 || c == 0x7f) {
                BUF_LIT(b, "\xEF\xBF\xBD");
            } else {
                buf_addc(b, (char)c);
            }
        }
    }
}

static void put_z(struct buf *b, const char *z)
{
    page_text(b, str_of(z));
}

static void put_none(struct buf *b)
{
    BUF_LIT(b, "<span class=\"none\">–</span>");
}

static void put_count(struct buf *b, uint64_t n)
{
    char digits[24];
    int len = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)n);

    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0) {
            buf_addc(b, ',');
        }
        buf_addc(b, digits[i]);
    }
}

static void put_ms(struct buf *b, double ms)
{
    if (ms < 9.995) {
        buf_addf(b, "%.2f", ms);
    } else if (ms < 999.95) {
        buf_addf(b, "%.1f", ms);
    } else {
        put_count(b, (uint64_t)(ms + 0.5));
    }
    BUF_LIT(b, " <span class=\"unit\">ms</span>");
}

static void put_percent(struct buf *b, double share)
{
    buf_addf(b, "%.2f <span class=\"unit\">%%</span>", share * 100);
}

/* Basis points as people write a share: 5 %, 0.25 %. */
static void put_share(struct buf *b, int64_t bp)
{
    buf_addf(b, "%lld", (long long)(bp / 100));
    if (bp % 100) {
        buf_addf(b, bp % 10 ? ".%02lld" : ".%01lld", (long long)(bp % 10 ? bp % 100 : bp % 100 / 10));
    }
    BUF_LIT(b, " %");
}

static void put_when(struct buf *b, int64_t wall_ms)
{
    char text[CLOCK_TEXT];

    clock_text(text, wall_ms);
    buf_addf(b, "%.10s %.8s UTC", text, text + 11);
}

static void put_sign(struct buf *b, double v)
{
    buf_addz(b, v < 0 ? "\xE2\x88\x92" : "+"); /* a minus as wide as the plus */
}

static const char *judged(double worse_by, double same, bool enough)
{
    return !enough || fabs(worse_by) <= same ? "" : worse_by > 0 ? " class=\"worse\"" : " class=\"better\"";
}

/* ---- the server ---- */

static void put_server(struct buf *b, const struct request *r)
{
    const struct admin_facts *f = admin_facts(r);
    int64_t up = MAX(clock_wall_ms() - f->started_ms, (int64_t)0) / 1000;
    struct model *const *all;
    size_t n = control_models(r->plane->control, &all);

    buf_addf(b, "<span>version %s</span><span>up ", WEIR_VERSION);
    if (up >= 86400) {
        buf_addf(b, "%lld d %lld h", (long long)(up / 86400), (long long)(up % 86400 / 3600));
    } else if (up >= 3600) {
        buf_addf(b, "%lld h %lld min", (long long)(up / 3600), (long long)(up % 3600 / 60));
    } else {
        buf_addf(b, "%lld min", (long long)(up / 60));
    }
    buf_addf(b, "</span><span>%zu model%s</span><span>data on <code>", n, n == 1 ? "" : "s");
    put_z(b, f->data_url);
    BUF_LIT(b, "</code></span>");
}

static void put_now(struct buf *b, const struct request *r)
{
    (void)r;
    put_when(b, clock_wall_ms());
}

/* ---- models ---- */

static void put_time_cell(struct buf *b, double seconds, uint64_t n)
{
    BUF_LIT(b, "<td>");
    if (n > 0) {
        put_ms(b, seconds * 1e3);
    } else {
        put_none(b);
    }
    BUF_LIT(b, "</td>");
}

static void put_worker_cell(struct buf *b, const struct version *v)
{
    BUF_LIT(b, "<td>");
    if (place_is_far(version_place(v))) {
        buf_addz(b, v->state == VERSION_READY ? "far side up" : "far side away");
    } else if (version_place(v) == PLACE_INLINE) {
        BUF_LIT(b, "in process");
    } else if (v->pool) {
        unsigned up = atomic_load_explicit(&pool_shared(v->pool)->instances_up, memory_order_relaxed);

        buf_addf(b, "%u of %u", up, pool_instances(v->pool));
    } else {
        put_none(b);
    }
    BUF_LIT(b, "</td>");
}

static void put_version_cells(struct buf *b, const struct version *v)
{
    const char *state = version_state_names[v->state];
    struct series_sum sum;

    version_sum(v, &sum);
    buf_addf(b, "<td>%lld</td><td class=\"text\"><span class=\"state %s\">%s</span></td><td>", (long long)v->row.number,
             state, state);
    put_count(b, sum.requests);
    BUF_LIT(b, "</td><td>");
    if (sum.requests > 0) {
        put_percent(b, (double)sum.errors / (double)sum.requests);
    } else {
        put_none(b);
    }
    BUF_LIT(b, "</td>");
    put_time_cell(b, sum.latency.p50, sum.latency.n);
    put_time_cell(b, sum.latency.p95, sum.latency.n);
    put_time_cell(b, sum.latency.p99, sum.latency.n);
    put_worker_cell(b, v);
    series_sum_done(&sum);
}

static void put_model(struct buf *b, const struct model *m)
{
    const struct version *v = model_version(m, m->row.stable);

    BUF_LIT(b, "<tr><th scope=\"row\" class=\"name\">");
    put_z(b, m->row.name);
    BUF_LIT(b, "</th><td class=\"text\">");
    put_z(b, m->family->name);
    buf_addf(b, "</td><td class=\"text\">%s</td>", place_name(m));
    if (v) {
        put_version_cells(b, v);
    } else {
        BUF_LIT(b, "<td class=\"text\" colspan=\"8\"><span class=\"none\">no version yet: <code>weir push ");
        put_z(b, m->row.name);
        BUF_LIT(b, " PATH</code></span></td>");
    }
    BUF_LIT(b, "</tr>\n");
    if (v && v->state == VERSION_FAILED) {
        BUF_LIT(b, "<tr><td class=\"text why\" colspan=\"11\">");
        put_z(b, v->why.text);
        BUF_LIT(b, "</td></tr>\n");
    }
}

static void put_models(struct buf *b, const struct request *r)
{
    struct model *const *all;
    size_t n = control_models(r->plane->control, &all);

    if (n == 0) {
        BUF_LIT(b, "<section class=\"empty\"><h2>No model yet</h2><code>weir push NAME PATH</code></section>");
        return;
    }
    BUF_LIT(b, "<section><h2>Models</h2><div class=\"wide\"><table>\n<caption>The stable version of each, and what it "
               "has answered</caption>\n"
               "<thead><tr><th scope=\"col\" class=\"text\">Model</th><th scope=\"col\" class=\"text\">Family</th>"
               "<th scope=\"col\" class=\"text\">Place</th><th scope=\"col\">Stable</th><th scope=\"col\" "
               "class=\"text\">State</th>"
               "<th scope=\"col\">Requests</th><th scope=\"col\">Error rate</th><th scope=\"col\">p50</th><th "
               "scope=\"col\">p95</th>"
               "<th scope=\"col\">p99</th><th scope=\"col\">Workers</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < n; i++) {
        put_model(b, all[i]);
    }
    BUF_LIT(b, "</tbody></table></div></section>");
}

/* ---- the running rollouts ---- */

struct arms {
    const struct model *m;
    struct series_sum sum[2]; /* stable, canary */
    bool enough;
};

static void row_begin(struct buf *b, const char *name)
{
    buf_addf(b, "<tr><th scope=\"row\">%s</th>", name);
}

static void put_count_row(struct buf *b, const char *name, uint64_t stable, uint64_t canary)
{
    row_begin(b, name);
    BUF_LIT(b, "<td>");
    put_count(b, stable);
    BUF_LIT(b, "</td><td>");
    put_count(b, canary);
    BUF_LIT(b, "</td><td></td></tr>\n");
}

static void put_time_row(struct buf *b, const char *name, const struct arms *a, double stable, double canary)
{
    row_begin(b, name);
    put_time_cell(b, stable, a->sum[0].latency.n);
    put_time_cell(b, canary, a->sum[1].latency.n);
    if (stable > 0 && canary > 0) {
        buf_addf(b, "<td><span%s>", judged(canary / stable - 1, SAME_TIME, a->enough));
        put_sign(b, canary - stable);
        put_ms(b, fabs(canary - stable) * 1e3);
        buf_addf(b, " (%.2f×)</span></td></tr>\n", canary / stable);
    } else {
        BUF_LIT(b, "<td></td></tr>\n");
    }
}

static void put_rate_cell(struct buf *b, uint64_t n, uint64_t of)
{
    BUF_LIT(b, "<td>");
    if (of > 0) {
        put_percent(b, (double)n / (double)of);
    } else {
        put_none(b);
    }
    BUF_LIT(b, "</td>");
}

/* n of `of` in each arm; more is worse, or better. */
static void put_rate_row(struct buf *b, const char *name, const uint64_t n[2], const uint64_t of[2], bool more_is_worse)
{
    row_begin(b, name);
    put_rate_cell(b, n[0], of[0]);
    put_rate_cell(b, n[1], of[1]);
    BUF_LIT(b, "<td>");
    if (of[0] > 0 && of[1] > 0) {
        double by = (double)n[1] / (double)of[1] - (double)n[0] / (double)of[0];

        buf_addf(b, "<span%s>", judged(more_is_worse ? by : -by, SAME_RATE, of[0] >= ENOUGH && of[1] >= ENOUGH));
        put_sign(b, by);
        buf_addf(b, "%.2f <span class=\"unit\">points</span></span>", fabs(by) * 100);
    }
    BUF_LIT(b, "</td></tr>\n");
}

static void put_arms(struct buf *b, const struct arms *a)
{
    const struct rollout_row *ro = &a->m->rollout;
    const struct series_sum *s = &a->sum[0], *c = &a->sum[1];
    uint64_t errors[2] = {s->errors, c->errors}, requests[2] = {s->requests, c->requests};
    uint64_t correct[2] = {s->feedback_correct, c->feedback_correct}, told[2] = {s->feedback_n, c->feedback_n};

    buf_addf(b,
             "<table>\n<caption>The arms</caption>\n<thead><tr><td></td><th scope=\"col\">stable, version %lld</th>"
             "<th scope=\"col\">canary, version %lld</th><th scope=\"col\">difference</th></tr></thead>\n<tbody>\n",
             (long long)ro->stable, (long long)ro->canary);
    row_begin(b, "Share");
    BUF_LIT(b, "<td>");
    put_share(b, policy_tests(&a->m->policy) ? ro->share_bp : 10000 - ro->share_bp);
    BUF_LIT(b, "</td><td>");
    put_share(b, ro->share_bp);
    BUF_LIT(b, "</td><td></td></tr>\n");
    put_count_row(b, "Users, about", (uint64_t)llround(s->users), (uint64_t)llround(c->users));
    put_count_row(b, "Requests", s->requests, c->requests);
    put_count_row(b, "Errors", s->errors, c->errors);
    put_rate_row(b, "Error rate", errors, requests, true);
    put_time_row(b, "Latency p50", a, s->latency.p50, c->latency.p50);
    put_time_row(b, "Latency p95", a, s->latency.p95, c->latency.p95);
    put_time_row(b, "Latency p99", a, s->latency.p99, c->latency.p99);
    put_rate_row(b, "Accuracy", correct, told, false);
    put_count_row(b, "Answers judged", told[0], told[1]);
    BUF_LIT(b, "</tbody></table>\n");
}

/* ---- the class mix ---- */

static double class_share(const struct series_sum *s, const char *name)
{
    uint64_t all = s->classes_other, n = 0;

    for (size_t i = 0; i < s->n_classes; i++) {
        uint64_t here = counter_get(&s->classes[i].count);

        all += here;
        n += strcmp(s->classes[i].name, name) == 0 ? here : 0;
    }
    return all > 0 ? (double)n / (double)all : 0;
}

/* The bars of a table are drawn against the longest of them. */
static void put_bar_cell(struct buf *b, double share, double longest, const char *arm)
{
    buf_addf(b,
             "<td><svg class=\"bar\" viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\">"
             "<rect class=\"%s\" width=\"%.2f\" height=\"8\"/></svg><span class=\"figure\">%.1f <span "
             "class=\"unit\">%%</span></span></td>",
             arm, longest > 0 ? share / longest * 100 : 0, share * 100);
}

/* The classes most frequent in either arm, by turns. */
static size_t top_classes(const struct arms *a, const char **names)
{
    size_t n = 0;

    for (size_t i = 0; i < MAX(a->sum[0].n_classes, a->sum[1].n_classes); i++) {
        for (size_t arm = 0; arm < 2 && n < CLASSES_SHOWN; arm++) {
            const char *name = i < a->sum[arm].n_classes ? a->sum[arm].classes[i].name : NULL;

            for (size_t k = 0; name && k < n; k++) {
                name = strcmp(names[k], name) == 0 ? NULL : name;
            }
            if (name) {
                names[n++] = name;
            }
        }
    }
    return n;
}

static void put_class_mix(struct buf *b, const struct arms *a)
{
    const char *names[CLASSES_SHOWN];
    size_t n = top_classes(a, names);
    double longest = 0;

    if (n == 0) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        longest = fmax(longest, fmax(class_share(&a->sum[0], names[i]), class_share(&a->sum[1], names[i])));
    }
    BUF_LIT(b, "<table>\n<caption>What they answer: the predicted classes</caption>\n<thead><tr><th scope=\"col\" "
               "class=\"text\">Class</th>"
               "<th scope=\"col\">stable</th><th scope=\"col\">canary</th><th "
               "scope=\"col\">points</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < n; i++) {
        double stable = class_share(&a->sum[0], names[i]), canary = class_share(&a->sum[1], names[i]);

        BUF_LIT(b, "<tr><th scope=\"row\">");
        put_z(b, names[i]);
        BUF_LIT(b, "</th>");
        put_bar_cell(b, stable, longest, "stable");
        put_bar_cell(b, canary, longest, "canary");
        BUF_LIT(b, "<td>");
        if (a->sum[0].n_classes > 0 && a->sum[1].n_classes > 0) {
            put_sign(b, canary - stable);
            buf_addf(b, "%.1f", fabs(canary - stable) * 100);
        }
        BUF_LIT(b, "</td></tr>\n");
    }
    BUF_LIT(b, "</tbody></table>\n");
}

/* What the judge says, and what the rollout waits for. */
static void put_judge(struct buf *b, const struct model *m)
{
    char waits[400];

    if (m->judgement.text[0]) {
        BUF_LIT(b, "<p class=\"say\"><strong>");
        put_z(b, verdict_names[m->judgement.verdict]);
        BUF_LIT(b, "</strong>: ");
        put_z(b, m->judgement.text);
        BUF_LIT(b, "</p>");
    }
    if (experiment_running(m) && m->finding.text[0]) {
        BUF_LIT(b, "<p class=\"say\"><strong>goal</strong>: ");
        put_z(b, m->finding.text);
        BUF_LIT(b, "</p>");
    }
    rollout_waits(m, waits, sizeof(waits));
    if (waits[0]) {
        BUF_LIT(b, "<p class=\"say\"><strong>next</strong>: ");
        put_z(b, waits);
        BUF_LIT(b, "</p>");
    }
}

static void put_rollout(struct buf *b, const struct model *m)
{
    struct arms a = {.m = m};

    if (m->stable_series) {
        series_sum(m->stable_series, &a.sum[0]);
    }
    if (m->canary_series) {
        series_sum(m->canary_series, &a.sum[1]);
    }
    if (experiment_hides(m)) {
        series_hide_feedback(&a.sum[0]);
        series_hide_feedback(&a.sum[1]);
    }
    a.enough = a.sum[0].latency.n >= ENOUGH && a.sum[1].latency.n >= ENOUGH;
    BUF_LIT(b, "<section><h2>");
    put_z(b, m->row.name);
    buf_addf(b, ": version %lld takes ", (long long)m->rollout.canary);
    put_share(b, m->rollout.share_bp);
    buf_addf(b, " beside version %lld</h2><p class=\"quiet\"><span>since ", (long long)m->rollout.stable);
    put_when(b, m->rollout.started_ms);
    BUF_LIT(b, "</span>");
    if (counting_since(m) > m->rollout.started_ms) {
        BUF_LIT(b, "<span>counted since ");
        put_when(b, counting_since(m));
        BUF_LIT(b, "</span>");
    }
    if (a.sum[0].keyless + a.sum[1].keyless > 0) {
        BUF_LIT(b, "<span>");
        put_count(b, a.sum[0].keyless + a.sum[1].keyless);
        BUF_LIT(b, " requests named no user</span>");
    }
    BUF_LIT(b, "</p>");
    put_judge(b, m);
    BUF_LIT(b, "<div class=\"side\">\n<div class=\"wide\">");
    put_arms(b, &a);
    BUF_LIT(b, "</div>\n<div class=\"wide\">");
    put_class_mix(b, &a);
    BUF_LIT(b, "</div>\n</div></section>\n");
    series_sum_done(&a.sum[0]);
    series_sum_done(&a.sum[1]);
}

static void put_rollouts(struct buf *b, const struct request *r)
{
    struct model *const *all;
    size_t n = control_models(r->plane->control, &all);

    for (size_t i = 0; i < n; i++) {
        if (rollout_running(all[i])) {
            put_rollout(b, all[i]);
        }
    }
}

/* ---- how the last ones ended ---- */

static void put_outcomes(struct buf *b, const struct request *r)
{
    static const char *const words[] = {
        [ROLLOUT_RUNNING] = "runs",    [ROLLOUT_PROMOTED] = "promoted", [ROLLOUT_ROLLED_BACK] = "rolled back",
        [ROLLOUT_ABORTED] = "aborted", [ROLLOUT_REPLACED] = "replaced", [ROLLOUT_SOAKING] = "promoted, is watched"};
    struct model *const *all;
    size_t n = control_models(r->plane->control, &all), shown = 0;

    for (size_t i = 0; i < n; i++) {
        const struct rollout_row *ro = &all[i]->rollout;

        if (!ro->id[0] || rollout_running(all[i])) {
            continue;
        }
        if (shown++ == 0) {
            BUF_LIT(b, "<section><h2>Last rollouts</h2><div class=\"wide\"><table>\n<caption>How each model's last one "
                       "ended</caption>\n"
                       "<thead><tr><th scope=\"col\" class=\"text\">Model</th><th scope=\"col\">Version</th>"
                       "<th scope=\"col\" class=\"text\">Outcome</th><th scope=\"col\" class=\"text\">When</th>"
                       "<th scope=\"col\" class=\"text\">Why</th></tr></thead>\n<tbody>\n");
        }
        BUF_LIT(b, "<tr><th scope=\"row\" class=\"name\">");
        put_z(b, all[i]->row.name);
        buf_addf(b, "</th><td>%lld</td><td class=\"text\">%s</td><td class=\"text\">", (long long)ro->canary,
                 words[ro->state]);
        put_when(b, ro->ended_ms ? ro->ended_ms : ro->started_ms);
        BUF_LIT(b, "</td><td class=\"text say\">");
        put_z(b, ro->reason);
        BUF_LIT(b, "</td></tr>\n");
    }
    if (shown > 0) {
        BUF_LIT(b, "</tbody></table></div></section>");
    }
}

/* ---- the page ---- */

static const struct {
    const char *mark;
    void (*put)(struct buf *b, const struct request *r);
} parts[] = {{"server", put_server},
             {"rollouts", put_rollouts},
             {"models", put_models},
             {"outcomes", put_outcomes},
             {"now", put_now}};

static void put_page(struct buf *b, const struct request *r)
{
    const char *p = embed_api_page_html;

    for (const char *open; (open = strstr(p, "{{")) != NULL;) {
        const char *close = strstr(open, "}}");

        assert(close);
        struct str mark = {open + 2, (size_t)(close - open - 2)};
        size_t i = 0;
        while (i < COUNT_OF(parts) && !str_is(mark, parts[i].mark)) {
            i++;
        }
        assert(i < COUNT_OF(parts)); /* page.html names a part that there is */
        buf_add(b, p, (size_t)(open - p));
        parts[i].put(b, r);
        p = close + 2;
    }
    buf_addz(b, p);
}

static void safe_headers(struct http_ex *x)
{
    http_reply_header(
        x, "Content-Security-Policy",
        STR("default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"));
    http_reply_header(x, "X-Content-Type-Options", STR("nosniff"));
    http_reply_header(x, "Referrer-Policy", STR("no-referrer"));
    http_reply_header(x, "Cache-Control", STR("no-store"));
}

void admin_page(struct request *r)
{
    http_reply_begin(r->x, 200, "text/html; charset=utf-8");
    safe_headers(r->x);
    put_page(http_reply_body(r->x), r);
    http_reply_end(r->x);
}

void admin_style(struct request *r)
{
    http_reply_begin(r->x, 200, "text/css; charset=utf-8");
    safe_headers(r->x);
    buf_add(http_reply_body(r->x), embed_api_style_css, embed_api_style_css_size);
    http_reply_end(r->x);
}
